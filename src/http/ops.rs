//! The operations port: is it alive, is it ready and what is missing, and the metrics. No business, no credentials: it
//! is not to be reached from outside.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::problem::{Code, Problem};
use crate::app::{App, Readiness};
use crate::redis::Redis;
use crate::telemetry::{Exposition, MetricsHandle, record};
use crate::{clock, db};

const DATABASE_WITHIN: Duration = Duration::from_secs(1);
/// What a scraper that reads exemplars accepts.
const OPENMETRICS: &str = "application/openmetrics-text";

/// What the port tells about.
#[derive(Clone)]
pub struct OpsState {
    /// The app, once there is one.
    pub app: Option<Arc<App>>,
    /// What the others of this process report.
    pub readiness: Arc<Readiness>,
    /// The Redis that helps, if one is set up.
    pub redis: Option<Arc<Redis>>,
    /// The metrics.
    pub metrics: MetricsHandle,
}

/// One thing that must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Whether it may be missing; the process is ready all the same.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    optional: bool,
}

#[derive(Debug, Serialize)]
struct Ready {
    status: &'static str,
    checks: Vec<Check>,
}

impl Check {
    fn of(name: &'static str, reason: Option<String>) -> Self {
        Self { name, ok: reason.is_none(), reason, optional: false }
    }

    fn optional(name: &'static str, reason: Option<String>) -> Self {
        Self { optional: true, ..Self::of(name, reason) }
    }
}

/// The routes of the operations port.
pub fn ops_router(state: OpsState) -> Router {
    Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(async || Problem::new(Code::RouteNotFound, "Here are /livez, /readyz and /metrics."))
        .with_state(state)
}

async fn metrics(State(state): State<OpsState>, headers: HeaderMap) -> Result<impl IntoResponse, Problem> {
    if let Some(app) = &state.app {
        record::pool(app.db.snapshot());
    }
    let exposition = wanted(&headers);
    let rendered = tokio::task::spawn_blocking(move || state.metrics.render_as(exposition)).await;
    let text = rendered.map_err(Problem::internal)?;
    Ok(([(CONTENT_TYPE, exposition.content_type())], text))
}

/// Whoever reads OpenMetrics prefers it: it alone has exemplars.
fn wanted(headers: &HeaderMap) -> Exposition {
    let mut accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    if accepted.any(|value| value.contains(OPENMETRICS)) { Exposition::OpenMetrics } else { Exposition::Text }
}

async fn readyz(State(state): State<OpsState>) -> impl IntoResponse {
    let database = Check::of("database", database(state.app.as_ref()).await);
    let worker_late = state.app.as_ref().map_or(DATABASE_WITHIN, |app| app.settings.worker_lease);
    let mut checks = own_checks(&state.readiness, &database, clock::now(), worker_late);
    checks.insert(0, database);
    let redis = |redis: &Arc<Redis>| {
        let reason = redis.away_because().map(|reason| format!("{reason}; this process does without it"));
        Check::optional("redis", reason)
    };
    checks.extend(state.redis.as_ref().map(redis));
    let is_ready = checks.iter().all(|check| check.ok || check.optional);
    let (code, status) =
        if is_ready { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not_ready") };
    (code, Json(Ready { status, checks }))
}

/// Why the database does not answer in time, if it does not.
async fn database(app: Option<&Arc<App>>) -> Option<String> {
    let Some(app) = app.map(Arc::clone) else { return Some("not connected yet".to_owned()) };
    // A task of its own, so that giving up leaves the pool to finish in peace.
    let ping = tokio::spawn(async move { app.db.read(async |conn| db::overview::ping(conn).await).await });
    match tokio::time::timeout(DATABASE_WITHIN, ping).await {
        Ok(Ok(Ok(()))) => None,
        Ok(Ok(Err(db::DbError::Unavailable(_)))) => Some("no connection".to_owned()),
        Ok(Ok(Err(_)) | Err(_)) => Some("it answers with an error".to_owned()),
        Err(_) => Some("no answer within 1 s".to_owned()),
    }
}

fn own_checks(readiness: &Readiness, database: &Check, now: DateTime<Utc>, worker_late: Duration) -> Vec<Check> {
    // Whoever reads this at night must not migrate a database that is merely away.
    let missing = if database.ok { "run paygauge migrate" } else { "not known without the database" };
    let migrated = (!readiness.is_migrated()).then(|| missing.to_owned());
    let running = readiness.is_shutting_down().then(|| "shutting down".to_owned());
    let mut checks = vec![Check::of("migrations", migrated), Check::of("running", running)];
    if readiness.is_worker_expected() {
        let late = TimeDelta::from_std(worker_late).unwrap_or(TimeDelta::MAX);
        let reason = match readiness.worker_last_ticked() {
            None => Some("no round yet".to_owned()),
            Some(at) if now - at > late => Some(format!("last round {} s ago", (now - at).num_seconds())),
            Some(_) => None,
        };
        checks.push(Check::of("worker", reason));
    }
    checks
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::extract::Request;
    use tower::ServiceExt as _;

    use super::*;

    fn failing(readiness: &Readiness, now: DateTime<Utc>) -> Vec<&'static str> {
        let checks = own_checks(readiness, &Check::of("database", None), now, Duration::from_secs(60));
        checks.iter().filter(|check| !check.ok).map(|check| check.name).collect()
    }

    #[test]
    fn what_is_missing_is_named() {
        let (readiness, now) = (Readiness::default(), clock::now());
        assert_eq!(failing(&readiness, now), ["migrations"]);
        readiness.set_migrated();
        assert!(failing(&readiness, now).is_empty(), "without a worker role nobody waits for a worker");
        readiness.expect_worker();
        assert_eq!(failing(&readiness, now), ["worker"]);
        readiness.worker_ticked(now);
        assert!(failing(&readiness, now).is_empty());
        assert_eq!(failing(&readiness, now + TimeDelta::seconds(62)), ["worker"]);
        readiness.start_shutdown();
        assert_eq!(failing(&readiness, now), ["running"]);
    }

    #[tokio::test]
    async fn without_a_database_it_lives_and_is_not_ready() {
        let metrics = crate::telemetry::for_tests().metrics();
        let router = ops_router(OpsState { app: None, readiness: Arc::default(), redis: None, metrics });
        for (path, status, part) in [
            ("/livez", 200, "alive"),
            ("/readyz", 503, r#"{"name":"database","ok":false,"reason":"not connected yet"}"#),
            ("/readyz", 503, r#"{"name":"migrations","ok":false,"reason":"not known without the database"}"#),
            ("/metrics", 200, "payments_operations_total"),
            ("/nowhere", 404, "route_not_found"),
        ] {
            let request = Request::builder().uri(path).body(Body::empty()).expect("a good request");
            let response = router.clone().oneshot(request).await.expect("infallible");
            assert_eq!(response.status(), status, "{path}");
            let body = axum::body::to_bytes(response.into_body(), 10_000_000).await.expect("a body");
            let text = String::from_utf8_lossy(&body);
            assert!(text.contains(part), "{path}: {text}");
        }
    }
}
