//! The modules of this repository, built once by `tests/build-guests` and `tests/build-js-guest`.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
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

/// Returns the file of the module in JavaScript, `examples/js-rename`; none, and a line on stderr, if
/// this machine has no Node.js. The first call builds it, which takes a minute or two if it never was.
///
/// # Panics
/// If it cannot be built, with what the script said.
pub(crate) fn js_guest() -> Option<PathBuf> {
    /// The script's way to say that Node.js is missing, as test programs of Automake do.
    const SKIPPED: i32 = 77;
    let (status, said) = run("tests/build-js-guest");
    if status.code() == Some(SKIPPED) {
        eprint!("{said}");
        return None;
    }
    assert!(status.success(), "tests/build-js-guest:\n{said}");
    Some(folder().join("js-rename.wasm"))
}

/// Builds the modules and returns where they are.
fn build() -> PathBuf {
    let (status, said) = run("tests/build-guests");
    assert!(status.success(), "tests/build-guests:\n{said}");
    folder()
}

/// Runs a script of this repository; returns how it ended, and what it said on stderr.
fn run(script: &str) -> (ExitStatus, String) {
    let output = Command::new(root().join(script))
        .output()
        .unwrap_or_else(|error| panic!("{script}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status, said)
}

/// Returns where the scripts put modules.
fn folder() -> PathBuf {
    // As the scripts have it: a relative folder is one of the root's.
    let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    root().join(target).join("guests")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
