//! What is asked of a document before it is printed: our own expressions,
//! which run although the page's scripts are off.
//!
//! Timers and event listeners do not fire in such a page, promises do. So an
//! expression answers at once with what it sees, and is asked again.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::renderer::{Warning, assets};

/// How many sources a warning names.
const NAMED: usize = 5;

/// Whether everything is there, and what never will be, in the document and in its
/// frames as far as they can be looked into. Layout first: fonts and backgrounds load
/// when something needs them. Lazy images would wait for a scroll that never comes. The
/// document is complete before frames within its frames are (seen), so each is asked.
pub(super) const LOADED: &str = r"(async () => {
  const name = (url) => {
    const text = String(url || '');
    return (text.startsWith('data:') ? text.split(/[;,]/, 1)[0] : text).slice(0, 120);
  };
  // A long base makes every address long: a hundred of them are 200 MB.
  const cut = (url) => url.slice(0, 4096);
  // A name in the document may stand before what is asked for: `<form name=images>`.
  const all = (of, selector) => [...Document.prototype.querySelectorAll.call(of, selector)];
  const getter = (name) => {
    const get = Object.getOwnPropertyDescriptor(Document.prototype, name).get;
    return (of) => get.call(of);
  };
  const [root, state, fontsOf, url] = ['documentElement', 'readyState', 'fonts', 'URL'].map(getter);
  const documents = [document];
  let framed = true;
  for (const outer of documents) {
    for (const frame of all(outer, 'iframe')) {
      const inner = frame.contentDocument;
      if (!inner) continue;
      // Who has more is printed as the others are by then.
      if (documents.length === 200) break;
      documents.push(inner);
      framed &&= !frame.hasAttribute('srcdoc') || url(inner).startsWith('about:srcdoc');
    }
  }
  const tags = documents.flatMap((of) => all(of, 'img'));
  for (const image of tags) image.loading = 'eager';
  for (const of of documents) root(of)?.getBoundingClientRect();
  // Of frames' own nothing is awaited: a document that another replaces is never ready.
  await fontsOf(document).ready;
  const images = tags.filter((i) => i.currentSrc || i.hasAttribute('src'));
  const fonts = documents.flatMap((of) => [...fontsOf(of)]);
  return {
    ready: framed && images.every((i) => i.complete)
      && documents.every((of) => state(of) === 'complete' && fontsOf(of).status === 'loaded'),
    heights: images.reduce((sum, i) => sum + i.naturalHeight / (i.naturalWidth || 1), 0),
    images: images.filter((i) => i.complete && i.naturalWidth === 0)
      .map((i) => ({ name: name(i.getAttribute('src') || i.currentSrc), url: cut(i.currentSrc || i.src) })),
    sheets: documents.flatMap((of) => all(of, 'link[rel~=stylesheet i][href]'))
      .filter((l) => !l.sheet && !l.disabled)
      .map((l) => ({ name: name(l.getAttribute('href')), url: cut(l.href) })),
    fonts: fonts.filter((f) => f.status === 'error').map((f) => name(f.family)),
  };
})()";

/// The margins that the document's `@page` rules give to the first page, in
/// CSS pixels. What follows the size of the page or of a font is left out. A
/// style sheet that is an asset cannot be looked into: it comes from another
/// origin than the document. So its text is read once more, from `assets`.
const MARGINS: &str = r"((assets) => {
  const found = [{}, {}, {}];
  const rank = { '': 0, ':right': 1, ':first': 2 };
  const applies = (media) => !media || !media.mediaText || matchMedia(media.mediaText).matches;
  const pixels = (text) => {
    try { return CSSNumericValue.parse(text).to('px').value; } catch { return undefined; }
  };
  const textOf = (url) => {
    let path;
    try { path = new URL(url).pathname.slice(1); } catch { return undefined; }
    for (;;) {
      if (Object.hasOwn(assets, path)) return assets[path];
      const slash = path.indexOf('/');
      if (slash < 0) return undefined;
      path = path.slice(slash + 1);
    }
  };
  const walkAsset = (url, depth) => {
    const text = textOf(url);
    if (text === undefined || depth > 8) return;
    const bare = text.replace(/\/\*[\s\S]*?\*\//g, ' ');
    const imports = /@import\s*(?:url\()?\s*['\x22]?([^'\x22)\s;]+)['\x22]?\s*\)?([^;]*);/gi;
    for (const [, to, media] of bare.matchAll(imports)) {
      if (media.trim() && !matchMedia(media).matches) continue;
      try { walkAsset(new URL(to, url).href, depth + 1); } catch { continue; }
    }
    const copy = new CSSStyleSheet();
    copy.replaceSync(text);
    walk(copy);
  };
  const walk = (sheet) => {
    let rules;
    try { rules = sheet.cssRules; } catch { walkAsset(sheet.href, 0); return; }
    for (const rule of rules) {
      if (rule instanceof CSSPageRule) {
        const into = found[rank[rule.selectorText]];
        if (!into) continue;
        for (const side of ['top', 'right', 'bottom', 'left']) {
          const value = pixels(rule.style.getPropertyValue('margin-' + side));
          if (value !== undefined) into[side] = value;
        }
      } else if (rule instanceof CSSImportRule) {
        if (rule.styleSheet && applies(rule.media)) walk(rule.styleSheet);
      } else if (rule.cssRules && !(rule instanceof CSSStyleRule) && applies(rule.media)) {
        walk(rule);
      }
    }
  };
  for (const sheet of document.styleSheets) {
    if (!sheet.disabled && applies(sheet.media)) walk(sheet);
  }
  return Object.assign({}, ...found);
})";

/// Remembers every element's asked-for height, on the document's own root, so
/// that it goes with the document.
pub(super) const NOTE_HEIGHTS: &str = r"(() => {
  const asked = (e, name) => String(e.computedStyleMap().get(name));
  document.documentElement.tillroll = [...document.querySelectorAll('*')].map(
    (e) => [e, asked(e, 'height'), asked(e, 'min-height')]);
})()";

/// In a viewport of another height: whatever asks for another height now
/// follows the page, and on a roll it must follow its content instead.
pub(super) const RELEASE_HEIGHTS: &str = r"(() => {
  const asked = (e, name) => String(e.computedStyleMap().get(name));
  let released = 0;
  for (const [e, height, least] of document.documentElement.tillroll || []) {
    if (asked(e, 'height') !== height) {
      e.style.setProperty('height', 'auto', 'important');
      released++;
    }
    if (asked(e, 'min-height') !== least) {
      e.style.setProperty('min-height', '0', 'important');
      released++;
    }
  }
  delete document.documentElement.tillroll;
  return released;
})()";

/// How many page breaks the document forces, at least: between blocks that follow
/// each other, outside of whatever may be kept together or stand in columns. What
/// elements are called in a document must not come between (`<input name=children>`).
pub(super) const FORCED_BREAKS: &str = r"(() => {
  try {
    const getter = (of, name) => Object.getOwnPropertyDescriptor(of.prototype, name).get;
    const [body, children] = [getter(Document, 'body'), getter(Element, 'children')];
    const forces = (value) => !/^(auto|avoid|column|region)/.test(value);
    const flows = (style) => style.float === 'none' && /^(static|relative|sticky)$/.test(style.position)
      && /^(block|flow-root|list-item|table|table-row-group|table-row)$/.test(style.display);
    const opens = (style) => style.overflowY === 'visible' && style.contain === 'none'
      && style.columnCount === 'auto' && style.columnWidth === 'auto' && style.display !== 'table-row';
    const open = [body.call(document)].filter(Boolean);
    let breaks = 0;
    while (open.length) {
      let before, named;
      for (const child of children.call(open.pop())) {
        const style = getComputedStyle(child);
        if (!flows(style)) continue;
        if (before !== undefined && (before || forces(style.breakBefore) || named !== style.page)) breaks++;
        [before, named] = [forces(style.breakAfter), style.page];
        if (opens(style)) open.push(child);
      }
    }
    return breaks;
  } catch { return 0; }
})()";

/// The expression for the margins of a document with these style sheets as assets.
pub(super) fn margins(sheets: &BTreeMap<String, String>) -> String {
    let mut assets = serde_json::Map::new();
    for (name, css) in sheets {
        assets.insert(name.clone(), css.as_str().into());
    }
    format!("{MARGINS}({})", serde_json::Value::Object(assets))
}

/// The expression that takes our base out again, once everything is loaded: it
/// is for assets, not for links. Without it a relative link leads nowhere, as in
/// any document without a base, or follows a base of the document's own. (Its
/// `href` is not touched: print styles like to show it.)
pub(super) fn take_out_base(origin: &str) -> String {
    let selector = serde_json::Value::from(format!("base[href=\"{origin}\"]"));
    format!("document.querySelector({selector})?.remove()")
}

/// The expression that gives the page our style sheet, or takes it away.
pub(super) fn adopt(css: &str) -> String {
    if css.is_empty() {
        return "void (document.adoptedStyleSheets = [])".to_owned();
    }
    let text = serde_json::Value::from(css);
    format!(
        "{{ const sheet = new CSSStyleSheet(); sheet.replaceSync({text}); \
         document.adoptedStyleSheets = [sheet]; }}"
    )
}

/// The answer to [`LOADED`].
#[derive(Debug, Default, Deserialize)]
pub(super) struct Loaded {
    pub(super) ready: bool,
    /// Of all images together, in widths of each.
    pub(super) heights: f64,
    images: Vec<Source>,
    sheets: Vec<Source>,
    fonts: Vec<String>,
}

/// Where something should have come from: in the document's words, and in full.
#[derive(Debug, Deserialize)]
struct Source {
    name: String,
    url: String,
}

/// The answer to [`MARGINS`].
#[derive(Debug, Default, Deserialize, PartialEq)]
pub(super) struct PageMargins {
    pub(super) top: Option<f64>,
    pub(super) right: Option<f64>,
    pub(super) bottom: Option<f64>,
    pub(super) left: Option<f64>,
}

impl Loaded {
    /// What a person should know, except of URLs that are `named` otherwise.
    pub(super) fn warnings(&self, named: impl Fn(&str) -> bool) -> Vec<Warning> {
        let unnamed = |sources: &[Source]| -> Vec<String> {
            let left = sources.iter().filter(|source| !named(&source.url));
            left.map(|source| assets::shown(&source.name)).collect()
        };
        let mut warnings = Vec::new();
        let images = unnamed(&self.images);
        if !images.is_empty() {
            warnings.push(Warning {
                code: "image_missing",
                message: format!("no picture came from {}", list(&images)),
                remedy:
                    "send images with the job (`assets`) or store them for the tenant (`tillroll \
                         asset put`) and use relative URLs, or use data: URLs; a document has no \
                         network and no files"
                        .into(),
            });
        }
        let sheets = unnamed(&self.sheets);
        if !sheets.is_empty() {
            warnings.push(Warning {
                code: "stylesheet_missing",
                message: format!("no style sheet came from {}", list(&sheets)),
                remedy: "send style sheets with the job (`assets`) or store them for the tenant \
                         (`tillroll asset put`) and use relative URLs, or put them into <style>"
                    .into(),
            });
        }
        if !self.fonts.is_empty() {
            warnings.push(Warning {
                code: "font_missing",
                message: format!("no font came for {}", list(&self.fonts)),
                remedy:
                    "send fonts with the job (`assets`) or store them for the tenant (`tillroll \
                         asset put`) and use relative URLs, or use data: URLs, or install them on \
                         the worker"
                        .into(),
            });
        }
        if !self.ready {
            warnings.push(still_loading());
        }
        warnings
    }
}

/// The document was printed before everything was there.
pub(super) fn still_loading() -> Warning {
    Warning {
        code: "still_loading",
        message: "images, fonts or style sheets were still loading when the document was printed"
            .into(),
        remedy: "make them smaller or fewer, or give the job more time (`timeout_ms`)".into(),
    }
}

/// Content is wider than the paper, by the factor `by`.
pub(super) fn too_wide(by: f64, shrunk: f64) -> Warning {
    let cut = if by > shrunk + 0.01 { ", and what is wider still was cut off" } else { "" };
    Warning {
        code: "content_too_wide",
        message: format!(
            "the content is {by:.2} times as wide as the paper; it was printed at {:.0} % of its \
             size{cut}",
            100.0 / shrunk
        ),
        remedy: "make the content as wide as the paper, or give a wider paper or a smaller scale"
            .into(),
    }
}

fn list(names: &[String]) -> String {
    let mut text: Vec<&str> = names.iter().take(NAMED).map(String::as_str).collect();
    let more = format!("{} more", names.len().saturating_sub(NAMED));
    if names.len() > NAMED {
        text.push(&more);
    }
    text.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_but_not_without_end() {
        let source = |n: usize| Source { name: format!("{n}.png"), url: format!("x:{n}") };
        let images = (0..9).map(source).collect();
        let (sheets, fonts) = (vec![], vec!["Till".into()]);
        let loaded = Loaded { ready: true, heights: 1.0, images, sheets, fonts };
        let warnings = loaded.warnings(|url| url == "x:8");
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].message.ends_with("0.png, 1.png, 2.png, 3.png, 4.png, 3 more"));
        assert_eq!(warnings[1].code, "font_missing");
        for warning in &warnings {
            assert!(warning.remedy.contains("`tillroll asset put`"), "{}", warning.remedy);
        }
    }

    #[test]
    fn the_style_sheet_is_quoted() {
        assert!(adopt("a{content:\"\\201c\"}").contains(r#"replaceSync("a{content:\"\\201c\"}")"#));
        assert!(adopt("").contains("[]"));
    }

    #[test]
    fn a_cut_is_said() {
        assert!(too_wide(2.0, 1.5).message.contains("cut off"));
        assert!(!too_wide(1.2, 1.2).message.contains("cut off"));
    }
}
