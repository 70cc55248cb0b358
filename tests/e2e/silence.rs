//! Peers that vanish without a word in the middle of a session: found out by the configured time, on both sides.

use crate::harness::{
    Acceptor, Backend, Config, Conn, End, Link, Options, Proxy, TempDir, eventually, needs_root, needs_tools,
};

const SOON: &str = "keepalive = \"1s\"\nuser_timeout = \"2s\"";

#[test]
fn a_backend_that_stops_acknowledging_resets_the_client() {
    if !needs_root() || !needs_tools(&["ip", "nft"]) {
        return;
    }
    // given
    let link = Link::new();
    let backend = link.far.enter(|| Backend::echo_on(&format!("{}:0", link.far_address)));
    let proxy = Config::to([backend.address()]).listener(SOON).start_in(&link);
    let mut client = link.near.enter(|| Conn::open(proxy.main()));
    client.echoes("before");

    // when
    link.swallow();
    client.send("into the void");

    // then
    assert_eq!(client.end(), End::Reset, "a client whose backend is gone is told by a reset");
    proxy.record("backend_unreachable");
    proxy.finish();
}

#[test]
fn an_idle_session_to_a_backend_that_vanished_is_found_out() {
    if !needs_root() || !needs_tools(&["ip"]) {
        return;
    }
    // given
    let link = Link::new();
    let backend = link.far.enter(|| Backend::echo_on(&format!("{}:0", link.far_address)));
    let proxy = Config::to([backend.address()]).listener(SOON).start_in(&link);
    let mut client = link.near.enter(|| Conn::open(proxy.main()));
    client.echoes("before");

    // when: nobody sends anything, so that only keepalives can tell
    link.cut_far_end();

    // then
    assert_eq!(client.end(), End::Reset, "a client whose backend is gone is told by a reset");
    proxy.record("backend_unreachable");
    proxy.finish();
}

#[test]
fn a_client_that_vanished_is_found_out_and_its_backend_reset() {
    if !needs_root() || !needs_tools(&["ip"]) {
        return;
    }
    // given
    let link = Link::new();
    let backend = link.near.enter(Acceptor::new);
    let config = Config::to([backend.address()]).listen(&format!("{}:0", link.near_address)).listener(SOON);
    let proxy = config.start_in(&link);
    let (client, mut server) = link.far.enter(|| backend.session(&proxy.main()));

    // when
    link.cut_far_end();

    // then
    assert_eq!(server.end(), End::Reset, "a backend whose client is gone is told by a reset");
    proxy.record("client_unreachable");
    drop(client);
    proxy.finish();
}

#[test]
fn a_client_that_vanished_with_bytes_on_their_way_to_it_is_found_out() {
    if !needs_root() || !needs_tools(&["ip", "nft"]) {
        return;
    }
    let link = Link::new();
    let backend = link.near.enter(Acceptor::new);
    let config = Config::to([backend.address()]).listen(&format!("{}:0", link.near_address)).listener(SOON);
    let proxy = config.start_in(&link);
    let (client, mut server) = link.far.enter(|| backend.session(&proxy.main()));
    link.swallow();
    server.send("nobody acknowledges this");
    assert_eq!(server.end(), End::Reset, "a backend whose client is gone is told by a reset");
    proxy.record("client_unreachable");
    drop(client);
    proxy.finish();
}

#[test]
fn a_killed_client_process_leaves_nothing_behind() {
    if !needs_tools(&["curl"]) {
        return;
    }
    // given: a process that waits for an answer
    let backend = Acceptor::new();
    let proxy = Config::to([backend.address()]).start();
    let folder = TempDir::new();
    let log = std::fs::File::create(folder.join("curl")).unwrap();
    let mut command = std::process::Command::new("curl");
    let mut process =
        command.arg(format!("http://{}/", proxy.main())).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let mut server = backend.accept();
    server.receive(3);

    // when
    process.kill().unwrap();
    process.wait().unwrap();

    // then: the kernel closes its sockets for it
    server.end();
    drop(server);
    eventually("the session ends", || proxy.sessions().len() == 1);
    proxy.finish();
}

impl Config {
    /// Starts the program at the near end of a cable.
    fn start_in(&self, link: &Link) -> Proxy {
        Proxy::start_with(&self.toml(), Options { netns: Some(link.near.clone()), ..Options::default() })
    }
}
