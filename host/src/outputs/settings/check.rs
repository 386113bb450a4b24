//! What is asked of an output when it is edited or published, beyond what one needs to run.
//!
//! A gate that is upgraded goes on with the config that it has. Where a new version asks more of an
//! output, [`faults`] says so: an edit is refused, and a live output runs with a warning in
//! `GET /status`.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use reqwest::Url;
use serde_json::{Map, Value};

use super::{
    super::{
        secret::{self, Use},
        shown::{MOST_CHARS, first_escaped, one_line},
    },
    HttpSettings, Invalid, Output, OutputPolicy, OutputSettings, Target, TcpSettings,
    header_pointer, host_of, literals, owner_of, port_of,
};

/// Finds everything that an edit of this output would be refused for, in the order in which it is
/// told.
pub(in super::super) fn faults(
    output: &Output,
    settings: &OutputSettings,
    policy: &OutputPolicy,
) -> Vec<Invalid> {
    let mut faults = of_fields(output, policy);
    match &settings.target {
        Target::Console => {}
        Target::File(_) => faults.extend(of_giving_up(output)),
        Target::Tcp(tcp) => {
            faults.extend(of_address(tcp, policy));
            faults.extend(of_giving_up(output));
        }
        Target::Http(http) => {
            for field in ["url", "endpoint", "proxy"] {
                if let Some(url) = output.settings.get(field).and_then(Value::as_str) {
                    faults.extend(of_url(url, &format!("/{field}"), policy));
                }
            }
            faults.extend(of_headers(output, http));
            faults.extend(literals::faults(output));
        }
    }
    faults
}

/// Finds `give_up_after_s` where no receiver answers, so that none can answer and keep failing.
fn of_giving_up(output: &Output) -> Option<Invalid> {
    let given = output.settings.get("give_up_after_s")?;
    (!given.is_null()).then(|| {
        Invalid::new(
            "invalid_output",
            "/give_up_after_s",
            format!(
                "`give_up_after_s` has no effect on a `{}` output, which keeps its events until \
                 they are written; expected only on outputs that send requests; remove it",
                output.kind
            ),
        )
    })
}

/// Finds what is wrong with the address of a `tcp` output.
///
/// Resolvers of operating systems read `2852039166`, `0xa9fea9fe`, `0251.0376.1` and
/// `169.254.43518` as IPv4 addresses. Only the usual way to write one is accepted, so that what is
/// shown is what is connected to.
fn of_address(settings: &TcpSettings, policy: &OutputPolicy) -> Option<Invalid> {
    let address = &settings.address;
    let host = host_of(address);
    let in_brackets = address.starts_with('[');
    let fault = |what: &str| {
        Some(Invalid::new(
            "invalid_address",
            "/address",
            format!("the host of `address` is `{}`, {what}", one_line(host, 60)),
        ))
    };
    let ip = match host.parse::<Ipv6Addr>() {
        Ok(v6) => Some(IpAddr::V6(v6)),
        Err(_) if in_brackets || host.contains(':') => {
            return fault(
                "which is not an IPv6 address; expected, for example, `[2001:db8::1]:5140`, \
                 without a zone",
            );
        }
        Err(_) => None,
    };
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if ip.is_none() && !host.chars().all(is_of_name) {
        return fault(
            "which has characters that no host name has; expected letters, digits, `-`, `_` and \
             `.` (write other letters in Punycode, `xn--...`), or an IP address",
        );
    }
    let ip = match ip {
        None if ends_in_a_number(host) => match host.parse::<Ipv4Addr>() {
            Ok(v4) => Some(IpAddr::V4(v4)),
            Err(_) => {
                return fault(
                    "which looks like an IPv4 address in an unusual form; expected four decimal \
                     numbers, for example `192.0.2.1`, or a name whose last part is not a number",
                );
            }
        },
        ip => ip,
    };
    of_host(host, ip, port_of(address), "/address", policy)
}

/// Whether the last part of a host is a number, so that it is an address or nothing.
///
/// Source: WHATWG URL Standard, section 3.5, "ends in a number checker".
fn ends_in_a_number(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or_default();
    let hexadecimal = last
        .strip_prefix("0x")
        .or_else(|| last.strip_prefix("0X"))
        .is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
    hexadecimal || (!last.is_empty() && last.bytes().all(|digit| digit.is_ascii_digit()))
}

/// Refuses an address that is written out and must not be sent to, and `localhost` where the gate
/// itself listens. Other names are checked when they are looked up.
fn of_host(
    host: &str,
    ip: Option<IpAddr>,
    port: u16,
    pointer: &str,
    policy: &OutputPolicy,
) -> Option<Invalid> {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let is_localhost = name == "localhost" || name.ends_with(".localhost");
    let ips: Vec<IpAddr> = match ip {
        Some(ip) => vec![ip],
        // Both of them, or one is looked up that can be sent to.
        None if is_localhost => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        None => return None,
    };
    let refusals = ips
        .iter()
        .map(|ip| policy.refusal(host, SocketAddr::new(*ip, port)));
    let refusal = refusals.collect::<Option<Vec<_>>>()?.into_iter().next()?;
    Some(Invalid::new("forbidden_address", pointer, refusal))
}

/// Finds what is wrong with a URL as it is written. Parsers of URLs remove line ends and tabs and
/// take `\` for `/`: what is shown would not be what is sent to.
fn of_url(given: &str, pointer: &str, policy: &OutputPolicy) -> Option<Invalid> {
    let fault = |what: String| Some(Invalid::new("invalid_url", pointer, what));
    let name = pointer.trim_start_matches('/');
    let odd = |c: char| c.is_control() || c.is_whitespace() || c == '\\';
    if let Some(found) = given.chars().find(|c| odd(*c)) {
        return fault(format!(
            "`{name}` has the character U+{:04X}; expected a URL without control characters, \
             spaces and `\\`: remove it, or write it as `%{:02X}`",
            u32::from(found),
            u32::from(found)
        ));
    }
    let Some((_, rest)) = given.split_once("://") else {
        return fault(format!(
            "`{name}` has no `://`; expected `http://host/path` or `https://host/path`"
        ));
    };
    if given.contains('#') {
        return fault(format!(
            "`{name}` has a fragment (`#...`), which is never sent; remove it, or write `#` as \
             `%23`"
        ));
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.contains('@') {
        return Some(Invalid::new(
            "credentials_in_url",
            pointer,
            format!(
                "`{name}` has a user name or password before `@`, which would be shown wherever \
                 the URL is; send them in `headers`, by reference"
            ),
        ));
    }
    let url = Url::parse(given).ok()?;
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = url.port_or_known_default().unwrap_or_default();
    // The parser has brought every way to write an address into the one that `IpAddr` reads.
    of_host(host, host.parse().ok(), port, pointer, policy)
}

/// Finds header fields that are not for the settings to set.
fn of_headers(output: &Output, http: &HttpSettings) -> Vec<Invalid> {
    let given = output.settings.get("headers").and_then(Value::as_object);
    let names = given.into_iter().flat_map(Map::keys);
    let reserved = names.filter_map(|name| {
        let owner = owner_of(name, http.format.own_headers())?;
        Some(Invalid::new(
            "reserved_header",
            header_pointer(name),
            format!(
                "`headers` has `{}`, but {owner}; expected names that neither HTTP nor the output \
                 sets: remove it",
                one_line(name, MOST_CHARS)
            ),
        ))
    });
    let mut faults: Vec<Invalid> = reserved.collect();
    let mut seen = BTreeSet::new();
    for name in given.into_iter().flat_map(Map::keys) {
        if !seen.insert(name.trim().to_ascii_lowercase()) {
            faults.push(Invalid::new(
                "duplicate_header",
                header_pointer(name),
                format!(
                    "`headers` has `{}` twice, in different case, which does not matter in the \
                     name of a header; remove one",
                    one_line(name, MOST_CHARS)
                ),
            ));
        }
    }
    faults
}

/// Fields that are references, and what their secrets are for.
const REFERENCES: [(&str, Use); 5] = [
    ("api_key", Use::Sent),
    ("license_key", Use::Sent),
    ("access_key_id", Use::AwsSignature),
    ("secret_access_key", Use::AwsSignature),
    ("session_token", Use::AwsSignature),
];

/// Fields that name files and the like: they end in log lines, and are not escaped everywhere.
const SHOWN: [&str; 5] = [
    "/path",
    "/stream",
    "/tls/ca",
    "/tls/certificate",
    "/tls/key",
];

/// Finds characters in names that a terminal would act on.
fn of_names(output: &Output) -> impl Iterator<Item = Invalid> {
    SHOWN.iter().filter_map(|pointer| {
        let mut parts = pointer.split('/').skip(1);
        let first = output.settings.get(parts.next()?)?;
        let given = parts.try_fold(first, |value, part| value.get(part))?;
        let found = first_escaped(given.as_str()?)?;
        let name = pointer.trim_start_matches('/').replace('/', ".");
        Some(Invalid::new(
            "invalid_output",
            *pointer,
            format!(
                "`{name}` has the character U+{:04X}; expected no control characters, line ends \
                 or marks of direction: remove it",
                u32::from(found)
            ),
        ))
    })
}

/// Finds what is wrong with fields as they are written, before anything that they name is read:
/// references to secrets that a config may not refer to, `dead_letters`, and names with control
/// characters.
pub(in super::super) fn of_fields(output: &Output, policy: &OutputPolicy) -> Vec<Invalid> {
    let mut faults: Vec<Invalid> = of_names(output).collect();
    match output.settings.get("dead_letters") {
        None | Some(Value::Null | Value::Bool(false) | Value::Object(_)) => {}
        Some(found) => faults.push(Invalid::new(
            "invalid_output",
            "/dead_letters",
            format!(
                "`dead_letters` is `{}`; expected `false`, or an object such as `{{\"max_bytes\": \
                 \"16MiB\"}}`; leave it out for the default",
                one_line(&found.to_string(), 60)
            ),
        )),
    }
    let mut check = |reference: &str, purpose: Use, pointer: &str| {
        faults.extend(policy.secrets.check(reference, purpose, pointer).err());
    };
    for (field, purpose) in REFERENCES {
        if let Some(reference) = output.settings.get(field).and_then(Value::as_str) {
            check(reference, purpose, &format!("/{field}"));
        }
    }
    let proxy = output.settings.get("proxy_authorization");
    if let Some(value) = proxy.and_then(Value::as_str) {
        let pointer = "/proxy_authorization";
        for reference in secret::references_of_value(value, pointer).unwrap_or_default() {
            check(reference, Use::Sent, pointer);
        }
    }
    let headers = output.settings.get("headers").and_then(Value::as_object);
    for (name, value) in headers.into_iter().flatten() {
        let pointer = header_pointer(name);
        let text = value.as_str().unwrap_or_default();
        // One that is not closed is told when the output is built.
        for reference in secret::references(text, &pointer).unwrap_or_default() {
            check(reference, Use::Sent, &pointer);
        }
    }
    faults
}
