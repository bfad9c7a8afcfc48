//! The news of the other processes: one channel of Redis, which all of them publish to and hear.
//!
//! What is to be sent is a set, emptied every few milliseconds into one message, so that a busy process publishes no
//! more often than a calm one. What cannot be sent is dropped. Every process sends something at least every few
//! seconds, so that one which hears nothing, not even itself, knows that it hears no more.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::Item;
use crate::redis::Redis;
use crate::telemetry::labels::{RedisFailure, RedisFeature};
use crate::telemetry::record;

/// Between two messages.
const PAUSE: Duration = Duration::from_millis(5);
/// A message is sent at least this often.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);
/// Nothing was heard for so long: the connection is no more.
const SILENCE_MAX: Duration = Duration::from_secs(7);
/// Before the next try to hear.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// Items that wait to be sent; more are dropped.
const ITEMS_MAX: usize = 20_000;
/// Items of one message.
const MESSAGE_ITEMS_MAX: usize = 500;

/// The way to the other processes.
pub struct Exchange {
    redis: Arc<Redis>,
    channel: String,
    /// Marks our own messages, which we need not hear.
    sender: String,
    outgoing: Mutex<BTreeSet<Item>>,
    posted: Notify,
    hears: AtomicBool,
}

impl Exchange {
    /// At this Redis.
    pub fn new(redis: Arc<Redis>) -> Self {
        Self {
            channel: format!("paygauge:{}:news", redis.database()),
            redis,
            sender: uuid::Uuid::new_v4().simple().to_string(),
            outgoing: Mutex::default(),
            posted: Notify::new(),
            hears: AtomicBool::new(false),
        }
    }

    /// Whether the news of others arrive, as far as one can know.
    pub fn hears(&self) -> bool {
        self.hears.load(Ordering::Relaxed)
    }

    /// Keeps an item for the next message.
    pub fn post(&self, item: Item) {
        let mut outgoing = self.outgoing.lock().unwrap_or_else(PoisonError::into_inner);
        if outgoing.len() < ITEMS_MAX {
            outgoing.insert(item);
        } else {
            record::redis_fallback(RedisFeature::News, RedisFailure::Slow);
        }
        drop(outgoing);
        self.posted.notify_one();
    }

    /// Sends what is posted, for ever.
    pub async fn send(&self) {
        loop {
            let is_posted = timeout(SIGN_OF_LIFE, self.posted.notified()).await.is_ok();
            loop {
                let items = self.take();
                if items.is_empty() && (is_posted || self.redis.away_because().is_some()) {
                    break;
                }
                let mut publish = redis::cmd("PUBLISH");
                publish.arg(&self.channel).arg(self.message(&items));
                // Dropped if it fails: who waits looks by itself.
                self.redis
                    .ask(RedisFeature::News, async |connection| publish.query_async::<()>(connection).await)
                    .await;
                if items.is_empty() {
                    break;
                }
                sleep(PAUSE).await;
            }
        }
    }

    fn take(&self) -> BTreeSet<Item> {
        let mut outgoing = self.outgoing.lock().unwrap_or_else(PoisonError::into_inner);
        match outgoing.iter().nth(MESSAGE_ITEMS_MAX).copied() {
            Some(first_left) => {
                let left = outgoing.split_off(&first_left);
                std::mem::replace(&mut outgoing, left)
            }
            None => std::mem::take(&mut outgoing),
        }
    }

    fn message(&self, items: &BTreeSet<Item>) -> String {
        let mut text = self.sender.clone();
        for item in items {
            let written = match item {
                Item::Order(order) => write!(text, " {order}"),
                Item::Product(product) => write!(text, " {product}"),
            };
            debug_assert!(written.is_ok(), "writing to a String cannot fail");
        }
        text
    }

    /// Hears the others, for ever: `tell` for each item, `missed` when some may have been lost.
    pub async fn hear(&self, tell: impl Fn(Item), missed: impl Fn()) {
        loop {
            if let Some(mut messages) = self.redis.subscribe(&self.channel).await {
                missed();
                while let Ok(Some(message)) = timeout(SILENCE_MAX, messages.next()).await {
                    self.hears.store(true, Ordering::Relaxed);
                    read(&message, &self.sender, &tell);
                }
            }
            self.hears.store(false, Ordering::Relaxed);
            sleep(TRY_AGAIN).await;
        }
    }
}

/// What cannot be read is of a newer or a foreign program.
fn read(message: &str, own: &str, tell: impl Fn(Item)) {
    let mut words = message.split(' ');
    if words.next() == Some(own) {
        return;
    }
    words.filter_map(item).for_each(tell);
}

fn item(word: &str) -> Option<Item> {
    word.parse().map(Item::Order).or_else(|_| word.parse().map(Item::Product)).ok()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use secrecy::SecretString;

    use super::*;
    use crate::domain::ids::{OrderId, ProductId};
    use crate::redis::RedisConfig;

    fn exchange() -> Exchange {
        let url = SecretString::from("redis://127.0.0.1:1/3");
        let config = RedisConfig { url, deadline: Duration::from_millis(1) };
        Exchange::new(Arc::new(Redis::new(&config).expect("an address")))
    }

    fn heard(message: &str, own: &str) -> Vec<Item> {
        let heard = RefCell::new(Vec::new());
        read(message, own, |item| heard.borrow_mut().push(item));
        heard.into_inner()
    }

    #[test]
    fn a_message_holds_each_item_once_and_is_for_others() {
        let (one, other) = (exchange(), exchange());
        let items = [Item::Order(OrderId::new()), Item::Product(ProductId::new())];
        for item in [items[0], items[1], items[0]] {
            one.post(item);
        }
        let message = one.message(&one.take());
        assert_eq!(heard(&message, &other.sender), items);
        assert_eq!(heard(&message, &one.sender), []);
        assert!(one.take().is_empty(), "sent once");
        assert_eq!(one.channel, "paygauge:3:news");
    }

    #[test]
    fn what_is_no_news_is_passed_over() {
        let order = OrderId::new();
        let odd = format!("x ord_ {order} prod_1 \u{0} {order}x");
        assert_eq!(heard(&odd, "y"), [Item::Order(order)]);
        assert_eq!(heard("", "y"), []);
    }

    #[test]
    fn a_message_is_bounded_and_so_is_what_waits() {
        let one = exchange();
        for _ in 0..ITEMS_MAX + 10 {
            one.post(Item::Order(OrderId::new()));
        }
        let mut messages = 0;
        let mut sent = BTreeSet::new();
        loop {
            let items = one.take();
            if items.is_empty() {
                break;
            }
            assert!(items.len() <= MESSAGE_ITEMS_MAX);
            sent.extend(items);
            messages += 1;
        }
        assert_eq!((sent.len(), messages), (ITEMS_MAX, ITEMS_MAX / MESSAGE_ITEMS_MAX));
    }
}
