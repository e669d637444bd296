//! The words of the ledger: what is asked of it and what it answers. Pure.

use std::time::Duration;

use super::ladder::Pressure;

/// One attempt of a job in this worker: each attempt gets a number of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub u64);

/// A context in this worker, by a number of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContextId(pub u64);

/// What has to stay free, in bytes. Comes from [`super::reserve::Reserve`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Lines {
    /// Admissions leave at least this.
    pub keep: u64,
    /// Below this something has to go.
    pub hard: u64,
    /// What one renderer can grow between two samples and a kill.
    pub growth: u64,
}

/// What the operator allows, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bounds {
    /// The most that worker and Chromium may use; all that is free where `None`.
    pub budget: Option<u64>,
    /// Kept for an embedded Redis and its fork.
    pub kept: u64,
}

/// One measurement. The processes are read first and free memory last: what
/// grows meanwhile then counts twice, never not at all.
#[derive(Debug, Clone, Copy)]
pub struct Sample<'a> {
    /// When reading began, since any fixed start.
    pub at: Duration,
    /// What is free on the machine or in the tightest cgroup.
    pub free: u64,
    /// Private memory of the worker and of all its Chromium processes.
    pub own: u64,
    /// Private memory of each running job's renderer.
    pub running: &'a [(JobId, u64)],
    /// Private memory of idle contexts' renderers, where read this time.
    pub idle: &'a [(ContextId, u64)],
}

/// A job that asks to be let in.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Which.
    pub job: JobId,
    /// What its renderer is expected to use at most.
    pub predicted: u64,
    /// The idle context that it would run in.
    pub warm: Option<ContextId>,
    /// What the worker itself will hold for it beside its renderer: copies of the
    /// document and of its PDF.
    pub aside: u64,
    /// It outgrew its prediction before, or is suspected: nothing else may run.
    pub alone: bool,
    /// How long it has been waiting for room.
    pub waited: Duration,
}

/// A job was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// Nothing else is let in until it ends.
    pub alone: bool,
}

/// Why a job is not let in now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wait {
    /// As many run as the cores can use.
    #[error("{running} of {slots} slots are taken")]
    Slots {
        /// Jobs that render.
        running: usize,
        /// The most that may.
        slots: usize,
    },
    /// As many bulk jobs run as may: one slot is for interactive ones.
    #[error("a slot is kept for interactive jobs, and bulk has the others")]
    Kept,
    /// Memory is scarce: nothing is let in until it is not.
    #[error("memory pressure is {0}")]
    Pressure(Pressure),
    /// Too little is free.
    #[error("it may take {} MiB, {} MiB fit now", needed >> 20, fits >> 20)]
    Room {
        /// Bytes that it may still take.
        needed: u64,
        /// The most that fits now.
        fits: u64,
        /// What is missing; more than `needed` where the reserve itself is short.
        short: u64,
        /// What idle contexts hold: closing some makes room.
        idle: u64,
        /// Whether the door was closed behind it: keep it in hand, it is next.
        next: bool,
    },
    /// A heavy job has waited long and is next.
    #[error("a larger job has waited longer and is next")]
    Door(JobId),
    /// A job runs alone.
    #[error("a job that needs all the memory is running")]
    Alone(JobId),
    /// It has to run alone, and others run.
    #[error("it has to run alone, and {0} others run")]
    Others(usize),
    /// A job of another worker goes first.
    #[error("a larger job of another worker on this machine goes first")]
    Elsewhere,
    /// Others on this machine take memory too: it has to be measured before more is promised.
    #[error("memory is being measured")]
    Unseen,
}

/// What other workers on this machine say of themselves; see [`super::share`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Elsewhere {
    /// How many there are.
    pub workers: usize,
    /// Bytes that they promised and that are not used yet.
    pub promised: u64,
    /// Bytes that they use of what is measured as free: what they take was promised, and
    /// is no neighbour's doing.
    pub used: u64,
    /// Who they are: another number where one has come or gone.
    pub among: u64,
    /// The same of what was measured the last time, which may have been another limit.
    pub before: u64,
    /// How much more there would be if they used nothing.
    pub back: u64,
    /// Their jobs that render.
    pub running: usize,
    /// Their idle contexts.
    pub idle: usize,
    /// Whether one of them has promised something, or is about to.
    pub busy: bool,
    /// One of their jobs has to have all the memory or has waited for its turn, and
    /// goes first.
    pub first: bool,
}

/// What a claim may bring, in bytes beyond what is used now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Fit {
    /// The largest job that would be let in now.
    pub now: u64,
    /// The largest after every idle context was closed.
    pub without_idle: u64,
}

/// What became of a job's renderer when the job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// It waits, warm, for its tenant's next job.
    Warm(ContextId),
    /// It is being closed or killed; [`super::ledger::Ledger::gone`] follows.
    Closing,
}

/// Who asked for the memory that was not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The job itself outgrew its prediction, or all that there was.
    Document,
    /// Others took what it had been promised: it goes back, uncounted.
    Neighbours,
}

impl Blame {
    /// In one word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Document => "document",
            Self::Neighbours => "neighbours",
        }
    }
}

/// A renderer has to be killed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kill {
    /// Whose.
    pub job: JobId,
    /// Who is to blame.
    pub blame: Blame,
    /// Whether it ran alone.
    pub alone: bool,
    /// Bytes it used when last seen.
    pub used: u64,
    /// Bytes it was first predicted to use.
    pub predicted: u64,
    /// Bytes that it could have had at most.
    pub budget: u64,
    /// The most that a job could have had of late: more than the budget where neighbours
    /// hold what is free at other times.
    pub usual: u64,
    /// Bytes of the budget that have to be left: what a renderer may grow by before it
    /// is stopped, and what the worker holds for the job.
    pub kept: u64,
    /// Bytes a second that it grew by when last seen.
    pub speed: u64,
}

/// What becomes of a killed job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Back to the queue; the attempt does not count.
    Requeue,
    /// Again later, when the neighbours may have let go; the attempt does not count.
    Later,
    /// Once more, alone, with this prediction.
    Alone {
        /// Bytes.
        predicted: u64,
    },
    /// Buried as `memory_exceeded`, with the figures of the [`Kill`].
    Exceeded,
}

impl Kill {
    /// What becomes of the job. One that ran alone had all there was; where that was
    /// clearly less than it is at other times, it is not the document that is too big.
    #[must_use]
    pub fn next(&self) -> Next {
        match (self.blame, self.alone) {
            (Blame::Neighbours, _) => Next::Requeue,
            (Blame::Document, false) => {
                Next::Alone { predicted: self.predicted.max(self.used).saturating_mul(2) }
            }
            (Blame::Document, true) if self.budget < self.usual / 5 * 4 => Next::Later,
            (Blame::Document, true) => Next::Exceeded,
        }
    }
}
