//! The errors that a user meets: one message with what failed, why and a
//! remedy, and the exit code that the documentation gives.

use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::process::Stdio;

use crate::command_line::{assert_fails, file, run, stderr};
use crate::redis_server::RedisServer;
use crate::support::{Worker, connect, receipt, take, tillroll};

/// What bubblewrap of Debian 12 says where namespaces are forbidden.
const BWRAP_SAYS: &str = "bwrap: No permissions to create new namespace, likely because the \
    kernel does not allow non-privileged user namespaces. On e.g. debian this can be enabled with \
    'sysctl kernel.unprivileged_userns_clone=1'.";

#[test]
fn where_namespaces_are_forbidden_the_jail_is_refused_with_the_ways_out() {
    let dir = tempfile::tempdir().unwrap();
    let good = file(dir.path(), "good.html", receipt("Good"));
    let bwrap =
        file(dir.path(), "bwrap", format!("#!/bin/sh\necho \"{BWRAP_SAYS}\" >&2\nexit 1\n"));
    std::fs::set_permissions(&bwrap, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let remedies =
        ["No permissions to create new namespace", "seccomp", "AppArmor", "renderer.jail"];
    assert_fails(&run(tillroll().args(["render", &good]).env("PATH", &path)), 69, &remedies);
    let server = RedisServer::volatile();
    let worker = ["worker", "--redis", &server.url(), "--set", "http.listen="];
    assert_fails(&run(tillroll().args(worker).env("PATH", &path)), 69, &remedies);
    assert!(!dir.path().join("good.pdf").exists());
}

#[test]
fn a_snap_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let good = file(dir.path(), "good.html", receipt("Good"));
    std::fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
    let snap = file(&dir.path().join("usr/bin"), "snap", b"\x7fELF");
    let chromium = dir.path().join("chromium");
    symlink(snap, &chromium).unwrap();
    let setting = format!("renderer.path={}", chromium.display());
    assert_fails(
        &run(tillroll().args(["render", &good, "--set", &setting])),
        69,
        &["a snap", "jail", "chromium-headless-shell"],
    );
}

#[test]
fn a_full_disk_is_told_and_a_device_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let good = file(dir.path(), "good.html", receipt("Good"));
    let null = ["--set", "renderer.kind=null"];
    let output = run(tillroll().args(["render", &good, "-o", "/dev/full"]).args(null));
    assert_fails(&output, 1, &["/dev/full", "No space left", "free some disk space"]);
    assert!(std::fs::metadata("/dev/full").unwrap().file_type().is_char_device());

    let full = || Stdio::from(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let output = tillroll()
        .args(["render", &good, "-o", "-"])
        .args(null)
        .stdout(full())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    assert_fails(&output, 1, &["stdout", "free some disk space"]);
    let shown = tillroll()
        .args(["config", "show"])
        .stdout(full())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    assert_fails(&shown, 1, &["stdout", "disk full"]);
}

/// A machine that differs from this one as bubblewrap's arguments say.
fn elsewhere(arguments: &[&str], command: &[&str]) -> std::process::Output {
    let mut bwrap = std::process::Command::new("bwrap");
    bwrap.args(["--dev-bind", "/", "/"]).args(arguments).arg("--").args(command);
    // Nothing of this machine's caches and settings.
    let kept = ["PATH", "TMPDIR"].map(|name| (name, std::env::var_os(name)));
    bwrap.env_clear().envs(kept.into_iter().filter_map(|(name, value)| Some((name, value?))));
    run(bwrap.env("HOME", "/nonexistent").stdin(Stdio::null()))
}

const TILLROLL: &str = env!("CARGO_BIN_EXE_tillroll");

#[test]
fn without_any_chromium_every_place_is_named_with_the_package_to_install() {
    let dir = tempfile::tempdir().unwrap();
    let good = file(dir.path(), "good.html", receipt("Good"));
    // What is left is Debian's wrapper script in /usr/bin, if anything.
    let output = elsewhere(&["--tmpfs", "/usr/lib/chromium"], &[TILLROLL, "render", &good]);
    let remedies = ["no Chromium found", "/usr/lib/chromium/chromium-headless-shell: not found"];
    assert_fails(&output, 69, &remedies);
    assert_fails(&output, 69, &["apt-get install chromium-headless-shell", "renderer.path"]);
}

#[test]
fn a_read_only_disk_and_a_full_one_are_told_and_nothing_half_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) =
        (file(dir.path(), "1.html", receipt("One")), file(dir.path(), "2.html", receipt("Two")));
    let (place, out) = (dir.path().to_str().unwrap(), dir.path().join("out"));
    std::fs::create_dir(&out).unwrap();
    let out = out.to_str().unwrap();
    let null = ["--set", "renderer.kind=null"];
    let render = [&[TILLROLL, "render", &one][..], &null].concat();
    let output = elsewhere(&["--ro-bind", place, place], &render);
    assert_fails(&output, 1, &["1.pdf", "Read-only file system", "may write to"]);

    // One page of memory: one PDF fits, the other does not, whichever comes first.
    let script = format!("{TILLROLL} render {one} {two} -o {out} {}; code=$?", null.join(" "));
    let script = format!("{script}; ls {out}; exit $code");
    let output = elsewhere(&["--size", "4096", "--tmpfs", out], &["sh", "-c", &script]);
    assert_fails(&output, 1, &["/out/", ".pdf", "No space left", "free some disk space"]);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let left: Vec<&str> = shown.lines().filter(|line| line.len() == "1.pdf".len()).collect();
    assert_eq!(left.len(), 1, "{shown}");
    assert!(!shown.contains(".part"), "something half is left: {shown}");
}

#[test]
fn a_file_without_permission_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let secret = file(dir.path(), "secret.html", receipt("Secret"));
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o000)).unwrap();
    // Root may read everything; this one is no longer root.
    let nobody = ["--unshare-user", "--uid", "1000", "--cap-drop", "ALL"];
    let output = elsewhere(&nobody, &[TILLROLL, "render", &secret]);
    assert_fails(&output, 65, &["secret.html", "Permission denied", "file's permissions"]);
}

#[test]
fn a_link_is_followed_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let good = file(dir.path(), "good.html", receipt("Good"));
    let real = file(dir.path(), "real.pdf", "old");
    let link = dir.path().join("link.pdf");
    symlink(&real, &link).unwrap();
    let args = ["render", &good, "--set", "renderer.kind=null", "-o", link.to_str().unwrap()];
    assert!(run(tillroll().args(args)).status.success());
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(std::fs::read(&real).unwrap().starts_with(b"%PDF-"));
}

#[test]
fn an_output_that_cannot_be_written_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let good = file(dir.path(), "good.html", receipt("Good"));
    let null = ["--set", "renderer.kind=null"];
    // Nobody may make files here, not even root.
    let output = run(tillroll().args(["render", &good, "-o", "/sys/kernel/a.pdf"]).args(null));
    assert_fails(&output, 1, &["/sys/kernel/a.pdf", "may write to"]);
    let blocked = format!("{good}/out");
    let two = file(dir.path(), "two.html", receipt("Two"));
    let output = run(tillroll().args(["render", &good, &two, "-o", &blocked]).args(null));
    assert_fails(&output, 1, &["making", "may make or write"]);
    let server = RedisServer::volatile();
    let output =
        run(tillroll().args(["enqueue", &good, "--out", &blocked, "--redis", &server.url()]));
    assert_fails(&output, 1, &["making", "may write to"]);
}

#[test]
fn inputs_that_cannot_be_documents_are_told_by_name() {
    let server = RedisServer::volatile();
    let dir = tempfile::tempdir().unwrap();
    let dangling = dir.path().join("dangling.html");
    symlink("/nonexistent/receipt.html", &dangling).unwrap();
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let large = file(dir.path(), "large.html", "x".repeat(8 * 1024 * 1024 + 1));
    // It fits by itself, but not together with its header.
    let tight = file(dir.path(), "tight.html", "x".repeat(8 * 1024 * 1024));
    for verb in [&["render"][..], &["enqueue", "--redis", &server.url()]] {
        let fails = |input: &str, parts: &[&str]| {
            assert_fails(&run(tillroll().args(verb).arg(input)), 65, parts);
        };
        fails(dangling.to_str().unwrap(), &["dangling.html", "check the path"]);
        fails(empty.to_str().unwrap(), &["no .html file", "name the files"]);
        fails(&large, &["large.html", "larger than 8388608 bytes", "split"]);
    }
    let output = run(tillroll().args(["enqueue", &tight, "--redis", &server.url()]));
    assert_fails(&output, 65, &["tight.html", "8388608", "split the document"]);
}

#[test]
fn what_enqueue_cannot_push_is_told_before_the_push() {
    let server = RedisServer::volatile();
    let dir = tempfile::tempdir().unwrap();
    let good = file(dir.path(), "good.html", receipt("Good"));
    let two = file(dir.path(), "two.html", receipt("Two"));
    let fails = |args: &[&str], code, parts: &[&str]| {
        let output = run(tillroll().args(["enqueue", "--redis", &server.url(), &good]).args(args));
        assert_fails(&output, code, parts);
    };
    fails(&["--tenant", "a/b"], 2, &["tenant", "a/b"]);
    fails(&["--id", "no spaces"], 2, &["id", "no spaces"]);
    fails(&["--paper", "A99"], 2, &["A99", "80mm"]);
    fails(&["--delay", "soon"], 2, &["--delay", "10s"]);
    fails(&["--delay", "90d"], 2, &["delay_ms"]);
    fails(&[&two, "--id", "one"], 2, &["one id cannot name 2 documents"]);
    let mut redis = connect(&server.url());
    let pushed: i64 = redis::Commands::llen(&mut redis, "tillroll:{receipts}:in").unwrap();
    assert_eq!(pushed, 0);
}

#[test]
fn a_worker_without_memory_or_with_a_wrong_renderer_does_not_start() {
    let server = RedisServer::volatile();
    let url = server.url();
    let small = [
        "worker",
        "--redis",
        &url,
        "--set",
        "memory.limit=100MB",
        "--set",
        "memory.reserve=1MB",
        "--set",
        "memory.per_render=50MB",
    ];
    let output = run(tillroll().args(small));
    let limited = ["no memory for one renderer", "within memory.limit", "raise memory.limit by"];
    assert_fails(&output, 69, &limited);
    // A limit that cannot hold even reserve and render is a mistake of the configuration.
    let wrong = ["worker", "--redis", &url, "--set", "memory.limit=300MB"];
    assert_fails(&run(tillroll().args(wrong)), 78, &["memory.limit", "do not fit in it"]);
    let shares = ["worker", "--redis", &url, "--memory", "2%", "--set", "memory.reserve=10%"];
    assert_fails(&run(tillroll().args(shares)), 78, &["memory.limit = ", "do not fit in it"]);
    let output = run(tillroll().args(["worker", "--redis", &url, "--renderer", "firefox"]));
    assert_fails(&output, 78, &["renderer.kind", "firefox", "\"null\""]);
}

#[test]
fn a_taken_http_port_gives_the_next_one_and_it_is_printed() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let server = RedisServer::volatile();
    let listen = format!("http.listen=127.0.0.1:{port}");
    let worker = Worker::start(&server.url(), &["--renderer", "null", "--set", &listen]);
    let log = worker.log();
    let url = log.split("url=http://127.0.0.1:").nth(1).unwrap_or_else(|| panic!("{log}"));
    let got: u16 = url.split('/').next().unwrap().parse().unwrap();
    assert!(got > port, "{log}");
}

#[test]
fn the_null_renderer_needs_neither_chromium_nor_jail_and_says_what_it_is() {
    let server = RedisServer::volatile();
    let worker = Worker::start_in(&server.url(), &["--renderer", "null"], "/nonexistent");
    let mut redis = connect(&server.url());
    let element = crate::support::element("acme", "r-1", "Nobody prints this");
    let _: i64 = redis::Commands::lpush(&mut redis, "tillroll:{receipts}:in", element).unwrap();
    let (reply, pdf) = take(&mut redis, "acme/r-1", 30).unwrap();
    assert_eq!(reply["status"], "done");
    assert_eq!(reply["warnings"][0]["code"], "null_renderer");
    crate::support::assert_sound(&pdf);
    assert!(crate::support::text_of(&pdf).contains("it is no receipt"));
    let output = run(tillroll().args(["status", "--redis", &server.url()]));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("NULL RENDERER") && shown.contains("same page"), "{shown}");
    assert!(worker.log().contains("renderer.kind = null"), "{}", worker.log());
}

#[test]
fn job_and_events_refuse_what_they_cannot_read() {
    let server = RedisServer::volatile();
    let url = server.url();
    let fails = |args: &[&str], code, parts: &[&str]| {
        assert_fails(&run(tillroll().args(args).args(["--redis", &url])), code, parts);
    };
    fails(&["job", "show", "a/b/c"], 2, &["a/b/c", "TENANT/ID"]);
    fails(&["job", "show", "acme/never"], 65, &["no such job", "inbox"]);
    fails(&["events", "--since", "soon"], 2, &["--since", "10m"]);
    for verb in [&["job", "show", "a/b"][..], &["events"]] {
        assert_fails(&run(tillroll().args(verb)), 78, &["--redis", "REDIS_URL"]);
        let away = run(tillroll().args(verb).args(["--redis", "redis://127.0.0.1:1"]));
        assert_fails(&away, 69, &["redis is not available", "redis-cli"]);
        assert!(!stderr(&away).contains("panicked"));
    }
}
