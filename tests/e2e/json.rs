//! `--json`: what each verb prints is what docs/cli.md says, field by field.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use redis::Commands;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::command_line::{file, run, stderr};
use crate::redis_server::RedisServer;
use crate::support::{PREFIX, Worker, assert_sound, connect, element, receipt, tillroll};

/// The fields of one verb: path → type, as the document's table has them.
fn schema(verb: &str) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.md"));
    let text = text.unwrap();
    let (_, after) = text.split_once(&format!("<!-- schema: {verb} -->")).unwrap();
    let rows = after.lines().skip_while(|line| !line.starts_with("| `"));
    let rows = rows.take_while(|line| line.starts_with('|'));
    let field = |row: &str| {
        let mut cells = row.split('|').map(str::trim).skip(1);
        (cells.next().unwrap().replace('`', ""), cells.next().unwrap().to_owned())
    };
    rows.map(field).collect()
}

/// Every leaf of `value` with its type; what `known` calls an object is one.
fn leaves(
    value: &Value,
    path: &str,
    known: &BTreeMap<String, String>,
    found: &mut Vec<(String, &'static str)>,
) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(items) => {
            items.iter().for_each(|item| leaves(item, &format!("{path}[]"), known, found));
            return;
        }
        Value::Object(_) if known.get(path).is_some_and(|kind| kind.starts_with("object")) => {
            "object"
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                let any = known.keys().any(|key| key.starts_with("*.")) && path.is_empty();
                let name = if any { "*" } else { name };
                let dot = if path.is_empty() { "" } else { "." };
                leaves(value, &format!("{path}{dot}{name}"), known, found);
            }
            return;
        }
    };
    found.push((path.to_owned(), kind));
}

/// Each sample has documented fields only, of the documented types; and every
/// documented field is in one of them.
pub fn assert_schema(verb: &str, samples: &[Value]) {
    let known = schema(verb);
    assert!(!known.is_empty(), "docs/cli.md has no table for {verb}");
    let mut found = Vec::new();
    for sample in samples {
        let before = found.len();
        leaves(sample, "", &known, &mut found);
        for (path, kind) in &found[before..] {
            let documented = known.get(path);
            let documented =
                documented.unwrap_or_else(|| panic!("{verb}: {path} is not in docs/cli.md"));
            assert!(documented.contains(kind), "{verb}: {path} is {kind}, not {documented}");
        }
        for (path, kind) in &known {
            let always = !path.contains("[]") && !kind.contains("(optional)");
            let there = found[before..].iter().any(|(have, _)| have == path);
            assert!(!always || there, "{verb}: {path} is missing in {sample}");
        }
    }
    for path in known.keys() {
        let seen = found.iter().any(|(have, _)| have == path);
        assert!(seen, "{verb}: no sample has {path}");
    }
}

pub fn json(command: &mut Command) -> Value {
    let output = run(command.arg("--json"));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)))
}

#[test]
fn render_prints_what_is_documented() {
    let dir = tempfile::tempdir().unwrap();
    let one = file(dir.path(), "one.html", receipt("One page"));
    let two = "<p>a<p style='break-before:page'>b<img src='data:image/png,broken'>";
    let two = file(dir.path(), "two.html", two);
    let mut render = tillroll();
    let printed = json(render.args(["render", &one, &two, "--paper", "A5", "--pages", "2"]));
    let documents = printed["documents"].as_array().unwrap();
    assert_eq!(
        (&documents[0]["status"], &documents[1]["status"]),
        (&"failed".into(), &"done".into())
    );
    assert_eq!(documents[0]["error"]["code"], "page_range");
    assert_eq!(documents[1]["warnings"][0]["code"], "image_missing");
    assert_schema("render", &[printed]);
}

#[test]
fn render_takes_every_document_of_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["b.html", "a.HTM", "c.txt"] {
        file(dir.path(), name, receipt(name));
    }
    std::fs::create_dir(dir.path().join("sub.html.d")).unwrap();
    let out = dir.path().join("out");
    let mut render = tillroll();
    let null = ["--set", "renderer.kind=null", "-o", out.to_str().unwrap()];
    let printed = json(render.arg("render").arg(dir.path()).args(null));
    let files: Vec<_> = printed["documents"].as_array().unwrap().iter().collect();
    assert_eq!(files.len(), 2, "{printed}");
    assert!(files[0]["file"].as_str().unwrap().ends_with("a.HTM"));
    for name in ["a.pdf", "b.pdf"] {
        assert_sound(&std::fs::read(out.join(name)).unwrap());
    }
}

#[test]
fn the_queues_verbs_print_what_is_documented() {
    let server = RedisServer::volatile();
    let url = server.url();
    let dir = tempfile::tempdir().unwrap();
    let html = file(dir.path(), "a.html", receipt("Queued"));
    let verb = |args: &[&str]| json(tillroll().args(args).args(["--redis", &url]));

    let idle = verb(&["status"]);
    let waiting = ["--wait", "--timeout", "100ms", "--id", "late"];
    let silent = verb(&[&["enqueue", &html][..], &waiting].concat());
    assert_eq!(silent["silent"][0], "default/late");
    let unknown = verb(&["job", "show", "late"]);
    assert_eq!(unknown["state"], "unknown");
    let delayed = ["enqueue", &html, "--delay", "1h", "--id", "delayed"];
    let pushed = verb(&delayed);
    assert_eq!(pushed["pushed"][0]["job"], "default/delayed");
    assert_schema("enqueue", &[pushed]);

    let worker = Worker::start(&url, &["--renderer", "null"]);
    let replies = verb(&["enqueue", &html, "--wait", "--tenant", "acme", "--id", "r-1"]);
    assert_eq!(replies["replies"][0]["status"], "done");
    assert_schema("enqueue --wait", &[silent, replies]);

    let mut redis = connect(&url);
    let stored = r#"{"id":"s","tenant":"acme","output":{"kind":"stored"},"deadline_ms":60000}"#;
    let _: i64 = redis.lpush(format!("{PREFIX}in"), format!("{stored}\n<p>x")).unwrap();
    for name in ["default/late", "acme/s"] {
        let key = format!("{PREFIX}reply:{name}");
        let _: Vec<u8> = redis.brpoplpush(&key, &key, 30.0).unwrap();
    }
    let leased = connect_leased(&mut redis);
    let jobs: Vec<Value> = ["late", "delayed", "acme/r-1", "acme/s", "acme/leased"]
        .map(|name| verb(&["job", "show", name]))
        .into();
    let states: Vec<_> = jobs.iter().map(|job| job["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["done", "delayed", "done", "done", "leased"]);
    assert_eq!(jobs[3]["outcome"]["pages"], 1, "{}", jobs[3]);
    assert_eq!(jobs[4]["worker"], leased);
    assert_schema("job show", &[&[unknown][..], &jobs].concat());
    let _: i64 = redis.sadd(format!("{PREFIX}broken"), "acme").unwrap();
    verb(&["tenant", "set", "closed", "--state", "draining"]);
    assert_schema("status", &[idle, verb(&["status"])]);
    drop(worker);
}

/// A job that another worker holds; returns that worker's name. Only the record
/// counts here, so it is written by hand.
fn connect_leased(redis: &mut redis::Connection) -> &'static str {
    let job = format!("{PREFIX}job:acme/leased");
    let fields = [("state", "leased"), ("worker", "other"), ("attempts", "1"), ("deadline", "99")];
    let _: () = redis.hset_multiple(&job, &fields).unwrap();
    let past = r#"{"at":1,"attempt":1,"worker":"w","class":"renderer","code":"renderer_crashed",
        "message":"m","remedy":"r","duration_ms":1,"memory_bytes":1,"counted":true,
        "warnings":[{"code":"image_missing","message":"m","remedy":"r"}]}"#;
    let _: i64 = redis.rpush(format!("{PREFIX}history:acme/leased"), past).unwrap();
    // Its lease ends in the year 2200: nobody reaps it.
    let _: () =
        redis.zadd(format!("{PREFIX}leased"), "acme/leased", 7_258_118_400_000_u64).unwrap();
    "other"
}

struct Following(Child);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn events_are_followed_and_end_when_told() {
    let server = RedisServer::volatile();
    let url = server.url();
    let _worker = Worker::start(&url, &["--renderer", "null"]);
    let mut redis = connect(&url);
    let _: i64 = redis.lpush(format!("{PREFIX}in"), element("acme", "r-1", "One")).unwrap();

    // As many as are asked for, from the beginning.
    let events = ["events", "--redis", &url, "--json", "--since", "all"];
    let output = run(tillroll().args(events).args(["--count", "2"]));
    assert!(output.status.success(), "{}", stderr(&output));
    let lines: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!((&lines[0]["event"], &lines[1]["event"]), (&"admitted".into(), &"done".into()));
    assert!(lines.iter().all(|line| line["job"] == "acme/r-1"));
    assert_schema("events", &lines);

    // After an event, and then live; a signal ends it with 0.
    let after = lines[1]["id"].as_str().unwrap();
    let mut following = Following(
        tillroll()
            .args(["events", "--redis", &url, "--since", after])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let _: i64 = redis.lpush(format!("{PREFIX}in"), element("acme", "r-2", "Two")).unwrap();
    let mut read = BufReader::new(following.0.stdout.take().unwrap());
    for word in ["admitted", "done"] {
        let mut line = String::new();
        read.read_line(&mut line).unwrap();
        assert!(line.contains(word) && line.contains("acme/r-2"), "{line}");
        assert!(line.starts_with("20") && line.contains('Z'), "{line}");
    }
    let pid = Pid::from_raw(following.0.id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    assert_eq!(following.0.wait().unwrap().code(), Some(0));
}

#[test]
fn doctor_prints_what_is_documented() {
    let server = RedisServer::durable();
    let printed = json(tillroll().args(["doctor", "--redis", &server.url()]));
    assert!(printed["checks"].as_array().unwrap().len() > 10, "{printed}");
    assert_schema("doctor", &[printed]);
}

#[test]
fn configuration_and_generated_files_print_what_is_documented() {
    assert_schema("config show", &[json(tillroll().args(["config", "show"]))]);
    assert_schema("config check", &[json(tillroll().args(["config", "check"]))]);
    let dir = tempfile::tempdir().unwrap();
    let pages = json(tillroll().arg("man").arg(dir.path().join("man")));
    assert!(pages["pages"].as_array().unwrap().len() > 8, "{pages}");
    let page = std::fs::read_to_string(dir.path().join("man/tillroll-worker.1")).unwrap();
    assert!(page.contains("\\-\\-renderer") && page.contains(".SH NAME"), "{page}");
    assert_schema("man", &[pages]);
    for (shell, word) in [("bash", "complete -F"), ("zsh", "#compdef"), ("fish", "complete -c")] {
        let output = run(tillroll().args(["completions", shell]));
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.contains(word) && script.contains("enqueue"), "{shell}");
    }
}

/// `script` gives the verbs a terminal of their own.
#[test]
fn a_terminal_gets_a_progress_bar_and_a_file_none() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..3 {
        file(dir.path(), &format!("{number}.html"), receipt("Bar"));
    }
    let server = RedisServer::volatile();
    let _worker = Worker::start(&server.url(), &["--renderer", "null"]);
    let tillroll_path = env!("CARGO_BIN_EXE_tillroll");
    let here = dir.path().display();
    for line in [
        format!("{tillroll_path} render {here} -o {here}/out --set renderer.kind=null"),
        format!("{tillroll_path} enqueue {here} --wait --redis {}", server.url()),
    ] {
        let output =
            run(Command::new("script").args(["-qec", &line, "/dev/null"]).env("TERM", "xterm"));
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && shown.contains("/3"), "no bar in: {shown}");
        assert!(shown.contains(" 0/3") || shown.contains(" 1/3"), "no progress in: {shown}");
        let plain = run(Command::new("sh").args(["-c", &line]));
        assert!(plain.status.success(), "{}", stderr(&plain));
        let text = stderr(&plain) + &String::from_utf8_lossy(&plain.stdout);
        assert!(!text.contains("/3"), "a bar without a terminal: {text}");
    }
}
