//! API keys: only their hashes are stored.

use chrono::{DateTime, Utc};
use diesel::dsl::now;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::locks::{self, Rank};
use super::prepared::Prepare as _;
use super::schema::api_keys;
use super::{Conn, DbError};
use crate::domain::ids::KeyId;

/// A key as stored.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = api_keys, check_for_backend(diesel::pg::Pg))]
pub struct KeyRow {
    /// Its public half.
    pub id: KeyId,
    /// `secret` or `publishable`.
    pub role: String,
    /// What the shop calls it.
    pub label: String,
    /// SHA-256 of the secret half.
    pub hash: Vec<u8>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// Stores a key's hash.
pub async fn insert(conn: &Conn, id: KeyId, role: &str, label: &str, hash: &[u8]) -> Result<(), DbError> {
    diesel::insert_into(api_keys::table)
        .values((api_keys::id.eq(id), api_keys::role.eq(role), api_keys::label.eq(label), api_keys::hash.eq(hash)))
        .execute(&mut &*conn)
        .await?;
    Ok(())
}

/// All keys, oldest first.
pub async fn list(conn: &Conn) -> Result<Vec<KeyRow>, DbError> {
    Ok(api_keys::table.select(KeyRow::as_select()).order(api_keys::id).load(&mut &*conn).await?)
}

/// Revokes a key; `false` if there is no such live key.
pub async fn revoke(conn: &Conn, id: KeyId) -> Result<bool, DbError> {
    locks::takes(Rank::Key, id.uuid());
    let revoked = diesel::update(api_keys::table.find(id))
        .filter(api_keys::revoked_at.is_null())
        .set(api_keys::revoked_at.eq(now))
        .prepared()
        .execute(&mut &*conn)
        .await?;
    Ok(revoked == 1)
}
