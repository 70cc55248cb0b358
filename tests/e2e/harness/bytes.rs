//! Bytes that can be told apart by their position, and the proof that they arrived.

use std::fmt::Write as _;
use std::io::{self, Read};
use std::sync::OnceLock;

use sha2::{Digest as _, Sha256};

/// Length of the block that repeats: a prime, so that no buffer or pipe size ever lines up with it.
const PERIOD: usize = 1_048_573;

/// What one write or read of a test moves at most.
pub const CHUNK: usize = 256 * 1024;

/// What arrived: how much, and the SHA-256 of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    pub length: u64,
    pub sha256: String,
}

impl Digest {
    /// Of the first `length` bytes of the pattern.
    pub fn of_pattern(length: u64) -> Digest {
        let mut hash = Sha256::new();
        for_each_chunk(length, |chunk| {
            hash.update(chunk);
            Ok(())
        })
        .unwrap();
        Digest { length, sha256: hex(hash) }
    }

    /// Of everything that `from` still gives, with the error that ended it if it was not an end of file.
    pub fn of_rest(mut from: impl Read) -> (Digest, Option<io::Error>) {
        let mut hash = Sha256::new();
        let mut length = 0;
        let mut buffer = vec![0; CHUNK];
        let error = loop {
            match from.read(&mut buffer) {
                Ok(0) => break None,
                Ok(read) => {
                    hash.update(&buffer[..read]);
                    length += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Some(error),
            }
        };
        (Digest { length, sha256: hex(hash) }, error)
    }

    /// Of the next `length` bytes of `from`, or of fewer where it ends or fails sooner.
    pub fn of_next(from: impl Read, length: u64) -> Digest {
        Digest::of_rest(from.take(length)).0
    }

    /// As the hash-sink backend writes it: one line.
    pub fn line(&self) -> String {
        format!("{} {}\n", self.length, self.sha256)
    }
}

/// The first `length` bytes of the pattern.
pub fn pattern(length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    let keep = |chunk: &[u8]| {
        bytes.extend_from_slice(chunk);
        Ok(())
    };
    for_each_chunk(length as u64, keep).expect("memory takes everything");
    bytes
}

/// Gives `sink` the first `length` bytes of the pattern, piece by piece.
pub fn for_each_chunk(length: u64, mut sink: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let block = block();
    let mut position = 0;
    while position < length {
        let start = (position % PERIOD as u64) as usize;
        let end = PERIOD.min(start + CHUNK).min(start.saturating_add((length - position) as usize));
        sink(&block[start..end])?;
        position += (end - start) as u64;
    }
    Ok(())
}

/// The block that repeats: xorshift from a fixed seed, so that every process has the same.
fn block() -> &'static [u8] {
    static BLOCK: OnceLock<Vec<u8>> = OnceLock::new();
    BLOCK.get_or_init(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        (0..PERIOD)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect()
    })
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
