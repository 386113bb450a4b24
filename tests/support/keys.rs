//! Keys and certificates, made with `openssl` as the documentation says.

use std::{
    path::{Path, PathBuf},
    process::Command,
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
