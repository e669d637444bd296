//! A private `redis-server`: its own directory, a free port on loopback, killed
//! and reaped with its test.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Below those that the kernel gives to outgoing connections: a client that calls a
/// server that is down could else be given the server's own port, and reach itself.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A server that has to read a large file first takes seconds.
const LONGEST_START: Duration = Duration::from_secs(60);

/// A running server. Its data outlives a [`kill`](RedisServer::kill), not the value.
pub(crate) struct RedisServer {
    directory: TempDir,
    port: u16,
    settings: Vec<String>,
    environment: Vec<(String, OsString)>,
    child: Option<Child>,
}

impl RedisServer {
    /// A server that keeps nothing on disk.
    pub(crate) fn volatile() -> Self {
        Self::start(&["--appendonly", "no"])
    }

    /// A server that has written every command before it answers.
    pub(crate) fn durable() -> Self {
        Self::start(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    /// A server with these settings.
    pub(crate) fn start(settings: &[&str]) -> Self {
        Self::start_in(settings, Vec::new())
    }

    /// A server with these settings and, added to ours, these environment variables.
    pub(crate) fn start_in(settings: &[&str], environment: Vec<(String, OsString)>) -> Self {
        let mut server = Self {
            directory: tempfile::tempdir().unwrap(),
            port: 0,
            settings: settings.iter().map(ToString::to_string).collect(),
            environment,
            child: None,
        };
        // Another process may take the port between our look and Redis' bind.
        for _ in 0..100 {
            server.port = rand::random_range(PORTS);
            if TcpListener::bind(("127.0.0.1", server.port)).is_ok() && server.launch().is_ok() {
                return server;
            }
        }
        panic!("redis-server found no free port a hundred times");
    }

    /// Starts the process and waits until it says that it is ready.
    fn launch(&mut self) -> Result<(), String> {
        let mut child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--daemonize", "no", "--logfile", "", "--dir"])
            .arg(self.directory.path())
            .args(&self.settings)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server could not be started: install the package redis-server");
        let log = BufReader::new(child.stdout.take().unwrap());
        let (ready, is_ready) = sync_channel(1);
        // Reads to the end, so that the server never blocks on a full pipe.
        std::thread::spawn(move || {
            let mut seen = String::new();
            let mut waiting = Some(ready);
            for line in log.lines().map_while(Result::ok) {
                if line.contains("Ready to accept connections") {
                    if let Some(ready) = waiting.take() {
                        ready.send(Ok(())).ok();
                    }
                } else if waiting.is_some() {
                    seen.push_str(&line);
                    seen.push('\n');
                }
            }
            if let Some(ready) = waiting {
                ready.send(Err(seen)).ok();
            }
        });
        let outcome = is_ready
            .recv_timeout(LONGEST_START)
            .unwrap_or_else(|_| Err("it says nothing at all".to_owned()));
        if outcome.is_err() {
            child.kill().unwrap();
            child.wait().unwrap();
        } else {
            self.child = Some(child);
        }
        outcome
    }

    /// How to reach it.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// SIGKILL: what was not on disk is gone.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it again on the same port and the same data.
    pub(crate) fn restart(&mut self) {
        self.kill();
        if let Err(log) = self.launch() {
            panic!("redis-server did not come back:\n{log}");
        }
    }

    /// SIGSTOP: silent, with TCP still up.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().unwrap().id();
        kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}
