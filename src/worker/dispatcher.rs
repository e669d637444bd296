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
//!   permit, Redis answers, the renderer is ready and nothing runs alone.
//! * Draining: nothing is taken or claimed; what runs may finish.
//! * Aborting: what runs is cancelled and released.
//!
//! A permit belongs to one of: an offer or claim under way, or an attempt. Its
//! number is the number of jobs that this worker can hold.
//!
//! An attempt runs, or is parked: a job that was there when workers or browsers
//! died runs alone, so it waits, under its lease, until nothing else runs.
//! An attempt that waits for memory takes no slot: others go by meanwhile, up to
//! a bound. Its permit is the right to hold the job, not to render.
//! With more than one slot, one is kept from bulk jobs, and so is one place among
//! those for jobs that wait for memory: somebody who waits never waits for a batch.

use std::collections::BTreeMap;

use super::event::{AttemptId, Bulk, Effect, Event, Halt, Outcome, Stop, Verdict, Why, Work};
use super::snapshot::{Phase, Totals};
use crate::job::{Name, Priority};
use crate::memory::{Governor, Permit};
use crate::queue::{
    Claimed, Control, Counts, Housekept, Inbound, QueueError, Renewed, Room, Settled,
};

/// A job that was there so often when a worker or a browser died runs alone.
const ALONE_AFTER: u32 = 2;
/// The queue is counted every so many seconds, for status and metrics.
const TICKS_PER_COUNT: u32 = 5;

struct Attempt {
    name: Name,
    token: String,
    halt: Halt,
    permit: Permit,
    /// Whether it takes one of the slots that bulk may have.
    bulk: bool,
    /// Whether nothing may run beside it.
    alone: bool,
    /// Its work, while it waits for the others to end.
    parked: Option<Box<Work>>,
    /// Whether its settlement looks for the next job, and if so, for a bulk job too.
    looks: Option<Bulk>,
}

/// See the module.
pub struct Dispatcher {
    governor: Governor,
    phase: Phase,
    attempts: BTreeMap<AttemptId, Attempt>,
    next_id: AttemptId,
    /// Offers, claims and other calls under way, which the end waits for.
    pending: usize,
    /// Claims under way, of these, and those of them that may bring a bulk job.
    claiming: usize,
    claiming_bulk: usize,
    /// Whether a job was admitted, or a bell rang, since the last claim began.
    unclaimed: bool,
    beating: bool,
    housekeeping: bool,
    redis: Result<(), String>,
    /// Of what kind the last failure was that was told.
    redis_kind: &'static str,
    /// Why no job is started although Redis answers.
    hindrance: Option<String>,
    renderer: Result<(), String>,
    totals: Totals,
    counts: Option<Counts>,
    ticks: u32,
}

impl Dispatcher {
    /// A worker that has not begun: its renderer is not ready yet.
    #[must_use]
    pub fn new(governor: Governor) -> Self {
        Self {
            governor,
            phase: Phase::Running,
            attempts: BTreeMap::new(),
            next_id: 0,
            pending: 0,
            claiming: 0,
            claiming_bulk: 0,
            unclaimed: false,
            beating: false,
            housekeeping: false,
            redis: Ok(()),
            redis_kind: "",
            hindrance: None,
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

    /// How many attempts there are, those included that wait to run alone.
    #[must_use]
    pub fn running(&self) -> usize {
        self.attempts.len()
    }

    /// Whether Redis answers, or why not.
    pub fn redis(&self) -> &Result<(), String> {
        &self.redis
    }

    /// Why no job is started although Redis answers, if so.
    pub fn hindrance(&self) -> Option<&str> {
        self.hindrance.as_deref()
    }

    /// Whether the renderer is ready, or why not.
    pub fn renderer(&self) -> &Result<(), String> {
        &self.renderer
    }

    /// Which bells matter: those of jobs that could be claimed now.
    #[must_use]
    pub fn room(&self) -> Room {
        let interactive = self.has_room();
        Room { interactive, bulk: interactive && self.bulk_fits(None) }
    }

    fn has_room(&self) -> bool {
        let most = self.governor.slots() + self.governor.waiting();
        self.may_claim() && self.attempts.len() + self.claiming < most
    }

    fn may_claim(&self) -> bool {
        self.phase == Phase::Running
            && self.redis.is_ok()
            && self.renderer.is_ok()
            && self.hindrance.is_none()
            && !self.attempts.values().any(|attempt| attempt.alone)
    }

    /// Whether one more bulk job leaves a slot for an interactive one; `ending`
    /// is an attempt whose slot becomes free. What waits for memory takes none.
    fn bulk_fits(&self, ending: Option<AttemptId>) -> bool {
        let slots = self.governor.slots();
        let held = self.attempts.iter().filter(|(id, a)| a.bulk && Some(**id) != ending).count();
        let held = held.saturating_sub(self.governor.waiting_bulk());
        // Nor may what waits fill all places for those that wait.
        let held = held + self.governor.waiting_beyond();
        slots <= 1 || held + self.claiming_bulk < slots - 1
    }

    fn permit(&self) -> Option<Permit> {
        if self.may_claim() { self.governor.admit().ok() } else { None }
    }

    /// Takes note of a call that may bring a job.
    fn claim_begins(&mut self) -> Bulk {
        let bulk = self.bulk_fits(None);
        self.claiming += 1;
        self.claiming_bulk += usize::from(bulk);
        bulk
    }

    fn claim_ended(&mut self, bulk: Bulk) {
        self.claiming -= 1;
        self.claiming_bulk -= usize::from(bulk);
    }

    /// Takes one event, decides, and says what to do.
    pub fn handle(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Inbound(inbound) => self.inbound(inbound, &mut effects),
            Event::Offered { permit, bulk, claimed, failed } => {
                self.pending -= 1;
                if permit.is_some() {
                    self.claim_ended(bulk);
                }
                match failed {
                    Some(error) => self.redis_failed(&error),
                    None => self.redis = Ok(()),
                }
                match (permit, claimed) {
                    (Some(permit), Some(work)) => self.run(work, permit, &mut effects),
                    (Some(_), None) => {}
                    // All slots were taken when it came; one may be free by now, and
                    // whoever settled meanwhile looked before this job was there.
                    (None, _) => self.unclaimed = true,
                }
            }
            Event::Claimed { permit, bulk, result } => {
                self.pending -= 1;
                self.claim_ended(bulk);
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
                // A job that ran alone keeps the door closed until it is settled.
                let next = self.may_claim() && self.governor.may_continue();
                let claim_next = next.then(|| self.bulk_fits(Some(attempt)));
                if let (Some(bulk), Some(ended)) = (claim_next, self.attempts.get_mut(&attempt)) {
                    ended.bulk = bulk;
                    ended.looks = matches!(verdict, Verdict::End(..)).then_some(bulk);
                }
                effects.push(Effect::Settle { attempt, lease, verdict, claim_next });
            }
            Event::Settled { attempt, outcome, result, next } => {
                self.settled(attempt, outcome, result, next, &mut effects);
            }
            Event::Beat(result) => self.beaten(result, &mut effects),
            Event::Housekept(result) => self.housekept(result, &mut effects),
            Event::Expired => self.pending -= 1,
            Event::Renderer(state) => {
                self.renderer = state;
                self.claim(&mut effects);
            }
            Event::Counted(result) => match result {
                Ok(counts) => self.counts = Some(counts),
                Err(error) => self.redis_failed(&error),
            },
            Event::Measured(bytes) => self.governor.note_used(bytes),
            Event::Room => self.claim(&mut effects),
            Event::Tick => self.tick(&mut effects),
            Event::Stop(stop) => self.stop(stop, &mut effects),
            Event::DrainTimeout => self.stop(Stop::Abort, &mut effects),
        }
        if self.unclaimed {
            self.claim(&mut effects);
        }
        self.finish_if_empty(&mut effects);
        effects
    }

    fn inbound(&mut self, inbound: Inbound, effects: &mut Vec<Effect>) {
        match inbound {
            Inbound::Element { inbox, turn, element, done } => {
                let permit = self.permit();
                self.pending += 1;
                let bulk = permit.is_some() && self.claim_begins();
                effects.push(Effect::Offer { inbox, turn, element, done, permit, bulk });
            }
            Inbound::Bell => {
                // A claim under way may have looked before the bell rang: ask again after it.
                self.unclaimed = true;
                self.claim(effects);
            }
            Inbound::Control(control) => self.control(control, effects),
            Inbound::BadControl(why) => {
                tracing::warn!(%why, "a command on this worker's control list could not be read and was dropped");
            }
            Inbound::Down(error) => self.redis_failed(&error),
            Inbound::Up => {
                tracing::info!("redis is back");
                self.redis = Ok(());
                // Leases may be close to their end: first of all, keep them.
                effects.extend(self.beat());
                self.claim(effects);
            }
        }
    }

    fn control(&mut self, control: Control, effects: &mut Vec<Effect>) {
        match control {
            Control::Drain => self.stop(Stop::Drain, effects),
            Control::Scale { slots } => {
                self.governor.scale(slots);
                tracing::info!(slots = self.governor.slots(), "scaled");
                self.claim(effects);
                effects.extend(self.beat());
            }
            Control::Cancel { job, token } => {
                let ours = self.attempts.iter().find(|(_, attempt)| attempt.token == token);
                match ours.map(|(id, _)| *id) {
                    Some(id) => {
                        tracing::info!(%job, "cancelled: the render stops");
                        self.halt(id, Why::Cancelled, effects);
                    }
                    None => tracing::debug!(%job, "was to be cancelled, and has ended"),
                }
            }
            Control::Set { key, value } => {
                effects.push(Effect::Set { key, value });
                // Who changed it will ask what is in force.
                effects.extend(self.beat());
            }
        }
    }

    /// One claim at a time asks for more; each that succeeds asks again.
    fn claim(&mut self, effects: &mut Vec<Effect>) {
        if self.claiming == 0
            && let Some(permit) = self.permit()
        {
            self.pending += 1;
            self.unclaimed = false;
            let bulk = self.claim_begins();
            effects.push(Effect::Claim { permit, bulk });
        }
    }

    fn run(&mut self, work: Work, permit: Permit, effects: &mut Vec<Effect>) {
        let attempt = self.next_id;
        self.next_id += 1;
        let halt = Halt::default();
        let work = Box::new(work);
        let alone = needs_to_be_alone(&work.claimed);
        let mut running = Attempt {
            name: work.claimed.lease.name().clone(),
            token: work.claimed.lease.token().to_owned(),
            halt: halt.clone(),
            permit,
            bulk: work.claimed.priority == Priority::Bulk,
            alone,
            parked: None,
            looks: None,
        };
        if self.phase >= Phase::Draining {
            halt.hold();
        }
        if self.phase >= Phase::Aborting {
            halt.now(Why::Stopping);
        } else if work.claimed.cancelled {
            halt.now(Why::Cancelled);
        }
        if (alone && !self.attempts.is_empty() || self.is_alone()) && halt.why().is_none() {
            running.parked = Some(work);
        } else {
            effects.push(Effect::Run { attempt, work, halt });
        }
        self.attempts.insert(attempt, running);
    }

    /// Whether something runs that nothing may run beside.
    fn is_alone(&self) -> bool {
        self.attempts.values().any(|attempt| attempt.alone && attempt.parked.is_none())
    }

    /// Starts what waited for the others to end: one that must be alone, or all
    /// that waited for such a one.
    fn start_parked(&mut self, effects: &mut Vec<Effect>) {
        let runs = |attempt: &Attempt| attempt.parked.is_none();
        while let Some((id, first)) = self.attempts.iter().find(|(_, a)| a.parked.is_some()) {
            let (id, alone) = (*id, first.alone);
            if self.is_alone() || alone && self.attempts.values().any(runs) {
                return;
            }
            self.unpark(id, effects);
        }
    }

    fn unpark(&mut self, id: AttemptId, effects: &mut Vec<Effect>) {
        if let Some(attempt) = self.attempts.get_mut(&id)
            && let Some(work) = attempt.parked.take()
        {
            effects.push(Effect::Run { attempt: id, work, halt: attempt.halt.clone() });
        }
    }

    /// Stops an attempt; a parked one ends as soon as it begins.
    fn halt(&mut self, id: AttemptId, why: Why, effects: &mut Vec<Effect>) {
        if let Some(attempt) = self.attempts.get(&id) {
            attempt.halt.now(why);
            self.unpark(id, effects);
        }
    }

    fn settled(
        &mut self,
        attempt: AttemptId,
        outcome: Outcome,
        result: Result<Settled, QueueError>,
        next: Option<Work>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(ended) = self.attempts.remove(&attempt) else { return };
        let looked = if result.is_ok() { ended.looks } else { None };
        let found_nothing = looked.filter(|_| next.is_none());
        match result {
            Ok(Settled::Accepted) => {
                self.redis = Ok(());
                self.count(outcome);
            }
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
        self.start_parked(effects);
        // One that did not look for more (a failure, a release, a failed call), or that
        // found something, leaves room that somebody has to fill.
        let nothing_more = match found_nothing {
            Some(bulk) => bulk || !self.bulk_fits(None),
            None => false,
        };
        let worth_it = !nothing_more || self.unclaimed;
        if worth_it && (self.attempts.is_empty() || self.has_room()) {
            self.claim(effects);
        }
    }

    fn beaten(&mut self, result: Result<Renewed, QueueError>, effects: &mut Vec<Effect>) {
        self.beating = false;
        let renewed = match result {
            Ok(renewed) => renewed,
            Err(error) => return self.redis_failed(&error),
        };
        self.redis = Ok(());
        let why = |token: &String| {
            let lost = renewed.lost.contains(token).then_some(Why::Lost);
            lost.or_else(|| renewed.cancelled.contains(token).then_some(Why::Cancelled))
        };
        let halted: Vec<_> =
            self.attempts.iter().filter_map(|(id, a)| Some((*id, why(&a.token)?))).collect();
        for (id, why) in halted {
            if why == Why::Lost
                && let Some(attempt) = self.attempts.get(&id)
            {
                tracing::warn!(job = %attempt.name, "the lease is lost: the render stops and writes nothing");
            }
            self.halt(id, why, effects);
        }
    }

    fn housekept(&mut self, result: Result<Housekept, QueueError>, effects: &mut Vec<Effect>) {
        self.housekeeping = false;
        match result {
            Ok(mut kept) => {
                self.redis = Ok(());
                let hindrance = kept.hindrance();
                if self.hindrance.is_none()
                    && let Some(why) = &hindrance
                {
                    tracing::warn!(%why, "no job is started");
                }
                let resumed = self.hindrance.is_some() && hindrance.is_none();
                self.hindrance = hindrance;
                if !kept.overdue.is_empty() {
                    self.pending += 1;
                    effects.push(Effect::Expire(std::mem::take(&mut kept.overdue)));
                }
                if resumed {
                    tracing::info!("jobs are started again");
                    self.claim(effects);
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
            effects.push(Effect::Housekeep { expire: self.phase == Phase::Running });
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
            // What waits for memory has not begun.
            self.attempts.values().for_each(|attempt| attempt.halt.hold());
            effects.push(Effect::StopIntake);
            effects.push(Effect::StartDrainTimer);
        }
        if stop == Stop::Abort && self.phase == Phase::Draining {
            self.phase = Phase::Aborting;
            tracing::warn!(
                running = self.attempts.len(),
                "aborting: what runs is released to other workers"
            );
            for id in self.attempts.keys().copied().collect::<Vec<_>>() {
                self.halt(id, Why::Stopping, effects);
            }
        }
    }

    fn finish_if_empty(&mut self, effects: &mut Vec<Effect>) {
        let ending = self.phase == Phase::Draining || self.phase == Phase::Aborting;
        // What housekeeping leased has to be ended first.
        let busy = self.pending > 0 || self.housekeeping;
        if ending && self.attempts.is_empty() && !busy {
            self.phase = Phase::Stopped;
            effects.push(Effect::Finish);
        }
    }

    fn redis_failed(&mut self, error: &QueueError) {
        crate::metrics::redis_failed(error.kind());
        // Down first, then loading, then full: each is told once, and the last is shown.
        if self.redis.is_ok() || self.redis_kind != error.kind() {
            self.redis_kind = error.kind();
            let why = crate::worker::chain(error);
            tracing::warn!(error = %why, remedy = error.remedy(), "redis does not answer: claims pause");
            self.redis = Err(why);
        }
    }

    fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Done => self.totals.done += 1,
            Outcome::Failed => self.totals.failed += 1,
            Outcome::Retried => self.totals.retried += 1,
            // A browser died under it, or its document could not be read.
            Outcome::Released if self.phase < Phase::Aborting => self.totals.retried += 1,
            Outcome::Released => self.totals.released += 1,
        }
    }
}

/// Whether nothing may run beside this job. One that is ended unrendered needs no care.
fn needs_to_be_alone(claimed: &Claimed) -> bool {
    claimed.crashes >= ALONE_AFTER && !claimed.cancelled && !claimed.expired
}

#[cfg(test)]
#[path = "dispatcher_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "alone_tests.rs"]
mod alone_tests;
