//! A cache beside the database for what many ask for and few change: texts, for a short time, in Redis if there is one,
//! else in this process.
//!
//! What is given may be as old as the cache's life and never older, whatever gets lost. Whoever changes something says
//! [`Cache::forget`] after the commit, and from then on what was read before is not given any more: texts lie under the
//! name of a generation, and a reader stores under the generation that it began in. Of the readers of one process that
//! miss the same text at the same time, one reads and the others wait for it. Redis that is away, slow or spoilt is no
//! reason to fail: then the process remembers for itself.

mod flights;
mod local;
mod shared;

use std::sync::Arc;
use std::time::Duration;

use self::flights::{Flights, Seat};
use self::local::Local;
use self::shared::Looked;
use crate::redis::Redis;
use crate::telemetry::labels::CacheResult;
use crate::telemetry::record;

/// The cache of one process.
pub struct Cache {
    life: Duration,
    redis: Option<Arc<Redis>>,
    local: Local,
    flights: Flights,
}

impl Cache {
    /// Remembers for `life`, which may be zero for never.
    #[must_use]
    pub fn new(life: Duration, redis: Option<Arc<Redis>>) -> Self {
        Self { life, redis, local: Local::default(), flights: Flights::default() }
    }

    /// The text of this name: remembered, or from `load`, which may find none. What is remembered elsewhere is given only
    /// if it is good.
    ///
    /// # Errors
    /// Those of `load`.
    pub async fn text<E>(
        &self,
        name: &str,
        is_good: impl Fn(&str) -> bool,
        load: impl AsyncFnOnce() -> Result<Option<String>, E>,
    ) -> Result<Option<Arc<str>>, E> {
        if self.life.is_zero() {
            return Ok(load().await?.map(Arc::from));
        }
        let generation = self.local.generation();
        let seat = self.flights.board(name, generation, self.life).await;
        if let Seat::Passenger(text) = seat {
            record::cache_read(CacheResult::Joined);
            return Ok(text);
        }
        let looked = match &self.redis {
            Some(redis) => shared::look(redis, name).await,
            None => None,
        };
        let remembered = match &looked {
            Some(looked) => looked.text.clone().filter(|text| is_good(text)),
            None => self.local.get(name, self.life),
        };
        if let Some(text) = remembered {
            record::cache_read(CacheResult::Hit);
            seat.land(Some(Arc::clone(&text)));
            return Ok(Some(text));
        }
        record::cache_read(CacheResult::Miss);
        let loaded: Option<Arc<str>> = match load().await {
            Ok(loaded) => loaded.map(Arc::from),
            Err(error) => {
                seat.crash();
                return Err(error);
            }
        };
        if let Some(text) = &loaded {
            match (&self.redis, looked) {
                (Some(redis), Some(Looked { place, .. })) => shared::store(redis, &place, text, self.life).await,
                (Some(_) | None, _) => self.local.store(name, generation, Arc::clone(text), self.life),
            }
        }
        seat.land(loaded.clone());
        Ok(loaded)
    }

    /// What was read before now is not given any more. Other processes without Redis notice when its life is over.
    pub async fn forget(&self) {
        self.local.forget();
        if let Some(redis) = &self.redis
            && !self.life.is_zero()
        {
            shared::forget(redis, self.life).await;
        }
    }
}
