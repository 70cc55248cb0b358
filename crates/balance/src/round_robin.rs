//! Smooth weighted round robin without a lock.
//!
//! Each backend has a *pass*, the virtual time of its next turn; the lowest pass is served and moves on by a stride of
//! one over its weight (stride scheduling: Waldspurger, Weihl, MIT/LCS/TM-528, 1995). Equal weights give plain round
//! robin; weight 3 beside weight 1 gives three turns of four, spread out. A backend that was away comes back at the
//! present virtual time, so it catches up on nothing and draws no burst. A precomputed cycle would be a load instead of
//! a scan, but would give all turns of an ejected backend to its successor.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::Backend;

/// Serves the candidate with the lowest pass; `clock` is the service's virtual time.
///
/// *Cost*: a scan, then one compare-and-swap, repeated when another worker served the same backend in between.
pub(crate) fn next<'a, I>(clock: &AtomicU64, candidates: impl Fn() -> I) -> Option<usize>
where
    I: Iterator<Item = (usize, &'a Backend)>,
{
    for _ in 0..CONTENTION_TRIES {
        let now = clock.load(Relaxed);
        let turn = |(at, backend): (usize, &'a Backend)| {
            let seen = backend.state().pass.load(Relaxed);
            // Somebody who was away comes back now, not at the turn that it missed.
            (seen.max(now), at, backend, seen)
        };
        let (pass, at, backend, seen) = candidates().map(turn).min_by_key(|&(pass, at, ..)| (pass, at))?;
        let served = backend.state().pass.compare_exchange(seen, pass + stride(backend), Relaxed, Relaxed).is_ok();
        if served {
            clock.fetch_max(pass, Relaxed);
            return Some(at);
        }
    }
    // So much contention that exact order means nothing any more.
    candidates().next().map(|(at, _)| at)
}

/// Who would be served next.
pub(crate) fn whose_turn<'a>(
    clock: &AtomicU64,
    candidates: impl Iterator<Item = (usize, &'a Backend)>,
) -> Option<usize> {
    let now = clock.load(Relaxed);
    candidates.map(|(at, backend)| (backend.state().pass.load(Relaxed).max(now), at)).min().map(|(_, at)| at)
}

/// Gives a fresh backend its first pass: half a stride from now, which spreads unequal weights.
pub(crate) fn enter(clock: &AtomicU64, backend: &Backend) {
    let first = clock.load(Relaxed) + stride(backend) / 2;
    // Losing means that the backend has a pass already.
    let _entered = backend.state().pass.compare_exchange(0, first, Relaxed, Relaxed);
}

fn stride(backend: &Backend) -> u64 {
    (STRIDE_ONE / u64::from(backend.endpoint().weight.max(1))).max(1)
}

/// The stride of weight 1. At weight 65,535 it still has 8 bits, so shares are right to 0.4 %; and 2^40 picks of weight
/// 1 fit before a pass wraps.
const STRIDE_ONE: u64 = 1 << 24;

/// Other workers can win a few times in a row, not forever.
const CONTENTION_TRIES: u32 = 16;
