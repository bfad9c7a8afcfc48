//! A real Redis as a child of the test process, to be stopped, stalled and emptied.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use paygauge::redis::RedisConfig;

use super::ports::free_port;
use super::programs;
use super::shop::PATIENCE;

const STARTS_WITHIN: Duration = Duration::from_secs(20);

/// A server of one test on a loopback port, with a password. It keeps nothing on disk.
pub struct Redis {
    program: PathBuf,
    port: u16,
    child: Mutex<Child>,
}

impl Redis {
    /// The password of every such server.
    pub const PASSWORD: &'static str = "kanarienvogel-redis";

    /// Starts one; `None` without `redis-server`, and the calling test has to return.
    pub async fn start() -> Option<Self> {
        let program = programs::wanted("redis-server")?;
        // Another process may take the port before Redis does.
        for _ in 0..10 {
            let port = free_port().port();
            let child = Mutex::new(spawn(&program, port));
            let started = Self { program: program.clone(), port, child };
            if started.answers().await {
                return Some(started);
            }
        }
        panic!("redis-server does not start");
    }

    /// Where it is, with its password.
    pub fn url(&self) -> String {
        format!("redis://:{}@127.0.0.1:{}/0", Self::PASSWORD, self.port)
    }

    /// The product's own client to it, with all the time that it needs.
    pub async fn patient_client(&self) -> Arc<paygauge::redis::Redis> {
        let config = RedisConfig { url: self.url().into(), deadline: PATIENCE };
        let redis = Arc::new(paygauge::redis::Redis::new(&config).expect("an address"));
        redis.check().await;
        assert_eq!(redis.away_because(), None);
        redis
    }

    /// Ends it as by `kill -9`.
    pub fn stop(&self) {
        let mut child = self.child.lock().expect("the child");
        child.kill().expect("it runs");
        child.wait().expect("its end");
    }

    /// Starts it again after [`stop`](Self::stop), at the same address and empty.
    pub async fn start_again(&self) {
        *self.child.lock().expect("the child") = spawn(&self.program, self.port);
        assert!(self.answers().await, "redis-server does not start again");
    }

    /// Makes it accept connections and answer nothing.
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Takes everything from it: what it keeps, and the scripts that it knows.
    pub async fn flush(&self) {
        self.run(redis::cmd("FLUSHALL").arg("SYNC")).await;
        self.run(redis::cmd("SCRIPT").arg("FLUSH").arg("SYNC")).await;
    }

    /// The names of what it keeps.
    pub async fn keys(&self, pattern: &str) -> Vec<String> {
        let mut connection = self.connection().await.expect("a connection");
        redis::cmd("KEYS").arg(pattern).query_async(&mut connection).await.expect("an answer")
    }

    /// Runs a command, whatever it answers.
    pub async fn run(&self, command: &redis::Cmd) {
        let mut connection = self.connection().await.expect("a connection");
        let _answer: redis::Value = command.query_async(&mut connection).await.expect("an answer");
    }

    async fn connection(&self) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
        let client = redis::Client::open(self.url()).expect("an address");
        let patient = redis::AsyncConnectionConfig::new()
            .set_response_timeout(Some(STARTS_WITHIN))
            .set_connection_timeout(Some(STARTS_WITHIN));
        client.get_multiplexed_async_connection_with_config(&patient).await
    }

    /// Waits until it answers; `false` if it ends instead.
    async fn answers(&self) -> bool {
        super::eventually("redis-server answers or ends", STARTS_WITHIN, async || {
            if self.child.lock().expect("the child").try_wait().expect("a child").is_some() {
                return Some(false);
            }
            let mut connection = self.connection().await.ok()?;
            redis::cmd("PING").query_async::<String>(&mut connection).await.ok().map(|_| true)
        })
        .await
    }

    fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.lock().expect("the child").id()).expect("a pid");
        // SAFETY: sends a signal to a process that this test started and has not waited for.
        #[expect(unsafe_code, reason = "std can only kill")]
        let sent = unsafe { libc::kill(pid, signal) };
        assert_eq!(sent, 0);
    }
}

fn spawn(program: &PathBuf, port: u16) -> Child {
    let mut command = Command::new(program);
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command.args(["--requirepass", Redis::PASSWORD, "--databases", "1", "--dir", "/"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("redis-server")
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Ok(child) = self.child.get_mut() {
            // It may have ended already.
            child.kill().unwrap_or_default();
            drop(child.wait());
        }
    }
}
