//! The renderer: a document in, a PDF out.
//!
//! This module is the seam. The worker knows only [`Render`]; what stands
//! behind it is the pool of warm Chromium pages, or in tests a script.
//!
//! * [`engine`], [`flags`], [`jail`], [`launcher`], [`browser`], [`context`]:
//!   which Chromium, how it is started and confined, and its isolated contexts.
//! * [`fence`]: the kernel's last word on a browser's memory.
//! * [`files`]: whether engine and fonts are still those that a browser was made from.
//! * [`cdp`]: the protocol over a pipe.
//! * [`limits`]: what one document may ask for, pure.
//! * [`page`]: one document printed once; with [`paper`] (what is asked of
//!   Chromium) and [`pdf`] (what is made of its answer), both pure.

pub(crate) mod assets;
pub mod browser;
pub mod cdp;
mod contain;
pub mod context;
pub mod engine;
pub mod fence;
pub mod files;
pub mod flags;
mod host;
pub mod jail;
mod launch;
pub mod launcher;
pub mod limits;
pub(crate) mod markup;
pub mod null;
pub mod page;
pub mod paper;
pub mod pdf;
pub mod processes;
pub mod profile;
mod renderers;
mod rlimits;
mod supervisor;
pub(crate) mod tags;
pub mod verify;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::Serialize;
use time::OffsetDateTime;

use crate::failure::Failure;
pub use crate::job::reply::Warning;
use crate::job::{Asset, RenderOptions, Rules};
pub(crate) use markup::loads_anything;

/// The code of a warning that quotes a document's script.
pub const SCRIPT_ERROR: &str = "script_error";

/// One document to render. Its `Debug` form has no content.
#[derive(Clone)]
pub struct RenderRequest {
    /// The caller's number for it, by which a [`Watch`] hears of it; 0 where nobody watches.
    pub job: u64,
    /// Whose document it is: it is rendered in a context of this tenant only.
    pub tenant: Arc<str>,
    /// The document.
    pub html: Arc<str>,
    /// What it refers to by relative URLs.
    pub assets: Arc<[Asset]>,
    /// What an operator decided for this tenant.
    pub rules: Rules,
    /// How to print it; `timeout` is within the worker's maximum already.
    pub options: Arc<RenderOptions>,
    /// The PDF's only date, where the options give none: the job's admission.
    pub date: OffsetDateTime,
}

/// A finished PDF. Its `Debug` form has no content.
#[derive(Clone)]
pub struct Rendered {
    /// The file.
    pub pdf: Vec<u8>,
    /// Its SHA-256, where that is known.
    pub sha256: Option<[u8; 32]>,
    /// How many pages it has.
    pub pages: u32,
    /// What a person should know.
    pub warnings: Vec<Warning>,
}

impl fmt::Debug for RenderRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RenderRequest")
            .field("job", &self.job)
            .field("tenant", &self.tenant)
            .field("document_bytes", &self.html.len())
            .field("assets", &self.assets)
            .field("rules", &self.rules)
            .field("date", &self.date)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Rendered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rendered")
            .field("pdf_bytes", &self.pdf.len())
            .field("pages", &self.pages)
            .field("warnings", &self.warnings)
            .finish()
    }
}

/// A boxed future, as [`Render`] returns it.
pub type RenderFuture<'a> = Pin<Box<dyn Future<Output = Result<Rendered, Failure>> + Send + 'a>>;

/// Whether a renderer can take work, or a sentence that says why not.
pub type Readiness = Result<(), String>;

/// What a renderer has at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Vitals {
    /// The browser's pid on the host and what it calls itself, while there is one.
    pub browser: Option<(u32, String)>,
    /// Contexts alive.
    pub contexts: usize,
}

/// How the running browser stands to the engine and the fonts on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UpkeepState {
    /// It was made from them.
    #[default]
    Current,
    /// They have changed, and are being tried in a new browser.
    Checking,
    /// They were good: the contexts move to the new browser.
    Replacing,
    /// They were not: the browser that was there stays.
    Refused,
}

/// The same, with what came of it so far.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Upkeep {
    /// How it stands now.
    pub state: UpkeepState,
    /// Why what is on disk was refused, and the remedy.
    pub why: Option<String>,
    /// Browsers that were replaced because of a change.
    pub replaced: u64,
    /// Changes that were tried and refused, each counted once however often it was tried.
    pub refused: u64,
}

/// Hears which renderer process serves which job, and when one has ended: for
/// whoever counts memory. Called while the renderer works, from any thread and
/// under its locks: it must not wait, nor call the renderer.
pub trait Watch: Send + Sync {
    /// A job has a context from now on, in the process `pid` where that is known.
    fn entered(&self, job: u64, context: u64, tenant: &Arc<str>, pid: Option<u32>);

    /// A job leaves its context, `sound` if another may follow it there. `bytes`: what
    /// its process holds for itself alone at this moment, where that was looked at. Says
    /// whether the context is to be kept for the tenant's next job; else it is
    /// closed.
    fn left(&self, job: u64, context: u64, sound: bool, bytes: Option<u64>) -> bool;

    /// A context is gone, and its process has really ended.
    fn ended(&self, context: u64);

    /// Whether there is memory for a context that no job has asked for. One that is
    /// opened then is told of as a job's with the number 0.
    fn has_room_to_spare(&self) -> bool {
        true
    }
}

/// What can be done about a context's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relief {
    /// Collect an idle context's garbage.
    Trim,
    /// Close an idle context.
    Close,
    /// Kill the renderer process, while this job is in it.
    Kill(u64),
}

/// What turns documents into PDFs.
///
/// Dropping the future abandons the render: whatever it used is destroyed, not
/// handed to the next job. A failure's class says whose fault it was; a
/// renderer that died by itself is [`Renderer`](crate::failure::Class::Renderer), one that died
/// with its whole browser is [`Interrupted`](crate::failure::Class::Interrupted).
pub trait Render: Send + Sync + 'static {
    /// Renders one document.
    fn render(&self, request: RenderRequest) -> RenderFuture<'_>;

    /// Whether it can take work now, or why not; changes as browsers come and go.
    fn readiness(&self) -> tokio::sync::watch::Receiver<Readiness>;

    /// What it is called in status: `chromium`, or what stands in for it.
    fn kind(&self) -> &'static str {
        "chromium"
    }

    /// How it stands to what is on disk, where it keeps itself up to date.
    fn upkeep(&self) -> Option<tokio::sync::watch::Receiver<Upkeep>> {
        None
    }

    /// Whether a job under these rules may have to launch a browser of its own.
    fn launches_for(&self, _rules: Rules) -> bool {
        false
    }

    /// Has `watch` hear of every context from now on; false where there are none.
    fn watched_by(&self, _watch: Arc<dyn Watch>) -> bool {
        false
    }

    /// Does something about a context's memory, at once or in the background. A
    /// context that is gone, or not in that state any more, is left alone.
    fn relieve(&self, _context: u64, _relief: Relief) {}

    /// What there is to render with, for status and metrics. Cheap.
    fn vitals(&self) -> Vitals {
        Vitals::default()
    }
}
