//! Assets that come with the job, seen in the PDF that comes out.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use tillroll::job::{Asset, Priority, assets::media_type_of};
use tillroll::pool::Pool;
use tillroll::renderer::{Render, RenderRequest};

use crate::printed::{Printed, none, page, pool, print, request};

fn asset(name: &str, bytes: impl Into<Bytes>) -> Asset {
    let media_type = media_type_of(name).unwrap();
    Asset { name: name.into(), media_type, bytes: bytes.into() }
}

fn file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/assets").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A picture of one colour, as wide and high as asked.
fn svg(colour: &str, size: u32) -> Vec<u8> {
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='{size}' height='{size}'>\
         <rect width='{size}' height='{size}' fill='{colour}'/></svg>"
    )
    .into_bytes()
}

fn with(tenant: &str, html: &str, options: Value, assets: &[Asset]) -> RenderRequest {
    RenderRequest { assets: assets.into(), ..request(tenant, html, options) }
}

async fn print_with(pool: &Pool, html: &str, options: Value, assets: &[Asset]) -> Printed {
    let rendered = pool.render(with("shop", html, options, assets)).await;
    Printed::of(rendered.unwrap_or_else(|failure| panic!("{failure}")))
}

/// How many dark points the first page has.
fn dark(printed: &Printed) -> usize {
    printed.pixels().iter().flatten().filter(|grey| **grey < 60).count()
}

fn messages(printed: &Printed) -> String {
    printed.rendered.warnings.iter().map(|w| format!("{}: {}\n", w.code, w.message)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fixture_has_its_images_and_its_font() {
    let pool = pool().await;
    let described: Value = serde_json::from_slice(&file("with-assets.json")).unwrap();
    let header = json!({"id": "a", "assets": described["assets"], "options": described["options"]});
    let mut element = format!("{header}\n").into_bytes();
    element.extend(file("with-assets.html"));
    for listed in described["assets"].as_array().unwrap() {
        element.extend(file(listed["name"].as_str().unwrap()));
    }
    let job = tillroll::job::parse(&element, Priority::Interactive, String::new).unwrap();
    let (html, assets) = (job.html, job.assets);
    let printed = print_with(&pool, &html, json!({"paper": "80mm"}), &assets).await;
    assert_eq!(printed.warnings(), Vec::<&str>::new(), "{}", messages(&printed));
    assert_eq!(printed.rendered.pages, 1);
    assert!(printed.fonts().contains("TillSegment"), "{}", printed.fonts());
    assert!(printed.images().len() >= 2, "{:?}", printed.images());
    assert!(printed.text().contains("0417 2298"));
    for round in 0..10 {
        let again = print_with(&pool, &html, json!({"paper": "80mm"}), &assets).await;
        assert!(again.rendered.pdf == printed.rendered.pdf, "the same bytes, round {round}");
        assert_eq!(again.warnings(), Vec::<&str>::new());
    }
    let other = pool.render(with("other", &html, json!({"paper": "80mm"}), &assets)).await;
    assert!(other.unwrap().pdf == printed.rendered.pdf, "in another tenant's page");
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn style_sheets_bring_what_they_refer_to() {
    let pool = pool().await;
    let css = "@import 'more.css'; @font-face{font-family:T;src:url(../fonts/till.woff)}
               p{font-family:T;margin:0} h1{font-size:0;height:60px;background:url(../img/bg.svg)}
               h1::after{content:url(../img/after.svg)}";
    let more = "body{margin:0} ul{list-style:url(../img/dot.svg);margin:0} @page{margin:50pt}";
    let assets = [
        asset("css/main.css", css),
        asset("css/more.css", more),
        asset("fonts/till.woff", file("till-segment.woff")),
        asset("img/bg.svg", svg("black", 20)),
        asset("img/after.svg", svg("black", 7)),
        asset("img/dot.svg", svg("black", 5)),
    ];
    let html =
        page("<link rel=stylesheet href='/css/main.css'><p>0417</p><h1>x</h1><ul><li>Tea</ul>");
    for options in [json!({}), json!({"paper": "80mm"}), json!({"paper": "A5"})] {
        let printed = print_with(&pool, &html, options.clone(), &assets).await;
        assert_eq!(printed.warnings(), Vec::<&str>::new(), "{}", messages(&printed));
        assert!(printed.fonts().contains("TillSegment"), "{options}: {}", printed.fonts());
        assert!(dark(&printed) > 3000, "{options}: {}", dark(&printed));
        let [left, top, ..] = printed.word("0417");
        assert!((left - 50.0).abs() < 1.5 && top < 60.0, "the margin of the asset: {left}");
    }
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_name_an_image_works() {
    let pool = pool().await;
    let assets = [asset("a.svg", svg("black", 90)), asset("b.svg", svg("white", 90))];
    let inline = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg'/%3E";
    for (what, body) in [
        ("src", "<img src=a.svg>".to_owned()),
        ("root", "<img src='/static/v2/a.svg?v=7#x'>".to_owned()),
        ("dots", "<img src='./x/../a.svg'>".to_owned()),
        ("srcset", format!("<img src='{inline}' srcset='a.svg 1x, b.svg 2x'>")),
        ("picture", "<picture><source srcset=a.svg media=print><img src=b.svg></picture>".into()),
        ("lazy", "<div style='height:40px'></div><img loading=lazy src=a.svg>".to_owned()),
        ("background", "<div style='height:90px;width:90px;background:url(a.svg)'>".to_owned()),
        (
            "svg image",
            "<svg width=90 height=90><image href=a.svg width=90 height=90 /></svg>".into(),
        ),
        (
            "style",
            "<style>div{height:90px;width:90px;background:url(a.svg)}</style><div></div>".into(),
        ),
        (
            "style for print",
            "<style>@media print{i{content:url(static/a.svg)}}</style><i>x</i>".to_owned(),
        ),
        ("own base", "<base href='https://shop.example/'><img src=a.svg>".to_owned()),
    ] {
        let follows = format!("<section style='height:110vh'>{body}");
        for (body, options) in [
            (&body, json!({})),
            (&body, json!({"paper": "A4", "scale": 1.0, "margin": "20mm"})),
            (&body, json!({"paper": "80mm"})),
            (&follows, json!({"paper": "80mm"})),
        ] {
            let printed = print_with(&pool, &page(body), options.clone(), &assets).await;
            let said = messages(&printed);
            assert_eq!(printed.warnings(), Vec::<&str>::new(), "{what}, {options}: {said}");
            let dark = dark(&printed);
            assert!((4000..6000).contains(&dark), "{what}, {options}: {dark}");
        }
    }
    let far = page("<div style='height:6000px'></div><img loading=lazy src=a.svg>");
    let printed = print_with(&pool, &far, json!({"paper": "80mm"}), &assets).await;
    assert_eq!(dark(&printed) / 1000, 4, "lazy and far below");
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_or_refused_is_named_once_each() {
    let pool = pool().await;
    let html = page(
        "<link rel=stylesheet href=no.css><p>Here<img src='img/no.png?secret=1'><img src=img/no.png>
         <img src='https://shop.example/x.png?token=secret'>
         <img src='https://me:pass@shop.example/y.png?token=secret'>
         <div style=\"background:url('http://shop.example/bg.png')\">x</div>
         <iframe src='https://shop.example/frame'></iframe><iframe src='a.svg'></iframe>
         <img src='broken.png'><img src='file:///etc/passwd'>",
    );
    let assets = [asset("a.svg", svg("black", 90)), asset("broken.png", "no picture")];
    let printed = print_with(&pool, &html, none(), &assets).await;
    let said = messages(&printed);
    let count = |code: &str| printed.warnings().iter().filter(|found| **found == code).count();
    assert_eq!(count("asset_missing"), 2, "{said}");
    assert_eq!(count("request_refused"), 4, "{said}");
    assert_eq!(count("image_missing"), 1, "{said}");
    assert_eq!(count("stylesheet_missing"), 0, "{said}");
    for shown in [
        "for no.css,",
        "for img/no.png,",
        "for https://shop.example/x.png,",
        "from https://shop.example/y.png",
        "broken.png",
        "bg.png",
    ] {
        assert_eq!(said.matches(shown).count(), 1, "{shown} in {said}");
    }
    assert!(!said.contains("secret") && !said.contains("pass@"), "{said}");
    assert!(printed.rendered.warnings.iter().all(|warning| !warning.remedy.is_empty()));
    assert!(printed.text().contains("Here"));
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_sees_its_own_assets_and_no_other_jobs() {
    let pool = pool().await;
    let html = page("<p>Here <img src=logo.svg></p>");
    let large = [asset("logo.svg", svg("black", 100))];
    let small = [asset("logo.svg", svg("black", 50))];
    let unrelated = [asset("other.svg", svg("black", 10))];
    for _ in 0..3 {
        let first = print_with(&pool, &html, none(), &large).await;
        let second = print_with(&pool, &html, none(), &small).await;
        assert!((5000..6500).contains(&dark(&first)), "{}", dark(&first));
        assert!((1300..2200).contains(&dark(&second)), "{}", dark(&second));
        let nothing = print(&pool, &html, none()).await;
        assert_eq!(nothing.warnings(), ["image_missing"]);
        assert!(dark(&nothing) < 200, "{}", dark(&nothing));
        let missing = print_with(&pool, &html, none(), &unrelated).await;
        assert_eq!(missing.warnings(), ["asset_missing"]);
        assert!(dark(&missing) < 200, "{}", dark(&missing));
    }
    let pool = Arc::new(pool);
    let both = async |assets: &[Asset], tenant: &str| {
        let rendered = pool.render(with(tenant, &html, none(), assets)).await.unwrap();
        dark(&Printed::of(rendered))
    };
    let (one, two) = tokio::join!(both(&large, "one"), both(&small, "two"));
    assert!(one > 5000 && two < 2200, "{one}, {two}");
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_into_the_document_stay_inside() {
    let pool = pool().await;
    let links = |printed: &Printed| {
        let text = String::from_utf8_lossy(&printed.rendered.pdf).into_owned();
        let uris: Vec<String> = text
            .match_indices("/URI (")
            .map(|(at, _)| text[at + 6..].split(')').next().unwrap().to_owned())
            .collect();
        (text.matches("/Dest").count() > 1, text.matches("/Subtype /Link").count(), uris)
    };
    // What is generated is an area of its own: two for each link.
    let body = "<style>a[href]::after{content:' (' attr(href) ')'}</style>
                <a href='#end'>in</a> <a href='https://shop.example/a'>out</a>
                <a href='terms.html'>relative</a> <a href='/x#end'>other</a>
                <p id=end style='margin-top:1500px'>End";
    let assets = [asset("a.svg", svg("black", 9))];
    let without = print(&pool, &page(body), none()).await;
    let with = print_with(&pool, &page(body), none(), &assets).await;
    assert_eq!(links(&without), (true, 4, vec!["https://shop.example/a".to_owned(); 2]));
    assert_eq!(links(&with), links(&without));
    assert!(with.rendered.pdf == without.rendered.pdf, "assets that are not used change nothing");
    let based = page(&format!("<base href='https://shop.example/de/'>{body}"));
    let (inside, count, uris) = links(&print_with(&pool, &based, none(), &assets).await);
    assert!(inside, "{uris:?}");
    assert_eq!(count, 8);
    assert!(uris.contains(&"https://shop.example/de/terms.html".to_owned()), "{uris:?}");
    let paper = json!({"paper": "80mm"});
    let roll = print_with(&pool, &page(body), paper, &assets).await;
    assert_eq!(links(&roll), links(&print(&pool, &page(body), json!({"paper": "80mm"})).await));
    assert!(roll.text().contains("(terms.html)"), "{}", roll.text());
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_head_is_what_it_was() {
    let pool = pool().await;
    let assets = [asset("a.svg", svg("black", 9))];
    let html = "<!-- x --><!DOCTYPE html>\n<html lang=de class=wide><head><meta charset=utf-8>
        <title>Beleg 7</title><style>html.wide p{margin-left:100px}</style></head>
        <body class=b><p>\u{dc}ber</p><table><tr><td>Tee</table></body></html>";
    let quirks = "<html><title>Beleg 7</title><table><tr><td>Tee</table>";
    for html in [html, quirks] {
        let options = json!({"tagged": true});
        let without = print(&pool, html, options.clone()).await;
        let with = print_with(&pool, html, options, &assets).await;
        assert!(with.rendered.pdf == without.rendered.pdf, "{html}");
        assert_eq!(with.info("Title"), "Beleg 7");
    }
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_without_assets_pay_nothing_for_them() {
    let pool = pool().await;
    let sheet = page("<p>Total");
    let assets = [asset("a.svg", svg("black", 9))];
    let calls = async |html: &str, options: Value| {
        let before = pool.browser().unwrap().connection().commands();
        print(&pool, html, options).await;
        pool.browser().unwrap().connection().commands() - before
    };
    calls(&sheet, none()).await;
    assert_eq!(calls(&sheet, none()).await, 2, "set and print");
    print_with(&pool, &sheet, none(), &assets).await;
    assert_eq!(calls(&sheet, none()).await, 3, "another style sheet after a job with assets");
    assert_eq!(calls(&sheet, none()).await, 2, "and that once");
    calls(&sheet, json!({"paper": "80mm"})).await;
    assert_eq!(calls(&sheet, json!({"paper": "80mm"})).await, 3, "set, measure and print");
    assert_eq!(pool.status().opened, 1);
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_a_job_with_assets_harm_nobody() {
    let pool = pool().await;
    let assets = [asset("a.svg", svg("black", 90))];
    let html = page("<img src=a.svg>");
    let failure =
        pool.render(with("shop", &html, json!({"pages": "9"}), &assets)).await.unwrap_err();
    assert_eq!(failure.code, "page_range");
    assert_eq!(pool.status().opened, 1, "the page was kept");
    // More than is loaded in time: what is still asked for is not the next job's.
    for source in ["{n}.png", "https://shop.example/{n}.png"] {
        let image = |n: usize| format!("<img src='{}'>", source.replace("{n}", &n.to_string()));
        let many: String = (0..3000).map(image).collect();
        let crowd = pool.render(with("shop", &page(&many), none(), &assets)).await;
        if let Ok(rendered) = crowd {
            assert!(rendered.warnings.len() <= 22, "{}", rendered.warnings.len());
        }
        let printed = print_with(&pool, &html, none(), &assets).await;
        assert_eq!(printed.warnings(), Vec::<&str>::new());
    }
    let printed = print_with(&pool, &html, none(), &assets).await;
    assert_eq!(printed.warnings(), Vec::<&str>::new());
    assert!(dark(&printed) > 4000);
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_assets_are_in_its_next_document_and_in_no_other_tenants() {
    let pool = pool().await;
    let html = page("<link rel=stylesheet href=/css/house.css><p>Here <img src=logo.svg></p>");
    let of_one = [
        asset("css/house.css", "p{background:url(../img/bg.svg);margin:0;width:90px;height:90px}"),
        asset("img/bg.svg", svg("black", 90)),
        asset("logo.svg", svg("black", 50)),
        asset("unused.svg", svg("black", 90)),
    ];
    let of_two = [asset("logo.svg", svg("black", 10))];
    let mut shared = [Vec::new(), Vec::new(), Vec::new()];
    tillroll::job::shared::share(&html, false, &mut shared[0], &of_one);
    tillroll::job::shared::share(&html, false, &mut shared[1], &of_two);
    assert_eq!(shared[0].len(), 3, "what it cannot ask for is left out");
    let print_for = async |tenant: &str, assets: &[Asset]| {
        Printed::of(pool.render(with(tenant, &html, none(), assets)).await.unwrap())
    };
    let mut first = None;
    for round in 0..3 {
        let one = print_for("one", &shared[0]).await;
        assert_eq!(one.warnings(), Vec::<&str>::new(), "{}", messages(&one));
        assert!(dark(&one) > 4000, "round {round}: {}", dark(&one));
        let two = print_for("two", &shared[1]).await;
        assert_eq!(two.warnings(), ["asset_missing"], "{}", messages(&two));
        assert!(dark(&two) < 400, "round {round}: {}", dark(&two));
        let three = print_for("three", &shared[2]).await;
        assert!(dark(&three) < 300, "round {round}: {}", dark(&three));
        // One that lost them between two documents does not keep them either.
        let none_left = print_for("one", &[]).await;
        assert!(none_left.rendered.pdf == three.rendered.pdf, "round {round}");
        let pdf = one.rendered.pdf;
        assert!(first.get_or_insert_with(|| pdf.clone()) == &pdf, "the same bytes each time");
    }
    pool.close().await;
}
