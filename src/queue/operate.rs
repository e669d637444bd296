//! What an operator does to a queue: cancel a job; pause, resume or drain the
//! queue or a tenant; set weights, caps and limits.

use std::collections::HashMap;
use std::time::Duration;

use ::redis::{cmd, pipe};

use super::redis::{Inner, Queue, millis};
use super::transitions::unexpected;
use super::{QueueError, limits};
use crate::failure::Failure;
use crate::job::reply::ReplyError;
use crate::job::{Isolation, Job, Name, Priority, Reply, Rules, Status};

/// How often a job that changes under our hands is looked at again.
const LOOKS: u32 = 5;

/// What became of a job that somebody cancelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancelled {
    /// It was waiting: it has ended, and its producer was answered.
    Ended,
    /// It runs: this worker was told, stops the render and ends it.
    Stopping {
        /// Its id.
        worker: String,
    },
    /// It had ended before, in this state.
    Before(String),
    /// There is no such job (any more).
    Unknown,
}

/// Whether a queue, or a tenant, takes and starts jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Both.
    #[default]
    Open,
    /// Jobs are taken, none is started.
    Paused,
    /// None is taken; those that were admitted are started and finished.
    Draining,
}

impl State {
    /// The name in Redis and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Paused => "paused",
            Self::Draining => "draining",
        }
    }

    /// The state called `text`; nothing is `Open`.
    #[must_use]
    pub fn from_name(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("open") => Some(Self::Open),
            Some("paused") => Some(Self::Paused),
            Some("draining") => Some(Self::Draining),
            Some(_) => None,
        }
    }

    /// As it is kept: the usual state is kept as nothing.
    fn kept(self) -> &'static str {
        if self == Self::Open { "" } else { self.as_str() }
    }
}

/// A change of a tenant's settings: what is `None` stays.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TenantChange {
    /// Open, paused or draining.
    pub state: Option<State>,
    /// Its share beside others of the same priority; 1 is the default.
    pub weight: Option<f64>,
    /// Jobs that may run at once; 0: the queue's default.
    pub running: Option<u64>,
    /// Living jobs it may have; 0: no limit.
    pub jobs: Option<u64>,
    /// Bytes of documents it may have; 0: no limit.
    pub bytes: Option<u64>,
    /// How much its jobs share; `Some(None)`: as the workers are configured.
    pub isolation: Option<Option<Isolation>>,
    /// Whether its documents' scripts may run; `Some(None)`: as the workers are configured.
    pub scripts: Option<Option<bool>>,
}

/// A tenant, as the queue knows it.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Tenant {
    /// Its name.
    pub name: String,
    /// Open, paused or draining.
    pub state: State,
    /// Its share beside others of the same priority.
    pub weight: f64,
    /// Jobs that may run at once, where an operator said so.
    pub running_cap: Option<u64>,
    /// Living jobs it may have, where an operator said so.
    pub jobs_cap: Option<u64>,
    /// Bytes of documents it may have, where an operator said so.
    pub bytes_cap: Option<u64>,
    /// How much its jobs share, where an operator said so.
    pub isolation: Option<&'static str>,
    /// Whether its documents' scripts may run, where an operator said so.
    pub scripts: Option<bool>,
    /// Living jobs.
    pub jobs: u64,
    /// Bytes of their documents.
    pub bytes: u64,
    /// Jobs that run.
    pub running: u64,
    /// Attempts that failed, one after the other, until now.
    pub fails: u64,
    /// Whether so many failed that it runs one job at a time.
    pub broken: bool,
    /// Milliseconds since its last admission.
    pub seen_ms_ago: u64,
}

impl Queue {
    /// Cancels a job: at once where it waits, by its worker where it runs.
    ///
    /// # Errors
    /// Where Redis is away; asking again is safe.
    pub async fn cancel(&self, name: &Name) -> Result<Cancelled, QueueError> {
        for _ in 0..LOOKS {
            let (outcome, detail) = self.try_cancel(name, true).await?;
            return Ok(match outcome.as_str() {
                "cancelled" => Cancelled::Ended,
                "stopping" => Cancelled::Stopping { worker: detail },
                "ended" => Cancelled::Before(detail),
                "unknown" => Cancelled::Unknown,
                "changed" => continue,
                _ => return Err(unexpected("cancel", &outcome)),
            });
        }
        Err(unexpected("cancel", "the job is replaced by another again and again"))
    }

    /// As [`cancel`](Self::cancel), once; `answered`: whether its producer gets a reply.
    pub(super) async fn try_cancel(
        &self,
        name: &Name,
        answered: bool,
    ) -> Result<(String, String), QueueError> {
        let Inner { keys, scripts, .. } = &*self.inner;
        let element = self.element(name).await?;
        let job = element.and_then(|element| {
            crate::job::parse(&element, Priority::Interactive, || name.id().to_owned()).ok()
        });
        let digest = match &job {
            Some(job) => Some(job.digest.clone()),
            // Without its document it can still be cancelled, by what its record says.
            None => {
                let mut connection = self.commands();
                cmd("HGET").arg(keys.job(name)).arg("digest").query_async(&mut connection).await?
            }
        };
        let mut call = scripts.cancel.call();
        call.key(keys.job(name))
            .arg(keys.prefix())
            .arg(name.to_string())
            .arg(digest.unwrap_or_default())
            .arg(if answered { cancelled_line(name, job.as_ref()) } else { String::new() })
            .arg(millis(job.as_ref().map_or(Duration::from_secs(600), |job| job.reply_ttl)))
            .arg(millis(job.as_ref().map_or(Duration::from_secs(86_400), |job| job.retain)))
            .arg(job.as_ref().and_then(|job| job.reply_to.as_deref()).unwrap_or(""));
        Ok(call.invoke(&mut self.commands()).await?)
    }

    /// Opens, pauses or drains the whole queue.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn set_state(&self, state: State) -> Result<(), QueueError> {
        let key = self.keys().config();
        self.configure(key, "", &[("state", state.kept().to_owned())]).await
    }

    /// Whether the queue is open.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn state(&self) -> Result<State, QueueError> {
        let state: Option<String> = cmd("HGET")
            .arg(self.keys().config())
            .arg("state")
            .query_async(&mut self.commands())
            .await?;
        Ok(State::from_name(state.as_deref()).unwrap_or_default())
    }

    /// Changes a tenant's settings; they last until they are changed again.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn change_tenant(
        &self,
        tenant: &str,
        change: &TenantChange,
    ) -> Result<(), QueueError> {
        let mut fields = Vec::new();
        if let Some(state) = change.state {
            fields.push(("state", state.kept().to_owned()));
        }
        if let Some(weight) = change.weight {
            fields.push(("weight", weight.to_string()));
        }
        let numbers = [("running", change.running), ("jobs", change.jobs), ("bytes", change.bytes)];
        for (field, number) in numbers {
            let kept = number.map(|n| if n == 0 { String::new() } else { n.to_string() });
            fields.extend(kept.map(|kept| (field, kept)));
        }
        if let Some(isolation) = change.isolation {
            fields.push(("isolation", isolation.map_or("", Isolation::as_str).to_owned()));
        }
        if let Some(scripts) = change.scripts {
            let kept = scripts.map_or("", |on| if on { "on" } else { "off" });
            fields.push(("scripts", kept.to_owned()));
        }
        self.configure(self.keys().tenant(tenant), tenant, &fields).await
    }

    async fn configure(
        &self,
        key: String,
        tenant: &str,
        fields: &[(&str, String)],
    ) -> Result<(), QueueError> {
        let Inner { keys, scripts, .. } = &*self.inner;
        let mut call = scripts.configure.call();
        call.key(key).arg(keys.prefix()).arg(tenant);
        for (field, value) in fields {
            call.arg(*field).arg(value);
        }
        Ok(call.invoke(&mut self.commands()).await?)
    }

    /// Sets a limit of the whole queue (one of [`limits::NAMES`]) for all
    /// workers; `None`: the workers' own configuration again.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn set_limit(&self, name: &str, value: Option<u64>) -> Result<(), QueueError> {
        let value = value.map(|value| value.to_string()).unwrap_or_default();
        self.configure(self.keys().config(), "", &[(name, value)]).await?;
        if name == "tenant_running" {
            // Who was at the old cap may have room now, and the other way round.
            let seen = cmd("ZRANGE").arg(self.keys().tenants()).arg(0).arg(-1).to_owned();
            let tenants: Vec<String> = seen.query_async(&mut self.commands()).await?;
            for tenant in tenants {
                self.configure(self.keys().tenant(&tenant), &tenant, &[]).await?;
            }
        }
        Ok(())
    }

    /// Name and value of each limit in force, and whether it was set in Redis.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn limits(&self) -> Result<Vec<(&'static str, u64, bool)>, QueueError> {
        let set: Vec<Option<u64>> = cmd("HMGET")
            .arg(self.keys().config())
            .arg(&limits::NAMES)
            .query_async(&mut self.commands())
            .await?;
        let own = self.inner.limits.fields();
        let both = own.into_iter().zip(set);
        Ok(both.map(|((name, own), set)| (name, set.unwrap_or(own), set.is_some())).collect())
    }

    /// Every tenant that was seen lately or has settings, the latest first.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn tenants(&self) -> Result<Vec<Tenant>, QueueError> {
        let now = self.now_ms().await?;
        let seen: Vec<(String, u64)> = cmd("ZREVRANGE")
            .arg(self.keys().tenants())
            .arg(0)
            .arg(-1)
            .arg("WITHSCORES")
            .query_async(&mut self.commands())
            .await?;
        let mut tenants = Vec::with_capacity(seen.len());
        for page in seen.chunks(200) {
            let mut asked = pipe();
            for (name, _) in page {
                asked.cmd("HGETALL").arg(self.keys().tenant(name));
                asked.cmd("HGETALL").arg(self.keys().used_by(name));
            }
            let answers: Vec<HashMap<String, String>> =
                asked.query_async(&mut self.commands()).await?;
            for ((name, at), pair) in page.iter().zip(answers.chunks(2)) {
                if let [set, used] = pair {
                    tenants.push(tenant(name, set, used, now.saturating_sub(*at)));
                }
            }
        }
        Ok(tenants)
    }

    /// One tenant; `None` where it is not known.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn tenant(&self, name: &str) -> Result<Option<Tenant>, QueueError> {
        let keys = self.keys();
        let now = self.now_ms().await?;
        type Answer = (Option<u64>, HashMap<String, String>, HashMap<String, String>);
        let (seen, set, used): Answer = pipe()
            .cmd("ZSCORE")
            .arg(keys.tenants())
            .arg(name)
            .cmd("HGETALL")
            .arg(keys.tenant(name))
            .cmd("HGETALL")
            .arg(keys.used_by(name))
            .query_async(&mut self.commands())
            .await?;
        Ok(seen.map(|at| tenant(name, &set, &used, now.saturating_sub(at))))
    }
}

fn tenant(
    name: &str,
    set: &HashMap<String, String>,
    used: &HashMap<String, String>,
    seen_ms_ago: u64,
) -> Tenant {
    let number = |from: &HashMap<String, String>, field: &str| {
        from.get(field).and_then(|text| text.parse::<u64>().ok())
    };
    let fails = number(used, "fails").unwrap_or(0);
    let word = |field: &str| set.get(field).map_or("", String::as_str);
    let rules = Rules::read(word("isolation"), word("scripts"));
    Tenant {
        name: name.to_owned(),
        state: State::from_name(set.get("state").map(String::as_str)).unwrap_or_default(),
        weight: set.get("weight").and_then(|text| text.parse().ok()).unwrap_or(1.0),
        running_cap: number(set, "running"),
        jobs_cap: number(set, "jobs"),
        bytes_cap: number(set, "bytes"),
        isolation: rules.isolation.map(Isolation::as_str),
        scripts: rules.scripts,
        jobs: number(used, "jobs").unwrap_or(0),
        bytes: number(used, "bytes").unwrap_or(0),
        running: number(used, "running").unwrap_or(0),
        fails,
        broken: fails >= super::BROKEN_AFTER,
        seen_ms_ago,
    }
}

/// What the producer of a cancelled job is told.
fn cancelled_line(name: &Name, job: Option<&Job>) -> String {
    let mut reply = Reply::new(name, Status::Cancelled);
    reply.error = Some(ReplyError::from(&Failure::cancelled()));
    reply.meta = job.map(|job| job.meta.clone()).unwrap_or_default();
    reply.to_line().unwrap_or_default()
}
