//! Queues at products: who orders a product while another order of it is being taken waits here, so that those who wait
//! can be taken together.
//!
//! Whoever finds nobody at a product has its turn at once. Whoever has the turn must end it by [`Queues::next`], which
//! tells whether somebody waits: then the turn goes on, else the product is free. A queue is memory of this process and
//! decides nothing: it only saves the database from being asked by many at once what it answers one after the other.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::db::DbError;
use crate::db::events::Origin;
use crate::db::idempotency::{Response, Scope};
use crate::domain::ids::{OrderId, ProductId};
use crate::domain::money::Money;
use crate::telemetry::ledger::{self, Ledger};

/// Orders that wait at one product at the most.
const WAITING_MAX: usize = 4_096;

/// The queues of one process.
#[derive(Default)]
pub struct Queues {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// A product is here while an order of it is being taken.
    at: HashMap<ProductId, VecDeque<Ticket>>,
    tickets: u64,
}

/// An order of one product.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Units.
    pub quantity: i32,
    /// The shop's own reference of the customer.
    pub customer_ref: Option<String>,
    /// Its idempotency key.
    pub scope: Scope,
    /// Who wants it, and in which trace.
    pub origin: Origin,
}

/// What becomes of an order that has waited.
#[derive(Debug)]
pub enum Verdict {
    /// It was placed, together with others.
    Placed(Placed),
    /// It is to go alone, and to drop this when it is done.
    Alone(oneshot::Sender<()>),
    /// The database could not. As always, an order of an unknown fate is told by repeating it with its key.
    Failed(DbError),
}

/// An order that was placed together with others.
#[derive(Debug, Clone)]
pub struct Placed {
    /// Which.
    pub id: OrderId,
    /// What it costs.
    pub total: Money,
    /// Its own answer.
    pub response: Response,
    /// How many orders the transaction took.
    pub orders: u32,
    /// The trace of that transaction.
    pub trace_id: Option<String>,
}

/// What whoever comes finds.
pub enum Entered {
    /// Nobody: it has the turn.
    First,
    /// Others, whom it waits for.
    Behind(Place),
    /// Too many others.
    Full,
}

/// A place in a queue. Whoever drops it has left.
pub struct Place {
    number: u64,
    /// Comes when its turn has come. Closed if whoever had the turn came to grief; then nobody knows what became of the
    /// order.
    pub verdict: oneshot::Receiver<Verdict>,
}

/// Who waits, as whoever has the turn sees it.
pub struct Ticket {
    number: u64,
    /// What is wanted.
    pub wanted: Wanted,
    /// The account of the request that waits.
    pub ledger: Ledger,
    answer: oneshot::Sender<Verdict>,
}

impl Ticket {
    /// Tells what became of it. Who has left needs no answer.
    pub fn tell(self, verdict: Verdict) {
        drop(self.answer.send(verdict));
    }

    /// Sends it to go alone; what is returned ends when it is done, or has left.
    pub fn go_alone(self) -> oneshot::Receiver<()> {
        let (done, ended) = oneshot::channel();
        self.tell(Verdict::Alone(done));
        ended
    }
}

impl Queues {
    /// Comes to a product; `wanted` is asked for if there is somebody.
    pub fn enter(&self, product: ProductId, wanted: impl FnOnce() -> Wanted) -> Entered {
        let mut state = self.state();
        let State { at, tickets } = &mut *state;
        let Some(waiting) = at.get_mut(&product) else {
            at.insert(product, VecDeque::new());
            return Entered::First;
        };
        if waiting.len() >= WAITING_MAX {
            return Entered::Full;
        }
        *tickets += 1;
        let (answer, verdict) = oneshot::channel();
        waiting.push_back(Ticket { number: *tickets, wanted: wanted(), ledger: ledger::handle(), answer });
        Entered::Behind(Place { number: *tickets, verdict })
    }

    /// Gives a place up; `false` if its turn has come meanwhile, so that its verdict is on its way.
    pub fn leave(&self, product: ProductId, place: &Place) -> bool {
        let mut state = self.state();
        let Some(waiting) = state.at.get_mut(&product) else { return false };
        let before = waiting.len();
        waiting.retain(|ticket| ticket.number != place.number);
        waiting.len() < before
    }

    /// The first who wait, for whoever has the turn.
    pub fn take(&self, product: ProductId, orders_max: u32) -> Vec<Ticket> {
        let mut state = self.state();
        let Some(waiting) = state.at.get_mut(&product) else { return Vec::new() };
        waiting.retain(|ticket| !ticket.answer.is_closed());
        let count = waiting.len().min(usize::try_from(orders_max).unwrap_or(usize::MAX));
        waiting.drain(..count).collect()
    }

    /// Ends a turn; whether there is somebody for whom it goes on.
    pub fn next(&self, product: ProductId) -> bool {
        let mut state = self.state();
        let is_wanted = state.at.get(&product).is_some_and(|waiting| !waiting.is_empty());
        if !is_wanted {
            state.at.remove(&product);
        }
        is_wanted
    }

    /// How many wait at a product.
    #[must_use]
    pub fn waiting(&self, product: ProductId) -> usize {
        self.state().at.get(&product).map_or(0, VecDeque::len)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(quantity: i32) -> Wanted {
        let scope = Scope { owner: "o".to_owned(), route: "r", key: quantity.to_string(), fingerprint: vec![] };
        let origin = Origin { actor: "a".to_owned(), trace_id: None };
        Wanted { quantity, customer_ref: None, scope, origin }
    }

    fn behind(queues: &Queues, product: ProductId, quantity: i32) -> Place {
        match queues.enter(product, || wanted(quantity)) {
            Entered::Behind(place) => place,
            Entered::First | Entered::Full => panic!("somebody is there"),
        }
    }

    fn taken(queues: &Queues, product: ProductId, orders_max: u32) -> Vec<i32> {
        queues.take(product, orders_max).iter().map(|ticket| ticket.wanted.quantity).collect()
    }

    #[test]
    fn who_finds_nobody_goes_at_once_and_the_others_in_the_order_in_which_they_came() {
        let (queues, product) = (Queues::default(), ProductId::new());
        assert!(matches!(queues.enter(product, || panic!("nobody waits")), Entered::First));
        assert!(matches!(queues.enter(ProductId::new(), || panic!("another product")), Entered::First));
        let _places: Vec<Place> = (1..=5).map(|number| behind(&queues, product, number)).collect();
        assert!(queues.next(product));
        assert_eq!(taken(&queues, product, 3), [1, 2, 3]);
        assert!(queues.next(product));
        assert_eq!(taken(&queues, product, 3), [4, 5]);
        let _late = behind(&queues, product, 6);
        assert!(queues.next(product), "the turn is not over before it is ended");
        assert_eq!(taken(&queues, product, 3), [6]);
        assert!(!queues.next(product));
        assert!(matches!(queues.enter(product, || panic!("nobody waits")), Entered::First));
    }

    #[test]
    fn who_has_left_is_not_taken_and_who_is_taken_cannot_leave() {
        let (queues, product) = (Queues::default(), ProductId::new());
        assert!(matches!(queues.enter(product, || wanted(0)), Entered::First));
        let [first, second, third] = [1, 2, 3].map(|number| behind(&queues, product, number));
        drop(first);
        assert!(queues.leave(product, &second));
        assert!(!queues.leave(product, &second));
        assert_eq!(taken(&queues, product, 3), [3]);
        assert!(!queues.leave(product, &third), "its verdict is on its way");
    }

    #[test]
    fn a_queue_has_an_end() {
        let (queues, product) = (Queues::default(), ProductId::new());
        assert!(matches!(queues.enter(product, || wanted(0)), Entered::First));
        let places: Vec<Place> = (0..WAITING_MAX).map(|_| behind(&queues, product, 1)).collect();
        assert!(matches!(queues.enter(product, || panic!("no room")), Entered::Full));
        assert!(places.first().is_some_and(|place| queues.leave(product, place)));
        behind(&queues, product, 1);
    }

    #[tokio::test]
    async fn who_is_sent_alone_is_waited_for_until_it_is_done_or_gone() {
        let (queues, product) = (Queues::default(), ProductId::new());
        assert!(matches!(queues.enter(product, || wanted(0)), Entered::First));
        let (mut stays, goes) = (behind(&queues, product, 1), behind(&queues, product, 2));
        let mut ended: Vec<_> = queues.take(product, 2).into_iter().map(Ticket::go_alone).collect();
        drop(goes);
        assert!(ended.pop().expect("the second").await.is_err(), "it has left");
        let Ok(Verdict::Alone(done)) = stays.verdict.try_recv() else { panic!("it goes alone") };
        let mut first = ended.pop().expect("the first");
        assert!(matches!(first.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        drop(done);
        assert!(first.await.is_err());
    }
}
