//! Addresses of machines, and what travels in their protocols.

use std::net::Ipv6Addr;

use super::{Boundary, Category, Detector, Part, tokens};

const BASE: Detector = Detector::of(Category::Network, Boundary::Word);

/// What is followed by a version, which may look like an address.
const VERSIONED: &[&str] = &[
    "version",
    "ver",
    "v",
    "release",
    "build",
    "revision",
    "rev",
    "firmware",
    "driver",
    "kernel",
    "chrome",
    "headlesschrome",
    "chromium",
    "crios",
    "edg",
    "edge",
    "edga",
    "edgios",
    "opr",
    "opera",
    "yabrowser",
    "vivaldi",
    "brave",
    "samsungbrowser",
    "fxios",
    "firefox",
    "safari",
    "trident",
    "electron",
    "upgraded",
    "oid",
    "section",
    "rfc",
];

pub(super) const DETECTORS: &[Detector] = &[
    Detector {
        name: "ipv4",
        title: "IPv4 address",
        description: "Four numbers up to 255 without leading zeros (RFC 791; RFC 6943, section 3.1.1). Not \
        inside a longer dotted number, not the version of a product (`Chrome/120.0.0.0`, `version \
        1.2.3.4`), not the unspecified address, the broadcast address or the loopback network.",
        pattern: r"(?-u)\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}",
        check: Some(is_ipv4),
        boundary: Boundary::Address,
        other_keys: VERSIONED,
        kept: b".",
        examples: &["203.0.113.77", "client 198.51.100.4:51234 connected"],
        ..BASE
    },
    Detector {
        name: "ipv6",
        title: "IPv6 address",
        description: "What RFC 4291, section 2.2, writes as an address; not the \
            unspecified and not the loopback address, and not a piece of a longer row of pieces with \
            colons between them.",
        pattern: r"(?-u)(?:[0-9A-Fa-f]{0,4}:){2,7}(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{1,4})|[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4}){0,6}::",
        check: Some(is_ipv6),
        boundary: Boundary::Colons,
        kept: b":.",
        examples: &[
            "2001:db8:85a3::8a2e:370:7334",
            "peer [fe80::1ff:fe23:4567:890a]:443",
        ],
        ..BASE
    },
    Detector {
        name: "mac_address",
        title: "MAC address",
        description: "Six pairs of hexadecimal digits with `:` or `-` between them, or three fours with \
            dots (IEEE 802; as Cisco writes it); not all zeros or all ones, and not a piece of a \
            longer row, as fingerprints are. \
            Digits alone, which times and dates are too, need a keyword.",
        pattern: r"(?-u)[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}|[0-9A-Fa-f]{2}(?:-[0-9A-Fa-f]{2}){5}|[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}",
        check: Some(|matched| {
            let all = |is: &[u8]| {
                let mut digits = matched.iter().filter(|byte| byte.is_ascii_hexdigit());
                digits.all(|digit| is.contains(digit))
            };
            !all(b"0") && !all(b"fF")
        }),
        boundary: Boundary::Colons,
        keywords: &[
            "mac",
            "mac address",
            "ether",
            "hwaddr",
            "bssid",
            "lladdr",
            "hardware",
            "device",
        ],
        tells_alone: Some(|matched| matched.iter().any(u8::is_ascii_alphabetic)),
        kept: b":-.",
        examples: &["00:1A:2B:3C:4D:5E", "00-1a-2b-3c-4d-5e", "001a.2b3c.4d5e"],
        ..BASE
    },
    Detector {
        name: "url_credentials",
        title: "password in a URL",
        description: "What stands between the `:` and the `@` of a URL's user information (RFC 3986, \
            section 3.2.1). The user's name stays.",
        pattern: r"(?-u)[A-Za-z][A-Za-z0-9+.-]{1,20}://[A-Za-z0-9._~%!$&'()*+,;=-]{0,64}:[A-Za-z0-9._~%!$&'()*+,;=:#?-]{1,128}@",
        check: Some(|matched| {
            let password = &matched[url_password(matched)];
            !tokens::is_placeholder(password)
        }),
        boundary: Boundary::Any,
        part: Part::Inside(url_password),
        examples: &["postgres://app:s3cr3t-Pw@db.example.com/orders"],
        ..BASE
    },
];

/// The part between the first `:` behind `://` and the `@`.
fn url_password(matched: &[u8]) -> std::ops::Range<usize> {
    let authority = matched.windows(3).position(|three| three == b"://");
    let authority = authority.map_or(0, |at| at + 3);
    let colon = matched[authority..].iter().position(|&byte| byte == b':');
    let start = colon.map_or(authority, |at| authority + at + 1);
    start..matched.len().saturating_sub(1).max(start)
}

fn is_ipv6(matched: &[u8]) -> bool {
    let parsed = std::str::from_utf8(matched)
        .ok()
        .and_then(|text| text.parse::<Ipv6Addr>().ok());
    let pieces = || matched.split(|&byte| byte == b':');
    parsed.is_some_and(|address| {
        !address.is_unspecified()
            && !address.is_loopback()
            // `f64::add` is a path in a program, and eight pairs are the name of a disk.
            && (pieces().count() > 3
                || matched.get(..4).is_some_and(|first| {
                    first.iter().all(u8::is_ascii_hexdigit) && first.iter().any(u8::is_ascii_digit)
                }))
            && !(pieces().count() == 8 && pieces().all(|piece| (1..=2).contains(&piece.len())))
    })
}

fn is_ipv4(matched: &[u8]) -> bool {
    let mut octets = [0_u16; 4];
    let mut count = 0;
    for part in matched.split(|&byte| byte == b'.') {
        let Some(place) = octets.get_mut(count) else {
            return false;
        };
        if part.is_empty() || part.len() > 3 || (part.len() > 1 && part[0] == b'0') {
            return false;
        }
        *place = part.iter().fold(0, |number, &byte| {
            number * 10 + u16::from(byte.wrapping_sub(b'0'))
        });
        if *place > 255 || !part.iter().all(u8::is_ascii_digit) {
            return false;
        }
        count += 1;
    }
    count == 4 && octets[0] != 0 && octets[0] != 127 && octets != [255; 4]
}
