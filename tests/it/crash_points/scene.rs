//! What a verb works on: one order, and the crowd around its product.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join};
use paygauge::app::App;
use paygauge::db::connect::DbConfig;
use paygauge::db::idempotency::Scope;
use paygauge::domain::evidence::PaymentKey;
use paygauge::domain::ids::ProductId;
use paygauge::domain::money::{Currency, Money};
use paygauge::domain::stock::CancelScope;
use paygauge::payments::{cancel, cancel_order, confirm};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::cell::World;
use super::verbs::Verb;
use crate::support::shop::{Order, PATIENCE, Shop, invariants_client};

/// Money of the one order of a scene.
pub(super) const PRICE: i64 = 12_000;
pub(super) const PART: i64 = 4_000;
/// What a verb works on.
pub struct Scene {
    pub(super) product: String,
    pub(super) order: Option<Order>,
    pub(super) payment: Option<String>,
    pub(super) key: String,
    pub(super) idempotency_key: String,
    pub(super) webhook: Value,
}

impl Scene {
    pub(super) fn order(&self) -> &Order {
        self.order.as_ref().expect("the scene has an order")
    }

    pub(super) async fn pay(&mut self, shop: &Shop) {
        let order = shop.order(&self.product, 1).await;
        self.key = shop.pay(&order);
        self.order = Some(order);
    }

    pub(super) async fn get_paid(&mut self, shop: &Shop) {
        self.pay(shop).await;
        let answer = shop.confirm(self.order(), &self.key).await.expect(StatusCode::OK);
        self.payment = Some(answer.text("id"));
    }

    pub(super) fn basket(&self) -> Value {
        json!({ "lines": [{ "productId": self.product, "quantity": 1 }] })
    }

    /// A key for each of three buyers.
    pub(super) fn keys(&self) -> [String; 3] {
        [1, 2, 3].map(|buyer| format!("{}-{buyer}", self.idempotency_key))
    }

    pub(super) fn cancel_path(&self) -> String {
        format!("/v1/payments/{}/cancel", self.payment.as_ref().expect("the scene has a payment"))
    }

    pub(super) fn cancel_order_path(&self) -> String {
        format!("/v1/orders/{}/cancel", self.order().id)
    }

    pub(super) fn scope(&self, route: &'static str) -> Scope {
        Scope { owner: "test".to_owned(), route, key: self.idempotency_key.clone(), fingerprint: vec![7; 32] }
    }

    pub(super) fn confirm(&self) -> confirm::Confirm {
        confirm::Confirm {
            payment_key: PaymentKey::parse(&self.key).expect("a payment key"),
            order_id: self.order().id.parse().expect("an order's id"),
            amount: Money::new(PRICE, Currency::KRW),
        }
    }

    pub(super) fn cancel(&self, verb: Verb) -> cancel::Cancel {
        let scope = if verb == Verb::CancelAll { CancelScope::Everything } else { CancelScope::Amount(PART) };
        cancel::Cancel {
            payment: self.payment.as_ref().and_then(|id| id.parse().ok()).expect("the scene has a payment"),
            reason: "a part".to_owned(),
            scope,
            refund_account: None,
            may_cancel_paid: true,
        }
    }

    pub(super) fn cancel_order(&self) -> cancel_order::CancelOrder {
        cancel_order::CancelOrder {
            order: self.order().id.parse().expect("an order's id"),
            reason: "no".to_owned(),
            refund_account: None,
            may_cancel_paid: false,
        }
    }
}

/// Keeps the first order waiting for its product's stock until the other two stand behind it; whether all were placed.
pub(super) fn crowd(
    world: &World,
    scene: &Scene,
    orders: [BoxFuture<'static, bool>; 3],
) -> impl Future<Output = bool> + Send + use<> {
    let (app, database) = (world.app(), world.shop.database.clone());
    let product: ProductId = scene.product.parse().expect("a product's id");
    async move {
        let [mut first, second, third] = orders;
        let (holding, looking) = (connected(&database).await, Arc::new(connected(&database).await));
        holding.batch_execute("begin; select 1 from stock for update").await.expect("the rows");
        let waiting = |wanted: i64| waits(Arc::clone(&looking), Arc::clone(&app), product, wanted);
        // What was placed before is repeated, and waits for nobody.
        let is_first_done = tokio::select! {
            done = &mut first => Some(done),
            () = waiting(1) => None,
        };
        let mut others = join(second, third).boxed();
        let are_others_done = tokio::select! {
            done = &mut others => Some(done),
            () = waiting(if is_first_done.is_none() { 3 } else { 2 }) => None,
        };
        holding.batch_execute("rollback").await.expect("the rows are free");
        let first = async { if let Some(done) = is_first_done { done } else { first.await } };
        let others = async { if let Some(done) = are_others_done { done } else { others.await } };
        let (first, (second, third)) = join(first, others).await;
        first && second && third
    }
}

fn connected(database: &DbConfig) -> BoxFuture<'_, tokio_postgres::Client> {
    invariants_client(database).boxed()
}

/// Waits until so many orders of a product wait, in the database or in front of it.
fn waits(sql: Arc<tokio_postgres::Client>, app: Arc<App>, product: ProductId, wanted: i64) -> BoxFuture<'static, ()> {
    let query = "select count(*) from pg_stat_activity where datname = current_database()
                 and application_name = 'paygauge' and wait_event_type = 'Lock'";
    let looking = async move {
        loop {
            let blocked: i64 = sql.query_one(query, &[]).await.expect("a count").get(0);
            if blocked + i64::try_from(app.queues.waiting(product)).expect("few") == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    async move { tokio::time::timeout(PATIENCE, looking).await.expect("the orders wait") }.boxed()
}

pub(super) fn part() -> Value {
    json!({ "reason": "a part", "amount": PART })
}
