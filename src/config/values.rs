//! The types of the configuration's values: each reads itself from text, says
//! what it expects, and shows itself in a form that reads back.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use super::redis::{PemFile, RedisUrl, redact_url};
use super::units::{self, parse_bytes, parse_duration, show_bytes, show_duration};
pub use crate::job::Isolation;

/// A value of the configuration.
pub trait Setting: Sized {
    /// Reads it. The error says what is wrong, in words that follow "because".
    ///
    /// # Errors
    /// When `text` is not such a value.
    fn parse(text: &str) -> Result<Self, String>;

    /// What a right value looks like, in words that follow "expected".
    fn expects() -> String;

    /// The value as text: what [`Setting::parse`] reads, or, for a secret, a
    /// redacted form of it.
    fn show(&self) -> String;
}

/// An enum of plain words.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $word:literal $variant:ident),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant),+ }

        impl $name {
            /// The word for it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl Setting for $name {
            fn parse(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(String::new()),
                }
            }
            fn expects() -> String {
                let words: &[&str] = &[$($word),+];
                words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ")
            }
            fn show(&self) -> String {
                self.as_str().into()
            }
        }
    };
}

words! {
    /// Whether memory decides what renders.
    GovernorKind {
        /// It does.
        "on" On,
        /// A fixed number does.
        "off" Off,
    }
}

words! {
    /// Whether each browser gets a control group of its own.
    FenceKind {
        /// Where it can be made.
        "auto" Auto,
        /// Never.
        "off" Off,
    }
}

words! {
    /// What renders.
    RendererKind {
        /// Chromium.
        "chromium" Chromium,
        /// Nothing: every document is answered with the same page.
        "null" Null,
    }
}

words! {
    /// What a document is locked into.
    Jail {
        /// Namespaces made by bubblewrap: no network, files or processes in reach.
        "bwrap" Bwrap,
        /// Chromium's own sandbox alone.
        "none" None,
    }
}

words! {
    /// The least severe log line that is written.
    LogLevel {
        /// What an operator must look at.
        "error" Error,
        /// What may become an error.
        "warn" Warn,
        /// One line a job, and each change of state.
        "info" Info,
        /// Decisions with their reasons.
        "debug" Debug,
        /// Everything.
        "trace" Trace,
    }
}

words! {
    /// How log lines look.
    LogFormat {
        /// For people.
        "text" Text,
        /// One JSON object a line.
        "json" Json,
    }
}

impl Setting for Isolation {
    fn parse(text: &str) -> Result<Self, String> {
        Self::from_name(text).ok_or_else(String::new)
    }
    fn expects() -> String {
        Self::ALL.map(|one| format!("\"{}\"", one.as_str())).join(" or ")
    }
    fn show(&self) -> String {
        self.as_str().into()
    }
}

words! {
    /// Whether a job may have its document's scripts run.
    Scripts {
        /// Where it asks for it.
        "on" On,
        /// Never.
        "off" Off,
    }
}

/// A queue's name: part of every key, so without braces or colons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueName(String);

impl QueueName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Setting for QueueName {
    fn parse(text: &str) -> Result<Self, String> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(String::new())
        }
    }
    fn expects() -> String {
        "1 to 64 characters of A-Z a-z 0-9 . _ -".into()
    }
    fn show(&self) -> String {
        self.0.clone()
    }
}

/// How many documents render at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concurrency {
    /// Three for each core.
    Auto,
    /// So many.
    Fixed(u16),
}

impl Concurrency {
    /// More than any machine renders well: a slot costs a page of memory.
    const MOST: u16 = 512;
    /// Of what `auto` is: more take memory, and gain nothing.
    const TOO_MANY: usize = 2;

    /// What a machine without neighbours does best with, or nearly (`cargo bench
    /// --bench governor -- sweep`): while one document is between its renderer, its
    /// browser and Redis, others keep the cores busy. What memory allows comes first.
    const PER_CORE: usize = 3;

    /// The number of slots on a machine with `cores`.
    #[must_use]
    pub fn slots(self, cores: usize) -> usize {
        match self {
            Self::Auto => cores.saturating_mul(Self::PER_CORE).min(usize::from(Self::MOST)),
            Self::Fixed(slots) => usize::from(slots),
        }
    }

    /// What a person should know of so many on a machine with `cores`.
    #[must_use]
    pub fn excess(self, cores: usize) -> Option<String> {
        let best = Self::Auto.slots(cores);
        let slots = self.slots(cores);
        (slots > Self::TOO_MANY * best).then(|| {
            let cores = if cores == 1 { "1 core".to_owned() } else { format!("{cores} cores") };
            format!(
                "worker.concurrency is {slots} with {cores}: more than 3 for each ({best}) at once make \
                 each render slower and no more of them in all, and each takes its memory; set it to \
                 auto, or to {best}"
            )
        })
    }
}

impl Setting for Concurrency {
    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(slots) if (1..=Self::MOST).contains(&slots) => Ok(Self::Fixed(slots)),
            _ if text == "auto" => Ok(Self::Auto),
            _ => Err(String::new()),
        }
    }
    fn expects() -> String {
        format!("\"auto\" or a number from 1 to {}", Self::MOST)
    }
    fn show(&self) -> String {
        match self {
            Self::Auto => "auto".into(),
            Self::Fixed(slots) => slots.to_string(),
        }
    }
}

/// A number that limits something; 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count(pub u64);

impl Setting for Count {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| String::new())
    }
    fn expects() -> String {
        "a number, 0 for no limit".into()
    }
    fn show(&self) -> String {
        self.0.to_string()
    }
}

/// Bytes that limit something; 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteLimit {
    /// What the size of Redis allows.
    Auto,
    /// So many.
    Bytes(u64),
}

impl ByteLimit {
    /// The number; `None`: what the size of Redis allows.
    #[must_use]
    pub fn bytes(self) -> Option<u64> {
        match self {
            Self::Auto => None,
            Self::Bytes(bytes) => Some(bytes),
        }
    }
}

impl Setting for ByteLimit {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "0" => Ok(Self::Bytes(0)),
            _ => parse_bytes(text).map(Self::Bytes),
        }
    }
    fn expects() -> String {
        format!("\"auto\", {}, or 0 for no limit", units::SIZE)
    }
    fn show(&self) -> String {
        match self {
            Self::Auto => "auto".into(),
            Self::Bytes(0) => "0".into(),
            Self::Bytes(bytes) => show_bytes(*bytes),
        }
    }
}

/// An amount of memory: bytes, or a share of the machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the machine's memory, 1 to 100.
    Percent(u8),
}

impl Memory {
    /// The amount in bytes, on a machine with `total` bytes.
    #[must_use]
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => total / 100 * u64::from(percent),
        }
    }
}

impl Setting for Memory {
    fn parse(text: &str) -> Result<Self, String> {
        let Some(percent) = text.strip_suffix('%') else {
            return parse_bytes(text).map(Self::Bytes);
        };
        match percent.trim().parse() {
            Ok(percent @ 1..=100) => Ok(Self::Percent(percent)),
            _ => Err("a share is a whole number from 1% to 100%".into()),
        }
    }
    fn expects() -> String {
        format!("{} or a share such as \"50%\"", units::SIZE)
    }
    fn show(&self) -> String {
        match self {
            Self::Bytes(bytes) => show_bytes(*bytes),
            Self::Percent(percent) => format!("{percent}%"),
        }
    }
}

/// The memory that may be used: `None` is `auto`, all that is really free.
impl Setting for Option<Memory> {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(None),
            _ => match Memory::parse(text)? {
                Memory::Bytes(0) => Err("nothing can be rendered in no memory".into()),
                memory => Ok(Some(memory)),
            },
        }
    }
    fn expects() -> String {
        format!("\"auto\", {}", Memory::expects())
    }
    fn show(&self) -> String {
        self.map_or_else(|| "auto".into(), |memory| memory.show())
    }
}

/// A number of bytes, more than none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(u64);

impl Size {
    /// In bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl Setting for Size {
    fn parse(text: &str) -> Result<Self, String> {
        match parse_bytes(text)? {
            0 => Err("it must be more than nothing".into()),
            bytes => Ok(Self(bytes)),
        }
    }
    fn expects() -> String {
        units::SIZE.into()
    }
    fn show(&self) -> String {
        show_bytes(self.0)
    }
}

/// More than none, and no more than a day: a longer one is a slip of the unit.
impl Setting for Duration {
    fn parse(text: &str) -> Result<Self, String> {
        match parse_duration(text)? {
            Self::ZERO => Err("it must be more than nothing".into()),
            duration if duration > Self::from_secs(86_400) => Err("it is more than a day".into()),
            duration => Ok(duration),
        }
    }
    fn expects() -> String {
        units::DURATION.into()
    }
    fn show(&self) -> String {
        show_duration(*self)
    }
}

/// A program's path; `None` (written `""`) is "search for it".
impl Setting for Option<PathBuf> {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(None),
            _ => PathBuf::parse(text).map(Some),
        }
    }
    fn expects() -> String {
        "an absolute path, or \"\" to search".into()
    }
    fn show(&self) -> String {
        self.as_ref().map_or_else(String::new, PathBuf::show)
    }
}

/// Absolute: a relative one would depend on where the worker was started.
impl Setting for PathBuf {
    fn parse(text: &str) -> Result<Self, String> {
        let path = Self::from(text);
        if path.is_absolute() { Ok(path) } else { Err("it is not absolute".into()) }
    }
    fn expects() -> String {
        "an absolute path".into()
    }
    fn show(&self) -> String {
        self.display().to_string()
    }
}

/// Contexts made ready ahead, 0 to 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spares(u8);

impl Spares {
    /// The number.
    #[must_use]
    pub fn get(self) -> usize {
        self.0.into()
    }
}

impl Setting for Spares {
    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(spares @ 0..=8) => Ok(Self(spares)),
            _ => Err(String::new()),
        }
    }
    fn expects() -> String {
        "a number from 0 to 8".into()
    }
    fn show(&self) -> String {
        self.0.to_string()
    }
}

/// Niceness, 0 (as the others) to 19 (after everybody else).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nice(u8);

impl Nice {
    /// The number that `nice(1)` takes.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }
}

impl Setting for Nice {
    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(nice @ 0..=19) => Ok(Self(nice)),
            _ => Err(String::new()),
        }
    }
    fn expects() -> String {
        "a number from 0 to 19".into()
    }
    fn show(&self) -> String {
        self.0.to_string()
    }
}

/// Where HTTP is served; `None` (written `""`) is "nowhere".
impl Setting for Option<SocketAddr> {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(None),
            _ => text.parse().map(Some).map_err(|_| String::new()),
        }
    }
    fn expects() -> String {
        "an IP address with a port such as \"127.0.0.1:9464\" or \"[::1]:9464\", or \"\" for off"
            .into()
    }
    fn show(&self) -> String {
        self.map_or_else(String::new, |address| address.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_machines_memory() {
        assert_eq!(Memory::parse("50%").unwrap().of(4_000_000_000), 2_000_000_000);
        assert_eq!(Memory::parse("1GB").unwrap().of(4_000_000_000), 1_000_000_000);
        for wrong in ["0%", "101%", "5.5%", "%", "half"] {
            assert!(Memory::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn auto_concurrency_is_three_for_each_core() {
        assert_eq!(Concurrency::parse("auto").unwrap().slots(2), 6);
        assert_eq!(Concurrency::parse("7").unwrap().slots(2), 7);
        assert_eq!(Concurrency::Fixed(6).excess(2), None);
        assert_eq!(Concurrency::Auto.excess(1), None);
        let many = Concurrency::Fixed(64).excess(1).unwrap();
        assert!(many.contains("is 64 with 1 core:") && many.contains("or to 3"), "{many}");
        for wrong in ["0", "-1", "513", "many", ""] {
            assert!(Concurrency::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn isolation_has_three_words() {
        assert_eq!(Isolation::parse("browser"), Ok(Isolation::Browser));
        assert!(Isolation::parse("machine").is_err());
        assert_eq!(Isolation::expects(), "\"tenant\" or \"job\" or \"browser\"");
    }
}
