//! Making connections: the pool, TLS, session settings and migrations.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use diesel::migration::MigrationSource;
use diesel::pg::Pg;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel::sql_types::{Bool, Text};
use diesel::{ConnectionError, QueryableByName};
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod, bb8};
use diesel_async::{AsyncConnection as _, AsyncMigrationHarness, RunQueryDsl, SimpleAsyncConnection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use futures_util::FutureExt;
use secrecy::{ExposeSecret, SecretString};

use super::statements::Watch;
use super::{Conn, DbError};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

/// A new connection is ready for its first statement within this, or given up: name, TCP, TLS, login, settings.
const DIAL_WITHIN: Duration = Duration::from_secs(5);
/// The kernel gives a connection up if what was sent is not acknowledged for so long…
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);
/// …and asks an idle one so often whether the other side is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// What the driver takes when the URL says nothing of it.
const KEEPALIVE_IDLE_OF_DRIVER: Duration = Duration::from_secs(2 * 60 * 60);

/// How to reach the database and how hard to use it.
#[derive(Debug, Clone)]
pub struct DbConfig {
    /// `postgres://…`; secret, since it may hold a password.
    pub url: SecretString,
    /// Connections at most.
    pub pool_connections_max: u32,
    /// How long a request waits for one.
    pub pool_wait: Duration,
    /// How long a statement may run.
    pub statement_timeout: Duration,
    /// How long a statement waits for a row.
    pub lock_timeout: Duration,
    /// A file of root certificates (PEM) to trust instead of the system's, for `sslmode=verify-ca` and `verify-full`.
    pub root_cert_file: Option<std::path::PathBuf>,
}

impl DbConfig {
    /// No transaction and no read lasts longer, whether the server answers or not: the server's own limits do not help
    /// while the network swallows its answers. Room for one statement that takes its time, and for what is around it.
    #[must_use]
    pub fn answer_within(&self) -> Duration {
        self.statement_timeout * 2
    }
}

/// What can be wrong before the first statement.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL cannot be read. The URL itself is not shown: it may hold a password.
    #[error("not a PostgreSQL URL: {0}")]
    Url(String),
    /// Certificates cannot be read.
    #[error("TLS: {0}")]
    Tls(String),
    /// No connection.
    #[error("cannot connect to the database: {0}")]
    Connect(String),
    /// A migration failed.
    #[error("migration failed: {0}")]
    Migration(String),
}

/// Whether a text can be used as a database's address. The text itself is not in the error: it may hold a password.
pub fn check_url(url: &str) -> Result<(), ConnectError> {
    parse(url).map(|_| ())
}

fn parse(url: &str) -> Result<(tokio_postgres::Config, tls::SslMode), ConnectError> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(ConnectError::Url("it does not begin with postgres://".to_owned()));
    }
    let (url, mode) = tls::split_sslmode(url);
    let config = url.parse().map_err(|error: tokio_postgres::Error| ConnectError::Url(reason(&error)))?;
    Ok((config, mode))
}

/// Makes the pool. The first connection is made on first use.
pub async fn pool(config: &DbConfig) -> Result<bb8::Pool<Conn>, ConnectError> {
    let dialer = Arc::new(Dialer::new(config)?);
    let mut manager = ManagerConfig::default();
    // `Db` tests a connection itself: by the beginning of a transaction where there is one.
    manager.recycling_method = RecyclingMethod::Fast;
    manager.custom_setup = Box::new(move |_| {
        let dialer = Arc::clone(&dialer);
        async move { dialer.dial().await.map_err(|error| ConnectionError::BadConnection(error.to_string())) }.boxed()
    });
    let manager = AsyncDieselConnectionManager::new_with_config(String::new(), manager);
    bb8::Pool::builder()
        .max_size(config.pool_connections_max)
        .test_on_check_out(false)
        .connection_timeout(config.pool_wait)
        .max_lifetime(Some(Duration::from_secs(30 * 60)))
        .build(manager)
        .await
        .map_err(|error| ConnectError::Connect(error.to_string()))
}

/// Whether a connection still answers. Bounded: else one whose other end fell silent costs each request its whole wait,
/// and is put back.
pub(super) async fn ping(conn: &mut Conn, within: Duration) -> Result<(), DieselError> {
    let silent = |_| {
        let words = "a connection of the pool does not answer any more".to_owned();
        DieselError::DatabaseError(DatabaseErrorKind::ClosedConnection, Box::new(words))
    };
    tokio::time::timeout(within, conn.batch_execute("select 1")).await.map_err(silent)?
}

/// One connection without diesel, for what diesel cannot say: COPY. It ends with its client.
#[cfg(feature = "dev")]
pub async fn client(config: &DbConfig) -> Result<tokio_postgres::Client, ConnectError> {
    let dialer = Dialer::new(config)?;
    let dialed = dialer.config.connect(dialer.tls.clone()).await;
    let (client, connection) = dialed.map_err(|error| ConnectError::Connect(reason(&error)))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::warn!(error = reason(&error), "a connection of its own was lost");
        }
    });
    client.batch_execute(&dialer.session).await.map_err(|error| ConnectError::Connect(reason(&error)))?;
    Ok(client)
}

/// Brings the schema up to this program's version. Needs a multi-threaded runtime.
pub async fn migrate(config: &DbConfig) -> Result<Vec<String>, ConnectError> {
    let conn = Dialer::new(config)?.dial().await?;
    let mut harness = AsyncMigrationHarness::new(conn);
    tokio::task::block_in_place(|| {
        harness
            .run_pending_migrations(MIGRATIONS)
            .map(|versions| versions.iter().map(ToString::to_string).collect())
            .map_err(|error| ConnectError::Migration(error.to_string()))
    })
}

/// Whether every migration of this program has been applied. Only reads, so a standby can be asked too.
pub async fn is_migrated(config: &DbConfig) -> Result<bool, ConnectError> {
    let wanted = wanted()?;
    let asked = async {
        let mut conn = Dialer::new(config)?.dial().await?;
        let applied = applied(&mut conn).await.map_err(|error| ConnectError::Migration(error.to_string()))?;
        Ok(wanted.iter().all(|version| applied.contains(version)))
    };
    let nothing = |_| ConnectError::Connect(format!("no answer within {:?}", config.answer_within()));
    tokio::time::timeout(config.answer_within(), asked).await.map_err(nothing)?
}

/// The versions that this program knows.
fn wanted() -> Result<Vec<String>, ConnectError> {
    let ours = MigrationSource::<Pg>::migrations(&MIGRATIONS);
    let ours = ours.map_err(|error| ConnectError::Migration(error.to_string()))?;
    Ok(ours.iter().map(|migration| migration.name().version().to_string()).collect())
}

/// The versions that the database has; none if nobody has ever migrated it.
async fn applied(conn: &mut Conn) -> Result<HashSet<String>, DieselError> {
    #[derive(QueryableByName)]
    struct Applied {
        #[diesel(sql_type = Text)]
        version: String,
    }
    // The name is diesel's.
    let exists = diesel::select(diesel::dsl::sql::<Bool>("to_regclass('__diesel_schema_migrations') is not null"));
    if !exists.get_result(conn).await? {
        return Ok(HashSet::new());
    }
    let query = diesel::sql_query("select version from __diesel_schema_migrations");
    Ok(query.load::<Applied>(conn).await?.into_iter().map(|row| row.version).collect())
}

/// Creates `name` in the cluster that `config` points at, unless it exists. For the development stack and tests.
pub async fn ensure_database(config: &DbConfig, name: &str, template: Option<&str>) -> Result<(), ConnectError> {
    let mut conn = Dialer::new(config)?.dial().await?;
    let quoted = |ident: &str| format!("\"{}\"", ident.replace('"', "\"\""));
    let template = template.map(|template| format!(" template {}", quoted(template))).unwrap_or_default();
    let created = conn.batch_execute(&format!("create database {}{template}", quoted(name))).await;
    match created {
        Ok(()) => Ok(()),
        Err(error) if error.to_string().contains("already exists") => Ok(()),
        Err(error) => Err(ConnectError::Connect(error.to_string())),
    }
}

/// Asks for messages in English, by which `DbError` tells contention apart. It takes a superuser or a role with the right
/// to set `lc_messages`; for others the database's own language stays.
const ENGLISH: &str = "do $$ begin perform set_config('lc_messages', 'C', false);
    exception when insufficient_privilege then null; end $$";

/// Knows how to make one connection: address, TLS and session settings.
struct Dialer {
    config: tokio_postgres::Config,
    tls: tokio_postgres_rustls::MakeRustlsConnect,
    session: String,
}

impl Dialer {
    fn new(config: &DbConfig) -> Result<Self, ConnectError> {
        let (mut parsed, mode) = parse(config.url.expose_secret())?;
        parsed.ssl_mode(mode.negotiation());
        parsed.connect_timeout(DIAL_WITHIN);
        parsed.application_name("paygauge");
        notice_silence(&mut parsed);
        // Compiling a statement (JIT) takes a second, and none of ours runs for one; over many partitions it is guessed to.
        let session = format!(
            "set statement_timeout = {}; set lock_timeout = {}; set idle_in_transaction_session_timeout = {}; set jit = off; {ENGLISH}",
            config.statement_timeout.as_millis(),
            config.lock_timeout.as_millis(),
            (config.statement_timeout * 2).as_millis(),
        );
        let tls = tls::connector(mode, config.root_cert_file.as_deref())?;
        Ok(Self { config: parsed, tls, session })
    }

    /// The driver bounds TCP's part only; a server that accepts and then says nothing must not keep us either.
    async fn dial(&self) -> Result<Conn, ConnectError> {
        let silent = |_| ConnectError::Connect(format!("no answer within {} s", DIAL_WITHIN.as_secs()));
        tokio::time::timeout(DIAL_WITHIN, self.dial_patiently()).await.map_err(silent)?
    }

    async fn dial_patiently(&self) -> Result<Conn, ConnectError> {
        let (client, connection) =
            self.config.connect(self.tls.clone()).await.map_err(|error| ConnectError::Connect(reason(&error)))?;
        let mut conn = Conn::try_from_client_and_connection(client, connection)
            .await
            .map_err(|error| ConnectError::Connect(error.to_string()))?;
        conn.batch_execute(&self.session).await.map_err(|error| ConnectError::Connect(error.to_string()))?;
        told_in_english(&mut conn).await?;
        conn.set_instrumentation(Watch::default());
        Ok(conn)
    }
}

/// Lets the kernel find out that the other side is gone, unless the URL says how.
fn notice_silence(config: &mut tokio_postgres::Config) {
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(UNACKNOWLEDGED_MAX);
    }
    if config.get_keepalives_idle() == KEEPALIVE_IDLE_OF_DRIVER {
        config.keepalives_idle(KEEPALIVE_IDLE).keepalives_interval(KEEPALIVE_INTERVAL);
    }
}

/// Warns once if the server's messages are in another language, for then a wait for others that was given up is shown
/// as a fault of ours.
async fn told_in_english(conn: &mut Conn) -> Result<(), ConnectError> {
    static WARNED: std::sync::Once = std::sync::Once::new();
    let asked = diesel::select(diesel::dsl::sql::<Text>("current_setting('lc_messages')"));
    let language: String = asked.get_result(conn).await.map_err(|error| ConnectError::Connect(error.to_string()))?;
    if !is_english(&language) {
        WARNED.call_once(|| {
            tracing::warn!(
                lc_messages = language,
                "deadlocks and lock timeouts cannot be told apart: grant set on parameter lc_messages to this role"
            );
        });
    }
    Ok(())
}

fn is_english(language: &str) -> bool {
    // Without a language the server speaks its own: English.
    let untranslated =
        language.is_empty() || ["C", "POSIX"].iter().any(|name| language.split('.').next() == Some(name));
    untranslated || language.to_ascii_lowercase().starts_with("en")
}

impl From<ConnectError> for DbError {
    fn from(error: ConnectError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// The error with its causes, which tokio-postgres leaves out of its own text.
fn reason(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

mod tls;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_speaks_english_unless_it_was_told_otherwise() {
        for english in ["C", "C.UTF-8", "POSIX", "", "en_US.UTF-8", "en_GB", "English_United States.1252"] {
            assert!(is_english(english), "{english}");
        }
        for other in ["ko_KR.UTF-8", "de_DE", "Korean_Korea.949"] {
            assert!(!is_english(other), "{other}");
        }
    }
}
