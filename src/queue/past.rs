//! What became of an attempt that did not end well: one line of a job's history.

use serde::{Deserialize, Serialize};

use super::client::Warning;

/// One attempt of the past. Names and codes, figures, and the sentences that the
/// failure gave of itself; never a document's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// When it ended: milliseconds of Redis' clock.
    pub at: u64,
    /// Its number, as counted then.
    pub attempt: u32,
    /// The worker that had it.
    pub worker: String,
    /// Whose fault it was, see [`crate::failure::Class`].
    pub class: String,
    /// A bounded code.
    pub code: String,
    /// What failed and why.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// What its renderer held when it failed, in bytes, where that could be seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// What it is to have, alone, the next time, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs_bytes: Option<u64>,
    /// Whether it counted against `max_attempts`.
    pub counted: bool,
    /// What was noticed before it failed, where it was the last. They name what the
    /// document asked for, as those of a reply do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
}

impl Past {
    /// Its line in Redis.
    #[must_use]
    pub(super) fn line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a line; `None` for what no release of ours wrote.
    #[must_use]
    pub(super) fn read(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }
}
