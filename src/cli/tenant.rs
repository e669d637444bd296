//! `tillroll tenant`: whose jobs the queue holds, what each tenant may take; forget one.

use serde_json::json;

use super::exit::{Exit, Failure, print};
use super::{Session, forget, parts, table};
use crate::config::units::show_bytes_rounded;
use crate::config::values::{ByteLimit, Setting};
use crate::job::{Isolation, is_token};
use crate::queue::operate::{Tenant, TenantChange};
use crate::queue::{Queue, State};

/// The longest name of a tenant.
const LONGEST_NAME: usize = 64;

/// Whose jobs.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the tenants that were seen lately or have settings, the latest first
    Ls,
    /// Show one tenant: settings, jobs, failures
    ///
    /// Exit code 65 where the queue knows no such tenant.
    Show {
        /// The tenant
        #[arg(value_name = "TENANT")]
        tenant: String,
    },
    /// Change what a tenant may take; what is not named stays
    ///
    /// Acts at once, for all workers, and lasts until it is changed again.
    Set(Set),
    /// Erase what the queue holds of a tenant, or of one of its jobs
    ///
    /// Documents, results, dead letters, histories, records, events; of a whole
    /// tenant its settings too. Jobs that wait or run are cancelled first, without a
    /// reply. What it cannot reach is said: docs/privacy.md. It may be run again at
    /// any time. Exit code 1 where jobs still run when their lease should be over.
    Forget(forget::Args),
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("change")
    .args(["weight", "running", "jobs", "bytes", "state", "isolation", "scripts"])
    .multiple(true).required(true))]
struct Set {
    /// The tenant; it may be one that is still to come
    #[arg(value_name = "TENANT")]
    tenant: String,
    /// Its share beside others of the same priority, 0.01 to 100; 1 is usual
    #[arg(long, value_name = "W", allow_negative_numbers = true, value_parser = weight)]
    weight: Option<f64>,
    /// How many of its jobs may run at once; 0 or default for the queue's limit
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = count)]
    running: Option<u64>,
    /// How many living jobs it may have; 0 or default for the queue's limit
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = count)]
    jobs: Option<u64>,
    /// How many bytes its documents may have, like 100MB; 0 or default for the queue's limit
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = size)]
    bytes: Option<u64>,
    /// open; paused (its jobs are taken, none is started); draining (its new jobs are refused)
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Option<State>,
    /// What its jobs share: tenant, job or browser, as renderer.isolation; default for the workers'
    #[arg(long, value_name = "MODE", value_parser = isolation)]
    isolation: Option<OrDefault<Isolation>>,
    /// Whether its documents' scripts may run: on or off; default for the workers' renderer.scripts
    #[arg(long, value_name = "ON|OFF", value_parser = scripts)]
    scripts: Option<OrDefault<bool>>,
}

/// A value, or the workers' own configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct OrDefault<T>(Option<T>);

fn isolation(text: &str) -> Result<OrDefault<Isolation>, String> {
    match (text, Isolation::from_name(text)) {
        ("default", _) => Ok(OrDefault(None)),
        (_, Some(isolation)) => Ok(OrDefault(Some(isolation))),
        (_, None) => Err("write tenant, job, browser or default".to_owned()),
    }
}

fn scripts(text: &str) -> Result<OrDefault<bool>, String> {
    match text {
        "default" => Ok(OrDefault(None)),
        "on" => Ok(OrDefault(Some(true))),
        "off" => Ok(OrDefault(Some(false))),
        _ => Err("write on, off or default".to_owned()),
    }
}

fn weight(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(weight) if (0.01..=100.0).contains(&weight) => Ok(weight),
        _ => Err("write a number from 0.01 to 100".to_owned()),
    }
}

fn count(text: &str) -> Result<u64, String> {
    match text {
        "default" => Ok(0),
        _ => text.parse().map_err(|_| "write a number, or default".to_owned()),
    }
}

fn size(text: &str) -> Result<u64, String> {
    match (text, ByteLimit::parse(text)) {
        ("default", _) => Ok(0),
        (_, Ok(ByteLimit::Bytes(bytes))) => Ok(bytes),
        (_, Ok(ByteLimit::Auto)) => Err("write a size like 100MB, or default".to_owned()),
        (_, Err(why)) => Err(format!("{why}; write a size like 100MB, or default")),
    }
}

fn state(text: &str) -> Result<State, String> {
    State::from_name(Some(text)).ok_or_else(|| "write open, paused or draining".to_owned())
}

/// Runs the verb.
///
/// # Errors
/// Where Redis is away, or the tenant is none, or not known.
pub fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    match &args.action {
        Action::Ls => {}
        Action::Show { tenant } | Action::Set(Set { tenant, .. }) => check(tenant)?,
        Action::Forget(args) => return forget::run(args, session),
    }
    super::runtime()?.block_on(async {
        let queue = parts::queue(session, "tenant").await?;
        match &args.action {
            Action::Ls | Action::Forget(_) => ls(session, &queue).await,
            Action::Show { tenant } => show(session, &queue, tenant).await,
            Action::Set(set) => {
                let Set { weight, running, jobs, bytes, state, isolation, scripts, .. } = *set;
                let (isolation, scripts) = (isolation.map(|one| one.0), scripts.map(|one| one.0));
                let change =
                    TenantChange { state, weight, running, jobs, bytes, isolation, scripts };
                let changed = queue.change_tenant(&set.tenant, &change).await;
                changed.map_err(|error| parts::unavailable(&error))?;
                show(session, &queue, &set.tenant).await
            }
        }
    })
}

/// Whether `tenant` can be one.
///
/// # Errors
/// Where it cannot.
pub(super) fn check(tenant: &str) -> Result<(), Failure> {
    if is_token(tenant, LONGEST_NAME) {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Usage,
        "reading the tenant",
        format!("{tenant:?} is no name of a tenant"),
        format!("write 1 to {LONGEST_NAME} characters of A-Z a-z 0-9 . _ : -"),
    ))
}

async fn ls(session: &Session, queue: &Queue) -> Result<(), Failure> {
    let tenants = queue.tenants().await.map_err(|error| parts::unavailable(&error))?;
    if session.json {
        return print(&format!("{}\n", json!({"v": 1, "tenants": tenants})));
    }
    if tenants.is_empty() {
        return print("no tenant was seen lately\n");
    }
    let of =
        |now: String, cap: Option<String>| cap.map_or(now.clone(), |cap| format!("{now}/{cap}"));
    let number = |n: u64| n.to_string();
    let rows = tenants.iter().map(|tenant| {
        vec![
            tenant.name.clone(),
            tenant.state.as_str().to_owned(),
            tenant.weight.to_string(),
            of(number(tenant.running), tenant.running_cap.map(number)),
            of(number(tenant.jobs), tenant.jobs_cap.map(number)),
            of(show_bytes_rounded(tenant.bytes), tenant.bytes_cap.map(show_bytes_rounded)),
            fails(tenant),
            ago(tenant.seen_ms_ago),
        ]
    });
    let headings = ["tenant", "state", "weight", "running", "jobs", "bytes", "failed", "seen"];
    print(&table(&headings, &rows.collect::<Vec<_>>()))
}

async fn show(session: &Session, queue: &Queue, name: &str) -> Result<(), Failure> {
    let tenant = queue.tenant(name).await.map_err(|error| parts::unavailable(&error))?;
    let tenant = tenant.ok_or_else(|| {
        Failure::new(
            Exit::Document,
            format!("looking for {name}"),
            "the queue knows no such tenant",
            "check the name and --queue; `tillroll tenant ls` lists those that were seen lately",
        )
    })?;
    if session.json {
        let mut object = json!(tenant);
        object["v"] = json!(1);
        return print(&format!("{object}\n"));
    }
    let cap = |cap: Option<String>| cap.unwrap_or_else(|| "the queue's limit".to_owned());
    let lines = [
        ("tenant", tenant.name.clone()),
        ("state", tenant.state.as_str().to_owned()),
        ("weight", tenant.weight.to_string()),
        (
            "running",
            format!("{} of {}", tenant.running, cap(tenant.running_cap.map(|n| n.to_string()))),
        ),
        ("jobs", format!("{} of {}", tenant.jobs, cap(tenant.jobs_cap.map(|n| n.to_string())))),
        (
            "bytes",
            format!(
                "{} of {}",
                show_bytes_rounded(tenant.bytes),
                cap(tenant.bytes_cap.map(show_bytes_rounded))
            ),
        ),
        ("isolation", tenant.isolation.unwrap_or("the workers'").to_owned()),
        ("scripts", tenant.scripts.map_or("the workers'", on_or_off).to_owned()),
        ("failed", fails(&tenant)),
        ("seen", ago(tenant.seen_ms_ago)),
    ];
    print(&lines.map(|(label, value)| format!("{label:9}  {value}\n")).concat())
}

fn on_or_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn fails(tenant: &Tenant) -> String {
    match tenant.fails {
        0 => "-".to_owned(),
        fails if tenant.broken => format!("{fails} in a row: one job at a time"),
        fails => format!("{fails} in a row"),
    }
}

fn ago(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_validated() {
        assert_eq!(weight("2.5"), Ok(2.5));
        for wrong in ["0", "0.001", "101", "NaN", "inf", "-1", "heavy"] {
            assert!(weight(wrong).is_err(), "{wrong}");
        }
        assert_eq!((count("7"), count("default")), (Ok(7), Ok(0)));
        assert!(count("-1").is_err() && count("auto").is_err());
        assert_eq!((size("1MB"), size("0"), size("default")), (Ok(1_000_000), Ok(0), Ok(0)));
        assert!(size("auto").is_err() && size("7").is_err());
        assert_eq!(isolation("browser"), Ok(OrDefault(Some(Isolation::Browser))));
        assert_eq!(
            (isolation("default"), scripts("default")),
            (Ok(OrDefault(None)), Ok(OrDefault(None)))
        );
        assert!(isolation("machine").is_err() && scripts("yes").is_err());
        assert_eq!(state("paused"), Ok(State::Paused));
        assert!(state("shut").is_err());
        assert!(check("a/b").is_err() && check("").is_err() && check("cafe-1").is_ok());
    }
}
