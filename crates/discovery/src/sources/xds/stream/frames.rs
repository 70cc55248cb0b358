//! Messages in a stream of bytes: a flag, a length of four bytes, the message. Pure.

use bytes::{BufMut, Bytes, BytesMut};

use crate::source::SourceError;

/// What has come and is not taken yet.
#[derive(Debug)]
pub(super) struct Frames {
    bytes: BytesMut,
    message_max_bytes: usize,
}

impl Frames {
    pub(super) fn new(message_max_bytes: usize) -> Self {
        Self { bytes: BytesMut::new(), message_max_bytes }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether a message has begun and not ended.
    pub(super) fn is_within(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// The next whole message.
    ///
    /// *Errors*: it is compressed or too long, as soon as its head says so. *Cost*: what has come stays in memory, at
    /// most a message and what came in one piece with its end.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        let Some((&[flag, a, b, c, d], rest)) = self.bytes.split_first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if flag != 0 {
            return Err(SourceError::new("a message is compressed, which nobody asked for"));
        }
        if length > self.message_max_bytes {
            return Err(SourceError::new(format!(
                "a message of {length} bytes, and {} may be",
                self.message_max_bytes
            )));
        }
        if rest.len() < length {
            return Ok(None);
        }
        let message = self.bytes.split_to(HEAD_BYTES + length).freeze();
        if self.bytes.is_empty() {
            // The next message shall not grow in what was made for a large one.
            self.bytes = BytesMut::new();
        }
        Ok(Some(message.slice(HEAD_BYTES..)))
    }
}

/// A message with its head.
pub(super) fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(HEAD_BYTES + message.len());
    framed.put_u8(0);
    // Ours have a few names in them.
    framed.put_u32(message.len() as u32);
    framed.put_slice(message);
    framed.freeze()
}

/// The words of a `grpc-message`, in which bytes that are no printable ASCII are `%` and two digits.
pub(super) fn unescaped(text: &str) -> String {
    let digit = |byte: Option<&u8>| byte.and_then(|&byte| char::from(byte).to_digit(16));
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, tail @ ..] = rest {
        match (first, digit(tail.first()), digit(tail.get(1))) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high << 4 | low) as u8);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

const HEAD_BYTES: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn all(frames: &mut Frames) -> Vec<Bytes> {
        std::iter::from_fn(|| frames.next().expect("good frames")).collect()
    }

    #[test]
    fn messages_are_the_same_however_their_bytes_come() {
        let messages: [&[u8]; 4] = [b"one", b"", b"three", &[7; 300]];
        let bytes: Vec<u8> = messages.iter().flat_map(|message| framed(message)).collect();
        for size in [1, 2, 5, 6, 7, 100, bytes.len()] {
            let mut frames = Frames::new(300);
            let mut read = Vec::new();
            for piece in bytes.chunks(size) {
                frames.push(piece);
                read.append(&mut all(&mut frames));
            }
            assert_eq!(read, messages, "in pieces of {size}");
            assert!(!frames.is_within());
        }
    }

    #[test]
    fn a_message_that_may_not_be_is_refused_by_its_head() {
        for (head, expected) in
            [(&b"\0\0\0\x01\x2d"[..], "301 bytes"), (b"\0\xff\xff\xff\xff", "bytes"), (b"\x01\0\0\0\0", "compressed")]
        {
            let mut frames = Frames::new(300);
            frames.push(head);
            let error = frames.next().expect_err("it may not be");
            assert!(error.text().contains(expected), "{error}");
        }
        let mut frames = Frames::new(300);
        frames.push(b"\0\0\0\0");
        assert_eq!(frames.next(), Ok(None));
        assert!(frames.is_within());
    }

    #[test]
    fn words_are_unescaped_as_far_as_they_are_escaped() {
        let cases =
            [("no such%0Anode %C3%A4", "no such\nnode ä"), ("100%", "100%"), ("%zz%4", "%zz%4"), ("%ff", "\u{fffd}")];
        for (text, expected) in cases {
            assert_eq!(unescaped(text), expected);
        }
    }
}
