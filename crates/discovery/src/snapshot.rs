//! What a snapshot on disk holds, as text. Pure.
//!
//! ```text
//! dislocate endpoints 1 9ae0daaf 74
//! web    dns    1c291ca3    10.0.0.1:80    1    fra/a    0    ready
//! ```
//!
//! The first line has the version, and the checksum and length of all that follows. The fields of the others are separated
//! by tabs: service, source, checksum of the source's identity, address, weight, zone, priority, the registry's word.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write;
use std::sync::Arc;

use balance::{Endpoint, Facts, Reported, Zone};

/// The endpoints that sources reported, by service and source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Remembered {
    services: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Kept>>,
}

/// What one source reported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Kept {
    print: u32,
    endpoints: Vec<Endpoint>,
}

/// Why a snapshot cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// It is none, or of a version that this program does not know.
    Version,
    /// It was cut off or changed.
    Checksum,
    /// The checksum is right and a line is not: a bug of whoever wrote it.
    Line(usize),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version => f.write_str("it is of another version"),
            Self::Checksum => f.write_str("it was cut off or changed"),
            Self::Line(line) => write!(f, "line {line} makes no sense"),
        }
    }
}

impl Remembered {
    /// What `source` reported for `service`, and the fingerprint of what it was then.
    pub(crate) fn get(&self, service: &str, source: &str) -> Option<(u32, &[Endpoint])> {
        let kept = self.services.get(service)?.get(source)?;
        Some((kept.print, &kept.endpoints))
    }

    pub(crate) fn add(&mut self, service: &Arc<str>, source: &Arc<str>, print: u32, endpoint: Endpoint) {
        let sources = self.services.entry(Arc::clone(service)).or_default();
        let kept = sources.entry(Arc::clone(source)).or_default();
        kept.print = print;
        kept.endpoints.push(endpoint);
    }

    /// How many endpoints it has.
    pub(crate) fn len(&self) -> usize {
        self.services.values().flat_map(BTreeMap::values).map(|kept| kept.endpoints.len()).sum()
    }

    pub(crate) fn encode(&self) -> String {
        let mut body = String::new();
        for (service, sources) in &self.services {
            for (source, kept) in sources {
                kept.endpoints.iter().for_each(|it| write_line(&mut body, service, source, kept.print, it));
            }
        }
        format!("{MAGIC} {:08x} {}\n{body}", crc32(body.as_bytes()), body.len())
    }

    pub(crate) fn decode(text: &str) -> Result<Self, Unreadable> {
        let (head, body) = text.split_once('\n').ok_or(Unreadable::Version)?;
        let head = head.strip_prefix(MAGIC).ok_or(Unreadable::Version)?;
        let stated = head.strip_prefix(' ').and_then(|it| it.split_once(' ')).ok_or(Unreadable::Version)?;
        if stated != (&*format!("{:08x}", crc32(body.as_bytes())), &*body.len().to_string()) {
            return Err(Unreadable::Checksum);
        }
        let mut remembered = Self::default();
        for (at, line) in body.lines().enumerate() {
            remembered.read_line(line).ok_or(Unreadable::Line(at + 2))?;
        }
        Ok(remembered)
    }

    fn read_line(&mut self, line: &str) -> Option<()> {
        let fields: Vec<&str> = line.split('\t').collect();
        let [service, source, print, address, weight, zone, priority, reported] = fields[..] else { return None };
        let endpoint = Endpoint {
            address: address.parse().ok()?,
            weight: weight.parse().ok()?,
            zone: Zone::new(zone)?,
            priority: priority.parse().ok()?,
            facts: Facts { reported: word_to_reported(reported)?, ..Facts::default() },
            server_id: None,
        };
        self.add(&service.into(), &source.into(), u32::from_str_radix(print, 16).ok()?, endpoint);
        Some(())
    }
}

fn write_line(body: &mut String, service: &str, source: &str, print: u32, endpoint: &Endpoint) {
    let address = endpoint.address.to_string();
    // Names are checked where they are configured, but a path may be anything.
    if [service, source, &address].iter().any(|text| text.contains(char::is_control)) {
        return;
    }
    let Endpoint { weight, zone, priority, facts, .. } = endpoint;
    let reported = reported_to_word(facts.reported);
    // Writing to a string cannot fail.
    let _infallible =
        writeln!(body, "{service}\t{source}\t{print:08x}\t{address}\t{weight}\t{zone}\t{priority}\t{reported}");
}

fn reported_to_word(reported: Reported) -> &'static str {
    match reported {
        Reported::Ready => "ready",
        Reported::NotReady => "not_ready",
    }
}

fn word_to_reported(word: &str) -> Option<Reported> {
    [Reported::Ready, Reported::NotReady].into_iter().find(|it| reported_to_word(*it) == word)
}

/// A short form of a source's identity, by which a snapshot tells whether a name still means the same registry.
pub(crate) fn fingerprint(identity: &str) -> u32 {
    crc32(identity.as_bytes())
}

/// CRC-32 as in Ethernet and gzip (RFC 1952 section 8), by a table of 256 entries.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| CRC_TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let (mut crc, mut bit) = (n as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { 0xedb8_8320 ^ (crc >> 1) } else { crc >> 1 };
            bit += 1;
        }
        table[n] = crc;
        n += 1;
    }
    table
};

const MAGIC: &str = "dislocate endpoints 1";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn endpoint(address: &str, weight: u32, reported: Reported) -> Endpoint {
        Endpoint {
            address: address.parse().unwrap(),
            weight,
            zone: Zone::new("fra/a").unwrap(),
            priority: 2,
            facts: Facts { reported, ..Facts::default() },
            server_id: None,
        }
    }

    fn sample() -> Remembered {
        let mut remembered = Remembered::default();
        remembered.add(&"web".into(), &"dns".into(), fingerprint("a"), endpoint("10.0.0.1:80", 1, Reported::Ready));
        remembered.add(&"web".into(), &"dns".into(), fingerprint("a"), endpoint("[::1]:80", 0, Reported::NotReady));
        remembered.add(&"web".into(), &"file".into(), 7, endpoint("unix:/run/ä b.sock", 9, Reported::Ready));
        remembered.add(&"db".into(), &"dns".into(), fingerprint("b"), endpoint("10.0.0.1:80", 1, Reported::Ready));
        remembered
    }

    #[test]
    fn the_checksum_is_the_well_known_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn what_was_written_is_read_again() {
        for remembered in [Remembered::default(), sample()] {
            assert_eq!(Remembered::decode(&remembered.encode()), Ok(remembered));
        }
        let (print, endpoints) = (fingerprint("a"), 2);
        assert_eq!(sample().get("web", "dns").map(|(print, it)| (print, it.len())), Some((print, endpoints)));
        assert_eq!((sample().get("web", "consul"), sample().len()), (None, 4));
    }

    #[test]
    fn a_path_that_would_break_the_lines_is_left_out() {
        let mut remembered = sample();
        remembered.add(&"web".into(), &"file".into(), 7, endpoint("unix:/run/a\tb\nc", 9, Reported::Ready));
        assert_eq!(Remembered::decode(&remembered.encode()), Ok(sample()));
    }

    #[test]
    fn what_is_not_a_whole_snapshot_is_told() {
        let text = sample().encode();
        for end in (0..text.len()).filter(|&end| text.is_char_boundary(end)) {
            assert!(Remembered::decode(&text[..end]).is_err(), "cut off at {end}");
        }
        assert_eq!(Remembered::decode(&text.replace(" 1 ", " 2 ")), Err(Unreadable::Version));
        assert_eq!(Remembered::decode(&text.replace("ready", "READY")), Err(Unreadable::Checksum));
        let body = "web\tdns\n";
        let line = format!("{MAGIC} {:08x} {}\n{body}", crc32(body.as_bytes()), body.len());
        assert_eq!(Remembered::decode(&line), Err(Unreadable::Line(2)));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), body in "([a-z0-9.:/\t]{0,60}\n){0,4}") {
            prop_assert!(Remembered::decode(&text).is_err());
            // A right checksum leads into the lines.
            let framed = format!("{MAGIC} {:08x} {}\n{body}", crc32(body.as_bytes()), body.len());
            prop_assert!(Remembered::decode(&framed) != Err(Unreadable::Checksum));
        }
    }
}
