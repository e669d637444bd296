//! Which processes a browser consists of, from `/proc`.
//!
//! The root of `/proc` is passed in, so that fixtures can stand in for it. A
//! process may end between two reads: then it is left out.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// What a process of a browser does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Chromium's main process.
    Browser,
    /// The GPU process, which here only stands by.
    Gpu,
    /// The network service.
    Network,
    /// A renderer: a context's page.
    Renderer,
    /// A zygote, from which renderers are forked.
    Zygote,
    /// The rest: bubblewrap, print compositors, brokers.
    Other,
}

/// One process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Process {
    /// Its process id, as the host sees it.
    pub pid: u32,
    /// When it started, in clock ticks since boot: with the pid, its identity.
    pub started: u64,
    /// What it does.
    pub kind: Kind,
    /// Whether it is a fork that goes on with its parent's program. A moment after the
    /// fork it has its parent's command line still, and may be anything.
    pub forked: bool,
}

/// A process by its pid and the time of its start, in clock ticks since boot.
pub type Identity = (u32, u64);

/// What of `/proc/<pid>/status` is read in one call; it has 1,500 bytes, more only where
/// somebody is in hundreds of groups, whose line comes first.
const STATUS: usize = 4096;

/// What a process holds for itself alone: `RssAnon` and `RssShmem`, in bytes;
/// `None` if it has ended.
#[must_use]
pub fn private_bytes(proc: &Path, pid: u32) -> Option<u64> {
    let mut file = File::open(proc.join(pid.to_string()).join("status")).ok()?;
    let mut buffer = [0; STATUS];
    // The kernel writes all of it at once. Asked for in small pieces, as one does who does
    // not know its length, it is eight calls.
    let length = file.read(&mut buffer).ok()?;
    let found = std::str::from_utf8(&buffer[..length]).ok().and_then(private_in);
    if found.is_some() || length < STATUS {
        return found;
    }
    let mut rest = buffer.to_vec();
    file.read_to_end(&mut rest).ok()?;
    private_in(&String::from_utf8_lossy(&rest))
}

fn private_in(status: &str) -> Option<u64> {
    let kib = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    Some((kib("RssAnon:")? + kib("RssShmem:")?) * 1024)
}

/// `root` and everything below it, sorted by pid.
#[must_use]
pub fn tree(proc: &Path, root: u32) -> Vec<Process> {
    let mut children: HashMap<u32, Vec<(Stat, u32)>> = HashMap::new();
    let mut todo = Vec::new();
    let Ok(entries) = std::fs::read_dir(proc) else { return Vec::new() };
    for entry in entries.filter_map(Result::ok) {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Some(stat) = stat(proc, pid) else { continue };
        if pid == root {
            todo.push((stat, pid, Kind::Other));
        } else {
            children.entry(stat.parent).or_default().push((stat, pid));
        }
    }
    let mut found = Vec::new();
    while let Some((Stat { started, forked, .. }, pid, parent)) = todo.pop() {
        let cmdline = std::fs::read(proc.join(pid.to_string()).join("cmdline"));
        let kind = match kind(&cmdline.unwrap_or_default()) {
            // Forked by Chromium a moment ago, with its parent's command line
            // still: not a second browser.
            Kind::Browser if parent != Kind::Other => Kind::Other,
            kind => kind,
        };
        found.push(Process { pid, started, kind, forked });
        let below = children.remove(&pid).unwrap_or_default();
        todo.extend(below.into_iter().map(|(stat, pid)| (stat, pid, kind)));
    }
    found.sort_unstable();
    found
}

/// What the zygotes have forked and is not in `seen`, with what it does as far as it says
/// so yet; `None` if they cannot be asked. Only they are asked, so that it costs little
/// on a machine with many processes. One that ends meanwhile may hide another. What was
/// called a zygote in its first moment and has ended is none.
#[must_use]
pub fn forked(
    proc: &Path,
    zygotes: &[Identity],
    seen: &HashSet<Identity>,
) -> Option<Vec<(Identity, Kind)>> {
    if zygotes.is_empty() {
        return None;
    }
    let mut found = Vec::new();
    for (zygote, began) in zygotes {
        if started(proc, *zygote) != Some(*began) {
            continue;
        }
        let zygote = zygote.to_string();
        let list = proc.join(&zygote).join("task").join(&zygote).join("children");
        let children = std::fs::read_to_string(list).ok()?;
        let pids = children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
        for pid in pids {
            let Some(identity) = started(proc, pid).map(|started| (pid, started)) else { continue };
            if !seen.contains(&identity) && !zygotes.contains(&identity) {
                let cmdline = std::fs::read(proc.join(pid.to_string()).join("cmdline"));
                found.push((identity, kind(&cmdline.unwrap_or_default())));
            }
        }
    }
    Some(found)
}

/// When `pid` started, in clock ticks since boot; `None` if it is gone.
#[must_use]
pub fn started(proc: &Path, pid: u32) -> Option<u64> {
    stat(proc, pid).map(|stat| stat.started)
}

/// Whether a process of the group `group` still runs. One that has ended and
/// waits to be reaped does not.
#[must_use]
pub fn group_alive(proc: &Path, group: u32) -> bool {
    let Ok(entries) = std::fs::read_dir(proc) else { return false };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()))
        .filter_map(|pid| stat(proc, pid))
        .any(|stat| stat.group == i64::from(group) && !stat.ended)
}

struct Stat {
    ended: bool,
    parent: u32,
    group: i64,
    started: u64,
    forked: bool,
}

/// `PF_FORKNOEXEC` of the kernel's `sched.h`, in a process's flags (proc(5)): it has run
/// no program of its own since it was forked.
const FORKED: u64 = 0x40;

fn stat(proc: &Path, pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(proc.join(pid.to_string()).join("stat")).ok()?;
    // The name stands in parentheses and may itself contain some.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X");
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    // Fields 9 and 22; the group was field 5.
    let flags: u64 = fields.nth(3)?.parse().ok()?;
    let started = fields.nth(12)?.parse().ok()?;
    Some(Stat { ended, parent, group, started, forked: flags & FORKED != 0 })
}

/// Reads what a process does off its command line. Processes that were forked
/// from a zygote have theirs rewritten with blanks instead of NULs.
fn kind(cmdline: &[u8]) -> Kind {
    let words = || cmdline.split(|byte| matches!(byte, 0 | b' '));
    let program = words().next().unwrap_or_default();
    let program = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    if program == b"bwrap" || program == b"sh" || program.is_empty() {
        return Kind::Other;
    }
    match words().find_map(|word| word.strip_prefix(b"--type=")) {
        None => Kind::Browser,
        Some(b"renderer") => Kind::Renderer,
        Some(b"zygote") => Kind::Zygote,
        Some(b"gpu-process") => Kind::Gpu,
        Some(b"utility")
            if words().any(|w| w == b"--utility-sub-type=network.mojom.NetworkService") =>
        {
            Kind::Network
        }
        Some(_) => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(proc: &Path, pid: u32, parent: u32, cmdline: &str) {
        let dir = proc.join(pid.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        // Who was forked from a zygote has its command line in one piece.
        let flags = if cmdline.contains(' ') { 0x40_0040 } else { 0x40_0000 };
        let zeros = |many| " 0".repeat(many);
        let (four, twelve, started) = (zeros(4), zeros(12), pid * 10);
        let stat = format!("{pid} (a) b) S {parent}{four} {flags}{twelve} {started} 0");
        std::fs::write(dir.join("stat"), stat).unwrap();
        std::fs::write(dir.join("cmdline"), cmdline).unwrap();
    }

    #[test]
    fn a_group_lives_until_its_last_process_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let put = |pid: u32, state: &str, group: u32| {
            let dir = dir.path().join(pid.to_string());
            std::fs::create_dir_all(&dir).unwrap();
            let stat = format!("{pid} (x) {state} 1 {group}{} 7 0", " 0".repeat(16));
            std::fs::write(dir.join("stat"), stat).unwrap();
        };
        put(5, "S", 5);
        put(6, "R", 9);
        put(7, "Z", 9);
        assert!(group_alive(dir.path(), 9) && !group_alive(dir.path(), 8));
        put(6, "Z", 9);
        assert!(!group_alive(dir.path(), 9));
    }

    #[test]
    fn zygotes_are_asked_for_what_they_forked() {
        let dir = tempfile::tempdir().unwrap();
        let proc = dir.path();
        let children = |pid: u32, list: &str| {
            let task = proc.join(format!("{pid}/task/{pid}"));
            std::fs::create_dir_all(&task).unwrap();
            std::fs::write(task.join("children"), list).unwrap();
        };
        put(proc, 12, 11, "/u/c\0--type=zygote\0--no-zygote-sandbox\0");
        children(12, "15 ");
        put(proc, 15, 12, "/u/c --type=gpu-process");
        put(proc, 13, 11, "/u/c\0--type=zygote\0");
        children(13, "14 ");
        put(proc, 14, 13, "/u/c\0--type=zygote\0");
        children(14, "20 21 22 23");
        put(proc, 20, 14, "/u/c --type=renderer");
        put(proc, 21, 14, "/u/c\0--type=zygote\0");
        put(proc, 22, 14, "");
        let seen = HashSet::from([(15, 150)]);
        let found =
            [((20, 200), Kind::Renderer), ((21, 210), Kind::Zygote), ((22, 220), Kind::Other)];
        let zygotes = [12, 13, 14, 18].map(|pid| (pid, u64::from(pid) * 10));
        assert_eq!(forked(proc, &zygotes, &seen).unwrap(), found, "18 has ended");
        std::fs::remove_file(proc.join("14/task/14/children")).unwrap();
        assert_eq!(forked(proc, &zygotes, &seen), None, "it cannot be asked");
        assert_eq!(forked(proc, &[], &seen), None);
    }

    #[test]
    fn the_tree_below_a_pid_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let proc = dir.path();
        put(proc, 1, 0, "init\0");
        put(proc, 10, 1, "/usr/bin/bwrap\0--type=x\0");
        put(proc, 11, 10, "/u/chromium-headless-shell\0--headless\0");
        put(proc, 12, 11, "/u/chromium-headless-shell\0--type=zygote\0");
        put(proc, 13, 12, "/u/chromium-headless-shell --type=renderer --lang=en");
        put(
            proc,
            14,
            11,
            "/u/c\0--type=utility\0--utility-sub-type=network.mojom.NetworkService\0",
        );
        put(proc, 15, 11, "/u/c\0--type=gpu-process\0");
        put(proc, 16, 11, "/u/c\0--type=utility\0");
        put(proc, 17, 11, "/u/chromium-headless-shell\0--headless\0");
        put(proc, 20, 1, "/u/chromium-headless-shell\0");
        std::fs::create_dir(proc.join("self")).unwrap();
        let kinds: Vec<(u32, Kind)> = tree(proc, 10).iter().map(|p| (p.pid, p.kind)).collect();
        let expected = [
            (10, Kind::Other),
            (11, Kind::Browser),
            (12, Kind::Zygote),
            (13, Kind::Renderer),
            (14, Kind::Network),
            (15, Kind::Gpu),
            (16, Kind::Other),
            (17, Kind::Other),
        ];
        assert_eq!(kinds, expected);
        let renderer = tree(proc, 10)[3];
        assert!(renderer.started == 130 && renderer.forked && !tree(proc, 10)[2].forked);
        assert_eq!((started(proc, 13), started(proc, 99)), (Some(130), None));
        assert!(tree(proc, 99).is_empty());
    }
}
