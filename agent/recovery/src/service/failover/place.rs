//! The table `[failover.NAME]` of the configuration: the places to which machines can be failed over.
//!
//! Deliberately not here: what is done there (`provider`).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;

use super::{
    mend::Mend,
    provider::{Acceleration, Azure, Images, Objects, Provider, Qemu},
};
use crate::{
    Format, RemoteSettings,
    service::{
        config::{ConfigError, Options, Settings},
        places::{self, Container},
    },
    target::{self, NetworkName, PlaceKind},
};

/// How much memory a machine gets, in MiB, unless it is said.
const MEMORY_MIB: u64 = 2048;
const MOST_MEMORY_MIB: u64 = 4 << 20;
/// How many processors.
const PROCESSORS: u64 = 2;
const MOST_PROCESSORS: u64 = 512;
/// What a console says when a machine is up, unless it is said.
const BOOTED: &str = "login:";
/// How long a machine may take to come up, in seconds, unless it is said.
const BOOT_LIMIT_S: u64 = 600;
const MOST_BOOT_LIMIT_S: u64 = 86_400;

/// What the configuration says of a place.
#[derive(Deserialize)]
#[serde(tag = "kind", deny_unknown_fields, rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub(crate) enum Table {
    /// Images in a directory.
    Images { directory: PathBuf, format: Option<String>, mend: Option<Mend> },
    /// Machines that QEMU runs here.
    Qemu {
        directory: PathBuf,
        format: Option<String>,
        #[serde(default)]
        acceleration: Acceleration,
        memory_mib: Option<u64>,
        processors: Option<u64>,
        booted: Option<String>,
        boot_limit_s: Option<u64>,
        mend: Option<Mend>,
    },
    /// Images in an object store.
    Objects { format: Option<String>, store: places::Table },
    /// Page blobs in Azure, and templates in a directory that make machines of them.
    Azure(Box<AzureTable>),
}

/// What it says of a container in Azure, and of all machines that are made of what is brought there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct AzureTable {
    directory: PathBuf,
    account: String,
    container: String,
    endpoint: Option<String>,
    #[serde(default)]
    prefix: String,
    credentials: Option<PathBuf>,
    authorities: Option<PathBuf>,
    resource_group: Option<String>,
    location: Option<String>,
    network: Option<NetworkName>,
    disk_type: Option<String>,
}

impl AzureTable {
    /// What holds for all machines there, where templates are written, and the container.
    fn taken_apart(self, name: &str) -> Result<(target::Place, PathBuf, RemoteSettings), String> {
        let settings = target::Place {
            resource_group: self.resource_group,
            location: self.location,
            network: self.network,
            disk_type: self.disk_type,
            target_storage_account: Some(self.account.clone()),
            ..target::Place::new(name, PlaceKind::Azure)
        };
        let container = Container {
            account: self.account,
            container: self.container,
            endpoint: self.endpoint,
            prefix: self.prefix,
            credentials: self.credentials,
            authorities: self.authorities,
        };
        Ok((settings, self.directory, container.settings()?))
    }
}

/// A place to which machines can be failed over. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Place {
    /// What holds for all machines there.
    pub(crate) settings: target::Place,
    /// What makes machines there.
    pub(crate) provider: Arc<dyn Provider>,
    /// What is done about what would keep a restored disk from starting there.
    pub(crate) mend: Mend,
    /// Whether this host's own virtualisation is not to be used for that.
    pub(crate) emulated: bool,
}

/// What makes machines at the places that a service's configuration file names, by the places' names.
///
/// # Errors
/// When the file is no good.
pub fn providers(config: &Path) -> Result<BTreeMap<String, Arc<dyn Provider>>, ConfigError> {
    let options = Options { config: Some(config.to_owned()), ..Options::default() };
    let places = Settings::new(&options)?.failover;
    Ok(places.into_iter().map(|(name, place)| (name, place.provider)).collect())
}

/// The place that a table describes.
pub(crate) fn place(name: &str, table: Table) -> Result<Place, ConfigError> {
    let bad = |problem: String| ConfigError::Value(format!("failover.{name}: {problem}"));
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        return Err(bad("a place's name has up to 64 letters, digits, dashes and underscores".to_owned()));
    }
    let within = |key: &str, given: Option<u64>, default: u64, most: u64| match given.unwrap_or(default) {
        value if (1..=most).contains(&value) => Ok(value),
        value => Err(bad(format!("{key} is {value}, and has to be from 1 to {most}"))),
    };
    let images = |directory: PathBuf, format: Option<String>| {
        let format = format.map_or(Ok(Format::default()), |format| format.parse().map_err(bad))?;
        match directory.is_absolute() {
            true => Ok(Images::new(directory, format)),
            false => Err(bad("directory has to begin with a slash".to_owned())),
        }
    };
    let of_kind = |kind| target::Place::new(name, kind);
    let (settings, provider, mend, emulated): (_, Arc<dyn Provider>, _, _) = match table {
        Table::Images { directory, format, mend } => {
            let provider = Arc::new(images(directory, format)?);
            (of_kind(PlaceKind::Images), provider, mend.unwrap_or(Mend::No), false)
        }
        Table::Qemu {
            directory,
            format,
            acceleration,
            memory_mib,
            processors,
            booted,
            boot_limit_s,
            mend,
        } => {
            let qemu = Qemu {
                images: images(directory, format)?,
                acceleration,
                memory_mib: within("memory-mib", memory_mib, MEMORY_MIB, MOST_MEMORY_MIB)?,
                processors: within("processors", processors, PROCESSORS, MOST_PROCESSORS)?,
                booted: booted.filter(|text| !text.is_empty()).unwrap_or_else(|| BOOTED.to_owned()),
                boot_limit: Duration::from_secs(within(
                    "boot-limit-s",
                    boot_limit_s,
                    BOOT_LIMIT_S,
                    MOST_BOOT_LIMIT_S,
                )?),
            };
            let emulated = acceleration == Acceleration::Tcg;
            (of_kind(PlaceKind::Qemu), Arc::new(qemu), mend.unwrap_or(Mend::Yes), emulated)
        }
        Table::Objects { format, store } => {
            let format = format.map_or(Ok(Format::default()), |format| format.parse().map_err(bad))?;
            if format == Format::Qcow2 {
                return Err(bad("an object is 'raw' or 'vhd'".to_owned()));
            }
            let store = places::store(store).map_err(|problem| bad(format!("store: {problem}")))?;
            // Somebody else makes the machine of them, as of images in a directory.
            (of_kind(PlaceKind::Images), Arc::new(Objects::new(store, format)), Mend::No, false)
        }
        Table::Azure(table) => {
            let (settings, directory, container) = table.taken_apart(name).map_err(bad)?;
            // What is in a container is not a file that guestfish could open.
            (settings, Arc::new(Azure::new(images(directory, None)?, container)), Mend::No, false)
        }
    };
    Ok(Place { settings, provider, mend, emulated })
}
