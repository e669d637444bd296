//! One isolated browser context with one page in it: a tenant's own storage,
//! cache and renderer process.
//!
//! ```text
//! open ─▶ live ─▶ close ─▶ disposed, its renderer gone
//!           └─ dropped: disposed in the background
//! ```
//!
//! Failures: [`Context::crashed`] fires when the renderer crashed or was
//! killed, when the page is detached, and when the browser died.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chromiumoxide::cdp::browser_protocol::browser::{
    BrowserContextId, SetDownloadBehaviorBehavior, SetDownloadBehaviorParams,
};
use chromiumoxide::cdp::browser_protocol::emulation::SetScriptExecutionDisabledParams;
use chromiumoxide::cdp::browser_protocol::inspector;
use chromiumoxide::cdp::browser_protocol::target::{
    AttachToTargetParams, CreateBrowserContextParams, CreateTargetParams,
    DisposeBrowserContextParams, WindowState,
};
use chromiumoxide::cdp::js_protocol::heap_profiler::CollectGarbageParams;
use rustix::process::{Signal, pidfd_send_signal};
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cdp::{CdpError, Connection, Session};
use super::contain;
use super::processes;
use super::renderers::{Renderer, Renderers};

/// How long a renderer may take to vanish after SIGKILL.
const KILL_PATIENCE: Duration = Duration::from_secs(2);

/// What kind of page a context has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContextOptions {
    /// Whether frames are drawn. Without (the default), a print is a third
    /// cheaper, and `requestAnimationFrame` never fires. The full browser
    /// always draws.
    pub frames: bool,
    /// Whether the document's scripts run.
    pub scripts: bool,
}

/// For this Chromium makes a target with its first empty document, and goes nowhere
/// from there: there is no script in it to run. `about:blank` is one more document,
/// with all that coming from an address takes in three processes.
const NOWHERE: &str = "javascript:";

impl ContextOptions {
    /// Whether its page is for paper alone: scripts could find out what its address is, and
    /// whether it is seen; frames are for those who want to see it.
    fn is_plain(self) -> bool {
        !self.frames && !self.scripts
    }

    /// The page of the context `id`, unseen at no address, or as any other.
    fn target(self, id: BrowserContextId, nowhere: bool) -> CreateTargetParams {
        let mut params = CreateTargetParams::new(if nowhere { NOWHERE } else { "about:blank" });
        params.browser_context_id = Some(id);
        (params.width, params.height) = (Some(1), Some(1));
        params.enable_begin_frame_control = (!self.frames).then_some(true);
        // It asks the GPU process for nothing.
        params.window_state = nowhere.then_some(WindowState::Minimized);
        params
    }
}

/// Kills one renderer process, and no other that gets its number later.
#[derive(Debug, Clone)]
pub struct Killer(Arc<OwnedFd>);

impl Killer {
    /// Kills it; says whether it was still there.
    pub fn kill(&self) -> bool {
        pidfd_send_signal(&*self.0, Signal::KILL).is_ok()
    }
}

/// How long a collection of garbage may take.
const COLLECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Collects the garbage of a page that no job uses: of 77 MB it keeps about 25.
///
/// # Errors
/// If the page does not answer.
pub async fn collect_garbage(session: &Session) -> Result<(), CdpError> {
    session.call(CollectGarbageParams::default(), COLLECT_TIMEOUT).await.map(drop)
}

/// An open context. Dropping it disposes of it without waiting.
#[derive(Debug)]
pub struct Context {
    connection: Connection,
    /// Taken by `close`.
    id: Option<BrowserContextId>,
    target: String,
    /// Whether its page is at no address, not even `about:blank`.
    nowhere: bool,
    session: Session,
    renderer: Option<Renderer>,
}

/// What is granted to a context; all else is refused without asking.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Granted<'a> {
    permissions: [&'a str; 0],
    browser_context_id: &'a str,
}

/// How Chromium says that a context does not exist.
const NO_CONTEXT: &str = "Failed to find context";

/// Disposes of a context that was not opened to the end.
struct Unfinished<'a> {
    connection: &'a Connection,
    id: Option<BrowserContextId>,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            dispose(self.connection, id);
        }
    }
}

fn dispose(connection: &Connection, id: BrowserContextId) {
    let posted =
        connection.post("Target.disposeBrowserContext", &DisposeBrowserContextParams::new(id));
    if !posted && !connection.closed().is_cancelled() {
        tracing::warn!("a context could not be disposed of: the browser reads nothing");
    }
}

impl Context {
    pub(super) async fn open(
        connection: Connection,
        renderers: Arc<Renderers>,
        options: ContextOptions,
        may_start_nowhere: Arc<AtomicBool>,
        timeout: Duration,
    ) -> Result<Self, CdpError> {
        let deadline = Instant::now() + timeout;
        let left = || deadline.saturating_duration_since(Instant::now());
        let params = CreateBrowserContextParams::builder().dispose_on_detach(true).build();
        let id = connection.call(params, left()).await?.browser_context_id;
        let mut unfinished = Unfinished { connection: &connection, id: Some(id.clone()) };
        if options.scripts {
            let mut downloads = SetDownloadBehaviorParams::new(SetDownloadBehaviorBehavior::Deny);
            downloads.browser_context_id = Some(id.clone());
            let granted = Granted { permissions: [], browser_context_id: id.inner() };
            tokio::try_join!(
                async { connection.call(downloads, left()).await.map(drop) },
                connection.call_raw("Browser.grantPermissions", &granted, left()),
            )?;
        }

        // One opening at a time, until the renderer that appears is known to be this one's.
        let method = "Target.createTarget";
        let mut turn = Some(
            tokio::time::timeout_at(deadline, renderers.turn())
                .await
                .map_err(|_| CdpError::Timeout { method, after: timeout })?,
        );
        let mut nowhere = options.is_plain() && may_start_nowhere.load(Ordering::Relaxed);
        let mut target = connection.call(options.target(id.clone(), nowhere), left()).await;
        let refused = nowhere && matches!(target, Err(CdpError::Refused { .. }));
        if refused {
            nowhere = false;
            target = connection.call(options.target(id, nowhere), left()).await;
            if target.is_ok() && may_start_nowhere.swap(false, Ordering::Relaxed) {
                tracing::warn!("this engine opens no page without an address: contexts cost more");
            }
        }
        let target = target?.target_id;
        let mut params = AttachToTargetParams::new(target.clone());
        params.flatten = Some(true);
        let attached = connection.call(params, left()).await?;
        let session = connection.session(attached.session_id.inner());
        // The main process answers this one by itself. As a rule the renderer is there by
        // then, with most of its start before it, in which others need not wait.
        let enabled = session.call(inspector::EnableParams::default(), left()).await;
        enabled.inspect_err(|_| session.forget())?;
        let sure = turn.as_mut().filter(|turn| turn.is_sure() && !refused);
        let mut renderer = sure.and_then(|turn| turn.claim(&turn.fresh()));
        if renderer.is_some() {
            turn = None;
        }
        let disabled = SetScriptExecutionDisabledParams::new(!options.scripts);
        session.call(disabled, left()).await.inspect_err(|_| session.forget())?;
        if let Some(mut turn) = turn {
            let fresh = turn.fresh();
            renderer = turn.claim(&fresh);
            let others = fresh.iter().filter(|_| renderer.is_none());
            others.for_each(|(pid, _)| contain::offer(*pid));
        }
        if let Some(renderer) = &renderer {
            // Only now: Chromium gives it a score of its own when it has forked it.
            contain::offer(renderer.pid);
            connection.spawn(notice_end(Arc::clone(&renderer.handle), session.clone()));
        }
        let id = unfinished.id.take();
        drop(unfinished);
        let target = target.inner().clone();
        Ok(Self { connection, id, target, nowhere, session, renderer })
    }

    /// The page's session.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The page's target, which is also its main frame's id.
    #[must_use]
    pub fn frame_id(&self) -> &str {
        &self.target
    }

    /// Whether its page is at no address when it is opened, so that `about:srcdoc` is none
    /// in it.
    #[must_use]
    pub fn starts_nowhere(&self) -> bool {
        self.nowhere
    }

    /// Cancelled when the page can do nothing any more.
    #[must_use]
    pub fn crashed(&self) -> &CancellationToken {
        self.session.gone()
    }

    /// The host's pid of its renderer, if it could be told apart.
    #[must_use]
    pub fn renderer_pid(&self) -> Option<u32> {
        self.renderer.as_ref().map(|renderer| renderer.pid)
    }

    /// What its renderer holds for itself alone, in bytes; `None` if it is gone.
    #[must_use]
    pub fn footprint(&self) -> Option<u64> {
        processes::private_bytes(Path::new("/proc"), self.renderer_pid()?)
    }

    /// Kills its renderer, and nothing else; [`crashed`](Self::crashed) follows.
    /// Returns whether there was one to kill.
    pub fn kill_renderer(&self) -> bool {
        self.killer().is_some_and(|killer| killer.kill())
    }

    /// What kills its renderer from elsewhere, if it could be told apart.
    #[must_use]
    pub fn killer(&self) -> Option<Killer> {
        self.renderer.as_ref().map(|renderer| Killer(Arc::clone(&renderer.handle)))
    }

    /// Disposes of it and waits until its renderer is really gone; one that
    /// does not go within `timeout` is killed.
    ///
    /// # Errors
    /// If the browser does not dispose of it, or the renderer cannot be killed:
    /// then only the end of the browser helps.
    pub async fn close(mut self, timeout: Duration) -> Result<(), CdpError> {
        let method = "Target.disposeBrowserContext";
        let deadline = Instant::now() + timeout;
        let Some(id) = self.id.take() else { return Ok(()) };
        self.session.forget();
        let disposed =
            match self.connection.call(DisposeBrowserContextParams::new(id), timeout).await {
                // It went with its page, or with its browser: there is nothing left to close.
                Err(CdpError::Refused { message, .. }) if message.contains(NO_CONTEXT) => Ok(()),
                other => other.map(drop),
            };
        if let Some(renderer) = &self.renderer {
            let left = deadline.saturating_duration_since(Instant::now());
            if !contain::ended(&renderer.handle, left).await {
                pidfd_send_signal(&*renderer.handle, Signal::KILL).ok();
                if !contain::ended(&renderer.handle, KILL_PATIENCE).await {
                    return Err(CdpError::Timeout { method, after: timeout + KILL_PATIENCE });
                }
            }
        }
        disposed
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.session.forget();
            dispose(&self.connection, id);
        }
    }
}

/// Ends a session with its renderer: Chromium tells of it only when its main process
/// has come round to it.
async fn notice_end(renderer: Arc<OwnedFd>, session: Session) {
    tokio::select! {
        () = session.gone().cancelled() => {}
        true = contain::ended(&renderer, Duration::MAX) => session.end(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};

    use rustix::pipe::{PipeFlags, pipe_with};
    use serde_json::{Value, json};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A connection to what answers each call with what `result` says, and what it was asked.
    fn chromium(
        result: impl Fn(&str, &Value) -> Result<Value, &'static str> + Send + 'static,
    ) -> (Connection, std::sync::mpsc::Receiver<(String, Value)>) {
        let pipe = || pipe_with(PipeFlags::CLOEXEC).unwrap();
        let ((commands, ours), (theirs, replies)) = (pipe(), pipe());
        let (asked, calls) = std::sync::mpsc::channel();
        let (commands, mut replies) = (std::fs::File::from(commands), std::fs::File::from(replies));
        std::thread::spawn(move || {
            for frame in BufReader::new(commands).split(0).map_while(Result::ok) {
                let call: Value = serde_json::from_slice(&frame).unwrap();
                let (method, params) = (call["method"].as_str().unwrap(), &call["params"]);
                let mut reply = match result(method, params) {
                    Ok(result) => json!({"id": call["id"], "result": result}),
                    Err(message) => {
                        json!({"id": call["id"], "error": {"code": -32000, "message": message}})
                    }
                };
                if let Some(session) = call.get("sessionId") {
                    reply["sessionId"] = session.clone();
                }
                asked.send((method.to_owned(), params.clone())).ok();
                replies.write_all(format!("{reply}\0").as_bytes()).ok();
            }
        });
        (Connection::start(ours, theirs, 1 << 20).unwrap(), calls)
    }

    #[tokio::test]
    async fn an_engine_that_opens_no_page_without_an_address_is_given_one() {
        let plain = json!({
            "url": "about:blank", "browserContextId": "C", "width": 1, "height": 1,
            "enableBeginFrameControl": true,
        });
        for refuses in [false, true] {
            let only = plain.clone();
            let (connection, calls) = chromium(move |method, params| match method {
                "Target.createBrowserContext" => Ok(json!({"browserContextId": "C"})),
                "Target.createTarget" if refuses && *params != only => Err("no such page"),
                "Target.createTarget" => Ok(json!({"targetId": "T"})),
                "Target.attachToTarget" => Ok(json!({"sessionId": "S"})),
                _ => Ok(json!({})),
            });
            let empty = tempfile::tempdir().unwrap();
            let renderers = Arc::new(Renderers::of(empty.path(), 1));
            let nowhere = Arc::new(AtomicBool::new(true));
            for _ in 0..2 {
                let (connection, renderers) = (connection.clone(), Arc::clone(&renderers));
                let (options, nowhere) = (ContextOptions::default(), Arc::clone(&nowhere));
                let context = Context::open(connection, renderers, options, nowhere, PATIENCE);
                assert_eq!(context.await.unwrap().starts_nowhere(), !refuses);
            }
            let targets = calls.try_iter().filter(|(method, _)| method == "Target.createTarget");
            let urls: Vec<Value> = targets.map(|(_, params)| params["url"].clone()).collect();
            // It is asked once.
            let blank = if refuses {
                [NOWHERE, "about:blank", "about:blank"].as_slice()
            } else {
                &[NOWHERE; 2]
            };
            assert_eq!(urls, blank);
        }
    }
}
