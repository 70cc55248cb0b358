//! A log that cannot take what is written to it loses records, never traffic.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::harness::{
    Backend, Config, Conn, Options, Proxy, TempDir, eventually, needs_root, needs_tools, succeeds, within,
};

#[test]
fn session_records_go_to_the_file_that_the_configuration_names() {
    // given
    let folder = TempDir::new();
    let path = folder.join("sessions.log");
    let backend = Backend::echo();
    let proxy = Config::to([backend.address()]).node(&format!("log = \"{}\"", path.display())).start();
    proxy.expect_no_records();

    // when
    Conn::open(proxy.main()).echoes("hello");

    // then
    eventually("the record is in the file", || fs::read_to_string(&path).unwrap().contains("\"event\":\"session\""));
    assert!(proxy.sessions().is_empty(), "records go to one place");
    proxy.finish();
}

#[test]
fn no_records_are_written_where_none_are_wanted() {
    let backend = Backend::echo();
    let proxy = Config::to([backend.address()]).node("log = \"none\"").start();
    proxy.expect_no_records();
    Conn::open(proxy.main()).echoes("hello");
    eventually("the session ends", || proxy.metrics().sum("connections_closed_total{reason=\"closed\"}") == 1.0);
    assert_eq!(proxy.metrics().sum("log_dropped_total"), 0.0, "what nobody wants is not lost");
    assert!(proxy.sessions().is_empty());
    proxy.finish();
}

#[test]
fn a_device_that_is_always_full_hurts_no_traffic() {
    let backend = Backend::echo();
    let proxy = Config::to([backend.address()]).node("log = \"/dev/full\"").start();
    loses_records_only(proxy);
}

#[test]
fn a_full_disk_hurts_no_traffic() {
    if !needs_root() || !needs_tools(&["mount", "umount"]) {
        return;
    }
    // given
    let folder = TempDir::new();
    let disk = Disk::mount(&folder);
    let backend = Backend::echo();
    let log = format!("log = \"{}/sessions.log\"", disk.0);
    let proxy = Config::to([backend.address()]).node(&log).start();

    // when, then
    loses_records_only(proxy);
}

#[test]
fn a_pipe_that_nobody_reads_hurts_no_traffic() {
    // given: the reading end is open and idle
    let folder = TempDir::new();
    let path = folder.join("records");
    succeeds(Command::new("mkfifo").arg(&path));
    let _idle = fs::File::options().read(true).write(true).open(&path).unwrap();
    let backend = Backend::echo();
    let proxy = Config::to([backend.address()]).node(&format!("log = \"{}\"", path.display())).start();

    // when, then
    loses_records_only(proxy);
}

#[test]
fn a_standard_error_that_nobody_reads_hurts_no_traffic() {
    // given
    let backend = Backend::echo();
    let options = Options { stalled_stderr: true, ..Options::default() };
    let proxy = Proxy::start_with(&Config::to([backend.address()]).toml(), options);
    proxy.expect_no_records();

    // when
    serve_until_records_are_lost(&proxy);

    // then
    proxy.resume_stderr();
    eventually("records are written again when somebody reads", || !proxy.sessions().is_empty());
    proxy.expect_log("log");
    proxy.finish();
}

/// Runs sessions until the log has lost some; then stops.
fn loses_records_only(proxy: Proxy) {
    proxy.expect_no_records();
    proxy.expect_log("log");
    serve_until_records_are_lost(&proxy);
    proxy.finish();
}

/// Longer than elsewhere: the queue of the log must fill before it loses anything.
fn serve_until_records_are_lost(proxy: &Proxy) {
    let address = proxy.main();
    let mut established = Conn::open(&address);
    within(Duration::from_secs(90), "records that cannot be written are counted", || {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| Conn::open(&address).echoes("served without a record")));
            }
        });
        proxy.metrics().sum("log_dropped_total") > 0.0
    });
    established.echoes("unhurt");
    assert_eq!(proxy.get("/readyz").0, 200, "a log that is full makes nothing unready");
}

/// A file system of 64 KiB.
struct Disk(String);

impl Disk {
    fn mount(folder: &TempDir) -> Disk {
        let at = folder.path().display().to_string();
        succeeds(Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs", &at]));
        Disk(at)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        succeeds(Command::new("umount").args(["--lazy", &self.0]));
    }
}
