//! The control groups above this process that account for memory.
//!
//! Which hierarchy counts is told by `/proc/self/cgroup`: a line that names the
//! `memory` controller means version 1, also where a `0::` line stands beside it
//! (hybrid); else the `0::` line means version 2. Where that hierarchy can be
//! seen is told by `/proc/self/mountinfo`: in a container the mount shows only a
//! part, whose root the path has to be cut by. Of a path that is not below any
//! mount's root only the mount itself is ours to see.

use std::fs;
use std::path::{Path, PathBuf};

/// Which interface files there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// This process's group and those above it that can be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) version: Version,
    /// Our own group first (the one above, if we moved into a leaf of it), the topmost visible one last.
    pub(super) levels: Vec<PathBuf>,
}

/// A mount of a hierarchy.
struct Mount<'a> {
    root: String,
    point: String,
    kind: &'a str,
    options: &'a str,
}

impl Version {
    /// The files that hold limits; the lowest counts.
    pub(super) fn limits(self) -> &'static [&'static str] {
        match self {
            Self::One => &["memory.limit_in_bytes"],
            Self::Two => &["memory.max", "memory.high"],
        }
    }

    pub(super) fn usage(self) -> &'static str {
        match self {
            Self::One => "memory.usage_in_bytes",
            Self::Two => "memory.current",
        }
    }

    /// The line of `memory.stat` with file pages that can be had back at once.
    pub(super) fn inactive_file(self) -> &'static str {
        match self {
            Self::One => "total_inactive_file ",
            Self::Two => "inactive_file ",
        }
    }

    /// The lines of `memory.stat` that count pages back from swap, the better one first.
    pub(super) fn swapped_in(self) -> &'static [&'static str] {
        match self {
            Self::One => &["total_workingset_refault_anon "],
            Self::Two => &["pswpin ", "workingset_refault_anon "],
        }
    }

    /// The file that counts kills for want of memory, as a line `oom_kill N`.
    pub(super) fn kills(self) -> &'static str {
        match self {
            Self::One => "memory.oom_control",
            Self::Two => "memory.events",
        }
    }

    /// A limit as it stands in its file; `None` where there is none.
    pub(super) fn limit(self, text: &str) -> Option<u64> {
        // Version 2 says `max`; version 1's "no limit" is the largest number of whole pages.
        let limit = text.trim().parse::<u64>().ok()?;
        (self == Self::Two || limit < i64::MAX as u64 - (1 << 20)).then_some(limit)
    }
}

/// The number after `field` at the start of a line.
pub(super) fn field(text: &str, field: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse().ok())
}

/// Finds the hierarchy that accounts for this process's memory, on the machine below `root`.
pub(super) fn find(root: &Path) -> Option<Hierarchy> {
    find_for(root, "memory")
}

/// The same for another controller. Whether version 2 has it is told by the
/// groups themselves.
pub(super) fn find_for(root: &Path, controller: &str) -> Option<Hierarchy> {
    let text = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let lines: Vec<(&str, &str)> =
        text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':')).collect();
    let one = lines.iter().find(|(controllers, _)| controllers.split(',').any(|c| c == controller));
    let two = lines.iter().find(|(controllers, _)| controllers.is_empty());
    let (version, path) = match (one, two) {
        (Some((_, path)), _) => (Version::One, *path),
        (None, Some((_, path))) => (Version::Two, *path),
        (None, None) => return None,
    };
    let (top, below) = visible(root, (version, controller), path);
    let own = top.join(below.trim_start_matches('/'));
    // A group that was removed, or that this mount does not show.
    let own = if own.is_dir() { own } else { top.clone() };
    let levels = own.ancestors().take_while(|dir| dir.starts_with(&top));
    let levels = levels.skip_while(|dir| **dir != top && is_leaf(dir)).map(Path::to_owned);
    Some(Hierarchy { version, levels: levels.collect() })
}

/// The name of the leaf into which a worker moves so that its group can have others.
pub(super) fn leaf(pid: u32) -> String {
    format!("tillroll-{pid}{LEAF}")
}

const LEAF: &str = "-worker";

/// Whether it is such a leaf: what counts is the group above, with the browsers in it.
fn is_leaf(dir: &Path) -> bool {
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with("tillroll-") && name.ends_with(LEAF)
}

/// The directory of a mount that shows the group, and the group's path below it.
fn visible(root: &Path, (version, controller): (Version, &str), path: &str) -> (PathBuf, String) {
    let text = fs::read_to_string(root.join("proc/self/mountinfo")).unwrap_or_default();
    let mounts: Vec<Mount<'_>> = text
        .lines()
        .filter_map(mount)
        .filter(|mount| match version {
            Version::One => {
                mount.kind == "cgroup" && mount.options.split(',').any(|o| o == controller)
            }
            Version::Two => mount.kind == "cgroup2",
        })
        .collect();
    // The highest root shows the most ancestors.
    let ours = mounts
        .iter()
        .filter_map(|mount| Some((mount, below(path, &mount.root)?)))
        .min_by_key(|(mount, _)| mount.root.len());
    match (ours, mounts.first()) {
        (Some((mount, below)), _) => (inside(root, &mount.point), below.to_owned()),
        (None, Some(mount)) => (inside(root, &mount.point), String::new()),
        (None, None) => (usual(root, version, controller), path.to_owned()),
    }
}

/// `path` below `root`, where it is.
fn below<'a>(path: &'a str, root: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(root.trim_end_matches('/'))?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

fn inside(root: &Path, point: &str) -> PathBuf {
    root.join(point.trim_start_matches('/'))
}

/// Where hierarchies are by habit, for machines without mountinfo.
fn usual(root: &Path, version: Version, controller: &str) -> PathBuf {
    let plain = root.join("sys/fs/cgroup");
    match version {
        Version::One => plain.join(controller),
        Version::Two if plain.join("unified").is_dir() => plain.join("unified"),
        Version::Two => plain,
    }
}

/// `36 35 98:0 /root /point rw,relatime shared:1 - kind source options`
fn mount(line: &str) -> Option<Mount<'_>> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, point) = (unescape(left.next()?), unescape(left.next()?));
    let mut right = right.split(' ');
    let kind = right.next()?;
    Some(Mount { root, point, kind, options: right.nth(1).unwrap_or_default() })
}

/// Blanks and backslashes stand as three octal digits.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cut_by_whole_names() {
        assert_eq!(below("/a/b", "/"), Some("/a/b"));
        assert_eq!(below("/a/b", "/a"), Some("/b"));
        assert_eq!(below("/a/b", "/a/b"), Some(""));
        assert_eq!(below("/ab", "/a"), None);
        assert_eq!(below("/../x", "/a"), None);
    }

    #[test]
    fn a_line_of_mountinfo_has_any_number_of_optional_fields() {
        let line = r"36 35 98:0 /a\040b /m rw shared:1 master:2 - cgroup cgroup rw,memory";
        let mount = mount(line).unwrap();
        assert_eq!((mount.root.as_str(), mount.point.as_str()), ("/a b", "/m"));
        assert_eq!((mount.kind, mount.options), ("cgroup", "rw,memory"));
        assert!(super::mount("garbage").is_none());
    }

    #[test]
    fn no_limit_has_two_spellings() {
        assert_eq!(Version::Two.limit("max\n"), None);
        assert_eq!(Version::One.limit("9223372036854771712\n"), None);
        assert_eq!(Version::One.limit("1073741824\n"), Some(1 << 30));
    }
}
