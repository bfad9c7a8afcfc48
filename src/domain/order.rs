//! What an order may become.

use super::{IllegalTransition, vocabulary};

vocabulary! {
    /// Where an order stands.
    pub enum OrderStatus {
        /// Stock is held, nothing is paid.
        Pending => "pending",
        /// A payment is being confirmed; the hold is frozen until its outcome is certain.
        Confirming => "confirming",
        /// A virtual account was issued; stock stays held until the deposit or its due date.
        AwaitingDeposit => "awaiting_deposit",
        /// The money is ours.
        Paid => "paid",
        /// Some of the money was given back.
        PartiallyCanceled => "partially_canceled",
        /// Nothing is owed either way; all stock was given back.
        Canceled => "canceled",
        /// The hold ended unpaid; all stock was given back.
        Expired => "expired",
    }
}

vocabulary! {
    /// What can happen to an order.
    pub enum OrderEvent {
        /// The order was stored and its stock taken.
        Placed => "OrderPlaced",
        /// A confirm froze the hold.
        ConfirmStarted => "OrderConfirmStarted",
        /// The payment ended without money while the hold is alive.
        Reopened => "OrderReopened",
        /// The hold ended unpaid.
        HoldExpired => "OrderHoldExpired",
        /// The PG issued a virtual account.
        DepositAwaited => "OrderDepositAwaited",
        /// The money arrived.
        Paid => "OrderPaid",
        /// The bank took a virtual-account deposit back.
        DepositReversed => "OrderDepositReversed",
        /// The virtual account's due date passed without a deposit.
        DepositOverdue => "OrderDepositOverdue",
        /// Canceled before any money was taken.
        CanceledUnpaid => "OrderCanceledUnpaid",
        /// A part of the money went back.
        PartiallyCanceled => "OrderPartiallyCanceled",
        /// The last of the money went back.
        Canceled => "OrderCanceled",
        /// The buyer asked for a cancel while the outcome was open; remembered, no change of state.
        CancelRequested => "OrderCancelRequested",
    }
}

/// The state that an order begins in by `event`, if it can be the first of its history.
#[must_use]
pub const fn first(event: OrderEvent) -> Option<OrderStatus> {
    use OrderEvent as E;
    match event {
        E::Placed => Some(OrderStatus::Pending),
        E::ConfirmStarted
        | E::Reopened
        | E::HoldExpired
        | E::DepositAwaited
        | E::Paid
        | E::DepositReversed
        | E::DepositOverdue
        | E::CanceledUnpaid
        | E::PartiallyCanceled
        | E::Canceled
        | E::CancelRequested => None,
    }
}

/// Whether nothing can change this state any more.
#[must_use]
pub const fn is_final(status: OrderStatus) -> bool {
    match status {
        OrderStatus::Canceled | OrderStatus::Expired => true,
        OrderStatus::Pending
        | OrderStatus::Confirming
        | OrderStatus::AwaitingDeposit
        | OrderStatus::Paid
        | OrderStatus::PartiallyCanceled => false,
    }
}

/// The state after `event`, or why there is none.
pub fn next(status: OrderStatus, event: OrderEvent) -> Result<OrderStatus, IllegalTransition> {
    use OrderEvent as E;
    use OrderStatus as S;
    match (status, event) {
        (S::Pending, E::ConfirmStarted) => Ok(S::Confirming),
        (S::Pending, E::CanceledUnpaid) => Ok(S::Canceled),
        (S::Pending, E::HoldExpired) => Ok(S::Expired),
        (S::Confirming, E::CancelRequested) => Ok(S::Confirming),
        (S::Confirming, E::Paid) => Ok(S::Paid),
        (S::Confirming, E::DepositAwaited) => Ok(S::AwaitingDeposit),
        (S::Confirming, E::Reopened) => Ok(S::Pending),
        (S::Confirming, E::HoldExpired) => Ok(S::Expired),
        (S::Confirming, E::CanceledUnpaid) => Ok(S::Canceled),
        (S::AwaitingDeposit, E::Paid) => Ok(S::Paid),
        (S::AwaitingDeposit, E::DepositOverdue) => Ok(S::Expired),
        (S::AwaitingDeposit, E::CanceledUnpaid) => Ok(S::Canceled),
        (S::Paid, E::DepositReversed) => Ok(S::AwaitingDeposit),
        (S::Paid | S::PartiallyCanceled, E::PartiallyCanceled) => Ok(S::PartiallyCanceled),
        (S::Paid | S::PartiallyCanceled, E::Canceled) => Ok(S::Canceled),
        (
            S::Pending | S::Confirming | S::AwaitingDeposit | S::Paid | S::PartiallyCanceled | S::Canceled | S::Expired,
            E::Placed
            | E::ConfirmStarted
            | E::Reopened
            | E::HoldExpired
            | E::DepositAwaited
            | E::Paid
            | E::DepositReversed
            | E::DepositOverdue
            | E::CanceledUnpaid
            | E::PartiallyCanceled
            | E::Canceled
            | E::CancelRequested,
        ) => Err(IllegalTransition { machine: "order", from: status.as_str(), event: event.as_str() }),
    }
}

impl OrderStatus {
    /// Whether the order's quantities are out of `available`: held, or sold and not given back.
    #[must_use]
    pub const fn keeps_stock(self) -> bool {
        match self {
            Self::Pending | Self::Confirming | Self::AwaitingDeposit | Self::Paid | Self::PartiallyCanceled => true,
            Self::Canceled | Self::Expired => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_orders_never_move_again() {
        for &status in OrderStatus::ALL {
            let moves = OrderEvent::ALL.iter().any(|&event| next(status, event).is_ok());
            assert_eq!(is_final(status), !moves, "{status:?}");
        }
        assert!(is_final(OrderStatus::Canceled) && is_final(OrderStatus::Expired));
    }

    #[test]
    fn exactly_the_listed_steps_are_legal() {
        let legal = OrderStatus::ALL
            .iter()
            .flat_map(|&s| OrderEvent::ALL.iter().map(move |&e| next(s, e)))
            .filter(Result::is_ok)
            .count();
        assert_eq!(legal, 17);
    }

    #[test]
    fn an_unpaid_order_is_never_partially_canceled() {
        for status in [OrderStatus::Pending, OrderStatus::Confirming, OrderStatus::AwaitingDeposit] {
            assert!(next(status, OrderEvent::PartiallyCanceled).is_err());
        }
    }
}
