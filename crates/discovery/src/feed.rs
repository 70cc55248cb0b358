//! What one source has said of a service so far. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use balance::{Address, Endpoint, Facts, Reported, Zone};

use crate::reach::{Reach, Refusal};
use crate::{Event, Found, ID_MAX_BYTES};

/// The table of one source.
///
/// *Shape*: one record an id. A list is gathered beside the table and takes its place when it ends, so that a list which
/// breaks off, or is too long, changes nothing. *Cost*: up to twice the table while a list is gathered.
#[derive(Debug)]
pub(crate) struct Feed {
    rules: Rules,
    table: Table,
    staged: Option<Staged>,
    /// Ids that a list left out, while their backends are orphans: their registrar may still take them back. At most as
    /// many as endpoints.
    swept: HashMap<Box<str>, Address>,
    zones: HashSet<Zone>,
    /// Addresses that were taken back and are not judged yet. At most as many as endpoints; beyond, it is as if a list
    /// had left them out, which is the safe side.
    withdrawn: HashSet<Address>,
    /// Whether the operator has put another registry in the place of the one that said this.
    is_superseded: bool,
    /// Whether it is as the source said in this process, and not as a snapshot remembers it.
    is_confirmed: bool,
    tally: Tally,
}

/// What a source may say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) reach: Reach,
    /// Most endpoints; at least 1.
    pub(crate) most: usize,
    /// Where endpoints stand that name no zone.
    pub(crate) home: Zone,
}

type Table = HashMap<Box<str>, Endpoint>;

/// A list that has not ended.
#[derive(Debug)]
enum Staged {
    Gathering(Table),
    TooMany,
}

/// What an event changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// The table is another.
    pub(crate) is_any: bool,
    /// A backend is to get no new sessions.
    pub(crate) is_urgent: bool,
    /// A list was refused as a whole.
    pub(crate) is_refused: bool,
}

/// Counts of one source's word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Lists that were whole.
    pub(crate) lists: u64,
    /// Lists that were refused for their length.
    pub(crate) refused_lists: u64,
    /// Endpoints that were not taken.
    pub(crate) refused: BTreeMap<&'static str, u64>,
}

impl Feed {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            table: Table::new(),
            staged: None,
            swept: HashMap::new(),
            zones: HashSet::new(),
            withdrawn: HashSet::new(),
            is_superseded: false,
            is_confirmed: false,
            tally: Tally::default(),
        }
    }

    /// What it says until the source speaks: the endpoints of a snapshot. They are under the rules too, since these may
    /// have changed.
    pub(crate) fn remember(&mut self, endpoints: impl IntoIterator<Item = Endpoint>) {
        for endpoint in endpoints {
            if self.table.len() < self.rules.most && self.rules.reach.check(&endpoint.address).is_ok() {
                self.table.insert(endpoint.address.to_string().into(), endpoint);
            }
        }
    }

    /// Other rules, which hold for what it has said before too.
    pub(crate) fn configure(&mut self, rules: Rules) {
        let gone = self.table.extract_if(|_, endpoint| rules.reach.check(&endpoint.address).is_err());
        self.withdrawn.extend(gone.map(|(_, endpoint)| endpoint.address));
        self.rules = rules;
    }

    /// What it says was said by another registry. It stands until the new one's first list that names anybody, and is
    /// not defended then.
    pub(crate) fn supersede(&mut self) {
        self.is_superseded = true;
    }

    /// Replaces what it says by the word of the operator, which is beyond doubt.
    pub(crate) fn dictate(&mut self, endpoints: &[Endpoint]) -> Change {
        let table: Table = endpoints.iter().map(|it| (it.address.to_string().into(), it.clone())).collect();
        self.withdrawn.extend(self.table.values().map(|endpoint| endpoint.address.clone()));
        self.is_confirmed = true;
        let is_any = table != self.table;
        self.table = table;
        Change { is_any, is_urgent: is_any, is_refused: false }
    }

    /// A new run of the source begins; a list that the last one did not end is void.
    pub(crate) fn restart(&mut self) {
        self.staged = None;
    }

    pub(crate) fn handle(&mut self, event: Event) -> Change {
        match event {
            Event::Begin => {
                self.staged = Some(Staged::Gathering(Table::new()));
                Change::default()
            }
            Event::Upsert(found) => self.upsert(found),
            Event::Remove(ids) => self.remove(&ids),
            Event::End => self.end(),
            Event::Alive => Change::default(),
        }
    }

    fn upsert(&mut self, found: Vec<Found>) -> Change {
        let mut change = Change::default();
        for found in found {
            match self.endpoint(&found) {
                Ok(endpoint) => self.put(found.id, endpoint, &mut change),
                Err(refusal) => self.refuse(refusal),
            }
        }
        change
    }

    fn put(&mut self, id: Box<str>, endpoint: Endpoint, change: &mut Change) {
        let most = self.rules.most;
        match &mut self.staged {
            Some(Staged::TooMany) => {}
            Some(Staged::Gathering(table)) if table.len() >= most && !table.contains_key(&id) => {
                self.staged = Some(Staged::TooMany);
            }
            Some(Staged::Gathering(table)) => {
                table.insert(id, endpoint);
            }
            None if self.table.len() >= most && !self.table.contains_key(&id) => self.refuse(Refusal::TooMany),
            None => self.put_now(id, endpoint, change),
        }
    }

    fn put_now(&mut self, id: Box<str>, endpoint: Endpoint, change: &mut Change) {
        let is_open = is_open(&endpoint);
        let address = endpoint.address.clone();
        match self.table.insert(id.clone(), endpoint) {
            Some(old) if self.table.get(&id) == Some(&old) => return,
            Some(old) => {
                change.is_urgent |= is_open_then_shut(&old, is_open);
                // The registrar moved it, which is as good as taking the old one back.
                if old.address != address && self.withdrawn.len() < self.rules.most {
                    self.withdrawn.insert(old.address);
                }
            }
            None => {}
        }
        change.is_any = true;
    }

    fn remove(&mut self, ids: &[Box<str>]) -> Change {
        let mut gone = HashSet::new();
        for id in ids {
            if let Some(Staged::Gathering(table)) = &mut self.staged {
                table.remove(id);
            }
            gone.extend(self.table.remove(id).map(|endpoint| endpoint.address));
            gone.extend(self.swept.remove(id));
        }
        // Another id may have the same address.
        if !gone.is_empty() {
            for endpoint in self.table.values() {
                gone.remove(&endpoint.address);
            }
        }
        let is_any = !gone.is_empty();
        self.withdrawn.extend(gone);
        Change { is_any, is_urgent: is_any, is_refused: false }
    }

    fn end(&mut self) -> Change {
        let table = match self.staged.take() {
            Some(Staged::Gathering(table)) => table,
            Some(Staged::TooMany) => {
                self.tally.refused_lists += 1;
                return Change { is_refused: true, ..Change::default() };
            }
            None => return Change::default(),
        };
        self.tally.lists += 1;
        self.is_confirmed = true;
        if table == self.table {
            self.is_superseded &= table.is_empty();
            return Change::default();
        }
        let old = std::mem::replace(&mut self.table, table);
        if self.is_superseded && !self.table.is_empty() {
            self.is_superseded = false;
            self.withdrawn.extend(old.values().map(|endpoint| endpoint.address.clone()));
        }
        let mut is_urgent = false;
        for (id, old) in old {
            match self.table.get(&id) {
                Some(new) => is_urgent |= is_open_then_shut(&old, is_open(new)),
                None if self.swept.len() < self.rules.most => drop(self.swept.insert(id, old.address)),
                None => {}
            }
        }
        Change { is_any: true, is_urgent, is_refused: false }
    }

    /// The endpoint as `balance` has it, or why it is not taken.
    fn endpoint(&mut self, found: &Found) -> Result<Endpoint, Refusal> {
        if found.id.len() > ID_MAX_BYTES {
            return Err(Refusal::LongId);
        }
        self.rules.reach.check(&found.address)?;
        let zone = match &found.zone {
            Some(zone) => self.shared(zone),
            None => self.rules.home.clone(),
        };
        Ok(Endpoint {
            address: found.address.clone(),
            weight: found.weight,
            zone,
            priority: found.priority,
            facts: Facts { reported: found.reported, ..Facts::default() },
            server_id: None,
        })
    }

    /// The zone of this name that others already hold, so that a hundred thousand endpoints share one name.
    fn shared(&mut self, zone: &Zone) -> Zone {
        if let Some(known) = self.zones.get(zone) {
            return known.clone();
        }
        if self.zones.len() >= ZONES_MAX {
            self.zones.clear();
        }
        self.zones.insert(zone.clone());
        zone.clone()
    }

    fn refuse(&mut self, refusal: Refusal) {
        *self.tally.refused.entry(refusal.as_str()).or_default() += 1;
    }

    /// What it reports, by id.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = (&str, &Endpoint)> {
        self.table.iter().map(|(id, endpoint)| (&**id, endpoint))
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn is_confirmed(&self) -> bool {
        self.is_confirmed
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The addresses that were taken back since this was asked last.
    pub(crate) fn take_withdrawn(&mut self) -> HashSet<Address> {
        std::mem::take(&mut self.withdrawn)
    }

    /// Forgets the ids that nobody needs any more.
    pub(crate) fn keep_swept(&mut self, is_orphan: impl Fn(&Address) -> bool) {
        self.swept.retain(|_, address| is_orphan(address));
    }
}

/// Whether new sessions may go there, as far as the source can say.
fn is_open(endpoint: &Endpoint) -> bool {
    endpoint.weight > 0 && endpoint.facts.reported == Reported::Ready
}

fn is_open_then_shut(old: &Endpoint, is_open_now: bool) -> bool {
    is_open(old) && !is_open_now
}

/// Zone names that are shared; more than any network has. Beyond, names are stored again.
const ZONES_MAX: usize = 4_096;
