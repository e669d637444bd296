//! The last fence: a control group around each browser, with a limit above what
//! the ledger grants, so that the ledger acts first; and should the kernel have to
//! kill, it kills in there.
//!
//! ```text
//! prepare ─▶ Fences ── raise ─▶ Fence ── take_in(first process), before Chromium runs
//!  (ground)    │ ▲                │
//!              │ └─ follow: the limit moves with what is free, and with memory.limit
//!              └─ standing        └─ take_down, or dropped: removed now or later
//! ```
//!
//! The limit is what the browser holds and what is free beside it, less a
//! sixteenth of the reserve: the ledger's own line is at a quarter. Where the
//! operator set `memory.limit`, it is at most that, plus a sixteenth and 32 MiB
//! for what the kernel holds in a browser's name and neither limit nor ledger
//! counts; the reserve lifts it never. It is never put close above what is used: that would
//! kill by itself. Nothing in a fence is swapped out.
//!
//! The CPU weight is that of one thread for each core at the browsers' niceness:
//! within a group of their own, niceness says nothing to those outside. Under load they
//! are *idle* to the scheduler instead, as long as that costs them nothing
//! ([`deference`](super::deference)).
//!
//! A process that the kernel kills in a fence was killed at the fence's own limit, or at
//! one above it, or because the machine had none left. In version 2 the fence counts the
//! first apart. In version 1 it does not; there the kernel tries to charge sixteen times
//! (five before Linux 5.9) and counts each failure at the limit that was reached, before
//! it kills. So the tries of the last second or two are compared, the fence's with those
//! of the groups above: a limit that was reached long ago, by files that could be given
//! back, says nothing.
//!
//! A fence bounds processes and threads too ([`TASKS`]): the kernel does not apply
//! RLIMIT_NPROC to root, and a jail that root made is root's outside.
//!
//! Failures: groups cannot be made here ([`ground`]), and browsers go without; a
//! limit cannot be written, and the old one stands; a group cannot be removed, and
//! is tried again, by this worker or by the next one.

mod cores;
mod ground;

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use cores::Cores;

use super::Governor;
use super::cgroup::{self, Version};
pub use ground::{Outlook, outlook};

/// What the kernel may hold for a browser beyond a sixteenth of its limit.
const KERNEL_BYTES: u64 = 32 << 20;
/// A limit is never closer above what is used.
const CLEARANCE: u64 = 32 << 20;
/// Smaller changes of the limit are not worth writing.
const STEP: u64 = 8 << 20;
/// What failed to be charged so often was not reclaimed: the kernel kills.
const TRIES: u64 = 16;
/// Processes and threads in one fence: a context has about 15, a browser 80, and
/// there are at most 256 contexts.
const TASKS: u64 = 8192;

/// What bounds the fences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bounds {
    /// What is free on the machine or in the tightest group.
    free: u64,
    /// The operator's limit for worker and Chromium.
    limit: Option<u64>,
    reserve: u64,
}

impl Bounds {
    /// The limit for a browser that uses `used` bytes, of which `cached` can be had back.
    fn limit(&self, used: u64, cached: u64) -> u64 {
        let held = used.saturating_sub(cached);
        let there = held.saturating_add(self.free).saturating_sub(self.reserve / 16);
        let granted = self.limit.map_or(u64::MAX, |limit| {
            limit.saturating_add(limit / 16).saturating_add(KERNEL_BYTES)
        });
        there.min(granted).max(used.saturating_add(CLEARANCE))
    }
}

/// What fences do, for operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Standing {
    /// The limit of the newest fence, in bytes; `None` while there is none.
    pub limit_bytes: Option<u64>,
    /// Whether the group above counts them too, as in version 2.
    upwards: bool,
    /// Processes that the kernel killed in fences that were full.
    pub kills: u64,
    /// Processes that it killed in fences that were not: it needed memory elsewhere.
    pub outer_kills: u64,
}

impl Standing {
    /// Kills for want of memory that no full fence is the reason of, where the
    /// worker's own group counted `own`.
    #[must_use]
    pub fn outside(&self, own: u64) -> u64 {
        if self.upwards { own.saturating_sub(self.kills) } else { own + self.outer_kills }
    }
}

/// Makes fences. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Fences {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    memory: (Version, PathBuf),
    cpu: Option<(Version, PathBuf)>,
    tasks: Option<(Version, PathBuf)>,
    weight: f64,
    pid: u32,
    next: AtomicU32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    bounds: Bounds,
    standing: Vec<Weak<Group>>,
    /// Of fences that are gone.
    kills: u64,
    outer_kills: u64,
    /// Groups that could not be removed yet.
    left: Vec<PathBuf>,
    failing: bool,
}

/// The groups of one fence.
#[derive(Debug)]
struct Group {
    version: Version,
    memory: PathBuf,
    /// Of the same name, in other hierarchies: for cores, for tasks.
    beside: Vec<PathBuf>,
    cores: Option<Cores>,
    limit: AtomicU64,
    counted: Mutex<Counted>,
    /// What was killed in it, once it is gone.
    ended: OnceLock<(u64, u64)>,
}

/// How often a limit was reached: the fence's own, and those above it.
#[derive(Debug, Clone, Copy, Default)]
struct Reached {
    own: u64,
    above: u64,
}

/// Processes killed in a fence.
#[derive(Debug, Default)]
struct Counted {
    /// At its own limit.
    inside: u64,
    /// At another one, or the machine's.
    outside: u64,
    /// As of the last time that the limit was looked at, and the time before: a kill's
    /// tries come before it, so that one look may fall in between.
    reached: [Reached; 2],
}

/// Which limit the kernel has killed a process in a fence for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Killed {
    /// The fence's own.
    Inside,
    /// One above it, or the machine's memory.
    Outside,
}

/// One fence. Dropping it takes it down.
#[derive(Debug)]
pub struct Fence {
    group: Arc<Group>,
    /// Kills that somebody was told of: inside, and outside.
    claimed: [AtomicU64; 2],
    shared: Arc<Shared>,
}

impl Fences {
    /// Makes ready what is needed on the machine below `root`, in version 2 by
    /// moving the process `pid` and what it started into a group below its own;
    /// removes what workers before left behind. `nice`: the browsers' niceness;
    /// `cores`: those that they can use.
    ///
    /// # Errors
    /// Why groups cannot be made, with what to do about it.
    pub fn prepare(root: &Path, pid: u32, nice: u8, cores: usize) -> Result<Self, String> {
        let ground::Places { memory, cpu, tasks } = ground::prepare(root, pid)?;
        for dir in [Some(&memory), cpu.as_ref(), tasks.as_ref()].into_iter().flatten() {
            ground::sweep(root, &dir.1);
        }
        #[allow(clippy::cast_precision_loss, reason = "cores are few")]
        let weight = 1.25_f64.powi(-i32::from(nice)) * cores.max(1) as f64;
        let bounds = Bounds { free: u64::MAX, limit: None, reserve: 0 };
        let (standing, left) = (Vec::new(), Vec::new());
        let state = State { bounds, standing, kills: 0, outer_kills: 0, left, failing: false };
        let next = AtomicU32::new(1);
        let shared = Shared { memory, cpu, tasks, weight, pid, next, state: Mutex::new(state) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Where groups are made: for memory, and for the cores where that can be.
    #[must_use]
    pub fn places(&self) -> (&Path, Option<&Path>) {
        (&self.shared.memory.1, self.shared.cpu.as_ref().map(|(_, dir)| dir.as_path()))
    }

    /// Where groups that bound processes and threads are made, if they can be.
    #[must_use]
    pub fn tasks(&self) -> Option<&Path> {
        self.shared.tasks.as_ref().map(|(_, dir)| dir.as_path())
    }

    /// A fence around nothing yet.
    ///
    /// # Errors
    /// If the group or its limit cannot be made; then nothing is left of it.
    pub fn raise(&self) -> io::Result<Fence> {
        let shared = &self.shared;
        shared.state().clear();
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("tillroll-{}-{number}", shared.pid);
        let (version, ref base) = shared.memory;
        let memory = base.join(&name);
        make(&memory)?;
        let bounds = shared.state().bounds;
        let made = Group {
            version,
            memory,
            beside: Vec::new(),
            cores: None,
            limit: AtomicU64::new(0),
            counted: Mutex::default(),
            ended: OnceLock::new(),
        };
        let mut group = match made.set_limit(bounds.limit(0, 0)) {
            Ok(()) => made,
            Err(error) => {
                remove(&made.memory);
                return Err(error);
            }
        };
        group.keep_in_memory();
        let mut beside = |dir: PathBuf| {
            // In version 2 it is the same group.
            if dir != group.memory && !group.beside.contains(&dir) {
                group.beside.push(dir);
            }
        };
        if let Some((version, base)) = &shared.cpu {
            match Cores::new(*version, base.join(&name), shared.weight) {
                Ok(cores) => {
                    beside(cores.dir().to_owned());
                    group.cores = Some(cores);
                }
                Err(error) => tracing::warn!(%error, "a browser goes without a CPU weight"),
            }
        }
        if let Some((_, base)) = &shared.tasks {
            match put(&base.join(&name), "pids.max", &TASKS.to_string()) {
                Ok(()) => beside(base.join(&name)),
                Err(error) => tracing::warn!(%error, "a browser's processes have no limit"),
            }
        }
        let group = Arc::new(group);
        shared.state().standing.push(Arc::downgrade(&group));
        Ok(Fence { group, claimed: Default::default(), shared: Arc::clone(shared) })
    }

    /// What the operator allows worker and Chromium together, from now on.
    pub fn allow(&self, limit: Option<u64>, reserve: u64) {
        let free = {
            let mut state = self.shared.state();
            (state.bounds.limit, state.bounds.reserve) = (limit, reserve);
            state.bounds.free
        };
        self.follow(free);
    }

    /// Moves the limits: so much is free now.
    pub fn follow(&self, free: u64) {
        let mut state = self.shared.state();
        state.bounds.free = free;
        state.clear();
        state.standing.retain(|group| group.strong_count() > 0);
        let groups: Vec<_> = state.standing.iter().filter_map(Weak::upgrade).collect();
        let bounds = state.bounds;
        let failures: Vec<_> =
            groups.iter().filter_map(|group| group.follow(bounds).err()).collect();
        let failed = failures.first();
        let news = failed.is_some() != std::mem::replace(&mut state.failing, failed.is_some());
        drop(state);
        if let Some(error) = failed.filter(|_| news) {
            tracing::warn!(%error, "a browser's fence cannot be moved; it stands where it was");
        }
    }

    /// Has browsers get only what nobody else wants of the cores, or their weight.
    pub fn step_aside(&self, idle: bool) {
        let groups: Vec<_> =
            self.shared.state().standing.iter().filter_map(Weak::upgrade).collect();
        for cores in groups.iter().filter_map(|group| group.cores.as_ref()) {
            cores.step_aside(idle);
        }
    }

    /// What they do now. Reads two small files for each.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let state = self.shared.state();
        let (mut kills, mut outer_kills) = (state.kills, state.outer_kills);
        let groups: Vec<_> = state.standing.iter().filter_map(Weak::upgrade).collect();
        drop(state);
        for group in &groups {
            let (inner, outer) = group.kills();
            (kills, outer_kills) = (kills + inner, outer_kills + outer);
        }
        let limit_bytes = groups.last().map(|group| group.limit.load(Ordering::Relaxed));
        let upwards = self.shared.memory.0 == Version::Two;
        Standing { limit_bytes, upwards, kills, outer_kills }
    }
}

impl Governor {
    /// Has the fences around browsers follow what is free and what the operator
    /// decided. Only with a ledger: without one nothing is to be killed.
    pub fn fence(&self, fences: Fences) {
        let settings = *self.settings();
        fences.allow(settings.limit, settings.reserve);
        if let Some(memory) = self.measure() {
            fences.follow(memory.free());
        }
        if let Some(live) = self.live() {
            live.fence(fences);
        }
    }
}

impl Fence {
    /// Takes in a process, with all that it starts from then on.
    ///
    /// # Errors
    /// If the system refuses. It may be in one of its groups then.
    pub fn take_in(&self, pid: u32) -> io::Result<()> {
        for dir in &self.group.beside {
            fs::write(dir.join("cgroup.procs"), pid.to_string())?;
        }
        fs::write(self.group.memory.join("cgroup.procs"), pid.to_string())
    }

    /// Whether the kernel killed a process in it for want of memory that nobody
    /// was told of yet, and for which limit.
    #[must_use]
    pub fn claim_kill(&self) -> Option<Killed> {
        let (inside, outside) = self.group.kills();
        let [of_inside, of_outside] = &self.claimed;
        let claim = |claimed: &AtomicU64, kills: u64| {
            let more = |claimed: u64| (claimed < kills).then_some(claimed + 1);
            claimed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
        };
        if claim(of_inside, inside) {
            return Some(Killed::Inside);
        }
        claim(of_outside, outside).then_some(Killed::Outside)
    }

    /// The group that bounds its memory.
    #[must_use]
    pub fn place(&self) -> &Path {
        &self.group.memory
    }

    /// Removes it; true if nothing is left of it.
    #[must_use]
    pub fn take_down(&self) -> bool {
        let group = &self.group;
        let kills = group.kills();
        let gone = remove(&group.memory);
        if gone {
            self.end(kills);
        }
        // All of them, whatever becomes of the first.
        group.beside.iter().fold(gone, |gone, dir| remove(dir) && gone)
    }

    /// Takes note of what was killed in it, once.
    fn end(&self, (inner, outer): (u64, u64)) {
        if self.group.ended.set((inner, outer)).is_ok() {
            let mut state = self.shared.state();
            (state.kills, state.outer_kills) = (state.kills + inner, state.outer_kills + outer);
            // From here on it is counted with those that are gone.
            state.standing.retain(|group| group.as_ptr() != Arc::as_ptr(&self.group));
        }
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        if !self.take_down() {
            self.end(self.group.kills());
            let dirs = std::iter::once(&self.group.memory).chain(&self.group.beside);
            self.shared.state().left.extend(dirs.cloned());
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Tries again to remove what could not be removed.
    fn clear(&mut self) {
        self.left.retain(|dir| !remove(dir));
    }
}

impl Group {
    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.memory.join(name)).unwrap_or_default()
    }

    /// Processes killed in it: at its own limit, and at somebody else's.
    fn kills(&self) -> (u64, u64) {
        self.count(false)
    }

    /// Looks at the counters; `on`: what they say now is what the next kills are compared with.
    fn count(&self, on: bool) -> (u64, u64) {
        if let Some(kills) = self.ended.get() {
            return *kills;
        }
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        // Kills first: what failed before them is then counted too.
        let kills = cgroup::field(&self.read(self.version.kills()), "oom_kill ").unwrap_or(0);
        let reached = self.reached();
        let fresh = kills.saturating_sub(counted.inside + counted.outside);
        if reached.killed_since(counted.reached[0]) {
            counted.inside += fresh;
        } else {
            counted.outside += fresh;
        }
        if on {
            counted.reached = [counted.reached[1], reached];
        }
        (counted.inside, counted.outside)
    }

    fn reached(&self) -> Reached {
        let times = |dir: &Path| -> Option<u64> {
            fs::read_to_string(dir.join("memory.failcnt")).ok()?.trim().parse().ok()
        };
        match self.version {
            Version::One => Reached {
                own: times(&self.memory).unwrap_or(0),
                above: self.memory.ancestors().skip(1).map_while(times).sum(),
            },
            // Counted only where nothing could be reclaimed.
            Version::Two => {
                let times = cgroup::field(&self.read("memory.events"), "oom ").unwrap_or(0);
                Reached { own: times.saturating_mul(TRIES), above: 0 }
            }
        }
    }

    fn follow(&self, bounds: Bounds) -> io::Result<()> {
        self.count(true);
        let usage = self.read(self.version.usage());
        // It is being taken down.
        let Ok(used) = usage.trim().parse() else { return Ok(()) };
        let cached = cgroup::field(&self.read("memory.stat"), self.version.inactive_file());
        let limit = bounds.limit(used, cached.unwrap_or(0));
        if limit.abs_diff(self.limit.load(Ordering::Relaxed)) < STEP {
            return Ok(());
        }
        self.set_limit(limit)
    }

    fn set_limit(&self, limit: u64) -> io::Result<()> {
        // The kernel's numbers are signed, and count whole pages.
        let limit = limit.min(i64::MAX as u64) >> 12 << 12;
        let file = match self.version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        };
        fs::write(self.memory.join(file), limit.to_string())?;
        self.limit.store(limit, Ordering::Relaxed);
        Ok(())
    }

    /// Swap is not room, and documents do not belong on a disk. A kernel without
    /// swap lacks these files.
    fn keep_in_memory(&self) {
        let (file, value) = match self.version {
            Version::One => ("memory.swappiness", "0"),
            Version::Two => ("memory.swap.max", "0"),
        };
        if let Err(error) = fs::write(self.memory.join(file), value) {
            tracing::debug!(%error, file, "a browser may be swapped out");
        }
    }
}

impl Reached {
    /// Whether a process that was killed since then was killed at the fence's own limit.
    fn killed_since(self, then: Self) -> bool {
        let own = self.own.saturating_sub(then.own);
        own >= TRIES || own > self.above.saturating_sub(then.above)
    }
}

/// Writes a value of a group, which is made if it is not there yet.
fn put(dir: &Path, file: &str, value: &str) -> io::Result<()> {
    let made = match fs::create_dir(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        made => made.is_ok(),
    };
    fs::write(dir.join(file), value).inspect_err(|_| {
        if made {
            remove(dir);
        }
    })
}

/// Makes a group; one of that name was left by a worker that had our pid before us, as
/// the first process of a container always has.
fn make(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && remove(dir) => {
            fs::create_dir(dir)
        }
        made => made,
    }
}

/// Removes a group; true if it is gone.
fn remove(dir: &Path) -> bool {
    match fs::remove_dir(dir) {
        Ok(()) => true,
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests;
