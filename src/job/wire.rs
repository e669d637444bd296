//! The wire format: one element of an inbox, read and checked.
//!
//! ```text
//! {"id":"r-1042","tenant":"acme","options":{…}}\n<html>…      framed: header line, document,
//!                                                             bytes of its assets
//! {"id":"r-1042","tenant":"acme","html":"<html>…"}            JSON-only: no newline but at the end
//! ```
//!
//! Nothing is guessed: a byte order mark, a pretty-printed header, both
//! documents or none are refused, each with its own code. What could be read of
//! the job's name travels with a [`Rejection`], so that its producer gets an
//! answer.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::fields::{Fields, Problem};
use super::{
    Job, MAX_ELEMENT_BYTES, MAX_HEADER_BYTES, MAX_JSON_ONLY_BYTES, Name, Output, Priority, assets,
    options,
};

/// The wire version that this release speaks.
pub const VERSION: u64 = 1;

const DAY_MS: u64 = 86_400_000;
const MAX_TTL_MS: u64 = 30 * DAY_MS;
const DEFAULT_REPLY_TTL_MS: u64 = 600_000;

const KNOWN: &[&str] = &[
    "v",
    "id",
    "tenant",
    "priority",
    "delay_ms",
    "deadline_ms",
    "max_attempts",
    "output",
    "reply_to",
    "reply_ttl_ms",
    "retain_ms",
    "assets",
    "options",
    "meta",
    "traceparent",
    "html",
];

const FOREIGN: &[(&str, &str)] = &[
    ("version", "v"),
    ("job_id", "id"),
    ("jobId", "id"),
    ("key", "id"),
    ("queue", "nothing: the queue is part of the key that you push to"),
    ("delay", "delay_ms"),
    ("deadline", "deadline_ms"),
    ("timeout", "options.timeout_ms"),
    ("timeout_ms", "options.timeout_ms"),
    ("attempts", "max_attempts"),
    ("retries", "max_attempts (attempts, the first included)"),
    ("body", "html"),
    ("content", "html"),
    ("document", "html"),
    ("callback", "reply_to"),
    ("replyTo", "reply_to"),
    ("metadata", "meta"),
    ("data", "meta"),
    ("ttl", "reply_ttl_ms"),
    ("paper", "options.paper"),
    ("margin", "options.margin"),
    ("format", "options.paper"),
    ("printBackground", "options.background"),
    ("pageRanges", "options.pages"),
    ("landscape", "options.landscape"),
];

/// Why an element was not admitted, and whose it was as far as that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The job's name where tenant and id are readable and valid.
    pub name: Option<Name>,
    /// Where its producer asked for replies.
    pub reply_to: Option<String>,
    /// What is wrong.
    pub problem: Problem,
}

/// Reads one element. `fallback_id` makes an id for a job that has none;
/// `inbox` is the priority of the inbox it came through.
///
/// # Errors
/// The first thing that is wrong, and whose job it was.
pub fn parse(
    element: &[u8],
    inbox: Priority,
    fallback_id: impl FnOnce() -> String,
) -> Result<Job, Box<Rejection>> {
    let (header, document) = split(element);
    if let Err(problem) = within_size(element) {
        return Err(Box::new(Rejection { problem, ..salvage(header) }));
    }
    let object = match header_object(header) {
        Ok(object) => object,
        Err(problem) => return Err(Box::new(Rejection { problem, ..salvage(header) })),
    };
    let fields = Fields::new("", &object);
    job(&fields, document, element, inbox, fallback_id).map_err(|problem| {
        Box::new(Rejection {
            name: name_of(&fields).ok().flatten(),
            reply_to: fields.token("reply_to", 128).ok().flatten(),
            problem,
        })
    })
}

fn within_size(element: &[u8]) -> Result<(), Problem> {
    if element.len() <= MAX_ELEMENT_BYTES {
        return Ok(());
    }
    Err(Problem::new(
        "element_too_large",
        format!("the element has {} bytes", element.len()),
        format!(
            "push at most {MAX_ELEMENT_BYTES} bytes; shrink inline images or split the document"
        ),
    ))
}

/// Splits the header line from the document; the JSON-only form has none.
fn split(element: &[u8]) -> (&[u8], Option<&[u8]>) {
    let newline = element.iter().position(|byte| *byte == b'\n');
    let (header, rest) = match newline {
        Some(at) => (&element[..at], &element[at + 1..]),
        None => (element, &element[element.len()..]),
    };
    let header = header.strip_suffix(b"\r").unwrap_or(header);
    (header, (!rest.is_empty()).then_some(rest))
}

fn header_object(header: &[u8]) -> Result<Map<String, Value>, Problem> {
    let malformed =
        |message: String, remedy: &str| Problem::new("malformed_header", message, remedy);
    let shape = "start the element with the header, a JSON object on one line";
    match header.first() {
        None => return Err(malformed("the element has no header line".to_owned(), shape)),
        Some(b'{') => {}
        Some(0xEF) if header.starts_with(b"\xEF\xBB\xBF") => {
            return Err(malformed(
                "the element starts with a byte order mark".to_owned(),
                "encode as UTF-8 without a BOM",
            ));
        }
        Some(0xFE | 0xFF) => {
            return Err(malformed(
                "the element looks like UTF-16".to_owned(),
                "encode it as UTF-8",
            ));
        }
        Some(byte) => {
            return Err(malformed(
                format!("the element starts with {:?} where a header should", char::from(*byte)),
                shape,
            ));
        }
    }
    let limit = if header_is_whole_job(header) { MAX_JSON_ONLY_BYTES } else { MAX_HEADER_BYTES };
    if header.len() > limit {
        return Err(Problem::new(
            "header_too_large",
            format!("the header line has {} bytes, {limit} are allowed", header.len()),
            "push the document after the header line, not inside it, and keep meta small",
        ));
    }
    match serde_json::from_slice::<Value>(header) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(malformed("the header is no JSON object".to_owned(), shape)),
        Err(error) if error.is_eof() && header.len() < 4096 => Err(malformed(
            "the header line ends in the middle of its JSON".to_owned(),
            "write the header on one line: no pretty-printing, no newline before its closing brace",
        )),
        Err(error) => Err(malformed(
            format!("the header is no valid JSON (column {})", error.column()),
            "encode it with a JSON library, as UTF-8",
        )),
    }
}

/// The JSON-only form carries its document in the header and may be larger.
fn header_is_whole_job(header: &[u8]) -> bool {
    header.len() > MAX_HEADER_BYTES && header.windows(7).any(|window| window == b"\"html\":")
}

/// What can be read of a header that is no JSON: enough to answer its producer.
///
/// A pretty-printed header is cut at its first newline; nothing of it is used.
fn salvage(header: &[u8]) -> Rejection {
    let text = String::from_utf8_lossy(&header[..header.len().min(MAX_HEADER_BYTES)]);
    let find = |key: &str, longest| {
        let (_, after) = text.split_once(&format!("\"{key}\""))?;
        let value = after.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
        let (value, _) = value.split_once('"')?;
        super::is_token(value, longest).then(|| value.to_owned())
    };
    let name = find("id", 128)
        .map(|id| Name::from_parts(find("tenant", 64).unwrap_or_else(|| "default".to_owned()), id));
    Rejection { name, reply_to: find("reply_to", 128), problem: Problem::new("", "", "") }
}

fn name_of(fields: &Fields<'_>) -> Result<Option<Name>, Problem> {
    let tenant = fields.token("tenant", 64)?.unwrap_or_else(|| "default".to_owned());
    Ok(fields.token("id", 128)?.map(|id| Name::from_parts(tenant, id)))
}

fn job(
    fields: &Fields<'_>,
    document: Option<&[u8]>,
    element: &[u8],
    inbox: Priority,
    fallback_id: impl FnOnce() -> String,
) -> Result<Job, Problem> {
    fields.only(KNOWN, FOREIGN)?;
    if let Some(value) = fields.value("v")
        && value.as_u64() != Some(VERSION)
    {
        return Err(fields.invalid("v", value, "is no version that this worker speaks", "use 1"));
    }
    let name = match name_of(fields)? {
        Some(name) => name,
        None => Name::from_parts(
            fields.token("tenant", 64)?.unwrap_or_else(|| "default".to_owned()),
            fallback_id(),
        ),
    };
    let priority = match fields.one_of("priority", &["interactive", "bulk"])? {
        Some(word) => Priority::from_name(word).unwrap_or(inbox),
        None => inbox,
    };
    let reply_to = fields.token("reply_to", 128)?;
    let (document, assets) = assets::take(fields, document)?;
    let html = html(fields, document)?;
    let delay = duration(fields, "delay_ms", 0, MAX_TTL_MS)?.unwrap_or_default();
    let deadline = duration(fields, "deadline_ms", 1, MAX_TTL_MS)?;
    if deadline.is_some_and(|deadline| deadline <= delay) {
        return Err(fields.conflict(
            "deadline_ms",
            "is over before delay_ms lets the job start",
            "both count from admission: give a longer deadline_ms",
        ));
    }
    Ok(Job {
        name,
        priority,
        delay,
        deadline,
        max_attempts: fields
            .integer("max_attempts", 1, 100)?
            .and_then(|number| u32::try_from(number).ok())
            .unwrap_or(3),
        output: output(fields, reply_to.is_some())?,
        reply_to,
        reply_ttl: duration(fields, "reply_ttl_ms", 1000, MAX_TTL_MS)?
            .unwrap_or(Duration::from_millis(DEFAULT_REPLY_TTL_MS)),
        retain: duration(fields, "retain_ms", 0, MAX_TTL_MS)?
            .unwrap_or(Duration::from_millis(DAY_MS)),
        meta: meta(fields)?,
        traceparent: traceparent(fields)?,
        options: match fields.object("options")? {
            Some(object) => options::parse(object)?,
            None => options::RenderOptions::default(),
        },
        html,
        assets,
        digest: digest(element),
    })
}

/// SHA-256 of the element, in hexadecimal.
fn digest(element: &[u8]) -> String {
    Sha256::digest(element).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing into a String cannot fail.
        if write!(text, "{byte:02x}").is_err() {
            text.clear();
        }
        text
    })
}

fn duration(
    fields: &Fields<'_>,
    name: &str,
    least: u64,
    most: u64,
) -> Result<Option<Duration>, Problem> {
    Ok(fields.integer(name, least, most)?.map(Duration::from_millis))
}

fn html(fields: &Fields<'_>, document: Option<&[u8]>) -> Result<String, Problem> {
    let inline = match fields.value("html") {
        None => None,
        Some(Value::String(text)) => Some(text.clone()),
        // It is not shown: it is a document, however wrong.
        Some(_) => {
            return Err(Problem::new(
                "invalid_field",
                "field `html` is no text",
                "put the document in quotes",
            ));
        }
    };
    let html = match (inline, document) {
        (Some(_), Some(_)) => {
            return Err(Problem::new(
                "two_documents",
                "there is a document in the field `html` and another one after the header line",
                "send one of them",
            ));
        }
        (None, None) => {
            return Err(Problem::new(
                "no_document",
                "there is no document",
                "put it after the header line (a newline between them), or into the field `html`",
            ));
        }
        (Some(text), None) => text,
        (None, Some(bytes)) => utf8(bytes)?,
    };
    if html.trim().is_empty() {
        return Err(Problem::new(
            "empty_document",
            "the document is empty",
            "send the receipt's HTML",
        ));
    }
    if html.contains('\0') {
        return Err(Problem::new(
            "invalid_document",
            "the document contains a NUL character",
            "send plain UTF-8 text; a UTF-16 document must be converted first",
        ));
    }
    Ok(html)
}

fn utf8(bytes: &[u8]) -> Result<String, Problem> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => Err(Problem::new(
            "invalid_document",
            format!("the document is no valid UTF-8 (byte {})", error.valid_up_to()),
            "encode the document as UTF-8",
        )),
    }
}

fn output(fields: &Fields<'_>, replies_elsewhere: bool) -> Result<Output, Problem> {
    let day = Duration::from_millis(DAY_MS);
    let Some(object) = fields.object("output")? else {
        return Ok(if replies_elsewhere {
            Output::Stored { ttl: day }
        } else {
            Output::Reply { base64: false }
        });
    };
    let inner = Fields::new("output", object);
    match inner.one_of("kind", &["reply", "stored", "object"])? {
        None => Err(inner.missing("kind", "use one of: reply, stored")),
        Some("object") => {
            Err(fields.unsupported("output", "use {\"kind\":\"stored\"} or {\"kind\":\"reply\"}"))
        }
        Some("stored") => {
            inner.only(&["kind", "ttl_ms"], &[("ttl", "ttl_ms")])?;
            Ok(Output::Stored { ttl: duration(&inner, "ttl_ms", 1000, MAX_TTL_MS)?.unwrap_or(day) })
        }
        Some(_) => {
            inner.only(&["kind", "encoding"], &[])?;
            if replies_elsewhere {
                return Err(fields.conflict(
                    "reply_to",
                    "does not go with an output into the reply: its list carries JSON lines only",
                    "use {\"kind\":\"stored\"}, or leave `output` out",
                ));
            }
            Ok(Output::Reply { base64: inner.one_of("encoding", &["base64"])?.is_some() })
        }
    }
}

fn meta(fields: &Fields<'_>) -> Result<Map<String, Value>, Problem> {
    let Some(object) = fields.object("meta")? else { return Ok(Map::new()) };
    let short = |key: &String, value: &Value| {
        key.len() <= 64 && value.as_str().is_some_and(|text| text.len() <= 256)
    };
    if object.len() > 16 || !object.iter().all(|(key, value)| short(key, value)) {
        return Err(fields.invalid(
            "meta",
            &Value::Object(object.clone()),
            "is too large or not made of texts",
            "give at most 16 texts of at most 256 bytes, under names of at most 64",
        ));
    }
    Ok(object.clone())
}

/// `00-<32 hex>-<16 hex>-<2 hex>`, as W3C Trace Context has it.
fn traceparent(fields: &Fields<'_>) -> Result<Option<String>, Problem> {
    let Some(text) = fields.string("traceparent", 55)? else { return Ok(None) };
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &str, length| {
        part.len() == length
            && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    match parts.as_slice() {
        ["00", trace, span, flags] if hex(trace, 32) && hex(span, 16) && hex(flags, 2) => {
            Ok(Some(text))
        }
        _ => Err(fields.invalid(
            "traceparent",
            &Value::String(text.clone()),
            "is no W3C trace context",
            "pass the header on as it is: 00-<32 hex digits>-<16 hex digits>-<2 hex digits>",
        )),
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
