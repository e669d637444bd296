//! The rules of the source tree that no compiler checks: who may name what, how
//! long a file may be, what must be documented.
//!
//! Each rule reads the files as they are; a new file is covered when it appears.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use tillroll::config::{DEFAULTS, KEYS};

/// What a benchmark says of its goals.
#[path = "../benches/governor/report.rs"]
#[allow(clippy::print_stdout, dead_code, unreachable_pub, reason = "it is the benchmark's")]
mod report;

/// Longer files are split: nobody reads them to the end.
const LONGEST_FILE: usize = 600;

/// One source file.
struct Source {
    /// Relative to the root of the repository, with slashes.
    path: String,
    text: String,
    /// The text without comments and literals: line numbers are the same.
    code: String,
}

impl Source {
    /// Lines of code that are not in a test module, with their numbers.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = test_module(&self.code).unwrap_or(self.code.len());
        self.code[..end].lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs")
            || self.path.ends_with("_tests.rs")
            || self.path.contains("/tests/")
    }
}

/// Where a file's test module begins; by habit it is the last thing in it.
fn test_module(code: &str) -> Option<usize> {
    let at = code.rfind("#[cfg(test)]")?;
    let module = code[at..].lines().nth(1)?.trim_start();
    (module.starts_with("mod ") && module.ends_with('{')).then_some(at)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `directory` that ends in one of `extensions`.
fn files(directory: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(directory)];
    while let Some(directory) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
            if path.is_dir() {
                open.push(path);
            } else if extensions.contains(&extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned()
}

fn sources() -> Vec<Source> {
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        Source { path: relative(&path), code: code_only(&text), text }
    };
    let found: Vec<_> = files("src", &["rs"]).into_iter().map(read).collect();
    assert!(found.len() > 10, "src/ was not found");
    found
}

/// Replaces comments and the insides of string and character literals by blanks.
fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = at + literal_or_comment(&bytes[at..], code.last().copied());
        if end == at {
            code.push(bytes[at]);
            at += 1;
        } else {
            code.extend(bytes[at..end].iter().map(|b| if *b == b'\n' { b'\n' } else { b' ' }));
            at = end;
        }
    }
    String::from_utf8(code).unwrap()
}

/// The length of the comment or literal that `rest` begins with, or 0.
fn literal_or_comment(rest: &[u8], before: Option<u8>) -> usize {
    let until = |from: usize, mark: &[u8]| {
        let found = rest[from..].windows(mark.len()).position(|window| window == mark);
        found.map_or(rest.len(), |position| from + position + mark.len())
    };
    let in_word = before.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    match rest {
        [b'/', b'/', ..] => until(2, b"\n") - usize::from(rest.contains(&b'\n')),
        [b'/', b'*', ..] => until(2, b"*/"),
        [b'r', b'"' | b'#', ..] if !in_word || before == Some(b'b') => {
            let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
            if rest.get(1 + hashes) != Some(&b'"') {
                return 0;
            }
            let mark = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
            until(2 + hashes, &mark)
        }
        [b'"', ..] => quoted(rest, b'"'),
        // A character, not a lifetime.
        [b'\'', b'\\', ..] => quoted(rest, b'\''),
        [b'\'', inner @ ..] => {
            let width = match inner.first() {
                Some(0xF0..) => 4,
                Some(0xE0..) => 3,
                Some(0xC0..) => 2,
                _ => 1,
            };
            if inner.get(width) == Some(&b'\'') { width + 2 } else { 0 }
        }
        _ => 0,
    }
}

fn quoted(rest: &[u8], mark: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != mark {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// Whether `line` names `word` as a path's first part or a macro: not within a
/// longer word, and not after `::` or a dot.
fn names(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let inside = |c: char| c.is_alphanumeric() || c == '_';
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let starts = !before.is_some_and(|c| inside(c) || c == ':' || c == '.');
        starts && (word.ends_with([':', '!']) || !after.is_some_and(inside))
    })
}

/// Every place where a file outside `allowed` names one of `words`.
fn named_outside(words: &[&str], allowed: impl Fn(&str) -> bool) -> String {
    let mut found = String::new();
    for source in sources().iter().filter(|source| !allowed(&source.path) && !source.is_test()) {
        for (number, line) in source.lines() {
            for word in words.iter().filter(|word| names(line, word)) {
                writeln!(found, "{}:{number}: names {word}", source.path).unwrap();
            }
        }
    }
    found
}

/// Fails with every place where a file outside `allowed` names one of `words`.
fn only_in(words: &[&str], allowed: impl Fn(&str) -> bool, reason: &str) {
    let found = named_outside(words, allowed);
    assert!(found.is_empty(), "{reason}:\n{found}");
}

#[test]
fn redis_is_named_only_where_keys_and_replies_are() {
    only_in(
        &["redis::", "use redis", "deadpool_redis"],
        |path| ["src/queue/", "src/output/", "src/cli/"].iter().any(|at| path.starts_with(at)),
        "Redis is spoken to in queue/, output/ and cli/ only",
    );
}

#[test]
fn chromiums_protocol_is_named_only_in_the_renderer() {
    only_in(
        &["chromiumoxide", "chromiumoxide_cdp"],
        |path| path.starts_with("src/renderer/"),
        "the protocol's types stay below the seam of renderer/",
    );
}

#[test]
fn only_the_command_line_prints_exits_and_reads_the_environment() {
    only_in(
        &[
            "println!",
            "print!",
            "eprintln!",
            "eprint!",
            "dbg!",
            "std::env::",
            "env::var",
            "env::args",
            "use std::env",
            "process::exit",
            "std::process::exit",
        ],
        |path| path.starts_with("src/cli/") || path == "src/main.rs",
        "a library call depends on its arguments only, and stdout is for results",
    );
}

#[test]
fn pure_modules_do_not_wait() {
    const PURE: [&str; 25] = [
        "src/job/",
        "src/failure.rs",
        "src/retry.rs",
        "src/renderer/paper.rs",
        "src/renderer/limits.rs",
        "src/renderer/tags.rs",
        "src/config/units.rs",
        "src/config/values.rs",
        "src/config/error.rs",
        "src/config/load.rs",
        "src/config/mod.rs",
        "src/memory/capacity.rs",
        "src/memory/ledger.rs",
        "src/memory/predictor.rs",
        "src/memory/ladder.rs",
        "src/memory/terms.rs",
        "src/memory/entry.rs",
        "src/memory/reserve.rs",
        "src/memory/concurrency.rs",
        "src/memory/control.rs",
        "src/memory/document.rs",
        "src/memory/verdicts.rs",
        "src/memory/sim/",
        "src/pool/contexts.rs",
        "src/pool/recycle.rs",
    ];
    only_in(
        &["tokio", "tokio::"],
        |path| !PURE.iter().any(|pure| path.starts_with(pure)),
        "decisions are pure, so that they are tested without a runtime",
    );
}

#[test]
fn modules_know_only_what_stands_below_them() {
    const UPPER: &[&str] = &["worker", "cli", "http"];
    const RULES: &[(&str, &[&str])] = &[
        ("src/job/", &["queue", "memory", "pool", "renderer", "output", "metrics"]),
        ("src/failure.rs", &["queue", "memory", "pool", "renderer", "output", "metrics"]),
        ("src/retry.rs", &["queue", "memory", "pool", "renderer", "output", "metrics"]),
        ("src/config/", &["queue", "memory", "pool", "renderer", "output", "metrics"]),
        ("src/queue/", &["memory", "pool", "renderer", "output"]),
        ("src/memory/", &["queue", "pool", "renderer", "output"]),
        ("src/renderer/", &["queue", "memory", "pool", "output"]),
        ("src/pool/", &["queue", "output"]),
        ("src/output/", &["memory", "pool", "renderer"]),
    ];
    let mut found = String::new();
    for (place, forbidden) in RULES {
        let above = forbidden.iter().chain(UPPER).map(|module| format!("crate::{module}"));
        let above: Vec<_> = above.collect();
        let words: Vec<_> = above.iter().map(String::as_str).collect();
        found += &named_outside(&words, |path| !path.starts_with(place));
    }
    assert!(found.is_empty(), "dependencies point downwards only:\n{found}");
}

#[test]
fn files_are_short_enough_to_be_read() {
    let all = ["src", "tests", "benches", "scripts"];
    let long = all.iter().flat_map(|place| files(place, &["rs", "lua", "sh", "py", "js", ""]));
    let mut found = String::new();
    for path in long {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let lines = text.lines().count();
        if lines > LONGEST_FILE {
            writeln!(found, "{}: {lines} lines", relative(&path)).unwrap();
        }
    }
    assert!(found.is_empty(), "split these ({LONGEST_FILE} lines at most):\n{found}");
}

#[test]
fn modules_begin_with_what_they_are() {
    for source in sources() {
        let first = source.text.lines().next().unwrap_or_default();
        assert!(first.starts_with("//! "), "{} has no module documentation", source.path);
    }
}

#[test]
fn nothing_is_left_for_later_and_no_test_is_skipped() {
    // In two parts, so that this file passes its own test.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX:"),
        concat!("#[ig", "nore"),
        concat!("unimple", "mented!("),
    ];
    let mut found = String::new();
    for place in ["src", "tests", "benches", "scripts", "docs", "worker-config"] {
        for path in files(place, &["rs", "lua", "toml", "md", "py", "js", "sh", ""]) {
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            for (index, line) in text.lines().enumerate() {
                if let Some(word) = words.iter().find(|word| line.contains(**word)) {
                    writeln!(found, "{}:{}: {word}", relative(&path), index + 1).unwrap();
                }
            }
        }
    }
    assert!(found.is_empty(), "{found}");
}

#[test]
fn every_key_has_its_default_below_a_comment_of_its_own() {
    let (mut section, mut explained) = ("", false);
    let mut documented = Vec::new();
    for line in DEFAULTS.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            assert!(explained, "{section}.{key} has no comment");
            documented.push(format!("{section}.{key}"));
        }
        explained = line.starts_with('#');
    }
    let keys: Vec<_> = KEYS.iter().map(|key| key.name).collect();
    assert_eq!(documented, keys, "default.toml and the table of keys, in the same order");
}

#[test]
fn scripts_can_be_executed() {
    use std::os::unix::fs::PermissionsExt;
    for path in files("scripts", &[""]).into_iter().chain(files(".ci", &[""])) {
        let text = std::fs::read_to_string(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        let script = relative(&path);
        assert!(text.starts_with("#!/usr/bin/env "), "{script} names no interpreter");
        assert_eq!(mode & 0o111, 0o111, "{script} is not executable");
    }
}

#[test]
fn literals_and_comments_are_no_code() {
    let text = r####"let a = "redis::x"; // redis::y
/* redis::z */ let b = 'r'; let c = '"'; f::<'a>(r#"redis::"w""#, b"\"redis::"); redis::get();"####;
    let code = code_only(text);
    assert_eq!(code.matches("redis::").count(), 1, "{code}");
    assert_eq!(code.len(), text.len());
    assert!(code.contains("f::<'a>("));
    assert!(names("  redis::cmd()", "redis::"));
    assert!(!names("crate::queue::redis::open()", "redis::"));
    assert!(!names("my_println!()", "println!") && names("println!()", "println!"));
}

#[test]
fn a_benchmark_whose_goal_was_missed_fails() {
    report::goal("reached", "1", "at least 1", true);
    assert_eq!(report::missed(), 0);
    report::goal("not reached", "1", "at least 2", false);
    report::goal("reached", "2", "at least 2", true);
    assert_eq!(report::missed(), 1);
    let main = std::fs::read_to_string(root().join("benches/governor/main.rs")).unwrap();
    assert!(main.contains("if report::missed() > 0 {\n        std::process::exit(1);"));
}
