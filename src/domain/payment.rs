//! What a payment may become.

use super::{IllegalTransition, vocabulary};

vocabulary! {
    /// Where a payment stands.
    pub enum PaymentStatus {
        /// Known to us, certainly not sent to the PG; may be confirmed again.
        Ready => "ready",
        /// The intent to confirm is committed; the outcome is not certain yet.
        Confirming => "confirming",
        /// A virtual account waits for the buyer's transfer.
        AwaitingDeposit => "awaiting_deposit",
        /// The PG took the order's amount.
        Approved => "approved",
        /// Some of it went back.
        PartiallyCanceled => "partially_canceled",
        /// All of it went back, or an account was closed before the deposit.
        Canceled => "canceled",
        /// The PG said no, for certain.
        Declined => "declined",
        /// A virtual account's due date passed without a deposit.
        Expired => "expired",
        /// Real money that no order may keep is on its way back.
        Reversing => "reversing",
    }
}

vocabulary! {
    /// What can happen to a payment.
    pub enum PaymentEvent {
        /// The intent was committed.
        ConfirmStarted => "PaymentConfirmStarted",
        /// The answer was not certain; an inquiry will tell.
        OutcomeUnknown => "PaymentOutcomeUnknown",
        /// The PG certainly never got the request.
        NotSent => "PaymentNotSent",
        /// The PG took the money.
        Approved => "PaymentApproved",
        /// The PG refused.
        Declined => "PaymentDeclined",
        /// The PG issued a virtual account.
        DepositAwaited => "PaymentDepositAwaited",
        /// The bank took the deposit back.
        DepositReversed => "PaymentDepositReversed",
        /// The due date passed without a deposit.
        DepositOverdue => "PaymentDepositOverdue",
        /// The PG took money that no order may keep: late, superseded, or another amount.
        ReversalStarted => "PaymentReversalStarted",
        /// A part went back.
        PartiallyCanceled => "PaymentPartiallyCanceled",
        /// The last part went back.
        Canceled => "PaymentCanceled",
    }
}

/// The state that a payment begins in by `event`, if it can be the first of its history.
#[must_use]
pub const fn first(event: PaymentEvent) -> Option<PaymentStatus> {
    use PaymentEvent as E;
    match event {
        E::ConfirmStarted => Some(PaymentStatus::Confirming),
        E::OutcomeUnknown
        | E::NotSent
        | E::Approved
        | E::Declined
        | E::DepositAwaited
        | E::DepositReversed
        | E::DepositOverdue
        | E::ReversalStarted
        | E::PartiallyCanceled
        | E::Canceled => None,
    }
}

/// The state after `event`, or why there is none.
pub fn next(status: PaymentStatus, event: PaymentEvent) -> Result<PaymentStatus, IllegalTransition> {
    use PaymentEvent as E;
    use PaymentStatus as S;
    match (status, event) {
        (S::Ready, E::ConfirmStarted) => Ok(S::Confirming),
        (S::Confirming, E::OutcomeUnknown) => Ok(S::Confirming),
        (S::Confirming, E::NotSent) => Ok(S::Ready),
        (S::Confirming, E::Declined) => Ok(S::Declined),
        (S::Confirming, E::DepositAwaited) => Ok(S::AwaitingDeposit),
        (S::Confirming | S::AwaitingDeposit, E::Approved) => Ok(S::Approved),
        (S::Approved, E::DepositReversed) => Ok(S::AwaitingDeposit),
        (S::AwaitingDeposit, E::DepositOverdue) => Ok(S::Expired),
        (S::AwaitingDeposit, E::Canceled) => Ok(S::Canceled),
        // From `canceled` only where nothing had been taken: a deposit into an account that was closed.
        (
            S::Ready | S::Confirming | S::AwaitingDeposit | S::Declined | S::Expired | S::Canceled,
            E::ReversalStarted,
        ) => Ok(S::Reversing),
        (S::Approved | S::PartiallyCanceled, E::PartiallyCanceled) => Ok(S::PartiallyCanceled),
        (S::Approved | S::PartiallyCanceled | S::Reversing, E::Canceled) => Ok(S::Canceled),
        (
            S::Ready
            | S::Confirming
            | S::AwaitingDeposit
            | S::Approved
            | S::PartiallyCanceled
            | S::Canceled
            | S::Declined
            | S::Expired
            | S::Reversing,
            E::ConfirmStarted
            | E::OutcomeUnknown
            | E::NotSent
            | E::Approved
            | E::Declined
            | E::DepositAwaited
            | E::DepositReversed
            | E::DepositOverdue
            | E::ReversalStarted
            | E::PartiallyCanceled
            | E::Canceled,
        ) => Err(IllegalTransition { machine: "payment", from: status.as_str(), event: event.as_str() }),
    }
}

vocabulary! {
    /// How the buyer pays. Providers' own names are mapped to these; unlisted ones are `other`.
    pub enum Method {
        /// A card, entered or stored.
        Card => "card",
        /// A wallet such as Toss Pay or Kakao Pay.
        EasyPay => "easy_pay",
        /// A direct bank transfer.
        Transfer => "transfer",
        /// A bank account issued for this payment.
        VirtualAccount => "virtual_account",
        /// The mobile phone bill.
        Mobile => "mobile",
        /// A gift certificate.
        Gift => "gift",
        /// A foreign wallet.
        Foreign => "foreign",
        /// Anything newer than this list.
        Other => "other",
    }
}

impl PaymentStatus {
    /// Whether the PG still has to say how it ends.
    #[must_use]
    pub const fn is_open(self) -> bool {
        match self {
            Self::Confirming | Self::AwaitingDeposit => true,
            Self::Ready
            | Self::Approved
            | Self::PartiallyCanceled
            | Self::Canceled
            | Self::Declined
            | Self::Expired
            | Self::Reversing => false,
        }
    }

    /// Whether the order can have no other payment beside this one.
    #[must_use]
    pub const fn is_live(self) -> bool {
        match self {
            Self::Confirming | Self::AwaitingDeposit | Self::Approved | Self::PartiallyCanceled => true,
            Self::Ready | Self::Canceled | Self::Declined | Self::Expired | Self::Reversing => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declined_payment_is_never_approved() {
        assert!(next(PaymentStatus::Declined, PaymentEvent::Approved).is_err());
    }

    #[test]
    fn only_a_deposit_steps_back() {
        assert_eq!(next(PaymentStatus::Approved, PaymentEvent::DepositReversed), Ok(PaymentStatus::AwaitingDeposit));
        assert!(next(PaymentStatus::PartiallyCanceled, PaymentEvent::DepositReversed).is_err());
    }

    #[test]
    fn exactly_the_listed_steps_are_legal() {
        let legal = PaymentStatus::ALL
            .iter()
            .flat_map(|&s| PaymentEvent::ALL.iter().map(move |&e| next(s, e)))
            .filter(Result::is_ok)
            .count();
        assert_eq!(legal, 21);
    }
}
