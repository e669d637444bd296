//! The right edge: what is as wide as the paper is there in full.

use serde_json::{Value, json};

use crate::printed::{Printed, page, pool, print};

const DPI: f64 = 960.0;

/// Where the dark runs of one row begin and end, in points from the paper's left.
fn runs(printed: &Printed, row_points: f64) -> Vec<(f64, f64)> {
    let pixels = |points: f64| points * DPI / 72.0;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a row of a page")]
    let row = printed.row(DPI as u32, pixels(row_points) as u32);
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (at, _) in row.iter().enumerate().filter(|(_, grey)| **grey < 128) {
        match runs.last_mut() {
            Some((_, end)) if *end == at => *end = at + 1,
            _ => runs.push((at, at + 1)),
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "a few thousand")]
    let points = |at: usize| at as f64 * 72.0 / DPI;
    runs.into_iter().map(|(start, end)| (points(start), points(end))).collect()
}

fn papers() -> Vec<(Value, f64)> {
    let mm = 72.0 / 25.4;
    vec![
        (json!("A4"), 210.0 * mm),
        (json!("A5"), 148.0 * mm),
        (json!("A6"), 105.0 * mm),
        (json!("Letter"), 612.0),
        (json!("80mm"), 80.0 * mm),
        (json!("58mm"), 58.0 * mm),
        (json!({"width": "72mm", "height": "auto"}), 72.0 * mm),
        (json!({"width": "100mm", "height": "300pt"}), 100.0 * mm),
        (json!({"width": "226.5pt", "height": "auto"}), 226.5),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_border_at_the_right_edge_is_printed_in_full() {
    let pool = pool().await;
    let mm = 72.0 / 25.4;
    let html = page(
        "<style>html,body{margin:0}div{box-sizing:border-box;border:solid #000;\
         border-width:0 1px;height:90px}</style><div></div>",
    );
    for (paper, width) in papers() {
        let margins = [
            (json!("0"), 0.0, 0.0),
            (json!("10mm"), 10.0 * mm, 10.0 * mm),
            (json!("0.5in"), 36.0, 36.0),
            (json!({"left": "3.3mm", "right": "7.7pt"}), 3.3 * mm, 7.7),
        ];
        for (margin, left, right) in margins {
            for scale in [1.0, 0.7, 1.3] {
                let options = json!({"paper": paper, "margin": margin, "scale": scale});
                let printed = print(&pool, &html, options.clone()).await;
                assert!((printed.sizes()[0].0 - width).abs() < 0.01, "{options}: the paper");
                let top = if margin.is_string() { left } else { 0.0 };
                let found = runs(&printed, top + 30.0 * scale);
                let [first, last] = found[..] else { panic!("{options}: {found:?}") };
                for (start, end) in [first, last] {
                    let border = 0.75 * scale;
                    assert!((end - start - border).abs() < 0.11, "{options}: {found:?}");
                }
                // At most a pixel from where the margins are, on both sides.
                let pixel = 0.75 * scale.max(1.0) + 0.1;
                assert!((first.0 - left).abs() < pixel, "{options}: {found:?}");
                let end = width - right;
                assert!((end - last.1).abs() < 1.5 * pixel, "{options}: {end}, {found:?}");
                assert_eq!(printed.warnings(), Vec::<&str>::new(), "{options}");
            }
        }
    }
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_options_and_turned_it_is_there_too() {
    let pool = pool().await;
    let html = page(
        "<style>html,body{margin:0}div{box-sizing:border-box;border:solid #000;\
         border-width:0 1px;height:90px}</style><div></div>",
    );
    for options in [
        json!({}),
        json!({"paper": "A4"}),
        json!({"paper": "A6"}),
        json!({"landscape": true}),
        json!({"paper": "A5", "landscape": true}),
    ] {
        let found = runs(&print(&pool, &html, options.clone()).await, 60.0);
        let [(_, _), (start, end)] = found[..] else { panic!("{options}: {found:?}") };
        assert!((end - start - 0.75).abs() < 0.11, "{options}: {found:?}");
    }
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_as_wide_as_the_paper_by_its_own_words_keeps_its_border() {
    let pool = pool().await;
    for (paper, width) in [("80mm", "80mm"), ("58mm", "58mm"), ("80mm", "302px"), ("58mm", "219px")]
    {
        let html = page(&format!(
            "<style>html,body{{margin:0}}div{{box-sizing:border-box;border:solid #000;\
             border-width:0 1px;height:90px;width:{width}}}</style><div></div>"
        ));
        let printed = print(&pool, &html, json!({"paper": paper})).await;
        let found = runs(&printed, 30.0);
        let [(_, _), (start, end)] = found[..] else { panic!("{width} on {paper}: {found:?}") };
        assert!((end - start - 0.75).abs() < 0.11, "{width} on {paper}: {found:?}");
        assert_eq!(printed.warnings(), Vec::<&str>::new(), "{width} on {paper}");
    }
    pool.close().await;
}
