//! The real program: started from nothing, stopped, killed under load, started again.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use paygauge::db::connect::{self, DbConfig};
use reqwest::StatusCode;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::support::invariants;
use crate::support::programs;
use crate::support::shop::{Client, http, invariants_client};
use crate::support::{database, eventually};

const PROGRAM: &str = env!("CARGO_BIN_EXE_paygauge");
/// Starting includes `initdb` on a busy machine.
const START: Duration = Duration::from_secs(90);

/// A directory that goes away with the test.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("paygauge-test-{name}-{}", uuid::Uuid::new_v4().as_simple()));
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}

/// A development stack in a process of its own.
struct Stack {
    child: Child,
    output: String,
}

/// A test that fails leaves no stack behind.
impl Drop for Stack {
    fn drop(&mut self) {
        if self.child.kill().is_ok()
            && let Err(error) = self.child.wait()
        {
            eprintln!("the stack's end was not seen: {error}");
        }
    }
}

impl Stack {
    fn start(data: &Path) -> Self {
        let child = Command::new(PROGRAM)
            .args(["--data-dir".as_ref(), data.as_os_str()])
            .env_remove("DATABASE_URL")
            .env("PAYGAUGE_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the program");
        let mut stack = Self { child, output: String::new() };
        let lines = BufReader::new(stack.child.stdout.take().expect("its output"));
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let begun = Instant::now();
        loop {
            let left = START.saturating_sub(begun.elapsed());
            let line = receive.recv_timeout(left).unwrap_or_else(|_| panic!("not ready: {}", stack.output));
            stack.output.push_str(&line);
            stack.output.push('\n');
            if line == "ready" {
                // The rest is read away, so that the program never blocks on a full pipe.
                std::thread::spawn(move || while receive.recv().is_ok() {});
                return stack;
            }
        }
    }

    /// What stands behind a label in the welcome.
    fn said(&self, label: &str) -> String {
        let line = self.output.lines().find(|line| line.trim_start().starts_with(label));
        let line = line.unwrap_or_else(|| panic!("no {label} in {}", self.output));
        line.trim_start()[label.len()..].split_whitespace().next().expect("a value").to_owned()
    }

    fn api(&self) -> String {
        self.said("API ").trim_end_matches("/v1").to_owned()
    }

    fn client(&self) -> Client {
        Client::new(&self.api(), &self.said("secret key"))
    }

    fn mock(&self) -> String {
        self.said("pg-mock").trim_end_matches("/mock/book").to_owned()
    }

    fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        // SAFETY: sends a signal to a process that this test started and has not waited for.
        #[expect(unsafe_code, reason = "std can only kill")]
        let sent = unsafe { libc::kill(pid, signal) };
        assert_eq!(sent, 0);
    }

    async fn stop(self) {
        let status = self.ends_by(libc::SIGINT).await;
        assert!(status.success(), "{status}");
    }

    async fn kill(self) {
        self.ends_by(libc::SIGKILL).await;
    }

    async fn ends_by(mut self, signal: i32) -> std::process::ExitStatus {
        self.signal(signal);
        tokio::task::spawn_blocking(move || self.child.wait()).await.expect("a thread").expect("its end")
    }

    fn database_config(&self) -> DbConfig {
        let line = self.output.lines().find(|line| line.contains("psql -h ")).expect("how to reach the database");
        let socket = line.split("psql -h ").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("a socket");
        let socket = socket.trim_matches('\'').replace('/', "%2F");
        DbConfig { url: format!("postgres://postgres@{socket}/paygauge").into(), ..database::config("paygauge") }
    }

    async fn database(&self) -> tokio_postgres::Client {
        invariants_client(&self.database_config()).await
    }
}

/// Processes whose command line names `data`.
fn processes_of(data: &Path) -> Vec<String> {
    let needle = data.to_string_lossy().into_owned();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let own = std::process::id().to_string();
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy() != own)
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(&needle))
        .collect()
}

async fn nothing_is_left(data: &Path) {
    eventually("no process of the stack is left", Duration::from_secs(20), async || {
        processes_of(data).is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stack_starts_from_nothing_and_its_printed_lines_work_as_printed() {
    let place = Place::new("lines");
    let stack = Stack::start(&place.0);
    for label in ["demo checkout", "API docs", "operations"] {
        let answer = http().get(stack.said(label)).send().await.expect(label);
        assert!(answer.status().is_success(), "{label}: {}", answer.status());
    }
    let lines: Vec<&str> = stack.output.lines().skip_while(|line| !line.trim_start().starts_with("API=")).collect();
    let script: String = lines.iter().take_while(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect();
    assert_eq!(script.matches("curl ").count(), 5, "{script}");
    let (Some(shell), Some(_)) = (programs::wanted("bash"), programs::wanted("curl")) else {
        return stack.stop().await;
    };
    let run = tokio::task::spawn_blocking(move || Command::new(shell).args(["-c", &script]).output());
    let run = run.await.expect("a thread").expect("a shell");
    let text = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{text}{}", String::from_utf8_lossy(&run.stderr));
    assert!(text.contains(r#""status":"done""#), "{text}");
    assert!(text.contains("OrderCanceled"), "{text}");

    let client = stack.client();
    let orders = client.get("/v1/orders").await.expect(StatusCode::OK);
    assert_eq!(orders.body["items"][0]["status"], "canceled");
    let products = client.get("/v1/products").await.expect(StatusCode::OK);
    assert_eq!(products.body["items"].as_array().map(Vec::len), Some(2), "two demo products");

    // The data survives a stop and a start; nothing runs in between.
    stack.stop().await;
    nothing_is_left(&place.0).await;
    let stack = Stack::start(&place.0);
    let again = stack.client().get("/v1/orders").await.expect(StatusCode::OK);
    assert_eq!(again.body["items"], orders.body["items"]);
    stack.stop().await;
    nothing_is_left(&place.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_under_load_it_leaves_no_process_and_comes_back_with_every_book_right() {
    let place = Place::new("kill");
    let mut stack = Stack::start(&place.0);
    for round in 0..2 {
        let done = Arc::new(AtomicUsize::new(0));
        let buyers: Vec<_> =
            (0..6).map(|_| tokio::spawn(buy(stack.client(), stack.mock(), Arc::clone(&done)))).collect();
        let enough = 10 * (round + 1);
        eventually("some load", Duration::from_secs(60), async || {
            (done.load(Ordering::Relaxed) >= enough).then_some(())
        })
        .await;
        stack.kill().await;
        for buyer in buyers {
            buyer.abort();
        }
        nothing_is_left(&place.0).await;
        stack = Stack::start(&place.0);
        let database = stack.database().await;
        invariants::quiet(&database).await;
        invariants::rules(&stack.database_config()).await;
        let book: Value = http().get(stack.said("pg-mock")).send().await.expect("the book").json().await.expect("JSON");
        let mut theirs: BTreeMap<String, i64> = BTreeMap::new();
        for payment in book["payments"].as_array().expect("payments") {
            let order = payment["orderId"].as_str().expect("an order").to_owned();
            let number = |field: &str| payment[field].as_i64().expect("a number");
            *theirs.entry(order).or_default() += invariants::kept(number("approved"), number("canceled"));
        }
        assert!(!theirs.is_empty());
        invariants::books_agree(&database, &theirs).await;
    }
    stack.stop().await;
    nothing_is_left(&place.0).await;
}

/// Buys and now and then cancels, until the stack goes away.
async fn buy(client: Client, mock: String, done: Arc<AtomicUsize>) {
    let http = http();
    let product = client.get("/v1/products").await.body["items"][0]["id"].clone();
    loop {
        let body = json!({ "lines": [{ "productId": product, "quantity": 1 }] });
        let order = client.post_with_key("/v1/orders", &body).await;
        if order.status != StatusCode::CREATED {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        }
        let paid = json!({ "orderId": order.text("id"), "amount": order.number("amount") });
        let window = http.post(format!("{mock}/mock/payments")).json(&paid).send().await.expect("the window");
        let key: Value = window.json().await.expect("JSON");
        let body = json!({
            "paymentKey": key["paymentKey"], "orderId": order.text("id"), "amount": order.number("amount")
        });
        let payment = client.post("/v1/payments/confirm", &body).await;
        if payment.status == StatusCode::OK {
            let path = format!("/v1/payments/{}/cancel", payment.text("id"));
            client.post_with_key(&path, &json!({ "reason": "enough" })).await;
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn serve_refuses_to_start_and_names_every_mistake() {
    let run = Command::new(PROGRAM)
        .arg("serve")
        .env_clear()
        .env("PAYGAUGE_ENV", "production")
        .env("TOSS_SECRET_KEY", "test_sk_x")
        .env("PAYGAUGE_TOKEN_SECRET", "short")
        .output()
        .expect("the program");
    let text = String::from_utf8_lossy(&run.stderr);
    assert!(!run.status.success());
    for name in ["DATABASE_URL", "TOSS_SECRET_KEY", "PAYGAUGE_TOKEN_SECRET"] {
        assert!(text.contains(name), "{name} in {text}");
    }
    assert!(text.contains("test key"), "{text}");
}

/// A command of a server, with every setting that it needs.
fn command(database: &str, args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(args)
        .env_clear()
        .env("DATABASE_URL", database)
        .env("PAYGAUGE_ENV", "test")
        .env("TOSS_SECRET_KEY", "test_sk_x")
        .env("TOSS_BASE_URL", "http://127.0.0.1:9")
        .env("PAYGAUGE_TOKEN_SECRET", "0123456789abcdef0123456789abcdef")
        .env("PAYGAUGE_LISTEN", "127.0.0.1:0")
        .env("PAYGAUGE_OPS_LISTEN", "127.0.0.1:0");
    command
}

/// Whether it ended well, and all that it said.
fn said(mut command: Command) -> (bool, String) {
    let output = command.output().expect("the program");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.success(), text)
}

/// As a standby.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_takes_no_changes_is_audited_and_read() {
    let database = database::fresh().await;
    let url = database.url.expose_secret();
    let (_, made) = said(command(url, &["keys", "create", "--role", "secret", "--label", "reader"]));
    let key = made.lines().nth(1).expect("a key").to_owned();
    let name: String = {
        let client = invariants_client(&database).await;
        let name = client.query_one("select current_database()::text", &[]).await.expect("SQL").get(0);
        let no_changes = format!("alter database {name} set default_transaction_read_only = on");
        client.batch_execute(&no_changes).await.expect("SQL");
        name
    };
    let (is_right, report) = said(command(url, &["audit"]));
    assert!(is_right && report.contains("the books are right"), "{report}");

    let mut reads = command(url, &["serve"]);
    reads.env("PAYGAUGE_ROLES", "api");
    let mut server = Server::start(reads);
    server.becomes_ready().await;
    let client = Client::new(&format!("http://{}", server.said("api")), &key);
    client.get("/v1/orders").await.expect(StatusCode::OK);
    let product = json!({ "name": name, "price": 100, "initialStock": 1 });
    let refused = client.post_with_key("/v1/products", &product).await.expect(StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.text("code"), "database_unavailable");
    server.ends_by_sigterm().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_a_server_migrate_make_keys_and_serve() {
    connect::ensure_database(&database::config("postgres"), "commands", None).await.expect("a database");
    let url = database::cluster().url("commands");
    let run = |args: &[&str]| command(&url, args);
    let text = |args: &[&str]| said(run(args));
    let (started, why) = text(&["serve"]);
    assert!(!started && why.contains("paygauge migrate"), "{why}");
    assert!(text(&["migrate"]).1.contains("applied"));
    assert!(text(&["migrate"]).1.contains("nothing to do"));

    let (_, made) = text(&["keys", "create", "--role", "secret", "--label", "shop server"]);
    let id = made.lines().next().expect("an id").to_owned();
    let key = made.lines().nth(1).expect("a key").to_owned();
    assert!(id.starts_with("key_") && key.starts_with("pgsk_"), "{made}");
    let (_, list) = text(&["keys", "list"]);
    assert!(list.contains(&id) && list.contains("active") && !list.contains(&key[40..]), "{list}");

    let mut server = Server::start(run(&["serve"]));
    server.becomes_ready().await;
    let client = Client::new(&format!("http://{}", server.said("api")), &key);
    // Nobody reads its log meanwhile: the pipe is full long before the last of these, and no request waits for it.
    for _ in 0..400 {
        client.get("/v1/orders").await.expect(StatusCode::OK);
    }
    assert!(text(&["keys", "revoke", &id]).0);
    eventually("the key stops working", Duration::from_secs(10), async || {
        (client.get("/v1/orders").await.status == StatusCode::UNAUTHORIZED).then_some(())
    })
    .await;
    assert!(!text(&["keys", "revoke", &id]).0, "once is enough");
    server.ends_by_sigterm().await;
}

/// `paygauge serve` in a process of its own, whose log is read only as far as needed.
struct Server {
    child: Child,
    serving: Value,
    _unread: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Server {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let serving = lines.by_ref().map_while(Result::ok).find(|line| line.contains("\"serving\""));
        let serving = serde_json::from_str(&serving.expect("its addresses")).expect("a JSON line");
        Self { child, serving, _unread: lines }
    }

    async fn becomes_ready(&self) {
        let ready = format!("http://{}/readyz", self.said("ops"));
        eventually("the server is ready", START, async || {
            (http().get(&ready).send().await.expect("an answer").status() == StatusCode::OK).then_some(())
        })
        .await;
    }

    fn said(&self, field: &str) -> String {
        self.serving[field].as_str().expect("an address").to_owned()
    }

    async fn ends_by_sigterm(&mut self) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        // SAFETY: sends a signal to a process that this test started and has not waited for.
        #[expect(unsafe_code, reason = "std can only kill")]
        let sent = unsafe { libc::kill(pid, libc::SIGTERM) };
        assert_eq!(sent, 0);
        let status =
            eventually("the server ends", Duration::from_secs(30), async || self.child.try_wait().expect("its state"))
                .await;
        assert!(status.success(), "{status}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.kill().is_ok()
            && let Err(error) = self.child.wait()
        {
            eprintln!("the server's end was not seen: {error}");
        }
    }
}
