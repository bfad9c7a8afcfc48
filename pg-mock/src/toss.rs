//! The API as the shop's server sees it: credentials, idempotency, and the way to each endpoint.
//!
//! Wire format and rules follow the Toss Payments core API, version 2022-11-16. One request goes:
//! credentials → forced test error → remembered answer → script → endpoint → answer. Called by
//! [`crate::server`] for every path under `/v1/`. Refuses what the API refuses, with its codes.

pub(crate) mod behave;
pub(crate) mod cancel;
pub(crate) mod confirm;
pub(crate) mod errors;
pub(crate) mod lookup;
pub(crate) mod transactions;
pub(crate) mod wire;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, FixedOffset, Utc};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;
use wiremock::Request;

use crate::answer::{Answer, Reply};
use crate::gateway::Gateway;
use crate::idempotency::{Known, Scope};
use crate::script::{Operation, Subject};
use crate::state::State;
use errors::ApiError;

/// The offset every time on the wire is given in.
pub(crate) const KST: FixedOffset = match FixedOffset::east_opt(9 * 3600) {
    Some(offset) => offset,
    // Evaluated by the compiler, never at run time.
    None => panic!("nine hours is a valid offset"),
};

const IDEMPOTENCY_KEY_CHARS: usize = 300;

/// What a request asks for.
pub(crate) enum Call {
    Confirm(Value),
    LookUpPayment(String),
    LookUpOrder(String),
    Cancel { payment_key: String, body: Value },
    Transactions(Vec<(String, String)>),
}

/// One understood request.
pub(crate) struct Inquiry {
    pub call: Call,
    pub order_id: Option<String>,
    pub payment_key: Option<String>,
    pub idempotency_key: Option<String>,
    /// Scope of the key; `None` for requests without a key and for reads, which ignore it.
    pub scope: Option<Scope>,
    pub trace_id: String,
    pub now: DateTime<Utc>,
}

impl Inquiry {
    pub fn operation(&self) -> Operation {
        match &self.call {
            Call::Confirm(_) => Operation::Confirm,
            Call::LookUpPayment(_) | Call::LookUpOrder(_) => Operation::Lookup,
            Call::Cancel { .. } => Operation::Cancel,
            Call::Transactions(_) => Operation::Transactions,
        }
    }

    pub fn subject(&self) -> Subject<'_> {
        Subject {
            operation: self.operation(),
            order_id: self.order_id.as_deref(),
            payment_key: self.payment_key.as_deref(),
        }
    }
}

/// `{code, message}` for a code, for answers made outside this module.
pub(crate) fn error_body(code: &str) -> Value {
    ApiError::of(code).body()
}

/// Answers one request under `/v1/`.
pub(crate) fn handle(gateway: &Gateway, request: &Request) -> Answer {
    let trace_id = Uuid::new_v4().simple().to_string();
    let key = header(request, "idempotency-key");
    let answer = answer(gateway, request, &trace_id);
    let Answer::Reply(mut reply) = answer else {
        return Answer::Cut;
    };
    if !reply.headers.iter().any(|(name, _)| *name == TRACE_ID) {
        reply = reply.with_header(TRACE_ID, trace_id);
    }
    match key {
        Some(key) if request.method.as_str() == "POST" => reply.with_header("idempotency-key", key.to_owned()).into(),
        Some(_) | None => reply.into(),
    }
}

const TRACE_ID: &str = "x-tosspayments-trace-id";

fn answer(gateway: &Gateway, request: &Request, trace_id: &str) -> Answer {
    let mut state = gateway.state();
    let api_key = match authorize(gateway, request) {
        Ok(api_key) => api_key,
        Err(error) => {
            state.calls.unauthorized += 1;
            return error.reply().into();
        }
    };
    let call = match understand(request) {
        Ok(call) => call,
        Err(error) => return error.reply().into(),
    };
    let inquiry = inquiry(&state, request, call, api_key, trace_id);
    count(&mut state, &inquiry, request);
    if let Some(forced) = forced_error(request, &inquiry) {
        return forced.reply().into();
    }
    let Some(scope) = &inquiry.scope else {
        let behaviour = state.script.next(&inquiry.subject());
        return behave::execute(gateway, &mut state, &inquiry, behaviour);
    };
    if scope.key.chars().count() > IDEMPOTENCY_KEY_CHARS {
        return ApiError::of("INVALID_IDEMPOTENCY_KEY").reply().into();
    }
    let known = state.answers.look_up(scope, inquiry.now);
    if let Some(used) = state.calls.idempotency_keys.get_mut(&scope.key) {
        match &known {
            Known::New => {}
            Known::Running => used.conflicts += 1,
            Known::Answered(_) => used.replayed += 1,
        }
    }
    match known {
        Known::New => {
            let behaviour = state.script.next(&inquiry.subject());
            behave::execute(gateway, &mut state, &inquiry, behaviour)
        }
        Known::Running => ApiError::of("IDEMPOTENT_REQUEST_PROCESSING").reply().into(),
        Known::Answered(remembered) => {
            let behaviour = state.script.next_for_replay(&inquiry.subject());
            behave::replay(&remembered, &inquiry, behaviour)
        }
    }
}

/// Replies with a remembered answer; the trace id names the new request and the first one.
pub(crate) fn replayed(status: u16, body: &str, trace_ids: (&str, &str)) -> Reply {
    let (now, first) = trace_ids;
    Reply::new(status, "application/json;charset=utf-8", body).with_header(TRACE_ID, format!("{now},{first}"))
}

fn authorize(gateway: &Gateway, request: &Request) -> Result<String, ApiError> {
    let given = header(request, "authorization").ok_or_else(|| ApiError::of("UNAUTHORIZED_KEY"))?;
    let malformed = || ApiError::of("INCORRECT_BASIC_AUTH_FORMAT");
    let (scheme, encoded) = given.split_once(' ').ok_or_else(malformed)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(malformed());
    }
    let decoded = STANDARD.decode(encoded.trim()).map_err(|_| malformed())?;
    let decoded = String::from_utf8(decoded).map_err(|_| malformed())?;
    let (api_key, password) = decoded.split_once(':').ok_or_else(malformed)?;
    if api_key == gateway.options.secret_key && password.is_empty() {
        Ok(api_key.to_owned())
    } else if api_key == gateway.options.client_key {
        Err(ApiError::of("INVALID_API_KEY"))
    } else {
        Err(ApiError::of("UNAUTHORIZED_KEY"))
    }
}

fn understand(request: &Request) -> Result<Call, ApiError> {
    let decoded: Vec<String> = request
        .url
        .path()
        .trim_start_matches("/v1/")
        .split('/')
        .map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned())
        .collect();
    let parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
    match (request.method.as_str(), parts.as_slice()) {
        ("POST", ["payments", "confirm"]) => Ok(Call::Confirm(body(request)?)),
        ("POST", ["payments", payment_key, "cancel"]) => {
            Ok(Call::Cancel { payment_key: (*payment_key).to_owned(), body: body(request)? })
        }
        ("GET", ["payments", "orders", order_id]) => Ok(Call::LookUpOrder((*order_id).to_owned())),
        ("GET", ["payments", payment_key]) => Ok(Call::LookUpPayment((*payment_key).to_owned())),
        ("GET", ["transactions"]) => Ok(Call::Transactions(request.url.query_pairs().into_owned().collect())),
        _ => Err(ApiError::of("NOT_FOUND")),
    }
}

fn body(request: &Request) -> Result<Value, ApiError> {
    serde_json::from_slice::<Value>(&request.body)
        .ok()
        .filter(Value::is_object)
        .ok_or_else(|| ApiError::of("INVALID_REQUEST"))
}

fn inquiry(state: &State, request: &Request, call: Call, api_key: String, trace_id: &str) -> Inquiry {
    let text = |body: &Value, name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
    let order_of = |key: &str| state.payment(key).map(|payment| payment.order_id.clone());
    let (order_id, payment_key) = match &call {
        Call::Confirm(body) => (text(body, "orderId"), text(body, "paymentKey")),
        Call::LookUpPayment(key) | Call::Cancel { payment_key: key, .. } => (order_of(key), Some(key.clone())),
        Call::LookUpOrder(order_id) => {
            let payment = state.payment_of_order(order_id);
            let key = payment.map(|payment| payment.payment_key.clone());
            (Some(order_id.clone()), key)
        }
        Call::Transactions(_) => (None, None),
    };
    let idempotency_key =
        header(request, "idempotency-key").filter(|_| request.method.as_str() == "POST").map(str::to_owned);
    let scope = idempotency_key.clone().map(|key| Scope {
        key,
        api_key,
        method: request.method.to_string(),
        path: request.url.path().to_owned(),
    });
    Inquiry { call, order_id, payment_key, idempotency_key, scope, trace_id: trace_id.to_owned(), now: Utc::now() }
}

fn count(state: &mut State, inquiry: &Inquiry, request: &Request) {
    let calls = &mut state.calls;
    match inquiry.operation() {
        Operation::Confirm => calls.confirm += 1,
        Operation::Lookup => calls.lookup += 1,
        Operation::Cancel => calls.cancel += 1,
        Operation::Transactions => calls.transactions += 1,
        // A request is always about one operation; `Any` belongs to rules.
        Operation::Any => {}
    }
    if let Some(key) = &inquiry.idempotency_key {
        let used = calls.idempotency_keys.entry(key.clone()).or_default();
        used.calls += 1;
        used.paths.insert(request.url.path().to_owned());
        let digest = Sha256::digest(&request.body);
        let hash: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        used.body_hashes.insert(hash);
    }
}

/// `TossPayments-Test-Code`: the caller picks the error, before anything about the payment is checked.
fn forced_error(request: &Request, inquiry: &Inquiry) -> Option<ApiError> {
    let code = header(request, "tosspayments-test-code")?;
    let needs_key = code == "IDEMPOTENT_REQUEST_PROCESSING" && inquiry.idempotency_key.is_none();
    if errors::belongs(code, inquiry.operation()) && !needs_key {
        Some(ApiError::of(code))
    } else {
        Some(ApiError::of("INVALID_TEST_CODE"))
    }
}

fn header<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.headers.get(name)?.to_str().ok()
}
