//! Backends that come and go all the time are let in again only after they held still. Pure.
//!
//! Each return costs a penalty that decays by half every 30 s (route flap damping, RFC 2439, with its own numbers). A
//! backend that returns starts with fresh estimates anyway, and so slowly; this only keeps it from doing so every second.

use std::collections::HashMap;

use balance::Address;

/// The backends that left lately.
#[derive(Clone, Debug, Default)]
pub(crate) struct Damping {
    flaps: HashMap<Address, Flap>,
}

#[derive(Clone, Copy, Debug)]
struct Flap {
    penalty: f32,
    /// When it came or went last.
    at_ms: u64,
    is_here: bool,
}

impl Damping {
    /// `address` left.
    pub(crate) fn left(&mut self, address: &Address, now_ms: u64) {
        if self.flaps.len() >= FLAPS_MAX && !self.flaps.contains_key(address) {
            return;
        }
        let flap = self.flaps.entry(address.clone()).or_insert(Flap { penalty: 0.0, at_ms: now_ms, is_here: false });
        *flap = Flap { penalty: flap.decayed(now_ms), at_ms: now_ms, is_here: false };
    }

    /// `address` is there and wants in. Returns until when it is kept out, if it is. To be asked at every look for as
    /// long as it is kept out.
    pub(crate) fn entered(&mut self, address: &Address, now_ms: u64) -> Option<u64> {
        let flap = self.flaps.get_mut(address)?;
        if !flap.is_here {
            *flap = Flap { penalty: flap.decayed(now_ms) + PENALTY, at_ms: now_ms, is_here: true };
        }
        let until_ms = flap.at_ms + STILL_MS;
        (flap.penalty > LIMIT && now_ms < until_ms).then_some(until_ms)
    }

    /// Notes who of those that were kept out is gone again; `is_reported` says who is there.
    pub(crate) fn sweep(&mut self, is_reported: impl Fn(&Address) -> bool, now_ms: u64) {
        for (address, flap) in &mut self.flaps {
            if flap.is_here && !is_reported(address) {
                *flap = Flap { penalty: flap.decayed(now_ms), at_ms: now_ms, is_here: false };
            }
        }
        self.flaps.retain(|_, flap| now_ms < flap.at_ms + FORGET_MS);
    }
}

impl Flap {
    fn decayed(&self, now_ms: u64) -> f32 {
        let halves = now_ms.saturating_sub(self.at_ms) as f32 / HALF_LIFE_MS;
        self.penalty * (-halves).exp2()
    }
}

/// For each return.
const PENALTY: f32 = 1_000.0;
/// Above this a backend is kept out: at the fourth return within seconds.
const LIMIT: f32 = 3_000.0;
const HALF_LIFE_MS: f32 = 30_000.0;
/// How long it must hold still.
const STILL_MS: u64 = 10_000;
/// Ten half-lives: the penalty is below one return by far.
const FORGET_MS: u64 = 300_000;
/// Backends that are remembered at most; beyond, those that flap are let in.
const FLAPS_MAX: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// Leaves and returns every `period_ms`; returns which of the returns were let in at once.
    fn flap(period_ms: u64, times: u64) -> Vec<bool> {
        let (mut damping, address) = (Damping::default(), "10.0.0.1:80".parse().unwrap());
        let mut once = |n| {
            damping.left(&address, n * period_ms);
            damping.entered(&address, n * period_ms + period_ms / 2).is_none()
        };
        (0..times).map(&mut once).collect()
    }

    #[test]
    fn one_that_flaps_is_kept_out_and_one_that_restarts_now_and_then_is_not() {
        assert_eq!(flap(2_000, 6), [true, true, true, false, false, false]);
        assert_eq!(flap(60_000, 20), [true; 20]);
    }

    #[test]
    fn it_is_let_in_after_it_held_still_and_not_before() {
        let (mut damping, address) = (Damping::default(), "10.0.0.1:80".parse().unwrap());
        for n in 0..5 {
            damping.left(&address, n * 100);
            damping.entered(&address, n * 100);
        }
        let until_ms = damping.entered(&address, 500).expect("five returns within half a second are too many");
        assert_eq!(damping.entered(&address, until_ms - 1), Some(until_ms));
        damping.sweep(|_| false, until_ms - 1);
        let later_ms = damping.entered(&address, until_ms).expect("it went and came, so that it did not hold still");
        assert_eq!(later_ms, until_ms + STILL_MS);
        assert_eq!(damping.entered(&address, later_ms), None);
    }

    #[test]
    fn nothing_is_remembered_for_ever() {
        let (mut damping, address) = (Damping::default(), "10.0.0.1:80".parse().unwrap());
        damping.left(&address, 0);
        damping.sweep(|_| false, FORGET_MS);
        assert!(damping.flaps.is_empty());
    }
}
