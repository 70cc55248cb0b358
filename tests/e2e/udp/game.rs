//! The load of a game: many clients, each with a small datagram at a fixed rate that must be answered.

use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Behaviour, Config, DatagramBackend, Datagrams, LONG, observe, who_serves};

const CLIENTS: usize = 1_000;
const THREADS: usize = 4;

/// Ticks a second of each client. Ten thousand datagrams a second each way is what a build without optimization does
/// beside other tests on two processors; `benches/` has the rates of the optimized one.
const RATE: u32 = 10;
const LENGTH: Duration = Duration::from_secs(3);

/// Bytes of one update.
const UPDATE: usize = 120;

#[test]
fn a_thousand_players_get_every_answer() {
    // given
    let backends = DatagramBackend::each(["a", "b"]);
    backends.iter().for_each(|backend| backend.behaves(Behaviour::Answers));
    let config = Config::datagrams(backends.each_ref().map(DatagramBackend::address), LONG).node("workers = 2");
    let proxy = config.start();
    let players: Vec<Datagrams> = (0..CLIENTS).map(|_| Datagrams::open(proxy.main())).collect();
    let seats: Vec<_> = players.iter().map(who_serves).collect();

    // when
    let start = Instant::now();
    let mut latencies = thread::scope(|scope| {
        let rooms = players.chunks(CLIENTS / THREADS).map(|room| scope.spawn(move || play(room, start)));
        let rooms: Vec<_> = rooms.collect();
        rooms.into_iter().flat_map(|room| room.join().unwrap()).collect::<Vec<Duration>>()
    });

    // then: a loss would have ended `play`
    latencies.sort();
    let percentile = |percent: usize| latencies[(latencies.len() - 1) * percent / 100];
    println!("{} updates, none lost: p50 {:?}, p99 {:?}", latencies.len(), percentile(50), percentile(99));
    assert_eq!(players.iter().map(who_serves).collect::<Vec<_>>(), seats, "everybody plays where they began");
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("udp_flows_created_total"), CLIENTS as f64);
    assert_eq!(metrics.sum("udp_dropped_datagrams_total"), 0.0);
    proxy.finish();
}

/// Plays one room from `start` on and returns how long each answer took. An answer is the update that it is to.
fn play(room: &[Datagrams], start: Instant) -> Vec<Duration> {
    let ticks = (LENGTH.as_secs_f64() * f64::from(RATE)) as u32;
    let mut latencies = Vec::with_capacity(room.len() * ticks as usize);
    for tick in 0..ticks {
        observe((start + LENGTH * tick / ticks).saturating_duration_since(Instant::now()));
        let updates = room.iter().enumerate().map(|(player, client)| {
            let sent = Instant::now();
            client.send(update(tick, player));
            sent
        });
        for (player, sent) in updates.collect::<Vec<_>>().into_iter().enumerate() {
            assert!(room[player].receive() == update(tick, player), "each answer is to the last update of its player");
            latencies.push(sent.elapsed());
        }
    }
    latencies
}

fn update(tick: u32, player: usize) -> Vec<u8> {
    let mut bytes = tick.to_be_bytes().to_vec();
    bytes.extend((player as u64).to_be_bytes());
    bytes.resize(UPDATE, 0x5a);
    bytes
}
