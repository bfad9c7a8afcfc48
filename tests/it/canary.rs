//! Canaries: a value of its own through every field that a caller, a webhook and the PG can fill, then a search of
//! every place where it could come out again.
//!
//! In lines (of all levels and libraries), spans, metrics and exemplars no canary may stand. In the database each may
//! stand where `BOOKS` says, and nowhere else.

mod places;
mod planted;

use std::collections::BTreeSet;
use std::sync::Arc;

use paygauge::crash::CrashSwitch;
use paygauge::db::Db;
use paygauge::db::connect;
use paygauge::http::auth::keys::{self, Role};
use pg_mock::{Behaviour, PgMock, Rule};
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use self::planted::Planted;
use crate::support::served::Served;
use crate::support::shop::{Answer, Client, PATIENCE, invariants_client};
use crate::support::{database, eventually};

/// Stands in every canary that can be a word; no ordinary text has it.
const MARK: &str = "kanarienvogel";
const CARD: &str = "4111111111111111";
const MASKED_CARD: &str = "43301234****123*";
const EMAIL: &str = "kim.minji@kunde.example";
const PHONE: &str = "010-9381-7265";
const HOLDER_ACCOUNT: &str = "90817263544";
const VIRTUAL_ACCOUNT: &str = "56207198340275";
const REFUND_ACCOUNT: &str = "30918273645";

/// All lines of one confirm.
const CONFIRM_BYTES: usize = 1_536;

/// The canary of a field.
fn canary(field: &str) -> String {
    format!("{MARK}-{field}-piept")
}

/// A text that must not come out.
pub struct Secret {
    name: String,
    text: String,
}

/// Where a canary may stand in the database, and why. Each of them does, or the list is wrong.
const BOOKS: &[(&str, &[&str])] = &[
    // What is sold has a name, in the catalogue, in the order as it was placed, and in the answer that a repeat gets.
    ("product", &["products.name", "order_items.name", "orders.name", "idempotency_keys.response_body"]),
    ("adjustment", &["stock_adjustments.reason"]),
    ("customer", &["orders.customer_ref", "idempotency_keys.response_body"]),
    // The shop's own text about a cancel belongs into its books and the repeated answer; the PG tells it back.
    ("reason", &["cancellations.reason", "idempotency_keys.response_body", "webhook_inbox.payload"]),
    ("order-reason", &["events.detail"]),
    ("order-key", &["idempotency_keys.key"]),
    ("confirm-key", &["idempotency_keys.key"]),
    ("cancel-key", &["idempotency_keys.key"]),
    // The PG's own id of a request, which its support asks for.
    ("pg-trace", &["events.detail"]),
    // The buyer has to be told where to pay.
    ("virtual-account", &["payments.deposit_account_number", "idempotency_keys.response_body"]),
    ("pg-deposit-holder", &["payments.deposit_holder", "idempotency_keys.response_body"]),
    // The inbox keeps what came in until it is swept.
    ("webhook-name", &["webhook_inbox.payload"]),
    ("webhook-secret", &["webhook_inbox.payload"]),
    ("webhook-event", &["webhook_inbox.payload"]),
    ("webhook-field", &["webhook_inbox.payload"]),
    ("webhook-transmission", &["webhook_inbox.transmission_id"]),
    ("webhook-payment-key", &["webhook_inbox.payload"]),
    ("email", &["webhook_inbox.payload"]),
    ("phone", &["webhook_inbox.payload"]),
    ("card", &["webhook_inbox.payload"]),
    ("masked-card", &["webhook_inbox.payload"]),
    // The PG's key of a payment: what is asked for, and the key of a confirm that brings none of its own.
    ("payment-key", &["payments.provider_payment_key", "webhook_inbox.payload", "idempotency_keys.key"]),
    ("payment-secret", &["payments.provider_secret", "webhook_inbox.payload"]),
];

/// The whole scene.
struct Scene {
    served: Served,
    planted: Planted,
    secrets: Vec<Secret>,
}

impl Scene {
    /// A serving process with further variables; its spans go to `otlp`.
    async fn open(otlp: &str, more: &[(&str, &str)]) -> Self {
        let database = database::fresh().await;
        let db = Db::new(connect::pool(&database).await.expect("a pool"), 2, CrashSwitch::default());
        let (_, secret) = keys::create(&db, Role::Secret, "test").await.expect("a key");
        let mock = Arc::new(PgMock::start(pg_mock::Options::default()).await.expect("pg-mock"));
        let planted = Planted::start(mock.url()).await;
        let mut variables = vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT", otlp),
            ("TOSS_BASE_URL", planted.url.as_str()),
            ("PAYGAUGE_LOG", "trace"),
            ("RUST_BACKTRACE", "1"),
        ];
        variables.extend(more);
        let served = Served::beside(mock, database, secret.expose_secret(), &variables).await.expect("it serves");
        let mut scene = Self { served, planted, secrets: Vec::new() };
        for (name, text) in [
            ("card", CARD),
            ("masked-card", MASKED_CARD),
            ("email", EMAIL),
            ("phone", PHONE),
            ("holder-account", HOLDER_ACCOUNT),
            ("virtual-account", VIRTUAL_ACCOUNT),
            ("refund-account", REFUND_ACCOUNT),
            ("pg-secret-key", "test_sk_mock"),
            ("database-password", "postgres://"),
            ("token-secret", "a secret of more than thirty-two characters"),
            ("api-key", secret.expose_secret()),
        ] {
            scene.keep(name, text);
        }
        for field in FIELDS {
            scene.keep(field, &canary(field));
        }
        scene
    }

    fn keep(&mut self, name: &str, text: &str) {
        self.secrets.push(Secret { name: name.to_owned(), text: text.to_owned() });
    }

    /// A request with canaries in its headers and its query.
    async fn ask(&self, who: &Client, line: &str, key: Option<&str>, body: &Value) -> Answer {
        let (method, path) = line.split_once(' ').expect("a method and a path");
        let method: Method = method.parse().expect("a method");
        let path = format!("{path}?utm={}", canary("query"));
        let mut request = who.raw(method, &path).header("user-agent", canary("user-agent"));
        request = request.header("x-odd", canary("header")).header("cookie", canary("cookie"));
        // One that cannot be an id, and some that only look like one.
        let ids =
            [format!("{}!", canary("request-id")), CARD.to_owned(), PHONE.to_owned(), "test_sk_mock01".to_owned()];
        request = request.header("x-request-id", &ids[path.len() % ids.len()]);
        request = request.header("tosspayments-webhook-transmission-id", canary("webhook-transmission"));
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        Answer::read(request.json(body).send().await.expect("an answer")).await
    }

    async fn product(&self) -> String {
        let secret = &self.served.secret;
        let product = json!({ "name": canary("product"), "price": 12_000, "initialStock": 50 });
        let product = self.ask(secret, "POST /v1/products", None, &product).await.expect(StatusCode::CREATED);
        let product = product.text("id");
        let adjust = json!({ "delta": 1, "kind": "restock", "reason": canary("adjustment") });
        let line = format!("POST /v1/products/{product}/stock-adjustments");
        self.ask(secret, &line, None, &adjust).await.expect(StatusCode::CREATED);
        product
    }

    /// Places an order; its id and its buyer.
    async fn order(&mut self, product: &str, number: usize) -> (String, Client) {
        let place = json!({ "lines": [{ "productId": product, "quantity": 1 }], "customerRef": canary("customer") });
        let key = format!("{}-{number}", canary("order-key"));
        let order = self.ask(&self.served.secret, "POST /v1/orders", Some(&key), &place).await;
        let order = order.expect(StatusCode::CREATED);
        let token = order.text("checkoutToken");
        self.keep("checkout-token", &token);
        (order.text("id"), Client::new(&self.served.base, &token))
    }

    fn pays(&mut self, payment_key: String) -> String {
        self.keep("payment-key", &payment_key);
        let book = self.served.mock.payment_json(&payment_key).expect("a payment");
        self.keep("payment-secret", book["secret"].as_str().expect("a secret"));
        payment_key
    }

    async fn confirm(&self, buyer: &Client, order: &str, payment_key: &str, key: Option<&str>) -> Answer {
        let confirm = json!({ "paymentKey": payment_key, "orderId": order, "amount": 12_000 });
        self.ask(buyer, "POST /v1/payments/confirm", key, &confirm).await
    }

    async fn settled(&self) {
        let client = invariants_client(&self.served.database).await;
        eventually("nothing is open any more", PATIENCE, async || {
            let open = "select (select count(*) from payments where status = 'confirming') \
                + (select count(*) from cancellations where status = 'requested') \
                + (select count(*) from webhook_inbox where processed_at is null)";
            let open: i64 = client.query_one(open, &[]).await.expect("a count").get(0);
            (open == 0).then_some(())
        })
        .await;
    }

    /// The lines of our own code.
    fn told(&self) -> Vec<Value> {
        let lines = self.served.lines();
        lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Ends the process; then nothing of it may tell a secret.
    async fn is_silent(&mut self, otlp: &wiremock::MockServer) {
        for text in places::metrics(&self.served).await {
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            assert!(lines.len() > 100, "{text}");
            places::silent("a metric", &lines, &self.secrets);
            for line in lines.iter().filter(|line| line.starts_with("payments_log_redactions_total{")) {
                assert!(line.ends_with(" 0"), "something had to be masked at the last moment: {line}");
            }
        }
        self.served.terminate();
        assert!(self.served.ended().await.success());
        let lines = self.served.lines();
        assert!(lines.len() > 10, "{lines:?}");
        places::silent("a line", &lines, &self.secrets);
        let spans = places::spans(otlp).await;
        assert!(spans.iter().any(|span| span.name == "POST /v1/payments/confirm"));
        let spans: Vec<String> = spans.iter().map(|span| format!("{span:?}")).collect();
        places::silent("a span", &spans, &self.secrets);
    }
}

/// The names of the canaries that are words.
const FIELDS: &[&str] = &[
    "product",
    "adjustment",
    "customer",
    "reason",
    "order-reason",
    "order-key",
    "confirm-key",
    "cancel-key",
    "holder",
    "query",
    "user-agent",
    "header",
    "cookie",
    "request-id",
    "credential",
    "path",
    "field",
    "value",
    "webhook-name",
    "webhook-secret",
    "webhook-event",
    "webhook-field",
    "webhook-payment-key",
    "webhook-transmission",
    "pg-message",
    "pg-customer-name",
    "pg-customer-key",
    "pg-order-name",
    "pg-new-field",
    "pg-metadata",
    "pg-metadata-key",
    "pg-approve-no",
    "pg-wallet",
    "pg-failure",
    "pg-receipt",
    "pg-checkout",
    "pg-deposit-holder",
    "pg-depositor",
    "pg-refund-holder",
    "pg-cash-receipt",
    "pg-cancel-receipt",
    "pg-garbage",
    "pg-trace",
    "pg-header",
    "pg-cookie",
];

/// A card payment that works, is repeated, and is given back in part; a virtual account, paid and given back.
async fn good_days(scene: &mut Scene, product: &str) {
    let (order, buyer) = scene.order(product, 1).await;
    let key = scene.pays(scene.served.mock.pay(&order, 12_000));
    let named = canary("confirm-key");
    let payment = scene.confirm(&buyer, &order, &key, Some(&named)).await.expect(StatusCode::OK).text("id");
    assert!(scene.confirm(&buyer, &order, &key, Some(&named)).await.is_replayed());
    let account = json!({ "bankCode": "88", "accountNumber": HOLDER_ACCOUNT, "holder": canary("holder") });
    let cancel = json!({ "reason": canary("reason"), "amount": 2_000, "refundAccount": account });
    let line = format!("POST /v1/payments/{payment}/cancel");
    let cancel_key = canary("cancel-key");
    scene.ask(&scene.served.secret, &line, Some(&cancel_key), &cancel).await.expect(StatusCode::OK);

    let (order, buyer) = scene.order(product, 2).await;
    let key = scene.pays(scene.served.mock.pay_by_virtual_account(&order, 12_000));
    let confirmed = scene.confirm(&buyer, &order, &key, None).await.expect(StatusCode::OK);
    assert_eq!(confirmed.body["deposit"]["accountNumber"], VIRTUAL_ACCOUNT, "{}", confirmed.raw);
    let payment = confirmed.text("id");
    scene.served.mock.deposit(&key);
    eventually("the deposit is booked", PATIENCE, async || {
        let now = scene.served.secret.get(&format!("/v1/orders/{order}")).await;
        (now.text("status") == "paid").then_some(())
    })
    .await;
    let cancel = json!({ "reason": canary("reason"), "refundAccount": account });
    let line = format!("POST /v1/payments/{payment}/cancel");
    scene.ask(&scene.served.secret, &line, Some(&format!("{cancel_key}2")), &cancel).await.expect(StatusCode::OK);

    let (order, buyer) = scene.order(product, 3).await;
    let cancel = json!({ "reason": canary("order-reason") });
    scene
        .ask(&buyer, &format!("POST /v1/orders/{order}/cancel"), Some("ordinary"), &cancel)
        .await
        .expect(StatusCode::OK);
}

/// Confirms that the PG refuses, loses, garbles or answers with an error; recovery clears them up.
async fn bad_days(scene: &mut Scene, product: &str) {
    let server_error = || Behaviour::ErrorAfter { status: 500, code: "FAILED_INTERNAL_SYSTEM_PROCESSING".to_owned() };
    let behaviours = [
        Behaviour::Decline { code: "REJECT_CARD_PAYMENT".to_owned() },
        Behaviour::ApproveThenDrop,
        Behaviour::Garbage,
        Behaviour::HtmlError { status: 502 },
        Behaviour::ErrorBefore { status: 400, code: "INVALID_REQUEST".to_owned() },
        Behaviour::ErrorBefore { status: 400, code: "NEVER_HEARD_OF_IT".to_owned() },
        Behaviour::UnknownEnum,
        server_error(),
    ];
    for (number, behaviour) in (10..).zip(behaviours) {
        let (order, buyer) = scene.order(product, number).await;
        let key = scene.pays(scene.served.mock.pay(&order, 12_000));
        scene.served.mock.script(Rule::confirm(behaviour.clone()).for_order(&order));
        let answer = scene.confirm(&buyer, &order, &key, None).await;
        assert!(matches!(answer.status.as_u16(), 200 | 202 | 402 | 503 | 502 | 500), "{behaviour:?}: {}", answer.raw);
    }
    let (order, buyer) = scene.order(product, 30).await;
    let key = scene.pays(scene.served.mock.pay(&order, 12_000));
    let payment = scene.confirm(&buyer, &order, &key, None).await.expect(StatusCode::OK).text("id");
    scene.served.mock.script(Rule::cancel(server_error()).for_order(&order));
    let cancel = json!({ "reason": canary("reason") });
    let line = format!("POST /v1/payments/{payment}/cancel");
    let answer = scene.ask(&scene.served.secret, &line, Some("ordinary-2"), &cancel).await;
    assert!(matches!(answer.status.as_u16(), 200 | 202), "{}", answer.raw);
}

/// Requests that are turned away, and what strangers send to the webhook's door.
async fn nonsense(scene: &Scene, order: &str) {
    let secret = &scene.served.secret;
    let field = json!({ canary("field"): canary("value") });
    let ask = async |line: &str, body: &Value| scene.ask(secret, line, Some("k"), body).await.status.as_u16();
    assert_eq!(ask("POST /v1/orders", &field).await, 400);
    assert_eq!(ask("POST /v1/orders", &json!(canary("value"))).await, 400);
    let typed = json!({ "paymentKey": canary("value"), "orderId": canary("value"), "amount": 1 });
    assert_eq!(ask("POST /v1/payments/confirm", &typed).await, 400);
    let wrong = json!({ "paymentKey": canary("value"), "orderId": order, "amount": 1 });
    assert_eq!(ask("POST /v1/payments/confirm", &wrong).await, 422);
    let card = json!({ "paymentKey": CARD, "orderId": order, "amount": EMAIL, "phone": PHONE });
    assert_eq!(ask("POST /v1/payments/confirm", &card).await, 400);
    assert_eq!(ask(&format!("GET /v1/orders/{}", canary("path")), &json!({})).await, 400);
    let success = format!("GET /success/{}/{EMAIL}/{PHONE}/{CARD}", canary("path"));
    assert_eq!(ask(&success, &json!({})).await, 404);
    let stranger = Client::new(&scene.served.base, &format!("pgsk_{}", canary("credential")));
    assert_eq!(scene.ask(&stranger, "GET /v1/orders", None, &json!({})).await.status, 401);

    let webhook = json!({
        "eventType": "PAYMENT_STATUS_CHANGED",
        "data": { "paymentKey": canary("webhook-payment-key"), "orderId": canary("webhook-field"),
            "customerName": canary("webhook-name"), "secret": canary("webhook-secret"), "customerEmail": EMAIL,
            "customerMobilePhone": PHONE, "card": { "number": CARD, "masked": MASKED_CARD } }
    });
    assert_eq!(ask("POST /v1/webhooks/toss", &webhook).await, 200);
    let deposit = json!({ "secret": canary("webhook-secret"), "orderId": order, "status": "DONE",
        "transactionKey": canary("webhook-field"), "createdAt": "2026-11-21T09:00:00+09:00" });
    assert_eq!(ask("POST /v1/webhooks/toss", &deposit).await, 200);
    let odd = json!({ "eventType": canary("webhook-event"), "secret": canary("webhook-secret") });
    assert_eq!(ask("POST /v1/webhooks/toss", &odd).await, 200);
}

/// A buyer who closes the browser while the PG has not answered yet.
async fn hang_up(scene: &mut Scene, product: &str) -> String {
    let (order, buyer) = scene.order(product, 40).await;
    let key = scene.pays(scene.served.mock.pay(&order, 12_000));
    let gate = scene.planted.hold().await;
    let confirm = json!({ "paymentKey": key, "orderId": order, "amount": 12_000 });
    let asking = tokio::spawn(async move { buyer.post("/v1/payments/confirm", &confirm).await });
    let of_order = |line: &Value, msg: &str| line["msg"] == msg && line["order_id"] == order.as_str();
    eventually("the PG has been asked", PATIENCE, async || {
        (scene.served.mock.book().of_order(&order).any(|payment| payment.approved > 0)).then_some(())
    })
    .await;
    asking.abort();
    eventually("the line of a request whose client left", PATIENCE, async || {
        let told = scene.told();
        told.iter().any(|line| of_order(line, "request") && line["ending"] == "client_closed").then_some(())
    })
    .await;
    drop(gate);
    let late = "finished after its client had left";
    eventually("the end of its money work", PATIENCE, async || {
        let told = scene.told();
        // The PG's notice waited for the same answer, and may be applied first.
        let is_paid = |line: &Value| line["outcome"] == "success" || line["outcome"] == "replayed";
        told.iter().any(|line| of_order(line, late) && is_paid(line)).then_some(())
    })
    .await;
    order
}

#[tokio::test(flavor = "multi_thread")]
async fn no_canary_comes_out_of_lines_spans_metrics_or_the_wrong_column() {
    let otlp = places::receiver().await;
    let mut scene = Scene::open(&otlp.uri(), &[]).await;
    let product = scene.product().await;
    good_days(&mut scene, &product).await;
    bad_days(&mut scene, &product).await;
    let order = hang_up(&mut scene, &product).await;
    nonsense(&scene, &order).await;
    scene.settled().await;

    let client = invariants_client(&scene.served.database).await;
    let found = places::stored(&client, &scene.secrets).await;
    let pairs = |(name, columns): &(&str, &[&str])| {
        columns.iter().map(|column| (name.to_string(), column.to_string())).collect::<Vec<_>>()
    };
    let allowed: BTreeSet<_> = BOOKS.iter().flat_map(pairs).collect();
    let wrong: Vec<_> = found.difference(&allowed).collect();
    assert!(wrong.is_empty(), "these stand where they do not belong: {wrong:?}");
    let absent: Vec<_> = allowed.difference(&found).collect();
    assert!(absent.is_empty(), "these were expected, or never came in: {absent:?}");

    scene.is_silent(&otlp).await;
    items_have_lines(&scene.told());
    confirms_are_brief(&scene.served.lines());
    fields_are_documented(&scene.told());
}

/// Every field of a canonical line stands in the table of fields.
fn fields_are_documented(told: &[Value]) {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).expect("the page");
    let (_, after) = page.split_once("### Fields of a line").expect("the table of fields");
    let (table, _) = after.split_once("\n#").expect("what comes after it");
    let first_cell = |row: &str| row.split('|').nth(1).unwrap_or_default().to_owned();
    let cells: String = table.lines().map(first_cell).collect();
    let is_canonical = |line: &&Value| matches!(line["msg"].as_str(), Some("request" | "item" | "round"));
    let mut seen = BTreeSet::new();
    for line in told.iter().filter(is_canonical) {
        seen.extend(line.as_object().expect("an object").keys().cloned());
    }
    assert!(seen.len() > 30, "{seen:?}");
    let missing: Vec<_> = seen.iter().filter(|name| !cells.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "the page does not explain {missing:?}");
}

/// What a log costs: all that a confirm writes, whatever comes of it, at the level that production runs at. One whose
/// buyer hangs up in the middle tells its end too: two lines, each within half as much again.
fn confirms_are_brief(lines: &[String]) {
    let read = |line: &String| serde_json::from_str::<Value>(line).ok().map(|value| (line.len(), value));
    let told: Vec<(usize, Value)> = lines.iter().filter_map(read).collect();
    let is_confirm = |line: &Value| line["msg"] == "request" && line["operation"] == "confirm";
    let traces: BTreeSet<&str> =
        told.iter().filter(|(_, line)| is_confirm(line)).filter_map(|(_, line)| line["trace_id"].as_str()).collect();
    assert!(traces.len() > 10, "{traces:?}");
    for trace in traces {
        let is_kept = |line: &Value| !matches!(line["level"].as_str(), Some("debug" | "trace"));
        let mine = told.iter().filter(|(_, line)| line["trace_id"] == trace && is_kept(line));
        let (lengths, texts): (Vec<usize>, Vec<String>) =
            mine.map(|(length, line)| (*length, line.to_string())).unzip();
        let hung_up = texts.iter().any(|text| text.contains(r#""ending":"client_closed""#));
        let most = if hung_up { CONFIRM_BYTES * 3 / 2 } else { CONFIRM_BYTES };
        assert!(lengths.iter().sum::<usize>() <= most, "{lengths:?} bytes: {texts:#?}");
    }
}

/// What the worker did has lines with the facts of it.
fn items_have_lines(told: &[Value]) {
    for event in ["recover.success", "webhook_apply.success", "confirm.success", "confirm.declined", "cancel.success"] {
        let line = told.iter().find(|line| line["event"] == event).unwrap_or_else(|| panic!("no line of {event}"));
        assert!(line["duration_ms"].is_number() && line["trace_id"].is_string(), "{line}");
        assert!(line["payment_id"].is_string() && line["order_id"].is_string(), "{line}");
        assert!(line["amount"].is_number() && line["currency"] == "KRW", "{line}");
    }
    let declined = told.iter().find(|line| line["event"] == "confirm.declined").expect("a line");
    assert_eq!(declined["pg_code"], "REJECT_CARD_PAYMENT", "{declined}");
    assert!(declined["decline_class"].is_string() && declined["pg_attempts"] == 1, "{declined}");
    assert!(declined["customer"].as_str().is_some_and(|hash| hash.starts_with("c_")), "{declined}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_tells_where_it_was_and_not_what_was_in_hand() {
    for (point, ending) in [("pg_confirm.answered", "answered"), ("webhook_apply.uncommitted", "panicked")] {
        let otlp = places::receiver().await;
        let mut scene = Scene::open(&otlp.uri(), &[("PAYGAUGE_CRASH_AT", &format!("panic:{point}"))]).await;
        let product = scene.product().await;
        let (order, buyer) = scene.order(&product, 1).await;
        let key = scene.pays(scene.served.mock.pay(&order, 12_000));
        scene.confirm(&buyer, &order, &key, None).await;
        eventually("the panic's line", PATIENCE, async || {
            scene.told().iter().any(|line| line["msg"] == "panicked").then_some(())
        })
        .await;
        // What was put together at run time, here from the point's name, could have been a row.
        scene.keep("panic", "armed to panic");
        scene.keep("panic", point);
        eventually("the line of the work that panicked", PATIENCE, async || {
            let told = scene.told();
            told.iter()
                .any(|line| line["ending"] == ending && line["level"] == "error" && line["outcome"] == "error")
                .then_some(())
        })
        .await;
        scene.is_silent(&otlp).await;
        let told = scene.told();
        let panic = told.iter().find(|line| line["msg"] == "panicked").expect("a line");
        assert!(panic["location"].as_str().is_some_and(|at| at.starts_with("src/crash/")), "{panic}");
        assert!(panic["trace_id"].is_string(), "{panic}");
    }
}
