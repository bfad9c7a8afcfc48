//! The HTTP edge.

pub mod middleware;
