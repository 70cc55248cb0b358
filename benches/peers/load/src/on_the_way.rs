//! Datagrams that were sent and not answered yet.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What has taken this long is taken for lost. A proxy that is fed more than it can take keeps answers back for as long
/// as its socket buffers last, some tens of milliseconds.
pub const LOST_AFTER: Duration = Duration::from_millis(250);

/// One message: a datagram, or a train of them under one number.
struct Message {
    number: u64,
    sent: Instant,
    /// Segments without an answer.
    missing: u64,
}

/// The messages of one flow, the oldest first.
#[derive(Default)]
pub struct OnTheWay {
    messages: VecDeque<Message>,
    datagrams: u64,
}

impl OnTheWay {
    /// A message leaves that was meant to leave at `sent`. Numbers ascend.
    pub fn add(&mut self, number: u64, sent: Instant, segments: u64) {
        self.messages.push_back(Message { number, sent, missing: segments });
        self.datagrams += segments;
    }

    /// An answer to one datagram of a message: when that left. `None` for one that was given up, or never sent.
    ///
    /// Logarithmic; taking out what was overtaken costs its distance from the nearer end.
    pub fn answered(&mut self, number: u64) -> Option<Instant> {
        let place = self.messages.partition_point(|message| message.number < number);
        let message = self.messages.get_mut(place).filter(|message| message.number == number)?;
        message.missing -= 1;
        self.datagrams -= 1;
        let sent = message.sent;
        if message.missing == 0 {
            self.messages.remove(place);
        }
        Some(sent)
    }

    /// Gives up what left before `before`; how many datagrams.
    pub fn give_up(&mut self, before: Instant) -> u64 {
        let mut lost = 0;
        while let Some(message) = self.messages.pop_front_if(|message| message.sent < before) {
            lost += message.missing;
        }
        self.datagrams -= lost;
        lost
    }

    /// Datagrams without an answer.
    pub fn datagrams(&self) -> u64 {
        self.datagrams
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_in_any_order_and_twice_count_once_a_segment() {
        let (now, mut way) = (Instant::now(), OnTheWay::default());
        way.add(7, now, 1);
        way.add(8, now + Duration::from_millis(1), 2);

        assert_eq!(way.answered(8), Some(now + Duration::from_millis(1)), "the first segment of two");
        assert_eq!(way.answered(7), Some(now), "overtaken");
        assert_eq!(way.answered(7), None, "a duplicate");
        assert_eq!(way.answered(6), None, "never sent");
        assert_eq!(way.datagrams(), 1, "one segment is missing");
        assert!(way.answered(8).is_some(), "the second segment");
        assert_eq!((way.datagrams(), way.answered(8)), (0, None), "and no third");
    }

    #[test]
    fn what_is_given_up_is_lost_even_when_it_comes_after_all() {
        let (now, mut way) = (Instant::now(), OnTheWay::default());
        way.add(1, now, 16);
        way.add(2, now + LOST_AFTER, 16);
        assert!(way.answered(1).is_some(), "one of the first train");

        assert_eq!(way.give_up(now + LOST_AFTER), 15, "the rest of it, and nothing of the second");
        assert_eq!((way.answered(1), way.datagrams()), (None, 16), "late");
    }
}
