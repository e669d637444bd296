//! Random sequences of transitions by two workers, with lost replies in
//! between, against a model that is a few lines long.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tillroll::job::Priority::{Bulk, Interactive};
use tillroll::queue::operate::TenantChange;
use tillroll::queue::{Admitted, Claimed, Lease, Limit, Queue, Settled, State};

use crate::support::rig::{dead, done};
use crate::support::{Calls, Rig, document, parsed, under};

/// One thing that happens; numbers choose among what is there.
#[derive(Debug, Clone)]
enum Step {
    /// A push of one of six names with one of two contents, admitted at once.
    Offer {
        worker: usize,
        name: usize,
        content: usize,
        bulk: bool,
        delayed: bool,
        claim: bool,
    },
    Claim {
        worker: usize,
    },
    Finish {
        lease: usize,
        well: bool,
        claim: bool,
    },
    Retry {
        lease: usize,
        delayed: bool,
        counted: bool,
    },
    /// Its worker dies, or is only cut off and tries to settle later.
    LoseLease {
        lease: usize,
    },
    SettleStale {
        lease: usize,
        well: bool,
    },
    Promote,
    TakeReply {
        name: usize,
    },
    /// An element is left in the stage of a worker that falls silent.
    Adopt {
        name: usize,
        bulk: bool,
    },
    Cancel {
        name: usize,
    },
    /// The deadline of a job passes, and housekeeping finds it.
    Overdue {
        name: usize,
    },
    Revive {
        name: usize,
    },
    Purge {
        name: usize,
    },
    /// The queue, or one of its tenants, is paused, drained or opened.
    State {
        tenant: Option<usize>,
        state: State,
    },
    /// A tenant may run so many at once; 0: as many as come.
    Cap {
        tenant: usize,
        running: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let yes = any::<bool>;
    prop_oneof![
        4 => (0..2usize, 0..6usize, 0..2usize, yes(), prop::bool::weighted(0.2), yes()).prop_map(
            |(worker, name, content, bulk, delayed, claim)| Step::Offer { worker, name, content, bulk, delayed, claim }),
        3 => (0..2usize).prop_map(|worker| Step::Claim { worker }),
        3 => (any::<usize>(), yes(), yes()).prop_map(|(lease, well, claim)| Step::Finish { lease, well, claim }),
        2 => (any::<usize>(), yes(), yes()).prop_map(|(lease, delayed, counted)| Step::Retry { lease, delayed, counted }),
        1 => any::<usize>().prop_map(|lease| Step::LoseLease { lease }),
        1 => (any::<usize>(), yes()).prop_map(|(lease, well)| Step::SettleStale { lease, well }),
        1 => Just(Step::Promote),
        1 => (0..6usize).prop_map(|name| Step::TakeReply { name }),
        1 => (0..6usize, yes()).prop_map(|(name, bulk)| Step::Adopt { name, bulk }),
        2 => (0..6usize).prop_map(|name| Step::Cancel { name }),
        1 => (0..6usize).prop_map(|name| Step::Overdue { name }),
        1 => (0..6usize).prop_map(|name| Step::Revive { name }),
        1 => (0..6usize).prop_map(|name| Step::Purge { name }),
        1 => (prop::option::of(0..2usize), prop::sample::select(vec![State::Open, State::Open, State::Paused, State::Draining]))
            .prop_map(|(tenant, state)| Step::State { tenant, state }),
        1 => (0..2usize, 0..3u64).prop_map(|(tenant, running)| Step::Cap { tenant, running }),
    ]
}

/// What the queue should know of one name.
#[derive(Default)]
pub(super) struct Known {
    pub content: Vec<u8>,
    pub alive: bool,
    pub unread: bool,
    pub dead: bool,
    /// It was cancelled before it ran: pushed again, it is wanted after all.
    pub called_off: bool,
    /// Somebody cancelled it while it ran.
    pub cancelled: bool,
    /// It was claimed before its deadline.
    pub started: bool,
}

pub(super) struct Run<'a> {
    pub rig: &'a Rig,
    pub workers: [Queue; 2],
    /// Whether this step's replies are lost, so that each call is made twice.
    pub cut: bool,
    pub known: BTreeMap<String, Known>,
    pub held: Vec<(usize, Lease)>,
    stale: Vec<(usize, Lease)>,
    /// Jobs that began to live: admitted, or revived.
    pub admitted: u64,
    pub accepted: u64,
    pub paused: bool,
    /// The queue, and each tenant: nothing is taken.
    pub draining: [bool; 3],
}

pub(super) fn name_of(number: usize) -> (String, String) {
    (format!("t-{}", number % 2), format!("r-{number}"))
}

impl<'a> Run<'a> {
    async fn new(rig: &'a Rig) -> Self {
        rig.ask::<()>(&["FLUSHALL"]).await;
        let workers = [rig.queue("w0").await, rig.queue("w1").await];
        for worker in &workers {
            worker.renew(&[], "{}").await.unwrap();
        }
        let (known, held, stale) = (BTreeMap::new(), Vec::new(), Vec::new());
        let (paused, draining) = (false, [false; 3]);
        let (admitted, accepted) = (0, 0);
        Self { rig, workers, cut: false, known, held, stale, admitted, accepted, paused, draining }
    }

    async fn step(&mut self, step: &Step) {
        match *step {
            Step::Offer { worker, name, content, bulk, delayed, claim } => {
                let (tenant, id) = name_of(name);
                let header = format!("{{\"id\":\"{id}\",\"tenant\":\"{tenant}\"");
                let delay = if delayed { ",\"delay_ms\":3600000" } else { "" };
                let element = format!("{header}{delay}}}\n<p>{content}").into_bytes();
                self.offer(worker, &format!("{tenant}/{id}"), element, bulk, claim).await;
            }
            Step::Claim { worker } => self.claim(worker).await,
            Step::Finish { lease, well, claim } => {
                if !self.held.is_empty() {
                    let (worker, lease) = self.held.swap_remove(lease % self.held.len());
                    self.finish(worker, &lease, well, claim).await;
                }
            }
            Step::Retry { lease, delayed, counted } => {
                if !self.held.is_empty() {
                    let (worker, lease) = self.held.swap_remove(lease % self.held.len());
                    let delay = Duration::from_secs(if delayed { 3600 } else { 0 });
                    for _ in 0..=usize::from(self.cut) {
                        let queue = &self.workers[worker];
                        let settled = queue.retry(&lease, delay, counted, "random").await.unwrap();
                        assert_eq!(settled, Settled::Accepted);
                    }
                }
            }
            Step::LoseLease { lease } => {
                if !self.held.is_empty() {
                    let (worker, lease) = self.held.swap_remove(lease % self.held.len());
                    self.rig.expire_lease(&lease.name().to_string()).await;
                    assert_eq!(self.workers[1 - worker].housekeep(true).await.unwrap().reaped, 1);
                    self.stale.push((worker, lease));
                }
            }
            Step::SettleStale { lease, well } => {
                if !self.stale.is_empty() {
                    let (worker, lease) = &self.stale[lease % self.stale.len()];
                    let queue = &self.workers[*worker];
                    let ending = if well { done(b"%PDF stale") } else { dead() };
                    let (settled, _) = queue.finish(lease, &ending, None).await.unwrap();
                    assert_eq!(settled, Settled::Stale);
                    let settled = queue.retry(lease, Duration::ZERO, true, "late").await.unwrap();
                    assert_eq!(settled, Settled::Stale);
                }
            }
            Step::Promote => self.promote().await,
            Step::TakeReply { name } => {
                let (tenant, id) = name_of(name);
                let name = format!("{tenant}/{id}");
                if let Some(known) = self.known.get_mut(&name)
                    && known.unread
                {
                    known.unread = false;
                    self.rig.reply(&name).await;
                }
            }
            Step::Adopt { name, bulk } => self.adopt(name, bulk).await,
            Step::Cancel { name } => self.cancel(name).await,
            Step::Overdue { name } => self.overdue(name).await,
            Step::Revive { name } => self.revive(name).await,
            Step::Purge { name } => self.purge(name).await,
            Step::State { tenant, state } => self.set_state(tenant, state).await,
            Step::Cap { tenant, running } => {
                let change = TenantChange { running: Some(running), ..TenantChange::default() };
                self.change(tenant, &change).await;
            }
        }
    }

    async fn offer(
        &mut self,
        worker: usize,
        name: &str,
        element: Vec<u8>,
        bulk: bool,
        claim: bool,
    ) {
        let inbox = if bulk { Bulk } else { Interactive };
        let queue = &self.workers[worker];
        self.rig.stage(queue, inbox, &element).await;
        let job = parsed(inbox, &element);
        let token = claim.then(|| queue.token());
        let turn = self.rig.turn();
        let (admitted, claimed) =
            queue.admit(inbox, turn, &job, element.len(), token.as_ref().map(under)).await.unwrap();
        let expected = match self.known.get(name) {
            Some(known) if known.alive && known.content == element => Admitted::Duplicate,
            Some(known) if known.alive => Admitted::Conflict,
            Some(known) if known.unread && !known.called_off && known.content == element => {
                Admitted::Held
            }
            _ if self.is_draining(name) => Admitted::Full(Limit::Draining),
            _ => Admitted::Admitted,
        };
        assert_eq!(admitted, expected, "{name}");
        if let Admitted::Full(_) = admitted {
            assert_eq!(claimed, None);
            return self.refuse(worker, inbox, turn).await;
        }
        if admitted == Admitted::Admitted {
            self.admitted += 1;
            let known = Known { content: element.clone(), alive: true, ..Known::default() };
            self.known.insert(name.to_owned(), known);
        }
        if self.cut {
            let (again, same) = queue
                .admit(inbox, turn, &job, element.len(), token.as_ref().map(under))
                .await
                .unwrap();
            assert_eq!(again, Admitted::Gone);
            if let Some(claimed) = &claimed {
                assert_eq!(same.map(|claim| claim.lease).as_ref(), Some(&claimed.lease));
            } else {
                assert_eq!(same, None);
            }
        }
        self.hold(worker, claimed);
    }

    async fn claim(&mut self, worker: usize) {
        let queue = &self.workers[worker];
        let token = queue.token();
        let claimed = queue.claim(under(&token)).await.unwrap();
        if let (true, Some(claimed)) = (self.cut, &claimed) {
            let again = queue.claim(under(&token)).await.unwrap().unwrap();
            assert_eq!((&again.lease, again.attempt), (&claimed.lease, claimed.attempt));
        }
        self.hold(worker, claimed);
    }

    pub(super) fn hold(&mut self, worker: usize, claimed: Option<Claimed>) {
        let Some(claimed) = claimed else { return };
        let name = claimed.lease.name();
        assert!(self.held.iter().all(|(_, lease)| lease.name() != name), "{name} is leased twice");
        assert!(!self.paused, "{name} was claimed while the queue is paused");
        let known = self.known.get_mut(&name.to_string()).unwrap();
        assert!(known.alive, "{name} has ended");
        assert_eq!(known.cancelled, claimed.cancelled, "{name}");
        assert!(!claimed.expired || !known.started, "{name} had started in time");
        known.started = !claimed.expired;
        self.held.push((worker, claimed.lease));
    }

    pub(super) async fn finish(&mut self, worker: usize, lease: &Lease, well: bool, claim: bool) {
        let name = lease.name().to_string();
        let pdf = format!("%PDF {}", lease.token());
        let ending = if well { done(pdf.as_bytes()) } else { dead() };
        let queue = &self.workers[worker];
        let token = claim.then(|| queue.token());
        let (settled, next) =
            queue.finish(lease, &ending, token.as_ref().map(under)).await.unwrap();
        assert_eq!(settled, Settled::Accepted);
        self.accepted += 1;
        if self.cut {
            let (settled, same) =
                queue.finish(lease, &ending, token.as_ref().map(under)).await.unwrap();
            assert_eq!(settled, Settled::Accepted);
            if let Some(next) = &next {
                assert_eq!(same.map(|claim| claim.lease).as_ref(), Some(&next.lease));
            }
        }
        let known = self.known.get_mut(&name).unwrap();
        (known.alive, known.unread, known.dead) = (false, true, !well);
        known.cancelled = false;
        self.hold(worker, next);
    }

    async fn promote(&mut self) {
        let delayed = self.rig.keys.delayed();
        for name in self.rig.ask::<Vec<String>>(&["ZRANGE", &delayed, "0", "-1"]).await {
            self.rig.make_due(&name).await;
        }
        self.workers[0].housekeep(true).await.unwrap();
    }

    /// The element of the silent worker is admitted by the other one.
    async fn adopt(&mut self, name: usize, bulk: bool) {
        let inbox = if bulk { Bulk } else { Interactive };
        let (tenant, id) = name_of(name);
        let element = document(&tenant, &id, "<p>0");
        self.rig.stage(&self.workers[0], inbox, &element).await;
        let workers = self.rig.keys.workers();
        let past: u64 = self.rig.ask::<Vec<u64>>(&["TIME"]).await[0] * 1000 - 60_000;
        let _: u64 = self.rig.ask(&["ZADD", &workers, &past.to_string(), "w0"]).await;
        assert_eq!(self.workers[1].housekeep(true).await.unwrap().adopted, 1);
        self.workers[0].renew(&[], "{}").await.unwrap();
        let taken: Option<Vec<u8>> = self.rig.ask(&["RPOP", &self.rig.keys.inbox(inbox)]).await;
        assert_eq!(taken.as_ref(), Some(&element));
        self.offer(1, &format!("{tenant}/{id}"), element, bulk, false).await;
    }

    /// Everything that lives is brought to its end.
    async fn end(mut self) {
        self.cut = false;
        for tenant in [None, Some(0), Some(1)] {
            self.set_state(tenant, State::Open).await;
        }
        loop {
            while let Some((worker, lease)) = self.held.pop() {
                self.finish(worker, &lease, true, true).await;
            }
            self.promote().await;
            self.claim(0).await;
            if self.held.is_empty() {
                break;
            }
        }
        self.rig.assert_at_rest().await;
        assert_eq!(self.accepted, self.admitted, "one result of each job");
        let state = self.rig.keys.state();
        let ended: Vec<Option<u64>> =
            self.rig.ask(&["HMGET", &state, "ended:done", "ended:dead", "ended:cancelled"]).await;
        assert_eq!(ended.into_iter().flatten().sum::<u64>(), self.accepted);
        for (name, known) in &self.known {
            assert!(!known.alive, "{name} never ended");
            if known.unread {
                self.rig.reply(name).await;
            }
        }
    }
}

#[test]
fn whatever_happens_every_job_ends_once_and_the_queue_stays_consistent() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let rig = Rig::new();
    let config = Config { cases: 24, failure_persistence: None, ..Config::default() };
    let steps = prop::collection::vec((step(), any::<bool>()), 1..60);
    let outcome = TestRunner::new(config).run(&steps, |steps| {
        runtime.block_on(async {
            let mut run = Run::new(&rig).await;
            for (index, (step, cut)) in steps.iter().enumerate() {
                run.cut = *cut;
                run.step(step).await;
                let wrong = rig.inconsistencies().await;
                prop_assert!(wrong.is_empty(), "after step {index}, {step:?}: {wrong:?}");
            }
            run.end().await;
            Ok(())
        })
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}
