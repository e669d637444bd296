//! `queue fsck` and `tenant forget`, as an operator runs them.

use redis::Commands;

use crate::command_line::{assert_fails, run, stderr};
use crate::json::{assert_schema, json};
use crate::redis_server::RedisServer;
use crate::support::{PREFIX, Worker, connect, element, tillroll};

#[test]
fn fsck_says_what_is_broken_and_mends_it() {
    let server = RedisServer::volatile();
    let url = server.url();
    let _worker = Worker::start(&url, &["--renderer", "null"]);
    let mut redis = connect(&url);
    let delayed = "{\"id\":\"later\",\"tenant\":\"acme\",\"delay_ms\":3600000}\n<p>";
    let _: i64 = redis.lpush(format!("{PREFIX}in"), delayed).unwrap();
    let _: i64 = redis.lpush(format!("{PREFIX}in"), element("acme", "r-1", "One")).unwrap();
    let _: Vec<Vec<u8>> = redis.blpop(format!("{PREFIX}reply:acme/r-1"), 30.0).unwrap();
    // The elder of the two was admitted before.
    let verb = |args: &[&str]| {
        let mut verb = tillroll();
        verb.args(["queue", "fsck", "--redis", &url]).args(args);
        verb
    };
    let whole = run(&mut verb(&[]));
    assert!(whole.status.success(), "{}", stderr(&whole));
    assert!(String::from_utf8_lossy(&whole.stdout).contains("nothing is broken"));

    let _: i64 = redis.del(format!("{PREFIX}delayed")).unwrap();
    let broken = run(&mut verb(&[]));
    assert_fails(&broken, 1, &["1 thing is broken", "--repair"]);
    assert!(String::from_utf8_lossy(&broken.stdout).contains("unlisted"));
    let seen = json(&mut verb(&[]));
    let mended = json(&mut verb(&["--repair"]));
    assert_eq!(mended["findings"][0]["examples"][0], "acme/later", "{mended}");
    assert_schema("queue fsck", &[seen, mended]);
    assert!(run(&mut verb(&["--repair"])).status.success());

    let _: i64 = redis.del(format!("{PREFIX}doc:acme/later")).unwrap();
    assert_fails(&run(&mut verb(&[])), 1, &["1 thing is broken", "--repair"]);
    assert!(run(&mut verb(&["--repair"])).status.success());
    let told: (String, String) = redis.blpop(format!("{PREFIX}reply:acme/later"), 30.0).unwrap();
    assert!(told.1.contains("body_lost"), "{}", told.1);
}

/// Every key, and everything that is in them, as Redis would write it to disk.
pub fn everything(redis: &mut redis::Connection) -> String {
    let mut text = String::new();
    for key in redis.keys::<_, Vec<String>>("*").unwrap() {
        let value: redis::Value = match redis.key_type::<_, String>(&key).unwrap().as_str() {
            "list" => redis.lrange(&key, 0, -1),
            "hash" => redis.hgetall(&key),
            "zset" => redis.zrange(&key, 0, -1),
            "set" => redis.smembers(&key),
            "stream" => redis::cmd("XRANGE").arg(&key).arg("-").arg("+").query(redis),
            _ => redis.get(&key),
        }
        .unwrap();
        text.push_str(&format!("{key}\t{value:?}\n"));
    }
    text
}

#[test]
fn nothing_names_a_tenant_that_was_forgotten() {
    let server = RedisServer::volatile();
    let url = server.url();
    let _worker = Worker::start(&url, &["--renderer", "null"]);
    let mut redis = connect(&url);
    let inbox = format!("{PREFIX}in");
    let jobs = [
        r#"{"id":"unread","tenant":"gone"}"#,
        r#"{"id":"later","tenant":"gone","delay_ms":3600000}"#,
        r#"{"id":"stored","tenant":"gone","output":{"kind":"stored"}}"#,
        r#"{"id":"mailed","tenant":"gone","reply_to":"mailer"}"#,
        r#"{"id":"wrong","tenant":"gone","format":"A4","reply_to":"mailer"}"#,
        r#"{"id":"unread","tenant":"stays"}"#,
    ];
    for job in jobs {
        let _: i64 = redis.lpush(&inbox, format!("{job}\n<p>x")).unwrap();
    }
    for key in ["reply:gone/unread", "reply:gone/stored", "reply:stays/unread"] {
        let key = format!("{PREFIX}{key}");
        let _: Vec<u8> = redis.brpoplpush(&key, &key, 30.0).unwrap();
    }
    let forget = |args: &[&str]| {
        let mut forget = tillroll();
        forget.args(["tenant", "forget", "--redis", &url]).args(args);
        forget
    };
    assert_fails(&run(&mut forget(&["gone"])), 2, &["no terminal", "--yes"]);
    assert_fails(&run(&mut forget(&["go/ne", "--yes"])), 2, &["no name of a tenant"]);
    assert!(everything(&mut redis).contains("gone/unread"));

    let one = json(&mut forget(&["gone", "--job", "unread", "--yes"]));
    assert_eq!((&one["jobs"], &one["results"]), (&1.into(), &1.into()), "{one}");
    let all = json(&mut forget(&["gone", "--yes"]));
    assert_eq!((&all["jobs"], &all["cancelled"]), (&3.into(), &1.into()), "{all}");

    // One whose worker says nothing, and has not lost it yet.
    let held = format!("{PREFIX}job:held/r");
    let fields = [("state", "leased"), ("worker", "other"), ("token", "t"), ("digest", "d")];
    let _: () = redis.hset_multiple(&held, &fields).unwrap();
    let until = 7_258_118_400_000_u64;
    let _: i64 = redis.zadd(format!("{PREFIX}leased"), "held/r", until).unwrap();
    let short = ["--set", "queue.lease=3s", "--set", "queue.heartbeat=500ms", "held", "--yes"];
    let waits = run(forget(&short).arg("--json"));
    assert_fails(&waits, 1, &["still run", "held/r"]);
    let waits = serde_json::from_slice(&waits.stdout).unwrap();
    assert_schema("tenant forget", &[one, all, waits]);
    let left = everything(&mut redis);
    assert!(!left.contains("gone"), "{left}");
    assert!(left.contains("reply:stays/unread"), "{left}");

    let again = run(&mut forget(&["gone", "--yes"]));
    assert!(again.status.success(), "{}", stderr(&again));
    let said = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(said.contains("0 jobs") && said.contains("BGREWRITEAOF"), "{said}");
}
