//! A link that misbehaves: a proxy in front of PostgreSQL or the PG that cuts, resets, half-closes, truncates, delays,
//! trickles, swallows and refuses, by a seed.
//!
//! [`Link::storm`] hits each connection with a fault of its own and the whole link with gusts; the test may also set
//! the [`Weather`] itself. Which faults were dealt out is counted, so that a test can tell that it tested something.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use paygauge::db::connect::DbConfig;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use secrecy::ExposeSecret as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_postgres::config::Host;

/// How the link as a whole behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Bytes pass.
    Fair,
    /// Each connection meets a fault of its own sooner or later.
    Stormy,
    /// Connections are reset, new ones too.
    Cut,
    /// Nobody listens; connections that exist go on.
    Refusing,
    /// Bytes vanish, and nobody is told. A connection that was here meanwhile stays silent in fair weather, too.
    Silent,
}

/// What befalls one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Close,
    Reset,
    CloseUp,
    CloseDown,
    Truncate,
    Delay,
    Trickle,
    Silence,
}

const FAULTS: [Fault; 8] = [
    Fault::Close,
    Fault::Reset,
    Fault::CloseUp,
    Fault::CloseDown,
    Fault::Truncate,
    Fault::Delay,
    Fault::Trickle,
    Fault::Silence,
];

/// A half-open connection is the other side's to notice; after this long its server is told, so that none pile up.
const SILENCE_KEPT: Duration = Duration::from_secs(10);
const CHUNK_BYTES: usize = 16 * 1024;

#[derive(Clone)]
enum Upstream {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// The proxy; it ends, with every connection, when dropped.
pub struct Link {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

struct Shared {
    weather: watch::Sender<Weather>,
    upstream: Mutex<Option<Upstream>>,
    chance: Mutex<StdRng>,
    dealt: Mutex<BTreeMap<String, u32>>,
}

impl Link {
    /// A link that leads nowhere yet.
    pub fn new(seed: u64) -> Self {
        // This one keeps the port for us, and refuses, while nobody listens on it.
        let reserved = reusable(SocketAddr::from(([127, 0, 0, 1], 0)));
        let address = reserved.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            weather: watch::Sender::new(Weather::Fair),
            upstream: Mutex::default(),
            chance: Mutex::new(StdRng::seed_from_u64(seed)),
            dealt: Mutex::default(),
        });
        let listener = listening(address);
        let accepting = tokio::spawn(accept(reserved, listener, Arc::clone(&shared))).abort_handle();
        Self { address, shared, accepting }
    }

    /// A link to this database, and how to reach it by that.
    pub fn to_database(seed: u64, database: &DbConfig) -> (Self, DbConfig) {
        let link = Self::new(seed);
        let target: tokio_postgres::Config = database.url.expose_secret().parse().expect("a URL");
        let Some(Host::Unix(directory)) = target.get_hosts().first() else { panic!("the cluster has a socket") };
        let port = target.get_ports().first().copied().unwrap_or(5432);
        *link.shared.upstream.lock().expect("a lock") =
            Some(Upstream::Unix(directory.join(format!(".s.PGSQL.{port}"))));
        let (user, name) = (target.get_user().expect("a user"), target.get_dbname().expect("a database"));
        let url = format!("postgres://{user}@{}/{name}?sslmode=disable", link.address);
        (link, DbConfig { url: url.into(), ..database.clone() })
    }

    /// From now on the link leads to this address, `http://127.0.0.1:…`.
    pub fn lead_to(&self, url: &str) {
        let address = url.trim_start_matches("http://").parse().expect("an address");
        *self.shared.upstream.lock().expect("a lock") = Some(Upstream::Tcp(address));
    }

    /// `http://127.0.0.1:…` of this side.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes the weather.
    pub fn set(&self, weather: Weather) {
        self.shared.note(&format!("weather {weather:?}"));
        self.shared.weather.send_replace(weather);
    }

    /// Bad weather for `long`: mostly faults of single connections, now and then a gust. Fair afterwards.
    pub async fn storm(&self, long: Duration) {
        let end = tokio::time::Instant::now() + long;
        while tokio::time::Instant::now() < end {
            let (weather, millis) = {
                let mut chance = self.shared.chance.lock().expect("a lock");
                match chance.random_range(0..10) {
                    0 => (Weather::Cut, chance.random_range(10..400)),
                    1 => (Weather::Refusing, chance.random_range(10..600)),
                    2 => (Weather::Silent, chance.random_range(10..600)),
                    3 => (Weather::Fair, chance.random_range(100..300)),
                    _ => (Weather::Stormy, chance.random_range(200..700)),
                }
            };
            self.set(weather);
            let until = tokio::time::Instant::now() + Duration::from_millis(millis);
            tokio::time::sleep_until(until.min(end)).await;
        }
        self.set(Weather::Fair);
    }

    /// How often each fault was dealt out.
    pub fn dealt(&self) -> BTreeMap<String, u32> {
        self.shared.dealt.lock().expect("a lock").clone()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The fault of one connection, and after how many chunks it comes.
struct Fate {
    fault: Option<Fault>,
    chunks_left: u32,
}

impl Shared {
    fn note(&self, what: &str) {
        *self.dealt.lock().expect("a lock").entry(what.to_owned()).or_default() += 1;
    }

    /// Some connections get through a storm unharmed for long.
    fn fate(&self) -> Fate {
        let mut chance = self.chance.lock().expect("a lock");
        let fault = FAULTS[chance.random_range(0..FAULTS.len())];
        let at_most = if chance.random_bool(0.5) { 8 } else { 50 };
        Fate { fault: Some(fault), chunks_left: chance.random_range(0..at_most) }
    }

    fn random(&self, range: std::ops::Range<u64>) -> u64 {
        self.chance.lock().expect("a lock").random_range(range)
    }

    async fn dial(&self) -> io::Result<(Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>)> {
        let upstream = self.upstream.lock().expect("a lock").clone();
        Ok(match upstream.ok_or(io::ErrorKind::NotConnected)? {
            Upstream::Tcp(address) => {
                let (read, write) = TcpStream::connect(address).await?.into_split();
                (Box::new(read), Box::new(write))
            }
            Upstream::Unix(path) => {
                let (read, write) = UnixStream::connect(path).await?.into_split();
                (Box::new(read), Box::new(write))
            }
        })
    }
}

fn reusable(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("an option");
    socket.set_reuseport(true).expect("an option");
    socket.bind(address).expect("a port");
    socket
}

fn listening(address: SocketAddr) -> TcpListener {
    reusable(address).listen(256).expect("a listener")
}

async fn accept(reserved: TcpSocket, first: TcpListener, shared: Arc<Shared>) {
    // They end with this task.
    let mut connections = JoinSet::new();
    let mut weather = shared.weather.subscribe();
    let mut listener = Some(first);
    loop {
        let now = *weather.borrow_and_update();
        if now == Weather::Refusing {
            listener = None;
            weather.changed().await.expect("the link is there");
            continue;
        }
        let open = listener.get_or_insert_with(|| listening(reserved.local_addr().expect("an address")));
        tokio::select! {
            _changed = weather.changed() => {}
            accepted = open.accept() => {
                let Ok((client, _)) = accepted else { continue };
                client.set_nodelay(true).unwrap_or_default();
                if now == Weather::Cut {
                    client.set_zero_linger().unwrap_or_default();
                    continue;
                }
                connections.spawn(carry(client, Arc::clone(&shared)));
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Both directions of one connection.
struct Carried {
    client_read: OwnedReadHalf,
    client_write: OwnedWriteHalf,
    server_read: Box<dyn AsyncRead + Send + Unpin>,
    server_write: Box<dyn AsyncWrite + Send + Unpin>,
    fate: Option<Fate>,
    shared: Arc<Shared>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

/// What becomes of a connection after a chunk.
enum Next {
    On,
    Silent,
    Over,
}

async fn carry(client: TcpStream, shared: Arc<Shared>) {
    let Ok((server_read, server_write)) = shared.dial().await else {
        return client.set_zero_linger().unwrap_or_default();
    };
    let (client_read, client_write) = client.into_split();
    let mut weather = shared.weather.subscribe();
    let mut carried = Carried { client_read, client_write, server_read, server_write, fate: None, shared };
    let (mut up, mut down) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    let (mut up_open, mut down_open) = (true, true);
    while up_open || down_open {
        let now = *weather.borrow_and_update();
        match now {
            Weather::Cut => return carried.reset(),
            Weather::Silent => return carried.silence().await,
            Weather::Fair | Weather::Stormy | Weather::Refusing => {}
        }
        let (direction, read) = tokio::select! {
            _changed = weather.changed() => continue,
            read = carried.client_read.read(&mut up), if up_open => (Direction::Up, read),
            read = carried.server_read.read(&mut down), if down_open => (Direction::Down, read),
        };
        let Ok(count) = read else { return carried.reset() };
        if count == 0 {
            let open = if direction == Direction::Up { &mut up_open } else { &mut down_open };
            *open = false;
            carried.finish(direction).await;
            continue;
        }
        let chunk = if direction == Direction::Up { &up[..count] } else { &down[..count] };
        match carried.pass(direction, chunk, now == Weather::Stormy).await {
            Ok(Next::On) => {}
            Ok(Next::Silent) => return carried.silence().await,
            Ok(Next::Over) | Err(_) => return,
        }
    }
}

impl Carried {
    async fn pass(&mut self, direction: Direction, chunk: &[u8], stormy: bool) -> io::Result<Next> {
        if stormy && self.fate.is_none() {
            self.fate = Some(self.shared.fate());
        }
        let due = self.fate.as_mut().filter(|_| stormy).and_then(|fate| {
            let due = fate.chunks_left == 0;
            fate.chunks_left = fate.chunks_left.saturating_sub(1);
            fate.fault.filter(|_| due)
        });
        let Some(fault) = due else {
            self.write(direction, chunk).await?;
            return Ok(Next::On);
        };
        self.shared.note(&format!("{fault:?}"));
        self.suffer(fault, direction, chunk).await
    }

    async fn suffer(&mut self, fault: Fault, direction: Direction, chunk: &[u8]) -> io::Result<Next> {
        match fault {
            Fault::Close => {
                self.finish(Direction::Up).await;
                self.finish(Direction::Down).await;
                return Ok(Next::Over);
            }
            Fault::Reset => {
                self.reset();
                return Ok(Next::Over);
            }
            Fault::Silence => return Ok(Next::Silent),
            Fault::Truncate => {
                let kept = self.shared.random(0..u64::try_from(chunk.len()).expect("a length"));
                self.write(direction, &chunk[..usize::try_from(kept).expect("a length")]).await?;
                self.reset();
                return Ok(Next::Over);
            }
            // The chunk arrives, and nothing after it in that direction.
            Fault::CloseUp => {
                self.write(direction, chunk).await?;
                self.finish(Direction::Up).await;
                self.fate = Some(Fate { fault: None, chunks_left: 0 });
            }
            Fault::CloseDown => {
                self.write(direction, chunk).await?;
                self.finish(Direction::Down).await;
                self.fate = Some(Fate { fault: None, chunks_left: 0 });
            }
            // These two stay with the connection.
            Fault::Delay => {
                tokio::time::sleep(Duration::from_millis(self.shared.random(1..250))).await;
                self.write(direction, chunk).await?;
            }
            Fault::Trickle => {
                for byte in chunk.iter().take(64) {
                    self.write(direction, std::slice::from_ref(byte)).await?;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                self.write(direction, &chunk[chunk.len().min(64)..]).await?;
            }
        }
        Ok(Next::On)
    }

    async fn write(&mut self, direction: Direction, bytes: &[u8]) -> io::Result<()> {
        match direction {
            Direction::Up => self.server_write.write_all(bytes).await,
            Direction::Down => self.client_write.write_all(bytes).await,
        }
    }

    /// Nothing more comes in this direction; the other one goes on.
    async fn finish(&mut self, direction: Direction) {
        let done = match direction {
            Direction::Up => self.server_write.shutdown().await,
            Direction::Down => self.client_write.shutdown().await,
        };
        // It may be gone already.
        done.unwrap_or_default();
    }

    /// The client is told at once; the server by the end of its stream.
    fn reset(&self) {
        self.client_read.as_ref().set_zero_linger().unwrap_or_default();
    }

    /// Takes what both say, and passes on nothing, not even their end.
    async fn silence(mut self) {
        self.shared.note("half-open");
        let swallow = async {
            let (mut nowhere, mut nobody) = (tokio::io::sink(), tokio::io::sink());
            tokio::join!(
                tokio::io::copy(&mut self.client_read, &mut nowhere),
                tokio::io::copy(&mut self.server_read, &mut nobody),
            )
        };
        if tokio::time::timeout(SILENCE_KEPT, swallow).await.is_err() {
            // The client still waits: it must find out by itself, so only the server is let go.
            drop((self.server_read, self.server_write));
            tokio::io::copy(&mut self.client_read, &mut tokio::io::sink()).await.unwrap_or_default();
        }
    }
}
