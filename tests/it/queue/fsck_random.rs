//! A queue that was damaged at random is mended, and every job whose document
//! survived comes to its end.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tillroll::job::Priority::{Bulk, Interactive};
use tillroll::queue::{Admitted, Queue};

use crate::support::rig::{dead, done};
use crate::support::{Calls, Rig, document, expect_claim, parsed, under};

/// What became of a job before the damage.
#[derive(Debug, Clone, Copy)]
enum Life {
    Ready,
    Delayed,
    Leased,
    Retried,
    Done,
    Dead,
}

/// One stroke: which name or key it hits is chosen among what is there.
#[derive(Debug, Clone)]
enum Stroke {
    DeleteKey(usize),
    DeleteRecord(usize),
    DeleteDocument(usize),
    DropMember(usize, usize),
    StrangeMember(usize, usize),
    DropReady(usize),
    DropField(usize, usize),
    Count(usize, i64),
    TimeToLive(usize, bool),
    StrangeClaim(usize),
}

const KEYS: [&str; 16] = [
    "ring:interactive",
    "ring:bulk",
    "leased",
    "delayed",
    "dead",
    "deadlines",
    "state",
    "held",
    "tenants",
    "use:t-0",
    "use:t-1",
    "ready:interactive:t-0",
    "ready:bulk:t-1",
    "claims:w1",
    "bell",
    "broken",
];
const SETS: [&str; 4] = ["leased", "delayed", "dead", "deadlines"];
const FIELDS: [&str; 8] =
    ["token", "worker", "state", "priority", "max", "attempts", "bytes", "digest"];
const COUNTERS: [(&str, &str); 6] = [
    ("state", "jobs"),
    ("state", "bytes"),
    ("state", "held"),
    ("state", "dead_bytes"),
    ("use:t-0", "jobs"),
    ("use:t-1", "running"),
];

fn life() -> impl Strategy<Value = (Life, bool, bool)> {
    use Life::*;
    let lives = prop::sample::select(vec![Ready, Ready, Delayed, Leased, Retried, Done, Dead]);
    (lives, any::<bool>(), any::<bool>())
}

fn stroke() -> impl Strategy<Value = Stroke> {
    let any_of = any::<usize>;
    prop_oneof![
        3 => any_of().prop_map(Stroke::DeleteKey),
        2 => any_of().prop_map(Stroke::DeleteRecord),
        1 => any_of().prop_map(Stroke::DeleteDocument),
        2 => (any_of(), any_of()).prop_map(|(set, name)| Stroke::DropMember(set, name)),
        2 => (any_of(), any_of()).prop_map(|(set, name)| Stroke::StrangeMember(set, name)),
        2 => any_of().prop_map(Stroke::DropReady),
        2 => (any_of(), any_of()).prop_map(|(name, field)| Stroke::DropField(name, field)),
        2 => (any_of(), -9..9_i64).prop_map(|(counter, by)| Stroke::Count(counter, by)),
        1 => (any_of(), any::<bool>()).prop_map(|(name, ends)| Stroke::TimeToLive(name, ends)),
        1 => any_of().prop_map(Stroke::StrangeClaim),
    ]
}

struct Run<'a> {
    rig: &'a Rig,
    queue: Queue,
    names: Vec<String>,
}

impl Run<'_> {
    /// A queue with jobs that have lived so.
    async fn begin<'a>(rig: &'a Rig, lives: &[(Life, bool, bool)]) -> Run<'a> {
        rig.ask::<()>(&["FLUSHALL"]).await;
        let queue = rig.queue("w1").await;
        queue.renew(&[], "{}").await.unwrap();
        let mut run = Run { rig, queue, names: Vec::new() };
        for (number, (life, bulk, deadline)) in lives.iter().enumerate() {
            run.live(number, *life, *bulk, *deadline).await;
        }
        run
    }

    async fn live(&mut self, number: usize, life: Life, bulk: bool, deadline: bool) {
        let (tenant, id) = (format!("t-{}", number % 2), format!("r-{number}"));
        self.names.push(format!("{tenant}/{id}"));
        let delay = if matches!(life, Life::Delayed) { ",\"delay_ms\":3600000" } else { "" };
        let deadline = if deadline { ",\"deadline_ms\":86400000" } else { "" };
        let header = format!("{{\"id\":\"{id}\",\"tenant\":\"{tenant}\"{delay}{deadline}}}");
        let inbox = if bulk { Bulk } else { Interactive };
        let element = format!("{header}\n<p>{number}");
        self.rig.admit_through(&self.queue, inbox, element.as_bytes()).await;
        let queue = &self.queue;
        match life {
            Life::Ready | Life::Delayed => {}
            Life::Leased => drop(expect_claim(queue).await),
            Life::Retried => {
                let lease = expect_claim(queue).await.lease;
                queue.retry(&lease, Duration::from_secs(3600), true, "scripted").await.unwrap();
            }
            Life::Done | Life::Dead => {
                let ending = if matches!(life, Life::Done) { done(b"%PDF") } else { dead() };
                queue.finish(&expect_claim(queue).await.lease, &ending, None).await.unwrap();
            }
        }
    }

    async fn hit(&self, stroke: &Stroke) {
        let key = |rest: &str| format!("{}{rest}", self.rig.keys.prefix());
        let name = |at: &usize| self.names[at % self.names.len()].clone();
        let job = |at: &usize| key(&format!("job:{}", name(at)));
        let command: Vec<String> = match stroke {
            Stroke::DeleteKey(at) => vec!["DEL".into(), key(KEYS[at % KEYS.len()])],
            Stroke::DeleteRecord(at) => vec!["DEL".into(), job(at)],
            Stroke::DeleteDocument(at) => {
                vec!["DEL".into(), key(&format!("doc:{}", name(at)))]
            }
            Stroke::DropMember(set, at) => {
                vec!["ZREM".into(), key(SETS[set % SETS.len()]), name(at)]
            }
            Stroke::StrangeMember(set, at) => {
                vec!["ZADD".into(), key(SETS[set % SETS.len()]), "5".into(), name(at)]
            }
            Stroke::DropReady(at) => {
                let name = name(at);
                let tenant = name.split('/').next().unwrap();
                let list = key(&format!("ready:interactive:{tenant}"));
                vec!["LREM".into(), list, "0".into(), name]
            }
            Stroke::DropField(at, field) => {
                vec!["HDEL".into(), job(at), FIELDS[field % FIELDS.len()].into()]
            }
            Stroke::Count(counter, by) => {
                let (hash, field) = COUNTERS[counter % COUNTERS.len()];
                vec!["HINCRBY".into(), key(hash), field.into(), by.to_string()]
            }
            Stroke::TimeToLive(at, true) => vec!["EXPIRE".into(), job(at), "1000".into()],
            Stroke::TimeToLive(at, false) => vec!["PERSIST".into(), job(at)],
            Stroke::StrangeClaim(at) => {
                vec!["HSET".into(), key("claims:w1"), format!("w1:{at}:x"), name(at)]
            }
        };
        let parts: Vec<&str> = command.iter().map(String::as_str).collect();
        self.rig.ask::<redis::Value>(&parts).await;
    }

    async fn documents(&self) -> BTreeSet<String> {
        let prefix = format!("{}doc:", self.rig.keys.prefix());
        let keys: Vec<String> = self.rig.ask(&["KEYS", &format!("{prefix}*")]).await;
        keys.into_iter().map(|key| key[prefix.len()..].to_owned()).collect()
    }

    async fn living_or_unknown(&self, names: &BTreeSet<String>) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for name in names {
            let state = self.rig.field(name, "state").await;
            if !matches!(state.as_deref(), Some("done" | "dead")) {
                found.insert(name.clone());
            }
        }
        found
    }

    /// Admits what went back to the inboxes, and ends whatever can be claimed.
    async fn end(&self) {
        for inbox in [Interactive, Bulk] {
            loop {
                let (from, to) =
                    (self.rig.keys.inbox(inbox), self.rig.keys.stage(inbox, self.queue.worker()));
                let element: Option<Vec<u8>> = self.rig.ask(&["RPOPLPUSH", &from, &to]).await;
                let Some(element) = element else { break };
                let job = parsed(inbox, &element);
                let turn = self.rig.turn();
                let (admitted, _) =
                    self.queue.admit(inbox, turn, &job, element.len(), None).await.unwrap();
                assert_eq!(admitted, Admitted::Admitted, "{}", job.name);
            }
        }
        let delayed: Vec<String> =
            self.rig.ask(&["ZRANGE", &self.rig.keys.delayed(), "0", "-1"]).await;
        for name in delayed {
            self.rig.make_due(&name).await;
        }
        let leased: Vec<String> =
            self.rig.ask(&["ZRANGE", &self.rig.keys.leased(), "0", "-1"]).await;
        for name in leased {
            self.rig.expire_lease(&name).await;
        }
        let kept = self.queue.housekeep(true).await.unwrap();
        assert!(kept.overdue.is_empty(), "all deadlines are a day away");
        while let Some(claim) = self.queue.claim(under(&self.queue.token())).await.unwrap() {
            self.queue.finish(&claim.lease, &done(b"%PDF"), None).await.unwrap();
        }
    }
}

#[test]
fn whatever_was_broken_is_mended_and_every_document_comes_to_its_end() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let rig = Rig::new();
    let config = Config { cases: 48, failure_persistence: None, ..Config::default() };
    let cases = (prop::collection::vec(life(), 1..14), prop::collection::vec(stroke(), 1..14));
    let outcome = TestRunner::new(config).run(&cases, |(lives, strokes)| {
        runtime.block_on(async {
            let run = Run::begin(&rig, &lives).await;
            for stroke in &strokes {
                run.hit(stroke).await;
            }
            let survived = run.documents().await;
            let unended = run.living_or_unknown(&survived).await;
            let mended = run.queue.fsck(true).await.unwrap();
            let after = run.queue.fsck(false).await.unwrap();
            let lost = after.findings.keys().all(|kind| kind.as_str() == "body_missing");
            prop_assert!(lost, "{mended:?}\nleft: {after:?}");
            // What is wrong now is only that some documents are gone.
            let gone = |line: &String| {
                line.contains("document?")
                    && run.names.iter().any(|name| {
                        line.starts_with(&format!("{name} ")) && !survived.contains(name)
                    })
            };
            let mut wrong = rig.inconsistencies().await;
            wrong.retain(|line| !gone(line));
            prop_assert!(wrong.is_empty(), "{wrong:?}\nafter {mended:?}");
            run.end().await;
            for name in &unended {
                let state = rig.field(name, "state").await;
                prop_assert_eq!(state.as_deref(), Some("done"), "{}: {:?}", name, mended);
            }
            let left: u64 =
                rig.ask::<Option<u64>>(&["HGET", &rig.keys.state(), "jobs"]).await.unwrap_or(0);
            prop_assert_eq!(left, 0);
            Ok(())
        })
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test]
async fn a_queue_that_lost_everything_but_its_documents_starts_again() {
    let rig = Rig::new();
    let lives =
        [(Life::Ready, false, true), (Life::Delayed, true, false), (Life::Leased, false, false)];
    let run = Run::begin(&rig, &lives).await;
    let keys: Vec<String> = rig.ask(&["KEYS", "*"]).await;
    for key in keys.iter().filter(|key| !key.contains(":doc:")) {
        let _: i64 = rig.ask(&["DEL", key]).await;
    }
    let report = run.queue.fsck(true).await.unwrap();
    assert_eq!(report.unmended(), 0, "{report:?}");
    run.end().await;
    for name in &run.names {
        assert_eq!(rig.reply(name).await.status(), "done");
    }
    assert_eq!(rig.admit(&run.queue, &document("t-9", "next", "<p>")).await, Admitted::Admitted);
}
