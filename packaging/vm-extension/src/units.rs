//! What systemd does for us: it runs the agent, and every minute the handler, so that status and heartbeat follow the agent.
//!
//! The handler starts no daemon by itself: that one would live in the control group of the guest agent's command, and end with it.
//! Deliberately not here: the agent's own unit, which comes with its package.

use std::{path::Path, process::Command, time::Duration};

use crate::{
    child::{self, Outcome},
    failure::{Cause, Failure},
    files::{remove, replace},
    place::Place,
};

const AGENT: &str = "mobility-agent.service";
const TIMER: &str = "mobility-agent-extension.timer";
const HEARTBEAT: &str = "mobility-agent-extension.service";
const DIR: &str = "/etc/systemd/system";
/// How long systemd may take for one thing. Starting the agent means waiting until it is ready.
const LONGEST: Duration = Duration::from_secs(100);

/// Whether systemd is what runs this machine's services.
pub(crate) fn are_possible(place: &Place) -> bool {
    systemctl(place, &["--version"]).is_ok_and(|outcome| outcome.succeeded())
}

/// Whether the agent's unit runs.
pub(crate) fn agent_runs(place: &Place) -> bool {
    systemctl(place, &["is-active", "--quiet", AGENT]).is_ok_and(|outcome| outcome.succeeded())
}

/// Starts the agent, now and at each start of the machine.
pub(crate) fn start_agent(place: &Place) -> Result<(), Failure> {
    must(place, &["enable", "--now", AGENT]).map_err(|failure| Failure {
        message: format!("{}; `journalctl -u mobility-agent` says why", failure.message),
        ..failure
    })
}

/// Has `handler` look after the agent every minute.
pub(crate) fn start_heartbeat(place: &Place, handler: &Path) -> Result<(), Failure> {
    let handler = handler.display();
    let service = format!(
        "[Unit]\nDescription=Tells the guest agent how the mobility agent is\nConditionPathExists={handler}\n\
         [Service]\nType=oneshot\nExecStart=/bin/sh {handler} heartbeat\nTimeoutStartSec=60\nNice=5\nUMask=0077\n"
    );
    let timer = "[Unit]\nDescription=Tells the guest agent every minute how the mobility agent is\n\
         [Timer]\nOnActiveSec=30\nOnUnitActiveSec=60\nAccuracySec=10\n[Install]\nWantedBy=timers.target\n";
    let dir = place.path(DIR);
    for (name, content) in [(HEARTBEAT, service.as_str()), (TIMER, timer)] {
        let path = dir.join(name);
        std::fs::create_dir_all(&dir)
            .and_then(|()| replace(&path, content.as_bytes(), false))
            .map_err(|err| Failure::other(path.display(), err))?;
    }
    must(place, &["daemon-reload"])?;
    must(place, &["enable", "--now", TIMER])
}

/// Ends both, and takes away what was made here. What is not there is as good as ended.
pub(crate) fn stop(place: &Place) -> Result<(), Failure> {
    let _ = systemctl(place, &["disable", "--now", TIMER]);
    for name in [TIMER, HEARTBEAT] {
        let path = place.path(DIR).join(name);
        remove(&path).map_err(|err| Failure::other(path.display(), err))?;
    }
    let stopped = must(place, &["disable", "--now", AGENT]);
    must(place, &["daemon-reload"])?;
    // Without the package there is no such unit to disable.
    if agent_runs(place) { stopped } else { Ok(()) }
}

fn must(place: &Place, arguments: &[&str]) -> Result<(), Failure> {
    let outcome = systemctl(place, arguments)?;
    match outcome.succeeded() {
        true => Ok(()),
        false => {
            let message = format!("systemctl {}: {}", arguments.join(" "), outcome.reason());
            Err(Failure::new(Cause::Other, message))
        }
    }
}

fn systemctl(place: &Place, arguments: &[&str]) -> Result<Outcome, Failure> {
    let mut command = Command::new("systemctl");
    command.args(arguments);
    child::run(command, b"", place.within(LONGEST))
}
