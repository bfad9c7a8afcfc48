//! Who calls: a bearer credential becomes a [`Caller`], and each route's guard says which callers it takes.
//!
//! Three kinds: the shop's secret key (everything), its publishable key (catalogue, placing an order), and the checkout
//! token of one order. A missing, wrong, revoked or expired credential is 401, a good one that does not reach far
//! enough 403; another order's things are 404 to a checkout token, so that it learns nothing about them. Whoever it is
//! is counted (`rates`) before anything else happens.

pub mod keys;
pub mod tokens;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;

use self::keys::{KEY_PREFIXES, KeyText, Role};
use self::tokens::{TOKEN_PREFIX, TokenError};
use super::AppState;
use super::problem::{Code, Problem};
use super::rates;
use crate::clock;
use crate::config::BuyerCancel;
use crate::db::events::Origin;
use crate::domain::ids::{KeyId, OrderId};
use crate::payments::catalogue::Actor;
use crate::telemetry;

/// Longer credentials are not even looked at.
const CREDENTIAL_BYTES_MAX: usize = 256;

/// An authenticated caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// The shop's server.
    Secret(KeyId),
    /// The shop's page in a browser.
    Publishable(KeyId),
    /// The buyer of one order.
    Checkout(OrderId),
}

impl Caller {
    /// Who, as the history writes it.
    #[must_use]
    pub fn actor(&self) -> String {
        match self {
            Self::Secret(key) | Self::Publishable(key) => key.to_string(),
            Self::Checkout(_) => "checkout".to_owned(),
        }
    }

    /// Whose idempotency keys these are.
    #[must_use]
    pub fn owner(&self) -> String {
        match self {
            Self::Secret(key) | Self::Publishable(key) => key.to_string(),
            Self::Checkout(order) => order.to_string(),
        }
    }

    /// Who and in which trace, for the events of a change.
    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin { actor: self.actor(), trace_id: telemetry::current_trace_id() }
    }

    /// The same for the catalogue.
    #[must_use]
    pub fn catalogue_actor(&self) -> Actor {
        Actor { name: self.actor(), trace_id: telemetry::current_trace_id() }
    }

    /// Whether this order and what belongs to it may be seen and acted on.
    #[must_use]
    pub fn reaches(&self, order: OrderId) -> bool {
        match self {
            Self::Secret(_) => true,
            Self::Publishable(_) => false,
            Self::Checkout(own) => *own == order,
        }
    }

    /// Whether money that was taken may be sent back.
    #[must_use]
    pub fn may_cancel_paid(&self, policy: BuyerCancel) -> bool {
        match self {
            Self::Secret(_) => true,
            Self::Publishable(_) => false,
            Self::Checkout(_) => policy == BuyerCancel::Paid,
        }
    }
}

impl FromRequestParts<AppState> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let caller = authenticated(&parts.headers, state).await;
        rates::count(state, parts, caller.as_ref().ok().copied()).await?;
        caller
    }
}

async fn authenticated(headers: &HeaderMap, state: &AppState) -> Result<Caller, Problem> {
    let credential = bearer(headers)?;
    if credential.starts_with(TOKEN_PREFIX) {
        return match state.tokens().check(credential, clock::now()) {
            Ok(order) => Ok(Caller::Checkout(order)),
            Err(TokenError::Expired) => Err(unauthorized("The checkout token has expired.")),
            Err(TokenError::Invalid) => Err(unauthorized("The checkout token is not valid.")),
        };
    }
    if !KEY_PREFIXES.iter().any(|prefix| credential.starts_with(prefix)) {
        return Err(unauthorized("The credential is neither a key nor a checkout token."));
    }
    let shown = KeyText::parse(credential).ok_or_else(|| unauthorized("The key is not valid."))?;
    match state.keys().check(&state.db, &shown).await? {
        Some(Role::Secret) => Ok(Caller::Secret(shown.id())),
        Some(Role::Publishable) => Ok(Caller::Publishable(shown.id())),
        None => Err(unauthorized("The key is not valid.")),
    }
}

/// The one bearer credential of a request.
fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else {
        return Err(unauthorized("Send one Authorization header: Bearer and a key or checkout token."));
    };
    let text = value.to_str().ok().and_then(|text| text.split_once(' '));
    match text {
        Some((scheme, credential))
            if scheme.eq_ignore_ascii_case("bearer") && credential.len() <= CREDENTIAL_BYTES_MAX =>
        {
            Ok(credential.trim_start_matches(' '))
        }
        Some(_) | None => Err(unauthorized("The Authorization header is not of the form Bearer <credential>.")),
    }
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(Code::Unauthorized, detail)
}

fn forbidden(detail: &str) -> Problem {
    Problem::new(Code::Forbidden, detail)
}

macro_rules! guard {
    ($(#[$meta:meta])* $name:ident, $pattern:pat, $refusal:literal) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy)]
        pub struct $name(pub Caller);

        impl FromRequestParts<AppState> for $name {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
                let caller = Caller::from_request_parts(parts, state).await?;
                if matches!(caller, $pattern) { Ok(Self(caller)) } else { Err(forbidden($refusal)) }
            }
        }
    };
}

guard!(
    /// Takes the secret key alone.
    Shop, Caller::Secret(_), "This needs the secret key."
);
guard!(
    /// Takes the secret and the publishable key.
    ShopFront, Caller::Secret(_) | Caller::Publishable(_), "This needs a secret or publishable key."
);
guard!(
    /// Takes the secret key, and checkout tokens, whose order the handler must compare.
    OrderParty, Caller::Secret(_) | Caller::Checkout(_), "This needs the secret key or the order's checkout token."
);

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn one_bearer_credential_is_read_and_nothing_else() {
        assert_eq!(bearer(&headers(&["Bearer abc"])).expect("a credential"), "abc");
        assert_eq!(bearer(&headers(&["bearer abc"])).expect("a credential"), "abc");
        for bad in [&[][..], &["Basic abc"], &["Bearer"], &["abc"], &["Bearer a", "Bearer b"]] {
            assert_eq!(bearer(&headers(bad)).expect_err("refused").code(), Code::Unauthorized, "{bad:?}");
        }
    }

    #[test]
    fn a_checkout_token_reaches_its_own_order_only() {
        let (own, other) = (OrderId::new(), OrderId::new());
        let buyer = Caller::Checkout(own);
        assert!(buyer.reaches(own) && !buyer.reaches(other));
        assert!(!buyer.may_cancel_paid(BuyerCancel::Unpaid) && buyer.may_cancel_paid(BuyerCancel::Paid));
        assert_eq!((buyer.actor(), buyer.owner()), ("checkout".to_owned(), own.to_string()));
        let key = KeyId::new();
        assert!(Caller::Secret(key).reaches(other) && !Caller::Publishable(key).reaches(other));
    }
}
