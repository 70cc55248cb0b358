//! A side that does not read stops the side that writes, at no cost in memory, and loses nothing.

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Acceptor, Config, Conn, Digest, End, eventually};

/// Far more than all socket buffers of the way can hold.
const LENGTH: u64 = 96 << 20;
const STREAMS: usize = 8;

/// What the program may grow by with all streams stalled: eight pairs of buffers and pipes are far less.
const GROWTH: u64 = 16 << 20;

#[test]
fn a_backend_that_does_not_read_stalls_its_client_without_growth() {
    stalls_and_resumes("splice = true", |client, server| (client, server));
}

#[test]
fn a_client_that_does_not_read_stalls_its_backend_without_growth() {
    stalls_and_resumes("splice = true", |client, server| (server, client));
}

#[test]
fn the_same_holds_without_splice() {
    stalls_and_resumes("splice = false", |client, server| (client, server));
}

/// Lets `STREAMS` sessions run full; `roles` says which end writes and which reads.
fn stalls_and_resumes(relay: &str, roles: fn(Conn, Conn) -> (Conn, Conn)) {
    // given
    let backend = Acceptor::new();
    let proxy = Config::to([backend.address()]).listener(relay).start();
    let (writers, readers): (Vec<_>, Vec<_>) = (0..STREAMS)
        .map(|_| {
            let (client, server) = backend.session(&proxy.main());
            roles(client, server)
        })
        .unzip();
    let before = proxy.resident_bytes();
    let written = AtomicU64::new(0);

    thread::scope(|scope| {
        // when
        for mut writer in writers {
            let written = &written;
            scope.spawn(move || {
                write_counting(&mut writer, written);
                // Kept until the other side has finished: dropped with its FIN unread it would reset.
                writer.finish_sending();
                assert_eq!(writer.end(), End::Fin);
            });
        }
        wait_for_standstill(&written);

        // then
        let sent = written.load(Ordering::Relaxed);
        assert!(sent < LENGTH * STREAMS as u64, "a side that does not read stops the side that writes");
        let growth = proxy.resident_bytes().saturating_sub(before);
        assert!(growth < GROWTH, "bytes that nobody takes stay in the kernel, not in {growth} bytes of the program");

        // when
        for mut reader in readers {
            scope.spawn(move || {
                // then
                assert_eq!(reader.rest(), (Digest::of_pattern(LENGTH), End::Fin), "a stall loses nothing");
            });
        }
    });
    let growth = proxy.resident_bytes().saturating_sub(before);
    assert!(growth < GROWTH, "the bulk after a stall leaves no memory behind");
    proxy.finish();
}

fn write_counting(writer: &mut Conn, written: &AtomicU64) {
    crate::harness::for_each_chunk(LENGTH, |chunk| {
        writer.write_all(chunk)?;
        written.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        Ok(())
    })
    .unwrap();
}

/// Waits until no byte has been written for a while.
fn wait_for_standstill(written: &AtomicU64) {
    let mut last = (0, Instant::now());
    eventually("the writers come to a standstill", || {
        let now = written.load(Ordering::Relaxed);
        if now != last.0 {
            last = (now, Instant::now());
        }
        now > 0 && last.1.elapsed() > Duration::from_millis(800)
    });
}
