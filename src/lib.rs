//! paygauge: an observability-first payments backend.
//!
//! Read `payments/` for what happens, `domain/` for what may happen, `http/` and `worker/` for who asks for it.

pub mod app;
pub mod cache;
pub mod clock;
pub mod config;
pub mod crash;
pub mod db;
#[cfg(feature = "dev")]
pub mod dev;
pub mod domain;
pub mod http;
pub mod limits;
#[cfg(feature = "dev")]
pub mod load;
pub mod news;
pub mod payments;
pub mod provider;
pub mod queues;
pub mod redis;
pub mod serve;
pub mod telemetry;
pub mod worker;
