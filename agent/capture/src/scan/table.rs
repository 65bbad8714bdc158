//! The digests of what one commit holds of a disk, in a file that survives restarts.
//!
//! A table is believed only if it names exactly the commit that is the head now, and every part of it only if its
//! checksums say so. Losing one costs a comparison with the vault, believing a wrong one would cost writes. Deliberately
//! not here: making one (`next`).

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use mobility_format::{BlockIndex, Digest, DiskId, WINDOW_BLOCKS};

use super::{
    Expected,
    layout::{HEADER_LEN, Header, Layout, digests_in},
};
use crate::disk::Disk;

/// Why there is no table to be believed. Whatever the reason, what to do is the same: compare the whole disk with the
/// vault's digests, and make a new table on the way.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unusable {
    /// There is none.
    #[error("there is no digest table at {}", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// It is a table, of what another commit holds.
    #[error("the digest table {} describes the commit {found}, not {wanted}", path.display())]
    OtherHead {
        /// The table's file.
        path: PathBuf,
        /// The commit that it describes.
        found: Digest,
        /// The commit that is the head.
        wanted: Digest,
    },
    /// It is a table, of another disk.
    #[error("the digest table {} describes the disk {found}, not {wanted}", path.display())]
    OtherDisk {
        /// The table's file.
        path: PathBuf,
        /// The disk that it describes.
        found: DiskId,
        /// The disk that was asked for.
        wanted: DiskId,
    },
    /// It is a table of this disk when it was longer.
    #[error("the digest table {} describes the disk when it was longer", path.display())]
    LongerDisk {
        /// The table's file.
        path: PathBuf,
    },
    /// It is no table, or a damaged one.
    #[error("the digest table {} is damaged: {what}", path.display())]
    Damaged {
        /// The table's file.
        path: PathBuf,
        /// What does not fit.
        what: &'static str,
    },
    /// It could not be read, or not be moved to its place.
    #[error("the digest table {} could not be read: {source}", path.display())]
    Io {
        /// The table's file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What one commit holds of a disk, block by block.
#[derive(Debug)]
pub struct DigestTable {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) header: Header,
    pub(super) layout: Layout,
}

impl DigestTable {
    /// Opens the table at `path` if it describes what the commit `head` holds of `disk`; also one that was sealed for
    /// `head` and not yet adopted when the agent was killed, which is adopted now.
    ///
    /// A table of the disk when it was shorter is good: what was added since holds zeros as far as any commit knows.
    ///
    /// # Errors
    ///
    /// [`Unusable`] says why there is none; none of its kinds is a reason to stop.
    pub fn open(path: &Path, disk: &Disk, head: Digest) -> Result<DigestTable, Unusable> {
        let first = match Self::open_one(path, disk, head) {
            Err(first) => first,
            found => return found,
        };
        let sealed = next_path(path);
        let Ok(mut found) = Self::open_one(&sealed, disk, head) else { return Err(first) };
        move_into_place(&sealed, path).map_err(|source| Unusable::Io { path: sealed, source })?;
        found.path = path.to_owned();
        Ok(found)
    }

    fn open_one(path: &Path, disk: &Disk, head: Digest) -> Result<DigestTable, Unusable> {
        let io = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => Unusable::Missing { path: path.to_owned() },
            _ => Unusable::Io { path: path.to_owned(), source },
        };
        let damaged = |what| Unusable::Damaged { path: path.to_owned(), what };
        let file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        if len < HEADER_LEN as u64 {
            return Err(damaged("it is shorter than its header"));
        }
        let mut bytes = [0; HEADER_LEN];
        file.read_exact_at(&mut bytes, 0).map_err(io)?;
        let header = Header::decode(&bytes).map_err(damaged)?;
        let path = path.to_owned();
        if header.disk != disk.id {
            return Err(Unusable::OtherDisk { path, found: header.disk, wanted: disk.id });
        }
        if header.head != head {
            return Err(Unusable::OtherHead { path, found: header.head, wanted: head });
        }
        if header.size > disk.size {
            return Err(Unusable::LongerDisk { path });
        }
        let layout = Layout::for_disk(header.size);
        if len != layout.file_len() {
            return Err(damaged("its length is not what its header says"));
        }
        if layout.root(&file).map_err(io)? != header.root {
            return Err(damaged("the sums of its pages do not match its header"));
        }
        Ok(DigestTable { file, path, header, layout })
    }

    /// The commit that it describes.
    #[must_use]
    pub fn head(&self) -> Digest {
        self.header.head
    }

    /// What the commit holds in the window that begins at block `window`; [`Expected::Unknown`] where the table is
    /// damaged, and [`Expected::Zero`] past the end of what it describes.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn window(&self, window: BlockIndex) -> io::Result<Expected> {
        let number = window.0 / WINDOW_BLOCKS;
        if number >= self.layout.windows() {
            return Ok(Expected::Zero);
        }
        let page = self.layout.read_page(&self.file, number)?;
        Ok(page.map_or(Expected::Unknown, |page| digests_in(&page)))
    }
}

/// Where the table that will follow the one at `path` is made.
pub(super) fn next_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".next");
    PathBuf::from(name)
}

/// Renames, and waits until a power cut cannot undo it.
pub(super) fn move_into_place(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}
