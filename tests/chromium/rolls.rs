//! Rolls: one page, as high as its content, and nothing cut.

use serde_json::json;

use crate::printed::{blame, page, pool, print};

fn lines(count: usize) -> String {
    (0..count).map(|n| format!("<p>line {n}</p>")).collect()
}

/// Documents whose height is easily got wrong, and a last word to be seen.
fn awkward() -> Vec<(&'static str, String)> {
    let lines = lines(30);
    let end = "<p>LAST</p>";
    let with = |css: &str| page(&format!("<style>{css}</style>{lines}{end}"));
    vec![
        ("plain", with("")),
        ("one line", page("LAST")),
        ("quirks", format!("{lines}{end}")),
        ("full height", with("html,body{height:100%}")),
        (
            "full height, inner",
            page(&format!(
                "<style>html,body{{height:100%;margin:0}}.w{{min-height:100%}}</style><div class=w>{lines}{end}</div>"
            )),
        ),
        ("viewport height", page(&format!("<div style='min-height:100vh'>{lines}{end}</div>"))),
        (
            "viewport height, twice",
            page(&format!("<style>.w{{height:200vh}}</style><div class=w>{lines}{end}</div>")),
        ),
        ("viewport height, body", with("body{min-height:100vh}")),
        (
            "grid",
            page(&format!(
                "<style>body{{display:grid;min-height:100vh;grid-template-rows:1fr auto}}</style><div>{lines}</div><footer>LAST</footer>"
            )),
        ),
        ("breaks after all", with("p{page-break-after:always}")),
        (
            "break before the last",
            page(&format!("{lines}<div style='break-before:page'>LAST</div>")),
        ),
        ("empty break", page(&format!("{lines}{end}<div style='page-break-after:always'></div>"))),
        (
            "collapsing margin",
            page(&format!(
                "{lines}<div style='margin-bottom:60px'><p style='margin-bottom:80px'>LAST</div>"
            )),
        ),
        ("float", page(&format!("{lines}<div style='float:left'>a<br>b<br>LAST</div>"))),
        (
            "footer in the body",
            page(&format!(
                "<div style='position:relative;padding-bottom:40px'>{lines}<div style='position:absolute;bottom:0'>LAST</div></div>"
            )),
        ),
        (
            "far below",
            page(&format!("{lines}<div style='position:absolute;top:3000px'>LAST</div>")),
        ),
        ("moved", page(&format!("{lines}<div style='transform:translateY(100px)'>LAST</div>"))),
        ("border", page(&format!("{lines}<div style='border-bottom:3px solid'>LAST</div>"))),
        ("flex", with("body{display:flex;flex-direction:column}")),
        ("columns", page(&format!("<div style='columns:2'>{lines}</div>{end}"))),
        ("hidden overflow", with("html,body{overflow:hidden}")),
        ("its own sheet", with("@page{size:A5} p{orphans:9}")),
        ("named pages", with("@page foo{size:A3} p:last-child{page:foo}")),
        (
            "long table",
            page(&format!(
                "<table><thead><tr><th>H</thead>{}<tr><td>LAST</table>",
                "<tr><td>x".repeat(300)
            )),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roll_is_one_page_with_everything_on_it() {
    let pool = pool().await;
    for (paper, width) in [("80mm", 226.77), ("58mm", 164.41)] {
        for (name, html) in awkward() {
            let printed = print(&pool, &html, json!({"paper": paper})).await;
            let [(got, height)] = printed.sizes()[..] else { panic!("{name}: not one page") };
            assert!((got - width).abs() < 0.006, "{name}: {got}");
            let [_, _, _, bottom] = printed.word("LAST");
            assert!(bottom <= height, "{name}: LAST ends at {bottom} of {height}");
            assert!(printed.text().contains("LAST"), "{name}");
        }
    }
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roll_ends_where_its_content_ends() {
    let pool = pool().await;
    for scale in [0.5, 1.0, 1.7] {
        // 777 px of black, and not a white row more than rounding costs.
        let html =
            page("<style>body{margin:0}div{height:777px;background:#000}</style><div></div>");
        let printed = print(&pool, &html, json!({"paper": "80mm", "scale": scale})).await;
        let rows = printed.pixels();
        let black = rows.iter().filter(|row| row[50] < 40).count();
        let want = 777.0 * 0.75 * scale;
        #[allow(clippy::cast_precision_loss, reason = "a few hundred rows")]
        let (black, all) = (black as f64, rows.len() as f64);
        assert!((black - want).abs() <= 1.5, "{black} of {want}");
        assert!(all - want < 3.5, "{all} rows for {want} pt");
        assert!(rows.last().unwrap()[50] > 200, "the end of the content is on the page");
    }
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn margins_of_the_job_or_of_the_document_are_kept_on_a_roll() {
    let pool = pool().await;
    let body = format!("<style>body{{margin:0}}</style>{}<p>LAST", lines(20));
    let own = page(&format!(
        "<style>@page{{margin:4mm 6mm}}@page:first{{margin-top:10mm}}</style>{body}"
    ));
    let bare = print(&pool, &page(&body), json!({"paper": "80mm"})).await;
    let given =
        print(&pool, &own, json!({"paper": "80mm", "margin": {"left": "20pt", "top": "30pt"}}))
            .await;
    let found = print(&pool, &own, json!({"paper": "80mm"})).await;
    let left = |printed: &crate::printed::Printed| printed.word("LAST")[0];
    assert!((left(&given) - left(&bare) - 20.0).abs() < 1.5, "{}", left(&given));
    assert!((left(&found) - left(&bare) - 17.0).abs() < 1.5, "{}", left(&found));
    let height = |printed: &crate::printed::Printed| printed.sizes()[0].1;
    assert!((height(&given) - height(&bare) - 30.0).abs() < 1.5, "{}", height(&given));
    assert!((height(&found) - height(&bare) - 39.7).abs() < 2.0, "{}", height(&found));
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wide_content_is_shrunk_with_a_warning_and_not_lost() {
    let pool = pool().await;
    let html = page(&format!("<div style='width:400px'>{}<p>LAST</div>", lines(30)));
    let printed = print(&pool, &html, json!({"paper": "80mm"})).await;
    assert_eq!(printed.warnings(), ["content_too_wide"]);
    let [(_, height)] = printed.sizes()[..] else { panic!("not one page") };
    let [_, _, _, bottom] = printed.word("LAST");
    assert!(bottom <= height && height - bottom < 40.0, "{bottom} of {height}");
    // As wide as the paper is not too wide.
    for (paper, width) in [("80mm", "80mm"), ("58mm", "58mm"), ("80mm", "302px"), ("80mm", "72mm")]
    {
        let html = page(&format!("<style>body{{margin:0;width:{width}}}</style><p>LAST"));
        let printed = print(&pool, &html, json!({"paper": paper})).await;
        assert_eq!(printed.warnings(), Vec::<&str>::new(), "{width} on {paper}");
    }
    // The next job on the same roll is not affected.
    let plain = print(&pool, &page("<p>LAST"), json!({"paper": "80mm"})).await;
    assert_eq!(plain.warnings(), Vec::<&str>::new());
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roll_longer_than_a_page_can_be_is_refused() {
    let pool = pool().await;
    let html = page("<style>body{margin:0}</style><div style='height:19190px'>LAST</div>");
    let printed = print(&pool, &html, json!({"paper": "80mm"})).await;
    assert!(printed.sizes()[0].1 > 14_390.0);
    let html = page("<div style='height:19300px'>x</div>");
    assert_eq!(blame(&pool, &html, json!({"paper": "80mm"})).await, ("document", "page_too_long"));
    assert_eq!(pool.status().opened, 1, "the page took no harm");
    pool.close().await;
}
