//! Messages of the DNS: the few kinds that a stub resolver writes and reads.
//!
//! Our own, because little is needed and much is at stake: a message is whatever somebody sends. Nothing is allocated
//! by a count that the message claims, a record of a kind that was not asked for is stepped over and not parsed, and
//! names that point to themselves end.
//!
//! *Source*: RFC 1035 section 4, RFC 2782 (SRV), RFC 3596 (AAAA), RFC 6891 (EDNS).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A domain name.
///
/// *Shape*: as on the wire, uncompressed, with letters in lower case, since names are compared without case
/// (RFC 4343). At most 255 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Name(Box<[u8]>);

impl Name {
    /// Reads `a.example.com`, with or without a dot at the end.
    ///
    /// *Errors*: none is returned for what no host or service is called: empty labels, labels above 63 bytes, names
    /// above 255, and bytes other than letters, digits, `-` and `_`.
    pub(super) fn new(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let mut wire = Vec::with_capacity(text.len() + 2);
        for label in text.split('.') {
            let usual = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            let length = u8::try_from(label.len()).ok().filter(|length| (1..=LABEL_MAX).contains(length));
            wire.push(length.filter(|_| usual)?);
            wire.extend(label.bytes().map(|b| b.to_ascii_lowercase()));
        }
        wire.push(0);
        (wire.len() <= NAME_MAX).then(|| Self(wire.into()))
    }

    /// The root, which as the target of an SRV record says that there is no such service.
    pub(super) fn is_root(&self) -> bool {
        self.0.len() == 1
    }
}

/// Bytes that would be ambiguous or not printable are written as `\DDD` (RFC 1035 section 5.1).
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = &self.0[..];
        if self.is_root() {
            return f.write_str(".");
        }
        let mut dot = "";
        while let [length, after @ ..] = rest
            && *length > 0
        {
            let (label, next) = after.split_at(usize::from(*length).min(after.len()));
            f.write_str(dot)?;
            for &b in label {
                match b.is_ascii_alphanumeric() || b == b'-' || b == b'_' {
                    true => write!(f, "{}", char::from(b))?,
                    false => write!(f, "\\{b:03}")?,
                }
            }
            (dot, rest) = (".", next);
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    A,
    Aaaa,
    Srv,
}

impl Kind {
    fn code(self) -> u16 {
        match self {
            Self::A => A,
            Self::Aaaa => AAAA,
            Self::Srv => SRV,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Srv => "SRV",
        })
    }
}

/// A question and the number that its answer repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) id: u16,
    pub(super) name: Name,
    pub(super) kind: Kind,
}

impl Query {
    /// The message. With `edns`, answers of up to [`UDP_MAX`] bytes are welcome.
    pub(super) fn message(&self, edns: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + self.name.0.len() + 4 + 11);
        // One question, and recursion is desired.
        for word in [self.id, RECURSION_DESIRED, 1, 0, 0, u16::from(edns)] {
            out.extend(word.to_be_bytes());
        }
        out.extend(&self.name.0);
        out.extend(self.kind.code().to_be_bytes());
        out.extend(IN.to_be_bytes());
        if edns {
            // The root; type; size; no extended code, version 0, no flags; no options.
            out.push(0);
            out.extend(OPT.to_be_bytes());
            out.extend(UDP_MAX.to_be_bytes());
            out.extend([0; 6]);
        }
        out
    }

    /// Reads the answer to this question. None for what is no answer to it: those are passed over, since anybody may
    /// have sent them.
    pub(super) fn answer(&self, message: &[u8]) -> Option<Answer> {
        let mut reader = Reader { message, at: 0 };
        let (id, flags) = (reader.u16()?, reader.u16()?);
        let counts = [reader.u16()?, reader.u16()?, reader.u16()?];
        let _additional = reader.u16()?;
        if id != self.id || flags & (RESPONSE | OPCODE) != RESPONSE {
            return None;
        }
        let code = (flags & 0xf) as u8;
        // Servers that cannot even read a question do not repeat it. That they failed is all that this can say.
        let unread = counts[0] == 0 && !matches!(code, NO_ERROR | NO_NAME);
        if !unread {
            let (name, kind, class) = (reader.name()?, reader.u16()?, reader.u16()?);
            if counts[0] != 1 || name != self.name || kind != self.kind.code() || class != IN {
                return None;
            }
        }
        let truncated = flags & TRUNCATED != 0;
        let body = if truncated { Some(Body::default()) } else { reader.body(counts[1], counts[2]) };
        Some(Answer { code, truncated, body })
    }
}

/// An answer to our question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The response code.
    pub(super) code: u8,
    /// Whether it was cut. Nothing in it counts then.
    pub(super) truncated: bool,
    /// What is in it. None when it ends early or cannot be read.
    pub(super) body: Option<Body>,
}

/// What is in an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Body {
    /// The records of the answer section, of the kinds that matter.
    pub(super) records: Vec<Record>,
    /// For how long a "no" holds, where that is said (RFC 2308 section 5). *Units*: seconds.
    pub(super) negative: Option<u32>,
    /// Whether other servers are named to ask instead.
    pub(super) referral: bool,
}

/// A record of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) name: Name,
    /// *Units*: seconds.
    pub(super) ttl: u32,
    pub(super) value: Value,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Address(IpAddr),
    Alias(Name),
    Service(Service),
}

/// A place where a service is (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) port: u16,
    pub(super) target: Name,
}

/// A place in a message. Each step returns none where the message ends early or is not well-formed.
struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let bytes = self.message.get(self.at..)?.get(..length)?;
        self.at += length;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// Reads a name, and stands behind it. A pointer must point before the place that it was reached from, so that
    /// every name ends.
    fn name(&mut self) -> Option<Name> {
        let mut wire = Vec::new();
        let mut from = Reader { message: self.message, at: self.at };
        let mut limit = self.at;
        let mut behind = None;
        loop {
            let [length] = from.array()?;
            match length {
                0 => break,
                1..=LABEL_MAX => {
                    wire.push(length);
                    wire.extend(from.bytes(usize::from(length))?.iter().map(u8::to_ascii_lowercase));
                    if wire.len() >= NAME_MAX {
                        return None;
                    }
                }
                POINTER.. => {
                    let [low] = from.array()?;
                    behind = behind.or(Some(from.at));
                    let to = usize::from(u16::from_be_bytes([length & !POINTER, low]));
                    if to >= limit {
                        return None;
                    }
                    (limit, from.at) = (to, to);
                }
                _ => return None,
            }
        }
        wire.push(0);
        self.at = behind.unwrap_or(from.at);
        Some(Name(wire.into()))
    }

    /// The answer section, and what the next says of a "no".
    fn body(&mut self, answers: u16, authorities: u16) -> Option<Body> {
        let mut body = Body::default();
        for _ in 0..answers {
            if let Some(record) = self.record()?.useful()? {
                body.records.push(record);
            }
        }
        for _ in 0..authorities {
            let raw = self.record()?;
            match (raw.kind, raw.class) {
                (SOA, IN) => body.negative = body.negative.or(Some(raw.negative()?)),
                (NS, IN) => body.referral = true,
                _ => {}
            }
        }
        // The authority of a zone says "no" with its SOA record.
        body.referral &= body.records.is_empty() && body.negative.is_none();
        Some(body)
    }

    /// One record, its data unread.
    fn record(&mut self) -> Option<Raw<'a>> {
        let name = self.name()?;
        let (kind, class, ttl, length) = (self.u16()?, self.u16()?, self.u32()?, self.u16()?);
        // A time with the first bit set is none at all (RFC 2181 section 8).
        let ttl = if ttl > i32::MAX as u32 { 0 } else { ttl };
        let from = self.at;
        let _data = self.bytes(usize::from(length))?;
        Some(Raw { name, kind, class, ttl, data: Reader { message: &self.message[..self.at], at: from } })
    }
}

/// A record whose data are still to be read, up to the end of `data`.
struct Raw<'a> {
    name: Name,
    kind: u16,
    class: u16,
    ttl: u32,
    data: Reader<'a>,
}

impl Raw<'_> {
    /// The record, if it is of a kind that matters. The outer none is for data that are not what the kind asks for.
    fn useful(mut self) -> Option<Option<Record>> {
        let data = &mut self.data;
        let value = match (self.kind, self.class) {
            (A, IN) => Value::Address(Ipv4Addr::from(data.array::<4>()?).into()),
            (AAAA, IN) => Value::Address(Ipv6Addr::from(data.array::<16>()?).into()),
            (CNAME, IN) => Value::Alias(data.name()?),
            (SRV, IN) => {
                let (priority, weight, port) = (data.u16()?, data.u16()?, data.u16()?);
                Value::Service(Service { priority, weight, port, target: data.name()? })
            }
            _ => return Some(None),
        };
        let whole = data.at == data.message.len();
        whole.then_some(Some(Record { name: self.name, ttl: self.ttl, value }))
    }

    /// For how long a "no" with this SOA record holds.
    fn negative(mut self) -> Option<u32> {
        let (_primary, _mailbox) = (self.data.name()?, self.data.name()?);
        let _serial_and_times = self.data.bytes(16)?;
        Some(self.data.u32()?.min(self.ttl))
    }
}

/// No error.
pub(super) const NO_ERROR: u8 = 0;
/// The server could not read the question; old ones say so of EDNS.
pub(super) const FORMAT_ERROR: u8 = 1;
/// The server failed.
pub(super) const SERVER_FAILURE: u8 = 2;
/// There is no such name.
pub(super) const NO_NAME: u8 = 3;
/// The server does not know this kind of question; old ones say so of EDNS.
pub(super) const NOT_IMPLEMENTED: u8 = 4;
/// The server does not answer us.
pub(super) const REFUSED: u8 = 5;

/// The size of answers over UDP that we ask for: it passes every path unfragmented (DNS flag day 2020).
pub(super) const UDP_MAX: u16 = 1232;

const HEADER: usize = 12;
const RESPONSE: u16 = 1 << 15;
const OPCODE: u16 = 0xf << 11;
const TRUNCATED: u16 = 1 << 9;
const RECURSION_DESIRED: u16 = 1 << 8;
const LABEL_MAX: u8 = 63;
const NAME_MAX: usize = 255;
const POINTER: u8 = 0xc0;
const IN: u16 = 1;
const A: u16 = 1;
const NS: u16 = 2;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const OPT: u16 = 41;

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
