//! What is refused before any use case sees it.

use paygauge::config::Settings;
use paygauge::domain::ids::{CancellationId, FindingId, OrderId, PaymentId, ProductId};
use paygauge::http::problem::Code;
use paygauge::limits::{Budget, Rates};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Books, Seen, send};
use crate::support::shop::{Client, Shop, ShopOptions, settings};

const KEY: (&str, &str) = ("idempotency-key", "k-1");

pub async fn what_is_no_json_or_not_declared_as_such_or_too_large_is_refused() -> Seen {
    let (shop, mut seen) = (Shop::without_worker().await, Seen::default());
    let books = Books::of(&shop).await;
    let before = books.read().await;
    let order = OrderId::new();
    let cancel = format!("POST /v1/orders/{order}/cancel");
    let lines = ["POST /v1/products", "POST /v1/orders", "POST /v1/payments/confirm", &cancel];
    for line in lines {
        for broken in ["", "{", "nonsense", "\u{feff}{}", "{'a':1}"] {
            seen.take(send(&shop.secret, line, &[KEY], broken).await, Code::BadJson);
        }
        for wrong in ["-", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
            let answer = send(&shop.secret, line, &[KEY, ("content-type", wrong)], "{}").await;
            seen.take(answer, Code::UnsupportedMediaType);
        }
        let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(64 * 1024));
        seen.take(send(&shop.secret, line, &[KEY], large).await, Code::BodyTooLarge);
    }
    let webhook = "POST /v1/webhooks/toss";
    for broken in ["", "[]", "1", "{", "\"text\""] {
        seen.take(send(&shop.secret, webhook, &[], broken).await, Code::BadJson);
    }
    seen.take(send(&shop.secret, webhook, &[], vec![b' '; 256 * 1024 + 1]).await, Code::BodyTooLarge);
    assert_eq!(books.read().await, before, "nothing was written");
    shop.close().await;
    seen
}

/// Bodies that each have one thing wrong, and which: the rest of `good` fits.
fn spoiled(good: &Value, wrong: &[(&str, Value)]) -> Vec<(Value, String)> {
    let spoil = |(field, value): &(&str, Value)| {
        let mut body = good.clone();
        body[*field] = value.clone();
        (body, (*field).to_owned())
    };
    wrong.iter().map(spoil).collect()
}

/// What no amount can be.
fn no_amounts() -> Vec<Value> {
    let overflow: Value = serde_json::from_str("9223372036854775808").expect("JSON");
    let absurd: Value = serde_json::from_str("1e40").expect("JSON");
    vec![json!(0), json!(-1), json!(1.5), json!("5"), json!(true), json!([]), Value::Null, overflow, absurd]
}

fn bad_bodies(product: &str, order: &str, payment: &str) -> Vec<(String, Vec<(Value, String)>)> {
    let amounts = |field| -> Vec<(&'static str, Value)> { no_amounts().into_iter().map(|bad| (field, bad)).collect() };
    let long = json!("x".repeat(201));
    let new = json!({ "name": "Cup", "price": 5_000 });
    let mut products = amounts("price");
    products.extend([("price", json!(1_000_000_000_001_i64)), ("name", json!("")), ("name", json!(5))]);
    products.extend([("name", long.clone()), ("initialStock", json!(-1)), ("initialStock", json!(0.5))]);
    products.extend([("currency", json!("WON!")), ("currency", json!(1)), ("surprise", json!(1))]);
    let stock = json!({ "delta": 5, "kind": "restock", "reason": "delivery" });
    let stocks = [
        ("delta", json!(0)),
        ("delta", json!(-5)),
        ("delta", json!(1_000_000_001)),
        ("kind", json!("gift")),
        ("kind", json!("initial")),
        ("reason", json!("")),
        ("reason", long.clone()),
    ];
    let confirm = json!({ "paymentKey": "k", "orderId": order, "amount": 5_000 });
    let mut confirms = amounts("amount");
    confirms.extend([("paymentKey", json!("")), ("paymentKey", long.clone()), ("paymentKey", json!(1))]);
    confirms.extend([("orderId", json!("ord_1")), ("orderId", json!(product)), ("currency", json!("won"))]);
    confirms.push(("surprise", json!(1)));
    let mut cancels = amounts("amount");
    cancels.retain(|(_, amount)| !amount.is_null());
    cancels.extend([
        ("reason", json!("")),
        ("reason", long.clone()),
        ("reason", json!("a\u{0}b")),
        ("lines", json!(1)),
    ]);
    cancels.push(("surprise", json!(1)));
    let reason = json!({ "reason": "x" });
    let order_cancels = [("reason", json!(" ")), ("reason", Value::Null), ("amount", json!(1))];
    vec![
        ("POST /v1/products".to_owned(), spoiled(&new, &products)),
        (format!("PATCH /v1/products/{product}"), spoiled(&json!({}), &[("price", json!(0)), ("active", json!("no"))])),
        (format!("POST /v1/products/{product}/stock-adjustments"), spoiled(&stock, &stocks)),
        ("POST /v1/payments/confirm".to_owned(), spoiled(&confirm, &confirms)),
        (format!("POST /v1/payments/{payment}/cancel"), spoiled(&reason, &cancels)),
        (format!("POST /v1/orders/{order}/cancel"), spoiled(&reason, &order_cancels)),
        ("POST /v1/orders".to_owned(), bad_orders(product)),
    ]
}

fn bad_orders(product: &str) -> Vec<(Value, String)> {
    let line = |product: &str, quantity: Value| json!({ "productId": product, "quantity": quantity });
    let many: Vec<Value> = (0..51).map(|_| line(&ProductId::new().to_string(), json!(1))).collect();
    let mut bad = vec![
        (json!({}), "lines"),
        (json!({ "lines": [] }), "lines"),
        (json!({ "lines": {} }), "lines"),
        (json!({ "lines": many }), "lines"),
        (json!({ "lines": [line("prod_1", json!(1))] }), "lines[0].productId"),
        (json!({ "lines": [line(product, json!(1)), line(product, json!(2))] }), "lines[1].productId"),
        (json!({ "lines": [line(product, json!(1))], "customerRef": "x".repeat(101) }), "customerRef"),
        (json!({ "lines": [line(product, json!(1))], "amount": 1 }), "amount"),
        (json!({ "lines": [{ "productId": product, "quantity": 1, "unitPrice": 1 }] }), "lines[0].unitPrice"),
        (json!({ "lines": [{ "productId": product }] }), "lines[0].quantity"),
    ];
    for quantity in [json!(0), json!(-1), json!(1.5), json!("2"), json!(100_001), json!(2_147_483_648_i64)] {
        bad.push((json!({ "lines": [line(product, quantity)] }), "lines[0].quantity"));
    }
    bad.into_iter().map(|(body, field)| (body, field.to_owned())).collect()
}

pub async fn a_field_that_cannot_be_taken_is_named() -> Seen {
    let (shop, mut seen) = (Shop::without_worker().await, Seen::default());
    let product = shop.product(12_000, 1_000).await;
    let (order, payment) = shop.paid(&product, 1).await;
    let books = Books::of(&shop).await;
    let before = books.read().await;
    for (line, bodies) in bad_bodies(&product, &order.id, &payment) {
        for (body, field) in bodies {
            let answer = seen.take(send(&shop.secret, &line, &[KEY], body.to_string()).await, Code::InvalidParameter);
            assert_eq!(answer.text("parameter"), field, "{line} {body}: {}", answer.raw);
        }
    }
    for (line, body) in [("POST /v1/orders", "[]"), ("POST /v1/payments/confirm", "null"), ("POST /v1/products", "5")] {
        seen.take(send(&shop.secret, line, &[KEY], body).await, Code::InvalidParameter);
    }
    let nothing = send(&shop.secret, &format!("PATCH /v1/products/{product}"), &[], "{}").await;
    seen.take(nothing, Code::InvalidParameter);
    assert_eq!(books.read().await, before, "nothing was written");
    assert_eq!(shop.mock.book().calls.cancel, 0);
    shop.close().await;
    seen
}

pub async fn a_query_parameter_that_cannot_be_taken_is_named() -> Seen {
    let (shop, mut seen) = (Shop::without_worker().await, Seen::default());
    let paged = [("limit", "0"), ("limit", "101"), ("limit", "-1"), ("limit", "ten"), ("limit", ""), ("after", "x")];
    let mut asks: Vec<(String, &str)> = Vec::new();
    for path in ["/v1/products", "/v1/orders", "/v1/payments"] {
        asks.extend(paged.map(|(name, value)| (format!("{path}?{name}={value}"), name)));
        asks.push((format!("{path}?surprise=1"), "surprise"));
        asks.push((format!("{path}?limit=1&limit=2"), "limit"));
    }
    for path in ["/v1/orders", "/v1/payments"] {
        for (name, value) in [("status", "done"), ("from", "yesterday"), ("to", "2026-11-21")] {
            asks.push((format!("{path}?{name}={value}"), name));
        }
    }
    asks.push(("/v1/payments?orderId=pay_1".to_owned(), "orderId"));
    for (path, name) in asks {
        let answer = seen.take(shop.secret.get(&path).await, Code::InvalidParameter);
        // A value that is no number or id is not told apart by name everywhere, but the query is.
        let parameter = answer.text("parameter");
        assert!(parameter == name || parameter == "query", "{path}: {}", answer.raw);
    }
    shop.close().await;
    seen
}

pub async fn what_does_not_exist_is_not_found() -> Seen {
    let (shop, mut seen) = (Shop::without_worker().await, Seen::default());
    let books = Books::of(&shop).await;
    let before = books.read().await;
    let (product, order) = (ProductId::new(), OrderId::new());
    let (payment, cancellation) = (PaymentId::new(), CancellationId::new());
    let adjust = r#"{"delta":1,"kind":"restock","reason":"x"}"#;
    let confirm = json!({ "paymentKey": "k", "orderId": order, "amount": 1 }).to_string();
    let reason = r#"{"reason":"x"}"#;
    for (line, body, code) in [
        (format!("GET /v1/products/{product}"), "", Code::ProductNotFound),
        (format!("PATCH /v1/products/{product}"), r#"{"price":1}"#, Code::ProductNotFound),
        (format!("GET /v1/products/{product}/stock-adjustments"), "", Code::ProductNotFound),
        (format!("POST /v1/products/{product}/stock-adjustments"), adjust, Code::ProductNotFound),
        (format!("GET /v1/orders/{order}"), "", Code::OrderNotFound),
        (format!("GET /v1/orders/{order}/timeline"), "", Code::OrderNotFound),
        (format!("POST /v1/orders/{order}/cancel"), reason, Code::OrderNotFound),
        ("POST /v1/payments/confirm".to_owned(), &confirm, Code::OrderNotFound),
        (format!("GET /v1/payments/{payment}"), "", Code::PaymentNotFound),
        (format!("GET /v1/payments/{payment}/timeline"), "", Code::PaymentNotFound),
        (format!("POST /v1/payments/{payment}/cancel"), reason, Code::PaymentNotFound),
        (format!("GET /v1/cancellations/{cancellation}"), "", Code::CancellationNotFound),
        (format!("POST /v1/findings/{}/close", FindingId::new()), reason, Code::FindingNotFound),
    ] {
        seen.take(send(&shop.secret, &line, &[KEY], body).await, code);
    }
    for path in ["/v1/products/", "/v1/orders/", "/v1/payments/", "/v1/cancellations/"] {
        for id in ["nonsense", "1", "%FF", "ord_", "pay_0193a1b2c3d47e5f8a9b0c1d2e3f4a5", "'%20or%201=1"] {
            let answer = seen.take(shop.secret.get(&format!("{path}{id}")).await, Code::InvalidParameter);
            assert_eq!(answer.text("parameter"), "id");
        }
    }
    assert_eq!(books.read().await, before, "nothing was written");
    shop.close().await;
    seen
}

pub async fn a_finding_is_closed_once_and_with_a_reason() -> Seen {
    let (shop, mut seen) = (Shop::without_worker().await, Seen::default());
    let id = FindingId::new();
    let insert = format!(
        "insert into findings (id, provider, dedupe_key, kind, status, provider_payment_key, provider_order_id, reason)
         values ('{0}', 'toss', 'k', 'missing_here', 'waiting', 'k', 'o', 'r');
         insert into finding_history (finding_id, seq, status, reason, actor) values ('{0}', 1, 'waiting', 'r', 't')",
        id.uuid()
    );
    shop.sql(&insert).await;
    let line = format!("POST /v1/findings/{id}/close");
    for (body, parameter) in [
        (json!({}), "reason"),
        (json!({ "reason": " " }), "reason"),
        (json!({ "reason": "x".repeat(501) }), "reason"),
        (json!({ "reason": "x", "amount": 0 }), "amount"),
    ] {
        let answer = send(&shop.secret, &line, &[], body.to_string()).await;
        assert_eq!(seen.take(answer, Code::InvalidParameter).text("parameter"), parameter);
    }
    for stranger in [&shop.publishable, &Client::new(&shop.base, "nobody")] {
        let answer = send(stranger, &line, &[], r#"{"reason":"x"}"#).await;
        let code = if answer.status.as_u16() == 403 { Code::Forbidden } else { Code::Unauthorized };
        seen.take(answer, code);
    }
    let closed = send(&shop.secret, &line, &[], r#"{"reason":"x"}"#).await;
    assert_eq!((closed.status.as_u16(), closed.text("status")), (200, "closed".to_owned()));
    seen.take(send(&shop.secret, &line, &[], r#"{"reason":"y"}"#).await, Code::FindingSettled);
    shop.close().await;
    seen
}

pub async fn an_unknown_route_and_a_wrong_method_are_problems_and_allow_names_the_right_ones() -> Seen {
    let (shop, mut seen) = (Shop::without_worker().await, Seen::default());
    for line in ["GET /", "GET /v1", "GET /v2/orders", "POST /v1/orders/x/pay", "POST /v1/webhooks/nobody"] {
        seen.take(send(&shop.secret, line, &[], "{}").await, Code::RouteNotFound);
    }
    let order = OrderId::new();
    for (line, allowed) in [
        ("DELETE /v1/orders".to_owned(), &["GET", "POST"][..]),
        ("PUT /v1/products".to_owned(), &["GET", "POST"]),
        (format!("DELETE /v1/products/{}", ProductId::new()), &["GET", "PATCH"]),
        (format!("PATCH /v1/orders/{order}"), &["GET"]),
        (format!("GET /v1/orders/{order}/cancel"), &["POST"]),
        ("GET /v1/payments/confirm/".trim_end_matches('/').replace("GET", "PUT"), &["POST"]),
        ("GET /v1/webhooks/toss".to_owned(), &["POST"]),
    ] {
        let answer = seen.take(send(&shop.secret, &line, &[], "").await, Code::MethodNotAllowed);
        let allow = answer.header("allow").unwrap_or_else(|| panic!("{line}: no Allow")).to_owned();
        for method in allowed {
            assert!(allow.split(',').any(|one| one.trim() == *method), "{line}: {allow}");
        }
        let wrong = line.split(' ').next().expect("a method");
        assert!(!allow.split(',').any(|one| one.trim() == wrong), "{line}: {allow}");
    }
    shop.close().await;
    seen
}

pub async fn an_idempotency_key_is_one_readable_header_where_it_is_required() -> Seen {
    let (shop, mut seen) = (Shop::without_worker().await, Seen::default());
    let product = shop.product(12_000, 5).await;
    let (order, payment) = shop.paid(&product, 1).await;
    let books = Books::of(&shop).await;
    let before = books.read().await;
    let place = json!({ "lines": [{ "productId": product, "quantity": 1 }] }).to_string();
    let reason = r#"{"reason":"x"}"#.to_owned();
    let confirm = json!({ "paymentKey": "k", "orderId": order.id, "amount": 12_000 }).to_string();
    let long = "k".repeat(256);
    for (line, body, required) in [
        ("POST /v1/orders".to_owned(), &place, true),
        (format!("POST /v1/orders/{}/cancel", order.id), &reason, true),
        (format!("POST /v1/payments/{payment}/cancel"), &reason, true),
        ("POST /v1/payments/confirm".to_owned(), &confirm, false),
    ] {
        if required {
            let answer = send(&shop.secret, &line, &[], body.clone()).await;
            seen.take(answer, Code::IdempotencyKeyMissing);
        }
        for bad in ["", "a\tb", "schlüssel", &long] {
            let answer = send(&shop.secret, &line, &[("idempotency-key", bad)], body.clone()).await;
            seen.take(answer, Code::IdempotencyKeyInvalid);
        }
        let answer = send(&shop.secret, &line, &[KEY, ("idempotency-key", "k-2")], body.clone()).await;
        seen.take(answer, Code::IdempotencyKeyInvalid);
    }
    assert_eq!(books.read().await, before, "nothing was written");
    shop.close().await;
    seen
}

pub async fn without_a_credential_that_reaches_far_enough_nothing_happens() -> Seen {
    let (shop, mut seen) = (Shop::without_worker().await, Seen::default());
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let books = Books::of(&shop).await;
    let before = books.read().await;
    let place = json!({ "lines": [{ "productId": product, "quantity": 1 }] });
    let stranger = Client::new(&shop.base, "pgsk_nobody");
    seen.take(stranger.post_with_key("/v1/orders", &place).await, Code::Unauthorized);
    seen.take(order.buyer.post_with_key("/v1/orders", &place).await, Code::Forbidden);
    seen.take(shop.publishable.post("/v1/products", &json!({ "name": "x", "price": 1 })).await, Code::Forbidden);
    assert_eq!(books.read().await, before, "nothing was written");
    shop.close().await;
    seen
}

pub async fn a_body_that_never_arrives_is_given_up() -> Seen {
    let (shop, mut seen) = (Shop::without_worker().await, Seen::default());
    let address = shop.base.trim_start_matches("http://").to_owned();
    let mut line = TcpStream::connect(&address).await.expect("a connection");
    let head = format!(
        "POST /v1/products HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: 100\r\n\r\n{{\"name\":",
        shop.secret.token()
    );
    line.write_all(head.as_bytes()).await.expect("sent");
    let mut raw = Vec::new();
    tokio::time::timeout(crate::support::shop::PATIENCE, line.read_to_end(&mut raw))
        .await
        .expect("an end")
        .expect("read");
    let raw = String::from_utf8(raw).expect("text");
    let (head, body) = raw.split_once("\r\n\r\n").expect("head and body");
    let mut response = axum::http::Response::builder();
    for line in head.lines() {
        response = match line.split_once(": ") {
            Some((name, value)) => response.header(name, value),
            None => response.status(line.split(' ').nth(1).expect("a status")),
        };
    }
    let response = response.body(body.to_owned()).expect("a response");
    seen.take(crate::support::shop::Answer::read(response.into()).await, Code::RequestTimeout);
    shop.close().await;
    seen
}

pub async fn a_caller_beyond_its_budget_is_told_to_come_back() -> Seen {
    let rates = Rates { key_orders: Budget::new(1, 3_600), ..Rates::OFF };
    let settings = Settings { rates, ..settings() };
    let options = ShopOptions { worker: false, webhooks: false, settings, ..ShopOptions::default() };
    let (shop, mut seen) = (Shop::with(options).await, Seen::default());
    let product = shop.product(12_000, 5).await;
    shop.order(&product, 1).await;
    let books = Books::of(&shop).await;
    let before = books.read().await;
    let body = json!({ "lines": [{ "productId": product, "quantity": 1 }] }).to_string();
    for anything in [body.as_str(), "{"] {
        let answer = send(&shop.publishable, "POST /v1/orders", &[KEY], anything).await;
        seen.take(answer, Code::RateLimited);
    }
    assert_eq!(books.read().await, before, "nothing was written");
    shop.close().await;
    seen
}

pub async fn who_follows_an_order_where_there_is_no_room_is_told_to_come_back() -> Seen {
    let settings = Settings { event_streams_max: 1, ..settings() };
    let options = ShopOptions { worker: false, webhooks: false, settings, ..ShopOptions::default() };
    let (shop, mut seen) = (Shop::with(options).await, Seen::default());
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let follow = format!("GET /v1/orders/{}/events", order.id);
    let place = order.buyer.raw(reqwest::Method::GET, &follow["GET ".len()..]).send().await.expect("an answer");
    seen.take(send(&order.buyer, &follow, &[], "").await, Code::TooManyStreams);
    drop(place);
    shop.close().await;
    seen
}
