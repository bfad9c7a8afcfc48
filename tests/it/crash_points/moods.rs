//! What the PG does to a step meanwhile.

use pg_mock::{Behaviour, Operation, Rule};

use super::scene::Scene;
use super::verbs::Verb;
use crate::support::shop::Shop;

/// What the PG does with the call that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Approve,
    Decline,
    ApproveThenHang,
    ApproveThenDrop,
    ErrorBefore,
    ErrorAfter,
    Conflict,
    Garbage,
    Mismatch,
    TooMany,
    /// The same, for the second call of a verb that makes two.
    SecondDeclines,
    SecondDrops,
    SecondErrs,
}

impl Mood {
    const ALL: [Self; 13] = [
        Self::Approve,
        Self::Decline,
        Self::ApproveThenHang,
        Self::ApproveThenDrop,
        Self::ErrorBefore,
        Self::ErrorAfter,
        Self::Conflict,
        Self::Garbage,
        Self::Mismatch,
        Self::TooMany,
        Self::SecondDeclines,
        Self::SecondDrops,
        Self::SecondErrs,
    ];

    const fn is_of_a_second_call(self) -> bool {
        matches!(self, Self::SecondDeclines | Self::SecondDrops | Self::SecondErrs)
    }
}

/// What a PG gives back that gives back something else than it was asked for.
const LESS: i64 = 3_000;

impl Verb {
    /// What the PG can do to it.
    pub fn moods(self) -> Vec<Mood> {
        let is_possible = |mood: &Mood| match self {
            Self::Order | Self::OrdersTogether | Self::CancelOrder | Self::WebhookReceive | Self::Expire => {
                *mood == Mood::Approve
            }
            Self::RecoverConfirm | Self::RecoverCancel | Self::ReconcileCancel | Self::ReconcileApproval => {
                *mood != Mood::Mismatch
            }
            Self::Confirm
            | Self::CancelPart
            | Self::CancelAll
            | Self::WebhookCanceled
            | Self::RecoverApproval
            | Self::RecoverCanceled => !mood.is_of_a_second_call(),
            // A lookup that lies about a deposit makes a reversal, and a deposit goes back only by hand.
            Self::WebhookDeposit => !matches!(mood, Mood::Mismatch | Mood::ErrorAfter) && !mood.is_of_a_second_call(),
        };
        Mood::ALL.into_iter().filter(is_possible).collect()
    }

    /// Puts the PG into its mood.
    pub fn spoil(self, shop: &Shop, mood: Mood) {
        let (first, second) = match self {
            Self::Confirm => (Operation::Confirm, Operation::Confirm),
            Self::CancelPart | Self::CancelAll => (Operation::Cancel, Operation::Cancel),
            Self::RecoverConfirm => (Operation::Lookup, Operation::Confirm),
            Self::RecoverCancel => (Operation::Lookup, Operation::Cancel),
            Self::ReconcileCancel | Self::ReconcileApproval => (Operation::Transactions, Operation::Lookup),
            Self::Order
            | Self::OrdersTogether
            | Self::CancelOrder
            | Self::WebhookReceive
            | Self::WebhookDeposit
            | Self::WebhookCanceled
            | Self::Expire
            | Self::RecoverApproval
            | Self::RecoverCanceled => (Operation::Lookup, Operation::Lookup),
        };
        let failing = || Behaviour::ErrorBefore { status: 500, code: "FAILED_INTERNAL_SYSTEM_PROCESSING".to_owned() };
        let (operation, behaviour) = match mood {
            Mood::Approve => return,
            Mood::Decline => (first, refusal(first)),
            Mood::ApproveThenHang => (first, Behaviour::ApproveThenHang { ms: 1_500 }),
            Mood::ApproveThenDrop => (first, Behaviour::ApproveThenDrop),
            Mood::ErrorBefore => (first, failing()),
            Mood::ErrorAfter => {
                (first, Behaviour::ErrorAfter { status: 500, code: "FAILED_INTERNAL_SYSTEM_PROCESSING".to_owned() })
            }
            Mood::Conflict => (first, Behaviour::InProgressConflict),
            Mood::Garbage => (first, Behaviour::Garbage),
            Mood::Mismatch => (first, Behaviour::MismatchedAmount { amount: LESS }),
            Mood::TooMany => (first, Behaviour::TooManyRequests { retry_after_s: 1 }),
            Mood::SecondDeclines => (second, refusal(second)),
            Mood::SecondDrops => (second, Behaviour::ApproveThenDrop),
            Mood::SecondErrs => (second, failing()),
        };
        let rule = match operation {
            Operation::Confirm => Rule::confirm(behaviour),
            Operation::Cancel => Rule::cancel(behaviour),
            Operation::Transactions => Rule::transactions(behaviour),
            Operation::Lookup | Operation::Any => Rule::lookup(behaviour),
        };
        shop.mock.script(rule);
    }

    /// Whether the PG gave back another amount than it was asked for. Nobody can decide that but a person: the
    /// cancellation stays open.
    pub fn waits_for_a_person(self, shop: &Shop, mood: Mood, scene: &Scene) -> bool {
        let cancels = matches!(self, Self::CancelPart | Self::CancelAll);
        cancels && mood == Mood::Mismatch && shop.mock.book().canceled(&scene.order().id) == LESS
    }
}

/// What the PG says when it refuses for good.
fn refusal(operation: Operation) -> Behaviour {
    let code = match operation {
        Operation::Confirm => "REJECT_CARD_COMPANY",
        Operation::Cancel => "NOT_CANCELABLE_PAYMENT",
        Operation::Transactions => "FORBIDDEN_REQUEST",
        Operation::Lookup | Operation::Any => "NOT_FOUND_PAYMENT",
    };
    Behaviour::Decline { code: code.to_owned() }
}
