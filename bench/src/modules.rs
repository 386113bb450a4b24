//! Where the benchmark has its modules from: a folder, or the repository's own, built now.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Builds the repository's modules; from the repository's root.
const BUILD: &str = "tests/build-guests";

/// A folder of modules, `<name>.wasm` each.
#[derive(Debug, Clone)]
pub(crate) struct Modules {
    folder: PathBuf,
}

impl Modules {
    /// Takes the modules of `folder`; without one, builds those of the repository.
    ///
    /// # Errors
    /// If they cannot be built, as when the working directory is not the repository's root.
    pub(crate) fn find(folder: Option<&Path>) -> Result<Self> {
        if let Some(folder) = folder {
            let folder = folder.to_owned();
            return Ok(Self { folder });
        }
        let built = Command::new(BUILD).status().with_context(|| {
            format!("cannot run `{BUILD}`; run from the repository's root, or give `--modules`")
        })?;
        ensure!(built.success(), "`{BUILD}` ended with {built}");
        let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
        Ok(Self {
            folder: Path::new(&target).join("guests"),
        })
    }

    /// Reads a module.
    ///
    /// # Errors
    /// If there is none of that name.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.folder.join(format!("{name}.wasm"));
        fs::read(&path).with_context(|| format!("cannot read the module at `{}`", path.display()))
    }
}
