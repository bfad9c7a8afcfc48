//! The closed vocabularies of metric labels.
//!
//! `Label` is sealed: its implementations are the enums below, some enums of `domain`, HTTP status codes and route
//! templates. A `String` is none of them, so free text, ids and amounts cannot become a label; the set of series is
//! bounded by the types alone.

mod http;
mod protection;
mod redis;
mod resources;
mod states;
mod traces;
mod words;

pub use self::http::{HttpMethod, RouteLabel, StatusLabel};
pub use self::protection::{AdmissionRefusal, BreakerState, Lane};
pub use self::redis::{CacheResult, RedisFailure, RedisFeature, StreamEnd};
pub use self::resources::{Dependency, LockResource, ReservationResult, Step};
pub use self::states::{
    Aggregate, CurrencyLabel, DoubtCause, DoubtResolution, FunnelStage, InTime, MoneyMove, PaymentMethod, StatusWord,
};
pub use self::traces::{SpanResult, TraceDecision};
pub use self::words::{
    AuditMode, Contention, IdempotencyResult, IdempotentRoute, InquiryResult, LogLevel, Operation, OperationOutcome,
    OutcomeClass, PoolConnectionState, ProviderLabel, ProviderOperation, ProviderOutcome, ReconcileOutcome,
    RedactionRule, RejectionReason, StockMovement, Task, TickResult, Tx, TxResult, UnresolvedKind, WebhookApplied,
    WebhookReceived,
};
use crate::domain::audit::AuditRule;
use crate::domain::evidence::DeclineClass;
use crate::domain::reconciliation::FindingKind;

mod sealed {
    pub trait Sealed {}
}

/// A value of a label: one of a bounded, ordered set, each with a constant text.
pub trait Label: sealed::Sealed + Copy + Send + Sync + 'static {
    /// How many values there can be.
    const COUNT: usize;
    /// The texts where they are known at compile time; empty for status codes and routes.
    const TEXTS: &'static [&'static str];

    /// The position of this value, below [`Label::COUNT`].
    fn index(self) -> usize;
    /// The value at a position.
    fn nth(index: usize) -> Option<Self>;
    /// What stands in the exposition.
    fn text(self) -> &'static str;
}

macro_rules! label {
    ($($name:ident),+ $(,)?) => {$(
        impl sealed::Sealed for $name {}

        impl Label for $name {
            const COUNT: usize = $name::ALL.len();
            #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, bounded by the length")]
            const TEXTS: &'static [&'static str] = {
                const TEXTS: [&str; $name::ALL.len()] = {
                    let mut texts = [""; $name::ALL.len()];
                    let mut at = 0;
                    while at < texts.len() {
                        texts[at] = $name::ALL[at].as_str();
                        at += 1;
                    }
                    texts
                };
                &TEXTS
            };

            #[expect(clippy::as_conversions, reason = "the discriminant of a fieldless enum is its position")]
            fn index(self) -> usize {
                self as usize
            }

            fn nth(index: usize) -> Option<Self> {
                $name::ALL.get(index).copied()
            }

            fn text(self) -> &'static str {
                self.as_str()
            }
        }
    )+};
}

label!(
    AdmissionRefusal,
    Aggregate,
    AuditMode,
    AuditRule,
    BreakerState,
    CacheResult,
    Contention,
    CurrencyLabel,
    DeclineClass,
    Dependency,
    DoubtCause,
    DoubtResolution,
    FindingKind,
    FunnelStage,
    HttpMethod,
    IdempotencyResult,
    IdempotentRoute,
    InTime,
    InquiryResult,
    Lane,
    LockResource,
    LogLevel,
    MoneyMove,
    Operation,
    OperationOutcome,
    OutcomeClass,
    PaymentMethod,
    PoolConnectionState,
    ProviderLabel,
    ProviderOperation,
    ProviderOutcome,
    ReconcileOutcome,
    RedactionRule,
    RedisFailure,
    RedisFeature,
    RejectionReason,
    ReservationResult,
    SpanResult,
    StatusWord,
    Step,
    StockMovement,
    StreamEnd,
    Task,
    TickResult,
    TraceDecision,
    Tx,
    TxResult,
    UnresolvedKind,
    WebhookApplied,
    WebhookReceived,
);

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trips<L: Label + PartialEq + std::fmt::Debug>() {
        assert_eq!(L::TEXTS.len(), L::COUNT);
        for (at, text) in L::TEXTS.iter().enumerate() {
            let value = L::nth(at).expect("every position below the count has a value");
            assert_eq!((value.index(), value.text()), (at, *text));
        }
        assert_eq!(L::nth(L::COUNT), None);
    }

    #[test]
    fn every_value_of_a_vocabulary_has_its_own_position() {
        round_trips::<Operation>();
        round_trips::<Tx>();
        round_trips::<DeclineClass>();
        round_trips::<ProviderLabel>();
    }

    #[test]
    fn words_from_outside_fall_into_one_value() {
        assert_eq!(ProviderLabel::of("card 4111111111111111"), ProviderLabel::Other);
        let odd = axum::http::Method::from_bytes(b"BREW").expect("a token is a method");
        assert_eq!(HttpMethod::of(&odd), HttpMethod::Other);
        assert_eq!(HttpMethod::of(&axum::http::Method::PATCH), HttpMethod::Patch);
    }
}
