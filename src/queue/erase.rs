//! Forgetting: what the queue holds of one tenant, of one job, or of one run, is
//! erased.
//!
//! ```text
//! names (SCAN) ─▶ living ones cancelled, without a reply ─▶ running ones waited for ─▶ erased
//!      ▲                                                                                 │
//!      └──────────────── again, until none is found (three times at most) ───────────────┘
//!                        then: lines on shared lists, events, the tenant itself
//! ```
//!
//! Everything may be repeated, and is bounded: pages of names, and for what runs
//! the lease, after which whoever has it has lost it. What is out of reach is
//! counted or said: elements that nobody has read, replies that were taken.

use std::collections::BTreeSet;
use std::time::Duration;

use ::redis::streams::StreamRangeReply;
use ::redis::{cmd, pipe};

use super::QueueError;
use super::fsck::starting_with;
use super::redis::{Inner, Queue};
use super::transitions::unexpected;
use crate::job::{Name, Priority};

/// Names in one call.
const PAGE: usize = 100;
/// Lines, events or members in one answer.
const READ: usize = 500;
/// Names of a ready list in one answer.
const LISTED: i64 = 1000;
/// How often names are looked for again: jobs may have come meanwhile.
const PASSES: u32 = 3;
/// How often a running job is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// What is added to the lease for whoever does housekeeping.
const GRACE: Duration = Duration::from_secs(5);

/// Who is to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forget {
    /// A tenant, with all its jobs and settings.
    Tenant(String),
    /// One job.
    Job(Name),
    /// All jobs of whoever pushed them under ids of its own.
    Run {
        /// What their ids begin with, whatever the tenant. Not empty.
        ids: String,
        /// Tenants that go too, with their settings: there were none before the run.
        tenants: Vec<String>,
    },
}

impl Forget {
    fn means(&self, name: &str) -> bool {
        match self {
            Self::Tenant(tenant) => {
                name.strip_prefix(tenant.as_str()).is_some_and(|rest| rest.starts_with('/'))
            }
            Self::Job(job) => name == job.to_string(),
            Self::Run { ids, .. } => {
                let id = name.split_once('/').map(|(_, id)| id);
                !ids.is_empty() && id.is_some_and(|id| id.starts_with(ids.as_str()))
            }
        }
    }

    /// Whether a reply's line is of one that is meant.
    fn means_line(&self, line: &str) -> bool {
        // A reply with the PDF after it is never on a shared list; its line would come first.
        let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else { return false };
        let text = |field: &str| line[field].as_str().unwrap_or_default();
        match self {
            Self::Tenant(tenant) => text("tenant") == tenant,
            Self::Job(name) => text("tenant") == name.tenant() && text("id") == name.id(),
            Self::Run { ids, .. } => !ids.is_empty() && text("id").starts_with(ids.as_str()),
        }
    }

    /// Whether an event names one that is meant.
    fn means_event(&self, event: &str, job: &str, code: &str) -> bool {
        if !job.is_empty() {
            return self.means(job);
        }
        match (self, event) {
            (Self::Tenant(tenant), "breaker_opened" | "breaker_closed") => code == tenant,
            (Self::Tenant(tenant), "configured") => {
                code.split_once(' ').is_some_and(|(whose, _)| whose == tenant)
            }
            (Self::Run { tenants, .. }, "breaker_opened" | "breaker_closed") => {
                tenants.iter().any(|tenant| tenant == code)
            }
            _ => false,
        }
    }
}

/// What was erased, and what is out of reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Forgotten {
    /// Records of jobs.
    pub jobs: u64,
    /// Those of them that were alive, and were cancelled.
    pub cancelled: u64,
    /// Documents, as they were pushed.
    pub documents: u64,
    /// Unread replies and stored PDFs.
    pub results: u64,
    /// Dead letters.
    pub dead: u64,
    /// Lines on the lists of consumers and of malformed elements.
    pub lines: u64,
    /// Events.
    pub events: u64,
    /// Assets of the tenant.
    pub assets: u64,
    /// Jobs that still ran when their lease should have been over: ask again.
    pub running: Vec<String>,
    /// Whether the tenant itself stays, settings, assets and counters: a job of it lives.
    pub kept: bool,
    /// Elements of anybody that no worker has read yet: in the inboxes and stages.
    pub unread: u64,
}

impl Queue {
    /// Erases what the queue holds of a tenant, of a job or of a run; `progress` hears of
    /// each step. Living jobs are cancelled first, without a reply; for running
    /// ones this waits, for as long as a lease holds.
    ///
    /// # Errors
    /// Where Redis is away; asking again goes on where it stopped.
    pub async fn forget(
        &self,
        whom: &Forget,
        mut progress: impl FnMut(&Forgotten) + Send,
    ) -> Result<Forgotten, QueueError> {
        let mut done = Forgotten::default();
        for _ in 0..PASSES {
            let names = self.names_of(whom).await?;
            let names: Vec<String> =
                names.into_iter().filter(|name| !done.running.contains(name)).collect();
            if names.is_empty() {
                break;
            }
            let mut running = Vec::new();
            for page in names.chunks(PAGE) {
                let (cancelled, runs) = self.cancel_living(page).await?;
                done.cancelled += cancelled;
                self.erase(page, &mut done).await?;
                running.extend(runs);
                progress(&done);
            }
            self.outlast(&mut running, &mut done).await?;
            done.running.extend(running);
            progress(&done);
        }
        done.lines = self.erase_lines(whom).await?;
        done.events = self.erase_events(whom).await?;
        match whom {
            Forget::Tenant(tenant) => {
                (done.kept, done.assets) = self.erase_tenant(tenant).await?;
            }
            // Once more by itself: its ready list is searched then, whatever else is left of it.
            Forget::Job(name) => {
                self.erase(&[name.to_string()], &mut done).await?;
            }
            Forget::Run { tenants, .. } => {
                self.erase_listed(whom, &mut done).await?;
                for tenant in tenants {
                    let (kept, assets) = self.erase_tenant(tenant).await?;
                    done.kept |= kept;
                    done.assets += assets;
                }
            }
        }
        done.unread = self.unread().await?;
        progress(&done);
        Ok(done)
    }

    /// Every name that a key, a set or the list of held results has.
    async fn names_of(&self, whom: &Forget) -> Result<BTreeSet<String>, QueueError> {
        let keys = self.keys();
        let mut names = BTreeSet::new();
        let part = match whom {
            Forget::Job(name) => starting_with(&name.to_string()),
            Forget::Tenant(tenant) => starting_with(&format!("{tenant}/")),
            Forget::Run { ids, .. } => format!("*/{}", starting_with(ids)),
        };
        let pattern = format!("{}:{part}", starting_with(keys.prefix()));
        let mut cursor = 0;
        loop {
            let (next, page) = self.scan(cursor, &pattern).await?;
            names.extend(page.iter().filter_map(|key| named_by(key)).map(str::to_owned));
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        for set in [keys.leased(), keys.delayed(), keys.dead(), keys.deadlines()] {
            names.extend(self.matching(cmd("ZSCAN"), &set, &part).await?);
        }
        let held = format!("*:{part}");
        let held = self.matching(cmd("HSCAN"), &keys.held(), &held).await?;
        names.extend(held.iter().filter_map(|key| named_by(key)).map(str::to_owned));
        names.retain(|name| whom.means(name));
        Ok(names)
    }

    /// Members (or fields) that match.
    async fn matching(
        &self,
        scan: ::redis::Cmd,
        key: &str,
        pattern: &str,
    ) -> Result<Vec<String>, QueueError> {
        let mut found = Vec::new();
        let mut cursor = 0_u64;
        loop {
            let mut scan = scan.clone();
            scan.arg(key).arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(READ);
            let (next, page): (u64, Vec<String>) = scan.query_async(&mut self.commands()).await?;
            found.extend(page.into_iter().step_by(2));
            cursor = next;
            if cursor == 0 {
                return Ok(found);
            }
        }
    }

    /// Cancels those of a page that live; how many ended at once, and those that run.
    async fn cancel_living(&self, names: &[String]) -> Result<(u64, Vec<String>), QueueError> {
        let mut asked = pipe();
        for name in names {
            asked.cmd("HGET").arg(format!("{}job:{name}", self.keys().prefix())).arg("state");
        }
        let states: Vec<Option<String>> = asked.query_async(&mut self.commands()).await?;
        let (mut cancelled, mut running) = (0, Vec::new());
        for (name, state) in names.iter().zip(states) {
            let alive = matches!(state.as_deref(), Some("ready" | "leased" | "delayed"));
            let Some(parsed) = Name::parse(name).filter(|_| alive) else { continue };
            match self.try_cancel(&parsed, false).await?.0.as_str() {
                "cancelled" => cancelled += 1,
                "stopping" => running.push(name.clone()),
                // Ended by itself, or replaced: the next pass finds what is there then.
                "ended" | "unknown" | "changed" => {}
                other => return Err(unexpected("cancel", other)),
            }
        }
        Ok((cancelled, running))
    }

    /// Waits until running jobs have ended, and erases them; those that are left
    /// when a lease is over stay in `running`.
    async fn outlast(
        &self,
        running: &mut Vec<String>,
        done: &mut Forgotten,
    ) -> Result<(), QueueError> {
        let patience = Duration::from_millis(self.lease_ms()) + GRACE;
        let give_up = tokio::time::Instant::now() + patience;
        while !running.is_empty() && tokio::time::Instant::now() < give_up {
            tokio::time::sleep(LOOK).await;
            let mut left = Vec::new();
            for page in running.chunks(PAGE) {
                left.extend(self.erase(page, done).await?);
            }
            // Given back by a worker that died or stopped: it waits, and can be cancelled at once.
            for name in &left {
                let Some(parsed) = Name::parse(name) else { continue };
                let mut state = cmd("HGET");
                state.arg(self.keys().job(&parsed)).arg("state");
                let state: Option<String> = state.query_async(&mut self.commands()).await?;
                if matches!(state.as_deref(), Some("ready" | "delayed")) {
                    self.try_cancel(&parsed, false).await?;
                }
            }
            done.cancelled += (running.len() - left.len()) as u64;
            *running = left;
        }
        Ok(())
    }

    /// Erases those of a page that have ended; the others come back.
    async fn erase(
        &self,
        names: &[String],
        done: &mut Forgotten,
    ) -> Result<Vec<String>, QueueError> {
        let Inner { keys, scripts, .. } = &*self.inner;
        let mut call = scripts.erase.call();
        call.arg(keys.prefix());
        for name in names {
            call.arg(name);
        }
        let (jobs, documents, results, dead, alive): (u64, u64, u64, u64, Vec<String>) =
            call.invoke(&mut self.commands()).await?;
        done.jobs += jobs;
        done.documents += documents;
        done.results += results;
        done.dead += dead;
        Ok(alive)
    }

    /// The names of cancelled jobs stay on the ready lists of their tenants until somebody
    /// skips them: here, those that are meant go.
    async fn erase_listed(&self, whom: &Forget, done: &mut Forgotten) -> Result<(), QueueError> {
        let prefix = self.keys().prefix();
        let pattern = starting_with(&format!("{prefix}ready:"));
        let (mut cursor, mut found) = (0, BTreeSet::new());
        loop {
            let (next, page) = self.scan(cursor, &pattern).await?;
            for list in page {
                found.extend(self.ready_names(whom, &format!("{prefix}{list}")).await?);
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        for name in found {
            self.erase(&[name], done).await?;
        }
        Ok(())
    }

    /// The names of a ready list that are meant. They leave at its head and come at its
    /// end, so that reading from there misses none that was there at the beginning.
    async fn ready_names(&self, whom: &Forget, list: &str) -> Result<Vec<String>, QueueError> {
        let mut found = Vec::new();
        for page in 0_i64.. {
            let last = -1 - page * LISTED;
            let mut read = cmd("LRANGE");
            read.arg(list).arg(last - LISTED + 1).arg(last);
            let names: Vec<String> = read.query_async(&mut self.commands()).await?;
            let whole = names.len() as i64 == LISTED;
            found.extend(names.into_iter().filter(|name| whom.means(name)));
            if !whole {
                break;
            }
        }
        Ok(found)
    }

    /// Whether it is kept because a job of it lives (it came meanwhile, or still runs),
    /// and how many assets went.
    async fn erase_tenant(&self, tenant: &str) -> Result<(bool, u64), QueueError> {
        let Inner { keys, scripts, .. } = &*self.inner;
        let (erased, assets): (u8, u64) = scripts
            .erase_tenant
            .arg(keys.prefix())
            .arg(tenant)
            .invoke(&mut self.commands())
            .await?;
        Ok((erased == 0, assets))
    }

    /// Lines on the lists of consumers, and of elements whose reply found no place.
    async fn erase_lines(&self, whom: &Forget) -> Result<u64, QueueError> {
        let prefix = self.keys().prefix();
        let mut lists = BTreeSet::from([self.keys().malformed()]);
        let pattern = starting_with(&format!("{prefix}replies:"));
        let mut cursor = 0;
        loop {
            let (next, page) = self.scan(cursor, &pattern).await?;
            lists.extend(page.into_iter().map(|key| format!("{prefix}{key}")));
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        let mut erased = 0;
        for list in lists {
            for line in self.lines_of(whom, &list).await? {
                let mut remove = cmd("LREM");
                remove.arg(&list).arg(0).arg(line);
                let removed: u64 = remove.query_async(&mut self.commands()).await?;
                erased += removed;
            }
        }
        Ok(erased)
    }

    /// The lines of a list that are meant. New ones come at its head, so that
    /// reading from there misses none that was there at the beginning.
    async fn lines_of(&self, whom: &Forget, list: &str) -> Result<BTreeSet<String>, QueueError> {
        let mut found = BTreeSet::new();
        for page in 0_usize.. {
            let from = page * READ;
            let mut read = cmd("LRANGE");
            read.arg(list).arg(from).arg(from + READ - 1);
            let lines: Vec<String> = read.query_async(&mut self.commands()).await?;
            let last = lines.len() < READ;
            found.extend(lines.into_iter().filter(|line| whom.means_line(line)));
            if last {
                break;
            }
        }
        Ok(found)
    }

    async fn erase_events(&self, whom: &Forget) -> Result<u64, QueueError> {
        let key = self.keys().events();
        let (mut from, mut erased) = ("-".to_owned(), 0);
        loop {
            let mut read = cmd("XRANGE");
            read.arg(&key).arg(&from).arg("+").arg("COUNT").arg(READ);
            let page: StreamRangeReply = read.query_async(&mut self.commands()).await?;
            let ids: Vec<&str> = page
                .ids
                .iter()
                .filter(|entry| {
                    let field = |name: &str| entry.get::<String>(name).unwrap_or_default();
                    whom.means_event(&field("event"), &field("job"), &field("code"))
                })
                .map(|entry| entry.id.as_str())
                .collect();
            if !ids.is_empty() {
                let mut remove = cmd("XDEL");
                let removed: u64 =
                    remove.arg(&key).arg(&ids).query_async(&mut self.commands()).await?;
                erased += removed;
            }
            match page.ids.last().and_then(|entry| after(&entry.id)) {
                Some(next) if page.ids.len() == READ => from = next,
                _ => return Ok(erased),
            }
        }
    }

    /// Elements that no worker has read yet, whoever they are of.
    async fn unread(&self) -> Result<u64, QueueError> {
        let keys = self.keys();
        let (interactive, bulk): (u64, u64) = pipe()
            .cmd("LLEN")
            .arg(keys.inbox(Priority::Interactive))
            .cmd("LLEN")
            .arg(keys.inbox(Priority::Bulk))
            .query_async(&mut self.commands())
            .await?;
        let pattern = starting_with(&format!("{}stage:", keys.prefix()));
        let (mut cursor, mut stages) = (0, BTreeSet::new());
        loop {
            let (next, page) = self.scan(cursor, &pattern).await?;
            stages.extend(page);
            cursor = next;
            if cursor == 0 {
                return Ok(interactive + bulk + stages.len() as u64);
            }
        }
    }
}

/// The name in a key without its prefix, where its kind has one.
fn named_by(key: &str) -> Option<&str> {
    let (kind, name) = key.split_once(':')?;
    matches!(kind, "job" | "doc" | "history" | "reply" | "pdf" | "result").then_some(name)
}

/// The smallest id of the stream after this one.
fn after(id: &str) -> Option<String> {
    let (ms, sequence) = id.split_once('-')?;
    Some(format!("{ms}-{}", sequence.parse::<u64>().ok()?.checked_add(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_meant_is_meant() {
        let tenant = Forget::Tenant("cafe".to_owned());
        assert!(
            tenant.means("cafe/r-1") && !tenant.means("cafe2/r-1") && !tenant.means("a:cafe/r")
        );
        assert!(tenant.means_line(r#"{"tenant":"cafe","id":"r-1"}"#));
        assert!(
            !tenant.means_line(r#"{"tenant":"bar","id":"cafe"}"#) && !tenant.means_line("cafe")
        );
        assert!(tenant.means_event("breaker_opened", "", "cafe"));
        assert!(tenant.means_event("configured", "", "cafe weight"));
        assert!(!tenant.means_event("configured", "", "state"));
        let job = Forget::Job(Name::parse("cafe/r-1").unwrap());
        assert!(job.means("cafe/r-1") && !job.means("cafe/r-10"));
        assert!(!job.means_event("breaker_opened", "", "cafe"));
        let run = |ids: &str| Forget::Run { ids: ids.to_owned(), tenants: vec!["b-0".to_owned()] };
        assert!(run("x-").means("b-0/x-1") && run("x-").means("cafe/x-"));
        assert!(!run("x-").means("x-/1") && !run("x-").means("b-0/y-x-1"));
        assert!(run("x-").means_line(r#"{"tenant":"b-1","id":"x-1"}"#));
        assert!(!run("").means("b-0/x-1") && !run("").means_line(r#"{"tenant":"b","id":"x"}"#));
        assert!(run("x-").means_event("breaker_opened", "", "b-0"));
        assert!(!run("x-").means_event("breaker_opened", "", "cafe"));
        assert_eq!(after("17-9").as_deref(), Some("17-10"));
        assert_eq!(after("17-18446744073709551615"), None);
    }
}
