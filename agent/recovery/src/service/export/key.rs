//! The secret of an export, and where a request says it.
//!
//! It stands in the address, which every tool can be given, or in a header beside the export's id, where no list of processes
//! shows it: as a bearer token, or as the password of `Basic`, which nbdkit and QEMU read from a file. What is kept of it is its
//! SHA-256. Deliberately not here: which exports there are.

use axum::http::{HeaderMap, header::AUTHORIZATION};
use base64::{Engine, engine::general_purpose::STANDARD};

use crate::service::secret::{self, NoRandomness};

/// Digits of a key, in hexadecimal.
const KEY: usize = 64;
/// Digits of an export's id: those that its key begins with say nothing of the others.
const ID: usize = 12;

/// A secret of an export. It cannot be printed.
pub(crate) struct Key(String);

impl Key {
    /// One that nobody can guess, and the id of its export.
    pub(crate) fn new() -> Result<(Key, String), NoRandomness> {
        Ok((
            Key(secret::hex(&secret::random::<{ KEY / 2 }>()?)),
            secret::hex(&secret::random::<{ ID / 2 }>()?),
        ))
    }

    /// The one that a request shows: what its path names, or what its header says. Nothing where it shows none.
    pub(crate) fn shown(named: &str, headers: &HeaderMap) -> Option<Key> {
        let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let said = header.and_then(|text| {
            let (scheme, rest) = text.split_once(' ')?;
            match scheme.to_ascii_lowercase().as_str() {
                "bearer" => Some(rest.trim().to_owned()),
                "basic" => {
                    let pair = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
                    Some(pair.split_once(':')?.1.to_owned())
                }
                _ => None,
            }
        });
        let key = said.unwrap_or_else(|| named.to_owned());
        (key.len() == KEY && key.bytes().all(|c| c.is_ascii_hexdigit())).then_some(Key(key))
    }

    /// By what it is recognised.
    pub(crate) fn hash(&self) -> String {
        secret::sha256(self.0.as_bytes())
    }

    /// The secret itself, for who made it.
    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_shown_in_the_address_or_in_a_header() {
        let (key, id) = Key::new().unwrap();
        let shown = |named: &str, header: Option<String>| {
            let mut headers = HeaderMap::new();
            header.map(|header| headers.insert(AUTHORIZATION, header.parse().unwrap()));
            Key::shown(named, &headers).map(|key| key.hash())
        };
        let (hash, secret) = (Some(key.hash()), key.secret());
        assert_eq!(shown(secret, None), hash);
        assert_eq!(shown(&id, Some(format!("Bearer {secret}"))), hash);
        let basic = |text: String| Some(format!("Basic {}", STANDARD.encode(text)));
        assert_eq!(shown(&id, basic(format!("{id}:{secret}"))), hash);
        for bad in
            [None, Some("Bearer ".to_owned()), Some(format!("Digest {secret}")), basic(secret.to_owned())]
        {
            assert_eq!(shown(&id, bad.clone()), None, "{bad:?}");
        }
        assert_ne!(
            shown(&format!("0{}", &secret[1..]), None).or(shown(&format!("1{}", &secret[1..]), None)),
            None
        );
    }
}
