//! The administrator's credential: where the service is, how to know it, and the secret that it knows its administrator by.
//!
//! Made once, on first start, in a file that only the service's user can read; the address in it follows the service's.
//! Deliberately not here: what an administrator can do.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{private_file, secret};

/// The credential's file in the directory of secrets.
pub(crate) const FILE: &str = "administrator.json";
/// What the secret starts with, so that it is known for what it is where it should not be.
const PREFIX: &str = "mobility-admin-";

/// What an administrator needs to speak to a service.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// Where the service is.
    pub address: String,
    /// The certificate of its authority (PEM).
    pub authority: String,
    /// The secret.
    pub secret: String,
}

/// The credential cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file cannot be read or written.
    #[error("the administrator's credential {}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It is something else.
    #[error("{} is not an administrator's credential: the service writes it on its first start", .0.display())]
    Damaged(PathBuf),
}

impl Credential {
    /// Reads the credential `file`, or the one in that directory.
    ///
    /// # Errors
    /// When there is none that can be read.
    pub fn read(file: &Path) -> Result<Credential, CredentialError> {
        let path = if file.is_dir() { file.join(FILE) } else { file.to_owned() };
        let text =
            std::fs::read(&path).map_err(|source| CredentialError::File { path: path.clone(), source })?;
        serde_json::from_slice(&text).map_err(|_| CredentialError::Damaged(path))
    }

    /// The credential in `directory`, made where there is none, with this address and authority in it.
    pub(crate) fn keep(
        directory: &Path,
        address: &str,
        authority: &str,
    ) -> Result<Credential, CredentialError> {
        let path = directory.join(FILE);
        let failed = |source| CredentialError::File { path: path.clone(), source };
        let fresh = secret::random::<32>().map_err(|err| failed(io::Error::other(err)))?;
        let (address, authority) = (address.to_owned(), authority.to_owned());
        let made = || Credential {
            address: address.clone(),
            authority: authority.clone(),
            secret: format!("{PREFIX}{}", secret::hex(&fresh)),
        };
        // Of instances that start for the first time together, one makes it.
        if !path.exists() {
            private_file::create(&path, &made().text().map_err(failed)?).map_err(failed)?;
        }
        let credential = Credential { address, authority, ..Credential::read(&path)? };
        credential.write_to(directory)?;
        Ok(credential)
    }

    /// Puts it into `directory`.
    pub(crate) fn write_to(&self, directory: &Path) -> Result<(), CredentialError> {
        let path = directory.join(FILE);
        let written = self.text().and_then(|text| private_file::replace(&path, &text));
        written.map_err(|source| CredentialError::File { path, source })
    }

    fn text(&self) -> io::Result<Vec<u8>> {
        Ok(serde_json::to_vec_pretty(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_keeps_its_secret_and_follows_the_address() {
        let dir = tempfile::tempdir().unwrap();
        let first = Credential::keep(dir.path(), "https://a", "one").unwrap();
        let second = Credential::keep(dir.path(), "https://b", "one").unwrap();
        assert_eq!(first.secret, second.secret);
        assert_eq!(Credential::read(dir.path()).unwrap().address, "https://b");
        std::fs::write(dir.path().join(FILE), "{}").unwrap();
        assert!(matches!(Credential::keep(dir.path(), "a", "b"), Err(CredentialError::Damaged(_))));
    }
}
