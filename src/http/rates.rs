//! Rate limits at the edge: which budgets a request takes from, and what its answer says about them.
//!
//! A request is counted once, as soon as it is known who calls and before its body is read or anything is looked up,
//! so that one that is refused changes nothing. A good credential counts for its key or order; what comes without one
//! counts for its address, whatever it claims to be, so that nobody can use up another's budget. The shop's own server
//! is known by its key and counts for that alone.
//!
//! The fields are those of draft-ietf-httpapi-ratelimit-headers (-11, May 2026): `RateLimit-Policy` with quota `q` and
//! window `w`, `RateLimit` with what remains `r` and the seconds `t` until the budget is whole again, or, in a refusal,
//! until there is room.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;

use super::AppState;
use super::auth::Caller;
use super::listen::Peer;
use super::problem::{Code, Problem};
use crate::limits::{Class, Proxies, Standing, Subject, Verdict};

/// What is left.
pub const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// What there is.
pub const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Where the verdict on a request lies until its answer is written.
#[derive(Clone, Default)]
struct Counted(Arc<OnceLock<Verdict>>);

/// Tells what was counted in the answer's headers. For `axum::middleware::from_fn`.
pub async fn tell(mut request: Request, next: Next) -> Response {
    let counted = Counted::default();
    request.extensions_mut().insert(counted.clone());
    let mut response = next.run(request).await;
    if let Some(verdict) = counted.0.get() {
        let headers = response.headers_mut();
        for (name, field) in [(RATELIMIT_POLICY, policies(verdict)), (RATELIMIT, standings(verdict))] {
            if let Ok(value) = HeaderValue::try_from(field) {
                headers.insert(name, value);
            }
        }
    }
    response
}

/// Counts a request of this caller, `None` for one without a good credential.
///
/// # Errors
/// If a budget is used up.
pub async fn count(state: &AppState, parts: &Parts, caller: Option<Caller>) -> Result<(), Problem> {
    let template = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let class = class_of(&parts.method, template);
    let party = match caller {
        Some(Caller::Secret(key) | Caller::Publishable(key)) => Some(Subject::Key(key)),
        Some(Caller::Checkout(order)) => Some(Subject::Order(order)),
        None => None,
    };
    let address = match caller {
        Some(Caller::Secret(_)) => None,
        Some(Caller::Publishable(_) | Caller::Checkout(_)) | None => address(state, parts),
    };
    let subjects: Vec<Subject> = party.into_iter().chain(address).collect();
    take(state, parts, class, &subjects).await
}

/// Counts a delivery of a webhook.
///
/// # Errors
/// If the budget of its address is used up.
pub async fn count_webhook(state: &AppState, parts: &Parts) -> Result<(), Problem> {
    let address: Vec<Subject> = address(state, parts).into_iter().collect();
    take(state, parts, Class::Webhooks, &address).await
}

async fn take(state: &AppState, parts: &Parts, class: Class, subjects: &[Subject]) -> Result<(), Problem> {
    let Some(verdict) = state.limiter().take(class, subjects).await else { return Ok(()) };
    let refusal = (!verdict.is_admitted).then(|| refusal(&verdict));
    if let Some(counted) = parts.extensions.get::<Counted>() {
        // A request is counted once; if ever twice, the first verdict is as true.
        counted.0.get_or_init(|| verdict);
    }
    refusal.map_or(Ok(()), Err)
}

fn refusal(verdict: &Verdict) -> Problem {
    let used_up = verdict.standings.iter().filter(|standing| standing.remaining == 0);
    let names: Vec<String> = used_up.map(Standing::policy).collect();
    Problem::new(Code::RateLimited, "The budget of such requests is used up for now.")
        .with("policies", names)
        .retry_after(seconds(verdict.retry_after()).max(1))
}

/// The requests that this one shares its budgets with.
fn class_of(method: &Method, template: &str) -> Class {
    const ORDERS: &str = "/v1/orders";
    const PAYMENTS: [&str; 4] =
        ["/v1/payments/confirm", "/v1/payments/{id}/cancel", "/v1/payments/{id}/inquire", "/v1/orders/{id}/cancel"];
    if *method != Method::POST {
        Class::Reads
    } else if template == ORDERS {
        Class::Orders
    } else if PAYMENTS.contains(&template) {
        Class::Payments
    } else {
        Class::Reads
    }
}

fn address(state: &AppState, parts: &Parts) -> Option<Subject> {
    let Peer(peer) = *parts.extensions.get::<Peer>()?;
    Some(Subject::Address(client(state.limiter().proxies(), peer, &parts.headers)))
}

fn client(proxies: &Proxies, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    if headers.contains_key(FORWARDED_FOR) && !proxies.trusts(peer) {
        hint_at_proxies();
        return proxies.client(peer, std::iter::empty());
    }
    // What cannot be read ends the list there.
    let lines = headers.get_all(FORWARDED_FOR).iter().map(|line| line.to_str().unwrap_or("?"));
    let hops: Vec<&str> = lines.flat_map(|line| line.split(',')).collect();
    proxies.client(peer, hops.into_iter())
}

/// Told once: behind a proxy that is not named, all buyers share the budget of its address.
fn hint_at_proxies() {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !TOLD.swap(true, Ordering::Relaxed) {
        tracing::info!(
            "a request has X-Forwarded-For, and the address that sent it is not among PAYGAUGE_TRUSTED_PROXIES: if that \
             is our own proxy, all its buyers share one budget"
        );
    }
}

fn policies(verdict: &Verdict) -> String {
    let policy = |standing: &Standing| {
        let budget = standing.budget;
        format!("\"{}\";q={};w={}", standing.policy(), budget.requests(), budget.window_s())
    };
    verdict.standings.iter().map(policy).collect::<Vec<_>>().join(", ")
}

fn standings(verdict: &Verdict) -> String {
    let standing = |standing: &Standing| {
        let wait = if standing.remaining == 0 { standing.next_in } else { standing.whole_in };
        format!("\"{}\";r={};t={}", standing.policy(), standing.remaining, seconds(wait))
    };
    verdict.standings.iter().map(standing).collect::<Vec<_>>().join(", ")
}

/// Whole seconds, rounded up: whoever waits that long has waited long enough.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{Budget, Counter};

    fn standing(class: Class, kind: &'static str, requests: u32, debt: u64) -> Standing {
        let budget = Budget::new(requests, 10).expect("in bounds");
        let (remaining, next_in, whole_in) = (budget.remaining(debt), budget.next_in(debt), budget.whole_in(debt));
        Standing { class, kind, budget, remaining, next_in, whole_in }
    }

    #[test]
    fn the_fields_have_the_form_of_the_draft() {
        let key = standing(Class::Orders, "key", 100, 10_000_000 * 30);
        let address = standing(Class::Orders, "address", 4, 10_000_000 * 4 - 1);
        let verdict = Verdict { is_admitted: false, standings: vec![key, address], counter: Counter::Process };
        assert_eq!(policies(&verdict), r#""orders-per-key";q=100;w=10, "orders-per-address";q=4;w=10"#);
        assert_eq!(standings(&verdict), r#""orders-per-key";r=70;t=3, "orders-per-address";r=0;t=3"#);
        assert_eq!(seconds(verdict.retry_after()), 3, "2.5 s, told in whole seconds");
    }

    #[test]
    fn an_address_that_a_stranger_claims_is_not_its() {
        let peer: IpAddr = "10.1.1.1".parse().expect("an address");
        let headers = |lines: &[&'static str]| -> HeaderMap {
            lines.iter().map(|line| (FORWARDED_FOR, HeaderValue::from_static(line))).collect()
        };
        let ours = Proxies::parse("10.0.0.0/8").expect("proxies");
        let two = headers(&["192.0.2.1, 203.0.113.7", "10.2.2.2"]);
        assert_eq!(client(&ours, peer, &two).to_string(), "203.0.113.7", "several lines are one list");
        assert_eq!(client(&Proxies::default(), peer, &two), peer);
        let unreadable = HeaderMap::from_iter([(FORWARDED_FOR, HeaderValue::from_bytes(b"\xff").expect("a value"))]);
        assert_eq!(client(&ours, peer, &unreadable), peer);
    }
}
