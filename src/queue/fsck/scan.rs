//! Walking over a whole queue, in pages: its keys, the members of its sets, its
//! lists.

use ::redis::{cmd, pipe};

use super::{DAY_MS, Fsck, Kind, ON_ITS_WAY, OUT_TTL_MS, PAGE};
use crate::queue::redis::{Inner, Queue};
use crate::queue::{Keys, QueueError};

/// Keys in one answer, about.
const SCANNED: usize = 1000;
/// Names of a list in one answer.
const LISTED: isize = 1000;

/// A pattern that matches what begins with `prefix`, whatever stands in it.
pub(in crate::queue) fn starting_with(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len() + 8);
    for character in prefix.chars() {
        if "*?[]^\\".contains(character) {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('*');
    pattern
}

impl Queue {
    /// One page of the keys that match, without the prefix, and the next cursor (0: that was all).
    /// A key may come twice.
    pub(in crate::queue) async fn scan(
        &self,
        cursor: u64,
        pattern: &str,
    ) -> Result<(u64, Vec<String>), QueueError> {
        let (next, keys): (u64, Vec<Vec<u8>>) = cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(pattern)
            .arg("COUNT")
            .arg(SCANNED)
            .query_async(&mut self.commands())
            .await?;
        // All keys of ours are ASCII; another one's are none of our business.
        let keys = keys.into_iter().filter_map(|key| String::from_utf8(key).ok());
        let prefix = self.keys().prefix();
        Ok((next, keys.filter_map(|key| Some(key.strip_prefix(prefix)?.to_owned())).collect()))
    }
}

impl Fsck<'_> {
    /// Every key of the queue: names are checked, the others noted for later.
    pub(super) async fn keys(&mut self) -> Result<(), QueueError> {
        let pattern = starting_with(self.keys_of().prefix());
        let mut cursor = 0;
        loop {
            let (next, keys) = self.queue.scan(cursor, &pattern).await?;
            let (mut names, mut typed) = (Vec::new(), Vec::new());
            for key in keys {
                self.sort(key, &mut names, &mut typed);
            }
            self.of_types(&typed).await?;
            self.check(names).await?;
            cursor = next;
            if cursor == 0 {
                return Ok(());
            }
        }
    }

    /// Where a key belongs.
    fn sort(
        &mut self,
        key: String,
        names: &mut Vec<String>,
        typed: &mut Vec<(String, &'static str)>,
    ) {
        let Some((kind, of)) = key.split_once(':') else { return };
        let mut of_type =
            |right| typed.push((format!("{}{key}", self.queue.keys().prefix()), right));
        match kind {
            "job" | "doc" | "history" | "reply" | "pdf" | "result" => names.push(of.to_owned()),
            "use" | "tenant" | "assets" | "asset" => {
                of_type("hash");
                self.tenants.insert(of.to_owned());
            }
            "ready" => {
                of_type("list");
                if let Some((priority, tenant)) = of.split_once(':') {
                    self.tenants.insert(tenant.to_owned());
                    self.lists.insert((priority.to_owned(), tenant.to_owned()));
                }
            }
            "claims" => {
                of_type("hash");
                self.workers.insert(of.to_owned());
            }
            "stage" => {
                self.workers.insert(of.strip_prefix("bulk:").unwrap_or(of).to_owned());
            }
            "replies" => {
                self.shared.insert(key);
            }
            "out" => {
                self.outgoing.insert(key);
            }
            _ => {}
        }
    }

    /// Names that a set has, with or without a record.
    pub(super) async fn members(&mut self) -> Result<(), QueueError> {
        let keys = self.keys_of();
        for set in [keys.leased(), keys.delayed(), keys.dead(), keys.deadlines()] {
            let names = self.members_of("ZSCAN", &set).await?;
            self.check(names).await?;
        }
        Ok(())
    }

    /// The members of a set or sorted set, or the fields of a hash.
    pub(super) async fn members_of(
        &self,
        command: &str,
        key: &str,
    ) -> Result<Vec<String>, QueueError> {
        let mut members = Vec::new();
        let mut cursor = 0_u64;
        loop {
            // SSCAN has no scores; ZSCAN and HSCAN answer in pairs.
            let scan = match command {
                "ZSCAN" => cmd("ZSCAN"),
                "HSCAN" => cmd("HSCAN"),
                _ => cmd("SSCAN"),
            };
            let (next, page): (u64, Vec<String>) = scan
                .clone()
                .arg(key)
                .arg(cursor)
                .arg("COUNT")
                .arg(SCANNED)
                .query_async(&mut self.queue.commands())
                .await?;
            members.extend(page.into_iter().step_by(if command == "SSCAN" { 1 } else { 2 }));
            cursor = next;
            if cursor == 0 {
                return Ok(members);
            }
        }
    }

    /// Takes the jobs that a list has off `waiting`. From the tail: a claim takes
    /// from the head and moves nothing there, so what stays is not missed.
    pub(super) async fn ready_lists(&mut self) -> Result<(), QueueError> {
        let due = self.waiting.iter().filter(|(_, waiting)| waiting.state == "ready");
        let lists = due.map(|(name, waiting)| {
            let tenant = name.split('/').next().unwrap_or_default();
            (waiting.priority.clone(), tenant.to_owned())
        });
        let mut lists: std::collections::BTreeSet<_> = lists.collect();
        lists.extend(self.lists.iter().cloned());
        for (priority, tenant) in lists {
            let key = format!("{}ready:{priority}:{tenant}", self.keys_of().prefix());
            self.tenants.insert(tenant);
            let mut last = -1_isize;
            loop {
                let names: Vec<String> = cmd("LRANGE")
                    .arg(&key)
                    .arg(last + 1 - LISTED)
                    .arg(last)
                    .query_async(&mut self.queue.commands())
                    .await?;
                for name in &names {
                    if self.waiting.get(name).is_some_and(|waiting| waiting.state == "ready") {
                        self.waiting.remove(name);
                    }
                    if priority == "bulk" && self.orphans.contains(name) {
                        self.bulk_orphans.insert(name.clone());
                    }
                }
                if names.is_empty() {
                    break;
                }
                last -= LISTED;
            }
        }
        Ok(())
    }

    /// Claims without a lease, stages without a worker.
    pub(super) async fn claims(&mut self) -> Result<(), QueueError> {
        let Inner { keys, scripts, lease_ms, .. } = &*self.queue.inner;
        for worker in std::mem::take(&mut self.workers) {
            let tokens = self.members_of("HSCAN", &keys.claims(&worker)).await?;
            // Once even without a token: for the stages.
            let pages = tokens.chunks(PAGE).chain(tokens.is_empty().then_some(&[][..]));
            for page in pages {
                let mut call = scripts.fsck_claims.call();
                call.key(keys.workers())
                    .key(keys.stage(crate::job::Priority::Interactive, &worker))
                    .key(keys.stage(crate::job::Priority::Bulk, &worker))
                    .arg(keys.prefix())
                    .arg(self.flag())
                    .arg(&worker)
                    .arg(lease_ms);
                for token in page {
                    call.arg(token);
                }
                let found: Vec<String> = call.invoke(&mut self.queue.commands()).await?;
                self.note(&found)?;
            }
        }
        Ok(())
    }

    /// Results that would stay for ever, and results that are counted and gone.
    pub(super) async fn results(&mut self) -> Result<(), QueueError> {
        let shared: Vec<String> = std::mem::take(&mut self.shared).into_iter().collect();
        let lasting = self.call_results(self.repair, "ttl", DAY_MS, &shared).await?;
        let mut outgoing: Vec<String> = std::mem::take(&mut self.outgoing).into_iter().collect();
        outgoing = self.call_results(false, "ttl", OUT_TTL_MS, &outgoing).await?;
        if !outgoing.is_empty() {
            tokio::time::sleep(ON_ITS_WAY).await;
            outgoing = self.call_results(self.repair, "ttl", OUT_TTL_MS, &outgoing).await?;
        }
        for key in lasting.iter().chain(&outgoing) {
            self.report.add(Kind::ResultTtl, key, self.repair);
        }
        let held = self.members_of("HSCAN", &self.keys_of().held()).await?;
        // What a producer took is counted until a worker keeps house: that is no damage.
        if self.repair && self.queue.counts().await?.workers == 0 {
            for field in self.call_results(true, "held", 0, &held).await? {
                self.report.add(Kind::ResultGone, &field, true);
            }
        }
        Ok(())
    }

    async fn call_results(
        &self,
        repair: bool,
        what: &str,
        ttl_ms: u64,
        of: &[String],
    ) -> Result<Vec<String>, QueueError> {
        let Inner { keys, scripts, .. } = &*self.queue.inner;
        let mut found = Vec::new();
        for page in of.chunks(PAGE) {
            let mut call = scripts.fsck_results.call();
            call.arg(keys.prefix()).arg(u8::from(repair)).arg(what).arg(ttl_ms);
            for one in page {
                call.arg(one);
            }
            let page: Vec<String> = call.invoke(&mut self.queue.commands()).await?;
            found.extend(page);
        }
        Ok(found)
    }
}

/// The records of jobs: name and the fields asked for, a page of them.
pub(super) async fn records(
    queue: &Queue,
    keys: &Keys,
    names: &[String],
    fields: &[&str],
) -> Result<Vec<Vec<Option<String>>>, QueueError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut asked = pipe();
    for name in names {
        asked.cmd("HMGET").arg(format!("{}job:{name}", keys.prefix())).arg(fields);
    }
    Ok(asked.query_async(&mut queue.commands()).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_matches_itself_only() {
        assert_eq!(starting_with("tillroll:{a*b}:"), r"tillroll:{a\*b}:*");
    }
}
