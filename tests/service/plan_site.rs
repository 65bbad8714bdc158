//! What tests of recovery plans share: a service with a place and a directory of programs, and what is said of plans to it.
//!
//! Deliberately not here: the tests (`plans`).

use std::{
    fs,
    io::Write,
    ops::Range,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    agent::Agent,
    commits::taken_in,
    database::Strikes,
    failover::images_are,
    rig::{Rig, wait_for},
};

/// A service with a place to fail over to and a directory of programs.
pub(crate) struct Site {
    pub(crate) rig: Rig,
    /// Where machines are failed over to.
    shelf: PathBuf,
    pub(crate) scripts: PathBuf,
    /// For whatever the programs write.
    pub(crate) notes: PathBuf,
}

pub(crate) fn site(more: &str) -> Site {
    let rig = Rig::with(|dir| {
        let places =
            format!("[failover.shelf]\nkind = 'images'\ndirectory = '{}'\n", dir.join("shelf").display());
        format!("{places}[plans]\nscripts = '{}'\n{more}", dir.join("scripts").display())
    });
    Site::around(rig)
}

impl Site {
    /// A service that runs, with its place and its programs beside its data.
    pub(crate) fn around(rig: Rig) -> Site {
        let dir = rig.data().parent().unwrap().to_owned();
        let (shelf, scripts, notes) = (dir.join("shelf"), dir.join("scripts"), dir.join("notes"));
        let site = Site { rig, shelf, scripts, notes };
        for made in [&site.scripts, &site.notes] {
            fs::create_dir(made).unwrap();
            fs::set_permissions(made, fs::Permissions::from_mode(0o755)).unwrap();
        }
        site
    }

    /// A program. It finds the notes in its variable `notes`.
    pub(crate) fn script(&self, name: &str, text: &str) {
        let path = self.scripts.join(name);
        // Written by another process: one of ours that forks meanwhile would hold it open for writing, and it could not be run.
        let mut shell = Command::new("sh");
        let mut shell = shell.args(["-c", "cat >\"$0\""]).arg(&path).stdin(Stdio::piped()).spawn().unwrap();
        let text = format!("#!/bin/sh\nnotes='{}'\n{text}\n", self.notes.display());
        shell.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(shell.wait().unwrap().success());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn note(&self, name: &str) -> String {
        fs::read_to_string(self.notes.join(name)).unwrap_or_default()
    }

    /// A machine with a point for each of `writes`, and what its disks held last.
    pub(crate) fn machine(&self, seed: u64, points: u64) -> (Agent, Vec<Vec<u8>>) {
        let mut agent = Agent::enrol(&self.rig, seed);
        agent.try_session().unwrap();
        agent.new_generation();
        agent.add_disk("one", 300);
        agent.add_disk("two", 64);
        for _ in 0..points {
            agent.write(20);
            agent.commit();
        }
        taken_in(&self.rig, &agent, points);
        let held = agent.disks.iter().map(|disk| disk.content.clone()).collect();
        (agent, held)
    }

    pub(crate) fn try_set(&self, name: &str, plan: &Value) -> Result<Value, String> {
        let file = self.notes.join("plan.json");
        fs::write(&file, plan.to_string()).unwrap();
        self.rig.try_admin(&["plan", "set", name, "--file", file.to_str().unwrap()])
    }

    pub(crate) fn set(&self, plan: &Value) {
        self.try_set("shop", plan).unwrap_or_else(|err| panic!("{plan:#}: {err}"));
    }

    /// A run of the plan that was set.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let run = self.rig.admin(&[&["plan", "run", "shop"][..], arguments].concat());
        run["id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn show(&self, run: &str) -> Value {
        let document = format!("{}/v1/admin/plan-runs/{run}", self.rig.address);
        self.rig.client(None).get(document).bearer_auth(&self.rig.secret()).send().unwrap().json()
    }

    pub(crate) fn report(&self, run: &str) -> Value {
        self.rig.admin(&["plan", "report", run])
    }

    /// Waits until nothing is done of it any more.
    #[track_caller]
    pub(crate) fn rests(&self, run: &str, phase: &str) -> Value {
        let shown = wait_for("the end of the steps", || {
            let shown = self.show(run);
            (shown["phase"] != "running" && shown["waiting"].is_null()).then_some(shown)
        });
        assert_eq!(shown["phase"], phase, "{shown:#}");
        self.report(run)
    }

    #[track_caller]
    pub(crate) fn act(&self, run: &str, action: &str, phase: &str) -> Value {
        self.rig.admin(&["plan", action, run]);
        self.rests(run, phase)
    }

    /// The failover of a machine in a report.
    pub(crate) fn failover(&self, report: &Value, agent: &Agent) -> Value {
        let machines = report["machines"].as_array().unwrap();
        let machine = machines.iter().find(|one| one["machine"] == agent.machine.to_string()).unwrap();
        self.rig.admin(&["failover", "show", machine["failover"].as_str().unwrap()])
    }

    /// Failovers that there ever were of a machine.
    pub(crate) fn failovers(&self, agent: &Agent) -> usize {
        let listed = self.rig.admin(&["failover", "list", "--machine", &agent.machine.to_string()]);
        listed["failovers"].as_array().unwrap().len()
    }

    /// Has the service killed after each of these steps of a run, when that is done and cannot be noted. `ask` begins the first of them.
    pub(crate) fn struck(&mut self, strikes: &Strikes, steps: Range<usize>, ask: impl FnOnce(&Site)) {
        strikes.strike(&self.rig, steps.start, || ask(self));
        strikes.go_on(&mut self.rig, steps);
    }

    /// Demands that the report lacks nothing of a run that has come to its end with all its machines up.
    #[track_caller]
    pub(crate) fn is_whole(&self, report: &Value) {
        let machines = report["machines"].as_array().unwrap();
        assert_eq!(report["machines_up"].as_u64().unwrap() as usize, machines.len(), "{report:#}");
        for machine in machines {
            let measured = ["rto_ms", "rpo_ms"].iter().all(|name| machine[name].as_i64().is_some());
            let disks = machine["disks"].as_array().unwrap();
            let whole = |disk: &Value| disk["root"].as_str().is_some_and(|root| root.len() == 64);
            assert!(measured && !disks.is_empty() && disks.iter().all(whole), "{machine:#}");
        }
        for step in report["steps"].as_array().unwrap() {
            let ran = step["took_ms"].as_i64().is_some() && step["result"].as_str().is_some();
            assert!(ran && step["tries"].as_u64() > Some(0), "{step:#}");
        }
        let measured = ["rto_ms", "rpo_ms", "spread_ms"].iter().all(|name| report[name].as_i64().is_some());
        assert!(measured && !report["ready"].is_null(), "{report:#}");
    }

    /// Demands that a run has come to its end, and that each machine was failed over to what it held, so often in all.
    #[track_caller]
    pub(crate) fn are_failed_over(&self, report: &Value, machines: &[(Agent, Vec<Vec<u8>>)], times: usize) {
        self.is_whole(report);
        for (agent, held) in machines {
            images_are(&self.failover(report, agent), agent, held);
            assert_eq!(self.failovers(agent), times, "it was failed over twice");
        }
    }

    /// Demands that nothing of runs and their failovers is left: at the place, of what programs were given, of programs.
    #[track_caller]
    pub(crate) fn is_clean(&self) {
        assert!(self.shelf_is_empty(), "something is left at the place");
        let inputs = fs::read_dir(self.rig.data().join("plan-scripts"));
        assert_eq!(inputs.map_or(0, Iterator::count), 0, "what programs were given is left");
        let ours = self.scripts.to_str().unwrap();
        let running = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let line = fs::read_to_string(entry.ok()?.path().join("cmdline")).ok()?;
            line.contains(ours).then_some(line)
        });
        assert_eq!(running.collect::<Vec<_>>(), [""; 0], "programs still run");
    }

    pub(crate) fn shelf_is_empty(&self) -> bool {
        fs::read_dir(&self.shelf).map_or(true, |mut left| left.next().is_none())
    }
}

pub(crate) fn group(machines: &[&Agent], before: &Value, after: &Value) -> Value {
    let machines: Vec<_> = machines.iter().map(|agent| agent.machine.to_string()).collect();
    json!({ "name": format!("of {}", machines.len()), "machines": machines, "before": before, "after": after })
}

pub(crate) fn script(name: &str, limit_s: u64) -> Value {
    json!([{ "kind": "script", "script": name, "limit_s": limit_s }])
}

pub(crate) fn plan(groups: &[Value]) -> Value {
    json!({ "description": "the shop", "groups": groups })
}

pub(crate) fn millis(value: &Value) -> i64 {
    value.as_str().unwrap_or_else(|| panic!("{value}")).parse::<Timestamp>().unwrap().as_millisecond()
}

/// When the machine of a failover was up.
pub(crate) fn up(failover: &Value) -> i64 {
    millis(&failover["asked"]) + failover["took_ms"].as_i64().unwrap()
}

#[track_caller]
pub(crate) fn step<'a>(report: &'a Value, kind: &str, group: u64) -> &'a Value {
    let steps = report["steps"].as_array().unwrap();
    let found = steps.iter().rev().find(|step| step["step"] == kind && step["group"] == group);
    found.unwrap_or_else(|| panic!("{report:#}"))
}

#[track_caller]
pub(crate) fn contains(text: &Value, part: &str) {
    assert!(text.as_str().is_some_and(|text| text.contains(part)), "{part}: {text:#}");
}
