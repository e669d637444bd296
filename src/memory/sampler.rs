//! The probe that the governor looks through all the time: the same figures as
//! [`super::probe::Probe`], forty times a second, at next to no cost.
//!
//! Files stay open and are read again from their start into one buffer, so that
//! a reading is one system call and no path is walked (3 µs for a process's
//! `status`, 8 µs for `memory.stat`). Renderers that work are read each time,
//! idle ones each second, limits and the kernel's counters each second. Between two
//! readings [`Sampler::glance`] tells what is free, and nothing else, for 8 µs. A file
//! of `/proc/<pid>` that stays open belongs to that process for ever: when it
//! has ended, reading fails, and another process with its number is not mistaken
//! for it.
//!
//! Processes are read first and free memory last, as the ledger wants it.

use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cgroup::{self, Version};
use super::ladder::Stalls;
use super::probe::{Cgroup, Memory, ProbeError, private_bytes};

/// How often what changes slowly is read.
const SLOW: Duration = Duration::from_secs(1);
/// How often it is looked up where the groups are.
const RESOLVE: Duration = Duration::from_secs(30);

/// How closely a process is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// At each sample: its renderer works.
    Busy,
    /// Each second.
    Idle,
}

/// One reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// When it began, as the caller said.
    pub at: Duration,
    /// Free memory and the tightest limit.
    pub memory: Memory,
    /// Private memory of all watched processes, as last read, in bytes.
    pub own: u64,
    /// The kernel's counters, where they were read this time.
    pub counters: Option<Counters>,
}

/// The kernel's counters. What the kernel does not count is 0 or `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Counters {
    /// Stalls and swap-in of our own group where it counts them, else the machine's.
    pub stalls: Stalls,
    /// Processes of our own group that the kernel has killed for want of memory.
    pub oom_kills: Option<u64>,
    /// The same of the whole machine.
    pub machine_oom_kills: Option<u64>,
}

/// A limit above this process, and what it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The number of its group's directory: the same for all who are below it.
    pub group: u64,
    /// What can still be taken before it, in bytes.
    pub free: u64,
}

/// A file that stays open.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    file: Option<File>,
}

/// A group with its files.
#[derive(Debug)]
struct Level {
    limits: Vec<Kept>,
    usage: Kept,
    stat: Kept,
    limit: Option<u64>,
    /// Its inactive file pages, as of the last sample.
    inactive: u64,
    /// The number of its directory.
    group: u64,
}

#[derive(Debug)]
struct Watched {
    status: Kept,
    pace: Pace,
    read: Option<Duration>,
    /// `None` once it has ended.
    used: Option<u64>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Sampler {
    root: PathBuf,
    buffer: Vec<u8>,
    meminfo: Kept,
    version: Version,
    levels: Vec<Level>,
    /// As of the last sample, nearest first.
    limits: Vec<Limit>,
    pressure: Vec<Kept>,
    kills: Option<Kept>,
    vmstat: Kept,
    slow: Option<Duration>,
    resolved: Option<Duration>,
    watched: HashMap<u32, Watched>,
}

impl Kept {
    fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    /// Reads all of it; a file that is gone is looked for again the next time.
    fn read<'a>(&mut self, buffer: &'a mut Vec<u8>) -> std::io::Result<&'a str> {
        self.read_with(buffer, fill)
    }

    /// The same of a file that the kernel writes in one piece: most, but not `vmstat`.
    fn read_piece<'a>(&mut self, buffer: &'a mut Vec<u8>) -> std::io::Result<&'a str> {
        self.read_with(buffer, fill_at_once)
    }

    fn read_with<'a>(
        &mut self,
        buffer: &'a mut Vec<u8>,
        fill: fn(&File, &mut Vec<u8>) -> std::io::Result<usize>,
    ) -> std::io::Result<&'a str> {
        let file = match &mut self.file {
            Some(file) => file,
            closed => closed.insert(File::open(&self.path)?),
        };
        match fill(file, buffer) {
            Ok(length) => {
                std::str::from_utf8(&buffer[..length]).map_err(|_| ErrorKind::InvalidData.into())
            }
            Err(error) => {
                self.file = None;
                Err(error)
            }
        }
    }
}

/// Reads once where that is all: it left room, and ends where a line does.
fn fill_at_once(file: &File, buffer: &mut Vec<u8>) -> std::io::Result<usize> {
    if buffer.is_empty() {
        buffer.resize(4096, 0);
    }
    let length = match file.read_at(buffer, 0) {
        Err(error) if error.kind() == ErrorKind::Interrupted => 0,
        read => read?,
    };
    match length {
        length if length < buffer.len() && buffer[..length].ends_with(b"\n") => Ok(length),
        length => fill_from(file, buffer, length),
    }
}

fn fill(file: &File, buffer: &mut Vec<u8>) -> std::io::Result<usize> {
    fill_from(file, buffer, 0)
}

/// Reads what comes behind the `length` bytes that are there.
fn fill_from(file: &File, buffer: &mut Vec<u8>, mut length: usize) -> std::io::Result<usize> {
    loop {
        if length == buffer.len() {
            buffer.resize((length * 2).max(4096), 0);
        }
        match file.read_at(&mut buffer[length..], length as u64) {
            Ok(0) => return Ok(length),
            Ok(more) => length += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl Default for Sampler {
    fn default() -> Self {
        Self::at("/")
    }
}

impl Sampler {
    /// A sampler of the machine whose `/proc` and `/sys` stand below `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self {
            buffer: Vec::new(),
            meminfo: Kept::new(root.join("proc/meminfo")),
            version: Version::Two,
            levels: Vec::new(),
            limits: Vec::new(),
            pressure: Vec::new(),
            kills: None,
            vmstat: Kept::new(root.join("proc/vmstat")),
            slow: None,
            resolved: None,
            watched: HashMap::new(),
            root,
        }
    }

    /// Watches a process from now on, or watches it at another pace.
    pub fn watch(&mut self, pid: u32, pace: Pace) {
        let status = || Kept::new(self.root.join(format!("proc/{pid}/status")));
        let watched = self.watched.entry(pid).or_insert_with(|| Watched {
            status: status(),
            pace,
            read: None,
            used: Some(0),
        });
        watched.pace = pace;
    }

    /// Watches a process no longer.
    pub fn forget(&mut self, pid: u32) {
        self.watched.remove(&pid);
    }

    /// Processes watched.
    #[must_use]
    pub fn watching(&self) -> usize {
        self.watched.len()
    }

    /// What a watched process was last seen to use; `None` once it has ended.
    #[must_use]
    pub fn used(&self, pid: u32) -> Option<u64> {
        self.watched.get(&pid)?.used
    }

    /// Reads one watched process now, whatever its pace.
    pub fn look_at(&mut self, pid: u32, now: Duration) -> Option<u64> {
        let watched = self.watched.get_mut(&pid)?;
        watched.look(&mut self.buffer, now);
        watched.used
    }

    /// Reads what is due.
    ///
    /// # Errors
    /// Where `/proc/meminfo` has no `MemAvailable`. A group that cannot be read counts as none.
    pub fn sample(&mut self, now: Duration) -> Result<Reading, ProbeError> {
        for watched in self.watched.values_mut() {
            if watched.due(now) {
                watched.look(&mut self.buffer, now);
            }
        }
        let used = self.watched.values().filter_map(|watched| watched.used);
        let own = used.fold(0, u64::saturating_add);
        let slow = self.slow.is_none_or(|last| now.saturating_sub(last) >= SLOW);
        if slow {
            self.slow = Some(now);
            self.look_up(now);
        }
        let counters = slow.then(|| self.counters());
        let available = self.available()?;
        let cgroup = self.tightest();
        Ok(Reading { at: now, memory: Memory { available, cgroup }, own, counters })
    }

    /// What is free now, by the machine and by the limits as they were at the last sample.
    /// Page caches of a group that came or went since then count as if they had not.
    ///
    /// # Errors
    /// As [`Self::sample`].
    pub fn glance(&mut self) -> Result<u64, ProbeError> {
        let available = self.available()?;
        let buffer = &mut self.buffer;
        let within = self.levels.iter_mut().filter_map(|level| {
            let limit = level.limit?;
            Some(limit.saturating_sub(level.usage(buffer)?.saturating_sub(level.inactive)))
        });
        Ok(within.fold(available, u64::min))
    }

    fn available(&mut self) -> Result<u64, ProbeError> {
        self.meminfo
            .read_piece(&mut self.buffer)
            .map_err(|source| ProbeError::reading(self.meminfo.path.clone(), source))
            .map(|text| cgroup::field(text, "MemAvailable:"))?
            .map(|kib| kib.saturating_mul(1024))
            .ok_or_else(|| ProbeError::missing(self.meminfo.path.clone()))
    }

    /// The group above this process that has the least room.
    fn tightest(&mut self) -> Option<Cgroup> {
        let (version, buffer, limits) = (self.version, &mut self.buffer, &mut self.limits);
        limits.clear();
        let read = |level: &mut Level| {
            let limit = level.limit?;
            let usage = level.usage(buffer)?;
            let stat = level.stat.read_piece(buffer).ok();
            let inactive = stat.and_then(|text| cgroup::field(text, version.inactive_file()));
            level.inactive = inactive.unwrap_or(0);
            let group = Cgroup { limit, working_set: usage.saturating_sub(level.inactive) };
            limits.push(Limit { group: level.group, free: group.free() });
            Some(group)
        };
        self.levels.iter_mut().filter_map(read).min_by_key(Cgroup::free)
    }

    /// Limits may change while it runs, and so may the group itself, rarely.
    fn look_up(&mut self, now: Duration) {
        if self.resolved.is_none_or(|last| now.saturating_sub(last) >= RESOLVE) {
            self.resolved = Some(now);
            self.resolve();
        }
        let (version, buffer) = (self.version, &mut self.buffer);
        for level in &mut self.levels {
            let limits = level.limits.iter_mut();
            level.limit = limits.filter_map(|kept| version.limit(kept.read(buffer).ok()?)).min();
            if level.limit.is_some() {
                let dir = level.usage.path.parent().and_then(|dir| dir.metadata().ok());
                level.group = dir.map_or(0, |dir| dir.ino());
            }
        }
    }

    /// The limits above this process, nearest first, as of the last sample: whoever else is
    /// below one shares what it leaves.
    #[must_use]
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    fn resolve(&mut self) {
        let Some(found) = cgroup::find(&self.root) else {
            self.levels.clear();
            self.kills = None;
            self.pressure = vec![Kept::new(self.root.join("proc/pressure/memory"))];
            return;
        };
        let version = found.version;
        let same = self.levels.len() == found.levels.len()
            && self
                .levels
                .iter()
                .zip(&found.levels)
                .all(|(old, new)| old.usage.path.parent() == Some(new));
        if same && self.version == version {
            return;
        }
        self.version = version;
        let own = found.levels.first();
        self.kills = own.map(|dir| Kept::new(dir.join(version.kills())));
        let of_group = own.map(|dir| Kept::new(dir.join("memory.pressure")));
        let of_machine = Kept::new(self.root.join("proc/pressure/memory"));
        self.pressure = of_group.into_iter().chain([of_machine]).collect();
        self.levels = found.levels.iter().map(|dir| Level::new(version, dir)).collect();
    }

    fn counters(&mut self) -> Counters {
        let buffer = &mut self.buffer;
        let stalls = self.pressure.iter_mut().find_map(|kept| pressure(kept.read(buffer).ok()?));
        let (some_us, full_us) = stalls.unwrap_or_default();
        let names = self.version.swapped_in();
        let of_group = self.levels.first_mut().and_then(|own| {
            let text = own.stat.read(buffer).ok()?;
            names.iter().find_map(|name| cgroup::field(text, name))
        });
        let kills = self.kills.as_mut().and_then(|kept| kept.read(buffer).ok());
        let oom_kills = kills.and_then(|text| cgroup::field(text, "oom_kill "));
        let vmstat = self.vmstat.read(buffer).unwrap_or_default();
        let of_machine = cgroup::field(vmstat, "pswpin ");
        Counters {
            stalls: Stalls {
                some_us,
                full_us,
                swapped_in: of_group.or(of_machine).unwrap_or_default(),
            },
            oom_kills,
            machine_oom_kills: cgroup::field(vmstat, "oom_kill "),
        }
    }
}

impl Level {
    fn new(version: Version, dir: &Path) -> Self {
        Self {
            limits: version.limits().iter().map(|name| Kept::new(dir.join(name))).collect(),
            usage: Kept::new(dir.join(version.usage())),
            stat: Kept::new(dir.join("memory.stat")),
            limit: None,
            inactive: 0,
            group: 0,
        }
    }

    fn usage(&mut self, buffer: &mut Vec<u8>) -> Option<u64> {
        self.usage.read_piece(buffer).ok()?.trim().parse().ok()
    }
}

impl Watched {
    fn due(&self, now: Duration) -> bool {
        let Some(read) = self.read else { return true };
        self.used.is_some() && (self.pace == Pace::Busy || now.saturating_sub(read) >= SLOW)
    }

    fn look(&mut self, buffer: &mut Vec<u8>, now: Duration) {
        // A process that ended is not looked for again: its number may be another's by now.
        if self.used.is_some() {
            self.read = Some(now);
            self.used = self.status.read_piece(buffer).ok().map(private_bytes);
        }
    }
}

/// Microseconds of `some` and `full` stalls.
fn pressure(text: &str) -> Option<(u64, u64)> {
    let total = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        line.rsplit_once("total=")?.1.trim().parse().ok()
    };
    Some((total("some ")?, total("full ").unwrap_or(0)))
}

#[cfg(test)]
#[path = "sampler_tests.rs"]
mod tests;
