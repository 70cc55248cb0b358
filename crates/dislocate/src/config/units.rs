//! Texts with units, as the configuration writes them.

use std::time::Duration;

/// What a duration looks like, as a regular expression for the schema.
pub const DURATION_PATTERN: &str = "^[0-9]{1,18}(ms|s|m|h|d)$";

/// What a rate looks like: `10000/s`.
pub const RATE_PATTERN: &str = "^[0-9]{1,18}/s$";

/// What a rate of bytes looks like: `4MiB/s`.
pub const BYTE_RATE_PATTERN: &str = "^[0-9]{1,18}(B|KiB|MiB|GiB)/s$";

/// Bytes of each unit, the largest first.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Milliseconds of each unit, the longest unit first, so that printing finds the shortest text.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads `250ms`, `3s`, `5m`, `1h` or `7d`: one whole number, one unit, nothing between. A text that is none of these
/// is `None`; a number beyond all bounds is the longest duration.
pub fn duration(text: &str) -> Option<Duration> {
    quantity(text, &UNITS).map(Duration::from_millis)
}

/// Reads how many a second: `10000/s`.
pub fn rate(text: &str) -> Option<u64> {
    quantity(text.strip_suffix("/s")?, &[("", 1)])
}

/// Reads how many bytes a second: `512B/s`, `64KiB/s`, `4MiB/s` or `1GiB/s`.
pub fn byte_rate(text: &str) -> Option<u64> {
    quantity(text.strip_suffix("/s")?, &SIZES)
}

/// Prints the shortest text that [`byte_rate`] reads as this.
pub fn byte_rate_text(bytes: u64) -> String {
    let fits = |(_, unit): &(&str, u64)| bytes > 0 && bytes.is_multiple_of(*unit);
    let (name, unit) = SIZES.into_iter().find(fits).unwrap_or(("B", 1));
    format!("{}{name}/s", bytes / unit)
}

/// One whole number and one unit, nothing between, in the smallest unit; beyond all bounds, the most there is.
fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits).filter(|_| (1..=MAX_DIGITS).contains(&digits))?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    Some(number.parse::<u64>().ok()?.saturating_mul(*factor))
}

/// Prints the shortest text that [`duration`] reads as this; parts of a millisecond are lost.
pub fn text(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".into();
    }
    let fits = |(_, unit): &(&str, u64)| millis.is_multiple_of(*unit);
    let (name, unit) = UNITS.into_iter().find(fits).unwrap_or(("ms", 1));
    format!("{}{name}", millis / unit)
}

/// More digits than any duration needs, and few enough that they fit 64 bits.
const MAX_DIGITS: usize = 18;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_one_number_and_one_unit() {
        let cases = [("250ms", 250), ("3s", 3_000), ("5m", 300_000), ("1h", 3_600_000), ("7d", 604_800_000), ("0s", 0)];
        for (text, millis) in cases {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "3", "s", "3 s", " 3s", "3sec", "1h30m", "1.5s", "-1s", "+1s", "3S", "٣s", "5 parsecs"] {
            assert_eq!(duration(text), None, "{text:?} is taken for a duration");
        }
    }

    #[test]
    fn a_number_beyond_all_bounds_is_the_longest_duration() {
        assert_eq!(duration("999999999999999999d"), Some(Duration::from_millis(u64::MAX)));
        assert_eq!(duration(&format!("{}s", "9".repeat(19))), None);
    }

    #[test]
    fn a_rate_is_so_many_a_second() {
        assert_eq!([rate("0/s"), rate("10000/s")], [Some(0), Some(10_000)]);
        let cases = [("0B/s", 0), ("512B/s", 512), ("64KiB/s", 65_536), ("4MiB/s", 4 << 20), ("1GiB/s", 1 << 30)];
        for (text, bytes) in cases {
            assert_eq!(byte_rate(text), Some(bytes), "{text}");
            assert_eq!(byte_rate_text(bytes), text);
        }
        for text in ["", "5", "/s", "5/m", "5 /s", "-1/s", "5B/s", "1.5/s"] {
            assert_eq!(rate(text), None, "{text:?} is taken for a rate");
        }
        for text in ["", "5", "5/s", "5B", "5MB/s", "5mib/s", "B/s", "1.5MiB/s"] {
            assert_eq!(byte_rate(text), None, "{text:?} is taken for a rate of bytes");
        }
        assert_eq!(byte_rate("999999999999999999GiB/s"), Some(u64::MAX));
    }

    #[test]
    fn a_duration_prints_as_it_is_best_written() {
        for text in ["250ms", "3s", "90s", "5m", "1h", "7d", "0s", "1001ms"] {
            assert_eq!(super::text(duration(text).unwrap()), text);
        }
        assert_eq!(super::text(Duration::from_secs(3600)), "1h");
    }
}
