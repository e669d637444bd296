//! Assets of a tenant: stored once, seen by its jobs from the next claim on, and by
//! nobody else's.

use std::sync::{Arc, Mutex};

use tillroll::job::Asset;
use tillroll::job::Priority::Interactive;
use tillroll::queue::assets::Put;
use tillroll::queue::{Damage, Forget, Queue};
use tillroll::renderer::{Readiness, Render, RenderFuture, RenderRequest, Rendered};
use tillroll::worker::Stop;
use tokio::sync::watch;

use crate::support::rig::PATIENCE;
use crate::support::{Rig, Running, document, expect_claim};

fn asset(name: &str, bytes: &str) -> Asset {
    Asset { name: name.to_owned(), media_type: "image/png", bytes: bytes.to_owned().into() }
}

async fn put(queue: &Queue, tenant: &str, name: &str, bytes: &str) -> Put {
    queue.put_asset(tenant, &asset(name, bytes)).await.unwrap()
}

async fn names(queue: &Queue, tenant: &str) -> Vec<String> {
    queue.list_assets(tenant).await.unwrap().into_iter().map(|asset| asset.name).collect()
}

/// The version that a job of `tenant` is claimed with.
async fn claimed(rig: &Rig, queue: &Queue, tenant: &str) -> Option<String> {
    let id = format!("r-{}", rig.turn());
    rig.admit(queue, &document(tenant, &id, "<p>")).await;
    let claimed = expect_claim(queue).await;
    assert_eq!(claimed.lease.name().tenant(), tenant);
    claimed.assets
}

/// Prints what it was given: name and content of each asset.
struct Seeing {
    seen: Mutex<Vec<String>>,
    readiness: watch::Sender<Readiness>,
}

impl Seeing {
    fn new() -> Arc<Self> {
        let readiness = watch::Sender::new(Ok(()));
        Arc::new(Self { seen: Mutex::default(), readiness })
    }

    fn last(&self) -> String {
        self.seen.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

impl Render for Seeing {
    fn render(&self, request: RenderRequest) -> RenderFuture<'_> {
        let show =
            |asset: &Asset| format!("{}={}", asset.name, String::from_utf8_lossy(&asset.bytes));
        let seen: Vec<String> = request.assets.iter().map(show).collect();
        self.seen.lock().unwrap().push(seen.join(" "));
        Box::pin(async {
            Ok(Rendered { sha256: None, pdf: b"%PDF".to_vec(), pages: 1, warnings: Vec::new() })
        })
    }

    fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }
}

#[tokio::test]
async fn assets_are_stored_replaced_listed_and_taken_away() {
    let rig = Rig::new();
    let queue = rig.queue("operator").await;
    assert_eq!(put(&queue, "acme", "logo.png", "one").await, Put::Added);
    assert_eq!(put(&queue, "acme", "logo.png", "other").await, Put::Replaced);
    assert_eq!(put(&queue, "acme", "a/b.png", "b").await, Put::Added);
    assert_eq!(put(&queue, "zeta", "z.png", "z").await, Put::Added);
    rig.assert_consistent().await;
    let listed = queue.list_assets("acme").await.unwrap();
    let logo = &listed[1];
    assert_eq!((logo.name.as_str(), logo.media_type.as_str()), ("logo.png", "image/png"));
    assert_eq!((logo.bytes, logo.sha256.len()), (5, 64));
    assert!(logo.at_ms > 1_600_000_000_000, "{}", logo.at_ms);
    assert_eq!(queue.tenants_with_assets().await.unwrap(), ["acme", "zeta"]);

    let stock = queue.stock("acme").await.unwrap();
    assert_eq!(stock.assets, [asset("a/b.png", "b"), asset("logo.png", "other")]);
    assert!(!stock.version.is_empty() && stock.damaged.is_empty());
    let gone = ["logo.png".to_owned(), "never.png".to_owned()];
    assert_eq!(queue.remove_assets("acme", &gone).await.unwrap(), ["logo.png"]);
    assert_eq!(names(&queue, "acme").await, ["a/b.png"]);
    assert_eq!(queue.remove_assets("acme", &["a/b.png".to_owned()]).await.unwrap(), ["a/b.png"]);
    rig.assert_consistent().await;
    assert_eq!(queue.stock("acme").await.unwrap(), tillroll::queue::assets::Stock::default());
    assert_eq!(names(&queue, "zeta").await, ["z.png"]);
    assert!(queue.fsck(false).await.unwrap().is_clean());
}

#[tokio::test]
async fn each_limit_refuses_by_its_name_and_changes_nothing() {
    let rig = Rig::new();
    let queue = rig.queue("operator").await;
    put(&queue, "acme", "a.png", "12345").await;
    for (limit, allowed, found, name, bytes) in [
        ("asset_bytes", 5, 6, "b.png", "123456"),
        ("tenant_assets", 1, 2, "b.png", "1"),
        ("tenant_asset_bytes", 7, 8, "b.png", "123"),
    ] {
        queue.set_limit(limit, Some(allowed)).await.unwrap();
        let refused = Put::Refused { limit, found, allowed };
        assert_eq!(put(&queue, "acme", name, bytes).await, refused);
        assert_eq!(names(&queue, "acme").await, ["a.png"]);
        // Another in its place takes no more room; another tenant has its own.
        assert_eq!(put(&queue, "acme", "a.png", "54321").await, Put::Replaced);
        assert_eq!(put(&queue, "zeta", "a.png", "1").await, Put::Added, "{limit}");
        queue.remove_assets("zeta", &["a.png".to_owned()]).await.unwrap();
        queue.set_limit(limit, None).await.unwrap();
    }
    // Without a limit there is one still.
    let large = "x".repeat((8 << 20) + 1);
    let refused = put(&queue, "acme", "b.png", &large).await;
    let allowed = 8 << 20;
    assert_eq!(refused, Put::Refused { limit: "asset_bytes", found: allowed + 1, allowed });
    rig.assert_consistent().await;
}

#[tokio::test]
async fn a_claim_says_whether_there_are_assets_and_which() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    assert_eq!(claimed(&rig, &queue, "acme").await, None);
    put(&queue, "acme", "a.png", "1").await;
    let first = claimed(&rig, &queue, "acme").await;
    assert!(first.is_some());
    assert_eq!(claimed(&rig, &queue, "acme").await, first, "nothing was changed");
    assert_eq!(claimed(&rig, &queue, "zeta").await, None);
    // The same content again is a new version too, and so is a smaller set.
    put(&queue, "acme", "a.png", "1").await;
    let second = claimed(&rig, &queue, "acme").await;
    put(&queue, "acme", "b.png", "1").await;
    let third = claimed(&rig, &queue, "acme").await;
    queue.remove_assets("acme", &["a.png".to_owned()]).await.unwrap();
    let fourth = claimed(&rig, &queue, "acme").await;
    let all = [&first, &second, &third, &fourth];
    assert!(all.iter().all(|one| one.is_some() && all.iter().filter(|o| o == &one).count() == 1));
    queue.remove_assets("acme", &["b.png".to_owned()]).await.unwrap();
    assert_eq!(claimed(&rig, &queue, "acme").await, None);
}

#[tokio::test]
async fn a_put_is_seen_by_the_tenants_next_job_and_by_nobody_elses() {
    let rig = Rig::new();
    let queue = rig.queue("operator").await;
    let seeing = Seeing::new();
    let worker = Running::on(rig.queue("w1").await, &seeing, 1, PATIENCE);
    let html = "<img src=logo.png><img src=/static/seal.png>";
    let render = async |tenant: &str, header: &str, html: &str| {
        let id = format!("r-{}", rig.turn());
        let element = format!("{{\"id\":\"{id}\",\"tenant\":\"{tenant}\"{header}}}\n{html}");
        rig.push(Interactive, element.as_bytes()).await;
        assert_eq!(rig.reply(&format!("{tenant}/{id}")).await.status(), "done");
        seeing.last()
    };
    assert_eq!(render("acme", "", html).await, "");
    put(&queue, "acme", "logo.png", "one").await;
    assert_eq!(render("acme", "", html).await, "logo.png=one");
    put(&queue, "acme", "logo.png", "two").await;
    put(&queue, "acme", "seal.png", "seal").await;
    assert_eq!(render("acme", "", html).await, "logo.png=two seal.png=seal");
    assert_eq!(render("zeta", "", html).await, "");
    // What it does not ask for stays away; what it brings goes first.
    assert_eq!(render("acme", "", "<img src=seal.png>").await, "seal.png=seal");
    let own = r#","assets":[{"name":"logo.png","length":3}]"#;
    assert_eq!(render("acme", own, &format!("{html}own")).await, "logo.png=own seal.png=seal");
    assert_eq!(render("acme", "", "<p>logo seal").await, "", "it loads nothing");
    // They are read when they have changed, and not for each job.
    let reads = async || {
        let info: String = rig.ask(&["INFO", "commandstats"]).await;
        let hgetall = info.lines().find(|line| line.starts_with("cmdstat_hgetall:"));
        let calls = hgetall.and_then(|line| line.split_once("calls=")?.1.split(',').next());
        calls.map_or(0, |calls| calls.parse::<u64>().unwrap())
    };
    // Scripts read the queue's settings with the same command, once each.
    let plain = reads().await;
    render("zeta", "", "<p>").await;
    let of_a_job = reads().await - plain;
    let before = reads().await;
    assert_eq!(render("acme", "", html).await, "logo.png=two seal.png=seal");
    assert_eq!(reads().await - before, of_a_job, "from memory");
    put(&queue, "acme", "logo.png", "three").await;
    let before = reads().await;
    assert_eq!(render("acme", "", html).await, "logo.png=three seal.png=seal");
    assert_eq!(reads().await - before, of_a_job + 2, "read again, once");
    worker.stop(Stop::Drain).await;
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn the_same_element_is_the_same_job_whatever_its_tenant_has() {
    let rig = Rig::new();
    let queue = rig.queue("w1").await;
    let element = document("acme", "r-1", "<img src=logo.png>");
    rig.admit(&queue, &element).await;
    put(&queue, "acme", "logo.png", "one").await;
    let again = rig.admit(&queue, &element).await;
    assert_eq!(again, tillroll::queue::Admitted::Duplicate);
}

#[tokio::test]
async fn a_forgotten_tenant_has_no_assets_and_the_others_keep_theirs() {
    let rig = Rig::new();
    let queue = rig.queue("operator").await;
    for name in ["a.png", "b.png"] {
        put(&queue, "acme", name, "1").await;
        put(&queue, "acme2", name, "1").await;
    }
    let done = queue.forget(&Forget::Tenant("acme".to_owned()), |_| ()).await.unwrap();
    assert_eq!((done.assets, done.kept), (2, false));
    let left: Vec<String> = rig.ask(&["KEYS", "*:acme"]).await;
    assert_eq!(left, Vec::<String>::new());
    assert_eq!(queue.tenants_with_assets().await.unwrap(), ["acme2"]);
    rig.assert_consistent().await;
    // One that has a living job keeps them, and says so.
    rig.admit(&queue, &document("acme2", "r", "<p>")).await;
    let worker = rig.queue("w1").await;
    expect_claim(&worker).await;
    let impatient = rig.queue_with_lease("operator", std::time::Duration::from_millis(1)).await;
    let done = impatient.forget(&Forget::Tenant("acme2".to_owned()), |_| ()).await.unwrap();
    assert_eq!((done.assets, done.kept), (0, true));
    assert_eq!(names(&queue, "acme2").await.len(), 2);
}

#[tokio::test]
async fn what_is_damaged_is_not_served_and_fsck_mends_it() {
    let rig = Rig::new();
    let queue = rig.queue("operator").await;
    let (list, contents) = (rig.keys.assets("acme"), rig.keys.asset("acme"));
    let set = rig.keys.tenant("acme");
    for (command, damaged, left) in [
        (vec!["HDEL", &contents, "a.png"], &["a.png"][..], &["b.png"][..]),
        (vec!["HSET", &contents, "a.png", "12"], &["a.png"], &["b.png"]),
        (vec!["HDEL", &list, "a.png"], &[], &["b.png"]),
        (vec!["HSET", &list, "a.png", "nonsense"], &["a.png"], &["b.png"]),
        (vec!["DEL", &contents], &["a.png", "b.png"], &[]),
        (vec!["DEL", &list], &[], &[]),
        (vec!["DEL", &set], &[], &["a.png", "b.png"]),
    ] {
        for name in ["a.png", "b.png"] {
            put(&queue, "acme", name, "1").await;
        }
        let before = queue.stock("acme").await.unwrap().version;
        let _: redis::Value = rig.ask(&command).await;
        assert_eq!(queue.stock("acme").await.unwrap().damaged, damaged, "{command:?}");
        let seen = queue.fsck(false).await.unwrap();
        assert!(seen.findings[&Damage::Asset].found > 0, "{command:?}: {seen:?}");
        assert_eq!(queue.fsck(false).await.unwrap(), seen, "looking changes nothing");
        assert_eq!(queue.fsck(true).await.unwrap().unmended(), 0, "{command:?}");
        assert!(queue.fsck(false).await.unwrap().is_clean(), "{command:?}");
        rig.assert_consistent().await;
        let after = queue.stock("acme").await.unwrap();
        assert_eq!(names(&queue, "acme").await, left, "{command:?}");
        assert_eq!(after.assets.len(), left.len(), "{command:?}");
        assert_ne!(after.version, before, "{command:?}: workers look again");
    }
    // A version without assets costs each job a look.
    queue.remove_assets("acme", &["a.png".to_owned(), "b.png".to_owned()]).await.unwrap();
    let _: i64 = rig.ask(&["HSET", &set, "assets", "ghost"]).await;
    assert_eq!(queue.fsck(true).await.unwrap().findings[&Damage::Asset].mended, 1);
    rig.assert_consistent().await;
    // The bytes changed and not their number: only who serves them looks so closely.
    put(&queue, "acme", "a.png", "1").await;
    let _: i64 = rig.ask(&["HSET", &contents, "a.png", "2"]).await;
    assert_eq!(queue.stock("acme").await.unwrap().damaged, ["a.png"]);
}

#[tokio::test]
async fn a_full_redis_takes_no_assets_and_loses_none() {
    let rig = Rig::new();
    let queue = rig.queue("operator").await;
    put(&queue, "acme", "a.png", "1").await;
    let _: () = rig.ask(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let error = queue.put_asset("acme", &asset("b.png", "2")).await.unwrap_err();
    assert!(error.to_string().contains("full") && !error.remedy().is_empty(), "{error}");
    assert_eq!(names(&queue, "acme").await, ["a.png"]);
    rig.assert_consistent().await;
    // Taking away makes room, so that is allowed.
    queue.remove_assets("acme", &["a.png".to_owned()]).await.unwrap();
    rig.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_while_it_changes_belongs_together() {
    let rig = Rig::new();
    let queue = rig.queue("operator").await;
    let reader = rig.queue("w1").await;
    put(&queue, "acme", "a.png", "first").await;
    let (stop, stopped) = watch::channel(false);
    let writing = tokio::spawn(async move {
        let mut puts = 0_u32;
        while !*stopped.borrow() {
            for name in ["a.png", "b.png"] {
                put(&queue, "acme", name, &format!("{puts}").repeat(5000)).await;
                puts += 1;
            }
        }
        puts
    });
    let mut versions = std::collections::BTreeSet::new();
    while versions.len() < 20 {
        // One that changed at each look says so, and is asked again.
        let Ok(stock) = reader.stock("acme").await else { continue };
        assert_eq!(stock.damaged, Vec::<String>::new());
        for asset in &stock.assets {
            let text = String::from_utf8(asset.bytes.to_vec()).unwrap();
            let unit = &text[..text.len() / 5000.min(text.len())];
            assert!(text == "first" || unit.repeat(5000) == text, "{}", asset.name);
        }
        versions.insert(stock.version);
    }
    stop.send(true).unwrap();
    assert!(writing.await.unwrap() >= 20);
    rig.assert_consistent().await;
}
