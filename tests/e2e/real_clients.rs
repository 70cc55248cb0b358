//! Programs that people run, talking through the proxy with the servers they were made for.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{
    Config, Digest, Proxy, Server, TempDir, eventually, for_each_chunk, iperf3, needs_root, needs_tools, path_of,
    succeeds,
};

#[test]
fn redis_is_served_one_question_at_a_time_and_pipelined() {
    if !needs_tools(&["redis-server", "redis-benchmark", "redis-cli"]) {
        return;
    }
    // given
    let folder = TempDir::new();
    let (host, port) = Server::free_address();
    let mut command = Command::new("redis-server");
    command.args(["--bind", &host, "--port", &port.to_string(), "--save", "", "--appendonly", "no"]);
    command.arg("--dir").arg(folder.path());
    let server = Server::start(&mut command, &format!("{host}:{port}"), &folder);
    let proxy = Config::to([server.address()]).start();
    let client = |program: &str| {
        let mut command = Command::new(program);
        command.args(["-h", "127.0.0.1", "-p", &port_of(&proxy)]);
        command
    };

    // when
    let mut turns = Vec::new();
    for pipelined in ["1", "16"] {
        let said = succeeds(
            client("redis-benchmark").args(["-n", "20000", "-c", "50", "-t", "set,get", "-q", "-P", pipelined]),
        );
        assert!(said.contains("GET:") && !said.contains("Error"), "the benchmark finishes without errors: {said}");
        turns.push(timed_turns(&proxy) - turns.iter().sum::<f64>());
    }
    let value = "v".repeat(300_000);
    succeeds(client("redis-cli").args(["set", "key", &value[..100_000]]));

    // then
    let stored = succeeds(client("redis-cli").args(["get", "key"]));
    assert_eq!(stored.trim_end(), &value[..100_000], "a value comes back as it was stored");
    assert!(turns[0] > 0.9 * 40_000.0, "each of 40,000 questions is a turn: {turns:?}");
    assert!((0.5 * 2_500.0..1.5 * 2_500.0).contains(&turns[1]), "sixteen questions at once are one turn: {turns:?}");
    proxy.finish();
}

#[test]
fn a_web_server_answers_under_load() {
    if !needs_tools(&["nginx", "wrk"]) {
        return;
    }
    let site = WebSite::start(|root| fs::write(root.join("index.html"), "x".repeat(600)).unwrap());
    let proxy = Config::to([site.server.address()]).service("balance = \"round_robin\"").start();
    let said =
        succeeds(Command::new("wrk").args(["-t", "1", "-c", "32", "-d", "3s", &format!("http://{}/", proxy.main())]));
    assert!(said.contains("Requests/sec"), "the load is served: {said}");
    assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "no request fails: {said}");
    let requests = said.lines().find_map(|line| line.trim().split_once(" requests in")?.0.parse::<f64>().ok());
    let (turns, requests) = (timed_turns(&proxy), requests.expect("wrk says how many requests it made"));
    assert!(turns > 0.9 * requests, "each request on a connection that is kept is a turn: {turns} of {requests}");
    // wrk leaves in the middle of its last requests, which the server answers in vain.
    proxy.finish();
}

#[test]
fn two_gigabytes_are_downloaded_unchanged() {
    if !needs_tools(&["nginx", "curl"]) {
        return;
    }
    // given
    const LENGTH: u64 = 2_000_000_000;
    let site = WebSite::start(|root| {
        let mut file = fs::File::create(root.join("big")).unwrap();
        for_each_chunk(LENGTH, |chunk| std::io::Write::write_all(&mut file, chunk)).unwrap();
    });
    let proxy = Config::to([site.server.address()]).start();

    // when
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", &format!("http://{}/big", proxy.main())]);
    let mut curl = command.stdout(Stdio::piped()).spawn().unwrap();
    let (received, _) = Digest::of_rest(curl.stdout.take().unwrap());

    // then
    assert!(curl.wait().unwrap().success(), "the download succeeds");
    assert_eq!(received, Digest::of_pattern(LENGTH), "the download is the file");
    proxy.finish();
}

#[test]
fn a_repository_is_cloned() {
    if !needs_tools(&["nginx", "git"]) {
        return;
    }
    // given: a repository, served as files
    let folder = TempDir::new();
    let work = folder.join("work");
    let git = |at: &Path, arguments: &[&str]| {
        let mut command = Command::new("git");
        command.current_dir(at).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
        command.args(["-c", "user.name=t", "-c", "user.email=t@localhost"]).args(arguments);
        succeeds(&mut command)
    };
    fs::create_dir(&work).unwrap();
    git(&work, &["init", "--quiet"]);
    for number in 0..20 {
        fs::write(work.join(format!("file{number}")), crate::harness::pattern(50_000 * number)).unwrap();
        git(&work, &["add", "."]);
        git(&work, &["commit", "--quiet", "--message", &format!("file {number}")]);
    }
    let site = WebSite::start(|root| {
        let bare = root.join("repository.git").display().to_string();
        git(&work, &["clone", "--quiet", "--bare", ".", &bare]);
        git(Path::new(&bare), &["update-server-info"]);
    });
    let proxy = Config::to([site.server.address()]).start();

    // when
    let clone = folder.join("clone").display().to_string();
    git(folder.path(), &["clone", "--quiet", &format!("http://{}/repository.git", proxy.main()), &clone]);

    // then
    git(Path::new(&clone), &["fsck", "--full"]);
    let head = |at: &Path| git(at, &["rev-parse", "HEAD"]);
    assert_eq!(head(Path::new(&clone)), head(&work), "the clone is at the same commit");
    proxy.finish();
}

#[test]
fn tls_and_http_2_pass_and_are_timed() {
    if !needs_tools(&["nginx", "curl", "openssl"]) {
        return;
    }
    // given
    let site = WebSite::start_tls(|root| fs::write(root.join("index.html"), "x".repeat(600)).unwrap());
    let proxy = Config::to([site.server.address()]).start();
    let urls = vec![format!("https://{}/", proxy.main()); 50];

    // when: fifty requests on one connection, by each version of the protocol
    for version in ["--http1.1", "--http2"] {
        let before = timed_turns(&proxy);
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--insecure", version]).args(&urls);
        let said = succeeds(&mut curl);

        // then
        assert_eq!(said.len(), 50 * 600, "every page arrives over {version}");
        let turns = timed_turns(&proxy) - before;
        assert!((50.0..60.0).contains(&turns), "a handshake and fifty requests over {version}: {turns} turns");
    }
    proxy.finish();
}

#[test]
fn throughput_is_measured_both_ways() {
    if !needs_tools(&["iperf3"]) {
        return;
    }
    // given
    let folder = TempDir::new();
    let (host, port) = Server::free_address();
    let mut command = Command::new("iperf3");
    command.args(["--server", "--bind", &host, "--port", &port.to_string()]);
    let server = Server::start(&mut command, &format!("{host}:{port}"), &folder);
    let proxy = Config::to([server.address()]).start();
    // It hangs up on who comes too early.
    proxy.expect_trouble_with_backends();

    for direction in [&["--parallel", "4"][..], &["--parallel", "4", "--reverse"]] {
        // when
        let result = iperf3(|| {
            let mut client = Command::new("iperf3");
            client.args(["--client", "127.0.0.1", "--port", &port_of(&proxy), "--bytes", "400M"]).args(direction);
            client
        });

        // then
        let bytes = |side: &str| result["end"][side]["bytes"].as_f64().unwrap_or_else(|| panic!("no sum: {result}"));
        assert!(bytes("sum_sent") >= 400e6, "the whole of it is sent");
        // It ends with the last byte sent, when some are still on their way.
        assert!(bytes("sum_received") >= 200e6, "what is sent is received");
    }
    drop(server);
    eventually("its control sessions end", || proxy.metrics().sum("connections_active") == 0.0);
    proxy.finish();
}

#[test]
fn a_database_keeps_its_books() {
    let Some(binaries) = postgres_binaries() else {
        let _ = needs_tools(&["postgres"]);
        return;
    };
    if !needs_tools(&["pgbench", "psql", "runuser"]) || !needs_root() {
        return;
    }
    // given: the server refuses to run as root
    let folder = TempDir::new();
    let data = folder.join("data").display().to_string();
    fs::create_dir(&data).unwrap();
    succeeds(Command::new("chown").args(["postgres", &data]));
    let as_postgres = |program: &str| {
        let mut command = Command::new("runuser");
        command.current_dir("/").args(["-u", "postgres", "--", &format!("{binaries}/{program}"), "-D", &data]);
        command
    };
    succeeds(as_postgres("initdb").args(["-A", "trust", "-U", "postgres", "--no-sync"]));
    let (host, port) = Server::free_address();
    let mut command = as_postgres("postgres");
    command.args(["-h", &host, "-p", &port.to_string(), "-k", &data, "-c", "fsync=off"]);
    let server = Server::start(&mut command, &format!("{host}:{port}"), &folder);
    let proxy = Config::to([server.address()]).start();
    let client = |program: &str| {
        let mut command = Command::new(program);
        command.args(["-h", "127.0.0.1", "-p", &port_of(&proxy), "-U", "postgres"]);
        command
    };
    let query = |sql: &str| succeeds(client("psql").args(["-tAc", sql, "postgres"])).trim().to_owned();
    eventually("the database has started", || {
        client("psql").args(["-c", "select 1", "postgres"]).output().unwrap().status.success()
    });

    // when
    succeeds(client("pgbench").args(["-i", "-s", "2", "-q", "postgres"]));
    let said = succeeds(client("pgbench").args(["-c", "8", "-j", "1", "-t", "200", "postgres"]));

    // then
    assert!(said.contains("number of transactions actually processed: 1600/1600"), "nothing fails: {said}");
    assert_eq!(query("select count(*) from pgbench_history"), "1600", "every transaction left its line");
    let sums = query("select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)");
    assert_eq!(sums, "t", "the books balance");
    let statements = 7.0 * 1_600.0;
    assert!(timed_turns(&proxy) > 0.9 * statements, "each statement is a turn");
    proxy.finish();
}

/// Turns until now, when those who asked have left: what an open connection has timed is told about once a second.
fn timed_turns(proxy: &Proxy) -> f64 {
    eventually("all sessions have ended", || proxy.metrics().sum("connections_active") == 0.0);
    proxy.metrics().sum("backend_turn_seconds_count")
}

/// nginx with a folder of its own.
struct WebSite {
    server: Server,
    _folder: TempDir,
}

impl WebSite {
    /// Lets `fill` put files under the root, then serves them.
    fn start(fill: impl FnOnce(&Path)) -> WebSite {
        Self::start_with(fill, false)
    }

    /// The same over TLS with a certificate of its own, and HTTP/2 for those who ask for it.
    fn start_tls(fill: impl FnOnce(&Path)) -> WebSite {
        Self::start_with(fill, true)
    }

    fn start_with(fill: impl FnOnce(&Path), tls: bool) -> WebSite {
        let folder = TempDir::new();
        let root = folder.join("root");
        fs::create_dir(&root).unwrap();
        fill(&root);
        let (host, port) = Server::free_address();
        let at = folder.path().display();
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let temporary =
            ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {at}/{kind};"));
        let (kind, certificate) = match tls {
            true => (" ssl http2", format!("ssl_certificate {at}/cert.pem; ssl_certificate_key {at}/key.pem;")),
            false => ("", String::new()),
        };
        if tls {
            let mut openssl = Command::new("openssl");
            openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]);
            openssl.arg("-keyout").arg(folder.join("key.pem")).arg("-out").arg(folder.join("cert.pem"));
            succeeds(&mut openssl);
        }
        let config = format!(
            "{user} worker_processes 1; daemon off; pid {at}/pid; error_log stderr;\n\
             events {{ worker_connections 512; }}\n\
             http {{ access_log off; {} server {{ listen {host}:{port}{kind}; {certificate} root {at}/root; }} }}\n",
            temporary.concat()
        );
        let path = folder.join("nginx.conf");
        fs::write(&path, config).unwrap();
        let mut command = Command::new(path_of("nginx").expect("the test has asked for it"));
        command.arg("-c").arg(&path).args(["-e", "stderr"]);
        let server = Server::start(&mut command, &format!("{host}:{port}"), &folder);
        WebSite { server, _folder: folder }
    }
}

/// The folder of the newest PostgreSQL server, where distributions put it.
fn postgres_binaries() -> Option<String> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|entry| entry.path().join("bin"));
    versions.filter(|bin| bin.join("postgres").is_file()).max().map(|bin| bin.display().to_string())
}

/// The port that clients are given.
fn port_of(proxy: &Proxy) -> String {
    proxy.main().rsplit_once(':').expect("an address has a port").1.to_owned()
}
