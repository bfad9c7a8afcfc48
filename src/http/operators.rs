//! For whoever is called at night: why a payment is where it is, and asking the PG about it now. There is no route that
//! sets a state.

use axum::Json;
use axum::extract::State;

use super::AppState;
use super::auth::Shop;
use super::extract::Id;
use super::problem::{Problem, payment_not_found};
use crate::domain::ids::PaymentId;
use crate::payments::explain::{self, ExplanationView};
use crate::payments::inquire::{self, Inquired};
use crate::telemetry;

/// Explain a payment
///
/// Why it is where it is: what is known, what is awaited, when the PG is asked next, and what an operator may do.
#[utoipa::path(get, path = "/v1/payments/{id}/explain", operation_id = "explainPayment", tag = "payments",
    params(("id" = String, Path, pattern = "^pay_[0-9a-f]{32}$", description = "`pay_…`")),
    responses((status = 200, description = "The explanation.", body = ExplanationView)),
    security(("secretKey" = [])))]
pub async fn explain(
    State(state): State<AppState>,
    _shop: Shop,
    Id(id): Id<PaymentId>,
) -> Result<Json<ExplanationView>, Problem> {
    let explanation = explain::explain(&state.db, Some(&state.provider), id).await?;
    Ok(Json(explanation.ok_or_else(payment_not_found)?))
}

/// Ask the PG about a payment now
///
/// Does what recovery would do at its next inquiry, and applies what the PG says. Repeating it is harmless.
#[utoipa::path(post, path = "/v1/payments/{id}/inquire", operation_id = "inquirePayment", tag = "payments",
    params(("id" = String, Path, pattern = "^pay_[0-9a-f]{32}$", description = "`pay_…`")),
    responses((status = 200, description = "What was learnt, and how the payment stands now.", body = Inquired)),
    security(("secretKey" = [])))]
pub async fn inquire(
    State(state): State<AppState>,
    _shop: Shop,
    Id(id): Id<PaymentId>,
) -> Result<Json<Inquired>, Problem> {
    let (app, trace_id) = (state.clone(), telemetry::current_trace_id());
    // It may send a confirm or a cancel again, so a client that hangs up must not stop it half-way.
    let asked = state.detached(async move { Box::pin(inquire::inquire(&app, id, trace_id)).await }).await;
    let inquired = asked.ok_or_else(|| Problem::internal("the inquiry panicked"))??;
    Ok(Json(inquired))
}
