//! The layers: reads each, keeps the winner of each key with its source, and
//! collects every mistake on the way.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, ConfigErrors, nearest_key};
use super::values::redact_url;
use super::{Config, DEFAULTS, KEYS, Key, contradictions, key};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `worker-config/default.toml`.
    Default,
    /// A line of the file given with `--config`, counted from 1.
    File {
        /// As it was named.
        path: PathBuf,
        /// The line of the key.
        line: usize,
    },
    /// An environment variable.
    Variable(String),
    /// A flag, with its dashes.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// What the command line says.
#[derive(Debug, Default)]
pub struct Given {
    /// The file of `--config`.
    pub file: Option<PathBuf>,
    /// Each `--set section.key=value`, later ones win.
    pub set: Vec<String>,
    /// Flags that stand for a key: (flag, key, value). They win over `--set`.
    pub flags: Vec<(&'static str, &'static str, String)>,
}

/// One key in force, fit to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: &'static str,
    /// Its value as text; redacted if it is secret.
    pub value: String,
    /// Who set it.
    pub source: Source,
}

/// The configuration with the source of each value.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Each key once, in the table's order.
    pub entries: Vec<Entry>,
}

/// Merges the layers.
///
/// `environment` is looked through for `TILLROLL_…`, `REDIS_URL`, and the
/// variables that `state.dir = "auto"` names.
///
/// # Errors
/// Every mistake in every layer.
pub fn load(
    given: &Given,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded, ConfigErrors> {
    let mut layers = Layers::new(environment);
    layers.toml(DEFAULTS, |_| Source::Default);
    if let Some(path) = &given.file {
        layers.file(path);
    }
    layers.environment();
    layers.command_line(given);
    layers.finish()
}

/// The values won so far, and the mistakes found so far.
struct Layers {
    environment: BTreeMap<OsString, OsString>,
    won: BTreeMap<&'static str, Won>,
    errors: Vec<ConfigError>,
}

/// A value as it was written: may hold a secret, so it has no `Debug`.
struct Won {
    text: String,
    source: Source,
}

impl Layers {
    fn new(environment: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let environment = environment.into_iter().collect();
        Self { environment, won: BTreeMap::new(), errors: Vec::new() }
    }

    /// Takes one value for `name`, unless it is wrong.
    fn put(&mut self, name: &str, text: String, source: Source) {
        let Some(key) = key(name) else {
            let nearest = nearest_key(name).map(|key| key.name.to_owned());
            self.errors.push(ConfigError::Unknown { key: name.into(), source_of: source, nearest });
            return;
        };
        let text = match (key.name, text.as_str()) {
            ("state.dir", "auto") => self.state_dir(),
            _ => text,
        };
        match (key.check)(&text) {
            Ok(_) => {
                self.won.insert(key.name, Won { text, source });
            }
            Err(why) => self.errors.push(wrong(key, &text, source, why)),
        }
    }

    fn file(&mut self, path: &Path) {
        match std::fs::read_to_string(path) {
            Ok(text) => self.toml(&text, |line| Source::File { path: path.into(), line }),
            Err(error) => self
                .errors
                .push(ConfigError::Unreadable { path: path.into(), why: error.to_string() }),
        }
    }

    /// Reads a TOML document. The parser's own messages quote the line, which may
    /// hold a password; only its reasons are passed on.
    fn toml(&mut self, text: &str, source_at: impl Fn(usize) -> Source) {
        let line = |offset: usize| {
            1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count()
        };
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            self.errors.push(ConfigError::Syntax {
                source_of: source_at(line(error.span().map_or(0, |span| span.start))),
                why: error.message().replace('\n', ", "),
            });
        }
        self.table("", document.get_ref(), &|offset| source_at(line(offset)));
    }

    fn table(&mut self, prefix: &str, table: &DeTable<'_>, source_at: &impl Fn(usize) -> Source) {
        for (name, value) in table {
            let path = format!("{prefix}{}", name.get_ref());
            let source = source_at(name.span().start);
            match scalar(value) {
                Scalar::Text(text) => self.put(&path, text, source),
                Scalar::Table(table) if key(&path).is_none() => {
                    self.table(&format!("{path}."), table, source_at);
                }
                Scalar::Table(_) => self.not_scalar(&path, "a table", source),
                Scalar::Other(kind) => self.not_scalar(&path, kind, source),
            }
        }
    }

    fn not_scalar(&mut self, name: &str, kind: &str, source: Source) {
        match key(name) {
            Some(key) => self.errors.push(ConfigError::Wrong {
                key: name.into(),
                value: "…".into(),
                source_of: source,
                why: format!("it is {kind}"),
                expects: (key.expects)(),
            }),
            None => self.put(name, String::new(), source),
        }
    }

    fn environment(&mut self) {
        const PREFIX: &str = "TILLROLL_";
        let mut found = Vec::new();
        for (name, value) in &self.environment {
            let Some(name) = name.to_str() else { continue };
            let value = value.to_string_lossy().into_owned();
            if name == "REDIS_URL" && !value.is_empty() {
                found.push((0, name.to_owned(), "redis.url".to_owned(), value));
            } else if let Some(rest) = name.strip_prefix(PREFIX)
                && !set_by_kubernetes(rest)
                && !of_tests(rest)
            {
                let key = rest.replacen("__", ".", 1).to_lowercase();
                found.push((1, name.to_owned(), key, value));
            }
        }
        found.sort();
        let own_url = found.iter().any(|(rank, _, key, _)| *rank == 1 && key == "redis.url");
        for (rank, variable, name, value) in found {
            // A platform's REDIS_URL may be of a kind that we cannot use; it is no
            // mistake as long as ours stands above it.
            if rank == 0 && own_url {
                continue;
            }
            let source = Source::Variable(variable.clone());
            if key(&name).is_some() {
                self.put(&name, value, source);
            } else {
                let nearest = nearest_key(&name.replacen('_', ".", 1)).or(nearest_key(&name));
                self.errors.push(ConfigError::Unknown {
                    key: variable,
                    source_of: Source::Variable("in the environment".into()),
                    nearest: nearest.map(Key::variable),
                });
            }
        }
    }

    fn command_line(&mut self, given: &Given) {
        for assignment in &given.set {
            match assignment.split_once('=') {
                Some((name, value)) => {
                    self.put(name.trim(), value.trim().into(), Source::Flag("--set".into()));
                }
                None => self.errors.push(ConfigError::NotAssignment { given: assignment.clone() }),
            }
        }
        for (flag, name, value) in &given.flags {
            self.put(name, value.clone(), Source::Flag((*flag).into()));
        }
    }

    /// What `state.dir = "auto"` is here.
    fn state_dir(&self) -> String {
        let absolute = |name: &str| {
            let value = self.environment.get(&OsString::from(name))?.to_str()?;
            // systemd gives several directories as a:b; the first is ours.
            let first = value.split(':').next()?;
            Path::new(first).is_absolute().then(|| first.to_owned())
        };
        absolute("STATE_DIRECTORY")
            .or_else(|| absolute("XDG_STATE_HOME").map(|base| format!("{base}/tillroll")))
            .or_else(|| absolute("HOME").map(|home| format!("{home}/.local/state/tillroll")))
            .unwrap_or_else(|| "/var/lib/tillroll".into())
    }

    fn finish(mut self) -> Result<Loaded, ConfigErrors> {
        let text_of = |name| self.won.get(name).map(|won| won.text.as_str());
        let Some(config) = Config::build(text_of) else {
            // A wrong value is in the list; a key without any is our own mistake.
            if self.errors.is_empty() {
                let unset = KEYS.iter().filter(|key| !self.won.contains_key(key.name));
                let mistake = |key| wrong(key, "", Source::Default, "it has no default".into());
                self.errors = unset.map(mistake).collect();
            }
            return Err(ConfigErrors(self.errors));
        };
        for (name, why) in contradictions(&config) {
            let entry = self.won.get(name);
            self.errors.push(ConfigError::Contradiction {
                key: name.into(),
                value: entry.map_or_else(String::new, |won| won.text.clone()),
                source_of: entry.map_or(Source::Default, |won| won.source.clone()),
                why,
            });
        }
        if !self.errors.is_empty() {
            return Err(ConfigErrors(self.errors));
        }
        let entries = KEYS.iter().filter_map(|key| {
            let won = self.won.get(key.name)?;
            let value = (key.check)(&won.text).ok()?;
            Some(Entry { key: key.name, value, source: won.source.clone() })
        });
        Ok(Loaded { config, entries: entries.collect() })
    }
}

fn wrong(key: &Key, text: &str, source: Source, why: String) -> ConfigError {
    ConfigError::Wrong {
        key: key.name.into(),
        value: if key.secret { redact_url(text) } else { text.into() },
        source_of: source,
        why,
        expects: (key.expects)(),
    }
}

/// A value of TOML, as far as it can be one of ours.
enum Scalar<'a, 'i> {
    /// As it would stand in a variable or behind a flag.
    Text(String),
    Table(&'a DeTable<'i>),
    Other(&'static str),
}

fn scalar<'a, 'i>(value: &'a Spanned<DeValue<'i>>) -> Scalar<'a, 'i> {
    match value.get_ref() {
        DeValue::String(text) => Scalar::Text(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Scalar::Text(number.as_str().into()),
        DeValue::Integer(_) => Scalar::Other("not a decimal number"),
        DeValue::Float(number) => Scalar::Text(number.as_str().into()),
        DeValue::Boolean(truth) => Scalar::Text(truth.to_string()),
        DeValue::Table(table) => Scalar::Table(table),
        DeValue::Array(_) => Scalar::Other("an array"),
        DeValue::Datetime(_) => Scalar::Other("a date"),
    }
}

/// Kubernetes sets such variables in every pod beside a Service that is called
/// `tillroll`; they are nobody's typing mistake.
fn set_by_kubernetes(rest: &str) -> bool {
    let port = |text: &str| text == "PORT" || text.starts_with("PORT_");
    rest == "SERVICE_HOST" || port(rest) || rest.strip_prefix("SERVICE_").is_some_and(port)
}

/// Switches of tests are no settings; release builds do not know them.
fn of_tests(rest: &str) -> bool {
    cfg!(debug_assertions) && rest.starts_with("TEST_")
}
