//! A Redis with an append-only file, the release binary on it, and a producer that
//! takes every reply.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use redis::{Commands, Connection};

use crate::documents::Document;
use crate::report::log;
use crate::server::{Redis, Server};

/// The longest that anything here is waited for, in seconds.
const PATIENCE: f64 = 120.0;
/// Ids and queues so far: none is used twice.
static NUMBERS: AtomicUsize = AtomicUsize::new(0);
/// Settings of all workers, `KEY=VALUE`, from the command line.
static SETTINGS: OnceLock<Vec<String>> = OnceLock::new();

/// Has every worker started with these.
pub(crate) fn set(settings: Vec<String>) {
    SETTINGS.set(settings).unwrap();
}

/// What `key` is set to, if it is.
pub(crate) fn setting(key: &str) -> Option<&'static str> {
    let all = SETTINGS.get().map(Vec::as_slice).unwrap_or_default();
    all.iter().find_map(|setting| setting.strip_prefix(key)?.strip_prefix('='))
}

pub(crate) fn number() -> usize {
    NUMBERS.fetch_add(1, Ordering::Relaxed)
}

/// The program under test, with a queue of its own.
pub(crate) struct Worker {
    server: Server,
    pub(crate) queue: String,
    /// From its start until it said that it was ready.
    pub(crate) ready: Duration,
}

impl Worker {
    /// Starts one on the queue `queue` and waits until it is ready. Its log is in
    /// `target/bench/logs`.
    pub(crate) fn start(redis: &Redis, queue: &str, settings: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tillroll"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("TILLROLL_") || name == "REDIS_URL" {
                command.env_remove(&*name);
            }
        }
        command.args(["worker", "--redis", &redis.url, "--queue", queue]);
        let state = format!("state.dir={}", redis.dir.path().join("state").display());
        for setting in ["http.listen=", "drain.timeout=1s", &state].iter().chain(settings) {
            command.args(["--set", setting]);
        }
        for setting in SETTINGS.get().into_iter().flatten() {
            command.args(["--set", setting]);
        }
        let began = Instant::now();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut server = Server(child.spawn().unwrap());
        let mut said = BufReader::new(server.0.stderr.take().unwrap());
        let log = log(queue);
        let mut kept = std::fs::File::create(&log).unwrap();
        let (tell, told) = sync_channel(1);
        std::thread::spawn(move || {
            let mut line = String::new();
            while said.read_line(&mut line).is_ok_and(|count| count > 0) {
                kept.write_all(line.as_bytes()).unwrap();
                if line.contains(" ready ") {
                    tell.send(Instant::now()).unwrap();
                    break;
                }
                line.clear();
            }
            std::io::copy(&mut said, &mut kept).unwrap_or_default();
        });
        let ready = told.recv_timeout(Duration::from_secs(30));
        let ready = ready.unwrap_or_else(|_| panic!("no worker: see {}", log.display()));
        Self { server, queue: queue.to_owned(), ready: ready - began }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.server.0.id()
    }

    pub(crate) fn client(&self, redis: &Redis) -> Producer {
        Producer { redis: redis.connect(), queue: self.queue.clone() }
    }
}

/// An app server: pushes jobs and takes replies.
pub(crate) struct Producer {
    pub(crate) redis: Connection,
    queue: String,
}

impl Producer {
    /// A producer of jobs for a worker that is still to come.
    pub(crate) fn of(redis: &Redis, queue: &str) -> Self {
        Self { redis: redis.connect(), queue: queue.to_owned() }
    }

    pub(crate) fn key(&self, rest: &str) -> String {
        format!("tillroll:{{{}}}:{rest}", self.queue)
    }

    /// Pushes one job and says its name.
    pub(crate) fn push(&mut self, document: &Document, tenant: &str) -> String {
        let id = format!("r-{}", number());
        let inbox = self.key("in");
        let _: i64 = self.redis.lpush(inbox, document.element(tenant, &id, "")).unwrap();
        format!("{tenant}/{id}")
    }

    /// Takes the reply of a job, which must be a PDF; says how many bytes it had.
    pub(crate) fn take(&mut self, name: &str) -> usize {
        self.reply(name).unwrap_or_else(|instead| panic!("{instead}"))
    }

    /// Takes the reply of a job; says how many bytes it had, or what there was instead
    /// of a PDF.
    pub(crate) fn reply(&mut self, name: &str) -> Result<usize, String> {
        let reply: Option<(String, Vec<u8>)> =
            self.redis.blpop(self.key(&format!("reply:{name}")), PATIENCE).unwrap();
        let (_, reply) = reply.ok_or_else(|| format!("no reply for {name} in {PATIENCE} s"))?;
        let end = reply.iter().position(|byte| *byte == b'\n').unwrap_or(reply.len());
        let line = String::from_utf8_lossy(&reply[..end]);
        let is_done = line.contains("\"status\":\"done\"") && reply[end..].starts_with(b"\n%PDF");
        if is_done { Ok(reply.len()) } else { Err(line.into_owned()) }
    }

    /// From push to reply.
    pub(crate) fn one(&mut self, document: &Document, tenant: &str) -> Duration {
        let began = Instant::now();
        let name = self.push(document, tenant);
        self.take(&name);
        began.elapsed()
    }

    /// So many jobs of so many tenants, the documents in turn, all pushed at once; until
    /// the last reply is taken.
    pub(crate) fn backlog(
        &mut self,
        documents: &[Document],
        jobs: usize,
        tenants: usize,
    ) -> Duration {
        let inbox = self.key("in");
        let names: Vec<(String, String)> = (0..jobs)
            .map(|job| (format!("tenant-{}", job % tenants), format!("r-{}", number())))
            .collect();
        let element = |at: usize| {
            // Each tenant has all kinds of documents.
            let document = &documents[at / tenants % documents.len()];
            document.element(&names[at].0, &names[at].1, "")
        };
        let elements: Vec<Vec<u8>> = (0..jobs).map(element).collect();
        let began = Instant::now();
        for part in elements.chunks(100) {
            let mut pushes = redis::pipe();
            for element in part {
                pushes.lpush(&inbox, &element[..]).ignore();
            }
            pushes.exec(&mut self.redis).unwrap();
        }
        for (tenant, id) in &names {
            self.take(&format!("{tenant}/{id}"));
        }
        began.elapsed()
    }
}
