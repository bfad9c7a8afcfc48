//! Claims about the metrics as a real Prometheus reads them.

mod harness;
