//! The outermost layer: request id, server span, request metrics, `Server-Timing`, and one canonical log line.
//!
//! Added last to the router with `Router::layer`, so that it sees the matched route and everything below it. The
//! line and the metric come from a drop guard: a handler that panics and a client that hangs up leave them too.
//! Only the route's template is ever told, never the path, the query or a header's value.

use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Level;
use uuid::Uuid;

use crate::telemetry::canonical::{self, Ending, Kind, Line, Millis};
use crate::telemetry::labels::{HttpMethod, Label as _, RouteLabel, StatusLabel};
use crate::telemetry::ledger::Ledger;
use crate::telemetry::{Span, SpanKind, propagate, record, traces};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const LONGEST_REQUEST_ID: usize = 64;
/// What is counted for a client that left before the answer; no server ever sends it.
const CLIENT_CLOSED: u16 = 499;
const METHOD_NOT_ALLOWED: u16 = 405;
const INTERNAL_SERVER_ERROR: u16 = 500;

/// The stable code of a problem, put into a response's extensions for the log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorCode(pub &'static str);

/// Why a response is a 5xx, put into its extensions: logged, never sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InternalCause(pub String);

/// The id of a request, in its extensions and in the response's `x-request-id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(String);

impl RequestId {
    /// The caller's id if it is one (1–64 of `[A-Za-z0-9_-]`), else a new one. It goes into spans, which nothing masks,
    /// and what is masked in a line calls a person: an id that looks like a card or a key is none.
    fn of(headers: &HeaderMap) -> Self {
        let sane = |id: &&str| {
            (1..=LONGEST_REQUEST_ID).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
                && crate::telemetry::is_clean(id)
        };
        let given = headers.get(X_REQUEST_ID).and_then(|id| id.to_str().ok()).filter(sane);
        Self(given.map_or_else(|| Uuid::new_v4().simple().to_string(), str::to_owned))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Measures a request. For `axum::middleware::from_fn`.
pub async fn observe(mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = HttpMethod::of(request.method());
    let route = RouteLabel::of(request.extensions().get::<MatchedPath>());
    let request_id = RequestId::of(request.headers());
    let span = server_span(method, route, &request_id);
    propagate::link_caller(&span, request.headers());
    request.extensions_mut().insert(request_id.clone());

    let ledger = Ledger::new();
    let mut canonical = Canonical {
        started,
        method,
        route,
        request_id,
        ledger: ledger.clone(),
        span: span.clone(),
        ending: Ending::ClientClosed,
        status: CLIENT_CLOSED,
        code: None,
        cause: None,
        _active: record::http_active(method),
    };
    let mut response = span.scope(ledger.scope(next.run(request))).await;
    canonical.answered(&mut response);
    response
}

fn server_span(method: HttpMethod, route: RouteLabel, request_id: &RequestId) -> Span {
    let span = Span::root(SpanKind::Server, [method.as_str(), " ", route.text()]);
    span.tell("http.request.method", method.as_str());
    span.tell("http.route", route.text());
    span.tell("request_id", request_id.as_str().to_owned());
    span
}

/// What is told of one request when it is over, however it ends.
struct Canonical {
    started: Instant,
    method: HttpMethod,
    route: RouteLabel,
    request_id: RequestId,
    ledger: Ledger,
    span: Span,
    ending: Ending,
    status: u16,
    code: Option<ErrorCode>,
    cause: Option<InternalCause>,
    _active: record::Active,
}

impl Canonical {
    /// Takes what the response tells, and puts our headers on it.
    fn answered(&mut self, response: &mut Response) {
        self.ending = Ending::Answered;
        self.status = response.status().as_u16();
        self.code = response.extensions().get().copied();
        self.cause = response.extensions_mut().remove();
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::from_str(self.request_id.as_str()) {
            headers.insert(X_REQUEST_ID, id);
        }
        if let Ok(timing) = HeaderValue::try_from(self.server_timing()) {
            headers.insert(SERVER_TIMING, timing);
        }
        if let Some(trace) = self.span.in_scope(propagate::traceresponse) {
            headers.insert(propagate::TRACERESPONSE, trace);
        }
    }

    /// A method that a route does not have belongs to no route, and neither does a browser's question which ones it
    /// has: else whoever asks could multiply the series.
    fn counted_route(&self) -> RouteLabel {
        let is_of_route = self.status != METHOD_NOT_ALLOWED && self.method != HttpMethod::Options;
        if is_of_route { self.route } else { RouteLabel::UNMATCHED }
    }

    /// HEAD is answered by what answers GET, and counts as such: its own series would tell nothing else.
    fn counted_method(&self) -> HttpMethod {
        if self.method == HttpMethod::Head { HttpMethod::Get } else { self.method }
    }

    fn server_timing(&self) -> String {
        let mut timing = String::from("total;dur=");
        Millis::of(self.started.elapsed()).push_to(&mut timing);
        for (step, spent) in self.ledger.steps().filter(|(_, spent)| !spent.is_zero()) {
            timing.extend([", ", step.as_str(), ";dur="]);
            Millis::of(spent).push_to(&mut timing);
        }
        timing
    }

    fn finish_span(&self) {
        self.span.tell("http.response.status_code", i64::from(self.status));
        if let Some(code) = self.code {
            self.span.tell("payments.problem.code", code.0);
        }
        if self.status >= INTERNAL_SERVER_ERROR {
            traces::failed(self.code.map_or(self.ending.as_str(), |code| code.0));
        }
    }

    fn write_line(&self, elapsed: Duration) {
        // Before its facts are read: whoever tells one later sees this, and writes a line about the rest.
        canonical::close(&self.ledger);
        let mut line = Line::new()
            .word("http_method", self.method.as_str())
            .word("http_route", self.route.text())
            .whole("status", self.status)
            .word("ending", self.ending.as_str())
            // It was looked at when it came, or is ours.
            .known("request_id", self.request_id.as_str());
        if let Some(code) = self.code {
            line = line.word("code", code.0);
        }
        if let Some(cause) = &self.cause {
            line = line.text("detail", &cause.0);
        }
        let level = match self.status {
            // Our own fault: a human must look.
            INTERNAL_SERVER_ERROR => Level::ERROR,
            501..=599 => Level::WARN,
            _ => Level::INFO,
        };
        line.account(&self.ledger, elapsed).write(Kind::Request, level);
    }
}

impl Drop for Canonical {
    fn drop(&mut self) {
        if self.ending == Ending::ClientClosed && std::thread::panicking() {
            self.ending = Ending::Panicked;
            self.status = INTERNAL_SERVER_ERROR;
        }
        let elapsed = self.started.elapsed();
        // The span is the trace of this observation, and ends with it.
        self.span.in_scope(|| {
            let (method, status) = (self.counted_method(), StatusLabel::of(Some(self.status)));
            record::http_request(method, self.counted_route(), status, elapsed);
            self.finish_span();
            self.write_line(elapsed);
        });
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::http::StatusCode;
    use axum::response::IntoResponse as _;
    use axum::routing::get;
    use serde_json::Value;
    use tower::ServiceExt as _;

    use super::*;
    use crate::telemetry::ledger::Step;
    use crate::telemetry::{TestTelemetry, for_tests, ledger};

    async fn failing() -> Response {
        let extensions = axum::Extension(ErrorCode("database_unavailable"));
        let cause = axum::Extension(InternalCause("no connection, asked by kim@example.com".to_owned()));
        (StatusCode::SERVICE_UNAVAILABLE, extensions, cause, "sorry").into_response()
    }

    async fn timed() -> String {
        ledger::add(Step::LockWait, Duration::from_micros(12_345));
        let detached = ledger::handle().scope(async { ledger::add(Step::PgCall, Duration::from_millis(250)) });
        tokio::spawn(detached).await.expect("it does not panic");
        crate::telemetry::current_trace_id().unwrap_or_default()
    }

    fn app() -> Router {
        Router::new()
            .route("/things/{id}", get(timed))
            .route("/failing", get(failing))
            .route("/panicking", get(async || -> &'static str { panic!("on purpose") }))
            .route("/endless", get(std::future::pending::<&'static str>))
            .layer(axum::middleware::from_fn(observe))
    }

    fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request {
        let start = Request::builder().method(method).uri(path);
        let built = headers.iter().fold(start, |request, (name, value)| request.header(*name, *value));
        built.body(Body::empty()).expect("a good request")
    }

    /// The lines with this request id.
    fn lines(telemetry: &TestTelemetry, id: &str) -> Vec<Value> {
        let all = telemetry.lines().into_iter().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        all.filter(|line| line["request_id"] == id).collect()
    }

    fn header<'a>(response: &'a Response, name: &str) -> &'a str {
        response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    #[tokio::test]
    async fn an_answer_carries_its_id_and_where_the_time_went() {
        let telemetry = for_tests();
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4737-00f067aa0ba902b7-00";
        let headers = [("x-request-id", "req_answer-1"), ("traceparent", parent)];
        let response = app().oneshot(request("GET", "/things/4711?secret=query", &headers)).await.expect("infallible");
        assert_eq!((response.status(), header(&response, "x-request-id")), (StatusCode::OK, "req_answer-1"));
        let timing = header(&response, "server-timing").to_owned();
        assert!(
            timing.starts_with("total;dur=")
                && timing.contains(", lock_wait;dur=12.345, pg_call;dur=250, compute;dur=")
        );
        assert!(!timing.contains("pool_wait"), "what did not occur is not told: {timing}");
        let told = header(&response, "traceresponse").to_owned();
        let body = axum::body::to_bytes(response.into_body(), 100).await.expect("a short body");
        let trace = String::from_utf8_lossy(&body).into_owned();
        assert!(trace.len() == 32 && !trace.starts_with("4bf92f35"), "no caller chooses our trace: {trace}");
        assert!(told.starts_with(&format!("00-{trace}-")) && told.ends_with("-01"), "{told}");

        let lines = lines(&telemetry, "req_answer-1");
        let [line] = lines.as_slice() else { panic!("one line per request: {lines:?}") };
        for (name, value) in [
            ("http_method", "GET"),
            ("http_route", "/things/{id}"),
            ("ending", "answered"),
            ("level", "info"),
            ("msg", "request"),
            ("trace_id", trace.as_str()),
        ] {
            assert_eq!(line[name], value, "{name}");
        }
        assert_eq!((&line["status"], &line["db_ms"]), (&Value::from(200), &Value::from(12.345)));
        assert_eq!((line["lock_wait_ms"].as_f64(), line["pg_call_ms"].as_f64()), (Some(12.345), Some(250.0)));
        assert!(!line.to_string().contains("4711") && !line.to_string().contains("secret"), "{line}");
        let series = r#"http_server_request_duration_seconds_count{http_request_method="GET",http_route="/things/{id}",http_response_status_code="200"}"#;
        let text = telemetry.metrics().render();
        assert!(text.contains(series) && !text.contains("4711"));
    }

    #[tokio::test]
    async fn what_no_route_matches_shares_one_label_and_odd_input_is_replaced() {
        let telemetry = for_tests();
        let long = "a".repeat(65);
        for bad in ["", "no spaces", "semi;colon", &long, "4111-1111-1111-1111", "test_sk_abcdefgh"] {
            let response = app().oneshot(request("BREW", "/nowhere/4712", &[("x-request-id", bad)])).await;
            let response = response.expect("infallible");
            let id = header(&response, "x-request-id").to_owned();
            assert_eq!(response.status(), StatusCode::NOT_FOUND);
            assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
            let lines = lines(&telemetry, &id);
            assert_eq!(lines.len(), 1);
            assert_eq!((&lines[0]["http_route"], &lines[0]["http_method"]), (&"_unmatched".into(), &"_OTHER".into()));
        }
        let text = telemetry.metrics().render();
        assert!(
            text.contains(r#"{http_request_method="_OTHER",http_route="_unmatched",http_response_status_code="404"}"#)
        );
        assert!(!text.contains("BREW") && !text.contains("4712"));
    }

    #[tokio::test]
    async fn a_failure_is_told_to_us_and_not_to_the_client() {
        let telemetry = for_tests();
        let response = app().oneshot(request("GET", "/failing", &[("x-request-id", "req_fail")])).await;
        let response = response.expect("infallible");
        assert!(response.extensions().get::<InternalCause>().is_none());
        assert!(!format!("{:?}", response.headers()).contains("no connection"));
        let lines = lines(&telemetry, "req_fail");
        let [line] = lines.as_slice() else { panic!("one line per request: {lines:?}") };
        assert_eq!((&line["code"], &line["level"]), (&"database_unavailable".into(), &"warn".into()));
        assert_eq!(line["detail"], "no connection, asked by [redacted]");
    }

    #[tokio::test]
    async fn a_panic_leaves_one_line_and_one_observation() {
        let telemetry = for_tests();
        let running = tokio::spawn(app().oneshot(request("GET", "/panicking", &[("x-request-id", "req_panic")])));
        assert!(running.await.expect_err("it panics").is_panic());
        let lines = lines(&telemetry, "req_panic");
        let [line] = lines.as_slice() else { panic!("one line per request: {lines:?}") };
        assert_eq!((&line["ending"], &line["status"]), (&"panicked".into(), &500.into()));
        assert_eq!((&line["level"], &line["http_route"]), (&"error".into(), &"/panicking".into()));
        assert!(line["trace_id"].as_str().is_some_and(|id| id.len() == 32));
        let series = r#"http_route="/panicking",http_response_status_code="500"} 1"#;
        assert!(telemetry.metrics().render().contains(series));
    }

    #[tokio::test]
    async fn a_client_that_hangs_up_leaves_one_line_and_nothing_active() {
        let telemetry = for_tests();
        let endless = app().oneshot(request("OPTIONS", "/endless", &[("x-request-id", "req_405")])).await;
        assert_eq!(endless.expect("infallible").status(), StatusCode::METHOD_NOT_ALLOWED);
        let asked = app().oneshot(request("HEAD", "/endless", &[("x-request-id", "req_closed")]));
        assert!(tokio::time::timeout(Duration::from_millis(50), asked).await.is_err());
        let lines = lines(&telemetry, "req_closed");
        let [line] = lines.as_slice() else { panic!("one line per request: {lines:?}") };
        assert_eq!((&line["ending"], &line["status"]), (&"client_closed".into(), &499.into()));
        let text = telemetry.metrics().render();
        assert!(text.contains(r#"http_server_active_requests{http_request_method="HEAD"} 0"#));
        assert!(text.contains(r#"http_request_method="GET",http_route="/endless",http_response_status_code="499"} 1"#));
    }
}
