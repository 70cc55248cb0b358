//! The tables `[[service.source]]` of kind `kubernetes`.

use discovery::sources::{Cluster, KubernetesSettings, KubernetesSource, SlicePort};

use super::super::checked::SourceKind;
use super::super::limits::KUBERNETES_TIMEOUT;
use super::super::problem::{Code, Problem, Problems};
use super::super::raw::{self, Span};
use super::source::{checked, family, text, tls};
use super::{absolute_path, duration, zone};

/// The Service, or nothing when something was reported without which there is none.
pub fn kubernetes(raw: raw::Source, problems: &mut Problems) -> Option<SourceKind> {
    let timeout = duration("timeout", &raw.timeout, KUBERNETES_TIMEOUT, problems);
    let (family, zone) = (family(&raw.family), zone(&raw.zone, problems));
    let port = port(&raw, problems);
    let cluster_span = raw.url.span();
    let cluster = cluster(&raw, problems);
    let namespace = text(raw.namespace, problems);
    let service = text(raw.service, problems)?;
    // Which key is wrong depends on the error: names first, one by one.
    let alone = KubernetesSettings::new(service.value);
    problems.keep(checked(KubernetesSource::new(alone.clone()), service.span.clone()))?;
    let named = KubernetesSettings { namespace: namespace.as_ref().map(|at| at.value.clone()), ..alone };
    let span = namespace.map_or_else(|| service.span.clone(), |at| at.span);
    problems.keep(checked(KubernetesSource::new(named.clone()), span))?;
    let settings = KubernetesSettings { cluster, port, family, zone, timeout, ..named };
    problems.keep(checked(KubernetesSource::new(settings.clone()), cluster_span.unwrap_or(service.span)))?;
    Some(SourceKind::Kubernetes(settings))
}

fn port(raw: &raw::Source, problems: &mut Problems) -> SlicePort {
    let name = text(raw.port_name.clone(), problems);
    match (raw.port.value(), name) {
        (Some(_), Some(name)) => {
            contradiction(name.span, "`port_name` contradicts `port`", "write one of the two", problems);
            SlicePort::Only
        }
        (Some(&number), None) => SlicePort::Number(number),
        (None, Some(name)) => SlicePort::Name(name.value),
        (None, None) => SlicePort::Only,
    }
}

/// Which cluster is meant: that of a `url`, of a `kubeconfig`, or the one around this program.
fn cluster(raw: &raw::Source, problems: &mut Problems) -> Cluster {
    let kubeconfig = absolute_path("kubeconfig", raw.kubeconfig.clone(), problems);
    let token_file = absolute_path("token_file", raw.token_file.clone(), problems);
    let context = text(raw.context.clone(), problems).map(|at| at.value);
    let tls = tls(raw, problems);
    if let (Some(span), None) = (raw.context.span(), raw.kubeconfig.span()) {
        contradiction(span, "`context` has no meaning without `kubeconfig`", "add it, or remove the context", problems);
    }
    if let (Some(span), Some(_)) = (raw.url.span(), raw.kubeconfig.span()) {
        contradiction(span, "`url` contradicts `kubeconfig`, which names a server", "write one of the two", problems);
        return Cluster::default();
    }
    if raw.url.0.is_none() {
        without_url(raw, problems);
    }
    match (raw.url.value(), kubeconfig) {
        (Some(url), _) => Cluster::Server { url: url.clone(), tls, token_file },
        (None, Some(path)) => Cluster::File { path, context },
        (None, None) => Cluster::default(),
    }
}

/// Reports what goes with a URL alone: a kubeconfig and a service account have their own.
fn without_url(raw: &raw::Source, problems: &mut Problems) {
    let keys = [
        ("token_file", raw.token_file.span()),
        ("ca_file", raw.ca_file.span()),
        ("cert_file", raw.cert_file.span()),
        ("key_file", raw.key_file.span()),
        ("server_name", raw.server_name.span()),
    ];
    for (key, span) in keys {
        let Some(span) = span else { continue };
        let message = format!("`{key}` has no meaning without `url`");
        contradiction(span, &message, "a kubeconfig and the service account of a pod have their own", problems);
    }
}

fn contradiction(span: Span, message: &str, help: &str, problems: &mut Problems) {
    problems.push(Problem::new(Code::Contradiction, span, message).help(help));
}
