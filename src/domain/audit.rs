//! The auditor's rules by name, and the steps that a history may be made of.
//!
//! What a rule looks at is SQL (`db/audit/`); what is legal comes from the state tables beside this file.

use super::cancellation::{self, CancellationEvent, CancellationStatus};
use super::order::{self, OrderEvent, OrderStatus};
use super::payment::{self, PaymentEvent, PaymentStatus};
use super::vocabulary;

vocabulary! {
    /// What must be true of the books at every committed moment, and what should not last.
    pub enum AuditRule {
        /// Adjustments of a product = available + held + sold and not given back.
        StockConserved => "stock_conserved",
        /// An adjustment of stock is a possible one.
        StockAdjusted => "stock_adjusted",
        /// A product can be sold, has one stock row, one first stock, and no less than nothing.
        ProductWhole => "product_whole",
        /// An order's amount is the sum of its lines.
        OrderTotal => "order_total",
        /// An order is paid, in doubt or waiting exactly when a payment of it is.
        OrderMoney => "order_money",
        /// A line belongs to an order and a product that exist.
        LineOwner => "line_owner",
        /// What was canceled of a line is the sum of its cancellations' units, and no more than was sold.
        LineUnits => "line_units",
        /// A payment belongs to an order, and is of its amount and currency.
        PaymentAmount => "payment_amount",
        /// An order has one payment at most that is, or may become, its money.
        PaymentLiveOnce => "payment_live_once",
        /// A payment's status stands on what the PG said: amount, times, class.
        PaymentFacts => "payment_facts",
        /// No more is canceled, or being canceled, than was taken.
        PaymentCapacity => "payment_capacity",
        /// What was canceled of a payment is the sum of its cancellations.
        PaymentCanceled => "payment_canceled",
        /// A payment is partially or fully canceled exactly as far as its money went back.
        PaymentEmptied => "payment_emptied",
        /// Money that no order may keep has a cancellation on its way.
        ReversalReturned => "reversal_returned",
        /// One fact of the PG is booked once.
        FactBookedOnce => "fact_booked_once",
        /// A cancellation and its units belong to its payment's order.
        CancellationOwner => "cancellation_owner",
        /// A cancellation's status stands on what the PG said.
        CancellationFacts => "cancellation_facts",
        /// Whatever is undecided will be asked about.
        OpenInquired => "open_inquired",
        /// A history has no gaps: it counts from 1 to the row's version.
        HistoryGapless => "history_gapless",
        /// The newest event tells the row's status.
        HistoryStatus => "history_status",
        /// Each event starts where the one before ended.
        HistoryChain => "history_chain",
        /// Each event is a step of the state tables.
        HistoryLegal => "history_legal",
        /// An event is about a row that exists, and names that row's order.
        HistoryOwner => "history_owner",
        /// An idempotency key stands for something that exists, and is answered when that is decided.
        KeyAnswered => "key_answered",
        /// A webhook is stored as it came, once, and has an outcome when it was read.
        WebhookWhole => "webhook_whole",
        /// An API key can be checked, and was not revoked before it was made.
        ApiKeyWhole => "api_key_whole",
        /// The history of a reconciliation's finding counts from 1 to its version, and ends with its status.
        FindingWhole => "finding_whole",
        /// No confirm is in doubt for long.
        StuckConfirm => "stuck_confirm",
        /// No cancellation, and no return of money, is in doubt for long.
        StuckCancel => "stuck_cancel",
        /// No virtual account waits long after its due date.
        StuckDeposit => "stuck_deposit",
        /// No order is pending long after its hold.
        StuckHold => "stuck_hold",
        /// No webhook stays unread for long.
        StuckWebhook => "stuck_webhook",
    }
}

vocabulary! {
    /// What a finding of a rule means.
    pub enum AuditSeverity {
        /// The books are wrong: a defect, or somebody's hand.
        Violation => "violation",
        /// The books are right, but something that should end by itself has not.
        Stuck => "stuck",
    }
}

/// By which id a rule's rows are reached: the rows of one id are judged together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuditReach {
    /// An order's.
    Orders,
    /// A product's.
    Products,
    /// That of what an idempotency key made.
    Resources,
    /// A webhook delivery's.
    Deliveries,
    /// All rows at once: they are few, or an index holds the few that matter.
    Everything,
}

impl AuditRule {
    /// What a finding means.
    #[must_use]
    pub const fn severity(self) -> AuditSeverity {
        self.reach_and_severity().1
    }

    /// By which id its rows are reached.
    #[must_use]
    pub const fn reach(self) -> AuditReach {
        self.reach_and_severity().0
    }

    const fn reach_and_severity(self) -> (AuditReach, AuditSeverity) {
        use AuditReach as R;
        use AuditSeverity::{Stuck, Violation};
        match self {
            Self::StockConserved | Self::StockAdjusted | Self::ProductWhole => (R::Products, Violation),
            Self::OrderTotal
            | Self::OrderMoney
            | Self::LineOwner
            | Self::LineUnits
            | Self::PaymentAmount
            | Self::PaymentLiveOnce
            | Self::PaymentFacts
            | Self::PaymentCapacity
            | Self::PaymentCanceled
            | Self::PaymentEmptied
            | Self::ReversalReturned
            | Self::FactBookedOnce
            | Self::CancellationOwner
            | Self::CancellationFacts
            | Self::OpenInquired
            | Self::HistoryGapless
            | Self::HistoryStatus
            | Self::HistoryChain
            | Self::HistoryLegal
            | Self::HistoryOwner => (R::Orders, Violation),
            Self::KeyAnswered => (R::Resources, Violation),
            Self::WebhookWhole => (R::Deliveries, Violation),
            Self::ApiKeyWhole | Self::FindingWhole => (R::Everything, Violation),
            Self::StuckConfirm | Self::StuckCancel | Self::StuckDeposit | Self::StuckHold | Self::StuckWebhook => {
                (R::Everything, Stuck)
            }
        }
    }

    /// What is true where the rule holds.
    #[must_use]
    pub const fn claim(self) -> &'static str {
        match self {
            Self::StockConserved => "adjustments of a product = available + held + sold and not given back",
            Self::StockAdjusted => "an adjustment of stock is a possible one",
            Self::ProductWhole => "a product can be sold, has one stock row, one first stock, and no less than nothing",
            Self::OrderTotal => "an order's amount is the sum of its lines",
            Self::OrderMoney => "an order is paid, in doubt or waiting exactly when a payment of it is",
            Self::LineOwner => "a line belongs to an order and a product that exist",
            Self::LineUnits => "what was canceled of a line is the sum of its cancellations' units",
            Self::PaymentAmount => "a payment belongs to an order, and is of its amount and currency",
            Self::PaymentLiveOnce => "an order has one payment at most that is, or may become, its money",
            Self::PaymentFacts => "a payment's status stands on what the PG said",
            Self::PaymentCapacity => "no more is canceled, or being canceled, than was taken",
            Self::PaymentCanceled => "what was canceled of a payment is the sum of its cancellations",
            Self::PaymentEmptied => "a payment is canceled exactly as far as its money went back",
            Self::ReversalReturned => "money that no order may keep has a cancellation on its way",
            Self::FactBookedOnce => "one fact of the PG is booked once",
            Self::CancellationOwner => "a cancellation and its units belong to its payment's order",
            Self::CancellationFacts => "a cancellation's status stands on what the PG said",
            Self::OpenInquired => "whatever is undecided will be asked about",
            Self::HistoryGapless => "a history counts from 1 to the row's version",
            Self::HistoryStatus => "the newest event tells the row's status",
            Self::HistoryChain => "each event starts where the one before ended",
            Self::HistoryLegal => "each event is a step of the state tables",
            Self::HistoryOwner => "an event is about a row that exists, and names that row's order",
            Self::KeyAnswered => {
                "an idempotency key stands for something that exists, is answered when that is decided, and was claimed once"
            }
            Self::WebhookWhole => "a webhook is stored as it came, once, with an outcome when it was read",
            Self::ApiKeyWhole => "an API key can be checked, and was not revoked before it was made",
            Self::FindingWhole => "a finding's history counts from 1 to its version and ends with its status",
            Self::StuckConfirm => "no confirm is in doubt for long",
            Self::StuckCancel => "no cancellation, and no return of money, is in doubt for long",
            Self::StuckDeposit => "no virtual account waits long after its due date",
            Self::StuckHold => "no order is pending long after its hold",
            Self::StuckWebhook => "no webhook stays unread for long",
        }
    }
}

/// Every step that a history may hold, as `aggregate event from to`, with `-` for a first event: all that the state
/// tables allow, and nothing besides.
#[must_use]
pub fn legal_steps() -> Vec<String> {
    let mut steps = Vec::new();
    let mut add =
        |machine: &str, event: &str, from: &str, to: &str| steps.push(format!("{machine} {event} {from} {to}"));
    for &event in OrderEvent::ALL {
        order::first(event).into_iter().for_each(|to| add("order", event.as_str(), "-", to.as_str()));
        for &from in OrderStatus::ALL {
            order::next(from, event)
                .into_iter()
                .for_each(|to| add("order", event.as_str(), from.as_str(), to.as_str()));
        }
    }
    for &event in PaymentEvent::ALL {
        payment::first(event).into_iter().for_each(|to| add("payment", event.as_str(), "-", to.as_str()));
        for &from in PaymentStatus::ALL {
            let to = payment::next(from, event);
            to.into_iter().for_each(|to| add("payment", event.as_str(), from.as_str(), to.as_str()));
        }
    }
    for &event in CancellationEvent::ALL {
        cancellation::first(event).into_iter().for_each(|to| add("cancellation", event.as_str(), "-", to.as_str()));
        for &from in CancellationStatus::ALL {
            let to = cancellation::next(from, event);
            to.into_iter().for_each(|to| add("cancellation", event.as_str(), from.as_str(), to.as_str()));
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_legal_steps_are_those_of_the_tables() {
        let steps = legal_steps();
        for legal in [
            "order OrderPlaced - pending",
            "order OrderPaid confirming paid",
            "payment PaymentConfirmStarted - confirming",
            "cancellation CancellationDone - done",
            "cancellation CancellationRefused requested refused",
        ] {
            assert!(steps.iter().any(|step| step == legal), "{legal}");
        }
        for illegal in ["order OrderPaid expired paid", "payment PaymentApproved - approved", "order OrderPaid - paid"]
        {
            assert!(steps.iter().all(|step| step != illegal), "{illegal}");
        }
    }
}
