//! Durations, limits and policies, and what must hold between them.

use std::time::Duration;

use crate::limits::Rates;
use crate::provider::protection::Limits;

/// How far a checkout token reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuyerCancel {
    /// It cancels an order only while that is unpaid.
    Unpaid,
    /// It cancels paid orders too, in part or in full.
    Paid,
}

/// What becomes of the units of an order whose last money was given back in the PG's own console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExternalCancelStock {
    /// They can be sold again at once.
    Restore,
    /// A person looks at them first: a correction takes them out of stock, and a finding says so.
    Hold,
}

/// Durations, limits and policies.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long an unpaid order holds its stock.
    pub hold: Duration,
    /// How long a checkout token is good for.
    pub checkout_token_life: Duration,
    /// Who may cancel with a checkout token.
    pub buyer_cancel: BuyerCancel,
    /// No call to the PG lasts longer.
    pub provider_deadline: Duration,
    /// How many calls to the PG are made at a time, and when they stop for a while.
    pub provider_limits: Limits,
    /// Recovery takes an intent over this long after its call's deadline.
    pub recovery_grace: Duration,
    /// "The PG does not know it" counts as "never arrived" only after this long, seen twice.
    pub not_found_quarantine: Duration,
    /// How often a virtual account's deposit is asked for, besides webhooks.
    pub deposit_poll: Duration,
    /// How long after its due date a virtual account is given up.
    pub deposit_grace: Duration,
    /// How long the first request of a key counts as running.
    pub idempotency_lease: Duration,
    /// How long an answered key is kept: as long as Toss keeps its own, 15 days.
    pub idempotency_keep: Duration,
    /// How long read webhooks are kept.
    pub webhook_retention: Duration,
    /// How long a worker owns what it leased.
    pub worker_lease: Duration,
    /// How often each worker looks for work.
    pub worker_poll: Duration,
    /// Rows a worker takes at once.
    pub worker_batch_rows: i64,
    /// How long a process that is told to stop still takes requests, so that what stands in front of it can turn to
    /// another one: longer than a proxy keeps idle connections to us. Zero for a process that nothing stands in front of.
    pub drain: Duration,
    /// How long shutdown waits for money work after that.
    pub shutdown_grace: Duration,
    /// How many requests a caller may make.
    pub rates: Rates,
    /// How old the catalogue may be that is shown to buyers' pages; zero for never.
    pub catalogue_life: Duration,
    /// How long it is believed without asking that a product is sold out; zero for never.
    pub sold_out_life: Duration,
    /// How many orders of one product are taken in one transaction at the most; 1 takes each by itself.
    pub orders_together: u32,
    /// The most streams of events that one process serves at a time.
    pub event_streams_max: u32,
    /// How long a stream of events is open before the client has to come again.
    pub event_stream_life: Duration,
    /// The most bytes of a request's body.
    pub body_bytes_max: usize,
    /// The most rows of a page.
    pub page_rows_max: i64,
    /// The most lines of an order.
    pub order_lines_max: usize,
    /// When the auditor runs, and what it calls stuck.
    pub audit: AuditSettings,
    /// Where the units go when somebody cancels in the PG's own console.
    pub external_cancel_stock: ExternalCancelStock,
    /// How often the PG's books are compared with ours.
    pub reconcile_every: Duration,
    /// What happened less than this long ago is not compared yet: our own verbs may be at it.
    pub reconcile_settle: Duration,
    /// How long a confirm or cancel without an outcome counts as under way; after that it is looked at like the rest.
    pub reconcile_patience: Duration,
    /// How much of what was compared before is compared again, for rows that the PG lists late.
    pub reconcile_overlap: Duration,
    /// How far back the first comparison goes.
    pub reconcile_reach: Duration,
    /// Rows of a page of the PG's list.
    pub reconcile_page_rows: u32,
}

/// When the auditor runs, and what it calls stuck.
#[derive(Debug, Clone)]
pub struct AuditSettings {
    /// How often what changed is judged.
    pub interval: Duration,
    /// How often every row is judged.
    pub full_interval: Duration,
    /// How old a confirm or a cancellation may be while its outcome is unknown.
    pub stuck_intent: Duration,
    /// How long after its due date a virtual account may wait.
    pub stuck_deposit: Duration,
    /// How long after its hold an order may be pending.
    pub stuck_hold: Duration,
    /// How long a webhook may be unread.
    pub stuck_webhook: Duration,
    /// Rows judged by one statement.
    pub page_rows: i64,
    /// How long one statement may run.
    pub statement_limit: Duration,
    /// How long a process owns the audit without saying so again.
    pub lease: Duration,
}

impl AuditSettings {
    /// No page takes longer, whatever bounds the work of requests: room for one statement that takes its time, and for
    /// those beside it.
    #[must_use]
    pub fn page_limit(&self) -> Duration {
        self.statement_limit * 2
    }
}

impl Default for AuditSettings {
    fn default() -> Self {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        Self {
            interval: Duration::from_secs(10),
            full_interval: minutes(60 * 24),
            stuck_intent: minutes(15),
            stuck_deposit: minutes(60),
            stuck_hold: minutes(5),
            stuck_webhook: minutes(60),
            page_rows: 1_000,
            statement_limit: Duration::from_secs(30),
            lease: minutes(2),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let days = |count: u64| minutes(60 * 24 * count);
        Self {
            hold: minutes(10),
            checkout_token_life: minutes(60),
            buyer_cancel: BuyerCancel::Unpaid,
            provider_deadline: Duration::from_secs(32),
            provider_limits: Limits::default(),
            recovery_grace: Duration::from_secs(5),
            not_found_quarantine: minutes(2),
            deposit_poll: minutes(10),
            deposit_grace: minutes(10),
            idempotency_lease: Duration::from_secs(60),
            idempotency_keep: days(15),
            webhook_retention: days(30),
            worker_lease: Duration::from_secs(90),
            worker_poll: Duration::from_millis(300),
            worker_batch_rows: 50,
            drain: Duration::from_secs(5),
            shutdown_grace: Duration::from_secs(40),
            rates: Rates::default(),
            catalogue_life: Duration::from_secs(1),
            sold_out_life: Duration::from_secs(1),
            orders_together: 32,
            event_streams_max: 1_000,
            event_stream_life: minutes(5),
            body_bytes_max: 64 * 1024,
            page_rows_max: 100,
            order_lines_max: 50,
            audit: AuditSettings::default(),
            external_cancel_stock: ExternalCancelStock::Restore,
            reconcile_every: minutes(15),
            reconcile_settle: minutes(15),
            reconcile_patience: minutes(60),
            reconcile_overlap: minutes(60),
            reconcile_reach: days(3),
            reconcile_page_rows: 1_000,
        }
    }
}

impl Settings {
    /// What does not fit together.
    #[must_use]
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let call = self.provider_deadline + self.recovery_grace;
        let mut require = |holds: bool, text: &str| {
            if !holds {
                mistakes.push(text.to_owned());
            }
        };
        let waits = self.provider_limits.background_wait * 2;
        require(self.recovery_grace > waits, "the recovery's grace must outlast two waits for a place at the PG");
        // A worker asks the PG, and may then send again.
        let twice = self.provider_deadline + call;
        require(self.worker_lease > twice, "the worker's lease must outlast two PG calls and the grace");
        require(self.idempotency_lease > call, "the idempotency lease must outlast a PG call and its grace");
        require(self.not_found_quarantine > call, "the not-found quarantine must outlast a PG call and its grace");
        require(self.shutdown_grace > self.provider_deadline, "shutdown must wait longer than a PG call");
        require(!self.hold.is_zero(), "the hold must last");
        let audit = &self.audit;
        require(audit.stuck_intent > call, "an intent must not count as stuck before its call is over");
        require(audit.stuck_deposit > self.deposit_grace, "an account must not count as stuck before it is given up");
        require(audit.lease > audit.page_limit(), "the auditor's lease must outlast its statements");
        mistakes
    }
}
