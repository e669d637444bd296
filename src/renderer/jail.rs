//! The jail around one browser: bubblewrap's command line. Pure; what the host's
//! file system is like is found out by [`host`](super::host).
//!
//! Inside: user, network, pid, ipc, host name and cgroup namespaces of its own;
//! uid 1000; libraries, fonts and the engine read-only, and nothing else of the
//! host: no shell, no other program; `/proc` of its own with its processes and
//! nothing that sets the kernel; a `/tmp` of at most
//! [`TMP_BYTES`], the only place that can be written; no environment but ours.
//! Chromium's own sandbox works in it and is on. That all this is so is checked at
//! each start ([`verify`](super::verify)).
//!
//! The start is gated: bubblewrap waits on descriptor [`GATE_FD`] until the
//! parent has set niceness, `oom_score_adj`, limits and cgroup, so that no
//! process of Chromium ever runs without them. Without a jail, a line of shell
//! that replaces itself by Chromium waits in the same way.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub use super::host::Host;

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

/// How much the jail's `/tmp` holds. Chromium keeps its profile there (2 MB), and
/// what its processes hand to each other: documents, pictures, PDFs.
pub const TMP_BYTES: u64 = 1 << 30;

/// What to do when namespaces are forbidden.
pub const REMEDY: &str = "let unprivileged processes make user namespaces: in Docker with \
    `--security-opt seccomp=worker-config/docker-seccomp.json --security-opt \
    systempaths=unconfined --security-opt apparmor=unconfined`; on Ubuntu with the AppArmor \
    profile worker-config/apparmor-tillroll; under systemd without RestrictNamespaces=, \
    ProtectKernelTunables= and ProcSubset=; elsewhere with `sysctl \
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

/// What a renderer without a jail is called in status.
pub const UNJAILED: &str = "chromium without a jail";
/// What a person must know of it.
pub const UNJAILED_NOTICE: &str =
    "Chromium runs without a jail: a document that breaks it reads and does what this user may";
/// What to do about it.
pub const UNJAILED_REMEDY: &str = "install bubblewrap and set renderer.jail = \"bwrap\"; until \
    then render only documents that you wrote";

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
        "--unshare-uts",
        "--hostname",
        "tillroll",
        "--unshare-cgroup-try",
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
    args.extend(["--dev", "/dev", "--proc", "/proc"].map(OsString::from));
    for dir in &host.hidden_dirs {
        args.extend(["--tmpfs".into(), dir.into(), "--remount-ro".into(), dir.into()]);
    }
    for file in &host.hidden_files {
        args.extend(["--ro-bind".into(), "/dev/null".into(), file.into()]);
    }
    if host.bounds_tmpfs {
        args.extend(["--size".into(), TMP_BYTES.to_string().into()]);
    }
    args.extend(["--tmpfs", "/tmp"].map(OsString::from));
    // After the tmpfs, which would hide an engine below /tmp.
    if let Some(dir) = engine.parent()
        && !host.shown.iter().any(|shown| dir.starts_with(shown))
    {
        args.extend(["--ro-bind".into(), dir.into(), dir.into()]);
    }
    // Both are tmpfs without a bound, and nothing is to be written there.
    args.extend(["--remount-ro", "/dev", "--remount-ro", "/", "--"].map(OsString::from));
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
            hidden_dirs: vec!["/proc/sys".into()],
            hidden_files: vec!["/proc/kcore".into()],
            bounds_tmpfs: true,
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
            "--unshare-uts",
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
        assert_eq!(bound, ["/usr", "/etc/fonts", "/dev/null"]);
        let hidden = ["--tmpfs", "/proc/sys", "--remount-ro", "/proc/sys"];
        let proc = args.iter().position(|arg| *arg == "/proc").unwrap();
        assert_eq!(args[proc + 1..proc + 5], hidden);
        let names: Vec<_> = line.env.iter().map(|(name, _)| name.to_str().unwrap()).collect();
        assert_eq!(names, ["HOME", "TMPDIR", "PATH", "TZ", "LANG"]);
    }

    #[test]
    fn only_tmp_is_written_and_it_has_an_end_where_bwrap_can() {
        let line = jailed("/usr/lib/chromium/chromium-headless-shell");
        let args = text(&line);
        let at = args.iter().position(|arg| *arg == "--size").unwrap();
        assert_eq!(args[at + 1..at + 4], ["1073741824", "--tmpfs", "/tmp"]);
        for place in ["/", "/dev"] {
            assert!(args.windows(2).any(|w| w == ["--remount-ro", place]), "{place}");
        }
        let jail = Jail::Bwrap { path: "/usr/bin/bwrap".into() };
        let host = Host { bounds_tmpfs: false, ..host() };
        let old = command_line(&jail, &host, Path::new("/e/e"), Vec::new(), Path::new("/tmp"));
        assert!(!text(&old).contains(&"--size"));
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
    fn what_the_remedy_names_is_there_and_lets_bubblewrap_work() {
        let profile: serde_json::Value =
            serde_json::from_str(include_str!("../../worker-config/docker-seccomp.json")).unwrap();
        assert_eq!(profile["defaultAction"], "SCMP_ACT_ALLOW");
        let groups = profile["syscalls"].as_array().unwrap();
        let denied = |call: &str| {
            groups.iter().any(|g| g["names"].as_array().unwrap().contains(&call.into()))
        };
        // What bubblewrap and Chromium's sandbox were seen to call.
        for call in [
            "clone",
            "clone3",
            "unshare",
            "mount",
            "umount2",
            "pivot_root",
            "chroot",
            "sethostname",
            "capset",
            "prctl",
            "prlimit64",
            "seccomp",
            "ptrace",
            "personality",
        ] {
            assert!(!denied(call), "{call}");
        }
        for call in ["bpf", "kexec_load", "init_module", "keyctl", "io_uring_setup", "setns"] {
            assert!(denied(call), "{call}");
        }
        let apparmor = include_str!("../../worker-config/apparmor-tillroll");
        assert_eq!(apparmor.matches("  userns,").count(), 2);
        for file in ["docker-seccomp.json", "apparmor-tillroll"] {
            assert!(REMEDY.contains(&format!("worker-config/{file}")), "{file}");
        }
    }

    /// A name that is no call's is passed over without a word, and denies nothing.
    #[test]
    fn every_call_that_the_profile_for_docker_denies_exists() {
        #[cfg(target_arch = "x86_64")]
        const HEADERS: [&str; 2] = [
            "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
            "/usr/include/x86_64-linux-gnu/asm/unistd_32.h",
        ];
        #[cfg(not(target_arch = "x86_64"))]
        const HEADERS: [&str; 1] = ["/usr/include/asm-generic/unistd.h"];
        let headers = HEADERS.map(|header| {
            std::fs::read_to_string(header).expect("the tests need libc6-dev, as the build does")
        });
        let words: std::collections::HashSet<&str> = headers
            .iter()
            .flat_map(|text| text.split_whitespace())
            .filter_map(|word| word.strip_prefix("__NR_").or(word.strip_prefix("__NR3264_")))
            .collect();
        let profile: serde_json::Value =
            serde_json::from_str(include_str!("../../worker-config/docker-seccomp.json")).unwrap();
        for group in profile["syscalls"].as_array().unwrap() {
            assert_eq!(
                (&group["action"], &group["errnoRet"]),
                (&"SCMP_ACT_ERRNO".into(), &1.into())
            );
            for name in group["names"].as_array().unwrap() {
                let name = name.as_str().unwrap();
                // Of 32-bit programs only, which other machines do not list.
                let is_known = words.contains(name) || cfg!(not(target_arch = "x86_64"));
                assert!(is_known, "{name} is no system call");
            }
        }
    }

    #[test]
    fn a_missing_bwrap_says_what_to_install() {
        let error = Jail::find(&["/nowhere".into()]).unwrap_err().to_string();
        assert!(error.contains("/nowhere/bwrap"), "{error}");
        assert!(error.contains("apt-get install bubblewrap"), "{error}");
    }
}
