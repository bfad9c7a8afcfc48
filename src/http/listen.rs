//! Takes connections and serves a router on them, bounded in every direction: how many are open, how long a request's
//! head may take to arrive, how long a client may keep the end of the process waiting.
//!
//! Used by `serve` for the API and for the operations port. HTTP/1.1 only: what terminates TLS in front speaks it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

/// Further clients wait in the listener's queue: they must not take the descriptors that the database and the PG need.
const CONNECTIONS_MAX: usize = 4096;
/// How long the next request's head may take, an idle connection included. Longer than proxies keep theirs idle (60 s),
/// so that the proxy and not we choose when to close.
const HEAD_WITHIN: Duration = Duration::from_secs(75);
/// When stopping: what a client has to take the last bytes of its answer, or to finish a head it has begun.
const FAREWELL: Duration = Duration::from_secs(1);
/// After a failure to accept that is not the client's (no descriptors left).
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(200);

/// The other end of the connection that a request came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

/// How a listener ends. A proxy that keeps connections may send a request into one that is just being closed, and may
/// not send it again if it could have been taken: so it is asked to give its connections up before they are closed.
#[derive(Debug, Clone, Default)]
pub struct End {
    /// The end is near: everybody is answered, and asked to come by another connection next time.
    pub near: CancellationToken,
    /// Nobody new is taken.
    pub stop: CancellationToken,
    /// How long after that a connection that was opened at the last moment may still bring its first request.
    pub linger: Duration,
}

impl End {
    /// An end without notice.
    #[must_use]
    pub fn at(stop: CancellationToken) -> Self {
        Self { near: stop.clone(), stop, linger: Duration::ZERO }
    }
}

/// Serves until `end.stop`, and then until the requests in hand are answered.
pub async fn listen(listener: TcpListener, router: Router, end: End) {
    listen_within(listener, router, end, HEAD_WITHIN).await;
}

async fn listen_within(listener: TcpListener, router: Router, end: End, head_within: Duration) {
    let (connections, room) = (TaskTracker::new(), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
    loop {
        let next = async {
            // Never closed; without a permit nothing is accepted.
            let permit = Arc::clone(&room).acquire_owned().await.ok()?;
            Some((listener.accept().await, permit))
        };
        let (accepted, permit) = tokio::select! {
            () = end.stop.cancelled() => break,
            Some(next) = next => next,
        };
        match accepted {
            Ok((stream, peer)) => {
                let serving = serve(stream, Peer(peer.ip()), router.clone(), end.clone(), head_within);
                connections.spawn(async move {
                    serving.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }
    for (stream, peer) in waiting(listener) {
        connections.spawn(serve(stream, peer, router.clone(), end.clone(), head_within));
    }
    connections.close();
    connections.wait().await;
}

/// Closes the listener, so that clients that come from now on are refused, not left waiting. Those who wait in its queue
/// believe to be connected, and may have sent their requests: they would be cut off.
fn waiting(listener: TcpListener) -> Vec<(TcpStream, Peer)> {
    let mut queued = Vec::new();
    let Ok(listener) = listener.into_std() else { return queued };
    while queued.len() < CONNECTIONS_MAX
        && let Ok((stream, peer)) = listener.accept()
    {
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        queued.extend(stream.ok().map(|stream| (stream, Peer(peer.ip()))));
    }
    queued
}

async fn serve(stream: TcpStream, peer: Peer, router: Router, end: End, head_within: Duration) {
    // Answers are small: none waits for the next.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection that is gone already");
    }
    let requests = TaskTracker::new();
    let in_hand = requests.clone();
    let service = router.map_request(move |mut request: hyper::Request<_>| {
        request.extensions_mut().insert(peer);
        request.map(axum::body::Body::new)
    });
    let near = end.near.clone();
    let service = tower::service_fn(move |request| {
        let (answer, near) = (service.clone().oneshot(request), near.clone());
        in_hand.track_future(async move {
            let mut answer = answer.await?;
            if near.is_cancelled() {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, std::convert::Infallible>(answer)
        })
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(head_within);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = std::pin::pin!(connection);
    // How a connection ends is the client's business; what it asked has its own line.
    tokio::select! {
        _ended = connection.as_mut() => return,
        () = lingered(&end) => connection.as_mut().graceful_shutdown(),
    }
    requests.close();
    let farewell = async {
        requests.wait().await;
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        _ended = connection => {}
        () = farewell => {}
    }
}

async fn lingered(end: &End) {
    end.stop.cancelled().await;
    tokio::time::sleep(end.linger).await;
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::Notify;
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    struct Started {
        addr: SocketAddr,
        end: End,
        done: JoinHandle<()>,
    }

    async fn start(router: Router, head_within: Duration) -> Started {
        start_to(End::at(CancellationToken::new()), router, head_within).await
    }

    async fn start_to(end: End, router: Router, head_within: Duration) -> Started {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let done = tokio::spawn(listen_within(listener, router, end.clone(), head_within));
        Started { addr, end, done }
    }

    async fn sent(addr: SocketAddr, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(addr).await.expect("it listens");
        stream.write_all(bytes).await.expect("it reads");
        stream
    }

    async fn all_of(stream: &mut TcpStream) -> String {
        let mut text = Vec::new();
        // A reset is an end, too.
        drop(timeout(SOON, stream.read_to_end(&mut text)).await.expect("the connection ends"));
        String::from_utf8_lossy(&text).into_owned()
    }

    #[tokio::test]
    async fn a_head_that_never_ends_is_given_up() {
        let started = start(Router::new(), Duration::from_millis(50)).await;
        for begun in [&b""[..], b"GET / HTTP/1.1\r\nX-Slow: "] {
            let text = all_of(&mut sent(started.addr, begun).await).await;
            assert!(!text.contains("200"), "{text}");
        }
    }

    #[tokio::test]
    async fn an_answer_may_take_longer_than_a_head() {
        let stream = get(async || {
            let ticks = futures_util::stream::unfold(0, async |tick: u8| {
                tokio::time::sleep(Duration::from_millis(50)).await;
                (tick < 10).then(|| (Ok::<_, std::convert::Infallible>(format!("tick {tick}\n")), tick + 1))
            });
            axum::body::Body::from_stream(ticks)
        });
        let started = start(Router::new().route("/stream", stream), Duration::from_millis(50)).await;
        let text = all_of(&mut sent(started.addr, b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n").await).await;
        assert!(text.contains("tick 9") && text.ends_with("0\r\n\r\n"), "{text}");
    }

    #[tokio::test]
    async fn the_end_waits_for_requests_in_hand_and_for_nobody_else() {
        let (arrived, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (here, wait) = (Arc::clone(&arrived), Arc::clone(&go));
        let slow = get(move || async move {
            here.notify_one();
            wait.notified().await;
            "the whole answer"
        });
        let started = start(Router::new().route("/slow", slow), HEAD_WITHIN).await;
        let mut silent = sent(started.addr, b"").await;
        let mut half = sent(started.addr, b"GET /slow HTTP/1.1\r\nX-Slow: ").await;
        let mut asking = sent(started.addr, b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
        timeout(SOON, arrived.notified()).await.expect("the request arrives");
        started.end.stop.cancel();
        assert_eq!((all_of(&mut silent).await, all_of(&mut half).await), (String::new(), String::new()));
        assert!(!started.done.is_finished(), "a request is in hand");
        go.notify_one();
        assert!(all_of(&mut asking).await.ends_with("the whole answer"));
        timeout(SOON, started.done).await.expect("nothing is left to wait for").expect("no panic");
    }

    #[tokio::test]
    async fn whoever_keeps_a_connection_is_asked_to_give_it_up_before_it_is_closed() {
        const ASK: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let near_then_stop =
            End { near: CancellationToken::new(), stop: CancellationToken::new(), linger: Duration::from_secs(60) };
        let started = start_to(near_then_stop, Router::new().route("/", get(async || "here")), HEAD_WITHIN).await;
        let mut kept = sent(started.addr, ASK).await;
        let mut first = [0; 512];
        let length = timeout(SOON, kept.read(&mut first)).await.expect("an answer").expect("bytes");
        let first = String::from_utf8_lossy(&first[..length]).to_lowercase();
        assert!(first.ends_with("here") && !first.contains("connection: close"), "{first}");

        started.end.near.cancel();
        kept.write_all(ASK).await.expect("the connection is still good");
        let mut came_meanwhile = sent(started.addr, ASK).await;
        let last_moment = sent(started.addr, b"").await;
        for stream in [&mut kept, &mut came_meanwhile] {
            let text = all_of(stream).await.to_lowercase();
            assert!(text.contains("connection: close") && text.ends_with("here"), "{text}");
        }

        started.end.stop.cancel();
        let refused = async {
            while TcpStream::connect(started.addr).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, refused).await.expect("nobody new is taken");
        let mut last_moment = last_moment;
        last_moment.write_all(ASK).await.expect("it was let in");
        assert!(all_of(&mut last_moment).await.ends_with("here"), "it is still answered");
        timeout(SOON, started.done).await.expect("nobody is left to wait for").expect("no panic");
    }
}
