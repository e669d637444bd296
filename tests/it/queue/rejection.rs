//! Elements that cannot be jobs: their producers are told, nobody else is touched.

use std::time::Duration;

use tillroll::job::Name;
use tillroll::job::Priority::{Bulk, Interactive};
use tillroll::worker::Stop;

use crate::support::rig::done;
use crate::support::{Calls, Rig, Running, Scripted, document, expect_claim};

const TTL: Duration = Duration::from_secs(600);

#[tokio::test]
async fn every_malformed_element_gets_a_clear_reply() {
    let rig = Rig::new();
    let renderer = Scripted::open();
    let worker = Running::start(&rig, "w1", &renderer, 1).await;
    let cases: [(&str, &[u8], &str); 8] = [
        ("default/a", b"{\"id\":\"a\",\"colour\":\"blue\"}\n<p>", "unknown_field"),
        ("default/b", b"{\"id\":\"b\",\"html\":\"<p>1\"}\n<p>2", "two_documents"),
        ("acme/c", b"{\"id\":\"c\",\"tenant\":\"acme\"}", "no_document"),
        ("acme/d", b"{\"id\":\"d\",\"tenant\":\"acme\",\n\"options\":{}}\n<p>", "malformed_header"),
        ("default/bom", b"\xEF\xBB\xBF{\"id\":\"bom\"}\n<p>", "malformed_header"),
        ("default/e", b"{\"id\":\"e\"}\n \n", "empty_document"),
        ("default/f", b"{\"id\":\"f\"}\n<p>\xFF", "invalid_document"),
        ("default/g", b"{\"id\":\"g\",\"options\":{\"format\":\"A4\"}}\n<p>", "unknown_field"),
    ];
    for (name, element, code) in cases {
        for inbox in [Interactive, Bulk] {
            rig.push(inbox, element).await;
            let answer = rig.reply(name).await;
            assert_eq!((answer.status(), answer.code()), ("rejected", code), "{name}");
            assert_eq!(answer.pdf, None);
            assert!(!answer.line["error"]["remedy"].as_str().unwrap().is_empty());
        }
    }
    worker.stop(Stop::Drain).await;
    assert_eq!(renderer.rendered(), Vec::<String>::new());
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn what_has_no_readable_name_is_kept_for_the_operator() {
    let rig = Rig::new();
    let worker = Running::start(&rig, "w1", &Scripted::open(), 1).await;
    let elements: [&[u8]; 4] = [
        b"",
        b"<html>",
        b"{}
",
        b"{\"id\":7}
<p>",
    ];
    for (index, element) in elements.iter().enumerate() {
        rig.push(Interactive, element).await;
        rig.push(Interactive, &document("acme", &format!("r-{index}"), "<p>")).await;
        rig.reply(&format!("acme/r-{index}")).await;
        let line: String = rig.ask(&["LINDEX", &rig.keys.malformed(), "0"]).await;
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["status"], "rejected");
        assert_eq!(rig.length(&rig.keys.malformed()).await, index + 1);
    }
    worker.stop(Stop::Drain).await;
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn the_list_of_the_malformed_is_capped() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let filler: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    let key = rig.keys.malformed();
    let mut push = vec!["RPUSH", key.as_str()];
    push.extend(filler.iter().map(String::as_str));
    let _: u64 = rig.ask(&push).await;
    rig.stage(&queue, Interactive, b"nonsense").await;
    queue.rejects(rig.turn(), None, "malformed_header", "{}", TTL, None).await.unwrap();
    assert_eq!(rig.length(&key).await, 1000);
    assert_eq!(rig.ask::<String>(&["LINDEX", &key, "0"]).await, "{}");
}

#[tokio::test]
async fn a_rejection_is_said_on_the_list_that_was_asked_for() {
    let rig = Rig::new();
    let worker = Running::start(&rig, "w1", &Scripted::open(), 1).await;
    rig.push(Bulk, b"{\"id\":\"a\",\"reply_to\":\"mailer\",\"delay_ms\":-1}\n<p>").await;
    let answer = rig.reply_to("mailer").await;
    assert_eq!((answer.status(), answer.line["id"].as_str()), ("rejected", Some("a")));
    worker.stop(Stop::Drain).await;
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn a_rejection_never_touches_a_living_job_or_a_waiting_reply() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let name = Name::parse("acme/r-1").unwrap();
    rig.admit(&queue, &document("acme", "r-1", "<p>1")).await;
    let reject = async || {
        rig.stage(&queue, Interactive, b"{\"id\":\"r-1\",\"tenant\":\"acme\",\"x\":1}\n<p>").await;
        queue.rejects(rig.turn(), Some(&name), "unknown_field", "{}", TTL, None).await.unwrap();
        rig.assert_consistent().await;
    };
    reject().await;
    assert!(!rig.exists(&rig.keys.reply(&name)).await, "its waiter would take it for its own");
    let claimed = expect_claim(&queue).await;
    queue.finish(&claimed.lease, &done(b"%PDF"), None).await.unwrap();
    reject().await;
    assert_eq!(rig.length(&rig.keys.reply(&name)).await, 1);
    assert_eq!(rig.reply("acme/r-1").await.pdf.unwrap(), b"%PDF");
    assert_eq!(rig.length(&rig.keys.malformed()).await, 2, "the operator sees both");
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn a_corrected_push_is_not_answered_with_the_old_rejection() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let name = Name::parse("acme/r-1").unwrap();
    rig.stage(&queue, Interactive, b"wrong").await;
    queue.rejects(rig.turn(), Some(&name), "unknown_field", "{}", TTL, None).await.unwrap();
    assert!(rig.exists(&rig.keys.reply(&name)).await);
    rig.admit(&queue, &document("acme", "r-1", "<p>1")).await;
    assert!(!rig.exists(&rig.keys.reply(&name)).await, "whoever waits now would get the rejection");
}

#[tokio::test]
async fn a_rejection_that_is_repeated_is_said_once() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let name = Name::parse("acme/r-1").unwrap();
    rig.stage(&queue, Interactive, b"wrong").await;
    for _ in 0..2 {
        queue.rejects(rig.turn(), Some(&name), "x", "{}", TTL, None).await.unwrap();
    }
    assert_eq!(rig.length(&rig.keys.reply(&name)).await, 1);
    assert_eq!(rig.length(&rig.keys.malformed()).await, 0);
    rig.assert_at_rest().await;
}
