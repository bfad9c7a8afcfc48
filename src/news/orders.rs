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
    /// How many wait at it.
    places: usize,
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
        let new = || Watched { bell: watch::Sender::new(()), places: 0, events: None };
        let place = watched.entry(order).or_insert_with(new);
        place.places = place.places.saturating_add(1);
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

    /// Says how much of the history was seen, or that nobody knows. What is new to one may be new to the others, who would
    /// not hear of it again once it is known here.
    pub fn seen(&self, events: Option<i64>) {
        if let Some(place) = self.orders.lock().get_mut(&self.order) {
            let is_new = std::mem::replace(&mut place.events, events) != events;
            if is_new && place.places > 1 {
                place.bell.send_replace(());
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = self.orders.lock();
        let Some(place) = watched.get_mut(&self.order) else { return };
        place.places = place.places.saturating_sub(1);
        if place.places == 0 {
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
    async fn what_one_place_has_seen_first_rings_for_the_others() {
        let (orders, order) = (Arc::new(Orders::default()), OrderId::new());
        let mut one = Orders::watch(&orders, order);
        one.seen(Some(3));
        assert!(timeout(Duration::from_millis(10), one.rung()).await.is_err(), "alone, it knows");
        let two = Orders::watch(&orders, order);
        two.seen(Some(4));
        timeout(SOON, one.rung()).await.expect("it rang");
        one.seen(Some(4));
        assert!(timeout(Duration::from_millis(10), one.rung()).await.is_err(), "that was all");
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
