//! `recovery-service mount`: disks as files, files of file systems, and nothing left over, whoever is killed.
//!
//! Deliberately not here: machines that boot from it.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
};

use mobility_tests::{
    agent_process::program,
    scratch::{Scratch, eventually, root_with, run, try_run},
};
use rustix::process::{Pid, Signal, kill_process};

use crate::rig::{PATIENCE, same, tools, vault};

/// Where the first partition begins, and how long it is.
const START: u64 = 1 << 20;
const LENGTH: u64 = 24 << 20;

/// A disk with an ext4 in a partition, with files in it; what one of these holds.
fn image(scratch: &Scratch) -> (Vec<u8>, Vec<u8>) {
    let (disk, place) = (scratch.path("disk"), scratch.path("place"));
    let file = fs::File::create(&disk).unwrap();
    file.set_len(START + LENGTH + START).unwrap();
    let table = format!("label: gpt\nstart={}, size={}, type=L\n", START / 512, LENGTH / 512);
    fs::write(scratch.path("table"), table).unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    run("sh", &["-c", &format!("sfdisk -q {} < {}", path(&disk), path(&scratch.path("table")))]);
    fs::create_dir(&place).unwrap();
    let (offset, limit) = (format!("--offset={START}"), format!("--sizelimit={LENGTH}"));
    let device = run("losetup", &["--find", "--show", &offset, &limit, &path(&disk)]);
    let noise: Vec<u8> = (0..3_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let made = (|| {
        try_run("mkfs.ext4", &["-q", &device])?;
        try_run("mount", &[&device, &path(&place)])?;
        fs::create_dir_all(place.join("etc/deep")).map_err(|err| err.to_string())?;
        fs::write(place.join("etc/deep/noise"), &noise).map_err(|err| err.to_string())?;
        fs::write(place.join("etc/hostname"), "restored\n").map_err(|err| err.to_string())?;
        std::os::unix::fs::symlink("/etc/passwd", place.join("etc/link")).map_err(|err| err.to_string())?;
        std::os::unix::fs::symlink("/etc", place.join("absolute")).map_err(|err| err.to_string())?;
        try_run("umount", &[&path(&place)])
    })();
    run("losetup", &["--detach", &device]);
    made.unwrap();
    (fs::read(disk).unwrap(), noise)
}

/// A running `mount`.
struct Mount {
    child: Child,
    dir: PathBuf,
    errors: Option<ChildStderr>,
}

fn command(scratch: &Scratch, more: &[&str]) -> (Command, PathBuf) {
    let dir = scratch.path("mounted");
    let mut command = Command::new(program("recovery-service"));
    command.arg("mount").arg("--vault").arg(scratch.path("vault")).arg(&dir).args(more);
    (command, dir)
}

impl Mount {
    /// Returns once it has said all of what it has mounted.
    fn new(scratch: &Scratch, more: &[&str]) -> (Mount, String) {
        let (mut command, dir) = command(scratch, more);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while !said.contains("until this process") {
            said += &lines.next().expect("it ended at its start").unwrap();
            said.push('\n');
        }
        let errors = child.stderr.take();
        (Mount { child, dir, errors }, said)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its end, and what it said of errors.
    fn ended(&mut self) -> (bool, String) {
        let status = eventually("the end of mount", PATIENCE, || self.child.try_wait().unwrap());
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.errors.take().unwrap(), &mut said).unwrap();
        (status.success(), said)
    }

    fn unmount(&self) -> Result<String, String> {
        try_run(
            program("recovery-service").to_str().unwrap(),
            &["mount", "--unmount", self.dir.to_str().unwrap()],
        )
    }

    /// The ids of the helpers.
    fn helper(&self, name: &str) -> Pid {
        let own = self.dir.join(".recovery-mount");
        let text = fs::read_to_string(own.join(format!("vda.{name}"))).unwrap();
        Pid::from_raw(text.trim().parse().unwrap()).unwrap()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if self.dir.exists() {
            let _ = self.unmount();
        }
    }
}

/// Nothing of it is left: no mount, no loop device, no process, no file.
#[track_caller]
fn nothing_is_left(dir: &Path) {
    let dir = dir.to_str().unwrap();
    assert!(!Path::new(dir).exists(), "{dir} is still there");
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(dir), "something is mounted");
    assert!(!run("losetup", &["--list", "--output", "BACK-FILE"]).contains(dir), "a loop device is left");
    let alive = || {
        fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.starts_with("nbd") && line.contains(dir)
        })
    };
    eventually("the end of the helpers", PATIENCE, || (!alive()).then_some(()));
}

fn prepared() -> Option<(Scratch, Vec<u8>, Vec<u8>)> {
    root_with(&["mkfs.ext4", "sfdisk"])?;
    tools(&["nbdkit", "nbdfuse", "fusermount3", "partx", "blkid"])?;
    let scratch = Scratch::new();
    let (image, noise) = image(&scratch);
    vault(&scratch, 91, &[("/dev/vda", &image), ("/dev/vdb", &vec![7; 1 << 20])]);
    Some((scratch, image, noise))
}

#[test]
fn root_disks_are_files_and_their_file_systems_directories() {
    let Some((scratch, image, noise)) = prepared() else { return };
    for replay in [&[][..], &["--replay"]] {
        let (mut mount, said) = Mount::new(&scratch, &[&["--files"][..], replay].concat());
        assert!(said.contains("(ext4)") && said.contains("nothing known"), "{said}");
        let files = mount.dir.join("files/vda/1");
        assert!(same(&files.join("etc/deep/noise"), &noise));
        assert_eq!(fs::read_to_string(files.join("etc/hostname")).unwrap(), "restored\n");
        fs::write(files.join("new"), "").unwrap_err();
        let options = run("findmnt", &["--noheadings", "--output", "OPTIONS", files.to_str().unwrap()]);
        let all = ["ro", "nodev", "nosuid", "noexec"];
        assert!(all.iter().all(|option| options.split(',').any(|is| is == *option)), "{options}");
        if replay.is_empty() {
            assert!(same(&mount.dir.join("vda.img"), &image));
            assert!(same(&mount.dir.join("vdb.img"), &vec![7; 1 << 20]));
        }
        let second = command(&scratch, &[]).0.output().unwrap();
        assert!(String::from_utf8_lossy(&second.stderr).contains("is not empty"));
        mount.signal(if replay.is_empty() { Signal::INT } else { Signal::TERM });
        assert_eq!(mount.ended(), (true, String::new()));
        nothing_is_left(&mount.dir);
    }
    // The second call's writes went nowhere.
    let (mut mount, _) = Mount::new(&scratch, &["--disk", "vda"]);
    assert!(same(&mount.dir.join("vda.img"), &image));
    assert!(!mount.dir.join("vdb.img").exists());
    mount.unmount().unwrap();
    assert!(mount.ended().0);
    nothing_is_left(&mount.dir);
}

#[test]
fn root_single_files_are_copied_out_and_links_lead_nowhere_else() {
    let Some((scratch, _, noise)) = prepared() else { return };
    let copy = |from: &str, to: &str| {
        let to = scratch.path(to);
        let (mut command, dir) = command(&scratch, &["--files", "--copy", from, to.to_str().unwrap()]);
        let output = command.output().unwrap();
        nothing_is_left(&dir);
        match output.status.success() {
            true => Ok(to),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    };
    assert!(same(&copy("vda/1/etc/deep/noise", "noise").unwrap(), &noise));
    assert!(copy("vda/1/etc/hostname", "noise").unwrap_err().contains("exists"));
    let tree = copy("vda/1/etc", "tree").unwrap();
    assert!(same(&tree.join("deep/noise"), &noise) && same(&tree.join("hostname"), b"restored\n"));
    // `/etc/passwd` of that machine, which has none: never this one's.
    assert!(copy("vda/1/etc/link", "link").unwrap_err().contains("cannot be opened"));
    assert!(same(&copy("vda/1/absolute/hostname", "name").unwrap(), b"restored\n"));
    for bad in ["vda/1/../1/etc/hostname", "/etc/hostname", "vda/1", "vdx/1/etc/hostname", "vda/1/none"] {
        assert!(copy(bad, "bad").is_err(), "{bad}");
    }
    assert!(!scratch.path("bad").exists() && !scratch.path("link").exists());
}

#[test]
fn root_nothing_is_left_whoever_is_killed() {
    let Some((scratch, image, _)) = prepared() else { return };
    for helper in ["nbdkit", "nbdfuse"] {
        let (mut mount, _) = Mount::new(&scratch, &["--files"]);
        kill_process(mount.helper(helper), Signal::KILL).unwrap();
        let (ended_well, said) = mount.ended();
        assert!(!ended_well && said.contains("has ended"), "{helper}: {said}");
        nothing_is_left(&mount.dir);
    }
    let (mut mount, _) = Mount::new(&scratch, &["--files"]);
    mount.child.kill().unwrap();
    mount.child.wait().unwrap();
    // What it served is gone with it: an error, and no wrong bytes.
    if let Ok(read) = fs::read(mount.dir.join("vda.img")) {
        assert!(read == image, "wrong bytes");
    }
    mount.unmount().unwrap();
    nothing_is_left(&mount.dir);
    assert!(mount.unmount().is_err());
    let (again, _) = Mount::new(&scratch, &["--files"]);
    again.unmount().unwrap();
    nothing_is_left(&again.dir);
}
