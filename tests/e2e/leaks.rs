//! Waves of jobs that end in every way there is; afterwards all that was taken has
//! been given back. Two waves warm up, every later one is held against the second.
//!
//! `TILLROLL_LEAK_JOBS=2000` (`make leaks`) is the long form: it prints a table.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use redis::{Commands, Connection};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::pages::get;
use crate::redis_server::RedisServer;
use crate::support::{PREFIX, Worker, connect, keys, receipt, take, tillroll};

const TENANTS: usize = 6;
/// Jobs in a wave of the short form, and in one of the long form.
const SHORT: usize = 40;
const LONG: usize = 200;
/// A wave is over when the counts are back, or never.
const PATIENCE: Duration = Duration::from_secs(40);
/// The allocator and the caches of a debug build wander by so much.
const MEMORY_WANDERS: u64 = 16 << 20;

/// What a worker holds, as seen from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    /// Processes below the worker that are no renderers.
    processes: usize,
    zombies: usize,
    /// Renderers without a context, or contexts without a renderer.
    strays: usize,
    /// Descriptors of the worker, but for three of each renderer: a handle on it, the
    /// same to be told of its end, and what is read of its memory.
    files: usize,
    threads: usize,
    /// Tasks of the worker, but for two of each context: who is told of its end, and who
    /// then gives it up.
    tasks: usize,
    /// Connections to Redis.
    connections: usize,
    /// Files and directories in /tmp that are ours or Chromium's.
    temporary: usize,
    shared_memory: usize,
    /// Control groups of the worker's browsers.
    groups: usize,
}

/// What varies and must only not grow, in bytes.
#[derive(Debug, Clone, Copy)]
struct Memory {
    worker: u64,
    browser: u64,
}

struct Rig {
    redis: Connection,
    url: String,
    worker: Worker,
    address: String,
    next: usize,
    outcomes: BTreeMap<String, usize>,
}

impl Rig {
    fn start(server: &RedisServer) -> Self {
        let url = server.url();
        let more = ["--set", "http.listen=127.0.0.1:19664", "--set", "renderer.timeout=4s"];
        let worker = Worker::start(&url, &more);
        let log = worker.log();
        let address = log.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
        let redis = connect(&url);
        Self { redis, url, worker, address, next: 0, outcomes: BTreeMap::new() }
    }

    /// Pushes a job; returns its name.
    fn push(&mut self, tenant: &str, html: &str, more: &Value) -> String {
        self.next += 1;
        let id = format!("r-{}", self.next);
        let mut header = json!({"id": id, "tenant": tenant});
        let fields = more.as_object().unwrap().clone();
        header.as_object_mut().unwrap().extend(fields);
        let _: i64 = self.redis.lpush(format!("{PREFIX}in"), format!("{header}\n{html}")).unwrap();
        format!("{tenant}/{id}")
    }

    /// A wave of so many jobs, all of which end.
    fn wave(&mut self, jobs: usize) {
        let heavy = "<tr><td>Tea<td>1<td>2.00".repeat(20_000);
        let heavy = format!("<!doctype html><table>{heavy}</table>");
        let mut names = Vec::new();
        let (mut waiting, mut running) = (Vec::new(), Vec::new());
        for number in 0..jobs {
            let tenant = format!("t{}", number % TENANTS);
            let name = match number % 20 {
                // A broken header, a field that is not known, too large.
                3 => self.push(&tenant, "<p>x", &json!({"colour": "red"})),
                7 => self.push(&tenant, "<p>x", &json!({"options": {"paper": "B9"}})),
                9 if number % 100 == 9 => {
                    self.push(&tenant, &"x".repeat((8 << 20) + 1), &json!({}))
                }
                // Never done in time.
                11 => {
                    let options = json!({"timeout_ms": 150});
                    self.push(&tenant, &heavy, &json!({"max_attempts": 1, "options": options}))
                }
                // Scripts: a context of its own; one of them never ends.
                13 => self.push(&tenant, &receipt("Script"), &json!({"options": {"script": true}})),
                15 if number % 40 == 15 => {
                    let options = json!({"script": true, "timeout_ms": 300});
                    let html = "<script>for(;;){}</script>";
                    self.push(&tenant, html, &json!({"max_attempts": 1, "options": options}))
                }
                // Cancelled: while it waits, or while it runs.
                17 => self.push(&tenant, &receipt("Later"), &json!({"delay_ms": 600_000})),
                19 if number % 40 == 19 => {
                    let name = self.push(&tenant, &heavy, &json!({"max_attempts": 1}));
                    running.push(name.clone());
                    name
                }
                _ => {
                    let html = receipt("Good");
                    self.push(&tenant, &html, &json!({"options": {"paper": "80mm"}}))
                }
            };
            if number % 20 == 17 {
                waiting.push(name.clone());
            }
            names.push(name);
        }
        // Each kind of process dies once in mid-load.
        for kind in ["renderer", "browser"] {
            let victim = self.worker.chromium().into_iter().find(|(_, found)| found == kind);
            if let Some(pid) = victim.and_then(|(pid, _)| Pid::from_raw(pid.try_into().unwrap())) {
                // It may just have ended by itself.
                kill_process(pid, Signal::KILL).ok();
            }
        }
        self.cancel(&waiting);
        self.cancel(&running);
        let _: i64 = self.redis.lpush(format!("{PREFIX}in"), "{not a header\n<p>x").unwrap();
        self.take(&names);
        // Every tenant has a warm page again.
        let settled: Vec<String> = (0..TENANTS)
            .map(|tenant| self.push(&format!("t{tenant}"), &receipt("Good"), &json!({})))
            .collect();
        self.take(&settled);
    }

    /// Cancels jobs once they have been admitted.
    fn cancel(&mut self, names: &[String]) {
        if names.is_empty() {
            return;
        }
        let give_up = Instant::now() + PATIENCE;
        for name in names {
            while !self.redis.exists::<_, bool>(format!("{PREFIX}job:{name}")).unwrap() {
                assert!(Instant::now() < give_up, "{name} was not admitted");
            }
        }
        let mut command = tillroll();
        command.args(["job", "cancel", "--redis", &self.url]).args(names);
        // One that has ended meanwhile is an answer too.
        command.output().unwrap();
    }

    fn take(&mut self, names: &[String]) {
        for name in names {
            let reply = take(&mut self.redis, name, 60);
            let (reply, _) = reply.unwrap_or_else(|| panic!("{name} has no reply"));
            let status = reply["status"].as_str().unwrap();
            let code = reply["error"]["code"].as_str().unwrap_or("pdf");
            *self.outcomes.entry(format!("{status} {code}")).or_default() += 1;
        }
    }

    fn held(&self) -> (Held, Memory) {
        let pid = self.worker.pid();
        let (mut processes, mut renderers, mut zombies, mut browser) = (0, 0_usize, 0, 0);
        for below in tree(pid) {
            let line = std::fs::read(format!("/proc/{below}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.is_empty() {
                zombies += 1;
            } else if line.contains("--type=renderer") {
                renderers += 1;
            } else {
                processes += 1;
            }
            if line.contains("--headless") && !line.contains("--type=") && !line.contains("bwrap") {
                browser = private_bytes(below);
            }
        }
        let status: Value = serde_json::from_str(&get(&self.address, "/status").1).unwrap();
        let contexts = status["browser"]["contexts"].as_u64().unwrap_or(0) as usize;
        let metrics = get(&self.address, "/metrics").1;
        let tasks = metrics.lines().find_map(|line| line.strip_prefix("tillroll_tasks "));
        let profile = format!("tillroll-profile-{pid}-");
        let ours = |name: &str| {
            [&*profile, "chromium", "Chromium", "com.google"].iter().any(|word| name.contains(word))
        };
        let clients: String =
            redis::cmd("INFO").arg("clients").query(&mut connect(&self.url)).unwrap();
        let clients = clients.lines().find_map(|line| line.strip_prefix("connected_clients:"));
        let held = Held {
            processes,
            zombies,
            strays: renderers.abs_diff(contexts),
            files: entries(&format!("/proc/{pid}/fd"), |_| true) - 3 * renderers,
            threads: entries(&format!("/proc/{pid}/task"), |_| true),
            tasks: tasks.unwrap().parse::<usize>().unwrap() - 2 * renderers,
            connections: clients.unwrap().trim().parse::<usize>().unwrap(),
            temporary: entries("/tmp", ours),
            shared_memory: entries("/dev/shm", ours),
            groups: groups(Path::new("/sys/fs/cgroup"), &format!("tillroll-{pid}-")),
        };
        (held, Memory { worker: private_bytes(pid), browser })
    }

    /// What the worker's descriptors are, for whoever looks for a leak.
    fn kinds_of_files(&self) -> BTreeMap<String, usize> {
        let dir = format!("/proc/{}/fd", self.worker.pid());
        let mut kinds = BTreeMap::new();
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let link = std::fs::read_link(entry.path()).unwrap_or_default();
            let link = link.to_string_lossy();
            let kind = link.split(":[").next().unwrap_or_default().to_owned();
            *kinds.entry(kind).or_default() += 1;
        }
        kinds
    }

    /// Waits until nothing more is held than before; fails if that never comes.
    fn settled(&self, before: Option<&Held>) -> (Held, Memory) {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let (held, memory) = self.held();
            let at_rest = held.strays == 0 && held.zombies == 0;
            if at_rest && before.is_none_or(|before| no_more(&held, before)) {
                return (held, memory);
            }
            let files = self.kinds_of_files();
            assert!(Instant::now() < give_up, "a leak: {held:?}, before {before:?}; {files:?}");
            // Nobody tells when the kernel has cleared away a process; threads of a
            // pool go after ten idle seconds.
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn no_more(held: &Held, before: &Held) -> bool {
    held.processes <= before.processes
        && held.files <= before.files
        && held.threads <= before.threads
        // A context whose renderer could not be told apart has one task only.
        && held.tasks <= before.tasks + TENANTS
        && held.connections <= before.connections
        && held.temporary <= before.temporary
        && held.shared_memory <= before.shared_memory
        && held.groups <= before.groups
}

fn entries(dir: &str, counts: impl Fn(&str) -> bool) -> usize {
    let found = std::fs::read_dir(dir).into_iter().flatten().flatten();
    found.filter(|entry| counts(&entry.file_name().to_string_lossy())).count()
}

fn groups(dir: &Path, prefix: &str) -> usize {
    let found = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = found.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|entry| {
        let is_one = entry.file_name().to_string_lossy().starts_with(prefix);
        usize::from(is_one) + groups(&entry.path(), prefix)
    })
    .sum()
}

/// All processes below one, without it.
fn tree(pid: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut found = Vec::new();
    for thread in threads {
        let list = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for child in list.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            found.push(child);
            found.extend(tree(child));
        }
    }
    found
}

fn private_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

#[test]
fn whatever_becomes_of_jobs_all_that_they_took_is_given_back() {
    let jobs = std::env::var("TILLROLL_LEAK_JOBS").ok().map(|jobs| jobs.parse::<usize>().unwrap());
    let (wave, waves) = jobs.map_or((SHORT, 4), |jobs| (LONG, jobs.div_ceil(LONG)));
    let server = RedisServer::volatile();
    let mut rig = Rig::start(&server);
    let mut base: Option<(Held, Memory)> = None;
    println!(
        "wave  jobs processes strays zombies files threads tasks redis /tmp /dev/shm cgroups worker_MB browser_MB seconds"
    );
    for number in 1..=waves {
        let began = Instant::now();
        rig.wave(wave);
        let (held, memory) = rig.settled(base.as_ref().map(|(held, _)| held));
        println!(
            "{number:4} {:5} {:9} {:6} {:7} {:5} {:7} {:5} {:5} {:4} {:8} {:7} {:9.1} {:10.1} {:7.1}",
            number * (wave + TENANTS),
            held.processes,
            held.strays,
            held.zombies,
            held.files,
            held.threads,
            held.tasks,
            held.connections,
            held.temporary,
            held.shared_memory,
            held.groups,
            memory.worker as f64 / 1e6,
            memory.browser as f64 / 1e6,
            began.elapsed().as_secs_f64(),
        );
        match &base {
            Some((_, before)) => {
                let most = before.worker + MEMORY_WANDERS;
                assert!(memory.worker <= most, "the worker grew: {memory:?}, before {before:?}");
                let most = before.browser + MEMORY_WANDERS;
                assert!(memory.browser <= most, "the browser grew: {memory:?}, before {before:?}");
            }
            None if number == 2 => base = Some((held, memory)),
            None => {}
        }
    }
    for (outcome, count) in &rig.outcomes {
        println!("{count:6} {outcome}");
    }
    for outcome in ["done pdf", "rejected unknown_field", "dead render_timeout"] {
        assert!(rig.outcomes.contains_key(outcome), "no {outcome}: {:?}", rig.outcomes);
    }
    assert!(rig.outcomes.keys().any(|outcome| outcome.starts_with("cancelled")));
    assert_eq!(keys(&mut rig.redis, "out:*"), Vec::<String>::new());
    assert_eq!(keys(&mut rig.redis, "reply:*"), Vec::<String>::new());
}
