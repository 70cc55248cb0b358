//! What a name may look like.

use super::limits::MAX_NAME_BYTES;

/// A name of a node, listener or service, as a regular expression for the schema; [`is_name`] is the same rule.
pub const NAME_PATTERN: &str = "^[A-Za-z0-9._-]{1,63}$";

/// A zone, as a regular expression for the schema; `balance::Zone` is the same rule.
pub const ZONE_PATTERN: &str = "^[A-Za-z0-9._-]{1,63}(/[A-Za-z0-9._-]{1,63})?$";

/// Whether a text can be a name: letters, digits, `-`, `_` and `.`, so that it is safe in metrics, logs, paths and
/// on a command line.
pub fn is_name(text: &str) -> bool {
    let safe = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(safe)
}

/// The known name that was probably meant by `given`, if one is near.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A long text is no slip of the pen, and the distance costs the product of the lengths.
    if given.len() > MAX_NAME_BYTES {
        return None;
    }
    let distance = |name: &str| strsim::damerau_levenshtein(given, name);
    let near = |name: &str| distance(name) <= (name.len().max(given.len()) / 4).max(1);
    known.into_iter().filter(|name| near(name)).min_by_key(|name| distance(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_safe_everywhere() {
        for good in ["a", "postgres", "edge-1.fra_x", &"x".repeat(63)] {
            assert!(is_name(good), "{good} is refused");
        }
        for bad in ["", "a b", "a/b", "ä", "a\n", "\"", &"x".repeat(64)] {
            assert!(!is_name(bad), "{bad:?} is taken");
        }
    }

    #[test]
    fn the_nearest_name_is_the_one_that_was_meant() {
        let known = ["name", "listen", "service", "idle_timeout", "half_close_timeout"];
        let cases = [("lisen", Some("listen")), ("idle_timout", Some("idle_timeout")), ("nmae", Some("name"))];
        for (given, meant) in cases.into_iter().chain([("xyzzy", None), ("", None), ("queue_timeout", None)]) {
            assert_eq!(nearest(given, known), meant, "{given}");
        }
    }
}
