//! `tillroll plan`: what this machine, or one of another size, can carry.
//!
//! It renders for about 20 s with the worker's own pool, jail and Chromium
//! ([`calibrate`]), and works out the rest ([`crate::memory::capacity`], pure).
//! Interrupted, it ends its Chromium and prints nothing.

mod calibrate;
mod documents;
mod record;
mod report;
pub(super) mod sizes;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::exit::{Exit, Failure, print};
use super::{Session, parts, signals};
use crate::config::units::show_bytes;
use crate::config::values::{GovernorKind, RendererKind};
use crate::job::options::DEFAULT_TIMEOUT;
use crate::memory::capacity::{Capacity, Measured};
use crate::memory::{Plan, Probe, Settings, TooSmall};
use crate::queue::embedded;
use calibrate::{Calibration, Effort, Limits};
use report::{Machine, Report};
use sizes::Price;

const WHAT: &str = "planning memory";
/// Where only the size of the memory is given: what the system itself takes.
const SYSTEM: u64 = 500_000_000;

/// The machine to plan for: this one, where nothing is given
#[derive(Debug, Clone, Copy, Default, clap::Args)]
struct Size {
    /// Cores of the machine to plan for, a whole number [default: this machine's]
    #[arg(long, value_name = "N", value_parser = sizes::cores)]
    cpus: Option<usize>,
    /// Memory of the machine to plan for, like 4GB [default: this machine's]
    #[arg(long, value_name = "SIZE", value_parser = sizes::size)]
    ram: Option<u64>,
    /// What everything else on it takes, like 1.5GB: the system, a database, an app
    /// [default: what is taken here now; 500MB with --ram]
    #[arg(long, value_name = "SIZE", value_parser = sizes::amount)]
    others: Option<u64>,
}

/// Which machine, and what is to be known of it
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    size: Size,
    /// Receipts to carry, like 10/s, 600/min, 36000/h or 200000/day: how many machines that takes
    #[arg(long, value_name = "RATE", value_parser = sizes::rate)]
    rate: Option<f64>,
    /// What one machine costs a month, like 24 or 24EUR: what 1,000 receipts cost
    #[arg(long, value_name = "PRICE", value_parser = sizes::price)]
    price: Option<Price>,
    /// Calibrate for about 4 s instead of 20; the figures are rougher
    #[arg(long)]
    quick: bool,
    /// Do not calibrate: take what `tillroll plan --json` measured and printed before
    #[arg(long, value_name = "FILE", conflicts_with = "quick")]
    measured: Option<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
/// Where Chromium or memory is missing, a receipt cannot be rendered, or it was
/// interrupted.
pub fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    if session.loaded.config.renderer.kind == RendererKind::Null {
        let why = "renderer.kind is null, and that carries whatever the queue does";
        let fix = "leave renderer.kind at chromium to plan for receipts";
        return Err(Failure::new(Exit::Config, WHAT, why, fix));
    }
    let machine = machine(&args.size, session)?;
    // Before 20 s are spent on it.
    Plan::new(&machine.settings, machine.free).map_err(|small| too_small(&args.size, &small))?;
    let measured = match &args.measured {
        Some(file) => read(file)?,
        None => calibrated(args, session)?,
    };
    let timeout = DEFAULT_TIMEOUT.min(session.loaded.config.renderer.timeout);
    let capacity =
        Capacity::new(&measured, &machine.settings, machine.cores, machine.free, timeout)
            .map_err(|small| too_small(&args.size, &small))?;
    let report = Report {
        measured: &measured,
        machine: &machine,
        capacity: &capacity,
        rate: args.rate,
        price: args.price.as_ref(),
        timeout,
        governed: session.loaded.config.memory.governor == GovernorKind::On,
        fresh: args.measured.is_none(),
    };
    print(&if session.json { format!("{:#}\n", report.json()) } else { report.text() })
}

/// The machine that is asked for: this one, where nothing else is said.
fn machine(size: &Size, session: &Session) -> Result<Machine, Failure> {
    let probe = Probe::default();
    let here = probe.read().and_then(|memory| Ok((memory.free(), probe.total()?)));
    let (free, total) = here.map_err(|error| {
        let fix = "mount /proc in this container";
        Failure::new(Exit::Unexpected, WHAT, crate::worker::chain(&error), fix)
    })?;
    let ram = size.ram.unwrap_or(total);
    let others = match (size.others, size.ram) {
        (Some(others), _) => others,
        (None, Some(_)) => SYSTEM,
        (None, None) => total.saturating_sub(free),
    };
    if others >= ram {
        let why = format!(
            "the others take {}{}, and the machine has {}",
            show_bytes(others),
            assumption(size),
            show_bytes(ram)
        );
        let fix = format!("give --others less than {}, or more --ram", show_bytes(ram));
        return Err(Failure::new(Exit::Usage, WHAT, why, fix));
    }
    let cores = size.cpus.unwrap_or_else(parts::cores);
    let config = &session.loaded.config;
    let redis = match &config.redis.url {
        Some(url) if url.is_embedded() => embedded::footprint(config.redis.maxmemory.bytes()),
        _ => 0,
    };
    let settings = Settings {
        slots: config.worker.concurrency.slots(cores),
        ..parts::memory_settings(session, ram, redis)
    };
    let assumed = size.others.is_none() && size.ram.is_some();
    Ok(Machine { cores, ram, others, free: ram - others, settings, assumed })
}

/// What is to be said of what the others take, where nobody said it.
fn assumption(size: &Size) -> &'static str {
    match (size.ram, size.others) {
        (Some(_), None) => " (assumed, since --ram came without --others)",
        _ => "",
    }
}

fn too_small(size: &Size, small: &TooSmall) -> Failure {
    let fix = match (size.ram, size.others) {
        (None, None) => small.remedy(),
        _ => format!("{}; or give more --ram, or less --others", small.remedy()),
    };
    let why = match assumption(size) {
        "" => small.to_string(),
        assumed => format!("{small}; the others take {}{assumed}", show_bytes(SYSTEM)),
    };
    Failure::new(Exit::Unavailable, WHAT, why, fix)
}

/// What was measured before.
fn read(file: &Path) -> Result<Measured, Failure> {
    let what = || format!("reading {}", file.display());
    let fix = "give the output of `tillroll plan --json`, in a file";
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::new(Exit::Usage, what(), error, fix))?;
    record::read(&text).map_err(|why| Failure::new(Exit::Usage, what(), why, fix))
}

fn calibrated(args: &Args, session: &Session) -> Result<Measured, Failure> {
    let effort = if args.quick { Effort::QUICK } else { Effort::FULL };
    let here = Size::default();
    let machine = machine(&here, session)?;
    let settings = Settings { slots: machine.cores + 1, ..machine.settings };
    let plan = Plan::new(&settings, machine.free).map_err(|small| too_small(&here, &small))?;
    let limits = Limits {
        cores: machine.cores,
        at_once: plan.slots,
        contexts: plan.contexts,
        reserve: settings.reserve,
        timeout: session.loaded.config.renderer.timeout,
    };
    let load = load();
    super::runtime()?.block_on(async {
        let mut stop = signals::listen().map_err(|error| {
            let fix = "raise the limit on open files (ulimit -n)";
            Failure::new(Exit::Unexpected, "listening for signals", error, fix)
        })?;
        let pool = Arc::new(parts::pool(session, (plan.contexts, 0), None)?);
        let bar = progress(effort.total);
        let work = async {
            parts::ready(&pool).await?;
            Calibration::new(&pool, effort, limits, bar.clone()).run(load).await
        };
        let result = tokio::select! {
            result = work => result,
            _ = stop.recv() => {
                let why = "it was interrupted, and nothing is known yet";
                let fix = "run it again; --quick takes about 4 s";
                Err(Failure::new(Exit::Released, "calibrating", why, fix))
            }
        };
        bar.finish_and_clear();
        pool.close().await;
        result
    })
}

/// Tasks that wanted a core in the last minute; 0 where the kernel does not say.
fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

/// On a terminal only.
fn progress(total: Duration) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("calibrating {bar:32} {elapsed} {msg}");
    ProgressBar::new(u64::try_from(total.as_millis()).unwrap_or(u64::MAX))
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
