//! The explanation as a person reads it at a terminal.

use super::{CandidateJson, Explained, sentence::sentence};
use crate::views::ZoneJson;

/// All of it. Nothing in it moves a terminal's cursor, whoever wrote the answer.
pub fn table(told: &Explained) -> String {
    let text = [head(told), zones(told), backends(told), format!("{}\n", sentence(told))].join("\n") + &orphans(told);
    text.chars().filter(|&letter| letter == '\n' || !letter.is_control()).collect()
}

fn head(told: &Explained) -> String {
    let source = told.source.map_or_else(String::new, |source| format!(", for a client at {source}"));
    let zones = match told.balance.as_str() {
        "latency" => format!(", zones = {}, gate {}", told.zone_mode, told.gate.replace('_', " ")),
        _ => String::new(),
    };
    format!("listener {}, service {}, balance = {}{zones}{source}\n", told.listener, told.service, told.balance)
}

fn zones(told: &Explained) -> String {
    let row = |zone: &ZoneJson| {
        let flag = |on: bool, word: &str| if on { word.to_owned() } else { "-".to_owned() };
        let gate = if zone.gate_open { "open" } else { "closed" };
        vec![
            flag(zone.home, "*"),
            zone.zone.clone(),
            gate.to_owned(),
            number(zone.time_ms),
            number(zone.floor_ms),
            number(zone.base_ms),
            zone.spills.to_string(),
            flag(zone.panic, "panic"),
        ]
    };
    let headings = ["home", "zone", "<gate", "time", "floor", "rtt", "spills", "<panic"];
    aligned(&headings, told.zones.iter().map(row).collect())
}

fn backends(told: &Explained) -> String {
    let winner = told.winner.as_ref().map(|winner| winner.address.as_str());
    let rows = told.candidates.iter().map(|it| row(it, winner == Some(it.address.as_str())));
    let headings = [
        "", "backend", "<zone", "prio", "score", "expect", "load", "w", "F", "W", "answer", "rtt", "at load", "T",
        "turns", "sessions", "conn", "answers", "fail", "<state",
    ];
    let formula = match told.balance.as_str() {
        "latency" => format!(
            "times in ms; score = expect x (load / w + 1) x F x W; an idle session counts as {} of load\n",
            digits(told.duty)
        ),
        _ => "times in ms\n".to_owned(),
    };
    aligned(&headings, rows.collect()) + &formula
}

/// What the word means, where it is there.
fn orphans(told: &Explained) -> String {
    match told.candidates.iter().filter(|it| it.orphan).count() {
        0 => String::new(),
        count => {
            let (all, service) = (told.candidates.len(), &told.service);
            let words = match count {
                1 => "is named by no source any more and serves on while it answers",
                _ => "are named by no source any more and serve on while they answer",
            };
            format!("{count} of {all} backends {words}; `dislocate accept-empty {service}` ends that.\n")
        }
    }
}

fn row(it: &CandidateJson, won: bool) -> Vec<String> {
    let mut state = match (it.admission.as_str(), it.warming) {
        ("admitted", true) => format!("{}, warming", it.state),
        ("admitted", false) => it.state.clone(),
        (why, _) => format!("{}: {}", it.state, why_not(why)),
    };
    if it.orphan {
        state += ", orphan";
    }
    vec![
        if won { ">" } else { "" }.to_owned(),
        it.address.clone(),
        it.zone.clone(),
        it.priority.to_string(),
        number(it.score_ms),
        digits(it.expected_ms),
        digits(it.load),
        digits(it.weight_share),
        digits(it.failure_factor),
        digits(it.warming_factor),
        number(it.answer_ms),
        number(it.base_ms),
        digits(it.load_measured),
        number(it.time_ms),
        it.turns.to_string(),
        it.sessions.to_string(),
        it.connecting.to_string(),
        it.answers.to_string(),
        format!("{:.0}%", it.failure_ratio * 100.0),
        state,
    ]
}

/// What keeps a backend from being picked, after its state.
fn why_not(admission: &str) -> &str {
    match admission {
        "tried" => "has failed this session",
        "draining" => "weight 0, takes no new sessions",
        "down" => "fails its checks",
        "ejected" => "shut out for failing real connections",
        "on_trial" => "another session tries it now",
        "panicking_zone" => "its zone is in panic, and another is well",
        "orphan" => "no source names it any more, and this is a retry",
        "full" => "has as many sessions as it may have",
        other => other,
    }
}

/// Columns two spaces apart. Numbers stand to the right; the first two columns, and those whose heading begins with
/// `<`, to the left.
fn aligned(headings: &[&str], rows: Vec<Vec<String>>) -> String {
    let titles: Vec<String> = headings.iter().map(|heading| heading.trim_start_matches('<').to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(titles).chain(rows).collect();
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let cell = |at: usize, text: &str| match at < 2 || headings[at].starts_with('<') {
        true => format!("{text:<0$}", widths[at]),
        false => format!("{text:>0$}", widths[at]),
    };
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().enumerate().map(|(at, text)| cell(at, text)).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "?".to_owned(), digits)
}

/// Three digits that count, and no more places than three.
pub(super) fn digits(value: f64) -> String {
    let places = match value.abs() {
        0.0 => 0,
        small if small < 1.0 => 3,
        small if small < 10.0 => 2,
        small if small < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.places$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}
