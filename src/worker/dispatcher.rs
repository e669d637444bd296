//! The one owner of the worker's state: events in, a synchronous decision,
//! effects out. No clock, no I/O, no lock: every decision is tested without a
//! runtime.
//!
//! ```text
//! Running ──Stop::Drain──▶ Draining ──nothing left──▶ Stopped
//!    │                        │
//!    └──Stop::Abort───────────┴──abort or timeout──▶ Aborting ──nothing left──▶ Stopped
//! ```
//!
//! * Running: elements are taken always; jobs are claimed when there is a
//!   permit, Redis answers and the renderer is ready.
//! * Draining: nothing is taken or claimed; what runs may finish.
//! * Aborting: what runs is cancelled and released.
//!
//! A permit belongs to one of: an offer or claim under way, or a running
//! attempt. Its number is the number of jobs that this worker can hold.

use std::collections::HashMap;

use tokio_util::sync::CancellationToken;

use super::event::{AttemptId, Effect, Event, Stop, Verdict, Work};
use super::snapshot::{Phase, Totals};
use crate::job::Name;
use crate::memory::{Governor, Permit};
use crate::queue::{Control, Counts, Inbound, QueueError, Settled, Token};

struct Attempt {
    name: Name,
    token: String,
    cancel: CancellationToken,
    permit: Permit,
}

/// See the module.
pub struct Dispatcher {
    governor: Governor,
    phase: Phase,
    attempts: HashMap<AttemptId, Attempt>,
    next_id: AttemptId,
    /// Offers and claims under way.
    pending: usize,
    /// Claims under way, of these.
    claiming: usize,
    beating: bool,
    housekeeping: bool,
    redis: Result<(), String>,
    renderer: Result<(), String>,
    totals: Totals,
    counts: Option<Counts>,
    ticks: u32,
}

/// The queue is counted every so many seconds, for status and metrics.
const TICKS_PER_COUNT: u32 = 5;

impl Dispatcher {
    /// A worker that has not begun: its renderer is not ready yet.
    #[must_use]
    pub fn new(governor: Governor) -> Self {
        Self {
            governor,
            phase: Phase::Running,
            attempts: HashMap::new(),
            next_id: 0,
            pending: 0,
            claiming: 0,
            beating: false,
            housekeeping: false,
            redis: Ok(()),
            renderer: Err("the renderer is starting".to_owned()),
            totals: Totals::default(),
            counts: None,
            ticks: 0,
        }
    }

    /// Where the worker is in its life.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// What has been counted since the start.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// How many jobs of the queue are where, when it was last asked.
    #[must_use]
    pub fn counts(&self) -> Option<Counts> {
        self.counts
    }

    /// How many attempts run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.attempts.len()
    }

    /// Whether Redis answers, or why not.
    pub fn redis(&self) -> &Result<(), String> {
        &self.redis
    }

    /// Whether the renderer is ready, or why not.
    pub fn renderer(&self) -> &Result<(), String> {
        &self.renderer
    }

    /// Whether another job could be claimed now, which is when the bell matters.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.may_claim() && self.attempts.len() + self.claiming < self.governor.slots()
    }

    fn may_claim(&self) -> bool {
        self.phase == Phase::Running && self.redis.is_ok() && self.renderer.is_ok()
    }

    fn permit(&self) -> Option<Permit> {
        if self.may_claim() { self.governor.admit().ok() } else { None }
    }

    /// Takes one event, decides, and says what to do.
    pub fn handle(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Inbound(inbound) => self.inbound(inbound, &mut effects),
            Event::Offered { permit, claimed, failed } => {
                self.pending -= 1;
                if permit.is_some() {
                    self.claiming -= 1;
                }
                match failed {
                    Some(error) => self.redis_failed(&error),
                    None => self.redis = Ok(()),
                }
                if let (Some(permit), Some(work)) = (permit, claimed) {
                    self.run(work, permit, &mut effects);
                }
            }
            Event::Claimed { permit, result } => {
                self.pending -= 1;
                self.claiming -= 1;
                match result {
                    Ok(Some(work)) => {
                        self.redis = Ok(());
                        self.run(work, permit, &mut effects);
                        // Where there was one there may be more.
                        self.claim(&mut effects);
                    }
                    Ok(None) => self.redis = Ok(()),
                    Err(error) => self.redis_failed(&error),
                }
            }
            Event::Ended { attempt, lease, verdict } => {
                self.count(&verdict);
                let claim_next = self.may_claim() && self.governor.may_continue();
                effects.push(Effect::Settle { attempt, lease, verdict, claim_next });
            }
            Event::Settled { attempt, result, next } => {
                self.settled(attempt, result, next, &mut effects)
            }
            Event::Beat(result) => self.beaten(result),
            Event::Housekept(result) => {
                self.housekeeping = false;
                match result {
                    Ok(_) => self.redis = Ok(()),
                    Err(error) => self.redis_failed(&error),
                }
            }
            Event::Renderer(state) => {
                self.renderer = state;
                self.claim(&mut effects);
            }
            Event::Counted(result) => match result {
                Ok(counts) => self.counts = Some(counts),
                Err(error) => self.redis_failed(&error),
            },
            Event::Measured(bytes) => self.governor.note_used(bytes),
            Event::Tick => self.tick(&mut effects),
            Event::Stop(stop) => self.stop(stop, &mut effects),
            Event::DrainTimeout => self.stop(Stop::Abort, &mut effects),
        }
        self.finish_if_empty(&mut effects);
        effects
    }

    fn inbound(&mut self, inbound: Inbound, effects: &mut Vec<Effect>) {
        match inbound {
            Inbound::Element { inbox, element, done } => {
                let permit = self.permit();
                self.pending += 1;
                if permit.is_some() {
                    self.claiming += 1;
                }
                effects.push(Effect::Offer { inbox, element, done, permit });
            }
            Inbound::Bell => self.claim(effects),
            Inbound::Control(Control::Drain) => self.stop(Stop::Drain, effects),
            Inbound::Control(Control::Scale { slots }) => {
                self.governor.scale(slots);
                tracing::info!(slots = self.governor.slots(), "scaled");
                self.claim(effects);
            }
            Inbound::BadControl(why) => {
                tracing::warn!(%why, "a command on this worker's control list could not be read and was dropped");
            }
            Inbound::Down(error) => self.redis_failed(&error),
            Inbound::Up => {
                tracing::info!("redis is back");
                self.redis = Ok(());
                self.claim(effects);
            }
        }
    }

    /// One claim at a time asks for more; each that succeeds asks again.
    fn claim(&mut self, effects: &mut Vec<Effect>) {
        if self.claiming == 0
            && let Some(permit) = self.permit()
        {
            self.pending += 1;
            self.claiming += 1;
            effects.push(Effect::Claim { permit });
        }
    }

    fn run(&mut self, work: Work, permit: Permit, effects: &mut Vec<Effect>) {
        let attempt = self.next_id;
        self.next_id += 1;
        let cancel = CancellationToken::new();
        if self.phase >= Phase::Aborting {
            cancel.cancel();
        }
        let running = Attempt {
            name: work.claimed.lease.name().clone(),
            token: work.claimed.lease.token().to_owned(),
            cancel: cancel.clone(),
            permit,
        };
        self.attempts.insert(attempt, running);
        effects.push(Effect::Run { attempt, work: Box::new(work), cancel });
    }

    fn settled(
        &mut self,
        attempt: AttemptId,
        result: Result<Settled, QueueError>,
        next: Option<Work>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(ended) = self.attempts.remove(&attempt) else { return };
        match result {
            Ok(Settled::Accepted) => self.redis = Ok(()),
            Ok(Settled::Stale) => {
                self.redis = Ok(());
                self.totals.lost += 1;
            }
            Err(error) => {
                self.totals.lost += 1;
                self.redis_failed(&error);
            }
        }
        match next {
            Some(work) => self.run(work, ended.permit, effects),
            None => drop(ended.permit),
        }
        self.claim_after_settling(effects);
    }

    /// A settlement that claimed has looked already; one that did not (retry,
    /// release, a failed call) leaves room that somebody has to fill.
    fn claim_after_settling(&mut self, effects: &mut Vec<Effect>) {
        if self.attempts.is_empty() || self.has_room() {
            self.claim(effects);
        }
    }

    fn beaten(&mut self, result: Result<Vec<Token>, QueueError>) {
        self.beating = false;
        match result {
            Ok(lost) => {
                self.redis = Ok(());
                for attempt in
                    self.attempts.values().filter(|attempt| lost.contains(&attempt.token))
                {
                    tracing::warn!(job = %attempt.name, "the lease is lost: the render stops and writes nothing");
                    attempt.cancel.cancel();
                }
            }
            Err(error) => self.redis_failed(&error),
        }
    }

    /// The heartbeat, on its own timer.
    pub fn beat(&mut self) -> Option<Effect> {
        if self.beating || self.phase == Phase::Stopped {
            return None;
        }
        self.beating = true;
        let leases = self.attempts.values().map(|a| (a.name.clone(), a.token.clone())).collect();
        Some(Effect::Beat(leases))
    }

    fn tick(&mut self, effects: &mut Vec<Effect>) {
        if !self.housekeeping && self.phase <= Phase::Draining {
            self.housekeeping = true;
            effects.push(Effect::Housekeep);
        }
        effects.push(Effect::Measure);
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks % TICKS_PER_COUNT == 1 {
            effects.push(Effect::Count);
        }
        // Bells are hints, this poll is the truth.
        self.claim(effects);
    }

    fn stop(&mut self, stop: Stop, effects: &mut Vec<Effect>) {
        if self.phase == Phase::Running {
            self.phase = Phase::Draining;
            tracing::info!(
                running = self.attempts.len(),
                "draining: what runs may finish, nothing new is taken"
            );
            effects.push(Effect::StopIntake);
            effects.push(Effect::StartDrainTimer);
        }
        if stop == Stop::Abort && self.phase == Phase::Draining {
            self.phase = Phase::Aborting;
            tracing::warn!(
                running = self.attempts.len(),
                "aborting: what runs is released to other workers"
            );
            for attempt in self.attempts.values() {
                attempt.cancel.cancel();
            }
        }
    }

    fn finish_if_empty(&mut self, effects: &mut Vec<Effect>) {
        let ending = self.phase == Phase::Draining || self.phase == Phase::Aborting;
        if ending && self.attempts.is_empty() && self.pending == 0 {
            self.phase = Phase::Stopped;
            effects.push(Effect::Finish);
        }
    }

    fn redis_failed(&mut self, error: &QueueError) {
        crate::metrics::redis_failed(error.kind());
        if self.redis.is_ok() {
            let why = crate::worker::chain(error);
            tracing::warn!(error = %why, remedy = error.remedy(), "redis does not answer: claims pause");
            self.redis = Err(why);
        }
    }

    fn count(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::End(ending) if ending.status == crate::job::Status::Done => {
                self.totals.done += 1
            }
            Verdict::End(_) => self.totals.failed += 1,
            Verdict::Retry { counted: false, .. } if self.phase >= Phase::Aborting => {
                self.totals.released += 1
            }
            Verdict::Retry { .. } => self.totals.retried += 1,
        }
    }
}

#[cfg(test)]
#[path = "dispatcher_tests.rs"]
mod tests;
