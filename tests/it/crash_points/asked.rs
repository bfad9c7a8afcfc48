//! How a step is asked for, and asked for again by who has heard no answer.

use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use futures_util::FutureExt as _;
use paygauge::db::events::Origin;
use paygauge::db::idempotency::Scope;
use paygauge::payments::cancel::Canceled;
use paygauge::payments::cancel_order::OrderCanceled;
use paygauge::payments::confirm::Confirmed;
use paygauge::payments::reconcile::{self, Span};
use paygauge::payments::{cancel, cancel_order, confirm, expire, order, recovery, webhook};
use paygauge::telemetry::labels::ReconcileOutcome;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::cell::World;
use super::scene::{Scene, crowd, part};
use super::verbs::Verb;
use crate::support::eventually;
use crate::support::shop::{Answer, Client, PATIENCE, confirm_body, http};

/// How a step was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    OverHttp,
    ByCall,
    /// Nobody waits for an answer; its own timer calls again.
    ByTimer,
}

impl Verb {
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

    fn cancel_body(self) -> Value {
        if self == Self::CancelAll { json!({ "reason": "all of it" }) } else { part() }
    }
}

/// Sends a request; whether an answer comes is nobody's business.
fn sent(client: &Client, path: &str, body: &Value, key: Option<&str>) -> JoinHandle<()> {
    let mut request = client.raw(Method::POST, path).json(body);
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    tokio::spawn(async move { drop(request.send().await) })
}

/// Sends the notice.
pub async fn deliver(base: &str, body: &Value) -> reqwest::Result<reqwest::Response> {
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
