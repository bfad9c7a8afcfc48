//! `paygauge reconcile`: compare the PG's books with ours now, or list what is not settled.
//!
//! The exit code is for scripts: 0 nothing is open, 1 something is, 2 it could not be found out.

use std::process::ExitCode;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use paygauge::app::App;
use paygauge::config::OperatorConfig;
use paygauge::db::events::Origin;
use paygauge::db::findings::FindingFilter;
use paygauge::payments::findings::{self, FindingView};
use paygauge::payments::reconcile::{self, Report, Span};
use paygauge::telemetry::labels::ReconcileOutcome;
use paygauge::{clock, serve};
use serde_json::json;

/// Findings shown at most; `GET /v1/findings` lists all.
const SHOWN_ROWS: i64 = 200;
const NOTHING_OPEN: u8 = 0;
const SOMETHING_OPEN: u8 = 1;
/// It could not run, or not to its end.
pub const COULD_NOT: u8 = 2;

/// Which time to compare; without any, from where the last run ended.
#[derive(Args)]
pub struct ReconcileArgs {
    /// Begin here, RFC 3339.
    #[arg(long, value_name = "TIME", requires = "to", conflicts_with = "hours")]
    from: Option<DateTime<Utc>>,
    /// End here, RFC 3339.
    #[arg(long, value_name = "TIME", requires = "from")]
    to: Option<DateTime<Utc>>,
    /// The last so many hours.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=24 * 366))]
    hours: Option<u32>,
    /// Compare nothing: list what is not settled.
    #[arg(long, conflicts_with_all = ["from", "to", "hours"])]
    list: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Does it.
pub async fn run(config: OperatorConfig, args: ReconcileArgs) -> anyhow::Result<ExitCode> {
    let app = serve::app(&config.database, &config.toss, &config.settings, &config.crash).await?;
    let report = if args.list { None } else { Some(compare(&app, &args).await?) };
    let filter = FindingFilter { unsettled: true, ..FindingFilter::default() };
    let open = findings::list(&app, filter, SHOWN_ROWS).await?;
    if args.json {
        println!("{:#}", as_json(report.as_ref(), &open));
    } else {
        print(report.as_ref(), &open);
    }
    let could_not = report.is_some_and(|report| report.outcome != ReconcileOutcome::Complete);
    Ok(ExitCode::from(match (could_not, open.is_empty()) {
        (true, _) => COULD_NOT,
        (false, false) => SOMETHING_OPEN,
        (false, true) => NOTHING_OPEN,
    }))
}

async fn compare(app: &Arc<App>, args: &ReconcileArgs) -> anyhow::Result<Report> {
    let span = match (args.from, args.to, args.hours) {
        (Some(from), Some(until), _) => {
            anyhow::ensure!(from <= until, "--from is later than --to");
            Span::Between { from, until }
        }
        (_, _, Some(hours)) => {
            let until = clock::now();
            Span::Between { from: until - TimeDelta::hours(i64::from(hours)), until }
        }
        (_, _, None) => Span::Next,
    };
    let origin = Origin { actor: "cli".to_owned(), trace_id: None };
    Ok(reconcile::run(app, span, &origin).await?)
}

fn as_json(report: Option<&Report>, open: &[FindingView]) -> serde_json::Value {
    let run = report.map(|report| {
        let window = report.window.map(|window| json!({ "from": window.from, "until": window.until }));
        json!({
            "provider": report.provider,
            "outcome": report.outcome.as_str(),
            "trouble": report.trouble,
            "window": window,
            "transactions": report.transactions,
            "inFlight": report.in_flight,
            "filed": report.filed,
            "repaired": report.repaired,
        })
    });
    json!({ "run": run, "findings": open })
}

fn print(report: Option<&Report>, open: &[FindingView]) {
    if let Some(report) = report {
        match report.window {
            Some(window) => println!("{}: {} to {}", report.provider, window.from, window.until),
            None => println!("{}: nothing has settled yet", report.provider),
        }
        println!(
            "{}: {} transactions, {} in flight, {} new differences, {} repaired",
            report.outcome, report.transactions, report.in_flight, report.filed, report.repaired
        );
        if let Some(trouble) = &report.trouble {
            println!("not to its end: {trouble}");
        }
    }
    if open.is_empty() {
        println!("nothing is open");
    }
    for finding in open {
        let amount = finding.amount.map_or_else(|| "?".to_owned(), |amount| amount.to_string());
        println!(
            "{}  {:<7}  {:<19}  {amount} {}  {}  {} s old  trace {}\n    {}",
            finding.id,
            finding.status,
            finding.kind,
            finding.currency.unwrap_or("?"),
            finding.provider_order_id,
            finding.age_seconds,
            finding.trace_id.as_deref().unwrap_or("-"),
            finding.reason
        );
    }
}
