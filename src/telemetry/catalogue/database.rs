//! The metrics of the database as this process uses it, and of Redis beside it.

use metrics::{Counter, Gauge};

use super::{DB, Kind, LabelInfo, MetricInfo, Unit};
use crate::telemetry::family::{Family, FromZero};
use crate::telemetry::histogram::Histogram;
use crate::telemetry::labels::{
    CacheResult, Contention, Dependency, Label, LockResource, PoolConnectionState, RedisFailure, RedisFeature, Tx,
    TxResult,
};

catalogue! {
    DATABASE
    [
    Gauge POOL_CONNECTIONS = "db_client_connection_count" { state: PoolConnectionState } Count,
    from_zero FromZero::Never, "Connections of the database pool.";
    Gauge POOL_MAX = "db_client_connection_max" {} Count, from_zero FromZero::Never,
    "The most connections that the database pool opens.";
    Gauge POOL_PENDING = "db_client_connection_pending_requests" {} Count, from_zero FromZero::Never,
    "Callers waiting for a database connection now.";
    Histogram POOL_WAIT = "db_client_connection_wait_time_seconds" {} Seconds, buckets DB, from_zero FromZero::Every,
    "Time until a database connection was lent. Is the pool starved?";
    Counter POOL_TIMEOUTS = "db_client_connection_timeouts_total" {} Count, from_zero FromZero::Every,
    "Callers that never got a database connection.";
    Histogram TRANSACTION = "payments_db_transaction_duration_seconds" { tx: Tx, result: TxResult } Seconds,
    buckets DB, exemplars Span, from_zero FromZero::Never, "Time from begin to the end of a transaction. Which one is long?";
    Counter TRANSACTION_CONTENTION = "payments_db_transaction_contention_total" { tx: Tx, reason: Contention } Count,
    from_zero FromZero::Every, "Transactions that others made fail. A deadlock is a bug: locks have one order.";
    Counter TRANSACTION_RETRIES = "payments_db_transaction_retries_total" { tx: Tx } Count,
    from_zero FromZero::Every, "Resolutions tried again after a deadlock or a serialization failure.";
    Histogram LOCK_WAIT = "payments_db_lock_wait_seconds" { resource: LockResource } Seconds, buckets DB,
    from_zero FromZero::Every,
    "Time of statements that lock rows others may hold. Which rows are hot?";
    Gauge DEPENDENCY_UP = "payments_dependency_up" { dependency: Dependency } Count, from_zero FromZero::Never,
    "1 if a dependency answered when it was last asked, else 0. What is away?";
    Gauge DEPENDENCY_CHECKED = "payments_dependency_last_check_timestamp_seconds" { dependency: Dependency } Timestamp,
    from_zero FromZero::Never, "When a dependency was last asked.";
    Counter CACHE_READS = "payments_cache_reads_total" { result: CacheResult } Count, from_zero FromZero::Every,
    "Reads of the catalogue by buyers' pages, by where the answer came from. Does the cache keep them off the database?";
    Counter REDIS_FALLBACKS = "payments_redis_fallbacks_total" { feature: RedisFeature, reason: RedisFailure } Count,
    from_zero FromZero::Every, "What was done without Redis, and why. Does each process count for itself?";
    ]
    [
    ]
}
