//! Live order status: a stream of server-sent events for a browser that waits.
//!
//! A stream says how the order stands at once, and again whenever its history has grown. It never says what changed:
//! each event is the whole order as read from the database, so that nothing depends on the one before. Between two
//! events it holds a place at a bell (`news`) and no connection to the database, and few streams read at a time, so that
//! waiting takes nothing from paying.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::AppState;
use super::auth::OrderParty;
use super::extract::Id;
use super::problem::{Code, Problem, order_not_found};
use crate::domain::ids::OrderId;
use crate::domain::order::{self, OrderStatus};
use crate::news::Watch;
use crate::payments::cancel_order::CancelOrderError;
use crate::payments::live::{self, Snapshot};
use crate::payments::view::OrderView;
use crate::telemetry::labels::StreamEnd;
use crate::telemetry::record;

/// A comment is sent when nothing else was for so long: proxies close what is silent for a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Streams that read the database at a time.
const READERS_MAX: usize = 2;
/// How long a browser waits before it comes again: some time between the two, so that not all come at once.
const COME_AGAIN_MS: std::ops::Range<u64> = 500..2_500;
/// Tells nginx to pass events on as they come.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The streams of one process.
pub struct Streams {
    room: Arc<Semaphore>,
    readers: Semaphore,
    life: Duration,
    stop: CancellationToken,
}

impl Streams {
    /// At most `streams_max` at a time, none for longer than `life`, none after `stop`.
    #[must_use]
    pub fn new(streams_max: u32, life: Duration, stop: CancellationToken) -> Self {
        let streams_max = usize::try_from(streams_max).unwrap_or(Semaphore::MAX_PERMITS);
        Self { room: Arc::new(Semaphore::new(streams_max)), readers: Semaphore::new(READERS_MAX), life, stop }
    }
}

/// Follow an order
///
/// Server-sent events: one event `order` at once with the order as it is, and one whenever something has happened to it,
/// its payment or its cancellations. `id` counts what has happened. The stream ends when the order is `canceled` or
/// `expired`, and after some minutes in any case: come again, and nothing is lost. A browser reads it with `fetch`, which
/// can send the credential; `EventSource` cannot.
#[utoipa::path(get, path = "/v1/orders/{id}/events", operation_id = "followOrder", tag = "orders",
    params(("id" = String, Path, pattern = "^ord_[0-9a-f]{32}$", description = "`ord_…`")),
    responses((status = 200, description = "Events; `data` is the order as JSON.", body = OrderView, content_type = "text/event-stream")),
    security(("secretKey" = []), ("checkoutToken" = [])))]
pub async fn follow(
    State(state): State<AppState>,
    OrderParty(caller): OrderParty,
    Id(id): Id<OrderId>,
) -> Result<Response, Problem> {
    if !caller.reaches(id) {
        return Err(order_not_found());
    }
    let Ok(place) = Arc::clone(&state.streams().room).try_acquire_owned() else {
        return Err(Problem::new(Code::TooManyStreams, "As many follow their orders here as can be served."));
    };
    // Before the order is read, so that no change falls between the two.
    let watch = state.news.watch(id);
    let follower = Follower::begin(state, id, watch, place).await?;
    let events = futures_util::stream::unfold(follower, Follower::next);
    let stream = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    Ok(([(ACCEL_BUFFERING, HeaderValue::from_static("no"))], stream).into_response())
}

/// One stream.
struct Follower {
    state: AppState,
    order: OrderId,
    watch: Watch,
    /// What is to be sent next.
    news: Option<Snapshot>,
    is_first: bool,
    seen: Option<i64>,
    until: Instant,
    /// Why the stream is over; a client that leaves does not say so.
    end: Option<StreamEnd>,
    _place: OwnedSemaphorePermit,
    _open: record::Active,
}

impl Follower {
    async fn begin(
        state: AppState,
        order: OrderId,
        watch: Watch,
        place: OwnedSemaphorePermit,
    ) -> Result<Self, CancelOrderError> {
        let news = {
            // Never closed. A crowd that comes back at once waits its turn: it must take nothing from who pays.
            let _turn = state.streams().readers.acquire().await.ok();
            live::unless_seen(&state, order, None).await?
        };
        let until = Instant::now() + state.streams().life;
        let open = record::stream_open();
        Ok(Self { state, order, watch, news, is_first: true, seen: None, until, end: None, _place: place, _open: open })
    }

    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            if let Some(snapshot) = self.news.take() {
                return self.told(&snapshot).map(|event| (Ok(event), self));
            }
            if self.end.is_some() {
                return None;
            }
            self.wait().await;
        }
    }

    /// The event; `None` ends the stream.
    fn told(&mut self, snapshot: &Snapshot) -> Option<Event> {
        self.seen = Some(snapshot.events);
        self.watch.seen(self.seen);
        if OrderStatus::parse(snapshot.order.status).is_some_and(order::is_final) {
            self.end = Some(StreamEnd::Final);
        }
        let event = Event::default().event("order").id(snapshot.events.to_string());
        let event = event.json_data(&snapshot.order).ok()?;
        if std::mem::take(&mut self.is_first) {
            return Some(event.retry(Duration::from_millis(rand::random_range(COME_AGAIN_MS))));
        }
        Some(event)
    }

    /// Waits for something to send, or for the end.
    async fn wait(&mut self) {
        let streams = self.state.streams();
        let read = async {
            self.watch.rung().await;
            // Never closed.
            let _turn = streams.readers.acquire().await.ok()?;
            Some(live::unless_seen(&self.state, self.order, self.seen).await)
        };
        let read = tokio::select! {
            biased;
            () = streams.stop.cancelled() => return self.end = Some(StreamEnd::Stopping),
            () = sleep_until(self.until) => return self.end = Some(StreamEnd::Life),
            read = read => read,
        };
        match read {
            Some(Ok(news)) => self.news = news,
            // The next look rings again.
            Some(Err(_)) | None => self.watch.seen(None),
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        record::stream_ended(self.end.unwrap_or(StreamEnd::ClientLeft));
    }
}
