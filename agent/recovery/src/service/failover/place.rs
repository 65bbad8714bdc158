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
    provider::{Acceleration, Azure, Host, Images, Libvirt, Objects, Provider, Qemu},
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
/// How libvirt is reached, unless it is said, and what all such connections begin with: its disks are files on this host.
const URI: &str = "qemu:///system";
const URIS: [&str; 2] = ["qemu:///", "qemu+unix:///"];
/// The network that libvirt comes with.
const NETWORK: &str = "default";

/// What the configuration says of a place.
#[derive(Deserialize)]
#[serde(tag = "kind", deny_unknown_fields, rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub(crate) enum Table {
    /// Images in a directory.
    Images { directory: PathBuf, format: Option<String>, mend: Option<Mend> },
    /// Machines that QEMU runs here.
    Qemu(Box<HostTable>),
    /// Machines that libvirt runs here.
    Libvirt(Box<HostTable>),
    /// Images in an object store.
    Objects { format: Option<String>, store: places::Table },
    /// Page blobs in Azure, and templates in a directory that make machines of them.
    Azure(Box<AzureTable>),
}

/// What it says of this host, and of all machines that run on it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct HostTable {
    directory: PathBuf,
    format: Option<String>,
    #[serde(default)]
    acceleration: Acceleration,
    memory_mib: Option<u64>,
    processors: Option<u64>,
    booted: Option<String>,
    boot_limit_s: Option<u64>,
    mend: Option<Mend>,
    /// These three are libvirt's.
    uri: Option<String>,
    network: Option<NetworkName>,
    autostart: Option<bool>,
}

impl HostTable {
    /// What is done about disks that would not start, and whether that is by emulation.
    fn mending(&self) -> (Mend, bool) {
        (self.mend.unwrap_or(Mend::Yes), self.acceleration == Acceleration::Tcg)
    }

    fn host(&self) -> Result<Host, String> {
        let within = |key: &str, given: Option<u64>, default: u64, most: u64| match given.unwrap_or(default) {
            value if (1..=most).contains(&value) => Ok(value),
            value => Err(format!("{key} is {value}, and has to be from 1 to {most}")),
        };
        let booted = self.booted.clone().filter(|text| !text.is_empty());
        let images = images(&self.directory, self.format.as_deref())?;
        if images.format() == Format::Vhd {
            return Err("format is vhd, and machines run here from raw or qcow2".to_owned());
        }
        Ok(Host {
            images,
            acceleration: self.acceleration,
            memory_mib: within("memory-mib", self.memory_mib, MEMORY_MIB, MOST_MEMORY_MIB)?,
            processors: within("processors", self.processors, PROCESSORS, MOST_PROCESSORS)?,
            booted: booted.unwrap_or_else(|| BOOTED.to_owned()),
            boot_limit: Duration::from_secs(within(
                "boot-limit-s",
                self.boot_limit_s,
                BOOT_LIMIT_S,
                MOST_BOOT_LIMIT_S,
            )?),
        })
    }

    fn qemu(&self) -> Result<Qemu, String> {
        let of_libvirt = [
            ("uri", self.uri.is_some()),
            ("network", self.network.is_some()),
            ("autostart", self.autostart.is_some()),
        ];
        match of_libvirt.into_iter().find(|(_, is_said)| *is_said) {
            Some((key, _)) => Err(format!("{key} is for places of kind 'libvirt'")),
            None => Ok(Qemu::new(self.host()?)),
        }
    }

    /// What makes machines, and the network that they get to unless they say otherwise.
    fn libvirt(&self) -> Result<(Libvirt, Option<NetworkName>), String> {
        let host = self.host()?;
        if self.directory.display().to_string().contains(char::is_control) {
            return Err("directory has to be a single line".to_owned());
        }
        let uri = self.uri.clone().unwrap_or_else(|| URI.to_owned());
        if !URIS.iter().any(|begin| uri.starts_with(begin)) || uri.contains(char::is_control) {
            return Err(format!("uri is '{uri}', and has to be of this host's QEMU, such as {URI}"));
        }
        let network = match &self.network {
            Some(network) if network.range().is_some() => {
                return Err(format!("network is {network}: say what libvirt calls it"));
            }
            None if !Libvirt::is_session(&uri) => NETWORK.parse().ok(),
            said => said.clone(),
        };
        Ok((Libvirt::new(host, uri, network.clone(), self.autostart.unwrap_or(false)), network))
    }
}

fn format_of(said: Option<&str>) -> Result<Format, String> {
    said.map_or(Ok(Format::default()), str::parse)
}

fn images(directory: &Path, format: Option<&str>) -> Result<Images, String> {
    let format = format_of(format)?;
    match directory.is_absolute() {
        true => Ok(Images::new(directory.to_owned(), format)),
        false => Err("directory has to begin with a slash".to_owned()),
    }
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
    let of_kind = |kind| target::Place::new(name, kind);
    let (settings, provider, mend, emulated): (_, Arc<dyn Provider>, _, _) = match table {
        Table::Images { directory, format, mend } => {
            let provider = Arc::new(images(&directory, format.as_deref()).map_err(bad)?);
            (of_kind(PlaceKind::Images), provider, mend.unwrap_or(Mend::No), false)
        }
        Table::Qemu(table) => {
            let (mend, emulated) = table.mending();
            (of_kind(PlaceKind::Qemu), Arc::new(table.qemu().map_err(bad)?), mend, emulated)
        }
        Table::Libvirt(table) => {
            let (mend, emulated) = table.mending();
            let (provider, network) = table.libvirt().map_err(bad)?;
            let settings = target::Place { network, ..of_kind(PlaceKind::Libvirt) };
            (settings, Arc::new(provider), mend, emulated)
        }
        Table::Objects { format, store } => {
            let format = format_of(format.as_deref()).map_err(bad)?;
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
            let files = images(&directory, None).map_err(bad)?;
            (settings, Arc::new(Azure::new(files, container)), Mend::No, false)
        }
    };
    Ok(Place { settings, provider, mend, emulated })
}
