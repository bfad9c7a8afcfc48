//! Findings of one payment: filed before anything is done about them, and concluded by what is seen afterwards.

use super::examine::{Item, Sight, Tally};
use crate::app::App;
use crate::db::events::Origin;
use crate::db::findings::{self, FindingRow, NewFinding, Step};
use crate::db::{Conn, DbError};
use crate::domain::evidence::PaymentKey;
use crate::domain::reconciliation::{Difference, FindingKind, FindingStatus, Listed, dedupe_key};
use crate::telemetry::labels::Tx;
use crate::telemetry::propagate::{self, Link};
use crate::telemetry::record;

/// Files every difference of a payment of ours.
pub(super) async fn file(app: &App, item: Item<'_>, sight: &Sight, origin: &Origin) -> Result<Tally, DbError> {
    file_all(app, item, of(app, item, sight, origin), origin).await
}

/// Files these; the tally counts those that are new.
pub(super) async fn file_all(
    app: &App,
    item: Item<'_>,
    new: Vec<NewFinding>,
    origin: &Origin,
) -> Result<Tally, DbError> {
    let file = async |conn: &mut Conn| insert(conn, new, origin).await;
    let filed = app.db.transaction(Tx::Reconcile, file).await?;
    Ok(count(item.key, &filed))
}

async fn insert(conn: &Conn, new: Vec<NewFinding>, origin: &Origin) -> Result<Vec<FindingKind>, DbError> {
    let mut filed = Vec::new();
    for new in new {
        let kind = new.kind;
        if findings::file(conn, new, origin).await? {
            filed.push(kind);
        }
    }
    Ok(filed)
}

fn count(key: &PaymentKey, filed: &[FindingKind]) -> Tally {
    for kind in filed {
        record::finding_filed(*kind);
        tracing::warn!(kind = kind.as_str(), payment_key = ?key, "the PG's books and ours differ");
    }
    Tally { filed: u64::try_from(filed.len()).unwrap_or(u64::MAX), repaired: 0 }
}

fn of(app: &App, item: Item<'_>, sight: &Sight, origin: &Origin) -> Vec<NewFinding> {
    sight.differences.iter().map(|found| finding(app, item, sight, found, origin)).collect()
}

fn finding(app: &App, item: Item<'_>, sight: &Sight, found: &Difference, origin: &Origin) -> NewFinding {
    let payment = &sight.payment;
    let named = sight.snapshot.as_ref().map(|snapshot| snapshot.order_id.clone());
    NewFinding {
        provider: app.provider.name().to_owned(),
        dedupe_key: dedupe_key(app.provider.name(), item.key, found),
        kind: found.kind,
        status: FindingStatus::Open,
        amount: found.amount,
        payment_key: item.key.clone(),
        transaction_key: found.transaction_key.clone(),
        provider_order_id: named.unwrap_or_else(|| payment.order_id.to_string()),
        payment_id: Some(payment.id),
        order_id: Some(payment.order_id),
        reason: found.why.to_owned(),
        trace_id: sight.trace_id.clone().or_else(|| origin.trace_id.clone()),
        occurred_at: found.at,
    }
}

/// Concludes every finding of this payment by what is seen now: gone, or waiting for a person.
pub(super) async fn settle(app: &App, item: Item<'_>, sight: &Sight, origin: &Origin) -> Result<Tally, DbError> {
    let (provider, new) = (app.provider.name(), of(app, item, sight, origin));
    if !new.is_empty() {
        propagate::link(sight.trace_id.as_deref(), Link::Confirm);
    }
    let known = Some((sight.payment.id, sight.payment.order_id));
    let (filed, repaired) = app
        .db
        .transaction(Tx::Reconcile, async |conn| {
            let filed = insert(conn, new.clone(), origin).await?;
            let mut repaired = 0;
            for row in findings::unsettled_of(conn, provider, item.key).await? {
                findings::seen_with(conn, row.id, known).await?;
                let still = new.iter().find(|new| new.dedupe_key == row.dedupe_key);
                repaired += conclude(conn, &row, still, item.rows, origin).await?;
            }
            Ok::<_, DbError>((filed, repaired))
        })
        .await?;
    Ok(Tally { repaired, ..count(item.key, &filed) })
}

/// Moves one finding on; 1 if it is repaired.
async fn conclude(
    conn: &Conn,
    row: &FindingRow,
    still: Option<&NewFinding>,
    rows: &[Listed],
    origin: &Origin,
) -> Result<u64, DbError> {
    // What only the list says can only be judged with the list in hand.
    let is_listed = |key: &String| rows.iter().any(|listed| listed.transaction_key == *key);
    let needs_list = row.kind == FindingKind::AmountDiffers
        && row.provider_transaction_key.as_ref().is_some_and(|key| !is_listed(key));
    if still.is_some() || needs_list {
        if row.status == FindingStatus::Open {
            let reason = still.map_or(&row.reason, |still| &still.reason);
            wait_for_person(conn, row, reason, origin).await?;
        }
        return Ok(0);
    }
    let step = Step { status: FindingStatus::Repaired, reason: repaired_reason(row.kind) };
    findings::move_to(conn, row.id, step, origin).await?;
    Ok(1)
}

const fn repaired_reason(kind: FindingKind) -> &'static str {
    match kind {
        FindingKind::MissingHere => "our books have the payment now",
        FindingKind::MissingThere | FindingKind::AmountDiffers | FindingKind::StockHeld => "the books agree again",
        FindingKind::CanceledThereOnly => "our books have the cancel now",
        FindingKind::LateApproval => "the money is on its way back",
    }
}

/// Leaves what is open about a payment to a person.
pub(super) async fn leave_to_person(app: &App, item: Item<'_>, why: &str, origin: &Origin) -> Result<(), DbError> {
    let provider = app.provider.name();
    app.db
        .transaction(Tx::Reconcile, async |conn| {
            for row in findings::unsettled_of(conn, provider, item.key).await? {
                findings::seen_with(conn, row.id, None).await?;
                if row.status == FindingStatus::Open {
                    wait_for_person(conn, &row, why, origin).await?;
                }
            }
            Ok::<_, DbError>(())
        })
        .await
}

async fn wait_for_person(conn: &Conn, row: &FindingRow, reason: &str, origin: &Origin) -> Result<(), DbError> {
    findings::move_to(conn, row.id, Step { status: FindingStatus::Waiting, reason }, origin).await?;
    tracing::error!(
        finding_id = %row.id, kind = row.kind.as_str(), reason, "the PG's books and ours differ: a person must decide"
    );
    Ok(())
}
