//! Secrets by reference: what a config says is where a secret is, never the secret.
//!
//! A reference is `env:NAME` or `file:/path`; a header's value holds one as `${env:NAME}` or
//! `${file:/path}`. It is read when a connection is built, and again when the receiver refuses the
//! credentials, so that a secret can be rotated in its file. What was read is never logged or
//! shown.

use std::{fmt, path::PathBuf};

use streamgate_processors::named_file;

use crate::manifest::Invalid;

/// The longest secret, in bytes; it travels in a header.
const MAX_SECRET_BYTES: usize = 8 * 1024;

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
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

impl Secret {
    /// Reads a reference, and checks that the secret is there.
    ///
    /// # Errors
    /// [`Invalid`] at `pointer` if it is no reference, or nothing can be read there.
    pub fn parse(reference: &str, pointer: &str) -> Result<Self, Invalid> {
        let secret = match reference.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Self::Environment(name.to_owned()),
            Some(("file", path)) if path.starts_with('/') => Self::File(PathBuf::from(path)),
            // What was found is not repeated: it may be the secret itself.
            _ => {
                return Err(Invalid::new(
                    "invalid_secret",
                    pointer,
                    "expected where the secret is, `env:NAME` or `file:/path`; a secret itself \
                     does not belong into a config",
                ));
            }
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
        let text = match self {
            Self::Environment(name) => std::env::var(name)
                .map_err(|error| format!("cannot read {self}: {error}"))
                .and_then(|text| match text.len() <= MAX_SECRET_BYTES {
                    true => Ok(text),
                    false => Err(format!("{self} is longer than {MAX_SECRET_BYTES} bytes")),
                })?,
            Self::File(path) => {
                let bytes = named_file::read(path, MAX_SECRET_BYTES)
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
        match self {
            Self::Environment(name) => write!(f, "the environment variable `{name}`"),
            Self::File(path) => write!(f, "the file `{}`", path.display()),
        }
    }
}

impl Template {
    /// Reads a text in which `${env:NAME}` and `${file:/path}` stand for secrets.
    ///
    /// # Errors
    /// [`Invalid`] at `pointer`, as [`Secret::parse`].
    pub fn parse(text: &str, pointer: &str) -> Result<Self, Invalid> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let Some((reference, behind)) = after.split_once('}') else {
                return Err(Invalid::new(
                    "invalid_secret",
                    pointer,
                    "`${` is not closed; expected `${env:NAME}` or `${file:/path}`",
                ));
            };
            parts.push(Part::Text(before.to_owned()));
            parts.push(Part::Secret(Secret::parse(reference, pointer)?));
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
        let template = Template::parse(&text, "/headers/authorization").unwrap();
        assert!(template.is_secret());
        assert_eq!(template.fill().unwrap(), "Bearer abc!");
        std::fs::write(&path, "def").unwrap();
        assert_eq!(template.fill().unwrap(), "Bearer def!");
    }

    #[test]
    fn what_cannot_be_read_is_refused_without_being_repeated() {
        for reference in ["hunter2", "env:", "file:relative", "vault:x"] {
            let fault = Secret::parse(reference, "/api_key").unwrap_err();
            assert!(!fault.to_string().contains("hunter2"), "{fault}");
        }
        let fault = Secret::parse("env:STREAMGATE_SURELY_UNSET", "/api_key").unwrap_err();
        assert!(
            fault.to_string().contains("STREAMGATE_SURELY_UNSET"),
            "{fault}"
        );
        assert!(Template::parse("a ${env:X", "").is_err());
        assert!(!Template::parse("plain $5 {x}", "").unwrap().is_secret());
    }
}
