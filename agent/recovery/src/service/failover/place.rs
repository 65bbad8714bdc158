//! The table `[failover.NAME]` of the configuration: the places to which machines can be failed over.
//!
//! Deliberately not here: what is done there (`provider`).

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde::Deserialize;

use super::{
    mend::Mend,
    provider::{Acceleration, Images, Provider, Qemu},
};
use crate::{
    Format,
    service::config::ConfigError,
    target::{self, PlaceKind},
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
    let (kind, provider, mend, emulated): (_, Arc<dyn Provider>, _, _) = match table {
        Table::Images { directory, format, mend } => {
            (PlaceKind::Images, Arc::new(images(directory, format)?), mend.unwrap_or(Mend::No), false)
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
            (PlaceKind::Qemu, Arc::new(qemu), mend.unwrap_or(Mend::Yes), emulated)
        }
    };
    Ok(Place { settings: target::Place::new(name, kind), provider, mend, emulated })
}
