//! What can go wrong with a job, in words that a person can act on.
//!
//! Pure: no I/O, no clock. Every failure has a [`Class`], which decides what
//! becomes of the job (see [`crate::retry`]), a bounded [`code`](Failure::code)
//! for metrics and machines, and for people a message and a remedy.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::job::reply::Warning;

/// Whose fault a failure is, and so what becomes of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The job itself is malformed: it can never succeed. Buried at once.
    Input,
    /// The document cannot be rendered as asked. A few retries, then buried.
    Document,
    /// It asked for more memory or time than there was. Retried alone, later.
    Resource,
    /// Its renderer died or hung. Retried in a fresh one.
    Renderer,
    /// Something we depend on is away (Redis, an object store). Not counted.
    Dependency,
    /// We stopped it: drain, a dead browser, a lost lease. Not counted.
    Interrupted,
    /// Our own mistake. Retried once.
    Bug,
}

impl Class {
    /// The name used in replies, logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Document => "document",
            Self::Resource => "resource",
            Self::Renderer => "renderer",
            Self::Dependency => "dependency",
            Self::Interrupted => "interrupted",
            Self::Bug => "bug",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The code of an attempt whose whole browser died. Such attempts are not
/// counted, since other jobs were present; but a job that is present again and
/// again ends as poison.
pub const BROWSER_DIED: &str = "browser_died";

/// The kernel killed the job's renderer for want of memory: its browser's fence was full.
pub const MEMORY_FENCE: &str = "memory_fence";

/// The kernel killed the job's renderer for want of memory that others took. Not counted,
/// since it was any renderer's turn; but what is killed again and again ends as poison.
pub const MEMORY_KERNEL: &str = "memory_kernel";

/// One failure: what failed, why, and what to do about it.
///
/// `code` comes from a bounded set of string literals (it is a metric label);
/// `message` never contains a document's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Decides what becomes of the job.
    pub class: Class,
    /// A stable, machine-readable name, `snake_case`.
    pub code: &'static str,
    /// What failed and why, in one sentence without a full stop.
    pub message: String,
    /// What the reader can do about it.
    pub remedy: String,
    /// What the renderer held when it failed, in bytes, where that could be seen.
    #[serde(skip)]
    pub memory_bytes: Option<u64>,
    /// What was noticed before it failed: often the reason.
    #[serde(skip)]
    pub warnings: Box<[Warning]>,
}

impl Failure {
    /// A failure of `class` known as `code`.
    pub fn new(
        class: Class,
        code: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            class,
            code,
            message: message.into(),
            remedy: remedy.into(),
            memory_bytes: None,
            warnings: Box::default(),
        }
    }

    /// Somebody cancelled the job.
    #[must_use]
    pub fn cancelled() -> Self {
        Self::new(
            Class::Interrupted,
            "cancelled",
            "the job was cancelled",
            "push it again if it is wanted after all",
        )
    }

    /// The job's document is gone from Redis.
    #[must_use]
    pub fn body_lost() -> Self {
        Self::new(
            Class::Dependency,
            "body_lost",
            "the document is no longer in Redis",
            "set maxmemory-policy to noeviction, and send the job again",
        )
    }

    /// The same, with what was noticed before.
    #[must_use]
    pub fn with_warnings(mut self, warnings: Vec<Warning>) -> Self {
        self.warnings = warnings.into();
        self
    }

    /// The same, with what its renderer was seen to hold.
    #[must_use]
    pub fn with_memory(mut self, bytes: Option<u64>) -> Self {
        self.memory_bytes = bytes.or(self.memory_bytes);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}/{}): {}", self.message, self.class, self.code, self.remedy)
    }
}

impl std::error::Error for Failure {}
