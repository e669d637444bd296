//! `tillroll config`: show and check the configuration; read and change what can
//! be changed while the queue is in use.
//!
//! Limits of the queue are kept in Redis and hold for all workers. A few settings
//! of workers are sent to those that live and last until these end. All the rest
//! is read once, at a worker's start.

use serde_json::{Map, Value, json};

use super::exit::{Exit, Failure, print};
use super::tune::{self, DEFAULT, TUNABLE};
use super::workers::{self, Known};
use super::{Session, parts};
use crate::config::error::nearest_key;
use crate::config::values::{ByteLimit, Count, Setting};
use crate::config::{Entry, Key, key};
use crate::memory::change::Ground;
use crate::queue::{Control, limits};

/// What to do with the configuration.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Print every key, its value, and where the value came from
    ///
    /// Passwords are not shown. With --json: an object from key to
    /// {"value", "source"}.
    Show,
    /// Say whether the configuration is right: exit code 0, or 78 with every
    /// mistake on stderr
    Check,
    /// Print the value of one key, and where it came from
    ///
    /// Of a limit (limits.…), the one in force for the whole queue: Redis is asked. Of
    /// what can be changed in workers, where a Redis is named, also what is in force in
    /// each that lives.
    Get {
        /// The key, like limits.jobs
        #[arg(value_name = "KEY")]
        key: String,
    },
    /// Change one key at once, without a restart
    ///
    /// Limits (limits.…) change for the whole queue and for good: they are kept in
    /// Redis and win over every worker's own; `default` makes the workers' own hold again.
    /// worker.concurrency, memory.limit, memory.reserve, drain.timeout and log.level
    /// change in the workers that live, until they end; `default` is what each of them
    /// started with. What cannot work in one of them is refused, with figures, and none is
    /// told. The rest needs the file and a restart.
    Set {
        /// The key, like limits.jobs
        #[arg(value_name = "KEY")]
        key: String,
        /// Its value, as it would stand in the file, or default
        #[arg(value_name = "VALUE", allow_hyphen_values = true)]
        value: String,
        /// Only in this worker, by its id [default: in all that live]
        #[arg(long, value_name = "ID")]
        worker: Option<String>,
    },
}

/// Runs the verb.
///
/// # Errors
/// When stdout cannot be written, or a key cannot be read or changed. A wrong
/// configuration never gets here.
pub fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let entries = &session.loaded.entries;
    match &args.action {
        Action::Show if session.json => {
            let object = entries.iter().map(|entry| {
                let shown = json!({"value": entry.value, "source": entry.source.to_string()});
                (entry.key.to_owned(), shown)
            });
            print(&format!("{:#}\n", Value::Object(object.collect::<Map<_, _>>())))
        }
        Action::Show => {
            let left = |entry: &Entry| format!("{} = {:?}", entry.key, entry.value);
            let width = entries.iter().map(|entry| left(entry).chars().count()).max().unwrap_or(0);
            let lines =
                entries.iter().map(|entry| format!("{:width$}  # {}\n", left(entry), entry.source));
            print(&lines.collect::<String>())
        }
        Action::Check if session.json => print("{\"ok\":true}\n"),
        Action::Check => print(&format!("the configuration is right: {} keys\n", entries.len())),
        Action::Get { key } => get(session, known(key)?),
        Action::Set { key, value, worker } => set(session, known(key)?, value, worker.as_deref()),
    }
}

/// The key called `name`.
fn known(name: &str) -> Result<&'static Key, Failure> {
    key(name).ok_or_else(|| {
        let nearest = nearest_key(name).map(|key| format!("; did you mean {}?", key.name));
        let why = format!("there is no key {name:?}{}", nearest.unwrap_or_default());
        Failure::new(Exit::Usage, "reading the key", why, "`tillroll config show` lists all keys")
    })
}

/// The limit that a key stands for.
fn limit(key: &Key) -> Option<&'static str> {
    let name = key.name.strip_prefix("limits.")?;
    limits::NAMES.into_iter().find(|limit| *limit == name)
}

/// How a limit is written in a file, and read from there: a number of things, or of bytes.
fn is_bytes(limit: &str) -> bool {
    limit == "held" || limit == "bytes" || limit.ends_with("_bytes")
}

fn get(session: &Session, key: &Key) -> Result<(), Failure> {
    let entry = session.loaded.entries.iter().find(|entry| entry.key == key.name);
    let (mut value, mut source) =
        entry.map(|entry| (entry.value.clone(), entry.source.to_string())).unwrap_or_default();
    if let Some(limit) = limit(key) {
        let (number, set) = super::runtime()?.block_on(async {
            let queue = parts::queue(session, "config").await?;
            let all = queue.limits().await.map_err(|error| parts::unavailable(&error))?;
            let found = all.into_iter().find(|(name, ..)| *name == limit);
            Ok::<_, Failure>(found.map_or((0, false), |(_, number, set)| (number, set)))
        })?;
        if set {
            "redis".clone_into(&mut source);
        } else if value == "auto" {
            source += ", auto";
        }
        value = show_limit(limit, number);
    }
    let workers = in_force(session, key)?;
    print(&if session.json {
        let of = |(worker, value, configured): &(String, String, String)| json!({"worker": worker, "value": value, "configured": configured});
        let workers: Vec<Value> = workers.iter().map(of).collect();
        let object = json!({
            "v": 1, "key": key.name, "value": value, "source": source, "workers": workers,
        });
        format!("{object}\n")
    } else {
        let mut text = format!("{} = {value:?}  # {source}\n", key.name);
        for (worker, value, configured) in workers {
            text += &format!("worker {worker}: {value:?}");
            if value != configured {
                text += &format!(" until it ends; it started with {configured:?}");
            }
            text.push('\n');
        }
        text
    })
}

/// What is in force in each worker that lives, and what it started with. Empty where no
/// Redis is named: nobody's is needed for what the file says.
fn in_force(session: &Session, key: &Key) -> Result<Vec<(String, String, String)>, Failure> {
    if !TUNABLE.contains(&key.name) || session.loaded.config.redis.url.is_none() {
        return Ok(Vec::new());
    }
    let known = super::runtime()?.block_on(async {
        let queue = parts::queue(session, "config").await?;
        workers::known(session, &queue).await
    });
    let known = match known {
        Ok(known) => known,
        // What a worker would start with is known without it.
        Err(failure) => {
            tracing::warn!(%failure, "what running workers use is not known");
            return Ok(Vec::new());
        }
    };
    let alive = known.iter().filter(|worker| worker.alive);
    let settings = alive.filter_map(|worker| {
        let (value, configured) = worker.setting(key.name)?;
        Some((worker.id.clone(), value.to_owned(), configured.to_owned()))
    });
    Ok(settings.collect())
}

/// A limit as it would stand in a file.
fn show_limit(limit: &str, number: u64) -> String {
    if is_bytes(limit) { ByteLimit::Bytes(number).show() } else { Count(number).show() }
}

fn set(session: &Session, key: &Key, value: &str, worker: Option<&str>) -> Result<(), Failure> {
    if let Some(limit) = limit(key) {
        if worker.is_some() {
            let why = format!("{} is a limit of the whole queue", key.name);
            return Err(Failure::new(Exit::Usage, "reading --worker", why, "leave --worker out"));
        }
        return set_limit(session, key, limit, value);
    }
    if !TUNABLE.contains(&key.name) {
        let limits = limits::NAMES.map(|name| format!("limits.{name}")).join(", ");
        let why = format!(
            "it is read once, at a worker's start; what can be changed: {} (in the workers), {limits} \
             (for the queue)",
            TUNABLE.join(", ")
        );
        let variable = key.variable();
        let fix = format!("set it in the file of --config, or {variable}, and restart the workers");
        return Err(Failure::new(Exit::Usage, format!("changing {}", key.name), why, fix));
    }
    // As the worker will read it: its complaint would only be in its log.
    if value != DEFAULT {
        let expects =
            || format!("{}, or default for what the worker started with", (key.expects)());
        (key.check)(value).map_err(|why| wrong(key, value, &why, &expects()))?;
    }
    let command = Control::Set { key: key.name.to_owned(), value: value.to_owned() };
    let told = super::runtime()?.block_on(async {
        let queue = parts::queue(session, "config").await?;
        let meant = workers::meant(session, &queue, worker).await?;
        meant.iter().try_for_each(|worker| can_work(worker, key, value))?;
        workers::tell(&queue, &meant, &command).await
    })?;
    print(&if session.json {
        let object = json!({
            "v": 1, "key": key.name, "value": value, "scope": "workers", "workers": told,
        });
        format!("{object}\n")
    } else {
        let told = workers::shown(&told);
        match value {
            DEFAULT => format!("{}: what it started with holds again in {told}\n", key.name),
            _ => format!("{} = {value:?} in {told}, until it ends\n", key.name),
        }
    })
}

/// Whether a worker can work with this, by what its last heartbeat said of its memory. One
/// of another release says less, and judges for itself.
///
/// # Errors
/// Why it cannot.
fn can_work(worker: &Known, key: &Key, value: &str) -> Result<(), Failure> {
    if !key.name.starts_with("memory.") {
        return Ok(());
    }
    let refused = |why: &str, fix: &str| {
        let what = format!("changing {} in worker {}", key.name, worker.id);
        Err(Failure::new(Exit::Usage, what, why, fix))
    };
    let memory = &worker.says["memory"];
    if memory["governor"].is_null() {
        let (why, fix) = tune::NOT_GOVERNED;
        return refused(why, fix);
    }
    let Ok(ground) = serde_json::from_value::<Ground>(memory["bounds"].clone()) else {
        return Ok(());
    };
    let value = match value {
        DEFAULT => worker.setting(key.name).map(|(_, configured)| configured),
        _ => Some(value),
    };
    match value.map(|value| tune::judge(&ground, key.name, value)) {
        Some(Err(misfit)) => refused(&misfit.why, &misfit.fix),
        Some(Ok(_)) | None => Ok(()),
    }
}

fn set_limit(
    session: &Session,
    key: &Key,
    limit: &'static str,
    value: &str,
) -> Result<(), Failure> {
    let number = match value {
        "default" | "auto" => Ok(None),
        _ if is_bytes(limit) => ByteLimit::parse(value).map(ByteLimit::bytes),
        _ => Count::parse(value).map(|count| Some(count.0)),
    };
    let number = number.map_err(|why| {
        let size = if is_bytes(limit) { "a size such as \"512MB\"" } else { "a number" };
        wrong(key, value, &why, &format!("{size}, 0 for no limit, or default for the workers' own"))
    })?;
    super::runtime()?.block_on(async {
        let queue = parts::queue(session, "config").await?;
        queue.set_limit(limit, number).await.map_err(|error| parts::unavailable(&error))
    })?;
    let value = number.map_or_else(|| "default".to_owned(), |number| show_limit(limit, number));
    print(&if session.json {
        let object = json!({
            "v": 1, "key": key.name, "value": value, "scope": "queue", "workers": [],
        });
        format!("{object}\n")
    } else {
        match number {
            Some(_) => format!("{} = {value:?} for the whole queue, kept in Redis\n", key.name),
            None => format!("{}: the workers' own configuration holds again\n", key.name),
        }
    })
}

fn wrong(key: &Key, value: &str, why: &str, expects: &str) -> Failure {
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    Failure::new(
        Exit::Usage,
        format!("changing {}", key.name),
        format!("{value:?} is no value of it{why}"),
        format!("write {expects}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_of_the_queue_is_a_key_of_its_kind() {
        for name in limits::NAMES {
            let key = known(&format!("limits.{name}")).unwrap();
            assert_eq!(limit(key), Some(name));
            assert_eq!((key.check)("5MB").is_ok(), is_bytes(name), "{name}");
        }
        assert!(TUNABLE.iter().all(|name| known(name).is_ok()));
        assert!(known("limits.job").unwrap_err().why.contains("did you mean limits.jobs?"));
    }
}
