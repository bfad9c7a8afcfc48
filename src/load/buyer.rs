//! What a buyer does in one turn, and what was told to it: the proof holds every word of it against the books.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::client::{Client, Said};
use super::options::{Scenario, Shares};
use super::recorder::{Outcome, Recorder, Sample, Step};

/// Won, of every product.
pub const PRICE: i64 = 12_000;
/// Examples of answers that nobody should see, kept for the report.
const EXAMPLES_MAX: usize = 5;

/// What was said about one order.
#[derive(Debug, Clone)]
pub struct Told {
    /// The order.
    pub order: String,
    /// Its product.
    pub product: String,
    /// The payment key that the buyer has of the PG.
    pub payment_key: Option<String>,
    /// Its payment.
    pub payment: Option<String>,
    /// The last that was certain.
    pub state: ToldState,
}

/// The last certain word about an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToldState {
    /// Placed.
    Placed,
    /// A confirm was asked for, and its answer was not certain or did not come.
    Asked,
    /// Paid.
    Paid,
    /// Declined.
    Declined,
    /// A cancel was asked for, and its answer was not certain or did not come.
    CancelAsked,
    /// Canceled.
    Canceled,
}

/// Everybody's memory.
#[derive(Default)]
pub struct Ledger {
    told: Mutex<Vec<Told>>,
    /// Orders that were asked for and never answered: they may exist.
    unanswered_orders: AtomicU64,
    examples: Mutex<Vec<String>>,
}

impl Ledger {
    fn keep(&self, told: Told) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).push(told);
    }

    /// All that was told.
    pub fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Orders that may exist although nobody was told.
    pub fn unanswered_orders(&self) -> u64 {
        self.unanswered_orders.load(Ordering::Relaxed)
    }

    /// The first answers that nobody should see.
    pub fn examples(&self) -> Vec<String> {
        self.examples.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn odd(&self, step: Step, text: &str) {
        let mut examples = self.examples.lock().unwrap_or_else(PoisonError::into_inner);
        if examples.len() < EXAMPLES_MAX {
            examples.push(format!("{step}: {text}"));
        }
    }
}

/// An order that was paid before the run, to be repeated or notified about.
#[derive(Debug, Clone)]
pub struct Prepared {
    order_key: String,
    order_body: Value,
    confirm_body: Value,
    notice: Value,
}

/// All buyers; they differ in nothing but luck.
pub struct Buyers {
    /// The product's API.
    pub api: Client,
    /// pg-mock's `/mock/…`.
    pub mock: Client,
    /// What they do.
    pub scenario: Scenario,
    /// What goes wrong.
    pub shares: Shares,
    /// How long a hanging PG hangs.
    pub hang: Duration,
    /// What they buy.
    pub products: Vec<String>,
    /// Units of each at the beginning.
    pub stock: u32,
    /// What was paid before the run.
    pub prepared: Vec<Prepared>,
    /// Where it is measured.
    pub recorder: Arc<Recorder>,
    /// What they were told.
    pub ledger: Ledger,
}

/// A turn under way: when its next step is taken to begin, and what the buyer spent in the PG's window.
struct Turn {
    since: Instant,
    in_window: Duration,
}

/// Why a turn ended early: the outcome of the step that ended it.
struct Ended(Outcome);

impl Buyers {
    /// One turn that was to begin at `intended`.
    pub async fn turn(&self, intended: Instant) {
        let mut turn = Turn { since: intended, in_window: Duration::ZERO };
        let ended = match self.scenario {
            Scenario::Order => self.order(&mut turn).await.map(|told| self.ledger.keep(told)),
            Scenario::OrderConfirm | Scenario::FlashSale => self.buy(&mut turn, false, None).await,
            Scenario::Flow => self.buy(&mut turn, true, None).await,
            Scenario::Mixed => {
                let cancels = rand::random();
                self.buy(&mut turn, cancels, self.mishap()).await
            }
            Scenario::Browse => self.browse(&mut turn).await,
            Scenario::Replay => self.replay(&mut turn).await,
            Scenario::Webhooks => self.notify(&mut turn).await,
        };
        let outcome = ended.map_or_else(|Ended(outcome)| outcome, |()| Outcome::Ok);
        let latency = intended.elapsed().saturating_sub(turn.in_window);
        self.recorder.record(&Sample { step: Step::Whole, outcome, latency, pg: Duration::ZERO });
    }

    /// A turn that was not begun.
    pub fn overflow(&self) {
        let (step, outcome, none) = (Step::Whole, Outcome::Overflow, Duration::ZERO);
        self.recorder.record(&Sample { step, outcome, latency: none, pg: none });
    }

    /// Pays for `count` orders before the run, each for a scenario that repeats or notifies.
    ///
    /// # Errors
    /// When one of them is not paid.
    pub async fn prepare(&mut self, count: u32) -> anyhow::Result<()> {
        for _ in 0..count {
            let product = self.product()?;
            let order_body = order_body(&product);
            let order_key = Uuid::new_v4().to_string();
            let order = self.api.post("/v1/orders", &order_body, Some(&order_key)).await;
            anyhow::ensure!(order.outcome == Outcome::Ok, "an order to begin with: {}", order.text);
            let window = json!({ "orderId": order.fields.id, "amount": order.fields.amount });
            let window = self.mock.post("/mock/payments", &window, None).await;
            anyhow::ensure!(window.outcome == Outcome::Ok, "pg-mock's window: {}", window.text);
            let key = window.fields.payment_key;
            let confirm_body = json!({ "paymentKey": key, "orderId": order.fields.id, "amount": order.fields.amount });
            let paid = self.api.post("/v1/payments/confirm", &confirm_body, None).await;
            anyhow::ensure!(paid.outcome == Outcome::Ok, "a payment to begin with: {}", paid.text);
            let data = json!({ "paymentKey": key, "orderId": order.fields.id, "status": "DONE" });
            let notice = json!({ "eventType": "PAYMENT_STATUS_CHANGED", "createdAt": "2026-11-21T10:00:00.000000", "data": data });
            self.ledger.keep(Told {
                order: order.fields.id,
                product,
                payment_key: Some(key),
                payment: Some(paid.fields.id),
                state: ToldState::Paid,
            });
            self.prepared.push(Prepared { order_key, order_body, confirm_body, notice });
        }
        Ok(())
    }

    fn product(&self) -> anyhow::Result<String> {
        any(&self.products).cloned().ok_or_else(|| anyhow::anyhow!("there is no product to buy"))
    }

    /// What goes wrong with the next confirm, as pg-mock's script says it.
    fn mishap(&self) -> Option<Value> {
        let luck = rand::random_range(0.0..100.0);
        let Shares { declines, timeouts, unknowns } = self.shares;
        if luck < declines {
            Some(json!({ "decline": { "code": "REJECT_CARD_COMPANY" } }))
        } else if luck < declines + timeouts {
            Some(json!({ "approve_then_hang": { "ms": u64::try_from(self.hang.as_millis()).unwrap_or(u64::MAX) } }))
        } else if luck < declines + timeouts + unknowns {
            Some(json!("approve_then_drop"))
        } else {
            None
        }
    }

    async fn order(&self, turn: &mut Turn) -> Result<Told, Ended> {
        let product = self.product().map_err(|_| Ended(Outcome::Error))?;
        let key = Uuid::new_v4().to_string();
        let said = self.api.post("/v1/orders", &order_body(&product), Some(&key)).await;
        if said.outcome == Outcome::Transport {
            self.ledger.unanswered_orders.fetch_add(1, Ordering::Relaxed);
        }
        let said = self.step(turn, Step::Order, said)?;
        let order = said.fields.id;
        Ok(Told { order, product, payment_key: None, payment: None, state: ToldState::Placed })
    }

    async fn buy(&self, turn: &mut Turn, cancels: bool, mishap: Option<Value>) -> Result<(), Ended> {
        let mut told = self.order(turn).await?;
        let ended = self.pay(turn, &mut told, mishap).await;
        let ended = if ended.is_ok() && cancels { self.cancel(turn, &mut told).await } else { ended };
        self.ledger.keep(told);
        ended
    }

    async fn pay(&self, turn: &mut Turn, told: &mut Told, mishap: Option<Value>) -> Result<(), Ended> {
        let body = json!({ "orderId": told.order, "amount": PRICE });
        if let Some(behaviour) = mishap {
            let rule = json!({ "operation": "confirm", "orderId": told.order, "behaviour": behaviour });
            let begun = Instant::now();
            let said = self.mock.post("/mock/script", &json!([rule]), None).await;
            turn.in_window += begun.elapsed();
            turn.since = Instant::now();
            // The answer is a list of rules, which is read as no fields.
            if said.outcome == Outcome::Transport {
                return Err(Ended(Outcome::Transport));
            }
        }
        let said = self.mock.post("/mock/payments", &body, None).await;
        turn.in_window += turn.since.elapsed();
        let window = self.step(turn, Step::Window, said)?;
        let key = window.fields.payment_key;
        let body = json!({ "paymentKey": key, "orderId": told.order, "amount": PRICE });
        told.payment_key = Some(key);
        let said = self.api.post("/v1/payments/confirm", &body, None).await;
        told.state = match said.outcome {
            Outcome::Ok => ToldState::Paid,
            Outcome::Declined => ToldState::Declined,
            Outcome::Shed => told.state,
            Outcome::Unknown | Outcome::Rejected | Outcome::Error | Outcome::Transport | Outcome::Overflow => {
                ToldState::Asked
            }
        };
        let said = self.step(turn, Step::Confirm, said)?;
        told.payment = Some(said.fields.id);
        Ok(())
    }

    async fn cancel(&self, turn: &mut Turn, told: &mut Told) -> Result<(), Ended> {
        let path = format!("/v1/payments/{}/cancel", told.payment.as_deref().unwrap_or_default());
        let key = Uuid::new_v4().to_string();
        let said = self.api.post(&path, &json!({ "reason": "changed my mind" }), Some(&key)).await;
        told.state = match said.outcome {
            Outcome::Ok => ToldState::Canceled,
            Outcome::Shed => told.state,
            Outcome::Unknown
            | Outcome::Declined
            | Outcome::Rejected
            | Outcome::Error
            | Outcome::Transport
            | Outcome::Overflow => ToldState::CancelAsked,
        };
        self.step(turn, Step::Cancel, said).map(|_| ())
    }

    async fn browse(&self, turn: &mut Turn) -> Result<(), Ended> {
        let said = self.api.get("/v1/products?limit=20").await;
        self.step(turn, Step::List, said)?;
        let product = self.product().map_err(|_| Ended(Outcome::Error))?;
        let said = self.api.get(&format!("/v1/products/{product}")).await;
        self.step(turn, Step::Product, said).map(|_| ())
    }

    async fn replay(&self, turn: &mut Turn) -> Result<(), Ended> {
        let prepared = any(&self.prepared).ok_or(Ended(Outcome::Error))?;
        let said = self.api.post("/v1/orders", &prepared.order_body, Some(&prepared.order_key)).await;
        self.step(turn, Step::ReplayOrder, from_memory(said))?;
        let said = self.api.post("/v1/payments/confirm", &prepared.confirm_body, None).await;
        self.step(turn, Step::ReplayConfirm, from_memory(said)).map(|_| ())
    }

    async fn notify(&self, turn: &mut Turn) -> Result<(), Ended> {
        let prepared = any(&self.prepared).ok_or(Ended(Outcome::Error))?;
        let id = Uuid::new_v4().to_string();
        let said = self.api.deliver(prepared.notice.clone(), &id).await;
        self.step(turn, Step::Webhook, said)?;
        let said = self.api.deliver(prepared.notice.clone(), &id).await;
        self.step(turn, Step::WebhookAgain, said).map(|_| ())
    }

    /// Records a step that is over, and lets the turn go on only if it was done.
    fn step(&self, turn: &mut Turn, step: Step, said: Said) -> Result<Said, Ended> {
        let now = Instant::now();
        let latency = now.duration_since(turn.since);
        turn.since = now;
        self.recorder.record(&Sample { step, outcome: said.outcome, latency, pg: said.pg });
        match said.outcome {
            Outcome::Ok => Ok(said),
            Outcome::Error | Outcome::Transport => {
                self.ledger.odd(step, &said.text);
                Err(Ended(said.outcome))
            }
            Outcome::Declined | Outcome::Rejected | Outcome::Unknown | Outcome::Shed | Outcome::Overflow => {
                Err(Ended(said.outcome))
            }
        }
    }
}

/// A repeat that is done anew instead of from memory is wrong, however well it ends.
fn from_memory(mut said: Said) -> Said {
    if said.outcome == Outcome::Ok && !said.replayed {
        said.outcome = Outcome::Error;
        said.text = "a repeat was not answered from memory".to_owned();
    }
    said
}

fn order_body(product: &str) -> Value {
    json!({ "lines": [{ "productId": product, "quantity": 1 }] })
}

/// One of them, by luck.
fn any<T>(all: &[T]) -> Option<&T> {
    if all.is_empty() { None } else { all.get(rand::random_range(0..all.len())) }
}
