//! A renderer that does what a test says: counts, waits at a gate, fails as told.
//!
//! It stands in for Chromium where only scheduling matters.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use tillroll::failure::{Class, Failure};
use tillroll::renderer::{Readiness, Render, RenderFuture, RenderRequest, Rendered};
use tokio::sync::watch;

use super::rig::PATIENCE;

/// See the module.
pub(crate) struct Scripted {
    gate: watch::Sender<bool>,
    started: watch::Sender<Vec<String>>,
    failures: Mutex<HashMap<String, VecDeque<Class>>>,
    readiness: watch::Sender<Readiness>,
}

impl Scripted {
    /// A document whose render panics.
    pub(crate) const PANICS: &str = "<p>panics";

    /// Renders at once.
    pub(crate) fn open() -> std::sync::Arc<Self> {
        std::sync::Arc::new(Self {
            gate: watch::Sender::new(true),
            started: watch::Sender::new(Vec::new()),
            failures: Mutex::default(),
            readiness: watch::Sender::new(Ok(())),
        })
    }

    /// Renders once [`open_gate`](Self::open_gate) is called.
    pub(crate) fn gated() -> std::sync::Arc<Self> {
        let renderer = Self::open();
        renderer.gate.send_replace(false);
        renderer
    }

    /// Lets everything through that waits, and what comes.
    pub(crate) fn open_gate(&self) {
        self.gate.send_replace(true);
    }

    /// The next renders of `html` fail like this, one after another.
    pub(crate) fn fail(&self, html: &str, classes: &[Class]) {
        self.failures.lock().unwrap().insert(html.to_owned(), classes.iter().copied().collect());
    }

    /// The documents in the order in which their renders began.
    pub(crate) fn rendered(&self) -> Vec<String> {
        self.started.borrow().clone()
    }

    /// Waits until so many renders have begun.
    pub(crate) async fn wait_started(&self, count: usize) {
        let mut started = self.started.subscribe();
        let enough = started.wait_for(|started| started.len() >= count);
        let waited = tokio::time::timeout(PATIENCE, enough).await;
        waited.expect("too few renders began").unwrap();
    }

    /// What the PDF of `html` is.
    pub(crate) fn pdf(html: &str) -> Vec<u8> {
        // Newlines and bytes that are no UTF-8, as a real one has.
        [b"%PDF-1.4\n\xE2\xFF\n".as_slice(), html.as_bytes()].concat()
    }
}

impl Render for Scripted {
    fn render(&self, request: RenderRequest) -> RenderFuture<'_> {
        Box::pin(async move {
            let html = request.html.to_string();
            self.started.send_modify(|started| started.push(html.clone()));
            self.gate.subscribe().wait_for(|open| *open).await.unwrap();
            assert_ne!(html, Self::PANICS, "as the test says");
            let failure =
                self.failures.lock().unwrap().get_mut(&html).and_then(VecDeque::pop_front);
            match failure {
                None => Ok(Rendered {
                    sha256: None,
                    pdf: Self::pdf(&html),
                    pages: 1,
                    warnings: Vec::new(),
                }),
                Some(class) => Err(Failure::new(class, "scripted", "as the test says", "none")),
            }
        })
    }

    fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }
}
