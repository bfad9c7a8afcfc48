//! Whether idempotency keys were used before: one question for all who ask at the same time.
//!
//! While a question is under way, whoever comes waits for the next one, so that a flood of requests asks hardly more often than
//! one after the other would. Nothing is locked and nothing is written.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Mutex, PoisonError};

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use tokio::sync::oneshot;

use super::idempotency::Scope;
use super::schema::idempotency_keys;
use super::{Conn, Db, DbError};

/// Keys of one question.
const KEYS_MAX: usize = 500;

/// Those who ask.
#[derive(Default)]
pub struct KnownKeys {
    waiting: Mutex<Vec<Asked>>,
    turn: tokio::sync::Mutex<()>,
}

struct Asked {
    scope: Scope,
    answer: oneshot::Sender<bool>,
}

impl KnownKeys {
    /// Whether this key may have been used: certain if not, and assumed if the database does not say.
    pub async fn may_know(&self, db: &Db, scope: &Scope) -> bool {
        let (answer, mut answered) = oneshot::channel();
        self.waiting().push(Asked { scope: scope.clone(), answer });
        let _turn = tokio::select! {
            biased;
            known = &mut answered => return known.unwrap_or(true),
            turn = self.turn.lock() => turn,
        };
        let some: Vec<Asked> = {
            let mut waiting = self.waiting();
            let count = waiting.len().min(KEYS_MAX);
            waiting.drain(..count).collect()
        };
        let scopes: Vec<&Scope> = some.iter().map(|asked| &asked.scope).collect();
        let used =
            if scopes.is_empty() { Ok(HashSet::new()) } else { db.read(async |conn| used(conn, &scopes).await).await };
        // Without an answer everybody assumes the worst.
        if let Ok(used) = used {
            for asked in some {
                let Scope { owner, route, key, .. } = asked.scope;
                // Who has left needs no answer.
                asked.answer.send(used.contains(&(owner, route.to_owned(), key))).unwrap_or_default();
            }
        }
        answered.try_recv().unwrap_or(true)
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Asked>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of these keys, and perhaps some others, those that were used.
async fn used(conn: &mut Conn, scopes: &[&Scope]) -> Result<HashSet<(String, String, String)>, DbError> {
    let owners: BTreeSet<&str> = scopes.iter().map(|scope| scope.owner.as_str()).collect();
    let routes: BTreeSet<&str> = scopes.iter().map(|scope| scope.route).collect();
    let keys: Vec<&str> = scopes.iter().map(|scope| scope.key.as_str()).collect();
    let found: Vec<(String, String, String)> = idempotency_keys::table
        .filter(idempotency_keys::owner.eq_any(owners))
        .filter(idempotency_keys::route.eq_any(routes))
        .filter(idempotency_keys::key.eq_any(keys))
        .select((idempotency_keys::owner, idempotency_keys::route, idempotency_keys::key))
        .load(conn)
        .await?;
    Ok(found.into_iter().collect())
}
