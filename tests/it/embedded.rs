//! The private redis-server: real ones, real processes, real kills.

use std::io::{BufRead as _, BufReader, Lines};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use redis::cmd;
use tillroll::queue::embedded::{Came, Cause, Embedded, EmbeddedError, Options, find};

/// Where a holder, a process of its own, finds the state directory.
const HOLD: &str = "TILLROLL_TEST_HOLD";

/// A state directory whose server, should a test fail, does not outlive it.
struct State {
    dir: tempfile::TempDir,
}

impl State {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        mode(dir.path(), 0o700);
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join("redis").join(name)
    }

    fn options(&self) -> Options {
        let path = std::env::var_os("PATH").unwrap();
        let search = std::env::split_paths(&path).collect();
        Options { state_dir: self.path().into(), maxmemory: 64 << 20, search }
    }

    async fn join(&self) -> Embedded {
        Embedded::start_or_join(&self.options()).await.unwrap()
    }

    /// The process noted in the directory.
    fn server(&self) -> Option<i32> {
        let text = std::fs::read_to_string(self.file("server.json")).ok()?;
        let record: serde_json::Value = serde_json::from_str(&text).ok()?;
        record["process"][0].as_i64()?.try_into().ok()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if find(self.path()).is_ok()
            && let Some(pid) = self.server()
        {
            kill(pid);
        }
    }
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

async fn connect(url: &str) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
    redis::Client::open(url)?.get_multiplexed_async_connection().await
}

async fn push(url: &str, key: &str, value: &str) {
    let mut redis = connect(url).await.unwrap();
    let _: u64 = cmd("LPUSH").arg(key).arg(value).query_async(&mut redis).await.unwrap();
}

async fn held(url: &str, key: &str) -> Vec<String> {
    let mut redis = connect(url).await.unwrap();
    cmd("LRANGE").arg(key).arg(0).arg(-1).query_async(&mut redis).await.unwrap()
}

/// Waits until all that was pushed is in the file: then SIGKILL takes nothing.
async fn written(redis: &mut redis::aio::MultiplexedConnection) {
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    loop {
        let info: redis::InfoDict =
            cmd("INFO").arg("persistence").query_async(redis).await.unwrap();
        if info.get::<u64>("aof_buffer_length") == Some(0) {
            return;
        }
        tick.tick().await;
    }
}

/// Another worker: this test's binary, running [`holder`] alone.
struct Holder {
    child: Child,
    /// Kept open, so that it can go on speaking.
    said: Lines<BufReader<ChildStdout>>,
    /// What it said: how it came to the server.
    came: String,
}

impl Holder {
    fn start(state: &State) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "embedded::holder", "--nocapture"])
            .env(HOLD, state.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let came = said
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| Some(line.split_once("holds: ")?.1.to_owned()));
        Self { child, said, came: came.expect("the holder ended without a server") }
    }

    fn killed(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends as a worker does.
    fn leaves(mut self) {
        drop(self.child.stdin.take());
        assert!(self.said.all(|line| line.is_ok()));
        assert!(self.child.wait().unwrap().success());
    }
}

/// What a [`Holder`] runs; as a test of its own it has nothing to hold.
#[test]
fn holder() {
    let Some(dir) = std::env::var_os(HOLD) else { return };
    let path = std::env::var_os("PATH").unwrap();
    let search = std::env::split_paths(&path).collect();
    let options = Options { state_dir: dir.into(), maxmemory: 64 << 20, search };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let redis = Embedded::start_or_join(&options).await.unwrap();
        println!("holds: {}", redis.came().as_str());
        let end = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
        end.await.unwrap().unwrap();
        redis.leave().await.unwrap();
    });
}

#[tokio::test]
async fn a_private_redis_keeps_jobs_over_a_clean_stop() {
    let state = State::new();
    let redis = state.join().await;
    assert_eq!(redis.came(), Came::Started);
    let url = redis.url().to_owned();
    assert!(url.contains("@127.0.0.1:"), "{url}");
    assert_eq!(find(state.path()).unwrap(), url);
    assert_eq!(std::fs::read_to_string(redis.url_file()).unwrap().trim(), url);
    push(&url, "in", "a").await;
    assert!(redis.leave().await.unwrap(), "the only worker stops it");
    let error = find(state.path()).unwrap_err();
    assert!(matches!(error, EmbeddedError::NoneRuns { .. }), "{error}");
    assert!(connect(&url).await.is_err());

    let redis = state.join().await;
    assert_eq!(redis.came(), Came::Started);
    assert_eq!(redis.url(), url, "port and password are remembered");
    assert_eq!(held(&url, "in").await, ["a"]);
    redis.leave().await.unwrap();
}

#[tokio::test]
async fn it_never_evicts_and_wants_its_password() {
    let state = State::new();
    let redis = state.join().await;
    let mut connection = connect(redis.url()).await.unwrap();
    for (key, value) in [
        ("appendonly", "yes"),
        ("appendfsync", "everysec"),
        ("maxmemory-policy", "noeviction"),
        ("maxmemory", "67108864"),
        ("bind", "127.0.0.1"),
        ("protected-mode", "yes"),
    ] {
        let (_, found): (String, String) =
            cmd("CONFIG").arg("GET").arg(key).query_async(&mut connection).await.unwrap();
        assert_eq!(found, value, "{key}");
    }
    assert!(redis.still_to_take() > 64 << 20);

    let (_, password) = redis.url().split_once("://:").unwrap();
    let (password, place) = password.split_once('@').unwrap();
    assert_eq!(password.len(), 64);
    let mut stranger = connect(&format!("redis://{place}")).await.unwrap();
    let refused = cmd("GET").arg("x").query_async::<Option<String>>(&mut stranger).await;
    assert_eq!(refused.unwrap_err().code(), Some("NOAUTH"));
    let socket = format!("unix://{}?pass={password}", state.file("redis.sock").display());
    assert!(connect(&socket).await.is_ok());
    redis.leave().await.unwrap();
}

#[tokio::test]
async fn nobody_else_may_read_its_files() {
    let state = State::new();
    let redis = state.join().await;
    let mode_of = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode_of(&state.path().join("redis")), 0o700);
    for name in ["password", "redis.conf", "url", "server.json", "server.lock", "redis.log"] {
        assert_eq!(mode_of(&state.file(name)), 0o600, "{name}");
    }
    let pid = state.server().unwrap();
    let command_line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    let password = std::fs::read_to_string(state.file("password")).unwrap();
    assert!(!command_line.contains(password.trim()), "{command_line}");
    redis.leave().await.unwrap();
}

#[tokio::test]
async fn a_killed_workers_redis_goes_on_and_is_adopted() {
    let state = State::new();
    let holder = Holder::start(&state);
    assert_eq!(holder.came, "started");
    let url = find(state.path()).unwrap();
    let server = state.server().unwrap();
    push(&url, "in", "a").await;
    holder.killed();
    push(&url, "in", "b").await;

    let redis = state.join().await;
    assert_eq!(redis.came(), Came::Adopted);
    assert_eq!(redis.url(), url);
    assert_eq!(state.server(), Some(server));
    assert_eq!(held(&url, "in").await, ["b", "a"]);
    assert!(redis.leave().await.unwrap());
    assert!(find(state.path()).is_err());
}

#[tokio::test]
async fn a_second_worker_joins_and_the_last_one_stops_it() {
    let state = State::new();
    let first = Holder::start(&state);
    let url = find(state.path()).unwrap();
    push(&url, "in", "a").await;
    let second = state.join().await;
    assert_eq!(second.came(), Came::Joined);
    assert_eq!(second.url(), url);
    first.leaves();
    assert_eq!(held(&url, "in").await, ["a"], "the second still uses it");
    let third = Holder::start(&state);
    assert_eq!(third.came, "joined");
    assert!(!second.leave().await.unwrap(), "the third still uses it");
    assert_eq!(held(&url, "in").await, ["a"]);
    third.leaves();
    assert!(find(state.path()).is_err());
}

#[tokio::test]
async fn many_workers_at_once_share_one_server() {
    let state = State::new();
    let options = state.options();
    let mut starts = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let options = options.clone();
        starts.spawn(async move { Embedded::start_or_join(&options).await.unwrap() });
    }
    let all = starts.join_all().await;
    assert_eq!(all.iter().filter(|redis| redis.came() == Came::Started).count(), 1);
    assert!(all.iter().all(|redis| redis.url() == all[0].url()));
    let mut stopped = 0;
    for redis in all {
        stopped += usize::from(redis.leave().await.unwrap());
    }
    assert_eq!(stopped, 1);
}

#[tokio::test]
async fn a_killed_server_is_restarted_where_it_was() {
    let state = State::new();
    let redis = state.join().await;
    let server = state.server().unwrap();
    let mut connection = connect(redis.url()).await.unwrap();
    let _: u64 = cmd("LPUSH").arg("in").arg("a").query_async(&mut connection).await.unwrap();
    written(&mut connection).await;
    kill(server);
    let restarted = async {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        loop {
            tick.tick().await;
            if state.server().is_some_and(|pid| pid != server)
                && let Ok(mut redis) = connect(redis.url()).await
                && let Ok(all) =
                    cmd("LRANGE").arg("in").arg(0).arg(-1).query_async(&mut redis).await
            {
                let all: Vec<String> = all;
                return all;
            }
        }
    };
    let all = tokio::time::timeout(Duration::from_secs(30), restarted).await.unwrap();
    assert_eq!(all, ["a"]);
    assert!(redis.leave().await.unwrap());
}

#[tokio::test]
async fn a_taken_port_is_not_fought_over() {
    let state = State::new();
    let redis = state.join().await;
    let url = redis.url().to_owned();
    redis.leave().await.unwrap();
    let port: u16 = url.rsplit_once(':').unwrap().1.split_once('/').unwrap().0.parse().unwrap();
    let _other = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let redis = state.join().await;
    assert_ne!(redis.url(), url);
    assert_eq!(find(state.path()).unwrap(), redis.url());
    assert!(held(redis.url(), "in").await.is_empty());
    redis.leave().await.unwrap();
}

#[tokio::test]
async fn a_directory_that_others_can_read_is_refused() {
    let state = State::new();
    mode(state.path(), 0o750);
    let error = Embedded::start_or_join(&state.options()).await.unwrap_err();
    assert!(matches!(error, EmbeddedError::Open { mode: 0o750, .. }), "{error}");
    assert!(error.remedy().starts_with("chmod 700 "), "{}", error.remedy());
    assert!(!state.file("password").exists());
    assert!(matches!(find(state.path()), Err(EmbeddedError::Open { .. })));
}

#[tokio::test]
async fn without_a_redis_server_it_says_what_to_install() {
    let state = State::new();
    let options = Options { search: vec!["/nowhere".into()], ..state.options() };
    let error = Embedded::start_or_join(&options).await.unwrap_err();
    assert!(error.to_string().contains("/nowhere"), "{error}");
    assert!(error.remedy().contains("apt-get install redis-server"), "{}", error.remedy());
    // Nothing stands in the way of the next one.
    state.join().await.leave().await.unwrap();
}

#[tokio::test]
async fn an_old_redis_server_is_refused() {
    let state = State::new();
    let bin = tempfile::tempdir().unwrap();
    let program = bin.path().join("redis-server");
    std::fs::write(&program, "#!/bin/sh\necho 'Redis server v=5.0.14 sha=0'\n").unwrap();
    mode(&program, 0o755);
    let options = Options { search: vec![bin.path().into()], ..state.options() };
    let error = Embedded::start_or_join(&options).await.unwrap_err();
    assert!(error.to_string().contains("its version is 5.0"), "{error}");
}

#[tokio::test]
async fn a_damaged_file_is_explained_and_left_as_it_is() {
    let state = State::new();
    let redis = state.join().await;
    push(redis.url(), "in", "a").await;
    redis.leave().await.unwrap();
    let mut files = Vec::new();
    for dir in [state.path().join("redis"), state.file("appendonlydir")] {
        let entries = std::fs::read_dir(dir).into_iter().flatten();
        files.extend(entries.map(|entry| entry.unwrap().path()));
    }
    // Redis 7 has a base and an increment, 6 one file.
    let journal = files.iter().find(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.ends_with(".incr.aof") || name == "appendonly.aof"
    });
    let journal = journal.unwrap();
    let damaged = b"no command of Redis begins like this\r\n";
    std::fs::write(journal, damaged).unwrap();
    let error = Embedded::start_or_join(&state.options()).await.unwrap_err();
    let EmbeddedError::NotStarted { cause: Cause::Corrupt, .. } = &error else {
        panic!("{error}");
    };
    assert!(error.remedy().contains("redis-check-aof"), "{}", error.remedy());
    assert_eq!(std::fs::read(journal).unwrap(), damaged);
}

fn tillroll(state: &State, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tillroll"))
        .args(["--redis", "embedded", "--set"])
        .arg(format!("state.dir={}", state.path().display()))
        .args(args)
        .env_clear()
        .output()
        .unwrap()
}

#[tokio::test]
async fn the_other_verbs_find_it() {
    let state = State::new();
    let output = tillroll(&state, &["status"]);
    assert_eq!(output.status.code(), Some(69));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("tillroll worker --redis embedded"), "{text}");
    let redis = state.join().await;
    let output = tillroll(&state, &["status", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    redis.leave().await.unwrap();
}
