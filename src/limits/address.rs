//! Whose address a request comes from: the peer of its connection, or what proxies that we trust say about it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// A home or a machine has a whole network of this length, and may use any address of it.
const IPV6_PREFIX: u32 = 64;

/// The proxies in front of us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies(Vec<IpNet>);

impl Proxies {
    /// Reads addresses and networks (`10.0.0.0/8`), with commas.
    ///
    /// # Errors
    /// The first word that is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        let read = |word: &str| {
            let address = word.parse::<IpAddr>().map(IpNet::from);
            address.or_else(|_| word.parse()).map_err(|_| word.to_owned())
        };
        Ok(Self(words.map(read).collect::<Result<_, _>>()?))
    }

    /// Whether what this address says about others is believed.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The address that a request counts for. `forwarded` is `X-Forwarded-For`, first hop first: each proxy adds at the
    /// end whom it was asked by, so that it is read from the end and only as far as the proxies are ours.
    #[must_use]
    pub fn client<'a>(&self, peer: IpAddr, forwarded: impl DoubleEndedIterator<Item = &'a str>) -> IpAddr {
        let mut nearest = peer.to_canonical();
        for hop in forwarded.rev() {
            if !self.trusts(nearest) {
                break;
            }
            let Some(before) = hop_address(hop) else { break };
            nearest = before.to_canonical();
        }
        counted(nearest)
    }
}

/// `203.0.113.7`, `203.0.113.7:4711`, `2001:db8::7`, `[2001:db8::7]` or `[2001:db8::7]:4711`.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    bare.parse().ok().or_else(|| hop.parse::<SocketAddr>().ok().map(|addr| addr.ip()))
}

fn counted(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let host_bits = Ipv6Addr::BITS - IPV6_PREFIX;
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> host_bits << host_bits))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(proxies: &str, peer: &str, forwarded: &str) -> String {
        let proxies = Proxies::parse(proxies).expect("proxies");
        let hops = forwarded.split(',').filter(|hop| !hop.is_empty());
        proxies.client(peer.parse().expect("an address"), hops).to_string()
    }

    #[test]
    fn without_trusted_proxies_only_the_connection_counts() {
        assert_eq!(client("", "198.51.100.1", ""), "198.51.100.1");
        assert_eq!(client("", "198.51.100.1", "203.0.113.7"), "198.51.100.1");
        assert_eq!(client("10.0.0.0/8", "198.51.100.1", "203.0.113.7"), "198.51.100.1", "not one of ours");
    }

    #[test]
    fn what_a_client_says_about_itself_is_not_believed() {
        let ours = "10.0.0.0/8, 127.0.0.1";
        assert_eq!(client(ours, "127.0.0.1", "203.0.113.7"), "203.0.113.7");
        assert_eq!(client(ours, "10.1.2.3", "192.0.2.1, 203.0.113.7"), "203.0.113.7", "it sent 192.0.2.1 itself");
        assert_eq!(client(ours, "10.1.2.3", "192.0.2.1,203.0.113.7, 10.9.9.9"), "203.0.113.7", "two proxies");
        assert_eq!(client(ours, "10.1.2.3", "203.0.113.7, nonsense"), "10.1.2.3", "no further than it can be read");
        assert_eq!(client(ours, "10.1.2.3", "10.9.9.9"), "10.9.9.9", "a machine of our own");
        assert_eq!(client(ours, "10.1.2.3", ""), "10.1.2.3");
    }

    #[test]
    fn an_address_has_many_spellings_and_ipv6_many_addresses() {
        for hop in ["203.0.113.7", " 203.0.113.7:4711 ", "::ffff:203.0.113.7", "[::ffff:203.0.113.7]:80"] {
            assert_eq!(client("::ffff:127.0.0.1, 127.0.0.1", "::ffff:127.0.0.1", hop), "203.0.113.7", "{hop}");
        }
        for hop in ["2001:db8:1:2::7", "[2001:db8:1:2:ffff::9]", "[2001:db8:1:2::1]:443"] {
            assert_eq!(client("127.0.0.1", "127.0.0.1", hop), "2001:db8:1:2::", "{hop}");
        }
        assert_eq!(client("", "2001:db8:1:3::1", ""), "2001:db8:1:3::");
    }

    #[test]
    fn what_is_no_network_is_named() {
        for bad in ["proxy.example", "10.0.0.0/33", "10.0.0"] {
            assert_eq!(Proxies::parse(&format!("127.0.0.1,{bad}")), Err(bad.to_owned()));
        }
        assert_eq!(Proxies::parse(" , "), Ok(Proxies::default()));
    }
}
