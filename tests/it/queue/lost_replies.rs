//! The worker on a line that loses the reply to one call: no job is done
//! twice, none waits for a lease that nobody holds, none is blamed.

use tillroll::failure::Class;
use tillroll::job::Priority::{Bulk, Interactive};
use tillroll::worker::Stop;

use crate::support::rig::PATIENCE;
use crate::support::{Proxy, Rig, Running, Scripted, document};

/// Loses a reply (that contains `reply`) to a call with `call` while one job goes through all of them.
async fn one_job_survives_the_loss_of(call: &str, reply: &str) {
    let rig = Rig::new();
    let renderer = Scripted::open();
    renderer.fail("<p>", &[Class::Interrupted]);
    let proxy = Proxy::to(&rig.server.url()).await;
    let queue = Rig::queue_at(proxy.url(), "w1", PATIENCE).await;
    let hash = queue.script_hash(call);
    let mut worker = Running::on(queue, &renderer, 1, PATIENCE);
    worker.wait_for("running", |seen| seen.renderer.ok).await;
    proxy.lose_reply_to(&hash.unwrap_or_else(|| call.to_owned()), reply);
    // Delayed, so that it is promoted and claimed by itself.
    rig.push(Interactive, b"{\"id\":\"late\",\"delay_ms\":1}\n<p>").await;
    let answer = rig.reply("default/late").await;
    assert_eq!((answer.status(), &answer.line["attempts"]), ("done", &1.into()));
    assert_eq!(rig.field("default/late", "crashes").await, None, "nothing crashed");
    proxy.wait_lost(1).await;
    // Everything works as before.
    rig.push(Bulk, &document("acme", "next", "<p>next")).await;
    assert_eq!(rig.reply("acme/next").await.line["attempts"], 1);
    worker.stop(Stop::Drain).await;
    assert_eq!(renderer.rendered(), ["<p>", "<p>", "<p>next"], "interrupted, done, done");
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn the_reply_to_an_admission_is_lost() {
    one_job_survives_the_loss_of("admit", "").await;
}

#[tokio::test]
async fn the_reply_to_a_promotion_is_lost() {
    one_job_survives_the_loss_of("promote", "").await;
}

#[tokio::test]
async fn the_reply_to_a_claim_is_lost() {
    one_job_survives_the_loss_of("claim", "default/late").await;
}

#[tokio::test]
async fn the_reply_to_a_release_is_lost() {
    one_job_survives_the_loss_of("release", "").await;
}

#[tokio::test]
async fn the_reply_to_a_finish_is_lost() {
    one_job_survives_the_loss_of("finish", "").await;
}

#[tokio::test]
async fn the_reply_to_the_reapers_call_is_lost() {
    one_job_survives_the_loss_of("reap", "").await;
}

#[tokio::test]
async fn the_reply_to_an_adoption_is_lost() {
    one_job_survives_the_loss_of("adopt", "").await;
}

#[tokio::test]
async fn the_element_is_lost_on_its_way_from_the_inbox() {
    one_job_survives_the_loss_of("", "\"id\":\"late\"").await;
}

#[tokio::test]
async fn the_bell_is_lost() {
    one_job_survives_the_loss_of("BLPOP", "").await;
}

/// The claim that came with an admission is the job's own.
#[tokio::test]
async fn the_reply_to_an_admission_with_its_claim_is_lost() {
    let rig = Rig::new();
    let renderer = Scripted::open();
    let proxy = Proxy::to(&rig.server.url()).await;
    let queue = Rig::queue_at(proxy.url(), "w1", PATIENCE).await;
    let hash = queue.script_hash("admit").unwrap();
    let mut worker = Running::on(queue, &renderer, 1, PATIENCE);
    worker.wait_for("running", |seen| seen.renderer.ok).await;
    proxy.lose_reply_to(&hash, "");
    rig.push(Interactive, &document("acme", "r-1", "<p>")).await;
    assert_eq!(rig.reply("acme/r-1").await.line["attempts"], 1);
    worker.stop(Stop::Drain).await;
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn the_reply_to_a_rejection_is_lost() {
    let rig = Rig::new();
    let proxy = Proxy::to(&rig.server.url()).await;
    let queue = Rig::queue_at(proxy.url(), "w1", PATIENCE).await;
    let hash = queue.script_hash("reject").unwrap();
    let mut worker = Running::on(queue, &Scripted::open(), 1, PATIENCE);
    worker.wait_for("running", |seen| seen.renderer.ok).await;
    proxy.lose_reply_to(&hash, "");
    rig.push(Interactive, b"{\"id\":\"r-1\",\"x\":1}\n<p>").await;
    assert_eq!(rig.reply("default/r-1").await.status(), "rejected");
    proxy.wait_lost(1).await;
    rig.push(Interactive, &document("default", "r-1", "<p>")).await;
    assert_eq!(rig.reply("default/r-1").await.status(), "done", "and rejected only once");
    worker.stop(Stop::Drain).await;
    rig.assert_at_rest().await;
}
