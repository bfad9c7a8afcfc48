//! The fake PG as a program: prints its URL and serves until it is told to stop.
//!
//! `pg-mock [--listen ADDR] [--webhook-url URL] [--state-file FILE] [--lean]`. Refuses what it does not know. Called by
//! the program of this name, and by others that carry it along.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::{Options, PgMock};

const USAGE: &str = "usage: pg-mock [--listen ADDR] [--webhook-url URL] [--state-file FILE] [--lean]";

/// Runs the program with the words of its command line.
pub async fn run(words: impl Iterator<Item = String>) -> ExitCode {
    let options = match options(words) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("pg-mock: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match serve(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pg-mock: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `None` when only help was asked for.
fn options(mut words: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut options = Options::default();
    while let Some(word) = words.next() {
        if matches!(word.as_str(), "-h" | "--help") {
            return Ok(None);
        }
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--listen" => {
                let text = value()?;
                options.listen = text.parse().map_err(|error| format!("{text}: {error}"))?;
            }
            "--webhook-url" => {
                let text = value()?;
                url::Url::parse(&text).map_err(|error| format!("{text}: {error}"))?;
                options.webhook_url = Some(text);
            }
            "--lean" => options.lean = true,
            "--state-file" => options.state_file = Some(value()?.into()),
            unknown => return Err(format!("{unknown} is not an option")),
        }
    }
    Ok(Some(options))
}

async fn serve(options: Options) -> io::Result<()> {
    let pg = PgMock::start(options).await?;
    let mut out = io::stdout();
    writeln!(out, "{}", pg.url())?;
    out.flush()?;
    stop_signal().await
}

#[cfg(unix)]
async fn stop_signal() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => interrupted,
    }
}

#[cfg(not(unix))]
async fn stop_signal() -> io::Result<()> {
    tokio::signal::ctrl_c().await
}
