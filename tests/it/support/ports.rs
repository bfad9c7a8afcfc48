//! Ports for servers that are told where to listen, and may be stopped and started again there.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::sync::Mutex;

/// A port of the loopback address that is free now, that no other test was given, and that the system gives to no
/// outgoing connection.
pub fn free_port() -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let outgoing = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = outgoing.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(32_768);
    loop {
        let port = rand::random_range(2_000..first.max(4_000));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if GIVEN.lock().expect("a lock").insert(port) && TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
