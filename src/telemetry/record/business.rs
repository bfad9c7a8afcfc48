//! What is told of use cases, money, doubt and stock.

use std::time::Duration;

use super::float;
use crate::domain::evidence::DeclineClass;
use crate::telemetry::catalogue as c;
use crate::telemetry::labels::{
    Aggregate, CurrencyLabel, DoubtCause, DoubtResolution, FunnelStage, InTime, InquiryResult, MoneyMove, Operation,
    OperationOutcome, OutcomeClass, ProviderLabel, ReservationResult, StatusWord, StockMovement,
};
use crate::telemetry::ledger::Account;
use crate::telemetry::traces;

/// How long an outcome may be uncertain before it counts as late.
const DOUBT_IN_TIME: Duration = Duration::from_secs(300);

/// How a use case ended, once, after commit; with where its time went.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'a> {
    /// Which use case.
    pub operation: Operation,
    /// What it came to.
    pub outcome: OperationOutcome,
    /// The PG that takes part.
    pub provider: ProviderLabel,
    /// Its time and steps, and how the payment is made.
    pub account: &'a Account,
}

/// A use case ended; told once, after commit.
pub fn operation(ended: Ended<'_>) {
    let Ended { operation, outcome, provider, account } = ended;
    c::OPERATIONS.of((operation, outcome, provider, account.method())).increment(1);
    c::OPERATION_DURATION.of((operation, OutcomeClass::of(outcome))).record(account.elapsed().as_secs_f64());
    for (step, spent) in account.steps().filter(|(_, spent)| !spent.is_zero()) {
        c::STEP.of((operation, step)).record(spent.as_secs_f64());
    }
    traces::ended(operation, outcome);
}

/// Money was taken or given back: real money, `amount` in minor units.
pub fn money(moved: MoneyMove, currency: CurrencyLabel, amount: i64) {
    c::AMOUNT.of((moved, currency)).record(float(amount));
}

/// A transaction placed so many orders.
pub fn orders_taken(orders: u32) {
    c::ORDERS_TAKEN.of(()).record(f64::from(orders));
}

/// An order reached a stage for the first time.
pub fn funnel(stage: FunnelStage) {
    c::FUNNEL.of((stage,)).increment(1);
}

/// An event is in the history for good.
pub fn transition(aggregate: Aggregate, from: StatusWord, to: StatusWord) {
    c::TRANSITIONS.of((aggregate, from, to)).increment(1);
}

/// The PG refused a payment.
pub fn decline(provider: ProviderLabel, class: DeclineClass) {
    c::DECLINES.of((provider, class)).increment(1);
}

/// An outcome became uncertain.
pub fn doubt_opened(provider: ProviderLabel, operation: MoneyMove, cause: DoubtCause) {
    c::DOUBTS_OPENED.of((provider, operation, cause)).increment(1);
}

/// An uncertain outcome is certain, this long after the intent.
pub fn doubt_resolved(provider: ProviderLabel, operation: MoneyMove, resolution: DoubtResolution, open_for: Duration) {
    let in_time = if open_for <= DOUBT_IN_TIME { InTime::Yes } else { InTime::No };
    c::DOUBTS_RESOLVED.of((provider, operation, resolution, in_time)).increment(1);
    c::DOUBT_DURATION.of((operation, resolution)).record(open_for.as_secs_f64());
}

/// The PG was asked about an uncertain outcome.
pub fn inquiry(provider: ProviderLabel, result: InquiryResult) {
    c::INQUIRIES.of((provider, result)).increment(1);
}

/// Money that no order may keep is sent back.
pub fn reversal(provider: ProviderLabel) {
    c::REVERSALS.of((provider,)).increment(1);
}

/// Somebody tried to hold the stock of an order.
pub fn reservation(result: ReservationResult) {
    c::STOCK_RESERVATIONS.of((result,)).increment(1);
}

/// Units of stock moved.
pub fn stock_movement(kind: StockMovement, units: u64) {
    c::STOCK_MOVEMENTS.of((kind,)).increment(units);
}

/// Orders whose hold ran out.
pub fn holds_expired(orders: u64) {
    c::HOLDS_EXPIRED.of(()).increment(orders);
}
