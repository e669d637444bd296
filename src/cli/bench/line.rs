//! One job: pushed, waited for, timed.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::documents::Jobs;
use super::figures::Back;
use crate::cli::parts;
use crate::client::{Client, Reply};
use crate::queue::QueueError;

/// What the answer to an expired job may take beyond its time-out.
const GRACE: Duration = Duration::from_secs(2);

/// What every job's task needs.
pub(super) struct Line {
    pub(super) client: Client,
    pub(super) jobs: Jobs,
    /// How long a reply is waited for.
    pub(super) timeout: Duration,
}

/// One job, back.
pub(super) struct Ended {
    pub(super) n: u64,
    pub(super) back: Back,
    /// Bytes that were pushed.
    pub(super) bytes: u64,
    pub(super) what: What,
}

/// How it came back.
pub(super) enum What {
    /// With a reply, good or bad.
    Replied(Box<Reply>),
    /// Not within the time-out.
    Silent,
    /// Redis did not take it, or nobody could ask for its reply.
    Failed(QueueError),
}

impl Line {
    /// Pushes the n-th job, which is due at `due`, and waits for its reply.
    pub(super) async fn job(&self, n: u64, due: Instant, start: Instant) -> Ended {
        let pushed = Instant::now();
        let (bytes, what) = self.answer(n).await;
        let now = Instant::now();
        let back = Back { took: now - due, lag: pushed - due, at: now - start };
        Ended { n, back, bytes, what }
    }

    async fn answer(&self, n: u64) -> (u64, What) {
        let element = match self.jobs.element(n) {
            Ok(element) => element,
            Err(problem) => {
                let what = "a document that was good before";
                let error = QueueError::Unexpected { what, answer: problem.to_string() };
                return (0, What::Failed(error));
            }
        };
        let bytes = element.bytes().len() as u64;
        if let Err(error) = self.client.send(&element).await {
            return (0, What::Failed(error));
        }
        let give_up = Instant::now() + self.timeout + GRACE;
        let what = loop {
            match self.client.take_until(element.name(), give_up).await {
                Ok(Some(answer)) => {
                    break answer.reply().map_or_else(What::Failed, |r| What::Replied(Box::new(r)));
                }
                // If no worker has read it until now, none shall.
                Ok(None) => match self.client.withdraw(&element).await {
                    Ok(_) => break What::Silent,
                    Err(error) => break What::Failed(error),
                },
                // A Redis that comes back in time has the reply.
                Err(error) if error.may_pass() && Instant::now() < give_up => {
                    sleep(parts::REDIS_PAUSE).await;
                }
                Err(error) => break What::Failed(error),
            }
        };
        (bytes, what)
    }
}
