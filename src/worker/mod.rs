//! The worker: ties queue, governor and renderer together.
//!
//! One task owns the state (see [`dispatcher`]): it receives events, lets the
//! dispatcher decide, and has the effects carried out ([`effects`]), each of
//! which reports back. Three clocks feed it: a tick each second (housekeeping,
//! and the poll behind the bell), the heartbeat, and the drain timer.
//!
//! ```text
//! readers ──┐                       ┌──▶ admit, claim, settle, renew (Redis)
//! signals ──┼─▶ events ─▶ dispatcher┤
//! clocks  ──┘      ▲                └──▶ attempts (renderer)
//!                  └───────────────────────────┘
//! ```

mod admission;
mod attempt;
pub mod dispatcher;
mod effects;
pub mod event;
mod relief;
pub mod settings;
mod shortage;
pub mod snapshot;
mod stock;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::task::TaskTracker;

#[doc(hidden)]
pub use admission::digest;
pub use event::Stop;
pub use relief::fences;
pub use settings::{Fixed, Settings, Shared, Tune, Tuned};
pub use snapshot::{Phase, Snapshot, Totals};

use self::attempt::Attempt;
use self::dispatcher::Dispatcher;
use self::effects::Effects;
use self::event::{Effect, Event};
use self::snapshot::{Browser, Condition, Governed, MemoryUse, QueueCounts, Slots};
use crate::memory::Governor;
use crate::metrics::{self, QueueState};
use crate::queue::{Intake, Queue, Room};
use crate::renderer::{Render, Upkeep, UpkeepState};

/// Events that may wait; a job causes about four.
const EVENTS: usize = 1024;
const INBOUND: usize = 16;
/// What documents take is written down so often, for workers that begin later.
const PREDICTIONS_KEPT: Duration = Duration::from_secs(60);
/// At most so much of it.
const PREDICTIONS_BYTES: usize = 32 << 10;
const TICK: Duration = Duration::from_secs(1);

/// A worker, ready to run.
pub struct Worker {
    queue: Queue,
    renderer: Arc<dyn Render>,
    governor: Governor,
    settings: Settings,
    stop: mpsc::Receiver<Stop>,
    snapshot: watch::Sender<Snapshot>,
}

impl Worker {
    /// A worker on these parts; `stop` tells it to end, `snapshot` is kept up to date.
    #[must_use]
    pub fn new(
        queue: Queue,
        renderer: Arc<dyn Render>,
        governor: Governor,
        settings: Settings,
        stop: mpsc::Receiver<Stop>,
        snapshot: watch::Sender<Snapshot>,
    ) -> Self {
        Self { queue, renderer, governor, settings, stop, snapshot }
    }

    /// Runs until it is told to stop and everything has ended.
    pub async fn run(mut self) -> Totals {
        let (events, mut reported) = mpsc::channel(EVENTS);
        let (inbound, mut read) = mpsc::channel(INBOUND);
        let (room, room_seen) = watch::channel(Room::default());
        let effects = Effects {
            attempt: Attempt {
                shelves: stock::Shelves::default(),
                queue: self.queue.clone(),
                renderer: Arc::clone(&self.renderer),
                max_timeout: self.settings.max_timeout,
                governor: self.governor.live().cloned(),
            },
            events,
            tasks: TaskTracker::new(),
            lease: self.settings.lease,
            failed_rounds: Arc::default(),
        };
        let mut room_of_memory = relief::connect(self.governor.live(), &self.renderer);
        let mut dispatcher = Dispatcher::new(self.governor.clone());
        let mut readiness = self.renderer.readiness();
        let mut upkeep = self.renderer.upkeep();
        let mut kept = Upkeep::default();
        let now = readiness.borrow_and_update().clone();
        let mut wanted = dispatcher.handle(Event::Renderer(now));
        // Heard of before the first element is taken, so that its stage is never an unknown worker's.
        self.publish(&dispatcher);
        let first = self.queue.renew(&[], &self.describe(&dispatcher)).await;
        self.learn().await;
        let mut intake = Some(Intake::start(&self.queue, &inbound, room_seen));
        wanted.extend(dispatcher.handle(Event::Beat(first)));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beat = tokio::time::interval_at(
            Instant::now() + self.settings.heartbeat,
            self.settings.heartbeat,
        );
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);

        let mut keep =
            tokio::time::interval_at(Instant::now() + PREDICTIONS_KEPT, PREDICTIONS_KEPT);
        keep.set_missed_tick_behavior(MissedTickBehavior::Delay);

        loop {
            let ended = self.perform(wanted, &effects, &dispatcher, &mut intake).await;
            let wanted_room = dispatcher.room();
            room.send_if_modified(|room| std::mem::replace(room, wanted_room) != wanted_room);
            if ended {
                break;
            }
            let event = tokio::select! {
                Some(event) = reported.recv() => event,
                Some(inbound) = read.recv() => Event::Inbound(inbound),
                Some(stop) = self.stop.recv() => Event::Stop(stop),
                Ok(()) = readiness.changed() => Event::Renderer(readiness.borrow_and_update().clone()),
                Ok(()) = room_of_memory.changed() => Event::Room,
                now = told(&mut upkeep) => {
                    effects.tell_upkeep(&kept, &now);
                    kept = now;
                    self.publish(&dispatcher);
                    wanted = Vec::new();
                    continue;
                }
                _ = tick.tick() => {
                    self.publish(&dispatcher);
                    Event::Tick
                }
                _ = keep.tick() => {
                    effects.keep(self.predictions());
                    effects.judge();
                    wanted = Vec::new();
                    continue;
                }
                _ = beat.tick() => {
                    wanted = dispatcher.beat().into_iter().collect();
                    continue;
                }
            };
            let before =
                (dispatcher.phase(), dispatcher.renderer().is_ok(), dispatcher.redis().is_ok());
            wanted = dispatcher.handle(event);
            if before
                != (dispatcher.phase(), dispatcher.renderer().is_ok(), dispatcher.redis().is_ok())
            {
                self.publish(&dispatcher);
            }
        }
        if let Some(text) = self.predictions()
            && let Err(error) = self.queue.keep_predictions(&text).await
        {
            tracing::debug!(error = %chain(&error), "what documents take was not written down");
        }
        if let Err(error) = self.queue.leave().await {
            tracing::warn!(error = %chain(&error), "could not say goodbye; this worker is forgotten later");
        }
        self.publish(&dispatcher);
        dispatcher.totals()
    }

    /// What documents take, to be written down.
    fn predictions(&self) -> Option<String> {
        self.governor.live().map(|live| live.dump(PREDICTIONS_BYTES))
    }

    /// Begins with what other workers knew; without it, with what documents look like.
    async fn learn(&self) {
        let Some(live) = self.governor.live() else { return };
        match self.queue.predictions().await {
            Ok(Some(text)) => live.absorb(&text),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(error = %chain(&error), "what documents take could not be read; it is learned anew");
            }
        }
        effects::judge(&self.queue, live).await;
    }

    /// Has the effects carried out; true once the worker is done.
    async fn perform(
        &self,
        wanted: Vec<Effect>,
        effects: &Effects,
        dispatcher: &Dispatcher,
        intake: &mut Option<Intake>,
    ) -> bool {
        for effect in wanted {
            match effect {
                Effect::Offer { inbox, turn, element, done, permit, bulk } => {
                    effects.offer((inbox, turn), element, done, permit, bulk);
                }
                Effect::Claim { permit, bulk } => effects.claim(permit, bulk),
                Effect::Run { attempt, work, halt } => effects.run(attempt, *work, halt),
                Effect::Settle { attempt, lease, verdict, claim_next } => {
                    effects.settle(attempt, lease, verdict, claim_next);
                }
                Effect::Expire(overdue) => effects.expire(overdue),
                Effect::Set { key, value } => match self.settings.tune.set(&key, &value) {
                    Ok(()) => tracing::info!(%key, %value, "a setting was changed"),
                    Err(why) => tracing::warn!(%key, %value, %why, "a setting was not changed"),
                },
                Effect::Beat(leases) => {
                    // What it says of itself is what its pages say.
                    self.publish(dispatcher);
                    effects.beat(leases, self.describe(dispatcher));
                }
                Effect::Housekeep { expire } => effects.housekeep(expire),
                // With a ledger it is measured all the time.
                Effect::Measure if self.governor.live().is_some() => {}
                Effect::Measure => effects.measure(),
                Effect::Count => effects.count(),
                Effect::StopIntake => {
                    if let Some(intake) = intake.take() {
                        intake.stop().await;
                    }
                }
                Effect::StartDrainTimer => effects.timer(self.settings.drain.get()),
                Effect::Finish => return true,
            }
        }
        metrics::slots(dispatcher.running(), self.governor.slots());
        false
    }

    /// What the heartbeat says of this worker, for `tillroll status`.
    fn describe(&self, dispatcher: &Dispatcher) -> String {
        serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "phase": dispatcher.phase(),
            "slots": self.governor.slots(),
            "running": dispatcher.running(),
            "lease_ms": u64::try_from(self.settings.lease.as_millis()).unwrap_or(u64::MAX),
            "drain_timeout_ms": u64::try_from(self.settings.drain.get().as_millis()).unwrap_or(u64::MAX),
            "renderer": dispatcher.renderer().as_ref().err(),
            "renderer_kind": self.renderer.kind(),
            "upkeep": self.upkeep(),
            "totals": dispatcher.totals(),
            "reasons": self.snapshot.borrow().reasons(),
            "settings": self.settings.tune.settings(),
            "memory": self.memory().without_names(),
        })
        .to_string()
    }

    fn upkeep(&self) -> Option<Upkeep> {
        self.renderer.upkeep().map(|upkeep| upkeep.borrow().clone())
    }

    /// Memory, as it is published.
    fn memory(&self) -> MemoryUse {
        let usage = self.governor.usage();
        let governor = usage.report.map(Governed::from);
        let short = usage.short_of.map(|needed| shortage::too_little(&usage.ground, needed));
        let short =
            short.or_else(|| governor.as_ref().and_then(|ledger| ledger.shortage(&usage.ground)));
        MemoryUse {
            condition: short.map_or_else(Condition::ok, Condition::bad),
            budget_bytes: usage.budget,
            used_bytes: usage.used,
            per_render_bytes: usage.per_render,
            bounds: usage.ground,
            governor,
        }
    }

    fn publish(&self, dispatcher: &Dispatcher) {
        let condition = |state: &Result<(), String>| match state {
            Ok(()) => Condition::ok(),
            Err(why) => Condition::bad(why.clone()),
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        metrics::dispatcher_seen(now);
        let memory = self.memory();
        metrics::memory(memory.budget_bytes, memory.used_bytes);
        if let Some(ledger) = &memory.governor {
            metrics::ledger(
                ledger.free_bytes,
                ledger.reserve_bytes,
                ledger.outstanding_bytes,
                ledger.idle_bytes,
            );
            metrics::memory_scarce(ledger.pressure as u8, ledger.waiting);
        }
        let vitals = self.renderer.vitals();
        metrics::contexts(vitals.contexts);
        metrics::tasks(tokio::runtime::Handle::current().metrics().num_alive_tasks());
        let upkeep = self.upkeep();
        let refused = |upkeep: &Upkeep| upkeep.state == UpkeepState::Refused;
        metrics::browser_outdated(upkeep.as_ref().is_some_and(refused));
        let jobs = dispatcher.counts().map(|counts| QueueCounts {
            inbox: counts.inbox + counts.inbox_bulk,
            ready: counts.ready,
            delayed: counts.delayed,
            leased: counts.leased,
            dead: counts.dead,
        });
        if let Some(jobs) = &jobs {
            metrics::queue_jobs(QueueState::Inbox, jobs.inbox);
            metrics::queue_jobs(QueueState::Ready, jobs.ready);
            metrics::queue_jobs(QueueState::Delayed, jobs.delayed);
            metrics::queue_jobs(QueueState::Leased, jobs.leased);
            metrics::queue_jobs(QueueState::Dead, jobs.dead);
        }
        if let Some(counts) = dispatcher.counts() {
            metrics::queue_bytes(counts.bytes, counts.held, counts.dead_bytes);
            metrics::tenants_broken(counts.broken);
        }
        metrics::claims_hindered(dispatcher.hindrance().is_some());
        self.snapshot.send_modify(|snapshot| {
            snapshot.browser = vitals.browser.map(|(pid, version)| Browser {
                pid,
                version,
                contexts: vitals.contexts,
            });
            snapshot.upkeep = upkeep;
            snapshot.jobs = jobs;
            snapshot.phase = dispatcher.phase();
            snapshot.redis = condition(dispatcher.redis());
            snapshot.claims = dispatcher.hindrance().map_or_else(Condition::ok, Condition::bad);
            snapshot.renderer = condition(dispatcher.renderer());
            snapshot.renderer_kind = self.renderer.kind();
            snapshot.slots = Slots { total: self.governor.slots(), in_use: dispatcher.running() };
            snapshot.totals = dispatcher.totals();
            snapshot.memory = memory;
            snapshot.published = Instant::now();
        });
    }
}

/// How the browser stands to what is on disk, once that changes; never, where
/// nothing keeps it up to date.
async fn told(upkeep: &mut Option<watch::Receiver<Upkeep>>) -> Upkeep {
    if let Some(receiver) = upkeep
        && receiver.changed().await.is_ok()
    {
        return receiver.borrow_and_update().clone();
    }
    std::future::pending().await
}

/// An error and its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
