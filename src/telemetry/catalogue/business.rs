//! The metrics of money and stock: use cases, their steps, states, doubts and units.

use metrics::Counter;

use super::{KRW, Kind, LabelInfo, MetricInfo, ORDERS, PAY, STATE, STEPS, Unit, real};
use crate::domain::evidence::DeclineClass;
use crate::telemetry::family::{Family, FromZero};
use crate::telemetry::histogram::Histogram;
use crate::telemetry::labels::{
    Aggregate, CurrencyLabel, DoubtCause, DoubtResolution, FunnelStage, InTime, InquiryResult, Label, MoneyMove,
    Operation, OperationOutcome, OutcomeClass, PaymentMethod, ProviderLabel, ReservationResult, StatusWord, Step,
    StockMovement,
};

/// Operations that a PG takes part in are expected with a PG, the others without; and only what knows a payment knows
/// its method.
const fn can_end(
    (operation, outcome, provider, method): (Operation, OperationOutcome, ProviderLabel, PaymentMethod),
) -> bool {
    let nothing_known = matches!(method, PaymentMethod::None);
    match operation {
        Operation::OrderCreate | Operation::OrderCancel | Operation::Expire => {
            matches!(provider, ProviderLabel::None) && nothing_known
        }
        Operation::Confirm | Operation::Cancel | Operation::WebhookApply | Operation::Recover => match outcome {
            OperationOutcome::Success
            | OperationOutcome::Declined
            | OperationOutcome::Replayed
            | OperationOutcome::Unknown => real(provider),
            OperationOutcome::Rejected
            | OperationOutcome::Conflict
            | OperationOutcome::PgError
            | OperationOutcome::Error => real(provider) && nothing_known,
        },
    }
}

catalogue! {
    BUSINESS
    [
    Counter OPERATIONS = "payments_operations_total" {
        operation: Operation, outcome: OperationOutcome, provider: ProviderLabel, method: PaymentMethod
    } Count, from_zero FromZero::Those(can_end),
    "Use cases ended, counted after commit. How many per second succeed, and how do the others end?";
    Histogram OPERATION_DURATION = "payments_operation_duration_seconds" {
        operation: Operation, outcome_class: OutcomeClass
    } Seconds, buckets PAY, exemplars Part, from_zero FromZero::Every,
    "Time of a whole use case. How long does a customer wait for money?";
    Histogram STEP = "payments_step_duration_seconds" { operation: Operation, step: Step } Seconds, buckets STEPS,
    exemplars Part, from_zero FromZero::Every,
    "Where the time of a use case went; its steps add up to the whole. Which step eats the time?";
    Histogram AMOUNT = "payments_amount_minor_units" { operation: MoneyMove, currency: CurrencyLabel } MinorUnits,
    buckets KRW, from_zero FromZero::Those(|(_, currency)| matches!(currency, CurrencyLabel::Krw)),
    "Money really taken (confirm) or given back (cancel), in minor units. How much moves, and how large is a payment?";
    Counter FUNNEL = "payments_funnel_total" { stage: FunnelStage } Count, from_zero FromZero::Every,
    "Orders that reached a stage, each once, counted after commit. Where do customers drop out?";
    Counter TRANSITIONS = "payments_transitions_total" {
        aggregate: Aggregate, from_status: StatusWord, to_status: StatusWord
    } Count, from_zero FromZero::Those(|(aggregate, from, to)| aggregate.can_change(from, to)),
    "Events written into the history. What changes, and how often?";
    Counter DECLINES = "payments_declines_total" { provider: ProviderLabel, decline_class: DeclineClass } Count,
    from_zero FromZero::Those(|(provider, _)| real(provider)),
    "Payments that the PG refused. Is it the customers, the PG or our contract?";
    Counter DOUBTS_OPENED = "payments_doubts_opened_total" {
        provider: ProviderLabel, operation: MoneyMove, cause: DoubtCause
    } Count, from_zero FromZero::Those(|(provider, ..)| real(provider)),
    "Outcomes that became uncertain. How does doubt arise?";
    Counter DOUBTS_RESOLVED = "payments_doubts_resolved_total" {
        provider: ProviderLabel, operation: MoneyMove, resolution: DoubtResolution, in_time: InTime
    } Count, from_zero FromZero::Those(|(provider, ..)| real(provider)),
    "Uncertain outcomes that became certain, in time or not (within 5 min). How does doubt end?";
    Histogram DOUBT_DURATION = "payments_doubt_duration_seconds" {
        operation: MoneyMove, resolution: DoubtResolution
    } Seconds, buckets STATE, exemplars Part, from_zero FromZero::Every,
    "From the intent to certainty, where the outcome was uncertain. How long are customers in limbo?";
    Counter INQUIRIES = "payments_inquiries_total" { provider: ProviderLabel, result: InquiryResult } Count,
    from_zero FromZero::Those(|(provider, _)| real(provider)),
    "Questions to the PG about an uncertain outcome. Does doubt end?";
    Counter REVERSALS = "payments_reversals_total" { provider: ProviderLabel } Count,
    from_zero FromZero::Those(|(provider,)| real(provider)),
    "Real money that no order may keep, on its way back. Each one wants an explanation.";
    Counter STOCK_RESERVATIONS = "payments_stock_reservations_total" { result: ReservationResult } Count,
    from_zero FromZero::Every, "Tries to hold the stock of an order. Is something sold out, or is it us?";
    Histogram ORDERS_TAKEN = "payments_orders_per_transaction" {} Count, buckets ORDERS, from_zero FromZero::Every,
    "Orders that one transaction placed. Are those who want the same product taken together?";
    Counter STOCK_MOVEMENTS = "payments_stock_movements_total" { kind: StockMovement } Count,
    from_zero FromZero::Every, "Units of stock moved, by why.";
    Counter HOLDS_EXPIRED = "payments_holds_expired_total" {} Count, from_zero FromZero::Every,
    "Orders whose hold ran out unpaid.";
    ]
    [
    ]
}
