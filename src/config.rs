//! Configuration: the only reader of the environment. All mistakes are reported at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use crate::db::connect::DbConfig;
use crate::provider::toss::TossConfig;
use crate::telemetry::LogFormat;

/// Where this process runs; decides which keys it may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// Real money: test keys are refused.
    Production,
    /// Anything else: live keys are refused.
    Test,
    /// The development stack.
    Development,
}

impl Environment {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Production => "production",
            Self::Test => "test",
            Self::Development => "development",
        }
    }
}

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    /// Serves the API.
    pub api: bool,
    /// Runs recovery, expiry, the webhook inbox and the gauges.
    pub worker: bool,
}

/// How far a checkout token reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuyerCancel {
    /// It cancels an order only while that is unpaid.
    Unpaid,
    /// It cancels paid orders too, in part or in full.
    Paid,
}

/// Durations, limits and policies.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long an unpaid order holds its stock.
    pub hold: Duration,
    /// How long a checkout token is good for.
    pub checkout_token_life: Duration,
    /// Who may cancel with a checkout token.
    pub buyer_cancel: BuyerCancel,
    /// No call to the PG lasts longer.
    pub provider_deadline: Duration,
    /// Recovery takes an intent over this long after its call's deadline.
    pub recovery_grace: Duration,
    /// "The PG does not know it" counts as "never arrived" only after this long, seen twice.
    pub not_found_quarantine: Duration,
    /// How often a virtual account's deposit is asked for, besides webhooks.
    pub deposit_poll: Duration,
    /// How long after its due date a virtual account is given up.
    pub deposit_grace: Duration,
    /// How long the first request of a key counts as running.
    pub idempotency_lease: Duration,
    /// How long an answered key is kept: as long as Toss keeps its own, 15 days.
    pub idempotency_keep: Duration,
    /// How long read webhooks are kept.
    pub webhook_retention: Duration,
    /// How long a worker owns what it leased.
    pub worker_lease: Duration,
    /// How often each worker looks for work.
    pub worker_poll: Duration,
    /// Rows a worker takes at once.
    pub worker_batch_rows: i64,
    /// How long shutdown waits for money work.
    pub shutdown_grace: Duration,
    /// The most bytes of a request's body.
    pub body_bytes_max: usize,
    /// The most rows of a page.
    pub page_rows_max: i64,
    /// The most lines of an order.
    pub order_lines_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let days = |count: u64| minutes(60 * 24 * count);
        Self {
            hold: minutes(10),
            checkout_token_life: minutes(60),
            buyer_cancel: BuyerCancel::Unpaid,
            provider_deadline: Duration::from_secs(32),
            recovery_grace: Duration::from_secs(5),
            not_found_quarantine: minutes(2),
            deposit_poll: minutes(10),
            deposit_grace: minutes(10),
            idempotency_lease: Duration::from_secs(60),
            idempotency_keep: days(15),
            webhook_retention: days(30),
            worker_lease: Duration::from_secs(90),
            worker_poll: Duration::from_millis(300),
            worker_batch_rows: 50,
            shutdown_grace: Duration::from_secs(40),
            body_bytes_max: 64 * 1024,
            page_rows_max: 100,
            order_lines_max: 50,
        }
    }
}

impl Settings {
    /// What does not fit together.
    #[must_use]
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let call = self.provider_deadline + self.recovery_grace;
        let mut require = |holds: bool, text: &str| {
            if !holds {
                mistakes.push(text.to_owned());
            }
        };
        // A worker asks the PG, and may then send again.
        let twice = self.provider_deadline + call;
        require(self.worker_lease > twice, "the worker's lease must outlast two PG calls and the grace");
        require(self.idempotency_lease > call, "the idempotency lease must outlast a PG call and its grace");
        require(self.not_found_quarantine > call, "the not-found quarantine must outlast a PG call and its grace");
        require(self.shutdown_grace > self.provider_deadline, "shutdown must wait longer than a PG call");
        require(!self.hold.is_zero(), "the hold must last");
        mistakes
    }
}

/// Everything `paygauge serve` needs.
#[derive(Clone)]
pub struct Config {
    /// Which keys are allowed.
    pub environment: Environment,
    /// What this process does.
    pub roles: Roles,
    /// Where the API listens.
    pub listen: SocketAddr,
    /// Where `/livez`, `/readyz` and `/metrics` listen.
    pub ops_listen: SocketAddr,
    /// The database.
    pub database: DbConfig,
    /// The PG.
    pub toss: TossConfig,
    /// Sign and check checkout tokens; the first signs, all check.
    pub token_secrets: Vec<SecretString>,
    /// Browser origins that may call the API.
    pub cors_origins: Vec<String>,
    /// Durations, limits and policies.
    pub settings: Settings,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines are written.
    pub log_filter: String,
    /// Where traces go.
    pub otlp_endpoint: Option<String>,
}

/// The settings that the environment holds, and what is wrong with them.
struct Reader {
    vars: BTreeMap<String, String>,
    mistakes: Vec<String>,
}

impl Config {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// Every mistake, one per line, each naming its variable.
    pub fn from_env() -> Result<Self, Vec<String>> {
        Self::from_vars(std::env::vars())
    }

    /// Reads these variables.
    ///
    /// # Errors
    /// Every mistake, one per line, each naming its variable.
    pub fn from_vars(vars: impl IntoIterator<Item = (String, String)>) -> Result<Self, Vec<String>> {
        let vars = vars.into_iter().filter(|(_, value)| !value.trim().is_empty()).collect();
        let mut read = Reader { vars, mistakes: Vec::new() };
        let environment = read.environment();
        let settings = read.settings();
        let config = Self {
            environment,
            roles: read.roles(),
            listen: read.parsed("PAYGAUGE_LISTEN", SocketAddr::from(([127, 0, 0, 1], 8080))),
            ops_listen: read.parsed("PAYGAUGE_OPS_LISTEN", SocketAddr::from(([127, 0, 0, 1], 9464))),
            database: read.database(),
            toss: read.toss(environment),
            token_secrets: read.token_secrets(),
            cors_origins: read.cors_origins(),
            settings,
            log_format: read.log_format(),
            log_filter: read.text("PAYGAUGE_LOG").unwrap_or_else(|| "info".to_owned()),
            otlp_endpoint: read.text("OTEL_EXPORTER_OTLP_ENDPOINT"),
        };
        read.mistakes.extend(config.settings.mistakes());
        if read.mistakes.is_empty() { Ok(config) } else { Err(read.mistakes) }
    }
}

/// Reads only what the database commands need: `DATABASE_URL` and its companions.
///
/// # Errors
/// Every mistake, one per line.
pub fn database_from_env() -> Result<DbConfig, Vec<String>> {
    let mut read = Reader { vars: std::env::vars().collect(), mistakes: Vec::new() };
    let database = read.database();
    if read.mistakes.is_empty() { Ok(database) } else { Err(read.mistakes) }
}

/// What the development stack takes from the environment; everything else it decides itself.
#[derive(Debug, Clone, Default)]
pub struct DevVars {
    /// A server to use instead of an embedded one.
    pub database_url: Option<SecretString>,
    /// Where PostgreSQL's programs are.
    pub pg_bin_dir: Option<PathBuf>,
    /// `PATH`, where PostgreSQL's programs are looked for.
    pub search_path: Option<std::ffi::OsString>,
    /// Which log lines are written.
    pub log_filter: Option<String>,
    /// Where traces go.
    pub otlp_endpoint: Option<String>,
}

/// Reads the few variables that the development stack knows.
#[must_use]
pub fn dev_vars() -> DevVars {
    let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    DevVars {
        database_url: var("DATABASE_URL").map(SecretString::from),
        pg_bin_dir: var("PG_BIN_DIR").map(PathBuf::from),
        search_path: std::env::var_os("PATH"),
        log_filter: var("PAYGAUGE_LOG"),
        otlp_endpoint: var("OTEL_EXPORTER_OTLP_ENDPOINT"),
    }
}

impl Reader {
    fn text(&self, name: &str) -> Option<String> {
        self.vars.get(name).map(|value| value.trim().to_owned())
    }

    fn required(&mut self, name: &str, what: &str) -> String {
        self.text(name).unwrap_or_else(|| {
            self.mistakes.push(format!("{name} is missing: {what}"));
            String::new()
        })
    }

    fn parsed<T: std::str::FromStr>(&mut self, name: &str, default: T) -> T {
        let Some(text) = self.text(name) else { return default };
        text.parse().unwrap_or_else(|_| {
            self.mistakes.push(format!("{name} cannot be read: {text:?}"));
            default
        })
    }

    fn duration(&mut self, name: &str, unit: Duration, default: Duration) -> Duration {
        let Some(text) = self.text(name) else { return default };
        let Some(duration) = text.parse::<u32>().ok().and_then(|count| unit.checked_mul(count)) else {
            self.mistakes.push(format!("{name} is not a whole number: {text:?}"));
            return default;
        };
        if duration.is_zero() {
            self.mistakes.push(format!("{name} must not be 0"));
        }
        duration
    }

    fn environment(&mut self) -> Environment {
        match self.required("PAYGAUGE_ENV", "production, test or development").as_str() {
            "production" | "" => Environment::Production,
            "test" => Environment::Test,
            "development" => Environment::Development,
            other => {
                self.mistakes.push(format!("PAYGAUGE_ENV is {other:?}; it can be production, test or development"));
                Environment::Production
            }
        }
    }

    fn roles(&mut self) -> Roles {
        let text = self.text("PAYGAUGE_ROLES").unwrap_or_else(|| "api,worker".to_owned());
        let mut roles = Roles { api: false, worker: false };
        for role in text.split(',').map(str::trim) {
            match role {
                "api" => roles.api = true,
                "worker" => roles.worker = true,
                other => self.mistakes.push(format!("PAYGAUGE_ROLES knows api and worker, not {other:?}")),
            }
        }
        roles
    }

    fn database(&mut self) -> DbConfig {
        let url = self.required("DATABASE_URL", "postgres://user:password@host:5432/database?sslmode=verify-full");
        let second = Duration::from_secs(1);
        DbConfig {
            url: SecretString::from(url),
            pool_connections_max: self.parsed("PAYGAUGE_DB_CONNECTIONS_MAX", 16).clamp(2, 500),
            pool_wait: self.duration("PAYGAUGE_DB_POOL_WAIT_SECONDS", second, Duration::from_secs(3)),
            statement_timeout: self.duration("PAYGAUGE_DB_STATEMENT_SECONDS", second, Duration::from_secs(10)),
            lock_timeout: self.duration("PAYGAUGE_DB_LOCK_SECONDS", second, Duration::from_secs(5)),
            root_cert_file: self.text("PAYGAUGE_DB_ROOT_CERT").map(PathBuf::from),
        }
    }

    fn toss(&mut self, environment: Environment) -> TossConfig {
        let secret = self.required("TOSS_SECRET_KEY", "the shop's secret key, test_sk_… or live_sk_…");
        let base_url = self.text("TOSS_BASE_URL").unwrap_or_else(|| "https://api.tosspayments.com".to_owned());
        self.guard_key(environment, &secret);
        if environment == Environment::Production && !base_url.starts_with("https://") {
            self.mistakes.push("TOSS_BASE_URL must be https in production".to_owned());
        }
        let seconds = Duration::from_secs;
        TossConfig {
            base_url,
            secret_key: SecretString::from(secret),
            m_id: self.text("TOSS_MID"),
            connect_timeout: self.duration("TOSS_CONNECT_TIMEOUT_SECONDS", seconds(1), seconds(3)),
            confirm_timeout: self.duration("TOSS_CONFIRM_TIMEOUT_SECONDS", seconds(1), seconds(30)),
            cancel_timeout: self.duration("TOSS_CANCEL_TIMEOUT_SECONDS", seconds(1), seconds(30)),
            inquiry_timeout: self.duration("TOSS_INQUIRY_TIMEOUT_SECONDS", seconds(1), seconds(10)),
        }
    }

    /// Real keys stay out of tests, and test keys out of production.
    fn guard_key(&mut self, environment: Environment, secret: &str) {
        let (is_live, is_test) = (secret.starts_with("live_"), secret.starts_with("test_"));
        match environment {
            Environment::Production if is_test => {
                self.mistakes.push("TOSS_SECRET_KEY is a test key: production takes no real money with it".to_owned());
            }
            Environment::Test | Environment::Development if is_live => {
                self.mistakes.push(format!(
                    "TOSS_SECRET_KEY is a live key: PAYGAUGE_ENV={} must not take real money",
                    environment.as_str()
                ));
            }
            Environment::Production | Environment::Test | Environment::Development => {
                if !secret.is_empty() && !is_live && !is_test {
                    self.mistakes.push("TOSS_SECRET_KEY starts with neither live_ nor test_".to_owned());
                }
            }
        }
        if secret.starts_with("live_ck_") || secret.starts_with("test_ck_") {
            self.mistakes.push("TOSS_SECRET_KEY is a client key; the secret key is needed here".to_owned());
        }
    }

    fn token_secrets(&mut self) -> Vec<SecretString> {
        let current = self.required("PAYGAUGE_TOKEN_SECRET", "at least 32 random characters, signs checkout tokens");
        let previous = self.text("PAYGAUGE_TOKEN_SECRET_PREVIOUS");
        for (name, secret) in
            [("PAYGAUGE_TOKEN_SECRET", Some(&current)), ("PAYGAUGE_TOKEN_SECRET_PREVIOUS", previous.as_ref())]
        {
            if secret.is_some_and(|secret| !secret.is_empty() && secret.len() < 32) {
                self.mistakes.push(format!("{name} has fewer than 32 characters"));
            }
        }
        std::iter::once(current).chain(previous).map(SecretString::from).collect()
    }

    fn cors_origins(&mut self) -> Vec<String> {
        let text = self.text("PAYGAUGE_CORS_ORIGINS").unwrap_or_default();
        let origins: Vec<String> =
            text.split(',').map(str::trim).filter(|origin| !origin.is_empty()).map(str::to_owned).collect();
        for origin in &origins {
            let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            if rest.is_none_or(|host| host.is_empty() || host.contains('/') || host.contains('*')) {
                self.mistakes.push(format!("PAYGAUGE_CORS_ORIGINS: {origin:?} is not scheme://host[:port]"));
            }
        }
        origins
    }

    fn log_format(&mut self) -> LogFormat {
        match self.text("PAYGAUGE_LOG_FORMAT").as_deref() {
            None | Some("json") => LogFormat::Json,
            Some("human") => LogFormat::Human,
            Some(other) => {
                self.mistakes.push(format!("PAYGAUGE_LOG_FORMAT is {other:?}; it can be json or human"));
                LogFormat::Json
            }
        }
    }

    fn settings(&mut self) -> Settings {
        let base = Settings::default();
        let second = Duration::from_secs(1);
        let longest = ["TOSS_CONFIRM_TIMEOUT_SECONDS", "TOSS_CANCEL_TIMEOUT_SECONDS"]
            .into_iter()
            .filter_map(|name| self.text(name)?.parse().ok())
            .max()
            .unwrap_or(30_u64);
        let call = Duration::from_secs(longest) + Duration::from_secs(2);
        Settings {
            hold: self.duration("PAYGAUGE_HOLD_SECONDS", second, base.hold),
            checkout_token_life: self.duration("PAYGAUGE_TOKEN_SECONDS", second, base.checkout_token_life),
            buyer_cancel: self.buyer_cancel(),
            provider_deadline: call,
            idempotency_lease: base.idempotency_lease.max(call * 2),
            worker_lease: base.worker_lease.max(call * 3),
            not_found_quarantine: base.not_found_quarantine.max(call * 3),
            shutdown_grace: base.shutdown_grace.max(call + Duration::from_secs(5)),
            worker_poll: self.duration("PAYGAUGE_WORKER_POLL_MS", Duration::from_millis(1), base.worker_poll),
            ..base
        }
    }

    fn buyer_cancel(&mut self) -> BuyerCancel {
        match self.text("PAYGAUGE_BUYER_CANCEL").as_deref() {
            None | Some("unpaid") => BuyerCancel::Unpaid,
            Some("paid") => BuyerCancel::Paid,
            Some(other) => {
                self.mistakes.push(format!("PAYGAUGE_BUYER_CANCEL is {other:?}; it can be unpaid or paid"));
                BuyerCancel::Unpaid
            }
        }
    }
}

/// The secrets as bytes, for signing.
#[must_use]
pub fn secret_bytes(secrets: &[SecretString]) -> Vec<&[u8]> {
    secrets.iter().map(|secret| secret.expose_secret().as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let base = [
            ("PAYGAUGE_ENV", "test"),
            ("DATABASE_URL", "postgres://localhost/paygauge"),
            ("TOSS_SECRET_KEY", "test_sk_x"),
            ("PAYGAUGE_TOKEN_SECRET", "0123456789abcdef0123456789abcdef"),
        ];
        base.iter().chain(pairs).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn mistakes(pairs: &[(&str, &str)]) -> Vec<String> {
        Config::from_vars(vars(pairs)).err().unwrap_or_default()
    }

    #[test]
    fn the_least_that_is_needed_is_enough() {
        assert_eq!(mistakes(&[]), Vec::<String>::new());
        assert!(Settings::default().mistakes().is_empty());
    }

    #[test]
    fn an_empty_environment_is_told_everything_at_once() {
        let mistakes = Config::from_vars(Vec::new()).err().unwrap();
        for name in ["PAYGAUGE_ENV", "DATABASE_URL", "TOSS_SECRET_KEY", "PAYGAUGE_TOKEN_SECRET"] {
            assert!(mistakes.iter().any(|mistake| mistake.starts_with(name)), "{name} in {mistakes:?}");
        }
    }

    #[test]
    fn live_keys_stay_out_of_tests_and_test_keys_out_of_production() {
        assert_eq!(mistakes(&[("TOSS_SECRET_KEY", "live_sk_x")]).len(), 1);
        assert_eq!(mistakes(&[("PAYGAUGE_ENV", "production")]).len(), 1);
        let live = [("PAYGAUGE_ENV", "production"), ("TOSS_SECRET_KEY", "live_sk_x")];
        assert!(mistakes(&live).is_empty());
        assert_eq!(mistakes(&[("TOSS_SECRET_KEY", "test_ck_x")]).len(), 1);
    }

    #[test]
    fn every_wrong_value_is_named() {
        let wrong = [
            ("PAYGAUGE_LISTEN", "nowhere"),
            ("PAYGAUGE_ROLES", "api,cook"),
            ("PAYGAUGE_HOLD_SECONDS", "ten"),
            ("PAYGAUGE_CORS_ORIGINS", "https://*.shop.example"),
            ("PAYGAUGE_BUYER_CANCEL", "maybe"),
            ("PAYGAUGE_LOG_FORMAT", "xml"),
            ("PAYGAUGE_TOKEN_SECRET", "short"),
        ];
        let mistakes = mistakes(&wrong);
        assert_eq!(mistakes.len(), wrong.len(), "{mistakes:?}");
    }
}
