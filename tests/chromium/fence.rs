//! The last fence, with the control groups of this machine where it lets us make
//! them; where it does not, browsers have to do without.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process_group};
use tillroll::failure::{Class, MEMORY_FENCE, MEMORY_KERNEL};
use tillroll::memory::fence::Fences;
use tillroll::pool::{Pool, PoolConfig};
use tillroll::renderer::browser::{Browser, BrowserConfig};
use tillroll::renderer::launcher::Launcher;
use tillroll::renderer::processes::Kind;
use tillroll::renderer::{Render, RenderRequest};
use tokio::time::Instant;

use crate::printed::{config, none, page, request};
use crate::support::{self, PATIENCE};

const MIB: u64 = 1 << 20;

/// Fences of this machine, with so much to be had; or the reason why it has none.
fn fences(free: u64) -> Result<Fences, String> {
    let fences = Fences::prepare(Path::new("/"), std::process::id(), 0, 2)?;
    fences.follow(free);
    Ok(fences)
}

/// A jail with a fence, where there can be one.
fn fenced(fences: Result<&Fences, &String>) -> BrowserConfig {
    let fences = match fences {
        Ok(fences) => Some(tillroll::worker::fences(fences.clone())),
        Err(why) => {
            assert!(why.contains("Delegate="), "what to do about it: {why}");
            None
        }
    };
    BrowserConfig { fences, ..support::jailed() }
}

/// Groups of this test's fences below `place`.
fn groups(place: &Path) -> Vec<PathBuf> {
    let ours = format!("tillroll-{}-", std::process::id());
    let entries = std::fs::read_dir(place).unwrap().map(|entry| entry.unwrap());
    let entries = entries.filter(|entry| {
        let name = entry.file_name().into_string().unwrap();
        name.starts_with(&ours) && !name.ends_with("-worker")
    });
    entries.map(|entry| entry.path()).collect()
}

fn members(group: &Path) -> Vec<u32> {
    let text = std::fs::read_to_string(group.join("cgroup.procs")).unwrap();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_process_of_a_browser_is_in_its_fence_and_the_fence_goes_with_it() {
    let fences = fences(2048 * MIB);
    let launcher = Launcher::start().unwrap();
    let browser = Browser::launch(&launcher, &fenced(fences.as_ref())).await.unwrap();
    let context = support::context(&browser).await;
    assert!(support::pdf(&context, "<p>x").await.unwrap().starts_with(b"%PDF-"));
    // All but bubblewrap's own, which waits outside.
    let pids: Vec<u32> = browser
        .processes()
        .iter()
        .map(|process| process.pid)
        .filter(|pid| *pid != browser.pid())
        .collect();
    assert!(pids.len() >= 5, "{pids:?}");
    if let Ok(fences) = &fences {
        let (memory, cpu) = fences.places();
        let found = groups(memory);
        let [group] = &found[..] else { panic!("one browser, one group: {found:?}") };
        let inside = members(group);
        assert!(pids.iter().all(|pid| inside.contains(pid)), "{pids:?} in {inside:?}");
        for group in cpu.into_iter().chain(fences.tasks()).flat_map(groups) {
            let inside = members(&group);
            assert!(pids.iter().all(|pid| inside.contains(pid)), "{pids:?} in {inside:?}");
        }
        let limit = || {
            ["memory.limit_in_bytes", "memory.max"]
                .iter()
                .find_map(|file| std::fs::read_to_string(group.join(file)).ok())
                .map(|text| text.trim().parse::<u64>().unwrap())
        };
        assert_eq!(limit(), Some(2048 * MIB));
        // The operator changes memory.limit while it runs.
        fences.allow(Some(1024 * MIB), 0);
        assert_eq!(limit(), Some((1024 + 64 + 32) * MIB));
        assert_eq!(limit(), fences.standing().limit_bytes);
    }
    context.close(PATIENCE).await.unwrap();
    browser.close().await;
    if let Ok(fences) = &fences {
        let (memory, cpu) = fences.places();
        let places = [Some(memory), cpu, fences.tasks()];
        let left: Vec<_> = places.into_iter().flatten().flat_map(groups).collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(fences.standing().kills, 0);
    }
}

/// Of root's processes too, for which the limit that every user has does not count.
#[test]
fn what_multiplies_without_end_comes_to_an_end_in_its_fence() {
    let fences = match fences(2048 * MIB) {
        Ok(fences) => fences,
        Err(why) => {
            assert!(why.contains("Delegate="), "what to do about it: {why}");
            return;
        }
    };
    let Some(place) = fences.tasks() else {
        let outlook = tillroll::memory::fence::outlook(Path::new("/"), std::process::id());
        assert!(!outlook.tasks, "it could be bounded");
        return;
    };
    let fence = fences.raise().unwrap();
    let found = groups(place);
    let [group] = &found[..] else { panic!("one fence, one group: {found:?}") };
    let number = |file: &str| {
        let text = std::fs::read_to_string(group.join(file)).unwrap();
        text.split_whitespace().last().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(number("pids.max"), 8192);
    // Fewer will do here; how many are allowed is the kernel's to see to.
    std::fs::write(group.join("pids.max"), "20").unwrap();
    let mut shell = std::process::Command::new("/bin/sh")
        .args(["-c", "read go; i=0; while [ $i -lt 60 ]; do sleep 60 & i=$((i+1)); done; wait"])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    fence.take_in(shell.id()).unwrap();
    std::io::Write::write_all(&mut shell.stdin.take().unwrap(), b"go\n").unwrap();
    let give_up = Instant::now() + PATIENCE;
    while number("pids.events") == 0 {
        assert!(Instant::now() < give_up, "{} tasks", number("pids.current"));
        std::thread::yield_now();
    }
    assert!(number("pids.current") <= 20);
    let own = i32::try_from(shell.id()).unwrap();
    kill_process_group(Pid::from_raw(own).unwrap(), Signal::KILL).unwrap();
    shell.wait().unwrap();
    while !fence.take_down() {
        assert!(Instant::now() < give_up, "still there: {:?}", members(group));
        std::thread::yield_now();
    }
    assert!(groups(place).is_empty());
}

fn numbered(tenant: &str, html: &str) -> RenderRequest {
    request(tenant, html, none())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_fence_costs_one_renderer_and_its_job() {
    let fences = fences(256 * MIB);
    let pool = PoolConfig { browser: fenced(fences.as_ref()), ..config() };
    let pool = Arc::new(Pool::start(pool));
    pool.ready().await.unwrap();
    pool.render(numbered("quiet", &page("<p>before"))).await.unwrap();
    let browser = pool.browser().unwrap();
    let before = browser.pid();
    let quiet: Vec<u32> = renderers(&browser);
    // About 1 GB.
    let heavy = page(&format!("<table>{}</table>", "<tr><td>Tea<td>1<td>2.00".repeat(49_000)));
    match &fences {
        Ok(fences) => {
            let failure = pool.render(numbered("heavy", &heavy)).await.unwrap_err();
            assert_eq!((failure.class, failure.code), (Class::Resource, MEMORY_FENCE), "{failure}");
            let standing = fences.standing();
            assert_eq!((standing.kills, standing.outer_kills), (1, 0));
        }
        Err(_) => {
            let rendered = pool.render(numbered("heavy", "<p>light")).await;
            assert_eq!(rendered.unwrap().pages, 1);
        }
    }
    pool.render(numbered("quiet", &page("<p>after"))).await.unwrap();
    pool.render(numbered("heavy", &page("<p>small"))).await.unwrap();
    assert_eq!(pool.browser().unwrap().pid(), before, "the browser lives on");
    assert!(renderers(&browser).contains(&quiet[0]), "and so does the other's renderer");
    drop(browser);
    pool.close().await;
    if let Ok(fences) = &fences {
        assert!(groups(fences.places().0).is_empty());
        assert_eq!(fences.standing().kills, 1, "it is remembered");
    }
}

/// A group above the fences with a limit of its own, in version 1. (In version 2 the test
/// would have to leave its own group; there the kernel counts apart.)
struct Outer {
    dir: PathBuf,
    /// A machine on which it is the worker's own group.
    root: tempfile::TempDir,
}

impl Outer {
    fn below(place: &Path) -> Option<Self> {
        const MOUNT: &str = "/sys/fs/cgroup/memory";
        let own = place.strip_prefix(MOUNT).ok()?;
        let name = format!("tillroll-outer-{}", std::process::id());
        let dir = place.join(&name);
        std::fs::create_dir(&dir).unwrap();
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("proc/self")).unwrap();
        let line = format!("4:memory:/{}\n", own.join(name).display());
        std::fs::write(root.path().join("proc/self/cgroup"), line).unwrap();
        std::os::unix::fs::symlink("/sys", root.path().join("sys")).unwrap();
        Some(Self { dir, root })
    }
}

impl Drop for Outer {
    fn drop(&mut self) {
        // The test may have failed before it was empty.
        std::fs::remove_dir(&self.dir).ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_for_a_limit_above_the_fence_is_not_held_against_the_document() {
    let own = fences(256 * MIB);
    let outer = own.as_ref().ok().and_then(|fences| Outer::below(fences.places().0));
    let Some(outer) = outer else {
        assert!(!Path::new("/sys/fs/cgroup/memory/memory.usage_in_bytes").exists() || own.is_err());
        return;
    };
    let fences = Fences::prepare(outer.root.path(), std::process::id(), 0, 2).unwrap();
    fences.follow(8_192 * MIB);
    let pool = PoolConfig { browser: fenced(Ok(&fences)), ..config() };
    let pool = Arc::new(Pool::start(pool));
    pool.ready().await.unwrap();
    pool.render(numbered("quiet", &page("<p>before"))).await.unwrap();
    std::fs::write(outer.dir.join("memory.limit_in_bytes"), (400 * MIB).to_string()).unwrap();
    let heavy = page(&format!("<table>{}</table>", "<tr><td>Tea<td>1<td>2.00".repeat(49_000)));
    let failure = pool.render(numbered("heavy", &heavy)).await.unwrap_err();
    assert_eq!((failure.class, failure.code), (Class::Interrupted, MEMORY_KERNEL), "{failure}");
    let standing = fences.standing();
    assert_eq!((standing.kills, standing.outer_kills), (0, 1));
    pool.render(numbered("quiet", &page("<p>after"))).await.unwrap();
    pool.close().await;
    assert!(groups(fences.places().0).is_empty());
}

fn renderers(browser: &Browser) -> Vec<u32> {
    let processes = browser.processes().into_iter();
    processes.filter(|process| process.kind == Kind::Renderer).map(|process| process.pid).collect()
}
