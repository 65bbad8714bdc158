//! Disks that are plain files, and devices made of plain files; `tests/root` has real ones.

use std::{fs, os::unix::fs::symlink};

use super::*;

fn image(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, vec![1; 10_000]).unwrap();
    path
}

#[test]
fn an_image_file_is_itself_under_every_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path(), "a.img");
    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    let (disk, linked) = (Disk::inspect(&path).unwrap(), Disk::inspect(&link).unwrap());
    assert_eq!((disk.size, disk.name.as_str()), (ByteCount(10_000), "a.img"));
    assert_eq!(disk.identity, format!("file:{}", path.canonicalize().unwrap().display()));
    assert_eq!((&linked.given, &linked.path, linked.id), (&link, &disk.path, disk.id));
    assert!(disk.untrackable.is_some(), "a tracker would see no write to it");
}

#[test]
fn what_is_no_disk_is_refused_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty");
    fs::write(&empty, "").unwrap();
    assert!(matches!(Disk::inspect(&dir.path().join("none")), Err(DiskError::NotFound { .. })));
    assert!(matches!(Disk::inspect(&empty.join("below")), Err(DiskError::NotFound { .. })));
    assert!(matches!(Disk::inspect(dir.path()), Err(DiskError::NotADisk { what: "a directory", .. })));
    assert!(matches!(Disk::inspect(Path::new("/dev/null")), Err(DiskError::NotADisk { .. })));
    assert!(matches!(Disk::inspect(&empty), Err(DiskError::Empty { .. })));
}

#[test]
fn the_same_file_twice_is_refused_whatever_it_is_called() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (image(dir.path(), "a.img"), image(dir.path(), "b.img"));
    let (link, hard) = (dir.path().join("link"), dir.path().join("hard"));
    symlink(&a, &link).unwrap();
    fs::hard_link(&a, &hard).unwrap();
    let inspect = |path: &Path| Disk::inspect(path).unwrap();
    check_set(&[inspect(&a), inspect(&b)]).unwrap();
    for other in [&a, &link, &hard] {
        let error = check_set(&[inspect(&b), inspect(&a), inspect(other)]).unwrap_err();
        assert!(matches!(error, DiskError::Twice { .. }), "{error}");
        assert!(error.to_string().contains(&other.display().to_string()));
    }
}

#[test]
fn disks_that_cannot_be_told_apart_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = Disk::inspect(&image(dir.path(), "a.img")).unwrap();
    let mut clone = Disk::inspect(&image(dir.path(), "b.img")).unwrap();
    (clone.identity, clone.id) = (first.identity.clone(), first.id);
    assert!(matches!(check_set(&[first, clone]), Err(DiskError::SameIdentity { .. })));
}

#[test]
fn a_vault_beside_an_image_file_is_fine() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::inspect(&image(dir.path(), "a.img")).unwrap();
    check_vault(&disk, &dir.path().join("vault")).unwrap();
}

#[test]
fn what_becomes_of_an_image_file_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path(), "a.img");
    let disk = Disk::inspect(&path).unwrap();
    let set_len = |len| fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len).unwrap();
    assert_eq!(disk.revalidate(), DiskChange::Same);
    set_len(20_000);
    assert_eq!(disk.revalidate(), DiskChange::Grown { new_size: ByteCount(20_000) });
    set_len(9_999);
    assert_eq!(disk.revalidate(), DiskChange::Shrunk { new_size: ByteCount(9_999) });
    fs::rename(image(dir.path(), "other.img"), &path).unwrap();
    assert_eq!(disk.revalidate(), DiskChange::Replaced);
    fs::remove_file(&path).unwrap();
    assert_eq!(disk.revalidate(), DiskChange::Gone);
}

/// A device's directory made of plain files: `attributes` as path and text.
fn device(dir: &Path, name: &str, attributes: &[(&str, &str)]) -> SysBlock {
    for (attribute, text) in attributes {
        let path = dir.join(name).join(attribute);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    SysBlock::at(&dir.join(name)).unwrap()
}

fn stack(dir: &Path, lower: &str, upper: &str) {
    fs::create_dir_all(dir.join(lower).join("holders")).unwrap();
    fs::create_dir_all(dir.join(upper).join("slaves")).unwrap();
    let name = |path: &str| Path::new(path).file_name().unwrap().to_owned();
    symlink(dir.join(upper), dir.join(lower).join("holders").join(name(upper))).unwrap();
    symlink(dir.join(lower), dir.join(upper).join("slaves").join(name(lower))).unwrap();
}

#[test]
fn what_is_stacked_on_a_partition_is_found_from_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disk = device(dir.path(), "sda", &[("dev", "8:0\n"), ("size", "4096\n"), ("mq/0/cpu_list", "0")]);
    for (name, start) in [("sda/sda10", "4000"), ("sda/sda2", "1000"), ("sda/sda1", "8")] {
        device(dir.path(), name, &[("partition", "1\n"), ("start", start), ("size", "8"), ("dev", "8:1")]);
    }
    let lower = device(dir.path(), "dm-0", &[("dev", "253:0"), ("dm/uuid", "LVM-1")]);
    device(dir.path(), "dm-1", &[("dev", "253:1"), ("dm/uuid", "CRYPT-2"), ("mq/0/cpu_list", "0")]);
    stack(dir.path(), "sda/sda2", "dm-0");
    stack(dir.path(), "dm-0", "dm-1");

    let names = |blocks: Vec<SysBlock>| blocks.iter().map(SysBlock::name).collect::<Vec<_>>();
    assert_eq!(names(disk.partitions()), ["sda1", "sda2", "sda10"]);
    assert_eq!(names(disk.above()), ["dm-0", "dm-1"]);
    assert_eq!(names(lower.below()), ["sda2"]);
    assert_eq!(lower.below()[0].whole_disk().unwrap(), disk);
    assert_eq!((disk.size(), disk.whole_disk()), (Some(ByteCount(4096 * 512)), None));
    let partition = disk.partitions()[1].as_partition().unwrap();
    assert_eq!((partition.start, partition.size), (ByteCount(512_000), ByteCount(4096)));

    assert_eq!(disk.untrackable(), None);
    assert!(lower.untrackable().unwrap().contains("sda2"), "it says what to protect instead");
}

#[test]
fn devices_that_work_on_bios_are_not_left_to_the_tracker() {
    let dir = tempfile::tempdir().unwrap();
    for (name, attribute) in
        [("md0", "md/level"), ("zram0", "size"), ("nvme0n1", "size"), ("dm-3", "dm/name")]
    {
        let reason = device(dir.path(), name, &[(attribute, "1")]).untrackable().unwrap();
        assert!(reason.contains(name) && reason.contains("scan"), "{reason}");
    }
    assert_eq!(device(dir.path(), "nvme1n1", &[("mq/0/cpu_list", "0")]).untrackable(), None);
    assert_eq!(
        device(dir.path(), "cciss!c0d0", &[("size", "1")]).device_path(),
        Path::new("/dev/cciss/c0d0")
    );
}
