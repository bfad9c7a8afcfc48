//! The payment window: what the buyer sees and where each button leads.

use std::collections::HashMap;

use pg_mock::Status;
use reqwest::Method;
use url::{Url, form_urlencoded};

use crate::shop::{Heard, ORDER, Shop};

async fn open(shop: &Shop, changes: &[(&str, &str)]) -> Heard {
    let mut parameters: HashMap<&str, &str> = HashMap::from([
        ("clientKey", "test_ck_mock"),
        ("orderId", ORDER),
        ("amount", "34100"),
        ("currency", "KRW"),
        ("orderName", "원두 <500g> & 1건"),
        ("method", "CARD"),
        ("successUrl", "http://shop.test/done?from=pg"),
        ("failUrl", "http://shop.test/failed"),
    ]);
    parameters.extend(changes.iter().copied());
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
    shop.get(&format!("/window?{query}")).await
}

/// Where a click on the button leads, with its parameters.
async fn click(shop: &Shop, form: &str) -> (String, HashMap<String, String>) {
    let page = open(shop, &[]).await;
    assert_eq!(page.status, 200);
    let action = page.text.split("action=\"").nth(1).unwrap().split('"').next().unwrap();
    let heard = shop.send(Method::POST, action, &[], form.to_owned()).await.unwrap();
    assert_eq!(heard.status, 302, "{}", heard.text);
    let url = Url::parse(heard.header("location")).unwrap();
    (url.path().to_owned(), url.query_pairs().into_owned().collect())
}

#[tokio::test]
async fn approving_leads_to_the_shop_with_what_confirm_needs() {
    let shop = Shop::open().await;
    let (path, parameters) = click(&shop, "action=approve&card=good").await;
    assert_eq!(path, "/done");
    for (name, value) in [("orderId", ORDER), ("amount", "34100"), ("paymentType", "NORMAL"), ("from", "pg")] {
        assert_eq!(parameters[name], value);
    }
    let payment_key = &parameters["paymentKey"];
    assert_eq!(shop.pg.book().payment(payment_key).unwrap().status, Status::InProgress);
    assert_eq!(shop.confirm("k", payment_key, 34_100).await.json()["status"], "DONE");
}

#[tokio::test]
async fn a_bad_card_is_approved_in_the_window_and_refused_at_confirm() {
    let shop = Shop::open().await;
    for (card, code) in [("refused", "REJECT_CARD_COMPANY"), ("insufficient_balance", "REJECT_CARD_PAYMENT")] {
        let (path, parameters) = click(&shop, &format!("action=approve&card={card}")).await;
        assert_eq!(path, "/done");
        assert_eq!(shop.confirm(card, &parameters["paymentKey"], 34_100).await.code(), code);
    }
}

#[tokio::test]
async fn a_virtual_account_is_issued_at_confirm() {
    let shop = Shop::open().await;
    let (_, parameters) = click(&shop, "action=virtual_account&card=refused").await;
    let heard = shop.confirm("k", &parameters["paymentKey"], 34_100).await;
    assert_eq!(heard.json()["status"], "WAITING_FOR_DEPOSIT");
}

#[tokio::test]
async fn declining_leads_to_the_fail_address_and_ends_the_payment() {
    let shop = Shop::open().await;
    let (path, parameters) = click(&shop, "action=decline").await;
    assert_eq!((path.as_str(), parameters["code"].as_str()), ("/failed", "REJECT_CARD_COMPANY"));
    assert_eq!(parameters["orderId"], ORDER);
    assert!(!parameters["message"].is_empty());
    assert_eq!(shop.pg.book().payments[0].status, Status::Aborted);
}

#[tokio::test]
async fn giving_up_changes_nothing_at_the_pg() {
    let shop = Shop::open().await;
    let (path, parameters) = click(&shop, "action=give_up").await;
    assert_eq!((path.as_str(), parameters["code"].as_str()), ("/failed", "PAY_PROCESS_CANCELED"));
    assert_eq!(shop.pg.book().payments[0].status, Status::Ready);
}

#[tokio::test]
async fn the_page_shows_the_order_harmlessly_and_loads_nothing_from_elsewhere() {
    let shop = Shop::open().await;
    let page = open(&shop, &[]).await.text;
    assert!(page.contains("34,100") && page.contains(ORDER));
    assert!(page.contains("원두 &lt;500g&gt; &amp; 1건"));
    assert!(!page.contains("http://") && !page.contains("https://"));
}

#[tokio::test]
async fn a_wrong_opening_is_refused_with_a_reason() {
    let shop = Shop::open().await;
    for (name, value, status) in [
        ("clientKey", "test_ck_other", 403),
        ("amount", "-1", 400),
        ("amount", "12.5", 400),
        ("orderId", "a b", 400),
        ("method", "CASH", 400),
        ("successUrl", "javascript:alert(1)", 400),
    ] {
        assert_eq!(open(&shop, &[(name, value)]).await.status, status, "{name}");
    }
    assert_eq!(shop.get("/window?clientKey=test_ck_mock").await.status, 400);
    assert!(shop.pg.book().payments.is_empty());
}

#[tokio::test]
async fn a_second_decision_is_refused() {
    let shop = Shop::open().await;
    let (_, parameters) = click(&shop, "action=approve").await;
    let path = format!("/window/{}", parameters["paymentKey"]);
    let heard = shop.send(Method::POST, &path, &[], "action=decline".to_owned()).await.unwrap();
    assert_eq!(heard.status, 409);
}
