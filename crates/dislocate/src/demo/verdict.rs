//! Whether the story went as it should: one row for each thing that must be true.

use std::fmt;

use super::flow::Told;
use super::layout::PLACES;
use super::story::{CHAPTERS, Expect, relieves_slow_backends};
use super::text::grouped;

/// What the proxy and the kernel say when all clients are gone.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// Connections that the proxy accepted.
    pub opened: u64,
    /// Sessions that ended.
    pub closed: u64,
    /// Sessions that are left.
    pub active: u64,
    /// Backends tried after the first.
    pub retries: u64,
    /// Descriptors in the account of sessions.
    pub session_descriptors: u64,
    /// Descriptors of the process before the first client.
    pub descriptors_before: u64,
    /// And now.
    pub descriptors_after: u64,
}

/// The whole judgement.
pub struct Verdict {
    rows: Vec<Row>,
}

struct Row {
    check: String,
    required: String,
    seen: String,
    passed: bool,
}

impl Verdict {
    /// Judges a story that was told from beginning to end under `policy`.
    pub fn new(policy: &str, told: &[Told], ending: &Ending) -> Self {
        let mut rows = of_clients(told);
        for (chapter, own) in CHAPTERS.iter().zip(told) {
            let expects = chapter.expects.iter().filter(|expect| promised(policy, **expect));
            rows.extend(expects.map(|&expect| of_chapter(chapter.title, expect, own, &told[0])));
        }
        rows.extend(of_counters(told, ending));
        rows.extend(of_the_rest(ending));
        Self { rows }
    }

    /// Whether everything is as it must be.
    pub fn passed(&self) -> bool {
        self.rows.iter().all(|row| row.passed)
    }
}

/// A table, and a sentence below it.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |of: fn(&Row) -> &String, title: &str| {
            self.rows.iter().map(|row| of(row).chars().count()).chain([title.len()]).max().unwrap_or(0)
        };
        let (checks, required) = (width(|row| &row.check, "check"), width(|row| &row.required, "required"));
        let seen = width(|row| &row.seen, "seen");
        writeln!(f, "{:checks$}  {:required$}  {:seen$}  verdict", "check", "required", "seen")?;
        writeln!(f, "{:-<checks$}  {:-<required$}  {:-<seen$}  -------", "", "", "")?;
        for row in &self.rows {
            let verdict = if row.passed { "pass" } else { "FAIL" };
            writeln!(f, "{:checks$}  {:required$}  {:seen$}  {verdict}", row.check, row.required, row.seen)?;
        }
        match self.rows.iter().filter(|row| !row.passed).count() {
            0 => writeln!(f, "\nall {} checks pass", self.rows.len()),
            failed => writeln!(f, "\n{failed} of {} checks FAIL", self.rows.len()),
        }
    }
}

fn promised(policy: &str, expect: Expect) -> bool {
    match expect {
        Expect::Avoided(_) | Expect::Used(_) => true,
        Expect::Relieved(_) => relieves_slow_backends(policy),
    }
}

fn row(check: impl Into<String>, required: impl Into<String>, seen: impl Into<String>, passed: bool) -> Row {
    Row { check: check.into(), required: required.into(), seen: seen.into(), passed }
}

fn of_clients(told: &[Told]) -> Vec<Row> {
    let sum = |of: fn(&Told) -> u64| told.iter().map(of).sum::<u64>();
    let (requests, failed) = (sum(|told| told.whole.felt.requests()), sum(|told| told.whole.felt.failed));
    let answered = sum(|told| told.whole.felt.answered.count());
    let wrong = sum(|told| told.whole.felt.wrong);
    let first = CHAPTERS.iter().zip(told).find_map(|(chapter, told)| {
        let why = told.whole.felt.first_failure.as_ref()?;
        Some(format!(" ({}: {why})", chapter.title))
    });
    let seen = format!("{} of {}{}", grouped(failed), grouped(requests), first.unwrap_or_default());
    vec![
        row("requests that failed, all chapters", "0", seen, failed == 0 && requests > 0),
        row("answers with other bytes than were sent", "0", grouped(wrong), wrong == 0 && answered > 0),
    ]
}

fn of_chapter(title: &str, expect: Expect, told: &Told, first: &Told) -> Row {
    match expect {
        Expect::Avoided(index) => {
            let picks = told.tail.picks[index];
            let check = format!("{title}: {} is left alone", PLACES[index].name);
            let required = format!("at most {TRIALS} tries in the last 2 s");
            row(check, required, grouped(picks), picks <= TRIALS)
        }
        Expect::Used(index) => {
            let served = told.tail.served[index];
            let check = format!("{title}: {} has work again", PLACES[index].name);
            row(check, "answers in the last 2 s", format!("{} answers", grouped(served)), served > 0)
        }
        Expect::Relieved(index) => {
            let (before, now) = (first.tail.share(index), told.tail.share(index));
            let check = format!("{title}: its share falls");
            row(check, format!("below 4/5 of {before:.0} %"), format!("{now:.0} %"), now * 5.0 < before * 4.0)
        }
    }
}

/// Whether all who count say the same.
fn of_counters(told: &[Told], ending: &Ending) -> Vec<Row> {
    let sum = |of: &dyn Fn(&Told) -> u64| told.iter().map(of).sum::<u64>();
    let connected = sum(&|told| told.whole.felt.connected);
    let answered = sum(&|told| told.whole.felt.answered.count());
    let served = sum(&|told| told.whole.served.iter().sum());
    let picks = sum(&|told| told.whole.picks.iter().sum());
    let equal = |check, required: &str, one: u64, other: u64| {
        let seen = if one == other { grouped(one) } else { format!("{} and {}", grouped(one), grouped(other)) };
        row(check, required, seen, one == other)
    };
    vec![
        equal("connections, as the proxy counts them", "as many as clients made", ending.opened, connected),
        equal(
            "sessions that ended, plus active ones",
            "as many as began",
            ending.closed + ending.active,
            ending.opened,
        ),
        equal("picks of backends", "one a connection, one a retry", picks, ending.opened + ending.retries),
        equal("answers, as the backends count them", "as many as clients got", served, answered),
    ]
}

fn of_the_rest(ending: &Ending) -> Vec<Row> {
    let Ending { active, session_descriptors, descriptors_before, descriptors_after, .. } = *ending;
    let seen = format!("{active} and {session_descriptors}");
    let before = format!("at most {descriptors_before}, as before");
    vec![
        row("sessions left, descriptors they hold", "0 and 0", seen, active == 0 && session_descriptors == 0),
        row("open descriptors", before, descriptors_after.to_string(), descriptors_after <= descriptors_before),
    ]
}

/// Picks that a backend which is out may get while it is watched: each is the trial of one session after an ejection,
/// which a health check has mostly forbidden by then.
const TRIALS: u64 = 2;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::demo::layout::BACKENDS;

    /// A story in which all is as it should be.
    fn good() -> (Vec<Told>, Ending) {
        let told = |chapter: usize| {
            let mut told = Told::default();
            let answers: [u64; BACKENDS] = match chapter {
                1 => [0, 50, 5, 5, 1, 1],
                3 => [40, 5, 5, 5, 1, 1],
                4 => [0, 0, 30, 30, 5, 5],
                _ => [40, 40, 5, 5, 1, 1],
            };
            for flow in [&mut told.whole, &mut told.tail] {
                (flow.served, flow.picks) = (answers, answers);
                let total = answers.iter().sum();
                (0..total).for_each(|_| flow.felt.answered.note(Duration::from_millis(3)));
                flow.felt.connected = total;
            }
            told
        };
        let told: Vec<_> = (0..CHAPTERS.len()).map(told).collect();
        let opened = told.iter().map(|told| told.whole.felt.connected).sum();
        let descriptors = 30;
        let (descriptors_before, descriptors_after) = (descriptors, descriptors);
        (told, Ending { opened, closed: opened, descriptors_before, descriptors_after, ..Ending::default() })
    }

    fn failing(policy: &str, spoil: impl FnOnce(&mut Vec<Told>, &mut Ending)) -> Vec<String> {
        let (mut told, mut ending) = good();
        spoil(&mut told, &mut ending);
        let verdict = Verdict::new(policy, &told, &ending);
        verdict.rows.iter().filter(|row| !row.passed).map(|row| row.check.clone()).collect()
    }

    #[test]
    fn a_story_that_goes_well_passes() {
        let (told, ending) = good();
        let verdict = Verdict::new("least_conn", &told, &ending);
        assert!(verdict.passed(), "{verdict}");
        assert!(verdict.to_string().ends_with(&format!("all {} checks pass\n", verdict.rows.len())));
    }

    #[test]
    fn each_thing_that_goes_wrong_fails_the_row_that_is_about_it() {
        type Spoil = fn(&mut Vec<Told>, &mut Ending);
        let cases: [(&str, Spoil); 11] = [
            ("requests that failed, all chapters", |told, _| told[4].whole.felt.failed = 1),
            ("answers with other bytes than were sent", |told, _| told[2].whole.felt.wrong = 1),
            ("home-1 dies: home-1 is left alone", |told, _| told[1].tail.picks[0] = TRIALS + 1),
            ("home-1 returns: home-1 has work again", |told, _| told[2].tail.served[0] = 0),
            ("home-2 slows down tenfold: its share falls", |told, _| told[3].tail.served[1] = 40),
            ("connections, as the proxy counts them", |told, _| told[0].whole.felt.connected += 1),
            ("sessions that ended, plus active ones", |_, ending| ending.closed -= 1),
            ("picks of backends", |_, ending| ending.retries += 1),
            ("answers, as the backends count them", |told, _| told[5].whole.served[5] += 1),
            ("sessions left, descriptors they hold", |_, ending| ending.session_descriptors = 2),
            ("open descriptors", |_, ending| ending.descriptors_after += 1),
        ];
        for (check, spoil) in cases {
            assert_eq!(failing("least_conn", spoil), [check]);
        }
    }

    #[test]
    fn a_failed_check_is_told_in_the_table() {
        let (told, mut ending) = good();
        ending.descriptors_after = 31;
        let verdict = Verdict::new("least_conn", &told, &ending);
        assert!(!verdict.passed(), "one failed check fails all");
        let printed = verdict.to_string();
        let line = printed.lines().find(|line| line.starts_with("open descriptors")).expect("each check has a row");
        assert!(line.contains("at most 30") && line.contains("31") && line.ends_with("FAIL"), "{line}");
        assert!(printed.ends_with("checks FAIL\n"), "{printed}");
    }

    #[test]
    fn a_policy_is_held_to_its_own_promises_only() {
        assert!(failing("round_robin", |told, _| told[3].tail.served[1] = 40).is_empty());
        assert_eq!(failing("latency", |told, _| told[3].tail.served[1] = 40).len(), 1);
    }

    #[test]
    fn a_story_without_requests_proves_nothing() {
        let told = vec![Told::default(); CHAPTERS.len()];
        assert!(!Verdict::new("least_conn", &told, &Ending::default()).passed());
    }
}
