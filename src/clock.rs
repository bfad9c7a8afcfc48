//! The one place that asks the system for the time. Rules about money use the database's clock instead.

use chrono::{DateTime, SubsecRound, Utc};

/// Now, in UTC and whole microseconds, as the database keeps it.
#[must_use]
pub fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}
