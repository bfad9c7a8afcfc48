//! The OpenAPI description and its page: whole, true, and in need of no other host.

use std::collections::BTreeSet;

use paygauge::http::problem::Code;
use reqwest::StatusCode;
use serde_json::{Map, Value, json};

use super::send;
use crate::support::shop::{Answer, Client, Shop};

/// Every operation and who may call it; the other half of the claim asks the router about each.
const OPERATIONS: &[(&str, &[&str])] = &[
    ("GET /v1/cancellations/{id}", &["checkoutToken", "secretKey"]),
    ("GET /v1/findings", &["secretKey"]),
    ("GET /v1/orders", &["secretKey"]),
    ("GET /v1/orders/{id}", &["checkoutToken", "secretKey"]),
    ("GET /v1/orders/{id}/events", &["checkoutToken", "secretKey"]),
    ("GET /v1/orders/{id}/timeline", &["checkoutToken", "secretKey"]),
    ("GET /v1/payments", &["secretKey"]),
    ("GET /v1/payments/{id}", &["checkoutToken", "secretKey"]),
    ("GET /v1/payments/{id}/explain", &["secretKey"]),
    ("GET /v1/payments/{id}/timeline", &["checkoutToken", "secretKey"]),
    ("GET /v1/products", &["publishableKey", "secretKey"]),
    ("GET /v1/products/{id}", &["publishableKey", "secretKey"]),
    ("GET /v1/products/{id}/stock-adjustments", &["secretKey"]),
    ("GET /v1/sales", &["secretKey"]),
    ("PATCH /v1/products/{id}", &["secretKey"]),
    ("POST /v1/findings/{id}/close", &["secretKey"]),
    ("POST /v1/orders", &["publishableKey", "secretKey"]),
    ("POST /v1/orders/{id}/cancel", &["checkoutToken", "secretKey"]),
    ("POST /v1/payments/confirm", &["checkoutToken", "secretKey"]),
    ("POST /v1/payments/{id}/cancel", &["checkoutToken", "secretKey"]),
    ("POST /v1/payments/{id}/inquire", &["secretKey"]),
    ("POST /v1/products", &["secretKey"]),
    ("POST /v1/products/{id}/stock-adjustments", &["secretKey"]),
    ("POST /v1/webhooks/{provider}", &[]),
];

async fn described(shop: &Shop) -> Value {
    shop.secret.get("/openapi.json").await.expect(StatusCode::OK).body
}

/// Every operation as `METHOD path` and its description.
fn operations(api: &Value) -> Vec<(String, Value)> {
    let mut operations = Vec::new();
    for (path, item) in api["paths"].as_object().expect("paths") {
        for method in ["get", "post", "put", "patch", "delete"] {
            if let Some(operation) = item.get(method) {
                operations.push((format!("{} {path}", method.to_uppercase()), operation.clone()));
            }
        }
    }
    operations.sort_by(|one, two| one.0.cmp(&two.0));
    operations
}

fn credentials(operation: &Value) -> Vec<String> {
    let all = operation["security"].as_array().cloned().unwrap_or_default();
    let names: BTreeSet<String> =
        all.iter().filter_map(Value::as_object).flat_map(Map::keys).map(ToOwned::to_owned).collect();
    names.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_lists_the_routers_operations_their_credentials_and_every_code() {
    let shop = Shop::without_worker().await;
    let api = described(&shop).await;
    assert!(api["openapi"].as_str().is_some_and(|version| version.starts_with("3.1.")), "{}", api["openapi"]);
    let found = operations(&api);
    let listed: Vec<(&str, Vec<String>)> =
        found.iter().map(|(line, operation)| (line.as_str(), credentials(operation))).collect();
    let expected: Vec<(&str, Vec<String>)> =
        OPERATIONS.iter().map(|(line, who)| (*line, who.iter().map(|name| (*name).to_owned()).collect())).collect();
    assert_eq!(listed, expected);

    let stranger = Client::new(&shop.base, "nobody");
    let mut codes = BTreeSet::new();
    for (line, operation) in &found {
        let real = line.replace("{id}", "x").replace("{provider}", "toss");
        let status = send(&stranger, &real, &[], "[]").await.status;
        let expected =
            if credentials(operation).is_empty() { StatusCode::BAD_REQUEST } else { StatusCode::UNAUTHORIZED };
        assert_eq!(status, expected, "{line} is a route");
        for (status, response) in operation["responses"].as_object().expect("responses") {
            let examples = response["content"]["application/problem+json"]["examples"].as_object();
            for (name, example) in examples.into_iter().flatten() {
                let code = Code::parse(name).unwrap_or_else(|| panic!("{line}: {name} is no code"));
                assert_eq!(
                    (&example["value"]["code"], code.status().as_str()),
                    (&json!(name), status.as_str()),
                    "{line}"
                );
                codes.insert(code);
            }
        }
        assert_eq!(operation["responses"].get("401").is_some(), !credentials(operation).is_empty(), "{line}");
    }
    let text = api["info"]["description"].as_str().expect("words");
    for code in Code::ALL {
        // A method that a path does not know belongs to no operation; it stands in the table alone.
        assert!(codes.contains(code) || *code == Code::MethodNotAllowed, "{code} is in no operation");
        assert!(text.contains(&format!("| `{code}` | {} |", code.status().as_u16())), "{code} is not in the table");
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_router_knows_no_method_that_the_description_does_not_list() {
    let shop = Shop::without_worker().await;
    let api = described(&shop).await;
    for (path, item) in api["paths"].as_object().expect("paths") {
        let real = path.replace("{id}", "x").replace("{provider}", "toss");
        let listed: BTreeSet<String> =
            item.as_object().expect("operations").keys().map(|key| key.to_uppercase()).collect();
        let answer = send(&shop.secret, &format!("DELETE {real}"), &[], "").await;
        let answer = answer.problem(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed");
        let allow = answer.header("allow").expect("Allow").to_owned();
        let allowed: BTreeSet<String> = allow.split(',').map(|method| method.trim().to_owned()).collect();
        // `/v1/payments/confirm` is also a `/v1/payments/{id}` by its form, but a route of its own.
        let known: BTreeSet<String> = allowed.into_iter().filter(|method| method != "HEAD").collect();
        assert_eq!(known, listed, "{path}");
    }
    shop.close().await;
}

/// A body made of nothing but the schema's own examples.
fn example(api: &Value, schema: &Value) -> Option<Value> {
    if let Some(given) = schema.get("example").or_else(|| schema.get("examples").map(|all| &all[0])) {
        return Some(given.clone());
    }
    if let Some(reference) = schema["$ref"].as_str() {
        return example(api, api.pointer(reference.trim_start_matches('#')).expect("a schema that exists"));
    }
    if let Some(choices) = ["oneOf", "anyOf", "allOf"].iter().find_map(|word| schema[*word].as_array()) {
        return choices.iter().find_map(|choice| example(api, choice));
    }
    if schema["items"].is_object() {
        return example(api, &schema["items"]).map(|item| json!([item]));
    }
    let properties = schema["properties"].as_object()?;
    let filled = properties.iter().filter_map(|(name, schema)| Some((name.clone(), example(api, schema)?)));
    Some(Value::Object(filled.collect()))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_body_made_of_the_examples_is_taken() {
    let shop = Shop::without_worker().await;
    let api = described(&shop).await;
    let mut bodies = 0;
    for (line, operation) in operations(&api) {
        let media = &operation["requestBody"]["content"]["application/json"];
        if media.is_null() {
            continue;
        }
        let given = media.get("example").cloned().or_else(|| example(&api, &media["schema"]));
        let mut body = given.unwrap_or_else(|| panic!("{line} has no example"));
        if line.ends_with("payments/{id}/cancel") {
            // An amount or lines: the examples show both.
            body.as_object_mut().expect("an object").remove("lines");
        }
        let ids = [("products", "prod"), ("orders", "ord"), ("payments", "pay"), ("findings", "fnd")];
        let prefix = ids.iter().find(|(word, _)| line.contains(word)).map_or("", |(_, prefix)| prefix);
        let id = format!("{prefix}_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b");
        let real = line.replace("{id}", &id).replace("{provider}", "toss");
        let answer = send(&shop.secret, &real, &[("idempotency-key", "k")], body.to_string()).await;
        let met = ["product_not_found", "order_not_found", "payment_not_found", "unknown_product", "finding_not_found"];
        let fits = answer.status.is_success() || met.iter().any(|code| answer.body["code"] == *code);
        assert!(fits, "{line} {body}: {} {}", answer.status, answer.raw);
        bodies += 1;
    }
    assert_eq!(bodies, 9);
    shop.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_the_description_loads_everything_from_us() {
    let shop = Shop::without_worker().await;
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let load = async |path: &str| {
        let sent = http.get(format!("{}{path}", shop.base)).send().await.expect("an answer");
        Answer::read(sent).await.expect(StatusCode::OK)
    };
    let page = load("/docs").await;
    assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")));
    let mut assets: Vec<String> = Vec::new();
    for word in ["src=\"", "href=\""] {
        assets.extend(page.raw.split(word).skip(1).filter_map(|rest| rest.split('"').next()).map(ToOwned::to_owned));
    }
    assert!(assets.len() >= 3, "{assets:?}");
    for asset in &assets {
        assert!(!asset.contains("//"), "{asset} is elsewhere");
        let loaded = load(&format!("/docs/{}", asset.trim_start_matches("./"))).await;
        assert!(!loaded.raw.is_empty(), "{asset}");
        let is_library = asset.contains("bundle") || asset.contains("standalone") || asset.ends_with(".css");
        assert!(is_library || !loaded.raw.contains("://"), "{asset} names another host");
        assert!(!asset.ends_with(".css") || !loaded.raw.contains("url(http"), "{asset} loads from another host");
    }
    assert!(!page.raw.contains("://"), "{}", page.raw);
    let start = load("/docs/swagger-initializer.js").await;
    assert!(start.raw.contains("/openapi.json"), "{}", start.raw);
    shop.close().await;
}
