//! What flows of datagrams have of their own: no connect, and silence that may mean nothing.
//!
//! A datagram that is not answered may have been lost, or deserve no answer: a log line, an acknowledgement, a keepalive,
//! a question that the server does not like. So silence is held against a backend only if
//!
//! * most questions of the service are answered: one that only listens is never blamed;
//! * the backend has answered nobody while this flow waited;
//! * the flow was never answered, or its client goes on asking: the last datagram of a flow deserves none more often than
//!   not.
//!
//! What is left of mistakes is for the failure memory to bear: five silences in a row eject, and any answer in between
//! begins a new count.

use crate::{Lease, Rng};

/// What a flow remembers of its answers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flow {
    answered: bool,
    /// When its client was last given up on, if no answer came since.
    given_up_ms: Option<u64>,
}

impl Flow {
    pub(crate) fn answered(&mut self) {
        *self = Self { answered: true, given_up_ms: None };
    }

    /// Takes a silence from `began_ms` to `now_ms`. Returns whether it says something about the backend. A client that asks
    /// again soon after an answered flow fell silent wants to know; one that sends a keepalive now and then does not.
    fn silent(&mut self, began_ms: u64, now_ms: u64) -> bool {
        let waited_ms = now_ms.saturating_sub(began_ms);
        let before = self.given_up_ms.replace(now_ms);
        !self.answered || before.is_some_and(|before| began_ms.saturating_sub(before) <= waited_ms)
    }
}

impl Lease {
    /// The flow's socket exists: it counts as established from now on. Nobody has spoken to the backend yet, so that
    /// tells neither its distance nor that it works; a trial is decided by the first answer, and until then keeps others
    /// from trying for a second only.
    pub fn opened(&mut self, now_ms: u64) {
        self.flow.get_or_insert_default();
        if self.on_trial {
            self.backend().state().tries_on(now_ms);
        }
        self.end_connecting();
    }

    /// The client's datagrams have waited for long without any reply; ends the turn, and with it what the wait counts for
    /// as load. It is a failure of the backend if most questions of the service are answered, if the backend answered
    /// nobody in that time, and if the flow was never answered or its client goes on asking. Where answers are not the rule
    /// it is the opposite, since nobody refused. Returns whether it ejected the backend, for the log.
    pub fn silent(&mut self, now_ms: u64, rng: &mut Rng) -> bool {
        let began_ms = self.turn_ms;
        let stuck_ms = u64::from(self.backend().state().stuck_ms(now_ms));
        if !self.end_turn() {
            return false;
        }
        let says_something = self.flow.get_or_insert_default().silent(began_ms, now_ms);
        let service = self.backend().pool().service();
        service.replies.saw(false);
        if service.replies.get() < ANSWERS_ARE_THE_RULE {
            self.was_not_refused(now_ms);
            return false;
        }
        says_something && stuck_ms >= now_ms.saturating_sub(began_ms) && self.blame(now_ms, rng)
    }

    fn was_not_refused(&mut self, now_ms: u64) {
        let on_trial = std::mem::take(&mut self.on_trial);
        if self.backend().state().unrefused(now_ms, on_trial) {
            self.backend().pool().service().changed();
        }
    }
}

/// Share of questions that are answered where answers are expected. Clients that ask in vain are few, or the service is
/// one that only listens.
const ANSWERS_ARE_THE_RULE: f32 = 0.5;
