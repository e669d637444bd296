//! What a browser is made from on disk, and whether that is still the same: the
//! engine's file, by the same search as at the start, and the fonts.
//!
//! A file counts as another one when its inode, size or time of change does, so
//! nothing is read but directories and the first bytes of an engine. A
//! distribution's fonts are some hundred files: a look takes milliseconds.

use std::collections::hash_map::DefaultHasher;
use std::fs::Metadata;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::engine::{self, Engine, Search};

/// Where fontconfig's files and fonts are that the jail shows.
const FONTS: [&str; 3] = ["/etc/fonts", "/usr/share/fonts", "/usr/local/share/fonts"];

/// Directories are looked through so deep, and for so many entries: more than all
/// fonts of a distribution.
const LEVELS: u32 = 8;
const ENTRIES: usize = 20_000;

/// What to look at.
#[derive(Debug, Clone)]
pub struct Files {
    /// How the engine is found; `None`: it is the one that was given.
    pub search: Option<Search>,
    /// Directories of fonts and of their configuration.
    pub fonts: Vec<PathBuf>,
}

impl Files {
    /// The engine by this search, and the system's fonts.
    #[must_use]
    pub fn of_system(search: Search) -> Self {
        Self { search: Some(search), fonts: FONTS.iter().map(PathBuf::from).collect() }
    }

    /// Which engine there is now; or why there is none, with the remedy. Waits for
    /// the disk.
    ///
    /// # Errors
    /// What [`engine::find`] says.
    pub fn engine(&self, given: &Engine) -> Result<Engine, String> {
        match &self.search {
            Some(search) => engine::find(search).map_err(|error| error.to_string()),
            None => Ok(given.clone()),
        }
    }

    /// Looks. Waits for the disk.
    #[must_use]
    pub fn look(&self, given: &Engine) -> Seen {
        let engine = self.engine(given);
        let file = engine.as_ref().ok().and_then(|engine| engine.path.metadata().ok());
        let mut left = ENTRIES;
        let fonts = self.fonts.iter().map(|dir| below(dir, LEVELS, &mut left));
        Seen { file: file.as_ref().map(mark), fonts: fonts.fold(0, u64::wrapping_add), engine }
    }
}

/// What was there at one look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The engine, or why there is none.
    pub engine: Result<Engine, String>,
    file: Option<u64>,
    fonts: u64,
}

impl Seen {
    /// That nothing could be seen, because of `why`.
    #[must_use]
    pub fn nothing(why: String) -> Self {
        Self { engine: Err(why), file: None, fonts: 0 }
    }

    /// What differs from another look, in words; `None` if nothing does.
    #[must_use]
    pub fn differs(&self, other: &Self) -> Option<&'static str> {
        let engine = (&self.engine, self.file) != (&other.engine, other.file);
        match (engine, self.fonts != other.fonts) {
            (false, false) => None,
            (true, false) => Some("the engine"),
            (false, true) => Some("the fonts"),
            (true, true) => Some("the engine and the fonts"),
        }
    }
}

fn mark(about: &Metadata) -> u64 {
    let mut hasher = DefaultHasher::new();
    (about.dev(), about.ino(), about.size()).hash(&mut hasher);
    (about.mtime(), about.mtime_nsec()).hash(&mut hasher);
    hasher.finish()
}

/// The marks of all that is below a directory, in whatever order it comes.
fn below(dir: &Path, levels: u32, left: &mut usize) -> u64 {
    let mut sum = 0_u64;
    // What cannot be read cannot be used either, until that changes.
    let Ok(entries) = std::fs::read_dir(dir) else { return sum };
    for entry in entries.flatten() {
        if *left == 0 {
            break;
        }
        *left -= 1;
        let path = entry.path();
        let Ok(about) = path.metadata() else { continue };
        let mut hasher = DefaultHasher::new();
        (entry.file_name(), mark(&about)).hash(&mut hasher);
        sum = sum.wrapping_add(hasher.finish());
        if about.is_dir() && levels > 0 {
            sum = sum.wrapping_add(below(&path, levels - 1, left));
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::renderer::engine::EngineKind;

    fn elf(path: &Path) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(path, b"\x7fELF").unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn another_engine_behind_the_same_path_is_noticed_and_the_first_one_known_again() {
        let dir = tempfile::tempdir().unwrap();
        let (link, one, two) =
            (dir.path().join("engine"), dir.path().join("one"), dir.path().join("two"));
        elf(&one);
        elf(&two);
        let search = Search { configured: Some(link.clone()), ..Search::default() };
        let files = Files { search: Some(search), fonts: Vec::new() };
        let given = Engine { path: one.clone(), kind: EngineKind::Chromium };
        let point_to = |file: &Path| {
            drop(std::fs::remove_file(&link));
            std::os::unix::fs::symlink(file, &link).unwrap();
            files.look(&given)
        };
        let first = point_to(&one);
        assert_eq!(first, files.look(&given));
        let second = point_to(&two);
        assert_eq!(first.differs(&second), Some("the engine"));
        assert_eq!(first.differs(&point_to(&one)), None);
        // Written anew, in the same place.
        std::fs::remove_file(&one).unwrap();
        std::fs::write(&two, b"\x7fELF, longer").unwrap();
        std::fs::rename(&two, &one).unwrap();
        assert_eq!(first.differs(&files.look(&given)), Some("the engine"));
        std::fs::write(&one, b"#!/bin/sh").unwrap();
        let why = files.look(&given).engine.unwrap_err();
        assert!(why.contains("wrapper script"), "{why}");
    }

    #[test]
    fn a_font_that_comes_changes_or_goes_is_noticed_wherever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("truetype/shop");
        std::fs::create_dir_all(&deep).unwrap();
        let files = Files { search: None, fonts: vec![dir.path().into(), "/nowhere".into()] };
        let given = Engine { path: "/nowhere/engine".into(), kind: EngineKind::HeadlessShell };
        let look = || files.look(&given);
        let before = look();
        std::fs::write(deep.join("a.ttf"), b"font").unwrap();
        let with = look();
        assert_eq!(before.differs(&with), Some("the fonts"));
        std::fs::write(deep.join("a.ttf"), b"another").unwrap();
        let changed = look();
        assert_eq!(with.differs(&changed), Some("the fonts"));
        assert_eq!(changed.differs(&look()), None);
        std::fs::remove_file(deep.join("a.ttf")).unwrap();
        assert_eq!(changed.differs(&look()), Some("the fonts"));
    }

    #[test]
    fn directories_that_lead_into_themselves_come_to_an_end() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("self")).unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("again")).unwrap();
        let mut left = 100;
        below(dir.path(), LEVELS, &mut left);
        assert_eq!(left, 0);
    }
}
