//! One payment from end to end: state, traces, logs, webhooks.

use crate::dashboard::Dashboard;
use crate::panel::{AMBER, GREEN, GREY, Panel, RED, lines, logs, stat, table, text};

const DRILL: &str = "empty until a payment is chosen";

pub fn dashboard() -> Dashboard {
    Dashboard::new("pay-payment", "Payments: one payment", "What happened to this payment?", "DoubtStuck")
        .row("Where it stands", standing())
        .row("What happened", history())
        .row("Where the time went", signals())
}

fn standing() -> [Panel; 6] {
    let one = |column: &str| {
        format!(
            "select {column} from observability.payments where payment = observability.id_of(${{payment_id:sqlstring}})"
        )
    };
    [
        text("How to use this page").size(24, 3).says(
            "Put a payment's id (`pay_…`) into **Payment** above. It stands on every dot of a latency panel, in each row \
             of *who is hit*, in log lines and on spans.\n\nNames, account numbers and secrets are not shown here, and \
             the customer is a hash that is the same on all rows.",
        )
        .about(
            "How do I get one payment here?",
            "the variable Payment chooses it; all panels follow.",
            "come from a dot, a row or a page; or paste the id.",
        )
        .to("pay-affected")
        .runbook("DoubtStuck"),
        table("The payment")
            .size(24, 4)
            .sql(&one("status, method, amount, currency, approved_amount as approved, canceled_amount as canceled, canceling_amount as canceling, doubt, decline_class, decline_code, order_id, customer, provider, provider_key, created_at, trace_id"))
            .empty("no such payment")
            .drill(DRILL)
            .each_trace()
            .about(
                "What is this payment?",
                "the row as the database has it, masked.",
                "amounts that differ from the order are the audit's business.",
            )
            .to("pay-stock")
            .runbook("DoubtStuck"),
        stat("Age of its doubt")
            .size(6, 4)
            .unit("s")
            .sql(&one("case when doubt is null then 0 else extract(epoch from now() - updated_at) end as seconds"))
            .colours(GREEN, &[(1.0, AMBER), (300.0, RED)])
            .empty("no such payment")
            .drill(DRILL)
            .about(
                "Is its outcome certain?",
                "0 is certain; otherwise seconds since the last change.",
                "`paygauge inquire` asks the PG now; never confirm again by hand.",
            )
            .to("pay-events")
            .runbook("DoubtStuck"),
        stat("Times asked about")
            .size(6, 4)
            .sql(&one("inquiries"))
            .colours(GREEN, &[(3.0, AMBER), (20.0, RED)])
            .empty("no such payment")
            .drill(DRILL)
            .about(
                "How often was the PG asked about it?",
                "inquiries of recovery.",
                "many: the PG does not know it or does not answer; see the inquiries of all.",
            )
            .to("pay-events")
            .runbook("DoubtStuck"),
        stat("Tries to confirm")
            .size(6, 4)
            .sql(&one("confirm_attempt"))
            .colours(GREEN, &[(2.0, AMBER)])
            .empty("no such payment")
            .drill(DRILL)
            .about(
                "How often was it sent?",
                "grows only after a certain `nothing happened`; it is never two charges.",
                "many: the network lost them, or the breaker was open.",
            )
            .to("pay-pg")
            .runbook("PgDown"),
        stat("Given back")
            .size(6, 4)
            .unit("locale")
            .sql(&one("canceled_amount, canceling_amount"))
            .colours(GREY, &[(1.0, AMBER)])
            .empty("no such payment")
            .drill(DRILL)
            .about(
                "Did money go back, or is it on its way?",
                "minor units given back, and in an undecided cancellation.",
                "on its way for long: see the cancellations below.",
            )
            .to("pay-stock")
            .runbook("CancelBudgetBurn"),
    ]
}

fn history() -> [Panel; 4] {
    [
        table("Timeline")
            .size(24, 10)
            .sql("select at, source, what, from_status, to_status, actor, note, trace_id from observability.timeline
                  where payment = observability.id_of(${payment_id:sqlstring}) order by at, seq limit 200")
            .empty("no such payment")
            .drill(DRILL)
            .each_trace()
            .about(
                "What happened, in order?",
                "changes of the order, the payment and its cancellations, webhooks and findings on one axis; who did it, and its trace.",
                "the last row says what it waits for; follow its trace.",
            )
            .to("pay-affected")
            .runbook("StuckInState"),
        table("Cancellations")
            .size(24, 6)
            .sql("select cancellation_id, status, amount, currency, moved_amount, origin, attempt, inquiries, doubt, refusal_class, refusal_code, created_at, trace_id
                  from observability.cancellations where payment = observability.id_of(${payment_id:sqlstring}) order by created_at")
            .empty("none")
            .drill(DRILL)
            .each_trace()
            .about(
                "What was given back, and why?",
                "each cancellation with its origin and end.",
                "refused: the PG's class says why; requested for long: recovery asks.",
            )
            .to("pay-stock")
            .runbook("CancelBudgetBurn"),
        table("Webhooks")
            .size(12, 6)
            .sql("select received_at, outcome, attempts, processed_at, trace_id from observability.webhooks
                  where payment = observability.id_of(${payment_id:sqlstring}) order by received_at")
            .empty("none")
            .drill(DRILL)
            .each_trace()
            .about(
                "What did the PG tell us by itself?",
                "deliveries that changed this payment or named its order.",
                "without an outcome: not read yet.",
            )
            .to("pay-events")
            .runbook("WebhookBacklog"),
        table("Findings")
            .size(12, 6)
            .sql("select kind, status, amount, currency, first_seen_at, last_seen_at, trace_id from observability.findings
                  where payment = observability.id_of(${payment_id:sqlstring}) order by first_seen_at")
            .empty("none")
            .drill(DRILL)
            .each_trace()
            .about(
                "Did the PG's books differ from ours?",
                "what reconciliations found about it.",
                "waiting: a person has to decide; `paygauge explain` says what.",
            )
            .to("pay-stock")
            .runbook("FindingsOpen"),
    ]
}

fn signals() -> [Panel; 4] {
    [
        table("Traces")
            .traces(r#"{ span.payments.payment.id = "$payment_id" }"#)
            .empty("no trace was kept")
            .drill(DRILL)
            .about(
                "Which traces touched it?",
                "confirm, inquiries, webhooks and cancels, each a trace of its own, linked.",
                "open the longest; the timeline has ids of those that were not kept.",
            )
            .to("pay-pg")
            .runbook("ConfirmLatencyBurn"),
        table("Others of the same customer")
            .sql("select o.created_at, o.payment_id, o.status, o.amount, o.currency, o.trace_id from observability.payments o
                  join observability.payments p on p.customer = o.customer and p.payment <> o.payment
                  where p.payment = observability.id_of(${payment_id:sqlstring}) order by o.created_at desc limit 20")
            .empty("none known")
            .drill(DRILL)
            .each_payment()
            .each_trace()
            .about(
                "Did the same customer pay twice?",
                "payments with the same hash of the customer.",
                "two approved for one cart: the shop decides which goes back.",
            )
            .to("pay-affected")
            .runbook("ReversalOpened"),
        logs("Log lines")
            .lines_of(r#"{service="paygauge"} | json | payment_id=`$payment_id`"#)
            .empty("no line")
            .drill(DRILL)
            .about(
                "What did the processes say about it?",
                "lines that name the payment, newest first.",
                "an error wants a person; its trace id leads on.",
            )
            .to("pay-runtime")
            .runbook("LogLinesDropped"),
        lines("Time of confirms around it")
            .size(24, 7)
            .unit("s")
            .quantiles("payments_operation_duration_seconds", r#"@,operation="confirm""#, "")
            .about(
                "Was it slow for all at that time?",
                "confirms of all payments; dots lead to payments like this one.",
                "set the time to the minutes around its timeline.",
            )
            .to("pay-overview")
            .runbook("ConfirmLatencyBurn"),
    ]
}
