//! What evidence from the PG makes of a cancellation.
//!
//! `payments::resolve_cancel` is the only caller that changes state by it; recovery looks with `find_cancel` first.

use super::cancellation::CancellationOrigin;
use super::evidence::{Doubt, DoubtReason, PgCancel, PgStatus, Refusal, Snapshot};
use super::ids::CancellationId;
use super::payment::PaymentStatus;

/// What somebody learnt about a cancellation.
#[derive(Debug, Clone)]
pub enum CancelEvidence {
    /// The PG's view of the payment.
    Snapshot(Box<Snapshot>),
    /// The PG refused.
    Refused(Refusal),
    /// Nobody knows, or it is still to be sent.
    Doubt(Doubt),
}

/// What must be done with a cancellation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CancelVerdict {
    /// The money went back.
    Done(PgCancel),
    /// Give the capacity back.
    Refuse(Refusal),
    /// Still open: note the doubt, go on later.
    StillOpen(Doubt),
}

/// Decides what `evidence` makes of the open cancellation `id` of `amount` minor units.
///
/// Money that no order may keep goes back for ever: a refused compensation stays open, with an alarm.
#[must_use]
pub fn decide_cancel(
    id: CancellationId,
    amount: i64,
    origin: CancellationOrigin,
    payment: PaymentStatus,
    evidence: CancelEvidence,
) -> CancelVerdict {
    match evidence {
        CancelEvidence::Snapshot(snapshot) => match find_cancel(&snapshot, id, payment) {
            Some(cancel) if cancel.done && cancel.amount == amount => CancelVerdict::Done(cancel),
            Some(_) | None => CancelVerdict::StillOpen(Doubt { reason: DoubtReason::Inconclusive, code: None }),
        },
        CancelEvidence::Refused(refusal) if origin == CancellationOrigin::Compensation => {
            CancelVerdict::StillOpen(Doubt { reason: DoubtReason::ProviderFault, code: Some(refusal.code) })
        }
        CancelEvidence::Refused(refusal) => CancelVerdict::Refuse(refusal),
        CancelEvidence::Doubt(doubt) => CancelVerdict::StillOpen(doubt),
    }
}

/// Finds our cancel by the id that ends its reason. An account closed before any deposit may list none.
#[must_use]
pub fn find_cancel(snapshot: &Snapshot, id: CancellationId, payment: PaymentStatus) -> Option<PgCancel> {
    let suffix = format!("[{id}]");
    let listed = snapshot.cancels.iter().find(|cancel| cancel.reason.ends_with(&suffix)).cloned();
    let closed = || {
        let empty = matches!(payment, PaymentStatus::AwaitingDeposit | PaymentStatus::Reversing)
            && snapshot.status == PgStatus::Canceled
            && snapshot.cancels.is_empty();
        empty.then(|| PgCancel {
            transaction_key: snapshot.transaction_key.clone().unwrap_or_else(|| format!("closed:{id}")),
            amount: snapshot.amount.map_or(0, |amount| amount.minor),
            reason: String::new(),
            canceled_at: None,
            done: true,
        })
    };
    listed.or_else(closed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::evidence::PaymentKey;
    use crate::domain::money::{Currency, Money};

    fn snapshot(status: PgStatus) -> Box<Snapshot> {
        Box::new(Snapshot {
            payment_key: PaymentKey::parse("pk").unwrap(),
            order_id: "ord_1".to_owned(),
            status,
            method: None,
            amount: Some(Money::new(1_000, Currency::KRW)),
            balance: 1_000,
            own_shop: true,
            approved_at: Some(chrono::DateTime::UNIX_EPOCH),
            transaction_key: None,
            secret: None,
            deposit: None,
            deposit_closed: false,
            cancels: Vec::new(),
            failure_code: None,
        })
    }

    #[test]
    fn a_cancel_is_found_by_its_own_id_only() {
        let (mine, other) = (CancellationId::new(), CancellationId::new());
        let mut seen = snapshot(PgStatus::PartiallyCanceled);
        seen.cancels.push(PgCancel {
            transaction_key: "tx1".to_owned(),
            amount: 300,
            reason: format!("changed my mind [{mine}]"),
            canceled_at: None,
            done: true,
        });
        let decide = |id, amount| {
            let evidence = CancelEvidence::Snapshot(seen.clone());
            decide_cancel(id, amount, CancellationOrigin::Request, PaymentStatus::Approved, evidence)
        };
        assert!(matches!(decide(mine, 300), CancelVerdict::Done(_)));
        assert!(matches!(decide(mine, 301), CancelVerdict::StillOpen(_)));
        assert!(matches!(decide(other, 300), CancelVerdict::StillOpen(_)));
    }

    #[test]
    fn a_refused_compensation_stays_open() {
        use crate::domain::evidence::RefusalClass;
        let refusal = Refusal { class: RefusalClass::TooLate, code: "EXCEED_MAX_REFUND_DUE".to_owned() };
        let decide = |origin| {
            let evidence = CancelEvidence::Refused(refusal.clone());
            decide_cancel(CancellationId::new(), 1, origin, PaymentStatus::Reversing, evidence)
        };
        assert!(matches!(decide(CancellationOrigin::Compensation), CancelVerdict::StillOpen(_)));
        assert!(matches!(decide(CancellationOrigin::Request), CancelVerdict::Refuse(_)));
    }
}
