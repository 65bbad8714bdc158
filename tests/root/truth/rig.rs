//! Disks, agents and writers for one load, and the checking of the points that come of it.
//!
//! Deliberately not here: what the loads are, and what is demanded of the figures.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use mobility_tests::{
    agent_process::{Agent, Point, Setup},
    load_ordered::{Chains, History, Ordered, Target},
    scratch::{LoopDevice, MIB, Mounted, Scratch, run},
};

use crate::loads::{Load, Use};

/// Enough for each of the file systems.
const FILE_SYSTEM: u64 = 320 * MIB;

/// Where points are restored to, and the most that one may need; nothing is taken of it that is not used.
const RESTORED: &str = "restored";
const RESTORED_MOST: u64 = 2048 * MIB;

struct Disk {
    target: Target,
    // Unmounted before the device goes.
    mounted: Option<Mounted>,
    device: LoopDevice,
}

/// What a load needs.
pub(crate) struct Rig {
    per_second: Option<u32>,
    chains: Chains,
    disks: Vec<Disk>,
    kinds: Vec<Use>,
    agents: Vec<Agent>,
    setups: Vec<Setup>,
    // Last, for everything lies in it.
    scratch: Option<Scratch>,
}

impl Rig {
    /// Makes the disks and starts the agents, which are `broken` in this way.
    pub(crate) fn new(load: &Load, seed: u64, agents: usize, broken: Option<&str>) -> Rig {
        let scratch = Scratch::new();
        let chains = load.chains(seed);
        let make = |(index, &kind): (usize, &Use)| Disk::new(&scratch, index, kind, chains.bytes());
        let disks: Vec<_> = load.disks.iter().enumerate().map(make).collect();
        let devices: Vec<_> = disks.iter().map(|disk| disk.device.device.as_path()).collect();
        let setups: Vec<_> = (0..agents).map(|index| setup(&scratch, &devices, index, broken)).collect();
        let mut agents: Vec<_> = setups.iter().map(Setup::start).collect();
        agents.iter_mut().for_each(|agent| drop(agent.wait_until_protected()));
        let kinds = load.disks.to_vec();
        Rig { per_second: load.per_second, chains, disks, kinds, agents, setups, scratch: Some(scratch) }
    }

    /// Lets the writers write for a while, and takes everything down but the vaults.
    pub(crate) fn run(&mut self, time: Duration) -> Run {
        let targets: Vec<_> = self.disks.iter().map(|disk| disk.target.clone()).collect();
        let begin = Instant::now();
        let ordered = Ordered::start(&targets, &self.chains, self.per_second);
        thread::sleep(time);
        let history = ordered.stop();
        let time = begin.elapsed();
        self.disks.iter_mut().filter_map(|disk| disk.mounted.take()).for_each(Mounted::unmount);
        self.agents.iter_mut().for_each(|agent| drop(agent.wait_for_points(1)));
        for agent in self.agents.drain(..) {
            agent.terminate();
        }
        self.disks.clear();
        forget(&self.kinds);
        let scratch = self.scratch.take().expect("it runs once");
        Run { history, time, setups: self.setups.clone(), kinds: self.kinds.clone(), scratch }
    }
}

/// Else a restored copy of a btrfs is taken for a second device of the original.
fn forget(kinds: &[Use]) {
    if kinds.iter().any(|kind| kind.file_system() == Some("btrfs")) {
        run("btrfs", &["device", "scan", "--forget"]);
    }
}

fn setup(scratch: &Scratch, devices: &[&Path], index: usize, broken: Option<&str>) -> Setup {
    let mut setup = Setup::new(scratch, devices);
    for (path, name) in [
        (&mut setup.vault, "vault"),
        (&mut setup.runtime, "run"),
        (&mut setup.config_root, "root"),
        (&mut setup.log, "log"),
    ] {
        *path = scratch.path(&format!("{name}-{index}"));
    }
    setup.configure("interval = '1s'\n[limits]\nretry-wait = '1s'\n");
    match broken {
        Some(broken) => setup.variable("MOBILITY_BROKEN", broken),
        None => setup,
    }
}

impl Use {
    fn file_system(self) -> Option<&'static str> {
        match self {
            Use::Raw => None,
            Use::Direct(kind) | Use::Buffered(kind) => Some(kind),
        }
    }
}

impl Disk {
    fn new(scratch: &Scratch, index: usize, kind: Use, bytes: u64) -> Disk {
        let size = if kind.file_system().is_some() { FILE_SYSTEM } else { bytes.next_multiple_of(MIB) };
        let device = LoopDevice::new(scratch.path(&format!("disk-{index}.img")), size);
        let mounted = kind.file_system().map(|file_system| {
            Mounted::fresh(scratch.path(&format!("mounted-{index}")), &device.device, file_system)
        });
        let target = match (&mounted, kind) {
            (None, _) => Target::Raw(device.device.clone()),
            (Some(mounted), _) => {
                let path = mounted.point().join("chains");
                let file = File::create(&path).unwrap();
                rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).unwrap();
                rustix::fs::syncfs(&file).unwrap();
                if let Use::Direct(_) = kind { Target::Direct(path) } else { Target::Buffered(path) }
            }
        };
        Disk { target, mounted, device }
    }
}

/// What is left of a run: vaults, and what the writers did.
pub(crate) struct Run {
    history: History,
    time: Duration,
    setups: Vec<Setup>,
    kinds: Vec<Use>,
    scratch: Scratch,
}

/// What became of a run's points.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// Those made while the writers wrote, and the first after.
    pub(crate) points: usize,
    /// Those of them that are crash-consistent, up to the first wrong one.
    pub(crate) crash: usize,
    /// What is wrong with that.
    pub(crate) wrong: Option<String>,
    time: Duration,
}

impl Checked {
    /// The figures, for people.
    pub(crate) fn told(&self, run: &Run) -> String {
        let (steps, seconds) = (run.history.steps(), run.time.as_secs_f64());
        format!(
            "{} of {} points crash-consistent and right; {steps} steps, {:.0}/s; checked in {:.1} s",
            self.crash,
            self.points,
            steps as f64 / seconds,
            self.time.as_secs_f64()
        )
    }
}

impl Run {
    /// Restores and checks crash-consistent points until one is wrong, `limit` of each agent at most.
    pub(crate) fn check(&self, limit: usize) -> Checked {
        let (begin, mut checked) = (Instant::now(), Checked::default());
        // Restoring syncs what it wrote, and nobody here wants that to be durable.
        let _memory = Mounted::in_memory(self.scratch.path(RESTORED), RESTORED_MOST);
        for setup in &self.setups {
            let points = setup.points();
            // All before are empty.
            let during = points.iter().filter(|point| self.history.began_before(point.time)).take(limit);
            for point in during {
                checked.points += 1;
                if !point.is_crash() || checked.wrong.is_some() {
                    continue;
                }
                checked.crash += 1;
                if let Err(why) = self.check_point(setup, point) {
                    checked.wrong = Some(format!("{}\n{why}", point.listed));
                }
            }
        }
        checked.time = begin.elapsed();
        checked
    }

    fn check_point(&self, setup: &Setup, point: &Point) -> Result<(), String> {
        let dir = self.scratch.path(RESTORED).join("images");
        let images = setup.restore(point, &dir);
        let mut opened = Vec::new();
        for (index, (image, kind)) in images.iter().zip(&self.kinds).enumerate() {
            let copy = Copy::open(&self.scratch.path(&format!("replayed-{index}")), image, *kind);
            opened.push(copy.map_err(|why| self.keep(setup, &dir, why))?);
        }
        let files: Vec<_> = opened.iter().map(|copy| copy.path.clone()).collect();
        let checked = self.history.check(&files, point.time);
        drop(opened);
        forget(&self.kinds);
        checked.map_err(|why| self.keep(setup, &dir, why))?;
        fs::remove_dir_all(dir).unwrap();
        Ok(())
    }

    /// Keeps what is left of a wrong point, where that is wanted.
    fn keep(&self, setup: &Setup, restored: &Path, why: String) -> String {
        let Some(to) = std::env::var_os("MOBILITY_EVIDENCE") else { return why };
        let to = tempfile::Builder::new().prefix("wrong-").tempdir_in(to).unwrap().keep();
        self.history.dump(&to.join("history"));
        fs::write(to.join("why"), &why).unwrap();
        for from in [restored, &setup.vault, &setup.log] {
            run("cp", &["-r", "--sparse=always", from.to_str().unwrap(), to.to_str().unwrap()]);
        }
        format!("{why}\nkept in {}", to.display())
    }

    /// The ends of the agents' logs.
    pub(crate) fn log_tail(&self) -> String {
        self.setups.iter().map(Setup::log_tail).collect::<Vec<_>>().join("\n\n")
    }
}

/// A restored disk, and what the chains wrote to on it.
struct Copy {
    path: PathBuf,
    // Unmounted before the device goes.
    _mounted: Option<Mounted>,
    _device: Option<LoopDevice>,
}

impl Copy {
    /// A file system replays its journal, into the copy.
    fn open(point: &Path, image: &Path, kind: Use) -> Result<Copy, String> {
        let Some(kind) = kind.file_system() else {
            return Ok(Copy { path: image.to_owned(), _mounted: None, _device: None });
        };
        let device = LoopDevice::over(image.to_owned());
        let mounted = Mounted::existing(point.to_owned(), &device.device, kind)?;
        Ok(Copy { path: mounted.point().join("chains"), _mounted: Some(mounted), _device: Some(device) })
    }
}
