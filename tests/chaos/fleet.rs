//! Workers that are killed, stopped, continued and started again.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Worker, all_gone, handle, tillroll};

/// So many places, each with a worker that is started again when it has died.
pub struct Fleet {
    url: String,
    arguments: Vec<String>,
    places: Vec<Place>,
    /// Workers that ended by themselves, as where Redis was away at their start.
    pub ended: u32,
}

struct Place {
    worker: Worker,
    stopped: bool,
}

impl Fleet {
    /// Starts them, and waits until all are ready.
    pub fn start(url: &str, workers: usize, arguments: &[&str]) -> Self {
        let place = |_| Place { worker: Worker::start(url, arguments), stopped: false };
        Self {
            url: url.to_owned(),
            arguments: arguments.iter().map(ToString::to_string).collect(),
            places: (0..workers).map(place).collect(),
            ended: 0,
        }
    }

    fn place(&mut self, pick: usize) -> &mut Place {
        let count = self.places.len();
        &mut self.places[pick % count]
    }

    /// SIGKILL; the next one starts at once.
    pub fn kill(&mut self, pick: usize) {
        self.place(pick).worker.signal(Signal::KILL);
        self.replace(pick);
    }

    fn replace(&mut self, pick: usize) {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let worker = Worker::launch(&mut tillroll(), &self.url, &arguments);
        // The one that was there is reaped as it goes.
        *self.place(pick) = Place { worker, stopped: false };
    }

    /// SIGSTOP.
    pub fn stop(&mut self, pick: usize) {
        let place = self.place(pick);
        place.worker.signal(Signal::STOP);
        place.stopped = true;
    }

    /// SIGCONT, for all that are stopped.
    pub fn resume(&mut self) {
        for place in self.places.iter_mut().filter(|place| place.stopped) {
            place.worker.signal(Signal::CONT);
            place.stopped = false;
        }
    }

    /// SIGKILL for one Chromium process of one worker; false if it has none.
    pub fn kill_chromium(&mut self, pick: usize, which: usize) -> bool {
        let processes = self.place(pick).worker.chromium();
        let Some((pid, _)) = processes.get(which % processes.len().max(1)) else { return false };
        let pid = Pid::from_raw((*pid).try_into().unwrap()).unwrap();
        // It may have ended since it was listed.
        kill_process(pid, Signal::KILL).is_ok()
    }

    /// Starts those again that ended by themselves, as a supervisor does.
    pub fn mend(&mut self) {
        for pick in 0..self.places.len() {
            if has_ended(&self.places[pick].worker) {
                self.ended += 1;
                self.replace(pick);
            }
        }
    }

    /// All that those that live have logged.
    pub fn log(&self) -> String {
        let logs: Vec<_> = self.places.iter().map(|place| place.worker.log()).collect();
        logs.join("\n---\n")
    }
}

/// Whether a worker has ended, by itself as a rule.
pub fn has_ended(worker: &Worker) -> bool {
    handle(worker.pid()).is_none_or(|handle| all_gone(&[handle], Duration::ZERO))
}
