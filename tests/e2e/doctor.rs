//! `tillroll doctor` on a sound machine, and on five broken ones.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use redis::Commands;
use serde_json::Value;

use crate::redis_server::RedisServer;
use crate::support::{connect, tillroll};

/// A machine on which one program is not what it should be.
struct Machine {
    bin: tempfile::TempDir,
    path: String,
}

impl Machine {
    /// `script` stands before the real `program`.
    fn with(program: &str, script: &str) -> Self {
        let bin = tempfile::tempdir().unwrap();
        let file = bin.path().join(program);
        std::fs::write(&file, script).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", bin.path().display(), std::env::var("PATH").unwrap());
        Self { bin, path }
    }

    fn doctor(&self) -> Command {
        assert!(self.bin.path().exists());
        let mut command = doctor();
        command.env("PATH", &self.path);
        command
    }
}

fn doctor() -> Command {
    let mut command = tillroll();
    command.args(["doctor", "--json"]);
    command
}

fn on(redis: &RedisServer) -> Output {
    doctor().args(["--redis", &redis.url()]).output().unwrap()
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

/// What the check says: verdict, what, remedy.
fn check(output: &Output, name: &str) -> (String, String, String) {
    let report = report(output);
    let checks = report["checks"].as_array().unwrap();
    let found = checks.iter().find(|check| check["check"] == name);
    let found = found.unwrap_or_else(|| panic!("no {name} in {report:#}"));
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (text("verdict"), text("what"), text("remedy"))
}

#[test]
fn a_sound_machine_has_nothing_to_mend() {
    let redis = RedisServer::start(&[
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--maxmemory",
        "200mb",
    ]);
    let output = on(&redis);
    assert_eq!(output.status.code(), Some(0), "{:#}", report(&output));
    let report = report(&output);
    assert_eq!(report["v"], 1);
    for name in [
        "engine",
        "jail",
        "sandbox",
        "network",
        "render",
        "fonts",
        "memory.plan",
        "disk",
        "redis.version",
        "redis.write",
        "redis.persistence",
        "redis.eviction",
        "redis.memory",
        "redis.clock",
        "redis.keys",
    ] {
        let (verdict, what, _) = check(&output, name);
        assert_eq!(verdict, "ok", "{name}: {what}");
    }
    // Nothing of its own is left behind.
    let keys: Vec<String> = connect(&redis.url()).keys("*").unwrap();
    assert!(keys.is_empty(), "{keys:?}");
}

#[test]
fn no_font_for_hindi() {
    let machine = Machine::with(
        "fc-list",
        "#!/bin/sh\n[ \"$1\" = :lang=hi ] || echo '/usr/share/fonts/a.ttf: Some Sans'\n",
    );
    let output = machine.doctor().output().unwrap();
    assert_eq!(output.status.code(), Some(0), "a warning is no failure");
    let (verdict, what, remedy) = check(&output, "fonts.devanagari");
    assert_eq!(verdict, "warn");
    assert!(what.contains("Hindi"), "{what}");
    assert!(remedy.contains("apt-get install fonts-noto-core"), "{remedy}");
}

#[test]
fn namespaces_are_off() {
    let machine = Machine::with(
        "bwrap",
        "#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n",
    );
    let output = machine.doctor().output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    let (verdict, what, remedy) = check(&output, "jail");
    assert_eq!(verdict, "fail");
    let both = format!("{what} {remedy}");
    assert!(both.contains("No permissions") && both.contains("seccomp"), "{both}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("1 check failed: jail"), "{said}");
}

#[test]
fn a_redis_that_evicts_jobs() {
    let redis = RedisServer::start(&[
        "--appendonly",
        "yes",
        "--maxmemory",
        "200mb",
        "--maxmemory-policy",
        "allkeys-lru",
    ]);
    let output = on(&redis);
    assert_eq!(output.status.code(), Some(69));
    let (verdict, what, remedy) = check(&output, "redis.eviction");
    assert_eq!(verdict, "fail", "{what}");
    assert!(remedy.contains("maxmemory-policy noeviction"), "{remedy}");
}

#[test]
fn a_redis_that_keeps_nothing() {
    let redis = RedisServer::volatile();
    let output = on(&redis);
    assert_eq!(output.status.code(), Some(69));
    let (verdict, what, remedy) = check(&output, "redis.persistence");
    assert_eq!(verdict, "fail");
    assert!(what.contains("every job is lost"), "{what}");
    assert!(remedy.contains("appendonly yes"), "{remedy}");
}

#[test]
fn a_redis_shared_with_a_web_application() {
    let redis = RedisServer::durable();
    let mut connection = connect(&redis.url());
    let _: () = connection.set("laravel_cache:menu", "x").unwrap();
    let lost = "laravel_database_tillroll:{receipts}:in";
    let _: () = connection.lpush(lost, "{\"id\":\"a\"}\n<p>").unwrap();
    let _: () = connection.lpush("tillroll:{receipts}:in", "{\"id\":\"b\"}\n<p>").unwrap();
    let output = on(&redis);
    assert_eq!(output.status.code(), Some(69));
    let (verdict, what, _) = check(&output, "redis.keys");
    assert_eq!(verdict, "warn");
    assert!(what.contains("laravel_cache:menu") && what.contains("FLUSHDB"), "{what}");
    let (verdict, what, remedy) = check(&output, "redis.lost_inbox");
    assert_eq!(verdict, "fail");
    assert!(what.contains(lost) && what.starts_with("1 job"), "{what}");
    assert!(remedy.contains("Laravel"), "{remedy}");
}

#[test]
fn a_redis_that_is_not_there_is_one_failed_check() {
    let output = doctor().args(["--redis", "redis://127.0.0.1:1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    let (verdict, what, remedy) = check(&output, "redis");
    assert_eq!(verdict, "fail");
    assert!(what.contains("127.0.0.1:1"), "{what}");
    assert!(remedy.contains("Redis runs"), "{remedy}");
}

#[test]
fn an_embedded_redis_that_does_not_run_yet_can_be_started() {
    let state = tempfile::tempdir().unwrap();
    std::fs::set_permissions(state.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let dir = format!("state.dir={}", state.path().display());
    let output = doctor().args(["--redis", "embedded", "--set", &dir]).output().unwrap();
    let (verdict, what, _) = check(&output, "redis");
    assert_eq!(verdict, "ok", "{what}");
    assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0, "nothing is made");
}
