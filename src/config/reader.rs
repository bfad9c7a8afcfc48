//! Reads variables one by one, and keeps the list of what is wrong with them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::{AuditSettings, BuyerCancel, Environment, ExternalCancelStock, Roles, Settings};
use crate::crash::CrashSwitch;
use crate::db::connect::{self, DbConfig};
use crate::limits::{Budget, Proxies, Rates};
use crate::provider::breaker::BreakerRules;
use crate::provider::protection::Limits;
use crate::provider::toss::TossConfig;
use crate::redis::{self, RedisConfig};
use crate::telemetry::{self, LogFormat, OtlpProtocol, Parts, TracesConfig};

/// Of traces that went well, this share is kept.
const TRACE_KEEP_RATIO: f64 = 0.05;
/// Longer than Redis ever takes when it is well, and short beside any use case.
const REDIS_DEADLINE: Duration = Duration::from_millis(50);
/// Nobody waits longer for a process that was told to stop.
const DRAIN_MAX_S: u64 = 300;
/// A breaker remembers no more results than this.
const FAILURES_REMEMBERED_MAX: u32 = 20;

/// The settings that the environment holds, and what is wrong with them.
pub(super) struct Reader {
    vars: BTreeMap<String, String>,
    mistakes: Vec<String>,
}

impl Reader {
    /// Takes the variables; empty ones count as missing.
    pub(super) fn new(vars: impl IntoIterator<Item = (String, String)>) -> Self {
        let vars = vars.into_iter().filter(|(_, value)| !value.trim().is_empty()).collect();
        Self { vars, mistakes: Vec::new() }
    }

    /// What was read, if nothing was wrong.
    pub(super) fn finish<T>(self, read: T) -> Result<T, Vec<String>> {
        if self.mistakes.is_empty() { Ok(read) } else { Err(self.mistakes) }
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.vars.get(name).map(|value| value.trim().to_owned())
    }

    fn required(&mut self, name: &str, what: &str) -> String {
        self.text(name).unwrap_or_else(|| {
            self.mistakes.push(format!("{name} is missing: {what}"));
            String::new()
        })
    }

    pub(super) fn parsed<T: std::str::FromStr>(&mut self, name: &str, default: T) -> T {
        let Some(text) = self.text(name) else { return default };
        text.parse().unwrap_or_else(|_| {
            self.mistakes.push(format!("{name} cannot be read: {text:?}"));
            default
        })
    }

    /// A number of `unit`s, from 1 to `most`.
    fn duration(&mut self, name: &str, unit: Duration, most: u32, default: Duration) -> Duration {
        let Some(text) = self.text(name) else { return default };
        match text.parse::<u32>() {
            Ok(count) if (1..=most).contains(&count) => unit * count,
            Ok(_) | Err(_) => {
                self.mistakes.push(format!("{name} is not a whole number from 1 to {most}: {text:?}"));
                default
            }
        }
    }

    pub(super) fn environment(&mut self) -> Option<Environment> {
        match self.required("PAYGAUGE_ENV", "production, test or development").as_str() {
            "" => None,
            "production" => Some(Environment::Production),
            "test" => Some(Environment::Test),
            "development" => Some(Environment::Development),
            other => {
                self.mistakes.push(format!("PAYGAUGE_ENV is {other:?}; it can be production, test or development"));
                None
            }
        }
    }

    pub(super) fn roles(&mut self) -> Roles {
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

    pub(super) fn database(&mut self, environment: Option<Environment>) -> DbConfig {
        let url = self.required("DATABASE_URL", "postgres://user:password@host:5432/database?sslmode=verify-full");
        if !url.is_empty() {
            if let Err(error) = connect::check_url(&url) {
                self.mistakes.push(format!("DATABASE_URL: {error}"));
            } else if environment == Some(Environment::Production) && !url.contains("sslmode=") {
                self.mistakes.push(
                    "DATABASE_URL does not say how the connection is protected: add sslmode=verify-full (or, where \
                     the network is trusted, sslmode=disable)"
                        .to_owned(),
                );
            }
        }
        let second = Duration::from_secs(1);
        DbConfig {
            url: SecretString::from(url),
            pool_connections_max: self.connections_max(),
            pool_wait: self.duration("PAYGAUGE_DB_POOL_WAIT_SECONDS", second, 60, Duration::from_secs(3)),
            // A transaction lasts twice as long at most, and those that claim a key must be over well within ten minutes
            // (the migration `keys`).
            statement_timeout: self.duration("PAYGAUGE_DB_STATEMENT_SECONDS", second, 60, Duration::from_secs(10)),
            lock_timeout: self.duration("PAYGAUGE_DB_LOCK_SECONDS", second, 600, Duration::from_secs(5)),
            root_cert_file: self.text("PAYGAUGE_DB_ROOT_CERT").map(PathBuf::from),
        }
    }

    fn connections_max(&mut self) -> u32 {
        let count = self.parsed("PAYGAUGE_DB_CONNECTIONS_MAX", 16);
        if !(2..=500).contains(&count) {
            self.mistakes.push(format!("PAYGAUGE_DB_CONNECTIONS_MAX is not from 2 to 500: {count}"));
        }
        count
    }

    pub(super) fn toss(&mut self, environment: Option<Environment>) -> TossConfig {
        let secret = self.required("TOSS_SECRET_KEY", "the shop's secret key, test_sk_… or live_sk_…");
        let base_url = self.text("TOSS_BASE_URL").unwrap_or_else(|| "https://api.tosspayments.com".to_owned());
        self.guard_key(environment, &secret);
        let secure = base_url.starts_with("https://");
        if environment == Some(Environment::Production) && !secure {
            self.mistakes.push("TOSS_BASE_URL must be https in production".to_owned());
        } else if !secure && !base_url.starts_with("http://") {
            self.mistakes.push(format!("TOSS_BASE_URL is not a web address: {base_url:?}"));
        }
        let seconds = Duration::from_secs;
        TossConfig {
            base_url,
            secret_key: SecretString::from(secret),
            m_id: self.text("TOSS_MID"),
            connect_timeout: self.duration("TOSS_CONNECT_TIMEOUT_SECONDS", seconds(1), 60, seconds(3)),
            confirm_timeout: self.duration("TOSS_CONFIRM_TIMEOUT_SECONDS", seconds(1), 120, seconds(30)),
            cancel_timeout: self.duration("TOSS_CANCEL_TIMEOUT_SECONDS", seconds(1), 120, seconds(30)),
            inquiry_timeout: self.duration("TOSS_INQUIRY_TIMEOUT_SECONDS", seconds(1), 120, seconds(10)),
        }
    }

    /// Real keys stay out of tests, and test keys out of production.
    fn guard_key(&mut self, environment: Option<Environment>, secret: &str) {
        let (is_live, is_test) = (secret.starts_with("live_"), secret.starts_with("test_"));
        match environment {
            Some(Environment::Production) if is_test => {
                self.mistakes.push("TOSS_SECRET_KEY is a test key: production takes no real money with it".to_owned());
            }
            Some(environment @ (Environment::Test | Environment::Development)) if is_live => {
                self.mistakes.push(format!(
                    "TOSS_SECRET_KEY is a live key: PAYGAUGE_ENV={} must not take real money",
                    environment.as_str()
                ));
            }
            Some(_) | None => {
                if !secret.is_empty() && !is_live && !is_test {
                    self.mistakes.push("TOSS_SECRET_KEY starts with neither live_ nor test_".to_owned());
                }
            }
        }
        let client_keys = ["live_ck_", "test_ck_", "live_gck_", "test_gck_"];
        if client_keys.iter().any(|prefix| secret.starts_with(prefix)) {
            self.mistakes.push("TOSS_SECRET_KEY is a client key; the secret key is needed here".to_owned());
        }
    }

    pub(super) fn token_secrets(&mut self) -> Vec<SecretString> {
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

    pub(super) fn cors_origins(&mut self) -> Vec<String> {
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

    pub(super) fn log_format(&mut self) -> LogFormat {
        match self.text("PAYGAUGE_LOG_FORMAT").as_deref() {
            None | Some("json") => LogFormat::Json,
            Some("human") => LogFormat::Human,
            Some(other) => {
                self.mistakes.push(format!("PAYGAUGE_LOG_FORMAT is {other:?}; it can be json or human"));
                LogFormat::Json
            }
        }
    }

    /// The policies, with every wait that follows from the PG's timeouts long enough for them.
    pub(super) fn settings(&mut self, toss: &TossConfig) -> Settings {
        let base = Settings::default();
        let second = Duration::from_secs(1);
        let longest = toss.confirm_timeout.max(toss.cancel_timeout).max(toss.inquiry_timeout);
        let call = longest + Duration::from_secs(2);
        let day = 24 * 60 * 60;
        let settings = Settings {
            hold: self.duration("PAYGAUGE_HOLD_SECONDS", second, day, base.hold),
            checkout_token_life: self.duration("PAYGAUGE_TOKEN_SECONDS", second, 7 * day, base.checkout_token_life),
            buyer_cancel: self.buyer_cancel(),
            provider_deadline: call,
            provider_limits: self.provider_limits(),
            idempotency_lease: base.idempotency_lease.max(call * 2),
            worker_lease: base.worker_lease.max(call * 3),
            not_found_quarantine: base.not_found_quarantine.max(call * 3),
            drain: self.drain(base.drain),
            shutdown_grace: base.shutdown_grace.max(call + Duration::from_secs(5)),
            external_cancel_stock: self.external_cancel_stock(),
            reconcile_every: self.duration("PAYGAUGE_RECONCILE_SECONDS", second, day, base.reconcile_every),
            reconcile_settle: self.duration("PAYGAUGE_RECONCILE_SETTLE_SECONDS", second, day, base.reconcile_settle),
            worker_poll: self.duration("PAYGAUGE_WORKER_POLL_MS", Duration::from_millis(1), 60_000, base.worker_poll),
            audit: self.audit(),
            rates: self.rates(base.rates),
            catalogue_life: self.millis_or_off("PAYGAUGE_CATALOGUE_CACHE_MS", 60_000, base.catalogue_life),
            sold_out_life: self.millis_or_off("PAYGAUGE_SOLD_OUT_MS", 10_000, base.sold_out_life),
            orders_together: self.count("PAYGAUGE_ORDERS_TOGETHER", 64, base.orders_together),
            event_streams_max: self.count("PAYGAUGE_EVENT_STREAMS_MAX", 3_500, base.event_streams_max),
            event_stream_life: self.duration("PAYGAUGE_EVENT_STREAM_SECONDS", second, 3_600, base.event_stream_life),
            ..base
        };
        self.mistakes.extend(settings.mistakes());
        settings
    }

    /// The one duration that may be none.
    fn drain(&mut self, default: Duration) -> Duration {
        let seconds = self.parsed("PAYGAUGE_DRAIN_SECONDS", default.as_secs());
        if seconds > DRAIN_MAX_S {
            self.mistakes.push(format!("PAYGAUGE_DRAIN_SECONDS is not from 0 to {DRAIN_MAX_S}: {seconds}"));
        }
        Duration::from_secs(seconds.min(DRAIN_MAX_S))
    }

    fn provider_limits(&mut self) -> Limits {
        let base = Limits::default();
        let second = Duration::from_secs(1);
        Limits {
            caller_calls_max: self.count("TOSS_CALLS_MAX", 10_000, base.caller_calls_max),
            background_calls_max: self.count("TOSS_RECOVERY_CALLS_MAX", 1_000, base.background_calls_max),
            breaker: BreakerRules {
                failures: self.count("TOSS_BREAKER_FAILURES", FAILURES_REMEMBERED_MAX, base.breaker.failures),
                open: self.duration("TOSS_BREAKER_OPEN_SECONDS", second, 600, base.breaker.open),
            },
            ..base
        }
    }

    /// Milliseconds from 1 to `most`, or `off` for none.
    fn millis_or_off(&mut self, name: &str, most: u32, default: Duration) -> Duration {
        match self.text(name).as_deref() {
            Some("off") => Duration::ZERO,
            Some(_) | None => self.duration(name, Duration::from_millis(1), most, default),
        }
    }

    /// A number of things, from 1 to `most`.
    fn count(&mut self, name: &str, most: u32, default: u32) -> u32 {
        let count = self.parsed(name, default);
        if (1..=most).contains(&count) {
            return count;
        }
        self.mistakes.push(format!("{name} is not from 1 to {most}: {count}"));
        default
    }

    /// When the auditor runs, and what it calls stuck.
    pub(super) fn audit(&mut self) -> AuditSettings {
        let base = AuditSettings::default();
        let (second, day, month) = (Duration::from_secs(1), 24 * 60 * 60, 30 * 24 * 60 * 60);
        AuditSettings {
            interval: self.duration("PAYGAUGE_AUDIT_SECONDS", second, day, base.interval),
            full_interval: self.duration("PAYGAUGE_AUDIT_FULL_SECONDS", second, month, base.full_interval),
            stuck_intent: self.duration("PAYGAUGE_AUDIT_STUCK_INTENT_SECONDS", second, month, base.stuck_intent),
            stuck_deposit: self.duration("PAYGAUGE_AUDIT_STUCK_DEPOSIT_SECONDS", second, month, base.stuck_deposit),
            stuck_hold: self.duration("PAYGAUGE_AUDIT_STUCK_HOLD_SECONDS", second, month, base.stuck_hold),
            stuck_webhook: self.duration("PAYGAUGE_AUDIT_STUCK_WEBHOOK_SECONDS", second, month, base.stuck_webhook),
            ..base
        }
    }

    /// How many requests a caller may make.
    pub(super) fn rates(&mut self, base: Rates) -> Rates {
        Rates {
            key_orders: self.budget("PAYGAUGE_RATE_KEY_ORDERS", base.key_orders),
            key_payments: self.budget("PAYGAUGE_RATE_KEY_PAYMENTS", base.key_payments),
            key_reads: self.budget("PAYGAUGE_RATE_KEY_READS", base.key_reads),
            order_payments: self.budget("PAYGAUGE_RATE_ORDER_PAYMENTS", base.order_payments),
            order_reads: self.budget("PAYGAUGE_RATE_ORDER_READS", base.order_reads),
            address_orders: self.budget("PAYGAUGE_RATE_ADDRESS_ORDERS", base.address_orders),
            address_payments: self.budget("PAYGAUGE_RATE_ADDRESS_PAYMENTS", base.address_payments),
            address_reads: self.budget("PAYGAUGE_RATE_ADDRESS_READS", base.address_reads),
            address_webhooks: self.budget("PAYGAUGE_RATE_ADDRESS_WEBHOOKS", base.address_webhooks),
        }
    }

    /// `requests/seconds`, or `off`.
    fn budget(&mut self, name: &str, default: Option<Budget>) -> Option<Budget> {
        let Some(text) = self.text(name) else { return default };
        if text == "off" {
            return None;
        }
        let budget = Budget::parse(&text);
        if budget.is_none() {
            let (requests, seconds) = (Budget::REQUESTS_MAX, Budget::WINDOW_S_MAX);
            self.mistakes.push(format!(
                "{name} is neither off nor requests/seconds, up to {requests}/{seconds}, e.g. 600/60: {text:?}"
            ));
        }
        budget
    }

    pub(super) fn trusted_proxies(&mut self) -> Proxies {
        let text = self.text("PAYGAUGE_TRUSTED_PROXIES").unwrap_or_default();
        Proxies::parse(&text).unwrap_or_else(|word| {
            self.mistakes
                .push(format!("PAYGAUGE_TRUSTED_PROXIES: {word:?} is no address and no network like 10.0.0.0/8"));
            Proxies::default()
        })
    }

    /// The value may hold a password: no mistake quotes it.
    pub(super) fn redis(&mut self) -> Option<RedisConfig> {
        let deadline = self.duration("PAYGAUGE_REDIS_DEADLINE_MS", Duration::from_millis(1), 1_000, REDIS_DEADLINE);
        let url = self.text("REDIS_URL")?;
        if let Err(error) = redis::check_url(&url) {
            self.mistakes.push(format!("REDIS_URL: {error}"));
        }
        Some(RedisConfig { url: SecretString::from(url), deadline })
    }

    /// Where a test wants this process to die. Only builds with the feature `dev` can, and never with real money.
    pub(super) fn crash(&mut self, environment: Option<Environment>) -> CrashSwitch {
        let switch = CrashSwitch::default();
        let Some(text) = self.text("PAYGAUGE_CRASH_AT") else { return switch };
        #[cfg(feature = "dev")]
        if environment == Some(Environment::Test)
            && let Some(plan) = crate::crash::CrashPlan::parse(&text)
        {
            switch.arm(plan);
            return switch;
        }
        self.mistakes.push(format!(
            "PAYGAUGE_CRASH_AT is for tests of builds with the feature dev only: {text:?} {environment:?}"
        ));
        switch
    }

    /// What a benchmark leaves out of telemetry. Like `crash`, never with real money.
    pub(super) fn telemetry(&mut self, environment: Option<Environment>) -> Parts {
        let Some(text) = self.text("PAYGAUGE_TELEMETRY") else { return Parts::ALL };
        let parts = Parts::parse(&text).filter(|_| cfg!(feature = "dev") && environment == Some(Environment::Test));
        parts.unwrap_or_else(|| {
            self.mistakes.push(format!(
                "PAYGAUGE_TELEMETRY is for benchmarks of builds with the feature dev only: {text:?} {environment:?}"
            ));
            Parts::ALL
        })
    }

    pub(super) fn traces(&mut self) -> TracesConfig {
        let otlp_endpoint = self.otlp_endpoint();
        let protocol = self.text("OTEL_EXPORTER_OTLP_PROTOCOL").unwrap_or_else(|| "http/protobuf".to_owned());
        let otlp_protocol = protocol.parse().unwrap_or_else(|()| {
            self.mistakes.push(format!("OTEL_EXPORTER_OTLP_PROTOCOL is {protocol:?}; it can be http/protobuf or grpc"));
            OtlpProtocol::default()
        });
        let keep_ratio = self.parsed("PAYGAUGE_TRACE_KEEP_RATIO", TRACE_KEEP_RATIO);
        if !(0.0..=1.0).contains(&keep_ratio) {
            self.mistakes.push(format!("PAYGAUGE_TRACE_KEEP_RATIO is not from 0 to 1: {keep_ratio}"));
        }
        TracesConfig { otlp_endpoint, otlp_protocol, keep_ratio }
    }

    fn otlp_endpoint(&mut self) -> Option<String> {
        let endpoint = self.text("OTEL_EXPORTER_OTLP_ENDPOINT")?;
        let host = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
        if host.is_none_or(|host| host.is_empty() || host.starts_with('/') || host.contains(char::is_whitespace)) {
            self.mistakes
                .push(format!("OTEL_EXPORTER_OTLP_ENDPOINT: {endpoint:?} is not http://host:port or https://…"));
        }
        Some(endpoint)
    }

    pub(super) fn log_filter(&mut self) -> String {
        let filter = self.text("PAYGAUGE_LOG").unwrap_or_else(|| "info".to_owned());
        if let Err(error) = telemetry::check_log_filter(&filter) {
            self.mistakes.push(format!("PAYGAUGE_LOG: {error}"));
        }
        filter
    }

    fn external_cancel_stock(&mut self) -> ExternalCancelStock {
        match self.text("PAYGAUGE_EXTERNAL_CANCEL_STOCK").as_deref() {
            None | Some("restore") => ExternalCancelStock::Restore,
            Some("hold") => ExternalCancelStock::Hold,
            Some(other) => {
                self.mistakes.push(format!("PAYGAUGE_EXTERNAL_CANCEL_STOCK is {other:?}; it can be restore or hold"));
                ExternalCancelStock::Restore
            }
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
