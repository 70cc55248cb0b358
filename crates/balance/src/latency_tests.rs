//! What a session may expect of the latency policy, on virtual time and with seeds.

use std::sync::Arc;
use std::time::Duration;

use crate::{
    Admission, Backend, BackendSet, ConnectFailure, Endpoint, Facts, Lease, Pick, PickReason, Policy, Rng, Sample,
    Settings, SoFar, Standing, TurnClass, Zone, ZoneGate, Zones,
};

fn settings() -> Settings {
    Settings { home: zone("home"), ..Settings::new("test") }
}

fn zone(name: &str) -> Zone {
    Zone::new(name).unwrap()
}

fn endpoint(n: u16, at: &str) -> Endpoint {
    Endpoint {
        address: format!("10.0.{}.{}:80", n >> 8, n & 255).parse().unwrap(),
        weight: 1,
        zone: zone(at),
        priority: 0,
        facts: Facts::default(),
        server_id: None,
    }
}

fn at_home(count: u16) -> BackendSet {
    BackendSet::new(settings(), (0..count).map(|n| endpoint(n, "home")).collect())
}

/// Three at home and three far away.
fn two_zones(settings: Settings) -> BackendSet {
    let endpoints = (0..6).map(|n| endpoint(n, if n < 3 { "home" } else { "far" }));
    BackendSet::new(settings, endpoints.collect())
}

fn picked(pick: Pick) -> Lease {
    match pick {
        Pick::Backend(lease) => lease,
        other => panic!("nothing was picked though a backend is there: {other:?}"),
    }
}

fn pick(set: &BackendSet, now_ms: u64) -> Lease {
    picked(set.pick(now_ms, 0, &[], &mut Rng::new(now_ms)))
}

fn turn(took_ms: u32) -> Sample {
    Sample { class: TurnClass::Later, took_us: took_ms * 1_000 }
}

/// Lets each backend of the set answer `count` times from `now_ms` on, each taking what `took_ms` says.
fn answer(set: &BackendSet, now_ms: u64, count: u64, took_ms: impl Fn(&Backend) -> u32) {
    for n in 0..count {
        for backend in set.backends() {
            let grant = crate::lease::Grant { reason: PickReason::Local, score: 0.0, on_trial: false, capacity: 0 };
            let mut lease = Lease::new(backend, grant).unwrap();
            let rtt = if backend.zone().as_str() == "far" { 20 } else { 1 };
            lease.connected(now_ms + n, Duration::from_millis(rtt), &mut Rng::new(1));
            lease.turn_began(now_ms + n);
            lease.turn_ended(turn(rtt as u32 + took_ms(backend)), now_ms + n);
        }
        set.judge(now_ms + n);
    }
}

#[test]
fn the_one_that_answers_sooner_gets_more_and_the_slow_one_is_not_given_up() {
    let set = at_home(2);
    answer(&set, 1_000, 50, |backend| if backend.is(&set.backends()[0]) { 5 } else { 20 });
    let held: Vec<Lease> = (0..20).map(|n| pick(&set, 1_100 + n)).collect();
    let fast = held.iter().filter(|lease| lease.backend().is(&set.backends()[0])).count();
    assert!((15..=17).contains(&fast), "four times as fast is four times the load: {fast}");
}

#[test]
fn a_dropped_lease_takes_back_all_that_it_counted() {
    let set = at_home(1);
    let state = set.backends()[0].state();
    for stage in 0..4 {
        let mut lease = pick(&set, 1_000);
        if stage > 0 {
            lease.connected(1_000, Duration::from_millis(1), &mut Rng::new(1));
        }
        if stage > 1 {
            lease.turn_began(1_001);
            lease.turn_began(1_002);
            assert_eq!(state.turns(), 1, "a pipeline is one turn");
        }
        if stage > 2 {
            lease.turn_ended(turn(3), 1_005);
            assert_eq!(state.turns(), 0);
            lease.turn_began(1_006);
        }
        drop(lease);
        assert_eq!((state.sessions(), state.connecting(), state.turns()), (0, 0, 0), "stage {stage}");
    }
}

#[test]
fn weights_are_shares_and_not_counts() {
    let weighted = |n: u16, weight| Endpoint { weight, ..endpoint(n, "home") };
    for scale in [1, 1_000] {
        let set = BackendSet::new(settings(), vec![weighted(0, scale), weighted(1, 3 * scale)]);
        answer(&set, 1_000, 50, |_| 5);
        let held: Vec<Lease> = (0..40).map(|n| pick(&set, 1_100 + n)).collect();
        let heavy = held.iter().filter(|lease| lease.backend().is(&set.backends()[1])).count();
        assert!((29..=31).contains(&heavy), "three quarters, at any scale of weights: {heavy}");
    }
}

#[test]
fn sixteen_are_drawn_evenly_from_many() {
    let set = at_home(100);
    let mut rng = Rng::new(4);
    let mut counts = [0u32; 100];
    for n in 0..20_000 {
        let lease = picked(set.pick(1_000 + n / 100, 0, &[], &mut rng));
        counts[set.backends().iter().position(|backend| backend.is(lease.backend())).unwrap()] += 1;
    }
    assert!(counts.iter().all(|&count| (120..=290).contains(&count)), "a draw is uneven: {counts:?}");
}

#[test]
fn nobody_leaves_a_home_zone_that_is_as_fast_as_ever() {
    let set = two_zones(settings());
    answer(&set, 1_000, 100, |backend| if backend.zone().as_str() == "far" { 1 } else { 50 });
    let lease = pick(&set, 1_200);
    assert_eq!((lease.zone().as_str(), lease.reason()), ("home", PickReason::Local));
    assert_eq!(set.explain(1_200, 0, &[], &mut Rng::new(1)).gate, ZoneGate::Closed);
}

/// Home answers in 5 ms, and then in 100 ms.
fn congested(settings: Settings) -> BackendSet {
    let set = two_zones(settings);
    answer(&set, 1_000, 200, |_| 5);
    answer(&set, 2_000, 3_000, |backend| if backend.zone().as_str() == "far" { 5 } else { 100 });
    set
}

#[test]
fn a_congested_home_is_left_for_a_zone_that_answers_sooner_with_the_distance_counted() {
    let set = congested(settings());
    let lease = pick(&set, 5_000);
    assert_eq!((lease.zone().as_str(), lease.reason()), ("far", PickReason::Spill));
    let zones = set.zones(5_000);
    let (home, far) = (zones.iter().find(|it| it.home).unwrap(), zones.iter().find(|it| !it.home).unwrap());
    assert!(home.gate_open && home.gate_flips == 1 && far.spills == 1, "{zones:?}");
    assert!(home.floor_us < 12_000.0, "the floor remembers what home can do: {}", home.floor_us);
}

#[test]
fn a_zone_that_is_farther_than_the_wait_is_not_worth_it() {
    let set = two_zones(settings());
    answer(&set, 1_000, 200, |_| 5);
    answer(&set, 2_000, 3_000, |backend| if backend.zone().as_str() == "far" { 5 } else { 14 });
    let explanation = set.explain(5_000, 0, &[], &mut Rng::new(1));
    assert_eq!(explanation.gate, ZoneGate::Open);
    assert_eq!(pick(&set, 5_000).zone().as_str(), "home", "15 ms at home is less than 25 ms far away");
    let patient = Settings { zone_margin: Duration::from_millis(500), ..settings() };
    assert_eq!(pick(&congested(patient), 5_000).zone().as_str(), "home", "the margin holds it");
}

#[test]
fn strict_stays_and_ignore_does_not_care() {
    let strict = congested(Settings { zones: Zones::Strict, ..settings() });
    assert_eq!(pick(&strict, 5_000).zone().as_str(), "home");
    let gone = strict.next(strict.settings().clone(), (3..6).map(|n| endpoint(n, "far")).collect());
    assert!(matches!(gone.pick(5_001, 0, &[], &mut Rng::new(1)), Pick::Refuse), "strict never leaves");
    let ignore = congested(Settings { zones: Zones::Ignore, ..settings() });
    let lease = pick(&ignore, 5_000);
    assert_eq!((lease.zone().as_str(), lease.reason()), ("far", PickReason::Local));
}

fn refuse(set: &BackendSet, backend: &Arc<Backend>, now_ms: u64, times: u32) {
    let grant = crate::lease::Grant { reason: PickReason::Local, score: 0.0, on_trial: false, capacity: 0 };
    for _ in 0..times {
        let lease = Lease::new(backend, grant).unwrap();
        set.connect_failed(lease, now_ms, ConnectFailure::Refused, &mut Rng::new(1));
    }
}

#[test]
fn a_home_zone_that_is_out_is_left_tried_one_by_one_and_returned_to() {
    let set = two_zones(settings());
    answer(&set, 1_000, 100, |_| 5);
    set.backends()[..3].iter().for_each(|backend| refuse(&set, backend, 2_000, 5));
    assert_eq!(pick(&set, 2_001).reason(), PickReason::Spill);

    set.backends()[..3].iter().for_each(|backend| backend.state().probe_succeeded(4_000));
    let mut trials: Vec<Lease> = (0..4).map(|n| pick(&set, 4_001 + n)).collect();
    let reasons: Vec<PickReason> = trials.iter().map(Lease::reason).collect();
    use PickReason::{Spill, Trial};
    assert_eq!(reasons, [Trial, Trial, Trial, Spill], "one session tries each, and the rest stay away");
    for trial in &mut trials[..3] {
        trial.connected(4_010, Duration::from_millis(1), &mut Rng::new(1));
    }
    set.judge(4_200);
    assert_eq!(pick(&set, 4_200).zone().as_str(), "home");
}

#[test]
fn a_retry_whose_home_failed_twice_goes_to_another_zone() {
    let set = two_zones(settings());
    answer(&set, 1_000, 100, |_| 5);
    let tried: Vec<Arc<Backend>> = set.backends()[..2].iter().map(Arc::clone).collect();
    let first = picked(set.pick(1_200, 0, &tried[..1], &mut Rng::new(1)));
    assert_eq!((first.zone().as_str(), first.reason()), ("home", PickReason::Retry));
    assert_eq!(picked(set.pick(1_200, 0, &tried, &mut Rng::new(1))).zone().as_str(), "far");
}

#[test]
fn accepting_and_resetting_is_failing_and_only_an_answer_ends_the_trial() {
    let set = at_home(3);
    answer(&set, 1_000, 50, |_| 5);
    let bad = Arc::clone(&set.backends()[1]);
    let mut rng = Rng::new(1);
    let grant = crate::lease::Grant { reason: PickReason::Local, score: 0.0, on_trial: false, capacity: 0 };
    let mut ejected = false;
    for n in 0..5 {
        let mut lease = Lease::new(&bad, grant).unwrap();
        lease.connected(2_000 + n, Duration::from_millis(1), &mut rng);
        lease.turn_began(2_000 + n);
        ejected |= lease.server_finished(2_000 + n, &mut rng);
    }
    assert!(ejected && bad.standing(2_010) == Standing::Ejected);

    let mut trial = pick(&set, 8_000);
    assert_eq!(trial.reason(), PickReason::Trial);
    trial.connected(8_000, Duration::from_millis(1), &mut rng);
    assert_eq!(bad.standing(8_001), Standing::Trial, "that it accepts proves nothing");
    assert_ne!(pick(&set, 8_002).reason(), PickReason::Trial);
    let mut second = pick(&set, 9_100);
    assert_eq!(second.reason(), PickReason::Trial, "a silent trial does not keep others from trying");
    trial.turn_began(9_200);
    trial.turn_ended(turn(5), 9_201);
    assert_eq!(bad.standing(9_202), Standing::Up);
    second.connected(9_203, Duration::from_millis(1), &mut rng);
    drop((trial, second));
    assert_eq!(bad.standing(9_204), Standing::Up, "a trial that comes late takes nothing back");
}

#[test]
fn a_client_that_gives_up_blames_only_a_backend_that_answers_nobody() {
    let set = at_home(1);
    answer(&set, 1_000, 50, |_| 5);
    let mut rng = Rng::new(1);
    let (mut waiting, mut other) = (pick(&set, 2_000), pick(&set, 2_000));
    waiting.turn_began(2_000);
    other.turn_began(3_000);
    other.turn_ended(turn(5), 3_005);
    waiting.client_gone(2_000, 4_000, &mut rng);
    let state = set.backends()[0].state();
    assert_eq!(state.unanswered_total(), 0, "it answered somebody in the meantime");
    waiting.turn_began(5_000);
    waiting.client_gone(500, 5_500, &mut rng);
    assert_eq!(state.unanswered_total(), 0, "half a second is not long");
    waiting.turn_began(6_000);
    waiting.client_gone(20, 8_000, &mut rng);
    assert_eq!(state.unanswered_total(), 0, "it was still sending, as who only sends does");
    waiting.turn_began(9_000);
    waiting.client_gone(2_000, 11_000, &mut rng);
    assert_eq!(state.unanswered_total(), 1);
}

#[test]
fn a_service_that_only_listens_is_not_blamed_for_its_silence() {
    let set = at_home(1);
    let mut rng = Rng::new(1);
    let state = set.backends()[0].state();
    for round in 0..10 {
        let now_ms = 10_000 * (1 + round);
        let (mut left, mut ended) = (pick(&set, now_ms), pick(&set, now_ms));
        left.turn_began(now_ms);
        ended.turn_began(now_ms);
        left.client_gone(5_000, now_ms + 5_000, &mut rng);
        ended.server_finished(now_ms + 5_000, &mut rng);
    }
    assert_eq!(state.unanswered_total(), 0);
    let mut reset = pick(&set, 200_000);
    reset.turn_began(200_000);
    let so_far = SoFar { received_bytes: 10, sent_bytes: 0, half_closed: false, lasted: Duration::from_millis(1) };
    reset.server_reset(so_far, 200_001, &mut rng);
    assert_eq!(state.unanswered_total(), 1, "a reset is a failure wherever it comes from");
}

#[test]
fn an_unknown_backend_earns_its_traffic_by_answering() {
    let set = at_home(2);
    answer(&set, 1_000, 50, |_| 5);
    let set = set.next(settings(), (0..3).map(|n| endpoint(n, "home")).collect());
    let held: Vec<Lease> = (0..30).map(|n| pick(&set, 2_000 + n)).collect();
    let fresh = held.iter().filter(|lease| lease.backend().is(&set.backends()[2])).count();
    assert!((1..=3).contains(&fresh), "without an answer it gets a few and no more: {fresh}");
    let terms = set.candidate(2, 2_100).terms;
    assert!(terms.samples == 0 && terms.warming > 1.0 && (terms.expected_us - 5_000.0).abs() < 100.0, "{terms:?}");
}

#[test]
fn what_was_learnt_long_ago_fades_to_the_floor() {
    let set = at_home(3);
    answer(&set, 1_000, 50, |backend| if backend.is(&set.backends()[0]) { 50 } else { 5 });
    let expected = |now_ms| set.candidate(0, now_ms).terms.expected_us;
    assert!((expected(5_900) - 50_000.0).abs() < 100.0, "for five seconds it is believed");
    assert!(expected(60_000) < 5_500.0, "then less and less");
    assert!((expected(5_900) - 50_000.0).abs() < 100.0, "reading changes nothing");
}

#[test]
fn a_full_backend_is_not_picked_and_when_all_are_full_sessions_wait() {
    for policy in Policy::ALL {
        let full = Settings { policy, max_connections_per_backend: 2, ..settings() };
        let backup = Endpoint { priority: 1, ..endpoint(9, "home") };
        let set = BackendSet::new(full, vec![endpoint(0, "home"), endpoint(1, "home"), backup]);
        let mut rng = Rng::new(1);
        let held: Vec<Lease> = (0..4).map(|n| picked(set.pick(1_000, n, &[], &mut rng))).collect();
        assert!(set.backends()[..2].iter().all(|backend| backend.state().sessions() == 2), "{policy}");
        let seen = set.turnstile().passed();
        assert!(
            matches!(set.pick(1_001, 7, &[], &mut rng), Pick::Wait),
            "{policy}: backups are for those who are gone"
        );
        drop(held);
        assert_eq!(set.turnstile().passed() - seen, 4, "every place that was freed is counted");
        assert!(matches!(set.pick(1_001, 7, &[], &mut rng), Pick::Backend(_)), "{policy}");
    }
}

#[test]
fn a_full_home_zone_spills_unless_it_is_strict() {
    for (zones, waits) in [(Zones::Latency, false), (Zones::Strict, true)] {
        let set = two_zones(Settings { zones, max_connections_per_backend: 1, ..settings() });
        let _held: Vec<Lease> = (0..3).map(|n| pick(&set, 1_000 + n)).collect();
        match set.pick(1_010, 0, &[], &mut Rng::new(1)) {
            Pick::Wait => assert!(waits),
            Pick::Backend(lease) => assert!(!waits && lease.reason() == PickReason::Spill),
            Pick::Refuse => panic!("there is room elsewhere"),
        }
    }
}

#[test]
fn an_explanation_names_the_winner_of_the_pick_and_changes_nothing() {
    for policy in Policy::ALL {
        let set = congested(Settings { policy, ..settings() });
        refuse(&set, &set.backends()[1], 5_000, 5);
        let before: Vec<u32> = set.backends().iter().map(|backend| backend.state().sessions()).collect();
        for n in 0..50 {
            let explanation = set.explain(5_001, n, &[], &mut Rng::new(n));
            let after: Vec<u32> = set.backends().iter().map(|backend| backend.state().sessions()).collect();
            assert_eq!(before, after);
            assert_eq!(explanation.candidates[1].admission, Admission::Ejected);
            let lease = picked(set.pick(5_001, n, &[], &mut Rng::new(n)));
            let (winner, reason) = explanation.winner.unwrap();
            assert!(set.backends()[winner].is(lease.backend()) && reason == lease.reason(), "{policy}");
        }
    }
}

#[test]
fn timed_turns_are_counted_with_the_network_and_sixteen_make_a_backend_known() {
    let set = at_home(1);
    let mut lease = pick(&set, 1);
    lease.connected(1, Duration::from_millis(1), &mut Rng::new(1));
    for n in 1..=16 {
        assert!(!set.candidate(0, n).terms.is_warm(), "{} answers are too few", n - 1);
        lease.turn_began(n);
        lease.turn_ended(turn(5), n);
    }
    lease.turn_began(17);
    lease.turn_ended(Sample { class: TurnClass::Untimed, took_us: 5_000 }, 17);
    assert!(set.candidate(0, 17).terms.is_warm());
    let seen = set.backends()[0].state().turn_seconds().snapshot();
    assert_eq!(seen.count, 16, "a turn that says nothing is not counted");
    assert!((seen.sum_seconds - 0.08).abs() < 1e-6, "each took 5 ms, network included");
}

/// Picks and connects `count` sessions, a millisecond apart.
fn open(set: &BackendSet, now_ms: u64, count: u64) -> Vec<Lease> {
    let connected = |n| {
        let mut lease = pick(set, now_ms + n);
        lease.connected(now_ms + n, Duration::from_millis(1), &mut Rng::new(1));
        lease
    };
    (0..count).map(connected).collect()
}

#[test]
fn a_pool_of_idle_sessions_that_is_opened_at_once_is_spread() {
    let set = at_home(2);
    let noise = |backend: &Backend| if backend.is(&set.backends()[0]) { 2 } else { 3 };
    answer(&set, 1_000, 50, noise);
    // Half a minute of idle sessions, which make an open session count for next to nothing.
    let _idle = open(&set, 1_100, 4);
    (0..300).for_each(|n| set.judge(2_000 + 100 * n));
    assert!(set.duty() < 0.05);
    answer(&set, 32_000, 20, noise);
    let held = open(&set, 32_100, 20);
    let fast = held.iter().filter(|lease| lease.backend().is(&set.backends()[0])).count();
    assert!((11..=14).contains(&fast), "a little faster is a little more, not everything: {fast}");
}
