//! The table `[plans]` of the configuration: where plans' programs are, and how many machines are failed over at once.
//!
//! Deliberately not here: whether the programs there can be run (`script`).

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::service::config::ConfigError;

/// Machines of a plan run that are failed over at once, unless it is said.
const AT_ONCE: usize = 8;
const MOST_AT_ONCE: usize = 64;
/// The directory of what is kept while programs run, in the data directory.
const NOTES: &str = "plan-scripts";

/// What the configuration says of plans.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Table {
    scripts: Option<PathBuf>,
    machines_at_once: Option<usize>,
}

/// What plans go by on this instance.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Where the programs are. Without it this instance does no plan runs that have any.
    pub(crate) scripts: Option<PathBuf>,
    /// Machines of a plan run that are failed over at once.
    pub(crate) at_once: usize,
    /// Where is noted which programs run.
    pub(crate) notes: PathBuf,
}

/// What the table says.
pub(crate) fn settings(table: Table, data: &Path) -> Result<Settings, ConfigError> {
    let bad = |problem: String| Err(ConfigError::Value(format!("plans: {problem}")));
    let at_once = table.machines_at_once.unwrap_or(AT_ONCE);
    if !(1..=MOST_AT_ONCE).contains(&at_once) {
        return bad(format!("machines-at-once is {at_once}, and has to be from 1 to {MOST_AT_ONCE}"));
    }
    match table.scripts {
        Some(scripts) if !scripts.is_absolute() => bad("scripts has to begin with a slash".to_owned()),
        scripts => Ok(Settings { scripts, at_once, notes: data.join(NOTES) }),
    }
}
