//! The one pass over a document's bytes that answers all of [`look`](super::look)'s questions.
//!
//! Words are known by a byte of theirs that is rare (`url(` by its bracket, `http-equiv` by
//! its hyphen), and looked at from there, so that most bytes cost one look into a table:
//! a receipt of 3 KB takes some microseconds. Numbers are read where they stand.

use super::super::tags;

/// Bytes that something may be known by.
const MARKS: [bool; 256] = {
    let mut marks = [false; 256];
    let bytes = b"0123456789<\n#@(/-:zZ\\&";
    let mut at = 0;
    while at < bytes.len() {
        marks[bytes[at] as usize] = true;
        at += 1;
    }
    marks
};

/// What holds another document.
const FRAMES: [&[u8]; 6] =
    [b"<iframe", b"<frame", b"<object", b"<embed", b"<fencedframe", b"<portal"];
/// Marks of a document that loads something, so that printing must wait for it.
const LOADING: [&[u8]; 8] =
    [b"<image", b"<feimage", b"<use", b"<link", b"<object", b"<embed", b"<video", b"<input"];
/// What loads whether or not it is laid out.
const IMAGE: &[u8] = b"<img";
/// A list box scrolls to what is selected where it was laid out before.
const SELECT: &[u8] = b"<select";
const SVG: &[u8] = b"<svg";
/// Tags that may leave traces, with the words in them that do.
const TRACES: [(&[u8], &[&[u8]]); 4] = [
    (b"<body", &[b"link"]),
    (b"<style", &[b"title"]),
    (b"<link", &[b"title"]),
    // What a character reference spells is not looked at, so it counts.
    (b"<meta", &[b"scheme", b"content-language", b"&"]),
];

/// A tag that is longer is not looked through, nor more than so many bytes of tags:
/// a million may begin in each other.
pub(super) const LONG_TAG: usize = 512;
const LOOKED_THROUGH: usize = 64 * 1024;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Scan {
    /// Start tags.
    pub(super) tags: u64,
    /// Line breaks.
    pub(super) lines: u64,
    /// The largest number before any unit but those of a view.
    pub(super) length: u64,
    /// The largest before a unit of the view's height or width.
    pub(super) view: u64,
    /// Whether there are lengths that are calculated.
    pub(super) calculated: bool,
    /// Whether page breaks may be forced.
    pub(super) breaks: bool,
    /// Whether images, fonts or style sheets may be loaded other than by [`IMAGE`].
    pub(super) loads: bool,
    /// Whether there are such images.
    pub(super) images: bool,
    /// Whether there is what looks otherwise where it is laid out on paper only (fonts that
    /// are still to load, what scrolls or sticks), or what may hide it: escapes in style
    /// sheets, and character references in those of drawings.
    pub(super) peculiar: bool,
    /// The two halves of the latter.
    svg: bool,
    references: bool,
    /// Whether there are `@page` rules, or what may hide them.
    pub(super) page_rules: bool,
    /// Whether something may stay in the page.
    pub(super) traces: bool,
    /// Whether another document is held.
    pub(super) frames: bool,
    /// Whether there is a directive (`http-equiv`).
    pub(super) directive: bool,
}

/// Looks through all of `bytes`.
pub(super) fn scan(bytes: &[u8]) -> Scan {
    let mut scan = Scan::default();
    let mut looked = 0;
    // Where the last colour or the like ended (#14506b): its digits are no length, and no
    // word begins in it.
    let mut word_from = 0;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        if !MARKS[usize::from(*byte)] {
            at += 1;
            continue;
        }
        let behind = |word: &[u8]| ends_with(bytes, at, 0, word);
        let behind_a_colour = |word: &[u8]| ends_with(bytes, at, word_from, word);
        let ahead = |word: &[u8]| starts_with(bytes, at + 1, word);
        match byte {
            b'<' => scan.tag(bytes, at, &mut looked),
            b'\n' => scan.lines += 1,
            b'0'..=b'9' => {
                at = scan.number(bytes, at);
                continue;
            }
            b'#' => {
                let rest = &bytes[at + 1..];
                let end = rest.iter().position(|byte| !is_name(*byte)).unwrap_or(rest.len());
                scan.directive |= rest[..end].contains(&b'-') && has_directive(bytes, at, end);
                at += 1 + end;
                word_from = at;
                continue;
            }
            b'@' => {
                scan.loads |= ahead(b"import");
                scan.peculiar |= ahead(b"font-face");
                scan.page_rules |= ahead(b"page") || ahead(b"\\");
            }
            b'(' => {
                scan.loads |= behind(b"url") || behind(b"image-set");
                scan.calculated |= behind_a_colour(b"calc");
            }
            b'/' => {
                let type_ends = || matches!(bytes.get(at + 4), Some(b';' | b','));
                scan.page_rules |= behind(b"text") && ahead(b"css") && type_ends();
            }
            b'-' => {
                scan.directive |= behind(b"http") && ahead(b"equiv");
                scan.peculiar |= behind(b"scroll");
                scan.breaks |= behind_a_colour(b"break") && (ahead(b"before") || ahead(b"after"));
            }
            b':' => {
                scan.breaks |= behind_a_colour(b"page");
                scan.peculiar |= behind(b"position") && sticks(&bytes[at + 1..]);
            }
            b'\\' => scan.peculiar = true,
            b'&' => scan.references |= ahead(b"#") || ahead(b"commat") || ahead(b"bsol"),
            _ => scan.calculated |= ahead(b"oom"),
        }
        at += 1;
    }
    scan.peculiar |= scan.svg && scan.references;
    scan
}

/// Whether a value begins with `sticky`.
fn sticks(value: &[u8]) -> bool {
    let value = value.trim_ascii_start();
    starts_with(value, 0, b"sticky") || starts_with(value, 0, b"-webkit-sticky")
}

impl Scan {
    /// A tag may begin here.
    fn tag(&mut self, bytes: &[u8], at: usize, looked: &mut usize) {
        let Some(first) = bytes.get(at + 1).map(u8::to_ascii_lowercase) else { return };
        self.tags += u64::from(first.is_ascii_alphabetic());
        let is = |tag: &[u8]| tag[1] == first && starts_with(bytes, at, tag);
        self.loads |= LOADING.iter().any(|tag| is(tag));
        self.images |= is(IMAGE);
        self.peculiar |= is(SELECT);
        self.svg |= is(SVG);
        self.frames |= FRAMES.iter().any(|tag| is(tag));
        if self.traces {
            return;
        }
        self.traces = TRACES.iter().filter(|(tag, _)| is(tag)).any(|(_, marks)| {
            let rest = &bytes[at..bytes.len().min(at + LONG_TAG)];
            let end = 1 + tags::tag_end(&rest[1..]).0;
            *looked += end;
            let has = |mark: &[u8]| (0..end).any(|at| starts_with(&rest[..end], at, mark));
            end == LONG_TAG || *looked > LOOKED_THROUGH || marks.iter().any(|mark| has(mark))
        });
    }

    /// Reads the number that begins at `at`, in the form 1e9 too, with its unit; returns
    /// where it ends.
    fn number(&mut self, bytes: &[u8], at: usize) -> usize {
        let (first, mut at) = digits(bytes, at);
        let unit = |at: usize| bytes.get(at).copied().filter(|b| is_unit(*b));
        let next = |at: usize| bytes.get(at + 1).copied().unwrap_or_default();
        let Some(begins) = unit(at) else { return at };
        self.add(first, begins, next(at));
        if !begins.eq_ignore_ascii_case(&b'e') || !(next(at).is_ascii_digit() || next(at) == b'+') {
            return at;
        }
        at += 1;
        while bytes.get(at) == Some(&b'+') {
            at += 1;
        }
        if !bytes.get(at).is_some_and(u8::is_ascii_digit) {
            return at;
        }
        let (exponent, at) = digits(bytes, at);
        if let Some(begins) = unit(at) {
            self.add(with_exponent(first, exponent), begins, next(at));
        }
        at
    }

    /// A number stands before the unit that begins with `unit` and goes on with `next`.
    fn add(&mut self, value: u64, unit: u8, next: u8) {
        let of_view = match unit.to_ascii_lowercase() {
            b'v' => true,
            b's' | b'l' | b'd' => next.eq_ignore_ascii_case(&b'v'),
            _ => false,
        };
        let largest = if of_view { &mut self.view } else { &mut self.length };
        *largest = (*largest).max(value);
    }
}

fn is_unit(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'%'
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// The number whose digits begin at `at`, and where they end.
fn digits(bytes: &[u8], mut at: usize) -> (u64, usize) {
    let mut number: u64 = 0;
    while let Some(digit) = bytes.get(at).filter(|byte| byte.is_ascii_digit()) {
        number = number.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
        at += 1;
    }
    (number, at)
}

/// `before` times ten to the power of `exponent`.
fn with_exponent(before: u64, exponent: u64) -> u64 {
    let times = 10_u64.saturating_pow(u32::try_from(exponent).unwrap_or(u32::MAX));
    before.max(1).saturating_mul(times)
}

/// Whether a directive has its hyphen among the `length` bytes behind `at`.
fn has_directive(bytes: &[u8], at: usize, length: usize) -> bool {
    let is_directive = |at| ends_with(bytes, at, 0, b"http") && starts_with(bytes, at, b"-equiv");
    (at + 1..at + 1 + length).any(is_directive)
}

/// Whether `mark` stands at `at`, whatever its case.
pub(super) fn starts_with(bytes: &[u8], at: usize, mark: &[u8]) -> bool {
    bytes.get(at..at + mark.len()).is_some_and(|found| found.eq_ignore_ascii_case(mark))
}

/// Whether `word` stands right before `at`, and begins at `from` at the earliest.
fn ends_with(bytes: &[u8], at: usize, from: usize, word: &[u8]) -> bool {
    let begins = at.checked_sub(word.len()).filter(|begins| *begins >= from);
    begins.is_some_and(|begins| starts_with(bytes, begins, word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words_of(bytes: &[u8], words: &[&[u8]]) -> bool {
        (0..bytes.len()).any(|at| words.iter().any(|word| starts_with(bytes, at, word)))
    }

    /// The same, question by question and byte by byte.
    fn plainly(bytes: &[u8]) -> Scan {
        let mut scan = Scan {
            loads: words_of(bytes, &LOADING)
                || words_of(bytes, &[b"url(", b"@import", b"image-set("]),
            images: words_of(bytes, &[IMAGE]),
            page_rules: words_of(bytes, &[b"@page", b"@\\", b"text/css;", b"text/css,"]),
            frames: words_of(bytes, &FRAMES),
            directive: words_of(bytes, &[b"http-equiv"]),
            svg: words_of(bytes, &[SVG]),
            references: words_of(bytes, &[b"&#", b"&commat", b"&bsol"]),
            // Of these there are tests by hand.
            traces: super::scan(bytes).traces,
            peculiar: super::scan(bytes).peculiar,
            ..Scan::default()
        };
        let (mut number, mut mantissa): (Option<u64>, Option<u64>) = (None, None);
        let mut hash = false;
        for (at, byte) in bytes.iter().enumerate() {
            hash &= is_name(*byte);
            if hash {
                continue;
            }
            let begins = |words: &[&[u8]]| words.iter().any(|word| starts_with(bytes, at, word));
            scan.breaks |= begins(&[b"break-before", b"break-after", b"page:"]);
            scan.calculated |= begins(&[b"calc(", b"zoom"]);
            let next = bytes.get(at + 1).copied().unwrap_or_default();
            match byte {
                b'0'..=b'9' => {
                    let digit = u64::from(byte - b'0');
                    number = Some(number.unwrap_or(0).saturating_mul(10).saturating_add(digit));
                    continue;
                }
                unit if is_unit(*unit) => {
                    if let Some(found) = number {
                        let value = mantissa.map_or(found, |before| with_exponent(before, found));
                        scan.add(value, *byte, next);
                        let goes_on = next.is_ascii_digit() || next == b'+';
                        if mantissa.is_none() && byte.eq_ignore_ascii_case(&b'e') && goes_on {
                            (number, mantissa) = (None, Some(found));
                            continue;
                        }
                    }
                }
                b'+' if mantissa.is_some() && number.is_none() => continue,
                b'#' => hash = true,
                b'<' => scan.tags += u64::from(next.is_ascii_alphabetic()),
                b'\n' => scan.lines += 1,
                _ => {}
            }
            (number, mantissa) = (None, None);
        }
        scan
    }

    const PIECES: [&str; 48] = [
        "<",
        "\n",
        "#",
        "@",
        "(",
        "/",
        "-",
        ":",
        "z",
        "Z",
        "1",
        "20",
        "9e",
        "e",
        "E+",
        "+",
        ".",
        "%",
        "px",
        "vh",
        "dvB",
        "s",
        "l",
        " ",
        "_",
        "\\",
        ";",
        ",",
        "é",
        "url",
        "image-set",
        "CALC",
        "zoom",
        "oom",
        "text",
        "/css",
        "http",
        "-equiv",
        "break",
        "-before",
        "-after",
        "page",
        "import",
        "img",
        "iframe",
        "<meta",
        "body",
        "99999999999999999999",
    ];

    proptest! {
        #[test]
        fn one_pass_finds_what_many_find(
            pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..40),
        ) {
            let text = pieces.concat();
            prop_assert_eq!(scan(text.as_bytes()), plainly(text.as_bytes()), "{}", text);
        }
    }
}
