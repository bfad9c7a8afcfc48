//! Carries out commands, and writes down what each caller asked and heard.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pg_mock::{Book, BookPayment, Method, NewPayment, Operation, Rule, Status};
use reqwest::Method as Verb;
use serde_json::{Value, json};

use super::command::{By, Command, History, Lie, Means, Notice, Scope, Twist, Wanted};
use super::world::World;

/// A request that is not answered after this long hangs.
const ANSWER_PATIENCE: Duration = Duration::from_secs(25);

/// What was asked of, as far as the judge tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Door {
    Place,
    Confirm,
    CancelPayment,
    CancelOrder,
    Look,
    Adjust,
    Webhook,
}

/// One request and what came back.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub lane: usize,
    pub door: Door,
    /// Whose idempotency key it is.
    pub owner: String,
    pub key: Option<String>,
    pub path: String,
    pub body: Value,
    pub started: Instant,
    pub ended: Instant,
    /// Status and body; `None` if the connection was lost or the caller went away.
    pub answer: Option<(u16, Value)>,
    /// Whether the answer says that it is a repeated one.
    pub replayed: bool,
    /// Nobody answered, and nobody hung up.
    pub hung: bool,
}

/// A request, ready to be sent again.
#[derive(Debug, Clone)]
struct Sent {
    door: Door,
    token: String,
    owner: String,
    key: Option<String>,
    path: String,
    body: Value,
}

/// A payment window of the PG.
#[derive(Debug, Clone)]
struct Window {
    payment_key: String,
    virtual_account: bool,
}

/// What a slot stands for.
#[derive(Debug, Clone, Default)]
struct Order {
    id: String,
    amount: i64,
    token: String,
    place: Option<Sent>,
    windows: Vec<Window>,
    payment: Option<String>,
    cancel: Option<Sent>,
}

/// The callers of one history, and what they share.
pub struct Callers {
    pub world: World,
    slots: Vec<Mutex<Order>>,
    /// How the buyers of each slot pay.
    means: Vec<Means>,
    notices: Mutex<Vec<String>>,
    log: Mutex<Vec<Exchange>>,
}

fn open<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Callers {
    /// Fills the catalogue and every slot.
    pub async fn begin(mut world: World, history: &History) -> Self {
        for (number, stock) in (1_i64..).zip(&history.stock) {
            let body = json!({ "name": "Coffee beans", "price": 1_500 * number, "initialStock": stock });
            let base = world.base(0).expect("it runs");
            let request = world.http.post(format!("{base}/v1/products")).bearer_auth(&world.secret).json(&body);
            let answer: Value = request.send().await.expect("an answer").json().await.expect("JSON");
            world.products.push(answer["id"].as_str().expect("an id").to_owned());
        }
        let slots = history.orders.iter().map(|_| Mutex::default()).collect();
        let means = history.orders.iter().map(|start| start.by).collect();
        let callers = Self { world, slots, means, notices: Mutex::default(), log: Mutex::default() };
        for (slot, start) in history.orders.iter().enumerate() {
            callers.place(usize::MAX, slot, &start.lines).await;
        }
        callers
    }

    /// What was asked and heard.
    pub fn log(&self) -> Vec<Exchange> {
        open(&self.log).clone()
    }

    /// Carries out one command of a lane.
    pub async fn run(&self, lane: usize, command: &Command) {
        let world = &self.world;
        match command {
            Command::Place { slot, lines } => self.place(lane, *slot, lines).await,
            Command::PlaceAgain { slot, other_body } => self.place_again(lane, *slot, *other_body).await,
            Command::Rush { product, quantity, buyers } => self.rush(lane, *product, *quantity, *buyers).await,
            Command::Authenticate { slot, by } => {
                self.authenticate(*slot, *by);
            }
            Command::Confirm { slot, window, by, twist } => self.confirm(lane, *slot, *window, *by, *twist).await,
            Command::Cancel { slot, by, what, hangs_up_ms } => {
                self.cancel(lane, *slot, *by, *what, *hangs_up_ms).await;
            }
            Command::CancelAgain { slot, other_body } => self.cancel_again(lane, *slot, *other_body).await,
            Command::Look { slot } => {
                self.look(lane, *slot).await;
            }
            Command::Adjust { product, delta } => self.adjust(lane, *product, *delta).await,
            Command::Deposit { slot } => self.at_the_bank(*slot, "deposit", Status::WaitingForDeposit).await,
            Command::DepositAnyway { slot, percent } => self.deposit_anyway(*slot, *percent).await,
            Command::ReverseDeposit { slot } => self.at_the_bank(*slot, "reverse-deposit", Status::Done).await,
            Command::ConsoleCancel { slot, percent } => self.console_cancel(*slot, *percent).await,
            Command::SessionOver { slot } => self.session_over(*slot).await,
            Command::HoldOver { slot } => self.hold_over(*slot).await,
            Command::Notice { slot, kind, times } => self.notice(lane, *slot, *kind, *times).await,
            Command::Forge { slot, lie } => self.forge(lane, *slot, *lie).await,
            Command::Webhooks { mode } => {
                world.fault(&format!("webhooks {}", first_word(mode)));
                world.mock.webhooks(*mode);
            }
            Command::Misbehave { operation, behaviour, times } => {
                world.mock.script(Rule::on(*operation, behaviour.clone()).times(*times));
            }
            Command::Clock { seconds } => {
                // What the PG still has in hand would otherwise come later than any PG would bring it.
                tokio::time::sleep(super::world::LATEST_EFFECT).await;
                world.fault("clock skip");
                world.age(*seconds).await;
            }
            Command::Cut => {
                world.fault("database connections cut");
                world.cut().await;
            }
            Command::Crash { process, at, down_ms } => {
                world.crash(*process, at.as_deref(), Duration::from_millis(*down_ms)).await;
            }
            Command::Pause { ms } => tokio::time::sleep(Duration::from_millis(*ms)).await,
        }
    }

    fn order(&self, slot: usize) -> Option<Order> {
        let order = open(&self.slots[slot % self.slots.len()]).clone();
        (!order.id.is_empty()).then_some(order)
    }

    /// Changes the slot, unless it stands for another order by now.
    fn update(&self, slot: usize, id: &str, change: impl FnOnce(&mut Order)) {
        let mut order = open(&self.slots[slot % self.slots.len()]);
        if order.id == id {
            change(&mut order);
        }
    }

    async fn send(&self, lane: usize, sent: &Sent, hangs_up: Option<Duration>) -> Option<(u16, Value)> {
        let started = Instant::now();
        let mut replayed = false;
        let (answer, hung) = match self.world.base(lane) {
            None => (None, false),
            Some(base) => {
                let verb = if sent.door == Door::Look { Verb::GET } else { Verb::POST };
                let mut request = self.world.http.request(verb, format!("{base}{}", sent.path));
                request = request.timeout(hangs_up.unwrap_or(ANSWER_PATIENCE));
                if !sent.token.is_empty() {
                    request = request.bearer_auth(&sent.token);
                }
                if let Some(key) = &sent.key {
                    request = request.header("Idempotency-Key", key);
                }
                if sent.door != Door::Look {
                    request = request.header("content-type", "application/json").body(sent.body.to_string());
                }
                match request.send().await {
                    Ok(response) => {
                        let status = response.status().as_u16();
                        replayed = response.headers().contains_key("idempotency-replayed");
                        let text = response.text().await;
                        (text.ok().map(|text| (status, serde_json::from_str(&text).unwrap_or(Value::Null))), false)
                    }
                    Err(error) => (None, error.is_timeout() && hangs_up.is_none()),
                }
            }
        };
        if hangs_up.is_some() && answer.is_none() {
            self.world.fault("client hung up");
        }
        let Sent { door, owner, key, path, body, .. } = sent.clone();
        open(&self.log).push(Exchange {
            lane,
            door,
            owner,
            key,
            path,
            body,
            started,
            ended: Instant::now(),
            answer: answer.clone(),
            replayed,
            hung,
        });
        answer
    }

    async fn place(&self, lane: usize, slot: usize, lines: &[Wanted]) {
        let sent = self.basket(lines);
        self.placed(slot, &sent, self.send(lane, &sent, None).await);
    }

    /// Nobody does anything with these orders; their units are held for good.
    async fn rush(&self, lane: usize, product: usize, quantity: i64, buyers: usize) {
        let baskets: Vec<Sent> = (0..buyers).map(|_| self.basket(&[Wanted { product, quantity }])).collect();
        let asked = baskets.iter().chain(baskets.first()).map(|sent| self.send(lane, sent, None));
        futures_util::future::join_all(asked).await;
    }

    /// An order with a fresh key.
    fn basket(&self, lines: &[Wanted]) -> Sent {
        let products = &self.world.products;
        let mut wanted: Vec<Value> = Vec::new();
        for line in lines {
            let product = &products[line.product % products.len()];
            if wanted.iter().all(|known| known["productId"] != **product) {
                wanted.push(json!({ "productId": product, "quantity": line.quantity }));
            }
        }
        Sent {
            door: Door::Place,
            token: self.world.publishable.clone(),
            owner: "publishable".to_owned(),
            key: Some(fresh_key()),
            path: "/v1/orders".to_owned(),
            body: json!({ "lines": wanted }),
        }
    }

    fn placed(&self, slot: usize, sent: &Sent, answer: Option<(u16, Value)>) {
        let mut order = open(&self.slots[slot % self.slots.len()]);
        match answer {
            Some((201, body)) => {
                if order.id == text(&body, "id") {
                    return;
                }
                *order = Order {
                    id: text(&body, "id"),
                    amount: body["amount"].as_i64().unwrap_or(0),
                    token: text(&body, "checkoutToken"),
                    place: Some(sent.clone()),
                    ..Order::default()
                };
            }
            // It can be sent again.
            None if order.id.is_empty() => order.place = Some(sent.clone()),
            Some(_) | None => {}
        }
    }

    async fn place_again(&self, lane: usize, slot: usize, other_body: bool) {
        let Some(mut sent) = open(&self.slots[slot % self.slots.len()]).place.clone() else { return };
        if other_body {
            sent.body["customerRef"] = json!("another");
        }
        let answer = self.send(lane, &sent, None).await;
        if !other_body {
            self.placed(slot, &sent, answer);
        }
    }

    /// Opens a window of the slot's order.
    fn authenticate(&self, slot: usize, by: Means) -> Option<Window> {
        let order = self.order(slot)?;
        let (method, card) = match by {
            Means::Card(card) => (Method::Card, card),
            Means::VirtualAccount => (Method::VirtualAccount, pg_mock::Card::Good),
        };
        let payment_key = self.world.mock.open_window(NewPayment {
            order_id: order.id.clone(),
            amount: order.amount,
            currency: "KRW".to_owned(),
            method,
            order_name: "Coffee beans".to_owned(),
        });
        self.world.mock.authenticate_with(&payment_key, card);
        let window = Window { payment_key, virtual_account: method == Method::VirtualAccount };
        self.update(slot, &order.id, |order| order.windows.push(window.clone()));
        Some(window)
    }

    async fn confirm(&self, lane: usize, slot: usize, window: usize, by: By, twist: Twist) {
        let Some(order) = self.order(slot) else { return };
        let windows = match order.windows.is_empty() {
            true => self.authenticate(slot, self.means[slot % self.means.len()]).into_iter().collect(),
            false => order.windows.clone(),
        };
        let newest_first = windows.iter().rev().nth(window % windows.len().max(1));
        let Some(chosen) = newest_first else { return };
        let amount = if twist == Twist::WrongAmount { order.amount + 1 } else { order.amount };
        let key = match twist {
            Twist::FreshKey => Some(fresh_key()),
            Twist::BorrowedKey => {
                let other = windows.iter().find(|other| other.payment_key != chosen.payment_key);
                other.map(|other| other.payment_key.clone())
            }
            Twist::None | Twist::WrongAmount | Twist::HangUp { .. } => None,
        };
        let hangs_up = if let Twist::HangUp { ms } = twist { Some(Duration::from_millis(ms)) } else { None };
        let (token, owner) = self.caller(&order, by);
        let sent = Sent {
            door: Door::Confirm,
            token,
            owner,
            key,
            path: "/v1/payments/confirm".to_owned(),
            body: json!({ "paymentKey": chosen.payment_key, "orderId": order.id, "amount": amount }),
        };
        let answer = self.send(lane, &sent, hangs_up).await;
        if let Some((status, body)) = answer {
            let payment = text(&body, if status < 300 { "id" } else { "paymentId" });
            if payment.starts_with("pay_") {
                self.update(slot, &order.id, |order| order.payment = Some(payment));
            }
        }
    }

    fn caller(&self, order: &Order, by: By) -> (String, String) {
        match by {
            By::Buyer => (order.token.clone(), order.id.clone()),
            By::Shop => (self.world.secret.clone(), "secret".to_owned()),
        }
    }

    async fn cancel(&self, lane: usize, slot: usize, by: By, what: Scope, hangs_up_ms: Option<u64>) {
        let Some(order) = self.order(slot) else { return };
        let payment = match (&order.payment, what) {
            (_, Scope::Order) => None,
            (Some(payment), _) => Some(payment.clone()),
            (None, _) => self.look(lane, slot).await,
        };
        let (token, owner) = self.caller(&order, by);
        let mut body = json!({ "reason": "changed my mind" });
        match what {
            Scope::Order | Scope::Everything => {}
            Scope::Percent(percent) => body["amount"] = json!((order.amount * percent / 100).max(1)),
            Scope::Line { line, quantity } => body["lines"] = json!([{ "line": line + 1, "quantity": quantity }]),
        }
        if order.windows.iter().any(|window| window.virtual_account) {
            body["refundAccount"] = json!({ "bankCode": "88", "accountNumber": "110123456789", "holder": "Kim" });
        }
        let (door, path) = match (payment, what) {
            (Some(payment), _) => (Door::CancelPayment, format!("/v1/payments/{payment}/cancel")),
            (None, Scope::Order) => (Door::CancelOrder, format!("/v1/orders/{}/cancel", order.id)),
            (None, Scope::Everything | Scope::Percent(_) | Scope::Line { .. }) => return,
        };
        let sent = Sent { door, token, owner, key: Some(fresh_key()), path, body };
        self.update(slot, &order.id, |order| order.cancel = Some(sent.clone()));
        self.send(lane, &sent, hangs_up_ms.map(Duration::from_millis)).await;
    }

    async fn cancel_again(&self, lane: usize, slot: usize, other_body: bool) {
        let Some(mut sent) = self.order(slot).and_then(|order| order.cancel) else { return };
        if other_body {
            sent.body["reason"] = json!("another reason");
        }
        self.send(lane, &sent, None).await;
    }

    /// Reads the order; gives its payment.
    async fn look(&self, lane: usize, slot: usize) -> Option<String> {
        let order = self.order(slot)?;
        let sent = Sent {
            door: Door::Look,
            token: order.token.clone(),
            owner: order.id.clone(),
            key: None,
            path: format!("/v1/orders/{}", order.id),
            body: Value::Null,
        };
        let (_, body) = self.send(lane, &sent, None).await?;
        let payment = text(&body, "paymentId");
        payment.starts_with("pay_").then_some(payment)
    }

    async fn adjust(&self, lane: usize, product: usize, delta: i64) {
        let delta = if delta == 0 { 1 } else { delta };
        let kind = if delta > 0 { "restock" } else { "correction" };
        let product = &self.world.products[product % self.world.products.len()];
        let sent = Sent {
            door: Door::Adjust,
            token: self.world.secret.clone(),
            owner: "secret".to_owned(),
            key: None,
            path: format!("/v1/products/{product}/stock-adjustments"),
            body: json!({ "delta": delta, "kind": kind, "reason": "counted" }),
        };
        self.send(lane, &sent, None).await;
    }

    /// The PG's view of the slot's payments.
    fn at_the_pg(&self, slot: usize) -> Vec<BookPayment> {
        let Some(order) = self.order(slot) else { return Vec::new() };
        let book: Book = self.world.mock.book();
        book.of_order(&order.id).cloned().collect()
    }

    /// The slot's first payment at the PG that fits, if there is one soon.
    async fn soon_at_the_pg(&self, slot: usize, fits: impl Fn(&BookPayment) -> bool) -> Option<BookPayment> {
        for _ in 0..10 {
            if let Some(payment) = self.at_the_pg(slot).into_iter().find(&fits) {
                return Some(payment);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }

    /// A step that pg-mock refuses if it does not fit, so nothing comes of it then.
    async fn step(&self, payment_key: &str, step: &str, body: &Value, kind: &str) {
        let url = format!("{}/mock/payments/{payment_key}/{step}", self.world.mock.url());
        let answer = self.world.http.post(url).json(body).send().await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            self.world.fault(kind);
        }
    }

    async fn at_the_bank(&self, slot: usize, step: &str, from: Status) {
        let fits = |payment: &BookPayment| payment.method == Method::VirtualAccount && payment.status == from;
        if let Some(payment) = self.soon_at_the_pg(slot, fits).await {
            self.step(&payment.payment_key, step, &Value::Null, &format!("bank: {step}")).await;
        }
    }

    async fn deposit_anyway(&self, slot: usize, percent: i64) {
        // Only an account that was issued takes anything.
        let fits = |payment: &BookPayment| {
            let issued = matches!(payment.status, Status::WaitingForDeposit | Status::Canceled);
            payment.method == Method::VirtualAccount && payment.approvals.is_empty() && issued
        };
        if let Some(payment) = self.soon_at_the_pg(slot, fits).await {
            let body = json!({ "amount": (payment.total_amount * percent / 100).max(1) });
            self.step(&payment.payment_key, "deposit-anyway", &body, "bank: odd deposit").await;
        }
    }

    async fn console_cancel(&self, slot: usize, percent: i64) {
        let fits = |payment: &BookPayment| {
            matches!(payment.status, Status::Done | Status::PartialCanceled | Status::WaitingForDeposit)
        };
        if let Some(payment) = self.soon_at_the_pg(slot, fits).await {
            let left = payment.approved - payment.canceled;
            // An account without a deposit can only be closed as a whole.
            let is_empty = payment.status == Status::WaitingForDeposit;
            let amount = if is_empty { payment.total_amount } else { (left * percent / 100).max(1) };
            self.step(&payment.payment_key, "cancel", &json!({ "amount": amount }), "cancel in the console").await;
        }
    }

    async fn session_over(&self, slot: usize) {
        for payment in self.at_the_pg(slot) {
            if matches!(payment.status, Status::Ready | Status::InProgress) {
                self.step(&payment.payment_key, "expire", &Value::Null, "session over").await;
            }
        }
    }

    async fn hold_over(&self, slot: usize) {
        let Some(order) = self.order(slot) else { return };
        self.world.fault("hold over");
        let id = order.id.trim_start_matches("ord_").to_owned();
        self.world
            .sql(&format!("update orders set hold_expires_at = now() - interval '1 second' where id = '{id}'"))
            .await;
    }

    async fn notice(&self, lane: usize, slot: usize, kind: Notice, times: usize) {
        let payment = self.at_the_pg(slot).into_iter().next_back();
        let text = match (kind, payment) {
            (Notice::Status, Some(payment)) => self.world.mock.webhook_body(&payment.payment_key).to_string(),
            (Notice::Deposit, Some(payment)) => self.world.mock.deposit_callback_body(&payment.payment_key).to_string(),
            (Notice::Old(nth), _) => {
                let notices = open(&self.notices);
                let Some(old) = notices.get(nth % notices.len().max(1)).cloned() else { return };
                old
            }
            (Notice::Status | Notice::Deposit, None) => return,
        };
        open(&self.notices).push(text.clone());
        let body: Value = serde_json::from_str(&text).expect("a notice is JSON");
        self.world.fault(if times > 1 { "webhook repeated" } else { "webhook out of turn" });
        let copies = (0..times).map(|_| self.webhook(lane, &body));
        futures_util::future::join_all(copies).await;
    }

    /// Delivers a body as the PG would.
    pub async fn webhook(&self, lane: usize, body: &Value) -> Option<(u16, Value)> {
        let sent = Sent {
            door: Door::Webhook,
            token: String::new(),
            owner: String::new(),
            key: None,
            path: "/v1/webhooks/toss".to_owned(),
            body: body.clone(),
        };
        self.send(lane, &sent, None).await
    }

    async fn forge(&self, lane: usize, slot: usize, lie: Lie) {
        let payments = self.at_the_pg(slot);
        if let Some(payment) = payments.last() {
            self.world.fault("webhook forged");
            self.webhook(lane, &forged(lie, payment)).await;
        }
    }
}

/// What a forger sends about a payment.
pub fn forged(lie: Lie, payment: &BookPayment) -> Value {
    let status_changed = |status: &str, payment_key: &str, order_id: &str| {
        json!({
            "eventType": "PAYMENT_STATUS_CHANGED",
            "createdAt": fresh_key(),
            "data": {
                "paymentKey": payment_key, "orderId": order_id, "status": status, "mId": "mshop", "currency": "KRW",
                "totalAmount": payment.total_amount, "balanceAmount": payment.total_amount,
                "approvedAt": "2026-01-01T00:00:00+09:00", "cancels": null,
            },
        })
    };
    let (key, order) = (payment.payment_key.as_str(), payment.order_id.as_str());
    match lie {
        Lie::Done => status_changed("DONE", key, order),
        Lie::Canceled => status_changed("CANCELED", key, order),
        Lie::Aborted => status_changed("ABORTED", key, order),
        Lie::Expired => status_changed("EXPIRED", key, order),
        Lie::UnknownPayment => status_changed("DONE", &format!("forged{}", fresh_key()), order),
        Lie::OtherOrder => status_changed("DONE", key, "ord_00000000000000000000000000000000"),
        Lie::Deposit => json!({
            "createdAt": fresh_key(), "secret": "ps_guessed", "status": "DONE", "transactionKey": "txrd_forged",
            "orderId": order,
        }),
    }
}

fn fresh_key() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn text(body: &Value, field: &str) -> String {
    body[field].as_str().unwrap_or_default().to_owned()
}

/// The first word of something's JSON: `"off"` or `{"delay": …}`.
pub fn first_word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        Ok(Value::Object(object)) => object.keys().next().cloned().unwrap_or_default(),
        Ok(_) | Err(_) => String::new(),
    }
}

/// How a scripted misbehaviour is counted.
pub fn misbehaviour(operation: Operation, behaviour: &pg_mock::Behaviour) -> String {
    format!("PG {}: {}", first_word(&operation), first_word(behaviour))
}
