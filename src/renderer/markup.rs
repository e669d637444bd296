//! What must be known about a document's markup before it is set. Pure.
//!
//! No question needs a parser; the answers err on the safe side. All of them
//! together are [`look`]: one pass over the bytes ([`scan()`]).

mod scan;

use std::borrow::Cow;

use scan::{Scan, scan, starts_with};

/// Directives that do nothing beyond their document (a language stays, and the page is
/// renewed after it: [`Look::leaves_traces`]).
const HARMLESS: [&[u8]; 3] = [b"content-type", b"content-language", b"x-ua-compatible"];
/// The attribute, and a name of the same length that means nothing.
const DIRECTIVE: &[u8] = b"http-equiv";
const DISARMED: &str = "data-equiv";

/// A document that is longer may fill any number of pages: of text alone, in a
/// column that is wide enough for one letter.
const LONG: usize = 64 * 1024;
/// A number from this on, before a unit, may be the length of a page bomb.
const FAR: u64 = 10_000;
/// A page is taken to have so many pixels, a line of text so many.
pub(crate) const PAGE_PIXELS: u64 = 1_000;
const LINE_PIXELS: u64 = 24;
/// One tag in so many is taken to be as high as the largest length; its unit has
/// four pixels at most, or is a hundredth of the page.
const HIGH_TAGS: u64 = 8;
const UNIT_PIXELS: u64 = 4;
/// [`FAR`] such units.
pub(crate) const WIDEST_PIXELS: f64 = 40_000.0;

/// What a document may load, be it from `data:` URLs, so that it must be waited for before
/// it is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Loads {
    Nothing,
    /// Images of `<img>`, which load whether or not the document is laid out.
    Images,
    /// Fonts, backgrounds and the like, which load when something needs them, or what is
    /// not known.
    Anything,
}

/// Whether a document may fill more pages than it may, as far as its markup tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tall {
    /// Hardly.
    No,
    /// By the height of its content.
    ByContent,
    /// By heights that follow that of the page, and are known only in a view as high.
    ByView,
}

/// What is found in a document's markup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    /// See [`loads`].
    pub(crate) loads: Loads,
    /// Whether it may look otherwise where it is laid out on paper only.
    pub(crate) is_peculiar: bool,
    /// See [`has_page_rules`].
    pub(crate) has_page_rules: bool,
    /// Whether the document leaves something in its page that replacing it does not
    /// take away, so that the next one would be printed otherwise (all seen): the
    /// colour of links from `<body link>`, the preferred set of style sheets from a
    /// `title` on one, the colour scheme and the language from a `<meta>`.
    pub(crate) leaves_traces: bool,
    /// Whether the document has what could lead its page away, scripts being off: frames,
    /// which could lead their parent, or a directive, should [`disarm`] have missed one.
    pub(crate) may_navigate: bool,
    /// Whether it may have frames.
    pub(crate) has_frames: bool,
    /// See [`tall`].
    pub(crate) tall: Tall,
    /// Start tags.
    pub(crate) tags: u64,
    /// Whether it has more tags than a PDF may have pages.
    pub(crate) many_tags: bool,
    /// See [`forces_breaks`].
    pub(crate) forces_breaks: bool,
}

impl Look {
    /// Whether its pages may have to be counted before it is printed.
    pub(crate) fn may_be_measured(self) -> bool {
        self.tall > Tall::No || (self.many_tags && self.forces_breaks)
    }
}

/// Everything that must be known before `html` is set, where a PDF may have `pages`
/// pages (0: any number).
#[must_use]
pub(crate) fn look(html: &str, pages: u64) -> Look {
    let scan = scan(html.as_bytes());
    Look {
        loads: loads(scan),
        is_peculiar: scan.peculiar,
        has_page_rules: scan.page_rules,
        leaves_traces: scan.traces,
        may_navigate: scan.frames || scan.directive,
        has_frames: scan.frames,
        tall: tall(html, scan, pages),
        tags: scan.tags,
        many_tags: pages > 0 && scan.tags > pages,
        forces_breaks: scan.breaks,
    }
}

/// Takes away what a `<meta http-equiv>` would do beyond its own document.
///
/// Documents of one tenant follow each other in the same page. A `refresh`
/// navigates that page away, at once (then printing fails) or seconds later,
/// under the next document; a `content-security-policy` stays in force for all
/// documents after it (both seen; scripts being off stops neither). So the
/// attribute gets another name, of the same length, unless its value is known
/// to be harmless. A value that is spelt with character references counts as
/// not harmless.
#[must_use]
pub(crate) fn disarm(html: &str) -> Cow<'_, str> {
    let mut out: Option<String> = None;
    let mut copied = 0;
    let bytes = html.as_bytes();
    for at in positions(bytes, DIRECTIVE) {
        if is_harmless(bytes.get(at + DIRECTIVE.len()..).unwrap_or_default()) {
            continue;
        }
        let text = out.get_or_insert_with(|| String::with_capacity(html.len()));
        text.push_str(html.get(copied..at).unwrap_or_default());
        text.push_str(DISARMED);
        copied = at + DIRECTIVE.len();
    }
    match out {
        None => Cow::Borrowed(html),
        Some(mut text) => {
            text.push_str(html.get(copied..).unwrap_or_default());
            Cow::Owned(text)
        }
    }
}

/// Whether the value behind the attribute's name is one of [`HARMLESS`].
fn is_harmless(rest: &[u8]) -> bool {
    let skip = |bytes: &mut &[u8]| {
        while let [first, tail @ ..] = *bytes
            && first.is_ascii_whitespace()
        {
            *bytes = tail;
        }
    };
    let mut rest = rest;
    skip(&mut rest);
    let Some(mut rest) = rest.strip_prefix(b"=") else { return false };
    skip(&mut rest);
    let quoted = match rest {
        [quote @ (b'"' | b'\''), tail @ ..] => {
            rest = tail;
            Some(*quote)
        }
        _ => None,
    };
    HARMLESS.iter().any(|value| {
        let Some((head, tail)) = rest.split_at_checked(value.len()) else { return false };
        let ends = match (quoted, tail.first()) {
            (Some(quote), Some(next)) => *next == quote,
            (None, Some(next)) => next.is_ascii_whitespace() || matches!(next, b'>' | b'/'),
            (_, None) => false,
        };
        ends && head.eq_ignore_ascii_case(value)
    })
}

/// Whether the document may load images, fonts, style sheets or frames.
#[must_use]
pub(crate) fn loads_anything(html: &str) -> bool {
    loads(scan(html.as_bytes())) > Loads::Nothing
}

fn loads(scan: Scan) -> Loads {
    match scan {
        Scan { loads: true, .. } | Scan { frames: true, .. } => Loads::Anything,
        Scan { images: true, .. } => Loads::Images,
        _ => Loads::Nothing,
    }
}

/// Whether the document has `@page` rules, or hides what it has.
#[must_use]
pub(crate) fn has_page_rules(html: &str) -> bool {
    scan(html.as_bytes()).page_rules
}

/// Whether the document may be higher than `pages` pages: a length of ten thousand
/// of whatever unit, more text than they hold, more lines, as many tags as fill them
/// with the largest length there is, or lengths that are calculated. What a person writes for a receipt is none of
/// that, and is not measured.
fn tall(html: &str, sizes: Scan, pages: u64) -> Tall {
    if pages == 0 {
        return Tall::No;
    }
    let high = sizes.tags / HIGH_TAGS + 1;
    if sizes.view.div_ceil(100).saturating_mul(high) > pages {
        return Tall::ByView;
    }
    let pixels = pages.saturating_mul(PAGE_PIXELS);
    let is_tall = sizes.length >= FAR
        || html.len() > LONG
        || sizes.length.saturating_mul(UNIT_PIXELS).saturating_mul(high) > pixels
        || sizes.tags.saturating_add(sizes.lines).saturating_mul(LINE_PIXELS) > pixels
        || sizes.calculated;
    if is_tall { Tall::ByContent } else { Tall::No }
}

/// Whether a document or style sheet may force page breaks.
#[must_use]
pub(crate) fn forces_breaks(text: &str) -> bool {
    scan(text.as_bytes()).breaks
}

/// Where `needle` stands in `bytes`, whatever its case.
fn positions<'a>(bytes: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let first = needle.first().copied().unwrap_or_default();
    bytes
        .iter()
        .enumerate()
        .filter(move |(_, byte)| byte.eq_ignore_ascii_case(&first))
        .map(|(at, _)| at)
        .filter(move |at| starts_with(bytes, *at, needle))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves_traces(html: &str) -> bool {
        look(html, 0).leaves_traces
    }

    #[test]
    fn what_holds_another_document_or_a_directive_may_lead_the_page_away() {
        for html in [
            "<p><IFRAME srcdoc=x>",
            "<frameset>",
            "<object data=x>",
            "<embed src=x>",
            "<meta http-equiv=Content-Type content='text/html'>",
        ] {
            assert!(look(html, 10).may_navigate, "{html}");
        }
        let plain =
            "<meta charset=utf-8><style>p{color:red}</style><p>iframe<img src=x><svg></svg>";
        assert!(!look(plain, 10).may_navigate);
    }

    #[test]
    fn a_refresh_and_a_policy_are_disarmed() {
        for html in [
            "<meta http-equiv=refresh content='0;url=x'>",
            "<META HTTP-EQUIV = \"Refresh\" content=1>",
            "<meta name='>' http-equiv='refresh'>",
            "<meta http-equiv='&#114;efresh'>",
            "<meta http-equiv=\"Content-Security-Policy\" content=\"img-src 'none'\">",
            "<meta http-equiv=content-type-not>",
            "<meta http-equiv",
        ] {
            let out = disarm(html);
            assert!(!out.to_ascii_lowercase().contains("http-equiv"), "{out}");
            assert_eq!(out.len(), html.len());
        }
    }

    #[test]
    fn what_would_stay_in_the_page_is_seen() {
        for html in [
            "<BODY text=red LINK=lime>",
            "<style title=a>p{}</style>",
            "<link rel=stylesheet media='>' Title=a href=x>",
            "<meta name=color-scheme content=dark>",
            "<meta name='&#99;olor-scheme' content=dark>",
            "<meta name=color-scheme",
            "<meta http-equiv=Content-Language content=ja>",
        ] {
            assert!(leaves_traces(html), "{html}");
        }
        let plain = "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport \
                     content='width=device-width'><title>link</title><style>a:link{color:red}\
                     </style><body class=receipt><a href=x title=y>link</a>";
        assert!(!leaves_traces(plain));
    }

    #[test]
    fn a_million_beginnings_take_no_time() {
        for mark in ["<meta ", "<meta ' ", "<link a=\"", "http-equiv ", "<body \n"] {
            let html = mark.repeat(8_000_000 / mark.len());
            let _ = (disarm(&html), look(&html, 1000));
        }
        // Just short enough to be looked through, over and over.
        let nested = format!("{}>", "<meta ".repeat(80)).repeat(16_000);
        assert!(leaves_traces(&nested));
        assert!(leaves_traces(&format!("<body style='{}'>", "x".repeat(scan::LONG_TAG))));
    }

    #[test]
    fn heights_beyond_reason_are_seen() {
        for html in [
            "height:10000000px".to_owned(),
            "padding:99999%".to_owned(),
            "x12345e9".to_owned(),
            "height:9e9px".to_owned(),
            "height:1E+7px".to_owned(),
            "height:calc(9px*9*9*9*9*9*9*9)".to_owned(),
            "<style>p{height:999px}</style>".to_owned() + &"<p>".repeat(2_100),
            "<style>p{height:100mm}</style>".to_owned() + &"<p>".repeat(20_100),
            "<pre>".to_owned() + &"\n".repeat(50_000),
            "x".repeat(LONG + 1),
        ] {
            assert_eq!(look(&html, 1_000).tall, Tall::ByContent, "{:.60}", html);
            assert_eq!(look(&html, 0).tall, Tall::No, "without a limit nothing is too much");
        }
        for html in ["9999999vh".to_owned(), "p{height:99dvh}".to_owned() + &"<p>".repeat(8_000)] {
            assert_eq!(look(&html, 1_000).tall, Tall::ByView, "{:.60}", html);
        }
        let receipt =
            "<style>@page{size:80mm 297mm}td{width:100%;height:100vh;font:700 11px x}</style>\n\
            Invoice 1234567890, 123456<b> of 2026-03-31T12:00:05Z"
                .to_owned();
        for html in [String::new(), "height:9999px".to_owned(), receipt + &"<td>1.00\n".repeat(300)]
        {
            assert_eq!(look(&html, 1_000).tall, Tall::No, "{:.60}", html);
        }
    }

    #[test]
    fn more_breaks_than_pages_are_possible_only_with_tags_and_rules() {
        let bomb = |rule: &str, tags| format!("<style>p{{{rule}}}</style>{}", "<p>x".repeat(tags));
        for rule in ["break-after:page", "page-break-before:always", "PAGE:a"] {
            let looked = look(&bomb(rule, 1_000), 1_000);
            assert!(looked.many_tags && looked.forces_breaks, "{rule}");
            assert!(
                !look(&bomb(rule, 900), 1_000).many_tags && !look(&bomb(rule, 2_000), 0).many_tags
            );
        }
        assert!(!forces_breaks("p{word-break:break-all;break-inside:avoid}@page :first{}"));
    }

    #[test]
    fn numbers_are_read_as_style_sheets_write_them() {
        let of = |text: &str| {
            let Scan { tags, lines, length, view, .. } = scan(text.as_bytes());
            (tags + lines, length, view)
        };
        for (text, found) in [
            ("", (0, 0, 0)),
            ("12", (0, 0, 0)),
            ("12px 7mm 100%", (0, 100, 0)),
            ("1.5em", (0, 5, 0)),
            ("2e3px", (0, 2000, 0)),
            ("2e+3px", (0, 2000, 0)),
            ("2e99px", (0, u64::MAX, 0)),
            ("2e99999999999999999999px", (0, u64::MAX, 0)),
            ("99999999999999999999999px", (0, u64::MAX, 0)),
            ("3em 4e", (0, 4, 0)),
            ("#14506b #f0f99999px a#9e9px", (0, 0, 0)),
            ("#1;20px #\\39px #/**/8em", (0, 39, 0)),
            ("50vh 60svh 7lvmax 8dvb 9sx 10l", (0, 10, 60)),
            ("<p></p>\n<!-- --><1>", (2, 0, 0)),
        ] {
            assert_eq!(of(text), found, "{text}");
        }
    }

    #[test]
    fn what_is_harmless_is_not_copied() {
        for html in [
            "<p>a</p>",
            "<meta http-equiv=\"Content-Type\" content=\"text/html; charset=utf-8\">",
            "<meta http-equiv=x-ua-compatible content='IE=edge'>",
            "<meta http-equiv='content-language' content=de>",
        ] {
            assert!(matches!(disarm(html), Cow::Borrowed(_)), "{html}");
        }
    }

    #[test]
    fn several_are_told_apart() {
        let html = "é<meta http-equiv=refresh>ü<meta http-equiv='content-type'>http-equiv=csp ö";
        let want = "é<meta data-equiv=refresh>ü<meta http-equiv='content-type'>data-equiv=csp ö";
        assert_eq!(disarm(html), want);
    }

    #[test]
    fn what_loads_is_seen() {
        for html in ["<IMG src=a>", "<p style='background:URL(a)'>", "@IMPORT 'a'", "<svg><image>"]
        {
            assert!(loads_anything(html), "{html}");
        }
        assert_eq!(look("<p><img src=a><img src=b>", 10).loads, Loads::Images);
        assert_eq!(look("<p><img src=a><IMAGE>", 10).loads, Loads::Anything);
        assert_eq!(look("<p style='background:url(a)'><img src=a>", 10).loads, Loads::Anything);
        for html in ["", "<p>u i @ <", "<table><tr><td>12,00", "<svg><path d=''/></svg>"] {
            assert!(!loads_anything(html), "{html}");
        }
    }

    #[test]
    fn what_looks_otherwise_on_paper_only_is_seen() {
        for html in [
            "<style>@FONT-FACE{font-family:x;src:local(x)}",
            "<style>@font-face{src:u\\72l(data:font/ttf,x)}",
            "<svg><style>&#64;font-face{}</style></svg>",
            "<svg><style>&commat;font-face{}</style></svg>",
            "<SELECT size=4><option>",
            "<style>p{scroll-initial-target:nearest}",
            "<th style='position: STICKY;top:0'>",
            "<th style='position:-webkit-sticky'>",
        ] {
            assert!(look(html, 10).is_peculiar, "{html}");
        }
        for html in ["<p>&#8364; 5<p style='position:fixed'>", "<svg></svg>5 &euro;", "<section>"] {
            assert!(!look(html, 10).is_peculiar, "{html}");
        }
    }

    #[test]
    fn page_rules_are_seen() {
        assert!(has_page_rules("<style>@Page{margin:0}"));
        assert!(has_page_rules("<link rel=stylesheet href='data:text/css,@%70age{}'>"));
        assert!(!has_page_rules("<style type='text/css'>p{}</style>me@page"[..40].trim()));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_survived(html in ".{0,200}") {
            let _ = (disarm(&html), look(&html, 1));
        }
    }
}
