//! What must hold where the words of all sources count.

use std::collections::VecDeque;

use balance::Backend;

use super::{BACKENDS, DEAD_WITHIN_MS, Judge, Published, Stage, TTL_MS, UNNOTICED_MS};
use crate::merge::Merge;

#[derive(Default)]
pub(super) struct Union {
    /// Since when nobody reports a backend.
    unreported_ms: [u64; BACKENDS],
    /// The same, but for one that was reported so shortly in between that nobody need have noticed.
    orphaned_ms: [u64; BACKENDS],
    /// Who was taken back since nobody reports it, and when.
    taken_back_ms: [Option<u64>; BACKENDS],
    /// Which source reported each last: only its registrar's word must be heard.
    reporter: [usize; BACKENDS],
    /// Who was taken back by that one.
    must_leave_ms: [Option<u64>; BACKENDS],
    /// How often each came back lately.
    returns: [VecDeque<u64>; BACKENDS],
    /// When an answering backend was given up though nobody took it back.
    given_up: VecDeque<u64>,
}

impl Judge for Union {
    const MERGE: Merge = Merge::Union;
    const SOURCES: usize = 2;

    fn reported(&mut self, stage: &Stage, _feed: usize, backends: &[usize]) {
        for &n in backends {
            if !is_reported(stage, n) {
                self.returns[n].push_back(stage.now_ms);
                (self.taken_back_ms[n], self.must_leave_ms[n]) = (None, None);
            }
        }
    }

    fn left_out(&mut self, stage: &Stage, feed: usize, n: usize) {
        (self.reporter[n], self.unreported_ms[n]) = (feed, stage.now_ms);
        if self.returns[n].back().is_none_or(|at_ms| stage.now_ms > at_ms + UNNOTICED_MS) {
            self.orphaned_ms[n] = stage.now_ms;
        }
    }

    fn taken_back(&mut self, stage: &Stage, feed: usize, n: usize, was_there: bool) {
        if was_there {
            (self.reporter[n], self.unreported_ms[n]) = (feed, stage.now_ms);
        }
        if !is_reported(stage, n) {
            self.taken_back_ms[n] = Some(stage.now_ms);
            self.must_leave_ms[n] = self.must_leave_ms[n].or((self.reporter[n] == feed).then_some(stage.now_ms));
        }
    }

    fn unreported_ms(&self, stage: &Stage, n: usize) -> Option<u64> {
        (!is_reported(stage, n)).then_some(self.unreported_ms[n])
    }

    fn judge(&mut self, stage: &Stage, before: &Published, after: &Published) {
        self.given_up.retain(|at_ms| at_ms + 10_000 > stage.now_ms);
        for n in 0..BACKENDS {
            match (before.get(&n), after.get(&n)) {
                (Some(old), Some(new)) => stage.check_stay(n, old, new),
                (Some(_), None) => self.judge_loss(stage, n, before, after),
                (None, None) if stage.is_settled && is_reported(stage, n) => {
                    self.returns[n].retain(|at_ms| at_ms + 300_000 > stage.now_ms);
                    stage.check(self.returns[n].len() >= 4, n, "one that is reported and does not flap is there");
                }
                _ => {}
            }
        }
        for (&n, backend) in after {
            self.judge_presence(stage, n, backend, after);
        }
    }
}

impl Union {
    fn judge_loss(&mut self, stage: &Stage, n: usize, before: &Published, after: &Published) {
        stage.check(!is_reported(stage, n), n, "one that is reported does not leave");
        let is_over = stage.now_ms >= self.orphaned_ms[n] + TTL_MS && !after.is_empty();
        if self.taken_back_ms[n].is_some() || !stage.answers[n] || is_over {
            return;
        }
        self.given_up.push_back(stage.now_ms);
        let most = most_given_up(stage, before, self.given_up.len());
        stage.check(self.given_up.len() <= most, n, "few of those that answer are given up within ten seconds");
        stage.check(!after.is_empty(), n, "the last one that answers is not given up");
    }

    fn judge_presence(&self, stage: &Stage, n: usize, backend: &Backend, after: &Published) {
        if is_reported(stage, n) {
            let said = stage.said.iter().find_map(|said| said.get(&n));
            let is_latest = said == Some(&backend.endpoint().weight);
            stage.check(!stage.is_settled || is_latest, n, "what is published is what was said last");
            return;
        }
        let since_ms = self.unreported_ms[n].max(stage.since_ms[n]);
        let is_dead = !stage.answers[n] && stage.now_ms > since_ms + DEAD_WITHIN_MS;
        stage.check(!is_dead, n, "one that nobody reports and that does not answer leaves");
        let is_taken = self.must_leave_ms[n].is_some_and(|at_ms| stage.now_ms > at_ms + 100);
        stage.check(!is_taken, n, "one that was taken back leaves at once");
        let is_over = stage.now_ms > self.unreported_ms[n] + TTL_MS + 2_200;
        let others = after.keys().any(|&n| is_reported(stage, n));
        stage.check(!(is_over && others), n, "an orphan leaves when its time is over");
    }
}

fn is_reported(stage: &Stage, n: usize) -> bool {
    stage.said.iter().any(|said| said.contains_key(&n))
}

/// How many of those that answer may be given up within ten seconds, `given_up` that were included.
pub(super) fn most_given_up(stage: &Stage, before: &Published, given_up: usize) -> usize {
    let answering = before.keys().filter(|&&n| stage.answers[n]).count() + given_up - 1;
    (answering.max(before.len()) * 30 / 100).max(2) + 1
}
