//! Every format of every awkward disk holds what the model held, by QEMU's own reading of it.

use std::{fs, path::Path};

use mobility_format::{BlockRange, Epoch};
use mobility_recovery::Format;
use mobility_tests::{
    scratch::long,
    vault_maker::{Dice, Flavour, VaultMaker},
};

use crate::support::{can_judge, image, qemu_img, qemu_name, restore, root_of, scratch};

const MIB: u64 = 1 << 20;

/// Restores a disk in every format and compares each with the model, by itself and by QEMU.
fn check(maker: &VaultMaker, disk: usize, epoch: Epoch, dir: &Path) {
    let expected = &maker.committed[&epoch].disks[disk].1;
    let (size, model) = (expected.len() as u64, dir.join("model"));
    fs::write(&model, expected).unwrap();
    let model = model.to_str().unwrap();
    for format in Format::ALL {
        let path = dir.join("disk").with_extension(format.extension());
        let what = format!("{format} of {size} bytes, epoch {epoch}");
        let restored = restore(maker, disk, epoch, &image(&path, format)).unwrap();
        assert!(restored.verified && restored.root == root_of(expected), "{what}");
        let (file, length) = (path.to_str().unwrap(), path.metadata().unwrap().len());
        match format {
            Format::Raw => assert!(fs::read(&path).unwrap() == *expected, "{what}"),
            Format::Vhd => {
                let content = size.div_ceil(MIB).max(1) * MIB;
                assert_eq!(length, content + 512, "{what}");
                let bytes = fs::read(&path).unwrap();
                assert!(bytes[..expected.len()] == *expected, "{what}");
                assert!(bytes[expected.len()..content as usize].iter().all(|byte| *byte == 0), "{what}");
            }
            Format::Qcow2 => {
                qemu_img(&["check", "-f", "qcow2", file]);
            }
        }
        let name = qemu_name(format);
        let info: serde_json::Value =
            serde_json::from_str(&qemu_img(&["info", "--output=json", "-f", name, file])).unwrap();
        let shown = match format {
            Format::Vhd => size.div_ceil(MIB).max(1) * MIB,
            _ => size.div_ceil(512) * 512,
        };
        assert_eq!(info["virtual-size"], shown, "{what}");
        qemu_img(&["compare", "-f", "raw", "-F", name, model, file]);
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn sizes_that_fit_nothing() {
    if !can_judge() {
        return;
    }
    let dir = scratch();
    let sizes =
        [1, 511, 512, 4096, 65_536, 65_537, MIB - 512, MIB, MIB + 512, 3 * MIB + 100_000, 7 * MIB + 1];
    let mut maker = VaultMaker::new(&dir.path().join("vault"), 7101);
    for (disk, size) in sizes.into_iter().enumerate() {
        maker.add_disk(&format!("/dev/{disk}"), size);
        let blocks = maker.disks[disk].blocks();
        maker.write(disk, BlockRange::new(blocks - 1, 1), Flavour::Noise);
        maker.write(disk, BlockRange::new(blocks / 3, 1), Flavour::Text);
    }
    let epoch = maker.point();
    for disk in 0..sizes.len() {
        check(&maker, disk, epoch, dir.path());
    }
}

#[test]
fn nothing_and_everything() {
    if !can_judge() {
        return;
    }
    let dir = scratch();
    let mut maker = VaultMaker::new(&dir.path().join("vault"), 7102);
    maker.add_disk("/dev/empty", 9 * MIB);
    maker.add_disk("/dev/full", 9 * MIB);
    maker.add_disk("/dev/first", 9 * MIB);
    maker.add_disk("/dev/last", 9 * MIB);
    maker.write(1, BlockRange::new(0, 9 * 256), Flavour::Noise);
    maker.write(2, BlockRange::new(0, 1), Flavour::Noise);
    maker.write(3, BlockRange::new(9 * 256 - 1, 1), Flavour::Noise);
    let epoch = maker.point();
    (0..4).for_each(|disk| check(&maker, disk, epoch, dir.path()));
}

/// Any layout, over several epochs, parts and sizes.
#[test]
fn layouts_by_chance() {
    if !can_judge() {
        return;
    }
    for seed in 0..if long() { 60 } else { 6 } {
        println!("seed {seed}");
        let (dir, mut dice) = (scratch(), Dice::new(7200 + seed));
        let mut maker = VaultMaker::new(&dir.path().join("vault"), 7200 + seed);
        maker.add_disk("/dev/vda", dice.magnitude(1, 24 * MIB));
        for _ in 0..3 {
            let writes = dice.within(1, 20);
            maker.write_at_random(0, writes);
            if dice.below(3) == 0 {
                maker.resize(0, dice.magnitude(1, 24 * MIB));
            }
            let epoch = maker.point();
            check(&maker, 0, epoch, dir.path());
        }
    }
}

#[test]
fn the_same_point_gives_the_same_bytes() {
    let dir = scratch();
    let mut maker = VaultMaker::new(&dir.path().join("vault"), 7103);
    maker.add_disk("/dev/vda", 40 * MIB + 512);
    maker.write_at_random(0, 40);
    let epoch = maker.point();
    for format in Format::ALL {
        let twice = ["one", "two"].map(|name| {
            let path = dir.path().join(name).with_extension(format.extension());
            restore(&maker, 0, epoch, &image(&path, format)).unwrap();
            fs::read(path).unwrap()
        });
        assert!(twice[0] == twice[1], "{format}");
    }
}

/// What another program makes of the same disk has the same footer, but for who made it, when and under which number.
#[test]
fn a_vhd_is_what_others_make() {
    if !can_judge() {
        return;
    }
    let dir = scratch();
    let mut maker = VaultMaker::new(&dir.path().join("vault"), 7104);
    maker.add_disk("/dev/vda", 64 * MIB);
    maker.write(0, BlockRange::new(5, 100), Flavour::Noise);
    let epoch = maker.point();
    let (ours, raw, theirs) =
        (dir.path().join("ours.vhd"), dir.path().join("raw.img"), dir.path().join("theirs.vhd"));
    restore(&maker, 0, epoch, &image(&ours, Format::Vhd)).unwrap();
    restore(&maker, 0, epoch, &image(&raw, Format::Raw)).unwrap();
    let (raw, their_name) = (raw.to_str().unwrap(), theirs.to_str().unwrap());
    qemu_img(&["convert", "-f", "raw", "-O", "vpc", "-o", "subformat=fixed,force_size", raw, their_name]);
    let (ours, theirs) = (fs::read(ours).unwrap(), fs::read(theirs).unwrap());
    assert_eq!(ours.len(), theirs.len());
    let footers = (&ours[64 << 20..], &theirs[64 << 20..]);
    // Cookie to offset, sizes, kind; between them are time, program, geometry, checksum and number.
    for part in [0..24, 36..56, 60..64, 84..512] {
        assert_eq!(footers.0[part.clone()], footers.1[part.clone()], "bytes {part:?}");
    }
}
