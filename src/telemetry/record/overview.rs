//! The figures that only the database knows: all of them are read first, then set in one go, by one worker. A worker
//! that is not the one shows NaN, which `max` and `min` skip.

use chrono::{DateTime, Utc};
use metrics::Gauge;

use super::{float, unix_seconds};
use crate::domain::reconciliation::FindingKind;
use crate::telemetry::catalogue as c;
use crate::telemetry::labels::{Aggregate, CurrencyLabel, ProviderLabel, StatusWord, UnresolvedKind};

/// How many there are, and since when the oldest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// How many.
    pub count: i64,
    /// Since when; `None` if there is none.
    pub oldest_at: Option<DateTime<Utc>>,
}

impl Backlog {
    fn show(self, count: &Gauge, oldest: &Gauge) {
        count.set(float(self.count));
        oldest.set(moment(self.oldest_at));
    }
}

/// Everything that is read from the database at one time. What a list does not name is 0.
#[derive(Debug, Clone, Default)]
pub struct Overview {
    /// Outcomes that are not certain.
    pub unresolved: Vec<(UnresolvedKind, Backlog)>,
    /// Their money, in minor units.
    pub unresolved_amounts: Vec<(UnresolvedKind, CurrencyLabel, i64)>,
    /// What is not over, by where it stands.
    pub in_state: Vec<(Aggregate, StatusWord, Backlog)>,
    /// Units held by orders that are not paid.
    pub stock_held_units: i64,
    /// Orders that are pending past their hold, and since when the first is.
    pub holds_overdue: Backlog,
    /// Webhooks that are due.
    pub webhooks_pending: Backlog,
    /// Differences that are not settled.
    pub findings: Vec<(FindingKind, Backlog)>,
    /// Up to when the books were compared.
    pub reconciled: Vec<(ProviderLabel, Option<DateTime<Utc>>)>,
    /// Since when the oldest idempotency key has no answer.
    pub idempotency_oldest_at: Option<DateTime<Utc>>,
    /// The database server.
    pub server: Server,
}

/// The database server as it sees itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Server {
    /// Sessions that wait for another one's lock.
    pub blocked_sessions: i64,
    /// When the oldest open transaction began.
    pub oldest_transaction_at: Option<DateTime<Utc>>,
    /// Connections.
    pub connections: i64,
    /// The most it takes.
    pub connections_max: i64,
}

/// The states whose number is shown: those that should pass.
pub const OPEN_STATES: [(Aggregate, StatusWord); 7] = [
    (Aggregate::Order, StatusWord::Pending),
    (Aggregate::Order, StatusWord::Confirming),
    (Aggregate::Order, StatusWord::AwaitingDeposit),
    (Aggregate::Payment, StatusWord::Confirming),
    (Aggregate::Payment, StatusWord::AwaitingDeposit),
    (Aggregate::Payment, StatusWord::Reversing),
    (Aggregate::Cancellation, StatusWord::Requested),
];

/// This process is the one that shows the figures: they are right as of `now`.
pub fn overview(figures: &Overview, now: DateTime<Utc>) {
    let of = |found: Option<Backlog>| found.unwrap_or_default();
    for kind in UnresolvedKind::ALL {
        let found = figures.unresolved.iter().find(|(of, _)| of == kind);
        of(found.map(|found| found.1)).show(c::UNRESOLVED.of((*kind,)), c::OLDEST_UNRESOLVED.of((*kind,)));
        for currency in CurrencyLabel::ALL {
            let same = figures.unresolved_amounts.iter().filter(|(of, in_, _)| (of, in_) == (kind, currency));
            let amount: i64 = same.map(|(.., amount)| amount).sum();
            c::UNRESOLVED_AMOUNT.of((*kind, *currency)).set(float(amount));
        }
    }
    for state in OPEN_STATES {
        let found = figures.in_state.iter().find(|(aggregate, status, _)| (*aggregate, *status) == state);
        of(found.map(|found| found.2)).show(c::IN_STATE.of(state), c::OLDEST_IN_STATE.of(state));
    }
    for kind in FindingKind::ALL {
        let found = figures.findings.iter().find(|(of, _)| of == kind);
        of(found.map(|found| found.1)).show(c::FINDINGS_OPEN.of((*kind,)), c::FINDINGS_OLDEST.of((*kind,)));
    }
    for (provider, until) in &figures.reconciled {
        c::RECONCILED_UNTIL.of((*provider,)).set(moment(*until));
    }
    c::STOCK_HELD.of(()).set(float(figures.stock_held_units));
    figures.holds_overdue.show(c::HOLDS_OVERDUE.of(()), c::OLDEST_OVERDUE_HOLD.of(()));
    figures.webhooks_pending.show(c::INBOX_PENDING.of(()), c::INBOX_OLDEST.of(()));
    c::IDEMPOTENCY_OLDEST.of(()).set(moment(figures.idempotency_oldest_at));
    c::DB_BLOCKED.of(()).set(float(figures.server.blocked_sessions));
    c::DB_OLDEST_TX.of(()).set(moment(figures.server.oldest_transaction_at));
    c::DB_CONNECTIONS.of(()).set(float(figures.server.connections));
    c::DB_CONNECTIONS_MAX.of(()).set(float(figures.server.connections_max));
    c::OVERVIEW_SUCCESS.of(()).set(unix_seconds(now));
    c::OVERVIEW_LEADER.of(()).set(1.0);
}

/// The database did not answer: the figures stay as they are, and this process shows them no more than any other.
pub fn overview_unknown() {
    c::OVERVIEW_LEADER.of(()).set(0.0);
}

/// Another process shows the figures: this one has none.
pub fn overview_elsewhere() {
    const NONE: f64 = f64::NAN;
    for kind in UnresolvedKind::ALL {
        c::UNRESOLVED.of((*kind,)).set(NONE);
        c::OLDEST_UNRESOLVED.of((*kind,)).set(NONE);
        for currency in CurrencyLabel::ALL {
            c::UNRESOLVED_AMOUNT.of((*kind, *currency)).set(NONE);
        }
    }
    for state in OPEN_STATES {
        c::IN_STATE.of(state).set(NONE);
        c::OLDEST_IN_STATE.of(state).set(NONE);
    }
    for kind in FindingKind::ALL {
        c::FINDINGS_OPEN.of((*kind,)).set(NONE);
        c::FINDINGS_OLDEST.of((*kind,)).set(NONE);
    }
    for provider in ProviderLabel::ALL.iter().filter(|provider| c::real(**provider)) {
        c::RECONCILED_UNTIL.of((*provider,)).set(NONE);
    }
    for gauge in [
        &c::STOCK_HELD,
        &c::HOLDS_OVERDUE,
        &c::OLDEST_OVERDUE_HOLD,
        &c::INBOX_PENDING,
        &c::INBOX_OLDEST,
        &c::IDEMPOTENCY_OLDEST,
        &c::DB_BLOCKED,
        &c::DB_OLDEST_TX,
        &c::DB_CONNECTIONS,
        &c::DB_CONNECTIONS_MAX,
        &c::OVERVIEW_SUCCESS,
    ] {
        gauge.of(()).set(NONE);
    }
    c::OVERVIEW_LEADER.of(()).set(0.0);
}

fn moment(at: Option<DateTime<Utc>>) -> f64 {
    at.map_or(0.0, unix_seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::record::tests::value;

    #[test]
    fn figures_are_shown_whole_and_by_one_alone() {
        let at = DateTime::from_timestamp(1_800_000_000, 500_000_000).expect("in range");
        let two = Backlog { count: 2, oldest_at: Some(at) };
        let figures = Overview {
            unresolved: vec![(UnresolvedKind::Confirm, two)],
            unresolved_amounts: vec![
                (UnresolvedKind::Confirm, CurrencyLabel::Krw, 9_007_199_254_740_991),
                (UnresolvedKind::Cancel, CurrencyLabel::Other, 7),
            ],
            in_state: vec![(Aggregate::Payment, StatusWord::Reversing, two)],
            findings: vec![(FindingKind::MissingThere, two)],
            reconciled: vec![(ProviderLabel::Toss, None)],
            ..Overview::default()
        };
        let shown = |series: &str| value(series).expect(series);
        overview(&figures, at);
        for (series, expected) in [
            (r#"payments_unresolved{kind="confirm"}"#, 2.0),
            (r#"payments_unresolved{kind="cancel"}"#, 0.0),
            (r#"payments_oldest_unresolved_timestamp_seconds{kind="confirm"}"#, 1_800_000_000.5),
            (r#"payments_oldest_unresolved_timestamp_seconds{kind="cancel"}"#, 0.0),
            (r#"payments_unresolved_amount_minor_units{kind="confirm",currency="KRW"}"#, 9_007_199_254_740_991.0),
            (r#"payments_unresolved_amount_minor_units{kind="cancel",currency="other"}"#, 7.0),
            (r#"payments_in_state{aggregate="payment",status="reversing"}"#, 2.0),
            (r#"payments_in_state{aggregate="order",status="pending"}"#, 0.0),
            (r#"payments_findings_open{kind="missing_there"}"#, 2.0),
            ("payments_overview_leader", 1.0),
            ("payments_overview_last_success_timestamp_seconds", 1_800_000_000.5),
        ] {
            assert!((shown(series) - expected).abs() < f64::EPSILON, "{series}");
        }
        overview(&Overview::default(), at);
        assert!(shown(r#"payments_unresolved_amount_minor_units{kind="cancel",currency="other"}"#).abs() < 0.5, "gone");
        overview_elsewhere();
        let text = crate::telemetry::for_tests().metrics().render();
        for metric in c::overview_metrics().filter(|metric| *metric != "payments_overview_leader") {
            // Another test makes a series with the first value of each label.
            let is_one = |line: &&str| line.split(['{', ' ']).next() == Some(metric) && !line.contains("=\"none\"");
            let lines: Vec<_> = text.lines().filter(is_one).collect();
            assert!(!lines.is_empty() && lines.iter().all(|line| line.ends_with(" NaN")), "{metric}: {lines:?}");
        }
        assert!(shown("payments_overview_leader").abs() < f64::EPSILON);
    }
}
