//! The wire format of protocol buffers, as far as a client of xDS needs it.
//!
//! Reading borrows from the message and builds nothing. A message of a few bytes that stands for an object of hundreds,
//! a million times over, costs no memory here; whoever keeps something counts it.
//!
//! *Source*: the page "Encoding" of the documentation of protocol buffers.

use std::fmt;

/// The fields of a message, in the order in which they are there. Ends after the first mistake.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn field(&mut self) -> Result<(u32, Value<'a>), Malformed> {
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).ok().filter(|number| (1..=NUMBER_MAX).contains(number));
        let value = match key & 7 {
            VARINT => Value::Number(self.varint()?),
            FIXED_64 => self.take(8).map(|_| Value::Fixed)?,
            LENGTH => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            FIXED_32 => self.take(4).map(|_| Value::Fixed)?,
            // Groups, which nobody has written for two decades, and two values without a meaning.
            _ => return Err(Malformed),
        };
        Ok((number.ok_or(Malformed)?, value))
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or(Malformed)?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if bits << shift >> shift != bits {
                return Err(Malformed);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// The value of a field. What it means, the field's number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// A number, a boolean or an enumeration.
    Number(u64),
    /// A text, bytes, or a message.
    Bytes(&'a [u8]),
    /// A fraction, or a number of fixed size. None of those that we read is one.
    Fixed,
}

impl<'a> Value<'a> {
    pub(super) fn number(self) -> Result<u64, Malformed> {
        if let Self::Number(number) = self { Ok(number) } else { Err(Malformed) }
    }

    /// A number of 32 bits, which is cut to them if it is longer, as everywhere.
    pub(super) fn uint32(self) -> Result<u32, Malformed> {
        self.number().map(|number| number as u32)
    }

    pub(super) fn bytes(self) -> Result<&'a [u8], Malformed> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(Malformed) }
    }

    pub(super) fn text(self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }
}

/// It is no message of the kind that it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot be decoded")
    }
}

impl std::error::Error for Malformed {}

/// A message that is being written. Empty texts and zeros are left out, as their absence means the same.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn number(&mut self, field: u32, number: u64) -> &mut Self {
        if number != 0 {
            self.varint(u64::from(field) << 3 | VARINT);
            self.varint(number);
        }
        self
    }

    pub(super) fn text(&mut self, field: u32, text: &str) -> &mut Self {
        if text.is_empty() { self } else { self.item(field, text.as_bytes()) }
    }

    /// One of repeated texts, which is written even when it is empty.
    pub(super) fn texts(&mut self, field: u32, texts: &[String]) -> &mut Self {
        texts.iter().fold(self, |writer, text| writer.item(field, text.as_bytes()))
    }

    pub(super) fn message(&mut self, field: u32, message: &Self) -> &mut Self {
        self.item(field, &message.bytes)
    }

    fn item(&mut self, field: u32, bytes: &[u8]) -> &mut Self {
        self.varint(u64::from(field) << 3 | LENGTH);
        self.varint(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED_32: u64 = 5;
const NUMBER_MAX: u32 = (1 << 29) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Vec<Result<(u32, Value<'_>), Malformed>> {
        Fields::of(bytes).collect()
    }

    #[test]
    fn fields_are_read_as_the_encoding_has_them() {
        // The examples of the page "Encoding".
        assert_eq!(read(&[0x08, 0x96, 0x01]), [Ok((1, Value::Number(150)))]);
        assert_eq!(read(b"\x12\x07testing"), [Ok((2, Value::Bytes(b"testing")))]);
        assert_eq!(read(b"\x1a\x03\x08\x96\x01"), [Ok((3, Value::Bytes(b"\x08\x96\x01")))]);
        let minus_one = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(read(&minus_one), [Ok((1, Value::Number(u64::MAX)))]);
        let fixed = [&[0x09][..], &[7; 8], &[0x15], &[7; 4], &[0x98, 0x02, 0x01]].concat();
        assert_eq!(read(&fixed), [Ok((1, Value::Fixed)), Ok((2, Value::Fixed)), Ok((35, Value::Number(1)))]);
        assert_eq!(read(&[]), []);
        assert_eq!(Value::Number(1 << 32 | 5).uint32(), Ok(5));
        assert_eq!(Value::Bytes(b"\xff").text(), Err(Malformed));
        assert_eq!((Value::Bytes(b"").number(), Value::Number(1).bytes()), (Err(Malformed), Err(Malformed)));
    }

    #[test]
    fn what_is_no_message_ends_with_a_mistake() {
        let cases: &[&[u8]] = &[
            b"\x08",
            b"\x08\x80",
            b"\x12\x02a",
            b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            // Eleven bytes, and more than 64 bits.
            b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
            // Field 0, a field beyond the last, groups, and wire types that are none.
            b"\x00\x01",
            b"\x80\x80\x80\x80\x10\x01",
            b"\x0b\x0c",
            b"\x0e",
            b"\x0f",
            b"\x09\0\0\0\0\0\0\0",
            b"\x0d\0\0\0",
        ];
        for bytes in cases {
            assert_eq!(read(bytes), [Err(Malformed)], "{bytes:?}");
        }
        assert_eq!(read(b"\x08\x01\x08"), [Ok((1, Value::Number(1))), Err(Malformed)]);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let (mut inner, mut writer) = (Writer::default(), Writer::default());
        inner.number(1, 300).number(2, 0);
        writer.text(1, "a").text(2, "").texts(3, &["".into(), "b".into()]).message(33, &inner);
        let expected = [
            Ok((1, Value::Bytes(b"a"))),
            Ok((3, Value::Bytes(b""))),
            Ok((3, Value::Bytes(b"b"))),
            Ok((33, Value::Bytes(b"\x08\xac\x02"))),
        ];
        assert_eq!(read(&writer.finish()), expected);
    }

    #[test]
    fn any_bytes_are_read_to_an_end() {
        let mut rng = balance::Rng::new(7);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..rng.below(40)).map(|_| rng.below(256) as u8).collect();
            assert!(Fields::of(&bytes).count() <= bytes.len(), "a field takes at least a byte");
        }
    }
}
