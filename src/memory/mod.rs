//! Memory: whether there is room to start another render.
//!
//! # Two questions
//!
//! Whether a job may be *claimed*: [`Governor::admit`]. The worker claims only
//! with a [`Permit`] in hand, which is given back when it is dropped. Whether it
//! may *render*: [`live::Ticket::enter`], once its document is known.
//!
//! [`Governor::governed`] has both: the pure core decides by measurement,
//! [`control::Control`], at work in [`live`]. [`Governor::new`] has the first only,
//! a plain bound, checked twice:
//!
//! 1. at start: how many renders and warm contexts fit into the budget
//!    ([`Plan`], pure);
//! 2. at each admission: whether what is really free still covers one more
//!    render beyond the reserve. If nothing runs, one is let in all the same,
//!    so that the worker never stands still for good.
//!
//! # The core
//!
//! ```text
//!  sampler ── Reading ──▶ control ── Orders ──▶ pool (trim, close, kill), attempt (recycle)
//!  (/proc, cgroup)          ▲  │
//!                           │  ├─ ledger      who was promised how much
//!  document ─▶ predictor ───┤  ├─ reserve     what has to stay free, learned
//!  (features)  (by kind)    │  ├─ ladder      nominal → elevated → critical, and down
//!                           │  └─ concurrency how many the cores carry
//!             verdicts ─────┘
//! ```
//!
//! All but [`sampler`], [`probe`] and [`share`] (what other workers of this machine have
//! promised) are pure: time is a parameter, counted from
//! any fixed start. They are driven by one owner, the task that has the
//! worker's state:
//!
//! - **Every 25 ms** while a job runs (each second otherwise; at leisure four times as
//!   seldom, with [`sampler::Sampler::glance`] between, see `watcher`):
//!   [`sampler::Sampler::sample`], then [`control::Control::sample`] with each
//!   running job's renderer and each idle context's. Renderers are watched as
//!   [`sampler::Pace::Busy`] from admission until their process is gone. Orders
//!   are performed at once.
//! - **Before a claim**: [`control::Control::fits`] says what size the claim may
//!   bring. A job that was bounced carries what it needs.
//! - **After a claim**: [`document::Features::of`] and
//!   [`predictor::Predictor::predict`], [`verdicts::Verdicts::too_big`] against
//!   [`control::Control::whole`], then [`control::Control::admit`] with the
//!   tenant's idle context, if it has one. On [`terms::Wait::Room`]:
//!   [`control::Control::make_room`]; where `next` is set the worker keeps the
//!   job in hand and asks again after each sample, else it gives the job back
//!   with what it needs. What [`terms::Wait`] says is why a job waits. A job
//!   that is given up is withdrawn.
//! - **After a render**: [`control::Control::release`] with one last look at the
//!   renderer ([`sampler::Sampler::look_at`]): a receipt is quicker than two
//!   samples. The peak that it returns goes to
//!   [`predictor::Predictor::observe`], the time to [`control::Control::took`].
//! - **When a renderer's process has ended**, and not before:
//!   [`control::Control::gone`]. Killed or closed is not gone.
//! - **After a kill**: [`terms::Kill::next`]: back to the queue uncounted, once
//!   more alone, or buried as `memory_exceeded`, and a verdict noted. A job that
//!   ended before the kill reached it is settled as it ended; its renderer is
//!   not kept all the same.
//!
//! # Failures
//!
//! | what fails | what becomes of it |
//! |---|---|
//! | nothing can be measured | the last sample stands; nothing new is let in without one |
//! | no cgroup, no pressure, no counters | the machine's memory alone decides |
//! | a renderer's end is never told | credited after [`ledger::RETURN_PATIENCE`] |
//! | a job at the door is forgotten | the door opens after [`ledger::DOOR_HELD`] |
//! | other workers of this machine cannot be seen | each counts with all that is free; said once, and in its status |
//! | another worker dies with its promises | they count for some seconds, until its process is seen to be gone |
//! | predictions are wrong | up to the hard line others' unused promises serve, then the job is killed and runs alone |
//! | neighbours take memory | a larger reserve, then the ladder; jobs killed for it are not counted |
//! | all of it is too slow | the kernel kills a renderer within its browser's [`fence`], and nothing else |
//! | one job needs more than there is | it runs alone, is killed at the hard line, and is buried with figures |

mod books;
pub mod capacity;
mod cgroup;
pub mod change;
pub mod concurrency;
pub mod control;
pub mod deference;
pub mod document;
mod entry;
pub mod fence;
pub mod ladder;
pub mod ledger;
pub mod live;
pub mod predictor;
pub mod probe;
pub mod reserve;
pub mod sampler;
pub mod share;
#[cfg(test)]
mod sim;
pub(crate) mod table;
pub mod terms;
pub mod verdicts;
mod watcher;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use capacity::{Needs, Room};
use change::Ground;
use control::Policy;
use live::{Live, Report};
pub use probe::{Memory, Probe, ProbeError};
use terms::Bounds;

/// What one browser takes without any page: browser, GPU, network and zygote
/// processes (measured 130 to 160 MB of private and shared memory).
pub const BROWSER_BYTES: u64 = 170 << 20;
/// What a warm, idle context takes until it is trimmed (measured 25 to 70 MB).
pub const CONTEXT_BYTES: u64 = 48 << 20;
/// What the worker process itself takes under load.
pub const WORKER_BYTES: u64 = 30 << 20;
/// For each slot, so many claimed jobs may wait for memory beside those that run:
/// receipts go by while invoices wait.
const HELD_PER_SLOT: usize = 2;
/// No more contexts than this in one browser.
pub const MAX_CONTEXTS: usize = 256;

/// What the operator decided, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The most that worker and Chromium may use; all that is free where `None`.
    pub limit: Option<u64>,
    /// What stays free for the neighbours.
    pub reserve: u64,
    /// What one render takes at its peak.
    pub per_render: u64,
    /// What an embedded Redis may still take beyond what it takes already; 0
    /// where Redis is elsewhere.
    pub redis: u64,
    /// Renders at once that the cores can use.
    pub slots: usize,
}

/// How the budget is spent. Pure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Plan {
    /// Bytes that worker, Chromium and an embedded Redis may use together.
    pub budget: u64,
    /// Bytes of it that are kept for an embedded Redis.
    pub redis: u64,
    /// Renders at once.
    pub slots: usize,
    /// Contexts alive at once, idle ones included.
    pub contexts: usize,
    /// How many of them are expected to find room beside these renders, before anything
    /// was measured: what [`Room::new`] says of [`Needs::EXPECTED`], as `tillroll doctor` does.
    pub expected_contexts: usize,
}

/// Not even one renderer fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no memory for one renderer: {} MiB are needed, {} MiB are there{}",
    needed >> 20,
    budget >> 20,
    if *limited { " within memory.limit" } else { " after the reserve" }
)]
pub struct TooSmall {
    /// Bytes needed for the worker, an embedded Redis, one browser and one render.
    pub needed: u64,
    /// Bytes there.
    pub budget: u64,
    /// Whether it is the operator's limit that leaves no more.
    pub limited: bool,
}

impl TooSmall {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        let more = (self.needed.saturating_sub(self.budget) >> 20) + 1;
        if self.limited {
            return format!(
                "raise memory.limit by {more} MiB or more, or lower memory.per_render or the \
                 redis.maxmemory of an embedded Redis"
            );
        }
        format!(
            "free {more} MiB more, or lower memory.reserve, memory.per_render or the \
             redis.maxmemory of an embedded Redis"
        )
    }
}

impl Plan {
    /// Spends what is free now.
    ///
    /// # Errors
    /// Where not even one render fits.
    pub fn new(settings: &Settings, free: u64) -> Result<Self, TooSmall> {
        let free = free.saturating_sub(settings.reserve);
        let budget = settings.limit.map_or(free, |limit| limit.min(free));
        let fixed = (BROWSER_BYTES + WORKER_BYTES).saturating_add(settings.redis);
        let needed = fixed.saturating_add(settings.per_render);
        if budget < needed {
            return Err(TooSmall { needed, budget, limited: budget < free });
        }
        let for_renders = budget - fixed;
        let fitting =
            usize::try_from(for_renders / settings.per_render.max(1)).unwrap_or(usize::MAX);
        let slots = settings.slots.clamp(1, fitting.max(1));
        let rest = for_renders.saturating_sub(slots as u64 * settings.per_render);
        let idle = usize::try_from(rest / CONTEXT_BYTES).unwrap_or(usize::MAX);
        let contexts = slots.saturating_add(idle).min(MAX_CONTEXTS);
        let redis = settings.redis;
        Ok(Self { budget, redis, slots, contexts, expected_contexts: contexts })
    }
}

/// Decides whether a render may start. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Governor {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    probe: Probe,
    settings: Mutex<Settings>,
    /// The governor at work; without it, permits are a plain bound.
    live: Option<Live>,
    plan: Plan,
    /// Bytes of the machine, where they can be read.
    total: Option<u64>,
    slots: AtomicUsize,
    running: AtomicUsize,
    last: Mutex<Last>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Last {
    memory: Option<Memory>,
    used: u64,
    short_of: Option<u64>,
}

/// Memory as the governor sees it, in bytes.
#[derive(Debug, Clone)]
pub struct Usage {
    /// What worker and Chromium may take together now: what they use and what is free,
    /// never more than the operator's limit.
    pub budget: u64,
    /// What they were seen to take.
    pub used: u64,
    /// What one more render is planned with.
    pub per_render: u64,
    /// What is free on the machine or in the tightest cgroup.
    pub free: Option<u64>,
    /// What would have to be free, where the last admission was refused for it.
    pub short_of: Option<u64>,
    /// What the ledger says, where there is one.
    pub report: Option<Report>,
    /// The operator's bounds, and what there is.
    pub ground: Ground,
}

/// Why nothing is admitted now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// All slots are taken.
    Slots,
    /// Too little memory is free.
    Memory {
        /// Bytes that are free.
        free: u64,
        /// Bytes that have to be free.
        needed: u64,
    },
    /// The ledger lets nothing in now.
    Ledger,
}

impl Settings {
    /// What the ledger keeps to. A quarter of the reserve is above the limit: the
    /// ledger kills a quarter of the reserve before the end of what there is, and
    /// may use the limit to the full. Operators are told of the limit, and of what is kept
    /// free below it: see [`control::Standing::within`].
    fn bounds(&self) -> Bounds {
        let budget = self.limit.map(|limit| limit.saturating_add(self.reserve / 4));
        Bounds { budget, kept: self.redis }
    }
}

impl Governor {
    /// Measures once and plans: a plain bound.
    ///
    /// # Errors
    /// Where memory cannot be measured, or is too small.
    pub fn new(probe: Probe, settings: Settings) -> Result<Self, GovernorError> {
        let memory = probe.read()?;
        let plan = Plan::new(&settings, memory.free())?;
        Ok(Self::of(probe, settings, plan, memory, None))
    }

    /// The same with a ledger: every render is admitted by what its document is
    /// expected to take, beside what the others may still take. `cores`: those that
    /// renderers can use.
    ///
    /// # Errors
    /// Where memory cannot be measured, is too small, or no thread can be started.
    pub fn governed(probe: Probe, settings: Settings, cores: usize) -> Result<Self, GovernorError> {
        let memory = probe.read()?;
        let small = Plan::new(&settings, memory.free())?;
        // The ledger decides how many fit, by what each of them takes.
        let expected = Room::new(&settings, cores, memory.free(), &Needs::EXPECTED)?;
        let plan = Plan {
            slots: settings.slots.max(1),
            contexts: MAX_CONTEXTS,
            expected_contexts: expected.contexts,
            ..small
        };
        let policy = Policy {
            bounds: settings.bounds(),
            floor: settings.reserve,
            cores,
            most: plan.slots,
            reaction: live::REACTION,
            back: live::BACK,
        };
        let live = Live::start(&policy, probe.root()).map_err(GovernorError::Thread)?;
        Ok(Self::of(probe, settings, plan, memory, Some(live)))
    }

    fn of(
        probe: Probe,
        settings: Settings,
        plan: Plan,
        memory: Memory,
        live: Option<Live>,
    ) -> Self {
        let total = probe.total().ok();
        Self {
            shared: Arc::new(Shared {
                probe,
                total,
                settings: Mutex::new(settings),
                live,
                plan,
                slots: AtomicUsize::new(plan.slots),
                running: AtomicUsize::new(0),
                last: Mutex::new(Last { memory: Some(memory), ..Last::default() }),
            }),
        }
    }

    /// The governor at work, where there is one.
    #[must_use]
    pub fn live(&self) -> Option<&Live> {
        self.shared.live.as_ref()
    }

    /// How the budget is spent.
    #[must_use]
    pub fn plan(&self) -> Plan {
        self.shared.plan
    }

    /// Renders at once, now.
    #[must_use]
    pub fn slots(&self) -> usize {
        match self.live() {
            Some(live) => live.slots(),
            None => self.shared.slots.load(Ordering::Relaxed),
        }
    }

    /// Jobs that hold a permit and wait for memory without a slot; so many more
    /// may be claimed.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.live().map_or(0, |live| live.waiting().min(HELD_PER_SLOT * live.slots()))
    }

    /// How many wait beyond those: each takes the place of one that might begin.
    #[must_use]
    pub fn waiting_beyond(&self) -> usize {
        self.live().map_or(0, |live| live.waiting().saturating_sub(HELD_PER_SLOT * live.slots()))
    }

    /// Those that wait and are bulk.
    #[must_use]
    pub fn waiting_bulk(&self) -> usize {
        self.live().map_or(0, Live::waiting_bulk)
    }

    /// Changes how many may render at once, within the plan; `None` is the plan's number.
    pub fn scale(&self, slots: Option<usize>) {
        let most = self.shared.plan.slots;
        let slots = slots.map_or(most, |slots| {
            // With a ledger the plan is no bound.
            if self.live().is_some() { slots.max(1) } else { slots.clamp(1, most) }
        });
        self.shared.slots.store(slots, Ordering::Relaxed);
        self.reconfigure(|_| {});
    }

    /// So many were asked for since the start, where they were.
    #[must_use]
    pub fn scaled(&self) -> Option<usize> {
        let slots = self.shared.slots.load(Ordering::Relaxed);
        (slots != self.shared.plan.slots).then_some(slots)
    }

    /// Changes what the operator decided.
    ///
    /// # Errors
    /// Where there is no ledger that could follow.
    pub fn change(&self, change: impl FnOnce(&mut Settings)) -> Result<(), String> {
        if self.live().is_none() {
            return Err("it can be changed while the worker runs only with memory.governor = on \
                        and Chromium"
                .to_owned());
        }
        self.reconfigure(change);
        Ok(())
    }

    fn reconfigure(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.settings();
        change(&mut settings);
        if let Some(live) = self.live() {
            let most = self.shared.slots.load(Ordering::Relaxed);
            live.reconfigure(settings.bounds(), settings.reserve, most);
            if let Some(fences) = live.fences() {
                fences.allow(settings.limit, settings.reserve);
            }
        }
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.shared.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known now.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let last = *self.last();
        let settings = *self.settings();
        let per_render = settings.per_render;
        let ground = Ground {
            limit_bytes: settings.limit,
            reserve_bytes: settings.reserve,
            per_render_bytes: per_render,
            redis_bytes: settings.redis,
            total_bytes: self.shared.total,
            free_bytes: last.memory.map_or(0, |memory| memory.free()),
            used_bytes: last.used,
            bare_bytes: None,
        };
        if let Some(live) = self.live() {
            let mut report = live.report();
            let used = report.used;
            if let Some(limit) = settings.limit {
                report.standing = report.standing.within(limit, used, settings.redis);
            }
            let free = u64::try_from(report.standing.free).unwrap_or(0);
            let (free_bytes, bare_bytes) = (report.there, report.bare);
            return Usage {
                budget: used.saturating_add(free).min(settings.limit.unwrap_or(u64::MAX)),
                used,
                per_render,
                free: Some(free),
                short_of: None,
                report: Some(report),
                ground: Ground { free_bytes, used_bytes: used, bare_bytes, ..ground },
            };
        }
        Usage {
            ground,
            budget: self.shared.plan.budget,
            used: last.used,
            per_render,
            free: last.memory.map(|memory| memory.free()),
            short_of: last.short_of,
            report: None,
        }
    }

    /// Takes note of what this process and its children were seen to use.
    pub fn note_used(&self, bytes: u64) {
        self.last().used = bytes;
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.shared.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a render that just ended may be followed by another under the
    /// same permit: its warm page is paid for, so only the reserve must be free.
    #[must_use]
    pub fn may_continue(&self) -> bool {
        let shared = &self.shared;
        if shared.running.load(Ordering::Relaxed) > self.slots() + self.waiting() {
            return false;
        }
        match self.live() {
            Some(live) => live.has_room(),
            None => {
                let reserve = self.settings().reserve;
                self.measure().is_none_or(|memory| memory.free() >= reserve)
            }
        }
    }

    /// Measures; a machine whose memory cannot be read any more is planned for as at the start.
    fn measure(&self) -> Option<Memory> {
        let memory = self.shared.probe.read().ok()?;
        self.last().memory = Some(memory);
        Some(memory)
    }

    /// Lets one more job be claimed, if there is room. With a ledger its render
    /// is admitted later, when its document is known.
    ///
    /// # Errors
    /// Why there is none.
    pub fn admit(&self) -> Result<Permit, Refusal> {
        let shared = &self.shared;
        let running = shared.running.load(Ordering::Relaxed);
        if running >= self.slots() + self.waiting() {
            return Err(Refusal::Slots);
        }
        let settings = *self.settings();
        if let Some(live) = self.live() {
            if !live.has_room() {
                return Err(Refusal::Ledger);
            }
        } else if let Some(memory) = self.measure() {
            let needed = settings.reserve + settings.per_render;
            let short = memory.free() < needed && running > 0;
            self.last().short_of = short.then_some(needed);
            if short {
                return Err(Refusal::Memory { free: memory.free(), needed });
            }
        }
        shared.running.fetch_add(1, Ordering::Relaxed);
        Ok(Permit { shared: Arc::clone(shared) })
    }
}

/// The right to run one render. Dropping it gives its memory back.
#[derive(Debug)]
pub struct Permit {
    shared: Arc<Shared>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why there is no governor.
#[derive(Debug, thiserror::Error)]
pub enum GovernorError {
    /// Memory cannot be measured.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// There is too little.
    #[error(transparent)]
    TooSmall(#[from] TooSmall),
    /// The thread that measures cannot be started.
    #[error("the thread that measures memory cannot be started")]
    Thread(#[source] std::io::Error),
}

#[cfg(test)]
mod tests;
