//! How many browsers for how many contexts: the same warm contexts in one browser, or
//! spread over several.
//!
//! All are driven over bare pipes from one thread, which waits for whichever browser
//! answers first. As many render at once as on the floor, over all browsers of a layout
//! together; who was idle the longest is next. Memory is read while a layout is alone on
//! the machine, since pages that browsers share count in parts; then all layouts run in
//! turns.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use crate::Bench;
use crate::documents::Document;
use crate::floor::{Floor, LaidOut, at_once};
use crate::machine;
use crate::pipe::Pipe;
use crate::report::{Report, median, number, range};
use crate::throughput::rate;

const CONTEXTS: usize = 12;
/// Browsers that they are spread over.
const LAYOUTS: [usize; 4] = [1, 2, 4, 12];
/// Each context prints so often before anything is measured.
const WARM_UP: usize = 8;
const JOBS: usize = 120;

/// Browsers with equal shares of the contexts.
struct Layout {
    floors: Vec<Floor>,
    /// Contexts without a job, the longest first: which browser, which page.
    idle: VecDeque<(usize, usize)>,
    begins: Vec<Begin>,
}

/// Milliseconds that one browser took.
struct Begin {
    launch: f64,
    /// Its contexts, one after the other.
    open: f64,
}

/// What was seen of one layout.
struct Seen {
    memory: Result<f64, String>,
    rates: Vec<f64>,
}

pub(crate) fn measure(bench: &mut Bench) {
    bench.report.section(
        "Browsers",
        &format!(
            "{CONTEXTS} warm contexts spread over so many browsers, {} receipts at once over all of \
             them, over bare pipes, in turns; everything of a layout together as PSS. A renderer \
             that dies takes one context with it, however many browsers there are.",
            renders(),
        ),
    );
    let documents = [Document::receipt()];
    let warm_up = CONTEXTS * bench.size(WARM_UP, 2);
    let (mut layouts, mut seen, mut launches) = (Vec::new(), Vec::new(), Vec::new());
    for browsers in LAYOUTS {
        // Alone on the machine.
        layouts.clear();
        let layout = Layout::warm(browsers, &documents, warm_up);
        launches.extend(layout.begins.iter().map(|begin| begin.launch));
        seen.push(Seen { memory: layout.memory(), rates: Vec::new() });
        layouts.push(layout);
    }
    // The last one is still there.
    for browsers in LAYOUTS.iter().rev().skip(1) {
        layouts.insert(0, Layout::warm(*browsers, &documents, warm_up));
    }
    let jobs = bench.size(JOBS, JOBS / 4);
    for _ in 0..bench.size(7, 1) {
        for (layout, seen) in layouts.iter_mut().zip(&mut seen) {
            seen.rates.push(rate(jobs, layout.run(jobs)));
        }
    }
    for (layout, of_it) in layouts.iter().zip(&seen) {
        tell(&mut bench.report, layout, of_it, &seen[0].rates);
    }
    bench.report.figure("one more browser, launched", median(&launches), "ms", &range(&launches));
}

fn tell(report: &mut Report, layout: &Layout, seen: &Seen, of_one: &[f64]) {
    let browsers = layout.floors.len();
    let name = if browsers == 1 { "1 browser".to_owned() } else { format!("{browsers} browsers") };
    report.figure(&format!("{name}: receipts"), median(&seen.rates), "/s", &range(&seen.rates));
    if browsers > 1 {
        let ratios: Vec<f64> =
            seen.rates.iter().zip(of_one).map(|(rate, one)| rate / one).collect();
        let what = format!("{name}: of one browser's");
        report.figure(&what, median(&ratios), "", &range(&ratios));
    }
    let what = format!("{name}: everything, PSS");
    match &seen.memory {
        Ok(all) => {
            let each = format!("{} MB a context", number(all / CONTEXTS as f64));
            report.figure(&what, *all, "MB", &each);
        }
        Err(why) => report.skipped(&what, &format!("{why}; run it as root")),
    }
    let lost = CONTEXTS / browsers;
    let what = format!("{name}: contexts lost where one browser dies");
    report.figure(&what, lost as f64, "", &format!("of {CONTEXTS}"));
    let back: Vec<f64> = layout.begins.iter().map(|begin| begin.launch + begin.open).collect();
    let what = format!("{name}: until they are open again");
    report.figure(&what, median(&back), "ms", &range(&back));
}

/// How many render at once.
fn renders() -> usize {
    at_once().min(CONTEXTS)
}

impl Layout {
    fn warm(browsers: usize, documents: &[Document], jobs: usize) -> Self {
        let each = CONTEXTS / browsers;
        let (mut floors, mut begins) = (Vec::new(), Vec::new());
        for _ in 0..browsers {
            let began = Instant::now();
            let pipe = Pipe::launch();
            let launched = Instant::now();
            floors.push(Floor::of(pipe, documents, each, LaidOut::AsTheWorker));
            let millis = |took: Duration| took.as_secs_f64() * 1e3;
            let (launch, open) = (millis(launched - began), millis(launched.elapsed()));
            begins.push(Begin { launch, open });
        }
        // One of each browser in turn.
        let pages = (0..each).flat_map(|page| (0..browsers).map(move |browser| (browser, page)));
        let mut layout = Self { floors, idle: pages.collect(), begins };
        layout.run(jobs);
        layout
    }

    /// So many jobs.
    fn run(&mut self, jobs: usize) -> Duration {
        let began = Instant::now();
        let (mut begun, mut ended) = (0, 0);
        while begun < jobs.min(renders()) {
            self.begin();
            begun += 1;
        }
        while ended < jobs {
            for browser in self.answering() {
                self.floors[browser].pipe.read_more();
                while let Some(page) = self.floors[browser].done() {
                    self.idle.push_back((browser, page));
                    ended += 1;
                    if begun < jobs {
                        self.begin();
                        begun += 1;
                    }
                }
            }
        }
        began.elapsed()
    }

    fn begin(&mut self) {
        let (browser, page) = self.idle.pop_front().unwrap();
        self.floors[browser].begin(page);
    }

    /// Waits until there is something to read; from which browsers.
    fn answering(&self) -> Vec<usize> {
        let pipes = self.floors.iter().map(|floor| floor.pipe.replies());
        let mut pipes: Vec<PollFd> = pipes.map(|pipe| PollFd::new(pipe, PollFlags::IN)).collect();
        poll(&mut pipes, None).unwrap();
        let answering = pipes.iter().enumerate().filter(|(_, pipe)| !pipe.revents().is_empty());
        answering.map(|(browser, _)| browser).collect()
    }

    /// Megabytes of all its processes.
    fn memory(&self) -> Result<f64, String> {
        self.floors.iter().map(|floor| machine::proportional(floor.pipe.pid())).sum()
    }
}
