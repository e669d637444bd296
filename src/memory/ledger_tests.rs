//! The ledger's rules, one by one.

use super::super::terms::Next;
use super::*;

const MIB: u64 = 1 << 20;
const LINES: Lines = Lines { keep: 100 * MIB, hard: 40 * MIB, growth: 10 * MIB };

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn ledger(free: u64) -> Ledger {
    let mut ledger = Ledger::new(Bounds::default(), LINES);
    look(&mut ledger, 0, free, &[]);
    ledger
}

fn look(ledger: &mut Ledger, ms: u64, free: u64, running: &[(u64, u64)]) -> Vec<Kill> {
    let running: Vec<_> = running.iter().map(|(job, mib)| (JobId(*job), mib * MIB)).collect();
    let sample = Sample { at: at(ms), free: free * MIB, own: 0, running: &running, idle: &[] };
    ledger.sample(&sample, at(100))
}

fn job(number: u64, predicted: u64) -> Request {
    Request {
        job: JobId(number),
        predicted: predicted * MIB,
        warm: None,
        aside: 0,
        alone: false,
        waited: Duration::ZERO,
    }
}

fn admit(ledger: &mut Ledger, number: u64, predicted: u64, ms: u64) -> bool {
    ledger.admit(&job(number, predicted), at(ms)).is_ok()
}

#[test]
fn a_job_is_let_in_only_if_its_prediction_leaves_the_reserve() {
    let mut ledger = ledger(500);
    assert_eq!(ledger.fits().now, u64::MAX, "where nothing runs, anything may");
    assert!(admit(&mut ledger, 1, 300, 1));
    assert_eq!(ledger.fits().now, 100 * MIB);
    let wait = ledger.admit(&job(2, 101), at(2)).unwrap_err();
    assert_eq!(
        wait,
        Wait::Room { needed: 101 * MIB, fits: 100 * MIB, short: MIB, idle: 0, next: false }
    );
    assert!(admit(&mut ledger, 2, 100, 2));
    assert!(!admit(&mut ledger, 3, 1, 3));
}

#[test]
fn what_a_job_uses_already_is_not_debited_twice() {
    let mut ledger = ledger(500);
    assert!(admit(&mut ledger, 1, 300, 1));
    assert!(look(&mut ledger, 25, 250, &[(1, 250)]).is_empty());
    assert_eq!(ledger.outstanding(), 50 * MIB);
    assert_eq!(ledger.fits().now, 100 * MIB);
    // It fell, and may rise again to what was predicted.
    look(&mut ledger, 50, 450, &[(1, 50)]);
    assert_eq!(ledger.fits().now, 100 * MIB);
}

#[test]
fn a_debit_ends_with_the_first_sample_begun_after_the_release() {
    let mut ledger = ledger(500);
    assert!(admit(&mut ledger, 1, 300, 1));
    look(&mut ledger, 25, 450, &[(1, 50)]);
    ledger.release(JobId(1), Left::Warm(ContextId(7)), None, at(40));
    assert_eq!(ledger.outstanding(), 250 * MIB, "it may have grown since it was seen");
    look(&mut ledger, 39, 440, &[]);
    assert_eq!(ledger.outstanding(), 250 * MIB, "this sample was begun before the release");
    look(&mut ledger, 41, 210, &[]);
    assert_eq!(ledger.outstanding(), 0);
    assert!(!admit(&mut ledger, 2, 300, 42), "the memory itself is not back yet");
}

#[test]
fn a_closing_renderer_is_debited_until_it_is_gone() {
    let mut ledger = ledger(500);
    assert!(admit(&mut ledger, 1, 300, 1));
    ledger.release(JobId(1), Left::Closing, None, at(10));
    look(&mut ledger, 25, 500, &[]);
    assert_eq!(ledger.outstanding(), 300 * MIB);
    assert!(!admit(&mut ledger, 2, 200, 26));
    ledger.gone(JobId(1), at(30));
    assert_eq!(ledger.outstanding(), 0);
    assert!(admit(&mut ledger, 2, 200, 31));
}

#[test]
fn a_renderer_whose_end_nobody_told_is_not_debited_for_ever() {
    let mut ledger = ledger(500);
    assert!(admit(&mut ledger, 1, 300, 1));
    ledger.release(JobId(1), Left::Closing, None, at(10));
    look(&mut ledger, 5_000, 500, &[]);
    assert!(!admit(&mut ledger, 2, 200, 5_001));
    look(&mut ledger, 5_025, 500, &[]);
    assert!(admit(&mut ledger, 2, 200, 5_026));
}

#[test]
fn a_renderer_that_is_to_be_killed_is_not_kept_where_its_job_ended_first() {
    let mut ledger = ledger(500);
    assert!(admit(&mut ledger, 1, 300, 1));
    look(&mut ledger, 25, 20, &[(1, 200)]);
    assert_eq!(ledger.victims(at(100), at(25)).len(), 1);
    ledger.release(JobId(1), Left::Warm(ContextId(1)), None, at(26));
    assert_eq!((ledger.idle_bytes(), ledger.outstanding()), (0, 100 * MIB));
    ledger.gone(JobId(1), at(30));
    assert_eq!(ledger.outstanding(), 0);
}

#[test]
fn a_warm_contexts_own_memory_is_not_asked_for_again() {
    let mut ledger = ledger(200);
    ledger.opened(ContextId(1), 60 * MIB);
    ledger.opened(ContextId(2), 60 * MIB);
    assert!(admit(&mut ledger, 9, 10, 1));
    let request = Request { warm: Some(ContextId(1)), ..job(1, 140) };
    assert!(ledger.admit(&request, at(1)).is_ok());
    assert_eq!((ledger.outstanding(), ledger.idle_bytes()), (90 * MIB, 60 * MIB));
}

#[test]
fn the_next_job_of_a_context_takes_over_what_the_last_one_left_open() {
    let mut ledger = ledger(300);
    assert!(admit(&mut ledger, 99, 10, 0));
    for number in 1..50 {
        let warm = (number > 1).then_some(ContextId(1));
        let request = Request { warm, ..job(number, 60) };
        assert!(ledger.admit(&request, at(number)).is_ok(), "receipt {number} in one sample");
        ledger.release(JobId(number), Left::Warm(ContextId(1)), None, at(number));
        assert_eq!(ledger.outstanding(), 70 * MIB);
    }
}

#[test]
fn the_operators_budget_counts_all_that_is_ours() {
    let bounds = Bounds { budget: Some(400 * MIB), kept: 20 * MIB };
    let mut ledger = Ledger::new(bounds, LINES);
    let sample = Sample { at: at(0), free: 5_000 * MIB, own: 130 * MIB, running: &[], idle: &[] };
    ledger.sample(&sample, at(100));
    assert_eq!(ledger.room(), 250 * 1024 * 1024);
    ledger.set_elsewhere(Elsewhere { promised: 4_830 * MIB, workers: 1, ..Elsewhere::default() });
    assert!(admit(&mut ledger, 1, 50, 1));
    assert!(!admit(&mut ledger, 2, 1, 1));
}

#[test]
fn what_outgrows_its_prediction_gets_more_while_memory_lasts() {
    let mut ledger = ledger(300);
    assert!(admit(&mut ledger, 1, 100, 1));
    assert!(look(&mut ledger, 1000, 190, &[(1, 110)]).is_empty());
    assert_eq!(ledger.outstanding(), 110 * MIB / 16, "a sixteenth ahead of what it uses");
    // The reserve is there for this; the hard line is not.
    assert!(look(&mut ledger, 2000, 70, &[(1, 130)]).is_empty());
    let kills = look(&mut ledger, 3000, 41, &[(1, 150)]);
    assert_eq!(kills.len(), 1, "2 MiB in 0.1 s, and 1 MiB is left above the line");
    let kill = kills[0];
    assert_eq!((kill.blame, kill.used, kill.predicted), (Blame::Document, 150 * MIB, 100 * MIB));
    assert_eq!(kill.next(), Next::Alone { predicted: 300 * MIB });
    assert!(look(&mut ledger, 3025, 35, &[(1, 160)]).is_empty(), "it is killed once");
}

#[test]
fn memory_promised_to_others_may_be_used_until_they_need_it() {
    let mut ledger = ledger(500);
    assert!(admit(&mut ledger, 1, 100, 1) && admit(&mut ledger, 2, 300, 1));
    look(&mut ledger, 1000, 400, &[(1, 90), (2, 10)]);
    assert!(look(&mut ledger, 2000, 240, &[(1, 250), (2, 10)]).is_empty());
    assert_eq!(ledger.fits().now, 0, "but nothing new is let in meanwhile");
    // The other one takes what it was promised: not the youngest goes, but who is beyond.
    look(&mut ledger, 3000, 80, &[(1, 250), (2, 170)]);
    assert!(look(&mut ledger, 3100, 35, &[(1, 250), (2, 190)]).is_empty());
    let kills = ledger.victims(at(100), at(3100));
    assert_eq!((kills.len(), kills[0].job, kills[0].blame), (1, JobId(1), Blame::Document));
}

#[test]
fn a_job_larger_than_everything_runs_alone_up_to_the_hard_line() {
    let mut ledger = ledger(500);
    assert_eq!(ledger.admit(&job(1, 2_000), at(0)), Ok(Admitted { alone: true }));
    assert_eq!(ledger.admit(&job(2, 1), at(1)), Err(Wait::Alone(JobId(1))));
    assert!(look(&mut ledger, 25, 60, &[(1, 440)]).is_empty());
    assert!(ledger.victims(at(100), at(25)).is_empty());
    look(&mut ledger, 50, 30, &[(1, 470)]);
    let kills = ledger.victims(at(100), at(50));
    assert_eq!((kills.len(), kills[0].blame), (1, Blame::Document));
    assert_eq!(kills[0].next(), Next::Exceeded);
    assert_eq!((kills[0].used, kills[0].budget), (470 * MIB, 460 * MIB));
}

#[test]
fn a_lone_job_whose_room_others_took_is_not_to_blame() {
    let mut ledger = ledger(500);
    assert!(ledger.admit(&Request { alone: true, ..job(1, 300) }, at(0)).is_ok());
    look(&mut ledger, 25, 30, &[(1, 200)]);
    let kills = ledger.victims(at(100), at(25));
    assert_eq!((kills[0].blame, kills[0].next()), (Blame::Neighbours, Next::Requeue));
}

#[test]
fn a_job_that_has_to_run_alone_waits_for_the_others_and_keeps_them_out() {
    let mut ledger = ledger(500);
    assert!(admit(&mut ledger, 1, 50, 0));
    let alone = Request { alone: true, ..job(2, 50) };
    assert_eq!(ledger.admit(&alone, at(1)), Err(Wait::Others(1)));
    let alone = Request { waited: DOOR_AFTER, ..alone };
    assert_eq!(ledger.admit(&alone, at(1)), Err(Wait::Others(1)));
    assert_eq!(ledger.admit(&job(3, 50), at(1)), Err(Wait::Door(JobId(2))));
    ledger.release(JobId(1), Left::Closing, None, at(2));
    ledger.gone(JobId(1), at(2));
    assert_eq!(ledger.admit(&alone, at(3)), Ok(Admitted { alone: true }));
}

#[test]
fn a_heavy_job_that_waited_long_closes_the_door_until_it_fits_or_gives_up() {
    let mut ledger = ledger(500);
    assert!(admit(&mut ledger, 1, 200, 0));
    let heavy = Request { waited: DOOR_AFTER, ..job(2, 300) };
    let wait = ledger.admit(&heavy, at(1)).unwrap_err();
    assert!(matches!(wait, Wait::Room { next: true, .. }), "{wait:?}");
    assert_eq!(ledger.admit(&job(3, 10), at(1)), Err(Wait::Door(JobId(2))));
    assert_eq!(ledger.fits().now, 0);
    ledger.withdraw(JobId(2));
    assert!(admit(&mut ledger, 3, 10, 2));
    assert!(ledger.admit(&heavy, at(3)).is_err());
    for number in [1, 3] {
        ledger.release(JobId(number), Left::Closing, None, at(4));
        ledger.gone(JobId(number), at(4));
    }
    assert_eq!(ledger.admit(&heavy, at(5)), Ok(Admitted { alone: false }));
    assert!(admit(&mut ledger, 4, 100, 5), "the door is open again");
}

#[test]
fn a_job_that_stopped_asking_holds_no_door() {
    let mut ledger = ledger(500);
    assert!(admit(&mut ledger, 1, 200, 0));
    let heavy = Request { waited: DOOR_AFTER, ..job(2, 300) };
    assert!(ledger.admit(&heavy, at(0)).is_err());
    assert!(!admit(&mut ledger, 3, 10, 1_000));
    assert!(admit(&mut ledger, 3, 10, 1_001));
}

#[test]
fn where_nothing_runs_one_is_let_in_but_not_below_the_hard_line() {
    let mut low = ledger(60);
    assert_eq!(low.admit(&job(1, 100), at(0)), Ok(Admitted { alone: true }));
    let mut lower = ledger(40);
    assert!(!admit(&mut lower, 1, 1, 0));
    // What idle contexts hold comes first.
    let mut idle = ledger(120);
    idle.opened(ContextId(1), 30 * MIB);
    let wait = idle.admit(&job(1, 100), at(0)).unwrap_err();
    assert!(matches!(wait, Wait::Room { idle, .. } if idle == 30 * MIB));
    assert_eq!(idle.to_close(80 * MIB, None, at(0)), [ContextId(1)]);
    assert!(!admit(&mut idle, 1, 100, 1), "what is being closed is not back yet");
    look(&mut idle, 100, 120, &[]);
    assert!(admit(&mut idle, 1, 100, 101));
}

#[test]
fn the_youngest_go_first_and_no_more_than_needed() {
    let mut ledger = ledger(1000);
    for number in 1..=4 {
        assert!(admit(&mut ledger, number, 100, number));
    }
    look(&mut ledger, 25, 600, &[(1, 100), (2, 100), (3, 100), (4, 100)]);
    look(&mut ledger, 50, 25, &[(1, 100), (2, 100), (3, 100), (4, 100)]);
    let kills = ledger.victims(at(100), at(50));
    assert_eq!(kills.iter().map(|kill| kill.job.0).collect::<Vec<_>>(), [4]);
    // Its memory is on the way: nobody else has to go for it.
    look(&mut ledger, 75, 30, &[(1, 100), (2, 100), (3, 100), (4, 100)]);
    assert!(ledger.victims(at(100), at(75)).is_empty());
    // Two that grow as fast as the first are not waited for.
    look(&mut ledger, 100, 18, &[(1, 90), (2, 90), (3, 90)]);
    look(&mut ledger, 125, 18, &[(1, 100), (2, 100), (3, 100)]);
    assert!(ledger.victims(at(100), at(125)).is_empty(), "they reached what was predicted");
    look(&mut ledger, 150, 5, &[(1, 100), (2, 100), (3, 100)]);
    assert!(!ledger.victims(at(100), at(150)).is_empty(), "too little for even one more step");
}

#[test]
fn idle_contexts_are_trimmed_once_and_closed_least_recently_used_first() {
    let mut ledger = ledger(500);
    for context in 1..=3 {
        ledger.opened(ContextId(context), 40 * MIB);
    }
    assert_eq!(ledger.to_trim().len(), 3);
    assert!(ledger.to_trim().is_empty());
    let request = Request { warm: Some(ContextId(1)), ..job(1, 60) };
    assert!(ledger.admit(&request, at(0)).is_ok());
    ledger.release(JobId(1), Left::Warm(ContextId(1)), None, at(1));
    assert_eq!(ledger.to_trim(), [ContextId(1)], "it was used since");
    let closed = ledger.to_close(50 * MIB, Some(ContextId(2)), at(2));
    assert_eq!(closed, [ContextId(3), ContextId(1)]);
}

#[test]
fn what_was_made_ready_ahead_is_closed_first() {
    let mut ledger = ledger(500);
    ledger.opened(ContextId(1), 40 * MIB);
    ledger.spare(ContextId(2), 40 * MIB);
    ledger.opened(ContextId(3), 40 * MIB);
    assert_eq!(ledger.to_close(50 * MIB, None, at(0)), [ContextId(2), ContextId(1)]);
}

#[test]
fn what_is_being_closed_is_not_closed_for_twice_nor_killed_for() {
    let mut ledger = ledger(400);
    for context in 1..=3 {
        ledger.opened(ContextId(context), 40 * MIB);
    }
    assert!(admit(&mut ledger, 1, 100, 0));
    look(&mut ledger, 25, 35, &[(1, 100)]);
    assert_eq!(ledger.to_close(30 * MIB, None, at(25)), [ContextId(1)]);
    assert!(ledger.to_close(40 * MIB, None, at(50)).is_empty());
    assert!(ledger.victims(at(100), at(50)).is_empty());
    // It did not come back.
    look(&mut ledger, 125, 35, &[(1, 100)]);
    assert_eq!(ledger.victims(at(100), at(125)).len(), 1);
}

#[test]
fn a_release_tells_the_peak_also_where_it_fell_between_two_samples() {
    let mut ledger = ledger(500);
    assert!(admit(&mut ledger, 1, 100, 0));
    look(&mut ledger, 25, 450, &[(1, 50)]);
    let closing = ledger.release(JobId(1), Left::Closing, Some(80 * MIB), at(30));
    assert_eq!(closing, Some(80 * MIB));
    assert_eq!(ledger.release(JobId(5), Left::Closing, None, at(30)), None);
}

#[test]
fn a_job_that_lost_the_context_kept_for_it_grows_from_nothing() {
    let mut ledger = ledger(300);
    ledger.opened(ContextId(1), 60 * MIB);
    let request = Request { warm: Some(ContextId(1)), ..job(1, 90) };
    assert!(ledger.admit(&request, at(0)).is_ok());
    assert!(look(&mut ledger, 25, 300, &[(1, 60)]).is_empty());
    assert_eq!(ledger.outstanding(), 30 * MIB);
    ledger.moved(JobId(1));
    assert_eq!(ledger.outstanding(), 90 * MIB);
    look(&mut ledger, 50, 300, &[(1, 60)]);
    assert_eq!(ledger.fastest(), 0, "another process is not a fast one");
    ledger.release(JobId(1), Left::Closing, None, at(60));
    ledger.moved(JobId(1));
    assert_eq!(ledger.outstanding(), 30 * MIB, "what has ended stays as it was");
}

#[test]
fn what_the_worker_holds_for_a_job_is_promised_until_its_pdf_is_settled() {
    let mut ledger = ledger(500);
    assert!(admit(&mut ledger, 1, 50, 1));
    let with = |aside: u64| Request { aside: aside * MIB, ..job(2, 250) };
    let wait = ledger.admit(&with(101), at(1)).unwrap_err();
    assert!(matches!(wait, Wait::Room { needed, short: MIB, .. } if needed == 351 * MIB), "{wait}");
    assert!(ledger.admit(&with(100), at(1)).is_ok());
    assert_eq!((ledger.outstanding(), ledger.fits().now), (400 * MIB, 0));
    // A renderer that has all that it was to have leaves it untouched.
    look(&mut ledger, 25, 200, &[(1, 50), (2, 250)]);
    assert_eq!(ledger.outstanding(), 100 * MIB);
    ledger.set_aside(60 * MIB);
    ledger.printed(JobId(2));
    assert_eq!(ledger.outstanding(), 60 * MIB);
    ledger.release(JobId(2), Left::Closing, None, at(30));
    ledger.gone(JobId(2), at(40));
    look(&mut ledger, 50, 450, &[(1, 50)]);
    assert_eq!((ledger.outstanding(), ledger.fits().now), (60 * MIB, 290 * MIB));
    ledger.set_aside(0);
    assert_eq!(ledger.fits().now, 350 * MIB);
}

#[test]
fn a_lone_job_that_leaves_no_room_for_its_pdf_is_to_blame() {
    let blame = |aside| {
        let mut ledger = ledger(500);
        let request = Request { alone: true, aside, ..job(1, 900) };
        assert!(ledger.admit(&request, at(1)).is_ok());
        look(&mut ledger, 25, 45, &[(1, 400)]);
        look(&mut ledger, 50, 30, &[(1, 400)]);
        let kills = ledger.victims(at(100), at(50));
        assert_eq!((kills[0].kept, kills[0].budget), (aside, 460 * MIB));
        kills[0].blame
    };
    assert_eq!(blame(0), Blame::Neighbours);
    assert_eq!(blame(60 * MIB), Blame::Document);
}
