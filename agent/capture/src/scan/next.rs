//! The table that will describe the next commit, while it is being made.
//!
//! It starts as a copy of what the head holds, and takes the digests of what is sent: a block that is not sent stays as
//! the head has it, so the table is right whichever blocks make it into the commit. The order of steps keeps it so
//! through a crash at any of them:
//!
//! 1. The copy is made beside the table of the head, without a header, so nobody believes it.
//! 2. [`NextTable::seal`], once the commit is made and its digest known, before it is sent: pages, then the header, both
//!    durable.
//! 3. The commit is sent. From here on [`DigestTable::open`] finds a table for whichever commit turns out to be the head.
//! 4. [`SealedTable::adopt`], once the commit is durable: the new table takes the place of the old.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use mobility_format::{BlockDigest, BlockIndex, BlockRange, ByteCount, Digest, DiskId, WINDOW_BLOCKS};
use rustix::{
    fs::{SeekFrom, copy_file_range, seek},
    io::Errno,
};

use super::{
    DigestTable, Expected,
    layout::{Header, Layout, PAGE_LEN, Page, SUM_LEN, UNKNOWN_PAGE, digests_in, stored},
    table::{move_into_place, next_path},
};
use crate::disk::Disk;

/// A table under construction. Its file goes away with it unless it is sealed.
#[derive(Debug)]
pub struct NextTable {
    file: File,
    path: PathBuf,
    disk: DiskId,
    size: ByteCount,
    layout: Layout,
    /// The page written to last; records come in order, so most meet the page that is here already.
    cached: Option<CachedPage>,
    /// The part of the sums looked at last: whether a page is zeros is known without reading it, which is what makes a
    /// scan of a mostly empty disk quick.
    sums: Option<(u64, Box<Page>)>,
    sealed: bool,
}

#[derive(Debug)]
struct CachedPage {
    window: u64,
    page: Box<Page>,
    changed: bool,
}

impl NextTable {
    /// Begins the table that will follow `base`, or the first one of a generation, which describes a disk of zeros.
    /// `path` is the same that the table is opened by; what was begun there earlier is removed.
    ///
    /// Takes 16 bytes on disk for each block that was ever not zero, and as long as copying that much.
    ///
    /// # Errors
    ///
    /// What the system said, for instance that there is no space.
    pub fn create(path: &Path, disk: &Disk, base: Option<&DigestTable>) -> io::Result<NextTable> {
        let next = next_path(path);
        match fs::remove_file(&next) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(source),
            _ => {}
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&next)?;
        let layout = Layout::for_disk(disk.size);
        let (path, disk, size) = (path.to_owned(), disk.id, disk.size);
        let table = NextTable { file, path, disk, size, layout, cached: None, sums: None, sealed: false };
        table.file.set_len(layout.file_len())?;
        if let Some(base) = base {
            let pages = base.layout.windows().min(layout.windows()) * PAGE_LEN as u64;
            let sums = base.layout.sums_len().min(layout.sums_len());
            copy_data(&base.file, Layout::sums_at(), &table.file, Layout::sums_at(), sums)?;
            copy_data(&base.file, base.layout.page_at(0), &table.file, layout.page_at(0), pages)?;
        }
        Ok(table)
    }

    /// What the table says now of the window that begins at block `window`; [`Expected::Unknown`] where it is damaged.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn window(&mut self, window: BlockIndex) -> io::Result<Expected> {
        let number = window.0 / WINDOW_BLOCKS;
        if number >= self.layout.windows() {
            return Ok(Expected::Zero);
        }
        if let Some(cached) = self.cached.as_ref().filter(|cached| cached.window == number) {
            return Ok(digests_in(&cached.page));
        }
        if self.is_zeros(number)? {
            return Ok(Expected::Zero);
        }
        let page = self.layout.read_page(&self.file, number)?;
        Ok(page.map_or(Expected::Unknown, |page| digests_in(&page)))
    }

    fn is_zeros(&mut self, window: u64) -> io::Result<bool> {
        let at = Layout::sum_at(window) - Layout::sums_at();
        let (part, within) = (at / PAGE_LEN as u64, (at % PAGE_LEN as u64) as usize);
        if self.sums.as_ref().is_none_or(|(loaded, _)| *loaded != part) {
            let mut sums = Box::new([0; PAGE_LEN]);
            self.file.read_exact_at(&mut *sums, Layout::sums_at() + part * PAGE_LEN as u64)?;
            self.sums = Some((part, sums));
        }
        Ok(self.sums.as_ref().is_some_and(|(_, sums)| sums[within..within + SUM_LEN] == [0; SUM_LEN]))
    }

    /// Notes that the commit will hold blocks with `digests` from block `first` on: the digests of what was sent, not of
    /// what a scan saw. A later record wins over an earlier one.
    ///
    /// # Errors
    ///
    /// What the system said, or that a block lies past the end of the disk. The table must then not be sealed: begin
    /// it again.
    pub fn record(&mut self, first: BlockIndex, digests: &[BlockDigest]) -> io::Result<()> {
        let range = BlockRange { start: first, count: digests.len() as u64 };
        if range.end().0 > self.size.blocks() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a block past the end of the disk"));
        }
        for (block, digest) in (first.0..).zip(digests) {
            let entry = (block % WINDOW_BLOCKS) as usize * BlockDigest::LEN;
            let cached = self.load(block / WINDOW_BLOCKS)?;
            cached.page[entry..entry + BlockDigest::LEN].copy_from_slice(&stored(*digest));
            cached.changed = true;
        }
        Ok(())
    }

    fn load(&mut self, window: u64) -> io::Result<&mut CachedPage> {
        if self.cached.as_ref().is_none_or(|cached| cached.window != window) {
            self.flush()?;
            let page = self.layout.read_page(&self.file, window)?.unwrap_or(UNKNOWN_PAGE);
            self.cached = Some(CachedPage { window, page: Box::new(page), changed: false });
        }
        self.cached.as_mut().ok_or_else(|| io::Error::other("a page that was just loaded"))
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(cached) = self.cached.as_mut().filter(|cached| cached.changed) {
            self.layout.write_page(&self.file, cached.window, &cached.page)?;
            cached.changed = false;
            self.sums = None;
        }
        Ok(())
    }

    /// Finishes the table as that of the commit `head`, durably, before that commit is sent.
    ///
    /// # Errors
    ///
    /// What the system said; the table is lost then, the one of the head is not.
    pub fn seal(mut self, head: Digest) -> io::Result<SealedTable> {
        self.flush()?;
        // The header is the promise that everything else is there, so everything else goes first.
        self.file.sync_data()?;
        let header = Header { disk: self.disk, size: self.size, head, root: self.layout.root(&self.file)? };
        self.file.write_all_at(&header.encode(), 0)?;
        self.file.sync_all()?;
        let (file, path, layout) = (self.file.try_clone()?, self.path.clone(), self.layout);
        self.sealed = true;
        Ok(SealedTable { table: DigestTable { file, path, header, layout } })
    }
}

impl Drop for NextTable {
    fn drop(&mut self) {
        let next = next_path(&self.path);
        let identity = |meta: fs::Metadata| (meta.dev(), meta.ino());
        // By the time an abandoned table is dropped its successor may have taken the name.
        let is_mine = self.file.metadata().ok().map(identity) == fs::metadata(&next).ok().map(identity);
        if !self.sealed && is_mine {
            // A file that stays behind is only waste: it has no header, so nobody believes it.
            let _ = fs::remove_file(next);
        }
    }
}

/// A finished table, waiting for its commit to be durable. Dropped as it is, it stays where it is, to be found by
/// [`DigestTable::open`] if its commit is the head, and to be removed by the next [`NextTable::create`] if not; so
/// create none before it is known what became of the commit.
#[derive(Debug)]
#[must_use]
pub struct SealedTable {
    table: DigestTable,
}

impl SealedTable {
    /// The commit that it describes.
    #[must_use]
    pub fn head(&self) -> Digest {
        self.table.head()
    }

    /// Puts the table in the place of the one before, durably. Only once the commit that it names is durable.
    ///
    /// # Errors
    ///
    /// What the system said; [`DigestTable::open`] tries again.
    pub fn adopt(self) -> io::Result<DigestTable> {
        move_into_place(&next_path(&self.table.path), &self.table.path)?;
        Ok(self.table)
    }
}

/// Copies `len` bytes, leaving out holes: what is a hole in `from` is one in `to` already.
fn copy_data(from: &File, from_at: u64, to: &File, to_at: u64, len: u64) -> io::Result<()> {
    let mut done = 0;
    while done < len {
        let start = match seek(from, SeekFrom::Data(from_at + done)) {
            Ok(start) => (start - from_at).min(len),
            Err(Errno::NXIO) => len,
            Err(_) => done,
        };
        if start == len {
            break;
        }
        let end = match seek(from, SeekFrom::Hole(from_at + start)) {
            Ok(end) if end > from_at + start => (end - from_at).min(len),
            _ => len,
        };
        copy_run(from, from_at + start, to, to_at + start, end - start)?;
        done = end;
    }
    Ok(())
}

/// By the file system itself where it can, which on some shares the space, else through memory.
fn copy_run(from: &File, mut from_at: u64, to: &File, mut to_at: u64, mut len: u64) -> io::Result<()> {
    let mut buf = Vec::new();
    while len > 0 {
        let part = len.min(1 << 20) as usize;
        let copied = match buf.is_empty() {
            true => copy_file_range(from, Some(&mut from_at), to, Some(&mut to_at), part).unwrap_or(0),
            false => 0,
        };
        if copied > 0 {
            len -= copied as u64;
            continue;
        }
        buf.resize(part, 0);
        from.read_exact_at(&mut buf, from_at)?;
        to.write_all_at(&buf, to_at)?;
        (from_at, to_at, len) = (from_at + part as u64, to_at + part as u64, len - part as u64);
    }
    Ok(())
}
