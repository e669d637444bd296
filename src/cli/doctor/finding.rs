//! What a check found: one line of the report. Pure.

use serde::Serialize;

/// How it looks. The worse is the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and a person should know.
    Warn,
    /// Something that is needed is missing, or a promise does not hold.
    Fail,
}

impl Verdict {
    /// The word for it.
    #[must_use]
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What was checked: a stable name such as `redis.eviction`.
    pub(super) check: &'static str,
    /// How it looks.
    pub(super) verdict: Verdict,
    /// What was found, and what it means.
    pub(super) what: String,
    /// What to do; nothing where it is as it should be.
    pub(super) remedy: Option<String>,
}

impl Finding {
    /// As it should be.
    pub(super) fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, what: what.into(), remedy: None }
    }

    /// It works, and a person should know.
    pub(super) fn warn(
        check: &'static str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { check, verdict: Verdict::Warn, what: what.into(), remedy: Some(remedy.into()) }
    }

    /// Something is missing.
    pub(super) fn fail(
        check: &'static str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { check, verdict: Verdict::Fail, what: what.into(), remedy: Some(remedy.into()) }
    }
}
