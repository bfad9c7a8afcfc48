//! The load run: buyers against the real program, measured, and at the end the money proof.
//!
//! Called by `paygauge load` only. It stands above the development stack, from which it takes the embedded PostgreSQL,
//! and speaks to the product over HTTP like everybody else; only the proof looks into the database.
//!
//! ```text
//! options   what is asked for            target    what it is sent to
//! pace      when a turn begins           buyer     what happens in a turn
//! client    HTTP                         recorder  latencies and outcomes
//! usage     CPU and memory               proof     money and stock agree
//! report    for people, as JSON, as a page
//! seed      a database with a history, to drive it against
//! ```

mod buyer;
mod client;
pub mod options;
mod pace;
mod proof;
pub mod recorder;
mod report;
pub mod seed;
mod target;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use tokio::time::Instant;

use buyer::{Buyers, Ledger, PRICE};
use client::Client;
use options::{Extent, LoadOptions, Pace, Scenario, Where};
use recorder::{Outcome, Recorder};
use report::Report;
pub use target::MOCK_COMMAND;
use target::Target;
use usage::Machine;

use crate::{config, serve};

/// Orders that are paid before a run that repeats or notifies.
const PREPARED: u32 = 32;

/// Runs it, prints the report and writes the files; `true` if the proof holds.
///
/// # Errors
/// When the options are wrong, or it could not run to its end.
pub fn run(options: &LoadOptions) -> anyhow::Result<bool> {
    let mistakes = options.mistakes();
    anyhow::ensure!(mistakes.is_empty(), "{}", mistakes.join("\n  "));
    let runtime = serve::runtime()?;
    let report = runtime.block_on(async {
        tokio::select! {
            report = drive(options) => report,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                anyhow::bail!("interrupted: nothing was proven")
            }
        }
    })?;
    print!("{}", report::text::of(&report));
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if let Some(file) = &options.html {
        std::fs::write(file, report::html::of(&report)).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(report.proof.holds)
}

async fn drive(options: &LoadOptions) -> anyhow::Result<Report> {
    let machine = Machine::this();
    eprintln!("load: setting up …");
    let vars = config::dev_vars().map_err(|mistakes| anyhow::anyhow!(mistakes.join("\n  ")))?;
    let target = Target::reach(&options.target, &vars).await?;
    let recorder = Arc::new(Recorder::new()?);
    let buyers = Arc::new(buyers(options, &target, Arc::clone(&recorder)).await?);
    if !options.warm_up.is_zero() {
        eprintln!("load: warming up for {} s …", options.warm_up.as_secs());
        stage(options.pace, Extent::Duration(options.warm_up), &buyers).await?;
        target.analyse().await?;
    }
    eprintln!("load: measuring {}, {}", options.scenario, report::pace_in_words(options.pace));
    recorder.begin()?;
    let before = usage::look(&target.watched);
    let progress = tokio::spawn(progress(Arc::clone(&recorder)));
    let driven = stage(options.pace, options.extent, &buyers).await;
    let after = usage::look(&target.watched);
    progress.abort();
    driven?;
    recorder.tick();
    eprintln!("load: proving …");
    let proof = proof::prove(&target, &buyers, options.settle).await?;
    let report = Report::of(options, &target, machine, &recorder, (&before, &after), &buyers.ledger, proof);
    tokio::task::spawn_blocking(move || target.stop()).await?;
    Ok(report)
}

/// The buyers, with products of this run's own to buy.
async fn buyers(options: &LoadOptions, target: &Target, recorder: Arc<Recorder>) -> anyhow::Result<Buyers> {
    let roots = match &options.target {
        Where::Given(given) => given.roots()?,
        Where::Own(_) => None,
    };
    let api = Client::new(&target.url, Some(target.key.clone()), roots.as_deref()).context("--ca-file, --url")?;
    let mock = Client::new(&target.mock_url, None, None)?;
    if let Where::Own(own) = &options.target {
        let mode = if own.webhooks { "normal" } else { "off" };
        let told = mock.post("/mock/webhooks", &json!({ "url": target.webhook_url(), "mode": mode }), None).await;
        anyhow::ensure!(told.outcome != Outcome::Transport, "pg-mock does not answer: {}", told.text);
    }
    let mut products = Vec::new();
    for number in 1..=options.products_made() {
        let body = json!({ "name": format!("Load {number}"), "price": PRICE, "initialStock": options.stock });
        let made = api.post("/v1/products", &body, None).await;
        anyhow::ensure!(made.outcome == Outcome::Ok, "cannot make a product (a secret key is needed): {}", made.text);
        products.push(made.fields.id);
    }
    let mut buyers = Buyers {
        api,
        mock,
        scenario: options.scenario,
        shares: options.shares,
        hang: target.hang,
        products,
        stock: options.stock,
        prepared: Vec::new(),
        recorder,
        ledger: Ledger::default(),
    };
    if matches!(options.scenario, Scenario::Replay | Scenario::Webhooks) {
        buyers.prepare(PREPARED).await?;
    }
    Ok(buyers)
}

async fn stage(pace: Pace, extent: Extent, buyers: &Arc<Buyers>) -> anyhow::Result<()> {
    let turn = {
        let buyers = Arc::clone(buyers);
        move |intended: Instant| {
            let buyers = Arc::clone(&buyers);
            async move { buyers.turn(intended).await }
        }
    };
    match pace {
        Pace::Closed { clients } => pace::closed(clients, extent, turn).await,
        Pace::Open { rate, in_flight_max } => {
            let beginnings = pace::beginnings(rate, extent)?;
            pace::open(beginnings, in_flight_max, turn, || buyers.overflow()).await
        }
    }
}

/// A line each second, for whoever waits.
async fn progress(recorder: Arc<Recorder>) {
    let mut each_second = tokio::time::interval(Duration::from_secs(1));
    each_second.tick().await;
    for number in 1_u64.. {
        each_second.tick().await;
        let (second, so_far) = recorder.tick();
        eprintln!(
            "{number:>5} s  {:>6}/s ok  {:>5} other  p99 {:>7.1} ms  {so_far}",
            second.ok, second.other, second.p99_ms
        );
    }
}
