//! The agent that the demo runs: this very program, as a process of its own.
//!
//! Deliberately not here: anything that a user could not do by hand with the same flags.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, ensure};
use mobility_capture::ebpf;
use rustix::process::{Pid, Signal, kill_process};

pub(super) struct Agent {
    child: Child,
    vault: PathBuf,
    log: PathBuf,
}

impl Agent {
    /// Starts protecting `disk`, with a point every second.
    pub(super) fn start(vault: &Path, disk: &Path, runtime_dir: &Path) -> anyhow::Result<Agent> {
        let program = std::env::current_exe().context("this program does not know where it is")?;
        let log = runtime_dir.with_extension("log");
        let child = Command::new(program)
            .args(["run", "--debug", "--interval", "1s", "--vault"])
            .arg(vault)
            .arg("--disk")
            .arg(disk)
            .arg("--runtime-dir")
            .arg(runtime_dir)
            // The configuration of this machine, if it has one, is none of the demo's.
            .arg("--config-root")
            .arg(runtime_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).with_context(|| format!("cannot make {}", log.display()))?)
            .spawn()
            .context("the agent cannot be started")?;
        Ok(Agent { child, vault: vault.to_owned(), log })
    }

    /// Ends the agent as an operator would, and the tracker that it leaves in the kernel.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        self.signal(Signal::TERM);
        let status = self.child.wait()?;
        ensure!(
            status.success(),
            "the agent failed: {}",
            std::fs::read_to_string(&self.log).unwrap_or_default()
        );
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself; then waiting says so.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
        let machines = mobility_recovery::Vault::open(&self.vault).and_then(|vault| Ok(vault.machines()?));
        for machine in machines.unwrap_or_default() {
            // Without the right to have made any there are none.
            let _ = ebpf::remove_all(&Path::new(ebpf::DEFAULT_PIN_ROOT).join(machine.to_string()));
        }
    }
}
