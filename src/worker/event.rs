//! What reaches the dispatcher, and what it asks for. Data only.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::job::reply::Timings;
use crate::job::{Job, Name, Priority};
use crate::memory::Permit;
use crate::queue::{
    Claimed, Counts, Ending, Housekept, Inbound, Lease, Past, QueueError, Renewed, Settled, UNBEGUN,
};

/// Whether a bulk job may be claimed.
pub type Bulk = bool;

/// One attempt within this worker, for as long as it runs.
pub type AttemptId = u64;

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A reader has something.
    Inbound(Inbound),
    /// An element was admitted or refused; with a permit, a job may have been claimed as well.
    Offered {
        /// Given back, or used by the claimed job.
        permit: Option<Permit>,
        /// Whether a bulk job might have been claimed.
        bulk: bool,
        /// What was claimed.
        claimed: Option<Work>,
        /// Redis failed; the element is still in the stage.
        failed: Option<QueueError>,
    },
    /// A claim came back.
    Claimed {
        /// Given back, or used by the claimed job.
        permit: Permit,
        /// Whether a bulk job might have been claimed.
        bulk: bool,
        /// What was claimed.
        result: Result<Option<Work>, QueueError>,
    },
    /// An attempt ended, one way or another.
    Ended {
        /// Which.
        attempt: AttemptId,
        /// Its lease, to settle with.
        lease: Lease,
        /// What becomes of the job.
        verdict: Verdict,
    },
    /// A settlement was written, refused, or given up.
    Settled {
        /// Which attempt.
        attempt: AttemptId,
        /// What was to be written.
        outcome: Outcome,
        /// What Redis said; an error means that the lease has run out meanwhile.
        result: Result<Settled, QueueError>,
        /// What was claimed in the same call.
        next: Option<Work>,
    },
    /// A heartbeat came back: whose lease is lost, whose job was cancelled.
    Beat(Result<Renewed, QueueError>),
    /// Housekeeping came back.
    Housekept(Result<Housekept, QueueError>),
    /// The overdue jobs were ended.
    Expired,
    /// Whether the renderer can take work.
    Renderer(Result<(), String>),
    /// How many jobs of the whole queue are where.
    Counted(Result<Counts, QueueError>),
    /// What this process and Chromium were seen to use, in bytes.
    Measured(u64),
    /// Whether memory lets a job be claimed has changed, or how many wait for it.
    Room,
    /// A second has passed.
    Tick,
    /// Somebody asks the worker to stop.
    Stop(Stop),
    /// The time for draining is over.
    DrainTimeout,
}

/// How to stop. The worse wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Finish what runs.
    Drain,
    /// Release what runs.
    Abort,
}

/// A claimed job, with its document where this worker just had it in hand.
#[derive(Debug)]
pub struct Work {
    /// What was claimed.
    pub claimed: Claimed,
    /// The job as it was just admitted here; else it is read from Redis.
    pub job: Option<Arc<Job>>,
}

/// What becomes of a job after an attempt.
#[derive(Debug)]
pub enum Verdict {
    /// It ends for good.
    End(Box<Ending>, Tally),
    /// It is tried again after `delay`.
    Fail {
        /// How long it waits.
        delay: Duration,
        /// What became of the attempt, and whether it counts.
        past: Box<Past>,
    },
    /// It was interrupted: ready again at once, and not counted.
    Release {
        /// Why.
        code: &'static str,
        /// Whether its browser died while it had the job.
        crashed: bool,
        /// What became of the attempt, where there is something to tell.
        past: Option<Box<Past>>,
    },
}

impl Verdict {
    /// The worker stops. Where it had not `begun` it has to begin by its deadline still.
    pub(super) fn released(begun: bool) -> Self {
        let code = if begun { "released" } else { UNBEGUN };
        Self::Release { code, crashed: false, past: None }
    }
}

/// What metrics say of a job that ended, once Redis has accepted its end.
#[derive(Debug, Clone, Copy)]
pub struct Tally {
    /// How urgent it was.
    pub priority: Priority,
    /// Of one that was done: how long it waited, rendered, and took in all, and
    /// how large its PDF is.
    pub done: Option<(Timings, usize)>,
}

/// A verdict in one word, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// There is a PDF.
    Done,
    /// It ended without one.
    Failed,
    /// It is tried again.
    Retried,
    /// It was given back.
    Released,
}

impl Verdict {
    /// In one word.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::End(ending, _) if ending.status == crate::job::Status::Done => Outcome::Done,
            Self::End(..) => Outcome::Failed,
            Self::Fail { .. } => Outcome::Retried,
            Self::Release { .. } => Outcome::Released,
        }
    }
}

/// Why an attempt must stop. The first reason stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The worker stops.
    Stopping,
    /// Its lease is lost.
    Lost,
    /// Somebody cancelled the job.
    Cancelled,
}

/// Stops one attempt, and says why. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Halt {
    token: CancellationToken,
    held: CancellationToken,
    why: Arc<OnceLock<Why>>,
}

impl Halt {
    /// Stops it.
    pub fn now(&self, why: Why) {
        self.why.get_or_init(|| why);
        self.token.cancel();
    }

    /// It may go on, but not begin: the worker drains.
    pub fn hold(&self) {
        self.held.cancel();
    }

    /// Fires when what has not begun must not begin.
    #[must_use]
    pub fn held(&self) -> &CancellationToken {
        &self.held
    }

    /// Why it must stop, if it must.
    #[must_use]
    pub fn why(&self) -> Option<Why> {
        self.why.get().copied()
    }

    /// Fires when it must stop.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }
}

/// What the dispatcher wants done; each comes back as an event.
#[derive(Debug)]
pub enum Effect {
    /// Validate and admit the element in the stage; claim as well where there is a permit.
    Offer {
        /// Which inbox it came through.
        inbox: Priority,
        /// How many were taken from there, this one included.
        turn: u64,
        /// The element.
        element: Vec<u8>,
        /// Fired once it has left the stage.
        done: oneshot::Sender<()>,
        /// Room for a claim.
        permit: Option<Permit>,
        /// Whether a bulk job may be claimed.
        bulk: bool,
    },
    /// Claim a job.
    Claim {
        /// Room for it.
        permit: Permit,
        /// Whether it may be a bulk job.
        bulk: bool,
    },
    /// Run one attempt.
    Run {
        /// Which.
        attempt: AttemptId,
        /// The job.
        work: Box<Work>,
        /// Stops the attempt.
        halt: Halt,
    },
    /// Write what became of a job; claim the next one in the same call, or not.
    Settle {
        /// Which attempt.
        attempt: AttemptId,
        /// Its lease.
        lease: Lease,
        /// What to write.
        verdict: Verdict,
        /// Whether there is room for another, and whether that may be a bulk job.
        claim_next: Option<Bulk>,
    },
    /// End these jobs: their deadline passed before they started.
    Expire(Vec<Claimed>),
    /// Change a setting of this worker.
    Set {
        /// The configuration's key.
        key: String,
        /// Its value.
        value: String,
    },
    /// Renew these leases.
    Beat(Vec<(Name, String)>),
    /// Reap, promote, adopt.
    Housekeep {
        /// Whether overdue jobs are ended too.
        expire: bool,
    },
    /// See how much memory is used.
    Measure,
    /// Ask how many jobs are where.
    Count,
    /// Take no more elements.
    StopIntake,
    /// After this long, [`Event::DrainTimeout`].
    StartDrainTimer,
    /// Everything has ended: the worker is done.
    Finish,
}
