//! The worker on a real Redis, with a scripted renderer.

use std::time::Duration;

use tillroll::failure::Class;
use tillroll::job::Name;
use tillroll::job::Priority::{Bulk, Interactive};
use tillroll::queue::Control;
use tillroll::worker::Stop;

use crate::support::rig::done;
use crate::support::{RedisServer, Rig, Running, Scripted, document, expect_claim};

#[tokio::test]
async fn many_jobs_of_many_tenants_are_each_rendered_once() {
    let rig = Rig::new();
    let renderer = Scripted::open();
    let mut workers = Vec::new();
    for id in ["w1", "w2"] {
        workers.push(Running::start(&rig, id, &renderer, 3).await);
    }
    let mut names = Vec::new();
    for n in 0..60 {
        let (tenant, inbox) = (format!("t-{}", n % 7), if n % 3 == 0 { Bulk } else { Interactive });
        rig.push(inbox, &document(&tenant, &format!("r-{n}"), &format!("<p>{n}"))).await;
        names.push((format!("{tenant}/r-{n}"), format!("<p>{n}")));
    }
    for (name, html) in &names {
        let answer = rig.reply(name).await;
        assert_eq!(answer.pdf.unwrap(), Scripted::pdf(html), "{name} got another one's PDF");
        assert_eq!(answer.line["attempts"], 1);
    }
    let mut done = 0;
    for worker in workers {
        done += worker.stop(Stop::Drain).await.done;
    }
    assert_eq!((done, renderer.rendered().len()), (60, 60));
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn a_job_that_is_pushed_again_and_again_is_rendered_once() {
    let rig = Rig::new();
    let renderer = Scripted::gated();
    let worker = Running::start(&rig, "w1", &renderer, 3).await;
    let element = document("acme", "r-1", "<p>");
    rig.push(Interactive, &element).await;
    renderer.wait_started(1).await;
    for _ in 0..5 {
        rig.push(Interactive, &element).await;
    }
    rig.push(Interactive, &document("acme", "r-1", "<p>other")).await;
    assert_eq!(rig.event("refused", "acme/r-1").await, "id_conflict");
    renderer.open_gate();
    assert_eq!(rig.reply("acme/r-1").await.status(), "done");
    worker.stop(Stop::Drain).await;
    assert_eq!(renderer.rendered(), ["<p>"]);
    assert_eq!(rig.length(&rig.keys.reply(&Name::parse("acme/r-1").unwrap())).await, 0);
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn each_class_of_failure_has_its_own_end() {
    let rig = Rig::new();
    let renderer = Scripted::open();
    let worker = Running::start(&rig, "w1", &renderer, 8).await;
    let cases = [
        (Class::Input, 9, "dead", 1, 1),
        (Class::Document, 9, "dead", 2, 2),
        (Class::Bug, 9, "dead", 2, 2),
        (Class::Renderer, 9, "dead", 3, 3),
        (Class::Resource, 9, "dead", 3, 3),
        (Class::Renderer, 2, "done", 3, 3),
        (Class::Dependency, 2, "done", 1, 3),
        (Class::Interrupted, 2, "done", 1, 3),
    ];
    for (index, (class, times, ..)) in cases.iter().enumerate() {
        let html = format!("<p>{index}");
        renderer.fail(&html, &vec![*class; *times]);
        let header = format!("{{\"id\":\"r-{index}\",\"meta\":{{\"order\":\"{index}\"}}}}\n{html}");
        rig.push(Interactive, header.as_bytes()).await;
    }
    for (index, (class, times, status, attempts, renders)) in cases.iter().enumerate() {
        let case = format!("{class}, {times} times");
        let answer = rig.reply(&format!("default/r-{index}")).await;
        assert_eq!(answer.status(), *status, "{case}");
        assert_eq!(answer.line["attempts"], *attempts, "{case}");
        assert_eq!(answer.line["meta"]["order"], index.to_string(), "{case}");
        if *status == "dead" {
            assert_eq!(answer.line["error"]["class"], class.as_str(), "{case}");
        }
        let html = format!("<p>{index}");
        let rendered = renderer.rendered().iter().filter(|seen| **seen == html).count();
        assert_eq!(rendered, *renders, "{case}");
    }
    worker.stop(Stop::Drain).await;
    rig.assert_at_rest().await;
}

/// One slot, taken by a job at the gate; what comes after it waits in Redis.
async fn behind_a_closed_gate(rig: &Rig) -> (Running, std::sync::Arc<Scripted>) {
    let renderer = Scripted::gated();
    let worker = Running::start(rig, "w1", &renderer, 1).await;
    rig.push(Interactive, &document("acme", "first", "<p>first")).await;
    renderer.wait_started(1).await;
    (worker, renderer)
}

#[tokio::test]
async fn a_job_whose_deadline_passed_in_the_queue_expires_unrendered() {
    let rig = Rig::new();
    let (worker, renderer) = behind_a_closed_gate(&rig).await;
    rig.push(Interactive, b"{\"id\":\"r\",\"deadline_ms\":60000,\"meta\":{\"order\":\"7\"}}\n<p>")
        .await;
    rig.event("admitted", "default/r").await;
    let key = rig.keys.job(&Name::parse("default/r").unwrap());
    let _: i64 = rig.ask(&["HSET", &key, "deadline", "1"]).await;
    renderer.open_gate();
    let answer = rig.reply("default/r").await;
    assert_eq!((answer.status(), answer.code()), ("expired", "expired"));
    assert_eq!(answer.line["meta"]["order"], "7");
    worker.stop(Stop::Drain).await;
    assert_eq!(renderer.rendered(), ["<p>first"]);
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn a_job_whose_document_is_gone_dies_and_says_so() {
    let rig = Rig::new();
    let (worker, renderer) = behind_a_closed_gate(&rig).await;
    rig.push(Interactive, &document("acme", "r", "<p>")).await;
    rig.event("admitted", "acme/r").await;
    let _: u64 = rig.ask(&["DEL", &rig.keys.document(&Name::parse("acme/r").unwrap())]).await;
    renderer.open_gate();
    let answer = rig.reply("acme/r").await;
    assert_eq!((answer.status(), answer.code()), ("dead", "body_lost"));
    assert!(answer.line["error"]["remedy"].as_str().unwrap().contains("noeviction"));
    worker.stop(Stop::Drain).await;
}

#[tokio::test]
async fn a_job_that_workers_die_of_is_poison() {
    let rig = Rig::new();
    let (worker, renderer) = behind_a_closed_gate(&rig).await;
    rig.push(Interactive, &document("acme", "r", "<p>")).await;
    rig.event("admitted", "acme/r").await;
    let key = rig.keys.job(&Name::parse("acme/r").unwrap());
    let _: i64 = rig.ask(&["HSET", &key, "crashes", "5"]).await;
    renderer.open_gate();
    assert_eq!(rig.reply("acme/r").await.code(), "poison");
    worker.stop(Stop::Drain).await;
    assert_eq!(renderer.rendered(), ["<p>first"]);
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let rig = Rig::new();
    let (worker, renderer) = behind_a_closed_gate(&rig).await;
    rig.queue("operator").await.set_limit("jobs", Some(1)).await.unwrap();
    rig.push(Interactive, &document("acme", "r", "<p>")).await;
    let answer = rig.reply("acme/r").await;
    assert_eq!((answer.status(), answer.code()), ("rejected", "queue_full"));
    assert!(answer.line["error"]["retry_ms"].as_u64().unwrap() > 0);
    renderer.open_gate();
    rig.reply("acme/first").await;
    worker.stop(Stop::Drain).await;
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn draining_finishes_what_runs_and_leaves_the_rest_to_others() {
    let rig = Rig::new();
    let (mut worker, renderer) = behind_a_closed_gate(&rig).await;
    rig.push(Interactive, &document("acme", "second", "<p>second")).await;
    rig.event("admitted", "acme/second").await;
    let drain = serde_json::to_string(&Control::Drain).unwrap();
    let _: u64 = rig.ask(&["RPUSH", &rig.keys.control("w1"), &drain]).await;
    worker.wait_for("draining", |seen| seen.phase == tillroll::worker::Phase::Draining).await;
    rig.push(Interactive, &document("acme", "third", "<p>third")).await;
    renderer.open_gate();
    assert_eq!(rig.reply("acme/first").await.status(), "done");
    assert_eq!(worker.ended().await.done, 1);
    rig.assert_consistent().await;
    let other = Running::start(&rig, "w2", &renderer, 1).await;
    for id in ["second", "third"] {
        assert_eq!(rig.reply(&format!("acme/{id}")).await.status(), "done");
    }
    other.stop(Stop::Drain).await;
    assert_eq!(renderer.rendered().len(), 3);
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn aborting_releases_what_runs_uncounted() {
    let rig = Rig::new();
    let (worker, renderer) = behind_a_closed_gate(&rig).await;
    let totals = worker.stop(Stop::Abort).await;
    assert_eq!((totals.done, totals.released), (0, 1));
    assert_eq!(rig.event("released", "acme/first").await, "released");
    rig.assert_consistent().await;
    renderer.open_gate();
    let other = Running::start(&rig, "w2", &renderer, 1).await;
    assert_eq!(rig.reply("acme/first").await.line["attempts"], 1);
    other.stop(Stop::Drain).await;
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn what_a_killed_worker_had_is_rendered_by_another() {
    let rig = Rig::new();
    let renderer = Scripted::gated();
    let lease = Duration::from_secs(1);
    let killed = Running::with_lease(&rig, "w1", &renderer, 1, lease).await;
    rig.push(Interactive, &document("acme", "r-1", "<p>")).await;
    renderer.wait_started(1).await;
    killed.kill().await;
    // An element that it had in hand, unadmitted.
    rig.stage(&rig.queue("w1").await, Bulk, &document("acme", "r-2", "<p>")).await;
    renderer.open_gate();
    let other = Running::with_lease(&rig, "w2", &renderer, 1, lease).await;
    let answer = rig.reply("acme/r-1").await;
    assert_eq!((answer.status(), &answer.line["attempts"]), ("done", &1.into()));
    assert_eq!(rig.reply("acme/r-2").await.status(), "done");
    other.stop(Stop::Drain).await;
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn a_render_stops_when_its_lease_is_lost_and_writes_nothing() {
    let rig = Rig::new();
    let renderer = Scripted::gated();
    let mut worker = Running::with_lease(&rig, "w1", &renderer, 1, Duration::from_secs(2)).await;
    rig.push(Interactive, &document("acme", "r-1", "<p>")).await;
    renderer.wait_started(1).await;
    let other = rig.queue("w2").await;
    // The worker renews meanwhile: it may take more than one try.
    while rig.field("acme/r-1", "crashes").await.is_none() {
        rig.expire_lease("acme/r-1").await;
        other.housekeep(true).await.unwrap();
    }
    let theirs = expect_claim(&other).await;
    worker.wait_for("without its lease", |seen| seen.totals.lost == 1).await;
    rig.assert_consistent().await;
    other.finish(&theirs.lease, &done(b"%PDF theirs"), None).await.unwrap();
    renderer.open_gate();
    assert_eq!(rig.reply("acme/r-1").await.pdf.unwrap(), b"%PDF theirs");
    worker.stop(Stop::Drain).await;
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn a_redis_that_was_killed_in_mid_flight_loses_nothing() {
    let mut rig = Rig::on(RedisServer::durable());
    let (mut worker, renderer) = behind_a_closed_gate(&rig).await;
    let ids: Vec<String> = (0..8).map(|n| format!("r-{n}")).collect();
    for id in &ids {
        rig.push(Interactive, &document("acme", id, &format!("<p>{id}"))).await;
    }
    rig.server.kill();
    worker.wait_for("without Redis", |seen| !seen.redis.ok).await;
    renderer.open_gate();
    rig.server.restart();
    for id in ids.iter().map(String::as_str).chain(["first"]) {
        let answer = rig.reply(&format!("acme/{id}")).await;
        assert_eq!(answer.pdf.unwrap(), Scripted::pdf(&format!("<p>{id}")));
    }
    worker.wait_for("with Redis", |seen| seen.redis.ok).await;
    worker.stop(Stop::Drain).await;
    assert_eq!(renderer.rendered().len(), 9, "each once");
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn a_redis_that_is_silent_with_tcp_still_up_is_noticed() {
    let rig = Rig::new();
    let (mut worker, renderer) = behind_a_closed_gate(&rig).await;
    rig.server.freeze();
    renderer.open_gate();
    worker.wait_for("without Redis", |seen| !seen.redis.ok).await;
    rig.server.thaw();
    assert_eq!(rig.reply("acme/first").await.status(), "done");
    rig.push(Interactive, &document("acme", "r-1", "<p>")).await;
    assert_eq!(rig.reply("acme/r-1").await.status(), "done");
    worker.wait_for("with Redis", |seen| seen.redis.ok).await;
    worker.stop(Stop::Drain).await;
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn a_worker_can_be_scaled_while_it_runs() {
    let rig = Rig::new();
    let renderer = Scripted::gated();
    let mut worker = Running::start(&rig, "w1", &renderer, 3).await;
    let scale = async |slots| {
        let command = serde_json::to_string(&Control::Scale { slots }).unwrap();
        let _: u64 = rig.ask(&["RPUSH", &rig.keys.control("w1"), &command]).await;
    };
    scale(Some(1)).await;
    worker.wait_for("scaled down", |seen| seen.slots.total == 1).await;
    for n in 0..3 {
        rig.push(Interactive, &document("acme", &format!("r-{n}"), "<p>")).await;
        rig.event("admitted", &format!("acme/r-{n}")).await;
    }
    worker.wait_for("at work", |seen| seen.slots.in_use == 1).await;
    assert_eq!(renderer.rendered().len(), 1);
    scale(None).await;
    renderer.wait_started(3).await;
    renderer.open_gate();
    for n in 0..3 {
        rig.reply(&format!("acme/r-{n}")).await;
    }
    worker.stop(Stop::Drain).await;
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn replies_go_to_the_list_that_was_asked_for_and_the_pdf_to_its_key() {
    let rig = Rig::new();
    let renderer = Scripted::open();
    renderer.fail("<p>bad", &[Class::Input]);
    let worker = Running::start(&rig, "w1", &renderer, 1).await;
    for (id, html) in [("good", "<p>good"), ("bad", "<p>bad")] {
        let element = format!("{{\"id\":\"{id}\",\"reply_to\":\"mailer\"}}\n{html}");
        rig.push(Interactive, element.as_bytes()).await;
        let answer = rig.reply_to("mailer").await;
        assert_eq!((answer.line["id"].as_str(), &answer.pdf), (Some(id), &None));
        if id == "good" {
            let pdf: Vec<u8> =
                rig.ask(&["GET", answer.line["output"]["key"].as_str().unwrap()]).await;
            assert_eq!(pdf, Scripted::pdf(html));
        } else {
            assert_eq!(answer.status(), "dead");
        }
    }
    worker.stop(Stop::Drain).await;
    rig.assert_at_rest().await;
}
