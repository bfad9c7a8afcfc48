//! What `/readyz` says.

use paygauge::serve::Running;
use reqwest::StatusCode;

use super::eventually;
use super::load::HANGS;
use super::shop::{Answer, PATIENCE};

/// Its answer.
pub async fn readiness(running: &Running) -> Answer {
    let http = reqwest::Client::builder().no_proxy().timeout(HANGS).build().expect("a client");
    let answer = http.get(format!("http://{}/readyz", running.ops_addr())).send().await.expect("an answer");
    Answer::read(answer).await
}

/// Waits until it is ready.
pub async fn becomes_ready(running: &Running) {
    eventually("it is ready", HANGS, async || (readiness(running).await.status == StatusCode::OK).then_some(())).await;
}

/// Waits until it is not ready, for want of the database.
pub async fn says_that_the_database_is_away(running: &Running) {
    eventually("it says that the database is away", PATIENCE, async || {
        let said = readiness(running).await;
        let told = said.raw.contains(r#""name":"database","ok":false"#);
        (said.status == StatusCode::SERVICE_UNAVAILABLE && told).then_some(())
    })
    .await;
}
