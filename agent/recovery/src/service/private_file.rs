//! Files with secrets in them: readable by their owner alone from the first byte on, and there as a whole or not at all.
//!
//! Deliberately not here: what is in them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// Creates `path`; where it is there already nothing happens to it.
pub(crate) fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    let unfinished = write_beside(path, content)?;
    let linked = fs::hard_link(&unfinished, path);
    fs::remove_file(&unfinished)?;
    match linked {
        Err(err) if err.kind() != io::ErrorKind::AlreadyExists => Err(err),
        _ => sync_directory(path),
    }
}

/// Puts `content` in place of whatever is at `path`.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let unfinished = write_beside(path, content)?;
    fs::rename(&unfinished, path)?;
    sync_directory(path)
}

/// Makes a directory that only its owner can look into.
pub(crate) fn directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

fn write_beside(path: &Path, content: &[u8]) -> io::Result<std::path::PathBuf> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".unfinished-{}", std::process::id()));
    let unfinished = path.with_file_name(name);
    match fs::remove_file(&unfinished) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(content)?;
    file.sync_all()?;
    Ok(unfinished)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_file_is_private_and_is_not_created_over_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        create(&path, b"one").unwrap();
        create(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        replace(&path, b"three").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
