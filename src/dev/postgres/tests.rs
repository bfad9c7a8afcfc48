//! The embedded server for real: started, asked, killed, started again.
//!
//! A query goes over the bare protocol, so that this module needs no driver
//! and the claims hold for whichever server was found.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::processes::servers;
use super::system::{self, Signal};
use super::{Cluster, Lifetime, Options, StartError, StopError, shell_quoted, throw_away};

const PATIENCE: Duration = Duration::from_secs(30);

fn start(lifetime: Lifetime) -> Result<Cluster, StartError> {
    Cluster::start(&Options { lifetime, bin_dir: None, search_path: std::env::var_os("PATH") })
}

/// A data root of its own for each test, gone at the end.
struct DataRoot(PathBuf);

impl DataRoot {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(format!("/tmp/paygauge-test-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn kept(&self) -> Lifetime {
        Lifetime::Kept(self.0.clone())
    }
}

impl Drop for DataRoot {
    fn drop(&mut self) {
        let _removed = fs::remove_dir_all(&self.0);
    }
}

/// Runs one statement and returns the values of its rows, or the error text.
fn query(cluster: &Cluster, sql: &str) -> Result<Vec<String>, String> {
    let mut stream =
        UnixStream::connect(cluster.home.socket_dir.join(".s.PGSQL.5432")).map_err(|cause| cause.to_string())?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let startup = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0";
    let length = u32::try_from(startup.len() + 4).unwrap();
    stream.write_all(&length.to_be_bytes()).unwrap();
    stream.write_all(startup).unwrap();
    replies(&mut stream)?;
    stream.write_all(b"Q").unwrap();
    stream.write_all(&u32::try_from(sql.len() + 5).unwrap().to_be_bytes()).unwrap();
    stream.write_all(sql.as_bytes()).unwrap();
    stream.write_all(b"\0").unwrap();
    replies(&mut stream)
}

/// Reads messages up to "ready for query"; the rows have one column.
fn replies(stream: &mut UnixStream) -> Result<Vec<String>, String> {
    let mut values = Vec::new();
    let mut error = None;
    loop {
        let mut head = [0; 5];
        stream.read_exact(&mut head).map_err(|cause| cause.to_string())?;
        let length = u32::from_be_bytes(head[1..5].try_into().unwrap());
        let mut body = vec![0; usize::try_from(length).unwrap() - 4];
        stream.read_exact(&mut body).map_err(|cause| cause.to_string())?;
        match head[0] {
            b'D' => values.push(String::from_utf8_lossy(&body[6..]).into_owned()),
            b'E' => error = Some(String::from_utf8_lossy(&body).replace('\0', " ")),
            b'Z' => return error.map_or(Ok(values), Err),
            _ => {}
        }
    }
}

fn setting(cluster: &Cluster, name: &str) -> String {
    query(cluster, &format!("SHOW {name}")).unwrap().remove(0)
}

#[test]
fn a_throwaway_cluster_answers_and_leaves_nothing_behind() {
    let cluster = start(Lifetime::Throwaway).unwrap();
    assert_eq!(query(&cluster, "SELECT 6 * 7").unwrap(), ["42"]);
    assert_eq!(setting(&cluster, "fsync"), "off");
    assert_eq!(setting(&cluster, "listen_addresses"), "");
    assert_eq!(setting(&cluster, "max_connections"), "200");
    assert_eq!(setting(&cluster, "server_encoding"), "UTF8");
    let pid = cluster.postmaster_pid();
    let home = cluster.home.dir.clone();
    assert!(cluster.describe().contains(&home.display().to_string()));
    assert!(home.exists() && system::exists(pid));
    cluster.stop().unwrap();
    assert!(!home.exists(), "{home:?} is still there");
    assert!(!system::exists(pid));
}

#[test]
fn the_server_never_runs_as_root() {
    let cluster = start(Lifetime::Throwaway).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", cluster.postmaster_pid()));
    // Without /proc PostgreSQL's own refusal has to do: it would not have started.
    if let Ok(status) = status {
        let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
        assert!(uids.split_whitespace().all(|uid| uid != "0"), "{uids}");
        let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap();
        if system::effective_uid() == 0 {
            assert_eq!(groups.trim(), "", "supplementary groups of root");
        }
    }
}

#[test]
fn two_temporary_clusters_do_not_meet() {
    let (one, other) = (start(Lifetime::Throwaway).unwrap(), start(Lifetime::Throwaway).unwrap());
    query(&one, "CREATE TABLE only_here (n int)").unwrap();
    assert!(query(&other, "SELECT n FROM only_here").unwrap_err().contains("does not exist"));
}

#[test]
fn a_killed_server_is_reported_and_the_next_start_has_the_data() {
    let root = DataRoot::new("killed");
    let cluster = start(root.kept()).unwrap();
    assert_eq!(setting(&cluster, "fsync"), "on");
    query(&cluster, "CREATE TABLE kept (n int)").unwrap();
    query(&cluster, "INSERT INTO kept VALUES (7)").unwrap();
    let (sender, deaths) = mpsc::channel();
    cluster.on_death(move |message| sender.send(message).unwrap());

    system::send(cluster.postmaster_pid(), Signal::Kill);
    let message = deaths.recv_timeout(PATIENCE).unwrap();
    assert!(message.contains("signal: 9"), "{message}");
    assert!(message.contains("ready to accept connections"), "the log is quoted: {message}");
    let (sender, late) = mpsc::channel();
    cluster.on_death(move |message| sender.send(message).unwrap());
    assert_eq!(late.recv_timeout(PATIENCE).unwrap(), message, "told to those who ask late");
    assert!(matches!(cluster.stop(), Err(StopError::Died(_))));

    let cluster = start(root.kept()).unwrap();
    assert_eq!(query(&cluster, "SELECT n FROM kept").unwrap(), ["7"]);
    let (sender, deaths) = mpsc::channel();
    cluster.on_death(move |message| sender.send(message).unwrap());
    cluster.stop().unwrap();
    assert!(deaths.recv().is_err(), "an orderly stop is no death");
}

#[test]
fn a_second_instance_is_refused_and_so_is_throwing_away_used_data() {
    let root = DataRoot::new("second");
    let cluster = start(root.kept()).unwrap();
    let us = Some(std::process::id());
    let refused = start(root.kept()).err().unwrap();
    assert!(matches!(refused, StartError::InUse { holder, .. } if holder == us), "{refused}");
    let refused = throw_away(&root.0).err().unwrap();
    assert!(matches!(refused, StartError::InUse { .. }), "{refused}");
    query(&cluster, "CREATE TABLE kept (n int)").unwrap();
    cluster.stop().unwrap();

    assert_eq!(throw_away(&root.0).unwrap().len(), 1);
    let cluster = start(root.kept()).unwrap();
    assert!(query(&cluster, "SELECT n FROM kept").unwrap_err().contains("does not exist"));
}

#[test]
fn an_interrupted_initdb_and_stale_files_are_no_obstacle() {
    let root = DataRoot::new("stale");
    let cluster = start(root.kept()).unwrap();
    let (data, socket) = (cluster.data_dir.clone(), cluster.home.socket_dir.clone());
    cluster.stop().unwrap();

    // The process id is alive, but it is us and no PostgreSQL.
    let us = std::process::id();
    let pid_file = format!("{us}\n{}\n1\n5432\n{}\n\n\nready\n", data.display(), socket.display());
    fs::write(data.join("postmaster.pid"), pid_file).unwrap();
    fs::write(socket.join(".s.PGSQL.5432.lock"), format!("{us}\n")).unwrap();
    fs::write(socket.join(".s.PGSQL.5432"), "").unwrap();
    start(root.kept()).unwrap().stop().unwrap();

    throw_away(&root.0).unwrap();
    let unfinished = data.with_extension("init");
    fs::create_dir(&unfinished).unwrap();
    fs::write(unfinished.join("PG_VERSION"), "99\n").unwrap();
    let cluster = start(root.kept()).unwrap();
    assert_eq!(query(&cluster, "SELECT 1").unwrap(), ["1"]);
    assert!(!unfinished.exists());
}

#[test]
fn a_long_path_and_odd_characters_do_not_matter() {
    let root = DataRoot::new("odd");
    let deep = root.0.join("a \"quoted\", 'odd' 100% n\u{e4}me".repeat(4));
    let cluster = start(Lifetime::Kept(deep)).unwrap();
    assert_eq!(query(&cluster, "SELECT 1").unwrap(), ["1"]);
    assert!(cluster.home.socket_dir.as_os_str().len() <= 80);
    let url = cluster.url("a b/c");
    assert!(url.starts_with("postgres://postgres@%2F") && url.ends_with("/a%20b%2Fc"), "{url}");
    let socket_dir = cluster.home.socket_dir.clone();
    cluster.stop().unwrap();
    fs::remove_dir_all(socket_dir).unwrap();

    let short = start(Lifetime::Kept(root.0.join("it's, \"x\" %41"))).unwrap();
    assert!(short.home.socket_dir.starts_with(&short.home.dir));
    assert_eq!(query(&short, "SELECT 1").unwrap(), ["1"]);
}

#[test]
fn a_directory_without_a_usable_server_is_refused_by_name() {
    let root = DataRoot::new("bin");
    let refusal = |bin_dir: &Path| {
        let options = Options { lifetime: root.kept(), bin_dir: Some(bin_dir.to_owned()), search_path: None };
        Cluster::start(&options).err().unwrap().to_string()
    };
    assert!(refusal(&root.0).contains("there is no postgres"), "{}", refusal(&root.0));
    for program in ["postgres", "initdb"] {
        let path = root.0.join(program);
        fs::write(&path, "#!/bin/sh\necho 'postgres (PostgreSQL) 14.9'\n").unwrap();
        super::home::set_mode(&path, 0o755).unwrap();
    }
    assert!(refusal(&root.0).contains("14.9 is older than 15"), "{}", refusal(&root.0));
    assert!(refusal(Path::new("/nowhere")).contains("/nowhere"));
}

#[test]
fn the_environment_of_the_caller_does_not_reach_the_server() {
    let cluster = start(Lifetime::Throwaway).unwrap();
    if let Ok(environment) = fs::read(format!("/proc/{}/environ", cluster.postmaster_pid())) {
        let names = environment
            .split(|byte| *byte == 0)
            .filter_map(|entry| String::from_utf8_lossy(entry).split_once('=').map(|(name, _)| name.to_owned()))
            .filter(|name| !name.is_empty())
            .collect::<Vec<_>>();
        let ours = ["PATH", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "LD_PRELOAD"];
        let set_by_server = |name: &str| name.starts_with("OLIPHAUNT_") || name.starts_with("PG_");
        assert!(names.iter().all(|name| ours.contains(&name.as_str()) || set_by_server(name)), "{names:?}");
    }
    assert_eq!(shell_quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
}

/// Set for the process that is to be killed: where it says what it started.
const OWNER: &str = "PAYGAUGE_TEST_POSTGRES_OWNER";

/// Starts this very test in another process, which starts a cluster, says so
/// in a file and waits to be killed. Returns what it said, line by line.
fn owner_killed(test: &str, report: &Path) -> Vec<String> {
    let (_, module) = module_path!().split_once("::").unwrap();
    let mut owner = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{module}::{test}")])
        .env(OWNER, report)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("the owner has started a cluster", || report.exists());
    let said = fs::read_to_string(report).unwrap();
    let said = said.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(!servers(&said[0]).is_empty(), "the server runs");
    owner.kill().unwrap();
    owner.wait().unwrap();
    until("no server is left", || servers(&said[0]).is_empty());
    said
}

/// The other side of [`owner_killed`]; does not return.
fn own(lifetime: Lifetime, report: &Path) -> ! {
    let cluster = start(lifetime).unwrap();
    query(&cluster, "CREATE TABLE kept AS SELECT 7 AS n").unwrap();
    let said = format!("{}\n{}\n", cluster.home.cluster_name(), cluster.home.dir.display());
    fs::write(report.with_extension("unfinished"), said).unwrap();
    fs::rename(report.with_extension("unfinished"), report).unwrap();
    loop {
        std::thread::park();
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "still not true: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn killing_the_owner_of_kept_data_ends_the_server_and_keeps_the_data() {
    if let Some(report) = std::env::var_os(OWNER).map(PathBuf::from) {
        own(Lifetime::Kept(report.parent().unwrap().to_owned()), &report);
    }
    let root = DataRoot::new("owner-kept");
    owner_killed("killing_the_owner_of_kept_data_ends_the_server_and_keeps_the_data", &root.0.join("report"));
    let cluster = start(root.kept()).unwrap();
    assert_eq!(query(&cluster, "SELECT n FROM kept").unwrap(), ["7"]);
}

#[test]
fn killing_the_owner_of_a_throwaway_cluster_leaves_no_process_and_no_file() {
    if let Some(report) = std::env::var_os(OWNER).map(PathBuf::from) {
        own(Lifetime::Throwaway, &report);
    }
    let root = DataRoot::new("owner-throwaway");
    let said =
        owner_killed("killing_the_owner_of_a_throwaway_cluster_leaves_no_process_and_no_file", &root.0.join("report"));
    until("its directory is gone", || !Path::new(&said[1]).exists());
}
