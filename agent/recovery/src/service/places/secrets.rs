//! Reads files of credentials, and of certificates.
//!
//! Deliberately not here: what they are for (`table`).

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

use serde::de::DeserializeOwned;

/// The longest file of credentials or authorities.
const MAX_LEN: u64 = 1 << 20;
fn read(path: &Path) -> io::Result<(u32, String)> {
    let file = File::open(path)?;
    let mode = file.metadata()?.mode();
    let mut text = String::new();
    file.take(MAX_LEN).read_to_string(&mut text)?;
    Ok((mode, text))
}

/// What a file of credentials holds. What is wrong with it is said without quoting it.
pub(super) fn secrets_in<T: DeserializeOwned>(path: &Path, expected: &str) -> Result<T, String> {
    let shown = path.display();
    let (mode, text) = read(path).map_err(|err| format!("the credentials {shown} cannot be read: {err}"))?;
    if mode & 0o077 != 0 {
        let mode = mode & 0o7777;
        return Err(format!("others may read the credentials {shown} (mode {mode:04o}): chmod 600 it"));
    }
    toml::from_str(&text)
        .map_err(|_| format!("the credentials {shown} are not TOML with {expected}, and nothing else"))
}

/// Certificates in PEM.
pub(super) fn authorities_in(path: &Path) -> Result<Vec<u8>, String> {
    let (_, text) = read(path)
        .map_err(|err| format!("the certificates of authorities {} cannot be read: {err}", path.display()))?;
    match text.contains("-----BEGIN CERTIFICATE-----") {
        true => Ok(text.into_bytes()),
        false => Err(format!("{} holds no certificate in PEM", path.display())),
    }
}
