//! Launching: what a running browser looks like, and how a launch fails.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tillroll::renderer::browser::{Browser, LaunchError};
use tillroll::renderer::engine::{self, Engine, EngineKind};
use tillroll::renderer::jail::Jail;
use tillroll::renderer::launcher::Launcher;
use tillroll::renderer::processes::Kind;

use crate::support::{self, PATIENCE};

fn status(pid: u32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line[field.len()..].trim_start_matches(':').trim().to_owned()
}

fn namespace(pid: u32, kind: &str) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap()
}

/// Field 19 of `stat`.
fn nice(pid: u32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    rest.split_whitespace().nth(16).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jailed_browser_prints_with_its_sandbox_on() {
    let browser = support::browser().await;
    let context = support::context(&browser).await;
    let pdf = support::pdf(&context, "<p>Total 12.00").await.unwrap();
    assert!(pdf.starts_with(b"%PDF-") && pdf.len() > 1000, "{} bytes", pdf.len());

    let renderer = context.renderer_pid().expect("the renderer is known");
    assert_eq!(status(renderer, "Seccomp"), "2");
    assert_eq!(status(renderer, "NoNewPrivs"), "1");
    for kind in ["net", "pid", "user", "ipc"] {
        assert_ne!(namespace(renderer, kind), namespace(std::process::id(), kind), "{kind}");
    }
    let processes = browser.processes();
    let count = |kind| processes.iter().filter(|p| p.kind == kind).count();
    assert_eq!((count(Kind::Browser), count(Kind::Renderer)), (1, 1), "{processes:?}");
    assert!(processes.iter().any(|p| p.pid == renderer && p.kind == Kind::Renderer));
    context.close(PATIENCE).await.unwrap();
    assert!(browser.processes().iter().all(|p| p.kind != Kind::Renderer));
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_process_is_contained_before_it_runs() {
    let launcher = Launcher::start().unwrap();
    let mut config = support::jailed();
    (config.nice, config.oom_score_adj) = (7, 150);
    let browser = Browser::launch(&launcher, &config).await.unwrap();
    let context = support::context(&browser).await;
    let score = |pid| -> i32 {
        let text = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        text.trim().parse().unwrap()
    };
    let of = |kind| browser.processes().into_iter().find(|p| p.kind == kind).unwrap().pid;
    assert_eq!(score(of(Kind::Browser)), 150);
    assert_eq!(score(of(Kind::Renderer)), 1000, "renderers die first, the largest of them");
    let ours = score(std::process::id());
    // Bubblewrap outside the jail's namespace waits for the rest, and holds nothing.
    for process in browser.processes().into_iter().filter(|p| p.pid != browser.pid()) {
        assert!(score(process.pid) >= ours + 150, "{process:?}: {}", score(process.pid));
        assert_eq!(nice(process.pid), 7, "{process:?}");
    }
    // Where niceness counts within a session only, the jail's session has it too.
    if let Ok(text) = std::fs::read_to_string(format!("/proc/{}/autogroup", of(Kind::Renderer))) {
        assert!(text.trim().ends_with("nice 7"), "{text}");
    }
    for kind in [Kind::Browser, Kind::Renderer, Kind::Zygote, Kind::Network, Kind::Gpu] {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", of(kind))).unwrap();
        let core = limits.lines().find(|l| l.starts_with("Max core")).unwrap();
        // With 0 the kernel would still hand a dump to a program.
        assert_eq!(core.split_whitespace().nth(4), Some("1"), "{core}");
    }
    drop(context);
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_run_no_scripts_and_frames_can_be_drawn() {
    use chromiumoxide::cdp::js_protocol::runtime::EvaluateParams;
    use tillroll::renderer::context::ContextOptions;
    let browser = support::browser().await;
    let page = "<title>before</title><script>document.title = 'after'</script>";
    for (scripts, expected) in [(false, "before"), (true, "after")] {
        let options = ContextOptions { frames: true, scripts };
        let context = browser.open_context(options, PATIENCE).await.unwrap();
        support::set(&context, page).await.unwrap();
        let title = EvaluateParams::new("document.title");
        let title = context.session().call(title, PATIENCE).await.unwrap();
        assert_eq!(title.result.value, Some(expected.into()));
        assert!(!support::print(&context, PATIENCE).await.unwrap().is_empty());
        context.close(PATIENCE).await.unwrap();
    }
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn this_engine_opens_a_plain_page_at_no_address() {
    use tillroll::renderer::context::ContextOptions;
    let browser = support::browser().await;
    for (frames, scripts) in [(false, false), (true, false), (false, true)] {
        let context = browser.open_context(ContextOptions { frames, scripts }, PATIENCE).await;
        let context = context.unwrap();
        assert_eq!(context.starts_nowhere(), !frames && !scripts);
        assert!(context.renderer_pid().is_some());
        assert!(support::pdf(&context, "<p>x").await.unwrap().starts_with(b"%PDF-"));
        context.close(PATIENCE).await.unwrap();
    }
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_jail_nothing_is_left_either() {
    let root = tempfile::tempdir().unwrap();
    let launcher = Launcher::start().unwrap();
    let mut config = support::jailed();
    (config.jail, config.profile_root) = (Jail::None, root.path().to_owned());
    let browser = Browser::launch(&launcher, &config).await.unwrap();
    let context = support::context(&browser).await;
    assert!(support::pdf(&context, "<p>x").await.unwrap().starts_with(b"%PDF-"));
    let processes = browser.processes();
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    browser.kill().await;
    for process in processes {
        let now = tillroll::renderer::processes::started(Path::new("/proc"), process.pid);
        assert!(now != Some(process.started) || zombie(process.pid), "{process:?}");
    }
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
}

/// Orphans are reaped by the machine's init, when it pleases.
fn zombie(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |s| s.contains(") Z "))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_tells_its_version() {
    let version = engine::version(&support::engine()).await.unwrap();
    assert!(version.contains(char::is_numeric), "{version}");
    let engine = Engine { path: "/bin/false".into(), kind: EngineKind::HeadlessShell };
    assert!(engine::version(&engine).await.is_err());
}

async fn failure(
    change: impl FnOnce(&mut tillroll::renderer::browser::BrowserConfig),
) -> LaunchError {
    let launcher = Launcher::start().unwrap();
    let mut config = support::jailed();
    change(&mut config);
    Browser::launch(&launcher, &config).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_bwrap_or_engine_is_named() {
    let error = failure(|c| c.jail = Jail::Bwrap { path: "/nowhere/bwrap".into() }).await;
    assert!(error.to_string().contains("apt-get install bubblewrap"), "{error}");
    let error = failure(|c| c.engine.path = "/nowhere/chromium".into()).await;
    assert!(matches!(&error, LaunchError::EngineMissing { path } if path.starts_with("/nowhere")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_ends_at_once_is_reported_with_its_status() {
    for jail in [support::jailed().jail, Jail::None] {
        let error = failure(|c| {
            c.engine.path = "/bin/false".into();
            c.jail = jail;
        });
        let error = error.await;
        let LaunchError::Exited { status, .. } = &error else { panic!("{error}") };
        assert!(status.contains('1'), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_is_not_ready_in_time_is_given_up() {
    // Less than any start takes.
    let error = failure(|c| c.launch_timeout = Duration::from_millis(20)).await;
    assert!(matches!(error, LaunchError::NotReady { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jail_that_is_refused_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bwrap");
    // Written by another process: while this one holds it open for writing, a
    // child forked by a test beside us would make it busy.
    let script =
        r#"printf '#!/bin/sh\necho "bwrap: No permissions" >&2\nexit 1\n' > "$0"; chmod +x "$0""#;
    let written = std::process::Command::new("sh").args(["-c", script]).arg(&path).status();
    assert!(written.unwrap().success());
    let error = failure(|c| c.jail = Jail::Bwrap { path }).await;
    assert!(matches!(&error, LaunchError::JailRefused { .. }), "{error}");
    assert!(error.to_string().contains("No permissions") && error.remedy().contains("AppArmor"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_score_that_cannot_be_set_stops_the_launch() {
    let error = failure(|c| c.oom_score_adj = 5000).await;
    assert!(matches!(&error, LaunchError::Contain { what: "oom_score_adj", .. }), "{error}");
}

/// Host pids of bubblewraps whose parent is gone and that no engine runs under.
fn stranded() -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    entries
        .filter(|entry| {
            let read = |file| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
            let waiting = read("stat").contains("(bwrap) S 1 ");
            waiting
                && read("environ").contains("TMPDIR=/tmp")
                && read("cmdline").contains("Tillroll")
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_given_up_behind_its_gate_strands_no_jail() {
    let before = stranded();
    for millis in 1..12 {
        let error = failure(|c| c.launch_timeout = Duration::from_millis(millis)).await;
        assert!(matches!(error, LaunchError::NotReady { .. }), "{error}");
        failure(|c| c.oom_score_adj = 5000).await;
    }
    // Those that are dying may take a moment; a stranded one stays for ever.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while stranded().iter().any(|pid| !before.contains(pid)) {
        assert!(tokio::time::Instant::now() < deadline, "{:?}, before {before:?}", stranded());
        tokio::task::yield_now().await;
    }
}
