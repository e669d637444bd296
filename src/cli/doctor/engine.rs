//! The engine: which Chromium, does it start at all, and what was found but
//! refused.

use crate::cli::{Session, parts};
use crate::renderer::engine::{self, Engine, EngineError, EngineKind};

use super::finding::Finding;

const CHECK: &str = "engine";
const INSTALL: &str = "apt-get install chromium-headless-shell, or set renderer.path to the \
                       program itself (not a wrapper script, not a snap)";

/// Finds it and asks for its version.
pub(super) async fn check(session: &Session) -> Vec<Finding> {
    let found = match engine::find(&parts::search(session)) {
        Ok(engine) => match engine::version(&engine).await {
            Ok(version) => Ok((engine, version)),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    vec![judge(found)]
}

fn judge(found: Result<(Engine, String), EngineError>) -> Finding {
    match found {
        Ok((engine, version)) if engine.kind == EngineKind::HeadlessShell => {
            Finding::ok(CHECK, format!("{version}, headless shell, {}", engine.path.display()))
        }
        Ok((engine, version)) => Finding::warn(
            CHECK,
            format!(
                "{version}, the full browser ({}): 2.5 times slower than the headless shell, \
                 twice the memory",
                engine.path.display()
            ),
            "apt-get install chromium-headless-shell",
        ),
        Err(EngineError::NotFound { looked }) => {
            let looked: Vec<String> =
                looked.iter().map(|(path, why)| format!("{}: {why}", path.display())).collect();
            Finding::fail(CHECK, format!("no Chromium found ({})", looked.join("; ")), INSTALL)
        }
        Err(error) => Finding::fail(CHECK, error.to_string(), INSTALL),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;
    use crate::renderer::engine::Refusal;

    #[test]
    fn a_snap_is_named_as_the_reason() {
        let looked = vec![("/snap/bin/chromium".into(), Refusal::Snap)];
        let finding = judge(Err(EngineError::NotFound { looked }));
        assert_eq!(finding.verdict, Verdict::Fail);
        assert!(finding.what.contains("/snap/bin/chromium: a snap"), "{}", finding.what);
        assert!(finding.remedy.unwrap().contains("chromium-headless-shell"));
    }

    #[test]
    fn the_full_browser_works_but_slowly() {
        let engine = |kind| Engine { path: "/usr/lib/chromium/x".into(), kind };
        let judged = |kind| judge(Ok((engine(kind), "Chromium 156".into()))).verdict;
        assert_eq!(judged(EngineKind::HeadlessShell), Verdict::Ok);
        assert_eq!(judged(EngineKind::Chromium), Verdict::Warn);
    }
}
