//! What can be under way when a crash comes, what the PG does meanwhile, and where it must end.

use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use futures_util::FutureExt as _;
use paygauge::crash::CrashPoint;
use paygauge::db::events::Origin;
use paygauge::db::idempotency::Scope;
use paygauge::payments::cancel::Canceled;
use paygauge::payments::cancel_order::OrderCanceled;
use paygauge::payments::confirm::Confirmed;
use paygauge::payments::reconcile::{self, Span};
use paygauge::payments::{cancel, cancel_order, confirm, expire, order, recovery, webhook};
use paygauge::telemetry::labels::{ReconcileOutcome, Tx};
use pg_mock::{Behaviour, Operation, Rule};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::cell::World;
use super::scene::{PART, PRICE, Scene, crowd, part};
use crate::support::eventually;
use crate::support::shop::{Answer, Client, PATIENCE, Shop, confirm_body, http};

/// A step that somebody takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// A buyer places an order.
    Order,
    /// Three buyers place orders of one product: one alone, and two together while it is being taken.
    OrdersTogether,
    /// A buyer's payment is confirmed.
    Confirm,
    /// A shop cancels a third of a payment.
    CancelPart,
    /// A shop cancels all of a payment.
    CancelAll,
    /// A buyer cancels an unpaid order.
    CancelOrder,
    /// A webhook is taken in.
    WebhookReceive,
    /// A stored webhook tells of a deposit.
    WebhookDeposit,
    /// A stored webhook tells of a cancel whose answer was lost.
    WebhookCanceled,
    /// The worker ends a hold.
    Expire,
    /// Recovery finds that a lost confirm did nothing, and sends it again.
    RecoverConfirm,
    /// Recovery finds that a lost confirm was approved.
    RecoverApproval,
    /// Recovery finds that a lost cancel did nothing, and sends it again.
    RecoverCancel,
    /// Recovery finds that a lost cancel was done.
    RecoverCanceled,
    /// Reconciliation finds a cancel made in the PG's console.
    ReconcileCancel,
    /// Reconciliation finds an approval that our books lost.
    ReconcileApproval,
}

/// What the PG does with the call that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Approve,
    Decline,
    ApproveThenHang,
    ApproveThenDrop,
    ErrorBefore,
    ErrorAfter,
    Conflict,
    Garbage,
    Mismatch,
    TooMany,
    /// The same, for the second call of a verb that makes two.
    SecondDeclines,
    SecondDrops,
    SecondErrs,
}

const ONE_CALL: &[Mood] = &[
    Mood::Approve,
    Mood::Decline,
    Mood::ApproveThenHang,
    Mood::ApproveThenDrop,
    Mood::ErrorBefore,
    Mood::ErrorAfter,
    Mood::Conflict,
    Mood::Garbage,
    Mood::Mismatch,
    Mood::TooMany,
];

const TWO_CALLS: &[Mood] = &[
    Mood::Approve,
    Mood::Decline,
    Mood::ApproveThenHang,
    Mood::ApproveThenDrop,
    Mood::ErrorBefore,
    Mood::ErrorAfter,
    Mood::Conflict,
    Mood::Garbage,
    Mood::TooMany,
    Mood::SecondDeclines,
    Mood::SecondDrops,
    Mood::SecondErrs,
];

/// A lookup that lies about a deposit makes a reversal, and a deposit goes back only by hand.
const DEPOSIT: &[Mood] = &[
    Mood::Approve,
    Mood::Decline,
    Mood::ApproveThenHang,
    Mood::ApproveThenDrop,
    Mood::ErrorBefore,
    Mood::Conflict,
    Mood::Garbage,
    Mood::TooMany,
];

/// What a PG gives back that gives back something else than it was asked for.
const LESS: i64 = 3_000;

impl Verb {
    pub const ALL: &'static [Self] = &[
        Self::Order,
        Self::OrdersTogether,
        Self::Confirm,
        Self::CancelPart,
        Self::CancelAll,
        Self::CancelOrder,
        Self::WebhookReceive,
        Self::WebhookDeposit,
        Self::WebhookCanceled,
        Self::Expire,
        Self::RecoverConfirm,
        Self::RecoverApproval,
        Self::RecoverCancel,
        Self::RecoverCanceled,
        Self::ReconcileCancel,
        Self::ReconcileApproval,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::OrdersTogether => "orders together",
            Self::Confirm => "confirm",
            Self::CancelPart => "cancel a part",
            Self::CancelAll => "cancel all",
            Self::CancelOrder => "cancel an unpaid order",
            Self::WebhookReceive => "take a webhook in",
            Self::WebhookDeposit => "apply the webhook of a deposit",
            Self::WebhookCanceled => "apply the webhook of a cancel",
            Self::Expire => "expire",
            Self::RecoverConfirm => "recover a confirm that did nothing",
            Self::RecoverApproval => "recover an approval",
            Self::RecoverCancel => "recover a cancel that did nothing",
            Self::RecoverCanceled => "recover a cancel that was done",
            Self::ReconcileCancel => "reconcile a cancel of the console",
            Self::ReconcileApproval => "reconcile an approval that was lost",
        }
    }

    /// What the PG can do to it.
    pub fn moods(self) -> &'static [Mood] {
        match self {
            Self::Order | Self::OrdersTogether | Self::CancelOrder | Self::WebhookReceive | Self::Expire => {
                &[Mood::Approve]
            }
            Self::RecoverConfirm | Self::RecoverCancel | Self::ReconcileCancel | Self::ReconcileApproval => TWO_CALLS,
            Self::Confirm
            | Self::CancelPart
            | Self::CancelAll
            | Self::WebhookCanceled
            | Self::RecoverApproval
            | Self::RecoverCanceled => ONE_CALL,
            Self::WebhookDeposit => DEPOSIT,
        }
    }

    /// Brings a shop to where the verb can be taken.
    pub async fn prepare(self, world: &World) -> Scene {
        let shop = &world.shop;
        let product = shop.product(PRICE, 5).await;
        let mut scene = Scene {
            product: product.clone(),
            order: None,
            payment: None,
            key: String::new(),
            idempotency_key: uuid::Uuid::new_v4().to_string(),
            webhook: Value::Null,
        };
        match self {
            Self::Order | Self::OrdersTogether => {}
            Self::CancelOrder => scene.order = Some(shop.order(&product, 1).await),
            Self::Expire => {
                scene.order = Some(shop.order(&product, 1).await);
                shop.sql("update orders set hold_expires_at = now() - interval '1 second' where status = 'pending'")
                    .await;
            }
            Self::Confirm => scene.pay(shop).await,
            Self::RecoverConfirm | Self::RecoverApproval => {
                scene.pay(shop).await;
                let lost =
                    if self == Self::RecoverConfirm { Behaviour::DropBefore } else { Behaviour::ApproveThenDrop };
                shop.mock.script(Rule::confirm(lost));
                let answer = shop.confirm(scene.order(), &scene.key).await.expect(StatusCode::ACCEPTED);
                scene.payment = Some(answer.text("id"));
            }
            Self::CancelPart | Self::CancelAll => scene.get_paid(shop).await,
            Self::ReconcileCancel => {
                scene.get_paid(shop).await;
                shop.mock.cancel_in_console(&scene.key, PART);
            }
            Self::ReconcileApproval => {
                scene.pay(shop).await;
                let body = json!({ "paymentKey": scene.key, "orderId": scene.order().id, "amount": PRICE });
                let there = format!("{}/v1/payments/confirm", shop.mock.url());
                let sent = http().post(there).basic_auth("test_sk_mock", Some("")).json(&body).send();
                assert_eq!(sent.await.expect("an answer").status(), StatusCode::OK);
            }
            Self::RecoverCancel | Self::RecoverCanceled | Self::WebhookCanceled => {
                scene.get_paid(shop).await;
                let lost = if self == Self::RecoverCancel { Behaviour::DropBefore } else { Behaviour::ApproveThenDrop };
                shop.mock.script(Rule::cancel(lost));
                let answer = shop.secret.post_as(&scene.cancel_path(), &part(), &scene.idempotency_key).await;
                answer.expect(StatusCode::ACCEPTED);
                scene.webhook = shop.mock.webhook_body(&scene.key);
                if self == Self::WebhookCanceled {
                    deliver(&shop.base, &scene.webhook).await.expect("an answer");
                }
            }
            Self::WebhookReceive | Self::WebhookDeposit => {
                let (order, key, payment) = shop.awaiting_deposit(&product).await;
                shop.mock.deposit(&key);
                scene.webhook = shop.mock.webhook_body(&key);
                (scene.order, scene.key, scene.payment) = (Some(order), key, Some(payment));
                if self == Self::WebhookDeposit {
                    deliver(&shop.base, &scene.webhook).await.expect("an answer");
                }
            }
        }
        world.time_passes().await;
        scene
    }

    /// Puts the PG into its mood.
    pub fn spoil(self, shop: &Shop, mood: Mood) {
        let (first, second) = match self {
            Self::Confirm => (Operation::Confirm, Operation::Confirm),
            Self::CancelPart | Self::CancelAll => (Operation::Cancel, Operation::Cancel),
            Self::RecoverConfirm => (Operation::Lookup, Operation::Confirm),
            Self::RecoverCancel => (Operation::Lookup, Operation::Cancel),
            Self::ReconcileCancel | Self::ReconcileApproval => (Operation::Transactions, Operation::Lookup),
            Self::Order
            | Self::OrdersTogether
            | Self::CancelOrder
            | Self::WebhookReceive
            | Self::WebhookDeposit
            | Self::WebhookCanceled
            | Self::Expire
            | Self::RecoverApproval
            | Self::RecoverCanceled => (Operation::Lookup, Operation::Lookup),
        };
        let failing = || Behaviour::ErrorBefore { status: 500, code: "FAILED_INTERNAL_SYSTEM_PROCESSING".to_owned() };
        let (operation, behaviour) = match mood {
            Mood::Approve => return,
            Mood::Decline => (first, refusal(first)),
            Mood::ApproveThenHang => (first, Behaviour::ApproveThenHang { ms: 1_500 }),
            Mood::ApproveThenDrop => (first, Behaviour::ApproveThenDrop),
            Mood::ErrorBefore => (first, failing()),
            Mood::ErrorAfter => {
                (first, Behaviour::ErrorAfter { status: 500, code: "FAILED_INTERNAL_SYSTEM_PROCESSING".to_owned() })
            }
            Mood::Conflict => (first, Behaviour::InProgressConflict),
            Mood::Garbage => (first, Behaviour::Garbage),
            Mood::Mismatch => (first, Behaviour::MismatchedAmount { amount: LESS }),
            Mood::TooMany => (first, Behaviour::TooManyRequests { retry_after_s: 1 }),
            Mood::SecondDeclines => (second, refusal(second)),
            Mood::SecondDrops => (second, Behaviour::ApproveThenDrop),
            Mood::SecondErrs => (second, failing()),
        };
        let rule = match operation {
            Operation::Confirm => Rule::confirm(behaviour),
            Operation::Cancel => Rule::cancel(behaviour),
            Operation::Transactions => Rule::transactions(behaviour),
            Operation::Lookup | Operation::Any => Rule::lookup(behaviour),
        };
        shop.mock.script(rule);
    }

    /// Takes the step as the world does: a request over HTTP, or a round of the worker. Resolves when there is an
    /// answer, or none can come any more.
    pub fn ask(self, world: &World, scene: &Scene) -> JoinHandle<()> {
        let (shop, key) = (&world.shop, scene.idempotency_key.clone());
        match self {
            Self::Order => sent(&shop.publishable, "/v1/orders", &scene.basket(), Some(&key)),
            Self::OrdersTogether => {
                let order = |key: String| {
                    let request = shop.publishable.raw(Method::POST, "/v1/orders").json(&scene.basket());
                    let request = request.header("Idempotency-Key", key);
                    async move { request.send().await.is_ok() }.boxed()
                };
                let crowd = crowd(world, scene, scene.keys().map(order));
                tokio::spawn(async move {
                    crowd.await;
                })
            }
            Self::Confirm => {
                let order = scene.order();
                sent(&order.buyer, "/v1/payments/confirm", &confirm_body(order, &scene.key), None)
            }
            Self::CancelPart | Self::CancelAll => {
                sent(&shop.secret, &scene.cancel_path(), &self.cancel_body(), Some(&key))
            }
            Self::CancelOrder => {
                sent(&scene.order().buyer, &scene.cancel_order_path(), &json!({ "reason": "no" }), Some(&key))
            }
            Self::WebhookReceive => {
                let (base, body) = (shop.base.clone(), scene.webhook.clone());
                tokio::spawn(async move { drop(deliver(&base, &body).await) })
            }
            Self::WebhookDeposit
            | Self::WebhookCanceled
            | Self::Expire
            | Self::RecoverConfirm
            | Self::RecoverApproval
            | Self::RecoverCancel
            | Self::RecoverCanceled
            | Self::ReconcileCancel
            | Self::ReconcileApproval => {
                let called = self.call(world, scene);
                tokio::spawn(async move { drop(called.await) })
            }
        }
    }

    /// Takes the step by calling it, so that its future can be dropped; says whether the caller has a final answer.
    pub fn call(self, world: &World, scene: &Scene) -> JoinHandle<bool> {
        let app = world.app();
        let origin = Origin { actor: "test".to_owned(), trace_id: None };
        match self {
            Self::Order => {
                let lines = vec![(scene.product.parse().expect("a product's id"), 1)];
                let (place, scope) = (order::Place { lines, customer_ref: None }, scene.scope("orders.place"));
                world.spawn(async move { order::place(&app, place, scope, origin).await.is_ok() })
            }
            Self::OrdersTogether => {
                let order = |key: String| {
                    let (app, origin) = (Arc::clone(&app), origin.clone());
                    let lines = vec![(scene.product.parse().expect("a product's id"), 1)];
                    let scope = Scope { key, ..scene.scope("orders.place") };
                    let place = order::Place { lines, customer_ref: None };
                    async move { order::place(&app, place, scope, origin).await.is_ok() }.boxed()
                };
                world.spawn(crowd(world, scene, scene.keys().map(order)))
            }
            Self::Confirm => {
                let (request, scope) = (scene.confirm(), scene.scope("payments.confirm"));
                world.spawn(async move {
                    matches!(confirm::confirm(&app, request, scope, origin).await, Ok(Confirmed::Answered { .. }))
                })
            }
            Self::CancelPart | Self::CancelAll => {
                let (request, scope) = (scene.cancel(self), scene.scope("payments.cancel"));
                world.spawn(async move {
                    matches!(cancel::cancel(&app, request, scope, origin).await, Ok(Canceled::Answered { .. }))
                })
            }
            Self::CancelOrder => {
                let (request, scope) = (scene.cancel_order(), scene.scope("orders.cancel"));
                world.spawn(async move {
                    let canceled = cancel_order::cancel_order(&app, request, scope, origin).await;
                    matches!(canceled, Ok(OrderCanceled::Now { is_decided: true, .. }))
                })
            }
            Self::WebhookReceive => {
                let body = scene.webhook.to_string().into_bytes();
                world.spawn(async move { webhook::receive(&app, body, None, None).await.is_ok() })
            }
            Self::WebhookDeposit | Self::WebhookCanceled => {
                world.spawn(async move { webhook::apply_batch(&app).await.is_ok() })
            }
            Self::Expire => world.spawn(async move { expire::expire_batch(&app, None).await.is_ok() }),
            Self::RecoverConfirm | Self::RecoverApproval | Self::RecoverCancel | Self::RecoverCanceled => {
                world.spawn(async move { recovery::recover_batch(&app).await.is_ok() })
            }
            Self::ReconcileCancel | Self::ReconcileApproval => world.spawn(async move {
                let (from, until) = (Utc::now() - TimeDelta::hours(1), Utc::now() + TimeDelta::seconds(5));
                let run = reconcile::run(&app, Span::Between { from, until }, &origin).await;
                run.is_ok_and(|report| report.outcome == ReconcileOutcome::Complete)
            }),
        }
    }

    /// How a client asks again after its first call was dropped: a step of the worker has its own client over HTTP.
    pub fn asked(self) -> Asked {
        match self {
            Self::Order
            | Self::OrdersTogether
            | Self::Confirm
            | Self::CancelPart
            | Self::CancelAll
            | Self::CancelOrder => Asked::ByCall,
            Self::WebhookReceive
            | Self::WebhookDeposit
            | Self::WebhookCanceled
            | Self::Expire
            | Self::RecoverConfirm
            | Self::RecoverApproval
            | Self::RecoverCancel
            | Self::RecoverCanceled => Asked::OverHttp,
            Self::ReconcileCancel | Self::ReconcileApproval => Asked::ByTimer,
        }
    }

    /// The client, which may have got no answer, asks again with the same key until it has a final one.
    pub async fn repeat(self, world: &World, scene: &Scene, by: Asked) {
        let shop = &world.shop;
        if by == Asked::ByCall || self.asked() == Asked::ByTimer {
            eventually("a final answer", PATIENCE, async || {
                let is_final = self.call(world, scene).await.expect("a call that ends");
                if !is_final {
                    world.work().await;
                }
                is_final.then_some(())
            })
            .await;
            return;
        }
        match self {
            Self::Order => {
                let answer = final_answer(world, async || {
                    shop.publishable.post_as("/v1/orders", &scene.basket(), &scene.idempotency_key).await
                });
                answer.await.expect(StatusCode::CREATED);
            }
            Self::OrdersTogether => {
                for key in scene.keys() {
                    let answer = final_answer(world, async || {
                        shop.publishable.post_as("/v1/orders", &scene.basket(), &key).await
                    });
                    answer.await.expect(StatusCode::CREATED);
                }
            }
            Self::Confirm | Self::RecoverConfirm | Self::RecoverApproval => {
                let buyer = Client::new(&shop.base, scene.order().buyer.token());
                let body = confirm_body(scene.order(), &scene.key);
                final_answer(world, async || buyer.post("/v1/payments/confirm", &body).await).await;
            }
            Self::CancelPart
            | Self::CancelAll
            | Self::RecoverCancel
            | Self::RecoverCanceled
            | Self::WebhookCanceled => {
                let (path, body) = (scene.cancel_path(), self.cancel_body());
                final_answer(world, async || shop.secret.post_as(&path, &body, &scene.idempotency_key).await).await;
            }
            Self::CancelOrder => {
                let buyer = Client::new(&shop.base, scene.order().buyer.token());
                let (path, body) = (scene.cancel_order_path(), json!({ "reason": "no" }));
                final_answer(world, async || buyer.post_as(&path, &body, &scene.idempotency_key).await).await;
            }
            Self::WebhookReceive => drop(deliver(&shop.base, &scene.webhook).await.expect("an answer")),
            Self::WebhookDeposit | Self::Expire | Self::ReconcileCancel | Self::ReconcileApproval => {}
        }
    }

    /// Whether the point is reached by a task that is nobody's request, so that no request can take it along.
    pub fn is_nobodys(point: CrashPoint) -> bool {
        let tx = Tx::OrderPlaceTogether;
        [CrashPoint::Uncommitted(tx), CrashPoint::Committed(tx)].contains(&point)
    }

    /// Whether the PG gave back another amount than it was asked for. Nobody can decide that but a person: the
    /// cancellation stays open.
    pub fn waits_for_a_person(self, shop: &Shop, mood: Mood, scene: &Scene) -> bool {
        let cancels = matches!(self, Self::CancelPart | Self::CancelAll);
        cancels && mood == Mood::Mismatch && shop.mock.book().canceled(&scene.order().id) == LESS
    }

    /// Where it must end, besides the invariants.
    pub async fn check(self, shop: &Shop, mood: Mood, scene: &Scene) {
        let product = scene.product.trim_start_matches("prod_");
        let orders = format!("select count(*) from order_items where product_id = '{product}'");
        let orders = shop.count(&orders).await;
        let wanted = if self == Self::OrdersTogether { 3 } else { 1 };
        assert_eq!(orders, wanted, "each order once, however often it was asked for");
        let available = async || shop.available(&scene.product).await;
        let Some(order) = &scene.order else {
            return assert_eq!(available().await, 5 - wanted);
        };
        let book = shop.mock.book();
        let (approved, canceled) = (book.approved(&order.id), book.canceled(&order.id));
        let approvals: usize = book.of_order(&order.id).map(|payment| payment.approvals.len()).sum();
        assert!(approvals <= 1, "the buyer paid {approvals} times");
        match self {
            Self::Order | Self::OrdersTogether => {}
            Self::CancelOrder => {
                shop.order_becomes(&order.id, "canceled").await;
                assert_eq!(available().await, 5);
            }
            Self::Expire => {
                shop.order_becomes(&order.id, "expired").await;
                assert_eq!(available().await, 5);
            }
            Self::Confirm | Self::RecoverConfirm | Self::RecoverApproval => {
                let refused = matches!(mood, Mood::Decline | Mood::SecondDeclines | Mood::Mismatch);
                assert!(refused || approved - canceled == PRICE, "{approved} taken, {canceled} returned");
                if approved - canceled == PRICE {
                    shop.order_becomes(&order.id, "paid").await;
                }
            }
            Self::WebhookReceive | Self::WebhookDeposit | Self::ReconcileApproval => {
                drop(shop.order_becomes(&order.id, "paid").await);
            }
            Self::ReconcileCancel => drop(shop.order_becomes(&order.id, "partially_canceled").await),
            Self::CancelPart
            | Self::CancelAll
            | Self::RecoverCancel
            | Self::RecoverCanceled
            | Self::WebhookCanceled => {
                let refused = matches!(mood, Mood::Decline | Mood::SecondDeclines) && canceled == 0;
                let asked = if self == Self::CancelAll { PRICE } else { PART };
                let settled = refused || self.waits_for_a_person(shop, mood, scene);
                assert!(settled || canceled == asked, "{canceled} of {asked} returned");
                let back = if canceled == PRICE { 5 } else { 4 };
                assert_eq!(available().await, back, "units");
            }
        }
    }

    fn cancel_body(self) -> Value {
        if self == Self::CancelAll { json!({ "reason": "all of it" }) } else { part() }
    }
}

/// How a step was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    OverHttp,
    ByCall,
    /// Nobody waits for an answer; its own timer calls again.
    ByTimer,
}

/// What the PG says when it refuses for good.
fn refusal(operation: Operation) -> Behaviour {
    let code = match operation {
        Operation::Confirm => "REJECT_CARD_COMPANY",
        Operation::Cancel => "NOT_CANCELABLE_PAYMENT",
        Operation::Transactions => "FORBIDDEN_REQUEST",
        Operation::Lookup | Operation::Any => "NOT_FOUND_PAYMENT",
    };
    Behaviour::Decline { code: code.to_owned() }
}

/// Sends a request; whether an answer comes is nobody's business.
fn sent(client: &Client, path: &str, body: &Value, key: Option<&str>) -> JoinHandle<()> {
    let mut request = client.raw(Method::POST, path).json(body);
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    tokio::spawn(async move { drop(request.send().await) })
}

async fn deliver(base: &str, body: &Value) -> reqwest::Result<reqwest::Response> {
    http().post(format!("{base}/v1/webhooks/toss")).json(body).send().await
}

/// Asks until the answer is one that stays.
async fn final_answer(world: &World, mut ask: impl AsyncFnMut() -> Answer) -> Answer {
    eventually("a final answer", PATIENCE, async || {
        let answer = ask().await;
        let code = answer.body["code"].as_str().unwrap_or_default();
        let again = answer.status == StatusCode::ACCEPTED
            || answer.status.is_server_error()
            || matches!(code, "idempotency_key_in_flight" | "payment_in_flight" | "cancellation_in_progress");
        if again {
            world.work().await;
        }
        (!again).then_some(answer)
    })
    .await
}
