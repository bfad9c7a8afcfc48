//! The lean door: the same decisions over a plain hyper listener, for load runs.
//!
//! wiremock serves one request at a time; under load that would be what is measured. Here requests meet at the
//! gateway's own lock only. A cut connection is a service that fails, on which hyper closes without an answer; a held
//! reply sleeps without holding anything up. Started by [`crate::PgMock::start`] for [`crate::Options::lean`]. Knows
//! nothing of payments.

use std::fmt;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use url::Url;

use crate::answer::{Answer, Reply};
use crate::gateway::Gateway;
use crate::server::route;

/// Serves `gateway` on `listener` until the future is dropped, and every connection with it.
///
/// # Errors
/// When the listener cannot be used.
pub(crate) fn serve(listener: TcpListener, gateway: Arc<Gateway>) -> io::Result<impl Future<Output = ()> + Send> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    Ok(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    if let Ok((stream, _)) = accepted {
                        connections.spawn(connection(stream, Arc::clone(&gateway)));
                    }
                }
                Some(_ended) = connections.join_next() => {}
            }
        }
    })
}

async fn connection(stream: TcpStream, gateway: Arc<Gateway>) {
    // Without it the answer would wait for more to send.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| answer(request, Arc::clone(&gateway)));
    // How a client leaves, or is left, is no concern of the book.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, gateway: Arc<Gateway>) -> Result<Response<Full<Bytes>>, Cut> {
    let Some(request) = understood(request).await else {
        return Ok(bare(StatusCode::BAD_REQUEST));
    };
    match route(&gateway, &request) {
        Answer::Cut => Err(Cut),
        Answer::Reply(reply) => {
            if !reply.delay.is_zero() {
                tokio::time::sleep(reply.delay).await;
            }
            Ok(response(reply))
        }
    }
}

/// The request as the handlers know it; `None` if its body breaks off or its address is none.
async fn understood(request: Request<Incoming>) -> Option<wiremock::Request> {
    let (parts, body) = request.into_parts();
    let url = Url::parse(&format!("http://localhost{}", parts.uri)).ok()?;
    let body = body.collect().await.ok()?.to_bytes().to_vec();
    Some(wiremock::Request { url, method: parts.method, headers: parts.headers, body })
}

fn response(reply: Reply) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(reply.body)));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(value) = HeaderValue::from_str(&reply.content_type) {
        response.headers_mut().insert(CONTENT_TYPE, value);
    }
    for (name, value) in reply.headers {
        match HeaderValue::from_str(&value) {
            Ok(value) => response.headers_mut().insert(name, value),
            Err(_) => return bare(StatusCode::INTERNAL_SERVER_ERROR),
        };
    }
    response
}

fn bare(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

/// The reason hyper is given for closing a connection.
#[derive(Debug)]
struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection is cut on purpose")
    }
}

impl std::error::Error for Cut {}
