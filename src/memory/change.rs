//! Whether what an operator wants of a worker's memory can work there, while it runs.
//! Pure: the worker asks before it changes anything, and so does whoever wants to tell
//! it to, by what its heartbeat said.
//!
//! What makes the bounds wider is always right. What makes them tighter has to leave room
//! for one render beside what cannot be given up: the worker and one browser, as they are
//! expected or as they were seen.

use serde::{Deserialize, Serialize};

use super::{Plan, Settings, TooSmall};

/// What a worker's memory is bounded by, and what it has: all in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ground {
    /// `memory.limit` in force; null where all that is free may be used.
    pub limit_bytes: Option<u64>,
    /// `memory.reserve` in force.
    pub reserve_bytes: u64,
    /// `memory.per_render`.
    pub per_render_bytes: u64,
    /// What is kept for an embedded Redis.
    pub redis_bytes: u64,
    /// Memory of the machine; null where it cannot be read.
    pub total_bytes: Option<u64>,
    /// What is free on the machine or in the tightest control group, whatever the limit says.
    pub free_bytes: u64,
    /// What worker and Chromium use.
    pub used_bytes: u64,
    /// The same without any context; null while something renders.
    pub bare_bytes: Option<u64>,
}

/// Why it cannot work, with the figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It would not even start with it.
    #[error(transparent)]
    TooSmall(#[from] TooSmall),
    /// The worker and its browser are larger than most.
    #[error(
        "worker and browser use {} MiB without any page and one render is planned with {} MiB, but \
         memory.limit would leave {} MiB",
        bare >> 20,
        per_render >> 20,
        limit >> 20
    )]
    InUse {
        /// What they use, in bytes.
        bare: u64,
        /// `memory.per_render`, in bytes.
        per_render: u64,
        /// What is wanted, in bytes.
        limit: u64,
    },
}

impl Unfit {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::TooSmall(small) => small.remedy(),
            Self::InUse { bare, per_render, .. } => format!(
                "give memory.limit at least {} MiB, or lower memory.per_render in the file and restart \
                 the worker",
                (bare.saturating_add(*per_render) >> 20) + 1
            ),
        }
    }
}

impl Ground {
    /// Whether one render fits with this limit and this reserve instead of those in force.
    ///
    /// # Errors
    /// Why not.
    pub fn allows(&self, limit: Option<u64>, reserve: u64) -> Result<(), Unfit> {
        let less = limit.unwrap_or(u64::MAX) < self.limit_bytes.unwrap_or(u64::MAX);
        if !less && reserve <= self.reserve_bytes {
            return Ok(());
        }
        let settings = Settings {
            limit,
            reserve,
            per_render: self.per_render_bytes,
            redis: self.redis_bytes,
            slots: 1,
        };
        // What it uses itself would be free for it.
        Plan::new(&settings, self.free_bytes.saturating_add(self.used_bytes))?;
        match (limit.filter(|_| less), self.bare_bytes) {
            (Some(limit), Some(bare)) if limit < bare.saturating_add(self.per_render_bytes) => {
                Err(Unfit::InUse { bare, per_render: self.per_render_bytes, limit })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    const HERE: Ground = Ground {
        limit_bytes: None,
        reserve_bytes: 256 * MIB,
        per_render_bytes: 96 * MIB,
        redis_bytes: 0,
        total_bytes: Some(8192 * MIB),
        free_bytes: 3000 * MIB,
        used_bytes: 500 * MIB,
        bare_bytes: Some(180 * MIB),
    };

    #[test]
    fn what_would_not_start_is_refused_with_figures() {
        let small = HERE.allows(Some(290 * MIB), 64 * MIB).unwrap_err();
        assert!(small.to_string().contains("296 MiB are needed"), "{small}");
        assert!(small.remedy().contains("memory.limit"), "{}", small.remedy());
        let much = HERE.allows(None, 3300 * MIB).unwrap_err();
        assert!(much.to_string().contains("200 MiB are there"), "{much}");
        assert!(much.remedy().contains("memory.reserve"), "{}", much.remedy());
        assert_eq!(HERE.allows(Some(600 * MIB), 256 * MIB), Ok(()));
        assert_eq!(HERE.allows(None, 3000 * MIB), Ok(()), "what it uses is there for it");
    }

    #[test]
    fn what_is_in_use_already_counts_where_it_is_more_than_was_expected() {
        let large = Ground { bare_bytes: Some(400 * MIB), ..HERE };
        let unfit = large.allows(Some(450 * MIB), 256 * MIB).unwrap_err();
        assert!(unfit.to_string().contains("use 400 MiB"), "{unfit}");
        assert!(unfit.remedy().contains("497 MiB"), "{}", unfit.remedy());
        let busy = Ground { bare_bytes: None, ..large };
        assert_eq!(busy.allows(Some(450 * MIB), 256 * MIB), Ok(()));
    }

    #[test]
    fn what_makes_the_bounds_wider_is_right_however_scarce_memory_is() {
        let scarce = Ground { free_bytes: 0, used_bytes: 250 * MIB, ..HERE };
        assert_eq!(scarce.allows(None, 128 * MIB), Ok(()));
        assert!(scarce.allows(None, 257 * MIB).is_err());
        let bounded = Ground { limit_bytes: Some(400 * MIB), ..scarce };
        assert_eq!(bounded.allows(Some(500 * MIB), 256 * MIB), Ok(()));
        assert_eq!(bounded.allows(None, 256 * MIB), Ok(()));
    }
}
