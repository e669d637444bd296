//! Print options as flags: they become the header's `options` object, which the
//! one validator of the wire format reads. What it says about a field holds for
//! the flag of that name.

use clap::Args;
use serde_json::{Map, Value};

use super::exit::{Exit, Failure};
use crate::job::{RenderOptions, options};

/// How documents are printed.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Print options")]
pub struct PrintFlags {
    /// 80mm or 58mm (rolls: one page, as high as the content), A4, A5, A6,
    /// Letter, Legal; by default the document's @page size, else A4
    #[arg(long, value_name = "PAPER")]
    paper: Option<String>,
    /// All four margins, like 5mm; by default the document's @page margin, else 0
    /// on a roll, 10mm otherwise
    #[arg(long, value_name = "LENGTH", allow_hyphen_values = true)]
    margin: Option<String>,
    /// Turn the sheet by a quarter
    #[arg(long)]
    landscape: bool,
    /// Magnification, 0.1 to 2 [default: 1]
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true)]
    scale: Option<f64>,
    /// Only these pages, like 1-3,5 [default: all]
    #[arg(long, value_name = "PAGES", allow_hyphen_values = true)]
    pages: Option<String>,
    /// Leave background colours and images out
    #[arg(long)]
    no_background: bool,
    /// Run the document's scripts; what to wait for is in --options '{"wait_for":…}'
    #[arg(long)]
    script: bool,
    /// Add accessibility tags
    #[arg(long)]
    tagged: bool,
    /// Title of the PDF [default: the document's own title]
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// The PDF's only date, RFC 3339: give one where the bytes must be the same each time
    #[arg(long, value_name = "DATE")]
    date: Option<String>,
    /// Milliseconds that one render may take [default: 10000]
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    timeout_ms: Option<u64>,
    /// Any options as the wire format has them, a JSON object; the flags above win
    #[arg(long, value_name = "JSON")]
    options: Option<String>,
}

impl PrintFlags {
    /// The header's `options` object.
    ///
    /// # Errors
    /// Where `--options` is no JSON object, or an option is wrong.
    pub fn object(&self) -> Result<Map<String, Value>, Failure> {
        let mut object = match &self.options {
            None => Map::new(),
            Some(text) => match serde_json::from_str(text) {
                Ok(Value::Object(object)) => object,
                Ok(_) => {
                    return Err(usage(
                        "it is no JSON object",
                        "write it in braces: '{\"margin\":\"5mm\"}'",
                    ));
                }
                Err(error) => {
                    return Err(usage(error, "quote it for the shell: '{\"margin\":\"5mm\"}'"));
                }
            },
        };
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                object.insert(name.to_owned(), value);
            }
        };
        set("paper", self.paper.clone().map(Value::from));
        set("margin", self.margin.clone().map(Value::from));
        set("landscape", self.landscape.then_some(Value::Bool(true)));
        set("scale", self.scale.map(Value::from));
        set("pages", self.pages.clone().map(Value::from));
        set("background", self.no_background.then_some(Value::Bool(false)));
        set("script", self.script.then_some(Value::Bool(true)));
        set("tagged", self.tagged.then_some(Value::Bool(true)));
        set("timeout_ms", self.timeout_ms.map(Value::from));
        for (name, value) in [("title", &self.title), ("date", &self.date)] {
            if let Some(value) = value {
                let info = object.entry("info").or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(info) = info {
                    info.insert(name.to_owned(), Value::from(value.clone()));
                }
            }
        }
        options::parse(&object).map_err(refused)?;
        Ok(object)
    }

    /// The options, read and checked.
    ///
    /// # Errors
    /// As [`PrintFlags::object`].
    pub fn parsed(&self) -> Result<RenderOptions, Failure> {
        options::parse(&self.object()?).map_err(refused)
    }
}

fn refused(problem: crate::job::fields::Problem) -> Failure {
    Failure::new(Exit::Usage, "reading the print options", problem.message, problem.remedy)
}

fn usage(why: impl std::fmt::Display, fix: &str) -> Failure {
    Failure::new(Exit::Usage, "reading --options", why, fix)
}
