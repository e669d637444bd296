//! `tillroll worker`: the service.
//!
//! Parts are built in the order in which a mistake is cheapest to tell:
//! configuration, an embedded Redis, memory, engine and jail, Redis, a first browser; then the
//! worker runs until a signal ends it.

use std::sync::Arc;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinError;

use super::backend::Backend;
use super::exit::{Exit, Failure, print};
use super::tune::Tuner;
use super::{Session, embedded_failure, parts, signals};
use crate::http::{self, Pages};
use crate::memory::Governor;
use crate::metrics::Exporter;
use crate::queue::Address;
use crate::queue::Queue;
use crate::queue::embedded::Embedded;
use crate::worker::{Settings, Shared, Snapshot, Stop, Worker};

/// Renders what is pushed to the queue, until it is stopped
///
/// SIGTERM or Ctrl-C: finish what runs, take nothing new, exit 0. Once more: give
/// back what runs to other workers at once, exit 75.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What worker and Chromium may take together: a size, a share like 50%, or auto
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory: Option<String>,
    /// Documents that render at once, if memory allows: a number, or auto (3 for each core)
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub concurrency: Option<String>,
    /// What renders: chromium, or null (checks every job and answers with the same
    /// page, without Chromium: for tests of other programs and for measuring the queue)
    #[arg(long, value_name = "KIND")]
    pub renderer: Option<String>,
}

impl Args {
    /// The flags that stand for a key.
    pub(super) fn flags(&self) -> Vec<(&'static str, &'static str, String)> {
        [
            ("--memory", "memory.limit", &self.memory),
            ("--concurrency", "worker.concurrency", &self.concurrency),
            ("--renderer", "renderer.kind", &self.renderer),
        ]
        .into_iter()
        .filter_map(|(flag, key, value)| value.clone().map(|value| (flag, key, value)))
        .collect()
    }
}

/// Runs the verb.
///
/// # Errors
/// Where a part is missing, or jobs were given back unfinished.
pub fn run(session: &Session) -> Result<(), Failure> {
    let embedded = session.embedded()?;
    super::runtime()?.block_on(async {
        // Before anything that would have to be taken down again.
        let stop = signals::listen().map_err(|error| {
            Failure::new(
                Exit::Unexpected,
                "listening for signals",
                error,
                "check the limits of this container",
            )
        })?;
        let Some(options) = embedded else {
            return serve(session, session.redis()?, 0, stop).await;
        };
        let failed = |doing| move |error| embedded_failure(doing, &error);
        let redis = Embedded::start_or_join(&options).await.map_err(failed("starting"))?;
        let outcome = match announce(session, &redis) {
            Ok(()) => serve(session, redis.url().into(), redis.still_to_take(), stop).await,
            Err(failure) => Err(failure),
        };
        // Whatever became of the worker: the last one takes its Redis with it.
        let left = redis.leave().await.map_err(failed("leaving"));
        match (outcome, left) {
            (Ok(()), left) => left.map(|stopped| {
                tracing::info!(stopped, "left the embedded Redis");
            }),
            (Err(failure), Err(also)) => {
                tracing::error!("{also}");
                Err(failure)
            }
            (Err(failure), Ok(_)) => Err(failure),
        }
    })
}

/// Says how app servers reach the embedded Redis: one line on stdout. The
/// password is in it, so it is not logged.
fn announce(session: &Session, redis: &Embedded) -> Result<(), Failure> {
    let (came, file) = (redis.came().as_str(), redis.url_file());
    tracing::info!(came, url_file = %file.display(), "embedded Redis");
    print(&if session.json {
        format!(
            "{}\n",
            json!({"v": 1, "redis": {"url": redis.url(), "url_file": file, "came": came}})
        )
    } else {
        format!("embedded Redis {came}: REDIS_URL={}\n", redis.url())
    })
}

/// Works on the queue at `address` until told to stop. `redis`: bytes that an
/// embedded Redis may still take.
async fn serve(
    session: &Session,
    address: Address,
    redis: u64,
    stop: mpsc::Receiver<Stop>,
) -> Result<(), Failure> {
    let governor = parts::governor(session, redis)?;
    // Before anything that counts for the metrics.
    let listening = listen(session).await?;
    let id = worker_id();
    let queue_config = parts::queue_config(session, address, &id);
    let queue = Queue::connect(queue_config)
        .await
        .map_err(|error| Failure::of_redis("connecting to Redis", &error))?;
    let fences = parts::fences(session, &governor);
    let spares = session.loaded.config.renderer.spares.get();
    let backend = Backend::start(session, (governor.plan().contexts, spares), fences)?;
    // Whatever goes wrong from here on: no browser may be left behind.
    let outcome = match backend.ready().await {
        Ok(()) => work(session, id, queue, &backend, governor, stop, listening).await,
        Err(failure) => Err(failure),
    };
    backend.close().await;
    outcome
}

/// The worker's life once all its parts are there.
async fn work(
    session: &Session,
    id: String,
    queue: Queue,
    backend: &Backend,
    governor: Governor,
    stop: mpsc::Receiver<Stop>,
    listening: Option<(TcpListener, Exporter)>,
) -> Result<(), Failure> {
    let config = &session.loaded.config;
    let snapshot = Snapshot::starting(id.clone(), config.queue.name.as_str().to_owned());
    let (snapshot, seen) = watch::channel(snapshot);
    let pages = listening
        .map(|(listener, metrics)| serve_pages(listener, Pages { snapshot: seen, metrics }));
    let plan = governor.plan();
    tracing::info!(
        worker = %id,
        slots = plan.slots,
        contexts.most = plan.contexts,
        // The same number as `tillroll doctor` gives; `tillroll plan` measures it.
        contexts.expected = plan.expected_contexts,
        memory.budget_bytes = plan.budget,
        renderer = backend.renderer().kind(),
        browser = backend.version(),
        "ready"
    );
    if let Some(why) = config.worker.concurrency.excess(parts::cores()) {
        tracing::warn!("{why}");
    }
    let drain = Shared::new(config.drain.timeout);
    let settings = Settings {
        lease: config.queue.lease,
        heartbeat: config.queue.heartbeat,
        tune: Arc::new(Tuner::new(session, governor.clone(), drain.clone())),
        drain,
        max_timeout: config.renderer.timeout,
    };
    let renderer = backend.renderer();
    let worker = Worker::new(queue, renderer, governor, settings, stop, snapshot);
    // A task, since what the runtime blocks on is not: each time that is woken, the event
    // queue is looked at before it is polled, which is four calls more for each job.
    let totals = match tokio::spawn(worker.run()).await.map_err(JoinError::try_into_panic) {
        Ok(totals) => totals,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(error)) => {
            let fix = "please report this";
            return Err(Failure::new(Exit::Bug, "running the worker", error, fix));
        }
    };
    if let Some((stop_pages, pages)) = pages {
        // The pages may have failed and gone already.
        if stop_pages.send(()).is_ok()
            && let Err(error) = pages.await
        {
            tracing::warn!(%error, "the pages ended abnormally");
        }
    }
    tracing::info!(
        jobs.done = totals.done,
        jobs.failed = totals.failed,
        jobs.released = totals.released,
        "stopped"
    );
    if totals.released > 0 {
        return Err(Failure::new(
            Exit::Released,
            "stopping",
            format!(
                "{} had not finished and went back to the queue",
                super::counted(totals.released, "job")
            ),
            "nothing: other workers render them; raise drain.timeout to let them finish",
        ));
    }
    Ok(())
}

type RunningPages = (oneshot::Sender<()>, tokio::task::JoinHandle<()>);

/// Opens the port of health, metrics and status, unless that is switched off.
async fn listen(session: &Session) -> Result<Option<(TcpListener, Exporter)>, Failure> {
    let Some(address) = session.loaded.config.http.listen else { return Ok(None) };
    let fix = "set http.listen to another address, or to \"\" for none";
    let failed = |error: std::io::Error| {
        Failure::new(Exit::Config, format!("listening on {address}"), error, fix)
    };
    let listener = http::listen(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let metrics = Exporter::install().map_err(|error| {
        Failure::new(Exit::Bug, "installing the metrics recorder", error, "please report this")
    })?;
    tracing::info!(url = %format!("http://{address}/status"), "health, metrics and status are served");
    Ok(Some((listener, metrics)))
}

/// Serves them until told to stop.
fn serve_pages(listener: TcpListener, pages: Pages) -> RunningPages {
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(async move {
        let stopped = async {
            // A dropped sender ends the pages as well.
            stopped.await.unwrap_or_default();
        };
        if let Err(error) = http::serve(listener, pages, stopped).await {
            tracing::error!(%error, "health, metrics and status are no longer served");
        }
    });
    (stop, serving)
}

/// Unique per start: host, pid, random part.
fn worker_id() -> String {
    let host: String = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '-' })
        .take(40)
        .collect();
    format!("{host}-{}-{:06x}", std::process::id(), rand::random::<u32>() & 0xff_ffff)
}
