//! Base64 (RFC 4648 section 4), as etcd's gateway and kubeconfig files write all bytes.

/// Writes bytes.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0, |word, &b| word << 8 | u32::from(b)) << (8 * (3 - chunk.len()));
        for n in 0..4 {
            let digit = (word >> (18 - 6 * n)) & 0x3f;
            out.push(if n <= chunk.len() { char::from(DIGITS[digit as usize]) } else { '=' });
        }
    }
    out
}

/// Reads bytes. None for what is not in the alphabet, not filled up to four digits, or written in another than the one
/// right way.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let digits = text.strip_suffix(b"==").or(text.strip_suffix(b"=")).unwrap_or(text);
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    for chunk in digits.chunks(4) {
        let mut word = 0;
        for &digit in chunk {
            word = word << 6 | value(digit)?;
        }
        // What the last digit holds beyond whole bytes is nought.
        let spare = 6 * chunk.len() % 8;
        if chunk.len() == 1 || word & ((1 << spare) - 1) != 0 {
            return None;
        }
        let whole = (word >> spare).to_be_bytes();
        out.extend(&whole[4 - 6 * chunk.len() / 8..]);
    }
    Some(out)
}

fn value(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#[cfg(test)]
mod tests {
    use super::*;

    /// *Source*: RFC 4648 section 10.
    #[test]
    fn the_standard_gives_these() {
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, coded) in cases {
            assert_eq!((&*encode(plain.as_bytes()), decode(coded)), (coded, Some(plain.into())));
        }
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else_is() {
        let mut rng = balance::Rng::new(64);
        for length in 0..200 {
            let bytes: Vec<u8> = (0..length).map(|_| rng.below(256) as u8).collect();
            assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }
        for bad in [
            "Z",
            "Zg",
            "Zg=",
            "Zg===",
            "=",
            "==",
            "====",
            "Zh==",
            "Zm9=",
            "Zm 9v",
            "Zg==Zg==",
            "Zm9-",
            "Zm9_",
            "Zm9\u{e9}",
            "Z===",
            "Zg=A",
        ] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
