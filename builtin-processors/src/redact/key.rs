//! Reads the key of a keyed hash from where a rule says it is.

use std::path::Path;

use super::action::{MAX_KEY_BYTES, MIN_KEY_BYTES};
use crate::named_file;

/// Reads `env:NAME` or `file:PATH`. Blanks and line ends around the key are no part of it.
///
/// # Errors
/// Says what is wrong and the remedy; never the key.
pub(super) fn read(reference: &str) -> Result<Vec<u8>, String> {
    let expected = "expected `env:NAME` or `file:PATH`; a key itself must not stand in a rule";
    let key = match reference.split_once(':') {
        Some(("env", name)) if !name.is_empty() => {
            if name.contains(['=', '\0']) {
                return Err(format!("`key` names no environment variable; {expected}"));
            }
            match std::env::var_os(name) {
                Some(key) => key.into_encoded_bytes(),
                None => return Err(format!("the environment variable `{name}` is not set")),
            }
        }
        Some(("file", path)) if !path.is_empty() => {
            // Blanks around the key may take some; what is longer is refused below.
            named_file::read(Path::new(path), MAX_KEY_BYTES + 2)
                .map_err(|error| error.to_string())?
        }
        // What stands there may be the key, and is not repeated.
        _ => return Err(format!("`key` is no reference; {expected}")),
    };
    let key = key.trim_ascii();
    let length = key.len();
    match length {
        MIN_KEY_BYTES..=MAX_KEY_BYTES => Ok(key.to_vec()),
        _ => Err(format!(
            "the key has {length} bytes or more; expected {MIN_KEY_BYTES} to {MAX_KEY_BYTES}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_from_files_within_limits() {
        let path = std::env::temp_dir().join(format!("streamgate-key-{}", std::process::id()));
        let reference = format!("file:{}", path.display());
        for (content, readable) in [
            (&b"0123456789abcdef\n"[..], true),
            (b"short\n", false),
            (&[b'k'; MAX_KEY_BYTES], true),
            (&[b'k'; MAX_KEY_BYTES + 1], false),
        ] {
            std::fs::write(&path, content).expect("can be written");
            let read = read(&reference);
            assert_eq!(
                read.as_deref().ok(),
                readable.then_some(content.trim_ascii())
            );
        }
        std::fs::remove_file(&path).expect("can be removed");
        assert!(
            read(&reference)
                .expect_err("gone")
                .starts_with("cannot read")
        );
    }

    #[test]
    fn what_is_no_reference_is_not_repeated() {
        for reference in ["hunter2hunter2hunter2", "env:", "vault:x", "env:A=B"] {
            let error = read(reference).expect_err(reference);
            assert!(
                !error.contains("hunter2") && !error.contains("A=B"),
                "{error}"
            );
        }
        assert!(read("env:STREAMGATE_NO_SUCH_KEY").is_err());
    }
}
