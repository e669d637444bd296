//! The probe and the sampler on machines that were put together from files.

use std::fs;

use serde_json::Value;

use super::*;
use crate::memory::probe::Probe;

const MIB: u64 = 1 << 20;

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn tree(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/memory").join(name)
}

fn finds_what_is_expected(name: &str) {
    let root = tree(name);
    let text = fs::read_to_string(root.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let number = |key: &str| expected[key].as_u64();
    let reading = Sampler::at(&root).sample(at(0)).unwrap();
    assert_eq!(reading.memory, Probe::at(&root).read().unwrap(), "probe and sampler agree");
    assert_eq!(Some(reading.memory.available), number("available"));
    assert_eq!(reading.memory.cgroup.map(|group| group.limit), number("limit"));
    assert_eq!(reading.memory.cgroup.map(|group| group.working_set), number("working_set"));
    let counters = reading.counters.unwrap();
    assert_eq!(Some(counters.stalls.some_us), number("some_us"));
    assert_eq!(Some(counters.stalls.full_us), number("full_us"));
    assert_eq!(Some(counters.stalls.swapped_in), number("swapped_in"));
    assert_eq!(counters.oom_kills, number("oom_kills"));
    assert_eq!(counters.machine_oom_kills, number("machine_oom_kills"));
}

#[test]
fn version_1_with_a_wider_limit_above() {
    finds_what_is_expected("v1");
}

#[test]
fn version_2_with_high_below_max() {
    finds_what_is_expected("v2");
}

#[test]
fn hybrid_with_both_lines() {
    finds_what_is_expected("hybrid");
}

#[test]
fn a_tighter_ancestor() {
    finds_what_is_expected("nested");
}

#[test]
fn containers_with_and_without_a_namespace() {
    finds_what_is_expected("container-v1");
    finds_what_is_expected("container-v2");
    finds_what_is_expected("container-moved");
}

#[test]
fn no_limit_anywhere() {
    finds_what_is_expected("unlimited");
}

#[test]
fn a_kernel_without_pressure() {
    finds_what_is_expected("psi-absent");
}

#[test]
fn every_tree_is_tested() {
    let trees = fs::read_dir(tree("")).unwrap().flatten();
    let mut names: Vec<_> = trees
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    for name in &names {
        finds_what_is_expected(name);
    }
    assert_eq!(names.len(), 9, "{names:?}");
}

/// A machine that changes.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        machine.file("proc/meminfo", "MemAvailable: 2048000 kB\n");
        machine.file("proc/self/cgroup", "0::/till\n");
        machine.limit(1000 * MIB, 100 * MIB);
        machine
    }

    fn limit(&self, limit: u64, current: u64) {
        self.file("sys/fs/cgroup/till/memory.max", &format!("{limit}\n"));
        self.file("sys/fs/cgroup/till/memory.current", &format!("{current}\n"));
    }

    fn process(&self, pid: u32, mib: u64) {
        let text = format!("Name:\trenderer\nRssAnon:\t{} kB\nRssShmem:\t0 kB\n", mib * 1024);
        self.file(&format!("proc/{pid}/status"), &text);
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

#[test]
fn what_is_used_shows_at_once_and_a_new_limit_within_a_second() {
    let machine = Machine::new();
    let mut sampler = Sampler::at(machine.0.path());
    assert_eq!(sampler.sample(at(0)).unwrap().memory.free(), 900 * MIB);
    machine.limit(500 * MIB, 300 * MIB);
    let reading = sampler.sample(at(25)).unwrap();
    assert_eq!((reading.memory.free(), reading.counters), (700 * MIB, None));
    let reading = sampler.sample(at(1_000)).unwrap();
    assert!(reading.memory.free() == 200 * MIB && reading.counters.is_some());
}

#[test]
fn working_renderers_are_read_each_time_and_idle_ones_each_second() {
    let machine = Machine::new();
    let mut sampler = Sampler::at(machine.0.path());
    for (pid, pace) in [(11, Pace::Busy), (12, Pace::Idle)] {
        machine.process(pid, 30);
        sampler.watch(pid, pace);
    }
    assert_eq!(sampler.sample(at(0)).unwrap().own, 60 * MIB);
    machine.process(11, 50);
    machine.process(12, 40);
    assert_eq!(sampler.sample(at(25)).unwrap().own, 80 * MIB);
    assert_eq!((sampler.used(11), sampler.used(12)), (Some(50 * MIB), Some(30 * MIB)));
    assert_eq!(sampler.sample(at(1_000)).unwrap().own, 90 * MIB);
    machine.process(12, 45);
    sampler.watch(12, Pace::Busy);
    assert_eq!(sampler.sample(at(1_025)).unwrap().own, 95 * MIB);
    machine.process(12, 46);
    assert_eq!(sampler.look_at(12, at(1_030)), Some(46 * MIB));
    sampler.forget(11);
    assert_eq!((sampler.watching(), sampler.sample(at(1_050)).unwrap().own), (1, 46 * MIB));
}

#[test]
fn a_glance_tells_what_is_free_and_reads_no_process() {
    let machine = Machine::new();
    machine.file("sys/fs/cgroup/till/memory.stat", "anon 7\ninactive_file 1048576\n");
    machine.process(11, 30);
    let mut sampler = Sampler::at(machine.0.path());
    sampler.watch(11, Pace::Busy);
    assert_eq!(sampler.sample(at(0)).unwrap().memory.free(), 901 * MIB);
    machine.limit(1000 * MIB, 300 * MIB);
    machine.process(11, 90);
    assert_eq!(sampler.glance().unwrap(), 701 * MIB, "its caches are as they were");
    assert_eq!(sampler.used(11), Some(30 * MIB));
    machine.file("proc/meminfo", "MemTotal: 7 kB\nMemAvailable: 1024 kB\n");
    assert_eq!(sampler.glance().unwrap(), MIB);
    machine.file("proc/meminfo", "MemTotal: 7 kB\n");
    assert!(sampler.glance().is_err());
}

#[test]
fn a_file_that_comes_in_pieces_is_read_to_its_end() {
    let machine = Machine::new();
    let groups = "Groups:\t".to_owned() + &"1000 ".repeat(2_000);
    for before in [groups.clone() + "\n", "x".repeat(4_090) + "\n", "x".repeat(4_095) + "\n"] {
        machine.file("proc/11/status", &(before + "RssAnon: 5 kB\nRssShmem: 2 kB\n"));
        let mut sampler = Sampler::at(machine.0.path());
        sampler.watch(11, Pace::Busy);
        assert_eq!(sampler.sample(at(0)).unwrap().own, 7 * 1024);
    }
}

#[test]
fn a_process_that_ended_counts_as_nothing_and_its_number_is_not_another() {
    let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let mut sampler = Sampler::default();
    let pid = child.id();
    sampler.watch(pid, Pace::Busy);
    let reading = sampler.sample(at(0)).unwrap();
    assert!(reading.own > 0 && reading.own < 64 * MIB, "{} bytes", reading.own);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(sampler.sample(at(25)).unwrap().own, 0);
    assert_eq!(sampler.used(pid), None);
}

#[test]
fn this_machine_can_be_read() {
    let mut sampler = Sampler::default();
    let reading = sampler.sample(at(0)).unwrap();
    let probe = Probe::default().read().unwrap();
    assert!(reading.memory.free() > 0 && reading.counters.is_some());
    assert_eq!(reading.memory.cgroup.map(|g| g.limit), probe.cgroup.map(|g| g.limit));
}

#[test]
fn without_mem_available_the_error_names_the_file() {
    let machine = Machine::new();
    machine.file("proc/meminfo", "MemFree: 1 kB\n");
    let error = Sampler::at(machine.0.path()).sample(at(0)).unwrap_err().to_string();
    assert!(error.contains("MemAvailable") && error.contains("proc/meminfo"), "{error}");
}

#[test]
fn numbers_beyond_all_memory_are_the_largest_there_is() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("proc/7")).unwrap();
    let most = u64::MAX;
    fs::write(root.path().join("proc/meminfo"), format!("MemAvailable: {most} kB\n")).unwrap();
    fs::write(root.path().join("proc/7/status"), format!("RssAnon: {most} kB\n")).unwrap();
    let mut sampler = Sampler::at(root.path());
    sampler.watch(7, Pace::Busy);
    let reading = sampler.sample(at(0)).unwrap();
    assert_eq!((reading.memory.available, reading.own), (most, most));
}
