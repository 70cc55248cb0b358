//! Configurations of one listener before one service; what a test is about stands in the test.

use std::fmt::Write as _;
use std::path::Path;

/// Silence after which flows end where that is not what a test is about: no test falls silent for so long.
pub const LONG: &str = "60s";

/// A configuration with listener `main` before service `app`.
#[derive(Clone, Debug)]
pub struct Config {
    listen: String,
    health: String,
    backends: Vec<String>,
    node: String,
    listener: String,
    idle: Option<String>,
    service: String,
    more: String,
}

impl Config {
    /// Backends as addresses, or as inline tables where they begin with a brace. No health checks unless asked for,
    /// so that a backend sees nobody but the clients. None are for services with sources.
    pub fn to<'a>(backends: impl IntoIterator<Item = &'a str>) -> Config {
        Config {
            listen: "\"127.0.0.1:0\"".into(),
            health: "{ kind = \"none\" }".into(),
            backends: backends.into_iter().map(quoted).collect(),
            node: String::new(),
            listener: String::new(),
            idle: None,
            service: String::new(),
            more: String::new(),
        }
    }

    /// The same for datagrams, whose flows end after `idle` of silence; `Proxy::finish` ends them sooner.
    pub fn datagrams<'a>(backends: impl IntoIterator<Item = &'a str>, idle: &str) -> Config {
        Config::to(backends).listener("protocol = \"udp\"").idle(idle)
    }

    /// As [`Config::datagrams`] on a unix path.
    pub fn unix_datagrams<'a>(path: &Path, backends: impl IntoIterator<Item = &'a str>, idle: &str) -> Config {
        let config = Config::to(backends).listener("protocol = \"datagram\"").idle(idle);
        config.listen(&format!("unix:{}", path.display()))
    }

    pub fn idle(mut self, time: &str) -> Config {
        self.idle = Some(time.into());
        self
    }

    /// The same where the flows of its listener, which listens on `address` now, are over at once.
    pub fn with_flows_ended(&self, address: &str) -> Option<Config> {
        self.idle.as_ref()?;
        let config = self.clone().idle("50ms");
        Some(if self.listen.ends_with(":0\"") { config.listen(address) } else { config })
    }

    /// One address, or a TOML list of them.
    pub fn listen(mut self, address: &str) -> Config {
        self.listen = if address.starts_with('[') && address.ends_with(']') { address.into() } else { quoted(address) };
        self
    }

    pub fn health(mut self, table: &str) -> Config {
        self.health = table.into();
        self
    }

    /// A further line of the `[node]` table.
    pub fn node(mut self, line: &str) -> Config {
        writeln!(self.node, "{line}").unwrap();
        self
    }

    /// A further line of the listener's table.
    pub fn listener(mut self, line: &str) -> Config {
        writeln!(self.listener, "{line}").unwrap();
        self
    }

    /// A further line of the service's table.
    pub fn service(mut self, line: &str) -> Config {
        writeln!(self.service, "{line}").unwrap();
        self
    }

    /// A table `[[service.source]]` of service `app`; before all of [`Config::more`].
    pub fn source(self, lines: &str) -> Config {
        self.more(&format!("[[service.source]]\n{lines}\n"))
    }

    /// Further tables, after all others.
    pub fn more(mut self, tables: &str) -> Config {
        writeln!(self.more, "{tables}").unwrap();
        self
    }

    pub fn toml(&self) -> String {
        let Config { listen, health, node, listener, service, more, .. } = self;
        let idle = self.idle.as_ref().map_or(String::new(), |idle| format!("idle_timeout = \"{idle}\"\n"));
        let backends = match self.backends[..] {
            [] => String::new(),
            _ => format!("backends = [{}]", self.backends.join(", ")),
        };
        format!(
            r#"[node]
name = "test"
{node}
[admin]
listen = "127.0.0.1:0"

[[listener]]
name = "main"
listen = {listen}
service = "app"
{listener}{idle}
[[service]]
name = "app"
{backends}
health = {health}
{service}
{more}"#
        )
    }
}

/// The number, from 1, of the first line of `text` that holds `what`.
pub fn line_of(text: &str, what: &str) -> usize {
    1 + text.lines().position(|line| line.contains(what)).expect("the configuration has the line")
}

fn quoted(entry: &str) -> String {
    if entry.starts_with('{') { entry.into() } else { format!("\"{entry}\"") }
}
