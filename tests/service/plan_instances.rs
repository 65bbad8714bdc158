//! Several instances share a PostgreSQL database, and the one that does a plan run is killed, or stands still until it has lost its claim:
//! another one goes on, no machine is failed over twice, and no program runs more often than is documented.
//!
//! PostgreSQL is the real one and needs a user of its own, so this needs root. Deliberately not here: points that are made meanwhile
//! (`root/instances`), and one instance (`plans`).

use std::{fs, os::unix::fs::PermissionsExt};

use mobility_tests::{
    dice::Dice,
    load_postgresql::{Programs, Server},
    object_stores::free_port,
    requirement::Requirement,
    scratch::root_with,
    service_process::ServiceProcess,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    agent::Agent,
    database::Database,
    plan_site::{Site, group, plan, script, step},
    rig::{Rig, wait_for},
};

/// Instances that do plan runs.
const WORKERS: usize = 3;

/// One instance that is asked, and does nothing of plans; and others that do.
struct Instances {
    // In this order: instances end before what they use.
    workers: Vec<ServiceProcess>,
    desk: Site,
    _server: Server,
}

impl Instances {
    fn new() -> Option<Instances> {
        root_with(&["setpriv"])?;
        let programs = Requirement::Root.or_skip(Programs::find())?;
        let dir = TempDir::new().unwrap();
        // The database's user has to get through.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = |name: &str| dir.path().join(name);
        let server = Server::fresh(&programs, dir.path());
        let database = Database::on(&server.address("{}"));
        let ports: Vec<u16> = (0..=WORKERS).map(|_| free_port()).collect();
        let addresses: Vec<String> = ports.iter().map(|port| format!("'https://127.0.0.1:{port}'")).collect();
        let shared = format!(
            "{}secrets = '{}'\naddresses = [{}]\n[storage.cache]\nkind = 'directory'\npath = '{storage}'\n\
             [storage.target]\nkind = 'directory'\npath = '{storage}'\n",
            database.configuration(),
            path("secrets").display(),
            addresses.join(", "),
            storage = path("storage").display(),
        );
        let plans = format!(
            "[failover.shelf]\nkind = 'images'\ndirectory = '{}'\n[plans]\nscripts = '{}'\nmachines-at-once = 1\n",
            path("shelf").display(),
            path("scripts").display()
        );
        let desk = ServiceProcess::instance(path("desk"), ports[0], &shared);
        let worker = |(number, port): (usize, &u16)| {
            ServiceProcess::instance(path(&format!("worker-{number}")), *port, &format!("{shared}{plans}"))
        };
        let workers = ports[1..].iter().enumerate().map(worker).collect();
        let desk = Site::around(Rig::around(desk, database, shared, dir));
        Some(Instances { workers, desk, _server: server })
    }

    fn begin(&self, worker: usize) -> String {
        let run = self.workers[worker].admin(&["plan", "run", "shop", "--kind", "unplanned"]);
        run["id"].as_str().unwrap().to_owned()
    }

    /// The instance that ran a program last, as that has noted.
    fn at_work(&self) -> usize {
        let pid = wait_for("a program to say who runs it", || {
            self.desk.note("by").lines().last()?.parse::<u32>().ok()
        });
        self.workers.iter().position(|worker| worker.is_running() && worker.pid() == pid).unwrap()
    }

    /// The time is up that an instance held its claims for which holds that of a run.
    fn claims_end(&self, run: &str) {
        let of = format!("SELECT split_part(claimed_by, '-', 1) FROM plan_runs WHERE id = '{run}'");
        for table in ["failovers", "plan_runs"] {
            self.desk.rig.database.change(&format!(
                "UPDATE {table} SET claimed_until = 1 WHERE split_part(claimed_by, '-', 1) = ({of})"
            ));
        }
    }

    /// Demands that a run has come to its end as if one instance had done all of it.
    #[track_caller]
    fn is_ready(&self, run: &str, machines: &[(Agent, Vec<Vec<u8>>)], before: usize) {
        let report = self.desk.rests(run, "ready");
        self.desk.are_failed_over(&report, machines, before + 1);
    }
}

#[test]
fn root_another_instance_goes_on_with_a_run_and_nothing_is_done_twice() {
    let Some(mut all) = Instances::new() else { return };
    let machines: Vec<_> = (1..=4).map(|seed| all.desk.machine(seed, 1)).collect();
    let [a, b, c, d] = [0, 1, 2, 3].map(|number: usize| &machines[number].0);
    let says = "echo $PPID >>\"$notes/by\"; echo $RECOVERY_TRY $$ >>\"$notes/";
    all.desk.script("open", &format!("{says}open\""));
    // The first try does not end by itself where the test wants it so.
    all.desk.script(
        "check",
        &format!("{says}check\"; [ ! -e \"$notes/hang\" ] || [ $RECOVERY_TRY -gt 1 ] || exec sleep 1000"),
    );
    all.desk.script("close", &format!("{says}close\""));
    all.desk.set(&plan(&[
        group(&[a, b, c], &script("open", 60), &script("check", 900)),
        group(&[d], &json!([]), &script("close", 60)),
    ]));
    let tries = |all: &Instances, name: &str| {
        let text = all.desk.note(name);
        text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let mut dice = Dice::new(71);

    // Killed in the middle of the first group, between two machines of it.
    let run = all.begin(dice.index(WORKERS));
    let killed = all.at_work();
    wait_for("the second machine's failover", || (all.desk.failovers(b) == 1).then_some(()));
    all.workers[killed].kill();
    assert_eq!(all.desk.show(&run)["phase"], "running", "it was not killed in the middle");
    all.claims_end(&run);
    all.is_ready(&run, &machines, 0);
    for name in ["open", "check", "close"] {
        assert_eq!(tries(&all, name), ["1"], "{name} ran again");
    }
    assert_ne!(all.at_work(), killed);
    all.desk.act(&run, "cancel", "cancelled");
    assert!(all.desk.shelf_is_empty());
    all.workers[killed].start();

    // One that stands still while a program of it runs, and goes on when another one has done it all.
    for name in ["open", "check", "close", "by"] {
        fs::remove_file(all.desk.notes.join(name)).unwrap();
    }
    fs::write(all.desk.notes.join("hang"), "").unwrap();
    let run = all.begin(dice.index(WORKERS));
    let program = wait_for("the program that hangs", || {
        all.desk.note("check").split_whitespace().nth(1).and_then(|pid| pid.parse::<u32>().ok())
    });
    let still = Pid::from_raw(all.workers[all.at_work()].pid().try_into().unwrap()).unwrap();
    kill_process(still, Signal::STOP).unwrap();
    all.claims_end(&run);
    all.is_ready(&run, &machines, 1);
    assert_eq!(tries(&all, "check"), ["1", "2"], "as is documented");
    let before = all.desk.show(&run);
    assert_eq!(step(&all.desk.report(&run), "script", 1)["tries"], 2);
    kill_process(still, Signal::CONT).unwrap();
    wait_for("the program to be ended that nobody waits for", || {
        let state = fs::read_to_string(format!("/proc/{program}/stat")).unwrap_or_default();
        (state.is_empty() || state.contains(") Z ")).then_some(())
    });
    // Whatever that instance noted, it noted before it looked for more to do.
    let another = all.desk.rig.admin(&["plan", "runs"])["runs"].as_array().unwrap().len();
    assert_eq!((all.desk.show(&run), another), (before, 2), "it noted something that it had no claim on");
    assert_eq!((tries(&all, "open").len(), tries(&all, "close").len()), (1, 1));
    all.desk.act(&run, "cancel", "cancelled");
    assert!(all.desk.shelf_is_empty());
}
