//! News: that something was committed, told to whoever waits for it, in this process at once and in the others through
//! Redis.
//!
//! A piece of news says "look", never what there is to see: the truth is a row. So that it may come twice, late or
//! never. Who waits for an order is woken for nothing, or finds out by looking every few seconds: often while nobody
//! brings us the news of other processes, else now and then, since Redis keeps no message for who was away.

mod exchange;
mod orders;
mod sold_out;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::exchange::Exchange;
use self::orders::Orders;
pub use self::orders::Watch;
pub use self::sold_out::Gate;
use crate::domain::ids::{OrderId, ProductId};
use crate::redis::Redis;

/// How often to look by oneself without the news of other processes.
const LOOK_EVERY_ALONE: Duration = Duration::from_secs(2);
/// How often with them: for what got lost on the way.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// Something that was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    /// The history of an order has grown.
    Order(OrderId),
    /// Units of a product came back into stock, or it was changed.
    Product(ProductId),
}

/// What one process hears and tells.
#[derive(Default)]
pub struct News {
    orders: Arc<Orders>,
    gate: Gate,
    exchange: Option<Exchange>,
    missed: Notify,
}

impl News {
    /// With the other processes at this Redis, if there is one; see [`News::run`]. What is sold out is known for
    /// `sold_out` at the most.
    #[must_use]
    pub fn new(redis: Option<Arc<Redis>>, sold_out: Duration) -> Self {
        Self { gate: Gate::new(sold_out), exchange: redis.map(Exchange::new), ..Self::default() }
    }

    /// Tells it to this process now, and to the others soon.
    pub fn tell(&self, item: Item) {
        self.here(item);
        if let Some(exchange) = &self.exchange {
            exchange.post(item);
        }
    }

    fn here(&self, item: Item) {
        match item {
            Item::Order(order) => self.orders.ring(order),
            Item::Product(product) => self.gate.wake(product),
        }
    }

    /// What is sold out.
    #[must_use]
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Waits for news of an order, from now on.
    #[must_use]
    pub fn watch(&self, order: OrderId) -> Watch {
        Orders::watch(&self.orders, order)
    }

    /// The orders that somebody waits for, each with the length of the history that they know.
    #[must_use]
    pub fn watched(&self) -> Vec<(OrderId, Option<i64>)> {
        self.orders.watched()
    }

    /// Wakes whoever waits for this order, and nobody else.
    pub fn ring(&self, order: OrderId) {
        self.orders.ring(order);
    }

    /// How long to wait between two looks.
    #[must_use]
    pub fn look_every(&self) -> Duration {
        match &self.exchange {
            Some(exchange) if exchange.hears() => LOOK_EVERY,
            Some(_) | None => LOOK_EVERY_ALONE,
        }
    }

    /// Waits until news may have been missed.
    pub async fn missed(&self) {
        self.missed.notified().await;
    }

    /// Sends and hears, until `stop`. Does nothing without Redis.
    pub async fn run(&self, stop: CancellationToken) {
        let Some(exchange) = &self.exchange else { return };
        let hear = exchange.hear(|item| self.here(item), || self.missed.notify_one());
        tokio::select! {
            () = stop.cancelled() => {}
            () = exchange.send() => {}
            () = hear => {}
        }
    }
}
