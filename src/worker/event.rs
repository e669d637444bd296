//! What reaches the dispatcher, and what it asks for. Data only.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::job::{Job, Name, Priority};
use crate::memory::Permit;
use crate::queue::{Claimed, Counts, Ending, Inbound, Lease, QueueError, Settled, Token};

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
        /// What was claimed.
        claimed: Option<Work>,
        /// Redis failed; the element is still in the stage.
        failed: Option<QueueError>,
    },
    /// A claim came back.
    Claimed {
        /// Given back, or used by the claimed job.
        permit: Permit,
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
        /// What Redis said; an error means that the lease has run out meanwhile.
        result: Result<Settled, QueueError>,
        /// What was claimed in the same call.
        next: Option<Work>,
    },
    /// A heartbeat came back: the tokens whose lease is lost.
    Beat(Result<Vec<Token>, QueueError>),
    /// Housekeeping came back.
    Housekept(Result<crate::queue::Housekept, QueueError>),
    /// Whether the renderer can take work.
    Renderer(Result<(), String>),
    /// How many jobs of the whole queue are where.
    Counted(Result<Counts, QueueError>),
    /// What this process and Chromium were seen to use, in bytes.
    Measured(u64),
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
    End(Box<Ending>),
    /// It is tried again.
    Retry {
        /// After this long.
        delay: Duration,
        /// Whether the attempt counts.
        counted: bool,
        /// Why.
        code: &'static str,
    },
}

/// What the dispatcher wants done; each comes back as an event.
#[derive(Debug)]
pub enum Effect {
    /// Validate and admit the element in the stage; claim as well where there is a permit.
    Offer {
        /// Which inbox it came through.
        inbox: Priority,
        /// The element.
        element: Vec<u8>,
        /// Fired once it has left the stage.
        done: oneshot::Sender<()>,
        /// Room for a claim.
        permit: Option<Permit>,
    },
    /// Claim a job.
    Claim {
        /// Room for it.
        permit: Permit,
    },
    /// Run one attempt.
    Run {
        /// Which.
        attempt: AttemptId,
        /// The job.
        work: Box<Work>,
        /// Cancelled when the attempt must stop.
        cancel: CancellationToken,
    },
    /// Write what became of a job; claim the next one in the same call, or not.
    Settle {
        /// Which attempt.
        attempt: AttemptId,
        /// Its lease.
        lease: Lease,
        /// What to write.
        verdict: Verdict,
        /// Whether there is room for another.
        claim_next: bool,
    },
    /// Renew these leases.
    Beat(Vec<(Name, String)>),
    /// Reap, promote, adopt.
    Housekeep,
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
