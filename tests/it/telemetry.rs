//! What the process tells of itself: one line per request, and never a secret or a person in lines, metrics, spans
//! or events.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use wiremock::{Mock, MockServer, ResponseTemplate, matchers};

use crate::support::eventually;
use crate::support::served::Served;
use crate::support::shop::{Answer, Client, PATIENCE, invariants_client};

/// Stands in every value that must not be told; no ordinary text has it.
const CANARY: &str = "kanarienvogel";
const ACCOUNT: &str = "90817263544";

fn canary(what: &str) -> String {
    format!("{CANARY}-{what}")
}

async fn ask(who: &Client, id: &str, line: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let (method, path) = line.split_once(' ').expect("a method and a path");
    let method: Method = method.parse().expect("a method");
    let mut request = who.raw(method, path).header("x-request-id", id).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::read(request.body(body.to_owned()).send().await.expect("an answer")).await
}

/// Puts the canary into everything a caller can send. Returns the texts that were made for us and must stay secret.
async fn tell_secrets(served: &Served) -> Vec<String> {
    let secret = &served.secret;
    let key = canary("idempotency-key");
    let product = json!({ "name": canary("product"), "price": 12_000, "initialStock": 5 }).to_string();
    let product = ask(secret, "req-product", "POST /v1/products", &[], &product).await.expect(StatusCode::CREATED);
    let product = product.text("id");
    let adjust = json!({ "delta": 1, "kind": "restock", "reason": canary("adjustment") }).to_string();
    let path = format!("POST /v1/products/{product}/stock-adjustments");
    ask(secret, "req-adjust", &path, &[], &adjust).await.expect(StatusCode::CREATED);

    let place = json!({ "lines": [{ "productId": product, "quantity": 1 }], "customerRef": canary("customer") });
    let headers = [("idempotency-key", key.as_str()), ("user-agent", "kanarienvogel-agent")];
    let order = ask(secret, "req-order", "POST /v1/orders", &headers, &place.to_string()).await;
    let order = order.expect(StatusCode::CREATED);
    let (id, token) = (order.text("id"), order.text("checkoutToken"));
    let buyer = Client::new(&served.base, &token);
    let payment_key = served.mock.pay_by_virtual_account(&id, 12_000);
    let confirm = json!({ "paymentKey": payment_key, "orderId": id, "amount": 12_000 }).to_string();
    let confirmed =
        ask(&buyer, "req-confirm", "POST /v1/payments/confirm", &[("idempotency-key", &key)], &confirm).await;
    let confirmed = confirmed.expect(StatusCode::OK);
    let payment = confirmed.text("id");
    let deposit = confirmed.body["deposit"]["accountNumber"].as_str().expect("an account").to_owned();
    served.mock.deposit(&payment_key);
    eventually("the deposit is booked", PATIENCE, async || {
        let now = secret.get(&format!("/v1/orders/{id}")).await;
        (now.text("status") == "paid").then_some(())
    })
    .await;
    let account = json!({ "bankCode": "88", "accountNumber": ACCOUNT, "holder": canary("holder") });
    let cancel = json!({ "reason": canary("reason"), "refundAccount": account }).to_string();
    let path = format!("POST /v1/payments/{payment}/cancel");
    ask(secret, "req-cancel", &path, &[("idempotency-key", &key)], &cancel).await.expect(StatusCode::OK);
    tell_nonsense(served, &id).await;
    vec![secret.token().to_owned(), token, payment_key, deposit]
}

/// The same in requests that are refused, and in webhooks.
async fn tell_nonsense(served: &Served, order: &str) {
    let secret = &served.secret;
    let field = json!({ canary("field"): canary("value") }).to_string();
    let typed = json!({ "paymentKey": canary("payment-key"), "orderId": canary("id"), "amount": 1 }).to_string();
    let unknown = json!({ "paymentKey": canary("payment-key"), "orderId": order, "amount": 12_000 }).to_string();
    ask(secret, "req-field", "POST /v1/orders", &[("idempotency-key", "k")], &field)
        .await
        .expect(StatusCode::BAD_REQUEST);
    ask(secret, "req-typed", "POST /v1/payments/confirm", &[], &typed).await.expect(StatusCode::BAD_REQUEST);
    ask(secret, "req-unknown", "POST /v1/payments/confirm", &[], &unknown).await.expect(StatusCode::CONFLICT);
    ask(secret, "req-json", "POST /v1/orders", &[], "kanarienvogel").await.expect(StatusCode::BAD_REQUEST);
    ask(secret, "req-path", "GET /v1/orders/kanarienvogel", &[], "").await.expect(StatusCode::BAD_REQUEST);
    ask(secret, "req-route", "GET /kanarienvogel", &[], "").await.expect(StatusCode::NOT_FOUND);
    ask(secret, "req-query", "GET /v1/orders?status=kanarienvogel", &[], "").await.expect(StatusCode::BAD_REQUEST);
    ask(secret, "req-method", "KANARIENVOGEL /v1/orders", &[], "").await.expect(StatusCode::METHOD_NOT_ALLOWED);
    let stranger = Client::new(&served.base, &format!("pgsk_{}", canary("credential")));
    ask(&stranger, "req-stranger", "GET /v1/orders", &[], "").await.expect(StatusCode::UNAUTHORIZED);
    let webhook = json!({
        "eventType": "PAYMENT_STATUS_CHANGED",
        "data": { "paymentKey": canary("webhook-key"), "customerName": canary("name"), "secret": canary("secret"),
            "card": { "number": "4111111111111111" } }
    });
    ask(secret, "req-webhook", "POST /v1/webhooks/toss", &[], &webhook.to_string()).await.expect(StatusCode::OK);
    let odd = json!({ "eventType": canary("event"), "secret": canary("secret") }).to_string();
    ask(secret, "req-odd", "POST /v1/webhooks/toss", &[], &odd).await.expect(StatusCode::OK);
    let client = invariants_client(&served.database).await;
    eventually("every webhook is read", PATIENCE, async || {
        let unread = "select count(*) from webhook_inbox where processed_at is null";
        let unread: i64 = client.query_one(unread, &[]).await.expect("a count").get(0);
        (unread == 0).then_some(())
    })
    .await;
}

/// Fails with the first place in which a secret stands.
fn silent(place: &str, texts: &[String], secrets: &[String]) {
    for text in texts {
        for secret in secrets.iter().map(String::as_str).chain([CANARY, ACCOUNT, "4111111111111111", "test_sk_mock"]) {
            let at = text.to_lowercase().find(&secret.to_lowercase());
            assert!(at.is_none(), "{place} tells {secret}: {text}");
        }
    }
}

/// One canonical line of each request, by its id.
fn canonical(lines: &[String]) {
    for (id, method, route, status) in [
        ("req-order", "POST", "/v1/orders", 201),
        ("req-confirm", "POST", "/v1/payments/confirm", 200),
        ("req-cancel", "POST", "/v1/payments/{id}/cancel", 200),
        ("req-path", "GET", "/v1/orders/{id}", 400),
        ("req-route", "GET", "_unmatched", 404),
        ("req-method", "_OTHER", "/v1/orders", 405),
        ("req-stranger", "GET", "/v1/orders", 401),
        ("req-webhook", "POST", "/v1/webhooks/{provider}", 200),
    ] {
        let told = lines.iter().map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"));
        let told: Vec<Value> = told.filter(|line| line["msg"] == "request" && line["request_id"] == id).collect();
        let [line] = told.as_slice() else { panic!("one line of {id}: {told:?}") };
        assert_eq!((&line["http_method"], &line["http_route"]), (&json!(method), &json!(route)), "{id}");
        assert_eq!(line["status"], status, "{id}");
        assert!(line["duration_ms"].is_number() && line["trace_id"].is_string(), "{line}");
        assert_eq!(line["code"].is_string(), status >= 400, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_has_one_line_and_no_secret_leaves_by_lines_metrics_spans_or_events() {
    let receiver = MockServer::start().await;
    Mock::given(matchers::path("/v1/traces")).respond_with(ResponseTemplate::new(200)).mount(&receiver).await;
    let endpoint = receiver.uri();
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("PAYGAUGE_LOG", "info,paygauge=trace")];
    let mut served = Served::start(&variables).await;
    let secrets = tell_secrets(&served).await;

    let client = invariants_client(&served.database).await;
    let texts = async |query: &str| -> Vec<String> {
        client.query(query, &[]).await.expect("SQL").iter().map(|row| row.get(0)).collect()
    };
    assert_eq!(texts("select customer_ref from orders").await, [canary("customer")], "the canary did come in");
    // A reason is the shop's own text and belongs into its books; what is told of people does not.
    assert_eq!(texts("select reason from cancellations").await, [canary("reason")]);
    let events = texts("select replace(events::text, 'kanarienvogel-reason', '') from events").await;
    assert!(events.len() >= 8, "{events:?}");
    silent("the history", &events, &secrets);
    let metrics = served.metrics().await;
    silent("the metrics", std::slice::from_ref(&metrics), &secrets);
    for line in metrics.lines().filter(|line| line.starts_with("payments_log_redactions_total{")) {
        assert!(line.ends_with(" 0"), "something had to be masked at the last moment: {line}");
    }

    served.terminate();
    assert!(served.ended().await.success());
    let lines = served.lines();
    assert!(lines.len() > 20, "{lines:?}");
    canonical(&lines);
    silent("a line", &lines, &secrets);
    let requests = receiver.received_requests().await.expect("recorded");
    let spans: Vec<_> = requests
        .iter()
        .map(|request| ExportTraceServiceRequest::decode(request.body.as_slice()).expect("protobuf"))
        .flat_map(|request| request.resource_spans)
        .flat_map(|resource| resource.scope_spans)
        .flat_map(|scope| scope.spans)
        .collect();
    for name in ["POST /v1/orders", "POST /v1/payments/confirm", "POST /v1/payments/{id}/cancel"] {
        assert!(spans.iter().any(|span| span.name == name), "no span {name}");
    }
    let spans: Vec<String> = spans.iter().map(|span| format!("{span:?}")).collect();
    silent("a span", &spans, &secrets);
}
