//! The pool: tenants, bounds, and everything that can die under a job.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tillroll::failure::Class;
use tillroll::pool::{Isolation, Pool, PoolConfig};
use tillroll::renderer::processes::Kind;
use tillroll::renderer::{Render, RenderRequest};
use tokio::time::{Instant, timeout};

use crate::printed::{config, none, page, pool, print, render, request};
use crate::support::PATIENCE;

/// A document that takes far longer than it takes to look at its processes.
fn heavy() -> String {
    page(&format!("<table>{}</table>", "<tr><td>Tea<td>1<td>2.00".repeat(45_000)))
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

fn renderers(pool: &Pool) -> Vec<u32> {
    let browser = pool.browser().expect("a browser");
    let processes = browser.processes().into_iter();
    processes.filter(|process| process.kind == Kind::Renderer).map(|process| process.pid).collect()
}

fn chromium(pool: &Pool) -> u32 {
    let browser = pool.browser().expect("a browser");
    let found = browser.processes().into_iter().find(|process| process.kind == Kind::Browser);
    found.expect("Chromium's main process").pid
}

/// Looks again until it is so.
pub(crate) async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let looked = timeout(PATIENCE, async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    looked.await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Starts a heavy job and waits until it is in its renderer's hands.
async fn start_heavy(
    pool: &Arc<Pool>,
    request: RenderRequest,
) -> tokio::task::JoinHandle<Result<tillroll::renderer::Rendered, tillroll::failure::Failure>> {
    let runs = Arc::clone(pool);
    let tenant = Arc::clone(&request.tenant);
    let job = tokio::spawn(async move { runs.render(request).await });
    until("the job has a context", || {
        pool.renderers().iter().any(|one| one.busy && one.tenant == tenant)
    })
    .await;
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_never_share_a_renderer_and_keep_their_own() {
    let pool = Arc::new(pool().await);
    let one = |tenant: &'static str, round: usize| {
        let html = page(&format!("<p>{tenant} {round}"));
        let pool = Arc::clone(&pool);
        async move { pool.render(request(tenant, &html, none())).await.unwrap() }
    };
    let both = async |round| tokio::join!(one("a", round), one("b", round));
    both(0).await;
    let first = renderers(&pool);
    assert_eq!(first.len(), 2, "one renderer for each tenant");
    for round in 1..20 {
        both(round).await;
    }
    assert_eq!(renderers(&pool), first);
    let status = pool.status();
    assert_eq!((status.opened, status.idle, status.busy, status.contexts), (2, 2, 0, 2));
    let mut known: Vec<_> = pool.renderers().into_iter().filter_map(|one| one.pid).collect();
    known.sort_unstable();
    assert_eq!(known, first, "each is known by its tenant: {:?}", pool.renderers());
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_may_have_several_contexts_at_once() {
    let pool = pool().await;
    let html = page("<p>Total");
    let job = || async { render(&pool, &html, none()).await.unwrap() };
    tokio::join!(job(), job(), job());
    let opened = pool.status().opened;
    assert!((2..=3).contains(&opened), "{opened}");
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_enough_is_rendered_a_job_waits_for_its_tenants_context() {
    let config = PoolConfig { enough: 1, patience: PATIENCE, ..config() };
    let pool = Arc::new(Pool::start(config));
    let html = page("<p>Total");
    let job = |tenant: &'static str| {
        let (pool, html) = (Arc::clone(&pool), html.clone());
        async move { pool.render(request(tenant, &html, none())).await.unwrap().pages }
    };
    assert_eq!(tokio::join!(job("a"), job("a"), job("a"), job("b"), job("b")), (1, 1, 1, 1, 1));
    let status = pool.status();
    assert_eq!((status.opened, status.idle), (2, 2), "one for each tenant");
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waited_long_enough_has_another_context_opened() {
    let patience = Duration::from_millis(50);
    let pool = Arc::new(Pool::start(PoolConfig { enough: 1, patience, ..config() }));
    let slow = start_heavy(&pool, request("a", &heavy(), none())).await;
    let quick = pool.render(request("a", &page("<p>Total"), none())).await.unwrap();
    assert_eq!(quick.pages, 1);
    assert!(!slow.is_finished(), "nobody waits for what takes so long");
    assert_eq!(pool.status().opened, 2);
    slow.abort();
    pool.close().await;
}

#[tokio::test]
async fn nobody_waits_for_a_context_that_does_not_come_back() {
    // Longer than any job may take.
    let patience = Duration::from_secs(600);
    let pool = Arc::new(Pool::start(PoolConfig { enough: 1, patience, ..config() }));
    // One that serves a single job, and never ends by itself.
    let endless = page("<script>for (;;);</script>");
    let scripted = start_heavy(&pool, request("a", &endless, json!({"script": true}))).await;
    assert_eq!(pool.render(request("a", &page("<p>Tea"), none())).await.unwrap().pages, 1);
    assert!(!scripted.is_finished() && pool.status().opened == 2);
    scripted.abort();
    // One whose job is given up while another waits for it.
    let slow = start_heavy(&pool, request("b", &heavy(), none())).await;
    let (runs, waits) = (Arc::clone(&pool), request("b", &page("<p>Tea"), none()));
    let waiting = tokio::spawn(async move { runs.render(waits).await });
    tokio::task::yield_now().await;
    slow.abort();
    assert_eq!(timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap().pages, 1);
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_never_more_contexts_than_the_bound() {
    let pool = Arc::new(Pool::start(PoolConfig { max_contexts: 5, ..config() }));
    pool.ready().await.unwrap();
    let most = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let watch = tokio::spawn({
        let (pool, most) = (Arc::clone(&pool), Arc::clone(&most));
        async move {
            loop {
                let now = pool.status().contexts.max(renderers(&pool).len());
                most.fetch_max(now, std::sync::atomic::Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        }
    });
    let mut jobs = tokio::task::JoinSet::new();
    for tenant in 0..30 {
        let pool = Arc::clone(&pool);
        jobs.spawn(async move {
            let html = page(&format!("<p>tenant {tenant}"));
            let rendered = pool.render(request(&format!("t{tenant}"), &html, none())).await;
            rendered.unwrap().pages
        });
    }
    assert_eq!(jobs.join_all().await, vec![1; 30]);
    watch.abort();
    let most = most.load(std::sync::atomic::Ordering::Relaxed);
    assert!((1..=5).contains(&most), "{most} contexts or renderers at once");
    assert_eq!(pool.status().opened, 30);

    // A lower bound closes idle ones at once.
    pool.set_max_contexts(2);
    until("two contexts", || pool.status().contexts == 2 && renderers(&pool).len() == 2).await;
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_in_isolation_get_a_context_each() {
    let config = PoolConfig { isolation: Isolation::Job, max_contexts: 1, ..config() };
    let pool = Pool::start(config);
    for _ in 0..3 {
        print(&pool, &page("<p>Total"), none()).await;
    }
    let status = pool.status();
    assert_eq!((status.opened, status.idle), (3, 0));
    until("nothing is left", || pool.status().contexts == 0).await;
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_is_recycled_after_its_jobs() {
    let recycle = tillroll::pool::recycle::RecyclePolicy { max_jobs: 2, ..Default::default() };
    let pool = Pool::start(PoolConfig { recycle, ..config() });
    for _ in 0..5 {
        print(&pool, &page("<p>Total"), none()).await;
    }
    assert_eq!(pool.status().opened, 3);
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_renderer_fails_its_own_job_only() {
    let pool = Arc::new(pool().await);
    let job = start_heavy(&pool, request("shop", &heavy(), none())).await;
    let [victim] = renderers(&pool)[..] else { panic!("one renderer") };
    print(&pool, &page("<p>warm the other up"), none()).await;
    signal(victim, Signal::KILL);
    let failure = timeout(PATIENCE, job).await.unwrap().unwrap().unwrap_err();
    assert_eq!(failure.class, Class::Renderer, "{failure}");
    assert!(["renderer_crashed", "print_failed"].contains(&failure.code), "{failure}");
    print(&pool, &page("<p>next"), none()).await;
    let status = pool.status();
    assert_eq!((status.starts, status.deaths), (1, 0), "{status:?}");
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_renderer_ends_at_the_deadline_and_is_gone() {
    let pool = Arc::new(pool().await);
    print(&pool, &page("<p>warm"), none()).await;
    let [victim] = renderers(&pool)[..] else { panic!("one renderer") };
    signal(victim, Signal::STOP);
    let started = Instant::now();
    let failure = render(&pool, &page("<p>never"), json!({"timeout_ms": 400})).await.unwrap_err();
    assert_eq!((failure.class, failure.code), (Class::Document, "render_timeout"), "{failure}");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    print(&pool, &page("<p>next"), none()).await;
    until("the stopped one is gone", || !renderers(&pool).contains(&victim)).await;
    until("its place is free", || pool.status().contexts == 1).await;
    assert_eq!(pool.status().deaths, 0);
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_renderer_that_died_is_not_given_to_a_job() {
    let pool = pool().await;
    print(&pool, &page("<p>warm"), none()).await;
    let [victim] = renderers(&pool)[..] else { panic!("one renderer") };
    signal(victim, Signal::KILL);
    until("it is gone", || renderers(&pool).is_empty()).await;
    // Its news and the next job may still cross: then the job may be repeated, once.
    let next = render(&pool, &page("<p>next"), none()).await;
    if let Err(failure) = next {
        assert_eq!(failure.class, Class::Renderer, "{failure}");
        print(&pool, &page("<p>next"), none()).await;
    }
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_browser_interrupts_its_jobs_at_once_and_another_takes_over() {
    let pool = Arc::new(pool().await);
    for round in 1..=3 {
        let job = start_heavy(&pool, request(&format!("t{round}"), &heavy(), none())).await;
        let old = chromium(&pool);
        let killed = Instant::now();
        signal(old, Signal::KILL);
        let failure = timeout(PATIENCE, job).await.unwrap().unwrap().unwrap_err();
        let noticed = killed.elapsed();
        assert_eq!((failure.class, failure.code), (Class::Interrupted, "browser_died"));
        assert!(noticed < Duration::from_secs(2), "{noticed:?}");
        print(&pool, &page("<p>next"), none()).await;
        assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
        let status = pool.status();
        assert_eq!((status.deaths, status.starts), (round, round + 1));
        assert_ne!(chromium(&pool), old);
    }
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_browser_is_replaced() {
    let pool = pool().await;
    print(&pool, &page("<p>warm"), none()).await;
    let old = chromium(&pool);
    signal(old, Signal::STOP);
    let failure = render(&pool, &page("<p>never"), json!({"timeout_ms": 400})).await.unwrap_err();
    // Not the document's fault: the whole browser is asked, and does not answer.
    assert_eq!((failure.class, failure.code), (Class::Interrupted, "browser_died"), "{failure}");
    until("another browser", || pool.status().starts == 2).await;
    print(&pool, &page("<p>next"), none()).await;
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_stalls_for_a_moment_is_not_replaced() {
    let pool = pool().await;
    print(&pool, &page("<p>warm"), none()).await;
    let stalled = chromium(&pool);
    signal(stalled, Signal::STOP);
    let goes_on = tokio::spawn(async move {
        // Longer than the job's time, shorter than a browser is given to answer.
        tokio::time::sleep(Duration::from_millis(900)).await;
        signal(stalled, Signal::CONT);
    });
    let failure = render(&pool, &page("<p>late"), json!({"timeout_ms": 300})).await.unwrap_err();
    assert_eq!((failure.class, failure.code), (Class::Document, "render_timeout"), "{failure}");
    goes_on.await.unwrap();
    print(&pool, &page("<p>next"), none()).await;
    let status = pool.status();
    assert_eq!((status.starts, status.deaths), (1, 0), "{status:?}");
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_render_leaves_nothing_running() {
    let pool = Arc::new(pool().await);
    let job = start_heavy(&pool, request("shop", &heavy(), none())).await;
    let [victim] = renderers(&pool)[..] else { panic!("one renderer") };
    let [ref one] = pool.renderers()[..] else { panic!("one context") };
    assert_eq!((&*one.tenant, one.pid, one.busy), ("shop", Some(victim), true));
    job.abort();
    until("its place is free", || pool.status().contexts == 0).await;
    assert!(!renderers(&pool).contains(&victim), "its renderer works on");
    print(&pool, &page("<p>next"), none()).await;
    assert_eq!(pool.status().deaths, 0);

    // Abandoned while its context is being opened: that is closed again.
    for _ in 0..10 {
        let early = timeout(Duration::ZERO, pool.render(request("b", &page("b"), none())));
        assert!(early.await.is_err());
    }
    until("nothing is busy", || {
        let status = pool.status();
        status.busy == 0 && renderers(&pool).len() == status.contexts
    })
    .await;
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_browser_jobs_fail_at_once_and_the_pool_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    let real = config.browser.engine.path.clone();
    let path = folder.path().join("engine");
    config.browser.engine.path = path.clone();
    let pool = Pool::start(config);
    let failure = pool.ready().await.unwrap_err();
    assert_eq!((failure.class, failure.code), (Class::Dependency, "browser_unavailable"));
    let failure = render(&pool, &page("<p>now"), none()).await.unwrap_err();
    assert_eq!((failure.class, failure.code), (Class::Dependency, "browser_unavailable"));
    assert_eq!(pool.status().contexts, 0, "its place is free again");
    // Installed while it runs: no restart is needed.
    std::os::unix::fs::symlink(real, &path).unwrap();
    until("a browser", || pool.status().browser == "ready").await;
    print(&pool, &page("<p>now"), none()).await;
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn launches_that_fail_do_not_end_the_pool() {
    let mut config = crate::printed::config();
    config.browser.launch_timeout = Duration::from_millis(1);
    let pool = Pool::start(config);
    let failure = pool.ready().await.unwrap_err();
    assert_eq!(failure.code, "browser_unavailable", "{failure}");
    until("it goes on trying", || pool.status().failed_launches > 2).await;
    pool.close().await;
    assert_eq!(pool.status().browser, "closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_leaves_no_process() {
    let pool = Arc::new(pool().await);
    let browser = pool.browser().unwrap();
    let job = start_heavy(&pool, request("shop", &heavy(), none())).await;
    pool.close().await;
    let failure = job.await.unwrap().unwrap_err();
    assert_eq!(failure.class, Class::Interrupted, "{failure}");
    assert!(browser.gone().is_cancelled());
    assert!(browser.processes().is_empty());
    let failure = render(&pool, &page("<p>late"), none()).await.unwrap_err();
    assert_eq!(failure.code, "pool_closed");
}
