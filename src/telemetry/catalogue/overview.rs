//! The figures that only the database knows. One worker sets them; the others show NaN.

use metrics::Gauge;

use super::{Kind, LabelInfo, MetricInfo, Unit};
use crate::domain::reconciliation::FindingKind;
use crate::telemetry::family::{Family, FromZero};
use crate::telemetry::labels::{Aggregate, CurrencyLabel, Label, ProviderLabel, StatusWord, UnresolvedKind};

catalogue! {
    OVERVIEW
    [
    Gauge OVERVIEW_LEADER = "payments_overview_leader" {} Count, from_zero FromZero::Never,
    "1 in the worker that sets the figures from the database, 0 in the others.";
    Gauge OVERVIEW_SUCCESS = "payments_overview_last_success_timestamp_seconds" {} Timestamp,
    from_zero FromZero::Never, "When the figures from the database were last right. Old means: trust none of them.";
    Gauge UNRESOLVED = "payments_unresolved" { kind: UnresolvedKind } Count, from_zero FromZero::Never,
    "Payments and cancellations whose outcome is not certain, from the database.";
    Gauge OLDEST_UNRESOLVED = "payments_oldest_unresolved_timestamp_seconds" { kind: UnresolvedKind } Timestamp,
    from_zero FromZero::Never, "Since when the oldest uncertain one is open; 0 when there is none.";
    Gauge UNRESOLVED_AMOUNT = "payments_unresolved_amount_minor_units" {
        kind: UnresolvedKind, currency: CurrencyLabel
    } MinorUnits, from_zero FromZero::Never, "Money whose whereabouts are not certain, in minor units. How much is at risk?";
    Gauge IN_STATE = "payments_in_state" { aggregate: Aggregate, status: StatusWord } Count, from_zero FromZero::Never,
    "Orders, payments and cancellations that are not over, by where they stand. Where do they pile up?";
    Gauge OLDEST_IN_STATE = "payments_oldest_in_state_timestamp_seconds" {
        aggregate: Aggregate, status: StatusWord
    } Timestamp, from_zero FromZero::Never,
    "Since when the one that stands there longest does; 0 if there is none. What is stuck?";
    Gauge STOCK_HELD = "payments_stock_held_units" {} Count, from_zero FromZero::Never,
    "Units held by orders that are not paid yet.";
    Gauge HOLDS_OVERDUE = "payments_holds_overdue" {} Count, from_zero FromZero::Never,
    "Orders that are still pending after their hold. Is stock leaking?";
    Gauge OLDEST_OVERDUE_HOLD = "payments_oldest_overdue_hold_timestamp_seconds" {} Timestamp,
    from_zero FromZero::Never, "When the first of these holds ended; 0 if there is none.";
    Gauge INBOX_PENDING = "payments_webhook_inbox_pending" {} Count, from_zero FromZero::Never,
    "Webhooks that are due and not read. Does the worker keep up?";
    Gauge INBOX_OLDEST = "payments_webhook_oldest_pending_timestamp_seconds" {} Timestamp,
    from_zero FromZero::Never, "Since when the first of these is due; 0 if there is none.";
    Gauge FINDINGS_OPEN = "payments_findings_open" { kind: FindingKind } Count, from_zero FromZero::Never,
    "Differences that are not settled, from the database. What waits for a person?";
    Gauge FINDINGS_OLDEST = "payments_findings_oldest_timestamp_seconds" { kind: FindingKind } Timestamp,
    from_zero FromZero::Never, "Since when the oldest difference that is not settled is known; 0 if there is none.";
    Gauge RECONCILED_UNTIL = "payments_reconciled_until_timestamp_seconds" { provider: ProviderLabel } Timestamp,
    from_zero FromZero::Never, "Up to when the PG's books and ours were compared; 0 before the first run.";
    Gauge IDEMPOTENCY_OLDEST = "payments_idempotency_oldest_open_timestamp_seconds" {} Timestamp,
    from_zero FromZero::Never, "Since when the oldest idempotency key has no answer; 0 if all have one.";
    Gauge DB_BLOCKED = "payments_db_blocked_sessions" {} Count, from_zero FromZero::Never,
    "Sessions of the database that wait for another one's lock.";
    Gauge DB_OLDEST_TX = "payments_db_oldest_transaction_timestamp_seconds" {} Timestamp, from_zero FromZero::Never,
    "When the oldest open transaction of the database began; 0 if none is open.";
    Gauge DB_CONNECTIONS = "payments_db_server_connections" {} Count, from_zero FromZero::Never,
    "Connections that the database server has now, of whomever.";
    Gauge DB_CONNECTIONS_MAX = "payments_db_server_connections_max" {} Count, from_zero FromZero::Never,
    "The most connections that the database server takes.";
    ]
    [
    ]
}
