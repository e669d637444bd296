//! Redis 6.0 is enough: no command, and no option of one, is newer.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Every command that the queue uses, and the release it came with.
const KNOWN: &[(&str, &str)] = &[
    ("BLPOP", "2.0.0"),
    ("BRPOPLPUSH", "2.2.0"),
    ("CONFIG", "2.0.0"),
    ("EVALSHA", "2.6.0"),
    ("EXISTS", "1.0.0"),
    ("EXPIRE", "1.0.0"),
    ("GET", "1.0.0"),
    ("HDEL", "2.0.0"),
    ("HGET", "2.0.0"),
    ("HGETALL", "2.0.0"),
    ("HINCRBY", "2.0.0"),
    ("HMGET", "2.0.0"),
    ("HSET", "2.0.0"),
    ("HEXISTS", "2.0.0"),
    ("HSCAN", "2.8.0"),
    ("LRANGE", "1.0.0"),
    ("HKEYS", "2.0.0"),
    ("HLEN", "2.0.0"),
    ("HSTRLEN", "3.2.0"),
    ("HVALS", "2.0.0"),
    ("SADD", "1.0.0"),
    ("SRANDMEMBER", "1.0.0"),
    ("SMEMBERS", "1.0.0"),
    ("SCAN", "2.8.0"),
    ("SISMEMBER", "1.0.0"),
    ("SSCAN", "2.8.0"),
    ("TYPE", "1.0.0"),
    ("XDEL", "5.0.0"),
    ("XRANGE", "5.0.0"),
    ("ZSCAN", "2.8.0"),
    ("SREM", "1.0.0"),
    ("SCARD", "1.0.0"),
    ("ZREVRANGE", "1.2.0"),
    ("ZREVRANGEBYSCORE", "2.2.0"),
    ("SCRIPT", "2.6.0"),
    ("INFO", "1.0.0"),
    ("LINDEX", "1.0.0"),
    ("LREM", "1.0.0"),
    ("LLEN", "1.0.0"),
    ("LPOP", "1.0.0"),
    ("LPUSH", "1.0.0"),
    ("LTRIM", "1.0.0"),
    ("MEMORY", "4.0.0"),
    ("PERSIST", "2.2.0"),
    ("PEXPIRE", "2.6.0"),
    ("PING", "1.0.0"),
    ("PTTL", "2.6.0"),
    ("RENAME", "1.0.0"),
    ("RPOP", "1.0.0"),
    ("RPOPLPUSH", "1.2.0"),
    ("RPUSH", "1.0.0"),
    ("SET", "1.0.0"),
    ("TIME", "2.6.0"),
    ("UNLINK", "4.0.0"),
    ("XADD", "5.0.0"),
    ("XREAD", "5.0.0"),
    ("XREVRANGE", "5.0.0"),
    ("ZADD", "1.2.0"),
    ("ZCARD", "1.2.0"),
    ("ZCOUNT", "2.0.0"),
    ("ZRANGE", "1.2.0"),
    ("ZRANGEBYSCORE", "1.0.5"),
    ("ZREM", "1.2.0"),
    ("ZREMRANGEBYSCORE", "1.2.0"),
    ("ZSCORE", "1.2.0"),
];

/// Options that are newer than the commands that take them.
const TOO_NEW: &[&str] = &[
    "KEEPTTL",
    "GETEX",
    "EXAT",
    "PXAT",
    "MINID",
    "NOMKSTREAM",
    "BYSCORE",
    "BYLEX",
    "REV",
    "GT",
    "LT",
    "EVAL_RO",
    "EVALSHA_RO",
    "FCALL",
];

fn sources() -> Vec<(PathBuf, String)> {
    below("src/queue")
}

fn below(part: &str) -> Vec<(PathBuf, String)> {
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(part)];
    let mut found = Vec::new();
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|end| end == "lua" || end == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found
}

/// What stands in quotes right after `marker`, comments left out.
fn quoted_after<'a>(text: &'a str, marker: &str, quote: char) -> Vec<&'a str> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("--"));
    code.flat_map(|line| line.split(marker).skip(1))
        .map(|rest| {
            let rest = rest.strip_prefix(quote);
            rest.and_then(|rest| rest.split(quote).next()).unwrap_or("(not a literal)")
        })
        .collect()
}

/// Every command that the queue sends or calls.
pub(crate) fn used() -> BTreeSet<String> {
    let mut commands = BTreeSet::new();
    for (path, text) in sources() {
        let found = if path.extension().is_some_and(|end| end == "lua") {
            // `base.lua` names `redis.call` once, to give it a short name; `ring.lua`
            // chooses between two commands once.
            let text = text.replace("call(front and 'LPUSH' or 'RPUSH'", "call('LPUSH'");
            assert!(!text.contains("pcall"), "{}", path.display());
            quoted_after(&text, "call(", '\'').into_iter().map(str::to_owned).collect()
        } else {
            quoted_after(&text, "cmd(", '"').into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        commands.extend(found);
    }
    commands
}

#[test]
fn no_command_is_newer_than_redis_6_0() {
    let used = used();
    assert!(used.len() > 20, "the sources were not read: {used:?}");
    for command in &used {
        let since = KNOWN.iter().find(|(known, _)| known == command).map(|(_, since)| *since);
        let since = since.unwrap_or_else(|| panic!("{command}: look up its release, and list it"));
        let mut numbers = since.split('.').map(|number| number.parse::<u32>().unwrap());
        let release = (numbers.next().unwrap(), numbers.next().unwrap());
        assert!(release <= (6, 0), "{command} came with Redis {since}");
    }
}

#[test]
fn no_option_is_newer_than_redis_6_0_and_no_script_needs_flags() {
    for (path, text) in sources() {
        for option in TOO_NEW {
            for quoted in [format!("'{option}'"), format!("\"{option}\"")] {
                assert!(!text.contains(&quoted), "{} uses {option}", path.display());
            }
        }
        assert!(!text.starts_with("#!"), "{}: 6.x knows no script flags", path.display());
    }
}

/// A full Redis refuses to queue commands, and no permissions of ours have MULTI.
#[test]
fn nothing_is_a_transaction() {
    let sources = below("src");
    assert!(sources.len() > 50, "the sources were not read");
    for (path, text) in sources {
        for way in [".atomic()", "\"MULTI\"", "\"EXEC\"", "'MULTI'"] {
            assert!(!text.contains(way), "{} uses {way}", path.display());
        }
    }
}
