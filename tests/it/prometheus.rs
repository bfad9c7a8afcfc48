//! Claims about the metrics as a real Prometheus reads them.

mod exemplars;
mod harness;
