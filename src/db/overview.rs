//! What the gauges show: how much is undecided, and since when.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Timestamptz};
use diesel_async::RunQueryDsl;

use super::{Conn, DbError};

/// Undecided money, counted from the rows that hold it.
#[derive(Debug, Clone, QueryableByName)]
pub struct Overview {
    /// Confirms without a certain outcome.
    #[diesel(sql_type = BigInt)]
    pub confirms: i64,
    /// Since when the oldest of them is open.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub oldest_confirm_at: Option<DateTime<Utc>>,
    /// Cancellations without a certain outcome.
    #[diesel(sql_type = BigInt)]
    pub cancels: i64,
    /// Since when the oldest of them is open.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub oldest_cancel_at: Option<DateTime<Utc>>,
}

/// Counts through the partial indexes of what is due, so the cost follows the backlog, not the history.
pub async fn unresolved(conn: &mut Conn) -> Result<Overview, DbError> {
    let overview = diesel::sql_query(
        "select p.n as confirms, p.oldest as oldest_confirm_at, c.n as cancels, c.oldest as oldest_cancel_at
         from (select count(*) as n, min(confirm_started_at) as oldest from payments
               where inquire_at is not null and status = 'confirming') p,
              (select count(*) as n, min(created_at) as oldest from cancellations
               where inquire_at is not null and status = 'requested') c",
    )
    .get_result(conn)
    .await?;
    Ok(overview)
}

/// Answers if the database does.
pub async fn ping(conn: &mut Conn) -> Result<(), DbError> {
    diesel::sql_query("select 1").execute(conn).await?;
    Ok(())
}
