//! Another Redis becomes the primary, and the old one keeps its clients.

use redis::cmd;
use tillroll::job::Priority::Interactive;
use tillroll::worker::Stop;

use crate::support::rig::{PATIENCE, ask};
use crate::support::{Proxy, RedisServer, Rig, Running, Scripted, document};

#[tokio::test]
async fn a_worker_follows_its_address_to_the_new_primary() {
    let rig = Rig::new();
    let next = Rig::on(RedisServer::volatile());
    let port = |rig: &Rig| rig.server.url().rsplit(':').next().unwrap().to_owned();
    let proxy = Proxy::to(&rig.server.url()).await;
    let renderer = Scripted::open();
    let queue = Rig::queue_at(proxy.url(), "w1", PATIENCE).await;
    let mut worker = Running::on(queue, &renderer, 1, PATIENCE);
    worker.wait_for("ready", |seen| seen.renderer.ok && seen.redis.ok).await;
    rig.push(Interactive, &document("acme", "before", "<p>before")).await;
    assert_eq!(rig.reply("acme/before").await.status(), "done");

    // A name or a virtual address moves; nobody tells the clients of the old primary.
    next.ask::<()>(&["REPLICAOF", "127.0.0.1", &port(&rig)]).await;
    let mut old = rig.connection().await;
    let synced: i64 = cmd("WAIT").arg(1).arg(20_000).query_async(&mut old).await.unwrap();
    assert_eq!(synced, 1);
    next.ask::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    proxy.lead_to(&next.server.url());
    ask::<()>(&mut old, &["REPLICAOF", "127.0.0.1", &port(&next)]).await;

    next.push(Interactive, &document("acme", "after", "<p>after")).await;
    assert_eq!(next.reply("acme/after").await.status(), "done");
    worker.wait_for("ready again", |seen| seen.redis.ok).await;
    worker.stop(Stop::Drain).await;
}
