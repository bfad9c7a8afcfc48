//! Every panel of every dashboard asks what it would ask in Grafana, of a real Prometheus and a real PostgreSQL that
//! watch a loaded shop: first at peace, then with everything going wrong that the shop can live with. A panel that is
//! to show data shows some, one that is to show zero shows zero, and none is refused. Exemplars are clicked on: each must
//! lead to a trace that was really sent.
//!
//! With `PAYGAUGE_PREVIEWS=<directory>` the answers are written there, for `grafana/preview`.

mod ask;
mod dashboards;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use pg_mock::{Behaviour, Rule};
use reqwest::StatusCode;
use serde_json::{Value, json};

use self::ask::{Answers, Asker};
use self::dashboards::Dashboard;
use crate::support::traffic::Counter;
use crate::support::watched::Watched;

/// Long enough for two windows of every rate that a dashboard shows.
const PEACE: Duration = Duration::from_secs(75);
const TROUBLE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Prometheus and Alertmanager, and minutes: .ci/watch runs it"]
async fn every_panel_shows_what_it_promises() {
    let Some(shop) = Watched::open(&[]).await else { return };
    let dashboards = dashboards::all();
    shop.settle(PEACE).await;
    let mut wrong = BTreeSet::new();
    let asker = Asker::begin(&shop).await;
    for dashboard in &dashboards {
        let answers = asker.ask(dashboard, &mut wrong).await;
        judge(dashboard, &answers, "zero", &mut wrong);
        keep("healthy", dashboard, &answers);
    }
    trouble(&shop).await;
    let asker = Asker::begin(&shop).await;
    let mut asked = 0;
    for dashboard in &dashboards {
        let answers = asker.ask(dashboard, &mut wrong).await;
        asked += answers.len();
        judge(dashboard, &answers, "data", &mut wrong);
        keep("drill", dashboard, &answers);
        asker.ask_of_one(dashboard, &mut wrong).await;
    }
    let dots = asker.exemplars(&dashboards, &mut wrong).await;
    println!("{} dashboards, {asked} panels asked, {dots} exemplars followed", dashboards.len());
    assert!(dots > 0, "no exemplar anywhere");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.into_iter().collect::<Vec<_>>().join("\n"));
}

/// Everything that can go wrong and be lived with, beside the ordinary buyers.
async fn trouble(shop: &Watched) {
    let counter = &shop.counter;
    for round in 0..TROUBLE.as_secs() / 5 {
        for behaviour in [
            Behaviour::ApproveThenDrop,
            Behaviour::ErrorBefore { status: 500, code: "FAILED_INTERNAL_SYSTEM_PROCESSING".to_owned() },
            Behaviour::TooManyRequests { retry_after_s: 1 },
            Behaviour::MismatchedAmount { amount: 11_000 },
        ] {
            let key = order(counter).await;
            shop.mock.script(Rule::confirm(behaviour).for_order(&key.0));
            confirm(counter, &key, 12_000).await;
        }
        let tampered = order(counter).await;
        confirm(counter, &tampered, 1_000).await;
        let again = json!({ "lines": [{ "productId": counter.product, "quantity": 2_000_000 }] });
        counter.ask("/v1/orders", again).await;
        deposit(shop).await;
        console_cancel(shop).await;
        mismatched_key(counter, round).await;
        forged_webhook(counter).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

async fn order(counter: &Counter) -> (String, String) {
    let body = json!({ "lines": [{ "productId": counter.product, "quantity": 1 }] });
    let order = counter.ask("/v1/orders", body).await.expect("an order");
    let id = order["id"].as_str().expect("an id").to_owned();
    let key = counter.mock.pay(&id, 12_000);
    (id, key)
}

async fn confirm(counter: &Counter, (order, key): &(String, String), amount: i64) -> Option<Value> {
    let body = json!({ "paymentKey": key, "orderId": order, "amount": amount });
    counter.ask("/v1/payments/confirm", body).await
}

async fn deposit(shop: &Watched) {
    let body = json!({ "lines": [{ "productId": shop.counter.product, "quantity": 1 }] });
    let order = shop.counter.ask("/v1/orders", body).await.expect("an order");
    let id = order["id"].as_str().expect("an id").to_owned();
    let key = shop.mock.pay_by_virtual_account(&id, 12_000);
    if confirm(&shop.counter, &(id, key.clone()), 12_000).await.is_some() {
        shop.mock.deposit(&key);
    }
}

async fn console_cancel(shop: &Watched) {
    let made = order(&shop.counter).await;
    let paid = confirm(&shop.counter, &made, 12_000).await;
    if paid.is_some_and(|paid| paid["status"] == "approved") {
        shop.mock.cancel_in_console(&made.1, 12_000);
    }
}

/// One key for two bodies, then the first one again.
async fn mismatched_key(counter: &Counter, round: u64) {
    let http = crate::support::shop::http();
    for quantity in [1, 2, 1] {
        let body = json!({ "lines": [{ "productId": counter.product, "quantity": quantity }] });
        let request = http.post(format!("{}/v1/orders", counter.base)).bearer_auth(&counter.token).json(&body);
        let answer = request.header("Idempotency-Key", format!("round-{round}")).send().await.expect("an answer");
        assert_ne!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}

async fn forged_webhook(counter: &Counter) {
    let forged = json!({ "eventType": "PAYMENT_STATUS_CHANGED", "createdAt": "2026-01-01T00:00:00.000000",
        "data": { "paymentKey": format!("forged-{}", uuid::Uuid::new_v4()), "orderId": "none", "status": "DONE" } });
    counter.ask("/v1/webhooks/toss", forged).await;
}

/// Holds the answers against what the dashboard's source promises.
fn judge(dashboard: &Dashboard, answers: &Answers, class: &str, wrong: &mut BTreeSet<String>) {
    for panel in dashboard.panels.iter().filter(|panel| panel.class == class) {
        let name = format!("{} / {} ({})", dashboard.uid, panel.title, panel.id);
        for (target, answer) in answers.of(panel.id) {
            let samples = ask::samples(answer);
            match class {
                "data" if !samples.iter().any(|sample| sample.is_finite()) => {
                    wrong.insert(format!("{name} {target}: shows nothing: {answer}"));
                }
                "zero" if samples.is_empty() => {
                    wrong.insert(format!("{name} {target}: shows nothing, and should show zero"));
                }
                "zero" if samples.iter().any(|sample| *sample != 0.0) => {
                    wrong.insert(format!("{name} {target}: is not zero at peace: {answer}"));
                }
                _ => {}
            }
            if samples.iter().any(|sample| sample.is_infinite()) {
                wrong.insert(format!("{name} {target}: shows an infinite value"));
            }
        }
    }
}

fn keep(scene: &str, dashboard: &Dashboard, answers: &Answers) {
    let Some(directory) = std::env::var_os("PAYGAUGE_PREVIEWS") else { return };
    let directory = PathBuf::from(directory).join(scene);
    std::fs::create_dir_all(&directory).expect("a directory");
    let file = directory.join(format!("{}.json", dashboard.uid));
    std::fs::write(file, answers.json().to_string()).expect("a file");
}
