//! A whole shop in this process: API and worker on their real listeners, pg-mock beside them, a client for each role.

use std::net::SocketAddr;
use std::time::Duration;

use paygauge::config::{BuyerCancel, Config, Environment, Roles, Settings};
use paygauge::crash::CrashSwitch;
use paygauge::db::connect::DbConfig;
use paygauge::http::auth::keys::{self, Role};
use paygauge::limits::{Proxies, Rates};
use paygauge::provider::breaker::BreakerRules;
use paygauge::provider::protection::Limits;
use paygauge::provider::toss::TossConfig;
use paygauge::serve::Running;
use paygauge::telemetry::{self, LogFormat};
use pg_mock::{Behaviour, PgMock};
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{database, eventually};

/// How long anything may take in a test before it counts as broken.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How a test's shop differs from the ordinary one.
pub struct ShopOptions {
    /// Whether the worker runs; without it a test drives each step itself.
    pub worker: bool,
    /// Whether the PG delivers webhooks.
    pub webhooks: bool,
    /// Durations, limits and policies.
    pub settings: Settings,
    /// Options of pg-mock.
    pub mock: pg_mock::Options,
    /// Where the PG is reached, if not at pg-mock itself.
    pub pg_url: Option<String>,
    /// Where this shop is to be held or killed.
    pub crash: CrashSwitch,
    /// Whether the PG is waited for as long as [`WINDOW`] lasts, and longer.
    pub waits_for_the_pg: bool,
}

/// What a call of the PG does while something else has to happen: long enough for a busy machine.
pub const WINDOW: Behaviour = Behaviour::Delay { ms: 3_000 };

impl Default for ShopOptions {
    fn default() -> Self {
        Self {
            worker: true,
            webhooks: true,
            settings: settings(),
            mock: pg_mock::Options::default(),
            pg_url: None,
            crash: CrashSwitch::default(),
            waits_for_the_pg: false,
        }
    }
}

impl ShopOptions {
    /// The ordinary shop, which waits for the PG as long as it takes.
    pub fn waiting_for_the_pg() -> Self {
        let long = Duration::from_secs(30);
        let settings = Settings { provider_deadline: long, idempotency_lease: 2 * long, ..settings() };
        Self { settings, waits_for_the_pg: true, ..Self::default() }
    }
}

/// The ordinary settings, with everything that waits made short.
pub fn settings() -> Settings {
    let millis = Duration::from_millis;
    Settings {
        provider_deadline: millis(1_200),
        provider_limits: limits(),
        recovery_grace: millis(300),
        not_found_quarantine: millis(1_600),
        deposit_poll: millis(400),
        deposit_grace: millis(300),
        idempotency_lease: millis(2_000),
        worker_lease: millis(3_000),
        worker_poll: millis(50),
        drain: Duration::ZERO,
        shutdown_grace: millis(5_000),
        buyer_cancel: BuyerCancel::Unpaid,
        rates: Rates::OFF,
        ..Settings::default()
    }
}

/// Wide enough that no test meets them that is not about them.
fn limits() -> Limits {
    Limits {
        caller_calls_max: 1_000,
        background_calls_max: 100,
        background_wait: Duration::from_millis(100),
        breaker: BreakerRules { failures: u32::MAX, open: Duration::from_millis(500) },
    }
}

/// A running shop.
pub struct Shop {
    pub running: Running,
    pub mock: PgMock,
    pub database: DbConfig,
    pub secret: Client,
    pub publishable: Client,
    pub base: String,
    pub has_worker: bool,
}

impl Shop {
    /// The ordinary shop.
    pub async fn open() -> Self {
        Self::with(ShopOptions::default()).await
    }

    /// A shop with the worker off.
    pub async fn without_worker() -> Self {
        Self::with(ShopOptions { worker: false, webhooks: false, ..ShopOptions::default() }).await
    }

    /// A shop as `options` say, on a database of its own.
    pub async fn with(options: ShopOptions) -> Self {
        Self::on(database::fresh().await, options).await
    }

    /// A shop on this database.
    pub async fn on(database: DbConfig, options: ShopOptions) -> Self {
        let mock = PgMock::start(options.mock).await.expect("pg-mock");
        let (api, ops) = (listener().await, listener().await);
        let base = format!("http://{}", api.local_addr().expect("an address"));
        if options.webhooks {
            mock.set_webhook_url(Some(format!("{base}/v1/webhooks/toss")));
        }
        let roles = Roles { api: true, worker: options.worker };
        let pg_url = options.pg_url.unwrap_or_else(|| mock.url());
        let mut config = config(database.clone(), &pg_url, roles, options.settings);
        config.crash = options.crash;
        if options.waits_for_the_pg {
            let long = config.settings.provider_deadline;
            let toss = &mut config.toss;
            (toss.confirm_timeout, toss.cancel_timeout, toss.inquiry_timeout) = (long, long, long);
        }
        let metrics = telemetry::for_tests().metrics();
        let running = Running::start(config, Some(api), ops, metrics).await.expect("a running paygauge");
        let db = &running.app().db;
        let (_, secret) = keys::create(db, Role::Secret, "test").await.expect("a key");
        let (_, publishable) = keys::create(db, Role::Publishable, "test").await.expect("a key");
        Self {
            secret: Client::new(&base, secret.expose_secret()),
            publishable: Client::new(&base, publishable.expose_secret()),
            running,
            mock,
            database,
            base,
            has_worker: options.worker,
        }
    }

    /// Creates a product; returns its id.
    pub async fn product(&self, price: i64, stock: i64) -> String {
        let body = json!({ "name": "Coffee beans", "price": price, "initialStock": stock });
        let answer = self.secret.post("/v1/products", &body).await;
        answer.expect(StatusCode::CREATED).text("id")
    }

    /// Units of a product that can be ordered now.
    pub async fn available(&self, product: &str) -> i64 {
        self.secret.get(&format!("/v1/products/{product}")).await.expect(StatusCode::OK).number("available")
    }

    /// Places an order of one product; returns the order.
    pub async fn order(&self, product: &str, quantity: i64) -> Order {
        self.order_of(&[(product, quantity)]).await
    }

    /// Places an order; returns it.
    pub async fn order_of(&self, lines: &[(&str, i64)]) -> Order {
        let lines: Vec<Value> =
            lines.iter().map(|(product, quantity)| json!({ "productId": product, "quantity": quantity })).collect();
        let answer = self.publishable.post_with_key("/v1/orders", &json!({ "lines": lines })).await;
        let answer = answer.expect(StatusCode::CREATED);
        let token = answer.text("checkoutToken");
        Order { id: answer.text("id"), amount: answer.number("amount"), buyer: Client::new(&self.base, &token) }
    }

    /// The buyer authenticates a card payment of this order's amount; returns the payment key.
    pub fn pay(&self, order: &Order) -> String {
        self.mock.pay(&order.id, order.amount)
    }

    /// The PG's key of an order's first payment.
    pub fn payment_key(&self, order: &str) -> String {
        self.mock.book().of_order(order).next().expect("a payment").payment_key.clone()
    }

    /// Confirms with the order's token.
    pub async fn confirm(&self, order: &Order, payment_key: &str) -> Answer {
        order.buyer.post("/v1/payments/confirm", &confirm_body(order, payment_key)).await
    }

    /// Places, pays and confirms; returns the order and its payment's id.
    pub async fn paid(&self, product: &str, quantity: i64) -> (Order, String) {
        let order = self.order(product, quantity).await;
        let key = self.pay(&order);
        let answer = self.confirm(&order, &key).await.expect(StatusCode::OK);
        assert_eq!(answer.text("status"), "approved");
        (order, answer.text("id"))
    }

    /// Places an order of one unit and has a virtual account issued for it; returns the order, the PG's key and the
    /// payment's id.
    pub async fn awaiting_deposit(&self, product: &str) -> (Order, String, String) {
        let order = self.order(product, 1).await;
        let key = self.mock.pay_by_virtual_account(&order.id, order.amount);
        let answer = self.confirm(&order, &key).await.expect(StatusCode::OK);
        assert_eq!(answer.text("status"), "awaiting_deposit");
        (order, key, answer.text("id"))
    }

    /// Cancels with the secret key and a fresh idempotency key.
    pub async fn cancel(&self, payment: &str, body: &Value) -> Answer {
        self.secret.post_with_key(&format!("/v1/payments/{payment}/cancel"), body).await
    }

    /// An order as it is now.
    pub async fn order_now(&self, id: &str) -> Answer {
        self.secret.get(&format!("/v1/orders/{id}")).await.expect(StatusCode::OK)
    }

    /// A payment as it is now.
    pub async fn payment_now(&self, id: &str) -> Answer {
        self.secret.get(&format!("/v1/payments/{id}")).await.expect(StatusCode::OK)
    }

    /// Waits until an order has this status.
    pub async fn order_becomes(&self, id: &str, status: &str) -> Answer {
        eventually(&format!("order {id} becomes {status}"), PATIENCE, async || {
            let now = self.order_now(id).await;
            (now.text("status") == status).then_some(now)
        })
        .await
    }

    /// Waits until a payment has this status.
    pub async fn payment_becomes(&self, id: &str, status: &str) -> Answer {
        eventually(&format!("payment {id} becomes {status}"), PATIENCE, async || {
            let now = self.payment_now(id).await;
            (now.text("status") == status).then_some(now)
        })
        .await
    }

    /// The history of an order, as the kinds of its events.
    pub async fn kinds(&self, order: &str) -> Vec<String> {
        let answer = self.secret.get(&format!("/v1/orders/{order}/timeline")).await.expect(StatusCode::OK);
        let items = answer.body["items"].as_array().expect("items").clone();
        items.iter().map(|event| event["kind"].as_str().expect("a kind").to_owned()).collect()
    }

    /// Runs SQL that a test needs to turn a clock or to spoil a row.
    pub async fn sql(&self, statement: &str) {
        invariants_client(&self.database).await.batch_execute(statement).await.expect("SQL");
    }

    /// One number from SQL.
    pub async fn count(&self, query: &str) -> i64 {
        invariants_client(&self.database).await.query_one(query, &[]).await.expect("SQL").get(0)
    }

    /// Checks every invariant and ends the shop.
    pub async fn close(self) {
        super::invariants::hold(&self).await;
        self.running.stop().await;
    }
}

/// A plain connection beside the pool.
pub async fn invariants_client(database: &DbConfig) -> tokio_postgres::Client {
    let (client, connection) =
        tokio_postgres::connect(database.url.expose_secret(), tokio_postgres::NoTls).await.expect("a connection");
    tokio::spawn(connection);
    client
}

/// A configuration for tests.
pub fn config(database: DbConfig, pg_url: &str, roles: Roles, settings: Settings) -> Config {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Config {
        environment: Environment::Test,
        roles,
        listen: any,
        ops_listen: any,
        database,
        toss: TossConfig {
            base_url: pg_url.to_owned(),
            secret_key: "test_sk_mock".into(),
            m_id: None,
            connect_timeout: Duration::from_millis(500),
            confirm_timeout: Duration::from_millis(1_000),
            cancel_timeout: Duration::from_millis(1_000),
            inquiry_timeout: Duration::from_millis(1_000),
        },
        token_secrets: vec!["a secret of more than thirty-two characters".into()],
        cors_origins: vec!["https://shop.example".to_owned()],
        trusted_proxies: Proxies::default(),
        redis: None,
        settings,
        log_format: LogFormat::Json,
        log_filter: "info".to_owned(),
        traces: telemetry::TracesConfig::none(),
        telemetry: telemetry::Parts::ALL,
        crash: CrashSwitch::default(),
    }
}

async fn listener() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).await.expect("a port")
}

/// The body of a confirm of the order's own amount.
pub fn confirm_body(order: &Order, payment_key: &str) -> Value {
    json!({ "paymentKey": payment_key, "orderId": order.id, "amount": order.amount })
}

/// An order that a test placed.
#[derive(Clone)]
pub struct Order {
    pub id: String,
    pub amount: i64,
    /// Speaks with the order's checkout token.
    pub buyer: Client,
}

/// A plain HTTP client.
pub fn http() -> reqwest::Client {
    // An error says that it was done before, which is as good.
    let _known = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().expect("a client")
}

/// A caller with one token.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Client {
    pub fn new(base: &str, token: &str) -> Self {
        Self { http: http(), base: base.to_owned(), token: token.to_owned() }
    }

    /// One that asks by this client.
    pub fn of(http: reqwest::Client, base: &str, token: &str) -> Self {
        Self { http, base: base.to_owned(), token: token.to_owned() }
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, None, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.request(Method::POST, path, Some(body), None).await
    }

    pub async fn post_with_key(&self, path: &str, body: &Value) -> Answer {
        self.post_as(path, body, &uuid::Uuid::new_v4().to_string()).await
    }

    pub async fn post_as(&self, path: &str, body: &Value, idempotency_key: &str) -> Answer {
        self.request(Method::POST, path, Some(body), Some(idempotency_key)).await
    }

    pub async fn request(&self, method: Method, path: &str, body: Option<&Value>, key: Option<&str>) -> Answer {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        Answer::read(request.send().await.expect("an answer")).await
    }

    /// A request built by hand.
    pub fn raw(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token)
    }
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub raw: String,
    pub body: Value,
}

impl Answer {
    pub async fn read(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        let raw = response.text().await.expect("a body");
        let body = serde_json::from_str(&raw).unwrap_or(Value::Null);
        Self { status, headers, raw, body }
    }

    /// This answer, if it has the status; panics with its body otherwise.
    #[track_caller]
    pub fn expect(self, status: StatusCode) -> Self {
        assert_eq!(self.status, status, "{}", self.raw);
        self
    }

    /// This answer, if it is a problem with this code; panics otherwise.
    #[track_caller]
    pub fn problem(self, status: StatusCode, code: &str) -> Self {
        assert_eq!(self.status, status, "{}", self.raw);
        assert_eq!(self.body["code"], code, "{}", self.raw);
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.raw);
        self
    }

    #[track_caller]
    pub fn text(&self, field: &str) -> String {
        self.body[field].as_str().unwrap_or_else(|| panic!("no text {field} in {}", self.raw)).to_owned()
    }

    #[track_caller]
    pub fn number(&self, field: &str) -> i64 {
        self.body[field].as_i64().unwrap_or_else(|| panic!("no number {field} in {}", self.raw))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn is_replayed(&self) -> bool {
        self.header("idempotency-replayed") == Some("true")
    }
}
