//! The plan at the start, and permits without a ledger.

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

fn settings(slots: usize) -> Settings {
    Settings { limit: None, reserve: 128 * MIB, per_render: 96 * MIB, redis: 0, slots }
}

#[test]
fn a_machine_without_room_for_one_is_told_how_much_is_missing() {
    let error = Plan::new(&settings(3), 300 * MIB).unwrap_err();
    assert_eq!(error.needed, 296 * MIB);
    assert_eq!(error.budget, 172 * MIB);
    assert!(error.remedy().contains("125 MiB"), "{}", error.remedy());
}

#[test]
fn a_limit_that_leaves_too_little_is_told_as_the_reason() {
    let settings = Settings { limit: Some(250 * MIB), ..settings(3) };
    let error = Plan::new(&settings, 4096 * MIB).unwrap_err();
    assert!(error.to_string().contains("250 MiB are there within memory.limit"), "{error}");
    assert!(error.remedy().contains("raise memory.limit by 47 MiB"), "{}", error.remedy());
    let error = Plan::new(&settings, 300 * MIB).unwrap_err();
    assert!(error.to_string().contains("after the reserve"), "{error}");
}

#[test]
fn slots_follow_the_cores_until_memory_is_short() {
    assert_eq!(Plan::new(&settings(3), 4096 * MIB).unwrap().slots, 3);
    assert_eq!(Plan::new(&settings(3), 600 * MIB).unwrap().slots, 2);
}

#[test]
fn an_embedded_redis_takes_its_share_first() {
    let settings = Settings { redis: 200 * MIB, ..settings(3) };
    let plan = Plan::new(&settings, 800 * MIB).unwrap();
    assert_eq!((plan.slots, plan.redis), (2, 200 * MIB));
    assert_eq!(Plan::new(&settings, 400 * MIB).unwrap_err().needed, 496 * MIB);
}

proptest! {
    #[test]
    fn a_plan_never_exceeds_its_budget(free in 0u64..64_000, limit in prop::option::of(0u64..64_000),
                                       reserve in 0u64..2_000, per_render in 1u64..2_000,
                                       redis in 0u64..2_000, slots in 1usize..64) {
        let settings = Settings { limit: limit.map(|l| l * MIB), reserve: reserve * MIB,
                                  per_render: per_render * MIB, redis: redis * MIB, slots };
        if let Ok(plan) = Plan::new(&settings, free * MIB) {
            prop_assert!(plan.slots >= 1 && plan.slots <= slots && plan.contexts >= plan.slots);
            let spent = BROWSER_BYTES + WORKER_BYTES + plan.redis + plan.slots as u64 * settings.per_render
                + (plan.contexts - plan.slots) as u64 * CONTEXT_BYTES;
            prop_assert!(spent <= plan.budget);
            prop_assert!(plan.budget + settings.reserve <= free * MIB);
        }
    }
}

#[test]
fn permits_are_bounded_and_come_back() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("proc/self")).unwrap();
    std::fs::write(
        root.path().join("proc/meminfo"),
        "MemTotal: 4096000 kB\nMemAvailable: 4000000 kB\n",
    )
    .unwrap();
    let governor = Governor::new(Probe::at(root.path()), settings(2)).unwrap();
    let one = governor.admit().unwrap();
    let _two = governor.admit().unwrap();
    assert_eq!(governor.admit().unwrap_err(), Refusal::Slots);
    drop(one);
    let one = governor.admit().unwrap();
    governor.scale(Some(1));
    drop(one);
    assert_eq!(governor.admit().unwrap_err(), Refusal::Slots);
}

#[test]
fn low_memory_refuses_all_but_the_first() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("proc/self")).unwrap();
    let free = |kb: u64| {
        std::fs::write(root.path().join("proc/meminfo"), format!("MemAvailable: {kb} kB\n"))
            .unwrap();
    };
    free(4_000_000);
    let governor = Governor::new(Probe::at(root.path()), settings(3)).unwrap();
    free(100_000);
    let _first = governor.admit().unwrap();
    assert!(matches!(governor.admit().unwrap_err(), Refusal::Memory { .. }));
    free(4_000_000);
    assert!(governor.admit().is_ok());
}
