//! Where a disk is restored to, and in which format.
//!
//! Deliberately not here: writing to it.

use std::{fmt, path::PathBuf, str::FromStr};

/// How a disk's content is laid out in an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// As it is, byte for byte.
    #[default]
    Raw,
    /// QEMU's, version 3, without a backing file.
    Qcow2,
    /// A fixed VHD, as Azure takes it: the content, zeros up to a whole MiB, a footer of 512 bytes.
    Vhd,
}

impl Format {
    /// All there are.
    pub const ALL: [Format; 3] = [Format::Raw, Format::Qcow2, Format::Vhd];

    /// What people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Vhd => "vhd",
        }
    }

    /// What the names of its files end with.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Format::Raw => "img",
            Format::Qcow2 => "qcow2",
            Format::Vhd => "vhd",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Format, String> {
        let names = || Format::ALL.map(Format::name).join(", ");
        let found = Format::ALL.into_iter().find(|format| format.name() == text);
        found.ok_or_else(|| format!("there is no format '{text}': choose one of {}", names()))
    }
}

/// Where one disk goes.
#[derive(Clone, Debug)]
pub enum Destination {
    /// An image file, which appears under its name complete and synced, or not at all.
    Image {
        /// Its name. Directories above it are made.
        path: PathBuf,
        /// Its format.
        format: Format,
        /// Whether a file of that name may be replaced.
        replace: bool,
    },
    /// A block device that nothing else uses. What lies behind the image's end stays as it is.
    Device {
        /// The device.
        path: PathBuf,
        /// Its format: raw, or a fixed VHD.
        format: Format,
    },
    /// A page blob in Azure Blob Storage, as a fixed VHD.
    #[cfg(feature = "service")]
    PageBlob {
        /// The blob.
        blob: super::PageBlob,
        /// Whether to fill one that is there and has the right size, such as that behind a managed disk that waits for its
        /// upload.
        replace: bool,
    },
    /// One object in an object store.
    #[cfg(feature = "service")]
    Object {
        /// The object.
        object: super::ObjectImage,
        /// Its format: raw, or a fixed VHD.
        format: Format,
        /// Whether an object of that name may be replaced.
        replace: bool,
    },
}

impl Destination {
    /// What people call it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self {
            Destination::Image { path, .. } | Destination::Device { path, .. } => path.clone(),
            #[cfg(feature = "service")]
            Destination::PageBlob { blob, .. } => blob.path(),
            #[cfg(feature = "service")]
            Destination::Object { object, .. } => object.path(),
        }
    }

    /// In which format.
    #[must_use]
    pub fn format(&self) -> Format {
        match self {
            Destination::Image { format, .. } | Destination::Device { format, .. } => *format,
            #[cfg(feature = "service")]
            Destination::PageBlob { .. } => Format::Vhd,
            #[cfg(feature = "service")]
            Destination::Object { format, .. } => *format,
        }
    }
}
