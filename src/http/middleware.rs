//! What every request passes.

pub mod telemetry;
