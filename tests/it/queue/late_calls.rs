//! Calls that arrive over a connection which was given up act on nothing.

use std::time::Duration;

use tillroll::job::Priority::Interactive;
use tillroll::queue::{Admitted, Refusal};

use crate::support::observe::name;
use crate::support::{Calls, Rig, document, parsed, under};

#[tokio::test]
async fn a_late_admission_leaves_the_element_after_its_own_and_claims_nothing() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let (early, late) = (rig.turn(), rig.turn());
    let first = document("acme", "first", "<p>1");
    let second = document("acme", "second", "<p>2");
    rig.stage(&queue, Interactive, &second).await;
    let job = parsed(Interactive, &second);
    queue.admit(Interactive, late, &job, second.len(), None).await.unwrap();
    // The third is in the stage when a call of the first element arrives.
    let third = document("acme", "third", "<p>3");
    rig.stage(&queue, Interactive, &third).await;
    let token = queue.token();
    let job = parsed(Interactive, &first);
    let answer = queue.admit(Interactive, early, &job, first.len(), Some(under(&token))).await;
    assert_eq!(answer.unwrap(), (Admitted::Gone, None), "a lease that nobody waits for");
    assert_eq!(rig.length(&rig.keys.stage(Interactive, "w1")).await, 1);
    assert_eq!(rig.field("acme/first", "state").await, None);
    assert_eq!(queue.counts().await.unwrap().leased, 0);

    // One of the same turn is a repetition: the same job again, and nothing more.
    let job = parsed(Interactive, &second);
    let again = queue.admit(Interactive, late, &job, second.len(), Some(under(&token))).await;
    let (admitted, claimed) = again.unwrap();
    assert_eq!(admitted, Admitted::Gone);
    let claimed = claimed.unwrap();
    assert_eq!(claimed.lease.name().id(), "second");
    let again = queue.admit(Interactive, late, &job, second.len(), Some(under(&token))).await;
    assert_eq!(again.unwrap().1.unwrap().lease, claimed.lease);
    assert_eq!(rig.length(&rig.keys.stage(Interactive, "w1")).await, 1);
    rig.assert_consistent().await;
}

#[tokio::test]
async fn a_late_rejection_leaves_the_element_after_its_own() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let (early, late) = (rig.turn(), rig.turn());
    let ttl = Duration::from_secs(60);
    let reject = async |turn| {
        queue.rejects(turn, Some(&name("acme/bad")), "bad", "{}", ttl, None).await.unwrap();
    };
    rig.stage(&queue, Interactive, b"nonsense").await;
    reject(late).await;
    assert_eq!(rig.reply("acme/bad").await.line, serde_json::json!({}));
    rig.stage(&queue, Interactive, &document("acme", "good", "<p>")).await;
    for turn in [early, late] {
        reject(turn).await;
        assert_eq!(rig.length(&rig.keys.stage(Interactive, "w1")).await, 1);
        assert!(!rig.exists(&rig.keys.reply(&name("acme/bad"))).await);
    }
    assert_eq!(rig.events("rejected").await.len(), 1);
}

#[tokio::test]
async fn each_inbox_has_turns_of_its_own() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let bulk = tillroll::job::Priority::Bulk;
    rig.stage(&queue, Interactive, b"nonsense").await;
    rig.stage(&queue, bulk, b"nonsense").await;
    let refusal =
        Refusal { code: "x", line: "{}", reply_ttl: Duration::from_secs(60), reply_to: None };
    queue.reject(Interactive, 7, None, &refusal).await.unwrap();
    queue.reject(bulk, 1, None, &refusal).await.unwrap();
    assert_eq!(rig.length(&rig.keys.stage(bulk, "w1")).await, 0);
}
