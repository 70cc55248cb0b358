//! The smallest HTTP client that can read the admin interface.

use std::io::{self, Read, Write};

use super::conn::Conn;
use super::loopback;

/// Status and body of one request on a connection of its own.
pub fn request(address: &str, method: &str, path: &str) -> io::Result<(u16, String)> {
    // From an address of its own, so that a test which uses up the ports of 127.0.0.1 can still ask.
    let mut conn = match address.strip_prefix("127.") {
        Some(_) => Conn::try_open_from(loopback(), address)?,
        None => Conn::try_open(address)?,
    };
    let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    conn.write_all(head.as_bytes())?;
    let mut answer = String::new();
    conn.read_to_string(&mut answer)?;
    parse(&answer).ok_or_else(|| io::Error::other(format!("not an HTTP answer: {answer:?}")))
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Some((status, if chunked { unchunked(body)? } else { body.to_owned() }))
}

fn unchunked(mut body: &str) -> Option<String> {
    let mut whole = String::new();
    loop {
        let (length, rest) = body.split_once("\r\n")?;
        let length = usize::from_str_radix(length.split(';').next()?.trim(), 16).ok()?;
        if length == 0 {
            return Some(whole);
        }
        whole.push_str(rest.get(..length)?);
        body = rest.get(length + 2..)?;
    }
}
