//! The text of each rule. A rule is a query that judges rows: `id`, `subject` (by which the rows are reached), `broken`,
//! and for what is stuck `since`. A judgement of NULL counts as broken.
//!
//! Their marks: `{in column}` keeps the rows that are asked for, `{steps}` are the legal steps of a history, `{age}` is
//! how old something may be before it is stuck.

use super::Rows;
use crate::domain::audit::{AuditRule, AuditSeverity};

/// The most ids that a verdict names.
const IDS_NAMED: usize = 20;

/// The whole statement: `$1` ids, `$2` and `$3` first and last id, `$4` steps, `$5` age.
pub(super) fn statement(rule: AuditRule, rows: &Rows<'_>) -> String {
    let judged = filtered(text(rule), rows).replace("{steps}", "$4").replace("{age}", "$5");
    let since = match rule.severity() {
        AuditSeverity::Violation => "null::timestamptz",
        AuditSeverity::Stuck => "min(since) filter (where broken is not false)",
    };
    format!(
        "with judged as ({judged})
         select count(*) as rows_checked, count(*) filter (where broken is not false) as broken,
             coalesce((array_agg(id order by id) filter (where broken is not false))[1:{IDS_NAMED}], '{{}}') as ids,
             coalesce((array_agg(distinct subject) filter (where broken is not false))[1:{most}], '{{}}') as subjects,
             {since} as oldest_at
         from judged",
        most = super::SUBJECTS_MAX,
    )
}

fn filtered(text: &str, rows: &Rows<'_>) -> String {
    let mut pieces = text.split("{in ");
    let mut statement = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (column, rest) = piece.split_once('}').unwrap_or((piece, ""));
        match rows {
            Rows::Of(_) => statement.push_str(&format!("{column} = any ($1)")),
            Rows::Between(..) => statement.push_str(&format!("{column} between $2 and $3")),
            Rows::All => statement.push_str("true"),
        }
        statement.push_str(rest);
    }
    statement
}

const fn text(rule: AuditRule) -> &'static str {
    match rule {
        AuditRule::StockConserved => include_str!("stock_conserved.sql"),
        AuditRule::StockAdjusted => include_str!("stock_adjusted.sql"),
        AuditRule::ProductWhole => include_str!("product_whole.sql"),
        AuditRule::OrderTotal => include_str!("order_total.sql"),
        AuditRule::OrderMoney => include_str!("order_money.sql"),
        AuditRule::LineOwner => include_str!("line_owner.sql"),
        AuditRule::LineUnits => include_str!("line_units.sql"),
        AuditRule::PaymentAmount => include_str!("payment_amount.sql"),
        AuditRule::PaymentLiveOnce => include_str!("payment_live_once.sql"),
        AuditRule::PaymentFacts => include_str!("payment_facts.sql"),
        AuditRule::PaymentCapacity => include_str!("payment_capacity.sql"),
        AuditRule::PaymentCanceled => include_str!("payment_canceled.sql"),
        AuditRule::PaymentEmptied => include_str!("payment_emptied.sql"),
        AuditRule::ReversalReturned => include_str!("reversal_returned.sql"),
        AuditRule::FactBookedOnce => include_str!("fact_booked_once.sql"),
        AuditRule::CancellationOwner => include_str!("cancellation_owner.sql"),
        AuditRule::CancellationFacts => include_str!("cancellation_facts.sql"),
        AuditRule::OpenInquired => include_str!("open_inquired.sql"),
        AuditRule::HistoryGapless => include_str!("history_gapless.sql"),
        AuditRule::HistoryStatus => include_str!("history_status.sql"),
        AuditRule::HistoryChain => include_str!("history_chain.sql"),
        AuditRule::HistoryLegal => include_str!("history_legal.sql"),
        AuditRule::HistoryOwner => include_str!("history_owner.sql"),
        AuditRule::KeyAnswered => include_str!("key_answered.sql"),
        AuditRule::WebhookWhole => include_str!("webhook_whole.sql"),
        AuditRule::ApiKeyWhole => include_str!("api_key_whole.sql"),
        AuditRule::FindingWhole => include_str!("finding_whole.sql"),
        AuditRule::StuckConfirm => include_str!("stuck_confirm.sql"),
        AuditRule::StuckCancel => include_str!("stuck_cancel.sql"),
        AuditRule::StuckDeposit => include_str!("stuck_deposit.sql"),
        AuditRule::StuckHold => include_str!("stuck_hold.sql"),
        AuditRule::StuckWebhook => include_str!("stuck_webhook.sql"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::audit::AuditReach;

    #[test]
    fn every_rule_keeps_to_the_rows_it_is_asked_about() {
        for &rule in AuditRule::ALL {
            let by_rows = text(rule).contains("{in ");
            assert_eq!(by_rows, rule.reach() != AuditReach::Everything, "{rule}");
            assert_eq!(text(rule).contains("{age}"), rule.severity() == AuditSeverity::Stuck, "{rule}");
            for rows in [Rows::Of(&[]), Rows::All] {
                let statement = statement(rule, &rows);
                assert!(["{in", "{steps", "{age"].iter().all(|mark| !statement.contains(mark)), "{rule}");
            }
        }
    }
}
