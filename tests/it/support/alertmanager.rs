//! A real Alertmanager with the shop's own routes and inhibitions, and the phone that it rings.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::{Json, Router, routing::post};
use serde_json::Value;

use super::ports::free_port;
use super::shop::{PATIENCE, http};
use super::{eventually, programs};

/// One call of the phone about one alert.
#[derive(Debug, Clone)]
pub struct Ring {
    pub at: Instant,
    pub alert: String,
    pub severity: String,
    pub status: String,
    pub annotations: Value,
}

/// A running Alertmanager; it ends with this value.
pub struct Alertmanager {
    child: Child,
    directory: PathBuf,
    /// `host:port`.
    pub address: String,
    rings: Arc<Mutex<Vec<Ring>>>,
    phone: tokio::task::JoinHandle<()>,
}

impl Alertmanager {
    /// Starts one with `prometheus/alertmanager.yml`, whose receivers all ring our phone; `None` where none is
    /// installed, see [`programs::wanted`].
    pub async fn start() -> Option<Self> {
        let program = programs::wanted("prometheus-alertmanager")?;
        let rings = Arc::new(Mutex::new(Vec::new()));
        let (url, phone) = phone(Arc::clone(&rings)).await;
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/prometheus/alertmanager.yml"))
            .expect("the configuration");
        let config: Vec<String> = text
            .lines()
            .map(|line| match line.split_once("url:") {
                Some((before, _)) if !before.trim_start().starts_with('#') => format!("{before}url: {url}"),
                Some(_) | None => line.to_owned(),
            })
            .collect();
        assert!(config.iter().any(|line| line.ends_with(&url)), "no receiver has a url:\n{text}");
        let directory = std::env::temp_dir().join(format!("paygauge-alertmanager-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let file = directory.join("alertmanager.yml");
        std::fs::write(&file, config.join("\n")).expect("the configuration");
        let address = free_port().to_string();
        let child = Command::new(program)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.path={}", directory.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--cluster.listen-address=")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("alertmanager");
        let started = Self { child, directory, address, rings, phone };
        let asked = format!("http://{}/-/ready", started.address);
        eventually("Alertmanager is ready", PATIENCE, async || {
            http().get(&asked).send().await.ok().filter(|answer| answer.status().is_success()).map(|_| ())
        })
        .await;
        Some(started)
    }

    /// Every ring so far.
    pub fn rings(&self) -> Vec<Ring> {
        self.rings.lock().expect("rings").clone()
    }

    /// The alerts of a severity that rang, in order, each once.
    pub fn rang(&self, severity: &str) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for ring in self.rings() {
            if ring.severity == severity && ring.status == "firing" && !names.contains(&ring.alert) {
                names.push(ring.alert);
            }
        }
        names
    }

    /// When one of these alerts first rang; `None` if none did within the time.
    pub async fn first_ring(&self, alerts: &[&str], within: Duration) -> Option<Ring> {
        let until = Instant::now() + within;
        loop {
            let rings = self.rings();
            let found = rings.iter().find(|ring| ring.status == "firing" && alerts.contains(&ring.alert.as_str()));
            if let Some(found) = found {
                return Some(found.clone());
            }
            if Instant::now() > until {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        self.phone.abort();
        self.child.kill().unwrap_or_default();
        drop(self.child.wait());
        std::fs::remove_dir_all(&self.directory).unwrap_or_default();
    }
}

async fn phone(rings: Arc<Mutex<Vec<Ring>>>) -> (String, tokio::task::JoinHandle<()>) {
    let answer = move |Json(call): Json<Value>| {
        let rings = Arc::clone(&rings);
        async move {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            for alert in call["alerts"].as_array().into_iter().flatten() {
                rings.lock().expect("rings").push(Ring {
                    at: Instant::now(),
                    alert: text(&alert["labels"]["alertname"]),
                    severity: text(&alert["labels"]["severity"]),
                    status: text(&alert["status"]),
                    annotations: alert["annotations"].clone(),
                });
            }
        }
    };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let url = format!("http://{}/ring", listener.local_addr().expect("an address"));
    let router = Router::new().route("/ring", post(answer));
    let phone = tokio::spawn(async move { axum::serve(listener, router).await.expect("a phone") });
    (url, phone)
}
