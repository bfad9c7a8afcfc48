//! One order of a product at a time, and those who come meanwhile together after it.
//!
//! Every order of one product has to change the same stock row, and that row is locked until its transaction is on disk.
//! So orders of one product would be written one commit after the other, however many connections there are. Instead
//! whoever finds nobody goes at once and alone; who comes meanwhile waits in a queue of this process, and when the turn
//! ends, a task of its own takes those who wait in one transaction. No timer waits for more of them to come.
//!
//! Nobody's order hangs on another's request: the turn is handed on when it is dropped, so also if a request is given up
//! or panics; the common transaction is nobody's request; and who loses its answer asks again with its own key.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Place, PlaceError, together};
use crate::app::App;
use crate::db::DbError;
use crate::db::events::Origin;
use crate::db::idempotency::Scope;
use crate::domain::ids::ProductId;
use crate::queues::{self, Entered, Ticket, Verdict, Wanted};
use crate::telemetry::labels::Step;
use crate::telemetry::propagate::{self, Link};
use crate::telemetry::{Span, SpanKind, ledger};

/// How an order goes on.
pub(super) enum Way {
    /// In a transaction of its own, after which this is dropped.
    Alone(Leave),
    /// It was placed together with others.
    Placed(queues::Placed),
}

/// The leave to go alone. When it is dropped, it is the others' turn.
#[derive(Default)]
pub(super) struct Leave {
    _turn: Option<Turn>,
    _told: Option<oneshot::Sender<()>>,
    has_waited: bool,
}

impl Leave {
    /// Whether others went before.
    pub(super) const fn has_waited(&self) -> bool {
        self.has_waited
    }
}

/// Comes to the order's product and waits for its turn. Only with one product: whoever wants several would have to stand
/// in several queues.
pub(super) async fn enter(app: &Arc<App>, request: &Place, scope: &Scope, origin: &Origin) -> Result<Way, PlaceError> {
    let &[(product, quantity)] = request.lines.as_slice() else { return Ok(Way::Alone(Leave::default())) };
    if app.settings.orders_together < 2 {
        return Ok(Way::Alone(Leave::default()));
    }
    let wanted = || Wanted {
        quantity,
        customer_ref: request.customer_ref.clone(),
        scope: scope.clone(),
        origin: origin.clone(),
    };
    match app.queues.enter(product, wanted) {
        Entered::First => {
            let turn = Turn { app: Arc::clone(app), product };
            Ok(Way::Alone(Leave { _turn: Some(turn), ..Leave::default() }))
        }
        Entered::Behind(place) => wait(app, product, place).await,
        Entered::Full => Err(PlaceError::Crowded),
    }
}

/// Waits as long as one waits for a connection. Once its turn has come, the transaction's own limits are what counts.
async fn wait(app: &App, product: ProductId, mut place: queues::Place) -> Result<Way, PlaceError> {
    let _waiting = ledger::wait_for(Step::QueueWait);
    let verdict = match tokio::time::timeout(app.db.connects_within(), &mut place.verdict).await {
        Ok(verdict) => verdict,
        Err(_) if app.queues.leave(product, &place) => return Err(PlaceError::Crowded),
        Err(_) => place.verdict.await,
    };
    let alone = Leave { has_waited: true, ..Leave::default() };
    match verdict {
        Ok(Verdict::Placed(placed)) => Ok(Way::Placed(placed)),
        Ok(Verdict::Alone(told)) => Ok(Way::Alone(Leave { _told: Some(told), ..alone })),
        Ok(Verdict::Failed(error)) => Err(error.into()),
        // If it was placed before the task died, its key says so.
        Err(_) => Ok(Way::Alone(alone)),
    }
}

/// The turn at a product. Dropped, it goes to those who wait, or the product is free.
struct Turn {
    app: Arc<App>,
    product: ProductId,
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Without a runtime the process is at its end, and so is everybody who waits.
        if self.app.queues.next(self.product)
            && let Ok(runtime) = Handle::try_current()
        {
            let (app, product) = (Arc::clone(&self.app), self.product);
            // It belongs to none of the requests whose orders it takes.
            let together = Span::root(SpanKind::Internal, "orders together");
            self.app.tasks.spawn_on(together.scope(take(app, product)), &runtime);
        }
    }
}

/// Takes the first of those who wait.
async fn take(app: Arc<App>, product: ProductId) {
    let turn = Turn { app, product };
    let app = &turn.app;
    let waiting = app.queues.take(product, app.settings.orders_together);
    // Who would be refused at the gate goes there; it needs no turn.
    let is_refused = |ticket: &Ticket| app.news.gate().is_closed(product, ticket.wanted.quantity);
    let (refused, tickets): (Vec<_>, Vec<_>) = waiting.into_iter().partition(is_refused);
    for ticket in refused {
        drop(ticket.go_alone());
    }
    if tickets.len() < 2 {
        return one_by_one(app, tickets).await;
    }
    for ticket in &tickets {
        ticket.ledger.turn_to(Step::SharedTx);
        propagate::link(ticket.wanted.origin.trace_id.as_deref(), Link::Together);
    }
    match together::place(app, product, &tickets).await {
        Ok(mut placed) => {
            for (at, ticket) in tickets.into_iter().enumerate() {
                match placed.remove(&at) {
                    Some(placed) => ticket.tell(Verdict::Placed(placed)),
                    // It has no turn to wait for: it is refused, or a repeat.
                    None => drop(ticket.go_alone()),
                }
            }
        }
        Err(PlaceError::Db(DbError::Unavailable(reason))) => {
            fail(tickets, || DbError::Unavailable(reason.clone()));
        }
        Err(PlaceError::Db(DbError::Contended(contention))) => fail(tickets, || DbError::Contended(contention)),
        // Somebody came between the look and the writing: nothing is written.
        Err(_) => one_by_one(app, tickets).await,
    }
}

/// Lets each go alone when the one before is done. If that takes longer than one waits for a connection, something else is
/// wrong, and the rest goes at once: else the last would wait for as many transactions as there are before it.
async fn one_by_one(app: &App, tickets: Vec<Ticket>) {
    let until = Instant::now() + app.db.connects_within();
    for ticket in tickets {
        // However it ends, it is done.
        drop(tokio::time::timeout_at(until, ticket.go_alone()).await);
    }
}

fn fail(tickets: Vec<Ticket>, error: impl Fn() -> DbError) {
    for ticket in tickets {
        ticket.tell(Verdict::Failed(error()));
    }
}
