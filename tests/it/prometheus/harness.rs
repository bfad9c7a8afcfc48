//! The harness itself: a server is scraped by a real Prometheus, and can be asked.

use crate::support::prometheus::{Prometheus, Setup, now};
use crate::support::served::Served;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Prometheus and Alertmanager: .ci/watch runs it"]
async fn a_real_prometheus_scrapes_a_real_server_and_can_be_asked() {
    let served = Served::start(&[]).await;
    let Some(prometheus) = Prometheus::start(Setup::scraping(&[served.ops_address()])).await else { return };
    prometheus.scraped(2).await;
    assert_eq!(prometheus.value("up").await, Some(1.0));
    assert_eq!(prometheus.value("payments_no_such_metric").await, None);
    let series = prometheus.query("payments_operations_total{operation=\"confirm\"}").await;
    assert!(series["result"].as_array().is_some_and(|series| !series.is_empty()), "{series}");
    let range = prometheus.query_range("up", now() - 10.0, now(), 1.0).await;
    assert_eq!(range["resultType"], "matrix", "{range}");
    assert!(prometheus.alerts().await.is_empty() && prometheus.firing().await.is_empty());
    let targets = prometheus.targets().await;
    assert!(targets.len() == 1 && targets[0]["health"] == "up", "{targets:?}");
}
