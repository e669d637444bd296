//! Cancelling: at once where a job waits, by its worker where it runs.

use std::time::Duration;

use tillroll::job::Priority::{Bulk, Interactive};
use tillroll::job::Status;
use tillroll::queue::{Admitted, Cancelled, Ending, Settled};

use crate::support::observe::{finish, name, try_claim};
use crate::support::rig::dead;
use crate::support::{Calls, Rig, document, expect_claim};

const META: &[u8] = b"{\"id\":\"r\",\"meta\":{\"order\":\"7\"}}\n<p>";

fn as_cancelled() -> Ending {
    Ending { status: Status::Cancelled, code: "cancelled", ..dead() }
}

#[tokio::test]
async fn a_waiting_job_ends_and_its_producer_is_answered() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let delayed = b"{\"id\":\"r\",\"delay_ms\":60000,\"meta\":{\"order\":\"7\"}}\n<p>";
    for (inbox, element) in [(Interactive, META), (Bulk, META), (Interactive, &delayed[..])] {
        rig.admit_through(&queue, inbox, element).await;
        assert_eq!(queue.cancel(&name("default/r")).await.unwrap(), Cancelled::Ended);
        let answer = rig.reply("default/r").await;
        assert_eq!((answer.status(), answer.code()), ("cancelled", "cancelled"));
        assert_eq!(answer.line["meta"]["order"], "7");
        rig.assert_consistent().await;
        // A second time changes nothing: it has ended.
        let again = queue.cancel(&name("default/r")).await.unwrap();
        assert_eq!(again, Cancelled::Before("cancelled".to_owned()));
        assert_eq!(rig.length(&rig.keys.reply(&name("default/r"))).await, 0);
        assert_eq!(try_claim(&queue, true).await, None);
        queue.housekeep(true).await.unwrap();
        rig.assert_at_rest().await;
    }
    assert_eq!(rig.events("cancelled").await.len(), 3);
}

#[tokio::test]
async fn a_cancelled_job_is_answered_where_it_asked_for() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let element = b"{\"id\":\"r\",\"reply_to\":\"mailer\",\"output\":{\"kind\":\"stored\"}}\n<p>";
    rig.admit(&queue, element).await;
    queue.cancel(&name("default/r")).await.unwrap();
    assert_eq!(rig.reply_to("mailer").await.status(), "cancelled");
    assert!(!rig.exists(&rig.keys.reply(&name("default/r"))).await);
}

#[tokio::test]
async fn what_has_ended_or_never_was_is_not_cancelled() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    assert_eq!(queue.cancel(&name("acme/r")).await.unwrap(), Cancelled::Unknown);
    rig.admit(&queue, &document("acme", "r", "<p>")).await;
    let claimed = expect_claim(&queue).await;
    finish(&queue, &claimed).await;
    assert_eq!(queue.cancel(&name("acme/r")).await.unwrap(), Cancelled::Before("done".to_owned()));
    rig.admit(&queue, &document("acme", "d", "<p>")).await;
    queue.finish(&expect_claim(&queue).await.lease, &dead(), None).await.unwrap();
    assert_eq!(queue.cancel(&name("acme/d")).await.unwrap(), Cancelled::Before("dead".to_owned()));
    assert_eq!(rig.field("acme/d", "state").await.unwrap(), "dead");
    rig.assert_consistent().await;
}

#[tokio::test]
async fn a_running_jobs_worker_is_told_twice() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit(&queue, META).await;
    let claimed = expect_claim(&queue).await;
    let told = queue.cancel(&name("default/r")).await.unwrap();
    assert_eq!(told, Cancelled::Stopping { worker: "w1".to_owned() });
    // By a message on its control list,
    let message: String = rig.ask(&["LINDEX", &rig.keys.control("w1"), "0"]).await;
    let message: serde_json::Value = serde_json::from_str(&message).unwrap();
    let expected =
        serde_json::json!({"command":"cancel","job":"default/r","token":claimed.lease.token()});
    assert_eq!(message, expected);
    assert!(rig.ask::<i64>(&["PTTL", &rig.keys.control("w1")]).await > 0);
    // and by its heartbeat, for as long as it has not ended the job.
    let lease = (claimed.lease.name().clone(), claimed.lease.token().to_owned());
    for _ in 0..2 {
        let renewed = queue.renew(std::slice::from_ref(&lease), "{}").await.unwrap();
        assert_eq!((renewed.lost.len(), renewed.cancelled), (0, vec![lease.1.clone()]));
    }
    let ended = queue.finish(&claimed.lease, &as_cancelled(), None).await.unwrap();
    assert_eq!(ended.0, Settled::Accepted);
    assert_eq!(rig.field("default/r", "cancel").await, None);
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn messages_to_a_worker_come_in_the_order_in_which_they_were_sent() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit_many(&queue, Interactive, ("acme", "r"), 3).await;
    for _ in 0..3 {
        expect_claim(&queue).await;
    }
    for number in [1, 0, 2] {
        queue.cancel(&name(&format!("acme/r-{number}"))).await.unwrap();
    }
    let messages: Vec<String> = rig.ask(&["LRANGE", &rig.keys.control("w1"), "0", "-1"]).await;
    for (message, number) in messages.iter().zip([1, 0, 2]) {
        assert!(message.contains(&format!("acme\\/r-{number}")), "{message}");
    }
}

#[tokio::test]
async fn one_that_was_cancelled_and_whose_worker_died_is_ended_by_the_next() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit(&queue, META).await;
    let first = expect_claim(&queue).await;
    assert!(!first.cancelled);
    queue.cancel(&name("default/r")).await.unwrap();
    rig.expire_lease("default/r").await;
    assert_eq!(queue.housekeep(true).await.unwrap().reaped, 1);
    let next = expect_claim(&queue).await;
    assert!(next.cancelled);
    queue.finish(&next.lease, &as_cancelled(), None).await.unwrap();
    assert_eq!(queue.finish(&first.lease, &dead(), None).await.unwrap().0, Settled::Stale);
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn one_that_fails_while_it_is_cancelled_does_not_wait_for_its_next_try() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit(&queue, META).await;
    let lease = expect_claim(&queue).await.lease;
    queue.cancel(&name("default/r")).await.unwrap();
    queue.retry(&lease, Duration::from_secs(60), true, "scripted").await.unwrap();
    assert!(try_claim(&queue, true).await.expect("it is ready at once").cancelled);
    rig.assert_consistent().await;
}

#[tokio::test]
async fn a_result_that_comes_before_the_worker_hears_of_it_stands() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit(&queue, META).await;
    let claimed = expect_claim(&queue).await;
    queue.cancel(&name("default/r")).await.unwrap();
    finish(&queue, &claimed).await;
    assert_eq!(rig.field("default/r", "state").await.unwrap(), "done");
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn another_document_of_the_same_name_is_not_cancelled_by_what_was_read_before() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit(&queue, META).await;
    // Between looking and cancelling, another one took its place.
    let other = "f".repeat(64);
    let hash = queue.script_hash("cancel").unwrap();
    let job = rig.keys.job(&name("default/r"));
    let call = ["EVALSHA", &hash, "1", &job, rig.keys.prefix(), "default/r", &other];
    let (outcome, _): (String, String) =
        rig.ask(&[&call[..], &["{}", "1000", "1000", ""]].concat()).await;
    assert_eq!(outcome, "changed");
    assert_eq!(rig.field("default/r", "state").await.unwrap(), "ready");
    assert_eq!(queue.cancel(&name("default/r")).await.unwrap(), Cancelled::Ended);
}

#[tokio::test]
async fn a_job_without_its_document_can_still_be_cancelled() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit(&queue, META).await;
    rig.ask::<u64>(&["DEL", &rig.keys.document(&name("default/r"))]).await;
    assert_eq!(queue.cancel(&name("default/r")).await.unwrap(), Cancelled::Ended);
    assert_eq!(rig.reply("default/r").await.status(), "cancelled");
}

#[tokio::test]
async fn a_cancelled_name_that_is_pushed_again_runs_once() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    for round in 0..3 {
        assert_eq!(rig.admit(&queue, META).await, Admitted::Admitted, "round {round}");
        if round < 2 {
            assert_eq!(queue.cancel(&name("default/r")).await.unwrap(), Cancelled::Ended);
            // Unread, its reply would be the answer to the next push.
            rig.reply("default/r").await;
        }
    }
    // It never stood in the list twice: at the end of it, a name is taken away.
    assert_eq!(rig.length(&rig.keys.ready(Interactive, "default")).await, 1);
    let claimed = expect_claim(&queue).await;
    assert_eq!(try_claim(&queue, true).await, None);
    rig.assert_consistent().await;
    finish(&queue, &claimed).await;
    assert_eq!(try_claim(&queue, true).await, None);
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn many_leftovers_are_skipped_and_the_job_behind_them_is_found() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit_many(&queue, Interactive, ("acme", "gone"), 250).await;
    rig.admit_many(&queue, Interactive, ("acme", "here"), 1).await;
    for number in 0..250 {
        queue.cancel(&name(&format!("acme/gone-{number}"))).await.unwrap();
    }
    // One call skips a bounded number, and rings for whoever goes on.
    let mut calls = 1;
    rig.bells().await;
    let found = loop {
        match try_claim(&queue, true).await {
            Some(claimed) => break claimed,
            None => assert_eq!(rig.bells().await, (true, false)),
        }
        calls += 1;
    };
    assert_eq!((found.lease.name().id(), calls), ("here-0", 3));
}
