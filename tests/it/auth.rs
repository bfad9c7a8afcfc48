//! Credentials: what opens, how far it reaches, and that a key's text is nowhere but with its holder.

use std::time::{Duration, Instant};

use paygauge::config::{BuyerCancel, Roles};
use paygauge::domain::ids::{OrderId, PaymentId};
use paygauge::http::auth::keys::{self, KeyText, Role};
use paygauge::http::auth::tokens::Tokens;
use paygauge::serve::Running;
use paygauge::telemetry;
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use crate::support::eventually;
use crate::support::shop::{
    self, Answer, Client, PATIENCE, Shop, ShopOptions, confirm_body, invariants_client, settings,
};

const REFUSED: (StatusCode, &str) = (StatusCode::UNAUTHORIZED, "unauthorized");
const FORBIDDEN: (StatusCode, &str) = (StatusCode::FORBIDDEN, "forbidden");

fn turned_away() -> f64 {
    let series = r#"payments_http_rejections_total{reason="unauthorized"} "#;
    let text = telemetry::for_tests().metrics().render();
    text.lines().find_map(|line| line.strip_prefix(series)?.parse().ok()).expect("the counter")
}

/// The same text with its last letter changed into another that decodes.
fn bent(text: &str) -> String {
    let (head, last) = text.split_at(text.len() - 1);
    format!("{head}{}", if last == "A" { "E" } else { "A" })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_good_credential_opens_nothing_and_is_counted() {
    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let (secret, publishable) = (shop.secret.token().to_owned(), shop.publishable.token().to_owned());
    let id = KeyText::parse(&secret).expect("a key").id();
    let other_half = format!("pgsk_{}_{}", id.uuid().as_simple(), "A".repeat(43));
    let promoted = publishable.replace("pgpk_", "pgsk_");
    let unknown = format!("pgsk_{}_{}", "0".repeat(32), "A".repeat(43));
    let token = order.buyer.token().to_owned();
    let other_order = format!("ct_{}.{}", "A".repeat(32), token.split_once('.').expect("a signature").1);
    let bad = [
        String::new(),
        "garbage".to_owned(),
        "x".repeat(5_000),
        other_half,
        bent(&secret[..secret.len() - 1]),
        promoted,
        unknown,
        bent(&token[..token.len() - 1]),
        other_order,
        "ct_".to_owned(),
        "test_sk_mock".to_owned(),
    ];
    let before = turned_away();
    for credential in &bad {
        let answer = Client::new(&shop.base, credential).get("/v1/products").await;
        let answer = answer.problem(REFUSED.0, REFUSED.1);
        assert!(answer.header("www-authenticate").is_some_and(|challenge| challenge.starts_with("Bearer")));
        assert!(credential.is_empty() || !answer.raw.contains(credential.as_str()), "it is not repeated");
    }
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    for scheme in [None, Some(format!("Basic {secret}")), Some(secret.clone())] {
        let mut request = http.request(Method::GET, format!("{}/v1/products", shop.base));
        if let Some(value) = &scheme {
            request = request.header("authorization", value);
        }
        Answer::read(request.send().await.expect("an answer")).await.problem(REFUSED.0, REFUSED.1);
    }
    let both = shop.secret.raw(Method::GET, "/v1/products").header("authorization", "Bearer second");
    Answer::read(both.send().await.expect("an answer")).await.problem(REFUSED.0, REFUSED.1);
    // Other tests count too, so this is a lower bound.
    assert!(turned_away() >= before + f64::from(u32::try_from(bad.len() + 4).expect("few")));
    shop.secret.get("/v1/products").await.expect(StatusCode::OK);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_stops_within_five_seconds_and_a_new_one_works_at_once() {
    let shop = Shop::without_worker().await;
    shop.secret.get("/v1/orders").await.expect(StatusCode::OK);
    let db = &shop.running.app().db;
    let (id, text) = keys::create(db, Role::Secret, "second").await.expect("a key");
    let second = Client::new(&shop.base, text.expose_secret());
    eventually("a new key works", Duration::from_secs(2), async || {
        (second.get("/v1/orders").await.status == StatusCode::OK).then_some(())
    })
    .await;
    assert!(keys::revoke(db, id).await.expect("revoked"));
    let revoked = Instant::now();
    eventually("the revoked key is refused", PATIENCE, async || {
        (second.get("/v1/orders").await.status == StatusCode::UNAUTHORIZED).then_some(())
    })
    .await;
    assert!(revoked.elapsed() < Duration::from_millis(5_500), "{:?}", revoked.elapsed());
    assert!(!keys::revoke(db, id).await.expect("an answer"), "once");
    shop.secret.get("/v1/orders").await.expect(StatusCode::OK);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publishable_key_sees_the_catalogue_and_places_orders_and_nothing_more() {
    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 5).await;
    let (order, payment) = shop.paid(&product, 1).await;
    let page = &shop.publishable;
    page.get("/v1/products").await.expect(StatusCode::OK);
    page.get(&format!("/v1/products/{product}")).await.expect(StatusCode::OK);
    for path in [
        "/v1/orders".to_owned(),
        "/v1/payments".to_owned(),
        format!("/v1/orders/{}", order.id),
        format!("/v1/orders/{}/timeline", order.id),
        format!("/v1/payments/{payment}"),
        format!("/v1/payments/{payment}/timeline"),
        format!("/v1/products/{product}/stock-adjustments"),
    ] {
        page.get(&path).await.problem(FORBIDDEN.0, FORBIDDEN.1);
    }
    let reason = json!({ "reason": "x" });
    let change = json!({ "price": 1 });
    let adjust = json!({ "delta": 1, "kind": "restock", "reason": "x" });
    for (method, path, body) in [
        (Method::POST, "/v1/payments/confirm".to_owned(), &confirm_body(&order, "k")),
        (Method::POST, format!("/v1/payments/{payment}/cancel"), &reason),
        (Method::POST, format!("/v1/orders/{}/cancel", order.id), &reason),
        (Method::POST, "/v1/products".to_owned(), &json!({ "name": "x", "price": 1 })),
        (Method::PATCH, format!("/v1/products/{product}"), &change),
        (Method::POST, format!("/v1/products/{product}/stock-adjustments"), &adjust),
    ] {
        page.request(method, &path, Some(body), Some("k")).await.problem(FORBIDDEN.0, FORBIDDEN.1);
    }
    assert_eq!(shop.payment_now(&payment).await.text("status"), "approved");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_token_reaches_its_own_order_and_no_other() {
    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 5).await;
    let (own, payment) = shop.paid(&product, 1).await;
    let (other, theirs) = shop.paid(&product, 1).await;
    let buyer = &own.buyer;
    for path in [
        format!("/v1/orders/{}", own.id),
        format!("/v1/orders/{}/timeline", own.id),
        format!("/v1/payments/{payment}"),
        format!("/v1/payments/{payment}/timeline"),
    ] {
        buyer.get(&path).await.expect(StatusCode::OK);
    }
    let canceled = shop.cancel(&theirs, &json!({ "reason": "x", "amount": 1 })).await.expect(StatusCode::OK);
    let canceled = format!("/v1/cancellations/{}", canceled.text("id"));
    for (path, code) in [
        (format!("/v1/orders/{}", other.id), "order_not_found"),
        (format!("/v1/orders/{}/timeline", other.id), "order_not_found"),
        (format!("/v1/payments/{theirs}"), "payment_not_found"),
        (format!("/v1/payments/{theirs}/timeline"), "payment_not_found"),
        (canceled, "cancellation_not_found"),
    ] {
        let told = buyer.get(&path).await.problem(StatusCode::NOT_FOUND, code);
        let nobody = path.rsplit_once("_").map_or_else(String::new, |(head, _)| head.to_owned());
        assert!(!nobody.is_empty() && !told.raw.contains(&other.id));
    }
    // An order of somebody else and one that does not exist are told in the same words.
    let one = buyer.get(&format!("/v1/orders/{}", other.id)).await;
    let none = buyer.get(&format!("/v1/orders/{}", OrderId::new())).await;
    assert_eq!(one.raw, none.raw);
    let one = buyer.get(&format!("/v1/payments/{theirs}")).await;
    let none = buyer.get(&format!("/v1/payments/{}", PaymentId::new())).await;
    assert_eq!(one.raw, none.raw);

    let reason = json!({ "reason": "x" });
    let foreign = buyer.post("/v1/payments/confirm", &confirm_body(&other, "k")).await;
    foreign.problem(StatusCode::NOT_FOUND, "order_not_found");
    let foreign = buyer.post_with_key(&format!("/v1/orders/{}/cancel", other.id), &reason).await;
    foreign.problem(StatusCode::NOT_FOUND, "order_not_found");
    let foreign = buyer.post_with_key(&format!("/v1/payments/{theirs}/cancel"), &reason).await;
    foreign.problem(StatusCode::NOT_FOUND, "payment_not_found");
    for path in ["/v1/orders", "/v1/payments", "/v1/products"] {
        buyer.get(path).await.problem(FORBIDDEN.0, FORBIDDEN.1);
    }
    let place = json!({ "lines": [{ "productId": product, "quantity": 1 }] });
    buyer.post_with_key("/v1/orders", &place).await.problem(FORBIDDEN.0, FORBIDDEN.1);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_cancels_what_is_paid_only_where_the_shop_says_so() {
    for policy in [BuyerCancel::Unpaid, BuyerCancel::Paid] {
        let settings = paygauge::config::Settings { buyer_cancel: policy, ..settings() };
        let shop = Shop::with(ShopOptions { worker: false, webhooks: false, settings, ..ShopOptions::default() }).await;
        let product = shop.product(12_000, 5).await;
        let reason = json!({ "reason": "x" });
        let unpaid = shop.order(&product, 1).await;
        let path = format!("/v1/orders/{}/cancel", unpaid.id);
        unpaid.buyer.post_with_key(&path, &reason).await.expect(StatusCode::OK);

        let (order, payment) = shop.paid(&product, 1).await;
        let by_order = order.buyer.post_with_key(&format!("/v1/orders/{}/cancel", order.id), &reason).await;
        let by_payment = shop.paid(&product, 1).await;
        let path = format!("/v1/payments/{}/cancel", by_payment.1);
        let by_payment = by_payment.0.buyer.post_with_key(&path, &reason).await;
        match policy {
            BuyerCancel::Unpaid => {
                by_order.problem(FORBIDDEN.0, FORBIDDEN.1);
                by_payment.problem(FORBIDDEN.0, FORBIDDEN.1);
                assert_eq!(shop.payment_now(&payment).await.text("status"), "approved");
                assert_eq!(shop.mock.book().calls.cancel, 0);
            }
            BuyerCancel::Paid => {
                by_order.expect(StatusCode::OK);
                by_payment.expect(StatusCode::OK);
                assert_eq!(shop.payment_now(&payment).await.text("status"), "canceled");
            }
        }
        shop.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_and_one_of_the_previous_secret_still_opens() {
    let life = Duration::from_secs(60);
    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let id: OrderId = order.id.parse().expect("an id");
    let path = format!("/v1/orders/{}", order.id);
    let (new, old) = ("the new secret, thirty-two letters", "a secret of more than thirty-two characters");
    let mint = |secret: &str, age: Duration| {
        let tokens = Tokens::new(&[SecretString::from(secret)], life).expect("a secret");
        tokens.mint(id, paygauge::clock::now() - age)
    };
    let try_at = async |base: &str, token: String| Client::new(base, &token).get(&path).await;

    try_at(&shop.base, mint(old, Duration::ZERO)).await.expect(StatusCode::OK);
    let ended = try_at(&shop.base, mint(old, life)).await.problem(REFUSED.0, REFUSED.1);
    assert!(ended.text("detail").contains("expired"), "{}", ended.raw);
    try_at(&shop.base, mint(new, Duration::ZERO)).await.problem(REFUSED.0, REFUSED.1);

    // A second process on the same database, after the secret was changed.
    let roles = Roles { api: true, worker: false };
    let mut config = shop::config(shop.database.clone(), &shop.mock.url(), roles, settings());
    config.token_secrets = vec![new.into(), old.into()];
    let listen = async || tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let metrics = telemetry::for_tests().metrics();
    let changed =
        Running::start(config, Some(listen().await), listen().await, metrics).await.expect("a second process");
    let base = format!("http://{}", changed.api_addr().expect("an API"));
    try_at(&base, order.buyer.token().to_owned()).await.expect(StatusCode::OK);
    try_at(&base, mint(new, Duration::ZERO)).await.expect(StatusCode::OK);
    try_at(&base, mint("a secret that nobody ever configured", Duration::ZERO)).await.problem(REFUSED.0, REFUSED.1);
    changed.stop().await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_holds_the_hash_of_a_key_and_never_its_text() {
    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 5).await;
    let (order, _) = shop.paid(&product, 1).await;
    let client = invariants_client(&shop.database).await;
    let tables = "select table_name::text from information_schema.tables
                  where table_schema = 'public' and table_type = 'BASE TABLE'";
    let tables: Vec<String> = client.query(tables, &[]).await.expect("tables").iter().map(|row| row.get(0)).collect();
    assert!(tables.contains(&"api_keys".to_owned()));
    for credential in [&shop.secret, &shop.publishable, &order.buyer] {
        let text = credential.token();
        // What must stay secret is the second half: the first one is the public id or the order's.
        let half = text.rsplit(['_', '.']).next().filter(|half| half.len() >= 20).unwrap_or(text);
        for table in &tables {
            let found = format!("select count(*) from {table} t where position($1 in t::text) > 0");
            for needle in [text, half] {
                let hex: String = needle.bytes().map(|byte| format!("{byte:02x}")).collect();
                for needle in [needle, hex.as_str()] {
                    let count: i64 = client.query_one(&found, &[&needle]).await.expect("a search").get(0);
                    assert_eq!(count, 0, "{table} holds a credential");
                }
            }
        }
    }
    let hashes: i64 = client
        .query_one("select count(*) from api_keys where octet_length(hash) = 32 and revoked_at is null", &[])
        .await
        .expect("a count")
        .get(0);
    assert_eq!(hashes, 2);
    let listed = keys::list(&shop.running.app().db).await.expect("a list");
    assert!(listed.iter().all(|row| !format!("{row:?}").contains(shop.secret.token())));
    shop.close().await;
}
