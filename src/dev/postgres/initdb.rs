//! Makes a new data directory with `initdb`, completely or not at all. Called
//! before every start; does nothing where there is data.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::server::{Plan, describe_exit, wait_until};
use super::system::{self, Signal};
use super::watchdog::{Charge, Watchdog};
use super::{Durability, StartError, log, processes};

const PATIENCE: Duration = Duration::from_mins(2);

/// Creates the data directory unless it exists. Done under another name that
/// is changed when everything is in place: an interrupted run leaves nothing
/// that could be taken for data.
pub(super) fn run(plan: &Plan<'_>, watchdog: &mut Watchdog) -> Result<(), StartError> {
    if plan.data_dir.join("PG_VERSION").exists() {
        return Ok(());
    }
    let unfinished = plan.data_dir.with_extension("init");
    processes::end_initdb(&unfinished);
    match fs::remove_dir_all(&unfinished) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            return Err(StartError::file(&unfinished, cause));
        }
        Ok(()) | Err(_) => {}
    }
    let log_path = plan.data_dir.with_extension("initdb.log");
    let output = log::open(&log_path, plan.account)?;
    run_initdb(plan, &unfinished, &output, watchdog)
        .map_err(|reason| StartError::Initdb { reason, log: log::tail(&log_path) })?;
    fs::rename(&unfinished, plan.data_dir).map_err(|cause| StartError::file(plan.data_dir, cause))?;
    if let (Durability::Kept, Some(parent)) = (plan.durability, plan.data_dir.parent()) {
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(|cause| StartError::file(parent, cause))?;
    }
    Ok(())
}

fn run_initdb(plan: &Plan<'_>, unfinished: &Path, output: &File, watchdog: &mut Watchdog) -> Result<(), String> {
    let said = |cause: io::Error| cause.to_string();
    let mut command = plan.account.command(&plan.binaries.program("initdb"));
    command
        .arg("-D")
        .arg(unfinished)
        .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale"])
        .arg("--no-instructions")
        .envs(plan.binaries.environment.iter().map(|(name, value)| (name, value)))
        .stdout(output.try_clone().map_err(said)?)
        .stderr(output.try_clone().map_err(said)?);
    if plan.durability == Durability::Throwaway {
        command.arg("--no-sync");
    }
    let mut initdb = command.spawn().map_err(said)?;
    let deadline = Instant::now() + PATIENCE;
    let outcome =
        watchdog.charge(Charge::Initdb(initdb.id())).and_then(|()| wait_until(&mut initdb, deadline)).map_err(said);
    if !matches!(outcome, Ok(Some(_))) {
        system::send_to_group(initdb.id(), Signal::Kill);
        let _status = initdb.wait();
    }
    watchdog.charge(Charge::Nothing).map_err(said)?;
    match outcome? {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(describe_exit(status)),
        None => Err(format!("not finished after {} s", PATIENCE.as_secs())),
    }
}
