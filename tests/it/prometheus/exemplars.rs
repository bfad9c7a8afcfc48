//! From a bucket to a payment: each exemplar that a real Prometheus has leads to a trace that a real receiver has, and
//! shows exactly what was measured there.

use std::collections::BTreeSet;

use opentelemetry_proto::tonic::trace::v1::Span;
use pg_mock::{Behaviour, Rule};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::otlp::{Receiver, attribute, hex, seconds};
use crate::support::prometheus::{Prometheus, Setup, now};
use crate::support::served::Served;
use crate::support::shop::{Client, PATIENCE};

/// Histograms that carry exemplars whose value is how long their span lasted.
const OF_A_SPAN: [&str; 3] = [
    "http_server_request_duration_seconds",
    "http_client_request_duration_seconds",
    "payments_db_transaction_duration_seconds",
];
/// Those whose value is a part of it.
const OF_A_PART: [&str; 2] = ["payments_operation_duration_seconds", "payments_step_duration_seconds"];
/// Those whose value counts from a moment before the span.
const FROM_BEFORE: [&str; 2] = ["payments_doubt_duration_seconds", "payments_webhook_delay_seconds"];

/// Buys and cancels, quickly and slowly, with every kind of answer of the PG.
async fn load(served: &Served) {
    let body = json!({ "name": "Coffee beans", "price": 12_000, "initialStock": 500 });
    let product = served.secret.post("/v1/products", &body).await.expect(StatusCode::CREATED).text("id");
    for behaviour in [
        None,
        Some(Behaviour::Delay { ms: 300 }),
        Some(Behaviour::Decline { code: "REJECT_CARD_PAYMENT".to_owned() }),
        Some(Behaviour::ApproveThenDrop),
        None,
    ] {
        if let Some(behaviour) = behaviour {
            served.mock.script(Rule::confirm(behaviour));
        }
        let purchases = (0..4).map(async |_| {
            let lines = json!({ "lines": [{ "productId": product, "quantity": 1 }] });
            let order = served.secret.post_with_key("/v1/orders", &lines).await.expect(StatusCode::CREATED);
            let (id, buyer) = (order.text("id"), Client::new(&served.base, &order.text("checkoutToken")));
            let body = json!({ "paymentKey": served.mock.pay(&id, 12_000), "orderId": id, "amount": 12_000 });
            let confirmed = buyer.post("/v1/payments/confirm", &body).await;
            if confirmed.status == StatusCode::OK {
                let path = format!("/v1/payments/{}/cancel", confirmed.text("id"));
                served.secret.post_with_key(&path, &json!({ "reason": "all" })).await.expect(StatusCode::OK);
            }
        });
        futures_util::future::join_all(purchases).await;
    }
}

/// The span of a trace in which this value of this metric was measured.
fn measured_in<'a>(spans: &'a [Span], metric: &str, value: f64) -> Option<&'a Span> {
    let start = format!("{metric}.");
    spans.iter().find(|span| {
        let names = span.attributes.iter().filter(|told| told.key.starts_with(&start));
        names.filter_map(|told| attribute(span, &told.key)?.parse::<f64>().ok()).any(|told| (told - value).abs() < 1e-9)
    })
}

fn number(value: &Value) -> f64 {
    value.as_str().expect("a number as text").parse().expect("a number")
}

/// Holds the exemplars of a metric against the receiver; returns the payments that they lead to. A span may be longer
/// than a value in it by `longer` and shorter by `shorter` seconds.
async fn check(
    prometheus: &Prometheus,
    receiver: &Receiver,
    metric: &str,
    (shorter, longer): (f64, f64),
) -> BTreeSet<String> {
    let expr = format!("sum by (le) (rate({metric}_bucket[5m]))");
    let found = prometheus.query_exemplars(&expr, now() - 600.0, now() + 60.0).await;
    assert!(!found.is_empty(), "no exemplar of {metric}");
    let mut payments = BTreeSet::new();
    for series in &found {
        let bound = number(&series["seriesLabels"]["le"]);
        for exemplar in series["exemplars"].as_array().expect("a list") {
            let (labels, value) = (&exemplar["labels"], number(&exemplar["value"]));
            let trace = labels["trace_id"].as_str().expect("a trace");
            assert!(value <= bound, "{metric}: {value} stands in the bucket up to {bound}");
            let spans = receiver.trace(trace);
            assert!(spans.iter().any(|span| span.parent_span_id.is_empty()), "{metric}: nobody has the trace {trace}");
            let span =
                measured_in(&spans, metric, value).unwrap_or_else(|| panic!("{metric}: {value} is not of {trace}"));
            let off = seconds(span) - value;
            assert!(off > -shorter && off < longer, "{metric}: {value} in {} s of {}", seconds(span), span.name);
            assert_eq!(hex(&span.trace_id), trace);
            let payment = spans.iter().find_map(|span| attribute(span, "payments.payment.id"));
            assert_eq!(labels["payment_id"].as_str(), payment.as_deref(), "{metric} {trace}");
            payments.extend(payment);
        }
    }
    payments
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Prometheus and Alertmanager: .ci/watch runs it"]
async fn every_exemplar_leads_to_a_trace_that_was_kept_and_to_its_payment() {
    for receiver in [Receiver::http().await, Receiver::grpc().await] {
        let served = Served::start(&receiver.variables("0.05")).await;
        let Some(prometheus) = Prometheus::start(Setup::scraping(&[served.ops_address()])).await else { return };
        load(&served).await;
        eventually("an exemplar of a confirm arrives", PATIENCE, async || {
            let expr = r#"payments_operation_duration_seconds_bucket{operation="confirm"}"#;
            let found = prometheus.query_exemplars(expr, now() - 600.0, now() + 60.0).await;
            (!found.is_empty()).then_some(())
        })
        .await;
        prometheus.scraped(4).await;
        let mut payments = BTreeSet::new();
        let (exact, any) = (0.001, f64::INFINITY);
        for (metrics, off) in [(&OF_A_SPAN[..], (exact, exact)), (&OF_A_PART, (exact, any)), (&FROM_BEFORE, (any, any))]
        {
            for metric in metrics {
                payments.extend(check(&prometheus, &receiver, metric, off).await);
            }
        }
        for payment in &payments {
            served.secret.get(&format!("/v1/payments/{payment}")).await.expect(StatusCode::OK);
        }
        assert!(!payments.is_empty(), "some exemplar leads to a payment");
        assert!(prometheus.value("payments_exemplars_stored").await.is_some_and(|count| count > 0.0));
        assert_eq!(prometheus.value(r#"payments_trace_spans_total{result="queue_full"}"#).await, Some(0.0));
        // The family of a counter has no `_total` in OpenMetrics; its series has.
        assert!(prometheus.value("sum(payments_operations_total)").await.is_some_and(|count| count > 0.0));
        let metadata = prometheus.api("metadata", &[("metric", "payments_operations")]).await;
        assert_eq!(metadata["payments_operations"][0]["type"], "counter", "{metadata}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Prometheus and Alertmanager: .ci/watch runs it"]
async fn without_a_receiver_there_is_no_exemplar() {
    let served = Served::start(&[]).await;
    let Some(prometheus) = Prometheus::start(Setup::scraping(&[served.ops_address()])).await else { return };
    load(&served).await;
    prometheus.scraped(3).await;
    for metric in OF_A_SPAN.iter().chain(&OF_A_PART).chain(&FROM_BEFORE) {
        let found = prometheus.query_exemplars(&format!("{metric}_bucket"), now() - 600.0, now() + 60.0).await;
        assert!(found.is_empty(), "{metric}: {found:?}");
    }
    assert_eq!(prometheus.value("payments_exemplars_stored").await, Some(0.0));
}
