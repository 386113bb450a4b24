//! Where events may be sent: anywhere but to addresses at which clouds keep the credentials of the
//! machine, to addresses that no receiver can have, and to the gate itself.
//!
//! An address that is written in a config is checked when the config is edited. Every address,
//! written or looked up, is checked again before a connection to it is made. Private and loopback
//! addresses are allowed: many receivers are there.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
};

use parking_lot::Mutex;

use super::secret::SecretSources;

/// What the process lets outputs do, and where they may keep files.
#[derive(Debug, Clone, Default)]
pub struct OutputPolicy {
    /// The folder for spools and dead letters, one folder in it for each output.
    pub folder: Option<std::path::PathBuf>,
    /// The folder below which outputs of type `file` write.
    pub files: Option<std::path::PathBuf>,
    /// Whether link-local and metadata addresses may be sent to.
    pub allow_link_local: bool,
    /// What secrets a config may refer to.
    pub secrets: SecretSources,
    /// Where the process itself listens.
    pub listeners: Arc<OwnListeners>,
}

/// The addresses at which the process takes connections. They are known when their sockets are
/// bound.
#[derive(Debug, Default)]
pub struct OwnListeners {
    bound: Mutex<Vec<(&'static str, SocketAddr)>>,
}

/// A range of addresses that nothing is sent to.
struct Range {
    network: IpAddr,
    prefix: u8,
    what: &'static str,
    remedy: Remedy,
}

/// What a user can do who means such an address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Remedy {
    /// Start the gate with `--allow-link-local`.
    AllowLinkLocal,
    /// Name the loopback address.
    Loopback,
    /// Send to another address.
    Another,
}

const fn v4(octets: [u8; 4], prefix: u8, what: &'static str, remedy: Remedy) -> Range {
    let [a, b, c, d] = octets;
    Range {
        network: IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        prefix,
        what,
        remedy,
    }
}

const fn v6(segments: [u16; 8], prefix: u8, what: &'static str, remedy: Remedy) -> Range {
    let [a, b, c, d, e, f, g, h] = segments;
    Range {
        network: IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)),
        prefix,
        what,
        remedy,
    }
}

/// The ranges that nothing is sent to, as of 2026-11.
///
/// Sources: the IANA special-purpose address registries of IPv4 and IPv6 (RFC 6890, RFC 8190); the
/// clouds' pages on instance metadata: AWS EC2 ("Access instance metadata", fd00:ec2::254) and EKS
/// ("Pod Identity", 169.254.170.23, fd00:ec2::23), Google Compute Engine (fd20:ce::254), Azure
/// ("What is IP address 168.63.129.16?"), Oracle Cloud (192.0.0.192, fd00:c1::a9fe:a9fe), Alibaba
/// Cloud ECS (100.100.100.200), Scaleway (169.254.42.42, fd00:42::42).
const REFUSED: [Range; 15] = {
    use Remedy::{AllowLinkLocal, Another, Loopback};
    [
        v4([169, 254, 0, 0], 16, "a link-local address", AllowLinkLocal),
        v4(
            [192, 0, 0, 192],
            32,
            "a metadata address of Oracle Cloud",
            AllowLinkLocal,
        ),
        v4(
            [100, 100, 100, 200],
            32,
            "a metadata address of Alibaba Cloud",
            AllowLinkLocal,
        ),
        v4(
            [168, 63, 129, 16],
            32,
            "the address of Azure's host agent",
            AllowLinkLocal,
        ),
        v4([0, 0, 0, 0], 8, "an address of no host", Loopback),
        v4([224, 0, 0, 0], 4, "a multicast address", Another),
        v4(
            [240, 0, 0, 0],
            4,
            "a reserved or broadcast address",
            Another,
        ),
        v6(
            [0xfe80, 0, 0, 0, 0, 0, 0, 0],
            10,
            "a link-local address",
            AllowLinkLocal,
        ),
        v6(
            [0xfec0, 0, 0, 0, 0, 0, 0, 0],
            10,
            "a site-local address",
            AllowLinkLocal,
        ),
        v6(
            [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0],
            32,
            "an address of AWS's services",
            AllowLinkLocal,
        ),
        v6(
            [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254],
            128,
            "a metadata address of Google Cloud",
            AllowLinkLocal,
        ),
        v6(
            [0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe],
            128,
            "a metadata address of Oracle Cloud",
            AllowLinkLocal,
        ),
        v6(
            [0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42],
            128,
            "a metadata address of Scaleway",
            AllowLinkLocal,
        ),
        v6([0; 8], 128, "an address of no host", Loopback),
        v6(
            [0xff00, 0, 0, 0, 0, 0, 0, 0],
            8,
            "a multicast address",
            Another,
        ),
    ]
};

impl Range {
    fn has(&self, address: IpAddr) -> bool {
        match (self.network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differing = u32::from(network) ^ u32::from(address);
                differing.leading_zeros() >= self.prefix.into()
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differing = u128::from(network) ^ u128::from(address);
                differing.leading_zeros() >= self.prefix.into()
            }
            _ => false,
        }
    }
}

impl OutputPolicy {
    /// Says why nothing may be sent to an address; `host` is how the config names it.
    pub fn refusal(&self, host: &str, address: SocketAddr) -> Option<String> {
        let ip = address.ip();
        let embedded = match ip {
            IpAddr::V6(v6) => embedded(v6),
            IpAddr::V4(_) => Vec::new(),
        };
        for candidate in std::iter::once(ip).chain(embedded.into_iter().map(IpAddr::V4)) {
            let range = REFUSED.iter().find(|range| range.has(candidate));
            let Some(range) = range else { continue };
            if range.remedy == Remedy::AllowLinkLocal && self.allow_link_local {
                continue;
            }
            return Some(range.refusal(host, ip, candidate));
        }
        self.listeners.refusal(host, address)
    }
}

impl Range {
    /// Says that nothing is sent to `ip`, which is or leads to `candidate`.
    fn refusal(&self, host: &str, ip: IpAddr, candidate: IpAddr) -> String {
        let Self {
            network,
            prefix,
            what,
            remedy,
        } = self;
        let is = match host.parse() == Ok(ip) {
            true => format!("`{host}`"),
            false => format!("`{host}` is {ip}, which"),
        };
        let leads = match candidate == ip {
            true => "is",
            false => "leads to",
        };
        let named = match candidate == ip {
            true => String::new(),
            false => format!("{candidate}, "),
        };
        let remedy = match remedy {
            Remedy::AllowLinkLocal => {
                "clouds keep the credentials of the machine at such addresses; start the gate with \
                 `--allow-link-local` to allow them"
            }
            Remedy::Loopback => "expected the address of a receiver; use `127.0.0.1` for this host",
            Remedy::Another => "expected the address of a receiver",
        };
        format!("{is} {leads} {named}{what} ({network}/{prefix}); {remedy}")
    }
}

impl OwnListeners {
    /// Notes where a listener is bound.
    pub fn register(&self, listener: &'static str, address: SocketAddr) {
        let mut bound = self.bound.lock();
        bound.retain(|(name, _)| *name != listener);
        bound.push((listener, address));
    }

    /// Says that an address is one of the process's own listeners, if it is.
    fn refusal(&self, host: &str, address: SocketAddr) -> Option<String> {
        let ip = address.ip().to_canonical();
        let bound = self.bound.lock().clone();
        let mut at_port = bound.iter().filter(|(_, at)| at.port() == address.port());
        let (listener, at) = at_port.find(|(_, at)| match at.ip().to_canonical() {
            IpAddr::V4(own) if own.is_unspecified() => ip.is_ipv4() && is_this_host(ip),
            IpAddr::V6(own) if own.is_unspecified() => is_this_host(ip),
            own => own == ip,
        })?;
        let port = address.port();
        Some(format!(
            "`{host}` with the port {port} is the gate's own listener `{listener}` ({at}), and \
             events would come back to it; expected the address of another receiver"
        ))
    }
}

/// Whether an address is one of this host's: the system then sends from the same address. No packet
/// is sent.
fn is_this_host(ip: IpAddr) -> bool {
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((ip, 9))?;
        socket.local_addr()
    };
    ip.is_loopback() || source().is_ok_and(|source| source.ip() == ip)
}

/// Finds the IPv4 addresses that an IPv6 address leads to.
///
/// Sources: RFC 4291, sections 2.5.5.1 (compatible) and 2.5.5.2 (mapped); RFC 2765, section 2.1
/// (translated); RFC 6052, section 2.2, and RFC 8215 (NAT64); RFC 3056 (6to4); RFC 4380, section 4
/// (Teredo); RFC 5214, section 6.1 (ISATAP). What a network translates with a prefix of its own
/// cannot be known here.
fn embedded(address: Ipv6Addr) -> Vec<Ipv4Addr> {
    let octets = address.octets();
    let at = |[a, b, c, d]: [usize; 4]| Ipv4Addr::new(octets[a], octets[b], octets[c], octets[d]);
    let last = at([12, 13, 14, 15]);
    let mut found = match address.segments() {
        // Unspecified and loopback.
        [0, 0, 0, 0, 0, 0, 0, 0..=1] => Vec::new(),
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => vec![last],
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => vec![last],
        // Where in it the IPv4 address is depends on the network's prefix; at the other
        // places are zeros, or bits of it.
        [0x64, 0xff9b, 1, ..] => {
            let places = [
                [6, 7, 9, 10],
                [7, 9, 10, 11],
                [9, 10, 11, 12],
                [12, 13, 14, 15],
            ];
            let candidates = places.into_iter().map(at);
            candidates
                .filter(|found| (1..224).contains(&found.octets()[0]))
                .collect()
        }
        [0x2002, ..] => vec![at([2, 3, 4, 5])],
        // The server, and the client with its bits inverted.
        [0x2001, 0, ..] => vec![at([4, 5, 6, 7]), Ipv4Addr::from(!u32::from(last))],
        _ => Vec::new(),
    };
    if let [.., 0 | 0x200, 0x5efe, _, _] = address.segments() {
        found.push(last);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(policy: &OutputPolicy, address: &str) -> Option<String> {
        let ip: IpAddr = address.parse().expect("an address");
        policy.refusal("receiver.example", SocketAddr::new(ip, 5140))
    }

    /// Addresses that clouds answer at, by whatever way they are reached.
    const OF_CLOUDS: [&str; 42] = [
        "169.254.169.254",
        "169.254.0.1",
        "169.254.255.255",
        "169.254.170.2",
        "169.254.170.23",
        "169.254.42.42",
        "192.0.0.192",
        "100.100.100.200",
        "168.63.129.16",
        "fe80::1",
        "fe80::a9fe:a9fe",
        "febf::1",
        "fec0::1",
        "feff::1",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "fd00:c1::a9fe:a9fe",
        "fd00:42::42",
        "::ffff:169.254.169.254",
        "::ffff:168.63.129.16",
        "::169.254.169.254",
        "::100.100.100.200",
        "::ffff:0:169.254.169.254",
        "64:ff9b::169.254.169.254",
        "64:ff9b::a83f:8110",
        "64:ff9b:1::169.254.169.254",
        "64:ff9b:1:a9fe:a9:fe00::",
        "64:ff9b:1:a9:fe:a9fe::",
        "64:ff9b:1:0:a9:fea9:fe00:0",
        "2002:a9fe:a9fe::1",
        "2002:c000:c0::",
        "2001:0:a9fe:a9fe::1",
        "2001:0:808:808:0:0:5601:5601",
        "2001:db8::5efe:169.254.169.254",
        "2001:db8::200:5efe:169.254.169.254",
        "fd00::5efe:a9fe:a9fe",
        "2001:db8::200:5efe:6464:64c8",
        "fe80::5efe:a00:1",
        "fe80::200:5efe:a00:1",
        "::ffff:a9fe:1",
        "::ffff:0:6464:64c8",
    ];

    /// Addresses that no receiver has.
    const OF_NO_RECEIVER: [&str; 14] = [
        "0.0.0.0",
        "0.1.2.3",
        "::",
        "::ffff:0.0.0.0",
        "64:ff9b::",
        "2002::1",
        "224.0.0.1",
        "239.255.255.255",
        "ff02::1",
        "ff0e::1",
        "240.0.0.1",
        "255.255.255.255",
        "::ffff:255.255.255.255",
        "::ffff:224.0.0.1",
    ];

    #[test]
    fn addresses_of_clouds_and_of_no_receiver_are_refused_however_reached() {
        let policy = OutputPolicy::default();
        let open = OutputPolicy {
            allow_link_local: true,
            ..OutputPolicy::default()
        };
        for address in OF_CLOUDS {
            let refusal = refusal(&policy, address).unwrap_or_else(|| panic!("{address}"));
            assert!(refusal.contains("--allow-link-local"), "{refusal}");
        }
        for address in OF_CLOUDS {
            let reason = refusal(&open, address).unwrap_or_default();
            assert!(!reason.contains("--allow-link-local"), "{reason}");
        }
        for address in OF_NO_RECEIVER {
            for policy in [&policy, &open] {
                let refusal = refusal(policy, address).unwrap_or_else(|| panic!("{address}"));
                assert!(refusal.contains("expected the address"), "{refusal}");
            }
        }
    }

    #[test]
    fn addresses_of_receivers_are_allowed() {
        let policy = OutputPolicy::default();
        for address in [
            "127.0.0.1",
            "127.1.2.3",
            "::1",
            "::ffff:127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "100.100.100.201",
            "192.0.0.191",
            "192.0.2.1",
            "168.63.129.17",
            "8.8.8.8",
            "169.253.1.1",
            "169.255.1.1",
            "223.255.255.255",
            "fd00::1",
            "fd00:ec3::1",
            "fd20:ce::253",
            "fc00::1",
            "2001:db8::1",
            "2001:4860:4860::8888",
            "2002:a00:1::1",
            "64:ff9b::a00:1",
            "64:ff9b:1::a00:1",
            "2001:db8::5efe:a00:1",
        ] {
            assert_eq!(refusal(&policy, address), None, "{address}");
        }
    }

    #[test]
    fn own_listeners_are_refused_at_every_address_that_leads_to_them() {
        let policy = OutputPolicy::default();
        let listeners = &policy.listeners;
        listeners.register("control", "127.0.0.1:8000".parse().unwrap());
        listeners.register("tcp", "[::]:8081".parse().unwrap());
        listeners.register("http", "0.0.0.0:8080".parse().unwrap());
        let refusal = |address: &str| policy.refusal("r", address.parse().unwrap());
        for (address, listener) in [
            ("127.0.0.1:8000", "`control`"),
            ("[::ffff:127.0.0.1]:8000", "`control`"),
            ("127.0.0.1:8081", "`tcp`"),
            ("127.9.9.9:8081", "`tcp`"),
            ("[::1]:8081", "`tcp`"),
            ("127.0.0.1:8080", "`http`"),
            ("127.9.9.9:8080", "`http`"),
        ] {
            let refusal = refusal(address).unwrap_or_else(|| panic!("{address}"));
            assert!(refusal.contains(listener), "{address}: {refusal}");
        }
        for address in [
            "127.0.0.2:8000",
            "[::1]:8000",
            "[::1]:8080",
            "127.0.0.1:8082",
            "192.0.2.1:8081",
            "[2001:db8::1]:8081",
        ] {
            assert_eq!(refusal(address), None);
        }
        // Bound again, as when a gate waits for its config: the old port is another program's.
        listeners.register("tcp", "[::]:9081".parse().unwrap());
        assert_eq!(refusal("127.0.0.1:8081"), None);
        assert!(refusal("127.0.0.1:9081").is_some());
    }

    #[test]
    fn name_with_forbidden_addresses_is_refused_with_all_that_is_to_be_known() {
        let refusal = refusal(&OutputPolicy::default(), "2002:a9fe:a9fe::1").expect("refused");
        assert_eq!(
            refusal,
            "`receiver.example` is 2002:a9fe:a9fe::1, which leads to 169.254.169.254, a link-local \
             address (169.254.0.0/16); clouds keep the credentials of the machine at such \
             addresses; start the gate with `--allow-link-local` to allow them"
        );
    }
}
