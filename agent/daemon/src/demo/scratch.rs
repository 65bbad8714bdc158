//! The demo's disk: a loop device with a file system where that may be made, else a plain image file.
//!
//! Documents are files on the former and stretches of the latter. Everything is undone when it is dropped. Deliberately not
//! here: protecting it.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};
use mobility_capture::ebpf::Tracker;
use mobility_format::{ByteCount, Digest};

const DOCUMENTS: u64 = 200;
const DOCUMENT: usize = 64 << 10;
/// Where documents lie on a plain image.
const FIRST_DOCUMENT: u64 = 1 << 20;

pub(super) struct Scratch {
    image: PathBuf,
    size: ByteCount,
    device: Option<Device>,
    why_plain: String,
}

struct Device {
    path: PathBuf,
    mount: PathBuf,
}

impl Scratch {
    pub(super) fn make(home: &Path, size: ByteCount) -> anyhow::Result<Scratch> {
        let image = home.join("disk.img");
        let file = File::create(&image)?;
        file.set_len(size.0)?;
        let mut scratch = Scratch { image, size, device: None, why_plain: String::new() };
        match may_have_device().and_then(|()| scratch.make_device(home)) {
            Ok(()) => {}
            Err(err) => scratch.why_plain = format!("{err:#}"),
        }
        scratch.fill()?;
        Ok(scratch)
    }

    fn make_device(&mut self, home: &Path) -> anyhow::Result<()> {
        run("mkfs.ext4", |c| c.args(["-q", "-F"]).arg(&self.image))?;
        let path = PathBuf::from(run("losetup", |c| {
            c.args(["--find", "--show", "--direct-io=on"]).arg(&self.image)
        })?);
        let mount = home.join("mnt");
        self.device = Some(Device { path: path.clone(), mount: mount.clone() });
        let mounted = fs::create_dir(&mount)
            .context("no mount point")
            .and_then(|()| run("mount", |c| c.arg(&path).arg(&mount)));
        if let Err(err) = mounted {
            self.undo();
            File::create(&self.image)?.set_len(self.size.0)?;
            return Err(err);
        }
        Ok(())
    }

    /// Something for the initial replication to send.
    fn fill(&self) -> anyhow::Result<()> {
        let mut noise = vec![0; 8 << 20];
        blake3_stream("noise", &mut noise);
        noise[4 << 20..].fill(b'.');
        match &self.device {
            Some(device) => {
                fs::write(device.mount.join("archive.bin"), &noise)?;
                sync(&device.mount)
            }
            None => self.write_at(self.size.0 / 2, &noise),
        }
    }

    pub(super) fn describe(&self) -> String {
        match &self.device {
            Some(device) => format!(
                "{} of {}, a loop device with ext4; writes are tracked in the kernel (eBPF)",
                device.path.display(),
                self.size
            ),
            None => {
                format!("an image file of {}, scanned for changes, because {}", self.size, self.why_plain)
            }
        }
    }

    /// What the agent is to protect.
    pub(super) fn disk(&self) -> &Path {
        self.device.as_ref().map_or(&self.image, |device| &device.path)
    }

    pub(super) fn size(&self) -> ByteCount {
        self.size
    }

    pub(super) fn documents(&self) -> u64 {
        DOCUMENTS
    }

    pub(super) fn write_documents(&mut self) -> anyhow::Result<ByteCount> {
        for number in 0..DOCUMENTS {
            self.write_document(number, &document(number))?;
        }
        self.sync()?;
        Ok(ByteCount(DOCUMENTS * DOCUMENT as u64))
    }

    /// Does what an encrypting intruder does.
    pub(super) fn damage(&mut self) -> anyhow::Result<()> {
        let mut rubbish = vec![0; DOCUMENT];
        for number in 0..DOCUMENTS {
            blake3_stream(&format!("ransom {number}"), &mut rubbish);
            self.write_document(number, &rubbish)?;
        }
        self.sync()
    }

    /// What reading a document says now.
    pub(super) fn damage_shown(&self) -> anyhow::Result<String> {
        let mut start = [0; 8];
        match &self.device {
            Some(device) => File::open(device.mount.join(name(0)))?.read_exact(&mut start)?,
            None => {
                let mut file = File::open(&self.image)?;
                file.seek(SeekFrom::Start(FIRST_DOCUMENT))?;
                file.read_exact(&mut start)?;
            }
        }
        let was = document(0);
        ensure!(start[..] != was[..8], "the damage did not reach the disk");
        Ok(format!(
            "{} begins with {start:02x?} instead of '{}'",
            name(0),
            String::from_utf8_lossy(&was[..8])
        ))
    }

    /// How many documents are in `image` with the content they were written with.
    pub(super) fn check_documents(&self, image: &Path) -> anyhow::Result<u64> {
        let Some(device) = &self.device else {
            let mut file = File::open(image)?;
            return count_sound(|number, buf| {
                file.seek(SeekFrom::Start(place(number)))?;
                file.read_exact(buf)
            });
        };
        let mount = device.mount.with_extension("restored");
        fs::create_dir(&mount)?;
        run("mount", |c| c.args(["-o", "loop"]).arg(image).arg(&mount))?;
        let sound = count_sound(|number, buf| File::open(mount.join(name(number)))?.read_exact(buf));
        run("umount", |c| c.arg(&mount))?;
        sound
    }

    fn write_document(&self, number: u64, content: &[u8]) -> anyhow::Result<()> {
        match &self.device {
            Some(device) => Ok(fs::write(device.mount.join(name(number)), content)?),
            None => self.write_at(place(number), content),
        }
    }

    fn write_at(&self, offset: u64, content: &[u8]) -> anyhow::Result<()> {
        let mut file = OpenOptions::new().write(true).open(&self.image)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(file.write_all(content)?)
    }

    fn sync(&self) -> anyhow::Result<()> {
        match &self.device {
            Some(device) => sync(&device.mount),
            None => Ok(File::open(&self.image)?.sync_all()?),
        }
    }

    /// Unmounts the disk: a mounted file system goes on writing by itself.
    pub(super) fn come_to_rest(&mut self) -> anyhow::Result<()> {
        if let Some(device) = &self.device {
            run("umount", |c| c.arg(&device.mount))?;
        }
        Ok(())
    }

    fn undo(&mut self) {
        if let Some(device) = self.device.take() {
            // What is not mounted or attached any more needs no undoing.
            let _ = run("umount", |c| c.arg(&device.mount));
            let _ = run("losetup", |c| c.arg("--detach").arg(&device.path));
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.undo();
    }
}

fn may_have_device() -> anyhow::Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "only root may make a loop device and load a tracker");
    Tracker::supported()?;
    Ok(())
}

fn count_sound(mut read: impl FnMut(u64, &mut [u8]) -> std::io::Result<()>) -> anyhow::Result<u64> {
    let mut buf = vec![0; DOCUMENT];
    let mut sound = 0;
    for number in 0..DOCUMENTS {
        let readable = read(number, &mut buf).is_ok();
        sound += u64::from(readable && Digest::of(&buf) == Digest::of(&document(number)));
    }
    Ok(sound)
}

fn name(number: u64) -> String {
    format!("document-{number:03}.txt")
}

fn place(number: u64) -> u64 {
    FIRST_DOCUMENT + number * 2 * DOCUMENT as u64
}

/// Text with as much order in it as office documents have.
fn document(number: u64) -> Vec<u8> {
    let mut noise = [0; 64];
    let mut text = format!("Document {number}\n").into_bytes();
    while text.len() < DOCUMENT {
        blake3_stream(&format!("document {number} {}", text.len()), &mut noise);
        let line: String = noise.iter().map(|byte| char::from(b'a' + byte % 26)).collect();
        text.extend_from_slice(
            format!("{line} of the matter, and of nothing else but the matter.\n").as_bytes(),
        );
    }
    text.truncate(DOCUMENT);
    text
}

fn blake3_stream(seed: &str, out: &mut [u8]) {
    for (index, chunk) in out.chunks_mut(Digest::LEN).enumerate() {
        chunk.copy_from_slice(&Digest::of(format!("{seed} {index}").as_bytes()).0[..chunk.len()]);
    }
}

fn sync(mount: &Path) -> anyhow::Result<()> {
    Ok(rustix::fs::syncfs(File::open(mount)?)?)
}

fn run(program: &str, with: impl FnOnce(&mut Command) -> &mut Command) -> anyhow::Result<String> {
    let output = with(&mut Command::new(program))
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{program} cannot be run"))?;
    ensure!(output.status.success(), "{program} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
