//! Decisions, without runtime, Redis or Chromium.

use tokio::sync::oneshot;

use super::super::event::Verdict;
use super::*;
use crate::job::Priority;
use crate::memory::document::Features;
use crate::memory::live::Asked;
use crate::memory::terms::Wait;
use crate::memory::{Probe, Settings};
use crate::queue::{Claimed, Lease};

const SLOTS: usize = 3;

/// A dispatcher on a machine with plenty of memory, its renderer ready.
pub(super) fn ready() -> Dispatcher {
    let (root, settings) = machine();
    begun(Governor::new(Probe::at(root.path()), settings).unwrap())
}

fn machine() -> (tempfile::TempDir, Settings) {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("proc")).unwrap();
    std::fs::write(root.path().join("proc/meminfo"), "MemAvailable: 8000000 kB\n").unwrap();
    (root, Settings { limit: None, reserve: 0, per_render: 1 << 20, redis: 0, slots: SLOTS })
}

/// A dispatcher on `governor` whose renderer is ready.
fn begun(governor: Governor) -> Dispatcher {
    let mut dispatcher = Dispatcher::new(governor);
    assert!(dispatcher.handle(Event::Tick).iter().all(|e| !matches!(e, Effect::Claim { .. })));
    assert!(dispatcher.handle(Event::Housekept(Ok(Housekept::default()))).is_empty());
    for effect in dispatcher.handle(Event::Renderer(Ok(()))) {
        let Effect::Claim { permit, bulk } = effect else { panic!("{effect:?}") };
        assert!(dispatcher.handle(Event::Claimed { permit, bulk, result: Ok(None) }).is_empty());
    }
    dispatcher
}

pub(super) fn work(number: usize) -> Work {
    Work {
        claimed: Claimed {
            lease: Lease::for_tests(&format!("acme/r-{number}"), &format!("t-{number}")),
            attempt: 1,
            max_attempts: 3,
            admitted_ms: 1,
            claimed_ms: 2,
            expired: false,
            begin_by: None,
            crashes: 0,
            priority: Priority::Interactive,
            cancelled: false,
            uncounted: 0,
            needs: None,
            rules: crate::job::Rules::default(),
            assets: None,
        },
        job: None,
    }
}

fn element() -> Event {
    let (done, _) = oneshot::channel();
    Event::Inbound(Inbound::Element {
        inbox: Priority::Interactive,
        turn: 1,
        element: Vec::new(),
        done,
    })
}

pub(super) fn unavailable() -> QueueError {
    QueueError::Unexpected { what: "a test", answer: "nothing".to_owned() }
}

/// Lets the dispatcher claim `count` jobs, one after another.
pub(super) fn fill(dispatcher: &mut Dispatcher, count: usize) -> Vec<(AttemptId, Work, Halt)> {
    fill_with(dispatcher, Priority::Interactive, count)
}

fn fill_with(
    dispatcher: &mut Dispatcher,
    priority: Priority,
    count: usize,
) -> Vec<(AttemptId, Work, Halt)> {
    let mut started = Vec::new();
    let mut claimed = 0;
    let mut effects = dispatcher.handle(Event::Inbound(Inbound::Bell));
    while let Some(effect) = effects.pop() {
        match effect {
            Effect::Claim { permit, bulk } => {
                let mut found = (claimed < count).then(|| work(claimed));
                if let Some(found) = &mut found {
                    found.claimed.priority = priority;
                }
                claimed += 1;
                effects.extend(dispatcher.handle(Event::Claimed {
                    permit,
                    bulk,
                    result: Ok(found),
                }));
            }
            Effect::Run { attempt, work, halt } => started.push((attempt, *work, halt)),
            other => panic!("{other:?}"),
        }
    }
    started
}

pub(super) fn settle(
    dispatcher: &mut Dispatcher,
    attempt: AttemptId,
    next: Option<Work>,
) -> Vec<Effect> {
    dispatcher.handle(Event::Settled {
        attempt,
        outcome: Outcome::Done,
        result: Ok(Settled::Accepted),
        next,
    })
}

#[test]
fn claims_stop_when_every_slot_is_taken() {
    let mut dispatcher = ready();
    assert_eq!(fill(&mut dispatcher, 10).len(), SLOTS);
    assert!(!dispatcher.room().interactive);
    assert!(dispatcher.handle(Event::Inbound(Inbound::Bell)).is_empty());
}

#[test]
fn a_full_worker_still_admits_but_does_not_claim() {
    let mut dispatcher = ready();
    fill(&mut dispatcher, SLOTS);
    match dispatcher.handle(element()).as_slice() {
        [Effect::Offer { permit: None, .. }] => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_offer_with_room_claims_in_the_same_call() {
    let mut dispatcher = ready();
    let mut effects = dispatcher.handle(element());
    let Some(Effect::Offer { permit: Some(permit), bulk, .. }) = effects.pop() else { panic!() };
    let effects = dispatcher.handle(Event::Offered {
        permit: Some(permit),
        bulk,
        claimed: Some(work(1)),
        failed: None,
    });
    assert!(matches!(effects.as_slice(), [Effect::Run { .. }]));
    assert_eq!(dispatcher.running(), 1);
}

/// Its bell rings while nobody listens: the reader still waits for commands only.
#[test]
fn a_job_admitted_without_room_is_claimed_as_soon_as_there_is_some() {
    let mut dispatcher = ready();
    let started = fill(&mut dispatcher, SLOTS);
    dispatcher.handle(element());
    // The slot comes free, and its claim finds nothing: the job is not there yet.
    let mut effects = settle(&mut dispatcher, started[0].0, None);
    let Some(Effect::Claim { permit, bulk }) = effects.pop() else { panic!("{effects:?}") };
    let offered = Event::Offered { permit: None, bulk: false, claimed: None, failed: None };
    assert!(dispatcher.handle(offered).is_empty(), "one claim at a time");
    let effects = dispatcher.handle(Event::Claimed { permit, bulk, result: Ok(None) });
    assert!(matches!(effects.as_slice(), [Effect::Claim { .. }]), "{effects:?}");
}

#[test]
fn a_settlement_passes_its_permit_to_the_next_job() {
    let mut dispatcher = ready();
    let started = fill(&mut dispatcher, SLOTS);
    let effects = settle(&mut dispatcher, started[0].0, Some(work(9)));
    assert!(matches!(effects.as_slice(), [Effect::Run { .. }]), "{effects:?}");
    assert_eq!(dispatcher.running(), SLOTS);
}

#[test]
fn an_ended_attempt_claims_the_next_only_while_running() {
    let mut dispatcher = ready();
    let mut started = fill(&mut dispatcher, 2);
    let verdict = || Verdict::Release { code: "x", crashed: false, past: None };
    let (attempt, work, _) = started.pop().unwrap();
    let effects =
        dispatcher.handle(Event::Ended { attempt, lease: work.claimed.lease, verdict: verdict() });
    assert!(matches!(effects.as_slice(), [Effect::Settle { claim_next: Some(_), .. }]));
    dispatcher.handle(Event::Stop(Stop::Drain));
    let (attempt, work, _) = started.pop().unwrap();
    let effects =
        dispatcher.handle(Event::Ended { attempt, lease: work.claimed.lease, verdict: verdict() });
    assert!(matches!(effects.as_slice(), [Effect::Settle { claim_next: None, .. }]));
}

#[test]
fn nothing_is_claimed_while_redis_or_the_renderer_is_away() {
    let mut dispatcher = ready();
    dispatcher.handle(Event::Inbound(Inbound::Down(unavailable())));
    assert!(dispatcher.redis().is_err());
    assert!(dispatcher.handle(Event::Inbound(Inbound::Bell)).is_empty());
    let effects = dispatcher.handle(Event::Inbound(Inbound::Up));
    let [Effect::Beat(_), Effect::Claim { .. }] = effects.as_slice() else { panic!("{effects:?}") };

    let mut dispatcher = ready();
    dispatcher.handle(Event::Renderer(Err("it died".to_owned())));
    assert!(dispatcher.handle(Event::Inbound(Inbound::Bell)).is_empty());
    assert!(!dispatcher.room().interactive);
}

#[test]
fn a_lost_lease_cancels_its_render_only() {
    let mut dispatcher = ready();
    let started = fill(&mut dispatcher, 2);
    let lost = started[0].1.claimed.lease.token().to_owned();
    dispatcher.handle(Event::Beat(Ok(Renewed { lost: vec![lost], ..Renewed::default() })));
    assert!(started[0].2.why() == Some(Why::Lost));
    assert!(started[1].2.why().is_none());
}

#[test]
fn a_heartbeat_renews_every_running_lease_and_waits_for_its_answer() {
    let mut dispatcher = ready();
    fill(&mut dispatcher, 2);
    let Some(Effect::Beat(leases)) = dispatcher.beat() else { panic!() };
    assert_eq!(leases.len(), 2);
    assert!(dispatcher.beat().is_none());
    dispatcher.handle(Event::Beat(Ok(Renewed::default())));
    assert!(dispatcher.beat().is_some());
}

#[test]
fn draining_ends_when_the_last_attempt_has_settled() {
    let mut dispatcher = ready();
    let started = fill(&mut dispatcher, 2);
    let effects = dispatcher.handle(Event::Stop(Stop::Drain));
    assert!(
        matches!(effects.as_slice(), [Effect::StopIntake, Effect::StartDrainTimer]),
        "{effects:?}"
    );
    assert!(started.iter().all(|(_, _, halt)| halt.why().is_none()));
    assert!(settle(&mut dispatcher, started[0].0, None).is_empty());
    let effects = settle(&mut dispatcher, started[1].0, None);
    assert!(matches!(effects.as_slice(), [Effect::Finish]), "{effects:?}");
    assert_eq!(dispatcher.phase(), Phase::Stopped);
}

#[test]
fn an_idle_worker_drains_at_once() {
    let mut dispatcher = ready();
    let effects = dispatcher.handle(Event::Stop(Stop::Drain));
    assert!(matches!(effects.last(), Some(Effect::Finish)), "{effects:?}");
}

#[test]
fn a_second_stop_and_the_drain_timeout_abort() {
    for event in [Event::Stop(Stop::Abort), Event::DrainTimeout] {
        let mut dispatcher = ready();
        let started = fill(&mut dispatcher, 2);
        dispatcher.handle(Event::Stop(Stop::Drain));
        dispatcher.handle(event);
        assert_eq!(dispatcher.phase(), Phase::Aborting);
        assert!(started.iter().all(|(_, _, halt)| halt.why().is_some()));
    }
}

#[test]
fn a_job_claimed_while_the_worker_aborts_is_released() {
    let mut dispatcher = ready();
    let mut effects = dispatcher.handle(Event::Inbound(Inbound::Bell));
    let Some(Effect::Claim { permit, bulk }) = effects.pop() else { panic!() };
    dispatcher.handle(Event::Stop(Stop::Drain));
    dispatcher.handle(Event::Stop(Stop::Abort));
    let effects = dispatcher.handle(Event::Claimed { permit, bulk, result: Ok(Some(work(1))) });
    let [Effect::Run { halt, .. }] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!(halt.why(), Some(Why::Stopping));
}

#[test]
fn a_failed_claim_gives_its_permit_back() {
    let mut dispatcher = ready();
    let mut effects = dispatcher.handle(Event::Inbound(Inbound::Bell));
    let Some(Effect::Claim { permit, bulk }) = effects.pop() else { panic!() };
    dispatcher.handle(Event::Claimed { permit, bulk, result: Err(unavailable()) });
    dispatcher.handle(Event::Inbound(Inbound::Up));
    // The claim that `Up` asked for, and two more: all three slots are free.
    assert!(dispatcher.room().interactive);
}

#[test]
fn scaling_down_takes_effect_as_attempts_end() {
    let mut dispatcher = ready();
    let mut started = fill(&mut dispatcher, SLOTS);
    dispatcher.handle(Event::Inbound(Inbound::Control(Control::Scale { slots: Some(1) })));
    let (attempt, work, _) = started.pop().unwrap();
    let verdict = Verdict::Release { code: "x", crashed: false, past: None };
    let effects = dispatcher.handle(Event::Ended { attempt, lease: work.claimed.lease, verdict });
    assert!(matches!(effects.as_slice(), [Effect::Settle { claim_next: None, .. }]), "{effects:?}");
}

#[test]
fn what_waits_for_memory_takes_no_slot() {
    let (root, settings) = machine();
    let governor = Governor::governed(Probe::at(root.path()), settings, 2).unwrap();
    let live = governor.live().unwrap().clone();
    let mut dispatcher = begun(governor);
    fill(&mut dispatcher, SLOTS);
    assert!(!dispatcher.room().interactive);
    let ask = |markup| {
        live.ask(Asked {
            name: "acme/r".to_owned(),
            tenant: "acme".into(),
            features: Features { markup, ..Features::default() },
            bytes: markup,
            digest: None,
            alone: None,
            bulk: false,
        })
    };
    let (light, heavy) = (ask(1), ask(20 << 20));
    light.enter().unwrap();
    assert!(matches!(heavy.enter(), Err(Wait::Room { .. })));
    assert!(dispatcher.room().interactive);
    let effects = dispatcher.handle(Event::Room);
    assert!(matches!(effects.as_slice(), [Effect::Claim { .. }]), "{effects:?}");
    drop((light, heavy));
    assert!(!dispatcher.room().interactive);
}

#[test]
fn bulk_jobs_that_wait_for_memory_do_not_hold_up_other_bulk_jobs() {
    let (root, settings) = machine();
    let governor = Governor::governed(Probe::at(root.path()), settings, 2).unwrap();
    let live = governor.live().unwrap().clone();
    let mut dispatcher = begun(governor);
    fill_with(&mut dispatcher, Priority::Bulk, SLOTS - 1);
    assert!(!dispatcher.room().bulk);
    let ask = |markup, bulk| {
        live.ask(Asked {
            name: "acme/r".to_owned(),
            tenant: "acme".into(),
            features: Features { markup, ..Features::default() },
            bytes: markup,
            digest: None,
            alone: None,
            bulk,
        })
    };
    let (light, heavy) = (ask(1, true), ask(20 << 20, true));
    light.enter().unwrap();
    assert!(matches!(heavy.enter(), Err(Wait::Room { .. })));
    assert!(dispatcher.room().bulk);
    drop(heavy);
    let heavy = ask(20 << 20, false);
    assert!(matches!(heavy.enter(), Err(Wait::Room { .. })));
    assert!(!dispatcher.room().bulk, "that was no bulk job");
}

#[test]
fn what_has_not_begun_when_the_worker_drains_is_told() {
    let mut dispatcher = ready();
    let started = fill(&mut dispatcher, 1);
    assert!(!started[0].2.held().is_cancelled());
    dispatcher.handle(Event::Stop(Stop::Drain));
    assert!(started[0].2.held().is_cancelled() && started[0].2.why().is_none());
}

#[test]
fn however_many_bulk_jobs_wait_for_memory_an_interactive_one_can_be_claimed() {
    let (root, settings) = machine();
    let governor = Governor::governed(Probe::at(root.path()), settings, 2).unwrap();
    let live = governor.live().unwrap().clone();
    let mut dispatcher = begun(governor);
    let ask = |markup, bulk| {
        live.ask(Asked {
            name: "acme/r".to_owned(),
            tenant: "acme".into(),
            features: Features { markup, ..Features::default() },
            bytes: markup,
            digest: None,
            alone: None,
            bulk,
        })
    };
    let light = ask(1, false);
    light.enter().unwrap();
    let mut waiting = Vec::new();
    while dispatcher.room().bulk {
        let claimed = fill_bulk(&mut dispatcher);
        assert_eq!(claimed, 1, "{} wait", waiting.len());
        let heavy = ask(20 << 20, true);
        assert!(matches!(heavy.enter(), Err(Wait::Room { .. })));
        waiting.push(heavy);
        assert!(waiting.len() < 20, "there is no end");
    }
    // Two for each slot, and those that bulk may have.
    assert_eq!(waiting.len(), 3 * SLOTS - 1);
    assert!(dispatcher.room().interactive);
    let mut effects = dispatcher.handle(Event::Room);
    let Some(Effect::Claim { permit, bulk }) = effects.pop() else { panic!("{effects:?}") };
    assert!(!bulk);
    dispatcher.handle(Event::Claimed { permit, bulk, result: Ok(Some(work(99))) });
    assert_eq!(dispatcher.room(), Room::default());
}

/// Has one bulk job claimed, and no other.
fn fill_bulk(dispatcher: &mut Dispatcher) -> usize {
    let mut effects = dispatcher.handle(Event::Room);
    let mut claimed = 0;
    while let Some(effect) = effects.pop() {
        if let Effect::Claim { permit, bulk } = effect {
            let mut found = (claimed == 0 && bulk).then(|| work(0));
            if let Some(found) = &mut found {
                found.claimed.priority = Priority::Bulk;
                claimed += 1;
            }
            effects.extend(dispatcher.handle(Event::Claimed { permit, bulk, result: Ok(found) }));
        }
    }
    claimed
}
