//! Receipts through Redis and one worker: how many a second, how long each
//! takes, and how much memory that needs.
//!
//! ```text
//! cargo bench --bench throughput                     500 receipts of 5 tenants
//! cargo bench --bench throughput -- 2000 32          2000 receipts of 32 tenants
//! ```
//!
//! Three runs against the same worker, after a warm-up of each tenant:
//! *backlog*, all pushed at once, which shows throughput; *closed loop*, one
//! receipt of each tenant in flight, which shows latency from push to reply;
//! *idle*, one at a time. Redis keeps nothing on disk here, so that the disk
//! is not what is measured. Memory is private memory (`RssAnon` + `RssShmem`),
//! read every 50 ms.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a benchmark stops at the first mistake, prints what it saw and measures real time"
)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redis::{Client, Commands, Connection};
use tillroll::memory::Probe;

const PREFIX: &str = "tillroll:{receipts}:";

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // SIGTERM: the worker drains and takes its Chromium along.
        let pid = rustix::process::Pid::from_raw(self.0.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.0.wait().unwrap();
    }
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let jobs = numbers.first().copied().unwrap_or(500);
    let tenants = numbers.get(1).copied().unwrap_or(5).max(1);
    let html = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/fixtures/receipts/thermal-80mm.html"
    ))
    .unwrap();

    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("redis.sock");
    let redis_server = Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
        .arg(&socket)
        .arg("--dir")
        .arg(dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("redis-server is needed: apt-get install redis-server");
    let mut redis_server = Server(redis_server);
    await_line(redis_server.0.stdout.take().unwrap(), "eady to accept connections");
    let url = format!("unix://{}", socket.display());
    let started = Instant::now();
    let worker = Command::new(env!("CARGO_BIN_EXE_tillroll"))
        .args(["worker", "--redis", &url, "--set", "http.listen="])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut worker = Server(worker);
    await_line(worker.0.stderr.take().unwrap(), " ready ");
    println!("worker ready after {} ms", started.elapsed().as_millis());

    let mut redis = Client::open(url).unwrap().get_connection().unwrap();
    let mut bench = Bench { redis: &mut redis, html, tenants, next: 0 };
    bench.backlog(tenants * 6);

    let peak = Peak::watch(worker.0.id());
    let (elapsed, rendered) = bench.backlog(jobs);
    let rate = jobs as f64 / elapsed.as_secs_f64();
    println!("\n{jobs} receipts of {tenants} tenants, {} bytes of HTML each", bench.html.len());
    println!("backlog       {rate:.0} receipts/s; render {}", quantiles(rendered));
    let (elapsed, latencies) = bench.closed_loop(jobs);
    let rate = jobs as f64 / elapsed.as_secs_f64();
    println!("closed loop   {rate:.0} receipts/s; push to reply {}", quantiles(latencies));
    let latencies = bench.one_at_a_time(jobs.min(200));
    println!("idle          push to reply {}", quantiles(latencies));
    let (tree, own) = peak.stop();
    println!("peak memory   {} MB worker and Chromium, of it {} MB worker", tree >> 20, own >> 20);
}

/// Reads until a line contains `sign`, and goes on reading so that nothing blocks.
fn await_line(stream: impl std::io::Read + Send + 'static, sign: &'static str) {
    let mut lines = BufReader::new(stream).lines();
    loop {
        let line = lines.next().expect("it ended before it was ready").unwrap();
        if line.contains(sign) {
            break;
        }
    }
    std::thread::spawn(move || lines.for_each(drop));
}

struct Bench<'r> {
    redis: &'r mut Connection,
    html: String,
    tenants: usize,
    next: usize,
}

impl Bench<'_> {
    /// One more receipt's name and element.
    fn receipt(&mut self) -> (String, String) {
        let number = self.next;
        self.next += 1;
        let tenant = format!("tenant-{}", number % self.tenants);
        let header = format!(
            "{{\"id\":\"r-{number}\",\"tenant\":\"{tenant}\",\"options\":{{\"paper\":\"80mm\"}}}}"
        );
        (format!("{tenant}/r-{number}"), format!("{header}\n{}", self.html))
    }

    fn push(&mut self) -> String {
        let (name, element) = self.receipt();
        let _: i64 = self.redis.lpush(format!("{PREFIX}in"), element).unwrap();
        name
    }

    /// Takes a reply and returns its render time.
    fn take(&mut self, name: &str) -> Duration {
        let reply: Option<(String, Vec<u8>)> =
            self.redis.blpop(format!("{PREFIX}reply:{name}"), 60.0).unwrap();
        let (_, element) = reply.expect("no reply within 60 s");
        let line = element.split(|byte| *byte == b'\n').next().unwrap();
        let reply: serde_json::Value = serde_json::from_slice(line).unwrap();
        assert_eq!(reply["status"], "done", "{reply}");
        Duration::from_millis(reply["timings"]["rendered_ms"].as_u64().unwrap())
    }

    fn backlog(&mut self, jobs: usize) -> (Duration, Vec<Duration>) {
        let began = Instant::now();
        let mut pushes = redis::pipe();
        let names: Vec<String> = (0..jobs)
            .map(|_| {
                let (name, element) = self.receipt();
                pushes.lpush(format!("{PREFIX}in"), element).ignore();
                name
            })
            .collect();
        pushes.exec(self.redis).unwrap();
        let rendered = names.iter().map(|name| self.take(name)).collect();
        (began.elapsed(), rendered)
    }

    /// One receipt of each tenant in flight.
    fn closed_loop(&mut self, jobs: usize) -> (Duration, Vec<Duration>) {
        let began = Instant::now();
        let mut flying = std::collections::VecDeque::new();
        let mut latencies = Vec::with_capacity(jobs);
        let mut pushed = 0;
        while latencies.len() < jobs {
            while pushed < jobs && flying.len() < self.tenants {
                let at = Instant::now();
                flying.push_back((self.push(), at));
                pushed += 1;
            }
            let (name, at) = flying.pop_front().unwrap();
            self.take(&name);
            latencies.push(at.elapsed());
        }
        (began.elapsed(), latencies)
    }

    fn one_at_a_time(&mut self, jobs: usize) -> Vec<Duration> {
        (0..jobs)
            .map(|_| {
                let at = Instant::now();
                let name = self.push();
                self.take(&name);
                at.elapsed()
            })
            .collect()
    }
}

fn quantiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    format!("p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms", at(0.5), at(0.95), at(0.99))
}

/// The most memory that a process and all below it were seen to use.
struct Peak {
    stop: Arc<AtomicBool>,
    tree: Arc<AtomicU64>,
    own: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Peak {
    fn watch(pid: u32) -> Self {
        let (stop, tree, own) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicU64::new(0)),
        );
        let thread = {
            let (stop, tree, own) = (Arc::clone(&stop), Arc::clone(&tree), Arc::clone(&own));
            std::thread::spawn(move || {
                let probe = Probe::default();
                while !stop.load(Ordering::Relaxed) {
                    tree.fetch_max(probe.used_by_tree(pid), Ordering::Relaxed);
                    own.fetch_max(probe.used_by(pid), Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(50));
                }
            })
        };
        Self { stop, tree, own, thread }
    }

    fn stop(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        (self.tree.load(Ordering::Relaxed), self.own.load(Ordering::Relaxed))
    }
}
