//! When jobs arrive in an open loop. Pure.
//!
//! Arrivals do not wait for anybody: whoever is slow meets them late, and that
//! counts. Times are from the beginning of the run.

use std::time::Duration;

/// How arrivals follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrivals {
    /// One after each equal pause.
    Constant,
    /// As by many who know nothing of each other: in bunches, with gaps.
    Poisson,
}

impl Arrivals {
    /// The one called `text`.
    pub(super) fn named(text: &str) -> Self {
        if text == "poisson" { Self::Poisson } else { Self::Constant }
    }
}

/// The times of all arrivals of a run, in order.
pub(super) struct Schedule<U> {
    arrivals: Arrivals,
    rate: f64,
    seconds: f64,
    uniform: U,
    count: u64,
    at: f64,
}

impl<U: FnMut() -> f64> Schedule<U> {
    /// `rate` arrivals a second, for `length`; `uniform` gives numbers from 0 to
    /// below 1, as they come.
    pub(super) fn new(arrivals: Arrivals, rate: f64, length: Duration, uniform: U) -> Self {
        Self { arrivals, rate, seconds: length.as_secs_f64(), uniform, count: 0, at: 0.0 }
    }
}

impl<U: FnMut() -> f64> Iterator for Schedule<U> {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.at = match self.arrivals {
            // From the start each time: errors would add up.
            Arrivals::Constant => self.count as f64 / self.rate,
            // Pauses between them have an exponential distribution.
            Arrivals::Poisson => self.at - (1.0 - (self.uniform)()).ln() / self.rate,
        };
        self.count += 1;
        if self.at < self.seconds { Duration::try_from_secs_f64(self.at).ok() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    fn times(arrivals: Arrivals, rate: f64, seconds: u64) -> Vec<f64> {
        let mut random = StdRng::seed_from_u64(7);
        let length = Duration::from_secs(seconds);
        let schedule = Schedule::new(arrivals, rate, length, || random.random::<f64>());
        schedule.map(|at| at.as_secs_f64()).collect()
    }

    fn pauses(times: &[f64]) -> Vec<f64> {
        times.windows(2).map(|two| two[1] - two[0]).collect()
    }

    #[test]
    fn constant_arrivals_keep_their_pause_to_the_end() {
        let times = times(Arrivals::Constant, 3.0, 3600);
        assert_eq!(times.len(), 10_800);
        assert_eq!(times[0], 0.0);
        assert!((times[10_799] - 3_599.666_666).abs() < 1e-4, "{}", times[10_799]);
        assert!(pauses(&times).iter().all(|pause| (pause - 1.0 / 3.0).abs() < 1e-6));
    }

    #[test]
    fn poisson_arrivals_come_at_their_rate_in_bunches() {
        let times = times(Arrivals::Poisson, 50.0, 400);
        assert!((19_400..20_600).contains(&times.len()), "{}", times.len());
        let pauses = pauses(&times);
        let mean = pauses.iter().sum::<f64>() / pauses.len() as f64;
        let variance = pauses.iter().map(|p| (p - mean).powi(2)).sum::<f64>() / pauses.len() as f64;
        // An exponential distribution's deviation is its mean; constant pauses have none.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "{} of {mean}", variance.sqrt());
        assert!(pauses.iter().all(|pause| *pause >= 0.0));
        assert!(times.iter().all(|at| *at < 400.0));
    }

    #[test]
    fn the_slowest_rate_has_at_least_one_arrival() {
        assert_eq!(times(Arrivals::Constant, 0.1, 1), [0.0]);
        assert_eq!(times(Arrivals::Constant, 0.1, 11), [0.0, 10.0]);
    }
}
