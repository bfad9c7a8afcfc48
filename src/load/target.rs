//! What the load is sent to: something that runs already, or a server, a database and a pg-mock of the run's own, each in
//! a process of its own so that their CPU time can be told apart.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use diesel_async::RunQueryDsl as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use super::options::{Given, OwnOptions, Where};
use super::usage::{self, Watched};
use crate::config::DevVars;
use crate::crash::CrashSwitch;
use crate::db::connect::{self, DbConfig};
use crate::db::{Db, DbError};
use crate::dev::postgres::{Cluster, Lifetime, Options};
use crate::http::auth::keys::{self, Role};

const DATABASE: &str = "paygauge";
/// The hidden command by which this program is a pg-mock.
pub const MOCK_COMMAND: &str = "pg-mock";
/// How long the server may take to start.
const START: Duration = Duration::from_secs(60);
/// One key does what many callers would do: its limits are counted as usual, but so wide that no run meets them.
const WIDE_RATES: [&str; 4] = [
    "PAYGAUGE_RATE_KEY_ORDERS",
    "PAYGAUGE_RATE_KEY_PAYMENTS",
    "PAYGAUGE_RATE_KEY_READS",
    "PAYGAUGE_RATE_ADDRESS_WEBHOOKS",
];
/// How long a server of ours waits for the PG.
const PG_TIMEOUT_SECONDS: &str = "2";
/// Longer than that.
const OWN_HANG: Duration = Duration::from_secs(4);
/// Longer than a server waits for the PG that is set up as usual.
const USUAL_HANG: Duration = Duration::from_secs(35);

/// What the load is sent to.
pub struct Target {
    /// Base of the API.
    pub url: String,
    /// A secret key.
    pub key: SecretString,
    /// Base of pg-mock.
    pub mock_url: String,
    /// Its database, where this run may look into it.
    pub db: Option<Db>,
    /// What to look at in `/proc`.
    pub watched: Vec<Watched>,
    /// How long a PG that hangs must hang to be given up.
    pub hang: Duration,
    /// In words, for the report.
    pub described: String,
    own: Option<Own>,
}

/// Processes of this run; they end with it.
struct Own {
    server: Process,
    mock: Process,
    log: PathBuf,
    // After those who use it.
    cluster: Option<Cluster>,
    _home: Home,
}

/// A process that does not outlive its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        self.0.kill().unwrap_or_default();
        drop(self.0.wait());
    }
}

/// Where a run's own processes live.
struct Home {
    dir: PathBuf,
    is_temporary: bool,
}

impl Home {
    fn make(options: &OwnOptions) -> anyhow::Result<Self> {
        let temporary = || std::env::temp_dir().join(format!("paygauge-load-{}", uuid::Uuid::new_v4().as_simple()));
        let dir = options.data_dir.clone().unwrap_or_else(temporary);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(Self { dir, is_temporary: options.data_dir.is_none() })
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.is_temporary
            && let Err(error) = std::fs::remove_dir_all(&self.dir)
        {
            eprintln!("paygauge: {} stays: {error}", self.dir.display());
        }
    }
}

impl Target {
    /// Reaches or starts it.
    ///
    /// # Errors
    /// When it cannot be reached or started.
    pub async fn reach(wanted: &Where, vars: &DevVars) -> anyhow::Result<Self> {
        match wanted {
            Where::Given(given) => Self::given(given, vars).await,
            Where::Own(options) => Self::own(options, vars).await,
        }
    }

    async fn given(given: &Given, vars: &DevVars) -> anyhow::Result<Self> {
        let db = match &vars.database_url {
            Some(url) => Some(open(&db_config(url.clone())).await?),
            None => None,
        };
        let mut watched = vec![
            Watched { name: "server", pids: given.server_pids.clone(), with_children: false },
            Watched { name: "mock", pids: given.mock_pids.clone(), with_children: false },
        ];
        if let Some(db) = &db {
            watched.push(Watched { name: "database", pids: postmaster(db).await?, with_children: true });
        }
        Ok(Self {
            url: given.url.clone(),
            key: given.key.clone(),
            mock_url: given.mock_url.clone(),
            db,
            watched: with_ourselves(watched),
            hang: USUAL_HANG,
            described: "a server that was running already".to_owned(),
            own: None,
        })
    }

    async fn own(options: &OwnOptions, vars: &DevVars) -> anyhow::Result<Self> {
        let home = Home::make(options)?;
        let (config, cluster) = database(vars, &home.dir).await?;
        connect::migrate(&config).await?;
        let db = open(&config).await?;
        let (_, key) = keys::create(&db, Role::Secret, "load run").await?;
        let (mock, mock_url) = start_mock(options)?;
        let log = home.dir.join("server.log");
        let server = start_server(options, &config, &mock_url, &log)?;
        let mut own = Own { server, mock, log, cluster, _home: home };
        let url = own.serving().await?;
        let database = match &own.cluster {
            Some(cluster) => vec![cluster.postmaster_pid()],
            None => postmaster(&db).await?,
        };
        let watched = vec![
            Watched { name: "server", pids: vec![own.server.0.id()], with_children: false },
            Watched { name: "mock", pids: vec![own.mock.0.id()], with_children: false },
            Watched { name: "database", pids: database, with_children: true },
        ];
        Ok(Self {
            url,
            key,
            mock_url,
            db: Some(db),
            watched: with_ourselves(watched),
            hang: OWN_HANG,
            described: own.describe(),
            own: Some(own),
        })
    }

    /// Where webhooks of the PG are to be sent.
    #[must_use]
    pub fn webhook_url(&self) -> String {
        format!("{}/v1/webhooks/toss", self.url)
    }

    /// Has PostgreSQL look at the tables, which were empty when their first plans were made; only for a database of
    /// this run.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn analyse(&self) -> anyhow::Result<()> {
        if let (Some(db), Some(_)) = (&self.db, &self.own) {
            db.read(async |conn| diesel::sql_query("analyze").execute(conn).await.map_err(DbError::from)).await?;
        }
        Ok(())
    }

    /// Ends what this run started.
    pub fn stop(self) {
        if let Some(own) = self.own {
            own.stop();
        }
    }
}

fn with_ourselves(mut watched: Vec<Watched>) -> Vec<Watched> {
    watched.push(Watched { name: "load", pids: vec![std::process::id()], with_children: false });
    watched.retain(|part| !part.pids.is_empty());
    watched
}

/// The database that `DATABASE_URL` names, or one of our own with the durability of a real one.
async fn database(vars: &DevVars, home: &Path) -> anyhow::Result<(DbConfig, Option<Cluster>)> {
    if let Some(url) = &vars.database_url {
        return Ok((db_config(url.clone()), None));
    }
    let options = Options {
        lifetime: Lifetime::Kept(home.to_owned()),
        bin_dir: vars.pg_bin_dir.clone(),
        search_path: vars.search_path.clone(),
    };
    let cluster = tokio::task::spawn_blocking(move || Cluster::start(&options)).await??;
    let config = db_config(cluster.url(DATABASE).into());
    connect::ensure_database(&db_config(cluster.url("postgres").into()), DATABASE, None).await?;
    Ok((config, Some(cluster)))
}

fn db_config(url: SecretString) -> DbConfig {
    let seconds = Duration::from_secs;
    DbConfig {
        url,
        pool_connections_max: 2,
        pool_wait: seconds(30),
        statement_timeout: seconds(300),
        lock_timeout: seconds(30),
        root_cert_file: None,
    }
}

async fn open(config: &DbConfig) -> anyhow::Result<Db> {
    let pool = connect::pool(config).await?;
    Ok(Db::new(pool, config.pool_connections_max, CrashSwitch::default())
        .answering_within(config.answer_within())
        .connecting_within(config.pool_wait))
}

/// The server process behind a connection, if it runs on this machine.
async fn postmaster(db: &Db) -> anyhow::Result<Vec<u32>> {
    #[derive(diesel::QueryableByName)]
    struct Backend {
        #[diesel(sql_type = diesel::sql_types::Integer)]
        pid: i32,
    }
    let backend: Backend = db
        .read(async |conn| {
            let asked = diesel::sql_query("select pg_backend_pid() as pid").get_result(conn).await;
            asked.map_err(DbError::from)
        })
        .await?;
    let pid = u32::try_from(backend.pid)?;
    let is_postgres = usage::name_of(pid).is_some_and(|name| name.contains("postgres"));
    Ok(usage::parent_of(pid).filter(|_| is_postgres).into_iter().collect())
}

fn start_mock(options: &OwnOptions) -> anyhow::Result<(Process, String)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(MOCK_COMMAND).stdin(Stdio::null()).stdout(Stdio::piped());
    if !options.wiremock {
        command.arg("--lean");
    }
    let mut process = Process(command.spawn().context("cannot start pg-mock")?);
    let mut url = String::new();
    if let Some(out) = process.0.stdout.take() {
        BufReader::new(out).read_line(&mut url)?;
    }
    let url = url.trim().to_owned();
    anyhow::ensure!(url.starts_with("http"), "pg-mock did not say where it listens");
    Ok((process, url))
}

fn start_server(options: &OwnOptions, database: &DbConfig, mock_url: &str, log: &Path) -> anyhow::Result<Process> {
    let out = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let token_secret = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()].map(|id| id.as_simple().to_string()).concat();
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("serve")
        .env_clear()
        .env("PAYGAUGE_ENV", "test")
        .env("DATABASE_URL", database.url.expose_secret())
        .env("TOSS_BASE_URL", mock_url)
        .env("TOSS_SECRET_KEY", "test_sk_mock")
        .env("PAYGAUGE_TOKEN_SECRET", token_secret)
        .env("PAYGAUGE_LISTEN", "127.0.0.1:0")
        .env("PAYGAUGE_OPS_LISTEN", "127.0.0.1:0")
        .env("PAYGAUGE_DRAIN_SECONDS", "0")
        .envs(["CONFIRM", "CANCEL", "INQUIRY"].map(|call| (format!("TOSS_{call}_TIMEOUT_SECONDS"), PG_TIMEOUT_SECONDS)))
        .envs(WIDE_RATES.map(|name| (name, "1000000/1")))
        .envs(options.server_vars.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out);
    command.spawn().map(Process).context("cannot start the server")
}

impl Own {
    /// Waits until the server says where it serves.
    async fn serving(&mut self) -> anyhow::Result<String> {
        let begun = Instant::now();
        loop {
            let said = std::fs::read_to_string(&self.log).unwrap_or_default();
            if let Some(api) = said.lines().find_map(api_of) {
                return Ok(format!("http://{api}"));
            }
            let ended = self.server.0.try_wait()?;
            if ended.is_some() || begun.elapsed() > START {
                let tail: Vec<&str> = said.lines().rev().take(10).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                anyhow::bail!("the server did not begin to serve; it said:\n{}", tail.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn describe(&self) -> String {
        match &self.cluster {
            Some(cluster) => {
                let about = cluster.describe();
                // Where it lives is nobody's business in a report.
                let version = about.split(" (").next().unwrap_or_default();
                format!("own server process, own durable {version}, own pg-mock process")
            }
            None => "own server process, the database of DATABASE_URL, own pg-mock process".to_owned(),
        }
    }

    /// Lets the server finish, then ends the rest; what is left is ended by `drop`.
    fn stop(mut self) {
        terminate(&self.server.0);
        let begun = Instant::now();
        while matches!(self.server.0.try_wait(), Ok(None)) && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Where the API listens, if this line of the log tells it.
fn api_of(line: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    (line.get("msg")? == "serving").then(|| line.get("api")?.as_str().map(str::to_owned)).flatten()
}

/// Asks a process to stop.
fn terminate(child: &Child) {
    let Ok(pid) = i32::try_from(child.id()) else { return };
    // SAFETY: sends a signal to a process that this run started and has not waited for.
    #[expect(unsafe_code, reason = "std can only kill")]
    let _sent = unsafe { libc::kill(pid, libc::SIGTERM) };
}
