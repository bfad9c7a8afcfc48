//! The worker's share of the audit: rounds over what changed, and a run over every row now and then.
//!
//! What changed is found through the history: every change of an order, its payments and cancellations writes an event
//! that names the order. Numbers of events are given out before their transactions commit, so an event can become
//! visible after one with a higher number. So a round notes the newest event, and the number of a transaction that begins
//! only then. Once a later round has found every transaction below that number ended, it has seen all events up to the
//! noted one, and the round after it begins there; until then each begins where the one before began. A change is thus
//! judged two or three times. A transaction of the program writes (a claim, a locked row) before it asks for the number of
//! its first event, so it has its own number by then.
//!
//! A rule that takes long rests ten times as long, so that it never keeps the database busy; the proof is then later,
//! never left out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Judge, Judged, Pace, Tallies, Tally, add, walk};
use crate::config::AuditSettings;
use crate::db::audit::{self, ChangedRound, FullRun, Moment, ProgressRow, Rows, Watermark};
use crate::db::{Conn, Db, DbError, first_id_at};
use crate::domain::audit::{AuditReach, AuditRule, AuditSeverity};
use crate::telemetry::labels::{AuditMode, Tx};
use crate::telemetry::record;

/// Events read at once.
const BATCH_EVENTS: i64 = 500;
/// How far before the newest event the very first round begins: more than transactions under way can hold.
const FIRST_OVERLAP_EVENTS: i64 = 10_000;
/// How far back stock adjustments and webhooks are looked at, which no event tells of: more than the clocks of the
/// machines differ and a transaction lasts.
const OVERLAP: TimeDelta = TimeDelta::minutes(5);
/// Products judged by the first statement, and from when on the next one judges no more of them: each statement looks at
/// all orders there are or nearly so, and few are better than many as long as they are short.
const PRODUCTS_AT_FIRST: usize = 32;
const LONG_STATEMENT: Duration = Duration::from_secs(2);
/// A rule rests this many times as long as it took.
const REST: u32 = 10;

/// One process's auditor.
pub struct Auditor {
    db: Db,
    settings: AuditSettings,
    owner: Uuid,
    stop: CancellationToken,
}

impl Auditor {
    /// An auditor that ends early when `stop` says so.
    #[must_use]
    pub fn new(db: Db, settings: AuditSettings, stop: CancellationToken) -> Self {
        Self { db: db.answering_within(settings.page_limit()), settings, owner: Uuid::now_v7(), stop }
    }

    /// Judges what changed since the last round, by the rules that are due; returns how many rules. None if another
    /// process is at it.
    pub async fn changed(&self) -> Result<usize, DbError> {
        if !self.lease(AuditMode::Changed).await? {
            return Ok(0);
        }
        let done = self.round().await;
        self.release(AuditMode::Changed).await;
        done
    }

    /// Judges every row, if that is due; returns how many rules did.
    pub async fn full(&self) -> Result<usize, DbError> {
        if !self.full_is_due().await? || !self.lease(AuditMode::Full).await? {
            return Ok(0);
        }
        let done = self.run().await;
        self.release(AuditMode::Full).await;
        done
    }

    /// Shows what is proven, whichever process proved it.
    pub async fn publish(&self) -> Result<(), DbError> {
        for row in self.db.read(async |conn| audit::all_progress(conn).await).await? {
            let (Some(rule), Some(mode)) = (AuditRule::parse(&row.rule), AuditMode::parse(&row.mode)) else { continue };
            let took = Duration::from_millis(u64::try_from(row.duration_ms).unwrap_or(0));
            record::audit_proven(rule, mode, row.proven_until, took);
            if mode == AuditMode::Changed {
                record::audit_violations(rule, u32::try_from(row.violations).unwrap_or(u32::MAX));
            }
        }
        Ok(())
    }

    async fn lease(&self, mode: AuditMode) -> Result<bool, DbError> {
        let (owner, lease) = (self.owner, self.settings.lease);
        self.db.transaction(Tx::Audit, async |conn| audit::lease(conn, mode, owner, lease).await).await
    }

    async fn release(&self, mode: AuditMode) {
        let owner = self.owner;
        let released = self.db.transaction(Tx::Audit, async |conn| audit::release(conn, mode, owner).await).await;
        if let Err(error) = released {
            tracing::warn!(%error, "the auditor's lease was not given back; it ends by itself");
        }
    }

    async fn full_is_due(&self) -> Result<bool, DbError> {
        let (moment, progress) = self.look().await?;
        let last =
            progress.iter().filter(|row| row.mode == AuditMode::Full.as_str()).filter_map(|row| row.proven_until);
        Ok(last.min().is_none_or(|last| last + self.settings.full_interval <= moment.taken_at)
            // A rule that is new in this version has never run.
            || AuditRule::ALL.iter().any(|rule| find(&progress, *rule, AuditMode::Full).is_none()))
    }

    async fn look(&self) -> Result<(Moment, Vec<ProgressRow>), DbError> {
        let limit = self.settings.statement_limit;
        self.db
            .transaction(Tx::Audit, async |conn| {
                audit::only_read(conn, limit).await?;
                Ok((audit::moment(conn).await?, audit::all_progress(conn).await?))
            })
            .await
    }

    async fn run(&self) -> Result<usize, DbError> {
        let pace = Pace::Gently { stop: self.stop.clone(), owner: self.owner };
        let Some((moment, tallies)) = walk(&self.db, &self.settings, AuditRule::ALL, &pace).await? else {
            return Ok(0);
        };
        self.db
            .transaction(Tx::Audit, async |conn| {
                for (rule, Tally { verdict, took }) in &tallies {
                    let run = FullRun { rule: *rule, verdict, took: *took, started_at: moment.taken_at };
                    audit::record_full(conn, &run).await?;
                }
                Ok::<_, DbError>(())
            })
            .await?;
        for (rule, tally) in &tallies {
            record::audit_rows(*rule, AuditMode::Full, tally.verdict.rows_checked.unsigned_abs());
            tell(*rule, tally, &[]);
        }
        Ok(tallies.len())
    }

    async fn round(&self) -> Result<usize, DbError> {
        let (moment, progress) = self.look().await?;
        // Asked for afterwards, so that every transaction that can hold an event of that moment has a lower number.
        let own = self.db.transaction(Tx::Audit, async |conn| audit::own_transaction(conn).await).await?;
        let mut groups: BTreeMap<i64, Vec<Due>> = BTreeMap::new();
        for due in AuditRule::ALL.iter().filter_map(|rule| self.due(*rule, &progress, &moment, own)) {
            groups.entry(due.begin).or_default().push(due);
        }
        let mut count = 0;
        for (event, group) in &groups {
            let mut round = Round::new(self, &moment, group);
            if !round.judge(*event).await? {
                break;
            }
            round.keep().await?;
            count += group.len();
        }
        Ok(count)
    }

    /// Where a rule goes on, if it is its time.
    fn due(&self, rule: AuditRule, progress: &[ProgressRow], moment: &Moment, own: i64) -> Option<Due> {
        let newest = Watermark { event: moment.newest_event, next_event: moment.newest_event, next_transaction: own };
        let Some(row) = find(progress, rule, AuditMode::Changed) else {
            let event = (moment.newest_event - FIRST_OVERLAP_EVENTS).max(0);
            let watermark = Watermark { event, ..newest };
            let since = moment.taken_at - OVERLAP;
            return Some(Due { rule, begin: event, watermark, since, standing: Vec::new() });
        };
        let since = row.proven_until.unwrap_or(moment.taken_at);
        let took = Duration::from_millis(u64::try_from(row.duration_ms).unwrap_or(0));
        if since + self.settings.interval.max(took * REST) > moment.taken_at {
            return None;
        }
        let kept = Watermark {
            event: row.event_id.unwrap_or(0),
            next_event: row.next_event_id.unwrap_or(0),
            next_transaction: row.next_transaction.unwrap_or(i64::MAX),
        };
        // What had not ended before may have become visible since: this round still begins before it, the next need not.
        let watermark = if kept.next_transaction <= moment.oldest_transaction {
            Watermark { event: kept.next_event, ..newest }
        } else {
            kept
        };
        Some(Due { rule, begin: kept.event, watermark, since: since - OVERLAP, standing: row.standing.clone() })
    }
}

fn find(progress: &[ProgressRow], rule: AuditRule, mode: AuditMode) -> Option<&ProgressRow> {
    progress.iter().find(|row| row.rule == rule.as_str() && row.mode == mode.as_str())
}

/// A rule whose time it is.
struct Due {
    rule: AuditRule,
    /// The event after which this round begins.
    begin: i64,
    /// What the next round begins with.
    watermark: Watermark,
    since: DateTime<Utc>,
    /// What was wrong when last looked at.
    standing: Vec<Uuid>,
}

/// The rules that go on from the same event.
struct Round<'a> {
    auditor: &'a Auditor,
    moment: &'a Moment,
    group: &'a [Due],
    judge: Judge<'a>,
    tallies: Tallies,
    /// Judged in this round already, after everything that the round is to prove.
    orders: BTreeSet<Uuid>,
    /// To be judged in this round.
    products: BTreeSet<Uuid>,
}

impl<'a> Round<'a> {
    fn new(auditor: &'a Auditor, moment: &'a Moment, group: &'a [Due]) -> Self {
        let tallies = group.iter().map(|due| (due.rule, Tally::default())).collect();
        let judge = Judge::new(&auditor.settings);
        Self { auditor, moment, group, judge, tallies, orders: BTreeSet::new(), products: BTreeSet::new() }
    }

    /// Judges what changed after `event`; `false` if it was stopped on the way.
    async fn judge(&mut self, event: i64) -> Result<bool, DbError> {
        let auditor = self.auditor;
        let judged = auditor.db.transaction(Tx::Audit, async |conn| self.beside_events(conn).await).await?;
        add(&mut self.tallies, judged);
        let mut after = event;
        loop {
            let (judged, last) = auditor.db.transaction(Tx::Audit, async |conn| self.batch(conn, after).await).await?;
            add(&mut self.tallies, judged);
            match last {
                None => break,
                Some(_) if auditor.stop.is_cancelled() => return Ok(false),
                Some(last) => after = last,
            }
        }
        Ok(self.products().await? && self.deliveries().await?)
    }

    /// What no event tells of, and what was wrong before.
    async fn beside_events(&mut self, conn: &Conn) -> Result<Vec<Judged>, DbError> {
        audit::only_read(conn, self.auditor.settings.statement_limit).await?;
        self.products.extend(audit::products_adjusted_since(conn, self.since()).await?);
        let mut judged = Vec::new();
        for due in self.group {
            match due.rule.reach() {
                AuditReach::Everything => judged.push(self.judge.rule(conn, due.rule, Rows::All).await?),
                // Together with those that changed.
                AuditReach::Products => {}
                AuditReach::Orders | AuditReach::Resources | AuditReach::Deliveries if due.standing.is_empty() => {}
                AuditReach::Orders | AuditReach::Resources | AuditReach::Deliveries => {
                    judged.push(self.judge.rule(conn, due.rule, Rows::Of(&due.standing)).await?);
                }
            }
        }
        Ok(judged)
    }

    /// Judges the products that changed, each by all of its orders. `false` if it was stopped on the way.
    async fn products(&mut self) -> Result<bool, DbError> {
        let auditor = self.auditor;
        for due in self.group.iter().filter(|due| due.rule.reach() == AuditReach::Products) {
            let ids: BTreeSet<Uuid> = self.products.iter().chain(&due.standing).copied().collect();
            let ids: Vec<Uuid> = ids.into_iter().collect();
            let (mut left, mut at_once) = (ids.as_slice(), PRODUCTS_AT_FIRST);
            while !left.is_empty() {
                let (some, others) = left.split_at(at_once.min(left.len()));
                left = others;
                let judge = &self.judge;
                let work = auditor.db.transaction(Tx::Audit, async |conn| {
                    audit::only_read(conn, auditor.settings.statement_limit).await?;
                    judge.rule(conn, due.rule, Rows::Of(some)).await
                });
                let judged = work.await?;
                if judged.2 < LONG_STATEMENT {
                    at_once *= 2;
                }
                add(&mut self.tallies, vec![judged]);
                if auditor.stop.is_cancelled() {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Judges the orders of the next events; also returns the last of these, if there may be more.
    async fn batch(&mut self, conn: &Conn, after: i64) -> Result<(Vec<Judged>, Option<i64>), DbError> {
        audit::only_read(conn, self.auditor.settings.statement_limit).await?;
        let batch = audit::changed_orders(conn, after, self.moment.newest_event, BATCH_EVENTS).await?;
        let last = (batch.events == BATCH_EVENTS).then_some(batch.last);
        let orders: Vec<Uuid> = batch.orders.into_iter().filter(|id| !self.orders.contains(id)).collect();
        if orders.is_empty() {
            return Ok((Vec::new(), last));
        }
        let products = audit::products_of(conn, &orders).await?;
        let resources = audit::resources_of(conn, &orders).await?;
        let mut judged = Vec::new();
        for due in self.group {
            let ids = match due.rule.reach() {
                AuditReach::Orders => &orders,
                AuditReach::Resources => &resources,
                AuditReach::Products | AuditReach::Deliveries | AuditReach::Everything => continue,
            };
            // What stands was looked at when the round began.
            let ids: Vec<Uuid> = ids.iter().copied().filter(|id| !due.standing.contains(id)).collect();
            if !ids.is_empty() {
                judged.push(self.judge.rule(conn, due.rule, Rows::Of(&ids)).await?);
            }
        }
        self.orders.extend(orders);
        self.products.extend(products);
        Ok((judged, last))
    }

    /// Judges the webhooks that came.
    async fn deliveries(&mut self) -> Result<bool, DbError> {
        let (auditor, reach) = (self.auditor, AuditReach::Deliveries);
        let rules: Vec<AuditRule> =
            self.group.iter().map(|due| due.rule).filter(|rule| rule.reach() == reach).collect();
        let mut first = (!rules.is_empty()).then(|| first_id_at(self.since()));
        while let Some(from) = first {
            let judge = &self.judge;
            let (judged, next) =
                auditor.db.transaction(Tx::Audit, async |conn| judge.page(conn, reach, &rules, from).await).await?;
            add(&mut self.tallies, judged);
            if auditor.stop.is_cancelled() {
                return Ok(false);
            }
            first = next;
        }
        Ok(true)
    }

    fn since(&self) -> DateTime<Utc> {
        self.group.iter().map(|due| due.since).min().unwrap_or(self.moment.taken_at)
    }

    /// Keeps what was proven, and tells what was not.
    async fn keep(self) -> Result<(), DbError> {
        let Self { auditor, moment, group, tallies, .. } = self;
        let empty = Tally::default();
        auditor
            .db
            .transaction(Tx::Audit, async |conn| {
                for due in group {
                    let tally = tallies.get(&due.rule).unwrap_or(&empty);
                    let round = ChangedRound {
                        rule: due.rule,
                        verdict: &tally.verdict,
                        took: tally.took,
                        proven_until: moment.taken_at,
                        watermark: due.watermark,
                        looked_again: &due.standing,
                    };
                    audit::record_changed(conn, &round).await?;
                }
                Ok::<_, DbError>(())
            })
            .await?;
        for due in group {
            let tally = tallies.get(&due.rule).unwrap_or(&empty);
            record::audit_rows(due.rule, AuditMode::Changed, tally.verdict.rows_checked.unsigned_abs());
            tell(due.rule, tally, &due.standing);
        }
        Ok(())
    }
}

/// One line for what is broken, unless all of it was told before.
fn tell(rule: AuditRule, tally: &Tally, told: &[Uuid]) {
    let found = &tally.verdict;
    if found.subjects.iter().all(|subject| told.contains(subject)) {
        return;
    }
    let (broken, ids) = (found.broken, found.ids.join(", "));
    match rule.severity() {
        AuditSeverity::Violation => {
            tracing::error!(rule = rule.as_str(), broken, %ids, "the books break a rule: {}", rule.claim());
        }
        AuditSeverity::Stuck => {
            let oldest_at = found.oldest_at.map(|at| at.to_rfc3339());
            tracing::error!(rule = rule.as_str(), broken, %ids, oldest_at, "something is stuck: {}", rule.claim());
        }
    }
}
