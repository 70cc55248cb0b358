//! Bytes, as texts and in hexadecimal.

use super::super::limits::MAX_OCTETS;
use super::super::problem::{Code, Problem, Problems, quoted};
use super::super::raw::{At, Field, Octets, Span};

/// The bytes of a key, or nothing when it is left out or was reported.
pub fn octets(key: &str, field: Field<Octets>, problems: &mut Problems) -> Option<Vec<u8>> {
    let At { span, value } = field.0?;
    let bytes = problems.keep(bytes(key, &span, value))??;
    if bytes.len() > MAX_OCTETS {
        let message = format!("`{key}` has {} bytes", bytes.len());
        problems.push(Problem::new(Code::OutOfRange, span, message).help(format!("at most {MAX_OCTETS} are taken")));
        return None;
    }
    Some(bytes)
}

fn bytes(key: &str, span: &Span, value: Octets) -> Result<Option<Vec<u8>>, Problem> {
    let invalid = |span: Span, message: String| {
        let help = "write a text, or { hex = \"…\" } with two digits for each byte";
        Problem::new(Code::InvalidValue, span, message).help(help)
    };
    match value {
        Octets::Texts(mut texts) if texts.0.len() == 1 => Ok(Some(texts.0.remove(0).value.into_bytes())),
        Octets::Texts(_) => Err(invalid(span.clone(), format!("`{key}` is a list, and must be one text"))),
        Octets::Hex(Some(at)) => {
            let message = || format!("{} is not bytes in hexadecimal", quoted(&at.value));
            hex(&at.value).map(Some).ok_or_else(|| invalid(at.span.clone(), message()))
        }
        // Reported.
        Octets::Hex(None) => Ok(None),
    }
}

/// Bytes of two hexadecimal digits each, nothing between.
pub fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match *pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_two_digits_each() {
        let cases: [(&str, Option<&[u8]>); 8] = [
            ("", Some(&[])),
            ("00", Some(&[0])),
            ("0aF1", Some(&[0x0a, 0xf1])),
            ("0", None),
            ("0a f1", None),
            ("0x0a", None),
            ("+1", None),
            ("é", None),
        ];
        for (text, bytes) in cases {
            assert_eq!(hex(text).as_deref(), bytes, "{text:?}");
        }
    }
}
