//! TLS towards a receiver: which authorities are trusted, and the certificate that the gate shows.
//!
//! Certificates are always verified; there is no setting that turns it off.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustls::{ClientConfig, SignatureScheme, client::ResolvesClientCert, sign::CertifiedKey};
use rustls_platform_verifier::BuilderVerifierExt;
use serde::Deserialize;

use crate::{
    manifest::Invalid,
    pem::{authorities, certificates, private_key, provider},
};

/// The field `tls` of an output.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSettings {
    /// A file (PEM) with the certificates of the authorities to trust; by default the system's.
    pub ca: Option<PathBuf>,
    /// A file (PEM) with the certificate to show, and those that lead to its authority.
    pub certificate: Option<PathBuf>,
    /// A file (PEM) with the private key of that certificate.
    pub key: Option<PathBuf>,
}

/// Tells whether a receiver asked for a certificate.
#[derive(Debug, Clone)]
pub(super) struct CertificateAsked(Arc<AtomicBool>);

/// Answers as another resolver does, and notes that it was asked.
#[derive(Debug)]
struct Watched {
    resolver: Arc<dyn ResolvesClientCert>,
    asked: CertificateAsked,
}

impl CertificateAsked {
    /// Notes from now on what receivers ask for on connections of this config.
    pub(super) fn watch(config: &mut ClientConfig) -> Self {
        let asked = Self(Arc::default());
        config.client_auth_cert_resolver = Arc::new(Watched {
            resolver: Arc::clone(&config.client_auth_cert_resolver),
            asked: asked.clone(),
        });
        asked
    }

    pub(super) fn forget(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    pub(super) fn was_asked(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl ResolvesClientCert for Watched {
    fn resolve(
        &self,
        root_hint_subjects: &[&[u8]],
        sigschemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.asked.0.store(true, Ordering::SeqCst);
        self.resolver.resolve(root_hint_subjects, sigschemes)
    }

    fn has_certs(&self) -> bool {
        self.resolver.has_certs()
    }
}

/// Checks that the files can be used. Blocks on them.
pub(super) fn check(settings: &TlsSettings) -> Result<(), Invalid> {
    client_config(Some(settings))
        .map(drop)
        .map_err(|(field, error)| Invalid::new("invalid_tls", format!("/tls/{field}"), error))
}

/// Builds what a connection is secured with, from its files, on which it blocks; an error names the
/// field.
pub(super) fn client_config(
    settings: Option<&TlsSettings>,
) -> Result<ClientConfig, (&'static str, String)> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has what the default versions need");
    let ca = settings.and_then(|settings| settings.ca.as_ref());
    let builder = match ca {
        None => builder
            .with_platform_verifier()
            .map_err(|error| ("ca", error.to_string()))?,
        Some(path) => {
            let roots = authorities(path).map_err(|error| ("ca", error))?;
            builder.with_root_certificates(roots)
        }
    };
    let own = settings.map(|settings| (&settings.certificate, &settings.key));
    match own {
        None | Some((None, None)) => Ok(builder.with_no_client_auth()),
        Some((Some(_), None)) => Err(("key", "`certificate` is given without `key`".to_owned())),
        Some((None, Some(_))) => Err((
            "certificate",
            "`key` is given without `certificate`".to_owned(),
        )),
        Some((Some(certificate), Some(key))) => {
            let chain = certificates(certificate).map_err(|error| ("certificate", error))?;
            let key = private_key(key).map_err(|error| ("key", error))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| ("certificate", error.to_string()))
        }
    }
}
