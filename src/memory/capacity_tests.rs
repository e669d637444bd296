//! What is promised of a machine stays within it, and more of it is never worse.

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;
const TEN: Duration = Duration::from_secs(10);

fn sample(rows: u64, peak: u64, ms: f64) -> Sample {
    Sample { rows, markup_bytes: rows * 128, peak_bytes: peak * MIB, ms }
}

fn measured() -> Measured {
    Measured {
        engine: "Chromium".to_owned(),
        cores: 2,
        load: 0.0,
        seconds: 20.0,
        needs: Needs {
            worker_bytes: 30 * MIB,
            browser_bytes: 150 * MIB,
            context_bytes: 40 * MIB,
            receipt_bytes: 60 * MIB,
        },
        trimmed_bytes: 25 * MIB,
        receipt_markup_bytes: 3_400,
        receipt_ms: 8.0,
        at_once: 3,
        receipts_per_s: 160.0,
        documents: vec![
            sample(120, 70, 20.0),
            sample(1000, 156, 150.0),
            sample(5000, 1050, 2000.0),
        ],
    }
}

fn settings(slots: usize) -> Settings {
    Settings { limit: None, reserve: 256 * MIB, per_render: 96 * MIB, redis: 0, slots }
}

fn capacity(cores: usize, free: u64) -> Capacity {
    Capacity::new(&measured(), &settings(cores + 1), cores, free, TEN).unwrap()
}

#[test]
fn what_was_measured_comes_out_again() {
    let here = capacity(2, 4096 * MIB);
    assert_eq!(here.room.slots, 3);
    assert!((here.receipts_per_s - 160.0).abs() < 1e-9);
    assert!((here.drain_seconds(1000) - 6.25).abs() < 1e-9);
    assert!(measured().is_of(2, 3) && !measured().is_of(2, 2) && !measured().is_of(4, 3));
}

#[test]
fn speed_follows_the_cores_as_far_as_renders_use_them() {
    assert!((capacity(4, 4096 * MIB).receipts_per_s - 320.0).abs() < 1e-9);
    assert!((capacity(1, 4096 * MIB).receipts_per_s - 80.0).abs() < 1e-9);
    assert!((measured().rate(4, 1) - 125.0).abs() < 1e-9, "one at a time is what it does alone");
}

#[test]
fn a_receipt_alone_that_was_slowed_down_does_not_slow_larger_machines() {
    let disturbed = Measured { receipt_ms: 100.0, ..measured() };
    assert!((disturbed.rate(4, 5) - 320.0).abs() < 1e-9);
    assert!((disturbed.rate(2, 3) - 160.0).abs() < 1e-9);
}

#[test]
fn what_would_not_start_is_refused_as_the_worker_refuses_it() {
    let refused = Capacity::new(&measured(), &settings(3), 2, 400 * MIB, TEN).unwrap_err();
    assert_eq!(refused, Plan::new(&settings(3), 400 * MIB).unwrap_err());
}

#[test]
fn where_memory_is_short_one_renders() {
    let small = capacity(2, 560 * MIB);
    assert_eq!((small.room.slots, small.room.contexts), (1, 1));
    assert!((small.receipts_per_s - 125.0).abs() < 1e-9);
}

#[test]
fn the_largest_document_ends_at_memory_time_or_what_is_known() {
    let measured = measured();
    let by_memory = measured.largest(500 * MIB, TEN);
    assert_eq!(by_memory.end, End::Memory);
    assert!((2500..2600).contains(&by_memory.rows), "{by_memory:?}");
    assert_eq!(by_memory.markup_bytes, by_memory.rows * 128);
    let by_time = measured.largest(20_000 * MIB, TEN);
    assert_eq!((by_time.end, by_time.rows), (End::Time, 8_500));
    let known = measured.largest(20_000 * MIB, Duration::from_secs(600));
    assert_eq!((known.end, known.rows), (End::Measured, 10_000));
    assert_eq!(measured.largest(10 * MIB, TEN).rows, 0);
    let slope = measured.slope().unwrap() / 1000.0;
    assert!((1.6..1.7).contains(&slope), "{slope} MB a KB");
}

#[test]
fn machines_keep_headroom_and_cost_what_they_cost() {
    let here = capacity(2, 4096 * MIB);
    assert!((here.planned_per_s() - 112.0).abs() < 1e-9);
    assert_eq!((here.machines(10.0), here.machines(112.0), here.machines(113.0)), (1, 1, 2));
    let busy = here.cost_of_1000(24.0, None);
    assert!((busy - 24.0 / (112.0 * MONTH_SECONDS) * 1000.0).abs() < 1e-12);
    assert!(
        here.cost_of_1000(24.0, Some(1.0)) > 100.0 * busy,
        "a machine that idles costs the same"
    );
}

#[test]
fn a_limit_binds_and_an_embedded_redis_takes_its_share() {
    let free = 4096 * MIB;
    let room = |settings: &Settings| Room::new(settings, 2, free, &measured().needs).unwrap();
    let all = room(&settings(3));
    let limited = room(&Settings { limit: Some(1024 * MIB), ..settings(3) });
    assert_eq!(limited.budget, 1024 * MIB);
    assert!(limited.contexts < all.contexts && limited.largest < all.largest);
    let beside = room(&Settings { redis: 400 * MIB, ..settings(3) });
    assert_eq!(all.largest - beside.largest, 400 * MIB);
}

prop_compose! {
    fn machines()(
        cores in 1usize..17,
        free in 0u64..40_000,
        limit in prop::option::of(0u64..40_000),
        reserve in 0u64..2_000,
        redis in 0u64..1_000,
        slots in 1usize..40,
        needs in (1u64..80, 50u64..400, 10u64..120, 20u64..200),
    ) -> (Settings, usize, u64, Needs) {
        let settings = Settings { limit: limit.map(|l| l * MIB), reserve: reserve * MIB,
                                  per_render: 96 * MIB, redis: redis * MIB, slots };
        let (worker, browser, context, receipt) = needs;
        let needs = Needs { worker_bytes: worker * MIB, browser_bytes: browser * MIB,
                            context_bytes: context * MIB, receipt_bytes: receipt * MIB };
        (settings, cores, free * MIB, needs)
    }
}

proptest! {
    #[test]
    fn no_more_is_promised_than_there_is((settings, cores, free, needs) in machines()) {
        let Ok(room) = Room::new(&settings, cores, free, &needs) else { return Ok(()) };
        let fixed = needs.worker_bytes + needs.browser_bytes + settings.redis;
        prop_assert!(room.slots >= 1 && room.slots <= settings.slots);
        prop_assert!(room.contexts >= room.slots && room.contexts <= MAX_CONTEXTS);
        prop_assert!(room.budget <= free);
        if room.fitting > 0 {
            let idle = (room.contexts - room.slots) as u64 * needs.context_bytes;
            let busy = room.slots as u64 * with_margin(needs.receipt_bytes);
            prop_assert!(fixed + busy + idle + room.keep <= room.budget);
            prop_assert!(free - (fixed + busy + idle) >= settings.reserve, "the reserve stays");
        }
        let lines = Reserve::new(settings.reserve, cores, REACTION).lines(Duration::ZERO);
        let limit = settings.limit.unwrap_or(u64::MAX);
        prop_assert!(room.budget <= limit);
        if room.largest > 0 {
            // A quarter of the reserve is kept beyond the limit.
            let beyond = settings.limit.map_or(0, |_| settings.reserve / 4);
            prop_assert!(fixed + room.largest + lines.hard <= room.budget + beyond);
            prop_assert!(fixed + room.largest <= limit);
        }
    }

    #[test]
    fn more_memory_is_never_worse((settings, cores, free, needs) in machines(), more in 0u64..4_000) {
        let measured = Measured { needs, ..measured() };
        let of = |free| Capacity::new(&measured, &settings, cores, free, TEN);
        let Ok(less) = of(free) else { return Ok(()) };
        let more = of(free + more * MIB).unwrap();
        prop_assert!(more.room.slots >= less.room.slots);
        prop_assert!(more.room.fitting >= less.room.fitting);
        // One more at once may take the place of two warm tenants.
        if more.room.slots == less.room.slots {
            prop_assert!(more.room.contexts >= less.room.contexts);
        }
        prop_assert!(more.receipts_per_s >= less.receipts_per_s);
        prop_assert!(more.largest.rows >= less.largest.rows);
        prop_assert!(more.machines(50.0) <= less.machines(50.0));
    }

    #[test]
    fn more_cores_are_never_slower_where_memory_is_no_bound(
        (settings, cores, free, needs) in machines(), extra in 0usize..16,
    ) {
        let measured = Measured { needs, ..measured() };
        let of = |cores: usize| {
            let settings = Settings { slots: cores + 1, ..settings };
            Capacity::new(&measured, &settings, cores, free, TEN).ok()
        };
        let (Some(less), Some(more)) = (of(cores), of(cores + extra)) else { return Ok(()) };
        // Cores raise what has to stay free: more renderers can surge at once.
        if more.room.slots > cores + extra {
            prop_assert!(more.receipts_per_s >= less.receipts_per_s);
        }
    }

    #[test]
    fn larger_documents_never_take_less(room in 0u64..3_000, more in 0u64..3_000, seconds in 0u64..60) {
        let measured = measured();
        let timeout = Duration::from_secs(seconds);
        let (less, more) = (measured.largest(room * MIB, timeout), measured.largest((room + more) * MIB, timeout));
        prop_assert!(less.rows <= more.rows);
        prop_assert!(measured.peak(less.markup_bytes) <= (room * MIB) as f64 || less.rows == 0);
        prop_assert!(measured.millis(less.markup_bytes) <= seconds as f64 * 1e3 || less.rows == 0);
    }
}
