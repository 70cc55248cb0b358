//! What goes over a connection: requests and answers of one fixed size, one answer for each request.

use std::time::Duration;

/// Bytes of a request and of an answer.
pub const FRAME_BYTES: usize = 64;

/// A request or an answer.
pub type Frame = [u8; FRAME_BYTES];

/// A request for `work`: the time a worker of a backend of speed 1 spends on it.
pub fn request(work: Duration) -> Frame {
    let mut frame = [0; FRAME_BYTES];
    let nanos = u64::try_from(work.as_nanos()).unwrap_or(u64::MAX);
    frame[..8].copy_from_slice(&nanos.to_le_bytes());
    frame
}

/// The work a request asks for.
pub fn work(request: &Frame) -> Duration {
    let (nanos, _) = request.split_first_chunk().expect("a frame is longer than a number");
    Duration::from_nanos(u64::from_le_bytes(*nanos))
}

/// An answer, which names the backend that gave it. A longer name is cut.
pub fn answer(name: &str) -> Frame {
    let mut frame = [0; FRAME_BYTES];
    let length = name.len().min(FRAME_BYTES);
    frame[..length].copy_from_slice(&name.as_bytes()[..length]);
    frame
}

/// The name in an answer.
pub fn name(answer: &Frame) -> String {
    let length = answer.iter().position(|byte| *byte == 0).unwrap_or(FRAME_BYTES);
    String::from_utf8_lossy(&answer[..length]).into_owned()
}
