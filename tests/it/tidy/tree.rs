//! The files of the project, as `tidy` reads them: the sources of a
//! directory, and everything that git knows.

use std::fs;
use std::path::Path;
use std::process::Command;

/// A file and its place in the tree, with `/` between directories.
pub struct Source {
    pub path: String,
    pub text: String,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn rust_files(directories: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    directories.iter().for_each(|directory| walk(&root().join(directory), &mut found));
    let is_rust = |path: &String| path.ends_with(".rs");
    let read = |path: String| Source { text: fs::read_to_string(root().join(&path)).expect("source is text"), path };
    let sources: Vec<Source> = found.into_iter().filter(is_rust).map(read).collect();
    assert!(sources.len() > 10, "only {} source files in {directories:?}", sources.len());
    sources
}

/// Every file below, without what builds and tools leave behind.
fn walk(directory: &Path, found: &mut Vec<String>) {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    for path in entries.map(|entry| entry.expect("a directory entry").path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !matches!(name.as_str(), ".git" | ".data" | "target" | "node_modules") {
            walk(&path, found);
        } else if path.is_file() {
            let relative = path.strip_prefix(root()).expect("walks below the root");
            found.push(relative.to_string_lossy().replace('\\', "/"));
        }
    }
}

/// What belongs to the project: what git knows or would add; without git, all files.
pub fn tracked() -> Vec<String> {
    let mut git = Command::new("git");
    git.current_dir(root()).args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others"]);
    let mut found = Vec::new();
    match git.arg("--exclude-standard").output() {
        Ok(output) if output.status.success() => {
            let listed = String::from_utf8_lossy(&output.stdout).into_owned();
            found.extend(listed.split('\0').filter(|path| root().join(path).is_file()).map(str::to_owned));
        }
        Ok(_) | Err(_) => walk(root(), &mut found),
    }
    assert!(found.iter().any(|path| path == "Cargo.toml"), "the list of files is not that of this project");
    found
}
