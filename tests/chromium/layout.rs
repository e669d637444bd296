//! A document about which nothing is asked before it is printed is laid out on
//! its pages only, and prints as if it had been laid out before.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tillroll::job::options;
use tillroll::pool::Pool;
use tillroll::renderer::context::Context;
use tillroll::renderer::page::Page;
use tokio::time::Instant;

use crate::printed::{LIMITS, Printed, pool, render, request};
use crate::support::{PATIENCE, browser, context};

/// What might look otherwise where it is laid out for the first time on paper.
const PECULIAR: &[&str] = &[
    "<style>p{font-size:2vw;height:50vh;width:30vmin;border:1px solid}</style><p>units of the view",
    "<style>@media (max-width:400px){p{color:red}}@media (min-height:2px){p{font-weight:bold}}\
     @media (orientation:landscape){p{text-decoration:underline}}@media print{p{font-style:italic}}\
     @media screen{p{letter-spacing:2px}}@media (max-height:1px){p{display:none}}</style><p>media",
    "<style>@page{size:100mm 50mm;margin:3mm}@page :first{margin-top:20mm}p{break-after:page}\
     </style><p>one<p>two<p>three",
    "<style>thead{display:table-header-group}tr{break-inside:avoid}td{height:70mm}</style>\
     <table><thead><tr><th>head</thead><tr><td>1<tr><td>2<tr><td>3<tr><td>4<tr><td>5</table>",
    "<style>div{columns:3;column-gap:4mm}p{orphans:2;widows:2}</style><div><p>a b c d e f g h i j \
     k l m n o p q r s t u v w x y z<p>a b c d e f g h i j k l m n o p q r s t u v w x y z</div>",
    "<style>main{display:grid;grid-template-columns:1fr 2fr min-content;gap:2mm}\
     i{display:flex;justify-content:space-between}</style><main><b>1</b><i><u>2</u><u>3</u></i>\
     <b>four</b><b>5</b></main>",
    "<style>section{container-type:inline-size;width:60%}@container (min-width:200px){p{color:\
     blue}}@container (max-width:199px){p{color:red}}</style><section><p>container</section>",
    "<style>p{content-visibility:auto;contain-intrinsic-size:100px}</style><p>one<p>two",
    "<style>p{animation:a 2s both}@keyframes a{from{opacity:.2;width:10px}to{opacity:1}}\
     b{transition:color 3s}@media print{b{color:red}}</style><p>moves<p><b>changes</b>",
    "<style>body{counter-reset:n}li::before{counter-increment:n;content:counters(n,'.') ' '}\
     p::first-letter{font-size:3em}p::first-line{color:red}q{quotes:'<' '>'}</style>\
     <ul><li>a<ul><li>b</ul><li>c</ul><p>first <q>quoted</q> line",
    "<svg width=120 height=60 viewBox='0 0 60 30'><defs><linearGradient id=g><stop stop-color=red>\
     </stop><stop offset=1 stop-color=blue></stop></linearGradient></defs><rect width=50% \
     height=20 fill=\"url&#40;#g)\"/><text x=3 y=28 textLength=40>text</text></svg>",
    "<style>header{position:fixed;top:0}aside{position:sticky;top:3px}p{height:400px}</style>\
     <header>on each page</header><aside>sticks</aside><p>1<p>2<p>3<p>4",
    "<details open><summary>s</summary>inner</details><details><summary>shut</summary>no</details>\
     <dialog open>dialog</dialog><select><option>one<option selected>two</select><textarea rows=3>\
     text</textarea><progress value=.3></progress><meter value=.6></meter><button>b</button>",
    "<style>:root{display:block!important}</style><p>insists",
    "<html style='display:flex!important' id=x><style>#x{color:green}</style><p>insists more",
    "<style>@layer a{:root{display:grid!important;gap:3px}}</style><p>insists in a layer",
    "<style>:root{display:none}</style><p>nothing to see",
    "<style>html{writing-mode:vertical-rl}p{text-combine-upright:all}</style><p>12<p>down",
    "<div dir=rtl>\u{5e9}\u{5dc}\u{5d5}\u{5dd} <ruby>\u{6f22}<rt>kan</ruby></div>\
     <math><mfrac><mi>x</mi><mn>2</mn></mfrac></math><marquee>runs</marquee>",
    "<style>p{width:fit-content;height:calc-size(auto,size);anchor-name:--a}i{position:absolute;\
     position-anchor:--a;top:anchor(bottom);transform:rotate(9deg)}</style><p>anchor<i>at it</i>",
    "<body link=red bgcolor=yellow><a href=#here>to</a><p id=here>here<base href=https://x.invalid/>",
    "<p>before<img width=90 src=\"data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' \
     width='60' height='30'><circle r='20'/></svg>\"><img style='width:50%;height:auto' \
     loading=lazy src='data:image/svg+xml,<svg xmlns=\"http://www.w3.org/2000/svg\" \
     viewBox=\"0 0 9 5\"><rect width=\"4\" height=\"4\"/></svg>'>after<img alt='not there' src=gone.png>",
    "<select size=4><option>1<option>2<option>3<option>4<option>5<option selected>6</select>",
    "<style>div{height:60px;overflow:auto}b{scroll-initial-target:nearest;display:block}</style>\
     <div><p>a<p>b<p>c<p>d<b>target</b></div>",
    "<style>p{position:sticky;top:50px}footer{position:sticky;bottom:0}</style><p>moves<footer>f",
    "<p>no end <b><i><table><tr><td>",
    "",
];

/// The same document, laid out as soon as it is set, since it might load something.
fn laid_out_early(html: &str) -> String {
    format!("{html}<!-- url(x) -->")
}

fn image(width: u32, height: u32) -> String {
    format!(
        "<p>logo<img src=\"data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' width='{width}' \
         height='{height}'><circle r='9'/></svg>\">"
    )
}

/// How the two prints of a document differ, if they do.
async fn difference(pool: &Pool, html: &str, options: &Value) -> Option<String> {
    let late = render(pool, html, options.clone()).await;
    let early = render(pool, &laid_out_early(html), options.clone()).await;
    let (late, early) = match (late, early) {
        (Ok(late), Ok(early)) => (late, early),
        (late, early) => return Some(format!("{options}: {late:?}, {early:?}: {html}")),
    };
    let pages = late.pages == early.pages;
    let warnings = late.warnings.len() == early.warnings.len();
    // A transformation may be written down in two ways.
    let pdf = late.pdf == early.pdf || Printed::of(late).pixels() == Printed::of(early).pixels();
    let same = pages && warnings && pdf;
    (!same).then(|| format!("{options}: pages {pages}, warnings {warnings}, PDF {pdf}: {html}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn laid_out_on_paper_only_a_document_prints_as_if_it_had_been_before() {
    let pool = pool().await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/receipts");
    let fixtures = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let fixtures = fixtures.filter(|path| path.extension().is_some_and(|end| end == "html"));
    let mut documents: Vec<String> =
        fixtures.map(|path| std::fs::read_to_string(path).unwrap()).collect();
    assert!(documents.len() >= 5);
    documents.extend(PECULIAR.iter().map(|html| (*html).to_owned()));
    let mut differ = Vec::new();
    for html in &documents {
        for options in [
            json!({}),
            json!({"paper": {"width": "80mm", "height": "120mm"}}),
            json!({"paper": "A5", "landscape": true, "media": "screen", "margin": "3mm"}),
            json!({"paper": "A6", "scale": 1.5, "background": false}),
        ] {
            differ.extend(difference(&pool, html, &options).await);
        }
    }
    assert!(differ.is_empty(), "{differ:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_fill_too_many_pages_are_refused_as_if_they_had_been_laid_out() {
    let pool = pool().await;
    let html = format!("<style>img{{width:9000px}}</style>{}", image(1, 1_000));
    for html in [laid_out_early(&html), html] {
        let failure = render(&pool, &html, json!({"paper": "A6"})).await.unwrap_err();
        assert_eq!(failure.code, "too_many_pages", "{html}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_a_document_decides_whether_it_is_laid_out_early() {
    let browser = browser().await;
    let context = context(&browser).await;
    let mut page = Page::of(&context, Duration::from_secs(5));
    let plain = "<p>plain";
    let rows = "<tr><td>a row".repeat(2_000);
    let breaks = format!("<style>tr{{break-after:auto}}</style>{rows}");
    let cases = [
        (plain, json!({"paper": "A6"}), "none"),
        (plain, json!({}), "none"),
        ("<p>nothing on paper<style>@page{margin:1mm}</style>", json!({}), "none"),
        (plain, json!({"paper": "80mm"}), "block"),
        (plain, json!({"paper": "A6"}), "none"),
        (plain, json!({"paper": "A6", "tagged": true}), "block"),
        (plain, json!({"paper": "A6", "header": "<b>h</b>"}), "block"),
        (plain, json!({"paper": "A6", "footer": "<b>f</b>"}), "block"),
        ("<p style='background:URL(data:image/png;base64,)'>", json!({"paper": "A6"}), "block"),
        ("<style>@font-face{font-family:x;src:u\\72l(data:,)}</style><p>x", json!({}), "block"),
        (&image(60, 30), json!({"paper": "A6"}), "none"),
        (&image(10, 300), json!({"paper": "A6"}), "block"),
        ("<iframe srcdoc='<p>framed'></iframe>", json!({"paper": "A6"}), "block"),
        ("<p style='height:30000px'>long", json!({"paper": "A6"}), "block"),
        (plain, json!({"paper": {"width": "80mm", "height": "10.3mm"}, "margin": "5mm"}), "block"),
        (&rows, json!({"paper": "A6"}), "none"),
        (&breaks, json!({"paper": "A6"}), "block"),
    ];
    for (html, options, want) in cases {
        assert_eq!(display_after(&mut page, &context, html, options).await.0, want, "{html}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_hides_on_paper_too_is_found_out_and_nothing_is_lost() {
    let browser = browser().await;
    let context = context(&browser).await;
    let mut page = Page::of(&context, Duration::from_secs(5));
    let sheet = json!({"paper": "A6"});
    let (display, good) = display_after(&mut page, &context, "<p>plain", sheet.clone()).await;
    assert_eq!(display, "none");
    // A document with nothing on it is no reason to think so.
    let (display, blank) = display_after(&mut page, &context, "", sheet.clone()).await;
    assert_eq!(display, "block");
    let (display, _) = display_after(&mut page, &context, "<p>plain", sheet.clone()).await;
    assert_eq!(display, "none");
    // The page's style sheet, as if its condition were always met.
    let always = "document.adoptedStyleSheets[0].insertRule(':root{display:none!important}', \
                  document.adoptedStyleSheets[0].cssRules.length)";
    let asked = json!({"expression": always});
    context.session().call_raw("Runtime.evaluate", &asked, PATIENCE).await.unwrap();
    for _ in 0..2 {
        let (display, found) = display_after(&mut page, &context, "<p>plain", sheet.clone()).await;
        assert_eq!(display, "block", "it hides nothing any more");
        assert!(found == good && found != blank);
    }
}

/// Renders a document; how its root element is displayed after that, and its PDF.
async fn display_after(
    page: &mut Page,
    context: &Context,
    html: &str,
    options: Value,
) -> (String, Vec<u8>) {
    let options = Arc::new(options::parse(options.as_object().unwrap()).unwrap());
    let request = tillroll::renderer::RenderRequest {
        options: Arc::clone(&options),
        ..request("shop", html, json!({}))
    };
    let rendered = page.render(&request, &LIMITS, Instant::now() + PATIENCE).await;
    let rendered = rendered.map_err(|failed| failed.failure).unwrap();
    let asked = json!({
        "expression": "getComputedStyle(document.documentElement).display",
        "returnByValue": true,
    });
    let reply = context.session().call_raw("Runtime.evaluate", &asked, PATIENCE).await.unwrap();
    let reply: Value = reply.deserialize().unwrap();
    (reply["result"]["value"].as_str().unwrap().to_owned(), rendered.pdf)
}
