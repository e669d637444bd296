//! Claims among many: whether a backlog of many tenants, or tenants that are idle
//! now, make a claim dearer.

use std::time::{Duration, Instant};

use redis::Connection;
use tillroll::queue::{Claimed, Next, Queue};
use tokio::runtime::Runtime;

use crate::info::Info;
use crate::report::{Report, quantile};
use crate::rig::{self, Workers};
use crate::server::{Keeps, Redis};

const TENANTS: usize = 1_000;
const BACKLOG: usize = 100_000;
/// Claims in a row, each a round trip of its own, and how often that is repeated.
const CLAIMS: usize = 500;
/// The least counts: what other programs take from the cores is not the claim's.
const ROUNDS: usize = 12;
/// Small documents: what waits is what counts here.
const BYTES: usize = 200;

pub(crate) fn measure(report: &mut Report) {
    report.section("claims among many tenants");
    let runtime = Runtime::new().unwrap();
    let server = Redis::start(Keeps::EveryWrite);
    let mut crowd = Crowd { runtime, redis: server.connect(), server, pushed: 0 };
    crowd.admit(CLAIMS * 2, 1);
    let alone = crowd.claims();
    report.claims("one tenant with 1,000 jobs", &alone, &alone);
    crowd.admit(TENANTS, TENANTS);
    crowd.drain();
    crowd.admit(CLAIMS * 2, 1);
    let idle = crowd.claims();
    report.claims("the same, 1,000 tenants had jobs once", &idle, &alone);
    crowd.admit(BACKLOG, TENANTS);
    let many = crowd.claims();
    report.claims("100,000 jobs of 1,000 tenants", &many, &alone);
}

struct Crowd {
    runtime: Runtime,
    server: Redis,
    redis: Connection,
    pushed: usize,
}

/// What a claim takes: Redis' time inside the script, and from call to answer.
struct Claims {
    script_micros: f64,
    trip: f64,
}

impl Report {
    fn claims(&mut self, what: &str, claims: &Claims, alone: &Claims) {
        let times = claims.script_micros / alone.script_micros;
        let note = format!("{times:.2} times the first; call to answer p50 {:.3} ms", claims.trip);
        self.figure(what, claims.script_micros, "µs in Redis", &note);
    }
}

impl Crowd {
    /// Pushes jobs and has a worker admit them, while claims are paused.
    fn admit(&mut self, jobs: usize, tenants: usize) {
        rig::pause(&mut self.redis, true);
        let waiting = rig::counter(&mut self.redis, "jobs");
        rig::push(&mut self.redis, "in", self.pushed..self.pushed + jobs, tenants, BYTES);
        self.pushed += jobs;
        let workers = Workers::start(&self.runtime, &self.server, 1);
        rig::reached(&mut self.redis, "jobs", waiting + jobs);
        workers.stop(&self.runtime);
        rig::pause(&mut self.redis, false);
    }

    /// Workers end all that waits.
    fn drain(&mut self) {
        let done = rig::counter(&mut self.redis, "ended:done");
        let waiting = rig::counter(&mut self.redis, "jobs");
        let workers = Workers::start(&self.runtime, &self.server, 1);
        rig::reached(&mut self.redis, "ended:done", done + waiting);
        workers.stop(&self.runtime);
    }

    /// Claims again and again, and gives everything back.
    fn claims(&mut self) -> Claims {
        let queue = rig::queue(&self.runtime, &self.server, "claimer");
        let (mut scripts, mut trips) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let before = Info::read(&mut self.redis);
            let (leases, times) = self.runtime.block_on(claim(&queue));
            let after = Info::read(&mut self.redis);
            let calls = after.calls("evalsha") - before.calls("evalsha");
            scripts.push((after.micros("evalsha") - before.micros("evalsha")) / calls);
            trips.push(quantile(&times, 0.5));
            self.runtime.block_on(async {
                for claimed in &leases {
                    queue.release(&claimed.lease, "released", false, None).await.unwrap();
                }
            });
        }
        let least = |values: Vec<f64>| values.into_iter().fold(f64::INFINITY, f64::min);
        Claims { script_micros: least(scripts), trip: least(trips) }
    }
}

async fn claim(queue: &Queue) -> (Vec<Claimed>, Vec<Duration>) {
    let (mut leases, mut times) = (Vec::new(), Vec::new());
    for _ in 0..CLAIMS {
        let token = queue.token();
        let at = Instant::now();
        let claimed = queue.claim(Next { token: &token, bulk: true }).await.unwrap();
        times.push(at.elapsed());
        leases.push(claimed.expect("there is more to claim"));
    }
    (leases, times)
}
