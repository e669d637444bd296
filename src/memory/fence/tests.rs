//! Fences on fixture trees. Their files are plain ones: what is written can be
//! read, and a directory with files in it stays.

use super::*;

const MIB: u64 = 1 << 20;
/// The worker.
const PID: u32 = 77;

struct Tree(tempfile::TempDir);

impl Tree {
    fn new(cgroup: &str) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        tree.file("proc/self/cgroup", cgroup);
        tree.file("proc/77/task/77/children", "78 ");
        tree.file("proc/78/task/78/children", "");
        tree
    }

    /// Memory, cores and tasks in version 1, beside a version 2 that has none of them.
    fn hybrid() -> Self {
        let tree = Self::new("8:pids:/box\n4:memory:/app\n1:cpu,cpuacct:/\n0::/\n");
        tree.file("sys/fs/cgroup/pids/box/cgroup.procs", "");
        tree.file("sys/fs/cgroup/memory/app/memory.use_hierarchy", "1\n");
        tree.file("sys/fs/cgroup/cpu/cgroup.procs", "");
        tree.file("sys/fs/cgroup/unified/cgroup.controllers", "hugetlb\n");
        tree
    }

    fn v2(controllers: &str, members: &str) -> Self {
        let tree = Self::new("0::/app\n");
        for (name, text) in [
            ("cgroup.controllers", controllers),
            ("cgroup.subtree_control", ""),
            ("cgroup.procs", members),
        ] {
            tree.file(&format!("sys/fs/cgroup/app/{name}"), text);
        }
        tree
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_default()
    }

    fn number(&self, path: &str) -> u64 {
        self.text(path).trim().parse().unwrap()
    }

    fn prepare(&self) -> Result<Fences, String> {
        Fences::prepare(self.0.path(), PID, 10, 2)
    }

    fn refused(&self) -> String {
        let why = self.prepare().unwrap_err();
        assert!(why.contains("Delegate=memory cpu pids"), "no remedy: {why}");
        assert!(outlook(self.0.path(), PID).memory.is_err());
        why
    }
}

const OURS: &str = "sys/fs/cgroup/memory/app/tillroll-77-1";

#[test]
fn on_a_hybrid_machine_memory_and_cores_each_have_their_hierarchy() {
    let tree = Tree::hybrid();
    let outlook = outlook(tree.0.path(), PID);
    assert!(outlook.cpu && outlook.tasks);
    let fences = tree.prepare().unwrap();
    fences.follow(800 * MIB);
    let fence = fences.raise().unwrap();
    assert_eq!(fence.place(), tree.at(OURS));
    fence.take_in(1234).unwrap();
    assert_eq!(tree.text(&format!("{OURS}/cgroup.procs")), "1234");
    assert_eq!(tree.text("sys/fs/cgroup/cpu/tillroll-77-1/cgroup.procs"), "1234");
    assert_eq!(tree.number(&format!("{OURS}/memory.limit_in_bytes")), 800 * MIB);
    assert_eq!(tree.text(&format!("{OURS}/memory.swappiness")), "0");
    // Two cores, each with one thread at niceness 10.
    assert_eq!(tree.number("sys/fs/cgroup/cpu/tillroll-77-1/cpu.shares"), 220);
    // Wherever a worker may be in that hierarchy.
    let tasks = "sys/fs/cgroup/pids/box/tillroll-77-1";
    assert_eq!(fences.tasks(), Some(&*tree.at("sys/fs/cgroup/pids/box")));
    assert_eq!(tree.text(&format!("{tasks}/cgroup.procs")), "1234");
    assert_eq!(tree.number(&format!("{tasks}/pids.max")), TASKS);
    assert_ne!(fences.raise().unwrap().place(), fence.place());
}

#[test]
fn a_limit_on_tasks_goes_with_its_fence_and_is_not_missed_where_there_can_be_none() {
    let tree = Tree::hybrid();
    let tasks = tree.at("sys/fs/cgroup/pids/box/tillroll-77-1");
    let fence = tree.prepare().unwrap().raise().unwrap();
    // What the kernel's files do by themselves.
    fs::remove_file(tasks.join("pids.max")).unwrap();
    assert!(!fence.take_down(), "the others have files in them still");
    assert!(!tasks.exists());
    let tree = Tree::new("4:memory:/app\n");
    tree.file("sys/fs/cgroup/memory/app/cgroup.procs", "");
    assert!(!outlook(tree.0.path(), PID).tasks);
    let fences = tree.prepare().unwrap();
    assert_eq!(fences.tasks(), None);
    fences.raise().unwrap().take_in(99).unwrap();
}

#[test]
fn browsers_step_aside_and_have_their_own_weight_again() {
    for (tree, dir, file, weight) in [
        (Tree::hybrid(), "sys/fs/cgroup/cpu/tillroll-77-1", "cpu.shares", 220),
        (Tree::v2("cpu memory\n", "77\n"), "sys/fs/cgroup/app/tillroll-77-1", "cpu.weight", 21),
    ] {
        let fences = tree.prepare().unwrap();
        let _fence = fences.raise().unwrap();
        let (idle, weighed) = (format!("{dir}/cpu.idle"), format!("{dir}/{file}"));
        fences.step_aside(false);
        assert!(!tree.at(&idle).exists(), "it is weighed from the start");
        fences.step_aside(true);
        assert_eq!(tree.text(&idle), "1");
        // What the kernel does to a group that is idle no more.
        tree.file(&weighed, "1");
        fences.step_aside(true);
        assert_eq!(tree.number(&weighed), 1, "nothing is new");
        fences.step_aside(false);
        assert_eq!((tree.text(&idle).as_str(), tree.number(&weighed)), ("0", weight));
        // A kernel that has no such file, and a group in which none can be made.
        fs::remove_file(tree.at(&idle)).unwrap();
        fs::create_dir(tree.at(&idle)).unwrap();
        fences.step_aside(true);
        fences.step_aside(false);
        assert_eq!(tree.number(&weighed), weight);
    }
}

#[test]
fn in_version_2_the_worker_moves_aside_with_what_it_started() {
    let tree = Tree::v2("cpu memory pids\n", "77\n78\n");
    let own = "sys/fs/cgroup/app";
    assert_eq!(outlook(tree.0.path(), PID).memory, Ok(tree.at(own)));
    assert!(!tree.at(&format!("{own}/tillroll-77-worker")).exists(), "looking changes nothing");
    let fences = tree.prepare().unwrap();
    assert_eq!(tree.text(&format!("{own}/tillroll-77-worker/cgroup.procs")), "78", "the last one");
    assert_eq!(tree.text(&format!("{own}/cgroup.subtree_control")), "+cpu", "after +memory");
    fences.follow(512 * MIB);
    let fence = fences.raise().unwrap();
    let ours = format!("{own}/tillroll-77-1");
    assert_eq!(fence.place(), tree.at(&ours));
    assert_eq!(tree.number(&format!("{ours}/memory.max")), 512 * MIB);
    assert_eq!(tree.text(&format!("{ours}/memory.swap.max")), "0");
    assert_eq!(tree.number(&format!("{ours}/cpu.weight")), 21);
    assert_eq!(tree.number(&format!("{ours}/pids.max")), TASKS);
    assert_eq!(fences.tasks(), Some(&*tree.at(own)));
    fence.take_in(99).unwrap();
    assert_eq!(tree.text(&format!("{ours}/cgroup.procs")), "99");
}

#[test]
fn in_its_leaf_a_worker_is_still_measured_with_its_browsers() {
    let tree = Tree::v2("cpu memory\n", "");
    tree.file("proc/self/cgroup", "0::/app/tillroll-77-worker\n");
    tree.file("sys/fs/cgroup/app/tillroll-77-worker/cgroup.procs", "77\n");
    let found = cgroup::find(tree.0.path()).unwrap();
    assert_eq!(found.levels.first(), Some(&tree.at("sys/fs/cgroup/app")));
    assert_eq!(found.levels.len(), 2);
}

#[test]
fn who_is_not_ours_is_not_moved() {
    let tree = Tree::v2("cpu memory\n", "77\n4321\n");
    let why = tree.refused();
    assert!(why.contains("4321"), "{why}");
    assert_eq!(tree.text("sys/fs/cgroup/app/cgroup.procs"), "77\n4321\n");
    assert_eq!(tree.text("sys/fs/cgroup/app/cgroup.subtree_control"), "");
}

#[test]
fn what_cannot_be_is_said_with_its_reason() {
    let why = Tree::v2("pids\n", "77\n").refused();
    assert!(why.contains("not given the memory controller"), "{why}");
    assert!(Tree::new("").refused().contains("no control group"));
    let flat = Tree::hybrid();
    flat.file("sys/fs/cgroup/memory/app/memory.use_hierarchy", "0\n");
    assert!(flat.refused().contains("would not count"));
    // Cores in no hierarchy of ours: memory alone is fenced.
    let tree = Tree::new("4:memory:/app\n");
    tree.file("sys/fs/cgroup/memory/app/cgroup.procs", "");
    assert_eq!(tree.prepare().unwrap().places().1, None);
}

#[test]
fn only_what_workers_that_are_gone_have_left_is_swept() {
    let tree = Tree::hybrid();
    let base = "sys/fs/cgroup/memory/app";
    for name in
        ["tillroll-4242-1", "tillroll-78-3", "tillroll-4242-logs", "tillroll", "shop-4242-1"]
    {
        fs::create_dir(tree.at(base).join(name)).unwrap();
    }
    fs::create_dir(tree.at("sys/fs/cgroup/cpu/tillroll-4242-1")).unwrap();
    tree.prepare().unwrap();
    let left = |name: &str| tree.at(base).join(name).exists();
    assert!(!left("tillroll-4242-1") && !tree.at("sys/fs/cgroup/cpu/tillroll-4242-1").exists());
    for name in ["tillroll-78-3", "tillroll-4242-logs", "tillroll", "shop-4242-1"] {
        assert!(left(name), "{name}");
    }
}

#[test]
fn what_a_worker_with_the_same_pid_has_left_is_in_nobodys_way() {
    let tree = Tree::hybrid();
    fs::create_dir(tree.at(OURS)).unwrap();
    let fences = tree.prepare().unwrap();
    let fence = fences.raise().unwrap();
    assert_eq!(fence.place(), tree.at(OURS));
    // What is in use is not taken away.
    tree.file("sys/fs/cgroup/memory/app/tillroll-77-2/used", "");
    assert_eq!(fences.raise().unwrap_err().kind(), ErrorKind::AlreadyExists);
}

#[test]
fn a_fence_stands_above_what_the_ledger_grants() {
    let reserve = 256 * MIB;
    let bounds = |free, limit| Bounds { free, limit, reserve };
    // The ledger kills when a quarter of the reserve is left; the kernel after that.
    let limit = bounds(1000 * MIB, None).limit(400 * MIB, 100 * MIB);
    assert_eq!(limit, 300 * MIB + 1000 * MIB - 16 * MIB);
    assert!(limit > 300 * MIB + 1000 * MIB - reserve / 4);
    // The operator's limit counts where it is less.
    let limit = bounds(16_000 * MIB, Some(1024 * MIB)).limit(0, 0);
    assert_eq!(limit, 1024 * MIB + 1024 * MIB / 16 + 32 * MIB, "a larger reserve does not lift it");
    // Whatever is free: setting it does not kill.
    assert_eq!(bounds(0, None).limit(400 * MIB, 0), 432 * MIB);
    assert_eq!(bounds(u64::MAX, None).limit(0, 0), u64::MAX - 16 * MIB);
}

#[test]
fn the_limit_follows_what_is_free_and_what_the_operator_says() {
    let tree = Tree::hybrid();
    let fences = tree.prepare().unwrap();
    fences.allow(None, 0);
    fences.follow(800 * MIB);
    let fence = fences.raise().unwrap();
    let limit = || tree.number(&format!("{OURS}/memory.limit_in_bytes")) / MIB;
    tree.file(&format!("{OURS}/memory.usage_in_bytes"), &(300 * MIB).to_string());
    let cached = format!("inactive_file 1\ntotal_inactive_file {}\n", 100 * MIB);
    tree.file(&format!("{OURS}/memory.stat"), &cached);
    fences.follow(600 * MIB);
    assert_eq!(limit(), 800, "200 held, 600 free: nothing has changed");
    fences.follow(700 * MIB);
    assert_eq!((limit(), fences.standing().limit_bytes), (900, Some(900 * MIB)));
    fences.allow(Some(512 * MIB), 0);
    assert_eq!(limit(), 512 + 32 + 32);
    fences.allow(None, 0);
    assert_eq!(limit(), 900);
    drop(fence);
    assert_eq!(fences.standing().limit_bytes, None);
}

#[test]
fn kills_are_told_once_and_told_apart() {
    let tree = Tree::hybrid();
    let fences = tree.prepare().unwrap();
    let (full, other) = (fences.raise().unwrap(), fences.raise().unwrap());
    assert_eq!(full.claim_kill(), None);
    tree.file(&format!("{OURS}/memory.oom_control"), "under_oom 0\noom_kill 2\n");
    tree.file(&format!("{OURS}/memory.failcnt"), "17\n");
    let second = "sys/fs/cgroup/memory/app/tillroll-77-2";
    tree.file(&format!("{second}/memory.oom_control"), "oom_kill 1\n");
    tree.file(&format!("{second}/memory.failcnt"), "0\n");
    let inside = Some(Killed::Inside);
    assert_eq!([full.claim_kill(), full.claim_kill(), full.claim_kill()], [inside, inside, None]);
    assert_eq!([other.claim_kill(), other.claim_kill()], [Some(Killed::Outside), None]);
    let standing = fences.standing();
    assert_eq!((standing.kills, standing.outer_kills, standing.outside(5)), (2, 1, 6));
    drop(full);
    let standing = fences.standing();
    assert_eq!((standing.kills, standing.outer_kills), (2, 1), "also when it is gone");
}

#[test]
fn in_version_2_the_group_above_has_counted_them_too() {
    let tree = Tree::v2("memory\n", "77\n");
    let fences = tree.prepare().unwrap();
    let fence = fences.raise().unwrap();
    let events = "sys/fs/cgroup/app/tillroll-77-1/memory.events";
    tree.file(events, "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\noom_group_kill 0\n");
    let standing = fences.standing();
    assert_eq!((standing.kills, standing.outside(1)), (1, 0));
    assert_eq!(fence.claim_kill(), Some(Killed::Inside));
    // One more, and nothing was full but the group above.
    fences.follow(MIB);
    fences.follow(MIB);
    tree.file(events, "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\noom_group_kill 0\n");
    assert_eq!(fence.claim_kill(), Some(Killed::Outside));
    assert_eq!((fences.standing().kills, fences.standing().outer_kills), (1, 1));
}

#[test]
fn a_kill_is_the_fences_only_where_its_own_limit_was_what_was_short() {
    let above = "sys/fs/cgroup/memory/app";
    let (none, inside, outside) = (None, Some(Killed::Inside), Some(Killed::Outside));
    // How often the fence's limit was reached long ago, lately, and those above it, lately.
    for (long_ago, own, of_others, whose) in [
        (0, 16, 0, inside),
        (900, 16, 0, inside),
        (900, 0, 16, outside),
        (900, 0, 0, outside),
        // Files were given back, and the kill was for the other limit.
        (0, 2, 16, outside),
        (0, 5, 0, inside),
        // Where both were full it may have been either: the fence's tries are all there.
        (0, 20, 5_000, inside),
    ] {
        let tree = Tree::hybrid();
        let fences = tree.prepare().unwrap();
        let fence = fences.raise().unwrap();
        let counters = |failed: u64, failed_above: u64, kills: u64| {
            tree.file(&format!("{OURS}/memory.failcnt"), &format!("{failed}\n"));
            tree.file(&format!("{above}/memory.failcnt"), &format!("{failed_above}\n"));
            tree.file(&format!("{OURS}/memory.oom_control"), &format!("oom_kill {kills}\n"));
        };
        counters(long_ago, 7, 0);
        fences.follow(MIB);
        fences.follow(MIB);
        assert_eq!(fence.claim_kill(), none);
        // A look may come between the tries and the kill.
        counters(long_ago + own, 7 + of_others, 0);
        fences.follow(MIB);
        counters(long_ago + own, 7 + of_others, 1);
        assert_eq!(fence.claim_kill(), whose, "{long_ago} {own} {of_others}");
        assert_eq!(fences.standing().kills, u64::from(whose == inside));
    }
}

#[test]
fn what_cannot_be_removed_is_removed_later() {
    let tree = Tree::hybrid();
    let fences = tree.prepare().unwrap();
    let fence = fences.raise().unwrap();
    assert!(!fence.take_down(), "files stand in it, as processes would");
    drop(fence);
    assert!(tree.at(OURS).exists());
    for dir in [OURS, "sys/fs/cgroup/cpu/tillroll-77-1"] {
        for file in fs::read_dir(tree.at(dir)).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
    }
    fences.follow(MIB);
    assert!(!tree.at(OURS).exists() && !tree.at("sys/fs/cgroup/cpu/tillroll-77-1").exists());
}
