//! Open-loop load: jobs are pushed when a schedule says so, whether or not others are
//! back, and each latency counts from the scheduled moment. So a worker that stalls
//! is charged for all that would have come meanwhile.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::documents::Document;
use crate::rig::Worker;
use crate::server::Redis;

/// Connections that wait for replies: more than jobs are ever under way below capacity.
const TAKERS: usize = 64;
/// Latencies in µs: up to two minutes, three digits.
const LONGEST: u64 = 120_000_000;

/// Latencies in microseconds.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 3).unwrap()
}

/// In milliseconds.
pub(crate) fn at(histogram: &Histogram<u64>, share: f64) -> f64 {
    histogram.value_at_quantile(share) as f64 / 1e3
}

pub(crate) fn record(histogram: &mut Histogram<u64>, took: Duration) {
    let micros = u64::try_from(took.as_micros()).unwrap();
    histogram.record(micros.clamp(1, LONGEST)).unwrap();
}

/// Arrivals at random with so many a second on average; the same for the same seed.
pub(crate) fn poisson(rate: f64, seconds: f64, seed: u64) -> Vec<Duration> {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut at, mut arrivals) = (0.0, Vec::new());
    loop {
        at += -(1.0 - random.random::<f64>()).ln() / rate;
        if at > seconds {
            return arrivals;
        }
        arrivals.push(Duration::from_secs_f64(at));
    }
}

/// Arrivals at fixed distances.
pub(crate) fn steady(every: Duration, count: usize) -> Vec<Duration> {
    (1..=count).map(|number| every * u32::try_from(number).unwrap()).collect()
}

/// Pushes one job at each moment of the schedule, of `tenants` in turn, and adds the
/// latencies to `into`.
pub(crate) fn run(
    redis: &Redis,
    worker: &Worker,
    document: &Document,
    tenants: &[&str],
    schedule: &[Duration],
    into: &mut Histogram<u64>,
) {
    let (give, open) = sync_channel::<(String, Instant)>(schedule.len().max(1));
    let open = Mutex::new(open);
    std::thread::scope(|scope| {
        let takers: Vec<_> = (0..TAKERS.min(schedule.len()))
            .map(|_| scope.spawn(|| take_all(redis, worker, &open)))
            .collect();
        let mut producer = worker.client(redis);
        // The takers connect meanwhile.
        let began = Instant::now() + Duration::from_millis(100);
        for (number, offset) in schedule.iter().enumerate() {
            let at = began + *offset;
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            let name = producer.push(document, tenants[number % tenants.len()]);
            give.send((name, at)).unwrap();
        }
        drop(give);
        for taker in takers {
            into.add(taker.join().unwrap()).unwrap();
        }
    });
}

fn take_all(
    redis: &Redis,
    worker: &Worker,
    open: &Mutex<Receiver<(String, Instant)>>,
) -> Histogram<u64> {
    let (mut producer, mut times) = (worker.client(redis), histogram());
    loop {
        // The lock is held while waiting: the others wait behind it.
        let Ok((name, scheduled)) = open.lock().unwrap().recv() else { return times };
        producer.take(&name);
        record(&mut times, scheduled.elapsed());
    }
}
