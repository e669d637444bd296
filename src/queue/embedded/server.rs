//! One redis-server process: which program, its configuration, its start, and
//! whether it answers.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use redis::{AsyncConnectionConfig, cmd};
use tokio::time::{Instant, sleep, timeout};

use super::dir::{Dir, LOG, Lock, Record};
use super::error::{Cause, EmbeddedError};

/// How long it may take to load its append-only file.
const READY_PATIENCE: Duration = Duration::from_secs(120);
/// How long `--version` may take.
const VERSION_PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is asked whether it is ready.
const POLL: Duration = Duration::from_millis(20);
/// The descriptor of the lock in the server.
const LOCK_FD: i32 = 3;
/// A path of a socket has room for 107 bytes.
const SOCKET_PATH: usize = 107;
/// How much of the log an error quotes.
const QUOTED: usize = 400;

/// A program that can be our server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    path: PathBuf,
    /// (major, minor)
    pub(super) version: (u32, u32),
}

impl Program {
    /// Searches `dirs`, Redis first.
    pub(super) async fn find(dirs: &[PathBuf]) -> Result<Self, EmbeddedError> {
        let names = ["redis-server", "valkey-server"];
        let paths = names.iter().flat_map(|name| dirs.iter().map(move |dir| dir.join(name)));
        let runnable = |path: &PathBuf| {
            path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
        };
        let Some(path) = paths.into_iter().find(runnable) else {
            return Err(EmbeddedError::NoServer { looked: dirs.to_vec() });
        };
        let unusable = |why: String| EmbeddedError::Unusable { program: path.clone(), why };
        let output = tokio::process::Command::new(&path)
            .arg("--version")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = match timeout(VERSION_PATIENCE, output).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(unusable(error.to_string())),
            Err(_) => return Err(unusable(format!("no version within {VERSION_PATIENCE:?}"))),
        };
        let text = String::from_utf8_lossy(&output.stdout);
        match version(&text) {
            Some(version) if version >= (6, 0) => Ok(Self { path, version }),
            Some((major, minor)) => Err(unusable(format!("its version is {major}.{minor}"))),
            None => Err(unusable(format!("it says of itself {:?}", text.trim()))),
        }
    }
}

/// `Redis server v=7.0.15 sha=…` → (7, 0).
fn version(text: &str) -> Option<(u32, u32)> {
    let rest = text.split_once("v=")?.1;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// What goes into `redis.conf`.
struct Settings<'a> {
    dir: &'a Path,
    port: u16,
    password: &'a str,
    maxmemory: u64,
    version: (u32, u32),
}

/// The configuration file. Pure.
fn configuration(settings: &Settings<'_>) -> String {
    let mut text = String::from("# Written by tillroll at each start; changes are lost.\n");
    let mut line = |key: &str, value: &OsStr| text += &format!("{key} {}\n", quoted(value));
    let socket = settings.dir.join("redis.sock");
    let maxmemory = settings.maxmemory.to_string();
    let port = settings.port.to_string();
    for (key, value) in [
        ("bind", "127.0.0.1"),
        ("port", port.as_str()),
        ("protected-mode", "yes"),
        ("requirepass", settings.password),
        ("daemonize", "no"),
        ("maxmemory", maxmemory.as_str()),
        // A job is never dropped to make room: a push is refused instead.
        ("maxmemory-policy", "noeviction"),
        ("appendonly", "yes"),
        ("appendfsync", "everysec"),
        // The append-only file has everything; snapshots would only fork.
        ("save", ""),
        ("logfile", LOG),
        ("loglevel", "warning"),
        ("always-show-logo", "no"),
    ] {
        line(key, OsStr::new(value));
    }
    line("dir", settings.dir.as_os_str());
    if socket.as_os_str().len() <= SOCKET_PATH {
        line("unixsocket", socket.as_os_str());
        line("unixsocketperm", OsStr::new("700"));
    }
    if settings.version >= (7, 0) {
        for key in ["enable-debug-command", "enable-module-command", "enable-protected-configs"] {
            line(key, OsStr::new("no"));
        }
    }
    text
}

/// As Redis reads it: in double quotes, everything unusual as `\xHH`.
fn quoted(value: &OsStr) -> String {
    let mut text = String::from("\"");
    for byte in value.as_bytes() {
        match byte {
            b'"' | b'\\' | 0..=31 | 127.. => text += &format!("\\x{byte:02x}"),
            _ => text.push(char::from(*byte)),
        }
    }
    text + "\""
}

/// The URL of a server on `port`.
pub(super) fn url(port: u16, password: &str) -> String {
    format!("redis://:{password}@127.0.0.1:{port}/0")
}

/// `remembered` if nobody has it, else a free one.
fn free_port(remembered: Option<u16>) -> std::io::Result<u16> {
    let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port))?.local_addr();
    let known = remembered.and_then(|port| free(port).ok());
    Ok(known.map_or_else(|| free(0), Ok)?.port())
}

/// Starts one and waits until it answers. `lock` is `server.lock`.
pub(super) async fn start(
    dir: &Dir,
    program: &Program,
    maxmemory: u64,
    lock: Lock,
) -> Result<Record, EmbeddedError> {
    let mut lock = lock;
    let mut tries = 0;
    loop {
        tries += 1;
        // The next try needs the lock again, which the first server takes with it.
        let spare = lock.0.try_clone().map_err(|source| EmbeddedError::File {
            what: "keeping the lock of",
            path: dir.path().into(),
            source,
        })?;
        match start_once(dir, program, maxmemory, lock).await {
            Err(EmbeddedError::NotStarted { cause: Cause::PortTaken, .. }) if tries < 3 => {
                tracing::warn!("another program took the port of the embedded Redis; trying again");
                lock = Lock(spare);
            }
            outcome => return outcome,
        }
    }
}

async fn start_once(
    dir: &Dir,
    program: &Program,
    maxmemory: u64,
    lock: Lock,
) -> Result<Record, EmbeddedError> {
    let io = |what| {
        let path = dir.path().to_owned();
        move |source| EmbeddedError::File { what, path, source }
    };
    let password = dir.make_password()?;
    let remembered = dir.record()?.map(|record| record.port);
    let port = free_port(remembered).map_err(io("finding a free port for"))?;
    if let Some(old) = remembered.filter(|old| *old != port) {
        tracing::warn!(
            old,
            port,
            "the embedded Redis' port is taken by another program: its URL has changed"
        );
    }
    let settings = Settings {
        dir: dir.path(),
        port,
        password: &password,
        maxmemory,
        version: program.version,
    };
    dir.write("redis.conf", &configuration(&settings))?;
    dir.bound_log()?;
    // Noted before it lives: if we are killed now, the next worker finds it by its port.
    let mut record = Record { port, process: None };
    dir.note(&record, &url(port, &password))?;
    let mut log = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .mode(0o600)
        .open(dir.file(LOG))
        .map_err(io("opening the log in"))?;
    let log_start = log.seek(SeekFrom::End(0)).map_err(io("reading the log in"))?;
    let mut child = spawn(dir, program, lock, &log).map_err(io("starting redis-server in"))?;
    let not_started = |cause: Option<Cause>, mut log: std::fs::File| {
        let mut said = String::new();
        let read = log.seek(SeekFrom::Start(log_start)).and_then(|_| log.read_to_string(&mut said));
        if let Err(error) = read {
            said = format!("its log cannot be read: {error}");
        }
        let cause = cause.unwrap_or_else(|| Cause::of(&said));
        EmbeddedError::NotStarted { cause, said: tail(&said), dir: dir.path().into() }
    };
    if let Some(pid) = child.id() {
        record.process = started(pid).map(|started| (pid, started));
        dir.note(&record, &url(port, &password))?;
    }
    let give_up = Instant::now() + READY_PATIENCE;
    loop {
        if let Ok(Some(_)) = child.try_wait() {
            return Err(not_started(None, log));
        }
        match ask(port, &password).await {
            Ok(_) => return Ok(record),
            Err(_) if Instant::now() < give_up => sleep(POLL).await,
            Err(_) => {
                child.kill().await.map_err(io("ending redis-server in"))?;
                return Err(not_started(Some(Cause::Slow), log));
            }
        }
    }
}

/// In a process group of its own, so that Ctrl-C does not reach it; it outlives
/// us on purpose, and tokio reaps it should it end before us.
fn spawn(
    dir: &Dir,
    program: &Program,
    lock: Lock,
    log: &std::fs::File,
) -> std::io::Result<tokio::process::Child> {
    let mut command = std::process::Command::new(&program.path);
    command
        .arg(dir.file("redis.conf"))
        .current_dir(dir.path())
        .env_clear()
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?)
        .process_group(0);
    let lock = FdMapping { parent_fd: OwnedFd::from(lock.0), child_fd: LOCK_FD };
    command.fd_mappings(vec![lock]).map_err(std::io::Error::other)?;
    tokio::process::Command::from(command).spawn()
}

fn tail(said: &str) -> String {
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let text = lines.join("; ");
    let from = text.char_indices().rev().nth(QUOTED).map_or(0, |(at, _)| at);
    if text.is_empty() { "its log is empty".into() } else { text[from..].into() }
}

/// When the process `pid` began, in clock ticks since boot.
pub(super) fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold blanks; field 22 is the 20th after it.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// What a server says of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    pub(super) pid: u32,
    pub(super) maxmemory: u64,
    /// Bytes that its process takes.
    pub(super) rss: u64,
}

async fn connection(
    port: u16,
    password: &str,
) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
    let client = redis::Client::open(url(port, password))?;
    let settings = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(ANSWER_PATIENCE))
        .set_response_timeout(Some(ANSWER_PATIENCE));
    client.get_multiplexed_async_connection_with_config(&settings).await
}

/// Asks the server on `port` who it is.
pub(super) async fn ask(port: u16, password: &str) -> redis::RedisResult<Answer> {
    let mut connection = connection(port, password).await?;
    // Refused as long as it loads its append-only file.
    let _: Option<String> = cmd("GET").arg("tillroll:ready").query_async(&mut connection).await?;
    let info: redis::InfoDict = cmd("INFO").query_async(&mut connection).await?;
    let number = |field| info.get::<u64>(field).unwrap_or_default();
    Ok(Answer {
        pid: info.get("process_id").unwrap_or_default(),
        maxmemory: number("maxmemory"),
        rss: number("used_memory_rss"),
    })
}

/// Changes how much it may hold.
pub(super) async fn set_maxmemory(port: u16, password: &str, bytes: u64) -> redis::RedisResult<()> {
    let mut connection = connection(port, password).await?;
    cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).query_async(&mut connection).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(version("Redis server v=7.0.15 sha=0:0 malloc=jemalloc"), Some((7, 0)));
        assert_eq!(version("Valkey server v=8.1.0 sha=0"), Some((8, 1)));
        assert_eq!(version("something"), None);
    }

    #[test]
    fn the_configuration_keeps_everything_and_shuts_others_out() {
        let settings = |version| Settings {
            dir: Path::new("/var/lib/till \"roll\""),
            port: 7001,
            password: "secret",
            maxmemory: 1 << 28,
            version,
        };
        let text = configuration(&settings((7, 0)));
        for line in [
            "bind \"127.0.0.1\"",
            "requirepass \"secret\"",
            "maxmemory \"268435456\"",
            "maxmemory-policy \"noeviction\"",
            "appendonly \"yes\"",
            "dir \"/var/lib/till \\x22roll\\x22\"",
            "enable-debug-command \"no\"",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!configuration(&settings((6, 2))).contains("enable-debug-command"));
    }

    #[test]
    fn a_remembered_port_is_taken_again_unless_another_has_it() {
        let port = free_port(None).unwrap();
        assert_eq!(free_port(Some(port)).unwrap(), port);
        let _other = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert_ne!(free_port(Some(port)).unwrap(), port);
    }
}
