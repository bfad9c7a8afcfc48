//! Finds and ends server processes that an earlier run left behind. They are
//! recognised by the cluster name we gave them, which stands in the command
//! line of the postmaster and in the title of each of its children, so that no
//! foreign PostgreSQL can be mistaken for ours. Called while the lock of the
//! directory is held; refuses to go on while a leftover is alive.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::system::{self, Signal};

/// How long a leftover gets for each kind of shutdown.
const ROUNDS: [(Signal, Duration); 3] = [
    (Signal::Fast, Duration::from_secs(10)),
    (Signal::Immediate, Duration::from_secs(5)),
    (Signal::Kill, Duration::from_secs(5)),
];

/// Ends every server process that carries `cluster_name`. Returns how many
/// there were, or the process ids that could not be ended.
pub(super) fn end_servers(cluster_name: &str) -> Result<usize, Vec<u32>> {
    let found = servers(cluster_name).len();
    for (signal, patience) in ROUNDS {
        let servers = servers(cluster_name);
        if servers.is_empty() {
            return Ok(found);
        }
        let leaderless = !servers.iter().any(Process::is_postmaster);
        for server in &servers {
            // The children follow their postmaster. To them alone a fast
            // shutdown means something else, so they get the next signal.
            match (server.is_postmaster(), signal) {
                (true, _) | (false, Signal::Kill) => system::send(server.pid, signal),
                (false, _) if leaderless => system::send(server.pid, Signal::Immediate),
                (false, _) => {}
            }
        }
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline && !self::servers(cluster_name).is_empty() {
            sleep(Duration::from_millis(20));
        }
    }
    match servers(cluster_name) {
        left if left.is_empty() => Ok(found),
        left => Err(left.into_iter().map(|process| process.pid).collect()),
    }
}

/// Ends every `initdb` that still works on `data_dir`.
pub(super) fn end_initdb(data_dir: &Path) {
    let data_dir = data_dir.to_string_lossy();
    for process in running() {
        if process.is_program("initdb") && process.mentions(&data_dir) {
            system::send(process.pid, Signal::Kill);
        }
    }
}

/// The live server processes that carry `cluster_name`.
pub(super) fn servers(cluster_name: &str) -> Vec<Process> {
    let mut servers = running();
    servers.retain(|process| (process.is_program("postgres") || process.is_titled()) && process.mentions(cluster_name));
    servers
}

/// One line of the process table.
pub(super) struct Process {
    pid: u32,
    program: String,
    command: String,
}

impl Process {
    fn is_program(&self, name: &str) -> bool {
        Path::new(&self.program).file_name().is_some_and(|file| file == name)
    }

    /// A child of the postmaster: PostgreSQL rewrites its command line.
    fn is_titled(&self) -> bool {
        self.program.starts_with("postgres:")
    }

    fn is_postmaster(&self) -> bool {
        !self.is_titled()
    }

    fn mentions(&self, text: &str) -> bool {
        self.command.contains(text)
    }
}

/// All processes with a command line; a zombie has none.
fn running() -> Vec<Process> {
    // Slim images have no `ps`, other systems have no /proc.
    if Path::new("/proc/self/cmdline").exists() { from_proc() } else { from_ps() }
}

fn from_proc() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            let pid: u32 = name.to_str()?.parse().ok()?;
            let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let text = String::from_utf8_lossy(&bytes);
            let program = text.split('\0').next().filter(|first| !first.is_empty())?;
            Some(Process { pid, program: program.to_owned(), command: text.replace('\0', " ") })
        })
        .collect()
}

fn from_ps() -> Vec<Process> {
    let Ok(output) = Command::new("ps").args(["-axww", "-o", "pid=,command="]).output() else {
        return Vec::new();
    };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| {
            let (pid, command) = line.trim_start().split_once(' ')?;
            let command = command.trim_start();
            Some(Process {
                pid: pid.parse().ok()?,
                program: command.split(' ').next()?.to_owned(),
                command: command.to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{from_proc, from_ps};

    #[test]
    fn finds_this_process_in_both_tables() {
        let me = std::process::id();
        if std::path::Path::new("/proc/self/cmdline").exists() {
            assert!(from_proc().iter().any(|process| process.pid == me));
        }
        if std::process::Command::new("ps").arg("-V").output().is_ok() {
            assert!(from_ps().iter().any(|process| process.pid == me));
        }
    }
}
