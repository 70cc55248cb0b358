//! What a pick costs, with its counters, and what a new set costs.

use std::hint::black_box;
use std::time::Duration;

use balance::{BackendSet, Endpoint, Facts, Pick, Policy, Rng, Sample, Settings, TurnClass, Zone, source_key};
use criterion::{Criterion, criterion_group, criterion_main};

fn settings(policy: Policy) -> Settings {
    Settings { policy, ..Settings::new("bench") }
}

fn endpoints(count: u32) -> Vec<Endpoint> {
    let endpoint = |n: u32| Endpoint {
        address: format!("10.{}.{}.{}:80", n >> 16, n >> 8 & 255, n & 255).parse().expect("an address"),
        weight: 1 + n % 3,
        zone: Zone::default(),
        priority: 0,
        facts: Facts::default(),
        server_id: None,
    };
    (0..count).map(endpoint).collect()
}

/// A set whose backends are all known, as after some minutes of traffic.
fn warm(policy: Policy, count: u32) -> BackendSet {
    let set = BackendSet::new(settings(policy), endpoints(count));
    let mut rng = Rng::new(1);
    for n in 0..u64::from(count) * 20 {
        if let Pick::Backend(mut lease) = set.pick(1_000, source(n), &[], &mut rng) {
            lease.connected(1_000, Duration::from_micros(200), &mut rng);
            lease.turn_began(1_000);
            lease.turn_ended(Sample { class: TurnClass::First, took_us: 5_000 + rng.below(2_000) as u32 }, 1_000);
        }
    }
    set
}

fn source(n: u64) -> u64 {
    source_key(std::net::Ipv4Addr::from(n as u32).into())
}

/// A pick and the end of its lease: all counters up and down.
fn pick(c: &mut Criterion) {
    for policy in Policy::ALL {
        let mut group = c.benchmark_group(format!("pick/{policy}"));
        for count in [10, 16, 100, 1_000] {
            let set = warm(policy, count);
            let (mut rng, mut n) = (Rng::new(2), 0u64);
            group.bench_function(count.to_string(), |b| {
                b.iter(|| {
                    n += 1;
                    // A pick each microsecond, within the time in which what is known is fresh.
                    black_box(set.pick(1_100 + n / 1_000 % 3_000, n, &[], &mut rng))
                });
            });
        }
        group.finish();
    }
}

/// The whole life of a short connection as the policy sees it.
fn life(c: &mut Criterion) {
    let mut group = c.benchmark_group("life/latency");
    for count in [16, 1_000] {
        let set = warm(Policy::Latency, count);
        let (mut rng, mut n) = (Rng::new(2), 0u64);
        group.bench_function(count.to_string(), |b| {
            b.iter(|| {
                n += 1;
                let now_ms = 1_100 + n / 1_000 % 3_000;
                let Pick::Backend(mut lease) = set.pick(now_ms, n, &[], &mut rng) else { return };
                lease.connected(now_ms, Duration::from_micros(200), &mut rng);
                lease.turn_began(now_ms);
                lease.turn_ended(Sample { class: TurnClass::First, took_us: 5_000 }, now_ms);
            });
        });
    }
    group.finish();
}

/// Building a set, afresh and after another one.
fn build(c: &mut Criterion) {
    let mut group = c.benchmark_group("build");
    group.sample_size(10);
    for (policy, counts) in [(Policy::Latency, &[10, 1_000, 100_000][..]), (Policy::Maglev, &[10, 655, 1_000])] {
        for &count in counts {
            let endpoints = endpoints(count);
            let first = BackendSet::new(settings(policy), endpoints.clone());
            group.bench_function(format!("{policy}/{count}"), |b| {
                b.iter(|| BackendSet::new(settings(policy), endpoints.clone()));
            });
            group.bench_function(format!("{policy}/{count}/next"), |b| {
                b.iter(|| first.next(settings(policy), endpoints.clone()));
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).without_plots();
    targets = pick, life, build
}
criterion_main!(benches);
