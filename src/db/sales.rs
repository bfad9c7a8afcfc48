//! What was sold and given back by day and product: totals that grow with the history instead of being read from it.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Date, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::locks::{self, Rank};
use super::{Conn, DbError};

/// How far the history is counted.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct Progress {
    /// Every event up to here is counted.
    #[diesel(sql_type = BigInt)]
    pub event_id: i64,
    /// May be counted once every transaction below `next_transaction` has ended.
    #[diesel(sql_type = BigInt)]
    pub next_event_id: i64,
    /// See there.
    #[diesel(sql_type = BigInt)]
    pub next_transaction: i64,
    /// Everything that was committed until then is counted.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub counted_until: Option<DateTime<Utc>>,
    /// The same once `next_event_id` is counted.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub next_counted_until: Option<DateTime<Utc>>,
}

/// How far the history is counted, as it is now.
pub async fn progress(conn: &Conn) -> Result<Progress, DbError> {
    Ok(diesel::sql_query("select * from sales_progress").get_result(&mut &*conn).await?)
}

/// The same, kept from others until the end of the transaction; `None` if another process is counting.
pub async fn take_turn(conn: &Conn) -> Result<Option<Progress>, DbError> {
    locks::took_free(Rank::Turn, [Uuid::nil()]);
    let query = diesel::sql_query("select * from sales_progress for update skip locked");
    Ok(query.get_result(&mut &*conn).await.optional()?)
}

/// Notes how far the history is counted.
pub async fn keep(conn: &Conn, progress: &Progress) -> Result<(), DbError> {
    locks::takes(Rank::Turn, Uuid::nil());
    diesel::sql_query(
        "update sales_progress set event_id = $1, next_event_id = $2, next_transaction = $3, counted_until = $4,
             next_counted_until = $5",
    )
    .bind::<BigInt, _>(progress.event_id)
    .bind::<BigInt, _>(progress.next_event_id)
    .bind::<BigInt, _>(progress.next_transaction)
    .bind::<Nullable<Timestamptz>, _>(progress.counted_until)
    .bind::<Nullable<Timestamptz>, _>(progress.next_counted_until)
    .execute(&mut &*conn)
    .await?;
    Ok(())
}

/// Where a piece of `limit_rows` events after one, and not beyond another, ends; `None` if there are fewer.
pub async fn piece_end(conn: &Conn, after: i64, until: i64, limit_rows: i64) -> Result<Option<i64>, DbError> {
    #[derive(QueryableByName)]
    struct End {
        #[diesel(sql_type = BigInt)]
        id: i64,
    }
    let query = diesel::sql_query(
        // The end is looked at last, see `audit::changed_orders`.
        "select id from (select id from events where id > $1 order by id offset greatest($3 - 1, 0) limit 1) e
         where id <= $2",
    );
    let query = query.bind::<BigInt, _>(after).bind::<BigInt, _>(until).bind::<BigInt, _>(limit_rows);
    Ok(query.get_result::<End>(&mut &*conn).await.optional()?.map(|end| end.id))
}

/// Adds what the events after one, up to another and with it, say of sales. To be called once for each event.
///
/// An order counts as sold on the day on which it is paid, and as given back when a bank takes its deposit back. A
/// cancellation counts on the day on which it is done, if the money was the order's: what a payment gave back that no
/// order could keep was never sold. Money beyond the price of the units, or less than it, has no product.
pub async fn add(conn: &Conn, after: i64, until: i64) -> Result<usize, DbError> {
    locks::belongs_to(Rank::Turn, Uuid::nil());
    let query = diesel::sql_query(include_str!("sales/add.sql"));
    Ok(query.bind::<BigInt, _>(after).bind::<BigInt, _>(until).execute(&mut &*conn).await?)
}

/// The totals of a day and product.
#[derive(Debug, Clone, QueryableByName)]
pub struct SalesRow {
    /// In UTC.
    #[diesel(sql_type = Date)]
    pub day: NaiveDate,
    /// Of the amounts.
    #[diesel(sql_type = Text)]
    pub currency: String,
    /// Nil for money without units.
    #[diesel(sql_type = SqlUuid)]
    pub product_id: Uuid,
    /// Units of orders that were paid.
    #[diesel(sql_type = BigInt)]
    pub sold_units: i64,
    /// What they cost, in minor units.
    #[diesel(sql_type = BigInt)]
    pub sold_amount: i64,
    /// Units given back.
    #[diesel(sql_type = BigInt)]
    pub canceled_units: i64,
    /// Money given back, in minor units.
    #[diesel(sql_type = BigInt)]
    pub canceled_amount: i64,
}

/// A row's place in the list.
pub type Place = (NaiveDate, String, Uuid);

/// The totals of some days, both ends included, oldest first.
pub async fn list(
    conn: &Conn,
    (from, to): (NaiveDate, NaiveDate),
    after: Option<&Place>,
    limit_rows: i64,
) -> Result<Vec<SalesRow>, DbError> {
    let (day, currency, product) = after.map_or((from, "", Uuid::nil()), |(day, currency, id)| (*day, currency, *id));
    let rows = diesel::sql_query(
        "select * from sales where day between $1 and $2 and (day, currency, product_id) > ($3, $4, $5)
         order by day, currency, product_id limit $6",
    )
    .bind::<Date, _>(from)
    .bind::<Date, _>(to)
    .bind::<Date, _>(day)
    .bind::<Text, _>(currency)
    .bind::<SqlUuid, _>(product)
    .bind::<BigInt, _>(limit_rows)
    .load(&mut &*conn)
    .await?;
    Ok(rows)
}
