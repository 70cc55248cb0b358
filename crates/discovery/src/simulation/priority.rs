//! What must hold where the first source counts that has any backends.

use std::collections::VecDeque;

use balance::Backend;

use super::union::most_given_up;
use super::{BACKENDS, DEAD_WITHIN_MS, Judge, Published, Stage, TTL_MS, UNNOTICED_MS};
use crate::merge::Merge;

#[derive(Default)]
pub(super) struct Priority {
    seen: [Seen; BACKENDS],
    /// Whom each source took back, and when, until it reports them again.
    taken_back_ms: [[Option<u64>; BACKENDS]; Self::SOURCES],
    /// When each was reported anew, or its source came to count.
    returns: [VecDeque<u64>; BACKENDS],
    /// When an answering backend was given up though nobody took it back.
    given_up: VecDeque<u64>,
    /// How often a source took over from one behind it.
    pub(super) taken_over: u32,
    /// How often one gave way to one behind it.
    pub(super) given_way: u32,
}

/// What is known of a backend that is published, by the word of the source that brought it.
#[derive(Clone, Copy, Default)]
struct Seen {
    reported_ms: Option<u64>,
    unreported_ms: Option<u64>,
    /// As the last, but for one that was reported so shortly in between that nobody need have noticed.
    orphaned_ms: Option<u64>,
}

impl Judge for Priority {
    const MERGE: Merge = Merge::Priority;
    const SOURCES: usize = 3;

    fn reported(&mut self, stage: &Stage, feed: usize, backends: &[usize]) {
        for &n in backends {
            self.taken_back_ms[feed][n] = None;
            if !stage.said[feed].contains_key(&n) {
                self.returns[n].push_back(stage.now_ms);
            }
        }
    }

    fn left_out(&mut self, _stage: &Stage, _feed: usize, _n: usize) {}

    fn taken_back(&mut self, stage: &Stage, feed: usize, n: usize, _was_there: bool) {
        self.taken_back_ms[feed][n].get_or_insert(stage.now_ms);
    }

    fn unreported_ms(&self, _stage: &Stage, n: usize) -> Option<u64> {
        self.seen[n].unreported_ms
    }

    fn judge(&mut self, stage: &Stage, before: &Published, after: &Published) {
        self.see(stage, before);
        self.given_up.retain(|at_ms| at_ms + 10_000 > stage.now_ms);
        let [was_in_force, in_force] = [before, after].map(|published| in_force(stage, published));
        self.judge_change(stage, was_in_force, in_force);
        let is_looked_at = stage.is_settled || is_other(before, after);
        if is_looked_at {
            self.judge_order(stage, in_force);
        }
        for n in 0..BACKENDS {
            match (before.get(&n), after.get(&n)) {
                (Some(old), Some(new)) => stage.check_stay(n, old, new),
                (Some(old), None) => self.judge_loss(stage, n, author(stage, old), in_force, [before, after]),
                (None, Some(new)) => {
                    let said = stage.said[author(stage, new)].get(&n);
                    stage.check(said == Some(&new.endpoint().weight), n, "nobody comes whom no source reports");
                }
                (None, None) if stage.is_settled => self.judge_absence(stage, n, in_force),
                (None, None) => {}
            }
        }
        self.see(stage, after);
        for (&n, backend) in after {
            self.judge_presence(stage, n, backend, is_looked_at);
        }
    }
}

impl Priority {
    fn see(&mut self, stage: &Stage, published: &Published) {
        for (n, seen) in self.seen.iter_mut().enumerate() {
            let Some(backend) = published.get(&n) else {
                *seen = Seen::default();
                continue;
            };
            if stage.said[author(stage, backend)].contains_key(&n) {
                seen.unreported_ms = None;
                seen.reported_ms.get_or_insert(stage.now_ms);
            } else if seen.unreported_ms.is_none() {
                let was_short = seen.reported_ms.is_some_and(|at_ms| stage.now_ms <= at_ms + UNNOTICED_MS);
                seen.orphaned_ms = seen.orphaned_ms.filter(|_| was_short).or(Some(stage.now_ms));
                (seen.unreported_ms, seen.reported_ms) = (Some(stage.now_ms), None);
            }
        }
    }

    fn judge_change(&mut self, stage: &Stage, before: Option<usize>, after: Option<usize>) {
        let Some(after) = after.filter(|_| before != after) else { return };
        match before {
            Some(before) if after < before => self.taken_over += 1,
            Some(_) => self.given_way += 1,
            None => {}
        }
        for &n in stage.said[after].keys() {
            self.returns[n].push_back(stage.now_ms);
        }
    }

    /// Nobody waits behind one of lower precedence, and nobody is left without backends while any source has some.
    fn judge_order(&self, stage: &Stage, in_force: Option<usize>) {
        let first = stage.said.iter().position(|said| !said.is_empty());
        let Some(first) = first else { return };
        stage.check(in_force.is_some(), 0, "while a source reports anybody, somebody is there");
        stage.check(in_force <= Some(first), 0, "no source counts before one that is better and has any");
    }

    fn judge_loss(
        &mut self,
        stage: &Stage,
        n: usize,
        feed: usize,
        in_force: Option<usize>,
        [before, after]: [&Published; 2],
    ) {
        if in_force.is_some_and(|in_force| in_force < feed) {
            return;
        }
        let is_reported = stage.said[feed].contains_key(&n);
        stage.check(!is_reported, n, "one that is reported does not leave, unless for a better source");
        let is_over = self.seen[n].orphaned_ms.is_none_or(|at_ms| stage.now_ms >= at_ms + TTL_MS);
        let has_others = !after.is_empty();
        if self.taken_back_ms[feed][n].is_some() || !stage.answers[n] || (is_over && has_others) {
            return;
        }
        stage.check(
            in_force == Some(feed),
            n,
            "nobody who answers leaves for a source of lower precedence, or for none",
        );
        self.given_up.push_back(stage.now_ms);
        let most = most_given_up(stage, before, self.given_up.len());
        stage.check(self.given_up.len() <= most, n, "few of those that answer are given up within ten seconds");
    }

    fn judge_absence(&mut self, stage: &Stage, n: usize, in_force: Option<usize>) {
        if in_force.is_none_or(|feed| !stage.said[feed].contains_key(&n)) {
            return;
        }
        let returns = &mut self.returns[n];
        returns.retain(|at_ms| at_ms + 300_000 > stage.now_ms);
        let last_ms = returns.back().copied().unwrap_or_default();
        // As damping counts at the last return, at most.
        let penalty = |at_ms: &u64| (-((last_ms - at_ms) as f64) / 30_000.0).exp2();
        let flaps = stage.now_ms <= last_ms + 12_000 && returns.iter().map(penalty).sum::<f64>() > 3.0;
        stage.check(flaps, n, "one that is reported and does not flap is there");
    }

    fn judge_presence(&self, stage: &Stage, n: usize, backend: &Backend, is_looked_at: bool) {
        let feed = author(stage, backend);
        if let Some(said) = stage.said[feed].get(&n) {
            let is_latest = *said == backend.endpoint().weight;
            stage.check(!is_looked_at || is_latest, n, "what is published is what was said last");
            return;
        }
        let unreported_ms = self.seen[n].unreported_ms.unwrap_or(stage.now_ms);
        let is_dead = !stage.answers[n] && stage.now_ms > unreported_ms.max(stage.since_ms[n]) + DEAD_WITHIN_MS;
        stage.check(!is_dead, n, "one that its source does not report and that does not answer leaves");
        let is_taken = self.taken_back_ms[feed][n].is_some_and(|at_ms| stage.now_ms > at_ms + 100);
        stage.check(!is_taken, n, "one that was taken back leaves at once");
        let is_over = stage.now_ms > unreported_ms + TTL_MS + 2_200;
        let has_others = stage.said.iter().any(|said| !said.is_empty());
        stage.check(!(is_over && has_others), n, "an orphan leaves when its time is over and others can serve");
    }
}

/// The source that said this of a backend.
fn author(stage: &Stage, backend: &Backend) -> usize {
    stage.authors[backend.endpoint().weight as usize]
}

/// The one source whose word is published, if anybody is.
fn in_force(stage: &Stage, published: &Published) -> Option<usize> {
    let mut authors = published.iter().map(|(&n, backend)| (n, author(stage, backend)));
    let (_, first) = authors.next()?;
    authors.for_each(|(n, author)| stage.check(author == first, n, "one source counts at a time"));
    Some(first)
}

fn is_other(before: &Published, after: &Published) -> bool {
    let words = |published: &Published| -> Vec<(usize, u32)> {
        published.iter().map(|(&n, backend)| (n, backend.endpoint().weight)).collect()
    };
    words(before) != words(after)
}
