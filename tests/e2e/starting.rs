//! Starting: what is told, and what a start that cannot work says.

use std::fs;
use std::net::TcpListener;

use crate::harness::{Backend, Config, Conn, Options, Proxy, TempDir, line_of, loopback, run_to_exit};

#[test]
fn a_port_that_is_taken_is_named_with_the_line_that_asks_for_it() {
    // given
    let taken = TcpListener::bind((loopback(), 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = TempDir::new();
    let path = folder.join("dislocate.toml");
    let toml = Config::to(["127.0.0.1:1"]).listen(&address).toml();
    fs::write(&path, &toml).unwrap();

    // when
    let exited = Proxy::try_start(&toml, Options { config: Some(path.clone()), ..Options::default() }).unwrap_err();

    // then
    assert_eq!(exited.code, Some(1), "a start that fails says so by its exit code");
    assert!(exited.stderr.contains(&address), "the message names the address: {}", exited.stderr);
    let place = format!("{}:{}", path.display(), line_of(&toml, &address));
    assert!(exited.stderr.contains(&place), "the message names file and line: {}", exited.stderr);
    assert!(!exited.stdout.contains("ready"), "a start that fails is never called ready");
}

#[test]
fn an_address_that_this_host_does_not_have_is_named() {
    // One of the addresses set aside for documentation.
    let exited = fails_to_start(&Config::to(["127.0.0.1:1"]).listen("192.0.2.1:4000").toml());
    assert_eq!(exited.0, Some(1));
    assert!(exited.1.contains("192.0.2.1:4000"), "the message names the address: {}", exited.1);
}

#[test]
fn a_second_instance_does_not_slip_in_beside_the_first() {
    // SO_REUSEPORT would let it share the port in silence.
    let backend = Backend::echo();
    let first = Config::to([backend.address()]).start();
    let (code, said) = fails_to_start(&Config::to([backend.address()]).listen(&first.main()).toml());
    assert_eq!(code, Some(1), "the second instance does not start");
    assert!(said.contains(&first.main()), "the message names the address: {said}");
    Conn::open(first.main()).echoes("unhurt");
    first.finish();
}

#[test]
fn a_log_that_cannot_be_written_stops_the_start_and_is_named() {
    let toml = Config::to(["127.0.0.1:1"]).node("log = \"/nonexistent-folder/sessions.log\"").toml();
    let (code, said) = fails_to_start(&toml);
    assert_ne!(code, Some(0), "a start without its log fails");
    assert!(said.contains("/nonexistent-folder/sessions.log"), "the message names the path: {said}");
}

#[test]
fn a_stale_unix_socket_is_replaced_and_a_living_one_is_not() {
    // given: the socket file of a process that is gone
    let folder = TempDir::new();
    let path = folder.join("in.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let backend = Backend::echo();
    let address = format!("unix:{}", path.display());
    let config = Config::to([backend.address()]).listen(&address).listener("protocol = \"stream\"");

    // when
    let proxy = config.start();
    let (code, said) = fails_to_start(&config.toml());

    // then
    Conn::open(proxy.main()).echoes("through the socket");
    assert_eq!(code, Some(1), "the socket of a living process is not taken away");
    assert!(said.contains(&path.display().to_string()), "the message names the path: {said}");
    Conn::open(proxy.main()).echoes("still through the socket");
    proxy.finish();
    assert!(!path.exists(), "a socket file goes with its process");
}

#[test]
fn a_wrong_configuration_is_refused_with_exit_code_two_and_all_its_mistakes() {
    // given
    let toml = Config::to(["127.0.0.1:1"]).listener("idel_timeout = \"1h\"").service("balance = \"fastest\"").toml();

    // when
    let (code, said) = fails_to_start(&toml);

    // then
    assert_eq!(code, Some(2), "a wrong configuration has an exit code of its own");
    for mistake in ["idel_timeout", "fastest"] {
        assert!(said.contains(mistake), "all mistakes are told at once: {said}");
    }
}

#[test]
fn a_configuration_file_that_is_not_there_is_named() {
    let exited = run_to_exit(&["run", "-c", "/nonexistent-folder/dislocate.toml"]);
    assert_ne!(exited.code, Some(0));
    assert!(exited.stderr.contains("/nonexistent-folder/dislocate.toml"), "the message names it: {}", exited.stderr);
}

#[test]
fn the_program_raises_its_own_descriptor_limit() {
    let backend = Backend::echo();
    let proxy = Config::to([backend.address()]).start();
    let limits = fs::read_to_string(format!("/proc/{}/limits", proxy.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let words = line.split_whitespace().collect::<Vec<_>>();
    assert_eq!(words[3], words[4], "the soft limit is raised to the hard limit");
    proxy.finish();
}

/// Exit code and standard error of a start that does not get ready.
fn fails_to_start(toml: &str) -> (Option<i32>, String) {
    match Proxy::try_start(toml, Options::default()) {
        Err(exited) => (exited.code, exited.stderr),
        Ok(_) => panic!("the program starts with\n{toml}"),
    }
}
