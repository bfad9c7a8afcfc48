//! Webhook envelopes. Anybody can send one, so what is read here is only ever a hint to ask the PG.
//!
//! Called by the adapter with a raw body. Never fails: what is not a known envelope is `Undecodable`. Texts that go
//! on to logs or look-ups (event, order, status) are taken only if they are short and plain.

use secrecy::SecretString;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::wire::{is_code, lenient, object};
use crate::domain::evidence::PaymentKey;
use crate::provider::Notice;

/// Longest event name, order id or status that is taken on.
const TEXT_LIMIT: usize = 64;

/// Events about other things than one payment of ours, even if their data names an order.
const IRRELEVANT: &[&str] = &[
    "BILLING_DELETED",
    "METHOD_UPDATED",
    "CUSTOMER_STATUS_CHANGED",
    "ORDER_PAYMENT_STATUS_CHANGED",
    "PAYOUT_STATUS_CHANGED",
];

/// The keys of all three envelopes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    #[serde(default, deserialize_with = "lenient")]
    event_type: Option<String>,
    #[serde(default)]
    entity_body: Option<Box<RawValue>>,
    #[serde(default)]
    data: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "lenient")]
    secret: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    transaction_key: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    order_id: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    status: Option<String>,
}

/// What a hint needs of the payment; the rest is asked for.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    #[serde(default, deserialize_with = "lenient")]
    payment_key: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    order_id: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    status: Option<String>,
}

/// Reads a body: payout-style envelopes first, then events with `data`, then the flat deposit callback.
pub(super) fn read(body: &[u8]) -> Notice {
    let Some(mut envelope) = object::<Envelope>(body) else {
        return Notice::Undecodable;
    };
    let event = envelope.event_type.take().filter(|event| is_event(event));
    match (event, &envelope.entity_body, &envelope.data) {
        (Some(event), Some(_), _) => Notice::Irrelevant { event },
        (Some(event), None, Some(data)) => read_event(event, data),
        (None, Some(_), _) | (None, None, Some(_)) => Notice::Undecodable,
        (_, None, None) => read_deposit(envelope).unwrap_or(Notice::Undecodable),
    }
}

fn read_event(event: String, data: &RawValue) -> Notice {
    if IRRELEVANT.contains(&event.as_str()) {
        return Notice::Irrelevant { event };
    }
    let Some(data) = object::<Data>(data.get().as_bytes()) else {
        return Notice::Undecodable;
    };
    let payment_key = data.payment_key.as_deref().and_then(PaymentKey::parse);
    let order_id = data.order_id.filter(|id| is_plain(id));
    match (&payment_key, &order_id) {
        // Nothing to ask about. Only the one event that promises a payment is broken by that.
        (None, None) if event == "PAYMENT_STATUS_CHANGED" => Notice::Undecodable,
        (None, None) => Notice::Irrelevant { event },
        (Some(_), _) | (None, Some(_)) => {
            Notice::Payment { event, payment_key, order_id, status: data.status.filter(|status| is_code(status)) }
        }
    }
}

/// The deposit callback is known by its three keys alone.
fn read_deposit(envelope: Envelope) -> Option<Notice> {
    envelope.transaction_key?;
    let secret = envelope.secret.filter(|secret| !secret.is_empty())?;
    let order_id = envelope.order_id.filter(|id| is_plain(id))?;
    let status = envelope.status.filter(|status| is_code(status))?;
    Some(Notice::Deposit { order_id, secret: SecretString::from(secret), status })
}

fn is_event(text: &str) -> bool {
    is_plain(text) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_plain(text: &str) -> bool {
    (1..=TEXT_LIMIT).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests;
