//! Which Chromium: the search, and what it refuses.
//!
//! The headless shell comes first: measured at two and a half times the speed
//! and half the memory of the full browser. What is found must be the program
//! itself: Debian's `/usr/bin/chromium*` are shell scripts that do not `exec`,
//! so killing them would orphan Chromium, and a snap cannot be put into our
//! jail. Both are resolved to the program behind them or refused by name.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// What kind of Chromium an engine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// The headless shell: only what rendering needs; knows begin-frame control.
    HeadlessShell,
    /// The full browser in its headless mode.
    Chromium,
}

/// A Chromium that can be spawned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// The program itself, with all links resolved.
    pub path: PathBuf,
    /// Which kind it is.
    pub kind: EngineKind,
}

/// Where to look.
#[derive(Debug, Clone)]
pub struct Search {
    /// `renderer.path`: if set, nothing else is looked at.
    pub configured: Option<PathBuf>,
    /// The home directory whose Playwright and Puppeteer caches are searched.
    pub home: Option<PathBuf>,
    /// The directories of `PATH`.
    pub path: Vec<PathBuf>,
    /// What stands before every absolute path: `/`.
    pub root: PathBuf,
}

impl Default for Search {
    fn default() -> Self {
        Self { configured: None, home: None, path: Vec::new(), root: PathBuf::from("/") }
    }
}

/// Why one candidate was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not there.
    #[error("not found")]
    Missing,
    /// It is a shell script; killing it would leave Chromium running.
    #[error("a wrapper script, and the program behind it was not found")]
    Wrapper,
    /// It comes from a snap, which cannot run in our jail.
    #[error("a snap, which cannot run inside the jail")]
    Snap,
    /// It is not an ELF program, or not executable.
    #[error("not an executable program")]
    NotAProgram,
    /// It could not be read.
    #[error("cannot be read: {0}")]
    Unreadable(String),
}

/// No engine was found, or the one found does not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The configured path is no engine.
    #[error(
        "renderer.path is {}: {refusal}; point it at a Chromium program \
         (Debian: /usr/lib/chromium/chromium-headless-shell) or remove it",
        path.display()
    )]
    Configured {
        /// `renderer.path`.
        path: PathBuf,
        /// What is wrong with it.
        refusal: Refusal,
    },
    /// Nothing usable anywhere.
    #[error(
        "no Chromium found; install one with `apt-get install chromium-headless-shell`, \
         or set renderer.path. Looked at:{}",
        list(looked)
    )]
    NotFound {
        /// Where it looked, and why each was not taken.
        looked: Vec<(PathBuf, Refusal)>,
    },
    /// It does not tell its version.
    #[error("{} --version failed: {detail}; reinstall it or set renderer.path", path.display())]
    Version {
        /// The engine.
        path: PathBuf,
        /// What happened.
        detail: String,
    },
}

fn list(looked: &[(PathBuf, Refusal)]) -> String {
    looked.iter().map(|(path, why)| format!("\n  {}: {why}", path.display())).collect()
}

/// Headless shells of distributions.
const SHELLS: &[&str] = &[
    "/usr/lib/chromium/chromium-headless-shell",
    "/usr/lib64/chromium-browser/headless_shell",
    "/opt/chrome-headless-shell/chrome-headless-shell",
    "/opt/chrome-headless-shell-linux64/chrome-headless-shell",
];

/// Full browsers; the snap last, so that the error can name it.
const BROWSERS: &[&str] = &[
    "/usr/lib/chromium/chromium",
    "/usr/lib64/chromium-browser/chromium-browser",
    "/usr/lib/chromium-browser/chromium-browser",
    "/opt/google/chrome/chrome",
    "/snap/bin/chromium",
];

/// Caches below the home directory: the versions' directory, the beginning of
/// a version's name, and the program below that.
const CACHES: &[(&str, &str, &[&str], EngineKind)] = &[
    (
        ".cache/ms-playwright",
        "chromium_headless_shell-",
        &[
            "chrome-headless-shell-linux64/chrome-headless-shell",
            "chrome-linux/headless_shell",
            "chrome-linux64/headless_shell",
        ],
        EngineKind::HeadlessShell,
    ),
    (
        ".cache/puppeteer/chrome-headless-shell",
        "linux",
        &["chrome-headless-shell-linux64/chrome-headless-shell"],
        EngineKind::HeadlessShell,
    ),
    (
        ".cache/ms-playwright",
        "chromium-",
        &["chrome-linux64/chrome", "chrome-linux/chrome"],
        EngineKind::Chromium,
    ),
    (".cache/puppeteer/chrome", "linux", &["chrome-linux64/chrome"], EngineKind::Chromium),
];

/// Names to try in `PATH`.
const NAMES: &[(&str, EngineKind)] = &[
    ("chromium-headless-shell", EngineKind::HeadlessShell),
    ("chrome-headless-shell", EngineKind::HeadlessShell),
    ("chromium", EngineKind::Chromium),
    ("chromium-browser", EngineKind::Chromium),
    ("google-chrome-stable", EngineKind::Chromium),
    ("google-chrome", EngineKind::Chromium),
];

/// Finds the engine. A configured path wins, and then nothing else counts.
///
/// # Errors
/// [`EngineError::Configured`], [`EngineError::NotFound`].
pub fn find(search: &Search) -> Result<Engine, EngineError> {
    if let Some(path) = &search.configured {
        return accept(path, &search.root)
            .map_err(|refusal| EngineError::Configured { path: path.clone(), refusal });
    }
    let mut looked = Vec::new();
    for path in candidates(search) {
        match accept(&path, &search.root) {
            Ok(engine) => return Ok(engine),
            Err(refusal) => looked.push((path, refusal)),
        }
    }
    Err(EngineError::NotFound { looked })
}

fn candidates(search: &Search) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for wanted in [EngineKind::HeadlessShell, EngineKind::Chromium] {
        let fixed = if wanted == EngineKind::HeadlessShell { SHELLS } else { BROWSERS };
        found.extend(fixed.iter().map(|path| below(&search.root, Path::new(path))));
        let names = NAMES.iter().filter(|(_, kind)| *kind == wanted);
        for (name, _) in names {
            // What is not there says nothing: PATH is long.
            found.extend(search.path.iter().map(|dir| dir.join(name)).filter(|p| p.exists()));
        }
        for (cache, prefix, programs, _) in CACHES.iter().filter(|cache| cache.3 == wanted) {
            let Some(home) = &search.home else { continue };
            for version in newest_first(&home.join(cache), prefix) {
                found.extend(programs.iter().map(|p| version.join(p)).filter(|p| p.exists()));
            }
        }
    }
    found
}

/// The directories in `dir` whose names begin with `prefix`, by version.
fn newest_first(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut versions: Vec<(Vec<u64>, PathBuf)> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let numbers = name.split(|c: char| !c.is_ascii_digit());
            (numbers.filter_map(|n| n.parse().ok()).collect(), entry.path())
        })
        .collect();
    versions.sort();
    versions.into_iter().rev().map(|(_, path)| path).collect()
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Takes a path, or the program behind a known wrapper at that path.
fn accept(path: &Path, root: &Path) -> Result<Engine, Refusal> {
    let real = path.canonicalize().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Refusal::Missing,
        _ => Refusal::Unreadable(error.to_string()),
    })?;
    // /snap/bin/chromium is a link to /usr/bin/snap.
    let snap = below(root, Path::new("/snap"));
    if path.starts_with(&snap) || real.starts_with(&snap) || real.ends_with("usr/bin/snap") {
        return Err(Refusal::Snap);
    }
    match magic(&real)? {
        [b'#', b'!', ..] => behind_wrapper(path, &real, root),
        [0x7f, b'E', b'L', b'F'] if is_executable(&real) => {
            Ok(Engine { kind: kind_of(&real), path: real })
        }
        _ => Err(Refusal::NotAProgram),
    }
}

fn behind_wrapper(path: &Path, real: &Path, root: &Path) -> Result<Engine, Refusal> {
    let text = std::fs::read_to_string(real).unwrap_or_default();
    if text.contains("/snap/bin/") {
        return Err(Refusal::Snap);
    }
    let name = path.file_name().unwrap_or_default();
    let beside = real.parent().map(|dir| dir.join("chrome"));
    let known = [
        below(root, Path::new("/usr/lib/chromium")).join(name),
        below(root, Path::new("/usr/lib64/chromium-browser")).join(name),
        below(root, Path::new("/usr/lib/chromium-browser")).join(name),
    ];
    for program in known.into_iter().chain(beside) {
        let Ok(program) = program.canonicalize() else { continue };
        if magic(&program)? == *b"\x7fELF" && is_executable(&program) {
            return Ok(Engine { kind: kind_of(&program), path: program });
        }
    }
    Err(Refusal::Wrapper)
}

fn magic(path: &Path) -> Result<[u8; 4], Refusal> {
    if !path.is_file() {
        return Err(Refusal::NotAProgram);
    }
    let mut bytes = [0; 4];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut bytes));
    match read {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(Refusal::NotAProgram)
        }
        Err(error) => Err(Refusal::Unreadable(error.to_string())),
    }
}

fn is_executable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

fn kind_of(program: &Path) -> EngineKind {
    let name = program.file_name().unwrap_or_default().to_string_lossy().replace('_', "-");
    if name.contains("headless-shell") { EngineKind::HeadlessShell } else { EngineKind::Chromium }
}

/// How long `--version` may take: a cold disk reads 200 MB.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// What the engine calls itself, such as `Chromium 156.0.8078.79`. It runs
/// outside the jail and sees no document.
///
/// # Errors
/// [`EngineError::Version`].
pub async fn version(engine: &Engine) -> Result<String, EngineError> {
    let failed = |detail: String| EngineError::Version { path: engine.path.clone(), detail };
    let output = tokio::process::Command::new(&engine.path)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(VERSION_TIMEOUT, output).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed(format!("no answer within {VERSION_TIMEOUT:?}"))),
    };
    let line = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || line.is_empty() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(failed(format!("{}, {said:?}", output.status)));
    }
    Ok(line)
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
