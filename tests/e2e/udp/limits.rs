//! Limits of flows: who is served stays served, who is refused is counted, and forged addresses gain nothing.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    Config, DatagramBackend, Datagrams, Forger, LONG, Link, Options, Proxy, QUIET, eventually, loopback, needs_root,
    needs_tools, observe, pattern, stranger, who_serves,
};

/// Time in which a reply comes if one comes at all.
const PROMPT: Duration = Duration::from_millis(300);

#[test]
fn a_listener_has_as_many_flows_as_it_may_and_those_stay() {
    let backend = DatagramBackend::start("backend");
    let proxy = Config::datagrams([backend.address()], "2s").listener("max_connections = 3").start();
    refuses_the_fourth(&proxy, "listener");
    proxy.finish();
}

#[test]
fn the_process_has_as_many_flows_as_it_may_and_those_stay() {
    let backend = DatagramBackend::start("backend");
    let proxy = Config::datagrams([backend.address()], "2s").node("max_connections = 3").start();
    refuses_the_fourth(&proxy, "process");
    proxy.finish();
}

#[test]
fn the_limit_of_a_source_leaves_other_sources_alone() {
    // given
    let backend = DatagramBackend::start("backend");
    let proxy = Config::datagrams([backend.address()], "1s").listener("max_connections_per_source = 2").start();
    let (greedy, modest) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));
    let held = [(); 2].map(|()| Datagrams::open_from(greedy, &proxy.main()));
    held.iter().for_each(|client| client.echoes("held"));

    // when
    let refused = Datagrams::open_from(greedy, &proxy.main());

    // then
    assert_eq!(refused.ask_within(PROMPT, "more"), None, "a source that has its share gets no further flow");
    Datagrams::open_from(modest, &proxy.main()).echoes("welcome");
    held.iter().for_each(|client| client.echoes("unhurt"));
    assert_eq!(refusals(&proxy, "source"), 1.0);
    eventually("a source whose flows have ended may come back", || refused.ask_within(PROMPT, "again").is_some());
    proxy.finish();
}

#[test]
fn flows_that_never_had_a_reply_make_room_for_new_ones() {
    // given: half of what the listener may have is answered, half is not
    let backend = DatagramBackend::start("backend");
    // One worker: each gives up flows of its own only.
    let config = Config::datagrams([backend.address()], LONG).node("workers = 1");
    let proxy = config.listener("max_connections = 10").start();
    let answered = [(); 5].map(|()| Datagrams::open(proxy.main()));
    let served = answered.each_ref().map(who_serves);
    // From a network each, since one may have only a part of what is never answered.
    let quiet = [1, 2, 3, 4, 5].map(|network| Datagrams::open_from([127, 0, network, 1], &proxy.main()));
    quiet.iter().for_each(|client| client.send(QUIET));
    eventually("all have their flows", || proxy.metrics().sum("udp_flows_active") == 10.0);

    // when
    let new = [(); 5].map(|()| Datagrams::open(proxy.main()));
    new.iter().for_each(|client| client.echoes("room is made"));

    // then
    assert_eq!(answered.each_ref().map(who_serves), served, "who was answered stays");
    assert_eq!(proxy.metrics().sum("udp_flows_active"), 10.0, "the limit holds");
    assert_eq!(proxy.metrics().sum("udp_flows_ended_total{reason=\"evicted\"}"), 5.0, "what was given up is counted");
    let late = Datagrams::open(proxy.main());
    assert_eq!(late.ask_within(PROMPT, "more"), None, "where all are answered, the newest is refused");
    proxy.finish();
}

#[test]
fn a_flood_of_forged_sources_stays_within_bounds_and_hurts_no_established_flow() {
    if !needs_root() || !needs_tools(&["ip"]) {
        return;
    }
    for (payload, what) in [(QUIET, "unanswered"), ("please answer", "answered")] {
        // given: clients and the forger at the far end of a cable
        const MOST: f64 = 500.0;
        let link = Link::new();
        link.route_near_through_far();
        link.near.sysctl("ipv4/conf/all/rp_filter", "0");
        let backend = link.near.enter(|| DatagramBackend::start("backend"));
        let config = Config::datagrams([backend.address()], LONG).listen(&format!("{}:4000", link.near_address));
        let config = config.listener(&format!("max_connections = {MOST}")).node("log = \"none\"");
        let proxy = config.start_with(Options { netns: Some(link.near.clone()), ..Options::default() });
        proxy.expect_no_records();
        let clients = link.far.enter(|| [(); 50].map(|()| Datagrams::open(proxy.main())));
        let served = clients.each_ref().map(who_serves);
        let before = proxy.resident_bytes();
        let flooding = AtomicBool::new(true);

        // when
        let forged = thread::scope(|scope| {
            let forger = scope.spawn(|| {
                let forger = link.far.enter(|| Forger::towards(&proxy.main()));
                flood(&forger, payload, &flooding)
            });
            let stop = StopOnDrop(&flooding);
            let start = Instant::now();
            let (mut asked, mut peak) = (0, 0.0);
            while start.elapsed() < Duration::from_secs(3) {
                // then: each is answered, or this panics
                for (client, served) in clients.iter().zip(&served) {
                    assert_eq!(&who_serves(client), served, "an established flow goes on");
                    asked += 1;
                }
                peak = proxy.metrics().sum("udp_flows_active").max(peak);
            }
            drop(stop);
            assert!(peak <= MOST, "flows stay within their limit: {peak}");
            assert!(asked > 100, "there was load");
            forger.join().unwrap()
        });

        // then
        let accounted = || {
            let metrics = proxy.metrics();
            metrics.sum("udp_flows_created_total") - 50.0 + dropped(&proxy)
        };
        eventually("every forged datagram is forwarded or counted as dropped", || accounted() >= f64::from(forged));
        println!("{forged} forged {what}: {} dropped", dropped(&proxy));
        let growth = proxy.resident_bytes().saturating_sub(before);
        assert!(growth < 64 << 20, "strangers cost little memory: {growth} bytes");
        assert_eq!(clients.each_ref().map(who_serves), served);
        proxy.reload(&config.with_flows_ended(&proxy.main()).unwrap().toml());
        eventually("new clients are served after the flood", || {
            link.far.enter(|| Datagrams::open(proxy.main())).ask_within(PROMPT, "after").is_some()
        });
        proxy.finish();
    }
}

#[test]
fn a_source_that_has_not_proven_itself_is_sent_no_more_than_its_budget() {
    // given: large answers to small questions, each from a port that is never used again
    let backend = DatagramBackend::start("backend");
    let config = Config::datagrams([backend.address()], LONG).node("workers = 1");
    let proxy = config.listener("unproven_reply_bytes = \"20KiB/s\"").start();
    let (victim, honest) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));
    let question = pattern(2_000);

    // when
    let start = Instant::now();
    let asked = (0..100).map(|_| Datagrams::open_from(victim, &proxy.main())).collect::<Vec<_>>();
    asked.iter().for_each(|client| client.send(&question));
    eventually("all questions reach the backend", || backend.count() == 100);
    let answered = asked.iter().filter(|client| client.receive_within(Duration::from_millis(20)).is_some()).count();
    let seconds = start.elapsed().as_secs_f64();

    // then: what a second allows, at once, and as much again for each second since
    let allowed = (20_480.0 * (1.0 + seconds) / 2_000.0).ceil() as usize + 1;
    assert!((1..=allowed).contains(&answered), "{answered} answers in {seconds:.1} s, {allowed} allowed");
    eventually("what was not sent is counted", || dropped(&proxy) >= (100 - answered) as f64);

    // when: a source that goes on for a while after it was answered
    let client = proven(honest, &proxy);

    // then
    (0..100).for_each(|_| client.echoes(&question));
    proxy.finish();
}

#[test]
fn a_source_that_has_not_proven_itself_sends_no_more_than_its_budget() {
    // given
    let backend = DatagramBackend::start("backend");
    let config = Config::datagrams([backend.address()], LONG).node("workers = 1");
    let proxy = config.listener("unproven_datagrams = \"20/s\"").start();
    let (flooding, honest) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));

    // when
    let start = Instant::now();
    for _ in 0..200 {
        Datagrams::open_from(flooding, &proxy.main()).send(QUIET);
    }
    Datagrams::open_from(honest, &proxy.main()).echoes("after all of them, by the same socket");
    let forwarded = backend.count() - 1;
    let seconds = start.elapsed().as_secs_f64();

    // then
    let allowed = (20.0 * (1.0 + seconds)).ceil() as u64 + 1;
    assert!((1..=allowed).contains(&forwarded), "{forwarded} datagrams in {seconds:.1} s, {allowed} allowed");
    assert!(dropped(&proxy) >= (200 - forwarded) as f64, "what was not sent on is counted");

    // when
    let client = proven(honest, &proxy);

    // then
    (0..200).for_each(|_| client.echoes("who goes on after replies is not held up"));
    proxy.finish();
}

#[test]
fn running_out_of_descriptors_hurts_no_flow_that_is_there() {
    // given: room for a few dozen flows
    let backend = DatagramBackend::start("backend");
    let config = Config::datagrams([backend.address()], LONG);
    let proxy = config.start_with(Options { descriptors: Some(400), ..Options::default() });
    proxy.expect_log("descriptor");

    // when
    let mut held = Vec::new();
    eventually("flows beyond the budget are refused", || {
        let client = Datagrams::open(proxy.main());
        let served = client.ask_within(PROMPT, "one more").is_some();
        held.push(client);
        !served || held.len() > 400
    });

    // then
    assert!((20..400).contains(&held.len()), "the budget leaves room for flows: {}", held.len());
    assert!(dropped(&proxy) >= 1.0, "a refusal is counted");
    held.iter().take(20).for_each(|client| client.echoes("unhurt"));

    // when
    proxy.reload(&config.with_flows_ended(&proxy.main()).unwrap().toml());

    // then
    eventually("there is room again", || Datagrams::open(proxy.main()).ask_within(PROMPT, "room").is_some());
    proxy.finish();
}

#[test]
fn running_out_of_local_ports_is_never_the_backends_fault() {
    if !needs_root() || !needs_tools(&["ip"]) {
        return;
    }
    // given: ten ports to send from, and clients elsewhere
    let link = Link::new();
    let backend = link.far.enter(|| DatagramBackend::start_on("far", &format!("{}:0", link.far_address)));
    let config = Config::datagrams([backend.address()], "2s").listen(&format!("{}:4000", link.near_address));
    let proxy = config.start_with(Options { netns: Some(link.near.clone()), ..Options::default() });
    proxy.expect_log("port");
    link.near.sysctl("ipv4/ip_local_port_range", "40000 40009");
    let open = || link.far.enter(|| Datagrams::open(proxy.main()));
    let held = [(); 10].map(|()| open());
    held.iter().for_each(|client| client.echoes("held"));

    // when
    let refused = open().ask_within(PROMPT, "one more");

    // then
    assert_eq!(refused, None);
    assert!(dropped(&proxy) >= 1.0, "a refusal is counted");
    assert_eq!(proxy.metrics().sum("backend_connect_failures_total"), 0.0, "our shortage is no failure of a backend");
    assert_eq!(proxy.state(backend.address()), "up", "our shortage takes no backend out");
    held.iter().for_each(|client| client.echoes("unhurt"));
    eventually("ports that are free again are used", || open().ask_within(PROMPT, "again").is_some());
    proxy.finish();
}

#[test]
fn a_service_whose_backends_all_have_weight_zero_drops_and_counts() {
    let backend = DatagramBackend::start("backend");
    let resting = format!("{{ address = \"{}\", weight = 0 }}", backend.address());
    let proxy = Config::datagrams([resting.as_str()], LONG).start();
    proxy.expect_log("weight 0");
    assert_eq!(Datagrams::open(proxy.main()).ask_within(PROMPT, "anybody?"), None);
    assert!(dropped(&proxy) >= 1.0, "a refusal is counted");
    assert_eq!(backend.count(), 0);
    proxy.finish();
}

#[test]
fn a_loop_through_own_listeners_dies_out() {
    // given: two listeners, each the backend of the other
    let host = loopback();
    let (one, two) = (format!("{host}:4001"), format!("{host}:4002"));
    let config = Config::datagrams([two.as_str()], "1s").listen(&one).more(&format!(
        "[[listener]]\nname = \"other\"\nlisten = \"{two}\"\nprotocol = \"udp\"\nidle_timeout = \"1s\"\n\
         service = \"back\"\n\n[[service]]\nname = \"back\"\nbackends = [\"{one}\"]\nhealth = {{ kind = \"none\" }}\n"
    ));
    let proxy = match Proxy::try_start(&config.toml(), Options::default()) {
        Ok(proxy) => proxy,
        Err(exited) => {
            assert_eq!(exited.code, Some(2), "a loop that shows in the configuration is refused as such: {exited:?}");
            assert!(exited.stderr.contains(&one) && exited.stderr.contains("listener"), "{exited:?}");
            return;
        }
    };
    proxy.expect_trouble_with_backends();
    proxy.expect_log("loop");

    // when
    assert_eq!(Datagrams::open(&one).ask_within(PROMPT, "round and round"), None);

    // then
    let received = || proxy.metrics().sum("udp_datagrams_total{side=\"client\",direction=\"received\"}");
    let before = received();
    observe(Duration::from_millis(500));
    assert_eq!(received(), before, "nothing goes round for ever");
    assert!(before < 10.0, "one datagram does not become many: {before}");
    assert!(dropped(&proxy) >= 1.0, "what came round is dropped and counted");
    proxy.finish();
}

/// A client that has talked for a second, a few times, and so shown that it receives what is sent to it.
fn proven(source: Ipv4Addr, proxy: &Proxy) -> Datagrams {
    let client = Datagrams::open_from(source, &proxy.main());
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1_100) {
        client.echoes("hello");
        observe(Duration::from_millis(150));
    }
    client.echoes("hello again");
    client
}

/// Holds three flows, the limit, and expects the refusal of one more under the given name.
fn refuses_the_fourth(proxy: &Proxy, limit: &str) {
    // given
    let held = [(); 3].map(|()| Datagrams::open(proxy.main()));
    let served = held.each_ref().map(who_serves);

    // when
    let fourth = Datagrams::open(proxy.main());
    let refused = fourth.ask_within(PROMPT, "one more");

    // then
    assert_eq!(refused, None, "a flow beyond the limit is not begun");
    assert_eq!(refusals(proxy, limit), 1.0, "a refusal is counted under its limit");
    assert_eq!(held.each_ref().map(who_serves), served, "who is there stays");
    eventually("a place that is free again is given away", || fourth.ask_within(PROMPT, "now").is_some());
}

/// Datagrams that were refused by a limit.
fn refusals(proxy: &Proxy, limit: &str) -> f64 {
    proxy.metrics().sum(&format!("udp_dropped_datagrams_total{{listener=\"main\",reason=\"limit_{limit}\"}}"))
}

/// Datagrams that were dropped, each for a reason.
fn dropped(proxy: &Proxy) -> f64 {
    proxy.metrics().sum("udp_dropped_datagrams_total")
}

/// Ends a flood also when the test fails meanwhile.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Sends about 4,000 datagrams a second, each from another stranger, until told to stop; how many.
fn flood(forger: &Forger, payload: &str, going: &AtomicBool) -> u32 {
    let start = Instant::now();
    let mut sent = 0;
    while going.load(Ordering::Relaxed) {
        for _ in 0..20 {
            forger.send(stranger(sent), payload.as_bytes());
            sent += 1;
        }
        observe((start + Duration::from_micros(250) * sent).saturating_duration_since(Instant::now()));
    }
    sent
}
