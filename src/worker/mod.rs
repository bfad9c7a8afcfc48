//! Background work: one loop per task, each taking no input but the state of the database.
//!
//! A loop wakes by its timer or by a nudge of this process, takes bounded batches until none is left, and says how it
//! went. Several processes may run it: rows are leased, so no two of them do the same thing at a time.

mod audit;
mod gauges;
pub mod housekeeping;
mod reconcile;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::gauges::Gauges;
use crate::app::{App, Readiness};
use crate::clock;
use crate::db::DbError;
use crate::payments::{expire, recovery, sales, webhook};
use crate::telemetry::facts::{self, Fact};
use crate::telemetry::labels::{Task, TickResult};
use crate::telemetry::{Span, SpanKind, canonical, current_trace_id, record, traces};

/// How long a task rests after the database failed it.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// How often the gauges are computed.
const GAUGES_EVERY: Duration = Duration::from_secs(5);
/// How often what was sold is counted.
const SALES_EVERY: Duration = Duration::from_secs(5);
/// How often old rows are swept.
const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(60);

/// Runs every task until `stop`; each finishes the batch it has in hand.
pub async fn run(app: Arc<App>, readiness: Arc<Readiness>, stop: CancellationToken) {
    let worker = Worker { app, readiness };
    let poll = worker.app.settings.worker_poll;
    let tasks = [
        tokio::spawn(recovery_loop(worker.clone(), stop.clone(), poll)),
        tokio::spawn(webhooks_loop(worker.clone(), stop.clone(), poll)),
        tokio::spawn(expiry_loop(worker.clone(), stop.clone(), poll)),
        tokio::spawn(gauges_loop(worker.clone(), stop.clone())),
        tokio::spawn(audit::changed_loop(worker.clone(), stop.clone())),
        tokio::spawn(audit::full_loop(worker.clone(), stop.clone())),
        tokio::spawn(housekeeping_loop(worker.clone(), stop.clone())),
        tokio::spawn(sales_loop(worker.clone(), stop.clone())),
        tokio::spawn(reconcile_loop(worker, stop)),
    ];
    for task in tasks {
        if let Err(error) = task.await {
            tracing::error!(%error, "a worker task ended by itself");
        }
    }
}

/// What every loop has.
#[derive(Clone)]
struct Worker {
    app: Arc<App>,
    readiness: Arc<Readiness>,
}

async fn recovery_loop(worker: Worker, stop: CancellationToken, poll: Duration) {
    while awake(&stop, &worker.app.nudges.recovery, poll).await {
        worker.tick(Task::Recovery, async |app| recovery::recover_batch(app).await).await;
    }
}

async fn webhooks_loop(worker: Worker, stop: CancellationToken, poll: Duration) {
    while awake(&stop, &worker.app.nudges.webhooks, poll).await {
        worker.tick(Task::Webhooks, async |app| webhook::apply_batch(app).await).await;
    }
}

async fn expiry_loop(worker: Worker, stop: CancellationToken, poll: Duration) {
    let never = Notify::new();
    while awake(&stop, &never, poll).await {
        worker.tick(Task::Expiry, async |app| expire::expire_batch(app, current_trace_id()).await).await;
    }
}

async fn gauges_loop(worker: Worker, stop: CancellationToken) {
    let never = Notify::new();
    let gauges = Arc::new(Gauges::new(worker.app.db.clone()));
    while awake(&stop, &never, GAUGES_EVERY).await {
        let showing = Arc::clone(&gauges);
        worker.tick(Task::Overview, move |_: &Arc<App>| Arc::clone(&showing).refresh()).await;
    }
}

async fn housekeeping_loop(worker: Worker, stop: CancellationToken) {
    let never = Notify::new();
    while awake(&stop, &never, HOUSEKEEPING_EVERY).await {
        let ending = stop.clone();
        worker.tick(Task::Housekeeping, move |app: &Arc<App>| swept(Arc::clone(app), ending.clone())).await;
    }
}

async fn swept(app: Arc<App>, stop: CancellationToken) -> Result<usize, DbError> {
    housekeeping::sweep(&app, &stop).await
}

async fn sales_loop(worker: Worker, stop: CancellationToken) {
    let never = Notify::new();
    while awake(&stop, &never, SALES_EVERY).await {
        let ending = stop.clone();
        worker.tick(Task::Sales, move |app: &Arc<App>| counted(Arc::clone(app), ending.clone())).await;
    }
}

async fn counted(app: Arc<App>, stop: CancellationToken) -> Result<usize, DbError> {
    sales::count(&app.db, &stop).await
}

async fn reconcile_loop(worker: Worker, stop: CancellationToken) {
    let never = Notify::new();
    let poll = reconcile::poll(&worker.app.settings);
    while awake(&stop, &never, poll).await {
        let round = worker.tick(Task::Reconcile, async |app| reconcile::compare(app).await);
        // A run may last long and can end anywhere: a shutdown does not wait for it.
        tokio::select! {
            () = round => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Waits for the timer or a nudge; `false` once it is time to stop.
async fn awake(stop: &CancellationToken, nudge: &Notify, poll: Duration) -> bool {
    tokio::select! {
        () = stop.cancelled() => false,
        () = nudge.notified() => true,
        () = tokio::time::sleep(poll) => true,
    }
}

/// A round that panics has failed, and no more: its loop goes on, as it does after any other failure.
async fn or_failed(task: Task, round: impl Future<Output = TickResult>) -> TickResult {
    AssertUnwindSafe(round).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!(task = task.as_str(), "a round panicked, and will be tried again");
        TickResult::Failed
    })
}

impl Worker {
    /// One round of a task, in a trace of its own.
    async fn tick(&self, task: Task, work: impl AsyncFn(&Arc<App>) -> Result<usize, DbError>) {
        let span = Span::root(SpanKind::Internal, ["worker", " ", task.as_str()]);
        span.tell("payments.worker.task", task.as_str());
        let (began, worked) = (Instant::now(), AtomicUsize::new(0));
        let round = async {
            match work(&self.app).await {
                Ok(0) => {
                    traces::rows(0);
                    TickResult::Idle
                }
                Ok(rows) => {
                    traces::rows(rows);
                    facts::tell(Fact::Rows(u64::try_from(rows).unwrap_or(u64::MAX)));
                    worked.store(rows, Ordering::Relaxed);
                    TickResult::Worked
                }
                Err(error) => {
                    tracing::warn!(task = task.as_str(), %error, "a round failed, and will be tried again");
                    TickResult::Failed
                }
            }
        };
        let result = or_failed(task, span.scope(canonical::round(task, round))).await;
        if result == TickResult::Failed {
            span.in_scope(|| traces::failed("error"));
        }
        drop(span);
        let rows = u64::try_from(worked.load(Ordering::Relaxed)).unwrap_or(u64::MAX);
        record::worker_round(task, began.elapsed(), rows);
        record::worker_tick(task, result, clock::now());
        if result == TickResult::Failed {
            tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
        } else {
            self.readiness.worker_ticked(clock::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_round_that_panics_has_failed_and_does_not_end_its_loop() {
        let panics = async { if true { panic!("a defect") } else { TickResult::Idle } };
        assert_eq!(or_failed(Task::Recovery, panics).await, TickResult::Failed);
        assert_eq!(or_failed(Task::Recovery, async { TickResult::Worked }).await, TickResult::Worked);
    }
}
