//! What has to stay free: a reserve that learns how fast others take memory.
//! Pure: the clock is a parameter.
//!
//! ```text
//! keep = floor + the others' worst recent drop + what renderers can grow unseen
//! hard = a quarter of the floor + what renderers can grow unseen
//! ```
//!
//! - The *floor* is the operator's (`memory.reserve`).
//! - The *drop* is how much free memory others (a database, a backup) took
//!   within [`WINDOW`], own growth taken out: free plus own falls only when
//!   others grow. The worst halves every [`FORGET`], so that a burst that ended
//!   does not hold memory idle for long, and one that repeats is expected. While memory
//!   of ours is on its way back the sum dips by itself; what is still missing
//!   [`SETTLING`] later was taken by others, also where more is given back meanwhile.
//! - What renderers can *grow unseen* is the fastest growth seen (at least
//!   [`FASTEST`]) over the time between two samples and a kill. Renderers grow
//!   only while a core runs them, so that as many can surge at once as there
//!   are cores; one is counted in full, the others against the last quarter of
//!   the floor, as far as it goes.
//!
//! So others may take three quarters of the floor at once while a renderer surges
//! on every core, and nothing is overrun.

use std::collections::VecDeque;
use std::time::Duration;

use super::entry::bytes_in;
use super::terms::Lines;

/// Bytes a second that a renderer was measured to grow by (an invoice of 5,000
/// rows: 1,050 MB in 2 s).
pub const FASTEST: u64 = 525_000_000;
/// Drops are measured within this.
pub const WINDOW: Duration = Duration::from_secs(1);
/// A process that ends has let go of its memory on paper before it is free: so long a
/// loss is not blamed on others.
pub const SETTLING: Duration = Duration::from_millis(300);
/// The worst drop halves in this time.
pub const FORGET: Duration = Duration::from_secs(5);
/// The fastest growth seen halves its distance to [`FASTEST`] in this time.
const CALM: Duration = Duration::from_secs(60);
/// Smaller drops are the noise of page tables and caches.
const NOISE: u64 = 4 << 20;
/// Points kept of a window.
const STEPS: u32 = 20;

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Reserve {
    floor: u64,
    cores: u64,
    reaction: Duration,
    /// Free plus own, at most [`STEPS`] points of the last [`WINDOW`], oldest first.
    history: VecDeque<(Duration, u64)>,
    /// The same of the last [`SETTLING`], each of them.
    recent: VecDeque<(Duration, u64)>,
    drop: u64,
    drop_at: Duration,
    fastest: u64,
    fastest_at: Duration,
}

impl Reserve {
    /// A reserve that has seen nothing yet. `reaction`: the longest time from
    /// one sample over the next to the end of a killed renderer's growth.
    #[must_use]
    pub fn new(floor: u64, cores: usize, reaction: Duration) -> Self {
        Self {
            floor,
            cores: cores.max(1) as u64,
            reaction,
            history: VecDeque::with_capacity(STEPS as usize + 1),
            recent: VecDeque::new(),
            drop: 0,
            drop_at: Duration::ZERO,
            fastest: FASTEST,
            fastest_at: Duration::ZERO,
        }
    }

    /// Changes the operator's floor, in bytes.
    pub fn set_floor(&mut self, floor: u64) {
        self.floor = floor;
    }

    /// Takes in what is free and what worker and Chromium use, measured together.
    pub fn observe(&mut self, free: u64, own: u64, now: Duration) {
        self.note(free, own, now);
        self.learn(free.saturating_add(own), now);
    }

    /// The same while memory of ours is on its way back. What was there at the best moment
    /// of the last [`SETTLING`] is what others have left.
    pub fn observe_unsettled(&mut self, free: u64, own: u64, now: Duration) {
        self.note(free, own, now);
        let best = self.recent.iter().map(|(_, sum)| *sum).max();
        self.learn(best.unwrap_or(0), now);
    }

    fn note(&mut self, free: u64, own: u64, now: Duration) {
        while self.recent.front().is_some_and(|(at, _)| *at + SETTLING <= now) {
            self.recent.pop_front();
        }
        self.recent.push_back((now, free.saturating_add(own)));
    }

    fn learn(&mut self, sum: u64, now: Duration) {
        while self.history.front().is_some_and(|(at, _)| *at + WINDOW < now) {
            self.history.pop_front();
        }
        let highest = self.history.iter().map(|(_, sum)| *sum).max().unwrap_or(sum);
        let drop = highest.saturating_sub(sum);
        if drop > NOISE && drop >= self.recent_drop(now) {
            (self.drop, self.drop_at) = (drop, now);
        }
        if self.history.back().is_none_or(|(at, _)| *at + WINDOW / STEPS <= now) {
            self.history.push_back((now, sum));
        }
    }

    /// What was measured so far cannot be compared with what comes: somebody whose
    /// memory was counted is gone, or somebody's counts from now on.
    pub fn begin_anew(&mut self) {
        self.history.clear();
        self.recent.clear();
    }

    /// From now on `to` bytes count as own of what `from` did until now.
    pub fn recount(&mut self, from: u64, to: u64) {
        if from != to {
            let all = self.history.iter_mut().chain(&mut self.recent);
            all.for_each(|(_, sum)| *sum = sum.saturating_sub(from).saturating_add(to));
        }
    }

    /// A renderer was seen to grow by so many bytes a second; more than twice
    /// [`FASTEST`] is for the last fence, not for the reserve.
    pub fn grew(&mut self, speed: u64, now: Duration) {
        let speed = speed.min(2 * FASTEST);
        if speed > self.speed(now) {
            (self.fastest, self.fastest_at) = (speed, now);
        }
    }

    /// The others' worst recent drop, in bytes.
    #[must_use]
    pub fn recent_drop(&self, now: Duration) -> u64 {
        halved(self.drop, now.saturating_sub(self.drop_at), FORGET)
    }

    /// What renderers can grow by in `time` at most, one on every core: twice [`FASTEST`],
    /// as in [`Self::grew`].
    #[must_use]
    pub fn surge(&self, time: Duration) -> u64 {
        bytes_in(2 * FASTEST, time).saturating_mul(self.cores)
    }

    fn speed(&self, now: Duration) -> u64 {
        FASTEST + halved(self.fastest - FASTEST, now.saturating_sub(self.fastest_at), CALM)
    }

    /// What has to stay free now, where a budget leaves so many bytes to others in
    /// any case: what is kept for their drops, and half of the floor, is had from
    /// there. The rest stays, within the budget, for renderers that surprise.
    #[must_use]
    pub fn lines_beside(&self, beyond: u64, now: Duration) -> Lines {
        let lines = self.lines(now);
        let for_others = self.recent_drop(now) + self.floor / 2;
        Lines { keep: lines.keep - beyond.min(for_others), ..lines }
    }

    /// What has to stay free now.
    #[must_use]
    pub fn lines(&self, now: Duration) -> Lines {
        let growth = bytes_in(self.speed(now), self.reaction);
        // What cannot be had from the last quarter of the floor.
        let unseen = growth.max(growth.saturating_mul(self.cores).saturating_sub(self.floor / 4));
        Lines {
            keep: self.floor + self.recent_drop(now) + unseen,
            hard: self.floor / 4 + unseen,
            growth,
        }
    }
}

/// `bytes`, halved for every `half` of `age`, evenly in between.
fn halved(bytes: u64, age: Duration, half: Duration) -> u64 {
    let halves = age.as_millis() / half.as_millis().max(1);
    let Ok(shift @ 0..=62) = u32::try_from(halves) else { return 0 };
    let whole = bytes >> shift;
    let part = age.as_millis() % half.as_millis().max(1);
    let less = u128::from(whole / 2) * part / half.as_millis().max(1);
    whole - u64::try_from(less).unwrap_or(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const REACTION: Duration = Duration::from_millis(50);

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_neighbours_step_is_expected_again_and_then_forgotten() {
        let mut reserve = Reserve::new(128 * MIB, 2, REACTION);
        let before = reserve.lines(at(0)).keep;
        reserve.observe(1000 * MIB, 0, at(0));
        reserve.observe(700 * MIB, 0, at(100));
        assert_eq!(reserve.lines(at(100)).keep, before + 300 * MIB);
        assert_eq!(reserve.recent_drop(at(5_100)), 150 * MIB);
        assert!(reserve.recent_drop(at(30_100)) < 5 * MIB);
    }

    #[test]
    fn own_growth_is_no_drop() {
        let mut reserve = Reserve::new(128 * MIB, 2, REACTION);
        for step in 0..20 {
            reserve.observe((1000 - 40 * step) * MIB, 40 * step * MIB, at(25 * step));
        }
        assert_eq!(reserve.recent_drop(at(500)), 0);
    }

    #[test]
    fn a_slow_ramp_counts_by_what_it_takes_in_a_second() {
        let mut reserve = Reserve::new(0, 1, REACTION);
        for step in 0..200 {
            reserve.observe((2000 - step) * MIB, 0, at(50 * step));
        }
        let drop = reserve.recent_drop(at(10_000)) / MIB;
        assert!((18..=22).contains(&drop), "{drop} MiB in a second of 20 MiB/s");
    }

    #[test]
    fn the_fastest_renderer_sets_what_can_grow_unseen() {
        let mut reserve = Reserve::new(0, 2, REACTION);
        assert_eq!(reserve.lines(at(0)).growth, 26_250_000);
        reserve.grew(800_000_000, at(0));
        let lines = reserve.lines(at(0));
        assert_eq!((lines.growth, lines.keep, lines.hard), (40_000_000, 80_000_000, 80_000_000));
        reserve.set_floor(400_000_000);
        let lines = reserve.lines(at(0));
        assert_eq!((lines.keep, lines.hard), (440_000_000, 140_000_000));
        assert!(reserve.lines(at(120_000)).growth < 30_000_000);
        reserve.grew(u64::MAX, at(0));
        assert_eq!(reserve.lines(at(0)).growth, 52_500_000);
    }
}
