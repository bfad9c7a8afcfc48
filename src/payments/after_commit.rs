//! What a resolution leaves for its end: units that go back into stock, given by its last statements, since stock rows
//! are locked last and shortest; and the facts that are told once it is committed, so that a resolution which is rolled
//! back and tried again tells them once.

use std::collections::BTreeMap;

use super::catalogue::AdjustmentKind;
use super::resolve::Target;
use crate::app::App;
use crate::db::batch::Batch;
use crate::db::stock::AdjustmentRow;
use crate::db::{self, Conn, DbError};
use crate::domain::evidence::DeclineClass;
use crate::domain::ids::{OrderId, ProductId};
use crate::domain::resolution::ReversalCause;
use crate::telemetry::labels::StockMovement;
use crate::telemetry::record;

/// Why units are kept out of stock.
#[derive(Debug, Clone)]
pub(super) struct KeptOut {
    /// The order that was canceled in the PG's console.
    pub(super) order: OrderId,
    /// Who learnt of it.
    pub(super) actor: String,
    /// In which trace.
    pub(super) trace_id: Option<String>,
}

/// What is left to do and to tell.
#[derive(Default)]
pub(super) struct AfterCommit {
    released: BTreeMap<ProductId, i64>,
    restored: BTreeMap<ProductId, i64>,
    /// Of what is restored, units that a person has to look at first, and what says so.
    kept_out: BTreeMap<ProductId, (i64, KeptOut)>,
    /// Whether a cancellation was written that recovery should drive at once.
    pub(super) follow_up: bool,
    /// The PG's no.
    pub(super) declined: Option<DeclineClass>,
    /// Minor units of real money that no order may keep, and why.
    pub(super) reversed: Option<(i64, ReversalCause)>,
}

impl AfterCommit {
    /// All units of an order that ends unpaid go back.
    pub(super) async fn release(&mut self, conn: &Conn, order: OrderId) -> Result<(), DbError> {
        for item in db::orders::items(conn, order).await? {
            *self.released.entry(item.product_id).or_default() += i64::from(item.quantity);
        }
        Ok(())
    }

    /// These units of an order that was paid go back.
    pub(super) fn restore(&mut self, product: ProductId, quantity: i64) {
        *self.restored.entry(product).or_default() += quantity;
    }

    /// These restored units are taken out again by a correction, which a person can undo with another one.
    pub(super) fn keep_out(&mut self, product: ProductId, quantity: i64, why: KeptOut) {
        self.kept_out.entry(product).or_insert((0, why)).0 += quantity;
    }

    /// Gives the units back: the transaction's last statements, each product once.
    pub(super) async fn give_back(&self, batch: &mut Batch<'_>) -> Result<(), DbError> {
        let mut units = self.released.clone();
        for (product, quantity) in &self.restored {
            *units.entry(*product).or_default() += quantity;
        }
        let conn = batch.conn();
        batch.put_events();
        // In product order, as everywhere.
        for (product, quantity) in units {
            batch.add(db::stock::give(conn, product, quantity));
        }
        if !self.kept_out.is_empty() {
            batch.send().await?;
        }
        for (&product_id, (quantity, why)) in &self.kept_out {
            let shifted = db::stock::shift(conn, product_id, -quantity).await?;
            let available_after = shifted.ok_or(DbError::Query(diesel::result::Error::NotFound))?;
            let adjustment = AdjustmentRow {
                id: uuid::Uuid::now_v7(),
                product_id,
                delta: -quantity,
                kind: AdjustmentKind::Correction.as_str().to_owned(),
                reason: format!("kept out: {} was canceled in the PG's console", why.order),
                actor: why.actor.clone(),
                available_after,
                trace_id: why.trace_id.clone(),
                created_at: crate::clock::now(),
            };
            db::stock::record_adjustment(conn, adjustment).await?;
        }
        Ok(())
    }

    /// Tells what is committed now.
    pub(super) fn tell(&self, app: &App, target: Target) {
        for (movement, units) in [(StockMovement::Release, &self.released), (StockMovement::Restore, &self.restored)] {
            record::stock_movement(movement, units.values().sum::<i64>().unsigned_abs());
        }
        if !self.kept_out.is_empty() {
            let units: i64 = self.kept_out.values().map(|(quantity, _)| quantity).sum();
            record::stock_movement(StockMovement::Correction, units.unsigned_abs());
            tracing::error!(order_id = %target.order, "units of an order canceled in the PG's console are kept out of stock");
        }
        if let Some(class) = self.declined {
            record::decline(app.provider.label(), class);
        }
        if let Some((amount, cause)) = self.reversed {
            tracing::error!(
                payment_id = %target.payment, order_id = %target.order, amount, cause = cause.as_str(),
                "the PG took money that no order may keep; it is being returned"
            );
            record::reversal(app.provider.label());
        }
    }
}
