//! Whether the jail holds: checked before any document is taken.
//!
//! 1. From outside ([`jail`]), at each start: what the kernel says of the browser's process: its
//!    namespaces, its mounts, its network interfaces, its privileges.
//! 2. From inside ([`document`]), once for each version of the engine: a document with scripts, which no job's has,
//!    tries a file and the worker's loopback; its renderer must be under seccomp.
//!
//! bubblewrap does all this or fails, and Chromium ends without its sandbox. This
//! is for the day when one of them does not, on a kernel that nobody has tried.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use super::browser::Browser;
use super::cdp::CdpError;
use super::context::ContextOptions;
use super::processes::Kind;

/// Which engine was seen from inside to be locked in: a restart of the same one
/// does without ([`document`] takes 50 to 100 ms, half of a launch). Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Seen(Arc<Mutex<Option<String>>>);

impl Seen {
    /// Whether it was this one.
    pub(super) fn is(&self, product: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_deref() == Some(product)
    }

    /// It is this one from now on.
    pub(super) fn set(&self, product: &str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(product.to_owned());
    }
}

/// Namespaces that the jail has for itself.
const NAMESPACES: [&str; 6] = ["user", "net", "pid", "ipc", "mnt", "uts"];

/// Something of the host is within a document's reach.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exposure {
    /// One of the kernel's files about the process could not be read.
    #[error("{} cannot be read, so that the jail cannot be checked: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// Chromium's own process is not there.
    #[error("Chromium's process was not found among those of the jail")]
    NoProcess,
    /// It has this namespace of the host.
    #[error("the browser is in the host's {0} namespace")]
    Namespace(&'static str),
    /// It has a network interface.
    #[error("the browser has the network interface {0}")]
    Interface(String),
    /// It may gain privileges, or has some.
    #[error("the browser's {0} is {1}")]
    Privilege(&'static str, String),
    /// Something of the host's is mounted that should not be, or can be written.
    #[error("the browser sees {}, {how}", path.display())]
    Mount {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        how: &'static str,
    },
    /// A document read a file.
    #[error("a document read a file")]
    File,
    /// A document reached a port of the host.
    #[error("a document reached a port of this machine")]
    Host,
    /// A renderer has no seccomp filter.
    #[error("a renderer is not under seccomp (Seccomp: {0})")]
    Seccomp(String),
}

/// Checks the process `pid` from outside. `shown`: what the jail shows of the host.
pub(super) fn jail(proc: &Path, pid: u32, shown: &[PathBuf]) -> Result<(), Exposure> {
    let own = proc.join("self");
    let its = proc.join(pid.to_string());
    for name in NAMESPACES {
        let link = |of: &Path| {
            let path = of.join("ns").join(name);
            std::fs::read_link(&path).map_err(|error| unreadable(path, &error))
        };
        if link(&own)? == link(&its)? {
            return Err(Exposure::Namespace(name));
        }
    }
    let devices = read(its.join("net/dev"))?;
    let names = devices.lines().filter_map(|line| Some(line.split_once(':')?.0.trim()));
    if let Some(name) = names.into_iter().find(|name| *name != "lo") {
        return Err(Exposure::Interface(name.to_owned()));
    }
    let status = read(its.join("status"))?;
    for (field, right) in [("NoNewPrivs", "1"), ("CapEff", NO_CAPS), ("CapPrm", NO_CAPS)] {
        let value = field_of(&status, field);
        if value != right {
            return Err(Exposure::Privilege(field, value.to_owned()));
        }
    }
    mounts(&read(its.join("mountinfo"))?, shown)
}

/// What the host's root may write is not protected by the jail having no privileges:
/// it may be the host's root itself that runs the worker.
const KERNEL_SETTINGS: &str = "/proc/sys";

const NO_CAPS: &str = "0000000000000000";

/// Checks the mounts: nothing but what is shown, and only `/tmp` can be written.
fn mounts(mountinfo: &str, shown: &[PathBuf]) -> Result<(), Exposure> {
    let mut hides_sys = false;
    for line in mountinfo.lines() {
        // …root, mount point, options…
        let mut fields = line.split(' ').skip(4);
        let (Some(point), Some(options)) = (fields.next(), fields.next()) else { continue };
        let point = PathBuf::from(point.replace("\\040", " "));
        let ours = ["/tmp", "/proc", "/dev"].iter().any(|own| point.starts_with(own));
        if options.split(',').any(|option| option == "ro") {
            hides_sys |= point == Path::new(KERNEL_SETTINGS);
            let known = ours || point == Path::new("/") || shown.contains(&point);
            if !known && !shown.iter().any(|shown| point.starts_with(shown)) {
                return Err(Exposure::Mount { path: point, how: "which is not for it" });
            }
        } else if !ours || point == Path::new("/dev") {
            return Err(Exposure::Mount { path: point, how: "and may write there" });
        }
    }
    if !hides_sys {
        return Err(Exposure::Mount { path: KERNEL_SETTINGS.into(), how: "as the host has it" });
    }
    Ok(())
}

/// Checks that a renderer is filtered.
pub(super) fn renderer(proc: &Path, pid: u32) -> Result<(), Exposure> {
    let status = read(proc.join(pid.to_string()).join("status"))?;
    match field_of(&status, "Seccomp") {
        "2" => Ok(()),
        other => Err(Exposure::Seccomp(other.to_owned())),
    }
}

/// The first line of a field in `/proc/<pid>/status`.
fn field_of<'a>(status: &'a str, field: &str) -> &'a str {
    let lines = status.lines().filter_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    lines.map(str::trim).next().unwrap_or("not told")
}

fn read(path: PathBuf) -> Result<String, Exposure> {
    std::fs::read_to_string(&path).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: PathBuf, error: &std::io::Error) -> Exposure {
    Exposure::Unreadable { path, why: error.to_string() }
}

/// The first process of Chromium in the jail.
pub(super) fn chromium(browser: &Browser) -> Result<u32, Exposure> {
    let processes = browser.processes();
    let found = processes.iter().find(|process| process.kind == Kind::Browser);
    found.map(|process| process.pid).ok_or(Exposure::NoProcess)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Evaluate {
    expression: String,
    await_promise: bool,
    return_by_value: bool,
}

#[derive(Deserialize)]
struct Evaluated {
    result: Remote,
}

#[derive(Deserialize)]
struct Remote {
    value: Option<Vec<String>>,
}

/// Checks from inside, with a document that has scripts.
///
/// # Errors
/// Of the protocol; what was exposed comes as `Ok(Err(_))`.
pub(super) async fn document(
    browser: &Browser,
    timeout: Duration,
) -> Result<Result<(), Exposure>, CdpError> {
    let options = ContextOptions { scripts: true, ..ContextOptions::default() };
    let context = browser.open_context(options, timeout).await?;
    // Where there is no loopback to listen on, there is none to reach.
    let listener = TcpListener::bind("127.0.0.1:0").await.ok();
    let port = listener.as_ref().and_then(|l| l.local_addr().ok()).map_or(9, |a| a.port());
    let expression = format!(
        "Promise.all([['file', 'file:///etc/fonts/fonts.conf'], ['host', 'http://127.0.0.1:{port}/']]\
         .map(([name, url]) => fetch(url, {{mode: 'no-cors'}}).then(() => name, () => '')))"
    );
    let ask = Evaluate { expression, await_promise: true, return_by_value: true };
    let reply = context.session().call_raw("Runtime.evaluate", &ask, timeout).await?;
    let evaluated: Evaluated = reply.deserialize()?;
    let reached: HashSet<String> = evaluated.result.value.unwrap_or_default().into_iter().collect();
    let knocked = match &listener {
        Some(listener) => tokio::time::timeout(Duration::ZERO, listener.accept()).await.is_ok(),
        None => false,
    };
    let filtered = context.renderer_pid().map_or(Ok(()), |pid| renderer(Path::new("/proc"), pid));
    context.close(timeout).await?;
    Ok(match () {
        () if reached.contains("file") => Err(Exposure::File),
        () if reached.contains("host") || knocked => Err(Exposure::Host),
        () => filtered,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
        1 0 0:50 / / ro,nosuid - tmpfs tmpfs rw\n\
        2 1 8:1 /usr/lib /usr/lib ro,nosuid - ext4 /dev/sda1 rw\n\
        3 1 0:51 / /proc rw,nosuid - proc proc rw\n\
        8 3 0:54 / /proc/sys ro,nosuid - tmpfs tmpfs rw\n\
        4 1 0:52 / /dev ro,nosuid - tmpfs tmpfs rw\n\
        5 4 0:5 /null /dev/null rw,nosuid - devtmpfs dev rw\n\
        6 1 0:53 / /tmp rw,nosuid - tmpfs tmpfs rw,size=1048576k\n";

    fn put(proc: &Path, pid: &str, namespace: u32, status: &str, devices: &str) {
        let dir = proc.join(pid);
        std::fs::create_dir_all(dir.join("ns")).unwrap();
        std::fs::create_dir_all(dir.join("net")).unwrap();
        for name in NAMESPACES {
            let link = format!("{name}:[{namespace}]");
            std::os::unix::fs::symlink(link, dir.join("ns").join(name)).unwrap();
        }
        std::fs::write(dir.join("status"), status).unwrap();
        std::fs::write(dir.join("net/dev"), devices).unwrap();
        std::fs::write(dir.join("mountinfo"), MOUNTS).unwrap();
    }

    const STATUS: &str = "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
                          NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";
    const LOOPBACK: &str = "Inter-|   Receive\n face |bytes\n    lo:       0       0\n";

    #[test]
    fn a_sound_jail_passes_and_every_hole_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let proc = dir.path();
        let shown = [PathBuf::from("/usr/lib")];
        put(proc, "self", 1, STATUS, LOOPBACK);
        put(proc, "7", 2, STATUS, LOOPBACK);
        assert_eq!(jail(proc, 7, &shown), Ok(()));
        assert_eq!(renderer(proc, 7), Ok(()));

        put(proc, "8", 1, STATUS, LOOPBACK);
        assert_eq!(jail(proc, 8, &shown), Err(Exposure::Namespace("user")));
        put(proc, "9", 2, STATUS, &format!("{LOOPBACK}  eth0: 1 2\n"));
        assert_eq!(jail(proc, 9, &shown), Err(Exposure::Interface("eth0".into())));
        put(proc, "10", 2, &STATUS.replace("NoNewPrivs:\t1", "NoNewPrivs:\t0"), LOOPBACK);
        assert_eq!(jail(proc, 10, &shown), Err(Exposure::Privilege("NoNewPrivs", "0".into())));
        put(proc, "11", 2, &STATUS.replace("CapEff:\t0000", "CapEff:\t000f"), LOOPBACK);
        assert!(matches!(jail(proc, 11, &shown), Err(Exposure::Privilege("CapEff", _))));
        put(proc, "12", 2, &STATUS.replace("Seccomp:\t2", "Seccomp:\t0"), LOOPBACK);
        assert_eq!(renderer(proc, 12), Err(Exposure::Seccomp("0".into())));
        assert!(matches!(jail(proc, 99, &shown), Err(Exposure::Unreadable { .. })));
    }

    #[test]
    fn mounts_are_only_what_is_shown_and_only_tmp_is_written() {
        let shown = [PathBuf::from("/usr/lib")];
        let with = |line: &str| mounts(&format!("{MOUNTS}{line}"), &shown);
        assert_eq!(with("7 1 8:1 /x /usr/lib/x ro - ext4 d rw"), Ok(()));
        let bare = MOUNTS.replace("/proc/sys ro", "/proc/bus ro");
        assert!(mounts(&bare, &shown).unwrap_err().to_string().contains("sees /proc/sys"));
        let home = with("7 1 8:1 /home /home ro - ext4 d rw");
        assert!(home.unwrap_err().to_string().contains("sees /home, which is not for it"));
        for line in [
            "7 1 8:1 / /usr/lib rw - ext4 d rw",
            "7 1 0:9 / / rw - tmpfs t rw",
            "7 1 0:9 / /dev rw - tmpfs t rw",
        ] {
            assert!(with(line).unwrap_err().to_string().contains("may write"), "{line}");
        }
    }
}
