//! What the service goes by: built-in values, then its configuration file, then the command line.
//!
//! A file is taken as a whole or refused as a whole. Deliberately not here: policies, which are the database's.

use std::{
    collections::BTreeMap,
    net::{Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, de::DeserializeOwned};

use super::{
    failover::{self, Place},
    places::{Places, Tables},
    plan,
};

/// Where everything lies, unless it is said.
const DATA: &str = "/var/lib/recovery-service";
/// The directory of the service's own storage, in the data directory.
const STORAGE: &str = "storage";
const PORT: u16 = 8443;
/// The longest configuration file.
const MAX_LEN: u64 = 1 << 20;
/// Connections at once, unless it is said: an agent holds two, and one more after it has uploaded something.
const CONNECTIONS: usize = 30_000;
const MOST_CONNECTIONS: usize = 1_000_000;
/// For how many seconds a commit may be missing while later ones are there, unless it is said: an agent's longest wait between two tries is a
/// minute unless its operator wants another.
const MISSING_S: usize = 180;
const MOST_MISSING_S: usize = 86_400;
/// How long a machine may take to be stopped for a planned failover, unless it is said, in seconds.
const SOURCE_S: usize = 1800;
const MOST_SOURCE_S: usize = 86_400;
/// Addresses that machines may be told.
const MAX_ADDRESSES: usize = 16;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration {} cannot be read: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("the configuration {} is refused: {problem}", path.display())]
    Refused {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A value is no good.
    #[error("{0}")]
    Value(String),
}

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A configuration file.
    pub config: Option<PathBuf>,
    /// Where everything lies.
    pub data: Option<PathBuf>,
    /// Where to listen.
    pub listen: Option<SocketAddr>,
    /// Where machines reach the service.
    pub addresses: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct File {
    data: Option<PathBuf>,
    listen: Option<SocketAddr>,
    addresses: Vec<String>,
    database: Option<String>,
    secrets: Option<PathBuf>,
    webhook: Option<String>,
    limits: Limits,
    storage: Tables,
    failover: BTreeMap<String, failover::Table>,
    plans: plan::Table,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Limits {
    connections: Option<usize>,
    workers: Option<usize>,
    missing_s: Option<usize>,
    source_s: Option<usize>,
}

/// What the service goes by. It has no `Debug`, since the database's address may hold a password.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) data: PathBuf,
    /// Where the authority, the administrator's credential and the key of grants are.
    pub(crate) secrets: PathBuf,
    pub(crate) listen: SocketAddr,
    /// Where machines reach the service, in the order to try. May be empty.
    pub(crate) addresses: Vec<String>,
    /// The address of the database.
    pub(crate) database: Database,
    /// Where cache and target storage are.
    pub(crate) places: Places,
    pub(crate) webhook: Option<String>,
    pub(crate) connections: usize,
    /// Whether somebody said how many, or it is as it is built in.
    pub(crate) connections_said: bool,
    /// Machines whose epochs are taken in at once.
    pub(crate) workers: usize,
    /// For how long a commit may be missing while later ones are there.
    pub(crate) patience: Duration,
    /// How long a machine may take to be stopped for a planned failover.
    pub(crate) source_limit: Duration,
    /// Where machines can be failed over to, by name.
    pub(crate) failover: BTreeMap<String, Place>,
    /// What plans go by.
    pub(crate) plans: plan::Settings,
}

/// Which database.
#[derive(Clone)]
pub(crate) enum Database {
    /// SQLite, in this file.
    File(PathBuf),
    /// PostgreSQL, at this address.
    Server(String),
}

impl Settings {
    /// Puts together what the file and the command line say.
    pub(crate) fn new(options: &Options) -> Result<Settings, ConfigError> {
        let file = match &options.config {
            Some(path) => read(path)?,
            None => File::default(),
        };
        let data = options.data.clone().or(file.data).unwrap_or_else(|| DATA.into());
        let addresses = if options.addresses.is_empty() { file.addresses } else { options.addresses.clone() };
        if addresses.len() > MAX_ADDRESSES {
            return Err(ConfigError::Value(format!("there may be {MAX_ADDRESSES} addresses at most")));
        }
        let addresses = addresses.iter().map(|address| checked(address)).collect::<Result<_, _>>()?;
        let database = match file.database {
            None => Database::File(data.join("service.db")),
            Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
                Database::Server(url)
            }
            Some(_) => {
                let problem = "database: it is neither left out nor an address as postgres://user@host/name";
                return Err(ConfigError::Value(problem.to_owned()));
            }
        };
        let failover =
            file.failover.into_iter().map(|(name, table)| Ok((name.clone(), failover::place(&name, table)?)));
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Ok(Settings {
            secrets: file.secrets.unwrap_or_else(|| data.clone()),
            places: Places::new(file.storage, &data.join(STORAGE))?,
            plans: plan::settings(file.plans, &data)?,
            data,
            listen: options
                .listen
                .or(file.listen)
                .unwrap_or_else(|| SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT))),
            addresses,
            database,
            webhook: file.webhook.map(|url| webhook(&url)).transpose()?,
            connections_said: file.limits.connections.is_some(),
            connections: within(
                "limits.connections",
                file.limits.connections,
                CONNECTIONS,
                MOST_CONNECTIONS,
            )?,
            workers: within("limits.workers", file.limits.workers, cores, 256)?,
            patience: Duration::from_secs(within(
                "limits.missing-s",
                file.limits.missing_s,
                MISSING_S,
                MOST_MISSING_S,
            )? as u64),
            source_limit: Duration::from_secs(within(
                "limits.source-s",
                file.limits.source_s,
                SOURCE_S,
                MOST_SOURCE_S,
            )? as u64),
            failover: failover.collect::<Result<_, ConfigError>>()?,
        })
    }
}

fn within(name: &str, given: Option<usize>, default: usize, most: usize) -> Result<usize, ConfigError> {
    match given {
        None => Ok(default),
        Some(value) if (1..=most).contains(&value) => Ok(value),
        Some(value) => Err(ConfigError::Value(format!("{name} is {value}, and has to be from 1 to {most}"))),
    }
}

/// An address as it is told to machines: `https`, a host and perhaps a port, nothing else.
fn checked(address: &str) -> Result<String, ConfigError> {
    let bad = || {
        ConfigError::Value(format!(
            "'{address}' is no address of this service: it has to read as https://host:port, without a path"
        ))
    };
    let url = reqwest::Url::parse(address).map_err(|_| bad())?;
    let plain = url.scheme() == "https"
        && url.host_str().is_some()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    if plain { Ok(url.as_str().trim_end_matches('/').to_owned()) } else { Err(bad()) }
}

fn webhook(address: &str) -> Result<String, ConfigError> {
    match reqwest::Url::parse(address) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(address.to_owned()),
        _ => Err(ConfigError::Value("webhook: it is not an address of http or https".to_owned())),
    }
}

/// What a file of TOML says.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    use std::io::Read;
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_LEN).read_to_string(&mut text).map_err(unreadable)?;
    toml::from_str(&text).map_err(|err| ConfigError::Refused {
        path: path.to_owned(),
        // The excerpt that `Display` shows may hold a password.
        problem: match err.span() {
            Some(span) => format!("line {}: {}", text[..span.start].lines().count().max(1), err.message()),
            None => err.message().to_owned(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<Settings, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("service.toml");
        std::fs::write(&path, text).unwrap();
        Settings::new(&Options { config: Some(path), ..Options::default() })
    }

    #[test]
    fn without_configuration_everything_is_below_one_directory() {
        let settings = Settings::new(&Options::default()).unwrap();
        assert_eq!(settings.data, Path::new(DATA));
        assert_eq!(settings.secrets, Path::new(DATA));
        assert!(matches!(settings.database, Database::File(path) if path.starts_with(DATA)));
    }

    #[test]
    fn a_configuration_is_refused_with_a_hint() {
        let refused = [
            ("lissten = '1.2.3.4:5'", "listen"),
            ("[limits]\nconnectoins = 3", "connections"),
            ("[limits]\nconnections = 0", "from 1 to"),
            ("addresses = ['http://a']", "https://host:port"),
            ("addresses = ['https://a/b']", "https://host:port"),
            ("database = 'mysql://a'", "postgres://"),
            ("webhook = 'ftp://a'", "http or https"),
            ("listen = 'everywhere'", "line 1"),
            ("[plans]\nscripts = 'plan-scripts'", "slash"),
            ("[plans]\nmachines-at-once = 65", "from 1 to 64"),
        ];
        for (text, hint) in refused {
            let problem = settings(text).err().map(|err| err.to_string()).unwrap_or_default();
            assert!(problem.contains(hint), "{text}: {problem}");
        }
        let password = settings("database = 'postgres://a:secret@b/c\n").err().unwrap().to_string();
        assert!(!password.contains("secret"), "{password}");
    }

    #[test]
    fn a_place_of_libvirt_is_refused_with_a_hint() {
        let place = |kind: &str, more: &str| {
            settings(&format!("[failover.lab]\nkind = '{kind}'\ndirectory = '/srv/failover'\n{more}\n"))
        };
        for (more, network) in [
            ("", Some("default")),
            ("network = 'dr/web'", Some("dr/web")),
            ("uri = 'qemu:///session'\nautostart = true", None),
            ("uri = 'qemu+unix:///session'\nnetwork = 'dr'", Some("dr")),
        ] {
            let known = place("libvirt", more).unwrap().failover["lab"].clone();
            assert_eq!(known.settings.kind, crate::target::PlaceKind::Libvirt);
            assert_eq!(known.settings.network.as_ref().map(|network| network.as_str()), network, "{more}");
            assert!(!known.emulated);
        }
        assert!(place("libvirt", "acceleration = 'tcg'").unwrap().failover["lab"].emulated);
        let refused = [
            ("libvirt", "uri = 'qemu+ssh://elsewhere/system'", "qemu:///system"),
            ("libvirt", "uri = 'xen:///system'", "qemu:///system"),
            ("libvirt", "network = '10.0.0.0/24'", "what libvirt calls it"),
            ("libvirt", "network = 'a b'", "names no network"),
            ("libvirt", "format = 'vmdk'", "vmdk"),
            ("libvirt", "format = 'vhd'", "raw or qcow2"),
            ("qemu", "format = 'vhd'", "raw or qcow2"),
            ("libvirt", "memory-mib = 0", "from 1 to"),
            ("libvirt", "bridge = 'br0'", "bridge"),
            ("qemu", "uri = 'qemu:///system'", "kind 'libvirt'"),
            ("qemu", "autostart = false", "kind 'libvirt'"),
            ("qemu", "network = 'default'", "kind 'libvirt'"),
        ];
        for (kind, more, hint) in refused {
            let problem = place(kind, more).err().map(|err| err.to_string()).unwrap_or_default();
            assert!(problem.contains(hint), "{kind} {more}: {problem}");
        }
    }

    #[test]
    fn a_place_in_azure_is_refused_with_a_hint() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let credentials = dir.path().join("credentials.toml");
        let place = |more: &str, secret: &str| {
            std::fs::write(&credentials, secret).unwrap();
            std::fs::set_permissions(&credentials, std::fs::Permissions::from_mode(0o600)).unwrap();
            let said = format!(
                "[failover.north]\nkind = 'azure'\naccount = 'drdisks'\ncredentials = '{}'\n{more}",
                credentials.display()
            );
            settings(&said).map(|settings| settings.failover["north"].settings.clone())
        };
        let whole = "directory = '/srv/azure'\ncontainer = 'disks'\nresource-group = 'dr'";
        let (key, signature) = ("account-key = 'c2VjcmV0'", "shared-access-signature = '?sv=1&sig=secret'");
        for secret in [key, signature] {
            let known = place(whole, secret).unwrap();
            assert_eq!(known.kind, crate::target::PlaceKind::Azure);
            assert_eq!(known.target_storage_account.as_deref(), Some("drdisks"));
            assert_eq!(known.resource_group.as_deref(), Some("dr"));
        }
        let both = format!("{key}\n{signature}");
        let refused = [
            (whole.replace("/srv", "srv"), key, "slash"),
            (whole.replace("disks", "d"), key, "container has 3"),
            (format!("{whole}\nprefix = '/a'"), key, "prefix"),
            (format!("{whole}\nendpoint = 'http://store.example'"), key, "https"),
            (format!("{whole}\nformat = 'vhd'"), key, "format"),
            (whole.to_owned(), both.as_str(), "one of"),
            (whole.to_owned(), "", "account-key or shared-access-signature"),
            (whole.to_owned(), "shared-access-signature = 'secret'", "sv=...&sig=..."),
        ];
        for (more, secret, hint) in refused {
            let problem = place(&more, secret).err().map(|err| err.to_string()).unwrap_or_default();
            assert!(problem.contains(hint) && !problem.contains("secret'"), "{more} {secret}: {problem}");
        }
    }

    #[test]
    fn the_command_line_has_the_last_word() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("service.toml");
        std::fs::write(&path, "data = '/a'\naddresses = ['https://a:1/']").unwrap();
        let options = Options { config: Some(path), data: Some("/b".into()), ..Options::default() };
        let settings = Settings::new(&options).unwrap();
        assert_eq!(settings.data, Path::new("/b"));
        assert_eq!(settings.addresses, ["https://a:1"]);
    }
}
