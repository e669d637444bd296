//! A flood that is too much: 600 jobs at once, some of which cannot fit, inside a real
//! limit; with the governor, with a fixed number at once, and with one browser launched
//! for each document.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use redis::Connection;
use serde_json::Value;

use crate::cgroup::{Group, Kills};
use crate::chart;
use crate::documents::{Document, Kind, mixed};
use crate::naive;
use crate::rig::{Worker, out, reply_line};
use crate::server::{Keeps, Redis};
use crate::watch::{Point, Watch, peak};

const MIB: u64 = 1 << 20;
const LIMITS: [u64; 2] = [1024 * MIB, 512 * MIB];
const JOBS: usize = 600;
/// A run that is not done by then has failed.
const PATIENCE: Duration = Duration::from_secs(240);

/// How the flood is met.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Governed,
    Fixed,
    Naive,
}

impl Mode {
    const ALL: [Self; 3] = [Self::Governed, Self::Fixed, Self::Naive];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Governed => "governor",
            Self::Fixed => "fixed 6 at once",
            Self::Naive => "a browser each, 6 at once",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Governed => "governed",
            Self::Fixed => "fixed",
            Self::Naive => "naive",
        }
    }

    /// `fixed` has no check of memory at all, as a pool of six has none.
    fn settings(self) -> &'static [&'static str] {
        match self {
            Self::Governed | Self::Naive => &[],
            Self::Fixed => &[
                "memory.governor=off",
                "worker.concurrency=6",
                "memory.reserve=0",
                "memory.per_render=1MB",
            ],
        }
    }
}

/// What became of one flood.
pub(crate) struct Run {
    pub(crate) mode: Mode,
    pub(crate) limit: u64,
    pub(crate) points: Vec<Point>,
    pub(crate) kills: Kills,
    asked: BTreeMap<Kind, usize>,
    done: BTreeMap<Kind, usize>,
    /// Buried as `memory_exceeded`, with figures.
    exceeded: BTreeMap<Kind, usize>,
    figures: Option<String>,
    failed: BTreeMap<String, usize>,
    pub(crate) wall: Duration,
    worker_died: bool,
}

/// All runs; false where the governor did not keep its promise.
pub(crate) fn show(words: &[String]) -> bool {
    let jobs = words.iter().find_map(|word| word.parse().ok()).unwrap_or(JOBS);
    let wanted = |mode: Mode| {
        let named: Vec<_> = Mode::ALL.iter().filter(|m| words.contains(&m.word().into())).collect();
        named.is_empty() || named.contains(&&mode)
    };
    // What the worker is told besides: `renderer.nice=0` on a busy machine.
    let settings: Vec<&str> =
        words.iter().map(String::as_str).filter(|word| word.contains('=')).collect();
    let limits = LIMITS.iter().filter(|limit| {
        let named = |limit: &u64| words.contains(&format!("{}MiB", limit / MIB));
        named(limit) || !LIMITS.iter().any(named)
    });
    println!("{jobs} jobs pushed at once: 90 % receipts, 8 % invoices of 1,000 rows,");
    println!("2 % statements of 5,000 rows (about 1 GB each)\n");
    let mut runs = Vec::new();
    for limit in limits {
        for mode in Mode::ALL.into_iter().filter(|mode| wanted(*mode)) {
            match flood(mode, *limit, jobs, &settings) {
                Ok(run) => runs.push(run),
                Err(error) => {
                    eprintln!("error: {error}");
                    return false;
                }
            }
        }
    }
    table(&runs);
    println!();
    for limit in LIMITS {
        let shown: Vec<&Run> = runs.iter().filter(|run| run.limit == limit).collect();
        if !shown.is_empty() {
            let file = out().join(format!("survive-{}.svg", limit / MIB));
            std::fs::write(&file, chart::draw(&shown)).unwrap();
            println!("memory over time: {}", file.display());
        }
    }
    println!();
    let mut kept = true;
    for run in runs.iter().filter(|run| run.mode == Mode::Governed) {
        let broken = run.broken();
        kept &= broken.is_empty();
        for what in broken {
            println!("NOT KEPT, {} MiB: {what}", run.limit / MIB);
        }
    }
    println!("{}", if kept { "kept: nothing died but what could not fit" } else { "failed" });
    kept
}

fn flood(mode: Mode, limit: u64, jobs: usize, settings: &[&str]) -> Result<Run, String> {
    let group = Group::new(limit)?;
    let documents = mixed(jobs);
    let mut asked = BTreeMap::new();
    for document in &documents {
        *asked.entry(document.kind).or_insert(0) += 1;
    }
    let mut run = Run {
        mode,
        limit,
        points: Vec::new(),
        kills: Kills::default(),
        asked,
        done: BTreeMap::new(),
        exceeded: BTreeMap::new(),
        figures: None,
        failed: BTreeMap::new(),
        wall: Duration::ZERO,
        worker_died: false,
    };
    if mode == Mode::Naive {
        run.browsers(group, documents);
    } else {
        run.worker(group, &documents, settings)?;
    }
    Ok(run)
}

impl Run {
    fn worker(
        &mut self,
        group: Group,
        documents: &[Document],
        settings: &[&str],
    ) -> Result<(), String> {
        let redis = Redis::start(Keeps::Nothing);
        let settings = [self.mode.settings(), settings].concat();
        let log = out().join(format!("{}-{}.log", self.mode.word(), self.limit / MIB));
        let mut worker = Worker::start(&group, &redis, "receipts", &settings, &log)
            .map_err(|error| format!("{error}; its log: {}", log.display()))?;
        let watch = Watch::start(group, Some(worker.status_address()), Arc::default());
        let mut connection = redis.connect();
        let began = Instant::now();
        worker.push(&mut connection, documents);
        self.collect(&mut worker, &mut connection, documents, began);
        self.wall = began.elapsed();
        let (group, points) = watch.stop();
        drop(worker);
        self.end(group, points);
        Ok(())
    }

    fn browsers(&mut self, group: Group, documents: Vec<Document>) {
        let running: Arc<AtomicUsize> = Arc::default();
        let entry = group.entry();
        let watch = Watch::start(group, None, Arc::clone(&running));
        let began = Instant::now();
        for printed in naive::print_all(&entry, documents, began + PATIENCE, &running) {
            match printed.failed {
                None => *self.done.entry(printed.kind).or_default() += 1,
                Some(why) => *self.failed.entry(why).or_default() += 1,
            }
        }
        self.wall = began.elapsed();
        let (group, points) = watch.stop();
        self.end(group, points);
    }

    fn end(&mut self, group: Group, points: Vec<Point>) {
        // What was killed between the last look and the stop counts too.
        self.kills = points.last().map_or(Kills::default(), |point| point.kills);
        self.points = points;
        drop(group);
    }

    /// Takes replies as they come, until all have, the worker is dead or time is over.
    fn collect(
        &mut self,
        worker: &mut Worker,
        redis: &mut Connection,
        documents: &[Document],
        began: Instant,
    ) {
        let bar = ProgressBar::new(documents.len() as u64);
        let style = format!("{:>4} MiB, {:<26}", self.limit / MIB, self.mode.name());
        bar.set_style(
            ProgressStyle::with_template(&format!(
                "{style} {{bar:30}} {{pos}}/{{len}} {{elapsed}}"
            ))
            .unwrap(),
        );
        let mut open: Vec<&Document> = documents.iter().collect();
        while !open.is_empty() && began.elapsed() < PATIENCE {
            let mut takes = redis::pipe();
            for document in &open {
                takes.lpop(worker.key(&format!("reply:{}", document.name())), None);
            }
            let replies: Vec<Option<Vec<u8>>> = takes.query(redis).unwrap();
            let mut left = Vec::new();
            for (document, reply) in open.into_iter().zip(replies) {
                match reply {
                    Some(element) => self.count(document.kind, &reply_line(&element)),
                    None => left.push(document),
                }
            }
            open = left;
            bar.set_position((documents.len() - open.len()) as u64);
            if worker.has_ended() {
                self.worker_died = true;
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bar.finish_and_clear();
        if !open.is_empty() {
            let why = if self.worker_died { "the worker died" } else { "no answer in 240 s" };
            self.failed.insert(why.to_owned(), open.len());
        }
    }

    fn count(&mut self, kind: Kind, reply: &Value) {
        if reply["status"] == "done" {
            *self.done.entry(kind).or_default() += 1;
            return;
        }
        let code = reply["error"]["code"].as_str().unwrap_or("no code");
        let message = reply["error"]["message"].as_str().unwrap_or_default();
        if code == "memory_exceeded" && message.contains("used ") && message.contains("budget ") {
            *self.exceeded.entry(kind).or_default() += 1;
            self.figures.get_or_insert_with(|| message.to_owned());
        } else {
            *self.failed.entry(code.to_owned()).or_default() += 1;
        }
    }

    fn of(counts: &BTreeMap<Kind, usize>, kind: Kind) -> usize {
        counts.get(&kind).copied().unwrap_or(0)
    }

    /// What became of it, in one line.
    pub(crate) fn title(&self) -> String {
        let done: usize = self.done.values().sum();
        let jobs: usize = self.asked.values().sum();
        let lost: usize = self.failed.values().sum();
        let exceeded: usize = self.exceeded.values().sum();
        let buried = match exceeded {
            0 => String::new(),
            count => format!(", {count} that cannot fit refused with figures"),
        };
        let lost = if lost > 0 { format!(", {lost} lost") } else { String::new() };
        format!(
            "{} MiB, {}: {done} of {jobs} done in {:.0} s{buried}{lost}; OOM kills: {}",
            self.limit / MIB,
            self.mode.name(),
            self.wall.as_secs_f64(),
            self.kills.outer
        )
    }

    /// What was promised and not kept.
    fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        if self.kills.outer > 0 {
            broken.push(format!("{} OOM kills", self.kills.outer));
        }
        for kind in [Kind::Receipt, Kind::Invoice] {
            let (done, asked) = (Self::of(&self.done, kind), Self::of(&self.asked, kind));
            if done < asked {
                broken.push(format!("{} of {asked} {} are missing", asked - done, kind.name()));
            }
        }
        let kind = Kind::Statement;
        let ended = Self::of(&self.done, kind) + Self::of(&self.exceeded, kind);
        if ended < Self::of(&self.asked, kind) {
            let asked = Self::of(&self.asked, kind);
            broken.push(format!("of {asked} {} {ended} ended as they should", kind.name()));
        }
        if peak(&self.points) >= self.limit {
            broken.push(format!("the working set reached {} MiB", peak(&self.points) / MIB));
        }
        broken
    }
}

fn table(runs: &[Run]) {
    println!(
        "| limit | how | receipts | invoices | statements | buried with figures | failed otherwise | OOM kills | by inner fences | peak working set | time |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for run in runs {
        let part = |kind| format!("{} of {}", Run::of(&run.done, kind), Run::of(&run.asked, kind));
        let [receipts, invoices, statements] = Kind::ALL.map(part);
        let others: usize = run.failed.values().sum();
        println!(
            "| {} MiB | {} | {receipts} | {invoices} | {statements} | {} | {others} | {} | {} | {} MiB | {:.0} s |",
            run.limit / MIB,
            run.mode.name(),
            run.exceeded.values().sum::<usize>(),
            run.kills.outer,
            run.kills.inner,
            peak(&run.points) / MIB,
            run.wall.as_secs_f64(),
        );
    }
    println!();
    for run in runs {
        let which = format!("{} MiB, {}", run.limit / MIB, run.mode.name());
        for (why, count) in &run.failed {
            println!("{which}: {count} × {why}");
        }
        if let Some(figures) = &run.figures {
            println!("{which}: a buried one: {figures}");
        }
    }
}
