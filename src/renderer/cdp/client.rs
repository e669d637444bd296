//! The connection: two tasks, one table of what is waited for.
//!
//! The writer task owns the pipe into Chromium, so that a dropped call never
//! leaves half a frame behind. The reader task owns the pipe out of it and
//! never waits for anyone else. Both end when the connection is closed; the
//! first [`CloseReason`] is kept and every pending call gets it.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::{CdpError, CloseReason};
use super::frame::{self, Cut, Frame, FrameDecoder, Message, OUTGOING_LIMIT};
use super::session::{EVENT_BYTES, Event, RawReply, Route, Session};

/// The largest frame that is read from Chromium where PDFs have no limit, in bytes:
/// a PDF of 96 MiB.
pub const FRAME_LIMIT: usize = 128 * 1024 * 1024;
/// What a frame has around a PDF's base64, and Chromium's file more than ours.
const FRAME_ROOM: u64 = 1024 * 1024;
/// Whatever PDFs may have: as much as a page may tell of at once.
const LEAST_FRAME: usize = EVENT_BYTES;

/// Commands waiting for the writer. Few are ever: two calls a receipt.
const OUTGOING_QUEUE: usize = 64;

/// The largest frame to read from Chromium where PDFs have at most `max_pdf` bytes
/// (0: no limit): its base64 with some room, and never less than 32 MiB.
#[must_use]
pub fn frame_limit(max_pdf: u64) -> usize {
    if max_pdf == 0 {
        return FRAME_LIMIT;
    }
    let base64 = max_pdf.div_ceil(3).saturating_mul(4);
    usize::try_from(base64.saturating_add(FRAME_ROOM)).unwrap_or(usize::MAX).max(LEAST_FRAME)
}

struct Pending {
    method: &'static str,
    session: Option<Arc<str>>,
    reply: oneshot::Sender<Result<RawReply, CdpError>>,
}

#[derive(Default)]
pub(super) struct State {
    next_id: u64,
    closed: Option<CloseReason>,
    pending: HashMap<u64, Pending>,
    pub(super) sessions: HashMap<Arc<str>, Route>,
}

pub(super) struct Shared {
    state: Mutex<State>,
    outgoing: mpsc::Sender<Vec<u8>>,
    frame_limit: usize,
    closed: CancellationToken,
    tasks: TaskTracker,
}

/// A connection to one browser. Cheap to clone.
#[derive(Clone)]
pub struct Connection {
    pub(super) shared: Arc<Shared>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("closed", &self.close_reason()).finish()
    }
}

impl Connection {
    /// Starts the two tasks on the pipes `commands` (into Chromium) and
    /// `replies` (out of it), of which no frame may have more than `frame_limit`
    /// bytes. Needs a Tokio runtime.
    ///
    /// # Errors
    /// If the descriptors are not pipes or cannot be registered.
    pub fn start(commands: OwnedFd, replies: OwnedFd, frame_limit: usize) -> std::io::Result<Self> {
        let commands = pipe::Sender::from_owned_fd(commands)?;
        let replies = pipe::Receiver::from_owned_fd(replies)?;
        let (outgoing, queue) = mpsc::channel(OUTGOING_QUEUE);
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            outgoing,
            frame_limit,
            closed: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        shared.tasks.spawn(write(Arc::clone(&shared), commands, queue));
        shared.tasks.spawn(read(Arc::clone(&shared), replies));
        shared.tasks.close();
        Ok(Self { shared })
    }

    /// Cancelled when the connection has ended, whatever the reason.
    #[must_use]
    pub fn closed(&self) -> &CancellationToken {
        &self.shared.closed
    }

    /// Runs `task`. It must end when the connection does: [`Self::finished`] waits for it.
    pub(in crate::renderer) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.shared.tasks.spawn(task));
    }

    /// Resolves when it has ended, its pipes are closed, and so are the tasks beside it.
    pub async fn finished(&self) {
        self.shared.tasks.wait().await;
    }

    /// Why it ended, once it has.
    #[must_use]
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.shared.lock().closed.clone()
    }

    /// How many commands were given so far.
    #[must_use]
    pub fn commands(&self) -> u64 {
        self.shared.lock().next_id
    }

    /// Ends it: pending calls fail with `reason`, unless it had ended before.
    pub fn close(&self, reason: CloseReason) {
        self.shared.close(reason);
    }

    /// Calls a method of the browser itself (no session).
    ///
    /// # Errors
    /// See [`CdpError`].
    pub async fn call<C>(&self, params: C, timeout: Duration) -> Result<C::Response, CdpError>
    where
        C: chromiumoxide::types::Command + Serialize,
    {
        typed_call(&self.shared, None, params, timeout).await
    }

    /// Calls a method of the browser itself by name.
    ///
    /// # Errors
    /// See [`CdpError`].
    pub async fn call_raw<P: Serialize + Sync + ?Sized>(
        &self,
        method: &'static str,
        params: &P,
        timeout: Duration,
    ) -> Result<RawReply, CdpError> {
        self.shared.call(None, method, params, timeout).await
    }

    /// Sends a command whose reply nobody waits for, from where one cannot
    /// wait (a destructor). Returns whether it was queued.
    pub fn post<P: Serialize + ?Sized>(&self, method: &'static str, params: &P) -> bool {
        let id = {
            let mut state = self.shared.lock();
            state.next_id += 1;
            state.next_id
        };
        match frame::encode(id, method, None, params) {
            Ok(frame) => self.shared.outgoing.try_send(frame).is_ok(),
            Err(_) => false,
        }
    }

    /// A handle on an attached session. Its events are routed from here on.
    #[must_use]
    pub fn session(&self, id: &str) -> Session {
        Session::open(Arc::clone(&self.shared), id)
    }
}

/// Encodes, calls and decodes a typed command.
pub(super) async fn typed_call<C>(
    shared: &Shared,
    session: Option<&Arc<str>>,
    params: C,
    timeout: Duration,
) -> Result<C::Response, CdpError>
where
    C: chromiumoxide::types::Command + Serialize,
{
    let method = match params.identifier() {
        std::borrow::Cow::Borrowed(name) => name,
        // All generated types borrow their names; an own type must do so too.
        std::borrow::Cow::Owned(name) => {
            let detail = format!("the method name {name} is not a constant");
            return Err(CdpError::Malformed { method: "call", detail });
        }
    };
    let reply = shared.call(session, method, &params, timeout).await?;
    reply.deserialize()
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing below panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn token(&self) -> &CancellationToken {
        &self.closed
    }

    /// One call, from encoding to reply. Dropping the future forgets it.
    pub(super) async fn call<P: Serialize + ?Sized>(
        &self,
        session: Option<&Arc<str>>,
        method: &'static str,
        params: &P,
        timeout: Duration,
    ) -> Result<RawReply, CdpError> {
        let deadline = Instant::now() + timeout;
        let (sender, receiver) = oneshot::channel();
        let id = self.expect(method, session, sender)?;
        let _forget = Forget { shared: self, id };
        // On a busy machine an answer may be there as soon as its deadline is, and the
        // next one's as well: a render of 1 ms would take as long as it likes.
        if timeout.is_zero() {
            return Err(CdpError::Timeout { method, after: timeout });
        }
        let frame = frame::encode(id, method, session.map(|s| &**s), params)
            .map_err(|e| CdpError::Malformed { method, detail: e.to_string() })?;
        if frame.len() > OUTGOING_LIMIT {
            let (bytes, limit) = (frame.len(), OUTGOING_LIMIT);
            return Err(CdpError::TooLarge { method, bytes, limit });
        }
        let exchange = async {
            // The queue closes and the sender is dropped only with the connection.
            self.outgoing.send(frame).await.map_err(|_| self.closed_error(method))?;
            receiver.await.unwrap_or_else(|_| Err(self.closed_error(method)))
        };
        match tokio::time::timeout_at(deadline, exchange).await {
            Ok(result) => result,
            Err(_) => Err(CdpError::Timeout { method, after: timeout }),
        }
    }

    fn expect(
        &self,
        method: &'static str,
        session: Option<&Arc<str>>,
        reply: oneshot::Sender<Result<RawReply, CdpError>>,
    ) -> Result<u64, CdpError> {
        let mut state = self.lock();
        if let Some(reason) = state.closed.clone() {
            return Err(CdpError::Closed { method, reason });
        }
        if let Some(session) = session {
            match state.sessions.get(session) {
                Some(route) if !route.gone.is_cancelled() => {}
                _ => return Err(CdpError::Crashed { method }),
            }
        }
        state.next_id += 1;
        let id = state.next_id;
        state.pending.insert(id, Pending { method, session: session.cloned(), reply });
        Ok(id)
    }

    fn closed_error(&self, method: &'static str) -> CdpError {
        let reason = self.lock().closed.clone().unwrap_or(CloseReason::EndOfFile);
        CdpError::Closed { method, reason }
    }

    pub(super) fn close(&self, reason: CloseReason) {
        let pending = {
            let mut state = self.lock();
            if state.closed.is_some() {
                return;
            }
            state.closed = Some(reason.clone());
            state.sessions.clear();
            std::mem::take(&mut state.pending)
        };
        // First the token, so that whoever is woken by an error finds it set.
        self.closed.cancel();
        for Pending { method, reply, .. } in pending.into_values() {
            let error = CdpError::Closed { method, reason: reason.clone() };
            // A caller that no longer waits needs no answer.
            drop(reply.send(Err(error)));
        }
    }

    /// The renderer of a session is gone, or cannot be followed any more: its
    /// pending calls fail, it takes no more.
    pub(super) fn end_session(&self, session: &str, error: impl Fn(&'static str) -> CdpError) {
        let failed: Vec<Pending> = {
            let mut state = self.lock();
            let Some(route) = state.sessions.get_mut(session) else { return };
            route.subscribers.clear();
            route.gone.cancel();
            state
                .pending
                .extract_if(|_, p| p.session.as_deref() == Some(session))
                .map(|(_, p)| p)
                .collect()
        };
        for Pending { method, reply, .. } in failed {
            drop(reply.send(Err(error(method))));
        }
    }

    /// A frame that was too large to be held.
    fn route_cut(&self, cut: &Cut) {
        let limit = self.frame_limit;
        let oversized = |method| CdpError::Oversized { method, limit };
        if let Some(id) = cut.id() {
            // Where nobody waits any more, there is nobody to tell.
            if let Some(Pending { method, reply, .. }) = self.answered(id, cut.session()) {
                drop(reply.send(Err(oversized(method))));
            }
        } else if let Some(session) = cut.session() {
            tracing::warn!(limit, "a page told of more than is read at once; it is given up");
            self.end_session(session, oversized);
        } else {
            // Nothing of the browser's own is listened to but the end of a session.
            tracing::warn!(limit, "the browser told of more than is read at once");
        }
    }

    /// A frame goes to whom it is meant for. The error is about the browser itself.
    fn route(&self, frame: &Bytes) -> Result<(), &'static str> {
        let message = match frame::parse(frame) {
            Ok(message) => message,
            Err(what) => {
                let cut = Cut::of(frame);
                let session = cut.session().ok_or(what)?;
                self.distrust(session, what);
                return Ok(());
            }
        };
        match message {
            Message::Reply { id, session, result } => {
                if let Some(pending) = self.answered(id, session.as_deref()) {
                    let reply = RawReply::new(pending.method, frame.slice(result));
                    drop(pending.reply.send(Ok(reply)));
                }
            }
            Message::Failure { id: Some(id), session, error } => {
                if let Some(pending) = self.answered(id, session.as_deref()) {
                    let message = match error.data {
                        Some(data) => format!("{}: {data}", error.message),
                        None => error.message,
                    };
                    let method = pending.method;
                    let error = CdpError::Refused { method, code: error.code, message };
                    drop(pending.reply.send(Err(error)));
                }
            }
            // Of a command of which not even the number could be read. Its words are
            // left out: they may quote the command.
            Message::Failure { id: None, error, .. } => {
                tracing::warn!(code = error.code, "Chromium could not read a command");
            }
            Message::Event { session, method, params } => {
                self.route_event(session.as_deref(), &method, frame.slice(params));
            }
        }
        Ok(())
    }

    /// Takes the call that is answered out of the table. Only the session that was
    /// asked may answer, or the main process, which names none.
    fn answered(&self, id: u64, from: Option<&str>) -> Option<Pending> {
        let mut state = self.lock();
        let asked = state.pending.get(&id)?.session.clone();
        if from.is_none() || from == asked.as_deref() {
            return state.pending.remove(&id);
        }
        drop(state);
        self.distrust(from.unwrap_or_default(), "it answers for another page");
        None
    }

    /// Ends a session whose renderer does not keep to the protocol.
    fn distrust(&self, session: &str, what: &'static str) {
        tracing::warn!(what, "a renderer does not keep to the protocol; its page is given up");
        self.end_session(session, |method| CdpError::Untrusted { method });
    }

    fn route_event(&self, session: Option<&str>, method: &str, params: Bytes) {
        let crashed = |method| CdpError::Crashed { method };
        match (method, session) {
            ("Inspector.targetCrashed", Some(session)) => self.end_session(session, crashed),
            // From the main process only: a renderer could end another's.
            ("Target.detachedFromTarget", None) => {
                #[derive(Deserialize)]
                struct Detached<'a> {
                    #[serde(rename = "sessionId", borrow)]
                    session: std::borrow::Cow<'a, str>,
                }
                match serde_json::from_slice::<Detached<'_>>(&params) {
                    Ok(detached) => self.end_session(&detached.session, crashed),
                    Err(_) => tracing::warn!("an unreadable Target.detachedFromTarget"),
                }
            }
            (_, Some(session)) => {
                if let Some(route) = self.lock().sessions.get_mut(session) {
                    route.deliver(method, &Event::new(params));
                }
            }
            (_, None) => {}
        }
    }
}

/// Takes a call out of the table when its future ends or is dropped.
struct Forget<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.lock().pending.remove(&self.id);
    }
}

async fn write(shared: Arc<Shared>, mut pipe: pipe::Sender, mut queue: mpsc::Receiver<Vec<u8>>) {
    loop {
        let frame = tokio::select! {
            biased;
            () = shared.closed.cancelled() => return,
            frame = queue.recv() => match frame {
                Some(frame) => frame,
                None => return,
            },
        };
        tokio::select! {
            biased;
            () = shared.closed.cancelled() => return,
            written = pipe.write_all(&frame) => if let Err(error) = written {
                shared.close(match error.kind() {
                    std::io::ErrorKind::BrokenPipe => CloseReason::EndOfFile,
                    _ => CloseReason::Io(error.to_string()),
                });
                return;
            },
        }
    }
}

async fn read(shared: Arc<Shared>, mut pipe: pipe::Receiver) {
    let mut decoder = FrameDecoder::new(shared.frame_limit);
    loop {
        let read = tokio::select! {
            biased;
            () = shared.closed.cancelled() => return,
            read = pipe.read_buf(decoder.room()) => read,
        };
        match read {
            Ok(0) => return shared.close(CloseReason::EndOfFile),
            Ok(_) => {}
            Err(error) => return shared.close(CloseReason::Io(error.to_string())),
        }
        while let Some(frame) = decoder.next_frame() {
            match frame {
                Frame::Whole(frame) => {
                    if let Err(what) = shared.route(&frame) {
                        return shared.close(CloseReason::Malformed(what));
                    }
                }
                Frame::Cut(cut) => shared.route_cut(&cut),
            }
        }
    }
}
