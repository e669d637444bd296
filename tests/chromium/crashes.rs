//! Deaths under a job, one after the other in one browser: how long until they
//! are noticed, and until another tenant has its next PDF. (Chromium takes a SIGSEGV
//! from outside for none of its own and goes on, so a page crashes by itself here.)

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tillroll::failure::{Class, Failure};
use tillroll::pool::Pool;
use tillroll::renderer::browser::{Browser, BrowserConfig};
use tillroll::renderer::cdp::CdpError;
use tillroll::renderer::context::ContextOptions;
use tillroll::renderer::launcher::Launcher;
use tillroll::renderer::processes::{Kind, private_bytes};
use tillroll::renderer::{Render, Rendered};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::printed::{config, none, page, pool, request};
use crate::support::{self, PATIENCE};

/// 500 ms are promised on a machine that does nothing else; this one may.
const AT_ONCE: Duration = Duration::from_secs(2);
/// What a job that is stopped gets.
const DEADLINE: Duration = Duration::from_secs(3);
/// What a renderer holds when it has begun with a large document, in bytes.
const AT_WORK: u64 = 60_000_000;

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}

/// A job of `evil` that would print for many seconds, once it is at work.
async fn busy(pool: &Arc<Pool>) -> (JoinHandle<Result<Rendered, Failure>>, u32) {
    let rows = "<tr><td>Article</td><td>1</td><td>12.00</td></tr>".repeat(20_000);
    let mut request = request("evil", &page(&format!("<table>{rows}</table>")), none());
    Arc::make_mut(&mut request.options).timeout = DEADLINE;
    let rendering = tokio::spawn({
        let pool = Arc::clone(pool);
        async move { pool.render(request).await }
    });
    let began = Instant::now();
    loop {
        let found = pool.renderers().into_iter().find(|one| one.busy && &*one.tenant == "evil");
        let pid = found.and_then(|renderer| renderer.pid);
        // Until then it is us who look at the document.
        let at_work = |pid: &u32| private_bytes(Path::new("/proc"), *pid) > Some(AT_WORK);
        if let Some(pid) = pid.filter(at_work) {
            return (rendering, pid);
        }
        assert!(began.elapsed() < PATIENCE, "the job never began");
        tokio::task::yield_now().await;
    }
}

async fn receipt(pool: &Pool, after: &str) -> Duration {
    let began = Instant::now();
    let rendered =
        pool.render(request("shop", &page("<p>Total 12.00"), json!({"paper": "80mm"}))).await;
    rendered.unwrap_or_else(|failure| panic!("shop after {after}: {failure}"));
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenant_has_its_pdf_at_once_whatever_dies() {
    let pool = Arc::new(pool().await);
    receipt(&pool, "nothing").await;
    for (what, kind, with, code) in [
        ("renderer killed", Kind::Renderer, Signal::KILL, "renderer_crashed"),
        ("renderer stopped", Kind::Renderer, Signal::STOP, "render_timeout"),
        ("GPU process killed", Kind::Gpu, Signal::KILL, "render_timeout"),
        ("GPU process stopped", Kind::Gpu, Signal::STOP, "render_timeout"),
        ("network process killed", Kind::Network, Signal::KILL, "render_timeout"),
        ("network process stopped", Kind::Network, Signal::STOP, "render_timeout"),
    ] {
        let (rendering, renderer) = busy(&pool).await;
        let browser = pool.browser().unwrap();
        let pids: Vec<u32> = match kind {
            Kind::Renderer => vec![renderer],
            other => {
                browser.processes().iter().filter(|p| p.kind == other).map(|p| p.pid).collect()
            }
        };
        let began = Instant::now();
        pids.iter().for_each(|pid| signal(*pid, with));
        let (next, (ended, detected)) = tokio::join!(receipt(&pool, what), async {
            (rendering.await.unwrap(), began.elapsed())
        });
        let failure = ended.expect_err("it takes longer than it may");
        println!(
            "{what:24} {} processes, noticed after {detected:?} as {}, next PDF after {next:?}",
            pids.len(),
            failure.code
        );
        assert!(next < AT_ONCE, "{what}: the next PDF took {next:?}");
        // What died is the job's own, or it goes on to its deadline.
        assert_eq!(failure.code, code, "{what}: {failure}");
        let most = if code == "renderer_crashed" { AT_ONCE } else { DEADLINE + AT_ONCE };
        assert!(detected < most, "{what}: {detected:?}");
        receipt(&pool, what).await;
        pids.iter()
            .filter(|_| with == Signal::STOP && kind != Kind::Renderer)
            .for_each(|pid| signal(*pid, Signal::CONT));
    }
    assert_eq!(pool.status().deaths, 0, "the browser lives through all of it");
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_crashes_or_never_ends_holds_up_nobody_else() {
    let browser = support::browser().await;
    let spared = support::context(&browser).await;
    let scripted = ContextOptions { frames: true, scripts: true };

    let hit = browser.open_context(scripted, PATIENCE).await.unwrap();
    let began = Instant::now();
    let to = json!({"url": "chrome://crash"});
    // It is answered by the crash, one way or another.
    drop(hit.session().call_raw("Page.navigate", &to, PATIENCE).await);
    tokio::time::timeout(AT_ONCE, hit.crashed().cancelled()).await.expect("a crash is noticed");
    let noticed = began.elapsed();
    assert!(support::pdf(&spared, "<p>spared").await.is_ok());
    println!("chrome://crash noticed after {noticed:?}, next PDF after {:?}", began.elapsed());
    assert!(began.elapsed() < AT_ONCE);
    hit.close(PATIENCE).await.unwrap();

    let endless = browser.open_context(scripted, PATIENCE).await.unwrap();
    let loops = json!({"expression": "for (;;) {}"});
    let limit = Duration::from_millis(300);
    assert!(endless.session().call_raw("Runtime.evaluate", &loops, limit).await.is_err());
    let began = Instant::now();
    assert!(support::pdf(&spared, "<p>spared").await.is_ok());
    println!("endless script: next PDF after {:?}", began.elapsed());
    assert!(began.elapsed() < AT_ONCE);
    endless.close(limit).await.unwrap();
    assert!(!browser.is_dead());
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_large_costs_nobody_else_anything() {
    let frame_limit = 1 << 20;
    let config = BrowserConfig { frame_limit, ..support::jailed() };
    let browser = Browser::launch(&Launcher::start().unwrap(), &config).await.unwrap();
    let spared = support::context(&browser).await;
    let scripted = ContextOptions { frames: true, scripts: true };
    let loud = browser.open_context(scripted, PATIENCE).await.unwrap();
    let text = format!("'x'.repeat({frame_limit})");
    let says = json!({"expression": text, "returnByValue": true});
    let error = loud.session().call_raw("Runtime.evaluate", &says, PATIENCE).await.unwrap_err();
    assert!(matches!(error, CdpError::Oversized { limit: 0x10_0000, .. }), "{error}");
    assert!(support::pdf(&spared, "<p>spared").await.is_ok());
    assert!(!browser.is_dead());
    loud.close(PATIENCE).await.unwrap();
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pdf_that_is_too_large_to_be_read_is_refused_and_the_browser_goes_on() {
    let mut pool = config();
    pool.browser.frame_limit = 8 << 10;
    let pool = Pool::start(pool);
    // A font comes with it.
    let large = "<p>The quick brown fox jumps over the lazy dog, 0123456789";
    let failure = pool.render(request("shop", &page(large), none())).await.unwrap_err();
    assert_eq!((failure.class, failure.code), (Class::Input, "pdf_too_large"), "{failure}");
    assert!(failure.remedy.contains("renderer.max_pdf"), "{failure}");
    let small = page("<svg width=9 height=9><rect width=9 height=9 /></svg>");
    pool.render(request("shop", &small, none())).await.unwrap();
    assert_eq!((pool.status().starts, pool.status().deaths), (1, 0));
    pool.close().await;
}
