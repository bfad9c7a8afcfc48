//! From the order to the money: where buyers are lost, and whose fault it is.

use crate::dashboard::Dashboard;
use crate::panel::{AMBER, GREEN, Panel, RED, bars, heatmap, lines, stack, stat, table};
use crate::query::{age, rate, share};

pub fn dashboard() -> Dashboard {
    Dashboard::new(
        "pay-funnel",
        "Payments: funnel",
        "Where do buyers drop out on the way to a paid order?",
        "ApprovalRateDropped",
    )
    .row("From order to money", stages())
    .row("Declines and methods", declines())
    .row("Money", money())
    .row("Clients", clients())
    .row("Exactly: what became of the orders of this time", cohort())
}

fn stages() -> [Panel; 5] {
    let stage = |name: &str| format!(r#"sum(rate(payments_funnel_total{{@,stage="{name}"}}[@]))"#);
    [
        bars("Orders by stage reached")
            .unit("short")
            .query("sum by (stage) (increase(payments_funnel_total{@}[$__range]))", "{{stage}}")
            .about(
                "How many orders reach each stage?",
                "events of the chosen time, once per order and stage; not a cohort: an order may begin before it.",
                "a stage much lower than the one before is where buyers are lost; the last row of the page is exact.",
            )
            .to("pay-overview")
            .runbook("TrafficDropped"),
        lines("Stages per second")
            .unit("reqps")
            .query(rate("payments_funnel_total", "@", "stage"), "{{stage}}")
            .about(
                "When did a stage change?",
                "orders per second that reach each stage.",
                "order_created stays and confirm_requested falls: the checkout or the PG's window.",
            )
            .to("pay-overview")
            .runbook("TrafficVanished"),
        lines("From stage to stage")
            .unit("percentunit")
            .query(
                format!("clamp_max({} / ({} > 0), 1)", stage("confirm_requested"), stage("order_created")),
                "order to confirm",
            )
            .query(format!("clamp_max({} / ({} > 0), 1)", stage("paid"), stage("confirm_requested")), "confirm to paid")
            .about(
                "Which step loses buyers?",
                "rates of two stages divided; what comes late, as after an outage, is more than all, and reads 100 %.",
                "a fall of the first is before us, of the second is PG, issuer or us.",
            )
            .to("pay-pg")
            .runbook("ApprovalRateDropped"),
        stack("API calls per second")
            .size(12, 8)
            .unit("reqps")
            .query(
                r#"sum by (operation, outcome) (payments:operations:rate1m{job=~"$job",operation=~"$operation"})"#,
                "{{operation}} {{outcome}}",
            )
            .about(
                "How much do we do, and how does it end?",
                "operations per second by outcome; choose them above.",
                "rejected grows: a client sends nonsense; conflict: it sends the same twice.",
            )
            .to("pay-db")
            .runbook("TrafficDropped"),
        lines("Time of the API calls")
            .size(12, 8)
            .unit("s")
            .quantiles("payments_operation_duration_seconds", r#"@,operation=~"$operation""#, "")
            .colours(GREEN, &[(2.5, AMBER), (7.5, RED)])
            .about(
                "How long do the chosen operations take?",
                "half to 999 of 1000 were faster; dots are real payments.",
                "choose one operation, then open a dot above the line.",
            )
            .to("pay-db")
            .runbook("ConfirmLatencyBurn"),
    ]
}

fn declines() -> [Panel; 4] {
    [
        stack("Declines by class")
            .size(12, 8)
            .unit("reqps")
            .query(rate("payments_declines_total", r#"@,provider=~"$provider""#, "decline_class"), "{{decline_class}}")
            .about(
                "Why does the PG refuse?",
                "declines per second by class.",
                "insufficient funds is the buyer's; auth or merchant classes are ours or the PG's.",
            )
            .to("pay-affected")
            .runbook("ApprovalRateDropped"),
        lines("Approved by method")
            .size(12, 8)
            .unit("percentunit")
            .max(1.0)
            .query(
                share("payments_operations_total", r#",operation="confirm",outcome="success",provider=~"$provider",method=~"$method""#, r#",operation="confirm",outcome=~"success|declined",provider=~"$provider",method=~"$method""#, "provider, method"),
                "{{provider}} {{method}}",
            )
            .about(
                "Which method lets buyers through?",
                "approved among approved and declined; a decline without a known method is under none.",
                "one method falls: its issuer or our contract for it; move it down in the checkout.",
            )
            .to("pay-pg")
            .runbook("ApprovalRateDropped"),
        stack("Confirms by method")
            .size(12, 8)
            .unit("reqps")
            .query(rate("payments_operations_total", r#"@,operation="confirm",method=~"$method""#, "method"), "{{method}}")
            .about(
                "How do buyers pay?",
                "confirms per second by method.",
                "a method that vanished: the PG took it away, or the checkout lost it.",
            )
            .to("pay-overview")
            .runbook("TrafficDropped"),
        table("Codes that we cannot translate")
            .size(12, 8)
            .query("sum by (provider, operation) (increase(payments_pg_unmapped_codes_total{@,provider=~\"$provider\"}[$__range]))", "")
            .column("Value", "answers", "short")
            .data("exposed as 0 for every verb")
            .about(
                "Did the PG invent a code?",
                "answers with a code that our table does not list; the code is in the log.",
                "add the code to the table with its class; until then it counts as the vaguest decline.",
            )
            .to("pay-pg")
            .runbook("PgCodesUnmapped"),
    ]
}

fn money() -> [Panel; 3] {
    let minute = |operation: &str| {
        format!(
            r#"60 * sum by (currency) (rate(payments_amount_minor_units_sum{{@,operation="{operation}",currency=~"$currency"}}[@]))"#
        )
    };
    [
        lines("Taken and given back per minute")
            .unit("locale")
            .query(minute("confirm"), "taken {{currency}}")
            .query(minute("cancel"), "given back {{currency}}")
            .about(
                "How much money moves?",
                "minor units per minute by currency, after commit.",
                "given back near taken: ask the shop before anything else.",
            )
            .to("pay-overview")
            .runbook("CancelBudgetBurn"),
        lines("Size of a payment")
            .unit("locale")
            .query(r#"sum by (currency) (rate(payments_amount_minor_units_sum{@,operation="confirm",currency=~"$currency"}[@])) / (sum by (currency) (rate(payments_amount_minor_units_count{@,operation="confirm",currency=~"$currency"}[@])) > 0)"#, "mean {{currency}}")
            .query(r#"histogram_quantile(0.9, sum by (le, currency) (rate(payments_amount_minor_units_bucket{@,operation="confirm",currency=~"$currency"}[@])))"#, "p90 {{currency}}")
            .about(
                "Do amounts look as usual?",
                "mean and p90 of what was taken, in minor units.",
                "a jump by a factor of 100 is a currency mistake: stop the client that does it.",
            )
            .to("pay-overview")
            .runbook("ApprovalRateDropped"),
        heatmap("Amounts taken")
            .size(8, 8)
            .unit("locale")
            .query(r#"sum by (le, currency) (increase(payments_amount_minor_units_bucket{@,operation="confirm",currency="KRW"}[@]))"#, "{{le}}")
            .about(
                "Which amounts do buyers pay?",
                "darker is more payments of that size; won only, since units differ.",
                "a single new band at a round amount may be card testing: see declines.",
            )
            .to("pay-affected")
            .runbook("ApprovalRateDropped"),
    ]
}

fn clients() -> [Panel; 4] {
    [
        stack("Idempotency keys")
            .size(8, 8)
            .unit("reqps")
            .query(rate("payments_idempotency_total", "@", "route, result"), "{{route}} {{result}}")
            .about(
                "Do clients try again, and rightly?",
                "keys per second by what they met.",
                "many replays: clients time out before us. mismatch: a client reuses keys for two things.",
            )
            .to("pay-runtime")
            .runbook("IdempotencyMismatchSurge"),
        stat("Keys used for two things")
            .size(8, 4)
            .unit("percentunit")
            .query(share("payments_idempotency_total", r#",result="mismatch""#, "", ""), "")
            .colours(GREEN, &[(0.01, AMBER)])
            .about(
                "Is a client broken?",
                "share of keys whose request differs from the first one.",
                "find the client by its order ids in the log, and tell its owner; nothing was charged twice.",
            )
            .to("pay-runtime")
            .runbook("IdempotencyMismatchSurge"),
        stat("Oldest key without an answer")
            .size(8, 4)
            .below()
            .unit("s")
            .query(age("payments_idempotency_oldest_open_timestamp_seconds", ""), "")
            .colours(GREEN, &[(60.0, AMBER), (600.0, RED)])
            .about(
                "Does a client wait for ever?",
                "age of the oldest key in progress; 0 is none.",
                "its payment is in doubt or its process died: recovery answers it, see doubts.",
            )
            .to("pay-events")
            .runbook("IdempotencyKeyStuck"),
        lines("Turned away at the door")
            .unit("reqps")
            .query(rate("payments_http_rejections_total", "@", "reason"), "{{reason}}")
            .about(
                "Do we refuse real customers?",
                "requests per second that no use case saw, by reason.",
                "shed: we are overloaded; unauthorized: a key was revoked; bad_json: a client's release.",
            )
            .to("pay-runtime")
            .runbook("LoadShed"),
    ]
}

fn cohort() -> [Panel; 2] {
    [
        table("Cohort")
            .sql("select stage, orders, round(100.0 * orders / nullif(max(orders) over (), 0), 1) as percent
                  from (select count(*) as created, count(*) filter (where confirm_requested) as confirmed,
                  count(*) filter (where paid) as paid, count(*) filter (where given_back) as given_back,
                  count(*) filter (where expired) as expired, count(*) filter (where open) as open
                  from observability.cohort where $__timeFilter(created_at) and order_uuid >= observability.first_id($__timeFrom())) c
                  cross join lateral (values ('1 created', created), ('2 confirm requested', confirmed), ('3 paid', paid),
                  ('4 given back', given_back), ('5 expired', expired), ('6 still open', open)) s (stage, orders)
                  order by stage")
            .column("percent", "percent", "percent")
            .about(
                "Where are the orders of this time now, exactly?",
                "orders created in the chosen time, from the database; unlike the rates above it is a cohort.",
                "trust this one when they differ; many still open: see what is stuck.",
            )
            .to("pay-stock")
            .runbook("StuckInState"),
        table("Time from order to money")
            .sql("select method, count(*) as orders, round(percentile_cont(0.5) within group (order by greatest(seconds_to_paid, 0))::numeric, 1) as half,
                  round(percentile_cont(0.95) within group (order by greatest(seconds_to_paid, 0))::numeric, 1) as most
                  from observability.cohort where $__timeFilter(created_at) and order_uuid >= observability.first_id($__timeFrom()) and paid and method ~ '^(${method:regex})$'
                  group by method order by orders desc")
            .column("half", "half paid within", "s")
            .column("most", "95 % paid within", "s")
            .about(
                "How long does a buyer take from order to payment?",
                "by method, from the database; a PG tells whole seconds.",
                "near the hold's length: the hold is too short for that method.",
            )
            .to("pay-stock")
            .runbook("StuckInState"),
    ]
}
