//! Jobs that wait and whose document is gone: a repair ends them.
//!
//! A worker would bury such a job as `body_lost` when it claims it; that may be
//! hours away (a delay, a paused queue). The producer hears the same, now: as the
//! header is gone with the document, at the job's own key and for the default time.

use std::time::Duration;

use super::{Fsck, Kind};
use crate::failure::Failure;
use crate::job::Name;
use crate::job::reply::{Reply, ReplyError, Status};
use crate::queue::QueueError;
use crate::queue::redis::{Inner, millis};

/// As long as the contract says where no header says otherwise.
const REPLY_TTL: Duration = Duration::from_secs(600);
const RETAIN: Duration = Duration::from_secs(86_400);

/// As a job was when its document was missed.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) name: String,
    pub(super) admitted: String,
    pub(super) attempts: String,
}

impl Fsck<'_> {
    /// Ends them. None is known where nothing is to be mended: then they were
    /// noted as they were found.
    pub(super) async fn lost(&mut self) -> Result<(), QueueError> {
        let Inner { keys, scripts, .. } = &*self.queue.inner;
        for lost in std::mem::take(&mut self.lost) {
            let Some(name) = Name::parse(&lost.name) else { continue };
            let ended: u8 = scripts
                .fsck_lost
                .key(keys.job(&name))
                .key(keys.document(&name))
                .arg(keys.prefix())
                .arg(&lost.name)
                .arg(&lost.admitted)
                .arg(&lost.attempts)
                .arg(line(&name, &lost)?)
                .arg(millis(REPLY_TTL))
                .arg(millis(RETAIN))
                .invoke(&mut self.queue.commands())
                .await?;
            if ended == 1 {
                self.report.add(Kind::BodyMissing, &lost.name, true);
            }
        }
        Ok(())
    }
}

/// What the producer is told.
fn line(name: &Name, lost: &Lost) -> Result<String, QueueError> {
    let mut reply = Reply::new(name, Status::Dead);
    reply.attempts = lost.attempts.parse().unwrap_or(0);
    reply.error = Some(ReplyError::from(&Failure::body_lost()));
    reply
        .to_line()
        .map_err(|error| super::super::transitions::unexpected("fsck", &error.to_string()))
}
