//! The tables `[[service.source]]` of kind `xds`.

use discovery::sources::{XdsSettings, XdsSource};

use super::super::checked::SourceKind;
use super::super::limits::XDS_TIMEOUT;
use super::super::problem::Problems;
use super::super::raw;
use super::source::{checked, text, texts, tls};
use super::{absolute_path, duration, zone};

/// The cluster, as the node of this name asks for it, or nothing when something was reported without which there is none.
pub fn xds(raw: raw::Source, node: &str, problems: &mut Problems) -> Option<SourceKind> {
    let timeout = duration("timeout", &raw.timeout, XDS_TIMEOUT, problems);
    let (zone, tls) = (zone(&raw.zone, problems), tls(&raw, problems));
    let token_file = absolute_path("token_file", raw.token_file, problems);
    let node_id = text(raw.node_id, problems).map_or_else(|| node.into(), |at| at.value);
    let node_cluster = text(raw.node_cluster, problems).map(|at| at.value);
    let urls_span = raw.urls.span();
    let urls: Vec<String> = texts(raw.urls, problems).into_iter().map(|at| at.value).collect();
    let cluster = text(raw.cluster, problems)?;
    // Which key is wrong depends on the error: the name first.
    let alone = XdsSettings::new(cluster.value, vec![SOME_URL.into()]);
    problems.keep(checked(XdsSource::new(alone.clone()), cluster.span))?;
    if urls.is_empty() {
        // That was reported.
        return None;
    }
    let settings = XdsSettings { urls, tls, token_file, node_id, node_cluster, zone, timeout, ..alone };
    problems.keep(checked(XdsSource::new(settings.clone()), urls_span?))?;
    Some(SourceKind::Xds(settings))
}

/// Stands in for those that are looked at later.
const SOME_URL: &str = "http://127.0.0.1";
