//! Runs the postmaster: starts it, waits until it answers, watches it and ends
//! it. Called by [`super::Cluster`] with directories that are locked and tidy.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::account::Account;
use super::locate::Binaries;
use super::system::{self, Signal};
use super::watchdog::{Charge, Watchdog};
use super::{Durability, StartError, StopError, home, log};

/// Generous, because the recovery after a crash counts, too.
const READY_PATIENCE: Duration = Duration::from_mins(5);
const STOP_ROUNDS: [(Signal, Duration); 3] = [
    (Signal::Fast, Duration::from_secs(20)),
    (Signal::Immediate, Duration::from_secs(5)),
    (Signal::Kill, Duration::from_secs(5)),
];

/// What is to be started, and where.
pub(super) struct Plan<'a> {
    pub(super) binaries: &'a Binaries,
    pub(super) account: &'a Account,
    pub(super) data_dir: &'a Path,
    pub(super) socket_dir: &'a Path,
    pub(super) cluster_name: String,
    pub(super) durability: Durability,
}

/// A running postmaster under watch.
pub(super) struct Server {
    pid: u32,
    log: PathBuf,
    child: Mutex<Child>,
    watchdog: Mutex<Watchdog>,
    watch: Mutex<Watch>,
}

type Listener = Box<dyn FnOnce(String) + Send>;

#[derive(Default)]
struct Watch {
    /// From now on its end is our doing.
    stopping: bool,
    /// Set when it ended without us.
    verdict: Option<String>,
    listeners: Vec<Listener>,
}

impl Server {
    /// Starts the postmaster and returns once it accepts connections.
    pub(super) fn start(plan: &Plan<'_>, mut watchdog: Watchdog) -> Result<Arc<Self>, StartError> {
        let log_path = plan.data_dir.join("server.log");
        let log = log::open(&log_path, plan.account)?;
        let failed = |reason: String| StartError::Server { reason, log: log::tail(&log_path) };
        let mut command = plan.account.command(&plan.binaries.program("postgres"));
        command
            .arg("-D")
            .arg(plan.data_dir)
            .envs(plan.binaries.environment.iter().map(|(name, value)| (name, value)))
            .stdout(log.try_clone().map_err(|cause| StartError::file(&log_path, cause))?)
            .stderr(log);
        for setting in settings(plan) {
            command.arg("-c").arg(setting);
        }
        let lost = StartError::Watchdog;
        let stale = home::pid_in(&plan.data_dir.join("postmaster.pid")).unwrap_or(0);
        watchdog.charge(Charge::Starting(stale)).map_err(lost)?;
        let spawned = command.spawn();
        if spawned.is_err() {
            watchdog.charge(Charge::Nothing).map_err(lost)?;
        }
        let mut child = spawned.map_err(|cause| failed(cause.to_string()))?;
        let pid = child.id();
        let ready = watchdog
            .charge(Charge::Server(pid))
            .map_err(lost)
            .and_then(|()| wait_ready(&mut child, plan.data_dir).map_err(failed));
        if let Err(cause) = ready {
            give_up(&mut child);
            // It is gone either way; a lost watchdog is the lesser news.
            let _told = watchdog.charge(Charge::Nothing);
            return Err(cause);
        }
        let server = Arc::new(Self {
            pid,
            log: log_path,
            child: Mutex::new(child),
            watchdog: Mutex::new(watchdog),
            watch: Mutex::new(Watch::default()),
        });
        let watched = Arc::clone(&server);
        thread::Builder::new()
            .name("postgres-watch".to_owned())
            .spawn(move || watched.watch())
            .map_err(StartError::Thread)?;
        Ok(server)
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Calls `listener` when the server ends without us, at once if it has.
    pub(super) fn on_death(&self, listener: Listener) {
        let mut watch = locked(&self.watch);
        match watch.verdict.clone() {
            None => watch.listeners.push(listener),
            Some(verdict) => {
                drop(watch);
                listener(verdict);
            }
        }
    }

    /// The life of the watching thread.
    fn watch(&self) {
        let status = loop {
            match self.ended() {
                Ok(None) => thread::sleep(Duration::from_millis(100)),
                Ok(Some(status)) => break status,
                Err(cause) => {
                    tracing::error!(%cause, "cannot watch PostgreSQL any longer");
                    return;
                }
            }
        };
        let mut watch = locked(&self.watch);
        if watch.stopping {
            return;
        }
        // Its process id may belong to somebody else from now on.
        if let Err(cause) = locked(&self.watchdog).charge(Charge::Nothing) {
            tracing::warn!(%cause, "the watchdog of PostgreSQL is gone, too");
        }
        let verdict = format!(
            "PostgreSQL (process {}) ended without being asked to: {}. The end of {}:\n{}",
            self.pid,
            describe_exit(status),
            self.log.display(),
            log::tail(&self.log),
        );
        watch.verdict = Some(verdict.clone());
        let listeners = std::mem::take(&mut watch.listeners);
        drop(watch);
        for listener in listeners {
            listener(verdict.clone());
        }
    }

    fn ended(&self) -> io::Result<Option<ExitStatus>> {
        locked(&self.child).try_wait()
    }

    /// Fast shutdown, then harder ones. Blocks for at most 40 seconds.
    pub(super) fn stop(&self) -> Result<(), StopError> {
        {
            let mut watch = locked(&self.watch);
            watch.stopping = true;
            if let Some(verdict) = watch.verdict.take() {
                locked(&self.watchdog).dismiss();
                return Err(StopError::Died(verdict));
            }
        }
        let outcome = self.shut_down();
        let mut watchdog = locked(&self.watchdog);
        if outcome.is_ok() {
            // The server is gone. Without its watchdog there is nobody to tell.
            let _told = watchdog.charge(Charge::Nothing);
        }
        watchdog.dismiss();
        outcome
    }

    fn shut_down(&self) -> Result<(), StopError> {
        for (signal, patience) in STOP_ROUNDS {
            {
                // While the lock is held nobody reaps it: the pid is still its own.
                let mut child = locked(&self.child);
                if matches!(child.try_wait(), Ok(None)) {
                    system::send(self.pid, signal);
                }
            }
            let deadline = Instant::now() + patience;
            while Instant::now() < deadline {
                match self.ended() {
                    Ok(Some(_)) if signal == Signal::Fast => return Ok(()),
                    Ok(Some(_)) => return Err(StopError::Forced),
                    Ok(None) => thread::sleep(Duration::from_millis(5)),
                    Err(cause) => return Err(StopError::Lost(cause)),
                }
            }
        }
        Err(StopError::Stuck(self.pid))
    }
}

/// Ends a server that did not become ready.
fn give_up(child: &mut Child) {
    system::send(child.id(), Signal::Immediate);
    let deadline = Instant::now() + Duration::from_secs(5);
    if !matches!(wait_until(child, deadline), Ok(Some(_))) {
        system::send(child.id(), Signal::Kill);
        let _status = child.wait();
    }
}

/// What the command line says wins over every configuration file.
fn settings(plan: &Plan<'_>) -> Vec<String> {
    let socket_dir = plan.socket_dir.to_string_lossy().replace('"', "\"\"");
    let mut settings = vec![
        "listen_addresses=".to_owned(),
        "port=5432".to_owned(),
        format!("unix_socket_directories=\"{socket_dir}\""),
        "unix_socket_permissions=0700".to_owned(),
        format!("cluster_name={}", plan.cluster_name),
    ];
    settings.extend(
        [
            "shared_buffers=128MB",
            "timezone=UTC",
            "log_timezone=UTC",
            "logging_collector=off",
            "log_destination=stderr",
            "log_checkpoints=off",
            // Neither statements nor the values in details reach the log.
            "log_min_error_statement=panic",
            "log_error_verbosity=terse",
        ]
        .map(str::to_owned),
    );
    let by_durability: &[&str] = match plan.durability {
        Durability::Kept => &["max_connections=100", "fsync=on", "full_page_writes=on", "synchronous_commit=on"],
        Durability::Throwaway => &[
            "max_connections=200",
            "fsync=off",
            "full_page_writes=off",
            "synchronous_commit=off",
            "wal_level=minimal",
            "max_wal_senders=0",
            "min_wal_size=32MB",
            "max_wal_size=256MB",
        ],
    };
    settings.extend(by_durability.iter().map(|setting| (*setting).to_owned()));
    settings
}

/// PostgreSQL writes its state into the eighth line of its pid file.
fn wait_ready(child: &mut Child, data_dir: &Path) -> Result<(), String> {
    let pid = child.id().to_string();
    let pid_file = data_dir.join("postmaster.pid");
    let started = Instant::now();
    let mut reported = false;
    loop {
        if let Some(status) = child.try_wait().map_err(|cause| cause.to_string())? {
            return Err(describe_exit(status));
        }
        let text = fs::read_to_string(&pid_file).unwrap_or_default();
        let mut lines = text.lines().map(str::trim);
        if lines.next() == Some(&pid) && lines.nth(6) == Some("ready") {
            return Ok(());
        }
        if started.elapsed() > READY_PATIENCE {
            return Err(format!("not ready after {} s", READY_PATIENCE.as_secs()));
        }
        if !reported && started.elapsed() > Duration::from_secs(3) {
            tracing::info!("PostgreSQL is recovering from its last end");
            reported = true;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Its exit status, `None` if it is still running at the deadline.
pub(super) fn wait_until(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// `exit status: 1` or `signal: 9 (SIGKILL)`.
pub(super) fn describe_exit(status: ExitStatus) -> String {
    status.to_string()
}

/// A panic of a listener leaves nothing half-done behind these locks.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
