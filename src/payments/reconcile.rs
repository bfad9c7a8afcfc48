//! Reconciliation: compares the PG's transaction list with our books, both ways, files what differs, and repairs what
//! evidence alone can repair.
//!
//! The list only says where to look. What is looked at is judged by the PG's own view of the payment, and goes through
//! `resolve` like any other evidence; no state is set here. A run can end anywhere: the next one sees the same again.

mod examine;
mod filing;
mod stranger;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

use self::examine::{Examined, Item};
use super::resolve::ResolveError;
use crate::app::App;
use crate::clock;
use crate::db::events::Origin;
use crate::db::payments::PaymentRow;
use crate::db::reconciliations::{self, Booked, Turn, Wanted};
use crate::db::{self, DbError, findings};
use crate::domain::evidence::PaymentKey;
use crate::domain::reconciliation::{Books, FindingKind, Given, Listed, Window, explains};
use crate::provider::{ListRequest, Listing, Page};
use crate::telemetry::labels::{ReconcileOutcome, Tx};
use crate::telemetry::record;

/// Rows of our own that are read at once.
const OWN_ROWS: i64 = 500;
/// Findings that are looked at again in one run.
const REVISITED_ROWS: i64 = 100;
/// A PG that leaves more questions in a row unanswered is asked no more in this run.
const UNANSWERED_MAX: u32 = 3;
/// A PG whose pages never end is not believed.
const PAGES_MAX: u32 = 100_000;
/// A run that did not come to its end is tried again soon.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Which time to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// From where the last complete run ended, with some overlap, to what has settled.
    Next,
    /// This time; how far everything was compared stays as it is.
    Between {
        /// Its beginning.
        from: DateTime<Utc>,
        /// Its end; what has not settled is left out.
        until: DateTime<Utc>,
    },
}

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Report {
    /// Which PG.
    pub provider: &'static str,
    /// What was compared; `None` if nothing has settled yet.
    pub window: Option<Window>,
    /// How it ended.
    pub outcome: ReconcileOutcome,
    /// Why it did not come to its end.
    pub trouble: Option<String>,
    /// Rows of the PG's list.
    pub transactions: u64,
    /// Payments of ours that our own verbs were still at.
    pub in_flight: u64,
    /// Differences that were not known before.
    pub filed: u64,
    /// Differences that are gone.
    pub repaired: u64,
    /// What is not settled now, by kind.
    pub unsettled: Vec<(FindingKind, i64)>,
}

/// Runs if a run is due; returns how many rows of the list were compared.
pub async fn run_if_due(app: &App, trace_id: Option<String>) -> Result<usize, DbError> {
    let origin = Origin { actor: "reconcile".to_owned(), trace_id };
    let every = app.settings.reconcile_every;
    let Some(turn) = take_turn(app, Wanted::WhenDue { every }).await? else { return Ok(0) };
    let report = with_turn(app, turn, Span::Next, &origin).await?;
    Ok(usize::try_from(report.transactions).unwrap_or(usize::MAX))
}

/// Runs now, unless another run is at it.
pub async fn run(app: &App, span: Span, origin: &Origin) -> Result<Report, DbError> {
    if let Some(turn) = take_turn(app, Wanted::Now).await? {
        return with_turn(app, turn, span, origin).await;
    }
    record::reconcile_run(app.provider.label(), ReconcileOutcome::Busy);
    let mut report = empty(app);
    report.outcome = ReconcileOutcome::Busy;
    report.trouble = Some("another run is under way".to_owned());
    report.unsettled = app.db.read(async |conn| findings::unsettled_counts(conn).await).await?;
    Ok(report)
}

async fn take_turn(app: &App, wanted: Wanted) -> Result<Option<Turn>, DbError> {
    let (provider, lease) = (app.provider.name(), app.settings.worker_lease);
    app.db.transaction(Tx::Lease, async |conn| reconciliations::begin(conn, provider, wanted, lease).await).await
}

fn empty(app: &App) -> Report {
    Report {
        provider: app.provider.name(),
        window: None,
        outcome: ReconcileOutcome::Complete,
        trouble: None,
        transactions: 0,
        in_flight: 0,
        filed: 0,
        repaired: 0,
        unsettled: Vec::new(),
    }
}

async fn with_turn(app: &App, turn: Turn, span: Span, origin: &Origin) -> Result<Report, DbError> {
    let report = empty(app);
    let mut run = Run {
        app,
        turn,
        origin,
        report,
        renewed: Instant::now(),
        unanswered: 0,
        unanswered_in_a_row: 0,
        failed: 0,
        held_at: None,
    };
    let ended = run.compare(span).await;
    let Run { mut report, failed, unanswered, held_at, .. } = run;
    report.trouble = match &ended {
        Ok(()) if failed > 0 => Some(format!("{failed} payment(s) could not be judged: see the log")),
        Ok(()) if unanswered > 0 => Some(format!("the PG left {unanswered} question(s) unanswered")),
        Ok(()) => None,
        Err(stop) => Some(stop.to_string()),
    };
    if report.trouble.is_some() {
        report.outcome = ReconcileOutcome::Incomplete;
    }
    let complete = report.outcome == ReconcileOutcome::Complete && span == Span::Next;
    let until =
        report.window.filter(|_| complete).map(|window| held_at.map_or(window.until, |at| at.min(window.until)));
    let next_in = if report.trouble.is_none() {
        app.settings.reconcile_every
    } else {
        AGAIN_AFTER.min(app.settings.reconcile_every)
    };
    report.unsettled = app
        .db
        .transaction(Tx::Lease, async |conn| {
            reconciliations::end(conn, app.provider.name(), turn.owner, until, next_in).await?;
            findings::unsettled_counts(conn).await
        })
        .await?;
    told(app, &report);
    match ended {
        Err(Stop::Db(error)) => Err(error),
        Ok(()) | Err(Stop::TurnLost | Stop::Unanswered(_)) => Ok(report),
    }
}

fn told(app: &App, report: &Report) {
    let label = app.provider.label();
    record::reconcile_run(label, report.outcome);
    match &report.trouble {
        None => tracing::info!(
            transactions = report.transactions,
            in_flight = report.in_flight,
            filed = report.filed,
            repaired = report.repaired,
            "the PG's books and ours were compared"
        ),
        Some(trouble) => tracing::warn!(trouble, "the PG's books could not be compared to the end"),
    }
}

/// Why a run ends early.
#[derive(Debug, thiserror::Error)]
enum Stop {
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// It took so long that another run has its turn.
    #[error("another run has taken over")]
    TurnLost,
    /// The PG does not answer.
    #[error("{0}")]
    Unanswered(String),
}

/// A run under way.
struct Run<'a> {
    app: &'a App,
    turn: Turn,
    origin: &'a Origin,
    report: Report,
    renewed: Instant,
    /// Questions that the PG left open, and how many of them one after the other. It may be unable to show some
    /// payments for ever: they must not hide the others.
    unanswered: u32,
    unanswered_in_a_row: u32,
    /// Payments whose evidence could not be recorded.
    failed: u32,
    /// The oldest moment about which our own verbs were still at work: nothing behind it counts as compared.
    held_at: Option<DateTime<Utc>>,
}

/// What the list has shown.
#[derive(Default)]
struct Seen {
    /// Payments with money or a cancel.
    payments: HashSet<PaymentKey>,
    transactions: HashSet<String>,
}

impl Run<'_> {
    async fn compare(&mut self, span: Span) -> Result<(), Stop> {
        self.revisit().await?;
        self.report.window = self.window(span);
        let Some(window) = self.report.window else { return Ok(()) };
        let seen = self.theirs(window).await?;
        self.ours(window, &seen).await
    }

    fn window(&self, span: Span) -> Option<Window> {
        let settings = &self.app.settings;
        let back = |at: DateTime<Utc>, by: Duration| TimeDelta::from_std(by).map_or(at, |by| at - by);
        let settled = back(clock::now(), settings.reconcile_settle);
        match span {
            Span::Between { from, until } => Window::covering(from, until.min(settled)),
            Span::Next => {
                let from = self.turn.reconciled_until.map_or_else(
                    || back(settled, settings.reconcile_reach),
                    |until| back(until, settings.reconcile_overlap),
                );
                Window::covering(from, settled)
            }
        }
    }

    /// Looks again at what is not settled: a run may have died over it, and a person may have dealt with it.
    async fn revisit(&mut self) -> Result<(), Stop> {
        let provider = self.app.provider.name();
        let keys =
            self.app.db.read(async |conn| findings::unsettled_keys(conn, provider, REVISITED_ROWS).await).await?;
        for key in keys {
            self.examine(Item { key: &key, rows: &[], at: None }).await?;
        }
        Ok(())
    }

    /// Everything that the PG lists must be in our books.
    async fn theirs(&mut self, window: Window) -> Result<Seen, Stop> {
        let (mut seen, mut after) = (Seen::default(), None);
        for _ in 0..PAGES_MAX {
            self.keep_turn().await?;
            let rows_max = self.app.settings.reconcile_page_rows;
            let request = ListRequest { window, after, rows_max };
            let Ok((listing, _)) = self.app.provider.transactions(&request).await else {
                return Err(Stop::Unanswered("the PG is known not to answer now, and was not asked".to_owned()));
            };
            let Page { rows, next } = match listing {
                Listing::Page(page) => page,
                Listing::Unknown(doubt) => {
                    return Err(Stop::Unanswered(format!("the PG gave no list ({})", doubt.reason)));
                }
            };
            if next.as_ref().is_some_and(|next| seen.transactions.contains(next)) {
                return Err(Stop::Unanswered("the PG's list goes in a circle".to_owned()));
            }
            self.page(&rows, &mut seen).await?;
            match next {
                Some(next) => after = Some(next),
                None => return Ok(seen),
            }
        }
        Err(Stop::Unanswered("the PG's list does not end".to_owned()))
    }

    async fn page(&mut self, rows: &[Listed], seen: &mut Seen) -> Result<(), Stop> {
        let count = u64::try_from(rows.len()).unwrap_or(u64::MAX);
        self.report.transactions += count;
        record::reconcile_transactions(self.app.provider.label(), count);
        for (key, rows) in self.suspects(rows).await? {
            let at = rows.iter().filter_map(|row| row.at).min();
            self.examine(Item { key: &key, rows: &rows, at }).await?;
        }
        for row in rows {
            seen.transactions.insert(row.transaction_key.clone());
            if row.is_booked() {
                seen.payments.insert(row.payment_key.clone());
            }
        }
        Ok(())
    }

    /// The payments of a page that our books do not explain, with their rows.
    async fn suspects(&self, rows: &[Listed]) -> Result<Vec<(PaymentKey, Vec<Listed>)>, DbError> {
        let provider = self.app.provider.name();
        let keys: Vec<&str> = rows.iter().map(|row| row.payment_key.as_str()).collect();
        let (payments, given) = self
            .app
            .db
            .read(async |conn| {
                let payments = db::payments::find_by_keys(conn, provider, &keys).await?;
                let ids: Vec<_> = payments.iter().map(|payment| payment.id).collect();
                let given = reconciliations::given_back(conn, &ids).await?;
                Ok::<_, DbError>((payments, given))
            })
            .await?;
        let books_of = |key: &PaymentKey| {
            let payment = payments.iter().find(|payment| payment.provider_payment_key == *key)?;
            let own = given.iter().filter(|(id, _)| *id == payment.id).map(|(_, given)| given.clone());
            Some(books(payment, own.collect()))
        };
        let mut suspects: Vec<(PaymentKey, Vec<Listed>)> = Vec::new();
        for row in rows {
            if books_of(&row.payment_key).is_some_and(|books| explains(&books, row)) {
                continue;
            }
            match suspects.iter_mut().find(|(key, _)| *key == row.payment_key) {
                Some((_, rows)) => rows.push(row.clone()),
                None => suspects.push((row.payment_key.clone(), vec![row.clone()])),
            }
        }
        Ok(suspects)
    }

    /// Everything that our books have must be listed by the PG.
    async fn ours(&mut self, window: Window, seen: &Seen) -> Result<(), Stop> {
        for table in [Table::Approvals, Table::Cancels] {
            let mut after = None;
            loop {
                let booked = self.own_rows(table, window, after).await?;
                for row in &booked {
                    let listed = match &row.transaction_key {
                        Some(key) => seen.transactions.contains(key),
                        None => seen.payments.contains(&row.payment_key),
                    };
                    if !listed {
                        self.examine(Item { key: &row.payment_key, rows: &[], at: row.at }).await?;
                    }
                }
                after = booked.last().and_then(|row| Some((row.at?, row.row)));
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn own_rows(
        &self,
        table: Table,
        window: Window,
        after: Option<reconciliations::After>,
    ) -> Result<Vec<Booked>, DbError> {
        let provider = self.app.provider.name();
        let read = async |conn: &mut db::Conn| match table {
            Table::Approvals => reconciliations::approved_in(conn, provider, window, after, OWN_ROWS).await,
            Table::Cancels => reconciliations::canceled_in(conn, provider, window, after, OWN_ROWS).await,
        };
        self.app.db.read(read).await
    }

    /// Asks the PG about one payment, and deals with what differs.
    async fn examine(&mut self, item: Item<'_>) -> Result<(), Stop> {
        self.keep_turn().await?;
        match examine::examine(self.app, item, self.origin).await {
            Ok(Examined::Settled(tally)) => {
                self.unanswered_in_a_row = 0;
                self.report.filed += tally.filed;
                self.report.repaired += tally.repaired;
            }
            Ok(Examined::InFlight) => {
                self.report.in_flight += 1;
                let held = item.at.or(self.report.window.map(|window| window.from));
                self.held_at = [self.held_at, held].into_iter().flatten().min();
            }
            Ok(Examined::Unanswered) => {
                self.unanswered += 1;
                self.unanswered_in_a_row += 1;
                if self.unanswered_in_a_row > UNANSWERED_MAX {
                    return Err(Stop::Unanswered("the PG does not answer".to_owned()));
                }
            }
            // A database that is away is away for all; whatever else it says is about this payment.
            Err(ResolveError::Db(error @ DbError::Unavailable(_))) => return Err(error.into()),
            Err(error) => {
                self.failed += 1;
                tracing::error!(payment_key = ?item.key, %error, "a payment could not be reconciled, and will be tried again");
            }
        }
        Ok(())
    }

    async fn keep_turn(&mut self) -> Result<(), Stop> {
        let (provider, lease) = (self.app.provider.name(), self.app.settings.worker_lease);
        if self.renewed.elapsed() < lease / 10 {
            return Ok(());
        }
        let owner = self.turn.owner;
        let kept = async |conn: &mut db::Conn| reconciliations::renew(conn, provider, owner, lease).await;
        if !self.app.db.transaction(Tx::Lease, kept).await? {
            return Err(Stop::TurnLost);
        }
        self.renewed = Instant::now();
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Table {
    Approvals,
    Cancels,
}

/// What our books say of a payment.
fn books(payment: &PaymentRow, cancels: Vec<Given>) -> Books {
    Books {
        order_id: payment.order_id.to_string(),
        status: payment.status,
        amount: payment.total(),
        approved_amount: payment.approved_amount,
        approved_at: payment.approved_at,
        canceled_amount: payment.canceled_amount,
        cancels,
    }
}
