//! Sees to it that nothing outlives this process. A small `/bin/sh` holds the
//! read end of a pipe whose other end only we have: however we end, also by
//! `kill -9`, the pipe closes, and the shell shuts the server down and removes
//! what was temporary. (The Linux parent-death signal would be tied to the
//! thread that spawned the server, and other systems have none.)

use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Reads lines `<what> <pid>`; the last one counts when the pipe closes.
/// `$1` is the data directory, `$2` a directory to remove at the end or empty.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
data=$1 doomed=$2 what=nothing pid=
while read -r word number; do what=$word pid=$number; done

pause() { sleep 0.1 2>/dev/null || sleep 1; }

# A zombie under an init that never reaps is as good as gone.
alive() {
    kill -0 "$pid" 2>/dev/null || return 1
    if [ -r "/proc/$pid/stat" ]; then
        read -r stat <"/proc/$pid/stat" || return 1
        case $stat in *') Z '*) return 1 ;; esac
    fi
    return 0
}

# send <signal> <target> <tenths of a second>
send() {
    kill -s "$1" -- "$2" 2>/dev/null
    left=$3
    while [ "$left" -gt 0 ] && alive; do pause; left=$((left - 1)); done
}

# We were cut off between the start of the server and the word of its pid. A
# pid file that still names the one before is not about this server.
if [ "$what" = starting ]; then
    before=$pid pid= left=20
    while [ "$left" -gt 0 ]; do
        if [ -s "$data/postmaster.pid" ] && read -r pid <"$data/postmaster.pid" &&
            [ "$pid" != "$before" ]; then
            what=server
            break
        fi
        pause
        left=$((left - 1))
    done
fi

case $what in
server)
    if alive; then send INT "$pid" 100; fi
    if alive; then send QUIT "$pid" 50; fi
    if alive; then send KILL "$pid" 10; fi
    ;;
initdb)
    if alive; then send TERM "-$pid" 20; fi
    if alive; then send KILL "-$pid" 10; fi
    ;;
esac

if [ -n "$doomed" ]; then
    rm -rf -- "$doomed" || { pause; rm -rf -- "$doomed"; }
fi
"#;

/// How long the watchdog may take to clean up after an orderly stop.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the watchdog has to end should the pipe close now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Charge {
    /// `initdb`, with its process id.
    Initdb(u32),
    /// The server is being started; its process id is not known yet. With the
    /// process id that a stale pid file names, or 0.
    Starting(u32),
    /// The postmaster, with its process id.
    Server(u32),
    /// Nothing: it has ended and its process id may belong to another.
    Nothing,
}

/// The shell and our end of the pipe.
#[derive(Debug)]
pub(super) struct Watchdog {
    shell: Child,
}

impl Watchdog {
    /// Starts the shell. `doomed` is removed when this process ends.
    pub(super) fn start(data_dir: &Path, doomed: Option<&Path>) -> io::Result<Self> {
        let shell = Command::new("/bin/sh")
            // By way of a variable, for a short line in the process table.
            .args(["-c", "eval \"$SCRIPT\"", "paygauge-watchdog"])
            .arg(data_dir)
            .arg(doomed.unwrap_or(Path::new("")))
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("SCRIPT", SCRIPT)
            .current_dir("/")
            .stdin(Stdio::piped())
            // Somebody may wait for the end of our output; not for the shell's.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { shell })
    }

    /// Tells the watchdog what to end.
    pub(super) fn charge(&mut self, charge: Charge) -> io::Result<()> {
        let line = match charge {
            Charge::Initdb(pid) => format!("initdb {pid}\n"),
            Charge::Starting(stale) => format!("starting {stale}\n"),
            Charge::Server(pid) => format!("server {pid}\n"),
            Charge::Nothing => "nothing 0\n".to_owned(),
        };
        self.shell.stdin.as_mut().ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe))?.write_all(line.as_bytes())
    }

    /// Closes the pipe and waits for the clean-up. Returns whether it ended.
    pub(super) fn dismiss(&mut self) -> bool {
        drop(self.shell.stdin.take());
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.shell.try_wait() {
                Ok(Some(_)) => return true,
                Ok(None) if Instant::now() < deadline => sleep(Duration::from_millis(5)),
                Ok(None) | Err(_) => return false,
            }
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.dismiss();
    }
}
