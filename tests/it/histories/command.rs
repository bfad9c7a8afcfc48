//! What a history is: plain data, so that it can be drawn at random, shrunk, kept in a file, read and replayed.

use std::fmt;

use paygauge::crash::CrashPoint;
use paygauge::telemetry::labels::Tx;
use pg_mock::{Behaviour, Card, Operation, WebhookMode};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

/// Everything that happens in one world.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    /// What it once showed; empty for a fresh one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// Processes of paygauge on one database, each API and worker.
    pub processes: usize,
    /// Whether the PG binds a 5xx to its idempotency key.
    pub binds_server_errors: bool,
    /// Units of each product at the start.
    pub stock: Vec<i64>,
    /// The order that each slot starts with.
    pub orders: Vec<Start>,
    /// Whether every process is killed at the end, with whatever it has in hand.
    pub ends_by_crash: bool,
    /// Who does what, all at the same time.
    pub lanes: Vec<Vec<Command>>,
}

/// What a slot starts with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    pub lines: Vec<Wanted>,
    /// How its buyers pay if no command says otherwise.
    pub by: Means,
}

/// Units of a product.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    pub product: usize,
    pub quantity: i64,
}

/// One step. Numbers of slots, windows, products and processes are taken modulo what there is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Places an order; the slot stands for it from then on.
    Place { slot: usize, lines: Vec<Wanted> },
    /// Sends the slot's order again under its key, or another one under the same key.
    PlaceAgain { slot: usize, other_body: bool },
    /// So many buyers order one product at once, the first of them twice under his key.
    Rush { product: usize, quantity: i64, buyers: usize },
    /// The buyer opens a payment window and authenticates.
    Authenticate { slot: usize, by: Means },
    /// Confirms one of the slot's payments, counted from the newest; of none, the buyer authenticates first.
    Confirm { slot: usize, window: usize, by: By, twist: Twist },
    /// Gives money back, if any was asked for, or gives the order up.
    Cancel { slot: usize, by: By, what: Scope, hangs_up_ms: Option<u64> },
    /// Sends the slot's last cancel again under its key, or another one under the same key.
    CancelAgain { slot: usize, other_body: bool },
    /// Reads the order.
    Look { slot: usize },
    /// The shop changes its stock.
    Adjust { product: usize, delta: i64 },
    /// The buyer pays into the virtual account.
    Deposit { slot: usize },
    /// The bank takes a deposit that it should have refused: another amount, or into an account that is closed.
    DepositAnyway { slot: usize, percent: i64 },
    /// The bank takes the deposit back.
    ReverseDeposit { slot: usize },
    /// Somebody cancels in the PG's console.
    ConsoleCancel { slot: usize, percent: i64 },
    /// The PG's payment windows of the slot run out.
    SessionOver { slot: usize },
    /// The hold of the slot's order ends.
    HoldOver { slot: usize },
    /// The PG's true notice, so many times at once.
    Notice { slot: usize, kind: Notice, times: usize },
    /// A notice that somebody made up.
    Forge { slot: usize, lie: Lie },
    /// How the PG's own webhooks go out from now on.
    Webhooks { mode: WebhookMode },
    /// How the PG's next calls go wrong.
    Misbehave { operation: Operation, behaviour: Behaviour, times: u32 },
    /// Everything that is written down happened this much earlier.
    Clock { seconds: i64 },
    /// Every connection to the database is cut.
    Cut,
    /// A process dies, if `at` names a point at that point, and comes back later.
    Crash { process: usize, at: Option<String>, down_ms: u64 },
    /// Nothing for a while.
    Pause { ms: u64 },
}

/// How the buyer pays.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Means {
    Card(Card),
    VirtualAccount,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    Buyer,
    Shop,
}

/// What is odd about a confirm.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Twist {
    None,
    /// Another amount than the order's.
    WrongAmount,
    /// The client goes away.
    HangUp {
        ms: u64,
    },
    /// Under a key of its own instead of the payment key.
    FreshKey,
    /// Under the key of another payment of the order: the body differs.
    BorrowedKey,
}

/// How much is canceled.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The order as a whole.
    Order,
    /// All that is left of the payment.
    Everything,
    /// A share of the order's amount.
    Percent(i64),
    /// Units of a line.
    Line { line: usize, quantity: i64 },
}

/// Which of the PG's notices.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    Status,
    Deposit,
    /// One that was delivered before, however old.
    Old(usize),
}

/// What a forger says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lie {
    /// Status changed: paid.
    Done,
    /// Status changed: canceled.
    Canceled,
    /// Status changed: aborted.
    Aborted,
    /// Status changed: expired.
    Expired,
    /// A deposit, under a guessed secret.
    Deposit,
    /// A payment that nobody knows, of a real order.
    UnknownPayment,
    /// The payment's key with another order's id.
    OtherOrder,
}

impl Lie {
    pub const ALL: [Self; 7] = [
        Self::Done,
        Self::Canceled,
        Self::Aborted,
        Self::Expired,
        Self::Deposit,
        Self::UnknownPayment,
        Self::OtherOrder,
    ];
}

impl History {
    /// How many commands it has.
    pub fn len(&self) -> usize {
        self.lanes.iter().map(Vec::len).sum()
    }
}

/// One line per command, lane by lane.
impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.about.is_empty() {
            writeln!(f, "{}", self.about)?;
        }
        writeln!(
            f,
            "{} process(es), stock {:?}, the PG {} 5xx, ends {}",
            self.processes,
            self.stock,
            if self.binds_server_errors { "remembers" } else { "forgets" },
            if self.ends_by_crash { "by crash" } else { "in peace" },
        )?;
        for (slot, start) in self.orders.iter().enumerate() {
            let lines: Vec<String> =
                start.lines.iter().map(|line| format!("{} of product {}", line.quantity, line.product)).collect();
            writeln!(f, "slot {slot} starts with {}, paid by {:?}", lines.join(", "), start.by)?;
        }
        for (lane, commands) in self.lanes.iter().enumerate() {
            writeln!(f, "lane {lane}:")?;
            for command in commands {
                writeln!(f, "  {}", serde_json::to_string(command).map_err(|_| fmt::Error)?)?;
            }
        }
        Ok(())
    }
}

/// Any history: a lane of weather, and 2 to 8 clients.
pub fn histories() -> impl Strategy<Value = History> {
    let clients = (2_usize..=8).prop_flat_map(|clients| {
        let longest = (32 / clients).max(6);
        prop::collection::vec(prop::collection::vec(client(), 2..=longest), clients)
    });
    (
        prop_oneof![3 => Just(1_usize), 1 => Just(2)],
        any::<bool>(),
        prop::collection::vec(prop_oneof![1 => 2_i64..8, 4 => 10_i64..30], 1..=2),
        prop::collection::vec((lines(), means()).prop_map(|(lines, by)| Start { lines, by }), 1..=4),
        any::<bool>(),
        prop::collection::vec(weather(), 0..=10),
        clients,
    )
        .prop_map(|(processes, binds_server_errors, stock, orders, ends_by_crash, weather, clients)| History {
            about: String::new(),
            processes,
            binds_server_errors,
            stock,
            orders,
            ends_by_crash,
            lanes: std::iter::once(weather).chain(clients).collect(),
        })
}

fn lines() -> impl Strategy<Value = Vec<Wanted>> {
    let line = (0_usize..2, 1_i64..4).prop_map(|(product, quantity)| Wanted { product, quantity });
    prop::collection::vec(line, 1..=2)
}

fn means() -> impl Strategy<Value = Means> {
    prop_oneof![
        5 => Just(Means::Card(Card::Good)),
        1 => Just(Means::Card(Card::Refused)),
        5 => Just(Means::VirtualAccount),
    ]
}

fn client() -> impl Strategy<Value = Command> {
    let slot = || 0_usize..4;
    let by = || prop_oneof![Just(By::Buyer), Just(By::Shop)];
    let twist = prop_oneof![
        8 => Just(Twist::None),
        1 => Just(Twist::WrongAmount),
        2 => (0_u64..40).prop_map(|ms| Twist::HangUp { ms }),
        1 => Just(Twist::FreshKey),
        1 => Just(Twist::BorrowedKey),
    ];
    let scope = prop_oneof![
        2 => Just(Scope::Order),
        3 => Just(Scope::Everything),
        4 => (1_i64..=100).prop_map(Scope::Percent),
        4 => (0_usize..2, 1_i64..4).prop_map(|(line, quantity)| Scope::Line { line, quantity }),
    ];
    let kind = prop_oneof![
        2 => Just(Notice::Status),
        1 => Just(Notice::Deposit),
        1 => (0_usize..9).prop_map(Notice::Old),
    ];
    prop_oneof![
        3 => (slot(), lines()).prop_map(|(slot, lines)| Command::Place { slot, lines }),
        1 => (slot(), any::<bool>()).prop_map(|(slot, other_body)| Command::PlaceAgain { slot, other_body }),
        1 => (0_usize..2, 1_i64..3, 2_usize..12)
            .prop_map(|(product, quantity, buyers)| Command::Rush { product, quantity, buyers }),
        3 => (slot(), means()).prop_map(|(slot, by)| Command::Authenticate { slot, by }),
        12 => (slot(), prop_oneof![4 => Just(0_usize), 1 => 1_usize..3], by(), twist)
            .prop_map(|(slot, window, by, twist)| Command::Confirm { slot, window, by, twist }),
        6 => (slot(), by(), scope, prop::option::weighted(0.15, 0_u64..40))
            .prop_map(|(slot, by, what, hangs_up_ms)| Command::Cancel { slot, by, what, hangs_up_ms }),
        2 => (slot(), prop::bool::weighted(0.3))
            .prop_map(|(slot, other_body)| Command::CancelAgain { slot, other_body }),
        1 => slot().prop_map(|slot| Command::Look { slot }),
        1 => (0_usize..2, -3_i64..5).prop_map(|(product, delta)| Command::Adjust { product, delta }),
        4 => slot().prop_map(|slot| Command::Deposit { slot }),
        1 => (slot(), 50_i64..150).prop_map(|(slot, percent)| Command::DepositAnyway { slot, percent }),
        2 => slot().prop_map(|slot| Command::ReverseDeposit { slot }),
        2 => (slot(), 1_i64..=100).prop_map(|(slot, percent)| Command::ConsoleCancel { slot, percent }),
        1 => slot().prop_map(|slot| Command::SessionOver { slot }),
        1 => slot().prop_map(|slot| Command::HoldOver { slot }),
        2 => (slot(), kind, 1_usize..4).prop_map(|(slot, kind, times)| Command::Notice { slot, kind, times }),
        1 => (slot(), prop::sample::select(&Lie::ALL[..])).prop_map(|(slot, lie)| Command::Forge { slot, lie }),
        4 => misbehave(),
        2 => (1_u64..60).prop_map(|ms| Command::Pause { ms }),
    ]
}

fn weather() -> impl Strategy<Value = Command> {
    let mode = prop_oneof![
        Just(WebhookMode::Normal),
        Just(WebhookMode::Off),
        any::<bool>().prop_map(|fresh_ids| WebhookMode::Duplicate { times: 3, fresh_ids }),
        (50_u64..400).prop_map(|ms| WebhookMode::Delay { ms }),
        (2_usize..4).prop_map(|batch| WebhookMode::Reorder { batch }),
        (20_u64..200).prop_map(|hold_ms| WebhookMode::BeforeResponse { hold_ms }),
    ];
    let points: Vec<String> =
        CrashPoint::all().filter(|point| is_of_money(*point)).map(|point| point.to_string()).collect();
    let at = prop::option::weighted(0.75, prop::sample::select(points));
    prop_oneof![
        6 => misbehave(),
        2 => mode.prop_map(|mode| Command::Webhooks { mode }),
        2 => prop_oneof![3 => 1_i64..60, 1 => 60_i64..900].prop_map(|seconds| Command::Clock { seconds }),
        1 => Just(Command::Cut),
        2 => (0_usize..2, at, 0_u64..150)
            .prop_map(|(process, at, down_ms)| Command::Crash { process, at, down_ms }),
        1 => (0_usize..4).prop_map(|slot| Command::HoldOver { slot }),
        5 => (5_u64..150).prop_map(|ms| Command::Pause { ms }),
    ]
}

/// The points between which money or stock is in the air.
fn is_of_money(point: CrashPoint) -> bool {
    match point {
        CrashPoint::Calling(_) | CrashPoint::Answered(_) => true,
        CrashPoint::Uncommitted(tx) | CrashPoint::Committed(tx) => {
            !matches!(tx, Tx::Catalogue | Tx::Read | Tx::Keys | Tx::Overview | Tx::Housekeeping | Tx::Sales)
        }
    }
}

fn misbehave() -> impl Strategy<Value = Command> {
    // Calls give up after 500 ms.
    let ms = || prop_oneof![1 => 20_u64..200, 2 => 550_u64..700];
    let coded = |status: u16, code: &str| (status, code.to_owned());
    let before = prop::sample::select(vec![
        coded(500, "FAILED_INTERNAL_SYSTEM_PROCESSING"),
        coded(503, "SOMETHING_NEW"),
        coded(400, "PROVIDER_ERROR"),
        coded(401, "UNAUTHORIZED_KEY"),
    ]);
    // Only what is no certain no: a PG that refuses in so many words and takes the money is beyond anybody's help.
    let after = prop::sample::select(vec![
        coded(500, "FAILED_INTERNAL_SYSTEM_PROCESSING"),
        coded(502, "SOMETHING_NEW"),
        coded(400, "PROVIDER_ERROR"),
    ]);
    let declines = prop::sample::select(vec!["REJECT_CARD_COMPANY", "EXCEED_MAX_AMOUNT", "FDS_ERROR"]);
    let refusals = prop::sample::select(vec!["EXCEED_MAX_REFUND_DUE", "REFUND_REJECTED", "FAILED_REFUND_PROCESS"]);
    let line = prop_oneof![
        ms().prop_map(|ms| Behaviour::Delay { ms }),
        ms().prop_map(|ms| Behaviour::ApproveThenHang { ms }),
        ms().prop_map(|ms| Behaviour::HangBefore { ms }),
        Just(Behaviour::ApproveThenDrop),
        ms().prop_map(|ms| Behaviour::DropThenApprove { ms }),
        Just(Behaviour::DropBefore),
        before.prop_map(|(status, code)| Behaviour::ErrorBefore { status, code }),
        after.prop_map(|(status, code)| Behaviour::ErrorAfter { status, code }),
        prop::sample::select(vec![200_u16, 404, 502]).prop_map(|status| Behaviour::HtmlError { status }),
        Just(Behaviour::Garbage),
        Just(Behaviour::UnknownEnum),
        Just(Behaviour::TooManyRequests { retry_after_s: 1 }),
        Just(Behaviour::InProgressConflict),
        Just(Behaviour::MissingFields { fields: vec![] }),
        Just(Behaviour::MismatchedOrder { order_id: "another-order".to_owned() }),
    ];
    let confirm = prop_oneof![
        6 => line.clone(),
        1 => declines.prop_map(|code| Behaviour::Decline { code: code.to_owned() }),
        1 => (500_i64..20_000).prop_map(|amount| Behaviour::MismatchedAmount { amount }),
    ];
    let cancel = prop_oneof![
        6 => line.clone(),
        1 => refusals.prop_map(|code| Behaviour::Decline { code: code.to_owned() }),
    ];
    let call = prop_oneof![
        4 => confirm.prop_map(|behaviour| (Operation::Confirm, behaviour)),
        3 => cancel.prop_map(|behaviour| (Operation::Cancel, behaviour)),
        2 => line.prop_map(|behaviour| (Operation::Lookup, behaviour)),
    ];
    (call, 1_u32..4).prop_map(|((operation, behaviour), times)| Command::Misbehave { operation, behaviour, times })
}
