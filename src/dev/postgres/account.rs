//! Who runs the server. PostgreSQL refuses to run as root, so root hands its
//! processes and directories to another account; everybody else runs the
//! server as themselves. Called by the start sequence; never returns root.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, chown, fchown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{StartError, system};

/// Accounts that root may hand the server to, best first.
const CANDIDATES: [&str; 3] = ["postgres", "_postgres", "nobody"];

/// The account that owns the data and runs the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    uid: u32,
    /// Set when we are root and have to change to the account.
    drop_to_gid: Option<u32>,
}

impl Account {
    /// Ourselves, or, for root, the owner of `existing_home` if that is
    /// somebody else (the data of an ordinary user stays theirs), `postgres`,
    /// or `nobody`.
    pub(super) fn choose(existing_home: Option<&Path>) -> Result<Self, StartError> {
        let uid = system::effective_uid();
        if uid != 0 {
            return Ok(Self { uid, drop_to_gid: None });
        }
        let owner = existing_home
            .and_then(|home| fs::symlink_metadata(home).ok())
            .filter(|home| home.is_dir() && home.uid() != 0);
        if let Some(owner) = owner {
            return Ok(Self { uid: owner.uid(), drop_to_gid: Some(owner.gid()) });
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        CANDIDATES
            .into_iter()
            .find_map(|name| ids_of(&passwd, name))
            .map(|(uid, gid)| Self { uid, drop_to_gid: Some(gid) })
            .ok_or(StartError::NoAccount)
    }

    pub(super) fn uid(&self) -> u32 {
        self.uid
    }

    /// A command that runs as this account in a process group of its own
    /// (Ctrl-C in the terminal must not reach it), with an empty environment
    /// (no `PG*` variable, no locale, no preloaded library gets through) and
    /// from a directory that always exists.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .current_dir("/")
            .stdin(Stdio::null())
            .process_group(0);
        if let Some(gid) = self.drop_to_gid {
            // std also clears the supplementary groups when root sets a uid.
            command.uid(self.uid).gid(gid);
        }
        command
    }

    /// Whether the account can pass through `dir`, asked by trying.
    pub(super) fn can_enter(&self, dir: &Path) -> bool {
        if self.drop_to_gid.is_none() {
            return true;
        }
        self.command(Path::new("/bin/sh"))
            .args(["-c", "cd -- \"$1\"", "sh"])
            .arg(dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// Makes the account the owner of `path`; nothing to do unless we are root.
    pub(super) fn give(&self, path: &Path) -> io::Result<()> {
        match self.drop_to_gid {
            Some(gid) => chown(path, Some(self.uid), Some(gid)),
            None => Ok(()),
        }
    }

    /// The same for an open file, whatever its name points to by now.
    pub(super) fn give_open(&self, file: &File) -> io::Result<()> {
        match self.drop_to_gid {
            Some(gid) => fchown(file, Some(self.uid), Some(gid)),
            None => Ok(()),
        }
    }
}

/// `(uid, gid)` of a local account. Only the file is read: an account from a
/// directory service would need the C library and is not one of ours.
fn ids_of(passwd: &str, name: &str) -> Option<(u32, u32)> {
    let mut fields = passwd
        .lines()
        .map(|line| line.split(':'))
        .find_map(|mut fields| (fields.next() == Some(name)).then_some(fields))?;
    let _password = fields.next()?;
    let uid = unsigned_id(fields.next()?)?;
    let gid = unsigned_id(fields.next()?)?;
    (uid != 0).then_some((uid, gid))
}

/// macOS writes `nobody` as -2.
fn unsigned_id(field: &str) -> Option<u32> {
    field.parse::<u32>().ok().or_else(|| field.parse::<i32>().ok().map(i32::cast_unsigned))
}

#[cfg(test)]
mod tests {
    use super::ids_of;

    #[test]
    fn reads_the_local_account_file() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:*:-2:-2::/:/bin/false\n\
                      postgres:x:101:104:PostgreSQL:/var/lib/postgresql:/bin/bash\n";
        assert_eq!(ids_of(passwd, "postgres"), Some((101, 104)));
        assert_eq!(ids_of(passwd, "nobody"), Some((4_294_967_294, 4_294_967_294)));
        assert_eq!(ids_of(passwd, "root"), None, "never root");
        assert_eq!(ids_of(passwd, "post"), None);
        assert_eq!(ids_of("postgres:x", "postgres"), None);
    }
}
