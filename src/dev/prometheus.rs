//! A Prometheus that watches the development stack with paygauge's own rules, if one is installed.
//!
//! It is a child that does not outlive us: a small shell holds the read end of a pipe whose other end only we have, and
//! ends the server when the pipe closes, however we ended. A stack without Prometheus is as good; it shows less.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use include_dir::{Dir, include_dir};

/// What a production Prometheus runs with; so does this one.
static CONFIG: &str = include_str!("../../prometheus/prometheus.yml");
static RULES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/prometheus/rules");

/// Where it is besides `PATH`.
const KNOWN: [&str; 3] = ["/usr/bin/prometheus", "/usr/local/bin/prometheus", "/opt/homebrew/bin/prometheus"];

/// How to get one, for the welcome.
pub(super) const HOW_TO_GET: &str =
    "not installed: `apt-get install prometheus` or `brew install prometheus`, then start again";

/// Ends the server when standard input closes.
const TETHER: &str = r#"
"$@" </dev/null &
server=$!
cat >/dev/null
kill "$server" 2>/dev/null
wait "$server"
"#;

/// The longest that its start may take on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long its store is kept.
const KEPT: &str = "2d";

/// A running Prometheus.
pub(super) struct Prometheus {
    url: String,
    tether: Child,
}

impl Prometheus {
    /// Starts the installed one, if there is one; its store lives below `data_dir`.
    pub(super) async fn start(
        search_path: Option<&OsStr>,
        data_dir: &Path,
        listen: SocketAddr,
        target: SocketAddr,
    ) -> anyhow::Result<Option<Self>> {
        let Some(program) = installed(search_path) else { return Ok(None) };
        let home = data_dir.join("prometheus");
        let config = write_config(&home, target).with_context(|| format!("cannot write {}", home.display()))?;
        let store = home.join("store").canonicalize().unwrap_or_else(|_| home.join("store"));
        let tether = Command::new("/bin/sh")
            .args(["-c", TETHER, "paygauge-prometheus"])
            .arg(program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", store.display()))
            .arg(format!("--storage.tsdb.retention.time={KEPT}"))
            .arg(format!("--web.listen-address={listen}"))
            .args(["--enable-feature=exemplar-storage", "--log.level=error"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is for us; the pipe tells the shell.
            .process_group(0)
            .spawn()
            .context("cannot start Prometheus")?;
        let started = Self { url: format!("http://{listen}"), tether };
        started.ready().await?;
        Ok(Some(started))
    }

    /// What to open in a browser.
    pub(super) fn pages(&self) -> String {
        format!("{0}/alerts  {0}/graph", self.url)
    }

    async fn ready(&self) -> anyhow::Result<()> {
        let client = reqwest::Client::new();
        let asked = format!("{}/-/ready", self.url);
        let answers = async {
            while !client.get(&asked).send().await.is_ok_and(|answer| answer.status().is_success()) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(READY_WITHIN, answers).await.context("Prometheus was started and does not answer")
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.tether.stdin.take());
        if let Err(error) = self.tether.wait() {
            tracing::warn!(%error, "the end of Prometheus was not seen");
        }
    }
}

fn installed(search_path: Option<&OsStr>) -> Option<PathBuf> {
    let on_path = search_path.into_iter().flat_map(std::env::split_paths).map(|dir| dir.join("prometheus"));
    on_path.chain(KNOWN.map(PathBuf::from)).find(|program| program.is_file())
}

/// Writes the configuration, its rules, and that `target` is to be scraped; gives the configuration's path.
fn write_config(home: &Path, target: SocketAddr) -> std::io::Result<PathBuf> {
    let rules = home.join("rules");
    // Rules of an earlier version must not stay behind.
    match std::fs::remove_dir_all(&rules) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    std::fs::create_dir_all(&rules)?;
    std::fs::create_dir_all(home.join("store"))?;
    RULES.extract(&rules)?;
    let targets = home.join("targets");
    std::fs::create_dir_all(&targets)?;
    std::fs::write(targets.join("paygauge.yml"), format!("- targets: [\"{target}\"]\n"))?;
    let config = home.join("prometheus.yml");
    std::fs::write(&config, CONFIG)?;
    config.canonicalize()
}
