//! A configuration that cannot work changes nothing, and says why.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Config, Conn, Named, Proxy, eventually, loopback, observe, who};

#[test]
fn a_file_that_is_no_toml_is_refused() {
    refuses(|_| "[[listener".into(), "listener");
}

#[test]
fn an_unknown_key_is_refused() {
    refuses(|good| format!("{good}\nbalnace = \"maglev\"\n"), "balnace");
}

#[test]
fn a_value_of_the_wrong_type_is_refused() {
    refuses(|good| good.replace("[node]", "[node]\nworkers = \"many\""), "workers");
}

#[test]
fn a_listener_for_a_service_that_is_not_there_is_refused() {
    refuses(|good| good.replace("service = \"app\"", "service = \"application\""), "application");
}

#[test]
fn a_service_of_a_name_that_is_taken_is_refused() {
    let again = "\n[[service]]\nname = \"app\"\nbackends = [\"127.0.0.1:1\"]\n";
    refuses(|good| format!("{good}{again}"), "app");
}

#[test]
fn two_listeners_on_one_address_are_refused() {
    refuses(
        |good| {
            let listen = good.lines().rfind(|line| line.starts_with("listen = ")).expect("the listener's address");
            format!("{good}\n[[listener]]\nname = \"again\"\n{listen}\nservice = \"app\"\n")
        },
        "again",
    );
}

#[test]
fn an_empty_file_is_refused() {
    refuses(|_| String::new(), "listener");
}

#[test]
fn ten_megabytes_of_anything_are_refused() {
    refuses(|_| "# nothing to see here\n".repeat(500_000), "dislocate.toml");
}

#[test]
fn ten_megabytes_that_are_no_toml_are_refused_in_few_words() {
    let proxy = refuses_and_returns(|_| "junk ".repeat(2_000_000), "dislocate.toml");
    let longest = proxy.log_lines().iter().map(String::len).max().unwrap_or_default();
    assert!(longest < 100_000, "a refusal does not repeat the file: {longest} bytes in one line");
    proxy.finish();
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    let (proxy, good) = running();
    let next = proxy.config_path().with_extension("next");
    fs::write(&next, [0xff, 0xfe, 0x00, 0x80]).unwrap();
    fs::rename(next, proxy.config_path()).unwrap();
    proxy.stays_as_it_was("dislocate.toml");
    proxy.recovers(&good);
    proxy.finish();
}

#[test]
fn a_file_that_is_gone_is_refused() {
    let (proxy, good) = running();
    fs::remove_file(proxy.config_path()).unwrap();
    proxy.stays_as_it_was("dislocate.toml");
    proxy.recovers(&good);
    proxy.finish();
}

#[test]
fn a_port_that_is_taken_refuses_the_whole_reload() {
    // given
    let (proxy, good) = running();
    let taken = TcpListener::bind((loopback(), 0)).unwrap();
    let taken = (taken.local_addr().unwrap().to_string(), taken);
    let free = format!("{}:4000", loopback());
    let listener = |name: &str, address: &str| {
        format!("\n[[listener]]\nname = \"{name}\"\nlisten = \"{address}\"\nservice = \"app\"\n")
    };

    // when: one new listener could start, the other cannot
    proxy.rewrite(&format!("{good}{}{}", listener("free", &free), listener("taken", &taken.0)));

    // then
    proxy.stays_as_it_was(&taken.0);
    assert!(Conn::try_open(&free).is_err(), "no half of a refused configuration takes effect");
    proxy.recovers(&good);
    proxy.finish();
}

#[test]
fn a_refusal_is_told_once_however_often_the_folder_changes() {
    // given
    let (proxy, good) = running();
    proxy.rewrite(&format!("{good}\nbalnace = \"maglev\"\n"));
    let refusals = || proxy.metrics().sum("config_reloads_total{result=\"refused\"}");
    eventually("the refusal is counted", || refusals() == 1.0);

    // when: somebody else writes beside the file, as a log would
    for number in 0..10 {
        fs::write(proxy.config_path().with_extension("log"), format!("line {number}")).unwrap();
        observe(Duration::from_millis(100));
    }

    // then
    assert_eq!(refusals(), 1.0, "a refusal is not repeated for changes of other files");
    proxy.signal(Signal::HUP);
    eventually("who asks is answered again", || refusals() == 2.0);
    proxy.recovers(&good);
    proxy.finish();
}

/// Replaces a good configuration by what `spoil` makes of it and expects that nothing happens but a refusal that
/// names `culprit`.
fn refuses(spoil: impl FnOnce(&str) -> String, culprit: &str) {
    refuses_and_returns(spoil, culprit).finish();
}

fn refuses_and_returns(spoil: impl FnOnce(&str) -> String, culprit: &str) -> Proxy {
    let (proxy, good) = running();
    proxy.rewrite(&spoil(&good));
    proxy.stays_as_it_was(culprit);
    proxy.recovers(&good);
    proxy
}

/// A proxy before a backend that outlives it, with its configuration.
fn running() -> (Proxy, String) {
    // The backend stays for the rest of the test process: a thread and a socket.
    let backend = Box::leak(Box::new(Named::start("backend")));
    let good = Config::to([backend.address()]).listen(&format!("{}:4000", loopback())).toml();
    let proxy = Proxy::start(&good);
    proxy.expect_log("config");
    (proxy, good)
}

impl Proxy {
    /// The reload is refused by a line that names `culprit`, and everything goes on.
    fn stays_as_it_was(&self, culprit: &str) {
        let mut established = Conn::open(self.main());
        assert_eq!(established.name(), "backend");
        // The file is watched, but asking must not make it worse.
        self.signal(Signal::HUP);
        eventually("the refusal is counted", || self.metrics().sum("config_reloads_total{result=\"refused\"}") >= 1.0);
        assert_eq!(self.metrics().sum("config_last_reload_successful"), 0.0, "the refusal is visible");
        eventually("the log names what is wrong", || {
            let alarming = |line: &String| line.contains("\"ERROR\"") || line.contains("\"WARN\"");
            self.log_lines().iter().any(|line| alarming(line) && line.contains(culprit))
        });
        assert_eq!(who(&self.main()), "backend", "the running configuration goes on");
        established.echoes("sessions too");
        assert_eq!(self.get("/readyz").0, 200, "a refused reload makes nothing unready");
    }

    /// The good configuration is taken again.
    fn recovers(&self, good: &str) {
        self.rewrite(good);
        eventually("a good configuration is taken after a bad one", || {
            self.metrics().sum("config_last_reload_successful") == 1.0
        });
        assert_eq!(who(&self.main()), "backend");
    }
}
