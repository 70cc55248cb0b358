//! Why the winner won, in words.

use super::{Best, CandidateJson, Explained, Winner};
use crate::views::ZoneJson;

/// One or two sentences for a person.
pub fn sentence(told: &Explained) -> String {
    let Some(winner) = &told.winner else { return nobody(told) };
    let address = &winner.address;
    match winner.reason.as_str() {
        "panic" => format!(
            "{address} is picked in panic: so few backends are well that checks and ejections are ignored, and all that \
             have a weight share the work."
        ),
        "trial" => format!(
            "{address} was ejected and its time is over, so that one session tries it, whatever the scores say. \
             If it answers, it is back; if it fails, the session goes elsewhere."
        ),
        "backup" => format!(
            "{address} is a backup: no backend of a lower priority number may be picked. {}",
            told.among(winner, "that priority")
        ),
        "spill" => spill(told, winner),
        _ => told.among(winner, &format!("home zone {}", told.home)),
    }
}

impl Explained {
    /// Why the winner won among its like.
    fn among(&self, winner: &Winner, place: &str) -> String {
        let address = &winner.address;
        match self.balance.as_str() {
            "latency" => format!("{} {}", self.lowest(winner, place), self.gate_in_words()).trim_end().to_owned(),
            "round_robin" => format!("It is the turn of {address}."),
            "least_conn" => format!("{address} has the fewest sessions for its weight."),
            "random_two" => {
                format!("{address} has fewer sessions than the other of two drawn at random; the next draw may differ.")
            }
            _ => match self.source {
                Some(source) => format!("The hash of {source} leads to {address}, as long as it may be picked."),
                None => {
                    format!("Clients of a unix socket are led to {address}; ask with --source IP for another client.")
                }
            },
        }
    }

    fn lowest(&self, winner: &Winner, place: &str) -> String {
        let place = if self.zone_mode == "ignore" { "all zones" } else { place };
        let rivals = || self.candidates.iter().filter(|it| it.admission == "admitted" && it.address != winner.address);
        let same_zone = |it: &&CandidateJson| self.zone_mode == "ignore" || it.zone == winner.zone;
        let Some(next) = rivals().find(|it| same_zone(it)) else {
            return format!("{} is the only backend of {place} that may be picked.", winner.address);
        };
        let (own, other) = (time(winner.score_ms), time(next.score_ms));
        match winner.score_ms <= next.score_ms {
            true if own == other => {
                format!("{} and {} have the same score, {own}: it is drawn among them.", winner.address, next.address)
            }
            true => format!(
                "{} has the lowest score of {place}: {own}, before {} with {other}.",
                winner.address, next.address
            ),
            false => format!(
                "{} has the lowest score of those that this pick looked at, {own}: of more than 16 it draws 16.",
                winner.address
            ),
        }
    }

    fn gate_in_words(&self) -> String {
        let zone = self.zones.iter().find(|it| it.home);
        let away = self.best_away.as_ref();
        match (self.gate.as_str(), zone, away) {
            ("closed", Some(zone), _) if self.zones.len() > 1 => {
                format!("The gate is closed: {}, so that no other zone is looked at.", pace(zone, false))
            }
            ("open", Some(zone), Some(away)) => format!(
                "The gate is open: {}. But the best elsewhere, {} in {}, would take {} with the distance counted, \
                 which is not sooner than {} by more than 10 % and {}.",
                pace(zone, true),
                away.address,
                away.zone,
                time(Some(away.time_ms)),
                time(self.best_home.as_ref().map(|best| best.time_ms)),
                time(Some(self.zone_margin_ms))
            ),
            ("open", Some(zone), None) => {
                format!("The gate is open: {}. But nobody elsewhere may be picked.", pace(zone, true))
            }
            ("stuck", ..) => {
                "It has answered nothing for long, but nobody elsewhere is to answer so much sooner that it is left."
                    .to_owned()
            }
            ("unused", ..) if self.zone_mode == "strict" => {
                "The home zone is never left (zones = \"strict\").".to_owned()
            }
            _ => String::new(),
        }
    }
}

fn spill(told: &Explained, winner: &Winner) -> String {
    let address = &winner.address;
    let far = format!("{address} in {}", winner.zone);
    let why = match (told.gate.as_str(), told.zones.iter().find(|it| it.home)) {
        ("open", Some(zone)) => format!("The gate is open: {}.", pace(zone, true)),
        ("stuck", _) => format!(
            "The best at home, {}, has not answered anything for long.",
            told.best_home.as_ref().map_or("none", |best| best.address.as_str())
        ),
        _ => {
            return format!(
                "Nobody in the home zone {} may be picked; {far} is to answer soonest of the others.",
                told.home
            );
        }
    };
    let (away, home) = (told.best_away.as_ref(), told.best_home.as_ref());
    let at = |best: Option<&Best>| time(best.map(|best| best.time_ms));
    format!(
        "{why} With the distance counted {far} is to answer in {}, {} at home in {}: sooner by more than 10 % and {}.",
        at(away),
        home.map_or("nobody", |best| best.address.as_str()),
        at(home),
        time(Some(told.zone_margin_ms))
    )
}

fn nobody(told: &Explained) -> String {
    if told.waits {
        let queue = match told.waiting {
            0 => "nobody waits yet".to_owned(),
            1 => "1 session waits already".to_owned(),
            more => format!("{more} sessions wait already"),
        };
        return format!("All backends that may be picked are full: the session would wait for a place ({queue}).");
    }
    match told.candidates.is_empty() {
        true => "The service has no backends: the session would be refused.".to_owned(),
        false => "No backend may be picked: the session would be refused.".to_owned(),
    }
}

/// How a zone does against its floor.
fn pace(zone: &ZoneJson, slow: bool) -> String {
    match (zone.time_ms, zone.floor_ms) {
        (Some(now), Some(floor)) if slow => {
            format!(
                "{} answers in {} now, against {} without congestion",
                zone.zone,
                time(Some(now)),
                time(Some(floor))
            )
        }
        (Some(now), Some(floor)) => {
            format!(
                "{} answers in {}, {:.1} times its time without congestion",
                zone.zone,
                time(Some(now)),
                now / floor
            )
        }
        _ => format!("too few answers of {} are known to call it slow", zone.zone),
    }
}

/// A time for people.
pub(super) fn time(ms: Option<f64>) -> String {
    match ms {
        None => "an unknown time".to_owned(),
        Some(ms) if ms >= 1e3 => format!("{:.1} s", ms / 1e3),
        Some(ms) => format!("{} ms", super::table::digits(ms)),
    }
}
