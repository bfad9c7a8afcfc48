//! The pure core: money, identifiers, and what each state may become.
//!
//! Owns every decision about legality. No I/O, no clock, no database and no HTTP type is known here, so each
//! rule can be tested by calling a function.

pub mod audit;
pub mod cancellation;
pub mod evidence;
pub mod explanation;
pub mod ids;
pub mod money;
pub mod order;
pub mod payment;
pub mod reconciliation;
pub mod resolution;
pub mod stock;

/// Declares a closed vocabulary: an enum whose variants have one stable text each (database, JSON, labels).
macro_rules! vocabulary {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$vmeta:meta])* $variant:ident => $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        $vis enum $name { $($(#[$vmeta])* $variant,)+ }

        impl $name {
            /// Every member, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable text of this member.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The member with this text, if there is one.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use vocabulary;

/// A state machine was asked for a step that its table does not list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{machine}: {event} is not possible from {from}")]
pub struct IllegalTransition {
    /// Which machine: `order`, `payment` or `cancellation`.
    pub machine: &'static str,
    /// The state it was in.
    pub from: &'static str,
    /// The event that was offered.
    pub event: &'static str,
}
