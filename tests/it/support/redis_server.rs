//! A private `redis-server`: its own directory, a free port on loopback, killed
//! and reaped with its test.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
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

/// What it says once it takes commands.
const READY: &str = "Ready to accept connections";

/// Which server: the same tests run on an older one as well (see the Makefile).
fn program() -> OsString {
    std::env::var_os("TILLROLL_TEST_REDIS_SERVER").unwrap_or_else(|| "redis-server".into())
}

/// A running server. Its data outlives a [`kill`](RedisServer::kill), not the value.
pub(crate) struct RedisServer {
    directory: TempDir,
    port: u16,
    tls_port: u16,
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

    /// A server with these settings, in which `{tls}` stands for a second free port.
    pub(crate) fn start(settings: &[&str]) -> Self {
        Self::start_in(settings, Vec::new())
    }

    /// A server with these settings and, added to ours, these environment variables.
    pub(crate) fn start_in(settings: &[&str], environment: Vec<(String, OsString)>) -> Self {
        let mut server = Self {
            directory: tempfile::tempdir().unwrap(),
            port: 0,
            tls_port: 0,
            settings: settings.iter().map(ToString::to_string).collect(),
            environment,
            child: None,
        };
        // Another process may take the port between our look and Redis' bind.
        for _ in 0..100 {
            (server.port, server.tls_port) = (free_port(), free_port());
            if server.launch(&[], READY).is_ok() {
                return server;
            }
        }
        panic!("redis-server found no free port a hundred times");
    }

    /// Starts the process, with more settings, and waits until it says `until`.
    fn launch(&mut self, more: &[&str], until: &'static str) -> Result<(), String> {
        let mut child = Command::new(program())
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--daemonize", "no", "--logfile", "", "--dir"])
            .arg(self.directory.path())
            .args(
                self.settings.iter().map(|part| part.replace("{tls}", &self.tls_port.to_string())),
            )
            .args(more)
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
                if line.contains(until) {
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
        if let Err(log) = self.launch(&[], READY) {
            panic!("redis-server did not come back:\n{log}");
        }
    }

    /// Starts it again; it takes so many microseconds to load each key, and looks
    /// after its clients whenever it has read 2 MB.
    pub(crate) fn restart_slowly(&mut self, per_key: u32) {
        self.kill();
        let delay = per_key.to_string();
        let more = ["--key-load-delay", &delay];
        if let Err(log) = self.launch(&more, "Server initialized") {
            panic!("redis-server did not come back:\n{log}");
        }
    }

    /// From now on it cannot save: there is a directory where its file should be.
    pub(crate) fn obstruct_saving(&self) {
        let file = self.path("dump.rdb");
        if file.exists() {
            std::fs::remove_file(&file).unwrap();
        }
        std::fs::create_dir_all(file.join("in-the-way")).unwrap();
    }

    /// It can save again.
    pub(crate) fn allow_saving(&self) {
        std::fs::remove_dir_all(self.path("dump.rdb")).unwrap();
    }

    /// Something in its directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Its port on loopback.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How to reach it over TLS.
    pub(crate) fn tls_url(&self) -> String {
        format!("rediss://localhost:{}", self.tls_port)
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

/// A port of [`PORTS`] on which nobody listens now.
fn free_port() -> u16 {
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut tried = std::iter::repeat_with(|| rand::random_range(PORTS)).take(1000);
    tried.find(free).expect("a free port")
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}
