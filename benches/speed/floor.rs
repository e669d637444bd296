//! The floor: what Chromium does when nothing else is in the way.
//!
//! Contexts, targets, style sheets and calls are those of the worker
//! (`src/renderer/context.rs`, `src/renderer/page/mod.rs`):
//!
//! | | calls for each job |
//! |---|---|
//! | a sheet | `Page.setDocumentContent`, `Page.printToPDF` |
//! | a roll | `Page.setDocumentContent`, `Page.getLayoutMetrics`, `Page.printToPDF` |
//! | paper other than the page's last | before that `Emulation.setDeviceMetricsOverride`, `Runtime.evaluate` |
//!
//! Nothing is decoded: a print counts if what comes back begins as a PDF.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tillroll::renderer::limits::Limits;
use tillroll::renderer::paper::Plan;

use crate::documents::Document;
use crate::pipe::{Answer, Pipe, message};

/// Pages at once: one more than the cores. Nothing here waits for a queue, so that more
/// are no faster.
pub(crate) fn at_once() -> usize {
    std::thread::available_parallelism().unwrap().get() + 1
}

/// How the result of a print begins.
const PDF: &[u8] = b"{\"data\":\"JVBERi";
/// `renderer.max_pages`, which the worker puts into every print on sheets.
const MOST_PAGES: u64 = 1_000;
/// Where the height of a roll goes in a print.
const HEIGHT: &str = "\"HEIGHT\"";

/// When Chromium lays a document out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum LaidOut {
    /// As the worker has it: a sheet when it is printed, by the page's style sheet.
    AsTheWorker,
    /// As soon as it is set, on its pages, and once more for the screen: Chromium's way.
    Early,
}

fn style_sheet(plan: &Plan, laid_out: LaidOut) -> String {
    if laid_out == LaidOut::AsTheWorker && !plan.is_roll() {
        return plan.css_until_printed();
    }
    plan.css.clone()
}

/// What is to be sent for one document in one page.
struct Work {
    paper: (u32, String),
    viewport: Vec<u8>,
    adopt: Vec<u8>,
    set: Vec<u8>,
    /// Asks for the height, of a roll.
    measure: Option<Vec<u8>>,
    /// The print; of a roll up to its height, and from there.
    print: (Vec<u8>, Option<(Vec<u8>, Plan)>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Viewport,
    Adopt,
    Set,
    Measure,
    Print,
}

struct Page {
    works: Vec<Work>,
    /// Width of the viewport and style sheet, as they are.
    paper: (u32, String),
    work: usize,
    stage: Stage,
    jobs: usize,
}

/// Warm pages of contexts of their own.
pub(crate) struct Floor {
    pub(crate) pipe: Pipe,
    pages: Vec<Page>,
    sent: u64,
}

impl Floor {
    /// As many as print at once, in a browser of their own.
    pub(crate) fn new(documents: &[Document], laid_out: LaidOut) -> Self {
        Self::of(Pipe::launch(), documents, at_once(), laid_out)
    }

    /// So many in that browser.
    pub(crate) fn of(
        mut pipe: Pipe,
        documents: &[Document],
        pages: usize,
        laid_out: LaidOut,
    ) -> Self {
        let pages = (0..pages).map(|_| Page::open(&mut pipe, documents, laid_out)).collect();
        // Calls to open pages had lower numbers.
        Self { pipe, pages, sent: 1_000_000 }
    }

    /// So many jobs, in each page the documents in turn, all pages at once.
    pub(crate) fn run(&mut self, jobs: usize) -> Duration {
        let began = Instant::now();
        let (mut begun, mut ended) = (0, 0);
        for page in 0..self.pages.len().min(jobs) {
            self.begin(page);
            begun += 1;
        }
        while ended < jobs {
            let answer = self.pipe.answer();
            let page = usize::try_from(answer.id).unwrap() % self.pages.len();
            if !self.advance(page, &answer) {
                continue;
            }
            ended += 1;
            if begun < jobs {
                self.begin(page);
                begun += 1;
            }
        }
        began.elapsed()
    }

    /// Goes on with what was read from the browser; a page whose job is done now.
    pub(crate) fn done(&mut self) -> Option<usize> {
        loop {
            let answer = self.pipe.told()?;
            let page = usize::try_from(answer.id).unwrap() % self.pages.len();
            if self.advance(page, &answer) {
                return Some(page);
            }
        }
    }

    /// Begins the next job of a page, which has none.
    pub(crate) fn begin(&mut self, page: usize) {
        let at = &mut self.pages[page];
        at.work = at.jobs % at.works.len();
        at.jobs += 1;
        let work = &at.works[at.work];
        at.stage = match &at.paper {
            paper if *paper == work.paper => Stage::Set,
            (width, _) if *width == work.paper.0 => Stage::Adopt,
            _ => Stage::Viewport,
        };
        self.send(page, None);
    }

    /// Says whether the job is done.
    fn advance(&mut self, page: usize, answer: &Answer) -> bool {
        let at = &mut self.pages[page];
        let work = &at.works[at.work];
        at.stage = match at.stage {
            Stage::Viewport if at.paper.1 != work.paper.1 => Stage::Adopt,
            Stage::Viewport | Stage::Adopt => Stage::Set,
            Stage::Set if work.measure.is_some() => Stage::Measure,
            Stage::Set | Stage::Measure => Stage::Print,
            Stage::Print => {
                assert!(self.pipe.text(answer).starts_with(PDF), "this is no PDF");
                return true;
            }
        };
        if at.stage == Stage::Set {
            at.paper.clone_from(&work.paper);
        }
        let measured = at.stage == Stage::Print && work.print.1.is_some();
        let height = measured.then(|| {
            let metrics = self.pipe.result(answer);
            metrics["cssContentSize"]["height"].as_f64().unwrap()
        });
        self.send(page, height);
        false
    }

    fn send(&mut self, page: usize, height: Option<f64>) {
        let pages = self.pages.len() as u64;
        self.sent = (self.sent / pages + 1) * pages;
        let id = self.sent + page as u64;
        let at = &self.pages[page];
        let work = &at.works[at.work];
        match (at.stage, &work.print, height) {
            (Stage::Viewport, ..) => self.pipe.send(id, &[&work.viewport]),
            (Stage::Adopt, ..) => self.pipe.send(id, &[&work.adopt]),
            (Stage::Set, ..) => self.pipe.send(id, &[&work.set]),
            (Stage::Measure, ..) => self.pipe.send(id, work.measure.as_deref().as_slice()),
            (Stage::Print, (head, Some((tail, plan))), Some(pixels)) => {
                let (_, inches) = plan.inches(plan.roll_height(pixels));
                self.pipe.send(id, &[head, inches.to_string().as_bytes(), tail]);
            }
            (Stage::Print, (print, _), _) => self.pipe.send(id, &[print]),
        }
    }
}

/// A plain page, as the worker asks for it.
pub(crate) fn workers_target() -> Value {
    json!({
        "url": "javascript:", "width": 1, "height": 1, "windowState": "minimized",
        "enableBeginFrameControl": true,
    })
}

impl Page {
    /// A context with its page, as the worker opens it.
    fn open(pipe: &mut Pipe, documents: &[Document], laid_out: LaidOut) -> Self {
        let context =
            pipe.call(None, "Target.createBrowserContext", &json!({"disposeOnDetach": true}));
        let mut target = workers_target();
        target["browserContextId"] = context["browserContextId"].clone();
        let target = pipe.call(None, "Target.createTarget", &target);
        let target = target["targetId"].as_str().unwrap();
        let attach = json!({"targetId": target, "flatten": true});
        let session = pipe.call(None, "Target.attachToTarget", &attach);
        let session = session["sessionId"].as_str().unwrap();
        for (method, params) in [
            ("Inspector.enable", json!({})),
            ("Emulation.setScriptExecutionDisabled", json!({"value": true})),
            ("Emulation.setEmulatedMedia", json!({"media": "print"})),
        ] {
            pipe.call(Some(session), method, &params);
        }
        let works = documents
            .iter()
            .map(|document| Work::new(document, session, target, laid_out))
            .collect();
        Self { works, paper: (0, String::new()), work: 0, stage: Stage::Set, jobs: 0 }
    }
}

impl Work {
    fn new(document: &Document, session: &str, frame: &str, laid_out: LaidOut) -> Self {
        let (_, plan) = document.plan();
        let css = style_sheet(&plan, laid_out);
        let width = plan.viewport_width();
        let call = |method: &str, params: &Value| message(Some(session), method, params);
        let adopt = format!(
            "{{ const sheet = new CSSStyleSheet(); sheet.replaceSync({}); \
             document.adoptedStyleSheets = [sheet]; }}",
            Value::from(css.as_str())
        );
        let adopt = json!({"expression": adopt, "awaitPromise": true, "returnByValue": true});
        let viewport =
            json!({"width": width, "height": 1, "deviceScaleFactor": 1, "mobile": false});
        let is_measured = plan.is_roll();
        Self {
            viewport: call("Emulation.setDeviceMetricsOverride", &viewport),
            adopt: call("Runtime.evaluate", &adopt),
            set: call("Page.setDocumentContent", &json!({"frameId": frame, "html": document.html})),
            measure: is_measured.then(|| call("Page.getLayoutMetrics", &json!({}))),
            print: print(document, plan.clone(), session),
            paper: (width, css),
        }
    }
}

fn print(document: &Document, plan: Plan, session: &str) -> (Vec<u8>, Option<(Vec<u8>, Plan)>) {
    let params = print_params(document);
    let whole = message(Some(session), "Page.printToPDF", &params);
    if !plan.is_roll() {
        return (whole, None);
    }
    let text = String::from_utf8(whole).unwrap();
    let (head, tail) = text.split_once(HEIGHT).unwrap();
    (head.as_bytes().to_owned(), Some((tail.as_bytes().to_owned(), plan)))
}

/// The print command of the worker; of a roll with [`HEIGHT`] for its height.
pub(crate) fn print_params(document: &Document) -> Value {
    let (options, plan) = document.plan();
    let (width, height) = plan.inches(0.0);
    let mut params = json!({
        "landscape": plan.landscape,
        "printBackground": options.background,
        "scale": plan.scale,
        "paperWidth": width,
        "paperHeight": height,
        "marginTop": plan.margins.top.inches(),
        "marginRight": plan.margins.right.inches(),
        "marginBottom": plan.margins.bottom.inches(),
        "marginLeft": plan.margins.left.inches(),
        "preferCSSPageSize": plan.prefer_css_page_size,
        "transferMode": "ReturnAsBase64",
        "generateTaggedPDF": options.tagged,
        "generateDocumentOutline": options.outline,
    });
    if plan.is_roll() {
        params["paperHeight"] = Value::from(HEIGHT.trim_matches('"'));
    } else {
        let limits = Limits { pages: MOST_PAGES, ..Limits::default() };
        params["pageRanges"] = limits.page_range().into();
    }
    params
}
