//! Redis, measured: what it says of itself, how it answers, whether it takes a
//! write, what else is in the database. Judged in [`super::redis_judge`].

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::aio::MultiplexedConnection;
use redis::{InfoDict, RedisResult, Script, cmd};
use tokio::time::Instant;

use crate::cli::Session;
use crate::job::Priority;
use crate::queue::embedded::{self, EmbeddedError};
use crate::queue::{Address, Keys, QueueError};

use super::finding::Finding;
use super::redis_judge::{Facts, Scan, judge};

/// How long Redis may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many keys are looked at, so that a large database is not walked through.
const SCANNED: usize = 20_000;
/// And how long.
const SCAN_TIME: Duration = Duration::from_secs(3);

pub(super) async fn check(session: &Session) -> Vec<Finding> {
    const CHECK: &str = "redis";
    let config = &session.loaded.config;
    let Some(named) = &config.redis.url else {
        return vec![Finding::warn(
            CHECK,
            "no Redis is named: `tillroll render` works, the queue does not",
            "give --redis URL, or --redis embedded for a private one",
        )];
    };
    let address = if named.is_embedded() {
        match embedded::find(&config.state.dir) {
            Ok(url) => Address::from(url),
            Err(EmbeddedError::NoneRuns { .. }) => return vec![startable(session).await],
            Err(error) => {
                return vec![Finding::fail(CHECK, crate::worker::chain(&error), error.remedy())];
            }
        }
    } else {
        Address::new(named.expose(), session.tls_files())
    };
    let measured = match address.connect(PATIENCE, PATIENCE).await {
        Ok(redis) => {
            let keys = Keys::new(config.queue.name.as_str());
            measure(redis, &keys).await.map_err(QueueError::from)
        }
        Err(error) => Err(error),
    };
    match measured {
        Ok(facts) => judge(&facts),
        Err(error) => {
            let what = format!("{named}: {}", crate::worker::chain(&error));
            vec![Finding::fail(CHECK, what, error.remedy())]
        }
    }
}

/// The embedded Redis does not run: could a worker start it?
async fn startable(session: &Session) -> Finding {
    match embedded::server_version(&session.server_dirs()).await {
        Ok(version) => Finding::ok(
            "redis",
            format!("embedded, not running now; the worker will start redis-server {version}"),
        ),
        Err(error) => Finding::fail("redis", error.to_string(), error.remedy()),
    }
}

async fn measure(mut redis: MultiplexedConnection, keys: &Keys) -> RedisResult<Facts> {
    let info: InfoDict = cmd("INFO").query_async(&mut redis).await?;
    let (clock_off_ms, round_trip) = clock(&mut redis).await?;
    let text = |field: &str| info.get::<String>(field).unwrap_or_default();
    let number = |field: &str| info.get::<u64>(field).unwrap_or_default();
    let is_valkey = text("server_name") == "valkey";
    let version = if is_valkey { text("valkey_version") } else { text("redis_version") };
    let write = write(&mut redis, keys).await.err().map(|error| error.to_string());
    let scan = scan(&mut redis, keys).await.unwrap_or_default();
    Ok(Facts {
        is_valkey,
        version,
        round_trip,
        clock_off_ms,
        maxmemory: number("maxmemory"),
        used: number("used_memory"),
        machine: number("total_system_memory"),
        policy: text("maxmemory_policy"),
        is_loading: number("loading") == 1,
        is_replica: text("role") == "slave",
        aof: number("aof_enabled") == 1,
        failing: failing(&info),
        appendfsync: setting(&mut redis, "appendfsync").await,
        save: setting(&mut redis, "save").await,
        write,
        scan,
    })
}

/// What its last attempts to write to disk failed at.
fn failing(info: &InfoDict) -> Option<String> {
    ["aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status"]
        .into_iter()
        .find(|field| info.get::<String>(field).is_some_and(|status| status == "err"))
        .map(str::to_owned)
}

/// Its clock minus ours, and how long it took to ask.
async fn clock(redis: &mut MultiplexedConnection) -> RedisResult<(i64, Duration)> {
    let ours = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (before, started) = (ours(), Instant::now());
    let (seconds, micros): (u64, u32) = cmd("TIME").query_async(redis).await?;
    let round_trip = started.elapsed();
    let theirs = Duration::from_secs(seconds) + Duration::from_micros(micros.into());
    let ours = before + round_trip / 2;
    let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    Ok((millis(theirs) - millis(ours), round_trip))
}

/// A setting; `None` where it may not be asked (a managed Redis).
async fn setting(redis: &mut MultiplexedConnection, name: &str) -> Option<String> {
    let found: BTreeMap<String, String> =
        cmd("CONFIG").arg("GET").arg(name).query_async(redis).await.ok()?;
    found.get(name).cloned()
}

/// Writes a key and deletes it, in a script as the worker's are.
async fn write(redis: &mut MultiplexedConnection, keys: &Keys) -> RedisResult<()> {
    let script = Script::new(
        "redis.call('SET', KEYS[1], '1', 'PX', 1000) return redis.call('DEL', KEYS[1])",
    );
    let key = format!("{}doctor:{:08x}", keys.prefix(), rand::random::<u32>());
    script.key(key).invoke_async::<u64>(redis).await.map(drop)
}

/// Looks through the names of keys, a bounded number of them.
async fn scan(redis: &mut MultiplexedConnection, keys: &Keys) -> RedisResult<Scan> {
    let give_up = Instant::now() + SCAN_TIME;
    let inboxes = [keys.inbox(Priority::Interactive), keys.inbox(Priority::Bulk)];
    let mut scan = Scan { size: cmd("DBSIZE").query_async(redis).await?, ..Scan::default() };
    let mut lost = Vec::new();
    let mut cursor = 0_u64;
    loop {
        let (next, names): (u64, Vec<Vec<u8>>) =
            cmd("SCAN").arg(cursor).arg("COUNT").arg(500).query_async(redis).await?;
        scan.looked += names.len();
        for name in names {
            let name = String::from_utf8_lossy(&name).into_owned();
            if inboxes.iter().any(|inbox| name != *inbox && name.ends_with(inbox)) {
                lost.push(name);
            } else if !name.starts_with("tillroll:{") {
                scan.foreign += 1;
                scan.example.get_or_insert(name);
            }
        }
        cursor = next;
        if cursor == 0 || scan.looked >= SCANNED || Instant::now() >= give_up {
            break;
        }
    }
    scan.is_complete = cursor == 0;
    // SCAN may name a key twice.
    lost.sort();
    lost.dedup();
    for name in lost {
        // Of another type it is no inbox, whatever its name.
        if let Ok(length) = cmd("LLEN").arg(&name).query_async(redis).await {
            scan.lost.push((name, length));
        }
    }
    Ok(scan)
}
