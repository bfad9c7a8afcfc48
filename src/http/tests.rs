//! What the whole router answers without a database: credentials, unknown addresses, descriptions.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, bb8};
use secrecy::SecretString;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::auth::tokens::Tokens;
use super::listen::Peer;
use super::problem::Code;
use super::streams::Streams;
use super::{AppState, openapi, router, routes};
use crate::app::{App, Nudges};
use crate::cache::Cache;
use crate::config::Settings;
use crate::crash::CrashSwitch;
use crate::db::known_keys::KnownKeys;
use crate::db::{Conn, Db};
use crate::domain::ids::OrderId;
use crate::limits::{Budget, Proxies, RateLimiter, Rates};
use crate::provider::call::Door;
use crate::provider::toss::{Toss, TossConfig};
use crate::queues::Queues;
use crate::telemetry::labels::ProviderLabel;

const ORIGIN: &str = "http://127.0.0.1:8000";

/// An API whose database cannot be reached.
fn api() -> (AppState, Router) {
    limited(Rates::OFF)
}

/// The same with these limits.
fn limited(rates: Rates) -> (AppState, Router) {
    let manager = AsyncDieselConnectionManager::<Conn>::new("postgres://127.0.0.1:1/none");
    let pool = bb8::Pool::builder().connection_timeout(Duration::from_millis(200)).build_unchecked(manager);
    let toss = TossConfig {
        base_url: "http://127.0.0.1:1".to_owned(),
        secret_key: SecretString::from("test_sk_none"),
        m_id: None,
        connect_timeout: Duration::from_secs(1),
        confirm_timeout: Duration::from_secs(1),
        cancel_timeout: Duration::from_secs(1),
        inquiry_timeout: Duration::from_secs(1),
    };
    let provider = Arc::new(Toss::new(toss).expect("a client"));
    let settings = Settings::default();
    let app = App {
        db: Db::new(pool, 2, CrashSwitch::default()),
        provider: Door::new(
            provider,
            ProviderLabel::Toss,
            settings.provider_deadline,
            settings.provider_limits,
            CrashSwitch::default(),
        ),
        settings,
        tasks: tokio_util::task::TaskTracker::new(),
        known_keys: KnownKeys::default(),
        queues: Queues::default(),
        cache: Cache::new(Duration::ZERO, None),
        news: Arc::default(),
        nudges: Nudges::default(),
    };
    let tokens = Tokens::new(&[SecretString::from("a secret of thirty-two characters")], Duration::from_secs(60));
    let limiter = RateLimiter::new(rates, Proxies::default(), None);
    let streams = Streams::new(1, Duration::from_secs(60), CancellationToken::new());
    let state = AppState::new(Arc::new(app), tokens.expect("a secret"), limiter, streams);
    (state.clone(), router(state, &[ORIGIN.to_owned()]))
}

fn request(line: &str, headers: &[(&str, &str)], body: &str) -> Request {
    let (method, path) = line.split_once(' ').expect("a method and a path");
    let start = Request::builder().method(method).uri(path);
    let built = headers.iter().fold(start, |request, (name, value)| request.header(*name, *value));
    built.body(Body::from(body.to_owned())).expect("a good request")
}

async fn answer(router: &Router, request: Request) -> (Response<()>, String) {
    let response = router.clone().oneshot(request).await.expect("infallible");
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 10_000_000).await.expect("a body");
    (Response::from_parts(parts, ()), String::from_utf8_lossy(&body).into_owned())
}

async fn problem(router: &Router, request: Request) -> (Response<()>, Value) {
    let (response, body) = answer(router, request).await;
    assert_eq!(response.headers()["content-type"], "application/problem+json", "{body}");
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(body["status"], response.status().as_u16());
    (response, body)
}

#[tokio::test]
async fn every_wrong_turn_is_a_problem() {
    let (state, router) = api();
    let order = OrderId::new();
    let token = format!("Bearer {}", state.tokens().mint(order, crate::clock::now()));
    let buyer = ("authorization", token.as_str());
    let json = ("content-type", "application/json");
    let key = ("idempotency-key", "k1");
    let own = format!("POST /v1/orders/{order}/cancel");
    let foreign = format!("POST /v1/orders/{}/cancel", OrderId::new());
    let confirm = "POST /v1/payments/confirm";
    let foreign_confirm = format!(r#"{{"paymentKey":"k","orderId":"{}","amount":1}}"#, OrderId::new());
    let minus = format!(r#"{{"paymentKey":"k","orderId":"{order}","amount":-1}}"#);
    let large = format!(r#"{{"reason":"{}"}}"#, "x".repeat(70_000));
    let unknown_key = format!("Bearer pgsk_{}_{}", "0".repeat(32), "A".repeat(43));
    let webhook = "POST /v1/webhooks/toss";
    let huge = " ".repeat(256 * 1024 + 1);
    for (line, headers, body, code) in [
        ("GET /v2/orders", &[][..], "", Code::RouteNotFound),
        ("DELETE /v1/orders", &[], "", Code::MethodNotAllowed),
        ("GET /v1/orders", &[], "", Code::Unauthorized),
        ("GET /v1/orders", &[("authorization", "Basic abc")], "", Code::Unauthorized),
        ("GET /v1/orders", &[("authorization", "Bearer nonsense")], "", Code::Unauthorized),
        ("GET /v1/orders", &[("authorization", "Bearer pgsk_short")], "", Code::Unauthorized),
        ("GET /v1/orders", &[("authorization", "Bearer ct_AAAA.AAAA")], "", Code::Unauthorized),
        ("GET /v1/orders", &[("authorization", &unknown_key)], "", Code::DatabaseUnavailable),
        ("GET /v1/orders", &[buyer], "", Code::Forbidden),
        ("POST /v1/orders", &[buyer, json, key], "{}", Code::Forbidden),
        ("GET /v1/payments/nonsense", &[buyer], "", Code::InvalidParameter),
        ("GET /v1/payments/pay_00000000000070008000000000000000", &[buyer], "", Code::DatabaseUnavailable),
        (&foreign, &[buyer, json, key], r#"{"reason":"no"}"#, Code::OrderNotFound),
        (&own, &[buyer, json], r#"{"reason":"no"}"#, Code::IdempotencyKeyMissing),
        (&own, &[buyer, json, ("idempotency-key", "a\tb")], r#"{"reason":"no"}"#, Code::IdempotencyKeyInvalid),
        (&own, &[buyer, json, key], r#"{"reason":""}"#, Code::InvalidParameter),
        (&own, &[buyer, json, key], r#"{"reason":"no","force":true}"#, Code::InvalidParameter),
        (&own, &[buyer, json, key], r#"{"reason":"#, Code::BadJson),
        (&own, &[buyer, key], r#"{"reason":"no"}"#, Code::UnsupportedMediaType),
        (&own, &[buyer, json, key], &large, Code::BodyTooLarge),
        (&own, &[buyer, json, key], r#"{"reason":"no"}"#, Code::DatabaseUnavailable),
        (confirm, &[buyer, json], &foreign_confirm, Code::OrderNotFound),
        (confirm, &[buyer, json], &minus, Code::InvalidParameter),
        ("GET /v1/orders/%FF", &[buyer], "", Code::InvalidParameter),
        ("POST /v1/webhooks/%FF", &[], "{}", Code::InvalidParameter),
        ("POST /v1/webhooks/nobody", &[], "{}", Code::RouteNotFound),
        (webhook, &[], "[]", Code::BadJson),
        (webhook, &[], &huge, Code::BodyTooLarge),
        (webhook, &[], "{}", Code::DatabaseUnavailable),
    ] {
        let (response, body) = problem(&router, request(line, headers, body)).await;
        assert_eq!(body["code"], code.as_str(), "{line}: {body}");
        assert_eq!(response.status(), code.status(), "{line}");
        assert!(response.headers().contains_key("x-request-id") && response.headers().contains_key("server-timing"));
        assert_eq!(response.headers().contains_key("www-authenticate"), code == Code::Unauthorized, "{line}");
        assert_eq!(response.headers().contains_key("retry-after"), response.status() == 503, "{line}");
        assert!(!body.to_string().contains("127.0.0.1"), "no internals: {body}");
    }
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let (_, router) = api();
    let (response, _) = problem(&router, request("DELETE /v1/orders", &[], "")).await;
    let allow = response.headers()["allow"].to_str().expect("text").to_owned();
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
    assert_eq!(response.headers()["cache-control"], "no-store");
}

#[tokio::test]
async fn only_named_pages_may_call() {
    let (_, router) = api();
    let preflight = |origin| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,idempotency-key,content-type"),
        ];
        request("OPTIONS /v1/orders", &headers, "")
    };
    let (response, _) = answer(&router, preflight(ORIGIN)).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["access-control-allow-origin"], ORIGIN);
    let allowed = response.headers()["access-control-allow-headers"].to_str().expect("text");
    assert!(allowed.contains("idempotency-key") && allowed.contains("traceparent"), "{allowed}");
    let (response, _) = answer(&router, preflight("http://evil.example")).await;
    assert!(!response.headers().contains_key("access-control-allow-origin"));

    let (response, _) = problem(&router, request("GET /v1/orders", &[("origin", ORIGIN)], "")).await;
    assert_eq!(response.headers()["access-control-allow-origin"], ORIGIN, "problems too");
    let exposed = response.headers()["access-control-expose-headers"].to_str().expect("text");
    assert!(["retry-after", "server-timing", "traceresponse"].iter().all(|name| exposed.contains(name)), "{exposed}");
}

#[tokio::test]
async fn the_page_of_the_description_needs_nobody_else() {
    let (_, router) = api();
    let (response, _) = answer(&router, request("GET /docs", &[], "")).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["location"]),
        (303, &"/docs/".parse().expect("a value"))
    );
    for path in ["/docs/", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/docs/swagger-initializer.js"] {
        let (response, body) = answer(&router, request(&format!("GET {path}"), &[], "")).await;
        assert_eq!(response.status(), 200, "{path}");
        if path.ends_with("initializer.js") {
            assert!(body.contains(r#""url": "/openapi.json""#) && body.contains(r#""validatorUrl": "none""#), "{body}");
        }
        if !path.ends_with("bundle.js") && !path.ends_with("css") {
            assert!(!body.contains("https://"), "{path}: {body}");
        }
    }
    let (response, body) = answer(&router, request("GET /openapi.json", &[], "")).await;
    let api: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((response.status().as_u16(), &api["openapi"]), (200, &"3.1.0".into()));
}

#[test]
fn the_description_is_whole() {
    let (_, api) = routes().split_for_parts();
    let api = serde_json::to_value(openapi::complete(api)).expect("JSON");
    let text = api.to_string();
    let mut ids = Vec::new();
    for (path, item) in api["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let id = operation["operationId"].as_str().expect("an id");
            assert!(openapi::knows(id), "{method} {path}: its problems are not listed");
            let responses = operation["responses"].as_object().expect("responses");
            assert!(responses.keys().any(|status| status.starts_with('2')), "{method} {path}");
            assert!(responses.contains_key("500") && responses.contains_key("503"), "{method} {path}");
            assert!(operation["summary"].is_string(), "{method} {path}");
            ids.push(id.to_owned());
        }
    }
    assert_eq!(ids.len(), 24);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 24, "each id once");
    let responses = api["paths"].to_string();
    for code in Code::ALL.iter().filter(|code| **code != Code::MethodNotAllowed) {
        assert!(responses.contains(&code.urn()), "{code} is answered by no operation");
    }
    for reference in text.split(r##""$ref":"#/components/schemas/"##).skip(1) {
        let name = reference.split('"').next().expect("a name");
        assert!(api["components"]["schemas"][name].is_object(), "{name} is referred to and not described");
    }
    for scheme in ["secretKey", "publishableKey", "checkoutToken"] {
        assert_eq!(api["components"]["securitySchemes"][scheme]["scheme"], "bearer");
    }
}

#[tokio::test]
async fn a_panic_is_an_internal_problem() {
    let router: Router = Router::new()
        .route("/panics", axum::routing::get(async || -> &'static str { panic!("on purpose") }))
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(super::after_panic));
    let (_, body) = problem(&router, request("GET /panics", &[], "")).await;
    assert_eq!(body["code"], "internal");
    assert!(!body.to_string().contains("on purpose"));
}

/// Budgets so small that a test can use them up; an hour gives back little meanwhile.
fn small() -> Rates {
    let budget = |requests| Budget::new(requests, 3_600);
    Rates {
        order_payments: budget(3),
        order_reads: budget(2),
        address_payments: budget(4),
        address_reads: budget(4),
        address_webhooks: budget(2),
        ..Rates::OFF
    }
}

fn from(peer: &str, mut request: Request) -> Request {
    request.extensions_mut().insert(Peer(peer.parse().expect("an address")));
    request
}

#[tokio::test]
async fn a_budget_that_is_used_up_is_said_so_before_anything_else_is_looked_at() {
    let (state, router) = limited(small());
    let order = OrderId::new();
    let token = format!("Bearer {}", state.tokens().mint(order, crate::clock::now()));
    let read = |order: OrderId| {
        let line = format!("GET /v1/orders/{order}");
        from("198.51.100.1", request(&line, &[("authorization", &token), ("origin", ORIGIN)], ""))
    };
    for (left, address_left) in [(1, 3), (0, 2)] {
        let (response, _) = problem(&router, read(order)).await;
        assert_eq!(response.status(), 503, "it is let in, and there is no database");
        let told = response.headers()["ratelimit"].to_str().expect("text");
        assert!(told.starts_with(&format!("\"reads-per-order\";r={left};t=1800, ")), "{told}");
        assert!(told.contains(&format!("\"reads-per-address\";r={address_left};t=")), "{told}");
    }
    let (response, body) = problem(&router, read(OrderId::new())).await;
    assert_eq!((response.status().as_u16(), &body["code"]), (429, &"rate_limited".into()), "whatever it asks for");
    assert_eq!(body["policies"], serde_json::json!(["reads-per-order"]));
    let headers = response.headers();
    let wait: u64 = headers["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((1_700..=1_800).contains(&wait), "{wait}");
    let policy = "\"reads-per-order\";q=2;w=3600, \"reads-per-address\";q=4;w=3600";
    assert_eq!(headers["ratelimit-policy"], policy);
    assert!(headers["ratelimit"].to_str().is_ok_and(|told| told.contains("per-address\";r=2;")), "nothing was taken");
    let exposed = headers["access-control-expose-headers"].to_str().expect("text");
    assert!(exposed.contains("ratelimit-policy"), "{exposed}");
    let own = format!("POST /v1/orders/{order}/cancel");
    let cancel = from("198.51.100.1", request(&own, &[("authorization", &token)], ""));
    let (_, body) = problem(&router, cancel).await;
    assert_eq!(body["code"], Code::UnsupportedMediaType.as_str(), "payments have a budget of their own");
}

#[tokio::test]
async fn whoever_has_no_good_credential_uses_up_the_budget_of_its_address_alone() {
    let (state, router) = limited(small());
    let guess = |peer| from(peer, request("GET /v1/orders", &[("authorization", "Bearer pgsk_guess")], ""));
    for _ in 0..4 {
        let (response, _) = problem(&router, guess("198.51.100.2")).await;
        assert_eq!(response.status(), 401);
    }
    let (response, body) = problem(&router, guess("198.51.100.2")).await;
    assert_eq!((response.status().as_u16(), &body["code"]), (429, &"rate_limited".into()));
    assert!(!response.headers().contains_key("www-authenticate"));
    assert_eq!(problem(&router, guess("198.51.100.3")).await.0.status(), 401, "others go on");
    let token = format!("Bearer {}", state.tokens().mint(OrderId::new(), crate::clock::now()));
    let read = request("GET /v1/orders", &[("authorization", &token)], "");
    assert_eq!(problem(&router, from("198.51.100.3", read)).await.0.status(), 403);

    let webhook = |peer| from(peer, request("POST /v1/webhooks/toss", &[], "[]"));
    for status in [400, 400, 429] {
        assert_eq!(problem(&router, webhook("198.51.100.2")).await.0.status(), status);
    }
    assert_eq!(problem(&router, webhook("198.51.100.4")).await.0.status(), 400);
}

#[tokio::test]
async fn every_route_takes_from_the_budget_of_its_class() {
    let (state, _) = api();
    let token = format!("Bearer {}", state.tokens().mint(OrderId::new(), crate::clock::now()));
    let (_, api) = routes().split_for_parts();
    let api = serde_json::to_value(api).expect("JSON");
    let a_lot = Budget::new(1_000, 60);
    let (_, router) = limited(Rates {
        address_orders: a_lot,
        address_payments: a_lot,
        address_reads: a_lot,
        address_webhooks: a_lot,
        ..Rates::OFF
    });
    let mut classes = std::collections::BTreeMap::<String, Vec<String>>::new();
    for (path, item) in api["paths"].as_object().expect("paths") {
        for method in item.as_object().expect("operations").keys() {
            let at = path.replace("{id}", "x").replace("{provider}", "toss");
            let line = format!("{} {at}", method.to_uppercase());
            let (response, _) =
                answer(&router, from("198.51.100.5", request(&line, &[("authorization", &token)], ""))).await;
            let policy = response.headers()["ratelimit-policy"].to_str().expect("text").to_owned();
            let class = policy.trim_matches('"').split('-').next().expect("a class").to_owned();
            let id = item[method]["operationId"].as_str().expect("an id").to_owned();
            classes.entry(class).or_default().push(id);
        }
    }
    for ids in classes.values_mut() {
        ids.sort_unstable();
    }
    assert_eq!(classes["orders"], ["placeOrder"]);
    assert_eq!(classes["payments"], ["cancelOrder", "cancelPayment", "confirmPayment", "inquirePayment"]);
    assert_eq!(classes["webhooks"], ["receiveWebhook"]);
    assert_eq!(classes["reads"].len(), 18);
}
