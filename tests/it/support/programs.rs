//! Programs that some tests want beyond PostgreSQL: finds them, and keeps the
//! books on what was wanted and is not installed. Called by the tests that use
//! such a program.
//!
//! Without it a test is skipped, and one line at the end of the whole run
//! names everything that was missed. With `CI=true` the test fails instead:
//! there, a skipped check would look like a passed one.
//!
//! ```ignore
//! let Some(redis) = programs::wanted("redis-server") else { return };
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};

/// Where to look besides `PATH`, which of a service or an editor is often short.
const KNOWN: [&str; 8] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
    "/opt/homebrew/bin",
    "/run/current-system/sw/bin",
];

/// Program → the tests that wanted it.
static MISSED: Mutex<BTreeMap<String, BTreeSet<String>>> = Mutex::new(BTreeMap::new());
static AT_THE_END: Once = Once::new();

/// The program's path, from `PATH` or a known directory.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(KNOWN.map(PathBuf::from));
    directories
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(program))
        .find(|file| runs(file))
}

/// The program's path; without one, the calling test has to return: it is
/// written down as skipped.
///
/// # Panics
/// With `CI=true`, if the program is not installed.
pub fn wanted(program: &str) -> Option<PathBuf> {
    let found = find(program);
    if found.is_none() {
        let ci = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(!ci, "{program} is not installed, and with CI=true no test is skipped: see the packages in .ci/run");
        let thread = std::thread::current();
        miss(program, thread.name().unwrap_or("a test"));
    }
    found
}

/// Writes the calling test down as not run for want of `what`; it has to return.
///
/// # Panics
/// With `CI=true`.
pub fn do_without(what: &str) {
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!ci, "{what} is missing, and with CI=true no test is skipped");
    let thread = std::thread::current();
    miss(what, thread.name().unwrap_or("a test"));
}

fn runs(file: &Path) -> bool {
    file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

fn miss(program: &str, test: &str) {
    AT_THE_END.call_once(|| {
        // The harness ends by leaving `main` or by `exit`; both come through here, after its last line.
        #[expect(unsafe_code, reason = "std has no hook for the end of the process")]
        // SAFETY: the function is `extern "C"`, unwinds never, and touches only statics without destructors.
        let registered = unsafe { libc::atexit(say_what_was_missed) };
        assert_eq!(registered, 0, "no room for another function to call at the end");
    });
    let mut missed = MISSED.lock().unwrap_or_else(PoisonError::into_inner);
    missed.entry(program.to_owned()).or_default().insert(test.to_owned());
}

extern "C" fn say_what_was_missed() {
    let missed = MISSED.lock().unwrap_or_else(PoisonError::into_inner);
    // Nobody is left to tell if this fails.
    std::io::stderr().write_all(closing_line(&missed).as_bytes()).unwrap_or_default();
}

fn closing_line(missed: &BTreeMap<String, BTreeSet<String>>) -> String {
    let program = |(program, tests): (&String, &BTreeSet<String>)| {
        let noun = if tests.len() == 1 { "test" } else { "tests" };
        format!("{program} ({} {noun})", tests.len())
    };
    let programs: Vec<String> = missed.iter().map(program).collect();
    format!("skipped, because this is missing: {}\n", programs.join(", "))
}

#[test]
fn the_closing_line_names_every_program_once() {
    let tests = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
    let missed =
        BTreeMap::from([("redis-server".to_owned(), tests(&["a", "b"])), ("chromium".to_owned(), tests(&["a"]))]);
    assert_eq!(closing_line(&missed), "skipped, because this is missing: chromium (1 test), redis-server (2 tests)\n");
}

#[test]
fn a_program_is_found_and_a_directory_or_a_plain_file_is_none() {
    assert!(find("sh").is_some_and(|path| path.is_absolute() && path.ends_with("sh")));
    assert_eq!(find("no-such-program"), None);
    assert_eq!(find("."), None);
    assert!(!runs(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))));
}

/// Set in the process that the test below starts: this very test, run alone.
const WANTING: &str = "PAYGAUGE_TEST_WANTING";

#[test]
fn a_missing_program_is_told_after_the_last_line_and_fails_in_ci() {
    if std::env::var_os(WANTING).is_some() {
        assert_eq!(wanted("no-such-program"), None);
        assert_eq!(wanted("another-missing-one"), None);
        return;
    }
    let this = std::thread::current().name().unwrap_or_default().to_owned();
    let run = |ci: &str| {
        let mut test = std::process::Command::new(std::env::current_exe().unwrap());
        test.args(["--exact", &this, "--test-threads=2"]).env(WANTING, "1").env("CI", ci);
        test.output().unwrap()
    };

    let elsewhere = run("");
    assert!(elsewhere.status.success(), "{elsewhere:?}");
    assert!(String::from_utf8_lossy(&elsewhere.stdout).contains("1 passed"), "{elsewhere:?}");
    let said = String::from_utf8_lossy(&elsewhere.stderr).into_owned();
    assert_eq!(said.matches("skipped, because this is missing").count(), 1, "{said}");
    assert!(said.contains("another-missing-one (1 test), no-such-program (1 test)"), "{said}");

    let ci = run("true");
    assert!(!ci.status.success(), "{ci:?}");
    assert!(String::from_utf8_lossy(&ci.stdout).contains("no-such-program is not installed"), "{ci:?}");
}
