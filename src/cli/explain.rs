//! `paygauge explain`: why a payment is where it is, from the database alone.

use clap::Args;
use paygauge::crash::CrashSwitch;
use paygauge::db::Db;
use paygauge::db::connect::{self, DbConfig};
use paygauge::domain::ids::PaymentId;
use paygauge::payments::explain::{self, ExplanationView, InquiryPlan};

/// Which payment, and how to tell.
#[derive(Args)]
pub struct ExplainArgs {
    /// `pay_…`
    payment: PaymentId,
    /// Print JSON, as `GET /v1/payments/{id}/explain` answers, instead of words.
    #[arg(long)]
    json: bool,
}

/// Explains.
pub async fn run(config: DbConfig, args: ExplainArgs) -> anyhow::Result<()> {
    let db = Db::new(connect::pool(&config).await?, config.pool_connections_max, CrashSwitch::default());
    let explanation = explain::explain(&db, None, args.payment).await?;
    let Some(explanation) = explanation else { anyhow::bail!("there is no payment {}", args.payment) };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&explanation)?);
    } else {
        print(&explanation);
    }
    Ok(())
}

/// Prints it for people.
pub fn print(explanation: &ExplanationView) {
    let ExplanationView { payment_id, order_id, status, order_status, summary, .. } = explanation;
    println!("{payment_id} is {status}; its order {order_id} is {order_status}\n\n{summary}");
    println!("The buyer sees: {}", explanation.buyer_sees);
    println!("Awaited: {}", explanation.awaits);
    if let Some(plan) = &explanation.inquiry {
        println!("Next inquiry: {}", in_words(plan));
    }
    if let Some(open) = &explanation.open_cancellation {
        println!("\nOpen cancellation {} of {}, since {}\n  {}", open.id, open.amount, open.since, open.why);
        if let Some(plan) = &open.inquiry {
            println!("  next step {}", in_words(plan));
        }
    }
    println!("\nEvidence");
    for event in &explanation.evidence {
        let call = event.detail.get("call").map(ToString::to_string).unwrap_or_default();
        println!("  {}  {:<28} by {:<10} {call}", event.at.format("%Y-%m-%d %H:%M:%S%.3f"), event.kind, event.actor);
    }
    if !explanation.findings.is_empty() {
        println!("\nFound by reconciliation");
    }
    for finding in &explanation.findings {
        println!("  {}  {:<20} {:<9} {}", finding.id, finding.kind, finding.status, finding.reason);
    }
    println!("\nWhat may be done");
    for action in &explanation.actions {
        println!("  {:<17} {}", action.action, action.what);
        for how in [&action.command, &action.route].into_iter().flatten() {
            println!("  {:<17} {how}", "");
        }
    }
}

fn in_words(plan: &InquiryPlan) -> String {
    let leased = plan.leased_until.map(|until| format!(", in a worker's hand until {until}")).unwrap_or_default();
    format!("{} (made {}, sending {}{leased})", plan.next_at, plan.made, plan.attempt)
}
