//! Rate limits: how many requests a caller may make, counted by every process together in Redis, or by each for itself.
//!
//! Each request takes one from the budget of its caller (an API key, or the order of a checkout token) and one from that
//! of the address it comes from, or from neither. What the budgets are is said in `Rates`; `http/rates` says which
//! request belongs to which. Redis is asked once a request, and never waited for: without a prompt answer this
//! process counts for itself. Nothing here can refuse a request because something is broken.

pub mod address;
pub mod budget;
mod local;
mod shared;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::address::Proxies;
pub use self::budget::Budget;
use self::local::Local;
use crate::domain::ids::{KeyId, OrderId};
use crate::domain::vocabulary;
use crate::redis::Redis;

vocabulary! {
    /// Requests that have a budget together.
    pub enum Class {
        /// Placing orders.
        Orders => "orders",
        /// Confirming, canceling, and asking the PG.
        Payments => "payments",
        /// Reading, and the shop's work on its catalogue.
        Reads => "reads",
        /// What the PG delivers.
        Webhooks => "webhooks",
    }
}

/// Whose budget it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// An API key.
    Key(KeyId),
    /// The order of a checkout token.
    Order(OrderId),
    /// A client's address, as [`Proxies::client`] gives it.
    Address(IpAddr),
}

impl Subject {
    /// The word for its kind.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::Order(_) => "order",
            Self::Address(_) => "address",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, "key:{key}"),
            Self::Order(order) => write!(f, "order:{order}"),
            Self::Address(address) => write!(f, "address:{address}"),
        }
    }
}

/// The budgets; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Of an API key, for placing orders.
    pub key_orders: Option<Budget>,
    /// Of an API key, for payments.
    pub key_payments: Option<Budget>,
    /// Of an API key, for the rest.
    pub key_reads: Option<Budget>,
    /// Of a checkout token's order, for payments.
    pub order_payments: Option<Budget>,
    /// Of a checkout token's order, for the rest.
    pub order_reads: Option<Budget>,
    /// Of an address, for placing orders.
    pub address_orders: Option<Budget>,
    /// Of an address, for payments.
    pub address_payments: Option<Budget>,
    /// Of an address, for the rest.
    pub address_reads: Option<Budget>,
    /// Of an address, for webhooks.
    pub address_webhooks: Option<Budget>,
}

impl Default for Rates {
    /// A shop's busiest day fits; one that runs wild does not. Many buyers may share the address of a mobile network, and
    /// all deliveries of a PG come from a few addresses.
    fn default() -> Self {
        let a_minute = |requests| Some(Budget::a_minute(requests));
        Self {
            key_orders: a_minute(60_000),
            key_payments: a_minute(60_000),
            key_reads: a_minute(300_000),
            order_payments: a_minute(120),
            order_reads: a_minute(600),
            address_orders: a_minute(3_000),
            address_payments: a_minute(3_000),
            address_reads: a_minute(30_000),
            address_webhooks: a_minute(12_000),
        }
    }
}

impl Rates {
    /// No limits.
    pub const OFF: Self = Self {
        key_orders: None,
        key_payments: None,
        key_reads: None,
        order_payments: None,
        order_reads: None,
        address_orders: None,
        address_payments: None,
        address_reads: None,
        address_webhooks: None,
    };

    fn budget(&self, class: Class, subject: &Subject) -> Option<Budget> {
        match (subject, class) {
            (Subject::Key(_), Class::Orders) => self.key_orders,
            (Subject::Key(_), Class::Payments) => self.key_payments,
            (Subject::Key(_), Class::Reads) => self.key_reads,
            (Subject::Order(_), Class::Payments) => self.order_payments,
            (Subject::Order(_), Class::Reads) => self.order_reads,
            (Subject::Address(_), Class::Orders) => self.address_orders,
            (Subject::Address(_), Class::Payments) => self.address_payments,
            (Subject::Address(_), Class::Reads) => self.address_reads,
            (Subject::Address(_), Class::Webhooks) => self.address_webhooks,
            // No key delivers webhooks, and no order places another.
            (Subject::Key(_), Class::Webhooks) | (Subject::Order(_), Class::Orders | Class::Webhooks) => None,
        }
    }
}

/// One budget of one subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Bucket {
    class: Class,
    subject: Subject,
    budget: Budget,
}

/// What taking one from each bucket came to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Taken {
    is_admitted: bool,
    /// The debt of each bucket, with this request if it was admitted.
    debts: Vec<u64>,
}

/// Who counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// All processes together.
    Redis,
    /// This process for itself.
    Process,
}

/// Whether a request may go on, and where its budgets stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may.
    pub is_admitted: bool,
    /// Each budget it takes from.
    pub standings: Vec<Standing>,
    /// Who counted.
    pub counter: Counter,
}

/// Where a budget stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The requests that have it together.
    pub class: Class,
    /// Whose it is: `key`, `order` or `address`.
    pub kind: &'static str,
    /// How much it is.
    pub budget: Budget,
    /// Requests there is still room for.
    pub remaining: u64,
    /// How long until there is room for one; zero if there is.
    pub next_in: Duration,
    /// How long until all of it is there again.
    pub whole_in: Duration,
}

impl Standing {
    /// The name of the policy.
    #[must_use]
    pub fn policy(&self) -> String {
        format!("{}-per-{}", self.class, self.kind)
    }
}

impl Verdict {
    /// How long to wait before the next request; zero for one that is admitted.
    #[must_use]
    pub fn retry_after(&self) -> Duration {
        if self.is_admitted {
            return Duration::ZERO;
        }
        self.standings.iter().map(|standing| standing.next_in).max().unwrap_or_default()
    }

    fn of(buckets: &[Bucket], taken: &Taken, counter: Counter) -> Self {
        let standing = |(bucket, debt): (&Bucket, &u64)| Standing {
            class: bucket.class,
            kind: bucket.subject.kind(),
            budget: bucket.budget,
            remaining: bucket.budget.remaining(*debt),
            next_in: bucket.budget.next_in(*debt),
            whole_in: bucket.budget.whole_in(*debt),
        };
        let standings = buckets.iter().zip(&taken.debts).map(standing).collect();
        Self { is_admitted: taken.is_admitted, standings, counter }
    }
}

/// Counts requests against their budgets.
pub struct RateLimiter {
    rates: Rates,
    proxies: Proxies,
    redis: Option<Arc<Redis>>,
    local: Local,
    started: Instant,
}

impl RateLimiter {
    /// A limiter that counts in Redis if there is one.
    #[must_use]
    pub fn new(rates: Rates, proxies: Proxies, redis: Option<Arc<Redis>>) -> Self {
        Self { rates, proxies, redis, local: Local::default(), started: Instant::now() }
    }

    /// The proxies whose word about addresses is taken.
    #[must_use]
    pub fn proxies(&self) -> &Proxies {
        &self.proxies
    }

    /// Takes one request from the budget of each subject, or from none if one has no room; `None` if nothing limits
    /// such requests.
    pub async fn take(&self, class: Class, subjects: &[Subject]) -> Option<Verdict> {
        let bucket = |subject: &Subject| {
            let budget = self.rates.budget(class, subject)?;
            Some(Bucket { class, subject: *subject, budget })
        };
        let buckets: Vec<Bucket> = subjects.iter().filter_map(bucket).collect();
        if buckets.is_empty() {
            return None;
        }
        if let Some(redis) = &self.redis
            && let Some(taken) = shared::take(redis, &buckets).await
        {
            return Some(Verdict::of(&buckets, &taken, Counter::Redis));
        }
        let taken = self.local.take(&buckets, self.started.elapsed());
        Some(Verdict::of(&buckets, &taken, Counter::Process))
    }
}
