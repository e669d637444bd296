//! Worker processes, their Chromium processes, and plain Redis commands.

use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redis::{Client, Commands, Connection};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;

pub const PREFIX: &str = "tillroll:{receipts}:";

/// The program under test.
pub fn tillroll() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tillroll"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("TILLROLL_") || name == "REDIS_URL" {
            command.env_remove(&*name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// A receipt of a few lines, with `text` in it.
pub fn receipt(text: &str) -> String {
    let rows: String = (1..=20)
        .map(|row| {
            format!("<tr><td>Item {row}</td><td style='text-align:right'>{row}.50</td></tr>")
        })
        .collect();
    format!(
        "<!doctype html><html><head><title>{text}</title><style>body{{font:12px 'Liberation Sans';\
         margin:4mm}}table{{width:100%;border-top:1px dashed #000}}</style></head>\
         <body><h3>{text}</h3><table>{rows}</table></body></html>"
    )
}

/// `text` as a framed element of a job on an 80 mm roll.
pub fn element(tenant: &str, id: &str, text: &str) -> Vec<u8> {
    let header = serde_json::json!({"id": id, "tenant": tenant, "options": {"paper": "80mm"}});
    format!("{header}\n{}", receipt(text)).into_bytes()
}

/// A running worker.
pub struct Worker {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    ready: Receiver<()>,
}

impl Worker {
    /// Starts one and waits until it says that it is ready.
    pub fn start(url: &str, more: &[&str]) -> Self {
        Self::start_by(&mut tillroll(), url, more)
    }

    /// As [`Worker::start`], by a command that may carry variables of its own.
    pub fn start_by(command: &mut Command, url: &str, more: &[&str]) -> Self {
        let worker = Self::launch(command, url, more);
        worker
            .ready
            .recv_timeout(Duration::from_secs(60))
            .unwrap_or_else(|_| panic!("the worker did not get ready:\n{}", worker.log()));
        worker
    }

    /// As [`Worker::start`], where programs are looked for in `path` only.
    pub fn start_in(url: &str, more: &[&str], path: &str) -> Self {
        Self::start_by(tillroll().env("PATH", path), url, more)
    }

    /// As [`Worker::start_by`], without waiting for anything. With no `url` the
    /// environment has it.
    pub fn launch(command: &mut Command, url: &str, more: &[&str]) -> Self {
        command.arg("worker");
        if !url.is_empty() {
            command.args(["--redis", url]);
        }
        let mut child = command
            .args(["--set", "queue.lease=3s", "--set", "queue.heartbeat=500ms"])
            // Other tests and builds share these cores, and there are time limits.
            .args(["--set", "http.listen=", "--set", "renderer.nice=0"])
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let (sender, ready) = sync_channel(1);
        let lines = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let is_ready = line.contains(" ready ") && line.contains("worker=");
                lines.lock().unwrap().push(line);
                if is_ready {
                    sender.send(()).ok();
                }
            }
        });
        Self { child, log, ready }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid().try_into().unwrap()).unwrap(), signal).unwrap();
    }

    /// Waits for its end.
    pub fn wait(mut self, longest: Duration) -> ExitStatus {
        assert!(all_gone(&[handle(self.pid()).unwrap()], longest), "still there:\n{}", self.log());
        self.child.wait().unwrap()
    }

    /// Its Chromium processes: host pid and `--type=` (`browser` where there is none).
    pub fn chromium(&self) -> Vec<(u32, String)> {
        chromium_below(self.pid())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("the worker's log:\n{}", self.log());
        }
    }
}

/// The Chromium processes below a process: host pid and `--type=` (`browser` where there is none).
pub fn chromium_below(pid: u32) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    let mut open = vec![pid];
    while let Some(pid) = open.pop() {
        open.extend(children(pid));
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let program = command.split(' ').next().unwrap_or_default();
        if !program.contains("chrom") || !program.starts_with('/') {
            continue;
        }
        let kind = command
            .split("--type=")
            .nth(1)
            .map_or("browser", |rest| rest.split(' ').next().unwrap_or_default());
        found.push((pid, kind.to_owned()));
    }
    found
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| {
            list.split_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<u32>>()
        })
        .collect()
}

/// Something to wait on until a process is gone; `None` if it is gone already.
pub fn handle(pid: u32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid.try_into().unwrap()).unwrap(), PidfdFlags::empty()).ok()
}

/// Whether all these processes end within `longest`.
pub fn all_gone(handles: &[OwnedFd], longest: Duration) -> bool {
    let give_up = Instant::now() + longest;
    handles.iter().all(|handle| {
        let left = give_up.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos().into() };
        poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&left)).unwrap() > 0
    })
}

/// A plain connection.
pub fn connect(url: &str) -> Connection {
    Client::open(url).unwrap().get_connection().unwrap()
}

/// Waits for a reply: its JSON line and what follows.
pub fn take(redis: &mut Connection, name: &str, longest: u32) -> Option<(Value, Vec<u8>)> {
    let reply: Option<(String, Vec<u8>)> =
        redis.blpop(format!("{PREFIX}reply:{name}"), f64::from(longest)).unwrap();
    let (_, element) = reply?;
    let at = element.iter().position(|byte| *byte == b'\n').unwrap_or(element.len());
    let body = element.get(at + 1..).unwrap_or_default().to_vec();
    Some((serde_json::from_slice(&element[..at]).unwrap(), body))
}

/// The keys of the queue that match.
pub fn keys(redis: &mut Connection, pattern: &str) -> Vec<String> {
    redis.keys(format!("{PREFIX}{pattern}").replace("{receipts}", "\\{receipts\\}")).unwrap()
}

/// Text of a PDF.
pub fn text_of(pdf: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.pdf");
    std::fs::write(&path, pdf).unwrap();
    let output = Command::new("pdftotext").arg("-layout").arg(&path).arg("-").output().unwrap();
    assert!(output.status.success(), "pdftotext: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Fails unless `pdf` is a sound file.
pub fn assert_sound(pdf: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.pdf");
    std::fs::write(&path, pdf).unwrap();
    let output = Command::new("qpdf").arg("--check").arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
