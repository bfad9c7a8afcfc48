//! The adapter over real sockets: what leaves it, and what it makes of answers. `lost` is about those that fail to come.

mod lost;

use serde_json::{Value, json};
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::*;
use crate::domain::evidence::{DeclineClass, PgStatus, RefusalClass};
use crate::domain::ids::CancellationId;
use crate::domain::money::{Currency, Money};

const KEY: &str = "beans20260504120000Qw7Er";

fn config(base_url: &str) -> TossConfig {
    TossConfig {
        base_url: base_url.to_owned(),
        secret_key: SecretString::from("test_sk_beans"),
        m_id: Some("beanshop".to_owned()),
        connect_timeout: Duration::from_secs(10),
        confirm_timeout: Duration::from_secs(20),
        cancel_timeout: Duration::from_secs(20),
        inquiry_timeout: Duration::from_secs(20),
    }
}

fn toss(base_url: &str) -> Toss {
    Toss::new(config(base_url)).unwrap()
}

fn confirm_request() -> ConfirmRequest {
    ConfirmRequest {
        payment_key: PaymentKey::parse(KEY).unwrap(),
        order_id: OrderId::new(),
        amount: Money::new(18_700, Currency::KRW),
        idempotency_key: "pay_1:1".to_owned(),
    }
}

fn cancel_request() -> CancelRequest {
    CancelRequest {
        payment_key: PaymentKey::parse(KEY).unwrap(),
        cancellation_id: CancellationId::new(),
        reason: "품절".to_owned(),
        amount: Some(Money::new(3_700, Currency::KRW)),
        expected_balance: Some(Money::new(18_700, Currency::KRW)),
        refund_account: None,
        idempotency_key: "can_1:1".to_owned(),
    }
}

fn payment(order_id: &str) -> Value {
    json!({
        "mId": "beanshop", "paymentKey": KEY, "orderId": order_id, "status": "DONE", "currency": "KRW",
        "totalAmount": 18700, "balanceAmount": 18700, "method": "카드"
    })
}

/// A PG that gives one answer to everything.
async fn pg(answer: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(wiremock::matchers::any()).respond_with(answer).mount(&server).await;
    server
}

fn error(status: u16, code: &str) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_json(json!({"code": code, "message": "…"}))
}

fn unknown(answer: &ConfirmAnswer) -> Option<DoubtReason> {
    match answer {
        ConfirmAnswer::Unknown(doubt) => Some(doubt.reason),
        ConfirmAnswer::Answered(_) | ConfirmAnswer::Declined(_) | ConfirmAnswer::NotSent(_) => None,
    }
}

fn cancel_unknown(answer: &CancelAnswer) -> Option<DoubtReason> {
    match answer {
        CancelAnswer::Unknown(doubt) => Some(doubt.reason),
        CancelAnswer::Answered(_) | CancelAnswer::Refused(_) | CancelAnswer::NotSent(_) => None,
    }
}

fn inquiry_unknown(answer: &Inquiry) -> Option<DoubtReason> {
    match answer {
        Inquiry::Unknown(doubt) => Some(doubt.reason),
        Inquiry::Found(_) | Inquiry::NotFound => None,
    }
}

#[tokio::test]
async fn a_confirm_is_sent_to_the_letter() {
    let request = confirm_request();
    let server = MockServer::start().await;
    let answer = ResponseTemplate::new(200)
        .insert_header("x-tosspayments-trace-id", "trace-1,trace-0")
        .set_body_json(payment(&request.order_id.to_string()));
    Mock::given(method("POST")).and(path("/v1/payments/confirm")).respond_with(answer).mount(&server).await;

    let exchange = toss(&format!("{}/", server.uri())).confirm(&request).await;

    assert_eq!((exchange.http_status, exchange.code), (Some(200), None));
    assert_eq!(exchange.provider_trace_id.as_deref(), Some("trace-1,trace-0"));
    let ConfirmAnswer::Answered(snapshot) = exchange.answer else { panic!("{:?}", exchange.answer) };
    assert_eq!(snapshot.status, PgStatus::Done);
    assert_eq!(snapshot.amount, Some(request.amount));
    assert!(snapshot.own_shop);
    let sent = server.received_requests().await.unwrap();
    assert_eq!(sent.len(), 1);
    let header = |name: &str| sent[0].headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    // `test_sk_beans:` in base64.
    assert_eq!(header("authorization").as_deref(), Some("Basic dGVzdF9za19iZWFuczo="));
    assert_eq!(header("idempotency-key").as_deref(), Some("pay_1:1"));
    assert_eq!(header("content-type").as_deref(), Some("application/json"));
    assert_eq!(header("accept-language"), None);
    let body = format!(r#"{{"paymentKey":"{KEY}","orderId":"{}","amount":18700}}"#, request.order_id);
    assert_eq!(String::from_utf8(sent[0].body.clone()).unwrap(), body);
}

#[tokio::test]
async fn a_cancel_is_sent_to_the_letter() {
    let server = pg(ResponseTemplate::new(200).set_body_json(payment("ord_1"))).await;
    let request = cancel_request();
    let exchange = toss(&server.uri()).cancel(&request).await;
    assert!(matches!(exchange.answer, CancelAnswer::Answered(_)));
    let sent = server.received_requests().await.unwrap();
    assert_eq!(sent[0].url.path(), format!("/v1/payments/{KEY}/cancel"));
    assert_eq!(sent[0].headers.get("idempotency-key").unwrap(), "can_1:1");
    let body = format!(
        r#"{{"cancelReason":"품절 [{}]","cancelAmount":3700,"refundableAmount":18700}}"#,
        request.cancellation_id
    );
    assert_eq!(String::from_utf8(sent[0].body.clone()).unwrap(), body);
}

#[tokio::test]
async fn inquiries_ask_by_key_and_by_order_without_an_idempotency_key() {
    let server = pg(ResponseTemplate::new(200).set_body_json(payment("ord_1"))).await;
    let toss = toss(&format!("{}/prefix", server.uri()));
    let odd = PaymentKey::parse("a;b&c=d+e:f@g!\"{}|^`..").unwrap();
    let order_id = OrderId::new();
    assert!(matches!(toss.inquire(&odd).await.answer, Inquiry::Found(_)));
    assert!(matches!(toss.inquire_by_order(order_id).await.answer, Inquiry::Found(_)));
    let sent = server.received_requests().await.unwrap();
    let encoded = "/prefix/v1/payments/a%3Bb%26c%3Dd%2Be%3Af%40g%21%22%7B%7D%7C%5E%60..";
    assert_eq!(sent[0].url.path(), encoded);
    assert_eq!(sent[1].url.path(), format!("/prefix/v1/payments/orders/{order_id}"));
    assert!(sent.iter().all(|request| request.method.as_str() == "GET"));
    assert!(sent.iter().all(|request| request.headers.get("idempotency-key").is_none()));
}

#[tokio::test]
async fn a_code_decides_whatever_the_status() {
    let server = pg(error(500, "REJECT_CARD_COMPANY")).await;
    let exchange = toss(&server.uri()).confirm(&confirm_request()).await;
    assert_eq!((exchange.http_status, exchange.code.as_deref()), (Some(500), Some("REJECT_CARD_COMPANY")));
    let ConfirmAnswer::Declined(decline) = exchange.answer else { panic!("{:?}", exchange.answer) };
    assert_eq!((decline.class, decline.code.as_str()), (DeclineClass::IssuerReject, "REJECT_CARD_COMPANY"));

    let server = pg(error(403, "EXCEED_MAX_REFUND_DUE")).await;
    let exchange = toss(&server.uri()).cancel(&cancel_request()).await;
    let CancelAnswer::Refused(refusal) = exchange.answer else { panic!("{:?}", exchange.answer) };
    assert_eq!(refusal.class, RefusalClass::TooLate);

    let server = pg(error(404, "NOT_FOUND_PAYMENT")).await;
    let toss = toss(&server.uri());
    assert!(matches!(toss.inquire(&confirm_request().payment_key).await.answer, Inquiry::NotFound));
    let gone = toss.confirm(&confirm_request()).await;
    assert_eq!(unknown(&gone.answer), Some(DoubtReason::SessionGone));
}

#[tokio::test]
async fn a_request_still_running_is_in_flight() {
    let server = pg(error(409, "IDEMPOTENT_REQUEST_PROCESSING")).await;
    let toss = toss(&server.uri());
    assert_eq!(unknown(&toss.confirm(&confirm_request()).await.answer), Some(DoubtReason::InFlight));
    assert_eq!(cancel_unknown(&toss.cancel(&cancel_request()).await.answer), Some(DoubtReason::InFlight));
}

#[tokio::test]
async fn too_many_requests_says_how_long_to_wait() {
    let server = pg(ResponseTemplate::new(429).insert_header("retry-after", "17").set_body_string("slow")).await;
    let toss = toss(&server.uri());
    let exchange = toss.confirm(&confirm_request()).await;
    let wanted = NotSent { reason: NotSentReason::RateLimited, code: None, retry_after_s: Some(17) };
    assert!(matches!(&exchange.answer, ConfirmAnswer::NotSent(got) if *got == wanted), "{:?}", exchange.answer);
    assert_eq!(cancel_unknown(&toss.cancel(&cancel_request()).await.answer), Some(DoubtReason::TryLater));
    let inquiry = toss.inquire_by_order(OrderId::new()).await;
    assert_eq!(inquiry_unknown(&inquiry.answer), Some(DoubtReason::TryLater));
}

#[tokio::test]
async fn unreadable_answers_are_unknown_whatever_their_status() {
    let html = "<html><body>Bad Gateway 4111-1111</body></html>";
    for (answer, wanted) in [
        (ResponseTemplate::new(502).set_body_string(html), DoubtReason::ServerError),
        (ResponseTemplate::new(503), DoubtReason::ServerError),
        (ResponseTemplate::new(200).set_body_string(html), DoubtReason::Undecodable),
        (ResponseTemplate::new(200), DoubtReason::Undecodable),
        (ResponseTemplate::new(204), DoubtReason::Undecodable),
        (ResponseTemplate::new(200).set_body_json(json!({"status": "DONE"})), DoubtReason::Undecodable),
        (error(200, "REJECT_CARD_COMPANY"), DoubtReason::Undecodable),
        (ResponseTemplate::new(403).set_body_string(html), DoubtReason::Undecodable),
        (ResponseTemplate::new(400).set_body_json(payment("ord_1")), DoubtReason::Undecodable),
        (ResponseTemplate::new(307).insert_header("location", "/elsewhere"), DoubtReason::Undecodable),
        (error(400, "BRAND_NEW_CODE"), DoubtReason::UnlistedCode),
        (ResponseTemplate::new(200).set_body_string(" ".repeat(1_100_000)), DoubtReason::Undecodable),
    ] {
        let server = pg(answer).await;
        let toss = toss(&server.uri());
        let confirm = toss.confirm(&confirm_request()).await;
        assert_eq!(unknown(&confirm.answer), Some(wanted), "{confirm:?}");
        assert!(confirm.http_status.is_some());
        assert!(!format!("{confirm:?}").contains("4111"), "the body shows");
        assert_eq!(cancel_unknown(&toss.cancel(&cancel_request()).await.answer), Some(wanted));
        let inquiry = toss.inquire(&confirm_request().payment_key).await;
        assert_eq!(inquiry_unknown(&inquiry.answer), Some(wanted));
        assert_eq!(server.received_requests().await.unwrap().len(), 3, "sent once each, redirects not followed");
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_built_is_our_own_fault() {
    let server = pg(ResponseTemplate::new(200)).await;
    let request = ConfirmRequest { idempotency_key: "line\nbreak".to_owned(), ..confirm_request() };
    let exchange = toss(&server.uri()).confirm(&request).await;
    assert!(
        matches!(&exchange.answer, ConfirmAnswer::NotSent(got) if got.reason == NotSentReason::Misconfigured),
        "{exchange:?}"
    );
    assert!(server.received_requests().await.unwrap().is_empty());
}

#[tokio::test]
async fn odd_trace_ids_are_cut_or_dropped() {
    for (sent, kept) in [("t".repeat(300), Some(128)), ("tab\there".to_owned(), None), (String::new(), None)] {
        let server = pg(error(400, "PROVIDER_ERROR").insert_header("x-tosspayments-trace-id", sent.as_str())).await;
        let exchange = toss(&server.uri()).confirm(&confirm_request()).await;
        assert_eq!(exchange.provider_trace_id.map(|id| id.len()), kept, "{sent}");
    }
}

#[test]
fn settings_that_cannot_work_are_refused() {
    for url in ["", "api.tosspayments.com", "ftp://host", "https://user:pw@host", "https://host?x=1", "https://host#f"]
    {
        assert!(matches!(Toss::new(config(url)), Err(TossSetupError::BaseUrl)), "{url}");
    }
    for key in ["", "with space", "with:colon", "line\nbreak", "한글"] {
        let mut config = config("http://127.0.0.1:1");
        config.secret_key = SecretString::from(key);
        assert!(matches!(Toss::new(config), Err(TossSetupError::SecretKey)), "{key}");
    }
    assert!(!format!("{:?}", config("http://127.0.0.1:1")).contains("test_sk"));
}

#[test]
fn only_loopback_hosts_are_loopback() {
    for (url, wanted) in [
        ("http://127.0.0.1:80", true),
        ("http://localhost", true),
        ("http://[::1]:80", true),
        ("https://api.tosspayments.com", false),
        ("http://10.0.0.1", false),
        ("http://localhost.example.com", false),
    ] {
        assert_eq!(is_loopback(&Url::parse(url).unwrap()), wanted, "{url}");
    }
}
