//! When an outcome counts as uncertain, and what is told of it: each doubt is opened once and ends once, whoever finds
//! it and whoever ends it.
//!
//! A row is in doubt from the first answer that is none, or from the moment at which its own request is over without
//! having recorded any. What nobody has sent yet (a wish, a compensation) is not in doubt.

use chrono::{DateTime, Utc};

use crate::clock;
use crate::db::cancellations::CancellationRow;
use crate::db::payments::PaymentRow;
use crate::db::told::{Fact, once_committed};
use crate::domain::cancellation::{CancellationEvent, CancellationOrigin};
use crate::domain::evidence::DoubtReason;
use crate::domain::payment::{PaymentEvent, PaymentStatus};
use crate::telemetry::labels::{DoubtCause, DoubtResolution, MoneyMove, ProviderLabel};

/// One intent, as far as doubt goes.
struct Intent {
    provider: ProviderLabel,
    operation: MoneyMove,
    begun_at: DateTime<Utc>,
    /// Whether its doubt was told already.
    is_opened: bool,
    /// Whether its own request is over without a word.
    is_orphan: bool,
}

impl Intent {
    fn of_payment(payment: &PaymentRow) -> Option<Self> {
        (payment.status == PaymentStatus::Confirming).then(|| Self {
            provider: ProviderLabel::of(&payment.provider),
            operation: MoneyMove::Confirm,
            begun_at: payment.confirm_started_at,
            is_opened: payment.doubt.is_some() || payment.inquiries > 0,
            is_orphan: payment.inquire_at.is_some_and(|due| due <= clock::now()),
        })
    }

    fn of_cancellation(row: &CancellationRow, provider: &str) -> Self {
        let was_sent = row.origin == CancellationOrigin::Request;
        Self {
            provider: ProviderLabel::of(provider),
            operation: MoneyMove::Cancel,
            begun_at: row.created_at,
            is_opened: row.doubt.is_some() || (was_sent && row.inquiries > 0),
            is_orphan: was_sent && row.inquire_at.is_some_and(|due| due <= clock::now()),
        }
    }

    fn open(&self, cause: DoubtCause) {
        if !self.is_opened {
            once_committed(Fact::DoubtOpened { provider: self.provider, operation: self.operation, cause });
        }
    }

    fn resolve(&self, resolution: DoubtResolution) {
        if !self.is_opened && !self.is_orphan {
            return;
        }
        self.open(DoubtCause::Crash);
        let open_for = (clock::now() - self.begun_at).to_std().unwrap_or_default();
        let (provider, operation) = (self.provider, self.operation);
        once_committed(Fact::DoubtResolved { provider, operation, resolution, open_for });
    }
}

/// The locked payment, as it was until now, changes by `event`; `reason` is why nothing is certain, if that is it.
pub(super) fn payment_changes(before: &PaymentRow, event: PaymentEvent, reason: Option<DoubtReason>) {
    let Some(intent) = Intent::of_payment(before) else { return };
    match event {
        PaymentEvent::OutcomeUnknown => intent.open(reason.map_or(DoubtCause::Crash, DoubtCause::from)),
        PaymentEvent::Approved | PaymentEvent::DepositAwaited => intent.resolve(DoubtResolution::Approved),
        PaymentEvent::Declined => intent.resolve(DoubtResolution::Declined),
        PaymentEvent::NotSent => intent.resolve(DoubtResolution::NotFound),
        PaymentEvent::Canceled => intent.resolve(DoubtResolution::Canceled),
        PaymentEvent::ConfirmStarted
        | PaymentEvent::DepositReversed
        | PaymentEvent::DepositOverdue
        | PaymentEvent::ReversalStarted
        | PaymentEvent::PartiallyCanceled => intent.resolve(DoubtResolution::Other),
    }
}

/// The same of a locked cancellation.
pub(super) fn cancellation_changes(
    before: &CancellationRow,
    provider: &str,
    event: CancellationEvent,
    reason: Option<DoubtReason>,
) {
    let intent = Intent::of_cancellation(before, provider);
    match event {
        CancellationEvent::OutcomeUnknown => intent.open(reason.map_or(DoubtCause::Crash, DoubtCause::from)),
        CancellationEvent::Done => intent.resolve(DoubtResolution::Canceled),
        CancellationEvent::Refused => intent.resolve(DoubtResolution::Refused),
        CancellationEvent::Requested | CancellationEvent::Reduced => {}
    }
}

/// An inquiry about a payment whose request is over has taught nothing, and its next one is planned.
pub(super) fn payment_stays_open(before: &PaymentRow) {
    if let Some(intent) = Intent::of_payment(before) {
        intent.open(DoubtCause::Crash);
    }
}

/// The same of a cancellation.
pub(super) fn cancellation_stays_open(before: &CancellationRow, provider: &str) {
    if before.origin == CancellationOrigin::Request {
        Intent::of_cancellation(before, provider).open(DoubtCause::Crash);
    }
}
