//! Stock and books: are units and money where they should be, who is stuck, and since when is it proven?

use crate::dashboard::Dashboard;
use crate::panel::{AMBER, GREEN, Panel, RED, bars, lines, stack, stat, table};
use crate::query::{age, rate, read};

pub fn dashboard() -> Dashboard {
    Dashboard::new(
        "pay-stock",
        "Payments: stock and books",
        "Do stock and money add up, and what is stuck?",
        "AuditViolation",
    )
    .row("Do the books add up?", proof())
    .row("Stock", stock())
    .row("States", states())
    .row("The PG's books and ours", findings())
}

fn proof() -> [Panel; 6] {
    [
        stat("Rows that break a rule").size(8, 4)
            .query(r#"sum(max by (rule) (payments_audit_violations{@job,rule!~"stuck_.*"}))"#, "")
            .colours(GREEN, &[(1.0, RED)])
            .zero("a healthy program breaks no rule")
            .about(
                "Is anything wrong in the books?",
                "rows of all rules of the audit but those about waiting.",
                "one row is a defect or somebody's hand: find the rule beside it, stop what writes, mend nothing by hand.",
            )
            .to("pay-overview")
            .runbook("AuditViolation"),
        stat("Proven until").size(8, 4).below()
            .unit("s")
            .query(r#"time() - min(max by (rule) (payments_audit_proven_until_timestamp_seconds{@job,mode="changed"} > 0))"#, "changes, ago")
            .colours(GREEN, &[(60.0, AMBER), (300.0, RED)])
            .about(
                "Since when is nothing proven?",
                "the rule that lags most: seconds since it had judged every committed change.",
                "it grows: the auditor is dead or slow; the figure beside it is then old.",
            )
            .to("pay-events")
            .runbook("AuditStale"),
        bars("Violations by rule")
            .size(8, 8)
            .query("max by (rule) (payments_audit_violations{@job}) > 0", "{{rule}}")
            .colours(GREEN, &[(1.0, RED)])
            .empty("no rule is broken")
            .drill("no rule is broken while all is well")
            .about(
                "Which rule is broken?",
                "rows per rule; a rule that begins with stuck is about waiting, all others about wrong books.",
                "the rule's own query, under src/db/audit, lists the rows.",
            )
            .to("pay-affected")
            .runbook("AuditViolation"),
        lines("Rows judged")
            .size(8, 8)
            .unit("rowsps")
            .query(rate("payments_audit_rows_checked_total", "@", "mode"), "{{mode}}")
            .about(
                "Is anything looked at?",
                "rows per second that the audit has judged: those that changed, and all.",
                "none while there is traffic proves nothing: the auditor sleeps.",
            )
            .to("pay-events")
            .runbook("AuditStale"),
        lines("Time of a round of the audit")
            .size(12, 7)
            .unit("s")
            .query("topk(5, max by (rule, mode) (payments_audit_duration_seconds{@job}))", "{{rule}} {{mode}}")
            .about(
                "Which rule is expensive?",
                "the five slowest rules, of their last round.",
                "one grows with the data: its query lost its index.",
            )
            .to("pay-db")
            .runbook("AuditStale"),
        lines("Age of proof by rule")
            .size(12, 7)
            .unit("s")
            .query(r#"topk(5, time() - max by (rule, mode) (payments_audit_proven_until_timestamp_seconds{@job,mode=~"changed|full"} > 0))"#, "{{rule}} {{mode}}")
            .about(
                "Which rule lags?",
                "the five rules whose proof is oldest; `full` looks at every row and is older by design.",
                "one lags: its query fails or runs out of time, see the log.",
            )
            .to("pay-events")
            .runbook("AuditStale"),
    ]
}

fn stock() -> [Panel; 8] {
    [
        stat("Units held")
            .size(6, 4)
            .query(read("payments_stock_held_units", ""), "")
            .colours(GREEN, &[(100_000.0, AMBER)])
            .about(
                "How much stock waits for payment?",
                "units of orders that are pending, confirming or waiting for a deposit.",
                "much more than usual: holds do not end, or somebody hoards.",
            )
            .to("pay-funnel")
            .runbook("StockLeak"),
        stat("Holds overdue")
            .size(6, 4)
            .below()
            .query(read("payments_holds_overdue", ""), "")
            .colours(GREEN, &[(1.0, AMBER), (100.0, RED)])
            .about(
                "Does stock leak?",
                "pending orders past their hold; the expiry gives them back within a minute.",
                "it stays: the expiry worker is dead or fails, see workers.",
            )
            .to("pay-events")
            .runbook("StockLeak"),
        stat("Oldest overdue hold")
            .size(6, 8)
            .unit("s")
            .query(age("payments_oldest_overdue_hold_timestamp_seconds", ""), "")
            .colours(GREEN, &[(120.0, AMBER), (600.0, RED)])
            .about(
                "Since when does stock leak?",
                "age of the oldest hold that should have ended; 0 is none.",
                "above ten minutes: restart the worker, then see why it stopped.",
            )
            .to("pay-events")
            .runbook("StockLeak"),
        lines("Reservations")
            .size(6, 8)
            .unit("reqps")
            .query(rate("payments_stock_reservations_total", "@", "result"), "{{result}}")
            .about(
                "Do buyers get their units?",
                "reservations per second: taken, not enough, failed.",
                "insufficient: sold out, or stock that leaked; error: the database.",
            )
            .to("pay-funnel")
            .runbook("StockLeak"),
        stack("Units moved")
            .size(6, 8)
            .unit("short")
            .query("sum by (kind) (rate(payments_stock_movements_total{@}[@]))", "{{kind}}")
            .about(
                "Where do units go?",
                "units per second: held, released unpaid, given back after a cancel, put in, corrected.",
                "hold without release or sale over hours is a leak; corrections come from people.",
            )
            .to("pay-funnel")
            .runbook("StockLeak"),
        lines("Orders in one transaction")
            .size(6, 8)
            .unit("short")
            .query(
                "sum(rate(payments_orders_per_transaction_sum{@}[@])) / (sum(rate(payments_orders_per_transaction_count{@}[@])) > 0)",
                "mean",
            )
            .query(
                "histogram_quantile(0.99, sum by (le) (rate(payments_orders_per_transaction_bucket{@}[@])))",
                "p99",
            )
            .about(
                "Are those who want one product taken together?",
                "orders that one transaction placed; 1 is each by itself.",
                "a crowd and still 1: many products at once, or PAYGAUGE_ORDERS_TOGETHER is 1.",
            )
            .to("pay-db")
            .runbook("StockLeak"),
        lines("Holds that ran out")
            .size(6, 8)
            .unit("reqps")
            .query("sum(rate(payments_holds_expired_total{@}[@]))", "expired")
            .about(
                "How many buyers give up?",
                "orders per second whose hold ended unpaid.",
                "a wave after an outage is its echo; a steady rise is the checkout.",
            )
            .to("pay-funnel")
            .runbook("StockLeak"),
        table("Hot products")
            .size(12, 8)
            .sql(
                "select product, available, held_units, ordered_units, orders from observability.hot_products
                  order by ordered_units desc limit 20",
            )
            .data("orders of the last hour are there after load")
            .about(
                "Which product is fought for?",
                "products with most units ordered within the last hour, what is left and what is held.",
                "hot and nearly empty: expect refusals and waits for its row.",
            )
            .to("pay-db")
            .runbook("StockLeak"),
    ]
}

fn states() -> [Panel; 5] {
    [
        lines("Open, by state")
            .size(8, 8)
            .query(read("payments_in_state", "aggregate, status"), "{{aggregate}} {{status}}")
            .about(
                "What is on its way?",
                "orders, payments and cancellations in states that must end.",
                "one grows without end: see its oldest beside it.",
            )
            .to("pay-events")
            .runbook("StuckInState"),
        lines("Oldest, by state")
            .size(8, 8)
            .unit("s")
            .query(age("payments_oldest_in_state_timestamp_seconds", "aggregate, status"), "{{aggregate}} {{status}}")
            .about(
                "Is anything stuck?",
                "age of the oldest of each open state; 0 is none. Waiting for a deposit lasts days by design.",
                "confirming or requested above ten minutes: see the list below, and the worker.",
            )
            .to("pay-events")
            .runbook("StuckInState"),
        lines("Changes of state")
            .size(8, 8)
            .unit("reqps")
            .query(
                rate("payments_transitions_total", "@", "aggregate, from_status, to_status"),
                "{{aggregate}} {{from_status}} to {{to_status}}",
            )
            .about(
                "What moves?",
                "committed changes per second.",
                "a step that vanished while the one before goes on is where it is stuck.",
            )
            .to("pay-funnel")
            .runbook("StuckInState"),
        lines("Money going back that no order may keep")
            .size(6, 8)
            .unit("short")
            .query("sum by (provider) (increase(payments_reversals_total{@}[@]))", "{{provider}}")
            .about(
                "Did we take money too much?",
                "reversals opened in each interval.",
                "each wants an explanation: explain the payment, then see whether its buyer was told.",
            )
            .to("pay-affected")
            .runbook("ReversalOpened"),
        table("Stuck rows")
            .size(18, 8)
            .sql(
                "select since, what, status, payment_id, order_id, provider, amount, currency, next_at, trace_id
                  from observability.stuck order by since limit 50",
            )
            .empty("nothing is stuck")
            .drill("nothing is stuck while all is well")
            .each_payment()
            .each_trace()
            .about(
                "Which rows are stuck?",
                "what should have ended by itself, oldest first, and when it is asked about next.",
                "follow the payment; its timeline says what it waits for.",
            )
            .to("pay-affected")
            .runbook("StuckInState"),
    ]
}

fn findings() -> [Panel; 5] {
    [
        stat("Oldest difference")
            .size(8, 7)
            .unit("s")
            .query(age("payments_findings_oldest_timestamp_seconds", "kind"), "{{kind}}")
            .colours(GREEN, &[(1.0, AMBER), (86400.0, RED)])
            .about(
                "Which difference waits longest?",
                "age of the oldest open finding by kind; 0 is none.",
                "older than a day: a person has forgotten it.",
            )
            .to("pay-affected")
            .runbook("FindingsOpen"),
        lines("Open differences")
            .size(8, 7)
            .query(read("payments_findings_open", "kind"), "{{kind}}")
            .query("sum by (kind) (increase(payments_findings_total{@}[@]))", "new {{kind}}")
            .about(
                "What do the PG's books and ours disagree on?",
                "open findings by kind, and those that came new.",
                "missing_here: money without an order; missing_there: an order without money.",
            )
            .to("pay-affected")
            .runbook("FindingsOpen"),
        stat("Compared until")
            .size(8, 7)
            .unit("s")
            .query(r#"time() - min by (provider) (payments_reconciled_until_timestamp_seconds{@job,provider=~"$provider"} > 0)"#, "{{provider}}, ago")
            .colours(GREEN, &[(7200.0, AMBER), (86400.0, RED)])
            .about(
                "How far were the books compared?",
                "seconds since the end of the last compared window; a PG's list lags by design.",
                "it grows: see the runs beside it.",
            )
            .to("pay-pg")
            .runbook("ReconcileStale"),
        lines("Runs of the comparison")
            .size(12, 7)
            .unit("short")
            .query("sum by (provider, outcome) (increase(payments_reconcile_runs_total{@}[@]))", "{{provider}} {{outcome}}")
            .about(
                "Do comparisons come to their end?",
                "runs that ended in each interval.",
                "only incomplete ones: the PG's list fails or is too long for one run.",
            )
            .to("pay-pg")
            .runbook("ReconcileStale"),
        lines("Rows of the PG compared")
            .size(12, 7)
            .unit("rowsps")
            .query(rate("payments_reconcile_transactions_total", "@", "provider"), "{{provider}}")
            .about(
                "Does the PG's list have anything in it?",
                "rows per second read from the PG's list of transactions.",
                "none after sales: the list is empty or the key sees another shop.",
            )
            .to("pay-pg")
            .runbook("ReconcileStale"),
    ]
}
