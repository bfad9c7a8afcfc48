//! Plays one call as the script wants it: as documented, or with the scripted misbehaviour.
//!
//! Here, and nowhere else, it is decided for every [`Behaviour`] whether the effect happens, when it
//! happens, what the client gets to see, and what a repeat of the idempotency key will get. Called by
//! [`super::answer`].
//!
//! What a key is bound to: the answer, once the call was executed, 4xx included. A cut connection
//! after the effect is bound to the answer that got lost. Answers of a proxy or a limiter (HTML, 429,
//! 409) and 5xx are not bound, so a repeat is executed, unless the effect happened: then the repeat
//! gets the true answer. With [`crate::Options::replay_server_errors`] 5xx are bound like the rest.

use std::time::Duration;

use serde_json::{Value, json};

use super::errors::{self, ApiError};
use super::{Call, Inquiry, cancel, confirm, lookup, replayed, transactions, wire};
use crate::answer::{Answer, Reply};
use crate::gateway::{Gateway, later};
use crate::idempotency::{Remembered, StoredAnswer};
use crate::payment::Payment;
use crate::script::{Behaviour, Operation};
use crate::state::{Deferred, State};

/// What an endpoint made of a call.
pub(crate) struct Outcome {
    /// The payment after the call.
    pub payment: Option<Payment>,
    /// Set when the call is answered with an error.
    pub error: Option<ApiError>,
}

impl Outcome {
    pub fn done(payment: Payment) -> Outcome {
        Outcome { payment: Some(payment), error: None }
    }

    pub fn error(error: ApiError) -> Outcome {
        Outcome { payment: None, error: Some(error) }
    }
}

/// A call played out: what becomes of the payment, the key and the connection.
struct Played {
    change: Option<Payment>,
    answer: Answer,
    bound: Option<Reply>,
    /// How long the call is at work: repeats of its key meet a 409 until then.
    busy: Duration,
    /// Whether the effect waits until the call has finished its work.
    effect_last: bool,
}

impl Played {
    /// The effect at once, `seen` for the client, `truth` for repeats of the key.
    fn effect(change: Option<Payment>, truth: Reply, seen: impl Into<Answer>) -> Played {
        Played { change, answer: seen.into(), bound: Some(truth), busy: Duration::ZERO, effect_last: false }
    }

    /// No effect.
    fn nothing(seen: impl Into<Answer>) -> Played {
        Played { change: None, answer: seen.into(), bound: None, busy: Duration::ZERO, effect_last: false }
    }

    fn busy(mut self, ms: u64) -> Played {
        self.busy = Duration::from_millis(ms);
        self
    }

    fn effect_last(mut self) -> Played {
        self.effect_last = true;
        self
    }

    fn bound_to(mut self, answer: Option<Reply>) -> Played {
        self.bound = answer;
        self
    }
}

/// Executes a call and does what `behaviour` says.
pub(crate) fn execute(gateway: &Gateway, state: &mut State, inquiry: &Inquiry, behaviour: Option<Behaviour>) -> Answer {
    let stage = Stage { gateway, state, inquiry };
    let played = match behaviour {
        None => {
            let (change, truth) = stage.perform(None);
            Played::effect(change, truth.clone(), truth)
        }
        Some(behaviour) => stage.misbehave(behaviour),
    };
    enact(gateway, state, inquiry, played)
}

/// Repeats a remembered answer over a line that may misbehave.
pub(crate) fn replay(remembered: &Remembered, inquiry: &Inquiry, behaviour: Option<Behaviour>) -> Answer {
    let Some(stored) = &remembered.answer else {
        return ApiError::of("IDEMPOTENT_REQUEST_PROCESSING").reply().into();
    };
    let traces = (inquiry.trace_id.as_str(), remembered.trace_id.as_str());
    let reply = replayed(stored.status, &stored.body, traces);
    match behaviour {
        None => reply.into(),
        Some(Behaviour::Delay { ms } | Behaviour::ApproveThenHang { ms }) => {
            reply.held(Duration::from_millis(ms)).into()
        }
        Some(Behaviour::HangBefore { ms }) => internal_error().held(Duration::from_millis(ms)).into(),
        Some(Behaviour::ApproveThenDrop | Behaviour::DropBefore) => Answer::Cut,
        Some(Behaviour::HtmlError { status }) => html_page(status).into(),
        Some(Behaviour::Garbage) => garbage().into(),
        Some(Behaviour::TooManyRequests { retry_after_s }) => too_many(retry_after_s).into(),
        Some(Behaviour::InProgressConflict) => in_progress().into(),
        // These are no matter of the line; the script does not hand them out for a replay.
        Some(
            Behaviour::Decline { .. }
            | Behaviour::DropThenApprove { .. }
            | Behaviour::ErrorBefore { .. }
            | Behaviour::ErrorAfter { .. }
            | Behaviour::UnknownEnum
            | Behaviour::MismatchedAmount { .. }
            | Behaviour::MismatchedOrder { .. }
            | Behaviour::MissingFields { .. },
        ) => reply.into(),
    }
}

/// Makes the change, binds the key, and holds the answer back as long as the call takes.
fn enact(gateway: &Gateway, state: &mut State, inquiry: &Inquiry, played: Played) -> Answer {
    let done_at = later(inquiry.now, played.busy);
    let remembered = inquiry.scope.clone().map(|scope| Remembered {
        scope,
        answer: played.bound.as_ref().map(StoredAnswer::from),
        trace_id: inquiry.trace_id.clone(),
        first_used: inquiry.now,
        running_until: done_at,
    });
    let told = match played.change {
        Some(payment) if played.effect_last => {
            state.defer(Deferred { at: done_at, payment, answer: remembered });
            false
        }
        Some(payment) => state.commit_with(payment, remembered),
        None => {
            if let Some(remembered) = remembered {
                state.remember(remembered);
            }
            false
        }
    };
    let webhook_first = told.then(|| gateway.webhooks.hold_answer()).flatten();
    match played.answer {
        Answer::Cut => Answer::Cut,
        Answer::Reply(reply) => reply.held(played.busy).held(webhook_first.unwrap_or_default()).into(),
    }
}

struct Stage<'a> {
    gateway: &'a Gateway,
    state: &'a State,
    inquiry: &'a Inquiry,
}

impl Stage<'_> {
    /// The documented course of the call: the change it makes, and the true answer.
    fn perform(&self, charged: Option<i64>) -> (Option<Payment>, Reply) {
        let (gateway, state, inquiry) = (self.gateway, self.state, self.inquiry);
        let (outcome, changes) = match &inquiry.call {
            Call::Confirm(body) => (confirm::perform(gateway, state, inquiry, body, charged), true),
            Call::Cancel { payment_key, body } => (cancel::perform(state, inquiry, payment_key, body, charged), true),
            Call::LookUpPayment(key) => (lookup::by_payment_key(state, key), false),
            Call::LookUpOrder(order_id) => (lookup::by_order_id(state, order_id), false),
            Call::Transactions(query) => {
                let reply = match transactions::list(gateway, state, query) {
                    Ok(rows) => Reply::json(200, &rows),
                    Err(error) => error.reply(),
                };
                return (None, reply);
            }
        };
        let reply = match (&outcome.error, &outcome.payment) {
            (Some(error), _) => error.reply(),
            (None, Some(payment)) => Reply::json(200, &wire::payment(payment, &gateway.options, inquiry.now)),
            (None, None) => internal_error(),
        };
        (outcome.payment.filter(|_| changes), reply)
    }

    fn misbehave(&self, behaviour: Behaviour) -> Played {
        let perform = || self.perform(None);
        match behaviour {
            Behaviour::Decline { code } => self.decline(&code),
            Behaviour::Delay { ms } => {
                let (change, truth) = perform();
                Played::effect(change, truth.clone(), truth).busy(ms).effect_last()
            }
            Behaviour::ApproveThenHang { ms } => {
                let (change, truth) = perform();
                Played::effect(change, truth.clone(), truth).busy(ms)
            }
            Behaviour::HangBefore { ms } => {
                let error = internal_error();
                Played::nothing(error.clone()).busy(ms).bound_to(self.binding(error))
            }
            Behaviour::ApproveThenDrop => {
                let (change, truth) = perform();
                Played::effect(change, truth, Answer::Cut)
            }
            Behaviour::DropThenApprove { ms } => {
                let (change, truth) = perform();
                Played::effect(change, truth, Answer::Cut).busy(ms).effect_last()
            }
            Behaviour::DropBefore => Played::nothing(Answer::Cut),
            Behaviour::ErrorBefore { status, code } => {
                let error = ApiError::with_status(status, &code).reply();
                Played::nothing(error.clone()).bound_to(self.binding(error))
            }
            Behaviour::ErrorAfter { status, code } => {
                let (change, truth) = perform();
                let error = ApiError::with_status(status, &code).reply();
                let bound = self.binding(error.clone()).unwrap_or(truth);
                Played::effect(change, bound, error)
            }
            Behaviour::HtmlError { status } => Played::nothing(html_page(status)),
            Behaviour::Garbage => {
                let (change, truth) = perform();
                Played::effect(change, truth, garbage())
            }
            Behaviour::UnknownEnum => self.twisted(None, add_unknowns),
            Behaviour::MismatchedAmount { amount } => self.twisted(Some(amount), |payment| {
                // An amount that was really charged is in the payment already.
                if self.inquiry.operation() == Operation::Lookup {
                    payment.insert("totalAmount".into(), json!(amount));
                }
            }),
            Behaviour::MismatchedOrder { order_id } => self.twisted(None, |payment| {
                payment.insert("orderId".into(), json!(order_id));
            }),
            Behaviour::TooManyRequests { retry_after_s } => Played::nothing(too_many(retry_after_s)),
            Behaviour::InProgressConflict => Played::nothing(in_progress()),
            Behaviour::MissingFields { fields } => {
                self.twisted(None, |payment| payment.retain(|name, _| keeps(&fields, name)))
            }
        }
    }

    /// What a key is bound to after an error answer of the API: 5xx only if so wished.
    fn binding(&self, error: Reply) -> Option<Reply> {
        let bound = error.status < 500 && error.status != 429;
        (bound || self.gateway.options.replay_server_errors).then_some(error)
    }

    fn decline(&self, code: &str) -> Played {
        let error = ApiError::of(code).reply();
        let change = match &self.inquiry.call {
            Call::Confirm(body) => match confirm::admit(self.state, body, self.inquiry) {
                Ok(payment) => errors::ends_payment(code).then(|| payment.clone().abort(code)),
                // A request that is wrong in itself meets its own error first.
                Err(own) => {
                    let own = own.reply();
                    return Played::effect(None, own.clone(), own);
                }
            },
            Call::Cancel { .. } | Call::LookUpPayment(_) | Call::LookUpOrder(_) | Call::Transactions(_) => None,
        };
        let bound = self.binding(error.clone());
        Played { change, ..Played::nothing(error).bound_to(bound) }
    }

    /// The call works, and a successful answer about one payment is altered.
    fn twisted(&self, charged: Option<i64>, twist: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Played {
        let (change, mut truth) = self.perform(charged);
        if truth.status == 200
            && let Ok(Value::Object(mut payment)) = serde_json::from_slice(&truth.body)
        {
            twist(&mut payment);
            truth.body = Value::Object(payment).to_string().into_bytes();
        }
        Played::effect(change, truth.clone(), truth)
    }
}

fn add_unknowns(payment: &mut serde_json::Map<String, Value>) {
    payment.insert("status".into(), json!("ON_ITS_WAY"));
    payment.insert("method".into(), json!("생체결제"));
    payment.insert("type".into(), json!("SUBSCRIPTION"));
    payment.insert("version".into(), json!("2031-01-01"));
    payment.insert("carbonOffset".into(), json!({"grams": 12, "verified": true}));
    if let Some(Value::Object(card)) = payment.get_mut("card") {
        card.insert("cardType".into(), json!("구독"));
        card.insert("acquireStatus".into(), json!("SOMEWHERE"));
        card.insert("tokenRequestor".into(), json!("wallet"));
    }
}

fn keeps(missing: &[String], name: &str) -> bool {
    const IDENTITY: &[&str] = &["mId", "paymentKey", "orderId", "status", "currency", "totalAmount", "balanceAmount"];
    if missing.is_empty() { IDENTITY.contains(&name) } else { !missing.iter().any(|field| field == name) }
}

fn internal_error() -> Reply {
    ApiError::of("FAILED_INTERNAL_SYSTEM_PROCESSING").reply()
}

fn in_progress() -> Reply {
    ApiError::of("IDEMPOTENT_REQUEST_PROCESSING").reply()
}

fn too_many(retry_after_s: u64) -> Reply {
    ApiError::of("TOO_MANY_REQUESTS").reply().with_header("retry-after", retry_after_s.to_string())
}

fn html_page(status: u16) -> Reply {
    Reply::html(
        status,
        "<!doctype html><html><head><title>Service unavailable</title></head>\
         <body><h1>Service unavailable</h1><p>gateway-proxy</p></body></html>",
    )
}

fn garbage() -> Reply {
    Reply::new(200, "application/json;charset=utf-8", *b"{\"paymentKey\":\"\xff\xfe, \"amou")
}
