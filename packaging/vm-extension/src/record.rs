//! What the handler remembers from one command to the next, outside of its own directory, which is another one in each version.
//!
//! That is which service the machine was enrolled with, and that an update is going on. Neither is secret. Deliberately not here:
//! the identity, which is the agent's.

use std::{
    env, fs,
    os::unix::fs::DirBuilderExt,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use crate::{
    failure::Failure,
    files::{read, remove, replace},
    place::Place,
};

const RECORD: &str = "extension.json";
const MARKER: &str = "extension-update";
const LONGEST: u64 = 64 << 10;
/// How long an update may take from its first command to the last.
const LONGEST_UPDATE: u64 = 3600;

/// Which service this machine belongs to, as far as the handler knows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) services: Vec<String>,
    /// False while nobody knows whether the enrolment came to its end.
    pub(crate) done: bool,
}

impl Record {
    /// What is remembered; nothing where nothing is, or where it cannot be read.
    pub(crate) fn load(place: &Place) -> Option<Record> {
        let value = load(&place.state_dir().join(RECORD))?;
        let services = value["services"]
            .as_array()?
            .iter()
            .filter_map(|text| text.as_str().map(str::to_owned))
            .collect();
        Some(Record { services, done: value["done"] == true })
    }

    pub(crate) fn store(&self, place: &Place) -> Result<(), Failure> {
        store(place, RECORD, &json!({"version": 1, "services": self.services, "done": self.done}))
    }

    pub(crate) fn forget(place: &Place) {
        let _ = remove(&place.state_dir().join(RECORD));
    }

    /// Whether the settings mean the same service: one address of it is enough.
    pub(crate) fn names(&self, services: &[String]) -> bool {
        let plain = |address: &String| address.trim_end_matches('/').to_ascii_lowercase();
        self.services.is_empty()
            || services.iter().any(|one| self.services.iter().any(|own| plain(own) == plain(one)))
    }
}

/// Remembers that this version's `update` runs: the `uninstall` of the version before follows and must leave everything.
pub(crate) fn begin_update(place: &Place) -> Result<(), Failure> {
    let [own, to, from] =
        ["AZURE_GUEST_AGENT_EXTENSION_VERSION", "VERSION", "AZURE_GUEST_AGENT_UPDATING_FROM_VERSION"]
            .map(|name| env::var(name).ok());
    // Before a downgrade it is the old version's `update` that is called, and that version goes as well.
    let leaving = if own == to { from } else { own };
    store(place, MARKER, &json!({"version": 1, "time": now(), "leaving": leaving}))
}

/// Whether this run's version is the one that leaves in an update.
pub(crate) fn leaves_in_update(place: &Place) -> bool {
    let own = env::var("AZURE_GUEST_AGENT_EXTENSION_VERSION").ok();
    load(&place.state_dir().join(MARKER)).is_some_and(|marker| {
        let young = marker["time"].as_u64().is_some_and(|time| time.abs_diff(now()) <= LONGEST_UPDATE);
        let leaving = marker["leaving"].as_str();
        young && (leaving.is_none() || own.is_none() || leaving == own.as_deref())
    })
}

/// The update is over.
pub(crate) fn end_update(place: &Place) {
    let _ = remove(&place.state_dir().join(MARKER));
}

fn load(path: &Path) -> Option<Value> {
    serde_json::from_slice(&read(path, LONGEST).ok()?).ok()
}

fn store(place: &Place, name: &str, value: &Value) -> Result<(), Failure> {
    let dir = place.state_dir();
    let fail = |err| Failure::other(dir.join(name).display(), err);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(fail)?;
    replace(&dir.join(name), value.to_string().as_bytes(), true).map_err(fail)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_known_by_any_of_its_addresses() {
        let of = |services: &[&str]| services.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let record = Record { services: of(&["https://a:8443", "https://b"]), done: true };
        assert!(record.names(&of(&["https://B/"])));
        assert!(!record.names(&of(&["https://c"])) && !record.names(&[]));
        assert!(Record::default().names(&of(&["https://c"])), "nobody knows which it is");
    }
}
