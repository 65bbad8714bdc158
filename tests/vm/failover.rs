//! A machine with a database under load is tested for failover, dies, is failed over to a host that runs QEMU, goes on there, replicates,
//! and comes back, as a machine that would not start where it comes to if its disk was not mended.
//!
//! The machine at the target is reached as its administrator reaches it: by logging in on its console. Deliberately not here: what
//! becomes of points, identities and jobs when something dies or is refused (`tests/service`).

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use mobility_tests::{
    appliance,
    requirement::Requirement,
    scratch::{eventually, try_run},
};
use serde_json::Value;

use crate::{
    database,
    guest_disk::differing,
    installed::{Installed, SOON, can_package, protected},
    machine::{BOOT, HOST, MOMENT, base_with_database},
    shell::Shell,
};

/// Makes a console a line for commands: as in the image, but on the serial port.
const CONSOLE_SHELL: &str = "sed 's#/dev/virtio-ports/test.shell#/dev/ttyS0#' /usr/local/lib/test-shell >/usr/local/lib/console-shell && \
    passwd -q -d root && sync";
/// Makes the machine one of another platform: its disk has another name there, and its kernel is started without the drivers of this
/// one's.
const FOREIGN: &str = "set -e; sed -i 's#/dev/vda1#/dev/xvda1#' /etc/fstab /boot/grub/grub.cfg
mkdir -p /run/first/etc && cd /run/first && find . | cpio --quiet -o -H newc >/boot/initrd.img-$(uname -r) && sync";
/// Says by what its root is known now, that it can be written to, and that its card was named as it is told.
const MENDED: &str = "set -e; grep -c '^UUID=.* / ' /etc/fstab; grep -o 'root=UUID=' /proc/cmdline; findmnt -no OPTIONS / | grep -o '^rw'
udevadm info /sys/class/net/e* | grep -o 'ID_NET_LINK_FILE=/etc/systemd/network/10-mobility-'";
/// A service that writes until it is told to end, and says so.
const WRITER: &str = "cat >/root/writer <<'END'
trap 'echo ended >>/srv/writer; exit' TERM
while :; do
    date >>/srv/writer
    sleep 0.2 & wait
done
END
systemd-run --quiet --unit=writer bash /root/writer && sleep 1 && systemctl is-active --quiet writer";

#[test]
fn root_vm_a_machine_is_failed_over_and_comes_back() {
    let (Some(base), Some(())) = (base_with_database(), can_package()) else { return };
    let Some(()) = Requirement::DiskTools.or_skip(appliance::found()) else { return };
    let begin = Instant::now();
    let stage = |name: &str| eprintln!("{:4} s  {name}", begin.elapsed().as_secs());
    let mut guest = Installed::new(&base);
    with_places(&mut guest);
    let _ended = EndsWithTheTest(["lab", "home"].map(|name| place(&guest, name)));
    guest.machine.run(CONSOLE_SHELL);
    database::with_script(&mut guest);
    guest.wait_for("protection", protected);
    database::begin_load(&mut guest.machine);
    guest.next_point();
    stage("protected, under load");
    a_test_disturbs_nothing(&mut guest);
    stage("tested");

    let earlier = guest.next_point();
    guest.machine.run_for("mobility-agent point --app-consistent", SOON);
    guest.next_point();
    let durable = durable(&guest.machine.run("cat /run/durable"));
    let image = guest.scratch.path("at-failover");
    guest.machine.cut_power();
    let over = start(&guest, &["--kind", "unplanned", "--to", "lab"]);
    stage("failed over");
    let (newest, _) = holds_what_it_promises(&guest, &over, &durable);
    let id = over["id"].as_str().unwrap().to_owned();
    let over = act(&guest, &id, &["change-point", "--point", earlier.listed["time"].as_str().unwrap()]);
    assert_eq!(over["chosen"]["id"], earlier.listed["id"]);
    let (oldest, _) = holds_what_it_promises(&guest, &over, &durable);
    stage("from an earlier point");
    let over = act(&guest, &id, &["change-point", "--point", "latest-app-consistent"]);
    assert_eq!(over["chosen"]["consistency"], "application");
    let (older, mut there) = holds_what_it_promises(&guest, &over, &durable);
    assert!(oldest < older && older < newest, "{oldest}, {older} and {newest} rows");
    stage("from the point that the database was told of");

    let last = guest.points().into_iter().max_by_key(|point| point.listed["epoch"].as_u64()).unwrap();
    let last = guest.restore(&last, &image);
    act(&guest, &id, &["commit"]);
    ask(&mut there, &database::adding("written at the target"));
    act(&guest, &id, &["reprotect"]);
    stage("protected again");
    only_differences_were_sent(&guest, &mut there, &last);

    // What it says at its very end is there after coming back, and it is not made durable by itself.
    ask(&mut there, &database::adding("shortly before coming back"));
    ask(&mut there, FOREIGN);
    ask(&mut there, WRITER);
    // A console that nobody reads any more would hold up what writes there: the machine could not stop.
    drop(there);
    let back = start(&guest, &["--kind", "planned", "--to", "home"]);
    assert_eq!(back["chosen"]["epoch"], back["source"]["last"]["epoch"], "{back:#}");
    let mut home = log_in(&back);
    assert_eq!(ask(&mut home, "tail -n 1 /srv/writer"), "ended");
    assert_eq!(ask(&mut home, database::WORDS), "written at the target\nshortly before coming back");
    assert_eq!(database::held(|command| ask(&mut home, command)), older);
    let mended = ask(&mut home, MENDED);
    assert_eq!(mended, "1\nroot=UUID=\nrw\nID_NET_LINK_FILE=/etc/systemd/network/10-mobility-", "{back:#}");
    eventually("the machine at the target to be off", SOON, || is_off(&guest, "lab", &id).then_some(()));
    act(&guest, &id, &["remove"]);
    assert!(is_empty(&guest, "lab"), "something is left of the machine at the target");
    stage("came back");
    act(&guest, back["id"].as_str().unwrap(), &["cancel"]);
    assert!(is_empty(&guest, "home"));
}

/// Ends machines at these places, which do not end with the service.
struct EndsWithTheTest([PathBuf; 2]);

impl Drop for EndsWithTheTest {
    fn drop(&mut self) {
        for machine in self.0.iter().flat_map(fs::read_dir).flatten().flatten() {
            if let Ok(pid) = fs::read_to_string(machine.path().join("qemu.pid")) {
                // It may have ended by itself.
                let _ = try_run("kill", &["-KILL", pid.trim()]);
            }
        }
    }
}

/// Where the machines of a place are.
fn place(guest: &Installed, name: &str) -> PathBuf {
    guest.scratch.path(name)
}

fn is_empty(guest: &Installed, name: &str) -> bool {
    fs::read_dir(place(guest, name)).unwrap().next().is_none()
}

/// Whether nothing runs the machine of a failover any more.
fn is_off(guest: &Installed, place_name: &str, id: &str) -> bool {
    let pid = fs::read_to_string(place(guest, place_name).join(id).join("qemu.pid"));
    pid.map_or(true, |pid| try_run("kill", &["-0", pid.trim()]).is_err())
}

/// Starts the service anew, with two places to fail over to.
fn with_places(guest: &mut Installed) {
    let table = |name: &str, mend: &str| {
        let directory = place(guest, name);
        format!(
            "[failover.{name}]\nkind = 'qemu'\nacceleration = 'tcg'\nformat = 'qcow2'\nbooted = 'guest login:'\nmend = '{mend}'\ndirectory = '{}'\n",
            directory.display()
        )
    };
    guest.service.configure(&format!("{}{}", table("lab", "no"), table("home", "yes")));
    guest.service.stop();
    guest.service.start();
}

/// Begins a failover, and waits until the machine is up.
fn start(guest: &Installed, arguments: &[&str]) -> Value {
    let machine = guest.machine_id();
    let begun = guest.service.admin(&[&["failover", "start", &machine][..], arguments].concat());
    let id = begun["id"].as_str().unwrap();
    // One that failed says so by its exit code as well, and shows less.
    let _ = guest.service.try_admin(&["failover", "watch", id]);
    let over = guest.service.admin(&["failover", "show", id]);
    for step in over["steps"].as_array().unwrap() {
        eprintln!("        {}: {}", step["step"].as_str().unwrap(), step["result"].as_str().unwrap());
    }
    assert_eq!((&over["phase"], &over["booted"]), (&"ready".into(), &true.into()), "{over:#}");
    over
}

fn act(guest: &Installed, id: &str, arguments: &[&str]) -> Value {
    guest.service.admin(&[&["failover", arguments[0], id, "--wait"][..], &arguments[1..]].concat())
}

/// Which rows were acknowledged, and when, in microseconds.
fn durable(text: &str) -> Vec<(u64, i64)> {
    let line = |line: &str| {
        let (number, time) = line.split_once(' ')?;
        Some((number.parse().ok()?, time.replace(['.', ','], "").parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// Demands that all rows are there that were acknowledged before the point; how many there are, and the line to the machine.
#[track_caller]
fn holds_what_it_promises(guest: &Installed, over: &Value, durable: &[(u64, i64)]) -> (u64, Shell) {
    let mut there = log_in(over);
    let held = database::held(|command| ask(&mut there, command));
    let time: Timestamp = over["chosen"]["time"].as_str().unwrap().parse().unwrap();
    let before = durable.iter().filter(|(_, at)| *at <= time.as_microsecond());
    let promised = before.map(|(number, _)| *number).max().unwrap_or(0);
    assert!(promised > 0 && held >= promised, "{held} rows, and {promised} were acknowledged: {over:#}");
    // It must not go on with the identity of the machine: it is told to wait.
    let machine = guest.machine_id();
    let shown = guest.service.admin(&["machine", "show", &machine]);
    assert_eq!(shown["generation"].as_u64(), over_generation(guest), "somebody replicates");
    (held, there)
}

/// The newest generation of the points.
fn over_generation(guest: &Installed) -> Option<u64> {
    guest.points().iter().filter_map(|point| point.listed["generation"].as_u64()).max()
}

/// A test: the machine goes on replicating, its copy reaches nobody, and nothing is left.
fn a_test_disturbs_nothing(guest: &mut Installed) {
    let test = start(guest, &["--kind", "test", "--to", "lab", "--point", "latest-processed"]);
    let mut copy = log_in(&test);
    assert!(database::held(|command| ask(&mut copy, command)) > 0);
    let port = guest.service.own_address().rsplit(':').next().unwrap().to_owned();
    let reach =
        format!("timeout 10 bash -c '</dev/tcp/{HOST}/{port}' 2>/dev/null && echo reached || echo cut off");
    assert_eq!((guest.machine.run(&reach), ask(&mut copy, &reach)), ("reached".into(), "cut off".into()));
    guest.next_point();
    drop(copy);
    act(guest, test["id"].as_str().unwrap(), &["cancel"]);
    assert!(is_empty(guest, "lab"), "something is left of the test");
    let name = format!("failover-{}", test["id"].as_str().unwrap());
    let running = try_run("pgrep", &["-f", &name]);
    assert!(running.is_err(), "QEMU still runs");
    guest.wait_for("protection", protected);
}

/// Demands that the machine at the target sent no more than what differs from the newest point that there was.
fn only_differences_were_sent(guest: &Installed, there: &mut Shell, before: &Path) {
    let status: Value = serde_json::from_str(&ask(there, "mobility-agent status --json")).unwrap();
    let sent = status["agents"][0]["uploaded"].as_u64().unwrap();
    let newest = guest.points().into_iter().max_by_key(|point| point.listed["epoch"].as_u64()).unwrap();
    let after = guest.restore(&newest, &guest.scratch.path("protected-again"));
    let changed = differing(before, &after);
    eprintln!("        reprotect: {sent} bytes were sent, blocks of {changed} bytes differ");
    assert!(changed > 0 && sent * 10 <= changed * 11, "{sent} bytes were sent for {changed}");
}

/// Logs in on the console of a failover's machine, as root.
fn log_in(over: &Value) -> Shell {
    let image = Path::new(over["disks"][0]["path"].as_str().unwrap());
    let mut stream = UnixStream::connect(image.parent().unwrap().join("console")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(b"root\n").unwrap();
    let (begin, mut said) = (Instant::now(), Vec::new());
    while !said.ends_with(b"# ") {
        assert!(begin.elapsed() < BOOT, "no login: {}", String::from_utf8_lossy(&said));
        let mut some = [0; 256];
        match stream.read(&mut some) {
            Ok(0) => panic!("the console ended: {}", String::from_utf8_lossy(&said)),
            Ok(length) => said.extend_from_slice(&some[..length]),
            // It may have asked for another name meanwhile.
            Err(_) if said.ends_with(b"login: ") => stream.write_all(b"root\n").unwrap(),
            Err(_) => {}
        }
    }
    stream.write_all(b"stty raw -echo; exec bash /usr/local/lib/console-shell\n").unwrap();
    let mut shell = Shell::over(stream);
    // What is said before the other side listens is lost.
    eventually("the console's answer", MOMENT, || {
        shell.ask_within("true", MOMENT, Duration::from_secs(5)).filter(|answer| answer.code == 0)
    });
    shell
}

/// What a command prints that has to succeed.
#[track_caller]
fn ask(shell: &mut Shell, command: &str) -> String {
    // A database that looks at all it has takes more than a moment.
    let answer = shell.ask(command, SOON).unwrap_or_else(|| panic!("no answer: {command}"));
    assert_eq!(answer.code, 0, "{command}\n{}", answer.printed);
    answer.printed.trim_end().to_owned()
}
