//! Making the element that is pushed. Pure.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::job::fields::Problem;
use crate::job::{self, Name, Output, Priority};

/// A receipt to be rendered: its document and what the header says about it.
///
/// Whatever is not set has the default of the wire format; an id is made where
/// none is given, so that every element's reply can be waited for.
///
/// ```
/// use tillroll::client::Receipt;
///
/// let element = Receipt::new("<h1>Receipt</h1>")
///     .tenant("cafe")
///     .id("r-1042")
///     .option("paper", "80mm")
///     .meta("order", "1042")
///     .element()?;
/// assert_eq!(element.name().to_string(), "cafe/r-1042");
///
/// // The worker's own validator has read it: mistakes are told before the push.
/// let problem = Receipt::new("<h1>Receipt</h1>").option("format", "A4").element().unwrap_err();
/// assert_eq!(problem.code, "unknown_field");
/// assert!(problem.remedy.contains("paper"));
/// # Ok::<(), tillroll::job::fields::Problem>(())
/// ```
#[derive(Clone, PartialEq)]
#[must_use = "nothing is pushed before Client::send"]
pub struct Receipt {
    html: String,
    priority: Priority,
    header: Map<String, Value>,
    assets: Vec<(String, Vec<u8>)>,
}

/// An element that the worker will accept, with the name under which its reply comes.
#[derive(Clone, PartialEq, Eq)]
pub struct Element {
    name: Name,
    priority: Priority,
    bytes: Vec<u8>,
}

/// Without the document, the header's values and the assets.
impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt")
            .field("priority", &self.priority)
            .field("document_bytes", &self.html.len())
            .field("assets", &self.assets.len())
            .finish_non_exhaustive()
    }
}

/// Without its bytes.
impl fmt::Debug for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Element({}, {} bytes)", self.name, self.bytes.len())
    }
}

impl Element {
    /// The job's name: what to wait for.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Which inbox it goes to.
    #[must_use]
    pub fn priority(&self) -> Priority {
        self.priority
    }

    /// Header line, document and assets, as they are pushed.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Receipt {
    /// A receipt with this document.
    pub fn new(html: impl Into<String>) -> Self {
        Self {
            html: html.into(),
            priority: Priority::Interactive,
            header: Map::new(),
            assets: Vec::new(),
        }
    }

    fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.header.insert(field.to_owned(), value.into());
        self
    }

    /// An entry of an object of the header.
    fn within(mut self, object: &str, key: &str, value: Value) -> Self {
        let entry = self.header.entry(object).or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(entry) = entry {
            entry.insert(key.to_owned(), value);
        }
        self
    }

    /// Whose job it is: isolation and fairness follow it. `default` if not set.
    pub fn tenant(self, tenant: impl Into<String>) -> Self {
        self.with("tenant", tenant.into())
    }

    /// The idempotency key within the tenant: the same id and content again is
    /// the same job.
    pub fn id(self, id: impl Into<String>) -> Self {
        self.with("id", id.into())
    }

    /// Which inbox it goes to.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Not before this long after admission.
    pub fn delay(self, delay: Duration) -> Self {
        self.with("delay_ms", millis(delay))
    }

    /// If it has not started by then, counted from admission, it expires.
    pub fn deadline(self, deadline: Duration) -> Self {
        self.with("deadline_ms", millis(deadline))
    }

    /// How many attempts count before it is buried.
    pub fn max_attempts(self, attempts: u32) -> Self {
        self.with("max_attempts", attempts)
    }

    /// Where the PDF goes.
    pub fn output(self, output: Output) -> Self {
        let value = match output {
            Output::Reply { base64: false } => json!({"kind": "reply"}),
            Output::Reply { base64: true } => json!({"kind": "reply", "encoding": "base64"}),
            Output::Stored { ttl } => json!({"kind": "stored", "ttl_ms": millis(ttl)}),
        };
        self.with("output", value)
    }

    /// Replies go to this consumer's list, and the PDF under a key of its own.
    pub fn reply_to(self, consumer: impl Into<String>) -> Self {
        self.with("reply_to", consumer.into())
    }

    /// How long an unread reply stays.
    pub fn reply_ttl(self, ttl: Duration) -> Self {
        self.with("reply_ttl_ms", millis(ttl))
    }

    /// How long the job's record stays after its end.
    pub fn retain(self, retain: Duration) -> Self {
        self.with("retain_ms", millis(retain))
    }

    /// A short text that comes back in the reply; at most 16.
    pub fn meta(self, key: &str, value: impl Into<String>) -> Self {
        self.within("meta", key, Value::String(value.into()))
    }

    /// The W3C trace context that the worker's log line carries.
    pub fn traceparent(self, context: impl Into<String>) -> Self {
        self.with("traceparent", context.into())
    }

    /// An image, font or style sheet that the document refers to by this relative
    /// URL; the name's ending tells its type.
    pub fn asset(mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        self.assets.push((name.into(), bytes.into()));
        self
    }

    /// One print option, as the wire format has it.
    pub fn option(self, name: &str, value: impl Into<Value>) -> Self {
        self.within("options", name, value.into())
    }

    /// All print options, as the wire format has them.
    pub fn options(self, options: Map<String, Value>) -> Self {
        if options.is_empty() { self } else { self.with("options", options) }
    }

    /// The element, read by the validator that the worker uses.
    ///
    /// # Errors
    /// The first thing that a worker would refuse, with its remedy.
    pub fn element(mut self) -> Result<Element, Problem> {
        if !self.header.contains_key("id") {
            let id = format!("{:016x}", rand::random::<u64>());
            self.header.insert("id".to_owned(), Value::String(id));
        }
        if !self.assets.is_empty() {
            let list = self.assets.iter();
            let list = list.map(|(name, bytes)| json!({"name": name, "length": bytes.len()}));
            self.header.insert("assets".to_owned(), list.collect());
        }
        let mut bytes = Value::Object(self.header).to_string().into_bytes();
        bytes.push(b'\n');
        bytes.extend_from_slice(self.html.as_bytes());
        for (_, asset) in &self.assets {
            bytes.extend_from_slice(asset);
        }
        // The id is there; one that could not be read is refused.
        let job = job::parse(&bytes, self.priority, String::new)
            .map_err(|rejection| rejection.problem)?;
        Ok(Element { name: job.name, priority: job.priority, bytes })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_what_the_worker_reads() {
        let element = Receipt::new("<p>x")
            .tenant("acme")
            .id("r-1")
            .priority(Priority::Bulk)
            .delay(Duration::from_secs(1))
            .deadline(Duration::from_secs(2))
            .max_attempts(4)
            .reply_to("mail")
            .output(Output::Stored { ttl: Duration::from_secs(5) })
            .reply_ttl(Duration::from_secs(6))
            .retain(Duration::from_secs(7))
            .meta("order", "1")
            .meta("shop", "2")
            .traceparent("00-0123456789abcdef0123456789abcdef-0123456789abcdef-01")
            .options(Map::new())
            .option("scale", 0.5)
            .asset("img/logo.png", *b"\x89PNG")
            .asset("a.css", "p{}")
            .element()
            .unwrap();
        assert_eq!(element.priority(), Priority::Bulk);
        let job = job::parse(element.bytes(), element.priority(), String::new).unwrap();
        assert_eq!(job.name, *element.name());
        assert_eq!(job.name.to_string(), "acme/r-1");
        assert_eq!(job.delay, Duration::from_secs(1));
        assert_eq!(job.deadline, Some(Duration::from_secs(2)));
        assert_eq!(job.max_attempts, 4);
        assert_eq!(job.reply_to.as_deref(), Some("mail"));
        assert_eq!(job.output, Output::Stored { ttl: Duration::from_secs(5) });
        assert_eq!(job.reply_ttl, Duration::from_secs(6));
        assert_eq!(job.retain, Duration::from_secs(7));
        assert_eq!(job.meta["order"], "1");
        assert_eq!(job.meta["shop"], "2");
        assert!(job.traceparent.is_some());
        assert!((job.options.scale - 0.5).abs() < f64::EPSILON);
        assert_eq!(job.html, "<p>x");
        assert_eq!(job.assets[0].name, "img/logo.png");
        assert_eq!(job.assets[0].bytes, b"\x89PNG".as_slice());
        assert_eq!(job.assets[1].media_type, "text/css");
    }

    #[test]
    fn every_element_has_a_name_of_its_own() {
        let one = Receipt::new("<p>x").element().unwrap();
        let two = Receipt::new("<p>x").element().unwrap();
        assert_eq!(one.name().tenant(), "default");
        assert_ne!(one.name(), two.name());
        for output in [Output::Reply { base64: false }, Output::Reply { base64: true }] {
            let element = Receipt::new("<p>x").output(output).element().unwrap();
            let job = job::parse(element.bytes(), element.priority(), String::new).unwrap();
            assert_eq!(job.output, output);
        }
    }

    #[test]
    fn what_a_worker_would_refuse_is_refused_here() {
        for (receipt, code) in [
            (Receipt::new(" "), "empty_document"),
            (Receipt::new("<p>x").id("a/b"), "invalid_field"),
            (Receipt::new("<p>x").tenant(""), "invalid_field"),
            (Receipt::new("<p>x").asset("../a.png", "x"), "asset_name"),
            (Receipt::new("x".repeat(job::MAX_ELEMENT_BYTES)), "element_too_large"),
            (
                Receipt::new("<p>x").reply_to("m").output(Output::Reply { base64: false }),
                "conflicting_fields",
            ),
        ] {
            assert_eq!(receipt.element().unwrap_err().code, code);
        }
    }
}
