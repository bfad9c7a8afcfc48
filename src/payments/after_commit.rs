//! What a resolution leaves for its end: units that go back into stock, given by its last statements, since stock rows
//! are locked last and shortest; and the facts that are told once it is committed, so that a resolution which is rolled
//! back and tried again tells them once.

use std::collections::BTreeMap;

use super::resolve::Target;
use crate::app::App;
use crate::db::{self, Conn, DbError};
use crate::domain::evidence::DeclineClass;
use crate::domain::ids::{OrderId, ProductId};
use crate::domain::resolution::ReversalCause;
use crate::telemetry::labels::StockMovement;
use crate::telemetry::record;

/// What is left to do and to tell.
#[derive(Default)]
pub(super) struct AfterCommit {
    released: BTreeMap<ProductId, i64>,
    restored: BTreeMap<ProductId, i64>,
    /// Whether a cancellation was written that recovery should drive at once.
    pub(super) follow_up: bool,
    /// The PG's no.
    pub(super) declined: Option<DeclineClass>,
    /// Minor units of real money that no order may keep, and why.
    pub(super) reversed: Option<(i64, ReversalCause)>,
}

impl AfterCommit {
    /// All units of an order that ends unpaid go back.
    pub(super) async fn release(&mut self, conn: &mut Conn, order: OrderId) -> Result<(), DbError> {
        for item in db::orders::items(conn, order).await? {
            *self.released.entry(item.product_id).or_default() += i64::from(item.quantity);
        }
        Ok(())
    }

    /// These units of an order that was paid go back.
    pub(super) fn restore(&mut self, product: ProductId, quantity: i64) {
        *self.restored.entry(product).or_default() += quantity;
    }

    /// Gives the units back: the transaction's last statements, each product once.
    pub(super) async fn give_back(&self, conn: &mut Conn) -> Result<(), DbError> {
        let mut units = self.released.clone();
        for (product, quantity) in &self.restored {
            *units.entry(*product).or_default() += quantity;
        }
        db::stock::give_back(conn, units.into_iter().collect()).await
    }

    /// Tells what is committed now.
    pub(super) fn tell(&self, app: &App, target: Target) {
        for (movement, units) in [(StockMovement::Release, &self.released), (StockMovement::Restore, &self.restored)] {
            record::stock_movement(movement, units.values().sum::<i64>().unsigned_abs());
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
