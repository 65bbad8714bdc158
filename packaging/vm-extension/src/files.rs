//! Files that others read while we write them, and files that others write while we read them.
//!
//! A file is replaced whole or not at all, and what is read is never longer than it may be. Deliberately not here: what any file
//! holds.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Replaces the file at `path`. Only its owner may read it if `private`.
pub(crate) fn replace(path: &Path, content: &[u8], private: bool) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    // Always the same, so that a run that was killed leaves nothing that the next does not use up. Writers hold a lock.
    name.push(".new");
    let unfinished = path.with_file_name(name);
    remove(&unfinished)?;
    let mode = if private { 0o600 } else { 0o644 };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&unfinished)?;
    file.write_all(content)?;
    file.sync_data()?;
    fs::rename(unfinished, path)
}

/// Removes a file that may not be there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path).or_else(|err| match err.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(err),
    })
}

/// Reads a file, which has at most `longest` bytes and must not be longer. Marks of byte order are left out.
pub(crate) fn read(path: &Path, longest: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(longest + 1).read_to_end(&mut content)?;
    if content.len() as u64 > longest {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is longer than {longest} bytes")));
    }
    match content.strip_prefix(b"\xef\xbb\xbf") {
        Some(rest) => Ok(rest.to_owned()),
        None => Ok(content),
    }
}

/// Where `path`, which is absolute, is below `root`.
pub(crate) fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_also_after_a_try_that_was_cut_short() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.status");
        fs::write(dir.path().join("0.status.new"), "half").unwrap();
        for content in ["one", "two"] {
            replace(&path, content.as_bytes(), true).unwrap();
            assert_eq!(read(&path, 3).unwrap(), content.as_bytes());
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(read(&path, 2).is_err(), "too long");
        fs::write(&path, "\u{feff}x").unwrap();
        assert_eq!(read(&path, 4).unwrap(), b"x");
    }
}
