//! Decisions about jobs that run alone, the slot kept from bulk, cancelling, and
//! what stops claims.

use super::super::event::Verdict;
use super::tests::{fill, ready, settle, unavailable, work};
use super::*;
use crate::queue::Lease;

/// A job that was there so often when a worker or browser died.
fn crashed(number: usize, crashes: u32) -> Work {
    let mut work = work(number);
    work.claimed.crashes = crashes;
    work
}

fn bulk(number: usize) -> Work {
    let mut work = work(number);
    work.claimed.priority = Priority::Bulk;
    work
}

/// One claim asked for by a bell.
fn claim(dispatcher: &mut Dispatcher) -> (Permit, Bulk) {
    let mut effects = dispatcher.handle(Event::Inbound(Inbound::Bell));
    let Some(Effect::Claim { permit, bulk }) = effects.pop() else { panic!("{effects:?}") };
    assert!(effects.is_empty(), "{effects:?}");
    (permit, bulk)
}

/// Brings a job to a claim that is under way; what is wanted besides more claims.
fn bring(dispatcher: &mut Dispatcher, (permit, bulk): (Permit, Bulk), work: Work) -> Vec<Effect> {
    let mut effects = Vec::new();
    let mut wanted = dispatcher.handle(Event::Claimed { permit, bulk, result: Ok(Some(work)) });
    while let Some(effect) = wanted.pop() {
        match effect {
            Effect::Claim { permit, bulk } => {
                wanted.extend(dispatcher.handle(Event::Claimed { permit, bulk, result: Ok(None) }));
            }
            other => effects.push(other),
        }
    }
    effects
}

fn runs(effects: &[Effect]) -> Vec<(AttemptId, String, Halt)> {
    let run = |effect: &Effect| match effect {
        Effect::Run { attempt, work, halt } => {
            Some((*attempt, work.claimed.lease.name().id().to_owned(), halt.clone()))
        }
        _ => None,
    };
    effects.iter().filter_map(run).collect()
}

fn names(effects: &[Effect]) -> Vec<String> {
    runs(effects).into_iter().map(|(_, name, _)| name).collect()
}

fn claims(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Claim { .. })).count()
}

fn cancel(token: &str) -> Event {
    let (job, token) = ("acme/r".to_owned(), token.to_owned());
    Event::Inbound(Inbound::Control(Control::Cancel { job, token }))
}

fn ended(dispatcher: &mut Dispatcher, attempt: AttemptId, token: &str) -> Option<Bulk> {
    let lease = Lease::for_tests("acme/r", token);
    let verdict = Verdict::Release { code: "x", crashed: false, past: None };
    let effects = dispatcher.handle(Event::Ended { attempt, lease, verdict });
    let [Effect::Settle { claim_next, .. }] = effects.as_slice() else { panic!("{effects:?}") };
    *claim_next
}

#[test]
fn a_job_that_crashed_twice_waits_for_the_others_and_nothing_starts_beside_it() {
    for crashes in [2, 3] {
        let mut dispatcher = ready();
        let others = fill(&mut dispatcher, 2);
        let under_way = claim(&mut dispatcher);
        assert!(bring(&mut dispatcher, under_way, crashed(7, crashes)).is_empty());
        assert_eq!(dispatcher.running(), 3);
        // Its lease is kept, and nobody joins the queue before it.
        assert!(!dispatcher.room().interactive);
        assert!(dispatcher.handle(Event::Inbound(Inbound::Bell)).is_empty());
        let Some(Effect::Beat(leases)) = dispatcher.beat() else { panic!() };
        assert!(leases.iter().any(|(_, token)| token == "t-7"));
        assert_eq!(ended(&mut dispatcher, others[0].0, "t-0"), None);
        assert!(settle(&mut dispatcher, others[0].0, None).is_empty());
        let effects = settle(&mut dispatcher, others[1].0, None);
        assert_eq!((names(&effects), claims(&effects)), (vec!["r-7".to_owned()], 0));
        // While it runs, and while it is settled.
        assert!(!dispatcher.room().interactive);
        let (alone, ..) = runs(&effects)[0];
        assert_eq!(ended(&mut dispatcher, alone, "t-7"), None);
        assert!(!dispatcher.room().interactive);
        assert_eq!(claims(&settle(&mut dispatcher, alone, None)), 1);
    }
}

#[test]
fn a_job_that_crashed_once_runs_beside_others() {
    let mut dispatcher = ready();
    fill(&mut dispatcher, 1);
    let under_way = claim(&mut dispatcher);
    assert_eq!(names(&bring(&mut dispatcher, under_way, crashed(7, 1))), ["r-7"]);
}

#[test]
fn what_a_claim_brings_while_one_runs_alone_waits_for_its_end() {
    let mut dispatcher = ready();
    let first = claim(&mut dispatcher);
    let (done, _) = tokio::sync::oneshot::channel();
    let inbox = Priority::Interactive;
    let element = Inbound::Element { inbox, turn: 1, element: Vec::new(), done };
    let mut offer = dispatcher.handle(Event::Inbound(element));
    let Some(Effect::Offer { permit, bulk, .. }) = offer.pop() else { panic!() };
    let effects = bring(&mut dispatcher, first, crashed(1, 2));
    let (alone, ..) = runs(&effects)[0];
    // The offer was under way before anybody knew.
    let claimed = Some(work(2));
    assert!(dispatcher.handle(Event::Offered { permit, bulk, claimed, failed: None }).is_empty());
    assert_eq!(names(&settle(&mut dispatcher, alone, None)), ["r-2"]);
}

#[test]
fn the_end_of_a_stopped_one_starts_nothing_beside_the_one_that_runs_alone() {
    let mut dispatcher = ready();
    let first = claim(&mut dispatcher);
    let mut offers = Vec::new();
    for turn in 1..=2 {
        let (done, _) = tokio::sync::oneshot::channel();
        let inbox = Priority::Interactive;
        let element = Inbound::Element { inbox, turn, element: Vec::new(), done };
        offers.extend(dispatcher.handle(Event::Inbound(element)));
    }
    let effects = bring(&mut dispatcher, first, crashed(1, 2));
    let (alone, ..) = runs(&effects)[0];
    for (offer, number) in offers.into_iter().zip([2, 3]) {
        let Effect::Offer { permit, bulk, .. } = offer else { panic!() };
        let claimed = Some(work(number));
        dispatcher.handle(Event::Offered { permit, bulk, claimed, failed: None });
    }
    let effects = dispatcher.handle(cancel("t-2"));
    let (stopped, ..) = runs(&effects)[0];
    assert!(settle(&mut dispatcher, stopped, None).is_empty(), "r-3 runs beside r-1");
    assert_eq!(names(&settle(&mut dispatcher, alone, None)), ["r-3"]);
}

#[test]
fn two_that_must_be_alone_run_one_after_the_other() {
    let mut dispatcher = ready();
    let others = fill(&mut dispatcher, 1);
    let under_way = claim(&mut dispatcher);
    bring(&mut dispatcher, under_way, crashed(1, 2));
    // A settlement that was under way brings another one.
    let effects = settle(&mut dispatcher, others[0].0, Some(crashed(2, 2)));
    assert_eq!(runs(&effects).len(), 1, "{effects:?}");
    let (first, name, _) = runs(&effects).remove(0);
    let effects = settle(&mut dispatcher, first, None);
    assert_eq!(runs(&effects).len(), 1, "{effects:?}");
    let (second, other, _) = runs(&effects).remove(0);
    assert_ne!(name, other);
    assert_eq!(claims(&effects), 0);
    assert_eq!(claims(&settle(&mut dispatcher, second, None)), 1);
    assert_eq!(dispatcher.running(), 0);
}

#[test]
fn a_parked_job_that_is_stopped_ends_at_once() {
    let mut dispatcher = ready();
    fill(&mut dispatcher, 1);
    let under_way = claim(&mut dispatcher);
    bring(&mut dispatcher, under_way, crashed(7, 2));
    let effects = dispatcher.handle(cancel("t-7"));
    let (_, name, halt) = runs(&effects).remove(0);
    assert_eq!((name.as_str(), halt.why()), ("r-7", Some(Why::Cancelled)));
    // Once is enough.
    assert!(dispatcher.handle(cancel("t-7")).is_empty());

    let mut dispatcher = ready();
    let others = fill(&mut dispatcher, 1);
    let under_way = claim(&mut dispatcher);
    bring(&mut dispatcher, under_way, crashed(7, 2));
    dispatcher.handle(Event::Stop(Stop::Drain));
    let effects = dispatcher.handle(Event::Stop(Stop::Abort));
    let (_, name, halt) = runs(&effects).remove(0);
    assert_eq!((name.as_str(), halt.why()), ("r-7", Some(Why::Stopping)));
    assert_eq!(others[0].2.why(), Some(Why::Stopping));
}

#[test]
fn a_parked_job_is_finished_by_a_worker_that_drains() {
    let mut dispatcher = ready();
    let others = fill(&mut dispatcher, 1);
    let under_way = claim(&mut dispatcher);
    bring(&mut dispatcher, under_way, crashed(7, 2));
    dispatcher.handle(Event::Stop(Stop::Drain));
    let effects = settle(&mut dispatcher, others[0].0, None);
    let (alone, name, halt) = runs(&effects).remove(0);
    assert_eq!((name.as_str(), halt.why()), ("r-7", None));
    assert_eq!(dispatcher.phase(), Phase::Draining);
    let effects = settle(&mut dispatcher, alone, None);
    assert!(matches!(effects.as_slice(), [Effect::Finish]), "{effects:?}");
}

#[test]
fn what_ends_unrendered_needs_not_be_alone() {
    let mut dispatcher = ready();
    fill(&mut dispatcher, 1);
    let mut cancelled = crashed(7, 2);
    cancelled.claimed.cancelled = true;
    let under_way = claim(&mut dispatcher);
    let effects = bring(&mut dispatcher, under_way, cancelled);
    assert_eq!(runs(&effects)[0].2.why(), Some(Why::Cancelled));
    let mut expired = crashed(8, 2);
    expired.claimed.expired = true;
    let under_way = claim(&mut dispatcher);
    assert_eq!(names(&bring(&mut dispatcher, under_way, expired)), ["r-8"]);
}

#[test]
fn one_of_three_slots_is_kept_from_bulk() {
    let mut dispatcher = ready();
    let mut started = Vec::new();
    for number in 0..2 {
        let under_way = claim(&mut dispatcher);
        assert!(under_way.1, "bulk job {number}");
        started.extend(runs(&bring(&mut dispatcher, under_way, bulk(number))));
    }
    assert_eq!(dispatcher.room(), Room { interactive: true, bulk: false });
    let under_way = claim(&mut dispatcher);
    assert!(!under_way.1);
    let effects = bring(&mut dispatcher, under_way, work(2));
    let (interactive, ..) = runs(&effects).remove(0);
    assert_eq!(dispatcher.room(), Room::default());

    // A bulk job's end may bring the next bulk job, an interactive one's may not.
    assert_eq!(ended(&mut dispatcher, interactive, "t-2"), Some(false));
    assert_eq!(ended(&mut dispatcher, started[0].0, "t-0"), Some(true));
    // While that is asked for, the other one's end still counts its own slot only.
    assert_eq!(ended(&mut dispatcher, started[1].0, "t-1"), Some(true));
    settle(&mut dispatcher, started[0].0, Some(bulk(3)));
    settle(&mut dispatcher, started[1].0, Some(bulk(4)));
    let effects = settle(&mut dispatcher, interactive, None);
    let [Effect::Claim { bulk, .. }] = effects.as_slice() else { panic!("{effects:?}") };
    assert!(!bulk, "two of three are bulk");
}

#[test]
fn claims_under_way_count_as_the_bulk_that_they_may_bring() {
    let mut dispatcher = ready();
    let mut offered = Vec::new();
    for turn in 1..=3 {
        let (done, _) = tokio::sync::oneshot::channel();
        let inbox = Priority::Bulk;
        let element = Inbound::Element { inbox, turn, element: Vec::new(), done };
        let mut effects = dispatcher.handle(Event::Inbound(element));
        let Some(Effect::Offer { bulk, permit, .. }) = effects.pop() else { panic!() };
        offered.push((bulk, permit.is_some()));
    }
    assert_eq!(offered, [(true, true), (true, true), (false, true)]);
}

#[test]
fn a_single_slot_is_not_kept_from_bulk() {
    let mut dispatcher = ready();
    dispatcher.handle(Event::Inbound(Inbound::Control(Control::Scale { slots: Some(1) })));
    // The claim that scaling asked for is still under way.
    assert!(dispatcher.room() == Room::default() || dispatcher.room().bulk);
    assert!(dispatcher.bulk_fits(None));
}

#[test]
fn a_cancelled_attempt_is_halted_by_message_or_by_heartbeat() {
    let mut dispatcher = ready();
    let started = fill(&mut dispatcher, 3);
    let why = |token: &str| {
        let found = started.iter().find(|(_, work, _)| work.claimed.lease.token() == token);
        found.unwrap().2.why()
    };
    assert!(dispatcher.handle(cancel("t-1")).is_empty());
    assert_eq!(why("t-1"), Some(Why::Cancelled));
    // One that is not here (any more) is nobody's.
    assert!(dispatcher.handle(cancel("t-9")).is_empty());
    let cancelled = vec!["t-2".to_owned()];
    dispatcher.handle(Event::Beat(Ok(Renewed { cancelled, ..Renewed::default() })));
    assert_eq!(why("t-2"), Some(Why::Cancelled));
    assert_eq!(why("t-0"), None);
    // The first reason stands.
    let lost = vec!["t-2".to_owned()];
    dispatcher.handle(Event::Beat(Ok(Renewed { lost, ..Renewed::default() })));
    assert_eq!(why("t-2"), Some(Why::Cancelled));
}

#[test]
fn a_hindrance_stops_claims_and_its_end_starts_them() {
    let mut dispatcher = ready();
    let started = fill(&mut dispatcher, 1);
    let kept = |paused: Option<&str>| {
        Event::Housekept(Ok(Housekept {
            paused: paused.map(str::to_owned),
            ..Housekept::default()
        }))
    };
    for why in ["paused", "results_held"] {
        assert!(dispatcher.handle(kept(Some(why))).is_empty());
        assert!(dispatcher.hindrance().is_some());
        assert_eq!(dispatcher.room(), Room::default());
        assert!(dispatcher.handle(Event::Inbound(Inbound::Bell)).is_empty());
        assert_eq!(ended(&mut dispatcher, started[0].0, "t-0"), None, "nothing follows");
        assert!(dispatcher.redis().is_ok());
        let effects = dispatcher.handle(kept(None));
        assert_eq!((claims(&effects), effects.len()), (1, 1));
        for effect in effects {
            let Effect::Claim { permit, bulk } = effect else { panic!() };
            dispatcher.handle(Event::Claimed { permit, bulk, result: Ok(None) });
        }
    }
}

#[test]
fn overdue_jobs_are_ended_before_the_worker_stops() {
    let mut dispatcher = ready();
    let overdue = vec![work(1).claimed];
    let kept = Housekept { overdue, ..Housekept::default() };
    let effects = dispatcher.handle(Event::Housekept(Ok(kept)));
    let [Effect::Expire(jobs)] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!(jobs.len(), 1);
    let effects = dispatcher.handle(Event::Stop(Stop::Drain));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Finish)), "{effects:?}");
    let effects = dispatcher.handle(Event::Expired);
    assert!(matches!(effects.as_slice(), [Effect::Finish]), "{effects:?}");
}

#[test]
fn only_a_success_says_that_redis_is_back() {
    let successes: [fn() -> Event; 3] = [
        || Event::Beat(Ok(Renewed::default())),
        || Event::Housekept(Ok(Housekept::default())),
        || Event::Inbound(Inbound::Up),
    ];
    for success in successes {
        let mut dispatcher = ready();
        let started = fill(&mut dispatcher, 1);
        dispatcher.handle(Event::Beat(Err(unavailable())));
        let others = [
            Event::Renderer(Ok(())),
            Event::Measured(1),
            Event::Expired,
            cancel("t-0"),
            Event::Housekept(Err(unavailable())),
            Event::Counted(Err(unavailable())),
        ];
        dispatcher.pending += 1;
        for event in others {
            dispatcher.handle(event);
            assert!(dispatcher.redis().is_err());
            assert_eq!(dispatcher.room(), Room::default());
        }
        assert_eq!(ended(&mut dispatcher, started[0].0, "t-0"), None);
        dispatcher.handle(success());
        assert!(dispatcher.redis().is_ok());
    }
}

#[test]
fn a_bell_that_rings_while_a_claim_is_under_way_is_not_forgotten() {
    let mut dispatcher = ready();
    let (permit, bulk) = claim(&mut dispatcher);
    assert!(dispatcher.handle(Event::Inbound(Inbound::Bell)).is_empty());
    let effects = dispatcher.handle(Event::Claimed { permit, bulk, result: Ok(None) });
    assert_eq!(claims(&effects), 1, "it had looked before the bell rang");
    for effect in effects {
        let Effect::Claim { permit, bulk } = effect else { panic!() };
        assert!(dispatcher.handle(Event::Claimed { permit, bulk, result: Ok(None) }).is_empty());
    }
}
