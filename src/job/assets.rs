//! What a job brings along: images, fonts, style sheets, scripts and their data. Pure.
//!
//! ```text
//! {"assets":[{"name":"logo.png","length":5120},…]}\n<html>…‖logo.png's bytes‖…     framed
//! {"html":"<html>…","assets":[{"name":"logo.png","data":"iVBORw0…"},…]}            JSON-only
//! ```
//!
//! In the framed form the bytes follow the document in the order of the list;
//! the document is what is left. So a wrong length shifts everything after it,
//! and is found out where the document is no UTF-8 any more, or gone.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::Value;

use super::fields::{Fields, Problem};

/// The most assets of one job.
pub const MAX_ASSETS: usize = 64;
/// The longest name, in bytes.
const MAX_NAME_BYTES: usize = 200;

/// Endings of names, and the media types that they stand for.
const TYPES: &[(&str, &str)] = &[
    ("png", "image/png"),
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("gif", "image/gif"),
    ("webp", "image/webp"),
    ("svg", "image/svg+xml"),
    ("avif", "image/avif"),
    ("woff", "font/woff"),
    ("woff2", "font/woff2"),
    ("ttf", "font/ttf"),
    ("otf", "font/otf"),
    ("css", "text/css"),
    ("js", "text/javascript"),
    ("mjs", "text/javascript"),
    ("json", "application/json"),
];

/// One asset: a document finds it under its name, as a relative URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asset {
    /// A relative path without `.` and `..`.
    pub name: String,
    /// One of a few media types.
    pub media_type: &'static str,
    /// Its content.
    pub bytes: Bytes,
}

/// The media type that a name's ending stands for.
#[must_use]
pub fn media_type_of(name: &str) -> Option<&'static str> {
    let (_, ending) = name.rsplit_once('.')?;
    TYPES.iter().find(|(known, _)| ending.eq_ignore_ascii_case(known)).map(|(_, media)| *media)
}

/// Whether `name` is a relative path of plain names: characters of
/// `A-Z a-z 0-9 . _ - /`, no empty part, no `.` and no `..`.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let plain = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    name.len() <= MAX_NAME_BYTES && name.split('/').all(plain)
}

/// Reads the list `assets` and takes its assets from the end of `rest`, what
/// follows the header line. Gives the document that is left, and the assets.
///
/// # Errors
/// The first thing that is wrong with the list or with a length.
pub(super) fn take<'a>(
    fields: &Fields<'_>,
    rest: Option<&'a [u8]>,
) -> Result<(Option<&'a [u8]>, Vec<Asset>), Problem> {
    let Some(value) = fields.value("assets") else { return Ok((rest, Vec::new())) };
    if rest.is_some() && fields.value("html").is_some() {
        // Two documents: the caller says so.
        return Ok((rest, Vec::new()));
    }
    let Value::Array(list) = value else {
        let remedy = "write [{\"name\":\"logo.png\",\"length\":5120}]";
        return Err(fields.invalid("assets", value, "is no list", remedy));
    };
    if list.len() > MAX_ASSETS {
        return Err(Problem::new(
            "too_many_assets",
            format!("the job has {} assets, {MAX_ASSETS} are allowed", list.len()),
            "leave out what the document does not use, or put several into one style sheet",
        ));
    }
    let mut listed: Vec<Listed> = Vec::with_capacity(list.len());
    for (index, value) in list.iter().enumerate() {
        let one = listed_at(index, value, rest.is_some())?;
        if listed.iter().any(|other| other.name == one.name) {
            return Err(Problem::new(
                "asset_name",
                format!("there are two assets called {}", one.name),
                "give every asset a name of its own",
            ));
        }
        listed.push(one);
    }
    cut(rest, listed)
}

/// One entry of the list, before its bytes are there.
struct Listed {
    name: String,
    media_type: &'static str,
    content: Content,
}

enum Content {
    Length(usize),
    Bytes(Bytes),
}

fn listed_at(index: usize, value: &Value, framed: bool) -> Result<Listed, Problem> {
    let place = format!("assets[{index}]");
    let Value::Object(object) = value else {
        return Err(Problem::new(
            "invalid_field",
            format!("field `{place}` is no object"),
            "write {\"name\":\"logo.png\",\"length\":5120}",
        ));
    };
    let fields = Fields::new(&place, object);
    fields.only(
        &["name", "type", "length", "data"],
        &[
            ("url", "name"),
            ("path", "name"),
            ("filename", "name"),
            ("mime", "type"),
            ("content_type", "type"),
            ("contentType", "type"),
            ("media_type", "type"),
            ("size", "length"),
            ("bytes", "length"),
            ("content", "data"),
            ("base64", "data"),
        ],
    )?;
    let name = name(&fields)?;
    let media_type = media_type(&fields, &name)?;
    let content = if framed { length(&fields)? } else { data(&fields, &name)? };
    Ok(Listed { name, media_type, content })
}

fn name(fields: &Fields<'_>) -> Result<String, Problem> {
    let remedy = "give the path that the document uses, without a leading slash, of \
                  A-Z a-z 0-9 . _ - and /, like \"img/logo.png\"";
    let Some(name) = fields.string("name", MAX_NAME_BYTES)? else {
        return Err(fields.missing("name", remedy));
    };
    if is_name(&name) {
        return Ok(name);
    }
    let why = "is no relative path of plain names";
    Err(Problem { code: "asset_name", ..fields.invalid("name", &Value::from(name), why, remedy) })
}

fn media_type(fields: &Fields<'_>, name: &str) -> Result<&'static str, Problem> {
    let known = || {
        let mut known: Vec<&str> = TYPES.iter().map(|(_, media)| *media).collect();
        known.dedup();
        format!("use one of: {}; convert other formats first", known.join(", "))
    };
    let Some(text) = fields.string("type", 128)? else {
        return media_type_of(name).ok_or_else(|| Problem {
            code: "asset_type",
            ..fields.missing("type", &format!("{name} does not end in a known type; {}", known()))
        });
    };
    let bare = text.split(';').next().unwrap_or_default().trim();
    let found = TYPES.iter().find(|(_, media)| bare.eq_ignore_ascii_case(media));
    found.map(|(_, media)| *media).ok_or_else(|| Problem {
        code: "asset_type",
        ..fields.invalid("type", &Value::from(text.as_str()), "is not served", &known())
    })
}

fn length(fields: &Fields<'_>) -> Result<Content, Problem> {
    if fields.value("data").is_some() {
        return Err(fields.conflict(
            "data",
            "does not go with a document after the header line",
            "put the asset's bytes after the document and give `length`",
        ));
    }
    let most = u64::try_from(super::MAX_ELEMENT_BYTES).unwrap_or(u64::MAX);
    match fields.integer("length", 1, most)? {
        Some(length) => Ok(Content::Length(usize::try_from(length).unwrap_or(usize::MAX))),
        None => Err(fields.missing("length", "give the number of the asset's bytes")),
    }
}

fn data(fields: &Fields<'_>, name: &str) -> Result<Content, Problem> {
    let remedy = "give the asset's bytes in `data`, in base64";
    let text = match fields.value("data") {
        Some(Value::String(text)) => text,
        Some(other) => return Err(fields.invalid("data", other, "is no text", remedy)),
        None => return Err(fields.missing("data", remedy)),
    };
    let bytes = STANDARD.decode(text).map_err(|error| {
        Problem::new(
            "asset_data",
            format!("the `data` of asset {name} is no base64: {error}"),
            "encode it in standard base64 with padding, without line breaks",
        )
    })?;
    let said = fields.integer("length", 1, u64::MAX)?;
    if bytes.is_empty() || said.is_some_and(|said| usize::try_from(said) != Ok(bytes.len())) {
        return Err(Problem::new(
            "asset_length",
            format!("asset {name} has {} bytes", bytes.len()),
            "give its true `length`, or leave it out; an asset has at least one byte",
        ));
    }
    Ok(Content::Bytes(bytes.into()))
}

/// Cuts the assets off the end of what follows the header line.
fn cut(rest: Option<&[u8]>, listed: Vec<Listed>) -> Result<(Option<&[u8]>, Vec<Asset>), Problem> {
    let told: usize = listed.iter().fold(0, |sum, one| match one.content {
        Content::Length(length) => sum.saturating_add(length),
        Content::Bytes(_) => sum,
    });
    let there = rest.map_or(0, <[u8]>::len);
    let Some(document) = there.checked_sub(told) else {
        return Err(Problem::new(
            "asset_length",
            format!("the assets are said to have {told} bytes, but {there} follow the header line"),
            "put the assets' bytes after the document, in the order of the list, and count bytes \
             rather than characters",
        ));
    };
    let mut at = document;
    let mut assets = Vec::with_capacity(listed.len());
    for Listed { name, media_type, content } in listed {
        let bytes = match content {
            Content::Bytes(bytes) => bytes,
            Content::Length(length) => {
                let found = rest.and_then(|rest| rest.get(at..at + length)).unwrap_or_default();
                at += length;
                Bytes::copy_from_slice(found)
            }
        };
        assets.push(Asset { name, media_type, bytes });
    }
    let document = rest.and_then(|rest| rest.get(..document)).filter(|html| !html.is_empty());
    Ok((document, assets))
}

#[cfg(test)]
#[path = "assets_tests.rs"]
mod tests;
