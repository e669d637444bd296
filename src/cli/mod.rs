//! The command line: one file a verb.
//!
//! A verb is a variant of [`Verb`] and a function that takes its arguments and
//! the [`Session`]: what all verbs share. stdout is for results, stderr for logs
//! and for the one error; nothing else in the crate prints, reads the environment
//! or knows exit codes.

pub mod asset;
mod assets;
mod backend;
pub mod bench;
pub mod config;
pub mod dead;
pub mod demo;
pub mod doctor;
pub mod enqueue;
pub mod events;
pub mod exit;
pub mod files;
pub mod forget;
pub mod fsck;
pub mod generate;
pub mod job;
pub mod options;
mod parts;
pub mod plan;
pub mod queue;
pub mod render;
pub mod scale;
pub mod signals;
pub mod status;
pub mod tenant;
mod tune;
pub mod worker;
mod workers;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::values::{PemFile, RedisUrl};
use crate::config::{Given, Loaded, load};
use crate::queue::embedded::{self, EmbeddedError};
use crate::queue::{Address, TlsFiles};
use exit::{Exit, Failure};

/// Turns receipt HTML into PDFs: a Redis queue, jailed Chromium, bounded memory
///
/// Settings come from flags, then the environment (TILLROLL_SECTION__KEY),
/// then the file of --config, then the built-in defaults; `tillroll config show`
/// prints what is in force.
///
/// Exit codes: 0 done; 1 unexpected; 2 usage; 65 document refused or dead;
/// 69 Redis or Chromium not available; 70 bug; 75 stopped, jobs given back;
/// 78 configuration.
#[derive(Debug, Parser)]
#[command(name = "tillroll", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    verb: Verb,
}

/// Options that all verbs take.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of all verbs")]
struct Shared {
    /// Where the queue lives: redis://HOST:PORT/DB, redis://USER:PASSWORD@HOST,
    /// rediss:// for TLS, unix:///PATH, or embedded (a private one); TILLROLL_REDIS__URL and REDIS_URL keep a password out of `ps`
    #[arg(long, global = true, value_name = "URL")]
    redis: Option<String>,
    /// Name of the queue
    #[arg(long, global = true, value_name = "NAME")]
    queue: Option<String>,
    /// Print results on stdout as JSON, for machines
    #[arg(long, global = true)]
    json: bool,
    /// Read settings from this TOML file
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one key, for instance --set worker.concurrency=2; may be repeated
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Least severe log line on stderr: error, warn, info, debug, trace
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Render what is pushed to the queue, until stopped
    Worker(worker::Args),
    /// Turn HTML files into PDFs, without any Redis
    Render(Box<render::Args>),
    /// Push HTML files to the queue as jobs; --wait for the PDFs
    Enqueue(Box<enqueue::Args>),
    /// Show what the queue holds and which workers live
    Status,
    /// Follow what happens in the queue, a line each
    Events(events::Args),
    /// Show what became of a job, stop it, or try it again
    Job(job::Args),
    /// Look at the jobs that failed for good; try them again, or forget them
    Dead(dead::Args),
    /// Pause, resume or drain the whole queue; check and mend it
    Queue(queue::Args),
    /// Show the tenants, change what each may take, forget one
    Tenant(tenant::Args),
    /// Store logos, fonts and style sheets of a tenant for all its jobs
    Asset(asset::Args),
    /// Change how many documents the workers render at once
    Scale(scale::Args),
    /// Render sample receipts through the queue; `make demo` calls it
    #[command(hide = true)]
    Demo(demo::Args),
    /// Check this machine and its Redis: engine, jail, fonts, memory, disk
    ///
    /// Every check tries the thing itself. Exit code 0 if nothing failed (warnings
    /// are allowed), 69 if something that is needed is missing. With --json:
    /// {"v", "verdict", "checks": [{"check", "verdict", "what", "remedy"}]}.
    Doctor,
    /// Say what this machine can carry, or one of another size
    ///
    /// Renders receipts and invoices for about 20 s with the worker's own Chromium in
    /// its jail, and works out: renders at once, warm tenants, receipts/s, the largest
    /// document, and on request machines and costs. Each figure says whether it was
    /// measured or scaled. The memory settings in force (--config, --set) count. For instance:
    /// tillroll plan --cpus 2 --ram 4GB --others 1.5GB --rate 10/s --price 24
    Plan(plan::Args),
    /// Measure your own workers through your own queue, with your own documents
    ///
    /// For instance: tillroll bench throughput receipt.html --jobs 1000 --tenants 10
    Bench(Box<bench::Args>),
    /// Show or check the configuration; change what can be changed at once
    Config(config::Args),
    /// Print a script that completes this command line in a shell
    ///
    /// For instance: tillroll completions bash >/etc/bash_completion.d/tillroll
    Completions(generate::Completions),
    /// Write manual pages, one for each verb
    Man(generate::Man),
}

impl Verb {
    /// The verb's own flags that stand for a key: (flag, key, value).
    fn flags(&self) -> Vec<(&'static str, &'static str, String)> {
        match self {
            Self::Worker(args) => args.flags(),
            _ => Vec::new(),
        }
    }

    fn run(&self, session: &Session) -> Result<(), Failure> {
        match self {
            Self::Worker(_) => worker::run(session),
            Self::Render(args) => render::run(args, session),
            Self::Enqueue(args) => enqueue::run(args, session),
            Self::Status => status::run(session),
            Self::Events(args) => events::run(args, session),
            Self::Job(args) => job::run(args, session),
            Self::Dead(args) => dead::run(args, session),
            Self::Queue(args) => queue::run(args, session),
            Self::Tenant(args) => tenant::run(args, session),
            Self::Asset(args) => asset::run(args, session),
            Self::Scale(args) => scale::run(args, session),
            Self::Demo(args) => demo::run(args, session),
            Self::Doctor => doctor::run(session),
            Self::Plan(args) => plan::run(args, session),
            Self::Bench(args) => bench::run(args, session),
            Self::Config(args) => config::run(args, session),
            Self::Completions(args) => generate::completions(args),
            Self::Man(args) => generate::man(args, session),
        }
    }
}

/// What every verb gets.
#[derive(Debug)]
pub struct Session {
    /// The configuration, with the source of each value.
    pub loaded: Loaded,
    /// Whether results are printed as JSON.
    pub json: bool,
    /// The user's home directory.
    pub home: Option<PathBuf>,
    /// The directories of `PATH`.
    pub path_dirs: Vec<PathBuf>,
}

impl Session {
    /// Where the queue lives, for the verbs that need one. An embedded Redis is
    /// found by its state directory: it must run.
    ///
    /// # Errors
    /// When nobody said so (there is no default, on purpose), or no embedded
    /// Redis runs.
    pub fn redis(&self) -> Result<Address, Failure> {
        let named = self.named_redis()?;
        if !named.is_embedded() {
            return Ok(Address::new(named.expose(), self.tls_files()));
        }
        let url = embedded::find(&self.loaded.config.state.dir);
        url.map(Address::from).map_err(|error| embedded_failure("finding", &error))
    }

    fn tls_files(&self) -> TlsFiles {
        let redis = &self.loaded.config.redis;
        let path = |file: &Option<PemFile>| file.as_ref().map(|file| file.path().to_owned());
        TlsFiles { ca: path(&redis.ca), cert: path(&redis.cert), key: path(&redis.key) }
    }

    /// How the worker starts or joins the embedded Redis; `None` where another
    /// one is named.
    ///
    /// # Errors
    /// When none is named at all.
    pub fn embedded(&self) -> Result<Option<embedded::Options>, Failure> {
        let config = &self.loaded.config;
        Ok(self.named_redis()?.is_embedded().then(|| embedded::Options {
            state_dir: config.state.dir.clone(),
            maxmemory: config.redis.maxmemory.bytes(),
            search: self.server_dirs(),
        }))
    }

    /// Where servers are looked for: `PATH`, and the directories that an
    /// ordinary user's `PATH` leaves out.
    fn server_dirs(&self) -> Vec<PathBuf> {
        let more = ["/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin"];
        let mut dirs = self.path_dirs.clone();
        for dir in more.map(PathBuf::from) {
            if !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
        dirs
    }

    fn named_redis(&self) -> Result<&RedisUrl, Failure> {
        self.loaded.config.redis.url.as_ref().ok_or_else(|| {
            Failure::new(
                Exit::Config,
                "finding the queue",
                "no Redis is named",
                "give --redis URL, set TILLROLL_REDIS__URL or REDIS_URL, or set redis.url in the \
                 file of --config; --redis embedded is a private one",
            )
        })
    }
}

/// The error of an embedded Redis as a verb's: `doing` is "starting", "finding", "leaving".
pub(crate) fn embedded_failure(doing: &str, error: &EmbeddedError) -> Failure {
    let exit = match error {
        EmbeddedError::NotOurs { .. } | EmbeddedError::Open { .. } => Exit::Config,
        _ => Exit::Unavailable,
    };
    let what = format!("{doing} the embedded Redis");
    Failure::new(exit, what, crate::worker::chain(error), error.remedy())
}

/// A number and its noun: "1 job", "2 jobs".
fn counted(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Rows under headings, columns aligned; the first is left-aligned, numbers need no more.
fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(headings.get(column).map(|h| h.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let aligned =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}", width = *width));
        format!("{}\n", aligned.collect::<Vec<_>>().join("  ").trim_end())
    };
    let mut text = line(headings.to_vec());
    text.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
    text
}

impl Cli {
    /// Reads the command line.
    ///
    /// # Errors
    /// The exit code, after the help or the usage error has been printed.
    pub fn from_command_line() -> Result<Self, ExitCode> {
        Self::try_parse().map_err(|error| {
            let code = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            // Nobody is left to tell when even this cannot be printed.
            error.print().map_or(Exit::Unexpected, |()| code).into()
        })
    }

    /// Reads the configuration for the verb.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn session(&self) -> Result<Session, Failure> {
        let mut flags = self.verb.flags();
        let shared = [
            ("--redis", "redis.url", &self.shared.redis),
            ("--queue", "queue.name", &self.shared.queue),
            ("--log-level", "log.level", &self.shared.log_level),
        ];
        for (flag, key, value) in shared {
            flags.extend(value.clone().map(|value| (flag, key, value)));
        }
        let given = Given { file: self.shared.config.clone(), set: self.shared.set.clone(), flags };
        let loaded = load(&given, std::env::vars_os())?;
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let path_dirs = std::env::var_os("PATH")
            .map(|path| std::env::split_paths(&path).collect())
            .unwrap_or_default();
        Ok(Session { loaded, json: self.shared.json, home, path_dirs })
    }

    /// Runs the verb.
    ///
    /// # Errors
    /// Whatever made the verb fail.
    pub fn run(&self, session: &Session) -> Result<(), Failure> {
        self.verb.run(session)
    }
}

/// Cores that one thread of ours keeps busy: a job is 1 ms of ours beside 13 of Chromium's.
const CORES_A_THREAD: usize = 8;

/// The runtime for the verbs that wait for something: the calling thread alone up to
/// eight cores. Threads that wake each other for 1 ms of work cost more than they
/// bring: on two cores a job took 1.87 ms with two beside the calling one, 1.60 with
/// one, and 0.92 without (1.35 with one in the same minutes).
///
/// # Errors
/// When the system gives no threads or no event queue.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let threads = parts::cores().div_ceil(CORES_A_THREAD);
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.worker_threads(threads).enable_all().build().map_err(|error| {
        Failure::new(
            Exit::Unexpected,
            "starting the runtime",
            error,
            "raise the limits on threads and open files (ulimit -u, ulimit -n)",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_a_redis_the_verbs_that_need_one_say_how_to_name_it() {
        let session = |set: &[&str]| {
            let set = set.iter().map(ToString::to_string).collect();
            let given = Given { set, ..Given::default() };
            Session {
                loaded: load(&given, []).unwrap(),
                json: false,
                home: None,
                path_dirs: Vec::new(),
            }
        };
        let failure = session(&[]).redis().unwrap_err();
        assert_eq!(failure.exit, Exit::Config);
        assert!(failure.fix.contains("--redis") && failure.fix.contains("REDIS_URL"));
        assert!(session(&["redis.url=redis://h"]).redis().is_ok());
    }

    #[test]
    fn an_embedded_redis_that_does_not_run_is_not_found() {
        let parent = tempfile::tempdir().unwrap();
        let state = parent.path().join("state");
        let set = vec!["redis.url=embedded".into(), format!("state.dir={}", state.display())];
        let loaded = load(&Given { set, ..Given::default() }, []).unwrap();
        let session = Session { loaded, json: false, home: None, path_dirs: Vec::new() };
        let failure = session.redis().unwrap_err();
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(failure.fix.contains("tillroll worker --redis embedded"), "{failure}");
        assert_eq!(session.embedded().unwrap().unwrap().maxmemory, 256_000_000);
    }
}
