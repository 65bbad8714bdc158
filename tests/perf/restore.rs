//! What restoring is made of, each stage alone, and whole restores in each format, in one run.
//!
//! *fill* reads, decodes and verifies (2 threads), *hash* makes the digests of the windows (2 threads), *write* writes what is
//! not zero and syncs it (1 thread), *check* reads that back past the page cache and hashes it (2 threads). A whole restore does
//! the first three side by side, and the last one after them. Deliberately not here: other programs.

use std::{
    fs::{self, File},
    ops::ControlFlow,
    os::unix::fs::FileExt,
    path::Path,
};

use mobility_format::{BlockIndex, Digest, WINDOW_BLOCKS, WINDOW_SIZE};
use mobility_recovery::{
    Catalog, Destination, Format, Point, Vault, WindowContent, WindowReader, restore_disk, select,
};

use super::{WORKERS, each, timed};

pub(super) fn measure(vault: &Path, scratch: &Path) {
    let vault = Vault::open(vault).expect("the vault");
    let machine = vault.machines().expect("the vault")[0];
    let catalog = Catalog::load_locked(&vault, machine).expect("the catalog");
    let point = select(&catalog, "latest", true).expect("a point");
    let disk = &point.manifest().disks[0];
    let reader = || WindowReader::at(&catalog, disk.id, point.epoch()).expect("the disk");
    let numbers: Vec<u64> = (0..disk.size.blocks().div_ceil(WINDOW_BLOCKS)).collect();
    let held: Vec<u64> = reader()
        .windows()
        .expect("the disk")
        .map(|window| window.expect("a window"))
        .zip(&numbers)
        .filter_map(|((_, content), number)| (content != WindowContent::Zero).then_some(*number))
        .collect();
    let fill = timed(|| each(WORKERS, &held, reader, |reader, number| drop(read(reader, *number))));
    let mut one = reader();
    let windows: Vec<(u64, Box<[u8]>)> =
        held.iter().map(|number| (*number, read(&mut one, *number))).collect();
    let hash = timed(|| {
        each(
            WORKERS,
            &windows,
            || (),
            |(), (_, bytes)| {
                std::hint::black_box(Digest::of(bytes));
            },
        )
    });
    let path = scratch.join("alone");
    let file = File::create_new(&path).expect("a file");
    let write = timed(|| {
        for (number, bytes) in &windows {
            file.write_all_at(bytes, number * WINDOW_SIZE as u64).expect("a write");
        }
        file.sync_all().expect("a sync");
    });
    let file = File::open(&path).expect("the file");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
    let check = timed(|| {
        each(
            WORKERS,
            &held,
            || vec![0; WINDOW_SIZE],
            |buf, number| {
                file.read_exact_at(buf, number * WINDOW_SIZE as u64).expect("a read");
                std::hint::black_box(Digest::of(buf));
            },
        );
    });
    fs::remove_file(&path).expect("a file");
    let slowest = fill.max(hash).max(write);
    let whole =
        Format::ALL.map(|format| whole(&catalog, &point, format, &scratch.join(format.name()), slowest));
    println!(
        "{}",
        serde_json::json!({
            "bytes": disk.size, "data": held.len() * WINDOW_SIZE, "fill": fill, "hash": hash, "write": write,
            "check": check, "whole": whole,
        })
    );
}

/// Restores without and with reading back.
fn whole(
    catalog: &Catalog,
    point: &Point<'_>,
    format: Format,
    path: &Path,
    slowest: f64,
) -> serde_json::Value {
    let disk = point.manifest().disks[0].id;
    let [alone, checked] = [false, true].map(|verify| {
        let to = Destination::Image { path: path.to_owned(), format, replace: false };
        let took = timed(|| {
            let go_on = |_| ControlFlow::Continue(());
            restore_disk(catalog, point.epoch(), disk, &to, verify, go_on).expect("a restore");
        });
        fs::remove_file(path).expect("the image");
        took
    });
    serde_json::json!({
        "format": format.name(), "seconds": alone, "of_slowest": slowest / alone,
        "with_check": checked, "check_costs": checked - alone,
    })
}

fn read(reader: &mut WindowReader, number: u64) -> Box<[u8]> {
    match reader.window(BlockIndex(number * WINDOW_BLOCKS)).expect("a window") {
        WindowContent::Data(bytes) => bytes,
        WindowContent::Zero => vec![0; WINDOW_SIZE].into(),
    }
}
