//! The command line. Without a command, a build with the feature `dev` starts the development stack.

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use paygauge::config::{self, Config};
use paygauge::db::connect;
use paygauge::serve;

mod cli;

#[derive(Parser)]
#[command(name = "paygauge", version, about = "An observability-first payments backend.")]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    dev: DevArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Start the development stack (also what no command means): database, fake PG, API, worker, demo checkout.
    Dev(DevArgs),
    /// Serve the API and run the worker with the settings of the environment.
    Serve,
    /// Bring the database's schema up to this version.
    Migrate,
    /// Judge the books: ends with 0 if they are right, 1 if they are not, 2 if nobody can say.
    Audit(cli::audit::AuditArgs),
    /// Make, list and revoke API keys.
    Keys {
        #[command(subcommand)]
        action: cli::keys::KeysAction,
    },
    /// Say why a payment is where it is, and what may be done.
    Explain(cli::explain::ExplainArgs),
    /// Ask the PG about a payment now, and apply what it says.
    Inquire(cli::inquire::InquireArgs),
    /// Compare the PG's books with ours: exit code 0 nothing is open, 1 something is, 2 it could not be found out.
    Reconcile(cli::reconcile::ReconcileArgs),
    /// Put load on a server and prove the money at the end: exit code 0 it holds, 1 it does not, 2 it could not run.
    #[cfg(feature = "dev")]
    Load(Box<cli::load::LoadArgs>),
    /// Be the fake PG; `load` starts it.
    #[cfg(feature = "dev")]
    #[command(name = paygauge::load::MOCK_COMMAND, hide = true, disable_help_flag = true)]
    PgMock {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

#[derive(Args, Clone)]
struct DevArgs {
    /// Throw the data of earlier runs away first.
    #[arg(long)]
    fresh: bool,
    /// Where the data lives.
    #[arg(long, default_value = ".data", value_name = "DIR")]
    data_dir: std::path::PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command.unwrap_or(Command::Dev(cli.dev)) {
        Command::Dev(args) => dev(args),
        Command::Serve => serve_from_env(),
        Command::Migrate => with_database(migrate),
        Command::Audit(args) => return cli::audit::run(&args),
        Command::Keys { action } => with_database(move |config| cli::keys::run(config, action)),
        Command::Explain(args) => with_database(move |config| cli::explain::run(config, args)),
        Command::Inquire(args) => inquire(args),
        Command::Reconcile(args) => return reconcile(args),
        #[cfg(feature = "dev")]
        Command::Load(args) => return cli::load::run(*args),
        #[cfg(feature = "dev")]
        Command::PgMock { words } => return pg_mock(words),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("paygauge: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(feature = "dev")]
fn dev(args: DevArgs) -> anyhow::Result<()> {
    paygauge::dev::stack::run(&paygauge::dev::stack::StackOptions { fresh: args.fresh, data_dir: args.data_dir })
}

#[cfg(not(feature = "dev"))]
fn dev(_args: DevArgs) -> anyhow::Result<()> {
    anyhow::bail!("this build has no development stack; say what to do: serve, migrate, audit or keys (see --help)")
}

#[cfg(feature = "dev")]
fn pg_mock(words: Vec<String>) -> ExitCode {
    serve::runtime().map_or(ExitCode::FAILURE, |runtime| runtime.block_on(pg_mock::program::run(words.into_iter())))
}

fn serve_from_env() -> anyhow::Result<()> {
    let config = Config::from_env().map_err(mistakes)?;
    serve::runtime()?.block_on(serve::serve(config))
}

fn inquire(args: cli::inquire::InquireArgs) -> anyhow::Result<()> {
    let config = config::operator_from_env().map_err(mistakes)?;
    serve::runtime()?.block_on(cli::inquire::run(config, args))
}

fn reconcile(args: cli::reconcile::ReconcileArgs) -> ExitCode {
    let done = || serve::runtime()?.block_on(cli::reconcile::run(config::operator_from_env().map_err(mistakes)?, args));
    done().unwrap_or_else(|error: anyhow::Error| {
        eprintln!("paygauge: {error:#}");
        ExitCode::from(cli::reconcile::COULD_NOT)
    })
}

fn mistakes(mistakes: Vec<String>) -> anyhow::Error {
    anyhow::anyhow!("the configuration has {} mistake(s):\n  - {}", mistakes.len(), mistakes.join("\n  - "))
}

fn with_database<F: Future<Output = anyhow::Result<()>>>(
    work: impl FnOnce(connect::DbConfig) -> F,
) -> anyhow::Result<()> {
    let database = config::database_from_env().map_err(mistakes)?;
    serve::runtime()?.block_on(work(database))
}

async fn migrate(config: connect::DbConfig) -> anyhow::Result<()> {
    let applied = connect::migrate(&config).await?;
    if applied.is_empty() {
        println!("nothing to do: the schema is up to date");
    }
    for version in applied {
        println!("applied {version}");
    }
    Ok(())
}
