//! Secrets from files.

use std::path::Path;

use hyper::header::HeaderValue;
use tokio::io::AsyncReadExt;

use crate::source::SourceError;

/// Reads a secret for a header, without the white space around it. It is read anew for each use, since secrets are
/// renewed in place. No error repeats any of it.
pub(super) async fn header(path: &Path) -> Result<HeaderValue, SourceError> {
    let mut value = HeaderValue::from_str(&text(path).await?).map_err(|_| about(path, "is no text for a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A token as the header `Authorization` has it.
pub(super) fn bearer(token: &str) -> Result<HeaderValue, SourceError> {
    let value = HeaderValue::from_str(&format!("Bearer {token}"));
    let mut value = value.map_err(|_| SourceError::new("the token is no text for a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Reads a secret, without the white space around it.
pub(super) async fn text(path: &Path) -> Result<String, SourceError> {
    let failed = |error: std::io::Error| about(path, &error.to_string());
    let mut text = Vec::new();
    // A pipe would keep us waiting; the deadline of the question ends that.
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut text).await.map_err(failed)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(about(path, "is too long for a secret"));
    }
    let text = str::from_utf8(&text).map_err(|_| about(path, "is not text"))?.trim();
    match text.is_empty() {
        true => Err(about(path, "is empty")),
        false => Ok(text.to_owned()),
    }
}

fn about(path: &Path, why: &str) -> SourceError {
    SourceError::new(format!("{}: {why}", path.display()))
}

/// Longest secret: the longest tokens in use, signed ones, have about a thousand.
const MAX_BYTES: u64 = 8 * 1024;
