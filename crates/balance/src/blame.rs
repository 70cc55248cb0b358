//! What a connection that broke says about its backend.

use std::time::Duration;

/// How far a session had come when its backend reset the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoFar {
    /// Bytes of the client that went to the backend.
    pub received_bytes: u64,
    /// Bytes of the backend.
    pub sent_bytes: u64,
    /// Whether a side had ended its direction.
    pub half_closed: bool,
    /// Since the connection was established.
    pub lasted: Duration,
}

impl SoFar {
    /// Whether the reset is a failure of the backend; `awaiting` is whether the client waits for an answer.
    ///
    /// One that never said a word fails if a client's bytes had got to it or may have been on their way. Not if it ends a
    /// session in which nobody spoke for long, nor for a second time after its FIN, which has been judged. One that took an
    /// upload without a word may end as it likes.
    pub(crate) fn reset_is_failure(self, awaiting: bool) -> bool {
        let is_silent = self.sent_bytes == 0;
        let only_listens = is_silent && self.received_bytes >= UPLOAD_BYTES;
        let was_asked = self.received_bytes > 0 || self.lasted < AT_ONCE;
        !only_listens && (awaiting || is_silent && was_asked && !self.half_closed)
    }
}

/// A reset that comes this soon after the connect is an answer to it.
const AT_ONCE: Duration = Duration::from_secs(1);
/// A backend that took this much without a word was sent an upload, not a question. Larger than most requests; about what
/// socket buffers take for a backend that does not read.
const UPLOAD_BYTES: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_a_failure_where_an_answer_was_due() {
        const MIB: u64 = 1024 * 1024;
        let (soon, late) = (999, 1_000);
        // (what it is about, awaiting, received, sent, half closed, lasted in ms, whether it is a failure)
        let cases = [
            ("asked, and never a word", false, 10, 0, false, late, true),
            ("the same in a turn", true, 10, 0, false, late, true),
            ("nobody spoke, at once", false, 0, 0, false, soon, true),
            ("nobody spoke for a second", false, 0, 0, false, late, false),
            ("nobody spoke for an hour", false, 0, 0, false, 3_600_000, false),
            ("answered, and asked again", true, 10, 500, false, late, true),
            ("answered all that was asked", false, 10, 500, false, late, false),
            ("the same at once", false, 10, 500, false, soon, false),
            ("a greeting at once, and no more", false, 0, 1, false, soon, false),
            ("after a FIN, which was judged", false, 10, 0, true, late, false),
            ("after a FIN at once", false, 0, 0, true, soon, false),
            ("after the FIN of a client that waits", true, 10, 0, true, late, true),
            ("a large request", true, MIB - 1, 0, false, late, true),
            ("the same, not in a turn", false, MIB - 1, 0, false, late, true),
            ("an upload", true, MIB, 0, false, late, false),
            ("an upload, not in a turn", false, MIB, 0, false, late, false),
            ("an upload in no time", true, MIB, 0, false, soon, false),
            ("an upload that was answered, and a question", true, MIB, 1, false, late, true),
        ];
        for (about, awaiting, received_bytes, sent_bytes, half_closed, lasted_ms, expected) in cases {
            let so_far = SoFar { received_bytes, sent_bytes, half_closed, lasted: Duration::from_millis(lasted_ms) };
            assert_eq!(so_far.reset_is_failure(awaiting), expected, "{about}");
        }
    }
}
