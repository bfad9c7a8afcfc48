//! Objectives: how much failure is left, how fast it goes, and what spent it.

use crate::dashboard::Dashboard;
use crate::panel::{AMBER, GREEN, Panel, RED, bars, lines, stat, table};

pub fn dashboard() -> Dashboard {
    Dashboard::new(
        "pay-slo",
        "Payments: objectives",
        "How much failure can we afford, and what spends it?",
        "ConfirmBudgetBurnSlow",
    )
    .row("Budgets", budgets())
    .row("How fast it burns", burns())
    .row("What spends it", spending())
}

fn budgets() -> [Panel; 5] {
    [
        stat("Budget left")
            .size(12, 5)
            .unit("percentunit")
            .decimals(1)
            .query(r#"clamp_min(min by (slo) (slo:budget_remaining:ratio{slo=~"$slo"}), -1)"#, "{{slo}}")
            .colours(RED, &[(0.0, AMBER), (0.25, GREEN)])
            .about(
                "How much of each month's failures is left?",
                "of 30 days, weighted by events; below 0 it is spent, and the scale ends at -100 %.",
                "amber: no risky deploy for that path; red: mend before new things.",
            )
            .to("pay-overview")
            .runbook("ConfirmBudgetBurnTicket"),
        stat("Burning now")
            .size(12, 5)
            .decimals(1)
            .query(r#"max by (slo) (slo:current_burn_rate:ratio{slo=~"$slo"})"#, "{{slo}}")
            .colours(GREEN, &[(1.0, AMBER), (14.4, RED)])
            .about(
                "How fast is the budget spent now?",
                "1 spends exactly the month's budget in a month; 14.4 spends 2 % of it in an hour.",
                "red: it is an incident; find who hurts.",
            )
            .to("pay-overview")
            .runbook("ConfirmBudgetBurnFast"),
        table("Objectives")
            .size(12, 8)
            .query(r#"max by (slo) (slo:objective:ratio{slo=~"$slo"})"#, "")
            .query(r#"max by (slo) (slo:error_budget:ratio{slo=~"$slo"})"#, "")
            .query(r#"clamp_min(min by (slo) (slo:budget_remaining:ratio{slo=~"$slo"}), -1)"#, "")
            .query(r#"max by (slo) (slo:current_burn_rate:ratio{slo=~"$slo"})"#, "")
            .column("Value #A", "objective", "percentunit")
            .column("Value #B", "allowed to fail", "percentunit")
            .column("Value #C", "left", "percentunit")
            .column("Value #D", "burn rate", "short")
            .about(
                "What do we promise, and do we keep it?",
                "each objective with what it allows, what is left and how fast it goes.",
                "the lowest `left` with the highest rate comes first.",
            )
            .to("pay-overview")
            .runbook("ConfirmBudgetBurnSlow"),
        lines("Budget over time")
            .size(6, 8)
            .unit("percentunit")
            .query(r#"clamp_min(min by (slo) (slo:budget_remaining:ratio{slo=~"$slo"}), -1)"#, "{{slo}}")
            .about(
                "When was it spent?",
                "a cliff is an incident, a slope a chronic fault.",
                "set the time to 30 days; the marks are deploys, settings and pages.",
            )
            .to("pay-overview")
            .runbook("ConfirmBudgetBurnTicket"),
        bars("Days until it is spent")
            .size(6, 8)
            .unit("d")
            .query(r#"clamp_max(30 * clamp_min(min by (slo) (slo:budget_remaining:ratio{slo=~"$slo"}), 0) / clamp_min(max by (slo) (slo:current_burn_rate:ratio{slo=~"$slo"}), 0.01), 365)"#, "{{slo}}")
            .colours(RED, &[(1.0, AMBER), (7.0, GREEN)])
            .about(
                "When is the budget gone if it goes on like this?",
                "what is left divided by the speed of now; a year stands for never.",
                "under a day: act now, whatever the alerts say.",
            )
            .to("pay-overview")
            .runbook("ConfirmBudgetBurnSlow"),
    ]
}

fn burns() -> [Panel; 4] {
    let burn = |title, sli: &str, slo: &str, alert, question: &str| {
        let rate = |window: &str| {
            format!(r#"max(payments:{sli}:ratio_rate{window}) / on () max(slo:error_budget:ratio{{slo="{slo}"}})"#)
        };
        lines(title)
            .size(6, 8)
            .query(rate("5m"), "5 minutes")
            .query(rate("1h"), "1 hour")
            .query(rate("6h"), "6 hours")
            .query(rate("3d"), "3 days")
            .colours(GREEN, &[(1.0, AMBER), (14.4, RED)])
            .about(
                question,
                "burn rates of four windows; a page needs a long and a short one above its line (14.4 of an hour, 6 of six hours).",
                "short above long: it begins; long above short: it is over, and the page will end.",
            )
            .to("pay-overview")
            .runbook(alert)
    };
    [
        burn("Confirm: works", "confirm_bad", "confirm", "ConfirmBudgetBurnFast", "Do confirms fail too often?"),
        burn("Confirm: is fast", "confirm_slow", "confirm_latency", "ConfirmLatencyBurn", "Are confirms too slow?"),
        burn("Cancel: works", "cancel_bad", "cancel", "CancelBudgetBurn", "Do cancels fail too often?"),
        burn("Webhooks: in time", "webhook_late", "webhook", "WebhookBacklog", "Are webhooks applied too late?"),
    ]
}

fn spending() -> [Panel; 5] {
    [
        table("What spent the budget")
            .query(r#"topk(10, sum by (operation, provider, method, outcome) (increase(payments_operations_total{@,operation=~"confirm|cancel",outcome=~"pg_error|unknown|error"}[$__range])) > 0)"#, "")
            .column("Value", "failed", "short")
            .empty("nothing failed")
            .data("the scenario makes confirms fail")
            .each_affected()
            .about(
                "Who spent the budget of the chosen time?",
                "failed confirms and cancels by provider, method and outcome.",
                "the first row is what to mend first.",
            )
            .to("pay-affected")
            .runbook("ConfirmBudgetBurnSlow"),
        lines("Ours, not the PG's")
            .size(6, 8)
            .unit("percentunit")
            .query("max(payments:confirm_ours_bad:ratio_rate5m)", "5 minutes")
            .query("max(payments:confirm_ours_bad:ratio_rate1h)", "1 hour")
            .colours(GREEN, &[(0.0001, AMBER)])
            .about(
                "How much is our own fault?",
                "share of confirms that ended with an error of ours; promised is 1 of 10 000.",
                "above the line: a defect or too little of something, whatever the PG does.",
            )
            .to("pay-runtime")
            .runbook("ConfirmBudgetBurnFast"),
        lines("Confirms above 7.5 s")
            .size(6, 8)
            .unit("percentunit")
            .query("max(payments:confirm_very_slow:ratio_rate5m)", "5 minutes")
            .query("max(payments:confirm_very_slow:ratio_rate1h)", "1 hour")
            .colours(GREEN, &[(0.001, AMBER)])
            .about(
                "How many buyers wait so long that they leave?",
                "share of confirms slower than 7.5 s; promised is 1 of 1000.",
                "see the PG's time, then the waits of the database.",
            )
            .to("pay-pg")
            .runbook("ConfirmLatencyBurn"),
        lines("Doubt that lasted")
            .size(16, 7)
            .unit("percentunit")
            .query("max(payments:doubt_late:ratio_rate1h)", "1 hour")
            .query("max(payments:doubt_late:ratio_rate1d)", "1 day")
            .colours(GREEN, &[(0.005, AMBER)])
            .empty("no doubt was resolved")
            .data("the scenario makes doubts and resolves them")
            .about(
                "How much doubt lasted longer than five minutes?",
                "share of the doubts that were resolved; promised is 1 of 200.",
                "see recovery and the breaker of inquiries.",
            )
            .to("pay-events")
            .runbook("DoubtStuck"),
        stat("Time with proven books")
            .size(8, 7)
            .unit("percentunit")
            .decimals(3)
            .query(r#"avg_over_time((max(payments_audit_violations{@job,rule!~"stuck_.*"}) == bool 0)[$__range:1m])"#, "")
            .colours(RED, &[(1.0, GREEN)])
            .about(
                "Were the books right all the time?",
                "share of the minutes of the chosen time with no violation; there is no budget for it.",
                "below 100 %: find the minute in stock and books, and explain it.",
            )
            .to("pay-stock")
            .runbook("AuditViolation"),
    ]
}
