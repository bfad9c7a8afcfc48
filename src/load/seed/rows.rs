//! Rows as text for COPY, table by table.

use std::collections::BTreeMap;

use tokio_util::bytes::Bytes;
use uuid::Uuid;

/// The column of a COPY that holds nothing.
pub(super) const NULL: &str = "\\N";

/// Where rows go, in the order in which they can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    Orders,
    Items,
    Payments,
    Cancellations,
    Units,
    Events,
    Keys,
    Inbox,
}

impl Table {
    pub(super) const ALL: [Self; 8] = [
        Self::Orders,
        Self::Items,
        Self::Payments,
        Self::Cancellations,
        Self::Units,
        Self::Events,
        Self::Keys,
        Self::Inbox,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Orders => "orders",
            Self::Items => "order_items",
            Self::Payments => "payments",
            Self::Cancellations => "cancellations",
            Self::Units => "cancellation_items",
            Self::Events => "events",
            Self::Keys => "idempotency_keys",
            Self::Inbox => "webhook_inbox",
        }
    }

    pub(super) const fn statement(self) -> &'static str {
        match self {
            Self::Orders => {
                "copy orders (id, status, amount, currency, name, customer_ref, hold_expires_at, trace_id, version, \
                 created_at, updated_at) from stdin"
            }
            Self::Items => {
                "copy order_items (order_id, line, product_id, name, quantity, unit_price, canceled_quantity) from stdin"
            }
            Self::Payments => {
                "copy payments (id, order_id, provider, provider_payment_key, method, status, amount, currency, \
                 approved_amount, canceled_amount, confirm_started_at, provider_transaction_key, decline_class, \
                 decline_code, approved_at, canceled_at, trace_id, version, created_at, updated_at) from stdin"
            }
            Self::Cancellations => {
                "copy cancellations (id, payment_id, order_id, provider, amount, moved_amount, reason, status, origin, \
                 provider_transaction_key, canceled_at, trace_id, version, created_at, updated_at) from stdin"
            }
            Self::Units => "copy cancellation_items (cancellation_id, order_id, line, quantity) from stdin",
            Self::Events => {
                "copy events (aggregate, aggregate_id, seq, order_id, kind, from_status, to_status, actor, detail, \
                 trace_id, occurred_at) from stdin"
            }
            Self::Keys => {
                "copy idempotency_keys (owner, route, key, fingerprint, status, resource_id, response_status, \
                 response_body, lease_until, created_at, expires_at, under_lock) from stdin"
            }
            Self::Inbox => {
                "copy webhook_inbox (id, provider, dedupe_key, payload, received_at, next_at, attempts, processed_at, \
                 outcome, trace_id) from stdin"
            }
        }
    }
}

/// The rows of some orders.
#[derive(Default)]
pub(super) struct Rows {
    texts: BTreeMap<Table, (String, u64)>,
    /// Units that are out of stock for good, by product.
    pub(super) sold: BTreeMap<Uuid, i64>,
}

impl Rows {
    pub(super) fn text(&self, table: Table) -> Bytes {
        self.texts.get(&table).map(|(text, _)| Bytes::copy_from_slice(text.as_bytes())).unwrap_or_default()
    }

    pub(super) fn count(&self, table: Table) -> u64 {
        self.texts.get(&table).map_or(0, |(_, count)| *count)
    }

    pub(super) fn add(&mut self, table: Table, columns: &[&str]) {
        let (text, count) = self.texts.entry(table).or_default();
        for (place, column) in columns.iter().enumerate() {
            if place > 0 {
                text.push('\t');
            }
            text.push_str(column);
        }
        text.push('\n');
        *count += 1;
    }
}
