//! What looking costs, on this machine and its real `/proc`; when fences are moved.

use std::process::{Child, Command, Stdio};

use tokio::time::Instant;

use super::super::control::Policy;
use super::super::document::Features;
use super::super::fence::Fences;
use super::super::live::{Asked, BACK, REACTION};
use super::super::probe::{Cgroup, Memory};
use super::super::terms::Bounds;
use super::*;

const CONTEXTS: u64 = 64;
const BUSY: u64 = 3;
/// Samples that are waited for: three seconds at leisure, at least.
const SAMPLES: u64 = 30;

/// One of the contexts' processes.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// What the thread that measures has used of a core.
fn used() -> Duration {
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        if std::fs::read_to_string(task.join("comm")).unwrap() == "governor\n" {
            let stat = std::fs::read_to_string(task.join("schedstat")).unwrap();
            return Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap());
        }
    }
    panic!("there is no thread that measures");
}

/// Without optimisation it takes about twice as much.
#[tokio::test]
async fn to_watch_sixty_four_contexts_takes_a_hundredth_of_a_core() {
    let policy = Policy {
        bounds: Bounds::default(),
        floor: 0,
        cores: 2,
        most: BUSY as usize,
        reaction: REACTION,
        back: BACK,
    };
    let live = Live::start(&policy, Path::new("/")).unwrap();
    let tenant: Arc<str> = "acme".into();
    let processes: Vec<Process> = (0..CONTEXTS)
        .map(|_| {
            let mut sleep = Command::new("sleep");
            Process(sleep.arg("600").stdin(Stdio::null()).spawn().unwrap())
        })
        .collect();
    let mut tickets = Vec::new();
    for (context, process) in (0..CONTEXTS).zip(&processes) {
        let asked = Asked {
            name: "acme/r".to_owned(),
            tenant: Arc::clone(&tenant),
            features: Features::default(),
            bytes: 0,
            digest: None,
            alone: None,
            bulk: false,
        };
        let ticket = live.ask(asked);
        let job = JobId(ticket.number());
        live.entered(job, ContextId(context), &tenant, Some(process.0.id()));
        if context < BUSY {
            tickets.push(ticket);
        } else {
            assert!(live.left(job, ContextId(context), true, None));
        }
    }
    let mut changed = live.changed();
    let wait = async |changed: &mut tokio::sync::watch::Receiver<u64>, more: u64| {
        let now = *changed.borrow_and_update();
        changed.wait_for(|count| *count >= now + more).await.unwrap();
    };
    wait(&mut changed, 10).await;
    let (began, before) = (Instant::now(), used());
    wait(&mut changed, SAMPLES).await;
    let (part, samples) = ((used() - before).as_secs_f64(), SAMPLES as f64);
    let (of_core, each) = (part / began.elapsed().as_secs_f64(), part / samples * 1e6);
    println!(
        "{CONTEXTS} contexts, {BUSY} busy: {:.2} % of a core, {each:.0} µs a sample",
        of_core * 100.0
    );
    let most = if cfg!(debug_assertions) { 0.03 } else { 0.01 };
    assert!(of_core <= most, "{:.2} % of a core", of_core * 100.0);
    drop(tickets);
}

fn two_cores() -> Policy {
    let bounds = Bounds::default();
    Policy { bounds, floor: 0, cores: 2, most: 2, reaction: REACTION, back: BACK }
}

#[test]
fn a_fence_is_moved_at_once_for_what_another_browser_gave_back() {
    const MIB: u64 = 1 << 20;
    let root = tempfile::tempdir().unwrap();
    let file = |path: &str, text: &str| {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    file("proc/self/cgroup", "4:memory:/app\n");
    file("sys/fs/cgroup/memory/app/cgroup.procs", "");
    // Nothing can be measured below this root: what is free is said here alone.
    let live = Live::start(&two_cores(), root.path()).unwrap();
    let fences = Fences::prepare(root.path(), 77, 10, 2).unwrap();
    live.fence(fences.clone());
    let mut eyes = Eyes::new(root.path());
    let mut look = |free: u64, own: u64| {
        let group = Cgroup { limit: 2_000 * MIB, working_set: (2_000 - free) * MIB };
        let memory = Memory { available: u64::MAX, cgroup: Some(group) };
        let (at, own) = (Duration::ZERO, own * MIB);
        eyes.fence(&live, &Reading { at, memory, own, counters: None });
    };
    look(300, 900);
    let fence = fences.raise().unwrap();
    let usage = fence.place().join("memory.usage_in_bytes");
    std::fs::write(usage, (100 * MIB).to_string()).unwrap();
    let limit = || fences.standing().limit_bytes.unwrap() / MIB;
    assert_eq!(limit(), 300);
    look(310, 890);
    assert_eq!(limit(), 300, "not worth it");
    look(800, 400);
    assert_eq!(limit(), 900);
    look(500, 700);
    assert_eq!(limit(), 900, "less is not urgent");
}

#[test]
fn what_is_free_will_do_only_while_it_is_ample_and_stays_as_it_is() {
    const MIB: u64 = 1 << 20;
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("proc/77")).unwrap();
    std::fs::write(root.path().join("proc/77/status"), "RssAnon: 9 kB\n").unwrap();
    let free = |mib: u64| {
        let text = format!("MemAvailable: {} kB\n", mib * 1024);
        std::fs::write(root.path().join("proc/meminfo"), text).unwrap();
    };
    free(2_000);
    let live = Live::start(&two_cores(), root.path()).unwrap();
    let mut eyes = Eyes::new(root.path());
    assert!(!eyes.glance(&live, Duration::ZERO), "nothing was read yet");
    eyes.look(&live);
    let later = |eyes: &Eyes, ms| eyes.read.unwrap().0 + Duration::from_millis(ms);
    let mut glances = |mib: u64, ms| {
        free(mib);
        let now = later(&eyes, ms);
        eyes.glance(&live, now)
    };
    assert!(glances(2_000, 25) && glances(2_000, 75));
    assert!(!glances(2_000, 99), "it is time");
    assert!(glances(1_990, 25) && glances(2_010, 25));
    assert!(!glances(1_980, 25) && !glances(2_020, 25), "somebody took or gave");
    live.entered(JobId(9), ContextId(9), &"acme".into(), Some(77));
    assert!(!glances(2_000, 25), "its renderer was never read");
    eyes.look(&live);
    let now = later(&eyes, 25);
    assert!(eyes.glance(&live, now));
    // Not ample: a surge of two cores and what has to stay free.
    free(250);
    eyes.look(&live);
    let now = later(&eyes, 25);
    assert!(!eyes.glance(&live, now));
    const { assert!(NOTICE == 16 * MIB) };
}
