//! What telemetry costs: `cargo bench --bench overhead`.
//!
//! The real program, built for release, serves the same flow (order, confirm, cancel) with more and more of its telemetry
//! switched on: a process for each, over one durable PostgreSQL, with pg-mock and a worker beside them. All have the same
//! database: two of them can differ by more than telemetry costs, by when PostgreSQL made its plans and vacuumed. They take
//! turns of a second or so, forwards and backwards, so that what else happens on the machine falls on every mode alike.
//! Printed are medians of the differences and ratios to the first mode of the same round, with their quartiles, and means
//! with their standard error. The number to trust is CPU per flow: throughput on a shared machine is weather. What is left
//! of luck is seen by a mode against itself (`PAYGAUGE_BENCH_MODES=0,0`).
//!
//! `PAYGAUGE_BENCH_ROUNDS` (30) and `PAYGAUGE_BENCH_FLOWS` (120 a turn) make it longer or shorter. `PAYGAUGE_BENCH_MODES`
//! (`0,3`: by their place in [`MODES`]) leaves modes out, for more rounds in the same time; the first is what the others are
//! compared with. `PAYGAUGE_BENCH_DISK=no` has a PostgreSQL that waits for no disk: its waits are most of what one
//! turn differs from the next by, and without them telemetry is a greater part of the work, so the ratio is a lower bound.
//!
//! `PAYGAUGE_BENCH_PACE=<flows a second>` is about waiting instead: flows begin at this pace, whether or not earlier ones
//! have ended, and printed is how long their confirms took. Half of what a run without it shows is a shop's busy day.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "a benchmark that meets the unexpected must end there"
)]

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::post;
use paygauge::crash::CrashSwitch;
use paygauge::db::Db;
use paygauge::db::connect::{self, DbConfig};
use paygauge::dev::postgres::{Cluster, Lifetime, Options};
use paygauge::http::auth::keys::{self, Role};
use pg_mock::PgMock;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const CLIENTS: usize = 12;
const WARM_UP: usize = 200;
const PRODUCTS: usize = 24;
const PRICE: i64 = 12_000;

/// What is switched on, from nothing to everything.
#[derive(Clone, Copy)]
struct Mode {
    name: &'static str,
    telemetry: &'static str,
    keep: &'static str,
}

const MODES: [Mode; 5] = [
    Mode { name: "off", telemetry: "off", keep: "0" },
    Mode { name: "metrics", telemetry: "metrics", keep: "0" },
    Mode { name: "metrics, logs", telemetry: "metrics,logs", keep: "0" },
    Mode { name: "all, traces kept 5 %", telemetry: "metrics,logs,traces", keep: "0.05" },
    Mode { name: "all, traces kept 100 %", telemetry: "metrics,logs,traces", keep: "1" },
];

/// One run.
struct Run {
    /// How long each confirm took, in milliseconds.
    confirms: Vec<f64>,
    flows_per_second: f64,
    cpu_us_per_flow: f64,
    /// Of all that ran on the machine.
    machine_us_per_flow: f64,
    rss_mib: f64,
}

fn main() {
    // `cargo test --benches` and clippy only want it to build.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let data = std::env::temp_dir().join(format!("paygauge-bench-{}", std::process::id()));
    let waits_for_disk = std::env::var("PAYGAUGE_BENCH_DISK").map_or(true, |text| text != "no");
    let options = Options {
        lifetime: if waits_for_disk { Lifetime::Kept(data.clone()) } else { Lifetime::Throwaway },
        bin_dir: std::env::var_os("PG_BIN_DIR").map(PathBuf::from),
        search_path: std::env::var_os("PATH"),
    };
    let cluster = Cluster::start(&options).expect("a PostgreSQL");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(measure(&cluster));
    cluster.stop().expect("its end");
    if waits_for_disk {
        std::fs::remove_dir_all(data).expect("ours");
    }
}

async fn measure(cluster: &Cluster) {
    drop(rustls::crypto::ring::default_provider().install_default());
    let number = |name: &str, otherwise| std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"));
    let (rounds, flows) = (number("PAYGAUGE_BENCH_ROUNDS", 30), number("PAYGAUGE_BENCH_FLOWS", 120));
    let modes: Vec<Mode> = std::env::var("PAYGAUGE_BENCH_MODES").map_or(MODES.to_vec(), |places| {
        places.split(',').map(|place| MODES[place.parse::<usize>().expect("a place in the list")]).collect()
    });
    let pace = std::env::var("PAYGAUGE_BENCH_PACE").ok().map(|text| text.parse::<f64>().expect("a number"));
    let stage = Stage::build(cluster).await;
    let mut benches = Vec::new();
    for &mode in &modes {
        let bench = Bench::begin(&stage, mode).await;
        bench.shop.flows(WARM_UP).await;
        benches.push(bench);
    }
    stage.analyse().await;
    let mut runs: Vec<Vec<Run>> = modes.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        let forwards: Vec<usize> = (0..modes.len()).collect();
        let order: Vec<usize> = if round % 2 == 0 { forwards } else { forwards.into_iter().rev().collect() };
        for mode in order {
            let run = benches[mode].run(flows, pace).await;
            eprintln!(
                "round {:>2}/{rounds}  {:<24} {:>7.1} flows/s  {:>7.0} µs CPU/flow  {:>6.1} MiB",
                round + 1,
                modes[mode].name,
                run.flows_per_second,
                run.cpu_us_per_flow,
                run.rss_mib
            );
            runs[mode].push(run);
        }
    }
    println!("\n{rounds} rounds of {flows} flows (order, confirm, cancel)");
    match pace {
        None => report_work(&modes, &runs),
        Some(pace) => report_waits(&modes, &runs, pace),
    }
}

fn report_work(modes: &[Mode], runs: &[Vec<Run>]) {
    println!("{CLIENTS} clients\n");
    println!(
        "| telemetry | flows/s | of off | quartiles | mean | CPU µs/flow | more than off, per operation | quartiles | mean \
         | machine, µs/flow | of off | RSS |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for (mode, of_mode) in modes.iter().zip(runs) {
        let pairs = || of_mode.iter().zip(&runs[0]);
        let speed = sorted(pairs().map(|(on, off)| on.flows_per_second / off.flows_per_second));
        let more = sorted(pairs().map(|(on, off)| (on.cpu_us_per_flow - off.cpu_us_per_flow) / 3.0));
        let machine = sorted(pairs().map(|(on, off)| on.machine_us_per_flow / off.machine_us_per_flow));
        let (speed_mean, speed_error) = mean(&speed);
        let (more_mean, more_error) = mean(&more);
        println!(
            "| {} | {:.0} | {:.3} | {:.3}–{:.3} | {speed_mean:.3} ± {speed_error:.3} | {:.0} | {:+.0} µs | {:+.0}–{:+.0} µs \
             | {more_mean:+.0} ± {more_error:.0} µs | {:.0} | {:.3} | {:.0} MiB |",
            mode.name,
            at(&sorted(of_mode.iter().map(|run| run.flows_per_second)), 0.5),
            at(&speed, 0.5),
            at(&speed, 0.25),
            at(&speed, 0.75),
            at(&sorted(of_mode.iter().map(|run| run.cpu_us_per_flow)), 0.5),
            at(&more, 0.5),
            at(&more, 0.25),
            at(&more, 0.75),
            at(&sorted(of_mode.iter().map(|run| run.machine_us_per_flow)), 0.5),
            at(&machine, 0.5),
            of_mode.last().map_or(0.0, |run| run.rss_mib),
        );
    }
}

/// A tail needs many values: it is that of so many rounds together.
const ROUNDS_OF_A_TAIL: usize = 10;

fn report_waits(modes: &[Mode], runs: &[Vec<Run>], pace: f64) {
    println!("one begins every {:.1} ms; confirms, in milliseconds\n", 1e3 / pace);
    println!(
        "| telemetry | confirms | p50 | p99 | p99.9 | p50, more than off | p99, more than off | quartiles | p99, of off |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let confirms = |runs: &[Run]| sorted(runs.iter().flat_map(|run| run.confirms.iter().copied()));
    for (mode, of_mode) in modes.iter().zip(runs) {
        let all = confirms(of_mode);
        let tails = of_mode.chunks_exact(ROUNDS_OF_A_TAIL).zip(runs[0].chunks_exact(ROUNDS_OF_A_TAIL));
        let tails: Vec<_> = tails.map(|(on, off)| (confirms(on), confirms(off))).collect();
        // Medians: where the machine stood still for half a second, a mean would tell of nothing else.
        let more = |part| sorted(tails.iter().map(|(on, off)| at(on, part) - at(off, part)));
        let (middle, tail) = (more(0.5), more(0.99));
        let ratio = sorted(tails.iter().map(|(on, off)| at(on, 0.99) / at(off, 0.99)));
        println!(
            "| {} | {} | {:.2} | {:.2} | {:.2} | {:+.2} | {:+.2} | {:+.2} to {:+.2} | {:.3} |",
            mode.name,
            all.len(),
            at(&all, 0.5),
            at(&all, 0.99),
            at(&all, 0.999),
            at(&middle, 0.5),
            at(&tail, 0.5),
            at(&tail, 0.25),
            at(&tail, 0.75),
            at(&ratio, 0.5),
        );
    }
}

/// What all modes have in common.
struct Stage {
    database: DbConfig,
    db: Db,
    mock: Arc<PgMock>,
    key: SecretString,
    receiver: String,
    /// Does what is to be done besides requests; not measured.
    _worker: Server,
}

impl Stage {
    async fn build(cluster: &Cluster) -> Self {
        connect::ensure_database(&config(cluster, "postgres"), "bench", None).await.expect("a database");
        let database = config(cluster, "bench");
        connect::migrate(&database).await.expect("the schema");
        let db = Db::new(connect::pool(&database).await.expect("a pool"), 2, CrashSwitch::default());
        let (_, key) = keys::create(&db, Role::Secret, "bench").await.expect("a key");
        let mock = Arc::new(PgMock::start(pg_mock::Options::default()).await.expect("pg-mock"));
        let receiver = receiver().await;
        let worker = Server::start(&database, &mock, "worker", MODES[3], &receiver);
        Self { database, db, mock, key, receiver, _worker: worker }
    }

    /// Has PostgreSQL look at the tables, which were empty when their first plans were made.
    async fn analyse(&self) {
        let analysed = self.db.read(async |conn| {
            let analysed = diesel_async::RunQueryDsl::execute(diesel::sql_query("analyze"), conn).await;
            analysed.map_err(paygauge::db::DbError::from)
        });
        analysed.await.expect("its statistics");
    }
}

/// One mode: its process, its buyers, and what scrapes it.
struct Bench {
    server: Server,
    shop: Arc<Shop>,
}

impl Bench {
    async fn begin(stage: &Stage, mode: Mode) -> Self {
        let server = Server::start(&stage.database, &stage.mock, "api", mode, &stage.receiver);
        let shop = Arc::new(Shop::open(&server, stage.key.expose_secret(), Arc::clone(&stage.mock)).await);
        tokio::spawn(scrape(server.ops.clone()));
        Self { server, shop }
    }

    async fn run(&self, flows: usize, pace: Option<f64>) -> Run {
        let (cpu, machine, started) = (self.server.cpu(), machine_cpu(), Instant::now());
        let confirms = match pace {
            None => self.shop.flows(flows).await,
            Some(pace) => self.shop.paced_flows(flows, pace).await,
        };
        let (elapsed, cpu, machine) = (started.elapsed(), self.server.cpu() - cpu, machine_cpu() - machine);
        let per_flow = 1.0 / flows as f64;
        Run {
            confirms,
            flows_per_second: flows as f64 / elapsed.as_secs_f64(),
            cpu_us_per_flow: cpu.as_secs_f64() * 1e6 * per_flow,
            machine_us_per_flow: machine.as_secs_f64() * 1e6 * per_flow,
            rss_mib: self.server.rss_mib(),
        }
    }
}

/// Processor time of everything on this machine so far, in hundredths of a second.
fn machine_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/stat").expect("its state");
    let spent = stat.lines().next().expect("the sum").split_ascii_whitespace().skip(1);
    // user, nice, system, idle, waiting for disks, interrupts: proc_stat(5).
    let busy = spent.take(7).enumerate().filter(|(place, _)| !matches!(place, 3 | 4));
    busy.map(|(_, ticks)| Duration::from_millis(10 * ticks.parse::<u64>().expect("ticks"))).sum()
}

fn config(cluster: &Cluster, name: &str) -> DbConfig {
    DbConfig {
        url: cluster.url(name).into(),
        pool_connections_max: 16,
        pool_wait: Duration::from_secs(5),
        statement_timeout: Duration::from_secs(10),
        lock_timeout: Duration::from_secs(5),
        root_cert_file: None,
    }
}

/// Takes every span and forgets it.
async fn receiver() -> String {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let router = Router::new().route("/v1/traces", post(async |_: axum::body::Bytes| ()));
    tokio::spawn(async move { axum::serve(listener, router).await.expect("a receiver") });
    url
}

/// As Prometheus does.
async fn scrape(ops: String) {
    let http = reqwest::Client::new();
    loop {
        let request = http.get(format!("http://{ops}/metrics")).header("Accept", "application/openmetrics-text");
        // The last ones go to programs that have ended.
        let Ok(answer) = request.send().await else { return };
        answer.bytes().await.map(drop).unwrap_or_default();
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

/// The program that is measured.
struct Server {
    child: Child,
    base: String,
    ops: String,
}

impl Server {
    fn start(database: &DbConfig, mock: &PgMock, role: &str, mode: Mode, receiver: &str) -> Self {
        // Without logs the addresses could not be read: they are given instead.
        let (base, ops) = (free_address(), free_address());
        let mut child = Command::new(env!("CARGO_BIN_EXE_paygauge"))
            .arg("serve")
            .env_clear()
            .env("PAYGAUGE_ENV", "test")
            .env("PAYGAUGE_ROLES", role)
            .env("DATABASE_URL", database.url.expose_secret())
            .env("TOSS_BASE_URL", mock.url())
            .env("TOSS_SECRET_KEY", "test_sk_mock")
            .env("PAYGAUGE_TOKEN_SECRET", "a secret of more than thirty-two characters")
            .env("PAYGAUGE_LISTEN", &base)
            .env("PAYGAUGE_OPS_LISTEN", &ops)
            .env("PAYGAUGE_TELEMETRY", mode.telemetry)
            .env("PAYGAUGE_TRACE_KEEP_RATIO", mode.keep)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program");
        let lines = BufReader::new(child.stdout.take().expect("its output"));
        // The log's reader costs the machine something too, as it does in production.
        std::thread::spawn(move || lines.lines().map_while(Result::ok).for_each(drop));
        Self { child, base: format!("http://{base}"), ops }
    }

    /// Processor time of all its threads so far, to the nanosecond; ticks would be too coarse for a turn.
    fn cpu(&self) -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("its threads");
        threads
            // A thread that ends meanwhile is one of the pool for blocking work, with next to no time.
            .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok())
            .map(|spent| {
                let nanos = spent.split_ascii_whitespace().next().expect("a time");
                Duration::from_nanos(nanos.parse().expect("nanoseconds"))
            })
            .sum()
    }

    fn rss_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("its state");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.trim().trim_end_matches("kB").trim().parse::<f64>().expect("a number") / 1024.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        drop(self.child.wait());
    }
}

fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}

/// The buyers.
struct Shop {
    http: reqwest::Client,
    base: String,
    key: String,
    mock: Arc<PgMock>,
    products: Vec<String>,
}

impl Shop {
    async fn open(server: &Server, key: &str, mock: Arc<PgMock>) -> Self {
        let http = reqwest::Client::new();
        let ready = format!("http://{}/readyz", server.ops);
        let started = Instant::now();
        while !http.get(&ready).send().await.is_ok_and(|answer| answer.status().is_success()) {
            assert!(started.elapsed() < Duration::from_secs(30), "it does not serve");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut shop = Self { http, base: server.base.clone(), key: key.to_owned(), mock, products: Vec::new() };
        for number in 0..PRODUCTS {
            let body = json!({ "name": format!("product {number}"), "price": PRICE, "initialStock": 1_000_000 });
            let product = shop.ask("/v1/products", &body).await;
            shop.products.push(product["id"].as_str().expect("an id").to_owned());
        }
        shop
    }

    async fn ask(&self, path: &str, body: &Value) -> Value {
        let request = self.http.post(format!("{}{path}", self.base)).bearer_auth(&self.key).json(body);
        let request = request.header("Idempotency-Key", uuid::Uuid::new_v4().to_string());
        let answer = request.send().await.expect("an answer");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.json().await.expect("JSON")
    }

    /// So many flows by all clients together; how long each confirm took, in milliseconds.
    async fn flows(self: &Arc<Self>, flows: usize) -> Vec<f64> {
        let next = Arc::new(AtomicUsize::new(0));
        let clients = (0..CLIENTS).map(|_| {
            let (shop, next) = (Arc::clone(self), Arc::clone(&next));
            async move {
                let mut confirms = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= flows {
                        return confirms;
                    }
                    confirms.push(shop.flow(number).await);
                }
            }
        });
        clients.collect::<JoinSet<_>>().join_all().await.concat()
    }

    /// The same, begun at an even pace.
    async fn paced_flows(self: &Arc<Self>, flows: usize, per_second: f64) -> Vec<f64> {
        let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / per_second));
        let mut begun = JoinSet::new();
        for number in 0..flows {
            tick.tick().await;
            let shop = Arc::clone(self);
            begun.spawn(async move { shop.flow(number).await });
        }
        begun.join_all().await
    }

    /// One buyer; how long the confirm took, in milliseconds.
    async fn flow(&self, number: usize) -> f64 {
        let product = &self.products[number % PRODUCTS];
        let order = self.ask("/v1/orders", &json!({ "lines": [{ "productId": product, "quantity": 1 }] })).await;
        let id = order["id"].as_str().expect("an id");
        let key = self.mock.pay(id, PRICE);
        let body = json!({ "paymentKey": key, "orderId": id, "amount": PRICE });
        let asked = Instant::now();
        let payment = self.ask("/v1/payments/confirm", &body).await;
        let confirm = asked.elapsed().as_secs_f64() * 1e3;
        let payment = payment["id"].as_str().expect("an id");
        self.ask(&format!("/v1/payments/{payment}/cancel"), &json!({ "reason": "changed my mind" })).await;
        confirm
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The mean and its standard error.
fn mean(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0).max(1.0) / count).sqrt())
}

/// What so great a part of the values is not above.
fn at(sorted: &[f64], part: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * part).round() as usize]
}
