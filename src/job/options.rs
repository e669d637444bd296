//! The print options of a job. Pure.

use std::time::Duration;

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::fields::{Fields, Problem};
use super::length::{Height, Length, MAX_POINTS, Margins, Paper};
use super::script::{self, Script};

/// The render time of a job that does not ask for another.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest render time that can be asked for; a worker may allow less.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(600);

/// Which style sheets apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// `@media print`.
    Print,
    /// `@media screen`.
    Screen,
}

/// What the PDF says about itself.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Info {
    /// Instead of the document's `<title>`.
    pub title: Option<String>,
    /// Who issued it.
    pub author: Option<String>,
    /// What it is about.
    pub subject: Option<String>,
    /// Words to find it by.
    pub keywords: Option<String>,
    /// The PDF's only date; the time of admission where none is given.
    pub date: Option<OffsetDateTime>,
}

/// How a document is printed: the header's `options`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct RenderOptions {
    /// The sheet; the document's `@page size` or A4 where none is given.
    pub paper: Option<Paper>,
    /// The margins; the document's, or a default by kind of paper, where none are given.
    pub margin: Option<Margins>,
    /// Turn the sheet by a quarter.
    pub landscape: bool,
    /// Magnification, 0.1 to 2.
    pub scale: f64,
    /// Print background colours and images.
    pub background: bool,
    /// Only these pages, as Chromium reads it (`1-3,5`); all where empty.
    pub pages: String,
    /// Which style sheets apply.
    pub media: Media,
    /// HTML of the running header.
    pub header: Option<String>,
    /// HTML of the running footer.
    pub footer: Option<String>,
    /// The PDF's own description.
    pub info: Info,
    /// Accessibility tags.
    pub tagged: bool,
    /// An outline from the headings.
    pub outline: bool,
    /// The document's scripts run; off where there is none.
    pub script: Option<Script>,
    /// How long the render may take.
    pub timeout: Duration,
}

impl Default for RenderOptions {
    fn default() -> Self {
        Self {
            paper: None,
            margin: None,
            landscape: false,
            scale: 1.0,
            background: true,
            pages: String::new(),
            media: Media::Print,
            header: None,
            footer: None,
            info: Info::default(),
            tagged: false,
            outline: false,
            script: None,
            timeout: DEFAULT_TIMEOUT,
        }
    }
}

const KNOWN: &[&str] = &[
    "paper",
    "margin",
    "landscape",
    "scale",
    "background",
    "pages",
    "media",
    "header",
    "footer",
    "fit",
    "script",
    "wait_for",
    "strict",
    "expect",
    "info",
    "tagged",
    "outline",
    "timeout_ms",
];

/// Names that users of other renderers would try, with ours.
const FOREIGN: &[(&str, &str)] = &[
    ("format", "paper"),
    ("size", "paper"),
    ("width", "paper with width and height"),
    ("height", "paper with width and height"),
    ("paperWidth", "paper with width and height"),
    ("paperHeight", "paper with width and height"),
    ("printBackground", "background"),
    ("pageRanges", "pages"),
    ("nativePageRanges", "pages"),
    ("marginTop", "margin.top"),
    ("marginRight", "margin.right"),
    ("marginBottom", "margin.bottom"),
    ("marginLeft", "margin.left"),
    ("margins", "margin"),
    ("headerTemplate", "header"),
    ("footerTemplate", "footer"),
    ("displayHeaderFooter", "header and footer (giving one turns it on)"),
    ("preferCSSPageSize", "nothing: leave paper out and the document's @page size is used"),
    ("emulatedMediaType", "media"),
    ("timeout", "timeout_ms"),
    ("title", "info.title"),
    ("generateTaggedPDF", "tagged"),
    ("generateTaggedPdf", "tagged"),
    ("generateDocumentOutline", "outline"),
    ("javascript", "script"),
    ("waitFor", "wait_for"),
    ("waitForSelector", "wait_for"),
    ("waitForExpression", "wait_for"),
    ("waitDelay", "wait_for"),
];

/// Reads the `options` object.
///
/// # Errors
/// The first field that is unknown, of the wrong kind, out of range, or not supported yet.
pub fn parse(object: &Map<String, Value>) -> Result<RenderOptions, Problem> {
    let fields = Fields::new("options", object);
    fields.only(KNOWN, FOREIGN)?;
    refuse_unsupported(&fields)?;
    let mut options = RenderOptions::default();
    if let Some(value) = fields.value("paper") {
        options.paper = Some(paper(&fields, value)?);
    }
    if let Some(value) = fields.value("margin") {
        options.margin = Some(margins(&fields, value)?);
    }
    if let Some(landscape) = fields.bool("landscape")? {
        options.landscape = landscape;
    }
    if let Some(scale) = fields.number("scale", 0.1, 2.0)? {
        options.scale = scale;
    }
    if let Some(background) = fields.bool("background")? {
        options.background = background;
    }
    if let Some(pages) = fields.string("pages", 256)? {
        options.pages = page_ranges(&fields, &pages)?;
    }
    if let Some(media) = fields.one_of("media", &["print", "screen"])? {
        options.media = if media == "screen" { Media::Screen } else { Media::Print };
    }
    options.header = fields.string("header", 32 * 1024)?;
    options.footer = fields.string("footer", 32 * 1024)?;
    if let Some(object) = fields.object("info")? {
        options.info = info(object)?;
    }
    options.tagged = fields.bool("tagged")?.unwrap_or(false);
    options.outline = fields.bool("outline")?.unwrap_or(false);
    options.script = script::parse(&fields)?;
    if let Some(ms) = fields.integer("timeout_ms", 1, millis(MAX_TIMEOUT))? {
        options.timeout = Duration::from_millis(ms);
    }
    consistent(&fields, &options)?;
    Ok(options)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What a later release brings is refused, never ignored: a job that asked for
/// a check must not be told "done" without it. The values that mean "off" pass.
fn refuse_unsupported(fields: &Fields<'_>) -> Result<(), Problem> {
    if fields.bool("strict")? == Some(true) {
        return Err(fields.unsupported("strict", "leave it out"));
    }
    if let Some(fit) = fields.one_of("fit", &["warn", "shrink", "fail"])?
        && fit != "warn"
    {
        return Err(fields.unsupported("fit", "leave it out, or use `scale`"));
    }
    if fields.value("expect").is_some() {
        return Err(fields.unsupported("expect", "leave it out and check the PDF yourself"));
    }
    Ok(())
}

fn paper(fields: &Fields<'_>, value: &Value) -> Result<Paper, Problem> {
    let remedy = "use one of 80mm, 58mm, A4, A5, A6, Letter, Legal, \
                  or {\"width\":\"80mm\",\"height\":\"auto\"} with mm, cm, in, px or pt";
    let paper = match value {
        Value::String(name) => Paper::named(name)
            .ok_or_else(|| fields.invalid("paper", value, "is no known paper", remedy))?,
        Value::Object(object) => {
            let inner = Fields::new("options.paper", object);
            inner.only(&["width", "height"], &[])?;
            let width = inner.length("width")?.ok_or_else(|| inner.missing("width", remedy))?;
            let height = match object.get("height") {
                Some(Value::String(text)) if text == "auto" => Height::Auto,
                Some(_) => Height::Fixed(
                    inner.length("height")?.ok_or_else(|| inner.missing("height", remedy))?,
                ),
                None => {
                    return Err(inner.missing("height", "give a length, or \"auto\" for a roll"));
                }
            };
            Paper { width, height }
        }
        _ => return Err(fields.invalid("paper", value, "is neither a name nor an object", remedy)),
    };
    let side_ok = |side: Length| (10.0..=MAX_POINTS).contains(&side.points());
    let height_ok = match paper.height {
        Height::Auto => true,
        Height::Fixed(height) => side_ok(height),
    };
    if !side_ok(paper.width) || !height_ok {
        return Err(fields.invalid(
            "paper",
            value,
            "is smaller than 10pt or larger than 14400pt (200in, the limit of the PDF format)",
            "give sides between 10pt and 14400pt",
        ));
    }
    Ok(paper)
}

fn margins(fields: &Fields<'_>, value: &Value) -> Result<Margins, Problem> {
    match value {
        Value::String(_) => Ok(Margins::all(fields.length("margin")?.unwrap_or(Length::ZERO))),
        Value::Object(object) => {
            let inner = Fields::new("options.margin", object);
            inner.only(&["top", "right", "bottom", "left"], &[])?;
            let side = |name| Ok::<_, Problem>(inner.length(name)?.unwrap_or(Length::ZERO));
            Ok(Margins {
                top: side("top")?,
                right: side("right")?,
                bottom: side("bottom")?,
                left: side("left")?,
            })
        }
        _ => Err(fields.invalid(
            "margin",
            value,
            "is neither a length nor an object",
            "use \"5mm\" or {\"top\":\"5mm\",\"right\":…,\"bottom\":…,\"left\":…}",
        )),
    }
}

/// Checks `1-3,5` and writes it without spaces, as Chromium wants it.
fn page_ranges(fields: &Fields<'_>, text: &str) -> Result<String, Problem> {
    let range_ok = |part: &str| {
        let page = |t: &str| t.parse::<u32>().ok().filter(|n| (1..=100_000).contains(n));
        match part.split_once('-') {
            None => page(part).is_some(),
            Some((from, "")) => page(from).is_some(),
            Some((from, to)) => matches!((page(from), page(to)), (Some(a), Some(b)) if a <= b),
        }
    };
    let tidy: String = text.chars().filter(|c| *c != ' ').collect();
    if tidy.is_empty() || !tidy.split(',').all(range_ok) {
        return Err(fields.invalid(
            "pages",
            &Value::String(text.to_owned()),
            "is no list of pages",
            "write pages and ranges from 1 on, like \"1-3,5\" or \"2-\"",
        ));
    }
    Ok(tidy)
}

fn info(object: &Map<String, Value>) -> Result<Info, Problem> {
    let fields = Fields::new("options.info", object);
    fields
        .only(&["title", "author", "subject", "keywords", "date"], &[("creationDate", "date")])?;
    let date = match fields.string("date", 64)? {
        None => None,
        Some(text) => Some(OffsetDateTime::parse(&text, &Rfc3339).map_err(|_| {
            fields.invalid(
                "date",
                &Value::String(text),
                "is no date of RFC 3339",
                "write it like 2026-03-31T12:00:00Z",
            )
        })?),
    };
    Ok(Info {
        title: fields.string("title", 1024)?,
        author: fields.string("author", 1024)?,
        subject: fields.string("subject", 1024)?,
        keywords: fields.string("keywords", 1024)?,
        date,
    })
}

/// What each field allows but no two of them together.
fn consistent(fields: &Fields<'_>, options: &RenderOptions) -> Result<(), Problem> {
    if options.outline && !options.tagged {
        return Err(fields.conflict(
            "outline",
            "needs the accessibility tags that it is made from",
            "give \"tagged\": true as well",
        ));
    }
    let Some(paper) = options.paper else { return Ok(()) };
    if paper.is_roll() {
        for (name, used) in [
            ("landscape", options.landscape),
            ("pages", !options.pages.is_empty()),
            ("header", options.header.is_some()),
            ("footer", options.footer.is_some()),
        ] {
            if used {
                return Err(fields.conflict(
                    name,
                    "does not go with a roll, which is one page as high as its content",
                    "leave it out, or give a paper with a fixed height",
                ));
            }
        }
    }
    if let Some(margin) = options.margin {
        let across = margin.left.points() + margin.right.points();
        let down = margin.top.points() + margin.bottom.points();
        let (width, height) = match (paper.height, options.landscape) {
            (Height::Auto, _) => (paper.width.points(), MAX_POINTS),
            (Height::Fixed(height), false) => (paper.width.points(), height.points()),
            (Height::Fixed(height), true) => (height.points(), paper.width.points()),
        };
        if across >= width || down >= height {
            return Err(fields.conflict(
                "margin",
                "leaves no room for content on this paper",
                "give smaller margins or a larger paper",
            ));
        }
    }
    Ok(())
}
