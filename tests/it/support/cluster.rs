//! A PostgreSQL cluster of one test, on real or tiny storage, to be killed and started again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use paygauge::db::connect::{self, DbConfig};
use paygauge::dev::postgres::{Cluster, Lifetime, Options};
use tokio::task::spawn_blocking;

const NAME: &str = "paygauge";

/// A directory that goes away with the test.
pub struct Place(pub PathBuf);

impl Place {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("paygauge-{name}-{}", uuid::Uuid::new_v4().as_simple()));
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}

/// The cluster; what it commits survives its death.
pub struct OwnCluster {
    options: Options,
    cluster: Option<Cluster>,
    url: String,
}

impl OwnCluster {
    /// Starts one in this directory, with a migrated database.
    pub async fn start(place: &Path) -> Self {
        let options = Options {
            lifetime: Lifetime::Kept(place.to_owned()),
            bin_dir: std::env::var_os("PG_BIN_DIR").map(Into::into),
            search_path: std::env::var_os("PATH"),
        };
        let mut own = Self { options, cluster: None, url: String::new() };
        assert!(own.try_start().await, "a cluster starts");
        let admin = own.cluster.as_ref().expect("it runs").url("postgres");
        own.url = own.cluster.as_ref().expect("it runs").url(NAME);
        connect::ensure_database(&config(&admin), NAME, None).await.expect("a database");
        connect::migrate(&own.config()).await.expect("migrations");
        own
    }

    /// How to reach its database.
    pub fn config(&self) -> DbConfig {
        config(&self.url)
    }

    /// Starts it where it is stopped; `false` if it cannot.
    pub async fn try_start(&mut self) -> bool {
        let options = self.options.clone();
        let started = spawn_blocking(move || Cluster::start(&options)).await.expect("a thread");
        self.cluster = started.inspect_err(|error| println!("no start: {error}")).ok();
        self.cluster.is_some()
    }

    /// Ends the server as by `kill -9`; the others of its processes find out by themselves.
    pub async fn kill(&mut self) {
        let cluster = self.cluster.take().expect("it runs");
        let pid = i32::try_from(cluster.postmaster_pid()).expect("a pid");
        // SAFETY: sends a signal to a process that this test started; the cluster is not dropped yet.
        #[expect(unsafe_code, reason = "std can only kill its own children")]
        let sent = unsafe { libc::kill(pid, libc::SIGKILL) };
        assert_eq!(sent, 0);
        Self::forget(cluster).await;
    }

    /// Starts it again if it is dead.
    pub async fn restart_if_dead(&mut self) -> bool {
        let alive = self
            .cluster
            .as_ref()
            .is_some_and(|cluster| Path::new("/proc").join(cluster.postmaster_pid().to_string()).join("fd").exists());
        if alive {
            return false;
        }
        if let Some(cluster) = self.cluster.take() {
            Self::forget(cluster).await;
        }
        assert!(self.try_start().await, "it starts again");
        true
    }

    async fn forget(cluster: Cluster) {
        spawn_blocking(move || drop(cluster)).await.expect("a thread");
    }
}

fn config(url: &str) -> DbConfig {
    DbConfig {
        url: url.to_owned().into(),
        pool_connections_max: 6,
        pool_wait: Duration::from_secs(1),
        statement_timeout: Duration::from_secs(4),
        lock_timeout: Duration::from_secs(3),
        root_cert_file: None,
    }
}
