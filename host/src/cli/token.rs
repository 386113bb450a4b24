//! `streamgate token`: who may use the control API.
//!
//! Works on the store itself, whether a gate runs on it or not: whoever may write to the store has
//! all rights anyway. A running gate sees a change within a second.

use std::{
    io::{self, Write, stdout},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use crate::{
    access::{
        self, FIRST_TOKEN_FILE,
        store::{TokenStore, UpdateError},
        token::{Role, TokenList, TokenRecord, now},
    },
    audit::{AuditLog, Entry},
    config::{Config, ConfigError, SeedEnvironment, Settings, units},
    config_store::StoreError,
    timestamp::rfc3339,
};

/// What can be done with tokens.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Creates a token and prints it, this once
    Create {
        /// What the audit log calls its bearer
        name: String,
        /// What its bearer may do
        #[arg(long, value_enum)]
        role: Role,
        /// How long it is valid, such as `24h` [default: for ever]
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        /// The settings of the gate, which say where its store is
        #[command(flatten)]
        settings: Box<Settings>,
    },
    /// Lists the tokens
    List {
        /// The settings of the gate, which say where its store is
        #[command(flatten)]
        settings: Box<Settings>,
    },
    /// Revokes a token
    Revoke {
        /// Its name
        name: String,
        /// The settings of the gate, which say where its store is
        #[command(flatten)]
        settings: Box<Settings>,
    },
    /// Prints the token that a gate made at its first start
    Show {
        /// The settings of the gate, which say where its store is
        #[command(flatten)]
        settings: Box<Settings>,
    },
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum TokenCommandError {
    /// The settings cannot be right.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tokens cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The tokens cannot be changed.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// The time cannot be read.
    #[error("`--expires`: {0}")]
    Expires(String),
    /// Tokens of a store in memory end with its gate.
    #[error(
        "a store in memory keeps no tokens; name the store of the gate with `--store`, or use \
         `POST /tokens` of the control API"
    )]
    InMemory,
    /// There is no file with the first token.
    #[error(
        "cannot read {}: {source}; a gate makes it at its first start if its control API can be \
         reached from other hosts; `streamgate token create NAME --role admin` makes another token",
        path.display()
    )]
    NoFirstToken {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Gates had newer tokens than Redis.
    #[error(
        "nothing was changed: Redis had lost tokens, and a gate has restored them meanwhile; run the \
         command again"
    )]
    Restored,
    /// A token exists that nobody has seen.
    #[error(
        "cannot write to standard output: {source}; the token exists, so revoke it with `streamgate \
         token revoke {name}`"
    )]
    NotPrinted {
        /// Its name.
        name: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

/// Runs a command.
///
/// # Errors
/// [`TokenCommandError`].
pub fn run(command: Command) -> Result<ExitCode, TokenCommandError> {
    match command {
        Command::Create {
            name,
            role,
            expires,
            settings,
        } => create(*settings, &name, role, expires.as_deref()),
        Command::List { settings } => list(*settings),
        Command::Revoke { name, settings } => revoke(*settings, &name),
        Command::Show { settings } => show(*settings),
    }
}

/// The tokens of the store that the settings name.
struct Opened {
    store: TokenStore,
    directory: Option<PathBuf>,
}

impl Opened {
    fn from(settings: Settings) -> Result<Self, TokenCommandError> {
        let config = Config::load(settings, SeedEnvironment::read())?;
        let store = TokenStore::open(&config.store, config.redis.settings()?)?;
        if matches!(store, TokenStore::Memory(_)) {
            return Err(TokenCommandError::InMemory);
        }
        let directory = config.access.directory;
        Ok(Self { store, directory })
    }

    /// Makes the directory of the store, if it is one.
    fn make_directory(&self) -> Result<(), StoreError> {
        let (TokenStore::Directory(_), Some(directory)) = (&self.store, &self.directory) else {
            return Ok(());
        };
        std::fs::create_dir_all(directory).map_err(|source| StoreError::Open {
            path: directory.clone(),
            setting: "--store",
            source,
        })
    }

    /// Waits until gates would have restored newer tokens than Redis had, and checks that a change is
    /// still there.
    fn confirm(&self, is_there: impl Fn(&TokenList) -> bool) -> Result<(), TokenCommandError> {
        if !self.store.is_shared() {
            return Ok(());
        }
        std::thread::sleep(2 * access::POLL);
        match is_there(&self.store.read()?) {
            true => Ok(()),
            false => Err(TokenCommandError::Restored),
        }
    }

    /// Adds what was done to the audit log beside the store.
    fn record(&self, action: &str) {
        let exists = self.directory.as_deref().filter(|path| path.is_dir());
        if let Some(directory) = exists {
            let user = rustix::process::getuid().as_raw();
            let who = Some(format!("command line, user {user}"));
            AuditLog::new(Some(directory)).record(&Entry::now(who, Role::Admin, action));
        }
    }
}

fn create(
    settings: Settings,
    name: &str,
    role: Role,
    expires: Option<&str>,
) -> Result<ExitCode, TokenCommandError> {
    let lifetime = expires.map(lifetime).transpose()?;
    let opened = Opened::from(settings)?;
    opened.make_directory()?;
    let known = TokenList::default();
    let (token, record) = access::create(&opened.store, &known, name, role, lifetime)?;
    opened.record(&format!("token create {} --role {role}", record.name));
    opened.confirm(|list| list.find(record.digest).is_some())?;
    writeln!(stdout(), "{}", token.reveal()).map_err(|source| TokenCommandError::NotPrinted {
        name: record.name,
        source,
    })?;
    Ok(ExitCode::SUCCESS)
}

fn list(settings: Settings) -> Result<ExitCode, TokenCommandError> {
    let list = Opened::from(settings)?.store.read()?;
    let mut out = stdout().lock();
    writeln!(
        out,
        "{:<24} {:<10} {:<21} {:<21}",
        "NAME", "ROLE", "CREATED", "EXPIRES"
    )?;
    for token in &list.tokens {
        let (created, expires) = times(token);
        writeln!(
            out,
            "{:<24} {:<10} {created:<21} {expires}",
            token.name, token.role
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn times(token: &TokenRecord) -> (String, String) {
    let time = |seconds| rfc3339(std::time::UNIX_EPOCH + Duration::from_secs(seconds));
    let expires = match token.expires {
        None => "never".to_owned(),
        Some(_) if token.is_expired(now()) => "expired".to_owned(),
        Some(expires) => time(expires),
    };
    (time(token.created), expires)
}

fn revoke(settings: Settings, name: &str) -> Result<ExitCode, TokenCommandError> {
    let opened = Opened::from(settings)?;
    let revoked = opened
        .store
        .update(&TokenList::default(), |list| list.revoke(name))?;
    opened.record(&format!("token revoke {}", revoked.name));
    opened.confirm(|list| list.find(revoked.digest).is_none())?;
    writeln!(stdout(), "revoked the token `{}`", revoked.name)?;
    Ok(ExitCode::SUCCESS)
}

fn show(settings: Settings) -> Result<ExitCode, TokenCommandError> {
    let config = Config::load(settings, SeedEnvironment::read())?;
    let directory = config.access.directory.ok_or(TokenCommandError::InMemory)?;
    let path = directory.join(FIRST_TOKEN_FILE);
    let token = super::read(&path).map_err(|source| TokenCommandError::NoFirstToken {
        path: path.clone(),
        source,
    })?;
    stdout().write_all(&token)?;
    Ok(ExitCode::SUCCESS)
}

fn lifetime(text: &str) -> Result<Duration, TokenCommandError> {
    let lifetime = units::duration(text).map_err(TokenCommandError::Expires)?;
    match lifetime.as_secs() {
        0 => Err(TokenCommandError::Expires(format!(
            "`{text}` is less than a second"
        ))),
        _ => Ok(lifetime),
    }
}
