//! `dislocate demo`: the whole program at work on this machine alone, and a story that shows what it does.
//!
//! ```text
//!   clients ─▶ proxy ─▶ backends        load, crate::program, backends: each on threads of its own
//!      └────────┴──────────┘
//!               │ counters, four times a second
//!             stage ─▶ flow ─▶ text ─▶ screen
//!               ▲        └────▶ verdict
//!             story (what is done when, what must be true)
//! ```
//!
//! The proxy is the real one, with the configuration that `--write-config` leaves.

mod backends;
mod flow;
mod latencies;
mod layout;
mod load;
mod screen;
mod stage;
mod story;
mod text;
mod verdict;

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::{self, DemoArgs};
use crate::config;
use layout::Layout;
use screen::Screen;
use stage::Stage;
use verdict::Verdict;

/// Shows what dislocate does, on this machine alone.
pub fn demo(args: &DemoArgs) -> ExitCode {
    let folder = args.write_config.as_deref();
    let done = match folder {
        Some(folder) if !args.script => write_only(folder),
        Some(_) | None => play(args.script, folder),
    };
    match done {
        Ok(code) => code,
        // A reader that has seen enough, such as `head`; but a script without a verdict has not passed.
        Err(error) if is_broken_pipe(&error) && args.script => cli::fail("nobody reads the verdict: broken pipe"),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => cli::fail(&format!("{error:#}")),
    }
}

/// Leaves the configuration, and says what to do with it.
fn write_only(folder: &Path) -> anyhow::Result<ExitCode> {
    let path = write(folder, Layout::default())?;
    let text = format!(
        "{path} is what the demo runs, with comments.\n\n\
         Put your own backends in it, then\n\n  \
         dislocate check -c {path}\n  \
         dislocate run -c {path}\n",
        path = path.display(),
    );
    Screen::new(true).say(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn write(folder: &Path, layout: Layout) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create the directory {}", folder.display()))?;
    let path = folder.join(FILE_NAME);
    std::fs::write(&path, layout.toml()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Plays the story; as a script it judges it too.
fn play(script: bool, folder: Option<&Path>) -> anyhow::Result<ExitCode> {
    let (layout, sockets) = Layout::open()?;
    let written = folder.map(|folder| write(folder, layout)).transpose()?;
    let config = config::parse(FILE_NAME, &layout.toml());
    let config = config.map_err(|report| anyhow::anyhow!("the demo's own configuration: {}", report.render(false)))?;
    let mut screen = Screen::new(script);
    let policy = config.services[0].balance.as_str();
    screen.say(&(text::introduction(layout, policy) + "\n"))?;
    if let Some(path) = written {
        screen.say(&format!("The configuration is in {}.\n\n", path.display()))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the control event loop")?;
    runtime.block_on(async {
        let interrupted = on_signals().context("cannot receive signals")?;
        let mut stage = Stage::set(layout, sockets, &config, interrupted).await?;
        let played = match script {
            true => judged(&mut stage, policy, &mut screen).await,
            false => shown(&mut stage, layout, policy, &mut screen).await,
        };
        stage.strike().await;
        played
    })
}

/// The story as a check.
async fn judged(stage: &mut Stage, policy: &str, screen: &mut Screen) -> anyhow::Result<ExitCode> {
    let Some(mut told) = stage.tell(policy, 1.0, screen).await? else {
        anyhow::bail!("interrupted before the verdict");
    };
    let ending = stage.come_to_rest(&mut told).await;
    let verdict = Verdict::new(policy, &told, &ending);
    screen.say(&verdict.to_string())?;
    Ok(if verdict.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The story for somebody who watches.
async fn shown(stage: &mut Stage, layout: Layout, policy: &str, screen: &mut Screen) -> anyhow::Result<ExitCode> {
    let stretch = if screen.is_live() { READING_TIME } else { 1.0 };
    if let Some(told) = stage.tell(policy, stretch, screen).await? {
        screen.say(&text::moral(&told, layout, screen.is_live()))?;
        // Only where somebody can end it.
        if screen.is_live() {
            stage.go_on(policy, screen).await?;
        }
    }
    screen.say(text::GOODBYE)?;
    Ok(ExitCode::SUCCESS)
}

/// What is cancelled when somebody wants an end: Ctrl-C, or a terminal or supervisor that goes away.
fn on_signals() -> io::Result<CancellationToken> {
    let interrupted = CancellationToken::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let (mut signal, token) = (signal(kind)?, interrupted.clone());
        tokio::spawn(async move {
            signal.recv().await;
            token.cancel();
        });
    }
    Ok(interrupted)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// What `--write-config` leaves.
const FILE_NAME: &str = "dislocate.toml";
/// For eyes that see all this for the first time.
const READING_TIME: f64 = 1.7;
