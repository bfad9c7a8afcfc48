//! The HTTP edge: the route table, and what every request passes.
//!
//! Translates between HTTP and the verbs of `payments/`, and decides nothing about money. Refuses what it can tell by
//! itself (who calls, what is no JSON, what is out of range) before any verb runs.

pub mod auth;
mod cors;
pub mod extract;
pub mod findings;
pub mod idempotency;
pub mod listen;
pub mod middleware;
mod numbers;
mod openapi;
pub mod operators;
pub mod ops;
pub mod orders;
pub mod payments;
pub mod problem;
pub mod products;
pub mod rates;
pub mod rules;
pub mod sales;
pub mod streams;
pub mod verb;
pub mod webhooks;

use std::ops::Deref;
use std::sync::Arc;

use axum::Router;
use axum::http::HeaderValue;
use axum::http::header::CACHE_CONTROL;
use axum::middleware::{from_fn, map_response};
use axum::response::{IntoResponse as _, Response};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::auth::keys::KeyRing;
use self::auth::tokens::Tokens;
pub use self::ops::{OpsState, ops_router};
use self::problem::{Code, Problem};
use self::streams::Streams;
use crate::app::App;
use crate::limits::RateLimiter;

/// What handlers share: the app, and what authentication and rate limits need.
#[derive(Clone)]
pub struct AppState(Arc<Edge>);

struct Edge {
    app: Arc<App>,
    keys: KeyRing,
    tokens: Tokens,
    limiter: RateLimiter,
    streams: Streams,
}

impl AppState {
    /// The state of one API.
    #[must_use]
    pub fn new(app: Arc<App>, tokens: Tokens, limiter: RateLimiter, streams: Streams) -> Self {
        Self(Arc::new(Edge { app, keys: KeyRing::default(), tokens, limiter, streams }))
    }

    /// The API keys.
    #[must_use]
    pub fn keys(&self) -> &KeyRing {
        &self.0.keys
    }

    /// The checkout tokens.
    #[must_use]
    pub fn tokens(&self) -> &Tokens {
        &self.0.tokens
    }

    /// The rate limits.
    #[must_use]
    pub fn limiter(&self) -> &RateLimiter {
        &self.0.limiter
    }

    /// Those who follow their orders.
    #[must_use]
    pub fn streams(&self) -> &Streams {
        &self.0.streams
    }
}

impl Deref for AppState {
    type Target = Arc<App>;

    fn deref(&self) -> &Arc<App> {
        &self.0.app
    }
}

/// The API: every route of `/v1`, its description at `/openapi.json`, and the page that shows it at `/docs`. Pages of
/// `cors_origins` may call it from a browser.
pub fn router(state: AppState, cors_origins: &[String]) -> Router {
    let (v1, described) = routes().split_for_parts();
    v1.with_state(state)
        .layer(from_fn(rates::tell))
        .layer(map_response(never_cached))
        .merge(openapi::docs(openapi::complete(described)))
        .fallback(async || Problem::new(Code::RouteNotFound, "No route has this path."))
        .method_not_allowed_fallback(async || Problem::new(Code::MethodNotAllowed, "See the Allow header."))
        .layer(CatchPanicLayer::custom(after_panic))
        .layer(cors::layer(cors_origins))
        .layer(from_fn(middleware::telemetry::observe))
}

/// The route table. A path names all its methods in one line, so that `Allow` lists them.
fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(openapi::start())
        .routes(routes!(products::list, products::create))
        .routes(routes!(products::get, products::change))
        .routes(routes!(products::adjustments, products::adjust))
        .routes(routes!(orders::list, orders::place))
        .routes(routes!(orders::get))
        .routes(routes!(orders::cancel))
        .routes(routes!(orders::timeline))
        .routes(routes!(streams::follow))
        .routes(routes!(payments::confirm))
        .routes(routes!(payments::list))
        .routes(routes!(payments::get))
        .routes(routes!(payments::cancel))
        .routes(routes!(payments::timeline))
        .routes(routes!(operators::explain))
        .routes(routes!(operators::inquire))
        .routes(routes!(payments::get_cancellation))
        .routes(routes!(findings::list))
        .routes(routes!(findings::close))
        .routes(routes!(sales::list))
        .routes(routes!(webhooks::receive))
}

/// Answers speak of one moment and one caller.
async fn never_cached(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The panic itself is logged where it happened.
fn after_panic(_payload: Box<dyn std::any::Any + Send>) -> Response {
    Problem::internal("a handler panicked").into_response()
}

#[cfg(test)]
mod tests;
