//! The stage: the proxy, its backends and its clients put together, and the story told on them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use balance::{Address, BackendSet, PickReason, Use};
use proxy::{ListenerStats, Reason};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::backends::Backends;
use super::flow::{Flow, Recorder, Told};
use super::layout::{BACKENDS, Layout};
use super::load::Load;
use super::screen::Screen;
use super::story::{Act, CHAPTERS, Chapter, TAIL, well};
use super::text::View;
use super::verdict::Ending;
use crate::admin::Admin;
use crate::config::Config;
use crate::log::Dropped;
use crate::process;
use crate::program::Program;
use crate::state::State;

/// Everything that runs.
pub struct Stage {
    program: Program,
    backends: Backends,
    load: Load,
    recorder: Recorder,
    /// By address, as the proxy knows the backends.
    indices: HashMap<Address, usize>,
    /// What the counters said last.
    served: [u64; BACKENDS],
    picks: [u64; BACKENDS],
    last: Instant,
    descriptors_before: u64,
    /// Set by whoever wants an early end.
    interrupted: CancellationToken,
}

impl Stage {
    /// Starts everything. Runs on the control runtime.
    ///
    /// *Errors*: threads, event loops or addresses cannot be had.
    pub async fn set(
        layout: Layout,
        sockets: Vec<std::net::TcpListener>,
        config: &Config,
        interrupted: CancellationToken,
    ) -> anyhow::Result<Self> {
        let backends = Backends::start(layout, sockets)?;
        let mut program = Program::start(config, None, Dropped::default())?;
        program.apply(config).await?;
        let admin = Admin::bind(&config.admin.listen).await;
        let admin = admin.with_context(|| format!("cannot listen on {} for admin", config.admin.listen))?;
        tokio::spawn(admin.serve(Arc::clone(program.state())));
        // A worker that answers has opened what it needs for itself.
        program.state().sessions.list(0).await;
        let descriptors_before = open_descriptors();
        Ok(Self {
            load: Load::start(layout.listener())?,
            program,
            backends,
            recorder: Recorder::default(),
            indices: (0..BACKENDS).map(|index| (Address::from(layout.backend(index)), index)).collect(),
            served: [0; BACKENDS],
            picks: [0; BACKENDS],
            last: Instant::now(),
            descriptors_before,
            interrupted,
        })
    }

    /// Tells the whole story, each chapter `stretch` times as long as it needs to be; nothing when it was interrupted.
    ///
    /// *Errors*: the screen is gone, or a backend cannot do as it was told.
    pub async fn tell(&mut self, policy: &str, stretch: f64, screen: &mut Screen) -> anyhow::Result<Option<Vec<Told>>> {
        let mut told = Vec::new();
        for (at, chapter) in CHAPTERS.iter().enumerate() {
            self.act(chapter.acts);
            let number = format!("{} of {}", at + 1, CHAPTERS.len());
            let scene = Scene { number, chapter, policy, length: Some(chapter.length.mul_f64(stretch)) };
            if !self.play(&scene, screen).await? {
                return Ok(None);
            }
            screen.close(&self.view(&scene, Duration::ZERO), &self.recorder.latest(TAIL))?;
            told.push(self.recorder.end_chapter(TAIL));
        }
        Ok(Some(told))
    }

    /// Goes on with nothing wrong until somebody ends it.
    ///
    /// *Errors*: as [`Stage::tell`].
    pub async fn go_on(&mut self, policy: &str, screen: &mut Screen) -> anyhow::Result<()> {
        let chapter = Chapter { title: "It is all yours", caption: well, ..CHAPTERS[0] };
        let scene = Scene { number: String::new(), chapter: &chapter, policy, length: None };
        self.play(&scene, screen).await.map(drop)
    }

    /// Ends the load, and waits until nothing is left of it; what is left after a while is told as it is.
    pub async fn come_to_rest(&mut self, told: &mut [Told]) -> Ending {
        self.load.stop();
        let deadline = Instant::now() + REST_LIMIT;
        while !self.load.is_over() && Instant::now() < deadline {
            sleep(REST_LOOK).await;
        }
        while !self.is_at_rest() && Instant::now() < deadline {
            sleep(REST_LOOK).await;
        }
        // The last answers belong to the last chapter.
        let flow = self.look();
        if let Some(last) = told.last_mut() {
            last.whole.add(flow);
        }
        self.ending()
    }

    /// Ends everything.
    pub async fn strike(mut self) {
        self.program.drain().await;
        self.program.cut(Reason::Shutdown).await;
        let deadline = Instant::now() + CUT_LIMIT;
        while self.program.active() > 0 && Instant::now() < deadline {
            sleep(REST_LOOK).await;
        }
        self.program.exit().await;
    }

    fn view(&self, scene: &Scene<'_>, gone: Duration) -> View {
        View {
            heading: (scene.number.clone(), scene.chapter.title),
            caption: (scene.chapter.caption)(scene.policy),
            time: (gone, scene.length),
            wishes: std::array::from_fn(|index| self.backends.wished(index)),
            standings: self.standings(),
            latest: self.recorder.latest(PRESENT),
            chapter: self.recorder.chapter().clone(),
        }
    }

    fn act(&self, acts: &[Act]) {
        for (index, wish) in acts.iter().map(|act| act.wish()) {
            self.backends.wish(index, wish);
        }
    }

    /// Shows a scene to its end; `false` when it was interrupted.
    async fn play(&mut self, scene: &Scene<'_>, screen: &mut Screen) -> anyhow::Result<bool> {
        let began = Instant::now();
        screen.open(&self.view(scene, Duration::ZERO))?;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.interrupted.cancelled() => return Ok(false),
            }
            let flow = self.look();
            self.recorder.note(flow);
            if let Some(trouble) = self.backends.trouble() {
                anyhow::bail!("{trouble}");
            }
            let gone = began.elapsed();
            screen.show(&self.view(scene, gone))?;
            if scene.length.is_some_and(|length| gone + TICK / 2 >= length) {
                return Ok(true);
            }
        }
    }

    /// What happened since the last look.
    fn look(&mut self) -> Flow {
        let (now, felt) = (Instant::now(), self.load.take());
        let (served, picks) = (self.backends.served(), self.picked());
        Flow {
            span: now - std::mem::replace(&mut self.last, now),
            served: since(served, &mut self.served),
            picks: since(picks, &mut self.picks),
            felt,
        }
    }

    /// Picks of each backend so far.
    fn picked(&self) -> [u64; BACKENDS] {
        let mut picks = [0; BACKENDS];
        self.each_backend(|index, backend| {
            picks[index] = PickReason::ALL.iter().map(|&reason| backend.state().picks(reason)).sum();
        });
        picks
    }

    /// What the proxy makes of each backend.
    fn standings(&self) -> [&'static str; BACKENDS] {
        let (mut standings, now_ms) = (["unknown"; BACKENDS], self.program.state().now_ms());
        self.each_backend(|index, backend| standings[index] = backend.standing(now_ms).as_str());
        standings
    }

    fn each_backend(&self, mut act: impl FnMut(usize, &balance::Backend)) {
        let running = self.program.state().running.load();
        for (_, reader) in &running.services {
            let set: Arc<BackendSet> = Arc::clone(&reader.load());
            for backend in set.backends() {
                if let Some(&index) = self.indices.get(backend.address()) {
                    act(index, backend);
                }
            }
        }
    }

    fn is_at_rest(&self) -> bool {
        let Ending { opened, closed, active, session_descriptors, descriptors_after, .. } = self.ending();
        active == 0 && opened == closed && session_descriptors == 0 && descriptors_after <= self.descriptors_before
    }

    fn ending(&self) -> Ending {
        let state: &State = self.program.state();
        let running = state.running.load();
        let sum = |of: &dyn Fn(&ListenerStats) -> u64| {
            let stats = running.listeners.iter().flat_map(|view| view.listener.all_stats());
            stats.map(of).sum::<u64>()
        };
        let failures = balance::ConnectFailure::ALL.map(Some).into_iter().chain([None]);
        Ending {
            opened: sum(&ListenerStats::opened),
            closed: Reason::ALL.iter().map(|&reason| sum(&|stats| stats.closed(reason))).sum(),
            active: running.listeners.iter().map(|view| u64::from(view.listener.active())).sum(),
            retries: failures.map(|failure| sum(&|stats| stats.retries(failure))).sum(),
            session_descriptors: u64::from(state.ledger.used(Use::Sessions)),
            descriptors_before: self.descriptors_before,
            descriptors_after: open_descriptors(),
        }
    }
}

/// How much counters grew, and what they are now.
fn since(now: [u64; BACKENDS], last: &mut [u64; BACKENDS]) -> [u64; BACKENDS] {
    let before = std::mem::replace(last, now);
    std::array::from_fn(|index| now[index].saturating_sub(before[index]))
}

fn open_descriptors() -> u64 {
    let sample = process::samples().into_iter().find(|sample| sample.name == "process_open_fds");
    sample.map_or(0, |sample| sample.value as u64)
}

/// What is played: a chapter, or what comes after the last.
struct Scene<'a> {
    number: String,
    chapter: &'a Chapter,
    policy: &'a str,
    length: Option<Duration>,
}

/// From one look at the counters to the next.
const TICK: Duration = Duration::from_millis(250);
/// What is shown as the present.
const PRESENT: Duration = Duration::from_secs(1);
/// For the last requests, which have five seconds each at most.
const REST_LIMIT: Duration = Duration::from_secs(6);
const REST_LOOK: Duration = Duration::from_millis(10);
/// For the workers to end the sessions that are cut.
const CUT_LIMIT: Duration = Duration::from_secs(1);
