//! A fleet of simulated machines against the recovery service: what it holds, how quickly it answers, and what that costs. Started by
//! `fleet` beside it, which explains the flags.
//!
//! The machines speak the real protocol over TLS on the loopback, all from this one process, which works on the same processors as the
//! service: what it takes of them is shown beside what the service takes. Deliberately not here: what one machine does
//! (`mobility_tests::fleet`).

// What a benchmark cannot go on without ends it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mobility_tests::{
    fleet::{Fleet, Habits, Place, Spread},
    load_postgresql::{Programs, Server},
    object_stores::free_port,
    service_process::ServiceProcess,
};
use serde_json::{Value, json};

const SEED: u64 = 20_261_124;
/// As the service wishes it.
const BEAT_S: usize = 10;
/// Machines that are there when memory is looked at in between.
const SOME: usize = 1000;
/// How long machines take to begin, and how long it is waited until what they began is over.
const BEGIN: Duration = Duration::from_secs(20);
/// How long it may take until all that was committed is taken in.
const TAKE_IN: Duration = Duration::from_secs(300);
/// Open files that are no connections, and connections beside those that are held: of uploads.
const FILES: u64 = 4000;
/// The kernel's unit of processor time.
const TICKS_PER_S: f64 = 100.0;

struct Wanted {
    agents: usize,
    seconds: u64,
    commit_every: u64,
    instances: Vec<usize>,
    sqlite: bool,
    dir: PathBuf,
    json: Option<PathBuf>,
}

/// What there is to measure: instances, and the database where it is a process of its own.
struct Rig {
    // In this order: instances end before what they use.
    instances: Vec<ServiceProcess>,
    server: Option<Server>,
    dir: tempfile::TempDir,
}

fn main() {
    let wanted = wanted();
    let mut figures = Vec::new();
    if wanted.sqlite {
        let mut rig = Rig::on_sqlite(&wanted.dir);
        measure(&mut rig, &wanted, &[1], "SQLite", &mut figures);
    }
    if !wanted.instances.is_empty() {
        match Programs::find() {
            Ok(programs) => {
                let most = wanted.instances.iter().copied().max().unwrap_or(1);
                let mut rig = Rig::on_postgresql(&wanted.dir, &programs, most);
                measure(&mut rig, &wanted, &wanted.instances, "PostgreSQL", &mut figures);
            }
            Err(lack) => println!("PostgreSQL was left out: {lack}"),
        }
    }
    if let Some(path) = &wanted.json {
        fs::write(path, serde_json::to_vec_pretty(&figures).unwrap()).unwrap();
    }
}

fn wanted() -> Wanted {
    let mut flags: BTreeMap<String, String> = BTreeMap::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = if flag == "--quick" { String::new() } else { arguments.next().expect("a value") };
        flags.insert(flag, value);
    }
    let quick = flags.remove("--quick").is_some();
    let mut take = |name: &str, usual: &str| flags.remove(name).unwrap_or_else(|| usual.to_owned());
    let databases = take("--database", "sqlite,postgresql");
    let instances = take("--instances", "1,2,3");
    let wanted = Wanted {
        agents: take("--agents", if quick { "200" } else { "10000" }).parse().unwrap(),
        seconds: take("--seconds", if quick { "20" } else { "180" }).parse().unwrap(),
        commit_every: take("--commit-every", if quick { "20" } else { "600" }).parse().unwrap(),
        instances: match databases.contains("postgresql") {
            true => instances.split(',').map(|count| count.parse().unwrap()).collect(),
            false => Vec::new(),
        },
        sqlite: databases.contains("sqlite"),
        dir: take("--dir", "/var/tmp").into(),
        json: flags.remove("--json").map(PathBuf::from),
    };
    assert!(flags.is_empty(), "unknown: {flags:?}");
    wanted
}

impl Rig {
    fn on_sqlite(parent: &Path) -> Rig {
        let dir = tempfile::Builder::new().prefix("mobility-fleet-").tempdir_in(parent).unwrap();
        let mut service = ServiceProcess::new(dir.path().join("data"));
        service.log_to(dir.path().join("service.log"));
        Rig { instances: vec![service], server: None, dir }
    }

    fn on_postgresql(parent: &Path, programs: &Programs, most: usize) -> Rig {
        let dir = tempfile::Builder::new().prefix("mobility-fleet-").tempdir_in(parent).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let server = Server::fresh(programs, dir.path());
        let ports: Vec<u16> = (0..most).map(|_| free_port()).collect();
        let instance = |number: usize| {
            // Each names itself first: grants for a directory lead to the first address.
            let names =
                (0..most).map(|later| format!("'https://127.0.0.1:{}'", ports[(number + later) % most]));
            let names: Vec<String> = names.collect();
            let at = |name: &str| dir.path().join(name).display().to_string();
            let storage =
                |which: &str| format!("[storage.{which}]\nkind = 'directory'\npath = '{}'\n", at("storage"));
            let configuration = format!(
                "database = 'postgres://postgres@localhost:5432/postgres?host={}'\nsecrets = '{}'\naddresses = [{}]\n{}{}",
                at("sockets"),
                at("secrets"),
                names.join(", "),
                storage("cache"),
                storage("target"),
            );
            let data = dir.path().join(format!("instance-{number}"));
            let mut service = ServiceProcess::instance(data, ports[number], &configuration);
            service.log_to(dir.path().join("service.log"));
            service
        };
        let mut instances: Vec<ServiceProcess> = (0..most).map(instance).collect();
        // How many there are is what is measured.
        instances.iter_mut().skip(1).for_each(ServiceProcess::stop);
        Rig { instances, server: Some(server), dir }
    }

    fn running(&self) -> impl Iterator<Item = &ServiceProcess> {
        self.instances.iter().filter(|instance| instance.is_running())
    }

    fn addresses(&self) -> Vec<String> {
        self.running().map(ServiceProcess::own_address).collect()
    }

    fn place(&self) -> Place {
        let credential = fs::read(self.instances[0].data().join("administrator.json")).unwrap();
        let credential: Value = serde_json::from_slice(&credential).unwrap();
        let authority = credential["authority"].as_str().unwrap().to_owned();
        Place { addresses: self.addresses(), authority }
    }

    /// Resident memory of all instances, in KiB.
    fn resident(&self) -> u64 {
        self.running().map(|instance| resident(instance.pid())).sum()
    }

    /// Seconds of processors: of the instances, and of the database.
    fn processor(&self) -> (f64, f64) {
        let service = self.running().map(|instance| processor(instance.pid())).sum();
        (service, self.server.as_ref().and_then(Server::pid).map_or(0.0, family))
    }

    /// Transactions that all instances say they have made, if they count them.
    fn transactions(&self) -> Option<u64> {
        self.running().map(|instance| instance.figure("recovery_service_transactions_total")).sum()
    }
}

fn status(pid: u32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap()
}

fn resident(pid: u32) -> u64 {
    status(pid, "VmRSS")
}

/// The numbers of `/proc/<pid>/stat` after the name: state, parent, and so on.
fn stat(pid: u32) -> Option<Vec<u64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(|word| word.parse().unwrap_or(0)).collect())
}

fn processor(pid: u32) -> f64 {
    stat(pid).map_or(0.0, |stat| (stat[11] + stat[12]) as f64 / TICKS_PER_S)
}

/// Of a process, its children, and those that have ended.
fn family(pid: u32) -> f64 {
    let ended = stat(pid).map_or(0.0, |stat| (stat[13] + stat[14]) as f64 / TICKS_PER_S);
    let all = fs::read_dir("/proc").unwrap().flatten();
    let children = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let children = children.filter(|child| stat(*child).is_some_and(|stat| stat[1] == u64::from(pid)));
    ended + processor(pid) + children.map(processor).sum::<f64>()
}

/// Enrols machines once, and measures them with each number of instances.
fn measure(rig: &mut Rig, wanted: &Wanted, instances: &[usize], database: &str, figures: &mut Vec<Value>) {
    let token = rig.instances[0].admin(&["token", "create", "--uses", &wanted.agents.to_string()]);
    let mut empty = rig.resident();
    let mut fleet = Fleet::new(rig.place(), SEED);
    let begin = Instant::now();
    fleet.enrol(token["token"].as_str().unwrap(), wanted.agents);
    let enrolled = wanted.agents as f64 / begin.elapsed().as_secs_f64();
    println!("{database}: {} machines enrolled, {enrolled:.0} each second", wanted.agents);
    for &count in instances {
        while rig.running().count() < count {
            let next = rig.instances.iter_mut().find(|instance| !instance.is_running());
            let next = next.unwrap();
            next.start();
            empty += resident(next.pid());
        }
        fleet.spread_over(&rig.addresses());
        let mut found = look(rig, &mut fleet, wanted, empty);
        found["database"] = database.into();
        found["instances"] = count.into();
        found["enrolled each second"] = enrolled.into();
        show(&found);
        figures.push(found);
    }
    println!("what was logged is gone with {}", rig.dir.path().display());
}

fn look(rig: &Rig, fleet: &mut Fleet, wanted: &Wanted, empty: u64) -> Value {
    let waiting = wanted.agents.min(connections().saturating_sub(wanted.agents));
    let habits =
        Habits { beat_every: None, commit_every: Some(Duration::from_secs(wanted.commit_every)), waiting };
    let some = SOME.min(wanted.agents / 2);
    fleet.run(some, habits, BEGIN / 2);
    std::thread::sleep(BEGIN);
    let with_some = rig.resident();
    fleet.run(wanted.agents, habits, BEGIN);
    std::thread::sleep(BEGIN * 2);
    let with_all = rig.resident();
    fleet.ledger().begin();
    let (begin, before, own, transactions) =
        (Instant::now(), rig.processor(), processor(std::process::id()), rig.transactions());
    std::thread::sleep(Duration::from_secs(wanted.seconds));
    let (passed, after) = (begin.elapsed().as_secs_f64(), rig.processor());
    let (beats, commits, polls) =
        (fleet.ledger().beats.take(), fleet.ledger().commits.take(), fleet.ledger().polls.take());
    let own = (processor(std::process::id()) - own) / passed;
    let transactions = rig.transactions().zip(transactions).map(|(after, before)| after - before);
    let at_end = rig.resident();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    fleet.rest();
    let points = points(fleet);
    let share = |total: u64, machines: usize| (total.saturating_sub(empty)) as f64 / machines as f64;
    json!({
        "agents": wanted.agents, "agents that wait for commands": waiting, "seconds": passed, "points": points,
        "heartbeats": lane(&beats, passed), "commits": lane(&commits, passed), "waits": lane(&polls, passed),
        "heartbeats asked each second": wanted.agents / BEAT_S,
        "commits asked each second": wanted.agents as f64 / wanted.commit_every as f64,
        "transactions each second": transactions.map(|count| count as f64 / passed),
        "processors": {
            "service": (after.0 - before.0) / passed, "database": (after.1 - before.1) / passed, "machines": own,
            "load of the machine": load.split_whitespace().next(),
        },
        "resident KiB": {
            "without machines": empty, "with some": with_some, "of each of some": share(with_some, some),
            "with all": with_all, "of each": share(with_all, wanted.agents), "at the end": at_end,
        },
    })
}

/// As many connections as this process and the service's may have: an open file each.
fn connections() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| usize::try_from(limit.saturating_sub(FILES)).unwrap_or(0))
}

/// Waits until all that was committed is taken in: how many commits there were, and how many machines' last one was not.
fn points(fleet: &Fleet) -> Value {
    let begin = Instant::now();
    let missing = loop {
        let behind: Vec<_> = fleet
            .machines()
            .iter()
            .filter(|machine| machine.taken_in() < machine.committed())
            .cloned()
            .collect();
        if behind.is_empty() || begin.elapsed() > TAKE_IN {
            break behind.len();
        }
        fleet.wait(async {
            for machine in behind {
                // What fails is asked again.
                let _ = machine.beat().await;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        });
    };
    let committed: u64 = fleet.machines().iter().map(|machine| machine.committed()).sum();
    json!({ "committed": committed, "machines behind": missing, "seconds": begin.elapsed().as_secs_f64() })
}

fn lane(spread: &Spread, seconds: f64) -> Value {
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    json!({
        "asked": spread.asked, "answered": spread.done, "failed": spread.failed, "said": spread.said,
        "each second": spread.done as f64 / seconds,
        "p50 ms": ms(spread.p50), "p99 ms": ms(spread.p99), "max ms": ms(spread.max),
    })
}

fn show(found: &Value) {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    println!(
        "\n{}, {} instance(s), {} agents, {:.0} s",
        found["database"].as_str().unwrap_or_default(),
        found["instances"],
        found["agents"],
        number(&found["seconds"])
    );
    for (name, asked) in [
        ("heartbeats", &found["heartbeats asked each second"]),
        ("commits", &found["commits asked each second"]),
    ] {
        let lane = &found[name];
        println!(
            "  {name:11} {:7.1}/s of {:7.1}/s   p50 {:7.1} ms   p99 {:7.1} ms   max {:7.1} ms   failed {}",
            number(&lane["each second"]),
            number(asked),
            number(&lane["p50 ms"]),
            number(&lane["p99 ms"]),
            number(&lane["max ms"]),
            lane["failed"]
        );
        for said in lane["said"].as_array().into_iter().flatten() {
            println!("              {said}");
        }
    }
    println!(
        "  of the agents {} wait for commands, {} waits failed",
        found["agents that wait for commands"], found["waits"]["failed"]
    );
    println!("  transactions each second: {:.1}", number(&found["transactions each second"]));
    let processors = &found["processors"];
    println!(
        "  processors: service {:.2}, database {:.2}, simulated machines {:.2}; load of the machine {}",
        number(&processors["service"]),
        number(&processors["database"]),
        number(&processors["machines"]),
        processors["load of the machine"].as_str().unwrap_or("?")
    );
    let memory = &found["resident KiB"];
    println!(
        "  resident: {} KiB without machines, {} with some ({:.1} each), {} with all ({:.1} each), {} at the end",
        memory["without machines"],
        memory["with some"],
        number(&memory["of each of some"]),
        memory["with all"],
        number(&memory["of each"]),
        memory["at the end"]
    );
    let points = &found["points"];
    println!(
        "  of {} points all were taken in but those of {} machines, {:.0} s after the last",
        points["committed"],
        points["machines behind"],
        number(&points["seconds"])
    );
    let ratio = number(&found["heartbeats"]["each second"]) / number(&found["heartbeats asked each second"]);
    let verdict = if ratio >= 0.99 && found["heartbeats"]["failed"] == 0 { "met" } else { "MISSED" };
    println!("  target: 0.99 of the heartbeats that are asked for, none fails: {ratio:.3}, {verdict}");
}
