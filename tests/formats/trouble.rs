//! A restore that is refused, finds no room, is cancelled or killed: said clearly, and nothing is left of it.

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use mobility_format::{BlockRange, Epoch};
use mobility_recovery::{Destination, Format, Phase, RestoreError, StorageErrorKind};
use mobility_tests::{
    binary::program,
    scratch::{LoopDevice, Mounted, Scratch, eventually, root_with, run},
    vault_maker::{Flavour, VaultMaker},
};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{files_in, image, restore, restore_watched, scratch};

const MIB: u64 = 1 << 20;

/// A vault with a disk of so many MiB that do not compress.
fn vault(dir: &Path, mib: u64) -> (VaultMaker, Epoch) {
    let mut maker = VaultMaker::new(&dir.join("vault"), 7501);
    maker.add_disk("/dev/vda", mib * MIB + 512);
    maker.write(0, BlockRange::new(0, mib * 256), Flavour::Noise);
    let epoch = maker.point();
    (maker, epoch)
}

fn command(dir: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(program("recovery-service"));
    command.args(["restore", "--point", "latest", "--vault"]).arg(dir.join("vault")).args(more);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// What the program ends with, and what it says.
fn ended(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn what_is_there_stays_unless_it_is_to_be_replaced() {
    let (dir, out) = (scratch(), scratch());
    let (maker, epoch) = vault(dir.path(), 3);
    for format in Format::ALL {
        let path = out.path().join("vda").with_extension(format.extension());
        fs::write(&path, "mine").unwrap();
        let refused = restore(&maker, 0, epoch, &image(&path, format));
        assert!(matches!(refused, Err(RestoreError::Exists(there)) if there == path));
        let place = out.path().to_str().unwrap();
        let (code, said) = ended(command(dir.path(), &["--format", format.name(), "--output", place]));
        assert!(code == Some(5) && said.contains("exists already"), "{code:?}: {said}");
        let replacing = Destination::Image { path: path.clone(), format, replace: true };
        let stopped = restore_watched(&maker, 0, epoch, &replacing, |_| ControlFlow::Break(()));
        assert!(matches!(stopped, Err(RestoreError::Cancelled(_))));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        restore(&maker, 0, epoch, &replacing).unwrap();
        assert!(fs::metadata(&path).unwrap().len() > 3 * MIB);
    }
    assert_eq!(files_in(out.path()).len(), 3);
}

#[test]
fn what_a_format_cannot_do_is_said() {
    let dir = scratch();
    let (maker, epoch) = vault(dir.path(), 1);
    let to = Destination::Device { path: "/dev/null".into(), format: Format::Qcow2 };
    let refused = restore(&maker, 0, epoch, &to).unwrap_err();
    assert!(matches!(refused, RestoreError::Format { .. }), "{refused}");
    let (code, said) = ended(command(dir.path(), &["--to-device", "/dev/null", "--format", "qcow2"]));
    assert!(code == Some(5) && said.contains("choose raw or vhd"), "{code:?}: {said}");
    let (code, said) = ended(command(dir.path(), &["--to-device", "/dev/null"]));
    assert!(code == Some(5) && said.contains("not a block device"), "{code:?}: {said}");
    let (code, said) = ended(command(dir.path(), &["--output", "/x", "--format", "vmdk"]));
    assert!(code == Some(2) && said.contains("raw, qcow2, vhd"), "{code:?}: {said}");
}

#[test]
fn cancelling_ends_at_once_and_leaves_nothing() {
    let (dir, out) = (scratch(), scratch());
    let (maker, epoch) = vault(dir.path(), 48);
    for format in Format::ALL {
        for phase in [Phase::Copying, Phase::Checking] {
            let mut asked = None;
            let to = image(&out.path().join("disk"), format);
            let result = restore_watched(&maker, 0, epoch, &to, |at| {
                if at.phase != phase || at.done.0 < 20 * MIB {
                    return ControlFlow::Continue(());
                }
                asked.get_or_insert_with(Instant::now);
                ControlFlow::Break(())
            });
            assert!(matches!(result, Err(RestoreError::Cancelled(_))), "{result:?}");
            assert!(asked.unwrap().elapsed() < Duration::from_secs(1), "{format}, {phase:?}");
            assert_eq!(files_in(out.path()), [] as [PathBuf; 0]);
        }
    }
}

/// By any signal, also one that nobody can wait for.
#[test]
fn a_killed_restore_leaves_nothing() {
    let (dir, out) = (scratch(), scratch());
    vault(dir.path(), 160);
    let place = out.path().canonicalize().unwrap();
    for format in Format::ALL {
        for signal in [Signal::KILL, Signal::TERM] {
            let arguments = ["--format", format.name(), "--output", place.to_str().unwrap()];
            let mut child = command(dir.path(), &arguments).spawn().unwrap();
            let fds = format!("/proc/{}/fd", child.id());
            eventually("the image is being written", Duration::from_secs(60), || {
                let open = fs::read_dir(&fds).ok()?.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
                open.filter(|file| file.starts_with(&place)).find(|file| file != &place)
            });
            kill_process(Pid::from_child(&child), signal).unwrap();
            let status = child.wait().unwrap();
            let expected = (signal == Signal::TERM).then_some(9);
            assert_eq!(status.code(), expected, "{format}, {signal:?}");
            assert_eq!(files_in(&place), [] as [PathBuf; 0], "{format}, {signal:?}");
        }
    }
}

#[test]
fn root_a_full_target_is_said_to_be_full_and_is_empty_again() {
    if root_with(&["mkfs.ext4"]).is_none() {
        return;
    }
    let (area, dir) = (Scratch::new(), scratch());
    let (maker, epoch) = vault(dir.path(), 24);
    let device = LoopDevice::new(area.path("small"), 16 * MIB);
    run("mkfs.ext4", &["-q", device.name()]);
    let mounts = [
        Mounted::in_memory(area.path("memory"), 8 * MIB),
        Mounted::existing(area.path("disk"), &device.device, "ext4").unwrap(),
    ];
    for mount in &mounts {
        let out = mount.point().join("images");
        for format in Format::ALL {
            let path = out.join("vda").with_extension(format.extension());
            match restore(&maker, 0, epoch, &image(&path, format)) {
                Err(RestoreError::Storage(err)) => assert_eq!(err.kind(), StorageErrorKind::Full, "{err}"),
                other => panic!("{other:?}"),
            }
            let place = out.to_str().unwrap();
            let (code, said) = ended(command(dir.path(), &["--format", format.name(), "--output", place]));
            assert!(code == Some(7) && said.contains("No space left"), "{code:?}: {said}");
            assert_eq!(files_in(&out), [] as [PathBuf; 0]);
        }
    }
}

#[test]
fn root_a_device_must_have_room_for_what_the_format_adds() {
    if root_with(&["losetup"]).is_none() {
        return;
    }
    let (area, dir) = (Scratch::new(), scratch());
    let (maker, epoch) = vault(dir.path(), 3);
    let device = LoopDevice::new(area.path("target"), 4 * MIB);
    let to = |format| Destination::Device { path: device.device.clone(), format };
    restore(&maker, 0, epoch, &to(Format::Raw)).unwrap();
    let before = fs::read(&device.file).unwrap();
    let refused = restore(&maker, 0, epoch, &to(Format::Vhd)).unwrap_err();
    assert!(matches!(refused, RestoreError::TooSmall { .. }), "{refused}");
    let (code, said) = ended(command(dir.path(), &["--to-device", device.name(), "--format", "vhd"]));
    assert!(code == Some(5) && said.contains("the disk needs"), "{code:?}: {said}");
    assert!(fs::read(&device.file).unwrap() == before, "what is refused changes nothing");
    device.grow(5 * MIB);
    restore(&maker, 0, epoch, &to(Format::Vhd)).unwrap();
    let file = dir.path().join("vda.vhd");
    restore(&maker, 0, epoch, &image(&file, Format::Vhd)).unwrap();
    let expected = fs::read(file).unwrap();
    assert!(fs::read(&device.device).unwrap()[..expected.len()] == expected);
}
