//! `streamgate module new`: a crate from a template.

use std::{
    fs,
    io::{Write, stdout},
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::ModuleCommandError;

/// The files of the template; `{{name}}` and `{{sdk}}` are filled in.
const TEMPLATE: [(&str, &str); 5] = [
    ("Cargo.toml", include_str!("template/Cargo.toml.template")),
    ("src/lib.rs", include_str!("template/lib.rs.template")),
    ("README.md", include_str!("template/README.md.template")),
    (
        ".cargo/config.toml",
        include_str!("template/config.toml.template"),
    ),
    (".gitignore", include_str!("template/gitignore.template")),
];

/// Flags of `module new`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the crate, of its folder and of the module
    name: String,
    /// Where the SDK is, if it is on this machine [default: its repository]
    #[arg(long, env = "STREAMGATE_SDK", value_name = "FOLDER")]
    sdk: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, ModuleCommandError> {
    let name = &args.name;
    check_name(name)?;
    let folder = Path::new(name);
    let sdk = match &args.sdk {
        None => format!("git = \"{}\"", env!("CARGO_PKG_REPOSITORY")),
        Some(path) => {
            let path = fs::canonicalize(path).map_err(|source| ModuleCommandError::File {
                path: path.clone(),
                source,
            })?;
            format!("path = {:?}", path.display().to_string())
        }
    };
    // Fails if there is something of that name: nothing of a user's is overwritten.
    fs::create_dir(folder).map_err(|source| ModuleCommandError::File {
        path: folder.to_owned(),
        source,
    })?;
    for (file, text) in TEMPLATE {
        let path = folder.join(file);
        let text = text.replace("{{name}}", name).replace("{{sdk}}", &sdk);
        let written = path
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&path, text));
        written.map_err(|source| ModuleCommandError::File { path, source })?;
    }
    let file = name.replace('-', "_");
    writeln!(
        stdout(),
        "made `{name}`; next:\n\n  \
         cd {name}\n  \
         cargo test\n  \
         rustup target add wasm32-unknown-unknown\n  \
         cargo build --release --target wasm32-unknown-unknown\n  \
         streamgate module push target/wasm32-unknown-unknown/release/{file}.wasm --name {name}"
    )?;
    Ok(ExitCode::SUCCESS)
}

/// A name that cargo takes, and the gate too.
fn check_name(name: &str) -> Result<(), ModuleCommandError> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let begins = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    if begins && name.len() <= 64 && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(ModuleCommandError::refused(format!(
        "the name is {:?}; expected 1 to 64 of `a-z`, `0-9` and `-`, a letter first",
        name.chars().take(80).collect::<String>()
    )))
}
