//! The Toss Payments adapter.
