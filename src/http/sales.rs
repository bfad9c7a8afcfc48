//! Sales totals by day and product.

use axum::extract::State;
use chrono::{DateTime, Days, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::AppState;
use super::auth::Shop;
use super::extract::Params;
use super::problem::Problem;
use super::rules::{self, Page};
use crate::db::sales::Place;
use crate::domain::ids::ProductId;
use crate::payments::sales::{self, SalesView};

/// Which totals to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SalesParams {
    /// The first day, in UTC.
    #[param(value_type = String, format = Date, example = "2026-11-01")]
    from: String,
    /// The last day, in UTC.
    #[param(value_type = String, format = Date, example = "2026-11-30")]
    to: String,
    /// Rows of the page; 20 if not given.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
    /// `next` of the page before.
    #[param(pattern = r"^[0-9]{1,5}\.[A-Z]{3}\.[0-9a-f]{32}$")]
    after: Option<String>,
}

/// A page of sales totals.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SalesPage {
    /// The totals, oldest day first. A product without sales on a day has none.
    pub items: Vec<SalesView>,
    /// Send it as `after` for the next page; null on the last one.
    pub next: Option<String>,
    /// Everything that happened until then is in them; null before anything was counted.
    pub counted_until: Option<DateTime<Utc>>,
}

/// List sales totals
///
/// What was sold and given back, by day and product. Counted from the history by the worker, a few seconds late.
#[utoipa::path(get, path = "/v1/sales", operation_id = "listSales", tag = "sales", params(SalesParams),
    responses((status = 200, description = "A page of totals.", body = SalesPage)),
    security(("secretKey" = [])))]
pub async fn list(
    State(state): State<AppState>,
    _shop: Shop,
    Params(params): Params<SalesParams>,
) -> Result<axum::Json<SalesPage>, Problem> {
    let rows = rules::page_rows(params.limit, state.settings.page_rows_max)?;
    let days = (day("from", &params.from)?, day("to", &params.to)?);
    let place = |text: &str| place(text).ok_or_else(|| Problem::invalid("after", "after is no `next` of this list."));
    let after = params.after.as_deref().map(place).transpose()?;
    let (found, counted_until) = sales::read(&state, days, after.as_ref(), rows + 1).await?;
    let Page { items, next } = Page::cut(found, rows, cursor);
    Ok(axum::Json(SalesPage { items, next, counted_until }))
}

fn day(field: &str, text: &str) -> Result<NaiveDate, Problem> {
    let is_plain = text.len() == "2026-11-01".len() && text.starts_with(|first: char| first.is_ascii_digit());
    let day = is_plain.then(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()).flatten();
    day.ok_or_else(|| Problem::invalid(field, format!("{field} is a day such as 2026-11-01.")))
}

fn cursor(row: &SalesView) -> String {
    let product = row.product_id.map_or(Uuid::nil(), ProductId::uuid);
    // Days since 1970: unlike dates, every number is one, so that whatever has the described form is taken.
    format!("{}.{}.{}", (row.day - NaiveDate::default()).num_days(), row.currency, product.as_simple())
}

fn place(text: &str) -> Option<Place> {
    let mut parts = text.split('.');
    let (days, currency, product) = (parts.next()?, parts.next()?, parts.next()?);
    let is_number = (1..=5).contains(&days.len()) && days.bytes().all(|byte| byte.is_ascii_digit());
    let is_code = currency.len() == 3 && currency.bytes().all(|byte| byte.is_ascii_uppercase());
    let is_all = parts.next().is_none() && is_number && is_code && product.len() == 32;
    let product = Uuid::try_parse(product).ok().filter(|_| is_all)?;
    let day = NaiveDate::default().checked_add_days(Days::new(days.parse().ok()?))?;
    Some((day, currency.to_owned(), product))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_back_as_itself_and_nothing_else_is_one() {
        let product = ProductId::new();
        let row = SalesView {
            day: NaiveDate::from_ymd_opt(2026, 11, 1).expect("a day"),
            currency: "KRW".to_owned(),
            product_id: Some(product),
            sold_units: 1,
            sold_amount: 1,
            canceled_units: 0,
            canceled_amount: 0,
        };
        assert_eq!(place(&cursor(&row)), Some((row.day, "KRW".to_owned(), product.uuid())));
        for wrong in ["", "20758", "20758.KRW.x", "+2075.KRW.00000000000000000000000000000000"] {
            assert_eq!(place(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_day_is_written_in_one_way() {
        assert!(day("from", "2026-02-28").is_ok());
        for wrong in ["2026-2-28", "2026-02-29", "2026-11-1 ", "+2026-02-2", "today"] {
            assert!(day("from", wrong).is_err(), "{wrong}");
        }
    }
}
