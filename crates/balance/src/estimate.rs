//! What is known of one backend by its answers, in one cache line.
//!
//! *Shape*: all that a pick reads and a turn writes of a backend, 64 bytes, every access relaxed. The estimated time
//! and the load that it was measured at move together in one compare-and-swap; a race lost there is a sample lost,
//! which one of many can be. Times of the last events are the low 32 bits of the millisecond clock and compare modulo
//! 2^32.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// The line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Line {
    /// Sessions that count as load: connecting plus established, from the moment of the pick (counting only one of
    /// the two lets a slow backend pile up the other).
    pub(crate) sessions: AtomicU32,
    /// Those of `sessions` that are still connecting.
    pub(crate) connecting: AtomicU32,
    /// Turns in flight.
    pub(crate) turns: AtomicU32,
    /// Answers timed since it was last unknown.
    samples: AtomicU32,
    /// Open, on trial, or the end of the ejection in milliseconds: see [`crate::backend`].
    pub(crate) gate: AtomicU64,
    /// Two f32: the estimated answer time without the network, and the load at which it was measured.
    answer: AtomicU64,
    /// Failure ratio (f32) and the low half of the time it was true at.
    failure: AtomicU64,
    /// Sessions that it was given lately (f32), and the low half of the time of the last one.
    given: AtomicU64,
    /// Smallest recent connect, in f32 microseconds; 0 unknown.
    connect: AtomicU32,
    /// Smallest recent answer in a flow of datagrams, in f32 microseconds; 0 unknown.
    reply: AtomicU32,
    sampled_ms: AtomicU32,
    /// The last answer, or when turns in flight rose from none.
    progress_ms: AtomicU32,
}

/// An answer as the estimator takes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observation {
    /// Time of the turn in microseconds, scaled to its class.
    pub(crate) took_us: f32,
    /// Load of the backend when the turn began.
    pub(crate) load: f32,
    pub(crate) now_ms: u64,
}

impl Line {
    /// Takes a connect time.
    pub(crate) fn saw_connect(&self, took_us: f32) {
        least_of(&self.connect, took_us, CONNECT_DRIFT);
    }

    /// Takes the time of an answer in a flow of datagrams, which has no connect to learn the distance from.
    pub(crate) fn saw_reply(&self, took_us: f32) {
        least_of(&self.reply, took_us, REPLY_DRIFT);
    }

    /// Smallest recent connect in microseconds: no answer can be much faster. 0 while unknown.
    pub(crate) fn connect_us(&self) -> f32 {
        f32::from_bits(self.connect.load(Relaxed))
    }

    /// What is taken for the round trip without load, in microseconds: the smallest recent connect, if only of a check;
    /// without any a share of the smallest answer. 0 while unknown.
    #[inline]
    pub(crate) fn base_us(&self) -> f32 {
        match self.connect_us() {
            0.0 => REPLY_SHARE * f32::from_bits(self.reply.load(Relaxed)),
            base => base,
        }
    }

    /// Takes an answer; returns its time without the network, outliers clipped.
    pub(crate) fn saw_answer(&self, seen: Observation) -> f32 {
        let samples = self.samples.load(Relaxed);
        let packed = self.answer.load(Relaxed);
        let (answer_us, at_load) = unpack(packed);
        let net_us = (seen.took_us - self.base_us()).max(0.0);
        let net_us = if samples >= CLIP_AFTER { net_us.min(CLIP * answer_us.max(CLIP_FLOOR_US)) } else { net_us };
        let idle_ms = age(seen.now_ms, self.sampled_ms.load(Relaxed)) as f32;
        let gain = (idle_ms / (idle_ms + TAU_MS)).clamp(GAIN_LEAST, GAIN_MOST);
        let gain = if samples < WARM_SAMPLES { gain.max(1.0 / (samples + 1) as f32) } else { gain };
        let next = pack(answer_us + gain * (net_us - answer_us), at_load + gain * (seen.load - at_load));
        if self.answer.compare_exchange(packed, next, Relaxed, Relaxed).is_ok() {
            self.samples.store(samples.saturating_add(1), Relaxed);
            self.sampled_ms.store(seen.now_ms as u32, Relaxed);
        }
        net_us
    }

    /// Estimated answer time in microseconds and the load it was measured at.
    pub(crate) fn answer(&self) -> (f32, f32) {
        unpack(self.answer.load(Relaxed))
    }

    /// Answers timed since it was last unknown.
    pub(crate) fn samples(&self) -> u32 {
        self.samples.load(Relaxed)
    }

    /// Time since the last timed answer.
    pub(crate) fn sample_age_ms(&self, now_ms: u64) -> u32 {
        age(now_ms, self.sampled_ms.load(Relaxed))
    }

    /// It was ejected: what was known of its times is void.
    pub(crate) fn forget(&self) {
        self.samples.store(0, Relaxed);
    }

    /// A turn began.
    pub(crate) fn turn_began(&self, now_ms: u64) {
        if self.turns.fetch_add(1, Relaxed) == 0 {
            self.progress_ms.store(now_ms as u32, Relaxed);
        }
    }

    /// It was given a session.
    pub(crate) fn was_given(&self, now_ms: u64) {
        let next = self.lately(now_ms) + 1.0;
        // A race lost here is one session that is not counted.
        self.given.store(u64::from(next.to_bits()) << 32 | u64::from(now_ms as u32), Relaxed);
    }

    /// Sessions given to it lately; one fades within half a second.
    #[inline]
    pub(crate) fn lately(&self, now_ms: u64) -> f32 {
        let packed = self.given.load(Relaxed);
        let step = age(now_ms, packed as u32) / FADE_STEP_MS;
        f32::from_bits((packed >> 32) as u32) * FADE.get(step as usize).copied().unwrap_or(0.0)
    }

    /// It answered something.
    pub(crate) fn progressed(&self, now_ms: u64) {
        self.progress_ms.store(now_ms as u32, Relaxed);
    }

    /// How long turns have been waiting without any answer; 0 with none in flight.
    pub(crate) fn stuck_ms(&self, now_ms: u64) -> u32 {
        match self.turns.load(Relaxed) {
            0 => 0,
            _ => age(now_ms, self.progress_ms.load(Relaxed)),
        }
    }

    /// Publishes the failure ratio of the passive memory.
    pub(crate) fn set_failure(&self, ratio: f32, now_ms: u64) {
        self.failure.store(u64::from(ratio.to_bits()) << 32 | u64::from(now_ms as u32), Relaxed);
    }

    /// The failure ratio, faded to `now_ms`.
    #[inline(always)]
    pub(crate) fn failure(&self, now_ms: u64) -> f32 {
        let packed = self.failure.load(Relaxed);
        let ratio = f32::from_bits((packed >> 32) as u32);
        if ratio < FAILURE_NOISE {
            return 0.0;
        }
        ratio * (-(age(now_ms, packed as u32) as f32) / crate::passive::RATIO_DECAY_MS).exp()
    }
}

/// The share of outcomes that were good among the last thousand, in one word: an f32 and how many were seen.
#[derive(Debug, Default)]
pub(crate) struct Share(AtomicU64);

impl Share {
    /// Takes an outcome. *Cost*: one load where all of the last were good and this one is.
    pub(crate) fn saw(&self, good: bool) {
        let packed = self.0.load(Relaxed);
        let (share, seen) = (f32::from_bits((packed >> 32) as u32), packed as u32);
        if good && share == 1.0 && seen >= SHARE_OF {
            return;
        }
        let seen = (seen + 1).min(SHARE_OF);
        let next = share + (f32::from(u8::from(good)) - share) / seen as f32;
        // Else it would come ever nearer and never arrive.
        let next = if next > SHARE_WHOLE { 1.0 } else { next };
        // A lost race is a lost outcome.
        let _kept =
            self.0.compare_exchange(packed, u64::from(next.to_bits()) << 32 | u64::from(seen), Relaxed, Relaxed);
    }

    /// The share; 0 before the first outcome.
    pub(crate) fn get(&self) -> f32 {
        f32::from_bits((self.0.load(Relaxed) >> 32) as u32)
    }
}

/// Moves a minimum: down at once, up by a share of what was more.
fn least_of(least: &AtomicU32, took_us: f32, drift: f32) {
    let (took_us, known) = (took_us.max(1.0), f32::from_bits(least.load(Relaxed)));
    let next = if known == 0.0 || took_us < known { took_us } else { known + drift * (took_us - known) };
    least.store(next.to_bits(), Relaxed);
}

/// An exponentially weighted mean in one word: an f32 and the time of its last sample. Used for what all workers share.
#[derive(Debug, Default)]
pub(crate) struct Mean(AtomicU64);

impl Mean {
    /// Moves the mean towards `value`, by at least `least` of the way; returns the mean. The first value is taken whole.
    pub(crate) fn update(&self, value: f32, now_ms: u64, tau_ms: f32, least: f32) -> f32 {
        let packed = self.0.load(Relaxed);
        let (mean, since) = (f32::from_bits((packed >> 32) as u32), packed as u32);
        let next = if packed == 0 {
            value
        } else {
            let idle_ms = age(now_ms, since) as f32;
            mean + (idle_ms / (idle_ms + tau_ms)).clamp(least, GAIN_MOST) * (value - mean)
        };
        let word = u64::from(next.max(f32::MIN_POSITIVE).to_bits()) << 32 | u64::from(now_ms as u32);
        // A lost race is a lost sample.
        let _kept = self.0.compare_exchange(packed, word, Relaxed, Relaxed);
        next
    }

    /// The mean; 0 before the first sample.
    pub(crate) fn get(&self) -> f32 {
        f32::from_bits((self.0.load(Relaxed) >> 32) as u32)
    }
}

/// Milliseconds since the low half `then`; 0 for what another worker stamped a moment ahead of us.
fn age(now_ms: u64, then: u32) -> u32 {
    let age = (now_ms as u32).wrapping_sub(then);
    if age > u32::MAX / 2 { 0 } else { age }
}

/// How much of a session still counts as lately given, by steps of a sixteenth of a second: a table, since a pick looks at
/// sixteen backends and an exponential function costs as much as the rest of a look.
const FADE: [f32; 64] = {
    let mut left = [1.0; 64];
    let mut step = 1;
    while step < left.len() {
        left[step] = left[step - 1] * FADE_PER_STEP;
        step += 1;
    }
    left
};
const FADE_STEP_MS: u32 = 64;
/// A time constant of 180 ms.
const FADE_PER_STEP: f32 = 0.7;

fn pack(answer_us: f32, load: f32) -> u64 {
    u64::from(answer_us.to_bits()) << 32 | u64::from(load.to_bits())
}

fn unpack(packed: u64) -> (f32, f32) {
    (f32::from_bits((packed >> 32) as u32), f32::from_bits(packed as u32))
}

/// How far a connect that took longer moves the base: a route that became longer is believed after some hundred.
const CONNECT_DRIFT: f32 = 0.01;
/// The same of answers, of which nearly all take longer than the least.
const REPLY_DRIFT: f32 = 0.0005;
/// What of the smallest answer is taken for the network. Network and work are in it in unknown parts; taken whole,
/// machines that always take equally long would all be infinitely fast.
const REPLY_SHARE: f32 = 0.5;
/// Outcomes that a share is of, and what is as good as all of them.
const SHARE_OF: u32 = 1_024;
const SHARE_WHOLE: f32 = 0.9995;
/// An answer counts as at most this many times the estimate, once there are enough to estimate. One slow request of a
/// heavy tail says little about the next; unclipped it cost a fifth of the median.
const CLIP: f32 = 4.0;
const CLIP_AFTER: u32 = 4;
const CLIP_FLOOR_US: f32 = 200.0;
/// Time constant of the estimate. A third and three times as much made no difference beyond a few percent.
const TAU_MS: f32 = 1_000.0;
const GAIN_LEAST: f32 = 0.02;
pub(crate) const GAIN_MOST: f32 = 0.25;
/// Answers after which a backend is known.
pub(crate) const WARM_SAMPLES: u32 = 16;
/// A ratio that changes no decision.
const FAILURE_NOISE: f32 = 0.001;

#[cfg(test)]
mod tests {
    use super::*;

    fn observe(line: &Line, took_us: f32, now_ms: u64) {
        line.saw_answer(Observation { took_us, load: 1.0, now_ms });
    }

    #[test]
    fn the_line_is_one_cache_line() {
        assert_eq!((size_of::<Line>(), align_of::<Line>()), (64, 64));
    }

    #[test]
    fn the_network_is_taken_out_and_the_estimate_follows() {
        let line = Line::default();
        line.saw_connect(1_000.0);
        (0..200u64).for_each(|n| observe(&line, 6_000.0, n * 10));
        assert!((line.answer().0 - 5_000.0).abs() < 1.0);
        (200..600u64).for_each(|n| observe(&line, 21_000.0, n * 10));
        assert!((line.answer().0 - 20_000.0).abs() < 200.0, "{:?}", line.answer());
    }

    #[test]
    fn one_outlier_moves_a_known_estimate_by_little() {
        let line = Line::default();
        (0..100u64).for_each(|n| observe(&line, 5_000.0, n * 10));
        observe(&line, 5_000_000.0, 1_001);
        assert!(line.answer().0 < 6_000.0, "clipped at four times: {:?}", line.answer());
    }

    #[test]
    fn the_base_falls_at_once_and_rises_slowly() {
        let line = Line::default();
        line.saw_connect(5_000.0);
        line.saw_connect(400.0);
        assert_eq!(line.base_us(), 400.0);
        line.saw_connect(3_000_400.0);
        assert!(line.base_us() < 31_000.0);
    }

    #[test]
    fn without_a_connect_half_of_the_smallest_answer_is_the_base_until_a_check_knows_better() {
        let line = Line::default();
        line.saw_reply(6_000.0);
        line.saw_reply(4_000.0);
        assert_eq!((line.base_us(), line.connect_us()), (2_000.0, 0.0));
        (0..1_000).for_each(|_| line.saw_reply(8_000.0));
        assert!((2_700.0..2_900.0).contains(&line.base_us()), "a longer way is believed slowly: {}", line.base_us());
        line.saw_connect(300.0);
        assert_eq!((line.base_us(), line.connect_us()), (300.0, 300.0));
    }

    #[test]
    fn a_share_is_a_mean_at_first_and_forgets_after_a_thousand() {
        let share = Share::default();
        [false, true, true, true].iter().for_each(|&good| share.saw(good));
        assert_eq!(share.get(), 0.75);
        (0..20_000).for_each(|_| share.saw(true));
        assert_eq!(share.get(), 1.0);
        (0..100).for_each(|_| share.saw(false));
        assert!((0.9..0.92).contains(&share.get()), "{}", share.get());
        (0..2_000).for_each(|_| share.saw(false));
        assert!(share.get() < 0.2);
    }

    #[test]
    fn ages_survive_the_wrap_of_the_clocks_low_half() {
        assert_eq!(age((1 << 32) + 5, u32::MAX - 4), 10);
        assert_eq!(age(1_000, 1_001), 0, "a stamp from the future is of now");
    }
}
