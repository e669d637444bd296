//! `--assets DIR`: the files of a directory, as assets of a document.
//!
//! A file is found by its path within the directory, and by the same path after
//! the directory's own name: with `--assets static`, both `logo.png` and
//! `/static/logo.png` are `static/logo.png` of the disk.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::exit::{Exit, Failure};
use crate::job::assets::{Asset, is_name, media_type_of};

/// No more files than this, whatever the directory holds.
const MAX_FILES: usize = 1000;
/// And no more bytes than this in all of them.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Reads the directory, and those in it. Files of other kinds than images, fonts
/// and style sheets are passed over.
///
/// # Errors
/// Where something cannot be read, or it is too much.
pub(super) fn read(dir: &Path) -> Result<Vec<Asset>, Failure> {
    let what = || format!("reading the assets in {}", dir.display());
    let unreadable = |error: std::io::Error| {
        Failure::new(Exit::Document, what(), error, "name a directory that you may read")
    };
    let mount = dir.canonicalize().map_err(unreadable)?;
    let mount = mount.file_name().map(|name| name.to_string_lossy().into_owned());
    let mut open: Vec<PathBuf> = vec![dir.to_owned()];
    let mut assets = Vec::new();
    let (mut files, mut bytes) = (0, 0);
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let path = entry.path();
            // Links are not followed: they could lead around in a circle.
            let kind = entry.file_type().map_err(unreadable)?;
            if kind.is_dir() {
                open.push(path);
                continue;
            }
            let Some(name) = path.strip_prefix(dir).ok().and_then(Path::to_str) else { continue };
            let (Some(media_type), true) = (media_type_of(name), is_name(name) && kind.is_file())
            else {
                continue;
            };
            files += 1;
            bytes += entry.metadata().map_err(unreadable)?.len();
            if files > MAX_FILES || bytes > MAX_BYTES {
                return Err(Failure::new(
                    Exit::Document,
                    what(),
                    format!("there are more than {MAX_FILES} files or {} MiB", MAX_BYTES >> 20),
                    "name a directory with what the documents need only",
                ));
            }
            let content = Bytes::from(std::fs::read(&path).map_err(unreadable)?);
            if let Some(mount) = &mount {
                let name = format!("{mount}/{name}");
                assets.push(Asset { name, media_type, bytes: content.clone() });
            }
            assets.push(Asset { name: name.to_owned(), media_type, bytes: content });
        }
    }
    Ok(assets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_by_its_path_with_and_without_the_directory() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("static");
        std::fs::create_dir_all(dir.join("img")).unwrap();
        for name in ["logo.png", "img/seal.svg", "notes.txt", "sp ace.png"] {
            std::fs::write(dir.join(name), name).unwrap();
        }
        let mut found: Vec<_> = read(&dir).unwrap().into_iter().map(|asset| asset.name).collect();
        found.sort();
        assert_eq!(found, ["img/seal.svg", "logo.png", "static/img/seal.svg", "static/logo.png"]);
    }

    #[test]
    fn a_directory_that_is_not_there_is_told() {
        let failure = read(Path::new("/nonexistent/static")).unwrap_err();
        assert!(failure.what.contains("/nonexistent/static") && !failure.fix.is_empty());
    }
}
