//! A disk of 3 TiB that is nearly all zero: quick, in little memory, and mapped right where tables end.

use std::{
    fs,
    os::unix::fs::{FileExt, MetadataExt},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use mobility_format::{BLOCK_SIZE, BlockRange};
use mobility_recovery::Format;
use mobility_tests::{
    binary::program,
    vault_maker::{Flavour, VaultMaker},
};

use crate::support::{can_judge, image, qemu_img, restore, scratch};

const TIB: u64 = 1 << 40;
const SIZE: u64 = 3 * TIB + 12 * BLOCK_SIZE as u64;
/// Blocks of a table of the second level: 512 MiB.
const TABLE: u64 = (512 << 20) / BLOCK_SIZE as u64;

/// Where there is something: around the ends of tables, and at the disk's end.
fn places() -> Vec<u64> {
    let mut places = vec![TABLE - 1, TABLE, 2 * TABLE + 17, 1000 * TABLE + 5];
    places.extend([1, 2, 300].map(|back| SIZE / BLOCK_SIZE as u64 - back));
    // Scattered ones: each takes a cluster.
    places.extend((0..600).map(|number| 3000 * TABLE + 16 * 7 * number));
    places
}

fn content(block: u64) -> Vec<u8> {
    let mut plain = vec![0; BLOCK_SIZE];
    plain.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&(block | 1 << 60).to_le_bytes()));
    plain
}

fn vault(dir: &std::path::Path) -> VaultMaker {
    let mut maker = VaultMaker::new(dir, 7301);
    maker.add_disk("/dev/vda", 8 << 20);
    maker.lengthen(0, SIZE);
    maker.write(0, BlockRange::new(0, 40), Flavour::Noise);
    places().into_iter().for_each(|block| maker.write_behind(0, block, content(block)));
    maker.point();
    maker
}

#[test]
fn three_tib_of_little() {
    let dir = scratch();
    let maker = vault(&dir.path().join("vault"));
    let epoch = *maker.committed.keys().last().unwrap();
    let mut roots = Vec::new();
    for format in Format::ALL {
        let path = dir.path().join("disk").with_extension(format.extension());
        let start = Instant::now();
        roots.push(restore(&maker, 0, epoch, &image(&path, format)).unwrap().root);
        let took = start.elapsed();
        println!("{format}: {:.2} s, {} KiB", took.as_secs_f64(), path.metadata().unwrap().blocks() / 2);
        assert!(took < Duration::from_secs(120), "{format} took {took:?}");
        // Clusters, tables, and what a file system needs; the model's part as well.
        assert!(path.metadata().unwrap().blocks() * 512 < 300 << 20, "{format} is not sparse");
        if format != Format::Qcow2 {
            let file = fs::File::open(&path).unwrap();
            for block in places() {
                let mut found = vec![0; BLOCK_SIZE];
                file.read_exact_at(&mut found, block * BLOCK_SIZE as u64).unwrap();
                assert!(found == content(block), "block {block}");
            }
        }
    }
    assert!(roots.iter().all(|root| *root == roots[0]));
    if !can_judge() {
        return;
    }
    let name = |format: Format| {
        dir.path().join("disk").with_extension(format.extension()).to_str().unwrap().to_owned()
    };
    qemu_img(&["check", "-f", "qcow2", &name(Format::Qcow2)]);
    // QEMU opens no VHD of more than 2040 GiB.
    qemu_img(&["compare", "-f", "raw", "-F", "qcow2", &name(Format::Raw), &name(Format::Qcow2)]);
}

/// The greatest resident size of the program.
const MOST: u64 = 96 << 10;

#[test]
fn memory_does_not_grow_with_the_disk() {
    let dir = scratch();
    let _maker = vault(&dir.path().join("vault"));
    for format in Format::ALL {
        let mut child = Command::new(program("recovery-service"))
            .args(["restore", "--point", "latest", "--format", format.name(), "--vault"])
            .arg(dir.path().join("vault"))
            .arg("--output")
            .arg(dir.path().join(format.name()))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut greatest = 0;
        let ended = loop {
            greatest = resident(child.id()).unwrap_or(0).max(greatest);
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        println!("{format}: {greatest} KiB");
        assert!(ended.success() && (1..MOST).contains(&greatest), "{format}: {ended}, {greatest} KiB");
    }
}

/// The greatest resident size of a process so far, in KiB.
fn resident(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}
