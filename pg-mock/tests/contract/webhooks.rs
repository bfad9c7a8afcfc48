//! Webhooks: their shape, retries, and the ways in which they come wrong.

use std::time::Duration;

use pg_mock::{Options, WebhookMode};
use serde_json::{Value, json};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use crate::shop::{ORDER, Shop, letters, mailbox, until};

async fn shop_with(mailbox: &MockServer) -> Shop {
    let options = Options {
        webhook_url: Some(mailbox.uri()),
        webhook_retries: vec![Duration::from_millis(10); 3],
        ..Options::default()
    };
    Shop::with(options).await
}

fn header<'a>(letter: &'a Request, name: &str) -> &'a str {
    let name = format!("tosspayments-webhook-transmission-{name}");
    letter.headers.get(&name).unwrap().to_str().unwrap()
}

fn body(letter: &Request) -> Value {
    letter.body_json().unwrap()
}

#[tokio::test]
async fn an_approval_is_told_with_the_whole_payment() {
    let mailbox = mailbox(ResponseTemplate::new(200)).await;
    let shop = shop_with(&mailbox).await;
    let payment_key = shop.paid().await;
    let letter = letters(&mailbox, 1).await.remove(0);
    assert!(header(&letter, "id").starts_with("whtrans_"));
    assert_eq!(header(&letter, "retried-count"), "0");
    assert!(header(&letter, "time").ends_with("+09:00"));
    let told = body(&letter);
    assert_eq!(told["eventType"], "PAYMENT_STATUS_CHANGED");
    // yyyy-MM-dd'T'HH:mm:ss.SSSSSS
    assert_eq!(told["createdAt"].as_str().unwrap().len(), 26);
    assert_eq!(told["data"], shop.pg.payment_json(&payment_key).unwrap());
    assert_eq!(shop.pg.webhook_body(&payment_key)["data"], told["data"]);
}

#[tokio::test]
async fn a_virtual_account_is_told_flat_and_then_also_as_a_status() {
    let mailbox = mailbox(ResponseTemplate::new(200)).await;
    let shop = shop_with(&mailbox).await;
    let payment_key = shop.pg.pay_by_virtual_account(ORDER, 1_000);
    let secret = shop.confirm("k", &payment_key, 1_000).await.json()["secret"].clone();
    let issued = body(&letters(&mailbox, 1).await[0]);
    assert_eq!(issued["status"], "WAITING_FOR_DEPOSIT");
    assert_eq!((&issued["secret"], &issued["orderId"]), (&secret, &json!(ORDER)));
    assert!(issued.get("eventType").is_none() && issued.get("paymentKey").is_none());
    shop.pg.deposit(&payment_key);
    let told = letters(&mailbox, 3).await;
    let events: Vec<bool> = told[1..].iter().map(|letter| body(letter).get("eventType").is_some()).collect();
    assert!(events.contains(&true) && events.contains(&false));
    shop.pg.reverse_deposit(&payment_key);
    assert_eq!(body(&letters(&mailbox, 4).await[3])["status"], "WAITING_FOR_DEPOSIT");
}

#[tokio::test]
async fn anything_but_200_is_tried_again_under_the_same_id() {
    let mailbox = MockServer::start().await;
    let busy = Mock::given(any()).respond_with(ResponseTemplate::new(204)).up_to_n_times(2);
    mailbox.register(busy.with_priority(1)).await;
    mailbox.register(Mock::given(any()).respond_with(ResponseTemplate::new(200))).await;
    let shop = shop_with(&mailbox).await;
    shop.paid().await;
    let told = letters(&mailbox, 3).await;
    let counts: Vec<&str> = told.iter().map(|letter| header(letter, "retried-count")).collect();
    assert_eq!(counts, ["0", "1", "2"]);
    assert!(told.iter().all(|letter| header(letter, "id") == header(&told[0], "id")));
    until("the delivery", async || shop.pg.book().webhooks.delivered == 1).await;
    assert_eq!(shop.pg.book().webhooks.failed_attempts, 2);
}

#[tokio::test]
async fn a_deaf_shop_is_given_up_after_the_last_retry() {
    let mailbox = mailbox(ResponseTemplate::new(500)).await;
    let shop = shop_with(&mailbox).await;
    shop.paid().await;
    until("giving up", async || shop.pg.book().webhooks.given_up == 1).await;
    assert_eq!(mailbox.received_requests().await.unwrap().len(), 4);
}

#[tokio::test]
async fn duplicates_come_as_often_as_asked() {
    let mailbox = mailbox(ResponseTemplate::new(200)).await;
    let shop = shop_with(&mailbox).await;
    shop.pg.webhooks(WebhookMode::Duplicate { times: 3, fresh_ids: false });
    let payment_key = shop.paid().await;
    let told = letters(&mailbox, 3).await;
    assert!(told.iter().all(|letter| header(letter, "id") == header(&told[0], "id")));
    shop.pg.webhooks(WebhookMode::Duplicate { times: 2, fresh_ids: true });
    shop.pg.cancel_in_console(&payment_key, 100);
    let told = letters(&mailbox, 5).await;
    assert_ne!(header(&told[3], "id"), header(&told[4], "id"));
    assert_eq!(body(&told[3])["data"], body(&told[4])["data"]);
}

#[tokio::test]
async fn a_reordered_batch_comes_newest_first() {
    let mailbox = mailbox(ResponseTemplate::new(200)).await;
    let shop = shop_with(&mailbox).await;
    shop.pg.webhooks(WebhookMode::Reorder { batch: 3 });
    let payment_key = shop.paid().await;
    shop.pg.cancel_in_console(&payment_key, 100);
    shop.pg.cancel_in_console(&payment_key, 200);
    let balances: Vec<Value> =
        letters(&mailbox, 3).await.iter().map(|letter| body(letter)["data"]["balanceAmount"].clone()).collect();
    assert_eq!(balances, [33_800, 34_000, 34_100]);
}

#[tokio::test]
async fn an_incomplete_batch_goes_out_when_the_mode_changes() {
    let mailbox = mailbox(ResponseTemplate::new(200)).await;
    let shop = shop_with(&mailbox).await;
    shop.pg.webhooks(WebhookMode::Reorder { batch: 50 });
    let payment_key = shop.paid().await;
    shop.pg.webhooks(WebhookMode::Normal);
    shop.pg.cancel_in_console(&payment_key, 100);
    letters(&mailbox, 2).await;
}

#[tokio::test]
async fn a_webhook_can_come_before_the_answer() {
    let mailbox = mailbox(ResponseTemplate::new(200)).await;
    let shop = shop_with(&mailbox).await;
    shop.pg.webhooks(WebhookMode::BeforeResponse { hold_ms: 1_000 });
    let payment_key = shop.pg.pay(ORDER, 1_000);
    let mut confirm = Box::pin(shop.confirm("k", &payment_key, 1_000));
    tokio::select! {
        _ = &mut confirm => panic!("the answer came first"),
        told = letters(&mailbox, 1) => assert_eq!(body(&told[0])["data"]["status"], "DONE"),
    }
    assert_eq!(confirm.await.status, 200);
}

#[tokio::test]
async fn webhooks_can_be_late_off_or_sent_elsewhere() {
    let first = mailbox(ResponseTemplate::new(200)).await;
    let second = mailbox(ResponseTemplate::new(200)).await;
    let shop = shop_with(&first).await;
    shop.pg.webhooks(WebhookMode::Off);
    let payment_key = shop.paid().await;
    shop.pg.set_webhook_url(Some(second.uri()));
    shop.pg.webhooks(WebhookMode::Delay { ms: 150 });
    let start = std::time::Instant::now();
    shop.pg.cancel_in_console(&payment_key, 100);
    let told = letters(&second, 1).await;
    assert!(start.elapsed() >= Duration::from_millis(150));
    assert_eq!(body(&told[0])["data"]["status"], "PARTIAL_CANCELED");
    assert!(first.received_requests().await.unwrap().is_empty());
    assert_eq!(shop.pg.book().webhooks.begun, 1);
}

#[tokio::test]
async fn expiry_is_told_without_anybody_asking() {
    let mailbox = mailbox(ResponseTemplate::new(200)).await;
    let options =
        Options { webhook_url: Some(mailbox.uri()), session: Duration::from_millis(30), ..Options::default() };
    let shop = Shop::with(options).await;
    let _ = shop.pg.pay(ORDER, 1_000);
    let told = body(&letters(&mailbox, 1).await[0]);
    assert_eq!(told["data"]["status"], "EXPIRED");
}
