//! Bad input through the public door: odd bytes in headers, paths, queries and bodies are refused with a problem of
//! ours, nothing panics, and nothing of the books moves. `PROPTEST_CASES` sets how many requests are tried.

use paygauge::http::problem::Code;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::shop::Shop;

/// All rows whose change is a change of money, stock or history.
const BOOKS: &str = "select md5(concat(
    (select string_agg(t::text, ';' order by t::text) from products t), (select string_agg(t::text, ';' order by t::text) from stock t),
    (select string_agg(t::text, ';' order by t::text) from stock_adjustments t), (select string_agg(t::text, ';' order by t::text) from orders t),
    (select string_agg(t::text, ';' order by t::text) from order_items t), (select string_agg(t::text, ';' order by t::text) from payments t),
    (select string_agg(t::text, ';' order by t::text) from cancellations t), (select string_agg(t::text, ';' order by t::text) from events t),
    (select string_agg(t::text, ';' order by t::text) from idempotency_keys t)))";

/// A request that nobody should send: its first line, one odd header, its body.
#[derive(Debug, Clone)]
pub struct Odd {
    pub line: String,
    pub header: Vec<u8>,
    pub body: Vec<u8>,
}

fn bytes_of_a_line(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>().prop_filter("ends the line", |byte| !matches!(byte, b'\r' | b'\n')), 0..most)
}

fn segment(prefix: &'static str) -> impl Strategy<Value = String> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40)
            .prop_map(|bytes| bytes.iter().map(|byte| format!("%{byte:02X}")).collect::<String>()),
        "[!$&-.0-;=@-Z_a-z~]{1,60}",
        "[0-9a-f]{0,40}".prop_map(move |hex| format!("{prefix}_{hex}")),
        Just("%00".to_owned()),
        Just("..%2f..".to_owned()),
        Just("%".to_owned()),
        Just("%zz".to_owned()),
    ]
}

fn line() -> impl Strategy<Value = String> {
    let routes = vec![
        ("GET", "/v1/products/", "prod", ""),
        ("PATCH", "/v1/products/", "prod", ""),
        ("POST", "/v1/products/", "prod", "/stock-adjustments"),
        ("GET", "/v1/orders/", "ord", ""),
        ("POST", "/v1/orders/", "ord", "/cancel"),
        ("GET", "/v1/payments/", "pay", "/timeline"),
        ("POST", "/v1/payments/", "pay", "/cancel"),
        ("GET", "/v1/cancellations/", "can", ""),
        ("POST", "/v1/webhooks/", "toss", ""),
    ];
    let item = prop::sample::select(routes).prop_flat_map(|(method, before, prefix, after)| {
        segment(prefix).prop_map(move |id| format!("{method} {before}{id}{after}"))
    });
    let lists = vec!["/v1/products", "/v1/orders", "/v1/payments"];
    let names = vec!["after", "limit", "status", "from", "to", "orderId", "x", "after%00", ""];
    let list = (prop::sample::select(lists), prop::sample::select(names), segment("ord"), any::<i64>()).prop_map(
        |(path, name, value, number)| {
            let value = if name == "limit" { number.to_string() } else { value };
            // A value that may be right is not this test's.
            format!("GET {path}?{name}={value}&odd=1")
        },
    );
    let known = ["POST /v1/orders", "POST /v1/products", "POST /v1/payments/confirm"].map(str::to_owned).to_vec();
    prop_oneof![item, list, prop::sample::select(known)]
}

fn header() -> impl Strategy<Value = Vec<u8>> {
    let names = vec![
        "Authorization: Bearer ",
        "Idempotency-Key: ",
        "Content-Type: ",
        "Accept: ",
        "traceparent: ",
        "X-Request-Id: ",
    ];
    let token = prop_oneof![Just(Vec::new()), Just(b"ct_".to_vec()), Just(b"pgsk_".to_vec())];
    (prop::sample::select(names), token, bytes_of_a_line(300))
        .prop_map(|(name, token, value)| [name.as_bytes(), &token, &value].concat())
}

pub fn odd() -> impl Strategy<Value = Odd> {
    let body = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        (1..5_000_usize).prop_map(|depth| "[".repeat(depth).into_bytes()),
        "\\{\"(amount|lines|reason|price|delta)\":(-?[0-9]{1,40}(\\.[0-9]{1,5})?(e[0-9]{1,6})?|null|\"\\\\\\\\ud800\"|\\[\\]|NaN)\\}"
            .prop_map(String::into_bytes),
    ];
    (line(), header(), body).prop_map(|(line, header, body)| Odd { line, header, body })
}

/// Sends it over a connection of its own; the status and body of the answer, or `None` if the connection was closed.
pub async fn send(address: &str, token: &str, odd: &Odd) -> Option<(u16, Vec<u8>)> {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let mut request = format!("{} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n", odd.line).into_bytes();
    // A second credential is refused; the others are tried with a good one.
    if !odd.header.starts_with(b"Authorization") {
        request.extend(format!("Authorization: Bearer {token}\r\n").bytes());
    }
    if !odd.header.starts_with(b"Content-Type") {
        request.extend(b"Content-Type: application/json\r\n");
    }
    request.extend(&odd.header);
    request.extend(format!("\r\nContent-Length: {}\r\n\r\n", odd.body.len()).bytes());
    request.extend(&odd.body);
    let mut answer = Vec::new();
    // Who answers early may close while we still send.
    stream.write_all(&request).await.unwrap_or_default();
    stream.read_to_end(&mut answer).await.unwrap_or_default();
    let status = std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()?;
    let body = answer.windows(4).position(|end| end == b"\r\n\r\n").map_or(&[][..], |end| &answer[end + 4..]);
    Some((status, body.to_vec()))
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_requests_are_refused_with_a_problem_and_move_nothing() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 5).await;
    shop.paid(&product, 1).await;
    let client = crate::support::shop::invariants_client(&shop.database).await;
    let books = async || client.query_one(BOOKS, &[]).await.expect("the books").get::<_, String>(0);
    let before = books().await;
    let address = shop.base.trim_start_matches("http://").to_owned();
    let mut runner = TestRunner::new(Config::default());
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(400_u32);
    for _ in 0..cases {
        let odd = odd().new_tree(&mut runner).expect("a request").current();
        let Some((status, body)) = send(&address, shop.secret.token(), &odd).await else { continue };
        assert!((400..500).contains(&status), "{status} {} for {odd:?}", String::from_utf8_lossy(&body));
        // What is no HTTP is answered by the HTTP library, without a body.
        if !body.is_empty() {
            let problem: Value = serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error} for {odd:?}"));
            let known = Code::ALL.iter().any(|code| problem["code"] == code.as_str());
            assert!(known && problem["status"] == status, "{problem} for {odd:?}");
        }
    }
    assert_eq!(books().await, before, "a refused request changed the books");
    assert_eq!(shop.secret.get("/v1/products").await.status.as_u16(), 200, "it still serves");
    shop.close().await;
}
