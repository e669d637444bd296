//! The thread that measures: every 25 ms while something renders, each second
//! otherwise. It reads `/proc` and the cgroup tree, which would block a
//! runtime's thread, hands the figures to [`Live`] and has orders carried out
//! at once.
//!
//! # What is read when
//!
//! What is free is read every 25 ms ([`Sampler::glance`], two files). All processes are
//! read with it, a dozen files, unless there is leisure; then every [`LEISURE`], four
//! times as seldom. There is leisure where
//!
//! - what is free is within [`NOTICE`] of what it was when all were read: whatever takes
//!   memory, a renderer or a neighbour, takes it from there, so a surge is seen as soon as
//!   ever;
//! - room is ample: below all that was promised and all that stays free, renderers could
//!   grow on every core for all of that time, twice as fast as was ever measured, while a
//!   neighbour gave back just as much, so that what is free does not move
//!   ([`Control::is_at_ease`](super::control::Control::is_at_ease));
//! - nothing waits for memory, no job runs alone, the pressure is nominal, nothing is on
//!   its way back, no other worker counts on fresh figures, and no renderer is new.
//!
//! Else it goes on as fast as ever. What leaves and what comes later by that: an idle context
//! is trimmed, a fence is lowered up to 75 ms later; a budget is overrun by no more, since
//! that is room too.
//!
//! It ends with the last clone of [`Live`]. Where memory cannot be read, the last
//! figures stand, and it is said once.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::books::{Job, Use};
use super::live::{Live, Shared};
use super::probe::Probe;
use super::reserve::SETTLING;
use super::sampler::{Pace, Reading, Sampler};
use super::terms::{ContextId, JobId, Sample};

/// How often it is measured while something renders.
const PERIOD: Duration = Duration::from_millis(25);
/// How often all processes are, where there is leisure.
const LEISURE: Duration = Duration::from_millis(100);
/// What is free moved by more: all are read at once.
const NOTICE: u64 = 16 << 20;
/// How often it is measured otherwise.
const IDLE_PERIOD: Duration = Duration::from_secs(1);
/// It stays awake for so long after a render: the next is likely.
const LINGER: Duration = Duration::from_secs(1);

/// It is looked around for processes beside the renderers so often: every thread of the
/// worker and its browsers has to be asked for its children.
const LOOK_AROUND: Duration = Duration::from_secs(1);
/// And so often where renderers come or go.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// What is more than this is not free at once when it is given back.
const LARGE: u64 = 32 << 20;
/// More than this, and fences do not wait for their second.
const MUCH_MORE: u64 = 16 << 20;

/// Starts the thread.
///
/// # Errors
/// Where there can be none.
pub(super) fn start(live: &Live, root: &Path, kicked: Receiver<()>) -> std::io::Result<()> {
    let weak = Arc::downgrade(&live.shared);
    let mut eyes = Eyes::new(root);
    // Before anybody asks: nothing is let in without a sample.
    eyes.look(live);
    let thread = std::thread::Builder::new().name("governor".to_owned());
    thread.spawn(move || watch(&weak, &mut eyes, &kicked)).map(drop)
}

fn watch(weak: &Weak<Shared>, eyes: &mut Eyes, kicked: &Receiver<()>) {
    let mut period = PERIOD;
    loop {
        // Kicked or not, it is time to look.
        let kicked = match kicked.recv_timeout(period) {
            Err(RecvTimeoutError::Disconnected) => return,
            kicked => kicked.is_ok(),
        };
        let Some(shared) = weak.upgrade() else { return };
        let live = Live { shared };
        if kicked || !eyes.glance(&live, live.now()) {
            eyes.look(&live);
        }
        period = if live.pace() { PERIOD } else { IDLE_PERIOD };
    }
}

/// What is looked through, and at what.
struct Eyes {
    sampler: Sampler,
    probe: Probe,
    watched: HashSet<u32>,
    /// Processes beside the contexts': the worker, browsers and their helpers.
    others: Vec<u32>,
    looked_around: Option<Duration>,
    /// The contexts as of the last time.
    contexts: Vec<Seen>,
    /// Whether renderers came or went since it was looked around.
    moved: bool,
    blind: bool,
    /// When all were read last, and what was free then.
    read: Option<(Duration, u64)>,
    /// What all of them used when last seen.
    own: u64,
    /// What was free, and what was free or ours, when the fences were moved last.
    fenced: (u64, u64),
    /// Memory that is given back is not free at once.
    settles_until: Option<Duration>,
}

/// Whose a context's process is.
type Seen = (ContextId, Option<JobId>, u32);

impl Eyes {
    fn new(root: &Path) -> Self {
        Self {
            sampler: Sampler::at(root),
            probe: Probe::at(root),
            watched: HashSet::new(),
            others: vec![std::process::id()],
            looked_around: None,
            contexts: Vec::new(),
            moved: false,
            blind: false,
            read: None,
            own: 0,
            fenced: (0, 0),
            settles_until: None,
        }
    }

    /// Looks at what is free alone, and says whether that will do this time; see the
    /// module's documentation.
    fn glance(&mut self, live: &Live, now: Duration) -> bool {
        let Some((last, before)) = self.read else { return false };
        // No sleep is exact.
        let is_due = now.saturating_sub(last) + PERIOD / 2 >= LEISURE;
        if is_due || self.settles_until.is_some_and(|until| now < until) {
            return false;
        }
        let Ok(free) = self.sampler.glance() else { return false };
        let mut state = live.state();
        let mut pids = state.contexts.values().filter_map(|held| held.pid);
        let will_do = free.abs_diff(before) <= NOTICE
            && pids.all(|pid| self.watched.contains(&pid))
            && !state.jobs.values().any(Job::waits_for_memory)
            && state.control.is_at_ease(before.saturating_sub(free), LEISURE);
        if will_do {
            let aside = state.steps_aside(now);
            drop(state);
            if let Some(fences) = live.fences() {
                fences.step_aside(aside);
            }
        }
        will_do
    }

    fn look(&mut self, live: &Live) {
        self.read = None;
        let contexts = self.contexts(live);
        let now = live.now();
        self.attend(contexts.clone(), now);
        // After what it costs to look around: the sample begins here.
        let at = live.now();
        match self.sampler.sample(at) {
            Ok(reading) => {
                self.blind = false;
                self.read = Some((at, reading.memory.free()));
                self.fence(live, &reading);
                let mut running = Vec::new();
                let mut idle = Vec::new();
                let used = |pid| self.sampler.used(pid);
                for (context, job, pid) in &contexts {
                    let Some(used) = used(*pid) else { continue };
                    match job {
                        Some(job) => running.push((*job, used)),
                        None => idle.push((*context, used)),
                    }
                }
                let sample = Sample {
                    at,
                    free: reading.memory.free(),
                    own: reading.own,
                    running: &running,
                    idle: &idle,
                };
                let mut state = live.state();
                for (context, _, pid) in &contexts {
                    if let (Some(held), Some(used)) = (state.contexts.get_mut(context), used(*pid))
                    {
                        held.used = used;
                    }
                }
                state.available = reading.memory.available;
                state.limits.clear();
                state.limits.extend_from_slice(self.sampler.limits());
                state.hear(at);
                // Theirs as well as ours.
                let theirs = state.control.elsewhere();
                let own = reading.own.saturating_add(theirs.before);
                if self.own.saturating_sub(own) > LARGE {
                    self.settles_until = Some(at + SETTLING);
                }
                self.own = reading.own.saturating_add(theirs.used);
                let stalls = reading.counters.map(|counters| counters.stalls);
                let orders = if self.settles_until.is_some_and(|until| at < until) {
                    state.control.sample_unsettled(&sample, stalls)
                } else {
                    state.control.sample(&sample, stalls)
                };
                state.used = reading.own;
                state.say(at);
                if let Some(counters) = reading.counters {
                    state.counters = counters;
                    state.sweep();
                }
                let mut deeds = state.plan(&orders);
                deeds.extend(state.fat_idle(at));
                let aside = state.steps_aside(at);
                drop(state);
                if let Some(fences) = live.fences() {
                    fences.step_aside(aside);
                }
                live.perform(&deeds);
                live.tell();
            }
            Err(error) => {
                // Nobody looks whether it costs them anything.
                if let Some(fences) = live.fences() {
                    fences.step_aside(false);
                }
                if !std::mem::replace(&mut self.blind, true) {
                    tracing::warn!(%error, "memory cannot be measured; the last figures stand");
                }
            }
        }
    }

    /// Moves the fences each second, and at once where there is more to be had: the
    /// ledger may grant it now.
    fn fence(&mut self, live: &Live, reading: &Reading) {
        let Some(fences) = live.fences() else { return };
        let free = reading.memory.free();
        let there = free.saturating_add(reading.own);
        // What one browser gave back is there for another, behind a fence of its own.
        let more = |now: u64, then: u64| now > then.saturating_add(MUCH_MORE);
        if reading.counters.is_some() || more(free, self.fenced.0) || more(there, self.fenced.1) {
            self.fenced = (free, there);
            fences.follow(free);
        }
    }

    fn contexts(&self, live: &Live) -> Vec<Seen> {
        let state = live.state();
        let known = state.contexts.iter();
        known
            .filter_map(|(context, held)| {
                let job = match held.state {
                    Use::Busy(job) | Use::Closing(Some(job)) => Some(job),
                    Use::Idle { reserved } => reserved,
                    Use::Closing(None) => None,
                };
                Some((*context, job, held.pid?))
            })
            .collect()
    }

    /// Watches the processes that there are, and no others.
    fn attend(&mut self, contexts: Vec<Seen>, now: Duration) {
        let pids = contexts.iter().map(|(.., pid)| pid);
        self.moved |= pids.ne(self.contexts.iter().map(|(.., pid)| pid));
        let due = if self.moved { LOOK_AGAIN } else { LOOK_AROUND };
        let look = self.looked_around.is_none_or(|last| now.saturating_sub(last) >= due);
        if !look && contexts == self.contexts {
            return;
        }
        if look {
            (self.looked_around, self.moved) = (Some(now), false);
            let leaves: HashSet<u32> = contexts.iter().map(|(.., pid)| *pid).collect();
            self.others = self.probe.tree(std::process::id(), |pid| leaves.contains(&pid));
        }
        let mut wanted: HashMap<u32, Pace> =
            self.others.iter().map(|pid| (*pid, Pace::Busy)).collect();
        for (_, job, pid) in &contexts {
            // What others take is what is neither free nor ours, so ours is read
            // closely; but idle pages do not change.
            wanted.insert(*pid, if job.is_some() { Pace::Busy } else { Pace::Idle });
        }
        for pid in self.watched.iter().filter(|pid| !wanted.contains_key(pid)) {
            self.sampler.forget(*pid);
        }
        for (pid, pace) in &wanted {
            self.sampler.watch(*pid, *pace);
        }
        self.watched = wanted.into_keys().collect();
        self.contexts = contexts;
    }
}

impl Live {
    /// Whether something renders, or is about to; else the thread may sleep long.
    fn pace(&self) -> bool {
        let mut state = self.state();
        let busy = !state.jobs.is_empty() || state.last_left.elapsed() < LINGER;
        state.slow = !busy;
        busy
    }
}

#[cfg(test)]
#[path = "cost_tests.rs"]
mod tests;
