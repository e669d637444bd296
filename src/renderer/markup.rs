//! What must be known about a document's markup before it is set. Pure.
//!
//! Neither question needs a parser; both answers err on the safe side.

use std::borrow::Cow;

use super::tags;

/// Directives that do nothing beyond their document (a language stays, and the page is
/// renewed after it: [`leaves_traces`]).
const HARMLESS: [&[u8]; 3] = [b"content-type", b"content-language", b"x-ua-compatible"];
/// The attribute, and a name of the same length that means nothing.
const DIRECTIVE: &[u8] = b"http-equiv";
const DISARMED: &str = "data-equiv";

/// A tag that is longer is not looked through, nor more than so many bytes of tags:
/// a million may begin in each other.
const LONG_TAG: usize = 512;
const LOOKED_THROUGH: usize = 64 * 1024;

/// Marks of a document that loads something, so that printing must wait for it.
const LOADS: [&[u8]; 12] = [
    b"url(",
    b"@import",
    b"image-set(",
    b"<img",
    b"<image",
    b"<feimage",
    b"<use",
    b"<link",
    b"<object",
    b"<embed",
    b"<video",
    b"<input",
];

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

/// Whether the document may load images, fonts or style sheets, be it from
/// `data:` URLs, so that it must be waited for before it is printed.
#[must_use]
pub(crate) fn loads_anything(html: &str) -> bool {
    let bytes = html.as_bytes();
    bytes.iter().enumerate().any(|(at, byte)| {
        matches!(byte, b'<' | b'@' | b'u' | b'U' | b'i' | b'I')
            && LOADS.iter().any(|mark| starts_with(bytes, at, mark))
    })
}

/// Whether the document has `@page` rules, or hides what it has.
#[must_use]
pub(crate) fn has_page_rules(html: &str) -> bool {
    let bytes = html.as_bytes();
    bytes.iter().enumerate().any(|(at, byte)| {
        *byte == b'@' && (starts_with(bytes, at, b"@page") || starts_with(bytes, at, b"@\\"))
    }) || positions(bytes, b"text/css;").next().is_some()
        || positions(bytes, b"text/css,").next().is_some()
}

/// Whether the document leaves something in its page that replacing it does not
/// take away, so that the next one would be printed otherwise (all seen): the
/// colour of links from `<body link>`, the preferred set of style sheets from a
/// `title` on one, the colour scheme and the language from a `<meta>`.
#[must_use]
pub(crate) fn leaves_traces(html: &str) -> bool {
    const TRACES: [(&[u8], &[&[u8]]); 4] = [
        (b"<body", &[b"link"]),
        (b"<style", &[b"title"]),
        (b"<link", &[b"title"]),
        // What a character reference spells is not looked at, so it counts.
        (b"<meta", &[b"scheme", b"content-language", b"&"]),
    ];
    let bytes = html.as_bytes();
    let mut looked = 0;
    positions(bytes, b"<").any(|at| {
        TRACES.iter().any(|(tag, marks)| {
            starts_with(bytes, at, tag) && {
                let rest = &bytes[at..bytes.len().min(at + LONG_TAG)];
                let end = 1 + tags::tag_end(&rest[1..]).0;
                looked += end;
                end == LONG_TAG
                    || looked > LOOKED_THROUGH
                    || marks.iter().any(|mark| positions(&rest[..end], mark).next().is_some())
            }
        })
    })
}

/// Whether a length in the document may be that of a page bomb: a number of at
/// least five digits right before a unit. Hashes and the like look so as well.
#[must_use]
pub(crate) fn may_be_tall(html: &str) -> bool {
    let mut digits = 0;
    html.bytes().any(|byte| match byte {
        b'0'..=b'9' => {
            digits += 1;
            false
        }
        // Five digits and an exponent are enough for anything.
        b'a'..=b'z' | b'A'..=b'Z' | b'%' if digits >= 5 => true,
        _ => {
            digits = 0;
            false
        }
    })
}

fn starts_with(bytes: &[u8], at: usize, mark: &[u8]) -> bool {
    bytes.get(at..at + mark.len()).is_some_and(|found| found.eq_ignore_ascii_case(mark))
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
            let _ = (disarm(&html), loads_anything(&html), has_page_rules(&html));
            let _ = (leaves_traces(&html), may_be_tall(&html));
        }
        // Just short enough to be looked through, over and over.
        let nested = format!("{}>", "<meta ".repeat(80)).repeat(16_000);
        assert!(leaves_traces(&nested));
        assert!(leaves_traces(&format!("<body style='{}'>", "x".repeat(LONG_TAG))));
    }

    #[test]
    fn heights_beyond_reason_are_seen() {
        for html in ["height:10000000px", "padding:99999%", "1e0;22222vh", "x12345e9"] {
            assert!(may_be_tall(html), "{html}");
        }
        for html in ["", "height:9999px", "Invoice 1234567890", "123456<b>"] {
            assert!(!may_be_tall(html), "{html}");
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
        for html in ["", "<p>u i @ <", "<table><tr><td>12,00", "<svg><path d=''/></svg>"] {
            assert!(!loads_anything(html), "{html}");
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
            let _ = (disarm(&html), loads_anything(&html), has_page_rules(&html));
            let _ = (leaves_traces(&html), may_be_tall(&html));
        }
    }
}
