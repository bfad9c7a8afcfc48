//! `paygauge load`: parses what a load run is told. Ends with 0 if the proof holds, 1 if not, 2 if it could not run.
//! `paygauge load seed` fills a database instead; 0 when it is full.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use paygauge::config;
use paygauge::load::options::{Extent, Given, LoadOptions, OwnOptions, Pace, Scenario, Shares, Where};
use paygauge::load::seed::SeedOptions;

/// It could not run to its end.
const COULD_NOT_RUN: u8 = 2;

/// What the load is, how it is driven, and against what.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct LoadArgs {
    #[command(subcommand)]
    instead: Option<Instead>,
    /// order, order-confirm, flow, browse, replay, webhooks, flash-sale or mixed.
    #[arg(value_parser = scenario, required = true)]
    scenario: Option<Scenario>,
    /// Closed loop: so many buyers, each beginning again when it is done.
    #[arg(long, value_name = "N", default_value_t = 16, conflicts_with = "rate")]
    clients: u32,
    /// Open loop: so many turns per second, latency counted from the intended start.
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Open loop: turns that may be unfinished at a time; more are not begun and counted as overflow.
    #[arg(long, value_name = "N", default_value_t = 512, requires = "rate")]
    in_flight: u32,
    /// Unmeasured seconds before.
    #[arg(long, value_name = "SECONDS", default_value_t = 3)]
    warm_up: u64,
    /// Measured seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 20, conflicts_with = "requests")]
    duration: u64,
    /// Measured turns, instead of a duration.
    #[arg(long, value_name = "N")]
    requests: Option<u64>,
    /// Products to spread the orders over; a flash sale has one.
    #[arg(long, value_name = "N", default_value_t = 200)]
    products: u32,
    /// Units of each product.
    #[arg(long, value_name = "UNITS", default_value_t = 1_000_000)]
    stock: u32,
    /// mixed: percent of confirms that are declined.
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0)]
    declines: f64,
    /// mixed: percent of confirms that the PG answers too late.
    #[arg(long, value_name = "PERCENT", default_value_t = 0.5)]
    timeouts: f64,
    /// mixed: percent of confirms whose connection is cut.
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0)]
    unknowns: f64,
    /// How many seconds the proof waits until nothing is undecided.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    settle: u64,
    #[command(flatten)]
    target: TargetArgs,
    /// Write the report as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report as one self-contained page.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// What is done instead of a run.
#[derive(Subcommand)]
enum Instead {
    /// Fill the database of DATABASE_URL with months of history that obeys every rule of the audit, by COPY.
    Seed(SeedArgs),
}

#[derive(Args)]
struct SeedArgs {
    /// Orders, all of them ended: about 5 events, 2 lines and 1 idempotency key each.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    orders: u64,
    /// Products that they are of; the first are bought most.
    #[arg(long, value_name = "N", default_value_t = 200)]
    products: u32,
    /// Days that they are spread over; the last of them is four days ago.
    #[arg(long, value_name = "DAYS", default_value_t = 180)]
    days: u32,
}

/// Without these: a server, a durable database (or that of DATABASE_URL) and a pg-mock of the run's own.
#[derive(Args)]
struct TargetArgs {
    /// A running API, e.g. that of `cargo run`, or behind a proxy. DATABASE_URL lets the proof see its database.
    #[arg(long, requires = "key", requires = "mock_url")]
    url: Option<String>,
    /// A secret key of it.
    #[arg(long, requires = "url")]
    key: Option<String>,
    /// Who vouches for the certificate of an https address, as PEM; if not said, whom the system trusts.
    #[arg(long, value_name = "FILE", requires = "url")]
    ca_file: Option<PathBuf>,
    /// Its pg-mock.
    #[arg(long, requires = "url")]
    mock_url: Option<String>,
    /// Its server process, to measure CPU and memory; may be given more than once.
    #[arg(long, value_name = "PID", requires = "url")]
    server_pid: Vec<u32>,
    /// Its pg-mock process.
    #[arg(long, value_name = "PID", requires = "url")]
    mock_pid: Vec<u32>,
    /// Where the run's own database and server log live and stay; a temporary directory if not said.
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    data_dir: Option<PathBuf>,
    /// A variable of the run's own server, e.g. PAYGAUGE_DB_CONNECTIONS_MAX=32; may be given more than once.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = variable, conflicts_with = "url")]
    server_vars: Vec<(String, String)>,
    /// Have the run's own pg-mock send webhooks about every change.
    #[arg(long, conflicts_with = "url")]
    pg_webhooks: bool,
    /// Have the run's own pg-mock serve as in tests, one request at a time.
    #[arg(long, conflicts_with = "url")]
    wiremock: bool,
}

fn scenario(text: &str) -> Result<Scenario, String> {
    Scenario::parse(text).ok_or_else(|| {
        let known: Vec<&str> = Scenario::ALL.iter().map(|scenario| scenario.as_str()).collect();
        format!("one of {}", known.join(", "))
    })
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Runs it.
pub fn run(args: LoadArgs) -> ExitCode {
    let done = match (&args.instead, args.scenario) {
        (Some(Instead::Seed(seed)), _) => fill(seed).map(|()| true),
        (None, Some(scenario)) => paygauge::load::run(&options(args, scenario)),
        (None, None) => Err(anyhow::anyhow!("say which scenario, or seed")),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("paygauge: {error:#}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

fn fill(args: &SeedArgs) -> anyhow::Result<()> {
    let database = config::database_from_env().map_err(|mistakes| anyhow::anyhow!(mistakes.join("\n  - ")))?;
    let SeedArgs { orders, products, days } = *args;
    paygauge::load::seed::run(&database, SeedOptions { orders, products, days })
}

fn options(args: LoadArgs, scenario: Scenario) -> LoadOptions {
    let TargetArgs { url, key, ca_file, mock_url, server_pid, mock_pid, data_dir, server_vars, pg_webhooks, wiremock } =
        args.target;
    let target = match (url, key, mock_url) {
        (Some(url), Some(key), Some(mock_url)) => Where::Given(Given {
            url,
            key: key.into(),
            ca_file,
            mock_url,
            server_pids: server_pid,
            mock_pids: mock_pid,
        }),
        _ => Where::Own(OwnOptions { data_dir, server_vars, webhooks: pg_webhooks, wiremock }),
    };
    LoadOptions {
        scenario,
        pace: match args.rate {
            Some(rate) => Pace::Open { rate, in_flight_max: args.in_flight },
            None => Pace::Closed { clients: args.clients },
        },
        extent: match args.requests {
            Some(turns) => Extent::Turns(turns),
            None => Extent::Duration(Duration::from_secs(args.duration)),
        },
        warm_up: Duration::from_secs(args.warm_up),
        products: args.products,
        stock: args.stock,
        shares: Shares { declines: args.declines, timeouts: args.timeouts, unknowns: args.unknowns },
        settle: Duration::from_secs(args.settle),
        target,
        json: args.json,
        html: args.html,
    }
}
