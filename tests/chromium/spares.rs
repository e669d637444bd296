//! Contexts that are made ready before anybody asks for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;
use tillroll::pool::{Isolation, Pool, PoolConfig, PoolStatus};
use tillroll::renderer::{Render, Watch};

use crate::pool::until;
use crate::printed::{config, none, page, request};

fn pool(isolation: Isolation, max_contexts: usize) -> Pool {
    Pool::start(PoolConfig { spares: 1, isolation, max_contexts, ..config() })
}

async fn ready(pool: &Pool, so: impl Fn(&PoolStatus) -> bool) {
    until("a spare context", || so(&pool.status())).await;
}

async fn receipt(pool: &Pool, tenant: &str) {
    let rendered = pool.render(request(tenant, &page("<p>Tea 2.00"), json!({"paper": "80mm"})));
    assert_eq!(rendered.await.unwrap().pages, 1);
}

fn tenants(pool: &Pool) -> Vec<String> {
    let mut all: Vec<_> = pool.renderers().iter().map(|one| one.tenant.to_string()).collect();
    all.sort_unstable();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_tenant_gets_what_was_made_ready_and_another_is_made() {
    let pool = pool(Isolation::Tenant, 4);
    ready(&pool, |status| status.idle == 1).await;
    let spare = pool.renderers()[0].pid;
    receipt(&pool, "a").await;
    let after: Vec<_> = pool.renderers().into_iter().filter(|one| &*one.tenant == "a").collect();
    assert_eq!(after.len(), 1);
    assert_eq!((after[0].pid, after[0].busy), (spare, false), "it is the tenant's now");
    ready(&pool, |status| status.idle == 2).await;
    assert_eq!((pool.status().opened, tenants(&pool)), (2, vec![String::new(), "a".into()]));
    // Its own comes before a spare one, which nobody has used.
    receipt(&pool, "a").await;
    receipt(&pool, "b").await;
    ready(&pool, |status| status.idle == 3).await;
    assert_eq!(pool.status().opened, 3);
    assert_eq!(tenants(&pool), ["", "a", "b"], "no renderer is two tenants'");
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_the_first_to_make_room() {
    let pool = pool(Isolation::Tenant, 2);
    ready(&pool, |status| status.idle == 1).await;
    receipt(&pool, "a").await;
    ready(&pool, |status| status.idle == 2).await;
    assert_eq!(tenants(&pool), ["", "a"]);
    receipt(&pool, "b").await;
    assert_eq!(tenants(&pool), ["a", "b"], "b has what was ready, and nothing is evicted for more");
    receipt(&pool, "c").await;
    receipt(&pool, "b").await;
    assert_eq!(tenants(&pool), ["b", "c"]);
    pool.set_max_contexts(3);
    ready(&pool, |status| status.idle == 3).await;
    pool.set_max_contexts(2);
    until("two contexts", || pool.status().contexts == 2).await;
    assert_eq!(tenants(&pool), ["b", "c"]);
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_with_a_context_of_its_own_takes_it_and_one_with_scripts_does_not() {
    let pool = pool(Isolation::Job, 4);
    ready(&pool, |status| status.idle == 1).await;
    let html = page("<p>Tea<script>document.title = 'by script'</script>");
    pool.render(request("a", &html, json!({"script": true}))).await.unwrap();
    assert_eq!((pool.status().opened, pool.status().idle), (2, 1), "it is still there");
    receipt(&pool, "a").await;
    ready(&pool, |status| status.opened == 3 && status.idle == 1).await;
    assert_eq!(tenants(&pool), [""], "the used one is gone");
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn none_is_made_where_each_context_has_a_browser_of_its_own() {
    let pool = pool(Isolation::Browser, 4);
    pool.ready().await.unwrap();
    pool.render(request("a", &page("<p>Tea"), none())).await.unwrap();
    assert_eq!((pool.status().opened, pool.status().idle), (1, 1));
    pool.close().await;
}

/// Says whether there is memory, and counts how often it was asked.
#[derive(Default)]
struct Room {
    is_there: AtomicBool,
    asked: AtomicUsize,
    entered: AtomicUsize,
}

impl Watch for Room {
    fn entered(&self, job: u64, _: u64, tenant: &Arc<str>, _: Option<u32>) {
        assert_eq!((job, &**tenant), (0, ""), "it is told as nobody's");
        self.entered.fetch_add(1, Ordering::SeqCst);
    }

    fn left(&self, _: u64, _: u64, sound: bool, _: Option<u64>) -> bool {
        sound
    }

    fn ended(&self, _: u64) {}

    fn has_room_to_spare(&self) -> bool {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.is_there.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn none_is_made_without_memory_for_it() {
    let pool = pool(Isolation::Tenant, 4);
    let room = Arc::new(Room::default());
    assert!(pool.watched_by(Arc::clone(&room) as Arc<dyn Watch>));
    until("it was asked twice", || {
        // Something changes: it looks again.
        pool.set_max_contexts(4);
        room.asked.load(Ordering::SeqCst) >= 2
    })
    .await;
    assert_eq!(pool.status().opened, 0);
    room.is_there.store(true, Ordering::SeqCst);
    pool.set_max_contexts(4);
    ready(&pool, |status| status.idle == 1).await;
    assert_eq!(room.entered.load(Ordering::SeqCst), 1);
    pool.close().await;
}
