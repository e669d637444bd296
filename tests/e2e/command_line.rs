//! The verbs: what they print, what they refuse, and their exit codes.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::redis_server::RedisServer;
use crate::support::{PREFIX, Worker, assert_sound, connect, element, receipt, text_of, tillroll};

pub fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Exit code and message: what failed, why, and a remedy.
pub fn assert_fails(output: &Output, code: i32, parts: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains("error: "), "{text}");
    assert!(text.contains("fix: "), "{text}");
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

pub fn file(dir: &Path, name: &str, text: impl AsRef<[u8]>) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn render_writes_a_pdf_beside_each_file() {
    let dir = tempfile::tempdir().unwrap();
    let one = file(dir.path(), "one.html", receipt("First"));
    let two = file(dir.path(), "two.html", receipt("Second"));
    let output = run(tillroll().args(["render", &one, &two, "--paper", "80mm"]));
    assert!(output.status.success(), "{}", stderr(&output));
    for (name, text) in [("one.pdf", "First"), ("two.pdf", "Second")] {
        let pdf = std::fs::read(dir.path().join(name)).unwrap();
        assert_sound(&pdf);
        assert!(text_of(&pdf).contains(text));
    }
}

#[test]
fn render_finds_assets_by_either_url() {
    let dir = tempfile::tempdir().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/assets");
    let logo = std::fs::read(fixtures.join("logo.png")).unwrap();
    std::fs::create_dir(dir.path().join("static")).unwrap();
    file(&dir.path().join("static"), "logo.png", logo);
    let page =
        |url: &str| format!("<!doctype html><p>Logo</p><img src='{url}' width=60 height=30>");
    for (name, url, warnings) in
        [("a", "/static/logo.png", 0), ("b", "logo.png", 0), ("c", "/static/other.png", 1)]
    {
        let html = file(dir.path(), &format!("{name}.html"), page(url));
        let output = run(tillroll()
            .args(["render", &html, "--json", "--assets"])
            .arg(dir.path().join("static")));
        assert!(output.status.success(), "{}", stderr(&output));
        let report = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(report.matches("\"code\":").count(), warnings, "{url}: {report}");
    }
}

#[test]
fn render_reads_stdin_and_writes_stdout() {
    let mut child = tillroll()
        .args(["render", "-", "--paper", "A5", "--title", "Stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(receipt("Through a pipe").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_sound(&output.stdout);
    assert!(text_of(&output.stdout).contains("Through a pipe"));
}

#[test]
fn enqueue_waits_and_writes_pdfs_and_status_counts_them() {
    let server = RedisServer::volatile();
    let _worker = Worker::start(&server.url(), &[]);
    let dir = tempfile::tempdir().unwrap();
    let html = file(dir.path(), "a.html", receipt("Queued"));
    let out = dir.path().join("out");
    let output = run(tillroll()
        .args(["enqueue", &html, "--redis", &server.url(), "--tenant", "acme", "--id", "r-7"])
        .args(["--paper", "58mm", "--out", out.to_str().unwrap(), "--json"]));
    assert!(output.status.success(), "{}", stderr(&output));
    let replies: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(replies["replies"][0]["status"], "done");
    assert!(text_of(&std::fs::read(out.join("r-7.pdf")).unwrap()).contains("Queued"));

    let output = run(tillroll().args(["status", "--json", "--redis", &server.url()]));
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["jobs"]["done"], 1, "{status}");
    assert_eq!(status["jobs"]["workers"], 1, "{status}");
    assert_eq!(status["workers"][0]["alive"], true, "{status}");
    let output = run(tillroll().args(["status", "--redis", &server.url()]));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 done"));
}

#[test]
fn every_mistake_has_its_message_and_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let good = file(dir.path(), "good.html", receipt("Good"));
    let empty = file(dir.path(), "empty.html", " \n");
    let latin1 = file(dir.path(), "latin1.html", b"<p>\xe9</p>");
    let missing = dir.path().join("missing.html");
    let missing = missing.to_str().unwrap();

    assert_fails(
        &run(tillroll().args(["render", missing])),
        65,
        &["missing.html", "check the path"],
    );
    assert_fails(&run(tillroll().args(["render", &empty])), 65, &["empty"]);
    assert_fails(&run(tillroll().args(["render", &latin1])), 65, &["UTF-8", "byte 3"]);
    assert_fails(&run(tillroll().args(["render", &good, "--paper", "A99"])), 2, &["A99", "80mm"]);
    assert_fails(
        &run(tillroll().args(["render", &good, "--options", "{\"format\":\"A4\"}"])),
        2,
        &["format", "paper"],
    );
    let unwritable = dir.path().join("no/such/dir/a.pdf");
    assert_fails(
        &run(tillroll().args(["render", &good, "-o", unwritable.to_str().unwrap()])),
        1,
        &["a.pdf", "make the directory"],
    );
    assert_fails(
        &run(tillroll().args(["render", &good, "--set", "renderer.path=/nonexistent/chromium"])),
        69,
        &["/nonexistent/chromium"],
    );
    assert_fails(
        &run(tillroll().args(["render", &good]).env("PATH", "/nonexistent")),
        69,
        &["bwrap", "bubblewrap"],
    );
    assert_fails(
        &run(tillroll().args([
            "render",
            &good,
            "--set",
            "memory.limit=100MB",
            "--set",
            "memory.reserve=1MB",
            "--set",
            "memory.per_render=50MB",
        ])),
        69,
        &["no memory for one renderer", "MiB"],
    );
    for verb in [&["worker"][..], &["enqueue", &good], &["status"]] {
        assert_fails(&run(tillroll().args(verb)), 78, &["--redis", "REDIS_URL"]);
        // Nothing listens on port 1.
        assert_fails(
            &run(tillroll().args(verb).args(["--redis", "redis://127.0.0.1:1"])),
            69,
            &["redis"],
        );
    }
    assert_fails(
        &run(tillroll().args(["worker", "--set", "queue.lease=soon"])),
        78,
        &["queue.lease", "soon"],
    );
    assert_eq!(run(tillroll().args(["config", "check"])).status.code(), Some(0));
}

#[test]
fn a_wrong_password_is_told_from_an_absent_redis() {
    let server = RedisServer::start(&["--requirepass", "secret"]);
    let url = server.url().replace("redis://", "redis://:wrong@");
    let output = run(tillroll().args(["status", "--redis", &url]));
    assert_fails(&output, 69, &["refuses", "password"]);
    assert!(!stderr(&output).contains("wrong@"), "the password is shown: {}", stderr(&output));
}

#[test]
fn no_reply_in_time_is_told_as_no_worker() {
    let server = RedisServer::volatile();
    let dir = tempfile::tempdir().unwrap();
    let html = file(dir.path(), "a.html", receipt("Nobody"));
    let out = dir.path().join("out");
    let output = run(tillroll().args([
        "enqueue",
        &html,
        "--out",
        out.to_str().unwrap(),
        "--timeout",
        "1s",
        "--redis",
        &server.url(),
    ]));
    assert_fails(&output, 69, &["no reply within 1s", "start a worker"]);
}

#[test]
fn a_second_signal_gives_running_jobs_back_and_says_so() {
    let server = RedisServer::volatile();
    let worker = Worker::start(&server.url(), &["--concurrency", "1"]);
    let mut redis = connect(&server.url());
    // A document that renders for seconds: many rows in a table of fixed layout.
    let rows: String =
        (0..20_000).map(|row| format!("<tr><td>{row}</td><td>{row}.00</td></tr>")).collect();
    let heavy = format!(
        "{{\"id\":\"heavy\",\"tenant\":\"t\",\"options\":{{\"timeout_ms\":30000}}}}\n<table>{rows}</table>"
    );
    use redis::Commands;
    let _: i64 = redis.lpush(format!("{PREFIX}in"), heavy).unwrap();
    let leased = format!("{PREFIX}leased");
    wait_for_event(&mut redis, "admitted");
    worker.signal(Signal::TERM);
    worker.signal(Signal::INT);
    let log = worker.log();
    let status = worker.wait(Duration::from_secs(20));
    assert_eq!(status.code(), Some(75), "{log}");
    assert_eq!(redis.zcard::<_, i64>(&leased).unwrap(), 0);
    assert_eq!(redis.llen::<_, i64>(format!("{PREFIX}ready:interactive:t")).unwrap(), 1);
    let _: i64 = redis.lpush(format!("{PREFIX}in"), element("t", "light", "After")).unwrap();
}

/// Blocks until the event stream has such an event.
fn wait_for_event(redis: &mut redis::Connection, kind: &str) {
    let mut after = "0".to_owned();
    loop {
        let read: redis::streams::StreamReadReply = redis::cmd("XREAD")
            .arg("BLOCK")
            .arg(30_000)
            .arg("STREAMS")
            .arg(format!("{PREFIX}events"))
            .arg(&after)
            .query(redis)
            .unwrap();
        let entries = read.keys.into_iter().flat_map(|key| key.ids);
        for entry in entries {
            after.clone_from(&entry.id);
            if entry.get::<String>("event").as_deref() == Some(kind) {
                return;
            }
        }
    }
}
