//! The buckets that all processes share, in Redis: one script, run by the server as one step, asked in one round trip.

use std::sync::LazyLock;

use redis::{ErrorKind, RedisError, Script};

use super::{Bucket, Taken};
use crate::redis::Redis;
use crate::telemetry::labels::RedisFeature;

static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("take.lua")));

/// Takes one request from each of the buckets, or from none if one has no room; `None` if Redis is no help now.
pub async fn take(redis: &Redis, buckets: &[Bucket]) -> Option<Taken> {
    let mut call = TAKE.prepare_invoke();
    for bucket in buckets {
        call.key(name(bucket)).arg(bucket.budget.requests()).arg(bucket.budget.price());
    }
    redis
        .ask(RedisFeature::RateLimit, async |connection| {
            let reply: Vec<u64> = call.invoke_async(connection).await?;
            read(&reply, buckets)
        })
        .await
}

/// The numbers of a bucket mean something only with its budget, so that is a part of its name.
fn name(bucket: &Bucket) -> String {
    let Bucket { class, subject, budget } = bucket;
    format!("paygauge:limit:{class}:{}/{}:{subject}", budget.requests(), budget.window_s())
}

fn read(reply: &[u64], buckets: &[Bucket]) -> Result<Taken, RedisError> {
    match reply.split_first() {
        Some((verdict @ (0 | 1), debts))
            if debts.len() == buckets.len()
                && debts.iter().zip(buckets).all(|(debt, bucket)| *debt <= bucket.budget.debt_max()) =>
        {
            Ok(Taken { is_admitted: *verdict == 1, debts: debts.to_vec() })
        }
        Some(_) | None => Err((ErrorKind::UnexpectedReturnType, "not the reply of our script").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Budget, Class, Subject};
    use super::*;

    #[test]
    fn only_a_reply_of_the_right_form_is_believed() {
        let budget = Budget::new(2, 1).expect("in bounds");
        let subject = Subject::Address("203.0.113.7".parse().expect("an address"));
        let buckets = [Bucket { class: Class::Reads, subject, budget }];
        assert_eq!(name(&buckets[0]), "paygauge:limit:reads:2/1:address:203.0.113.7");
        assert!(read(&[1, 1_000_000], &buckets).expect("a verdict").is_admitted);
        assert!(!read(&[0, 2_000_000], &buckets).expect("a verdict").is_admitted);
        for odd in [&[][..], &[1], &[2, 0], &[1, 0, 0], &[1, 2_000_001]] {
            assert!(read(odd, &buckets).is_err(), "{odd:?}");
        }
    }
}
