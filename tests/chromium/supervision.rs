//! Death in all places: noticed at once, confined, and nothing left behind.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tillroll::renderer::browser::Browser;
use tillroll::renderer::cdp::{CdpError, CloseReason};
use tillroll::renderer::jail::Jail;
use tillroll::renderer::launcher::Launcher;
use tillroll::renderer::processes::{self, Kind};
use tokio::time::Instant;

use crate::support::{self, PATIENCE};

/// What "at once" means on a busy machine; deadlines here are far longer.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Set in a test that runs in a process of its own.
const ALONE: &str = "TILLROLL_TEST_ALONE";

/// Enough to keep a renderer printing for seconds.
fn long_document() -> String {
    let row = "<tr><td>Article</td><td>1</td><td>12.00</td></tr>";
    format!("<table>{}</table>", row.repeat(20_000))
}

fn signal(pid: u32, signal: Signal) {
    kill_process(raw(pid), signal).unwrap();
}

fn raw(pid: u32) -> Pid {
    Pid::from_raw(pid.try_into().unwrap()).unwrap()
}

fn only(browser: &Browser, kind: Kind) -> u32 {
    let found: Vec<_> = browser.processes().into_iter().filter(|p| p.kind == kind).collect();
    assert_eq!(found.len(), 1, "{kind:?}: {found:?}");
    found[0].pid
}

/// Waits until all have ended; panics after `timeout`.
fn all_end(handles: &[OwnedFd], timeout: Duration) {
    for handle in handles {
        let mut fds = [PollFd::from_borrowed_fd(handle.as_fd(), PollFlags::IN)];
        let timeout = Timespec { tv_sec: timeout.as_secs().try_into().unwrap(), tv_nsec: 0 };
        assert_eq!(poll(&mut fds, Some(&timeout)).unwrap(), 1, "a process is still alive");
    }
}

/// This test, by its full name, in a process of its own.
fn alone(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture"]).env(ALONE, "1").stdin(Stdio::null());
    command
}

fn is_alone() -> bool {
    std::env::var_os(ALONE).is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_browser_is_noticed_at_once_and_pending_calls_fail() {
    for kind in [Kind::Browser, Kind::Other] {
        let browser = support::browser().await;
        let context = support::context(&browser).await;
        support::set(&context, &long_document()).await.unwrap();
        let pid = match kind {
            Kind::Browser => only(&browser, kind),
            // bubblewrap, outside of the jail.
            _ => browser.pid(),
        };
        let processes = browser.processes();
        let began = Instant::now();
        let (printed, ()) = tokio::join!(support::print(&context, PATIENCE), async {
            tokio::task::yield_now().await;
            signal(pid, Signal::KILL);
            browser.died().cancelled().await;
        });
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
        // Its renderer may be seen to end first, as it does where it alone is killed.
        let cut_off = matches!(printed, Err(CdpError::Closed { .. } | CdpError::Crashed { .. }));
        assert!(cut_off, "{:?}", printed.map(|p| p.len()));
        assert!(browser.is_dead() && context.crashed().is_cancelled());
        assert!(matches!(browser.death(), Some(CloseReason::EndOfFile | CloseReason::Exited(_))));
        let later = support::set(&context, "x").await;
        assert!(matches!(later, Err(CdpError::Closed { .. })), "{later:?}");
        browser.gone().cancelled().await;
        assert_vanished(&processes);
    }
}

/// None of them is there any more (its pid may be used anew, so by start time).
fn assert_vanished(processes: &[processes::Process]) {
    for process in processes {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid));
        let now = processes::started(Path::new("/proc"), process.pid);
        // A zombie of the jail's init is init's to reap.
        let zombie = stat.is_ok_and(|stat| stat.contains(") Z "));
        assert!(now != Some(process.started) || zombie, "{process:?} is still there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_renderer_ends_its_own_context_only() {
    let browser = support::browser().await;
    let (hit, spared) = (support::context(&browser).await, support::context(&browser).await);
    assert_ne!(hit.renderer_pid().unwrap(), spared.renderer_pid().unwrap());
    support::set(&hit, &long_document()).await.unwrap();
    let began = Instant::now();
    let (printed, ()) = tokio::join!(support::print(&hit, PATIENCE), async {
        tokio::task::yield_now().await;
        assert!(hit.kill_renderer());
        hit.crashed().cancelled().await;
    });
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    let error = printed.expect_err("nothing was there to print");
    assert!(matches!(error, CdpError::Crashed { .. } | CdpError::Refused { .. }), "{error}");
    let later = support::set(&hit, "x").await;
    assert!(matches!(later, Err(CdpError::Crashed { .. })), "{later:?}");

    assert!(!browser.is_dead() && !spared.crashed().is_cancelled());
    assert!(support::pdf(&spared, "<p>still here").await.unwrap().starts_with(b"%PDF-"));
    hit.close(PATIENCE).await.unwrap();
    let fresh = support::context(&browser).await;
    assert!(support::pdf(&fresh, "<p>new").await.unwrap().starts_with(b"%PDF-"));
    drop((fresh, spared));
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_renderer_ends_in_a_timeout_and_can_be_closed() {
    let browser = support::browser().await;
    let context = support::context(&browser).await;
    let renderer = context.renderer_pid().unwrap();
    let handle = pidfd_open(raw(renderer), PidfdFlags::empty()).unwrap();
    signal(renderer, Signal::STOP);
    let began = Instant::now();
    let after = Duration::from_millis(300);
    let error = support::print(&context, after).await.unwrap_err();
    assert_eq!(error, CdpError::Timeout { method: "Page.printToPDF", after });
    assert!(began.elapsed() >= after && began.elapsed() < after + AT_ONCE);
    context.close(Duration::from_millis(500)).await.unwrap();
    all_end(&[handle], Duration::ZERO);
    drop(support::context(&browser).await);
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_browser_is_killed_at_the_end_of_its_close() {
    let launcher = Launcher::start().unwrap();
    let mut config = support::jailed();
    config.close_timeout = Duration::from_millis(300);
    let browser = Browser::launch(&launcher, &config).await.unwrap();
    let processes = browser.processes();
    signal(only(&browser, Kind::Browser), Signal::STOP);
    browser.close().await;
    assert_vanished(&processes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_context_and_an_abandoned_opening_leave_no_renderer() {
    let browser = support::browser().await;
    let context = support::context(&browser).await;
    let handle = pidfd_open(raw(context.renderer_pid().unwrap()), PidfdFlags::empty()).unwrap();
    drop(context);
    all_end(&[handle], PATIENCE);
    // Dropped at its first wait, while Chromium is at work on it.
    let opening = browser.open_context(Default::default(), PATIENCE);
    assert!(tokio::time::timeout(Duration::from_millis(1), opening).await.is_err());
    // The next opening waits for the abandoned one; both then go.
    let context = support::context(&browser).await;
    context.close(PATIENCE).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while browser.processes().iter().any(|p| p.kind == Kind::Renderer) {
        assert!(Instant::now() < deadline, "a renderer was left");
        // Every reply comes after what was asked before it.
        let targets = serde_json::json!({});
        browser.connection().call_raw("Target.getTargets", &targets, PATIENCE).await.unwrap();
    }
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_browser_is_gone() {
    let browser = support::browser().await;
    let (gone, processes) = (browser.gone().clone(), browser.processes());
    let context = support::context(&browser).await;
    drop(browser);
    tokio::time::timeout(PATIENCE, gone.cancelled()).await.unwrap();
    assert!(context.crashed().is_cancelled());
    assert_vanished(&processes);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_documents_and_many_calls_at_once_pass_the_pipe() {
    let browser = support::browser().await;
    let context = support::context(&browser).await;
    let text = "\u{1F9FE} \"quoted\" \\ \u{1}".repeat(300_000);
    support::set(&context, &format!("<!--{text}--><p>end")).await.unwrap();
    let calls: Vec<_> = (0..500)
        .map(|_| {
            let connection = browser.connection().clone();
            tokio::spawn(async move {
                connection.call_raw("Browser.getVersion", &serde_json::json!({}), PATIENCE).await
            })
        })
        .collect();
    for call in calls {
        assert!(call.await.unwrap().is_ok());
    }
    let refused = browser.connection().call_raw("No.such", &(), PATIENCE).await.unwrap_err();
    assert!(
        matches!(refused, CdpError::Refused { method: "No.such", code: -32601, .. }),
        "{refused}"
    );
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_any_zygote_is_the_end_of_its_browser() {
    // Two, and the fork of the sandboxed one that does its work.
    for number in 0..3 {
        let browser = support::browser().await;
        // What was forked a moment ago is called one too.
        let began = Instant::now();
        let zygotes = loop {
            let all = browser.processes().into_iter();
            let called: Vec<u32> =
                all.filter(|process| process.kind == Kind::Zygote).map(|p| p.pid).collect();
            if called.len() == 3 {
                break called;
            }
            assert!(began.elapsed() < PATIENCE, "{:?}", browser.processes());
            tokio::task::yield_now().await;
        };
        kill_process(raw(zygotes[number]), Signal::KILL).unwrap();
        tokio::time::timeout(PATIENCE, browser.gone().cancelled()).await.expect("it is noticed");
        assert_eq!(browser.death(), Some(CloseReason::ZygoteEnded), "the zygote {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_reach_their_subscriber_and_end_with_the_session() {
    let browser = support::browser().await;
    let context = support::context(&browser).await;
    let mut loads = context.session().events("Page.loadEventFired");
    let none = serde_json::json!({});
    context.session().call_raw("Page.enable", &none, PATIENCE).await.unwrap();
    support::set(&context, "<p>x").await.unwrap();
    let event = loads.next().await.unwrap().expect("the session lives");
    let event: serde_json::Value = event.deserialize().unwrap();
    assert!(event["timestamp"].is_number(), "{event}");
    assert!(context.kill_renderer());
    while loads.next().await.unwrap().is_some() {}
    browser.close().await;
    assert!(context.session().events("Page.loadEventFired").next().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_takes_all_of_chromium_with_it() {
    for jail in ["jailed", "bare"] {
        let name = format!("supervision::a_worker_holds_a_browser_{jail}");
        let mut worker = alone(&name).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(worker.stdout.take().unwrap()).lines();
        let pids: Vec<u32> = loop {
            let line = lines.next().expect("it says its pids").unwrap();
            if let Some((_, pids)) = line.split_once("holding ") {
                break pids.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
            }
        };
        assert!(pids.len() >= 5, "{pids:?}");
        let open = |pid: &u32| pidfd_open(raw(*pid), PidfdFlags::empty()).unwrap();
        let handles: Vec<OwnedFd> = pids.iter().map(open).collect();
        worker.kill().unwrap();
        worker.wait().unwrap();
        all_end(&handles, AT_ONCE);
    }
}

async fn hold(jail: Option<Jail>) {
    let root = tempfile::tempdir().unwrap();
    let launcher = Launcher::start().unwrap();
    let mut config = support::jailed();
    config.profile_root = root.path().to_owned();
    if let Some(jail) = jail {
        config.jail = jail;
    }
    let browser = Browser::launch(&launcher, &config).await.unwrap();
    let context = support::context(&browser).await;
    assert!(support::pdf(&context, "<p>held").await.is_ok());
    if is_alone() {
        let pids: Vec<String> = browser.processes().iter().map(|p| p.pid.to_string()).collect();
        println!("\nholding {}", pids.join(" "));
        std::future::pending::<()>().await;
    }
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_holds_a_browser_jailed() {
    hold(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_holds_a_browser_bare() {
    hold(Some(Jail::None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_launches_leave_nothing_behind() {
    if !is_alone() {
        // Descriptors and children can be counted only where nobody else runs.
        let name = "supervision::twenty_launches_leave_nothing_behind";
        assert!(alone(name).status().unwrap().success());
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let launcher = Launcher::start().unwrap();
    let mut config = support::jailed();
    config.profile_root = root.path().to_owned();
    let mut before = None;
    for round in 0..21 {
        config.jail = if round % 4 == 3 { Jail::None } else { support::jailed().jail };
        let browser = Browser::launch(&launcher, &config).await.unwrap();
        if round % 2 == 0 {
            drop(support::context(&browser).await);
            browser.close().await;
        } else {
            browser.kill().await;
        }
        drop(browser);
        // The first round opens what stays: the runtime's own descriptors.
        let now = (open_files(), children());
        assert_eq!(now, before.get_or_insert(now.clone()).clone(), "round {round}");
    }
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_launch_and_one_that_failed_do_not_disturb_the_next() {
    let launcher = Launcher::start().unwrap();
    let config = support::jailed();
    let broken = |millis| {
        let launch_timeout = Duration::from_millis(millis);
        tillroll::renderer::browser::BrowserConfig { launch_timeout, ..config.clone() }
    };
    for millis in [0, 5, 20, 60] {
        // Abandoned in mid-launch, and one given up, while the next two start.
        let abandoned = tokio::time::timeout(
            Duration::from_millis(millis),
            Browser::launch(&launcher, &config),
        );
        let given_up = broken(millis.max(1));
        let (abandoned, failed, one, two) = tokio::join!(
            abandoned,
            Browser::launch(&launcher, &given_up),
            Browser::launch(&launcher, &config),
            Browser::launch(&launcher, &config),
        );
        assert!(abandoned.is_err() && failed.is_err());
        let (one, two) = (one.unwrap(), two.unwrap());
        for browser in [&one, &two] {
            let context = support::context(browser).await;
            assert!(support::pdf(&context, "<p>sound").await.is_ok());
        }
        tokio::join!(one.close(), two.close());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ending_a_browser_leaves_every_other_one_alone() {
    let (one, two, three) =
        tokio::join!(support::browser(), support::browser(), support::browser());
    let spared = support::context(&three).await;
    let before = three.processes().len();
    one.kill().await;
    two.close().await;
    assert!(!three.is_dead() && !spared.crashed().is_cancelled());
    assert_eq!(three.processes().len(), before);
    assert!(support::pdf(&spared, "<p>still here").await.is_ok());
    three.close().await;
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn children() -> HashSet<u32> {
    let own = std::process::id();
    let tree = processes::tree(Path::new("/proc"), own);
    tree.into_iter().map(|p| p.pid).filter(|pid| *pid != own).collect()
}
