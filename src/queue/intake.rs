//! The blocking reads: elements of the two inboxes, the bell, and commands.
//!
//! Three tasks, each with a connection of its own, since a blocking command
//! stalls whatever shares its connection. They decide nothing: what they read
//! becomes a message to the dispatcher. An inbox task waits until the
//! dispatcher is done with its element (the stage holds at most one) before it
//! takes the next.
//!
//! No read blocks for more than [`BLOCK`] on the server, so that a stopped
//! worker is handed elements for no longer than that; what it was handed is
//! adopted by others (see [`super`]).
//!
//! Bulk is admitted at leisure while the worker has no slot for it ([`Pace`]): a
//! flood of a hundred thousand documents must not take the cores from the renders.
//!
//! When Redis is away, the tasks pause with growing delays and say so to the
//! dispatcher. When it is full, a `BRPOPLPUSH` fails at once: then a script takes
//! what waits, so that it is drained, and otherwise the task pauses as well.

use std::fmt;
use std::time::{Duration, SystemTime};

use redis::cmd;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Queue, QueueError};
use crate::job::Priority;

/// The longest that a read blocks on the server.
pub const BLOCK: Duration = Duration::from_secs(4);
/// A worker that has room again listens to the bell after this long at most.
const SIGNALS_BLOCK_SECS: u64 = 1;
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// So long is bulk admitted in one go, and then nothing for some times as long,
/// while no slot is free for it.
const BULK_SPELL: Duration = Duration::from_millis(5);
const BULK_REST: u32 = 2;
const LONGEST_REST: Duration = Duration::from_millis(100);

/// A command to a worker, pushed as JSON to its control list.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Control {
    /// Finish what runs, take nothing new, stop.
    Drain,
    /// Render at most so many at once; `None` is the configured number.
    Scale {
        /// How many.
        slots: Option<usize>,
    },
    /// Stop the render of this job: somebody cancelled it.
    Cancel {
        /// Its name.
        job: String,
        /// The attempt that is meant.
        token: String,
    },
    /// Change a setting until the worker ends.
    Set {
        /// The configuration's key.
        key: String,
        /// Its value, as it would stand in the configuration.
        value: String,
    },
}

/// Which bells a worker listens to: those of work that it could start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// Room for an interactive job.
    pub interactive: bool,
    /// Room for a bulk job too.
    pub bulk: bool,
}

/// What a reader has for the dispatcher. Its `Debug` form has no content.
pub enum Inbound {
    /// An element is in this worker's stage; the next is taken once `done` fires.
    Element {
        /// Which inbox it came through.
        inbox: Priority,
        /// How many were taken from there, this one included.
        turn: u64,
        /// The element as it was pushed.
        element: Vec<u8>,
        /// Fired when it has left the stage.
        done: oneshot::Sender<()>,
    },
    /// There may be work to claim.
    Bell,
    /// A command.
    Control(Control),
    /// A command that could not be read.
    BadControl(String),
    /// Redis is away, or refuses.
    Down(QueueError),
    /// Redis is back.
    Up,
}

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Element { inbox, element, .. } => {
                write!(f, "Element({}, {} bytes)", inbox.as_str(), element.len())
            }
            Self::Bell => f.write_str("Bell"),
            Self::Control(control) => write!(f, "Control({control:?})"),
            Self::BadControl(why) => write!(f, "BadControl({why})"),
            Self::Down(error) => write!(f, "Down({error:?})"),
            Self::Up => f.write_str("Up"),
        }
    }
}

/// The running readers. Dropping it stops them; an element that was being read
/// stays in the stage.
#[derive(Debug)]
pub struct Intake {
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Intake {
    /// Starts the readers, which report to `inbound`. The bell is listened to
    /// while `room` says so: a full worker leaves it to an idle one.
    #[must_use]
    pub fn start(
        queue: &Queue,
        inbound: &mpsc::Sender<Inbound>,
        room: watch::Receiver<Room>,
    ) -> Self {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for priority in [Priority::Interactive, Priority::Bulk] {
            let reader = Reader { queue: queue.clone(), inbound: inbound.clone() };
            let stop = stop.clone();
            let pace = (priority == Priority::Bulk).then(|| Pace::new(room.clone()));
            tasks.spawn(async move {
                stop.run_until_cancelled(reader.read_inbox(priority, pace)).await.unwrap_or(())
            });
        }
        let reader = Reader { queue: queue.clone(), inbound: inbound.clone() };
        let stop_signals = stop.clone();
        tasks.spawn(async move {
            stop_signals.run_until_cancelled(reader.read_signals(room)).await.unwrap_or(())
        });
        Self { tasks, stop }
    }

    /// Stops the readers and waits until they are gone.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

struct Reader {
    queue: Queue,
    inbound: mpsc::Sender<Inbound>,
}

/// The dispatcher is gone: so is the reader's reason to be.
struct NobodyListens;

impl Reader {
    async fn read_inbox(self, priority: Priority, mut pace: Option<Pace>) {
        let mut pause = Pause::new();
        let mut turn = first_turn();
        loop {
            let ended = self.inbox_connection(priority, &mut turn, &mut pause, &mut pace).await;
            if self.paused(ended, &mut pause).await.is_err() {
                return;
            }
        }
    }

    /// Reads an inbox over one connection until that fails.
    async fn inbox_connection(
        &self,
        priority: Priority,
        turn: &mut u64,
        pause: &mut Pause,
        pace: &mut Option<Pace>,
    ) -> Result<NobodyListens, QueueError> {
        let keys = self.queue.keys();
        let (inbox, stage) = (keys.inbox(priority), keys.stage(priority, self.queue.worker()));
        let mut connection = self.queue.blocking_connection(BLOCK).await?;
        self.queue.register().await?;
        // An element that was moved while its connection died is still in the stage.
        let mut left: Option<Vec<u8>> =
            cmd("LINDEX").arg(&stage).arg(0).query_async(&mut connection).await?;
        loop {
            let element = match left.take() {
                Some(element) => Some(element),
                None => {
                    let taken = cmd("BRPOPLPUSH")
                        .arg(&inbox)
                        .arg(&stage)
                        .arg(BLOCK.as_secs())
                        .query_async(&mut connection)
                        .await
                        .map_err(QueueError::from);
                    match taken {
                        Err(error) if error.code() == Some("OOM") => {
                            if !self.queue.stage(priority).await? {
                                tokio::time::sleep(pause.next()).await;
                                continue;
                            }
                            cmd("LINDEX").arg(&stage).arg(0).query_async(&mut connection).await?
                        }
                        taken => taken?,
                    }
                }
            };
            let Some(element) = element else {
                if self.up(pause).await.is_err() {
                    return Ok(NobodyListens);
                }
                continue;
            };
            let taken = Instant::now();
            let (done, left_stage) = oneshot::channel();
            *turn += 1;
            let staged = Inbound::Element { inbox: priority, turn: *turn, element, done };
            if self.inbound.send(staged).await.is_err() {
                return Ok(NobodyListens);
            }
            // Dropped unfired means that Redis failed meanwhile: look at the stage again.
            if left_stage.await.is_ok() {
                if self.up(pause).await.is_err() {
                    return Ok(NobodyListens);
                }
                if let Some(pace) = pace {
                    pace.admitted(taken.elapsed()).await;
                }
            } else {
                tokio::time::sleep(pause.next()).await;
                left = cmd("LINDEX").arg(&stage).arg(0).query_async(&mut connection).await?;
            }
        }
    }

    async fn read_signals(self, room: watch::Receiver<Room>) {
        let mut pause = Pause::new();
        loop {
            let ended = self.signals_connection(&room, &mut pause).await;
            if self.paused(ended, &mut pause).await.is_err() {
                return;
            }
        }
    }

    async fn signals_connection(
        &self,
        room: &watch::Receiver<Room>,
        pause: &mut Pause,
    ) -> Result<NobodyListens, QueueError> {
        let keys = self.queue.keys();
        let control = keys.control(self.queue.worker());
        let (bell, bulk_bell) = (keys.bell(Priority::Interactive), keys.bell(Priority::Bulk));
        let mut connection = self.queue.blocking_connection(BLOCK).await?;
        loop {
            let mut listen = cmd("BLPOP");
            listen.arg(&control);
            let room = *room.borrow();
            if room.interactive {
                listen.arg(&bell);
            }
            if room.bulk {
                listen.arg(&bulk_bell);
            }
            let heard: Option<(String, String)> =
                listen.arg(SIGNALS_BLOCK_SECS).query_async(&mut connection).await?;
            if self.up(pause).await.is_err() {
                return Ok(NobodyListens);
            }
            let message = match heard {
                None => continue,
                Some((key, _)) if key == bell || key == bulk_bell => Inbound::Bell,
                Some((_, text)) => match serde_json::from_str(&text) {
                    Ok(command) => Inbound::Control(command),
                    Err(error) => Inbound::BadControl(error.to_string()),
                },
            };
            if self.inbound.send(message).await.is_err() {
                return Ok(NobodyListens);
            }
        }
    }

    /// Says that Redis is back, if it was away.
    async fn up(&self, pause: &mut Pause) -> Result<(), NobodyListens> {
        if pause.reset() {
            self.inbound.send(Inbound::Up).await.map_err(|_| NobodyListens)?;
        }
        Ok(())
    }

    /// Says why reading ended, and waits before the next try.
    async fn paused(
        &self,
        ended: Result<NobodyListens, QueueError>,
        pause: &mut Pause,
    ) -> Result<(), NobodyListens> {
        match ended {
            Ok(nobody) => Err(nobody),
            Err(error) => {
                self.inbound.send(Inbound::Down(error)).await.map_err(|_| NobodyListens)?;
                tokio::time::sleep(pause.next()).await;
                Ok(())
            }
        }
    }
}

/// Keeps admitting bulk to about a third of the time while there is no slot for it: what is
/// admitted then only waits elsewhere, and the cores are better used for renders.
struct Pace {
    room: watch::Receiver<Room>,
    /// What elements took since the last rest.
    spell: Duration,
}

impl Pace {
    fn new(room: watch::Receiver<Room>) -> Self {
        Self { room, spell: Duration::ZERO }
    }

    /// An element took so long, from being read until it had left the stage. Rests
    /// where it is time to, unless a slot is free for bulk.
    async fn admitted(&mut self, took: Duration) {
        self.spell += took;
        if self.spell < BULK_SPELL {
            return;
        }
        let rest = (self.spell * BULK_REST).min(LONGEST_REST);
        self.spell = Duration::ZERO;
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            // An error means that the worker is gone, and this task with it.
            _ = self.room.wait_for(|room| room.bulk) => {}
        }
    }
}

/// Turns grow over restarts too, should anybody reuse a worker's id: microseconds
/// since 1970, which Lua's numbers hold exactly.
fn first_turn() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(0)
}

/// Growing delays between tries.
struct Pause {
    next: Option<Duration>,
}

impl Pause {
    fn new() -> Self {
        Self { next: None }
    }

    fn next(&mut self) -> Duration {
        let pause = self.next.map_or(SHORTEST_PAUSE, |last| (last * 2).min(LONGEST_PAUSE));
        self.next = Some(pause);
        pause
    }

    /// Whether there was anything to get over.
    fn reset(&mut self) -> bool {
        self.next.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether bulk rests after an element that took so long.
    async fn rests(pace: &mut Pace, took: Duration) -> bool {
        tokio::time::timeout(Duration::ZERO, pace.admitted(took)).await.is_err()
    }

    #[tokio::test]
    async fn bulk_rests_after_a_spell_unless_there_is_a_slot_for_it() {
        let (room, seen) = watch::channel(Room::default());
        let mut pace = Pace::new(seen);
        let half = BULK_SPELL / 2;
        assert!(!rests(&mut pace, half).await, "a few elements are no flood");
        assert!(rests(&mut pace, half).await);
        assert!(!rests(&mut pace, half).await, "a new spell");
        room.send_replace(Room { interactive: true, bulk: true });
        assert!(!rests(&mut pace, BULK_SPELL).await);
    }
}
