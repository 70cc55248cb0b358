//! All that is decided about one service, in one place behind one lock: who belongs to it, what their checks find, and
//! what is published. Pure but for the publication.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use balance::{Active, Address, Endpoint, Publisher, Reader, Rng};

use crate::feed::Rules;
use crate::member::{Member, Standing};
use crate::merge::{FeedId, Merge, Merger, Settled};
use crate::probe::Finding;
use crate::roster::{Agenda, Event as Turn, Job, Roster};
use crate::snapshot::{Remembered, fingerprint};
use crate::status::{MemberReport, SourceReport, Status};
use crate::{CheckReport, Event, HealthConfig, Membership, Probe, ServiceConfig, Source, SourceConfig, SourceError};

/// The state of one service.
#[derive(Debug)]
pub(crate) struct Desk {
    /// As it was asked for.
    config: ServiceConfig,
    merger: Merger,
    /// The endpoints of the configuration itself.
    floor: FeedId,
    sources: Vec<Fed>,
    runs: u64,
    /// The service's own check, of all of its backends.
    roster: Roster,
    /// The probes of orphans.
    watch: Roster,
    publisher: Publisher,
    reader: Reader,
    /// Counts changes of who belongs to it.
    generation: u64,
}

/// A source and what it feeds.
#[derive(Debug)]
struct Fed {
    config: SourceConfig,
    feed: FeedId,
    /// The run that may speak for it. What an earlier one still says is not heard.
    run: RunId,
    status: Status,
}

/// One start of a source, over all of its restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunId(u64);

/// A source to be started.
pub(crate) struct Start {
    pub(crate) name: Arc<str>,
    pub(crate) run: RunId,
    pub(crate) source: Arc<dyn Source>,
}

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Check,
    Orphan,
}

impl Desk {
    /// The desk of a new service, of which nothing is published yet: see [`Desk::apply`].
    pub(crate) fn new(config: &ServiceConfig, now_ms: u64, rng: &mut Rng) -> Self {
        let (publisher, reader) = balance::live(config.settings.clone(), Vec::new());
        let mut merger = Merger::new(config.membership.merge, orphan_ttl_ms(&config.membership));
        let floor = merger.add(rules(config, None));
        let config = ServiceConfig { endpoints: Vec::new(), membership: Membership::default(), ..config.clone() };
        let roster = Roster::new(config.clone(), &reader.load(), now_ms, Rng::new(rng.next_u64()));
        let watched = ServiceConfig { health: None, ..config.clone() };
        let watch = Roster::new(watched, &reader.load(), now_ms, Rng::new(rng.next_u64()));
        Self { config, merger, floor, sources: Vec::new(), runs: 0, roster, watch, publisher, reader, generation: 0 }
    }

    pub(crate) fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Goes over to `config`; published when this returns. Returns the sources that are to be started, in the place of
    /// those of the same name if there are any; all others go on or, if they are in `config` no more, end.
    pub(crate) fn apply(&mut self, config: ServiceConfig, remembered: &Remembered, now_ms: u64) -> Vec<Start> {
        let starts = self.arrange(&config, remembered, now_ms);
        self.merger.configure(config.membership.merge, orphan_ttl_ms(&config.membership), now_ms);
        self.merger.dictate(self.floor, &config.endpoints, now_ms);
        let is_same = (&self.config.settings, &self.config.health) == (&config.settings, &config.health);
        self.config = config;
        if !starts.is_empty() {
            self.generation += 1;
        }
        let settled = self.merger.settle_now(now_ms, |address| self.roster.active(address));
        if !is_same || settled.endpoints.is_some() {
            let endpoints = settled.endpoints.unwrap_or_else(|| self.roster.config().endpoints.clone());
            self.publish(endpoints, now_ms);
        }
        let orphans = settled.orphans.unwrap_or_else(|| self.watch.config().endpoints.clone());
        self.observe(orphans, now_ms);
        starts
    }

    fn arrange(&mut self, config: &ServiceConfig, remembered: &Remembered, now_ms: u64) -> Vec<Start> {
        let mut known: HashMap<Arc<str>, Fed> =
            self.sources.drain(..).map(|fed| (Arc::clone(&fed.config.name), fed)).collect();
        let mut starts = Vec::new();
        for source in &config.membership.sources {
            let rules = rules(config, Some(source));
            let fed = match known.remove(&source.name) {
                Some(fed) if fed.config == *source => {
                    // The node's zone may be another.
                    self.merger.replace(fed.feed, rules, false, now_ms);
                    fed
                }
                Some(fed) => {
                    let is_other = fed.config.identity != source.identity;
                    self.merger.replace(fed.feed, rules, is_other, now_ms);
                    self.start(source, fed.feed, &mut starts)
                }
                None => {
                    let feed = self.merger.add(rules);
                    if let Some((print, endpoints)) = remembered.get(&config.settings.name, &source.name) {
                        let is_other = print != fingerprint(&source.identity);
                        self.merger.remember(feed, endpoints.iter().cloned(), is_other, now_ms);
                    }
                    self.start(source, feed, &mut starts)
                }
            };
            self.sources.push(fed);
        }
        let mut order: Vec<FeedId> = self.sources.iter().map(|fed| fed.feed).collect();
        match config.membership.merge {
            Merge::Union => order.insert(0, self.floor),
            Merge::Priority => order.push(self.floor),
        }
        self.merger.arrange(&order, now_ms);
        starts
    }

    fn start(&mut self, source: &SourceConfig, feed: FeedId, starts: &mut Vec<Start>) -> Fed {
        self.runs += 1;
        let run = RunId(self.runs);
        starts.push(Start { name: Arc::clone(&source.name), run, source: Arc::clone(&source.source) });
        Fed { config: source.clone(), feed, run, status: Status::default() }
    }

    /// A source that was started begins to speak, anew perhaps.
    pub(crate) fn begin_run(&mut self, run: RunId) {
        if let Some(fed) = self.sources.iter().find(|fed| fed.run == run) {
            self.merger.restart(fed.feed);
        }
    }

    /// Takes what a source says. Returns whether it works again after it had failed.
    pub(crate) fn hear(&mut self, run: RunId, event: Event, now_ms: u64) -> bool {
        let Some(fed) = self.sources.iter_mut().find(|fed| fed.run == run) else { return false };
        // Its words are needed for the table; its kind for the status.
        let kind = outline(&event);
        let change = self.merger.handle(fed.feed, event, now_ms);
        fed.status.heard(&kind, change, now_ms)
    }

    /// A run of a source ended. Returns whether that is worth a line of the log.
    pub(crate) fn failed(&mut self, run: RunId, error: &SourceError, now_ms: u64) -> bool {
        let Some(fed) = self.sources.iter_mut().find(|fed| fed.run == run) else { return false };
        self.merger.restart(fed.feed);
        fed.status.failed(error, now_ms)
    }

    /// Publishes what is due to be, and says what comes next.
    pub(crate) fn settle(&mut self, now_ms: u64) -> Agenda {
        let Settled { endpoints, orphans } = self.merger.settle(now_ms, |address| self.roster.active(address));
        if let Some(endpoints) = endpoints {
            self.publish(endpoints, now_ms);
        }
        if let Some(orphans) = orphans {
            self.observe(orphans, now_ms);
        }
        if let Some(endpoints) = self.roster.take_publication(now_ms) {
            self.publisher.publish(self.config.settings.clone(), endpoints);
        }
        // The states of the watch are for the merger alone.
        self.watch.take_publication(now_ms);
        let (agenda, watch) = (self.roster.agenda(now_ms), self.watch.agenda(now_ms));
        let wakes = [agenda.wake_ms, watch.wake_ms, self.merger.wake_ms()];
        Agenda { is_probe_due: agenda.is_probe_due || watch.is_probe_due, wake_ms: wakes.into_iter().flatten().min() }
    }

    fn publish(&mut self, endpoints: Vec<Endpoint>, now_ms: u64) {
        self.generation += 1;
        let (settings, health) = (self.config.settings.clone(), self.config.health.clone());
        let config = ServiceConfig { settings, endpoints, health, membership: Membership::default() };
        self.publisher.publish(config.settings.clone(), self.roster.overlay(&config));
        self.roster.adopt(config, &self.reader.load(), now_ms);
    }

    /// Has orphans probed, those that are new within a second.
    fn observe(&mut self, orphans: Vec<Endpoint>, now_ms: u64) {
        let health = self.config.membership.orphan_probe.clone().map(orphan_health);
        let settings = self.config.settings.clone();
        let config = ServiceConfig { settings, endpoints: orphans, health, membership: Membership::default() };
        if *self.watch.config() != config {
            self.watch.adopt(config, &self.reader.load(), now_ms);
        }
    }

    /// Takes the next probe that is due. Orphans come first: they are few, and clients may be going to nobody.
    pub(crate) fn take_due(&mut self, now_ms: u64) -> Option<(Purpose, Job)> {
        let orphan = self.watch.take_due(now_ms).map(|job| (Purpose::Orphan, job));
        orphan.or_else(|| self.roster.take_due(now_ms).map(|job| (Purpose::Check, job)))
    }

    /// Takes what a probe found. Returns what is worth a line of the log.
    pub(crate) fn conclude(
        &mut self,
        purpose: Purpose,
        address: &Address,
        finding: &Finding,
        now_ms: u64,
    ) -> Option<(Turn, Arc<HealthConfig>)> {
        let roster = match purpose {
            Purpose::Check => &mut self.roster,
            Purpose::Orphan => &mut self.watch,
        };
        let turn = roster.conclude(address, finding, now_ms);
        let health = roster.health().cloned();
        if matches!(turn, Some(Turn::Turned { to: Active::Down, .. })) {
            // Of one that is no orphan the merger takes no notice.
            self.merger.found_dead(address, now_ms);
        }
        turn.zip(health)
    }

    /// Forgets the probes that run: whoever ran them is gone.
    pub(crate) fn abandon_running(&mut self) {
        self.roster.abandon_running();
        self.watch.abandon_running();
    }

    /// The operator says that the sources are right.
    pub(crate) fn accept_empty(&mut self, now_ms: u64) {
        self.merger.accept_empty(now_ms);
    }

    pub(crate) fn checks(&self) -> Vec<CheckReport> {
        self.roster.reports()
    }

    /// How many of its members are orphans. *Cost*: O(1).
    pub(crate) fn orphans(&self) -> usize {
        self.watch.config().endpoints.len()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn sources(&self) -> Vec<SourceReport> {
        self.sources.iter().filter_map(|fed| self.report(fed)).collect()
    }

    fn report(&self, fed: &Fed) -> Option<SourceReport> {
        let feed = self.merger.feed(fed.feed)?;
        let status = &fed.status;
        Some(SourceReport {
            service: Arc::clone(&self.config.settings.name),
            name: Arc::clone(&fed.config.name),
            kind: fed.config.source.kind(),
            state: status.state,
            endpoints: feed.len(),
            is_confirmed: feed.is_confirmed(),
            last_success_ms: status.last_success_ms,
            last_error: status.last_error.clone(),
            updates: status.updates(),
            refused: feed.tally().refused.clone(),
        })
    }

    pub(crate) fn members(&self) -> Vec<MemberReport> {
        let report = |member: &Member| MemberReport {
            address: member.endpoint.address.clone(),
            source: self.owner(member.owner).map(|fed| Arc::clone(&fed.config.name)),
            orphan_until_ms: match member.standing {
                Standing::Reported => None,
                Standing::Orphan { until_ms, .. } => Some(until_ms),
            },
        };
        self.merger.members().iter().map(report).collect()
    }

    /// Adds what a snapshot is to remember of it: all members that a source brought.
    pub(crate) fn save(&self, snapshot: &mut Remembered) {
        let service = &self.config.settings.name;
        for member in self.merger.members() {
            if let Some(fed) = self.owner(member.owner) {
                snapshot.add(service, &fed.config.name, fingerprint(&fed.config.identity), member.endpoint.clone());
            }
        }
    }

    fn owner(&self, feed: FeedId) -> Option<&Fed> {
        self.sources.iter().find(|fed| fed.feed == feed)
    }
}

/// The event without its endpoints.
fn outline(event: &Event) -> Event {
    match event {
        Event::Begin => Event::Begin,
        Event::Upsert(_) => Event::Upsert(Vec::new()),
        Event::Remove(_) => Event::Remove(Vec::new()),
        Event::End => Event::End,
        Event::Alive => Event::Alive,
    }
}

fn rules(config: &ServiceConfig, source: Option<&SourceConfig>) -> Rules {
    let (reach, most) = source.map_or((Default::default(), usize::MAX), |it| (it.reach.clone(), it.max_endpoints));
    Rules { reach, most: most.max(1), home: config.settings.home.clone() }
}

fn orphan_ttl_ms(membership: &Membership) -> u64 {
    u64::try_from(membership.orphan_ttl.as_millis()).unwrap_or(u64::MAX).min(FOREVER_MS)
}

/// Two failures in a row, which with these times are found within 2.2 s of being orphaned where a connection is refused.
/// One would let a single lost packet take away a backend that answers.
fn orphan_health(probe: Probe) -> HealthConfig {
    HealthConfig { probe, interval: ORPHAN_INTERVAL, timeout: ORPHAN_TIMEOUT, rise: 1, fall: 2 }
}

const ORPHAN_INTERVAL: Duration = Duration::from_secs(2);
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(1);
/// Keeps sums of times in range, whatever is configured.
const FOREVER_MS: u64 = 1 << 50;
