//! `paygauge inquire`: asks the PG about a payment now, and applies what it says.

use clap::Args;
use paygauge::config::OperatorConfig;
use paygauge::domain::ids::PaymentId;
use paygauge::payments::inquire;
use paygauge::serve;

use super::explain;

/// Which payment, and how to tell.
#[derive(Args)]
pub struct InquireArgs {
    /// `pay_…`
    payment: PaymentId,
    /// Print JSON, as `POST /v1/payments/{id}/inquire` answers, instead of words.
    #[arg(long)]
    json: bool,
}

/// Asks.
pub async fn run(config: OperatorConfig, args: InquireArgs) -> anyhow::Result<()> {
    let app = serve::app(&config.database, &config.toss, &config.settings, &config.crash).await?;
    let inquired = Box::pin(inquire::inquire(&app, args.payment, None)).await?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&inquired)?);
        return Ok(());
    }
    println!("Learnt: {}", inquired.learnt);
    if let Some(found) = inquired.by_order {
        println!("By the order the PG knows: {found}");
    }
    println!();
    explain::print(&inquired.explanation);
    Ok(())
}
