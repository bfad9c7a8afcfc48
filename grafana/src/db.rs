//! The database and Redis: connections, transactions, waits for rows.

use crate::dashboard::Dashboard;
use crate::panel::{AMBER, GREEN, Panel, RED, heatmap, lines, stack, stat, table};
use crate::query::{age, rate, read, since};

pub fn dashboard() -> Dashboard {
    Dashboard::new("pay-db", "Payments: database", "Is the database the cause, and who holds what?", "DbBlocked")
        .row("Connections", connections())
        .row("Transactions", transactions())
        .row("Waits and locks", locks())
        .row("Where an operation's time goes", steps())
        .row("Dependencies", dependencies())
}

fn connections() -> [Panel; 6] {
    [
        stat("Pool in use").size(8, 4)
            .unit("percentunit")
            .query(r#"max(max by (instance) (db_client_connection_count{@,state="used"}) / max by (instance) (db_client_connection_max{@}))"#, "")
            .colours(GREEN, &[(0.8, AMBER), (1.0, RED)])
            .about(
                "Is the pool full?",
                "the fullest process: connections in use among those allowed.",
                "full and waiting: find who holds them by transactions; a bigger pool only moves the queue.",
            )
            .to("pay-runtime")
            .runbook("PoolSaturated"),
        stat("Waiting for a connection").size(8, 4).below()
            .query("sum(db_client_connection_pending_requests{@})", "")
            .colours(GREEN, &[(1.0, AMBER), (10.0, RED)])
            .about(
                "Does anybody wait for a connection?",
                "callers that wait now.",
                "with the pool full and the wait above 0.1 s it is saturated.",
            )
            .to("pay-runtime")
            .runbook("PoolSaturated"),
        lines("Connections")
            .query("sum by (state) (db_client_connection_count{@})", "{{state}}")
            .query("sum(db_client_connection_max{@})", "most")
            .about(
                "How are the pools used?",
                "connections of all processes by state, and the most.",
                "idle none and used at the most: saturated.",
            )
            .to("pay-runtime")
            .runbook("PoolSaturated"),
        lines("Wait for a connection")
            .unit("s")
            .quantiles("db_client_connection_wait_time_seconds", "@", "")
            .colours(GREEN, &[(0.1, RED)])
            .about(
                "Is the pool starved?",
                "half to 999 of 1000 callers waited less.",
                "above 0.1 s: see which transactions are long.",
            )
            .to("pay-runtime")
            .runbook("PoolSaturated"),
        lines("Callers that got none")
            .size(12, 7)
            .unit("reqps")
            .query("sum(rate(db_client_connection_timeouts_total{@}[@]))", "timed out")
            .zero("no caller of a healthy run gives up")
            .about(
                "Does anybody give up waiting?",
                "callers per second that never got a connection: a failed request each.",
                "the pool is exhausted or the database is away: see the dependencies below.",
            )
            .to("pay-overview")
            .runbook("PoolSaturated"),
        lines("Connections of the server")
            .size(12, 7)
            .query(read("payments_db_server_connections", ""), "open")
            .query(read("payments_db_server_connections_max", ""), "most")
            .about(
                "Does the server have connections left?",
                "all sessions of the database server, ours and others.",
                "near the most: somebody else leaks, or too many processes of ours.",
            )
            .to("pay-runtime")
            .runbook("PoolSaturated"),
    ]
}

fn transactions() -> [Panel; 5] {
    let of = "payments_db_transaction_duration_seconds";
    [
        stack("Transactions per second")
            .unit("ops")
            .query(r#"sum by (tx, result) (payments:db_transactions:rate1m{job=~"$job"})"#, "{{tx}} {{result}}")
            .about(
                "What does the database do for us?",
                "transactions per second by name and end, each a commit or a rollback.",
                "rollbacks grow: conflicts or errors; compare with the operations beside it.",
            )
            .to("pay-overview")
            .runbook("DbBlocked"),
        stack("API operations per second")
            .unit("reqps")
            .query(
                r#"sum by (operation, outcome) (payments:operations:rate1m{job=~"$job",operation=~"$operation"})"#,
                "{{operation}} {{outcome}}",
            )
            .about(
                "What do callers make us do?",
                "operations per second by outcome; a confirm is two transactions, a read is none here.",
                "operations stay and transactions grow: retries or a worker that spins.",
            )
            .to("pay-overview")
            .runbook("TrafficDropped"),
        lines("p99 by transaction")
            .unit("s")
            .query(format!("histogram_quantile(0.99, sum by (le, tx) (rate({of}_bucket{{@}}[@])))"), "{{tx}}")
            .about(
                "Which transaction is long?",
                "99 of 100 were shorter; dots are traces.",
                "one is long: its locks or its statements; all are long: the server.",
            )
            .to("pay-affected")
            .runbook("LongTransaction"),
        lines("Time of a transaction")
            .size(12, 8)
            .unit("s")
            .quantiles(of, r#"@,tx=~"confirm_.*|cancel_.*|order_place.*|webhook_apply""#, "")
            .about(
                "Are the transactions that move money fast?",
                "half to 999 of 1000 were shorter.",
                "above 0.1 s buyers feel it: see waits for rows below.",
            )
            .to("pay-overview")
            .runbook("DbBlocked"),
        lines("Conflicts and retries")
            .size(12, 8)
            .unit("ops")
            .query(rate("payments_db_transaction_contention_total", "@", "tx, reason"), "{{tx}} {{reason}}")
            .query(rate("payments_db_transaction_retries_total", "@", "tx"), "{{tx}} again")
            .about(
                "Do transactions make each other fail?",
                "per second by reason, and those tried again.",
                "a deadlock is a defect, since locks have one order; timeouts follow long holders.",
            )
            .to("pay-affected")
            .runbook("DeadlockSeen"),
    ]
}

fn locks() -> [Panel; 4] {
    [
        lines("Wait for rows, p99")
            .size(10, 8)
            .unit("s")
            .query(
                "histogram_quantile(0.99, sum by (le, resource) (rate(payments_db_lock_wait_seconds_bucket{@}[@])))",
                "{{resource}}",
            )
            .about(
                "Whose rows are fought for?",
                "statements that lock rows: 99 of 100 took less, by what they lock.",
                "product: a hot one, see stock; order or payment: a client sends the same twice.",
            )
            .to("pay-stock")
            .runbook("DbBlocked"),
        heatmap("Wait for rows")
            .size(6, 8)
            .unit("s")
            .query("sum by (le) (increase(payments_db_lock_wait_seconds_bucket{@}[@]))", "{{le}}")
            .about(
                "Do all wait, or a few?",
                "darker is more statements.",
                "a band at the lock's time limit: somebody holds a row and does not end.",
            )
            .to("pay-stock")
            .runbook("DbBlocked"),
        stat("Sessions blocked")
            .size(4, 8)
            .query(read("payments_db_blocked_sessions", ""), "")
            .colours(GREEN, &[(1.0, AMBER), (5.0, RED)])
            .about(
                "Is anybody stopped by another session?",
                "sessions that wait for a lock now.",
                "more than five for a minute: find the holder with the runbook's query and end it.",
            )
            .to("pay-affected")
            .runbook("DbBlocked"),
        stat("Oldest transaction")
            .size(4, 8)
            .unit("s")
            .query(age("payments_db_oldest_transaction_timestamp_seconds", ""), "")
            .colours(GREEN, &[(10.0, AMBER), (60.0, RED)])
            .about(
                "Does somebody keep a transaction open?",
                "age of the server's oldest transaction; 0 is none.",
                "above a minute: a person's session or a backup; it stops cleaning and may hold rows.",
            )
            .to("pay-affected")
            .runbook("LongTransaction"),
    ]
}

fn steps() -> [Panel; 3] {
    [
        stack("Mean time by step")
            .unit("s")
            .query(r#"sum by (step) (rate(payments_step_duration_seconds_sum{@,operation=~"$operation"}[@])) / ignoring (step) group_left () (sum(rate(payments_operation_duration_seconds_count{@,operation=~"$operation"}[@])) > 0)"#, "{{step}}")
            .about(
                "Which step takes the time of the chosen operations?",
                "mean seconds per operation; the steps together are the whole.",
                "pool_wait: too few connections; lock_wait: hot rows; statements: a lost index; pg_call: not the database.",
            )
            .to("pay-pg")
            .runbook("ConfirmLatencyBurn"),
        lines("p95 by step")
            .unit("s")
            .query(r#"histogram_quantile(0.95, sum by (le, step) (rate(payments_step_duration_seconds_bucket{@,operation=~"$operation"}[@])))"#, "{{step}}")
            .about(
                "Which step is slow for the unlucky?",
                "95 of 100 were faster; dots are traces.",
                "a step far above its mean comes in bursts: compare with worker rounds.",
            )
            .to("pay-events")
            .runbook("ConfirmLatencyBurn"),
        lines("Time that no step explains")
            .unit("percentunit")
            .query(r#"sum by (operation) (rate(payments_step_duration_seconds_sum{@,operation=~"$operation",step="unattributed"}[@])) / (sum by (operation) (rate(payments_step_duration_seconds_sum{@,operation=~"$operation"}[@])) > 0)"#, "{{operation}}")
            .colours(GREEN, &[(0.02, AMBER)])
            .about(
                "Does the budget of steps tell the truth?",
                "share of the time in no step; promised are less than 2 %.",
                "above the line a step is not measured, or the process waits for its CPU: see the loop's lag.",
            )
            .to("pay-runtime")
            .runbook("EventLoopLag"),
    ]
}

fn dependencies() -> [Panel; 4] {
    [
        stat("Reachable")
            .size(6, 7)
            .query("min by (dependency) (payments_dependency_up{@})", "{{dependency}}")
            .words(&[(0, "away", RED), (1, "up", GREEN)])
            .colours(RED, &[(1.0, GREEN)])
            .about(
                "Do all processes reach what they need?",
                "the worst answer of any process; Redis is only there where it is configured.",
                "database away: everything stops; Redis away: limits are local, money goes on.",
            )
            .to("pay-runtime")
            .runbook("RedisDown"),
        stat("Last checked")
            .size(6, 7)
            .unit("s")
            .query(since("payments_dependency_last_check_timestamp_seconds", "@", "dependency"), "{{dependency}}, ago")
            .colours(GREEN, &[(30.0, AMBER), (120.0, RED)])
            .about(
                "Is `reachable` current?",
                "seconds since somebody last looked.",
                "old: the figure beside it is worth nothing; see the processes.",
            )
            .to("pay-runtime")
            .runbook("TargetDown"),
        lines("Done without Redis")
            .size(6, 7)
            .unit("ops")
            .query(rate("payments_redis_fallbacks_total", "@", "feature, reason"), "{{feature}} {{reason}}")
            .zero("Redis is there in a healthy run")
            .about(
                "What did we do without Redis?",
                "decisions per second that each process made alone.",
                "limits are looser meanwhile; bring Redis back, nothing else is needed.",
            )
            .to("pay-runtime")
            .runbook("RedisDown"),
        table("Open transactions")
            .size(6, 7)
            .sql("select pid, state, waits_for, blocked_by, seconds from observability.sessions order by seconds desc limit 20")
            .empty("no open transaction")
            .drill("no transaction is open for long while all is well")
            .column("seconds", "open for", "s")
            .column("pid", "session", "string")
            .about(
                "Who holds a transaction now?",
                "our sessions with an open transaction, without their text.",
                "end the oldest with the runbook's statement if it blocks others.",
            )
            .to("pay-affected")
            .runbook("LongTransaction"),
    ]
}
