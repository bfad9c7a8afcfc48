//! What all processes remember together, in Redis: each text under the name of its generation, which one value names.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::Script;

use crate::redis::Redis;
use crate::telemetry::labels::RedisFeature;

/// Names the present generation; without it, that is the one with the empty name.
const GENERATION: &str = "paygauge:catalogue";

static LOOK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local generation = redis.call('GET', KEYS[1]) or ''
         local place = KEYS[1] .. ':' .. generation .. ':' .. ARGV[1]
         return {place, redis.call('GET', place)}",
    )
});

/// What there was.
pub struct Looked {
    /// Where what is read now belongs.
    pub place: String,
    /// What is there.
    pub text: Option<Arc<str>>,
}

/// Looks for a text; `None` if Redis is no help now.
pub async fn look(redis: &Redis, name: &str) -> Option<Looked> {
    let mut call = LOOK.prepare_invoke();
    call.key(GENERATION).arg(name);
    let (place, text): (String, Option<String>) =
        redis.ask(RedisFeature::Catalogue, async |connection| call.invoke_async(connection).await).await?;
    Some(Looked { place, text: text.map(Arc::from) })
}

/// Stores a text for `life`. If that fails, the next one reads it again.
pub async fn store(redis: &Redis, place: &str, text: &str, life: Duration) {
    let mut set = redis::cmd("SET");
    set.arg(place).arg(text).arg("PX").arg(millis(life));
    redis.ask(RedisFeature::Catalogue, async |connection| set.query_async::<()>(connection).await).await;
}

/// Begins a new generation, and lets it have a name until nothing of the one before can be left. If that fails, what is
/// there lives its life to the end.
pub async fn forget(redis: &Redis, life: Duration) {
    let mut set = redis::cmd("SET");
    set.arg(GENERATION).arg(uuid::Uuid::new_v4().simple().to_string()).arg("PX").arg(millis(life * 10));
    redis.ask(RedisFeature::Catalogue, async |connection| set.query_async::<()>(connection).await).await;
}

fn millis(life: Duration) -> u64 {
    u64::try_from(life.as_millis()).unwrap_or(u64::MAX).max(1)
}
