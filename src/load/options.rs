//! What a load run is told: which scenario, how it is driven, for how long, and against what.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use secrecy::SecretString;

use crate::domain::vocabulary;

/// The most of a share, in percent.
const ALL_PERCENT: f64 = 100.0;
/// The most products that a run makes for itself.
pub const PRODUCTS_MAX: u32 = 10_000;

vocabulary! {
    /// What each buyer does.
    pub enum Scenario {
        /// Place an order.
        Order => "order",
        /// Place an order, pay it.
        OrderConfirm => "order-confirm",
        /// Place an order, pay it, cancel it.
        Flow => "flow",
        /// Look at the list and at a product.
        Browse => "browse",
        /// Repeat an order and a confirm that were answered before, with their keys.
        Replay => "replay",
        /// The PG's notices about paid orders, each twice.
        Webhooks => "webhooks",
        /// Everybody buys the same product: an order and its confirm.
        FlashSale => "flash-sale",
        /// Orders whose confirm is declined, hangs or is cut for given shares; half of the paid ones are canceled.
        Mixed => "mixed",
    }
}

/// Who decides when the next turn begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// So many buyers, each beginning again as soon as it is done.
    Closed {
        /// Buyers.
        clients: u32,
    },
    /// The clock: latency counts from when a turn was to begin, whether or not it could.
    Open {
        /// Turns per second.
        rate: f64,
        /// Turns that may be unfinished at a time; what comes beyond it is not begun and counts as `overflow`.
        in_flight_max: u32,
    },
}

/// How long the measured part lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// So long.
    Duration(Duration),
    /// So many turns.
    Turns(u64),
}

/// Shares of the confirms of [`Scenario::Mixed`] that go wrong, in percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shares {
    /// Declined by the card company.
    pub declines: f64,
    /// Taken, but the PG answers too late.
    pub timeouts: f64,
    /// Taken, but the connection is cut.
    pub unknowns: f64,
}

/// What the load is sent to.
#[derive(Debug, Clone)]
pub enum Where {
    /// A server, a database and a pg-mock of this run's own, each a process.
    Own(OwnOptions),
    /// Something that runs already.
    Given(Given),
}

/// How the run's own processes are set up.
#[derive(Debug, Clone, Default)]
pub struct OwnOptions {
    /// Where the database and the logs live; a temporary directory if not said. A directory that is named stays.
    pub data_dir: Option<PathBuf>,
    /// Further variables of the server's environment.
    pub server_vars: Vec<(String, String)>,
    /// Whether the PG sends webhooks about every change.
    pub webhooks: bool,
    /// Whether pg-mock serves by wiremock, as in tests, instead of by its lean door.
    pub wiremock: bool,
}

/// Something that runs already.
#[derive(Debug, Clone)]
pub struct Given {
    /// Base of the API, without a slash at the end.
    pub url: String,
    /// A secret key of it.
    pub key: SecretString,
    /// Who alone may vouch for its certificate, as PEM; whom the system trusts, if not said.
    pub ca_file: Option<PathBuf>,
    /// Base of its pg-mock.
    pub mock_url: String,
    /// Its server processes on this machine.
    pub server_pids: Vec<u32>,
    /// Its pg-mock on this machine.
    pub mock_pids: Vec<u32>,
}

impl Given {
    /// What is in its `ca_file`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn roots(&self) -> anyhow::Result<Option<Vec<u8>>> {
        let read = |file: &PathBuf| std::fs::read(file).with_context(|| format!("cannot read {}", file.display()));
        self.ca_file.as_ref().map(read).transpose()
    }
}

/// Everything a run is told.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// What each buyer does.
    pub scenario: Scenario,
    /// Who decides when.
    pub pace: Pace,
    /// How long the measured part lasts.
    pub extent: Extent,
    /// How long is driven before, unmeasured.
    pub warm_up: Duration,
    /// Products to spread the orders over; a flash sale has one.
    pub products: u32,
    /// Units of each.
    pub stock: u32,
    /// What goes wrong in [`Scenario::Mixed`].
    pub shares: Shares,
    /// How long the end is waited for at which nothing is undecided.
    pub settle: Duration,
    /// What the load is sent to.
    pub target: Where,
    /// Where to write the report as JSON.
    pub json: Option<PathBuf>,
    /// Where to write the report as a page.
    pub html: Option<PathBuf>,
}

impl LoadOptions {
    /// Every mistake, each naming its option.
    #[must_use]
    pub fn mistakes(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut must = |is_right: bool, what: &str| {
            if !is_right {
                wrong.push(what.to_owned());
            }
        };
        match self.pace {
            Pace::Closed { clients } => must((1..=10_000).contains(&clients), "--clients: 1 to 10000"),
            Pace::Open { rate, in_flight_max } => {
                must((0.1..=100_000.0).contains(&rate), "--rate: 0.1 to 100000 per second");
                must((1..=100_000).contains(&in_flight_max), "--in-flight: 1 to 100000");
            }
        }
        match self.extent {
            Extent::Duration(duration) => must(!duration.is_zero(), "--duration: at least a second"),
            Extent::Turns(turns) => must(turns > 0, "--requests: at least 1"),
        }
        must((1..=PRODUCTS_MAX).contains(&self.products), "--products: 1 to 10000");
        must(self.stock > 0, "--stock: at least 1");
        let Shares { declines, timeouts, unknowns } = self.shares;
        let sane = [declines, timeouts, unknowns].iter().all(|share| (0.0..=ALL_PERCENT).contains(share));
        must(
            sane && declines + timeouts + unknowns <= ALL_PERCENT,
            "--declines, --timeouts, --unknowns: percent, 100 together at most",
        );
        if let Where::Given(given) = &self.target {
            for (option, url) in [("--url", &given.url), ("--mock-url", &given.mock_url)] {
                let is_base = reqwest::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
                must(is_base, &format!("{option}: http://host:port, not {url:?}"));
            }
        }
        wrong
    }

    /// How many products the run makes.
    #[must_use]
    pub fn products_made(&self) -> u32 {
        if self.scenario == Scenario::FlashSale { 1 } else { self.products }
    }
}
