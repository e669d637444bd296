//! Where groups for browsers can be made.
//!
//! | hierarchy | where | needs |
//! |---|---|---|
//! | version 1 (hybrid too) | below the worker's own group, for each controller | a writable directory; memory that counts upwards (`memory.use_hierarchy`) |
//! | version 2 | below the worker's own group | the same, the controller delegated, and nobody in the group itself |
//!
//! In version 2 a group with processes of its own cannot have children with
//! limits. So the worker, with whatever it has started, moves into a leaf below;
//! that is done only if nobody else is in the group. What a worker makes is called
//! `tillroll-<pid>-<what>`; what belongs to a process that is gone is removed by
//! the next worker.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::remove;
use crate::memory::cgroup::{self, Version};
use crate::memory::probe::Probe;

/// A hierarchy's version, and a directory in it.
pub(super) type Place = (Version, PathBuf);

/// Where groups are made.
pub(super) struct Places {
    pub(super) memory: Place,
    pub(super) cpu: Option<Place>,
    pub(super) tasks: Option<Place>,
}

const REMEDY: &str = "under systemd set Delegate=memory cpu pids in the unit, in a container make \
    /sys/fs/cgroup writable; or leave it: the governor works without, and renderers are the \
    first that the kernel kills anyway";

/// What was found for one controller.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plot {
    place: Place,
    /// Who has to leave the group first.
    movers: Vec<u32>,
}

/// What fences there can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// Where memory can be fenced; or why not, with what to do about it.
    pub memory: Result<PathBuf, (String, &'static str)>,
    /// Whether the cores can be weighed too.
    pub cpu: bool,
    /// Whether processes and threads can be bounded too.
    pub tasks: bool,
}

/// Looks whether the process `pid` could make fences. Changes nothing.
#[must_use]
pub fn outlook(root: &Path, pid: u32) -> Outlook {
    Outlook {
        memory: plot(root, pid, "memory").map(|plot| plot.place.1).map_err(|why| (why, REMEDY)),
        cpu: plot(root, pid, "cpu").is_ok(),
        tasks: plot(root, pid, "pids").is_ok(),
    }
}

/// Makes ready: the places for memory, for the cores and for tasks.
pub(super) fn prepare(root: &Path, pid: u32) -> Result<Places, String> {
    let with_remedy = |why: String| format!("{why}; {REMEDY}");
    let memory = plot(root, pid, "memory").map_err(with_remedy)?;
    if !memory.movers.is_empty() {
        move_out(&memory, pid).map_err(|error| {
            let dir = memory.place.1.display();
            with_remedy(format!("the worker could not be moved into a group below {dir}: {error}"))
        })?;
    }
    let beside = |controller| {
        let place = match memory.place.0 {
            // Nobody is in the group any more.
            Version::Two => enable(&memory.place.1, controller)
                .map(|()| memory.place.clone())
                .map_err(|error| error.to_string()),
            Version::One => plot(root, pid, controller).and_then(|plot| match plot.place.0 {
                Version::One => Ok(plot.place),
                Version::Two => Err("it is in another version's hierarchy".to_owned()),
            }),
        };
        let why = |why: &String| tracing::debug!(why, controller, "browsers do without");
        place.inspect_err(why).ok()
    };
    let (tasks, cpu) = (beside("pids"), beside("cpu"));
    Ok(Places { memory: memory.place, cpu, tasks })
}

fn plot(root: &Path, pid: u32, controller: &str) -> Result<Plot, String> {
    let found = cgroup::find_for(root, controller)
        .ok_or_else(|| "this process is in no control group".to_owned())?;
    let Some(own) = found.levels.first() else {
        return Err("the worker's control group cannot be seen".to_owned());
    };
    let dir = own.display();
    if !own.is_dir() {
        return Err(format!("the control group {dir} cannot be seen"));
    }
    if access(own, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        return Err(format!("the control group {dir} is not writable"));
    }
    let place = (found.version, own.clone());
    match found.version {
        Version::One => {
            let upwards = fs::read_to_string(own.join("memory.use_hierarchy"));
            if controller == "memory" && upwards.is_ok_and(|text| text.trim() == "0") {
                return Err(format!("memory of groups below {dir} would not count as its own"));
            }
            Ok(Plot { place, movers: Vec::new() })
        }
        Version::Two => Ok(Plot { place, movers: movers(root, pid, own, controller)? }),
    }
}

/// Who has to leave a group of version 2 before it can have children with limits.
fn movers(root: &Path, pid: u32, own: &Path, controller: &str) -> Result<Vec<u32>, String> {
    let dir = own.display();
    if !lists(&own.join("cgroup.controllers"), controller) {
        return Err(format!("the control group {dir} was not given the {controller} controller"));
    }
    if lists(&own.join("cgroup.subtree_control"), controller) {
        return Ok(Vec::new());
    }
    for file in ["cgroup.procs", "cgroup.subtree_control"] {
        if access(own.join(file), Access::WRITE_OK).is_err() {
            return Err(format!("{dir}/{file} is not writable"));
        }
    }
    let members = fs::read_to_string(own.join("cgroup.procs"))
        .map_err(|error| format!("{dir}/cgroup.procs cannot be read: {error}"))?;
    let ours = Probe::at(root).tree(pid, |_| false);
    let members = members.lines().map(|line| line.trim().parse::<u32>().unwrap_or(0));
    let (movers, strangers): (Vec<u32>, Vec<u32>) = members.partition(|pid| ours.contains(pid));
    match strangers.first() {
        None => Ok(movers),
        Some(pid) => Err(format!(
            "other processes are in the control group {dir} too (process {pid}), and would have \
             to be moved"
        )),
    }
}

/// Moves the worker into a leaf, and lets its group have children with limits.
/// If that fails, all is as it was.
fn move_out(plot: &Plot, pid: u32) -> io::Result<()> {
    let own = &plot.place.1;
    let leaf = own.join(cgroup::leaf(pid));
    match fs::create_dir(&leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let moved = migrate(&plot.movers, &leaf).and_then(|()| enable(own, "memory"));
    if moved.is_err() {
        // Whoever cannot go back stays where it is, which is below.
        migrate(&plot.movers, own).ok();
        remove(&leaf);
    }
    moved
}

fn migrate(pids: &[u32], group: &Path) -> io::Result<()> {
    for pid in pids {
        match fs::write(group.join("cgroup.procs"), pid.to_string()) {
            // It has ended.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {}
            written => written?,
        }
    }
    Ok(())
}

fn enable(group: &Path, controller: &str) -> io::Result<()> {
    let file = group.join("cgroup.subtree_control");
    if lists(&file, controller) {
        return Ok(());
    }
    fs::write(file, format!("+{controller}"))
}

fn lists(file: &Path, controller: &str) -> bool {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().any(|word| word == controller)
}

/// Removes what workers that are gone have left below `base`. A group in which
/// something still runs cannot be removed.
pub(super) fn sweep(root: &Path, base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(owner);
        if owner.is_some_and(|pid| !root.join(format!("proc/{pid}")).exists()) {
            let dir = entry.path();
            let gone = remove(&dir);
            tracing::info!(group = %dir.display(), gone, "a worker before left a control group");
        }
    }
}

/// Whose a group is, by its name.
fn owner(name: &str) -> Option<u32> {
    let (pid, what) = name.strip_prefix("tillroll-")?.split_once('-')?;
    let known = what == "worker" || what.parse::<u32>().is_ok();
    pid.parse().ok().filter(|_| known)
}
