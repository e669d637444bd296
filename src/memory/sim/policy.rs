//! Who decides in the simulation: the governor's core as it is, the same with a
//! flaw that the simulation has to catch, or one who knows the future.

use std::time::Duration;

use super::super::control::{Control, Order};
use super::super::ladder::Pressure;
use super::super::terms::{ContextId, JobId, Left, Request, Sample, Wait};
use super::queue::Waiting;
use super::time;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// None: the governor as it is.
    None,
    /// A job's memory counts as free as soon as the job has ended or was killed.
    CreditsEarly,
    /// Everything is given away.
    NoReserve,
    /// Only what is free now counts, not what running jobs may still take.
    NoDebits,
    /// Kills nothing.
    NeverKills,
    /// Knows every peak; memory comes back at once.
    Clairvoyant,
}

/// The processes as they were read.
pub(super) struct Seen {
    pub(super) at: Duration,
    pub(super) running: Vec<(JobId, u64)>,
    pub(super) idle: Vec<(ContextId, u64)>,
}

/// What only a clairvoyant knows.
pub(super) struct Clairvoyance {
    pub(super) free: u64,
    pub(super) promised: u64,
    pub(super) peak: u64,
}

pub(super) enum Answer {
    In,
    Wait { orders: Vec<Order>, stop: bool, next: bool },
}

pub(super) struct Tactics {
    flaw: Flaw,
    control: Control,
    /// Free and own memory as last sampled, for the flaws that forge samples.
    last: (Duration, u64, u64),
}

impl Tactics {
    pub(super) fn new(flaw: Flaw, control: Control) -> Self {
        Self { flaw, control, last: (Duration::ZERO, 0, 0) }
    }

    pub(super) fn keeps_warm(&self) -> bool {
        self.flaw != Flaw::Clairvoyant
    }

    pub(super) fn pressure(&self) -> Pressure {
        self.control.standing().pressure
    }

    pub(super) fn sample(&mut self, seen: &Seen, free: u64, own: u64) -> Vec<Order> {
        if self.flaw == Flaw::Clairvoyant {
            return Vec::new();
        }
        self.last = (seen.at, free, own);
        let mut orders = self.forge(seen, free, own);
        if self.flaw == Flaw::NeverKills {
            orders.retain(|order| !matches!(order, Order::Kill(_)));
        }
        orders
    }

    fn forge(&mut self, seen: &Seen, free: u64, own: u64) -> Vec<Order> {
        let sample = Sample { at: seen.at, free, own, running: &seen.running, idle: &seen.idle };
        self.control.sample(&sample, None)
    }

    pub(super) fn release(&mut self, job: JobId, left: Left, peak: u64, now: Duration) {
        self.control.release(job, left, Some(peak), now);
        if self.flaw == Flaw::CreditsEarly {
            let (at, free, own) = self.last;
            self.last = (at, free + peak, own.saturating_sub(peak));
            self.control.gone(job, now);
            let seen = Seen { at: now, running: Vec::new(), idle: Vec::new() };
            self.forge(&seen, free + peak, own.saturating_sub(peak));
        }
    }

    pub(super) fn gone(&mut self, job: JobId, now: Duration) {
        self.control.gone(job, now);
    }

    pub(super) fn admit(
        &mut self,
        waiting: &Waiting,
        warm: Option<ContextId>,
        truth: &Clairvoyance,
        now: u64,
    ) -> Answer {
        if self.flaw == Flaw::Clairvoyant {
            let fits = truth.promised + truth.peak <= truth.free;
            let wait = Answer::Wait { orders: Vec::new(), stop: false, next: false };
            return if fits { Answer::In } else { wait };
        }
        let request = Request {
            job: super::id(waiting.job),
            predicted: if self.flaw == Flaw::NoDebits { 0 } else { waiting.predicted },
            warm,
            aside: 0,
            alone: waiting.alone,
            waited: time(now - waiting.since.unwrap_or(now)),
        };
        match self.control.admit(&request, time(now)) {
            Ok(_) => Answer::In,
            Err(wait) => {
                let orders = self.control.make_room(&wait, warm, time(now));
                let stop = matches!(wait, Wait::Slots { .. } | Wait::Pressure(_) | Wait::Alone(_));
                let next = matches!(wait, Wait::Room { next: true, .. } | Wait::Others(_));
                Answer::Wait { orders, stop, next }
            }
        }
    }
}
