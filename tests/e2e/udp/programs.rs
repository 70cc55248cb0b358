//! Programs that people run over UDP, talking through the proxy with the servers they were made for.

use std::fs;
use std::process::Command;

use crate::harness::{
    Config, LONG, Proxy, Server, TempDir, eventually, iperf3, loopback, needs_tools, path_of, succeeds,
};

/// Questions of one run of dnsperf.
const QUESTIONS: usize = 10_000;

#[test]
fn knot_answers_every_question() {
    if !needs_tools(&["dnsperf", "knotd"]) {
        return;
    }
    let servers = [(); 2].map(|()| NameServer::knot());
    every_question_is_answered(&servers);
}

#[test]
fn unbound_answers_every_question() {
    if !needs_tools(&["dnsperf", "unbound"]) {
        return;
    }
    let servers = [(); 2].map(|()| NameServer::unbound());
    every_question_is_answered(&servers);
}

/// With flows that last and with one for each question.
fn every_question_is_answered(servers: &[NameServer; 2]) {
    let folder = TempDir::new();
    let questions = folder.join("questions");
    let lines: String = (0..NAMES).map(|number| format!("host{number}.example.test A\n")).collect();
    fs::write(&questions, lines).unwrap();
    for (idle, more) in [(LONG, ""), ("10m", "requests = 1\nreplies = 1")] {
        // given
        let config = Config::datagrams(servers.each_ref().map(|server| server.process.address()), idle);
        let proxy = config.service("balance = \"round_robin\"").listener(more).start();
        let (host, port) = host_and_port(&proxy);

        // when
        let mut dnsperf = Command::new("dnsperf");
        dnsperf.args(["-s", &host, "-p", &port, "-d"]).arg(&questions);
        // At a rate that one source may have before it has proven itself, which it never does by single questions.
        dnsperf.args(["-n", &(QUESTIONS / NAMES).to_string(), "-c", "20", "-T", "2", "-q", "64", "-Q", "5000"]);
        let said = succeeds(&mut dnsperf);

        // then
        let number = |label: &str| {
            let line = said.lines().find_map(|line| line.trim().strip_prefix(label));
            line.and_then(|rest| rest.split_whitespace().next()?.parse::<usize>().ok())
        };
        assert_eq!(number("Queries sent:"), Some(QUESTIONS), "{said}");
        assert_eq!(number("Queries lost:"), Some(0), "no question goes unanswered: {said}");
        assert!(said.contains(&format!("NOERROR {QUESTIONS} (100.00%)")), "every answer is the one asked for: {said}");
        println!("{}", said.lines().find(|line| line.contains("Queries per second")).unwrap_or_default().trim());
        let metrics = proxy.metrics();
        assert_eq!(metrics.sum("udp_dropped_datagrams_total"), 0.0);
        let flows = metrics.sum("udp_flows_created_total");
        let expected = if more.is_empty() { 20.0 } else { QUESTIONS as f64 };
        assert!(flows >= expected, "flows as they are configured: {flows}");
        for server in servers {
            let picks = metrics.sum(&format!("picks_total{{backend=\"{}\"}}", server.process.address()));
            assert!(picks >= flows / 3.0, "both servers have their part: {picks} of {flows}");
        }
        proxy.finish();
    }
}

#[test]
fn sockperf_gets_every_answer_and_loses_nothing_one_way() {
    if !needs_tools(&["sockperf"]) {
        return;
    }
    // given
    let folder = TempDir::new();
    let (host, port) = Server::free_address();
    let mut command = Command::new("sockperf");
    command.args(["server", "-i", &host, "-p", &port.to_string()]);
    let server = Server::start_datagrams(&mut command, &format!("{host}:{port}"), &folder);
    let proxy = Config::datagrams([server.address()], LONG).start();
    let (host, port) = host_and_port(&proxy);
    let client = |mode: &[&str]| {
        let mut command = Command::new("sockperf");
        command.args(mode).args(["-i", &host, "-p", &port, "--msg-size", "200"]);
        succeeds(&mut command)
    };

    // when
    let said = client(&["ping-pong", "--time", "2"]);

    // then
    assert!(said.contains("# dropped messages = 0; # duplicated messages = 0; # out-of-order messages = 0"), "{said}");
    println!("{}", said.lines().find(|line| line.contains("percentile 99.000")).unwrap_or_default());

    // when: questions on a timetable, whether or not the last was answered
    let said = client(&["under-load", "--time", "2", "--mps", "2000", "--reply-every", "1"]);

    // then
    assert!(said.contains("# dropped messages = 0; # duplicated messages = 0; # out-of-order messages = 0"), "{said}");

    // when: one way
    let before = proxy.metrics();
    let said = client(&["throughput", "--time", "2", "--mps", "3000"]);

    // then
    let rate = said.lines().find(|line| line.contains("Message Rate")).unwrap_or_else(|| panic!("no rate: {said}"));
    println!("{rate}");
    let sum = |name: &str| proxy.metrics().sum(name) - before.sum(name);
    eventually("what the client sent has gone through", || {
        let received = sum("udp_datagrams_total{side=\"client\",direction=\"received\"}");
        received >= 4_000.0 && sum("udp_datagrams_total{side=\"backend\",direction=\"sent\"}") == received
    });
    assert_eq!(proxy.metrics().sum("udp_dropped_datagrams_total"), 0.0);
    proxy.finish();
}

#[test]
fn iperf3_measures_no_loss_either_way() {
    if !needs_tools(&["iperf3"]) {
        return;
    }
    // given: servers that take one test at a time; the control connection, over TCP, must reach the same one
    let folder = TempDir::new();
    let servers = [(); 2].map(|()| {
        let (host, port) = Server::free_address();
        let mut command = Command::new("iperf3");
        command.args(["--server", "--bind", &host, "--port", &port.to_string()]);
        Server::start(&mut command, &format!("{host}:{port}"), &folder)
    });
    let config = Config::datagrams(servers.each_ref().map(Server::address), LONG);
    let host = loopback().to_string();
    let listen = format!("{host}:5201");
    let tcp = format!("[[listener]]\nname = \"control\"\nlisten = \"{listen}\"\nservice = \"app\"\n");
    let proxy = config.service("balance = \"source_hash\"").listen(&listen).more(&tcp).start();

    for direction in [&[][..], &["--reverse"], &["--bidir"]] {
        // when
        let result = iperf3(|| {
            let mut client = Command::new("iperf3");
            client.args(["--client", &host, "--port", "5201"]);
            // Ten megabits a second in datagrams of a game's or a voice's size, into buffers for a busy machine.
            client
                .args(["--udp", "--bitrate", "10M", "--length", "400", "--time", "2", "--window", "1M"])
                .args(direction);
            client
        });

        // then
        let sums = ["sum", "sum_bidir_reverse"].map(|sum| &result["end"][sum]);
        assert!(sums[0].is_object(), "it is measured: {result}");
        for sum in sums.into_iter().filter(|sum| sum.is_object()) {
            let (packets, lost) = (sum["packets"].as_f64().unwrap(), sum["lost_packets"].as_f64().unwrap());
            println!("iperf3 {direction:?}: {lost} of {packets} lost, jitter {} ms", sum["jitter_ms"]);
            assert!(packets > 5_000.0, "there was traffic: {sum}");
            assert_eq!(lost, 0.0, "nothing is lost {direction:?}: {sum}");
        }
    }
    // A server hears over TCP that the test ends and closes its socket, which may be before the client's last datagram is
    // there. That one nobody waits for; everything else would be a fault.
    let metrics = proxy.metrics();
    let dropped = |reason: &str| metrics.sum(&format!("udp_dropped_datagrams_total{{reason=\"{reason}\"}}"));
    let mut reasons = metrics.label_values("udp_dropped_datagrams_total", "reason");
    reasons.retain(|reason| dropped(reason) > 0.0 && reason != "backend_refused");
    assert!(reasons.is_empty(), "datagrams were dropped: {reasons:?}");
    let late = dropped("backend_refused");
    assert!(late <= 8.0, "two at most of each stream: {late}");
    drop(servers);
    proxy.expect_trouble_with_backends();
    proxy.finish();
}

/// Names of the zone that is served, each with an address.
const NAMES: usize = 500;

/// A name server with the zone `example.test`.
struct NameServer {
    process: Server,
    _folder: TempDir,
}

impl NameServer {
    fn knot() -> NameServer {
        let zone = || {
            let hosts = (0..NAMES).map(|number| format!("host{number} A 192.0.2.{}\n", number % 250));
            let head = "$ORIGIN example.test.\n$TTL 60\n@ SOA ns admin 1 3600 600 86400 60\n@ NS ns\nns A 192.0.2.1\n";
            head.to_owned() + &hosts.collect::<String>()
        };
        NameServer::start("knotd", |at, host, port| {
            fs::write(format!("{at}/zone"), zone()).unwrap();
            format!(
                "server:\n  rundir: {at}\n  listen: {host}@{port}\n  udp-workers: 1\n  tcp-workers: 1\n  \
                 background-workers: 1\n\
                 log:\n  - target: stderr\n    any: warning\n\
                 database:\n  storage: {at}\n\
                 zone:\n  - domain: example.test\n    storage: {at}\n    file: zone\n    zonefile-sync: -1\n"
            )
        })
    }

    fn unbound() -> NameServer {
        NameServer::start("unbound", |at, host, port| {
            let data = |number| format!("  local-data: \"host{number}.example.test. A 192.0.2.{}\"\n", number % 250);
            let zone: String = (0..NAMES).map(data).collect();
            format!(
                "server:\n  interface: {host}@{port}\n  access-control: 127.0.0.0/8 allow\n  do-daemonize: no\n  \
                 username: \"\"\n  chroot: \"\"\n  directory: \"{at}\"\n  pidfile: \"{at}/pid\"\n  use-syslog: no\n  \
                 num-threads: 1\n  module-config: \"iterator\"\n  so-rcvbuf: 1m\n  \
                 local-zone: \"example.test.\" static\n{zone}\
                 remote-control:\n  control-enable: no\n"
            )
        })
    }

    fn start(program: &str, configuration: impl FnOnce(&str, &str, u16) -> String) -> NameServer {
        let folder = TempDir::new();
        let (host, port) = Server::free_address();
        let path = folder.join("conf");
        fs::write(&path, configuration(&folder.path().display().to_string(), &host, port)).unwrap();
        let mut command = Command::new(path_of(program).expect("the test has asked for it"));
        command.arg("-c").arg(&path);
        let process = Server::start(&mut command, &format!("{host}:{port}"), &folder);
        NameServer { process, _folder: folder }
    }
}

fn host_and_port(proxy: &Proxy) -> (String, String) {
    let main = proxy.main();
    let (host, port) = main.rsplit_once(':').expect("an address has a port");
    (host.to_owned(), port.to_owned())
}
