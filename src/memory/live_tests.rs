//! The governor at work, on a machine made of files.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, sync_channel};

use super::super::control::SPARE;
use super::super::ledger::RETURN_PATIENCE;
use super::super::terms::{Blame, Next};
use super::*;

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(10);
const PID: u32 = 4_000_001;
const PLACE: ContextId = ContextId(1);
/// Of the document whose digest is all sevens.
const LENGTH: u64 = 0x0707_0707_0707_0707;

/// A machine whose free memory and whose one renderer are files.
struct Machine {
    root: tempfile::TempDir,
    live: Live,
    deeds: Receiver<Deed>,
}

struct Fake(SyncSender<Deed>);

impl Fake {
    fn deed(&self, deed: Deed) {
        // The test may have ended.
        self.0.try_send(deed).ok();
    }
}

impl Hands for Fake {
    fn trim(&self, context: ContextId) {
        self.deed(Deed::Trim(context));
    }
    fn close(&self, context: ContextId) {
        self.deed(Deed::Close(context));
    }
    fn kill(&self, context: ContextId, job: JobId) {
        self.deed(Deed::Kill(context, job));
    }
}

fn write(root: &tempfile::TempDir, file: &str, text: &str) {
    let path: PathBuf = root.path().join("proc").join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    // In one piece and in the same file, as the kernel would: it stays open in the sampler.
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    std::io::Write::write_all(&mut file.unwrap(), text.as_bytes()).unwrap();
}

fn policy() -> Policy {
    Policy {
        bounds: Bounds::default(),
        floor: 64 * MIB,
        cores: 2,
        most: 3,
        reaction: REACTION,
        back: BACK,
    }
}

fn asked(name: &str, rows: u64) -> Asked {
    Asked {
        name: name.to_owned(),
        tenant: "acme".into(),
        features: Features { markup: rows * 128, ..Features::default() },
        bytes: 0,
        digest: None,
        alone: None,
        bulk: false,
    }
}

impl Machine {
    fn new(free: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        let policy = policy();
        write(&root, "meminfo", &format!("MemAvailable: {:>12} kB\n", free * 1024));
        let live = Live::start(&policy, root.path()).unwrap();
        let (sender, deeds) = sync_channel(64);
        live.attach(Arc::new(Fake(sender)));
        Self { root, live, deeds }
    }

    fn set(&self, free: u64, used: u64) {
        write(&self.root, "meminfo", &format!("MemAvailable: {:>12} kB\n", free * 1024));
        write(&self.root, &format!("{PID}/status"), &format!("RssAnon: {:>12} kB\n", used * 1024));
    }

    fn ask(&self, name: &str, rows: u64) -> Ticket {
        self.live.ask(asked(name, rows))
    }

    fn begins(&self, ticket: &Ticket) {
        self.live.entered(JobId(ticket.number()), PLACE, &"acme".into(), Some(PID));
    }

    /// The next deed that is one of these.
    fn wait_for(&self, wanted: impl Fn(&Deed) -> bool) -> Deed {
        loop {
            let deed = self
                .deeds
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|_| panic!("never: {:#?}", self.live.report()));
            if wanted(&deed) {
                return deed;
            }
        }
    }
}

#[test]
fn a_renderer_that_takes_all_is_killed_and_its_job_runs_alone_then_ends() {
    let machine = Machine::new(700);
    machine.set(700, 20);
    let (ticket, other) = (machine.ask("acme/a", 20), machine.ask("acme/b", 20));
    ticket.enter().unwrap();
    other.enter().unwrap();
    machine.begins(&ticket);
    assert_eq!(ticket.killed(), None);
    machine.set(20, 640);
    machine.wait_for(|deed| *deed == Deed::Kill(PLACE, JobId(ticket.number())));
    let kill = ticket.killed().unwrap();
    assert_eq!((kill.blame, kill.alone), (Blame::Document, false));
    assert!(matches!(kill.next(), Next::Alone { predicted } if predicted >= 1280 * MIB));

    // Its context is not kept, and its document is known from now on.
    assert!(!machine.live.left(JobId(ticket.number()), PLACE, true, None));
    assert!(!machine.live.may_know(LENGTH));
    machine.live.outgrew([7; 32], &kill);
    assert!(machine.live.may_know(LENGTH));
    let again = machine.live.ask(Asked {
        name: "acme/a".to_owned(),
        tenant: "acme".into(),
        features: Features::default(),
        bytes: 0,
        digest: Some([7; 32]),
        alone: None,
        bulk: false,
    });
    let wait = again.enter().unwrap_err();
    assert!(!wait.to_string().is_empty());
    let report = machine.live.report();
    assert_eq!((report.waiting_count, report.waiting[0].job.as_str()), (1, "acme/a"));
    assert_eq!(machine.live.waiting(), 1);
    drop(again);
    assert_eq!(machine.live.waiting(), 0);

    let exceeded = Kill { alone: true, ..kill };
    machine.live.outgrew([7; 32], &exceeded);
    assert!(machine.live.too_big(&[7; 32]).is_some_and(|(reached, _)| reached >= kill.used));
    machine.live.acquit(&[7; 32]);
    assert!(!machine.live.may_know(LENGTH));
}

#[test]
fn what_a_tenant_left_warm_is_its_next_jobs_and_is_known_to_operators() {
    let machine = Machine::new(2_000);
    machine.set(2_000, 40);
    let first = machine.ask("acme/a", 20);
    first.enter().unwrap();
    machine.begins(&first);
    assert!(machine.live.left(JobId(first.number()), PLACE, true, None));
    drop(first);
    let [context] = &machine.live.report().contexts[..] else { panic!("one context") };
    assert_eq!((context.state, context.pid, &*context.tenant), ("idle", Some(PID), "acme"));
    assert_eq!(context.used_bytes, 40 * MIB);
    let second = machine.ask("acme/b", 20);
    second.enter().unwrap();
    machine.begins(&second);
    assert_eq!(machine.live.report().standing.running, 1);
    drop(second);
    machine.live.ended(PLACE);
    assert!(machine.live.report().contexts.is_empty());
}

#[test]
fn a_large_job_waits_until_the_idle_contexts_are_closed_for_it() {
    let machine = Machine::new(500);
    machine.set(500, 80);
    let first = machine.ask("acme/a", 20);
    first.enter().unwrap();
    machine.begins(&first);
    assert!(machine.live.left(JobId(first.number()), PLACE, true, None));
    drop(first);
    let large = machine.live.ask(Asked {
        name: "other/large".to_owned(),
        tenant: "other".into(),
        features: Features { markup: 640 << 10, ..Features::default() },
        bytes: 0,
        digest: None,
        alone: None,
        bulk: false,
    });
    let wait = large.enter().unwrap_err();
    assert!(matches!(wait, Wait::Room { .. }), "{wait}");
    machine.wait_for(|deed| *deed == Deed::Close(PLACE));
    machine.live.ended(PLACE);
    machine.set(580, 0);
    let mut changed = machine.live.changed();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let let_in = runtime.block_on(async {
        let entering = async {
            while large.enter().is_err() {
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, entering).await
    });
    let_in.expect("it is let in once their memory is back");
    assert_eq!(machine.live.report().standing.running, 1);
}

#[test]
fn a_job_given_up_before_its_context_came_is_killed_when_it_comes() {
    let machine = Machine::new(2_000);
    machine.set(2_000, 40);
    let ticket = machine.ask("acme/a", 20);
    ticket.enter().unwrap();
    let job = JobId(ticket.number());
    drop(ticket);
    assert_eq!(machine.live.report().standing.running, 0);
    machine.live.entered(job, PLACE, &"acme".into(), Some(PID));
    assert!(!machine.live.left(job, PLACE, false, None));
    machine.live.ended(PLACE);
    assert!(machine.live.report().contexts.is_empty());
}

#[test]
fn a_document_that_was_refused_holds_no_memory() {
    let machine = Machine::new(2_000);
    machine.set(2_000, 40);
    let ticket = machine.ask("acme/a", 2_000);
    ticket.enter().unwrap();
    let outstanding = || machine.live.report().standing.outstanding;
    assert!(outstanding() > 0);
    let mut changed = machine.live.changed();
    ticket.answered();
    drop(ticket);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let back = async {
        while outstanding() > 0 {
            changed.changed().await.unwrap();
        }
    };
    // Not only when patience with a renderer is at its end.
    let back = async { tokio::time::timeout(RETURN_PATIENCE / 2, back).await };
    runtime.block_on(back).expect("it is free with the next sample");
}

#[test]
fn a_job_whose_kept_context_ends_is_promised_all_of_it_again() {
    let machine = Machine::new(2_000);
    machine.set(2_000, 40);
    let first = machine.ask("acme/a", 200);
    first.enter().unwrap();
    machine.begins(&first);
    assert!(machine.live.left(JobId(first.number()), PLACE, true, None));
    drop(first);
    let mut changed = machine.live.changed();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let idle = || machine.live.report().standing.idle;
    let seen = async {
        while idle() < 40 * MIB {
            changed.changed().await.unwrap();
        }
    };
    let seen = async { tokio::time::timeout(PATIENCE, seen).await };
    runtime.block_on(seen).expect("a sample shows the idle context");
    let second = machine.ask("acme/b", 200);
    second.enter().unwrap();
    let outstanding = || machine.live.report().standing.outstanding;
    let beside = outstanding();
    machine.live.ended(PLACE);
    assert_eq!(outstanding(), beside + 40 * MIB);
}

#[test]
fn what_a_job_cannot_use_or_brings_along_is_counted_for_it() {
    let machine = Machine::new(2_000);
    machine.set(2_000, 40);
    let first = machine.ask("acme/a", 200);
    first.enter().unwrap();
    machine.begins(&first);
    assert!(machine.live.left(JobId(first.number()), PLACE, true, None));
    drop(first);
    let mut scripted = asked("acme/b", 200);
    scripted.features.scripts = true;
    let scripted = machine.live.ask(scripted);
    scripted.enter().unwrap();
    // The warm context is there for others: scripts have a fresh one.
    assert_eq!(machine.live.state().contexts[&PLACE].state, Use::Idle { reserved: None });
    let plain = machine.ask("acme/c", 200);
    plain.enter().unwrap();
    machine.begins(&plain);
    let outstanding = || machine.live.report().standing.outstanding;
    let before = outstanding();
    let other = machine.live.ask(Asked { tenant: "other".into(), ..asked("other/d", 200) });
    other.brings_browser();
    other.enter().unwrap();
    assert!(outstanding() >= before + super::super::BROWSER_BYTES);
}

#[test]
fn two_workers_on_one_machine_never_promise_the_same_memory() {
    let machine = Machine::new(8_000);
    let first = machine.ask("acme/r", 2_000);
    first.enter().unwrap();
    let standing = machine.live.report().standing;
    let (one, keep) = (standing.outstanding, standing.reserve);
    assert!(one > 100 * MIB);
    // Room for one and a half.
    let free = (keep + one + one / 2) / MIB;

    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("dev/shm")).unwrap();
    write(&root, "meminfo", &format!("MemAvailable: {:>12} kB\n", free * 1024));
    let mut let_in = [0; 3];
    for _ in 0..200 {
        let workers = [(); 2].map(|()| Live::start(&policy(), root.path()).unwrap());
        let both = std::sync::Barrier::new(2);
        let ask = |live: &Live| {
            let ticket = live.ask(asked("acme/r", 2_000));
            both.wait();
            let answer = ticket.enter();
            both.wait();
            answer.is_ok()
        };
        let (ours, theirs) = std::thread::scope(|scope| {
            let theirs = scope.spawn(|| ask(&workers[1]));
            (ask(&workers[0]), theirs.join().unwrap())
        });
        let_in[usize::from(ours) + usize::from(theirs)] += 1;
    }
    assert_eq!(let_in[2], 0, "nobody, one, both: {let_in:?}");
    assert!(let_in[1] > 0, "{let_in:?}");
}

#[test]
fn a_job_that_needs_all_the_memory_has_it_on_the_whole_machine() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("dev/shm")).unwrap();
    write(&root, "meminfo", &format!("MemAvailable: {:>12} kB\n", 600 * 1024));
    let [one, two] = [(); 2].map(|()| Live::start(&policy(), root.path()).unwrap());
    let small = one.ask(asked("acme/small", 1));
    small.enter().unwrap();
    // Larger than all that there is.
    let heavy = two.ask(asked("acme/heavy", 100_000));
    assert!(matches!(heavy.enter(), Err(Wait::Room { .. })), "another worker renders");
    drop(small);
    two.watch_for(|| heavy.enter().is_ok());
    let next = one.ask(asked("acme/next", 1));
    assert_eq!(next.enter(), Err(Wait::Elsewhere));
    assert!(!one.has_room());
    drop(heavy);
    one.watch_for(|| next.enter().is_ok());
    let elsewhere = two.report().standing.elsewhere;
    assert_eq!(elsewhere.workers, 1);
}

impl Live {
    /// Asks again after each sample.
    fn watch_for(&self, mut done: impl FnMut() -> bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut changed = self.changed();
        runtime.block_on(async {
            tokio::time::timeout(PATIENCE, async {
                loop {
                    changed.borrow_and_update();
                    if done() {
                        return;
                    }
                    changed.changed().await.unwrap();
                }
            })
            .await
            .unwrap();
        });
    }
}

#[test]
fn contexts_are_trimmed_once_they_rest_and_very_fat_ones_at_once() {
    let left = Duration::from_secs(9);
    let held = |mib, state, trimmed| Held {
        tenant: "acme".into(),
        pid: Some(PID),
        state,
        used: mib * MIB,
        own_browser: false,
        trimmed,
        since: left,
        turn: 1,
    };
    let idle = Use::Idle { reserved: None };
    let after = |held: Held, ms| held.is_to_be_trimmed(false, left + Duration::from_millis(ms));
    let at_leisure = |mib| held(mib, idle, false).is_to_be_trimmed(true, left);
    assert!(!after(held(120, idle, false), 100), "its next job would wait for it");
    assert!(after(held(120, idle, false), 500));
    assert!(after(held(300, idle, false), 0));
    assert!(!after(held(300, idle, true), 500), "once is enough");
    assert!(!after(held(300, Use::Busy(JobId(1)), false), 500));
    assert!(!after(held(80, idle, false), 2_999) && after(held(80, idle, false), 3_000));
    assert!(!after(held(22, idle, false), 9_000), "that is what a collection leaves");
    assert!(at_leisure(41) && !at_leisure(40), "nothing else wants the cores");
}

/// Two workers in control groups of their own, below one that leaves `free` MiB to both.
fn below_one_limit(free: u64) -> [tempfile::TempDir; 2] {
    let roots = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let shared = roots[0].path();
    std::fs::create_dir_all(shared.join("dev/shm")).unwrap();
    for (group, limit) in [("shop", free), ("shop/one", free - 1), ("shop/two", free - 1)] {
        let dir = shared.join("sys/fs/cgroup").join(group);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("memory.max"), (limit * MIB).to_string()).unwrap();
        std::fs::write(dir.join("memory.current"), "0").unwrap();
    }
    for part in ["dev", "sys"] {
        std::os::unix::fs::symlink(shared.join(part), roots[1].path().join(part)).unwrap();
    }
    for (root, group) in roots.iter().zip(["one", "two"]) {
        write(root, "meminfo", &format!("MemAvailable: {:>12} kB\n", 8_000_000_u64 * 1024));
        write(root, "self/cgroup", &format!("0::/shop/{group}\n"));
    }
    roots
}

#[test]
fn two_workers_under_limits_of_their_own_share_the_one_above_both() {
    let machine = Machine::new(8_000);
    let first = machine.ask("acme/r", 2_000);
    first.enter().unwrap();
    let standing = machine.live.report().standing;
    let (one, keep) = (standing.outstanding, standing.reserve);
    // Room for one and a half.
    let roots = below_one_limit((keep + one + one / 2) / MIB);
    let workers = roots.each_ref().map(|root| Live::start(&policy(), root.path()).unwrap());
    let tickets = workers.each_ref().map(|live| live.ask(asked("acme/r", 2_000)));
    workers[0].watch_for(|| tickets[0].enter().is_ok());
    let mut answer = Ok(());
    workers[1].watch_for(|| {
        answer = tickets[1].enter();
        answer != Err(Wait::Unseen)
    });
    assert!(matches!(answer, Err(Wait::Room { .. })), "{answer:?}");
    assert!(workers[1].report().standing.elsewhere.promised > one / 2);
    let [first, second] = tickets;
    drop(first);
    workers[1].watch_for(|| second.enter().is_ok());
}

#[test]
fn a_context_that_no_job_asked_for_is_promised_to_other_workers_too() {
    let machine = Machine::new(8_000);
    machine.live.watch_for(|| machine.live.has_room_to_spare());
    let keep = machine.live.report().standing.reserve;
    // Room for one and a half.
    let roots = below_one_limit((keep + SPARE * 3 / 2) / MIB);
    let workers = roots.each_ref().map(|root| Live::start(&policy(), root.path()).unwrap());
    workers[0].watch_for(|| workers[0].has_room_to_spare());
    workers[1].watch_for(|| workers[1].report().standing.elsewhere.promised > SPARE / 2);
    assert!(!workers[1].has_room_to_spare());
    // It could not be opened.
    assert!(!workers[0].left(JobId(0), ContextId(1), false, None));
    workers[1].watch_for(|| workers[1].has_room_to_spare());
}

#[test]
fn what_came_of_a_document_elsewhere_counts_for_its_twin_that_waits() {
    let machine = Machine::new(2_000);
    machine.set(2_000, 40);
    let other = machine.ask("acme/other", 20);
    other.enter().unwrap();
    let twin = machine.live.ask(Asked { digest: Some([7; 32]), ..asked("acme/twin", 20) });
    let kill = Kill {
        job: JobId(9),
        blame: Blame::Document,
        alone: false,
        used: 300 * MIB,
        predicted: 60 * MIB,
        budget: 300 * MIB,
        usual: 900 * MIB,
        kept: 0,
        speed: 0,
    };
    machine.live.outgrew([7; 32], &kill);
    assert!(matches!(twin.enter(), Err(Wait::Others(_))), "it runs alone now");
    let [waits] = &machine.live.report().waiting[..] else { panic!("one waits") };
    assert_eq!(waits.predicted_bytes, 600 * MIB);
    machine.live.acquit(&[7; 32]);
    twin.enter().unwrap();
}

#[test]
fn the_workers_copies_of_a_pdf_are_promised_until_it_is_settled() {
    const PDF: u64 = 30 * MIB;
    let machine = Machine::new(4_000);
    machine.set(4_000, 40);
    let outstanding = || machine.live.report().standing.outstanding;
    let photo = || Asked { bytes: 20 * MIB, ..asked("acme/photo", 20) };
    let ticket = machine.live.ask(photo());
    ticket.enter().unwrap();
    machine.begins(&ticket);
    // Beside the page: the document four times, and four of what may be a PDF of 60 MiB.
    let expected = 4 * 20 * MIB + 4 * 60 * MIB;
    assert!(outstanding() >= expected, "{} of {} MiB", outstanding() / MIB, expected / MIB);
    assert!(machine.live.left(JobId(ticket.number()), PLACE, true, None));
    let printed = ticket.printed(PDF as usize);
    drop(ticket);
    machine.live.watch_for(|| outstanding() == 3 * PDF);
    drop(printed);
    assert_eq!(outstanding(), 0);
    // What its kind has shown counts from then on, where it is seen often.
    for _ in 0..8 {
        let ticket = machine.live.ask(photo());
        drop(ticket.printed(PDF as usize));
    }
    let again = machine.live.ask(photo());
    again.enter().unwrap();
    assert!(outstanding() < expected, "{} MiB", outstanding() / MIB);
}

#[test]
fn one_slot_is_kept_from_bulk_also_where_many_have_waited_for_memory() {
    let machine = Machine::new(8_000);
    machine.set(8_000, 40);
    let bulk = |name: &str| machine.live.ask(Asked { bulk: true, ..asked(name, 20) });
    let [one, two, three, four] = ["b/1", "b/2", "b/3", "b/4"].map(bulk);
    one.enter().unwrap();
    two.enter().unwrap();
    assert_eq!(three.enter(), Err(Wait::Kept));
    assert_eq!(four.enter(), Err(Wait::Kept));
    assert_eq!((machine.live.waiting(), machine.live.waiting_bulk()), (2, 2), "they hold no slot");
    assert!(machine.live.has_room());
    let interactive = machine.ask("acme/r", 20);
    interactive.enter().unwrap();
    drop(one);
    assert_eq!(four.enter(), Err(Wait::Kept), "who waited longer goes first");
    three.enter().unwrap();
    drop((two, three));
    four.enter().unwrap();
    machine.live.reconfigure(Bounds::default(), 0, 1);
    drop((interactive, four));
    let alone = bulk("b/5");
    alone.enter().unwrap();
}
