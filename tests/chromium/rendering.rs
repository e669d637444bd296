//! Every option of a sheet, seen in the PDF that comes out.

use serde_json::json;

use crate::printed::{Printed, pool};
use crate::printed::{asset, blame, none, page, print, render, request};
use tillroll::job::RenderOptions;
use tillroll::renderer::Render;
use tillroll::renderer::pdf::{Document, Stamp};

const A4: (f64, f64) = (595.28, 841.89);
const A5: (f64, f64) = (419.53, 595.28);
const A6: (f64, f64) = (297.64, 419.53);

fn assert_sizes(printed: &Printed, (width, height): (f64, f64), what: &str) {
    for (w, h) in printed.sizes() {
        let exact = (w - width).abs() < 0.011 && (h - height).abs() < 0.011;
        assert!(exact, "{what}: {w} x {h} instead of {width} x {height}");
    }
}

fn assert_near(got: f64, want: f64, what: &str) {
    assert!((got - want).abs() < 1.5, "{what}: {got} instead of {want}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_paper_has_its_exact_size() {
    let pool = pool().await;
    let html = page("<p>Total</p>");
    for (paper, size) in [
        (json!("A4"), A4),
        (json!("A5"), A5),
        (json!("A6"), A6),
        (json!("Letter"), (612.0, 792.0)),
        (json!("Legal"), (612.0, 1008.0)),
        (json!({"width": "100mm", "height": "6in"}), (283.46, 432.0)),
        (json!({"width": "302px", "height": "200.5pt"}), (226.5, 200.5)),
    ] {
        let printed = print(&pool, &html, json!({"paper": paper})).await;
        assert_sizes(&printed, size, &paper.to_string());
        let printed = print(&pool, &html, json!({"paper": paper, "landscape": true})).await;
        assert_sizes(&printed, (size.1, size.0), &format!("{paper} turned"));
    }
    assert_eq!(print(&pool, &html, none()).await.sizes(), [A4]);
    let turned = print(&pool, &html, json!({"landscape": true})).await;
    assert_eq!(turned.sizes(), [(A4.1, A4.0)]);
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_decides_on_its_paper_unless_the_job_does() {
    let pool = pool().await;
    let html = page("<style>@page{size:A5 landscape;margin:30pt}body{margin:0}</style><p>Here");
    let own = print(&pool, &html, none()).await;
    let (width, height) = own.sizes()[0];
    assert_near(width, A5.1, "the document's width");
    assert_near(height, A5.0, "the document's height");
    assert_near(own.word("Here")[0], 30.0, "the document's margin");

    let given = print(&pool, &html, json!({"paper": "A4"})).await;
    assert_eq!(given.sizes(), [A4]);
    let [left, top, right, _] = given.word("Here");
    assert_near(left, 30.0, "the document's margin on the job's paper");
    let [own_left, own_top, own_right, _] = own.word("Here");
    assert_near(top, own_top, "not centred");
    assert_near(right - left, own_right - own_left, "not scaled");

    let both = print(&pool, &html, json!({"paper": "A4", "margin": "90pt"})).await;
    assert_near(both.word("Here")[0], 90.0, "the job's margin");
    let margin = print(&pool, &html, json!({"margin": "90pt"})).await;
    assert_near(margin.word("Here")[0], 90.0, "the job's margin on the document's paper");
    assert_near(margin.sizes()[0].0, A5.1, "the document's width");
    // What one job asked for is not left for the next.
    let again = print(&pool, &html, none()).await;
    assert_eq!(again.rendered.pdf, own.rendered.pdf);
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_pages_and_named_pages_do_not_escape_the_jobs_paper() {
    let pool = pool().await;
    let html = page(
        "<style>@page:first{size:A6;margin:99pt} @page wide{size:A3} .w{page:wide}
         body{margin:0}</style><p>One<p class=w>Two",
    );
    let printed = print(&pool, &html, json!({"paper": "A5", "margin": "20pt"})).await;
    assert_eq!(printed.sizes(), [A5, A5]);
    assert_near(printed.word("One")[0], 20.0, "the margin of the first page");
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn margins_and_scale_move_the_content() {
    let pool = pool().await;
    let html = page("<style>body{margin:0}p{margin:0;font-size:20px}</style><p>Here");
    let printed = print(&pool, &html, none()).await;
    assert_near(printed.word("Here")[0], 28.35, "10 mm without options");
    let margin = json!({"top": "100pt", "left": "50pt"});
    let moved = print(&pool, &html, json!({"paper": "A4", "margin": margin})).await;
    let [left, top, right, bottom] = moved.word("Here");
    assert_near(left, 50.0, "left");
    assert!((98.0..112.0).contains(&top), "{top}");
    let large = json!({"paper": "A4", "margin": margin, "scale": 2});
    let [l, _, r, b] = print(&pool, &html, large).await.word("Here");
    assert_near(r - l, 2.0 * (right - left), "twice as wide");
    assert!(b > bottom, "{b}");
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_media_and_background_are_obeyed() {
    let pool = pool().await;
    let html = page(
        "<style>p{break-after:page} .s{display:none} div{background:#000;height:300px}
         @media screen{.s{display:block}.p{display:none}}</style>
         <p>One<p>Two<p>Three<span class=s>ForScreen</span><span class=p>ForPaper</span>",
    );
    let all = print(&pool, &html, none()).await;
    assert_eq!(all.rendered.pages, 3);
    assert!(all.text().contains("ForPaper") && !all.text().contains("ForScreen"));
    let some = print(&pool, &html, json!({"pages": "1, 3-"})).await;
    assert_eq!(some.rendered.pages, 2);
    assert!(!some.text().contains("Two"), "{}", some.text());
    let screen = print(&pool, &html, json!({"media": "screen"})).await;
    assert!(screen.text().contains("ForScreen") && !screen.text().contains("ForPaper"));
    let again = print(&pool, &html, none()).await;
    assert_eq!(again.rendered.pdf, all.rendered.pdf, "media is not left for the next job");

    let black = page("<div style='background:#000;height:300px'></div>");
    let dark = |printed: &Printed| {
        let pixels = printed.pixels();
        pixels.iter().flatten().filter(|grey| **grey < 50).count()
    };
    assert!(dark(&print(&pool, &black, none()).await) > 50_000);
    assert_eq!(dark(&print(&pool, &black, json!({"background": false})).await), 0);
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn header_and_footer_are_printed_and_nothing_of_chromiums_own() {
    let pool = pool().await;
    let html = page("<p>One<p style='break-before:page'>Two");
    let footer = "<span style='font-size:10px;margin-left:40px'>Page <span class=pageNumber>\
                  </span> of <span class=totalPages></span></span>";
    let printed = print(&pool, &html, json!({"footer": footer, "margin": "60pt"})).await;
    let text = printed.text();
    assert!(text.contains("Page 1 of 2") && text.contains("Page 2 of 2"), "{text}");
    assert!(!text.contains("about:blank") && !text.contains("Bill 7"), "{text}");
    let header = "<span style='font-size:10px'>Corner Shop</span>";
    let printed = print(&pool, &html, json!({"header": header, "margin": "60pt"})).await;
    assert!(printed.text().contains("Corner Shop"));
    assert!(printed.word("Corner")[1] < 60.0);
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pdf_says_what_the_job_says_about_it() {
    let pool = pool().await;
    let html = page("<p>Total");
    let printed = print(&pool, &html, none()).await;
    assert_eq!(printed.info("Title"), "Bill 7");
    assert_eq!(printed.info("Creator"), "Tillroll");
    assert_eq!(printed.info("Producer"), "Tillroll (Skia/PDF)");
    assert_eq!(printed.info("CreationDate"), "D:20260331120000+00'00'");
    assert_eq!(printed.info("Tagged"), "no");
    let info = json!({"title": "Bill ₹ (2)", "author": "Chai & Co", "subject": "Tea",
        "keywords": "tea, bill", "date": "2020-01-02T03:04:05+05:30"});
    let printed = print(&pool, &html, json!({"info": info})).await;
    assert_eq!(printed.info("Title"), "Bill ₹ (2)");
    assert_eq!(printed.info("Author"), "Chai & Co");
    assert_eq!(printed.info("Subject"), "Tea");
    assert_eq!(printed.info("Keywords"), "tea, bill");
    assert_eq!(printed.info("ModDate"), "D:20200102030405+05'30'");
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_and_outline_come_on_request_only() {
    let pool = pool().await;
    let html = page("<h1>Bill</h1><table><tr><th>Tea<td>1</table>");
    let has = |printed: &Printed, what: &str| {
        String::from_utf8_lossy(&printed.rendered.pdf).contains(what)
    };
    let plain = print(&pool, &html, none()).await;
    assert!(!has(&plain, "/StructTreeRoot") && !has(&plain, "/Outlines"));
    let tagged = print(&pool, &html, json!({"tagged": true})).await;
    assert_eq!(tagged.info("Tagged"), "yes");
    assert!(!has(&tagged, "/Outlines"));
    let outlined = print(&pool, &html, json!({"tagged": true, "outline": true})).await;
    assert!(has(&outlined, "/Outlines"));
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_job_gives_the_same_bytes_in_any_page() {
    let pool = pool().await;
    let html = page(
        "<h1>Bill</h1><a href='#b'>in</a> <a href='https://shop.example/'>out</a>
         <table><tr><th id=b>Tea<td>1</table>",
    );
    for options in [none(), json!({"paper": "80mm"}), json!({"tagged": true, "outline": true})] {
        let first = render(&pool, &html, options.clone()).await.unwrap().pdf;
        print(&pool, &page("<p>between"), json!({"paper": "A6", "media": "screen"})).await;
        let second = render(&pool, &html, options.clone()).await.unwrap().pdf;
        assert!(first == second, "{options}: the second time");
        let other = pool.render(request("other", &html, options.clone())).await.unwrap().pdf;
        assert!(first == other, "{options}: in another tenant's page");
    }
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inline_images_and_fonts_are_there() {
    let pool = pool().await;
    let red = "<svg xmlns='http://www.w3.org/2000/svg' width='90' height='90'>\
               <rect width='90' height='90' fill='red'/></svg>";
    let (font, logo) = (asset("till-segment.woff"), asset("logo.png"));
    for round in 0..5 {
        let html = page(&format!(
            "<style>@font-face{{font-family:F{round};src:url(data:font/woff;base64,{font})}}
             p{{font-family:F{round}}}</style><p>1234567890</p>
             <div style='height:3000px'></div>
             <img loading=lazy src='data:image/png;base64,{logo}'>
             <img src=\"data:image/svg+xml,{}\">",
            red.replace('<', "%3C").replace('#', "%23")
        ));
        let printed = print(&pool, &html, none()).await;
        assert_eq!(printed.warnings(), Vec::<&str>::new());
        assert!(!printed.images().is_empty(), "round {round}");
        assert!(printed.fonts().contains("TillSegment"), "{}", printed.fonts());
    }
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named() {
    let pool = pool().await;
    let html = page(
        "<style>@font-face{font-family:Till;src:url(till.woff)}p{font-family:Till}</style>
         <p>Here<img src='logo.png'><img src='data:image/png;base64,AAAA'>
         <img src='http://shop.example/a.png'><img>",
    );
    let printed = print(&pool, &html, none()).await;
    assert_eq!(printed.warnings(), ["image_missing", "font_missing"]);
    let message = &printed.rendered.warnings[0].message;
    assert!(message.contains("logo.png, data:image/png, http://shop.example/a.png"), "{message}");
    assert!(!message.contains("AAAA"), "{message}");
    assert!(printed.text().contains("Here"));
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_printed_is_the_documents_fault_and_harms_nobody() {
    let pool = pool().await;
    let html = page("<p>Total");
    for (options, code) in
        [(json!({"pages": "7"}), "page_range"), (json!({"margin": "150mm"}), "margin_too_large")]
    {
        assert_eq!(blame(&pool, &html, options).await, ("document", code));
    }
    print(&pool, &html, none()).await;
    let status = pool.status();
    assert_eq!((status.opened, status.idle), (1, 1), "the page was kept: {status:?}");
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_document_reaches_into_the_next() {
    let pool = pool().await;
    let logo = asset("logo.png");
    let html = page(&format!("<p>Next<img src='data:image/png;base64,{logo}'>"));
    let before = print(&pool, &html, none()).await;
    let rows = "<tr><td>First".repeat(1_500);
    for first in [
        &*format!("<table>{rows}"),
        &format!("<body link=red><table>{rows}"),
        &format!("<style>td{{font:20px serif}}@page{{margin:9mm}}</style><table>{rows}"),
        "<meta http-equiv=refresh content='0;url=about:blank'><p>First",
        "<meta http-equiv='Refresh' content='0.05;url=data:text/html,gone'><p>First",
        "<meta http-equiv=Content-Security-Policy content=\"img-src 'none';style-src 'none'\"><p>First",
        "<base href='https://elsewhere.example/'><p>First",
        "<script>document.title='x';window.x=1</script><p onload=1>First",
        "<iframe src='https://shop.example/'></iframe><iframe srcdoc='<p>inner'></iframe><p>First",
        "<p>First<!-- <textarea><style>p{display:none}",
        "First<style>p{display:none}",
    ] {
        let printed = print(&pool, first, none()).await;
        assert!(printed.text().contains("First"), "{first}");
        // A refresh that is still armed fires while this one is printed, or the one after.
        for _ in 0..3 {
            let after = print(&pool, &html, none()).await;
            assert!(after.rendered.pdf == before.rendered.pdf, "{first}");
        }
    }
    assert_eq!(pool.status().opened, 1);
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_a_document_brings_along_are_printed() {
    let logo = asset("logo.png");
    let framed = page(
        "<p>Outer<form name=images></form><iframe height=300 srcdoc='<p>Inner\
         &lt;form name=images id=fonts&gt;<iframe height=60 srcdoc=Deep></iframe>'></iframe>\
         <iframe src='data:text/html,Data'></iframe>",
    );
    let pictured = format!(
        "<p>Seen<iframe height=400 srcdoc='&lt;img src=data:image/png;base64,{logo}>Logo<img src=x>'>"
    );
    let plain = page("<p>Plain<a href='#x'>in</a><a href=''>self</a><p id=x>x");
    // As the first document of a page, after one without frames, and after one with.
    for order in [&[&framed, &plain, &framed][..], &[&plain, &framed, &framed, &plain]] {
        let pool = pool().await;
        let mut plains = Vec::new();
        for html in order {
            let printed = print(&pool, html, none()).await;
            if *html == &plain {
                plains.push(printed.rendered.pdf);
                continue;
            }
            let text = printed.text();
            for word in ["Outer", "Inner", "Deep", "Data"] {
                assert!(text.contains(word), "{word}: {text}");
            }
        }
        assert!(plains.iter().all(|pdf| *pdf == plains[0]));
        let printed = print(&pool, &page(&pictured), none()).await;
        // The logo, and the sign for the one that is missing.
        assert_eq!((printed.images().len(), printed.warnings()), (2, vec!["image_missing"]));
        assert_eq!(pool.status().opened, 1);
        pool.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_says_the_same_on_every_page_of_a_context() {
    let pool = pool().await;
    let options =
        json!({"header": "<b style='font-size:9px'>at <i class=url></i></b>", "margin": "60pt"});
    let first = print(&pool, &page("<p>Total"), options.clone()).await;
    print(&pool, &page("<iframe srcdoc=x></iframe>"), none()).await;
    assert!(print(&pool, &page("<p>Total"), options).await.text() == first.text());
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_never_ends_is_stopped_at_its_deadline() {
    let pool = pool().await;
    let rows = "<tr><td>Tea<td>1<td>2.00".repeat(45_000);
    let endless = "<img src=x onerror='for(;;){}'>";
    for (html, options) in [
        (page(&format!("<table>{rows}</table>")), json!({"timeout_ms": 300})),
        (page(&format!("<table>{rows}</table>")), json!({"timeout_ms": 300, "paper": "80mm"})),
    ] {
        assert_eq!(blame(&pool, &html, options).await, ("document", "render_timeout"));
        print(&pool, &page("<p>next"), none()).await;
    }
    // Scripts are off in documents; whether they are in templates is Chromium's to
    // say, so nothing is asked of the result but that it comes in time.
    let options = json!({"header": endless, "margin": "60pt", "timeout_ms": 3000});
    if let Err(failure) = render(&pool, &page("<p>Total"), options).await {
        assert_eq!(failure.code, "render_timeout", "{failure}");
    }
    print(&pool, &page("<p>next"), none()).await;
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_pdf_is_never_trusted() {
    let pool = pool().await;
    let html = page("<h1>Bill</h1><table><tr><th>Tea<td>1</table>");
    let rendered = render(&pool, &html, json!({"tagged": true, "outline": true})).await.unwrap();
    let pdf = rendered.pdf;
    for cut in (0..pdf.len() - 8).step_by(7) {
        assert!(Document::read(&pdf[..cut]).is_err(), "cut at {cut}");
    }
    let options = RenderOptions::default();
    let date = time::OffsetDateTime::UNIX_EPOCH;
    let stamp = Stamp { info: &options.info, date, size: (595.28, None) };
    for at in (0..pdf.len()).step_by(3) {
        let mut damaged = pdf.clone();
        damaged[at] ^= 0x15;
        if let Ok(finished) = Document::read(&damaged).and_then(|document| document.finish(&stamp))
        {
            assert!(Document::read(&finished.pdf).is_ok(), "changed at {at}");
        }
    }
    pool.close().await;
}
