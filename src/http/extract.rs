//! Extractors that parse at the edge and answer every failure with a problem: JSON bodies, query parameters, ids in paths.
//!
//! Unknown fields and parameters are refused by name, so that a misspelt one is never silently ignored.

use std::error::Error;
use std::str::FromStr;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::AppState;
use super::problem::{Code, Problem};

/// A body that takes longer to arrive is given up.
const BODY_WITHIN: Duration = Duration::from_secs(10);
/// Longer words about a mistake are cut: they may quote what was sent.
const DETAIL_CHARS_MAX: usize = 300;

/// The raw bytes of a body, at most `bytes_max` of them.
pub async fn bytes(mut request: Request, bytes_max: usize) -> Result<Bytes, Problem> {
    DefaultBodyLimit::max(bytes_max).apply(&mut request);
    match tokio::time::timeout(BODY_WITHIN, Bytes::from_request(request, &())).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Err(Problem::new(Code::BodyTooLarge, format!("At most {bytes_max} bytes are taken here.")))
        }
        Ok(Err(_)) => Err(Problem::new(Code::BadJson, "The body broke off.")),
        Err(_) => Err(Problem::new(Code::RequestTimeout, "The body did not arrive in time.")),
    }
}

/// A JSON body of the route's own type.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest<AppState> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(Code::UnsupportedMediaType, "Send the body as application/json."));
        }
        let body = bytes(request, state.settings.body_bytes_max).await?;
        parse(&body).map(Self)
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(given) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    match axum::Json::<T>::from_bytes(body) {
        Ok(axum::Json(value)) => Ok(value),
        Err(JsonRejection::JsonDataError(error)) => Err(misfit(&error, "body")),
        Err(error) => {
            let detail = innermost(&error);
            Err(Problem::new(Code::BadJson, cut(&detail)))
        }
    }
}

/// The query's parameters as the route's own type.
#[derive(Debug)]
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        match Query::<T>::try_from_uri(&parts.uri) {
            Ok(Query(params)) => Ok(Self(params)),
            Err(error) => Err(misfit(&error, "query")),
        }
    }
}

/// The id that stands in the path as `{id}`.
#[derive(Debug)]
pub struct Id<T>(pub T);

impl<T: FromStr<Err: std::fmt::Display>, S: Send + Sync> FromRequestParts<S> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::invalid("id", "The path holds no readable id."))?;
        text.parse().map(Self).map_err(|error| Problem::invalid("id", format!("The id is {error}.")))
    }
}

/// The problem of a value that does not fit its type. The cause reads `path: reason`, the path missing at the top.
fn misfit(error: &(dyn Error + 'static), whole: &str) -> Problem {
    let cause = innermost(error);
    let (path, reason) = match cause.split_once(": ") {
        Some((path, reason)) if is_path(path) => (path.trim_matches('.').to_owned(), reason.to_owned()),
        Some(_) | None => (String::new(), cause.clone()),
    };
    let named = ["unknown field `", "missing field `", "duplicate field `"]
        .iter()
        .find_map(|words| reason.strip_prefix(words)?.split('`').next());
    let parameter = match named {
        // For an unknown field the path may already end in its name.
        Some(name) if path.is_empty() || path == name => name.to_owned(),
        Some(name) if path.ends_with(&format!(".{name}")) => path,
        Some(name) => format!("{path}.{name}"),
        None if path.is_empty() => whole.to_owned(),
        None => path,
    };
    Problem::invalid(&parameter, cut(&reason))
}

/// The words of the deepest cause: serde's own, without what the layers above say around them.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut at = error;
    let mut text = at.to_string();
    while let Some(source) = at.source() {
        // The layer that knows the path says `path: reason`; below it only the reason is left.
        let words = source.to_string();
        if text.ends_with(&words) && text.split_once(": ").is_some_and(|(path, _)| is_path(path)) {
            break;
        }
        text = words;
        at = source;
    }
    text
}

fn is_path(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'[' | b']' | b'?'))
}

fn cut(text: &str) -> String {
    text.chars().take(DETAIL_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::HeaderValue;
    use serde::Deserialize;
    use serde_json::Value;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Ask {
        amount: i64,
        lines: Option<Vec<Line>>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Line {
        quantity: i32,
    }

    fn refusal(body: &str) -> (Code, Value) {
        let problem = parse::<Ask>(body.as_bytes()).expect_err("refused");
        (problem.code(), serde_json::to_value(&problem).expect("JSON"))
    }

    #[test]
    fn what_is_no_json_and_what_does_not_fit_are_told_apart() {
        assert_eq!(parse::<Ask>(br#"{"amount":5}"#).expect("fits"), Ask { amount: 5, lines: None });
        for broken in ["", "{", "{\"amount\":5}x", "{\"amount\":05}", "\u{feff}{}", "nonsense"] {
            assert_eq!(refusal(broken).0, Code::BadJson, "{broken}");
        }
        for misfit in ["[]", "5", "null", "{}"] {
            assert_eq!(refusal(misfit).0, Code::InvalidParameter, "{misfit}");
        }
    }

    #[test]
    fn a_misfit_names_its_field() {
        for (body, parameter) in [
            (r#"{"amount":"5"}"#, "amount"),
            (r#"{"amount":5.5}"#, "amount"),
            (r#"{"amount":9223372036854775808}"#, "amount"),
            (r#"{"amount":null}"#, "amount"),
            (r#"{"amount":5,"lines":[{"quantity":1},{"quantity":"a: b"}]}"#, "lines[1].quantity"),
            (r#"{"amount":5,"lines":[{"quantity":99999999999}]}"#, "lines[0].quantity"),
            (r#"{"amount":5,"amuont":6}"#, "amuont"),
            (r#"{"amount":5,"lines":[{"quantity":1,"price":1}]}"#, "lines[0].price"),
            (r#"{"amount":5,"lines":[{}]}"#, "lines[0].quantity"),
            (r#"{"amount":5,"amount":6}"#, "amount"),
            ("{}", "amount"),
            ("[]", "body"),
        ] {
            let (code, problem) = refusal(body);
            assert_eq!((code, &problem["parameter"]), (Code::InvalidParameter, &parameter.into()), "{body}: {problem}");
        }
    }

    #[test]
    fn words_that_quote_the_body_are_cut() {
        let (_, problem) = refusal(&format!(r#"{{"amount":"{}"}}"#, "x".repeat(5000)));
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.len() <= DETAIL_CHARS_MAX));
    }

    #[tokio::test]
    async fn a_query_is_parsed_as_strictly() {
        let read = async |uri: &str| {
            let (mut parts, ()) = axum::http::Request::builder().uri(uri).body(()).expect("a uri").into_parts();
            let params = Params::<Ask>::from_request_parts(&mut parts, &()).await;
            params.map(|params| params.0.amount).map_err(|problem| serde_json::to_value(problem).expect("JSON"))
        };
        assert_eq!(read("/?amount=7").await, Ok(7));
        for (uri, parameter) in [("/?amount=x", "amount"), ("/?amount=1&other=2", "other"), ("/", "amount")] {
            assert_eq!(read(uri).await.expect_err("refused")["parameter"], parameter, "{uri}");
        }
    }

    #[tokio::test]
    async fn a_body_has_a_limit() {
        let request = |body: &'static str| Request::new(Body::from(body));
        assert_eq!(bytes(request("12345"), 5).await.expect("fits"), "12345");
        assert_eq!(bytes(request("123456"), 5).await.expect_err("too long").code(), Code::BodyTooLarge);
    }

    #[test]
    fn only_json_is_json() {
        let with = |value: &'static str| HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
        for good in ["application/json", "application/json; charset=utf-8", "Application/JSON", "application/x+json"] {
            assert!(is_json(&with(good)), "{good}");
        }
        for bad in ["text/plain", "application/jsonx", "text/json", ""] {
            assert!(!is_json(&with(bad)), "{bad}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
