//! Connects, and takes its leave politely.

use balance::Address;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::{DISCARD_MAX_BYTES, Detail, FAREWELL, Finding, Stream, connect, within};
use crate::roster::Job;

pub(super) async fn probe(to: &Address, job: &Job, deadline: Instant) -> Finding {
    let stream = within(deadline, connect(to, job), "connect").await?;
    // The verdict is known; nothing that happens while we leave changes it.
    let _left_in_time = timeout_at(deadline.min(Instant::now() + FAREWELL), leave(stream)).await;
    Ok(Detail::Borrowed("connected"))
}

/// Sends FIN, and reads on until the other side has closed too: a server that speaks first would otherwise be
/// answered by a reset.
async fn leave(mut stream: Box<dyn Stream>) {
    // An error means that there is nobody left to take leave of.
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut buffer = [0; 1024];
    let mut left = DISCARD_MAX_BYTES;
    while left > 0 {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => left = left.saturating_sub(read),
        }
    }
}
