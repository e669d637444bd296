//! A password and a document's text are put in everywhere, and looked for in all that
//! comes out: logs, errors, status, events, metrics, arguments of processes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use redis::Commands;

use crate::command_line::{file, run, stderr};
use crate::redis_server::RedisServer;
use crate::support::{PREFIX, Worker, connect, take, text_of, tillroll};

const PASSWORD: &str = "pw-Kanarienvogel-7391";
const TEXT: &str = "DOC-Kanarienvogel-2846";

/// Fails where `shown` has any of the secrets in it.
fn assert_silent(what: &str, shown: &str) {
    let encoded = STANDARD.encode(TEXT);
    for secret in [PASSWORD, TEXT, &encoded] {
        if let Some(at) = shown.find(secret) {
            let from = shown[..at].char_indices().rev().nth(300).map_or(0, |(at, _)| at);
            panic!("{what} shows {secret}: …{}", &shown[from..at + secret.len()]);
        }
    }
}

/// What a command prints, on both streams.
fn said(command: &mut Command) -> String {
    let output = run(command);
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), stderr(&output))
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{path}: {text}");
    text
}

/// The pids of a process and all below it.
fn below(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        for thread in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten()
        {
            let children = std::fs::read_to_string(thread.path().join("children"));
            found.extend(
                children.unwrap_or_default().split_whitespace().flat_map(str::parse::<u32>),
            );
        }
    }
    found
}

/// Jobs that end in every way, all with the text in their documents and assets.
fn jobs() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let page = format!("<!doctype html><title>{TEXT}</title><p>{TEXT}<img src=/{TEXT}.png>");
    let framed = |header: &str| format!("{header}\n{page}").into_bytes();
    let script = format!(
        "<p>{TEXT}<script>console.log('{TEXT}');console.error('{TEXT}');throw Error('{TEXT}')</script>"
    );
    let rows = format!("<table>{}", format!("<tr><td>{TEXT}").repeat(5_000));
    let endless = format!("<p>{TEXT}<script>for (;;);</script>");
    let stored = r#"{"id":"stored","output":{"kind":"stored"}}"#;
    let mut binary = framed(r#"{"id":"binary"}"#);
    binary.extend_from_slice(b"\xff\xfe");
    let mut with_asset = format!(
        "{{\"id\":\"asset\",\"assets\":[{{\"name\":\"s.css\",\"length\":{}}}]}}\n{page}",
        TEXT.len()
    )
    .into_bytes();
    with_asset.extend_from_slice(TEXT.as_bytes());
    vec![
        ("done", "done", framed(r#"{"id":"done","options":{"paper":"80mm"}}"#)),
        ("stored", "done", framed(stored)),
        ("asset", "done", with_asset),
        ("script", "done", format!("{{\"id\":\"script\",\"options\":{{\"script\":true}}}}\n{script}").into()),
        ("title", "done", format!("{{\"id\":\"title\",\"options\":{{\"info\":{{\"title\":\"{TEXT}\"}}}},\"meta\":{{\"a\":\"{TEXT}\"}}}}\n<p>{TEXT}").into()),
        ("slow", "dead", format!("{{\"id\":\"slow\",\"max_attempts\":1,\"options\":{{\"script\":true,\"timeout_ms\":300}}}}\n{endless}").into()),
        ("late", "dead", format!("{{\"id\":\"late\",\"max_attempts\":1,\"options\":{{\"timeout_ms\":1}}}}\n{rows}").into()),
        ("pages", "dead", framed(r#"{"id":"pages","options":{"paper":"A4","pages":"7"}}"#)),
        ("unknown", "rejected", framed(r#"{"id":"unknown","papper":1}"#)),
        ("binary", "rejected", binary),
        ("cut", "rejected", framed("{\"id\":\"cut\",")),
        ("two", "rejected", framed(&format!("{{\"id\":\"two\",\"html\":\"{TEXT}\"}}"))),
        ("list", "rejected", format!("{{\"id\":\"list\",\"html\":[\"{TEXT}\"]}}").into()),
        ("data", "rejected", format!("{{\"id\":\"data\",\"html\":\"<p>\",\"assets\":[{{\"name\":\"a.png\",\"data\":[\"{TEXT}\"]}}]}}").into()),
        ("base", "rejected", format!("{{\"id\":\"base\",\"html\":\"<p>\",\"assets\":[{{\"name\":\"a.png\",\"data\":\"{TEXT}\"}}]}}").into()),
    ]
}

#[test]
fn no_output_has_a_password_or_a_documents_text_in_it() {
    let server = RedisServer::start(&["--appendonly", "no", "--requirepass", PASSWORD]);
    let url = server.url().replace("redis://", &format!("redis://:{PASSWORD}@"));
    let mut command = tillroll();
    command.env("TILLROLL_REDIS__URL", &url);
    let more = ["--set", "log.level=trace", "--set", "http.listen=127.0.0.1:19664"];
    let worker = Worker::start_by(&mut command, "", &more);
    let log = worker.log();
    let address = log.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();

    let mut redis = connect(&url);
    for (id, status, element) in jobs() {
        let _: i64 = redis.lpush(format!("{PREFIX}in"), element).unwrap();
        let (reply, pdf) = take(&mut redis, &format!("default/{id}"), 90).expect(id);
        assert_eq!(reply["status"], status, "{reply}");
        match id {
            "slow" => assert_eq!(reply["error"]["code"], "script_timeout", "{reply}"),
            "late" => assert_eq!(reply["error"]["code"], "render_timeout", "{reply}"),
            _ => {}
        }
        // The test would be worth nothing if the text did not reach the PDF.
        assert!(id != "done" || text_of(&pdf).contains(TEXT));
        assert_silent(&format!("{id}'s error"), &reply["error"].to_string());
    }
    let _: i64 = redis.lpush(format!("{PREFIX}in"), format!("no header {TEXT}")).unwrap();
    let _: i64 = redis.lpush(format!("{PREFIX}in"), "{\"id\":\"last\"}\n<p>last").unwrap();
    take(&mut redis, "default/last", 60).unwrap();

    for path in ["/status", "/metrics", "/readyz", "/healthz"] {
        assert_silent(path, &get(&address, path));
    }
    // `tillroll events` prints these, and goes on for ever.
    let events: redis::Value = redis::cmd("XRANGE")
        .arg(format!("{PREFIX}events"))
        .arg("-")
        .arg("+")
        .query(&mut redis)
        .unwrap();
    let events = format!("{events:?}");
    assert!(events.contains("script_timeout") && events.contains("render_timeout"), "{events}");
    assert_silent("the events", &events);
    let verbs: [&[&str]; 11] = [
        &["status"],
        &["status", "--json"],
        &["job", "show", "default/done", "--json"],
        &["job", "show", "default/slow"],
        &["dead", "ls", "--json"],
        &["dead", "show", "default/slow", "--json"],
        &["queue", "fsck", "--json"],
        &["tenant", "ls"],
        &["config", "show"],
        &["config", "check"],
        &["doctor", "--json"],
    ];
    for verb in verbs {
        let shown = said(tillroll().args(verb).env("TILLROLL_REDIS__URL", &url));
        assert!(!shown.trim().is_empty());
        assert_silent(&verb.join(" "), &shown);
    }
    for pid in below(worker.pid()) {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert_silent("a command line", &String::from_utf8_lossy(&arguments));
        if pid != worker.pid() {
            let variables = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            assert_silent("a child's environment", &String::from_utf8_lossy(&variables));
        }
    }
    let log = worker.log();
    assert!(log.contains("default/slow") && log.contains("(unreadable)"), "{log}");
    assert_silent("the log", &log);
}

#[test]
fn errors_about_redis_do_not_show_its_password() {
    let server = RedisServer::start(&["--appendonly", "no", "--requirepass", "another"]);
    let dir = tempfile::tempdir().unwrap();
    let html = file(dir.path(), "a.html", TEXT);
    let config =
        file(dir.path(), "c.toml", format!("[redis]\nurl = \"rediss://:{PASSWORD}@x#insecure\"\n"));
    let refused = server.url().replace("redis://", &format!("redis://:{PASSWORD}@"));
    let urls = [
        refused,
        format!("redis://:{PASSWORD}@127.0.0.1:1/0"),
        format!("redis://app:{PASSWORD}@nowhere.invalid:6379"),
        format!("redis://app:{PASSWORD}@127.0.0.1:notaport"),
        format!("valkey://:{PASSWORD}@host"),
        format!(":{PASSWORD}@host:6379"),
        format!("unix:///nonexistent?pass={PASSWORD}"),
    ];
    for url in &urls {
        let set = format!("redis.url={url}");
        for args in [
            &["status", "--redis", url][..],
            &["enqueue", &html, "--redis", url],
            &["worker", "--redis", url, "--set", "http.listen=", "--set", "renderer.kind=null"],
            &["config", "check", "--set", &set],
            &["doctor", "--redis", url],
        ] {
            let output = run(tillroll().args(args));
            let shown = format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(&output));
            assert!(args[0] == "config" || !output.status.success(), "{args:?}: {shown}");
            assert_silent(&args.join(" "), &shown);
        }
    }
    assert_silent(
        "a file's error",
        &said(tillroll().args(["config", "check", "--config", &config])),
    );
}

#[test]
fn the_worker_and_all_of_chromium_leave_no_core_dump() {
    let server = RedisServer::volatile();
    // A machine where cores are wanted.
    let mut command = Command::new("sh");
    let program = tillroll();
    command.args([
        "-c",
        "ulimit -H -c unlimited 2>/dev/null; ulimit -S -c \"$(ulimit -H -c)\"; exec \"$0\" \"$@\"",
    ]);
    command.arg(program.get_program());
    let worker = Worker::start_by(&mut command, &server.url(), &[]);
    let pids = below(worker.pid());
    assert!(pids.len() > 4, "the worker, the jail and Chromium: {pids:?}");
    let mut seen = 0;
    for pid in pids {
        let Ok(limits) = std::fs::read_to_string(format!("/proc/{pid}/limits")) else { continue };
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        let words: Vec<&str> = core.split_whitespace().skip(4).collect();
        // One byte: with 0 a program in core_pattern would still be given the dump.
        assert!(matches!(words[..2], ["1", "1"] | ["0", "0"]), "{pid}: {core}");
        seen += 1;
    }
    assert!(seen > 4);
}
