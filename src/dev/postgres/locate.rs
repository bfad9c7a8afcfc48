//! Finds the PostgreSQL server binaries to run: the directory we were told,
//! else an installed server from `PATH` or a known place, else the binaries
//! that came with the build. Refuses everything older than PostgreSQL 15.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::StartError;
use super::account::Account;

/// The oldest major version that the migrations are written for.
pub(super) const OLDEST_MAJOR: u32 = 15;

/// Where distributions put the binaries; `*` stands for any characters
/// within one name. Of several matches the newest version wins.
const KNOWN: [&str; 11] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/libexec/postgresql*",
    "/usr/lib/postgresql*/bin",
    "/usr/local/pgsql/bin",
    "/usr/local/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
    "/opt/local/lib/postgresql*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "/run/current-system/sw/bin",
];

/// Where the binaries came from. Part of the name of the data directory:
/// builds of one major version differ in checksums and collations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Installed on this machine.
    Installed,
    /// Came with the build, from crates.io.
    #[cfg(feature = "bundled-postgres")]
    Bundled,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Installed => "installed",
            #[cfg(feature = "bundled-postgres")]
            Self::Bundled => "bundled",
        })
    }
}

/// A directory with `postgres` and `initdb` that the account can run.
#[derive(Debug, Clone)]
pub(super) struct Binaries {
    pub(super) dir: PathBuf,
    pub(super) major: u32,
    /// As the server prints it, e.g. `15.18`.
    pub(super) version: String,
    pub(super) source: Source,
    /// Variables the programs need to find their libraries.
    pub(super) environment: Vec<(&'static str, PathBuf)>,
}

impl Binaries {
    /// Asks the server in `dir` for its version, as `account`.
    pub(super) fn probe(
        dir: PathBuf,
        source: Source,
        environment: Vec<(&'static str, PathBuf)>,
        account: &Account,
    ) -> Result<Self, String> {
        for program in ["postgres", "initdb"] {
            if !dir.join(program).is_file() {
                return Err(format!("there is no {program} in {}", dir.display()));
            }
        }
        let program = dir.join("postgres");
        let output = account
            .command(&program)
            .arg("--version")
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stderr(Stdio::piped())
            .output()
            .map_err(|cause| format!("cannot run {}: {cause}", program.display()))?;
        let printed = String::from_utf8_lossy(&output.stdout);
        let Some((major, version)) = parse_version(&printed) else {
            let complaint = String::from_utf8_lossy(&output.stderr);
            return Err(format!(
                "{} --version answered {:?} ({}) {}",
                program.display(),
                printed.trim(),
                output.status,
                complaint.trim(),
            ));
        };
        Ok(Self { dir, major, version, source, environment })
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// The server in `bin_dir`, which was asked for: no other will do.
pub(super) fn demanded(bin_dir: &Path, account: &Account) -> Result<Binaries, StartError> {
    let refused = |reason| StartError::BinDir { dir: bin_dir.to_owned(), reason };
    let dir = bin_dir.canonicalize().map_err(|cause| refused(cause.to_string()))?;
    let binaries = Binaries::probe(dir, Source::Installed, Vec::new(), account).map_err(refused)?;
    if binaries.major < OLDEST_MAJOR {
        return Err(refused(format!("PostgreSQL {} is older than {OLDEST_MAJOR}", binaries.version)));
    }
    Ok(binaries)
}

/// The first usable installed server: `search_path` in its order, then the
/// known directories.
pub(super) fn installed(search_path: Option<&OsStr>, account: &Account) -> Option<Binaries> {
    let mut seen = Vec::new();
    for dir in candidates(search_path) {
        if seen.contains(&dir) {
            continue;
        }
        seen.push(dir.clone());
        match Binaries::probe(dir, Source::Installed, Vec::new(), account) {
            Ok(binaries) if binaries.major >= OLDEST_MAJOR => return Some(binaries),
            Ok(old) => tracing::info!(
                version = old.version,
                dir = %old.dir.display(),
                "skipped an installed PostgreSQL that is older than {OLDEST_MAJOR}",
            ),
            Err(reason) => tracing::info!(reason, "skipped an unusable PostgreSQL"),
        }
    }
    None
}

/// Directories that contain a `postgres`, links resolved.
fn candidates(search_path: Option<&OsStr>) -> Vec<PathBuf> {
    let from_path = search_path.map(|path| std::env::split_paths(path).collect::<Vec<_>>()).unwrap_or_default();
    from_path
        .into_iter()
        // An entry relative to wherever we are run is nobody's installation.
        .filter(|dir| dir.is_absolute())
        .chain(KNOWN.iter().flat_map(|pattern| newest_first(pattern)))
        .filter_map(|dir| {
            let program = dir.join("postgres").canonicalize().ok()?;
            Some(program.parent()?.to_owned())
        })
        .collect()
}

/// The directories that match `pattern`, highest version first.
fn newest_first(pattern: &str) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/")];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        found = match part.split_once('*') {
            None => found.into_iter().map(|dir| dir.join(part)).collect(),
            Some((before, after)) => found.iter().flat_map(|dir| names_between(dir, before, after)).collect(),
        };
    }
    found.retain(|dir| dir.is_dir());
    found.sort_by_key(|dir| std::cmp::Reverse(numbers(&dir.to_string_lossy())));
    found
}

fn names_between(dir: &Path, before: &str, after: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.strip_prefix(before).is_some_and(|rest| rest.ends_with(after))
        })
        .map(|entry| entry.path())
        .collect()
}

/// All numbers in a text, so that 9.6 < 15 < 15.2.
fn numbers(text: &str) -> Vec<u32> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// `postgres (PostgreSQL) 15.18 (Debian …)` → `(15, "15.18")`.
fn parse_version(printed: &str) -> Option<(u32, String)> {
    let version = printed.split("(PostgreSQL) ").nth(1)?.split_whitespace().next()?;
    let digits = version.chars().take_while(char::is_ascii_digit).collect::<String>();
    Some((digits.parse().ok()?, version.to_owned()))
}

/// The places that were searched, for the error.
pub(super) fn places() -> String {
    format!("PATH, {}", KNOWN.join(", "))
}

/// The one command that installs a server on this platform.
pub(super) fn install_command() -> &'static str {
    const BY_TOOL: [(&str, &str); 8] = [
        ("/usr/bin/apt-get", "apt-get install -y postgresql"),
        ("/usr/bin/dnf", "dnf install -y postgresql-server"),
        ("/usr/bin/microdnf", "microdnf install -y postgresql-server"),
        ("/usr/bin/zypper", "zypper install -y postgresql-server"),
        ("/sbin/apk", "apk add postgresql"),
        ("/usr/bin/pacman", "pacman -S --noconfirm postgresql"),
        ("/opt/homebrew/bin/brew", "brew install postgresql@17"),
        ("/usr/local/bin/brew", "brew install postgresql@17"),
    ];
    BY_TOOL
        .into_iter()
        .find(|(tool, _)| Path::new(tool).exists())
        .map_or("(your system's package manager) postgresql", |(_, command)| command)
}

#[cfg(test)]
mod tests {
    use super::{install_command, newest_first, numbers, parse_version};

    #[test]
    fn reads_the_version_line_of_every_kind_of_release() {
        let read = |line: &str| parse_version(line).map(|(major, _)| major);
        assert_eq!(read("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(read("postgres (PostgreSQL) 18.4\n"), Some(18));
        assert_eq!(read("postgres (PostgreSQL) 19beta1\n"), Some(19));
        assert_eq!(read("postgres (PostgreSQL) 9.6.24\n"), Some(9));
        assert_eq!(read("something else 15\n"), None);
        assert_eq!(read(""), None);
    }

    #[test]
    fn prefers_the_newest_of_several_directories() {
        assert!(numbers("/usr/lib/postgresql/15/bin") > numbers("/usr/lib/postgresql/9.6/bin"));
        let root = std::env::temp_dir().join(format!("paygauge-locate-{}", std::process::id()));
        for version in ["9.6", "15", "17"] {
            std::fs::create_dir_all(root.join(version).join("bin")).unwrap();
        }
        let found = newest_first(&format!("{}/*/bin", root.display()));
        std::fs::remove_dir_all(&root).unwrap();
        let expected = ["17", "15", "9.6"].map(|version| root.join(version).join("bin"));
        assert_eq!(found, expected);
    }

    #[test]
    fn names_a_command_for_this_machine() {
        assert!(install_command().contains("postgresql"));
    }
}
