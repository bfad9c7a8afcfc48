//! What nginx does by itself, before upstreams that the tests play and before the real one: to whom it sends what how
//! often, what it adds and takes away, what it answers and writes down.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::{Set, said};
use crate::support::nginx::{NAME, Nginx};
use crate::support::ports::free_port;
use crate::support::shop::PATIENCE;
use crate::support::{eventually, programs};

/// What a played upstream does with a request that it has read.
#[derive(Clone)]
enum Plays {
    /// Answers.
    Answering,
    /// Goes away without a word.
    Cutting,
    /// Tells one event and then nothing until it is let go on.
    Telling(Arc<Notify>),
}

/// An upstream that remembers what it was sent.
struct Played {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Played {
    async fn start(plays: Plays) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, plays) = (Arc::clone(&seen), plays.clone());
                // nginx may close it at any time.
                tokio::spawn(async move { drop(play(stream, plays, seen).await) });
            }
        });
        Self { address, heads }
    }

    fn seen(&self) -> Vec<String> {
        std::mem::take(&mut *self.heads.lock().expect("a lock"))
    }
}

async fn play(mut stream: TcpStream, plays: Plays, heads: Arc<Mutex<Vec<String>>>) -> std::io::Result<()> {
    loop {
        let (mut text, mut bytes) = (String::new(), [0; 4096]);
        while !text.contains("\r\n\r\n") {
            let length = stream.read(&mut bytes).await?;
            if length == 0 {
                return Ok(());
            }
            text += &String::from_utf8_lossy(&bytes[..length]);
        }
        heads.lock().expect("a lock").push(text);
        match &plays {
            Plays::Answering => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await?,
            Plays::Cutting => return Ok(()),
            Plays::Telling(on) => {
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
                stream.write_all(format!("{head}data: first\n\n").as_bytes()).await?;
                on.notified().await;
                return stream.write_all(b"data: second\n\n").await;
            }
        }
    }
}

async fn ask(http: &Client, nginx: &Nginx, method: Method, path: &str) -> reqwest::Response {
    let mut request = http.request(method.clone(), format!("{}{path}", nginx.base));
    if method == Method::POST {
        request = request.header("Idempotency-Key", "one").json(&json!({}));
    }
    request.send().await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_is_sent_to_a_second_process_only_if_the_first_was_never_reached() {
    let (one, two) = (Played::start(Plays::Cutting).await, Played::start(Plays::Cutting).await);
    let Some(nginx) = Nginx::before(&[one.address, two.address]).await else { return };
    let http = nginx.client_from([127, 0, 0, 1]);
    let sent = |path: &str| {
        let lines = [one.seen(), two.seen()].concat();
        lines.iter().filter(|head| head.contains(path)).count()
    };
    let answer = ask(&http, &nginx, Method::POST, "/v1/payments/confirm").await;
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    let headers = answer.headers();
    assert_eq!(headers["retry-after"], "1");
    assert_eq!(headers["content-type"], "application/problem+json");
    let problem: Value = answer.json().await.expect("JSON");
    assert_eq!(problem["code"], "gateway_unavailable");
    assert_eq!(sent("/v1/payments/confirm"), 1, "it may have been taken");
    assert_eq!(ask(&http, &nginx, Method::GET, "/v1/products").await.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(sent("/v1/products"), 2, "whoever only looks may look elsewhere");

    let (nobody, third) = (free_port(), Played::start(Plays::Answering).await);
    let nginx = Nginx::before(&[nobody, third.address]).await.expect("it is installed");
    let http = nginx.client_from([127, 0, 0, 1]);
    for _ in 0..12 {
        assert_eq!(ask(&http, &nginx, Method::POST, "/v1/orders").await.status(), StatusCode::OK);
    }
    assert_eq!(third.seen().len(), 12, "each was taken once");
    let refused = nginx.access_log().iter().filter(|line| said(line, "upstream_status").starts_with("502, ")).count();
    assert!((1..=6).contains(&refused), "after three failures nobody goes there for a while: {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_told_who_asks_and_nothing_that_the_client_made_up() {
    let played = Played::start(Plays::Answering).await;
    let Some(nginx) = Nginx::before(&[played.address]).await else { return };
    let http = nginx.client_from([127, 0, 0, 7]);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let id = "0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b";
    for _ in 0..3 {
        let request = http.get(format!("{}/v1/orders?customerRef=hong", nginx.base)).header("traceparent", trace);
        let request = request.header("X-Request-Id", id).header("X-Forwarded-For", "203.0.113.7, 127.0.0.1");
        let request = request.header("Forwarded", "for=203.0.113.7").header("Idempotency-Key", "as it is");
        assert_eq!(request.send().await.expect("an answer").status(), StatusCode::OK);
    }
    let heads = played.seen();
    assert_eq!(heads.len(), 3);
    for head in heads {
        let head = head.to_lowercase();
        for line in [
            "get /v1/orders?customerref=hong http/1.1",
            "x-forwarded-for: 127.0.0.7",
            "x-forwarded-proto: https",
            &format!("x-request-id: {id}"),
            &format!("traceparent: {trace}"),
            "idempotency-key: as it is",
            "host: 127.0.0.1",
        ] {
            assert!(head.lines().any(|found| found == line), "{line} in {head}");
        }
        assert!(!head.contains("203.0.113.7") && !head.contains("\nconnection:"), "{head}");
    }
    let made_up = http.get(format!("{}/v1/orders", nginx.base)).header("X-Request-Id", "4330123412341234");
    made_up.send().await.expect("an answer");
    let head = played.seen().concat();
    assert!(!head.contains("4330123412341234") && head.to_lowercase().contains("x-request-id: "), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_go_out_as_they_come() {
    let on = Arc::new(Notify::new());
    let played = Played::start(Plays::Telling(Arc::clone(&on))).await;
    let Some(nginx) = Nginx::before(&[played.address]).await else { return };
    let http = nginx.client_from([127, 0, 0, 1]);
    let asked = ask(&http, &nginx, Method::GET, "/v1/orders/ord_1/events");
    let mut answer = timeout(PATIENCE, asked).await.expect("it is not kept back");
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    for expected in ["data: first\n\n", "data: second\n\n"] {
        let chunk = timeout(PATIENCE, answer.chunk()).await.expect("it is not kept back").expect("an event");
        assert_eq!(chunk.as_deref(), Some(expected.as_bytes()));
        on.notify_one();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_cannot_take_it_all_and_the_shops_own_can() {
    let played = Played::start(Plays::Answering).await;
    let Some(nginx) = Nginx::before(&[played.address]).await else { return };
    let at_once = async |from: [u8; 4]| {
        let http = nginx.client_from(from);
        let asked = (0..300).map(|_| ask(&http, &nginx, Method::GET, "/v1/products"));
        futures_util::future::join_all(asked).await
    };
    let refused = eventually("too many requests of one address are refused", 2 * PATIENCE, async || {
        let answers = at_once([127, 0, 0, 9]).await;
        answers.into_iter().find(|answer| answer.status() == StatusCode::TOO_MANY_REQUESTS)
    })
    .await;
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(refused.json::<Value>().await.expect("JSON")["code"], "rate_limited");
    assert!(at_once([127, 0, 0, 1]).await.iter().all(|answer| answer.status() == StatusCode::OK), "the shop's own");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_down_names_the_process_and_the_request_and_no_secret_or_person() {
    let Some(set) = Set::start(&[]).await else { return };
    let (http, nginx) = (set.nginx.client_from([127, 0, 0, 1]), &set.nginx);
    let id = uuid::Uuid::new_v4().as_simple().to_string();
    let get = |path: &str| http.get(format!("{}{path}", nginx.base)).bearer_auth(set.shop.token());
    let answer = get("/v1/orders?limit=3").header("X-Request-Id", &id).send().await.expect("an answer");
    assert_eq!((answer.status(), answer.headers()["x-request-id"].as_bytes()), (StatusCode::OK, id.as_bytes()));
    assert!(answer.headers()["strict-transport-security"].to_str().is_ok_and(|value| value.contains("31536000")));
    let trace = answer.headers()["traceresponse"].to_str().expect("text").to_owned();
    for path in ["/v1/orders?customerRef=hong-gildong", "/v1/people/hong-gildong", "/hong-gildong?name=hong-gildong"] {
        let request = get(path).header("User-Agent", "hong-gildong").header("Referer", "https://a/hong-gildong");
        request.send().await.expect("an answer");
    }
    let line = eventually("its line is written", PATIENCE, async || {
        nginx.access_log().into_iter().find(|line| said(line, "request_id") == id)
    })
    .await;
    let at = said(&line, "upstream").parse::<SocketAddr>().expect("an address");
    assert!(set.addresses.contains(&at), "{line}");
    let words =
        ["path", "status", "upstream_status", "client", "traceresponse", "method"].map(|field| said(&line, field));
    assert_eq!(words, ["/v1/orders", "200", "200", "127.0.0.0/24", trace.as_str(), "GET"]);
    assert!(said(&line, "upstream_s").parse::<f64>().is_ok() && said(&line, "duration_s").parse::<f64>().is_ok());
    every_route_is_known_to_the_log(&http, nginx).await;
    let wrote = nginx.all_it_wrote();
    for secret in ["hong-gildong", set.shop.token(), "limit=3"] {
        assert!(!wrote.contains(secret), "{secret} in {wrote}");
    }
}

async fn every_route_is_known_to_the_log(http: &Client, nginx: &Nginx) {
    let described = http.get(format!("{}/openapi.json", nginx.base)).send().await.expect("an answer");
    let described: Value = described.json().await.expect("JSON");
    let paths: Vec<_> = described["paths"].as_object().expect("paths").keys().cloned().collect();
    assert!(paths.len() > 15, "{paths:?}");
    for path in paths {
        let thing = format!("ord_{}", uuid::Uuid::new_v4().as_simple());
        let path = path.replace("{id}", &thing).replace("{provider}", "toss");
        let id = uuid::Uuid::new_v4().as_simple().to_string();
        let asked = http.get(format!("{}{path}", nginx.base)).header("X-Request-Id", &id).send().await;
        asked.expect("an answer");
        let line = eventually("its line is written", PATIENCE, async || {
            nginx.access_log().into_iter().find(|line| said(line, "request_id") == id)
        })
        .await;
        assert_eq!(said(&line, "path"), path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_api_is_reached_by_https_alone_and_with_bodies_of_its_size() {
    let address_reads = [("PAYGAUGE_RATE_ADDRESS_READS", "3/600")];
    let Some(set) = Set::start(&address_reads).await else { return };
    let (http, nginx) = (set.nginx.client_from([127, 0, 0, 1]), &set.nginx);
    let code = async |request: reqwest::RequestBuilder| {
        let answer = request.send().await.expect("an answer");
        let (status, kind) = (answer.status().as_u16(), answer.headers().get("content-type").cloned());
        let body: Value = answer.json().await.unwrap_or_default();
        assert!(status < 400 || kind.is_some_and(|kind| kind == "application/problem+json"), "{status} {body}");
        (status, body["code"].as_str().unwrap_or_default().to_owned())
    };
    for path in ["/metrics", "/readyz", "/livez", "/", "/v2/orders"] {
        assert_eq!(
            code(http.get(format!("{}{path}", nginx.base))).await,
            (404, "route_not_found".to_owned()),
            "{path}"
        );
    }
    let post = |base: &str, path: &str| http.post(format!("{base}{path}")).bearer_auth(set.shop.token());
    let sized = |bytes: usize| json!({ "pad": "x".repeat(bytes - 10) }).to_string();
    let order =
        |bytes: usize| post(&nginx.base, "/v1/orders").header("Content-Type", "application/json").body(sized(bytes));
    assert_eq!(code(order(65_536)).await.0, 400, "paygauge itself judges it");
    assert_eq!(code(order(65_537)).await, (413, "body_too_large".to_owned()));
    let webhook = |bytes: usize| http.post(format!("{}/v1/webhooks/toss", nginx.base)).body(sized(bytes));
    assert_eq!(code(webhook(262_144)).await.0, 200);
    assert_eq!(code(webhook(262_145)).await, (413, "body_too_large".to_owned()));

    assert_eq!(code(post(&nginx.plain, "/v1/orders").body("{}")).await, (403, "forbidden".to_owned()));
    let led = http.get(format!("{}/docs?a=1", nginx.plain)).send().await.expect("an answer");
    assert_eq!(led.status(), StatusCode::PERMANENT_REDIRECT);
    assert_eq!(led.headers()["location"], "https://127.0.0.1/docs?a=1");

    // Whose address it is, nginx says; what the client says of itself buys no second budget.
    let from = |last: u8| (nginx.client_from([127, 0, 0, last]), format!("{}/v1/products", nginx.base));
    let (greedy, url) = from(21);
    let mut seen = Vec::new();
    for number in 0..8 {
        let request = greedy.get(&url).header("X-Forwarded-For", format!("203.0.113.{number}"));
        seen.push(code(request).await.0);
    }
    assert!(seen.ends_with(&[429, 429]) && seen.starts_with(&[401]), "{seen:?}");
    let (other, url) = from(22);
    assert_eq!(code(other.get(url)).await.0, 401, "another address has its own budget");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_speaks_http_2_and_tls_from_1_2_on() {
    let played = Played::start(Plays::Answering).await;
    let Some(nginx) = Nginx::before(&[played.address]).await else { return };
    let Some(curl) = programs::wanted("curl") else { return };
    let address = nginx.address;
    let url = format!("https://{NAME}:{}/v1/products", address.port());
    let run = |words: &[&str]| {
        let mut command = Command::new(&curl);
        command.args([
            "--silent",
            "--noproxy",
            "*",
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_version} %{http_code}",
        ]);
        command.arg("--resolve").arg(format!("{NAME}:{}:127.0.0.1", address.port()));
        command.arg("--cacert").arg(nginx.root_file()).args(words).arg(&url);
        let output = command.output().expect("curl");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(run(&["--http2"]), "2 200");
    assert_eq!(run(&["--http1.1", "--tls-max", "1.2"]), "1.1 200");
    // The client would do it.
    assert_eq!(run(&["--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0"]), "0 000");
    assert_eq!(played.seen().len(), 2);
}
