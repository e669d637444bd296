//! Children that end with whoever started them, and a private `redis-server`.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{Client, Connection};
use rustix::process::{Pid, Signal, kill_process};

/// When Redis brings its file to the disk, as in most installations.
pub(crate) const FSYNC: &str = "everysec";
/// A worker drains and takes its Chromium along.
const PATIENCE: Duration = Duration::from_secs(10);

/// A child that is told to stop when it is dropped, and killed if it does not.
pub(crate) struct Server(pub(crate) Child);

impl Drop for Server {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.0.id().try_into().unwrap()).unwrap();
        // It may have ended by itself.
        if self.0.try_wait().unwrap().is_some() || kill_process(pid, Signal::TERM).is_err() {
            return;
        }
        let patience = Instant::now() + PATIENCE;
        while self.0.try_wait().unwrap().is_none() {
            if Instant::now() > patience {
                self.0.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Reads until a line contains `sign`, and goes on reading so that nothing blocks.
pub(crate) fn await_line(stream: impl std::io::Read + Send + 'static, sign: &'static str) {
    let mut lines = BufReader::new(stream).lines();
    while !lines.next().expect("it ended before it was ready").unwrap().contains(sign) {}
    std::thread::spawn(move || lines.for_each(drop));
}

/// What a Redis keeps on the disk.
#[derive(Clone, Copy)]
pub(crate) enum Keeps {
    Nothing,
    /// An append-only file, written anew when it has doubled, as by default.
    File,
    /// The same, never written anew, so that its size is what was written.
    EveryWrite,
}

/// A Redis of our own in a directory of its own.
pub(crate) struct Redis {
    pub(crate) url: String,
    pub(crate) socket: PathBuf,
    pub(crate) dir: tempfile::TempDir,
    server: Server,
}

impl Redis {
    pub(crate) fn start(keeps: Keeps) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("redis.sock");
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendfsync", FSYNC, "--appendonly"]);
        command.arg(if matches!(keeps, Keeps::Nothing) { "no" } else { "yes" });
        if matches!(keeps, Keeps::EveryWrite) {
            command.args(["--auto-aof-rewrite-percentage", "0"]);
        }
        command.arg("--unixsocket").arg(&socket).arg("--dir").arg(dir.path());
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut server = Server(child.expect("redis-server is needed: scripts/install-deps run"));
        await_line(server.0.stdout.take().unwrap(), "eady to accept connections");
        Self { url: format!("unix://{}", socket.display()), socket, dir, server }
    }

    pub(crate) fn connect(&self) -> Connection {
        Client::open(self.url.as_str()).unwrap().get_connection().unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.server.0.id()
    }

    pub(crate) fn version(&self) -> String {
        let info: String = redis::cmd("INFO").arg("server").query(&mut self.connect()).unwrap();
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
        version.unwrap_or_default().to_owned()
    }
}
