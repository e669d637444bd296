//! Results that wait for their producers are counted, and claims pause before
//! there is no room for one more.

use std::time::Duration;

use tillroll::job::Output;
use tillroll::job::Priority::Interactive;
use tillroll::queue::{Admitted, Ending, Queue};
use tillroll::worker::Stop;

use crate::support::observe::{finish, name, try_claim};
use crate::support::rig::done;
use crate::support::{Rig, Running, Scripted, document, expect_claim};

fn stored(pdf: &[u8]) -> Ending {
    Ending { output: Output::Stored { ttl: Duration::from_secs(60) }, ..done(pdf) }
}

async fn end(rig: &Rig, queue: &Queue, id: &str, ending: &Ending) {
    rig.admit(queue, &document("acme", id, "<p>")).await;
    queue.finish(&expect_claim(queue).await.lease, ending, None).await.unwrap();
}

async fn held(queue: &Queue) -> u64 {
    queue.housekeep(true).await.unwrap().held
}

/// Bytes that Redis holds for producers, really.
async fn really_held(rig: &Rig, ids: &[&str]) -> u64 {
    let mut bytes = 0;
    for id in ids {
        let name = name(&format!("acme/{id}"));
        let reply: Option<Vec<u8>> = rig.ask(&["LINDEX", &rig.keys.reply(&name), "0"]).await;
        let pdf: Option<Vec<u8>> = rig.ask(&["GET", &rig.keys.pdf(&name)]).await;
        bytes += reply.map_or(0, |reply| reply.len()) + pdf.map_or(0, |pdf| pdf.len());
    }
    bytes as u64
}

#[tokio::test]
async fn what_is_held_is_counted_to_the_byte_until_it_is_taken_or_runs_out() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let ids = ["reply", "stored", "ttl"];
    end(&rig, &queue, "reply", &done(b"%PDF one")).await;
    end(&rig, &queue, "stored", &stored(b"%PDF number two")).await;
    end(&rig, &queue, "ttl", &done(b"%PDF 3")).await;
    assert_eq!(held(&queue).await, really_held(&rig, &ids).await);
    rig.assert_consistent().await;

    rig.reply("acme/reply").await;
    held(&queue).await;
    assert_eq!(held(&queue).await, really_held(&rig, &ids).await);
    rig.reply("acme/stored").await;
    held(&queue).await;
    let left = really_held(&rig, &ids).await;
    assert_eq!(held(&queue).await, left);
    rig.ask::<u64>(&["PEXPIRE", &rig.keys.reply(&name("acme/ttl")), "0"]).await;
    rig.ask::<u64>(&["PEXPIRE", &rig.keys.pdf(&name("acme/stored")), "0"]).await;
    held(&queue).await;
    assert_eq!(held(&queue).await, 0);
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn a_result_that_a_new_job_replaces_is_no_longer_held() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    end(&rig, &queue, "r", &stored(b"%PDF one")).await;
    let other = document("acme", "r", "<p>other");
    assert_eq!(rig.admit(&queue, &other).await, Admitted::Admitted);
    assert_eq!(held(&queue).await, 0);
    rig.assert_consistent().await;
    let claimed = expect_claim(&queue).await;
    finish(&queue, &claimed).await;
    assert_eq!(held(&queue).await, really_held(&rig, &["r"]).await);
}

#[tokio::test]
async fn claims_pause_while_too_much_is_held_and_go_on_by_themselves() {
    let rig = Rig::new();
    let operator = rig.queue("operator").await;
    let renderer = Scripted::open();
    let mut worker = Running::start(&rig, "w1", &renderer, 1).await;
    rig.push(Interactive, &document("acme", "first", "<p>first")).await;
    rig.event("done", "acme/first").await;
    operator.set_limit("held", Some(10)).await.unwrap();
    rig.push(Interactive, &document("acme", "second", "<p>second")).await;
    rig.event("admitted", "acme/second").await;
    worker.wait_for("hindered", |seen| !seen.claims.ok).await;
    let why = worker.snapshot.borrow().claims.why.clone().unwrap_or_default();
    assert!(why.contains("limits.held"), "{why}");
    assert_eq!(renderer.rendered(), ["<p>first"]);
    assert_eq!(try_claim(&operator, true).await, None);
    rig.reply("acme/first").await;
    assert_eq!(rig.reply("acme/second").await.status(), "done");
    worker.wait_for("unhindered", |seen| seen.claims.ok).await;
    worker.stop(Stop::Drain).await;
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn thousands_of_results_that_were_taken_are_counted_off() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    for chunk in 0..25 {
        rig.admit_many(&queue, Interactive, ("acme", &format!("r-{chunk}")), 100).await;
        for _ in 0..100 {
            let claimed = expect_claim(&queue).await;
            finish(&queue, &claimed).await;
        }
    }
    let all = held(&queue).await;
    let script = "for i, key in ipairs(redis.call('KEYS', ARGV[1] .. 'reply:*')) do \
                  if i > 10 then redis.call('DEL', key) end end";
    let _: () = rig.ask(&["EVAL", script, "0", rig.keys.prefix()]).await;
    held(&queue).await;
    assert_eq!(held(&queue).await, all / 250);
    assert_eq!(rig.ask::<u64>(&["HLEN", &rig.keys.held()]).await, 10);
    rig.assert_consistent().await;
}
