//! Where cache storage and target storage are: the tables `[storage.cache]` and `[storage.target]` of the configuration.
//!
//! Each is a directory or an object store with an account of its own. Credentials are in a file that only its owner can read, or
//! in the environment; they are never in the configuration, and nothing here can be printed that holds one. Deliberately not
//! here: speaking to a store (`storage`), and the rights that machines are given (`granting`).

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use serde::{Deserialize, de::DeserializeOwned};
use tokio::runtime::{Builder, Handle, Runtime};

use super::config::{self, ConfigError, Options, Settings};
use crate::{
    AzureCredentials, Remote, RemoteAccount, RemoteLimits, RemoteSettings, S3Credentials, Secret, Vault,
    VaultError,
    storage::{Objects, StorageError, Stores},
};

/// The longest file of credentials or authorities.
const MAX_LEN: u64 = 1 << 20;
/// The environment's name of an Azure account's key.
const AZURE_KEY: &str = "AZURE_STORAGE_ACCOUNT_KEY";
/// That of a shared access signature.
const AZURE_SIGNATURE: &str = "AZURE_STORAGE_SAS_TOKEN";

/// The table `[storage]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Tables {
    cache: Option<Table>,
    target: Option<Table>,
}

/// A storage, as a configuration says where it is.
#[derive(Deserialize)]
#[serde(tag = "kind", deny_unknown_fields, rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub(super) enum Table {
    Directory {
        path: PathBuf,
    },
    S3 {
        bucket: String,
        region: Option<String>,
        endpoint: Option<String>,
        #[serde(default)]
        virtual_hosted: bool,
        #[serde(default)]
        prefix: String,
        credentials: Option<PathBuf>,
        authorities: Option<PathBuf>,
    },
    Azure {
        account: String,
        container: String,
        endpoint: Option<String>,
        #[serde(default)]
        prefix: String,
        credentials: Option<PathBuf>,
        authorities: Option<PathBuf>,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct S3File {
    access_key_id: String,
    secret_access_key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct AzureFile {
    account_key: String,
}

/// What a file holds for a container that disks are brought to: one of the two.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ContainerFile {
    account_key: Option<String>,
    shared_access_signature: Option<String>,
}

/// A container in Azure Blob Storage that disks are brought to.
pub(super) struct Container {
    pub(super) account: String,
    pub(super) container: String,
    pub(super) endpoint: Option<String>,
    pub(super) prefix: String,
    pub(super) credentials: Option<PathBuf>,
    pub(super) authorities: Option<PathBuf>,
}

impl Container {
    /// What a client needs to use it.
    pub(super) fn settings(self) -> Result<RemoteSettings, String> {
        let allow_http = self.endpoint.as_deref().map_or(Ok(false), is_plain)?;
        let account = RemoteAccount::Azure {
            account: named("account", self.account)?,
            container: named("container", self.container)?,
            endpoint: self.endpoint,
            credentials: container_credentials(self.credentials.as_deref())?,
        };
        Ok(RemoteSettings {
            account,
            prefix: checked_prefix(self.prefix)?,
            authorities: self.authorities.map(|path| authorities_in(&path)).transpose()?,
            allow_http,
            limits: RemoteLimits::default(),
        })
    }
}

/// How to sign for blobs of a container: by the account's key, or with a signature that somebody gave for the container.
fn container_credentials(file: Option<&Path>) -> Result<AzureCredentials, String> {
    let expected = "account-key or shared-access-signature";
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (key, signature) = match file {
        Some(path) => {
            let file: ContainerFile = secrets_in(path, expected)?;
            (file.account_key, file.shared_access_signature)
        }
        None => (variable(AZURE_KEY), variable(AZURE_SIGNATURE)),
    };
    match (key, signature) {
        (Some(key), None) => Ok(AzureCredentials::Key(Secret::new(key))),
        (None, Some(signature)) => {
            let signature = signature.trim().trim_start_matches('?');
            match signature.contains("sig=") && !signature.contains([' ', '#']) {
                true => Ok(AzureCredentials::Signature(Secret::new(signature))),
                false => Err("the shared access signature reads as sv=...&sig=...".to_owned()),
            }
        }
        _ => Err(format!(
            "Azure needs one of the account's key and a shared access signature of the container: name a file with {expected} as \
             `credentials`, or set {AZURE_KEY} or {AZURE_SIGNATURE}"
        )),
    }
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

fn place(name: &str, table: Table) -> Result<Place, String> {
    let remote = |account, allow_http, prefix: String, authorities: Option<PathBuf>| {
        let settings = RemoteSettings {
            account,
            prefix: checked_prefix(prefix)?,
            authorities: authorities.map(|path| authorities_in(&path)).transpose()?,
            allow_http,
            limits: RemoteLimits::default(),
        };
        Ok(Place::Remote(Box::new(settings)))
    };
    match table {
        Table::Directory { path } if path.is_absolute() => Ok(Place::Directory(path)),
        Table::Directory { .. } => Err("path has to begin with a slash".to_owned()),
        Table::S3 { bucket, region, endpoint, virtual_hosted, prefix, credentials, authorities } => {
            let bucket = named("bucket", bucket)?;
            let credentials = match credentials {
                None => S3Credentials::Environment,
                Some(path) => {
                    let file: S3File = secrets_in(&path, "access-key-id and secret-access-key")?;
                    S3Credentials::Key { id: file.access_key_id, secret: Secret::new(file.secret_access_key) }
                }
            };
            let allow_http = endpoint.as_deref().map_or(Ok(false), is_plain)?;
            let account = RemoteAccount::S3 { bucket, region, endpoint, virtual_hosted, credentials };
            remote(account, allow_http, prefix, authorities)
        }
        Table::Azure { account, container, endpoint, prefix, credentials, authorities } => {
            let (account, container) = (named("account", account)?, named("container", container)?);
            let credentials = match credentials {
                Some(path) => {
                    let file: AzureFile = secrets_in(&path, "account-key")?;
                    AzureCredentials::Key(Secret::new(file.account_key))
                }
                // It is needed for granting, and not only for speaking to the store.
                None => match std::env::var(AZURE_KEY) {
                    Ok(key) if name == "cache" => AzureCredentials::Key(Secret::new(key)),
                    _ => AzureCredentials::Environment,
                },
            };
            let allow_http = endpoint.as_deref().map_or(Ok(false), is_plain)?;
            let account = RemoteAccount::Azure { account, container, endpoint, credentials };
            remote(account, allow_http, prefix, authorities)
        }
    }
}

/// Names of buckets, containers and accounts, which become part of addresses.
fn named(what: &str, name: String) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match (3..=63).contains(&name.len()) && name.chars().all(plain) {
        true => Ok(name),
        false => Err(format!("{what} has 3 to 63 letters, digits, dots and dashes")),
    }
}

/// What keys start with: plain enough to stand in an address as it is.
fn checked_prefix(prefix: String) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let part = |part: &str| !part.is_empty() && part != "." && part != ".." && part.chars().all(plain);
    match prefix.is_empty() || (prefix.len() <= 256 && prefix.split('/').all(part)) {
        true => Ok(prefix),
        false => {
            Err("prefix is made of letters, digits, dots, dashes and underscores, with slashes between \
                      them and none at either end"
                .to_owned())
        }
    }
}

/// Whether an endpoint is one without TLS, which may only be on this machine.
fn is_plain(endpoint: &str) -> Result<bool, String> {
    let url = reqwest::Url::parse(endpoint).ok().filter(|url| {
        url.has_host() && url.username().is_empty() && url.password().is_none() && url.query().is_none()
    });
    let url = url.ok_or("endpoint has to read as https://host:port, perhaps with a path")?;
    match url.scheme() {
        "https" => Ok(false),
        "http" if is_loopback(&url) => Ok(true),
        "http" => Err("endpoint has no TLS: only https leaves this machine".to_owned()),
        _ => Err("endpoint is neither https nor http".to_owned()),
    }
}

fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn read(path: &Path) -> io::Result<(u32, String)> {
    let file = File::open(path)?;
    let mode = file.metadata()?.mode();
    let mut text = String::new();
    file.take(MAX_LEN).read_to_string(&mut text)?;
    Ok((mode, text))
}

/// What a file of credentials holds. What is wrong with it is said without quoting it.
fn secrets_in<T: DeserializeOwned>(path: &Path, expected: &str) -> Result<T, String> {
    let shown = path.display();
    let (mode, text) = read(path).map_err(|err| format!("the credentials {shown} cannot be read: {err}"))?;
    if mode & 0o077 != 0 {
        let mode = mode & 0o7777;
        return Err(format!("others may read the credentials {shown} (mode {mode:04o}): chmod 600 it"));
    }
    toml::from_str(&text)
        .map_err(|_| format!("the credentials {shown} are not TOML with {expected}, and nothing else"))
}

fn authorities_in(path: &Path) -> Result<Vec<u8>, String> {
    let (_, text) = read(path)
        .map_err(|err| format!("the certificates of authorities {} cannot be read: {err}", path.display()))?;
    match text.contains("-----BEGIN CERTIFICATE-----") {
        true => Ok(text.into_bytes()),
        false => Err(format!("{} holds no certificate in PEM", path.display())),
    }
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
