//! Traces of a real server at a real receiver: what a confirm and a cancel look like, what links them, what the
//! worker's items are, and what becomes of payments when no receiver is of use.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::trace::v1::Span;
use pg_mock::{Behaviour, Rule, WebhookMode};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::otlp::{self, Receiver, attribute, hex, is_error, seconds};
use crate::support::served::Served;
use crate::support::shop::{Answer, Client, PATIENCE, invariants_client};

/// The trace that an answer names.
fn trace(answer: &Answer) -> String {
    let told = answer.header("traceresponse").expect("every answer names its trace");
    let parts: Vec<&str> = told.split('-').collect();
    assert!(parts.len() == 4 && parts[0] == "00" && parts[1].len() == 32, "{told}");
    parts[1].to_owned()
}

async fn product(served: &Served) -> String {
    let body = json!({ "name": "Coffee beans", "price": 12_000, "initialStock": 50 });
    served.secret.post("/v1/products", &body).await.expect(StatusCode::CREATED).text("id")
}

/// An order of one unit: its id, the buyer, the trace that placed it.
async fn place(served: &Served, product: &str) -> (String, Client, String) {
    let lines = json!({ "lines": [{ "productId": product, "quantity": 1 }] });
    let order = served.secret.post_with_key("/v1/orders", &lines).await.expect(StatusCode::CREATED);
    (order.text("id"), Client::new(&served.base, &order.text("checkoutToken")), trace(&order))
}

fn confirm_body(served: &Served, order: &str) -> Value {
    json!({ "paymentKey": served.mock.pay(order, 12_000), "orderId": order, "amount": 12_000 })
}

fn names(spans: &[Span]) -> Vec<&str> {
    spans.iter().map(|span| span.name.as_str()).collect()
}

fn one<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found: Vec<&Span> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "one span {name} in {:?}", names(spans));
    found[0]
}

/// The links of a span: why → trace and span.
fn links(span: &Span) -> BTreeMap<String, (String, String)> {
    let why = |link: &opentelemetry_proto::tonic::trace::v1::span::Link| {
        let kind = Span { attributes: link.attributes.clone(), ..Span::default() };
        attribute(&kind, "payments.link.kind").expect("a link says why")
    };
    span.links.iter().map(|link| (why(link), (hex(&link.trace_id), hex(&link.span_id)))).collect()
}

fn link_to(root: &Span) -> (String, String) {
    (hex(&root.trace_id), hex(&root.span_id))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_can_be_followed_from_its_order_to_its_cancel_over_http_and_grpc() {
    for receiver in [Receiver::http().await, Receiver::grpc().await] {
        let served = Served::start(&receiver.variables("1")).await;
        let product = product(&served).await;
        let (order, buyer, placed_in) = place(&served, &product).await;
        let callers = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let confirm = buyer.raw(Method::POST, "/v1/payments/confirm").header("traceparent", callers);
        let confirm = confirm.json(&confirm_body(&served, &order)).send().await.expect("an answer");
        let confirm = Answer::read(confirm).await.expect(StatusCode::OK);
        let (payment, confirmed_in) = (confirm.text("id"), trace(&confirm));
        let path = format!("/v1/payments/{payment}/cancel");
        let cancel = served.secret.post_with_key(&path, &json!({ "reason": "all" })).await.expect(StatusCode::OK);

        let placed = receiver.root(&placed_in).await;
        assert_eq!(placed.name, "POST /v1/orders");
        assert_eq!(attribute(&placed, "payments.order.id"), Some(order.clone()));
        let root = receiver.root(&confirmed_in).await;
        assert_eq!((root.name.as_str(), root.kind), ("POST /v1/payments/confirm", 2));
        assert!(!is_error(&root) && confirmed_in != "4bf92f3577b34da6a3ce929d0e0e4736");
        let callers = ("4bf92f3577b34da6a3ce929d0e0e4736".to_owned(), "00f067aa0ba902b7".to_owned());
        let wanted = [("caller".to_owned(), callers), ("order".to_owned(), link_to(&placed))];
        assert_eq!(links(&root), BTreeMap::from(wanted));
        for (name, value) in [
            ("payments.order.id", order.as_str()),
            ("payments.payment.id", payment.as_str()),
            ("payments.operation", "confirm"),
            ("payments.outcome", "success"),
            ("http.response.status_code", "200"),
        ] {
            assert_eq!(attribute(&root, name).as_deref(), Some(value), "{name}");
        }
        the_steps_hang_under_their_root(&receiver.trace(&confirmed_in), &served);
        let canceled = receiver.root(&trace(&cancel)).await;
        assert_eq!(links(&canceled), BTreeMap::from([("confirm".to_owned(), link_to(&root))]));
        assert!(canceled.name == "POST /v1/payments/{id}/cancel" && !is_error(&canceled), "{}", canceled.name);
    }
}

fn the_steps_hang_under_their_root(spans: &[Span], served: &Served) {
    let root = spans.iter().find(|span| span.parent_span_id.is_empty()).expect("a root");
    assert_eq!(hex(&root.trace_id)[16..], hex(&root.span_id), "a stored trace id leads to its root");
    let attempts: Vec<&Span> = spans.iter().filter(|span| span.kind == 3).collect();
    let ([attempt], call) = (attempts.as_slice(), one(spans, "pg.confirm")) else {
        panic!("one attempt: {attempts:?}")
    };
    assert_eq!(attempt.parent_span_id, call.span_id);
    let port = served.mock.url().rsplit_once(':').expect("a port").1.to_owned();
    for (name, value) in [
        ("peer.service", "toss"),
        ("server.address", "127.0.0.1"),
        ("server.port", port.as_str()),
        ("http.request.method", "POST"),
        ("url.template", "/v1/payments/confirm"),
        ("http.response.status_code", "200"),
    ] {
        assert_eq!(attribute(attempt, name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(attribute(call, "payments.pg.attempts").as_deref(), Some("1"));
    for name in ["tx confirm_intend", "tx confirm_resolve"] {
        let tx = one(spans, name);
        assert_eq!(attribute(tx, "db.system.name").as_deref(), Some("postgresql"));
        assert_eq!(attribute(tx, "payments.tx.result").as_deref(), Some("commit"));
        assert_eq!(tx.parent_span_id, root.span_id);
    }
    let measured = attribute(root, "http_server_request_duration_seconds.200").expect("what was measured in it");
    let off = (measured.parse::<f64>().expect("seconds") - seconds(root)).abs();
    assert!(off < 0.001, "the root lasts as long as the request was measured: {off}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_certain_is_an_error_and_its_recovery_links_to_it() {
    let receiver = Receiver::http().await;
    let served = Served::start(&receiver.variables("1")).await;
    served.mock.webhooks(WebhookMode::Off);
    let product = product(&served).await;
    let (order, buyer, _) = place(&served, &product).await;
    served.mock.script(Rule::confirm(Behaviour::ApproveThenDrop));
    let confirm = buyer.post("/v1/payments/confirm", &confirm_body(&served, &order)).await;
    let confirm = confirm.expect(StatusCode::ACCEPTED);
    let (payment, confirmed_in) = (confirm.text("id"), trace(&confirm));
    let root = receiver.root(&confirmed_in).await;
    assert_eq!(attribute(&root, "error.type").as_deref(), Some("unknown"), "{root:?}");
    let spans = receiver.trace(&confirmed_in);
    assert!(is_error(&root) && is_error(one(&spans, "pg.confirm")));
    let recovery = eventually("the recovery arrives", PATIENCE, async || {
        let mut recoveries = receiver.spans().into_iter().filter(|span| span.name == "recover payment");
        recoveries.rfind(|span| attribute(span, "payments.outcome").as_deref() == Some("success"))
    })
    .await;
    assert!(recovery.parent_span_id.is_empty() && !is_error(&recovery));
    assert_eq!(links(&recovery), BTreeMap::from([("confirm".to_owned(), link_to(&root))]));
    assert_eq!(attribute(&recovery, "payments.payment.id"), Some(payment));
    let (order, buyer, _) = place(&served, &product).await;
    served.mock.script(Rule::confirm(Behaviour::Decline { code: "REJECT_CARD_PAYMENT".to_owned() }));
    let declined = buyer.post("/v1/payments/confirm", &confirm_body(&served, &order)).await;
    let declined = declined.expect(StatusCode::PAYMENT_REQUIRED);
    let root = receiver.root(&trace(&declined)).await;
    assert!(!is_error(&root), "a no of the PG is an answer: {root:?}");
    assert_eq!(attribute(&root, "payments.outcome").as_deref(), Some("declined"));
}

/// The traces stored in each table that has some, without repetition; `None` stands for rows without one.
async fn stored(served: &Served) -> BTreeMap<String, Vec<Option<String>>> {
    let client = invariants_client(&served.database).await;
    let tables = "select table_name::text from information_schema.columns
        where table_schema = 'public' and column_name = 'trace_id' and table_name in (
            select relname from pg_class where relkind in ('r', 'p') and not relispartition) order by 1";
    let mut stored = BTreeMap::new();
    for table in client.query(tables, &[]).await.expect("tables") {
        let table: String = table.get(0);
        let rows = client.query(&format!("select distinct trace_id from {table}"), &[]).await.expect("traces");
        stored.insert(table, rows.iter().map(|row| row.get(0)).collect());
    }
    stored
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_that_remembers_a_trace_leads_to_one_that_was_kept() {
    let receiver = Receiver::http().await;
    let mut variables = receiver.variables("1").to_vec();
    variables.extend([("PAYGAUGE_RECONCILE_SECONDS", "1"), ("PAYGAUGE_RECONCILE_SETTLE_SECONDS", "1")]);
    let served = Served::start(&variables).await;
    let product = product(&served).await;
    // A recovery, an expiry, a webhook's deposit and cancel, a cancel in the PG's console.
    let (unclear, buyer, _) = place(&served, &product).await;
    served.mock.script(Rule::confirm(Behaviour::ApproveThenDrop));
    buyer.post("/v1/payments/confirm", &confirm_body(&served, &unclear)).await.expect(StatusCode::ACCEPTED);
    let (late, ..) = place(&served, &product).await;
    let client = invariants_client(&served.database).await;
    let over = format!("update orders set hold_expires_at = now() where id = '{}'", uuid_of(&late));
    client.batch_execute(&over).await.expect("SQL");
    let (deposited, buyer, _) = place(&served, &product).await;
    let account = served.mock.pay_by_virtual_account(&deposited, 12_000);
    let body = json!({ "paymentKey": account, "orderId": deposited, "amount": 12_000 });
    let confirmed = buyer.post("/v1/payments/confirm", &body).await.expect(StatusCode::OK).text("id");
    served.mock.deposit(&account);
    becomes(&served, &deposited, "paid").await;
    let account = json!({ "bankCode": "88", "accountNumber": "11012345678", "holder": "Kim" });
    let cancel = json!({ "reason": "all", "refundAccount": account });
    let path = format!("/v1/payments/{confirmed}/cancel");
    served.secret.post_with_key(&path, &cancel).await.expect(StatusCode::OK);
    let (abroad, buyer, _) = place(&served, &product).await;
    let body = confirm_body(&served, &abroad);
    // Else a late webhook of the payment would ask the PG, and see the cancel before reconciliation does.
    served.mock.webhooks(WebhookMode::Off);
    buyer.post("/v1/payments/confirm", &body).await.expect(StatusCode::OK);
    served.mock.cancel_in_console(body["paymentKey"].as_str().expect("a key"), 12_000);
    for (order, status) in [(&unclear, "paid"), (&late, "expired"), (&deposited, "canceled"), (&abroad, "canceled")] {
        becomes(&served, order, status).await;
    }
    let actors = client.query("select distinct actor from events", &[]).await.expect("actors");
    let actors: Vec<String> = actors.iter().map(|row| row.get(0)).collect();
    for actor in ["webhook", "expiry", "reconcile"] {
        assert!(actors.iter().any(|known| known == actor), "{actor} in {actors:?}");
    }
    let stored = stored(&served).await;
    let tables: Vec<&str> = stored.keys().map(String::as_str).collect();
    assert!(tables.len() >= 7, "{tables:?}");
    for (table, traces) in &stored {
        assert!(!traces.is_empty(), "nothing in {table}");
        for trace in traces {
            let trace = trace.as_deref().unwrap_or_else(|| panic!("a row of {table} without a trace"));
            receiver.root(trace).await;
        }
    }
}

fn uuid_of(id: &str) -> String {
    let id: paygauge::domain::ids::OrderId = id.parse().expect("an order's id");
    id.uuid().to_string()
}

async fn becomes(served: &Served, order: &str, status: &str) {
    eventually(&format!("{order} becomes {status}"), PATIENCE, async || {
        let now = served.secret.get(&format!("/v1/orders/{order}")).await.expect(StatusCode::OK);
        (now.text("status") == status).then_some(())
    })
    .await;
}

/// A counter's value by its series.
fn value(metrics: &str, series: &str) -> f64 {
    let found = metrics.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("no {series}"))
}

fn of(metrics: &str, result: &str) -> f64 {
    value(metrics, &format!("payments_trace_spans_total{{result=\"{result}\"}}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_of_no_use_fails_no_payment_and_has_no_exemplars() {
    for (endpoint, protocol) in [
        (otlp::black_hole().await, "http/protobuf"),
        (otlp::black_hole().await, "grpc"),
        (otlp::refusing().await, "grpc"),
    ] {
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("PAYGAUGE_TRACE_KEEP_RATIO", "1"),
        ];
        let served = Served::start(&variables).await;
        let product = product(&served).await;
        let purchases = (0..30).map(async |_| {
            let (order, buyer, _) = place(&served, &product).await;
            buyer.post("/v1/payments/confirm", &confirm_body(&served, &order)).await.expect(StatusCode::OK);
        });
        futures_util::future::join_all(purchases).await;
        let metrics = eventually("the spans are given up", PATIENCE, async || {
            let metrics = served.metrics().await;
            (of(&metrics, "export_failed") > 0.0).then_some(metrics)
        })
        .await;
        assert_eq!(of(&metrics, "exported"), 0.0);
        assert_eq!(value(&metrics, "payments_exemplars_stored"), 0.0);
        assert_eq!(served.mock.book().calls.confirm, 30);
        let confirmed = r#"payments_operation_duration_seconds_count{operation="confirm",outcome_class="ok"}"#;
        assert_eq!(value(&metrics, confirmed), 30.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_span_is_counted_and_those_that_are_kept_arrive() {
    let receiver = Receiver::grpc().await;
    let mut served = Served::start(&receiver.variables("0.5")).await;
    let product = product(&served).await;
    for _ in 0..20 {
        let (order, buyer, _) = place(&served, &product).await;
        buyer.post("/v1/payments/confirm", &confirm_body(&served, &order)).await.expect(StatusCode::OK);
    }
    let metrics = eventually("some are kept and some are not", PATIENCE, async || {
        let metrics = served.metrics().await;
        let decision = |word: &str| value(&metrics, &format!("payments_traces_total{{decision=\"{word}\"}}"));
        let told = of(&metrics, "exported") > 0.0 && decision("dropped") > 0.0 && decision("exemplar") > 0.0;
        (told && value(&metrics, "payments_exemplars_stored") > 0.0).then_some(metrics)
    })
    .await;
    assert!(of(&metrics, "sampled_out") > 0.0);
    assert_eq!((of(&metrics, "queue_full"), of(&metrics, "export_failed")), (0.0, 0.0));
    served.terminate();
    assert!(served.ended().await.success());
    let spans = receiver.spans();
    assert!(f64::from(u32::try_from(spans.len()).expect("few")) >= of(&metrics, "exported"));
    // Kept is kept whole: no span hangs under one that is not there.
    for span in spans.iter().filter(|span| !span.parent_span_id.is_empty()) {
        let has_parent = spans.iter().any(|parent| parent.span_id == span.parent_span_id);
        assert!(has_parent, "{} hangs in the air", span.name);
    }
}
