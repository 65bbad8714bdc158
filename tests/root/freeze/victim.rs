//! An agent that dies: this program again, in a process of its own, with the real freezer and the real guard. At a step of a
//! frozen cut that it is told, it does to itself what it is told.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use mobility_capture::{
    disk::Disk,
    freeze::{Freezer, Step, file_systems, lock_memory, raise_priority},
};
use rustix::process::{Pid, Signal, getpid, kill_process, kill_process_group};

use crate::bench::guard;

const VARIABLE: &str = "MOBILITY_FREEZE_VICTIM";

/// Where in a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    BeforeArm,
    At(Step),
    MidCut,
    After,
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// SIGKILL.
    Killed,
    /// SIGKILL to its whole process group.
    GroupKilled,
    /// SIGSTOP, and whoever started it decides.
    Stopped,
    /// It takes memory until the kernel ends it.
    OutOfMemory,
    /// Nothing. Whoever started it may do something.
    None,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) disks: Vec<PathBuf>,
    pub(crate) record: PathBuf,
    pub(crate) place: Place,
    pub(crate) end: End,
    pub(crate) limit: Duration,
    pub(crate) cut: Duration,
    /// Run in this memory cgroup.
    pub(crate) group: Option<PathBuf>,
}

impl Plan {
    /// Starts it, in a process group of its own.
    pub(crate) fn start(&self) -> Child {
        use std::os::unix::process::CommandExt;
        let disks: Vec<_> = self.disks.iter().map(|disk| disk.to_str().unwrap()).collect();
        let text = [
            disks.join(","),
            self.record.display().to_string(),
            self.place.name(),
            format!("{:?}", self.end),
            self.limit.as_micros().to_string(),
            self.cut.as_micros().to_string(),
            self.group.as_ref().map(|group| group.display().to_string()).unwrap_or_default(),
        ]
        .join(";");
        Command::new(env::current_exe().unwrap())
            .args(["role_victim", "--exact", "--ignored", "--nocapture"])
            .env(VARIABLE, text)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn from_environment() -> Option<Plan> {
        let text = env::var(VARIABLE).ok()?;
        let fields: Vec<_> = text.split(';').collect();
        let ends = [End::Killed, End::GroupKilled, End::Stopped, End::OutOfMemory, End::None];
        let micros = |text: &str| Duration::from_micros(text.parse().unwrap());
        Some(Plan {
            disks: fields[0].split(',').map(PathBuf::from).collect(),
            record: fields[1].into(),
            place: Place::all(8).into_iter().find(|place| place.name() == fields[2])?,
            end: ends.into_iter().find(|end| format!("{end:?}") == fields[3])?,
            limit: micros(fields[4]),
            cut: micros(fields[5]),
            group: Some(PathBuf::from(fields[6])).filter(|group| !group.as_os_str().is_empty()),
        })
    }
}

impl Place {
    /// All, for so many file systems.
    pub(crate) fn all(count: usize) -> Vec<Place> {
        let freezing = (0..count).flat_map(|i| [Place::At(Step::Asked(i)), Place::At(Step::Frozen(i))]);
        let before = [Place::BeforeArm, Place::At(Step::Armed)];
        let after = [Place::MidCut, Place::At(Step::ThawAsked), Place::At(Step::Thawed), Place::After];
        before.into_iter().chain(freezing).chain(after).collect()
    }

    fn name(self) -> String {
        format!("{self:?}")
    }
}

/// The victim's process.
pub(crate) fn main() {
    let Some(plan) = Plan::from_environment() else { return };
    if let Some(group) = &plan.group {
        std::fs::write(group.join("cgroup.procs"), "0").unwrap();
    }
    let disks: Vec<_> = plan.disks.iter().map(|disk| Disk::inspect(disk).unwrap()).collect();
    let found = file_systems(&disks.iter().collect::<Vec<_>>());
    let mut freezer = Freezer::new(guard(), &plan.record).unwrap();
    freezer.hold(&found.to_freeze).unwrap();
    let _ = lock_memory();
    freezer.sync().unwrap();
    let (place, end) = (plan.place, plan.end);
    freezer.observe(move |step| reach(Place::At(step), place, end));
    let _priority = raise_priority();
    reach(Place::BeforeArm, place, end);
    if let Ok(frozen) = freezer.freeze(plan.limit) {
        spin(plan.cut);
        reach(Place::MidCut, place, end);
        spin(plan.cut);
        let _ = frozen.thaw();
    }
    reach(Place::After, place, end);
}

fn spin(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

fn reach(here: Place, place: Place, end: End) {
    if here != place {
        return;
    }
    match end {
        End::Killed => kill_process(getpid(), Signal::KILL).unwrap(),
        End::GroupKilled => kill_process_group(getpid(), Signal::KILL).unwrap(),
        End::Stopped => kill_process(getpid(), Signal::STOP).unwrap(),
        End::OutOfMemory => loop {
            std::mem::forget(std::hint::black_box(vec![1u8; 1 << 20]));
        },
        End::None => {}
    }
}

/// Waits until the victim is stopped or gone; whether it is gone.
pub(crate) fn wait_stopped_or_gone(child: &mut Child) -> bool {
    let until = Instant::now() + Duration::from_secs(20);
    let state = PathBuf::from(format!("/proc/{}/stat", child.id()));
    loop {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        if is_stopped(&state) {
            return false;
        }
        assert!(Instant::now() < until, "the victim neither stops nor ends");
        std::thread::sleep(Duration::from_micros(500));
    }
}

fn is_stopped(stat: &Path) -> bool {
    let text = std::fs::read_to_string(stat).unwrap_or_default();
    text.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    let _ = kill_process(Pid::from_child(child), signal);
}
