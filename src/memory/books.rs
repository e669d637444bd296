//! What is known of jobs and contexts, under the lock of [`super::live`]: the
//! control's view of the world kept in step with the renderer's. No I/O, and
//! nothing waits.
//!
//! A context is busy with a job, idle (perhaps kept for the job that was just let
//! in), or being closed. The control knows idle ones by their own number, and what
//! is busy or closing by the job that it came from.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::BROWSER_BYTES;
use super::control::{Control, Order, Policy, SPARE};
use super::deference::Deference;
use super::ladder::FAT;
use super::live::{Asked, Footprint, Waiting};
use super::predictor::{Kind, Predictor};
use super::sampler::{Counters, Limit};
use super::share::{OWED_FOR, Said, Share, ShareError};
use super::terms::{Admitted, ContextId, Elsewhere, JobId, Kill, Left, Request, Wait};
use super::verdicts::Verdicts;

/// An idle context rests, and is trimmed where it is fat, after this.
const RESTS: Duration = Duration::from_millis(500);
/// From here on it is trimmed at once, in bytes.
const VERY_FAT: u64 = 2 * FAT;
/// While nothing is rendered, from here on at once: the cores are free.
const STOUT: u64 = 40 << 20;
/// A collection takes 15 ms of a core.
const AT_ONCE: usize = 2;
/// Whatever an idle context has beyond what a collection leaves it goes after this.
const LONG_REST: Duration = Duration::from_secs(3);
const LEAN: u64 = 22 << 20;
/// A context that no job asked for is opened and known within this, or not at all.
const SPARING: Duration = Duration::from_secs(10);
/// A ticket that was given up before its context was opened is remembered so long.
const ABANDONED: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Job {
    pub(super) asked: Asked,
    /// What its renderer is expected to use.
    pub(super) predicted: u64,
    /// The same, or what it is to have alone.
    pub(super) needs: u64,
    /// What the worker itself will hold for it.
    pub(super) aside: u64,
    pub(super) alone: bool,
    pub(super) since: Instant,
    /// Why it waits; `None` once it was let in.
    pub(super) wait: Option<Wait>,
    pub(super) entered: bool,
    pub(super) context: Option<ContextId>,
    /// When it began to render, and whether its context was warm.
    pub(super) began: Option<(Instant, bool)>,
    /// What its context used when it came.
    pub(super) base: u64,
    pub(super) left: bool,
    pub(super) recycle: bool,
    pub(super) killed: Option<Kill>,
    /// A browser may have to be launched for it.
    pub(super) browser: bool,
    /// The renderer has answered: no context comes any more.
    pub(super) answered: bool,
    /// Its ticket is gone.
    pub(super) abandoned: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Busy(JobId),
    Idle { reserved: Option<JobId> },
    Closing(Option<JobId>),
}

#[derive(Debug)]
pub(super) struct Held {
    pub(super) tenant: Arc<str>,
    pub(super) pid: Option<u32>,
    pub(super) state: Use,
    pub(super) used: u64,
    /// Whether a browser was launched for it alone, which ends with it.
    pub(super) own_browser: bool,
    /// Whether its garbage was collected since its last job.
    pub(super) trimmed: bool,
    /// When it was last taken or given back.
    pub(super) since: Duration,
    /// Grows with each use: the largest is the one that was used last.
    pub(super) turn: u64,
}

/// What the lock guards.
pub(super) struct State {
    pub(super) control: Control,
    pub(super) contexts: HashMap<ContextId, Held>,
    pub(super) jobs: BTreeMap<JobId, Job>,
    pub(super) predictor: Predictor,
    /// The same of the bytes of PDFs.
    pub(super) printed: Predictor,
    pub(super) verdicts: Verdicts,
    /// Documents that outgrew their prediction, and what they run with, alone.
    pub(super) outgrown: Verdicts,
    pub(super) next: u64,
    pub(super) turn: u64,
    pub(super) used: u64,
    pub(super) counters: Counters,
    /// What the machine had when it was measured last.
    pub(super) available: u64,
    /// The limits above this worker, and what each left.
    pub(super) limits: Vec<Limit>,
    /// What the worker may still take for results that are not settled.
    pub(super) unsettled: u64,
    /// The ledger that workers share, or why there is none.
    pub(super) share: Result<Share, String>,
    /// Whether the sampling thread sleeps long.
    pub(super) slow: bool,
    pub(super) last_left: Instant,
    /// Whether browsers step aside for everybody.
    pub(super) deference: Deference,
    /// Until when a context counts as promised that no job asked for.
    pub(super) sparing: Option<Duration>,
}

/// Something to be done by the [`Hands`](super::live::Hands).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Trim(ContextId),
    Close(ContextId),
    Kill(ContextId, JobId),
}

impl State {
    pub(super) fn new(policy: &Policy, share: Result<Share, ShareError>) -> Self {
        Self {
            control: Control::new(policy),
            contexts: HashMap::new(),
            jobs: BTreeMap::new(),
            predictor: Predictor::new(),
            printed: Predictor::new(),
            verdicts: Verdicts::default(),
            outgrown: Verdicts::default(),
            next: 1,
            turn: 0,
            used: 0,
            counters: Counters::default(),
            available: 0,
            limits: Vec::new(),
            unsettled: 0,
            share: share.map_err(|error| unshared(&error)),
            slow: false,
            last_left: Instant::now(),
            deference: Deference::default(),
            sparing: None,
        }
    }

    /// Takes note of orders, and says what is to be done for them.
    pub(super) fn plan(&mut self, orders: &[Order]) -> Vec<Deed> {
        orders.iter().filter_map(|order| self.plan_one(order)).collect()
    }

    fn plan_one(&mut self, order: &Order) -> Option<Deed> {
        match order {
            Order::Trim(context) => Some(Deed::Trim(*context)),
            Order::Close(context) => {
                let held = self.contexts.get_mut(context)?;
                held.state = Use::Closing(None);
                Some(Deed::Close(*context))
            }
            Order::Recycle(job) => {
                self.jobs.get_mut(job)?.recycle = true;
                None
            }
            Order::Kill(kill) => {
                let job = self.jobs.get_mut(&kill.job)?;
                tracing::warn!(
                    job = %job.asked.name,
                    memory_bytes = kill.used,
                    memory.predicted_bytes = kill.predicted,
                    memory.budget_bytes = kill.budget,
                    blame = ?kill.blame,
                    alone = kill.alone,
                    "memory runs out: a renderer is killed"
                );
                crate::metrics::memory_killed(kill.blame.as_str());
                job.killed = Some(*kill);
                // One without a context is killed as soon as it has one.
                job.context.map(|context| Deed::Kill(context, kill.job))
            }
        }
    }

    pub(super) fn entered(
        &mut self,
        id: JobId,
        context: ContextId,
        tenant: &Arc<str>,
        pid: Option<u32>,
    ) -> Option<Deed> {
        self.turn += 1;
        let turn = self.turn;
        let before = self.contexts.get(&context).map(|held| (held.state, held.used));
        // What was kept for this job, and was not what it got, is there for others again.
        let reserved = Use::Idle { reserved: Some(id) };
        for (other, held) in &mut self.contexts {
            if held.state == reserved && *other != context {
                held.state = Use::Idle { reserved: None };
                self.control.opened(*other, held.used);
            }
        }
        if before.is_some_and(|(state, _)| state == Use::Idle { reserved: None }) {
            self.control.closed(context);
        }
        if before.is_none_or(|(state, _)| state != reserved) {
            self.control.moved(id);
        }
        let used = before.map_or(0, |(_, used)| used);
        let state = Use::Busy(id);
        let tenant = Arc::clone(tenant);
        // Told when it is given back.
        let since = Duration::MAX;
        let own_browser = self.jobs.get(&id).is_some_and(|job| job.browser);
        let held = Held { tenant, pid, state, used, own_browser, trimmed: false, since, turn };
        self.contexts.insert(context, held);
        let job = self.jobs.get_mut(&id)?;
        job.context = Some(context);
        job.base = used;
        job.began = Some((Instant::now(), before.is_some()));
        job.killed.map(|_| Deed::Kill(context, id))
    }

    pub(super) fn left(
        &mut self,
        id: JobId,
        context: ContextId,
        sound: bool,
        seen: Option<u64>,
        now: Duration,
    ) -> bool {
        self.last_left = Instant::now();
        let job = self.jobs.get_mut(&id);
        let keep = sound && job.as_ref().is_none_or(|job| job.killed.is_none() && !job.recycle);
        if let Some(held) = self.contexts.get_mut(&context) {
            held.used = seen.unwrap_or(held.used);
            held.state = if keep { Use::Idle { reserved: None } } else { Use::Closing(Some(id)) };
            held.since = now;
        }
        let Some(job) = job.filter(|job| job.entered && !job.left) else {
            // Where nobody asked for it, what it holds is known from now on.
            self.sparing = self.sparing.filter(|_| id != JobId(0));
            if keep {
                self.control.spare(context, seen.unwrap_or(0));
            }
            return keep;
        };
        job.left = true;
        if let Some((began, _)) = job.began {
            self.deference.ended(began.elapsed(), now);
        }
        let kind = Kind::new(&job.asked.tenant, &job.asked.features);
        let (markup, predicted, base, began) =
            (job.asked.features.markup, job.needs, job.base, job.began);
        // A cold page is slower by itself: it says nothing about the cores.
        if let Some((began, true)) = began.filter(|_| keep) {
            let standing = self.control.standing();
            self.control.took(markup, began.elapsed(), standing.running >= standing.slots, now);
        }
        let left = if keep { Left::Warm(context) } else { Left::Closing };
        let peak = self.control.release(id, left, seen, now);
        // A page that was larger than this document needs says nothing about it.
        if let Some(peak) = peak.filter(|peak| *peak > 0 && base <= predicted) {
            self.predictor.observe(&kind, peak);
        }
        keep
    }

    /// Whether browsers are to be idle to the scheduler now.
    pub(super) fn steps_aside(&mut self, now: Duration) -> bool {
        let rendering = self.jobs.values().filter(|job| job.entered && !job.left);
        let oldest = rendering.filter_map(|job| Some(job.began?.0.elapsed())).max();
        self.deference.look(oldest, now)
    }

    /// The idle context that the renderer would choose for a tenant.
    fn warm(&self, tenant: &str) -> Option<ContextId> {
        let free = self.contexts.iter().filter(|(_, held)| {
            held.state == Use::Idle { reserved: None } && *held.tenant == *tenant
        });
        free.max_by_key(|(_, held)| held.turn).map(|(context, _)| *context)
    }

    pub(super) fn enter(&mut self, id: JobId, now: Duration) -> (Result<(), Wait>, Vec<Deed>) {
        self.look_again(id);
        let Some(job) = self.jobs.get(&id) else { return (Ok(()), Vec::new()) };
        if job.asked.bulk && self.bulk_is_full(id) {
            self.answered(id, Err(Wait::Kept));
            return (Err(Wait::Kept), Vec::new());
        }
        // Scripts run in a fresh context, whatever is warm.
        let fresh = job.asked.features.scripts;
        let warm = if fresh { None } else { self.warm(&job.asked.tenant) };
        let browser = if job.browser && warm.is_none() { BROWSER_BYTES } else { 0 };
        let predicted = job.needs.saturating_add(browser);
        let (alone, waited) = (job.alone, job.since.elapsed());
        let request = Request { job: id, predicted, warm, aside: job.aside, alone, waited };
        let answer = self.promise(&request, now);
        let mut deeds = Vec::new();
        if let Err(wait) = &answer {
            let orders = self.control.make_room(wait, warm, now);
            deeds = self.plan(&orders);
        }
        if let (Ok(_), Some(held)) = (&answer, warm.and_then(|warm| self.contexts.get_mut(&warm))) {
            held.state = Use::Idle { reserved: Some(id) };
        }
        let answer = answer.map(drop);
        self.answered(id, answer);
        (answer, deeds)
    }

    fn answered(&mut self, id: JobId, answer: Result<(), Wait>) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.entered = answer.is_ok();
            job.wait = answer.err();
        }
    }

    /// What became of its document elsewhere while it waited: it outgrew its prediction, or
    /// was rendered after all.
    fn look_again(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(digest) = job.asked.digest else { return };
        let alone = job.asked.alone.max(self.outgrown.too_big(&digest, 0));
        (job.needs, job.alone) = (alone.unwrap_or(job.predicted), alone.is_some());
    }

    /// Whether bulk has all the slots that it may have: where there is more than one, one is
    /// kept for somebody who waits. Who waited longer for one of them goes first, so that
    /// the small ones do not always slip by.
    fn bulk_is_full(&self, id: JobId) -> bool {
        let slots = self.control.slots();
        let before = |other: &JobId, job: &Job| job.renders() || *other < id && job.is_kept();
        let bulk = self.jobs.iter().filter(|(other, job)| job.asked.bulk && before(other, job));
        slots > 1 && bulk.count() >= slots - 1
    }

    /// A job's PDF has so many bytes: those are known, and what the worker still takes for
    /// them is promised until they are settled.
    pub(super) fn printed(&mut self, id: JobId, bytes: u64, more: u64) {
        if let Some(job) = self.jobs.get(&id) {
            self.printed.observe(&Kind::new(&job.asked.tenant, &job.asked.features), bytes);
        }
        self.control.printed(id);
        self.unsettled = self.unsettled.saturating_add(more);
        self.control.set_aside(self.unsettled);
    }

    pub(super) fn settled(&mut self, more: u64) {
        self.unsettled = self.unsettled.saturating_sub(more);
        self.control.set_aside(self.unsettled);
    }

    /// Lets a job in. What it would owe is said before it is looked what others owe; see
    /// [`super::share`].
    fn promise(&mut self, request: &Request, now: Duration) -> Result<Admitted, Wait> {
        if let Ok(share) = &mut self.share {
            let intended = share.intend(request.predicted.saturating_add(request.aside));
            let heard = intended.and_then(|()| share.hear(self.available, &self.limits, now));
            self.heard(heard);
            let others = self.control.elsewhere().workers > 0;
            if others && self.control.is_stale(OWED_FOR, now) {
                self.say(now);
                return Err(Wait::Unseen);
            }
        }
        let answer = self.control.admit(request, now);
        self.say(now);
        answer
    }

    /// Lets a context be opened that no job has asked for, and promises what it may take.
    pub(super) fn promise_spare(&mut self, now: Duration) -> bool {
        if self.jobs.values().any(Job::waits) {
            return false;
        }
        if let Ok(share) = &mut self.share {
            let intended = share.intend(SPARE);
            let heard = intended.and_then(|()| share.hear(self.available, &self.limits, now));
            self.heard(heard);
        }
        let may = self.control.can_spare();
        self.sparing = may.then(|| now + SPARING);
        self.say(now);
        may
    }

    /// Takes in what other workers on this machine say.
    pub(super) fn hear(&mut self, now: Duration) {
        if let Ok(share) = &mut self.share {
            let heard = share.hear(self.available, &self.limits, now);
            self.heard(heard);
        }
    }

    fn heard(&mut self, heard: Result<Elsewhere, ShareError>) {
        match heard {
            Ok(elsewhere) => self.control.set_elsewhere(elsewhere),
            Err(error) => self.unshare(&error),
        }
    }

    /// What was free when it was last measured: on the machine, or below the tightest limit.
    pub(super) fn free(&self) -> u64 {
        self.limits.iter().map(|limit| limit.free).fold(self.available, u64::min)
    }

    /// Tells the others how things stand here.
    pub(super) fn say(&mut self, now: Duration) {
        let spare = if self.sparing.is_some_and(|until| now < until) { SPARE } else { 0 };
        let Ok(share) = &mut self.share else { return };
        let busy = |held: &&Held| matches!(held.state, Use::Busy(_));
        let said = Said {
            owed: self.control.outstanding().saturating_add(spare),
            used: self.used,
            running: u32::try_from(self.control.running()).unwrap_or(u32::MAX),
            idle: u32::try_from(self.contexts.values().filter(|held| !busy(held)).count())
                .unwrap_or(u32::MAX),
            first: self.control.is_first(now),
        };
        if let Err(error) = share.say(said, now) {
            self.unshare(&error);
        }
    }

    /// Goes on without the others.
    fn unshare(&mut self, error: &ShareError) {
        self.share = Err(unshared(error));
        self.control.set_elsewhere(Elsewhere::default());
    }

    /// A ticket is given up.
    pub(super) fn give_up(&mut self, id: JobId, watched: bool, now: Duration) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if !job.entered {
            self.control.withdraw(id);
            self.jobs.remove(&id);
            return;
        }
        if !job.left {
            self.control.release(id, Left::Closing, None, now);
        }
        let never = job.answered && job.context.is_none();
        let opening = watched && !job.left && job.context.is_none() && !never;
        if !watched || never {
            self.control.gone(id, now);
        }
        if opening {
            // Its context may be on its way still.
            job.abandoned = Some(Instant::now());
        } else {
            self.jobs.remove(&id);
        }
        let reserved = Use::Idle { reserved: Some(id) };
        for (context, held) in self.contexts.iter_mut().filter(|(_, held)| held.state == reserved) {
            held.state = Use::Idle { reserved: None };
            self.control.opened(*context, held.used);
        }
    }

    /// What worker and browser use without any context, while nothing renders.
    pub(super) fn bare(&self) -> Option<u64> {
        let whole = |held: &Held| held.used + if held.own_browser { BROWSER_BYTES } else { 0 };
        let held: u64 = self.contexts.values().map(whole).sum();
        (self.control.running() == 0).then(|| self.used.saturating_sub(held))
    }

    /// Idle contexts that are larger than they need to be: they are trimmed without
    /// pressure too. Under load one that is used again and again is left alone, since its
    /// next job would wait for the collection and its engine collects by itself; but
    /// where room becomes scarce, a collection costs less than closing it and opening
    /// another, and the largest are trimmed, [`AT_ONCE`] of them at a time.
    pub(super) fn fat_idle(&mut self, now: Duration) -> Vec<Deed> {
        let leisure = !self.jobs.values().any(|job| !job.left);
        let scarce = !self.control.can_spare();
        let mut stout: Vec<_> = self
            .contexts
            .iter()
            .filter(|(_, held)| scarce && held.used > STOUT && held.can_be_trimmed())
            .map(|(context, held)| (held.used, *context))
            .collect();
        stout.sort_unstable_by_key(|(used, _)| std::cmp::Reverse(*used));
        stout.truncate(AT_ONCE);
        let mut deeds = Vec::new();
        for (context, held) in &mut self.contexts {
            let chosen = stout.iter().any(|(_, stout)| stout == context);
            if chosen || held.is_to_be_trimmed(leisure, now) {
                held.trimmed = true;
                deeds.push(Deed::Trim(*context));
            }
        }
        deeds
    }

    /// Forgets jobs whose context never came.
    pub(super) fn sweep(&mut self) {
        self.jobs.retain(|_, job| job.abandoned.is_none_or(|since| since.elapsed() < ABANDONED));
    }
}

fn unshared(error: &ShareError) -> String {
    let why = error.to_string();
    tracing::warn!(%why, "other workers on this machine are not seen: each counts with all that is free");
    why
}

impl Job {
    pub(super) fn new(asked: Asked, predicted: u64, aside: u64) -> Self {
        let alone = asked.alone;
        Self {
            asked,
            predicted,
            needs: alone.unwrap_or(predicted),
            aside,
            alone: alone.is_some(),
            since: Instant::now(),
            wait: None,
            entered: false,
            context: None,
            began: None,
            base: 0,
            left: false,
            recycle: false,
            killed: None,
            browser: false,
            answered: false,
            abandoned: None,
        }
    }

    pub(super) fn waits(&self) -> bool {
        self.wait.is_some()
    }

    /// Whether it has one of the slots.
    fn renders(&self) -> bool {
        self.entered && !self.left && self.killed.is_none() && self.abandoned.is_none()
    }

    fn is_kept(&self) -> bool {
        self.wait == Some(Wait::Kept)
    }

    /// Whether it waits and is to take no slot meanwhile. Who waits for any slot is next anyway.
    pub(super) fn waits_for_memory(&self) -> bool {
        self.wait.as_ref().is_some_and(|wait| !matches!(wait, Wait::Slots { .. }))
    }

    pub(super) fn waiting(&self) -> Option<Waiting> {
        Some(Waiting {
            job: self.asked.name.clone(),
            predicted_bytes: self.needs,
            waited_ms: u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            why: self.wait?.to_string(),
        })
    }
}

impl Held {
    fn can_be_trimmed(&self) -> bool {
        self.state == Use::Idle { reserved: None } && !self.trimmed
    }

    pub(super) fn is_to_be_trimmed(&self, leisure: bool, now: Duration) -> bool {
        let rest = now.saturating_sub(self.since);
        let is_due = match self.used {
            used if used > VERY_FAT => true,
            used if used > FAT && rest >= RESTS => true,
            used if used > STOUT && leisure => true,
            used => used > LEAN && rest >= LONG_REST,
        };
        is_due && self.can_be_trimmed()
    }

    pub(super) fn footprint(&self) -> Footprint {
        Footprint {
            tenant: self.tenant.to_string(),
            pid: self.pid,
            state: match self.state {
                Use::Busy(_) => "busy",
                Use::Idle { .. } => "idle",
                Use::Closing(_) => "closing",
            },
            used_bytes: self.used,
        }
    }
}
