//! Random times and numbers, seeded.

use std::time::Duration;

use fastrand::Rng;

/// How much work a request is.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// The mean.
    pub mean: Duration,
    /// Of the logarithm: 0 makes every request the same, 1 spreads them as real services do.
    pub sigma: f64,
    /// This part of all requests takes `rare` instead.
    pub rare_share: f64,
    /// The time of the rare ones.
    pub rare: Duration,
}

/// How many requests a connection makes.
#[derive(Clone, Copy, Debug)]
pub enum Requests {
    /// This many.
    Exactly(u32),
    /// A Pareto distribution cut at both ends.
    Pareto {
        /// The exponent; smaller means longer tails.
        shape: f64,
        /// The fewest.
        least: u32,
        /// The most.
        most: u32,
    },
}

impl Work {
    /// Log-normal with this mean and σ, none of them rare.
    pub fn log_normal(mean: Duration, sigma: f64) -> Work {
        Work { mean, sigma, rare_share: 0.0, rare: Duration::ZERO }
    }

    /// One draw.
    pub fn draw(&self, rng: &mut Rng) -> Duration {
        let (rare, normal) = (rng.f64() < self.rare_share, normal(rng));
        if rare {
            return self.rare;
        }
        // The mean of a log-normal is e^(μ + σ²/2).
        self.mean.mul_f64((self.sigma * normal - self.sigma * self.sigma / 2.0).exp())
    }
}

impl Requests {
    /// One draw, at least 1.
    pub fn draw(&self, rng: &mut Rng) -> u32 {
        match *self {
            Requests::Exactly(number) => number.max(1),
            Requests::Pareto { shape, least, most } => {
                let (least, most) = (f64::from(least.max(1)), f64::from(most.max(1)));
                // The inverse of the distribution function of the cut Pareto.
                let kept = 1.0 - (least / most).powf(shape);
                (least / (1.0 - rng.f64() * kept).powf(1.0 / shape)) as u32
            }
        }
    }
}

/// Exponential with this mean: the time to the next event of a Poisson process.
pub fn exponential(mean: Duration, rng: &mut Rng) -> Duration {
    mean.mul_f64(-(1.0 - rng.f64()).ln())
}

/// Standard normal, by Box and Muller.
fn normal(rng: &mut Rng) -> f64 {
    let (radius, angle) = (1.0 - rng.f64(), rng.f64());
    (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_has_the_mean_it_is_given() {
        let (work, mut rng) = (Work::log_normal(Duration::from_millis(20), 1.0), Rng::with_seed(1));
        let total: Duration = (0..200_000).map(|_| work.draw(&mut rng)).sum();
        let mean = total.as_secs_f64() / 200_000.0;
        assert!((0.0195..0.0205).contains(&mean), "the mean of many draws is the mean asked for: {mean}");
    }

    #[test]
    fn requests_of_a_connection_stay_within_their_limits() {
        let (requests, mut rng) = (Requests::Pareto { shape: 1.3, least: 20, most: 3000 }, Rng::with_seed(1));
        let draws: Vec<u32> = (0..100_000).map(|_| requests.draw(&mut rng)).collect();
        assert!(draws.iter().all(|draw| (20..=3000).contains(draw)), "no draw is outside");
        assert!(draws.iter().any(|draw| *draw > 1000), "the tail is there");
    }
}
