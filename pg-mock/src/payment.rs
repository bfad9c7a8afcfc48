//! One payment as the fake PG knows it, and every step it can take.
//!
//! Steps are pure: they take the payment and give back the payment after the step, so that the
//! caller decides when the step becomes visible (at once, or after a scripted delay). Called by
//! [`crate::gateway`] and the endpoint modules under [`crate::toss`]. It knows nothing of HTTP, of
//! JSON or of webhooks, and it does not decide whether a step is allowed: the endpoints do, because
//! each refusal has its own documented code.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The eight documented payment statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// Opened; the buyer has not authenticated yet.
    Ready,
    /// Authenticated; waiting for the shop's confirm.
    InProgress,
    /// A virtual account was issued and is not (or no longer) paid.
    WaitingForDeposit,
    /// The money was taken.
    Done,
    /// Canceled in one go, or a virtual account canceled before its deposit.
    Canceled,
    /// Canceled in parts, even if nothing is left.
    PartialCanceled,
    /// The approval failed.
    Aborted,
    /// The buyer or the shop was too late.
    Expired,
}

/// How the buyer pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Method {
    /// A card typed into the payment window.
    Card,
    /// An account number issued for one order, paid later by bank transfer.
    VirtualAccount,
    /// A wallet.
    EasyPay,
    /// A direct bank transfer.
    Transfer,
}

impl Method {
    /// The smallest amount the PG takes, in won.
    pub(crate) fn minimum_krw(self) -> i64 {
        match self {
            Method::Card | Method::EasyPay => 100,
            Method::VirtualAccount | Method::Transfer => 200,
        }
    }
}

/// Which card the buyer picked in the payment window, by how the card company will answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Card {
    /// Approved at confirm.
    #[default]
    Good,
    /// Refused by the card company at confirm: `REJECT_CARD_COMPANY`.
    Refused,
    /// Over its limit or without balance at confirm: `REJECT_CARD_PAYMENT`.
    InsufficientBalance,
}

impl Card {
    /// The documented code this card meets at confirm, if it is refused there.
    pub(crate) fn refusal(self) -> Option<&'static str> {
        match self {
            Card::Good => None,
            Card::Refused => Some("REJECT_CARD_COMPANY"),
            Card::InsufficientBalance => Some("REJECT_CARD_PAYMENT"),
        }
    }
}

/// Money taken from the buyer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Approval {
    /// The transaction this approval is listed under.
    pub transaction_key: String,
    /// What was really taken, in minor units of the payment's currency.
    pub amount: i64,
    /// When it was taken.
    pub approved_at: DateTime<Utc>,
    /// The `Idempotency-Key` of the confirm; `None` for a deposit into a virtual account.
    pub idempotency_key: Option<String>,
    /// Set when the bank took a deposit back: the money is then no longer with the shop.
    pub reversed_at: Option<DateTime<Utc>>,
}

/// Who asked for a cancellation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelOrigin {
    /// The cancel endpoint.
    Api,
    /// The PG's own back office.
    Console,
}

/// One cancellation, in full or in part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cancellation {
    /// The identity of this cancellation at the PG.
    pub transaction_key: String,
    /// The canceled amount, in minor units.
    pub amount: i64,
    /// The part of `amount` that went back to the buyer: 0 for a virtual account nobody paid into.
    pub returned: i64,
    /// What could still be canceled afterwards.
    pub refundable_amount: i64,
    /// The reason given.
    pub reason: String,
    /// When it happened.
    pub canceled_at: DateTime<Utc>,
    /// The `Idempotency-Key` of the cancel; `None` when it was made in the back office.
    pub idempotency_key: Option<String>,
    /// Who asked.
    pub origin: CancelOrigin,
}

/// One row of the transaction list: an approval, a cancellation, or an account being issued.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Transaction {
    pub transaction_key: String,
    pub status: Status,
    pub at: DateTime<Utc>,
    pub amount: i64,
}

/// Where the payment window sends the buyer back to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReturnUrls {
    pub success: String,
    pub fail: String,
}

/// The PG's record of one payment.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Payment {
    pub payment_key: String,
    pub order_id: String,
    pub order_name: String,
    pub currency: String,
    pub method: Method,
    pub status: Status,
    /// What the window was opened for; confirm must repeat it.
    pub requested_amount: i64,
    /// What is charged: the same, unless a script charges another amount.
    pub total_amount: i64,
    pub tax_free_amount: i64,
    pub discount: i64,
    pub requested_at: DateTime<Utc>,
    /// End of the clock that runs in `READY` and `IN_PROGRESS`.
    pub deadline: DateTime<Utc>,
    pub approved_at: Option<DateTime<Utc>>,
    /// When a virtual account stops taking deposits.
    pub due_at: Option<DateTime<Utc>>,
    pub secret: String,
    pub last_transaction_key: Option<String>,
    pub escrow: bool,
    pub partial_cancelable: bool,
    pub card: Card,
    /// Code of the refusal that ended the payment.
    pub failure: Option<String>,
    pub approvals: Vec<Approval>,
    pub cancels: Vec<Cancellation>,
    pub transactions: Vec<Transaction>,
    pub return_urls: Option<ReturnUrls>,
}

/// Who confirmed, when and for how much.
pub(crate) struct Confirmation<'a> {
    pub at: DateTime<Utc>,
    pub idempotency_key: Option<&'a str>,
    pub charged: i64,
    pub deposit_due_at: DateTime<Utc>,
}

/// What to cancel.
pub(crate) struct CancelOrder<'a> {
    pub at: DateTime<Utc>,
    pub amount: i64,
    pub reason: &'a str,
    pub idempotency_key: Option<&'a str>,
    pub origin: CancelOrigin,
}

impl Payment {
    /// Money with the shop before cancellations: approvals the bank has not taken back.
    pub fn approved(&self) -> i64 {
        self.approvals.iter().filter(|approval| approval.reversed_at.is_none()).map(|approval| approval.amount).sum()
    }

    /// Money that went back to the buyer through cancellations.
    pub fn canceled(&self) -> i64 {
        self.cancels.iter().map(|cancel| cancel.returned).sum()
    }

    /// What can still be canceled.
    pub fn balance(&self) -> i64 {
        let canceled: i64 = self.cancels.iter().map(|cancel| cancel.amount).sum();
        self.total_amount - canceled
    }

    /// The buyer authenticated; the confirm clock starts.
    pub fn authenticate(mut self, deadline: DateTime<Utc>) -> Payment {
        self.status = Status::InProgress;
        self.deadline = deadline;
        self
    }

    /// The confirm succeeded: money taken, or an account number issued.
    pub fn confirm(mut self, confirmation: Confirmation<'_>) -> Payment {
        self.total_amount = confirmation.charged;
        match self.method {
            Method::VirtualAccount => {
                self.status = Status::WaitingForDeposit;
                self.due_at = Some(confirmation.deposit_due_at);
                self.record(confirmation.at, 0);
                self
            }
            Method::Card | Method::EasyPay | Method::Transfer => {
                self.take(confirmation.at, confirmation.idempotency_key.map(str::to_owned))
            }
        }
    }

    /// The buyer paid into the virtual account.
    pub fn deposit(self, at: DateTime<Utc>) -> Payment {
        self.take(at, None)
    }

    /// The bank took a deposit that it should have refused. The close of the account, if there was one, gave nothing back
    /// and is over with it.
    pub fn deposit_anyway(mut self, at: DateTime<Utc>, amount: i64) -> Payment {
        self.cancels.clear();
        self.total_amount = amount;
        self.take(at, None)
    }

    fn take(mut self, at: DateTime<Utc>, idempotency_key: Option<String>) -> Payment {
        self.status = Status::Done;
        self.approved_at = Some(at);
        let amount = self.total_amount;
        let transaction_key = self.record(at, amount);
        self.approvals.push(Approval { transaction_key, amount, approved_at: at, idempotency_key, reversed_at: None });
        self
    }

    /// The bank took the deposit back.
    pub fn reverse_deposit(mut self, at: DateTime<Utc>) -> Payment {
        self.status = Status::WaitingForDeposit;
        self.approved_at = None;
        if let Some(approval) = self.approvals.last_mut() {
            approval.reversed_at = Some(at);
        }
        self.record(at, 0);
        self
    }

    /// Part or all of the payment is given back. The caller has checked the amount.
    pub fn cancel(mut self, order: &CancelOrder<'_>) -> Payment {
        let whole = self.cancels.is_empty() && order.amount == self.balance();
        let paid = self.status != Status::WaitingForDeposit;
        self.status = if whole { Status::Canceled } else { Status::PartialCanceled };
        let transaction_key = self.record(order.at, -order.amount);
        self.cancels.push(Cancellation {
            transaction_key,
            amount: order.amount,
            returned: if paid { order.amount } else { 0 },
            refundable_amount: self.balance() - order.amount,
            reason: order.reason.to_owned(),
            canceled_at: order.at,
            idempotency_key: order.idempotency_key.map(str::to_owned),
            origin: order.origin,
        });
        self
    }

    /// What was taken is booked under another amount.
    pub fn rebook(&mut self, amount: i64) {
        self.total_amount = amount;
        for approval in &mut self.approvals {
            approval.amount = amount;
        }
        for row in self.transactions.iter_mut().filter(|row| row.amount > 0) {
            row.amount = amount;
        }
    }

    /// The approval failed for good.
    pub fn abort(mut self, code: &str) -> Payment {
        self.status = Status::Aborted;
        self.failure = Some(code.to_owned());
        self
    }

    /// The clock of this payment ran out.
    pub fn expire(mut self) -> Payment {
        self.status = Status::Expired;
        self.failure = Some("EXPIRED_PAYMENT".to_owned());
        self
    }

    fn record(&mut self, at: DateTime<Utc>, amount: i64) -> String {
        let transaction_key = format!("txrd_{}", Uuid::new_v4().simple());
        self.transactions.push(Transaction {
            transaction_key: transaction_key.clone(),
            status: self.status,
            at,
            amount,
        });
        self.last_transaction_key = Some(transaction_key.clone());
        transaction_key
    }
}
