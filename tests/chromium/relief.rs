//! What the pool tells of its contexts, and what can be done about their memory.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tillroll::failure::Class;
use tillroll::pool::{Isolation, Pool};
use tillroll::renderer::processes::{Kind, private_bytes};
use tillroll::renderer::{Relief, Render, RenderRequest, Watch};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::printed::{none, page, pool, request};
use crate::support::PATIENCE;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Entered(u64, u64, u32),
    Left(u64, u64, bool),
    Ended(u64),
}

/// Keeps what it is told; a context is kept unless `spoiled`.
struct Ears {
    told: watch::Sender<Vec<Told>>,
    spoiled: Mutex<bool>,
}

impl Ears {
    fn at(pool: &Pool) -> Arc<Self> {
        let ears = Arc::new(Self { told: watch::Sender::default(), spoiled: Mutex::new(false) });
        assert!(pool.watched_by(Arc::clone(&ears) as Arc<dyn Watch>));
        ears
    }

    fn hear(&self, told: Told) {
        self.told.send_modify(|all| all.push(told));
    }

    async fn wait_for(&self, what: &Told) {
        let mut told = self.told.subscribe();
        let waited = timeout(PATIENCE, told.wait_for(|all| all.contains(what))).await;
        waited.unwrap_or_else(|_| panic!("never {what:?}: {:?}", self.told.borrow())).unwrap();
    }

    /// The first context that a job was told to have, and its process.
    fn place(&self, of: u64) -> (u64, u32) {
        let told = self.told.borrow();
        let found = told.iter().find_map(|told| match told {
            Told::Entered(job, context, pid) if *job == of => Some((*context, *pid)),
            _ => None,
        });
        found.expect("it entered")
    }
}

impl Watch for Ears {
    fn entered(&self, job: u64, context: u64, _tenant: &Arc<str>, pid: Option<u32>) {
        self.hear(Told::Entered(job, context, pid.expect("a process")));
    }

    fn left(&self, job: u64, context: u64, sound: bool, _: Option<u64>) -> bool {
        self.hear(Told::Left(job, context, sound));
        !*self.spoiled.lock().unwrap()
    }

    fn ended(&self, context: u64) {
        self.hear(Told::Ended(context));
    }
}

fn numbered(job: u64, html: &str) -> RenderRequest {
    RenderRequest { job, ..request("shop", html, none()) }
}

fn table(rows: usize) -> String {
    page(&format!("<table>{}</table>", "<tr><td>Tea<td>1<td>2.00".repeat(rows)))
}

fn footprint(pid: u32) -> u64 {
    private_bytes(std::path::Path::new("/proc"), pid).expect("it lives")
}

#[tokio::test(flavor = "multi_thread")]
async fn trimming_brings_an_idle_context_down_and_closing_ends_its_process() {
    let pool = pool().await;
    let ears = Ears::at(&pool);
    pool.render(numbered(7, &page("<p>short"))).await.unwrap();
    let (context, pid) = ears.place(7);
    let before = footprint(pid);
    pool.render(numbered(8, &table(5_000))).await.unwrap();
    assert_eq!(ears.place(8), (context, pid), "one tenant, one context");
    ears.wait_for(&Told::Left(8, context, true)).await;
    pool.relieve(context, Relief::Trim);
    // Nothing of the large document is held: else six times as much would be left.
    let fell = timeout(PATIENCE, async {
        while footprint(pid) > before * 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    fell.await.unwrap_or_else(|_| panic!("{} bytes are left, {before} before", footprint(pid)));
    // It is still of use, and can be closed.
    pool.render(numbered(9, &page("<p>next"))).await.unwrap();
    assert_eq!(ears.place(9), (context, pid));
    pool.relieve(context, Relief::Close);
    ears.wait_for(&Told::Ended(context)).await;
    assert_eq!(private_bytes(std::path::Path::new("/proc"), pid), None);
    let empty = timeout(PATIENCE, async {
        while pool.vitals().contexts > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    empty.await.expect("its place is free");
    // What is gone is left alone.
    pool.relieve(context, Relief::Trim);
    pool.relieve(context, Relief::Close);
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_killed_by_its_number_and_no_other() {
    let pool = Arc::new(pool().await);
    let ears = Ears::at(&pool);
    let runs = Arc::clone(&pool);
    let job = tokio::spawn(async move { runs.render(numbered(7, &table(45_000))).await });
    let entered = |all: &Vec<Told>| all.iter().any(|told| matches!(told, Told::Entered(7, ..)));
    timeout(PATIENCE, ears.told.subscribe().wait_for(entered)).await.unwrap().unwrap();
    let (context, _) = ears.place(7);
    pool.relieve(context, Relief::Kill(8));
    pool.relieve(context, Relief::Close);
    assert!(!job.is_finished(), "neither its number nor idle");
    pool.relieve(context, Relief::Kill(7));
    let failure = timeout(PATIENCE, job).await.unwrap().unwrap().unwrap_err();
    assert_eq!(failure.class, Class::Renderer, "{failure}");
    ears.wait_for(&Told::Left(7, context, false)).await;
    ears.wait_for(&Told::Ended(context)).await;
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_that_is_not_wanted_any_more_is_not_kept() {
    let pool = pool().await;
    let ears = Ears::at(&pool);
    *ears.spoiled.lock().unwrap() = true;
    pool.render(numbered(7, &page("<p>one"))).await.unwrap();
    let (context, _) = ears.place(7);
    ears.wait_for(&Told::Ended(context)).await;
    *ears.spoiled.lock().unwrap() = false;
    pool.render(numbered(8, &page("<p>two"))).await.unwrap();
    assert_ne!(ears.place(8).0, context);
    pool.close().await;
}

/// The browser that a renderer belongs to.
fn browser_of(renderer: u32) -> u32 {
    let mut pid = renderer;
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        pid = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap();
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        if !String::from_utf8_lossy(&line).contains("--type=") {
            return pid;
        }
    }
}

#[tokio::test]
async fn what_dies_while_it_is_idle_gives_its_place_back() {
    let pool = pool().await;
    let ears = Ears::at(&pool);
    let kill = |pid: u32| {
        kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    };
    pool.render(numbered(1, &page("<p>kept warm"))).await.unwrap();
    let (context, renderer) = ears.place(1);
    kill(renderer);
    ears.wait_for(&Told::Ended(context)).await;

    let mut own = numbered(2, &page("<p>in a browser of its own"));
    own.rules.isolation = Some(Isolation::Browser);
    pool.render(own).await.unwrap();
    let (context, renderer) = ears.place(2);
    let browser = browser_of(renderer);
    assert_ne!(
        browser,
        browser_of(
            pool.browser()
                .unwrap()
                .processes()
                .iter()
                .find(|process| process.kind == Kind::Gpu)
                .unwrap()
                .pid
        )
    );
    kill(browser);
    ears.wait_for(&Told::Ended(context)).await;
    assert_eq!(pool.status().deaths, 1, "and it is counted");
    pool.close().await;
}
