//! What jobs share: nothing across tenants, nothing from one job to the next, and
//! as much or as little of a browser as an operator says.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::{Value, json};
use tillroll::failure::Class;
use tillroll::job::{Asset, Isolation, Rules, assets};
use tillroll::pool::recycle::RecyclePolicy;
use tillroll::pool::{Pool, PoolConfig};
use tillroll::renderer::browser::Browser;
use tillroll::renderer::cdp::Session;
use tillroll::renderer::context::{Context, ContextOptions};
use tillroll::renderer::{Render, RenderRequest};
use tokio::time::timeout;

use crate::printed::{Printed, config, none, page, pool, request};
use crate::support::{PATIENCE, browser};

/// Where both tenants' pages are, so that nothing but the context parts them.
const ORIGIN: &str = "https://shop.invalid/";

/// What a page finds of everything that a page can keep.
const LOOK: &str = "(async () => {
  const names = [];
  for await (const name of (await navigator.storage.getDirectory()).keys()) names.push(name);
  return [
    document.cookie, localStorage.length, sessionStorage.length, (await caches.keys()).join(),
    (await indexedDB.databases()).map((one) => one.name).join(), names.join(),
    (await navigator.serviceWorker.getRegistrations()).length, window.kept || '',
    document.fonts.size, navigator.serviceWorker.controller ? 1 : 0,
  ].join('|');
})()";
const NOTHING: &str = "|0|0||||0||0|0";

/// Keeps everything that a page can keep.
const KEEP: &str = "(async () => {
  document.cookie = 'kept=1; max-age=9999';
  localStorage.kept = sessionStorage.kept = '1';
  await (await caches.open('kept')).put('/kept', new Response('kept'));
  await new Promise((yes, no) => {
    const opening = indexedDB.open('kept');
    opening.onsuccess = () => { opening.result.close(); yes(); };
    opening.onerror = no;
  });
  await (await navigator.storage.getDirectory()).getFileHandle('kept', { create: true });
  window.kept = 'global';
  document.fonts.add(new FontFace('Kept', 'local(\"Liberation Sans\")'));
  await navigator.serviceWorker.register('/worker.js');
  return 'kept';
})()";
const ALL: &str = "kept=1|1|1|kept|kept|kept|1|global|1|0";

/// Answers everything that a session asks for, as the tenant's server would.
async fn serve(session: &Session) {
    let (session, mut paused) = (session.clone(), session.events("Fetch.requestPaused"));
    session.call_raw("Fetch.enable", &json!({}), PATIENCE).await.unwrap();
    tokio::spawn(async move {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Paused {
            request_id: String,
            request: Asked,
        }
        #[derive(Deserialize)]
        struct Asked {
            url: String,
        }
        while let Ok(Some(event)) = paused.next().await {
            let Paused { request_id, request } = event.deserialize().unwrap();
            let (kind, body) = match request.url.ends_with(".js") {
                true => ("text/javascript", "addEventListener('fetch', () => {})"),
                false => ("text/html", "<!doctype html><p>shop"),
            };
            let answer = json!({
                "requestId": request_id, "responseCode": 200, "body": STANDARD.encode(body),
                "responseHeaders": [{"name": "Content-Type", "value": kind}],
            });
            session.call_raw("Fetch.fulfillRequest", &answer, PATIENCE).await.ok();
        }
    });
}

/// Serves a page's service workers too: they ask by themselves.
async fn serve_workers(browser: &Browser, session: &Session) {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Attached {
        session_id: String,
    }
    let mut attached = session.events("Target.attachedToTarget");
    let connection = browser.connection().clone();
    tokio::spawn(async move {
        while let Ok(Some(event)) = attached.next().await {
            let Attached { session_id } = event.deserialize().unwrap();
            let worker = connection.session(&session_id);
            serve(&worker).await;
            worker.call_raw("Runtime.runIfWaitingForDebugger", &json!({}), PATIENCE).await.ok();
        }
    });
    let all = json!({"autoAttach": true, "waitForDebuggerOnStart": true, "flatten": true});
    session.call_raw("Target.setAutoAttach", &all, PATIENCE).await.unwrap();
}

async fn ask(context: &Context, expression: &str) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        result: Value,
        exception_details: Option<Value>,
    }
    let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
    let reply = context.session().call_raw("Runtime.evaluate", &params, PATIENCE).await.unwrap();
    let Answer { result, exception_details } = reply.deserialize().unwrap();
    assert_eq!(exception_details, None, "{expression}");
    result["value"].as_str().map_or_else(|| result.to_string(), str::to_owned)
}

/// A context whose page is at the tenant's server.
async fn visit(browser: &Browser) -> Context {
    let options = ContextOptions { frames: true, scripts: true };
    let context = browser.open_context(options, PATIENCE).await.unwrap();
    let session = context.session();
    let mut loaded = session.events("Page.loadEventFired");
    session.call_raw("Page.enable", &json!({}), PATIENCE).await.unwrap();
    serve(session).await;
    serve_workers(browser, session).await;
    session.call_raw("Page.navigate", &json!({"url": ORIGIN}), PATIENCE).await.unwrap();
    timeout(PATIENCE, loaded.next()).await.unwrap().unwrap().unwrap();
    context
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_context_keeps_no_other_context_finds() {
    let browser = browser().await;
    let a = visit(&browser).await;
    assert_eq!(ask(&a, LOOK).await, NOTHING);
    assert_eq!(ask(&a, KEEP).await, "kept");
    assert_eq!(ask(&a, LOOK).await, ALL, "where all is kept it is found");
    let b = visit(&browser).await;
    assert_eq!(ask(&b, LOOK).await, NOTHING, "another tenant, at the same time");
    a.close(PATIENCE).await.unwrap();
    let again = visit(&browser).await;
    assert_eq!(ask(&again, LOOK).await, NOTHING, "the same tenant's next job with scripts");
    browser.close().await;
}

fn as_ruled(tenant: &str, isolation: Isolation) -> RenderRequest {
    let rules = Rules { isolation: Some(isolation), scripts: None };
    RenderRequest { rules, ..request(tenant, &page("<p>Total"), none()) }
}

async fn printed(pool: &Pool, request: RenderRequest) -> Printed {
    Printed::of(pool.render(request).await.unwrap_or_else(|failure| panic!("{failure}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_job_brought_or_left_reaches_another() {
    let pool = pool().await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/assets");
    let asset = |name: &str| {
        let media_type = assets::media_type_of(name).unwrap();
        let bytes = std::fs::read(folder.join(name)).unwrap().into();
        Asset { name: name.to_owned(), media_type, bytes }
    };
    let brought = [asset("till-segment.woff"), asset("logo.png")];
    let face = "<style>@font-face{font-family:Till;src:url(till-segment.woff)}</style>";
    let uses = "<p style='font-family:Till,monospace'>12.00</p><img src=logo.png>";
    let with_all = page(&format!("{face}{uses}"));
    for script in [json!({}), json!({"script": true})] {
        let brings = |tenant: &str| RenderRequest {
            assets: brought.to_vec().into(),
            ..request(tenant, &with_all, script.clone())
        };
        let a = printed(&pool, brings("a")).await;
        assert!(a.fonts().contains("Till") && !a.images().is_empty(), "{:?}", a.images());
        for tenant in ["b", "a"] {
            let next = printed(&pool, request(tenant, &page(uses), script.clone())).await;
            assert!(!next.fonts().contains("Till"), "{tenant}: {}", next.fonts());
            assert_ne!(next.images(), a.images(), "{tenant}: the picture of another job");
        }
    }
    // Scripts: what one leaves at its window, the tenant's next one does not find.
    let leaves = page(
        "<p id=o></p><script>o.textContent = `found ${window.left} ${window.name} ${document.fonts.size}`;
         window.left = 'global'; window.name = 'name'; history.replaceState('state', '');
         document.fonts.add(new FontFace('Left', 'local(\"Liberation Sans\")'));
         setInterval(() => { document.body.textContent = 'from before' }, 1);</script>",
    );
    for _ in 0..2 {
        let request =
            request("a", &leaves, json!({"script": true, "wait_for": {"selector": "#o"}}));
        let text = printed(&pool, request).await.text();
        assert!(text.contains("found undefined 0"), "{text}");
    }
    let text = printed(&pool, request("a", &page("<p>plain"), none())).await.text();
    assert!(text.contains("plain"), "{text}");
    pool.close().await;
}

/// The jail of each tenant's renderer, by its ipc namespace: one for each browser.
fn browsers(pool: &Pool) -> Vec<(String, PathBuf)> {
    let of = |pid: Option<u32>| std::fs::read_link(format!("/proc/{}/ns/ipc", pid.unwrap()));
    let mut all: Vec<_> =
        pool.renderers().iter().map(|one| (one.tenant.to_string(), of(one.pid).unwrap())).collect();
    all.sort();
    all
}

async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let looked = timeout(PATIENCE, async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    looked.await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_of_its_own_is_kept_warm_and_shared_with_nobody() {
    let pool = Arc::new(Pool::start(PoolConfig { isolation: Isolation::Browser, ..config() }));
    pool.ready().await.unwrap();
    for _ in 0..2 {
        for tenant in ["a", "b"] {
            printed(&pool, request(tenant, &page("<p>Total"), none())).await;
        }
    }
    let status = pool.status();
    assert_eq!((status.opened, status.idle, status.starts), (2, 2, 3), "{status:?}");
    let [(_, a), (_, b)] = &browsers(&pool)[..] else { panic!("two") };
    assert_ne!(a, b);
    // A tenant's renderer, and with it its browser: the other's does not notice.
    let doomed = members(a);
    kill_namespace(a);
    until("it is gone", || still_in(a, &doomed).is_empty()).await;
    printed(&pool, request("b", &page("<p>Total"), none())).await;
    // A job that comes before its death is noticed is interrupted, and comes again.
    while let Err(failure) = pool.render(request("a", &page("<p>Total"), none())).await {
        assert_eq!(failure.code, "browser_died", "{failure}");
    }
    until("its death is counted", || pool.status().deaths == 1).await;
    let status = pool.status();
    assert_eq!((status.opened, status.starts), (3, 4), "{status:?}");
    // Scripts get one for each job.
    printed(&pool, request("b", &page("<p>Total"), json!({"script": true}))).await;
    assert_eq!(pool.status().starts, 5);
    let left: BTreeSet<PathBuf> = browsers(&pool).into_iter().map(|(_, browser)| browser).collect();
    let left: Vec<_> = left.iter().map(|browser| (browser, members(browser))).collect();
    pool.close().await;
    for (browser, before) in left {
        assert_eq!(still_in(browser, &before), Vec::<i32>::new(), "nothing is left");
    }
}

/// The processes in it.
fn members(namespace: &Path) -> Vec<i32> {
    let pids = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        std::fs::read_link(format!("/proc/{pid}/ns/ipc")).is_ok_and(|found| found == namespace)
    })
    .collect()
}

/// Those of them that were there before: the number of a namespace that is gone may be
/// another's by now.
fn still_in(namespace: &Path, before: &[i32]) -> Vec<i32> {
    members(namespace).into_iter().filter(|pid| before.contains(pid)).collect()
}

fn kill_namespace(namespace: &Path) {
    for pid in members(namespace) {
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_of_its_own_that_dies_or_is_closed_interrupts_its_job() {
    let pool = Arc::new(Pool::start(PoolConfig { isolation: Isolation::Browser, ..config() }));
    let heavy = page(&"<table><tr><td>Tea<td>2.00</table>".repeat(38_000));
    for close in [false, true] {
        let job = tokio::spawn({
            let (pool, request) = (Arc::clone(&pool), request("a", &heavy, none()));
            async move { pool.render(request).await }
        });
        until("it has a context", || pool.renderers().iter().any(|one| one.busy)).await;
        let [(_, namespace)] = &browsers(&pool)[..] else { panic!("one") };
        if close {
            let before = members(namespace);
            timeout(PATIENCE, pool.close()).await.unwrap();
            assert_eq!(still_in(namespace, &before), Vec::<i32>::new(), "nothing is left");
        } else {
            kill_namespace(namespace);
        }
        let failure = timeout(PATIENCE, job).await.unwrap().unwrap().unwrap_err();
        assert_eq!(failure.class, Class::Interrupted, "{failure}");
        let code = if close { "pool_closed" } else { "browser_died" };
        assert_eq!(failure.code, code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_own_rule_wins_and_holds_at_once() {
    let pool = pool().await;
    let opened = |n: u64| assert_eq!(pool.status().opened, n, "{:?}", pool.status());
    printed(&pool, as_ruled("a", Isolation::Tenant)).await;
    printed(&pool, request("a", &page("<p>Total"), none())).await;
    opened(1);
    // Each job alone; the warm one stays for when the rule is taken back.
    printed(&pool, as_ruled("a", Isolation::Job)).await;
    printed(&pool, as_ruled("a", Isolation::Job)).await;
    opened(3);
    assert_eq!(pool.status().starts, 1);
    // A context of the common browser is not used for one that wants its own.
    printed(&pool, as_ruled("a", Isolation::Browser)).await;
    printed(&pool, as_ruled("a", Isolation::Browser)).await;
    opened(4);
    assert_eq!(pool.status().starts, 2);
    printed(&pool, request("a", &page("<p>Total"), none())).await;
    opened(5);
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contexts_are_recycled_when_they_are_old_or_fat() {
    for recycle in [
        RecyclePolicy { max_bytes: 1 << 20, ..RecyclePolicy::default() },
        RecyclePolicy { max_age: Duration::from_nanos(1), ..RecyclePolicy::default() },
    ] {
        let pool = Pool::start(PoolConfig { recycle, ..config() });
        for _ in 0..3 {
            printed(&pool, request("a", &page("<p>Total"), none())).await;
        }
        let status = pool.status();
        assert_eq!((status.opened, status.idle, status.deaths), (3, 0, 0), "{recycle:?}");
        pool.close().await;
    }
}
