//! What an operator does in the random sequences of [`super::random`].

use std::time::Duration;

use tillroll::job::Priority;
use tillroll::queue::dead::Revived;
use tillroll::queue::operate::TenantChange;
use tillroll::queue::{Cancelled, Refusal, State};

use super::random::{Run, name_of};
use crate::support::observe::name;

impl Run<'_> {
    pub(super) fn is_draining(&self, name: &str) -> bool {
        self.draining[0] || self.draining[if name.starts_with("t-0/") { 1 } else { 2 }]
    }

    /// An element that was one too many leaves the stage, and nobody is told in vain.
    pub(super) async fn refuse(&mut self, worker: usize, inbox: Priority, turn: u64) {
        let refusal = Refusal {
            code: "draining",
            line: "{}",
            reply_ttl: Duration::from_secs(60),
            reply_to: None,
        };
        for _ in 0..=usize::from(self.cut) {
            self.workers[worker].reject(inbox, turn, None, &refusal).await.unwrap();
        }
    }

    pub(super) async fn cancel(&mut self, number: usize) {
        let (tenant, id) = name_of(number);
        let job = format!("{tenant}/{id}");
        let outcome = self.workers[0].cancel(&name(&job)).await.unwrap();
        let runs = self.held.iter().any(|(_, lease)| lease.name().to_string() == job);
        match self.known.get_mut(&job) {
            None => assert_eq!(outcome, Cancelled::Unknown, "{job}"),
            Some(known) if !known.alive => {
                let before = matches!(outcome, Cancelled::Before(_) | Cancelled::Unknown);
                assert!(before, "{job}: {outcome:?}");
            }
            Some(known) if runs => {
                assert!(matches!(outcome, Cancelled::Stopping { .. }), "{job}: {outcome:?}");
                known.cancelled = true;
            }
            Some(known) => {
                assert_eq!(outcome, Cancelled::Ended, "{job}");
                (known.alive, known.unread, known.dead) = (false, true, false);
                known.called_off = true;
                known.cancelled = false;
                self.accepted += 1;
            }
        }
        if self.cut {
            let again = self.workers[1].cancel(&name(&job)).await.unwrap();
            assert_ne!(again, Cancelled::Ended, "{job} ended twice");
        }
    }

    pub(super) async fn overdue(&mut self, number: usize) {
        let (tenant, id) = name_of(number);
        let job = format!("{tenant}/{id}");
        let runs = self.held.iter().any(|(_, lease)| lease.name().to_string() == job);
        let alive = self.known.get(&job).is_some_and(|known| known.alive && !known.started);
        let waits = alive && !runs;
        // As it would stand there if it had been pushed with a deadline.
        if waits {
            let record = self.rig.keys.job(&name(&job));
            self.rig.ask::<u64>(&["ZADD", &self.rig.keys.deadlines(), "1", &job]).await;
            self.rig.ask::<u64>(&["HSET", &record, "deadline", "1"]).await;
        }
        let mut found = self.workers[0].housekeep(true).await.unwrap().overdue;
        assert_eq!(found.len(), usize::from(waits), "{job}");
        if let Some(claimed) = found.pop() {
            assert!(claimed.expired);
            assert_eq!(claimed.lease.name().to_string(), job);
            // Pausing does not keep it from being answered.
            let paused = std::mem::take(&mut self.paused);
            self.hold(0, Some(claimed));
            self.paused = paused;
        }
    }

    pub(super) async fn revive(&mut self, number: usize) {
        let (tenant, id) = name_of(number);
        let job = format!("{tenant}/{id}");
        let outcome = self.workers[0].revive(&name(&job)).await.unwrap();
        match self.known.get_mut(&job) {
            Some(known) if known.dead => {
                assert_eq!(outcome, Revived::Ready, "{job}");
                (known.alive, known.unread, known.dead) = (true, false, false);
                known.started = false;
                self.admitted += 1;
            }
            Some(known) if known.alive => assert_eq!(outcome, Revived::NotDead, "{job}"),
            _ => assert_ne!(outcome, Revived::Ready, "{job}"),
        }
        if self.cut {
            assert_ne!(self.workers[1].revive(&name(&job)).await.unwrap(), Revived::Ready);
        }
    }

    pub(super) async fn purge(&mut self, number: usize) {
        let (tenant, id) = name_of(number);
        let job = format!("{tenant}/{id}");
        let purged = self.workers[0].purge(std::slice::from_ref(&job)).await.unwrap();
        let dead = self.known.get(&job).is_some_and(|known| known.dead);
        assert_eq!(purged, u64::from(dead), "{job}");
        if let Some(known) = self.known.get_mut(&job)
            && dead
        {
            known.dead = false;
            // Its reply may still be taken, but nothing remembers the document.
            known.content.clear();
        }
    }

    pub(super) async fn change(&mut self, tenant: usize, change: &TenantChange) {
        let tenant = format!("t-{tenant}");
        for _ in 0..=usize::from(self.cut) {
            self.workers[1].change_tenant(&tenant, change).await.unwrap();
        }
    }

    pub(super) async fn set_state(&mut self, tenant: Option<usize>, state: State) {
        let index = tenant.map_or(0, |tenant| tenant + 1);
        self.draining[index] = state == State::Draining;
        let Some(tenant) = tenant else {
            self.paused = state == State::Paused;
            self.workers[0].set_state(state).await.unwrap();
            return;
        };
        let change = TenantChange { state: Some(state), ..TenantChange::default() };
        self.change(tenant, &change).await;
    }
}
