//! Where cache storage and target storage are: the tables `[storage.cache]` and `[storage.target]` of the configuration.
//!
//! Each is a directory or an object store with an account of its own. Credentials are in a file that only its owner can read, or
//! in the environment; they are never in the configuration, and nothing here can be printed that holds one. `table` is what a
//! configuration says of one of them, `secrets` reads the files. Deliberately not here: speaking to a store (`storage`), and the rights
//! that machines are given (`granting`).

mod secrets;
mod table;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use serde::Deserialize;
use tokio::runtime::{Builder, Handle, Runtime};

use self::table::{AZURE_KEY, place};
pub(super) use self::table::{Container, Table};
use super::config::{self, ConfigError, Options, Settings};
use crate::{
    AzureCredentials, Remote, RemoteAccount, RemoteSettings, Vault, VaultError,
    storage::{Objects, StorageError, Stores},
};

/// The table `[storage]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Tables {
    cache: Option<Table>,
    target: Option<Table>,
}

/// Where a storage is.
#[derive(Clone)]
pub(crate) enum Place {
    /// In this directory, which has the mark of a vault.
    Directory(PathBuf),
    /// In an object store.
    Remote(Box<RemoteSettings>),
}

/// Where both storages are.
#[derive(Clone)]
pub struct Places {
    pub(crate) cache: Place,
    pub(crate) target: Place,
}

/// Both storages, and what each is beside a storage.
pub(crate) struct Opened {
    pub(crate) stores: Stores,
    /// Cache storage, where it is an object store.
    pub(crate) cache: Option<Remote>,
    /// Target storage, where it is an object store.
    pub(crate) target: Option<Remote>,
}

impl Places {
    /// Those that the service's configuration file names.
    ///
    /// # Errors
    /// When the file is no good.
    pub fn of(config: &Path) -> Result<Places, ConfigError> {
        let options = Options { config: Some(config.to_owned()), ..Options::default() };
        Ok(Settings::new(&options)?.places)
    }

    /// Opens both as they are, for a program that does nothing else.
    ///
    /// # Errors
    /// When a directory is not there, or a store's settings are no good.
    pub fn open_offline(&self) -> Result<Stores, VaultError> {
        Ok(self.open(false)?.stores)
    }

    /// What the tables say; what they do not say is below `data`.
    pub(super) fn new(tables: Tables, own: &Path) -> Result<Places, ConfigError> {
        let place = |name: &str, table: Option<Table>| match table {
            None => Ok(Place::Directory(own.to_owned())),
            Some(table) => {
                place(name, table).map_err(|problem| ConfigError::Value(format!("storage.{name}: {problem}")))
            }
        };
        let places = Places { cache: place("cache", tables.cache)?, target: place("target", tables.target)? };
        if let Place::Remote(settings) = &places.cache
            && let RemoteAccount::Azure { credentials, .. } = &settings.account
            && !matches!(credentials, AzureCredentials::Key(_))
        {
            let hint = "rights that only create can be signed by nothing else";
            let problem = format!(
                "storage.cache: Azure needs the account's key here ({hint}): name a file with \
                 account-key as `credentials`, or set {AZURE_KEY}"
            );
            return Err(ConfigError::Value(problem));
        }
        Ok(places)
    }

    /// Opens both. Directories are made where there are none yet, if `make` says so; nothing is sent to a store.
    pub(crate) fn open(&self, make: bool) -> Result<Opened, VaultError> {
        let open = |place: &Place| -> Result<(Arc<dyn Objects>, Option<Remote>), VaultError> {
            Ok(match place {
                Place::Directory(path) => {
                    let vault = if make { Vault::create(path)? } else { Vault::open(path)? };
                    (Arc::new(vault.directory().clone()), None)
                }
                Place::Remote(settings) => {
                    let remote = Remote::open(settings, network()?)?;
                    (Arc::new(remote.clone()), Some(remote))
                }
            })
        };
        let ((cache, cache_remote), (target, target_remote)) = (open(&self.cache)?, open(&self.target)?);
        Ok(Opened { stores: Stores::new(cache, target), cache: cache_remote, target: target_remote })
    }
}

/// The object store that a table describes.
pub(super) fn store(table: Table) -> Result<RemoteSettings, String> {
    match place("", table)? {
        Place::Remote(settings) => Ok(*settings),
        Place::Directory(_) => Err("it is an object store, of kind 's3' or 'azure'".to_owned()),
    }
}

/// The object store that a file describes, as `[storage.target]` of a configuration does.
///
/// # Errors
/// When the file is no good.
pub fn store_in(path: &Path) -> Result<RemoteSettings, ConfigError> {
    let refused = |problem| ConfigError::Refused { path: path.to_owned(), problem };
    store(config::read(path)?).map_err(refused)
}

/// What speaks to stores: until the process ends, since work that waits for a store may still be at hand when a service stops.
pub(crate) fn network() -> Result<Handle, StorageError> {
    static NETWORK: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = NETWORK.get() {
        return Ok(runtime.handle().clone());
    }
    let made = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let failed = |source| StorageError { action: "use the network for", path: "storage".into(), source };
    let made = made.map_err(failed)?;
    Ok(NETWORK.get_or_init(|| made).handle().clone())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    const KEY: &str = "very-secret-key";

    /// What comes of a configuration of which `FILE` is a file of credentials.
    fn places(text: &str, credentials: &str, mode: u32) -> Result<Places, String> {
        #[derive(Deserialize)]
        struct Whole {
            storage: Tables,
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("credentials.toml");
        fs::write(&file, credentials).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let text = text.replace("FILE", file.to_str().unwrap());
        let whole: Whole = toml::from_str(&text).map_err(|err| err.message().to_owned())?;
        Places::new(whole.storage, Path::new("/own")).map_err(|err| err.to_string())
    }

    fn s3() -> String {
        format!("access-key-id = 'id'\nsecret-access-key = '{KEY}'")
    }

    #[test]
    fn each_storage_has_a_place_and_an_account_of_its_own() {
        let text = "[storage.cache]\nkind = 's3'\nbucket = 'cache'\nregion = 'eu-north-1'\nprefix = 'a/b'\n\
                    credentials = 'FILE'\n[storage.target]\nkind = 'azure'\naccount = 'other'\ncontainer = 'target'";
        let places = places(text, &s3(), 0o600).unwrap();
        let (Place::Remote(cache), Place::Remote(target)) = (&places.cache, &places.target) else {
            panic!("not in stores")
        };
        assert!(matches!(&cache.account, RemoteAccount::S3 { bucket, region: Some(region), .. }
            if bucket == "cache" && region == "eu-north-1"));
        assert_eq!(cache.prefix, "a/b");
        assert!(!format!("{cache:?}").contains(KEY), "a secret can be printed");
        assert!(matches!(&target.account, RemoteAccount::Azure { account, .. } if account == "other"));
    }

    #[test]
    fn what_is_not_said_is_in_the_data_directory() {
        let places = places("[storage.target]\nkind = 'directory'\npath = '/points'", "", 0o600).unwrap();
        assert!(matches!(&places.cache, Place::Directory(path) if path == Path::new("/own")));
        assert!(matches!(&places.target, Place::Directory(path) if path == Path::new("/points")));
    }

    #[test]
    fn a_storage_is_refused_with_a_hint() {
        let azure = "[storage.cache]\nkind = 'azure'\naccount = 'acct'\ncontainer = 'cache'";
        let s3_at = |more: &str| format!("[storage.target]\nkind = 's3'\nbucket = 'bucket'\n{more}");
        let refused = [
            ("[storage.cahce]\nkind = 's3'".to_owned(), s3(), 0o600, "cache"),
            ("[storage.cache]\nkind = 'ftp'".to_owned(), s3(), 0o600, "directory"),
            ("[storage.cache]\nkind = 'directory'\npath = 'here'".to_owned(), s3(), 0o600, "slash"),
            (s3_at("bukcet = 'x'"), s3(), 0o600, "bucket"),
            (s3_at("endpoint = 'http://store.example'"), s3(), 0o600, "https"),
            (s3_at("endpoint = 'store.example'"), s3(), 0o600, "https://host"),
            (s3_at("prefix = '/a'"), s3(), 0o600, "slashes"),
            (s3_at("prefix = 'a/../b'"), s3(), 0o600, "prefix"),
            (s3_at("credentials = 'FILE'"), s3(), 0o640, "chmod 600"),
            (s3_at("credentials = '/nowhere/x'"), s3(), 0o600, "/nowhere/x"),
            (s3_at("credentials = 'FILE'"), format!("key = '{KEY}'"), 0o600, "access-key-id"),
            (s3_at("credentials = 'FILE'"), format!("access-key-id = '{KEY}"), 0o600, "access-key-id"),
            (s3_at("authorities = 'FILE'"), s3(), 0o600, "PEM"),
            (azure.to_owned(), s3(), 0o600, "account-key"),
        ];
        for (text, credentials, mode, hint) in refused {
            let problem = places(&text, &credentials, mode).err().unwrap_or_default();
            assert!(problem.contains(hint), "{text}: {problem}");
            assert!(!problem.contains(KEY), "{text}: {problem}");
        }
    }
}
