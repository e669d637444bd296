//! The job: what a producer pushes, checked once, before anything else sees it.
//!
//! Pure: bytes in, a [`Job`] or a [`Rejection`] out; no I/O, no clock. The one
//! validator of the wire format: the scripts in Redis get parsed fields and
//! never look into a document.
//!
//! * [`wire`]: the framing (header line, document) and the header's fields.
//! * [`assets`]: images, fonts and style sheets that come with the document.
//! * [`image`]: how large an image is, from its header; [`font`]: whether a font is whole.
//! * [`shared`]: which of its tenant's assets a job gets; [`sniff`]: what a file is, by its
//!   content and its name.
//! * [`options`]: the print options of the header's `options` object.
//! * [`script`]: whether a document's scripts run; [`rules`]: what operators decide.
//! * [`length`]: lengths with units, paper sizes, margins.
//! * [`fields`]: reading JSON objects so that every mistake is named with a remedy.
//! * [`reply`]: the JSON line that answers a job.

pub mod assets;
pub mod fields;
pub mod font;
pub mod image;
pub mod length;
pub mod options;
pub mod reply;
pub mod rules;
pub mod script;
pub mod shared;
pub mod sniff;
pub mod wire;

use std::fmt;
use std::time::Duration;

pub use assets::Asset;
pub use options::RenderOptions;
pub use reply::{Reply, Status};
pub use rules::{Isolation, Rules};
pub use script::{Script, WaitFor};
pub use wire::{Rejection, parse};

/// The largest element that is accepted: header and document together.
pub const MAX_ELEMENT_BYTES: usize = 8 * 1024 * 1024;
/// The largest header line.
pub const MAX_HEADER_BYTES: usize = 64 * 1024;
/// The largest document in the JSON-only form.
pub const MAX_JSON_ONLY_BYTES: usize = 1024 * 1024;

/// A job's name: `<tenant>/<id>`. Neither part contains a slash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    tenant: String,
    id: String,
}

impl Name {
    /// A name of two parts that have been checked by [`wire`] already.
    pub(crate) fn from_parts(tenant: String, id: String) -> Self {
        Self { tenant, id }
    }

    /// What stands in the reply to an element whose name could not be read.
    pub(crate) fn unnamed() -> Self {
        Self { tenant: "default".to_owned(), id: String::new() }
    }

    /// Reads `<tenant>/<id>`; `None` where either part is not a valid token.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (tenant, id) = text.split_once('/')?;
        (is_token(tenant, 64) && is_token(id, 128))
            .then(|| Self { tenant: tenant.to_owned(), id: id.to_owned() })
    }

    /// Whose job it is.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// The producer's id for it: the idempotency key within the tenant.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.id)
    }
}

/// Whether `text` is 1 to `longest` characters of `A-Za-z0-9._:-`.
#[must_use]
pub fn is_token(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
}

/// How urgent a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Priority {
    /// Somebody is waiting for it.
    Interactive,
    /// Month's end: whenever there is room.
    Bulk,
}

impl Priority {
    /// The name on the wire, in keys, logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Bulk => "bulk",
        }
    }

    /// The priority called `text`.
    #[must_use]
    pub fn from_name(text: &str) -> Option<Self> {
        match text {
            "interactive" => Some(Self::Interactive),
            "bulk" => Some(Self::Bulk),
            _ => None,
        }
    }
}

/// Where the PDF goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Into the reply, after the JSON line, as bytes or as base64.
    Reply {
        /// For clients that decode every value as text.
        base64: bool,
    },
    /// Into a key of its own, which expires after `ttl`.
    Stored {
        /// How long the PDF stays.
        ttl: Duration,
    },
}

impl Output {
    /// The name on the wire.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Reply { .. } => "reply",
            Self::Stored { .. } => "stored",
        }
    }
}

/// One job, checked: everything that a worker needs to know about it. Its `Debug`
/// form has no content.
#[derive(Clone, PartialEq)]
pub struct Job {
    /// `<tenant>/<id>`.
    pub name: Name,
    /// How urgent it is.
    pub priority: Priority,
    /// Not before this long after admission.
    pub delay: Duration,
    /// Not started by then, counted from admission: it expires.
    pub deadline: Option<Duration>,
    /// How many attempts count before it is buried.
    pub max_attempts: u32,
    /// Where the PDF goes.
    pub output: Output,
    /// The list of a consumer that takes all replies, instead of one per job.
    pub reply_to: Option<String>,
    /// How long an unread reply stays.
    pub reply_ttl: Duration,
    /// How long the job's record stays after its end.
    pub retain: Duration,
    /// Short strings, handed back in the reply.
    pub meta: serde_json::Map<String, serde_json::Value>,
    /// The producer's W3C trace context.
    pub traceparent: Option<String>,
    /// How to print it.
    pub options: RenderOptions,
    /// The document.
    pub html: String,
    /// What it refers to by relative URLs.
    pub assets: Vec<Asset>,
    /// SHA-256 of the content (the whole element), hexadecimal: whether two
    /// pushes of one name are the same job.
    pub digest: String,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("name", &self.name)
            .field("priority", &self.priority)
            .field("output", &self.output)
            .field("digest", &self.digest)
            .field("document_bytes", &self.html.len())
            .field("assets", &self.assets)
            .finish_non_exhaustive()
    }
}
