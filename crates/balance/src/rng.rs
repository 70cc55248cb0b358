//! A small seeded generator: choices, jitter and tie-breaking, never secrets.

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014).
///
/// Taken for its size: one word of state, no bad seeds, about a nanosecond a draw. Not for anything that an attacker
/// must not foresee.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator whose draws are a function of `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix64(self.0)
    }

    /// A number in `0..bound`, or 0 when `bound` is 0. The bias is below `bound` / 2^64.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `value` moved by up to `ratio` of itself to either side: `jitter(1000, 0.2)` is in 800..=1200.
    pub fn jitter(&mut self, value: u64, ratio: f64) -> u64 {
        (value as f64 * (1.0 + ratio * (2.0 * self.unit() - 1.0))).round() as u64
    }
}

/// The finaliser of SplitMix64: a bijection of 64-bit words in which every input bit moves every output bit.
pub(crate) fn mix64(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence() {
        // The first outputs for seed 1234567, as the reference implementation gives them.
        let mut rng = Rng::new(1_234_567);
        let drawn: Vec<u64> = (0..3).map(|_| rng.next_u64()).collect();
        assert_eq!(drawn, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn below_stays_below_and_reaches_every_value() {
        let mut rng = Rng::new(1);
        let mut seen = [0u32; 7];
        for _ in 0..7_000 {
            seen[rng.below(7) as usize] += 1;
        }
        assert!(seen.iter().all(|&n| (800..1_200).contains(&n)), "a uniform draw is uneven: {seen:?}");
        assert_eq!(rng.below(0), 0);
    }

    #[test]
    fn jitter_keeps_to_its_ratio() {
        let mut rng = Rng::new(2);
        assert!((0..1_000).all(|_| (800..=1_200).contains(&rng.jitter(1_000, 0.2))));
    }
}
