//! The secret that all speakers of a cluster share.
//!
//! It must never appear in a log, an error or a debug print. What it protects, and how, is in
//! `peers::channel`. A recorded handshake lets its owner try secrets offline (any protocol with a
//! pre-shared key of this kind does), so short ones are refused.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use snow::params::HashChoice;
use snow::resolvers::{CryptoResolver, DefaultResolver};
use thiserror::Error;

/// Shortest secret text that is taken; 128 bits if it is random hex.
pub const LEAST_SECRET: usize = 16;
/// A longer file is something else than a key.
const MOST_SECRET: usize = 64 * 1024;
const SIZE: usize = 32;
/// Sets this use of the hash apart from any other of the same secret.
const PURPOSE: &[u8] = b"herald peers key 1:";

/// 32 secret bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; SIZE]);

/// Why there is no key in a file.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("read the peers' key from {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Too little to be a secret.
    #[error("the peers' key has {size} bytes, at least {LEAST_SECRET} are needed")]
    TooShort {
        /// Its length, surrounding white space not counted.
        size: usize,
    },
    /// Too much to be meant as one.
    #[error("the peers' key has {size} bytes, at most {MOST_SECRET} are read")]
    TooLong {
        /// Its length.
        size: usize,
    },
}

impl Key {
    /// These very bytes.
    pub fn from_bytes(bytes: [u8; SIZE]) -> Self {
        Self(bytes)
    }

    /// The key in a file: see [`Key::from_text`].
    ///
    /// # Errors
    /// If the file cannot be read, or is too short or too long to be a secret.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let text =
            fs::read(path).map_err(|source| KeyError::Read { path: path.to_owned(), source })?;
        Self::from_text(&text)
    }

    /// 64 hex digits or 44 base64 characters (RFC 4648, 43 without padding) are the 32 bytes they
    /// write; anything else is hashed to 32 bytes. White space around it does not count.
    ///
    /// # Errors
    /// If it is too short or too long to be a secret.
    pub fn from_text(text: &[u8]) -> Result<Self, KeyError> {
        let text = text.trim_ascii();
        match text.len() {
            size if size < LEAST_SECRET => Err(KeyError::TooShort { size }),
            size if size > MOST_SECRET => Err(KeyError::TooLong { size }),
            _ => Ok(from_hex(text).or_else(|| from_base64(text)).unwrap_or_else(|| hashed(text))),
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8; SIZE] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

fn from_hex(text: &[u8]) -> Option<Key> {
    if text.len() != 2 * SIZE {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes = text.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?));
    Some(Key(bytes.collect::<Option<Vec<u8>>>()?.try_into().ok()?))
}

fn from_base64(text: &[u8]) -> Option<Key> {
    let text = text.strip_suffix(b"=").unwrap_or(text);
    if text.len() != 43 {
        return None;
    }
    let (mut bytes, mut pending, mut bits) = (Vec::new(), 0u32, 0);
    for &byte in text {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        pending = pending << 6 | u32::from(digit);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(pending >> bits & 0xff).ok()?);
        }
    }
    Some(Key(bytes.try_into().ok()?))
}

fn hashed(text: &[u8]) -> Key {
    let mut key = [0; SIZE];
    // The resolver has every primitive that is compiled in, and BLAKE2s always is.
    if let Some(mut hash) = DefaultResolver.resolve_hash(&HashChoice::Blake2s) {
        hash.input(PURPOSE);
        hash.input(text);
        hash.result(&mut key);
    }
    Key(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::from_text(text.as_bytes()).unwrap()
    }

    #[test]
    fn hex_and_base64_write_the_same_bytes() {
        let bytes: [u8; 32] = std::array::from_fn(|n| u8::try_from(n).unwrap());
        let hex = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F\n";
        let base64 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        assert_eq!(key(hex), Key::from_bytes(bytes));
        assert_eq!(key(base64), Key::from_bytes(bytes));
        assert_eq!(key(&base64[..43]), Key::from_bytes(bytes));
    }

    #[test]
    fn any_other_text_is_hashed_without_the_space_around_it() {
        let passphrase = key("correct horse battery staple");
        assert_eq!(passphrase, key("  correct horse battery staple\n"));
        assert_ne!(passphrase, key("correct horse battery stapler"));
        assert_ne!(passphrase.0, [0; 32]);
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        assert!(matches!(Key::from_text(b" short \n"), Err(KeyError::TooShort { size: 5 })));
        assert!(matches!(Key::from_text(&[b'x'; 70_000]), Err(KeyError::TooLong { .. })));
        let missing = Key::read(Path::new("no such file")).unwrap_err().to_string();
        assert!(missing.contains("no such file"), "{missing}");
    }

    #[test]
    fn a_key_prints_nothing_of_itself() {
        assert_eq!(format!("{:?}", Key::from_bytes([7; 32])), "Key(..)");
    }
}
