//! Chromium is updated under a worker that runs: by one that crashes at its
//! start, and back.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use redis::{Commands, Connection};
use rustix::process::Signal;
use serde_json::Value;

use crate::pages::{get, wait_for};
use crate::redis_server::RedisServer;
use crate::support::{PREFIX, Worker, all_gone, connect, element, handle, take, tillroll};

const ENGINE: &str = "/usr/lib/chromium/chromium-headless-shell";

/// Points the link at another program, at once, as a package manager does.
fn install(dir: &Path, program: &str) {
    let new = dir.join("new");
    symlink(program, &new).unwrap();
    std::fs::rename(new, dir.join("engine")).unwrap();
}

fn push(redis: &mut Connection, first: usize, count: usize) -> Vec<String> {
    (first..first + count)
        .map(|number| {
            let (tenant, id) = (format!("t{}", number % 5), format!("r-{number}"));
            let job = element(&tenant, &id, "Update");
            let _: i64 = redis.lpush(format!("{PREFIX}in"), job).unwrap();
            format!("{tenant}/{id}")
        })
        .collect()
}

fn all_done(redis: &mut Connection, names: &[String]) {
    for name in names {
        let (reply, _) = take(redis, name, 60).unwrap_or_else(|| panic!("{name} is lost"));
        assert_eq!((&reply["status"], &reply["attempts"]), (&"done".into(), &1.into()), "{reply}");
    }
}

/// What `tillroll status` says of the one worker's browser.
fn says(url: &str) -> (Value, String) {
    let json = tillroll().args(["status", "--json", "--redis", url]).output().unwrap();
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    let text = tillroll().args(["status", "--redis", url]).output().unwrap();
    (json["workers"][0]["says"]["upkeep"].clone(), String::from_utf8(text.stdout).unwrap())
}

fn until_says(url: &str, state: &str) -> (Value, String) {
    let give_up = Instant::now() + Duration::from_secs(30);
    loop {
        let (upkeep, text) = says(url);
        if upkeep["state"] == state {
            return (upkeep, text);
        }
        assert!(Instant::now() < give_up, "never {state}: {upkeep}");
    }
}

/// The events until the one of this kind.
fn until_told(mut child: Child, kind: &str) -> Vec<Value> {
    let mut events: Vec<Value> = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        events.push(serde_json::from_str(&line.unwrap()).unwrap());
        if events.last().is_some_and(|event| event["event"] == kind) {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    events
}

#[test]
fn an_engine_that_crashes_at_start_replaces_nothing_and_a_good_one_does() {
    let dir = tempfile::tempdir().unwrap();
    // Another file with the same program in it, as an update is.
    let newer = dir.path().join("lib");
    std::fs::create_dir(&newer).unwrap();
    for entry in std::fs::read_dir(Path::new(ENGINE).parent().unwrap()).unwrap().flatten() {
        if entry.path().is_file() {
            let to = newer.join(entry.file_name());
            std::fs::hard_link(entry.path(), &to)
                .or_else(|_| std::fs::copy(entry.path(), &to).map(drop))
                .unwrap();
        }
    }
    let newer = newer.join("chromium-headless-shell");
    install(dir.path(), ENGINE);

    let server = RedisServer::volatile();
    let (url, mut redis) = (server.url(), connect(&server.url()));
    let path = format!("renderer.path={}", dir.path().join("engine").display());
    let set = ["--set", &path, "--set", "renderer.look_every=200ms"];
    let pages = ["--set", "http.listen=127.0.0.1:19564"];
    let worker = Worker::start(&url, &[&set[..], &pages[..]].concat());
    let address =
        worker.log().split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    let browser = || -> u64 {
        let status: Value = serde_json::from_str(&get(&address, "/status").1).unwrap();
        status["browser"]["pid"].as_u64().unwrap()
    };

    let before = push(&mut redis, 0, 40);
    take(&mut redis, &before[0], 60).unwrap();
    let first = browser();
    install(dir.path(), "/bin/false");
    let (upkeep, text) = until_says(&url, "refused");
    println!("status: {}", upkeep["why"]);
    let why = upkeep["why"].as_str().unwrap();
    assert!(why.contains("ended during its start") && why.contains("goes on"), "{why}");
    assert!(why.contains("install the engine again"), "no remedy: {why}");
    assert!(text.contains(why), "{text}");
    wait_for(&address, "/health", |code, body| code == 200 && body.contains("changed on disk"));
    wait_for(&address, "/metrics", |_, body| body.contains("tillroll_browser_outdated 1"));
    assert_eq!(browser(), first, "the one that runs stays");
    let during = push(&mut redis, 100, 40);
    all_done(&mut redis, &before[1..]);
    all_done(&mut redis, &during);

    let after = push(&mut redis, 200, 60);
    install(dir.path(), newer.to_str().unwrap());
    let (upkeep, text) = until_says(&url, "current");
    all_done(&mut redis, &after);
    assert_eq!((&upkeep["why"], &upkeep["replaced"]), (&Value::Null, &1.into()), "{upkeep}");
    assert!(!text.contains("changed on disk"), "{text}");
    assert_ne!(browser(), first);
    assert!(handle(u32::try_from(first).unwrap()).is_none(), "the old browser is still there");
    let metrics = get(&address, "/metrics").1;
    for line in [
        "tillroll_browser_outdated 0",
        "tillroll_browser_updates_total{result=\"replaced\"} 1",
        "tillroll_browser_deaths_total{reason=\"recycled\"} 1",
    ] {
        assert!(metrics.contains(line), "no {line:?} in:\n{metrics}");
    }
    // Everybody is told.
    let events: Vec<Value> = {
        let mut events = tillroll();
        events.args(["events", "--since", "all", "--count", "1000", "--json", "--redis", &url]);
        let child = events.stdout(Stdio::piped()).spawn().unwrap();
        until_told(child, "browser_replaced")
    };
    let told = |kind: &str| events.iter().any(|event| event["event"] == kind);
    assert!(told("browser_refused") && told("browser_replaced"), "{events:?}");
    let refused = events.iter().filter(|event| event["event"] == "browser_refused").count();
    assert_eq!(refused, 1, "once, however often it was tried: {events:?}");
}

/// Profile directories of workers without a jail.
fn profiles(pid: u32) -> Vec<String> {
    let entries = std::fs::read_dir("/tmp").unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&format!("tillroll-profile-{pid}-"))).collect()
}

#[test]
fn a_start_sweeps_what_a_killed_worker_without_a_jail_left() {
    let server = RedisServer::volatile();
    let mut redis = connect(&server.url());
    let bare = ["--set", "renderer.jail=none"];
    let worker = Worker::start(&server.url(), &bare);
    let names = push(&mut redis, 0, 5);
    all_done(&mut redis, &names);
    let killed = worker.pid();
    let chromium: Vec<_> =
        worker.chromium().into_iter().filter_map(|(pid, _)| handle(pid)).collect();
    // Once it is dead, the start of any other test's worker may sweep it.
    assert_eq!(profiles(killed).len(), 1, "nothing to sweep");
    worker.signal(Signal::KILL);
    drop(worker);
    assert!(all_gone(&chromium, Duration::from_secs(5)), "Chromium outlived its worker");

    // One that lives is not touched.
    let living = Worker::start(&server.url(), &bare);
    assert_eq!(profiles(killed), Vec::<String>::new());
    let _third = Worker::start(&server.url(), &[]);
    assert_eq!(profiles(living.pid()).len(), 1);
    let names = push(&mut redis, 100, 20);
    all_done(&mut redis, &names);
    let pid = living.pid();
    living.signal(Signal::TERM);
    assert!(living.wait(Duration::from_secs(30)).success());
    assert_eq!(profiles(pid), Vec::<String>::new());
}
