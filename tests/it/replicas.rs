//! Several processes over one database behind a real nginx with the repository's own configuration: what is sent twice is
//! done once, who dies is replaced, a rolling restart is seen by nobody, and a death in the middle costs no money.

mod buyers;
mod front;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use paygauge::crash::CrashSwitch;
use paygauge::db::Db;
use paygauge::db::connect::{self, DbConfig};
use paygauge::http::auth::keys::{self, Role};
use pg_mock::{Behaviour, PgMock, Rule};
use reqwest::StatusCode;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio_postgres::Client as Sql;

use self::buyers::Buyers;
use super::support::nginx::Nginx;
use super::support::ports::free_port;
use super::support::served::Served;
use super::support::shop::{Answer, Client, PATIENCE, http, invariants_client};
use super::support::{database, eventually, invariants};

/// What every process is told. The PG's timeouts are short, so that recovery comes soon after a death.
const ALL: [(&str, &str); 5] = [
    ("PAYGAUGE_DRAIN_SECONDS", "5"),
    ("PAYGAUGE_TRUSTED_PROXIES", "127.0.0.1"),
    ("TOSS_CONFIRM_TIMEOUT_SECONDS", "4"),
    ("TOSS_CANCEL_TIMEOUT_SECONDS", "4"),
    ("TOSS_INQUIRY_TIMEOUT_SECONDS", "4"),
];
const PRICE: i64 = 3_000;
const STOCK: i64 = 100_000;

/// Two processes that serve the API, two that work, one database, one PG, and nginx in front.
struct Set {
    nginx: Nginx,
    apis: Vec<Served>,
    addresses: Vec<SocketAddr>,
    workers: Vec<Served>,
    mock: Arc<PgMock>,
    database: DbConfig,
    sql: Sql,
    /// Through nginx, with the secret key.
    shop: Client,
    product: String,
}

impl Set {
    /// Starts it; `None` without nginx.
    async fn start(further: &[(&str, &str)]) -> Option<Self> {
        let addresses = vec![free_port(), free_port()];
        let nginx = Nginx::before(&addresses).await?;
        let database = database::fresh().await;
        let db = Db::new(connect::pool(&database).await.expect("a pool"), 2, CrashSwitch::default());
        let (_, secret) = keys::create(&db, Role::Secret, "test").await.expect("a key");
        drop(db);
        let secret = secret.expose_secret().to_owned();
        let mock = Arc::new(PgMock::start(pg_mock::Options::default()).await.expect("pg-mock"));
        let shop = Client::of(nginx.client_from([127, 0, 0, 1]), &nginx.base, &secret);
        let sql = invariants_client(&database).await;
        let (apis, workers, product) = (Vec::new(), Vec::new(), String::new());
        let mut set = Self { nginx, apis, addresses, workers, mock, database, sql, shop, product };
        for number in 0..2 {
            let api = set.process("api", set.addresses[number], further).await;
            set.apis.push(api);
            let worker = set.process("worker", set.addresses[number], further).await;
            set.workers.push(worker);
        }
        let body = json!({ "name": "Coffee beans", "price": PRICE, "initialStock": STOCK });
        set.product = set.shop.post("/v1/products", &body).await.expect(StatusCode::CREATED).text("id");
        Some(set)
    }

    async fn process(&self, role: &str, address: SocketAddr, further: &[(&str, &str)]) -> Served {
        let address = address.to_string();
        let own = [("PAYGAUGE_ROLES", role), ("PAYGAUGE_LISTEN", &address), ("PAYGAUGE_DB_CONNECTIONS_MAX", "6")];
        let variables: Vec<_> = ALL.iter().chain(&own).chain(further).copied().collect();
        let (mock, secret) = (Arc::clone(&self.mock), self.shop.token());
        Served::beside(mock, self.database.clone(), secret, &variables).await.expect("it serves")
    }

    /// Starts an API process again where it was, and waits for `/readyz`, as whoever restarts them one by one must.
    async fn start_again(&mut self, number: usize) {
        let api = self.process("api", self.addresses[number], &[]).await;
        let ready = format!("{}/readyz", api.ops);
        eventually("it is ready", PATIENCE, async || {
            (http().get(&ready).send().await.ok()?.status() == StatusCode::OK).then_some(())
        })
        .await;
        self.apis[number] = api;
    }

    /// Callers of one process each, past nginx.
    fn directly(&self) -> [Client; 2] {
        [0, 1].map(|number| Client::new(&self.apis[number].base, self.shop.token()))
    }

    async fn place(&self) -> (String, i64) {
        let order = self.shop.post_with_key("/v1/orders", &order_of(&self.product)).await.expect(StatusCode::CREATED);
        (order.text("id"), order.number("amount"))
    }

    /// A payment whose outcome nobody knows but the PG, which took the money.
    async fn doubt(&self) -> String {
        let (order, amount) = self.place().await;
        self.mock.script(Rule::confirm(Behaviour::ApproveThenDrop));
        let body = json!({ "paymentKey": self.mock.pay(&order, amount), "orderId": order, "amount": amount });
        self.shop.post("/v1/payments/confirm", &body).await.expect(StatusCode::ACCEPTED);
        order
    }

    async fn count(&self, query: &str) -> i64 {
        self.sql.query_one(query, &[]).await.expect("SQL").get(0)
    }

    /// Nothing is open, every rule holds, the PG's book and ours agree.
    async fn money_is_right(&self) {
        invariants::quiet(&self.sql).await;
        invariants::rules(&self.database).await;
        let book = self.mock.book();
        let mut theirs = BTreeMap::new();
        for payment in &book.payments {
            *theirs.entry(payment.order_id.clone()).or_default() +=
                invariants::kept(payment.approved, payment.canceled);
        }
        invariants::books_agree(&self.sql, &theirs).await;
        for (key, used) in &book.calls.idempotency_keys {
            assert!(used.body_hashes.len() <= 1, "the PG key {key} was used with two bodies");
        }
        let twice = "select count(*) from (select 1 from payments where approved_amount is not null
                     group by order_id having count(*) > 1) twice";
        assert_eq!(self.count(twice).await, 0, "no order was paid twice");
        let sold = "select coalesce(sum(i.quantity - i.canceled_quantity), 0)::bigint from order_items i
                    join orders o on o.id = i.order_id where o.status not in ('canceled', 'expired')";
        let available = self.count("select available::bigint from stock").await;
        assert_eq!(available + self.count(sold).await, STOCK, "no unit went missing");
    }
}

fn order_of(product: &str) -> Value {
    json!({ "lines": [{ "productId": product, "quantity": 1 }] })
}

/// Sends the same to both at once, each until it has a certain answer.
async fn both(clients: &[Client; 2], path: &str, body: &Value, key: &str) -> [Answer; 2] {
    let ask = async |client: &Client| {
        eventually("a certain answer", PATIENCE, async || {
            let answer = client.post_as(path, body, key).await;
            if answer.status == StatusCode::CONFLICT {
                assert_eq!(answer.text("code"), "idempotency_key_in_flight", "{}", answer.raw);
                return None;
            }
            assert!(answer.status.is_success(), "{}", answer.raw);
            Some(answer)
        })
        .await
    };
    let (first, second) = tokio::join!(ask(&clients[0]), ask(&clients[1]));
    [first, second]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_replicas_are_told_at_once_under_one_key_is_done_once_and_answered_alike() {
    const ROUNDS: i64 = 8;
    let Some(set) = Set::start(&[]).await else { return };
    let clients = set.directly();
    let alike = |told: &[Answer; 2]| {
        assert_eq!((told[0].status, &told[0].raw), (told[1].status, &told[1].raw), "one answer for both");
        let replayed = told.iter().filter(|answer| answer.is_replayed()).count();
        assert_eq!(replayed, 1, "one was first, the other was told the same");
    };
    for round in 0..ROUNDS {
        let key = |what: &str| format!("{what} {round}");
        let placed = both(&clients, "/v1/orders", &order_of(&set.product), &key("order")).await;
        alike(&placed);
        let (order, amount) = (placed[0].text("id"), placed[0].number("amount"));
        // The first is still asking when the other comes.
        set.mock.script(Rule::confirm(Behaviour::Delay { ms: 150 }));
        let body = json!({ "paymentKey": set.mock.pay(&order, amount), "orderId": order, "amount": amount });
        let paid = both(&clients, "/v1/payments/confirm", &body, &key("confirm")).await;
        alike(&paid);
        let path = format!("/v1/payments/{}/cancel", paid[0].text("id"));
        if round % 2 == 0 {
            alike(&both(&clients, &path, &json!({ "reason": "changed my mind" }), &key("cancel")).await);
        }
    }
    assert_eq!(set.count("select count(*) from orders").await, ROUNDS);
    assert_eq!(set.count("select count(*) from payments").await, ROUNDS);
    let calls = set.mock.book().calls;
    let asked = [calls.confirm, calls.cancel].map(|calls| i64::try_from(calls).expect("few"));
    assert_eq!(asked, [ROUNDS, ROUNDS / 2], "the PG was asked once each");
    set.money_is_right().await;
}

/// A value of a process's exposition.
async fn shown(served: &Served, series: &str) -> Option<f64> {
    let text = served.metrics().await;
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    value.parse().ok().filter(|value: &f64| !value.is_nan())
}

async fn leads(served: &Served) -> bool {
    shown(served, "payments_overview_leader").await.is_some_and(|leads| leads > 0.5)
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_worker_that_leads_is_killed_the_other_recovers_and_shows_the_figures() {
    const PENDING: &str = r#"payments_in_state{aggregate="order",status="pending"}"#;
    let Some(mut set) = Set::start(&[]).await else { return };
    let leader = eventually("one of the workers leads", PATIENCE, async || {
        if leads(&set.workers[0]).await { Some(0) } else { leads(&set.workers[1]).await.then_some(1) }
    })
    .await;
    let first = set.doubt().await;
    set.workers[leader].kill().await;
    let second = set.doubt().await;
    // Whatever the dead one had taken is free once its lease is over.
    let over = "update payments set lease_until = now() where lease_until is not null";
    let survivor = &set.workers[1 - leader];
    for order in [&first, &second] {
        eventually("the other recovers it", 3 * PATIENCE, async || {
            set.sql.batch_execute(over).await.expect("SQL");
            let now = set.shop.get(&format!("/v1/orders/{order}")).await.expect(StatusCode::OK);
            (now.text("status") == "paid").then_some(())
        })
        .await;
    }
    eventually("the other leads", PATIENCE, async || leads(survivor).await.then_some(())).await;
    for pending in [0.0, 1.0] {
        eventually("its figures move", 2 * PATIENCE, async || {
            shown(survivor, PENDING).await.filter(|shown| (shown - pending).abs() < 0.5)
        })
        .await;
        set.place().await;
    }
    set.money_is_right().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_under_load_is_seen_by_no_buyer() {
    let Some(mut set) = Set::start(&[]).await else { return };
    let buyers = Buyers::start(&set.shop, &set.mock, &set.product);
    buyers.go_on(20).await;
    for number in 0..2 {
        set.apis[number].terminate();
        buyers.go_on(10).await;
        assert!(set.apis[number].ended().await.success());
        buyers.go_on(10).await;
        set.start_again(number).await;
        buyers.go_on(10).await;
    }
    let memory = buyers.stop().await;
    memory.nothing_went_wrong();
    let retried = set.nginx.access_log().iter().filter(|line| said(line, "upstream").contains(", ")).count();
    println!(
        "{} purchases, {} answers, {retried} of them from the second process",
        memory.purchases(),
        memory.answers()
    );
    let answered_by = |address: &SocketAddr| {
        let address = address.to_string();
        set.nginx.access_log().iter().filter(|line| said(line, "upstream").ends_with(&address)).count()
    };
    assert!(set.addresses.iter().all(|address| answered_by(address) > 20), "both took their part");
    memory.is_true(&set.shop).await;
    set.money_is_right().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_killed_under_load_costs_nobody_money_whatever_they_saw() {
    let Some(mut set) = Set::start(&[]).await else { return };
    let buyers = Buyers::start(&set.shop, &set.mock, &set.product);
    buyers.go_on(20).await;
    for number in 0..2 {
        // So that some are in the middle of it.
        for _ in 0..3 {
            set.mock.script(Rule::confirm(Behaviour::Delay { ms: 400 }));
        }
        set.apis[number].kill().await;
        buyers.go_on(20).await;
        set.start_again(number).await;
        buyers.go_on(20).await;
    }
    let memory = buyers.stop().await;
    println!("{} purchases, {} answers, gone wrong: {:?}", memory.purchases(), memory.answers(), memory.gone_wrong());
    memory.saw_only_what_can_be_repeated();
    memory.is_true(&set.shop).await;
    set.money_is_right().await;
}

/// A text field of a line of the access log.
fn said<'a>(line: &'a Value, field: &str) -> &'a str {
    line[field].as_str().unwrap_or_else(|| panic!("{field} in {line}"))
}
