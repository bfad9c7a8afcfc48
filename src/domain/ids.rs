//! Identifiers. UUIDv7 inside, a readable prefix at the edge (`ord_0192…`), made before anything is sent.
//!
//! The text form is 36 characters of `[a-z0-9_]`, which every PG served so far accepts as a merchant's id
//! (Toss: 6–64 of `[A-Za-z0-9_-]`).

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// A text that is not an identifier of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an id of the form {prefix}_ followed by 32 hexadecimal digits")]
pub struct InvalidId {
    /// The prefix that was expected.
    pub prefix: &'static str,
}

macro_rules! id {
    ($(#[$meta:meta])* $name:ident, $prefix:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// What stands before the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// A new identifier, later ones sorting after earlier ones.
            #[must_use]
            #[expect(clippy::new_without_default, reason = "a fresh random id is not a default")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// The bare UUID, for the database.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "_{}"), self.0.as_simple())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.strip_prefix(concat!($prefix, "_"))
                    .filter(|hex| hex.len() == 32 && !hex.bytes().any(|b| b.is_ascii_uppercase()))
                    .and_then(|hex| Uuid::try_parse(hex).ok())
                    .map(Self)
                    .ok_or(InvalidId { prefix: $prefix })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(/** A product of the catalogue. */ ProductId, "prod");
id!(/** An order; also the merchant's order id at the PG. */ OrderId, "ord");
id!(/** One try to pay an order with one PG payment. */ PaymentId, "pay");
id!(/** One cancellation, full or partial; also the PG's idempotency key for it. */ CancellationId, "can");
id!(/** An API key's public half. */ KeyId, "key");
id!(/** One delivery in the webhook inbox. */ DeliveryId, "whd");
id!(/** One difference between the PG's books and ours. */ FindingId, "fnd");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_itself_and_fits_every_pg() {
        let id = OrderId::new();
        let text = id.to_string();
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(text.len(), 36);
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
    }

    #[test]
    fn an_id_of_another_kind_or_shape_is_refused() {
        let payment = PaymentId::new().to_string();
        assert!(payment.parse::<OrderId>().is_err());
        for bad in ["", "ord_", "ord_xyz", "ord_0192", "ORD_00000000000000000000000000000000"] {
            assert!(bad.parse::<OrderId>().is_err(), "{bad}");
        }
        let upper = OrderId::new().to_string().to_uppercase().replace("ORD_", "ord_");
        assert!(upper.parse::<OrderId>().is_err() || !upper.bytes().any(|b| b.is_ascii_uppercase()));
    }
}
