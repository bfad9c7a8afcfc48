//! The PostgreSQL server that came with the build from crates.io. It is copied
//! out of the build directory, which the server's account often cannot enter,
//! and, where glibc is older than the one it was linked against, adjusted on
//! the way. Called under a lock when no installed server was found.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::account::Account;
use super::home::{create_dir, fingerprint, set_mode};
use super::locate::{Binaries, Source};
use super::{StartError, elf, system};

const RUNTIME: Option<&str> = option_env!("PAYGAUGE_BUNDLED_POSTGRES");
const RUNTIME_ID: Option<&str> = option_env!("PAYGAUGE_BUNDLED_POSTGRES_ID");
/// Empty where it is not needed or could not be compiled.
const SHIM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/glibc_shim.so"));
const SHIM_NAME: &str = "lib/glibc_shim.so";

/// The glibc that the binaries were linked against; the shim has what came
/// between.
const LINKED_GLIBC: (u32, u32) = (2, 38);
/// Below this the shim is not enough.
const OLDEST_GLIBC: (u32, u32) = (2, 34);

/// Lists what was unpacked, with sizes; written last.
const INVENTORY: &str = "inventory";
/// Counts up when unpacking does something differently.
const FORMAT: u8 = 1;

/// Whether this build has any.
pub(super) const AVAILABLE: bool = RUNTIME.is_some();

/// Whether the dynamic linker can be told of libraries below `parent`: it takes
/// lists, separated by characters that it has no way to quote.
pub(super) fn can_live_below(parent: &Path) -> bool {
    !parent.to_string_lossy().contains([' ', '\t', '\n', ':', ';', '$'])
}

/// The binaries, below `parent`: as an earlier start unpacked them if they are
/// still complete, else unpacked anew. The caller holds a lock on `parent`.
pub(super) fn unpacked(parent: &Path, account: &Account) -> Result<Binaries, StartError> {
    let (Some(runtime), Some(id)) = (RUNTIME, RUNTIME_ID) else {
        return Err(StartError::Bundled("this build has none".to_owned()));
    };
    let old_glibc = glibc_to_adapt_to()?;
    let dir = parent.join(format!("bundled-{:016x}", fingerprint_of(id, old_glibc)));
    if !is_complete(&dir) {
        let unfinished = dir.with_extension("unfinished");
        remove(&unfinished)?;
        remove(&dir)?;
        copy(Path::new(runtime), &unfinished, old_glibc)?;
        fs::rename(&unfinished, &dir).map_err(|cause| StartError::file(&dir, cause))?;
    }
    Binaries::probe(dir.join("bin"), Source::Bundled, environment(&dir, old_glibc), account)
        .map_err(StartError::Bundled)
}

/// The running glibc if it is older than the one linked against.
fn glibc_to_adapt_to() -> Result<Option<(u32, u32)>, StartError> {
    let old = system::glibc_version().filter(|version| *version < LINKED_GLIBC);
    match old {
        Some((major, minor)) if (major, minor) < OLDEST_GLIBC => Err(StartError::Bundled(format!(
            "it needs glibc {}.{}, this is {major}.{minor}",
            OLDEST_GLIBC.0, OLDEST_GLIBC.1
        ))),
        Some(_) if SHIM.is_empty() => Err(StartError::Bundled(
            "on this glibc it needs a C compiler when paygauge is built, and there was none".to_owned(),
        )),
        found => Ok(found),
    }
}

fn environment(dir: &Path, old_glibc: Option<(u32, u32)>) -> Vec<(&'static str, PathBuf)> {
    let library_path = if cfg!(target_os = "macos") { "DYLD_LIBRARY_PATH" } else { "LD_LIBRARY_PATH" };
    let mut environment =
        vec![(library_path, dir.join("lib")), ("OLIPHAUNT_INTERNAL_SKIP_ICU_DISCOVERY", PathBuf::from("1"))];
    if old_glibc.is_some() {
        environment.push(("LD_PRELOAD", dir.join(SHIM_NAME)));
    }
    environment
}

fn fingerprint_of(id: &str, old_glibc: Option<(u32, u32)>) -> u64 {
    let glibc = old_glibc.map_or(String::new(), |(major, minor)| format!("{major}.{minor}"));
    fingerprint([FORMAT].into_iter().chain(id.bytes()).chain(glibc.bytes()).chain(SHIM.iter().copied()))
}

/// Directories for temporary files are swept by age, file by file: a name in
/// the right place does not mean that everything is still there.
fn is_complete(dir: &Path) -> bool {
    let Ok(inventory) = fs::read_to_string(dir.join(INVENTORY)) else {
        return false;
    };
    inventory.lines().all(|line| {
        line.split_once(' ')
            .is_some_and(|(size, name)| fs::metadata(dir.join(name)).is_ok_and(|file| size.parse() == Ok(file.len())))
    })
}

fn copy(runtime: &Path, dir: &Path, old_glibc: Option<(u32, u32)>) -> Result<(), StartError> {
    if !runtime.is_dir() {
        return Err(StartError::Bundled(format!(
            "its files are not in {} any more: build paygauge again, or run it where it was built",
            runtime.display()
        )));
    }
    let mut inventory = Vec::new();
    create_dir(dir, 0o755)?;
    set_mode(dir, 0o755)?;
    copy_tree(runtime, dir, Path::new(""), old_glibc, &mut inventory)?;
    if old_glibc.is_some() {
        write(&dir.join(SHIM_NAME), SHIM, 0o755)?;
        inventory.push(line(Path::new(SHIM_NAME), SHIM));
    }
    write(&dir.join(INVENTORY), inventory.concat().as_bytes(), 0o644)
}

fn copy_tree(
    from: &Path,
    to: &Path,
    below: &Path,
    old_glibc: Option<(u32, u32)>,
    inventory: &mut Vec<String>,
) -> Result<(), StartError> {
    let source = from.join(below);
    let failed = |cause| StartError::file(&source, cause);
    for entry in fs::read_dir(&source).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = below.join(entry.file_name());
        let target = to.join(&name);
        if entry.path().is_dir() {
            create_dir(&target, 0o755)?;
            set_mode(&target, 0o755)?;
            copy_tree(from, to, &name, old_glibc, inventory)?;
            continue;
        }
        let mut bytes = fs::read(entry.path()).map_err(failed)?;
        if let Some(glibc) = old_glibc.filter(|_| elf::is_elf(&bytes)) {
            elf::weaken_newer_glibc(&mut bytes, glibc)
                .ok_or_else(|| StartError::Bundled(format!("{} is malformed", entry.path().display())))?;
        }
        let executable = elf::is_elf(&bytes) || below.file_name() == Some(OsStr::new("bin"));
        write(&target, &bytes, if executable { 0o755 } else { 0o644 })?;
        inventory.push(line(&name, &bytes));
    }
    Ok(())
}

/// One line of the inventory.
fn line(name: &Path, bytes: &[u8]) -> String {
    format!("{} {}\n", bytes.len(), name.display())
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), StartError> {
    fs::write(path, bytes).map_err(|cause| StartError::file(path, cause))?;
    set_mode(path, mode)
}

fn remove(dir: &Path) -> Result<(), StartError> {
    match fs::remove_dir_all(dir) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(StartError::file(dir, cause)),
        Ok(()) | Err(_) => Ok(()),
    }
}
