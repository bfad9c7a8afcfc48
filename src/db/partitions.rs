//! The tables that lie in partitions by time: `events` by month, the webhook inbox by week, idempotency keys by 15 days. What a
//! partition is, and where it begins and ends, is said in the migrations `partitions` and `keys` alone.

use std::time::Duration;

use diesel::sql_types::{Integer, Interval, Nullable, Text};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection as _};

use super::{Conn, DbError, in_future};

/// Making and taking away waits no longer than this for a table, because everybody else waits behind it.
const LOCK_LIMIT: Duration = Duration::from_millis(100);

/// Makes the partitions of today and of the time to come, as far as they are not there; returns how many.
///
/// # Errors
/// Also if a table was in use for longer than we wait for it; then it is for another time.
pub async fn make_next(conn: &Conn) -> Result<i32, DbError> {
    wait_briefly(conn).await?;
    let made = diesel::select(diesel::dsl::sql::<Integer>("make_next_partitions()"));
    Ok(made.get_result(&mut &*conn).await?)
}

/// Takes away the oldest week of the webhook inbox that ended at least so long ago, and of which every delivery is read;
/// returns its name.
///
/// # Errors
/// As [`make_next`].
pub async fn drop_oldest_deliveries(conn: &Conn, age: Duration) -> Result<Option<String>, DbError> {
    drop_oldest(conn, "webhook_inbox", age).await
}

/// Takes away the oldest idempotency keys, a partition that ended at least so long ago; returns its name.
///
/// # Errors
/// As [`make_next`].
pub async fn drop_oldest_keys(conn: &Conn, age: Duration) -> Result<Option<String>, DbError> {
    drop_oldest(conn, "idempotency_keys", age).await
}

async fn drop_oldest(conn: &Conn, table: &str, age: Duration) -> Result<Option<String>, DbError> {
    wait_briefly(conn).await?;
    let dropped = diesel::sql_query("select drop_partition($1, now() - $2) as name")
        .bind::<Text, _>(table)
        .bind::<Interval, _>(in_future(age))
        .get_result::<Dropped>(&mut &*conn)
        .await?;
    Ok(dropped.name)
}

#[derive(diesel::QueryableByName)]
struct Dropped {
    #[diesel(sql_type = Nullable<Text>)]
    name: Option<String>,
}

async fn wait_briefly(conn: &Conn) -> Result<(), DbError> {
    (&mut &*conn).batch_execute(&format!("set local lock_timeout = {}", LOCK_LIMIT.as_millis())).await?;
    Ok(())
}
