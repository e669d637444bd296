//! No core dump holds a document or a password.
//!
//! The kernel writes a dump to a file only up to `RLIMIT_CORE`, so 0 would do for
//! files. Where `core_pattern` names a program (systemd-coredump, apport), 0 stops
//! nothing: the kernel hands the dump over, and the program decides. A limit of
//! exactly 1 byte is what makes the kernel hand over nothing (`do_coredump` in
//! fs/coredump.c); to a file it is too small for any dump.

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

/// Too little for a file, and the kernel's word for "to no program either".
const NONE: u64 = 1;

/// This process leaves no core dump, nor does any that it starts.
///
/// # Errors
/// Where the kernel refuses, which it does not for a lower limit.
pub fn forbid() -> std::io::Result<()> {
    forbid_for(None)
}

/// The same for another process of ours; `None` is this one.
pub(crate) fn forbid_for(pid: Option<Pid>) -> std::io::Result<()> {
    // Where somebody forbade even one byte, only root could allow it.
    let most = getrlimit(Resource::Core).maximum.map_or(NONE, |most| most.min(NONE));
    prlimit(pid, Resource::Core, Rlimit { current: Some(most), maximum: Some(most) })?;
    Ok(())
}
