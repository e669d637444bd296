//! `tillroll status`: what the queue holds, what is in its way, and which workers live.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::exit::{Failure, print};
use super::workers::{self, Known};
use super::{Session, counted, parts, table};
use crate::config::units::show_bytes_rounded;
use crate::queue::{Counts, QueueError, State};
use crate::worker::snapshot::notice;

/// So many tenants of a kind are named for people; JSON has them all.
const TENANTS_SHOWN: usize = 20;

/// All that is shown.
struct Seen {
    state: State,
    counts: Counts,
    limits: Vec<(&'static str, u64, bool)>,
    hindrance: Option<String>,
    broken: Vec<String>,
    /// Those that are paused or draining: name and state.
    closed: Vec<(String, State)>,
    /// Why Redis takes no writes, and the remedy.
    read_only: Option<(String, &'static str)>,
    workers: Vec<Known>,
}

/// Runs the verb.
///
/// # Errors
/// Where Redis is away.
pub fn run(session: &Session) -> Result<(), Failure> {
    let name = session.loaded.config.queue.name.as_str();
    let seen = super::runtime()?.block_on(look(session))?;
    print(&if session.json { format!("{}\n", seen.json(name)) } else { seen.text(name) })
}

async fn look(session: &Session) -> Result<Seen, Failure> {
    let unavailable = |error: QueueError| parts::unavailable(&error);
    let queue = parts::queue(session, "status").await?;
    let mut counts = queue.counts().await.map_err(unavailable)?;
    let workers = workers::known(session, &queue).await?;
    // By the lease that each runs with, which may not be ours.
    counts.workers = workers.iter().filter(|worker| worker.alive).count() as u64;
    let tenants = queue.tenants().await.map_err(unavailable)?.into_iter();
    let closed = tenants.filter(|tenant| tenant.state != State::Open);
    let refuses = queue.refuses_writes().await.map_err(unavailable)?;
    Ok(Seen {
        closed: closed.map(|tenant| (tenant.name, tenant.state)).collect(),
        read_only: refuses.map(|error| (crate::worker::chain(&error), error.remedy())),
        state: queue.state().await.map_err(unavailable)?,
        counts,
        limits: queue.limits().await.map_err(unavailable)?,
        hindrance: queue.hindrance().await.map_err(unavailable)?,
        broken: queue.broken_tenants().await.map_err(unavailable)?,
        workers,
    })
}

/// A line that names tenants, if there are any.
fn named(what: &str, tenants: &[&str]) -> String {
    if tenants.is_empty() {
        return String::new();
    }
    let more = tenants.len().saturating_sub(TENANTS_SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let shown = tenants.get(..TENANTS_SHOWN).unwrap_or(tenants);
    format!("{what}: {}{more}\n", shown.join(", "))
}

impl Seen {
    fn json(&self, name: &str) -> Value {
        let limits =
            self.limits.iter().map(|(name, number, _)| ((*name).to_owned(), json!(number)));
        json!({
            "v": 1,
            "queue": name,
            "state": self.state,
            "jobs": self.counts,
            "limits": limits.collect::<Map<_, _>>(),
            "claims_paused": self.hindrance,
            "redis_refuses_writes":
                self.read_only.as_ref().map(|(why, remedy)| format!("{why}; {remedy}")),
            "broken_tenants": self.broken,
            "closed_tenants": self
                .closed
                .iter()
                .map(|(name, state)| json!({"name": name, "state": state}))
                .collect::<Vec<_>>(),
            "workers": self.workers.iter().map(Known::json).collect::<Vec<_>>(),
        })
    }

    fn text(&self, name: &str) -> String {
        let counts = &self.counts;
        let mut text = format!(
            "queue {name}: {} + {} in the inboxes, {} ready (of {}), {} running, {} delayed, {} dead, {} done\n",
            counts.inbox,
            counts.inbox_bulk,
            counts.ready,
            counted(counts.tenants, "tenant"),
            counts.leased,
            counts.delayed,
            counts.dead,
            counts.done
        );
        text += match self.state {
            State::Open => "state: open\n",
            State::Paused => "state: PAUSED: jobs are taken, none is started\n",
            State::Draining => {
                "state: DRAINING: new jobs are refused until `tillroll queue resume`\n"
            }
        };
        text += &self.limits_text();
        if let Some(why) = &self.hindrance {
            text += &format!("no job is started: {why}\n");
        }
        if let Some((why, remedy)) = &self.read_only {
            text += &format!("REDIS TAKES NO WRITES: {why}\n  fix: {remedy}\n");
        }
        for (state, what) in [
            (State::Paused, "paused tenants, whose jobs are not started"),
            (State::Draining, "draining tenants, whose new jobs are refused"),
        ] {
            let closed = self.closed.iter().filter(|(_, is)| *is == state);
            text += &named(what, &closed.map(|(name, _)| name.as_str()).collect::<Vec<_>>());
        }
        let broken: Vec<&str> = self.broken.iter().map(String::as_str).collect();
        text += &named("one job at a time, since all their last attempts failed", &broken);
        text.push('\n');
        text + &self.workers_text()
    }

    /// What there is of what may be.
    fn limits_text(&self) -> String {
        let counts = &self.counts;
        let most = |name: &str, show: fn(u64) -> String| {
            let limit = self.limits.iter().find(|(limit, ..)| *limit == name);
            match limit {
                Some((_, number @ 1.., _)) => format!(" of {}", show(*number)),
                _ => String::new(),
            }
        };
        let number = |n: u64| n.to_string();
        format!(
            "limits: {}{} jobs, {}{} dead letters; {}{} in all, {}{} in results that wait, {}{} in dead letters\n",
            counts.ready + counts.leased + counts.delayed,
            most("jobs", number),
            counts.dead,
            most("dead", number),
            show_bytes_rounded(counts.bytes + counts.held + counts.dead_bytes),
            most("bytes", show_bytes_rounded),
            show_bytes_rounded(counts.held),
            most("held", show_bytes_rounded),
            show_bytes_rounded(counts.dead_bytes),
            most("dead_bytes", show_bytes_rounded),
        )
    }

    fn workers_text(&self) -> String {
        if self.workers.is_empty() {
            return "no worker: start one with `tillroll worker`\n".to_owned();
        }
        let shown = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        };
        let rows = self.workers.iter().map(|Known { id, age, alive, says }| {
            vec![
                id.clone(),
                match says["renderer_kind"].as_str() {
                    _ if !alive => "silent".to_owned(),
                    Some("null") => format!("{} NULL RENDERER", shown(&says["phase"])),
                    _ => shown(&says["phase"]),
                },
                format!("{}/{}", shown(&says["running"]), shown(&says["slots"])),
                shown(&says["totals"]["done"]),
                shown(&says["totals"]["failed"]),
                memory_text(&says["memory"]),
                format!("{:.1} s", age.as_secs_f64()),
            ]
        });
        let headings = ["worker", "phase", "running", "done", "failed", "memory", "heartbeat"];
        let mut text = table(&headings, &rows.collect::<Vec<_>>());
        for Known { id, says, .. } in self.workers.iter().filter(|worker| worker.alive) {
            text.push_str(&reasons_text(id, &says["reasons"]));
            text.push_str(&bounds_text(id, &says["memory"]));
            text.push_str(&ledger_text(id, &says["memory"]["governor"]));
            text.push_str(&waits_text(id, &says["memory"]["governor"]));
            if let Some(why) = says["upkeep"]["why"].as_str() {
                text.push_str(&format!("\n{id}: {why}\n"));
            }
        }
        let kinds = self.workers.iter().filter_map(|worker| worker.says["renderer_kind"].as_str());
        for notice in kinds.filter_map(notice).collect::<BTreeSet<_>>() {
            text.push_str(&format!("\n{notice}\n"));
        }
        text
    }
}

/// What a worker uses of what it may, and how scarce it is.
fn memory_text(memory: &Value) -> String {
    let bytes = |name: &str| memory[name].as_u64().map(show_bytes_rounded);
    let (Some(used), Some(budget)) = (bytes("used_bytes"), bytes("budget_bytes")) else {
        return "-".to_owned();
    };
    let pressure = memory["governor"]["pressure"].as_str();
    let scarce = pressure.filter(|pressure| *pressure != "nominal");
    let scarce = scarce.map_or(String::new(), |level| format!(", {level}"));
    let killed = match memory["governor"]["fence_kills"].as_u64() {
        None | Some(0) => String::new(),
        Some(kills) => format!(", {kills} killed by the kernel"),
    };
    format!("{used} of {budget}{scarce}{killed}")
}

/// Why a worker takes no jobs, or few: what its `/readyz` answers.
fn reasons_text(id: &str, reasons: &Value) -> String {
    let each = reasons.as_array().into_iter().flatten();
    let line = |reason: &Value| {
        let (what, why) = (reason["what"].as_str()?, reason["why"].as_str()?);
        Some(format!("\n{id}: NOT READY ({what}): {why}\n"))
    };
    each.filter_map(line).collect()
}

/// What bounds a worker's memory.
fn bounds_text(id: &str, memory: &Value) -> String {
    let bounds = &memory["bounds"];
    let bytes = |value: &Value| value.as_u64().map(show_bytes_rounded);
    let (Some(reserve), Some(budget)) =
        (bytes(&bounds["reserve_bytes"]), bytes(&memory["budget_bytes"]))
    else {
        return String::new();
    };
    let limit = bytes(&bounds["limit_bytes"]).unwrap_or_else(|| "auto".to_owned());
    let fence = bytes(&memory["governor"]["fence_bytes"]);
    let fence = fence.map_or(String::new(), |fence| format!(", fence around the browser {fence}"));
    format!("\n{id}: memory.limit {limit}, memory.reserve {reserve}, budget now {budget}{fence}\n")
}

/// What a worker's ledger says.
fn ledger_text(id: &str, governor: &Value) -> String {
    let bytes = |name: &str| governor[name].as_u64().map_or("-".to_owned(), show_bytes_rounded);
    if governor.is_null() {
        return String::new();
    }
    let others = match governor["other_workers"].as_u64().unwrap_or(0) {
        0 => String::new(),
        count => format!(
            ", {} promised by {} on this machine",
            bytes("elsewhere_bytes"),
            super::counted(count, "other worker")
        ),
    };
    let unshared = governor["unshared"].as_str();
    let unshared = unshared.map_or(String::new(), |why| {
        format!("\n{id}: other workers on its machine are not seen: {why}")
    });
    format!(
        "\n{id}: {} free, {} to stay free, {} promised to running jobs, {} in idle contexts{others}{unshared}\n",
        bytes("free_bytes"),
        bytes("reserve_bytes"),
        bytes("outstanding_bytes"),
        bytes("idle_bytes"),
    )
}

/// Why claimed jobs wait, where some do.
fn waits_text(id: &str, governor: &Value) -> String {
    let count = governor["waiting"].as_u64().unwrap_or(0);
    let longest = governor["waits"][0]["why"].as_str().unwrap_or("no reason is known");
    match count {
        0 => String::new(),
        1 => format!("\n{id}: a job waits for memory: {longest}\n"),
        many => format!("\n{id}: {many} jobs wait for memory, the first because {longest}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_worker_takes_no_jobs_is_told_as_it_says_it() {
        let reasons = json!([{"what": "memory", "why": "50 MB are free; raise memory.limit"}]);
        let text = reasons_text("w-1", &reasons);
        assert_eq!(text, "\nw-1: NOT READY (memory): 50 MB are free; raise memory.limit\n");
        assert_eq!(reasons_text("w-1", &json!([])), "");
        assert_eq!(reasons_text("w-1", &Value::Null), "", "an older release");
    }

    #[test]
    fn limit_reserve_and_budget_stand_side_by_side() {
        let mut memory = json!({
            "budget_bytes": 480_000_000, "governor": {"fence_bytes": 560_000_000},
            "bounds": {"limit_bytes": 500_000_000, "reserve_bytes": 256_000_000},
        });
        let text = bounds_text("w", &memory);
        assert!(
            text.contains("memory.limit 500 MB, memory.reserve 256 MB, budget now 480 MB, fence"),
            "{text}"
        );
        memory["bounds"]["limit_bytes"] = Value::Null;
        assert!(bounds_text("w", &memory).contains("memory.limit auto"));
        assert_eq!(bounds_text("w", &json!({"budget_bytes": 1})), "", "an older release");
    }
}
