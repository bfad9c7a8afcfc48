//! TLS to an external database, with the meaning that libpq gives to each `sslmode`.
//!
//! A small door in front of the cluster's socket ends TLS the way a PostgreSQL server does.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use paygauge::crash::CrashSwitch;
use paygauge::db::connect::{self, ConnectError, DbConfig};
use paygauge::db::{Db, DbError, overview};
use secrecy::ExposeSecret as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_postgres::config::Host;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::support::certificates::Certified;
use crate::support::database;

/// What a client sends first if it wants TLS: the length 8 and the number of the request.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// The one name in the door's certificate.
const NAME: &str = "localhost";

/// A server that speaks TLS only, or none at all.
struct Door {
    address: SocketAddr,
    user: String,
    name: String,
    root: PathBuf,
}

impl Door {
    async fn open(speaks_tls: bool) -> Self {
        let database = database::fresh().await;
        let target: tokio_postgres::Config = database.url.expose_secret().parse().expect("a URL");
        let Some(Host::Unix(directory)) = target.get_hosts().first() else { panic!("the cluster has a socket") };
        let port = target.get_ports().first().copied().unwrap_or(5432);
        let socket = directory.join(format!(".s.PGSQL.{port}"));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (acceptor, root) = certified();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A connection that ends by an error is what some of these tests want.
                tokio::spawn(pass(client, socket.clone(), speaks_tls.then(|| acceptor.clone())));
            }
        });
        let user = target.get_user().expect("a user").to_owned();
        Self { address, user, name: target.get_dbname().expect("a database").to_owned(), root }
    }

    /// How to reach it by `host`.
    fn config(&self, host: &str, mode: &str, root: Option<&Path>) -> DbConfig {
        let (user, port, name) = (&self.user, self.address.port(), &self.name);
        DbConfig {
            url: format!("postgres://{user}@{host}:{port}/{name}?sslmode={mode}").into(),
            root_cert_file: root.map(Path::to_owned),
            pool_wait: Duration::from_secs(3),
            ..database::config("postgres")
        }
    }

    async fn reach(&self, host: &str, mode: &str, root: Option<&Path>) -> Result<bool, ConnectError> {
        connect::is_migrated(&self.config(host, mode, root)).await
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // Left-overs of a failed test are the system's to sweep.
        std::fs::remove_file(&self.root).unwrap_or_default();
    }
}

/// A certificate for [`NAME`], and the file of the root that signed it.
fn certified() -> (TlsAcceptor, PathBuf) {
    let certified = Certified::for_names(&[NAME]);
    let root = std::env::temp_dir().join(format!("paygauge-test-root-{}.pem", uuid::Uuid::new_v4().as_simple()));
    std::fs::write(&root, certified.root_pem()).expect("a file");
    let private = PrivateKeyDer::try_from(certified.key.clone()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certified.leaf.clone().into()], private)
        .expect("a certificate");
    (TlsAcceptor::from(Arc::new(config)), root)
}

async fn pass(mut client: TcpStream, socket: PathBuf, tls: Option<TlsAcceptor>) -> std::io::Result<()> {
    let mut first = [0; 8];
    client.read_exact(&mut first).await?;
    let wants_tls = first == SSL_REQUEST;
    let mut server = UnixStream::connect(socket).await?;
    match tls {
        Some(tls) if wants_tls => {
            client.write_all(b"S").await?;
            copy_bidirectional(&mut tls.accept(client).await?, &mut server).await?;
        }
        // As with `hostssl` alone: whoever comes without TLS is not let in.
        Some(_) => {}
        None if wants_tls => {
            client.write_all(b"N").await?;
            copy_bidirectional(&mut client, &mut server).await?;
        }
        None => {
            server.write_all(&first).await?;
            copy_bidirectional(&mut client, &mut server).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn require_encrypts_and_asks_for_no_certificate() {
    let door = Door::open(true).await;
    for host in [NAME, "127.0.0.1"] {
        assert!(door.reach(host, "require", None).await.expect("a connection"));
    }
    // The whole pool goes this way.
    let config = door.config("127.0.0.1", "require", None);
    let db = Db::new(connect::pool(&config).await.expect("a pool"), 2, CrashSwitch::default());
    db.read(async |conn| overview::ping(conn).await).await.map_err(|error: DbError| error).expect("an answer");
    // What is preferred is taken where it is offered.
    assert!(door.reach(NAME, "prefer", None).await.expect("a connection"));
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_full_wants_the_root_and_the_right_name() {
    let door = Door::open(true).await;
    assert!(door.reach(NAME, "verify-full", Some(&door.root)).await.expect("a connection"));
    let wrong_name = door.reach("127.0.0.1", "verify-full", Some(&door.root)).await.expect_err("another name");
    assert!(wrong_name.to_string().contains("not valid for name"), "{wrong_name}");
    let no_root = door.reach(NAME, "verify-full", None).await.expect_err("nobody vouches for it");
    assert!(matches!(no_root, ConnectError::Connect(_) | ConnectError::Tls(_)), "{no_root}");
    let other = Door::open(true).await;
    let wrong_root = door.reach(NAME, "verify-full", Some(&other.root)).await.expect_err("another authority");
    assert!(wrong_root.to_string().contains("certificate"), "{wrong_root}");
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_ca_wants_the_root_and_not_the_name() {
    let door = Door::open(true).await;
    for host in [NAME, "127.0.0.1"] {
        assert!(door.reach(host, "verify-ca", Some(&door.root)).await.expect("a connection"));
    }
    let other = Door::open(true).await;
    door.reach(NAME, "verify-ca", Some(&other.root)).await.expect_err("another authority");
    door.reach(NAME, "verify-ca", None).await.expect_err("nobody vouches for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tls_on_one_side_nobody_is_let_down_silently() {
    let door = Door::open(true).await;
    door.reach(NAME, "disable", None).await.expect_err("this server takes TLS only");
    let plain = Door::open(false).await;
    for mode in ["require", "verify-ca", "verify-full"] {
        let refused = plain.reach(NAME, mode, Some(&plain.root)).await.expect_err("no TLS here");
        assert!(refused.to_string().contains("TLS"), "{mode}: {refused}");
    }
    for mode in ["disable", "prefer"] {
        assert!(plain.reach(NAME, mode, None).await.expect("a plain connection"), "{mode}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_roots_that_is_none_is_named() {
    let door = Door::open(true).await;
    let missing = Path::new("/nowhere/root.pem");
    let error = door.reach(NAME, "verify-full", Some(missing)).await.expect_err("no such file");
    assert!(error.to_string().contains("/nowhere/root.pem"), "{error}");
}
