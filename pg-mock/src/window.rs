//! The payment window: the page on which the buyer chooses how to pay, or not to.
//!
//! `GET /window` opens a payment and shows the page; its form posts the buyer's decision to
//! `/window/{paymentKey}`, which answers with the redirect the real window makes. The return
//! addresses stay here, so the browser cannot change them. Called by [`crate::server`]. Refuses an
//! incomplete or foreign opening and a second decision, with a page that says so.

use url::{Url, form_urlencoded};
use wiremock::Request;

use crate::answer::Reply;
use crate::gateway::{Gateway, NewPayment};
use crate::payment::{Card, Method, Payment, ReturnUrls, Status};
use crate::toss::{confirm, errors};

const PAGE: &str = include_str!("window.html");
const REFUSAL_PAGE: &str = include_str!("window_refusal.html");

/// Answers one request for `/window` or below.
pub(crate) fn handle(gateway: &Gateway, request: &Request) -> Reply {
    let path: Vec<&str> = request.url.path().split('/').skip(2).collect();
    let answer = match (request.method.as_str(), path.as_slice()) {
        ("GET", []) => open(gateway, &request.url),
        ("POST", [payment_key]) => decide(gateway, payment_key, &request.body),
        _ => Err((404, "There is no such page.".to_owned())),
    };
    answer.unwrap_or_else(|(status, problem)| Reply::html(status, REFUSAL_PAGE.replace("{problem}", &escape(&problem))))
}

type Refused = (u16, String);

fn open(gateway: &Gateway, url: &Url) -> Result<Reply, Refused> {
    let given = |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    let needed = |name: &str| given(name).ok_or((400, format!("The parameter {name} is missing.")));
    if needed("clientKey")? != gateway.options.client_key {
        return Err((403, "The client key is not known.".to_owned()));
    }
    let order_id = needed("orderId")?;
    if !confirm::is_order_id(&order_id) {
        return Err((400, "orderId has 6 to 64 characters of A-Z a-z 0-9 - _ =".to_owned()));
    }
    let amount: i64 = needed("amount")?
        .parse()
        .ok()
        .filter(|amount| *amount > 0)
        .ok_or((400, "amount is a whole number above 0.".to_owned()))?;
    let method = match given("method").as_deref() {
        None | Some("CARD") => Method::Card,
        Some("VIRTUAL_ACCOUNT") => Method::VirtualAccount,
        Some("TRANSFER") => Method::Transfer,
        Some("EASY_PAY" | "FOREIGN_EASY_PAY") => Method::EasyPay,
        Some(_) => return Err((400, "This method is not offered here.".to_owned())),
    };
    let return_urls = ReturnUrls {
        success: web_address("successUrl", needed("successUrl")?)?,
        fail: web_address("failUrl", needed("failUrl")?)?,
    };
    let new = NewPayment {
        order_id,
        amount,
        currency: given("currency").unwrap_or_else(|| "KRW".to_owned()),
        method,
        order_name: needed("orderName")?,
    };
    let payment_key = gateway.open(new, Some(return_urls));
    let state = gateway.state();
    match state.payment(&payment_key) {
        Some(payment) => Ok(Reply::html(200, page(payment))),
        None => Err((500, "The payment was not kept.".to_owned())),
    }
}

/// What the buyer did in the window.
enum Decision {
    Approve,
    VirtualAccount,
    Decline,
    GiveUp,
}

fn decide(gateway: &Gateway, payment_key: &str, body: &[u8]) -> Result<Reply, Refused> {
    let form: Vec<(String, String)> = form_urlencoded::parse(body).into_owned().collect();
    let field = |name: &str| {
        let found = form.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    };
    let decision = match field("action") {
        Some("approve") => Decision::Approve,
        Some("virtual_account") => Decision::VirtualAccount,
        Some("decline") => Decision::Decline,
        Some("give_up") => Decision::GiveUp,
        Some(_) | None => return Err((400, "The form says nothing.".to_owned())),
    };
    let card = match field("card") {
        None | Some("good") => Card::Good,
        Some("refused") => Card::Refused,
        Some("insufficient_balance") => Card::InsufficientBalance,
        Some(_) => return Err((400, "There is no such card.".to_owned())),
    };
    let (payment, urls) = waiting(gateway, payment_key)?;
    let order_id = payment.order_id.as_str();
    let amount = payment.requested_amount.to_string();
    let success =
        [("paymentType", "NORMAL"), ("paymentKey", payment_key), ("orderId", order_id), ("amount", amount.as_str())];
    let chosen = match payment.method {
        // The button for a card also serves whatever else was asked for and needs no account.
        Method::EasyPay | Method::Transfer => payment.method,
        Method::Card | Method::VirtualAccount => Method::Card,
    };
    let step = match decision {
        Decision::Approve => gateway.authenticate(payment_key, chosen, card),
        Decision::VirtualAccount => gateway.authenticate(payment_key, Method::VirtualAccount, Card::Good),
        Decision::Decline => gateway.refuse_in_window(payment_key, "REJECT_CARD_COMPANY"),
        // Closing the window changes no status.
        Decision::GiveUp => Ok(()),
    };
    step.map_err(|misuse| (409, misuse.to_string()))?;
    match decision {
        Decision::Approve | Decision::VirtualAccount => redirect(&urls.success, &success),
        Decision::Decline => {
            let code = "REJECT_CARD_COMPANY";
            let message = errors::message(code);
            redirect(&urls.fail, &[("code", code), ("message", message), ("orderId", order_id)])
        }
        Decision::GiveUp => {
            let code = "PAY_PROCESS_CANCELED";
            redirect(&urls.fail, &[("code", code), ("message", errors::message(code))])
        }
    }
}

/// The payment, while the buyer may still decide.
fn waiting(gateway: &Gateway, payment_key: &str) -> Result<(Payment, ReturnUrls), Refused> {
    let state = gateway.state();
    let payment = state.payment(payment_key).ok_or((404, "There is no such payment.".to_owned()))?;
    let urls = payment.return_urls.clone().ok_or((409, "This payment was not opened in a window.".to_owned()))?;
    if payment.status == Status::Ready {
        Ok((payment.clone(), urls))
    } else {
        Err((409, "This payment window is over. Please go back to the shop.".to_owned()))
    }
}

fn redirect(target: &str, parameters: &[(&str, &str)]) -> Result<Reply, Refused> {
    let mut url = Url::parse(target).map_err(|error| (500, error.to_string()))?;
    url.query_pairs_mut().extend_pairs(parameters);
    Ok(Reply::redirect(url.to_string()))
}

fn web_address(name: &str, text: String) -> Result<String, Refused> {
    match Url::parse(&text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(text),
        Ok(_) | Err(_) => Err((400, format!("{name} is no http or https address."))),
    }
}

fn page(payment: &Payment) -> String {
    let hint = match payment.method {
        Method::Card => "카드 · Card",
        Method::VirtualAccount => "가상계좌 · Virtual account",
        Method::EasyPay => "간편결제 · Wallet",
        Method::Transfer => "계좌이체 · Bank transfer",
    };
    // The buyer's and the shop's words last, so that braces in them are not taken for places.
    PAGE.replace("{paymentKey}", &escape(&payment.payment_key))
        .replace("{amount}", &grouped(payment.requested_amount))
        .replace("{hint}", hint)
        .replace("{orderId}", &escape(&payment.order_id))
        .replace("{currency}", &escape(&payment.currency))
        .replace("{orderName}", &escape(&payment.order_name))
}

/// `34100` as `34,100`.
fn grouped(amount: i64) -> String {
    let digits = amount.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}
