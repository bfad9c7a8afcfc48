//! Checkout tokens: a signed, short-lived right to one order, held by nobody's database.
//!
//! `ct_` + base64url(order id ‖ expiry) + `.` + base64url(HMAC-SHA256). The expiry counts from the order's creation, so
//! minting is deterministic and a repeated answer carries the same token. Several secrets may check, so that they can
//! be changed without cutting off buyers; the first one signs.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use uuid::Uuid;

use crate::domain::ids::OrderId;

/// What every checkout token starts with.
pub const TOKEN_PREFIX: &str = "ct_";
/// Keeps these signatures apart from any other use of the same secret.
const PURPOSE: &[u8] = b"paygauge checkout token v1";

/// Why a token is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not of the form, or not signed by us.
    #[error("the checkout token is not valid")]
    Invalid,
    /// Ours, and too old.
    #[error("the checkout token has expired")]
    Expired,
}

/// There is nothing to sign with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("at least one token secret is needed")]
pub struct NoTokenSecret;

/// Signs and checks checkout tokens.
pub struct Tokens {
    signer: Hmac<Sha256>,
    previous: Vec<Hmac<Sha256>>,
    life: Duration,
}

impl Tokens {
    /// The first secret signs, all check; a token is good until `life` after its order was placed.
    ///
    /// # Errors
    /// Without a secret.
    pub fn new(secrets: &[SecretString], life: Duration) -> Result<Self, NoTokenSecret> {
        let keyed = |secret: &SecretString| Hmac::new_from_slice(secret.expose_secret().as_bytes()).ok();
        let mut keys = secrets.iter().filter(|secret| !secret.expose_secret().is_empty()).filter_map(keyed);
        let signer = keys.next().ok_or(NoTokenSecret)?;
        Ok(Self { signer, previous: keys.collect(), life })
    }

    /// The token of an order placed at `created_at`; the same each time.
    #[must_use]
    pub fn mint(&self, order: OrderId, created_at: DateTime<Utc>) -> String {
        let created_s = u64::try_from(created_at.timestamp()).unwrap_or(0);
        let expires_s = created_s.saturating_add(self.life.as_secs());
        let mut claims = [0; 24];
        let (id, expiry) = claims.split_at_mut(16);
        id.copy_from_slice(order.uuid().as_bytes());
        expiry.copy_from_slice(&expires_s.to_be_bytes());
        let signature = signed(&self.signer, &claims).finalize().into_bytes();
        format!("{TOKEN_PREFIX}{}.{}", URL_SAFE_NO_PAD.encode(claims), URL_SAFE_NO_PAD.encode(signature))
    }

    /// The order that this token is for.
    ///
    /// # Errors
    /// If it is not ours, or too old at `now`.
    pub fn check(&self, token: &str, now: DateTime<Utc>) -> Result<OrderId, TokenError> {
        let (claims, signature) = read(token).ok_or(TokenError::Invalid)?;
        let is_ours = std::iter::once(&self.signer)
            .chain(&self.previous)
            .fold(false, |found, key| found | signed(key, &claims).verify_slice(&signature).is_ok());
        if !is_ours {
            return Err(TokenError::Invalid);
        }
        let (id, expiry) = claims.split_at_checked(16).ok_or(TokenError::Invalid)?;
        let expires_s = expiry.try_into().map(u64::from_be_bytes).map_err(|_| TokenError::Invalid)?;
        if u64::try_from(now.timestamp()).unwrap_or(0) >= expires_s {
            return Err(TokenError::Expired);
        }
        Uuid::from_slice(id).map(OrderId::from).map_err(|_| TokenError::Invalid)
    }
}

fn signed(key: &Hmac<Sha256>, claims: &[u8]) -> Hmac<Sha256> {
    let mut mac = key.clone();
    mac.update(PURPOSE);
    mac.update(claims);
    mac
}

fn read(token: &str) -> Option<([u8; 24], Vec<u8>)> {
    let (claims, signature) = token.strip_prefix(TOKEN_PREFIX)?.split_once('.')?;
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?.try_into().ok()?;
    Some((claims, URL_SAFE_NO_PAD.decode(signature).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(secrets: &[&str]) -> Tokens {
        let secrets: Vec<_> = secrets.iter().map(|secret| SecretString::from(*secret)).collect();
        Tokens::new(&secrets, Duration::from_secs(3600)).expect("a secret")
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 123).expect("in range")
    }

    #[test]
    fn a_token_is_the_same_each_time_and_good_for_its_life() {
        let (tokens, order) = (tokens(&["first secret"]), OrderId::new());
        let token = tokens.mint(order, at(0));
        assert_eq!(token, tokens.mint(order, at(0)));
        assert!(token.starts_with("ct_") && token.len() == 3 + 32 + 1 + 43, "{token}");
        assert_eq!(tokens.check(&token, at(3599)), Ok(order));
        assert_eq!(tokens.check(&token, at(3600)), Err(TokenError::Expired));
    }

    #[test]
    fn the_secret_can_be_changed_without_cutting_buyers_off() {
        let order = OrderId::new();
        let old = tokens(&["old secret"]).mint(order, at(0));
        assert_eq!(tokens(&["new secret", "old secret"]).check(&old, at(1)), Ok(order));
        assert_eq!(tokens(&["new secret"]).check(&old, at(1)), Err(TokenError::Invalid));
        assert!(Tokens::new(&[], Duration::from_secs(1)).is_err());
    }

    #[test]
    fn no_character_of_a_token_can_be_changed() {
        let (tokens, order) = (tokens(&["secret"]), OrderId::new());
        let token = tokens.mint(order, at(0));
        for place in 0..token.len() {
            let mut forged = token.clone().into_bytes();
            forged[place] = if forged[place] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).expect("ASCII");
            assert_eq!(tokens.check(&forged, at(1)), Err(TokenError::Invalid), "{place}: {forged}");
        }
        for bad in ["ct_", "ct_.", "ct_AAAA.AAAA", &token[..token.len() - 1], "", "pgsk_x"] {
            assert_eq!(tokens.check(bad, at(1)), Err(TokenError::Invalid), "{bad}");
        }
    }
}
