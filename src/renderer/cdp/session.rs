//! One attached page: its calls, its events, and the news of its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::{TryRecvError, TrySendError};
use tokio_util::sync::CancellationToken;

use super::client::{Shared, typed_call};
use super::error::CdpError;

/// How many events a subscription holds. A receipt has a handful of requests;
/// a document with more than this many at once is refused by its reader.
const EVENT_QUEUE: usize = 1024;

/// How many bytes of them. An address has up to 2 MB, and it is the document that
/// chooses it: a thousand such would be more than the worker may take.
pub(super) const EVENT_BYTES: usize = 32 * 1024 * 1024;

/// The result of a call, still in the bytes in which it arrived.
#[derive(Debug, Clone)]
pub struct RawReply {
    method: &'static str,
    result: Bytes,
}

impl RawReply {
    pub(super) fn new(method: &'static str, result: Bytes) -> Self {
        Self { method, result }
    }

    /// The result's JSON text; empty if Chromium sent none.
    #[must_use]
    pub fn json(&self) -> &[u8] {
        &self.result
    }

    /// Reads the result; `T` may borrow from it (`&str` where nothing is
    /// escaped, as in the base64 of a PDF).
    ///
    /// # Errors
    /// [`CdpError::Malformed`] if it is not a `T`.
    pub fn deserialize<'a, T: Deserialize<'a>>(&'a self) -> Result<T, CdpError> {
        let json: &[u8] = if self.result.is_empty() { b"{}" } else { &self.result };
        serde_json::from_slice(json)
            .map_err(|e| CdpError::Malformed { method: self.method, detail: e.to_string() })
    }
}

/// One event of a subscription.
#[derive(Debug, Clone)]
pub struct Event {
    params: Bytes,
}

impl Event {
    pub(super) fn new(params: Bytes) -> Self {
        Self { params }
    }

    /// The parameters' JSON text.
    #[must_use]
    pub fn json(&self) -> &[u8] {
        &self.params
    }

    /// Reads the parameters; `T` may borrow from them.
    ///
    /// # Errors
    /// If they are not a `T`.
    pub fn deserialize<'a, T: Deserialize<'a>>(&'a self) -> serde_json::Result<T> {
        let json: &[u8] = if self.params.is_empty() { b"{}" } else { &self.params };
        serde_json::from_slice(json)
    }
}

/// The subscriber fell [`EVENT_QUEUE`] events or [`EVENT_BYTES`] behind and lost its
/// subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than 1024 unread events of one kind, or 32 MiB of them")]
pub struct Lagged;

/// Events of one kind, in order. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Events {
    receiver: mpsc::Receiver<Event>,
    /// Bytes in it.
    held: Arc<AtomicUsize>,
    lagged: CancellationToken,
}

impl Events {
    /// The next event; `Ok(None)` when the session has ended. Cancel safe.
    ///
    /// # Errors
    /// [`Lagged`] after the last event that still had room.
    pub async fn next(&mut self) -> Result<Option<Event>, Lagged> {
        match self.receiver.recv().await {
            Some(event) => Ok(Some(self.taken(event))),
            None if self.lagged.is_cancelled() => Err(Lagged),
            None => Ok(None),
        }
    }

    /// An event that is already here, without waiting.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn try_next(&mut self) -> Result<Option<Event>, Lagged> {
        match self.receiver.try_recv() {
            Ok(event) => Ok(Some(self.taken(event))),
            Err(TryRecvError::Disconnected) if self.lagged.is_cancelled() => Err(Lagged),
            Err(_) => Ok(None),
        }
    }

    fn taken(&self, event: Event) -> Event {
        self.held.fetch_sub(event.params.len(), Ordering::Relaxed);
        event
    }
}

pub(super) struct Subscriber {
    method: &'static str,
    sender: mpsc::Sender<Event>,
    held: Arc<AtomicUsize>,
    lagged: CancellationToken,
}

impl Subscriber {
    fn offer(&self, event: &Event) -> Result<(), TrySendError<Event>> {
        let bytes = event.params.len();
        // Counted first: it may be taken at once.
        if self.held.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > EVENT_BYTES {
            return Err(TrySendError::Full(event.clone()));
        }
        self.sender.try_send(event.clone())
    }
}

/// Where a session's events go.
pub(super) struct Route {
    pub(super) subscribers: Vec<Subscriber>,
    pub(super) gone: CancellationToken,
}

impl Route {
    pub(super) fn deliver(&mut self, method: &str, event: &Event) {
        self.subscribers.retain(|subscriber| {
            if subscriber.method != method {
                return true;
            }
            match subscriber.offer(event) {
                Ok(()) => true,
                Err(TrySendError::Closed(_)) => false,
                Err(TrySendError::Full(_)) => {
                    subscriber.lagged.cancel();
                    false
                }
            }
        });
    }
}

/// A handle on one attached session. Cheap to clone.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
    id: Arc<str>,
    gone: CancellationToken,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn open(shared: Arc<Shared>, id: &str) -> Self {
        let id: Arc<str> = id.into();
        // A child of the connection's token: browser death ends the session.
        let gone = shared.token().child_token();
        let route = Route { subscribers: Vec::new(), gone: gone.clone() };
        shared.lock().sessions.insert(Arc::clone(&id), route);
        Self { shared, id, gone }
    }

    /// The protocol's name of this session.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Cancelled when the renderer crashed or was killed, the page was
    /// detached or closed, or the browser died.
    #[must_use]
    pub fn gone(&self) -> &CancellationToken {
        &self.gone
    }

    /// Calls a method with chromiumoxide's types.
    ///
    /// # Errors
    /// See [`CdpError`].
    pub async fn call<C>(&self, params: C, timeout: Duration) -> Result<C::Response, CdpError>
    where
        C: chromiumoxide::types::Command + Serialize,
    {
        typed_call(&self.shared, Some(&self.id), params, timeout).await
    }

    /// Calls a method by name: `params` is encoded once, into the frame; the
    /// reply is not decoded at all.
    ///
    /// # Errors
    /// See [`CdpError`].
    pub async fn call_raw<P: Serialize + Sync + ?Sized>(
        &self,
        method: &'static str,
        params: &P,
        timeout: Duration,
    ) -> Result<RawReply, CdpError> {
        self.shared.call(Some(&self.id), method, params, timeout).await
    }

    /// Subscribes to one kind of event, from now on. The domain's `enable` is
    /// the caller's. On a session that has ended the subscription is at its end.
    #[must_use]
    pub fn events(&self, method: &'static str) -> Events {
        let (sender, receiver) = mpsc::channel(EVENT_QUEUE);
        let (held, lagged) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        if !self.gone.is_cancelled()
            && let Some(route) = self.shared.lock().sessions.get_mut(&self.id)
        {
            route.subscribers.retain(|s| !s.sender.is_closed());
            let (held, lagged) = (Arc::clone(&held), lagged.clone());
            route.subscribers.push(Subscriber { method, sender, held, lagged });
        }
        Events { receiver, held, lagged }
    }

    /// Its renderer is known to have ended: as if Chromium had told of it.
    pub(in crate::renderer) fn end(&self) {
        self.shared.end_session(&self.id, |method| CdpError::Crashed { method });
    }

    /// Forgets the session: no events, no more calls. For its owner's end.
    pub(in crate::renderer) fn forget(&self) {
        let route = self.shared.lock().sessions.remove(&self.id);
        if let Some(route) = route {
            route.gone.cancel();
        }
    }
}
