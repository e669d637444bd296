//! Reading JSON objects strictly: every mistake names the field, the value and
//! the remedy, and nothing unknown is passed over. Pure.

use serde_json::{Map, Value};

use super::length::Length;

/// One mistake in a header. Becomes a [`crate::failure::Failure`] of class `input`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// A bounded name for machines.
    pub code: &'static str,
    /// What is wrong, with field and value.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl Problem {
    /// A problem known as `code`.
    pub fn new(code: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code, message: message.into(), remedy: remedy.into() }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", self.message, self.code, self.remedy)
    }
}

impl std::error::Error for Problem {}

/// An object of the header, and where it stands (empty for the header itself).
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    place: &'a str,
    object: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The fields of `object`, which stands at `place`.
    #[must_use]
    pub fn new(place: &'a str, object: &'a Map<String, Value>) -> Self {
        Self { place, object }
    }

    fn path(&self, name: &str) -> String {
        if self.place.is_empty() { name.to_owned() } else { format!("{}.{name}", self.place) }
    }

    /// Refuses every field that is not `known`; names of other systems in
    /// `foreign` are answered with ours.
    ///
    /// # Errors
    /// The first unknown field.
    pub fn only(&self, known: &[&str], foreign: &[(&str, &str)]) -> Result<(), Problem> {
        for name in self.object.keys() {
            if known.contains(&name.as_str()) {
                continue;
            }
            let remedy = if let Some((_, ours)) = foreign.iter().find(|(theirs, _)| theirs == name)
            {
                format!("here it is called {ours}")
            } else if let Some(near) = nearest(name, known) {
                format!("did you mean `{near}`?")
            } else {
                format!("known here are: {}", known.join(", "))
            };
            return Err(Problem::new(
                "unknown_field",
                format!("field `{}` is unknown", self.path(&shorten(name))),
                remedy,
            ));
        }
        Ok(())
    }

    /// The value of a field; a `null` counts as left out.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// A text of at most `longest` bytes.
    ///
    /// # Errors
    /// Where it is no text, or too long, or contains a NUL.
    pub fn string(&self, name: &str, longest: usize) -> Result<Option<String>, Problem> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.len() > longest => Err(Problem::new(
                "invalid_field",
                format!("field `{}` has {} bytes", self.path(name), text.len()),
                format!("give at most {longest} bytes"),
            )),
            Some(Value::String(text)) if text.contains('\0') => Err(Problem::new(
                "invalid_field",
                format!("field `{}` contains a NUL character", self.path(name)),
                "remove it",
            )),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.invalid(name, other, "is no text", "put it in quotes")),
        }
    }

    /// A name of 1 to `longest` characters of `A-Za-z0-9._:-`.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn token(&self, name: &str, longest: usize) -> Result<Option<String>, Problem> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) if super::is_token(text, longest) => Ok(Some(text.clone())),
            Some(other) => Err(self.invalid(
                name,
                other,
                "is no valid name",
                &format!("use 1 to {longest} characters of A-Z a-z 0-9 . _ : - as a text"),
            )),
        }
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn bool(&self, name: &str) -> Result<Option<bool>, Problem> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(self.invalid(
                name,
                other,
                "is neither true nor false",
                "write true or false, without quotes",
            )),
        }
    }

    /// A whole number from `least` to `most`.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn integer(&self, name: &str, least: u64, most: u64) -> Result<Option<u64>, Problem> {
        match self.value(name) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
                _ => Err(self.invalid(
                    name,
                    value,
                    "is out of range",
                    &format!("give a whole number from {least} to {most}, without quotes"),
                )),
            },
        }
    }

    /// A number from `least` to `most`.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn number(&self, name: &str, least: f64, most: f64) -> Result<Option<f64>, Problem> {
        match self.value(name) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
                _ => Err(self.invalid(
                    name,
                    value,
                    "is out of range",
                    &format!("give a number from {least} to {most}, without quotes"),
                )),
            },
        }
    }

    /// One of a few words.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn one_of(
        &self,
        name: &str,
        words: &[&'static str],
    ) -> Result<Option<&'static str>, Problem> {
        match self.value(name) {
            None => Ok(None),
            Some(value) => {
                let found =
                    value.as_str().and_then(|text| words.iter().find(|word| **word == text));
                found.copied().map(Some).ok_or_else(|| {
                    self.invalid(
                        name,
                        value,
                        "is not known",
                        &format!("use one of: {}", words.join(", ")),
                    )
                })
            }
        }
    }

    /// A length with a unit.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn length(&self, name: &str) -> Result<Option<Length>, Problem> {
        match self.value(name) {
            None => Ok(None),
            Some(value) => value.as_str().and_then(Length::parse).map(Some).ok_or_else(|| {
                self.invalid(
                    name,
                    value,
                    "is no length",
                    "write a number with its unit as a text: mm, cm, in, px or pt, like \"5mm\"",
                )
            }),
        }
    }

    /// An object.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn object(&self, name: &str) -> Result<Option<&'a Map<String, Value>>, Problem> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(other) => {
                Err(self.invalid(name, other, "is no object", "write it in braces, {…}"))
            }
        }
    }

    /// The value of a field is wrong.
    #[must_use]
    pub fn invalid(&self, name: &str, value: &Value, why: &str, remedy: &str) -> Problem {
        Problem::new(
            "invalid_field",
            format!("field `{}`: {} {why}", self.path(name), shorten(&value.to_string())),
            remedy,
        )
    }

    /// A field that must be there is not.
    #[must_use]
    pub fn missing(&self, name: &str, remedy: &str) -> Problem {
        Problem::new("missing_field", format!("field `{}` is missing", self.path(name)), remedy)
    }

    /// A field contradicts another.
    #[must_use]
    pub fn conflict(&self, name: &str, why: &str, remedy: &str) -> Problem {
        Problem::new("conflicting_fields", format!("field `{}` {why}", self.path(name)), remedy)
    }

    /// A field of the contract that this release does not serve.
    #[must_use]
    pub fn unsupported(&self, name: &str, remedy: &str) -> Problem {
        Problem::new(
            "not_supported_yet",
            format!("field `{}` is not yet supported by this release", self.path(name)),
            remedy,
        )
    }
}

/// The known name that is nearest to `name`, if one is near at all. The comparison
/// takes time and memory with the product of both lengths, so a long name has none.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    const LONGEST: usize = 64;
    if name.len() > LONGEST {
        return None;
    }
    known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(&name.to_lowercase(), candidate), *candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .map(|(_, candidate)| candidate)
}

/// A value for a message: never more of it than helps.
fn shorten(text: &str) -> String {
    const LONGEST: usize = 60;
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    let head: String = text.chars().take(LONGEST).collect();
    format!("{head}…")
}
