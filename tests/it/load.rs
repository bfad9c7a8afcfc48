//! `paygauge load`, through the real program: it measures, and ends with a proof that fails when it should.

use std::path::PathBuf;
use std::process::{Command, Output};

use paygauge::db::connect::DbConfig;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::support::cluster::Place;
use super::support::database;
use super::support::served::Served;
use super::support::shop::{http, invariants_client};

/// A load run and what it said.
struct Run {
    output: Output,
    report: Value,
    page: String,
}

impl Run {
    /// Runs it with these words, for few turns; its proof sees `database`, if one is given.
    async fn of(words: &[&str], database: Option<&DbConfig>) -> Self {
        let place = Place::new("load");
        let (json, html): (PathBuf, PathBuf) = (place.0.join("report.json"), place.0.join("report.html"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_paygauge"));
        command.arg("load").args(words).args(["--warm-up", "0"]).arg("--json").arg(&json).arg("--html").arg(&html);
        command.env_clear();
        if let Some(database) = database {
            command.env("DATABASE_URL", database.url.expose_secret());
        }
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("a thread").expect("it runs");
        let read = |file: PathBuf| std::fs::read_to_string(file).unwrap_or_default();
        Self { output, report: serde_json::from_str(&read(json)).unwrap_or_default(), page: read(html) }
    }

    /// Its exit code, with everything it said for a reader of the failure.
    fn code(&self) -> (Option<i32>, String) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (self.output.status.code(), text(&self.output.stdout) + &text(&self.output.stderr))
    }

    #[track_caller]
    fn ends_with(&self, code: i32) -> String {
        let (ended, said) = self.code();
        assert_eq!(ended, Some(code), "{said}");
        said
    }

    /// How often this step ended so.
    fn count(&self, step: &str, outcome: &str) -> i64 {
        let steps = self.report["steps"].as_array().expect("steps");
        let step = steps.iter().find(|found| found["step"] == step);
        step.and_then(|step| step["outcomes"][outcome].as_i64()).unwrap_or(0)
    }
}

const FEW: [&str; 6] = ["--clients", "2", "--requests", "6", "--products", "2"];

async fn scenario(name: &str, more: &[&str]) -> Run {
    let words: Vec<&str> = [name].iter().chain(&FEW).chain(more).copied().collect();
    let run = Run::of(&words, Some(&database::fresh().await)).await;
    let said = run.ends_with(0);
    assert!(said.contains("PROOF HOLDS") && run.report["proof"]["holds"] == true, "{said}");
    assert!(run.page.contains("PROOF HOLDS") && !run.page.contains("src="), "a page that needs nothing beside it");
    run
}

#[tokio::test(flavor = "multi_thread")]
async fn buyers_that_order_pay_and_cancel_end_with_a_proof_that_holds() {
    for (name, steps) in [
        ("order", &["order"][..]),
        ("order-confirm", &["order", "confirm"]),
        ("flow", &["order", "confirm", "cancel"]),
        ("browse", &["list", "product"]),
        ("replay", &["order again", "confirm again"]),
        ("webhooks", &["webhook", "webhook again"]),
    ] {
        let run = scenario(name, &[]).await;
        for step in steps.iter().chain(&["whole turn"]) {
            assert_eq!(run.count(step, "ok"), 6, "{name}, {step}: {}", run.report);
        }
        let server = run.report["usage"].as_array().expect("usage").iter().any(|part| part["name"] == "server");
        assert!(server, "the server's own CPU time is told apart");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flash_sale_sells_what_there_is_and_refuses_the_rest() {
    let run = scenario("flash-sale", &["--stock", "4"]).await;
    assert_eq!((run.count("order", "ok"), run.count("order", "rejected")), (4, 2), "{}", run.report);
    assert_eq!(run.count("confirm", "ok"), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn declines_timeouts_and_cut_connections_are_classes_of_their_own_and_decided_before_the_proof() {
    let shares = ["--declines", "50", "--timeouts", "10", "--unknowns", "40", "--set", "TOSS_BREAKER_FAILURES=20"];
    let run = scenario("mixed", &shares).await;
    let [ok, declined, unknown] = ["ok", "declined", "unknown"].map(|outcome| run.count("confirm", outcome));
    assert_eq!((ok, declined + unknown), (0, 6), "{}", run.report);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_loop_begins_as_many_turns_as_the_clock_says() {
    let words = ["browse", "--rate", "20", "--requests", "10", "--products", "1"];
    let run = Run::of(&words, Some(&database::fresh().await)).await;
    let said = run.ends_with(0);
    assert_eq!(run.count("whole turn", "ok") + run.count("whole turn", "overflow"), 10, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoiled_stock_row_is_no_proof() {
    let database = database::fresh().await;
    let spoil = "insert into products (id, name, price, currency)
                     values ('00000000-0000-0000-0000-00000000beef', 'Spoiled', 1, 'KRW');
                 insert into stock (product_id, available) values ('00000000-0000-0000-0000-00000000beef', 5);
                 insert into stock_adjustments (id, product_id, delta, kind, reason, actor, available_after)
                     values (gen_random_uuid(), '00000000-0000-0000-0000-00000000beef', 6, 'initial', 'test', 'test', 6)";
    invariants_client(&database).await.batch_execute(spoil).await.expect("SQL");
    let run = Run::of(&[&["order"][..], &FEW].concat(), Some(&database)).await;
    let said = run.ends_with(1);
    assert!(said.contains("PROOF FAILS") && said.contains("6 units came, but 5 available"), "{said}");
    assert!(said.contains("stock_conserved"), "the product's own auditor says so, too: {said}");
    assert_eq!(run.report["proof"]["holds"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn money_that_only_the_pg_knows_of_is_no_proof() {
    let served = Served::start(&[]).await;
    let mock = served.mock.url();
    let target = ["--url", &served.base, "--key", served.secret.token(), "--mock-url", &mock];
    let words: Vec<&str> = ["order-confirm"].iter().chain(&FEW).chain(&target).copied().collect();
    let run = Run::of(&words, Some(&served.database)).await;
    let said = run.ends_with(0);
    assert!(said.contains("72000 won taken"), "six orders of 12000: {said}");

    let key = served.mock.pay("ord_of_nobody", 500);
    let body = json!({ "paymentKey": key, "orderId": "ord_of_nobody", "amount": 500 });
    let confirm = http().post(format!("{mock}/v1/payments/confirm")).basic_auth("test_sk_mock", Some("")).json(&body);
    assert!(confirm.send().await.expect("an answer").status().is_success());
    let run = Run::of(&words, Some(&served.database)).await;
    let said = run.ends_with(1);
    assert!(said.contains("ord_of_nobody: the PG took 500 of which our rows know nothing"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_database_the_proof_goes_as_far_as_rest_and_says_so() {
    let served = Served::start(&[]).await;
    let mock = served.mock.url();
    let target = ["--url", &served.base, "--key", served.secret.token(), "--mock-url", &mock];
    let words: Vec<&str> = ["flow"].iter().chain(&FEW).chain(&target).copied().collect();
    let run = Run::of(&words, None).await;
    let said = run.ends_with(0);
    assert!(said.contains("without the database") && said.contains("6 of 6 orders"), "{said}");
    assert!(said.contains("72000 won taken and 72000 given back"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn words_that_make_no_sense_are_refused_before_anything_starts() {
    let key = ["--url", "http://127.0.0.1:9", "--key", "pgsk_x", "--mock-url"];
    let wrong: [(&[&str], &str); 7] = [
        (&["theft"], "one of order, order-confirm, flow"),
        (&["order", "--clients", "0"], "--clients: 1 to 10000"),
        (&["order", "--rate", "0"], "--rate: 0.1 to 100000"),
        (&["order", "--clients", "2", "--rate", "5"], "cannot be used with"),
        (&["mixed", "--declines", "90", "--unknowns", "20"], "percent, 100 together"),
        (&["order", "--url", "http://127.0.0.1:9"], "--key"),
        (&[&["order"][..], &key, &["nowhere"]].concat(), "--mock-url: http://host:port"),
    ];
    for (words, told) in wrong {
        let said = Run::of(words, None).await.ends_with(2);
        assert!(said.contains(told), "{words:?}: {said}");
    }
}
