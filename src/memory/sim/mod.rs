//! A simulated machine under the governor's pure core: renderers that ramp up,
//! neighbours that come and go, samples that are late, kills that take time.
//!
//! Virtual time in steps of [`STEP`] milliseconds. Nothing here is measured: the
//! shapes are those of `fixtures/README.md`'s documents, the delays are the
//! longest that the governor's constants allow for.
//!
//! - A renderer grows towards its job's peak, by at most [`FASTEST`] times its
//!   share of the cores. After its job it keeps part of it until it is trimmed.
//! - Every 25 ms the processes are read; free memory one step later; then the
//!   governor sees both.
//! - A kill stops growth after 5 to 25 ms, and the memory comes back evenly
//!   within 100 ms after that; closing an idle context takes the same.

mod neighbour;
mod policy;
mod queue;
mod scenario;
mod tests;

use std::time::Duration;

use super::control::{Control, Order, Policy};
use super::ladder::Pressure;
use super::reserve::FASTEST;
use super::terms::{Bounds, ContextId, JobId, Kill, Left, Next};
use policy::{Seen, Tactics};
use queue::Queue;
use scenario::{End, Job, Outcome, Scenario};

const MIB: u64 = 1 << 20;
/// Milliseconds between two states of the world.
const STEP: u64 = 5;
const SAMPLE_EVERY: u64 = 25;
const KILL_TAKES: u64 = 25;
const BACK_TAKES: u64 = 100;
/// Browser, GPU, network and the worker.
const FIXED: u64 = 170 * MIB;
/// A renderer before its first document.
const FRESH: u64 = 25 * MIB;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle { trimmed_at: Option<u64> },
    Busy { job: usize, done: u64, from: u64, dies_at: Option<u64>, recycle: bool },
    Closing { from: u64, until: u64, left: u64, job: Option<usize> },
}

#[derive(Debug, Clone, Copy)]
struct Renderer {
    context: ContextId,
    tenant: u8,
    used: u64,
    state: State,
}

struct World<'a> {
    scenario: &'a Scenario,
    now: u64,
    random: u64,
    renderers: Vec<Renderer>,
    queue: Queue,
    tactics: Tactics,
    contexts: u64,
    /// The processes as they were read one step ago.
    read: Option<Seen>,
    outcome: Outcome,
}

fn time(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Runs a scenario to its end.
fn run(scenario: &Scenario, flaw: policy::Flaw) -> Outcome {
    let generous = flaw == policy::Flaw::NoReserve;
    let policy = Policy {
        bounds: Bounds { budget: scenario.budget, kept: 0 },
        floor: if generous { 0 } else { scenario.floor },
        cores: scenario.cores,
        most: scenario.most,
        reaction: if generous { Duration::ZERO } else { time(SAMPLE_EVERY + KILL_TAKES) },
        back: time(BACK_TAKES),
    };
    let mut world = World {
        scenario,
        now: 0,
        random: scenario.seed,
        renderers: Vec::new(),
        queue: Queue::new(&scenario.jobs),
        tactics: Tactics::new(flaw, Control::new(&policy)),
        contexts: 0,
        read: None,
        outcome: Outcome { ends: vec![None; scenario.jobs.len()], ..Outcome::default() },
    };
    while world.now < scenario.horizon && !world.outcome.all_ended() {
        world.step();
    }
    world.outcome
}

impl World<'_> {
    fn step(&mut self) {
        self.now += STEP;
        self.live();
        self.judge();
        if let Some(read) = self.read.take() {
            let orders = self.tactics.sample(&read, self.free(), self.own());
            self.obey(&orders);
        }
        if self.now.is_multiple_of(SAMPLE_EVERY) {
            self.read = Some(self.look());
        }
        self.start_jobs();
    }

    fn own(&self) -> u64 {
        FIXED + self.renderers.iter().map(|renderer| renderer.used).sum::<u64>()
    }

    fn others(&self) -> u64 {
        self.scenario.neighbours.iter().map(|neighbour| neighbour.at(self.now)).sum()
    }

    fn free(&self) -> u64 {
        self.scenario.capacity.saturating_sub(self.own() + self.others())
    }

    fn running(&self) -> impl Iterator<Item = usize> + '_ {
        self.renderers.iter().filter_map(|renderer| match renderer.state {
            State::Busy { job, dies_at: None, .. } => Some(job),
            _ => None,
        })
    }

    fn judge(&mut self) {
        let own = self.own();
        let beyond = (own + self.others()).saturating_sub(self.scenario.capacity);
        let budget = self.scenario.budget.map_or(0, |budget| own.saturating_sub(budget));
        self.outcome.overrun = self.outcome.overrun.max(beyond).max(budget);
        if self.tactics.pressure() > Pressure::Nominal {
            self.outcome.pressed += STEP;
        }
        let running = self.running().count();
        let second = (self.now / 1000) as usize;
        self.outcome.running.resize(second + 1, 0.0);
        self.outcome.running[second] += running as f64 * STEP as f64 / 1000.0;
        if !self.queue.is_empty() {
            let peaks: u64 = self.running().map(|job| self.scenario.jobs[job].peak).sum();
            self.outcome.held += u128::from(peaks * STEP);
            self.outcome.busy += STEP;
        }
    }

    fn look(&self) -> Seen {
        let mut seen = Seen { at: time(self.now), running: Vec::new(), idle: Vec::new() };
        for renderer in &self.renderers {
            match renderer.state {
                State::Busy { job, .. } => seen.running.push((id(job), renderer.used)),
                State::Closing { job: Some(job), .. } => {
                    seen.running.push((id(job), renderer.used));
                }
                State::Idle { .. } => seen.idle.push((renderer.context, renderer.used)),
                State::Closing { job: None, .. } => {}
            }
        }
        seen
    }

    /// Renderers grow, end their jobs, give memory back.
    fn live(&mut self) {
        let busy = self.renderers.iter().filter(|r| matches!(r.state, State::Busy { .. })).count();
        // In thousandths of a core.
        let share = (1000 * self.scenario.cores as u64 / busy.max(1) as u64).min(1000);
        let now = self.now;
        for at in 0..self.renderers.len() {
            let renderer = &mut self.renderers[at];
            match &mut renderer.state {
                State::Idle { trimmed_at } => {
                    if trimmed_at.is_some_and(|due| now >= due) {
                        renderer.used = renderer.used.min(FRESH);
                    }
                }
                State::Busy { job, done, from, dies_at, .. } => {
                    let work = self.scenario.jobs[*job];
                    *done += STEP * share;
                    let ramp = (work.work * 10 * work.ramp).max(1);
                    let target = *from
                        + (work.peak.saturating_sub(*from) as f64
                            * (*done as f64 / ramp as f64).min(1.0))
                            as u64;
                    let most = FASTEST / 1000 * STEP * share / 1000;
                    renderer.used += target.saturating_sub(renderer.used).min(most);
                    let dead = dies_at.is_some_and(|at| now >= at);
                    let ended = *done >= work.work * 1000 && renderer.used >= work.peak.max(*from);
                    if dead || ended {
                        self.leave(at, dead);
                    }
                }
                State::Closing { from, until, left, .. } => {
                    let whole = (*until - *from).max(STEP);
                    renderer.used = *left * until.saturating_sub(now) / whole;
                }
            }
        }
        self.bury();
    }

    fn leave(&mut self, at: usize, dead: bool) {
        let now = self.now;
        let takes = BACK_TAKES.min(STEP + self.renderers[at].used / MIB);
        let renderer = &mut self.renderers[at];
        let State::Busy { job, recycle, dies_at, .. } = renderer.state else { return };
        let fat = recycle || renderer.used > 2 * super::ladder::FAT;
        let closes = dies_at.is_some() || fat || !self.tactics.keeps_warm();
        let peak = renderer.used;
        renderer.state = if closes {
            State::Closing { from: now, until: now + takes, left: renderer.used, job: Some(job) }
        } else {
            // What a page stands at until its next collection.
            renderer.used = renderer.used.min(70 * MIB);
            State::Idle { trimmed_at: None }
        };
        let left = if closes { Left::Closing } else { Left::Warm(renderer.context) };
        self.tactics.release(id(job), left, peak, time(now));
        if !dead {
            // It may have been quicker than the kill.
            self.queue.settled(job);
            self.outcome.ends[job] = Some(End::Done);
            self.outcome.makespan = now;
        }
    }

    fn bury(&mut self) {
        let now = self.now;
        let tactics = &mut self.tactics;
        self.renderers.retain(|renderer| match renderer.state {
            State::Closing { until, job, .. } if now >= until => {
                if let Some(job) = job {
                    tactics.gone(id(job), time(now));
                }
                false
            }
            _ => true,
        });
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ (mixed >> 31)) % below.max(1)
    }

    fn obey(&mut self, orders: &[Order]) {
        for order in orders {
            match *order {
                Order::Kill(kill) => self.kill(&kill),
                Order::Close(context) => self.close(context),
                Order::Trim(context) => {
                    let due = self.now + 20;
                    if let Some(State::Idle { trimmed_at }) = self.state_of(context) {
                        *trimmed_at = Some(due);
                    }
                }
                Order::Recycle(job) => {
                    for renderer in &mut self.renderers {
                        if let State::Busy { job: running, recycle, .. } = &mut renderer.state {
                            *recycle |= id(*running) == job;
                        }
                    }
                }
            }
        }
    }

    fn state_of(&mut self, context: ContextId) -> Option<&mut State> {
        self.renderers.iter_mut().find(|r| r.context == context).map(|r| &mut r.state)
    }

    fn close(&mut self, context: ContextId) {
        let now = self.now;
        let found = self.renderers.iter_mut().find(|r| r.context == context);
        if let Some(renderer) = found.filter(|r| matches!(r.state, State::Idle { .. })) {
            let takes = BACK_TAKES.min(STEP + renderer.used / MIB);
            renderer.state =
                State::Closing { from: now, until: now + takes, left: renderer.used, job: None };
        }
    }

    fn kill(&mut self, kill: &Kill) {
        let due = self.now + STEP + self.random(KILL_TAKES - STEP);
        let mut found = None;
        for renderer in &mut self.renderers {
            if let State::Busy { job, dies_at, .. } = &mut renderer.state
                && id(*job) == kill.job
                && dies_at.is_none()
            {
                *dies_at = Some(due);
                found = Some(*job);
            }
        }
        let Some(job) = found else { return };
        match kill.next() {
            Next::Requeue | Next::Later => {
                self.outcome.squeezed += 1;
                self.queue.again(job, None);
            }
            Next::Alone { predicted } => {
                self.outcome.blamed += 1;
                self.queue.again(job, Some(predicted));
            }
            Next::Exceeded => {
                self.outcome.ends[job] = Some(End::Exceeded);
                self.outcome.makespan = self.now;
            }
        }
    }

    fn start_jobs(&mut self) {
        let mut at = 0;
        while let Some(waiting) = self.queue.peek(at) {
            let tenant = self.scenario.jobs[waiting.job].tenant;
            let dying = self.renderers.iter().any(|renderer| match renderer.state {
                State::Busy { job, .. } | State::Closing { job: Some(job), .. } => {
                    job == waiting.job
                }
                _ => false,
            });
            if dying {
                at += 1;
                continue;
            }
            let warm = self
                .renderers
                .iter()
                .find(|r| r.tenant == tenant && matches!(r.state, State::Idle { .. }))
                .map(|renderer| renderer.context);
            let clairvoyance = policy::Clairvoyance {
                free: self
                    .scenario
                    .capacity
                    .saturating_sub(FIXED + self.others() + self.scenario.floor + self.closing()),
                promised: self.running().map(|job| self.scenario.jobs[job].peak).sum(),
                peak: self.scenario.jobs[waiting.job].peak,
            };
            self.queue.asked(at, self.now);
            let asked = self.tactics.admit(&waiting, warm, &clairvoyance, self.now);
            match asked {
                policy::Answer::In => {
                    self.queue.take(at);
                    let waited = self.now - waiting.since.unwrap_or(self.now);
                    self.outcome.longest_wait = self.outcome.longest_wait.max(waited);
                    self.begin(waiting.job, tenant, warm);
                }
                policy::Answer::Wait { orders, stop, next } => {
                    self.obey(&orders);
                    if next {
                        self.queue.move_to_front(at);
                    }
                    if stop {
                        return;
                    }
                    at += 1;
                }
            }
        }
    }

    fn closing(&self) -> u64 {
        let closing = self.renderers.iter().filter(|r| matches!(r.state, State::Closing { .. }));
        closing.map(|renderer| renderer.used).sum()
    }

    fn begin(&mut self, job: usize, tenant: u8, warm: Option<ContextId>) {
        let busy = |from| State::Busy { job, done: 0, from, dies_at: None, recycle: false };
        if let Some(renderer) = self.renderers.iter_mut().find(|r| Some(r.context) == warm) {
            renderer.state = busy(renderer.used);
            return;
        }
        self.contexts += 1;
        let context = ContextId(self.contexts);
        self.renderers.push(Renderer { context, tenant, used: FRESH, state: busy(FRESH) });
    }
}

fn id(job: usize) -> JobId {
    JobId(job as u64)
}
