//! The modules of this repository, built once by `tests/build-guests`.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Returns the file of a module: `drop-keyword` is the one of `examples/drop-keyword`, `misbehave`
/// the one of `tests/guests/misbehave`. The first call builds them all, which takes minutes if they
/// never were.
///
/// # Panics
/// If they cannot be built, with what the script said, or there is none of that name.
pub(crate) fn guest(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let file = FOLDER.get_or_init(build).join(format!("{name}.wasm"));
    assert!(file.is_file(), "there is no {}", file.display());
    file
}

/// Builds the modules and returns where they are.
fn build() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let script = root.join("tests/build-guests");
    let output = Command::new(&script)
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}:\n{said}", script.display());
    // As the script has it: a relative folder is one of the root's.
    let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    root.join(target).join("guests")
}
