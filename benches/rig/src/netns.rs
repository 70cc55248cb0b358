//! Doing things inside a network namespace.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Runs `act` inside the namespace that `file` stands for (`/run/netns/NAME`, `/proc/PID/ns/net`), on a thread of its own.
/// Sockets and devices made there stay inside; threads and processes begun there too.
///
/// # Errors
///
/// Those of opening the file and of entering, which needs root; and those of `act`.
pub fn enter<T: Send>(file: &Path, act: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = File::open(file)?;
    let inside = || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        act()
    };
    std::thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
