//! Hears the whole event stream while a run goes on, through restarts of Redis
//! and cut connections, and lets tests wait for what is heard.
//!
//! The stream keeps about 10,000 entries; it is resumed by the id of the last
//! entry that was heard, so nothing is heard twice and a gap is noticed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redis::streams::{StreamRangeReply, StreamReadReply};
use redis::{Client, Connection, RedisResult, cmd};

use crate::history::{Entry, History};
use crate::support::PREFIX;

/// How long one read waits on the server.
const BLOCK_MS: u64 = 200;
/// Between tries while Redis is away.
const PAUSE: Duration = Duration::from_millis(20);

/// See the module. Ends with its value.
pub struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    history: Mutex<History>,
    heard: Condvar,
    stopping: AtomicBool,
}

impl Watch {
    /// Begins with the oldest entry that is there.
    pub fn of(url: &str) -> Self {
        let shared = Arc::new(Shared::default());
        let (theirs, url) = (Arc::clone(&shared), url.to_owned());
        let thread = std::thread::spawn(move || theirs.listen(&url));
        Self { shared, thread: Some(thread) }
    }

    /// What was heard so far.
    pub fn so_far(&self) -> MutexGuard<'_, History> {
        self.shared.history.lock().unwrap()
    }

    /// Waits until what was heard is as asked; `None` if it is not within `longest`.
    pub fn wait<T>(
        &self,
        longest: Duration,
        mut found: impl FnMut(&History) -> Option<T>,
    ) -> Option<T> {
        let give_up = Instant::now() + longest;
        let mut history = self.so_far();
        loop {
            if let Some(found) = found(&history) {
                return Some(found);
            }
            let left = give_up.checked_duration_since(Instant::now())?;
            history = self.shared.heard.wait_timeout(history, left).unwrap().0;
        }
    }

    /// Waits until all these jobs have ended; says which have not.
    pub fn wait_ended(&self, jobs: &[String], longest: Duration) -> Result<(), Vec<String>> {
        let ended = self.wait(longest, |history| history.waiting(jobs).is_empty().then_some(()));
        ended.ok_or_else(|| self.so_far().waiting(jobs).into_iter().cloned().collect())
    }

    /// Hears the rest, and hands everything over.
    pub fn finish(mut self) -> History {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
        std::mem::take(&mut *self.so_far())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl Shared {
    fn listen(&self, url: &str) {
        let mut last = "0-0".to_owned();
        let mut connection = None;
        // A run whose Redis has gone for good is not listened to for ever.
        let mut away = None;
        loop {
            let stopping = self.stopping.load(Ordering::SeqCst);
            match self.read(url, &mut connection, &mut last) {
                Ok(0) if stopping => return,
                Ok(_) => away = None,
                Err(_) => {
                    connection = None;
                    let since = *away.get_or_insert_with(Instant::now);
                    if stopping && since.elapsed() > Duration::from_secs(10) {
                        return;
                    }
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    /// Hears the next entries: how many.
    fn read(
        &self,
        url: &str,
        connection: &mut Option<Connection>,
        last: &mut String,
    ) -> RedisResult<usize> {
        if connection.is_none() {
            *connection = Some(patient(url)?);
        }
        let Some(connection) = connection else { return Ok(0) };
        let stream = format!("{PREFIX}events");
        let mut oldest = cmd("XRANGE");
        oldest.arg(&stream).arg("-").arg("+").arg("COUNT").arg(1);
        let oldest: StreamRangeReply = oldest.query(connection)?;
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(1000).arg("BLOCK").arg(BLOCK_MS);
        read.arg("STREAMS").arg(&stream).arg(&*last);
        let read: Option<StreamReadReply> = read.query(connection)?;
        let entries = read.into_iter().flat_map(|read| read.keys).flat_map(|key| key.ids);
        let entries: Vec<_> = entries.collect();
        if entries.is_empty() {
            return Ok(0);
        }
        let mut history = self.history.lock().unwrap();
        if let Some(oldest) = oldest.ids.first()
            && *last != "0-0"
            && order(&oldest.id) > order(last)
        {
            history.missed(last.clone());
        }
        for entry in &entries {
            let field = |name: &str| entry.get::<String>(name).unwrap_or_default();
            history.hear(&Entry { event: field("event"), job: field("job"), code: field("code") });
            last.clone_from(&entry.id);
        }
        self.heard.notify_all();
        Ok(entries.len())
    }
}

/// A connection whose reads end, should the server fall silent.
pub fn patient(url: &str) -> RedisResult<Connection> {
    let longest = Duration::from_secs(5);
    let connection = Client::open(url)?.get_connection_with_timeout(longest)?;
    connection.set_read_timeout(Some(longest))?;
    connection.set_write_timeout(Some(longest))?;
    Ok(connection)
}

/// An entry's id as it is ordered.
fn order(id: &str) -> (u64, u64) {
    let (millis, number) = id.split_once('-').unwrap_or((id, "0"));
    (millis.parse().unwrap_or(0), number.parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis_server::RedisServer;
    use crate::support::connect;

    fn say(server: &RedisServer, event: &str, job: &str, keep: u32) {
        let mut add = cmd("XADD");
        add.arg(format!("{PREFIX}events")).arg("MAXLEN").arg(keep).arg("*");
        add.arg("event").arg(event).arg("job").arg(job).arg("code").arg("ok");
        add.query::<String>(&mut connect(&server.url())).unwrap();
    }

    #[test]
    fn everything_is_heard_once_through_a_restart_and_a_gap_is_noticed() {
        let mut server = RedisServer::durable();
        let watch = Watch::of(&server.url());
        say(&server, "admitted", "t/a", 100);
        assert!(
            watch.wait(PATIENCE, |heard| (heard.count("admitted") == 1).then_some(())).is_some()
        );
        server.restart();
        say(&server, "done", "t/a", 100);
        assert_eq!(watch.wait_ended(&["t/a".to_owned()], PATIENCE), Ok(()));
        let history = watch.finish();
        assert_eq!((history.count("admitted"), history.count("done")), (1, 1));

        // A listener that comes back after its last entry was trimmed.
        let shared = Shared::default();
        let mut last = "1-1".to_owned();
        say(&server, "admitted", "t/b", 1);
        shared.read(&server.url(), &mut None, &mut last).unwrap();
        let verdict = shared.history.lock().unwrap().judge(&[], &[].into(), &[].into());
        assert_eq!(verdict.violations.len(), 1, "{:?}", verdict.violations);
    }

    const PATIENCE: Duration = Duration::from_secs(20);
}
