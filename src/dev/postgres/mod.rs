//! The embedded PostgreSQL of the development stack and of the tests: a server
//! that is our own child, with a private data directory and a unix socket.
//!
//! Called once per process, from the main thread before the runtime starts or
//! from a test's `OnceLock`; everything here blocks. The caller looks at
//! `DATABASE_URL` first. Refused: running the server as root, opening a TCP
//! port, data that another instance uses, servers older than PostgreSQL 15.
//!
//! ```text
//! account   who runs the server          home      directories and lock
//! locate    which binaries               bundled   those that came with the build
//! initdb    makes a data directory       server    the postmaster, under watch
//! watchdog  nothing outlives us          processes what an earlier run left
//! error     why not                      system    the unsafe calls
//! ```

mod account;
#[cfg(feature = "bundled-postgres")]
mod bundled;
#[cfg(feature = "bundled-postgres")]
mod elf;
mod error;
mod home;
mod initdb;
mod locate;
mod log;
mod processes;
mod server;
mod system;
#[cfg(test)]
mod tests;
mod watchdog;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use account::Account;
pub use error::{StartError, StopError};
use home::Home;
use locate::Binaries;
use server::{Plan, Server};
use watchdog::Watchdog;

/// What becomes of the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lifetime {
    /// Stays, below this directory (created if missing), and survives crashes.
    Kept(PathBuf),
    /// Lives as long as this process and is not written to disk in earnest.
    Throwaway,
}

/// What to start. The environment is read by the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// What becomes of the data.
    pub lifetime: Lifetime,
    /// Use the server in this directory and no other (`PG_BIN_DIR`).
    pub bin_dir: Option<PathBuf>,
    /// Where to look for an installed server first (`PATH`).
    pub search_path: Option<OsString>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Durability {
    Kept,
    Throwaway,
}

/// A running PostgreSQL server. Dropping it is the same as [`Cluster::stop`],
/// except that problems go to the log.
pub struct Cluster {
    server: Arc<Server>,
    binaries: Binaries,
    data_dir: PathBuf,
    durability: Durability,
    stopped: bool,
    // Last, so that the lock outlives everything else.
    home: Home,
}

impl Cluster {
    /// Starts a server and returns when it accepts connections: about a second
    /// with an empty directory, a tenth of that afterwards.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left running after one.
    pub fn start(options: &Options) -> Result<Self, StartError> {
        let kept = match &options.lifetime {
            Lifetime::Kept(root) => Some(root),
            Lifetime::Throwaway => None,
        };
        let account = Account::choose(kept.map(|root| home::inside(root)).as_deref())?;
        let installed = match &options.bin_dir {
            Some(dir) => Some(locate::demanded(dir, &account)?),
            None => locate::installed(options.search_path.as_deref(), &account),
        };
        let (home, durability) = match kept {
            Some(root) => (Home::kept(root, &account)?, Durability::Kept),
            None => (Home::throwaway(&account)?, Durability::Throwaway),
        };
        let started = Self::start_in(home, durability, installed, &account)?;
        tracing::info!("{}", started.describe());
        Ok(started)
    }

    fn start_in(
        home: Home,
        durability: Durability,
        installed: Option<Binaries>,
        account: &Account,
    ) -> Result<Self, StartError> {
        let leftovers = processes::end_servers(&home.cluster_name()).map_err(StartError::Leftovers)?;
        if leftovers > 0 {
            tracing::warn!(leftovers, "ended PostgreSQL processes that an earlier run left behind");
        }
        let doomed = (durability == Durability::Throwaway).then_some(home.dir.as_path());
        // The binaries come after the lock: unpacking may write into the home.
        let binaries = match installed {
            Some(binaries) => binaries,
            None => bundled_binaries(&home, durability, account).inspect_err(|_| {
                if doomed.is_some() {
                    remove_quietly(&home.dir);
                }
            })?,
        };
        let data_dir = home.dir.join(format!("pg{}-{}", binaries.major, binaries.source));
        mention_other_data(&home.dir, &data_dir);
        let mut watchdog = Watchdog::start(&data_dir, doomed).map_err(StartError::Watchdog)?;
        let plan = Plan {
            binaries: &binaries,
            account,
            data_dir: &data_dir,
            socket_dir: &home.socket_dir,
            cluster_name: home.cluster_name(),
            durability,
        };
        home.tidy(&data_dir, account)?;
        initdb::run(&plan, &mut watchdog)?;
        let server = Server::start(&plan, watchdog)?;
        Ok(Self { server, binaries, data_dir, durability, stopped: false, home })
    }

    /// A connection string for `database` that `tokio-postgres` understands.
    /// The only user is `postgres`, without a password: the socket's directory
    /// is closed to everybody else.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!(
            "postgres://postgres@{}/{}",
            percent_encoded(self.home.socket_dir.as_os_str().as_bytes()),
            percent_encoded(database.as_bytes()),
        )
    }

    /// One line for the log: source, version, data directory, how to look in.
    #[must_use]
    pub fn describe(&self) -> String {
        let fate = match self.durability {
            Durability::Kept => "data in",
            Durability::Throwaway => "temporary data in",
        };
        format!(
            "PostgreSQL {} ({} in {}), {fate} {}, look in with: psql -h {} -U postgres",
            self.binaries.version,
            self.binaries.source,
            self.binaries.dir.display(),
            self.data_dir.display(),
            shell_quoted(&self.home.socket_dir),
        )
    }

    /// The process id of the server.
    #[must_use]
    pub fn postmaster_pid(&self) -> u32 {
        self.server.pid()
    }

    /// Calls `listener` once, with a message for a human, should the server
    /// end without us stopping it; at once if it already has. The listener
    /// runs on the watching thread and must not block for long.
    pub fn on_death(&self, listener: impl FnOnce(String) + Send + 'static) {
        self.server.on_death(Box::new(listener));
    }

    /// Shuts the server down and waits for it, at most 40 seconds. Open
    /// connections are cut. Temporary data is gone afterwards.
    ///
    /// # Errors
    /// See [`StopError`].
    pub fn stop(mut self) -> Result<(), StopError> {
        self.shut_down()
    }

    fn shut_down(&mut self) -> Result<(), StopError> {
        if self.stopped {
            return Ok(());
        }
        self.stopped = true;
        let outcome = self.server.stop();
        if self.durability == Durability::Throwaway {
            // The watchdog did it, unless somebody ended the watchdog.
            remove_quietly(&self.home.dir);
        }
        outcome
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(cause) = self.shut_down() {
            tracing::warn!(%cause, "PostgreSQL was not shut down cleanly");
        }
    }
}

/// Removes all kept data below `data_root` and returns the directories that
/// were emptied. Servers that a crashed run left behind are ended first.
///
/// # Errors
/// [`StartError::InUse`] while an instance is running on the data, and what
/// the file system says.
pub fn throw_away(data_root: &Path) -> Result<Vec<PathBuf>, StartError> {
    let account = Account::choose(Some(&home::inside(data_root)))?;
    let homes = Home::existing(data_root, &account)?;
    for home in &homes {
        home.empty()?;
    }
    Ok(homes.into_iter().map(|home| home.dir.clone()).collect())
}

#[cfg(feature = "bundled-postgres")]
fn bundled_binaries(home: &Home, durability: Durability, account: &Account) -> Result<Binaries, StartError> {
    if bundled::AVAILABLE {
        if durability == Durability::Kept && bundled::can_live_below(&home.dir) {
            return bundled::unpacked(&home.dir, account);
        }
        // Shared by temporary clusters, and out of the way of odd characters.
        let scratch = home::scratch()?;
        let _unpacking = home::lock_scratch(&scratch)?;
        return bundled::unpacked(&scratch, account);
    }
    Err(no_binaries(", and none exist on crates.io for this platform"))
}

#[cfg(not(feature = "bundled-postgres"))]
fn bundled_binaries(_: &Home, _: Durability, _: &Account) -> Result<Binaries, StartError> {
    Err(no_binaries(", and this build comes without any (feature `bundled-postgres`)"))
}

fn no_binaries(bundled: &str) -> StartError {
    StartError::NoBinaries { places: locate::places(), bundled: bundled.to_owned(), command: locate::install_command() }
}

/// Data made by another version or source stays where it is; a person who
/// misses it should read why.
fn mention_other_data(home: &Path, data_dir: &Path) {
    let Ok(entries) = std::fs::read_dir(home) else {
        return;
    };
    for other in entries.flatten().map(|entry| entry.path()) {
        if other != data_dir && other.join("PG_VERSION").exists() && other.extension().is_none() {
            tracing::warn!(
                unused = %other.display(),
                used = %data_dir.display(),
                "there is data of another PostgreSQL version or build, which this one cannot read",
            );
        }
    }
}

fn remove_quietly(dir: &Path) {
    match std::fs::remove_dir_all(dir) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(dir = %dir.display(), %cause, "a temporary cluster was not removed");
        }
        Ok(()) | Err(_) => {}
    }
}

fn percent_encoded(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            text.push(char::from(*byte));
        } else {
            // Writing to a String cannot fail.
            let _written = write!(text, "%{byte:02X}");
        }
        text
    })
}

fn shell_quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-._".contains(c);
    if text.chars().all(plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
