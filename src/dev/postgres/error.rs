//! Why a server was not started or not stopped cleanly, in words for the
//! person at the terminal.

use std::io;
use std::path::{Path, PathBuf};

#[cfg(doc)]
use super::Cluster;
use super::locate;

/// Why no server was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Nothing to run.
    #[error(
        "no PostgreSQL server binaries, version {} or newer, were found (looked in {places}){bundled}. \
         Install them with: {command} — or point at a running server: DATABASE_URL=postgres://…",
        locate::OLDEST_MAJOR
    )]
    NoBinaries {
        /// The directories that were searched.
        places: String,
        /// Why the bundled binaries are no way out.
        bundled: String,
        /// The one command that helps on this platform.
        command: &'static str,
    },
    /// The directory in `PG_BIN_DIR` is of no use.
    #[error("PG_BIN_DIR={dir:?} cannot be used: {reason}")]
    BinDir {
        /// As it was given.
        dir: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The binaries of the build could not be made ready.
    #[error("the PostgreSQL that came with this build cannot be used: {0}")]
    Bundled(String),
    /// We are root and there is nobody to run the server as.
    #[error(
        "PostgreSQL refuses to run as root, and there is neither a `postgres` nor a `nobody` account \
         to run it as; start paygauge as an ordinary user"
    )]
    NoAccount,
    /// Another instance holds the lock.
    #[error(
        "the data in {dir:?} is in use by another running instance{}; stop that one first",
        holder.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    InUse {
        /// The home of the data.
        dir: PathBuf,
        /// The other's process id, if it could be read.
        holder: Option<u32>,
    },
    /// A directory belongs to another account.
    #[error(
        "{dir:?} belongs to another account (user id {owner}) or is not a directory; \
         run as that user or as root, or remove it"
    )]
    NotOurs {
        /// The directory.
        dir: PathBuf,
        /// Its owner's user id.
        owner: u32,
    },
    /// Processes of an earlier run could not be ended.
    #[error("PostgreSQL processes of an earlier run cannot be ended: {0:?}")]
    Leftovers(Vec<u32>),
    /// `initdb` failed.
    #[error("could not create the database cluster: initdb: {reason}. It said:\n{log}")]
    Initdb {
        /// Its exit status, or why it did not run.
        reason: String,
        /// The last lines of its output.
        log: String,
    },
    /// The postmaster failed.
    #[error("PostgreSQL did not start: {reason}. The end of its log:\n{log}")]
    Server {
        /// Its exit status, or why it did not run.
        reason: String,
        /// The last lines of its log.
        log: String,
    },
    /// Without its watchdog the server could outlive us, so it is not started.
    #[error("cannot start the watchdog of PostgreSQL: {0}")]
    Watchdog(#[source] io::Error),
    /// The thread that watches the server could not be started.
    #[error("cannot start the thread that watches PostgreSQL: {0}")]
    Thread(#[source] io::Error),
    /// A file or directory made trouble.
    #[error("{path:?}: {cause}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
}

impl StartError {
    pub(super) fn file(path: &Path, cause: io::Error) -> Self {
        Self::File { path: path.to_owned(), cause }
    }
}

/// Why a stop was not a clean one. Kept data is safe in every case: the next
/// start recovers it.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// It had ended before; the same message went to [`Cluster::on_death`].
    #[error("{0}")]
    Died(String),
    /// It did not end in time and was ended the hard way.
    #[error("PostgreSQL did not shut down in time and was ended by force")]
    Forced,
    /// It survived even that.
    #[error("PostgreSQL (process {0}) does not end")]
    Stuck(u32),
    /// The system cannot tell.
    #[error("cannot tell whether PostgreSQL has ended: {0}")]
    Lost(#[source] io::Error),
}
