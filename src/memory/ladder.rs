//! The pressure ladder: what is given up, in which order, when memory gets
//! scarce although the ledger was kept; and how the worker comes back.
//! Pure: the clock is a parameter.
//!
//! ```text
//!             room < warn, or stalls, or swap-in             room < hard
//!  Nominal ────────────────────────────▶ Elevated ──────────────────▶ Critical
//!     ▲          calm for [`CALM_DOWN`]  │     ▲   room > hard × 5/4     │
//!     └──────────────────────────────────┘     └──── for [`CALM_DOWN`] ──┘
//! ```
//!
//! Up at once, down one level at a time. Where a job of ours took what was missing, and
//! its memory is seen to be back, each level is left after [`OWN_CALM`]: nobody else has
//! to be waited for. Steps, each with those before it:
//!
//! 1. Elevated: nothing is let in but a lone job; idle contexts are trimmed.
//! 2. after [`CLOSE_AFTER`]: idle contexts are closed, least recently used first.
//! 3. after [`RECYCLE_AFTER`]: fat renderers are not kept warm after their job.
//! 4. Critical: all of that now, nothing is let in, and the youngest job is
//!    killed and goes back to the queue, uncounted.
//!
//! Stalls (PSI) and swap-in only ever lift to elevated: they are the machine's,
//! and a neighbour's disk may be their cause. Swap is watched because it hides
//! scarcity: pages come back from it only when there was too little room.

use std::time::Duration;

use super::terms::Lines;

/// How long it must be calm before the next lower level.
pub const CALM_DOWN: Duration = Duration::from_secs(2);
/// The same where what was missing was ours, and is back.
pub const OWN_CALM: Duration = Duration::from_millis(200);
/// Idle contexts are closed where trimming them did not help for so long.
pub const CLOSE_AFTER: Duration = Duration::from_millis(300);
/// Fat renderers are given up where closing idle ones did not help for so long.
pub const RECYCLE_AFTER: Duration = Duration::from_millis(800);
/// A renderer above this is fat: a warm page settles at a third of it.
pub const FAT: u64 = 96 << 20;
/// Stalls and swap-in are measured over at least this.
const RATE_WINDOW: Duration = Duration::from_secs(1);
/// Part of the time in which some task waited for memory.
const STALLED: f64 = 0.10;
/// Part of the time in which every task waited for memory.
const ALL_STALLED: f64 = 0.02;
/// Pages a second that come back from swap (4 MB/s).
const SWAPPING: f64 = 1000.0;

/// How scarce memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pressure {
    /// The ledger alone decides.
    #[default]
    Nominal,
    /// Memory is given back, and only a lone job is let in.
    Elevated,
    /// Jobs are given up.
    Critical,
}

impl std::fmt::Display for Pressure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nominal => "nominal",
            Self::Elevated => "elevated",
            Self::Critical => "critical",
        })
    }
}

/// The kernel's counters, since any start: only their differences count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Stalls {
    /// Microseconds in which some task waited for memory; 0 where the kernel does not say.
    pub some_us: u64,
    /// Microseconds in which every task waited for memory.
    pub full_us: u64,
    /// Pages that came back from swap.
    pub swapped_in: u64,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relief {
    /// How scarce memory is.
    pub pressure: Pressure,
    /// Trim the idle contexts.
    pub trim: bool,
    /// Close idle contexts that hold this much.
    pub close: u64,
    /// Keep no fat renderer warm.
    pub recycle: bool,
    /// Kill the youngest jobs until what is left will do.
    pub kill: bool,
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Ladder {
    pressure: Pressure,
    /// Since when it is above nominal.
    raised: Duration,
    /// Since when a lower level would do.
    calm: Option<Duration>,
    /// The counters at the start of the current window.
    counted: Option<(Duration, Stalls)>,
    stalled: bool,
    ours_is_back: bool,
}

impl Default for Ladder {
    fn default() -> Self {
        Self::new()
    }
}

impl Ladder {
    /// A ladder at its foot.
    #[must_use]
    pub fn new() -> Self {
        Self {
            pressure: Pressure::Nominal,
            raised: Duration::ZERO,
            calm: None,
            counted: None,
            stalled: false,
            ours_is_back: false,
        }
    }

    /// Says whether it was a job of ours that took what was missing, and its memory is
    /// back by now.
    pub fn is_ours(&mut self, back: bool) {
        self.ours_is_back = back;
    }

    /// How scarce memory is.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        self.pressure
    }

    /// Whether the system's counters say that something waits for memory.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// Takes in what is left (negative where the budget is overrun) and the
    /// counters, where they were read this time.
    pub fn step(
        &mut self,
        room: i64,
        lines: Lines,
        stalls: Option<Stalls>,
        now: Duration,
    ) -> Relief {
        if let Some(stalls) = stalls {
            self.count(stalls, now);
        }
        let at_most = |bytes: u64| room < i64::try_from(bytes).unwrap_or(i64::MAX);
        let warn = lines.hard + lines.keep.saturating_sub(lines.hard) / 2;
        let asked = if at_most(lines.hard) {
            Pressure::Critical
        } else if at_most(warn) || self.stalled {
            Pressure::Elevated
        } else {
            Pressure::Nominal
        };
        // Down only where there is clearly more than what called for this level.
        let left = match self.pressure {
            Pressure::Nominal => true,
            Pressure::Elevated => !at_most(warn + warn / 8) && !self.stalled,
            Pressure::Critical => !at_most(lines.hard + lines.hard / 4),
        };
        let patience = match self.ours_is_back && !at_most(lines.keep) && !self.stalled {
            true => OWN_CALM,
            false => CALM_DOWN,
        };
        self.climb(asked, left, patience, now);
        self.relief(room, lines, now)
    }

    fn climb(&mut self, asked: Pressure, left: bool, patience: Duration, now: Duration) {
        if asked > self.pressure {
            if self.pressure == Pressure::Nominal {
                self.raised = now;
            }
            (self.pressure, self.calm) = (asked, None);
        } else if asked < self.pressure && left {
            let since = *self.calm.get_or_insert(now);
            if now.saturating_sub(since) >= patience {
                self.pressure = match self.pressure {
                    Pressure::Critical => Pressure::Elevated,
                    Pressure::Elevated | Pressure::Nominal => Pressure::Nominal,
                };
                self.calm = Some(now);
            }
        } else {
            self.calm = None;
        }
    }

    fn relief(&self, room: i64, lines: Lines, now: Duration) -> Relief {
        let critical = self.pressure == Pressure::Critical;
        let after = |patience: Duration| {
            critical
                || self.pressure == Pressure::Elevated
                    && now.saturating_sub(self.raised) >= patience
        };
        let short = i64::try_from(lines.keep).unwrap_or(i64::MAX).saturating_sub(room);
        Relief {
            pressure: self.pressure,
            trim: self.pressure > Pressure::Nominal,
            close: if after(CLOSE_AFTER) { u64::try_from(short).unwrap_or(0) } else { 0 },
            recycle: after(RECYCLE_AFTER),
            kill: room < i64::try_from(lines.hard).unwrap_or(i64::MAX),
        }
    }

    fn count(&mut self, stalls: Stalls, now: Duration) {
        let Some((since, before)) = self.counted else {
            self.counted = Some((now, stalls));
            return;
        };
        let elapsed = now.saturating_sub(since);
        if elapsed < RATE_WINDOW {
            return;
        }
        let micros = elapsed.as_secs_f64() * 1e6;
        let part = |after: u64, before: u64| after.saturating_sub(before) as f64 / micros;
        let swapped = stalls.swapped_in.saturating_sub(before.swapped_in) as f64;
        self.stalled = part(stalls.some_us, before.some_us) > STALLED
            || part(stalls.full_us, before.full_us) > ALL_STALLED
            || swapped / elapsed.as_secs_f64() > SWAPPING;
        self.counted = Some((now, stalls));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: Lines = Lines { keep: 200, hard: 80, growth: 20 };

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn steps_come_in_order_and_each_keeps_those_before() {
        let mut ladder = Ladder::new();
        let calm = ladder.step(200, LINES, None, at(0));
        assert_eq!((calm.pressure, calm.trim, calm.close), (Pressure::Nominal, false, 0));
        let trim = ladder.step(130, LINES, None, at(1000));
        assert_eq!((trim.pressure, trim.trim, trim.close), (Pressure::Elevated, true, 0));
        let close = ladder.step(130, LINES, None, at(1300));
        assert!(close.trim && close.close == 70 && !close.recycle);
        let recycle = ladder.step(120, LINES, None, at(1800));
        assert!(recycle.trim && recycle.close == 80 && recycle.recycle && !recycle.kill);
        let kill = ladder.step(79, LINES, None, at(1825));
        assert!(kill.pressure == Pressure::Critical && kill.kill && kill.recycle);
    }

    #[test]
    fn it_comes_down_one_level_at_a_time_and_only_when_it_is_clearly_calm() {
        let mut ladder = Ladder::new();
        assert_eq!(ladder.step(10, LINES, None, at(0)).pressure, Pressure::Critical);
        // Just above the line is not calm.
        for ms in (0..10_000).step_by(100) {
            assert_eq!(ladder.step(85, LINES, None, at(ms)).pressure, Pressure::Critical);
        }
        for ms in (10_000..12_000).step_by(100) {
            assert_eq!(ladder.step(300, LINES, None, at(ms)).pressure, Pressure::Critical);
        }
        assert_eq!(ladder.step(300, LINES, None, at(12_000)).pressure, Pressure::Elevated);
        assert_eq!(ladder.step(300, LINES, None, at(13_900)).pressure, Pressure::Elevated);
        assert_eq!(ladder.step(300, LINES, None, at(14_000)).pressure, Pressure::Nominal);
    }

    #[test]
    fn what_was_ours_and_is_back_is_not_waited_for() {
        let mut ladder = Ladder::new();
        ladder.step(10, LINES, None, at(0));
        ladder.is_ours(true);
        for (ms, room, pressure) in [
            (25, 190, Pressure::Critical),
            // All that is to stay free is not there yet.
            (300, 190, Pressure::Critical),
            (325, 300, Pressure::Elevated),
            (500, 300, Pressure::Elevated),
            (525, 300, Pressure::Nominal),
        ] {
            assert_eq!(ladder.step(room, LINES, None, at(ms)).pressure, pressure, "{ms}");
        }
    }

    #[test]
    fn a_dip_starts_the_calm_again() {
        let mut ladder = Ladder::new();
        ladder.step(100, LINES, None, at(0));
        ladder.step(300, LINES, None, at(100));
        ladder.step(139, LINES, None, at(2000));
        assert_eq!(ladder.step(300, LINES, None, at(2200)).pressure, Pressure::Elevated);
        assert_eq!(ladder.step(300, LINES, None, at(4200)).pressure, Pressure::Nominal);
    }

    #[test]
    fn stalls_and_swap_are_rates_of_counters_and_never_kill() {
        let mut ladder = Ladder::new();
        let some = |us| Some(Stalls { some_us: us, ..Stalls::default() });
        // A large total from before this worker means nothing.
        assert_eq!(ladder.step(300, LINES, some(90_000_000), at(0)).pressure, Pressure::Nominal);
        let relief = ladder.step(300, LINES, some(90_050_000), at(1000));
        assert_eq!(relief.pressure, Pressure::Nominal);
        let relief = ladder.step(300, LINES, some(90_250_000), at(2000));
        assert!(relief.pressure == Pressure::Elevated && !relief.kill);
        for s in 3..=5 {
            ladder.step(300, LINES, some(90_250_000), at(s * 1000));
        }
        assert_eq!(ladder.pressure(), Pressure::Nominal);
        let swap = Stalls { some_us: 90_250_000, swapped_in: 5000, ..Stalls::default() };
        assert_eq!(ladder.step(300, LINES, Some(swap), at(6000)).pressure, Pressure::Elevated);
    }
}
