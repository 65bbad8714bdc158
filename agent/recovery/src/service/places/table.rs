//! What a configuration says of one storage, and what a client needs to use it.
//!
//! Every name that becomes a part of an address is checked here, and that nothing leaves this machine without TLS. Deliberately not
//! here: reading files of credentials (`secrets`).

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{
    Place,
    secrets::{authorities_in, secrets_in},
};
use crate::{AzureCredentials, RemoteAccount, RemoteLimits, RemoteSettings, S3Credentials, Secret};

/// The environment's name of an Azure account's key.
pub(super) const AZURE_KEY: &str = "AZURE_STORAGE_ACCOUNT_KEY";
/// That of a shared access signature.
const AZURE_SIGNATURE: &str = "AZURE_STORAGE_SAS_TOKEN";

/// A storage, as a configuration says where it is.
#[derive(Deserialize)]
#[serde(tag = "kind", deny_unknown_fields, rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub(crate) enum Table {
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
pub(crate) struct Container {
    pub(crate) account: String,
    pub(crate) container: String,
    pub(crate) endpoint: Option<String>,
    pub(crate) prefix: String,
    pub(crate) credentials: Option<PathBuf>,
    pub(crate) authorities: Option<PathBuf>,
}

impl Container {
    /// What a client needs to use it.
    pub(crate) fn settings(self) -> Result<RemoteSettings, String> {
        let account = RemoteAccount::Azure {
            account: named("account", self.account)?,
            container: named("container", self.container)?,
            endpoint: self.endpoint,
            credentials: container_credentials(self.credentials.as_deref())?,
        };
        remote(account, self.prefix, self.authorities)
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

/// Where the storage of this name is by its table.
pub(super) fn place(name: &str, table: Table) -> Result<Place, String> {
    let remote =
        |account, prefix, authorities| Ok(Place::Remote(Box::new(remote(account, prefix, authorities)?)));
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
            let account = RemoteAccount::S3 { bucket, region, endpoint, virtual_hosted, credentials };
            remote(account, prefix, authorities)
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
            let account = RemoteAccount::Azure { account, container, endpoint, credentials };
            remote(account, prefix, authorities)
        }
    }
}

/// How an account is used, with keys that start so.
fn remote(
    account: RemoteAccount,
    prefix: String,
    authorities: Option<PathBuf>,
) -> Result<RemoteSettings, String> {
    let (RemoteAccount::S3 { endpoint, .. } | RemoteAccount::Azure { endpoint, .. }) = &account;
    let allow_http = endpoint.as_deref().map_or(Ok(false), is_plain)?;
    Ok(RemoteSettings {
        account,
        prefix: checked_prefix(prefix)?,
        authorities: authorities.map(|path| authorities_in(&path)).transpose()?,
        allow_http,
        limits: RemoteLimits::default(),
    })
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
