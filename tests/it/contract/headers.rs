//! Headers that callers, browsers and traces live by.

use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::shop::{Answer, Shop};

const OWN: &str = "https://shop.example";

async fn preflight(shop: &Shop, origin: &str) -> HeaderMap {
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let asked = http
        .request(Method::OPTIONS, format!("{}/v1/orders", shop.base))
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type,idempotency-key,traceparent");
    asked.send().await.expect("an answer").headers().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_pages_of_the_configured_origin_may_call() {
    let shop = Shop::without_worker().await;
    let allowed = preflight(&shop, OWN).await;
    let text = |name: &str| allowed.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    assert_eq!(text("access-control-allow-origin"), OWN);
    for method in ["GET", "POST", "PATCH"] {
        assert!(text("access-control-allow-methods").contains(method));
    }
    for header in ["authorization", "content-type", "idempotency-key", "traceparent", "x-request-id"] {
        assert!(text("access-control-allow-headers").contains(header), "{header}");
    }
    assert!(!allowed.contains_key("access-control-allow-credentials"), "no cookies are in play");
    for origin in ["https://evil.example", "http://shop.example", "https://shop.example.evil.example", "null"] {
        assert!(!preflight(&shop, origin).await.contains_key("access-control-allow-origin"), "{origin}");
    }
    let page = |path: &'static str| shop.secret.raw(Method::GET, path).header("origin", OWN).send();
    for path in ["/v1/products", "/v1/nowhere"] {
        let answer = Answer::read(page(path).await.expect("an answer")).await;
        assert_eq!(answer.header("access-control-allow-origin"), Some(OWN), "{path}");
        let exposed = answer.header("access-control-expose-headers").expect("exposed").to_owned();
        for header in ["location", "retry-after", "idempotency-replayed", "x-request-id", "server-timing"] {
            assert!(exposed.contains(header), "{header} in {exposed}");
        }
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_keeps_its_id_and_says_where_its_time_went() {
    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    let body = json!({ "paymentKey": key, "orderId": order.id, "amount": order.amount });
    let sent = order.buyer.raw(Method::POST, "/v1/payments/confirm").header("x-request-id", "req-4711").json(&body);
    let answer = Answer::read(sent.send().await.expect("an answer")).await.expect(StatusCode::OK);
    assert_eq!(answer.header("x-request-id"), Some("req-4711"));
    let timing = answer.header("server-timing").expect("a timing").to_owned();
    let of = |name: &str| -> f64 {
        let part = timing.split(", ").find_map(|part| part.strip_prefix(&format!("{name};dur=")));
        part.unwrap_or_else(|| panic!("no {name} in {timing}")).parse().expect("a number")
    };
    let steps = ["pool_wait", "tx_begin", "lock_wait", "statements", "tx_commit", "pg_call", "compute"].map(of);
    assert!(steps.iter().all(|spent| *spent > 0.0), "{timing}");
    assert!(of("total") + 0.1 >= steps.iter().sum(), "no moment is told twice: {timing}");
    for odd in ["", "two words", &"x".repeat(65), "semi;colon"] {
        let sent = shop.secret.raw(Method::GET, "/v1/products").header("x-request-id", odd);
        let answer = Answer::read(sent.send().await.expect("an answer")).await;
        let own = answer.header("x-request-id").expect("an id");
        assert!(own != odd && !own.is_empty(), "{odd:?} is replaced");
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_requests_own_trace_goes_through_to_the_order_and_its_history() {
    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 5).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let place = async |parent: &str| {
        let body = json!({ "lines": [{ "productId": product, "quantity": 1 }] });
        let sent = shop.publishable.raw(Method::POST, "/v1/orders").header("traceparent", parent);
        let sent = sent.header("idempotency-key", uuid::Uuid::new_v4().to_string()).json(&body).send();
        Answer::read(sent.await.expect("an answer")).await.expect(StatusCode::CREATED)
    };
    let order = place(&format!("00-{trace}-00f067aa0ba902b7-01")).await;
    // The caller's trace is linked, and does not become ours: a public client must not choose what we keep.
    let own = order.text("traceId");
    assert!(own != trace && order.header("traceresponse").is_some_and(|told| told.contains(&own)), "{own}");
    let timeline = shop.secret.get(&format!("/v1/orders/{}/timeline", order.text("id"))).await;
    assert_eq!(timeline.body["items"][0]["traceId"], own.as_str());
    for odd in ["garbage", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", "00-xyz-1-01"] {
        let own = place(odd).await.text("traceId");
        assert!(own.len() == 32 && own.bytes().any(|b| b != b'0'), "{odd}: {own}");
    }
    shop.close().await;
}
