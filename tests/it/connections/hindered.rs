//! A Redis that answers and refuses: the worker says why, does not spin, and goes
//! on by itself.

use std::sync::Arc;

use tillroll::job::Priority::Interactive;
use tillroll::queue::QueueError;
use tillroll::worker::Stop;

use crate::support::rig::PATIENCE;
use crate::support::{RedisServer, Rig, Running, Scripted, document};

/// What a worker may ask of a Redis that refuses, in each second, what scripts call included:
/// twice what housekeeping takes when all is well. A loop without a pause makes thousands.
const CALLS_PER_SECOND: u64 = 120;

/// A worker with one job at the gate and three that wait in Redis.
struct AtWork {
    worker: Running,
    renderer: Arc<Scripted>,
}

impl AtWork {
    async fn on(rig: &Rig) -> Self {
        let renderer = Scripted::gated();
        let worker = Running::start(rig, "w1", &renderer, 1).await;
        for n in 0..4 {
            rig.push(Interactive, &document("acme", &format!("r-{n}"), &format!("<p>{n}"))).await;
            rig.event("admitted", &format!("acme/r-{n}")).await;
        }
        renderer.wait_started(1).await;
        Self { worker, renderer }
    }

    /// Its readiness says `why`, again and again, while the job at the gate is done.
    async fn says(&mut self, why: &str) {
        let wanted = |why_it_says: &Option<String>| {
            why_it_says.as_ref().is_some_and(|says| says.contains(why))
        };
        let what = format!("not ready: {why}");
        self.worker.wait_for(&what, |seen| !seen.redis.ok && wanted(&seen.redis.why)).await;
        self.renderer.open_gate();
        for _ in 0..4 {
            let seen = self.worker.published().await;
            assert!(!seen.redis.ok, "it flaps although nothing has changed");
            assert!(wanted(&seen.redis.why), "{:?}", seen.redis);
            assert_eq!(seen.reasons()[0].what, "redis");
        }
    }

    /// Commands that it sends in a second, a few seconds long.
    async fn does_not_spin(&mut self, rig: &Rig) {
        let before = commands(rig).await;
        let seconds = 4;
        for _ in 0..seconds {
            self.worker.published().await;
        }
        let calls = (commands(rig).await - before) / seconds;
        assert!(calls <= CALLS_PER_SECOND, "{calls} commands a second");
    }

    /// Every job comes back, rendered once.
    async fn recovers(mut self, rig: &Rig) {
        for n in 0..4 {
            let answer = rig.reply(&format!("acme/r-{n}")).await;
            assert_eq!(answer.pdf.unwrap(), Scripted::pdf(&format!("<p>{n}")));
        }
        self.worker.wait_for("ready again", |seen| seen.redis.ok).await;
        self.worker.stop(Stop::Drain).await;
        assert_eq!(self.renderer.rendered().len(), 4, "each once");
        rig.assert_at_rest().await;
    }
}

/// Commands that Redis was asked for, but our own looking.
async fn commands(rig: &Rig) -> u64 {
    let stats: String = rig.ask(&["INFO", "commandstats"]).await;
    let of_line = |line: &str| -> u64 {
        let field = |name: &str| {
            line.split([':', ','])
                .find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
                .map_or(0, |number| number.trim().parse().unwrap())
        };
        field("calls") + field("rejected_calls")
    };
    let ours = ["cmdstat_info:", "cmdstat_client|setinfo:", "cmdstat_client:"];
    stats.lines().filter(|line| !ours.iter().any(|ours| line.starts_with(ours))).map(of_line).sum()
}

async fn set(rig: &Rig, name: &str, value: &str) {
    let _: () = rig.ask(&["CONFIG", "SET", name, value]).await;
}

/// Saves in the background until INFO says that it ended so.
async fn save(rig: &Rig, status: &str) {
    let wanted = format!("rdb_last_bgsave_status:{status}\r");
    let saved = tokio::time::timeout(PATIENCE, async {
        let _: String = rig.ask(&["BGSAVE"]).await;
        while !rig.ask::<String>(&["INFO", "persistence"]).await.contains(&wanted) {
            tokio::task::yield_now().await;
        }
    });
    saved.await.unwrap_or_else(|_| panic!("no save ended with {status}"));
}

/// What a call of each sort says: a script, a pipeline, a plain command.
async fn assert_kind(rig: &Rig, kind: &str) {
    let queue = rig.queue("w9").await;
    let client = tillroll::client::Client::new(rig.server.url(), "receipts", 1).unwrap();
    let errors: [QueueError; 3] = [
        queue.renew(&[], "{}").await.unwrap_err(),
        queue.leave().await.unwrap_err(),
        client.push(Interactive, &document("acme", "late", "<p>")).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(!error.remedy().is_empty());
    }
}

#[tokio::test]
async fn a_redis_that_cannot_save() {
    let rig = Rig::new();
    let mut work = AtWork::on(&rig).await;
    set(&rig, "save", "3600 1").await;
    rig.server.obstruct_saving();
    save(&rig, "err").await;
    assert_kind(&rig, "misconf").await;
    work.says("cannot write to its disk").await;
    work.does_not_spin(&rig).await;
    rig.server.allow_saving();
    save(&rig, "ok").await;
    work.recovers(&rig).await;
}

#[tokio::test]
async fn a_redis_without_its_replicas() {
    let rig = Rig::new();
    let mut work = AtWork::on(&rig).await;
    set(&rig, "min-replicas-to-write", "1").await;
    assert_kind(&rig, "noreplicas").await;
    work.says("fewer replicas").await;
    work.does_not_spin(&rig).await;
    set(&rig, "min-replicas-to-write", "0").await;
    work.recovers(&rig).await;
}

#[tokio::test]
async fn a_redis_that_became_a_replica() {
    let rig = Rig::new();
    let mut work = AtWork::on(&rig).await;
    // Nobody listens there: it keeps what it has.
    let _: () = rig.ask(&["REPLICAOF", "127.0.0.1", "1"]).await;
    assert_kind(&rig, "readonly").await;
    work.says("takes no writes").await;
    work.does_not_spin(&rig).await;
    let _: () = rig.ask(&["REPLICAOF", "NO", "ONE"]).await;
    work.recovers(&rig).await;
}

#[tokio::test]
async fn a_full_redis_takes_nothing_new_and_delivers_what_it_has() {
    let rig = Rig::new();
    let mut work = AtWork::on(&rig).await;
    set(&rig, "maxmemory", "1").await;
    let client = tillroll::client::Client::new(rig.server.url(), "receipts", 1).unwrap();
    let late = document("acme", "late", "<p>late");
    let error = client.push(Interactive, &late).await.unwrap_err();
    assert_eq!(error.kind(), "full", "{error:?}");
    assert!(error.remedy().contains("maxmemory"));
    work.does_not_spin(&rig).await;
    // A restart in this state: the scripts are forgotten as well.
    let _: () = rig.ask(&["SCRIPT", "FLUSH"]).await;
    work.renderer.open_gate();
    // Each result that is taken makes room for the next.
    for n in 0..4 {
        let answer = rig.reply(&format!("acme/r-{n}")).await;
        assert_eq!(answer.pdf.unwrap(), Scripted::pdf(&format!("<p>{n}")));
    }
    work.does_not_spin(&rig).await;
    set(&rig, "maxmemory", "0").await;
    client.push(Interactive, &late).await.unwrap();
    assert_eq!(rig.reply("acme/late").await.status(), "done");
    work.worker.stop(Stop::Drain).await;
    assert_eq!(work.renderer.rendered().len(), 5, "each once");
    rig.assert_at_rest().await;
}

#[tokio::test]
async fn a_redis_that_is_loading() {
    let mut rig = Rig::new();
    // Something to load, which takes its time.
    const FILL: &str = "for i = 1, 400 do \
        redis.call('SET', 'filler:' .. i, string.rep(redis.sha1hex(i), 1000)) end";
    let _: () = rig.ask(&["EVAL", FILL, "0"]).await;
    set(&rig, "rdbcompression", "no").await;
    let mut work = AtWork::on(&rig).await;
    let _: () = rig.ask(&["SAVE"]).await;
    rig.server.restart_slowly(15_000);
    work.worker
        .wait_for("told that it is loading", |seen| {
            !seen.redis.ok && seen.redis.why.as_ref().is_some_and(|why| why.contains("loading"))
        })
        .await;
    work.renderer.open_gate();
    let mut seen_while_loading = 0;
    loop {
        let seen = work.worker.published().await;
        if !loading(&rig).await {
            break;
        }
        assert!(!seen.redis.ok, "it flaps although nothing has changed");
        seen_while_loading += 1;
    }
    assert!(seen_while_loading > 0, "it was loaded before anybody looked");
    work.recovers(&rig).await;
}

async fn loading(rig: &Rig) -> bool {
    rig.ask::<String>(&["INFO", "persistence"]).await.contains("loading:1\r")
}

#[tokio::test]
async fn a_node_of_a_cluster_is_no_place_for_a_queue() {
    let server = RedisServer::start(&["--appendonly", "no", "--cluster-enabled", "yes"]);
    let client = tillroll::client::Client::new(server.url(), "receipts", 1).unwrap();
    let error = client.push(Interactive, &document("acme", "r-1", "<p>")).await.unwrap_err();
    assert_eq!(error.kind(), "cluster", "{error:?}");
    assert!(error.remedy().contains("not part of a cluster"));
}

#[tokio::test]
async fn a_redis_that_is_busy_with_a_strangers_script() {
    let rig = Rig::new();
    set(&rig, "lua-time-limit", "10").await;
    let queue = rig.queue("w1").await;
    let mut stranger = rig.connection().await;
    let endless = tokio::spawn(async move {
        let mut script = redis::cmd("EVAL");
        script.arg("while true do end").arg(0).query_async::<()>(&mut stranger).await
    });
    // It may not have begun yet.
    let error = loop {
        if let Err(error) = queue.counts().await {
            break error;
        }
    };
    assert_eq!(error.kind(), "busy", "{error:?}");
    let _: () = rig.ask(&["SCRIPT", "KILL"]).await;
    endless.await.unwrap().unwrap_err();
    queue.counts().await.unwrap();
}
