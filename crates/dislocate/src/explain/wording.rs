//! The words and the table, from answers made by hand.

use super::{Best, CandidateJson, Explained, Winner, sentence, table};
use crate::views::ZoneJson;

fn candidate(n: u8, zone: &str, score_ms: f64) -> CandidateJson {
    CandidateJson {
        address: format!("10.0.0.{n}:80"),
        source: None,
        orphan: false,
        zone: zone.into(),
        priority: 0,
        state: "up".into(),
        admission: "admitted".into(),
        score_ms: Some(score_ms),
        answer_ms: Some(4.0),
        expected_ms: 4.0,
        base_ms: None,
        load: 1.0,
        load_measured: 1.0,
        weight: 1,
        weight_share: 1.0,
        failure_factor: 1.0,
        warming_factor: 1.0,
        answers: 20,
        warming: false,
        time_ms: Some(score_ms),
        turns: 1,
        sessions: 3,
        connecting: 0,
        failure_ratio: 0.0,
    }
}

fn zone(name: &str, home: bool, time_ms: Option<f64>) -> ZoneJson {
    ZoneJson {
        zone: name.into(),
        home,
        panic: false,
        gate_open: false,
        gate_flips: 0,
        floor_ms: Some(4.0),
        time_ms,
        base_ms: Some(0.5),
        spills: 7,
    }
}

/// Two at home and one in `ams`; the first of them wins for `reason`.
fn told(reason: &str, gate: &str) -> Explained {
    let candidates = vec![candidate(1, "fra", 8.0), candidate(2, "fra", 9.5), candidate(3, "ams", 7.0)];
    Explained {
        listener: "main".into(),
        service: "app".into(),
        balance: "latency".into(),
        source: None,
        home: "fra".into(),
        zone_mode: "latency".into(),
        zone_margin_ms: 1.0,
        duty: 0.25,
        gate: gate.into(),
        waits: false,
        waiting: 0,
        winner: Some(winner(1, "fra", reason)),
        best_home: Some(Best { address: "10.0.0.1:80".into(), zone: "fra".into(), time_ms: 8.5 }),
        best_away: None,
        zones: vec![zone("fra", true, Some(5.0)), zone("ams", false, None)],
        candidates,
    }
}

fn winner(n: u8, zone: &str, reason: &str) -> Winner {
    Winner { address: format!("10.0.0.{n}:80"), zone: zone.into(), reason: reason.into(), score_ms: Some(8.0) }
}

fn away(time_ms: f64) -> Option<Best> {
    Some(Best { address: "10.0.0.3:80".into(), zone: "ams".into(), time_ms })
}

#[test]
fn a_winner_at_home_is_compared_with_the_next_and_the_gate_is_told() {
    assert_eq!(
        sentence(&told("local", "closed")),
        "10.0.0.1:80 has the lowest score of home zone fra: 8 ms, before 10.0.0.2:80 with 9.5 ms. The gate is closed: \
         fra answers in 5 ms, 1.2 times its time without congestion, so that no other zone is looked at."
    );
    let open = Explained { best_away: away(8.0), ..told("local", "open") };
    assert_eq!(
        sentence(&open),
        "10.0.0.1:80 has the lowest score of home zone fra: 8 ms, before 10.0.0.2:80 with 9.5 ms. The gate is open: \
         fra answers in 5 ms now, against 4 ms without congestion. But the best elsewhere, 10.0.0.3:80 in ams, would \
         take 8 ms with the distance counted, which is not sooner than 8.5 ms by more than 10 % and 1 ms."
    );
}

#[test]
fn a_winner_elsewhere_is_compared_with_the_best_at_home() {
    let spill = Explained { winner: Some(winner(3, "ams", "spill")), best_away: away(6.0), ..told("spill", "open") };
    assert_eq!(
        sentence(&spill),
        "The gate is open: fra answers in 5 ms now, against 4 ms without congestion. With the distance counted \
         10.0.0.3:80 in ams is to answer in 6 ms, 10.0.0.1:80 at home in 8.5 ms: sooner by more than 10 % and 1 ms."
    );
    let stuck = Explained { gate: "stuck".into(), ..spill.clone() };
    assert!(sentence(&stuck).starts_with("The best at home, 10.0.0.1:80, has not answered anything for long."));
    let nobody_home = Explained { gate: "nobody_home".into(), best_home: None, ..spill };
    assert_eq!(
        sentence(&nobody_home),
        "Nobody in the home zone fra may be picked; 10.0.0.3:80 in ams is to answer soonest of the others."
    );
}

#[test]
fn every_other_reason_has_its_words() {
    for (reason, words) in [
        ("trial", "10.0.0.1:80 was ejected and its time is over"),
        ("panic", "10.0.0.1:80 is picked in panic"),
        ("backup", "10.0.0.1:80 is a backup"),
    ] {
        let said = sentence(&told(reason, "unused"));
        assert!(said.starts_with(words), "{said}");
    }
    for (balance, words) in [
        ("round_robin", "It is the turn of 10.0.0.1:80."),
        ("least_conn", "10.0.0.1:80 has the fewest sessions for its weight."),
        ("random_two", "10.0.0.1:80 has fewer sessions than the other of two drawn"),
        ("maglev", "Clients of a unix socket are led to 10.0.0.1:80"),
    ] {
        let said = sentence(&Explained { balance: balance.into(), ..told("local", "unused") });
        assert!(said.starts_with(words), "{said}");
    }
    let none = Explained { winner: None, ..told("local", "unused") };
    assert_eq!(sentence(&none), "No backend may be picked: the session would be refused.");
    let waits = Explained { waits: true, waiting: 2, ..none };
    assert!(sentence(&waits).ends_with("would wait for a place (2 sessions wait already)."));
}

#[test]
fn alone_or_equal_is_told_as_such() {
    let mut equal = told("local", "closed");
    equal.candidates[1].score_ms = Some(8.0);
    assert!(sentence(&equal).starts_with("10.0.0.1:80 and 10.0.0.2:80 have the same score, 8 ms"));
    equal.candidates[1].admission = "down".into();
    assert!(sentence(&equal).starts_with("10.0.0.1:80 is the only backend of home zone fra that may be picked."));
}

#[test]
fn the_table_has_a_line_for_each_and_marks_the_winner() {
    let mut told = told("local", "closed");
    told.candidates[2].admission = "down".into();
    told.candidates[2].state = "down".into();
    told.candidates[1].warming = true;
    told.candidates[1].answer_ms = None;
    let text = table(&told);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "listener main, service app, balance = latency, zones = latency, gate closed");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let rows: Vec<_> = lines.iter().filter(|line| line.contains(":80  ")).map(|line| words(line)).collect();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[0][..6], [">", "10.0.0.1:80", "fra", "0", "8", "4"]);
    assert_eq!(rows[1].last().unwrap(), "warming");
    assert!(rows[1].contains(&"?".to_owned()), "what is unknown is no number");
    assert!(lines.iter().any(|line| line.ends_with("down: fails its checks")));
    assert!(lines.iter().any(|line| words(line) == ["*", "fra", "closed", "5", "4", "0.5", "7", "-"]));
}

#[test]
fn orphans_are_marked_and_said_what_they_are() {
    let mut told = told("local", "closed");
    assert!(!table(&told).contains("orphan"));
    told.candidates[1].orphan = true;
    let text = table(&told);
    assert_eq!(text.lines().filter(|line| line.ends_with("up, orphan")).count(), 1, "{text}");
    assert!(
        text.ends_with(
            "1 of 3 backends is named by no source any more and serves on while it answers; `dislocate accept-empty \
             app` ends that.\n"
        ),
        "{text}"
    );
}

#[test]
fn nothing_in_an_answer_reaches_the_terminal_as_a_command() {
    let mut told = told("local", "closed");
    told.listener = "main\u{1b}[2J".into();
    told.candidates[0].zone = "fra\r\u{7}".into();
    assert!(table(&told).chars().all(|letter| letter == '\n' || !letter.is_control()));
}
