//! The permissions that docs/operations.md gives to producers, workers and
//! operators: exactly those commands are run here, and then they must be enough
//! and no more.

use std::process::Command;

use redis::aio::MultiplexedConnection;
use redis::{IntoConnectionInfo, RedisResult, Value, cmd};
use tillroll::client::{Client, Receipt};
use tillroll::failure::Class;
use tillroll::job::Name;
use tillroll::job::Priority::{Bulk, Interactive};
use tillroll::queue::QueueError;
use tillroll::worker::Stop;

use crate::support::rig::{PATIENCE, done};
use crate::support::{Rig, Running, Scripted, document, expect_claim};

const GUIDE: &str = include_str!("../../../docs/operations.md");

/// The text of one of the guide's commands.
fn command(of: &str) -> &'static str {
    let mark = format!("<!-- acl: {of} -->\n```\n");
    let start = GUIDE.find(&mark).unwrap_or_else(|| panic!("no {mark}")) + mark.len();
    GUIDE[start..].split("```").next().unwrap()
}

/// Runs it in a shell, as somebody who copied it would.
fn run(rig: &Rig, text: &str) {
    let port = rig.server.port();
    let here = format!("redis-cli() {{ command redis-cli -e -p {port} \"$@\"; }}\n{text}");
    let ran = Command::new("bash").args(["-ec", &here]).output().unwrap();
    assert!(ran.status.success(), "{text}\n{ran:?}");
    assert_eq!(String::from_utf8_lossy(&ran.stdout).trim(), "OK", "{text}");
}

fn producer_of(rig: &Rig) -> String {
    run(rig, command("producer"));
    format!("redis://shop:PRODUCER-PASSWORD@127.0.0.1:{}", rig.server.port())
}

fn worker_of(rig: &Rig) -> String {
    run(rig, command("worker"));
    format!("redis://tillroll:WORKER-PASSWORD@127.0.0.1:{}", rig.server.port())
}

struct Hands(MultiplexedConnection);

impl Hands {
    async fn of(url: &str) -> Self {
        let info = url.into_connection_info().unwrap();
        // Which of our producers' clients say this of themselves is their business.
        let settings = info.redis_settings().clone().set_skip_set_lib_name();
        let client = redis::Client::open(info.set_redis_settings(settings)).unwrap();
        Self(client.get_multiplexed_async_connection().await.unwrap())
    }

    async fn try_it(&mut self, parts: &[&str]) -> RedisResult<Value> {
        let mut command = cmd(parts[0]);
        for part in &parts[1..] {
            command.arg(part);
        }
        command.query_async(&mut self.0).await
    }

    async fn refused(&mut self, parts: &[&str]) {
        let error = match self.try_it(parts).await {
            Ok(answer) => panic!("{parts:?}: {answer:?}"),
            Err(error) => error,
        };
        assert_eq!(error.code(), Some("NOPERM"), "{parts:?}: {error}");
        assert_eq!(QueueError::from(error).kind(), "refused");
    }
}

#[tokio::test]
async fn a_producer_can_do_its_whole_contract() {
    let rig = Rig::new();
    let url = producer_of(&rig);
    let worker = Running::start(&rig, "w1", &Scripted::open(), 2).await;
    // By hand, as docs/protocol.md has it.
    let mut hands = Hands::of(&url).await;
    for (inbox, id) in [(Interactive, "by-hand"), (Bulk, "in-bulk")] {
        let element = String::from_utf8(document("acme", id, "<p>")).unwrap();
        hands.try_it(&["LPUSH", &rig.keys.inbox(inbox), &element]).await.unwrap();
        let reply = rig.keys.reply(&Name::parse(&format!("acme/{id}")).unwrap());
        let read = hands.try_it(&["BRPOPLPUSH", &reply, &reply, "25"]).await.unwrap();
        assert_ne!(read, Value::Nil);
        assert_ne!(hands.try_it(&["BRPOP", &reply, "25"]).await.unwrap(), Value::Nil);
        assert_eq!(hands.try_it(&["BLPOP", &reply, "0.01"]).await.unwrap(), Value::Nil);
    }
    let asked = b"{\"id\":\"listed\",\"reply_to\":\"mailer\"}\n<p>listed";
    rig.push(Interactive, asked).await;
    let replies = format!("{}replies:mailer", rig.keys.prefix());
    assert_ne!(hands.try_it(&["BRPOP", &replies, "25"]).await.unwrap(), Value::Nil);
    // Through the library, whose pool looks at a connection before it gives it out again.
    let client = Client::new(url, "receipts", 1).unwrap();
    for (id, stored) in [("first", false), ("second", true)] {
        let mut receipt = Receipt::new(format!("<p>{id}")).tenant("acme").id(id);
        if stored {
            let ttl = std::time::Duration::from_secs(60);
            receipt = receipt.output(tillroll::client::Output::Stored { ttl });
        }
        let element = receipt.element().unwrap();
        client.send(&element).await.unwrap();
        client.read(element.name(), PATIENCE).await.unwrap().unwrap();
        let answer = client.take(element.name(), PATIENCE).await.unwrap().unwrap();
        let reply = answer.reply().unwrap();
        let pdf = client.pdf(answer, &reply).await.unwrap();
        assert_eq!(pdf, Some(Scripted::pdf(&format!("<p>{id}"))));
    }
    let none = client.take(&Name::parse("acme/none").unwrap(), std::time::Duration::ZERO).await;
    assert!(none.unwrap().is_none());
    worker.stop(Stop::Drain).await;
    let log: Vec<Value> = rig.ask(&["ACL", "LOG"]).await;
    assert_eq!(log, Vec::new(), "nothing was refused on the way");
}

#[tokio::test]
async fn a_producer_can_do_nothing_else() {
    let rig = Rig::new();
    let mut hands = Hands::of(&producer_of(&rig)).await;
    let queue = rig.queue("w1").await;
    rig.admit(&queue, &document("acme", "r-1", "<p>")).await;
    let name = Name::parse("acme/r-1").unwrap();
    let keys = &rig.keys;
    let (job, document) = (keys.job(&name), keys.document(&name));
    let inbox = keys.inbox(Interactive);
    let control = keys.control("w1");
    for parts in [
        &["KEYS", "*"][..],
        &["SCAN", "0"],
        &["FLUSHDB"],
        &["FLUSHALL"],
        &["CONFIG", "GET", "*"],
        &["EVAL", "return 1", "0"],
        &["SCRIPT", "FLUSH"],
        &["ACL", "LIST"],
        &["MONITOR"],
        &["SHUTDOWN", "NOSAVE"],
        &["REPLICAOF", "NO", "ONE"],
        &["DEL", &inbox],
        &["LRANGE", &inbox, "0", "-1"],
        &["HGETALL", &job],
        &["GET", &job],
        &["GET", &document],
        &["LPOP", &document],
        &["RPOPLPUSH", &document, &keys.reply(&name)],
        &["LPUSH", &control, "{\"command\":\"drain\"}"],
        &["LPUSH", &keys.bell(Interactive), "1"],
        &["LPUSH", &keys.stage(Interactive, "w1"), "x"],
        &["XREAD", "STREAMS", &keys.events(), "0"],
        &["SET", &keys.pdf(&name), "false"],
        &["HSET", &keys.asset("acme"), "logo.png", "x"],
        &["HGETALL", &keys.asset("acme")],
        &["LPUSH", "tillroll:{other}:in", "x"],
        &["GET", "session:1"],
        &["SELECT", "1"],
        &["PUBLISH", "news", "x"],
        &["SUBSCRIBE", "news"],
    ] {
        hands.refused(parts).await;
    }
    assert_eq!(expect_claim(&queue).await.lease.name(), &name, "and nothing has happened");
}

#[tokio::test]
async fn a_worker_works_with_its_permissions() {
    let rig = Rig::new();
    let url = worker_of(&rig);
    let renderer = Scripted::open();
    renderer.fail("<p>again", &[Class::Dependency]);
    renderer.fail("<p>bad", &[Class::Input]);
    let worker =
        Running::on(Rig::queue_at(url.as_str(), "w1", PATIENCE).await, &renderer, 2, PATIENCE);
    rig.push(Interactive, b"no header").await;
    rig.push(Bulk, b"{\"id\":\"late\",\"delay_ms\":300}\n<p>late").await;
    rig.push(Bulk, b"{\"id\":\"kept\",\"output\":{\"kind\":\"stored\"}}\n<p>kept").await;
    rig.push(Interactive, b"{\"id\":\"listed\",\"reply_to\":\"mailer\"}\n<p>listed").await;
    for id in ["good", "again", "bad"] {
        rig.push(Interactive, &document("acme", id, &format!("<p>{id}"))).await;
    }
    for (name, status) in [
        ("acme/good", "done"),
        ("acme/again", "done"),
        ("acme/bad", "dead"),
        ("default/late", "done"),
        ("default/kept", "done"),
    ] {
        assert_eq!(rig.reply(name).await.status(), status, "{name}");
    }
    assert_eq!(rig.reply_to("mailer").await.status(), "done");
    // What is taken over from others, and what the other commands need.
    let queue = Rig::queue_at(url.as_str(), "w2", PATIENCE).await;
    queue.housekeep(true).await.unwrap();
    queue.counts().await.unwrap();
    queue.stock("acme").await.unwrap();
    queue.workers().await.unwrap();
    queue.control("w1", "{\"command\":\"scale\",\"slots\":1}").await.unwrap();
    let client = Client::new(url, "receipts", 1).unwrap();
    client.events_after("0", PATIENCE).await.unwrap();
    worker.stop(Stop::Drain).await;
    rig.admit(&queue, &document("acme", "direct", "<p>")).await;
    let claimed = expect_claim(&queue).await;
    queue.finish(&claimed.lease, &done(b"%PDF"), None).await.unwrap();
    let log: Vec<Value> = rig.ask(&["ACL", "LOG"]).await;
    assert_eq!(log, Vec::new(), "nothing was refused on the way");
}

#[test]
fn a_worker_may_do_whatever_the_queue_does() {
    let permitted: Vec<_> = command("worker")
        .split_whitespace()
        .filter_map(|word| word.trim_matches('\'').strip_prefix('+'))
        .map(str::to_uppercase)
        .collect();
    // The embedded server's, and the operators'.
    let others = ["CONFIG", "MEMORY"];
    let used = crate::queue::commands::used();
    let missing: Vec<_> = used
        .iter()
        .filter(|used| !permitted.contains(used) && !others.contains(&used.as_str()))
        .collect();
    assert!(missing.is_empty(), "add these to the worker's line in the guide: {missing:?}");
}

#[tokio::test]
async fn a_worker_reaches_nothing_outside_of_its_queue() {
    let rig = Rig::new();
    let mut hands = Hands::of(&worker_of(&rig)).await;
    for parts in [
        &["GET", "session:1"][..],
        &["LPUSH", "tillroll:{other}:in", "x"],
        &["FLUSHDB"],
        &["KEYS", "*"],
        &["CONFIG", "SET", "dir", "/"],
        &["ACL", "LIST"],
        &["SCRIPT", "FLUSH"],
        &["REPLICAOF", "NO", "ONE"],
        &["SHUTDOWN", "NOSAVE"],
        &["MONITOR"],
    ] {
        hands.refused(parts).await;
    }
    let script = "return redis.call('GET', 'session:1')";
    let error = hands.try_it(&["EVAL", script, "0"]).await.unwrap_err();
    assert!(error.to_string().contains("can't access at least one of the keys"), "{error}");
}

#[tokio::test]
async fn an_operator_can_look_at_everything() {
    let rig = Rig::new();
    let url = worker_of(&rig);
    run(&rig, command("operator"));
    let queue = rig.queue("w1").await;
    rig.admit(&queue, &document("acme", "r-1", "<p>")).await;
    for arguments in [&["status"][..], &["job", "show", "acme/r-1"], &["doctor"]] {
        let ran = Command::new(env!("CARGO_BIN_EXE_tillroll"))
            .args(arguments)
            .env("REDIS_URL", &url)
            .env("HOME", rig.server.path(""))
            .output()
            .unwrap();
        let shown = format!("{ran:?}");
        // The machine may lack something else that doctor wants.
        assert!(ran.status.success() || arguments[0] == "doctor", "{arguments:?}: {shown}");
        assert!(!shown.contains("NOPERM") && !shown.contains("WORKER-PASSWORD"), "{shown}");
    }
    let log: Vec<Value> = rig.ask(&["ACL", "LOG"]).await;
    assert_eq!(log, Vec::new(), "nothing was refused on the way");
}

#[tokio::test]
async fn a_queue_is_checked_mended_and_emptied_with_these_permissions() {
    let rig = Rig::new();
    let url = worker_of(&rig);
    let queue = Rig::queue_at(url.as_str(), "w1", PATIENCE).await;
    queue.renew(&[], "{}").await.unwrap();
    rig.admit_many(&queue, Interactive, ("acme", "r"), 4).await;
    rig.admit(&queue, b"{\"id\":\"later\",\"tenant\":\"acme\",\"delay_ms\":3600000}\n<p>").await;
    queue.finish(&expect_claim(&queue).await.lease, &done(b"%PDF"), None).await.unwrap();
    assert!(queue.fsck(false).await.unwrap().is_clean());
    let name = |text| Name::parse(text).unwrap();
    let keys = &rig.keys;
    for broken in [
        keys.ring(Interactive),
        keys.tenants(),
        keys.state(),
        keys.job(&name("acme/r-1")),
        keys.document(&name("acme/r-2")),
        keys.delayed(),
        keys.document(&name("acme/later")),
    ] {
        assert_eq!(rig.ask::<u64>(&["DEL", &broken]).await, 1, "{broken}");
    }
    assert!(queue.fsck(false).await.unwrap().unmended() > 5);
    assert_eq!(queue.fsck(true).await.unwrap().unmended(), 0);
    // What is not counted is measured: operators may do that.
    assert_eq!(rig.ask::<u64>(&["DEL", &keys.held()]).await, 1);
    run(&rig, command("operator"));
    let logo = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/assets/logo.png");
    for arguments in [
        &["queue", "fsck", "--repair"][..],
        &["queue", "fsck"],
        &["asset", "put", "--tenant", "acme", logo],
        &["asset", "put", "--tenant", "zeta", logo],
        &["asset", "ls"],
        &["asset", "rm", "--tenant", "zeta", "logo.png"],
        &["queue", "fsck", "--repair"],
        &["tenant", "forget", "acme", "--job", "r-3", "--yes"],
        &["tenant", "forget", "acme", "--yes"],
        &["queue", "fsck"],
    ] {
        let ran = Command::new(env!("CARGO_BIN_EXE_tillroll"))
            .args(arguments)
            .env("REDIS_URL", &url)
            .env("HOME", rig.server.path(""))
            .output()
            .unwrap();
        assert!(ran.status.success(), "{arguments:?}: {ran:?}");
    }
    assert!(!rig.exists(&keys.job(&name("acme/r-0"))).await);
    let log: Vec<Value> = rig.ask(&["ACL", "LOG"]).await;
    assert_eq!(log, Vec::new(), "nothing was refused on the way");
}
