//! A document whose scripts run, on a clock of its own.
//!
//! ```text
//! clock stopped ─▶ document set ─▶ a step of time ─▶ there? ─ yes ─▶ animations ended ─▶ loaded, measured, printed
//!                                    ▲                 │ no, time is left
//!                                    └─────────────────┘
//! ```
//!
//! The clock begins at the job's date, so that the same job sees the same time.
//! It stands still while an asset is on its way, and once the time is over: what
//! is printed does not change any more. Timers fire as fast as the machine can.
//!
//! No frame is ever drawn, so what waits for frames is given timers instead
//! ([`HEAD`], in front of the document). Frames issued by hand (`HeadlessExperimental.beginFrame`) would do
//! for one page at a time only: three at once end Chromium's GPU process, and with
//! it the browser (seen with 156.0.8078.79).
//!
//! Failures: `script_timeout` where a script does not come to an end,
//! `wait_for_unmet`, and those of [`super::guard`].

use std::sync::LazyLock;
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
/// would run outside of what is watched; notes of what goes wrong; and what waits
/// for frames elsewhere, on timers. On paper everything is in view. It takes
/// itself out again; the policy stays in force. It goes in as one line ([`head`]).
const HEAD: &str = r#"<meta http-equiv="Content-Security-Policy" content="worker-src 'none'"><script>(() => {
  const later = setTimeout.bind(window), never = clearTimeout.bind(window);
  const errors = [];
  const note = (text) => { if (errors.length < 5) errors.push(String(text).slice(0, 200)); };
  const where = ({ filename, lineno }) => {
    const name = /^https:\/\/[^/]*\/([^?#]*)/.exec(filename);
    return lineno > 0 ? ` (${name ? `${name[1]}, ` : ''}line ${lineno})`
      : ' (in an asset: with the attribute crossorigin its script tag tells more)';
  };
  Object.defineProperty(window, Symbol.for('tillroll.errors'), { value: errors });
  addEventListener('error', (e) => { if (e.message) note(e.message.slice(0, 120) + where(e)); });
  addEventListener('unhandledrejection', (e) => note(e.reason));
  window.open = () => null;
  window.requestAnimationFrame = (f) => later(() => f(performance.now()), 16);
  window.cancelAnimationFrame = never;
  const size = (target) => {
    const box = target.getBoundingClientRect(), style = getComputedStyle(target);
    const of = (name) => parseFloat(style[name]) || 0;
    const [left, top] = [of('paddingLeft'), of('paddingTop')];
    const inner = target instanceof HTMLElement
      ? [target.clientWidth - left - of('paddingRight'), target.clientHeight - top - of('paddingBottom')]
      : [box.width, box.height];
    const of_box = ([inlineSize, blockSize]) => [{ inlineSize, blockSize }];
    return {
      target, contentRect: new DOMRectReadOnly(left, top, ...inner),
      contentBoxSize: of_box(inner), devicePixelContentBoxSize: of_box(inner),
      borderBoxSize: of_box([box.width, box.height]),
    };
  };
  window.ResizeObserver = class ResizeObserver {
    #seen = new Map(); #timer; #tell;
    constructor(tell) { this.#tell = tell; }
    observe(target) { this.#seen.set(target, ''); this.#look(); }
    unobserve(target) { this.#seen.delete(target); }
    disconnect() { this.#seen.clear(); }
    #look() {
      never(this.#timer);
      this.#timer = later(() => {
        const changed = [];
        for (const [target, last] of this.#seen) {
          const entry = size(target), now = JSON.stringify([entry.contentRect, entry.borderBoxSize]);
          if (now !== last) { this.#seen.set(target, now); changed.push(entry); }
        }
        if (this.#seen.size) this.#look();
        if (changed.length) this.#tell.call(this, changed, this);
      }, 16);
    }
  };
  window.IntersectionObserver = class IntersectionObserver {
    #seen = new Set(); #tell;
    constructor(tell, { root = null, rootMargin = '0px', threshold = 0 } = {}) {
      this.#tell = tell;
      Object.assign(this, { root, rootMargin, thresholds: [threshold].flat() });
    }
    observe(target) {
      this.#seen.add(target);
      later(() => {
        if (!this.#seen.has(target)) return;
        const box = target.getBoundingClientRect();
        this.#tell.call(this, [{
          target, time: performance.now(), isIntersecting: true, intersectionRatio: 1,
          boundingClientRect: box, intersectionRect: box, rootBounds: null,
        }], this);
      }, 16);
    }
    unobserve(target) { this.#seen.delete(target); }
    disconnect() { this.#seen.clear(); }
    takeRecords() { return []; }
  };
  document.currentScript.previousElementSibling?.remove();
  document.currentScript.remove();
})();</script>"#;

/// [`HEAD`] without line breaks, so that in an error's place the document's own lines
/// are counted, and no others.
pub(super) fn head() -> &'static str {
    static LINE: LazyLock<String> =
        LazyLock::new(|| HEAD.lines().map(str::trim).collect::<Vec<_>>().join(" "));
    &LINE
}

/// Ends what is animated, where it would end by itself: no frame comes that would
/// move it. Then what our notes say.
const END: &str = r"(() => {
  for (const animation of document.getAnimations()) {
    try { animation.finish(); } catch { continue; }
  }
  return Array.from(window[Symbol.for('tillroll.errors')] || [], String);
})()";

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

#[derive(Debug, Default, Deserialize)]
struct Looked {
    there: bool,
    error: Option<String>,
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
        let mut expired = self.page.session.events("Emulation.virtualTimeBudgetExpired");
        let stopped = Policy {
            policy: "pause",
            budget: None,
            initial_virtual_time: Some(date.unix_timestamp()),
        };
        self.raw("Emulation.setVirtualTimePolicy", &stopped).await?;
        let mut passed = Duration::ZERO;
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
            let left = self.page.script_time.saturating_sub(passed);
            if left.is_zero() {
                break;
            }
            let length = if step < SHORT_STEPS { SHORT_STEP } else { LONG_STEP };
            self.advance(&mut expired, length.min(left)).await?;
            passed += length;
        }
        match &script.wait_for {
            Some(wait_for) if !last.there => {
                // What failed in its scripts is the likely reason. A page that does not
                // answer any more has nothing to add.
                if let Err(failed) = self.end_of_play().await {
                    tracing::debug!(code = failed.failure.code, "a script's errors are not known");
                }
                Err(Failed::wait_for_unmet(wait_for, self.page.script_time, last.error.as_deref()))
            }
            _ => Ok(()),
        }
    }

    /// Lets time pass.
    async fn advance(&mut self, expired: &mut Events, by: Duration) -> Result<(), Failed> {
        let policy = Policy {
            policy: "pauseIfNetworkFetchesPending",
            budget: Some(by.as_secs_f64() * 1000.0),
            initial_virtual_time: None,
        };
        self.raw("Emulation.setVirtualTimePolicy", &policy).await?;
        match timeout_at(self.deadline, expired.next()).await {
            Ok(Ok(Some(_))) => Ok(()),
            Err(_) => Err(Failed::timed_out(self.options.timeout)),
            // The page is gone: a call says why.
            Ok(_) => self.evaluate::<serde::de::IgnoredAny>("0").await.map(drop),
        }
    }

    /// Ends animations, and notes what went wrong in the document's scripts.
    pub(super) async fn end_of_play(&mut self) -> Result<(), Failed> {
        let errors: Vec<String> = self.evaluate(END).await?;
        self.warnings.extend(errors.into_iter().take(5).map(|error| {
            Warning {
                code: crate::renderer::SCRIPT_ERROR,
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
    fn what_stands_before_a_document_has_no_lines_of_its_own() {
        assert!(!head().contains(['\n', '\r']));
        // A comment to the end of the line would take the rest with it.
        assert!(!HEAD.contains("// "));
        assert!(head().starts_with("<meta http-equiv") && head().ends_with("</script>"));
    }

    #[test]
    fn what_is_waited_for_is_quoted() {
        let selector = look(&WaitFor::Selector("a[b=\"c\"]".into()));
        assert!(selector.ends_with(r#"(() => document.querySelector("a[b=\"c\"]"))"#));
        let expression = look(&WaitFor::Expression("1) + (2".into()));
        assert!(expression.ends_with(r#"(() => (0, eval)("1) + (2"))"#));
    }
}
