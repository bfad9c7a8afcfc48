//! The few operating-system calls the standard library does not offer: our
//! user id, sending a signal, and the version of the C library. All `unsafe`
//! code of the embedded PostgreSQL is here. Called by its siblings only.

/// A signal as the postmaster understands it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// Fast shutdown: disconnect clients, write a checkpoint, end.
    Fast,
    /// Immediate shutdown: end now, recover at the next start.
    Immediate,
    /// The kernel ends it.
    Kill,
}

impl Signal {
    fn number(self) -> libc::c_int {
        match self {
            Self::Fast => libc::SIGINT,
            Self::Immediate => libc::SIGQUIT,
            Self::Kill => libc::SIGKILL,
        }
    }
}

/// The effective user id of this process.
#[allow(unsafe_code, reason = "std has no geteuid")]
pub(super) fn effective_uid() -> u32 {
    // SAFETY: geteuid takes nothing, touches no memory and cannot fail.
    unsafe { libc::geteuid() }
}

/// Sends `signal` to one process; a process that is already gone is no error.
pub(super) fn send(pid: u32, signal: Signal) {
    if let Some(pid) = positive(pid) {
        kill(pid, signal.number());
    }
}

/// Sends `signal` to a whole process group.
pub(super) fn send_to_group(group: u32, signal: Signal) {
    if let Some(group) = positive(group) {
        kill(-group, signal.number());
    }
}

/// Whether the process table has an entry for `pid`: also true for a zombie
/// and for a process of somebody else, which is what PostgreSQL itself checks.
pub(super) fn exists(pid: u32) -> bool {
    positive(pid).is_some_and(|pid| kill(pid, 0) || std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM))
}

/// 0, 1 and what does not fit would address our own group, init or everybody.
fn positive(pid: u32) -> Option<libc::pid_t> {
    libc::pid_t::try_from(pid).ok().filter(|pid| *pid > 1)
}

#[allow(unsafe_code, reason = "std can only kill its own children, and only with SIGKILL")]
fn kill(target: libc::pid_t, signal: libc::c_int) -> bool {
    // SAFETY: kill takes two integers and touches no memory of ours.
    unsafe { libc::kill(target, signal) == 0 }
}

/// `(major, minor)` of the running glibc, `None` on any other C library.
#[cfg(all(feature = "bundled-postgres", target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "std does not tell the version of the C library")]
pub(super) fn glibc_version() -> Option<(u32, u32)> {
    // SAFETY: glibc returns a pointer to a constant, NUL-terminated string.
    let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) };
    let (major, minor) = version.to_str().ok()?.split_once('.')?;
    let minor = minor.split('.').next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `(major, minor)` of the running glibc, `None` on any other C library.
#[cfg(all(feature = "bundled-postgres", not(all(target_os = "linux", target_env = "gnu"))))]
pub(super) fn glibc_version() -> Option<(u32, u32)> {
    None
}
