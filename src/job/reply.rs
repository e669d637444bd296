//! The JSON line that answers a job. Pure.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Name, wire};
use crate::failure::{Class, Failure};

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// There is a PDF.
    Done,
    /// It failed for good.
    Dead,
    /// It was never admitted.
    Rejected,
    /// Somebody cancelled it.
    Cancelled,
    /// Its deadline passed before it started.
    Expired,
}

impl Status {
    /// The name on the wire and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Dead => "dead",
            Self::Rejected => "rejected",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

/// Where the time went, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Timings {
    /// From admission to the start of the last attempt, by Redis' clock.
    pub queued_ms: u64,
    /// The render of the last attempt.
    pub rendered_ms: u64,
    /// Both together, earlier attempts included.
    pub total_ms: u64,
}

/// Where the PDF is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// `reply` or `stored`.
    pub kind: &'static str,
    /// The Redis key, where it has one of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// `base64`, where the bytes after the line are encoded so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<&'static str>,
}

/// What went wrong, for the producer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplyError {
    /// Whose fault.
    pub class: Class,
    /// For machines.
    pub code: String,
    /// For people: what failed and why.
    pub message: String,
    /// For people: what to do.
    pub remedy: String,
    /// When to try again, where that helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_ms: Option<u64>,
}

impl From<&Failure> for ReplyError {
    fn from(failure: &Failure) -> Self {
        Self {
            class: failure.class,
            code: failure.code.to_owned(),
            message: failure.message.clone(),
            remedy: failure.remedy.clone(),
            retry_ms: None,
        }
    }
}

/// Something that a person should know about a PDF that was made all the same, or about
/// one that was not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// A bounded name for machines.
    pub code: &'static str,
    /// What was noticed.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// The reply to one job.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reply {
    /// Wire version.
    pub v: u64,
    /// The producer's id.
    pub id: String,
    /// Whose job.
    pub tenant: String,
    /// How it ended.
    pub status: Status,
    /// Pages of the PDF.
    pub pages: u32,
    /// Bytes of the PDF.
    pub bytes: usize,
    /// SHA-256 of the PDF, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Where the PDF is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Place>,
    /// What a person should know.
    pub warnings: Vec<Warning>,
    /// Where the time went.
    pub timings: Timings,
    /// Attempts that counted.
    pub attempts: u32,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ReplyError>,
    /// The producer's own, handed back.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub meta: Map<String, Value>,
}

impl Reply {
    /// A reply without PDF and without error, to be filled in.
    #[must_use]
    pub fn new(name: &Name, status: Status) -> Self {
        Self {
            v: wire::VERSION,
            id: name.id().to_owned(),
            tenant: name.tenant().to_owned(),
            status,
            pages: 0,
            bytes: 0,
            sha256: None,
            output: None,
            warnings: Vec::new(),
            timings: Timings::default(),
            attempts: 0,
            error: None,
            meta: Map::new(),
        }
    }

    /// As one line of JSON, without its newline.
    ///
    /// # Errors
    /// Never in practice: every field has a JSON form.
    pub fn to_line(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }
}
