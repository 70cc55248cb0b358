//! The choice of a backend for a session.

use std::cell::Cell;
use std::sync::Arc;

use crate::backend::Gate;
use crate::latency::{Decision, Latency};
use crate::lease::Grant;
use crate::review::{Scope, Seat};
use crate::set::Level;
use crate::{
    Availability, Backend, BackendSet, BackendState, ConnectFailure, Lease, PickReason, Policy, Rng, hash, round_robin,
};

/// What came of a pick.
#[derive(Debug)]
pub enum Pick {
    /// Use this backend.
    Backend(Lease),
    /// All that may be picked are full: wait for a place (see [`Queue`](crate::Queue)).
    Wait,
    /// There is none that was not tried already.
    Refuse,
}

/// Whether a backend may be picked, or why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Admission {
    /// It may.
    Admitted,
    /// It has failed this session.
    Tried,
    /// It takes no new sessions.
    Draining,
    /// Failed its checks, or reported out of service.
    Down,
    /// Shut out by failures.
    Ejected,
    /// Another session tries it.
    OnTrial,
    /// Its zone is in panic while another is well.
    PanickingZone,
    /// It has as many sessions as it may have.
    Full,
    /// No source names it any more, and another backend has failed this session.
    Orphan,
}

impl Admission {
    /// The name in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Tried => "tried",
            Self::Draining => "draining",
            Self::Down => "down",
            Self::Ejected => "ejected",
            Self::OnTrial => "on_trial",
            Self::PanickingZone => "panicking_zone",
            Self::Full => "full",
            Self::Orphan => "orphan",
        }
    }
}

/// What a pick asks of every backend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    tried: &'a [Arc<Backend>],
    now_ms: u64,
    /// Whether checks and ejections count.
    calm: bool,
    /// Whether zones in panic are left alone, since another is well.
    avoids_panic: bool,
    avoids_orphans: bool,
    capacity: u32,
}

/// The policy's choice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    pub(crate) at: usize,
    /// How the latency policy came to it.
    pub(crate) decision: Option<Decision>,
}

impl BackendSet {
    /// Picks a backend for a session of the client with the key `source` (see [`source_key`](crate::source_key)).
    /// `tried` are those that already failed this session; they are never picked again.
    ///
    /// A first pick follows the policy among the backends in service, at the lowest level that has any; in a zone in
    /// panic, among all of them. A retry takes one that is believed to work wherever one is left, because it is the
    /// last hope of its client. Where all of a level are in service and full the session waits: backups are for
    /// backends that are gone.
    ///
    /// *Cost*: no lock, no allocation, no look-up by name. O(1) for `latency`, which looks at no more than 16 backends a
    /// zone. O(n) for `round_robin`, `least_conn` and `source_hash` (about 1 ns, 1 ns and 15 ns a backend), O(1) for
    /// `random_two` and `maglev` while their first draws may be picked. Every 100 ms one pick pays for a look at all.
    pub fn pick(&self, now_ms: u64, source: u64, tried: &[Arc<Backend>], rng: &mut Rng) -> Pick {
        self.judge(now_ms);
        for scope in self.scopes(!tried.is_empty()) {
            // A trial or a last place that another worker took in between is seen as taken on the next turn.
            loop {
                let (choice, any_full) = self.choose(scope, now_ms, source, tried, rng, false);
                match choice {
                    Some(choice) => {
                        if let Some(lease) = self.lease(choice, scope, now_ms, !tried.is_empty()) {
                            return Pick::Backend(lease);
                        }
                    }
                    None if any_full => return Pick::Wait,
                    None => break,
                }
            }
        }
        Pick::Refuse
    }

    /// Whether a session may be given another backend after this one failed it, which takes one retry out of the budget.
    /// That an orphan is gone is no sign of trouble, and learned once of each: such a retry is free.
    pub fn may_retry(&self, now_ms: u64, backend: &Backend, failure: Option<ConnectFailure>) -> bool {
        failure.is_some_and(|failure| backend.is_gone_by(failure)) || self.retry_budget().withdraw(now_ms)
    }

    /// Reports that a connection failed by the backend's doing, or that datagrams of a flow were refused (ICMP), also of
    /// one that worked until then. Returns whether that ejected the backend, for the log.
    pub fn connect_failed(&self, lease: Lease, now_ms: u64, failure: ConnectFailure, rng: &mut Rng) -> bool {
        let ejected = lease.failed(now_ms, failure, rng);
        if ejected {
            self.shared().changed();
        }
        ejected
    }

    /// Where to look, in this order. The first scope decides; the others serve retries and the rare moment in which
    /// the last backend of the first scope was ejected after the judgement.
    pub(crate) fn scopes(&self, is_retry: bool) -> impl Iterator<Item = Scope> + use<> {
        let first = (!is_retry).then(|| self.review().scope());
        let has_orphans = self.has_orphans();
        let levels = 0..self.levels().len();
        let reported = levels.clone().filter(move |_| is_retry && has_orphans).map(|level| Scope::Reported { level });
        let rest = reported.chain(levels.map(|level| Scope::Calm { level })).chain([Scope::Desperate]);
        first.into_iter().chain(rest)
    }

    /// The policy's choice in `scope`, and whether somebody was left out only for being full. A `dry` choice moves
    /// nobody's turn.
    pub(crate) fn choose(
        &self,
        scope: Scope,
        now_ms: u64,
        source: u64,
        tried: &[Arc<Backend>],
        rng: &mut Rng,
        dry: bool,
    ) -> (Option<Choice>, bool) {
        let any_full = Cell::new(false);
        let ask = self.ask(scope, tried, now_ms);
        let note = |admission: Admission| {
            if admission == Admission::Full {
                any_full.set(true);
            }
            admission == Admission::Admitted
        };
        let admits = |at: usize| note(self.admission(at, ask));
        let admits_seat = |seat: &Seat| note(self.admission_of(seat.at as usize, seat.availability, &seat.state, ask));
        let on_level = |level: usize, rng: &mut Rng| match self.settings().policy {
            Policy::Latency => {
                let decision = Latency::new(self, now_ms, tried.len()).decide(level, admits_seat, rng)?;
                Some(Choice { at: decision.winner.at, decision: Some(decision) })
            }
            _ => {
                let at = self.by_policy(&self.levels()[level], admits, source, rng, dry)?;
                Some(Choice { at, decision: None })
            }
        };
        let choice = match scope {
            Scope::Reported { level } | Scope::Calm { level } | Scope::Panic { level } => on_level(level, rng),
            Scope::Desperate => (0..self.levels().len()).find_map(|level| on_level(level, rng)),
        };
        (choice, any_full.get())
    }

    /// What a pick in `scope` asks of every backend, worked out once.
    pub(crate) fn ask<'a>(&self, scope: Scope, tried: &'a [Arc<Backend>], now_ms: u64) -> Ask<'a> {
        let calm = scope.is_calm();
        Ask {
            tried,
            now_ms,
            calm,
            avoids_panic: calm && tried.is_empty() && self.avoids_panic(scope),
            avoids_orphans: matches!(scope, Scope::Reported { .. }),
            capacity: self.settings().max_connections_per_backend,
        }
    }

    /// Whether a first pick leaves zones in panic alone. The latency policy does not: what is well there it loads until
    /// another zone is sooner, and so it breaks nobody. (Leaving such a zone altogether cost twice the tail.)
    fn avoids_panic(&self, scope: Scope) -> bool {
        let review = self.review();
        self.settings().policy != Policy::Latency && review.scope() == scope && review.any_panicking()
    }

    /// Whether the backend at `at` may be picked. A trial that is due is admitted from a panicking zone as well: it is
    /// the only way back for a zone that is avoided.
    #[inline]
    pub(crate) fn admission(&self, at: usize, ask: Ask<'_>) -> Admission {
        let backend = &self.backends()[at];
        self.admission_of(at, backend.availability(), backend.state(), ask)
    }

    #[inline(always)]
    fn admission_of(&self, at: usize, availability: Availability, state: &BackendState, ask: Ask<'_>) -> Admission {
        if ask.tried.iter().any(|other| std::ptr::eq(other.state(), state)) {
            return Admission::Tried;
        }
        let room = || match ask.capacity > 0 && state.sessions() >= ask.capacity {
            true => Admission::Full,
            false => Admission::Admitted,
        };
        match (availability, state.gate(ask.now_ms)) {
            (Availability::Draining, _) => Admission::Draining,
            _ if !ask.calm => room(),
            _ if ask.avoids_orphans && self.backends()[at].is_orphan() => Admission::Orphan,
            (Availability::Down, _) => Admission::Down,
            (Availability::Up, Gate::Shut) => Admission::Ejected,
            (Availability::Up, Gate::OnTrial) => Admission::OnTrial,
            // The last hope of its client is not the one to try a backend with.
            (Availability::Up, Gate::TrialDue) if !ask.tried.is_empty() => Admission::Ejected,
            (Availability::Up, Gate::TrialDue) => room(),
            (Availability::Up, Gate::Open) if ask.avoids_panic && self.review().panicking(at) => {
                Admission::PanickingZone
            }
            (Availability::Up, Gate::Open) => room(),
        }
    }

    fn by_policy(
        &self,
        level: &Level,
        admits: impl Fn(usize) -> bool + Copy,
        source: u64,
        rng: &mut Rng,
        dry: bool,
    ) -> Option<usize> {
        let all = || level.range.clone().filter(|&at| admits(at)).map(|at| (at, &*self.backends()[at]));
        match self.settings().policy {
            Policy::RoundRobin if dry => round_robin::whose_turn(&self.shared().clock, all()),
            Policy::RoundRobin => round_robin::next(&self.shared().clock, all),
            Policy::LeastConn | Policy::Latency => least_loaded(self.backends(), level, admits, rng),
            Policy::RandomTwo => random_two(self.backends(), level, admits, rng),
            Policy::SourceHash => hash::rendezvous(source, all()),
            Policy::Maglev => maglev(level, admits, source).or_else(|| hash::rendezvous(source, all())),
        }
    }

    fn lease(&self, choice: Choice, scope: Scope, now_ms: u64, is_retry: bool) -> Option<Lease> {
        let backend = &self.backends()[choice.at];
        let gate = backend.state().gate(now_ms);
        // In panic a trial is taken if it is free, since its outcome is worth knowing, and done without otherwise.
        let on_trial = gate == Gate::TrialDue && backend.state().begin_trial(now_ms);
        if gate == Gate::TrialDue && !on_trial && scope.is_calm() {
            return None;
        }
        let reason = self.reason(choice, scope, on_trial, is_retry);
        let score = choice.decision.map_or(0.0, |decision| decision.winner.terms.score_us);
        let capacity = self.settings().max_connections_per_backend;
        let lease = Lease::new(backend, Grant { reason, score, on_trial, capacity })?;
        backend.state().line.was_given(now_ms);
        if choice.decision.is_some_and(|decision| decision.spill) {
            backend.pool().count_spill();
        }
        Some(lease)
    }

    pub(crate) fn reason(&self, choice: Choice, scope: Scope, on_trial: bool, is_retry: bool) -> PickReason {
        match () {
            () if !scope.is_calm() => PickReason::Panic,
            () if on_trial => PickReason::Trial,
            () if is_retry => PickReason::Retry,
            () if choice.at >= self.levels()[0].range.end => PickReason::Backup,
            () if choice.decision.is_some_and(|decision| decision.spill) => PickReason::Spill,
            () => PickReason::Local,
        }
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
