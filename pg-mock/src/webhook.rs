//! Webhooks out: what the PG tells the shop on its own.
//!
//! [`crate::gateway`] tells of every change; a background task sends, from a bounded queue, and
//! retries until the answer is exactly 200. How it goes wrong is a [`WebhookMode`]. Nothing is sent
//! for `READY` and `IN_PROGRESS`. Deliveries still waiting are lost when the process ends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::sleep;
use uuid::Uuid;

use crate::Options;
use crate::book::WebhookCounts;
use crate::payment::{Method, Payment, Status};
use crate::toss::{KST, wire};

const QUEUE_LENGTH: usize = 4_096;
const DELIVERIES_AT_ONCE: usize = 1_024;
/// An incomplete batch of [`WebhookMode::Reorder`] is sent after this long.
const REORDER_PATIENCE: Duration = Duration::from_secs(3);

/// How webhooks go out. In JSON `"off"`, or `{"delay": {"ms": 500}}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum WebhookMode {
    /// Shortly after the change ([`Options::webhook_latency`]).
    #[default]
    Normal,
    /// Not at all.
    Off,
    /// Each one several times at once.
    Duplicate {
        /// Deliveries of each webhook.
        times: u32,
        /// Whether each copy has its own transmission id.
        #[serde(default)]
        fresh_ids: bool,
    },
    /// Late.
    Delay {
        /// Milliseconds.
        ms: u64,
    },
    /// Held until there are `batch` of them, then sent one by one, newest first. An incomplete batch
    /// goes out when the mode changes, or after 3 s.
    Reorder {
        /// Webhooks per batch.
        batch: usize,
    },
    /// At once, while the answer of the call that caused it is held back.
    BeforeResponse {
        /// Milliseconds the answer is held back.
        hold_ms: u64,
    },
}

/// The gateway's end of the queue, and the settings both ends share.
#[derive(Clone)]
pub(crate) struct Webhooks {
    queue: mpsc::Sender<Delivery>,
    shared: Arc<Shared>,
}

struct Shared {
    options: Options,
    settings: Mutex<Settings>,
    counts: Mutex<WebhookCounts>,
    mode_changed: Notify,
}

struct Settings {
    url: Option<String>,
    mode: WebhookMode,
}

#[derive(Clone)]
struct Delivery {
    body: String,
    transmission_id: String,
    mode: WebhookMode,
}

impl Webhooks {
    /// The sending half for the gateway and the task's half, to be run by [`Sender::run`].
    pub fn new(options: Options) -> (Webhooks, Sender) {
        let (queue, waiting) = mpsc::channel(QUEUE_LENGTH);
        let settings = Settings { url: options.webhook_url.clone(), mode: WebhookMode::Normal };
        let shared = Arc::new(Shared {
            options,
            settings: Mutex::new(settings),
            counts: Mutex::new(WebhookCounts::default()),
            mode_changed: Notify::new(),
        });
        let sender = Sender { waiting, shared: Arc::clone(&shared) };
        (Webhooks { queue, shared }, sender)
    }

    pub fn set_url(&self, url: Option<String>) {
        self.shared.settings().url = url;
    }

    pub fn set_mode(&self, mode: WebhookMode) {
        self.shared.settings().mode = mode;
        self.shared.mode_changed.notify_one();
    }

    pub fn counts(&self) -> WebhookCounts {
        *self.shared.counts()
    }

    /// How long an answer is to be held back so that its webhook comes first.
    pub fn hold_answer(&self) -> Option<Duration> {
        match self.shared.settings().mode {
            WebhookMode::BeforeResponse { hold_ms } => Some(Duration::from_millis(hold_ms)),
            WebhookMode::Normal
            | WebhookMode::Off
            | WebhookMode::Duplicate { .. }
            | WebhookMode::Delay { .. }
            | WebhookMode::Reorder { .. } => None,
        }
    }

    /// Queues what a change to this payment makes the PG send. Says whether anything was queued.
    pub fn tell(&self, payment: &Payment) -> bool {
        let settings = self.shared.settings();
        if settings.url.is_none() || settings.mode == WebhookMode::Off {
            return false;
        }
        let mode = settings.mode;
        drop(settings);
        let now = Utc::now();
        let status = tells_status(payment.status).then(|| status_changed(payment, &self.shared.options, now));
        let deposit = tells_deposit(payment).then(|| deposit_callback(payment, now));
        let mut queued = false;
        for body in [status, deposit].into_iter().flatten() {
            let delivery = Delivery { body: body.to_string(), transmission_id: transmission_id(), mode };
            if self.queue.try_send(delivery).is_ok() {
                queued = true;
            } else {
                self.shared.counts().overflowed += 1;
            }
        }
        queued
    }
}

/// The body of a `PAYMENT_STATUS_CHANGED` for the payment as it is now.
pub(crate) fn status_changed(payment: &Payment, options: &Options, now: DateTime<Utc>) -> Value {
    json!({
        "eventType": "PAYMENT_STATUS_CHANGED",
        "createdAt": created_at(now),
        "data": wire::payment(payment, options, now),
    })
}

/// The body of a `DEPOSIT_CALLBACK` for the payment as it is now.
pub(crate) fn deposit_callback(payment: &Payment, now: DateTime<Utc>) -> Value {
    json!({
        "createdAt": created_at(now),
        "secret": payment.secret,
        "status": payment.status,
        "transactionKey": payment.last_transaction_key,
        "orderId": payment.order_id,
    })
}

fn tells_status(status: Status) -> bool {
    match status {
        Status::Done | Status::Aborted | Status::Expired | Status::Canceled | Status::PartialCanceled => true,
        Status::Ready | Status::InProgress | Status::WaitingForDeposit => false,
    }
}

fn tells_deposit(payment: &Payment) -> bool {
    payment.method == Method::VirtualAccount
        && match payment.status {
            Status::WaitingForDeposit | Status::Done | Status::Canceled | Status::PartialCanceled => true,
            Status::Ready | Status::InProgress | Status::Aborted | Status::Expired => false,
        }
}

/// Korean time without an offset, as documented for webhooks.
fn created_at(now: DateTime<Utc>) -> String {
    let local = now.with_timezone(&KST);
    local.format("%Y-%m-%dT%H:%M:%S%.6f").to_string()
}

fn transmission_id() -> String {
    format!("whtrans_{}", Uuid::new_v4().simple())
}

impl Shared {
    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counts(&self) -> MutexGuard<'_, WebhookCounts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The background half: takes deliveries from the queue and sees each through.
pub(crate) struct Sender {
    waiting: mpsc::Receiver<Delivery>,
    shared: Arc<Shared>,
}

impl Sender {
    /// Sends until the gateway is gone.
    pub async fn run(mut self, client: reqwest::Client) {
        let mut under_way = JoinSet::new();
        let mut held: Vec<Delivery> = Vec::new();
        let changed = Arc::clone(&self.shared);
        loop {
            tokio::select! {
                delivery = self.waiting.recv(), if under_way.len() < DELIVERIES_AT_ONCE => {
                    let Some(delivery) = delivery else { return };
                    self.begin(delivery, &mut held, &mut under_way, &client);
                }
                Some(_) = under_way.join_next(), if !under_way.is_empty() => {}
                () = changed.mode_changed.notified() => {
                    self.release(&mut held, &mut under_way, &client);
                }
                () = sleep(REORDER_PATIENCE), if !held.is_empty() => {
                    self.release(&mut held, &mut under_way, &client);
                }
            }
        }
    }

    fn begin(
        &self,
        delivery: Delivery,
        held: &mut Vec<Delivery>,
        under_way: &mut JoinSet<()>,
        client: &reqwest::Client,
    ) {
        let latency = self.shared.options.webhook_latency;
        match delivery.mode {
            WebhookMode::Normal | WebhookMode::Off => {
                self.send(vec![delivery], latency, under_way, client);
            }
            WebhookMode::Delay { ms } => {
                self.send(vec![delivery], Duration::from_millis(ms), under_way, client);
            }
            WebhookMode::BeforeResponse { .. } => {
                self.send(vec![delivery], Duration::ZERO, under_way, client);
            }
            WebhookMode::Duplicate { times, fresh_ids } => {
                for _ in 0..times {
                    let mut copy = delivery.clone();
                    if fresh_ids {
                        copy.transmission_id = transmission_id();
                    }
                    self.send(vec![copy], latency, under_way, client);
                }
            }
            WebhookMode::Reorder { batch } => {
                held.push(delivery);
                if held.len() >= batch {
                    self.release(held, under_way, client);
                }
            }
        }
    }

    /// Sends what was held, newest first, each after the one before it has been answered.
    fn release(&self, held: &mut Vec<Delivery>, under_way: &mut JoinSet<()>, client: &reqwest::Client) {
        let mut batch = std::mem::take(held);
        batch.reverse();
        self.send(batch, Duration::ZERO, under_way, client);
    }

    fn send(&self, batch: Vec<Delivery>, after: Duration, under_way: &mut JoinSet<()>, client: &reqwest::Client) {
        let (shared, client) = (Arc::clone(&self.shared), client.clone());
        under_way.spawn(async move {
            sleep(after).await;
            for delivery in batch {
                see_through(&shared, &client, &delivery).await;
            }
        });
    }
}

/// Delivers one webhook, retrying on the configured schedule.
async fn see_through(shared: &Shared, client: &reqwest::Client, delivery: &Delivery) {
    shared.counts().begun += 1;
    let pauses = &shared.options.webhook_retries;
    for (attempt, pause) in pauses.iter().map(Some).chain([None]).enumerate() {
        if attempt_once(shared, client, delivery, attempt).await {
            shared.counts().delivered += 1;
            return;
        }
        shared.counts().failed_attempts += 1;
        if let Some(pause) = pause {
            sleep(*pause).await;
        }
    }
    shared.counts().given_up += 1;
}

async fn attempt_once(shared: &Shared, client: &reqwest::Client, delivery: &Delivery, attempt: usize) -> bool {
    // Read afresh each time, so that a shop that moved still gets its webhooks.
    let Some(url) = shared.settings().url.clone() else {
        return false;
    };
    let answer = client
        .post(url)
        .timeout(shared.options.webhook_timeout)
        .header("content-type", "application/json")
        .header("tosspayments-webhook-transmission-time", wire::time(Utc::now()))
        .header("tosspayments-webhook-transmission-retried-count", attempt.to_string())
        .header("tosspayments-webhook-transmission-id", &delivery.transmission_id)
        .body(delivery.body.clone())
        .send()
        .await;
    answer.is_ok_and(|answer| answer.status().as_u16() == 200)
}
