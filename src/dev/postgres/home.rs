//! The directories of a cluster and the lock that keeps a second instance out.
//!
//! Kept data lives in `<data root>/postgres`, or, when the server's account
//! cannot get there, in the scratch directory `/var/tmp/paygauge-<uid>`, which
//! also holds temporary clusters. A home is private to the server's account;
//! one that belongs to somebody else is refused.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::account::Account;
use super::{StartError, processes, system};

/// Room for `/.s.PGSQL.5432` within the shortest limit on a socket's path
/// (104 bytes on macOS, 108 on Linux).
const SOCKET_DIR_LONGEST_BYTES: usize = 80;

/// Directory names of temporary clusters start with this.
const THROWAWAY: &str = "throwaway-";

/// A locked home. The lock ends with this value or with the process.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) dir: PathBuf,
    pub(super) socket_dir: PathBuf,
    _lock: Lock,
}

/// A locked file. Closing it would not be enough to unlock it: a child that another thread is about to start has a
/// copy of every descriptor until it executes its program, and with the copy the lock.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // At worst the lock lives on until the last copy is closed.
        let _unlocked = self.0.unlock();
    }
}

impl Home {
    /// The home of kept data below `root`, created if missing and locked.
    pub(super) fn kept(root: &Path, account: &Account) -> Result<Self, StartError> {
        fs::create_dir_all(root).map_err(|cause| StartError::file(root, cause))?;
        let root = root.canonicalize().map_err(|cause| StartError::file(root, cause))?;
        let dir = if account.can_enter(&root) {
            inside(&root)
        } else {
            let dir = outside(&root)?;
            tracing::info!(
                data = %dir.display(),
                "the server's account cannot enter {}; its data is elsewhere",
                root.display(),
            );
            dir
        };
        Self::open(dir, account)
    }

    /// A new home for a temporary cluster. Homes whose process died without
    /// its watchdog (a power cut) are removed on the way.
    pub(super) fn throwaway(account: &Account) -> Result<Self, StartError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let scratch = scratch()?;
        // Nobody may take a home for abandoned between its creation and its lock.
        let _creating = lock_scratch(&scratch)?;
        sweep(&scratch);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = scratch.join(format!("{THROWAWAY}{}-{number}", std::process::id()));
        Self::open(dir, account)
    }

    /// Homes of kept data below `root` that exist, locked.
    pub(super) fn existing(root: &Path, account: &Account) -> Result<Vec<Self>, StartError> {
        let Ok(root) = root.canonicalize() else {
            return Ok(Vec::new());
        };
        [inside(&root), outside(&root)?]
            .into_iter()
            .filter(|dir| dir.exists())
            .map(|dir| Self::open(dir, account))
            .collect()
    }

    fn open(dir: PathBuf, account: &Account) -> Result<Self, StartError> {
        make_private(&dir, account)?;
        let lock = acquire(&dir)?;
        let mut socket_dir = dir.join("socket");
        if socket_dir.as_os_str().len() > SOCKET_DIR_LONGEST_BYTES {
            socket_dir = scratch()?.join(format!("socket-{:016x}", fingerprint_of(&dir)));
        }
        Ok(Self { dir, socket_dir, _lock: lock })
    }

    /// The name our server carries in the process table.
    pub(super) fn cluster_name(&self) -> String {
        cluster_name(&self.dir)
    }

    /// Creates what is missing for a start and removes what a crash left.
    /// Must only be called when no server of ours is alive.
    pub(super) fn tidy(&self, data_dir: &Path, account: &Account) -> Result<(), StartError> {
        make_private(&self.socket_dir, account)?;
        for stale in [".s.PGSQL.5432", ".s.PGSQL.5432.lock"] {
            remove_file(&self.socket_dir.join(stale))?;
        }
        // PostgreSQL handles a stale pid file itself, and looks for surviving
        // shared memory while doing so. It gives up only when the pid is taken:
        // by a zombie nobody reaps, or by an unrelated process.
        let pid_file = data_dir.join("postmaster.pid");
        match pid_in(&pid_file) {
            Some(pid) if !system::exists(pid) => Ok(()),
            Some(_) | None => remove_file(&pid_file),
        }
    }

    /// Ends leftover servers and removes everything but the lock.
    pub(super) fn empty(&self) -> Result<(), StartError> {
        processes::end_servers(&self.cluster_name()).map_err(StartError::Leftovers)?;
        let failed = |cause| StartError::file(&self.dir, cause);
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name() == "lock" {
                continue;
            }
            let path = entry.path();
            let removed = if entry.file_type().map_err(failed)?.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(|cause| StartError::file(&path, cause))?;
        }
        // Elsewhere only if its path would have been too long in here.
        match fs::remove_dir_all(&self.socket_dir) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(StartError::file(&self.socket_dir, cause)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// The process id on the first line of PostgreSQL's pid file.
pub(super) fn pid_in(pid_file: &Path) -> Option<u32> {
    let text = fs::read_to_string(pid_file).ok()?;
    text.lines().next()?.trim().parse().ok()
}

/// Where kept data of `root` is as a rule.
pub(super) fn inside(root: &Path) -> PathBuf {
    root.join("postgres")
}

fn outside(root: &Path) -> Result<PathBuf, StartError> {
    Ok(scratch()?.join(format!("kept-{:016x}", fingerprint_of(root))))
}

fn cluster_name(dir: &Path) -> String {
    format!("paygauge-{:016x}", fingerprint_of(dir))
}

/// `/var/tmp/paygauge-<uid>`: ours, and passable for the server's account.
/// Not the temporary directory of the environment, which is often private to
/// us, too long for a socket, or a small memory file system.
pub(super) fn scratch() -> Result<PathBuf, StartError> {
    let uid = system::effective_uid();
    let parent =
        ["/var/tmp", "/tmp"].map(Path::new).into_iter().find(|parent| parent.is_dir()).unwrap_or(Path::new("/tmp"));
    let dir = parent.join(format!("paygauge-{uid}"));
    create_dir(&dir, 0o755)?;
    let found = fs::symlink_metadata(&dir).map_err(|cause| StartError::file(&dir, cause))?;
    if !found.is_dir() || found.uid() != uid {
        return Err(StartError::NotOurs { dir, owner: found.uid() });
    }
    set_mode(&dir, 0o755)?;
    Ok(dir)
}

/// Serialises, across processes, what happens directly in the scratch directory.
pub(super) fn lock_scratch(scratch: &Path) -> Result<Lock, StartError> {
    let path = scratch.join("lock");
    let lock = open_lock(&path)?;
    lock.lock().map_err(|cause| StartError::file(&path, cause))?;
    Ok(Lock(lock))
}

fn sweep(scratch: &Path) {
    let Ok(entries) = fs::read_dir(scratch) else {
        return;
    };
    for dir in entries.flatten().map(|entry| entry.path()) {
        let temporary = dir.file_name().is_some_and(|name| name.as_bytes().starts_with(THROWAWAY.as_bytes()));
        if !temporary {
            continue;
        }
        // In use, or somebody else is removing it: both are fine.
        if let Ok(_lock) = acquire(&dir)
            && processes::end_servers(&cluster_name(&dir)).is_ok()
            && fs::remove_dir_all(&dir).is_ok()
        {
            tracing::info!(dir = %dir.display(), "removed an abandoned temporary cluster");
        }
    }
}

/// Takes the lock of a home and writes our process id into it.
fn acquire(dir: &Path) -> Result<Lock, StartError> {
    let path = dir.join("lock");
    let failed = |cause| StartError::file(&path, cause);
    let mut lock = open_lock(&path)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // The name of the holder is a courtesy; the refusal stands without.
            let _read = lock.read_to_string(&mut holder);
            return Err(StartError::InUse { dir: dir.to_owned(), holder: holder.trim().parse().ok() });
        }
        Err(TryLockError::Error(cause)) => return Err(failed(cause)),
    }
    let mut lock = Lock(lock);
    lock.0.set_len(0).map_err(failed)?;
    lock.0.rewind().map_err(failed)?;
    writeln!(lock.0, "{}", std::process::id()).map_err(failed)?;
    Ok(lock)
}

fn open_lock(path: &Path) -> Result<File, StartError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        // The directory may belong to the server's account: root follows no link there.
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(|cause| StartError::file(path, cause))
}

/// A directory that only `account` (and root) can enter.
pub(super) fn make_private(dir: &Path, account: &Account) -> Result<(), StartError> {
    if create_dir(dir, 0o700)? {
        account.give(dir).map_err(|cause| StartError::file(dir, cause))?;
    }
    let found = fs::symlink_metadata(dir).map_err(|cause| StartError::file(dir, cause))?;
    if !found.is_dir() || found.uid() != account.uid() {
        return Err(StartError::NotOurs { dir: dir.to_owned(), owner: found.uid() });
    }
    set_mode(dir, 0o700)
}

/// Returns whether the directory is new.
pub(super) fn create_dir(dir: &Path, mode: u32) -> Result<bool, StartError> {
    match DirBuilder::new().mode(mode).create(dir) {
        Ok(()) => Ok(true),
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(cause) => Err(StartError::file(dir, cause)),
    }
}

/// Exactly `mode`, whatever the umask made of it.
pub(super) fn set_mode(path: &Path, mode: u32) -> Result<(), StartError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|cause| StartError::file(path, cause))
}

fn remove_file(path: &Path) -> Result<(), StartError> {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(StartError::file(path, cause)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// FNV-1a: the same in every build, unlike the hashers of the standard
/// library, because directory names on disk are made of it.
pub(super) fn fingerprint(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes
        .into_iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

fn fingerprint_of(path: &Path) -> u64 {
    fingerprint(path.as_os_str().as_bytes().iter().copied())
}
