//! The assets of one job as Chromium sees them: an origin of their own. Pure.
//!
//! A document that is set into `about:blank` has no base, so its relative URLs
//! lead nowhere. A job with assets gets one: `<base href="https://….invalid/">`,
//! right after the doctype. What the document then asks for is answered from
//! memory; `.invalid` resolves nowhere (RFC 2606).
//!
//! The origin is a new one for each render. A page keeps what it loaded, under
//! its URL, for the documents after it: nothing of one job may be there for the
//! next, and a picture that is still decoded is even printed with other commands
//! than a new one (seen: the colour behind an opaque background is left out).
//! The PDF does not show the origin: the base is taken out before printing, and
//! links never follow it.

use std::borrow::Cow;
use std::sync::Arc;

use super::tags;
use crate::job::Asset;

/// How much of a URL a message shows.
const SHOWN: usize = 120;

/// One job's assets under their origin.
#[derive(Debug)]
pub(crate) struct Shelf {
    origin: String,
    assets: Arc<[Asset]>,
}

/// What a URL leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// This asset.
    Asset(&'a Asset),
    /// Our origin, but no such asset.
    Missing,
    /// Elsewhere.
    Elsewhere,
}

impl Shelf {
    /// The assets of a job, under an origin that was never there before.
    pub(crate) fn of(assets: &Arc<[Asset]>) -> Self {
        let origin = format!("https://{:032x}.invalid/", rand::random::<u128>());
        Self { origin, assets: Arc::clone(assets) }
    }

    /// With a slash at its end.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// The style sheets among them, by name.
    pub(crate) fn style_sheets(&self) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
        let sheets = self.assets.iter().filter(|asset| asset.media_type == "text/css");
        sheets.map(|asset| (asset.name.as_str(), String::from_utf8_lossy(&asset.bytes)))
    }

    /// The document with a base. It stands before everything but the doctype,
    /// so that it is the first one; the parser makes a `<head>` for it, and
    /// merges the attributes of an `<html>` that comes later into its own.
    /// `head` follows it.
    pub(crate) fn with_base(&self, html: &str, head: &str) -> String {
        let (before, after) = html.split_at(after_doctype(html));
        let base = format!("<base href=\"{}\">", self.origin);
        [before, &base, head, after].concat()
    }

    /// What `url` leads to. The whole path counts; where there is no such asset,
    /// its leading directories are taken off one by one, so that `/static/logo.png`
    /// finds `logo.png`. What follows `?` or `#` does not count.
    pub(crate) fn find(&self, url: &str) -> Found<'_> {
        let Some(path) = url.strip_prefix(&self.origin) else { return Found::Elsewhere };
        let mut path = path.split(['?', '#']).next().unwrap_or_default();
        loop {
            if let Some(asset) = self.assets.iter().find(|asset| asset.name == path) {
                return Found::Asset(asset);
            }
            match path.split_once('/') {
                Some((_, rest)) => path = rest,
                None => return Found::Missing,
            }
        }
    }

    /// A URL for a message; of ours the path.
    pub(crate) fn shown(&self, url: &str) -> String {
        shown(url.strip_prefix(&self.origin).unwrap_or(url))
    }
}

/// A URL for a message, without what may be secret in it, and not without end.
pub(crate) fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    // A name and a password may stand before the host.
    let url = match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{path}")
        }
        None => url.to_owned(),
    };
    if url.chars().count() <= SHOWN {
        return url;
    }
    let head: String = url.chars().take(SHOWN).collect();
    format!("{head}…")
}

/// Where the doctype ends, or 0 where a parser finds none. Before it, only white
/// space, a byte order mark and comments may stand.
fn after_doctype(html: &str) -> usize {
    let mut rest = html.strip_prefix('\u{feff}').unwrap_or(html);
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c']);
        let Some(markup) = rest.strip_prefix("<!").or_else(|| rest.strip_prefix("<?")) else {
            return 0;
        };
        if rest.as_bytes().get(..9).is_some_and(|head| head.eq_ignore_ascii_case(b"<!doctype")) {
            // A `>` ends it, in quotes too.
            return rest.find('>').map_or(0, |at| html.len() - rest.len() + at + 1);
        }
        let end = match markup.strip_prefix("--") {
            // Behind a `>`, or at the end.
            Some(comment) if rest.starts_with("<!") => {
                comment.get(tags::after_comment(comment.as_bytes())..)
            }
            _ => markup.find('>').map(|at| at + 1).map(|at| &markup[at..]),
        };
        match end {
            Some(after) => rest = after,
            None => return 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shelf(names: &[&str]) -> Shelf {
        let asset = |name: &&str| Asset {
            name: (*name).to_owned(),
            media_type: "image/png",
            bytes: name.as_bytes().to_vec().into(),
        };
        let assets: Vec<Asset> = names.iter().map(asset).collect();
        Shelf::of(&assets.into())
    }

    #[test]
    fn every_render_has_an_origin_of_its_own() {
        let one = shelf(&["a.png"]);
        assert_ne!(one.origin(), shelf(&["a.png"]).origin());
        assert_eq!(one.origin().len(), "https://".len() + 32 + ".invalid/".len());
    }

    #[test]
    fn the_base_never_stands_before_the_doctype() {
        let shelf = shelf(&["a.png"]);
        let base = format!("<base href=\"{}\">", shelf.origin());
        for before in [
            "",
            "<!doctype html>",
            "\u{feff} \n<!DOCTYPE html>",
            "<!-- é > <!doctype> --><!-->\n<!--->\n<!-- x --!><!Doctype html SYSTEM 'a>",
            "<?xml version='1.0'?>\n<!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML 1.0//EN\">",
        ] {
            let rest = "b'><html><head><title>x</title>";
            assert_eq!(
                shelf.with_base(&format!("{before}{rest}"), ""),
                format!("{before}{base}{rest}"),
                "{before}"
            );
        }
        for html in ["<!-- never closed <!doctype html>", "text <!doctype html>", "<!doctype html"]
        {
            assert_eq!(shelf.with_base(html, "<x>"), format!("{base}<x>{html}"));
        }
    }

    #[test]
    fn a_million_comments_take_no_time() {
        let html = format!("{}{}", "<!--a-->".repeat(400_000), "x".repeat(4_000_000));
        assert!(shelf(&["a.png"]).with_base(&html, "").starts_with("<base"));
    }

    #[test]
    fn assets_are_found_by_path_and_then_by_its_end() {
        let shelf = shelf(&["logo.png", "img/logo.png"]);
        let name = |path: &str| match shelf.find(&format!("{}{path}", shelf.origin())) {
            Found::Asset(asset) => asset.name.clone(),
            other => format!("{other:?}"),
        };
        assert_eq!(name("logo.png?v=3"), "logo.png");
        assert_eq!(name("static/logo.png#x"), "logo.png");
        assert_eq!(name("static/img/logo.png"), "img/logo.png");
        assert_eq!(name("ogo.png"), "Missing");
        assert_eq!(name("logo.png/"), "Missing");
        assert_eq!(name(""), "Missing");
        for url in ["https://shop.example/logo.png", "data:,", "http://x.invalid/logo.png", ""] {
            assert_eq!(shelf.find(url), Found::Elsewhere);
        }
    }

    #[test]
    fn messages_show_no_secrets_and_no_endless_urls() {
        let shelf = shelf(&["a.png"]);
        let shown = shelf.shown("https://me:pass@shop.example/a.png?token=1#x");
        assert_eq!(shown, "https://shop.example/a.png");
        assert_eq!(shelf.shown(&format!("{}img/b.png?x", shelf.origin())), "img/b.png");
        assert_eq!(shelf.shown(&"é".repeat(500)).chars().count(), SHOWN + 1);
    }

    proptest::proptest! {
        #[test]
        fn any_document_is_survived(html in "(<!|--|>|doctype|<\\?|é| |<p>){0,20}") {
            let shelf = shelf(&["a.png"]);
            proptest::prop_assert_eq!(shelf.with_base(&html, "").len() - html.len(), 63);
        }
    }
}
