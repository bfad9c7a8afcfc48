//! A real nginx with the configuration of `deploy/nginx/`, of which only the addresses, names and paths in `site/` are the
//! test's own. It ends when it is dropped.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::certificates::Certified;
use super::cluster::Place;
use super::ports::free_port;
use super::shop::PATIENCE;
use super::{eventually, programs};

/// Starts that fail because somebody took a port in between.
const TRIES: usize = 5;
/// The name in its certificate, beside the loopback address.
pub const NAME: &str = "localhost";

/// A running nginx.
pub struct Nginx {
    child: Child,
    place: Place,
    /// `https://host:port`.
    pub base: String,
    /// Where it listens for TLS.
    pub address: SocketAddr,
    /// `http://host:port`.
    pub plain: String,
    /// Who vouches for it, as PEM.
    pub root: String,
}

impl Nginx {
    /// Starts it in front of these processes; `None` if it is not installed.
    pub async fn before(processes: &[SocketAddr]) -> Option<Self> {
        let program = programs::wanted("nginx")?;
        let certified = Certified::for_names(&[NAME, "127.0.0.1"]);
        for _ in 0..TRIES {
            if let Some(nginx) = Self::try_start(&program, processes, &certified).await {
                return Some(nginx);
            }
        }
        panic!("nginx did not start {TRIES} times");
    }

    async fn try_start(program: &Path, processes: &[SocketAddr], certified: &Certified) -> Option<Self> {
        let place = Place::new("nginx");
        let (tls, plain) = (free_port(), free_port());
        write_site(&place.0, tls, plain, processes, certified);
        let config = place.0.join("nginx.conf");
        let mut command = Command::new(program);
        command.arg("-c").arg(&config).arg("-p").arg(&place.0).arg("-e").arg(place.0.join("start.log"));
        command.args(["-g", "daemon off;"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut nginx = Self {
            child: command.spawn().expect("nginx"),
            place,
            base: format!("https://{tls}"),
            address: tls,
            plain: format!("http://{plain}"),
            root: certified.root_pem(),
        };
        let started = eventually("nginx listens or ends", PATIENCE, async || {
            if nginx.child.try_wait().expect("a child").is_some() {
                return Some(false);
            }
            // Both are bound before any worker starts, so the second one tells of both.
            tokio::net::TcpStream::connect(tls).await.is_ok().then_some(true)
        })
        .await;
        if !started {
            println!("no start: {}", nginx.read("start.log"));
        }
        started.then_some(nginx)
    }

    /// A file that holds who vouches for it.
    pub fn root_file(&self) -> PathBuf {
        self.place.0.join("root.pem")
    }

    /// The lines of its access log so far.
    pub fn access_log(&self) -> Vec<serde_json::Value> {
        let text = self.read("access.log");
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
    }

    /// Everything it wrote, for who looks for what must not be there.
    pub fn all_it_wrote(&self) -> String {
        ["access.log", "error.log", "start.log"].map(|name| self.read(name)).concat()
    }

    /// A client from `from` that believes its certificate.
    pub fn client_from(&self, from: [u8; 4]) -> reqwest::Client {
        let _known = rustls::crypto::ring::default_provider().install_default();
        let root = reqwest::Certificate::from_pem(self.root.as_bytes()).expect("a certificate");
        let builder = reqwest::Client::builder().no_proxy().tls_certs_only([root]);
        let builder = builder.redirect(reqwest::redirect::Policy::none()).local_address(std::net::IpAddr::from(from));
        builder.build().expect("a client")
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.place.0.join(name)).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let Ok(pid) = i32::try_from(self.child.id()) else { return };
        // SAFETY: sends a signal to a process that this test started and has not waited for.
        #[expect(unsafe_code, reason = "std can only kill, and the workers of a master that is killed stay")]
        let _sent = unsafe { libc::kill(pid, libc::SIGTERM) };
        let begun = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(10));
        }
        // It may have ended already.
        self.child.kill().unwrap_or_default();
        drop(self.child.wait());
    }
}

/// Copies what nobody edits, and writes what everybody does.
fn write_site(place: &Path, tls: SocketAddr, plain: SocketAddr, processes: &[SocketAddr], certified: &Certified) {
    let theirs = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nginx");
    for name in ["nginx.conf", "answers.conf", "problems.conf"] {
        std::fs::copy(theirs.join(name), place.join(name)).expect(name);
    }
    let at = place.display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary: String = temporary.iter().map(|name| format!("{name}_temp_path {at}/{name};\n")).collect();
    let upstreams: String =
        processes.iter().map(|process| format!("server {process} max_fails=3 fail_timeout=2s;\n")).collect();
    let site = [
        ("main.conf", format!("pid {at}/nginx.pid;\nworker_processes 2;\nerror_log {at}/error.log crit;\n")),
        ("http.conf", format!("access_log {at}/access.log paygauge;\n{temporary}")),
        ("listen.conf", format!("listen {tls} ssl http2;\nserver_name {NAME};\n")),
        ("listen_plain.conf", format!("listen {plain};\nserver_name {NAME};\n")),
        ("certificate.conf", format!("ssl_certificate {at}/leaf.pem;\nssl_certificate_key {at}/key.pem;\n")),
        ("unlimited.conf", "127.0.0.1 0;\n".to_owned()),
        ("upstreams.conf", upstreams),
    ];
    std::fs::create_dir(place.join("site")).expect("a directory");
    let known: Vec<_> = std::fs::read_dir(theirs.join("site")).expect("site/").collect();
    assert_eq!(known.len(), site.len(), "each file of site/ has its counterpart here");
    for (name, text) in site {
        assert!(theirs.join("site").join(name).exists(), "site/{name}");
        std::fs::write(place.join("site").join(name), text).expect(name);
    }
    for (name, text) in
        [("leaf.pem", certified.leaf_pem()), ("key.pem", certified.key_pem()), ("root.pem", certified.root_pem())]
    {
        std::fs::write(place.join(name), text).expect(name);
    }
}
