//! The API's description, made from the code, and the page that shows it without any other host.
//!
//! Success responses, parameters and bodies stand at the handlers. The problems are added here: those that a request
//! can meet anywhere follow from its form (a body, a credential, an id), the others from the table below.

use axum::Router;
use serde_json::json;
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::schema::{AllOfBuilder, AnyOfBuilder, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    Components, ContentBuilder, HeaderBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Response,
    ResponseBuilder,
};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::problem::Code;

const PROBLEM: &str = "Problem";

/// Problems that only some operations know, by operation id.
const OWN_PROBLEMS: &[(&str, &[Code])] = &[
    ("listProducts", &[]),
    ("createProduct", &[]),
    ("getProduct", &[Code::ProductNotFound]),
    ("changeProduct", &[Code::ProductNotFound]),
    ("listStockAdjustments", &[Code::ProductNotFound]),
    ("adjustStock", &[Code::ProductNotFound, Code::StockBelowZero]),
    ("listOrders", &[]),
    ("placeOrder", &[Code::UnknownProduct, Code::InsufficientStock]),
    ("getOrder", &[Code::OrderNotFound]),
    (
        "cancelOrder",
        &[
            Code::OrderNotFound,
            Code::OrderNotCancelable,
            Code::PaymentInFlight,
            Code::PaymentNotCancelable,
            Code::CancellationInProgress,
            Code::CancellationRefused,
            Code::RefundAccountNeeded,
            Code::ProviderUnavailable,
        ],
    ),
    ("getOrderTimeline", &[Code::OrderNotFound]),
    ("followOrder", &[Code::OrderNotFound, Code::TooManyStreams]),
    (
        "confirmPayment",
        &[
            Code::OrderNotFound,
            Code::AmountMismatch,
            Code::OrderExpired,
            Code::OrderNotPending,
            Code::PaymentInFlight,
            Code::PaymentOfAnotherOrder,
            Code::PaymentDeclined,
            Code::PaymentReversed,
            Code::ProviderUnavailable,
            Code::ProviderRefusedRequest,
        ],
    ),
    ("listPayments", &[]),
    ("getPayment", &[Code::PaymentNotFound]),
    (
        "cancelPayment",
        &[
            Code::PaymentNotFound,
            Code::PaymentInFlight,
            Code::PaymentNotCancelable,
            Code::CancellationInProgress,
            Code::CancellationRefused,
            Code::CancelAmountExceedsBalance,
            Code::InvalidCancelScope,
            Code::RefundAccountNeeded,
            Code::PartialCancelNotAllowed,
            Code::ProviderUnavailable,
        ],
    ),
    ("getPaymentTimeline", &[Code::PaymentNotFound]),
    ("explainPayment", &[Code::PaymentNotFound]),
    ("inquirePayment", &[Code::PaymentNotFound, Code::ProviderUnavailable]),
    ("getCancellation", &[Code::CancellationNotFound]),
    ("listFindings", &[]),
    ("closeFinding", &[Code::FindingNotFound, Code::FindingSettled]),
    ("listSales", &[]),
    ("receiveWebhook", &[Code::RouteNotFound]),
];

/// What a refusal for too many requests says besides its body.
const LIMIT_HEADERS: [(&str, &str); 3] = [
    ("Retry-After", "Seconds after which there is room."),
    (
        "RateLimit-Policy",
        "The budgets that the request takes from: `\"orders-per-key\";q=600;w=60` is 600 in 60 seconds.",
    ),
    ("RateLimit", "How each stands: `\"orders-per-key\";r=0;t=1` is nothing left, and room in 1 second."),
];

/// The description before the routes are added.
pub fn start() -> OpenApi {
    let info = InfoBuilder::new()
        .title("paygauge")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(introduction()))
        .build();
    let tags = [
        ("products", "The catalogue and its stock."),
        ("orders", "Orders hold stock until they are paid, canceled or expired."),
        ("payments", "Confirming takes money, canceling gives it back."),
        ("findings", "What the payment provider's books and the shop's disagree on."),
        ("sales", "What was sold and given back, by day and product."),
        ("webhooks", "For the payment provider."),
    ];
    let tags = tags.map(|(name, text)| TagBuilder::new().name(name).description(Some(text)).build());
    OpenApiBuilder::new().info(info).tags(Some(tags)).components(Some(Components::new())).build()
}

fn introduction() -> String {
    let mut text = String::from(
        "Orders with held stock, payments confirmed and canceled through a payment provider (PG).\n\n\
         JSON is camelCase, times are RFC 3339 in UTC, amounts are whole minor units (KRW: won). Unknown fields and \
         parameters are refused by name. Lists give `next`, to be sent as `after`.\n\n\
         **Credentials.** `Authorization: Bearer` with a secret key (`pgsk_…`: the shop's server, everything), a \
         publishable key (`pgpk_…`: a browser, the catalogue and placing an order), or a checkout token (`ct_…`: one \
         order, given with it).\n\n\
         **Repeating.** With the same `Idempotency-Key` a request is carried out once; its answer is kept for 15 days \
         and given again with `Idempotency-Replayed: true`.\n\n\
         **Undecided.** 202 says that nobody can know yet: poll `Location` after `Retry-After` seconds. It is no \
         failure and never becomes one by waiting.\n\n\
         **Limits.** `RateLimit-Policy` names the budgets that a request takes from, `RateLimit` what is left of them. \
         Without room in one of them the answer is 429, and nothing was done.\n\n\
         **Problems** are `application/problem+json` with a stable `code`:\n\n\
         | code | status | meaning |\n|---|---|---|\n",
    );
    for code in Code::ALL {
        text.push_str(&format!("| `{code}` | {} | {} |\n", code.status().as_u16(), code.explanation()));
    }
    text
}

/// Adds what the handlers do not say: credentials, the problem schema, and each operation's problems.
pub fn complete(mut api: OpenApi) -> OpenApi {
    let components = api.components.get_or_insert_with(Components::new);
    components.schemas.insert(PROBLEM.to_owned(), RefOr::T(problem_schema()));
    for (name, either) in [("AdjustStock", adjustments()), ("CancelBody", cancel_scopes())] {
        if let Some(RefOr::T(whole)) = components.schemas.remove(name) {
            let both = AllOfBuilder::new().item(whole).item(either).build();
            components.schemas.insert(name.to_owned(), RefOr::T(Schema::AllOf(both)));
        }
    }
    for (name, form, text) in [
        ("secretKey", "pgsk_…", "The shop's server: everything."),
        ("publishableKey", "pgpk_…", "A browser: the catalogue, placing an order."),
        ("checkoutToken", "ct_…", "One order: see it, confirm it, cancel it while it is unpaid."),
    ] {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format(form).description(Some(text));
        components.add_security_scheme(name, SecurityScheme::Http(scheme.build()));
    }
    for item in api.paths.paths.values_mut() {
        for operation in operations(item) {
            add_problems(operation);
        }
    }
    api
}

/// What adds is a restock or a correction, what takes away is a correction.
fn adjustments() -> Schema {
    let kinds =
        |kinds: &[&str]| ObjectBuilder::new().schema_type(Type::String).enum_values(Some(kinds.iter().copied()));
    let adds = ObjectBuilder::new()
        .property("kind", kinds(&["restock", "correction"]))
        .property("delta", ObjectBuilder::new().schema_type(SchemaType::AnyValue).minimum(Some(1)));
    let takes = ObjectBuilder::new()
        .property("kind", kinds(&["correction"]))
        .property("delta", ObjectBuilder::new().schema_type(SchemaType::AnyValue).maximum(Some(-1)));
    Schema::AnyOf(AnyOfBuilder::new().item(adds).item(takes).build())
}

/// An amount or lines, not both.
fn cancel_scopes() -> Schema {
    let none = |name: &str| ObjectBuilder::new().property(name, ObjectBuilder::new().schema_type(Type::Null));
    Schema::AnyOf(AnyOfBuilder::new().item(none("amount")).item(none("lines")).build())
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.patch].into_iter().filter_map(Option::as_mut)
}

fn add_problems(operation: &mut Operation) {
    let codes = problems_of(operation);
    let mut statuses: Vec<u16> = codes.iter().map(|code| code.status().as_u16()).collect();
    statuses.sort_unstable();
    statuses.dedup();
    for status in statuses {
        let of_status: Vec<Code> = codes.iter().copied().filter(|code| code.status().as_u16() == status).collect();
        operation.responses.responses.insert(status.to_string(), RefOr::T(response(&of_status)));
    }
}

/// The problems that an operation can answer with.
fn problems_of(operation: &Operation) -> Vec<Code> {
    let id = operation.operation_id.as_deref().unwrap_or_default();
    let own = OWN_PROBLEMS.iter().find(|(of, _)| *of == id).map_or(&[][..], |(_, codes)| codes);
    let mut codes = own.to_vec();
    codes.extend([Code::RateLimited, Code::DatabaseUnavailable, Code::Busy, Code::Internal]);
    let is_webhook = id == "receiveWebhook";
    if !is_webhook {
        codes.extend([Code::Unauthorized, Code::Forbidden, Code::InvalidParameter]);
    }
    if operation.request_body.is_some() {
        codes.extend([Code::BadJson, Code::BodyTooLarge, Code::RequestTimeout]);
    }
    if operation.request_body.is_some() && !is_webhook {
        codes.push(Code::UnsupportedMediaType);
    }
    let key = operation.parameters.iter().flatten().find_map(|parameter| match parameter {
        RefOr::T(parameter) if parameter.name == "Idempotency-Key" => Some(&parameter.required),
        RefOr::T(_) | RefOr::Ref(_) => None,
    });
    if let Some(required) = key {
        codes.extend([Code::IdempotencyKeyInvalid, Code::IdempotencyKeyMismatch, Code::IdempotencyKeyInFlight]);
        if matches!(required, utoipa::openapi::Required::True) {
            codes.push(Code::IdempotencyKeyMissing);
        }
    }
    codes
}

fn response(codes: &[Code]) -> Response {
    let lines = codes.iter().map(|code| format!("`{code}`: {}", code.explanation()));
    let examples = codes.iter().map(|code| {
        let body = json!({
            "type": code.urn(),
            "title": code.title(),
            "status": code.status().as_u16(),
            "detail": code.explanation(),
            "code": code.as_str(),
        });
        (code.as_str(), ExampleBuilder::new().summary(code.title()).value(Some(body)).build())
    });
    let content =
        ContentBuilder::new().schema(Some(Ref::from_schema_name(PROBLEM))).examples_from_iter(examples).build();
    let mut response = ResponseBuilder::new()
        .description(lines.collect::<Vec<_>>().join("\n\n"))
        .content("application/problem+json", content);
    if codes.contains(&Code::RateLimited) {
        for (name, text) in LIMIT_HEADERS {
            let header = HeaderBuilder::new().schema(Some(ObjectBuilder::new().schema_type(Type::String)));
            response = response.header(name, header.description(Some(text)).build());
        }
    }
    response.build()
}

fn problem_schema() -> Schema {
    let of = |kind: Type, text: &str| ObjectBuilder::new().schema_type(SchemaType::Type(kind)).description(Some(text));
    let code = of(Type::String, "Stable; what a program decides by.")
        .enum_values(Some(Code::ALL.iter().map(|code| code.as_str())));
    let object = ObjectBuilder::new()
        .description(Some("A problem (RFC 9457). Some kinds carry further members, named in their description."))
        .property("type", of(Type::String, "`urn:paygauge:problem:<code>`"))
        .property("title", of(Type::String, "The same words for every occurrence."))
        .property("status", of(Type::Integer, "The HTTP status."))
        .property("detail", of(Type::String, "Words about this occurrence."))
        .property("code", code)
        .required("type")
        .required("title")
        .required("status")
        .required("detail")
        .required("code");
    Schema::Object(object.build())
}

/// `/openapi.json`, and the page at `/docs` with its own assets; it asks no other host, not even to validate.
pub fn docs(api: OpenApi) -> Router {
    let config = Config::new(["/openapi.json"]).validator_url("none").try_it_out_enabled(true);
    SwaggerUi::new("/docs").url("/openapi.json", api).config(config).into()
}

/// Whether the table of problems has this operation.
#[cfg(test)]
pub fn knows(operation_id: &str) -> bool {
    OWN_PROBLEMS.iter().any(|(id, _)| *id == operation_id)
}
