//! `/v1/explain/LISTENER`: what a pick would do now, with every term of every score. Written by the admin listener and
//! read by `dislocate explain`, through [`crate::ask`].

mod sentence;
mod table;
#[cfg(test)]
mod wording;

use balance::{BackendSet, Candidate, Explanation, Policy, Rng, source_key};
use discovery::MemberReport;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

use crate::views::{ZoneJson, known_ms, member_of, ms, zones};

pub use sentence::sentence;
pub use table::table;

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explained {
    /// The listener that was asked about.
    pub listener: String,
    /// Its service.
    pub service: String,
    /// How the service chooses.
    pub balance: String,
    /// The client's address, where one was given.
    pub source: Option<IpAddr>,
    /// The zone of the node.
    pub home: String,
    /// What zones mean: the key `zones` of the service.
    pub zone_mode: String,
    /// How much sooner another zone must answer, beside 10 %.
    pub zone_margin_ms: f64,
    /// What an open session counts for beside one that waits for an answer.
    pub duty: f64,
    /// Whether other zones were looked at, and why.
    pub gate: String,
    /// Whether the session would wait for a place.
    pub waits: bool,
    /// Sessions that wait already.
    pub waiting: u32,
    /// Who would be picked; nothing when the session would wait or be refused.
    pub winner: Option<Winner>,
    /// The best at home and the best elsewhere, where they were compared.
    pub best_home: Option<Best>,
    /// See `best_home`.
    pub best_away: Option<Best>,
    /// The zones of the service.
    pub zones: Vec<ZoneJson>,
    /// Every backend, the winner first, then by how near they are to winning.
    pub candidates: Vec<CandidateJson>,
}

/// Who would be picked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Winner {
    /// Its address.
    pub address: String,
    /// Its zone.
    pub zone: String,
    /// Why: the `reason` of picks.
    pub reason: String,
    /// What it was chosen for; nothing under policies without a score.
    pub score_ms: Option<f64>,
}

/// The best of the home zone or of the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Its address.
    pub address: String,
    /// Its zone.
    pub zone: String,
    /// When an answer is expected from there, with the distance counted.
    pub time_ms: f64,
}

/// One backend as the pick sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CandidateJson {
    /// Its address.
    pub address: String,
    /// The label of the source that found it; nothing for the configuration.
    pub source: Option<String>,
    /// Whether no source names it any more, so that it serves only while it answers.
    pub orphan: bool,
    /// Its zone.
    pub zone: String,
    /// Its level.
    pub priority: u8,
    /// Its state, in the words of `/v1/services`.
    pub state: String,
    /// `admitted`, or why it may not be picked.
    pub admission: String,
    /// The score: the lowest of a zone is its best. Nothing under policies without one, and for weight 0 with load.
    pub score_ms: Option<f64>,
    /// Estimated answer time without the network (Q); unknown before the first answer.
    pub answer_ms: Option<f64>,
    /// What the score takes for it (Qr): `answer_ms`, or the zone's floor where that is unknown or old.
    pub expected_ms: f64,
    /// Base round trip (B); unknown before the first connection.
    pub base_ms: Option<f64>,
    /// Load (L).
    pub load: f64,
    /// The load at which the answer time was measured (N).
    pub load_measured: f64,
    /// Its weight in the configuration.
    pub weight: u32,
    /// Weight over the mean of its zone (w).
    pub weight_share: f64,
    /// Failure factor (F).
    pub failure_factor: f64,
    /// Warm-up factor (W).
    pub warming_factor: f64,
    /// Timed answers since it was last unknown.
    pub answers: u32,
    /// Whether these are still too few to know it.
    pub warming: bool,
    /// When an answer is expected, with the distance counted (T), by which zones are compared. Nothing under policies
    /// without a score.
    pub time_ms: Option<f64>,
    /// Turns in flight.
    pub turns: u32,
    /// Sessions, connecting ones included.
    pub sessions: u32,
    /// Those that are connecting.
    pub connecting: u32,
    /// Share of recent tries that failed.
    pub failure_ratio: f64,
}

/// Explains a pick for a client at `source`; without one, for a client of a unix socket. Nothing is counted by it.
/// `members` in the order of addresses say where the backends are from.
pub fn explain(
    listener: &str,
    set: &BackendSet,
    members: &[MemberReport],
    source: Option<IpAddr>,
    now_ms: u64,
) -> Explained {
    let settings = set.settings();
    let scored = settings.policy == Policy::Latency;
    let told = set.explain(now_ms, source.map_or(0, source_key), &[], &mut Rng::new(now_ms));
    let winner = told.winner.map(|(at, reason)| {
        let it = &told.candidates[at];
        Winner {
            address: it.backend.address().to_string(),
            zone: it.backend.zone().to_string(),
            reason: reason.as_str().to_owned(),
            score_ms: score_ms(it, scored),
        }
    });
    let best = |best: Option<(usize, f32)>| {
        best.map(|(at, time_us)| {
            let backend = &told.candidates[at].backend;
            Best { address: backend.address().to_string(), zone: backend.zone().to_string(), time_ms: ms(time_us) }
        })
    };
    let order = ranked(&told, set);
    let candidate = |it: &Candidate| CandidateJson::new(it, member_of(members, it), scored);
    Explained {
        listener: listener.to_owned(),
        service: settings.name.to_string(),
        balance: settings.policy.as_str().to_owned(),
        source,
        home: settings.home.to_string(),
        zone_mode: settings.zones.as_str().to_owned(),
        zone_margin_ms: ms(settings.zone_margin.as_micros() as f32),
        duty: rounded(set.duty()),
        gate: told.gate.as_str().to_owned(),
        waits: told.waits,
        waiting: set.turnstile().waiting(),
        winner,
        best_home: best(told.home),
        best_away: best(told.away),
        zones: zones(&told.zones),
        candidates: order.into_iter().map(|at| candidate(&told.candidates[at])).collect(),
    }
}

/// The winner, then those who may be picked, then the others; each by level, zone (the winner's, ours, others) and score.
fn ranked(told: &Explanation, set: &BackendSet) -> Vec<usize> {
    let home = &set.settings().home;
    let winner = told.winner.map(|(at, _)| at);
    let chosen = winner.map(|at| told.candidates[at].backend.zone());
    let mut order: Vec<usize> = (0..told.candidates.len()).collect();
    order.sort_by(|&a, &b| {
        let rank = |at: usize| {
            let it = &told.candidates[at];
            let admitted = it.admission == balance::Admission::Admitted;
            let zone = it.backend.zone();
            (winner != Some(at), !admitted, it.backend.endpoint().priority, chosen != Some(zone), zone != home)
        };
        let score = |at: usize| told.candidates[at].terms.score_us;
        rank(a).cmp(&rank(b)).then(score(a).total_cmp(&score(b)))
    });
    order
}

impl CandidateJson {
    fn new(it: &Candidate, member: Option<&MemberReport>, scored: bool) -> Self {
        let (endpoint, terms) = (it.backend.endpoint(), &it.terms);
        Self {
            address: endpoint.address.to_string(),
            source: member.and_then(|member| member.source.as_deref()).map(str::to_owned),
            orphan: member.is_some_and(MemberReport::is_orphan),
            zone: endpoint.zone.to_string(),
            priority: endpoint.priority,
            state: it.standing.as_str().to_owned(),
            admission: it.admission.as_str().to_owned(),
            score_ms: score_ms(it, scored),
            answer_ms: known_ms(terms.answer_us),
            expected_ms: ms(terms.expected_us),
            base_ms: known_ms(terms.base_us),
            load: rounded(terms.load),
            load_measured: rounded(terms.load_measured),
            weight: endpoint.weight,
            weight_share: rounded(terms.weight),
            failure_factor: rounded(terms.failure),
            warming_factor: rounded(terms.warming),
            answers: terms.samples,
            warming: !terms.is_warm(),
            time_ms: scored.then(|| ms(it.time_us)),
            turns: it.turns,
            sessions: it.sessions,
            connecting: it.connecting,
            failure_ratio: rounded(it.failure_ratio),
        }
    }
}

fn score_ms(it: &Candidate, scored: bool) -> Option<f64> {
    (scored && it.terms.score_us.is_finite()).then(|| ms(it.terms.score_us))
}

/// To thousandths.
fn rounded(value: f32) -> f64 {
    (f64::from(value) * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use balance::{Endpoint, Facts, Settings, Zone};

    fn set(policy: Policy) -> BackendSet {
        let endpoint = |n: u8, weight, zone: &str| Endpoint {
            address: format!("10.0.0.{n}:80").parse().unwrap(),
            weight,
            zone: Zone::new(zone).unwrap(),
            priority: 0,
            facts: Facts::default(),
            server_id: None,
        };
        let settings = Settings { policy, home: Zone::new("here").unwrap(), ..Settings::new("app") };
        BackendSet::new(settings, vec![endpoint(1, 0, "here"), endpoint(2, 1, "there"), endpoint(3, 1, "here")])
    }

    fn addresses(told: &Explained) -> Vec<&str> {
        told.candidates.iter().map(|it| it.address.as_str()).collect()
    }

    #[test]
    fn the_winner_comes_first_and_those_who_may_not_be_picked_last() {
        let told = explain("main", &set(Policy::Latency), &[], None, 1);
        assert_eq!(addresses(&told), ["10.0.0.3:80", "10.0.0.2:80", "10.0.0.1:80"]);
        assert_eq!(told.winner.unwrap().address, "10.0.0.3:80");
        assert_eq!(told.candidates[2].admission, "draining");
        assert_eq!(told.gate, "closed");
    }

    #[test]
    fn what_is_written_can_be_read_and_the_unknown_is_not_zero() {
        let told = explain("main", &set(Policy::Latency), &[], Some("10.9.8.7".parse().unwrap()), 1);
        let text = serde_json::to_string(&told).unwrap();
        assert_eq!(serde_json::from_str::<Explained>(&text).unwrap(), told);
        assert_eq!(told.candidates[0].answer_ms, None);
        assert!(told.candidates[0].score_ms.is_some());
    }

    #[test]
    fn policies_without_a_score_show_none() {
        let told = explain("main", &set(Policy::LeastConn), &[], None, 1);
        assert!(told.candidates.iter().all(|it| it.score_ms.is_none() && it.time_ms.is_none()));
    }

    #[test]
    fn explaining_counts_nothing() {
        let set = set(Policy::RoundRobin);
        let first = explain("main", &set, &[], None, 1).winner;
        assert_eq!(explain("main", &set, &[], None, 2).winner, first, "nobody's turn moves");
        assert!(set.backends().iter().all(|it| balance::PickReason::ALL.iter().all(|&why| it.state().picks(why) == 0)));
    }
}
