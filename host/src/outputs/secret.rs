//! Secrets by reference: what a config says is where a secret is, never the secret.
//!
//! A reference is `env:NAME` or `file:/path`; a header's value holds one as `${env:NAME}` or
//! `${file:/path}`. It is read when a connection is built, and again when the receiver refuses the
//! credentials and at SIGHUP, so that a secret can be rotated in its file. What was read is never
//! logged or shown.
//!
//! Someone who may publish a config must not be able to read the machine's files and environment
//! through it: [`SecretSources`] says what can be referred to. A reference in a config that was
//! live before goes on being read; see `settings::check`.

use std::{
    fmt,
    path::{Component, Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use streamgate_processors::named_file;

use super::shown::{MOST_CHARS, one_line};
use crate::manifest::Invalid;

/// Counts how often secrets were to be read again.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// Has every output read its secrets again before its next request.
pub fn read_again() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// Returns a number that changes with each [`read_again`].
pub(super) fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

/// The code of the refusal of a secret that a config may not refer to.
pub(super) const FORBIDDEN: &str = "forbidden_secret";

/// The longest secret, in bytes; it travels in a header.
const MAX_SECRET_BYTES: usize = 8 * 1024;

/// Folders of secrets: Docker, Compose, Swarm and Podman mount them there, and Kubernetes can. The
/// second is the first on most systems.
const FOLDERS: [&str; 2] = ["/run/secrets", "/var/run/secrets"];

/// What the names of variables begin with that are made for this purpose.
const PREFIX: &str = "STREAMGATE_SECRET_";

/// Variables that hold nothing but a key for a receiver of logs, as the receivers' own agents and
/// documentation call them.
const VARIABLES: [&str; 38] = [
    // Datadog.
    "DD_API_KEY",
    "DD_APP_KEY",
    "DD_APPLICATION_KEY",
    "DATADOG_API_KEY",
    "DATADOG_APP_KEY",
    // New Relic.
    "NEW_RELIC_LICENSE_KEY",
    "NEW_RELIC_API_KEY",
    "NEW_RELIC_INSERT_KEY",
    // Splunk.
    "SPLUNK_HEC_TOKEN",
    "SPLUNK_TOKEN",
    "SPLUNK_ACCESS_TOKEN",
    // Elasticsearch and OpenSearch.
    "ELASTIC_API_KEY",
    "ELASTIC_PASSWORD",
    "ELASTICSEARCH_API_KEY",
    "ELASTICSEARCH_USERNAME",
    "ELASTICSEARCH_PASSWORD",
    "OPENSEARCH_USERNAME",
    "OPENSEARCH_PASSWORD",
    // Grafana and Loki.
    "LOKI_USERNAME",
    "LOKI_PASSWORD",
    "LOKI_TOKEN",
    "GRAFANA_API_KEY",
    "GRAFANA_TOKEN",
    "GRAFANA_CLOUD_API_KEY",
    "GRAFANA_CLOUD_TOKEN",
    // Others.
    "AXIOM_TOKEN",
    "BETTERSTACK_SOURCE_TOKEN",
    "LOGTAIL_SOURCE_TOKEN",
    "CORALOGIX_API_KEY",
    "CORALOGIX_PRIVATE_KEY",
    "DT_API_TOKEN",
    "DYNATRACE_API_TOKEN",
    "HONEYCOMB_API_KEY",
    "LOGGLY_TOKEN",
    "LOGZIO_TOKEN",
    "MEZMO_INGESTION_KEY",
    "PAPERTRAIL_TOKEN",
    "SUMOLOGIC_ACCESS_KEY",
];

/// Credentials that open more than a receiver of logs: only the signatures of `cloudwatch` are made
/// with them, which do not hold the secret itself.
const AWS_VARIABLES: [&str; 3] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
];

/// What secrets a config may refer to, besides [`VARIABLES`], those that begin with [`PREFIX`], and
/// files below [`FOLDERS`].
#[derive(Debug, Clone, Default)]
pub struct SecretSources {
    /// Names of variables; one with a `*` at its end stands for all that begin so.
    pub variables: Vec<String>,
    /// Folders, absolute.
    pub folders: Vec<PathBuf>,
    /// Whether a file outside of the folders is not read either. Otherwise a config from before they
    /// counted goes on.
    pub confined: bool,
}

/// What a secret is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It is sent.
    Sent,
    /// Requests to AWS are signed with it.
    AwsSignature,
}

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    place: Place,
    /// The folders that its file must be in whenever it is read; none if it was not in one of them
    /// when the config that names it was built.
    folders: Option<Arc<[PathBuf]>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// In an environment variable of the process.
    Environment(String),
    /// In a file, whose line ends at the end do not belong to it.
    File(PathBuf),
}

/// A text with secrets in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Secret(Secret),
}

impl SecretSources {
    /// Checks that a config may refer to this secret. Nothing is read: what is not allowed gets the
    /// same answer whether it is there or not.
    ///
    /// # Errors
    /// [`Invalid`] at `pointer`, with the setting that would allow it.
    pub fn check(&self, reference: &str, purpose: Use, pointer: &str) -> Result<(), Invalid> {
        let place = Place::parse(reference, pointer)?;
        let remedy = match &place {
            Place::Environment(name) if self.has_variable(name, purpose) => return Ok(()),
            Place::File(path) if is_within(path, &self.all_folders()) => return Ok(()),
            Place::Environment(name) => format!(
                "secrets are read from variables with the usual names of vendors (`DD_API_KEY`, \
                 ...) and from `STREAMGATE_SECRET_*`; rename it, or start the gate with \
                 `--secret-env {}`",
                one_line(name, MOST_CHARS)
            ),
            Place::File(path) => {
                let folder = path.parent().unwrap_or(path).display().to_string();
                format!(
                    "secrets are read from files below `/run/secrets`, where symbolic links must \
                     stay; move it, or start the gate with `--secret-files {}`",
                    one_line(&folder, MOST_CHARS)
                )
            }
        };
        Err(Invalid::new(
            FORBIDDEN,
            pointer,
            format!("{place} is not among those that a config may refer to: {remedy}"),
        ))
    }

    fn has_variable(&self, name: &str, purpose: Use) -> bool {
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == pattern,
        };
        let for_aws = purpose == Use::AwsSignature && AWS_VARIABLES.contains(&name);
        for_aws
            || VARIABLES.contains(&name)
            || name.starts_with(PREFIX)
            || self.variables.iter().any(matches)
    }

    fn all_folders(&self) -> Vec<PathBuf> {
        let own = FOLDERS.iter().map(PathBuf::from);
        own.chain(self.folders.iter().cloned()).collect()
    }
}

/// Whether a file is below one of these folders, when symbolic links are followed: what Kubernetes
/// mounts is a link within its folder. A file that is not there counts by how its path is written.
fn is_within(path: &Path, folders: &[PathBuf]) -> bool {
    let Ok(real) = path.canonicalize() else {
        let climbs = path.components().any(|part| part == Component::ParentDir);
        return !climbs && folders.iter().any(|folder| path.starts_with(folder));
    };
    let below = |folder: &PathBuf| {
        let real_folder = folder.canonicalize();
        real_folder.is_ok_and(|folder| real.starts_with(folder))
    };
    folders.iter().any(below)
}

impl Place {
    fn parse(reference: &str, pointer: &str) -> Result<Self, Invalid> {
        match reference.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Self::Environment(name.to_owned())),
            Some(("file", path)) if path.starts_with('/') => Ok(Self::File(PathBuf::from(path))),
            // What was found is not repeated: it may be the secret itself.
            _ => Err(Invalid::new(
                "invalid_secret",
                pointer,
                "expected where the secret is, `env:NAME` or `file:/path`; a secret itself does \
                 not belong into a config",
            )),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment(name) => {
                write!(
                    f,
                    "the environment variable `{}`",
                    one_line(name, MOST_CHARS)
                )
            }
            Self::File(path) => {
                let path = path.display().to_string();
                write!(f, "the file `{}`", one_line(&path, MOST_CHARS))
            }
        }
    }
}

impl Secret {
    /// Reads a reference, and checks that the secret is there.
    ///
    /// # Errors
    /// [`Invalid`] at `pointer` if it is no reference, or nothing can be read there.
    pub fn parse(reference: &str, pointer: &str, sources: &SecretSources) -> Result<Self, Invalid> {
        let place = Place::parse(reference, pointer)?;
        let folders = sources.all_folders();
        let is_confined = matches!(&place, Place::File(path) if is_within(path, &folders));
        let secret = Self {
            place,
            folders: (is_confined || sources.confined).then(|| folders.into()),
        };
        match secret.read() {
            Ok(_) => Ok(secret),
            Err(error) => Err(Invalid::new("unreadable_secret", pointer, error)),
        }
    }

    /// Reads the secret. A file blocks, at most for [`named_file::READ_LIMIT`].
    ///
    /// # Errors
    /// Says where it should be and what is wrong there, never what was read.
    pub fn read(&self) -> Result<String, String> {
        let text = match &self.place {
            Place::Environment(name) => std::env::var(name)
                .map_err(|error| match error {
                    // It would repeat what was read.
                    std::env::VarError::NotUnicode(_) => {
                        format!("{self} holds bytes that are not UTF-8")
                    }
                    std::env::VarError::NotPresent => format!("{self} is not set"),
                })
                .and_then(|text| match text.len() <= MAX_SECRET_BYTES {
                    true => Ok(text),
                    false => Err(format!("{self} is longer than {MAX_SECRET_BYTES} bytes")),
                })?,
            Place::File(path) => {
                // Read by the path that was checked, so that a link that is changed meanwhile counts.
                let real = match &self.folders {
                    Some(_) => path.canonicalize().unwrap_or_else(|_| path.clone()),
                    None => path.clone(),
                };
                if let Some(folders) = &self.folders
                    && !is_within(&real, folders)
                {
                    return Err(format!(
                        "{self} is a symbolic link that leads out of the folders of secrets; \
                         expected a file in one of them (`--secret-files` adds folders)"
                    ));
                }
                let bytes = named_file::read(&real, MAX_SECRET_BYTES)
                    .map_err(|error| format!("cannot read {self}: {}", error.reason()))?;
                let mut text = String::from_utf8(bytes)
                    .map_err(|_| format!("{self} holds bytes that are not UTF-8"))?;
                text.truncate(text.trim_end_matches(['\r', '\n']).len());
                text
            }
        };
        match text.is_empty() {
            true => Err(format!("{self} is empty")),
            false => Ok(text),
        }
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.fmt(f)
    }
}

/// Returns the references in a text: what is in `${...}`.
///
/// # Errors
/// [`Invalid`] at `pointer` if one is not closed.
pub(super) fn references<'a>(text: &'a str, pointer: &str) -> Result<Vec<&'a str>, Invalid> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("${") {
        let Some((reference, behind)) = after.split_once('}') else {
            return Err(Invalid::new(
                "invalid_secret",
                pointer,
                "`${` is not closed; expected `${env:NAME}` or `${file:/path}`",
            ));
        };
        found.push(reference);
        rest = behind;
    }
    Ok(found)
}

/// Returns the references in a value that is one, or a text with `${...}` in it.
///
/// # Errors
/// As [`references`].
pub(super) fn references_of_value<'a>(
    value: &'a str,
    pointer: &str,
) -> Result<Vec<&'a str>, Invalid> {
    match is_reference(value) {
        true => Ok(vec![value]),
        false => references(value, pointer),
    }
}

fn is_reference(value: &str) -> bool {
    value.starts_with("env:") || value.starts_with("file:")
}

impl Template {
    /// Reads a value that is one reference, or a text in which `${env:NAME}` and `${file:/path}`
    /// stand for secrets.
    ///
    /// # Errors
    /// [`Invalid`] at `pointer`, as [`Secret::parse`].
    pub fn of_value(value: &str, pointer: &str, sources: &SecretSources) -> Result<Self, Invalid> {
        match is_reference(value) {
            true => Secret::parse(value, pointer, sources).map(Self::of_secret),
            false => Self::parse(value, pointer, sources),
        }
    }

    /// Reads a text in which `${env:NAME}` and `${file:/path}` stand for secrets.
    ///
    /// # Errors
    /// [`Invalid`] at `pointer`, as [`Secret::parse`].
    pub fn parse(text: &str, pointer: &str, sources: &SecretSources) -> Result<Self, Invalid> {
        let mut parts = Vec::new();
        let mut rest = text;
        for reference in references(text, pointer)? {
            let whole = format!("${{{reference}}}");
            let (before, behind) = rest.split_once(&whole).expect("it was found there");
            parts.push(Part::Text(before.to_owned()));
            parts.push(Part::Secret(Secret::parse(reference, pointer, sources)?));
            rest = behind;
        }
        parts.push(Part::Text(rest.to_owned()));
        Ok(Self { parts })
    }

    /// Makes a text that is one secret.
    pub fn of_secret(secret: Secret) -> Self {
        Self {
            parts: vec![Part::Secret(secret)],
        }
    }

    /// Returns whether a secret is in it.
    pub fn is_secret(&self) -> bool {
        let is_secret = |part: &Part| matches!(part, Part::Secret(_));
        self.parts.iter().any(is_secret)
    }

    /// Puts the secrets in. Blocks as [`Secret::read`] does.
    ///
    /// # Errors
    /// As [`Secret::read`].
    pub fn fill(&self) -> Result<String, String> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Secret(secret) => text.push_str(&secret.read()?),
            }
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn template_is_filled_with_what_a_file_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "abc\r\n").unwrap();
        let text = format!("Bearer ${{file:{}}}!", path.display());
        let template = Template::parse(&text, "", &SecretSources::default()).unwrap();
        assert!(template.is_secret());
        assert_eq!(template.fill().unwrap(), "Bearer abc!");
        std::fs::write(&path, "def").unwrap();
        assert_eq!(template.fill().unwrap(), "Bearer def!");
    }

    #[test]
    fn what_cannot_be_read_is_refused_without_being_repeated() {
        let sources = SecretSources::default();
        for reference in ["hunter2", "env:", "file:relative", "vault:x"] {
            let fault = Secret::parse(reference, "/api_key", &sources).unwrap_err();
            assert!(!fault.to_string().contains("hunter2"), "{fault}");
        }
        let unset = Secret::parse("env:STREAMGATE_SURELY_UNSET", "/api_key", &sources);
        let fault = unset.unwrap_err().to_string();
        assert!(fault.contains("STREAMGATE_SURELY_UNSET"), "{fault}");
        assert!(Template::parse("a ${env:X", "", &sources).is_err());
        let plain = Template::parse("plain $5 {x}", "", &sources).unwrap();
        assert!(!plain.is_secret());
    }

    fn refusal(sources: &SecretSources, reference: &str, purpose: Use) -> Option<String> {
        let checked = sources.check(reference, purpose, "/api_key");
        checked.err().map(|fault| fault.message)
    }

    #[test]
    fn variables_are_read_that_are_made_for_it() {
        let sources = SecretSources {
            confined: false,
            variables: vec!["OURS".to_owned(), "TEAM_*".to_owned()],
            folders: Vec::new(),
        };
        for name in [
            "DD_API_KEY",
            "STREAMGATE_SECRET_A",
            "OURS",
            "TEAM_KEY",
            "TEAM_",
        ] {
            assert_eq!(refusal(&sources, &format!("env:{name}"), Use::Sent), None);
        }
        for name in [
            "PATH",
            "HOME",
            "OURS_TOO",
            "ANOTHER_TEAM_KEY",
            "dd_api_key",
            "REDIS_PASSWORD",
        ] {
            let refusal = refusal(&sources, &format!("env:{name}"), Use::Sent).expect(name);
            let flag = format!("`--secret-env {name}`");
            assert!(refusal.contains(&flag), "{refusal}");
        }
        // What opens a whole account is only signed with.
        let aws = "env:AWS_SECRET_ACCESS_KEY";
        assert!(refusal(&sources, aws, Use::Sent).is_some());
        assert_eq!(refusal(&sources, aws, Use::AwsSignature), None);
    }

    #[test]
    fn files_are_read_that_are_in_a_folder_of_secrets_and_links_that_stay_there() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, outside) = (folder.path().join("secrets"), folder.path().join("other"));
        std::fs::create_dir_all(inside.join("..data")).unwrap();
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(inside.join("..data/token"), "a").unwrap();
        std::fs::write(outside.join("key"), "b").unwrap();
        // As Kubernetes mounts secrets.
        std::os::unix::fs::symlink("..data/token", inside.join("token")).unwrap();
        std::os::unix::fs::symlink(outside.join("key"), inside.join("leads-out")).unwrap();
        std::os::unix::fs::symlink(&inside, folder.path().join("linked")).unwrap();
        let sources = SecretSources {
            confined: false,
            variables: Vec::new(),
            folders: vec![inside.clone()],
        };
        let refusal = |path: &str| {
            let path = folder.path().join(path).display().to_string();
            refusal(&sources, &format!("file:{path}"), Use::Sent)
        };
        for allowed in [
            "secrets/token",
            "secrets/..data/token",
            "secrets/absent",
            "linked/token",
        ] {
            assert_eq!(refusal(allowed), None, "{allowed}");
        }
        for refused in [
            "other/key",
            "other/absent",
            "secrets/leads-out",
            "secrets/../other/key",
            "secrets/../other/absent",
            "secrets-too/key",
        ] {
            let refusal = refusal(refused).expect(refused);
            assert!(refusal.contains("--secret-files /"), "{refusal}");
        }
        // A link that is turned around later is not followed out.
        let path = inside.join("token");
        let reference = format!("file:{}", path.display());
        let secret = Secret::parse(&reference, "", &sources).unwrap();
        assert_eq!(secret.read().unwrap(), "a");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(outside.join("key"), &path).unwrap();
        let error = secret.read().unwrap_err();
        assert!(error.contains("symbolic link"), "{error}");
    }
}
