//! What boot loaders and kernels are told of devices by name: afterwards they are told by identity.
//!
//! Deliberately not here: the boot loader's own first sectors, which find their way by the disk that they are on.

use super::{
    devices::{Device, Devices, Meaning},
    fstab::lines,
    report::Findings,
};

/// Where a kernel's command line may be.
pub(super) const FILES: [&str; 15] = [
    "/etc/default/grub",
    "/etc/default/grub.d/*.cfg",
    "/boot/grub/grub.cfg",
    "/boot/grub/grub.conf",
    "/boot/grub/menu.lst",
    "/boot/grub2/grub.cfg",
    "/boot/grub2/grubenv",
    "/boot/grub/grubenv",
    "/boot/efi/EFI/*/grub.cfg",
    "/etc/kernel/cmdline",
    "/boot/loader/entries/*.conf",
    "/boot/efi/loader/entries/*.conf",
    "/efi/loader/entries/*.conf",
    "/boot/extlinux/extlinux.conf",
    "/etc/initramfs-tools/conf.d/resume",
];
/// What a kernel is told of devices.
const ROOT: &str = "root=";
const RESUME: [&str; 2] = ["resume=", "RESUME="];
/// Each logical volume that dracut waits for, and without which it does not go on (dracut.cmdline(7)).
const VOLUME: &str = "rd.lvm.lv=";
/// How large a block of variables of GRUB's is, and with what it is filled.
const ENVIRONMENT: usize = 1024;

/// A boot loader's file as it is to be.
pub(super) fn file(path: &str, text: &str, devices: &Devices, found: &mut Findings) -> String {
    // A kernel alone knows partitions by identity, and file systems not.
    let has_initrd = path.starts_with("/etc/")
        || path.ends_with("grubenv")
        || text.lines().any(|line| line.trim_start().to_ascii_lowercase().starts_with("initrd"));
    let new = lines(text, |line| {
        if line.trim_start().starts_with('#') {
            return None;
        }
        if is_set(line, "GRUB_DISABLE_LINUX_UUID", "true") {
            return Some(line.replace("true", "false"));
        }
        let new = command_line(path, line, devices, has_initrd, found);
        (new != line).then_some(new)
    });
    match path.ends_with("/grubenv") && new != text {
        true => environment(path, text, &new, found),
        false => new,
    }
}

/// Whether a line of a shell's gives a variable this value.
fn is_set(line: &str, name: &str, value: &str) -> bool {
    let given = line.trim().strip_prefix(name).and_then(|rest| rest.strip_prefix('='));
    given.is_some_and(|given| given.trim_matches(['"', '\'']) == value)
}

/// A line with the parameters of a kernel, wherever in it they are.
fn command_line(path: &str, line: &str, devices: &Devices, has_initrd: bool, found: &mut Findings) -> String {
    let is_end = |c: char| c.is_whitespace() || "\"'`;".contains(c);
    let mut new = String::new();
    let mut rest = line;
    while !rest.is_empty() {
        let gap = rest.find(|c: char| !is_end(c)).unwrap_or(rest.len());
        new.push_str(&rest[..gap]);
        rest = &rest[gap..];
        let (word, after) = rest.split_at(rest.find(is_end).unwrap_or(rest.len()));
        match parameter(path, word, devices, has_initrd, found) {
            Some(changed) if changed.is_empty() => {
                new.truncate(new.trim_end_matches(' ').len());
            }
            Some(changed) => new.push_str(&changed),
            None => new.push_str(word),
        }
        rest = after;
    }
    new
}

/// What is to be in a word's place; nothing where it stays, and an empty one where it goes.
fn parameter(
    path: &str,
    word: &str,
    devices: &Devices,
    has_initrd: bool,
    found: &mut Findings,
) -> Option<String> {
    // A variable of a boot loader may begin with a parameter: kernelopts=root=/dev/sda1
    let (before, word) = match word.split_once("=root=") {
        Some((name, _)) => word.split_at(name.len() + 1),
        None => ("", word),
    };
    if let Some(device) = word.strip_prefix(ROOT) {
        if !device.starts_with("/dev/") && !device.contains('=') {
            return None;
        }
        let there = match (devices.meaning(device), devices.root()) {
            (Meaning::Holds, _) => return None,
            (Meaning::Is(there), _) | (_, Some(there)) => there,
            (_, None) => {
                found.add(format!(
                    "{path}: the kernel's root is {device}, which is on no disk that was restored"
                ));
                return None;
            }
        };
        return match identity(there, has_initrd) {
            Some(identity) => Some(format!("{before}{ROOT}{identity}")),
            None => {
                found.add(format!("{path}: the kernel's root is {device}, and nothing else is known to name it by: the machine may not start"));
                None
            }
        };
    }
    if let Some(volume) = word.strip_prefix(VOLUME) {
        return devices.lacks_volume(volume).then(|| {
            found.add(format!("{path}: {word} is on no disk that was restored, and was removed"));
            String::new()
        });
    }
    let (key, device) = RESUME.iter().find_map(|key| Some((*key, word.strip_prefix(key)?)))?;
    match devices.meaning(device) {
        Meaning::Holds => None,
        Meaning::Is(there) => identity(there, true).map(|identity| format!("{key}{identity}")),
        Meaning::Gone | Meaning::Unclear => {
            found.add(format!("{path}: {word} names no disk that was restored, and was removed"));
            Some(if key == "RESUME=" { "RESUME=none".to_owned() } else { String::new() })
        }
    }
}

fn identity(device: &Device, has_initrd: bool) -> Option<String> {
    let of = |name: &str, value: &str| (!value.is_empty()).then(|| format!("{name}={value}"));
    match has_initrd {
        true => of("UUID", &device.uuid),
        false => of("PARTUUID", &device.part_uuid),
    }
}

/// A block of variables keeps its size.
fn environment(path: &str, text: &str, new: &str, found: &mut Findings) -> String {
    let held = new.trim_end_matches('#');
    if text.len() != ENVIRONMENT || held.len() > ENVIRONMENT {
        found.add(format!("{path}: names a device, and has no room to name it otherwise"));
        return text.to_owned();
    }
    format!("{held}{}", "#".repeat(ENVIRONMENT - held.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::failover::mend::devices::tests::two_disks;

    const ROOT_IS: &str = "0a3407de-014b-458b-b5c1-848e92a327a3";
    const SWAP_IS: &str = "f9fe0b69-a280-415d-a03a-a32752370dee";

    fn mended(path: &str, text: &str) -> (String, Vec<String>) {
        let mut found = Findings::default();
        let new = file(path, text, &two_disks(), &mut found);
        assert_eq!(file(path, &new, &two_disks(), &mut Findings::default()), new, "done twice");
        (new, found.all().to_vec())
    }

    #[test]
    fn a_menu_names_the_root_by_identity() {
        let menu = "\
### BEGIN /etc/grub.d/10_linux ###
# root=/dev/sda1 in a comment
menuentry 'Debian GNU/Linux' --class debian {
\tset root='hd0,msdos1'
\tsearch --no-floppy --fs-uuid --set=root 0a3407de-014b-458b-b5c1-848e92a327a3
\tlinux\t/boot/vmlinuz-6.1.0-18-amd64 root=/dev/sda1 ro  quiet resume=/dev/sda5 splash
\tinitrd\t/boot/initrd.img-6.1.0-18-amd64
}
";
        let expected = menu
            .replace("64 root=/dev/sda1 ro", &format!("64 root=UUID={ROOT_IS} ro"))
            .replace("resume=/dev/sda5", &format!("resume=UUID={SWAP_IS}"));
        assert_eq!(mended("/boot/grub/grub.cfg", menu), (expected, Vec::new()));
    }

    #[test]
    fn a_kernel_without_a_first_file_system_gets_a_partition() {
        let menu = "linux /vmlinuz root=/dev/vda1 ro console=ttyS0\nboot\n";
        let expected = format!("linux /vmlinuz root=PARTUUID=part-of-{ROOT_IS} ro console=ttyS0\nboot\n");
        assert_eq!(
            mended("/boot/grub/grub.cfg", menu).0,
            expected,
            "a name of nobody's is the root all the same"
        );
    }

    #[test]
    fn settings_that_ask_for_names_do_not_any_more() {
        let text = "GRUB_TIMEOUT=5\nGRUB_DISABLE_LINUX_UUID=\"true\"\nGRUB_CMDLINE_LINUX=\"root=/dev/sda1 resume=/dev/sdb2 quiet\"\nGRUB_CMDLINE_LINUX_DEFAULT='resume=/dev/sdb2'\n";
        let (new, found) = mended("/etc/default/grub", text);
        let expected = format!(
            "GRUB_TIMEOUT=5\nGRUB_DISABLE_LINUX_UUID=\"false\"\nGRUB_CMDLINE_LINUX=\"root=UUID={ROOT_IS} quiet\"\nGRUB_CMDLINE_LINUX_DEFAULT=''\n"
        );
        assert_eq!(new, expected);
        assert!(found.len() == 1 && found[0].contains("resume=/dev/sdb2"), "{found:?}");
        assert_eq!(mended("/etc/initramfs-tools/conf.d/resume", "RESUME=/dev/sdb2\n").0, "RESUME=none\n");
    }

    #[test]
    fn entries_and_command_lines_of_other_loaders() {
        let entry = "title Fedora\nlinux /vmlinuz-6.8\ninitrd /initramfs-6.8.img $tuned\noptions root=/dev/sda1 ro rhgb\n";
        let expected = entry.replace("/dev/sda1", &format!("UUID={ROOT_IS}"));
        assert_eq!(mended("/boot/loader/entries/x.conf", entry).0, expected);
        let line = "root=/dev/sda1 rw";
        assert_eq!(mended("/etc/kernel/cmdline", line).0, format!("root=UUID={ROOT_IS} rw"));
        for same in [
            "options root=UUID=0a3407de-014b-458b-b5c1-848e92a327a3 ro\ninitrd /i\n",
            "options root=/dev/mapper/vg--data-log--1 ro rd.lvm.lv=vg-data/log-1\ninitrd /i\n",
            "options root=zfs:tank/root ro\n",
        ] {
            assert_eq!(mended("/boot/loader/entries/y.conf", same), (same.to_owned(), Vec::new()));
        }
    }

    #[test]
    fn a_volume_that_is_not_there_is_not_waited_for() {
        let entry = |options: &str| {
            format!("initrd /i\noptions root=/dev/mapper/vg--data-log--1 ro {options} rhgb\n")
        };
        let text = entry("resume=/dev/mapper/rhel-swap rd.lvm.lv=vg-data/log-1 rd.lvm.lv=rhel/swap");
        let (new, found) = mended("/boot/loader/entries/x.conf", &text);
        assert_eq!(new, entry("rd.lvm.lv=vg-data/log-1"));
        assert!(found.len() == 2 && found[1].contains("rd.lvm.lv=rhel/swap is on no disk"), "{found:?}");
        // Where no volume was found, perhaps none can be seen.
        let (mut none, mut found) = (two_disks(), Findings::default());
        none.all.retain(|device| device.at.is_some());
        let text = "root=/dev/sda1 rd.lvm.lv=rhel/swap";
        assert!(file("/etc/kernel/cmdline", text, &none, &mut found).ends_with(" rd.lvm.lv=rhel/swap"));
        assert_eq!(found.all().len(), 0);
    }

    #[test]
    fn a_block_of_variables_keeps_its_size() {
        let block = |text: &str| format!("{text}{}", "#".repeat(1024 - text.len()));
        let head = "# GRUB Environment Block\nsaved_entry=x\n";
        let text = block(&format!("{head}kernelopts=root=/dev/sda1 ro quiet\n"));
        let (new, _) = mended("/boot/grub2/grubenv", &text);
        assert_eq!(new, block(&format!("{head}kernelopts=root=UUID={ROOT_IS} ro quiet\n")));
        let full = block(&format!("{head}kernelopts=root=/dev/sda1 {}\n", "x".repeat(950)));
        let (same, found) = mended("/boot/grub2/grubenv", &full);
        assert_eq!((same == full, found.len()), (true, 1));
    }
}
