//! Audit: judges the books by every rule, over every row. The worker's rounds over what changed are in `rounds`.
//!
//! It reads only, page by page: each judgement is one short statement with a snapshot of its own, so a run over millions
//! of rows holds no lock and keeps no old row versions alive. That is enough, because the rows of one id are judged
//! together and every transaction of the program leaves them right.

pub mod rounds;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::AuditSettings;
use crate::db::audit::{self, Moment, Rows, SUBJECTS_MAX, Verdict};
use crate::db::{Conn, Db, DbError};
use crate::domain::audit::{AuditReach, AuditRule, AuditSeverity, legal_steps};
use crate::telemetry::labels::{AuditMode, Tx};

/// The order in which the rows are visited.
const REACHES: [AuditReach; 5] =
    [AuditReach::Orders, AuditReach::Products, AuditReach::Resources, AuditReach::Deliveries, AuditReach::Everything];
/// The most ids that a report names for one rule.
const IDS_NAMED: usize = 20;
/// Products on one page: a rule may read every order line that a product ever had, and every order for each page.
const PRODUCTS_PAGE_ROWS: i64 = 100;
/// Deliveries on one page: each body is hashed.
const DELIVERIES_PAGE_ROWS: i64 = 200;
/// The longest rest between two pages.
const REST_MAX: Duration = Duration::from_secs(1);

/// What an audit found.
#[derive(Debug, Clone)]
pub struct Report {
    /// When it began, by the database's clock: what was committed before has been judged.
    pub started_at: DateTime<Utc>,
    /// One entry for each rule, in the order of [`AuditRule::ALL`].
    pub rules: Vec<RuleReport>,
}

/// What a rule found.
#[derive(Debug, Clone)]
pub struct RuleReport {
    /// The rule.
    pub rule: AuditRule,
    /// Rows judged.
    pub rows_checked: i64,
    /// Rows that break the rule.
    pub broken: i64,
    /// The first of them.
    pub ids: Vec<String>,
    /// Since when the oldest of them is stuck.
    pub oldest_at: Option<DateTime<Utc>>,
    /// Until when this rule is proven, where nothing is broken.
    pub proven_until: DateTime<Utc>,
    /// How long the database took.
    pub took: Duration,
}

impl Report {
    /// Rows that break a rule of this severity.
    #[must_use]
    pub fn broken(&self, severity: AuditSeverity) -> i64 {
        self.rules.iter().filter(|found| found.rule.severity() == severity).map(|found| found.broken).sum()
    }
}

/// Judges every row by these rules, as fast as the database answers.
///
/// # Errors
/// The database, or a page that took longer than [`AuditSettings::page_limit`]: then nothing is proven.
pub async fn audit(db: &Db, settings: &AuditSettings, rules: &[AuditRule]) -> Result<Report, DbError> {
    let db = db.clone().answering_within(settings.page_limit());
    let judged = walk(&db, settings, rules, &Pace::AtOnce).await?;
    let (moment, tallies) = judged.ok_or_else(|| DbError::Unavailable("the audit was stopped".to_owned()))?;
    let rules = tallies.into_iter().map(|(rule, tally)| RuleReport {
        rule,
        rows_checked: tally.verdict.rows_checked,
        broken: tally.verdict.broken,
        ids: tally.verdict.ids,
        oldest_at: tally.verdict.oldest_at,
        proven_until: moment.taken_at,
        took: tally.took,
    });
    Ok(Report { started_at: moment.taken_at, rules: rules.collect() })
}

/// What happens between two pages.
enum Pace {
    /// Nothing.
    AtOnce,
    /// A rest as long as the page took, so that a run leaves half of the time to others, and the lease is kept.
    Gently { stop: CancellationToken, owner: Uuid },
}

impl Pace {
    /// `false` if the run must end.
    async fn go_on(&self, db: &Db, settings: &AuditSettings, page_took: Duration) -> Result<bool, DbError> {
        let Self::Gently { stop, owner } = self else { return Ok(true) };
        let rest = tokio::time::sleep(page_took.min(REST_MAX));
        if stop.run_until_cancelled(rest).await.is_none() {
            return Ok(false);
        }
        let (owner, lease) = (*owner, settings.lease);
        db.transaction(Tx::Audit, async |conn| audit::lease(conn, AuditMode::Full, owner, lease).await).await
    }
}

/// What a rule has found so far.
#[derive(Debug, Default)]
struct Tally {
    verdict: Verdict,
    took: Duration,
}

impl Tally {
    fn add(&mut self, verdict: Verdict, took: Duration) {
        let sum = &mut self.verdict;
        sum.rows_checked += verdict.rows_checked;
        sum.broken += verdict.broken;
        sum.ids.extend(verdict.ids);
        sum.ids.truncate(IDS_NAMED);
        sum.subjects.extend(verdict.subjects);
        sum.subjects.truncate(SUBJECTS_MAX);
        sum.oldest_at = [sum.oldest_at, verdict.oldest_at].into_iter().flatten().min();
        self.took += took;
    }
}

type Tallies = BTreeMap<AuditRule, Tally>;

/// Judges every row page by page; `None` if it was stopped on the way.
async fn walk(
    db: &Db,
    settings: &AuditSettings,
    rules: &[AuditRule],
    pace: &Pace,
) -> Result<Option<(Moment, Tallies)>, DbError> {
    let judge = Judge::new(settings);
    let moment = db
        .transaction(Tx::Audit, async |conn| {
            audit::only_read(conn, settings.statement_limit).await?;
            audit::moment(conn).await
        })
        .await?;
    let mut tallies: Tallies = rules.iter().map(|rule| (*rule, Tally::default())).collect();
    for reach in REACHES {
        let rules: Vec<AuditRule> = rules.iter().copied().filter(|rule| rule.reach() == reach).collect();
        let mut first = (!rules.is_empty()).then_some(Uuid::nil());
        while let Some(from) = first {
            let started = Instant::now();
            let (judged, next) =
                db.transaction(Tx::Audit, async |conn| judge.page(conn, reach, &rules, from).await).await?;
            add(&mut tallies, judged);
            if !pace.go_on(db, settings, started.elapsed()).await? {
                return Ok(None);
            }
            first = next;
        }
    }
    Ok(Some((moment, tallies)))
}

fn add(tallies: &mut Tallies, judged: Vec<Judged>) {
    for (rule, verdict, took) in judged {
        tallies.entry(rule).or_default().add(verdict, took);
    }
}

type Judged = (AuditRule, Verdict, Duration);

/// What every judgement needs.
struct Judge<'a> {
    settings: &'a AuditSettings,
    steps: Vec<String>,
}

impl<'a> Judge<'a> {
    fn new(settings: &'a AuditSettings) -> Self {
        Self { settings, steps: legal_steps() }
    }

    async fn rule(&self, conn: &Conn, rule: AuditRule, rows: Rows<'_>) -> Result<Judged, DbError> {
        let started = Instant::now();
        let verdict = audit::judge(conn, rule, rows, &self.steps, self.age(rule)).await?;
        Ok((rule, verdict, started.elapsed()))
    }

    /// Judges the page that begins with `first`; also returns where the next one begins.
    async fn page(
        &self,
        conn: &Conn,
        reach: AuditReach,
        rules: &[AuditRule],
        first: Uuid,
    ) -> Result<(Vec<Judged>, Option<Uuid>), DbError> {
        audit::only_read(conn, self.settings.statement_limit).await?;
        let next = audit::next_page(conn, reach, first, self.page_rows(reach)).await?;
        let rows = match reach {
            AuditReach::Everything => Rows::All,
            AuditReach::Orders | AuditReach::Products | AuditReach::Resources | AuditReach::Deliveries => {
                // The ranges have no gaps between them, so rows whose owner is gone are on a page as well.
                Rows::Between(first, next.map_or(Uuid::max(), |next| Uuid::from_u128(next.as_u128().saturating_sub(1))))
            }
        };
        let mut judged = Vec::with_capacity(rules.len());
        for rule in rules {
            judged.push(self.rule(conn, *rule, rows).await?);
        }
        Ok((judged, next))
    }

    fn page_rows(&self, reach: AuditReach) -> i64 {
        match reach {
            AuditReach::Orders | AuditReach::Resources | AuditReach::Everything => self.settings.page_rows,
            AuditReach::Products => self.settings.page_rows.min(PRODUCTS_PAGE_ROWS),
            AuditReach::Deliveries => self.settings.page_rows.min(DELIVERIES_PAGE_ROWS),
        }
    }

    /// How old what the rule looks at may be before it counts as stuck.
    fn age(&self, rule: AuditRule) -> Duration {
        match rule {
            AuditRule::StuckConfirm | AuditRule::StuckCancel => self.settings.stuck_intent,
            AuditRule::StuckDeposit => self.settings.stuck_deposit,
            AuditRule::StuckHold => self.settings.stuck_hold,
            AuditRule::StuckWebhook => self.settings.stuck_webhook,
            AuditRule::StockConserved
            | AuditRule::StockAdjusted
            | AuditRule::ProductWhole
            | AuditRule::OrderTotal
            | AuditRule::OrderMoney
            | AuditRule::LineOwner
            | AuditRule::LineUnits
            | AuditRule::PaymentAmount
            | AuditRule::PaymentLiveOnce
            | AuditRule::PaymentFacts
            | AuditRule::PaymentCapacity
            | AuditRule::PaymentCanceled
            | AuditRule::PaymentEmptied
            | AuditRule::ReversalReturned
            | AuditRule::FactBookedOnce
            | AuditRule::CancellationOwner
            | AuditRule::CancellationFacts
            | AuditRule::OpenInquired
            | AuditRule::HistoryGapless
            | AuditRule::HistoryStatus
            | AuditRule::HistoryChain
            | AuditRule::HistoryLegal
            | AuditRule::HistoryOwner
            | AuditRule::KeyAnswered
            | AuditRule::WebhookWhole
            | AuditRule::ApiKeyWhole
            | AuditRule::FindingWhole => Duration::ZERO,
        }
    }
}
