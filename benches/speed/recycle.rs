//! What planned replacements cost while jobs run: of the browser, because its engine
//! changed on disk, and of contexts, because they have served so many jobs.
//!
//! `renderer.path` leads through a link, which is turned to a second copy of the engine's
//! directory, and back, as a package manager would. What the worker's log says marks the
//! span of a replacement: from the launch of the new browser, which prints a test document
//! first, until the old one is gone. Each tenant's producer takes a reply before it pushes
//! the next receipt.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::documents::Document;
use crate::drain::Done;
use crate::machine::renderer_pids;
use crate::report::Goal::{AtLeast, AtMost};
use crate::report::{Report, log, median, number, range};
use crate::rig::Worker;
use crate::server::{Keeps, Redis};
use crate::throughput::rate;
use crate::{Bench, pipe};

const TENANTS: usize = 6;
/// Before the engine changes, and after the last time; the worker takes some more to see
/// it.
const QUIET: Duration = Duration::from_millis(1500);
/// After a replacement, until the next stretch counts as before one.
const SETTLE: Duration = Duration::from_millis(500);
/// For anything that the log is to say.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of the course that is kept.
const WINDOW: Duration = Duration::from_millis(500);
const SECOND: Duration = Duration::from_secs(1);

/// What a context serves where contexts are recycled often.
const RECYCLE: &str = "renderer.recycle_jobs=100";
/// Of each tenant in a round: four of them are what a context serves.
const JOBS_EACH: usize = 25;
/// Before that, so that contexts are due in the middle of a round.
const WARM_UP: usize = 15;

pub(crate) fn measure(bench: &mut Bench) {
    bench.report.section(
        "Recycling",
        &format!(
            "{TENANTS} tenants with one receipt each under way, all the time: while the browser is \
             replaced, several times, beside the stretches before and after each; and with contexts \
             that serve 100 jobs beside contexts that serve 5,000, in turns."
        ),
    );
    let redis = Redis::start(Keeps::File);
    let (mut jobs, mut failed) = (0, Vec::new());
    for runs in [replace(bench, &redis), often(bench, &redis)] {
        for run in runs {
            jobs += run.ends.len() + run.failed.len();
            failed.extend(run.failed);
        }
    }
    let seen = failed.first().cloned().unwrap_or_else(|| format!("{jobs} jobs"));
    bench.report.goal("jobs failed", failed.len() as f64, "", AtMost(0.0), &seen);
}

/// When a tenant's jobs ended, and what became of those that failed.
#[derive(Default)]
struct Run {
    ends: Vec<Instant>,
    failed: Vec<String>,
}

impl Run {
    /// A receipt, and when its reply is there the next, as long as `more` says so of how
    /// many there were.
    fn of(redis: &Redis, worker: &Worker, tenant: usize, more: impl Fn(usize) -> bool) -> Self {
        let (mut producer, document) = (worker.client(redis), Document::receipt());
        let tenant = format!("tenant-{tenant}");
        let mut run = Self::default();
        while more(run.ends.len() + run.failed.len()) {
            let name = producer.push(&document, &tenant);
            match producer.reply(&name) {
                Ok(_) => run.ends.push(Instant::now()),
                Err(instead) => run.failed.push(instead),
            }
        }
        run
    }
}

/// From then until then.
type Stretch = (Instant, Instant);

/// Replacements, and what is between them: one more.
#[derive(Default)]
struct Course {
    quiet: Vec<Stretch>,
    replacing: Vec<Stretch>,
}

fn replace(bench: &mut Bench, redis: &Redis) -> Vec<Run> {
    let mut installed = Installed::new();
    let path = format!("renderer.path={}", installed.path().display());
    let worker = Worker::start(redis, "recycle-browser", &["renderer.look_every=1s", &path]);
    let mut log = Log::open(log("recycle-browser"));
    let stop = AtomicBool::new(false);
    let (course, runs) = std::thread::scope(|scope| {
        let (worker, stop) = (&worker, &stop);
        let stopping = Done(stop);
        let tenants: Vec<_> = (0..TENANTS)
            .map(|tenant| {
                scope.spawn(move || {
                    Run::of(redis, worker, tenant, |_| !stop.load(Ordering::Relaxed))
                })
            })
            .collect();
        // All tenants have their contexts then.
        std::thread::sleep(SECOND);
        let course = Course::of(bench.size(3, 1), &mut installed, &mut log);
        drop(stopping);
        let runs: Vec<Run> = tenants.into_iter().map(|tenant| tenant.join().unwrap()).collect();
        (course, runs)
    });
    let mut ends: Vec<Instant> = runs.iter().flat_map(|run| run.ends.iter().copied()).collect();
    ends.sort();
    tell(&mut bench.report, &course, &ends);
    bench.report.keep("course of the replacements", course.windows(&ends));
    runs
}

impl Course {
    fn of(replacements: usize, installed: &mut Installed, log: &mut Log) -> Self {
        let mut course = Self::default();
        for _ in 0..replacements {
            let quiet = Instant::now();
            std::thread::sleep(QUIET);
            installed.turn();
            let begin = log.moment("trying a new browser");
            course.quiet.push((quiet, begin));
            course.replacing.push((begin, log.moment("the old browser is gone")));
            std::thread::sleep(SETTLE);
        }
        let quiet = Instant::now();
        std::thread::sleep(QUIET * 2);
        course.quiet.push((quiet, Instant::now()));
        course
    }

    /// How many ended a second in each half second, and when the replacements were.
    fn windows(&self, ends: &[Instant]) -> Value {
        let (began, ended) = (self.quiet[0].0, self.quiet.last().unwrap().1);
        let froms = (0..).map(|step: u32| began + WINDOW * step);
        let froms = froms.take_while(|from| *from + WINDOW <= ended);
        let rates: Vec<f64> = froms.map(|from| a_second(ends, (from, from + WINDOW))).collect();
        let since = |at: Instant| (at - began).as_secs_f64();
        let replacing = self.replacing.iter().map(|(from, to)| [since(*from), since(*to)]);
        let replacing: Vec<[f64; 2]> = replacing.collect();
        json!({ "window_s": WINDOW.as_secs_f64(), "rates": rates, "replacements_s": replacing })
    }
}

fn tell(report: &mut Report, course: &Course, ends: &[Instant]) {
    let rates = |stretches: &[Stretch]| -> Vec<f64> {
        stretches.iter().map(|stretch| a_second(ends, *stretch)).collect()
    };
    let (quiet, replacing) = (rates(&course.quiet), rates(&course.replacing));
    // The machine's own speed moves: what was before and what came after count alike.
    let beside = quiet.windows(2).map(|sides| (sides[0] + sides[1]) / 2.0);
    let ratios: Vec<f64> = replacing.iter().zip(beside).map(|(now, usual)| now / usual).collect();
    report.figure("before and after a replacement", median(&quiet), "/s", &range(&quiet));
    report.figure("while the browser is replaced", median(&replacing), "/s", &range(&replacing));
    let what = "while it is replaced, of the rate before and after";
    report.goal(what, median(&ratios), "", AtLeast(0.90), &range(&ratios));
    let lowest = |stretches: &[Stretch]| {
        stretches.iter().map(|stretch| lowest_second(ends, *stretch)).min().unwrap() as f64
    };
    report.figure(
        "the lowest second meanwhile",
        lowest(&course.replacing),
        "/s",
        &format!("before and after: {} /s", number(lowest(&course.quiet))),
    );
    let took: Vec<f64> =
        course.replacing.iter().map(|(from, to)| (*to - *from).as_secs_f64()).collect();
    let seen = format!("{}; new browser and test document included", range(&took));
    report.figure("a replacement takes", median(&took), "s", &seen);
}

/// How many ended in a stretch.
fn count(ends: &[Instant], (from, to): Stretch) -> usize {
    ends.partition_point(|end| *end < to) - ends.partition_point(|end| *end < from)
}

fn a_second(ends: &[Instant], stretch: Stretch) -> f64 {
    rate(count(ends, stretch), stretch.1 - stretch.0)
}

/// The fewest in any second of a stretch.
fn lowest_second(ends: &[Instant], (from, to): Stretch) -> usize {
    let begins = (0..).map(|step: u32| from + SECOND / 10 * step);
    // Of a shorter stretch, the second from its begin.
    let begins = begins.take_while(|begin| *begin == from || *begin + SECOND <= to);
    begins.map(|begin| count(ends, (begin, begin + SECOND))).min().unwrap()
}

/// Contexts that serve few jobs beside such that serve many. All contexts are due at
/// about the same time, in a few of the rounds: so the sums are compared.
fn often(bench: &mut Bench, redis: &Redis) -> Vec<Run> {
    let usual = Worker::start(redis, "recycle-seldom", &[]);
    let often = Worker::start(redis, "recycle-often", &[RECYCLE]);
    let workers = [&usual, &often];
    let mut runs = Vec::new();
    for worker in workers {
        round(redis, worker, WARM_UP, &mut runs);
    }
    let mut pids = workers.map(|worker| BTreeSet::from_iter(renderer_pids(worker.pid())));
    let before = [pids[0].len(), pids[1].len()];
    let mut took = [const { Vec::new() }; 2];
    for number in 0..bench.size(4, 1) {
        // Each goes first as often as the other.
        for at in if number % 2 == 0 { [0, 1] } else { [1, 0] } {
            let took_it = round(redis, workers[at], JOBS_EACH, &mut runs);
            took[at].push(took_it.as_secs_f64());
            pids[at].extend(renderer_pids(workers[at].pid()));
        }
    }
    let jobs = TENANTS * JOBS_EACH;
    let sum = |at: usize| jobs as f64 * took[at].len() as f64 / took[at].iter().sum::<f64>();
    let rounds = |at: usize| {
        range(&took[at].iter().map(|seconds| jobs as f64 / seconds).collect::<Vec<_>>())
    };
    let opened = |at: usize| pids[at].len() - before[at];
    let report = &mut bench.report;
    let seen = |at: usize| format!("{}; contexts opened meanwhile: {}", rounds(at), opened(at));
    report.figure("contexts that serve 5,000 jobs", sum(0), "/s", &seen(0));
    report.figure("contexts that serve 100 jobs", sum(1), "/s", &seen(1));
    let ratio = sum(1) / sum(0);
    let ratios: Vec<f64> =
        took[0].iter().zip(&took[1]).map(|(usual, often)| usual / often).collect();
    let seen = format!("all rounds together; one by one {}", range(&ratios));
    report.goal("recycled after 100 jobs, of the usual rate", ratio, "", AtLeast(0.90), &seen);
    runs
}

/// So many jobs of each tenant; how long it takes.
fn round(redis: &Redis, worker: &Worker, jobs: usize, runs: &mut Vec<Run>) -> Duration {
    let began = Instant::now();
    std::thread::scope(|scope| {
        let tenants: Vec<_> = (0..TENANTS)
            .map(|tenant| scope.spawn(move || Run::of(redis, worker, tenant, |had| had < jobs)))
            .collect();
        runs.extend(tenants.into_iter().map(|tenant| tenant.join().unwrap()));
    });
    began.elapsed()
}

/// A link to the engine's directory, or to a copy of it.
struct Installed {
    dir: tempfile::TempDir,
    engine: PathBuf,
    is_copy: bool,
}

impl Installed {
    fn new() -> Self {
        let (dir, engine) = (tempfile::tempdir().unwrap(), pipe::engine().path);
        copy(engine.parent().unwrap(), &dir.path().join("copy"));
        let mut this = Self { dir, engine, is_copy: true };
        this.turn();
        this
    }

    fn path(&self) -> PathBuf {
        let name: OsString = self.engine.file_name().unwrap().to_owned();
        self.dir.path().join("current").join(name)
    }

    /// The one that it was not, at once.
    fn turn(&mut self) {
        self.is_copy = !self.is_copy;
        let to = if self.is_copy { Path::new("copy") } else { self.engine.parent().unwrap() };
        let (new, current) = (self.dir.path().join("new"), self.dir.path().join("current"));
        std::os::unix::fs::symlink(to, &new).unwrap();
        std::fs::rename(new, current).unwrap();
    }
}

/// Links files where it is the same file system, else copies them: nothing else is
/// written to the disk while jobs run.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else if std::fs::hard_link(&path, &to).is_err() {
            std::fs::copy(&path, &to).unwrap();
            File::open(&to).unwrap().sync_all().unwrap();
        }
    }
}

/// What a worker says, as it says it.
struct Log {
    path: PathBuf,
    file: File,
    /// Not yet looked through.
    text: Vec<u8>,
}

impl Log {
    fn open(path: PathBuf) -> Self {
        let file = File::open(&path).unwrap();
        Self { path, file, text: Vec::new() }
    }

    /// Waits until a line has this in it; when that was, to some milliseconds.
    fn moment(&mut self, sign: &str) -> Instant {
        let patience = Instant::now() + PATIENCE;
        loop {
            self.file.read_to_end(&mut self.text).unwrap();
            while let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                if String::from_utf8_lossy(&line).contains(sign) {
                    return Instant::now();
                }
            }
            let path = self.path.display();
            assert!(Instant::now() < patience, "the worker never said \"{sign}\": see {path}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
