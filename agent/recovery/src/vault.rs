//! The vault: a directory that holds cache and target storage of debug mode, known by a marker file.
//!
//! ```text
//! VAULT                 marks the directory, and says in which version of this layout
//! cache/<machine>/...   what the agent writes
//! target/<machine>/...  what the recovery service makes of it
//! agent/...             the agent's own
//! ```
//!
//! The marker is there so that a mistyped path is never filled with objects, and so that an empty mount point, whose disk
//! is gone, is never taken for a vault that lost everything. Deliberately not here: what lies below the two prefixes.

use std::{
    fmt, fs, io,
    ops::Deref,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::storage::{Directory, FaultPlan, Files, Objects, StorageError, Stores, is_unfinished, names};

const MARKER: &str = "VAULT";
const MARKER_TEXT: &str = "mobility-agent vault";
const VERSION: u32 = 1;

/// A directory is not a vault that can be worked with.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// There is no such directory.
    #[error("{} does not exist: check the path, and that its file system is mounted", .0.display())]
    NotFound(PathBuf),
    /// It is a directory, but not a vault.
    #[error("{} is not a vault: it has no file '{MARKER}' (an unmounted file system looks like this too)", .0.display())]
    NotAVault(PathBuf),
    /// It holds other things and shall not become a vault.
    #[error("{} is neither a vault nor empty: name an empty or a new directory for a new vault", .0.display())]
    Foreign(PathBuf),
    /// Its layout is that of a later version.
    #[error("{} has a layout that this program does not know ('{found}'): upgrade it", path.display())]
    Version {
        /// The vault.
        path: PathBuf,
        /// What its marker says.
        found: String,
    },
    /// It could not be read or made.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// An opened vault: [`Stores`] of which both are one directory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Vault {
    directory: Directory,
    stores: Stores,
}

impl Deref for Vault {
    type Target = Stores;

    fn deref(&self) -> &Stores {
        &self.stores
    }
}

impl Vault {
    /// Opens the vault at `path`.
    ///
    /// # Errors
    /// When there is none, or one of a later version, or it cannot be read.
    pub fn open(path: &Path) -> Result<Vault, VaultError> {
        let marker = path.join(MARKER);
        let text = match fs::read(&marker) {
            Ok(text) => String::from_utf8_lossy(&text[..text.len().min(200)]).into_owned(),
            Err(err) if err.kind() == io::ErrorKind::NotFound && path.is_dir() => {
                return Err(VaultError::NotAVault(path.to_owned()));
            }
            Err(err) if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(VaultError::NotFound(path.to_owned()));
            }
            Err(err) => return Err(StorageError::new("read", &marker, err).into()),
        };
        let mut lines = text.lines();
        if lines.next() != Some(MARKER_TEXT) {
            return Err(VaultError::NotAVault(path.to_owned()));
        }
        let version = lines.next().unwrap_or_default();
        if version != format!("version {VERSION}") {
            return Err(VaultError::Version { path: path.to_owned(), found: version.to_owned() });
        }
        Ok(Vault::of(Directory::new(path)))
    }

    /// Opens the vault at `path`, or makes one there if that is an empty or no directory.
    ///
    /// # Errors
    /// [`VaultError::Foreign`] where there is something else; else as [`Vault::open`].
    pub fn create(path: &Path) -> Result<Vault, VaultError> {
        match Vault::open(path) {
            Err(VaultError::NotFound(_) | VaultError::NotAVault(_)) => {}
            other => return other,
        }
        // The root of a fresh file system is empty but for this. An unfinished marker is an earlier try of ours.
        let ours = |name: &str| name == "lost+found" || is_unfinished(name);
        if names(path)?.iter().any(|(name, _)| !ours(name)) {
            return Err(VaultError::Foreign(path.to_owned()));
        }
        let files = Files::default();
        let text = format!("{MARKER_TEXT}\nversion {VERSION}\n");
        match files.put_new(&path.join(MARKER), text.as_bytes()) {
            Err(err) if !err.is_already_there() => Err(err.into()),
            _ => Vault::open(path),
        }
    }

    /// The same vault, whose changes go wrong as `plan` says. For tests.
    #[must_use]
    pub fn with_faults(&self, plan: Arc<FaultPlan>) -> Vault {
        Vault::of(self.directory.with_faults(plan))
    }

    fn of(directory: Directory) -> Vault {
        let both: Arc<dyn Objects> = Arc::new(directory.clone());
        Vault { directory, stores: Stores::new(both.clone(), both) }
    }

    /// Where the vault is.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.directory.root()
    }

    /// The directory as a storage.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Where the object `key` is, or would be.
    #[must_use]
    pub fn path_of(&self, key: &impl fmt::Display) -> PathBuf {
        self.directory.place(&key.to_string())
    }

    /// Puts a new object, complete and durable under its name or not there at all.
    ///
    /// # Errors
    /// `AlreadyExists` where there is one of that name, whatever it holds; else what the storage says.
    pub fn put_new(&self, key: &impl fmt::Display, bytes: &[u8]) -> Result<(), StorageError> {
        self.directory.put_new(&key.to_string(), bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_becomes_a_vault_only_where_nothing_else_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let vault = dir.path().join("a/b");
        assert!(matches!(Vault::open(&vault), Err(VaultError::NotFound(_))));
        Vault::create(&vault).unwrap();
        Vault::create(&vault).unwrap();
        Vault::open(&vault).unwrap();

        let foreign = dir.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        assert!(matches!(Vault::open(&foreign), Err(VaultError::NotAVault(_))));
        fs::write(foreign.join("letter.txt"), "dear").unwrap();
        assert!(matches!(Vault::create(&foreign), Err(VaultError::Foreign(_))));
        assert!(matches!(Vault::open(&foreign.join("letter.txt")), Err(VaultError::NotFound(_))));

        fs::write(vault.join(MARKER), format!("{MARKER_TEXT}\nversion 2\n")).unwrap();
        assert!(matches!(Vault::open(&vault), Err(VaultError::Version { .. })));
    }
}
