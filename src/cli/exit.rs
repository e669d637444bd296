//! How a verb ends: the exit codes, and the one form in which errors are printed.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use crate::config::ConfigErrors;
use crate::queue::{QueueError, TlsTrouble};

/// The exit codes: part of the public contract. Those above 64 are sysexits(3)'s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All that was asked for was done.
    Ok = 0,
    /// Something that no other code describes.
    Unexpected = 1,
    /// The command line is wrong. (clap uses the same code.)
    Usage = 2,
    /// A document was refused, or its job died.
    Document = 65,
    /// Redis or Chromium is not available.
    Unavailable = 69,
    /// A bug in Tillroll.
    Bug = 70,
    /// Stopped before the end; jobs that had begun were given back.
    Released = 75,
    /// The configuration is wrong, or lacks something.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a verb failed: printed once, on stderr, by `main`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What was being done, without a full stop: "rendering a.html".
    pub what: String,
    /// Why it failed. More than one line is indented.
    pub why: String,
    /// What the reader can do about it.
    pub fix: String,
}

impl Failure {
    /// A failure with all its parts.
    pub fn new(
        exit: Exit,
        what: impl Into<String>,
        why: impl fmt::Display,
        fix: impl Into<String>,
    ) -> Self {
        Self { exit, what: what.into(), why: why.to_string(), fix: fix.into() }
    }

    /// What Redis did not do. A wrong URL or file does not get better by trying again.
    pub fn of_redis(what: impl Into<String>, error: &QueueError) -> Self {
        let exit = match error {
            QueueError::Url(_)
            | QueueError::File { .. }
            | QueueError::Tls { why: TlsTrouble::Files, .. } => Exit::Config,
            _ => Exit::Unavailable,
        };
        Self::new(exit, what, crate::worker::chain(error), error.remedy())
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        Self::new(
            Exit::Config,
            "reading the configuration",
            errors,
            "correct it and try `tillroll config check`; worker-config/default.toml explains every key",
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = self.why.trim_end();
        if why.contains('\n') {
            write!(f, "error: {}:\n    {}", self.what, why.replace('\n', "\n    "))?;
        } else {
            write!(f, "error: {}: {why}", self.what)?;
        }
        if self.fix.is_empty() { Ok(()) } else { write!(f, "\n  fix: {}", self.fix) }
    }
}

impl std::error::Error for Failure {}

/// Writes `text` to stdout. A reader that went away (`| head`) is no failure.
///
/// # Errors
/// When stdout cannot be written for another reason, such as a full disk.
pub fn print(text: &str) -> Result<(), Failure> {
    print_on(text).map(|_| ())
}

/// As [`print()`]; says whether anybody still reads.
///
/// # Errors
/// As [`print()`].
pub fn print_on(text: &str) -> Result<bool, Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(
            Exit::Unexpected,
            "writing to stdout",
            error,
            "look at where the output goes: is the disk full?",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_what_why_and_fix() {
        let failure = Failure::new(Exit::Unavailable, "asking Redis", "refused", "start it");
        assert_eq!(failure.to_string(), "error: asking Redis: refused\n  fix: start it");
        let many = Failure { why: "one\ntwo".into(), ..failure };
        assert_eq!(many.to_string(), "error: asking Redis:\n    one\n    two\n  fix: start it");
    }
}
