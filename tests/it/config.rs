//! The configuration, layer over layer, and `tillroll config`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use tillroll::config::values::{Concurrency, Isolation, Memory};
use tillroll::config::{Given, KEYS, Loaded, Source, load};

fn environment(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tillroll.toml");
    std::fs::write(&path, text).unwrap();
    (directory, path)
}

fn set(assignments: &[&str]) -> Given {
    Given { set: assignments.iter().map(ToString::to_string).collect(), ..Given::default() }
}

/// The mistakes as text, one a line.
fn mistakes(given: &Given, pairs: &[(&str, &str)]) -> String {
    load(given, environment(pairs)).unwrap_err().to_string()
}

fn source<'a>(loaded: &'a Loaded, key: &str) -> &'a Source {
    &loaded.entries.iter().find(|entry| entry.key == key).unwrap().source
}

#[test]
fn the_defaults_are_complete_and_right() {
    let loaded = load(&Given::default(), environment(&[("HOME", "/home/op")])).unwrap();
    assert_eq!(loaded.entries.len(), KEYS.len());
    assert!(loaded.entries.iter().all(|entry| entry.source == Source::Default));
    let config = loaded.config;
    assert_eq!(config.redis.url, None);
    assert_eq!(config.queue.name.as_str(), "receipts");
    assert_eq!(config.queue.lease, Duration::from_secs(30));
    assert_eq!(config.worker.concurrency, Concurrency::Auto);
    assert_eq!(config.memory.limit, None);
    assert_eq!(config.renderer.isolation, Isolation::Tenant);
    assert_eq!(config.state.dir, PathBuf::from("/home/op/.local/state/tillroll"));
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let (_directory, path) =
        file("[queue]\nname = \"file\"\nlease = \"40s\"\n\n[renderer]\nnice = 3\n");
    let given = Given {
        file: Some(path.clone()),
        set: vec!["queue.name=set".into()],
        flags: vec![("--queue", "queue.name", "flag".into())],
    };
    let pairs = [("TILLROLL_QUEUE__NAME", "variable"), ("TILLROLL_QUEUE__LEASE", "50s")];
    let loaded = load(&given, environment(&pairs)).unwrap();
    assert_eq!(loaded.config.queue.name.as_str(), "flag");
    assert_eq!(*source(&loaded, "queue.name"), Source::Flag("--queue".into()));
    assert_eq!(loaded.config.queue.lease, Duration::from_secs(50));
    assert_eq!(*source(&loaded, "queue.lease"), Source::Variable("TILLROLL_QUEUE__LEASE".into()));
    assert_eq!(loaded.config.renderer.nice.get(), 3);
    assert_eq!(*source(&loaded, "renderer.nice"), Source::File { path, line: 6 });
    assert_eq!(*source(&loaded, "queue.heartbeat"), Source::Default);
}

#[test]
fn redis_url_of_the_platform_stands_below_our_own_variable() {
    let url = |pairs: &[(&str, &str)]| {
        let loaded = load(&Given::default(), environment(pairs)).unwrap();
        loaded.config.redis.url.map(|url| url.expose().to_owned())
    };
    let platform = ("REDIS_URL", "redis://platform");
    assert_eq!(url(&[platform]).as_deref(), Some("redis://platform"));
    let own = ("TILLROLL_REDIS__URL", "redis://own");
    assert_eq!(url(&[own, platform]).as_deref(), Some("redis://own"));
    // Not ours to complain about as long as it is not used.
    assert_eq!(url(&[own, ("REDIS_URL", "http://platform")]).as_deref(), Some("redis://own"));
    assert!(mistakes(&Given::default(), &[("REDIS_URL", "http://p")]).contains("scheme"));
    assert_eq!(url(&[("REDIS_URL", "rediss://p")]).as_deref(), Some("rediss://p"));
    assert_eq!(url(&[("REDIS_URL", "")]), None);
}

#[test]
fn every_mistake_is_reported_at_once_with_its_source() {
    let (_directory, path) = file(
        "[queue]\nleese = \"40s\"\nlease = \"forever\"\n[render]\njail = \"bwrap\"\n[memory]\nlimit = 512\nreserve = []\n",
    );
    let shown = path.display().to_string();
    let given = Given {
        file: Some(path),
        set: vec!["renderer.nice=20".into(), "http.listen".into()],
        flags: vec![("--log-level", "log.level", "loud".into())],
    };
    let text = mistakes(
        &given,
        &[
            ("TILLROLL_REDIS_URL", "redis://h"),
            ("TILLROLL_RENDERER__ISOLATION", "machine"),
            ("UNRELATED", "x"),
        ],
    );
    for expected in [
        format!("{shown}:2: unknown key queue.leese; did you mean queue.lease?"),
        format!("{shown}:3: queue.lease = \"forever\", but it does not begin with a number; expected a duration"),
        format!("{shown}:5: unknown key render.jail; did you mean renderer.jail?"),
        format!("{shown}:7: memory.limit = \"512\", but it has no unit"),
        format!("{shown}:8: memory.reserve = \"…\", but it is an array"),
        "unknown key TILLROLL_REDIS_URL; did you mean TILLROLL_REDIS__URL?".into(),
        "variable TILLROLL_RENDERER__ISOLATION: renderer.isolation = \"machine\"; expected \"tenant\" or \"job\" or \"browser\"".into(),
        "flag --set: renderer.nice = \"20\"; expected a number from 0 to 19".into(),
        "--set http.listen: expected section.key=value".into(),
        "flag --log-level: log.level = \"loud\"; expected \"error\" or \"warn\"".into(),
    ] {
        assert!(text.contains(&expected), "{expected}\n--- not in\n{text}");
    }
    assert_eq!(text.lines().count(), 10, "{text}");
}

#[test]
fn a_key_in_the_wrong_section_is_found_by_its_name() {
    let text = mistakes(&set(&["worker.heartbeat=5s"]), &[]);
    assert!(text.contains("did you mean queue.heartbeat?"), "{text}");
    let text = mistakes(&set(&["colour=blue"]), &[]);
    assert!(!text.contains("did you mean"), "{text}");
}

#[test]
fn a_file_that_is_missing_or_not_toml_says_where() {
    let missing = Given { file: Some("/nonexistent/x.toml".into()), ..Given::default() };
    assert!(mistakes(&missing, &[]).contains("/nonexistent/x.toml cannot be read: No such file"));
    let (_directory, path) = file("[queue]\nname = \n");
    let given = Given { file: Some(path.clone()), ..Given::default() };
    let text = mistakes(&given, &[]);
    assert!(text.contains(&format!("{}:2: not TOML", path.display())), "{text}");
}

#[test]
fn variables_that_kubernetes_sets_are_not_mistaken_for_keys() {
    let pairs = [
        ("TILLROLL_SERVICE_HOST", "10.0.0.1"),
        ("TILLROLL_SERVICE_PORT", "9464"),
        ("TILLROLL_SERVICE_PORT_HTTP", "9464"),
        ("TILLROLL_PORT", "tcp://10.0.0.1:9464"),
        ("TILLROLL_PORT_9464_TCP_ADDR", "10.0.0.1"),
    ];
    assert!(load(&Given::default(), environment(&pairs)).is_ok());
}

#[test]
fn keys_that_contradict_each_other_are_refused() {
    let text = mistakes(&set(&["queue.lease=10s", "memory.limit=300MB"]), &[]);
    assert!(text.contains("queue.heartbeat = \"5s\" cannot be: it is more than a third"), "{text}");
    assert!(text.contains("flag --set: memory.limit = \"300MB\" cannot be"), "{text}");
    let loaded = load(&set(&["memory.limit=50%"]), environment(&[])).unwrap();
    assert_eq!(loaded.config.memory.limit, Some(Memory::Percent(50)));
}

#[test]
fn what_tls_needs_is_refused_where_there_is_none() {
    let wrong = |pairs: &[&str]| mistakes(&set(pairs), &[]);
    let text = wrong(&["redis.url=redis://h", "redis.ca=/ca.pem"]);
    assert!(
        text.contains("redis.ca = \"/ca.pem\" cannot be") && text.contains("rediss://"),
        "{text}"
    );
    let text = wrong(&["redis.url=rediss://h", "redis.cert=/cert.pem"]);
    assert!(text.contains("redis.cert") && text.contains("redis.key is not set"), "{text}");
    let text = wrong(&["redis.url=rediss://h", "redis.key=/key.pem"]);
    assert!(text.contains("redis.key") && text.contains("redis.cert is not set"), "{text}");
    let text = wrong(&["redis.url=rediss://h", "redis.ca=ca.pem"]);
    assert!(text.contains("not absolute"), "{text}");
    let text = wrong(&["redis.url=rediss://:hunter2@h/#insecure"]);
    assert!(text.contains("always checked") && !text.contains("hunter2"), "{text}");
    let all = ["redis.url=rediss://h", "redis.ca=/a", "redis.cert=/c", "redis.key=/k"];
    assert!(load(&set(&all), environment(&[])).is_ok());
    // An embedded Redis may stand in for the usual one.
    assert!(load(&set(&["redis.url=embedded", "redis.ca=/a"]), environment(&[])).is_ok());
}

#[test]
fn the_state_directory_follows_the_first_variable_that_names_a_place() {
    let directory = |pairs: &[(&str, &str)]| {
        load(&Given::default(), environment(pairs)).unwrap().config.state.dir
    };
    let home = ("HOME", "/home/op");
    assert_eq!(
        directory(&[("STATE_DIRECTORY", "/var/lib/a:/var/lib/b"), home]),
        PathBuf::from("/var/lib/a")
    );
    assert_eq!(directory(&[("XDG_STATE_HOME", "/s"), home]), PathBuf::from("/s/tillroll"));
    assert_eq!(
        directory(&[("XDG_STATE_HOME", "relative"), home]),
        PathBuf::from("/home/op/.local/state/tillroll")
    );
    assert_eq!(directory(&[]), PathBuf::from("/var/lib/tillroll"));
}

#[test]
fn a_password_appears_nowhere() {
    let wrong = mistakes(&set(&["redis.url=http://:hunter2@db"]), &[]);
    let (_directory, path) = file("[redis]\nurl = \"redis://:hunter2@db\n");
    let given = Given { file: Some(path), ..Given::default() };
    let not_toml = mistakes(&given, &[]);
    let loaded = load(&set(&["redis.url=redis://:hunter2@db"]), environment(&[])).unwrap();
    for text in [wrong, not_toml, format!("{loaded:?}")] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

/// Runs the binary with no environment but what is given.
fn tillroll(arguments: &[&str], pairs: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tillroll"))
        .args(arguments)
        .env_clear()
        .envs(pairs.iter().copied())
        .output()
        .unwrap()
}

#[test]
fn config_show_prints_every_key_with_its_source() {
    let output = tillroll(
        &["config", "show", "--set", "renderer.nice=4"],
        &[("REDIS_URL", "redis://:hunter2@db:6379")],
    );
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), KEYS.len());
    let line = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap();
    assert!(line("redis.url").starts_with("redis.url = \"redis://***@db:6379\""), "{text}");
    assert!(line("redis.url").ends_with("# variable REDIS_URL"), "{text}");
    assert!(line("renderer.nice").ends_with("# flag --set"), "{text}");
    assert!(line("queue.lease").ends_with("# default"), "{text}");
}

#[test]
fn config_show_prints_json_for_machines() {
    let output = tillroll(&["--json", "config", "show"], &[]);
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["queue.name"]["value"], "receipts");
    assert_eq!(shown["queue.name"]["source"], "default");
}

#[test]
fn config_check_exits_0_or_78() {
    assert_eq!(tillroll(&["config", "check"], &[]).status.code(), Some(0));
    let output = tillroll(&["config", "check", "--set", "queue.nmae=x"], &[]);
    assert_eq!(output.status.code(), Some(78));
    assert!(output.stdout.is_empty());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.starts_with("error: reading the configuration: flag --set: unknown key"),
        "{text}"
    );
    assert!(text.contains("did you mean queue.name?") && text.contains("\n  fix: "), "{text}");
}

#[test]
fn a_wrong_command_line_exits_2_and_help_exits_0() {
    assert_eq!(tillroll(&["confg"], &[]).status.code(), Some(2));
    assert_eq!(tillroll(&[], &[]).status.code(), Some(2));
    let help = tillroll(&["--help"], &[]);
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8(help.stdout).unwrap().contains("78 configuration"));
}
