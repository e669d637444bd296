//! The ledger: who was promised how much memory, and whether one more fits.
//! Pure: no clock, no I/O; what is measured comes in with [`Ledger::sample`].
//!
//! ```text
//!            admit              release(Warm)             a later sample
//!  (waiting) ─────▶ Running ───────────────▶ Returning ─────────────────▶ (credited)
//!                      │     release(Closing)     ▲            gone
//!                      ├──────────────────────────┤
//!                      └── killed ────────────────┘
//! ```
//!
//! A job is debited before it renders, with what its renderer may still grow:
//! its predicted footprint minus what that renderer was last seen to use. What
//! it uses already is gone from the free memory that was measured, and so
//! counts by itself. The debit ends only when the memory is accounted for: a
//! sample was begun after the release, or the renderer is known to be gone.
//! Until then a renderer may have grown unseen.
//!
//! What can go wrong, and what becomes of it:
//!
//! - a job outgrows its prediction: it is granted more while the hard line
//!   holds, else [`Ledger::sample`] says [`Kill`];
//! - a job is predicted larger than all there is: it runs alone, up to the hard
//!   line; beyond it, it is killed;
//! - others take memory that was promised: [`Ledger::victims`] names the
//!   youngest jobs, which are not to blame;
//! - a heavy job never fits because light ones slip by: once it has waited
//!   [`DOOR_AFTER`] it closes the door behind it;
//! - nothing runs and nothing fits: one job is let in all the same, above the
//!   hard line.

use std::time::Duration;

mod room;

use super::entry::{Entry, Phase, bytes_in, per_second, signed};
use super::terms::{
    Admitted, Blame, Bounds, ContextId, Elsewhere, JobId, Kill, Left, Lines, Request, Sample, Wait,
};

/// A job refused for so long closes the door: nothing else is let in before it.
pub const DOOR_AFTER: Duration = Duration::from_secs(5);
/// The door opens again when the job behind which it is closed has not asked for
/// so long: a job that was forgotten must not bring the worker to a stand.
pub const DOOR_HELD: Duration = Duration::from_secs(1);
/// A renderer that was to be closed is credited after so long even if nobody
/// said that it is gone.
pub const RETURN_PATIENCE: Duration = Duration::from_secs(5);

/// A job that outgrew its prediction is promised this part more than it uses.
const GRANT: u64 = 16;
/// Speeds are measured between samples at least so far apart.
const SPEED_OVER: Duration = Duration::from_millis(10);

#[derive(Debug, Clone, Copy)]
struct Idle {
    context: ContextId,
    used: u64,
    trimmed: bool,
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Ledger {
    bounds: Bounds,
    lines: Lines,
    free: u64,
    own: u64,
    sampled: Duration,
    /// What other workers on this machine promised.
    elsewhere: Elsewhere,
    /// What the worker holds for jobs that have ended.
    aside: u64,
    /// In the order of admission.
    entries: Vec<Entry>,
    /// Least recently used first.
    idle: Vec<Idle>,
    /// Idle contexts that were ordered to be closed: when, and what they held.
    closing: Vec<(Duration, u64)>,
    /// Who is next, and when it last asked.
    door: Option<(JobId, Duration)>,
}

impl Ledger {
    /// An empty ledger: nothing is let in before the first sample.
    #[must_use]
    pub fn new(bounds: Bounds, lines: Lines) -> Self {
        Self {
            bounds,
            lines,
            free: 0,
            own: 0,
            sampled: Duration::ZERO,
            elsewhere: Elsewhere::default(),
            aside: 0,
            entries: Vec::new(),
            idle: Vec::new(),
            closing: Vec::new(),
            door: None,
        }
    }

    /// Changes what the operator allows; acts from the next decision on.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// Changes what has to stay free.
    pub fn set_lines(&mut self, lines: Lines) {
        self.lines = lines;
    }

    /// Notes what other workers on this machine say.
    pub fn set_elsewhere(&mut self, elsewhere: Elsewhere) {
        self.elsewhere = elsewhere;
    }

    /// What other workers on this machine said.
    #[must_use]
    pub fn elsewhere(&self) -> Elsewhere {
        self.elsewhere
    }

    /// So much the worker may still take for jobs that have ended.
    pub fn set_aside(&mut self, bytes: u64) {
        self.aside = bytes;
    }

    /// A job's document is printed: what the worker still takes for it is told of otherwise.
    pub fn printed(&mut self, job: JobId) {
        self.entries.iter_mut().filter(|entry| entry.job == job).for_each(|entry| entry.aside = 0);
    }

    /// When the last sample began.
    #[must_use]
    pub fn sampled(&self) -> Duration {
        self.sampled
    }

    /// Whether other workers on this machine have to let nothing in now: a job of
    /// ours has all the memory, or is next.
    #[must_use]
    pub fn is_first(&self, now: Duration) -> bool {
        let alone = |e: &Entry| e.alone && !matches!(e.phase, Phase::Gone(_));
        let wants_all = self.behind(now).is_some() || self.entries.iter().any(alone);
        wants_all && !self.is_within_budget()
    }

    /// Whether a job has a debit still, or has just ended.
    #[must_use]
    pub fn knows(&self, job: JobId) -> bool {
        self.entries.iter().any(|entry| entry.job == job)
    }

    /// Jobs that run alone.
    pub fn alone(&self) -> impl Iterator<Item = JobId> + '_ {
        let alone = self.entries.iter().filter(|entry| entry.alone);
        alone.map(|entry| entry.job)
    }

    /// Whether the operator's budget is less than what is free: then it is the same to
    /// us how much others leave.
    fn is_within_budget(&self) -> bool {
        let within = |budget| signed(budget) - signed(self.own);
        let free = signed(self.free) - signed(self.elsewhere.promised);
        self.bounds.budget.is_some_and(|budget| within(budget) < free)
    }

    /// What has to stay free.
    #[must_use]
    pub fn lines(&self) -> Lines {
        self.lines
    }

    /// What can still be taken, before any reserve; negative where the budget is overrun.
    #[must_use]
    pub fn room(&self) -> i64 {
        let within =
            self.bounds.budget.map_or(i64::MAX, |budget| signed(budget) - signed(self.own));
        signed(self.free).min(within) - signed(self.bounds.kept)
    }

    /// The same without what other workers promised: nothing of ours is given up for
    /// promises, but nothing new is let in on them.
    fn unpromised(&self) -> i64 {
        let free = signed(self.free) - signed(self.elsewhere.promised);
        self.room().min(free - signed(self.bounds.kept))
    }

    /// How much more is free than the budget lets us take: what is kept free for
    /// others need not be kept within the budget as well.
    #[must_use]
    pub fn beyond_budget(&self) -> u64 {
        let within = |budget| signed(budget) - signed(self.own);
        let beyond = self.bounds.budget.map_or(0, |budget| signed(self.free) - within(budget));
        u64::try_from(beyond).unwrap_or(0)
    }

    /// What running and returning jobs may still take, and the worker for those that ended.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        self.entries.iter().map(Entry::debit).fold(self.aside, u64::saturating_add)
    }

    /// Jobs that render.
    #[must_use]
    pub fn running(&self) -> usize {
        self.entries.iter().filter(|entry| entry.phase == Phase::Running).count()
    }

    /// What idle contexts hold.
    #[must_use]
    pub fn idle_bytes(&self) -> u64 {
        self.idle.iter().map(|idle| idle.used).sum()
    }

    /// What one job could have at most if it were alone here, and on this machine, and
    /// no context idle.
    #[must_use]
    pub fn whole(&self) -> u64 {
        let held: u64 = self.entries.iter().map(|entry| entry.used).sum();
        let within = |budget| signed(budget) - signed(self.own);
        // What other workers use may come back to the machine, not to our budget.
        let free = signed(self.free) + signed(self.elsewhere.back);
        let most = free.min(self.bounds.budget.map_or(i64::MAX, within));
        let back = signed(self.idle_bytes() + held) - signed(self.bounds.kept);
        let all = most - signed(self.lines.hard) + back;
        u64::try_from(all).unwrap_or(0)
    }

    fn headroom(&self) -> i64 {
        self.unpromised() - signed(self.outstanding()) - signed(self.lines.keep)
    }

    /// Lets a job in and debits it, or says what it waits for.
    ///
    /// # Errors
    /// Why it has to wait.
    pub fn admit(&mut self, request: &Request, now: Duration) -> Result<Admitted, Wait> {
        if let Some(alone) =
            self.entries.iter().find(|entry| entry.alone && entry.phase == Phase::Running)
        {
            return Err(Wait::Alone(alone.job));
        }
        if let Some(first) = self.behind(now).filter(|first| *first != request.job) {
            return Err(Wait::Door(first));
        }
        if self.elsewhere.first {
            // Its own turn is not forgotten meanwhile; but a new one is not taken.
            if self.behind(now) == Some(request.job) {
                self.door = Some((request.job, now));
            }
            return Err(Wait::Elsewhere);
        }
        let base = request.warm.map_or(0, |context| self.footprint(context));
        let last = request.warm.and_then(|context| self.last_job_of(context));
        let granted = last.map_or(0, |entry| entry.granted).max(request.predicted);
        let needed = granted.saturating_sub(base).saturating_add(request.aside);
        let room = self.headroom() + signed(last.map_or(0, Entry::debit));
        let nothing_runs = self.nothing_runs();
        let fits = signed(needed) <= room;
        // Of two workers that begin at once neither would see the other run.
        let elsewhere = &self.elsewhere;
        let within = self.is_within_budget();
        let nobody_elsewhere = within || elsewhere.running == 0 && !elsewhere.busy;
        if request.alone && !(nothing_runs && nobody_elsewhere) {
            self.close_door(request, now);
            return Err(Wait::Others(self.entries.len() + self.elsewhere.running));
        }
        // A lone job that does not fit waits until the idle contexts are closed and
        // gone, here and elsewhere: what they hold is its best chance.
        let last_resort = nothing_runs
            && nobody_elsewhere
            && (within || elsewhere.idle == 0)
            && self.idle.iter().all(|idle| Some(idle.context) == request.warm)
            && self.closing() == 0
            && self.room() > signed(self.lines.hard);
        if !fits && !last_resort {
            let next = self.close_door(request, now);
            return Err(Wait::Room {
                needed,
                fits: u64::try_from(room).unwrap_or(0),
                short: u64::try_from(signed(needed) - room).unwrap_or(0),
                idle: self.idle_but(request.warm),
                next,
            });
        }
        let alone = request.alone || !fits;
        self.enter(request, base, granted.max(base), alone);
        Ok(Admitted { alone })
    }

    fn enter(&mut self, request: &Request, base: u64, granted: u64, alone: bool) {
        let above = u64::try_from(self.room() - signed(self.lines.hard)).unwrap_or(0);
        let budget = above + base;
        if let Some(context) = request.warm {
            self.idle.retain(|idle| idle.context != context);
            // The renderer's last job may have grown it unseen: its debit lives on in this one.
            self.entries.retain(|entry| !entry.left_warm(context));
        }
        self.withdraw(request.job);
        self.entries.push(Entry {
            job: request.job,
            predicted: request.predicted,
            granted,
            used: base,
            peak: base,
            speed: 0,
            aside: request.aside,
            seen: false,
            alone,
            budget,
            phase: Phase::Running,
        });
    }

    /// A job that waited long enough is next; says whether it is.
    fn close_door(&mut self, request: &Request, now: Duration) -> bool {
        let next = request.waited >= DOOR_AFTER || self.behind(now) == Some(request.job);
        if next {
            self.door = Some((request.job, now));
        }
        next
    }

    /// Behind whom the door is closed.
    fn behind(&self, now: Duration) -> Option<JobId> {
        let (job, asked) = self.door?;
        (now.saturating_sub(asked) <= DOOR_HELD).then_some(job)
    }

    /// The job waits no longer: cancelled, or given back to the queue.
    pub fn withdraw(&mut self, job: JobId) {
        if self.door.is_some_and(|(next, _)| next == job) {
            self.door = None;
        }
    }

    fn nothing_runs(&self) -> bool {
        self.entries.iter().all(|entry| match entry.phase {
            // What stays warm after its job does not grow any more.
            Phase::Returning { warm: Some(_), .. } | Phase::Gone(_) => true,
            Phase::Running | Phase::Returning { .. } => false,
        })
    }

    fn footprint(&self, context: ContextId) -> u64 {
        self.idle.iter().find(|idle| idle.context == context).map_or(0, |idle| idle.used)
    }

    fn idle_but(&self, context: Option<ContextId>) -> u64 {
        self.idle.iter().filter(|idle| Some(idle.context) != context).map(|idle| idle.used).sum()
    }

    /// The entry that a context's last job left, whose debit its next one takes over.
    fn last_job_of(&self, context: ContextId) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.left_warm(context))
    }

    /// A job ended, and its renderer used `seen` bytes then, where that was
    /// looked at. The debit stays until the memory is accounted for. A renderer
    /// that was ordered to be killed is not kept, whatever `left` says. Returns
    /// the most that the renderer was seen to use.
    pub fn release(
        &mut self,
        job: JobId,
        left: Left,
        seen: Option<u64>,
        now: Duration,
    ) -> Option<u64> {
        let entry = self.entries.iter_mut().find(|entry| entry.job == job)?;
        if let Some(seen) = seen {
            // Only the peak: free memory was not measured with it, so that the
            // debit must not shrink by it.
            entry.peak = entry.peak.max(seen);
        }
        let peak = entry.peak;
        let warm = match left {
            Left::Warm(context) => Some(context),
            Left::Closing => None,
        };
        let killed = matches!(entry.phase, Phase::Returning { killed: true, .. });
        if entry.phase == Phase::Running {
            entry.phase = Phase::Returning { since: now, warm, killed };
        }
        if let (Some(context), false) = (warm, killed) {
            let used = entry.used;
            self.idle.retain(|idle| idle.context != context);
            self.idle.push(Idle { context, used, trimmed: false });
        }
        Some(peak)
    }

    /// A job's renderer has ended: it grows no more, and the next sample shows its memory.
    pub fn gone(&mut self, job: JobId, now: Duration) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.job == job) {
            entry.phase = Phase::Gone(now);
        }
    }

    /// A job does not have the context that was kept for it: it may have to grow from
    /// nothing, and what that context used is not its own.
    pub fn moved(&mut self, job: JobId) {
        let running = |entry: &&mut Entry| entry.job == job && entry.phase == Phase::Running;
        if let Some(entry) = self.entries.iter_mut().find(running) {
            (entry.used, entry.seen, entry.speed) = (0, false, 0);
        }
    }

    /// A context is idle, and kept for nobody any more.
    pub fn opened(&mut self, context: ContextId, used: u64) {
        self.idle.retain(|idle| idle.context != context);
        self.idle.push(Idle { context, used, trimmed: false });
    }

    /// An idle context is gone.
    pub fn closed(&mut self, context: ContextId) {
        self.idle.retain(|idle| idle.context != context);
    }

    /// Takes in a measurement, credits what is back, and grants more to jobs
    /// that outgrew their prediction. Where memory would not last `back`, the time
    /// in which a killed renderer's memory comes back, they are to be killed.
    pub fn sample(&mut self, sample: &Sample<'_>, back: Duration) -> Vec<Kill> {
        let elapsed = sample.at.saturating_sub(self.sampled);
        self.free = sample.free;
        self.own = sample.own;
        self.sampled = sample.at;
        self.entries.retain(|entry| match entry.phase {
            Phase::Running => true,
            // What still stands after that is in what was measured, and grows no more.
            Phase::Returning { warm: None, since, .. } => {
                sample.at.saturating_sub(since) < RETURN_PATIENCE
            }
            Phase::Returning { since, .. } | Phase::Gone(since) => since >= sample.at,
        });
        self.closing.retain(|(ordered, _)| sample.at.saturating_sub(*ordered) < back);
        for (job, used) in sample.running {
            if let Some(entry) = self.entries.iter_mut().find(|entry| entry.job == *job) {
                // Two samples in quick succession say nothing about speed.
                if entry.seen && elapsed >= SPEED_OVER {
                    entry.speed = per_second(used.saturating_sub(entry.used), elapsed);
                }
                entry.seen = true;
                entry.used = *used;
                entry.peak = entry.peak.max(*used);
            }
        }
        for (context, used) in sample.idle {
            if let Some(idle) = self.idle.iter_mut().find(|idle| idle.context == *context) {
                idle.used = *used;
            }
        }
        self.grant(back, sample.at)
    }

    /// Jobs beyond their prediction go on while memory lasts, also where it is
    /// promised to others who do not use it yet: nothing new is let in
    /// meanwhile, and a job killed too early is work lost.
    fn grant(&mut self, back: Duration, now: Duration) -> Vec<Kill> {
        let mut kills = Vec::new();
        while !self.lasts(back) {
            let growing = |entry: &&mut Entry| {
                entry.phase == Phase::Running && !entry.alone && entry.used > entry.granted
            };
            let Some(entry) = self.entries.iter_mut().filter(growing).max_by_key(|e| e.excess())
            else {
                break;
            };
            let budget = entry.used;
            kills.push(entry.kill(Blame::Document, budget, now));
        }
        for entry in self.entries.iter_mut().filter(|entry| entry.phase == Phase::Running) {
            if entry.used > entry.granted {
                entry.granted = entry.used + entry.used / GRANT;
            }
        }
        kills
    }

    /// Whether memory stays above the hard line until what was killed or closed is
    /// back, and is not used up before.
    fn lasts(&self, back: Duration) -> bool {
        let coming: u64 = self.entries.iter().filter(|e| e.is_coming_back()).map(|e| e.used).sum();
        let left = self.room() - signed(self.surge(back));
        left + signed(coming + self.closing()) >= signed(self.lines.hard)
            && left >= signed(self.lines.growth)
    }

    /// What running jobs will take within `back`, as fast as they grow now.
    fn surge(&self, back: Duration) -> u64 {
        let running = self.entries.iter().filter(|entry| entry.phase == Phase::Running);
        running
            .map(|entry| {
                let grows = bytes_in(entry.speed, back);
                if entry.excess() > 0 { grows } else { grows.min(entry.rest()) }
            })
            .sum()
    }

    /// Below the hard line: kills jobs until what is left lasts `back`, the time
    /// in which the killed ones' memory comes back. First those beyond their
    /// prediction, then the youngest.
    pub fn victims(&mut self, back: Duration, now: Duration) -> Vec<Kill> {
        let lines = self.lines;
        let mut kills = Vec::new();
        if self.room() >= signed(lines.hard) {
            return kills;
        }
        while !self.lasts(back) {
            let running = self.entries.iter_mut().filter(|e| e.phase == Phase::Running);
            // The last of several that are equal is the youngest.
            let Some(entry) = running.max_by_key(|entry| entry.excess()) else { break };
            // One that ran alone had everything: it is to blame unless it would
            // have fitted into what there was when it began.
            let too_big = match entry.alone {
                true => entry.used + lines.growth + entry.aside > entry.budget,
                false => entry.excess() > 0,
            };
            let blame = if too_big { Blame::Document } else { Blame::Neighbours };
            let budget = entry.budget;
            kills.push(entry.kill(blame, budget, now));
        }
        kills
    }

    /// Idle contexts that were not trimmed since their last job; they count as trimmed now.
    pub fn to_trim(&mut self) -> Vec<ContextId> {
        let fresh = self.idle.iter_mut().filter(|idle| !idle.trimmed);
        fresh
            .map(|idle| {
                idle.trimmed = true;
                idle.context
            })
            .collect()
    }

    /// Takes out the least recently used idle contexts that hold `bytes` together,
    /// with those that are being closed already, `spared` excepted; they are to be
    /// closed.
    pub fn to_close(
        &mut self,
        bytes: u64,
        spared: Option<ContextId>,
        now: Duration,
    ) -> Vec<ContextId> {
        let mut sum = self.closing();
        let mut chosen = Vec::new();
        let closing = &mut self.closing;
        self.idle.retain(|idle| {
            if sum >= bytes || Some(idle.context) == spared {
                return true;
            }
            sum += idle.used;
            chosen.push(idle.context);
            closing.push((now, idle.used));
            false
        });
        chosen
    }

    fn closing(&self) -> u64 {
        self.closing.iter().map(|(_, used)| used).sum()
    }

    /// The fastest growth among running jobs between the last two samples, in bytes a second.
    #[must_use]
    pub fn fastest(&self) -> u64 {
        let running = self.entries.iter().filter(|entry| entry.phase == Phase::Running);
        running.map(|entry| entry.speed).max().unwrap_or(0)
    }

    /// Running jobs whose renderers use more than `bytes`: not to be kept warm.
    #[must_use]
    pub fn fat(&self, bytes: u64) -> Vec<JobId> {
        let fat = self.entries.iter().filter(|e| e.phase == Phase::Running && e.used > bytes);
        fat.map(|entry| entry.job).collect()
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
