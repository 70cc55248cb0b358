//! What the kernel knows of a TCP connection, by TCP_INFO (tcp(7)).
//!
//! The only unsafe code of the program: neither rustix nor socket2 nor nix has this option. The answer is taken as the
//! 32-bit words that it is made of up to the fields wanted here (`struct tcp_info` in linux/tcp.h, which only ever grows
//! at its end), so that no memory is read as a type that the kernel may not have filled.

use std::os::fd::{AsRawFd, BorrowedFd};

/// The part that is used here. Fields that the kernel does not know are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TcpInfo {
    /// Smoothed round trip in microseconds.
    pub(crate) rtt_us: u32,
    /// Least round trip of the last minutes in microseconds.
    pub(crate) min_rtt_us: u32,
    /// Segments sent again, over the life of the connection.
    pub(crate) retransmits: u32,
}

/// Asks the kernel; nothing if the socket is not TCP.
#[allow(unsafe_code)]
pub(crate) fn tcp_info(socket: BorrowedFd<'_>) -> Option<TcpInfo> {
    let mut words = [0u32; WORDS];
    let mut length = size_of_val(&words) as libc::socklen_t;
    let (fd, answer) = (socket.as_raw_fd(), words.as_mut_ptr().cast());
    // SAFETY: `answer` points to `length` bytes of `words`, which outlives the call, and any bytes make `u32`s; that
    // getsockopt(2) writes no more than `length` there, and only a `socklen_t` to `length`, is the kernel's promise.
    // `BorrowedFd` promises that `fd` is open.
    let result = unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, answer, &mut length) };
    // An older kernel fills less; the rest of the words stay 0.
    (result == 0).then(|| TcpInfo {
        rtt_us: words[RTT],
        min_rtt_us: Some(words[MIN_RTT]).filter(|us| *us != u32::MAX).unwrap_or(0),
        retransmits: words[TOTAL_RETRANS],
    })
}

/// Where fields are, in words: `tcpi_rtt` at byte 68, `tcpi_total_retrans` at 100, `tcpi_min_rtt` at 148, where all ones
/// mean that there was no measurement.
const RTT: usize = 17;
const TOTAL_RETRANS: usize = 25;
const MIN_RTT: usize = 37;
const WORDS: usize = MIN_RTT + 1;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_connection_over_loopback_has_a_plausible_round_trip() {
        // given
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut near = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let (mut far, _) = listener.accept().expect("the same");
        near.write_all(b"ask").and_then(|()| far.read_exact(&mut [0; 3])).expect("it arrives");

        // when
        let info = tcp_info(near.as_fd()).expect("it is TCP");

        // then
        assert!((1..1_000_000).contains(&info.rtt_us), "below a second: {info:?}");
        assert!((1..1_000_000).contains(&info.min_rtt_us), "below a second: {info:?}");
        assert!(info.retransmits < 10, "loopback loses nothing: {info:?}");
    }

    #[test]
    fn the_fields_are_where_libc_has_them() {
        assert_eq!(std::mem::offset_of!(libc::tcp_info, tcpi_rtt), RTT * 4);
        assert_eq!(std::mem::offset_of!(libc::tcp_info, tcpi_total_retrans), TOTAL_RETRANS * 4);
    }

    #[test]
    fn a_unix_socket_has_none() {
        let (near, _far) = UnixStream::pair().expect("a pair");
        assert_eq!(tcp_info(near.as_fd()), None);
    }
}
