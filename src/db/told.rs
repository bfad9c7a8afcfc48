//! What a transaction has to tell once it is committed, and only then: one that is rolled back and tried again tells
//! everything once. If nobody knows whether it was committed, it tells nothing.

use std::time::Duration;

use super::locks;
use crate::domain::money::Money;
use crate::news::{Item, News};
use crate::telemetry::labels::{
    Aggregate, CurrencyLabel, DoubtCause, DoubtResolution, FunnelStage, MoneyMove, ProviderLabel, StatusWord,
};
use crate::telemetry::record;

/// A fact about the rows that a transaction has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// Something that others may wait for.
    News(Item),
    /// An event went into the history.
    Transition {
        /// Of what.
        aggregate: Aggregate,
        /// The state before.
        from: StatusWord,
        /// The state after.
        to: StatusWord,
    },
    /// An order reached a stage for the first time.
    Stage(FunnelStage),
    /// Real money was taken, or went back.
    Moved(MoneyMove, Money),
    /// An outcome became uncertain.
    DoubtOpened {
        /// Whose answer is missing.
        provider: ProviderLabel,
        /// Which way the money was to go.
        operation: MoneyMove,
        /// Why.
        cause: DoubtCause,
    },
    /// An uncertain outcome is certain.
    DoubtResolved {
        /// Whose answer was missing.
        provider: ProviderLabel,
        /// Which way the money was to go.
        operation: MoneyMove,
        /// What came of it.
        resolution: DoubtResolution,
        /// How long after the intent.
        open_for: Duration,
    },
}

/// Tells this when the transaction that is going on is committed. Without one nothing is told.
pub fn once_committed(fact: Fact) {
    locks::keep(fact);
}

/// The transaction is committed.
pub(super) fn tell(facts: Vec<Fact>, news: Option<&News>) {
    for fact in facts {
        match fact {
            Fact::News(item) => news.into_iter().for_each(|news| news.tell(item)),
            Fact::Transition { aggregate, from, to } => record::transition(aggregate, from, to),
            Fact::Stage(stage) => record::funnel(stage),
            Fact::Moved(moved, money) => record::money(moved, CurrencyLabel::from(money.currency), money.minor),
            Fact::DoubtOpened { provider, operation, cause } => record::doubt_opened(provider, operation, cause),
            Fact::DoubtResolved { provider, operation, resolution, open_for } => {
                record::doubt_resolved(provider, operation, resolution, open_for);
            }
        }
    }
}
