//! The listening server: wiremock, with two mocks that share one decision.
//!
//! wiremock chooses "answer" or "broken connection" by which mock matched. So the first mock's
//! matcher asks the gateway for the answer and matches only if the connection is to be cut; the
//! reply otherwise waits in [`Front::reply`] for the second mock, which matches everything. That is
//! sound because wiremock serves requests one at a time, under a lock, from matcher to responder.
//! Delays are slept by wiremock after that lock is given back, so slow answers do not hold up others.
//!
//! Started by [`crate::PgMock::start`]. Knows nothing of payments.

use std::fmt;
use std::future::Future;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::task::{Context, Waker};

use tokio::runtime::Handle;
use wiremock::matchers::any;
use wiremock::{Match, Mock, MockServer, Request, Respond, ResponseTemplate};

use crate::answer::{Answer, Reply};
use crate::gateway::Gateway;
use crate::{control, toss, window};

/// wiremock remembers every request a mock has matched, even with recording off; after this many
/// the mocks are exchanged for fresh ones.
const REQUESTS_KEPT: u64 = 2_000;

struct Front {
    gateway: Arc<Gateway>,
    reply: Mutex<Option<ResponseTemplate>>,
    served: AtomicU64,
    server: OnceLock<Weak<MockServer>>,
    runtime: Handle,
}

/// Starts serving `gateway` on `listener`.
pub(crate) async fn start(listener: TcpListener, gateway: Arc<Gateway>) -> Arc<MockServer> {
    let server = MockServer::builder().listener(listener).disable_request_recording().start().await;
    let server = Arc::new(server);
    let front = Arc::new(Front {
        gateway,
        reply: Mutex::new(None),
        served: AtomicU64::new(0),
        server: OnceLock::new(),
        runtime: Handle::current(),
    });
    // Set once, right here, so it cannot be set already.
    let _ = front.server.set(Arc::downgrade(&server));
    server.register(cutting(&front)).await;
    server.register(replying(&front)).await;
    server
}

fn cutting(front: &Arc<Front>) -> Mock {
    Mock::given(Decide(Arc::clone(front))).respond_with_err(|_: &Request| Cut).with_priority(1)
}

fn replying(front: &Arc<Front>) -> Mock {
    Mock::given(any()).respond_with(Deliver(Arc::clone(front))).with_priority(2)
}

struct Decide(Arc<Front>);

impl Match for Decide {
    fn matches(&self, request: &Request) -> bool {
        let front = &self.0;
        if front.served.fetch_add(1, Ordering::Relaxed) % REQUESTS_KEPT == REQUESTS_KEPT - 1 {
            forget_requests(front);
        }
        match route(&front.gateway, request) {
            Answer::Cut => true,
            Answer::Reply(reply) => {
                *front.reply.lock().unwrap_or_else(PoisonError::into_inner) = Some(reply.into_template());
                false
            }
        }
    }
}

struct Deliver(Arc<Front>);

impl Respond for Deliver {
    fn respond(&self, _request: &Request) -> ResponseTemplate {
        self.0.reply.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_else(|| ResponseTemplate::new(500))
    }
}

/// The reason wiremock is given for closing a connection.
#[derive(Debug)]
struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection is cut on purpose")
    }
}

impl std::error::Error for Cut {}

/// Which module answers, by the path.
pub(crate) fn route(gateway: &Gateway, request: &Request) -> Answer {
    let path = request.url.path();
    if path.starts_with("/v1/") {
        toss::handle(gateway, request)
    } else if path == "/window" || path.starts_with("/window/") {
        window::handle(gateway, request).into()
    } else if path.starts_with("/mock/") {
        control::handle(gateway, request).into()
    } else {
        Reply::json(404, &toss::error_body("NOT_FOUND")).into()
    }
}

/// Exchanges the mocks for fresh ones without a moment at which no mock is there.
///
/// The caller runs inside wiremock's lock, so a first poll of each of these futures puts them into
/// the lock's queue next to one another, ahead of any later request; the queue is fair, so nothing
/// can come between the reset and the registrations.
fn forget_requests(front: &Arc<Front>) {
    let Some(server) = front.server.get().and_then(Weak::upgrade) else {
        return;
    };
    let steps: [Pin<Box<dyn Future<Output = ()> + Send>>; 3] = [
        Box::pin({
            let server = Arc::clone(&server);
            async move { server.reset().await }
        }),
        Box::pin({
            let (server, mock) = (Arc::clone(&server), cutting(front));
            async move { server.register(mock).await }
        }),
        Box::pin({
            let (server, mock) = (server, replying(front));
            async move { server.register(mock).await }
        }),
    ];
    // Unconstrained, because a spent cooperative budget would return before joining the queue.
    let mut steps = steps.map(tokio::task::unconstrained);
    let mut context = Context::from_waker(Waker::noop());
    for step in &mut steps {
        let _ = Pin::new(step).poll(&mut context);
    }
    front.runtime.spawn(async move {
        for step in steps {
            step.await;
        }
    });
}
