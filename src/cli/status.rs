//! `tillroll status`: what the queue holds and which workers live.

use std::time::Duration;

use serde_json::{Value, json};

use super::exit::{Failure, print};
use super::{Session, parts, table};
use crate::renderer::null;

/// Runs the verb.
///
/// # Errors
/// Where Redis is away.
pub fn run(session: &Session) -> Result<(), Failure> {
    let config = &session.loaded.config;
    let lease = config.queue.lease;
    super::runtime()?.block_on(async {
        let unavailable = |error: crate::queue::QueueError| parts::unavailable(&error);
        let queue = parts::queue(session, "status").await?;
        let counts = queue.counts().await.map_err(unavailable)?;
        let workers = queue.workers().await.map_err(unavailable)?;
        let workers: Vec<Value> = workers
            .into_iter()
            .map(|(id, age, description)| {
                let description: Value =
                    serde_json::from_str(&description).unwrap_or_default();
                json!({
                    "id": id,
                    "alive": age < lease,
                    "heartbeat_age_ms": u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
                    "says": description,
                })
            })
            .collect();
        if session.json {
            return print(&format!(
                "{}\n",
                json!({"v": 1, "queue": config.queue.name.as_str(), "jobs": counts, "workers": workers})
            ));
        }
        let shown = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        };
        let rows: Vec<Vec<String>> = workers
            .iter()
            .map(|worker| {
                let says = &worker["says"];
                let alive = worker["alive"] == true;
                vec![
                    shown(&worker["id"]),
                    match says["renderer_kind"].as_str() {
                        _ if !alive => "silent".to_owned(),
                        Some("null") => format!("{} NULL RENDERER", shown(&says["phase"])),
                        _ => shown(&says["phase"]),
                    },
                    format!("{}/{}", shown(&says["running"]), shown(&says["slots"])),
                    shown(&says["totals"]["done"]),
                    shown(&says["totals"]["failed"]),
                    format!("{:.1} s", Duration::from_millis(worker["heartbeat_age_ms"].as_u64().unwrap_or(0)).as_secs_f64()),
                ]
            })
            .collect();
        let mut text = format!(
            "queue {}: {} + {} in the inboxes, {} ready (of {} tenants), {} running, {} delayed, {} dead, {} done\n\n",
            config.queue.name.as_str(),
            counts.inbox,
            counts.inbox_bulk,
            counts.ready,
            counts.tenants,
            counts.leased,
            counts.delayed,
            counts.dead,
            counts.done
        );
        if rows.is_empty() {
            text.push_str("no worker: start one with `tillroll worker`\n");
        } else {
            text.push_str(&table(&["worker", "phase", "running", "done", "failed", "heartbeat"], &rows));
            if workers.iter().any(|worker| worker["says"]["renderer_kind"] == "null") {
                text.push_str(&format!("\n{}: {}\n", null::NOTICE, null::REMEDY));
            }
        }
        print(&text)
    })
}
