//! Comparing counters with what is there.
//!
//! Records are counted page by page, so a count is right only if nothing
//! happened meanwhile. That is seen at what changes with everything that
//! happens: the newest event and the counters themselves for the queue; for a
//! tenant its counters, its virtual times (each claim moves one) and the time of
//! its last admission. A difference is believed when two such quiet looks in a
//! row find it.

use std::collections::{BTreeMap, HashSet};

use ::redis::{Value, cmd, pipe};

use super::scan::{records, starting_with};
use super::{Counters, Fsck, Kind, PAGE};
use crate::queue::QueueError;
use crate::queue::redis::Inner;

/// So many looks are taken before the queue is called too busy.
const LOOKS: u32 = 4;
/// So many results that are held are added up in one call.
const ADDED_AT_ONCE: u64 = 10_000;

const QUEUE_FIELDS: [&str; 3] = ["jobs", "bytes", "dead_bytes"];
const TENANT_FIELDS: [&str; 3] = ["jobs", "bytes", "running"];

/// Whose counters: a tenant's, or (empty) the queue's.
type Whose = String;

/// What the counters say, and what moves when anything happens.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    counters: [i64; 3],
    moves: Vec<Option<String>>,
}

/// One look.
struct Look {
    /// For each: by how much the counters are wrong, and whether nothing happened meanwhile.
    wrong: BTreeMap<Whose, ([i64; 3], bool)>,
    said: BTreeMap<Whose, Said>,
}

impl Fsck<'_> {
    /// Compares all counters, and mends those that are surely wrong.
    pub(super) async fn counters(&mut self) -> Result<(), QueueError> {
        self.report.counters = Counters::Compared;
        let mut last: Option<Look> = None;
        let mut settled: HashSet<Whose> = HashSet::new();
        for _ in 0..LOOKS {
            let look = self.look().await?;
            for (whose, (wrong, quiet)) in &look.wrong {
                if settled.contains(whose) {
                    continue;
                }
                let before = last.as_ref().and_then(|last| last.wrong.get(whose));
                let sure = *quiet && before == Some(&(*wrong, true));
                if *wrong == [0; 3] {
                    settled.insert(whose.clone());
                } else if sure {
                    settled.insert(whose.clone());
                    self.recount(whose, wrong, &look.said[whose]).await?;
                }
            }
            if look.wrong.keys().all(|whose| settled.contains(whose)) {
                return self.held().await;
            }
            last = Some(look);
        }
        self.report.counters = Counters::Busy;
        self.held().await
    }

    async fn look(&mut self) -> Result<Look, QueueError> {
        let before = self.said().await?;
        let there = self.count().await?;
        // Tenants that were not known before are looked at the next time.
        self.tenants.extend(there.keys().filter(|whose| !whose.is_empty()).cloned());
        let said = self.said().await?;
        let mut wrong = BTreeMap::new();
        for (whose, after) in &said {
            let there = there.get(whose).copied().unwrap_or_default();
            let off: [i64; 3] = std::array::from_fn(|i| there[i] - after.counters[i]);
            wrong.insert(whose.clone(), (off, before.get(whose) == Some(after)));
        }
        Ok(Look { wrong, said })
    }

    /// Adds up every record.
    async fn count(&self) -> Result<BTreeMap<Whose, [i64; 3]>, QueueError> {
        let keys = self.keys_of();
        let pattern = starting_with(&format!("{}job:", keys.prefix()));
        let mut there: BTreeMap<Whose, [i64; 3]> = BTreeMap::new();
        let mut counted = HashSet::new();
        let mut cursor = 0;
        loop {
            let (next, page) = self.queue.scan(cursor, &pattern).await?;
            let names = page.iter().filter_map(|key| key.strip_prefix("job:"));
            let names: Vec<String> = names
                .filter(|name| counted.insert((*name).to_owned()))
                .map(str::to_owned)
                .collect();
            for names in names.chunks(PAGE) {
                let found = records(self.queue, keys, names, &["state", "bytes"]).await?;
                for (name, record) in names.iter().zip(&found) {
                    add(&mut there, name, record);
                }
            }
            cursor = next;
            if cursor == 0 {
                return Ok(there);
            }
        }
    }

    /// What all counters say now.
    async fn said(&self) -> Result<BTreeMap<Whose, Said>, QueueError> {
        let keys = self.keys_of();
        let mut connection = self.queue.commands();
        let (queue, newest): (Vec<Option<String>>, Value) = pipe()
            .cmd("HMGET")
            .arg(keys.state())
            .arg(&QUEUE_FIELDS)
            .cmd("XREVRANGE")
            .arg(keys.events())
            .arg("+")
            .arg("-")
            .arg("COUNT")
            .arg(1)
            .query_async(&mut connection)
            .await?;
        let moves = vec![Some(format!("{newest:?}"))];
        let mut said = BTreeMap::from([(Whose::new(), said_by(&queue, moves))]);
        let tenants: Vec<&String> = self.tenants.iter().collect();
        for page in tenants.chunks(PAGE) {
            let mut asked = pipe();
            for tenant in page {
                asked
                    .cmd("HMGET")
                    .arg(keys.used_by(tenant))
                    .arg(&TENANT_FIELDS)
                    .arg(&["vt:interactive", "vt:bulk", "fails"])
                    .cmd("ZSCORE")
                    .arg(keys.tenants())
                    .arg(tenant.as_str());
            }
            let answers: Vec<Value> = asked.query_async(&mut connection).await?;
            let mut answers = answers.into_iter();
            for tenant in page {
                let fields: Vec<Option<String>> = read(answers.next())?;
                let seen: Option<String> = read(answers.next())?;
                let moves = fields.iter().skip(3).cloned().chain([seen]).collect();
                said.insert((*tenant).clone(), said_by(&fields, moves));
            }
        }
        Ok(said)
    }

    /// Notes wrong counters, and changes them by what they are wrong by.
    async fn recount(
        &mut self,
        whose: &str,
        wrong: &[i64; 3],
        said: &Said,
    ) -> Result<(), QueueError> {
        let Inner { keys, scripts, .. } = &*self.queue.inner;
        let (key, fields) = match whose {
            "" => (keys.state(), QUEUE_FIELDS),
            tenant => (keys.used_by(tenant), TENANT_FIELDS),
        };
        let mut call = scripts.fsck_recount.call();
        call.key(&key).arg(keys.prefix()).arg(whose);
        for ((field, wrong), said) in fields.iter().zip(wrong).zip(said.counters) {
            if *wrong != 0 {
                call.arg(*field).arg(wrong);
                let owner = if whose.is_empty() { "the queue" } else { whose };
                let what = format!("{owner}: {field} says {said}, there are {}", said + wrong);
                self.report.add(Kind::Counter, &what, self.repair);
            }
        }
        if self.repair {
            let _: u8 = call.invoke(&mut self.queue.commands()).await?;
        }
        Ok(())
    }

    /// Bytes that are held, against their list.
    async fn held(&mut self) -> Result<(), QueueError> {
        let Some((there, said)) = self.held_now().await? else {
            self.report.counters = Counters::Busy;
            return Ok(());
        };
        if there != said {
            let keys = self.keys_of();
            if self.repair {
                let mut call = self.queue.inner.scripts.fsck_recount.call();
                call.key(keys.state()).arg(keys.prefix()).arg("").arg("held").arg(there - said);
                let _: u8 = call.invoke(&mut self.queue.commands()).await?;
            }
            let what = format!("the queue: held says {said}, there are {there}");
            self.report.add(Kind::Counter, &what, self.repair);
        }
        Ok(())
    }

    /// What is held and what the counter says, both at one time; `None` where
    /// that cannot be had.
    async fn held_now(&self) -> Result<Option<(i64, i64)>, QueueError> {
        let Inner { keys, scripts, .. } = &*self.queue.inner;
        // A script, and no transaction: a full Redis refuses to queue commands, and
        // the permissions of a worker have no MULTI.
        let now: Option<(i64, i64)> = scripts
            .fsck_held
            .key(keys.held())
            .key(keys.state())
            .arg(keys.prefix())
            .arg(ADDED_AT_ONCE)
            .invoke(&mut self.queue.commands())
            .await?;
        if now.is_some() {
            return Ok(now);
        }
        let mut last = None;
        for _ in 0..LOOKS {
            let before = self.held_said().await?;
            let there = self.held_added().await?;
            let now = (there, self.held_said().await?);
            if now.1 == before && (there == before || last == Some(now)) {
                return Ok(Some(now));
            }
            last = Some(now);
        }
        Ok(None)
    }

    async fn held_said(&self) -> Result<i64, QueueError> {
        let keys = self.keys_of();
        let mut asked = cmd("HGET");
        asked.arg(keys.state()).arg("held");
        let said: Option<i64> = asked.query_async(&mut self.queue.commands()).await?;
        Ok(said.unwrap_or(0))
    }

    async fn held_added(&self) -> Result<i64, QueueError> {
        let mut entries = BTreeMap::<String, i64>::new();
        let mut cursor = 0_u64;
        loop {
            let (next, page): (u64, Vec<(String, i64)>) = cmd("HSCAN")
                .arg(self.keys_of().held())
                .arg(cursor)
                .arg("COUNT")
                .arg(1000)
                .query_async(&mut self.queue.commands())
                .await?;
            entries.extend(page);
            cursor = next;
            if cursor == 0 {
                return Ok(entries.values().sum());
            }
        }
    }
}

/// What the fields of a hash say.
fn said_by(fields: &[Option<String>], moves: Vec<Option<String>>) -> Said {
    let number = |i: usize| {
        let text = fields.get(i).and_then(Option::as_ref);
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    Said { counters: std::array::from_fn(number), moves }
}

fn read<T: ::redis::FromRedisValue>(value: Option<Value>) -> Result<T, QueueError> {
    let value = value.unwrap_or(Value::Nil);
    ::redis::from_redis_value(value)
        .map_err(|error| super::super::transitions::unexpected("HMGET", &error.to_string()))
}

/// Counts one record for the queue and for its tenant.
fn add(there: &mut BTreeMap<Whose, [i64; 3]>, name: &str, record: &[Option<String>]) {
    let [Some(state), Some(bytes)] = record else { return };
    let (Some((tenant, _)), Ok(bytes)) = (name.split_once('/'), bytes.parse::<i64>()) else {
        return;
    };
    let living = matches!(state.as_str(), "ready" | "leased" | "delayed");
    let queue = there.entry(Whose::new()).or_default();
    if state == "dead" {
        queue[2] += bytes;
    } else if living {
        queue[0] += 1;
        queue[1] += bytes;
        let tenant = there.entry(tenant.to_owned()).or_default();
        tenant[0] += 1;
        tenant[1] += bytes;
        tenant[2] += i64::from(state == "leased");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn living_jobs_count_for_their_tenant_and_dead_letters_for_the_queue() {
        let mut there = BTreeMap::new();
        for (name, state, bytes) in [
            ("a/1", "ready", "5"),
            ("a/2", "leased", "7"),
            ("b/1", "dead", "9"),
            ("b/2", "done", "1"),
        ] {
            add(&mut there, name, &[Some(state.to_owned()), Some(bytes.to_owned())]);
        }
        add(&mut there, "b/3", &[None, None]);
        assert_eq!(there[""], [2, 12, 9]);
        assert_eq!(there["a"], [2, 12, 1]);
        assert!(!there.contains_key("b"));
    }
}
