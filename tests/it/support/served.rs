//! `paygauge serve` in a process of its own: its metrics, lines and spans are of nobody else.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use paygauge::crash::CrashSwitch;
use paygauge::db::Db;
use paygauge::db::connect::{self, DbConfig};
use paygauge::http::auth::keys::{self, Role};
use pg_mock::PgMock;
use secrecy::ExposeSecret as _;
use serde_json::Value;

use super::shop::{Client, PATIENCE};
use super::{database, eventually};

/// A serving process, its PG and its database.
pub struct Served {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    pub mock: Arc<PgMock>,
    pub database: DbConfig,
    pub base: String,
    pub ops: String,
    pub secret: Client,
}

impl Served {
    /// Starts it with further variables of its environment.
    pub async fn start(variables: &[(&str, &str)]) -> Self {
        Self::at(database::fresh().await, variables).await
    }

    /// Starts it on this database.
    pub async fn at(database: DbConfig, variables: &[(&str, &str)]) -> Self {
        let db = Db::new(connect::pool(&database).await.expect("a pool"), 2, CrashSwitch::default());
        let (_, secret) = keys::create(&db, Role::Secret, "test").await.expect("a key");
        let mock = Arc::new(PgMock::start(pg_mock::Options::default()).await.expect("pg-mock"));
        Self::beside(mock, database, secret.expose_secret(), variables).await.expect("it serves")
    }

    /// Starts it on this database, which knows this secret key, beside this PG; `None` if it ends before it serves.
    pub async fn beside(
        mock: Arc<PgMock>,
        database: DbConfig,
        secret: &str,
        variables: &[(&str, &str)],
    ) -> Option<Self> {
        let mut child = command(&database, &mock).envs(variables.iter().copied()).spawn().expect("the program");
        let lines = Arc::new(Mutex::new(Vec::new()));
        collect(child.stdout.take().expect("its output"), Arc::clone(&lines));
        collect(child.stderr.take().expect("its errors"), Arc::clone(&lines));
        let serving = eventually("it serves or ends", PATIENCE, async || {
            let said = lines
                .lock()
                .expect("lines")
                .iter()
                .find_map(|line| serde_json::from_str::<Value>(line).ok().filter(|line| line["msg"] == "serving"));
            let mut has_ended = || child.try_wait().expect("a child").is_some();
            said.map(Some).or_else(|| has_ended().then_some(None))
        })
        .await?;
        let at = |name: &str| format!("http://{}", serving[name].as_str().expect("an address"));
        let (base, ops) = (at("api"), at("ops"));
        if serving["api"] != "off" {
            mock.set_webhook_url(Some(format!("{base}/v1/webhooks/toss")));
        }
        let secret = Client::new(&base, secret);
        Some(Self { child, lines, mock, database, base, ops, secret })
    }

    /// Ends it as by `kill -9`.
    pub async fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        self.ended().await;
    }

    /// What it wrote so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("lines").clone()
    }

    /// Its exposition.
    pub async fn metrics(&self) -> String {
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let answer = http.get(format!("{}/metrics", self.ops)).send().await.expect("metrics");
        answer.text().await.expect("text")
    }

    /// `host:port` of its operations port, as a scraper wants it.
    pub fn ops_address(&self) -> &str {
        self.ops.trim_start_matches("http://")
    }

    /// Asks it to stop, as an orchestrator does.
    pub fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    /// Presses Ctrl-C.
    pub fn interrupt(&self) {
        self.signal(libc::SIGINT);
    }

    fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        // SAFETY: sends a signal to a process that this test started and has not waited for.
        #[expect(unsafe_code, reason = "std can only kill")]
        let sent = unsafe { libc::kill(pid, signal) };
        assert_eq!(sent, 0);
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        eventually("it ends", PATIENCE, async || self.child.try_wait().expect("a child")).await
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().unwrap_or_default();
        drop(self.child.wait());
    }
}

const RATES: [&str; 9] = [
    "PAYGAUGE_RATE_KEY_ORDERS",
    "PAYGAUGE_RATE_KEY_PAYMENTS",
    "PAYGAUGE_RATE_KEY_READS",
    "PAYGAUGE_RATE_ORDER_PAYMENTS",
    "PAYGAUGE_RATE_ORDER_READS",
    "PAYGAUGE_RATE_ADDRESS_ORDERS",
    "PAYGAUGE_RATE_ADDRESS_PAYMENTS",
    "PAYGAUGE_RATE_ADDRESS_READS",
    "PAYGAUGE_RATE_ADDRESS_WEBHOOKS",
];

fn command(database: &DbConfig, mock: &PgMock) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paygauge"));
    command
        .arg("serve")
        .env_clear()
        .env("PAYGAUGE_ENV", "test")
        .env("DATABASE_URL", database.url.expose_secret())
        .env("TOSS_BASE_URL", mock.url())
        .env("TOSS_SECRET_KEY", "test_sk_mock")
        .env("PAYGAUGE_TOKEN_SECRET", "a secret of more than thirty-two characters")
        .env("PAYGAUGE_LISTEN", "127.0.0.1:0")
        .env("PAYGAUGE_OPS_LISTEN", "127.0.0.1:0")
        .env("PAYGAUGE_WORKER_POLL_MS", "50")
        .env("PAYGAUGE_LOG_FORMAT", "json")
        .env("PAYGAUGE_DRAIN_SECONDS", "0")
        // Whoever tests limits sets them.
        .envs(RATES.map(|name| (name, "off")))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn collect(from: impl Read + Send + 'static, lines: Arc<Mutex<Vec<String>>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            lines.lock().expect("lines").push(line);
        }
    });
}
