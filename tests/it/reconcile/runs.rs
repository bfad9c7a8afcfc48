//! The runs themselves: pages, windows, failures, deaths, rivals, the schedule, and the command.

use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use paygauge::config::Settings;
use paygauge::payments::reconcile::{self, Span};
use paygauge::telemetry::labels::ReconcileOutcome;
use pg_mock::{Behaviour, Options, Rule, WebhookMode};
use reqwest::StatusCode;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::{all, brief, close_disagreeing, confirm_there, deaf, lately, one, origin, run, run_twice, settings};
use crate::support::eventually;
use crate::support::served::Served;
use crate::support::shop::{PATIENCE, Shop, ShopOptions, WINDOW, confirm_body};

fn server_error() -> Behaviour {
    Behaviour::ErrorBefore { status: 500, code: "COMMON_ERROR".to_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_many_pages_that_breaks_in_the_middle_is_read_again_from_the_start() {
    for (list_newest_first, list_unsigned_cancels) in [(false, false), (true, true)] {
        let mock = Options { list_newest_first, list_unsigned_cancels, ..Options::default() };
        let options =
            ShopOptions { worker: false, webhooks: false, settings: settings(), mock, ..ShopOptions::default() };
        let shop = Shop::with(options).await;
        let product = shop.product(12_000, 9).await;
        for _ in 0..4 {
            let (order, payment) = shop.paid(&product, 1).await;
            shop.cancel(&payment, &json!({ "reason": "ours", "amount": 500 })).await.expect(StatusCode::OK);
            shop.mock.cancel_in_console(&shop.payment_key(&order.id), 1_000);
        }
        // A list has no fields to miss, so this rule only lets the first two pages pass.
        shop.mock.script(Rule::transactions(Behaviour::MissingFields { fields: Vec::new() }).times(2));
        shop.mock.script(Rule::transactions(server_error()));
        let broken = reconcile::run(shop.running.app(), Span::Next, &origin()).await.expect("a run");
        assert_eq!((broken.outcome, broken.transactions), (ReconcileOutcome::Incomplete, 4));
        assert!(broken.filed < 4, "{broken:?}");
        assert_eq!(shop.count("select count(*) from reconciliations where reconciled_until is not null").await, 0);
        let whole = reconcile::run(shop.running.app(), Span::Next, &origin()).await.expect("a run");
        assert_eq!((whole.outcome, whole.transactions), (ReconcileOutcome::Complete, 12));
        assert_eq!((broken.filed + whole.filed, broken.repaired + whole.repaired), (4, 4));
        assert_eq!(run_twice(&shop).await.filed, 0);
        shop.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_cannot_be_trusted_files_nothing() {
    let shop = deaf(settings()).await;
    let product = shop.product(12_000, 5).await;
    shop.paid(&product, 1).await;
    for behaviour in [
        server_error(),
        Behaviour::Garbage,
        Behaviour::DropBefore,
        Behaviour::HtmlError { status: 200 },
        Behaviour::TooManyRequests { retry_after_s: 1 },
        Behaviour::ErrorBefore { status: 401, code: "UNAUTHORIZED_KEY".to_owned() },
    ] {
        shop.mock.script(Rule::transactions(behaviour.clone()));
        let report = run(&shop).await;
        assert_eq!((report.outcome, report.filed), (ReconcileOutcome::Incomplete, 0), "{behaviour:?}");
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inquiry_that_says_nothing_files_nothing_and_is_asked_again() {
    let shop = deaf(settings()).await;
    let product = shop.product(12_000, 5).await;
    let (order, payment) = shop.paid(&product, 1).await;
    shop.mock.cancel_in_console(&shop.payment_key(&order.id), 1_000);
    shop.mock.script(Rule::lookup(server_error()));
    let report = reconcile::run(shop.running.app(), Span::Next, &origin()).await.expect("a run");
    assert_eq!((report.outcome, report.filed), (ReconcileOutcome::Incomplete, 0));
    assert_eq!(shop.payment_now(&payment).await.number("canceledAmount"), 0);
    // Filed, repaired, and then the PG does not say whether it worked: the next run finds out.
    shop.mock.script(Rule::lookup(Behaviour::MissingFields { fields: vec!["easyPay".to_owned()] }));
    shop.mock.script(Rule::lookup(server_error()));
    let report = run(&shop).await;
    assert_eq!(report.outcome, ReconcileOutcome::Incomplete);
    assert_eq!(brief(&shop).await, one("canceled_there_only", "open", 1_000));
    assert_eq!(run_twice(&shop).await.repaired, 1);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn payments_that_the_pg_cannot_show_do_not_hide_the_others() {
    let shop = deaf(settings()).await;
    for number in 0..6 {
        let order = format!("somebody-elses-{number}");
        let key = shop.mock.pay(&order, 9_000);
        confirm_there(&shop, &key, &order, 9_000).await;
        shop.mock.script(Rule::lookup(Behaviour::Garbage).for_payment(key).always());
        let product = shop.product(12_000, 5).await;
        let (order, _) = shop.paid(&product, 1).await;
        shop.mock.cancel_in_console(&shop.payment_key(&order.id), 1_000);
    }
    let report = run(&shop).await;
    assert_eq!((report.outcome, report.filed, report.repaired), (ReconcileOutcome::Incomplete, 6, 6));
    close_disagreeing(shop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_cannot_be_booked_does_not_hide_the_others() {
    let shop = deaf(settings()).await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    shop.mock.script(Rule::confirm(Behaviour::ApproveThenDrop));
    shop.confirm(&order, &key).await.expect(StatusCode::ACCEPTED);
    // Its transaction is booked on another payment already.
    shop.paid(&product, 1).await;
    let transaction = shop.mock.payment_json(&key).expect("a payment")["lastTransactionKey"].clone();
    let transaction = transaction.as_str().expect("a key");
    let taken = format!("update payments set provider_transaction_key = '{transaction}' where status = 'approved'");
    shop.sql(&taken).await;
    let (other, _) = shop.paid(&product, 1).await;
    shop.mock.cancel_in_console(&shop.payment_key(&other.id), 1_000);
    let report = run(&shop).await;
    assert_eq!((report.outcome, report.repaired), (ReconcileOutcome::Incomplete, 1));
    close_disagreeing(shop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ends_of_a_window_belong_to_it() {
    let shop = deaf(settings()).await;
    let key = shop.mock.pay("somebody-elses-order", 9_000);
    confirm_there(&shop, &key, "somebody-elses-order", 9_000).await;
    let at = shop.mock.book().payments[0].approvals[0].approved_at;
    let second = |offset: i64| DateTime::<Utc>::from_timestamp(at.timestamp() + offset, 0).expect("a time");
    // The window ends with what has settled: let the second after it pass.
    eventually("two seconds pass", PATIENCE, async || (Utc::now() > second(2)).then_some(())).await;
    for (from, until, rows) in [(-9, -1, 0), (1, 2, 0), (-9, 0, 1), (0, 0, 1), (0, 2, 1)] {
        let span = Span::Between { from: second(from), until: second(until) };
        let report = reconcile::run(shop.running.app(), span, &origin()).await.expect("a run");
        assert_eq!(report.transactions, rows, "{from} to {until}");
    }
    assert_eq!(brief(&shop).await.len(), 1);
    close_disagreeing(shop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_on_where_the_last_one_ended_with_some_overlap() {
    for (overlap_s, found) in [(0, 0), (600, 1)] {
        let settings = Settings { reconcile_overlap: Duration::from_secs(overlap_s), ..settings() };
        let shop = deaf(settings).await;
        let product = shop.product(12_000, 5).await;
        let (order, _) = shop.paid(&product, 1).await;
        let report = reconcile::run(shop.running.app(), Span::Next, &origin()).await.expect("a run");
        let until = report.window.expect("a window").until;
        let kept = format!(
            "select count(*) from reconciliations where reconciled_until = to_timestamp({})",
            until.timestamp()
        );
        assert_eq!(shop.count(&kept).await, 1);
        shop.mock.cancel_in_console(&shop.payment_key(&order.id), 1_000);
        let canceled = shop.mock.book().payments[0].cancels[0].canceled_at;
        // As if the PG listed it only now, after its own second was compared.
        eventually("its second is over", PATIENCE, async || {
            (Utc::now() > canceled + TimeDelta::seconds(2)).then_some(())
        })
        .await;
        shop.sql("update reconciliations set reconciled_until = date_trunc('second', now())").await;
        let report = reconcile::run(shop.running.app(), Span::Next, &origin()).await.expect("a run");
        assert_eq!(report.filed, found, "overlap of {overlap_s} s");
        run(&shop).await;
        shop.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_under_way_is_no_difference_and_nothing_behind_it_counts_as_compared() {
    let settings = Settings { reconcile_patience: Duration::from_secs(600), ..settings() };
    let shop = deaf(settings).await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    shop.mock.script(Rule::confirm(Behaviour::ApproveThenDrop));
    shop.confirm(&order, &key).await.expect(StatusCode::ACCEPTED);
    let (_, payment) = shop.paid(&product, 1).await;
    shop.mock.script(Rule::cancel(Behaviour::ApproveThenDrop));
    shop.cancel(&payment, &json!({ "reason": "back", "amount": 2_000 })).await.expect(StatusCode::ACCEPTED);
    let approved = shop.mock.book().of_order(&order.id).next().expect("a payment").approvals[0].approved_at;
    eventually("its second is over", PATIENCE, async || (Utc::now() > approved + TimeDelta::seconds(2)).then_some(()))
        .await;
    let report = reconcile::run(shop.running.app(), Span::Next, &origin()).await.expect("a run");
    assert_eq!((report.outcome, report.filed, report.in_flight), (ReconcileOutcome::Complete, 0, 2));
    let held =
        format!("select count(*) from reconciliations where reconciled_until = to_timestamp({})", approved.timestamp());
    assert_eq!(shop.count(&held).await, 1, "the next run looks at them again");
    super::recover(&shop).await;
    assert_eq!(run_twice(&shop).await.filed, 0);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_shop_gives_no_false_alarm() {
    let settings =
        Settings { reconcile_settle: Duration::ZERO, reconcile_page_rows: 7, ..crate::support::shop::settings() };
    let shop = Arc::new(Shop::with(ShopOptions { webhooks: false, settings, ..ShopOptions::default() }).await);
    let product = shop.product(1_000, 10_000).await;
    for behaviour in [
        Behaviour::Delay { ms: 150 },
        Behaviour::ApproveThenDrop,
        Behaviour::ApproveThenHang { ms: 200 },
        Behaviour::DropBefore,
        Behaviour::ErrorAfter { status: 500, code: "FAILED_INTERNAL_SYSTEM_PROCESSING".to_owned() },
    ] {
        shop.mock.script(Rule::confirm(behaviour.clone()).times(4));
        shop.mock.script(Rule::cancel(behaviour).times(2));
    }
    let runs = Arc::new(AtomicUsize::new(0));
    let buyers: Vec<_> = (0..6)
        .map(|_| {
            let (shop, product, runs) = (Arc::clone(&shop), product.clone(), Arc::clone(&runs));
            tokio::spawn(async move {
                // However fast they are, some runs are beside them.
                for round in (0..).take_while(|round| *round < 8 || runs.load(Ordering::Relaxed) < 4) {
                    let order = shop.order(&product, 2).await;
                    let key = shop.pay(&order);
                    let answer = order.buyer.post("/v1/payments/confirm", &confirm_body(&order, &key)).await;
                    if answer.status == StatusCode::OK {
                        let part = json!({ "reason": "part", "amount": 300 });
                        let rest = json!({ "reason": "all of it" });
                        shop.cancel(&answer.text("id"), if round % 2 == 0 { &part } else { &rest }).await;
                    }
                }
            })
        })
        .collect();
    while buyers.iter().any(|buyer| !buyer.is_finished()) {
        let report = run(&shop).await;
        assert_eq!((report.outcome, report.filed), (ReconcileOutcome::Complete, 0), "{:?}", all(&shop).await);
        runs.fetch_add(1, Ordering::Relaxed);
    }
    for buyer in buyers {
        buyer.await.expect("a buyer");
    }
    crate::support::invariants::quiet(&crate::support::shop::invariants_client(&shop.database).await).await;
    assert_eq!(run_twice(&shop).await.filed, 0);
    Arc::into_inner(shop).expect("the last owner").close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_at_once_are_one_run() {
    let patient = ShopOptions::waiting_for_the_pg();
    let long = patient.settings.provider_deadline;
    let settings = Settings { provider_deadline: long, worker_lease: long, ..settings() };
    let shop = Shop::with(ShopOptions { worker: false, webhooks: false, settings, ..patient }).await;
    let product = shop.product(12_000, 5).await;
    let (order, _) = shop.paid(&product, 1).await;
    shop.mock.cancel_in_console(&shop.payment_key(&order.id), 1_000);
    shop.mock.script(Rule::transactions(WINDOW));
    let app = shop.running.app();
    let origin = origin();
    let slow = reconcile::run(app, lately(), &origin);
    let rival = async {
        let asked = async || (shop.mock.book().calls.transactions > 0).then_some(());
        eventually("the first is at it", PATIENCE, asked).await;
        reconcile::run(app, lately(), &origin).await
    };
    let (slow, rival) = tokio::join!(slow, rival);
    let (slow, rival) = (slow.expect("a run"), rival.expect("a run"));
    assert_eq!((slow.outcome, slow.repaired), (ReconcileOutcome::Complete, 1));
    assert_eq!((rival.outcome, rival.filed), (ReconcileOutcome::Busy, 0));
    assert_eq!(run_twice(&shop).await.filed, 0);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_that_overlap_after_all_write_nothing_twice() {
    let shop = deaf(settings()).await;
    let product = shop.product(12_000, 9).await;
    for _ in 0..4 {
        let (order, _) = shop.paid(&product, 1).await;
        shop.mock.cancel_in_console(&shop.payment_key(&order.id), 12_000);
    }
    let app = shop.running.app();
    let mut runs = Vec::new();
    for _ in 0..3 {
        let app = Arc::clone(app);
        runs.push(tokio::spawn(async move { reconcile::run(&app, lately(), &origin()).await }));
        // As if its lease had run out while it was held up.
        shop.sql("update reconciliations set lease_until = now() - interval '1 second'").await;
    }
    let mut filed = 0;
    for run in runs {
        filed += run.await.expect("a task").expect("a run").filed;
    }
    filed += run(&shop).await.filed;
    assert_eq!(filed, 4);
    assert_eq!(shop.count("select count(*) from findings where status = 'repaired'").await, 4);
    assert_eq!(shop.count("select count(*) from cancellations").await, 4);
    assert_eq!(run_twice(&shop).await.filed, 0);
    shop.close().await;
}

/// `paygauge reconcile …` against this shop's database and PG.
fn command(shop: &Shop, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_paygauge"))
        .arg("reconcile")
        .args(arguments)
        .env_clear()
        .env("PAYGAUGE_ENV", "test")
        .env("DATABASE_URL", shop.database.url.expose_secret())
        .env("TOSS_BASE_URL", shop.mock.url())
        .env("TOSS_SECRET_KEY", "test_sk_mock")
        .env("PAYGAUGE_RECONCILE_SETTLE_SECONDS", "1")
        .envs(variables.iter().copied())
        .output()
        .expect("the program")
}

/// Lets everything that has happened settle for the command, for which a second is the least.
async fn settled() {
    let now = Utc::now();
    eventually("it settles", PATIENCE, async || (Utc::now() > now + TimeDelta::milliseconds(2_100)).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_says_by_its_exit_code_whether_anything_is_open() {
    let shop = deaf(settings()).await;
    let product = shop.product(12_000, 5).await;
    let (order, _) = shop.paid(&product, 1).await;
    settled().await;
    let clean = command(&shop, &["--hours", "1"], &[]);
    assert_eq!(clean.status.code(), Some(0), "{clean:?}");
    assert!(String::from_utf8_lossy(&clean.stdout).contains("nothing is open"), "{clean:?}");
    let key = shop.mock.pay("somebody-elses-order", 9_000);
    confirm_there(&shop, &key, "somebody-elses-order", 9_000).await;
    shop.mock.cancel_in_console(&shop.payment_key(&order.id), 1_000);
    settled().await;
    let open = command(&shop, &["--json"], &[]);
    assert_eq!(open.status.code(), Some(1), "{open:?}");
    let said: Value = serde_json::from_slice(&open.stdout).expect("JSON");
    assert_eq!((&said["run"]["outcome"], &said["run"]["filed"]), (&json!("complete"), &json!(2)), "{said}");
    assert_eq!((&said["run"]["repaired"], &said["run"]["transactions"]), (&json!(1), &json!(3)), "{said}");
    assert_eq!(said["findings"].as_array().map(Vec::len), Some(1));
    assert_eq!(said["findings"][0]["kind"], "missing_here");
    let listed = command(&shop, &["--list"], &[]);
    assert_eq!(listed.status.code(), Some(1), "{listed:?}");
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(text.contains("missing_here") && text.contains("somebody-elses-order"), "{text}");
    let id = said["findings"][0]["id"].as_str().expect("an id");
    let close = format!("/v1/findings/{id}/close");
    shop.secret.post(&close, &json!({ "reason": "another shop's" })).await.expect(StatusCode::OK);
    let (from, to) = ((Utc::now() - TimeDelta::hours(1)).to_rfc3339(), Utc::now().to_rfc3339());
    let settled = command(&shop, &["--from", &from, "--to", &to], &[]);
    assert_eq!(settled.status.code(), Some(0), "{settled:?}");
    close_disagreeing(shop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_says_when_it_could_not_find_out() {
    let shop = deaf(settings()).await;
    for (arguments, variables) in [
        (&["--hours", "1"][..], &[("TOSS_BASE_URL", "http://127.0.0.1:1")][..]),
        (&["--hours", "1"], &[("DATABASE_URL", "postgres://127.0.0.1:1/none")]),
        (&["--hours", "1"], &[("TOSS_SECRET_KEY", "live_sk_x")]),
        (&["--hours", "0"], &[]),
        (&["--from", "2026-05-04T00:00:00Z"], &[]),
        (&["--from", "2026-05-04T00:00:00Z", "--to", "2026-05-03T00:00:00Z"], &[]),
        (&["--from", "yesterday", "--to", "today"], &[]),
        (&["--list", "--hours", "1"], &[]),
    ] {
        let output = command(&shop, arguments, variables);
        assert_eq!(output.status.code(), Some(2), "{arguments:?} {variables:?}: {output:?}");
    }
    shop.sql(
        "insert into reconciliations (provider, next_run_at, lease_owner, lease_until)
              values ('toss', now(), gen_random_uuid(), now() + interval '1 minute')
              on conflict (provider) do update set lease_owner = gen_random_uuid(),
                  lease_until = now() + interval '1 minute'",
    )
    .await;
    let busy = command(&shop, &["--hours", "1"], &[]);
    assert_eq!(busy.status.code(), Some(2), "{busy:?}");
    assert!(String::from_utf8_lossy(&busy.stdout).contains("another run is under way"), "{busy:?}");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_killed_anywhere_is_finished_by_the_next_one() {
    let shop = deaf(settings()).await;
    let product = shop.product(12_000, 50).await;
    for point in [
        "pg_list.calling",
        "pg_list.answered",
        "pg_inquire.answered",
        "reconcile.uncommitted",
        "reconcile.committed",
        "confirm_resolve.uncommitted",
        "confirm_resolve.committed",
        "lease.committed",
    ] {
        let (order, _) = shop.paid(&product, 1).await;
        shop.mock.cancel_in_console(&shop.payment_key(&order.id), 12_000);
        settled().await;
        let killed = command(&shop, &["--hours", "1"], &[("PAYGAUGE_CRASH_AT", point)]);
        assert_eq!(killed.status.code(), None, "{point}: {killed:?}");
        // The dead run's turn ends with its lease.
        shop.sql("update reconciliations set lease_until = now() - interval '1 second'").await;
        let next = command(&shop, &["--hours", "1"], &[]);
        assert_eq!(next.status.code(), Some(0), "{point}: {next:?}");
        assert_eq!(shop.order_now(&order.id).await.text("status"), "canceled", "{point}");
    }
    assert_eq!(shop.count("select count(*) from findings where status = 'repaired'").await, 8);
    assert_eq!(shop.count("select count(*) from findings").await, 8);
    assert_eq!(shop.count("select count(*) from cancellations").await, 8);
    assert_eq!(run_twice(&shop).await.filed, 0);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_reconciles_by_itself_and_shows_it() {
    let served =
        Served::start(&[("PAYGAUGE_RECONCILE_SECONDS", "1"), ("PAYGAUGE_RECONCILE_SETTLE_SECONDS", "1")]).await;
    served.mock.webhooks(WebhookMode::Off);
    let body = json!({ "name": "Beans", "price": 12_000, "initialStock": 5 });
    let product = served.secret.post("/v1/products", &body).await.expect(StatusCode::CREATED).text("id");
    let lines = json!({ "lines": [{ "productId": product, "quantity": 1 }] });
    let order = served.secret.post_with_key("/v1/orders", &lines).await.expect(StatusCode::CREATED).text("id");
    let key = served.mock.pay(&order, 12_000);
    let confirm = json!({ "paymentKey": key, "orderId": order, "amount": 12_000 });
    served.secret.post("/v1/payments/confirm", &confirm).await.expect(StatusCode::OK);
    served.mock.cancel_in_console(&key, 12_000);
    eventually("the cancel is booked", PATIENCE, async || {
        let now = served.secret.get(&format!("/v1/orders/{order}")).await.expect(StatusCode::OK);
        (now.text("status") == "canceled").then_some(())
    })
    .await;
    let stranger = served.mock.pay("somebody-elses-order", 9_000);
    let body = json!({ "paymentKey": stranger, "orderId": "somebody-elses-order", "amount": 9_000 });
    let there = crate::support::shop::http().post(format!("{}/v1/payments/confirm", served.mock.url()));
    there.basic_auth("test_sk_mock", Some("")).json(&body).send().await.expect("an answer");
    let shown = [
        r#"payments_findings_open{kind="missing_here"} 1"#,
        r#"payments_findings_open{kind="canceled_there_only"} 0"#,
        r#"payments_findings_total{kind="canceled_there_only"} 1"#,
        r#"payments_reconciled_until_timestamp_seconds{provider="toss"} 1"#,
        r#"payments_worker_ticks_total{task="reconcile",result="worked"}"#,
    ];
    eventually("the metrics say so", PATIENCE, async || {
        let text = served.metrics().await;
        shown.iter().all(|series| text.contains(series)).then_some(())
    })
    .await;
    // A list that fails for ever stops nothing else.
    served.mock.script(Rule::transactions(server_error()).always());
    let failing = r#"payments_reconcile_runs_total{provider="toss",outcome="incomplete"} 0"#;
    eventually("a run fails", PATIENCE, async || (!served.metrics().await.contains(failing)).then_some(())).await;
    let order = served.secret.post_with_key("/v1/orders", &lines).await.expect(StatusCode::CREATED).text("id");
    let key = served.mock.pay(&order, 12_000);
    let confirm = json!({ "paymentKey": key, "orderId": order, "amount": 12_000 });
    assert_eq!(
        served.secret.post("/v1/payments/confirm", &confirm).await.expect(StatusCode::OK).text("status"),
        "approved"
    );
}
