//! The table of file systems and the table of encrypted devices: entries by a device's name are by identity afterwards, and entries
//! of disks that are not there do not keep the machine from starting.
//!
//! Deliberately not here: what a name means (`devices`).

use super::{
    devices::{Devices, Meaning},
    report::Findings,
};

/// What an entry gets whose disk is not there. The machine waits this long, and goes on.
const ABSENT: &str = "nofail,x-systemd.device-timeout=30s";
/// Without these there is no machine.
const VITAL: [&str; 3] = ["/", "/usr", "/etc"];

/// The table of file systems as it is to be.
pub(super) fn fstab(text: &str, devices: &Devices, found: &mut Findings) -> String {
    lines(text, |line| {
        let fields = fields(line);
        let (device, mount) = (text_of(line, fields.first()?), text_of(line, fields.get(1)?));
        let options = fields.get(3).map(|field| text_of(line, field));
        match (devices.meaning(device), devices.root()) {
            (Meaning::Holds, _) => None,
            (Meaning::Is(there), _) => Some(with(line, fields[0], &format!("UUID={}", there.uuid))),
            (_, Some(root)) if mount == "/" && !root.uuid.is_empty() => {
                Some(with(line, fields[0], &format!("UUID={}", root.uuid)))
            }
            (meaning, _) => {
                let why = match meaning {
                    Meaning::Unclear => "of which nobody can say which disk it is at the target",
                    _ => "which is on no disk that was restored",
                };
                if VITAL.contains(&mount) {
                    found.add(format!(
                        "/etc/fstab: {mount} is on {device}, {why}: the machine will not start"
                    ));
                    return None;
                }
                let given = options.unwrap_or_default();
                if given.split(',').any(|option| option == "noauto" || option == "nofail") {
                    return None;
                }
                found
                    .add(format!("/etc/fstab: {mount} is on {device}, {why}: the machine starts without it"));
                match fields.get(3) {
                    Some(field) => Some(with(line, *field, &format!("{given},{ABSENT}"))),
                    None => Some(format!("{} defaults,{ABSENT} 0 0", line.trim_end())),
                }
            }
        }
    })
}

/// The table of encrypted devices as it is to be.
pub(super) fn crypttab(text: &str, devices: &Devices, found: &mut Findings) -> String {
    lines(text, |line| {
        let fields = fields(line);
        let (name, device) = (text_of(line, fields.first()?), text_of(line, fields.get(1)?));
        match devices.meaning(device) {
            Meaning::Holds => None,
            Meaning::Is(there) => Some(with(line, fields[1], &format!("UUID={}", there.uuid))),
            Meaning::Gone | Meaning::Unclear => {
                let why = "which is on no disk that was restored";
                found.add(format!("/etc/crypttab: {name} is on {device}, {why}"));
                None
            }
        }
    })
}

/// The names that encrypted devices get.
pub(super) fn mapped(crypttab: &str) -> Vec<String> {
    let names = crypttab.lines().map(str::trim_start).filter(|line| !line.starts_with('#'));
    names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// Where file systems are mounted, each with what is mounted there and with which options, in an order in which that can be done.
pub(super) fn mounts(text: &str) -> Vec<(&str, &str, &str)> {
    let entries = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let mut mounts: Vec<_> = entries
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (device, mount) = (fields.next()?, fields.next()?);
            Some((mount, device, fields.nth(1).unwrap_or_default()))
        })
        .filter(|(mount, ..)| mount.starts_with('/'))
        .collect();
    mounts.sort_by_key(|(mount, ..)| mount.len());
    mounts
}

/// Where in a line something is.
type Field = (usize, usize);

/// The fields of a line; none of a comment.
fn fields(line: &str) -> Vec<Field> {
    if line.trim_start().starts_with('#') {
        return Vec::new();
    }
    let from = |word: &str| word.as_ptr() as usize - line.as_ptr() as usize;
    line.split_whitespace().map(|word| (from(word), from(word) + word.len())).collect()
}

fn text_of<'a>(line: &'a str, field: &Field) -> &'a str {
    line.get(field.0..field.1).unwrap_or_default()
}

/// The line with something else in place of a field.
fn with(line: &str, field: Field, new: &str) -> String {
    let (before, after) = (line.get(..field.0).unwrap_or_default(), line.get(field.1..).unwrap_or_default());
    format!("{before}{new}{after}")
}

/// The text with other lines where there are any; nothing else of it changes.
pub(super) fn lines(text: &str, mut change: impl FnMut(&str) -> Option<String>) -> String {
    let changed = text.split_inclusive('\n').map(|whole| {
        let line = whole.trim_end_matches(['\n', '\r']);
        match change(line) {
            Some(new) => format!("{new}{}", &whole[line.len()..]),
            None => whole.to_owned(),
        }
    });
    changed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::failover::mend::devices::tests::two_disks;

    fn mended(text: &str) -> (String, Vec<String>) {
        let mut found = Findings::default();
        let new = fstab(text, &two_disks(), &mut found);
        let mut again = Findings::default();
        assert_eq!(fstab(&new, &two_disks(), &mut again), new, "done twice");
        (new, found.all().to_vec())
    }

    #[test]
    fn what_installers_write_is_by_identity_afterwards() {
        let debian = "\
# /etc/fstab: static file system information.
#
# Use 'blkid' to print the universally unique identifier for a device.
# <file system> <mount point>   <type>  <options>       <dump>  <pass>
/dev/sda1\t/               ext4    errors=remount-ro 0       1
# swap was on /dev/sda5 during installation
/dev/sda5 none            swap    sw              0       0
/dev/sr0        /media/cdrom0   udf,iso9660 user,noauto     0       0
/dev/mapper/vg--data-log--1 /var/log xfs defaults 0 2
/dev/sdc1   /boot/efi vfat umask=0077 0 1\r
tmpfs /tmp tmpfs defaults 0 0
fs.example:/srv /srv nfs _netdev 0 0";
        let expected = debian
            .replace("/dev/sda1\t", "UUID=0a3407de-014b-458b-b5c1-848e92a327a3\t")
            .replace("/dev/sda5 none", "UUID=f9fe0b69-a280-415d-a03a-a32752370dee none")
            .replace("/dev/sdc1 ", "UUID=7D3C-1A2B ");
        assert_eq!(mended(debian), (expected, Vec::new()));
    }

    #[test]
    fn what_is_by_identity_stays() {
        let text = "UUID=0a3407de-014b-458b-b5c1-848e92a327a3 / ext4 defaults 0 1\nLABEL=label-7D3C-1A2B /boot vfat ro\n\n";
        assert_eq!(mended(text), (text.to_owned(), Vec::new()));
    }

    #[test]
    fn a_disk_that_is_not_there_keeps_nothing_from_starting() {
        let text = "/dev/sdb1 /data ext4 defaults,noatime 0 2
UUID=11111111-2222-3333-4444-555555555555  /backup  xfs  rw  0 0
/dev/disk/by-path/pci-0000:00:07.0-scsi-0:0:1:0-part1 /srv ext4
/dev/disk/cloud/azure_resource-part1 /mnt auto defaults,nofail,comment=cloudconfig 0 2
/dev/sdd1 none swap sw
/dev/sdb2 /old ext4 noauto 0 0
";
        let (new, found) = mended(text);
        let expected = "/dev/sdb1 /data ext4 defaults,noatime,nofail,x-systemd.device-timeout=30s 0 2
UUID=11111111-2222-3333-4444-555555555555  /backup  xfs  rw,nofail,x-systemd.device-timeout=30s  0 0
/dev/disk/by-path/pci-0000:00:07.0-scsi-0:0:1:0-part1 /srv ext4 defaults,nofail,x-systemd.device-timeout=30s 0 0
/dev/disk/cloud/azure_resource-part1 /mnt auto defaults,nofail,comment=cloudconfig 0 2
/dev/sdd1 none swap sw,nofail,x-systemd.device-timeout=30s
/dev/sdb2 /old ext4 noauto 0 0
";
        assert_eq!(new, expected);
        assert_eq!(found.len(), 4, "{found:#?}");
        assert!(found[2].contains("/srv") && found[2].contains("nobody can say"), "{}", found[2]);
    }

    #[test]
    fn the_root_is_known_whatever_it_was_called() {
        let (new, found) =
            mended("/dev/disk/by-path/x-part1 / ext4 defaults 0 1\n/dev/sdb3 /usr ext4 ro 0 0\n");
        assert_eq!(
            new,
            "UUID=0a3407de-014b-458b-b5c1-848e92a327a3 / ext4 defaults 0 1\n/dev/sdb3 /usr ext4 ro 0 0\n"
        );
        assert!(found[0].contains("/usr") && found[0].contains("will not start"), "{found:?}");
    }

    #[test]
    fn encrypted_devices_are_found_by_identity() {
        let mut found = Findings::default();
        let text = "# name device key\nsecret /dev/sdc2 none luks\nlost /dev/sdb9 none\n";
        let new = crypttab(text, &two_disks(), &mut found);
        assert_eq!(new, text.replace("/dev/sdc2", "UUID=cafe0000-1111-2222-3333-444455556666"));
        assert_eq!(found.all().len(), 1);
        assert_eq!(mapped(text), ["secret", "lost"]);
    }

    #[test]
    fn file_systems_are_mounted_in_an_order_that_works() {
        let text = "#/dev/x /no ext4\n/dev/a /boot/efi vfat ro 0 0\nUUID=b /boot ext4\n/dev/c / ext4 subvol=@ 0 1\n/dev/d none swap sw\n";
        let order = [("/", "/dev/c", "subvol=@"), ("/boot", "UUID=b", ""), ("/boot/efi", "/dev/a", "ro")];
        assert_eq!(mounts(text), order);
    }
}
