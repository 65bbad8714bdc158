//! What was written is compared with what the point says: one byte that changes between writing and reading back is found,
//! wherever it is, and named.

use std::{
    fs::{self, File, OpenOptions},
    ops::ControlFlow,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use mobility_format::{BlockRange, Epoch};
use mobility_recovery::{Destination, Format, Phase, RestoreError};
use mobility_tests::{
    scratch::{LoopDevice, Scratch, root_with},
    vault_maker::{Flavour, VaultMaker},
};

use crate::support::{files_in, image, restore, restore_watched, scratch};

const MIB: u64 = 1 << 20;

/// The image that this process is writing into `dir`, which has no name yet.
fn being_written(dir: &Path) -> File {
    let dir = dir.canonicalize().unwrap();
    let open: Vec<PathBuf> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|fd| fs::read_link(fd).is_ok_and(|file| file.starts_with(&dir)))
        .filter(|fd| fs::metadata(fd).is_ok_and(|meta| meta.is_file()))
        .collect();
    let fd = open.iter().find(|fd| fs::read_link(fd).unwrap().to_str().unwrap().contains('#'));
    OpenOptions::new().read(true).write(true).open(fd.expect("an image without a name")).unwrap()
}

fn flip(file: &File, at: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

fn vault(dir: &Path) -> (VaultMaker, Epoch) {
    let mut maker = VaultMaker::new(dir, 7401);
    maker.add_disk("/dev/vda", 20 * MIB + 512);
    maker.write(0, BlockRange::new(3, 700), Flavour::Noise);
    maker.write(0, BlockRange::new(9 * 256 + 5, 1), Flavour::Text);
    maker.write(0, BlockRange::new(20 * 256, 1), Flavour::Text);
    let epoch = maker.point();
    (maker, epoch)
}

/// Restores with `damage` done to the image before it is read back; returns what was found, and that nothing was left.
#[track_caller]
fn damaged(format: Format, damage: impl Fn(&File)) -> String {
    let (dir, out) = (scratch(), scratch());
    let (maker, epoch) = vault(&dir.path().join("vault"));
    let mut done = false;
    let to = image(&out.path().join("disk"), format);
    let result = restore_watched(&maker, 0, epoch, &to, |at| {
        if at.phase == Phase::Checking && !std::mem::replace(&mut done, true) {
            damage(&being_written(out.path()));
        }
        ControlFlow::Continue(())
    });
    assert!(done, "the image is read back");
    assert_eq!(files_in(out.path()), [] as [PathBuf; 0], "what is wrong does not get a name");
    match result {
        Err(RestoreError::Differs { differing, .. }) => differing.to_string(),
        other => panic!("{format}: {other:?}"),
    }
}

#[test]
fn a_damaged_byte_of_content_is_found_and_named() {
    for format in [Format::Raw, Format::Vhd] {
        assert_eq!(damaged(format, |file| flip(file, 2 * MIB + 77)), "MiB 2");
        assert_eq!(damaged(format, |file| flip(file, 20 * MIB + 511)), "MiB 20");
        // What should be a hole, and is not.
        assert_eq!(damaged(format, |file| flip(file, 15 * MIB)), "MiB 15");
        assert_eq!(
            damaged(format, |file| [0, MIB, 9 * MIB].iter().for_each(|at| flip(file, *at))),
            "MiB 0-1, 9"
        );
    }
    // Content begins behind header, table of the first level, and table of counts: a cluster each.
    assert_eq!(damaged(Format::Qcow2, |file| flip(file, (3 << 16) + MIB + 77)), "MiB 1");
}

#[test]
fn a_damaged_byte_beside_the_content_is_found_too() {
    for at in [0, 41, 84, 511] {
        assert_eq!(damaged(Format::Vhd, |file| flip(file, 21 * MIB + at)), "its footer");
    }
    let between = "what lies between the disk's end and the footer";
    assert_eq!(damaged(Format::Vhd, |file| flip(file, 20 * MIB + 512)), between);
    for (at, what) in [
        (0, "its header, at byte 0"),
        (103, "its header, at byte 0"),
        (1 << 16, "the table of the first level, at byte 65536"),
        (2 << 16, "the table of counts, at byte 131072"),
    ] {
        assert_eq!(damaged(Format::Qcow2, |file| flip(file, at)), what);
    }
    // From the end: the counts, and before them the one table of the second level.
    let from_end =
        |back: u64| move |file: &File| flip(file, file.metadata().unwrap().len() - back * 65_536 + 9);
    assert!(damaged(Format::Qcow2, from_end(1)).starts_with("a block of counts"));
    assert!(damaged(Format::Qcow2, from_end(2)).starts_with("a table of the second level"));
}

#[test]
fn content_that_is_gone_is_found() {
    for format in Format::ALL {
        let found = damaged(format, |file| file.set_len(4096).unwrap());
        assert!(!found.is_empty(), "{format}");
    }
}

/// Without reading back nothing is compared, and the result says so.
#[test]
fn what_was_not_read_back_is_not_called_verified() {
    let (dir, out) = (scratch(), scratch());
    let (maker, epoch) = vault(&dir.path().join("vault"));
    let catalog = mobility_recovery::Catalog::load_locked(&maker.vault, maker.machine).unwrap();
    let to = image(&out.path().join("disk"), Format::Raw);
    let restored = mobility_recovery::restore_disk(&catalog, epoch, maker.disks[0].id, &to, false, |at| {
        assert_eq!(at.phase, Phase::Copying);
        ControlFlow::Continue(())
    });
    assert!(!restored.unwrap().verified);
}

/// On a device, and a device that is found damaged starts nothing: its first MiB is zero.
#[test]
fn root_a_damaged_device_is_found_and_loses_its_beginning() {
    if root_with(&["losetup"]).is_none() {
        return;
    }
    let area = Scratch::new();
    let dir = scratch();
    let (maker, epoch) = vault(&dir.path().join("vault"));
    let device = LoopDevice::new(area.path("target"), 24 * MIB);
    let name = Path::new(device.name());
    for format in [Format::Raw, Format::Vhd] {
        let to = Destination::Device { path: name.to_owned(), format };
        restore(&maker, 0, epoch, &to).unwrap();
        let mut done = false;
        let result = restore_watched(&maker, 0, epoch, &to, |at| {
            if at.phase == Phase::Checking && !std::mem::replace(&mut done, true) {
                let file = OpenOptions::new().read(true).write(true).open(name).unwrap();
                flip(&file, 2 * MIB + 5);
            }
            ControlFlow::Continue(())
        });
        match result {
            Err(RestoreError::Differs { differing, .. }) => assert_eq!(differing.windows, [(2, 2)]),
            other => panic!("{other:?}"),
        }
        let mut beginning = vec![1; MIB as usize];
        File::open(name).unwrap().read_exact_at(&mut beginning, 0).unwrap();
        assert!(beginning.iter().all(|byte| *byte == 0));
    }
}
