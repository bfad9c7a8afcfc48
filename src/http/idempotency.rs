//! The `Idempotency-Key` header: its form, its scope, and what became of it.

use axum::extract::FromRequestParts;
use axum::http::HeaderName;
use axum::http::request::Parts;

use super::auth::Caller;
use super::problem::{Code, Problem};
use crate::db::idempotency::Scope;
use crate::payments::claim::fingerprint;
use crate::telemetry::facts::{self, Fact};
use crate::telemetry::labels::{IdempotencyResult, IdempotentRoute};
use crate::telemetry::record;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const KEY_BYTES_MAX: usize = 255;

/// The key of a request, if it has one.
#[derive(Debug, Clone)]
pub struct GivenKey(Option<String>);

impl GivenKey {
    /// The key, where the route cannot do without.
    ///
    /// # Errors
    /// If there is none.
    pub fn required(self, route: IdempotentRoute) -> Result<String, Problem> {
        self.0.ok_or_else(|| {
            record::idempotency(route, IdempotencyResult::Missing);
            facts::tell(Fact::Idempotency(IdempotencyResult::Missing));
            Problem::new(Code::IdempotencyKeyMissing, "This request needs an Idempotency-Key header.")
        })
    }

    /// The key, or the one that lies in the nature of the request.
    #[must_use]
    pub fn or(self, natural: &str) -> String {
        self.0.unwrap_or_else(|| natural.to_owned())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for GivenKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let mut given = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
        let value = match (given.next(), given.next()) {
            (None, _) => return Ok(Self(None)),
            (Some(value), None) => value.as_bytes(),
            (Some(_), Some(_)) => return Err(invalid("Send one Idempotency-Key, not several.")),
        };
        let fits = (1..=KEY_BYTES_MAX).contains(&value.len()) && value.iter().all(|byte| matches!(byte, b' '..=b'~'));
        match std::str::from_utf8(value) {
            Ok(text) if fits => Ok(Self(Some(text.to_owned()))),
            Ok(_) | Err(_) => Err(invalid("An Idempotency-Key has 1 to 255 printable ASCII characters.")),
        }
    }
}

fn invalid(detail: &str) -> Problem {
    Problem::new(Code::IdempotencyKeyInvalid, detail)
}

/// The scope of a caller's key on one operation; `parts` are what was asked, parsed, in a fixed order.
#[must_use]
pub fn scope(caller: &Caller, route: &'static str, key: String, parts: &[&[u8]]) -> Scope {
    Scope { owner: caller.owner(), route, key, fingerprint: fingerprint(parts) }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, Request};

    use super::*;

    async fn read(values: &[&[u8]]) -> Result<Option<String>, Code> {
        let (mut parts, ()) = Request::new(()).into_parts();
        for value in values {
            parts.headers.append(IDEMPOTENCY_KEY, HeaderValue::from_bytes(value).expect("a header value"));
        }
        GivenKey::from_request_parts(&mut parts, &()).await.map(|key| key.0).map_err(|problem| problem.code())
    }

    #[tokio::test]
    async fn a_key_is_one_header_of_printable_characters() {
        assert_eq!(read(&[]).await, Ok(None));
        assert_eq!(read(&[b"order-1:~"]).await, Ok(Some("order-1:~".to_owned())));
        let longest = "k".repeat(255);
        assert_eq!(read(&[longest.as_bytes()]).await, Ok(Some(longest.clone())));
        for bad in [&b""[..], b"a\tb", "schlüssel".as_bytes(), b"\xff", "k".repeat(256).as_bytes()] {
            assert_eq!(read(&[bad]).await, Err(Code::IdempotencyKeyInvalid), "{bad:?}");
        }
        assert_eq!(read(&[b"a", b"b"]).await, Err(Code::IdempotencyKeyInvalid));
    }

    #[test]
    fn where_a_key_is_required_its_absence_is_a_problem() {
        let missing = GivenKey(None).required(IdempotentRoute::Order).expect_err("missing");
        assert_eq!(missing.code(), Code::IdempotencyKeyMissing);
        assert_eq!(GivenKey(None).or("natural"), "natural");
    }
}
