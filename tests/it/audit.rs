//! The auditor: what its rules find, what its rounds see, and what the command says.

mod rounds;
mod spoiled;

use std::collections::BTreeSet;
use std::process::{Command, Output};

use paygauge::db::connect::DbConfig;
use paygauge::domain::audit::{AuditRule, AuditSeverity};
use paygauge::payments::audit::Report;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::support::database;
use crate::support::shop::{Order, Shop, invariants_client};

fn uuid(order: &Order) -> String {
    order.id.trim_start_matches("ord_").to_owned()
}

/// Runs statements as nobody but a hand at the database could: without triggers and foreign keys.
async fn spoil(database: &DbConfig, sql: &str) {
    let by_hand = format!("set session_replication_role = replica; {sql}");
    invariants_client(database).await.batch_execute(&by_hand).await.unwrap_or_else(|error| panic!("{error:?}: {sql}"));
}

fn broken(report: &Report) -> BTreeSet<AuditRule> {
    report.rules.iter().filter(|found| found.broken > 0).map(|found| found.rule).collect()
}

fn paygauge(database: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paygauge"));
    command.arg("audit").args(args).env_clear().env("DATABASE_URL", database).output().expect("the program")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_says_by_its_code_whether_the_books_are_right() {
    let shop = Shop::without_worker().await;
    let product = shop.product(6_000, 50).await;
    let order = shop.order(&product, 1).await;
    let url = shop.database.url.expose_secret().to_owned();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();

    let clean = paygauge(&url, &[]);
    assert_eq!(clean.status.code(), Some(0), "{}", text(&clean.stderr));
    assert!(text(&clean.stdout).contains("the books are right until "), "{}", text(&clean.stdout));

    spoil(&shop.database, "update orders set hold_expires_at = now() - interval '1 day'").await;
    let stuck = paygauge(&url, &["--json"]);
    let said: Value = serde_json::from_slice(&stuck.stdout).expect("JSON");
    assert_eq!((stuck.status.code(), &said["stuck"], &said["clean"]), (Some(0), &json!(1), &json!(true)));

    spoil(&shop.database, "update orders set amount = 1").await;
    let wrong = paygauge(&url, &["--json"]);
    let said: Value = serde_json::from_slice(&wrong.stdout).expect("JSON");
    assert_eq!((wrong.status.code(), &said["violations"], &said["clean"]), (Some(1), &json!(1), &json!(false)));
    let rules = said["rules"].as_array().expect("rules");
    assert_eq!(rules.len(), AuditRule::ALL.len());
    let found = rules.iter().find(|found| found["rule"] == "order_total").expect("the rule");
    assert_eq!(
        (&found["rowsChecked"], &found["broken"], &found["severity"]),
        (&json!(1), &json!(1), &json!("violation"))
    );
    assert_eq!(found["ids"][0].as_str().expect("an id").replace('-', ""), uuid(&order));
    assert!(found["provenUntil"].is_string());
    let shown = paygauge(&url, &[]);
    assert!(text(&shown.stdout).contains("VIOLATION  order_total"), "{}", text(&shown.stdout));
    assert_eq!(paygauge(&url, &["--rule", "stock_conserved"]).status.code(), Some(0), "one rule alone");

    assert_eq!(paygauge(&url, &["--rule", "nonsense"]).status.code(), Some(2));
    assert_eq!(paygauge("postgres://127.0.0.1:1/nothing?sslmode=disable", &[]).status.code(), Some(2));
    assert_eq!(paygauge("nowhere", &["--json"]).status.code(), Some(2));
    let empty = database::empty().await;
    let not_migrated = paygauge(empty.url.expose_secret(), &[]);
    assert_eq!(not_migrated.status.code(), Some(2), "{}", text(&not_migrated.stdout));
}

#[test]
fn only_what_is_stuck_is_of_the_severity_stuck() {
    for rule in AuditRule::ALL {
        assert_eq!(rule.as_str().starts_with("stuck_"), rule.severity() == AuditSeverity::Stuck, "{rule}");
    }
}
