//! The door with a PG that answers from a list: what is repeated, and what counts against the PG.

use std::collections::VecDeque;
use std::sync::Mutex;

use super::*;
use crate::domain::evidence::{Decline, DeclineClass, NotSent, Refusal, RefusalClass};
use crate::domain::ids::{CancellationId, OrderId};
use crate::domain::money::{Currency, Money};
use crate::provider::breaker::BreakerRules;
use crate::telemetry::labels::AdmissionRefusal;

/// A PG that answers from a list, and writes down the keys that it was shown.
#[derive(Default)]
struct Listed {
    confirms: Mutex<VecDeque<Exchange<ConfirmAnswer>>>,
    cancels: Mutex<VecDeque<Exchange<CancelAnswer>>>,
    inquiries: Mutex<VecDeque<Exchange<Inquiry>>>,
    keys: Mutex<Vec<String>>,
}

impl Listed {
    fn keys(&self) -> Vec<String> {
        self.keys.lock().expect("keys").clone()
    }
}

fn next<A>(of: &Mutex<VecDeque<Exchange<A>>>) -> BoxFuture<'static, Exchange<A>>
where
    A: Send + 'static,
{
    let exchange = of.lock().expect("answers").pop_front().expect("an answer is listed");
    Box::pin(std::future::ready(exchange))
}

impl Provider for Listed {
    fn name(&self) -> &'static str {
        "listed"
    }

    fn confirm<'a>(&'a self, request: &'a ConfirmRequest) -> BoxFuture<'a, Exchange<ConfirmAnswer>> {
        self.keys.lock().expect("keys").push(request.idempotency_key.clone());
        next(&self.confirms)
    }

    fn cancel<'a>(&'a self, request: &'a CancelRequest) -> BoxFuture<'a, Exchange<CancelAnswer>> {
        self.keys.lock().expect("keys").push(request.idempotency_key.clone());
        next(&self.cancels)
    }

    fn inquire<'a>(&'a self, _payment_key: &'a PaymentKey) -> BoxFuture<'a, Exchange<Inquiry>> {
        next(&self.inquiries)
    }

    fn inquire_by_order<'a>(&'a self, _order_id: OrderId) -> BoxFuture<'a, Exchange<Inquiry>> {
        next(&self.inquiries)
    }

    fn transactions<'a>(&'a self, _request: &'a ListRequest) -> BoxFuture<'a, Exchange<Listing>> {
        Box::pin(std::future::ready(exchange(Listing::Unknown(doubt(DoubtReason::Inconclusive)), None)))
    }

    fn read_webhook(&self, _body: &[u8]) -> Notice {
        Notice::Undecodable
    }
}

fn exchange<A>(answer: A, http_status: Option<u16>) -> Exchange<A> {
    Exchange { answer, http_status, code: None, provider_trace_id: None }
}

fn not_sent(reason: NotSentReason) -> NotSent {
    NotSent { reason, code: None, retry_after_s: None }
}

fn doubt(reason: DoubtReason) -> Doubt {
    Doubt { reason, code: None }
}

fn declined() -> ConfirmAnswer {
    ConfirmAnswer::Declined(Decline { class: DeclineClass::Other, code: "NO".to_owned() })
}

fn open_to(listed: &Arc<Listed>, failures: u32) -> Door {
    let breaker = BreakerRules { failures, open: Duration::from_secs(60) };
    let limits = Limits { breaker, ..Limits::default() };
    let provider = Arc::clone(listed);
    Door::new(provider, ProviderLabel::Other, Duration::from_secs(5), limits, CrashSwitch::default())
}

fn confirm_request() -> ConfirmRequest {
    ConfirmRequest {
        payment_key: PaymentKey::parse("key").expect("a key"),
        order_id: OrderId::new(),
        amount: Money::new(1, Currency::KRW),
        idempotency_key: "pay_1:1".to_owned(),
    }
}

async fn confirm(door: &Door) -> ConfirmAnswer {
    let permit = door.admit(ProviderOperation::Confirm).expect("admitted");
    door.confirm(permit, &confirm_request()).await.0
}

#[tokio::test]
async fn what_never_left_is_sent_once_more_with_the_same_key() {
    let listed = Arc::new(Listed::default());
    let unreachable = || exchange(ConfirmAnswer::NotSent(not_sent(NotSentReason::Unreachable)), None);
    listed.confirms.lock().expect("answers").extend([unreachable(), exchange(declined(), Some(403))]);
    let door = open_to(&listed, 20);
    assert!(matches!(confirm(&door).await, ConfirmAnswer::Declined(_)));
    assert_eq!(listed.keys(), ["pay_1:1", "pay_1:1"]);

    listed.confirms.lock().expect("answers").extend([unreachable(), unreachable()]);
    assert!(matches!(confirm(&door).await, ConfirmAnswer::NotSent(_)), "a third time would need a third answer");
    assert_eq!(listed.keys().len(), 4);
}

#[tokio::test]
async fn nothing_else_is_sent_twice() {
    let listed = Arc::new(Listed::default());
    let door = open_to(&listed, 20);
    let mut answers = vec![declined()];
    let others = NotSentReason::ALL.iter().filter(|reason| **reason != NotSentReason::Unreachable);
    answers.extend(others.map(|reason| ConfirmAnswer::NotSent(not_sent(*reason))));
    answers.extend(DoubtReason::ALL.iter().map(|reason| ConfirmAnswer::Unknown(doubt(*reason))));
    for (count, answer) in answers.into_iter().enumerate() {
        let what = format!("{answer:?}");
        listed.confirms.lock().expect("answers").push_back(exchange(answer, None));
        confirm(&door).await;
        assert_eq!(listed.keys().len(), count + 1, "{what}");
    }
}

#[tokio::test]
async fn a_cancel_that_never_left_is_sent_once_more_too() {
    let listed = Arc::new(Listed::default());
    let refusal = Refusal { class: RefusalClass::TooLate, code: "LATE".to_owned() };
    listed.cancels.lock().expect("answers").extend([
        exchange(CancelAnswer::NotSent(not_sent(NotSentReason::Unreachable)), None),
        exchange(CancelAnswer::Refused(refusal), Some(403)),
    ]);
    let door = open_to(&listed, 20);
    let request = CancelRequest {
        payment_key: PaymentKey::parse("key").expect("a key"),
        cancellation_id: CancellationId::new(),
        reason: "why".to_owned(),
        amount: None,
        expected_balance: None,
        refund_account: None,
        idempotency_key: "can_1:1".to_owned(),
    };
    let permit = door.admit(ProviderOperation::Cancel).expect("admitted");
    assert!(matches!(door.cancel(permit, &request).await.0, CancelAnswer::Refused(_)));
    assert_eq!(listed.keys(), ["can_1:1", "can_1:1"]);
}

#[tokio::test]
async fn a_breaker_that_opens_by_the_first_sending_prevents_the_second() {
    let listed = Arc::new(Listed::default());
    let unreachable = exchange(ConfirmAnswer::NotSent(not_sent(NotSentReason::Unreachable)), None);
    listed.confirms.lock().expect("answers").push_back(unreachable);
    let door = open_to(&listed, 1);
    assert!(matches!(confirm(&door).await, ConfirmAnswer::NotSent(_)));
    assert_eq!(listed.keys().len(), 1);
    let refused = door.admit(ProviderOperation::Confirm).expect_err("open");
    assert_eq!(refused.reason, AdmissionRefusal::BreakerOpen);
}

/// Which answers count against the PG, whatever their number.
#[test]
fn only_technical_failures_count_against_the_pg() {
    let fails = |answer: ConfirmAnswer, status| health(&exchange(answer, status)) == Health::Fails;
    assert!(!fails(declined(), Some(403)));
    assert!(!fails(declined(), Some(500)), "a certain no is an answer, whatever its status");
    let technical =
        [DoubtReason::Timeout, DoubtReason::ConnectionLost, DoubtReason::ServerError, DoubtReason::Undecodable];
    for reason in DoubtReason::ALL {
        let is_technical = technical.contains(reason);
        assert_eq!(fails(ConfirmAnswer::Unknown(doubt(*reason)), None), is_technical, "{reason}");
        assert_eq!(fails(ConfirmAnswer::Unknown(doubt(*reason)), Some(400)), is_technical, "{reason}");
        assert!(fails(ConfirmAnswer::Unknown(doubt(*reason)), Some(503)), "{reason} with a 5xx");
    }
    for reason in NotSentReason::ALL {
        let unreachable = *reason == NotSentReason::Unreachable;
        assert_eq!(fails(ConfirmAnswer::NotSent(not_sent(*reason)), None), unreachable, "{reason}");
    }
    let refusal = Refusal { class: RefusalClass::Other, code: "NO".to_owned() };
    assert_eq!(health(&exchange(CancelAnswer::Refused(refusal), Some(403))), Health::Answers);
    assert_eq!(health(&exchange(Inquiry::NotFound, Some(404))), Health::Answers);
    let lost = Inquiry::Unknown(doubt(DoubtReason::ConnectionLost));
    assert_eq!(health(&exchange(lost, None)), Health::Fails, "an unreachable PG cannot be asked either");
}

#[tokio::test]
async fn a_thousand_declines_leave_the_breaker_closed() {
    let listed = Arc::new(Listed::default());
    let door = open_to(&listed, 1);
    listed.confirms.lock().expect("answers").extend((0..1_000).map(|_| exchange(declined(), Some(403))));
    for _ in 0..1_000 {
        confirm(&door).await;
    }
    assert!(door.breakers().iter().all(|(_, state)| *state == BreakerState::Closed));
}
