//! Which run of the machine this is: what was noted in another one says nothing about the kernel's state in this.
//!
//! Deliberately not here: what is noted.

use std::{fs, io};

/// Where the kernel tells it.
pub(crate) const PATH: &str = "/proc/sys/kernel/random/boot_id";

/// The kernel's name for this run of the machine, a UUID in text that is drawn at each boot.
///
/// # Errors
/// `/proc` cannot be read.
pub fn boot_id() -> io::Result<String> {
    fs::read_to_string(PATH).map(|id| id.trim().to_owned())
}
