//! What the program writes, read as it comes, so that it never waits for its tests.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::wait::within;

/// The lines of one stream so far.
#[derive(Clone, Debug, Default)]
pub struct Output(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    stalled: bool,
    ended: bool,
}

impl Output {
    /// Reads `from` on a thread until it ends. While stalled, nothing is read: the writer's pipe fills.
    pub fn of(from: impl Read + Send + 'static, stalled: bool) -> Output {
        let output = Output(Arc::new(Mutex::new(State { stalled, ..State::default() })));
        let reader = output.clone();
        thread::spawn(move || {
            while reader.with(|state| state.stalled) {
                thread::park_timeout(Duration::from_millis(10));
            }
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                reader.with(|state| state.lines.push(line));
            }
            reader.with(|state| state.ended = true);
        });
        output
    }

    pub fn lines(&self) -> Vec<String> {
        self.with(|state| state.lines.clone())
    }

    pub fn count(&self, wanted: impl Fn(&str) -> bool) -> usize {
        self.with(|state| state.lines.iter().filter(|line| wanted(line)).count())
    }

    /// Ends a stall.
    pub fn resume(&self) {
        self.with(|state| state.stalled = false);
    }

    /// Waits for the end of the stream; then `lines` is all there will be.
    pub fn wait_for_end(&self) {
        self.resume();
        within(Duration::from_secs(10), "the program's output ends when it exits", || self.with(|state| state.ended));
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().expect("no reader of output panics"))
    }
}
