//! What a test sees of a queue, and many jobs at once.

use std::collections::BTreeMap;

use redis::cmd;
use redis::streams::StreamRangeReply;
use tillroll::job::{Name, Priority};
use tillroll::queue::{Admitted, Claimed, Queue};

use super::rig::{Rig, ask, document, done, expect_claim, parsed, under};

pub(crate) fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

impl Rig {
    /// Job and code of every event of this kind, the oldest first.
    pub(crate) async fn events(&self, kind: &str) -> Vec<(String, String)> {
        let mut read = cmd("XRANGE");
        read.arg(self.keys.events()).arg("-").arg("+");
        let all: StreamRangeReply = read.query_async(&mut self.connection().await).await.unwrap();
        let of_kind = all.ids.iter().filter(|entry| entry.get::<String>("event").unwrap() == kind);
        of_kind.map(|entry| (entry.get("job").unwrap(), entry.get("code").unwrap())).collect()
    }

    /// Admits so many jobs of a tenant, called `<prefix>-<number>`, without a claim.
    pub(crate) async fn admit_many(
        &self,
        queue: &Queue,
        inbox: Priority,
        (tenant, prefix): (&str, &str),
        count: usize,
    ) {
        let mut redis = self.connection().await;
        for number in 0..count {
            let element = document(tenant, &format!("{prefix}-{number}"), "<p>");
            let mut stage = cmd("LPUSH");
            stage.arg(self.keys.stage(inbox, queue.worker())).arg(&element);
            stage.query_async::<()>(&mut redis).await.unwrap();
            let job = parsed(inbox, &element);
            let admit = queue.admit(inbox, self.turn(), &job, element.len(), None);
            assert_eq!(admit.await.unwrap(), (Admitted::Admitted, None));
        }
    }

    /// Claims so many jobs and keeps them; how many of each tenant.
    pub(crate) async fn shares(&self, queue: &Queue, claims: usize) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        for _ in 0..claims {
            let claimed = expect_claim(queue).await;
            *shares.entry(claimed.lease.name().tenant().to_owned()).or_default() += 1;
        }
        shares
    }

    /// Takes whatever bells have rung; which they were: interactive, bulk.
    pub(crate) async fn bells(&self) -> (bool, bool) {
        let mut redis = self.connection().await;
        let mut rang = [false, false];
        for (rang, priority) in rang.iter_mut().zip([Priority::Interactive, Priority::Bulk]) {
            *rang = ask::<u64>(&mut redis, &["DEL", &self.keys.bell(priority)]).await == 1;
        }
        (rang[0], rang[1])
    }
}

/// Claims without waiting for anything; bulk or not.
pub(crate) async fn try_claim(queue: &Queue, bulk: bool) -> Option<Claimed> {
    let token = queue.token();
    queue.claim(tillroll::queue::Next { bulk, ..under(&token) }).await.unwrap()
}

/// Ends a job well.
pub(crate) async fn finish(queue: &Queue, claimed: &Claimed) {
    let (settled, _) = queue.finish(&claimed.lease, &done(b"%PDF"), None).await.unwrap();
    assert_eq!(settled, tillroll::queue::Settled::Accepted);
}
