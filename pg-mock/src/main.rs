//! The fake PG as a program: see [`pg_mock::program`].

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    pg_mock::program::run(std::env::args().skip(1)).await
}
