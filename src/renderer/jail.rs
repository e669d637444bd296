//! The jail around one browser: bubblewrap's command line. Pure, but for
//! [`Host::probe`], which looks at what the host's file system is like.
//!
//! Inside: user, network, pid and ipc namespaces of its own; uid 1000; `/usr`,
//! fonts and the engine read-only; `/tmp`, `/dev` and `/proc` of its own; no
//! environment but ours. Chromium's own sandbox works in it and is on.
//!
//! The start is gated: bubblewrap waits on descriptor [`GATE_FD`] until the
//! parent has set niceness, `oom_score_adj`, limits and cgroup, so that no
//! process of Chromium ever runs without them. Without a jail, a line of shell
//! that replaces itself by Chromium waits in the same way.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Commands to Chromium.
pub const COMMANDS_FD: i32 = 3;
/// Replies and events from Chromium.
pub const REPLIES_FD: i32 = 4;
/// Opened (one line written) when the child may go on.
pub const GATE_FD: i32 = 5;
/// Where bubblewrap tells the pid of the jail's first process.
pub const INFO_FD: i32 = 6;

/// The profile directory inside the jail, in its own tmpfs.
pub const PROFILE_IN_JAIL: &str = "/tmp/ud";

/// What to do when namespaces are forbidden.
pub const REMEDY: &str = "let unprivileged processes make user namespaces: in Docker with a \
    seccomp profile that allows them and `--security-opt systempaths=unconfined`; on Ubuntu with \
    an AppArmor profile for bwrap that has `userns,`; elsewhere with `sysctl \
    kernel.unprivileged_userns_clone=1` and user.max_user_namespaces above 0; or give up the jail \
    with renderer.jail = \"none\"";

/// How a browser is confined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Jail {
    /// By bubblewrap.
    Bwrap {
        /// The `bwrap` program.
        path: PathBuf,
    },
    /// Not at all, by the operator's explicit choice. Chromium's flags deny the
    /// network.
    None,
}

/// There is no jail to be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JailError {
    /// `bwrap` is not installed.
    #[error(
        "bwrap was not found in {}; `apt-get install bubblewrap`, or give up the jail with \
         renderer.jail = \"none\"",
        looked.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    Missing {
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
}

impl Jail {
    /// Finds `bwrap` in these directories (those of `PATH`).
    ///
    /// # Errors
    /// [`JailError::Missing`].
    pub fn find(dirs: &[PathBuf]) -> Result<Self, JailError> {
        let looked: Vec<PathBuf> = dirs.iter().map(|dir| dir.join("bwrap")).collect();
        let found = looked.iter().find(|path| {
            path.is_file() && rustix::fs::access(*path, rustix::fs::Access::EXEC_OK).is_ok()
        });
        match found {
            Some(path) => Ok(Self::Bwrap { path: path.clone() }),
            None => Err(JailError::Missing { looked }),
        }
    }
}

/// What of the host's file system the jail shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Host {
    /// Directories at the root that are links, as on every current
    /// distribution: (`usr/lib`, `/lib`).
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Directories shown read-only where they are.
    pub shown: Vec<PathBuf>,
}

impl Host {
    /// Looks at the host.
    #[must_use]
    pub fn probe() -> Self {
        let mut host = Self { links: Vec::new(), shown: vec![PathBuf::from("/usr")] };
        for dir in ["/lib", "/lib64", "/bin"] {
            let dir = PathBuf::from(dir);
            match std::fs::read_link(&dir) {
                Ok(target) => host.links.push((target, dir)),
                Err(_) if dir.is_dir() => host.shown.push(dir),
                Err(_) => {}
            }
        }
        for dir in ["/etc/fonts", "/var/cache/fontconfig"] {
            if Path::new(dir).is_dir() {
                host.shown.push(PathBuf::from(dir));
            }
        }
        host
    }
}

/// A program with its arguments and environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// The program to start.
    pub program: PathBuf,
    /// Its arguments, without its own name.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
}

/// Builds the command line that runs `engine` with `flags` in the jail. `home`
/// is the home and temporary directory, as Chromium sees it.
#[must_use]
pub fn command_line(
    jail: &Jail,
    host: &Host,
    engine: &Path,
    flags: Vec<OsString>,
    home: &Path,
) -> CommandLine {
    let (program, mut args) = match jail {
        Jail::Bwrap { path } => (path.clone(), bwrap_args(host, engine)),
        Jail::None => (PathBuf::from("/bin/sh"), gate_args()),
    };
    args.push(engine.into());
    args.extend(flags);
    // The environment is replaced by the parent, so that versions of bwrap
    // before 0.5, which lack --clearenv, will do.
    let env = [
        ("HOME", home.as_os_str().to_owned()),
        ("TMPDIR", home.as_os_str().to_owned()),
        ("PATH", "/usr/bin:/bin".into()),
        ("TZ", "UTC".into()),
        ("LANG", "C.UTF-8".into()),
    ];
    let env = env.into_iter().map(|(name, value)| (name.into(), value)).collect();
    CommandLine { program, args, env }
}

fn bwrap_args(host: &Host, engine: &Path) -> Vec<OsString> {
    let mut args: Vec<OsString> = [
        "--unshare-user",
        "--uid",
        "1000",
        "--gid",
        "1000",
        "--unshare-net",
        "--unshare-pid",
        "--unshare-ipc",
        "--die-with-parent",
        "--new-session",
    ]
    .map(OsString::from)
    .to_vec();
    for (option, fd) in [("--block-fd", GATE_FD), ("--info-fd", INFO_FD)] {
        args.extend([option.into(), fd.to_string().into()]);
    }
    for dir in &host.shown {
        args.extend(["--ro-bind".into(), dir.into(), dir.into()]);
    }
    for (target, link) in &host.links {
        args.extend(["--symlink".into(), target.into(), link.into()]);
    }
    args.extend(["--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"].map(OsString::from));
    // After the tmpfs, which would hide an engine below /tmp.
    if let Some(dir) = engine.parent()
        && !host.shown.iter().any(|shown| dir.starts_with(shown))
    {
        args.extend(["--ro-bind".into(), dir.into(), dir.into()]);
    }
    args.push("--".into());
    args
}

/// A shell that waits for the gate and then *becomes* what follows.
fn gate_args() -> Vec<OsString> {
    let script = format!("read -r _ <&{GATE_FD} || exit 1; exec \"$@\" {GATE_FD}<&-");
    vec!["-c".into(), script.into(), "tillroll".into()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: &CommandLine) -> Vec<&str> {
        line.args.iter().map(|arg| arg.to_str().unwrap()).collect()
    }

    fn host() -> Host {
        Host {
            links: vec![("usr/lib".into(), "/lib".into())],
            shown: vec!["/usr".into(), "/etc/fonts".into()],
        }
    }

    fn jailed(engine: &str) -> CommandLine {
        let jail = Jail::Bwrap { path: "/usr/bin/bwrap".into() };
        command_line(&jail, &host(), Path::new(engine), vec!["--x".into()], Path::new("/tmp"))
    }

    #[test]
    fn the_jail_has_its_own_namespaces_and_dies_with_us() {
        let line = jailed("/usr/lib/chromium/chromium-headless-shell");
        let args = text(&line);
        for option in [
            "--unshare-user",
            "--unshare-net",
            "--unshare-pid",
            "--unshare-ipc",
            "--die-with-parent",
            "--new-session",
        ] {
            assert!(args.contains(&option), "{option}");
        }
        assert!(args.ends_with(&["--", "/usr/lib/chromium/chromium-headless-shell", "--x"]));
    }

    #[test]
    fn nothing_is_bound_writable_and_nothing_but_what_the_host_shows() {
        let line = jailed("/usr/lib/chromium/chromium-headless-shell");
        let args = text(&line);
        assert!(!args.iter().any(|arg| *arg == "--bind" || *arg == "--dev-bind"));
        let bound: Vec<&str> =
            args.windows(2).filter(|w| w[0] == "--ro-bind").map(|w| w[1]).collect();
        assert_eq!(bound, ["/usr", "/etc/fonts"]);
        let names: Vec<_> = line.env.iter().map(|(name, _)| name.to_str().unwrap()).collect();
        assert_eq!(names, ["HOME", "TMPDIR", "PATH", "TZ", "LANG"]);
    }

    #[test]
    fn an_engine_outside_usr_is_shown_after_the_tmpfs() {
        let line = jailed("/tmp/cache/shell/chrome-headless-shell");
        let args = text(&line);
        let tmpfs = args.iter().position(|arg| *arg == "--tmpfs").unwrap();
        let engine = args.iter().position(|arg| *arg == "/tmp/cache/shell").unwrap();
        assert!(engine > tmpfs);
    }

    #[test]
    fn without_a_jail_the_gate_stays() {
        let engine = Path::new("/opt/chrome");
        let line = command_line(&Jail::None, &host(), engine, Vec::new(), Path::new("/tmp/p"));
        assert_eq!(line.program, Path::new("/bin/sh"));
        assert_eq!(
            text(&line),
            ["-c", "read -r _ <&5 || exit 1; exec \"$@\" 5<&-", "tillroll", "/opt/chrome"]
        );
    }

    #[test]
    fn a_missing_bwrap_says_what_to_install() {
        let error = Jail::find(&["/nowhere".into()]).unwrap_err().to_string();
        assert!(error.contains("/nowhere/bwrap"), "{error}");
        assert!(error.contains("apt-get install bubblewrap"), "{error}");
    }
}
