//! Disks as objects in an object store, for machines that somebody else makes of them: what a cloud's import takes.
//!
//! Deliberately not here: machines. What is asked about them is answered as where somebody else makes them.

use super::{Disk, Failure, Outcome, Provider, Seen, Spec};
use crate::{
    Destination, Format, ObjectImage, Objects as _, Remote, RemoteSettings, StorageError, service::network,
};

/// A store in which each failover has keys of its own.
#[derive(Clone, Debug)]
pub(crate) struct Objects {
    store: RemoteSettings,
    format: Format,
}

impl Objects {
    pub(crate) fn new(store: RemoteSettings, format: Format) -> Objects {
        Objects { store, format }
    }

    /// Works with the store.
    fn with<T>(&self, work: impl FnOnce(&Remote) -> Result<T, StorageError>) -> Outcome<T> {
        let done = network().and_then(|network| work(&Remote::open(&self.store, network)?));
        done.map_err(|err| Failure::new(err.to_string(), err.kind().remedy()))
    }

    fn key(&self, failover: &str, disk: &Disk) -> String {
        format!("{failover}/{}.{}", disk.id, self.format.extension())
    }

    /// What people call a failover's keys.
    fn place(&self, failover: &str) -> String {
        format!("{}/{failover}", self.store.name())
    }
}

impl Provider for Objects {
    fn check(&self, _: &Spec) -> Outcome<String> {
        self.with(Remote::check)?;
        Ok(format!("{} answers", self.store.name()))
    }

    fn image(&self, spec: &Spec, disk: &Disk) -> Outcome<Destination> {
        let object = ObjectImage::new(&self.store, &self.key(&spec.failover, disk));
        let object =
            object.map_err(|problem| Failure::new(problem, "write of this to who made this program"))?;
        // One that is there is of a try of this failover's that was not noted.
        Ok(Destination::Object { object, format: self.format, replace: true })
    }

    fn make(&self, spec: &Spec) -> Outcome<String> {
        for disk in &spec.disks {
            let key = self.key(&spec.failover, disk);
            if self.with(|store| store.size(&key))?.is_none() {
                let problem = format!("{}/{key} was written, and is not there any more", self.store.name());
                return Err(Failure::new(problem, "write all disks again with `failover change-point`"));
            }
        }
        Ok(format!("{} objects are in {}", spec.disks.len(), self.place(&spec.failover)))
    }

    fn look(&self, failover: &str) -> Outcome<Seen> {
        let mut found = false;
        self.with(|store| store.list(failover, &mut |_| found = true))?;
        Ok(match found {
            true => Seen::ByHand(format!("make a machine of the objects in {}", self.place(failover))),
            false => Seen::Off,
        })
    }

    fn remove(&self, failover: &str) -> Outcome<String> {
        self.with(|store| store.remove_below(failover))?;
        Ok(format!("{} is gone", self.place(failover)))
    }
}
