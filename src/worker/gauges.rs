//! Gauges that only the database knows: what is open, and since when. Of several workers one shows them.

use std::sync::Arc;

use tokio::sync::Mutex;

use crate::clock;
use crate::db::overview::Lead;
use crate::db::{Db, DbError};
use crate::telemetry::record;

/// Shows the figures, or that another worker does.
pub(super) struct Gauges(Mutex<Lead>);

impl Gauges {
    pub(super) fn new(db: Db) -> Self {
        Self(Mutex::new(Lead::new(db)))
    }

    /// Reads the backlog and sets the gauges; always "no rows worked on".
    pub(super) async fn refresh(self: Arc<Self>) -> Result<usize, DbError> {
        match self.0.lock().await.look().await {
            Ok(Some(figures)) => record::overview(&figures, clock::now()),
            Ok(None) => record::overview_elsewhere(),
            // What was shown stays, and shows its age: an alert needs a number.
            Err(error) => {
                record::overview_unknown();
                return Err(error);
            }
        }
        Ok(0)
    }
}

/// This worker ends: whoever comes next shows the figures.
impl Drop for Gauges {
    fn drop(&mut self) {
        record::overview_elsewhere();
    }
}
