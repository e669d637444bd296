//! A Redis outside the group, a worker inside it, and what both say.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use redis::{Commands, Connection};
use serde_json::Value;

use crate::cgroup::Group;
use crate::documents::Document;
use crate::server::{Redis, Server};

/// The worker has a group of its own, without neighbours: an eighth is enough to keep.
pub(crate) const RESERVE: &str = "memory.reserve=12%";

/// A key of the queue called `queue`.
pub(crate) fn key(queue: &str, rest: &str) -> String {
    format!("tillroll:{{{queue}}}:{rest}")
}

/// The program under test, inside a group.
pub(crate) struct Worker {
    server: Server,
    pub(crate) queue: String,
    status: String,
}

impl Worker {
    /// Starts one, waits until it is ready, and keeps its log in `log`.
    pub(crate) fn start(
        group: &Group,
        redis: &Redis,
        queue: &str,
        settings: &[&str],
        log: &Path,
    ) -> Result<Self, String> {
        let mut command = group.entry().command(env!("CARGO_BIN_EXE_tillroll"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("TILLROLL_") || name == "REDIS_URL" {
                command.env_remove(&*name);
            }
        }
        command.args(["worker", "--redis", &redis.url, "--queue", queue]);
        let state = format!("state.dir={}", redis.dir.path().join("state").display());
        for setting in [RESERVE, &state, "drain.timeout=1s"].iter().chain(settings) {
            command.args(["--set", setting]);
        }
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut server = Server(child.unwrap());
        let lines = BufReader::new(server.0.stderr.take().unwrap()).lines();
        let mut kept = std::fs::File::create(log).unwrap();
        let (tell, told) = sync_channel(1);
        std::thread::spawn(move || {
            let mut url = String::new();
            for line in lines.map_while(Result::ok) {
                writeln!(kept, "{line}").unwrap();
                if let Some((_, rest)) = line.split_once("url=http://") {
                    rest.split('/').next().unwrap().clone_into(&mut url);
                }
                if line.contains(" ready ") {
                    // Told once only; the log goes on.
                    tell.try_send(url.clone()).unwrap_or_default();
                }
            }
        });
        match told.recv_timeout(Duration::from_secs(30)) {
            Ok(status) => Ok(Self { server, queue: queue.to_owned(), status }),
            Err(_) => {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                let said = said.lines().rev().take(2).collect::<Vec<_>>().join("; ");
                Err(format!("the worker did not get ready: {said}"))
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.server.0.id()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.server.0.try_wait().unwrap().is_some()
    }

    /// Where it says of itself what it does.
    pub(crate) fn status_address(&self) -> String {
        self.status.clone()
    }

    pub(crate) fn key(&self, rest: &str) -> String {
        key(&self.queue, rest)
    }

    /// Pushes all of them at once.
    pub(crate) fn push(&self, redis: &mut Connection, documents: &[Document]) {
        for part in documents.chunks(100) {
            let mut pushes = redis::pipe();
            for document in part {
                pushes.lpush(self.key("in"), document.element()).ignore();
            }
            pushes.exec(redis).unwrap();
        }
    }

    /// Takes one reply; `None` where none comes in time.
    pub(crate) fn take(&self, redis: &mut Connection, name: &str, seconds: f64) -> Option<Value> {
        let reply: Option<(String, Vec<u8>)> =
            redis.blpop(self.key(&format!("reply:{name}")), seconds).unwrap();
        Some(reply_line(&reply?.1))
    }

    /// All of them rendered; how many a second.
    pub(crate) fn rate(&self, redis: &mut Connection, documents: &[Document]) -> f64 {
        let began = Instant::now();
        self.push(redis, documents);
        for document in documents {
            let reply = self.take(redis, &document.name(), 120.0).expect("no reply in 120 s");
            assert_eq!(reply["status"], "done", "{reply}");
        }
        documents.len() as f64 / began.elapsed().as_secs_f64()
    }
}

/// What a reply says before its PDF.
pub(crate) fn reply_line(element: &[u8]) -> Value {
    let line = element.split(|byte| *byte == b'\n').next().unwrap();
    serde_json::from_slice(line).unwrap()
}

/// What a worker says of itself; `None` where it does not answer at once.
pub(crate) fn status(address: &str) -> Option<Value> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let request = format!("GET /status HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
}

/// Private, written and read again: where logs and series are kept.
pub(crate) fn out() -> std::path::PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/governor");
    std::fs::create_dir_all(&dir).unwrap();
    dir
}
