//! How many series there are is up to the vocabularies of the labels, not to whoever asks: no path, header, body or code
//! of the PG makes one more. `PAYGAUGE_FLOOD` sets how many odd requests are sent.

use std::collections::BTreeSet;

use futures_util::StreamExt as _;
use paygauge::telemetry::labels::{HttpMethod, Task};
use pg_mock::{Behaviour, Rule};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use reqwest::StatusCode;
use serde_json::json;

use crate::bad_input::{self, Odd};
use crate::metrics::{confirm, new_order, new_product, trade};
use crate::support::eventually;
use crate::support::served::Served;
use crate::support::shop::PATIENCE;

/// What one instance may have, and a Prometheus is sized for.
const BUDGET: usize = 12_000;

/// What is counted of each request.
const REQUESTS: &str = "http_server_request_duration_seconds";

/// The tasks whose rounds come by the second or minute.
const OFTEN: [Task; 5] = [Task::Recovery, Task::Expiry, Task::Webhooks, Task::Overview, Task::Audit];

/// How many requests are under way at a time.
const AT_ONCE: usize = 8;

/// A request to anywhere: its method and path are nobody's, or somebody's.
fn anywhere() -> impl Strategy<Value = Odd> {
    let method = prop_oneof![
        prop::sample::select(vec!["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
            .prop_map(str::to_owned),
        "[A-Z]{1,20}",
    ];
    let path = prop_oneof![
        "(/[!$&-.0-;=@-Z_a-z~]{0,30}){1,6}",
        "/v1/(orders|payments|products|webhooks|cancellations|[a-z]{1,12})(/[0-9a-z_]{1,40}){0,3}",
        "/(livez|readyz|metrics|docs|openapi.json|[a-z.]{1,12})(\\?[a-z]{1,9}=[0-9a-z]{1,60})?",
    ];
    let name = "[A-Za-z][A-Za-z0-9-]{0,30}".prop_map(|name| format!("X-{name}: "));
    let named = prop::sample::select(vec!["User-Agent: ", "Origin: ", "X-Forwarded-For: ", "Toss-Signature: "]);
    let header = (prop_oneof![name, named.prop_map(str::to_owned)], "[ -~]{0,120}");
    (method, path, header, "[ -~]{0,80}").prop_map(|(method, path, (name, value), body)| Odd {
        line: format!("{method} {path}"),
        header: format!("{name}{value}").into_bytes(),
        body: body.into_bytes(),
    })
}

/// Sends as many odd requests, of both kinds by turns.
async fn flood(served: &Served, count: u32) {
    let address = served.base.trim_start_matches("http://");
    let mut runner = TestRunner::default();
    let requests = (0..count).map(|number| {
        let drawn = if number % 2 == 0 {
            bad_input::odd().new_tree(&mut runner).expect("a request").current()
        } else {
            anywhere().new_tree(&mut runner).expect("a request").current()
        };
        async move { bad_input::send(address, served.secret.token(), &drawn).await }
    });
    let answered = futures_util::stream::iter(requests)
        .buffer_unordered(AT_ONCE)
        .filter(|answer| std::future::ready(answer.is_some()));
    assert!(answered.count().await > usize::try_from(count / 2).expect("a number"), "it answers");
}

/// A PG that refuses for a reason that nobody has documented.
async fn refuse(served: &Served, product: &str, code: &str) {
    let order = new_order(served, product, 1).await;
    served.mock.script(Rule::confirm(Behaviour::Decline { code: code.to_owned() }).for_order(&order.0));
    let key = served.mock.pay(&order.0, order.1);
    let answer = confirm(served, &order, &key).await;
    assert!(answer.status != StatusCode::OK, "{}", answer.raw);
}

/// Every series by its name and labels.
async fn series(served: &Served) -> BTreeSet<String> {
    let text = served.metrics().await;
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(|line| line.rsplit_once(' ').expect("a series and its value").0.to_owned()).collect()
}

/// The labels of every request that the description knows: what may come of each method on each route, HEAD counted as GET. Clients that
/// leave are counted too, and so is what no route takes.
async fn described(served: &Served) -> BTreeSet<String> {
    let description = served.secret.get("/openapi.json").await.expect(StatusCode::OK).body;
    let mut labels = BTreeSet::new();
    for (route, operations) in description["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            let statuses = operation["responses"].as_object().into_iter().flat_map(serde_json::Map::keys);
            for status in statuses.map(String::as_str).chain(["499"]) {
                labels.insert(request_labels(&method.to_uppercase(), route, status));
            }
        }
    }
    for page in ["/docs", "/docs/", "/docs/{*rest}", "/openapi.json"] {
        labels.extend(["200", "303", "304", "404"].map(|status| request_labels("GET", page, status)));
    }
    for method in HttpMethod::ALL {
        labels.extend(["200", "404", "405"].map(|status| request_labels(method.as_str(), "_unmatched", status)));
    }
    labels
}

fn request_labels(method: &str, route: &str, status: &str) -> String {
    format!(r#"http_request_method="{method}",http_route="{route}",http_response_status_code="{status}""#)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_paths_headers_and_codes_makes_no_series() {
    let count = std::env::var("PAYGAUGE_FLOOD").ok().and_then(|count| count.parse().ok()).unwrap_or(1_200_u32);
    let served = Served::start(&[]).await;
    trade(&served).await;
    let product = new_product(&served, 1_000).await;
    refuse(&served, &product, "NOBODY_KNOWS_THIS").await;
    flood(&served, 100).await;
    let described = described(&served).await;
    // What shows since when a task last went well has a series once it did.
    let before = eventually("each task of the worker went well", PATIENCE, async || {
        let series = series(&served).await;
        let went_well = |task: &&Task| {
            let of_task = format!(r#"payments_worker_last_success_timestamp_seconds{{task="{task}"}}"#);
            series.contains(&of_task)
        };
        OFTEN.iter().all(|task| went_well(&task)).then_some(series)
    })
    .await;

    for number in 0..20 {
        refuse(&served, &product, &format!("NOBODY_KNOWS_{number}")).await;
    }
    let odd = json!({ "eventType": "PAYMENT_STATUS_CHANGED_TWICE", "createdAt": "2026-01-01T00:00:00", "data": {} });
    for _ in 0..20 {
        served.secret.post("/v1/webhooks/toss", &odd).await;
    }
    flood(&served, count).await;
    let after = series(&served).await;
    let is_described = |series: &&String| {
        let labels = series.split_once('{').filter(|(name, _)| name.starts_with(REQUESTS)).map(|(_, labels)| labels);
        labels.is_some_and(|labels| described.iter().any(|known| labels.starts_with(known)))
    };
    // The tasks whose rounds come seldom may have their first one meanwhile.
    let is_first_round = |series: &&String| {
        ["payments_worker_last_success_timestamp_seconds{", "payments_reconciled_until_timestamp_seconds{"]
            .iter()
            .any(|name| series.starts_with(name))
    };
    let new: Vec<_> =
        after.difference(&before).filter(|series| !is_described(series) && !is_first_round(series)).collect();
    assert!(new.is_empty(), "{} new series: {new:#?}", new.len());

    let of_requests = after.iter().filter(|series| series.starts_with(REQUESTS)).count();
    let a_histogram = after.iter().filter(|series| series.starts_with(REQUESTS) && series.contains("_bucket")).count()
        / after.iter().filter(|series| series.starts_with(&format!("{REQUESTS}_count"))).count();
    let most = after.len() - of_requests + described.len() * (a_histogram + 2);
    eprintln!("{} series before, {} after {count} odd requests, {most} at most", before.len(), after.len());
    assert!(most <= BUDGET, "{most} series, if everything comes of every request that the description lists");
}
