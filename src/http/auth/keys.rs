//! API keys: their text, their storage as hashes, and the ring that checks them.
//!
//! `pgsk_` or `pgpk_` + the key id's 32 hexadecimal digits + `_` + base64url of 32 random bytes. Only the SHA-256 of the
//! random bytes is stored; they have 256 bits, so a slow hash would protect nothing. The ring holds all active
//! keys for a few seconds, so that authentication costs no query, and refuses to work from old knowledge.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::db::keys::KeyRow;
use crate::db::{self, Db, DbError};
use crate::domain::ids::KeyId;
use crate::domain::vocabulary;
use crate::telemetry::labels::Tx;

/// What API keys start with.
pub const KEY_PREFIXES: [&str; 2] = ["pgsk_", "pgpk_"];
/// A revoked key stops working within this time.
const FRESH: Duration = Duration::from_secs(5);
/// Without a database, keys known this long ago still work.
const STALE: Duration = Duration::from_secs(30);
/// Neither unknown keys nor a database that is down cause more than one query in this time.
const REFRESH_PAUSE: Duration = Duration::from_secs(1);
const LABEL_CHARS_MAX: usize = 100;

vocabulary! {
    /// What a key is for.
    pub enum Role {
        /// The shop's server: everything.
        Secret => "secret",
        /// A browser: the catalogue, placing an order.
        Publishable => "publishable",
    }
}

impl Role {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Secret => "pgsk_",
            Self::Publishable => "pgpk_",
        }
    }
}

/// A key as shown by its holder.
pub struct KeyText {
    role: Role,
    id: KeyId,
    hash: [u8; 32],
}

impl KeyText {
    /// Reads a key; `None` if it has not the form of one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let role = *Role::ALL.iter().find(|role| text.starts_with(role.prefix()))?;
        let (id, secret) = text.strip_prefix(role.prefix())?.split_at_checked(32)?;
        let id = format!("{}_{id}", KeyId::PREFIX).parse().ok()?;
        let secret: [u8; 32] = URL_SAFE_NO_PAD.decode(secret.strip_prefix('_')?).ok()?.try_into().ok()?;
        Some(Self { role, id, hash: Sha256::digest(secret).into() })
    }

    /// The public half.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }
}

/// Why a key was not stored or revoked.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The label is empty or too long.
    #[error("a label has 1 to {LABEL_CHARS_MAX} characters")]
    Label,
    /// Not the text of a key of this role.
    #[error("not a {0} key")]
    Text(Role),
    /// The key is known, but revoked, or with another secret or role.
    #[error("key {0} is stored differently or revoked")]
    Taken(KeyId),
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Makes a key. Its text is shown here for the only time.
///
/// # Errors
/// If the label does not fit or the database fails.
pub async fn create(db: &Db, role: Role, label: &str) -> Result<(KeyId, SecretString), KeyError> {
    let id = KeyId::new();
    let secret: [u8; 32] = rand::random();
    let text = format!("{}{}_{}", role.prefix(), id.uuid().as_simple(), URL_SAFE_NO_PAD.encode(secret));
    store(db, id, role, label, Sha256::digest(secret).into()).await?;
    Ok((id, SecretString::from(text)))
}

/// All keys, oldest first, also the revoked ones.
///
/// # Errors
/// If the database fails.
pub async fn list(db: &Db) -> Result<Vec<KeyRow>, KeyError> {
    Ok(db.read(async |conn| db::keys::list(conn).await).await?)
}

/// Revokes a key; `false` if there is no such live key. Running servers forget it within five seconds.
///
/// # Errors
/// If the database fails.
pub async fn revoke(db: &Db, id: KeyId) -> Result<bool, KeyError> {
    Ok(db.transaction(Tx::Keys, async |conn| db::keys::revoke(conn, id).await).await?)
}

/// Stores a key whose text exists already, for example in the development stack's file; does nothing the second time.
///
/// # Errors
/// If the text is no key of `role`, or the id is taken by another or a revoked key.
pub async fn ensure(db: &Db, role: Role, label: &str, text: &SecretString) -> Result<KeyId, KeyError> {
    let key = KeyText::parse(text.expose_secret()).filter(|key| key.role == role).ok_or(KeyError::Text(role))?;
    match store(db, key.id, role, label, key.hash).await {
        Err(KeyError::Db(error)) if error.is_constraint("api_keys_pkey") => {}
        other => return other.map(|()| key.id),
    }
    let is_same = |row: &KeyRow| {
        row.id == key.id && row.role == role.as_str() && row.hash == key.hash && row.revoked_at.is_none()
    };
    if list(db).await?.iter().any(is_same) { Ok(key.id) } else { Err(KeyError::Taken(key.id)) }
}

async fn store(db: &Db, id: KeyId, role: Role, label: &str, hash: [u8; 32]) -> Result<(), KeyError> {
    if !(1..=LABEL_CHARS_MAX).contains(&label.chars().count()) {
        return Err(KeyError::Label);
    }
    db.transaction(Tx::Keys, async |conn| db::keys::insert(conn, id, role.as_str(), label, &hash).await).await?;
    Ok(())
}

/// The active keys of one moment.
struct Known {
    keys: HashMap<Uuid, (Role, [u8; 32])>,
    at: Instant,
}

impl Known {
    fn of(rows: Vec<KeyRow>, at: Instant) -> Self {
        let active = rows.into_iter().filter(|row| row.revoked_at.is_none());
        let keys = active.filter_map(|row| Some((row.id.uuid(), (Role::parse(&row.role)?, row.hash.try_into().ok()?))));
        Self { keys: keys.collect(), at }
    }

    /// The role, if id, role and secret fit. Takes the same time for an unknown id as for a wrong secret.
    fn role_of(&self, shown: &KeyText) -> Option<Role> {
        let known = self.keys.get(&shown.id.uuid());
        let (role, hash) = known.copied().unwrap_or((shown.role, [0; 32]));
        let same_secret: bool = hash.ct_eq(&shown.hash).into();
        (same_secret && known.is_some() && role == shown.role).then_some(role)
    }
}

/// Checks keys against what the database said a moment ago.
#[derive(Default)]
pub struct KeyRing {
    known: RwLock<Option<Arc<Known>>>,
    /// When the database was last asked, whether it answered or not; held while it is being asked.
    asked: Mutex<Option<Instant>>,
}

impl KeyRing {
    /// The role of a good key, `None` for any other.
    ///
    /// # Errors
    /// If the database cannot be asked and what is known is too old.
    pub async fn check(&self, db: &Db, shown: &KeyText) -> Result<Option<Role>, DbError> {
        let known = match self.known().filter(|known| known.at.elapsed() < FRESH) {
            Some(known) => known,
            None => self.refresh(db).await?,
        };
        if let Some(role) = known.role_of(shown) {
            return Ok(Some(role));
        }
        if known.keys.contains_key(&shown.id.uuid()) || known.at.elapsed() < REFRESH_PAUSE {
            return Ok(None);
        }
        // It may be younger than what is known.
        Ok(self.refresh(db).await?.role_of(shown))
    }

    fn known(&self) -> Option<Arc<Known>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the database, unless somebody just did. Falls back to what is known while that is young enough.
    async fn refresh(&self, db: &Db) -> Result<Arc<Known>, DbError> {
        let mut asked = self.asked.lock().await;
        let failure = if asked.is_none_or(|at| at.elapsed() >= REFRESH_PAUSE) {
            let at = Instant::now();
            let answer = db.read(async |conn| db::keys::list(conn).await).await;
            *asked = Some(Instant::now());
            match answer {
                Ok(rows) => {
                    let known = Arc::new(Known::of(rows, at));
                    *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&known));
                    return Ok(known);
                }
                Err(error) => error,
            }
        } else {
            DbError::Unavailable("the keys could not be read a moment ago".to_owned())
        };
        self.known().filter(|known| known.at.elapsed() < STALE).ok_or(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(role: Role, id: KeyId, secret: [u8; 32]) -> String {
        format!("{}{}_{}", role.prefix(), id.uuid().as_simple(), URL_SAFE_NO_PAD.encode(secret))
    }

    fn row(id: KeyId, role: Role, secret: [u8; 32], revoked: bool) -> KeyRow {
        let now = crate::clock::now();
        KeyRow {
            id,
            role: role.as_str().to_owned(),
            label: "test".to_owned(),
            hash: Sha256::digest(secret).to_vec(),
            created_at: now,
            revoked_at: revoked.then_some(now),
        }
    }

    #[test]
    fn a_key_reads_back_as_its_id_and_the_hash_of_its_secret() {
        let (id, secret) = (KeyId::new(), [7; 32]);
        let key = text(Role::Secret, id, secret);
        assert_eq!(key.len(), 5 + 32 + 1 + 43);
        let parsed = KeyText::parse(&key).expect("a key");
        assert_eq!((parsed.id(), parsed.role, parsed.hash), (id, Role::Secret, Sha256::digest(secret).into()));
        for bad in ["", "pgsk_", "pgsk_0", &key[..key.len() - 1], &format!("{key}A"), &key.replace("pgsk", "pgxk")] {
            assert!(KeyText::parse(bad).is_none(), "{bad}");
        }
        assert!(KeyText::parse(&format!("pgsk_{}é_{}", "0".repeat(31), "A".repeat(43))).is_none());
    }

    #[test]
    fn only_the_whole_key_opens() {
        let (id, gone, secret) = (KeyId::new(), KeyId::new(), [7; 32]);
        let rows = vec![row(id, Role::Publishable, secret, false), row(gone, Role::Secret, secret, true)];
        let known = Known::of(rows, Instant::now());
        let role = |text: String| known.role_of(&KeyText::parse(&text).expect("a key"));
        assert_eq!(role(text(Role::Publishable, id, secret)), Some(Role::Publishable));
        assert_eq!(role(text(Role::Secret, id, secret)), None, "a role cannot be chosen");
        assert_eq!(role(text(Role::Publishable, id, [8; 32])), None, "another secret");
        assert_eq!(role(text(Role::Publishable, KeyId::new(), secret)), None, "an unknown id");
        assert_eq!(role(text(Role::Secret, gone, secret)), None, "revoked");
    }
}
