//! `dislocate run`: from a file to a running program, and what signals do to it.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Context;
use discovery::FileWatch;
use proxy::{BindError, Reason};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, timeout_at};

use crate::admin::Admin;
use crate::cli;
use crate::config::{self, Config, LogTarget};
use crate::log::{self, Dropped, Queue};
use crate::panics;
use crate::plan::Plan;
use crate::program::Program;
use crate::state::PANICS;
use crate::views::protocol;

/// Serves as the file says, until a signal ends it.
pub fn run(path: &Path) -> ExitCode {
    let config = match cli::load(path) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let dropped = Dropped::default();
    let events = Queue::stderr(&dropped);
    log::init_events(events.clone(), std::io::stderr().is_terminal());
    count_panics();
    log_warnings(&config);
    let served = serve(path, config, &events, &dropped);
    events.flush(FLUSH_LIMIT);
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::fail(&format!("{error:#}")),
    }
}

/// Runs on the control runtime: one thread for everything that is not traffic.
fn serve(path: &Path, config: Config, events: &Queue, dropped: &Dropped) -> anyhow::Result<()> {
    let records = match &config.node.log {
        LogTarget::Stderr => Some(events.clone()),
        LogTarget::None => None,
        LogTarget::File(file) => Some(
            Queue::file(file, dropped).with_context(|| format!("cannot open the session log {}", file.display()))?,
        ),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the control event loop")?;
    runtime.block_on(async {
        let mut signals = Signals::new().context("cannot receive signals")?;
        let sink = records.as_ref().map(Queue::sink);
        let mut program = Program::start(&config, sink, dropped.clone())?;
        program.apply(&config).await.map_err(|error| located(path, &config, error))?;
        let admin = Admin::bind(&config.admin.listen).await;
        let admin = admin.with_context(|| format!("cannot listen on {} for admin", config.admin.listen))?;
        announce(&program, &admin);
        tokio::spawn(admin.serve(std::sync::Arc::clone(program.state())));
        tokio::spawn(panics::tell(std::sync::Arc::clone(program.state())));
        let running = Running { path: path.to_owned(), config, program, records, refused: None };
        running.until_stopped(&mut signals).await
    })
}

/// A program and where it came from.
struct Running {
    path: PathBuf,
    config: Config,
    program: Program,
    records: Option<Queue>,
    /// Why the file as it is now was refused, if it was.
    refused: Option<String>,
}

impl Running {
    async fn until_stopped(mut self, signals: &mut Signals) -> anyhow::Result<()> {
        let watch = FileWatch::new(&self.path);
        let mut watch = watch
            .inspect_err(|error| tracing::warn!(%error, "cannot watch the configuration; SIGHUP still reloads it"))
            .ok();
        loop {
            let changed = async {
                match &mut watch {
                    Some(watch) => watch.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = changed => self.reload(Cause::Watch).await,
                signal = signals.next() => match signal {
                    Command::Reload => self.reload(Cause::Signal).await,
                    Command::Reopen => self.records.iter().for_each(Queue::reopen),
                    Command::Upgrade => tracing::info!("SIGUSR2 is ignored: this version cannot upgrade in place"),
                    Command::Drain => return self.drain(signals).await,
                    Command::Stop => return self.stop(Reason::Shutdown).await,
                },
            }
        }
    }

    /// Reads the file anew and applies it, or says why not and changes nothing.
    async fn reload(&mut self, cause: Cause) {
        let path = self.path.clone();
        // Parsing a large file takes a while, and health checks share this thread.
        let loaded = tokio::task::spawn_blocking(move || config::load(&path)).await;
        let outcome = match loaded {
            Ok(Ok(config)) if config.hash == self.config.hash => Outcome::Unchanged,
            Ok(Ok(config)) => self.change(config).await,
            Ok(Err(report)) => Outcome::Refused(report.render(false)),
            Err(error) => Outcome::Refused(format!("reading it failed: {error}")),
        };
        let reloads = &self.program.state().reloads;
        let file = self.path.display();
        match outcome {
            // Events of other files in the folder, or of a file that was only touched; not a bad file put right.
            Outcome::Unchanged if cause == Cause::Watch && !reloads.last_refused.load(Relaxed) => return,
            Outcome::Unchanged => {
                reloads.unchanged.fetch_add(1, Relaxed);
                tracing::info!(%file, "configuration unchanged");
            }
            Outcome::Applied(plan) => {
                reloads.ok.fetch_add(1, Relaxed);
                tracing::info!(%file, %plan, "configuration reloaded");
            }
            // Said already. The folder may change at any pace, and even by our saying it, when a log lies beside the file.
            Outcome::Refused(why) if cause == Cause::Watch && self.refused.as_ref() == Some(&why) => return,
            Outcome::Refused(why) => {
                reloads.refused.fetch_add(1, Relaxed);
                reloads.last_refused.store(true, Relaxed);
                tracing::error!(%file, why, "configuration refused; the one before goes on");
                self.refused = Some(why);
                return;
            }
        }
        self.refused = None;
        reloads.last_refused.store(false, Relaxed);
    }

    async fn change(&mut self, config: Config) -> Outcome {
        let plan = Plan::between(&self.config, &config);
        if !plan.needs_restart.is_empty() {
            return Outcome::Refused(format!("only a restart can change {}", plan.needs_restart.join(", ")));
        }
        match self.program.apply(&config).await {
            Ok(()) => {
                log_warnings(&config);
                self.config = config;
                Outcome::Applied(plan)
            }
            Err(error) => Outcome::Refused(format!("{:#}", located(&self.path, &config, error))),
        }
    }

    /// Lets sessions end until the deadline or a second signal.
    async fn drain(mut self, signals: &mut Signals) -> anyhow::Result<()> {
        let limit = self.config.node.drain_timeout;
        tracing::info!(sessions = self.program.active(), limit_ms = limit.as_millis() as u64, "draining");
        self.program.drain().await;
        let deadline = Instant::now() + limit;
        let reason = tokio::select! {
            ended = timeout_at(deadline, self.sessions_end()) => match ended {
                Ok(()) => return self.stop(Reason::Shutdown).await,
                Err(_elapsed) => Reason::DrainTimeout,
            },
            () = signals.again() => Reason::Shutdown,
        };
        self.stop(reason).await
    }

    /// Cuts what is left and ends.
    async fn stop(mut self, reason: Reason) -> anyhow::Result<()> {
        self.program.drain().await;
        let left = self.program.active();
        self.program.cut(reason).await;
        // Cutting takes one turn of each event loop; a worker that is stuck must not keep the process.
        let _cut_in_time = timeout_at(Instant::now() + CUT_LIMIT, self.sessions_end()).await;
        tracing::info!(cut = left, reason = reason.as_str(), "stopped");
        self.program.save().await;
        self.program.exit().await;
        self.records.iter().for_each(|records| records.flush(FLUSH_LIMIT));
        Ok(())
    }

    async fn sessions_end(&self) {
        while self.program.active() > 0 {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    }
}

/// What made us read the file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    Signal,
    Watch,
}

/// What came of a reload.
enum Outcome {
    Applied(Plan),
    Unchanged,
    Refused(String),
}

/// What a signal asks for.
enum Command {
    Reload,
    Reopen,
    Upgrade,
    Drain,
    Stop,
}

struct Signals {
    hup: Signal,
    usr1: Signal,
    usr2: Signal,
    term: Signal,
    int: Signal,
    quit: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hup: signal(SignalKind::hangup())?,
            usr1: signal(SignalKind::user_defined1())?,
            usr2: signal(SignalKind::user_defined2())?,
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    async fn next(&mut self) -> Command {
        tokio::select! {
            _ = self.quit.recv() => Command::Stop,
            _ = self.term.recv() => Command::Drain,
            _ = self.int.recv() => Command::Drain,
            _ = self.hup.recv() => Command::Reload,
            _ = self.usr1.recv() => Command::Reopen,
            _ = self.usr2.recv() => Command::Upgrade,
        }
    }

    /// Waits for a second wish to end.
    async fn again(&mut self) {
        loop {
            if let Command::Drain | Command::Stop = self.next().await {
                return;
            }
        }
    }
}

/// Says on standard output where clients may come, for people and for scripts that wait for it.
fn announce(program: &Program, admin: &Admin) {
    let mut text = String::new();
    for view in &program.state().running.load().listeners {
        for address in &view.addresses {
            text += &format!("listening {} {} {address}\n", view.listener.name(), protocol(address));
        }
    }
    text += &format!("listening admin http {}\nready\n", admin.address());
    let mut out = std::io::stdout().lock();
    // Where nobody reads it, nobody misses it.
    let _unread = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Puts what is remarkable about a configuration into the log.
fn log_warnings(config: &Config) {
    for problem in config.warnings.problems() {
        let line = config.warnings.place(problem).line;
        tracing::warn!(file = config.warnings.file(), line, help = problem.help, "configuration: {}", problem.message);
    }
}

/// An address that cannot be opened, with the place in the file that asks for it.
fn located(path: &Path, config: &Config, error: BindError) -> anyhow::Error {
    let line = config.line_of(&error.listener, &error.address).map_or(String::new(), |line| format!(":{line}"));
    anyhow::Error::new(error).context(format!("{}{line}", path.display()))
}

/// Counts panics before they are printed; a panic of a session ends that session only.
fn count_panics() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Relaxed);
        tracing::error!(panic = %info, "an error in dislocate itself");
        default(info);
    }));
}

/// How often a drain looks whether sessions are left.
const DRAIN_LOOK: Duration = Duration::from_millis(10);
/// For the workers to end the sessions that are cut.
const CUT_LIMIT: Duration = Duration::from_secs(2);
/// For the last lines of a log.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);
