//! A picked backend, counted as load until it is let go.

use std::sync::Arc;
use std::time::Duration;

use crate::{Backend, ConnectFailure, Rng};

/// Why a backend was picked; the `reason` of `dislocate_picks_total` and of the session record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PickReason {
    /// The policy's choice.
    Normal,
    /// The policy's choice among those not tried yet, after another one failed.
    Retry,
    /// The one session that tries a backend after its ejection.
    Trial,
    /// Checks and ejections were ignored, since too few backends of the zone would have been left.
    Panic,
    /// From a higher level, because no lower one had a backend to pick.
    Backup,
}

impl PickReason {
    /// Every reason, in the order of the documentation.
    pub const ALL: [Self; 5] = [Self::Normal, Self::Retry, Self::Trial, Self::Panic, Self::Backup];

    /// The name in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Retry => "retry",
            Self::Trial => "trial",
            Self::Panic => "panic",
            Self::Backup => "backup",
        }
    }
}

/// The right to use a backend for one session. It counts as load from the pick on, first as connecting and after
/// [`Lease::connected`] as established; dropping it ends that, whatever happened before.
#[derive(Debug)]
pub struct Lease {
    backend: Arc<Backend>,
    reason: PickReason,
    connecting: bool,
    on_trial: bool,
}

impl Lease {
    /// Counts a session on `backend`. `on_trial` is whether the caller took its trial.
    pub(crate) fn new(backend: Arc<Backend>, reason: PickReason, on_trial: bool) -> Self {
        backend.state().picked(reason);
        Self { backend, reason, connecting: true, on_trial }
    }

    /// Whose session this is.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// Why it was picked.
    pub fn reason(&self) -> PickReason {
        self.reason
    }

    /// The connection is established, `took` after it was begun.
    pub fn connected(&mut self, now_ms: u64, took: Duration, rng: &mut Rng) {
        self.backend.state().connected(now_ms, took, std::mem::take(&mut self.on_trial), rng);
        self.end_connecting();
    }

    /// The connection failed by the backend's doing. Returns whether that ejected the backend, for the log.
    pub(crate) fn failed(mut self, now_ms: u64, failure: ConnectFailure, rng: &mut Rng) -> bool {
        self.backend.state().failed(now_ms, failure, std::mem::take(&mut self.on_trial), rng)
    }

    fn end_connecting(&mut self) {
        if std::mem::take(&mut self.connecting) {
            self.backend.state().connecting_ended();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.end_connecting();
        if self.on_trial {
            self.backend.state().abandon_trial();
        }
        self.backend.state().session_ended();
    }
}
