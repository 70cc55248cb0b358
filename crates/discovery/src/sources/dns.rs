//! Endpoints from the DNS: A and AAAA records, or SRV records with the addresses of their targets.
//!
//! ```text
//!   name ── A, AAAA ─────────────────────────▶ addresses ─┐
//!   _name ─ SRV ──▶ targets ── A, AAAA of each ▶ addresses ┴▶ one list, one time
//! ```
//!
//! The resolution is one: it succeeds as a whole, or it fails and nothing changes. SERVFAIL, a refusal, silence and an
//! answer that stays cut are failures. "No such name" and "no such records" are answers, namely an empty list, of which
//! the guard thinks its part. What servers put into the additional section is not used: they may leave out what they
//! like, and each list would differ.
//!
//! Nothing is cached but for the pause: an answer is asked for again when its time is over.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use balance::{Rng, Zone};
use tokio::task::JoinSet;

use self::client::Client;
use self::resolve::Verdict;
use self::wire::{Kind, Name, Value};
use super::tell::{Teller, ended};
use crate::source::{Found, Sink, Source, SourceError};

mod client;
mod resolve;
mod servers;
mod wire;

/// What a DNS source needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSettings {
    /// The name, complete: no search list is applied. SRV records are asked for when it begins with `_`.
    pub name: String,
    /// The port of the endpoints. Needed for addresses, and not allowed with SRV records, which have their own.
    pub port: Option<u16>,
    /// The servers to ask, in this order. None are those of `/etc/resolv.conf`.
    pub servers: Vec<SocketAddr>,
    /// Which addresses are asked for. A backend that has both kinds is two endpoints.
    pub family: Family,
    /// How long a server may take before the next is asked.
    pub timeout: Duration,
    /// The least time between two resolutions, whatever the records say. Lower values follow faster and ask more.
    pub ttl_min: Duration,
    /// The longest time between two resolutions, whatever the records say.
    pub ttl_max: Duration,
    /// Where the endpoints stand; none is the zone of this node.
    pub zone: Option<Zone>,
}

impl DnsSettings {
    /// The defaults, for this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            port: None,
            servers: Vec::new(),
            family: Family::default(),
            timeout: TIMEOUT,
            ttl_min: TTL_MIN,
            ttl_max: TTL_MAX,
            zone: None,
        }
    }
}

/// Which addresses are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// Both.
    #[default]
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

impl Family {
    fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Any => &[Kind::A, Kind::Aaaa],
            Self::V4 => &[Kind::A],
            Self::V6 => &[Kind::Aaaa],
        }
    }
}

/// Resolves a name again and again.
#[derive(Debug)]
pub struct DnsSource {
    settings: DnsSettings,
    name: Name,
    /// None for SRV records.
    port: Option<u16>,
}

impl DnsSource {
    /// A source with these settings.
    ///
    /// *Errors*: the name is not one, or the port is missing, 0, or too much.
    pub fn new(settings: DnsSettings) -> Result<Self, SourceError> {
        let Some(name) = Name::new(&settings.name) else {
            let text = "a domain name is labels of letters, digits, - and _, of at most 63 bytes each and 253 in all";
            return Err(SourceError::new(text));
        };
        match (settings.name.starts_with('_'), settings.port) {
            (true, Some(_)) => Err(SourceError::new("SRV records have ports of their own; remove the port")),
            (false, None) => Err(SourceError::new("addresses have no port; give one, or a name that begins with _")),
            (_, Some(0)) => Err(SourceError::new("port 0 is not a port to connect to")),
            (_, port) => Ok(Self { name, port, settings }),
        }
    }

    async fn follow(&self, sink: &Sink) -> Result<Infallible, SourceError> {
        let mut rng = Rng::new(RandomState::new().hash_one(()));
        let mut teller = Teller::default();
        loop {
            let (list, ttl) = self.resolve().await?;
            teller.tell(sink, list).await?;
            tokio::time::sleep(resolve::pause(ttl, self.settings.ttl_min, self.settings.ttl_max, &mut rng)).await;
        }
    }

    /// The list now, and for how many seconds it holds.
    async fn resolve(&self) -> Result<(Vec<Found>, u32), SourceError> {
        let servers = match self.settings.servers.is_empty() {
            true => servers::of_system().await?,
            false => self.settings.servers.clone(),
        };
        let client = Client { servers: servers.into(), timeout: self.settings.timeout };
        let zone = self.settings.zone.as_ref();
        let Some(port) = self.port else {
            return self.resolve_services(&client).await;
        };
        let (mut addresses, ttl) = self.addresses(&client, vec![self.name.clone()]).await?;
        let ips = addresses.remove(&self.name).unwrap_or_default();
        Ok((resolve::of_addresses(&ips, port, zone)?, ttl))
    }

    async fn resolve_services(&self, client: &Client) -> Result<(Vec<Found>, u32), SourceError> {
        let hit = client.search(self.name.clone(), Kind::Srv).await?;
        let service = |value| match value {
            Value::Service(service) => Some(service),
            Value::Address(_) | Value::Alias(_) => None,
        };
        let services: Vec<_> = hit.values.into_iter().filter_map(service).collect();
        let (addresses, ttl) = self.addresses(client, resolve::targets(&services)?).await?;
        Ok((resolve::of_services(&services, &addresses, self.settings.zone.as_ref())?, ttl.min(hit.ttl)))
    }

    /// The addresses of each name, and for how many seconds all of them hold. Some questions are under way at once; the
    /// first that fails ends the others.
    async fn addresses(
        &self,
        client: &Client,
        names: Vec<Name>,
    ) -> Result<(BTreeMap<Name, Vec<IpAddr>>, u32), SourceError> {
        let kinds = self.settings.family.kinds();
        let mut waiting: VecDeque<(Name, Kind)> =
            names.into_iter().flat_map(|name| kinds.iter().map(move |&kind| (name.clone(), kind))).collect();
        let mut running = JoinSet::new();
        let (mut addresses, mut ttl) = (BTreeMap::<Name, Vec<IpAddr>>::new(), u32::MAX);
        loop {
            while running.len() < QUESTIONS_AT_ONCE
                && let Some((name, kind)) = waiting.pop_front()
            {
                let client = client.clone();
                running.spawn(async move { (name.clone(), client.search(name, kind).await) });
            }
            let Some(done) = running.join_next().await else {
                return Ok((addresses, ttl));
            };
            let (name, hit) =
                done.map_err(|error| SourceError::new(format!("the resolver ended by a bug: {error}")))?;
            let hit = hit?;
            ttl = ttl.min(hit.ttl);
            let ips = hit.values.iter().filter_map(|value| match value {
                Value::Address(ip) => Some(*ip),
                Value::Alias(_) | Value::Service(_) => None,
            });
            addresses.entry(name).or_default().extend(ips);
        }
    }
}

impl Source for DnsSource {
    fn kind(&self) -> &'static str {
        "dns"
    }

    fn run<'a>(&'a self, sink: &'a Sink) -> Pin<Box<dyn Future<Output = SourceError> + Send + 'a>> {
        Box::pin(async { ended(self.follow(sink).await) })
    }
}

/// Reads a message as the answer to a question for `_web._tcp`, and makes of it what it makes. For fuzzing.
pub(super) fn any_answer(message: &[u8]) {
    for kind in [Kind::Srv, Kind::A] {
        let name = Name::new("_web._tcp").expect("it is a name");
        let query = wire::Query { id: 0, name: name.clone(), kind };
        let Some(answer) = query.answer(message) else { continue };
        let Verdict::Records(records) = resolve::judge(answer) else { continue };
        assert!(records.len() <= message.len() / 11, "records come of nothing");
        assert!(records.iter().all(|record| record.name.to_string().len() <= 4 * 255), "a name is too long");
        let Ok(Some(hit)) = resolve::Search::new(name.clone(), kind).records(&records) else { continue };
        let (mut services, mut ips) = (Vec::new(), Vec::new());
        for value in hit.values {
            match value {
                Value::Service(service) => services.push(service),
                Value::Address(ip) => ips.push(ip),
                Value::Alias(_) => panic!("an alias is no place"),
            }
        }
        let targets = resolve::targets(&services).unwrap_or_default();
        let addresses = targets.into_iter().map(|target| (target, vec![IpAddr::from([10, 0, 0, 1])])).collect();
        let lists = [resolve::of_services(&services, &addresses, None), resolve::of_addresses(&ips, 80, None)];
        for list in lists.into_iter().flatten() {
            assert!(list.is_sorted_by(|a, b| a.id < b.id), "a list is not in order");
        }
    }
}

/// Time for a resolver to ask others in turn; with two rounds, a lost datagram costs this much once.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Records with a time of 0 are asked for once a second.
const TTL_MIN: Duration = Duration::from_secs(1);
/// A record that was given a day must not hold a dead address for a day.
const TTL_MAX: Duration = Duration::from_secs(300);
/// Keeps a large SRV answer from flooding the servers.
const QUESTIONS_AT_ONCE: usize = 16;
