//! The machine of these tests: one or two protected disks with file systems, a server on them, an agent; and bringing a
//! point of it back.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use mobility_capture::freeze::raise_priority;
use mobility_tests::{
    agent_process::{Agent, Point, Setup},
    load_postgresql::{Ledger, Programs, Server, give_to_server, moved},
    load_sqlite::Rows,
    pulse::Pulse,
    requirement::Requirement,
    scratch::{LoopDevice, MIB, Mounted, Scratch, long, root_with, run, try_run},
};

use crate::instant;

/// As a careful operator has it; what is not said is the server's default, such as `fsync` and `synchronous_commit`.
const SETTINGS: [&str; 6] = [
    "fsync=on",
    "synchronous_commit=on",
    "shared_buffers=32MB",
    "max_wal_size=96MB",
    "min_wal_size=32MB",
    "checkpoint_timeout=30s",
];

pub(crate) struct Rig {
    // In this order: the server ends, the writers end, file systems are unmounted, devices go.
    server: Option<Server>,
    pulses: Vec<Pulse>,
    mounts: Vec<Mounted>,
    _disks: Vec<LoopDevice>,
    kinds: Vec<String>,
    pub(crate) programs: Programs,
    pub(crate) setup: Setup,
    pub(crate) scratch: Scratch,
}

impl Rig {
    /// A server with its tables on a file system of one kind, and its log of changes on another disk if one is named.
    pub(crate) fn new(tables: &str, log_of_changes: Option<&str>, flags: &[&str]) -> Option<Rig> {
        root_with(&[
            "mkfs.ext4",
            "mkfs.xfs",
            "fsfreeze",
            "bash",
            "setpriv",
            "python3",
            "fio",
            "e2fsck",
            "xfs_repair",
        ])?;
        let programs = Requirement::Root.or_skip(Programs::find())?;
        let scratch = Scratch::new();
        // The server's user has to get through.
        fs::set_permissions(scratch.dir(), fs::Permissions::from_mode(0o755)).unwrap();
        let size = if long() { 1536 } else { 512 } * MIB;
        let kinds: Vec<_> = [Some(tables), log_of_changes].into_iter().flatten().map(str::to_owned).collect();
        let (mut disks, mut mounts, mut pulses) = (Vec::new(), Vec::new(), Vec::new());
        for (index, kind) in kinds.iter().enumerate() {
            let disk = LoopDevice::new(scratch.path(&format!("disk-{index}.img")), size);
            let mounted = Mounted::fresh(scratch.path(&format!("mounted-{index}")), &disk.device, kind);
            give_to_server(mounted.point());
            pulses.push(Pulse::start(mounted.point(), raise_priority));
            disks.push(disk);
            mounts.push(mounted);
        }
        let devices: Vec<_> = disks.iter().map(|disk| disk.device.as_path()).collect();
        let setup = Setup::new(&scratch, &devices).flags(flags);
        let wal = mounts.get(1).map(|mounted| mounted.point().join("changes"));
        let data = mounts[0].point().join("data");
        programs.init(&data, wal.as_deref());
        let sockets = scratch.path("sockets");
        fs::create_dir(&sockets).unwrap();
        give_to_server(&sockets);
        let server = Server::start(&programs, &data, &sockets, &scratch.path("server.log"), &SETTINGS);
        let server = server.unwrap_or_else(|said| panic!("{said}"));
        server.prepare();
        // What made the server's files did not have them written out.
        mounts.iter().for_each(|mounted| drop(run("sync", &["-f", mounted.point().to_str().unwrap()])));
        Some(Rig { server: Some(server), pulses, mounts, _disks: disks, kinds, programs, setup, scratch })
    }

    /// Starts the agent, and waits until it protects the disks.
    pub(crate) fn start(&self) -> Agent {
        let mut agent = self.setup.start();
        agent.wait_until_protected();
        agent
    }

    pub(crate) fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    /// Where the file systems are.
    pub(crate) fn places(&self) -> Vec<PathBuf> {
        self.mounts.iter().map(|mounted| mounted.point().to_owned()).collect()
    }

    pub(crate) fn stop_server(&mut self) {
        self.server.take().unwrap().stop();
    }

    /// Unmounts everything, so that restored copies can be mounted. The server must have ended.
    pub(crate) fn unmount(&mut self) {
        self.pulses.clear();
        self.mounts.drain(..).for_each(Mounted::unmount);
    }

    /// Restores a point.
    pub(crate) fn restore(&self, point: &Point) -> Restored {
        let dir = self.scratch.path("restored");
        let images = self.setup.restore(point, &dir);
        let disks: Vec<_> = images.into_iter().map(LoopDevice::over).collect();
        let mount = |(index, disk): (usize, &LoopDevice)| {
            let at = self.scratch.path(&format!("replayed-{index}"));
            Mounted::existing(at, &disk.device, &self.kinds[index])
                .unwrap_or_else(|said| panic!("{point:?}: {said}"))
        };
        let mounts = disks.iter().enumerate().map(mount).collect();
        Restored { mounts, disks, kinds: self.kinds.clone(), dir }
    }

    /// Starts the server of a restored point, by its own recovery; its messages are in `recovery.log`.
    pub(crate) fn recover(&self, restored: &Restored, point: &Point) -> Server {
        let places: Vec<_> = restored.mounts.iter().map(Mounted::point).collect();
        let data = places[0].join("data");
        moved(&data, places.get(1).map(|place| place.join("changes")).as_deref());
        let (sockets, log) = (self.scratch.path("sockets"), self.recovery_log());
        Server::start(&self.programs, &data, &sockets, &log, &SETTINGS)
            .unwrap_or_else(|said| panic!("{point:?}: the server does not start\n{said}"))
    }

    pub(crate) fn recovery_log(&self) -> PathBuf {
        self.scratch.path("recovery.log")
    }

    /// Restores a point and lets the databases and the file systems say what it is worth. Returns how many rows there are of
    /// each writer.
    pub(crate) fn check(&self, point: &Point, ledger: &Ledger, sqlite: &[Rows]) -> Vec<usize> {
        let blame = |what: String| -> ! { panic!("{point:?}: {what}\n{}", self.setup.log_tail()) };
        let t0 = instant(point);
        let restored = self.restore(point);
        let server = self.recover(&restored, point);
        server.check().unwrap_or_else(|said| blame(said));
        // None that was sent after `t0` may be there, so none that was sent after the window, either.
        let mut found = ledger.check(&server, t0, t0).unwrap_or_else(|said| blame(said));
        server.stop();
        for (rows, mounted) in sqlite.iter().zip(&restored.mounts) {
            found.push(rows.check_between(mounted.point(), t0, t0).unwrap_or_else(|said| blame(said)));
        }
        restored.check_file_systems().unwrap_or_else(|said| blame(said));
        found
    }
}

/// A point that is mounted. It goes when this is dropped.
pub(crate) struct Restored {
    mounts: Vec<Mounted>,
    disks: Vec<LoopDevice>,
    kinds: Vec<String>,
    dir: PathBuf,
}

impl Restored {
    /// Where the server's files are.
    pub(crate) fn data(&self) -> PathBuf {
        self.mounts[0].point().join("data")
    }

    /// The file systems' own opinion, after their recovery and the databases'.
    fn check_file_systems(mut self) -> Result<(), String> {
        self.mounts.drain(..).for_each(Mounted::unmount);
        for (disk, kind) in self.disks.iter().zip(&self.kinds) {
            let checker = if kind == "ext4" { ("e2fsck", "-fn") } else { ("xfs_repair", "-n") };
            try_run(checker.0, &[checker.1, disk.name()])?;
        }
        Ok(())
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        self.mounts.clear();
        self.disks.clear();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The first, the last, and others at equal distances between, so many at most.
pub(crate) fn spread(points: &[Point], most: usize) -> Vec<Point> {
    if points.len() <= most {
        return points.to_vec();
    }
    (0..most).map(|index| points[index * (points.len() - 1) / (most - 1)].clone()).collect()
}

/// What points there are and how they were made, in words; the first `calm` of them under the lighter load.
pub(crate) fn figures(points: &[Point], calm: usize) -> String {
    let (calm, busy) = points.split_at(calm.min(points.len()));
    [("rate-limited", calm), ("saturated", busy)].map(|(name, points)| of(name, points)).join("\n")
}

fn of(name: &str, points: &[Point]) -> String {
    let mut kinds = std::collections::BTreeMap::<String, usize>::new();
    for point in points {
        let method = point.cut("method").as_str().unwrap_or_default();
        *kinds.entry(format!("{} by {method}", point.consistency)).or_default() += 1;
    }
    let sorted = |what: &str| {
        let mut all: Vec<_> = points.iter().filter_map(|point| point.cut(what).as_u64()).collect();
        all.retain(|&us| us > 0);
        all.sort_unstable();
        all
    };
    let middle_and_most = |all: &[u64]| match all.last() {
        Some(most) => format!("{} / {most} us", all[all.len() / 2]),
        None => "none".to_owned(),
    };
    format!(
        "  {name}: {} points: {kinds:?}; window (median / most) {}; held {}",
        points.len(),
        middle_and_most(&sorted("window_us")),
        middle_and_most(&sorted("held_us"))
    )
}

/// Where the ready-made scripts are.
pub(crate) fn ready_made(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("packaging/scripts.d").join(name)
}
