//! Why a payment is where it is, in words: a total function from what is known to what an operator reads.
//!
//! `payments::explain` gathers the facts. Nothing here knows the time, a database or a PG: whether something is due or
//! leased is a fact like any other.

use super::cancellation::CancellationOrigin;
use super::evidence::DoubtReason;
use super::order::OrderStatus;
use super::payment::{Method, PaymentStatus};
use super::vocabulary;

/// What is known.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// Where the payment stands.
    pub status: PaymentStatus,
    /// Where its order stands.
    pub order: OrderStatus,
    /// How the buyer pays, if known.
    pub method: Option<Method>,
    /// Why the outcome is not certain, if that was noted.
    pub doubt: Option<DoubtReason>,
    /// Whether the request that wrote the intent may still be waiting for the PG.
    pub request_running: bool,
    /// Whether a cancel was asked for while the outcome was open.
    pub cancel_wished: bool,
    /// Whether the circuit breaker lets no inquiry through, where that is known.
    pub inquiries_stopped: bool,
    /// The cancellation that is not decided, if there is one.
    pub open: Option<OpenCancel>,
}

/// What is known about an undecided cancellation.
#[derive(Debug, Clone, Copy)]
pub struct OpenCancel {
    /// Why it exists.
    pub origin: CancellationOrigin,
    /// Why its outcome is not certain, if that was noted.
    pub doubt: Option<DoubtReason>,
    /// Whether the request that wrote it may still be waiting for the PG.
    pub request_running: bool,
    /// Whether it can only be sent with a refund account, which is stored nowhere.
    pub needs_account: bool,
}

vocabulary! {
    /// What has to happen before a payment goes on.
    pub enum Awaited {
        /// Nothing: this is where it stays unless somebody asks for something.
        Nothing => "nothing",
        /// The answer to the request that is under way.
        Answer => "answer",
        /// What the PG says when recovery asks it.
        Inquiry => "inquiry",
        /// The buyer's transfer.
        Deposit => "deposit",
        /// What becomes of the open cancellation.
        Cancellation => "cancellation",
        /// The buyer, who may confirm again.
        Buyer => "buyer",
    }
}

vocabulary! {
    /// What an operator may do. Nothing here sets a state: each brings evidence, or asks for something new.
    pub enum Action {
        /// Leave it to recovery.
        Wait => "wait",
        /// Ask the PG now, and apply its answer.
        Inquire => "inquire",
        /// Give money back, or close the virtual account.
        Cancel => "cancel",
        /// End the order: at once while it is unpaid, or as soon as the outcome is certain.
        CancelOrder => "cancel_order",
        /// Ask the PG's support, with the trace ids of the calls.
        AskProvider => "ask_provider",
        /// Give the money back in the PG's own console: the buyer's account is needed, and paygauge has none.
        RefundInConsole => "refund_in_console",
    }
}

/// The explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Where the payment stands and why, in a sentence or two.
    pub summary: String,
    /// What has to happen next.
    pub awaits: Awaited,
    /// What the buyer is shown meanwhile.
    pub buyer_sees: &'static str,
    /// Why the open cancellation is open.
    pub open_cancellation: Option<String>,
    /// What an operator may do, the most useful first.
    pub actions: Vec<Action>,
}

/// Explains.
#[must_use]
pub fn explain(facts: &Facts) -> Explanation {
    Explanation {
        summary: summary(facts),
        awaits: awaits(facts),
        buyer_sees: buyer_sees(facts.status, facts.order),
        open_cancellation: facts.open.as_ref().map(why_open),
        actions: actions(facts),
    }
}

fn summary(facts: &Facts) -> String {
    let text = match facts.status {
        PaymentStatus::Ready => "The PG certainly did nothing with the last confirm, so no money was taken.",
        PaymentStatus::Confirming => return confirming(facts),
        PaymentStatus::AwaitingDeposit => "The PG issued a virtual account and waits for the buyer's transfer.",
        PaymentStatus::Approved => "The PG took the order's amount, and all of it is kept.",
        PaymentStatus::PartiallyCanceled => "The PG took the order's amount, and a part of it went back.",
        PaymentStatus::Canceled => {
            "Nothing of the buyer's money is left at the PG: all of it went back, or none ever came."
        }
        PaymentStatus::Declined => {
            "The PG refused, for certain: no money was taken, and this payment cannot be tried again."
        }
        PaymentStatus::Expired => "The virtual account's due date passed without a deposit.",
        PaymentStatus::Reversing => {
            "The PG took money that no order may keep; it is being given back until nothing is left."
        }
    };
    text.to_owned()
}

fn confirming(facts: &Facts) -> String {
    let mut text = match facts.doubt {
        None if facts.request_running => "The confirm is under way: its request waits for the PG's answer.".to_owned(),
        None => "The confirm was begun, and whoever began it left no answer: recovery is to find out.".to_owned(),
        Some(doubt) => {
            format!("The money may have been taken or not: {}. The PG is asked until it says.", words(doubt))
        }
    };
    if facts.cancel_wished {
        text.push_str(" A cancel was asked for meanwhile, and is carried out as soon as the outcome is certain.");
    }
    text
}

fn why_open(open: &OpenCancel) -> String {
    let origin = match open.origin {
        CancellationOrigin::Request => "It was asked for through the API",
        CancellationOrigin::Wish => "It was asked for while the payment was being confirmed",
        CancellationOrigin::Compensation => "It returns money that no order may keep, and is never given up",
        CancellationOrigin::External => "It was made in the PG's own console",
    };
    let state = match open.doubt {
        None if open.request_running => "its request waits for the PG's answer".to_owned(),
        None => "recovery is to send it, or to find out whether it was sent".to_owned(),
        Some(doubt) => words(doubt).to_owned(),
    };
    let account = if open.needs_account {
        " Its refund account is stored nowhere: if the PG has not got it, it is refused, and must be asked for again."
    } else {
        ""
    };
    format!("{origin}; {state}.{account}")
}

/// A doubt as the end of a sentence.
const fn words(doubt: DoubtReason) -> &'static str {
    match doubt {
        DoubtReason::Timeout => "no answer came in time",
        DoubtReason::ConnectionLost => "the connection broke after the request had left",
        DoubtReason::ServerError => "the PG, or something before it, answered 5xx",
        DoubtReason::Undecodable => "the answer could not be read",
        DoubtReason::InFlight => "the PG says that the same request is still running",
        DoubtReason::TryLater => "the PG could not be reached, or asked to wait; it is sent again",
        DoubtReason::ProviderFault => "the PG reported a fault behind it, or refused to take the money back",
        DoubtReason::AlreadyProcessed => "the PG says that it was done already, and must show how it ended",
        DoubtReason::SessionGone => "the PG no longer has the session",
        DoubtReason::BalanceDiffers => "the PG's balance is not the one that we expected",
        DoubtReason::UnlistedCode => "the PG used a code that our table does not list",
        DoubtReason::Inconclusive => "the PG's answer was about another payment, or in a state that says nothing",
    }
}

fn awaits(facts: &Facts) -> Awaited {
    if facts.open.is_some() {
        return Awaited::Cancellation;
    }
    match facts.status {
        PaymentStatus::Confirming if facts.doubt.is_none() && facts.request_running => Awaited::Answer,
        PaymentStatus::Confirming => Awaited::Inquiry,
        PaymentStatus::AwaitingDeposit => Awaited::Deposit,
        PaymentStatus::Ready if facts.order == OrderStatus::Pending => Awaited::Buyer,
        // A reversal without an open cancellation is just about to get one.
        PaymentStatus::Reversing => Awaited::Cancellation,
        PaymentStatus::Ready
        | PaymentStatus::Approved
        | PaymentStatus::PartiallyCanceled
        | PaymentStatus::Canceled
        | PaymentStatus::Declined
        | PaymentStatus::Expired => Awaited::Nothing,
    }
}

/// The buyer sees the order first: another payment of it may have gone well.
const fn buyer_sees(status: PaymentStatus, order: OrderStatus) -> &'static str {
    match (order, status) {
        (OrderStatus::Confirming, _) => "being checked; neither a success nor a failure",
        (OrderStatus::AwaitingDeposit, _) => "an account number and until when to transfer",
        (OrderStatus::Paid, _) => "paid",
        (OrderStatus::PartiallyCanceled, _) => "paid, with a part given back",
        (OrderStatus::Canceled, PaymentStatus::Reversing) => "a canceled order whose money is being returned",
        (OrderStatus::Canceled, _) => "a canceled order",
        (OrderStatus::Expired, PaymentStatus::Reversing) => "an expired order whose money is being returned",
        (OrderStatus::Expired, _) => "an expired order; nothing was charged",
        (OrderStatus::Pending, PaymentStatus::Declined) => {
            "declined; another way to pay can be tried while the hold lasts"
        }
        (OrderStatus::Pending, PaymentStatus::Reversing) => "an order to be paid; the wrong money is being returned",
        (OrderStatus::Pending, _) => "an order to be paid; nothing was charged",
    }
}

fn actions(facts: &Facts) -> Vec<Action> {
    let mut actions = Vec::new();
    if is_open(facts) {
        actions.push(Action::Wait);
    }
    // An inquiry may reveal something about any payment that a PG knows: a cancel in its console, late money.
    actions.push(Action::Inquire);
    if may_cancel(facts) {
        actions.push(Action::Cancel);
    }
    if may_cancel_order(facts) {
        actions.push(Action::CancelOrder);
    }
    if is_odd(facts.doubt) || facts.open.is_some_and(|open| is_odd(open.doubt)) {
        actions.push(Action::AskProvider);
    }
    if facts.status == PaymentStatus::Reversing && facts.method == Some(Method::VirtualAccount) {
        actions.push(Action::RefundInConsole);
    }
    if facts.inquiries_stopped {
        // It would be refused; recovery finds out when that ends.
        actions.retain(|action| *action != Action::Inquire);
    }
    actions
}

fn is_open(facts: &Facts) -> bool {
    facts.status.is_open() || facts.status == PaymentStatus::Reversing || facts.open.is_some()
}

fn may_cancel(facts: &Facts) -> bool {
    let has_something = match facts.status {
        PaymentStatus::Approved | PaymentStatus::PartiallyCanceled | PaymentStatus::AwaitingDeposit => true,
        PaymentStatus::Ready
        | PaymentStatus::Confirming
        | PaymentStatus::Canceled
        | PaymentStatus::Declined
        | PaymentStatus::Expired
        | PaymentStatus::Reversing => false,
    };
    has_something && facts.open.is_none()
}

fn may_cancel_order(facts: &Facts) -> bool {
    match facts.order {
        OrderStatus::Pending => true,
        OrderStatus::Confirming => !facts.cancel_wished,
        OrderStatus::AwaitingDeposit
        | OrderStatus::Paid
        | OrderStatus::PartiallyCanceled
        | OrderStatus::Canceled
        | OrderStatus::Expired => false,
    }
}

/// Whether waiting alone may not end a doubt: the PG did answer, but in a way that we cannot use.
const fn is_odd(doubt: Option<DoubtReason>) -> bool {
    match doubt {
        Some(
            DoubtReason::ProviderFault
            | DoubtReason::BalanceDiffers
            | DoubtReason::UnlistedCode
            | DoubtReason::Inconclusive
            | DoubtReason::Undecodable,
        ) => true,
        Some(
            DoubtReason::Timeout
            | DoubtReason::ConnectionLost
            | DoubtReason::ServerError
            | DoubtReason::InFlight
            | DoubtReason::TryLater
            | DoubtReason::AlreadyProcessed
            | DoubtReason::SessionGone,
        )
        | None => false,
    }
}

#[cfg(test)]
mod tests;
