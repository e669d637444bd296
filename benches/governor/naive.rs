//! What a web app does by itself: one browser launched for each document, six at once.

use std::collections::VecDeque;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tillroll::renderer::engine::{Search, find};

use crate::cgroup::Entry;
use crate::documents::{Document, Kind};

/// Browsers at once.
pub(crate) const AT_ONCE: usize = 6;
/// What a web server gives a request.
const PATIENCE: Duration = Duration::from_secs(30);

/// What became of one document.
pub(crate) struct Printed {
    pub(crate) kind: Kind,
    /// Why there is no PDF.
    pub(crate) failed: Option<String>,
}

/// Prints all of them, as far as that can be done until `end`; `running` counts browsers.
pub(crate) fn print_all(
    entry: &Entry,
    documents: Vec<Document>,
    end: Instant,
    running: &Arc<AtomicUsize>,
) -> Vec<Printed> {
    let search = Search {
        path: std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect(),
        home: std::env::var_os("HOME").map(PathBuf::from),
        ..Search::default()
    };
    let engine = find(&search).expect("Chromium is needed: scripts/install-deps run").path;
    let dir = tempfile::tempdir().unwrap();
    let open: Mutex<VecDeque<Document>> = Mutex::new(documents.into());
    let printed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while Instant::now() < end {
                    let Some(document) = open.lock().unwrap().pop_front() else { break };
                    running.fetch_add(1, Ordering::Relaxed);
                    let failed = print(entry, &engine, dir.path(), &document, end).err();
                    running.fetch_sub(1, Ordering::Relaxed);
                    printed.lock().unwrap().push(Printed { kind: document.kind, failed });
                }
            });
        }
    });
    let unasked = open.into_inner().unwrap().into_iter();
    let mut printed = printed.into_inner().unwrap();
    printed.extend(
        unasked.map(|document| Printed {
            kind: document.kind,
            failed: Some("no time left".to_owned()),
        }),
    );
    printed
}

fn print(
    entry: &Entry,
    engine: &Path,
    dir: &Path,
    document: &Document,
    end: Instant,
) -> Result<(), String> {
    let place = |what: &str| dir.join(format!("{}.{what}", document.id));
    let (html, pdf, profile) = (place("html"), place("pdf"), place("profile"));
    std::fs::write(&html, &document.html).unwrap();
    let child = entry
        .command(engine)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("--print-to-pdf={}", pdf.display()))
        .arg(format!("file://{}", html.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    let outcome = await_end(child.unwrap(), end);
    let sound = std::fs::read(&pdf).is_ok_and(|pdf| pdf.starts_with(b"%PDF"));
    for file in [html, pdf] {
        // The PDF may be what is missing.
        std::fs::remove_file(file).unwrap_or_default();
    }
    std::fs::remove_dir_all(profile).unwrap_or_default();
    outcome?;
    if sound { Ok(()) } else { Err("no PDF".to_owned()) }
}

/// Waits until it has ended well, or kills it with all that it started.
fn await_end(mut child: Child, end: Instant) -> Result<(), String> {
    use std::os::unix::process::ExitStatusExt;
    let late = (Instant::now() + PATIENCE).min(end);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if Instant::now() > late {
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    // What it leaves behind goes with it; as a rule there is nothing.
    let group = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    kill_process_group(group, Signal::KILL).unwrap_or_default();
    let Some(status) = status else {
        child.wait().unwrap();
        return Err(if late == end { "no time left" } else { "not done in 30 s" }.to_owned());
    };
    match (status.signal(), status.code()) {
        (None, Some(0)) => Ok(()),
        (Some(9), _) => Err("browser killed".to_owned()),
        (Some(signal), _) => Err(format!("browser ended by signal {signal}")),
        (None, code) => Err(format!("browser ended with {}", code.unwrap_or_default())),
    }
}
