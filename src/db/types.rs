//! How the domain's words are stored: ids as UUID, closed vocabularies as text.
//!
//! A text that a vocabulary does not know is an error on reading, never a default: it means that the database is
//! newer than this program.

use diesel::backend::Backend;
use diesel::deserialize::{self, FromSql, Queryable};
use diesel::expression::AsExpression;
use diesel::internal::derives::as_expression::Bound;
use diesel::pg::Pg;
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types::{Nullable, Text, Uuid as SqlUuid};
use uuid::Uuid;

use crate::domain::cancellation::{CancellationOrigin, CancellationStatus};
use crate::domain::evidence::{DeclineClass, DoubtReason, PaymentKey, RefusalClass};
use crate::domain::ids::{CancellationId, DeliveryId, FindingId, KeyId, OrderId, PaymentId, ProductId};
use crate::domain::money::Currency;
use crate::domain::order::OrderStatus;
use crate::domain::payment::{Method, PaymentStatus};
use crate::domain::reconciliation::{FindingKind, FindingStatus};

/// Teaches diesel that values of a type can be bound and read as one SQL type.
macro_rules! bindable {
    ($ty:ty, $sql:ty) => {
        impl AsExpression<$sql> for $ty {
            type Expression = Bound<$sql, Self>;
            fn as_expression(self) -> Self::Expression {
                Bound::new(self)
            }
        }

        impl<'a> AsExpression<$sql> for &'a $ty {
            type Expression = Bound<$sql, &'a $ty>;
            fn as_expression(self) -> Self::Expression {
                Bound::new(self)
            }
        }

        impl AsExpression<Nullable<$sql>> for $ty {
            type Expression = Bound<Nullable<$sql>, Self>;
            fn as_expression(self) -> Self::Expression {
                Bound::new(self)
            }
        }

        impl<'a> AsExpression<Nullable<$sql>> for &'a $ty {
            type Expression = Bound<Nullable<$sql>, &'a $ty>;
            fn as_expression(self) -> Self::Expression {
                Bound::new(self)
            }
        }

        impl ToSql<Nullable<$sql>, Pg> for $ty {
            fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
                <Self as ToSql<$sql, Pg>>::to_sql(self, out)
            }
        }

        impl Queryable<$sql, Pg> for $ty {
            type Row = Self;
            fn build(row: Self) -> deserialize::Result<Self> {
                Ok(row)
            }
        }
    };
}

macro_rules! uuid_ids {
    ($($ty:ty),+ $(,)?) => {$(
        bindable!($ty, SqlUuid);

        impl ToSql<SqlUuid, Pg> for $ty {
            fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
                <Uuid as ToSql<SqlUuid, Pg>>::to_sql(&self.uuid(), &mut out.reborrow())
            }
        }

        impl FromSql<SqlUuid, Pg> for $ty {
            fn from_sql(bytes: <Pg as Backend>::RawValue<'_>) -> deserialize::Result<Self> {
                <Uuid as FromSql<SqlUuid, Pg>>::from_sql(bytes).map(Self::from)
            }
        }
    )+};
}

macro_rules! texts {
    ($($ty:ty { $write:expr, $read:expr }),+ $(,)?) => {$(
        bindable!($ty, Text);

        impl ToSql<Text, Pg> for $ty {
            fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
                let write: fn(&$ty) -> &str = $write;
                <str as ToSql<Text, Pg>>::to_sql(write(self), &mut out.reborrow())
            }
        }

        impl FromSql<Text, Pg> for $ty {
            fn from_sql(bytes: <Pg as Backend>::RawValue<'_>) -> deserialize::Result<Self> {
                let text = <String as FromSql<Text, Pg>>::from_sql(bytes)?;
                let read: fn(&str) -> Option<$ty> = $read;
                read(&text).ok_or_else(|| format!("{text:?} is not a {}", stringify!($ty)).into())
            }
        }
    )+};
}

uuid_ids!(ProductId, OrderId, PaymentId, CancellationId, KeyId, DeliveryId, FindingId);

texts!(
    OrderStatus { |v| v.as_str(), Self::parse },
    PaymentStatus { |v| v.as_str(), Self::parse },
    CancellationStatus { |v| v.as_str(), Self::parse },
    CancellationOrigin { |v| v.as_str(), Self::parse },
    Method { |v| v.as_str(), Self::parse },
    DeclineClass { |v| v.as_str(), Self::parse },
    RefusalClass { |v| v.as_str(), Self::parse },
    DoubtReason { |v| v.as_str(), Self::parse },
    Currency { |v| v.code(), Self::parse },
    PaymentKey { |v| v.as_str(), Self::parse },
    FindingKind { |v| v.as_str(), Self::parse },
    FindingStatus { |v| v.as_str(), Self::parse },
);
