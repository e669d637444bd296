//! Log lines on stderr, as text or as JSON.
//!
//! Crates below us that print whole messages (documents, PDFs, passwords) at
//! debug level are held at warn, whatever level is asked for.

use std::any::Any;
use std::io::IsTerminal;
use std::panic::Location;
use std::sync::OnceLock;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::Log;
use crate::config::values::{LogFormat, LogLevel};

/// Never more talkative than warn: what they print below it is other people's data.
const QUIET: [&str; 7] =
    ["chromiumoxide", "chromiumoxide_cdp", "redis", "deadpool_redis", "hyper", "axum", "mio"];

/// Where the level of what [`init`] installed can be changed.
static LEVEL: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Sends the process's log lines to stderr.
///
/// A second call changes nothing: the first subscriber stays.
pub fn init(log: &Log) {
    let colours = std::io::stderr().is_terminal();
    let (filter, handle) = reload::Layer::new(filter(log.level));
    let subscriber =
        Registry::default().with(lines(log, colours, std::io::stderr).with_filter(filter));
    LEVEL.get_or_init(|| handle);
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        tracing::debug!("log lines already have a destination");
    }
}

/// Changes the least severe level that is written, from now on.
///
/// # Errors
/// Where [`init`] was not called, or another subscriber was there before.
pub fn set_level(level: LogLevel) -> Result<(), String> {
    let Some(handle) = LEVEL.get() else { return Err("log lines go elsewhere".into()) };
    handle.reload(filter(level)).map_err(|error| error.to_string())
}

/// What [`init`] installs, but for changing its level, with its writer left open, for tests.
pub fn subscriber<W>(log: &Log, colours: bool, writer: W) -> impl Subscriber + Send + Sync + use<W>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    Registry::default().with(lines(log, colours, writer).with_filter(filter(log.level)))
}

fn lines<W>(log: &Log, colours: bool, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    match log.format {
        LogFormat::Text => fmt::layer().with_ansi(colours).with_writer(writer).boxed(),
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(writer).boxed(),
    }
}

fn filter(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let quiet = level.min(LevelFilter::WARN);
    Targets::new().with_default(level).with_targets(QUIET.map(|target| (target, quiet)))
}

/// What is said of a panic. A message that was put together at run time may quote
/// what it was about (cutting a text at a wrong byte quotes the text), so only a
/// message that stands in the source is shown.
#[must_use]
pub fn panic_line(payload: &(dyn Any + Send), place: Option<&Location<'_>>) -> String {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed");
    let place = place.map_or_else(|| "an unknown place".to_owned(), Location::to_string);
    let message = match payload.downcast_ref::<&'static str>() {
        Some(text) => text,
        None => "(its message is left out: it may quote a document)",
    };
    format!("thread '{name}' panicked at {place}: {message}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn written(level: LogLevel, format: LogFormat, log_lines: impl FnOnce()) -> String {
        let lines = Lines::default();
        let made = lines.clone();
        let subscriber = subscriber(&Log { level, format }, false, move || made.clone());
        tracing::subscriber::with_default(subscriber, log_lines);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_lines_carry_their_fields() {
        let text = written(LogLevel::Info, LogFormat::Json, || {
            tracing::info!(job.id = "r-1", duration_ms = 12, "done");
            tracing::debug!("unseen");
        });
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "done");
        assert_eq!(line["job.id"], "r-1");
        assert_eq!(line["duration_ms"], 12);
    }

    #[test]
    fn crates_that_print_documents_stay_quiet_at_trace() {
        let text = written(LogLevel::Trace, LogFormat::Text, || {
            tracing::debug!(target: "chromiumoxide::conn", "<html>secret</html>");
            tracing::info!(target: "redis::aio", "AUTH secret");
            tracing::warn!(target: "redis::aio", "reconnecting");
            tracing::trace!("our own");
        });
        assert!(!text.contains("secret"), "{text}");
        assert!(text.contains("reconnecting") && text.contains("our own"), "{text}");
    }

    #[test]
    fn at_error_nobody_warns() {
        let text = written(LogLevel::Error, LogFormat::Text, || {
            tracing::warn!(target: "redis::aio", "reconnecting");
        });
        assert_eq!(text, "");
    }

    #[test]
    fn a_panic_quotes_no_document() {
        let said = |work: fn()| {
            let payload = std::panic::catch_unwind(work).unwrap_err();
            panic_line(&*payload, Some(Location::caller()))
        };
        let quotes = said(|| {
            let html = std::hint::black_box("Ana Canary bought € 3");
            std::hint::black_box(&html[..html.len() - 3]);
        });
        assert!(!quotes.contains("Canary") && quotes.contains("telemetry.rs:"), "{quotes}");
        let plain = said(|| panic!("a sentence of ours"));
        assert!(plain.ends_with("a sentence of ours"), "{plain}");
    }
}
