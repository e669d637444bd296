//! Whether a document's scripts run, and what is waited for: the options
//! `script` and `wait_for`. Pure.

use serde_json::{Map, Value};

use super::fields::{Fields, Problem};

/// The longest selector or expression, in bytes.
const LONGEST: usize = 4096;

/// The scripts of a document run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Script {
    /// What must be so before it is printed; where nothing is named, the time
    /// that scripts have runs to its end.
    pub wait_for: Option<WaitFor>,
}

/// What a document with scripts is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitFor {
    /// An element that this selector finds.
    Selector(String),
    /// That this expression, or what it promises, is true.
    Expression(String),
}

/// Reads `script` and `wait_for`.
///
/// # Errors
/// Where one is of the wrong kind, or `wait_for` comes without `script`.
pub(super) fn parse(fields: &Fields<'_>) -> Result<Option<Script>, Problem> {
    let runs = fields.bool("script")?.unwrap_or(false);
    let wait_for = fields.object("wait_for")?.map(wait_for).transpose()?;
    if wait_for.is_some() && !runs {
        return Err(fields.conflict(
            "wait_for",
            "needs scripts: without them nothing in a document changes",
            "give \"script\": true as well, or leave it out",
        ));
    }
    Ok(runs.then_some(Script { wait_for }))
}

fn wait_for(object: &Map<String, Value>) -> Result<WaitFor, Problem> {
    const REMEDY: &str = "write {\"selector\":\"#chart svg\"} or {\"expression\":\"window.ready\"}";
    let fields = Fields::new("options.wait_for", object);
    fields.only(&["selector", "expression"], &[("function", "expression"), ("css", "selector")])?;
    let text = |name| {
        let text = fields.string(name, LONGEST)?;
        match text {
            Some(text) if text.trim().is_empty() => {
                Err(fields.invalid(name, &Value::String(text), "is empty", REMEDY))
            }
            text => Ok(text),
        }
    };
    match (text("selector")?, text("expression")?) {
        (Some(selector), None) => Ok(WaitFor::Selector(selector)),
        (None, Some(expression)) => Ok(WaitFor::Expression(expression)),
        (None, None) => Err(fields.missing("selector", REMEDY)),
        (Some(_), Some(_)) => {
            Err(fields.conflict("expression", "does not go with a selector", REMEDY))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::job::options;

    fn read(options: Value) -> Result<Option<Script>, (&'static str, String)> {
        let object = options.as_object().cloned().unwrap_or_default();
        options::parse(&object).map(|options| options.script).map_err(|p| (p.code, p.message))
    }

    #[test]
    fn scripts_are_off_until_they_are_asked_for() {
        for options in [json!({}), json!({"script": false}), json!({"script": null})] {
            assert_eq!(read(options), Ok(None));
        }
        assert_eq!(read(json!({"script": true})), Ok(Some(Script::default())));
        let selector = Some(WaitFor::Selector("#a > svg".into()));
        let options = json!({"script": true, "wait_for": {"selector": "#a > svg"}});
        assert_eq!(read(options), Ok(Some(Script { wait_for: selector })));
        let expression = Some(WaitFor::Expression("window.done".into()));
        let options = json!({"script": true, "wait_for": {"expression": "window.done"}});
        assert_eq!(read(options), Ok(Some(Script { wait_for: expression })));
    }

    #[test]
    fn what_is_waited_for_is_one_thing_and_needs_scripts() {
        for (options, code, named) in [
            (json!({"wait_for": {"selector": "p"}}), "conflicting_fields", "wait_for"),
            (json!({"script": "yes"}), "invalid_field", "script"),
            (json!({"script": true, "wait_for": "p"}), "invalid_field", "wait_for"),
            (json!({"script": true, "wait_for": {}}), "missing_field", "wait_for.selector"),
            (json!({"script": true, "wait_for": {"selector": " "}}), "invalid_field", "selector"),
            (json!({"script": true, "wait_for": {"css": "p"}}), "unknown_field", "wait_for.css"),
            (
                json!({"script": true, "wait_for": {"selector": "p", "expression": "1"}}),
                "conflicting_fields",
                "wait_for.expression",
            ),
        ] {
            let (found, message) = read(options).unwrap_err();
            assert_eq!(found, code, "{message}");
            assert!(message.contains(named), "{message}");
        }
    }
}
