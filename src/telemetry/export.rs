//! From kept traces to the receiver: a queue with a bound, and the thread that empties it.
//!
//! Whoever ends a span only puts it into the queue and never waits. What finds no room is counted and gone; of traces
//! that wait, the ordinary ones make room for those that matter. The exemplars of a trace are published when a receiver
//! has taken it, and not before.

use std::collections::VecDeque;
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry_sdk::trace::{SpanData, SpanExporter};

use super::catalogue as c;
use super::exemplars::Candidate;
use super::labels::SpanResult;
use super::tail::Tail;

/// Spans that wait for the receiver at most.
pub(super) const QUEUE_SPANS_MAX: usize = 8_192;
/// Spans that are sent at a time, and how long to wait for as many.
const BATCH_SPANS: usize = 512;
const BATCH_EVERY: Duration = Duration::from_secs(1);
/// How long one export may take; it runs on a thread of its own.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// A trace, or a part of one, that a receiver is to have.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) spans: Vec<SpanData>,
    pub(super) exemplars: Vec<Candidate>,
    /// Whether it went as most do, and so makes room for others.
    pub(super) is_ordinary: bool,
}

/// What waits for the receiver.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    has_changed: Condvar,
    spans_max: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    traces: VecDeque<Kept>,
    spans: usize,
    is_closing: bool,
    is_done: bool,
}

impl Queue {
    pub(super) fn new(spans_max: usize) -> Self {
        Self { waiting: Mutex::default(), has_changed: Condvar::new(), spans_max }
    }

    /// Adds a trace, if there is or can be made room for it.
    pub(super) fn push(&self, kept: Kept) {
        let mut waiting = self.waiting();
        let size = kept.spans.len();
        while waiting.spans + size > self.spans_max {
            let ordinary = waiting.traces.iter().position(|trace| trace.is_ordinary).filter(|_| !kept.is_ordinary);
            match ordinary.and_then(|at| waiting.traces.remove(at)) {
                Some(given_up) => {
                    waiting.spans -= given_up.spans.len();
                    count(SpanResult::QueueFull, given_up.spans.len());
                }
                None => return count(SpanResult::QueueFull, size),
            }
        }
        if waiting.is_closing {
            return count(SpanResult::QueueFull, size);
        }
        waiting.spans += size;
        waiting.traces.push_back(kept);
        let is_batch = waiting.spans >= BATCH_SPANS;
        drop(waiting);
        if is_batch {
            self.has_changed.notify_all();
        }
    }

    /// The next batch, which may be empty; `None` when nothing will come any more.
    fn next(&self) -> Option<Vec<Kept>> {
        let wait = |waiting: &mut Waiting| waiting.spans < BATCH_SPANS && !waiting.is_closing;
        let waited = self.has_changed.wait_timeout_while(self.waiting(), BATCH_EVERY, wait);
        let mut waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        if waiting.is_closing && waiting.traces.is_empty() {
            return None;
        }
        let (mut batch, mut spans) = (Vec::new(), 0);
        while spans < BATCH_SPANS
            && let Some(kept) = waiting.traces.pop_front()
        {
            spans += kept.spans.len();
            batch.push(kept);
        }
        waiting.spans -= spans;
        Some(batch)
    }

    /// Takes nothing more and waits for what is left to be sent; `false` if that takes longer than `limit`.
    pub(super) fn close(&self, limit: Duration) -> bool {
        let mut waiting = self.waiting();
        waiting.is_closing = true;
        self.has_changed.notify_all();
        let waited = self.has_changed.wait_timeout_while(waiting, limit, |waiting| !waiting.is_done);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_done
    }

    fn done(&self) {
        self.waiting().is_done = true;
        self.has_changed.notify_all();
    }

    /// Everything that waits, in its order.
    #[cfg(test)]
    pub(super) fn take_all(&self) -> Vec<SpanData> {
        let mut waiting = self.waiting();
        waiting.spans = 0;
        waiting.traces.drain(..).flat_map(|kept| kept.spans).collect()
    }

    /// How many spans wait.
    #[cfg(test)]
    pub(super) fn spans(&self) -> usize {
        self.waiting().spans
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts what became of spans.
pub(super) fn count(result: SpanResult, spans: usize) {
    c::TRACE_SPANS.of((result,)).increment(u64::try_from(spans).unwrap_or(u64::MAX));
}

/// Starts the thread that sends what `tail` keeps. `exporter` is built on it, in its own runtime.
///
/// # Errors
/// Why there is no exporter, or no thread.
pub(super) fn start<E>(
    tail: Arc<Tail>,
    exporter: impl FnOnce() -> Result<E, String> + Send + 'static,
) -> Result<(), String>
where
    E: SpanExporter + 'static,
{
    let (tell, told) = mpsc::channel();
    let thread = std::thread::Builder::new().name("traces-export".to_owned());
    let work = move || {
        let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let built = built.map_err(|error| error.to_string()).and_then(|runtime| {
            let entered = runtime.enter();
            let exporter = exporter()?;
            drop(entered);
            Ok((runtime, exporter))
        });
        let running = match built {
            Ok((runtime, exporter)) => tell.send(Ok(())).map(|()| (runtime, exporter)).ok(),
            // Nobody listens any more: nobody wants it.
            Err(reason) => tell.send(Err(reason)).ok().and(None),
        };
        if let Some((runtime, exporter)) = running {
            send_all(&tail, &runtime, &exporter);
        }
    };
    thread.spawn(work).map_err(|error| error.to_string())?;
    told.recv().map_err(|error| error.to_string())?
}

fn send_all(tail: &Tail, runtime: &tokio::runtime::Runtime, exporter: &impl SpanExporter) {
    while let Some(batch) = tail.queue().next() {
        tail.sweep(std::time::Instant::now());
        let (mut spans, mut exemplars) = (Vec::new(), Vec::new());
        for kept in batch {
            spans.extend(kept.spans);
            exemplars.extend(kept.exemplars);
        }
        if spans.is_empty() {
            continue;
        }
        let size = spans.len();
        let sent = runtime.block_on(async { tokio::time::timeout(EXPORT_TIMEOUT, exporter.export(spans)).await });
        if matches!(sent, Ok(Ok(()))) {
            count(SpanResult::Exported, size);
            tail.store().publish(exemplars);
        } else {
            count(SpanResult::ExportFailed, size);
        }
    }
    tail.queue().done();
}
