//! What is set on a browser's first process before Chromium runs; every other
//! process inherits it. Also: waiting for processes that are not our children.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, getpriority_process, pidfd_open, setpriority_process};
use serde::Deserialize;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::unix::pipe;

use super::browser::LaunchError;

/// bubblewrap's information is below 300 bytes.
const INFO_LIMIT: usize = 4096;

/// What is set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Containment {
    pub(super) nice: i32,
    pub(super) oom_score_adj: i32,
}

/// The kernel, when it must kill, takes the largest of those that have this.
const FIRST_TO_DIE: i32 = 1000;

/// Makes a renderer one of those that the kernel kills first. Chromium gives it
/// 300, which on a small machine is less than the size of a database counts.
pub(super) fn offer(renderer: u32) {
    let file = format!("/proc/{renderer}/oom_score_adj");
    if let Err(error) = std::fs::write(file, FIRST_TO_DIE.to_string()) {
        // It may have ended; else it keeps Chromium's own.
        tracing::debug!(%error, renderer, "oom_score_adj of a renderer stays as Chromium set it");
    }
}

/// Where the kernel groups processes by session (`sched_autogroup`), niceness
/// counts within a session only, and the jail has one of its own: the group gets
/// the same. `first` is the jail's first process.
pub(super) fn regroup(first: u32, nice: i32) {
    let group = |of: &str| {
        let text = std::fs::read_to_string(format!("/proc/{of}/autogroup")).ok()?;
        text.split_whitespace().next().map(str::to_owned)
    };
    let theirs = group(&first.to_string());
    // Not ours, if the jail should have none of its own.
    if theirs.is_some() && theirs != group("self") {
        let file = format!("/proc/{first}/autogroup");
        if let Err(error) = std::fs::write(file, nice.to_string()) {
            tracing::debug!(%error, "the jail's session competes as if it were not nice");
        }
    }
}

/// Reads the host's pid of the jail's first process from bubblewrap.
pub(super) async fn first_process(info: OwnedFd) -> Result<u32, LaunchError> {
    #[derive(Deserialize)]
    struct Info {
        #[serde(rename = "child-pid")]
        pid: u32,
    }
    let failed = |source| LaunchError::Prepare { what: "the jail", source };
    let mut pipe = pipe::Receiver::from_owned_fd(info).map_err(failed)?;
    let mut text = Vec::new();
    loop {
        // The end of the object is not the end of the pipe, which the waiting
        // jail keeps open.
        if let Ok(info) = serde_json::from_slice::<Info>(&text) {
            return Ok(info.pid);
        }
        let read = pipe.read_buf(&mut text).await.map_err(failed)?;
        if read == 0 || text.len() > INFO_LIMIT {
            let error = std::io::Error::other("bwrap did not tell the pid of its child");
            return Err(failed(error));
        }
    }
}

/// Sets everything on the process `pid`, which does not run Chromium yet, and
/// returns a handle on it.
pub(super) fn apply(pid: u32, containment: Containment) -> Result<OwnedFd, LaunchError> {
    let failed = |what| move |source| LaunchError::Contain { what, source };
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let handle = raw
        .ok_or_else(|| std::io::Error::other("not a process id"))
        .and_then(|raw| Ok(pidfd_open(raw, PidfdFlags::empty())?))
        .map_err(failed("a handle on its process"))?;
    let score = containment.oom_score_adj.to_string();
    std::fs::write(format!("/proc/{pid}/oom_score_adj"), score).map_err(failed("oom_score_adj"))?;
    // Never before the worker itself: who started it nicely meant all of it, and an
    // ordinary user may not go back.
    let nice = containment.nice.max(getpriority_process(None).unwrap_or(containment.nice));
    setpriority_process(raw, nice).map_err(|e| failed("its niceness (renderer.nice)")(e.into()))?;
    // A core dump would hold documents.
    crate::dumps::forbid_for(raw).map_err(failed("its core limit"))?;
    Ok(handle)
}

/// Waits until the process behind a handle has ended; false if it takes longer
/// than `timeout`.
pub(super) async fn ended(handle: &OwnedFd, timeout: Duration) -> bool {
    let Ok(handle) = handle.try_clone() else { return false };
    #[allow(deprecated, reason = "the other way is unsafe; an owned descriptor is sound here")]
    let Ok(watched) = AsyncFd::with_interest(handle, Interest::READABLE) else {
        return false;
    };
    matches!(tokio::time::timeout(timeout, watched.readable()).await, Ok(Ok(_)))
}
