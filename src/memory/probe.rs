//! How much memory is really free: the tightest of `MemAvailable` and of every
//! cgroup limit above this process, versions 1 and 2.
//!
//! A cgroup's usage counts the page cache; what matters is the working set:
//! usage minus inactive file pages, which the kernel gives back when asked.
//! On hybrid machines both versions are mounted; the one that has a memory
//! controller counts. The root directory is a parameter, so that fixture trees
//! can stand in for `/`.

use std::fs;
use std::path::{Path, PathBuf};

use super::cgroup::{self, Version};

/// One reading, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Memory {
    /// `MemAvailable` of the machine.
    pub available: u64,
    /// Limit and working set of the tightest cgroup, if one has a limit.
    pub cgroup: Option<Cgroup>,
}

/// A cgroup with a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Cgroup {
    /// Its limit.
    pub limit: u64,
    /// What is used and cannot be given back at once.
    pub working_set: u64,
}

impl Memory {
    /// What can still be taken.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.available.min(self.cgroup.map_or(u64::MAX, |group| group.free()))
    }
}

impl Cgroup {
    /// What can still be taken before its limit.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.limit.saturating_sub(self.working_set)
    }
}

/// Memory cannot be measured.
#[derive(Debug, thiserror::Error)]
#[error("cannot tell how much memory is free: {what} in {}", path.display())]
pub struct ProbeError {
    path: PathBuf,
    what: &'static str,
    #[source]
    source: Option<std::io::Error>,
}

impl ProbeError {
    pub(super) fn reading(path: PathBuf, source: std::io::Error) -> Self {
        Self { path, what: "reading failed", source: Some(source) }
    }

    pub(super) fn missing(path: PathBuf) -> Self {
        Self { path, what: "there is no MemAvailable", source: None }
    }
}

/// Reads memory below a root directory.
#[derive(Debug, Clone)]
pub struct Probe {
    root: PathBuf,
}

impl Default for Probe {
    fn default() -> Self {
        Self::at("/")
    }
}

impl Probe {
    /// A probe of the machine whose `/proc` and `/sys` stand below `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where `/proc` and `/sys` stand.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Reads now (some 50 µs).
    ///
    /// # Errors
    /// Where `/proc/meminfo` has no `MemAvailable`. A cgroup that cannot be read counts as none.
    pub fn read(&self) -> Result<Memory, ProbeError> {
        let available = self.meminfo("MemAvailable:", "there is no MemAvailable")?;
        Ok(Memory { available, cgroup: self.tightest() })
    }

    /// The machine's memory, or the tightest cgroup limit where that is less.
    ///
    /// # Errors
    /// Where `/proc/meminfo` has no `MemTotal`.
    pub fn total(&self) -> Result<u64, ProbeError> {
        let total = self.meminfo("MemTotal:", "there is no MemTotal")?;
        Ok(self.tightest().map_or(total, |group| group.limit.min(total)))
    }

    fn meminfo(&self, field: &str, missing: &'static str) -> Result<u64, ProbeError> {
        let path = self.root.join("proc/meminfo");
        let text = fs::read_to_string(&path).map_err(|source| ProbeError {
            path: path.clone(),
            what: "reading failed",
            source: Some(source),
        })?;
        meminfo_field(&text, field).ok_or(ProbeError { path, what: missing, source: None })
    }

    /// Private memory of one process; nothing if it has ended.
    #[must_use]
    pub fn used_by(&self, pid: u32) -> u64 {
        let status = self.root.join(format!("proc/{pid}/status"));
        fs::read_to_string(status).map_or(0, |status| private_bytes(&status))
    }

    /// Private memory of a process and of all below it: `RssAnon` + `RssShmem`,
    /// which counts nothing twice (some 50 µs a process). A process that ends
    /// meanwhile counts as nothing.
    #[must_use]
    pub fn used_by_tree(&self, pid: u32) -> u64 {
        self.tree(pid, |_| false)
            .into_iter()
            .map(|pid| self.used_by(pid))
            .fold(0, u64::saturating_add)
    }

    /// A process and all below it. Those that are known to be leaves (a sandboxed
    /// renderer starts no process) are not looked into: each thread of a process
    /// has to be asked for its children.
    #[must_use]
    pub fn tree(&self, pid: u32, is_leaf: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut found = vec![pid];
        let mut next = 0;
        while let Some(&pid) = found.get(next) {
            next += 1;
            if is_leaf(pid) {
                continue;
            }
            let Ok(threads) = fs::read_dir(self.root.join(format!("proc/{pid}/task"))) else {
                continue;
            };
            for thread in threads.flatten() {
                let children =
                    fs::read_to_string(thread.path().join("children")).unwrap_or_default();
                // A pid that was given anew while this looked would be there twice,
                // and one above would never end.
                for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
                    if !found.contains(&child) {
                        found.push(child);
                    }
                }
            }
        }
        found
    }

    /// The cgroup above this process that has the least room.
    fn tightest(&self) -> Option<Cgroup> {
        let found = cgroup::find(&self.root)?;
        found
            .levels
            .iter()
            .filter_map(|dir| read_group(found.version, dir))
            .min_by_key(|group| group.limit.saturating_sub(group.working_set))
    }
}

/// Reads one group; `None` where it sets no limit.
fn read_group(version: Version, dir: &Path) -> Option<Cgroup> {
    let read = |name: &str| fs::read_to_string(dir.join(name)).ok();
    let limits = version.limits().iter().filter_map(|name| version.limit(&read(name)?));
    let limit = limits.min()?;
    let usage: u64 = read(version.usage())?.trim().parse().ok()?;
    let inactive =
        read("memory.stat").and_then(|text| cgroup::field(&text, version.inactive_file()));
    Some(Cgroup { limit, working_set: usage.saturating_sub(inactive.unwrap_or(0)) })
}

fn meminfo_field(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kb| kb.saturating_mul(1024))
}

pub(super) fn private_bytes(status: &str) -> u64 {
    status
        .lines()
        .filter_map(|line| line.strip_prefix("RssAnon:").or_else(|| line.strip_prefix("RssShmem:")))
        // The kernel names each once; half of the file comes after them.
        .take(2)
        .filter_map(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .fold(0, u64::saturating_add)
        .saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(cgroup: &str) -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            tree.file("proc/meminfo", "MemFree: 1 kB\nMemAvailable:    2000000 kB\n");
            tree.file("proc/self/cgroup", cgroup);
            tree
        }

        fn file(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn v1(&self, dir: &str, limit: &str, usage: u64, inactive: u64) {
            let dir = format!("sys/fs/cgroup/memory/{dir}");
            self.file(&format!("{dir}/memory.limit_in_bytes"), limit);
            self.file(&format!("{dir}/memory.usage_in_bytes"), &usage.to_string());
            self.file(
                &format!("{dir}/memory.stat"),
                &format!("inactive_file 7\ntotal_inactive_file {inactive}\n"),
            );
        }

        fn v2(&self, dir: &str, max: &str, high: &str, usage: u64, inactive: u64) {
            let dir = format!("sys/fs/cgroup/{dir}");
            self.file(&format!("{dir}/memory.max"), max);
            self.file(&format!("{dir}/memory.high"), high);
            self.file(&format!("{dir}/memory.current"), &usage.to_string());
            self.file(
                &format!("{dir}/memory.stat"),
                &format!("file 1\ninactive_file {inactive}\n"),
            );
        }

        fn read(&self) -> Memory {
            Probe::at(self.0.path()).read().unwrap()
        }
    }

    const NO_LIMIT: &str = "9223372036854771712";

    #[test]
    fn without_a_cgroup_limit_the_machine_counts() {
        let tree = Tree::new("4:memory:/app\n0::/\n");
        tree.v1("app", NO_LIMIT, 5, 0);
        assert_eq!(tree.read(), Memory { available: 2_048_000_000, cgroup: None });
        assert_eq!(tree.read().free(), 2_048_000_000);
    }

    #[test]
    fn version_1_counts_the_working_set_also_on_a_hybrid_machine() {
        let tree = Tree::new("4:memory:/app\n0::/\n");
        tree.file("sys/fs/cgroup/unified/cgroup.procs", "");
        tree.v1("app", "1000000", 900_000, 300_000);
        assert_eq!(tree.read().free(), 400_000);
    }

    #[test]
    fn version_2_takes_the_lower_of_max_and_high() {
        let tree = Tree::new("0::/app\n");
        tree.v2("app", "2000000", "1000000", 900_000, 300_000);
        assert_eq!(tree.read().free(), 400_000);
        tree.v2("app", "2000000", "max", 900_000, 300_000);
        assert_eq!(tree.read().free(), 1_400_000);
    }

    #[test]
    fn the_tightest_ancestor_counts() {
        let tree = Tree::new("0::/outer/inner\n");
        tree.v2("outer/inner", "max", "max", 10, 0);
        tree.v2("outer", "5000", "max", 4000, 0);
        assert_eq!(tree.read().free(), 1000);
    }

    #[test]
    fn in_a_container_the_mounts_root_is_ours() {
        let tree = Tree::new("4:memory:/docker/0123\n");
        tree.v1("", "700000", 100_000, 0);
        assert_eq!(tree.read().free(), 600_000);
    }

    #[test]
    fn a_tree_counts_private_memory_of_every_process_below() {
        let tree = Tree::new("");
        let process = |pid: u32, anon: u64, children: &str| {
            let rss = anon + 1000;
            tree.file(
                &format!("proc/{pid}/status"),
                &format!(
                    "VmRSS: {rss} kB\nRssAnon:\t {anon} kB\nRssFile: 990 kB\nRssShmem: 10 kB\n"
                ),
            );
            tree.file(&format!("proc/{pid}/task/{pid}/children"), children);
        };
        process(1, 100, "2 3 ");
        process(2, 200, "4 ");
        process(4, 400, "5 ");
        assert_eq!(Probe::at(tree.0.path()).used_by_tree(1), (110 + 210 + 410) * 1024);
    }

    #[test]
    fn a_process_that_is_its_own_ancestor_is_counted_once() {
        let tree = Tree::new("");
        for (pid, child) in [(1, 2), (2, 1)] {
            tree.file(&format!("proc/{pid}/task/{pid}/children"), &format!("{child} {child} "));
            tree.file(&format!("proc/{pid}/status"), "RssAnon: 7 kB\n");
        }
        let probe = Probe::at(tree.0.path());
        assert_eq!(probe.tree(1, |_| false), [1, 2]);
        assert_eq!(probe.used_by_tree(1), 14 * 1024);
        tree.file("proc/1/status", "RssAnon: 18446744073709551615 kB\nRssShmem: 9 kB\n");
        assert_eq!(probe.used_by_tree(1), u64::MAX);
    }

    #[test]
    fn without_mem_available_the_error_names_the_file() {
        let tree = Tree::new("");
        tree.file("proc/meminfo", "MemFree: 1 kB\n");
        let error = Probe::at(tree.0.path()).read().unwrap_err().to_string();
        assert!(error.contains("MemAvailable") && error.contains("proc/meminfo"), "{error}");
    }
}
