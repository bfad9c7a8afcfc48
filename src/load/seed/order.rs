//! One order from its placing to its end: its rows, and those of what belongs to it.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::goods::{Goods, id_at};
use super::rows::{NULL, Rows, Table};
use crate::domain::ids::{CancellationId, KeyId, OrderId};

/// The most lines of an order.
pub(super) const LINES_MAX: u32 = 3;
/// The most units of one product in an order.
pub(super) const UNITS_MAX: i32 = 3;
/// How long stock was held.
const HOLD: TimeDelta = TimeDelta::minutes(10);
/// How long a key was kept.
const KEY_KEPT: TimeDelta = TimeDelta::days(15);
/// How an order ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Paid,
    /// The whole of it was canceled after payment.
    Canceled,
    /// One unit of it went back.
    UnitBack,
    /// A part of the money went back, and no unit.
    MoneyBack,
    CanceledUnpaid,
    Expired,
    /// The card was declined, and the hold ended.
    Declined,
}

impl Ending {
    /// Of a hundred orders 76 keep all of their money.
    fn any() -> Self {
        match rand::random_range(0..100) {
            0..76 => Self::Paid,
            76..80 => Self::Canceled,
            80..82 => Self::UnitBack,
            82..83 => Self::MoneyBack,
            83..88 => Self::CanceledUnpaid,
            88..97 => Self::Expired,
            _ => Self::Declined,
        }
    }
}

/// One line of an order.
struct Line<'a> {
    number: String,
    product: Uuid,
    name: &'a str,
    price: i64,
    quantity: i32,
    canceled: i32,
}

/// What the rows of one order share.
struct Order {
    id: Uuid,
    id_text: String,
    amount: i64,
    trace: String,
    placed: DateTime<Utc>,
}

/// A change that the history tells.
struct Change<'a> {
    of: (&'a str, &'a str),
    seq: i32,
    kind: &'a str,
    steps: (&'a str, &'a str),
    actor: &'a str,
    detail: &'a str,
    after: TimeDelta,
}

/// Makes orders.
pub(super) struct Maker<'a> {
    goods: &'a Goods,
    owner: String,
    rows: Rows,
}

impl<'a> Maker<'a> {
    pub(super) fn new(goods: &'a Goods) -> Self {
        Self { goods, owner: KeyId::new().to_string(), rows: Rows::default() }
    }

    /// What was made since the last time.
    pub(super) fn take(&mut self) -> Rows {
        std::mem::take(&mut self.rows)
    }

    /// One order, placed then.
    pub(super) fn order(&mut self, placed: DateTime<Utc>) {
        let mut lines = self.lines();
        let wanted = Ending::any();
        let units: i32 = lines.iter().map(|line| line.quantity).sum();
        let ending = if wanted == Ending::UnitBack && units < 2 { Ending::Paid } else { wanted };
        match (ending, lines.first_mut()) {
            (Ending::Canceled, _) => lines.iter_mut().for_each(|line| line.canceled = line.quantity),
            (Ending::UnitBack, Some(line)) => line.canceled = 1,
            (..) => {}
        }
        let id = id_at(placed);
        let amount = lines.iter().map(|line| line.price * i64::from(line.quantity)).sum();
        let trace = format!("{:032x}", rand::random::<u128>());
        let order = Order { id, id_text: id.to_string(), amount, trace, placed };
        let (status, version) = match ending {
            Ending::Paid => ("paid", 3),
            Ending::Canceled => ("canceled", 4),
            Ending::UnitBack | Ending::MoneyBack => ("partially_canceled", 4),
            Ending::CanceledUnpaid => ("canceled", 2),
            Ending::Expired => ("expired", 2),
            Ending::Declined => ("expired", 4),
        };
        self.order_row(&order, status, version, &lines);
        self.items(&order, ending, &lines);
        self.key(&order);
        let history = ("order", order.id_text.as_str());
        let placing = self.change(history, 1, "OrderPlaced", (NULL, "pending"), "checkout");
        self.event(&order, &placing);
        match ending {
            Ending::CanceledUnpaid => {
                let detail = "{\"reason\": \"changed my mind\"}";
                let change = self.change(history, 2, "OrderCanceledUnpaid", ("pending", "canceled"), "checkout");
                self.event(&order, &Change { detail, after: TimeDelta::minutes(2), ..change });
            }
            Ending::Expired => self.expired(&order, 2),
            Ending::Paid | Ending::Canceled | Ending::UnitBack | Ending::MoneyBack | Ending::Declined => {
                self.payment(&order, ending, &lines);
            }
        }
    }

    fn lines(&self) -> Vec<Line<'a>> {
        let goods = self.goods.choose(rand::random_range(1..=LINES_MAX));
        let numbered = goods.into_iter().zip(1..);
        numbered
            .map(|((product, name, price), number): (_, u32)| Line {
                number: number.to_string(),
                product: *product,
                name,
                price: *price,
                quantity: rand::random_range(1..=UNITS_MAX),
                canceled: 0,
            })
            .collect()
    }

    fn order_row(&mut self, order: &Order, status: &str, version: i32, lines: &[Line<'_>]) {
        let more = lines.len().saturating_sub(1);
        let name = lines.first().map(|line| line.name).unwrap_or_default();
        let name = if more == 0 { name.to_owned() } else { format!("{name} and {more} more") };
        let changed = order.placed + if status == "expired" { HOLD } else { TimeDelta::minutes(1) };
        self.rows.add(
            Table::Orders,
            &[
                &order.id_text,
                status,
                &order.amount.to_string(),
                "KRW",
                &name,
                &format!("customer-{}", rand::random_range(0..200_000)),
                &time(order.placed + HOLD),
                &order.trace,
                &version.to_string(),
                &time(order.placed),
                &time(changed),
            ],
        );
    }

    fn items(&mut self, order: &Order, ending: Ending, lines: &[Line<'_>]) {
        let keeps = matches!(ending, Ending::Paid | Ending::UnitBack | Ending::MoneyBack);
        for line in lines {
            let (quantity, price, canceled) = (line.quantity.to_string(), line.price.to_string(), line.canceled);
            let product = line.product.to_string();
            self.rows.add(
                Table::Items,
                &[&order.id_text, &line.number, &product, line.name, &quantity, &price, &canceled.to_string()],
            );
            if keeps {
                *self.rows.sold.entry(line.product).or_default() += i64::from(line.quantity - canceled);
            }
        }
    }

    /// The key by which the order was placed, with its answer.
    fn key(&mut self, order: &Order) {
        let fingerprint = format!("\\\\x{}", hex(&Sha256::digest(order.id.as_bytes())));
        let id = OrderId::from(order.id);
        let body = format!(
            "{{\"id\":\"{id}\",\"status\":\"pending\",\"amount\":{},\"currency\":\"KRW\",\"holdExpiresAt\":\"{}\",\
             \"traceId\":\"{}\",\"createdAt\":\"{}\"}}",
            order.amount,
            time(order.placed + HOLD),
            order.trace,
            time(order.placed)
        );
        let lease = time(order.placed + TimeDelta::minutes(1));
        let (placed, until) = (time(order.placed), time(order.placed + KEY_KEPT));
        let key = Uuid::new_v4().to_string();
        self.rows.add(
            Table::Keys,
            &[
                &self.owner,
                "orders.place",
                &key,
                &fingerprint,
                "done",
                &order.id_text,
                "201",
                &body,
                &lease,
                &placed,
                &until,
                // Under lock, so that any moment will do; no two keys are the same.
                "t",
            ],
        );
    }

    fn payment(&mut self, order: &Order, ending: Ending, lines: &[Line<'_>]) {
        let began = TimeDelta::seconds(40);
        let id = id_at(order.placed + began).to_string();
        let key = format!("seed_{:032x}", rand::random::<u128>());
        let (of_order, of_payment) = (("order", order.id_text.as_str()), ("payment", id.as_str()));
        let asked = format!("{{\"amount\": {}, \"attempt\": 1}}", order.amount);
        let change = self.change(of_order, 2, "OrderConfirmStarted", ("pending", "confirming"), "checkout");
        self.event(order, &Change { after: began, ..change });
        let change = self.change(of_payment, 1, "PaymentConfirmStarted", (NULL, "confirming"), "checkout");
        self.event(order, &Change { after: began, detail: &asked, ..change });
        let after = TimeDelta::seconds(41);
        let is_taken = ending != Ending::Declined;
        let back = match ending {
            Ending::Canceled => order.amount,
            Ending::UnitBack => lines.first().map_or(0, |line| line.price),
            Ending::MoneyBack => order.amount / 4,
            Ending::Paid | Ending::CanceledUnpaid | Ending::Expired | Ending::Declined => 0,
        };
        self.payment_row(order, (&id, &key), ending, back);
        if is_taken {
            let detail = call("confirm", "approved");
            let change = self.change(of_payment, 2, "PaymentApproved", ("confirming", "approved"), "checkout");
            self.event(order, &Change { after, detail: &detail, ..change });
            let change = self.change(of_order, 3, "OrderPaid", ("confirming", "paid"), "checkout");
            self.event(order, &Change { after, ..change });
            self.notice(order, &key);
        } else {
            let detail = call("confirm", "declined");
            let change = self.change(of_payment, 2, "PaymentDeclined", ("confirming", "declined"), "checkout");
            self.event(order, &Change { after, detail: &detail, ..change });
            let change = self.change(of_order, 3, "OrderReopened", ("confirming", "pending"), "checkout");
            self.event(order, &Change { after, ..change });
            self.expired(order, 4);
        }
        if back > 0 {
            self.cancellation(order, (&id, ending), back, lines);
        }
    }

    fn payment_row(&mut self, order: &Order, (id, key): (&str, &str), ending: Ending, back: i64) {
        let (began, decided) = (order.placed + TimeDelta::seconds(40), order.placed + TimeDelta::seconds(41));
        let (status, version) = match ending {
            Ending::Canceled => ("canceled", "3"),
            Ending::UnitBack | Ending::MoneyBack => ("partially_canceled", "3"),
            Ending::Declined => ("declined", "2"),
            Ending::Paid | Ending::CanceledUnpaid | Ending::Expired => ("approved", "2"),
        };
        let (amount, began, decided_at) = (order.amount.to_string(), time(began), time(decided));
        let transaction = format!("seed_{:032x}", rand::random::<u128>());
        let canceled_at = time(canceled_at(order));
        let is_taken = ending != Ending::Declined;
        let taken = |text| if is_taken { text } else { NULL };
        let declined = |text| if is_taken { NULL } else { text };
        let columns = [
            id,
            &order.id_text,
            "toss",
            key,
            "card",
            status,
            &amount,
            "KRW",
            taken(&amount),
            &back.to_string(),
            &began,
            taken(&transaction),
            declined("insufficient_funds"),
            declined("REJECT_CARD_PAYMENT"),
            taken(&decided_at),
            if ending == Ending::Canceled { &canceled_at } else { NULL },
            &order.trace,
            version,
            &began,
            if back > 0 { &canceled_at } else { &decided_at },
        ];
        self.rows.add(Table::Payments, &columns);
    }

    fn cancellation(&mut self, order: &Order, (payment, ending): (&str, Ending), back: i64, lines: &[Line<'_>]) {
        let at = canceled_at(order);
        let uuid = id_at(at);
        let (id, amount, when) = (uuid.to_string(), back.to_string(), time(at));
        let transaction = format!("seed_{:032x}", rand::random::<u128>());
        self.rows.add(
            Table::Cancellations,
            &[
                &id,
                payment,
                &order.id_text,
                "toss",
                &amount,
                &amount,
                "changed my mind",
                "done",
                "request",
                &transaction,
                &when,
                &order.trace,
                "2",
                &when,
                &when,
            ],
        );
        for line in lines.iter().filter(|line| line.canceled > 0) {
            self.rows.add(Table::Units, &[&id, &order.id_text, &line.number, &line.canceled.to_string()]);
        }
        let after = at - order.placed;
        let asked = format!("{{\"amount\": {back}, \"origin\": \"request\"}}");
        let done = call("cancel", "done");
        let moved = format!("{{\"amount\": {back}, \"cancellation\": \"{}\"}}", CancellationId::from(uuid));
        let (of, to) = (("cancellation", id.as_str()), ending == Ending::Canceled);
        let to = if to { "canceled" } else { "partially_canceled" };
        let (paid, ordered) = if to == "canceled" { ("PaymentCanceled", "OrderCanceled") } else { PARTLY };
        let change = self.change(of, 1, "CancellationRequested", (NULL, "requested"), "checkout");
        self.event(order, &Change { after, detail: &asked, ..change });
        let change = self.change(of, 2, "CancellationDone", ("requested", "done"), "checkout");
        self.event(order, &Change { after, detail: &done, ..change });
        let change = self.change(("payment", payment), 3, paid, ("approved", to), "checkout");
        self.event(order, &Change { after, detail: &moved, ..change });
        let change = self.change(("order", &order.id_text), 4, ordered, ("paid", to), "checkout");
        self.event(order, &Change { after, ..change });
    }

    fn expired(&mut self, order: &Order, seq: i32) {
        let change = self.change(("order", &order.id_text), seq, "OrderHoldExpired", ("pending", "expired"), "expiry");
        self.event(order, &Change { after: HOLD, ..change });
    }

    /// The PG's notice about a payment that was approved.
    fn notice(&mut self, order: &Order, key: &str) {
        let at = order.placed + TimeDelta::seconds(43);
        let when = time(at);
        let payload = format!(
            "{{\"eventType\":\"PAYMENT_STATUS_CHANGED\",\"createdAt\":\"{when}\",\"data\":{{\"paymentKey\":\"{key}\",\
             \"orderId\":\"{}\",\"status\":\"DONE\",\"totalAmount\":{}}}}}",
            OrderId::from(order.id),
            order.amount
        );
        let (digest, bytes) = (hex(&Sha256::digest(&payload)), format!("\\\\x{}", hex(payload.as_bytes())));
        let (id, read) = (id_at(at).to_string(), time(at + TimeDelta::seconds(1)));
        self.rows.add(Table::Inbox, &[&id, "toss", &digest, &bytes, &when, &when, "1", &read, "applied", &order.trace]);
    }

    fn change<'c>(
        &self,
        of: (&'c str, &'c str),
        seq: i32,
        kind: &'c str,
        steps: (&'c str, &'c str),
        actor: &'c str,
    ) -> Change<'c> {
        Change { of, seq, kind, steps, actor, detail: "{}", after: TimeDelta::zero() }
    }

    fn event(&mut self, order: &Order, change: &Change<'_>) {
        let ((aggregate, id), (from, to)) = (change.of, change.steps);
        let (seq, at) = (change.seq.to_string(), time(order.placed + change.after));
        self.rows.add(
            Table::Events,
            &[
                aggregate,
                id,
                &seq,
                &order.id_text,
                change.kind,
                from,
                to,
                change.actor,
                change.detail,
                &order.trace,
                &at,
            ],
        );
    }
}

/// What happens to payment and order when a part goes back.
const PARTLY: (&str, &str) = ("PaymentPartiallyCanceled", "OrderPartiallyCanceled");

/// A cancel comes a few hours later.
fn canceled_at(order: &Order) -> DateTime<Utc> {
    order.placed + TimeDelta::hours(5)
}

fn call(operation: &str, outcome: &str) -> String {
    format!(
        "{{\"call\": {{\"operation\": \"{operation}\", \"outcome\": \"{outcome}\", \"httpStatus\": 200, \
         \"durationMs\": {}}}}}",
        rand::random_range(80..900)
    )
}

pub(super) fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _written = write!(text, "{byte:02x}");
    }
    text
}
