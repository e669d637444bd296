//! `tillroll events`: follows what happens in the queue.

use std::time::Duration;

use serde_json::json;

use super::exit::{Exit, Failure, print_on};
use super::{Session, parts, signals};
use crate::client::{Client, Event};
use crate::config::units::parse_duration;
use crate::queue::QueueError;

/// How long one question waits for something to happen.
const WAIT: Duration = Duration::from_secs(5);

/// Prints what happens in the queue, a line each, until stopped
///
/// Names and codes only, never a document's content. Redis keeps about the newest
/// 10,000 events. Ctrl-C ends it with exit code 0, and so does a reader that goes away.
/// A Redis that goes away is waited for.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Begin with what happened this long ago (10m), `all` that is kept, or after
    /// the event of this id [default: from now on]
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true)]
    since: Option<String>,
    /// End after so many events
    #[arg(long, value_name = "N", allow_negative_numbers = true,
        value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// Where to begin.
#[derive(Debug, PartialEq, Eq)]
enum Since {
    Now,
    Ago(Duration),
    After(String),
}

impl Since {
    fn read(text: Option<&str>) -> Result<Self, Failure> {
        let is_id = |text: &str| {
            let number = |part: &str| part.parse::<u64>().is_ok();
            match text.split_once('-') {
                Some((ms, sequence)) => number(ms) && number(sequence),
                None => false,
            }
        };
        match text {
            None => Ok(Self::Now),
            Some("all") => Ok(Self::After("0-0".to_owned())),
            Some(text) if is_id(text) => Ok(Self::After(text.to_owned())),
            Some(text) => parse_duration(text).map(Self::Ago).map_err(|why| {
                let fix = "write a duration like 10m, `all`, or an event's id like 1700000000000-0";
                Failure::new(Exit::Usage, "reading --since", why, fix)
            }),
        }
    }

    /// The id after which to begin.
    async fn resolve(self, client: &Client) -> Result<String, QueueError> {
        match self {
            Self::Now => client.newest_event().await,
            Self::After(id) => Ok(id),
            Self::Ago(ago) => {
                let ago = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
                Ok(format!("{}-0", client.clock().await?.saturating_sub(ago)))
            }
        }
    }
}

/// Runs the verb.
///
/// # Errors
/// Where Redis is away, or stdout is full.
pub fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let since = Since::read(args.since.as_deref())?;
    let redis = session.redis()?;
    let client = Client::new(redis, session.loaded.config.queue.name.as_str(), 1)
        .map_err(|error| unavailable(&error))?;
    super::runtime()?.block_on(async {
        let mut stop = signals::listen().map_err(|error| {
            let fix = "check the limits of this container";
            Failure::new(Exit::Unexpected, "listening for signals", error, fix)
        })?;
        tokio::select! {
            _ = stop.recv() => Ok(()),
            ended = follow(&client, since, args.count, session.json) => ended,
        }
    })
}

async fn follow(
    client: &Client,
    since: Since,
    count: Option<u64>,
    json: bool,
) -> Result<(), Failure> {
    let mut last = since.resolve(client).await.map_err(|error| unavailable(&error))?;
    let mut left = count.unwrap_or(u64::MAX);
    let (mut reached, mut away) = (false, false);
    loop {
        let events = match client.events_after(&last, WAIT).await {
            Ok(events) => events,
            // It was there at the beginning: somebody restarts it.
            Err(error) if reached && error.may_pass() => {
                if !away {
                    let why = crate::worker::chain(&error);
                    tracing::warn!(error = %why, "redis went away: the events go on when it is back");
                }
                away = true;
                tokio::time::sleep(parts::REDIS_PAUSE).await;
                continue;
            }
            Err(error) => return Err(unavailable(&error)),
        };
        if away {
            tracing::info!("redis is back");
        }
        (reached, away) = (true, false);
        for event in events {
            if !print_on(&line(&event, json))? {
                return Ok(());
            }
            last = event.id;
            left -= 1;
            if left == 0 {
                return Ok(());
            }
        }
    }
}

fn line(event: &Event, json: bool) -> String {
    if json {
        return format!("{}\n", json!(event));
    }
    let job = if event.job.is_empty() { "-" } else { &event.job };
    format!("{}  {:9}  {job}  {}\n", super::job::date(event.at_ms), event.event, event.code)
}

fn unavailable(error: &QueueError) -> Failure {
    Failure::of_redis("asking Redis", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_duration_an_id_or_all() {
        assert_eq!(Since::read(None).unwrap(), Since::Now);
        assert_eq!(Since::read(Some("10m")).unwrap(), Since::Ago(Duration::from_secs(600)));
        assert_eq!(Since::read(Some("all")).unwrap(), Since::After("0-0".into()));
        assert_eq!(Since::read(Some("17-2")).unwrap(), Since::After("17-2".into()));
        for wrong in ["", "soon", "17-", "-3", "17"] {
            assert_eq!(Since::read(Some(wrong)).unwrap_err().exit, Exit::Usage, "{wrong}");
        }
    }
}
