//! Idempotency keys: one claim, one answer.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::define_sql_function;
use diesel::dsl::now;
use diesel::prelude::*;
use diesel::sql_types::Text;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::locks::{self, Rank};
use super::prepared::Prepare as _;
use super::schema::idempotency_keys;
use super::{Conn, DbError, later};

/// A key in its scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// Whose key: an API key's id, or an order for a checkout token.
    pub owner: String,
    /// Which operation.
    pub route: &'static str,
    /// The caller's key.
    pub key: String,
    /// SHA-256 of what was asked.
    pub fingerprint: Vec<u8>,
}

/// A key with its owner and its route: what is unique.
pub type Key = (String, String, String);

impl Scope {
    /// The key with its owner and its route.
    #[must_use]
    pub fn whole(&self) -> Key {
        (self.owner.clone(), self.route.to_owned(), self.key.clone())
    }
}

/// A stored claim.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = idempotency_keys, check_for_backend(diesel::pg::Pg))]
pub struct ClaimRow {
    /// SHA-256 of what was asked first.
    pub fingerprint: Vec<u8>,
    /// What the claim made.
    pub resource_id: Uuid,
    /// The answer's status, once there is one.
    pub response_status: Option<i16>,
    /// The answer's body, byte for byte.
    pub response_body: Option<String>,
    /// Until when the first request counts as running.
    pub lease_until: DateTime<Utc>,
}

/// A claim as it is written first. What is not known is written as null, not left to the column's default: a statement with
/// defaults is prepared again each time.
#[derive(Insertable)]
#[diesel(table_name = idempotency_keys, treat_none_as_default_value = false)]
struct NewClaim<'a> {
    owner: &'a str,
    route: &'a str,
    key: &'a str,
    fingerprint: &'a [u8],
    status: &'a str,
    resource_id: Uuid,
    response_status: Option<i16>,
    response_body: Option<&'a str>,
    under_lock: bool,
}

impl<'a> NewClaim<'a> {
    fn open(scope: &'a Scope, resource: Uuid) -> Self {
        Self {
            owner: &scope.owner,
            route: scope.route,
            key: &scope.key,
            fingerprint: &scope.fingerprint,
            status: "in_progress",
            resource_id: resource,
            response_status: None,
            response_body: None,
            under_lock: false,
        }
    }
}

define_sql_function! {
    /// Waits until nobody else who called it with the same words is in a transaction.
    fn lock_key(owner: Text, route: Text, key: Text);
}

/// Claims a key for `resource`; `false` if it is taken. Waits for a concurrent claim of the same key to commit, whichever
/// partition that one goes to.
pub async fn claim(
    conn: &Conn,
    scope: &Scope,
    resource: Uuid,
    lease: Duration,
    keep: Duration,
) -> Result<bool, DbError> {
    locks::takes(Rank::Claim, resource);
    let locked = diesel::select(lock_key(&scope.owner, scope.route, &scope.key)).execute(&mut &*conn);
    // Sent together, but each statement sees what was committed before it begins.
    let (locked, known) = futures_util::join!(locked, find(conn, scope));
    locked?;
    if known?.is_some() {
        return Ok(false);
    }
    let inserted = diesel::insert_into(idempotency_keys::table)
        .values((
            NewClaim { under_lock: true, ..NewClaim::open(scope, resource) },
            idempotency_keys::lease_until.eq(later(lease)),
            idempotency_keys::expires_at.eq(later(keep)),
        ))
        .on_conflict_do_nothing()
        .execute(&mut &*conn)
        .await?;
    Ok(inserted == 1)
}

/// Claims a key that was looked for in this transaction and seemed to be free. If it is not, the unique index of today's
/// partition refuses; it waits for a concurrent claim of the same key to commit. Near the partition's end
/// `idempotency_keys_under_lock` refuses, and only [`claim`] will do.
pub async fn claim_free(
    conn: &Conn,
    scope: &Scope,
    resource: Uuid,
    lease: Duration,
    keep: Duration,
) -> Result<(), DbError> {
    locks::takes(Rank::Claim, resource);
    diesel::insert_into(idempotency_keys::table)
        .values((
            NewClaim::open(scope, resource),
            idempotency_keys::lease_until.eq(later(lease)),
            idempotency_keys::expires_at.eq(later(keep)),
        ))
        .execute(&mut &*conn)
        .await?;
    Ok(())
}

/// The same, with the answer that is known already.
pub async fn claim_answered(
    conn: &Conn,
    scope: &Scope,
    resource: Uuid,
    response: &Response,
    lease: Duration,
    keep: Duration,
) -> Result<(), DbError> {
    locks::takes(Rank::Claim, resource);
    let open = NewClaim::open(scope, resource);
    diesel::insert_into(idempotency_keys::table)
        .values((
            NewClaim {
                response_body: Some(&response.body),
                response_status: Some(response.status),
                status: "done",
                ..open
            },
            idempotency_keys::lease_until.eq(later(lease)),
            idempotency_keys::expires_at.eq(later(keep)),
        ))
        .execute(&mut &*conn)
        .await?;
    Ok(())
}

/// The claim on a key.
pub async fn find(conn: &Conn, scope: &Scope) -> Result<Option<ClaimRow>, DbError> {
    let row = idempotency_keys::table
        .find((&scope.owner, scope.route, &scope.key))
        .select(ClaimRow::as_select())
        .first(&mut &*conn)
        .await
        .optional()?;
    Ok(row)
}

/// Of these keys, and perhaps some others, those that were used.
pub async fn used(conn: &Conn, scopes: &[&Scope]) -> Result<HashSet<Key>, DbError> {
    let owners: BTreeSet<&str> = scopes.iter().map(|scope| scope.owner.as_str()).collect();
    let routes: BTreeSet<&str> = scopes.iter().map(|scope| scope.route).collect();
    let keys: Vec<&str> = scopes.iter().map(|scope| scope.key.as_str()).collect();
    let found: Vec<Key> = idempotency_keys::table
        .filter(idempotency_keys::owner.eq_any(owners))
        .filter(idempotency_keys::route.eq_any(routes))
        .filter(idempotency_keys::key.eq_any(keys))
        .select((idempotency_keys::owner, idempotency_keys::route, idempotency_keys::key))
        .load(&mut &*conn)
        .await?;
    Ok(found.into_iter().collect())
}

/// An answer to keep.
#[derive(Debug, Clone)]
pub struct Response {
    /// HTTP status.
    pub status: i16,
    /// JSON, byte for byte.
    pub body: String,
}

/// Claims without an answer; as the opposite of "done", or PostgreSQL may take the index of all open claims instead of that of
/// the resource: while it knows nothing of a table it holds both for equally good.
fn open() -> diesel::dsl::NotEq<idempotency_keys::status, &'static str> {
    idempotency_keys::status.ne("done")
}

/// Stores the answer for every open claim on `resource`.
pub async fn answer(conn: &Conn, resource: Uuid, response: &Response) -> Result<(), DbError> {
    locks::takes(Rank::Claim, resource);
    diesel::update(idempotency_keys::table)
        .filter(idempotency_keys::resource_id.eq(resource))
        .filter(open())
        .set((
            idempotency_keys::status.eq("done"),
            idempotency_keys::response_status.eq(response.status),
            idempotency_keys::response_body.eq(&response.body),
        ))
        .prepared()
        .execute(&mut &*conn)
        .await?;
    Ok(())
}

/// Frees the open claims on `resource`: nothing happened, so the same key may be tried again.
pub async fn free(conn: &Conn, resource: Uuid) -> Result<(), DbError> {
    locks::takes(Rank::Claim, resource);
    diesel::delete(idempotency_keys::table)
        .filter(idempotency_keys::resource_id.eq(resource))
        .filter(open())
        .execute(&mut &*conn)
        .await?;
    Ok(())
}

/// Ends the leases on `resource`: its first request was answered "not certain yet", so a repeat gets today's truth.
pub async fn end_lease(conn: &Conn, resource: Uuid) -> Result<(), DbError> {
    locks::takes(Rank::Claim, resource);
    diesel::update(idempotency_keys::table)
        .filter(idempotency_keys::resource_id.eq(resource))
        .filter(open())
        .set(idempotency_keys::lease_until.eq(now))
        .prepared()
        .execute(&mut &*conn)
        .await?;
    Ok(())
}

/// Forgets keys that lie in no partition of their time, whose own is over, and that no request holds, the oldest first; returns
/// how many. Waits for no lock: what somebody has in hand is left for the next time. The order makes it go by the index
/// whatever the share of such keys.
pub async fn delete_left(conn: &Conn, limit_rows: i64) -> Result<usize, DbError> {
    locks::took_free(Rank::Claim, []);
    let deleted = diesel::sql_query(
        "delete from idempotency_keys_default where ctid = any (array(
             select ctid from idempotency_keys_default where expires_at < now() and (status = 'done' or lease_until < now())
             order by expires_at limit $1 for update skip locked))",
    )
    .bind::<diesel::sql_types::BigInt, _>(limit_rows)
    .execute(&mut &*conn)
    .await?;
    Ok(deleted)
}
