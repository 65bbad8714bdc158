//! Who a disk is when the kernel names it differently after the next boot.
//!
//! The best of what there is: a world-wide name, a serial number, what a virtual device is made of, the partition
//! table's own id, and last the place where the device is plugged in. `/dev/sdX` is never more than the last resort, and
//! a disk that has nothing better is told apart from others only by where it sits.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use super::sysfs::SysBlock;

/// What identifies a disk.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// The kind of evidence, a colon, the evidence.
    pub(super) text: String,
    /// Whether it belongs to the device, not to what is written on it or to where it is plugged in.
    pub(super) from_hardware: bool,
}

pub(super) fn of_file(canonical: &Path) -> String {
    format!("file:{}", escaped(canonical))
}

pub(super) fn of_device(sys: &SysBlock, canonical: &Path) -> Identity {
    let udev =
        sys.device().map(|device| udev_properties(&PathBuf::from(format!("/run/udev/data/b{device}"))));
    identify(sys, &udev.unwrap_or_default(), canonical)
}

fn identify(sys: &SysBlock, udev: &BTreeMap<String, String>, canonical: &Path) -> Identity {
    let property = |key: &str| udev.get(key).cloned();
    let hardware = [
        ("wwn", sys.text("wwid").or_else(|| sys.text("device/wwid"))),
        ("wwn", property("ID_WWN_WITH_EXTENSION").or_else(|| property("ID_WWN"))),
        (
            "serial",
            sys.text("serial").or_else(|| property("ID_SERIAL")).or_else(|| sys.text("device/serial")),
        ),
        ("loop", loop_backing(sys)),
        ("dm", sys.text("dm/uuid")),
        ("md", sys.text("md/uuid").or_else(|| property("MD_UUID"))),
    ];
    let by_hardware = hardware.into_iter().find_map(|(kind, evidence)| Some(format!("{kind}:{}", evidence?)));
    if let Some(text) = by_hardware {
        return Identity { text, from_hardware: true };
    }
    let text = match property("ID_PART_TABLE_UUID") {
        Some(uuid) => format!("partition-table:{uuid}"),
        None => socket(sys)
            .map_or_else(|| format!("path:{}", escaped(canonical)), |place| format!("slot:{place}")),
    };
    Identity { text, from_hardware: false }
}

/// The file behind a loop device, and which part of it, where it is not the whole.
fn loop_backing(sys: &SysBlock) -> Option<String> {
    let file = sys.text("loop/backing_file")?;
    let part = |attribute| sys.number(attribute).filter(|&bytes| bytes != 0);
    match (part("loop/offset"), part("loop/sizelimit")) {
        (None, None) => Some(file),
        (offset, limit) => Some(format!("{file}@{}+{}", offset.unwrap_or(0), limit.unwrap_or(0))),
    }
}

/// Where in the machine the device is plugged in: its directory below `/sys/devices`, without its own name.
fn socket(sys: &SysBlock) -> Option<String> {
    let place = sys.dir().strip_prefix("/sys/devices").ok()?.parent()?;
    let place = place.parent().filter(|_| place.ends_with("block")).unwrap_or(place);
    (!place.starts_with("virtual")).then(|| place.to_string_lossy().into_owned())
}

/// The properties that udev keeps about a device: lines `E:KEY=value` of its database. None where there is no udev.
fn udev_properties(database: &Path) -> BTreeMap<String, String> {
    let text = fs::read(database).unwrap_or_default();
    let lines = String::from_utf8_lossy(&text).into_owned();
    let pairs = lines.lines().filter_map(|line| line.strip_prefix("E:")?.split_once('='));
    pairs
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// The path as text; bytes that are not text become `\xNN`, so that two such paths never share an identity.
fn escaped(path: &Path) -> String {
    path.as_os_str().as_bytes().utf8_chunks().fold(String::new(), |mut text, chunk| {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(attributes: &[(&str, &str)]) -> (tempfile::TempDir, SysBlock) {
        let dir = tempfile::tempdir().unwrap();
        for (name, value) in attributes {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{value}\n")).unwrap();
        }
        let sys = SysBlock::at(dir.path()).unwrap();
        (dir, sys)
    }

    fn text(attributes: &[(&str, &str)], udev: &[(&str, &str)]) -> String {
        let udev = udev.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        identify(&device(attributes).1, &udev, Path::new("/dev/sdq")).text
    }

    #[test]
    fn the_strongest_evidence_wins() {
        let wwid = ("device/wwid", "naa.5000c500a1b2c3d4");
        let serial = ("device/serial", "S3Z8NB0K");
        let backing = ("loop/backing_file", "/var/images/a.img");
        let table = ("ID_PART_TABLE_UUID", "b3a1");
        assert_eq!(text(&[wwid, serial], &[table]), "wwn:naa.5000c500a1b2c3d4");
        assert_eq!(text(&[("wwid", "eui.0025"), serial], &[]), "wwn:eui.0025");
        assert_eq!(text(&[serial], &[("ID_WWN", "0x5000"), table]), "wwn:0x5000");
        assert_eq!(text(&[serial], &[("ID_SERIAL", "QEMU_disk1")]), "serial:QEMU_disk1");
        assert_eq!(text(&[serial], &[table]), "serial:S3Z8NB0K");
        assert_eq!(text(&[backing], &[table]), "loop:/var/images/a.img");
        assert_eq!(text(&[backing, ("loop/offset", "4096")], &[]), "loop:/var/images/a.img@4096+0");
        assert_eq!(text(&[("dm/uuid", "LVM-abc")], &[]), "dm:LVM-abc");
        assert_eq!(text(&[("serial", "  ")], &[table]), "partition-table:b3a1");
        assert_eq!(text(&[], &[]), "path:/dev/sdq");
    }

    #[test]
    fn only_what_the_device_itself_says_is_hardware() {
        let (_dir, sys) = device(&[("wwid", "eui.1")]);
        assert!(identify(&sys, &BTreeMap::new(), Path::new("/dev/a")).from_hardware);
        let (_dir, sys) = device(&[]);
        assert!(!identify(&sys, &BTreeMap::new(), Path::new("/dev/a")).from_hardware);
    }

    #[test]
    fn reads_the_database_of_udev() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b8:0");
        fs::write(&path, "S:disk/by-id/x\nE:ID_SERIAL=abc=d\nE:ID_WWN=\nG:systemd\n").unwrap();
        let expected = BTreeMap::from([("ID_SERIAL".to_owned(), "abc=d".to_owned())]);
        assert_eq!(udev_properties(&path), expected);
        assert_eq!(udev_properties(Path::new("/nonexistent")), BTreeMap::new());
    }

    #[test]
    fn paths_that_are_not_text_stay_different() {
        use std::ffi::OsStr;
        let of = |bytes| of_file(Path::new(OsStr::from_bytes(bytes)));
        assert_ne!(of(b"/a\xff"), of(b"/a\xfe"));
        assert_eq!(of(b"/a b"), "file:/a b");
    }
}
