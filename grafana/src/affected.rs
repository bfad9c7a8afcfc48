//! Who is hit: masked customers, orders and amounts of payments that did not end well.

use crate::dashboard::Dashboard;
use crate::panel::{AMBER, GREEN, Panel, RED, bars, lines, logs, stat, table};
use crate::query::{rate, read};

/// The slice that the variables choose.
const SLICE: &str = "$__timeFilter(at) and payment >= observability.first_id($__timeFrom())
                     and provider ~ '^(${provider:regex})$' and method ~ '^(${method:regex})$'
                     and outcome ~ '^(${outcome:regex})$'";
const DRILL: &str = "nothing fails in a healthy hour";

pub fn dashboard() -> Dashboard {
    Dashboard::new(
        "pay-affected",
        "Payments: who is hit",
        "Which customers and orders are hit?",
        "ConfirmBudgetBurnFast",
    )
    .row("How many", how_many())
    .row("Who", who())
    .row("What to do", what_to_do())
}

fn of_slice(columns: &str, rest: &str) -> String {
    format!("select {columns} from observability.affected where {SLICE} {rest}")
}

fn how_many() -> [Panel; 7] {
    [
        stat("Customers")
            .sql(&of_slice("count(distinct customer) as customers", ""))
            .colours(GREEN, &[(1.0, AMBER), (100.0, RED)])
            .about(
                "How many customers are hit?",
                "different customers of the chosen slice; those without a reference are not counted.",
                "above a hundred: tell support before they ask.",
            )
            .to("pay-overview")
            .runbook("ConfirmBudgetBurnFast"),
        stat("Payments")
            .sql(&of_slice("count(*) as payments", ""))
            .colours(GREEN, &[(1.0, AMBER), (100.0, RED)])
            .about(
                "How many payments are hit?",
                "failed, in doubt, or going back, of the chosen slice.",
                "choose provider, method and outcome above until only the incident is left.",
            )
            .to("pay-overview")
            .runbook("ConfirmBudgetBurnFast"),
        stat("In doubt now")
            .query(read("payments_unresolved", "kind"), "{{kind}}")
            .colours(GREEN, &[(10.0, AMBER), (50.0, RED)])
            .about(
                "How many are in doubt at this moment?",
                "confirms and cancellations without a certain end, of all slices.",
                "they end by themselves when the PG answers; see recovery.",
            )
            .to("pay-events")
            .runbook("DoubtSurge"),
        stat("Money in doubt now")
            .unit("locale")
            .query(read("payments_unresolved_amount_minor_units", "kind, currency"), "{{kind}} {{currency}}")
            .colours(GREEN, &[(1_000_000.0, AMBER), (10_000_000.0, RED)])
            .about(
                "How much money is in doubt at this moment?",
                "minor units by kind and currency.",
                "name the sum in the first message to the PG.",
            )
            .to("pay-events")
            .runbook("MoneyAtRiskHigh"),
        bars("By outcome")
            .size(8, 4)
            .query(r#"sum by (outcome) (increase(payments_operations_total{@,operation=~"confirm|cancel",provider=~"$provider",method=~"$method",outcome=~"declined|pg_error|unknown|error"}[$__range]))"#, "{{outcome}}")
            .colours(GREEN, &[(1.0, AMBER)])
            .about(
                "How did they fail?",
                "failed confirms and cancels of the chosen time, as counted.",
                "when the rows below are fewer, buyers tried again and got through.",
            )
            .to("pay-slo")
            .runbook("ConfirmBudgetBurnSlow"),
        lines("Failures per second")
            .size(12, 7)
            .unit("reqps")
            .query(rate("payments_operations_total", r#"@,operation=~"confirm|cancel",provider=~"$provider",method=~"$method",outcome=~"pg_error|unknown|error""#, "operation, outcome"), "{{operation}} {{outcome}}")
            .about(
                "When did it begin, and is it over?",
                "failed confirms and cancels per second; marks are deploys, settings and pages.",
                "set the time to its beginning; a mark just before it is the first suspect.",
            )
            .to("pay-overview")
            .runbook("ConfirmBudgetBurnFast"),
        table("By reason")
            .size(12, 7)
            .sql(&of_slice(
                "outcome, reason, code, provider, method, count(*) as payments, count(distinct customer) as customers, sum(amount) as amount, currency",
                "group by outcome, reason, code, provider, method, currency order by payments desc limit 50",
            ))
            .empty("nobody is hit")
            .drill(DRILL)
            .about(
                "Why did they fail?",
                "by reason and the PG's code; amounts are minor units.",
                "the first row is the incident, the others the background.",
            )
            .to("pay-pg")
            .runbook("PgCodesUnmapped"),
    ]
}

fn who() -> [Panel; 2] {
    [
        table("Payments that are hit")
            .size(24, 12)
            .sql(&of_slice(
                "at, outcome, status, payment_id, order_id, customer, provider, method, amount, currency, reason, code, trace_id",
                "order by at desc limit 500",
            ))
            .empty("nobody is hit")
            .drill(DRILL)
            .each_payment()
            .each_trace()
            .about(
                "Which customers and orders are hit?",
                "newest first; the customer is a hash that is the same on all rows, never a name.",
                "a click leads to the payment or its trace; the panel's menu downloads the list as CSV for support.",
            )
            .to("pay-payment")
            .runbook("DoubtStuck"),
        table("Customers hit more than once")
            .size(24, 7)
            .sql(&of_slice(
                "customer, count(*) as payments, count(distinct order_id) as orders, min(at) as first, max(at) as last",
                "and customer is not null group by customer having count(*) > 1 order by payments desc limit 50",
            ))
            .empty("nobody twice")
            .drill(DRILL)
            .about(
                "Who fails again and again?",
                "customers with several failed payments of the slice.",
                "one card tried on many orders may be card testing; many orders of one buyer is despair.",
            )
            .to("pay-funnel")
            .runbook("ApprovalRateDropped"),
    ]
}

fn what_to_do() -> [Panel; 3] {
    [
        table("Traces of failures")
            .size(12, 8)
            .traces(r#"{ resource.service.name = "paygauge" && span.payments.outcome =~ "pg_error|unknown|error" }"#)
            .empty("no trace was kept")
            .drill(DRILL)
            .about(
                "What does one failure look like from end to end?",
                "kept traces of failed operations; all failures are kept.",
                "open one: the last red span is the cause.",
            )
            .to("pay-pg")
            .runbook("PgDown"),
        table("Pages that fire")
            .size(12, 8)
            .query(r#"max by (alertname, provider, severity) (ALERTS{alertstate="firing",severity=~"page|ticket"})"#, "")
            .without("Value")
            .empty("nothing fires")
            .drill("a healthy system fires nothing")
            .about(
                "What do I do?",
                "pages and tickets that fire now; each has a runbook of the same name.",
                "open it: it says what is safe, what never to do, and how to know that it is over.",
            )
            .to("pay-slo")
            .runbook("Watchdog"),
        logs("Errors and warnings")
            .lines_of(r#"{service="paygauge",level=~"error|warn"} | json | line_format "{{.msg}} {{.operation}} {{.outcome}} {{.payment_id}}""#)
            .empty("no line")
            .drill(DRILL)
            .about(
                "What do the processes say?",
                "warnings and errors of the chosen time.",
                "the trace id of a line leads to its trace.",
            )
            .to("pay-runtime")
            .runbook("LogLinesDropped"),
    ]
}
