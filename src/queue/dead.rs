//! Dead letters: look at them, bring them back, forget them.

use ::redis::{cmd, pipe};

use super::redis::{Inner, Queue};
use super::transitions::unexpected;
use super::{Past, QueueError};
use crate::job::Name;

/// How many dead letters are looked at in one call.
const PAGE: usize = 100;

/// One dead letter, in short.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DeadLetter {
    /// `<tenant>/<id>`.
    pub name: String,
    /// Whose job.
    pub tenant: String,
    /// Why its last attempt failed: a bounded code.
    pub code: String,
    /// When it died: milliseconds of Redis' clock.
    pub ended_ms: u64,
    /// Attempts that counted.
    pub attempts: u32,
    /// Workers or browsers that died with it.
    pub crashes: u32,
    /// Bytes of its document.
    pub bytes: u64,
    /// When it is forgotten: milliseconds of Redis' clock.
    pub until_ms: u64,
}

/// Which dead letters are meant; what is `None` matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadFilter {
    /// Of this tenant.
    pub tenant: Option<String>,
    /// With this code.
    pub code: Option<String>,
}

impl DeadFilter {
    fn matches(&self, letter: &DeadLetter) -> bool {
        self.tenant.as_ref().is_none_or(|tenant| *tenant == letter.tenant)
            && self.code.as_ref().is_none_or(|code| *code == letter.code)
    }
}

/// A page of dead letters, and where the next one begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadPage {
    /// Those that match.
    pub letters: Vec<DeadLetter>,
    /// How many were looked at.
    pub seen: usize,
    /// Where to go on; `None`: that was all.
    pub next: Option<usize>,
}

/// What became of a dead letter that somebody wants to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revived {
    /// It is ready, with all its attempts before it.
    Ready,
    /// It is no dead letter: it lives, or ended otherwise.
    NotDead,
    /// Its document is no longer in Redis.
    BodyLost,
    /// There is no such job (any more).
    Unknown,
}

impl Queue {
    /// Dead letters that match, from position `from` on (0: those that are
    /// forgotten first). Looks at 100 in one call, however few match.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn dead_letters(
        &self,
        from: usize,
        filter: &DeadFilter,
    ) -> Result<DeadPage, QueueError> {
        let keys = self.keys();
        let names: Vec<(String, u64)> = cmd("ZRANGE")
            .arg(keys.dead())
            .arg(from)
            .arg(from + PAGE - 1)
            .arg("WITHSCORES")
            .query_async(&mut self.commands())
            .await?;
        let mut asked = pipe();
        let mut known = Vec::with_capacity(names.len());
        for (text, until) in &names {
            let Some(name) = Name::parse(text) else { continue };
            asked
                .cmd("HMGET")
                .arg(keys.job(&name))
                .arg(&["state", "code", "ended", "attempts", "crashes", "bytes"]);
            known.push((name, *until));
        }
        let records: Vec<Vec<Option<String>>> = if known.is_empty() {
            Vec::new()
        } else {
            asked.query_async(&mut self.commands()).await?
        };
        let mut letters = Vec::new();
        for ((name, until_ms), record) in known.iter().zip(&records) {
            let text = |i: usize| record.get(i).cloned().flatten();
            let number = |i: usize| text(i).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
            if text(0).as_deref() != Some("dead") {
                continue;
            }
            let letter = DeadLetter {
                name: name.to_string(),
                tenant: name.tenant().to_owned(),
                code: text(1).unwrap_or_default(),
                ended_ms: number(2),
                attempts: u32::try_from(number(3)).unwrap_or(u32::MAX),
                crashes: u32::try_from(number(4)).unwrap_or(u32::MAX),
                bytes: number(5),
                until_ms: *until_ms,
            };
            if filter.matches(&letter) {
                letters.push(letter);
            }
        }
        let next = (names.len() == PAGE).then_some(from + PAGE);
        Ok(DeadPage { letters, seen: names.len(), next })
    }

    /// What became of a job's attempts that did not end well, the newest last.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn history(&self, name: &Name) -> Result<Vec<Past>, QueueError> {
        let lines: Vec<String> = cmd("LRANGE")
            .arg(self.keys().history(name))
            .arg(0)
            .arg(-1)
            .query_async(&mut self.commands())
            .await?;
        Ok(lines.iter().filter_map(|line| Past::read(line)).collect())
    }

    /// A dead letter becomes a ready job, with all its attempts before it.
    ///
    /// # Errors
    /// Where Redis is away. Asked again after a lost answer, it says `NotDead`.
    pub async fn revive(&self, name: &Name) -> Result<Revived, QueueError> {
        let Inner { keys, scripts, .. } = &*self.inner;
        let outcome: String = scripts
            .revive
            .key(keys.job(name))
            .key(keys.document(name))
            .arg(keys.prefix())
            .arg(name.to_string())
            .invoke(&mut self.commands())
            .await?;
        Ok(match outcome.as_str() {
            "ready" => Revived::Ready,
            "not_dead" => Revived::NotDead,
            "body_lost" => Revived::BodyLost,
            "unknown" => Revived::Unknown,
            _ => return Err(unexpected("revive", &outcome)),
        })
    }

    /// Forgets dead letters, with documents and histories; how many they were.
    ///
    /// # Errors
    /// Where Redis is away; asking again is safe.
    pub async fn purge(&self, names: &[String]) -> Result<u64, QueueError> {
        let Inner { keys, scripts, .. } = &*self.inner;
        let mut purged = 0;
        for page in names.chunks(PAGE) {
            let mut call = scripts.purge.call();
            call.key(keys.dead()).arg(keys.prefix());
            for name in page {
                call.arg(name);
            }
            let now: u64 = call.invoke(&mut self.commands()).await?;
            purged += now;
        }
        Ok(purged)
    }
}
