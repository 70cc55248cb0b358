//! What must hold at the end of every test, whatever it was about.

use std::os::unix::process::ExitStatusExt as _;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::metrics::Metrics;
use super::proxy::{Proxy, is_record};
use super::wait::within;

impl Proxy {
    /// Waits until every session is over and proves that nothing is left of them; then stops the program and proves
    /// that it ends well and that its log holds no warning that the test did not provoke.
    pub fn finish(self) {
        self.end_flows();
        self.expect_no_leak();
        self.signal(Signal::TERM);
        self.exits();
    }

    /// Waits for the exit that the test has asked for, and returns all session records.
    pub fn exits(mut self) -> Vec<Value> {
        let mut status = None;
        within(Duration::from_secs(40), "the program ends when it is told to", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let status = status.expect("the wait ended with a status");
        self.finished = true;
        self.stdout.wait_for_end();
        self.stderr.wait_for_end();
        assert_eq!(status.code(), Some(0), "a stop that was asked for is no failure (signal {:?})", status.signal());
        self.expect_clean_log();
        self.sessions()
    }

    /// Nobody closes a flow: silence that suffices for a test may last longer than a test may.
    fn end_flows(&self) {
        if self.metrics().sum("udp_flows_active") == 0.0 {
            return;
        }
        let Some(config) = self.origin.as_ref().and_then(|config| config.with_flows_ended(&self.main())) else {
            return;
        };
        // What is there already would not be loaded again.
        if std::fs::read_to_string(self.config_path()).unwrap() != config.toml() {
            self.reload(&config.toml());
        }
    }

    fn expect_no_leak(&self) {
        let settled = |what: &str, condition: &dyn Fn() -> bool| within(Duration::from_secs(20), what, condition);
        let zero = |selector: &'static str| move || self.metrics().sum(selector) == 0.0;
        settled("no session stays active", &zero("connections_active"));
        settled("no flow stays active", &zero("udp_flows_active"));
        settled("no backend keeps a session", &zero("backend_sessions"));
        settled("no pipe stays busy", &zero("pipes{state=\"busy\"}"));
        settled("as many sessions end as begin", &|| {
            let metrics = self.metrics();
            sessions_begun(&metrics) == metrics.sum("connections_closed_total") + metrics.sum("udp_flows_ended_total")
        });
        settled("no descriptor stays behind", &|| self.session_descriptors() <= self.baseline_descriptors());
        if !self.records_elsewhere.load(Ordering::Relaxed) {
            settled("every session leaves one record", &|| {
                sessions_begun(&self.metrics()) <= self.stderr.count(is_record) as f64
            });
        }
        assert_eq!(self.metrics().sum("panics_total"), 0.0, "no task of the program panics");
    }

    /// Descriptors that come and go with sessions: all but listening sockets and the pipes that wait in the pool.
    fn session_descriptors(&self) -> usize {
        let pooled = 2 * self.metrics().sum("pipes{state=\"idle\"}") as usize;
        let now = self.descriptors();
        (now.total() - now.listening).saturating_sub(pooled)
    }

    fn baseline_descriptors(&self) -> usize {
        self.baseline.total() - self.baseline.listening + self.for_sources.load(Ordering::Relaxed)
    }

    fn expect_clean_log(&self) {
        let expected = self.expected.lock().unwrap();
        for line in self.stderr.lines() {
            let Ok(event) = serde_json::from_str::<Value>(&line) else {
                panic!("standard error holds events and records only, not: {line}");
            };
            let alarming = matches!(event["level"].as_str(), Some("ERROR" | "WARN"));
            let provoked = expected.iter().any(|text| line.contains(text.as_str()));
            assert!(!alarming || provoked, "the log holds nothing that the test did not provoke, not: {line}");
        }
    }
}

/// Connections and flows together.
fn sessions_begun(metrics: &Metrics) -> f64 {
    metrics.sum("connections_opened_total") + metrics.sum("udp_flows_created_total")
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // By its own handle: it may have ended already, and that is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.stderr.resume();
        if thread::panicking() {
            let lines = self.log_lines();
            let last = &lines[lines.len().saturating_sub(40)..];
            println!("last lines of the program:\n{}", last.join("\n"));
        } else {
            panic!("a test ends with finish()");
        }
    }
}
