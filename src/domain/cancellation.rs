//! What a cancellation may become, and where it comes from.

use super::{IllegalTransition, vocabulary};

vocabulary! {
    /// Where a cancellation stands.
    pub enum CancellationStatus {
        /// The capacity is taken and the intent committed; the PG's answer is not certain yet.
        Requested => "requested",
        /// The PG gave the money back.
        Done => "done",
        /// The PG refused; the capacity was given back.
        Refused => "refused",
    }
}

vocabulary! {
    /// Why a cancellation exists.
    pub enum CancellationOrigin {
        /// Somebody called the API.
        Request => "request",
        /// A cancel asked for while the confirm was still open, acted on once it was certain.
        Wish => "wish",
        /// Money that no order may keep goes back.
        Compensation => "compensation",
        /// Made in the PG's own console, seen by an inquiry.
        External => "external",
    }
}

vocabulary! {
    /// What can happen to a cancellation.
    pub enum CancellationEvent {
        /// The intent was committed.
        Requested => "CancellationRequested",
        /// The answer was not certain.
        OutcomeUnknown => "CancellationOutcomeUnknown",
        /// It gives back less than was asked: the PG had taken less.
        Reduced => "CancellationReduced",
        /// The money went back.
        Done => "CancellationDone",
        /// The PG refused.
        Refused => "CancellationRefused",
    }
}

/// The state that a cancellation begins in by `event`, if it can be the first of its history. One that was made in the
/// PG's own console begins as done.
#[must_use]
pub const fn first(event: CancellationEvent) -> Option<CancellationStatus> {
    use CancellationEvent as E;
    match event {
        E::Requested => Some(CancellationStatus::Requested),
        E::Done => Some(CancellationStatus::Done),
        E::OutcomeUnknown | E::Reduced | E::Refused => None,
    }
}

/// The state after `event`, or why there is none.
pub fn next(status: CancellationStatus, event: CancellationEvent) -> Result<CancellationStatus, IllegalTransition> {
    use CancellationEvent as E;
    use CancellationStatus as S;
    match (status, event) {
        (S::Requested, E::OutcomeUnknown | E::Reduced) => Ok(S::Requested),
        (S::Requested, E::Done) => Ok(S::Done),
        (S::Requested, E::Refused) => Ok(S::Refused),
        (S::Requested | S::Done | S::Refused, E::Requested | E::OutcomeUnknown | E::Reduced | E::Done | E::Refused) => {
            Err(IllegalTransition { machine: "cancellation", from: status.as_str(), event: event.as_str() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancellation_is_decided_once() {
        for &event in CancellationEvent::ALL {
            assert!(next(CancellationStatus::Done, event).is_err());
            assert!(next(CancellationStatus::Refused, event).is_err());
        }
    }
}
