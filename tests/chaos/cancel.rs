//! Cancelling what runs: how long until it has stopped, and its memory.

use std::time::{Duration, Instant};

use redis::Commands;
use tillroll::job::Name;
use tillroll::queue::{Cancelled, LimitSettings, Queue, QueueConfig};
use tokio::runtime::Runtime;

use crate::fencing::{id_of, wait_leased_by};
use crate::history::History;
use crate::producer::{framed, header, name, push, slow};
use crate::redis_server::RedisServer;
use crate::support::{PREFIX, Worker, all_gone, connect, handle, take};
use crate::watch::Watch;

const PATIENCE: Duration = Duration::from_secs(30);
/// A browser may keep a little of what it needed.
const KEPT: u64 = 60 * 1024 * 1024;

#[test]
fn a_cancelled_render_of_ten_seconds_stops_at_once_and_gives_its_memory_back() {
    let server = RedisServer::volatile();
    let mut redis = connect(&server.url());
    let watch = Watch::of(&server.url());
    let settings = ["--concurrency", "1", "--set", "renderer.max_nodes=0"];
    let worker = Worker::start(&server.url(), &settings);
    // Everything that a first render brings with it is there.
    let warm = push(&mut redis, 1..2);
    assert_eq!(watch.wait_ended(&warm, PATIENCE), Ok(()));
    let before = memory(&worker);

    let job = name(11);
    let element = framed(&header(11), &slow(&job, 10_000, 300_000));
    redis.lpush::<_, _, ()>(format!("{PREFIX}in"), element).unwrap();
    wait_leased_by(&mut redis, &id_of(&worker));
    let renderer = wait_busy(&worker);
    let during = memory(&worker);

    let operator = Operator::connect(&server.url());
    let asked = Instant::now();
    let answer = operator.cancel(&job);
    let told = asked.elapsed();
    assert_eq!(answer, Cancelled::Stopping { worker: id_of(&worker) });
    let handles: Vec<_> = handle(renderer).into_iter().collect();
    assert!(all_gone(&handles, Duration::from_secs(5)), "it still renders");
    let stopped = asked.elapsed();
    let cancelled = |heard: &History| (heard.count("cancelled") == 1).then_some(());
    assert!(watch.wait(PATIENCE, cancelled).is_some(), "no event");
    let heard = asked.elapsed();
    let (reply, _) = take(&mut redis, &job, 10).unwrap();
    assert_eq!(reply["status"], "cancelled", "{reply}");
    let after = wait_memory_back(&worker, before + KEPT);
    let mb = |bytes: u64| bytes / (1 << 20);
    println!(
        "cancel of a render of 10 s: asking took {} ms, the renderer was gone after {} ms, the job ended \
         after {} ms; Chromium had {} MB before, {} MB during, {} MB after",
        told.as_millis(),
        stopped.as_millis(),
        heard.as_millis(),
        mb(before),
        mb(during),
        mb(after),
    );
    assert!(heard < Duration::from_secs(2), "{heard:?}");
    // The next job of the same tenant is untouched.
    let next = push(&mut redis, 21..22);
    assert_eq!(watch.wait_ended(&next, PATIENCE), Ok(()));
}

/// Somebody who speaks to the queue itself.
struct Operator {
    runtime: Runtime,
    queue: Queue,
}

impl Operator {
    fn connect(url: &str) -> Self {
        let runtime = Runtime::new().unwrap();
        let config = QueueConfig {
            redis: url.into(),
            queue: "receipts".to_owned(),
            worker: "operator".to_owned(),
            lease: Duration::from_secs(3),
            response_timeout: Duration::from_secs(2),
            limits: LimitSettings::default(),
            fenced: true,
        };
        let queue = runtime.block_on(Queue::connect(config)).unwrap();
        Self { runtime, queue }
    }

    fn cancel(&self, job: &str) -> Cancelled {
        self.runtime.block_on(self.queue.cancel(&Name::parse(job).unwrap())).unwrap()
    }
}

/// Private bytes of the worker's Chromium processes.
fn memory(worker: &Worker) -> u64 {
    let private = |pid: u32| -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let wanted = |line: &&str| line.starts_with("RssAnon:") || line.starts_with("RssShmem:");
        let kilobytes = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
        status.lines().filter(wanted).filter_map(kilobytes).sum::<u64>() * 1024
    };
    worker.chromium().into_iter().map(|(pid, _)| private(pid)).sum()
}

/// Clock ticks that a process has used.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    after_name.split_whitespace().nth(11).and_then(|ticks| ticks.parse().ok()).unwrap_or(0)
}

/// Waits until a renderer has computed for a second and a half: by then it is in
/// the midst of the document. Its pid.
fn wait_busy(worker: &Worker) -> u32 {
    let renderers = || worker.chromium().into_iter().filter(|(_, kind)| kind == "renderer");
    let first: Vec<_> = renderers().map(|(pid, _)| (pid, ticks(pid))).collect();
    let begun = |pid: u32| first.iter().find(|(p, _)| *p == pid).map_or(0, |(_, ticks)| *ticks);
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some((pid, _)) = renderers().find(|(pid, _)| ticks(*pid) > begun(*pid) + 150) {
            return pid;
        }
        assert!(Instant::now() < give_up, "no renderer computes");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until Chromium has given memory back; what it has then.
fn wait_memory_back(worker: &Worker, most: u64) -> u64 {
    let give_up = Instant::now() + Duration::from_secs(10);
    loop {
        let now = memory(worker);
        if now <= most {
            return now;
        }
        assert!(Instant::now() < give_up, "{} MB are not given back", now / (1 << 20));
        std::thread::sleep(Duration::from_millis(10));
    }
}
