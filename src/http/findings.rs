//! Findings: list what the PG's books and ours disagree on, and close what a person has settled elsewhere.

use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;

use super::AppState;
use super::auth::Shop;
use super::extract::{Id, Json, Params};
use super::problem::Problem;
use super::rules::{self, Page};
use crate::db::findings::FindingFilter;
use crate::domain::ids::FindingId;
use crate::domain::reconciliation::{FindingKind, FindingStatus};
use crate::payments::findings::{self, FINDING_REASON_CHARS_MAX, FindingView};

/// Which findings to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FindingParams {
    /// Only this status: `open`, `repaired`, `waiting` or `closed`.
    #[param(example = "waiting", pattern = "^(open|repaired|waiting|closed)$")]
    status: Option<String>,
    /// Only this kind: `missing_here`, `missing_there`, `amount_differs`, `canceled_there_only`, `late_approval` or
    /// `stock_held`.
    #[param(
        example = "late_approval",
        pattern = "^(missing_here|missing_there|amount_differs|canceled_there_only|late_approval|stock_held)$"
    )]
    kind: Option<String>,
    /// Rows of the page; 20 if not given.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
    /// `next` of the page before.
    #[param(value_type = Option<String>, pattern = "^fnd_[0-9a-f]{32}$")]
    after: Option<FindingId>,
}

/// How a finding was settled.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CloseBody {
    /// What was done about it, and where; 1 to 500 characters.
    #[schema(
        example = "refunded in the PG's console, ticket 4711",
        min_length = 1,
        max_length = 500,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    pub reason: String,
}

/// List findings
///
/// What the PG's books and ours disagree on, newest first.
#[utoipa::path(get, path = "/v1/findings", operation_id = "listFindings", tag = "findings", params(FindingParams),
    responses((status = 200, description = "A page of findings.", body = Page<FindingView>)),
    security(("secretKey" = [])))]
pub async fn list(
    State(state): State<AppState>,
    _shop: Shop,
    Params(params): Params<FindingParams>,
) -> Result<axum::Json<Page<FindingView>>, Problem> {
    let rows = rules::page_rows(params.limit, state.settings.page_rows_max)?;
    let status = rules::status(params.status.as_deref(), FindingStatus::parse)?;
    let kind = match params.kind.as_deref() {
        Some(name) => Some(
            FindingKind::parse(name).ok_or_else(|| Problem::invalid("kind", "kind is not one of the listed ones."))?,
        ),
        None => None,
    };
    let filter = FindingFilter { status, kind, unsettled: false, after: params.after };
    let found = findings::list(&state, filter, rows + 1).await?;
    Ok(axum::Json(Page::cut(found, rows, |finding| finding.id.to_string())))
}

/// Close a finding
///
/// For a person who has settled it elsewhere. Only the finding changes: no money and no stock moves.
#[utoipa::path(post, path = "/v1/findings/{id}/close", operation_id = "closeFinding", tag = "findings", request_body = CloseBody,
    params(("id" = String, Path, pattern = "^fnd_[0-9a-f]{32}$", description = "`fnd_…`")),
    responses((status = 200, description = "Closed.", body = FindingView)),
    security(("secretKey" = [])))]
pub async fn close(
    State(state): State<AppState>,
    Shop(caller): Shop,
    Id(id): Id<FindingId>,
    Json(body): Json<CloseBody>,
) -> Result<axum::Json<FindingView>, Problem> {
    let reason = rules::text("reason", body.reason, FINDING_REASON_CHARS_MAX)?;
    Ok(axum::Json(findings::close(&state, id, &reason, &caller.origin()).await?))
}
