//! Texts in URLs.

use std::fmt;

/// Writes a text for a place in a URL (RFC 3986 section 2.1).
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for b in self.0.bytes() {
            match b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
                true => write!(f, "{}", char::from(b))?,
                false => write!(f, "%{b:02X}")?,
            }
        }
        Ok(())
    }
}
