//! From the inbox to a ready job, and what stands in the way.

use tillroll::job::Priority::{Bulk, Interactive};
use tillroll::queue::{Admitted, Settled};

use crate::support::rig::{dead, done};
use crate::support::{Rig, document, expect_claim, parsed, under};

#[tokio::test]
async fn a_job_goes_from_the_inbox_to_its_reply() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let element = document("acme", "r-1", "<p>1");
    assert_eq!(rig.admit(&queue, &element).await, Admitted::Admitted);
    rig.assert_consistent().await;
    assert_eq!(rig.field("acme/r-1", "bytes").await, Some(element.len().to_string()));

    let claimed = expect_claim(&queue).await;
    assert_eq!(claimed.lease.name().to_string(), "acme/r-1");
    assert_eq!((claimed.attempt, claimed.max_attempts, claimed.crashes), (1, 3, 0));
    assert!(claimed.claimed_ms >= claimed.admitted_ms && !claimed.expired);
    assert_eq!(queue.element(claimed.lease.name()).await.unwrap(), Some(element));
    rig.assert_consistent().await;

    let (settled, next) =
        queue.finish(&claimed.lease, &done(b"%PDF\n\xFF\x00"), None).await.unwrap();
    assert_eq!((settled, next), (Settled::Accepted, None));
    let answer = rig.reply("acme/r-1").await;
    assert_eq!(answer.status(), "done");
    assert_eq!(answer.pdf.as_deref(), Some(b"%PDF\n\xFF\x00".as_slice()));
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn the_worker_that_admits_may_claim_in_the_same_call() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    for inbox in [Interactive, Bulk] {
        let element = document("acme", inbox.as_str(), "<p>");
        rig.stage(&queue, inbox, &element).await;
        let token = queue.token();
        let job = parsed(inbox, &element);
        let (admitted, claimed) =
            queue.admit(inbox, rig.turn(), &job, element.len(), Some(under(&token))).await.unwrap();
        assert_eq!(admitted, Admitted::Admitted);
        let claimed = claimed.unwrap();
        assert_eq!(claimed.lease.name(), &job.name);
        assert_eq!(claimed.lease.token(), token);
        assert_eq!(claimed.priority, inbox);
        rig.assert_consistent().await;
        queue.finish(&claimed.lease, &done(b"%PDF"), None).await.unwrap();
    }
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn an_older_job_is_claimed_before_the_one_just_admitted() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit(&queue, &document("acme", "old", "<p>")).await;
    let element = document("acme", "new", "<p>");
    rig.stage(&queue, Interactive, &element).await;
    let job = parsed(Interactive, &element);
    let token = queue.token();
    let (_, claimed) = queue
        .admit(Interactive, rig.turn(), &job, element.len(), Some(under(&token)))
        .await
        .unwrap();
    assert_eq!(claimed.unwrap().lease.name().id(), "old");
    assert_eq!(
        rig.length(&rig.keys.bell(Interactive)).await,
        1,
        "work was left behind: the bell rings"
    );
    rig.assert_consistent().await;
}

#[tokio::test]
async fn a_delayed_job_is_not_ready_before_its_time() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit(&queue, b"{\"id\":\"later\",\"delay_ms\":3600000}\n<p>").await;
    assert_eq!(rig.field("default/later", "state").await.as_deref(), Some("delayed"));
    assert_eq!(queue.claim(under(&queue.token())).await.unwrap(), None);
    assert_eq!(queue.housekeep(true).await.unwrap().promoted, 0);
    rig.assert_consistent().await;
    rig.make_due("default/later").await;
    assert_eq!(queue.housekeep(true).await.unwrap().promoted, 1);
    rig.assert_consistent().await;
    assert_eq!(expect_claim(&queue).await.lease.name().id(), "later");
}

#[tokio::test]
async fn the_same_push_while_it_lives_is_one_job() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let element = document("acme", "r-1", "<p>1");
    rig.admit(&queue, &element).await;
    assert_eq!(rig.admit(&queue, &element).await, Admitted::Duplicate);
    let claimed = expect_claim(&queue).await;
    assert_eq!(rig.admit(&queue, &element).await, Admitted::Duplicate, "while leased too");
    rig.assert_consistent().await;
    assert_eq!(queue.claim(under(&queue.token())).await.unwrap(), None);
    queue.finish(&claimed.lease, &done(b"%PDF"), None).await.unwrap();
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn other_content_under_a_living_name_touches_nothing() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let first = document("acme", "r-1", "<p>1");
    rig.admit(&queue, &first).await;
    let job_key = format!("{}job:acme/r-1", rig.keys.prefix());
    let before: Vec<String> = rig.ask(&["HGETALL", &job_key]).await;
    assert_eq!(rig.admit(&queue, &document("acme", "r-1", "<p>2")).await, Admitted::Conflict);
    assert_eq!(rig.event("refused", "acme/r-1").await, "id_conflict");
    assert_eq!(rig.ask::<Vec<String>>(&["HGETALL", &job_key]).await, before);
    rig.assert_consistent().await;
    let claimed = expect_claim(&queue).await;
    assert_eq!(queue.element(claimed.lease.name()).await.unwrap(), Some(first));
    queue.finish(&claimed.lease, &done(b"%PDF"), None).await.unwrap();
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn an_unread_reply_answers_the_same_push_again() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let element = document("acme", "r-1", "<p>1");
    rig.admit(&queue, &element).await;
    let claimed = expect_claim(&queue).await;
    queue.finish(&claimed.lease, &done(b"%PDF"), None).await.unwrap();
    assert_eq!(rig.admit(&queue, &element).await, Admitted::Held);
    rig.assert_at_rest().await;
    assert_eq!(rig.reply("acme/r-1").await.pdf.unwrap(), b"%PDF");
    assert_eq!(rig.admit(&queue, &element).await, Admitted::Admitted, "the reply was taken");
}

#[tokio::test]
async fn a_stored_result_answers_again_after_its_reply_was_taken() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let element = b"{\"id\":\"s\",\"output\":{\"kind\":\"stored\",\"ttl_ms\":60000}}\n<p>".to_vec();
    rig.admit(&queue, &element).await;
    let claimed = expect_claim(&queue).await;
    let mut ending = done(b"%PDF");
    ending.output = parsed(Interactive, &element).output;
    queue.finish(&claimed.lease, &ending, None).await.unwrap();
    for _ in 0..2 {
        let answer = rig.reply("default/s").await;
        assert_eq!((answer.status(), &answer.pdf), ("done", &None));
        assert_eq!(rig.admit(&queue, &element).await, Admitted::Held);
    }
    let pdf: Vec<u8> = rig.ask(&["GET", &rig.keys.pdf(claimed.lease.name())]).await;
    assert_eq!(pdf, b"%PDF");
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn a_stored_result_answers_again_on_the_list_that_was_asked_for() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let element = b"{\"id\":\"s\",\"reply_to\":\"mailer\"}\n<p>".to_vec();
    rig.admit(&queue, &element).await;
    let claimed = expect_claim(&queue).await;
    let job = parsed(Interactive, &element);
    let mut ending = done(b"%PDF");
    (ending.output, ending.reply_to) = (job.output, job.reply_to);
    queue.finish(&claimed.lease, &ending, None).await.unwrap();
    assert_eq!(rig.reply_to("mailer").await.status(), "done");
    assert_eq!(rig.admit(&queue, &element).await, Admitted::Held);
    assert_eq!(rig.reply_to("mailer").await.status(), "done");
    assert!(!rig.exists(&rig.keys.reply(claimed.lease.name())).await);
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn an_ended_name_is_free_for_other_content() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit(&queue, &document("acme", "r-1", "<p>1")).await;
    let claimed = expect_claim(&queue).await;
    queue.finish(&claimed.lease, &dead(), None).await.unwrap();
    rig.assert_at_rest().await;
    // The old reply is not the new job's.
    assert_eq!(rig.admit(&queue, &document("acme", "r-1", "<p>2")).await, Admitted::Admitted);
    assert!(!rig.exists(&rig.keys.reply(claimed.lease.name())).await);
    rig.assert_consistent().await;
    let claimed = expect_claim(&queue).await;
    queue.finish(&claimed.lease, &done(b"%PDF 2"), None).await.unwrap();
    assert_eq!(rig.reply("acme/r-1").await.pdf.unwrap(), b"%PDF 2");
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn a_reply_whose_record_is_forgotten_is_not_the_next_jobs() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit(&queue, &document("acme", "r-1", "<p>1")).await;
    let claimed = expect_claim(&queue).await;
    queue.finish(&claimed.lease, &done(b"%PDF 1"), None).await.unwrap();
    // What happens where `retain_ms` is shorter than `reply_ttl_ms`.
    let _: u64 = rig.ask(&["DEL", &rig.keys.job(claimed.lease.name())]).await;
    rig.admit(&queue, &document("acme", "r-1", "<p>2")).await;
    assert!(!rig.exists(&rig.keys.reply(claimed.lease.name())).await, "an old reply is in the way");
}

#[tokio::test]
async fn two_tenants_may_use_the_same_id() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    for tenant in ["acme", "globex"] {
        let element = document(tenant, "r-1", &format!("<p>{tenant}"));
        assert_eq!(rig.admit(&queue, &element).await, Admitted::Admitted);
    }
    for _ in 0..2 {
        let claimed = expect_claim(&queue).await;
        let tenant = claimed.lease.name().tenant().to_owned();
        queue.finish(&claimed.lease, &done(tenant.as_bytes()), None).await.unwrap();
        let answer = rig.reply(&format!("{tenant}/r-1")).await;
        assert_eq!(answer.pdf.unwrap(), tenant.as_bytes());
    }
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn a_full_queue_leaves_the_element_for_its_rejection() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    rig.admit(&queue, &document("acme", "older", "<p>")).await;
    queue.set_limit("jobs", Some(1)).await.unwrap();
    let element = document("acme", "r-1", "<p>1");
    rig.stage(&queue, Interactive, &element).await;
    let job = parsed(Interactive, &element);
    let token = queue.token();
    let answer = queue
        .admit(Interactive, rig.turn(), &job, element.len(), Some(under(&token)))
        .await
        .unwrap();
    // A claim that came along would be lost if the rejection then failed.
    assert_eq!(answer, (Admitted::Full(tillroll::queue::Limit::QueueJobs), None));
    assert_eq!(rig.length(&rig.keys.stage(Interactive, "w1")).await, 1);
    assert!(!rig.exists(&rig.keys.job(&job.name)).await);
}

#[tokio::test]
async fn an_admission_whose_reply_was_lost_is_repeated_with_the_same_answer() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let element = document("acme", "r-1", "<p>1");
    rig.stage(&queue, Interactive, &element).await;
    let job = parsed(Interactive, &element);
    let token = queue.token();
    let turn = rig.turn();
    let once =
        queue.admit(Interactive, turn, &job, element.len(), Some(under(&token))).await.unwrap();
    let again =
        queue.admit(Interactive, turn, &job, element.len(), Some(under(&token))).await.unwrap();
    assert_eq!((once.0, again.0), (Admitted::Admitted, Admitted::Gone));
    let (once, again) = (once.1.unwrap(), again.1.unwrap());
    assert_eq!(
        (&once.lease, once.attempt),
        (&again.lease, again.attempt),
        "one claim, one attempt"
    );
    rig.assert_consistent().await;
    queue.finish(&once.lease, &done(b"%PDF"), None).await.unwrap();
    rig.assert_at_rest().await;
}
