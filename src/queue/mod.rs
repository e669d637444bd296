//! The queue: what keeps a promise when processes die.
//!
//! ```text
//!                               ┌────────── cancel ─────────▶ cancelled
//! LPUSH in ──▶ stage:<worker> ──┴admit──▶ ready ──claim──▶ leased ──finish──▶ done
//!                   │                      ▲ ▲               │ └───bury─────▶ dead | expired | cancelled
//!                 reject            promote│ └release, reap──┤                 │
//!                   ▼                      │                 │              revive ──▶ ready
//!               a refusal               delayed ◀── fail ────┘              purge  ──▶ nothing left
//! ```
//!
//! Every arrow after the push is one Lua script, atomic in Redis, that checks
//! everything before its first write and gives the same answer when its reply
//! was lost and it is called again. Rust validates, Lua moves: scripts get
//! parsed fields; a document is moved by RENAME and never copied into Lua.
//!
//! What can go wrong, and what then happens:
//!
//! * A worker dies between taking an element and admitting it: the element is
//!   in the worker's stage; once the worker is silent, any other one puts it
//!   back into the inbox (`adopt`).
//! * A worker dies with a lease: the lease runs out, any worker makes the job
//!   ready again (`reap`).
//! * A worker is stopped beyond its lease and goes on: its token no longer
//!   matches, nothing that it writes is accepted (`finish`, `bury`, `fail`, `release`).
//! * A reply from Redis is lost: the caller calls again with the same token.
//! * Redis is full: it refuses pushes, but not our scripts, each of which
//!   begins with a write that takes no memory; so what was admitted is drained.
//!   Claims pause while too many results wait for their producers.
//! * Redis was away, or its clock jumped: nothing is reaped, expired or promoted
//!   until living workers have had time to be heard (`guard`).
//! * Something else changed the keys: `fsck` finds and mends it.
//!
//! Wake-ups are hints (the bells); a poll each second is the truth.

pub mod assets;
pub mod client;
pub mod connect;
pub mod dead;
pub mod embedded;
mod erase;
mod error;
mod fsck;
mod inspect;
pub mod intake;
pub mod keys;
pub mod limits;
mod membership;
pub mod operate;
mod past;
mod redis;
mod script;
mod scripts;
mod tls;
mod transitions;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::job::{Name, Output, Priority, Rules, Status};

pub use self::client::{Answer, Client};
pub use self::connect::{Address, TlsFiles};
pub use self::erase::{Forget, Forgotten};
pub use self::error::{Hindrance, QueueError};
pub use self::fsck::{Counters, Finding, FsckReport, Kind as Damage};
pub use self::intake::{Control, Inbound, Intake, Room};
pub use self::keys::Keys;
pub use self::limits::{LimitSettings, Limits};
pub use self::membership::Housekept;
pub use self::operate::{Cancelled, State};
pub use self::past::Past;
pub use self::redis::{Queue, QueueConfig};
pub use self::tls::TlsTrouble;
pub use self::transitions::{Refusal, UNBEGUN};

/// So many failed attempts in a row, and a tenant runs one job at a time.
pub const BROKEN_AFTER: u64 = 20;

/// Fences one attempt: whoever does not hold it writes nothing.
///
/// Unique per attempt (worker id, counter, random part) and compared for
/// equality only, so that nothing is lost if a counter goes backwards.
pub type Token = String;

/// The right to run one attempt of one job. Not cloneable: settling consumes it.
#[derive(Debug, PartialEq, Eq)]
pub struct Lease {
    name: Name,
    token: Token,
}

impl Lease {
    /// A lease that no queue gave, for tests of decisions.
    #[cfg(test)]
    pub(crate) fn for_tests(name: &str, token: &str) -> Self {
        let name = Name::parse(name).unwrap_or_else(|| panic!("{name} is no name"));
        Self { name, token: token.to_owned() }
    }

    /// The job.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The same right in another hand, while the one that panicked is given up.
    pub(crate) fn again(&self) -> Self {
        Self { name: self.name.clone(), token: self.token.clone() }
    }

    /// What fences this attempt, for the heartbeat.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }
}

/// A job that was claimed: its lease, and what its record says.
#[derive(Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The right to run it.
    pub lease: Lease,
    /// Attempts that count, this one included.
    pub attempt: u32,
    /// How many may count.
    pub max_attempts: u32,
    /// When it was admitted: milliseconds of Redis' clock.
    pub admitted_ms: u64,
    /// When it was claimed, by the same clock.
    pub claimed_ms: u64,
    /// Whether its deadline passed before it was claimed.
    pub expired: bool,
    /// When it must have begun, by our own clock; `None` where that is no matter.
    pub begin_by: Option<Instant>,
    /// How many workers died or were cut off while they had it.
    pub crashes: u32,
    /// How urgent it is.
    pub priority: Priority,
    /// Whether somebody cancelled it while another worker had it.
    pub cancelled: bool,
    /// How many of its attempts failed without being counted.
    pub uncounted: u32,
    /// Bytes that it needs, where it outgrew what it was given: it runs alone with them.
    pub needs: Option<u64>,
    /// What an operator decided for its tenant.
    pub rules: Rules,
    /// The version of its tenant's assets; `None`: it has none.
    pub assets: Option<String>,
}

/// What is claimed next.
#[derive(Debug, Clone, Copy)]
pub struct Next<'a> {
    /// Fences the attempt; the same token gets the same job again.
    pub token: &'a str,
    /// Whether it may be a bulk job.
    pub bulk: bool,
}

/// What a heartbeat brings back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Renewed {
    /// Tokens whose lease is lost.
    pub lost: Vec<Token>,
    /// Tokens whose job somebody cancelled.
    pub cancelled: Vec<Token>,
}

/// What became of an element that was offered for admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// It is a job now.
    Admitted,
    /// The same job is alive: nothing to do.
    Duplicate,
    /// The same job has ended and is answered from what is held.
    Held,
    /// Another job of this name is alive.
    Conflict,
    /// A limit; the element is still in the stage, to be rejected. Nothing was claimed.
    Full(Limit),
    /// The stage was empty: somebody else took care of it.
    Gone,
}

/// Why a good element is not admitted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Too many jobs.
    QueueJobs,
    /// Too many bytes.
    QueueBytes,
    /// Too many jobs of this tenant.
    TenantJobs,
    /// Too many bytes of this tenant.
    TenantBytes,
    /// The queue, or this tenant, is being drained.
    Draining,
}

impl Admitted {
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "admitted" => Self::Admitted,
            "duplicate" => Self::Duplicate,
            "held" => Self::Held,
            "conflict" => Self::Conflict,
            "gone" => Self::Gone,
            "queue_full" => Self::Full(Limit::QueueJobs),
            "queue_bytes" => Self::Full(Limit::QueueBytes),
            "tenant_full" => Self::Full(Limit::TenantJobs),
            "tenant_bytes" => Self::Full(Limit::TenantBytes),
            "draining" => Self::Full(Limit::Draining),
            _ => return None,
        })
    }

    /// The name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Duplicate => "duplicate",
            Self::Held => "held",
            Self::Conflict => "conflict",
            Self::Full(_) => "full",
            Self::Gone => "gone",
        }
    }
}

/// How a job ends for good. Its `Debug` form has no content.
#[derive(Clone)]
pub struct Ending {
    /// Done, dead or expired.
    pub status: Status,
    /// A bounded code for the event stream (`ok` where it is done).
    pub code: &'static str,
    /// The reply's JSON line.
    pub line: String,
    /// The PDF, as it goes to its place.
    pub pdf: Option<Bytes>,
    /// Where the PDF goes.
    pub output: Output,
    /// The list of a consumer that takes all replies.
    pub reply_to: Option<String>,
    /// How long an unread reply stays.
    pub reply_ttl: Duration,
    /// How long the record stays.
    pub retain: Duration,
    /// What became of the last attempt, where it failed.
    pub past: Option<Past>,
}

impl fmt::Debug for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ending")
            .field("status", &self.status)
            .field("code", &self.code)
            .field("pdf_bytes", &self.pdf.as_ref().map(Bytes::len))
            .field("output", &self.output)
            .finish_non_exhaustive()
    }
}

/// What became of a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is the one result of this attempt (also where its first reply was lost).
    Accepted,
    /// The lease was lost: another attempt owns the job, nothing was written.
    Stale,
}

impl Settled {
    fn from_name(name: &str) -> Option<Self> {
        match name {
            "accepted" | "repeated" => Some(Self::Accepted),
            "stale" => Some(Self::Stale),
            _ => None,
        }
    }
}

/// How many jobs are where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Elements in the interactive inbox.
    pub inbox: u64,
    /// Elements in the bulk inbox.
    pub inbox_bulk: u64,
    /// Admitted jobs that wait for a worker.
    pub ready: u64,
    /// Running.
    pub leased: u64,
    /// Waiting for their time.
    pub delayed: u64,
    /// Dead letters.
    pub dead: u64,
    /// Ended well since the queue began.
    pub done: u64,
    /// Tenants with ready jobs.
    pub tenants: u64,
    /// Bytes of documents of living jobs.
    pub bytes: u64,
    /// Bytes of results that wait for their producers.
    pub held: u64,
    /// Bytes of the documents of dead letters.
    pub dead_bytes: u64,
    /// Tenants whose last attempts all failed: they run one job at a time.
    pub broken: u64,
    /// Workers that were heard of lately.
    pub workers: u64,
}
