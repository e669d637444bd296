//! A document whose scripts run, on a clock of its own.
//!
//! ```text
//! clock stopped ─▶ document set ─▶ a step of time ─▶ a frame ─▶ there? ─ yes ─▶ loaded, measured, printed
//!                                    ▲                           │ no, time is left
//!                                    └───────────────────────────┘
//! ```
//!
//! The clock begins at the job's date, so that the same job sees the same time.
//! It stands still while an asset is on its way, and once the time is over: what
//! is printed does not change any more. Timers fire as fast as the machine can;
//! after each step one frame is issued by hand, for `requestAnimationFrame`,
//! animations and observers. (The full browser draws frames by itself, on a clock
//! of its own; there frames are timers.)
//!
//! Failures: `script_timeout` where a script does not come to an end,
//! `wait_for_unmet`, and those of [`super::guard`].

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::time::timeout_at;

use super::{Failed, Run, SetContent};
use crate::job::script::{Script, WaitFor};
use crate::renderer::Warning;
use crate::renderer::cdp::Events;

/// The first steps are as long as a frame, so that what is ready soon is printed
/// soon, and what counts frames gets some.
const SHORT_STEPS: u32 = 20;
const SHORT_STEP: Duration = Duration::from_millis(16);
const LONG_STEP: Duration = Duration::from_millis(50);

/// What stands before a document with scripts: a policy against workers, which
/// would run outside of what is watched, and notes of what goes wrong. It takes
/// itself out again; the policy stays in force.
const HEAD: &str = r#"<meta http-equiv="Content-Security-Policy" content="worker-src 'none'"><script>((drawn) => {
  const errors = [];
  const note = (text) => { if (errors.length < 5) errors.push(String(text).slice(0, 200)); };
  Object.defineProperty(window, Symbol.for('tillroll.errors'), { value: errors });
  addEventListener('error', (e) => { if (e.message) note(`${e.message} (line ${e.lineno})`); });
  addEventListener('unhandledrejection', (e) => note(e.reason));
  if (drawn) {
    const later = setTimeout.bind(window);
    window.requestAnimationFrame = (f) => later(() => f(performance.now()), 16);
    window.cancelAnimationFrame = clearTimeout.bind(window);
    window.open = () => null;
  }
  document.currentScript.previousElementSibling?.remove();
  document.currentScript.remove();
})(DRAWN);</script>"#;

/// What our notes say.
const ERRORS: &str = "Array.from(window[Symbol.for('tillroll.errors')] || [], String)";

/// Whether what is waited for is there. A promise is asked again until it is
/// settled: it may need time, and that does not pass while we ask. What throws is
/// not there yet.
const LOOK: &str = r"((look) => {
  const key = Symbol.for('tillroll.wait');
  let held = window[key];
  if (!held || (held.settled && !held.value)) {
    held = { settled: true, value: false, error: held && held.error };
    try {
      const value = look();
      if (value && typeof value.then === 'function') {
        held.settled = false;
        value.then((value) => Object.assign(held, { settled: true, value }),
          (error) => Object.assign(held, { settled: true, error: String(error && error.name) }));
      } else {
        held.value = value;
      }
    } catch (error) {
      held.error = String(error && error.name);
    }
    Object.defineProperty(window, key, { value: held, configurable: true });
  }
  return { there: held.settled && Boolean(held.value), error: held.error };
})";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    policy: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    initial_virtual_time: Option<i64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Frame {
    /// Of the renderer's clock, in milliseconds.
    frame_time_ticks: f64,
    interval: f64,
    no_display_updates: bool,
}

/// The document's clock.
struct Clock {
    /// Where it began, in milliseconds of the renderer's clock.
    base: f64,
    passed: Duration,
    expired: Events,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Started {
    virtual_time_ticks_base: f64,
}

#[derive(Debug, Default, Deserialize)]
struct Looked {
    there: bool,
    error: Option<String>,
}

/// What stands before the document; `drawn` where the browser draws by itself.
pub(super) fn head(drawn: bool) -> String {
    HEAD.replace("DRAWN", if drawn { "true" } else { "false" })
}

impl Run<'_> {
    /// Sets the document and lets its scripts run for the time that they have,
    /// or until what is waited for is there.
    pub(super) async fn play(
        &mut self,
        content: &SetContent<'_>,
        script: &Script,
        date: OffsetDateTime,
    ) -> Result<(), Failed> {
        let played = self.play_on(content, script, date).await;
        let allowed = self.options.timeout;
        played.map_err(|failed| failed.of_script(allowed))
    }

    async fn play_on(
        &mut self,
        content: &SetContent<'_>,
        script: &Script,
        date: OffsetDateTime,
    ) -> Result<(), Failed> {
        let expired = self.page.session.events("Emulation.virtualTimeBudgetExpired");
        let stopped = Policy {
            policy: "pause",
            budget: None,
            initial_virtual_time: Some(date.unix_timestamp()),
        };
        let reply = self.raw("Emulation.setVirtualTimePolicy", &stopped).await?;
        let started: Started = reply.deserialize().map_err(|error| self.failed(&error))?;
        let base = started.virtual_time_ticks_base;
        let mut clock = Clock { base, passed: Duration::ZERO, expired };
        self.raw("Page.setDocumentContent", content).await?;
        let look = script.wait_for.as_ref().map(look);
        let mut last = Looked::default();
        for step in 0.. {
            if let Some(look) = &look {
                last = self.evaluate(look).await?;
                if last.there {
                    break;
                }
            }
            let left = self.page.script_time.saturating_sub(clock.passed);
            if left.is_zero() {
                break;
            }
            let length = if step < SHORT_STEPS { SHORT_STEP } else { LONG_STEP };
            self.advance(&mut clock, length.min(left)).await?;
        }
        match &script.wait_for {
            Some(wait_for) if !last.there => {
                Err(Failed::wait_for_unmet(wait_for, self.page.script_time, last.error.as_deref()))
            }
            _ => Ok(()),
        }
    }

    /// Lets time pass, and then a frame.
    async fn advance(&mut self, clock: &mut Clock, by: Duration) -> Result<(), Failed> {
        let interval = millis(by);
        let budget = Some(interval);
        let policy =
            Policy { policy: "pauseIfNetworkFetchesPending", budget, initial_virtual_time: None };
        self.raw("Emulation.setVirtualTimePolicy", &policy).await?;
        if timeout_at(self.deadline, clock.expired.next()).await.is_err() {
            return Err(Failed::timed_out(self.options.timeout));
        }
        clock.passed += by;
        // Where the page is gone, this call says why.
        if self.page.drawn {
            self.raw("Runtime.getIsolateId", &serde_json::Map::new()).await?;
        } else {
            // A frame's time is the document's, whatever ours is.
            let frame_time_ticks = clock.base + millis(clock.passed);
            let frame = Frame { frame_time_ticks, interval, no_display_updates: true };
            self.raw("HeadlessExperimental.beginFrame", &frame).await?;
        }
        Ok(())
    }

    /// What went wrong in the document's scripts.
    pub(super) async fn note_script_errors(&mut self) -> Result<(), Failed> {
        let errors: Vec<String> = self.evaluate(ERRORS).await?;
        self.warnings.extend(errors.into_iter().take(5).map(|error| {
            Warning {
                code: "script_error",
                message: format!(
                    "a script of the document failed: {}",
                    error.chars().take(200).collect::<String>()
                ),
                remedy: "run it in a browser and look at its console; it has no network, storage, \
                     workers or windows here"
                    .into(),
            }
        }));
        Ok(())
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn look(wait_for: &WaitFor) -> String {
    let (ask, text) = match wait_for {
        WaitFor::Selector(selector) => ("document.querySelector", selector),
        WaitFor::Expression(expression) => ("(0, eval)", expression),
    };
    format!("{LOOK}(() => {ask}({}))", serde_json::Value::from(text.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_quoted() {
        let selector = look(&WaitFor::Selector("a[b=\"c\"]".into()));
        assert!(selector.ends_with(r#"(() => document.querySelector("a[b=\"c\"]"))"#));
        let expression = look(&WaitFor::Expression("1) + (2".into()));
        assert!(expression.ends_with(r#"(() => (0, eval)("1) + (2"))"#));
    }

    #[test]
    fn the_head_knows_who_draws() {
        assert!(head(true).contains("})(true);") && head(false).contains("})(false);"));
    }
}
