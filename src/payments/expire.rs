//! Expiry: holds that are over give their stock back, in batches. A confirm of the same order runs the same kind of
//! statement on the same row, so exactly one of the two wins.

use std::collections::BTreeMap;

use serde_json::json;

use crate::app::App;
use crate::db::events::{self, Origin, Subject};
use crate::db::{self, DbError};
use crate::domain::ids::{OrderId, ProductId};
use crate::domain::order::{OrderEvent, OrderStatus};
use crate::telemetry::labels::{Operation, OperationOutcome, ProviderLabel, StockMovement, Tx};
use crate::telemetry::ledger::{self, Ledger};
use crate::telemetry::propagate::{self, Link};
use crate::telemetry::record::{self, Ended};

/// Expires one batch; returns how many orders.
pub async fn expire_batch(app: &App, trace_id: Option<String>) -> Result<usize, DbError> {
    Ledger::new().scope(expire(app, trace_id)).await
}

async fn expire(app: &App, trace_id: Option<String>) -> Result<usize, DbError> {
    let origin = Origin { actor: "expiry".to_owned(), trace_id };
    let (running, rows) = (ledger::begin(), app.settings.worker_batch_rows);
    let committed = app
        .db
        .transaction(Tx::Expire, async |conn| {
            let orders = db::orders::expire_due(conn, rows).await?;
            let ids: Vec<OrderId> = orders.iter().map(|order| order.id).collect();
            for order in &orders {
                let subject = Subject::Order {
                    event: OrderEvent::HoldExpired,
                    from: Some(OrderStatus::Pending),
                    to: OrderStatus::Expired,
                };
                events::append(conn, order.id, order.version, subject, &origin, json!({})).await?;
            }
            let mut units: BTreeMap<ProductId, i64> = BTreeMap::new();
            for item in db::orders::items_of(conn, &ids).await? {
                *units.entry(item.product_id).or_default() += i64::from(item.quantity);
            }
            let total = units.values().sum::<i64>();
            db::stock::give_back(conn, units.into_iter().collect()).await?;
            Ok::<_, DbError>((orders, total))
        })
        .await;
    let account = running.end();
    let ended =
        |outcome| Ended { operation: Operation::Expire, outcome, provider: ProviderLabel::None, account: &account };
    let (expired, units) = match committed {
        Ok(done) => done,
        Err(error) => {
            record::operation(ended(OperationOutcome::Error));
            return Err(error);
        }
    };
    for order in &expired {
        propagate::link(order.trace_id.as_deref(), Link::Order);
    }
    let expired = expired.len();
    if expired > 0 {
        record::operation(ended(OperationOutcome::Success));
    }
    record::holds_expired(u64::try_from(expired).unwrap_or(u64::MAX));
    record::stock_movement(StockMovement::Release, units.unsigned_abs());
    Ok(expired)
}
