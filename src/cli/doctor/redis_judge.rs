//! Redis, judged: what its settings mean for the promises. Pure.

use std::time::Duration;

use crate::config::units::show_bytes_rounded as show_bytes;

use super::finding::Finding;

/// What was measured.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub(super) is_valkey: bool,
    pub(super) version: String,
    pub(super) round_trip: Duration,
    /// Its clock minus ours.
    pub(super) clock_off_ms: i64,
    /// Bytes; 0 is no bound.
    pub(super) maxmemory: u64,
    /// Bytes.
    pub(super) used: u64,
    /// Bytes of the machine that it runs on; 0 where it does not say.
    pub(super) machine: u64,
    pub(super) policy: String,
    pub(super) is_loading: bool,
    pub(super) is_replica: bool,
    /// Whether it keeps an append-only file.
    pub(super) aof: bool,
    /// What of its writing to disk failed last.
    pub(super) failing: Option<String>,
    /// `None` where it may not be asked.
    pub(super) appendfsync: Option<String>,
    /// When it makes snapshots; empty is never, `None` as above.
    pub(super) save: Option<String>,
    /// Why it did not take a write.
    pub(super) write: Option<String>,
    pub(super) scan: Scan,
}

/// What else is in the database.
#[derive(Debug, Clone, Default)]
pub(super) struct Scan {
    /// Keys in it.
    pub(super) size: u64,
    /// Keys looked at.
    pub(super) looked: usize,
    /// Whether these are all.
    pub(super) is_complete: bool,
    /// Keys that are not Tillroll's.
    pub(super) foreign: usize,
    /// One of them.
    pub(super) example: Option<String>,
    /// Inboxes of this queue under a client's key prefix, and their lengths.
    pub(super) lost: Vec<(String, u64)>,
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![
        version(facts),
        write(facts),
        persistence(facts),
        eviction(facts),
        memory(facts),
        clock(facts),
        others(&facts.scan),
    ];
    findings.extend(facts.scan.lost.iter().map(|(key, length)| lost(key, *length)));
    findings
}

fn version(facts: &Facts) -> Finding {
    const CHECK: &str = "redis.version";
    let name = if facts.is_valkey { "Valkey" } else { "Redis" };
    let what = format!(
        "{name} {}, answers in {:.1} ms",
        facts.version,
        facts.round_trip.as_secs_f64() * 1000.0
    );
    let mut numbers = facts.version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let least = if facts.is_valkey { (7, 2) } else { (6, 0) };
    if version < least {
        Finding::fail(CHECK, what, "use Redis 6.0 or later, or Valkey 7.2 or later")
    } else if facts.round_trip > Duration::from_millis(50) {
        Finding::warn(CHECK, what, "run workers near their Redis: every job asks it several times")
    } else {
        Finding::ok(CHECK, what)
    }
}

fn write(facts: &Facts) -> Finding {
    const CHECK: &str = "redis.write";
    match &facts.write {
        None => Finding::ok(CHECK, "takes scripts and writes below tillroll:"),
        Some(_) if facts.is_loading => Finding::fail(
            CHECK,
            "it is still loading its files",
            "wait; INFO persistence says how far it is",
        ),
        Some(_) if facts.is_replica => Finding::fail(
            CHECK,
            "it is a replica, which takes no writes",
            "name the primary (INFO replication says where it is)",
        ),
        Some(why) => Finding::fail(
            CHECK,
            format!("it refused a write: {why}"),
            "check free disk and memory of Redis, and the user's permissions (ACL): EVAL and all \
             keys below tillroll:",
        ),
    }
}

/// What promise 1 (nothing is lost) rests on.
fn persistence(facts: &Facts) -> Finding {
    const CHECK: &str = "redis.persistence";
    const ON: &str = "CONFIG SET appendonly yes, and the same in redis.conf";
    if let Some(field) = &facts.failing {
        return Finding::fail(
            CHECK,
            format!("Redis could not write to its disk ({field}:err): jobs are in memory only"),
            "check the disk and the log of Redis",
        );
    }
    let snapshots = facts.save.as_deref().is_some_and(|save| !save.is_empty());
    match (facts.aof, facts.appendfsync.as_deref()) {
        (true, Some("always")) => Finding::ok(
            CHECK,
            "append-only file, synchronised with each write: no admitted job is lost in any crash",
        ),
        (true, Some("everysec")) => Finding::ok(
            CHECK,
            "append-only file, synchronised each second: a crash of Redis' machine may take back \
             the last second (a push lost, a finished job rendered again to the same bytes); \
             appendfsync always rules that out",
        ),
        (true, Some(other)) => Finding::warn(
            CHECK,
            format!(
                "append-only file, appendfsync {other}: a crash of Redis' machine may take back \
                 what the kernel had not written, half a minute and more"
            ),
            "CONFIG SET appendfsync everysec, and the same in redis.conf",
        ),
        (true, None) => Finding::ok(
            CHECK,
            "append-only file; how often it is synchronised may not be asked here: everysec can \
             lose a second, always nothing",
        ),
        (false, _) if snapshots => Finding::warn(
            CHECK,
            "snapshots only: when Redis ends abruptly, all jobs since the last snapshot are lost",
            ON,
        ),
        (false, _) if facts.save.is_none() => Finding::warn(
            CHECK,
            "no append-only file, and snapshots may not be asked about: jobs can be lost when \
             Redis restarts",
            "switch the append-only file on where this Redis is managed",
        ),
        (false, _) => Finding::fail(
            CHECK,
            "nothing is kept on disk: when Redis restarts, every job is lost",
            ON,
        ),
    }
}

fn eviction(facts: &Facts) -> Finding {
    const CHECK: &str = "redis.eviction";
    const REMEDY: &str = "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf; give \
                          a cache a Redis of its own";
    let policy = &facts.policy;
    if policy == "noeviction" {
        Finding::ok(CHECK, "noeviction: when it is full, pushes are refused, jobs stay")
    } else if policy.is_empty() {
        Finding::warn(CHECK, "the policy may not be asked here", "see that it is noeviction")
    } else if facts.maxmemory == 0 {
        let what = format!("{policy}: harmless only as long as no maxmemory is set");
        Finding::warn(CHECK, what, REMEDY)
    } else if policy.starts_with("volatile") {
        let what = format!("{policy}: when it is full, unread replies and stored PDFs vanish");
        Finding::fail(CHECK, what, REMEDY)
    } else {
        let what = format!("{policy}: when it is full, jobs and documents vanish without a trace");
        Finding::fail(CHECK, what, REMEDY)
    }
}

fn memory(facts: &Facts) -> Finding {
    const CHECK: &str = "redis.memory";
    let Facts { used, maxmemory, machine, .. } = *facts;
    if maxmemory == 0 {
        let of = if machine > 0 {
            format!(" of the machine's {}", show_bytes(machine))
        } else {
            String::new()
        };
        return Finding::warn(
            CHECK,
            format!(
                "{} used{of}, no maxmemory: it grows until its machine has none left",
                show_bytes(used)
            ),
            "CONFIG SET maxmemory to what it may take, for instance 1gb, and the same in redis.conf",
        );
    }
    let what = format!("{} used of {}", show_bytes(used), show_bytes(maxmemory));
    let remedy = "raise maxmemory, start more workers, or remove what is not needed; tillroll \
                  status shows what waits";
    if used >= maxmemory {
        Finding::fail(CHECK, format!("{what}: full, pushes are refused"), remedy)
    } else if used / 4 >= maxmemory / 5 {
        Finding::warn(CHECK, format!("{what}: nearly full"), remedy)
    } else {
        Finding::ok(CHECK, what)
    }
}

fn clock(facts: &Facts) -> Finding {
    const CHECK: &str = "redis.clock";
    let off = facts.clock_off_ms;
    if off.unsigned_abs() <= 1000 {
        return Finding::ok(CHECK, format!("{off:+} ms against this machine's"));
    }
    Finding::warn(
        CHECK,
        format!(
            "{:+.1} s against this machine's: jobs go by Redis' clock alone, but log lines of the \
             two machines do not match",
            Duration::from_millis(off.unsigned_abs()).as_secs_f64().copysign(if off < 0 {
                -1.0
            } else {
                1.0
            })
        ),
        "switch time synchronisation on, on both machines (timedatectl set-ntp true)",
    )
}

fn others(scan: &Scan) -> Finding {
    const CHECK: &str = "redis.keys";
    let of = if scan.is_complete {
        String::new()
    } else {
        format!(" (looked at {} of {})", scan.looked, scan.size)
    };
    let Some(example) = &scan.example else {
        return Finding::ok(CHECK, format!("no keys but Tillroll's in this database{of}"));
    };
    let example: String = example.chars().take(60).collect();
    Finding::warn(
        CHECK,
        format!(
            "{} of others in this database{of}, such as {example:?}: a FLUSHDB meant for them \
             takes every job as well",
            super::count(scan.foreign as u64, "key")
        ),
        "give Tillroll a database of its own (redis://HOST/1), better a Redis of its own",
    )
}

fn lost(key: &str, length: u64) -> Finding {
    let prefix: String =
        key.split("tillroll:{").next().unwrap_or_default().chars().take(60).collect();
    Finding::fail(
        "redis.lost_inbox",
        format!(
            "{} in {key:?}, which nobody reads: a client pushes with the key prefix {prefix:?}",
            super::count(length, "job")
        ),
        format!(
            "switch the prefix off for this connection (Laravel: options.prefix = '' in \
             config/database.php; ioredis: no keyPrefix), then move the jobs: RPOPLPUSH {key} and \
             the inbox without the prefix, once for each"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    fn sound() -> Facts {
        Facts {
            version: "7.0.15".into(),
            policy: "noeviction".into(),
            maxmemory: 1 << 30,
            used: 1 << 20,
            aof: true,
            appendfsync: Some("always".into()),
            save: Some(String::new()),
            scan: Scan { is_complete: true, ..Scan::default() },
            ..Facts::default()
        }
    }

    fn found(facts: &Facts, check: &str) -> Finding {
        judge(facts).into_iter().find(|finding| finding.check == check).unwrap()
    }

    #[test]
    fn a_sound_redis_passes() {
        let findings = judge(&sound());
        assert!(findings.iter().all(|finding| finding.verdict == Verdict::Ok), "{findings:?}");
    }

    #[test]
    fn each_mode_of_persistence_is_named_with_what_it_means() {
        let mode = |aof, appendfsync: Option<&str>, save: Option<&str>| {
            let appendfsync = appendfsync.map(str::to_owned);
            let facts = Facts { aof, appendfsync, save: save.map(str::to_owned), ..sound() };
            found(&facts, "redis.persistence")
        };
        assert!(mode(true, Some("always"), None).what.contains("no admitted job is lost"));
        assert!(mode(true, Some("everysec"), None).what.contains("the last second"));
        assert_eq!(mode(true, Some("no"), None).verdict, Verdict::Warn);
        assert_eq!(mode(false, None, Some("3600 1")).verdict, Verdict::Warn);
        assert_eq!(mode(false, None, None).verdict, Verdict::Warn);
        let none = mode(false, Some("everysec"), Some(""));
        assert_eq!(none.verdict, Verdict::Fail);
        assert!(none.what.contains("every job is lost"));
        assert!(none.remedy.unwrap().contains("appendonly yes"));
        let failing = Facts { failing: Some("aof_last_write_status".into()), ..sound() };
        assert_eq!(found(&failing, "redis.persistence").verdict, Verdict::Fail);
    }

    #[test]
    fn an_evicting_redis_fails() {
        let policy = |policy: &str, maxmemory| {
            found(&Facts { policy: policy.into(), maxmemory, ..sound() }, "redis.eviction").verdict
        };
        assert_eq!(policy("allkeys-lru", 1 << 30), Verdict::Fail);
        assert_eq!(policy("volatile-ttl", 1 << 30), Verdict::Fail);
        assert_eq!(policy("allkeys-lru", 0), Verdict::Warn);
    }

    #[test]
    fn memory_is_free_scarce_or_gone() {
        let used = |used| found(&Facts { used, ..sound() }, "redis.memory").verdict;
        assert_eq!(used(500 << 20), Verdict::Ok);
        assert_eq!(used(900 << 20), Verdict::Warn);
        assert_eq!(used(1 << 30), Verdict::Fail);
        assert_eq!(
            found(&Facts { maxmemory: 0, ..sound() }, "redis.memory").verdict,
            Verdict::Warn
        );
    }

    #[test]
    fn keys_of_others_and_lost_inboxes_are_named() {
        let scan = Scan {
            foreign: 3,
            example: Some("laravel_cache:x".into()),
            lost: vec![("laravel_database_tillroll:{receipts}:in".into(), 2)],
            ..sound().scan
        };
        let facts = Facts { scan, ..sound() };
        let others = found(&facts, "redis.keys");
        assert_eq!(others.verdict, Verdict::Warn);
        assert!(others.what.contains("FLUSHDB") && others.what.contains("laravel_cache:x"));
        let lost = found(&facts, "redis.lost_inbox");
        assert_eq!(lost.verdict, Verdict::Fail);
        assert!(lost.what.contains("2 jobs in") && lost.what.contains("\"laravel_database_\""));
    }

    #[test]
    fn versions_clocks_and_refused_writes() {
        let version = |version: &str, is_valkey| {
            let facts = Facts { version: version.into(), is_valkey, ..sound() };
            found(&facts, "redis.version").verdict
        };
        assert_eq!(version("5.0.14", false), Verdict::Fail);
        assert_eq!(version("6.0.0", false), Verdict::Ok);
        assert_eq!(version("7.2.4", true), Verdict::Ok);
        let clock = found(&Facts { clock_off_ms: -90_500, ..sound() }, "redis.clock");
        assert!(clock.what.starts_with("-90.5 s"), "{}", clock.what);
        let write = |facts: Facts| {
            found(&Facts { write: Some("READONLY".into()), ..facts }, "redis.write").what
        };
        assert!(write(Facts { is_replica: true, ..sound() }).contains("replica"));
        assert!(write(sound()).contains("READONLY"));
    }
}
