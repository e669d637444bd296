//! A real control group with a memory limit, below this process's own where that is
//! possible: what is started in it, what it uses, and what the kernel killed in it.
//!
//! Version 1 counts a kill in the group of the process that was killed, version 2 in
//! that and all above. So each group's kills are read, and told apart by which limit
//! was hit just before: one of a group inside (a fence around one browser), or ours.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Groups are called so, with the pid of who made them.
const NAME: &str = "tillroll-bench-";
const REMEDY: &str = "run it as root (sudo) on a machine whose memory controller is mounted below \
                      /sys/fs/cgroup; in a container, one with --privileged --cgroupns=host";

/// Removes itself, and kills what is in it, when it is dropped.
pub(crate) struct Group {
    dir: PathBuf,
    one: bool,
    seen: HashMap<PathBuf, Seen>,
    kills: Kills,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    kills: u64,
    hits: u64,
}

/// Processes that the kernel killed for want of memory.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Kills {
    /// Because this group's limit was reached.
    pub(crate) outer: u64,
    /// Because a limit inside was reached.
    pub(crate) inner: u64,
}

/// Where programs enter a group.
#[derive(Clone)]
pub(crate) struct Entry(PathBuf);

impl Entry {
    /// A program that runs in the group from its first instruction.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
        command.arg(&self.0).arg(program).stdin(Stdio::null());
        command
    }
}

impl Group {
    /// Makes a group with a limit, or says why that cannot be.
    pub(crate) fn new(limit: u64) -> Result<Self, String> {
        let (parent, one) = parent()?;
        sweep(&parent);
        let number = {
            use std::sync::atomic::{AtomicU32, Ordering};
            static MADE: AtomicU32 = AtomicU32::new(0);
            MADE.fetch_add(1, Ordering::Relaxed)
        };
        let dir = parent.join(format!("{NAME}{}-{number}", std::process::id()));
        let failed = |what: &str, error: std::io::Error| {
            format!("{what} {}: {error}; {REMEDY}", dir.display())
        };
        fs::create_dir(&dir).map_err(|error| failed("no child group can be made at", error))?;
        let group = Self { dir: dir.clone(), one, seen: HashMap::new(), kills: Kills::default() };
        let file = if one { "memory.limit_in_bytes" } else { "memory.max" };
        fs::write(dir.join(file), limit.to_string())
            .map_err(|error| failed("no memory limit can be set on", error))?;
        // With swap there would be no end of memory, only of patience. Where there is
        // none, there is no such file.
        let no_swap = if one { "memory.swappiness" } else { "memory.swap.max" };
        if dir.join(no_swap).exists() {
            fs::write(dir.join(no_swap), "0")
                .map_err(|error| failed("swap cannot be kept from", error))?;
        }
        if one && read(&dir, "memory.use_hierarchy").trim() == "0" {
            fs::write(dir.join("memory.use_hierarchy"), "1")
                .map_err(|error| failed("what is below does not count in", error))?;
        }
        Ok(group)
    }

    /// Where programs enter.
    pub(crate) fn entry(&self) -> Entry {
        Entry(self.dir.join("cgroup.procs"))
    }

    /// The working set in bytes: what is used, without file cache that can be had back
    /// at once.
    pub(crate) fn used(&self) -> u64 {
        let file = if self.one { "memory.usage_in_bytes" } else { "memory.current" };
        let usage: u64 = read(&self.dir, file).trim().parse().unwrap_or(0);
        let inactive = if self.one { "total_inactive_file" } else { "inactive_file" };
        let inactive = field(&read(&self.dir, "memory.stat"), inactive);
        usage.saturating_sub(inactive)
    }

    /// All kills so far; to be called often, since groups inside come and go.
    pub(crate) fn kills(&mut self) -> Kills {
        let mut groups = vec![self.dir.clone()];
        let mut fresh = Vec::new();
        while let Some(dir) = groups.pop() {
            groups.extend(subgroups(&dir));
            let now = self.count(&dir);
            let before = self.seen.insert(dir.clone(), now).unwrap_or_default();
            fresh.push((dir, now.kills.saturating_sub(before.kills), now.hits > before.hits));
        }
        // Version 2 counts a kill in every group above as well.
        let all = if self.one {
            fresh.iter().map(|(_, kills, _)| kills).sum()
        } else {
            fresh.iter().find(|(dir, ..)| *dir == self.dir).map_or(0, |(_, kills, _)| *kills)
        };
        let inside = fresh.iter().filter(|(dir, _, hit)| *dir != self.dir && *hit);
        let inner = inside.map(|(_, kills, _)| kills).sum::<u64>().min(all);
        self.kills.inner += inner;
        self.kills.outer += all - inner;
        self.kills
    }

    fn count(&self, dir: &Path) -> Seen {
        if self.one {
            let kills = field(&read(dir, "memory.oom_control"), "oom_kill");
            let hits = read(dir, "memory.failcnt").trim().parse().unwrap_or(0);
            Seen { kills, hits }
        } else {
            let kills = field(&read(dir, "memory.events"), "oom_kill");
            Seen { kills, hits: field(&read(dir, "memory.events.local"), "oom") }
        }
    }

    /// Kills all that is in it and waits until it is empty.
    pub(crate) fn clear(&self) {
        let patience = Instant::now() + Duration::from_secs(10);
        loop {
            let mut left = 0;
            for dir in tree(&self.dir) {
                for pid in read(&dir, "cgroup.procs").lines().filter_map(|pid| pid.parse().ok()) {
                    left += 1;
                    // It may have ended since it was listed.
                    Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL).ok());
                }
            }
            if left == 0 || Instant::now() > patience {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.clear();
        if let Err(error) = remove(&self.dir) {
            eprintln!("{} is left behind: {error}", self.dir.display());
        }
    }
}

/// Where groups can be made: our own group, or the nearest above it that hands the
/// memory controller on; and whether that is version 1.
fn parent() -> Result<(PathBuf, bool), String> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let group = |wanted: fn(&str) -> bool| {
        let lines = own.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        lines.filter(|(controllers, _)| wanted(controllers)).map(|(_, path)| path.to_owned()).next()
    };
    let mount = |kind: &str, option: &str| {
        mounts.lines().find_map(|line| {
            let (place, file_system) = line.split_once(" - ")?;
            let mut file_system = file_system.split(' ');
            let right = file_system.next()? == kind
                && file_system.nth(1)?.split(',').any(|o| option.is_empty() || o == option);
            let mut place = place.split(' ').skip(3);
            right.then_some((place.next()?.to_owned(), PathBuf::from(place.next()?)))
        })
    };
    let of_memory = |controllers: &str| controllers.split(',').any(|c| c == "memory");
    let below = |root: &str, point: &Path, path: &str| {
        let rest = path.strip_prefix(root.trim_end_matches('/')).unwrap_or("");
        point.join(rest.trim_start_matches('/'))
    };
    if let (Some(path), Some((root, point))) = (group(of_memory), mount("cgroup", "memory")) {
        return Ok((below(&root, &point, &path), true));
    }
    if let (Some(path), Some((root, point))) = (group(str::is_empty), mount("cgroup2", "")) {
        let start = below(&root, &point, &path);
        let mut above = start.ancestors().take_while(|dir| dir.starts_with(&point));
        let found = above.find(|dir| {
            read(dir, "cgroup.subtree_control").split_whitespace().any(|c| c == "memory")
        });
        if let Some(dir) = found {
            return Ok((dir.to_owned(), false));
        }
    }
    Err(format!("there is no memory controller to make a group with; {REMEDY}"))
}

/// Removes the groups of runs that were killed.
fn sweep(parent: &Path) {
    for dir in subgroups(parent) {
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let pid = name.strip_prefix(NAME).and_then(|rest| rest.split('-').next()?.parse().ok());
        if pid.is_some_and(|pid: u32| !Path::new(&format!("/proc/{pid}")).exists()) {
            drop(Group { dir, one: false, seen: HashMap::new(), kills: Kills::default() });
        }
    }
}

fn subgroups(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// A group and all inside, the innermost last.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.to_owned()];
    let mut at = 0;
    while at < found.len() {
        found.extend(subgroups(&found[at]));
        at += 1;
    }
    found
}

fn remove(dir: &Path) -> std::io::Result<()> {
    for dir in tree(dir).iter().rev() {
        // A process that has just ended is still counted for a moment.
        let patience = Instant::now() + Duration::from_secs(5);
        while let Err(error) = fs::remove_dir(dir) {
            if error.raw_os_error() != Some(16) || Instant::now() > patience {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}

fn read(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap_or_default()
}

/// The number after `name` at the start of a line.
fn field(text: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(key, _)| *key == name).map_or(0, |(_, value)| value.trim().parse().unwrap_or(0))
}
