//! Claims about the running whole, through its public door: the API over HTTP, a real PostgreSQL, pg-mock over HTTP.
//!
//! One binary, one cluster, one database per test. Every scenario ends with `invariants::hold`, which compares three
//! books: our rows, the stock, and what the PG took.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected must end there"
)]

mod support;

mod alerts;
mod audit;
mod auth;
mod bad_input;
mod cache;
mod canary;
mod cancel;
mod chaos;
mod collisions;
mod concurrency;
mod confirm;
mod contract;
mod crash_points;
mod dashboards;
mod database_tls;
mod documents;
mod drills;
mod explain;
mod growth;
mod histories;
mod hot_item;
mod limits;
mod live;
mod load;
mod metrics;
mod ops;
mod orders;
mod panels;
mod process;
mod process_kill;
mod prometheus;
mod protection;
mod races;
mod reconcile;
mod replicas;
mod series;
mod sold_out;
mod telemetry;
mod tidy;
mod traces;
mod trips;
mod virtual_account;
mod webhooks;
