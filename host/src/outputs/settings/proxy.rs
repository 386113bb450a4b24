//! The proxy that an output sends its requests through.
//!
//! A receiver at `https://` is reached through a tunnel (`CONNECT`), and the proxy sees only its
//! host and port. A request to a receiver at `http://` is handed to the proxy whole, in absolute
//! form (RFC 9112, section 3.2.2).

use reqwest::{Url, header::HeaderValue};
use serde::Deserialize;

use super::{
    super::{
        secret::{SecretSources, Template},
        shown::one_line,
    },
    Invalid,
};

/// Settings of an output's proxy.
#[derive(Debug, Clone, PartialEq)]
pub struct ProxySettings {
    /// Scheme, host and port.
    pub url: Url,
    /// The value of `Proxy-Authorization`.
    pub authorization: Option<Template>,
}

#[derive(Deserialize)]
pub(super) struct ProxyFields {
    proxy: Option<String>,
    proxy_authorization: Option<String>,
}

pub(super) fn parse(
    fields: &ProxyFields,
    sources: &SecretSources,
) -> Result<Option<ProxySettings>, Invalid> {
    let authorization = fields.proxy_authorization.as_deref();
    match (fields.proxy.as_deref(), authorization) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(Invalid::new(
            "invalid_proxy",
            "/proxy_authorization",
            "`proxy_authorization` is given without `proxy`; add `proxy`, or remove it",
        )),
        (Some(url), given) => Ok(Some(ProxySettings {
            url: parse_url(url)?,
            authorization: given
                .map(|given| parse_authorization(given, sources))
                .transpose()?,
        })),
    }
}

fn parse_url(given: &str) -> Result<Url, Invalid> {
    // First, so that a password is not repeated.
    if given.contains('@') {
        return Err(Invalid::new(
            "credentials_in_url",
            "/proxy",
            "`proxy` has a user name or password before `@`, which would be shown wherever the URL \
             is; remove them, and set `proxy_authorization`, for example to \
             `Basic ${env:STREAMGATE_SECRET_PROXY}`",
        ));
    }
    let invalid = |cause: &str| {
        let shown = one_line(given, 100);
        Invalid::new(
            "invalid_url",
            "/proxy",
            format!(
                "`proxy` is `{shown}`: {cause}; expected `http://host:port` or `https://host:port`"
            ),
        )
    };
    let url = Url::parse(given).map_err(|error| invalid(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid("the scheme is neither http nor https"));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(invalid("a proxy has no path, query or fragment"));
    }
    Ok(url)
}

fn parse_authorization(given: &str, sources: &SecretSources) -> Result<Template, Invalid> {
    let pointer = "/proxy_authorization";
    let template = Template::of_value(given, pointer, sources)?;
    if !template.is_secret() {
        return Err(Invalid::new(
            "literal_secret",
            pointer,
            "`proxy_authorization` is written into the config, which shows it to everyone who may \
             read the config; expected a reference, `env:NAME` or `file:/path` for the whole \
             value, or a text such as `Basic ${env:STREAMGATE_SECRET_PROXY}`",
        ));
    }
    let value = template
        .fill()
        .map_err(|error| Invalid::new("unreadable_secret", pointer, error))?;
    match HeaderValue::try_from(value) {
        Ok(_) => Ok(template),
        Err(_) => Err(Invalid::new(
            "invalid_header",
            pointer,
            "`proxy_authorization` has characters that the value of a header cannot have; expected \
             visible characters and spaces",
        )),
    }
}
