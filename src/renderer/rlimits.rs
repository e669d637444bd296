//! Limits of the kernel on a browser's processes, beside memory.
//!
//! Address space cannot be limited: Chromium reserves hundreds of gigabytes.

use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// The largest file that a process may write, shared memory included, in bytes:
/// many times what a print of the largest PDF takes.
const FILE_BYTES: u64 = 2 << 30;
/// Processes and threads in one jail: a context has about 15, a browser 80. To root
/// the kernel does not apply it, whatever the jail calls its user: it is root outside.
/// There the fence bounds them, where there can be one.
const TASKS: u64 = 8192;

/// Limits the process `pid` and all that it will start. `jailed`: it has a user
/// namespace of its own, so that processes outside do not count.
pub(super) fn set(pid: u32, jailed: bool) -> std::io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let limit = |most| Rlimit { current: Some(most), maximum: Some(most) };
    prlimit(pid, Resource::Fsize, limit(FILE_BYTES))?;
    if jailed {
        prlimit(pid, Resource::Nproc, limit(TASKS))?;
    }
    Ok(())
}
