//! Judges a history: lets everything come to rest, then compares three books and what every caller was told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use paygauge::config::AuditSettings;
use pg_mock::{Book, BookPayment, Status, WebhookMode};
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::client::{Callers, Door, Exchange, forged, misbehaviour};
use super::command::{Command, History, Lie};
use super::world::{LATEST_EFFECT, World};
use crate::support::invariants;

/// A rule that did not hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Broken {
    pub rule: String,
    pub detail: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.detail)
    }
}

fn broken(rule: &str, detail: impl fmt::Display) -> Broken {
    Broken { rule: rule.to_owned(), detail: detail.to_string() }
}

/// What is open, by name. Money deposited into an account that had been given up waits for a person, by design: the PG
/// wants a bank account to send it to.
const OPEN: &str = "
    select 'payment ' || id || ' is ' || status from payments
        where status = 'confirming' or status = 'reversing' and method is distinct from 'virtual_account'
    union all
    select 'cancellation ' || c.id || ' is requested' from cancellations c join payments p on p.id = c.payment_id
        where c.status = 'requested' and not (p.status = 'reversing' and p.method = 'virtual_account')
    union all
    select 'webhook ' || id || ' is not read' from webhook_inbox where processed_at is null
    union all
    select 'order ' || id || ' is pending although its hold is over' from orders
        where status = 'pending' and hold_expires_at < now() - interval '1 second'";

/// Everything that decides about money and stock, in one line of text.
const STATE: &str = "select concat_ws(' # ',
    (select string_agg(concat_ws(',', id, status, version), ' ' order by id) from orders),
    (select string_agg(concat_ws(',', id, status, version, approved_amount, canceled_amount, canceling_amount,
                                 confirm_attempt), ' ' order by id) from payments),
    (select string_agg(concat_ws(',', id, status, version, amount), ' ' order by id) from cancellations),
    (select string_agg(concat_ws(',', order_id, line, canceled_quantity, canceling_quantity), ' '
                       order by order_id, line) from order_items),
    (select string_agg(concat_ws(',', product_id, available), ' ' order by product_id) from stock),
    (select count(*)::text || ' events' from events))";

/// How long everything may take to come to rest, with the PG healthy and time passing quickly.
const REST: Duration = Duration::from_secs(30);
const REST_ROUNDS: usize = 60;

/// Ends the history in peace or by a crash, heals the PG, lets time pass, and checks everything.
pub async fn judge(history: &History, callers: &Callers) -> Vec<Broken> {
    let world = &callers.world;
    heal(history, world).await;
    if history.ends_by_crash {
        world.crash_all().await;
    } else if let Err(broken) = work_ends(world).await {
        return vec![broken];
    }
    if history.lanes.iter().flatten().any(|command| matches!(command, Command::Misbehave { .. })) {
        tokio::time::sleep(LATEST_EFFECT).await;
    }
    // Every hold is over from here on.
    world.age(3_600).await;
    if let Err(broken) = rest(world).await {
        return vec![broken];
    }
    // However many were lost: the PG tells of every payment as it stands, sooner or later.
    tell_all(callers).await;
    if let Err(broken) = rest(world).await {
        return vec![broken];
    }
    let mut found = books(world).await;
    found.extend(answers(world, &callers.log()).await);
    found.extend(lies(callers).await);
    found
}

/// Ends the script, after counting what of it was played.
async fn heal(history: &History, world: &World) {
    let mut played: BTreeMap<String, i64> = BTreeMap::new();
    for command in history.lanes.iter().flatten() {
        if let Command::Misbehave { operation, behaviour, times } = command {
            *played.entry(misbehaviour(*operation, behaviour)).or_default() += i64::from(*times);
        }
    }
    for rule in world.mock.script_left() {
        let rule = serde_json::to_value(rule).expect("a rule is JSON");
        let operation = serde_json::from_value(rule["operation"].clone()).expect("an operation");
        let behaviour = serde_json::from_value(rule["behaviour"].clone()).expect("a behaviour");
        let left = rule["times"].as_i64().unwrap_or(0);
        *played.entry(misbehaviour(operation, &behaviour)).or_default() -= left;
    }
    world.mock.clear_script();
    world.mock.webhooks(WebhookMode::Normal);
    for (kind, times) in played {
        (0..times).for_each(|_| world.fault(&kind));
    }
}

async fn work_ends(world: &World) -> Result<(), Broken> {
    let started = Instant::now();
    while world.work_in_hand().await > 0 {
        if started.elapsed() > REST {
            return Err(broken("money work ends", format!("{} tasks go on", world.work_in_hand().await)));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Lets an hour pass, again and again, until nothing is open.
async fn rest(world: &World) -> Result<(), Broken> {
    let (started, mut rounds) = (Instant::now(), 0);
    loop {
        let client = world.client().await;
        let open = strings(&client, OPEN).await;
        if open.is_empty() {
            return Ok(());
        }
        if started.elapsed() > REST && rounds > REST_ROUNDS {
            return Err(broken("with the PG healthy everything is decided", open.join("; ")));
        }
        end_unwanted_sessions(world, &client).await;
        world.age(3_600).await;
        rounds += 1;
        tokio::time::sleep(Duration::from_millis(80)).await;
    }
}

/// A confirm whose order the buyer wants canceled is not sent again: the PG's session runs out by itself, which takes
/// ten minutes at most.
async fn end_unwanted_sessions(world: &World, client: &Client) {
    let unwanted = strings(
        client,
        "select 'ord_' || replace(id::text, '-', '') from orders
         where status = 'confirming' and cancel_requested_at is not null",
    )
    .await;
    for payment in world.mock.book().payments {
        let open = matches!(payment.status, Status::Ready | Status::InProgress);
        if open && unwanted.contains(&payment.order_id) {
            let url = format!("{}/mock/payments/{}/expire", world.mock.url(), payment.payment_key);
            drop(world.http.post(url).send().await);
        }
    }
}

async fn tell_all(callers: &Callers) {
    let mock = &callers.world.mock;
    for payment in mock.book().payments {
        if !matches!(payment.status, Status::Ready | Status::InProgress) {
            callers.webhook(usize::MAX, &mock.webhook_body(&payment.payment_key)).await;
        }
    }
}

async fn strings(client: &Client, query: &str) -> Vec<String> {
    client.query(query, &[]).await.expect(query).iter().map(|row| row.get(0)).collect()
}

/// Our rows, the stock, and the PG's book.
async fn books(world: &World) -> Vec<Broken> {
    let mut found = Vec::new();
    let book = world.mock.book();
    let mut theirs: BTreeMap<String, i64> = BTreeMap::new();
    for payment in &book.payments {
        *theirs.entry(payment.order_id.clone()).or_default() += kept(payment);
        if payment.canceled > payment.approved.max(0) {
            found.push(broken("never more goes back than was taken", &payment.payment_key));
        }
    }
    for (key, used) in &book.calls.idempotency_keys {
        if used.body_hashes.len() > 1 {
            found.push(broken("one PG key, one body", key));
        }
    }
    let client = world.client().await;
    // How long something was open says nothing in a world whose clock is moved.
    let audit = invariants::audited(&world.database, &AuditSettings::default()).await;
    let wrong = audit.rules.iter().filter(|rule| rule.broken > 0 && !rule.rule.as_str().starts_with("stuck_"));
    found.extend(wrong.map(|rule| broken(rule.rule.as_str(), format!("{rule:?}"))));
    // This asserts; its own words are the rule.
    let asserted = tokio::spawn(async move {
        invariants::books_agree(&client, &theirs).await;
    });
    if let Err(error) = asserted.await {
        let words = said(error);
        let rule = words.split(" [").next().unwrap_or_default().split(" ord_").next().unwrap_or_default().to_owned();
        found.push(Broken { rule, detail: words });
    }
    let client = world.client().await;
    let reversing = strings(&client, "select provider_payment_key from payments where status = 'reversing'").await;
    let mut live: BTreeMap<&str, usize> = BTreeMap::new();
    for payment in book.payments.iter().filter(|payment| !reversing.contains(&payment.payment_key)) {
        *live.entry(&payment.order_id).or_default() += usize::from(kept(payment) > 0);
    }
    found.extend(taken_back(&client, &book).await);
    let twice = live.into_iter().filter(|(_, count)| *count > 1);
    found.extend(twice.map(|(order, _)| broken("an order is paid once", order)));
    found
}

/// A deposit steps back only as often as the bank took it back.
async fn taken_back(client: &Client, book: &Book) -> Vec<Broken> {
    let query = "select p.provider_payment_key, count(*) from events e join payments p on p.id = e.aggregate_id
                 where e.kind = 'PaymentDepositReversed' group by 1";
    let mut found = Vec::new();
    for row in client.query(query, &[]).await.expect(query) {
        let (key, ours): (String, i64) = (row.get(0), row.get(1));
        let theirs = book
            .payment(&key)
            .map_or(0, |payment| payment.approvals.iter().filter(|approval| approval.reversed_at.is_some()).count());
        if usize::try_from(ours).is_ok_and(|ours| ours > theirs) {
            found
                .push(broken("a deposit steps back only if the bank took it back", format!("{key}: {ours}, {theirs}")));
        }
    }
    found
}

fn kept(payment: &BookPayment) -> i64 {
    invariants::kept(payment.approved, payment.canceled)
}

/// The words of a panic.
pub fn said(error: tokio::task::JoinError) -> String {
    match error.try_into_panic() {
        Ok(payload) => match payload.downcast::<String>() {
            Ok(text) => *text,
            Err(payload) => payload.downcast_ref::<&str>().map_or_else(|| "a panic".to_owned(), ToString::to_string),
        },
        Err(error) => error.to_string(),
    }
}

/// Final states by id, as the API writes ids.
struct Ends {
    orders: BTreeMap<String, String>,
    /// Status and method.
    payments: BTreeMap<String, (String, String)>,
    cancellations: BTreeMap<String, String>,
}

impl Ends {
    async fn read(world: &World) -> Self {
        let client = world.client().await;
        let mut ends = Self { orders: BTreeMap::new(), payments: BTreeMap::new(), cancellations: BTreeMap::new() };
        let id =
            |prefix: &str, row: &tokio_postgres::Row| format!("{prefix}{}", row.get::<_, String>(0).replace('-', ""));
        for row in client.query("select id::text, status from orders", &[]).await.expect("orders") {
            ends.orders.insert(id("ord_", &row), row.get(1));
        }
        let query = "select id::text, status, coalesce(method, '') from payments";
        for row in client.query(query, &[]).await.expect("payments") {
            ends.payments.insert(id("pay_", &row), (row.get(1), row.get(2)));
        }
        for row in client.query("select id::text, status from cancellations", &[]).await.expect("cancellations") {
            ends.cancellations.insert(id("can_", &row), row.get(1));
        }
        ends
    }
}

/// What callers were told, against how it ended.
async fn answers(world: &World, log: &[Exchange]) -> Vec<Broken> {
    let ends = Ends::read(world).await;
    let book = world.mock.book();
    let mut found = Vec::new();
    for exchange in log {
        if exchange.hung {
            found.push(broken("every request is answered", line(exchange)));
        }
        if let Some((status, body)) = &exchange.answer {
            found.extend(declared(exchange, *status, body));
            found.extend(lasting(exchange, *status, body, &ends, &book));
        }
    }
    found.extend(certain_no(log, &book));
    found.extend(keys(log));
    found
}

/// Only answers that the documentation knows, and that these requests can earn.
fn declared(exchange: &Exchange, status: u16, body: &Value) -> Option<Broken> {
    let code = body["code"].as_str().unwrap_or_default();
    let fine = match status {
        200..=202 | 402 | 403 | 404 | 409 | 422 => true,
        502 => code == "provider_refused_request",
        503 => ["provider_unavailable", "database_unavailable", "busy"].contains(&code),
        _ => false,
    };
    (!fine).then(|| broken(&format!("no answer {status} {code}"), line(exchange)))
}

/// What was told as decided stays so.
fn lasting(exchange: &Exchange, status: u16, body: &Value, ends: &Ends, book: &Book) -> Vec<Broken> {
    let mut found = Vec::new();
    let mut says = |holds: bool, rule: &str, end: &dyn fmt::Debug| {
        if !holds {
            found.push(broken(rule, format!("{}; in the end {end:?}", line(exchange))));
        }
    };
    let word = |field: &str| body[field].as_str().unwrap_or_default();
    let (id, state) = (word("id"), word("status"));
    if status == 201 && exchange.door == Door::Place {
        says(ends.orders.contains_key(id), "a placed order exists", &());
    }
    let order = if id.starts_with("ord_") { Some((id, state)) } else { None };
    // A problem does not always repeat which order was asked about.
    let asked = exchange.path.split('/').find(|part| part.starts_with("ord_"));
    let asked = asked.or_else(|| exchange.body["orderId"].as_str()).unwrap_or_default();
    let named = if word("orderId").is_empty() { asked } else { word("orderId") };
    let order = order.or_else(|| (!word("orderStatus").is_empty()).then(|| (named, word("orderStatus"))));
    if let Some((id, told @ ("canceled" | "expired"))) = order {
        let end = ends.orders.get(id);
        says(end.is_some_and(|end| end == told), "an order that has ended stays ended", &end);
    }
    if id.starts_with("pay_") && status == 200 {
        let end = ends.payments.get(id);
        let (end_state, method) = end.cloned().unwrap_or_default();
        let later = match state {
            "approved" | "partially_canceled" | "canceled" if method != "virtual_account" => {
                ["approved", "partially_canceled", "canceled"].contains(&end_state.as_str())
            }
            _ => end.is_some() && !["ready", "confirming", "declined"].contains(&end_state.as_str()),
        };
        says(later, "an approved payment stays approved, or goes back", &end);
    }
    if id.starts_with("can_") && matches!(state, "done" | "refused") {
        let end = ends.cancellations.get(id);
        says(end.is_some_and(|end| end == state), "a decided cancellation stays decided", &end);
    }
    if exchange.door == Door::Confirm && status == 402 {
        let payment = book.payment(exchange.body["paymentKey"].as_str().unwrap_or_default());
        says(payment.is_none_or(|payment| kept(payment) == 0), "nobody is told no for money that is kept", &payment);
    }
    found
}

/// If every caller of a confirm got a certain no, no money was taken.
fn certain_no(log: &[Exchange], book: &Book) -> Vec<Broken> {
    let certain = |exchange: &&Exchange| match &exchange.answer {
        Some((402 | 422 | 502, _)) => true,
        Some((409, body)) => body["code"] != "payment_reversed",
        Some((503, body)) => body["code"] == "provider_unavailable",
        Some(_) | None => false,
    };
    let mut by_payment: BTreeMap<&str, Vec<&Exchange>> = BTreeMap::new();
    for exchange in log.iter().filter(|exchange| exchange.door == Door::Confirm) {
        by_payment.entry(exchange.body["paymentKey"].as_str().unwrap_or_default()).or_default().push(exchange);
    }
    let denied = by_payment.into_iter().filter(|(_, asked)| asked.iter().all(certain));
    let taken = denied.filter(|(key, _)| book.payment(key).is_some_and(|payment| !payment.approvals.is_empty()));
    taken
        .map(|(key, asked)| {
            let asked: Vec<String> = asked.into_iter().map(line).collect();
            broken("money is taken only if somebody may think so", format!("{key}: {}", asked.join(" | ")))
        })
        .collect()
}

/// Same key and body: the same answer, once there is one. Same key and another body: 422.
fn keys(log: &[Exchange]) -> Vec<Broken> {
    let mut found = Vec::new();
    let mut uses: BTreeMap<(Door, &str, &str), Vec<&Exchange>> = BTreeMap::new();
    for exchange in log {
        let of_itself = (exchange.door == Door::Confirm).then(|| exchange.body["paymentKey"].as_str()).flatten();
        let Some(key) = exchange.key.as_deref().or(of_itself) else { continue };
        if matches!(exchange.door, Door::Place | Door::Confirm | Door::CancelPayment) {
            uses.entry((exchange.door, &exchange.owner, key)).or_default().push(exchange);
        }
    }
    for uses in uses.values() {
        for first in uses.iter().filter(|first| is_kept(first)) {
            for later in uses.iter().filter(|later| later.started > first.ended) {
                let Some((status, body)) = &later.answer else { continue };
                if *status == 503 {
                    continue;
                }
                let same = (&later.path, &later.body) == (&first.path, &first.body);
                if same && plain(&later.answer) != plain(&first.answer) {
                    found.push(broken(
                        "a repeat gets the answer of the first",
                        format!("{} | {}", line(first), line(later)),
                    ));
                }
                if !same && (*status, body["code"].as_str()) != (422, Some("idempotency_key_mismatch")) {
                    found.push(broken("a key is for one request", format!("{} | {}", line(first), line(later))));
                }
            }
        }
    }
    found
}

/// Whether this is the answer that the key keeps.
fn is_kept(exchange: &Exchange) -> bool {
    let Some((status, body)) = &exchange.answer else { return false };
    let code = body["code"].as_str().unwrap_or_default();
    let decided =
        matches!((exchange.door, status), (Door::Place, 201) | (Door::Confirm, 200 | 402) | (Door::CancelPayment, 200))
            || matches!(code, "payment_reversed" | "cancellation_refused");
    decided && !exchange.replayed
}

/// An answer without what is new in each: a checkout token is signed afresh.
fn plain(answer: &Option<(u16, Value)>) -> Option<(u16, Value)> {
    let (status, mut body) = answer.clone()?;
    if let Some(object) = body.as_object_mut() {
        object.remove("checkoutToken");
    }
    Some((status, body))
}

/// Forged notices, and true ones told again, change nothing.
async fn lies(callers: &Callers) -> Vec<Broken> {
    let world = &callers.world;
    let before = state(world).await;
    let confirms = world.mock.book().calls.confirm;
    let payments = world.mock.book().payments;
    for (number, payment) in payments.iter().enumerate() {
        for lie in Lie::ALL.iter().cycle().skip(number).take(3) {
            callers.webhook(usize::MAX, &forged(*lie, payment)).await;
        }
        callers.webhook(usize::MAX, &world.mock.deposit_callback_body(&payment.payment_key)).await;
    }
    if let Err(broken) = rest(world).await {
        return vec![broken];
    }
    let mut found = Vec::new();
    let after = state(world).await;
    if before != after {
        found.push(broken("forged and repeated notices change nothing", format!("{before}\n{after}")));
    }
    if world.mock.book().calls.confirm != confirms {
        found.push(broken("a notice makes us ask, and no more", "a confirm was sent"));
    }
    found
}

async fn state(world: &World) -> String {
    strings(&world.client().await, STATE).await.join("")
}

/// One exchange in one line.
pub fn line(exchange: &Exchange) -> String {
    let answer = match &exchange.answer {
        None => "nothing heard".to_owned(),
        Some((status, body)) => {
            let known: BTreeSet<&str> =
                ["id", "status", "code", "paymentId", "orderStatus", "declineClass", "detail", "amount"].into();
            let shown: serde_json::Map<String, Value> = body
                .as_object()
                .map(|body| {
                    body.iter()
                        .filter(|(name, _)| known.contains(name.as_str()))
                        .map(|(n, v)| (n.clone(), v.clone()))
                        .collect()
                })
                .unwrap_or_default();
            format!("{status} {}", json!(shown))
        }
    };
    let key = exchange.key.as_deref().map(|key| format!(" [{}]", &key[..key.len().min(8)])).unwrap_or_default();
    let lane = if exchange.lane == usize::MAX { "-".to_owned() } else { exchange.lane.to_string() };
    let body = &exchange.body;
    let body = if exchange.door == Door::Webhook {
        format!("{} {}{}", body["data"]["paymentKey"], body["data"]["status"], body["status"])
    } else {
        body.to_string()
    };
    format!("lane {lane} {}{key} {body} → {answer}", exchange.path)
}
