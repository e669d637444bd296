//! What a team would otherwise build, with the same engine and the same receipt: a
//! BullMQ worker with Puppeteer, a browser launched for each receipt, and two
//! programs that are no browsers. In turns with the worker.
//!
//! Their packages come from npm into `target/bench/node`, in fixed versions, and from
//! Debian. A peer that is not to be had is named with the reason.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use redis::Commands;

use crate::Bench;
use crate::big::is_pdf;
use crate::chart::{self, Bar};
use crate::documents::Document;
use crate::floor::at_once;
use crate::pipe;
use crate::report::Goal::AtLeast;
use crate::report::{log, median, out, range};
use crate::rig::{Worker, number};
use crate::server::{Keeps, Redis, Server};
use crate::throughput::rate;

const PACKAGES: [&str; 4] =
    ["bullmq@6.7.0", "ioredis@5.11.1", "puppeteer-core@24.43.1", "playwright-core@1.65.1"];
const BULLMQ: &str = include_str!("peers/bullmq.mjs");
const LAUNCH: &str = include_str!("peers/launch.mjs");
const WEASYPRINT: &str = include_str!("peers/receipts_weasyprint.py");
/// The system's Python: only it sees Debian's packages.
const PYTHON: &str = "/usr/bin/python3";

/// Renders so many receipts.
type Run<'a> = Box<dyn FnMut(usize) -> Duration + 'a>;

struct Peer<'a> {
    name: &'static str,
    /// Jobs of a round: some seconds.
    jobs: usize,
    /// How many times its rate is the goal.
    goal: Option<f64>,
    run: Result<Run<'a>, String>,
    rates: Vec<f64>,
}

impl<'a> Peer<'a> {
    fn new(
        name: &'static str,
        jobs: usize,
        goal: Option<f64>,
        run: Result<Run<'a>, String>,
    ) -> Self {
        Self { name, jobs, goal, run, rates: Vec::new() }
    }
}

pub(crate) fn measure(bench: &mut Bench) {
    bench.report.section(
        "Beside others",
        &format!(
            "The same receipt on one sheet, in turns; {} at once where it says nothing else. Node's \
             peers use the engine that the worker uses, without a jail.",
            at_once()
        ),
    );
    let redis = Redis::start(Keeps::File);
    let worker = Worker::start(&redis, "peers", &[]);
    let receipts = [Document::receipt()];
    let mut producer = worker.client(&redis);
    let dir = tempfile::tempdir().unwrap();
    let html = dir.path().join("receipt.html");
    std::fs::write(&html, &receipts[0].html).unwrap();
    let node = node();
    let ours: Run<'_> = Box::new(move |jobs| producer.backlog(&receipts, jobs, 3));
    let bullmq = node.clone().and_then(|node| bullmq(&node, &redis, &html));
    let launch =
        node.and_then(|node| lines(node_script(&node, "launch.mjs", LAUNCH), "launch", &html));
    let mut peers = [
        Peer::new("Tillroll", 450, None, Ok(ours)),
        Peer::new("BullMQ + Puppeteer, a page each", 60, Some(6.0), bullmq),
        Peer::new("Playwright, a launch each", 15, Some(20.0), launch),
        Peer::new("WeasyPrint, a process for each core", 8, None, weasyprint(dir.path(), &html)),
        Peer::new("wkhtmltopdf, one for each core", 10, None, wkhtmltopdf(dir.path(), &html)),
    ];
    let rounds = bench.size(5, 1);
    for round in 0..=rounds {
        for peer in &mut peers {
            let Ok(run) = &mut peer.run else { continue };
            // The first round warms up.
            let jobs = if round == 0 { peer.jobs.div_ceil(3) } else { peer.jobs };
            let took = run(jobs);
            if round > 0 {
                peer.rates.push(rate(jobs, took));
            }
        }
    }
    tell(bench, &peers);
}

fn tell(bench: &mut Bench, peers: &[Peer<'_>]) {
    let ours = &peers[0].rates;
    let mut bars = Vec::new();
    for peer in peers {
        if let Err(why) = &peer.run {
            bench.report.skipped(peer.name, why);
            continue;
        }
        bench.report.figure(peer.name, median(&peer.rates), "/s", &range(&peer.rates));
        bars.push(Bar::new(peer.name, "", median(&peer.rates)));
        let ratios: Vec<f64> = ours.iter().zip(&peer.rates).map(|(us, it)| us / it).collect();
        let what = format!("Tillroll, times {}", peer.name);
        match peer.goal {
            Some(goal) => {
                bench.report.goal(&what, median(&ratios), "", AtLeast(goal), &range(&ratios));
            }
            None if peer.name != "Tillroll" => {
                bench.report.figure(&what, median(&ratios), "", &range(&ratios));
            }
            None => {}
        }
    }
    std::fs::write(out().join("peers.svg"), chart::bars("receipts per second", &bars)).unwrap();
}

/// The directory with Node's packages, installed where they are not there yet.
fn node() -> Result<PathBuf, String> {
    let dir = out().join("node");
    let mark = dir.join(".installed");
    let versions = PACKAGES.join(" ");
    if std::fs::read_to_string(&mark).is_ok_and(|installed| installed == versions) {
        return Ok(dir);
    }
    std::fs::create_dir_all(&dir).unwrap();
    let installed = Command::new("npm")
        .args(["install", "--silent", "--no-audit", "--no-fund", "--no-update-notifier"])
        .arg("--prefix")
        .arg(&dir)
        .args(PACKAGES)
        .env("PUPPETEER_SKIP_DOWNLOAD", "1")
        .env("PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD", "1")
        .stdin(Stdio::null())
        .output();
    let installed = installed.map_err(|error| format!("npm: {error}"))?;
    if !installed.status.success() {
        let said = String::from_utf8_lossy(&installed.stderr);
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("");
        return Err(format!("npm install failed: {last}"));
    }
    std::fs::write(mark, versions).unwrap();
    Ok(dir)
}

/// A script beside its packages, where Node looks for them.
fn node_script(node: &Path, name: &str, text: &str) -> Command {
    let script = node.join(name);
    std::fs::write(&script, text).unwrap();
    let mut command = Command::new("node");
    command.arg(script).arg(pipe::engine().path).arg(at_once().to_string());
    command
}

/// A program that reads requests from stdin, a line each, and answers each with a line.
struct Lines {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    _server: Server,
}

impl Lines {
    /// Starts it and waits for its first line.
    fn start(mut command: Command, name: &str) -> Result<Self, String> {
        let log = log(&format!("peer-{name}"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&log).unwrap());
        let mut server = Server(command.spawn().map_err(|error| format!("{error}"))?);
        let stdin = server.0.stdin.take().unwrap();
        let stdout = BufReader::new(server.0.stdout.take().unwrap());
        let mut lines = Self { stdin, stdout, _server: server };
        match lines.line().as_str() {
            "ready" => Ok(lines),
            _ => {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("");
                Err(format!("it does not start: {last}"))
            }
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn ask(&mut self, request: &str) {
        writeln!(self.stdin, "{request}").unwrap();
        assert_eq!(self.line(), "done", "a peer failed: see target/bench/logs");
    }
}

/// One that renders as many receipts as each line says.
fn lines<'a>(mut command: Command, name: &str, html: &Path) -> Result<Run<'a>, String> {
    command.arg(html);
    let mut lines = Lines::start(command, name)?;
    Ok(Box::new(move |jobs| {
        let began = Instant::now();
        lines.ask(&jobs.to_string());
        began.elapsed()
    }))
}

/// A worker and a producer; replies are taken as those of the worker under test.
fn bullmq<'a>(node: &Path, redis: &'a Redis, html: &Path) -> Result<Run<'a>, String> {
    let start = |role: &str| {
        let mut command = node_script(node, "bullmq.mjs", BULLMQ);
        command.arg(html).arg(role).arg(&redis.socket);
        Lines::start(command, &format!("bullmq-{role}"))
    };
    let worker = start("worker")?;
    let mut producer = start("producer")?;
    let mut connection = redis.connect();
    Ok(Box::new(move |jobs| {
        // It lives as long as the producer.
        let _worker = &worker;
        let first = number();
        let began = Instant::now();
        producer.ask(&format!("{first} {jobs}"));
        for job in 0..jobs {
            let key = format!("bench:reply:{first}-{job}");
            let reply: Option<(String, Vec<u8>)> = connection.blpop(key, 60.0).unwrap();
            let (_, pdf) = reply.expect("no reply of BullMQ in 60 s: see target/bench/logs");
            assert!(pdf.starts_with(b"%PDF"), "BullMQ's reply is no PDF");
        }
        began.elapsed()
    }))
}

fn cores() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

fn weasyprint<'a>(dir: &Path, html: &Path) -> Result<Run<'a>, String> {
    let script = dir.join("receipts.py");
    std::fs::write(&script, WEASYPRINT).unwrap();
    let mut command = Command::new(PYTHON);
    command.arg(script).arg(cores().to_string());
    lines(command, "weasyprint", html)
}

fn wkhtmltopdf<'a>(dir: &Path, html: &Path) -> Result<Run<'a>, String> {
    let there = Command::new("wkhtmltopdf").arg("--version").output();
    there.map_err(|error| format!("wkhtmltopdf: {error}"))?;
    let (dir, html) = (dir.to_owned(), html.to_owned());
    let print = move |number: usize| {
        let pdf = dir.join(format!("wk-{number}.pdf"));
        let printed = Command::new("wkhtmltopdf")
            .args(["--quiet", "--page-width", "80mm", "--page-height", "297mm"])
            .args(["-T", "0", "-R", "0", "-B", "0", "-L", "0"])
            .arg(&html)
            .arg(&pdf)
            .env("QT_QPA_PLATFORM", "offscreen")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(printed.unwrap().success() && is_pdf(&pdf), "wkhtmltopdf printed nothing");
    };
    Ok(Box::new(move |jobs| {
        let began = Instant::now();
        std::thread::scope(|scope| {
            for core in 0..cores() {
                let print = &print;
                scope.spawn(move || (core..jobs).step_by(cores()).for_each(print));
            }
        });
        began.elapsed()
    }))
}
