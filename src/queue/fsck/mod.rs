//! `fsck`: finds what something else than our scripts did to a queue (an
//! eviction, a hand with redis-cli, an old release, a Redis that was rolled
//! back), and mends it.
//!
//! ```text
//! types ─▶ keys (SCAN) ─▶ members of sets ─▶ lists ─▶ orphans ─▶ claims ─▶ tenants ─▶ assets ─▶ results ─▶ counters ─▶ lost
//! ```
//!
//! A job's record says what is true; lists, sets, claims, times to live and
//! counters follow it. A document without a record goes back to an inbox.
//! Whoever is looked at is looked at within one script, of at most 100 names,
//! and mended in the same call: between our scripts every job is whole, so a
//! queue in use shows nothing that is not so. Two things cannot be seen in one
//! call, and each has its own proof:
//!
//! * a ready job that no list has: it was ready, unclaimed, before its lists were
//!   read from the tail (where nothing that stays can be missed) and after;
//! * a counter: two looks in a row find the same difference, and nothing
//!   happened meanwhile; else the report says that the queue is too busy.
//!
//! What cannot be mended is said: a document that is gone is gone, and so is what
//! a key of the wrong type has replaced. A job that waits for its turn without a
//! document is ended as `body_lost`.

mod count;
mod lost;
mod report;
mod scan;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use ::redis::{cmd, pipe};

use super::redis::{Inner, Queue, millis};
use super::{QueueError, keys::Keys};
use crate::job::{Name, Priority};

pub use self::report::{Counters, Finding, FsckReport, Kind};
pub(super) use self::scan::starting_with;

/// Names, tenants or tokens in one call of a script.
const PAGE: usize = 100;
/// How long a result may be on its way without a time to live: it is pushed and
/// given one in the same breath.
const ON_ITS_WAY: std::time::Duration = std::time::Duration::from_secs(1);
const OUT_TTL_MS: u64 = 60_000;
const DAY_MS: u64 = 86_400_000;

const PRIORITIES: [Priority; 2] = [Priority::Interactive, Priority::Bulk];

/// What is said of names: findings, waiting jobs, orphans, lost ones.
type Said = (Vec<String>, Vec<String>, Vec<String>, Vec<String>);

/// A job that waits, as it was when it was looked at.
#[derive(Debug)]
struct Waiting {
    state: String,
    admitted: String,
    claimed: String,
    priority: String,
}

/// One run.
struct Fsck<'a> {
    queue: &'a Queue,
    repair: bool,
    report: FsckReport,
    /// Every name that was checked.
    checked: HashSet<String>,
    waiting: HashMap<String, Waiting>,
    /// Waiting jobs to be ended: their document is gone.
    lost: Vec<lost::Lost>,
    orphans: BTreeSet<String>,
    /// Those of them that a bulk list names.
    bulk_orphans: BTreeSet<String>,
    tenants: BTreeSet<String>,
    /// Priority and tenant of each ready list.
    lists: BTreeSet<(String, String)>,
    /// Workers that have a stage or claims.
    workers: BTreeSet<String>,
    /// Keys of shared results, and of results on their way, without the prefix.
    shared: BTreeSet<String>,
    outgoing: BTreeSet<String>,
}

impl Queue {
    /// Looks for what something else broke; with `repair`, mends it. Safe while
    /// the queue is in use.
    ///
    /// # Errors
    /// Where Redis is away; it may be run again at any time.
    pub async fn fsck(&self, repair: bool) -> Result<FsckReport, QueueError> {
        let mut fsck = Fsck {
            queue: self,
            repair,
            report: FsckReport::new(repair),
            checked: HashSet::new(),
            waiting: HashMap::new(),
            lost: Vec::new(),
            orphans: BTreeSet::new(),
            bulk_orphans: BTreeSet::new(),
            tenants: BTreeSet::new(),
            lists: BTreeSet::new(),
            workers: BTreeSet::new(),
            shared: BTreeSet::new(),
            outgoing: BTreeSet::new(),
        };
        if !fsck.types().await? {
            // Every script would stumble over it.
            return Ok(fsck.report);
        }
        fsck.keys().await?;
        fsck.members().await?;
        fsck.ready_lists().await?;
        fsck.requeue().await?;
        fsck.documents().await?;
        fsck.claims().await?;
        fsck.rings().await?;
        fsck.assets().await?;
        fsck.bells().await?;
        fsck.results().await?;
        fsck.counters().await?;
        // Last: whoever ends a tenant's last job, by the counters, throws its lists away.
        fsck.lost().await?;
        fsck.report.jobs = fsck.checked.len() as u64;
        fsck.report.tenants = fsck.tenants.len() as u64;
        Ok(fsck.report)
    }
}

impl Fsck<'_> {
    fn keys_of(&self) -> &Keys {
        self.queue.keys()
    }

    fn flag(&self) -> u8 {
        u8::from(self.repair)
    }

    /// Notes what a script said: code, what, mended.
    fn note(&mut self, said: &[String]) -> Result<(), QueueError> {
        for finding in said.chunks(3) {
            let [code, what, mended] = finding else {
                return Err(super::transitions::unexpected("fsck", &finding.join(" ")));
            };
            let kind = Kind::from_name(code)
                .ok_or_else(|| super::transitions::unexpected("fsck", code))?;
            self.report.add(kind, what, mended == "1");
        }
        Ok(())
    }

    /// Whether the keys that every script uses are of their types. One of
    /// another type holds nothing of ours: it goes, and what it should hold is
    /// put together again.
    async fn types(&mut self) -> Result<bool, QueueError> {
        let keys = self.keys_of();
        let fixed = [
            (keys.state(), "hash"),
            (keys.held(), "hash"),
            (keys.config(), "hash"),
            (keys.leased(), "zset"),
            (keys.delayed(), "zset"),
            (keys.dead(), "zset"),
            (keys.deadlines(), "zset"),
            (keys.workers(), "zset"),
            (keys.tenants(), "zset"),
            (keys.ring(Priority::Interactive), "zset"),
            (keys.ring(Priority::Bulk), "zset"),
            (keys.broken(), "set"),
            (keys.bell(Priority::Interactive), "list"),
            (keys.bell(Priority::Bulk), "list"),
            (keys.events(), "stream"),
        ];
        let usable = self.of_types(&fixed).await?.is_empty() || self.repair;
        let keys = self.keys_of();
        let inboxes = PRIORITIES.map(|priority| (keys.inbox(priority), "list"));
        let wrong = self.wrong_types(&inboxes).await?;
        for key in &wrong {
            // Somebody's document may be in it.
            self.report.add(Kind::WrongType, key, false);
        }
        Ok(usable && wrong.is_empty())
    }

    /// Those of another type than they should be; with `repair` they go.
    async fn of_types(&mut self, keys: &[(String, &str)]) -> Result<Vec<String>, QueueError> {
        let wrong = self.wrong_types(keys).await?;
        for key in &wrong {
            if self.repair {
                cmd("UNLINK").arg(key).query_async::<()>(&mut self.queue.commands()).await?;
            }
            self.report.add(Kind::WrongType, key, self.repair);
        }
        Ok(wrong)
    }

    async fn wrong_types(&self, keys: &[(String, &str)]) -> Result<Vec<String>, QueueError> {
        let mut wrong = Vec::new();
        for page in keys.chunks(PAGE) {
            let mut asked = pipe();
            for (key, _) in page {
                asked.cmd("TYPE").arg(key);
            }
            let types: Vec<String> = asked.query_async(&mut self.queue.commands()).await?;
            let both = page.iter().zip(types);
            wrong.extend(
                both.filter(|((_, right), is)| is != right && is != "none")
                    .map(|((key, _), _)| key.clone()),
            );
        }
        Ok(wrong)
    }

    /// Checks names, once each.
    async fn check(&mut self, names: Vec<String>) -> Result<(), QueueError> {
        let Inner { keys, scripts, lease_ms, .. } = &*self.queue.inner;
        let mut fresh = Vec::new();
        for name in names {
            if Name::parse(&name).is_some() && self.checked.insert(name.clone()) {
                fresh.push(name);
            }
        }
        for page in fresh.chunks(PAGE) {
            let mut call = scripts.fsck_names.call();
            call.arg(keys.prefix()).arg(self.flag()).arg(lease_ms);
            for name in page {
                call.arg(name);
            }
            let (found, waiting, orphans, lost): Said =
                call.invoke(&mut self.queue.commands()).await?;
            self.note(&found)?;
            for fields in waiting.chunks(5) {
                let [name, state, admitted, claimed, priority] = fields else { continue };
                let waiting = Waiting {
                    state: state.clone(),
                    admitted: admitted.clone(),
                    claimed: claimed.clone(),
                    priority: priority.clone(),
                };
                self.waiting.insert(name.clone(), waiting);
            }
            for fields in lost.chunks(3) {
                let [name, admitted, attempts] = fields else { continue };
                self.lost.push(lost::Lost {
                    name: name.clone(),
                    admitted: admitted.clone(),
                    attempts: attempts.clone(),
                });
            }
            self.orphans.extend(orphans);
        }
        Ok(())
    }

    /// Waiting jobs that no list has get their place, the oldest first.
    async fn requeue(&mut self) -> Result<(), QueueError> {
        let Inner { keys, scripts, .. } = &*self.queue.inner;
        let mut lost: Vec<_> = std::mem::take(&mut self.waiting).into_iter().collect();
        let age = |waiting: &Waiting| waiting.admitted.parse::<u64>().unwrap_or(0);
        // Each goes to the front.
        lost.sort_by_key(|(_, waiting)| std::cmp::Reverse(age(waiting)));
        for (text, waiting) in lost {
            let Some(name) = Name::parse(&text) else { continue };
            let due = if waiting.state == "delayed" { self.due(&name, &waiting).await? } else { 0 };
            let still: u8 = scripts
                .fsck_requeue
                .key(keys.job(&name))
                .arg(keys.prefix())
                .arg(self.flag())
                .arg(&text)
                .arg(&waiting.state)
                .arg(&waiting.admitted)
                .arg(&waiting.claimed)
                .arg(due)
                .invoke(&mut self.queue.commands())
                .await?;
            if still == 1 {
                self.report.add(Kind::Unlisted, &text, self.repair);
            }
        }
        Ok(())
    }

    /// When a delayed job whose time was lost is due: as its document says if
    /// it never ran, else now.
    async fn due(&self, name: &Name, waiting: &Waiting) -> Result<u64, QueueError> {
        if !waiting.claimed.is_empty() {
            return Ok(0);
        }
        let element = self.queue.element(name).await?;
        let job = element.and_then(|element| {
            crate::job::parse(&element, Priority::Interactive, || name.id().to_owned()).ok()
        });
        let admitted: u64 = waiting.admitted.parse().unwrap_or(0);
        Ok(job.map_or(0, |job| admitted.saturating_add(millis(job.delay))))
    }

    /// Documents without a record go back to the inbox that they came through,
    /// as far as a list still knows it.
    async fn documents(&mut self) -> Result<(), QueueError> {
        let Inner { keys, scripts, .. } = &*self.queue.inner;
        let orphans: BTreeMap<String, Priority> = std::mem::take(&mut self.orphans)
            .into_iter()
            .map(|name| {
                let bulk = self.bulk_orphans.contains(&name);
                (name, if bulk { Priority::Bulk } else { Priority::Interactive })
            })
            .collect();
        for (text, inbox) in orphans {
            let Some(name) = Name::parse(&text) else { continue };
            let orphan: u8 = scripts
                .fsck_orphan
                .key(keys.job(&name))
                .key(keys.document(&name))
                .key(keys.inbox(inbox))
                .arg(keys.prefix())
                .arg(self.flag())
                .invoke(&mut self.queue.commands())
                .await?;
            if orphan == 1 {
                self.report.add(Kind::OrphanDocument, &text, self.repair);
            }
        }
        Ok(())
    }

    /// Rings, the breaker's list, the list of tenants.
    async fn rings(&mut self) -> Result<(), QueueError> {
        let Inner { keys, scripts, .. } = &*self.queue.inner;
        for priority in PRIORITIES {
            let inside = self.members_of("ZSCAN", &keys.ring(priority)).await?;
            self.tenants.extend(inside);
        }
        let broken = self.members_of("SSCAN", &keys.broken()).await?;
        self.tenants.extend(broken);
        let tenants: Vec<String> = self.tenants.iter().cloned().collect();
        for page in tenants.chunks(PAGE) {
            let mut call = scripts.fsck_tenants.call();
            call.arg(keys.prefix()).arg(self.flag());
            for tenant in page {
                call.arg(tenant);
            }
            let found: Vec<String> = call.invoke(&mut self.queue.commands()).await?;
            self.note(&found)?;
        }
        Ok(())
    }

    /// Assets: entry, content and version belong together.
    async fn assets(&mut self) -> Result<(), QueueError> {
        let Inner { keys, scripts, .. } = &*self.queue.inner;
        let tenants: Vec<String> = self.tenants.iter().cloned().collect();
        for page in tenants.chunks(PAGE) {
            let mut call = scripts.fsck_assets.call();
            call.arg(keys.prefix()).arg(self.flag()).arg(super::assets::version());
            for tenant in page {
                call.arg(tenant);
            }
            let found: Vec<String> = call.invoke(&mut self.queue.commands()).await?;
            self.note(&found)?;
        }
        Ok(())
    }

    /// A bell has one token at the most.
    async fn bells(&mut self) -> Result<(), QueueError> {
        for priority in PRIORITIES {
            let bell = self.keys_of().bell(priority);
            let mut connection = self.queue.commands();
            let tokens: u64 = cmd("LLEN").arg(&bell).query_async(&mut connection).await?;
            if tokens > 1 {
                if self.repair {
                    let mut trim = cmd("LTRIM");
                    trim.arg(&bell).arg(0).arg(0).query_async::<()>(&mut connection).await?;
                }
                self.report.add(Kind::Bell, &bell, self.repair);
            }
        }
        Ok(())
    }
}
