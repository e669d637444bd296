//! The jail and Chromium's sandbox, from inside: a document is rendered in
//! them that reaches for the network, and the kernel is asked what holds its
//! processes.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use time::OffsetDateTime;

use crate::cli::{Session, parts};
use crate::config::values;
use crate::job::{RenderOptions, Rules};
use crate::pool::Pool;
use crate::renderer::processes::{self, Kind};
use crate::renderer::{Render, RenderRequest, jail};

use super::finding::Finding;

/// What was seen.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// Whether the jail is wanted.
    jailed: bool,
    /// Why there is no browser, with the remedy.
    no_browser: Option<(String, String)>,
    /// Pages of the test document, or what went wrong.
    pages: Option<Result<u32, (String, String)>>,
    /// Milliseconds that it took, the first page of a fresh browser.
    millis: u128,
    /// Namespaces that the browser shares with us; `None` if they may not be looked at.
    shared: Option<Vec<&'static str>>,
    /// Whether our `/etc/passwd` is in its reach; `None` if that cannot be seen.
    files: Option<bool>,
    /// `Seccomp:` of each renderer; 2 is a filter.
    seccomp: Vec<u8>,
    /// Connections that the document got through.
    connections: usize,
}

pub(super) async fn check(session: &Session) -> Vec<Finding> {
    judge(&look(session).await)
}

async fn look(session: &Session) -> Seen {
    let jailed = session.loaded.config.renderer.jail == values::Jail::Bwrap;
    let mut seen = Seen { jailed, ..Seen::default() };
    let pool = match parts::pool(session, (1, 0), None) {
        Ok(pool) => pool,
        Err(failure) => {
            seen.no_browser = Some((failure.why, failure.fix));
            return seen;
        }
    };
    match parts::ready(&pool).await {
        Ok(()) => render(&pool, &mut seen).await,
        Err(failure) => seen.no_browser = Some((failure.why, failure.fix)),
    }
    pool.close().await;
    seen
}

/// Renders a document that tries to get out.
async fn render(pool: &Pool, seen: &mut Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    let address = listener.as_ref().ok().and_then(|listener| listener.local_addr().ok());
    let port = address.map_or(9, |address| address.port());
    let html = format!(
        "<!doctype html><title>doctor</title><p>Tillroll &#8377;</p>\
         <img src='http://127.0.0.1:{port}/image'>\
         <link rel=stylesheet href='http://127.0.0.1:{port}/style'>\
         <iframe src='http://127.0.0.1:{port}/frame'></iframe>"
    );
    let request = RenderRequest {
        job: 0,
        tenant: "doctor".into(),
        rules: Rules::default(),
        html: html.into(),
        options: Arc::new(RenderOptions::default()),
        assets: Arc::default(),
        date: OffsetDateTime::now_utc(),
    };
    let started = tokio::time::Instant::now();
    let outcome = pool.render(request).await;
    seen.millis = started.elapsed().as_millis();
    seen.pages = Some(match outcome {
        Ok(rendered) => Ok(rendered.pages),
        Err(failure) => Err((failure.message.clone(), failure.remedy.clone())),
    });
    if let Ok(listener) = listener {
        while listener.accept().is_ok() {
            seen.connections += 1;
        }
    }
    let Some(browser) = pool.browser() else { return };
    let proc = Path::new("/proc");
    for process in processes::tree(proc, browser.pid()) {
        let dir = proc.join(process.pid.to_string());
        match process.kind {
            Kind::Browser => {
                seen.shared = shared(&dir);
                seen.files = match fs::metadata(dir.join("root/etc/passwd")) {
                    Ok(_) => Some(true),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some(false),
                    Err(_) => None,
                };
            }
            Kind::Renderer => {
                let status = fs::read_to_string(dir.join("status")).unwrap_or_default();
                seen.seccomp.extend(seccomp(&status));
            }
            _ => {}
        }
    }
}

/// The namespaces that a process has in common with us.
fn shared(process: &Path) -> Option<Vec<&'static str>> {
    let mut shared = Vec::new();
    for name in ["user", "net", "pid", "ipc", "mnt"] {
        let theirs = fs::read_link(process.join("ns").join(name)).ok()?;
        let ours = fs::read_link(Path::new("/proc/self/ns").join(name)).ok()?;
        if theirs == ours {
            shared.push(name);
        }
    }
    Some(shared)
}

fn seccomp(status: &str) -> Option<u8> {
    status.lines().find_map(|line| line.strip_prefix("Seccomp:")?.trim().parse().ok())
}

fn judge(seen: &Seen) -> Vec<Finding> {
    if let Some((why, remedy)) = &seen.no_browser {
        return vec![Finding::fail("jail", why, remedy)];
    }
    let mut findings = vec![jail(seen), sandbox(seen), network(seen)];
    findings.push(match &seen.pages {
        Some(Ok(1)) => Finding::ok("render", format!("a page in {} ms, from cold", seen.millis)),
        Some(Ok(pages)) => Finding::fail(
            "render",
            format!("a document of one page became {pages}"),
            "try another version of Chromium, and report this",
        ),
        Some(Err((why, remedy))) => Finding::fail("render", why, remedy),
        None => Finding::fail("render", "the browser was gone", "try again; see its log lines"),
    });
    findings
}

fn jail(seen: &Seen) -> Finding {
    if !seen.jailed {
        return Finding::warn(
            "jail",
            "renderer.jail = none: documents are not locked up; at most Chromium's own sandbox \
             stands before this machine (see sandbox)",
            "set renderer.jail to \"bwrap\"",
        );
    }
    match (&seen.shared, seen.files) {
        (Some(shared), _) if !shared.is_empty() => Finding::fail(
            "jail",
            format!("the browser shares namespaces with this machine: {}", shared.join(", ")),
            jail::REMEDY,
        ),
        (_, Some(true)) => Finding::fail(
            "jail",
            "this machine's files are in the browser's reach",
            "check what bubblewrap is (`bwrap --version`); 0.4 or later is needed",
        ),
        (Some(_), _) => {
            Finding::ok("jail", "user, network, pid, ipc and mount namespaces of its own; no files")
        }
        (None, _) => Finding::warn(
            "jail",
            "bubblewrap made a jail, but its namespaces may not be looked at from here",
            "run doctor as the user that runs the worker, on the same machine",
        ),
    }
}

fn sandbox(seen: &Seen) -> Finding {
    if !seen.seccomp.is_empty() && seen.seccomp.iter().all(|mode| *mode == 2) {
        return Finding::ok("sandbox", "Chromium's own sandbox is on (system calls are filtered)");
    }
    let what = "Chromium's own sandbox is off: its renderers may make any system call";
    if seen.jailed {
        Finding::fail("sandbox", what, jail::REMEDY)
    } else {
        Finding::warn("sandbox", what, "run the worker as a plain user, or with the jail")
    }
}

fn network(seen: &Seen) -> Finding {
    if seen.connections == 0 {
        return Finding::ok("network", "a document that asked for it got no connection");
    }
    Finding::fail(
        "network",
        format!("a document made {} connections to this machine", seen.connections),
        "do not render foreign documents here; report this with the version of Chromium",
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    fn sound() -> Seen {
        Seen {
            jailed: true,
            pages: Some(Ok(1)),
            shared: Some(Vec::new()),
            files: Some(false),
            seccomp: vec![2, 2],
            ..Seen::default()
        }
    }

    fn verdict(seen: &Seen, check: &str) -> Verdict {
        judge(seen).into_iter().find(|finding| finding.check == check).unwrap().verdict
    }

    #[test]
    fn a_sound_machine_passes() {
        assert!(judge(&sound()).iter().all(|finding| finding.verdict == Verdict::Ok));
    }

    #[test]
    fn without_namespaces_the_remedy_is_the_launchers() {
        let no_browser = Some(("the jail was refused".to_owned(), jail::REMEDY.to_owned()));
        let findings = judge(&Seen { no_browser, ..Seen::default() });
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].verdict, Verdict::Fail);
        assert!(findings[0].remedy.as_ref().unwrap().contains("seccomp"));
    }

    #[test]
    fn what_does_not_hold_is_said() {
        let shared = Some(vec!["net"]);
        assert_eq!(verdict(&Seen { shared, ..sound() }, "jail"), Verdict::Fail);
        assert_eq!(verdict(&Seen { files: Some(true), ..sound() }, "jail"), Verdict::Fail);
        assert_eq!(verdict(&Seen { shared: None, files: None, ..sound() }, "jail"), Verdict::Warn);
        assert_eq!(verdict(&Seen { seccomp: vec![2, 0], ..sound() }, "sandbox"), Verdict::Fail);
        assert_eq!(verdict(&Seen { seccomp: vec![], ..sound() }, "sandbox"), Verdict::Fail);
        assert_eq!(verdict(&Seen { connections: 1, ..sound() }, "network"), Verdict::Fail);
        assert_eq!(verdict(&Seen { pages: Some(Ok(2)), ..sound() }, "render"), Verdict::Fail);
        assert_eq!(verdict(&Seen { jailed: false, ..sound() }, "jail"), Verdict::Warn);
        assert_eq!(seccomp("NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n"), Some(2));
    }
}
