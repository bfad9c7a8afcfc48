//! Watches each statement of a connection: whoever it is for gets its time, and so does what it locks.

use diesel::connection::{Instrumentation, InstrumentationEvent};

use super::locks;
use crate::telemetry::ledger;
use crate::telemetry::record;

/// Follows the statements of one connection. Every event comes from within the task that has the connection.
#[derive(Default)]
pub(super) struct Watch {
    /// Counts statements to stop at one of them.
    #[cfg(feature = "dev")]
    crash: Option<crate::crash::CrashSwitch>,
}

impl Watch {
    /// Lets `crash` count the statements too.
    #[cfg(feature = "dev")]
    pub(super) fn counting(crash: crate::crash::CrashSwitch) -> Self {
        Self { crash: Some(crash) }
    }
}

impl Instrumentation for Watch {
    fn on_connection_event(&mut self, event: InstrumentationEvent<'_>) {
        if matches!(event, InstrumentationEvent::StartQuery { .. }) {
            ledger::statement_begins(locks::statement_begins());
        } else if matches!(event, InstrumentationEvent::FinishQuery { .. }) {
            ledger::statement_ended();
            if let Some((resource, elapsed)) = locks::statement_ended() {
                record::lock_wait(resource, elapsed);
            }
            #[cfg(feature = "dev")]
            if let Some(crash) = &self.crash {
                crash.statement_ended();
            }
        }
    }
}
