//! Memory and its limits, `/dev/shm`, disk.

use std::path::{Path, PathBuf};

use rustix::fs::statvfs;

use crate::cli::{Session, counted, parts};
use crate::config::Config;
use crate::config::units::show_bytes_rounded as show_bytes;
use crate::config::values::{self, GovernorKind, RendererKind};
use crate::memory::capacity::{Needs, Room};
use crate::memory::fence::{self, Outlook};
use crate::memory::probe::Cgroup;
use crate::memory::{Memory, Plan, Probe, Settings};
use crate::queue::embedded;

use super::finding::Finding;

/// Below this the state directory's disk is as good as full.
const FULL: u64 = 64 << 20;
/// Below this a person should look.
const SCARCE: u64 = 1 << 30;

pub(super) fn check(session: &Session) -> Vec<Finding> {
    let probe = Probe::default();
    // One that runs already takes some of it; the plan of the worker knows how much.
    let is_embedded = session.loaded.config.redis.url.as_ref().is_some_and(|url| url.is_embedded());
    let redis = if is_embedded {
        embedded::footprint(session.loaded.config.redis.maxmemory.bytes())
    } else {
        0
    };
    let mut findings = match probe.read().and_then(|memory| Ok((memory, probe.total()?))) {
        Ok((memory, total)) => {
            let settings = parts::memory_settings(session, total, redis);
            let config = &session.loaded.config;
            let governed = config.memory.governor == GovernorKind::On
                && config.renderer.kind == RendererKind::Chromium;
            let mut findings = judge_memory(memory, &settings, governed.then(parts::cores));
            findings.extend(judge_concurrency(config, parts::cores()));
            findings
        }
        Err(error) => vec![Finding::fail(
            "memory",
            crate::worker::chain(&error),
            "mount /proc in this container",
        )],
    };
    findings.extend(judge_fence(&session.loaded.config, || {
        fence::outlook(Path::new("/"), std::process::id())
    }));
    findings.push(judge_shm(space(Path::new("/dev/shm")).ok()));
    let state = &session.loaded.config.state.dir;
    findings.push(judge_disk(state, space(&existing(state))));
    findings
}

/// `cores`: with which the governor decides; `None` where it is off.
fn judge_memory(memory: Memory, settings: &Settings, cores: Option<usize>) -> Vec<Finding> {
    let bound = match memory.cgroup {
        Some(Cgroup { limit, working_set }) => format!(
            "{} free of the machine's; cgroup limit {}, {} of it used",
            show_bytes(memory.available),
            show_bytes(limit),
            show_bytes(working_set)
        ),
        None => format!("{} free; no cgroup limit", show_bytes(memory.available)),
    };
    let plan = match cores {
        Some(cores) => governed(settings, cores, memory.free()),
        None => bounded(settings, memory.free()),
    };
    vec![Finding::ok("memory", bound), plan]
}

/// What a worker with `memory.governor = on` would let in now, as far as can be
/// told before anything was rendered.
fn governed(settings: &Settings, cores: usize, free: u64) -> Finding {
    const CHECK: &str = "memory.plan";
    let room = match Room::new(settings, cores, free, &Needs::EXPECTED) {
        Ok(room) => room,
        Err(small) => return Finding::fail(CHECK, small.to_string(), small.remedy()),
    };
    let what = format!(
        "governed: {} now of the {} that may render at once, {} in all (expected at {} each, as in \
         the worker's log; `tillroll plan` measures it); a document alone may take {}; {} stay free",
        counted(room.slots as u64, "receipt"),
        settings.slots,
        counted(room.contexts as u64, "warm context"),
        show_bytes(Needs::EXPECTED.context_bytes),
        show_bytes(room.largest),
        show_bytes(room.keep)
    );
    if room.slots < settings.slots {
        let remedy = "free memory, raise memory.limit, or lower memory.reserve; `tillroll plan` \
                      measures what a receipt takes here";
        return Finding::warn(CHECK, what, remedy);
    }
    Finding::ok(CHECK, what)
}

/// Whether more are to render at once than the cores can use.
fn judge_concurrency(config: &Config, cores: usize) -> Option<Finding> {
    let why = config.worker.concurrency.excess(cores)?;
    let fix = "set worker.concurrency to \"auto\"";
    Some(Finding::warn("concurrency", why, fix))
}

/// What a worker with `memory.governor = off` is bound to.
fn bounded(settings: &Settings, free: u64) -> Finding {
    match Plan::new(settings, free) {
        Err(small) => Finding::fail("memory.plan", small.to_string(), small.remedy()),
        Ok(plan) if plan.slots < settings.slots => Finding::warn(
            "memory.plan",
            format!(
                "room for {} of the {} renders at once that the cores could do, {} contexts",
                plan.slots, settings.slots, plan.contexts
            ),
            "free memory, or lower memory.reserve or memory.per_render if they are too careful",
        ),
        Ok(plan) => Finding::ok(
            "memory.plan",
            format!(
                "{} budget after a reserve of {}: {} renders at once, {} contexts",
                show_bytes(plan.budget),
                show_bytes(settings.reserve),
                plan.slots,
                plan.contexts
            ),
        ),
    }
}

/// Whether a browser can get a control group of its own, for a worker that is
/// started as this was.
fn judge_fence(config: &Config, look: impl FnOnce() -> Outlook) -> Option<Finding> {
    const CHECK: &str = "memory.fence";
    let governed = config.memory.governor == values::GovernorKind::On
        && config.renderer.kind == values::RendererKind::Chromium;
    if config.memory.fence == values::FenceKind::Off || !governed {
        return None;
    }
    let Outlook { memory, cpu, tasks } = look();
    Some(match memory {
        Ok(place) => {
            let cores = if cpu { "" } else { ", without a CPU weight" };
            // Of others the kernel counts them anyway (RLIMIT_NPROC).
            let bounded = tasks || !rustix::process::geteuid().is_root();
            let tasks = if bounded { "" } else { ", without a limit on its processes" };
            let below = place.display();
            Finding::ok(
                CHECK,
                format!("each browser gets a control group below {below}{cores}{tasks}"),
            )
        }
        Err((why, remedy)) => Finding::warn(
            CHECK,
            format!("started like this, browsers get no control group of their own: {why}"),
            remedy,
        ),
    })
}

/// Free bytes and free inodes, as an ordinary user may take them; a file system
/// without inodes to count has enough.
#[derive(Debug, Clone, Copy)]
struct Space {
    bytes: u64,
    inodes: u64,
}

fn space(path: &Path) -> std::io::Result<Space> {
    let stat = statvfs(path)?;
    let inodes = if stat.f_files == 0 { u64::MAX } else { stat.f_favail };
    Ok(Space { bytes: stat.f_bavail.saturating_mul(stat.f_frsize), inodes })
}

/// The nearest ancestor that is there.
fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_owned()
}

fn judge_shm(space: Option<Space>) -> Finding {
    // Chromium runs with --disable-dev-shm-usage: the jail's own /tmp stands in.
    let what = match space {
        Some(Space { bytes, .. }) => format!("{} free", show_bytes(bytes)),
        None => "not there".to_owned(),
    };
    Finding::ok("shm", format!("/dev/shm: {what}; Chromium is told to do without it"))
}

fn judge_disk(state: &Path, space: std::io::Result<Space>) -> Finding {
    const CHECK: &str = "disk";
    let place = state.display();
    let remedy = "free space there, or set state.dir to a directory on another disk";
    match space {
        Err(error) => Finding::fail(CHECK, format!("state.dir {place}: {error}"), remedy),
        Ok(Space { bytes, inodes }) if bytes < FULL || inodes < 100 => Finding::fail(
            CHECK,
            format!("the disk of state.dir {place} is full ({} free)", show_bytes(bytes)),
            remedy,
        ),
        Ok(Space { bytes, .. }) if bytes < SCARCE => Finding::warn(
            CHECK,
            format!("{} free for state.dir {place}", show_bytes(bytes)),
            remedy,
        ),
        Ok(Space { bytes, .. }) => {
            Finding::ok(CHECK, format!("{} free for state.dir {place}", show_bytes(bytes)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;
    use crate::config;

    const MIB: u64 = 1 << 20;

    const SETTINGS: Settings =
        Settings { limit: None, reserve: 256 * MIB, per_render: 96 * MIB, redis: 0, slots: 3 };

    fn memory(available: u64, cgroup: Option<Cgroup>) -> Vec<Finding> {
        judge_memory(Memory { available, cgroup }, &SETTINGS, None)
    }

    #[test]
    fn the_plan_says_what_fits() {
        assert_eq!(memory(4096 * MIB, None)[1].verdict, Verdict::Ok);
        assert_eq!(memory(700 * MIB, None)[1].verdict, Verdict::Warn);
        let small = memory(300 * MIB, None);
        assert_eq!(small[1].verdict, Verdict::Fail);
        assert!(small[1].remedy.as_ref().unwrap().contains("MiB more"));
    }

    #[test]
    fn with_the_governor_on_it_says_what_that_would_let_in() {
        let plan = |free: u64| {
            let memory = Memory { available: free * MIB, cgroup: None };
            judge_memory(memory, &SETTINGS, Some(2)).pop().unwrap()
        };
        let sound = plan(4096);
        assert_eq!(sound.verdict, Verdict::Ok);
        let room = Room::new(&SETTINGS, 2, 4096 * MIB, &Needs::EXPECTED).unwrap();
        let contexts = format!("{} warm contexts in all", room.contexts);
        assert!(sound.what.contains("3 receipts now of the 3"), "{}", sound.what);
        assert!(sound.what.contains(&contexts), "{}", sound.what);
        let tight = plan(570);
        assert_eq!(tight.verdict, Verdict::Warn);
        assert!(tight.what.contains("1 receipt now of the 3"), "{}", tight.what);
        assert!(tight.remedy.as_ref().unwrap().contains("tillroll plan"));
        let none = plan(300);
        assert_eq!(none.verdict, Verdict::Fail);
        assert!(none.remedy.as_ref().unwrap().contains("MiB more"));
    }

    #[test]
    fn a_cgroups_limit_is_named_and_counts() {
        let cgroup = Some(Cgroup { limit: 512 * MIB, working_set: 300 * MIB });
        let findings = memory(8192 * MIB, cgroup);
        assert!(findings[0].what.contains("cgroup limit"), "{}", findings[0].what);
        assert_eq!(findings[1].verdict, Verdict::Fail);
    }

    #[test]
    fn fences_are_judged_only_where_they_are_wanted() {
        let judged = |set: &[(&str, &str)], outlook: &Outlook| {
            let set = set.iter().map(|(key, value)| (key.into(), value.into()));
            let loaded = config::load(&config::Given::default(), set).unwrap();
            judge_fence(&loaded.config, || outlook.clone())
        };
        let can = Outlook { memory: Ok("/sys/fs/cgroup/app".into()), cpu: false, tasks: true };
        let finding = judged(&[], &can).unwrap();
        assert_eq!(finding.verdict, Verdict::Ok);
        assert!(finding.what.ends_with("/app, without a CPU weight"), "{}", finding.what);
        let root = rustix::process::geteuid().is_root();
        let some = judged(&[], &Outlook { cpu: true, tasks: false, ..can }).unwrap();
        assert_eq!(some.what.ends_with("without a limit on its processes"), root, "{}", some.what);
        let memory = Err(("it is read-only".into(), "do this"));
        let cannot = Outlook { memory, cpu: false, tasks: false };
        let finding = judged(&[], &cannot).unwrap();
        assert_eq!((finding.verdict, finding.remedy.as_deref()), (Verdict::Warn, Some("do this")));
        assert!(finding.what.contains("read-only"), "{}", finding.what);
        for off in [("TILLROLL_MEMORY__FENCE", "off"), ("TILLROLL_MEMORY__GOVERNOR", "off")] {
            assert_eq!(judged(&[off], &cannot), None, "{off:?}");
        }
    }

    #[test]
    fn more_at_once_than_the_cores_can_use_is_a_warning() {
        let judged = |concurrency: &str| {
            let set = [("TILLROLL_WORKER__CONCURRENCY".into(), concurrency.into())];
            let loaded = config::load(&config::Given::default(), set).unwrap();
            judge_concurrency(&loaded.config, 1)
        };
        assert_eq!((judged("auto"), judged("3")), (None, None));
        let many = judged("64").unwrap();
        assert_eq!(many.verdict, Verdict::Warn);
        assert!(many.what.contains("64 with 1 core"), "{}", many.what);
    }

    #[test]
    fn a_full_disk_fails() {
        let judged =
            |bytes, inodes| judge_disk(Path::new("/s"), Ok(Space { bytes, inodes })).verdict;
        assert_eq!(judged(10 << 30, 1 << 20), Verdict::Ok);
        assert_eq!(judged(500 << 20, 1 << 20), Verdict::Warn);
        assert_eq!(judged(10 << 20, 1 << 20), Verdict::Fail);
        assert_eq!(judged(10 << 30, 5), Verdict::Fail);
        assert_eq!(existing(Path::new("/usr/nothing/here")), Path::new("/usr"));
    }
}
