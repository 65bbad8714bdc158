//! An agent, a line that can be bad, something before the service that can be wrong, the service; and a disk whose
//! content shows whether it is that of one instant.
//!
//! The disk is written in *rounds*: a round writes its number into every place, one after the other. So at any
//! instant the places up to one hold a round's number, and those after it the number before. Deliberately not here:
//! what goes wrong.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use mobility_tests::{
    agent_process::{Agent, SOON, Setup},
    load::Worker,
    scratch::{LoopDevice, MIB, Scratch, eventually, root_with},
    service_process::ServiceProcess,
};
use serde_json::Value;

use crate::{front::Front, line::Line};

const SIZE: u64 = 4 * MIB;
const PLACE: u64 = 64 << 10;
/// From one round to the next: scans that agree are the proof of a point, so there are pauses.
const PAUSE: Duration = Duration::from_millis(700);

pub(crate) struct Rig {
    pub(crate) setup: Setup,
    pub(crate) front: Front,
    pub(crate) line: Line,
    pub(crate) service: ServiceProcess,
    /// What is written to.
    disk: PathBuf,
    /// What holds it.
    image: PathBuf,
    _loop: Option<LoopDevice>,
    scratch: Scratch,
}

impl Rig {
    /// With a disk that is a file, which is scanned.
    pub(crate) fn new(seed: u64) -> Rig {
        let scratch = Scratch::new();
        let image = image(&scratch);
        Rig::with(seed, scratch, None, image.clone(), image)
    }

    /// With a disk that the kernel tracks, where that can be had.
    pub(crate) fn tracked(seed: u64) -> Option<Rig> {
        root_with(&[])?;
        let scratch = Scratch::new();
        let device = LoopDevice::new(scratch.path("disk.img"), SIZE);
        let (disk, image) = (device.device.clone(), device.file.clone());
        Some(Rig::with(seed, scratch, Some(device), disk, image))
    }

    fn with(seed: u64, scratch: Scratch, device: Option<LoopDevice>, disk: PathBuf, image: PathBuf) -> Rig {
        let mut service = ServiceProcess::new(scratch.path("service"));
        service.admin(&["policy", "set", "default", "--interval", "1"]);
        let front = Front::new(seed, service.data(), &service.own_address());
        let line = Line::new(seed, front.address());
        service.stand_behind(&format!("https://{}", line.address));
        let capture = if device.is_some() { "ebpf" } else { "scan" };
        let setup = Setup::enrolled(&scratch, &[&disk], &service).flags(&["--capture", capture]);
        front.be(service.data(), setup.state.as_ref().unwrap());
        Rig { setup, front, line, service, disk, image, _loop: device, scratch }
    }

    /// Writes rounds until it is stopped.
    pub(crate) fn write(&self) -> Worker {
        write(&self.disk)
    }

    /// Waits until an epoch is in target storage.
    pub(crate) fn taken_in(&self, epoch: u64) {
        taken_in(&self.setup, epoch);
    }

    /// Waits until a point that was begun after now is in target storage.
    pub(crate) fn settle(&self, agent: &mut Agent) {
        taken_in(&self.setup, newest_epoch(&agent.wait_for_points(2)));
    }

    /// As [`demand_truth`].
    pub(crate) fn demand_truth(&self, least: usize) {
        demand_truth(&self.setup, &self.scratch, &self.image, least);
    }
}

/// A new disk.
pub(crate) fn image(scratch: &Scratch) -> PathBuf {
    let path = scratch.path("disk.img");
    File::create(&path).unwrap().set_len(SIZE).unwrap();
    path
}

pub(crate) fn write(image: &Path) -> Worker {
    // On a disk a write that is not there yet has no place in the order.
    let flags = rustix::fs::OFlags::DSYNC.bits() as i32;
    let image = OpenOptions::new().write(true).custom_flags(flags).open(image).unwrap();
    Worker::start(PAUSE, move |round| {
        // Content of its own in each place and round, so that much of it goes over the line.
        let fill = |place: u64| (0..512).map(move |word: u64| (round + 1) * 0x9E37_79B9 + place * 512 + word);
        for place in 0..SIZE / PLACE {
            let mut block: Vec<u8> = fill(place).flat_map(u64::to_le_bytes).collect();
            block[..8].copy_from_slice(&(round + 1).to_le_bytes());
            image.write_all_at(&block, place * PLACE).unwrap();
        }
    })
}

pub(crate) fn newest_epoch(status: &Value) -> u64 {
    status["last_point"]["epoch"].as_u64().unwrap()
}

pub(crate) fn taken_in(setup: &Setup, epoch: u64) {
    let there = || setup.points().iter().any(|point| point.listed["epoch"].as_u64() >= Some(epoch));
    eventually("the intake of a point", SOON, || there().then_some(()));
}

/// Demands that the last point is the disk, and that each that says so shows one instant; of which there are at least
/// so many.
#[track_caller]
pub(crate) fn demand_truth(setup: &Setup, scratch: &Scratch, image: &Path, least: usize) {
    setup.newest_point_equals(scratch, &[image]);
    let crash: Vec<_> = setup.points().into_iter().filter(|point| point.is_crash()).collect();
    assert!(crash.len() >= least, "only {} points\n{}", crash.len(), setup.log_tail());
    for point in crash {
        let dir = scratch.path("restored");
        let copy = File::open(&setup.restore(&point, &dir)[0]).unwrap();
        let round = |place: u64| {
            let mut number = [0; 8];
            copy.read_exact_at(&mut number, place * PLACE).unwrap();
            u64::from_le_bytes(number)
        };
        let rounds: Vec<u64> = (0..SIZE / PLACE).map(round).collect();
        let one_instant = rounds.is_sorted_by(|a, b| a >= b) && rounds[0] - rounds[rounds.len() - 1] <= 1;
        assert!(one_instant, "{point:?} shows no instant: {rounds:?}");
        fs::remove_dir_all(dir).unwrap();
    }
}
