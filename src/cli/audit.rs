//! `paygauge audit`: judges every row of the books now. It reads only, and may run beside everything else.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use paygauge::config::{self, AuditSettings};
use paygauge::crash::CrashSwitch;
use paygauge::db::Db;
use paygauge::db::connect::{self, DbConfig};
use paygauge::domain::audit::{AuditRule, AuditSeverity};
use paygauge::payments::audit::{self, Report, RuleReport};
use paygauge::serve;
use serde_json::{Value, json};

/// Nothing breaks a rule of severity `violation`.
const CLEAN: u8 = 0;
/// Something does.
const VIOLATIONS: u8 = 1;
/// Nobody can say.
const COULD_NOT_RUN: u8 = 2;

/// How to audit.
#[derive(Args)]
pub struct AuditArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Judge by this rule alone; may be given more than once.
    #[arg(long, value_name = "NAME")]
    rule: Vec<String>,
}

/// Audits, prints what was found, and says by the code whether the books are right.
pub fn run(args: &AuditArgs) -> ExitCode {
    match audit_now(args) {
        Ok(report) => {
            if args.json {
                println!("{:#}", as_json(&report));
            } else {
                print!("{}", as_text(&report));
            }
            ExitCode::from(if report.broken(AuditSeverity::Violation) == 0 { CLEAN } else { VIOLATIONS })
        }
        Err(error) => {
            eprintln!("paygauge: the audit could not run: {error:#}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

fn audit_now(args: &AuditArgs) -> anyhow::Result<Report> {
    let rules = if args.rule.is_empty() { AuditRule::ALL.to_vec() } else { named(&args.rule)? };
    let (database, settings) = config::audit_from_env().map_err(|mistakes| anyhow::anyhow!(mistakes.join("\n  - ")))?;
    serve::runtime()?.block_on(judge(database, settings, &rules))
}

fn named(names: &[String]) -> anyhow::Result<Vec<AuditRule>> {
    let rule = |name: &String| AuditRule::parse(name).with_context(|| format!("there is no rule {name:?}"));
    names.iter().map(rule).collect()
}

async fn judge(database: DbConfig, settings: AuditSettings, rules: &[AuditRule]) -> anyhow::Result<Report> {
    anyhow::ensure!(
        connect::is_migrated(&database).await?,
        "the database's schema is older than this program: run `paygauge migrate`"
    );
    let db = Db::new(connect::pool(&database).await?, database.pool_connections_max, CrashSwitch::default());
    Ok(audit::audit(&db, &settings, rules).await?)
}

fn as_text(report: &Report) -> String {
    let mut text = String::new();
    for found in &report.rules {
        let word = match found.rule.severity() {
            _ if found.broken == 0 => "ok",
            AuditSeverity::Violation => "VIOLATION",
            AuditSeverity::Stuck => "STUCK",
        };
        text.push_str(&format!("{word:<10} {:<20} {:>10} rows  {}\n", found.rule, found.rows_checked, finding(found)));
        for id in &found.ids {
            text.push_str(&format!("{:>11}{id}\n", ""));
        }
    }
    let rows: i64 = report.rules.iter().map(|found| found.rows_checked).sum();
    let (violations, stuck) = (report.broken(AuditSeverity::Violation), report.broken(AuditSeverity::Stuck));
    let verdict = if violations == 0 { "the books are right" } else { "THE BOOKS ARE WRONG" };
    text.push_str(&format!(
        "{verdict} until {}: {} rules, {rows} rows judged, {violations} violations, {stuck} stuck\n",
        report.started_at.to_rfc3339(),
        report.rules.len(),
    ));
    text
}

fn finding(found: &RuleReport) -> String {
    if found.broken == 0 {
        return found.rule.claim().to_owned();
    }
    let since = found.oldest_at.map(|at| format!(", the oldest since {}", at.to_rfc3339())).unwrap_or_default();
    format!("{} break it{since}: {}", found.broken, found.rule.claim())
}

fn as_json(report: &Report) -> Value {
    let rules: Vec<Value> = report.rules.iter().map(rule_as_json).collect();
    let violations = report.broken(AuditSeverity::Violation);
    json!({
        "clean": violations == 0,
        "startedAt": report.started_at,
        "violations": violations,
        "stuck": report.broken(AuditSeverity::Stuck),
        "rules": rules,
    })
}

fn rule_as_json(found: &RuleReport) -> Value {
    json!({
        "rule": found.rule.as_str(),
        "severity": found.rule.severity().as_str(),
        "claim": found.rule.claim(),
        "rowsChecked": found.rows_checked,
        "broken": found.broken,
        "ids": found.ids,
        "oldestAt": found.oldest_at,
        "provenUntil": found.proven_until,
        "durationMs": u64::try_from(found.took.as_millis()).unwrap_or(u64::MAX),
    })
}
