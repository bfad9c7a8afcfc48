//! The one place that asks the system for the time. Rules about money use the database's clock instead.

use chrono::{DateTime, Utc};

/// Now, in UTC.
#[must_use]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}
