//! The admin listener: metrics, health, and what runs, as JSON; and the one thing that can be told to it.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Query, Request, State as Of};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use balance::Use;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use crate::config::AdminAddress;
use crate::explain::explain;
use crate::metrics;
use crate::state::State;
use crate::views::{ListenerJson, ServiceJson, SessionJson, SourceJson};

/// The open admin listener.
pub enum Admin {
    /// On an address of the loopback interface.
    Tcp(TcpListener),
    /// On a unix path, for those whom its permissions let in.
    Unix(UnixListener),
}

impl Admin {
    /// Opens it.
    ///
    /// *Errors*: the address cannot be opened.
    pub async fn bind(address: &AdminAddress) -> io::Result<Self> {
        match address {
            AdminAddress::Tcp(addr) => TcpListener::bind(addr).await.map(Self::Tcp),
            AdminAddress::Unix(path) => {
                let std = proxy::bind_unix(path)?;
                UnixListener::from_std(std).map(Self::Unix)
            }
        }
    }

    /// The address with the port that it really has.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => listener.local_addr().map_or_else(|_| "unknown".into(), |addr| addr.to_string()),
            Self::Unix(listener) => {
                let path = listener.local_addr().ok().and_then(|addr| addr.as_pathname().map(|path| path.to_owned()));
                format!("unix:{}", path.unwrap_or_default().display())
            }
        }
    }

    /// Answers until it is dropped.
    pub async fn serve(self, state: Arc<State>) {
        let router = router(Arc::clone(&state));
        loop {
            let accepted = match &self {
                Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| answer(stream, &router, &state)),
                Self::Unix(listener) => listener.accept().await.map(|(stream, _)| answer(stream, &router, &state)),
            };
            if let Err(error) = accepted {
                tracing::warn!(%error, "cannot accept an admin connection, trying again in 100 ms");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

/// Serves one connection beside the others. One that the descriptors do not allow, or that is one too many, is closed.
fn answer(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: &Router, state: &Arc<State>) {
    if state.ledger.used(Use::Admin) >= CONNECTIONS {
        return;
    }
    let Some(descriptor) = state.ledger.take(Use::Admin, 1) else { return };
    let service = TowerToHyperService::new(router.clone());
    tokio::spawn(async move {
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        // A client that breaks off, or speaks something else, has told us all there is.
        let _broken_off = http.serve_connection(TokioIo::new(stream), service).await;
        drop(descriptor);
    });
}

fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/metrics", get(metrics_text))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/v1/services", get(services))
        .route("/v1/services/{service}/accept-empty", post(accept_empty))
        .route("/v1/sources", get(sources))
        .route("/v1/explain/{listener}", get(explained))
        .route("/v1/listeners", get(listeners))
        .route("/v1/sessions", get(sessions))
        .layer(middleware::from_fn(only_by_address))
        .with_state(state)
}

/// Refuses names that are not this machine's own: a page in a browser of this machine can make its own name lead here
/// (DNS rebinding), but it cannot make its requests carry another name.
async fn only_by_address(headers: HeaderMap, request: Request, next: Next) -> Response {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    if is_own_name(host) {
        return next.run(request).await;
    }
    (StatusCode::FORBIDDEN, "the Host header must be an IP address or localhost\n").into_response()
}

fn is_own_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) | None => host,
    };
    let name = name.trim_matches(['[', ']']);
    name.is_empty() || name == "localhost" || name.parse::<IpAddr>().is_ok()
}

async fn metrics_text(Of(state): Of<Arc<State>>) -> Response {
    match metrics::render(&state) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn readyz(Of(state): Of<Arc<State>>) -> Response {
    match state.is_ready() {
        true => "ready\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response(),
    }
}

async fn services(Of(state): Of<Arc<State>>) -> Json<Vec<ServiceJson>> {
    let now_ms = state.now_ms();
    let running = state.running.load_full();
    let service = |(name, reader): &(String, balance::Reader)| {
        let members = state.sources.members(name).unwrap_or_default();
        ServiceJson::new(name, &reader.load(), &members, now_ms)
    };
    Json(running.services.iter().map(service).collect())
}

async fn sources(Of(state): Of<Arc<State>>) -> Json<Vec<SourceJson>> {
    let now_ms = state.now_ms();
    Json(state.sources.sources().iter().map(|report| SourceJson::new(report, now_ms)).collect())
}

/// The operator says that the sources of a service are right.
async fn accept_empty(Of(state): Of<Arc<State>>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    // Every browser sends it with a request that another page makes, and no tool does.
    if headers.contains_key(header::ORIGIN) {
        return (StatusCode::FORBIDDEN, "pages in a browser may not change anything\n").into_response();
    }
    match state.sources.accept_empty(&name) {
        true => "accepted\n".into_response(),
        false => (StatusCode::NOT_FOUND, format!("there is no service {name:?}\n")).into_response(),
    }
}

async fn listeners(Of(state): Of<Arc<State>>) -> Json<Vec<ListenerJson>> {
    Json(state.running.load().listeners.iter().map(ListenerJson::new).collect())
}

/// For whom a pick is to be explained.
#[derive(Deserialize)]
struct ExplainQuery {
    source: Option<String>,
}

async fn explained(Of(state): Of<Arc<State>>, Path(name): Path<String>, Query(query): Query<ExplainQuery>) -> Response {
    let running = state.running.load_full();
    let Some(view) = running.listeners.iter().find(|view| view.listener.name() == name) else {
        let names: Vec<_> = running.listeners.iter().map(|view| view.listener.name()).collect();
        let text = format!("there is no listener {name:?}; there is {}\n", names.join(", "));
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    let source = match query.source.as_deref().map(str::parse::<IpAddr>).transpose() {
        Ok(source) => source,
        Err(_) => return (StatusCode::BAD_REQUEST, "source must be an IP address\n").into_response(),
    };
    let set = view.listener.settings().backends.load();
    let members = state.sources.members(&set.settings().name).unwrap_or_default();
    Json(explain(&name, &set, &members, source, state.now_ms())).into_response()
}

/// How many sessions are wanted.
#[derive(Deserialize)]
struct SessionQuery {
    limit: Option<usize>,
}

async fn sessions(Of(state): Of<Arc<State>>, Query(query): Query<SessionQuery>) -> Json<Vec<SessionJson>> {
    let limit = query.limit.unwrap_or(SESSIONS).min(SESSIONS_MOST);
    let mut sessions = state.sessions.list(limit).await;
    sessions.truncate(limit);
    Json(sessions.iter().map(SessionJson::new).collect())
}

/// Admin connections at once: a few scrapers, people and scripts.
const CONNECTIONS: u32 = 64;
/// Time to send a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failure to accept.
const BACK_OFF: Duration = Duration::from_millis(100);
/// Sessions told when no number is asked for, and at most.
const SESSIONS: usize = 1_000;
const SESSIONS_MOST: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_this_machines_own_names() {
        for own in ["127.0.0.1:9901", "127.0.0.1", "[::1]:9901", "localhost", "localhost:9901", ""] {
            assert!(is_own_name(own), "{own}");
        }
        for foreign in ["evil.example", "evil.example:9901", "localhost.evil.example", "127.0.0.1.evil.example:1"] {
            assert!(!is_own_name(foreign), "{foreign}");
        }
    }
}
