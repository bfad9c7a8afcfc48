//! Webhooks: store first, answer 200, read later. A notice is a hint, never evidence: it makes us ask the PG, and a
//! forged one can cause one lookup, no more.

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::inquire::Look;
use super::resolve::ResolveError;
use super::{inquire, measure, recovery, told};
use crate::app::App;
use crate::clock;
use crate::db::events::Origin;
use crate::db::payments::PaymentRow;
use crate::db::webhooks::{self, DeliveryRow, NewDelivery};
use crate::db::{self, DbError};
use crate::domain::evidence::PaymentKey;
use crate::domain::ids::{DeliveryId, OrderId};
use crate::domain::payment::PaymentStatus;
use crate::provider::Notice;
use crate::telemetry::facts::{self, Fact};
use crate::telemetry::labels::{Operation, Tx, WebhookApplied, WebhookReceived};
use crate::telemetry::propagate::{self, Link};
use crate::telemetry::{Span, SpanKind, current_trace_id, ledger, record, traces};

/// Tries before a delivery whose inquiry keeps failing is left to recovery.
const TRIES_MAX: i32 = 10;

/// Stores a delivery; `false` if it is a duplicate.
pub async fn receive(
    app: &App,
    body: Vec<u8>,
    transmission_id: Option<String>,
    trace_id: Option<String>,
) -> Result<bool, DbError> {
    let dedupe_key = hex(&Sha256::digest(&body));
    let provider = app.provider.name();
    let delivery =
        NewDelivery { id: DeliveryId::new(), provider, dedupe_key, transmission_id, payload: body, trace_id };
    let stored = app.db.transaction(Tx::WebhookReceive, async |conn| webhooks::store(conn, delivery).await).await?;
    let outcome = if stored { WebhookReceived::Stored } else { WebhookReceived::Duplicate };
    record::webhook_received(app.provider.label(), outcome);
    record::webhook_seen(app.provider.label(), clock::now());
    if stored {
        app.nudges.webhooks.notify_one();
    }
    Ok(stored)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// Reads one batch of the inbox; returns how many deliveries.
pub async fn apply_batch(app: &App) -> Result<usize, DbError> {
    // Reading a delivery asks the PG once.
    let lease = app.settings.provider_deadline + app.settings.recovery_grace;
    let rows = recovery::inquiries_now(app);
    if rows == 0 {
        return Ok(0);
    }
    let due = app.db.transaction(Tx::Lease, async |conn| webhooks::lease_due(conn, lease, rows).await).await?;
    let count = due.len();
    let applied = due.iter().map(|delivery| {
        let item = Box::pin(apply_one(app, delivery));
        let item = measure::measured_item(app, Operation::WebhookApply, &delivery.id, measure::webhook_read, item);
        Span::root(SpanKind::Internal, "apply webhook").scope(item)
    });
    futures_util::future::join_all(applied).await;
    Ok(count)
}

async fn apply_one(app: &App, delivery: &DeliveryRow) -> Result<WebhookApplied, ResolveError> {
    propagate::link(delivery.trace_id.as_deref(), Link::Webhook);
    let origin = Origin { actor: "webhook".to_owned(), trace_id: current_trace_id() };
    facts::tell(Fact::Delivery(delivery.id));
    let outcome = match read(app, app.provider.read_webhook(&delivery.payload)).await? {
        Reading::Ask(payment) => match ask(app, &payment, &origin).await {
            Err(error) if delivery.attempts >= TRIES_MAX => {
                tracing::error!(delivery_id = %delivery.id, %error, "a webhook is given up; ask about its payment by hand");
                WebhookApplied::Deferred
            }
            asked => asked?,
        },
        Reading::Done(outcome) => outcome,
    };
    let id = delivery.id;
    app.db
        .transaction(Tx::WebhookApply, async |conn| {
            if outcome == WebhookApplied::Deferred && delivery.attempts < TRIES_MAX {
                webhooks::postpone(conn, id, recovery::wait(delivery.attempts)).await
            } else {
                webhooks::finish(conn, id, outcome.as_str()).await
            }
        })
        .await?;
    record::webhook_applied(app.provider.label(), outcome);
    if outcome != WebhookApplied::Deferred {
        let delay = (clock::now() - delivery.received_at).to_std().unwrap_or_default();
        record::webhook_delay(app.provider.label(), delay);
    }
    facts::tell(Fact::Webhook(outcome));
    Ok(outcome)
}

enum Reading {
    Ask(Box<PaymentRow>),
    Done(WebhookApplied),
}

/// Finds the payment that a notice is about, and checks what can be checked.
async fn read(app: &App, notice: Notice) -> Result<Reading, DbError> {
    match notice {
        Notice::Irrelevant { .. } => Ok(Reading::Done(WebhookApplied::Irrelevant)),
        Notice::Undecodable => Ok(Reading::Done(WebhookApplied::Undecodable)),
        Notice::Payment { payment_key, order_id, .. } => {
            let payment = find(app, payment_key.as_ref(), order_id.as_deref()).await?;
            Ok(payment.map_or(Reading::Done(WebhookApplied::UnknownPayment), |row| Reading::Ask(Box::new(row))))
        }
        Notice::Deposit { order_id, secret, .. } => {
            let Some(payment) = find(app, None, Some(&order_id)).await? else {
                return Ok(Reading::Done(WebhookApplied::UnknownPayment));
            };
            if is_its_secret(&payment, &secret) {
                return Ok(Reading::Ask(Box::new(payment)));
            }
            record::rejection(crate::telemetry::labels::RejectionReason::BadSignature);
            Ok(Reading::Done(WebhookApplied::SecretMismatch))
        }
    }
}

async fn find(app: &App, key: Option<&PaymentKey>, order: Option<&str>) -> Result<Option<PaymentRow>, DbError> {
    let provider = app.provider.name();
    let order: Option<OrderId> = order.and_then(|text| text.parse().ok());
    app.db
        .read(async |conn| {
            if let Some(key) = key {
                return db::payments::find_by_key(conn, provider, key).await;
            }
            let Some(order) = order else { return Ok(None) };
            let rows = db::payments::of_order(conn, order).await?;
            let live = rows.iter().find(|row| row.status.is_live()).or_else(|| rows.first());
            Ok(live.cloned())
        })
        .await
}

/// A deposit notice must show the secret that the PG gave with the account. A payment whose secret is not known yet
/// (the confirm's answer was lost) is only asked about.
fn is_its_secret(payment: &PaymentRow, shown: &SecretString) -> bool {
    match &payment.provider_secret {
        Some(own) => own.as_bytes().ct_eq(shown.expose_secret().as_bytes()).into(),
        None => payment.status == PaymentStatus::Confirming,
    }
}

async fn ask(app: &App, payment: &PaymentRow, origin: &Origin) -> Result<WebhookApplied, ResolveError> {
    ledger::paid_by(payment.method);
    traces::about_order(&payment.order_id);
    traces::about_payment(&payment.id);
    propagate::link(payment.trace_id.as_deref(), Link::Confirm);
    told::payment(payment);
    Ok(match inquire::look(app, payment, origin).await? {
        Look::Unclear | Look::NotFound | Look::TooOld => WebhookApplied::Deferred,
        Look::Applied { changed: true, .. } => WebhookApplied::Changed,
        Look::Applied { changed: false, .. } => WebhookApplied::Unchanged,
    })
}
