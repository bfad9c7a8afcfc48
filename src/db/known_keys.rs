//! Whether idempotency keys were used before: one question for all who ask at the same time.
//!
//! While a question is under way, whoever comes waits for the next one, so that a flood of requests asks hardly more often than
//! one after the other would. Nothing is locked and nothing is written.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

use super::Db;
use super::idempotency::{self, Scope};

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
        let used = if scopes.is_empty() {
            Ok(HashSet::new())
        } else {
            db.read(async |conn| idempotency::used(conn, &scopes).await).await
        };
        // Without an answer everybody assumes the worst.
        if let Ok(used) = used {
            for asked in some {
                // Who has left needs no answer.
                asked.answer.send(used.contains(&asked.scope.whole())).unwrap_or_default();
            }
        }
        answered.try_recv().unwrap_or(true)
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Asked>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
