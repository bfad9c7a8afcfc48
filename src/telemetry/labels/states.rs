//! The words of what happened to orders, payments and cancellations: states, stages, doubts and methods.

use crate::domain::cancellation::{self, CancellationEvent, CancellationStatus};
use crate::domain::evidence::DoubtReason;
use crate::domain::money::Currency;
use crate::domain::order::{self, OrderEvent, OrderStatus};
use crate::domain::payment::{self, Method, PaymentEvent, PaymentStatus};
use crate::domain::{IllegalTransition, vocabulary};

vocabulary! {
    /// What has a history.
    pub enum Aggregate {
        /// An order.
        Order => "order",
        /// A payment.
        Payment => "payment",
        /// A cancellation.
        Cancellation => "cancellation",
    }
}

vocabulary! {
    /// Where an order, a payment or a cancellation stands.
    pub enum StatusWord {
        /// It did not exist.
        None => "none",
        /// See [`OrderStatus::Pending`].
        Pending => "pending",
        /// See [`PaymentStatus::Ready`].
        Ready => "ready",
        /// See [`OrderStatus::Confirming`] and [`PaymentStatus::Confirming`].
        Confirming => "confirming",
        /// See [`OrderStatus::AwaitingDeposit`] and [`PaymentStatus::AwaitingDeposit`].
        AwaitingDeposit => "awaiting_deposit",
        /// See [`OrderStatus::Paid`].
        Paid => "paid",
        /// See [`PaymentStatus::Approved`].
        Approved => "approved",
        /// See [`OrderStatus::PartiallyCanceled`] and [`PaymentStatus::PartiallyCanceled`].
        PartiallyCanceled => "partially_canceled",
        /// See [`OrderStatus::Canceled`] and [`PaymentStatus::Canceled`].
        Canceled => "canceled",
        /// See [`PaymentStatus::Declined`].
        Declined => "declined",
        /// See [`OrderStatus::Expired`] and [`PaymentStatus::Expired`].
        Expired => "expired",
        /// See [`PaymentStatus::Reversing`].
        Reversing => "reversing",
        /// See [`CancellationStatus::Requested`].
        Requested => "requested",
        /// See [`CancellationStatus::Done`].
        Done => "done",
        /// See [`CancellationStatus::Refused`].
        Refused => "refused",
    }
}

impl From<OrderStatus> for StatusWord {
    fn from(status: OrderStatus) -> Self {
        match status {
            OrderStatus::Pending => Self::Pending,
            OrderStatus::Confirming => Self::Confirming,
            OrderStatus::AwaitingDeposit => Self::AwaitingDeposit,
            OrderStatus::Paid => Self::Paid,
            OrderStatus::PartiallyCanceled => Self::PartiallyCanceled,
            OrderStatus::Canceled => Self::Canceled,
            OrderStatus::Expired => Self::Expired,
        }
    }
}

impl From<PaymentStatus> for StatusWord {
    fn from(status: PaymentStatus) -> Self {
        match status {
            PaymentStatus::Ready => Self::Ready,
            PaymentStatus::Confirming => Self::Confirming,
            PaymentStatus::AwaitingDeposit => Self::AwaitingDeposit,
            PaymentStatus::Approved => Self::Approved,
            PaymentStatus::PartiallyCanceled => Self::PartiallyCanceled,
            PaymentStatus::Canceled => Self::Canceled,
            PaymentStatus::Declined => Self::Declined,
            PaymentStatus::Expired => Self::Expired,
            PaymentStatus::Reversing => Self::Reversing,
        }
    }
}

impl From<CancellationStatus> for StatusWord {
    fn from(status: CancellationStatus) -> Self {
        match status {
            CancellationStatus::Requested => Self::Requested,
            CancellationStatus::Done => Self::Done,
            CancellationStatus::Refused => Self::Refused,
        }
    }
}

vocabulary! {
    /// A stage that an order reaches at most once.
    pub enum FunnelStage {
        /// It was placed.
        OrderCreated => "order_created",
        /// A confirm of its payment began.
        ConfirmRequested => "confirm_requested",
        /// Its money was taken.
        Paid => "paid",
        /// A virtual account was issued for it.
        DepositAwaited => "deposit_awaited",
        /// It was canceled: nothing is owed either way.
        Canceled => "canceled",
        /// Its hold, or its deposit's time, ran out.
        Expired => "expired",
    }
}

vocabulary! {
    /// Which way money goes.
    pub enum MoneyMove {
        /// To us.
        Confirm => "confirm",
        /// Back to the buyer.
        Cancel => "cancel",
    }
}

vocabulary! {
    /// Why an outcome became uncertain.
    pub enum DoubtCause {
        /// See [`DoubtReason::Timeout`].
        Timeout => "timeout",
        /// See [`DoubtReason::ConnectionLost`].
        ConnectionLost => "connection_lost",
        /// See [`DoubtReason::ServerError`].
        ServerError => "server_error",
        /// See [`DoubtReason::Undecodable`].
        Undecodable => "undecodable",
        /// See [`DoubtReason::InFlight`].
        InFlight => "in_flight",
        /// See [`DoubtReason::TryLater`].
        TryLater => "try_later",
        /// See [`DoubtReason::ProviderFault`].
        ProviderFault => "provider_fault",
        /// See [`DoubtReason::AlreadyProcessed`].
        AlreadyProcessed => "already_processed",
        /// See [`DoubtReason::SessionGone`].
        SessionGone => "session_gone",
        /// See [`DoubtReason::BalanceDiffers`].
        BalanceDiffers => "balance_differs",
        /// See [`DoubtReason::UnlistedCode`].
        UnlistedCode => "unlisted_code",
        /// See [`DoubtReason::Inconclusive`].
        Inconclusive => "inconclusive",
        /// Whoever asked ended, or could not record the answer.
        Crash => "crash",
    }
}

impl From<DoubtReason> for DoubtCause {
    fn from(reason: DoubtReason) -> Self {
        match reason {
            DoubtReason::Timeout => Self::Timeout,
            DoubtReason::ConnectionLost => Self::ConnectionLost,
            DoubtReason::ServerError => Self::ServerError,
            DoubtReason::Undecodable => Self::Undecodable,
            DoubtReason::InFlight => Self::InFlight,
            DoubtReason::TryLater => Self::TryLater,
            DoubtReason::ProviderFault => Self::ProviderFault,
            DoubtReason::AlreadyProcessed => Self::AlreadyProcessed,
            DoubtReason::SessionGone => Self::SessionGone,
            DoubtReason::BalanceDiffers => Self::BalanceDiffers,
            DoubtReason::UnlistedCode => Self::UnlistedCode,
            DoubtReason::Inconclusive => Self::Inconclusive,
        }
    }
}

vocabulary! {
    /// How an uncertain outcome became certain.
    pub enum DoubtResolution {
        /// The money was taken, or an account was issued for it.
        Approved => "approved",
        /// The PG had said no.
        Declined => "declined",
        /// The PG never heard of it.
        NotFound => "not_found",
        /// The money had gone back.
        Canceled => "canceled",
        /// The PG had refused to give it back.
        Refused => "refused",
        /// Otherwise, for example with money that goes back.
        Other => "other",
    }
}

vocabulary! {
    /// Whether an uncertain outcome became certain within five minutes.
    pub enum InTime {
        /// It did.
        Yes => "true",
        /// It took longer.
        No => "false",
    }
}

vocabulary! {
    /// How a payment is made.
    pub enum PaymentMethod {
        /// A card.
        Card => "card",
        /// A wallet.
        EasyPay => "easy_pay",
        /// A bank transfer.
        Transfer => "transfer",
        /// An account issued for the payment.
        VirtualAccount => "virtual_account",
        /// The phone bill.
        Mobile => "mobile",
        /// A gift certificate.
        GiftCertificate => "gift_certificate",
        /// Anything else.
        Other => "other",
        /// Not known (yet), or none takes part.
        None => "none",
    }
}

impl From<Option<Method>> for PaymentMethod {
    fn from(method: Option<Method>) -> Self {
        match method {
            Some(Method::Card) => Self::Card,
            Some(Method::EasyPay) => Self::EasyPay,
            Some(Method::Transfer) => Self::Transfer,
            Some(Method::VirtualAccount) => Self::VirtualAccount,
            Some(Method::Mobile) => Self::Mobile,
            Some(Method::Gift) => Self::GiftCertificate,
            Some(Method::Foreign | Method::Other) => Self::Other,
            None => Self::None,
        }
    }
}

vocabulary! {
    /// The currencies that are told apart.
    pub enum CurrencyLabel {
        /// South Korean won.
        Krw => "KRW",
        /// United States dollars, in cents.
        Usd => "USD",
        /// Japanese yen.
        Jpy => "JPY",
        /// Another one; its amounts cannot be added up.
        Other => "other",
    }
}

impl From<Currency> for CurrencyLabel {
    fn from(currency: Currency) -> Self {
        Self::parse(currency.code()).unwrap_or(Self::Other)
    }
}

impl Aggregate {
    /// Whether the tables of `domain` let something of this kind go from one state to the other; from `none` it begins.
    #[must_use]
    pub fn can_change(self, from: StatusWord, to: StatusWord) -> bool {
        match self {
            Self::Order => leads(OrderStatus::ALL, OrderEvent::ALL, order::first, order::next, from, to),
            Self::Payment => leads(PaymentStatus::ALL, PaymentEvent::ALL, payment::first, payment::next, from, to),
            Self::Cancellation => {
                let (statuses, events) = (CancellationStatus::ALL, CancellationEvent::ALL);
                leads(statuses, events, cancellation::first, cancellation::next, from, to)
            }
        }
    }
}

/// Whether one of the events leads from one word to the other.
fn leads<S: Copy + Into<StatusWord>, E: Copy>(
    statuses: &[S],
    events: &[E],
    first: fn(E) -> Option<S>,
    next: fn(S, E) -> Result<S, IllegalTransition>,
    from: StatusWord,
    to: StatusWord,
) -> bool {
    let is_to = |status: S| status.into() == to;
    let begins = from == StatusWord::None && events.iter().any(|event| first(*event).is_some_and(is_to));
    let follows = |status: &S| events.iter().any(|event| next(*status, *event).is_ok_and(is_to));
    begins || statuses.iter().any(|status| (*status).into() == from && follows(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_its_own_word_and_only_steps_of_the_tables_are_changes() {
        for status in OrderStatus::ALL {
            assert_eq!(StatusWord::from(*status).as_str(), status.as_str());
        }
        for status in PaymentStatus::ALL {
            assert_eq!(StatusWord::from(*status).as_str(), status.as_str());
        }
        for status in CancellationStatus::ALL {
            assert_eq!(StatusWord::from(*status).as_str(), status.as_str());
        }
        assert!(Aggregate::Order.can_change(StatusWord::None, StatusWord::Pending));
        assert!(Aggregate::Payment.can_change(StatusWord::Confirming, StatusWord::Confirming), "a doubt is noted");
        assert!(Aggregate::Cancellation.can_change(StatusWord::None, StatusWord::Done), "made in the PG's console");
        assert!(!Aggregate::Order.can_change(StatusWord::Canceled, StatusWord::Pending));
        assert!(!Aggregate::Payment.can_change(StatusWord::Pending, StatusWord::Confirming), "a state of orders");
    }

    #[test]
    fn every_doubt_has_its_cause_and_every_method_its_word() {
        for reason in DoubtReason::ALL {
            assert_eq!(DoubtCause::from(*reason).as_str(), reason.as_str());
        }
        assert_eq!(PaymentMethod::from(Some(Method::Gift)), PaymentMethod::GiftCertificate);
        assert_eq!(PaymentMethod::from(None), PaymentMethod::None);
        assert_eq!(CurrencyLabel::from(Currency::KRW), CurrencyLabel::Krw);
        let kuwait = Currency::parse("KWD").expect("a currency");
        assert_eq!(CurrencyLabel::from(kuwait), CurrencyLabel::Other);
    }
}
