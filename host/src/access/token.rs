//! Bearer tokens: what they look like, what they allow, and how they are kept.
//!
//! A token is `sgt_` and 64 hexadecimal digits: 256 bits from the system's random source. Only its
//! SHA-256 is kept. A fast hash is enough, since there is nothing to guess in 256 random bits.

use std::{fmt, str::FromStr, time::SystemTime};

use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use utoipa::ToSchema;

use crate::{
    digest::Digest,
    manifest::{Invalid, check_id},
};

/// What every token begins with, so that scanners for leaked secrets can find one.
const PREFIX: &str = "sgt_";

/// Random bytes in a token.
const RANDOM_BYTES: usize = 32;

/// Most tokens at a time. Each request is compared with all of them.
pub const MAX_TOKENS: usize = 1_000;

/// The name of the token that `--bootstrap-token` gives.
pub const BOOTSTRAP: &str = "bootstrap";

/// A token as its bearer has it. It is shown once, when it is created.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// What the bearer of a token may do. Each of `viewer`, `editor`, `publisher` and `admin` may do
/// what the ones before it may; `sender` stands alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sends events to `POST /ingest`, and nothing else.
    Sender,
    /// Reads everything but events and tokens.
    Viewer,
    /// Changes the draft, reads dead letters and sends them again.
    Editor,
    /// Publishes, rolls back, uploads and deletes modules.
    Publisher,
    /// Creates, lists and revokes tokens.
    Admin,
}

/// A token as it is kept and shown: everything but the token itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TokenRecord {
    /// Unique; 1 to 128 of `A-Z a-z 0-9 . _ -`. The audit log calls the bearer so.
    pub name: String,
    /// What the bearer may do.
    pub role: Role,
    /// The SHA-256 of the token.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// When it was created, in seconds since 1970-01-01T00:00:00Z.
    pub created: u64,
    /// When it stops being valid, in seconds since 1970-01-01T00:00:00Z; never if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}

/// All tokens there are, as a store keeps them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenList {
    /// Greater with each change, so that an older list is never taken for a newer one.
    pub generation: u64,
    /// In the order of their creation.
    pub tokens: Vec<TokenRecord>,
}

/// Why a token cannot be created or revoked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The name cannot be one.
    #[error(transparent)]
    Name(#[from] Invalid),
    /// The name is taken.
    #[error("there is a token `{0}` already; choose another name, or revoke that one first")]
    Taken(String),
    /// There are [`MAX_TOKENS`].
    #[error("there are {MAX_TOKENS} tokens, which is the most; revoke one that is not used")]
    TooMany,
    /// There is none of this name.
    #[error("there is no token `{0}`")]
    Unknown(String),
    /// Nobody could create another token.
    #[error(
        "`{0}` is the last token of role `admin` that does not expire; create another one first"
    )]
    LastAdmin(String),
}

impl Token {
    /// Makes a new token.
    ///
    /// # Errors
    /// The system has no random bytes to give.
    pub fn generate() -> std::io::Result<Self> {
        let mut bytes = [0; RANDOM_BYTES];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| std::io::Error::other("the system's random source failed"))?;
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self(format!("{PREFIX}{digits}")))
    }

    /// The text that the bearer sends.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    pub fn digest(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }
}

impl FromStr for Token {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix(PREFIX).unwrap_or_default();
        let is_token = digits.len() == 2 * RANDOM_BYTES
            && digits
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match is_token {
            true => Ok(Self(text.to_owned())),
            // What was found is not repeated: it may be another secret.
            false => Err("expected `sgt_` and 64 lower-case hexadecimal digits"),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

impl Role {
    /// Whether the bearer may do what needs `role`.
    pub fn includes(self, role: Self) -> bool {
        match (self, role) {
            (Self::Sender, _) | (_, Self::Sender) => self == role,
            _ => self as u8 >= role as u8,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Sender => "sender",
            Self::Viewer => "viewer",
            Self::Editor => "editor",
            Self::Publisher => "publisher",
            Self::Admin => "admin",
        })
    }
}

impl TokenRecord {
    /// Whether it is not valid any more.
    pub fn is_expired(&self, now: u64) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

impl TokenList {
    /// Returns the newer one of two.
    pub fn newer(found: Self, known: &Self) -> Self {
        match found.generation >= known.generation {
            true => found,
            false => known.clone(),
        }
    }

    /// Whether there is a token for the control API.
    pub fn has_control(&self) -> bool {
        self.tokens.iter().any(|token| token.role != Role::Sender)
    }

    /// Adds a token.
    ///
    /// # Errors
    /// The name is taken or cannot be one, or there are too many tokens.
    pub fn add(&mut self, record: TokenRecord) -> Result<(), TokenError> {
        check_id(&record.name).map_err(|fault| fault.at_pointer("/name"))?;
        // A path with one of these leads elsewhere.
        if matches!(record.name.as_str(), "." | "..") {
            let message = "`name` is made of dots only; expected a letter or a digit in it";
            return Err(Invalid::new("invalid_id", "/name", message).into());
        }
        if record.name == BOOTSTRAP || self.tokens.iter().any(|other| other.name == record.name) {
            return Err(TokenError::Taken(record.name));
        }
        if self.tokens.len() >= MAX_TOKENS {
            return Err(TokenError::TooMany);
        }
        self.tokens.push(record);
        self.generation += 1;
        Ok(())
    }

    /// Removes a token. The last `admin` that does not expire stays while there are others, so that
    /// nobody locks everybody out; `--bootstrap-token` is the way back in.
    ///
    /// # Errors
    /// There is none of this name, or it is the last one of its kind.
    pub fn revoke(&mut self, name: &str) -> Result<TokenRecord, TokenError> {
        let unknown = || TokenError::Unknown(name.chars().take(128).collect());
        let at = self.tokens.iter().position(|token| token.name == name);
        let at = at.ok_or_else(unknown)?;
        let lasts = |token: &TokenRecord| token.role == Role::Admin && token.expires.is_none();
        let others = self.tokens.iter().enumerate().filter(|(i, _)| *i != at);
        if lasts(&self.tokens[at])
            && self.tokens.len() > 1
            && !others.into_iter().any(|(_, token)| lasts(token))
        {
            return Err(TokenError::LastAdmin(name.to_owned()));
        }
        self.generation += 1;
        Ok(self.tokens.remove(at))
    }

    /// Finds the record of a token. The time that it takes does not depend on the digests.
    pub fn find(&self, digest: Digest) -> Option<&TokenRecord> {
        let mut found = None;
        for token in &self.tokens {
            if bool::from(token.digest.bytes().ct_eq(digest.bytes())) {
                found = Some(token);
            }
        }
        found
    }
}

/// Seconds since 1970-01-01T00:00:00Z.
pub fn now() -> u64 {
    // A clock before 1970 is wrong; every token that expires counts as valid then.
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, role: Role) -> (Token, TokenRecord) {
        let token = Token::generate().unwrap();
        let record = TokenRecord {
            name: name.to_owned(),
            role,
            digest: token.digest(),
            created: 1,
            expires: None,
        };
        (token, record)
    }

    #[test]
    fn token_is_found_by_its_digest_and_never_shown() {
        let mut list = TokenList::default();
        let (first, a) = record("a", Role::Admin);
        let (second, b) = record("b", Role::Viewer);
        list.add(a).unwrap();
        list.add(b).unwrap();
        assert_ne!(first, second);
        assert_eq!(list.find(second.digest()).unwrap().name, "b");
        assert!(list.find(Digest::of(b"another")).is_none());
        assert!(!format!("{first:?}").contains(first.reveal()));
        assert_eq!(first.reveal().parse::<Token>().unwrap(), first);
        for text in ["", "sgt_", "sgt_zz", &first.reveal().to_uppercase()] {
            assert!(text.parse::<Token>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_unique_and_the_last_admin_stays() {
        let mut list = TokenList::default();
        list.add(record("a", Role::Admin).1).unwrap();
        list.add(record("b", Role::Editor).1).unwrap();
        for name in ["a", "bootstrap", "", "a b", "a/b"] {
            assert!(list.add(record(name, Role::Viewer).1).is_err(), "{name}");
        }
        assert_eq!(list.revoke("a"), Err(TokenError::LastAdmin("a".to_owned())));
        assert_eq!(list.revoke("c"), Err(TokenError::Unknown("c".to_owned())));
        list.revoke("b").unwrap();
        list.revoke("a").unwrap();
        assert_eq!((list.generation, list.tokens.len()), (4, 0));
    }

    #[test]
    fn roles_include_the_ones_before_them_and_sender_stands_alone() {
        use Role::{Admin, Editor, Publisher, Sender, Viewer};
        let ladder = [Viewer, Editor, Publisher, Admin];
        for (i, role) in ladder.into_iter().enumerate() {
            for (j, needed) in ladder.into_iter().enumerate() {
                assert_eq!(role.includes(needed), i >= j, "{role} {needed}");
            }
            assert!(!role.includes(Sender) && !Sender.includes(role));
        }
        assert!(Sender.includes(Sender));
    }
}
