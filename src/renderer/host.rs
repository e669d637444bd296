//! What of the host the jail shows: only what Chromium opens.
//!
//! Found out by watching a browser start and print in many scripts: the engine's
//! directory, shared libraries with the loader, fontconfig's files and caches, the
//! fonts. Of libraries the architecture's directory is enough where there is one
//! (Debian and its kin), so that nothing of `/usr/lib`'s many helper programs is
//! there. Font directories are those that fontconfig's configuration names, and
//! where links in them lead to.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::jail::Jail;

/// Font directories are looked through for links so deep.
const FONT_LEVELS: u32 = 4;
/// And for so many entries: twice what all of Debian's fonts have.
const FONT_ENTRIES: usize = 20_000;

/// bubblewrap bounds a tmpfs from this version on.
const BOUNDS_TMPFS: (u32, u32) = (0, 7);

/// What of the host's file system the jail shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Host {
    /// Directories at the root that are links, as on every current
    /// distribution: (`usr/lib`, `/lib`).
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Directories and files shown read-only where they are.
    pub shown: Vec<PathBuf>,
    /// Directories of `/proc` that are none of the jail's business. Where the
    /// worker runs as root, the jail's user is the host's root to the kernel,
    /// which may write in there (seen: `core_pattern`, that is, any command).
    pub hidden_dirs: Vec<PathBuf>,
    /// Files of `/proc` that only the host's root may read, or may write.
    pub hidden_files: Vec<PathBuf>,
    /// Whether this bubblewrap can bound the size of a tmpfs.
    pub bounds_tmpfs: bool,
}

impl Host {
    /// Looks at the host, and asks bubblewrap for its version. Takes some
    /// milliseconds, and waits.
    #[must_use]
    pub fn probe(jail: &Jail) -> Self {
        let bounds_tmpfs = match jail {
            Jail::Bwrap { path } => version(path).is_some_and(|version| version >= BOUNDS_TMPFS),
            Jail::None => false,
        };
        Self { bounds_tmpfs, ..Self::look(Path::new("/")) }
    }

    /// Looks at the file system below `root`.
    fn look(root: &Path) -> Self {
        let mut host = Self::default();
        for dir in ["/lib", "/lib64"] {
            if let Ok(target) = std::fs::read_link(at(root, Path::new(dir))) {
                host.links.push((target, dir.into()));
            }
        }
        host.show_libraries(root);
        host.hide_proc(root);
        for dir in ["/etc/fonts", "/usr/share/fontconfig", "/var/cache/fontconfig"] {
            host.show(root, dir.into());
        }
        for dir in font_dirs(root) {
            host.show(root, dir.clone());
            let (mut found, mut seen) = (Vec::new(), 0);
            links_in(&at(root, &dir), FONT_LEVELS, &mut seen, &mut found);
            for place in found {
                let place =
                    place.strip_prefix(root).map_or(place.clone(), |p| Path::new("/").join(p));
                host.show(root, place);
            }
        }
        host
    }

    fn show_libraries(&mut self, root: &Path) {
        for lib in ["/usr/lib", "/lib"] {
            if self.is_link(lib) {
                continue;
            }
            let entries = std::fs::read_dir(at(root, Path::new(lib))).into_iter().flatten();
            let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
            names.sort();
            let is_libraries = |name: &&OsString| {
                let path = at(root, Path::new(lib)).join(name);
                name.to_string_lossy().contains("-linux-gnu") && path.is_dir()
            };
            let is_loader = |name: &&OsString| name.to_string_lossy().starts_with("ld-linux");
            let of_architecture: Vec<_> = names.iter().filter(is_libraries).collect();
            if of_architecture.is_empty() {
                self.show(root, lib.into());
                continue;
            }
            // The loader stands beside it on some architectures.
            for name in of_architecture.into_iter().chain(names.iter().filter(is_loader)) {
                self.show(root, Path::new(lib).join(name));
            }
        }
        for lib in ["/usr/lib64", "/lib64"] {
            if !self.is_link(lib) {
                self.show(root, lib.into());
            }
        }
    }

    fn hide_proc(&mut self, root: &Path) {
        let entries = std::fs::read_dir(at(root, Path::new("/proc"))).into_iter().flatten();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let is_process = name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
            let Ok(about) = entry.metadata() else { continue };
            let path = Path::new("/proc").join(name);
            if about.is_dir() && !is_process {
                self.hidden_dirs.push(path);
            } else if about.is_file() && (about.mode() & 0o222 != 0 || about.mode() & 0o004 == 0) {
                self.hidden_files.push(path);
            }
        }
        self.hidden_dirs.sort();
        self.hidden_files.sort();
    }

    fn is_link(&self, dir: &str) -> bool {
        self.links.iter().any(|(_, link)| link == Path::new(dir))
    }

    /// Shows what is there and not shown already. Never all of the root.
    fn show(&mut self, root: &Path, path: PathBuf) {
        let is_new = !self.shown.iter().any(|shown| path.starts_with(shown));
        if is_new && path.parent().is_some() && at(root, &path).exists() {
            self.shown.retain(|shown| !shown.starts_with(&path));
            self.shown.push(path);
        }
    }
}

/// An absolute path below another root.
fn at(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn version(bwrap: &Path) -> Option<(u32, u32)> {
    let mut command = Command::new(bwrap);
    command.arg("--version").env_clear().stdin(Stdio::null()).stderr(Stdio::null());
    parse_version(&String::from_utf8(command.output().ok()?.stdout).ok()?)
}

/// Reads `bubblewrap 0.8.0`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_whitespace().nth(1)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The absolute directories that fontconfig's configuration names.
fn font_dirs(root: &Path) -> Vec<PathBuf> {
    let folder = at(root, Path::new("/etc/fonts"));
    let mut files = vec![folder.join("fonts.conf"), folder.join("local.conf")];
    let more = std::fs::read_dir(folder.join("conf.d")).into_iter().flatten().flatten();
    files.extend(more.map(|entry| entry.path()));
    files.sort();
    let mut dirs = vec![PathBuf::from("/usr/share/fonts"), PathBuf::from("/usr/local/share/fonts")];
    for text in files.iter().filter_map(|file| std::fs::read_to_string(file).ok()) {
        dirs.extend(dirs_in(&text));
    }
    dirs
}

/// What stands between `<dir>` and `</dir>`, where it is absolute.
fn dirs_in(conf: &str) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for piece in conf.split("<dir").skip(1) {
        let Some((attributes, rest)) = piece.split_once('>') else { continue };
        let Some((dir, _)) = rest.split_once("</dir>") else { continue };
        let dir = Path::new(dir.trim());
        let is_root = dir.parent().is_none();
        if attributes.trim().is_empty() && dir.is_absolute() && !is_root {
            dirs.push(dir.to_owned());
        }
    }
    dirs
}

/// The files and directories to which links below `dir` lead. Of a file it is only
/// the file: its directory may be somebody's home.
fn links_in(dir: &Path, levels: u32, seen: &mut usize, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        *seen += 1;
        if *seen > FONT_ENTRIES {
            return;
        }
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && levels > 1 {
            links_in(&entry.path(), levels - 1, seen, found);
        } else if kind.is_symlink()
            && let Ok(target) = std::fs::canonicalize(entry.path())
        {
            found.push(target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(root: &Path, files: &[&str]) {
        for file in files {
            let path = at(root, Path::new(file));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
    }

    fn shown(root: &Path) -> Vec<String> {
        let host = Host::look(root);
        host.shown.iter().map(|path| path.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn debian_shows_its_libraries_and_no_program() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(dir.path()).unwrap();
        let libs = "/usr/lib/x86_64-linux-gnu";
        make(
            &root,
            &[
                "/usr/bin/sh",
                "/usr/lib/git-core/git",
                "/usr/lib/ld-linux-x.so.1",
                "/usr/lib64/ld.so",
                &format!("{libs}/libc.so.6"),
                "/usr/share/doc/x",
                "/usr/share/fonts/a/a.ttf",
                "/etc/fonts/fonts.conf",
                "/etc/passwd",
                "/home/x/y",
                "/opt/shop/fonts/b.ttf",
                "/usr/share/texmf/fonts/t/c.otf",
            ],
        );
        std::os::unix::fs::symlink("usr/lib", root.join("lib")).unwrap();
        std::os::unix::fs::symlink("usr/lib64", root.join("lib64")).unwrap();
        std::os::unix::fs::symlink(
            root.join("usr/share/texmf/fonts/t/c.otf"),
            root.join("usr/share/fonts/a/c.otf"),
        )
        .unwrap();
        let conf = "<dir>/usr/share/fonts</dir><dir prefix=\"xdg\">fonts</dir><dir>~/.fonts</dir>\
                    <dir>/opt/shop/fonts</dir><dir>/</dir><dir>/gone</dir><dir";
        std::fs::write(root.join("etc/fonts/fonts.conf"), conf).unwrap();
        assert_eq!(
            shown(&root),
            [
                libs,
                "/usr/lib/ld-linux-x.so.1",
                "/usr/lib64",
                "/etc/fonts",
                "/usr/share/fonts",
                "/usr/share/texmf/fonts/t/c.otf",
                "/opt/shop/fonts",
            ]
        );
        let links = Host::look(&root).links;
        assert_eq!(links.len(), 2);
        assert_eq!(links[0], ("usr/lib".into(), "/lib".into()));
    }

    #[test]
    fn where_libraries_have_no_directory_of_their_own_all_are_shown() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), &["/usr/lib/libc.so", "/lib/ld-musl.so", "/usr/lib64/x.so", "/bin/sh"]);
        assert_eq!(shown(dir.path()), ["/usr/lib", "/lib", "/usr/lib64"]);
    }

    #[test]
    fn of_proc_only_processes_and_what_anyone_may_read_is_left() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), &["/proc/1/status", "/proc/sys/kernel/x", "/proc/irq/x", "/proc/bus/x"]);
        for (name, mode) in [("meminfo", 0o444), ("kcore", 0o400), ("mtrr", 0o644), ("t", 0o200)] {
            let file = dir.path().join("proc").join(name);
            std::fs::write(&file, "").unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        std::os::unix::fs::symlink("1", dir.path().join("proc/self")).unwrap();
        let host = Host::look(dir.path());
        assert_eq!(host.hidden_dirs, ["/proc/bus", "/proc/irq", "/proc/sys"].map(PathBuf::from));
        assert_eq!(host.hidden_files, ["/proc/kcore", "/proc/mtrr", "/proc/t"].map(PathBuf::from));
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(parse_version("bubblewrap 0.8.0\n"), Some((0, 8)));
        assert_eq!(parse_version("bubblewrap 0.11\n"), Some((0, 11)));
        assert_eq!(parse_version("bubblewrap"), None);
        assert!(parse_version("bubblewrap 0.6.1") < Some(BOUNDS_TMPFS));
    }
}
