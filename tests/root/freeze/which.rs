//! Which file systems are found on which disks, and in which order.

use std::{fs, path::Path, process::Command};

use mobility_capture::{
    disk::Disk,
    freeze::{SkipReason, swap_ranges},
};
use mobility_tests::scratch::{MIB, run, try_run};

use crate::{
    LONG,
    bench::{Bench, found, make, points},
    probe::Probe,
};

#[test]
fn root_nested_file_systems_are_frozen_from_the_top() {
    let Some(mut bench) = Bench::new() else { return };
    let lower_device = bench.device(&bench.path("lower.img"), "xfs");
    make("xfs", &[&lower_device]);
    let lower = bench.mount(&lower_device, "lower", &[]);
    let upper_device = bench.device(&lower.join("upper.img"), "ext4");
    make("ext4", &[&upper_device]);
    let upper = bench.mount(&upper_device, "upper", &[]);
    let disk = Disk::inspect(&lower_device).unwrap();
    let all = found(&[&disk]);
    assert_eq!(points(&all), [&*upper, &*lower]);
    let probes = [Probe::on(&upper), Probe::on(&lower)];
    let mut freezer = bench.freezer(&all);
    for _ in 0..5 {
        assert!(freezer.freeze(LONG).unwrap().thaw().intact());
        assert!(probes.iter().all(|probe| probe.goes_on(LONG)));
    }
    // Only what lies on the disk that is asked about.
    assert_eq!(points(&found(&[&Disk::inspect(&upper_device).unwrap()])), [&*upper]);
}

#[test]
fn root_a_file_system_counts_once_however_often_it_is_mounted() {
    let Some(mut bench) = Bench::new() else { return };
    for kind in ["ext4", "btrfs"] {
        let device = bench.device(&bench.path(&format!("{kind}.img")), kind);
        make(kind, &[&device]);
        let first = bench.mount(&device, kind, &[]);
        fs::create_dir(first.join("inside")).unwrap();
        bench.mount(&device, &format!("{kind}-again"), &[]);
        bench.mount(&first.join("inside"), &format!("{kind}-bound"), &["--bind"]);
        let disk = Disk::inspect(&device).unwrap();
        assert_eq!(points(&found(&[&disk])), [&*first], "{kind}");
        // A mount that hides the first: the file system is reached by another one.
        let (_, cover) =
            (bench.file_system(&format!("{kind}-cover"), "ext4"), bench.path(&format!("{kind}-cover")));
        bench.mount(&cover, kind, &["--bind"]);
        let all = found(&[&disk]);
        assert_eq!(points(&all), [&*bench.path(&format!("{kind}-again"))], "{kind}");
        let probe = Probe::on(&bench.path(&format!("{kind}-again")));
        let mut freezer = bench.freezer(&all);
        let frozen = freezer.freeze(LONG).unwrap();
        assert!(probe.is_held(std::time::Duration::from_millis(10), LONG));
        assert!(frozen.thaw().intact());
    }
}

#[test]
fn root_a_btrfs_over_two_devices_lies_on_both() {
    let Some(mut bench) = Bench::new() else { return };
    let devices = ["a", "b"].map(|name| bench.device(&bench.path(name), "btrfs"));
    make("btrfs", &[&devices[0], &devices[1]]);
    let point = bench.mount(&devices[0], "both", &[]);
    run("btrfs", &["--quiet", "subvolume", "create", point.join("sub").to_str().unwrap()]);
    bench.mount(&devices[1], "sub", &["-o", "subvol=sub"]);
    let disks = devices.map(|device| Disk::inspect(&device).unwrap());
    for set in [vec![&disks[0]], vec![&disks[1]], vec![&disks[0], &disks[1]]] {
        assert_eq!(points(&found(&set)), [&*point]);
    }
    let mut freezer = bench.freezer(&found(&[&disks[1]]));
    assert!(freezer.freeze(LONG).unwrap().thaw().intact());
}

#[test]
fn root_every_partition_is_found_and_what_cannot_freeze_is_named() {
    let Some(mut bench) = Bench::new() else { return };
    let whole = bench.device(&bench.path("disk.img"), "xfs");
    // Told to the kernel rather than written to the disk: not every kernel reads partition tables.
    for (number, (start, size)) in [(1, 64), (65, 128), (193, 40), (233, 64)].into_iter().enumerate() {
        let sectors = |mib: u64| (mib * MIB / 512).to_string();
        let number = (number + 1).to_string();
        run("addpart", &[whole.to_str().unwrap(), &number, &sectors(start), &sectors(size)]);
    }
    let part = |i: usize| format!("{}p{i}", whole.display());
    make("ext4", &[Path::new(&part(1))]);
    make("btrfs", &[Path::new(&part(2))]);
    make("ext4", &[Path::new(&part(4))]);
    let first = bench.mount(Path::new(&part(1)), "first", &[]);
    let second = bench.mount(Path::new(&part(2)), "second", &[]);
    let read_only = bench.mount(Path::new(&part(4)), "read-only", &["-o", "ro"]);
    let disk = Disk::inspect(&whole).unwrap();
    let all = found(&[&disk]);
    assert_eq!(points(&all), [&*second, &*first]);
    let skipped: Vec<_> = all.skipped.iter().map(|each| (&*each.point, each.reason)).collect();
    assert_eq!(skipped, [(&*read_only, SkipReason::ReadOnly)]);
    // A file system that can be written to through another mount is none that cannot.
    run("mount", &["-o", "remount,bind,ro", first.to_str().unwrap()]);
    assert_eq!(points(&found(&[&disk])), [&*second, &*first]);
    assert!(bench.freezer(&all).freeze(LONG).unwrap().thaw().intact());
}

#[test]
fn root_swap_is_found_where_it_lies() {
    let Some(mut bench) = Bench::new() else { return };
    let (disk, point) = bench.file_system("a", "ext4");
    let file = point.join("swap");
    run("dd", &["if=/dev/zero", &format!("of={}", file.display()), "bs=1M", "count=8", "status=none"]);
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    run("mkswap", &["-q", file.to_str().unwrap()]);
    assert!(swap_ranges(&disk).blocks.is_empty());
    if let Err(error) = try_run("swapon", &[file.to_str().unwrap()]) {
        println!("no swap can be used here: {error}");
        return;
    }
    let ranges = swap_ranges(&disk);
    let _ = Command::new("swapoff").arg(&file).status();
    assert_eq!((ranges.blocks.len(), ranges.unknown.len()), (8 * MIB / 4096, 0), "{ranges:?}");
    // The first block of swap carries its mark.
    let first = ranges.blocks.runs().next().unwrap().start.byte_offset();
    let image = fs::read(bench.path("a.img")).unwrap();
    assert_eq!(&image[first as usize + 4086..][..10], b"SWAPSPACE2");
}
