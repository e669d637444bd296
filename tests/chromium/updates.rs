//! Engine and fonts that change on disk while jobs run.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tillroll::failure::Failure;
use tillroll::pool::{Isolation, Pool, PoolConfig};
use tillroll::renderer::engine::Search;
use tillroll::renderer::files::Files;
use tillroll::renderer::{Render, Upkeep, UpkeepState};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::printed::{config, none, page, request};
use crate::support::{self, PATIENCE};

const TENANTS: usize = 6;

/// Directories with an engine each, and a link to the one that is installed.
struct Installed {
    dir: tempfile::TempDir,
}

impl Installed {
    /// `one` and `two` are good, `broken` ends at once.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let real = support::engine().path;
        for good in ["one", "two"] {
            copy(real.parent().unwrap(), &dir.path().join(good));
        }
        let broken = dir.path().join("broken");
        std::fs::create_dir(&broken).unwrap();
        std::fs::copy("/bin/false", broken.join(real.file_name().unwrap())).unwrap();
        let this = Self { dir };
        this.install("one");
        this
    }

    /// Installs a script that runs the machine's engine.
    fn script(&self) {
        let (dir, real) = (self.dir.path().join("script"), support::engine().path);
        std::fs::create_dir(&dir).unwrap();
        let text = format!("#!/bin/sh\nexec {} \"$@\"\n", real.display());
        std::fs::write(dir.join(real.file_name().unwrap()), text).unwrap();
        self.install("script");
    }

    /// At once, as a package manager does.
    fn install(&self, which: &str) {
        let (new, current) = (self.dir.path().join("new"), self.dir.path().join("current"));
        std::os::unix::fs::symlink(which, &new).unwrap();
        std::fs::rename(new, current).unwrap();
    }

    fn path(&self) -> PathBuf {
        let name = support::engine().path;
        self.dir.path().join("current").join(name.file_name().unwrap())
    }

    fn fonts(&self) -> PathBuf {
        self.dir.path().join("fonts")
    }

    fn pool(&self, more: impl FnOnce(PoolConfig) -> PoolConfig) -> Arc<Pool> {
        std::fs::create_dir_all(self.fonts()).unwrap();
        let search = Search { configured: Some(self.path()), ..Search::default() };
        let files = Files { search: Some(search), fonts: vec![self.fonts()] };
        let config = PoolConfig {
            files,
            look_every: Duration::from_millis(100),
            max_contexts: 16,
            ..config()
        };
        Arc::new(Pool::start(more(config)))
    }
}

/// Links where it is the same file system, else copies.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else if std::fs::hard_link(&path, &to).is_err() {
            std::fs::copy(&path, &to).unwrap();
        }
    }
}

/// Jobs of some tenants, one after the other each, until told to stop.
struct Load {
    stop: CancellationToken,
    done: Arc<AtomicUsize>,
    another: Arc<Notify>,
    tenants: JoinSet<Result<(), Failure>>,
}

impl Load {
    fn on(pool: &Arc<Pool>) -> Self {
        let (stop, done) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let another = Arc::new(Notify::new());
        let mut tenants = JoinSet::new();
        for tenant in 0..TENANTS {
            let (pool, stop, done) = (Arc::clone(pool), stop.clone(), Arc::clone(&done));
            let another = Arc::clone(&another);
            tenants.spawn(async move {
                let html = page(&format!("<p>Total of {tenant}: 12.00"));
                while !stop.is_cancelled() {
                    pool.render(request(&format!("t{tenant}"), &html, none())).await?;
                    done.fetch_add(1, Ordering::Relaxed);
                    another.notify_one();
                }
                Ok(())
            });
        }
        Self { stop, done, another, tenants }
    }

    fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits until so many more are done.
    async fn more(&self, jobs: usize) -> usize {
        let before = self.done();
        while self.done() < before + jobs {
            // The tenants tell of each.
            let another = timeout(PATIENCE, self.another.notified()).await;
            another.expect("no job is done any more");
        }
        self.done() - before
    }

    /// How many were done; none may have failed.
    async fn end(self) -> usize {
        self.stop.cancel();
        for result in self.tenants.join_all().await {
            result.unwrap_or_else(|failure| panic!("a job was lost: {failure}"));
        }
        self.done.load(Ordering::Relaxed)
    }
}

/// Waits until the pool says so.
async fn told(pool: &Pool, what: &str, so: impl Fn(&Upkeep) -> bool) -> Upkeep {
    let mut upkeep = pool.upkeep().expect("it keeps itself up to date");
    let waited = timeout(PATIENCE, upkeep.wait_for(|now| so(now)));
    match waited.await {
        Ok(now) => now.unwrap().clone(),
        Err(_) => panic!("never: {what}; {:?}", pool.status()),
    }
}

fn current(times: u64) -> impl Fn(&Upkeep) -> bool {
    move |now| now.state == UpkeepState::Current && now.replaced == times
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_engine_takes_over_while_jobs_run_and_none_is_lost() {
    let installed = Installed::new();
    let pool = installed.pool(|config| config);
    pool.ready().await.unwrap();
    let first = pool.browser().unwrap();
    let load = Load::on(&pool);
    let began = Instant::now();
    let usual = load.more(200).await as f64 / began.elapsed().as_secs_f64();
    installed.install("two");
    let began = Instant::now();
    let before = load.done();
    told(&pool, "replaced", current(1)).await;
    let meanwhile = (load.done() - before) as f64 / began.elapsed().as_secs_f64();
    println!("{usual:.0} receipts/s, and {meanwhile:.0} for {:?} meanwhile", began.elapsed());
    let second = pool.browser().unwrap();
    assert_ne!(first.pid(), second.pid());
    assert!(first.gone().is_cancelled(), "the old browser is still there");
    assert!(first.processes().is_empty());
    // All tenants' contexts are in the new one, and it goes on.
    load.more(3 * TENANTS).await;
    let done = load.end().await;
    println!("{done} jobs while the engine was replaced");
    let status = pool.status();
    assert_eq!((status.deaths, status.failed_launches), (0, 0), "{status:?}");
    assert_eq!((status.starts, status.pid), (2, Some(second.pid())), "{status:?}");
    pool.close().await;
    assert!(second.gone().is_cancelled());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_does_not_start_is_refused_until_it_changes_again() {
    let installed = Installed::new();
    let pool = installed.pool(|config| config);
    pool.ready().await.unwrap();
    let first = pool.browser().unwrap();
    let load = Load::on(&pool);
    installed.install("broken");
    let now = told(&pool, "refused", |now| now.state == UpkeepState::Refused).await;
    let why = now.why.unwrap();
    assert!(why.contains("the engine changed on disk"), "{why}");
    assert!(why.contains("ended during its start"), "{why}");
    assert!(why.contains("install the engine again"), "{why}");
    println!("status: {why}");
    assert_eq!(pool.browser().unwrap().pid(), first.pid(), "the one that runs stays");
    // It is tried again by itself, less and less often, and nobody is told again.
    let mut upkeep = pool.upkeep().unwrap();
    let again = async {
        while pool.status().failed_launches < 3 {
            upkeep.changed().await.unwrap();
            assert_eq!(upkeep.borrow_and_update().state, UpkeepState::Refused);
        }
    };
    timeout(PATIENCE, again).await.expect("it is not tried again");
    assert_eq!(pool.upkeep().unwrap().borrow().refused, 1);

    installed.install("one");
    let now = told(&pool, "as it was", |now| now.state == UpkeepState::Current).await;
    assert_eq!((now.why, now.replaced), (None, 0));
    assert_eq!(pool.browser().unwrap().pid(), first.pid(), "nothing had to be replaced");
    assert!(!first.is_dead());

    // A distribution's wrapper script stands for the program behind it.
    installed.script();
    told(&pool, "replaced", current(1)).await;
    installed.install("broken");
    let now = told(&pool, "refused", |now| now.state == UpkeepState::Refused).await;
    assert_eq!(now.refused, 2, "it came anew");
    installed.install("two");
    told(&pool, "replaced", current(2)).await;
    let done = load.end().await;
    println!("{done} jobs while engines came and went");
    assert_eq!(pool.status().deaths, 0);
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_vanishes_leaves_the_running_one_alone() {
    let installed = Installed::new();
    let pool = installed.pool(|config| config);
    pool.ready().await.unwrap();
    let load = Load::on(&pool);
    std::fs::remove_file(installed.dir.path().join("current")).unwrap();
    let now = told(&pool, "refused", |now| now.state == UpkeepState::Refused).await;
    let why = now.why.unwrap();
    assert!(why.contains("not found") && why.contains("renderer.path"), "{why}");
    let browser = pool.browser().unwrap();
    assert!(!browser.is_dead());
    load.end().await;
    // The browser dies, and there is none to launch: jobs are told so at once.
    browser.kill().await;
    let failed = async {
        loop {
            let job = pool.render(request("t", &page("<p>x"), none())).await;
            if let Err(failure) = job
                && failure.code == "browser_unavailable"
            {
                return failure;
            }
        }
    };
    let failure = timeout(PATIENCE, failed).await.unwrap();
    assert!(failure.message.contains("not found"), "{failure}");
    // It is there again, under another name than at the start: no restart is needed.
    installed.install("two");
    let ready = async { while pool.ready().await.is_err() {} };
    timeout(PATIENCE, ready).await.unwrap();
    pool.render(request("t", &page("<p>x"), none())).await.unwrap();
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fonts_that_change_are_used_by_a_new_browser() {
    let installed = Installed::new();
    let pool = installed.pool(|config| config);
    pool.ready().await.unwrap();
    let first = pool.browser().unwrap();
    std::fs::write(installed.fonts().join("house.ttf"), b"as good as any").unwrap();
    told(&pool, "replaced", current(1)).await;
    assert_ne!(pool.browser().unwrap().pid(), first.pid());
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_of_contexts_own_are_replaced_too() {
    let installed = Installed::new();
    let pool = installed.pool(|config| PoolConfig { isolation: Isolation::Browser, ..config });
    pool.ready().await.unwrap();
    let html = page("<p>x");
    let render = || async { pool.render(request("t", &html, none())).await.unwrap() };
    render().await;
    render().await;
    assert_eq!(pool.status().opened, 1, "kept warm");
    installed.install("two");
    told(&pool, "replaced", current(1)).await;
    // In the old one, if that has not gone yet; then in a new one.
    render().await;
    render().await;
    assert_eq!(pool.status().opened, 2);
    render().await;
    assert_eq!(pool.status().opened, 2);
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_is_closed_while_it_tries_an_engine_leaves_nothing() {
    let installed = Installed::new();
    for state in [UpkeepState::Checking, UpkeepState::Replacing] {
        installed.install("one");
        let pool = installed.pool(|config| config);
        pool.ready().await.unwrap();
        pool.render(request("t", &page("<p>x"), none())).await.unwrap();
        installed.install("two");
        told(&pool, "at it", |now| now.state == state).await;
        let ours = installed.dir.path().to_string_lossy().into_owned();
        pool.close().await;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        // A launch that was dropped is killed in the background.
        while running(&ours) > 0 {
            assert!(tokio::time::Instant::now() < deadline, "{state:?}: processes are left");
            tokio::task::yield_now().await;
        }
    }
}

/// Processes with `word` in their command line, other than zombies.
fn running(word: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.map(|entry| std::fs::read(entry.path().join("cmdline")));
    lines.flatten().filter(|line| String::from_utf8_lossy(line).contains(word)).count()
}
