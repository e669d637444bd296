//! What is simulated, and what came of it.

use super::neighbour::Neighbour;

/// One job, and what it will really do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    pub(super) tenant: u8,
    pub(super) peak: u64,
    pub(super) predicted: u64,
    /// Milliseconds on one core.
    pub(super) work: u64,
    /// Part of the work, in percent, after which the peak is reached.
    pub(super) ramp: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Scenario {
    pub(super) capacity: u64,
    pub(super) cores: usize,
    pub(super) most: usize,
    pub(super) floor: u64,
    pub(super) budget: Option<u64>,
    pub(super) neighbours: Vec<Neighbour>,
    pub(super) jobs: Vec<Job>,
    /// Milliseconds after which it ends, whatever is left.
    pub(super) horizon: u64,
    pub(super) seed: u64,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Done,
    Exceeded,
}

/// What came of a scenario.
#[derive(Debug, Default, Clone)]
pub(super) struct Outcome {
    pub(super) ends: Vec<Option<End>>,
    /// The most that was ever used beyond the capacity or the budget.
    pub(super) overrun: u64,
    /// When the last job ended.
    pub(super) makespan: u64,
    /// Peaks of running jobs times milliseconds, while work waited.
    pub(super) held: u128,
    /// Milliseconds while work waited.
    pub(super) busy: u64,
    pub(super) blamed: usize,
    pub(super) squeezed: usize,
    /// Milliseconds under pressure.
    pub(super) pressed: u64,
    /// Jobs running, at each second.
    pub(super) running: Vec<f64>,
    /// Milliseconds for which the longest waiting job waited.
    pub(super) longest_wait: u64,
}

impl Outcome {
    pub(super) fn utilisation(&self) -> f64 {
        self.held as f64 / self.busy.max(1) as f64
    }

    pub(super) fn all_ended(&self) -> bool {
        self.ends.iter().all(Option::is_some)
    }
}
