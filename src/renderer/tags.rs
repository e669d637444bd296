//! How many elements a document has, and how deep they are nested. Pure.
//!
//! One pass over the tags that knows what a parser must know so as not to be
//! misled by sound documents: comments, quoted attributes, text that is not
//! markup (`<style>`, `<textarea>`), elements without an end (`<br>`, `<path/>`)
//! and those whose end may be left out (`<li>`, `<td>`, `<p>`). It is no parser:
//! a document may mislead it about its depth, for which Chromium has a bound of
//! its own (512), not about its number of tags.

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Shape {
    /// Start tags, comments, and end tags that end nothing.
    pub(crate) nodes: u64,
    /// Elements open at once, at most.
    pub(crate) depth: u64,
}

/// A name in lower case, its first 16 bytes: enough to tell elements apart.
type Name = u128;

const fn named(text: &[u8]) -> Name {
    let mut name: Name = 0;
    let mut at = 0;
    while at < text.len() && at < 16 {
        if text[at].is_ascii_whitespace() || matches!(text[at], b'/' | b'>') {
            break;
        }
        name = (name << 8) | text[at].to_ascii_lowercase() as Name;
        at += 1;
    }
    name
}

const fn all<const N: usize>(texts: [&str; N]) -> [Name; N] {
    let mut names = [0; N];
    let mut at = 0;
    while at < N {
        names[at] = named(texts[at].as_bytes());
        at += 1;
    }
    names
}

/// Elements without content.
const VOID: [Name; 15] = all([
    "area", "base", "basefont", "br", "col", "embed", "hr", "img", "input", "link", "meta",
    "param", "source", "track", "wbr",
]);

/// Elements whose content is no markup.
const RAW: [Name; 8] =
    all(["style", "script", "textarea", "title", "xmp", "iframe", "noembed", "noframes"]);

const CELLS: [Name; 2] = all(["td", "th"]);
const ROW: [Name; 1] = all(["tr"]);
const GROUPS: [Name; 5] = all(["thead", "tbody", "tfoot", "caption", "colgroup"]);

/// Elements whose start ends an open one of the same kind.
const IMPLIED: [&[Name]; 9] = [
    &all(["p"]),
    &all(["li"]),
    &all(["dt", "dd"]),
    &CELLS,
    &ROW,
    &GROUPS,
    &all(["option"]),
    &all(["optgroup"]),
    &all(["rt", "rp"]),
];

/// What an implied end does not cross: for cells, for rows and groups, for others.
const AROUND_CELLS: [Name; 2] = all(["tr", "table"]);
const AROUND_ROWS: [Name; 1] = all(["table"]);
const AROUND: [Name; 9] = all(["table", "ul", "ol", "dl", "select", "td", "th", "button", "svg"]);

/// No more open elements than this are told apart, where there is no limit.
const MOST_OPEN: usize = 4096;

/// Counts. Stops early, with what it has, once there are more than `nodes` or
/// the depth is above `depth`; 0 is no limit.
pub(crate) fn shape(html: &str, nodes: u64, depth: u64) -> Shape {
    let mut shape = Shape::default();
    let mut open: Vec<Name> = Vec::new();
    let bytes = html.as_bytes();
    let mut at = 0;
    while let Some(found) = bytes[at..].iter().position(|b| *b == b'<') {
        at += found + 1;
        let rest = &bytes[at..];
        match rest {
            [b'!', b'-', b'-', body @ ..] => {
                shape.nodes += 1;
                at += 3 + after_comment(body);
            }
            [b'!' | b'?', ..] => shape.nodes += 1,
            [b'/', first, ..] if first.is_ascii_alphabetic() => {
                let name = named(&rest[1..]);
                match open.iter().rposition(|one| *one == name) {
                    Some(place) => open.truncate(place),
                    // It costs time to look for, and may make an element.
                    None => shape.nodes += 1,
                }
                at += tag_end(rest).0;
            }
            [first, ..] if first.is_ascii_alphabetic() => {
                shape.nodes += 1;
                let name = named(rest);
                let (length, is_closed) = tag_end(rest);
                at += length;
                if RAW.contains(&name) && !is_closed {
                    at += raw_text(&bytes[at.min(bytes.len())..], name);
                } else if !is_closed && open.len() < MOST_OPEN && !VOID.contains(&name) {
                    end_implied(&mut open, name);
                    open.push(name);
                    shape.depth = shape.depth.max(open.len() as u64);
                }
            }
            _ => {}
        }
        at = at.min(bytes.len());
        if (nodes > 0 && shape.nodes > nodes) || (depth > 0 && shape.depth > depth) {
            break;
        }
    }
    shape
}

/// Ends what the start of `name` ends.
fn end_implied(open: &mut Vec<Name>, name: Name) {
    let Some(kind) = IMPLIED.iter().find(|kind| kind.contains(&name)) else { return };
    let around: &[Name] = match () {
        () if CELLS.contains(&name) => &AROUND_CELLS,
        () if ROW.contains(&name) || GROUPS.contains(&name) => &AROUND_ROWS,
        () => &AROUND,
    };
    let found = open.iter().rposition(|one| kind.contains(one) || around.contains(one));
    if let Some(place) = found
        && kind.contains(&open[place])
    {
        open.truncate(place);
    }
}

/// The length of a tag to behind its `>`, and whether it ends itself.
pub(super) fn tag_end(tag: &[u8]) -> (usize, bool) {
    let mut quote = None;
    let mut before = 0;
    for (at, byte) in tag.iter().enumerate() {
        match (quote, byte) {
            (Some(open), byte) if *byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'>') => return (at + 1, before == b'/'),
            // A quote counts only where a value begins.
            (None, b'"' | b'\'') if before == b'=' => quote = Some(*byte),
            (None, _) => {}
        }
        if !byte.is_ascii_whitespace() {
            before = *byte;
        }
    }
    (tag.len(), false)
}

/// The length of a comment's rest, behind its `<!--`.
pub(super) fn after_comment(body: &[u8]) -> usize {
    for abrupt in [&b">"[..], b"->"] {
        if body.starts_with(abrupt) {
            return abrupt.len();
        }
    }
    let mut at = 0;
    while let Some(dash) = body[at..].windows(2).position(|two| two == b"--") {
        at += dash + 2;
        match &body[at..] {
            [b'>', ..] => return at + 1,
            [b'!', b'>', ..] => return at + 2,
            _ => at -= 1,
        }
    }
    body.len()
}

/// The length of text that is no markup, with the `</` of its end tag.
fn raw_text(text: &[u8], name: Name) -> usize {
    let mut at = 0;
    while let Some(found) = text[at..].windows(2).position(|two| two == b"</") {
        at += found;
        at += 2;
        if named(&text[at..]) == name {
            return at;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(html: &str) -> (u64, u64) {
        let shape = shape(html, 0, 0);
        (shape.nodes, shape.depth)
    }

    #[test]
    fn sound_documents_are_counted_as_a_parser_sees_them() {
        for (html, nodes, depth) in [
            ("", 0, 0),
            ("1 < 2 and 3 > 2, <3", 0, 0),
            ("<p>a<p>b<p>c", 3, 1),
            ("<p>a</p><br><img src=x><hr/>", 4, 1),
            ("<ul><li>a<li>b<ul><li>c</ul><li>d</ul>", 6, 4),
            ("<table><tr><td>a<td><font>b<tr><td>c<font>d</table>", 8, 4),
            ("<TABLE><TBODY><TR><TD>a</TABLE><p>", 5, 4),
            ("<dl><dt>a<dd>b<dt>c<dd>d</dl>", 5, 2),
            ("<select><option>a<option>b</select>", 3, 2),
            ("<svg><path d=''/><rect/><g><circle/></g></svg>", 5, 2),
            ("<a title='>' href=\"<b><b>\">x</a><i>y</i>", 2, 1),
            ("<style>a>b{content:'<i><i><i>'}</style><b>", 2, 1),
            ("<title><b></titles></title><b>", 2, 1),
            ("<!-- <b><b> --><b><!--><b><!-- a --!><i>", 6, 3),
            ("<!doctype html><html><body>x</body></html>", 3, 2),
            ("</b></b><b>x</i></b><b>", 5, 1),
            ("<div><span></div><div><span></div>", 4, 2),
            ("<", 0, 0),
            ("<a", 1, 1),
            ("<!--", 1, 0),
            ("<style>", 1, 0),
        ] {
            assert_eq!(of(html), (nodes, depth), "{html}");
        }
    }

    #[test]
    fn it_stops_where_a_limit_is_passed() {
        assert_eq!(shape(&"<br>".repeat(1000), 10, 0).nodes, 11);
        assert_eq!(shape(&"<b>".repeat(1000), 0, 10).depth, 11);
        assert_eq!(shape(&"<br>".repeat(10), 10, 0).nodes, 10);
    }

    /// A tree of elements that need their end tags, its size and its depth.
    fn tree() -> impl proptest::strategy::Strategy<Value = (String, u64, u64)> {
        use proptest::prelude::*;
        let names = || prop::sample::select(vec!["div", "b", "table", "section", "x-y"]);
        let text = "[a-z ]{0,8}".prop_map(|text| (text, 0, 0));
        text.prop_recursive(8, 64, 4, move |inner| {
            (names(), prop::collection::vec(inner, 0..4)).prop_map(|(name, children)| {
                let within: String = children.iter().map(|(html, ..)| html.as_str()).collect();
                let nodes = children.iter().map(|(_, nodes, _)| nodes).sum::<u64>() + 1;
                let depth = children.iter().map(|(.., depth)| *depth).max().unwrap_or(0) + 1;
                (format!("<{name} class='a<b'>{within}</{name}>"), nodes, depth)
            })
        })
    }

    proptest::proptest! {
        #[test]
        fn a_tree_is_counted_exactly((html, nodes, depth) in tree()) {
            proptest::prop_assert_eq!(of(&html), (nodes, depth));
        }

        #[test]
        fn any_text_is_survived(html in "(<!--|-->|</|<|/>|>|'|\"|=|style|td|é| |a){0,40}") {
            let (nodes, depth) = of(&html);
            proptest::prop_assert!(depth <= nodes);
        }
    }
}
