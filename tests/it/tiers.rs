//! The tiers of worker-config: each is right, and carries what its comments say.

use std::process::{Command, Output};

use serde_json::Value;
use tillroll::config::{Given, load};

const TIERS: [&str; 3] = ["starter", "growth", "scale"];

fn text(tier: &str) -> String {
    let root = env!("CARGO_MANIFEST_DIR");
    std::fs::read_to_string(format!("{root}/worker-config/{tier}.toml")).unwrap()
}

fn tillroll(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tillroll"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TILLROLL_") || name == "REDIS_URL" {
            command.env_remove(name);
        }
    }
    // The commands in the tiers name files as one who stands here does.
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// The command in the tier's comments.
fn command(text: &str) -> Vec<&str> {
    let line = text.lines().find_map(|line| line.strip_prefix("# $ tillroll ")).unwrap();
    line.split(' ').collect()
}

fn plan(text: &str) -> Value {
    let mut arguments = command(text);
    arguments.push("--json");
    serde_json::from_slice(&tillroll(&arguments).stdout).unwrap()
}

#[test]
fn each_tier_is_a_right_configuration() {
    for tier in TIERS {
        let path = format!("worker-config/{tier}.toml");
        tillroll(&["config", "check", "--config", &path]);
        let file = Some(format!("{}/{path}", env!("CARGO_MANIFEST_DIR")).into());
        let loaded = load(&Given { file, ..Given::default() }, []).unwrap();
        assert!(loaded.config.drain.timeout.as_secs() <= 30, "{tier}");
    }
}

#[test]
fn each_value_of_a_tier_has_its_reason_above_it() {
    for tier in TIERS {
        let text = text(tier);
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let is_value = !line.starts_with(['#', '[']) && line.contains(" = ");
            assert!(!is_value || lines[at - 1].starts_with("# "), "{tier}: {line}");
        }
    }
}

#[test]
fn the_comments_of_each_tier_are_what_plan_prints() {
    for tier in TIERS {
        let text = text(tier);
        let output = tillroll(&command(&text));
        let printed = String::from_utf8(output.stdout).unwrap();
        let comments: String = printed
            .lines()
            .map(|line| if line.is_empty() { "#\n".to_owned() } else { format!("#   {line}\n") })
            .collect();
        assert!(text.contains(&comments), "{tier}: these are to stand in it:\n{comments}");
    }
}

#[test]
fn each_tier_fits_its_machine_and_does_its_work_there() {
    for tier in TIERS {
        let plan = plan(&text(tier));
        let number = |part: &str, key: &str| plan[part][key].as_f64().unwrap();
        let (free, reserve) = (number("machine", "free_bytes"), number("machine", "reserve_bytes"));
        if let Some(limit) = plan["machine"]["limit_bytes"].as_f64() {
            assert!(limit + reserve <= free, "{tier}: limit and reserve are more than is free");
        }
        let slots = number("machine", "cpus") * 3.0;
        assert!((number("capacity", "renders_at_once") - slots).abs() < 0.1, "{tier}: {plan:#}");
        assert!(number("capacity", "warm_tenants") >= 10.0, "{tier}: {plan:#}");
        assert!(number("capacity", "largest_rows") >= 1_000.0, "{tier}: {plan:#}");
        assert!(number("capacity", "receipts_per_s") >= 10.0, "{tier}: {plan:#}");
    }
}
