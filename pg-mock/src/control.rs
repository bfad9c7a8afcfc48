//! `/mock/…`: the book, the script and the buyer, over HTTP and without credentials.
//!
//! The same doors as the methods of [`crate::PgMock`], for people with curl and for the development
//! stack. Refuses bad input with 400, an unknown payment or a step that does not fit with 409.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use wiremock::Request;

use crate::answer::Reply;
use crate::gateway::{Gateway, Misuse, NewPayment};
use crate::payment::{Card, Method};
use crate::script::Rule;
use crate::toss::{confirm, wire};
use crate::webhook::WebhookMode;

/// Answers one request under `/mock/`.
pub(crate) fn handle(gateway: &Gateway, request: &Request) -> Reply {
    match answer(gateway, request) {
        Ok(reply) => reply,
        Err((status, problem)) => Reply::json(status, &json!({ "error": problem })),
    }
}

type Refused = (u16, String);

fn answer(gateway: &Gateway, request: &Request) -> Result<Reply, Refused> {
    let path: Vec<&str> = request.url.path().split('/').skip(2).collect();
    match (request.method.as_str(), path.as_slice()) {
        ("GET", ["healthz"]) => Ok(Reply::json(200, &json!({ "status": "ok" }))),
        ("GET", ["book"]) => serde_json::to_value(gateway.book())
            .map(|book| Reply::json(200, &book))
            .map_err(|error| (500, error.to_string())),
        ("GET", ["script"]) => Ok(Reply::json(200, &json!(gateway.state().script.rules()))),
        ("POST", ["script"]) => add_rules(gateway, request),
        ("DELETE", ["script"]) => {
            gateway.state().script.clear();
            Ok(Reply::new(204, "", ""))
        }
        ("POST", ["reset"]) => {
            gateway.reset();
            gateway.webhooks.set_mode(WebhookMode::Normal);
            Ok(Reply::new(204, "", ""))
        }
        ("POST", ["webhooks"]) => set_webhooks(gateway, request),
        ("POST", ["payments"]) => open_payment(gateway, request),
        ("POST", ["payments", payment_key, step]) => take_step(gateway, request, payment_key, step),
        _ => Err((404, format!("no such route: {}", request.url.path()))),
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Rules {
    One(Rule),
    Many(Vec<Rule>),
}

fn add_rules(gateway: &Gateway, request: &Request) -> Result<Reply, Refused> {
    // Told apart first: an untagged enum alone would hide which field is wrong.
    let rules = if request.body.trim_ascii_start().starts_with(b"[") {
        Rules::Many(body(request)?)
    } else {
        Rules::One(body(request)?)
    };
    let rules = match rules {
        Rules::One(rule) => vec![rule],
        Rules::Many(rules) => rules,
    };
    for rule in &rules {
        rule.check().map_err(|problem| (400, problem))?;
    }
    let mut state = gateway.state();
    for rule in rules {
        state.script.add(rule);
    }
    Ok(Reply::json(201, &json!(state.script.rules())))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WebhookSettings {
    url: Option<String>,
    mode: Option<WebhookMode>,
}

fn set_webhooks(gateway: &Gateway, request: &Request) -> Result<Reply, Refused> {
    let settings: WebhookSettings = body(request)?;
    if let Some(url) = settings.url {
        url::Url::parse(&url).map_err(|error| (400, format!("url: {error}")))?;
        gateway.webhooks.set_url(Some(url));
    }
    if let Some(mode) = settings.mode {
        gateway.webhooks.set_mode(mode);
    }
    Ok(Reply::new(204, "", ""))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PaymentRequest {
    order_id: String,
    amount: i64,
    #[serde(default)]
    method: Option<Method>,
    #[serde(default)]
    currency: Option<String>,
    #[serde(default)]
    order_name: Option<String>,
    #[serde(default)]
    card: Card,
}

/// A buyer without a browser: opens the window and authenticates in one go.
fn open_payment(gateway: &Gateway, request: &Request) -> Result<Reply, Refused> {
    let wanted: PaymentRequest = body(request)?;
    if !confirm::is_order_id(&wanted.order_id) {
        return Err((400, "orderId: 6 to 64 of A-Z a-z 0-9 - _ =".to_owned()));
    }
    if wanted.amount < 1 {
        return Err((400, "amount: at least 1".to_owned()));
    }
    let method = wanted.method.unwrap_or(Method::Card);
    let payment_key = gateway.open(
        NewPayment {
            order_id: wanted.order_id,
            amount: wanted.amount,
            currency: wanted.currency.unwrap_or_else(|| "KRW".to_owned()),
            method,
            order_name: wanted.order_name.unwrap_or_default(),
        },
        None,
    );
    let step = gateway.authenticate(&payment_key, method, wanted.card);
    step.map_err(misused)?;
    Ok(Reply::json(201, &payment_json(gateway, &payment_key)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Amount {
    amount: i64,
}

fn take_step(gateway: &Gateway, request: &Request, payment_key: &str, step: &str) -> Result<Reply, Refused> {
    let done = match step {
        "authenticate" => {
            let method = gateway.state().payment(payment_key).map(|payment| payment.method);
            gateway.authenticate(payment_key, method.unwrap_or(Method::Card), Card::Good)
        }
        "deposit" => gateway.deposit(payment_key),
        "reverse-deposit" => gateway.reverse_deposit(payment_key),
        "deposit-anyway" => {
            let wanted: Amount = body(request)?;
            gateway.deposit_anyway(payment_key, wanted.amount)
        }
        "expire" => gateway.expire(payment_key),
        "cancel" => {
            let wanted: Amount = body(request)?;
            gateway.cancel_in_console(payment_key, wanted.amount)
        }
        _ => return Err((404, format!("no such step: {step}"))),
    };
    done.map_err(misused)?;
    Ok(Reply::json(200, &payment_json(gateway, payment_key)))
}

fn payment_json(gateway: &Gateway, payment_key: &str) -> Value {
    let state = gateway.state();
    state
        .payment(payment_key)
        .map_or(Value::Null, |payment| wire::payment(payment, &gateway.options, chrono::Utc::now()))
}

fn misused(misuse: Misuse) -> Refused {
    (409, misuse.to_string())
}

fn body<T: DeserializeOwned>(request: &Request) -> Result<T, Refused> {
    serde_json::from_slice(&request.body).map_err(|error| (400, error.to_string()))
}
