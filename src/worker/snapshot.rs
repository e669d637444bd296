//! What a worker says about itself: published by the dispatcher, read by
//! `/status`, the health pages and `tillroll status`.
//!
//! The JSON form is a public contract: fields are added, never renamed. It holds
//! names and numbers, never a document's content.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::memory::change::Ground;
use crate::memory::ladder::Pressure;
use crate::memory::live::{Footprint, Report, Waiting};
use crate::renderer::Upkeep;

/// Where the worker is in its life.
///
/// ```text
/// Starting ──▶ Running ──▶ Draining ──▶ Stopped
///                             └▶ Aborting ─▶┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Connecting to Redis, launching the first browser.
    Starting,
    /// Taking jobs.
    Running,
    /// Finishing what has begun; nothing new is taken.
    Draining,
    /// Releasing what has begun to other workers.
    Aborting,
    /// All is settled.
    Stopped,
}

/// Whether something the worker depends on works; if not, why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// Whether it works.
    pub ok: bool,
    /// Why not, in one line with the remedy; `None` while it works.
    pub why: Option<String>,
}

impl Condition {
    /// It works.
    #[must_use]
    pub fn ok() -> Self {
        Self { ok: true, why: None }
    }

    /// It does not, because of `why`.
    pub fn bad(why: impl Into<String>) -> Self {
        Self { ok: false, why: Some(why.into()) }
    }
}

/// How many documents render.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Slots {
    /// How many may render at once.
    pub total: usize,
    /// How many do.
    pub in_use: usize,
}

/// The memory budget, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryUse {
    /// Whether there is room for one more render (or one is running).
    pub condition: Condition,
    /// What the worker and Chromium may take together now: what they take and what is
    /// free for them, never more than `memory.limit`.
    pub budget_bytes: u64,
    /// What they take.
    pub used_bytes: u64,
    /// What one more render is planned with.
    pub per_render_bytes: u64,
    /// `memory.limit` and `memory.reserve` in force, and what there is.
    pub bounds: Ground,
    /// What the ledger says, with `memory.governor` on.
    pub governor: Option<Governed>,
}

impl MemoryUse {
    /// The same without names of tenants and jobs: for Redis, where nothing of a
    /// tenant may stay.
    #[must_use]
    pub(super) fn without_names(mut self) -> Self {
        if let Some(governor) = &mut self.governor {
            governor.contexts.clear();
            governor.waits.iter_mut().for_each(|wait| wait.job.clear());
        }
        self
    }
}

/// The ledger, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Governed {
    /// How scarce memory is.
    pub pressure: Pressure,
    /// Whether the system waits for memory, by its own counters, whatever is free.
    pub stalled: bool,
    /// What can still be taken before any reserve.
    pub free_bytes: u64,
    /// What stays free: the reserve, what neighbours took lately, what renderers
    /// grow unseen.
    pub reserve_bytes: u64,
    /// What running jobs may still take, as far as it is there.
    pub outstanding_bytes: u64,
    /// What idle contexts hold.
    pub idle_bytes: u64,
    /// The largest job that would be let in now, idle contexts closed.
    pub fits_bytes: u64,
    /// Jobs that render.
    pub running: usize,
    /// Jobs that were claimed and wait for memory.
    pub waiting: usize,
    /// Those that wait longest, and why.
    pub waits: Vec<Waiting>,
    /// The largest contexts.
    pub contexts: Vec<Footprint>,
    /// Processes of the worker's cgroup that the kernel killed for want of memory,
    /// other than in full fences.
    pub oom_kills: Option<u64>,
    /// The limit of the fence around the browser; null where it has none.
    pub fence_bytes: Option<u64>,
    /// Processes that the kernel killed in full fences.
    pub fence_kills: u64,
    /// Other workers on this machine with which the ledger is shared.
    pub other_workers: usize,
    /// What they promised and do not use yet.
    pub elsewhere_bytes: u64,
    /// Why they are not seen, where they are not.
    pub unshared: Option<String>,
}

impl From<Report> for Governed {
    fn from(report: Report) -> Self {
        let standing = report.standing;
        let fence = report.fence.unwrap_or_default();
        Self {
            pressure: standing.pressure,
            stalled: standing.stalled,
            free_bytes: u64::try_from(standing.free).unwrap_or(0),
            reserve_bytes: standing.reserve,
            outstanding_bytes: standing.outstanding,
            idle_bytes: standing.idle,
            fits_bytes: standing.fits.now.max(standing.fits.without_idle),
            running: standing.running,
            waiting: report.waiting_count,
            waits: report.waiting,
            contexts: report.contexts,
            oom_kills: report.counters.oom_kills.map(|kills| fence.outside(kills)),
            fence_bytes: fence.limit_bytes,
            fence_kills: fence.kills,
            other_workers: standing.elsewhere.workers,
            elsewhere_bytes: standing.elsewhere.promised,
            unshared: report.unshared,
        }
    }
}

/// Attempts that ended since the worker started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Totals {
    /// Jobs done.
    pub done: u64,
    /// Jobs that ended without a PDF.
    pub failed: u64,
    /// Attempts that are to be repeated.
    pub retried: u64,
    /// Attempts that were given back unfinished because the worker stops.
    pub released: u64,
    /// Leases lost to another worker.
    pub lost: u64,
}

/// One supervised Chromium.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Browser {
    /// The host's pid of its first process.
    pub pid: u32,
    /// As it names itself: `HeadlessChrome/156.0.8078.79`.
    pub version: String,
    /// Contexts that are kept warm.
    pub contexts: usize,
}

/// Jobs of the whole queue, by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct QueueCounts {
    /// Pushed, not yet admitted.
    pub inbox: u64,
    /// Waiting for a worker.
    pub ready: u64,
    /// Waiting for their time.
    pub delayed: u64,
    /// In the hands of a worker.
    pub leased: u64,
    /// Dead letters.
    pub dead: u64,
}

/// Everything a worker says about itself at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// The worker's id.
    pub worker: String,
    /// Tillroll's version.
    pub version: &'static str,
    /// Name of the queue.
    pub queue: String,
    /// Where it is in its life.
    pub phase: Phase,
    /// Redis.
    pub redis: Condition,
    /// Whether jobs may be started: not while the queue is paused, or too many
    /// results wait for their producers.
    pub claims: Condition,
    /// Chromium.
    pub renderer: Condition,
    /// What renders: `chromium`, or `null` (every document gets the same page).
    pub renderer_kind: &'static str,
    /// Slots.
    pub slots: Slots,
    /// Memory.
    pub memory: MemoryUse,
    /// What ended so far.
    pub totals: Totals,
    /// The browser, while one runs.
    pub browser: Option<Browser>,
    /// How the browser stands to the engine and the fonts on disk; null where nothing
    /// keeps it up to date.
    pub upkeep: Option<Upkeep>,
    /// The queue, where it has been asked.
    pub jobs: Option<QueueCounts>,
    /// When the worker started.
    #[serde(rename = "uptime_ms", serialize_with = "milliseconds_since")]
    pub started: Instant,
    /// When the dispatcher published this: how `/healthz` knows that it lives.
    #[serde(rename = "age_ms", serialize_with = "milliseconds_since")]
    pub published: Instant,
}

/// Why a worker does not take jobs: one line for each thing that is away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// `phase`, `redis`, `claims`, `renderer`, `memory` or `dispatcher`.
    pub what: &'static str,
    /// Why.
    pub why: String,
}

impl Snapshot {
    /// The dispatcher publishes each second; silent for longer than this, it
    /// hangs.
    pub const SILENCE: Duration = Duration::from_secs(10);

    /// What is said before anything is known.
    #[must_use]
    pub fn starting(worker: String, queue: String) -> Self {
        let now = Instant::now();
        Self {
            worker,
            queue,
            version: env!("CARGO_PKG_VERSION"),
            phase: Phase::Starting,
            redis: Condition::bad("not connected yet"),
            claims: Condition::ok(),
            renderer: Condition::bad("not launched yet"),
            renderer_kind: "chromium",
            slots: Slots::default(),
            memory: MemoryUse {
                condition: Condition::bad("not measured yet"),
                budget_bytes: 0,
                used_bytes: 0,
                per_render_bytes: 0,
                bounds: Ground::default(),
                governor: None,
            },
            totals: Totals::default(),
            browser: None,
            upkeep: None,
            jobs: None,
            started: now,
            published: now,
        }
    }

    /// What a person must know although jobs are taken.
    #[must_use]
    pub fn notices(&self) -> Vec<String> {
        let kind = notice(self.renderer_kind);
        let refused = self.upkeep.as_ref().and_then(|upkeep| upkeep.why.clone());
        kind.into_iter().chain(refused).collect()
    }

    /// Whether the dispatcher has spoken lately.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.published.elapsed() <= Self::SILENCE
    }

    /// Why it does not take jobs now; empty if it does.
    #[must_use]
    pub fn reasons(&self) -> Vec<Reason> {
        let mut reasons = Vec::new();
        if !self.alive() {
            let seconds = self.published.elapsed().as_secs();
            reasons.push(Reason {
                what: "dispatcher",
                why: format!("silent for {seconds} s: restart the worker"),
            });
        }
        let phase = match self.phase {
            Phase::Running => None,
            Phase::Starting => Some("starting"),
            Phase::Draining => Some("draining"),
            Phase::Aborting => Some("aborting"),
            Phase::Stopped => Some("stopped"),
        };
        reasons.extend(phase.map(|why| Reason { what: "phase", why: why.into() }));
        for (what, condition) in [
            ("redis", &self.redis),
            ("claims", &self.claims),
            ("renderer", &self.renderer),
            ("memory", &self.memory.condition),
        ] {
            if !condition.ok {
                let why = condition.why.clone().unwrap_or_else(|| "it does not work".into());
                reasons.push(Reason { what, why });
            }
        }
        reasons
    }
}

fn milliseconds_since<S: serde::Serializer>(
    then: &Instant,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let milliseconds = u64::try_from(then.elapsed().as_millis()).unwrap_or(u64::MAX);
    serializer.serialize_u64(milliseconds)
}
/// What a person must know of a renderer of this kind.
#[must_use]
pub fn notice(kind: &str) -> Option<String> {
    use crate::renderer::{jail, null};
    match kind {
        "null" => Some(format!("{}: {}", null::NOTICE, null::REMEDY)),
        jail::UNJAILED => Some(format!("{}: {}", jail::UNJAILED_NOTICE, jail::UNJAILED_REMEDY)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::renderer::jail;

    #[test]
    fn what_stands_in_for_a_jailed_chromium_is_told_with_a_remedy() {
        assert_eq!(notice("chromium"), None);
        assert!(notice("null").is_some_and(|text| text.contains("--renderer null")));
        assert!(notice(jail::UNJAILED).is_some_and(|text| text.contains("bubblewrap")));
    }
}
