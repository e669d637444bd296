//! Documents from files or stdin, PDFs into files or stdout.

use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::exit::{Exit, Failure};
use crate::job::MAX_ELEMENT_BYTES;

/// One input of a verb.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// `-`.
    Stdin,
    /// A file.
    File(PathBuf),
}

impl Input {
    /// What a user typed: `-` is stdin.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        if path.as_os_str() == "-" { Self::Stdin } else { Self::File(path.to_owned()) }
    }

    /// What a user typed, with the .html files of each directory in its place.
    ///
    /// # Errors
    /// Where a directory cannot be listed, or has no such file.
    pub fn all(paths: &[PathBuf]) -> Result<Vec<Self>, Failure> {
        let mut inputs = Vec::with_capacity(paths.len());
        for path in paths {
            if path.is_dir() {
                inputs.extend(documents(path)?.into_iter().map(Self::File));
            } else {
                inputs.push(Self::new(path));
            }
        }
        Ok(inputs)
    }

    /// What it is called in messages.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Stdin => "stdin".to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }

    /// The file's name without its ending: the default name of the PDF.
    #[must_use]
    pub fn stem(&self) -> String {
        match self {
            Self::Stdin => "stdin".to_owned(),
            Self::File(path) => path
                .file_stem()
                .map_or_else(|| "document".to_owned(), |stem| stem.to_string_lossy().into_owned()),
        }
    }

    /// Reads the document.
    ///
    /// # Errors
    /// Where it cannot be read, is empty, too large, or no UTF-8.
    pub fn read(&self) -> Result<String, Failure> {
        let what = || format!("reading {}", self.shown());
        let mut bytes = Vec::new();
        // One byte more than is allowed tells "too large" without reading it all.
        let most = MAX_ELEMENT_BYTES as u64 + 1;
        let read = match self {
            Self::Stdin => std::io::stdin().lock().take(most).read_to_end(&mut bytes),
            Self::File(path) => {
                std::fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes))
            }
        };
        read.map_err(|error| {
            let fix = match error.kind() {
                std::io::ErrorKind::NotFound => "check the path",
                std::io::ErrorKind::PermissionDenied => "check the file's permissions",
                std::io::ErrorKind::IsADirectory => "name the files in it",
                _ => "check the file and its disk",
            };
            Failure::new(Exit::Document, what(), error, fix)
        })?;
        if bytes.len() > MAX_ELEMENT_BYTES {
            return Err(Failure::new(
                Exit::Document,
                what(),
                format!("it is larger than {MAX_ELEMENT_BYTES} bytes"),
                "shrink inline images, or split the document",
            ));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            Failure::new(
                Exit::Document,
                what(),
                format!("it is no valid UTF-8 (byte {at})"),
                "save it as UTF-8 (iconv -t UTF-8)",
            )
        })?;
        if text.trim().is_empty() {
            return Err(Failure::new(
                Exit::Document,
                what(),
                "it is empty",
                "give a file with the receipt's HTML",
            ));
        }
        Ok(text)
    }
}

/// The .html and .htm files of a directory, not of those in it, by name.
fn documents(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |why: String, fix: &str| {
        Failure::new(Exit::Document, format!("reading {}", dir.display()), why, fix)
    };
    let entries = std::fs::read_dir(dir)
        .map_err(|error| failed(error.to_string(), "check the directory's permissions"))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry
            .map_err(|error| failed(error.to_string(), "check the directory and its disk"))?
            .path();
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        if ["html", "htm"].contains(&ending.to_ascii_lowercase().as_str()) {
            found.push(path);
        }
    }
    if found.is_empty() {
        return Err(failed(
            "there is no .html file in it".to_owned(),
            "name the files, or the directory that they are in",
        ));
    }
    found.sort();
    Ok(found)
}

/// Makes a directory for results, with those above it.
///
/// # Errors
/// Where that is not allowed, or a file is in its place.
pub fn make_dir(dir: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(dir).map_err(|error| {
        let fix = "choose a directory that you may write to";
        Failure::new(Exit::Unexpected, format!("making {}", dir.display()), error, fix)
    })
}

/// Writes a PDF, whole or not at all: into a file beside it first, then renamed.
/// Where the path is a link, what it points to is written; a device or a pipe is
/// written as it is, never replaced.
///
/// # Errors
/// Where the directory cannot be written, or the disk is full.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        let fix = write_remedy(&error);
        Failure::new(Exit::Unexpected, format!("writing {}", path.display()), error, fix)
    };
    let special = std::fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir());
    if special {
        let mut options = std::fs::OpenOptions::new();
        return options
            .write(true)
            .open(path)
            .and_then(|mut file| file.write_all(bytes))
            .map_err(failed);
    }
    // What is not there yet has no link to follow.
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut partial = target.as_os_str().to_owned();
    partial.push(format!(".{}.part", std::process::id()));
    let partial = PathBuf::from(partial);
    let written = std::fs::File::create(&partial).and_then(|mut file| file.write_all(bytes));
    if let Err(error) = written.and_then(|()| std::fs::rename(&partial, &target)) {
        // What could not be written whole must not be left behind; that it may
        // not be there to be removed is no news.
        std::fs::remove_file(&partial).unwrap_or_default();
        return Err(failed(error));
    }
    Ok(())
}

/// Writes what may be private into a new file that only its owner may read. A
/// device or a pipe is written as it is; a file that is there is never touched.
///
/// # Errors
/// Where there is such a file, the directory cannot be written, or the disk is full.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    if std::fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir()) {
        return write(path, bytes);
    }
    let failed = |error: std::io::Error| {
        let fix = match error.kind() {
            std::io::ErrorKind::AlreadyExists => "name a new file, or remove that one first",
            _ => write_remedy(&error),
        };
        Failure::new(Exit::Unexpected, format!("writing {}", path.display()), error, fix)
    };
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(bytes).map_err(|error| {
        // What could not be written whole must not be left behind.
        std::fs::remove_file(path).unwrap_or_default();
        failed(error)
    })
}

fn write_remedy(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::NotFound => "make the directory first",
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            "choose a directory that you may write to"
        }
        std::io::ErrorKind::StorageFull => "free some disk space",
        std::io::ErrorKind::IsADirectory => "name a file, or another directory",
        std::io::ErrorKind::BrokenPipe => "check what reads it",
        _ => "check the directory and its disk",
    }
}

/// Writes a PDF to stdout.
///
/// # Errors
/// Where stdout is closed or full.
pub fn write_stdout(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| {
        let fix = write_remedy(&error);
        Failure::new(Exit::Unexpected, "writing to stdout", error, fix)
    })
}
