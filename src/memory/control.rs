//! The governor's decisions in one place: ledger, reserve, ladder and the
//! concurrency bound, driven by samples. Pure: no clock, no I/O, no lock.
//!
//! ```text
//!  sample ─▶ reserve learns ─▶ ledger credits, grants ─▶ ladder climbs ─▶ Orders
//!  admit  ─▶ slots? ─▶ pressure? ─▶ ledger: does it fit?                ─▶ Admitted | Wait
//! ```
//!
//! What it orders has to be done at once, and reported back: a killed job with
//! [`Control::release`] and [`Control::gone`], a closed context with nothing
//! (it is out of the ledger when it is ordered).

use std::time::Duration;

use super::concurrency::Concurrency;
use super::entry::signed;
use super::ladder::{FAT, Ladder, Pressure, Stalls};
use super::ledger::Ledger;
use super::reserve::Reserve;
use super::terms::{
    Admitted, Blame, Bounds, ContextId, Elsewhere, Fit, JobId, Kill, Left, Request, Sample, Wait,
};

/// What the operator and the machine set.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Budget, and what is kept for an embedded Redis.
    pub bounds: Bounds,
    /// What stays free for neighbours at least, in bytes.
    pub floor: u64,
    /// Cores that renderers can use.
    pub cores: usize,
    /// The most renders at once.
    pub most: usize,
    /// The longest time from one sample over the next to the end of a killed
    /// renderer's growth.
    pub reaction: Duration,
    /// The time in which a killed renderer's memory comes back.
    pub back: Duration,
}

/// What has to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Collect an idle context's garbage.
    Trim(ContextId),
    /// Close an idle context.
    Close(ContextId),
    /// Do not keep this job's renderer warm when the job ends.
    Recycle(JobId),
    /// Kill a job's renderer.
    Kill(Kill),
}

/// Memory as the governor sees it, in bytes: for operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Standing {
    /// How scarce memory is.
    pub pressure: Pressure,
    /// Whether the system waits for memory, by its own counters, whatever is free.
    pub stalled: bool,
    /// What can still be taken before any reserve; negative where the budget is overrun.
    pub free: i64,
    /// What stays free.
    pub reserve: u64,
    /// What running jobs may still take.
    pub outstanding: u64,
    /// What idle contexts hold.
    pub idle: u64,
    /// Jobs that render.
    pub running: usize,
    /// The most that may.
    pub slots: usize,
    /// What would be let in.
    pub fits: Fit,
    /// What other workers on this machine say of themselves.
    pub elsewhere: Elsewhere,
}

impl Standing {
    /// The same in the operator's terms, under a limit: a quarter of the reserve stands
    /// above the limit in the ledger's own figures. Both what is free and what is to stay
    /// free are less by what of it counts there now, so that they compare as they did.
    /// `used`: what worker and Chromium use; `kept`: what is kept for an embedded Redis.
    #[must_use]
    pub fn within(mut self, limit: u64, used: u64, kept: u64) -> Self {
        let left = signed(limit) - signed(used) - signed(kept);
        let above = self.free.saturating_sub(left).max(0);
        self.free -= above;
        self.reserve = self.reserve.saturating_sub(u64::try_from(above).unwrap_or(0));
        self.outstanding = self.outstanding.min(u64::try_from(self.free).unwrap_or(0));
        self
    }
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Control {
    back: Duration,
    ledger: Ledger,
    reserve: Reserve,
    ladder: Ladder,
    concurrency: Concurrency,
    /// Jobs of ours that took what made memory scarce.
    culprits: Vec<JobId>,
    /// Others did.
    others: bool,
    usual: Usual,
}

/// The most that one job could have had in the last five to ten minutes, for a second
/// at least: while a process ends its memory may be seen twice.
#[derive(Debug, Clone, Copy)]
struct Usual {
    second: Duration,
    /// The least of this second.
    least: u64,
    since: Duration,
    now: u64,
    before: u64,
}

impl Default for Usual {
    fn default() -> Self {
        Self { second: Duration::ZERO, least: u64::MAX, since: Duration::ZERO, now: 0, before: 0 }
    }
}

impl Usual {
    const SPAN: Duration = Duration::from_secs(300);
    const SECOND: Duration = Duration::from_secs(1);

    fn see(&mut self, whole: u64, at: Duration) {
        if at.saturating_sub(self.since) >= Self::SPAN {
            (self.since, self.before, self.now) = (at, self.now, 0);
        }
        if at.saturating_sub(self.second) >= Self::SECOND {
            let past = std::mem::replace(&mut self.least, u64::MAX);
            self.now = self.now.max(if past == u64::MAX { 0 } else { past });
            self.second = at;
        }
        self.least = self.least.min(whole);
    }

    fn most(&self) -> u64 {
        self.now.max(self.before)
    }
}

/// What a context that no job asked for may leave room for: itself, with what a
/// first print takes, and a receipt beside it.
pub(super) const SPARE: u64 = 192 << 20;

impl Control {
    /// Nothing is let in before the first sample.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        let reserve = Reserve::new(policy.floor, policy.cores, policy.reaction);
        Self {
            back: policy.back,
            ledger: Ledger::new(policy.bounds, reserve.lines(Duration::ZERO)),
            reserve,
            ladder: Ladder::new(),
            concurrency: Concurrency::new(policy.cores, policy.most),
            culprits: Vec::new(),
            others: false,
            usual: Usual::default(),
        }
    }

    /// Takes in a measurement and, where they were read, the kernel's counters.
    pub fn sample(&mut self, sample: &Sample<'_>, stalls: Option<Stalls>) -> Vec<Order> {
        self.learn(sample, Reserve::observe);
        self.decide(sample, stalls)
    }

    /// The same while a process's memory is on its way back: it is counted neither
    /// as free nor as used for a moment, and must not be taken for what others took.
    pub fn sample_unsettled(&mut self, sample: &Sample<'_>, stalls: Option<Stalls>) -> Vec<Order> {
        self.learn(sample, Reserve::observe_unsettled);
        self.decide(sample, stalls)
    }

    fn learn(&mut self, sample: &Sample<'_>, observe: fn(&mut Reserve, u64, u64, Duration)) {
        // What other workers take was promised, as what ours takes was.
        let Elsewhere { used, before, .. } = self.ledger.elsewhere();
        observe(&mut self.reserve, sample.free, sample.own.saturating_add(before), sample.at);
        // Another limit may be the tightest now, of which they use more or less.
        self.reserve.recount(before, used);
    }

    fn decide(&mut self, sample: &Sample<'_>, stalls: Option<Stalls>) -> Vec<Order> {
        let now = sample.at;
        self.ledger.set_lines(self.reserve.lines_beside(self.ledger.beyond_budget(), now));
        let mut orders: Vec<Order> =
            self.ledger.sample(sample, self.back).into_iter().map(Order::Kill).collect();
        self.usual.see(self.ledger.whole(), now);
        self.reserve.grew(self.ledger.fastest(), now);
        let lines = self.reserve.lines_beside(self.ledger.beyond_budget(), now);
        self.ledger.set_lines(lines);
        let back = !self.others && !self.culprits.iter().any(|job| self.ledger.knows(*job));
        self.ladder.is_ours(back && !self.culprits.is_empty());
        let relief = self.ladder.step(self.ledger.room(), lines, stalls, now);
        // Idle contexts before jobs: what they hold counts as coming back.
        if relief.close > 0 {
            let closed = self.ledger.to_close(relief.close, None, now);
            orders.extend(closed.into_iter().map(Order::Close));
        }
        if self.ledger.elsewhere().first {
            // A job of another worker is to have all the memory.
            let closed = self.ledger.to_close(u64::MAX, None, now);
            orders.extend(closed.into_iter().map(Order::Close));
        }
        if relief.kill {
            orders.extend(self.ledger.victims(self.back, now).into_iter().map(Order::Kill));
        }
        if relief.trim {
            orders.extend(self.ledger.to_trim().into_iter().map(Order::Trim));
        }
        if relief.recycle {
            orders.extend(self.ledger.fat(FAT).into_iter().map(Order::Recycle));
        }
        for order in &mut orders {
            if let Order::Kill(kill) = order {
                kill.usual = self.usual.most().max(kill.budget);
                kill.kept = kill.kept.saturating_add(lines.growth);
            }
        }
        self.blame(relief.pressure, &orders);
        orders
    }

    /// Keeps in mind who made memory scarce, as long as it is.
    fn blame(&mut self, pressure: Pressure, orders: &[Order]) {
        if pressure == Pressure::Nominal {
            self.culprits.clear();
            self.others = false;
            return;
        }
        for order in orders {
            match order {
                Order::Kill(kill) if kill.blame == Blame::Document => self.culprits.push(kill.job),
                Order::Kill(_) => self.others = true,
                Order::Trim(_) | Order::Close(_) | Order::Recycle(_) => {}
            }
        }
        for job in self.ledger.alone() {
            if !self.culprits.contains(&job) {
                self.culprits.push(job);
            }
        }
    }

    /// Lets a job in, or says what it waits for. After [`Wait::Room`],
    /// [`Self::make_room`] may help.
    ///
    /// # Errors
    /// Why it has to wait.
    pub fn admit(&mut self, request: &Request, now: Duration) -> Result<Admitted, Wait> {
        let running = self.ledger.running();
        let slots = self.concurrency.slots();
        if running >= slots {
            return Err(Wait::Slots { running, slots });
        }
        match self.ladder.pressure() {
            Pressure::Nominal => {}
            Pressure::Elevated if running == 0 => {}
            pressure => return Err(Wait::Pressure(pressure)),
        }
        self.ledger.admit(request, now)
    }

    /// Closes idle contexts for a job that waits for room, where that is enough
    /// or where nothing else can help it.
    pub fn make_room(
        &mut self,
        wait: &Wait,
        spared: Option<ContextId>,
        now: Duration,
    ) -> Vec<Order> {
        let Wait::Room { short, idle, next, .. } = *wait else { return Vec::new() };
        if short > idle && !next && self.ledger.running() > 0 {
            return Vec::new();
        }
        self.ledger.to_close(short, spared, now).into_iter().map(Order::Close).collect()
    }

    /// What a claim may bring, in bytes beyond an idle context's own.
    #[must_use]
    pub fn fits(&self) -> Fit {
        let running = self.ledger.running();
        let shut = match self.ladder.pressure() {
            Pressure::Nominal => false,
            Pressure::Elevated => running > 0,
            Pressure::Critical => true,
        };
        if shut || running >= self.concurrency.slots() {
            return Fit { now: 0, without_idle: 0 };
        }
        self.ledger.fits()
    }

    /// Whether a context may be opened that no job has asked for: with it there, a
    /// job must still fit.
    #[must_use]
    pub fn can_spare(&self) -> bool {
        self.ladder.pressure() == Pressure::Nominal && self.ledger.can_spare(SPARE)
    }

    /// A job ended; see [`Ledger::release`].
    pub fn release(
        &mut self,
        job: JobId,
        left: Left,
        seen: Option<u64>,
        now: Duration,
    ) -> Option<u64> {
        self.ledger.release(job, left, seen, now)
    }

    /// A job's renderer has ended.
    pub fn gone(&mut self, job: JobId, now: Duration) {
        self.ledger.gone(job, now);
    }

    /// A job waits no longer.
    pub fn withdraw(&mut self, job: JobId) {
        self.ledger.withdraw(job);
    }

    /// So much the worker may still take for jobs that have ended.
    pub fn set_aside(&mut self, bytes: u64) {
        self.ledger.set_aside(bytes);
    }

    /// A job's document is printed; see [`Ledger::printed`].
    pub fn printed(&mut self, job: JobId) {
        self.ledger.printed(job);
    }

    /// The most renders at once.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.concurrency.slots()
    }

    /// A job does not have the context that was kept for it; see [`Ledger::moved`].
    pub fn moved(&mut self, job: JobId) {
        self.ledger.moved(job);
    }

    /// A context is idle, and kept for nobody any more.
    pub fn opened(&mut self, context: ContextId, used: u64) {
        self.ledger.opened(context, used);
    }

    /// A context was made ready ahead of any job: the first to be closed.
    pub fn spare(&mut self, context: ContextId, used: u64) {
        self.ledger.spare(context, used);
    }

    /// An idle context died or was closed without an order.
    pub fn closed(&mut self, context: ContextId) {
        self.ledger.closed(context);
    }

    /// Notes what other workers on this machine say.
    pub fn set_elsewhere(&mut self, elsewhere: Elsewhere) {
        if elsewhere.among != self.ledger.elsewhere().among {
            self.reserve.begin_anew();
        }
        self.ledger.set_elsewhere(elsewhere);
    }

    /// What they said.
    #[must_use]
    pub fn elsewhere(&self) -> Elsewhere {
        self.ledger.elsewhere()
    }

    /// Whether other workers on this machine have to let nothing in now.
    #[must_use]
    pub fn is_first(&self, now: Duration) -> bool {
        self.ledger.is_first(now)
    }

    /// Jobs that render.
    #[must_use]
    pub fn running(&self) -> usize {
        self.ledger.running()
    }

    /// Whether nothing has to be decided for `unseen`, though what is free may have `fallen`
    /// by so much since the last sample: even if renderers grow on every core meanwhile,
    /// what is promised and what has to stay free is there.
    #[must_use]
    pub fn is_at_ease(&self, fallen: u64, unseen: Duration) -> bool {
        let most = self.reserve.surge(unseen).saturating_add(fallen);
        self.ladder.pressure() == Pressure::Nominal
            // They count on samples that are no older than what they owe.
            && self.ledger.elsewhere().workers == 0
            && self.ledger.alone().next().is_none()
            && self.ledger.can_spare(most)
    }

    /// Whether the last sample is older than `age`.
    #[must_use]
    pub fn is_stale(&self, age: Duration, now: Duration) -> bool {
        now.saturating_sub(self.ledger.sampled()) > age
    }

    /// What running jobs may still take: what other workers on this machine have to know
    /// of this one's promises. No more than there is for them: a job that runs alone is
    /// promised that, however much it was predicted to need.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        let there = u64::try_from(self.ledger.room()).unwrap_or(0);
        // What is overrun is a promise still.
        self.ledger.outstanding().min(there.max(1))
    }

    /// What one job could have at most, all else closed: the budget for verdicts.
    #[must_use]
    pub fn whole(&self) -> u64 {
        self.ledger.whole()
    }

    /// The most that one job could have had of late, or could have now.
    #[must_use]
    pub fn usual(&self) -> u64 {
        self.usual.most().max(self.whole())
    }

    /// Changes budget, floor or the most renders at once, while it runs.
    pub fn reconfigure(&mut self, bounds: Bounds, floor: u64, most: usize) {
        // What was had before is no measure of what the operator allows now.
        self.usual = Usual::default();
        self.ledger.set_bounds(bounds);
        self.reserve.set_floor(floor);
        self.concurrency.set_most(most);
    }

    /// A render took so long, told before its job is released; see [`Concurrency::ended`].
    pub fn took(&mut self, markup: u64, took: Duration, waiting: bool, now: Duration) {
        let running = self.ledger.running().max(1);
        self.concurrency.ended(markup, took, running, waiting, now);
    }

    /// Memory as it is seen now.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing {
            pressure: self.ladder.pressure(),
            stalled: self.ladder.is_stalled(),
            free: self.ledger.room(),
            reserve: self.ledger.lines().keep,
            outstanding: self.outstanding(),
            idle: self.ledger.idle_bytes(),
            running: self.ledger.running(),
            slots: self.concurrency.slots(),
            fits: self.fits(),
            elsewhere: self.ledger.elsewhere(),
        }
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
