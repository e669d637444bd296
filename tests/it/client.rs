//! The producer's library against a real Redis and real workers; Chromium is
//! stood in for.

use std::sync::Arc;
use std::time::Duration;

use tillroll::client::{Client, Name, Output, Priority, Receipt, State, Status};
use tillroll::renderer::null::Null;
use tillroll::worker::Stop;
use tokio::time::Instant;

use crate::support::rig::{PATIENCE, dead};
use crate::support::{Rig, Running, Scripted, expect_claim};

fn client(rig: &Rig) -> Client {
    Client::new(rig.server.url(), "receipts", 8).unwrap()
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// A worker that answers every job with the null renderer's page.
async fn null_worker(rig: &Rig) -> Running {
    Running::on(rig.queue("w1").await, &Arc::new(Null::new()), 2, PATIENCE)
}

/// Waits until so many clients are blocked in Redis.
async fn wait_blocked(rig: &Rig, count: usize) {
    let wanted = format!("blocked_clients:{count}\r");
    let waited = tokio::time::timeout(PATIENCE, async {
        while !rig.ask::<String>(&["INFO", "clients"]).await.contains(&wanted) {
            tokio::task::yield_now().await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("there were never {count} clients blocked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_that_is_sent_comes_back_as_a_pdf() {
    let rig = Rig::new();
    let worker = null_worker(&rig).await;
    let client = client(&rig);
    let receipt = Receipt::new("<p>x").tenant("acme").id("r-1").meta("order", "7");
    let element = receipt.option("info", serde_json::json!({"title": "Bill"})).element().unwrap();
    client.send(&element).await.unwrap();
    let answer = client.take(element.name(), PATIENCE).await.unwrap().unwrap();
    let reply = answer.reply().unwrap();
    assert_eq!((reply.status, reply.pages, reply.attempts), (Status::Done, 1, 1));
    assert_eq!((&*reply.tenant, &*reply.id, &*reply.meta["order"]), ("acme", "r-1", "7"));
    assert_eq!(reply.warnings[0].code, "null_renderer");
    let pdf = client.pdf(answer, &reply).await.unwrap().unwrap();
    assert_eq!(pdf.len() as u64, reply.bytes);
    assert!(pdf.starts_with(b"%PDF-") && String::from_utf8_lossy(&pdf).contains("/Title (Bill)"));
    worker.stop(Stop::Drain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pdf_is_found_wherever_the_output_put_it() {
    let rig = Rig::new();
    let worker = null_worker(&rig).await;
    let client = client(&rig);
    let mut pdfs = Vec::new();
    for (id, output) in [
        ("raw", Output::Reply { base64: false }),
        ("base64", Output::Reply { base64: true }),
        ("stored", Output::Stored { ttl: PATIENCE }),
    ] {
        let receipt = Receipt::new("<p>x").id(id).output(output);
        let date = serde_json::json!({"date": "2026-03-31T12:00:00Z"});
        let element = receipt.option("info", date).element().unwrap();
        client.send(&element).await.unwrap();
        let answer = client.take(element.name(), PATIENCE).await.unwrap().unwrap();
        let reply = answer.reply().unwrap();
        pdfs.push(client.pdf(answer, &reply).await.unwrap().unwrap());
    }
    assert!(pdfs[0].starts_with(b"%PDF-"));
    assert!(pdfs.iter().all(|pdf| *pdf == pdfs[0]), "the same job, the same bytes");
    let record = client.status(&name("default/stored")).await.unwrap();
    assert_eq!(record.state, State::Done);
    let outcome = client.outcome(&name("default/stored"), &record).await.unwrap().unwrap();
    assert_eq!((outcome.status, outcome.pages), (Status::Done, 1));
    worker.stop(Stop::Drain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_read_can_be_taken_back() {
    let rig = Rig::new();
    let client = client(&rig);
    let of = |id: &str, priority| Receipt::new("<p>x").id(id).priority(priority).element().unwrap();
    let (one, other) = (of("one", Priority::Bulk), of("other", Priority::Bulk));
    client.send_many(&[one.clone(), other.clone()]).await.unwrap();
    assert!(client.withdraw(&one).await.unwrap());
    assert!(!client.withdraw(&one).await.unwrap(), "it was there once");
    assert!(!client.withdraw(&of("other", Priority::Interactive)).await.unwrap());
    let worker = null_worker(&rig).await;
    assert!(client.take(other.name(), PATIENCE).await.unwrap().is_some());
    assert!(!client.withdraw(&other).await.unwrap(), "it is done");
    assert_eq!(client.status(one.name()).await.unwrap().state, State::Unknown);
    worker.stop(Stop::Drain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_read_one_reply_and_it_can_still_be_taken() {
    let rig = Rig::new();
    let client = client(&rig);
    let element = Receipt::new("<p>x").tenant("acme").id("shared").element().unwrap();
    let readers: Vec<_> = (0..5)
        .map(|_| {
            let (client, name) = (client.clone(), element.name().clone());
            tokio::spawn(async move { client.read(&name, PATIENCE).await.unwrap().unwrap() })
        })
        .collect();
    wait_blocked(&rig, 5).await;
    let worker = null_worker(&rig).await;
    client.send(&element).await.unwrap();
    let mut lines = Vec::new();
    for reader in readers {
        lines.push(reader.await.unwrap());
    }
    assert!(lines.iter().all(|answer| *answer == lines[0]));
    let taken = client.take(element.name(), PATIENCE).await.unwrap().unwrap();
    assert_eq!(taken, lines[0]);
    assert_eq!(client.read_until(element.name(), Instant::now()).await.unwrap(), None);
    worker.stop(Stop::Drain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_is_over_still_finds_what_is_there() {
    let rig = Rig::new();
    let client = client(&rig);
    let job = name("acme/late");
    let begun = Instant::now();
    let none = client.take(&job, Duration::from_millis(50)).await.unwrap();
    assert_eq!(none, None);
    assert!(begun.elapsed() >= Duration::from_millis(50));
    let _: i64 = rig.ask(&["RPUSH", &rig.keys.reply(&job), "{}\nPDF"]).await;
    let past = Instant::now();
    assert_eq!(client.read_until(&job, past).await.unwrap().unwrap().body, b"PDF");
    assert_eq!(client.take_until(&job, past).await.unwrap().unwrap().body, b"PDF");
    assert_eq!(client.take_until(&job, past).await.unwrap(), None);
}

/// Redis would hand the reply to the command of the dropped wait, and it would be lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_is_dropped_takes_no_reply_with_it() {
    let rig = Rig::new();
    let client = client(&rig);
    let job = name("acme/dropped");
    let (waiter, waited_for) = (client.clone(), job.clone());
    let waiting = tokio::spawn(async move { waiter.take(&waited_for, PATIENCE).await });
    wait_blocked(&rig, 1).await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    wait_blocked(&rig, 0).await;
    let _: i64 = rig.ask(&["RPUSH", &rig.keys.reply(&job), "{}"]).await;
    assert!(client.take(&job, PATIENCE).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_are_pushed_in_their_order_whatever_their_size() {
    let rig = Rig::new();
    let client = client(&rig);
    let large = "x".repeat(3 * 1024 * 1024);
    let mut elements: Vec<_> = (0..2500)
        .map(|number| Receipt::new("<p>small").id(format!("s-{number}")).element().unwrap())
        .collect();
    elements.extend(
        (0..3).map(|number| Receipt::new(&*large).id(format!("l-{number}")).element().unwrap()),
    );
    let bulk = Receipt::new("<p>x").id("b").priority(Priority::Bulk).element().unwrap();
    elements.push(bulk);
    client.send_many(&elements).await.unwrap();
    assert_eq!(rig.length(&rig.keys.inbox(Priority::Interactive)).await, 2503);
    assert_eq!(rig.length(&rig.keys.inbox(Priority::Bulk)).await, 1);
    for element in &elements[..2503] {
        let oldest: Vec<u8> = rig.ask(&["RPOP", &rig.keys.inbox(Priority::Interactive)]).await;
        assert_eq!(oldest, element.bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jobs_state_is_told_at_each_step() {
    let rig = Rig::new();
    let client = client(&rig);
    let job = name("acme/r-1");
    let state = async || client.status(&job).await.unwrap();
    assert_eq!(state().await.state, State::Unknown);

    let queue = rig.queue("w1").await;
    let receipt = Receipt::new("<p>x").tenant("acme").id("r-1");
    let element = receipt.delay(PATIENCE).max_attempts(7).element().unwrap();
    rig.admit(&queue, element.bytes()).await;
    let record = state().await;
    assert_eq!((record.state, record.max_attempts), (State::Delayed, Some(7)));
    let due = record.due_ms.unwrap() - record.admitted_ms.unwrap();
    assert_eq!(u128::from(due), PATIENCE.as_millis());
    assert!(record.document.unwrap().bytes > 0);

    rig.make_due("acme/r-1").await;
    queue.housekeep(true).await.unwrap();
    assert_eq!(state().await.state, State::Ready);

    let claimed = expect_claim(&queue).await;
    let record = state().await;
    assert_eq!((record.state, record.worker.as_deref()), (State::Leased, Some("w1")));
    assert!(record.lease_until_ms.unwrap() > record.now_ms);

    queue.finish(&claimed.lease, &dead(), None).await.unwrap();
    let record = state().await;
    assert_eq!((record.state, record.attempts), (State::Dead, 1));
    assert!(record.reply.is_some() && record.record_ttl_ms.unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_is_a_state_too() {
    let rig = Rig::new();
    let client = client(&rig);
    let worker = Running::start(&rig, "w1", &Scripted::open(), 1).await;
    let element = b"{\"id\":\"r-2\",\"tenant\":\"acme\",\"options\":{\"format\":\"A4\"}}\n<p>x";
    client.push(Priority::Interactive, element).await.unwrap();
    let job = name("acme/r-2");
    let answer = client.read(&job, PATIENCE).await.unwrap().unwrap();
    let reply = answer.reply().unwrap();
    assert_eq!(
        (reply.status, reply.error.unwrap().code.as_str()),
        (Status::Rejected, "unknown_field")
    );
    let record = client.status(&job).await.unwrap();
    assert_eq!((record.state, record.attempts), (State::Rejected, 0));
    worker.stop(Stop::Drain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_in_order_and_each_once() {
    let rig = Rig::new();
    let client = client(&rig);
    let before = client.newest_event().await.unwrap();
    assert!(client.events_after(&before, Duration::ZERO).await.unwrap().is_empty());
    let worker = null_worker(&rig).await;
    client.send(&Receipt::new("<p>x").tenant("acme").id("e").element().unwrap()).await.unwrap();
    client.take(&name("acme/e"), PATIENCE).await.unwrap().unwrap();
    let (mut seen, mut last) = (Vec::new(), before);
    while seen.len() < 2 {
        for event in client.events_after(&last, PATIENCE).await.unwrap() {
            assert_eq!(event.job, "acme/e");
            assert!(event.at_ms > 0);
            seen.push((event.event, event.code));
            last = event.id;
        }
    }
    let words = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(seen, [words("admitted", "interactive"), words("done", "ok")]);
    assert_eq!(client.newest_event().await.unwrap(), last);
    worker.stop(Stop::Drain).await;
}
