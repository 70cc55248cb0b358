//! Endpoints from Kubernetes: the EndpointSlices of one Service, through the API server.
//!
//! ```text
//!   list, page by page, version v ──▶ watch from v ──▶ changes, bookmarks, version v' ──▶ watch from v' ──▶ …
//!        ▲                                                              │ 410: v' is too old
//!        └──────────────────────────────────────────────────────────────┘
//! ```
//!
//! A list is asked for without a version, which is the one way to get one that is not from the past of some server. One
//! that is older than what was known before is refused once: a server may be behind; a cluster that was restored says
//! the same again.
//!
//! The server is asked to end each watch after a minute, and tells the version just before. A watch over a dead link
//! is as silent as one with nothing to tell, and is left then as well; the next goes on where it stopped, which costs no
//! list. Of a cluster that was restored, a version of before is in the future, and a watch from there is silent for ever:
//! a version that goes back tells it, and every ten minutes there is a list all the same. Watches that end sooner, and lists that are too old as soon as they are watched, are followed by pauses that
//! grow: the control plane may be in trouble, and all nodes ask it.

use std::convert::Infallible;
use std::fmt::Write;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use balance::Zone;
use tokio::time::Instant;

use self::access::Access;
use self::run::{Asking, JITTER, Run, WatchEnd};
use self::slices::{Choice, Said};
use self::table::Table;
use super::dns::Family;
use super::escaped::Escaped;
use super::fetch::{check_tls, within};
use super::newest::Newest;
use super::records::shortened;
use super::tell::ended;
use crate::backoff::Backoff;
use crate::source::{Found, Sink, Source, SourceError};

pub use self::access::Cluster;
pub use self::slices::SlicePort;

mod access;
mod kubeconfig;
mod run;
mod slices;
mod table;

/// What a Kubernetes source needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesSettings {
    /// The name of the Service.
    pub service: String,
    /// Its namespace; none is the one that `cluster` says, or else `default`.
    pub namespace: Option<String>,
    /// Which cluster is asked.
    pub cluster: Cluster,
    /// Which port of the pods.
    pub port: SlicePort,
    /// Which addresses. Pods with both are two endpoints where any are taken.
    pub family: Family,
    /// The data centre of the cluster, in which the zones of its endpoints are; or, as `dc/zone`, the zone of all. None
    /// leaves their zones as they are.
    pub zone: Option<Zone>,
    /// How long a question may take; of a watch, its head.
    pub timeout: Duration,
    /// How long a watch lasts before it is made anew; also about how long a lost connection may go unnoticed.
    pub renew: Duration,
    /// How long after a list the next is read, whatever was heard meanwhile.
    pub resync: Duration,
    /// How long an endpoint may be missing before that is told, if it was not being taken away: it may be on its way
    /// from one slice to another.
    pub settle: Duration,
    /// Slices of a page.
    pub page: usize,
    /// Longest page.
    pub body_max_bytes: usize,
    /// Longest line of a watch.
    pub line_max_bytes: usize,
}

impl KubernetesSettings {
    /// The defaults, for this service.
    pub fn new(service: impl Into<String>) -> Self {
        Self {
            service: service.into(),
            namespace: None,
            cluster: Cluster::default(),
            port: SlicePort::default(),
            family: Family::default(),
            zone: None,
            timeout: TIMEOUT,
            renew: RENEW,
            resync: RESYNC,
            settle: SETTLE,
            page: PAGE,
            body_max_bytes: BODY_MAX_BYTES,
            line_max_bytes: LINE_MAX_BYTES,
        }
    }
}

/// Follows the slices of a Service.
#[derive(Debug)]
pub struct KubernetesSource {
    settings: KubernetesSettings,
    choice: Choice,
    newest: Newest,
}

impl KubernetesSource {
    /// A source with these settings.
    ///
    /// *Errors*: a name cannot be one, the URL is not one, or there are settings for TLS that it does not use. What
    /// files say is found out by each run.
    pub fn new(settings: KubernetesSettings) -> Result<Self, SourceError> {
        if !is_label(&settings.service) {
            return Err(SourceError::new("no Service can have such a name"));
        }
        if settings.namespace.as_deref().is_some_and(|name| !is_label(name)) {
            return Err(SourceError::new("no namespace can have such a name"));
        }
        if let Cluster::Server { url, tls, .. } = &settings.cluster {
            check_tls(tls, std::iter::once(&access::server(url)?.0))?;
        }
        let (port, zone) = (settings.port.clone(), settings.zone.clone());
        let choice = Choice { port, family: settings.family, zone };
        Ok(Self { settings, choice, newest: Newest::default() })
    }

    async fn follow(&self, sink: &Sink) -> Result<Infallible, SourceError> {
        let variable = |name: &str| std::env::var(name).ok();
        let mut access = within(self.settings.timeout, Access::read(&self.settings.cluster, variable)).await?;
        let namespace = self.settings.namespace.clone().or_else(|| access.namespace.clone());
        let namespace = namespace.unwrap_or_else(|| "default".into());
        if !is_label(&namespace) {
            return Err(SourceError::new(format!("no namespace can be called `{}`", shortened(&namespace))));
        }
        let path = path(&access.base, &namespace, &self.settings.service);
        let (client, token) = access.client().await?;
        let mut run = Run::new(self, Asking { client, token, path });
        let mut backoff = Backoff::default();
        loop {
            run.read_all(sink).await?;
            let resync_ms = run.rng.jitter(self.settings.resync.as_millis() as u64, JITTER);
            let resync = Instant::now() + Duration::from_millis(resync_ms);
            while Instant::now() < resync {
                let begun = Instant::now();
                let end = run.watch(sink).await?;
                if end == WatchEnd::Due {
                    continue;
                }
                // It was not in vain: trouble begins anew.
                if run.has_heard {
                    backoff = Backoff::default();
                }
                let lasted_ms = begun.elapsed().as_millis() as u64;
                let pause = Duration::from_millis(backoff.next(lasted_ms, true, &mut run.rng));
                tracing::debug!(service = self.settings.service, ?end, ?pause, "the watch of slices ended");
                tokio::time::sleep(pause).await;
                if end == WatchEnd::Expired {
                    break;
                }
            }
        }
    }

    /// Refuses a list that is older than what was known, once. Versions that are no numbers cannot be compared.
    fn check_age(&self, version: &str) -> Result<(), SourceError> {
        version.parse().map_or(Ok(()), |version| self.newest.check(version))
    }
}

impl Source for KubernetesSource {
    fn kind(&self) -> &'static str {
        "kubernetes"
    }

    fn run<'a>(&'a self, sink: &'a Sink) -> Pin<Box<dyn Future<Output = SourceError> + Send + 'a>> {
        Box::pin(async { ended(self.follow(sink).await) })
    }
}

/// The question for the slices of a Service.
fn path(base: &str, namespace: &str, service: &str) -> String {
    let mut path = format!("{base}/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?labelSelector=");
    // Writing to a text cannot fail.
    let _written = write!(path, "{}", Escaped(&format!("kubernetes.io/service-name={service}")));
    path
}

/// Whether it can be the name of a Service or of a namespace (RFC 1123 section 2.1, in small letters).
fn is_label(name: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(is_inner) && !name.starts_with('-') && !name.ends_with('-')
}

/// Reads any bytes as a page, as a line of a watch, and as a kubeconfig. For fuzzing.
pub(super) fn any_answer(text: &[u8]) -> Result<Vec<Found>, SourceError> {
    let choice = Choice::default();
    let mut table = Table::default();
    // Only that it ends matters; what it says is no list.
    let _read = kubeconfig::read(text, None, std::path::Path::new("/"));
    let _words = slices::refusal(text);
    match slices::page(text, &choice) {
        Ok(page) => page.slices.into_iter().try_for_each(|slice| table.put(slice))?,
        Err(_) => match slices::said(text, &choice)? {
            Said::Put(slice, _) => table.put(slice)?,
            Said::Gone(name, _) => table.remove(&name),
            Said::Bookmark(_) | Said::Expired => {}
        },
    }
    Ok(table.list()?.unwrap_or_default())
}

/// API servers answer within a second, and after ten when they are in trouble.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A link that died is noticed after a minute and the time of a question, at the price of a small one.
const RENEW: Duration = Duration::from_secs(60);
/// For what no watch tells, at the price of a small list.
const RESYNC: Duration = Duration::from_secs(600);
/// The control plane writes the slices between which an endpoint moves one right after the other.
const SETTLE: Duration = Duration::from_millis(500);
/// At 100 endpoints of 500 bytes in a slice, 2.5 MB; ten times that where slices are as large as they can be.
const PAGE: usize = 50;
/// A page of slices that are as large as they can be.
const BODY_MAX_BYTES: usize = 32 << 20;
/// Objects in etcd have at most 1.5 MiB, and are longer in JSON.
const LINE_MAX_BYTES: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_be_are_refused() {
        let new = |change: &dyn Fn(&mut KubernetesSettings)| {
            let mut settings = KubernetesSettings::new("web");
            change(&mut settings);
            KubernetesSource::new(settings).is_ok()
        };
        assert!(new(&|_| ()));
        assert!(new(&|settings| settings.namespace = Some("kube-system".into())));
        for bad in ["", "Web", "web/../x", "web.x", "-web", "web-", "web&x", &"a".repeat(64)] {
            assert!(!new(&|settings| settings.service = bad.into()), "{bad}");
            assert!(!new(&|settings| settings.namespace = Some(bad.into())), "{bad}");
        }
        let server = |url: &str, ca_file: Option<&str>| Cluster::Server {
            url: url.into(),
            tls: super::super::tls::TlsSettings { ca_file: ca_file.map(Into::into), ..Default::default() },
            token_file: None,
        };
        assert!(new(&|settings| settings.cluster = server("https://10.0.0.1:6443/prefix/", Some("/ca"))));
        assert!(new(&|settings| settings.cluster = server("http://127.0.0.1:8001", None)));
        assert!(!new(&|settings| settings.cluster = server("http://127.0.0.1:8001", Some("/ca"))));
        assert!(!new(&|settings| settings.cluster = server("https://10.0.0.1/?x", None)));
        assert!(!new(&|settings| settings.cluster = server("10.0.0.1:6443", None)));
    }

    #[test]
    fn versions_that_are_no_numbers_are_not_compared() {
        let source = KubernetesSource::new(KubernetesSettings::new("web")).unwrap();
        let age = |version: &str| source.check_age(version).is_ok();
        assert!(age("9") && age("a version that is no number") && !age("4") && age("4"));
    }
}
