//! Stops whatever writes on this machine, in the order that the service manager knows; starts it again; switches the machine off.
//!
//! What writes is stopped by isolating a target that the package brings: it needs what a system needs to live, and the agent. By
//! what the agent reaches the service, the machine's disks and names is found out now, since a unit that does not run here must not be
//! started for that, and is kept. Deliberately not here: for whom, and the last point (`replicate::halt`).

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use crate::manager::{Manager, ManagerError};

/// What the machine runs that is halted.
const HALTED: &str = "mobility-agent-halted.target";
/// What it runs usually.
const USUAL: &str = "default.target";
/// What it runs last.
const OFF: &str = "poweroff.target";
/// Between two looks at what is being stopped.
const LOOK: Duration = Duration::from_millis(200);
/// What keeps the network, names and remote disks up, whichever of it there is.
const KEPT: [&str; 35] = [
    "systemd-networkd*",
    "systemd-resolved*",
    "NetworkManager*",
    "networking.service",
    "network.service",
    "network*.target",
    "nss-*lookup.target",
    "netplan-*",
    "ifup@*",
    "dhcpcd*",
    "dhclient*",
    "wicked*",
    "connman*",
    "wpa_supplicant*",
    "iwd.service",
    "dbus.socket",
    "dbus*.service",
    "nscd*",
    "dnsmasq.service",
    "unbound.service",
    "nftables.service",
    "iptables.service",
    "ip6tables.service",
    "firewalld.service",
    "ufw.service",
    "netfilter-persistent.service",
    "wg-quick@*",
    "openvpn*",
    "strongswan*",
    "tailscaled.service",
    "iscsi*",
    "open-iscsi*",
    "multipathd*",
    "nvmf*",
    "drbd*",
];

/// What the machine's operator allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StopSettings {
    /// Whether the recovery service may have the machine stopped.
    pub(crate) allow: bool,
    /// Patterns of units that are kept besides the usual ones.
    pub(crate) keep: Vec<String>,
    /// How long stopping may take.
    pub(crate) limit: Duration,
    /// Where the service manager listens.
    pub(crate) manager: PathBuf,
}

/// Stops what writes. Where that goes wrong, or is not wanted any more, all of it is started again.
///
/// # Errors
/// Why it was not done, and what is stopped now.
pub(crate) fn halt(settings: &StopSettings, cancelled: &dyn Fn() -> bool) -> Result<(), String> {
    let before = |err: ManagerError| format!("{err}; nothing was stopped");
    let mut manager = Manager::connect(&settings.manager).map_err(before)?;
    let patterns: Vec<_> = KEPT.iter().map(|&unit| unit.to_owned()).chain(settings.keep.clone()).collect();
    let kept = manager.units(&["active", "activating", "reloading"], &patterns).map_err(before)?;
    tracing::info!("the machine is halted; these go on: {}", kept.join(", "));
    manager.add_needs(HALTED, &kept).map_err(before)?;
    manager.start(HALTED, "isolate").map_err(before)?;
    let stopped = stop_all(&mut manager, settings.limit, cancelled);
    stopped.map_err(|reason| match go_on(settings) {
        Ok(()) => format!("{reason}; what was stopped is started again"),
        Err(problem) => format!("{reason}; {problem}"),
    })
}

fn stop_all(manager: &mut Manager, limit: Duration, cancelled: &dyn Fn() -> bool) -> Result<(), String> {
    let end = Instant::now() + limit;
    idle(manager, end, limit, cancelled)?;
    // Isolating leaves alone what others have started: sessions of users, containers.
    let scopes = manager.units(&["running"], &["*.scope"]).map_err(|err| err.to_string())?;
    for scope in scopes.iter().filter(|scope| *scope != "init.scope") {
        manager.stop(scope).map_err(|err| err.to_string())?;
    }
    idle(manager, end, limit, cancelled)
}

/// Waits until nothing is being started or stopped.
fn idle(
    manager: &mut Manager,
    end: Instant,
    limit: Duration,
    cancelled: &dyn Fn() -> bool,
) -> Result<(), String> {
    loop {
        let busy = manager.busy().map_err(|err| err.to_string())?;
        if busy.is_empty() {
            return Ok(());
        }
        if cancelled() {
            return Err("it is not wanted any more".to_owned());
        }
        if Instant::now() >= end {
            let (limit, some) = (limit.as_secs(), busy.iter().take(8).cloned().collect::<Vec<_>>());
            return Err(format!("{} had not ended after {limit} s (stop.limit)", some.join(", ")));
        }
        thread::sleep(LOOK);
    }
}

/// Begins to start again what was stopped.
///
/// # Errors
/// Why not, and what to do.
pub(crate) fn go_on(settings: &StopSettings) -> Result<(), String> {
    let started = Manager::connect(&settings.manager).and_then(|mut manager| manager.start(USUAL, "isolate"));
    started.map_err(|err| {
        format!("what was stopped is not started again: {err}; run `systemctl isolate {USUAL}`")
    })
}

/// Begins to switch the machine off.
///
/// # Errors
/// Why not.
pub(crate) fn switch_off(settings: &StopSettings) -> Result<(), String> {
    let mut manager = Manager::connect(&settings.manager).map_err(|err| err.to_string())?;
    match manager.start(OFF, "replace-irreversibly") {
        // Where nothing is left to be stopped, it goes off before it answers.
        Ok(()) | Err(ManagerError::Unreachable { .. }) => Ok(()),
        Err(refused) => Err(refused.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manager::stand_in::StandIn;

    fn settings(manager: &StandIn) -> StopSettings {
        let manager = manager.path().to_owned();
        StopSettings {
            allow: true,
            keep: vec!["squid.service".to_owned()],
            limit: Duration::from_secs(1),
            manager,
        }
    }

    #[test]
    fn what_writes_is_stopped_and_what_leads_to_the_service_is_kept() {
        let manager = StandIn::new();
        halt(&settings(&manager), &|| false).unwrap();
        let asked = manager.asked();
        let names: Vec<_> = asked.iter().map(|(member, _)| member.as_str()).collect();
        let expected = [
            "ListUnitsByPatterns",
            "AddDependencyUnitFiles",
            "Reload",
            "StartUnit",
            "ListJobs",
            "ListJobs",
            "ListUnitsByPatterns",
            "StopUnit",
            "ListJobs",
        ];
        assert_eq!(names, expected);
        let said =
            |at: usize, text: &str| asked[at].1.windows(text.len()).any(|part| part == text.as_bytes());
        assert!(said(0, "systemd-networkd*") && said(0, "squid.service"));
        assert!(said(1, "kept.service") && said(1, HALTED) && said(1, "Wants"));
        assert!(said(3, HALTED) && said(3, "isolate"));
        assert!(said(7, "session-1.scope"), "init.scope would be all there is");
        go_on(&settings(&manager)).unwrap();
        switch_off(&settings(&manager)).unwrap();
        let asked = manager.asked();
        let said =
            |at: usize, text: &str| asked[at].1.windows(text.len()).any(|part| part == text.as_bytes());
        assert!(said(9, USUAL) && said(9, "isolate"));
        assert!(said(10, OFF) && said(10, "replace-irreversibly"));
    }

    #[test]
    fn what_cannot_be_stopped_is_started_again() {
        let manager = StandIn::new().busy_for(usize::MAX);
        let reason = halt(&settings(&manager), &|| false).unwrap_err();
        assert!(
            reason.contains("slow.service had not ended after 1 s") && reason.contains("started again"),
            "{reason}"
        );
        let asked = manager.asked();
        let (member, body) = asked.last().unwrap();
        assert!(member == "StartUnit" && body.windows(USUAL.len()).any(|part| part == USUAL.as_bytes()));
        let reason = halt(&settings(&manager), &|| true).unwrap_err();
        assert!(reason.contains("not wanted any more"), "{reason}");
    }

    #[test]
    fn where_nothing_can_be_stopped_it_says_so() {
        let manager = StandIn::new().refusing("AddDependencyUnitFiles");
        let reason = halt(&settings(&manager), &|| false).unwrap_err();
        assert!(reason.contains("is transient") && reason.contains("nothing was stopped"), "{reason}");
        let nowhere = StopSettings { manager: "/nonexistent/private".into(), ..settings(&manager) };
        let reason = halt(&nowhere, &|| false).unwrap_err();
        assert!(reason.contains("systemd cannot be asked at /nonexistent/private"), "{reason}");
        assert!(go_on(&nowhere).unwrap_err().contains("systemctl isolate default.target"));
        assert!(switch_off(&nowhere).is_err());
    }
}
