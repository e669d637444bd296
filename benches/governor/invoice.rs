//! An invoice of 1,000 rows, again and again, among a steady stream of receipts: how
//! long it waits, and what the receipts feel of it.

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redis::Commands;

use crate::cgroup::Group;
use crate::documents::{Document, Kind};
use crate::report::{figure, goal, quantile, section};
use crate::rig::{Worker, out};
use crate::server::{Keeps, Redis};

const LIMIT: u64 = 1 << 30;
/// Between two receipts.
const EVERY: Duration = Duration::from_millis(50);
const ALONE: usize = 400;
const BESIDE: usize = 600;
const INVOICES: usize = 15;
const TENANTS: usize = 4;
/// Connections that wait for replies.
const TAKERS: usize = 12;

/// One receipt: when it should have been pushed, and how long its reply took from then.
struct Trip {
    pushed: Instant,
    took: Duration,
}

pub(crate) fn measure(settings: &[&str]) {
    section("an invoice of 1,000 rows among 20 receipts a second, 1 GiB");
    let group = Group::new(LIMIT).unwrap();
    let redis = Redis::start(Keeps::Nothing);
    let log = out().join("invoice.log");
    let worker = Worker::start(&group, &redis, "receipts", settings, &log).unwrap();
    let mut connection = redis.connect();
    let warm: Vec<_> = (0..60).map(|n| Document::new(Kind::Receipt, n, TENANTS)).collect();
    worker.rate(&mut connection, &warm);
    worker.rate(&mut connection, &[invoice(9_000)]);

    let alone = stream(&redis, &worker, 1_000, ALONE);
    let (invoices, beside) = std::thread::scope(|scope| {
        let invoices = scope.spawn(|| {
            let mut connection = redis.connect();
            let mut between = Vec::new();
            let (mut waited, mut took) = (Vec::new(), Vec::new());
            for number in 0..INVOICES {
                std::thread::sleep(Duration::from_millis(800));
                let document = invoice(10_000 + number);
                let began = Instant::now();
                worker.push(&mut connection, std::slice::from_ref(&document));
                let reply = worker.take(&mut connection, &document.name(), 60.0);
                let reply = reply.expect("the invoice was not answered in 60 s");
                assert_eq!(reply["status"], "done", "{reply}");
                between.push((began, Instant::now()));
                took.push(began.elapsed().as_secs_f64() * 1e3);
                let timing = |name: &str| reply["timings"][name].as_f64().unwrap();
                waited.push(timing("total_ms") - timing("rendered_ms"));
            }
            (between, waited, took)
        });
        let beside = stream(&redis, &worker, 2_000, BESIDE);
        (invoices.join().unwrap(), beside)
    });
    let (between, waited, took) = invoices;
    let meets = |trip: &&Trip| {
        between.iter().any(|(from, to)| trip.pushed < *to && trip.pushed + trip.took > *from)
    };
    let p95 = |trips: &mut dyn Iterator<Item = &Trip>| {
        let times: Vec<f64> = trips.map(|trip| trip.took.as_secs_f64() * 1e3).collect();
        (quantile(&times, 0.95), times.len())
    };
    let (quiet, count) = p95(&mut alone.iter());
    figure("receipts alone, p95", &format!("{quiet:.0} ms ({count})"));
    let (meanwhile, count) = p95(&mut beside.iter().filter(meets));
    let text = |of: &[f64]| {
        format!("middle {:.0} ms, longest {:.0} ms", quantile(of, 0.5), quantile(of, 1.0))
    };
    figure("the invoice, push to reply", &text(&took));
    figure("of it waiting", &text(&waited));
    let times = meanwhile / quiet;
    let what = format!("{meanwhile:.0} ms ({count}), {times:.1} times");
    goal("receipts while it is there, p95", &what, "at most twice", times <= 2.0);
}

fn invoice(number: usize) -> Document {
    let document = Document::new(Kind::Invoice, number, 1);
    Document { tenant: "billing".to_owned(), ..document }
}

/// Pushes a receipt each [`EVERY`], whether or not the last is back.
fn stream(redis: &Redis, worker: &Worker, first: usize, count: usize) -> Vec<Trip> {
    let (give, open) = sync_channel::<(Document, Instant)>(count);
    let open = Arc::new(Mutex::new(open));
    std::thread::scope(|scope| {
        let takers: Vec<_> = (0..TAKERS)
            .map(|_| {
                let open = Arc::clone(&open);
                scope.spawn(move || take_all(redis, worker, &open))
            })
            .collect();
        let began = Instant::now() + EVERY;
        let mut connection = redis.connect();
        for number in 0..count {
            let at = began + EVERY * u32::try_from(number).unwrap();
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            let receipt = Document::new(Kind::Receipt, first + number, TENANTS);
            let _: i64 = connection.lpush(worker.key("in"), receipt.element()).unwrap();
            give.send((receipt, at)).unwrap();
        }
        drop(give);
        takers.into_iter().flat_map(|taker| taker.join().unwrap()).collect()
    })
}

fn take_all(
    redis: &Redis,
    worker: &Worker,
    open: &Mutex<Receiver<(Document, Instant)>>,
) -> Vec<Trip> {
    let mut connection = redis.connect();
    let mut trips = Vec::new();
    loop {
        // The lock is held while waiting: the others wait behind it.
        let Ok((receipt, pushed)) = open.lock().unwrap().recv() else { return trips };
        let reply = worker.take(&mut connection, &receipt.name(), 60.0);
        let reply = reply.expect("a receipt was not answered in 60 s");
        assert_eq!(reply["status"], "done", "{reply}");
        trips.push(Trip { pushed, took: pushed.elapsed() });
    }
}
