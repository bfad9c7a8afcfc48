//! Holds the fake PG to the documented API: what it answers, what it remembers, what it tells the
//! shop on its own, and what each scripted misbehaviour does to the book.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected must end there"
)]

mod api;
mod behaviour;
mod cancel;
mod control;
mod idempotency;
mod lean;
mod shop;
mod virtual_account;
mod webhooks;
mod window;
