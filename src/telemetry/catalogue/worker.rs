//! The metrics of background work: rounds, webhooks, the books compared and audited.

use metrics::{Counter, Gauge};

use super::{Kind, LAG, LabelInfo, MetricInfo, Unit, real};
use crate::domain::audit::AuditRule;
use crate::domain::reconciliation::FindingKind;
use crate::telemetry::family::{Family, FromZero};
use crate::telemetry::histogram::Histogram;
use crate::telemetry::labels::{AuditMode, Label, ProviderLabel, ReconcileOutcome, Task, TickResult, WebhookApplied};

catalogue! {
    WORKER
    [
    Counter WORKER_TICKS = "payments_worker_ticks_total" { task: Task, result: TickResult } Count,
    from_zero FromZero::Every, "Rounds of the worker's tasks.";
    Gauge WORKER_SUCCESS = "payments_worker_last_success_timestamp_seconds" { task: Task } Timestamp,
    from_zero FromZero::Never, "When a task last ended a round well. Which loop is dead?";
    Histogram WORKER_ROUND = "payments_worker_round_duration_seconds" { task: Task } Seconds, buckets LAG,
    from_zero FromZero::Every, "Time of one round of a worker's task. Which task is slow?";
    Counter WORKER_ROWS = "payments_worker_rows_total" { task: Task } Count, from_zero FromZero::Every,
    "Rows that the worker's tasks dealt with. Does work get done?";
    Counter WEBHOOKS_APPLIED = "payments_webhooks_applied_total" {
        provider: ProviderLabel, outcome: WebhookApplied
    } Count, from_zero FromZero::Those(|(provider, _)| real(provider)),
    "Stored webhooks dealt with. What did they change, and is somebody forging them?";
    Histogram WEBHOOK_DELAY = "payments_webhook_delay_seconds" { provider: ProviderLabel } Seconds, buckets LAG,
    exemplars Part, from_zero FromZero::Those(|(provider,)| real(provider)),
    "From the moment a webhook came in to the moment it was dealt with. Do we act on the PG's events at once?";
    Counter FINDINGS_FILED = "payments_findings_total" { kind: FindingKind } Count, from_zero FromZero::Every,
    "Differences between the PG's books and ours, counted when they are first seen. What is going wrong?";
    Counter RECONCILE_RUNS = "payments_reconcile_runs_total" {
        provider: ProviderLabel, outcome: ReconcileOutcome
    } Count, from_zero FromZero::Those(|(provider, _)| real(provider)),
    "Comparisons with the PG's books. Do they come to their end?";
    Counter RECONCILED_TRANSACTIONS = "payments_reconcile_transactions_total" { provider: ProviderLabel } Count,
    from_zero FromZero::Those(|(provider,)| real(provider)),
    "Rows of the PG's transaction list that were compared with our books.";
    Gauge AUDIT_VIOLATIONS = "payments_audit_violations" { rule: AuditRule } Count, from_zero FromZero::Every,
    "Rows that break a rule now, as far as they are known. Are the books right, and is anything stuck?";
    Counter AUDIT_ROWS = "payments_audit_rows_checked_total" { rule: AuditRule, mode: AuditMode } Count,
    from_zero FromZero::Every, "Rows judged by a rule. Nothing broken among no rows proves nothing.";
    Gauge AUDIT_PROVEN = "payments_audit_proven_until_timestamp_seconds" { rule: AuditRule, mode: AuditMode }
    Timestamp, from_zero FromZero::Every,
    "Until when a rule has judged what was committed; 0 if never. For how long is money not proven?";
    Gauge AUDIT_DURATION = "payments_audit_duration_seconds" { rule: AuditRule, mode: AuditMode } Seconds,
    from_zero FromZero::Every, "How long the database took for the last run of a rule.";
    ]
    [
    ]
}
