//! How many render at once, as far as the cores and the latency say: slowly up,
//! fast down. The ledger decides within this bound, never beyond it. Pure: the
//! clock is a parameter.
//!
//! A render is CPU time, so that `n` of them on `c` cores each take `n / c` times
//! as long as one alone; that much is expected. Where they take twice as long as
//! that, something else needs the cores (a database, page faults): fewer render,
//! and the neighbour gets them. What one alone takes is learned for each size of
//! document: fast where they are faster, slowly where they are slower, so that it
//! is near what the fastest tenth of them takes. One odd render moves it little: the
//! number that ran beside it is known at its end only, and may have been smaller.
//!
//! It never falls below the cores and one more: Chromium runs at a lower priority
//! than its neighbours, who get the cores first in any case, and with fewer what
//! they leave would lie idle while a render waits for its engine or for Redis
//! (beside compilers on two cores, one at a time did 58 receipts a second, two
//! did 74, three did 82, for the same CPU time each).
//!
//! ```text
//! every [`WINDOW`] renders:  stretch > 2 × expected  → × 0.7, and [`COOL`] without a rise
//!                            stretch ≤ 1.5 × expected and work waits  → + 1
//! ```

use std::time::Duration;

/// Renders between two decisions.
pub const WINDOW: usize = 20;
/// After a fall nothing rises for so long.
pub const COOL: Duration = Duration::from_secs(5);
/// Sizes are told apart by powers of two.
const SIZES: usize = 40;
const SLOW: f64 = 2.0;
const FINE: f64 = 1.5;
/// A base time falls by this part of its distance with each faster render,
const LEARN: f64 = 0.1;
/// and rises by this part with each slower one.
const FORGET: f64 = 0.005;

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Concurrency {
    cores: usize,
    most: usize,
    slots: usize,
    /// Seconds that a render alone takes, by size, and how many were seen.
    base: [(f64, u8); SIZES],
    /// How many times longer than alone the window's renders took, per expectation.
    window: Vec<f64>,
    cool: Duration,
}

impl Concurrency {
    /// Starts at the most.
    #[must_use]
    pub fn new(cores: usize, most: usize) -> Self {
        let most = most.max(1);
        Self {
            cores: cores.max(1),
            most,
            slots: most,
            base: [(0.0, 0); SIZES],
            window: Vec::with_capacity(WINDOW),
            cool: Duration::ZERO,
        }
    }

    /// Renders at once.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Changes the most; a lower one acts at once, a higher one is climbed to.
    pub fn set_most(&mut self, most: usize) {
        self.most = most.max(1);
        let least = (self.cores + 1).min(self.most);
        self.slots = self.slots.clamp(least, self.most);
    }

    /// A render of a document of `markup` bytes took so long beside `running - 1`
    /// others; `waiting`: more work is there than may run.
    pub fn ended(
        &mut self,
        markup: u64,
        took: Duration,
        running: usize,
        waiting: bool,
        now: Duration,
    ) {
        let expected = (running as f64 / self.cores as f64).max(1.0);
        let alone = took.as_secs_f64() / expected;
        let size = (u64::BITS - markup.leading_zeros()) as usize;
        let (base, seen) = &mut self.base[size.min(SIZES - 1)];
        *seen = seen.saturating_add(1);
        *base += (alone - *base)
            * match usize::from(*seen) {
                // Of the first ones, their mean.
                first @ ..=WINDOW => 1.0 / first as f64,
                _ if alone < *base => LEARN,
                _ => FORGET,
            };
        self.window.push(if *base > 0.0 { alone / *base } else { 1.0 });
        if self.window.len() >= WINDOW {
            self.decide(waiting, now);
        }
    }

    fn decide(&mut self, waiting: bool, now: Duration) {
        // The median: one odd document in a window says nothing about the machine.
        let middle = self.window.len() / 2;
        let (_, stretch, _) = self.window.select_nth_unstable_by(middle, f64::total_cmp);
        if *stretch > SLOW {
            self.slots = (self.slots * 7 / 10).max((self.cores + 1).min(self.most));
            self.cool = now + COOL;
        } else if *stretch <= FINE && waiting && now >= self.cool {
            self.slots = (self.slots + 1).min(self.most);
        }
        self.window.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECEIPT: u64 = 3_400;

    fn renders(bound: &mut Concurrency, ms: u64, count: usize, waiting: bool, now: u64) {
        for _ in 0..count {
            let running = bound.slots();
            let took = Duration::from_millis(ms);
            bound.ended(RECEIPT, took, running, waiting, Duration::from_secs(now));
        }
    }

    #[test]
    fn a_busy_neighbour_brings_it_down_at_once_and_it_climbs_back_slowly() {
        let mut bound = Concurrency::new(2, 5);
        renders(&mut bound, 15, 20, true, 0);
        assert_eq!(bound.slots(), 5);
        renders(&mut bound, 45, 20, true, 1);
        assert_eq!(bound.slots(), 3);
        renders(&mut bound, 12, 40, true, 3);
        assert_eq!(bound.slots(), 3, "it rises only after a pause");
        renders(&mut bound, 12, 20, true, 7);
        assert_eq!(bound.slots(), 4);
        renders(&mut bound, 12, 200, true, 8);
        assert_eq!(bound.slots(), 5, "never beyond the most");
    }

    #[test]
    fn sharing_the_cores_is_no_slowness() {
        let mut bound = Concurrency::new(2, 8);
        for round in 0..10 {
            // One alone takes 12 ms; eight on two cores take four times that.
            let share = bound.slots().max(2) as u64 / 2;
            renders(&mut bound, 12 * share, 20, true, round);
        }
        assert_eq!(bound.slots(), 8);
    }

    #[test]
    fn one_that_had_the_cores_to_itself_does_not_slow_the_others() {
        let mut bound = Concurrency::new(2, 6);
        for round in 0..50 {
            // Six at its end, but most of the time it was alone.
            renders(&mut bound, 12, 1, true, round);
            renders(&mut bound, 50, 19, true, round);
        }
        assert_eq!(bound.slots(), 6);
    }

    #[test]
    fn it_does_not_rise_where_nothing_waits() {
        let mut bound = Concurrency::new(2, 5);
        renders(&mut bound, 15, 20, true, 0);
        renders(&mut bound, 45, 20, true, 1);
        renders(&mut bound, 15, 100, false, 60);
        assert_eq!(bound.slots(), 3);
    }

    #[test]
    fn the_cores_and_one_more_may_render_whatever_else_runs() {
        let mut bound = Concurrency::new(2, 5);
        renders(&mut bound, 15, 20, true, 0);
        for slower in 1..8 {
            renders(&mut bound, 15 << slower, 20, true, slower);
        }
        assert_eq!(bound.slots(), 3);
        bound.set_most(1);
        renders(&mut bound, 1_000_000, 40, true, 60);
        assert_eq!(bound.slots(), 1, "the operator's word counts");
    }

    #[test]
    fn other_sizes_have_their_own_pace() {
        let mut bound = Concurrency::new(2, 3);
        renders(&mut bound, 12, 30, true, 0);
        for _ in 0..40 {
            bound.ended(640_000, Duration::from_secs(2), 3, true, Duration::from_secs(1));
        }
        assert_eq!(bound.slots(), 3);
    }

    #[test]
    fn a_lower_bound_acts_at_once_and_one_is_the_least() {
        let mut bound = Concurrency::new(4, 5);
        bound.set_most(2);
        assert_eq!(bound.slots(), 2);
        bound.set_most(0);
        assert_eq!(bound.slots(), 1);
        bound.set_most(9);
        assert_eq!(bound.slots(), 5, "the cores and one more at once, the rest by and by");
    }
}
