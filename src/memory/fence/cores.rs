//! A browser's share of the cores: a weight, or only what nobody else wants.
//!
//! ```text
//! weighed ◀──▶ idle        by the word of [`Deference`](crate::memory::deference::Deference)
//! ```
//!
//! A group that becomes weighed again has the kernel's default weight, so ours is
//! written again. Kernels before 5.15 have no `cpu.idle`: browsers stay weighed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;

use super::put;
use crate::memory::cgroup::Version;

/// The weight of a thread whose niceness is 0, in version 1.
const SHARES: f64 = 1024.0;

/// One group's share.
#[derive(Debug)]
pub(super) struct Cores {
    version: Version,
    dir: PathBuf,
    weight: f64,
    /// Whether it is idle; `None` once that could not be changed.
    idle: Mutex<Option<bool>>,
}

impl Cores {
    /// Makes a group with `weight` times the weight of a thread whose niceness is 0.
    pub(super) fn new(version: Version, dir: PathBuf, weight: f64) -> io::Result<Self> {
        let cores = Self { version, dir, weight, idle: Mutex::new(Some(false)) };
        cores.weigh()?;
        Ok(cores)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn weigh(&self) -> io::Result<()> {
        let (file, whole, bounds) = match self.version {
            Version::One => ("cpu.shares", SHARES, 2.0..=262_144.0),
            Version::Two => ("cpu.weight", 100.0, 1.0..=10_000.0),
        };
        let value = (self.weight * whole).round().clamp(*bounds.start(), *bounds.end());
        put(&self.dir, file, &format!("{value:.0}"))
    }

    /// Has it get only what nobody else wants, or its weight. Writes where that is new.
    pub(super) fn step_aside(&self, idle: bool) {
        let mut is = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if is.is_none_or(|is| is == idle) {
            return;
        }
        let value = if idle { "1" } else { "0" };
        if let Err(error) = std::fs::write(self.dir.join("cpu.idle"), value) {
            // Where it is missing, or is being taken down, it stays as it is.
            tracing::debug!(%error, "a browser cannot step aside for others");
            *is = None;
            return;
        }
        match if idle { Ok(()) } else { self.weigh() } {
            Ok(()) => *is = Some(idle),
            // It has the kernel's weight, which is more than ours: the next look tries again.
            Err(error) => tracing::debug!(%error, "a browser has no weight of its own"),
        }
    }
}
