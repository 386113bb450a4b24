//! Certificates and keys in PEM files that a user names, for TLS in both directions.

use std::{path::Path, sync::Arc};

use rustls::{
    RootCertStore,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use streamgate_processors::named_file;

/// The largest file, in bytes; the system's bundles of certificates have some 200 KiB.
const MAX_PEM_BYTES: usize = 4 * 1024 * 1024;

/// The cryptography that TLS is done with.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    // ring and not the default aws-lc: it builds with a C compiler alone.
    Arc::new(ring::default_provider())
}

/// Reads the certificates of a file, at least one. Blocks on it.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("`{}` holds no certificate (PEM)", path.display())),
        Err(error) => Err(format!("`{}`: {error}", path.display())),
    }
}

/// Reads the authorities of a file, at least one. Blocks on it.
pub(crate) fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        let added = roots.add(certificate);
        added.map_err(|error| format!("`{}`: {error}", path.display()))?;
    }
    Ok(roots)
}

/// Reads the private key of a file. Blocks on it.
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|error| format!("`{}` holds no private key (PEM): {error}", path.display()))
}

/// Reads a file of certificates or a key. Blocks on it.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, String> {
    named_file::read(path, MAX_PEM_BYTES).map_err(|error| error.to_string())
}
