//! Runs a command.

use std::io;
use std::process::{ExitStatus, Stdio};

use balance::Address;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::{Detail, Finding, Trouble, within};
use crate::roster::Job;

pub(super) async fn probe(command: &[String], job: &Job, deadline: Instant) -> Finding {
    let ours = |error: io::Error| Trouble::Ours(format!("the command cannot be run: {error}").into());
    let mut run = Run::start(command, job).map_err(ours)?;
    let status = within(deadline, async { run.ended().await.map_err(ours) }, "exec").await?;
    match (status.success(), status.code()) {
        (true, _) => Ok(Detail::Borrowed("exit status 0")),
        (false, Some(code)) => Err(Trouble::Theirs(format!("exit status {code}").into())),
        (false, None) => Err(Trouble::Theirs(format!("ended by {status}").into())),
    }
}

/// A command that runs, with all of its children. Dropping it before its end kills them all: a check that hangs must
/// not leave a process behind each time.
struct Run {
    child: Child,
    /// The process group of our own making, as long as the command has not been waited for: until then nobody else
    /// can have its number.
    group: Option<Pid>,
}

impl Run {
    fn start(command: &[String], job: &Job) -> io::Result<Self> {
        let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let (host, port) = match &job.address {
            Address::Inet(addr) => (addr.ip().to_string(), addr.port().to_string()),
            Address::Unix(path) => (path.display().to_string(), String::new()),
        };
        let child = Command::new(program)
            .args(arguments)
            .env("DISLOCATE_SERVICE", &*job.service)
            .env("DISLOCATE_BACKEND", job.address.to_string())
            .env("DISLOCATE_HOST", host)
            .env("DISLOCATE_PORT", port)
            .env("DISLOCATE_ZONE", job.backend.zone().as_str())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(Self { child, group })
    }

    /// *Cancel safety*: the command runs on; the end is not lost.
    async fn ended(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await;
        self.group = None;
        status
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // The only possible error is that all of them have ended, which is what we want. The runtime reaps the
            // command itself when `child` is dropped.
            let _gone = kill_process_group(group, Signal::KILL);
        }
    }
}
