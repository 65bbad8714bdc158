//! Disks as image files in a directory, for machines that somebody else makes of them.
//!
//! Deliberately not here: machines. What is asked about them is answered as where somebody else makes them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use mobility_format::ByteCount;

use super::{Disk, Failure, Outcome, Provider, Seen, Spec};
use crate::{Destination, Format};

/// A directory in which each failover has one of its own.
#[derive(Clone, Debug)]
pub(crate) struct Images {
    directory: PathBuf,
    format: Format,
}

impl Images {
    pub(crate) fn new(directory: PathBuf, format: Format) -> Images {
        Images { directory, format }
    }

    /// The directory of one failover.
    pub(crate) fn of(&self, failover: &str) -> PathBuf {
        self.directory.join(failover)
    }

    /// The format of the images.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Where the image of a disk is.
    pub(crate) fn image_of(&self, spec: &Spec, disk: &Disk) -> PathBuf {
        self.of(&spec.failover).join(format!("{}.{}", disk.id, self.format.extension()))
    }

    /// Demands that all images that were written are there: the directory may be another one than it was.
    pub(crate) fn are_there(&self, spec: &Spec) -> Outcome<()> {
        match spec.disks.iter().map(|disk| self.image_of(spec, disk)).find(|path| !path.is_file()) {
            None => Ok(()),
            Some(path) => {
                let hint = "bring its directory back, and resume; or write all of them again with `failover change-point`";
                Err(Failure::new(format!("{} was written, and is not there any more", path.display()), hint))
            }
        }
    }

    /// Makes the directory of one failover.
    pub(crate) fn make_directory(&self, failover: &str) -> Outcome<PathBuf> {
        let directory = self.of(failover);
        fs::create_dir_all(&directory).map_err(|err| failed("make the directory", &directory, &err))?;
        Ok(directory)
    }
}

/// What could not be done to a file or directory.
pub(super) fn failed(what: &str, path: &Path, err: &io::Error) -> Failure {
    let hint = match err.kind() {
        io::ErrorKind::PermissionDenied => "let the service's user write there",
        io::ErrorKind::StorageFull => "make room there, and resume",
        _ => "look at that file system, and resume",
    };
    Failure::new(format!("cannot {what} {}: {err}", path.display()), hint)
}

/// How much room there is in a file system.
fn room(directory: &Path) -> io::Result<ByteCount> {
    let stat = rustix::fs::statvfs(directory)?;
    Ok(ByteCount(stat.f_bavail.saturating_mul(stat.f_frsize)))
}

impl Provider for Images {
    fn check(&self, spec: &Spec) -> Outcome<String> {
        fs::create_dir_all(&self.directory)
            .map_err(|err| failed("make the directory", &self.directory, &err))?;
        let room = room(&self.directory).map_err(|err| failed("look at", &self.directory, &err))?;
        let size = ByteCount(spec.disks.iter().map(|disk| disk.size.0).sum());
        Ok(format!("{} has room for {room}; the disks are {size} at most", self.directory.display()))
    }

    fn image(&self, spec: &Spec, disk: &Disk) -> Outcome<Destination> {
        self.make_directory(&spec.failover)?;
        // One that is there is of a try of this failover's that was not noted.
        Ok(Destination::Image { path: self.image_of(spec, disk), format: self.format, replace: true })
    }

    fn make(&self, spec: &Spec) -> Outcome<String> {
        self.are_there(spec)?;
        Ok(format!("{} images are in {}", spec.disks.len(), self.of(&spec.failover).display()))
    }

    fn look(&self, failover: &str) -> Outcome<Seen> {
        let directory = self.of(failover);
        Ok(match directory.is_dir() {
            true => Seen::ByHand(format!("make a machine of the images in {}", directory.display())),
            false => Seen::Off,
        })
    }

    fn remove(&self, failover: &str) -> Outcome<String> {
        let directory = self.of(failover);
        match fs::remove_dir_all(&directory) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => Err(failed("remove", &directory, &err)),
            _ => Ok(format!("{} is gone", directory.display())),
        }
    }
}
