//! Misbehaviour on request: rules that say which call goes wrong, how, and how often.
//!
//! Written by tests through [`crate::PgMock::script`] and by anyone through `POST /mock/script`;
//! consulted by [`crate::toss`] for every authenticated call. A call takes the first rule that
//! matches it. Rules here only describe: what each behaviour does to the payment and to the
//! connection is decided in `toss/behave.rs`.

use serde::{Deserialize, Serialize};

/// The API operations a rule can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// `POST /v1/payments/confirm`
    Confirm,
    /// `GET /v1/payments/{paymentKey}` and `GET /v1/payments/orders/{orderId}`
    Lookup,
    /// `POST /v1/payments/{paymentKey}/cancel`
    Cancel,
    /// `GET /v1/transactions`
    Transactions,
    /// Every one of them.
    Any,
}

/// What goes wrong. "The effect" is what the call would have done to the payment.
///
/// In JSON: `"approve_then_drop"`, or `{"delay": {"ms": 500}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum Behaviour {
    /// Refused with a documented code and its HTTP status (400 for a code that is not documented).
    /// A confirm refused for good also ends the payment as `ABORTED`.
    Decline {
        /// The error code.
        code: String,
    },
    /// A slow PG: the effect and the answer both come after `ms`, and carry the time of arrival.
    Delay {
        /// Milliseconds.
        ms: u64,
    },
    /// The effect comes at once, the answer after `ms`.
    ApproveThenHang {
        /// Milliseconds.
        ms: u64,
    },
    /// No effect; a 500 after `ms`. The idempotency key is free again afterwards.
    HangBefore {
        /// Milliseconds.
        ms: u64,
    },
    /// The effect happens, then the connection is cut without an answer.
    ApproveThenDrop,
    /// The connection is cut at once, the effect comes `ms` later.
    DropThenApprove {
        /// Milliseconds.
        ms: u64,
    },
    /// The connection is cut without an answer and without an effect.
    DropBefore,
    /// An error answer without an effect.
    ErrorBefore {
        /// HTTP status, 400 to 599.
        status: u16,
        /// The error code.
        code: String,
    },
    /// An error answer although the effect happened.
    ErrorAfter {
        /// HTTP status, 400 to 599.
        status: u16,
        /// The error code.
        code: String,
    },
    /// A proxy's HTML page instead of the API's answer, without an effect.
    HtmlError {
        /// HTTP status, 200 to 599.
        status: u16,
    },
    /// The effect happens; the answer is a 200 whose body is not JSON.
    Garbage,
    /// The effect happens; the answer has enum values and fields nobody has documented.
    UnknownEnum,
    /// The call works with another amount: it is charged, booked and reported. On a lookup only
    /// the report is wrong.
    MismatchedAmount {
        /// Minor units.
        amount: i64,
    },
    /// The effect happens; the answer names another order.
    MismatchedOrder {
        /// The order id to report.
        order_id: String,
    },
    /// 429 with `Retry-After`, without an effect.
    TooManyRequests {
        /// Seconds.
        retry_after_s: u64,
    },
    /// 409 `IDEMPOTENT_REQUEST_PROCESSING`, without an effect.
    InProgressConflict,
    /// The effect happens; the answer lacks these keys, or if none are named all but the ones that
    /// say which payment it is, its status and its amounts.
    MissingFields {
        /// Top-level keys of the payment.
        #[serde(default)]
        fields: Vec<String>,
    },
}

impl Behaviour {
    /// Whether the behaviour is that of the line or of a proxy, and so also strikes an answer that
    /// is only repeated from memory.
    pub(crate) fn strikes_replays(&self) -> bool {
        match self {
            Behaviour::Delay { .. }
            | Behaviour::ApproveThenHang { .. }
            | Behaviour::HangBefore { .. }
            | Behaviour::ApproveThenDrop
            | Behaviour::DropBefore
            | Behaviour::HtmlError { .. }
            | Behaviour::Garbage
            | Behaviour::TooManyRequests { .. }
            | Behaviour::InProgressConflict => true,
            Behaviour::Decline { .. }
            | Behaviour::DropThenApprove { .. }
            | Behaviour::ErrorBefore { .. }
            | Behaviour::ErrorAfter { .. }
            | Behaviour::UnknownEnum
            | Behaviour::MismatchedAmount { .. }
            | Behaviour::MismatchedOrder { .. }
            | Behaviour::MissingFields { .. } => false,
        }
    }
}

/// How often a rule still applies. In JSON a number, or `"always"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Times {
    /// This many calls more.
    Exactly(u32),
    /// Until the script is cleared.
    Always(Always),
}

/// The word `"always"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Always {
    /// Until the script is cleared.
    Always,
}

fn once() -> Times {
    Times::Exactly(1)
}

/// One line of the script.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    operation: Operation,
    behaviour: Behaviour,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    order_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payment_key: Option<String>,
    #[serde(default = "once")]
    times: Times,
}

impl Rule {
    /// A rule for any operation, applied once unless said otherwise.
    #[must_use]
    pub fn any(behaviour: Behaviour) -> Rule {
        Rule::on(Operation::Any, behaviour)
    }

    /// A rule for confirms.
    #[must_use]
    pub fn confirm(behaviour: Behaviour) -> Rule {
        Rule::on(Operation::Confirm, behaviour)
    }

    /// A rule for lookups by payment key or order id.
    #[must_use]
    pub fn lookup(behaviour: Behaviour) -> Rule {
        Rule::on(Operation::Lookup, behaviour)
    }

    /// A rule for cancels.
    #[must_use]
    pub fn cancel(behaviour: Behaviour) -> Rule {
        Rule::on(Operation::Cancel, behaviour)
    }

    /// A rule for the transaction list.
    #[must_use]
    pub fn transactions(behaviour: Behaviour) -> Rule {
        Rule::on(Operation::Transactions, behaviour)
    }

    /// A rule for `operation`, applied once unless said otherwise.
    #[must_use]
    pub fn on(operation: Operation, behaviour: Behaviour) -> Rule {
        Rule { operation, behaviour, order_id: None, payment_key: None, times: once() }
    }

    /// Only for calls about this order.
    #[must_use]
    pub fn for_order(mut self, order_id: impl Into<String>) -> Rule {
        self.order_id = Some(order_id.into());
        self
    }

    /// Only for calls about this payment.
    #[must_use]
    pub fn for_payment(mut self, payment_key: impl Into<String>) -> Rule {
        self.payment_key = Some(payment_key.into());
        self
    }

    /// For one call (the default).
    #[must_use]
    pub fn once(self) -> Rule {
        self.times(1)
    }

    /// For `n` calls.
    #[must_use]
    pub fn times(mut self, n: u32) -> Rule {
        self.times = Times::Exactly(n);
        self
    }

    /// For every call until the script is cleared.
    #[must_use]
    pub fn always(mut self) -> Rule {
        self.times = Times::Always(Always::Always);
        self
    }

    /// Says what is wrong with a rule that could never be played.
    pub(crate) fn check(&self) -> Result<(), String> {
        let (status, lowest) =
            if let Behaviour::ErrorBefore { status, .. } | Behaviour::ErrorAfter { status, .. } = &self.behaviour {
                (*status, 400)
            } else if let Behaviour::HtmlError { status } = &self.behaviour {
                (*status, 200)
            } else {
                return Ok(());
            };
        if (lowest..=599).contains(&status) { Ok(()) } else { Err(format!("status {status} is not in {lowest}..=599")) }
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
        (self.operation == Operation::Any || self.operation == subject.operation)
            && (self.order_id.is_none() || self.order_id.as_deref() == subject.order_id)
            && (self.payment_key.is_none() || self.payment_key.as_deref() == subject.payment_key)
    }
}

/// What a call is about, for matching.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub operation: Operation,
    pub order_id: Option<&'a str>,
    pub payment_key: Option<&'a str>,
}

/// The rules still to be played, in order.
#[derive(Default)]
pub(crate) struct Script {
    rules: Vec<Rule>,
}

impl Script {
    pub fn add(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    pub fn clear(&mut self) {
        self.rules.clear();
    }

    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The behaviour for a call that is executed; uses up one turn of the rule.
    pub fn next(&mut self, subject: &Subject<'_>) -> Option<Behaviour> {
        self.take(|rule| rule.matches(subject))
    }

    /// The behaviour for an answer that is only repeated.
    pub fn next_for_replay(&mut self, subject: &Subject<'_>) -> Option<Behaviour> {
        self.take(|rule| rule.behaviour.strikes_replays() && rule.matches(subject))
    }

    fn take(&mut self, wanted: impl Fn(&Rule) -> bool) -> Option<Behaviour> {
        self.rules.retain(|rule| rule.times != Times::Exactly(0));
        let position = self.rules.iter().position(wanted)?;
        let rule = self.rules.get_mut(position)?;
        let behaviour = rule.behaviour.clone();
        if let Times::Exactly(left) = &mut rule.times {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.rules.remove(position);
            }
        }
        Some(behaviour)
    }
}
