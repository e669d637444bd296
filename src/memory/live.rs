//! The governor at work: [`Control`](super::control::Control) under a lock, fed by the sampling thread
//! ([`super::watcher`]), asked by attempts, told by the renderer.
//!
//! ```text
//!  attempt ── ask ──▶ Ticket ── enter ──▶ let in, or Wait (asked again after each sample)
//!  renderer ─ entered, left, ended ─▶ which process is whose; what came back
//!  sampling thread ─ Reading ─▶ control ─ orders ─▶ Hands: trim, close, kill
//! ```
//!
//! A [`Ticket`] stands for one attempt, from the first question to the last
//! byte. Dropping it takes back what it was given: a question is withdrawn, a
//! job that was let in is released. Which context a job will get is the
//! renderer's choice; what is reserved for it here is a guess that is corrected
//! when the renderer tells.
//!
//! Nothing waits while the lock is held, and nothing is read from `/proc`.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::books::{Deed, Held, Job, State, Use};
use super::control::{Policy, Standing};
use super::document::Features;
use super::fence::{self, Fences};
use super::predictor::Kind;
use super::probe::Probe;
use super::sampler::Counters;
use super::share::Share;
use super::terms::{Bounds, ContextId, JobId, Kill, Wait};
use super::verdicts::{self, Digest};
use super::watcher;

/// From one sample over the next to the end of a killed renderer's growth: two
/// periods of the sampling thread.
pub const REACTION: Duration = Duration::from_millis(50);
/// The time in which a killed renderer's memory comes back.
pub const BACK: Duration = Duration::from_millis(100);
/// Copies of a document with its assets that the worker makes to send it: escaped, and
/// in a frame that grows by doubling.
const DOCUMENT_COPIES: u64 = 4;
/// Copies of a PDF that it has at the same time at most: the frame (four bytes of base64
/// for three, in a buffer that may be twice as large) and decoded, then decoded and
/// finished, then as in [`SETTLED_COPIES`].
const RESULT_COPIES: u64 = 4;
/// What it takes beside a finished PDF until that is settled: the reply and what is sent
/// of it, each perhaps in base64.
const SETTLED_COPIES: u64 = 3;
/// Contexts that are told of to operators.
const CONTEXTS_SHOWN: usize = 32;
/// Waiting jobs that are told of to operators.
const WAITING_SHOWN: usize = 16;

/// Who carries out what is ordered. Called from any thread; must not wait.
pub trait Hands: Send + Sync {
    /// Collect an idle context's garbage.
    fn trim(&self, context: ContextId);
    /// Close an idle context.
    fn close(&self, context: ContextId);
    /// Kill a context's renderer, if this job is still in it.
    fn kill(&self, context: ContextId, job: JobId);
}

/// What an attempt is about.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The job's name, for operators.
    pub name: String,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// What was counted in its document.
    pub features: Features,
    /// Bytes of the document and of what it brings along.
    pub bytes: u64,
    /// What it is known by, where that was computed; see [`Live::may_know`].
    pub digest: Option<Digest>,
    /// What it is to have, alone, where it outgrew what it was given before, in bytes.
    pub alone: Option<u64>,
    /// Whether nobody waits for it.
    pub bulk: bool,
}

/// One context, for operators.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Footprint {
    /// Whose.
    pub tenant: String,
    /// The renderer's pid, where it is known.
    pub pid: Option<u32>,
    /// `busy`, `idle` or `closing`.
    pub state: &'static str,
    /// Bytes it was last seen to use.
    pub used_bytes: u64,
}

/// One job that waits for memory, for operators.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Waiting {
    /// Its name.
    pub job: String,
    /// Bytes it is expected to use.
    pub predicted_bytes: u64,
    /// How long it has waited.
    pub waited_ms: u64,
    /// Why.
    pub why: String,
}

/// What is known now, for operators.
#[derive(Debug, Clone)]
pub struct Report {
    /// Memory.
    pub standing: Standing,
    /// Bytes worker and Chromium use.
    pub used: u64,
    /// The same without any context; `None` while something renders.
    pub bare: Option<u64>,
    /// Bytes that are free on the machine or in the tightest control group.
    pub there: u64,
    /// Contexts, largest first; at most [`CONTEXTS_SHOWN`].
    pub contexts: Vec<Footprint>,
    /// Waiting jobs, longest first; at most [`WAITING_SHOWN`].
    pub waiting: Vec<Waiting>,
    /// How many wait.
    pub waiting_count: usize,
    /// The kernel's counters, as last read.
    pub counters: Counters,
    /// The fences around browsers, where there can be any.
    pub fence: Option<fence::Standing>,
    /// Why other workers on this machine are not seen, where they are not.
    pub unshared: Option<String>,
}

/// The governor at work. Cheap to clone.
#[derive(Clone)]
pub struct Live {
    pub(super) shared: Arc<Shared>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("standing", &self.state().control.standing()).finish()
    }
}

pub(super) struct Shared {
    state: Mutex<State>,
    hands: OnceLock<Arc<dyn Hands>>,
    /// Around browsers, where there can be any.
    fences: OnceLock<Fences>,
    probe: Probe,
    started: Instant,
    /// Counts what may let a waiting job in: samples, releases.
    changed: watch::Sender<u64>,
    /// Whether a job may be claimed, and how many wait.
    room: watch::Sender<(bool, usize)>,
    kick: SyncSender<()>,
}

impl Live {
    /// A governor that has measured nothing yet, and the thread that measures
    /// for it, below `root`; the thread ends with the last clone.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(policy: &Policy, root: &std::path::Path) -> std::io::Result<Self> {
        let (kick, kicked) = sync_channel(1);
        let now = Instant::now();
        let live = Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State::new(policy, Share::join(root))),
                hands: OnceLock::new(),
                fences: OnceLock::new(),
                probe: Probe::at(root),
                started: now,
                changed: watch::Sender::new(0),
                room: watch::Sender::new((false, 0)),
                kick,
            }),
        };
        watcher::start(&live, root, kicked)?;
        Ok(live)
    }

    /// Says who carries out orders; before that, only admissions are decided.
    pub fn attach(&self, hands: Arc<dyn Hands>) {
        if self.shared.hands.set(hands).is_err() {
            tracing::warn!("the memory governor has hands already");
        }
    }

    /// Has fences follow what is free from now on.
    pub(super) fn fence(&self, fences: Fences) {
        if self.shared.fences.set(fences).is_err() {
            tracing::warn!("the memory governor has fences already");
        }
    }

    pub(super) fn fences(&self) -> Option<&Fences> {
        self.shared.fences.get()
    }

    pub(super) fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Duration {
        self.shared.started.elapsed()
    }

    /// Fires when a waiting job may be let in.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// Whether a job may be claimed, how many wait, and the news of it.
    #[must_use]
    pub fn room(&self) -> watch::Receiver<(bool, usize)> {
        self.shared.room.subscribe()
    }

    /// Whether a job may be claimed now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let fits = self.state().control.fits();
        fits.now > 0 || fits.without_idle > 0
    }

    /// Whether a context may be opened that no job has asked for: never while a job waits
    /// for memory. What it may take is promised until it is told of.
    #[must_use]
    pub fn has_room_to_spare(&self) -> bool {
        let now = self.now();
        self.state().promise_spare(now)
    }

    /// The most that may render at once.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.state().control.standing().slots
    }

    /// Jobs that were claimed and wait for memory; who waits for a slot is next anyway.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.state().jobs.values().filter(|job| job.waits_for_memory()).count()
    }

    /// Those of them that are bulk.
    #[must_use]
    pub fn waiting_bulk(&self) -> usize {
        let state = self.state();
        state.jobs.values().filter(|job| job.asked.bulk && job.waits_for_memory()).count()
    }

    /// Whether a document of so many bytes may be known by what it is: only then its
    /// digest is of use.
    #[must_use]
    pub fn may_know(&self, bytes: u64) -> bool {
        let state = self.state();
        state.verdicts.has_length(bytes) || state.outgrown.has_length(bytes)
    }

    /// Changes what the operator allows.
    pub fn reconfigure(&self, bounds: Bounds, floor: u64, most: usize) {
        self.state().control.reconfigure(bounds, floor, most);
        self.tell();
    }

    /// What a document was measured to need, and what there could be for it, if
    /// the first is more.
    #[must_use]
    pub fn too_big(&self, digest: &Digest) -> Option<(u64, u64)> {
        let state = self.state();
        // Of late, not of the moment: neighbours come and go.
        let budget = state.control.usual();
        state.verdicts.too_big(digest, budget).map(|reached| (reached, budget))
    }

    /// A document was killed: alone, it is too big; else it runs alone next time. What
    /// other workers have to know of it.
    pub fn outgrew(&self, digest: Digest, kill: &Kill) -> Option<String> {
        use super::terms::Next;
        let mut state = self.state();
        match kill.next() {
            Next::Requeue | Next::Later => None,
            // That goes with the job.
            Next::Alone { predicted } => {
                state.outgrown.note(digest, predicted);
                None
            }
            Next::Exceeded => {
                state.outgrown.acquit(&digest);
                // With all that there was it was not done.
                let reached = kill.used.max(kill.budget);
                state.verdicts.note(digest, reached);
                Some(verdicts::line(&digest, reached))
            }
        }
    }

    /// A document was rendered after all. What other workers have to know of it.
    pub fn acquit(&self, digest: &Digest) -> Option<String> {
        let mut state = self.state();
        state.outgrown.acquit(digest);
        state.verdicts.acquit(digest).then(|| verdicts::line(digest, 0))
    }

    /// Takes in other workers' verdicts, oldest first.
    pub fn judge(&self, lines: &[String]) {
        let told = verdicts::read(lines);
        self.state().verdicts.absorb(&told);
        // It may be about one that waits.
        self.tell();
    }

    /// What is known of footprints, as text of at most `bytes`, for other workers.
    #[must_use]
    pub fn dump(&self, bytes: usize) -> String {
        self.state().predictor.dump_shared(bytes)
    }

    /// Takes in what another worker knew.
    pub fn absorb(&self, text: &str) {
        self.state().predictor.absorb(text);
    }

    /// An attempt that needs memory, and what it is expected to need.
    #[must_use]
    pub fn ask(&self, asked: Asked) -> Ticket {
        let mut state = self.state();
        let kind = Kind::new(&asked.tenant, &asked.features);
        let predicted = state.predictor.predict(&kind, &asked.features);
        let printed = state.printed.expected(&kind, asked.features.printed(asked.bytes));
        let aside = asked.bytes.saturating_mul(DOCUMENT_COPIES);
        let aside = aside.saturating_add(printed.saturating_mul(RESULT_COPIES));
        let job = JobId(state.next);
        state.next += 1;
        state.jobs.insert(job, Job::new(asked, predicted, aside));
        drop(state);
        Ticket { live: self.clone(), job }
    }

    /// What is known now.
    #[must_use]
    pub fn report(&self) -> Report {
        let fence = self.fences().map(Fences::standing);
        let state = self.state();
        let mut contexts: Vec<Footprint> = state.contexts.values().map(Held::footprint).collect();
        contexts.sort_unstable_by_key(|held| std::cmp::Reverse(held.used_bytes));
        contexts.truncate(CONTEXTS_SHOWN);
        let waits = state.jobs.values().filter(|job| job.waits());
        let waiting_count = waits.clone().count();
        Report {
            standing: state.control.standing(),
            used: state.used,
            bare: state.bare(),
            there: state.free(),
            contexts,
            waiting: waits.filter_map(Job::waiting).take(WAITING_SHOWN).collect(),
            waiting_count,
            counters: state.counters,
            fence,
            unshared: state.share.as_ref().err().cloned(),
        }
    }

    /// Whoever waits asks again; whoever claims looks again.
    pub(super) fn tell(&self) {
        self.shared.changed.send_modify(|count| *count = count.wrapping_add(1));
        self.tell_room();
    }

    fn tell_room(&self) {
        let room = (self.has_room(), self.waiting());
        self.shared.room.send_if_modified(|now| std::mem::replace(now, room) != room);
    }

    /// Has the sampling thread look now, where it was `asleep`.
    fn wake(&self, asleep: bool) {
        // A full channel has been kicked already; a closed one has no thread any more.
        if asleep && self.shared.kick.try_send(()).is_err() {
            tracing::trace!("the sampling thread is awake");
        }
    }

    /// Carries out what [`State::plan`] made of orders.
    pub(super) fn perform(&self, deeds: &[Deed]) {
        let Some(hands) = self.shared.hands.get() else { return };
        for deed in deeds {
            match *deed {
                Deed::Trim(context) => hands.trim(context),
                Deed::Close(context) => hands.close(context),
                Deed::Kill(context, job) => hands.kill(context, job),
            }
        }
    }
}

/// The renderer's news.
impl Live {
    /// A job has a context from now on.
    pub fn entered(&self, job: JobId, context: ContextId, tenant: &Arc<str>, pid: Option<u32>) {
        let mut state = self.state();
        let deed = state.entered(job, context, tenant, pid);
        drop(state);
        self.perform(deed.as_slice());
    }

    /// A job leaves its context; says whether that is to be kept. `seen`: what its process
    /// uses, if that was looked at while it was this job's; else it is looked at here.
    #[must_use]
    pub fn left(&self, job: JobId, context: ContextId, sound: bool, seen: Option<u64>) -> bool {
        let look = || {
            let pid = self.state().contexts.get(&context).and_then(|held| held.pid)?;
            Some(self.shared.probe.used_by(pid))
        };
        // While it is this job's still: nobody else grows it.
        let seen = seen.or_else(look).filter(|seen| *seen > 0);
        let now = self.now();
        let mut state = self.state();
        let keep = state.left(job, context, sound, seen, now);
        // One that no job asked for is opened while the thread sleeps, and is to be seen
        // before what it took is promised.
        let asleep = std::mem::take(&mut state.slow);
        drop(state);
        self.wake(asleep);
        self.tell();
        keep
    }

    /// A context's process has ended.
    pub fn ended(&self, context: ContextId) {
        let now = self.now();
        let mut state = self.state();
        match state.contexts.remove(&context).map(|held| held.state) {
            Some(Use::Busy(job) | Use::Closing(Some(job))) => state.control.gone(job, now),
            Some(Use::Idle { reserved }) => {
                state.control.closed(context);
                if let Some(job) = reserved {
                    state.control.moved(job);
                }
            }
            Some(Use::Closing(None)) | None => {}
        }
    }
}

/// One attempt's claim on memory; see the module's documentation.
#[derive(Debug)]
pub struct Ticket {
    live: Live,
    job: JobId,
}

impl Ticket {
    /// The number by which the renderer tells of it.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.job.0
    }

    /// Unless it finds a warm context, a browser of its own is launched for it: what
    /// that takes is promised as well.
    pub fn brings_browser(&self) {
        if let Some(job) = self.live.state().jobs.get_mut(&self.job) {
            job.browser = true;
        }
    }

    /// Asks to be let in; on refusal, room is made where that helps.
    ///
    /// # Errors
    /// Why it has to wait.
    pub fn enter(&self) -> Result<(), Wait> {
        let live = &self.live;
        let now = live.now();
        let mut state = live.state();
        let (answer, deeds) = state.enter(self.job, now);
        let kick = std::mem::take(&mut state.slow);
        drop(state);
        live.perform(&deeds);
        live.tell_room();
        live.wake(kick);
        answer
    }

    /// What its document is known by, where that came to be of use while it waits.
    pub fn is_known_by(&self, digest: Digest) {
        if let Some(job) = self.live.state().jobs.get_mut(&self.job) {
            job.asked.digest = Some(digest);
        }
    }

    /// Its PDF is there, of so many bytes. What the worker still takes for it stays
    /// promised as long as [`Printed`] is held.
    #[must_use]
    pub fn printed(&self, bytes: usize) -> Printed {
        let bytes = bytes as u64;
        let more = bytes.saturating_mul(SETTLED_COPIES);
        self.live.state().printed(self.job, bytes, more);
        Printed { live: self.live.clone(), more }
    }

    /// The renderer has answered: if it told of no context until now, there is none
    /// (the document was refused, say), and what was promised is free at once.
    pub fn answered(&self) {
        if let Some(job) = self.live.state().jobs.get_mut(&self.job) {
            job.answered = true;
        }
    }

    /// Whether its renderer was ordered to be killed, and why.
    #[must_use]
    pub fn killed(&self) -> Option<Kill> {
        self.live.state().jobs.get(&self.job)?.killed
    }

    /// The kernel killed its renderer before anybody here could: the document runs
    /// alone next time.
    #[must_use]
    pub fn fenced(&self, digest: Digest) -> Option<Fenced> {
        let limit = self.live.fences().and_then(|fences| fences.standing().limit_bytes);
        let mut state = self.live.state();
        let job = state.jobs.get(&self.job)?;
        let used = job.context.and_then(|context| state.contexts.get(&context)).map(|c| c.used);
        let predicted = job.needs;
        let needs = predicted.max(used.unwrap_or(0)).saturating_mul(2);
        state.outgrown.note(digest, needs);
        Some(Fenced { used, predicted, limit, needs })
    }
}

/// What is known of a job whose renderer the kernel killed in its fence, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fenced {
    /// What it was last seen to use.
    pub used: Option<u64>,
    /// What it was predicted to use.
    pub predicted: u64,
    /// The limit of its browser's fence.
    pub limit: Option<u64>,
    /// What it is to have, alone, next time.
    pub needs: u64,
}

/// A PDF that is not settled; see [`Ticket::printed`].
#[derive(Debug)]
pub struct Printed {
    live: Live,
    more: u64,
}

impl Drop for Printed {
    fn drop(&mut self) {
        self.live.state().settled(self.more);
        self.live.tell();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let watched = self.live.shared.hands.get().is_some();
        let now = self.live.now();
        self.live.state().give_up(self.job, watched, now);
        self.live.tell();
    }
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
