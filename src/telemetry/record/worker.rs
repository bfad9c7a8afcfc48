//! What is told of background work.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::unix_seconds;
use crate::domain::audit::AuditRule;
use crate::domain::reconciliation::FindingKind;
use crate::telemetry::catalogue as c;
use crate::telemetry::labels::{AuditMode, ProviderLabel, ReconcileOutcome, Task, TickResult, WebhookApplied};

/// A round of a worker's task ended at `now`.
pub fn worker_tick(task: Task, result: TickResult, now: DateTime<Utc>) {
    c::WORKER_TICKS.of((task, result)).increment(1);
    match result {
        TickResult::Idle | TickResult::Worked => c::WORKER_SUCCESS.of((task,)).set(unix_seconds(now)),
        TickResult::Failed => {}
    }
}

/// A round of a worker's task took this long and dealt with this many rows.
pub fn worker_round(task: Task, elapsed: Duration, rows: u64) {
    c::WORKER_ROUND.of((task,)).record(elapsed.as_secs_f64());
    c::WORKER_ROWS.of((task,)).increment(rows);
}

/// A stored webhook was dealt with.
pub fn webhook_applied(provider: ProviderLabel, outcome: WebhookApplied) {
    c::WEBHOOKS_APPLIED.of((provider, outcome)).increment(1);
}

/// A webhook was dealt with, this long after it came in.
pub fn webhook_delay(provider: ProviderLabel, elapsed: Duration) {
    c::WEBHOOK_DELAY.of((provider,)).record(elapsed.as_secs_f64());
}

/// The PG's books and ours were found to differ, for the first time in this.
pub fn finding_filed(kind: FindingKind) {
    c::FINDINGS_FILED.of((kind,)).increment(1);
}

/// A comparison of the books ended.
pub fn reconcile_run(provider: ProviderLabel, outcome: ReconcileOutcome) {
    c::RECONCILE_RUNS.of((provider, outcome)).increment(1);
}

/// Rows of the PG's list were compared.
pub fn reconcile_transactions(provider: ProviderLabel, rows: u64) {
    c::RECONCILED_TRANSACTIONS.of((provider,)).increment(rows);
}

/// Rows break a rule now.
pub fn audit_violations(rule: AuditRule, rows: u32) {
    c::AUDIT_VIOLATIONS.of((rule,)).set(rows);
}

/// A rule judged rows.
pub fn audit_rows(rule: AuditRule, mode: AuditMode, rows: u64) {
    c::AUDIT_ROWS.of((rule, mode)).increment(rows);
}

/// A rule has judged what was committed before `until`, and its last run took this long.
pub fn audit_proven(rule: AuditRule, mode: AuditMode, until: Option<DateTime<Utc>>, took: Duration) {
    c::AUDIT_PROVEN.of((rule, mode)).set(until.map_or(0.0, unix_seconds));
    c::AUDIT_DURATION.of((rule, mode)).set(took.as_secs_f64());
}
