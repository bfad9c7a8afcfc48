//! A real Prometheus on a free port, with its data in a directory of its own; both go when it is dropped.
//!
//! ```ignore
//! let Some(prometheus) = Prometheus::start(Setup::scraping(&[served.ops_address()])).await else { return };
//! prometheus.scraped(2).await;
//! let up = prometheus.query("up").await;
//! ```

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::ports::free_port;
use super::shop::{PATIENCE, http};
use super::{eventually, programs};

/// Starts that fail because somebody took the port in between.
const TRIES: usize = 5;

/// Where it listens if nobody says otherwise.
const USUAL_ADDRESS: &str = "127.0.0.1:9090";

/// What it scrapes, evaluates and notifies.
pub struct Setup {
    /// `host:port` of each target of the job `paygauge`; `/metrics` is scraped.
    pub targets: Vec<String>,
    /// Rule files; a pattern such as `…/rules/*.yml` is as good.
    pub rules: Vec<PathBuf>,
    /// `host:port` of each Alertmanager.
    pub alertmanagers: Vec<String>,
    /// How often it scrapes, in milliseconds.
    pub scrape_ms: u64,
    /// How often it evaluates its rules, in milliseconds.
    pub evaluation_ms: u64,
}

impl Setup {
    /// Scrapes these `host:port` every second, with no rules.
    pub fn scraping(targets: &[&str]) -> Self {
        Self {
            targets: targets.iter().map(|target| (*target).to_owned()).collect(),
            rules: Vec::new(),
            alertmanagers: Vec::new(),
            scrape_ms: 1_000,
            evaluation_ms: 1_000,
        }
    }

    fn config(&self) -> String {
        let mut text = format!(
            "global:\n  scrape_interval: {0}ms\n  scrape_timeout: {0}ms\n  evaluation_interval: {1}ms\n",
            self.scrape_ms, self.evaluation_ms
        );
        let list = |items: &[String]| items.iter().map(|item| format!("'{item}'")).collect::<Vec<_>>().join(", ");
        if !self.rules.is_empty() {
            let files: Vec<String> = self.rules.iter().map(|path| path.display().to_string()).collect();
            writeln!(text, "rule_files: [{}]", list(&files)).expect("a string");
        }
        if !self.alertmanagers.is_empty() {
            let targets = list(&self.alertmanagers);
            writeln!(text, "alerting:\n  alertmanagers:\n    - static_configs: [{{ targets: [{targets}] }}]")
                .expect("a string");
        }
        let targets = list(&self.targets);
        writeln!(text, "scrape_configs:\n  - job_name: paygauge\n    static_configs: [{{ targets: [{targets}] }}]")
            .expect("a string");
        text
    }
}

/// A running Prometheus.
pub struct Prometheus {
    child: Child,
    directory: PathBuf,
    lines: Arc<Mutex<Vec<String>>>,
    /// `http://host:port`.
    pub base: String,
    http: reqwest::Client,
}

impl Prometheus {
    /// Starts one; `None` where none is installed, see [`programs::wanted`].
    pub async fn start(setup: Setup) -> Option<Self> {
        Self::with_config(&setup.config(), &[]).await
    }

    /// Starts one with the text of a configuration, whose relative paths begin at a new directory into which `files`
    /// (file or directory) are linked by their own names.
    pub async fn with_config(config: &str, files: &[&Path]) -> Option<Self> {
        let program = programs::wanted("prometheus")?;
        for _ in 1..TRIES {
            if let Some(running) = Self::try_start(&program, config, files).await {
                return Some(running);
            }
        }
        panic!("Prometheus did not start {TRIES} times");
    }

    async fn try_start(program: &Path, config: &str, files: &[&Path]) -> Option<Self> {
        let directory = std::env::temp_dir().join(format!("paygauge-prometheus-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir_all(&directory).expect("a directory");
        for file in files {
            let file = file.canonicalize().expect("it exists");
            let name = file.file_name().expect("a name");
            std::os::unix::fs::symlink(&file, directory.join(name)).expect("a link");
        }
        let address = free_port();
        let config_file = directory.join("prometheus.yml");
        // Where it scrapes itself, it finds itself.
        std::fs::write(&config_file, config.replace(USUAL_ADDRESS, &address.to_string())).expect("the configuration");
        let mut child = Command::new(program)
            .arg(format!("--config.file={}", config_file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .args(["--enable-feature=exemplar-storage", "--web.enable-lifecycle", "--log.level=info"])
            .current_dir(&directory)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("prometheus");
        let lines = Arc::new(Mutex::new(Vec::new()));
        collect(child.stderr.take().expect("its lines"), Arc::clone(&lines));
        let mut running = Self { child, directory, lines, base: format!("http://{address}"), http: http() };
        let is_ready = eventually("Prometheus is ready or ends", PATIENCE, async || {
            if running.child.try_wait().expect("a child").is_some() {
                return Some(false);
            }
            let ready = running.http.get(format!("{}/-/ready", running.base)).send().await.ok()?;
            ready.status().is_success().then_some(true)
        })
        .await;
        let lines = running.lines();
        let port_was_taken = lines.iter().any(|line| line.contains("address already in use"));
        assert!(is_ready || port_was_taken, "Prometheus does not start: {lines:#?}");
        is_ready.then_some(running)
    }

    /// The `data` of an answer of its API; panics with Prometheus' own words if it is an error.
    pub async fn api(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let url = reqwest::Url::parse_with_params(&format!("{}/api/v1/{path}", self.base), parameters).expect("a URL");
        let answer = self.http.get(url).send().await;
        let answer: Value = answer.expect("an answer").json().await.expect("JSON");
        assert_eq!(answer["status"], "success", "{path} {parameters:?}: {answer}");
        answer["data"].clone()
    }

    /// The `data` object of an instant query, as of now.
    pub async fn query(&self, expr: &str) -> Value {
        self.api("query", &[("query", expr)]).await
    }

    /// The value of the only series of an instant query; `None` if there is none.
    pub async fn value(&self, expr: &str) -> Option<f64> {
        let data = self.query(expr).await;
        let series = data["result"].as_array().expect("a result");
        assert!(series.len() <= 1, "{expr} gives more than one series: {data}");
        series.first().map(|series| series["value"][1].as_str().expect("a value").parse().expect("a number"))
    }

    /// The `data` object of a range query; times are seconds since 1970, the step in seconds.
    pub async fn query_range(&self, expr: &str, from: f64, to: f64, step_s: f64) -> Value {
        let (from, to, step) = (from.to_string(), to.to_string(), step_s.to_string());
        self.api("query_range", &[("query", expr), ("start", &from), ("end", &to), ("step", &step)]).await
    }

    /// The exemplars of all series in an expression: `[{seriesLabels, exemplars: [{labels, value, timestamp}]}]`.
    pub async fn query_exemplars(&self, expr: &str, from: f64, to: f64) -> Vec<Value> {
        let (from, to) = (from.to_string(), to.to_string());
        let data = self.api("query_exemplars", &[("query", expr), ("start", &from), ("end", &to)]).await;
        data.as_array().expect("a list").clone()
    }

    /// Pending and firing alerts: `[{labels, annotations, state, activeAt, value}]`.
    pub async fn alerts(&self) -> Vec<Value> {
        self.api("alerts", &[]).await["alerts"].as_array().expect("a list").clone()
    }

    /// The names of the alerts that fire, sorted, each once.
    pub async fn firing(&self) -> Vec<String> {
        let alerts = self.alerts().await;
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        let mut names: Vec<String> =
            firing.map(|alert| alert["labels"]["alertname"].as_str().expect("a name").to_owned()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Its active targets: `[{scrapeUrl, health, lastError, labels, …}]`.
    pub async fn targets(&self) -> Vec<Value> {
        self.api("targets", &[("state", "active")]).await["activeTargets"].as_array().expect("a list").clone()
    }

    /// Waits until every target was scraped well at least `times`. A machine may be too busy for a scrape, but none
    /// may be refused.
    pub async fn scraped(&self, times: usize) {
        let expr = format!("min(sum_over_time(up[1h])) >= {times}");
        eventually("every target is scraped", 2 * PATIENCE, async || {
            for target in self.targets().await {
                let error = target["lastError"].as_str().unwrap_or_default();
                assert!(!error.contains("expected") && !error.contains("not a valid"), "a scrape was refused: {error}");
            }
            self.value(&expr).await.map(|_| ())
        })
        .await;
    }

    /// What it wrote so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("lines").clone()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().unwrap_or_default();
        drop(self.child.wait());
        std::fs::remove_dir_all(&self.directory).unwrap_or_default();
    }
}

fn collect(from: impl Read + Send + 'static, lines: Arc<Mutex<Vec<String>>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            lines.lock().expect("lines").push(line);
        }
    });
}

/// Seconds since 1970, now.
pub fn now() -> f64 {
    Duration::as_secs_f64(&std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970"))
}
