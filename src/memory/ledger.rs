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

/// One attempt of a job in this worker: each attempt gets a number of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub u64);

/// A context in this worker, by a number of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContextId(pub u64);

/// What has to stay free, in bytes. Comes from [`super::reserve::Reserve`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Lines {
    /// Admissions leave at least this.
    pub keep: u64,
    /// Below this something has to go.
    pub hard: u64,
    /// What one renderer can grow between two samples and a kill.
    pub growth: u64,
}

/// What the operator allows, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bounds {
    /// The most that worker and Chromium may use; all that is free where `None`.
    pub budget: Option<u64>,
    /// Kept for an embedded Redis and its fork.
    pub kept: u64,
}

/// One measurement. The processes are read first and free memory last: what
/// grows meanwhile then counts twice, never not at all.
#[derive(Debug, Clone, Copy)]
pub struct Sample<'a> {
    /// When reading began, since any fixed start.
    pub at: Duration,
    /// What is free on the machine or in the tightest cgroup.
    pub free: u64,
    /// Private memory of the worker and of all its Chromium processes.
    pub own: u64,
    /// Private memory of each running job's renderer.
    pub running: &'a [(JobId, u64)],
    /// Private memory of idle contexts' renderers, where read this time.
    pub idle: &'a [(ContextId, u64)],
}

/// A job that asks to be let in.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Which.
    pub job: JobId,
    /// What its renderer is expected to use at most.
    pub predicted: u64,
    /// The idle context that it would run in.
    pub warm: Option<ContextId>,
    /// It outgrew its prediction before, or is suspected: nothing else may run.
    pub alone: bool,
    /// How long it has been waiting for room.
    pub waited: Duration,
}

/// A job was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// Nothing else is let in until it ends.
    pub alone: bool,
}

/// Why a job is not let in now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wait {
    /// As many run as the cores can use.
    #[error("{running} of {slots} slots are taken")]
    Slots {
        /// Jobs that render.
        running: usize,
        /// The most that may.
        slots: usize,
    },
    /// Memory is scarce: nothing is let in until it is not.
    #[error("memory pressure is {0}")]
    Pressure(super::ladder::Pressure),
    /// Too little is free.
    #[error("it may take {} MiB, {} MiB fit now", needed >> 20, fits >> 20)]
    Room {
        /// Bytes that it may still take.
        needed: u64,
        /// The most that fits now.
        fits: u64,
        /// What idle contexts hold: closing some makes room.
        idle: u64,
        /// Whether the door was closed behind it: keep it in hand, it is next.
        next: bool,
    },
    /// A heavy job has waited long and is next.
    #[error("a larger job has waited longer and is next")]
    Door(JobId),
    /// A job runs alone.
    #[error("a job that needs all the memory is running")]
    Alone(JobId),
    /// It has to run alone, and others run.
    #[error("it has to run alone, and {0} others run")]
    Others(usize),
}

/// What a claim may bring, in bytes beyond what is used now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Fit {
    /// The largest job that would be let in now.
    pub now: u64,
    /// The largest after every idle context was closed.
    pub without_idle: u64,
}

/// What became of a job's renderer when the job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// It waits, warm, for its tenant's next job.
    Warm(ContextId),
    /// It is being closed or killed; [`Ledger::gone`] follows.
    Closing,
}

/// Who asked for the memory that was not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The job itself outgrew its prediction, or all that there was.
    Document,
    /// Others took what it had been promised: it goes back, uncounted.
    Neighbours,
}

/// A renderer has to be killed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kill {
    /// Whose.
    pub job: JobId,
    /// Who is to blame.
    pub blame: Blame,
    /// Whether it ran alone.
    pub alone: bool,
    /// Bytes it used when last seen.
    pub used: u64,
    /// Bytes it was first predicted to use.
    pub predicted: u64,
    /// Bytes that it could have had at most.
    pub budget: u64,
}

/// What becomes of a killed job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Back to the queue; the attempt does not count.
    Requeue,
    /// Once more, alone, with this prediction.
    Alone {
        /// Bytes.
        predicted: u64,
    },
    /// Buried as `memory_exceeded`, with the figures of the [`Kill`].
    Exceeded,
}

impl Kill {
    /// What becomes of the job. One that ran alone had all there was.
    #[must_use]
    pub fn next(&self) -> Next {
        match (self.blame, self.alone) {
            (Blame::Neighbours, _) => Next::Requeue,
            (Blame::Document, false) => {
                Next::Alone { predicted: self.predicted.max(self.used).saturating_mul(2) }
            }
            (Blame::Document, true) => Next::Exceeded,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// Ended; its renderer lives on or is being closed.
    Returning {
        since: Duration,
        warm: Option<ContextId>,
        killed: bool,
    },
    /// Its renderer ended at this time; the next sample shows the memory.
    Gone(Duration),
}

#[derive(Debug, Clone)]
struct Entry {
    job: JobId,
    /// What it was predicted with first.
    predicted: u64,
    /// What it may use by now: the prediction and what was granted since.
    granted: u64,
    /// What its renderer was last seen to use.
    used: u64,
    /// The most it was seen to use.
    peak: u64,
    /// Bytes a second that it grew by between the last two samples.
    speed: u64,
    /// Whether a sample has shown it: before that, what it uses is old or unknown.
    seen: bool,
    alone: bool,
    /// What there was for it when it was let in.
    budget: u64,
    phase: Phase,
}

impl Entry {
    fn debit(&self) -> u64 {
        match self.phase {
            Phase::Gone(_) => 0,
            Phase::Running | Phase::Returning { .. } => self.granted.saturating_sub(self.used),
        }
    }

    fn kill(&mut self, blame: Blame, budget: u64, now: Duration) -> Kill {
        self.phase = Phase::Returning { since: now, warm: None, killed: true };
        Kill {
            job: self.job,
            blame,
            alone: self.alone,
            used: self.used,
            predicted: self.predicted,
            budget,
        }
    }
}

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
    /// Promised by other workers on this machine, and not used yet.
    elsewhere: u64,
    /// In the order of admission.
    entries: Vec<Entry>,
    /// Least recently used first.
    idle: Vec<Idle>,
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
            elsewhere: 0,
            entries: Vec::new(),
            idle: Vec::new(),
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

    /// Notes what other workers on this machine have promised and not used yet.
    pub fn set_elsewhere(&mut self, bytes: u64) {
        self.elsewhere = bytes;
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
        signed(self.free).min(within) - signed(self.bounds.kept) - signed(self.elsewhere)
    }

    /// What running and returning jobs may still take.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        self.entries.iter().map(Entry::debit).sum()
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

    /// What one job could have at most if it were alone here and no context idle.
    #[must_use]
    pub fn whole(&self) -> u64 {
        let held: u64 = self.entries.iter().map(|entry| entry.used).sum();
        let all = self.room() - signed(self.lines.hard) + signed(self.idle_bytes() + held);
        u64::try_from(all).unwrap_or(0)
    }

    fn headroom(&self) -> i64 {
        self.room() - signed(self.outstanding()) - signed(self.lines.keep)
    }

    /// The largest job that would be let in. Where nothing runs, any is.
    #[must_use]
    pub fn fits(&self) -> Fit {
        if self.behind(self.sampled).is_some()
            || self.entries.iter().any(|e| e.alone && e.debit() > 0)
        {
            return Fit { now: 0, without_idle: 0 };
        }
        if self.entries.is_empty() && self.room() > signed(self.lines.hard) {
            return Fit { now: u64::MAX, without_idle: u64::MAX };
        }
        let room = self.headroom();
        let fits = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
        Fit { now: fits(room), without_idle: fits(room + signed(self.idle_bytes())) }
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
        let base = request.warm.map_or(0, |context| self.footprint(context));
        let last = request.warm.and_then(|context| self.last_job_of(context));
        let granted = last.map_or(0, |entry| entry.granted).max(request.predicted);
        let needed = granted.saturating_sub(base);
        let room = self.headroom() + signed(last.map_or(0, Entry::debit));
        let nothing_runs = self.nothing_runs();
        let fits = signed(needed) <= room;
        if request.alone && !nothing_runs {
            self.close_door(request, now);
            return Err(Wait::Others(self.entries.len()));
        }
        // A lone job that does not fit waits until the idle contexts are closed:
        // what they hold is its best chance.
        let last_resort = nothing_runs
            && self.idle_but(request.warm) == 0
            && self.room() > signed(self.lines.hard);
        if !fits && !last_resort {
            let next = self.close_door(request, now);
            return Err(Wait::Room {
                needed,
                fits: u64::try_from(room).unwrap_or(0),
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

    /// A context was opened ahead of any job.
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

    /// Whether memory stays above the hard line until what was killed is back,
    /// and is not used up before.
    fn lasts(&self, back: Duration) -> bool {
        let coming: u64 = self.entries.iter().filter(|e| e.is_coming_back()).map(|e| e.used).sum();
        let left = self.room() - signed(self.surge(back));
        left + signed(coming) >= signed(self.lines.hard) && left >= signed(self.lines.growth)
    }

    /// What running jobs will take within `back`, as fast as they grow now.
    fn surge(&self, back: Duration) -> u64 {
        let running = self.entries.iter().filter(|entry| entry.phase == Phase::Running);
        running
            .map(|entry| {
                let grows = bytes_in(entry.speed, back);
                if entry.excess() > 0 { grows } else { grows.min(entry.debit()) }
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
                true => entry.used + lines.growth > entry.budget,
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
    /// `spared` excepted; they are to be closed.
    pub fn to_close(&mut self, bytes: u64, spared: Option<ContextId>) -> Vec<ContextId> {
        let mut sum = 0;
        let mut chosen = Vec::new();
        self.idle.retain(|idle| {
            if sum >= bytes || Some(idle.context) == spared {
                return true;
            }
            sum += idle.used;
            chosen.push(idle.context);
            false
        });
        chosen
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

impl Entry {
    fn left_warm(&self, context: ContextId) -> bool {
        matches!(self.phase, Phase::Returning { warm, .. } if warm == Some(context))
    }

    /// What it uses beyond its prediction.
    fn excess(&self) -> u64 {
        self.used.saturating_sub(self.predicted)
    }

    fn is_coming_back(&self) -> bool {
        matches!(self.phase, Phase::Returning { warm: None, .. } | Phase::Gone(_))
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}

/// Bytes a second; 0 where no time has passed.
pub(super) fn per_second(bytes: u64, over: Duration) -> u64 {
    let micros = over.as_micros();
    if micros == 0 {
        return 0;
    }
    u64::try_from(u128::from(bytes) * 1_000_000 / micros).unwrap_or(u64::MAX)
}

/// What that speed makes in that time.
pub(super) fn bytes_in(speed: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(speed) * time.as_micros() / 1_000_000).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
