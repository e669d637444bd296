//! What else runs on the simulated machine.

/// Memory of a neighbour over time; bytes and milliseconds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Neighbour {
    Steady(u64),
    /// Takes `bytes` at once, and gives them back at once.
    Step {
        from: u64,
        until: u64,
        bytes: u64,
    },
    /// Grows evenly from `from` on by `bytes` a second to `most`, holds, lets go at `until`.
    Ramp {
        from: u64,
        until: u64,
        bytes: u64,
        most: u64,
    },
    /// Grows evenly by `bytes` in each `period` and lets go at its end.
    Saw {
        period: u64,
        bytes: u64,
    },
}

impl Neighbour {
    pub(super) fn at(&self, now: u64) -> u64 {
        match *self {
            Self::Steady(bytes) => bytes,
            Self::Step { from, until, bytes } if (from..until).contains(&now) => bytes,
            Self::Ramp { from, until, bytes, most } if (from..until).contains(&now) => {
                ((now - from) * bytes / 1000).min(most)
            }
            Self::Saw { period, bytes } => bytes * (now % period.max(1)) / period.max(1),
            Self::Step { .. } | Self::Ramp { .. } => 0,
        }
    }
}
