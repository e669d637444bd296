//! What can be wrong with a configuration, in words that name the key, where it
//! came from, and what would be right.

use std::fmt;
use std::path::PathBuf;

use super::{KEYS, Key, Source};

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read at all.
    #[error("the configuration file {} cannot be read: {why}", path.display())]
    Unreadable {
        /// The file, as it was named.
        path: PathBuf,
        /// The system's reason.
        why: String,
    },
    /// The file is not TOML at this place.
    #[error("{source_of}: not TOML: {why}")]
    Syntax {
        /// The place.
        source_of: Source,
        /// The parser's reason.
        why: String,
    },
    /// There is no such key.
    #[error("{source_of}: unknown key {key}{}", suggestion(.nearest.as_deref()))]
    Unknown {
        /// The key as it was written.
        key: String,
        /// Where it was written.
        source_of: Source,
        /// The key that was meant, perhaps, as it is written there.
        nearest: Option<String>,
    },
    /// The value is not one that this key takes.
    #[error("{source_of}: {key} = {value:?}{}; expected {expects}", because(.why))]
    Wrong {
        /// The key.
        key: String,
        /// The value, redacted if the key is secret.
        value: String,
        /// Where it was written.
        source_of: Source,
        /// What is wrong with it, or empty.
        why: String,
        /// What would be right.
        expects: String,
    },
    /// The value is right by itself, but not together with another.
    #[error("{source_of}: {key} = {value:?} cannot be: {why}")]
    Contradiction {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// Where it was written.
        source_of: Source,
        /// What it contradicts.
        why: String,
    },
    /// `--set` was not given as `section.key=value`.
    #[error("--set {given}: expected section.key=value")]
    NotAssignment {
        /// What was given, up to an equals sign.
        given: String,
    },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!("; did you mean {nearest}?"))
}

fn because(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(", but {why}") }
}

/// Every mistake that was found; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// The key whose name is nearest to `written`: by the whole name, or by what
/// follows the section, since the wrong section is the likeliest mistake.
#[must_use]
pub fn nearest_key(written: &str) -> Option<&'static Key> {
    /// Below this, a suggestion confuses more than it helps.
    const NEAR: f64 = 0.82;
    let written = written.to_lowercase();
    let tail = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let score = |key: &Key| {
        let whole = strsim::jaro_winkler(key.name, &written);
        let last = strsim::jaro_winkler(&tail(key.name), &tail(&written)) * 0.95;
        whole.max(last)
    };
    KEYS.iter()
        .map(|key| (key, score(key)))
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .filter(|(_, score)| *score >= NEAR)
        .map(|(key, _)| key)
}
