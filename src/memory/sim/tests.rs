//! What the governor promises, on many machines that never were.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use super::policy::Flaw;
use super::*;

const GIB: u64 = 1 << 30;

/// The same cases each time: a failure here is a failure everywhere.
fn check<S: Strategy>(cases: u32, seed: u8, strategy: &S, test: impl Fn(S::Value)) {
    let config =
        Config { cases, failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let outcome = TestRunner::new_with_rng(config, random).run(strategy, |value| {
        test(value);
        Ok(())
    });
    match outcome {
        Ok(()) => {}
        // Not the scenario itself: it is thousands of lines, and comes again with the seed.
        Err(TestError::Fail(reason, _)) => panic!("{reason}"),
        Err(error) => panic!("{error}"),
    }
}

/// A job, and by how much its prediction is off, in percent.
fn job(
    peak: std::ops::Range<u64>,
    off: std::ops::RangeInclusive<u64>,
) -> impl Strategy<Value = Job> {
    (0u8..6, peak, off, 20u64..1500, 5u64..100).prop_map(|(tenant, peak, off, work, ramp)| Job {
        tenant,
        peak: peak * MIB,
        predicted: peak * MIB * 100 / off,
        // A large document takes its time.
        work: work.max(peak * 2),
        ramp,
    })
}

/// Receipts, invoices, and now and then a heavy report; predictions up to three times off.
fn any_job() -> impl Strategy<Value = Job> {
    let off = 40..=300;
    prop_oneof![
        12 => job(40..90, off.clone()),
        3 => job(90..250, off.clone()),
        1 => job(250..700, off),
    ]
}

/// Neighbours whose steps stay below the floor, which is what it is for.
fn neighbours(floor: u64) -> impl Strategy<Value = Vec<Neighbour>> {
    let step = (0u64..30_000, 1_000u64..20_000, 1..=floor / MIB * 3 / 4);
    let ramp = (0u64..20_000, 5_000u64..30_000, 5u64..50, 100u64..600);
    let one = prop_oneof![
        Just(Neighbour::Steady(0)),
        step.prop_map(|(from, lasts, mib)| Neighbour::Step {
            from,
            until: from + lasts,
            bytes: mib * MIB
        }),
        ramp.prop_map(|(from, lasts, speed, most)| Neighbour::Ramp {
            from,
            until: from + lasts,
            bytes: speed * MIB,
            most: most * MIB
        }),
        (500u64..8_000, 1..=floor / MIB * 3 / 4)
            .prop_map(|(period, mib)| Neighbour::Saw { period, bytes: mib * MIB }),
    ];
    one.prop_map(|neighbour| vec![neighbour])
}

fn machines() -> impl Strategy<Value = Scenario> {
    (1u64..=4, 1usize..=4, any::<u64>()).prop_flat_map(|(size, cores, seed)| {
        let capacity = size * GIB;
        let floor = (128 * MIB).max(capacity / 12);
        let jobs = prop::collection::vec(any_job(), 60..160);
        (neighbours(floor), jobs).prop_map(move |(neighbours, jobs)| Scenario {
            capacity,
            cores,
            most: 16,
            floor,
            budget: None,
            neighbours,
            jobs,
            horizon: 400_000,
            seed,
        })
    })
}

#[test]
fn memory_is_never_overrun_and_no_job_starves() {
    check(48, 1, &machines(), |scenario| {
        let outcome = run(&scenario, Flaw::None);
        assert_eq!(outcome.overrun, 0, "{} MiB beyond", outcome.overrun / MIB);
        let open = outcome.ends.iter().filter(|end| end.is_none()).count();
        assert_eq!(open, 0, "{open} of {} never ended", outcome.ends.len());
        println!(
            "{} GiB {} cores: {} jobs in {} s, {} blamed, {} squeezed, longest wait {} s",
            scenario.capacity / GIB,
            scenario.cores,
            scenario.jobs.len(),
            outcome.makespan / 1000,
            outcome.blamed,
            outcome.squeezed,
            outcome.longest_wait / 1000
        );
    });
}

fn steady(jobs: Vec<Job>, capacity: u64, cores: usize, seed: u64) -> Scenario {
    Scenario {
        capacity,
        cores,
        most: 64,
        floor: (128 * MIB).max(capacity / 12),
        budget: None,
        neighbours: vec![Neighbour::Steady(capacity / 4)],
        jobs,
        horizon: 600_000,
        seed,
    }
}

#[test]
fn packing_is_near_what_a_clairvoyant_would_do() {
    let mixes = (1u64..=4, 2usize..=4, any::<u64>()).prop_flat_map(|(size, cores, seed)| {
        let off = 80..=120;
        let mix = prop_oneof![3 => job(60..150, off.clone()), 1 => job(150..150 + 100 * size, off)];
        prop::collection::vec(mix, 150).prop_map(move |jobs| steady(jobs, size * GIB, cores, seed))
    });
    check(24, 2, &mixes, |scenario| {
        let ours = run(&scenario, Flaw::None);
        let best = run(&scenario, Flaw::Clairvoyant);
        let packing = ours.utilisation() / best.utilisation();
        let speed = best.makespan as f64 / ours.makespan as f64;
        println!(
            "{} GiB {} cores: packing {packing:.2}, speed {speed:.2}, blamed {}, squeezed {}, pressed {} of {} ms",
            scenario.capacity / GIB,
            scenario.cores,
            ours.blamed,
            ours.squeezed,
            ours.pressed,
            ours.makespan
        );
        assert_eq!(ours.overrun, 0);
        assert!(packing >= 0.85 && speed >= 0.85, "packing {packing:.2}, speed {speed:.2}");
    });
}

/// How many of the machines are overrun, at the worst by how much.
fn overruns(flaw: Flaw) -> (usize, u64) {
    let found = std::cell::Cell::new((0, 0));
    check(12, 1, &machines(), |scenario| {
        let outcome = run(&scenario, flaw);
        let (count, worst) = found.get();
        found.set((count + usize::from(outcome.overrun > 0), outcome.overrun.max(worst)));
    });
    found.get()
}

#[test]
fn the_simulation_catches_a_governor_that_is_wrong() {
    for flaw in [Flaw::CreditsEarly, Flaw::ForgetsReturning, Flaw::NoReserve, Flaw::NoDebits, Flaw::NeverKills] {
        let (count, worst) = overruns(flaw);
        println!("FLAW {flaw:?}: {count} of 12 machines overrun, by {} MiB at most", worst / MIB);
    }
}
