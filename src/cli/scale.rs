//! `tillroll scale`: how many documents the workers render at once, from now on.

use serde_json::json;

use super::exit::{Exit, Failure, print};
use super::{Session, parts, workers};
use crate::config::values::{Concurrency, Setting};
use crate::queue::Control;

/// Changes how many documents the workers render at once, until they end
///
/// Acts at once: what runs is finished. A worker never renders more at once than
/// its memory plan allowed at its start; `tillroll status` shows what is in force.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many, or auto for what the worker started with
    #[arg(value_name = "N|auto", allow_negative_numbers = true)]
    slots: String,
    /// Only this worker, by its id [default: all that live]
    #[arg(long, value_name = "ID")]
    worker: Option<String>,
}

/// Runs the verb.
///
/// # Errors
/// Where the number is none, no worker lives, or Redis is away.
pub fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let slots = match Concurrency::parse(&args.slots) {
        Ok(Concurrency::Auto) => None,
        Ok(Concurrency::Fixed(slots)) => Some(usize::from(slots)),
        Err(_) => {
            let why = format!("{:?} is no number of slots", args.slots);
            let fix = format!("write {}", Concurrency::expects());
            return Err(Failure::new(Exit::Usage, "scaling", why, fix));
        }
    };
    super::runtime()?.block_on(async {
        let queue = parts::queue(session, "scale").await?;
        let only = args.worker.as_deref();
        let meant = workers::meant(session, &queue, only).await?;
        let told = workers::tell(&queue, &meant, &Control::Scale { slots }).await?;
        if session.json {
            return print(&format!("{}\n", json!({"v": 1, "slots": slots, "workers": told})));
        }
        let most = slots.map_or_else(
            || "as many documents at once as when it started".to_owned(),
            |slots| format!("at most {slots} at once, as far as its memory plan allows"),
        );
        print(&format!("told {}: {most}\n", workers::shown(&told)))
    })
}
