//! Where events may be sent: anywhere but to link-local addresses, where clouds keep the credentials
//! of the machine, unless the process is told to allow it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the process lets outputs do, and where they may keep files.
#[derive(Debug, Clone, Default)]
pub struct OutputPolicy {
    /// The folder for spools and dead letters, one folder in it for each output.
    pub folder: Option<std::path::PathBuf>,
    /// The folder below which outputs of type `file` write.
    pub files: Option<std::path::PathBuf>,
    /// Whether link-local and metadata addresses may be sent to.
    pub allow_link_local: bool,
}

/// Addresses outside the link-local ranges at which clouds answer with credentials: AWS over IPv6,
/// and Alibaba.
///
/// Sources: "Instance metadata service", AWS EC2 user guide; "Instance metadata", Alibaba Cloud ECS.
const METADATA: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
];

impl OutputPolicy {
    /// Whether events may be sent to an address.
    pub fn allows(&self, address: IpAddr) -> bool {
        if self.allow_link_local {
            return true;
        }
        let address = match address {
            IpAddr::V6(v6) => embedded(v6).map_or(address, IpAddr::V4),
            IpAddr::V4(_) => address,
        };
        let link_local = match address {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        !link_local && !METADATA.contains(&address)
    }
}

/// Finds an IPv4 address that an IPv6 address leads to: mapped (RFC 4291, section 2.5.5.2),
/// compatible (2.5.5.1), translated (64:ff9b::/96, RFC 6052) or by way of 6to4 (2002::/16, RFC 3056).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0..=1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(of(high, low))
        }
        [0x2002, high, low, ..] => Some(of(high, low)),
        _ => None,
    }
}

/// The refusal of an address.
pub(super) fn refused(host: &str, address: IpAddr) -> String {
    format!(
        "`{host}` is {address}, a link-local or metadata address, to which nothing is sent unless \
         the gate runs with `--allow-link-local`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_and_metadata_addresses_are_refused_however_written() {
        let policy = OutputPolicy::default();
        for refused in [
            "169.254.169.254",
            "169.254.0.1",
            "100.100.100.200",
            "fe80::1",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
        ] {
            assert!(!policy.allows(refused.parse().unwrap()), "{refused}");
        }
        for allowed in [
            "127.0.0.1",
            "::1",
            "10.0.0.1",
            "fd00::1",
            "8.8.8.8",
            "169.253.1.1",
        ] {
            assert!(policy.allows(allowed.parse().unwrap()), "{allowed}");
        }
        let open = OutputPolicy {
            allow_link_local: true,
            ..OutputPolicy::default()
        };
        assert!(open.allows("169.254.169.254".parse().unwrap()));
    }
}
