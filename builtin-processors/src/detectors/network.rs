//! Addresses of machines, and what travels in their protocols.

use super::{Boundary, Category, Detector, Part};

const BASE: Detector = Detector {
    name: "",
    title: "",
    category: Category::Network,
    description: "",
    pattern: "",
    check: None,
    boundary: Boundary::Word,
    keywords: &[],
    tells_alone: None,
    other_keys: &[],
    part: Part::Whole,
    kept: b"",
    examples: &[],
};

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

pub(super) const DETECTORS: &[Detector] = &[Detector {
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
}];

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
