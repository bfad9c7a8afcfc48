//! Who waits for which order: one bell for each order that somebody watches, rung by whatever changes it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::domain::ids::OrderId;

/// The orders that are watched.
#[derive(Default)]
pub struct Orders {
    watched: Mutex<HashMap<OrderId, Watched>>,
}

struct Watched {
    bell: watch::Sender<()>,
    /// Events of the order's history that its watchers have seen; `None` if that is not known.
    events: Option<i64>,
}

/// A place at the bell of one order, kept until it is dropped.
pub struct Watch {
    orders: Arc<Orders>,
    order: OrderId,
    bell: watch::Receiver<()>,
}

impl Orders {
    /// Waits for this order from now on.
    pub fn watch(orders: &Arc<Self>, order: OrderId) -> Watch {
        let mut watched = orders.lock();
        let place = watched.entry(order).or_insert_with(|| Watched { bell: watch::Sender::new(()), events: None });
        let bell = place.bell.subscribe();
        Watch { orders: Arc::clone(orders), order, bell }
    }

    /// Rings an order's bell, if anybody would hear it.
    pub fn ring(&self, order: OrderId) {
        if let Some(place) = self.lock().get(&order) {
            place.bell.send_replace(());
        }
    }

    /// Every order that is watched, with what is known of it.
    pub fn watched(&self) -> Vec<(OrderId, Option<i64>)> {
        self.lock().iter().map(|(order, place)| (*order, place.events)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<OrderId, Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Waits until the bell has rung since the last time.
    pub async fn rung(&mut self) {
        if self.bell.changed().await.is_err() {
            // The bell goes with its last place, which this one is not.
            std::future::pending::<()>().await;
        }
    }

    /// Says how much of the history was seen, or that nobody knows.
    pub fn seen(&self, events: Option<i64>) {
        if let Some(place) = self.orders.lock().get_mut(&self.order) {
            place.events = events;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = self.orders.lock();
        // Our own place is still counted.
        if watched.get(&self.order).is_some_and(|place| place.bell.receiver_count() <= 1) {
            watched.remove(&self.order);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn every_place_at_a_bell_hears_it_once_however_often_it_rang() {
        let (orders, order) = (Arc::new(Orders::default()), OrderId::new());
        orders.ring(order);
        let (mut one, mut two) = (Orders::watch(&orders, order), Orders::watch(&orders, order));
        orders.ring(order);
        orders.ring(order);
        orders.ring(OrderId::new());
        for place in [&mut one, &mut two] {
            timeout(SOON, place.rung()).await.expect("it rang");
            assert!(timeout(Duration::from_millis(10), place.rung()).await.is_err(), "that was all");
        }
    }

    #[tokio::test]
    async fn a_bell_is_kept_while_somebody_waits_at_it() {
        let (orders, order) = (Arc::new(Orders::default()), OrderId::new());
        let (one, two) = (Orders::watch(&orders, order), Orders::watch(&orders, order));
        one.seen(Some(3));
        drop(one);
        assert_eq!(orders.watched(), [(order, Some(3))]);
        two.seen(None);
        assert_eq!(orders.watched(), [(order, None)]);
        drop(two);
        assert_eq!(orders.watched(), []);
    }
}
