//! Disks, direct reads and scans on real block devices: what plain files cannot show.
//!
//! Every test makes loop devices of its own over files of its own and takes them down again.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, symlink},
    path::{Path, PathBuf},
};

use mobility_capture::{
    direct::{AlignedBuf, DirectReader, ReadErrorKind},
    disk::{Disk, DiskChange, DiskError, check_set, check_vault},
    scan::{DigestTable, Expected, NextTable, Scan, block_digests},
};
use mobility_format::{BLOCK_SIZE, BlockRange, BlockSet, ByteCount, Digest};
use mobility_tests::scratch::{MIB, root_with, run, try_run};

/// A loop device over a file.
struct Loop {
    device: PathBuf,
    file: PathBuf,
}

impl Loop {
    fn over(file: PathBuf, size: u64, options: &[&str]) -> Loop {
        let image = OpenOptions::new().create(true).truncate(false).write(true).open(&file).unwrap();
        image.set_len(size).unwrap();
        let mut arguments = vec!["--find", "--show"];
        arguments.extend(options);
        arguments.push(file.to_str().unwrap());
        Loop { device: run("losetup", &arguments).into(), file }
    }

    fn device(&self) -> &str {
        self.device.to_str().unwrap()
    }

    fn disk(&self) -> Disk {
        Disk::inspect(&self.device).unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = try_run("losetup", &["--detach", self.device()]);
    }
}

/// A mounted file system.
struct Mounted(PathBuf);

impl Mounted {
    fn at(point: PathBuf, device: &Loop, kind: &str) -> Mounted {
        run(&format!("mkfs.{kind}"), &["-q", device.device()]);
        Mounted::as_it_is(point, device)
    }

    fn as_it_is(point: PathBuf, device: &Loop) -> Mounted {
        fs::create_dir_all(&point).unwrap();
        run("mount", &[device.device(), point.to_str().unwrap()]);
        Mounted(point)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = try_run("umount", &[self.0.to_str().unwrap()]);
    }
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn root_a_loop_device_is_known_by_the_file_behind_it() {
    let Some(()) = root_with(&[]) else { return };
    let dir = scratch();
    let made = Loop::over(dir.path().join("a.img"), 64 * MIB + 512, &["--sector-size", "512"]);
    let link = dir.path().join("by-id");
    symlink(&made.device, &link).unwrap();
    let disk = Disk::inspect(&link).unwrap();
    assert_eq!(disk.size, ByteCount(64 * MIB + 512));
    assert_eq!(disk.sector_size, 512);
    assert_eq!((&disk.given, &disk.path), (&link, &made.device));
    assert_eq!(disk.identity, format!("loop:{}", made.file.canonicalize().unwrap().display()));
    assert_eq!(disk.untrackable, None);
    assert_eq!(disk.size.0.to_string(), run("lsblk", &["-bdno", "SIZE", made.device()]));
    assert_eq!(disk.id, made.disk().id);

    let large = Loop::over(dir.path().join("b.img"), 64 * MIB, &["--sector-size", "4096"]);
    assert_eq!(large.disk().sector_size, 4096);
    assert_ne!(large.disk().id, disk.id);
    check_set(&[disk, large.disk()]).unwrap();
}

#[test]
fn root_what_becomes_of_a_device_is_noticed() {
    let Some(()) = root_with(&[]) else { return };
    let dir = scratch();
    let made = Loop::over(dir.path().join("a.img"), 64 * MIB, &[]);
    let disk = made.disk();
    assert_eq!(disk.revalidate(), DiskChange::Same);
    for (size, change) in [
        (96 * MIB, DiskChange::Grown { new_size: ByteCount(96 * MIB) }),
        (32 * MIB, DiskChange::Shrunk { new_size: ByteCount(32 * MIB) }),
    ] {
        OpenOptions::new().write(true).open(&made.file).unwrap().set_len(size).unwrap();
        run("losetup", &["--set-capacity", made.device()]);
        assert_eq!(disk.revalidate(), change);
    }
    // Somebody else may take the device at once, so "gone" may already be "replaced".
    run("losetup", &["--detach", made.device()]);
    assert!(matches!(disk.revalidate(), DiskChange::Gone | DiskChange::Replaced));
    if try_run("losetup", &[made.device(), made.file.to_str().unwrap()]).is_ok() {
        assert_eq!(
            disk.revalidate(),
            DiskChange::Replaced,
            "it was away, so what was written meanwhile is unknown"
        );
    }
}

#[test]
fn root_what_cannot_be_protected_is_refused() {
    let Some(()) = root_with(&[]) else { return };
    let dir = scratch();
    let read_only = Loop::over(dir.path().join("ro.img"), MIB, &["--read-only"]);
    assert!(matches!(Disk::inspect(&read_only.device), Err(DiskError::ReadOnly { .. })));

    let made = Loop::over(dir.path().join("a.img"), 4 * MIB, &[]);
    let file = Disk::inspect(&made.file).unwrap();
    for set in [[made.disk(), file.clone()], [file, made.disk()]] {
        assert!(matches!(check_set(&set), Err(DiskError::LoopAndBacking { .. })));
    }
    assert!(matches!(check_set(&[made.disk(), made.disk()]), Err(DiskError::Twice { .. })));

    let second = Loop::over(made.file.clone(), 4 * MIB, &[]);
    assert!(matches!(check_set(&[made.disk(), second.disk()]), Err(DiskError::SameIdentity { .. })));
}

#[test]
fn root_partitions_belong_to_their_disk() {
    let Some(()) = root_with(&[]) else { return };
    let dir = scratch();
    let made = Loop::over(dir.path().join("a.img"), 8 * MIB, &["--partscan"]);
    // Told to the kernel rather than written to the disk: not every kernel reads partition tables.
    for (number, start, count) in [("2", "6144", "2048"), ("1", "2048", "4096")] {
        run("addpart", &[made.device(), number, start, count]);
    }
    let disk = made.disk();
    let found: Vec<_> =
        disk.partitions.iter().map(|p| (p.name.clone(), p.start.0 / MIB, p.size.0 / MIB)).collect();
    assert_eq!(found, [(format!("{}p1", disk.name), 1, 2), (format!("{}p2", disk.name), 3, 1)]);

    let partition = format!("{}p1", made.device());
    let error = Disk::inspect(Path::new(&partition)).unwrap_err();
    assert!(matches!(&error, DiskError::Partition { whole, .. } if *whole == made.device), "{error}");

    // A file system on a partition is one of the disk's, and no place for the disk's vault.
    let point = dir.path().join("mounted");
    run("mkfs.ext4", &["-q", &partition]);
    fs::create_dir(&point).unwrap();
    run("mount", &[&partition, point.to_str().unwrap()]);
    let _mounted = Mounted(point.clone());
    assert_eq!(made.disk().mounts.iter().map(|mount| &mount.point).collect::<Vec<_>>(), [&point]);
    assert!(matches!(check_vault(&disk, &point), Err(DiskError::HoldsVault { .. })));
}

#[test]
fn root_no_vault_on_the_disk_that_it_would_protect() {
    let Some(()) = root_with(&[]) else { return };
    let dir = scratch();
    let made = Loop::over(dir.path().join("outer.img"), 512 * MIB, &[]);
    for kind in ["ext4", "xfs", "btrfs"] {
        let outer = Mounted::at(dir.path().join(format!("outer with space {kind}")), &made, kind);
        let disk = made.disk();
        let mount = disk.mounts.iter().find(|mount| mount.point == outer.0).expect("the mount is found");
        assert_eq!(mount.kind, kind);
        let refused =
            |disk: &Disk, vault: &Path| matches!(check_vault(disk, vault), Err(DiskError::HoldsVault { .. }));
        assert!(refused(&disk, &outer.0), "{kind}");
        assert!(refused(&disk, &outer.0.join("to/be/made")), "{kind}");
        assert!(!refused(&disk, dir.path()), "the file behind the device lies there, the device does not");
        if kind == "btrfs" {
            let subvolume = outer.0.join("subvolume");
            run("btrfs", &["-q", "subvolume", "create", subvolume.to_str().unwrap()]);
            assert!(refused(&disk, &subvolume));
        }

        // A file system in a file on the disk ends up on the disk all the same.
        let inner_device = Loop::over(outer.0.join("inner.img"), 300 * MIB, &[]);
        let inner = Mounted::at(dir.path().join(format!("inner-{kind}")), &inner_device, "ext4");
        assert!(refused(&disk, &inner.0), "{kind}");
        assert!(refused(&Disk::inspect(&inner_device.file).unwrap(), &inner.0), "the file's own content");
        assert!(!refused(&Disk::inspect(&inner_device.file).unwrap(), &outer.0), "the file only lies there");
        drop(inner);
        drop(inner_device);
        drop(outer);
        File::options().write(true).open(&made.device).unwrap().write_all_at(&[0; 1 << 17], 0).unwrap();
    }
}

/// Where on the device `needle` is, found by reading all of it through the page cache.
fn find_buffered(device: &File, size: u64, needle: &[u8]) -> u64 {
    let mut buf = vec![0; MIB as usize];
    for offset in (0..size).step_by(MIB as usize) {
        device.read_exact_at(&mut buf, offset).unwrap();
        if let Some(block) = buf.chunks(BLOCK_SIZE).position(|block| block == needle) {
            return offset + (block * BLOCK_SIZE) as u64;
        }
    }
    panic!("the file's content is nowhere on the device");
}

#[test]
fn root_a_direct_read_is_right_where_a_buffered_one_is_stale() {
    let Some(()) = root_with(&[]) else { return };
    let dir = scratch();
    let made = Loop::over(dir.path().join("a.img"), 64 * MIB, &[]);
    // Small file systems get smaller blocks unless told otherwise.
    run("mkfs.ext4", &["-q", "-b", "4096", made.device()]);
    let mounted = Mounted::as_it_is(dir.path().join("mounted"), &made);
    let (old, new) = ([0xa5; BLOCK_SIZE], [0x5b; BLOCK_SIZE]);
    let file = File::options().create_new(true).write(true).open(mounted.0.join("file")).unwrap();
    file.write_all_at(&old, 0).unwrap();
    file.sync_all().unwrap();

    let disk = made.disk();
    let buffered = File::open(&made.device).unwrap();
    let offset = find_buffered(&buffered, disk.size.0, &old);
    file.write_all_at(&new, 0).unwrap();
    file.sync_all().unwrap();

    let mut stale = vec![0; BLOCK_SIZE];
    buffered.read_exact_at(&mut stale, offset).unwrap();
    assert_eq!(stale, old, "the page cache hides the write; otherwise this test shows nothing");
    let reader = DirectReader::open(&disk).unwrap();
    assert!(reader.is_direct());
    let mut buf = AlignedBuf::for_window();
    reader.read(BlockRange::new(offset / BLOCK_SIZE as u64, 1), &mut buf).unwrap();
    assert_eq!(*buf, new);
}

#[test]
fn root_a_device_that_ends_within_a_block_is_read_to_its_last_sector() {
    let Some(()) = root_with(&[]) else { return };
    let dir = scratch();
    let made = Loop::over(dir.path().join("a.img"), MIB + 3 * 512, &["--sector-size", "512"]);
    File::options().write(true).open(&made.file).unwrap().write_all_at(&[7; 3 * 512], MIB).unwrap();
    let reader = DirectReader::open(&made.disk()).unwrap();
    let mut buf = AlignedBuf::for_window();
    reader.read(BlockRange::new(256, 1), &mut buf).unwrap();
    assert_eq!((&buf[..3 * 512], &buf[3 * 512..]), (&[7; 3 * 512][..], &[0; BLOCK_SIZE - 3 * 512][..]));
}

#[test]
fn root_blocks_that_cannot_be_read_are_named_and_the_rest_is_read() {
    let Some(()) = root_with(&[]) else { return };
    let dir = scratch();
    let made = Loop::over(dir.path().join("a.img"), 2 * MIB, &[]);
    let image = OpenOptions::new().write(true).open(&made.file).unwrap();
    image.write_all_at(&[3; 2 << 20], 0).unwrap();
    // The device fails every read of what its file no longer holds.
    image.set_len(300 * BLOCK_SIZE as u64).unwrap();

    let disk = made.disk();
    assert_eq!(disk.size, ByteCount(2 * MIB));
    let reader = DirectReader::open(&disk).unwrap();
    let mut buf = AlignedBuf::for_window();
    let error = reader.read(BlockRange::new(256, 256), &mut buf).unwrap_err();
    assert_eq!(error.kind, ReadErrorKind::Unreadable);
    assert_eq!(error.blocks, BlockSet::of(BlockRange::new(300, 212)));
    assert!(buf[..44 * BLOCK_SIZE].iter().all(|&byte| byte == 3));

    let outcome = Scan::new(&reader)
        .compare(BlockRange::new(0, 512), &BlockSet::new(), |_| Ok::<_, io::Error>(Expected::Zero))
        .unwrap();
    assert_eq!(outcome.differing, BlockSet::of(BlockRange::new(0, 300)));
    assert_eq!(outcome.unreadable, error.blocks, "what could not be read is neither the same nor different");
    assert_eq!(outcome.compared, 300);
}

#[test]
fn root_a_scan_finds_what_a_mounted_file_system_wrote() {
    let Some(()) = root_with(&[]) else { return };
    let dir = scratch();
    let made = Loop::over(dir.path().join("a.img"), 64 * MIB, &[]);
    let mounted = Mounted::at(dir.path().join("mounted"), &made, "ext4");
    let table_path = dir.path().join("digests");
    let (disk, mut base, mut copy) = (made.disk(), None::<DigestTable>, vec![0; 64 << 20]);
    let reader = DirectReader::open(&disk).unwrap();
    for round in 1..=5u8 {
        let file =
            File::options().create(true).truncate(false).write(true).open(mounted.0.join("file")).unwrap();
        for i in 0..40 {
            file.write_all_at(&vec![round; 5000], (i * 7919 * u64::from(round)) % (20 * MIB)).unwrap();
        }
        rustix::fs::syncfs(&file).unwrap();
        let mut next = NextTable::create(&table_path, &disk, base.as_ref()).unwrap();
        let mut passes = 0;
        loop {
            let differing = Scan::new(&reader).against(&mut next).unwrap().differing;
            if differing.is_empty() {
                break;
            }
            passes += 1;
            assert!(passes < 20, "nobody writes, so the disk settles");
            let mut buf = AlignedBuf::for_window();
            for range in mobility_capture::direct::read_plan(&differing) {
                reader.read(range, &mut buf).unwrap();
                next.record(range.start, &block_digests(&buf).collect::<Vec<_>>()).unwrap();
                copy[range.start.byte_offset() as usize..][..buf.len()].copy_from_slice(&buf);
            }
        }
        // What a scan confirmed is what the device holds, byte for byte.
        let mut buf = AlignedBuf::new(64 << 20);
        reader.read(BlockRange::whole_disk(disk.size), &mut buf).unwrap();
        assert!(*buf == copy, "round {round}");
        base = Some(next.seal(Digest([round; 32])).unwrap().adopt().unwrap());
    }
}
