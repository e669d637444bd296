//! What is printed of a plan, and what it is reckoned from.

use super::*;
use crate::cli::plan::record;
use crate::memory::capacity::{Needs, Sample};

const MB: u64 = 1_000_000;

fn measured() -> Measured {
    Measured {
        engine: "HeadlessChrome/156".to_owned(),
        cores: 2,
        load: 0.1,
        seconds: 20.0,
        needs: Needs {
            worker_bytes: 32 * MB,
            browser_bytes: 80 * MB,
            context_bytes: 40 * MB,
            receipt_bytes: 60 * MB,
        },
        trimmed_bytes: 20 * MB,
        receipt_markup_bytes: 3_101,
        receipt_ms: 8.0,
        at_once: 3,
        receipts_per_s: 160.0,
        documents: vec![
            Sample { rows: 1_000, markup_bytes: 128_000, peak_bytes: 156 * MB, ms: 150.0 },
            Sample { rows: 5_000, markup_bytes: 640_000, peak_bytes: 1_050 * MB, ms: 2_000.0 },
        ],
    }
}

fn machine(cores: usize, ram: u64, others: u64) -> Machine {
    let settings = Settings {
        limit: None,
        reserve: 256 * MB,
        per_render: 96 * MB,
        redis: 0,
        slots: cores + 1,
    };
    Machine {
        cores,
        ram: ram * MB,
        others: others * MB,
        free: (ram - others) * MB,
        settings,
        assumed: false,
    }
}

fn with<T>(measured: &Measured, machine: &Machine, look: impl FnOnce(&Report<'_>) -> T) -> T {
    let timeout = Duration::from_secs(10);
    let capacity =
        Capacity::new(measured, &machine.settings, machine.cores, machine.free, timeout).unwrap();
    let price = Price { amount: 24.0, currency: "EUR".to_owned() };
    look(&Report {
        measured,
        machine,
        capacity: &capacity,
        rate: Some(10.0),
        price: Some(&price),
        timeout,
        governed: true,
        fresh: true,
    })
}

#[test]
fn each_figure_says_how_it_is_known() {
    let of = |cores, ram, others| {
        with(&measured(), &machine(cores, ram, others), |report| report.json()["basis"].clone())
    };
    let here = of(2, 4_000, 1_500);
    assert!(here["receipts_per_s"].as_str().unwrap().starts_with("measured, 3 at once"), "{here}");
    let larger = of(4, 8_000, 1_500);
    let speed = larger["receipts_per_s"].as_str().unwrap();
    assert!(speed.starts_with("scaled by cores from 160 with 2 cores"), "{speed}");
    let mut heavy = measured();
    heavy.needs.receipt_bytes = 150 * MB;
    let tight = with(&heavy, &machine(2, 2_000, 1_400), |report| report.json()["basis"].clone());
    let speed = tight["receipts_per_s"].as_str().unwrap();
    assert!(speed.starts_with("scaled from 8 ms for one alone"), "{speed}");
    assert!(tight["renders_at_once"].as_str().unwrap().starts_with("memory:"), "{tight}");
    with(&measured(), &machine(2, 4_000, 1_500), |report| {
        assert!(report.figures().iter().all(|figure| !figure.basis.is_empty()));
    });
}

#[test]
fn text_and_json_say_the_same() {
    with(&measured(), &machine(2, 4_000, 1_500), |report| {
        let (text, json) = (report.text(), report.json());
        assert!(
            text.starts_with("2 cores, 4 GB; others take 1.5 GB, which leaves 2.5 GB\n"),
            "{text}"
        );
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap();
        assert_eq!(json["capacity"]["renders_at_once"], 3);
        assert!(line("renders at once").contains(" 3 "), "{text}");
        assert_eq!(json["capacity"]["receipts_per_s"], 160.0);
        assert!(line("receipts/s").contains(" 160 "), "{text}");
        assert_eq!(json["capacity"]["drain_1000_s"], 6.25);
        assert_eq!(json["capacity"]["machines"], 1);
        let tenants = json["capacity"]["warm_tenants"].to_string();
        assert!(line("warm tenants").contains(&tenants), "{text}");
        assert!(line("1,000 receipts cost").contains("EUR"), "{text}");
        assert!(line("rows").contains("1.7 MB for each KB"), "{text}");
    });
}

#[test]
fn a_busy_machine_is_said_to_be_one() {
    let busy = Measured { load: 5.0, ..measured() };
    let notes = with(&busy, &machine(2, 4_000, 1_500), |report| report.notes());
    assert!(notes.iter().any(|note| note.contains("5.0 tasks")), "{notes:?}");
    let quiet = with(&measured(), &machine(2, 4_000, 1_500), |report| report.notes());
    assert_eq!(quiet.len(), 1, "{quiet:?}");
}

#[test]
fn what_was_assumed_and_what_is_too_much_is_said() {
    let sound = machine(1, 4_000, 1_500);
    let notes = |machine: &Machine| with(&measured(), machine, |report| report.notes().join("\n"));
    assert!(!notes(&sound).contains("assumed") && !notes(&sound).contains("concurrency"));
    let assumed = notes(&Machine { assumed: true, ..sound });
    assert!(assumed.contains("without --others") && assumed.contains("1.5 GB"), "{assumed}");
    let settings = Settings { slots: 64, ..sound.settings };
    let many = notes(&Machine { settings, ..sound });
    assert!(many.contains("worker.concurrency is 64 with 1 core"), "{many}");
}

#[test]
fn warm_tenants_are_named_for_how_they_are_known() {
    let machine = machine(2, 4_000, 1_500);
    with(&measured(), &machine, |report| {
        let json = report.json();
        let Machine { settings, cores, free, .. } = &machine;
        let expected = Room::new(settings, *cores, *free, &Needs::EXPECTED).unwrap().contexts;
        assert_eq!(json["capacity"]["expected_tenants"], expected);
        assert_ne!(json["capacity"]["warm_tenants"], expected, "40 MB were measured");
        let basis = json["basis"]["warm_tenants"].as_str().unwrap();
        assert!(basis.ends_with(&format!("the worker's log, {expected}")), "{basis}");
    });
}

#[test]
fn what_was_measured_reads_back() {
    let printed = with(&measured(), &machine(2, 4_000, 1_500), |report| report.json());
    let read: Measured = serde_json::from_value(printed["measured"].clone()).unwrap();
    assert_eq!(read, measured());
    assert_eq!(record::read(&printed.to_string()), Ok(measured()));
}

#[test]
fn numbers_read_well() {
    assert_eq!(grouped(1_234_567), "1,234,567");
    assert_eq!((grouped(100), grouped(1_000)), ("100".to_owned(), "1,000".to_owned()));
    assert_eq!((short(6.25), short(8.0), short(162.4)), ("6.2".into(), "8".into(), "162".into()));
    assert_eq!(significant(0.000_081_4), "0.000081");
    assert_eq!((significant(2.345), significant(24.4)), ("2.3".to_owned(), "24".to_owned()));
}
