//! Keys and certificates, made with `openssl` as the documentation says.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

/// Runs `openssl` in a folder.
#[track_caller]
pub(crate) fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .output()
        .expect("openssl is installed (on Debian: apt-get install openssl)");
    assert!(
        output.status.success(),
        "openssl {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// An Ed25519 key pair in a folder: the files of the private and of the public key.
pub(crate) fn signing_keys(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    openssl(
        folder,
        &format!("genpkey -algorithm ed25519 -out {name}.pem"),
    );
    openssl(
        folder,
        &format!("pkey -in {name}.pem -pubout -out {name}-public.pem"),
    );
    (
        folder.join(format!("{name}.pem")),
        folder.join(format!("{name}-public.pem")),
    )
}

/// A CA, and certificates of it for 127.0.0.1 and for a client: `ca.pem`, `server.pem`,
/// `server.key`, `client.pem`, `client.key`.
pub(crate) fn certificates(folder: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    openssl(
        folder,
        &format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=test-ca"),
    );
    for name in ["server", "client"] {
        openssl(
            folder,
            &format!(
                "req -x509 {key} -CA ca.pem -CAkey ca.key -keyout {name}.key -out {name}.pem \
                 -subj /CN={name} -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE"
            ),
        );
    }
}

/// Certificates of the CA of [`certificates`] that must not be accepted: `expired.pem`, and `elsewhere.pem`
/// for another address.
pub(crate) fn bad_certificates(folder: &Path) {
    for (name, address, days) in [("expired", "127.0.0.1", -1), ("elsewhere", "127.0.0.2", 2)] {
        openssl(
            folder,
            &format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {name}.key \
                 -out {name}.csr -subj /CN={name} -addext subjectAltName=IP:{address}"
            ),
        );
        openssl(
            folder,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days {days} \
                 -copy_extensions copy -out {name}.pem"
            ),
        );
    }
}

/// What a TLS server in front of a receiver needs; with `asks` it wants a certificate of the CA too.
pub(crate) fn server_config(folder: &Path, name: &str, asks: bool) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring has what they need");
    let pem = |file: String| std::fs::read(folder.join(file)).expect("it was made");
    let chain = |file: String| -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(&pem(file))
            .collect::<Result<_, _>>()
            .expect("a certificate")
    };
    let key = PrivateKeyDer::from_pem_slice(&pem(format!("{name}.key"))).expect("a key");
    let builder = if asks {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(chain("ca.pem".to_owned()));
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        builder.with_client_cert_verifier(verifier.build().expect("it has a root"))
    } else {
        builder.with_no_client_auth()
    };
    builder
        .with_single_cert(chain(format!("{name}.pem")), key)
        .expect("the key fits")
}

/// What a TLS client needs that trusts the CA of [`certificates`], and shows that certificate of it.
pub(crate) fn client_config(folder: &Path, shows: Option<&str>) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let pem = |file: String| std::fs::read(folder.join(file)).expect("it was made");
    let chain = |file: String| -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(&pem(file))
            .collect::<Result<_, _>>()
            .expect("a certificate")
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(chain("ca.pem".to_owned()));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has what they need")
        .with_root_certificates(roots);
    match shows {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let key = PrivateKeyDer::from_pem_slice(&pem(format!("{name}.key"))).expect("a key");
            let chain = chain(format!("{name}.pem"));
            builder
                .with_client_auth_cert(chain, key)
                .expect("the key fits")
        }
    }
}
