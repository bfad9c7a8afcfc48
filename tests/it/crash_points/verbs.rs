//! What can be under way when a crash comes: how a shop gets there, and where it must end.

use paygauge::crash::CrashPoint;
use paygauge::telemetry::labels::Tx;
use pg_mock::{Behaviour, Rule};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::asked::deliver;
use super::cell::World;
use super::moods::Mood;
use super::scene::{PART, PRICE, Scene, part};
use crate::support::shop::{Shop, http};

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

    /// Whether the point is reached by a task that is nobody's request, so that no request can take it along.
    pub fn is_nobodys(point: CrashPoint) -> bool {
        let tx = Tx::OrderPlaceTogether;
        [CrashPoint::Uncommitted(tx), CrashPoint::Committed(tx)].contains(&point)
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
}
