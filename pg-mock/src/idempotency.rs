//! Remembered answers: the documented meaning of `Idempotency-Key`.
//!
//! The scope is key, API key, method and path; **the body is not part of it**. A repeat after the
//! first answer gets that answer again, also when it was a 4xx; a repeat while the first is still
//! running gets a 409. Answers live 15 days. Used by [`crate::toss`], kept by [`crate::gateway`].
//! Refuses nothing by itself.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::answer::Reply;

/// How long an answer is remembered, in days.
const LIFE_DAYS: i64 = 15;

/// What makes two requests "the same".
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Scope {
    pub key: String,
    pub api_key: String,
    pub method: String,
    pub path: String,
}

/// An answer bound to a key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Remembered {
    pub scope: Scope,
    /// `None` when the call ended without an answer worth repeating: the key is then free again.
    pub answer: Option<StoredAnswer>,
    /// Trace id of the first answer.
    pub trace_id: String,
    pub first_used: DateTime<Utc>,
    /// The first call is running until then.
    pub running_until: DateTime<Utc>,
}

/// Status and body of a remembered answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StoredAnswer {
    pub status: u16,
    pub body: String,
}

impl From<&Reply> for StoredAnswer {
    fn from(reply: &Reply) -> Self {
        StoredAnswer { status: reply.status, body: String::from_utf8_lossy(&reply.body).into_owned() }
    }
}

/// What is known about a key.
pub(crate) enum Known {
    /// Nothing: the call is to be executed.
    New,
    /// The first call is still running.
    Running,
    /// The first call was answered.
    Answered(Remembered),
}

/// Every key in use.
#[derive(Default)]
pub(crate) struct Answers {
    by_scope: HashMap<Scope, Remembered>,
}

impl Answers {
    pub fn look_up(&self, scope: &Scope, now: DateTime<Utc>) -> Known {
        match self.by_scope.get(scope) {
            None => Known::New,
            Some(entry) if now < entry.running_until => Known::Running,
            Some(entry) if entry.answer.is_none() => Known::New,
            Some(entry) if now - entry.first_used > TimeDelta::days(LIFE_DAYS) => Known::New,
            Some(entry) => Known::Answered(entry.clone()),
        }
    }

    pub fn remember(&mut self, entry: Remembered) {
        self.by_scope.insert(entry.scope.clone(), entry);
    }

    pub fn all(&self) -> impl Iterator<Item = &Remembered> {
        self.by_scope.values()
    }

    pub fn len(&self) -> usize {
        self.by_scope.len()
    }
}
