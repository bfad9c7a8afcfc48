//! paygauge: an observability-first payments backend.
//!
//! Read `payments/` for what happens, `domain/` for what may happen, `http/` and `worker/` for who asks for it.

pub mod domain;
pub mod provider;
