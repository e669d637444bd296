//! The control's decisions, sample by sample.

use super::super::terms::Next;
use super::*;

const MIB: u64 = 1 << 20;

#[test]
fn a_job_whose_context_has_all_it_needs_makes_room_for_the_reserve() {
    let now = Duration::ZERO;
    let policy = Policy {
        bounds: Bounds::default(),
        floor: 128 * MIB,
        cores: 1,
        most: 2,
        reaction: Duration::from_millis(50),
        back: Duration::from_millis(100),
    };
    let mut control = Control::new(&policy);
    for context in 1..=3 {
        control.opened(ContextId(context), 70 * MIB);
    }
    let free = 140 * MIB;
    let sample = Sample { at: now, free, own: 0, running: &[], idle: &[] };
    control.sample(&sample, None);
    let warm = Some(ContextId(1));
    let job = JobId(1);
    let request =
        Request { job, predicted: 60 * MIB, warm, aside: 0, alone: false, waited: Duration::ZERO };
    let wait = control.admit(&request, now).unwrap_err();
    assert!(matches!(wait, Wait::Room { needed: 0, fits: 0, .. }), "{wait:?}");
    assert_eq!(control.make_room(&wait, warm, now), [Order::Close(ContextId(2))]);
    assert!(control.make_room(&wait, warm, now).is_empty(), "once is enough");
}

#[test]
fn after_a_lone_job_was_killed_the_next_is_let_in_as_soon_as_its_memory_is_back() {
    let at = Duration::from_millis;
    let policy = Policy {
        bounds: Bounds::default(),
        floor: 128 * MIB,
        cores: 1,
        most: 2,
        reaction: at(50),
        back: at(100),
    };
    let mut control = Control::new(&policy);
    let job = JobId(1);
    let sample = |control: &mut Control, ms, free: u64, used: &[(JobId, u64)]| {
        let own = used.iter().map(|(_, used)| used).sum();
        let (free, running) = (free * MIB, used);
        control.sample(&Sample { at: at(ms), free, own, running, idle: &[] }, None)
    };
    sample(&mut control, 0, 700, &[]);
    let request = |job| Request {
        job,
        predicted: 900 * MIB,
        warm: None,
        aside: 0,
        alone: false,
        waited: Duration::ZERO,
    };
    assert_eq!(control.admit(&request(job), at(0)), Ok(Admitted { alone: true }));
    sample(&mut control, 25, 400, &[(job, 300 * MIB)]);
    let orders = sample(&mut control, 50, 30, &[(job, 670 * MIB)]);
    let killed =
        |order: &Order| matches!(order, Order::Kill(kill) if kill.blame == Blame::Document);
    assert!(orders.iter().any(killed), "{orders:?}");
    control.release(job, Left::Closing, None, at(60));
    control.gone(job, at(70));
    let mut pressure = Vec::new();
    for ms in (75..700).step_by(25) {
        sample(&mut control, ms, 700, &[]);
        pressure.push((ms, control.standing().pressure));
    }
    let calm = pressure.iter().find(|(_, pressure)| *pressure == Pressure::Nominal);
    assert!(calm.is_some_and(|(ms, _)| *ms <= 550), "{pressure:?}");
}

#[test]
fn a_lone_job_beside_a_neighbour_that_holds_much_runs_again_later() {
    let at = Duration::from_millis;
    let policy = Policy {
        bounds: Bounds::default(),
        floor: 128 * MIB,
        cores: 1,
        most: 2,
        reaction: at(50),
        back: at(100),
    };
    let killed = |free_before: u64| {
        let mut control = Control::new(&policy);
        let sample = |control: &mut Control, ms, free: u64, used: &[(JobId, u64)]| {
            let own = used.iter().map(|(_, used)| used).sum();
            let (free, running) = (free * MIB, used);
            control.sample(&Sample { at: at(ms), free, own, running, idle: &[] }, None)
        };
        for ms in (0..3_000).step_by(25) {
            sample(&mut control, ms, free_before, &[]);
        }
        for ms in (3_000..9_000).step_by(25) {
            sample(&mut control, ms, 700, &[]);
        }
        let job = JobId(1);
        let request = Request {
            job,
            predicted: 900 * MIB,
            warm: None,
            aside: 0,
            alone: true,
            waited: Duration::from_secs(60),
        };
        assert_eq!(control.admit(&request, at(9_000)), Ok(Admitted { alone: true }));
        sample(&mut control, 9_025, 400, &[(job, 300 * MIB)]);
        let orders = sample(&mut control, 9_050, 30, &[(job, 670 * MIB)]);
        let kill = orders.iter().find_map(|order| match order {
            Order::Kill(kill) => Some(*kill),
            _ => None,
        });
        kill.expect("it is killed").next()
    };
    assert_eq!(killed(2_000), Next::Later, "there was much more before the neighbour came");
    assert_eq!(killed(720), Next::Exceeded);
}
#[test]
fn a_neighbours_steps_are_learned_also_while_memory_of_ours_is_on_its_way_back() {
    let at = Duration::from_millis;
    let policy = Policy {
        bounds: Bounds::default(),
        floor: 128 * MIB,
        cores: 1,
        most: 2,
        reaction: at(50),
        back: at(100),
    };
    // Each 200 ms a renderer is killed, whose 200 MB are back 100 ms later; another
    // grows as much meanwhile. A neighbour takes so much each 600 ms.
    let learned = |step: u64| {
        let mut control = Control::new(&policy);
        let keep = |control: &Control| control.standing().reserve;
        let mut kept = 0;
        for ms in (0..3_000).step_by(25) {
            let own = if ms % 200 < 100 { 300 } else { 300 + 2 * (ms % 200 - 100) };
            let back = if ms % 200 < 100 { 200 - 2 * (ms % 200) } else { 0 };
            let free = 3_000 - own - back - step * (ms / 600);
            let (free, own) = (free * MIB, own * MIB);
            let sample = Sample { at: at(ms), free, own, running: &[], idle: &[] };
            if ms == 0 {
                control.sample(&sample, None);
                kept = keep(&control);
            } else {
                control.sample_unsettled(&sample, None);
            }
        }
        keep(&control).saturating_sub(kept) / MIB
    };
    assert_eq!(learned(0), 0, "what is on its way back is nobody's doing");
    let learned = learned(150);
    assert!((100..=320).contains(&learned), "{learned} MiB");
}

#[test]
fn that_another_limit_is_the_tightest_now_is_nobodys_doing() {
    let at = Duration::from_millis;
    let policy = Policy {
        bounds: Bounds::default(),
        floor: 0,
        cores: 1,
        most: 2,
        reaction: at(50),
        back: at(100),
    };
    let mut control = Control::new(&policy);
    let mut look = |ms, free: u64, before: u64, used: u64| {
        let (before, used) = (before * MIB, used * MIB);
        control.set_elsewhere(Elsewhere { workers: 1, used, before, ..Elsewhere::default() });
        let sample = Sample { at: at(ms), free: free * MIB, own: 0, running: &[], idle: &[] };
        control.sample(&sample, None);
        control.standing().reserve / MIB
    };
    let kept = look(0, 500, 0, 0);
    // Of the limit above, others use 400; then it is our own again.
    assert_eq!(look(25, 500, 0, 400), kept);
    assert_eq!(look(50, 500, 400, 400), kept);
    assert_eq!(look(75, 500, 400, 0), kept);
    // What a neighbour takes at that moment is seen all the same.
    assert_eq!(look(100, 380, 0, 400), kept + 120);
}

#[test]
fn what_is_promised_to_a_lone_job_is_what_there_is_for_it() {
    let (now, limit, floor) = (Duration::ZERO, 500 * MIB, 128 * MIB);
    let bounds = Bounds { budget: Some(limit + floor / 4), kept: 0 };
    let (reaction, back) = (Duration::from_millis(50), Duration::from_millis(100));
    let policy = Policy { bounds, floor, cores: 1, most: 2, reaction, back };
    let mut control = Control::new(&policy);
    let own = 150 * MIB;
    control.sample(&Sample { at: now, free: 9000 * MIB, own, running: &[], idle: &[] }, None);
    let (predicted, waited) = (2400 * MIB, Duration::ZERO);
    let request = Request { job: JobId(1), predicted, aside: 0, warm: None, alone: false, waited };
    assert_eq!(control.admit(&request, now), Ok(Admitted { alone: true }));
    let ledger = control.standing();
    let shown = ledger.within(limit, own, 0);
    assert!(shown.outstanding <= limit - own, "{shown:?}");
    assert!(control.outstanding() < 9000 * MIB / 10, "others are told the same");
    // In the operator's terms: never more than the limit, and what compares compares still.
    assert_eq!(shown.free, i64::try_from(limit - own).unwrap());
    let headroom = |of: &Standing| of.free - i64::try_from(of.reserve).unwrap();
    assert_eq!(headroom(&shown), headroom(&ledger));
    let wide = ledger.within(20_000 * MIB, own, 0);
    assert_eq!((wide.free, wide.reserve), (ledger.free, ledger.reserve));
}

#[test]
fn at_ease_is_who_has_room_for_a_surge_on_every_core_beyond_all_promises() {
    let at = Duration::from_millis;
    let bounds = Bounds::default();
    let policy =
        Policy { bounds, floor: 128 * MIB, cores: 2, most: 2, reaction: at(50), back: at(100) };
    // Twice 1,050 MB/s for 100 ms.
    let surge = 210_000_000;
    let seen = |free: u64| {
        let mut control = Control::new(&policy);
        control.sample(&Sample { at: at(0), free, own: 0, running: &[], idle: &[] }, None);
        control
    };
    let keep = seen(0).standing().reserve;
    let eases = |control: &Control, fallen| control.is_at_ease(fallen, at(100));
    assert!(eases(&seen(keep + surge), 0) && !eases(&seen(keep + surge - 1), 0));
    assert!(!eases(&seen(keep + surge), 1), "what has fallen since is gone");
    let mut control = seen(keep + surge + 100 * MIB);
    let request = |predicted, alone| Request {
        job: JobId(1),
        predicted,
        warm: None,
        aside: 0,
        alone,
        waited: Duration::ZERO,
    };
    control.admit(&request(100 * MIB, false), at(0)).unwrap();
    assert!(eases(&control, 0) && !eases(&control, 1), "what is promised is as good as gone");
    let mut control = seen(4 << 30);
    control.set_elsewhere(Elsewhere { workers: 1, ..Elsewhere::default() });
    assert!(!eases(&control, 0), "another worker counts on fresh figures");
    control.set_elsewhere(Elsewhere::default());
    assert!(eases(&control, 0));
    control.admit(&request(100 * MIB, true), at(0)).unwrap();
    assert!(!eases(&control, 0), "a lone job has all there is");
}
