//! The gate of sold-out products: for a moment after the database has said that no unit of a product is left, further
//! orders of it need not ask.
//!
//! The gate can only say no, and only what the database has said less than its life ago. News that units came back, or
//! that the product was changed, open it at once; if they get lost, it opens by itself when its life is over. A no that
//! is older than such news closes nothing, whichever of the two arrives first. Shortly before it opens by itself one
//! order is let through to find out, so that not all of them rush in.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::ids::ProductId;

/// Products that are remembered.
const PRODUCTS_MAX: usize = 10_000;

/// The gate of one process.
#[derive(Default)]
pub struct Gate {
    life: Duration,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    products: HashMap<ProductId, Product>,
    /// Everything was woken at this moment, since there was no room to remember what.
    woken_at: Option<Instant>,
}

#[derive(Default)]
struct Product {
    woken_at: Option<Instant>,
    closed: Option<Closed>,
}

/// The database's no.
struct Closed {
    seen_at: Instant,
    /// The most units that were refused. More might be refused for another reason.
    units_max: i32,
    is_probed: bool,
}

impl Gate {
    /// A gate that stays closed for `life` at the most; zero for never.
    #[must_use]
    pub fn new(life: Duration) -> Self {
        Self { life, known: Mutex::default() }
    }

    /// Whether an order of so many units is refused without asking the database.
    #[must_use]
    pub fn is_closed(&self, product: ProductId, units: i32) -> bool {
        self.is_closed_at(product, units, Instant::now())
    }

    fn is_closed_at(&self, product: ProductId, units: i32, now: Instant) -> bool {
        let mut known = self.known();
        let state = known.products.get_mut(&product).and_then(|product| product.closed.as_mut());
        let Some(closed) = state.filter(|closed| units <= closed.units_max) else { return false };
        let age = now.saturating_duration_since(closed.seen_at);
        if age >= self.life {
            return false;
        }
        let is_late = age >= self.life / 10 * 9;
        let is_probe = is_late && !std::mem::replace(&mut closed.is_probed, is_late);
        !is_probe
    }

    /// The database has no unit left, as it said to a question of this many units that was put at `seen_at`.
    pub fn close(&self, product: ProductId, units: i32, seen_at: Instant) {
        if self.life.is_zero() {
            return;
        }
        let mut known = self.known();
        self.make_room(&mut known, product);
        let is_older = |woken_at: Option<Instant>| woken_at.is_some_and(|woken_at| woken_at >= seen_at);
        if is_older(known.woken_at) {
            return;
        }
        let state = known.products.entry(product).or_default();
        if is_older(state.woken_at) {
            return;
        }
        let before = state.closed.take().filter(|closed| seen_at.saturating_duration_since(closed.seen_at) < self.life);
        let (since, units_max) =
            before.map_or((seen_at, units), |closed| (closed.seen_at.max(seen_at), closed.units_max.max(units)));
        state.closed = Some(Closed { seen_at: since, units_max, is_probed: false });
    }

    /// Units may have come back.
    pub fn wake(&self, product: ProductId) {
        if self.life.is_zero() {
            return;
        }
        let mut known = self.known();
        self.make_room(&mut known, product);
        known.products.insert(product, Product { woken_at: Some(Instant::now()), closed: None });
    }

    /// What is over says nothing any more. If all of it still does, everything is opened.
    fn make_room(&self, known: &mut Known, product: ProductId) {
        if known.products.len() < PRODUCTS_MAX || known.products.contains_key(&product) {
            return;
        }
        let now = Instant::now();
        let is_fresh = |at: Instant| now.saturating_duration_since(at) < self.life;
        known.products.retain(|_, state| {
            state.woken_at.is_some_and(is_fresh) || state.closed.as_ref().is_some_and(|closed| is_fresh(closed.seen_at))
        });
        if known.products.len() >= PRODUCTS_MAX {
            known.products.clear();
            known.woken_at = Some(now);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(1_000);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn it_closes_for_its_life_for_that_product_and_no_more_units() {
        let (gate, product, now) = (Gate::new(LIFE), ProductId::new(), Instant::now());
        assert!(!gate.is_closed(product, 1));
        gate.close(product, 2, now);
        assert!(gate.is_closed(product, 1) && gate.is_closed(product, 2));
        assert!(!gate.is_closed(product, 3), "the database was not asked for so many");
        assert!(!gate.is_closed(ProductId::new(), 1));
        gate.close(product, 1, now);
        assert!(gate.is_closed(product, 2), "it knows both");
        assert!(gate.is_closed_at(product, 1, now + seconds(899)));
        assert!(!gate.is_closed_at(product, 1, now + LIFE), "it opens by itself");
        let off = Gate::new(Duration::ZERO);
        off.close(product, 1, now);
        assert!(!off.is_closed(product, 1));
    }

    #[test]
    fn one_order_finds_out_before_it_opens() {
        let (gate, product, now) = (Gate::new(LIFE), ProductId::new(), Instant::now());
        gate.close(product, 1, now);
        let late = now + seconds(900);
        assert!(!gate.is_closed_at(product, 1, late), "this one");
        assert!(gate.is_closed_at(product, 1, late) && gate.is_closed_at(product, 1, late), "no other");
        gate.close(product, 1, late);
        assert!(gate.is_closed_at(product, 1, now + LIFE), "it has found nothing");
        assert!(!gate.is_closed_at(product, 1, now + seconds(1_800)), "the next one");
        assert!(!gate.is_closed_at(product, 1, now + seconds(1_900)), "which has not come back");
    }

    #[test]
    fn news_open_it_whichever_comes_first() {
        let (gate, product, before) = (Gate::new(LIFE), ProductId::new(), Instant::now());
        gate.close(product, 1, before);
        gate.wake(product);
        assert!(!gate.is_closed(product, 1));
        gate.close(product, 1, before);
        assert!(!gate.is_closed(product, 1), "a no of before the news");
        while Instant::now() <= before {}
        gate.close(product, 1, Instant::now() + seconds(1));
        assert!(gate.is_closed_at(product, 1, Instant::now() + seconds(2)), "a no of after them");
    }

    #[test]
    fn any_number_of_products_needs_bounded_memory_and_forgets_no_news() {
        let (gate, before) = (Gate::new(LIFE), Instant::now());
        let first = ProductId::new();
        gate.wake(first);
        for _ in 0..PRODUCTS_MAX * 2 {
            gate.wake(ProductId::new());
            assert!(gate.known().products.len() <= PRODUCTS_MAX);
        }
        assert!(!gate.known().products.contains_key(&first));
        gate.close(first, 1, before);
        assert!(!gate.is_closed(first, 1));
    }
}
