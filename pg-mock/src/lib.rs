//! A fake PG that speaks the Toss Payments wire format, keeps its own book of what it approved and
//! canceled, and misbehaves on request.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use pg_mock::{Behaviour, Options, PgMock, Rule};
//!
//! let pg = PgMock::start(Options::default()).await?;
//! let payment_key = pg.pay("order-0001", 34_100);
//! pg.script(Rule::confirm(Behaviour::ApproveThenDrop).for_order("order-0001"));
//! // … the shop confirms `payment_key` at pg.url(), and hears nothing …
//! assert_eq!(pg.book().net("order-0001"), 34_100);
//! # Ok(())
//! # }
//! ```
//!
//! Beside the API itself (`/v1/…`, with credentials) and the payment window (`/window?…`), these are
//! there for people and other processes, without credentials:
//!
//! | route | what it does |
//! |---|---|
//! | `GET /mock/healthz` | answers when the server is up |
//! | `GET /mock/book` | the [`Book`] |
//! | `GET`, `POST`, `DELETE /mock/script` | reads, adds to and clears the script: a [`Rule`] or a list of them, e.g. `{"operation": "confirm", "behaviour": {"delay": {"ms": 500}}, "orderId": "…", "times": 2}`; `times` is 1 if left out, or `"always"` |
//! | `POST /mock/webhooks` | `{"url": …, "mode": …}`, each if given; a [`WebhookMode`] |
//! | `POST /mock/payments` | a buyer without a browser: `{"orderId", "amount"}` and, if wanted, `method`, `currency`, `orderName`, `card`; answers the authenticated payment |
//! | `POST /mock/payments/{paymentKey}/…` | `deposit`, `reverse-deposit`, `expire`, `authenticate`, `cancel` with `{"amount"}` as in the back office, or `deposit-anyway` with `{"amount"}`: a transfer that the bank should have refused |
//! | `POST /mock/reset` | forgets everything |
//!
//! It shares no type with the shop's code: it is the second opinion. [`PgMock`] serves until it is
//! dropped. Methods that play the buyer or the bank panic when the step does not fit the payment,
//! because a test that goes on from there would test nothing.

mod answer;
mod book;
mod control;
mod gateway;
mod idempotency;
mod lean;
mod payment;
pub mod program;
mod script;
mod server;
mod state;
mod store;
mod toss;
mod webhook;
mod window;

use std::fmt::Display;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use serde_json::Value;
use tokio::task::JoinHandle;
use wiremock::MockServer;

pub use book::{Book, BookPayment, Calls, KeyUse, WebhookCounts};
pub use gateway::NewPayment;
pub use payment::{Approval, CancelOrigin, Cancellation, Card, Method, Status};
pub use script::{Always, Behaviour, Operation, Rule, Times};
pub use webhook::WebhookMode;

use gateway::Gateway;
use webhook::Webhooks;

/// How often expiries and delayed effects are looked after when nobody calls.
const TICK: Duration = Duration::from_millis(20);

/// How the fake PG is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The API key the shop's server uses.
    pub secret_key: String,
    /// The key the payment window is opened with.
    pub client_key: String,
    /// The shop's id, at most 14 characters.
    pub m_id: String,
    /// Where webhooks go; none are sent without it.
    pub webhook_url: Option<String>,
    /// Keeps payments and remembered answers across restarts.
    pub state_file: Option<PathBuf>,
    /// From opening the window to authentication (`READY`).
    pub window: Duration,
    /// From authentication to confirm (`IN_PROGRESS`).
    pub session: Duration,
    /// How long a virtual account takes deposits.
    pub deposit_due: Duration,
    /// Whether a 5xx is bound to its idempotency key like any other answer. Not documented, so both
    /// can be tried.
    pub replay_server_errors: bool,
    /// Whether the transaction list begins with the newest row. Not documented, so both can be tried.
    pub list_newest_first: bool,
    /// Whether the transaction list gives cancels without a sign. Not documented, so both can be tried.
    pub list_unsigned_cancels: bool,
    /// From a change to its webhook.
    pub webhook_latency: Duration,
    /// Pauses before each retry of a webhook not answered with 200.
    pub webhook_retries: Vec<Duration>,
    /// How long the answer to a webhook is waited for.
    pub webhook_timeout: Duration,
    /// Serves without wiremock, which takes one request at a time: for load runs. What is answered is the same.
    pub lean: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            secret_key: "test_sk_mock".to_owned(),
            client_key: "test_ck_mock".to_owned(),
            m_id: "mshop".to_owned(),
            webhook_url: None,
            state_file: None,
            window: Duration::from_secs(30 * 60),
            session: Duration::from_secs(10 * 60),
            deposit_due: Duration::from_secs(7 * 24 * 60 * 60),
            replay_server_errors: false,
            list_newest_first: false,
            list_unsigned_cancels: false,
            webhook_latency: Duration::from_millis(25),
            // The documented 1, 4, 16 … 4096 minutes, with 50 ms for a minute.
            webhook_retries: (0..7).map(|n| Duration::from_millis(50 << (2 * n))).collect(),
            webhook_timeout: Duration::from_secs(10),
            lean: false,
        }
    }
}

/// A running fake PG; it stops when dropped.
pub struct PgMock {
    gateway: Arc<Gateway>,
    url: String,
    tasks: Vec<JoinHandle<()>>,
    _server: Option<Arc<MockServer>>,
}

impl PgMock {
    /// Starts listening.
    ///
    /// # Errors
    /// When the address is taken, the state file cannot be used, or there is no HTTP client.
    pub async fn start(options: Options) -> io::Result<PgMock> {
        let listener = TcpListener::bind(options.listen)?;
        let url = format!("http://{}", listener.local_addr()?);
        // Fails if a provider is installed already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(io::Error::other)?;
        let (webhooks, sender) = Webhooks::new(options.clone());
        let lean = options.lean;
        let gateway = Arc::new(Gateway::new(options, webhooks)?);
        let mut tasks = vec![tokio::spawn(sender.run(client)), tokio::spawn(tick(Arc::clone(&gateway)))];
        let server = if lean {
            tasks.push(tokio::spawn(lean::serve(listener, Arc::clone(&gateway))?));
            None
        } else {
            Some(server::start(listener, Arc::clone(&gateway)).await)
        };
        Ok(PgMock { gateway, url, tasks, _server: server })
    }

    /// `http://127.0.0.1:PORT`, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// What was really taken and given back up to now.
    #[must_use]
    pub fn book(&self) -> Book {
        self.gateway.book()
    }

    /// Adds a rule behind those already there.
    ///
    /// # Panics
    /// When the rule carries an impossible HTTP status.
    #[track_caller]
    pub fn script(&self, rule: Rule) {
        must(rule.check());
        self.gateway.state().script.add(rule);
    }

    /// Forgets every rule.
    pub fn clear_script(&self) {
        self.gateway.state().script.clear();
    }

    /// Rules not used up yet.
    #[must_use]
    pub fn script_left(&self) -> Vec<Rule> {
        self.gateway.state().script.rules().to_vec()
    }

    /// Forgets every payment, answer, rule and count.
    pub fn reset(&self) {
        self.gateway.reset();
    }

    /// The buyer opens a payment window: `READY`. Gives the payment key.
    #[must_use]
    pub fn open_window(&self, new: NewPayment) -> String {
        self.gateway.open(new, None)
    }

    /// The buyer authenticates: `IN_PROGRESS`.
    ///
    /// # Panics
    /// When the payment is not `READY`.
    #[track_caller]
    pub fn authenticate(&self, payment_key: &str) {
        self.authenticate_with(payment_key, Card::Good);
    }

    /// The buyer authenticates with a card of a certain fate.
    ///
    /// # Panics
    /// When the payment is not `READY`.
    #[track_caller]
    pub fn authenticate_with(&self, payment_key: &str, card: Card) {
        let method = self.gateway.state().payment(payment_key).map(|payment| payment.method);
        must(self.gateway.authenticate(payment_key, method.unwrap_or(Method::Card), card));
    }

    /// A card payment in won, opened and authenticated, ready for confirm. Gives the payment key.
    #[track_caller]
    #[must_use]
    pub fn pay(&self, order_id: &str, amount: i64) -> String {
        self.pay_by(Method::Card, order_id, amount)
    }

    /// As [`PgMock::pay`], with a virtual account: confirm answers `WAITING_FOR_DEPOSIT`.
    #[track_caller]
    #[must_use]
    pub fn pay_by_virtual_account(&self, order_id: &str, amount: i64) -> String {
        self.pay_by(Method::VirtualAccount, order_id, amount)
    }

    /// As [`PgMock::pay`], with any method.
    #[track_caller]
    #[must_use]
    pub fn pay_by(&self, method: Method, order_id: &str, amount: i64) -> String {
        let payment_key = self.open_window(NewPayment {
            order_id: order_id.to_owned(),
            amount,
            currency: "KRW".to_owned(),
            method,
            order_name: "연습 상품".to_owned(),
        });
        self.authenticate(&payment_key);
        payment_key
    }

    /// The buyer pays into the virtual account.
    ///
    /// # Panics
    /// When the payment is not `WAITING_FOR_DEPOSIT` or its due date is over.
    #[track_caller]
    pub fn deposit(&self, payment_key: &str) {
        must(self.gateway.deposit(payment_key));
    }

    /// The bank takes a deposit that it should have refused: of another amount, or into an account that is closed.
    ///
    /// # Panics
    /// When the payment is no unpaid virtual account.
    #[track_caller]
    pub fn deposit_anyway(&self, payment_key: &str, amount: i64) {
        must(self.gateway.deposit_anyway(payment_key, amount));
    }

    /// The bank takes the deposit back: `DONE` → `WAITING_FOR_DEPOSIT`.
    ///
    /// # Panics
    /// When the payment is not a paid virtual account.
    #[track_caller]
    pub fn reverse_deposit(&self, payment_key: &str) {
        must(self.gateway.reverse_deposit(payment_key));
    }

    /// The clock of an unconfirmed payment runs out now.
    ///
    /// # Panics
    /// When the payment is neither `READY` nor `IN_PROGRESS`.
    #[track_caller]
    pub fn expire(&self, payment_key: &str) {
        must(self.gateway.expire(payment_key));
    }

    /// Somebody cancels in the PG's own back office.
    ///
    /// # Panics
    /// When the payment is not paid or `amount` is more than what is left.
    #[track_caller]
    pub fn cancel_in_console(&self, payment_key: &str, amount: i64) {
        must(self.gateway.cancel_in_console(payment_key, amount));
    }

    /// The PG loses a payment, as after a disaster of its own: no lookup and no list knows it.
    ///
    /// # Panics
    /// When there is no such payment.
    #[track_caller]
    pub fn lose(&self, payment_key: &str) {
        must(self.gateway.state().lose(payment_key));
    }

    /// The PG books what it took under another amount.
    ///
    /// # Panics
    /// When there is no such payment.
    #[track_caller]
    pub fn rebook(&self, payment_key: &str, amount: i64) {
        must(self.gateway.adjust(payment_key, |payment| payment.rebook(amount)));
    }

    /// The transaction list leaves the newest row of the payment out, as if it came late.
    ///
    /// # Panics
    /// When there is no such payment.
    #[track_caller]
    pub fn unlist_newest(&self, payment_key: &str) {
        must(self.gateway.adjust(payment_key, |payment| drop(payment.transactions.pop())));
    }

    /// Makes the payment an escrow payment, which can be canceled as a whole only.
    ///
    /// # Panics
    /// When there is no such payment.
    #[track_caller]
    pub fn use_escrow(&self, payment_key: &str) {
        must(self.gateway.adjust(payment_key, |payment| payment.escrow = true));
    }

    /// Makes the payment one that can be canceled as a whole only.
    ///
    /// # Panics
    /// When there is no such payment.
    #[track_caller]
    pub fn forbid_partial_cancel(&self, payment_key: &str) {
        must(self.gateway.adjust(payment_key, |payment| payment.partial_cancelable = false));
    }

    /// Gives the payment an instant discount of `amount`, contained in its total.
    ///
    /// # Panics
    /// When there is no such payment.
    #[track_caller]
    pub fn set_discount(&self, payment_key: &str, amount: i64) {
        must(self.gateway.adjust(payment_key, |payment| payment.discount = amount));
    }

    /// Where webhooks go from now on.
    pub fn set_webhook_url(&self, url: Option<String>) {
        self.gateway.webhooks.set_url(url);
    }

    /// How webhooks go out from now on.
    pub fn webhooks(&self, mode: WebhookMode) {
        self.gateway.webhooks.set_mode(mode);
    }

    /// The Payment object as a lookup would give it.
    #[must_use]
    pub fn payment_json(&self, payment_key: &str) -> Option<Value> {
        let state = self.gateway.state();
        let payment = state.payment(payment_key)?;
        Some(toss::wire::payment(payment, &self.gateway.options, Utc::now()))
    }

    /// What a `PAYMENT_STATUS_CHANGED` would carry now; `null` for an unknown payment.
    #[must_use]
    pub fn webhook_body(&self, payment_key: &str) -> Value {
        let state = self.gateway.state();
        state
            .payment(payment_key)
            .map_or(Value::Null, |payment| webhook::status_changed(payment, &self.gateway.options, Utc::now()))
    }

    /// What a `DEPOSIT_CALLBACK` would carry now; `null` for an unknown payment.
    #[must_use]
    pub fn deposit_callback_body(&self, payment_key: &str) -> Value {
        let state = self.gateway.state();
        state.payment(payment_key).map_or(Value::Null, |payment| webhook::deposit_callback(payment, Utc::now()))
    }
}

impl Drop for PgMock {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn tick(gateway: Arc<Gateway>) {
    loop {
        tokio::time::sleep(TICK).await;
        drop(gateway.state());
    }
}

/// Ends a test that asked for something impossible.
#[track_caller]
#[expect(clippy::panic, reason = "a test that goes on from here would test nothing")]
fn must<T, E: Display>(result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(misuse) => panic!("pg-mock: {misuse}"),
    }
}
