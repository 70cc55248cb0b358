//! The lines of a watch, out of the pieces in which they arrive.

use crate::source::SourceError;

/// Cuts a stream into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    waiting: Vec<u8>,
    /// Up to here there is no end of a line.
    looked: usize,
}

impl Lines {
    /// Takes more of the stream.
    ///
    /// *Errors*: a line is longer than `max`.
    pub(super) fn push(&mut self, piece: &[u8], max: usize) -> Result<(), SourceError> {
        if self.waiting.len() + piece.len() > max {
            return Err(SourceError::new(format!("a line of more than {max} bytes")));
        }
        self.waiting.extend_from_slice(piece);
        Ok(())
    }

    /// The next line, without its end, if it is whole.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        let Some(end) = self.waiting[self.looked..].iter().position(|&b| b == b'\n') else {
            self.looked = self.waiting.len();
            return None;
        };
        let rest = self.waiting.split_off(self.looked + end + 1);
        let mut line = std::mem::replace(&mut self.waiting, rest);
        self.looked = 0;
        line.pop();
        Some(line)
    }

    /// Whether nothing of a line is left that has not ended.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_however_the_stream_is_cut() {
        let text = b"{\"a\": 1}\n\n{\"b\": 2}\nrest";
        for size in 1..=text.len() {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for piece in text.chunks(size) {
                lines.push(piece, 100).unwrap();
                found.extend(std::iter::from_fn(|| lines.next()));
            }
            assert_eq!(found, [&b"{\"a\": 1}"[..], b"", b"{\"b\": 2}"], "in pieces of {size}");
        }
    }

    #[test]
    fn a_line_without_end_is_an_error() {
        let mut lines = Lines::default();
        let pushed = (0..).take_while(|_| {
            let pushed = lines.push(&[b'x'; 10], 100).is_ok();
            assert_eq!(lines.next(), None);
            pushed
        });
        assert_eq!(pushed.count(), 10);
    }
}
