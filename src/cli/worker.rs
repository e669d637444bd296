//! `tillroll worker`: the service.
//!
//! Parts are built in the order in which a mistake is cheapest to tell:
//! configuration, memory, engine and jail, Redis, a first browser; then the
//! worker runs until a signal ends it.

use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::backend::Backend;
use super::exit::{Exit, Failure};
use super::{Session, parts, signals};
use crate::http::{self, Pages};
use crate::metrics::Exporter;
use crate::queue::{Queue, QueueConfig};
use crate::worker::{Settings, Snapshot, Worker};

/// Redis counts as away when it does not answer within this.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Renders what is pushed to the queue, until it is stopped
///
/// SIGTERM or Ctrl-C: finish what runs, take nothing new, exit 0. Once more: give
/// back what runs to other workers at once, exit 75.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What worker and Chromium may take together: a size, a share like 50%, or auto
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Documents that render at once, if memory allows: a number, or auto (cores + 1)
    #[arg(long, value_name = "N")]
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
    let url = session.redis_url()?.expose().to_owned();
    let governor = parts::governor(session)?;
    super::runtime()?.block_on(async {
        let config = &session.loaded.config;
        let stop = signals::listen().map_err(|error| {
            Failure::new(
                Exit::Unexpected,
                "listening for signals",
                error,
                "check the limits of this container",
            )
        })?;
        let id = worker_id();
        let backend = Backend::start(session, governor.plan().contexts)?;
        let queue_config = QueueConfig {
            url,
            queue: config.queue.name.as_str().to_owned(),
            worker: id.clone(),
            lease: config.queue.lease,
            response_timeout: RESPONSE_TIMEOUT,
        };
        let connected = Queue::connect(queue_config).await.map_err(|error| {
            Failure::new(
                Exit::Unavailable,
                "connecting to Redis",
                crate::worker::chain(&error),
                error.remedy(),
            )
        });
        // Whatever is missing: no browser may be left behind.
        let started = match connected {
            Ok(queue) => backend.ready().await.map(|()| queue),
            Err(failure) => Err(failure),
        };
        let queue = match started {
            Ok(queue) => queue,
            Err(failure) => {
                backend.close().await;
                return Err(failure);
            }
        };
        let snapshot = Snapshot::starting(id.clone(), config.queue.name.as_str().to_owned());
        let (snapshot, seen) = watch::channel(snapshot);
        let pages = serve_pages(session, seen).await?;
        let plan = governor.plan();
        tracing::info!(
            worker = %id,
            slots = plan.slots,
            contexts = plan.contexts,
            memory.budget_bytes = plan.budget,
            renderer = backend.renderer().kind(),
            browser = backend.version(),
            "ready"
        );
        let settings = Settings {
            lease: config.queue.lease,
            heartbeat: config.queue.heartbeat,
            drain: config.drain.timeout,
            max_timeout: config.renderer.timeout,
        };
        let totals =
            Worker::new(queue, backend.renderer(), governor, settings, stop, snapshot).run().await;
        backend.close().await;
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
                    "{} jobs had not finished and were given back to the queue",
                    totals.released
                ),
                "nothing: other workers render them; raise drain.timeout to let them finish",
            ));
        }
        Ok(())
    })
}

type RunningPages = (oneshot::Sender<()>, tokio::task::JoinHandle<()>);

/// Serves health, metrics and status, unless that is switched off.
async fn serve_pages(
    session: &Session,
    snapshot: watch::Receiver<Snapshot>,
) -> Result<Option<RunningPages>, Failure> {
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
    let (stop, stopped) = oneshot::channel::<()>();
    tracing::info!(url = %format!("http://{address}/status"), "health, metrics and status are served");
    let serving = tokio::spawn(async move {
        let stopped = async {
            // A dropped sender ends the pages as well.
            stopped.await.unwrap_or_default();
        };
        if let Err(error) = http::serve(listener, Pages { snapshot, metrics }, stopped).await {
            tracing::error!(%error, "health, metrics and status are no longer served");
        }
    });
    Ok(Some((stop, serving)))
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
