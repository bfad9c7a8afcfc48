//! Configuration: the only reader of the environment. All mistakes are reported at once.

mod reader;
mod settings;

use std::net::SocketAddr;
use std::path::PathBuf;

use secrecy::SecretString;

use self::reader::Reader;
pub use self::settings::{AuditSettings, BuyerCancel, ExternalCancelStock, Settings};
use crate::crash::CrashSwitch;
use crate::db::connect::DbConfig;
use crate::limits::{Proxies, Rates};
use crate::provider::toss::TossConfig;
use crate::redis::RedisConfig;
use crate::telemetry::{LogFormat, OtlpProtocol, Parts, TracesConfig};

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

impl Roles {
    /// `api`, `worker` or `all`, for whoever reads what the process tells.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match (self.api, self.worker) {
            (true, false) => "api",
            (false, true) => "worker",
            (true, true) => "all",
            (false, false) => "none",
        }
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
    /// Whose word about a client's address is taken.
    pub trusted_proxies: Proxies,
    /// The Redis that helps, if there is one.
    pub redis: Option<RedisConfig>,
    /// Durations, limits and policies.
    pub settings: Settings,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines are written.
    pub log_filter: String,
    /// Where traces go, and which.
    pub traces: TracesConfig,
    /// Which parts of telemetry run; all of them but in a benchmark.
    pub telemetry: Parts,
    /// Where tests make this process die; nowhere unless armed.
    pub crash: CrashSwitch,
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
        let mut read = Reader::new(vars);
        let environment = read.environment();
        let toss = read.toss(environment);
        let settings = read.settings(&toss);
        let config = Self {
            environment: environment.unwrap_or(Environment::Production),
            roles: read.roles(),
            listen: read.parsed("PAYGAUGE_LISTEN", SocketAddr::from(([127, 0, 0, 1], 8080))),
            ops_listen: read.parsed("PAYGAUGE_OPS_LISTEN", SocketAddr::from(([127, 0, 0, 1], 9464))),
            database: read.database(environment),
            toss,
            token_secrets: read.token_secrets(),
            cors_origins: read.cors_origins(),
            trusted_proxies: read.trusted_proxies(),
            redis: read.redis(),
            settings,
            log_format: read.log_format(),
            log_filter: read.log_filter(),
            traces: read.traces(),
            telemetry: read.telemetry(environment),
            crash: read.crash(environment),
        };
        read.finish(config)
    }
}

impl Config {
    /// A hash of what decides how this process behaves, to tell whether two of them behave the same. Addresses, roles and
    /// secrets have no part in it.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let (database, toss) = (&self.database, &self.toss);
        let pool =
            (database.pool_connections_max, database.pool_wait, database.statement_timeout, database.lock_timeout);
        let pg = (toss.connect_timeout, toss.confirm_timeout, toss.cancel_timeout, toss.inquiry_timeout);
        let counting = (&self.trusted_proxies, self.redis.as_ref().map(|redis| redis.deadline));
        let decisive = (&self.settings, pool, pg, counting, &self.cors_origins, &self.log_filter);
        crate::telemetry::runtime::stable_hash(&format!("{} {decisive:?}", self.environment.as_str()))
    }
}

/// Reads only what the database commands need: `DATABASE_URL` and its companions.
///
/// # Errors
/// Every mistake, one per line.
pub fn database_from_env() -> Result<DbConfig, Vec<String>> {
    let mut read = Reader::new(std::env::vars());
    let database = read.database(None);
    read.finish(database)
}

/// Reads what `paygauge audit` needs: the database, and when something counts as stuck.
///
/// # Errors
/// Every mistake, one per line.
pub fn audit_from_env() -> Result<(DbConfig, AuditSettings), Vec<String>> {
    let mut read = Reader::new(std::env::vars());
    let audit = (read.database(None), read.audit());
    read.finish(audit)
}

/// What an operator's command needs that asks the PG.
#[derive(Clone)]
pub struct OperatorConfig {
    /// The database.
    pub database: DbConfig,
    /// The PG.
    pub toss: TossConfig,
    /// Durations, limits and policies.
    pub settings: Settings,
    /// Where tests make this process die.
    pub crash: CrashSwitch,
}

/// Reads what a command needs that asks the PG: what `serve` reads, without the listeners and the tokens.
///
/// # Errors
/// Every mistake, one per line.
pub fn operator_from_env() -> Result<OperatorConfig, Vec<String>> {
    let mut read = Reader::new(std::env::vars());
    let environment = read.environment();
    let toss = read.toss(environment);
    let settings = read.settings(&toss);
    let (database, crash) = (read.database(environment), read.crash(environment));
    read.finish(OperatorConfig { database, toss, settings, crash })
}

/// What the development stack takes from the environment; everything else it decides itself.
#[derive(Debug, Clone)]
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
    /// How they are sent.
    pub otlp_protocol: OtlpProtocol,
    /// The Redis that helps, if there is one.
    pub redis: Option<RedisConfig>,
    /// How many requests a caller may make; no limits unless set.
    pub rates: Rates,
}

/// Reads the few variables that the development stack knows.
///
/// # Errors
/// Every mistake, one per line.
pub fn dev_vars() -> Result<DevVars, Vec<String>> {
    let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let mut read = Reader::new(std::env::vars());
    let vars = DevVars {
        database_url: var("DATABASE_URL").map(SecretString::from),
        pg_bin_dir: var("PG_BIN_DIR").map(PathBuf::from),
        search_path: std::env::var_os("PATH"),
        log_filter: var("PAYGAUGE_LOG"),
        otlp_endpoint: var("OTEL_EXPORTER_OTLP_ENDPOINT"),
        otlp_protocol: var("OTEL_EXPORTER_OTLP_PROTOCOL").and_then(|name| name.parse().ok()).unwrap_or_default(),
        redis: read.redis(),
        rates: read.rates(Rates::OFF),
    };
    read.finish(vars)
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
        assert_eq!(mistakes.len(), 4, "{mistakes:?}");
        for name in ["PAYGAUGE_ENV", "DATABASE_URL", "TOSS_SECRET_KEY", "PAYGAUGE_TOKEN_SECRET"] {
            assert!(mistakes.iter().any(|mistake| mistake.starts_with(name)), "{name} in {mistakes:?}");
        }
    }

    #[test]
    fn live_keys_stay_out_of_tests_and_test_keys_out_of_production() {
        assert_eq!(mistakes(&[("TOSS_SECRET_KEY", "live_sk_x")]).len(), 1);
        let production = ("PAYGAUGE_ENV", "production");
        let database = ("DATABASE_URL", "postgres://db.example/paygauge?sslmode=verify-full");
        assert_eq!(mistakes(&[production, database]).len(), 1);
        assert!(mistakes(&[production, database, ("TOSS_SECRET_KEY", "live_sk_x")]).is_empty());
        for client_key in ["test_ck_x", "test_gck_x"] {
            assert_eq!(mistakes(&[("TOSS_SECRET_KEY", client_key)]).len(), 1, "{client_key}");
        }
    }

    #[test]
    fn production_says_how_its_database_is_reached() {
        let live = [("PAYGAUGE_ENV", "production"), ("TOSS_SECRET_KEY", "live_sk_x")];
        assert_eq!(mistakes(&live).len(), 1);
    }

    #[test]
    fn the_longest_timeout_of_the_pg_sets_every_wait() {
        let config = Config::from_vars(vars(&[("TOSS_CANCEL_TIMEOUT_SECONDS", "5")])).ok().unwrap();
        assert_eq!(config.settings.provider_deadline.as_secs(), 32, "a confirm still has its 30 seconds");
        let config = Config::from_vars(vars(&[("TOSS_CONFIRM_TIMEOUT_SECONDS", "120")])).ok().unwrap();
        assert_eq!(config.settings.provider_deadline.as_secs(), 122);
    }

    #[test]
    fn a_budget_is_set_or_off_or_the_usual_one() {
        let set = [("PAYGAUGE_RATE_KEY_ORDERS", "7/10"), ("PAYGAUGE_RATE_ORDER_READS", "off")];
        let rates = Config::from_vars(vars(&set)).ok().unwrap().settings.rates;
        let usual = Rates::default();
        let own = crate::limits::Budget::new(7, 10);
        assert_eq!(rates, Rates { key_orders: own, order_reads: None, ..usual });
    }

    #[test]
    fn the_password_of_redis_is_shown_nowhere() {
        let good = [("REDIS_URL", "redis://shop:hunter2@cache.example:6379/1")];
        let config = Config::from_vars(vars(&good)).ok().unwrap();
        assert!(!format!("{:?}", config.redis.unwrap()).contains("hunter2"));
        let wrong = mistakes(&[("REDIS_URL", "redis//shop:hunter2@cache.example")]);
        assert_eq!(wrong.len(), 1);
        assert!(!wrong[0].contains("hunter2"), "{wrong:?}");
    }

    #[test]
    fn every_wrong_value_is_named() {
        let wrong = [
            ("PAYGAUGE_LISTEN", "nowhere"),
            ("PAYGAUGE_ROLES", "api,cook"),
            ("PAYGAUGE_HOLD_SECONDS", "ten"),
            ("PAYGAUGE_DRAIN_SECONDS", "301"),
            ("PAYGAUGE_CORS_ORIGINS", "https://*.shop.example"),
            ("PAYGAUGE_BUYER_CANCEL", "maybe"),
            ("PAYGAUGE_EXTERNAL_CANCEL_STOCK", "sell"),
            ("PAYGAUGE_RECONCILE_SECONDS", "0"),
            ("PAYGAUGE_LOG_FORMAT", "xml"),
            ("PAYGAUGE_TOKEN_SECRET", "short"),
            ("PAYGAUGE_LOG", "paygauge=loud"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("PAYGAUGE_TRACE_KEEP_RATIO", "1.5"),
            ("PAYGAUGE_DB_CONNECTIONS_MAX", "1"),
            ("TOSS_BASE_URL", "ftp://pg.example"),
            ("TOSS_CONFIRM_TIMEOUT_SECONDS", "18446744073709551615"),
            ("TOSS_CALLS_MAX", "0"),
            ("TOSS_RECOVERY_CALLS_MAX", "many"),
            ("TOSS_BREAKER_FAILURES", "21"),
            ("TOSS_BREAKER_OPEN_SECONDS", "0"),
            ("DATABASE_URL", "host=db.example sslmode=require"),
            ("REDIS_URL", "cache.example:6379"),
            ("PAYGAUGE_REDIS_DEADLINE_MS", "1001"),
            ("PAYGAUGE_RATE_KEY_ORDERS", "many"),
            ("PAYGAUGE_RATE_ADDRESS_WEBHOOKS", "10/0"),
            ("PAYGAUGE_TRUSTED_PROXIES", "127.0.0.1, proxy.example"),
        ];
        let mistakes = mistakes(&wrong);
        assert_eq!(mistakes.len(), wrong.len(), "{mistakes:?}");
    }
}
