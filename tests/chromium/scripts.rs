//! Documents whose scripts run: what they draw comes out, and nothing that they
//! try gets out, goes on for ever, or is found by the next.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tillroll::failure::{Class, Failure};
use tillroll::job::{Asset, Rules, assets};
use tillroll::pool::{Pool, PoolConfig, ScriptPolicy};
use tillroll::renderer::jail::Jail;
use tillroll::renderer::{Render, RenderRequest, Rendered};
use tokio::time::Instant;

use crate::printed::{Printed, config, none, page, pool, print, render, request};

/// Options with scripts, and `more`.
fn scripted(mut more: Value) -> Value {
    more["script"] = true.into();
    more
}

/// Renders a document with scripts; no script needs longer than this, but for one without an end.
async fn run(pool: &Pool, html: &str) -> Result<Rendered, Failure> {
    render(pool, &page(html), scripted(json!({"timeout_ms": 20_000}))).await
}

/// What the document's `<p id=o>` says in the end.
async fn says(pool: &Pool, script: &str) -> String {
    let html = format!(
        "<p id=o>nothing</p><script>const say = (x) => {{ o.textContent = String(x); }};{script}</script>"
    );
    let rendered = run(pool, &html).await.unwrap_or_else(|failure| panic!("{script}: {failure}"));
    Printed::of(rendered).text().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/scripts").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn asset(name: &str, bytes: &[u8]) -> Asset {
    let media_type = assets::media_type_of(name).unwrap();
    Asset { name: name.to_owned(), media_type, bytes: bytes.to_vec().into() }
}

fn with(html: &str, options: Value, assets: &[Asset]) -> RenderRequest {
    RenderRequest { assets: assets.into(), ..request("shop", html, options) }
}

/// The lengths of the dark stretches of a row or column of pixels.
fn dark(pixels: impl Iterator<Item = u8>) -> Vec<usize> {
    let mut runs = vec![0];
    for pixel in pixels {
        match runs.last_mut() {
            Some(run) if pixel < 128 => *run += 1,
            Some(0) | None => {}
            Some(_) => runs.push(0),
        }
    }
    runs.retain(|run| *run > 0);
    runs
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chart_drawn_by_a_script_comes_out_right() {
    let pool = pool().await;
    let assets = ["ease.mjs", "week.json"].map(|name| asset(name, fixture(name).as_bytes()));
    let options = scripted(json!({
        "paper": "A4", "margin": "0", "wait_for": {"selector": "body[data-drawn]"}
    }));
    let draw = || async {
        pool.render(with(&fixture("chart.html"), options.clone(), &assets)).await.unwrap()
    };
    let (rendered, again) = (draw().await, draw().await);
    assert!(rendered.pdf == again.pdf, "the same job, other bytes");
    let printed = Printed::of(rendered);
    assert_eq!(printed.warnings(), Vec::<&str>::new());
    let text = printed.text();
    // The script's clock begins at the job's date.
    assert!(text.contains("Sum 705, drawn on 2026-03-31"), "{text}");
    let pixels = printed.pixels_at(96);
    for (day, takings) in [60, 95, 30, 140, 180, 125, 75].into_iter().enumerate() {
        let x = 12 + 20 + day * 60 + 20;
        let mut bars = dark(pixels.iter().map(|row| row[x]));
        // Letters are lower than the lowest bar.
        bars.retain(|height| *height >= 15);
        let [svg, canvas] = bars[..] else { panic!("day {day}: {bars:?}") };
        assert!(svg.abs_diff(takings) <= 1, "day {day}: {svg}");
        assert!(canvas.abs_diff(takings / 2) <= 1, "day {day}: {canvas}");
    }
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_barcode_drawn_by_a_script_has_the_right_bars() {
    /// Bar, space, bar, … of TR-128-0042 in Code 128, set B, as a scanner reads it.
    const MODULES: &str =
        "2112142133112311311221321232212232113112221221321231221231222212312232112211322331112";
    let pool = pool().await;
    let options = json!({"paper": "A6", "margin": "0"});
    let printed = print(&pool, &fixture("barcode.html"), scripted(options.clone())).await;
    assert_eq!(printed.warnings(), Vec::<&str>::new());
    // Two pixels a module, four dots a pixel.
    let pixels = printed.pixels_at(4 * 96);
    let row = pixels.iter().map(|row| dark(row.iter().copied())).find(|bars| bars.len() > 40);
    let want: Vec<usize> =
        MODULES.bytes().step_by(2).map(|digit| usize::from(digit - b'0') * 8).collect();
    let row = row.expect("bars");
    assert_eq!(row.len(), want.len());
    for (at, (got, want)) in row.iter().zip(&want).enumerate() {
        assert!(got.abs_diff(*want) <= 1, "bar {at}: {got} dots, {want} wanted");
    }
    // Without scripts there is none.
    let printed = print(&pool, &fixture("barcode.html"), options).await;
    assert!(printed.pixels_at(96).iter().all(|row| dark(row.iter().copied()).len() < 40));
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_run_only_where_job_operator_and_jail_allow_it() {
    let html = page("<p id=o>printed as it came</p><script>o.textContent = 'scripted'</script>");
    let strict =
        PoolConfig { scripts: ScriptPolicy { allowed: false, ..config().scripts }, ..config() };
    let mut bare = PoolConfig { ..config() };
    bare.browser.jail = Jail::None;
    let refused = |failure: Failure| {
        assert_eq!((failure.class, failure.code), (Class::Input, "scripts_refused"), "{failure}");
        failure.remedy
    };
    let as_ruled = |scripts| RenderRequest {
        rules: Rules { scripts, isolation: None },
        ..request("shop", &html, scripted(none()))
    };
    let text = |rendered: Rendered| Printed::of(rendered).text();

    let pool = Pool::start(strict);
    assert!(print(&pool, &html, none()).await.text().contains("as it came"));
    let remedy = refused(pool.render(as_ruled(None)).await.unwrap_err());
    assert!(remedy.contains("renderer.scripts") && remedy.contains("tenant set"), "{remedy}");
    assert!(text(pool.render(as_ruled(Some(true))).await.unwrap()).contains("scripted"));
    pool.close().await;

    let pool = Pool::start(config());
    assert!(print(&pool, &html, none()).await.text().contains("as it came"));
    assert!(text(pool.render(as_ruled(None)).await.unwrap()).contains("scripted"));
    refused(pool.render(as_ruled(Some(false))).await.unwrap_err());
    pool.close().await;

    let pool = Pool::start(bare);
    let remedy = refused(pool.render(as_ruled(Some(true))).await.unwrap_err());
    assert!(remedy.contains("bwrap"), "{remedy}");
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_have_a_clock_of_their_own() {
    let pool = pool().await;
    let started = Instant::now();
    let faded = "<style>@keyframes in { from { opacity: 0 } } p { animation: in 1s } b { animation: in 1s infinite }</style>
        <p style='background:black;height:200px'></p><b>on and on</b>";
    let printed = Printed::of(run(&pool, faded).await.unwrap());
    let black = printed.pixels().iter().flatten().filter(|pixel| **pixel < 10).count();
    assert!(black > 50_000, "{black}");
    let ticks =
        "let n = 0; setInterval(() => say(`${++n} ticks ${new Date().toISOString()}`), 100)";
    let text = says(&pool, ticks).await;
    assert!(text.contains("50 ticks 2026-03-31T12:00:05"), "{text}");
    let frames = "let n = 0; const f = () => { say(`${++n} frames`); if (n < 40) requestAnimationFrame(f); }; f();";
    assert!(says(&pool, frames).await.contains("40 frames"));
    let seen = "const seen = new Set(); const see = (x) => { seen.add(x); say([...seen].sort()); };
        new ResizeObserver(() => see('resized')).observe(o);
        new IntersectionObserver(() => see('intersected')).observe(o);
        document.fonts.ready.then(() => see('fonts'));";
    assert!(says(&pool, seen).await.contains("fonts,intersected,resized"));
    let sizes = "o.style.padding = '3px'; o.style.width = '50px'; const seen = [];
        new ResizeObserver(([e]) => { seen.push(e.contentRect.width, e.borderBoxSize[0].inlineSize); say(seen); }).observe(o);
        setTimeout(() => { o.style.width = '150px' }, 300);";
    assert!(says(&pool, sizes).await.contains("50,56,150,156"));
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scripted_jobs_run_beside_each_other() {
    let pool = pool().await;
    let one = |n: usize| {
        let (pool, script) = (&pool, format!("requestAnimationFrame(() => say('number {n}'))"));
        async move { says(pool, &script).await }
    };
    for round in 0..4 {
        let n = round * 3;
        let texts = tokio::join!(one(n), one(n + 1), one(n + 2));
        for (text, n) in [(texts.0, n), (texts.1, n + 1), (texts.2, n + 2)] {
            assert!(text.contains(&format!("number {n}")), "{text}");
        }
    }
    let status = pool.status();
    assert_eq!((status.opened, status.starts, status.deaths), (12, 1, 0), "{status:?}");
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_waits_for_is_there_or_it_fails() {
    let pool = pool().await;
    let html = page("<p>Total</p><script>setTimeout(() => { window.done = true;
        document.body.append(Object.assign(document.createElement('b'), {id: 'late', textContent: 'late'}));
        setTimeout(() => document.body.append('too late'), 1000) }, 700)</script>");
    let wait = |wait_for: Value| scripted(json!({"wait_for": wait_for}));
    for there in [
        json!({"selector": "#late"}),
        json!({"expression": "window.done"}),
        json!({"expression": "done"}),
        json!({"expression": "new Promise((yes) => setTimeout(yes, 200, window.done))"}),
        json!({"expression": "let n = 1; n + 1; window.done"}),
    ] {
        let text = print(&pool, &html, wait(there.clone())).await.text();
        assert!(text.contains("late") && !text.contains("too late"), "{there}: {text}");
    }
    for (never, threw) in [
        (json!({"selector": "#never"}), ""),
        (json!({"selector": "p["}), ""),
        (json!({"expression": "window.never"}), ""),
        (json!({"expression": "never"}), "ReferenceError"),
        (json!({"expression": "1 +"}), "SyntaxError"),
        (json!({"expression": "new Promise(() => {})"}), ""),
        (json!({"expression": "Promise.reject(new TypeError('Total'))"}), "TypeError"),
    ] {
        let failure = render(&pool, &html, wait(never.clone())).await.unwrap_err();
        assert_eq!((failure.class, failure.code), (Class::Document, "wait_for_unmet"), "{never}");
        assert!(failure.message.contains(threw), "{never}: {failure}");
        assert!(!failure.message.contains("Total"), "{failure}");
    }
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_scripts_add_late_is_waited_for_and_what_fails_is_told() {
    let pool = pool().await;
    let svg = "<svg xmlns='http://www.w3.org/2000/svg' width='40' height='40'><rect width='40' height='40'/></svg>";
    let html = page(
        "<script>setTimeout(() => { const i = new Image(); i.src = 'box.svg'; document.body.append(i) }, 4990)</script>",
    );
    let request =
        with(&html, scripted(json!({"margin": "0"})), &[asset("box.svg", svg.as_bytes())]);
    let printed = Printed::of(pool.render(request).await.unwrap());
    assert_eq!(printed.warnings(), Vec::<&str>::new());
    let black = printed.pixels().iter().flatten().filter(|pixel| **pixel < 50).count();
    assert!((800..1000).contains(&black), "{black}");

    let html =
        "<p>Total</p><script>null.x</script><script>Promise.reject(new Error('no 2'))</script>
        <script>for (let n = 0; n < 50; n++) setTimeout(() => { throw new Error('no 3') })</script>
        <script src=lib.js></script><script src='https://cdn.example/chart.js'></script>";
    let rendered = run(&pool, html).await.unwrap();
    let of = |code| rendered.warnings.iter().filter(move |warning| warning.code == code);
    assert_eq!(of("script_error").count(), 5, "{:?}", rendered.warnings);
    assert!(of("script_error").any(|w| w.message.contains("line")), "{:?}", rendered.warnings);
    assert!(of("asset_missing").all(|w| w.message.contains("lib.js")));
    assert!(of("request_refused").all(|w| w.message.contains("https://cdn.example/chart.js")));
    assert_eq!((of("asset_missing").count(), of("request_refused").count()), (1, 1));

    // A job that dies for it says the same: that is why what it waits for never comes.
    let wait = scripted(json!({"wait_for": {"selector": "#never"}}));
    let failure = render(&pool, &page(html), wait).await.unwrap_err();
    assert_eq!(failure.code, "wait_for_unmet", "{failure}");
    let of = |code| failure.warnings.iter().filter(move |warning| warning.code == code);
    assert_eq!((of("script_error").count(), of("asset_missing").count()), (5, 1));
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_is_told_with_its_line_in_the_document_or_asset() {
    let pool = pool().await;
    let html = "<!doctype html>\n<title>Bill</title>\r\n<p>Total\n<script>\nlet total = 1;\n\
                null.one;\n</script><script>null.two</script>\n\
                <script src=js/lib.js crossorigin></script><script src=mute.js></script>";
    let assets =
        [asset("js/lib.js", b"// A library\n\nnull.three;"), asset("mute.js", b"null.four")];
    let rendered = pool.render(with(html, scripted(none()), &assets)).await.unwrap();
    let told: Vec<&str> = rendered
        .warnings
        .iter()
        .filter(|warning| warning.code == "script_error")
        .map(|warning| warning.message.as_str())
        .collect();
    assert_eq!(told.len(), 4, "{told:?}");
    for (told, (what, place)) in told.iter().zip([
        ("'one'", "(line 6)"),
        ("'two'", "(line 7)"),
        ("'three'", "(js/lib.js, line 3)"),
        ("Script error", "(in an asset: with the attribute crossorigin its script tag tells more)"),
    ]) {
        assert!(told.contains(what) && told.ends_with(place), "{told}");
    }
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dialogs_windows_workers_downloads_and_permissions_are_refused() {
    let pool = pool().await;
    for (script, want) in [
        (
            "alert(1); const c = confirm(2), p = prompt(3); print(); say(`confirm ${c} prompt ${p}`)",
            "confirm false prompt null",
        ),
        ("for (let n = 0; n < 80; n++) alert(n); say('eighty')", "eighty"),
        ("for (let n = 0; n < 80; n++) print(); say('eighty')", "eighty"),
        (
            "onbeforeprint = () => alert(1); onafterprint = () => alert(2); onbeforeunload = () => 'stay'; say('armed')",
            "armed",
        ),
        (
            "say(`window ${window.open('about:blank')} ${window.open('https://shop.example/')}`)",
            "window null null",
        ),
        (
            "const f = document.createElement('iframe'); document.body.append(f); say(`window ${f.contentWindow.open('about:blank')}`)",
            "window null",
        ),
        (
            "const a = Object.assign(document.createElement('a'), {href: 'about:blank', target: '_blank'}); document.body.append(a); a.click(); say('clicked')",
            "clicked",
        ),
        (
            "say('alone'); try { new Worker(URL.createObjectURL(new Blob(['postMessage(1)']))).onmessage = () => say('worker'); } catch (e) { }",
            "alone",
        ),
        (
            "say('alone'); try { new SharedWorker('data:,onconnect=(e)=>e.ports[0].postMessage(1)').port.onmessage = () => say('worker'); } catch (e) { }",
            "alone",
        ),
        ("say(`service worker ${navigator.serviceWorker}`)", "service worker undefined"),
        (
            "const a = Object.assign(document.createElement('a'), {href: 'data:text/plain,x', download: 'x'}); document.body.append(a); a.click(); say('clicked')",
            "clicked",
        ),
        (
            "const i = Object.assign(document.createElement('input'), {type: 'file'}); document.body.append(i); i.click(); say('clicked')",
            "clicked",
        ),
        (
            "Promise.all(['geolocation', 'notifications', 'camera', 'clipboard-read', 'local-fonts'].map((name) => navigator.permissions.query({name}))).then((all) => say([...new Set(all.map((one) => one.state))]))",
            "denied",
        ),
        (
            "const tried = (f) => { try { return String(f()) } catch (e) { return e.name } }; say([tried(() => localStorage), tried(() => document.cookie = 'a=1'), tried(() => sessionStorage), tried(() => caches.open('x')), isSecureContext])",
            "SecurityError,SecurityError,SecurityError,ReferenceError,false",
        ),
    ] {
        let text = says(&pool, script).await;
        assert!(text.contains(want), "{script}: {text}");
    }
    // In a frame, whose window is another one, as little.
    let frame = "<p id=o>alone</p><script>onmessage = (e) => { o.textContent = e.data }</script>
        <iframe srcdoc=\"<script>alert(1); new Worker(URL.createObjectURL(new Blob(['postMessage(1)']))).onmessage = () => parent.postMessage('worker', '*')</script>\"></iframe>";
    let text = Printed::of(run(&pool, frame).await.unwrap()).text();
    assert!(text.contains("alone"), "{text}");
    assert_eq!(pool.status().deaths, 0);
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_without_an_end_are_ended_at_their_limit() {
    let pool = pool().await;
    let short = || scripted(json!({"timeout_ms": 1200}));
    for endless in [
        "for (;;);",
        "setTimeout(() => { for (;;); }, 300)",
        "(function f() { Promise.resolve().then(f) })()",
        "const m = new MessageChannel(); m.port1.onmessage = () => m.port2.postMessage(0); m.port2.postMessage(0)",
        "requestAnimationFrame(() => { for (;;); })",
    ] {
        let started = Instant::now();
        let html = page(&format!("<p>Total<script>{endless}</script>"));
        let failure = render(&pool, &html, short()).await.unwrap_err();
        assert_eq!((failure.class, failure.code), (Class::Document, "script_timeout"), "{endless}");
        assert!(failure.message.contains("1200 ms"), "{failure}");
        assert!(started.elapsed() < Duration::from_secs(4), "{endless}: {:?}", started.elapsed());
    }
    let failure = run(&pool, "<script>for (;;) alert(1)</script>").await.unwrap_err();
    assert_eq!((failure.class, failure.code), (Class::Document, "too_many_dialogs"), "{failure}");
    // Timers without an end are none: their time ends.
    assert!(
        says(&pool, "(function f() { setTimeout(f, 0); say('on and on') })()")
            .await
            .contains("on and on")
    );
    assert_eq!(pool.status().deaths, 0, "the browser took no harm");
    print(&pool, &page("<p>next"), none()).await;
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_leads_its_page_away_fails() {
    let pool = pool().await;
    for away in [
        "location = 'https://shop.example/'",
        "location = 'about:blank'",
        "setTimeout(() => { location = 'about:blank' }, 150)",
        "location = URL.createObjectURL(new Blob(['<p>another'], {type: 'text/html'}))",
        "setTimeout(() => location.reload(), 20)",
        "onbeforeunload = (e) => e.preventDefault(); location = 'about:blank'",
        "const f = document.createElement('form'); f.action = 'https://shop.example/'; f.method = 'post'; document.body.append(f); f.submit()",
        "const m = document.createElement('meta'); m.httpEquiv = 'refresh'; m.content = '0;url=https://shop.example/'; document.head.append(m)",
    ] {
        let html = format!("<p>Total</p><script>{away}</script>");
        let outcome = run(&pool, &html).await.map(|rendered| Printed::of(rendered).text());
        let failure = outcome.expect_err(away);
        assert_eq!(
            (failure.class, failure.code),
            (Class::Document, "page_left"),
            "{away}: {failure}"
        );
    }
    // These lead nowhere, and the document stays.
    for nowhere in [
        "location = 'file:///etc/passwd'",
        "location = 'data:text/html,x'",
        "location = 'chrome://crash'",
        "location.hash = 'there'",
        "history.pushState(0, '', '#x'); history.back()",
    ] {
        let text = says(&pool, &format!("say('stays'); try {{ {nowhere} }} catch (e) {{}}")).await;
        assert!(text.contains("stays"), "{nowhere}: {text}");
    }
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_a_script_gets_out() {
    let pool = pool().await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let host = listener.local_addr().unwrap();
    let script = format!(
        "const heard = []; const hear = (x) => {{ heard.push(x); say(heard.sort()); }}; say('nothing');
         fetch('http://{host}/a', {{mode: 'no-cors'}}).then(() => hear('fetch'), () => hear('no fetch'));
         const x = new XMLHttpRequest(); x.onload = () => hear('xhr'); x.onerror = () => hear('no xhr'); x.open('GET', 'http://{host}/b'); x.send();
         const w = new WebSocket('ws://{host}/c'); w.onopen = () => hear('socket'); w.onerror = () => hear('no socket');
         const e = new EventSource('http://{host}/d'); e.onopen = () => hear('events'); e.onerror = () => hear('no events');
         navigator.sendBeacon('http://{host}/e', 'x');
         import('http://{host}/f.js').then(() => hear('module'), () => hear('no module'));
         const i = new Image(); i.onload = () => hear('image'); i.onerror = () => hear('no image'); i.src = 'http://{host}/g';
         try {{ const p = new RTCPeerConnection({{iceServers: [{{urls: 'stun:{host}?transport=tcp'}}]}}); p.createDataChannel('x'); p.onicecandidate = (c) => c.candidate && hear('ice'); p.createOffer().then((o) => p.setLocalDescription(o)); }} catch (e) {{}}
         document.head.insertAdjacentHTML('beforeend', '<link rel=prefetch href=http://{host}/h><link rel=preconnect href=http://{host}><iframe src=http://{host}/i>');"
    );
    let text = says(&pool, &script).await;
    assert!(text.contains("no fetch,no image,no module"), "{text}");
    for way in ["no events", "no xhr"] {
        assert!(text.contains(way), "{way}: {text}");
    }
    assert!(!text.contains("ice") && !text.replace("no socket", "").contains("socket"), "{text}");
    pool.close().await;
    let came = listener.accept().map(|(_, from)| from);
    assert_eq!(came.unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "a connection came");
}
