//! Redis, where one is configured: a helper that may be gone at any moment, and never holds the truth.
//!
//! Owns the one connection (requests share it, their commands travel together) and knows whether it is worth asking. A
//! request never connects and never waits for longer than the deadline; after one failure nobody asks any more, until
//! the check, every two seconds, has found Redis to be well. Whoever asks says what is done without: there is always
//! such a thing. Every `None` is counted, every change of state is one log line.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError, RedisResult};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::telemetry::labels::{Dependency, RedisFailure, RedisFeature};
use crate::telemetry::record;

/// How often Redis is looked at, whether it was well or not.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// A connection that takes longer is given up; only the check ever waits for it.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
const NO_ANSWER: &str = "no answer in time";
const CHECK_KEY: &str = "paygauge:check";
const CHECK_KEY_LIFE_MS: u64 = 60_000;

/// Where Redis is, and how long it may take.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// `redis://…`, `rediss://…` or `redis+unix://…`, with its password.
    pub url: SecretString,
    /// How long a request waits for an answer.
    pub deadline: Duration,
}

/// The text is no address of a Redis. Says nothing of it, since it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not redis://[user:password@]host[:port][/database], rediss://… or redis+unix:///path[?db=…]")]
pub struct NoRedisUrl;

/// Whether this can be the address of a Redis.
///
/// # Errors
/// If not.
pub fn check_url(url: &str) -> Result<(), NoRedisUrl> {
    Client::open(url).map(drop).map_err(|_| NoRedisUrl)
}

/// A Redis that may be away.
pub struct Redis {
    client: Client,
    deadline: Duration,
    state: RwLock<State>,
    /// It answers, but with errors; told once.
    is_erring: AtomicBool,
    /// There was an error since the last check.
    has_erred: AtomicBool,
}

/// What is known about it.
#[derive(Clone)]
enum State {
    /// Nobody has looked yet.
    New,
    /// It answered when it was last asked; `round` counts how often it came up.
    Up { connection: MultiplexedConnection, round: u64 },
    /// It is not asked.
    Away { reason: RedisFailure, round: u64 },
}

impl State {
    const fn round(&self) -> u64 {
        match self {
            Self::New => 0,
            Self::Up { round, .. } | Self::Away { round, .. } => *round,
        }
    }
}

impl Redis {
    /// A Redis at this address. Nothing is asked before [`check`](Self::check).
    ///
    /// # Errors
    /// If the address cannot be one.
    pub fn new(config: &RedisConfig) -> Result<Self, NoRedisUrl> {
        Ok(Self {
            client: Client::open(config.url.expose_secret()).map_err(|_| NoRedisUrl)?,
            deadline: config.deadline,
            state: RwLock::new(State::New),
            is_erring: AtomicBool::new(false),
            has_erred: AtomicBool::new(false),
        })
    }

    /// Why it is not asked now, if it is not.
    #[must_use]
    pub fn away_because(&self) -> Option<RedisFailure> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Up { .. } => None,
            State::New => Some(RedisFailure::Unreachable),
            State::Away { reason, .. } => Some(*reason),
        }
    }

    /// Asks `question`, within the deadline. `None` means: do without, at once.
    pub async fn ask<T>(
        &self,
        feature: RedisFeature,
        question: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> Option<T> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner).clone();
        let failure = match state {
            State::New => RedisFailure::Unreachable,
            State::Away { reason, .. } => reason,
            State::Up { mut connection, round } => match timeout(self.deadline, question(&mut connection)).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => self.failed(failure_of(&error), round, &cause_of(&error)),
                Err(_) => self.failed(RedisFailure::Slow, round, NO_ANSWER),
            },
        };
        record::redis_fallback(feature, failure);
        None
    }

    /// The number of its database.
    #[must_use]
    pub fn database(&self) -> i64 {
        self.client.get_connection_info().redis_settings().db()
    }

    /// The messages of a channel from now on, over a connection of their own; they end when that breaks. `None` while
    /// Redis is away.
    pub async fn subscribe(&self, channel: &str) -> Option<impl Stream<Item = String> + Unpin + use<>> {
        if self.away_because().is_some() {
            return None;
        }
        let subscribed = timeout(CONNECT_WITHIN, async {
            let mut connection = self.client.get_async_pubsub().await?;
            connection.subscribe(channel).await?;
            RedisResult::Ok(connection.into_on_message())
        });
        let messages = subscribed.await.ok()?.ok()?;
        Some(messages.map(|message| message.get_payload().unwrap_or_default()))
    }

    /// Looks at Redis every few seconds, until `stop`.
    pub async fn watch(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(CHECK_EVERY) => self.check().await,
            }
        }
    }

    /// Looks whether Redis takes a write and answers in time, over a new connection if it was away.
    pub async fn check(&self) {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner).clone();
        let (round, checked) = match state {
            State::Up { connection, round } => (round, self.try_out(connection).await),
            State::New | State::Away { .. } => {
                let connected = match self.connect().await {
                    Ok(connection) => self.try_out(connection).await,
                    Err(failure) => Err(failure),
                };
                (state.round(), connected)
            }
        };
        let is_up = checked.is_ok();
        match checked {
            Ok(connection) => self.is_well(connection),
            Err((failure, cause)) => self.is_away(failure, round, &cause),
        }
        // After the state: what the metric says is so.
        record::dependency(Dependency::Redis, is_up, clock::now());
    }

    async fn connect(&self) -> Result<MultiplexedConnection, (RedisFailure, String)> {
        // Our own timeouts bound every call.
        let options = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let connecting = self.client.get_multiplexed_async_connection_with_config(&options);
        match timeout(CONNECT_WITHIN, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err((failure_of(&error), cause_of(&error))),
            Err(_) => Err((RedisFailure::Slow, "no connection in time".to_owned())),
        }
    }

    async fn try_out(
        &self,
        mut connection: MultiplexedConnection,
    ) -> Result<MultiplexedConnection, (RedisFailure, String)> {
        let mut write = redis::cmd("SET");
        write.arg(CHECK_KEY).arg(1).arg("PX").arg(CHECK_KEY_LIFE_MS);
        match timeout(self.deadline, write.query_async::<()>(&mut connection)).await {
            Ok(Ok(())) => Ok(connection),
            Ok(Err(error)) => Err((failure_of(&error), cause_of(&error))),
            Err(_) => Err((RedisFailure::Slow, NO_ANSWER.to_owned())),
        }
    }

    /// A question failed. An error that Redis answers with costs no time and may concern that question alone, so that
    /// it is asked again the next time.
    fn failed(&self, failure: RedisFailure, round: u64, cause: &str) -> RedisFailure {
        match failure {
            RedisFailure::Unreachable | RedisFailure::Slow => self.is_away(failure, round, cause),
            RedisFailure::Error => {
                self.has_erred.store(true, Ordering::Relaxed);
                if !self.is_erring.swap(true, Ordering::Relaxed) {
                    tracing::warn!(cause, "Redis answers with errors: what fails is done without it");
                }
            }
        }
        failure
    }

    /// Nobody asks from now on. Failures of an earlier connection than the present one say nothing.
    fn is_away(&self, reason: RedisFailure, round: u64, cause: &str) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Up { round: present, .. } if *present != round => return,
            State::Away { .. } => {}
            State::New | State::Up { .. } => {
                tracing::warn!(%reason, cause, "Redis is away: this process does without it until it is back");
            }
        }
        *state = State::Away { reason, round: state.round() };
    }

    fn is_well(&self, connection: MultiplexedConnection) {
        if !self.has_erred.swap(false, Ordering::Relaxed) && self.is_erring.swap(false, Ordering::Relaxed) {
            tracing::info!("Redis answers without errors again");
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let round = state.round() + 1;
        match &*state {
            State::Up { .. } => return,
            State::New => tracing::info!("Redis is there"),
            State::Away { .. } => tracing::info!("Redis is back"),
        }
        *state = State::Up { connection, round };
    }
}

/// The kind of an error, without its words: those may hold whatever a server or a proxy likes to say.
fn cause_of(error: &RedisError) -> String {
    let kind = format!("{:?}", error.kind());
    error.code().map_or(kind, str::to_owned)
}

fn failure_of(error: &RedisError) -> RedisFailure {
    if error.is_timeout() {
        RedisFailure::Slow
    } else if error.is_io_error() || error.is_connection_dropped() || error.is_connection_refusal() {
        RedisFailure::Unreachable
    } else {
        RedisFailure::Error
    }
}
