//! `tillroll doctor`: is this machine, and this Redis, fit for the work?
//!
//! Every check tries the thing itself: a document is rendered in the jail, a
//! key is written to Redis. Each area has a file: one part measures and cannot
//! judge, the other judges what was measured and is pure, so that broken
//! machines can be shown in tests. Nothing is changed anywhere, but for a key
//! that is written to Redis and deleted in the same step.

mod engine;
mod finding;
mod fonts;
mod machine;
mod redis;
mod redis_judge;
mod room;

use serde_json::json;

use super::Session;
use super::exit::{Exit, Failure, print};
use finding::{Finding, Verdict};

/// Runs the verb.
///
/// # Errors
/// When a check failed: exit code 69.
pub fn run(session: &Session) -> Result<(), Failure> {
    let findings = super::runtime()?.block_on(async {
        let mut findings = engine::check(session).await;
        // Without an engine there is nothing to lock up.
        if findings.iter().all(|finding| finding.verdict != Verdict::Fail) {
            findings.extend(room::check(session).await);
        }
        findings.extend(fonts::check(&session.server_dirs()).await);
        findings.extend(machine::check(session));
        findings.extend(redis::check(session).await);
        findings
    });
    print(&if session.json { as_json(&findings) } else { as_text(&findings) })?;
    let failed: Vec<&str> = findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Fail)
        .map(|finding| finding.check)
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    let why = format!("{} failed: {}", count(failed.len() as u64, "check"), failed.join(", "));
    Err(Failure::new(Exit::Unavailable, "looking at this machine", why, "see the remedies above"))
}

fn worst(findings: &[Finding]) -> Verdict {
    findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok)
}

/// The schema is stable: fields are added, never changed.
fn as_json(findings: &[Finding]) -> String {
    format!("{:#}\n", json!({"v": 1, "verdict": worst(findings), "checks": findings}))
}

fn as_text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { check, verdict, what, remedy } in findings {
        text += &format!("{:<4}  {check:width$}  {what}\n", verdict.as_str());
        if let Some(remedy) = remedy {
            text += &format!("{:<4}  {:width$}  fix: {remedy}\n", "", "");
        }
    }
    let of = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count() as u64;
    text += &format!(
        "\n{}: {} ok, {}, {} failed\n",
        count(findings.len() as u64, "check"),
        of(Verdict::Ok),
        count(of(Verdict::Warn), "warning"),
        of(Verdict::Fail)
    );
    text
}

/// "1 check", "2 checks".
fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        vec![
            Finding::ok("engine", "Chromium 156"),
            Finding::warn("fonts.hindi", "no font", "apt-get install fonts-noto-core"),
        ]
    }

    #[test]
    fn the_remedy_stands_below_what_was_found() {
        let text = as_text(&findings());
        assert!(text.contains("ok    engine       Chromium 156\n"), "{text}");
        assert!(text.contains("warn  fonts.hindi  no font\n"), "{text}");
        assert!(
            text.contains("                   fix: apt-get install fonts-noto-core\n"),
            "{text}"
        );
        assert!(text.ends_with("2 checks: 1 ok, 1 warning, 0 failed\n"), "{text}");
    }

    #[test]
    fn the_json_schema_is_stable() {
        let value: serde_json::Value = serde_json::from_str(&as_json(&findings())).unwrap();
        assert_eq!(
            value,
            json!({"v": 1, "verdict": "warn", "checks": [
                {"check": "engine", "verdict": "ok", "what": "Chromium 156", "remedy": null},
                {"check": "fonts.hindi", "verdict": "warn", "what": "no font",
                 "remedy": "apt-get install fonts-noto-core"},
            ]})
        );
    }
}
