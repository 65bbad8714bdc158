//! Ends of an agent that nobody asked for, as systemd sees them: killed in the middle of a freeze, with its guard or without, and hung.
//!
//! What is frozen is the root file system that all of them live on. Deliberately not here: every step of a freeze (`root/freeze`), where a thousand
//! agents end.

use std::time::{Duration, Instant};

use crate::installed::{Installed, SOON, protected};

/// How long writes may be held: long enough that it is not what ends a freeze here.
const LIMIT: Duration = Duration::from_secs(5);
/// How long systemd waits until it starts the agent again.
const AGAIN: Duration = Duration::from_secs(10);
/// How often a kill may come too late.
const TRIES: usize = 4;
/// Where systemd keeps the agent's processes.
const GROUP: &str = "/sys/fs/cgroup/system.slice/mobility-agent.service";

/// Writes to the root again and again, and says when it has.
const WRITER: &str = "while [ -e /run/pulsing ]; do : >/srv/pulse; echo $EPOCHREALTIME >/run/pulse; cat /run/pulse; sleep 0.02; done";
/// Whether the record names something frozen.
const NAMED: &str = "[ -s /run/mobility-agent/*.frozen ]";
/// Whether, besides, the writer has been waiting for a tenth of a second.
const HELD: &str = "{ [ -s /run/mobility-agent/*.frozen ] && read -r pulse </run/pulse && (( ${EPOCHREALTIME/./} - ${pulse/./} > 100000 )); }";

pub(crate) fn an_agent_that_ends_in_a_freeze_leaves_nothing_frozen(guest: &mut Installed) {
    guest.protect(&format!("cut = 'freeze'\n[limits]\nfreeze-limit = '{}s'", LIMIT.as_secs()));
    let before = guest.wait_for("protection", protected);
    let point = guest.next_point();
    assert_eq!(point.cut("method"), "freeze", "{point:?}");
    // Its guard sees that it is gone.
    let held = killed(guest, "kill -9 $pid", |_, printed| printed.contains("still named"));
    eprintln!("the agent killed: the root was held for {held:?}");
    assert!(held < LIMIT, "it was the limit that thawed, after {held:?}");
    // The command that systemd runs when all of a unit is gone sees what is left.
    let thawed = |guest: &mut Installed, _: &str| guest.log().contains("it is thawed");
    let held = killed(guest, &format!("echo 1 >{GROUP}/cgroup.kill"), thawed);
    eprintln!("the agent and its guard killed: the root was held for {held:?}");
    assert!(held < AGAIN, "it was the next agent that thawed, after {held:?}");
    let after = guest.wait_for("its protection", protected);
    assert_eq!(after["generation"], before["generation"], "it compared the disk: {after}");
}

/// Kills in this way while a writer is held; for how long it was held at the longest until the next agent had made a point. `hit` says whether the
/// kill came while there was something to thaw.
fn killed(guest: &mut Installed, how: &str, hit: impl Fn(&mut Installed, &str) -> bool) -> Duration {
    for _ in 0..TRIES {
        let before = guest.wait_for("a state", protected);
        guest.machine.run(&format!("touch /run/pulsing; ({WRITER} >/run/pulses 2>&1 &)"));
        let pid = "systemctl show --property=MainPID --value mobility-agent";
        let answer = guest
            .machine
            .ask(&format!("pid=$({pid}); until {HELD}; do :; done; {how}; {NAMED} && echo still named"));
        guest.wait_for("the next agent", |status| status["pid"] != before["pid"] && protected(status));
        guest.next_point();
        guest.machine.run("rm /run/pulsing");
        let longest = "awk 'last && $1 - last > most { most = $1 - last } { last = $1 } END { print most }' /run/pulses";
        let longest: f64 = guest.machine.run(longest).parse().unwrap();
        if hit(guest, &answer.printed) {
            return Duration::from_secs_f64(longest);
        }
        eprintln!("a kill met no freeze");
    }
    panic!("no kill met a freeze");
}

pub(crate) fn an_agent_that_hangs_is_started_again(guest: &mut Installed) {
    const DIR: &str = "/run/systemd/system/mobility-agent.service.d";
    guest.machine.run(&format!(
        "mkdir -p {DIR} && printf '[Service]\\nWatchdogSec=15\\n' >{DIR}/tests.conf && systemctl daemon-reload"
    ));
    guest.protect("");
    let before = guest.wait_for("protection", protected);
    let begin = Instant::now();
    guest.machine.run("kill -STOP $(systemctl show --property=MainPID --value mobility-agent)");
    guest.wait_for("the next agent", |status| status["pid"] != before["pid"] && protected(status));
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    let said = guest.machine.run("journalctl -b -u mobility-agent -o cat --no-pager | grep -i watchdog");
    eprintln!("hung: the next agent protects after {} s; {}", begin.elapsed().as_secs(), said.trim());
    assert!(said.contains("Watchdog timeout"), "{said}");
    guest.next_point();
    let after = guest.wait_for("its protection", protected);
    assert_eq!(after["generation"], before["generation"], "it compared the disk: {after}");
}
