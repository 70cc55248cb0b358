//! Where traffic went and what clients felt, over a stretch of time.

use std::collections::VecDeque;
use std::time::Duration;

use super::layout::{BACKENDS, PLACES};
use super::load::Felt;

/// What happened in a stretch of time.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    /// How long it was.
    pub span: Duration,
    /// Connections answered by each backend, as it counts them.
    pub served: [u64; BACKENDS],
    /// Times that each was picked, as the proxy counts them.
    pub picks: [u64; BACKENDS],
    /// What clients felt.
    pub felt: Felt,
}

impl Flow {
    /// Adds the stretch that follows.
    pub fn add(&mut self, later: Self) {
        self.span += later.span;
        for index in 0..BACKENDS {
            self.served[index] += later.served[index];
            self.picks[index] += later.picks[index];
        }
        self.felt.add(later.felt);
    }

    /// A backend's part of all answers, in percent.
    pub fn share(&self, index: usize) -> f64 {
        percent(self.served[index], self.served.iter().sum())
    }

    /// The zones in order, each with its part of all answers in percent.
    pub fn zones(&self) -> Vec<(&'static str, f64)> {
        let zones = PLACES.chunk_by(|one, other| one.zone == other.zone);
        let mut next = 0;
        let shares = zones.map(|places| {
            let served: u64 = self.served[next..next + places.len()].iter().sum();
            next += places.len();
            (places[0].zone, percent(served, self.served.iter().sum()))
        });
        shares.collect()
    }
}

/// Flows as they come, added up in two ways.
#[derive(Default)]
pub struct Recorder {
    recent: VecDeque<Flow>,
    chapter: Flow,
}

/// What a chapter came to.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// All of it.
    pub whole: Flow,
    /// Its last part, about which expectations are.
    pub tail: Flow,
}

impl Recorder {
    /// Adds what happened since the last time.
    pub fn note(&mut self, flow: Flow) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(flow.clone());
        self.chapter.add(flow);
    }

    /// The latest stretch of about this length.
    pub fn latest(&self, span: Duration) -> Flow {
        let mut latest = Flow::default();
        for flow in self.recent.iter().rev() {
            if latest.span + flow.span / 2 > span {
                break;
            }
            latest.add(flow.clone());
        }
        latest
    }

    /// The chapter so far.
    pub fn chapter(&self) -> &Flow {
        &self.chapter
    }

    /// Ends a chapter, with a tail of about this length.
    pub fn end_chapter(&mut self, tail: Duration) -> Told {
        Told { tail: self.latest(tail), whole: std::mem::take(&mut self.chapter) }
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

/// Stretches that are remembered one by one: four seconds of quarters.
const RECENT: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn quarter(served: [u64; BACKENDS]) -> Flow {
        Flow { span: Duration::from_millis(250), served, ..Flow::default() }
    }

    #[test]
    fn shares_are_of_what_was_answered() {
        let flow = quarter([50, 25, 15, 5, 5, 0]);
        assert_eq!(flow.share(1), 25.0);
        assert_eq!(flow.zones(), [("home", 75.0), ("near", 20.0), ("far", 5.0)]);
        assert_eq!(Flow::default().share(0), 0.0, "nothing of nothing is nothing");
    }

    #[test]
    fn the_latest_stretch_forgets_what_was_before_and_the_chapter_does_not() {
        let mut recorder = Recorder::default();
        (0..20).for_each(|_| recorder.note(quarter([1, 0, 0, 0, 0, 0])));
        (0..8).for_each(|_| recorder.note(quarter([0, 1, 0, 0, 0, 0])));

        assert_eq!(recorder.latest(Duration::from_secs(1)).served, [0, 4, 0, 0, 0, 0]);
        assert_eq!(recorder.latest(Duration::from_secs(3)).served, [4, 8, 0, 0, 0, 0]);

        let told = recorder.end_chapter(Duration::from_secs(2));
        assert_eq!((told.tail.served[1], told.whole.served[0]), (8, 20));
        assert_eq!(recorder.chapter().served, [0; BACKENDS], "a new chapter begins with nothing");
    }
}
