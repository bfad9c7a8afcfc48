//! The business facts of one request or worker item: which order, which payment, what came of it.
//!
//! They are told where they become known and read once, by the line that `canonical` writes at the end. A sheet is a
//! part of the request's ledger, so detached work that takes the ledger along writes to the same one. Ids, amounts and
//! words of closed vocabularies only; what a PG sent must look like a plain code, and a customer's reference is hashed.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use chrono::{NaiveDate, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use uuid::Uuid;

use super::canonical::Millis;
use super::labels::{
    AuditMode, IdempotencyResult, Operation, OperationOutcome, PaymentMethod, ProviderLabel, Task, TickResult,
    WebhookApplied,
};
use super::ledger;
use crate::domain::evidence::{DeclineClass, DoubtReason, RefusalClass};
use crate::domain::ids::{CancellationId, DeliveryId, OrderId, PaymentId};
use crate::domain::money::Money;
use crate::domain::payment::Method;

/// A PG's word that is longer than this is none.
const WORD_CHARS: usize = 64;
/// Bytes of a customer's hash that are shown.
const CUSTOMER_BYTES: usize = 8;

/// Something that is known about the request or item being worked for. Told twice, the later one counts.
#[derive(Debug, Clone, Copy)]
pub enum Fact<'a> {
    /// The use case.
    Operation(Operation),
    /// How it ended.
    Outcome(OperationOutcome),
    /// The PG that takes part.
    Provider(ProviderLabel),
    /// What its `Idempotency-Key` led to.
    Idempotency(IdempotencyResult),
    /// Its order.
    Order(OrderId),
    /// Its payment.
    Payment(PaymentId),
    /// Its cancellation.
    Cancellation(CancellationId),
    /// The stored webhook.
    Delivery(DeliveryId),
    /// How the buyer pays.
    Method(Method),
    /// What it is about, in minor units of its currency.
    Money(Money),
    /// Which attempt to confirm, from 1.
    Attempt(i32),
    /// What its cancellation gives back, and which attempt at it. Stands in the place of the payment's own.
    Cancel {
        /// What goes back.
        money: Money,
        /// From 1.
        attempt: i32,
    },
    /// The PG's no to a confirm.
    Declined(DeclineClass),
    /// The PG's no to a cancel.
    Refused(RefusalClass),
    /// Why the outcome is not certain, or that it is.
    Doubt(Option<DoubtReason>),
    /// The shop's own reference of the customer; only a hash is kept.
    Customer(&'a str),
    /// A call to the PG ended, with its code and its own id of the request if it gave them.
    PgAnswer {
        /// The PG's code.
        code: Option<&'a str>,
        /// The PG's id of the request, which its support asks for.
        request_id: Option<&'a str>,
    },
    /// It was answered without a transaction, since its product is known to be sold out.
    AtTheGate,
    /// It was placed in a transaction that took so many orders.
    Together(u32),
    /// A transaction that others made fail is tried again.
    Retry,
    /// What a stored webhook led to.
    Webhook(WebhookApplied),
    /// The worker's task, for a whole round of it.
    Task(Task),
    /// How the round ended.
    Round(TickResult),
    /// Which rows an audit was about.
    Audited(AuditMode),
    /// Things that a round dealt with.
    Rows(u64),
}

/// Notes a fact about the request or item being worked for, if there is one.
pub fn tell(fact: Fact<'_>) {
    ledger::note(|sheet| sheet.note(fact));
}

/// A field of a line.
pub(super) type Pair = (&'static str, Value);

/// The value of a field.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// A word of a closed vocabulary.
    Word(&'static str),
    /// Two of them, with a point in between.
    Words(&'static str, &'static str),
    /// An id of ours: what stands before the underscore, and the rest.
    Id(&'static str, Uuid),
    /// What was looked at already, or was made here: a hash.
    Known(String),
    /// A code, or whatever else others may have had a hand in.
    Text(String),
    /// A count or an amount.
    Whole(i64),
    /// Milliseconds.
    Millis(Millis),
}

/// The facts of one request or item.
#[derive(Debug, Default)]
pub struct Sheet {
    facts: Mutex<Facts>,
    is_told: AtomicBool,
}

#[derive(Debug, Default)]
struct Facts {
    task: Option<Task>,
    round: Option<TickResult>,
    audited: Option<AuditMode>,
    operation: Option<Operation>,
    outcome: Option<OperationOutcome>,
    provider: Option<ProviderLabel>,
    method: Option<Method>,
    order: Option<OrderId>,
    payment: Option<PaymentId>,
    cancellation: Option<CancellationId>,
    delivery: Option<DeliveryId>,
    money: Option<Money>,
    attempt: Option<i32>,
    cancel: Option<(Money, i32)>,
    declined: Option<DeclineClass>,
    refused: Option<RefusalClass>,
    doubt: Option<DoubtReason>,
    pg_code: Option<String>,
    pg_request_id: Option<String>,
    idempotency: Option<IdempotencyResult>,
    webhook: Option<WebhookApplied>,
    customer: Option<String>,
    is_at_the_gate: bool,
    together: Option<u32>,
    retries: i64,
    rows: Option<i64>,
}

impl Sheet {
    pub(super) fn note(&self, fact: Fact<'_>) {
        // Hashed before the lock is taken.
        let customer = if let Fact::Customer(reference) = fact { Some(pseudonym(reference)) } else { None };
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        match fact {
            Fact::Operation(operation) => facts.operation = Some(operation),
            Fact::Outcome(outcome) => facts.outcome = Some(outcome),
            Fact::Provider(provider) => facts.provider = Some(provider),
            Fact::Idempotency(result) => facts.idempotency = Some(result),
            Fact::Order(id) => facts.order = Some(id),
            Fact::Payment(id) => facts.payment = Some(id),
            Fact::Cancellation(id) => facts.cancellation = Some(id),
            Fact::Delivery(id) => facts.delivery = Some(id),
            Fact::Method(method) => facts.method = Some(method),
            Fact::Money(money) => facts.money = Some(money),
            Fact::Attempt(number) => facts.attempt = Some(number),
            Fact::Cancel { money, attempt } => facts.cancel = Some((money, attempt)),
            Fact::Declined(class) => facts.declined = Some(class),
            Fact::Refused(class) => facts.refused = Some(class),
            Fact::Doubt(reason) => facts.doubt = reason,
            Fact::Customer(_) => facts.customer = customer,
            Fact::PgAnswer { code, request_id } => {
                facts.pg_code = code.and_then(word);
                facts.pg_request_id = request_id.and_then(word).or(facts.pg_request_id.take());
            }
            Fact::AtTheGate => facts.is_at_the_gate = true,
            Fact::Together(orders) => facts.together = Some(orders),
            Fact::Retry => facts.retries += 1,
            Fact::Webhook(applied) => facts.webhook = Some(applied),
            Fact::Task(task) => facts.task = Some(task),
            Fact::Round(result) => facts.round = Some(result),
            Fact::Audited(mode) => facts.audited = Some(mode),
            Fact::Rows(rows) => facts.rows = Some(i64::try_from(rows).unwrap_or(i64::MAX)),
        }
    }

    /// Adds everything that is known, as fields of a line.
    pub(super) fn pairs(&self, to: &mut Vec<Pair>) {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).pairs(to);
    }

    /// The line was written: what is told from now on stands in no line, unless somebody writes another.
    pub(super) fn close(&self) {
        self.is_told.store(true, Ordering::SeqCst);
    }

    /// Whether the line was written already.
    pub(super) fn is_closed(&self) -> bool {
        self.is_told.load(Ordering::SeqCst)
    }
}

impl Facts {
    fn pairs(&self, to: &mut Vec<Pair>) {
        let counted = |count: i64| (count > 0).then_some(Value::Whole(count));
        let word = |text: Option<&'static str>| text.map(Value::Word);
        let text = |text: Option<&String>| text.cloned().map(Value::Text);
        let (money, attempt) = self.cancel.map_or((self.money, self.attempt), |(money, nth)| (Some(money), Some(nth)));
        let mut put = |name, value: Option<Value>| to.extend(value.map(|value| (name, value)));
        put("event", self.event());
        put("task", word(self.task.map(Task::as_str)));
        put("round", word(self.round.map(TickResult::as_str)));
        put("audit_mode", word(self.audited.map(AuditMode::as_str)));
        put("operation", word(self.operation.map(Operation::as_str)));
        put("outcome", word(self.outcome.map(OperationOutcome::as_str)));
        put("provider", word(self.provider.map(ProviderLabel::as_str)));
        put("method", word(self.method.map(|method| PaymentMethod::from(Some(method)).as_str())));
        put("order_id", self.order.map(|id| Value::Id(OrderId::PREFIX, id.uuid())));
        put("payment_id", self.payment.map(|id| Value::Id(PaymentId::PREFIX, id.uuid())));
        put("cancellation_id", self.cancellation.map(|id| Value::Id(CancellationId::PREFIX, id.uuid())));
        put("delivery_id", self.delivery.map(|id| Value::Id(DeliveryId::PREFIX, id.uuid())));
        put("amount", money.map(|money| Value::Whole(money.minor)));
        put("currency", word(money.map(|money| money.currency.code())));
        put("attempt_no", attempt.map(|number| Value::Whole(i64::from(number))));
        put("decline_class", word(self.declined.map(DeclineClass::as_str)));
        put("refusal_class", word(self.refused.map(RefusalClass::as_str)));
        put("doubt", word(self.doubt.map(DoubtReason::as_str)));
        put("pg_code", text(self.pg_code.as_ref()));
        put("pg_request_id", text(self.pg_request_id.as_ref()));
        put("idem_result", word(self.idempotency.map(IdempotencyResult::as_str)));
        put("gate", word(self.is_at_the_gate.then_some("sold_out")));
        put("together", self.together.map(|orders| Value::Whole(orders.into())));
        put("webhook", word(self.webhook.map(WebhookApplied::as_str)));
        put("customer", self.customer.clone().map(Value::Known));
        put("retries", counted(self.retries));
        put("rows", self.rows.map(Value::Whole));
    }

    /// What happened, in one word to count lines by: the labels of the metric that counts the same.
    fn event(&self) -> Option<Value> {
        let operation = self.operation?;
        let outcome = self.outcome?;
        Some(Value::Words(operation.as_str(), outcome.as_str()))
    }
}

/// Whether a PG's text is a word such as the codes and ids that PGs give; nothing else of theirs is told.
#[must_use]
pub fn is_word(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=WORD_CHARS).contains(&text.len()) && text.bytes().all(is_plain)
}

fn word(text: &str) -> Option<String> {
    is_word(text).then(|| text.to_owned())
}

/// A hash that tells a customer's lines of one day and one process from another's, and nothing else: the key is made
/// at the process's start, kept nowhere, and the day goes into the hash.
fn pseudonym(reference: &str) -> String {
    keyed(Utc::now().date_naive(), reference)
}

fn keyed(day: NaiveDate, reference: &str) -> String {
    static KEY: LazyLock<[u8; 32]> = LazyLock::new(rand::random);
    let Ok(mut hash) = Hmac::<Sha256>::new_from_slice(KEY.as_slice()) else {
        return String::new();
    };
    hash.update(day.to_string().as_bytes());
    hash.update(reference.as_bytes());
    let digest = hash.finalize().into_bytes();
    digest.iter().take(CUSTOMER_BYTES).fold(String::from("c_"), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::money::Currency;
    use crate::telemetry::ledger::Ledger;

    fn told(sheet: &Sheet) -> Vec<Pair> {
        let mut pairs = Vec::new();
        sheet.pairs(&mut pairs);
        pairs
    }

    fn find(pairs: &[Pair], name: &str) -> Option<Value> {
        pairs.iter().find(|(of, _)| *of == name).map(|(_, value)| value.clone())
    }

    #[tokio::test]
    async fn what_is_told_by_detached_work_stands_on_the_requests_sheet() {
        let (ledger, order) = (Ledger::new(), OrderId::new());
        let work = async {
            tell(Fact::Operation(Operation::Confirm));
            let detached = ledger::handle().scope(async move {
                tell(Fact::Order(order));
                tell(Fact::Money(Money::new(12_000, Currency::KRW)));
                tell(Fact::Outcome(OperationOutcome::Declined));
            });
            tokio::spawn(detached).await.expect("nothing panics in it");
        };
        ledger.clone().scope(work).await;
        let pairs = told(ledger.sheet());
        assert_eq!(find(&pairs, "event"), Some(Value::Words("confirm", "declined")));
        assert_eq!(find(&pairs, "order_id"), Some(Value::Id("ord", order.uuid())));
        assert_eq!(find(&pairs, "amount"), Some(Value::Whole(12_000)));
        assert_eq!(find(&pairs, "currency"), Some(Value::Word("KRW")));
        assert_eq!(find(&pairs, "payment_id"), None);
        tell(Fact::Order(OrderId::new()));
        assert_eq!(told(ledger.sheet()), pairs, "outside of a request nothing is kept");
    }

    #[test]
    fn a_pgs_text_is_kept_only_if_it_is_a_word() {
        let sheet = Sheet::default();
        sheet.note(Fact::PgAnswer { code: Some("EXCEED_MAX_AMOUNT"), request_id: Some("7a9f-01") });
        sheet.note(Fact::PgAnswer { code: Some("Kim Minji, 010-1234-5678"), request_id: None });
        let pairs = told(&sheet);
        assert_eq!(find(&pairs, "pg_code"), None, "the newest answer's code, and that was none");
        assert_eq!(find(&pairs, "pg_request_id"), Some(Value::Text("7a9f-01".to_owned())));
        assert_eq!((word(""), word(&"A".repeat(65))), (None, None));
    }

    #[test]
    fn the_cancellation_comes_before_its_payment_whatever_is_told_first() {
        let sheet = Sheet::default();
        sheet.note(Fact::Cancel { money: Money::new(3_000, Currency::KRW), attempt: 2 });
        sheet.note(Fact::Money(Money::new(12_000, Currency::KRW)));
        sheet.note(Fact::Attempt(1));
        let pairs = told(&sheet);
        assert_eq!(find(&pairs, "amount"), Some(Value::Whole(3_000)));
        assert_eq!(find(&pairs, "attempt_no"), Some(Value::Whole(2)));
    }

    #[test]
    fn a_customer_is_a_hash_that_changes_with_the_day() {
        let day = NaiveDate::from_ymd_opt(2026, 11, 21).expect("a day");
        let hash = keyed(day, "customer-4711");
        assert_eq!(hash, keyed(day, "customer-4711"));
        assert!(hash.len() == 18 && hash.starts_with("c_"), "{hash}");
        assert_ne!(hash, keyed(day, "customer-4712"));
        assert_ne!(hash, keyed(day.succ_opt().expect("a day"), "customer-4711"));
        let sheet = Sheet::default();
        sheet.note(Fact::Customer("customer-4711"));
        assert!(!format!("{sheet:?} {:?}", told(&sheet)).contains("4711"));
    }
}
