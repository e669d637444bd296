//! What `fsck` finds and mends: each kind of damage, made by hand.

use std::collections::BTreeMap;

use tillroll::job::Name;
use tillroll::job::Priority::{Bulk, Interactive};
use tillroll::queue::{Counters, Damage, FsckReport, Queue};
use tillroll::worker::Stop;

use crate::support::rig::{dead, done};
use crate::support::{Calls, Rig, Running, Scripted, document, expect_claim, under};

/// A queue with a job in every state: `acme/ready`, `acme/bulk`, `acme/leased`,
/// `acme/delayed`, `acme/due` (has a deadline), `acme/done`, `acme/dead`.
async fn every_state() -> (Rig, Queue) {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    queue.renew(&[], "{}").await.unwrap();
    for (id, ending) in [("done", done(b"%PDF")), ("dead", dead())] {
        rig.admit(&queue, &document("acme", id, "<p>")).await;
        queue.finish(&expect_claim(&queue).await.lease, &ending, None).await.unwrap();
    }
    rig.admit(&queue, &document("acme", "leased", "<p>")).await;
    expect_claim(&queue).await;
    for header in [
        r#"{"id":"ready","tenant":"acme"}"#,
        r#"{"id":"delayed","tenant":"acme","delay_ms":3600000}"#,
        r#"{"id":"due","tenant":"acme","deadline_ms":3600000}"#,
    ] {
        rig.admit(&queue, format!("{header}\n<p>").as_bytes()).await;
    }
    rig.admit_through(&queue, Bulk, &document("acme", "bulk", "<p>")).await;
    (rig, queue)
}

fn kinds(report: &FsckReport) -> BTreeMap<&'static str, u64> {
    report.findings.iter().map(|(kind, finding)| (kind.as_str(), finding.found)).collect()
}

/// Breaks the queue with one command, and expects these kinds to be found,
/// then mended, and then to be gone.
async fn breaks(command: &str, expected: &[&str]) -> (Rig, Queue) {
    let (rig, queue) = every_state().await;
    let command = command.replace("P:", rig.keys.prefix());
    let parts: Vec<&str> = command.split(' ').collect();
    rig.ask::<redis::Value>(&parts).await;
    let seen = queue.fsck(false).await.unwrap();
    let found: Vec<_> = kinds(&seen).into_keys().collect();
    assert_eq!(found, expected, "{command}: {seen:?}");
    assert_eq!(seen.unmended(), seen.findings.values().map(|finding| finding.found).sum::<u64>());
    // Looking changed nothing.
    assert_eq!(queue.fsck(false).await.unwrap(), seen, "{command}");
    let mended = queue.fsck(true).await.unwrap();
    assert_eq!(mended.unmended(), 0, "{command}: {mended:?}");
    let after = queue.fsck(false).await.unwrap();
    assert!(after.is_clean(), "{command}: {after:?}");
    rig.assert_consistent().await;
    (rig, queue)
}

#[tokio::test]
async fn a_whole_queue_has_nothing_to_mend() {
    let (rig, queue) = every_state().await;
    let report = queue.fsck(true).await.unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.counters, Counters::Compared);
    assert_eq!((report.jobs, report.tenants), (7, 1));
    rig.assert_consistent().await;
}

#[tokio::test]
async fn names_that_a_set_or_list_lost_come_back() {
    for command in [
        "ZREM P:leased acme/leased",
        "DEL P:leased",
        "DEL P:delayed",
        "DEL P:dead",
        "DEL P:deadlines",
        "LREM P:ready:interactive:acme 0 acme/ready",
    ] {
        breaks(command, &["unlisted"]).await;
    }
    // The whole list: the ring lost its reason as well.
    breaks("DEL P:ready:bulk:acme", &["ring", "unlisted"]).await;
    breaks("ZADD P:deadlines 5 acme/due", &["unlisted"]).await;
}

#[tokio::test]
async fn lost_jobs_come_back_in_the_order_of_their_admission() {
    let (rig, queue) = every_state().await;
    let key = rig.keys.ready(Interactive, "acme");
    let before: Vec<String> = rig.ask(&["LRANGE", &key, "0", "-1"]).await;
    for (age, name) in before.iter().enumerate() {
        let job = rig.keys.job(&Name::parse(name).unwrap());
        let _: i64 = rig.ask(&["HSET", &job, "admitted", &(1000 + age).to_string()]).await;
    }
    let _: i64 = rig.ask(&["DEL", &key]).await;
    queue.fsck(true).await.unwrap();
    assert_eq!(rig.ask::<Vec<String>>(&["LRANGE", &key, "0", "-1"]).await, before);
}

#[tokio::test]
async fn a_lost_delay_is_what_the_document_says() {
    let (rig, _queue) = breaks("ZREM P:delayed acme/delayed", &["unlisted"]).await;
    let due: u64 = rig.ask(&["ZSCORE", &rig.keys.delayed(), "acme/delayed"]).await;
    let admitted = rig.field("acme/delayed", "admitted").await.unwrap();
    assert_eq!(due, admitted.parse::<u64>().unwrap() + 3_600_000);
}

#[tokio::test]
async fn names_in_the_wrong_set_are_taken_out() {
    for command in [
        "ZADD P:leased 1 acme/ready",
        "ZADD P:leased 1 nobody/nothing",
        "ZADD P:delayed 1 acme/leased",
        "ZADD P:dead 1 acme/done",
        "ZADD P:deadlines 1 acme/dead",
    ] {
        breaks(command, &["misplaced"]).await;
    }
}

#[tokio::test]
async fn a_lease_that_nobody_can_settle_is_given_up() {
    for command in [
        "HDEL P:job:acme/leased token",
        "HDEL P:job:acme/leased worker",
        "HDEL P:job:acme/leased token worker",
    ] {
        let (rig, queue) = breaks(command, &["claim", "no_token"]).await;
        assert_eq!(rig.field("acme/leased", "attempts").await.as_deref(), Some("0"));
        assert_eq!(expect_claim(&queue).await.lease.name().to_string(), "acme/leased");
    }
}

#[tokio::test]
async fn claims_follow_leases() {
    breaks("DEL P:claims:w1", &["claim"]).await;
    breaks("HSET P:claims:w1 w1:99:0 acme/ready", &["claim"]).await;
    breaks("HSET P:claims:w7 w7:1:0 acme/gone", &["claim"]).await;
    breaks("HSET P:job:acme/ready token w1:7:0 worker w1", &["stray_token"]).await;
}

#[tokio::test]
async fn times_to_live_follow_the_state() {
    breaks("EXPIRE P:job:acme/ready 1000", &["ttl"]).await;
    breaks("EXPIRE P:doc:acme/leased 1000", &["ttl"]).await;
    breaks("EXPIRE P:job:acme/dead 1000", &["ttl"]).await;
    breaks("EXPIRE P:use:acme 1000", &["ttl"]).await;
    breaks("PERSIST P:job:acme/done", &["ttl"]).await;
    breaks("PERSIST P:reply:acme/done", &["result_ttl"]).await;
    breaks("RPUSH P:replies:mailer {}", &["result_ttl"]).await;
    breaks("SET P:out:w1:1:0 pdf", &["result_ttl"]).await;
    breaks("RPUSH P:history:acme/gone {}", &["orphan_history"]).await;
}

#[tokio::test]
async fn a_document_without_a_record_goes_back_to_its_inbox() {
    let (rig, queue) = every_state().await;
    for name in ["acme/bulk", "acme/leased", "acme/delayed"] {
        let _: i64 = rig.ask(&["DEL", &rig.keys.job(&Name::parse(name).unwrap())]).await;
    }
    let report = queue.fsck(true).await.unwrap();
    assert_eq!(report.findings[&Damage::OrphanDocument].mended, 3, "{report:?}");
    assert_eq!(report.unmended(), 0);
    assert!(queue.fsck(false).await.unwrap().is_clean());
    rig.assert_consistent().await;
    assert_eq!(rig.length(&rig.keys.inbox(Interactive)).await, 2);
    assert_eq!(rig.length(&rig.keys.inbox(Bulk)).await, 1, "its list said where it came from");
}

#[tokio::test]
async fn a_record_that_no_worker_can_read_is_made_anew() {
    for command in [
        "HDEL P:job:acme/ready max",
        "HSET P:job:acme/ready state nonsense",
        "HSET P:job:acme/ready attempts many",
        "HDEL P:job:acme/ready digest priority",
        "HDEL P:job:acme/dead bytes",
    ] {
        let (rig, queue) = every_state().await;
        let command = command.replace("P:", rig.keys.prefix());
        rig.ask::<i64>(&command.split(' ').collect::<Vec<_>>()).await;
        let report = queue.fsck(true).await.unwrap();
        assert!(report.findings.contains_key(&Damage::RecordBroken), "{command}: {report:?}");
        assert_eq!(rig.length(&rig.keys.inbox(Interactive)).await, 1, "{command}");
        assert!(queue.fsck(false).await.unwrap().is_clean(), "{command}");
        rig.assert_consistent().await;
    }
}

#[tokio::test]
async fn documents_of_ended_jobs_go() {
    breaks("RPUSH P:doc:acme/done x", &["stray_document"]).await;
}

#[tokio::test]
async fn a_waiting_job_whose_document_is_gone_ends_and_its_producer_is_told() {
    // Nothing is claimed meanwhile, and one of them is due in an hour.
    for waits in ["acme/ready", "acme/bulk", "acme/due", "acme/delayed"] {
        let (rig, queue) = breaks(&format!("DEL P:doc:{waits}"), &["body_missing"]).await;
        let answer = rig.reply(waits).await;
        assert_eq!((answer.status(), answer.code()), ("dead", "body_lost"), "{waits}");
        assert_eq!(rig.field(waits, "state").await.as_deref(), Some("dead"));
        let died = rig.events("dead").await.pop().unwrap();
        assert_eq!((died.0.as_str(), died.1.as_str()), (waits, "body_lost"));
        // The others are claimed as before; nobody gets this one.
        let name = Name::parse(waits).unwrap();
        while let Some(claim) = queue.claim(under(&queue.token())).await.unwrap() {
            assert_ne!(claim.lease.name(), &name);
            queue.finish(&claim.lease, &done(b"%PDF"), None).await.unwrap();
        }
        rig.assert_consistent().await;
    }
    // Its place in a list or set was lost as well.
    for (waits, rest) in
        [("acme/ready", "ready:interactive:acme acme/ready"), ("acme/delayed", "delayed")]
    {
        let (rig, queue) = every_state().await;
        let key = format!("{}{}", rig.keys.prefix(), rest.split(' ').next().unwrap());
        let document = rig.keys.document(&Name::parse(waits).unwrap());
        let _: i64 = rig.ask(&["DEL", &document, &key]).await;
        assert_eq!(queue.fsck(true).await.unwrap().unmended(), 0);
        assert!(queue.fsck(false).await.unwrap().is_clean());
        assert_eq!(rig.reply(waits).await.code(), "body_lost");
        rig.assert_consistent().await;
    }
}

#[tokio::test]
async fn lists_are_not_thrown_away_by_wrong_counters_when_a_lost_job_ends() {
    let (rig, queue) = every_state().await;
    let document = rig.keys.document(&Name::parse("acme/delayed").unwrap());
    let _: i64 = rig.ask(&["DEL", &document, &rig.keys.used_by("acme")]).await;
    assert_eq!(queue.fsck(true).await.unwrap().unmended(), 0);
    assert!(queue.fsck(false).await.unwrap().is_clean());
    assert_eq!(rig.reply("acme/delayed").await.code(), "body_lost");
    rig.assert_consistent().await;
    expect_claim(&queue).await;
}

#[tokio::test]
async fn a_running_job_whose_document_is_gone_is_left_to_its_worker() {
    let (rig, queue) = every_state().await;
    let _: i64 = rig.ask(&["DEL", &rig.keys.document(&Name::parse("acme/leased").unwrap())]).await;
    let report = queue.fsck(true).await.unwrap();
    assert_eq!(kinds(&report), BTreeMap::from([("body_missing", 1)]));
    assert_eq!(report.unmended(), 1);
    assert_eq!(report.findings[&Damage::BodyMissing].examples, ["acme/leased"]);
    // Its worker is gone.
    rig.expire_lease("acme/leased").await;
    let worker = Running::start(&rig, "w2", &Scripted::open(), 1).await;
    assert_eq!(rig.reply("acme/leased").await.code(), "body_lost");
    worker.stop(Stop::Drain).await;
    assert!(queue.fsck(false).await.unwrap().is_clean());
}

#[tokio::test]
async fn tenants_take_their_turn_again() {
    breaks("ZADD P:ring:interactive 1 idle", &["ring"]).await;
    breaks("SADD P:broken acme", &["breaker"]).await;
    breaks("ZREM P:tenants acme", &["tenant_unlisted"]).await;
    breaks("RPUSH P:bell 1 1 1", &["bell"]).await;
}

#[tokio::test]
async fn a_lost_ring_is_put_together_again() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit(&queue, &document("acme", "r", "<p>")).await;
    rig.admit_through(&queue, Bulk, &document("zeta", "r", "<p>")).await;
    rig.ask::<i64>(&["DEL", &rig.keys.ring(Interactive), &rig.keys.ring(Bulk)]).await;
    assert_eq!(kinds(&queue.fsck(false).await.unwrap()), BTreeMap::from([("ring", 2)]));
    assert_eq!(queue.fsck(true).await.unwrap().unmended(), 0);
    rig.assert_consistent().await;
    // While one of its jobs runs the tenant may be there or not; a repair puts it there.
    let (rig, queue) = every_state().await;
    rig.ask::<i64>(&["DEL", &rig.keys.ring(Interactive)]).await;
    assert!(queue.fsck(true).await.unwrap().is_clean());
    rig.assert_consistent().await;
}

#[tokio::test]
async fn a_tenant_that_may_not_run_more_stays_out_of_the_ring() {
    let (rig, queue) = every_state().await;
    let change = tillroll::queue::operate::TenantChange {
        state: Some(tillroll::queue::State::Paused),
        ..Default::default()
    };
    queue.change_tenant("acme", &change).await.unwrap();
    assert!(queue.fsck(true).await.unwrap().is_clean());
    let (ring, tenant) = (rig.keys.ring(Interactive), "acme");
    let _: i64 = rig.ask(&["ZADD", &ring, "1", tenant]).await;
    assert_eq!(kinds(&queue.fsck(true).await.unwrap()), BTreeMap::from([("ring", 1)]));
    assert_eq!(rig.ask::<Option<f64>>(&["ZSCORE", &ring, tenant]).await, None);
}

#[tokio::test]
async fn counters_say_what_is_there_again() {
    for command in [
        "HINCRBY P:state jobs 7",
        "HINCRBY P:state bytes -30",
        "HINCRBY P:state dead_bytes 1",
        "HINCRBY P:state held -1",
        "HINCRBY P:use:acme jobs 1",
        "HINCRBY P:use:acme bytes 1",
        "DEL P:use:acme",
        "HSET P:use:idle jobs 3 bytes 5",
    ] {
        let also = if command.contains("idle") {
            vec!["counter", "tenant_unlisted"]
        } else {
            vec!["counter"]
        };
        breaks(command, &also).await;
    }
    // It seems to run as many as it may: nothing of it is started.
    let (rig, queue) = every_state().await;
    let change = tillroll::queue::operate::TenantChange { running: Some(2), ..Default::default() };
    queue.change_tenant("acme", &change).await.unwrap();
    let used = rig.keys.used_by("acme");
    let _: i64 = rig.ask(&["HSET", &used, "running", "9"]).await;
    let ring = rig.keys.ring(Interactive);
    let _: i64 = rig.ask(&["ZREM", &ring, "acme"]).await;
    queue.fsck(true).await.unwrap();
    assert_eq!(rig.ask::<i64>(&["HGET", &used, "running"]).await, 1);
    assert!(queue.fsck(false).await.unwrap().is_clean());
    expect_claim(&queue).await;
}

#[tokio::test]
async fn a_queue_without_any_counters_gets_them_back() {
    let (rig, queue) = every_state().await;
    let _: i64 = rig.ask(&["DEL", &rig.keys.state(), &rig.keys.used_by("acme")]).await;
    let report = queue.fsck(true).await.unwrap();
    assert_eq!(kinds(&report), BTreeMap::from([("counter", 7)]), "{report:?}");
    rig.assert_consistent().await;
}

#[tokio::test]
async fn results_are_counted_while_they_are_there() {
    breaks("HDEL P:held reply:acme/done", &["counter", "result_uncounted"]).await;
    // Nobody keeps house: the worker fell silent.
    let (rig, queue) = every_state().await;
    queue.leave().await.unwrap();
    rig.reply("acme/done").await;
    let report = queue.fsck(true).await.unwrap();
    assert_eq!(kinds(&report), BTreeMap::from([("result_gone", 1)]), "{report:?}");
    assert!(queue.fsck(false).await.unwrap().is_clean());
    rig.assert_consistent().await;
}

#[tokio::test]
async fn many_results_are_added_up_in_pages() {
    let (rig, queue) = every_state().await;
    let before: i64 = rig.ask(&["HGET", &rig.keys.state(), "held"]).await;
    let mut fill = redis::cmd("HSET");
    fill.arg(rig.keys.held());
    for n in 0..10_001 {
        fill.arg(format!("reply:acme/taken-{n}")).arg(5);
    }
    fill.query_async::<i64>(&mut rig.connection().await).await.unwrap();
    let report = queue.fsck(true).await.unwrap();
    assert_eq!(kinds(&report), BTreeMap::from([("counter", 1)]), "{report:?}");
    assert_eq!(rig.ask::<i64>(&["HGET", &rig.keys.state(), "held"]).await, before + 50_005);
    assert_eq!(queue.fsck(false).await.unwrap().counters, Counters::Compared);
    rig.assert_consistent().await;
}

#[tokio::test]
async fn an_element_that_a_forgotten_worker_left_is_adopted() {
    let (rig, queue) = breaks("RPUSH P:stage:w9 {\"id\":\"left\"}\n<p>", &["stage_unlisted"]).await;
    assert_eq!(queue.housekeep(true).await.unwrap().adopted, 1);
    assert_eq!(rig.length(&rig.keys.inbox(Interactive)).await, 1);
}

#[tokio::test]
async fn keys_of_another_type_make_room() {
    for key in ["leased", "ring:interactive", "bell", "held", "workers"] {
        let (rig, queue) = every_state().await;
        let key = format!("{}{key}", rig.keys.prefix());
        let _: () = rig.ask(&["SET", &key, "mine"]).await;
        let seen = queue.fsck(false).await.unwrap();
        assert_eq!(kinds(&seen), BTreeMap::from([("wrong_type", 1)]), "{key}");
        let mended = queue.fsck(true).await.unwrap();
        assert_eq!(mended.unmended(), 0, "{key}: {mended:?}");
        queue.renew(&[], "{}").await.unwrap();
        let after = queue.fsck(false).await.unwrap();
        assert!(after.is_clean(), "{key}: {after:?}");
        rig.assert_consistent().await;
    }
    // Somebody's document may be in there: nothing is deleted.
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let inbox = rig.keys.inbox(Interactive);
    let _: () = rig.ask(&["SET", &inbox, "{\"id\":\"r\"}\n<p>"]).await;
    assert_eq!(queue.fsck(true).await.unwrap().unmended(), 1);
    assert!(rig.exists(&inbox).await);
}

#[tokio::test]
async fn a_healthy_queue_at_work_has_nothing_to_mend() {
    let rig = Rig::new();
    let renderer = Scripted::open();
    let workers = [
        Running::start(&rig, "w1", &renderer, 4).await,
        Running::start(&rig, "w2", &renderer, 4).await,
    ];
    let queue = rig.queue("operator").await;
    let watching = async {
        let mut looks = 0;
        // Until the last job has ended.
        while rig.ask::<Option<u64>>(&["HGET", &rig.keys.state(), "ended:done"]).await < Some(400) {
            let report = queue.fsck(looks % 2 == 0).await.unwrap();
            assert!(report.is_clean(), "look {looks}: {report:?}");
            looks += 1;
        }
        looks
    };
    let pushing = async {
        for n in 0..400 {
            let (tenant, inbox) =
                (format!("t-{}", n % 5), if n % 3 == 0 { Bulk } else { Interactive });
            rig.push(inbox, &document(&tenant, &format!("r-{n}"), &format!("<p>{n}"))).await;
            if n % 7 == 0 {
                rig.reply(&format!("{tenant}/r-{n}")).await;
            }
        }
    };
    let (looks, ()) = tokio::join!(watching, pushing);
    assert!(looks > 2, "only {looks} looks while it worked");
    for worker in workers {
        worker.stop(Stop::Drain).await;
    }
    assert!(queue.fsck(false).await.unwrap().is_clean());
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn a_retry_that_waits_is_due_at_once_when_its_time_is_lost() {
    let (rig, queue) = every_state().await;
    let lease = expect_claim(&queue).await.lease;
    queue.retry(&lease, std::time::Duration::from_secs(3600), true, "scripted").await.unwrap();
    let name = lease.name().to_string();
    let _: i64 = rig.ask(&["ZREM", &rig.keys.delayed(), &name]).await;
    queue.fsck(true).await.unwrap();
    assert_eq!(queue.housekeep(true).await.unwrap().promoted, 1);
    assert_eq!(rig.field(&name, "state").await.as_deref(), Some("ready"));
}
