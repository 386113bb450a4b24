//! Signatures on what lies in Redis, so that who can write to Redis cannot change what gates run.
//!
//! A document is JSON text. Signed, it has one more member, which is its last:
//!
//! ```text
//! {"version":"1.0", ... ,"signature":"ed25519:<key id>:<86 characters of base64url>"}
//! ```
//!
//! The signature covers every byte before that member as it stands, and what kind of document it
//! is, so that a draft cannot pass for a manifest. Nothing is parsed before it is verified, and no
//! canonical form of JSON is needed. Other programs see a member that they do not know.
//!
//! Sources: RFC 8032 (Ed25519); RFC 8410 (its keys in PKCS #8 and SubjectPublicKeyInfo, as `openssl
//! genpkey -algorithm ed25519` and `openssl pkey -pubout` write them).

use std::{collections::BTreeMap, fmt, path::Path};

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer, pem::PemObject};
use streamgate_processors::named_file;

use crate::digest::Digest;

/// What comes before the 32 bytes of an Ed25519 public key in its SubjectPublicKeyInfo (RFC 8410,
/// section 4).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// Length of a public key, in bytes.
const PUBLIC_KEY_BYTES: usize = 32;

/// Length of a signature, in bytes.
const SIGNATURE_BYTES: usize = 64;

/// Characters of a signature in base64 without padding.
const SIGNATURE_CHARS: usize = 86;

/// Characters of a key id.
const KEY_ID_CHARS: usize = 16;

/// Largest file of keys, in bytes.
const MAX_KEY_FILE_BYTES: usize = 64 * 1024;

const MEMBER: &str = ",\"signature\":\"ed25519:";
const END: &str = "\"}";

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// What a document is; part of what is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A manifest: live, or of the history.
    Manifest,
    /// The draft.
    Draft,
    /// The list of modules.
    Modules,
    /// The list of revisions.
    History,
    /// The tokens of the control API.
    Tokens,
}

/// Which key made a signature: the first 16 digits of the SHA-256 of the public key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyId(String);

/// Signs.
pub struct SigningKey {
    id: KeyId,
    pair: Ed25519KeyPair,
}

/// The keys whose signatures count.
#[derive(Debug, Clone)]
pub struct TrustedKeys {
    keys: BTreeMap<KeyId, UnparsedPublicKey<Vec<u8>>>,
}

/// Why a document is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// There is no signature where it should be.
    #[error(
        "it is not signed, and this gate takes signed config only; publish from a gate with a signing key"
    )]
    Unsigned,
    /// The key is none of ours.
    #[error("it is signed with the key `{0}`, which is none of the trusted keys")]
    UnknownKey(String),
    /// The signature is not one of these bytes.
    #[error("its signature is wrong: it was changed after it was signed, or is another document")]
    Wrong,
}

/// Why a file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the key file {path}: {message}")]
pub struct KeyFileError {
    path: String,
    message: String,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Draft => "draft",
            Self::Modules => "modules",
            Self::History => "history",
            Self::Tokens => "tokens",
        }
    }
}

impl KeyId {
    fn of(public_key: &[u8]) -> Self {
        let mut hex = Digest::of(public_key).hex();
        hex.truncate(KEY_ID_CHARS);
        Self(hex)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.id).finish()
    }
}

impl SigningKey {
    /// Reads a private key: PEM, PKCS #8.
    ///
    /// # Errors
    /// The file cannot be read, or holds no Ed25519 key.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let text = read_file(path)?;
        let refuse = |message: &str| KeyFileError::new(path, message);
        let der = PrivatePkcs8KeyDer::from_pem_slice(&text).map_err(|_| {
            refuse("expected a PEM block `PRIVATE KEY`, as `openssl genpkey -algorithm ed25519` writes it")
        })?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der())
            .map_err(|_| refuse("the key in it is not an Ed25519 key"))?;
        Ok(Self {
            id: KeyId::of(pair.public_key().as_ref()),
            pair,
        })
    }

    /// The keys that only this one is in.
    pub fn trusted(&self) -> TrustedKeys {
        let public = self.pair.public_key().as_ref().to_vec();
        let key = UnparsedPublicKey::new(&ED25519, public);
        TrustedKeys {
            keys: BTreeMap::from([(self.id.clone(), key)]),
        }
    }

    /// Adds a signature to a document: `text` must be one JSON object, with a member in it.
    pub(crate) fn seal(&self, kind: Kind, mut text: Vec<u8>) -> Vec<u8> {
        assert_eq!(text.pop(), Some(b'}'), "a document is a JSON object");
        let signature = self.pair.sign(&message(kind, &text));
        text.extend_from_slice(MEMBER.as_bytes());
        text.extend_from_slice(self.id.0.as_bytes());
        text.push(b':');
        text.extend(encode(signature.as_ref()));
        text.extend_from_slice(END.as_bytes());
        text
    }
}

impl TrustedKeys {
    /// Reads public keys: PEM, one block `PUBLIC KEY` or more.
    ///
    /// # Errors
    /// The file cannot be read, holds no key, or one that is not Ed25519.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let text = read_file(path)?;
        let refuse = |message: &str| KeyFileError::new(path, message);
        let expected = "expected PEM blocks `PUBLIC KEY`, as `openssl pkey -pubout` writes them";
        let mut keys = BTreeMap::new();
        for block in SubjectPublicKeyInfoDer::pem_slice_iter(&text) {
            let block = block.map_err(|_| refuse(expected))?;
            let key = block
                .strip_prefix(&SPKI_PREFIX)
                .filter(|key| key.len() == PUBLIC_KEY_BYTES)
                .ok_or_else(|| refuse("a key in it is not an Ed25519 key"))?;
            keys.insert(
                KeyId::of(key),
                UnparsedPublicKey::new(&ED25519, key.to_vec()),
            );
        }
        if keys.is_empty() {
            return Err(refuse(expected));
        }
        Ok(Self { keys })
    }

    /// Whether signatures of `key` count.
    pub fn trusts(&self, key: &SigningKey) -> bool {
        self.keys.contains_key(&key.id)
    }

    /// Checks the signature of a document.
    pub(crate) fn check(&self, kind: Kind, text: &[u8]) -> Result<(), SealError> {
        let tail = MEMBER.len() + KEY_ID_CHARS + 1 + SIGNATURE_CHARS + END.len();
        let signed = text.len().checked_sub(tail).ok_or(SealError::Unsigned)?;
        let (signed, tail) = text.split_at(signed);
        let tail = tail
            .strip_prefix(MEMBER.as_bytes())
            .and_then(|tail| tail.strip_suffix(END.as_bytes()))
            .ok_or(SealError::Unsigned)?;
        let (id, signature) = tail.split_at(KEY_ID_CHARS);
        let id = KeyId(String::from_utf8_lossy(id).into_owned());
        let key = self
            .keys
            .get(&id)
            .ok_or_else(|| SealError::UnknownKey(id.0.escape_default().to_string()))?;
        let signature = signature.strip_prefix(b":").and_then(decode);
        let signature = signature.ok_or(SealError::Wrong)?;
        key.verify(&message(kind, signed), &signature)
            .map_err(|_| SealError::Wrong)
    }
}

impl KeyFileError {
    fn new(path: &Path, message: impl Into<String>) -> Self {
        Self {
            path: path.display().to_string(),
            message: message.into(),
        }
    }
}

/// What is signed: the kind ends where the document begins, for no kind holds a NUL.
fn message(kind: Kind, text: &[u8]) -> Vec<u8> {
    [b"streamgate:", kind.name().as_bytes(), b"\0", text].concat()
}

fn read_file(path: &Path) -> Result<Vec<u8>, KeyFileError> {
    named_file::read(path, MAX_KEY_FILE_BYTES)
        .map_err(|error| KeyFileError::new(path, error.reason().to_owned()))
}

/// Writes base64url without padding (RFC 4648, section 5).
fn encode(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.chunks(3).flat_map(|chunk| {
        let bits = chunk
            .iter()
            .chain(&[0; 3])
            .take(3)
            .fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte));
        let digit = move |at: usize| ALPHABET[(bits >> (18 - 6 * at) & 63) as usize];
        (0..=chunk.len()).map(digit)
    })
}

/// Reads what [`encode`] writes of a signature, and nothing else.
fn decode(text: &[u8]) -> Option<[u8; SIGNATURE_BYTES]> {
    let mut bytes = Vec::with_capacity(SIGNATURE_BYTES);
    for chunk in text.chunks(4) {
        let mut bits = 0_u32;
        for &digit in chunk {
            let value = ALPHABET.iter().position(|&known| known == digit)?;
            bits = bits << 6 | u32::try_from(value).ok()?;
        }
        bits <<= 6 * (4 - chunk.len());
        let [_, decoded @ ..] = bits.to_be_bytes();
        bytes.extend_from_slice(&decoded[..chunk.len() - 1]);
    }
    // The last digit has bits to spare; only the one way to write them is taken.
    let bytes: [u8; SIGNATURE_BYTES] = bytes.try_into().ok()?;
    encode(&bytes).eq(text.iter().copied()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        let random = ring::rand::SystemRandom::new();
        let der = Ed25519KeyPair::generate_pkcs8(&random).expect("randomness");
        let pair = Ed25519KeyPair::from_pkcs8(der.as_ref()).expect("a key");
        SigningKey {
            id: KeyId::of(pair.public_key().as_ref()),
            pair,
        }
    }

    #[test]
    fn what_is_sealed_opens_and_is_json_still() {
        let key = key();
        let sealed = key.seal(Kind::Draft, br#"{"a":[1]}"#.to_vec());
        assert_eq!(key.trusted().check(Kind::Draft, &sealed), Ok(()));
        let value: serde_json::Value = serde_json::from_slice(&sealed).expect("JSON");
        assert_eq!(value["a"][0], 1);
        assert!(value["signature"].as_str().unwrap().starts_with("ed25519:"));
    }

    #[test]
    fn any_byte_that_is_changed_shows() {
        let ours = key();
        let trusted = ours.trusted();
        let sealed = ours.seal(Kind::Manifest, br#"{"revision":7}"#.to_vec());
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut changed = sealed.clone();
                changed[at] ^= 1 << bit;
                let checked = trusted.check(Kind::Manifest, &changed);
                assert!(checked.is_err(), "bit {bit} of byte {at}");
            }
        }
        for end in 0..sealed.len() {
            assert!(trusted.check(Kind::Manifest, &sealed[..end]).is_err());
        }
        let other = trusted.check(Kind::Draft, &sealed);
        assert_eq!(other, Err(SealError::Wrong), "another kind");
        let stranger = key().trusted().check(Kind::Manifest, &sealed);
        assert!(matches!(stranger, Err(SealError::UnknownKey(_))));
        let unsigned = trusted.check(Kind::Manifest, br#"{"revision":7}"#);
        assert_eq!(unsigned, Err(SealError::Unsigned));
    }
}
