//! One service's endpoints from what all of its sources say. Pure.
//!
//! Events change tables (`feed`); now and then, as `debounce` says, [`Merger::settle`] compares what the tables say with
//! the members of the service. So what waits to be published is never a queue, and a backend that came and went between
//! two looks was not there.
//!
//! ```text
//!            reported              a large loss that nobody announced (`guard`)
//!   absent ───────────▶ reported ──────────────────────────────────────────────▶ orphan ──▶ absent
//!      ▲                 ▲    │                                                   │  ▲       a probe fails, it is taken
//!      │ taken back,     │    │                                                   │  │       back, or the time is over
//!      │ a small loss    │    │                    reported again                 │  │       and others serve
//!      └─────────────────┼────┘◀──────────────────────────────────────────────────┘  │
//!                        └─ kept out for a while if it flaps (`damping`)             └─ stays while it is the last
//! ```

use std::collections::HashSet;

use balance::{Active, Address, Endpoint};

use crate::Event;
use crate::damping::Damping;
use crate::debounce::Debounce;
use crate::feed::{Change, Feed, Rules};
use crate::guard::{Guard, Loss, Verdict};
use crate::member::{Member, Standing, contains, find, is_up, orphans};

/// How the words of several sources make one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Merge {
    /// All that any of them reports. Where two report one address, the first of them says the rest about it.
    #[default]
    Union,
    /// What the first of them reports that reports anything at all, or whose backends still answer.
    Priority,
}

impl Merge {
    /// Every way, in the order of the documentation.
    pub const ALL: [Self; 2] = [Self::Union, Self::Priority];

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Union => "union",
            Self::Priority => "priority",
        }
    }
}

/// A source within a service. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FeedId(u32);

/// The members of a service and why they are.
#[derive(Debug)]
pub(crate) struct Merger {
    merge: Merge,
    orphan_ttl_ms: u64,
    /// In the order of precedence.
    feeds: Vec<(FeedId, Feed)>,
    next_id: u32,
    /// Sorted by address.
    members: Vec<Member>,
    guard: Guard,
    damping: Damping,
    debounce: Debounce,
    /// When time alone changes something.
    timer_ms: Option<u64>,
    /// Addresses of sources that the operator took away.
    dismissed: HashSet<Address>,
    /// The source that is the operator's own word.
    floor: Option<FeedId>,
    is_accepted: bool,
}

/// What is to be done after a look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    /// The endpoints to publish, if they are others than before.
    pub(crate) endpoints: Option<Vec<Endpoint>>,
    /// Those of them to be probed beside the service's own check, if they are others than before.
    pub(crate) orphans: Option<Vec<Endpoint>>,
}

impl Merger {
    pub(crate) fn new(merge: Merge, orphan_ttl_ms: u64) -> Self {
        Self {
            merge,
            orphan_ttl_ms,
            feeds: Vec::new(),
            next_id: 0,
            members: Vec::new(),
            guard: Guard::default(),
            damping: Damping::default(),
            debounce: Debounce::default(),
            timer_ms: None,
            dismissed: HashSet::new(),
            floor: None,
            is_accepted: false,
        }
    }

    /// Another way to merge.
    pub(crate) fn configure(&mut self, merge: Merge, orphan_ttl_ms: u64, now_ms: u64) {
        if (self.merge, self.orphan_ttl_ms) != (merge, orphan_ttl_ms) {
            (self.merge, self.orphan_ttl_ms) = (merge, orphan_ttl_ms);
            self.debounce.changed(now_ms, true);
        }
    }

    /// A new source, behind all others.
    pub(crate) fn add(&mut self, rules: Rules) -> FeedId {
        let id = FeedId(self.next_id);
        self.next_id += 1;
        self.feeds.push((id, Feed::new(rules)));
        id
    }

    /// Other rules for a source, and perhaps another registry behind it.
    pub(crate) fn replace(&mut self, id: FeedId, rules: Rules, is_other: bool, now_ms: u64) {
        let Some(feed) = self.feed_mut(id) else { return };
        if *feed.rules() == rules && !is_other {
            return;
        }
        feed.configure(rules);
        if is_other {
            feed.supersede();
        }
        self.debounce.changed(now_ms, true);
    }

    /// Puts the sources into the order of `ids`, and takes away those that are not among them: the operator's will, so
    /// that what only they reported leaves without a doubt.
    pub(crate) fn arrange(&mut self, ids: &[FeedId], now_ms: u64) {
        let before: Vec<FeedId> = self.feeds.iter().map(|(id, _)| *id).collect();
        if before == ids {
            return;
        }
        let mut old = std::mem::take(&mut self.feeds);
        for id in ids {
            let at = old.iter().position(|(known, _)| known == id);
            self.feeds.extend(at.map(|at| old.swap_remove(at)));
        }
        for (gone, feed) in old {
            if self.merge == Merge::Union {
                self.dismissed.extend(feed.endpoints().map(|(_, endpoint)| endpoint.address.clone()));
            }
            let owned = self.members.iter().filter(|member| member.owner == gone);
            self.dismissed.extend(owned.map(|member| member.endpoint.address.clone()));
        }
        self.debounce.changed(now_ms, true);
    }

    /// What a snapshot remembers of a source, or of `is_other` that had its name before.
    pub(crate) fn remember(
        &mut self,
        id: FeedId,
        endpoints: impl IntoIterator<Item = Endpoint>,
        is_other: bool,
        now_ms: u64,
    ) {
        if let Some(feed) = self.feed_mut(id) {
            feed.remember(endpoints);
            if is_other {
                feed.supersede();
            }
            self.debounce.changed(now_ms, true);
        }
    }

    /// The endpoints that the operator wrote.
    pub(crate) fn dictate(&mut self, id: FeedId, endpoints: &[Endpoint], now_ms: u64) {
        self.floor = Some(id);
        let change = self.feed_mut(id).map(|feed| feed.dictate(endpoints)).unwrap_or_default();
        if change.is_any {
            self.debounce.changed(now_ms, change.is_urgent);
        }
    }

    /// A new run of a source begins.
    pub(crate) fn restart(&mut self, id: FeedId) {
        if let Some(feed) = self.feed_mut(id) {
            feed.restart();
        }
    }

    /// Takes what a source says. *Cost*: of the event; for the end of a list and a removal, of the source's table.
    pub(crate) fn handle(&mut self, id: FeedId, event: Event, now_ms: u64) -> Change {
        let change = self.feed_mut(id).map(|feed| feed.handle(event)).unwrap_or_default();
        if change.is_any {
            self.debounce.changed(now_ms, change.is_urgent);
        }
        change
    }

    /// A probe found nobody at an orphan's address. One that answers needs no word.
    pub(crate) fn found_dead(&mut self, address: &Address, now_ms: u64) {
        let at = self.members.binary_search_by(|member| member.endpoint.address.cmp(address));
        let Some(Standing::Orphan { is_dead, .. }) = at.ok().map(|at| &mut self.members[at].standing) else { return };
        *is_dead = true;
        self.debounce.changed(now_ms, true);
    }

    /// The operator says that the sources are right: orphans leave.
    pub(crate) fn accept_empty(&mut self, now_ms: u64) {
        self.is_accepted = true;
        self.debounce.changed(now_ms, true);
    }

    /// When to call [`Merger::settle`] next.
    pub(crate) fn wake_ms(&self) -> Option<u64> {
        [self.debounce.due_ms(), self.timer_ms].into_iter().flatten().min()
    }

    /// As [`Merger::settle`], whether it is due or not.
    pub(crate) fn settle_now(&mut self, now_ms: u64, active: impl Fn(&Address) -> Active) -> Settled {
        self.debounce.published();
        self.update(now_ms, &active)
    }

    /// Compares members and tables, if that is due. `active` is what the service's own check says of an address.
    ///
    /// *Cost*: O(n log n) in the members.
    pub(crate) fn settle(&mut self, now_ms: u64, active: impl Fn(&Address) -> Active) -> Settled {
        if self.timer_ms.take_if(|timer_ms| *timer_ms <= now_ms).is_some() {
            self.debounce.changed(now_ms, false);
        }
        if !self.debounce.take(now_ms) {
            return Settled::default();
        }
        self.update(now_ms, &active)
    }

    fn update(&mut self, now_ms: u64, active: &dyn Fn(&Address) -> Active) -> Settled {
        let next = self.look(now_ms, active);
        let old = std::mem::replace(&mut self.members, next);
        let endpoints = || self.members.iter().map(|member| &member.endpoint);
        let is_new = !old.iter().map(|member| &member.endpoint).eq(endpoints());
        let (before, after) = (orphans(&old), orphans(&self.members));
        Settled {
            endpoints: is_new.then(|| endpoints().cloned().collect()),
            orphans: (before != after).then_some(after),
        }
    }

    /// The members that follow those there are.
    fn look(&mut self, now_ms: u64, active: &dyn Fn(&Address) -> Active) -> Vec<Member> {
        let announced = self.take_announced();
        let in_force = self.in_force(&announced, now_ms, active);
        let wanted = self.wanted(in_force);
        let up_after = wanted.iter().filter(|member| is_up(member, active)).count();

        let (mut orphans, mut missed, mut left) = (Vec::new(), Vec::new(), Vec::new());
        for member in self.members.iter().filter(|member| !contains(&wanted, &member.endpoint.address)) {
            let is_announced = announced.contains(&member.endpoint.address)
                || in_force.is_some_and(|in_force| in_force != member.owner)
                || self.is_accepted;
            match member.standing {
                // It was taken back, or clients do not go there anyway.
                _ if is_announced || !is_up(member, active) => left.push(member.clone()),
                Standing::Orphan { .. } => orphans.push(member.clone()),
                Standing::Reported => missed.push(member.clone()),
            }
        }
        let up_before = self.members.iter().filter(|it| it.standing == Standing::Reported && is_up(it, active)).count();
        if std::mem::take(&mut self.is_accepted) {
            self.guard.forget();
        }
        match self.guard.judge(Loss { lost: missed.len(), before: up_before, after: up_after }, now_ms) {
            Verdict::Believed => left.append(&mut missed),
            Verdict::Doubted => orphans.extend(missed.into_iter().map(|it| it.orphaned(now_ms + self.orphan_ttl_ms))),
        }
        // While nothing else would be left, time alone ends no orphan.
        if up_after > 0 || orphans.iter().any(|orphan| !orphan.is_over(now_ms)) {
            left.extend(orphans.extract_if(.., |orphan| orphan.is_over(now_ms)));
        }
        left.iter().for_each(|member| self.damping.left(&member.endpoint.address, now_ms));
        self.damping.sweep(|address| contains(&wanted, address), now_ms);
        self.join(wanted, orphans, now_ms, active)
    }

    /// The addresses that were taken back since the last look, by those whose word that is: where one source counts, the
    /// others cannot take its backends away.
    fn take_announced(&mut self) -> HashSet<Address> {
        let mut announced = std::mem::take(&mut self.dismissed);
        let (merge, members) = (self.merge, &self.members);
        for (id, feed) in &mut self.feeds {
            let is_theirs = |address: &Address| {
                merge == Merge::Union || find(members, address).is_some_and(|member| member.owner == *id)
            };
            announced.extend(feed.take_withdrawn().into_iter().filter(is_theirs));
        }
        announced
    }

    /// Puts those that are wanted and the orphans together, without those that are kept out, and sets the timer.
    fn join(
        &mut self,
        wanted: Vec<Member>,
        orphans: Vec<Member>,
        now_ms: u64,
        active: &dyn Fn(&Address) -> Active,
    ) -> Vec<Member> {
        let ends = orphans.iter().filter(|orphan| !orphan.is_over(now_ms)).filter_map(Member::until_ms).min();
        let (mut next, mut kept_out, mut opens) = (orphans, Vec::new(), None::<u64>);
        for member in wanted {
            let address = &member.endpoint.address;
            let is_new = !contains(&self.members, address) && Some(member.owner) != self.floor;
            match if is_new { self.damping.entered(address, now_ms) } else { None } {
                Some(until_ms) => {
                    opens = Some(opens.map_or(until_ms, |opens| opens.min(until_ms)));
                    kept_out.push(member);
                }
                None => next.push(member),
            }
        }
        // One that flaps is better than none.
        if !next.iter().any(|member| is_up(member, active)) {
            next.append(&mut kept_out);
        }
        self.timer_ms = [ends, opens].into_iter().flatten().min();
        next.sort_unstable_by(|a, b| a.endpoint.address.cmp(&b.endpoint.address));
        let is_orphan =
            |address: &Address| find(&next, address).is_some_and(|member| member.standing != Standing::Reported);
        self.feeds.iter_mut().for_each(|(_, feed)| feed.keep_swept(is_orphan));
        next
    }

    /// The one source that counts, where only one does.
    fn in_force(
        &self,
        announced: &HashSet<Address>,
        now_ms: u64,
        active: &dyn Fn(&Address) -> Active,
    ) -> Option<FeedId> {
        if self.merge == Merge::Union {
            return None;
        }
        // A source whose list is empty keeps its place for as long as its backends answer and are not taken back.
        let serves = |member: &Member| {
            is_up(member, active) && !member.is_over(now_ms) && !announced.contains(&member.endpoint.address)
        };
        let serving = self.members.iter().filter(|member| !self.is_accepted && serves(member));
        let serving: HashSet<FeedId> = serving.map(|member| member.owner).collect();
        self.feeds.iter().find(|(id, feed)| feed.len() > 0 || serving.contains(id)).map(|(id, _)| *id)
    }

    /// What the sources in force report, sorted by address, each address once.
    fn wanted(&self, in_force: Option<FeedId>) -> Vec<Member> {
        let counts = |id: FeedId| in_force.is_none_or(|in_force| in_force == id);
        let feeds = self.feeds.iter().enumerate().filter(|(_, (id, _))| counts(*id));
        let mut all: Vec<(&Endpoint, usize, &str, FeedId)> = feeds
            .flat_map(|(rank, (owner, feed))| feed.endpoints().map(move |(id, it)| (it, rank, id, *owner)))
            .collect();
        all.sort_unstable_by(|a, b| (&a.0.address, a.1, a.2).cmp(&(&b.0.address, b.1, b.2)));
        all.dedup_by(|a, b| a.0.address == b.0.address);
        let member = |(endpoint, _, _, owner): (&Endpoint, _, _, _)| Member {
            endpoint: endpoint.clone(),
            owner,
            standing: Standing::Reported,
        };
        all.into_iter().map(member).collect()
    }

    /// The members, sorted by address.
    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    pub(crate) fn feed(&self, id: FeedId) -> Option<&Feed> {
        self.feeds.iter().find(|(known, _)| *known == id).map(|(_, feed)| feed)
    }

    fn feed_mut(&mut self, id: FeedId) -> Option<&mut Feed> {
        self.feeds.iter_mut().find(|(known, _)| *known == id).map(|(_, feed)| feed)
    }
}
