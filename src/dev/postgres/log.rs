//! The log files of the server and of `initdb`: opened for them, quoted when
//! something went wrong.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::StartError;
use super::account::Account;

const LARGEST_BYTES: u64 = 16 * 1024 * 1024;
const TAIL_BYTES: u64 = 4096;
const TAIL_LINES: usize = 10;

/// Opens `path` for appending and gives it to the account. A long one is put
/// aside first, so that two of them are the most there is.
pub(super) fn open(path: &Path, account: &Account) -> Result<File, StartError> {
    if fs::metadata(path).is_ok_and(|log| log.len() > LARGEST_BYTES) {
        let aside = path.with_extension("log.1");
        fs::rename(path, &aside).map_err(|cause| StartError::file(&aside, cause))?;
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        // The directory belongs to the server's account: root follows no link there.
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .and_then(|log| account.give_open(&log).map(|()| log))
        .map_err(|cause| StartError::file(path, cause))
}

/// The last lines of a log file, or why there are none.
pub(super) fn tail(path: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Err(cause) => format!("({cause})"),
        Ok(text) if text.trim().is_empty() => "(nothing)".to_owned(),
        Ok(text) => {
            let mut lines = text.lines().rev().take(TAIL_LINES).collect::<Vec<_>>();
            lines.reverse();
            lines.join("\n")
        }
    }
}
