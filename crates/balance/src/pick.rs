//! The choice of a backend for a session.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::backend::Gate;
use crate::review::Scope;
use crate::set::Level;
use crate::{Availability, Backend, BackendSet, ConnectFailure, Lease, PickReason, Policy, Rng, hash, round_robin};

/// What came of a pick.
#[derive(Debug)]
pub enum Pick {
    /// Use this backend.
    Backend(Lease),
    /// There is none that was not tried already.
    Refuse,
}

impl BackendSet {
    /// Picks a backend for a session of the client with the key `source` (see [`source_key`](crate::source_key)).
    /// `tried` are those that already failed this session; they are never picked again.
    ///
    /// A first pick follows the policy among the backends in service, at the lowest level that has any; in a zone in
    /// panic, among all of them. A retry takes one that is believed to work wherever one is left, because it is the
    /// last hope of its client.
    ///
    /// *Cost*: no lock, no allocation, no look-up by name. O(n) for `round_robin`, `least_conn` and `source_hash` (about
    /// 1 ns, 1 ns and 15 ns a backend), O(1) for `random_two` and `maglev` while their first draws may be picked.
    pub fn pick(&self, now_ms: u64, source: u64, tried: &[Arc<Backend>], rng: &mut Rng) -> Pick {
        self.judge(now_ms);
        for scope in self.scopes(!tried.is_empty()) {
            // A trial that another worker took in between is seen as taken on the next turn.
            while let Some(at) = self.choose(scope, now_ms, source, tried, rng) {
                if let Some(lease) = self.lease(at, scope, now_ms, !tried.is_empty()) {
                    return Pick::Backend(lease);
                }
            }
        }
        Pick::Refuse
    }

    /// Reports that a connection failed by the backend's doing. Returns whether that ejected the backend, for the log.
    pub fn connect_failed(&self, lease: Lease, now_ms: u64, failure: ConnectFailure, rng: &mut Rng) -> bool {
        let ejected = lease.failed(now_ms, failure, rng);
        if ejected {
            self.shared().events.fetch_add(1, Relaxed);
        }
        ejected
    }

    /// Where to look, in this order. The first scope decides; the others serve retries and the rare moment in which
    /// the last backend of the first scope was ejected after the judgement.
    fn scopes(&self, is_retry: bool) -> impl Iterator<Item = Scope> + use<> {
        let first = (!is_retry).then(|| self.review().scope());
        let calm = (0..self.levels().len()).map(|level| Scope::Calm { level });
        let rest = calm.chain([Scope::Desperate]);
        first.into_iter().chain(rest)
    }

    fn choose(&self, scope: Scope, now_ms: u64, source: u64, tried: &[Arc<Backend>], rng: &mut Rng) -> Option<usize> {
        let is_retry = !tried.is_empty();
        let admits = |at: usize| {
            let backend = &self.backends()[at];
            !tried.iter().any(|other| other.is(backend)) && self.admits(at, scope, is_retry, now_ms)
        };
        match scope {
            Scope::Calm { level } | Scope::Panic { level } => {
                self.by_policy(&self.levels()[level], admits, source, rng)
            }
            Scope::Desperate => self.levels().iter().find_map(|level| self.by_policy(level, admits, source, rng)),
        }
    }

    fn admits(&self, at: usize, scope: Scope, is_retry: bool, now_ms: u64) -> bool {
        let backend = &self.backends()[at];
        let availability = backend.availability();
        match scope {
            Scope::Calm { .. } if availability != Availability::Up => false,
            Scope::Calm { .. } => match backend.state().gate(now_ms) {
                Gate::Open => is_retry || !self.review().panicking(at) || self.review().scope() != scope,
                // Also in a zone in panic: a trial is the only way back for a zone that was ejected as a whole.
                Gate::TrialDue => true,
                Gate::Shut | Gate::OnTrial => false,
            },
            Scope::Panic { .. } | Scope::Desperate => availability != Availability::Draining,
        }
    }

    fn by_policy(
        &self,
        level: &Level,
        admits: impl Fn(usize) -> bool + Copy,
        source: u64,
        rng: &mut Rng,
    ) -> Option<usize> {
        let all = || level.range.clone().filter(|&at| admits(at)).map(|at| (at, &*self.backends()[at]));
        match self.settings().policy {
            Policy::RoundRobin => round_robin::next(&self.shared().clock, all),
            Policy::LeastConn => least_loaded(self.backends(), level, admits, rng),
            Policy::RandomTwo => random_two(self.backends(), level, admits, rng),
            Policy::SourceHash => hash::rendezvous(source, all()),
            Policy::Maglev => maglev(level, admits, source).or_else(|| hash::rendezvous(source, all())),
        }
    }

    fn lease(&self, at: usize, scope: Scope, now_ms: u64, is_retry: bool) -> Option<Lease> {
        let backend = &self.backends()[at];
        let ignored = match scope {
            Scope::Calm { .. } => false,
            Scope::Panic { .. } | Scope::Desperate => true,
        };
        let gate = backend.state().gate(now_ms);
        // In panic a trial is taken if it is free, since its outcome is worth knowing, and done without otherwise.
        let on_trial = gate == Gate::TrialDue && backend.state().begin_trial(now_ms);
        if gate == Gate::TrialDue && !on_trial && !ignored {
            return None;
        }
        let reason = match () {
            () if ignored => PickReason::Panic,
            () if on_trial => PickReason::Trial,
            () if is_retry => PickReason::Retry,
            () if at >= self.levels()[0].range.end => PickReason::Backup,
            () => PickReason::Normal,
        };
        Some(Lease::new(Arc::clone(backend), reason, on_trial))
    }
}

/// The fewest sessions for its weight, over all; ties go to the first after a random start, so that workers that see
/// the same numbers do not march together.
fn least_loaded(
    backends: &[Arc<Backend>],
    level: &Level,
    admits: impl Fn(usize) -> bool,
    rng: &mut Rng,
) -> Option<usize> {
    let start = level.range.start + rng.below(level.range.len() as u64) as usize;
    let order = (start..level.range.end).chain(level.range.start..start);
    order.filter(|&at| admits(at)).reduce(|best, at| if lighter(&backends[at], &backends[best]) { at } else { best })
}

/// The lighter of two drawn by weight. Draws that may not be picked are drawn again a few times; when most of a level
/// is out, the two are found by a scan.
fn random_two(
    backends: &[Arc<Backend>],
    level: &Level,
    admits: impl Fn(usize) -> bool,
    rng: &mut Rng,
) -> Option<usize> {
    let total = level.cumulative.last().copied().unwrap_or(0);
    let mut first = None;
    for _ in 0..DRAWS {
        let ticket = rng.below(total);
        let at = level.range.start + level.cumulative.partition_point(|&sum| sum <= ticket);
        match first {
            _ if at >= level.range.end || !admits(at) => {}
            None => first = Some(at),
            Some(other) if other == at => {}
            Some(other) => return Some(if lighter(&backends[at], &backends[other]) { at } else { other }),
        }
    }
    first.or_else(|| least_loaded(backends, level, admits, rng))
}

fn maglev(level: &Level, admits: impl Fn(usize) -> bool, source: u64) -> Option<usize> {
    let table = level.maglev.as_ref()?;
    (0..DRAWS).map(|attempt| level.range.start + table.lookup(source, attempt)).find(|&at| admits(at))
}

/// Whether one more session weighs less on `a` than on `b`: (sessions + 1) / weight, without dividing.
fn lighter(a: &Backend, b: &Backend) -> bool {
    let load = |backend: &Backend| u64::from(backend.state().sessions()) + 1;
    load(a) * u64::from(b.endpoint().weight) < load(b) * u64::from(a.endpoint().weight)
}

/// Draws before a scan: with half of a level out, 16 draws fail to find two once in 4,000 picks.
const DRAWS: u64 = 16;
