//! One instance of the BPF object: loaded, attached, and pinned in a directory of its own, where it lives on without us.
//!
//! Deliberately not here: whether an instance that was found may be used (that is `adopt`'s), and what its bits mean.

use std::{
    fs, io,
    os::{fd::AsFd as _, unix::fs::DirBuilderExt as _},
    path::{Path, PathBuf},
};

use aya::{
    Btf, EbpfLoader,
    maps::{Array, MapData},
    programs::{BtfTracePoint, links::FdLink},
};
use mobility_format::{ByteCount, Digest};

use super::{
    TrackedDisk,
    bitmap::{Bitmap, Geometry},
    counters::{Counters, ProgramCounters},
    error::TrackerError,
    flights::{Flights, TableSize},
    state::{STATE_BYTES, State},
};

/// The compiled `bpf/tracker.bpf.c`; `packaging/build-bpf.sh --check` shows that it is.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/tracker.bpf.o");

/// The programs and the tracepoints they belong on. The order is that of [`Pinned::programs`]. Completion comes first:
/// a write that is marked as issued will then be marked as completed as well.
const PROGRAMS: [(&str, &str); 4] = [
    ("completed_1", "block_rq_complete"),
    ("completed_2", "block_rq_complete"),
    ("issued_1", "block_rq_issue"),
    ("issued_2", "block_rq_issue"),
];

const MAPS: [&str; 6] = ["dirty", "touched", "pending", "flights", "counts", "state"];

/// The name under which instances of this very object are pinned, so that none of another layout is taken for one.
pub(super) fn object_name() -> String {
    Digest::of(OBJECT).to_string()[..16].to_owned()
}

/// The three bitmaps of an instance.
pub(super) struct Bitmaps {
    pub(super) dirty: Bitmap,
    pub(super) touched: Bitmap,
    pub(super) pending: Bitmap,
}

impl Bitmaps {
    /// Maps those pinned in `dir`, made for a disk of `size`, attached or not.
    pub(super) fn open(dir: &Path, size: ByteCount) -> Result<Bitmaps, TrackerError> {
        let geometry = Geometry::of(size).ok_or(TrackerError::Size(size))?;
        let bitmap =
            |name: &str| Bitmap::map(&open_map(dir, name)?, geometry).map_err(failed("map the bitmap", dir));
        Ok(Bitmaps { dirty: bitmap("dirty")?, touched: bitmap("touched")?, pending: bitmap("pending")? })
    }

    /// Adds what is marked here to `to`. Run [`Bitmaps::rebuild_summaries`] first where a reader may have been killed.
    pub(super) fn copy_to(&self, to: &Bitmaps) {
        to.dirty.insert(&self.dirty.peek());
        to.touched.insert(&self.touched.peek());
        to.pending.insert(&self.pending.peek());
    }

    /// See [`Bitmap::rebuild_summary`].
    pub(super) fn rebuild_summaries(&self) {
        [&self.dirty, &self.touched, &self.pending].iter().for_each(|bitmap| bitmap.rebuild_summary());
    }
}

/// An instance of the object, with its bitmaps mapped. Dropping it leaves everything in the kernel as it is.
pub(super) struct Pinned {
    dir: PathBuf,
    pub(super) bits: Bitmaps,
    pub(super) flights: Flights,
    counts: Array<MapData, [u64; 3]>,
    state: Array<MapData, [u8; STATE_BYTES]>,
    programs: [BtfTracePoint; 4],
}

impl Pinned {
    /// Loads and attaches a new instance and pins it in `dir`, which must not exist. It marks from the moment on that this
    /// returns; its state record is still empty. `spin` is for tests alone, see the BPF program.
    pub(super) fn create(dir: &Path, disk: &TrackedDisk, spin: u32) -> Result<Pinned, TrackerError> {
        let geometry = Geometry::of(disk.size).ok_or(TrackerError::Size(disk.size))?;
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(TrackerError::pins("create the directory", dir))?;
        load_and_pin(dir, disk, geometry, spin)?;
        give_memory_back();
        Pinned::open(dir, disk.size)
    }

    /// Opens what is pinned in `dir`, made for a disk of `size`.
    pub(super) fn open(dir: &Path, size: ByteCount) -> Result<Pinned, TrackerError> {
        for (program, _) in PROGRAMS {
            let link = dir.join(link_pin(program));
            fs::symlink_metadata(&link).map_err(TrackerError::pins("find the attachment", link))?;
        }
        let program = |index: usize| {
            let path = dir.join(program_pin(PROGRAMS[index].0));
            BtfTracePoint::from_pin(&path).map_err(failed("open the program", &path))
        };
        Ok(Pinned {
            dir: dir.to_path_buf(),
            bits: Bitmaps::open(dir, size)?,
            flights: Flights::map(&open_map(dir, "flights")?).map_err(failed("map the table in", dir))?,
            counts: open_array(dir, "counts")?,
            state: open_array(dir, "state")?,
            programs: [program(0)?, program(1)?, program(2)?, program(3)?],
        })
    }

    /// The directory it is pinned in.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes the state record, in one system call: a kill leaves the old one or the new one.
    pub(super) fn set_state(&mut self, state: &State) -> Result<(), TrackerError> {
        self.state.set(0, state.encode(), 0).map_err(failed("write the state of", &self.dir))
    }

    /// What has been counted up to now.
    pub(super) fn counters(&self) -> Result<Counters, TrackerError> {
        let program = |index: usize| -> Result<ProgramCounters, TrackerError> {
            let fd = self.programs[index].fd().map_err(failed("open the program in", &self.dir))?;
            ProgramCounters::read(fd.as_fd())
        };
        let programs = [program(0)?, program(1)?, program(2)?, program(3)?];
        let [unranged, out_of_range, _] = self.counts()?;
        let mut counters = Counters {
            issue_misses: programs[2].misses.min(programs[3].misses),
            completion_misses: programs[0].misses.min(programs[1].misses),
            unranged,
            out_of_range,
            ..Counters::default()
        };
        for program in programs {
            counters.skipped_runs += program.misses;
            counters.cost.runs += program.cost.runs;
            counters.cost.time += program.cost.time;
        }
        Ok(counters)
    }

    /// Writes that had no slot in the table of writes in flight.
    pub(super) fn untabled(&self) -> Result<u64, TrackerError> {
        let [_, _, untabled] = self.counts()?;
        Ok(untabled)
    }

    fn counts(&self) -> Result<[u64; 3], TrackerError> {
        let failed =
            |error| TrackerError::Counters { what: "counted events", source: io::Error::other(error) };
        self.counts.get(&0, 0).map_err(failed)
    }

    /// Gives the directory another name, in one step.
    pub(super) fn rename(&mut self, to: &Path) -> Result<(), TrackerError> {
        fs::rename(&self.dir, to).map_err(TrackerError::pins("rename", &self.dir))?;
        self.dir = to.to_path_buf();
        Ok(())
    }
}

/// The state record of what is pinned in `dir`; `None` where it has none that this version knows.
pub(super) fn read_state(dir: &Path) -> Option<State> {
    let record = open_array::<[u8; STATE_BYTES]>(dir, "state").ok()?;
    State::decode(&record.get(&0, 0).ok()?)
}

/// Removes a directory of pins, the attachments first. What is not there, or only in part, is not an error.
pub(super) fn remove(dir: &Path) -> Result<(), TrackerError> {
    detach(dir)?;
    for name in PROGRAMS.iter().map(|(program, _)| program_pin(program)).chain(MAPS.map(str::to_owned)) {
        remove_pin(&dir.join(name))?;
    }
    ignore_missing(fs::remove_dir(dir)).map_err(TrackerError::pins("remove the directory", dir))
}

/// Detaches the programs pinned in `dir`. The maps stay.
pub(super) fn detach(dir: &Path) -> Result<(), TrackerError> {
    PROGRAMS.iter().try_for_each(|(program, _)| remove_pin(&dir.join(link_pin(program))))
}

fn remove_pin(path: &Path) -> Result<(), TrackerError> {
    ignore_missing(fs::remove_file(path)).map_err(TrackerError::pins("remove the pin", path))
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Reading the kernel's types takes 16 MiB for a moment, which glibc keeps for as long as the process lives unless it is
/// asked for them.
#[allow(unsafe_code)] // No crate offers this call.
fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: may be called by any thread at any time; it touches nothing but what is free already.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn load_and_pin(dir: &Path, disk: &TrackedDisk, geometry: Geometry, spin: u32) -> Result<(), TrackerError> {
    let queues = Path::new("/sys/block").join(&disk.sysfs_name).join("mq");
    let table =
        TableSize::of_disk(&disk.sysfs_name).map_err(TrackerError::pins("read the queues of", queues))?;
    let refused = |error: &dyn std::error::Error| TrackerError::Load(chain(error));
    let btf = Btf::from_sys_fs().map_err(|error| refused(&error))?;
    let mut object = EbpfLoader::new()
        .btf(Some(&btf))
        .override_global("major", &disk.major, true)
        .override_global("first_minor", &disk.minor, true)
        .override_global("blocks", &geometry.blocks, true)
        .override_global("words", &geometry.words, true)
        .override_global("queues", &table.queues, true)
        .override_global("tags", &table.tags, true)
        .override_global("spin", &spin, true)
        .map_max_entries("dirty", geometry.entries())
        .map_max_entries("touched", geometry.entries())
        .map_max_entries("pending", geometry.entries())
        .map_max_entries("flights", table.slots())
        .load(OBJECT)
        .map_err(|error| refused(&error))?;
    for name in MAPS {
        let map =
            object.map(name).ok_or_else(|| TrackerError::Load(format!("the object has no map '{name}'")))?;
        map.pin(dir.join(name)).map_err(failed("pin in", dir))?;
    }
    for (name, tracepoint) in PROGRAMS {
        let program: &mut BtfTracePoint = object
            .program_mut(name)
            .ok_or_else(|| TrackerError::Load(format!("the object has no program '{name}'")))?
            .try_into()
            .map_err(|error| refused(&error))?;
        program.load(tracepoint, &btf).map_err(|error| refused(&error))?;
        program.pin(dir.join(program_pin(name))).map_err(failed("pin in", dir))?;
        let id = program.attach().map_err(|error| refused(&error))?;
        let link: FdLink = program.take_link(id).map_err(|error| refused(&error))?.into();
        link.pin(dir.join(link_pin(name))).map_err(failed("pin in", dir))?;
    }
    Ok(())
}

// No dots: bpffs reserves them (kernel/bpf/inode.c, `bpf_lookup`).
fn program_pin(program: &str) -> String {
    format!("program_{program}")
}

fn link_pin(program: &str) -> String {
    format!("link_{program}")
}

fn open_map(dir: &Path, name: &str) -> Result<MapData, TrackerError> {
    let path = dir.join(name);
    MapData::from_pin(&path).map_err(failed("open the map", &path))
}

fn open_array<V: aya::Pod>(dir: &Path, name: &str) -> Result<Array<MapData, V>, TrackerError> {
    let map = aya::maps::Map::from_map_data(open_map(dir, name)?);
    map.and_then(Array::try_from).map_err(failed("use the map in", dir))
}

fn failed<E: std::error::Error>(what: &'static str, path: &Path) -> impl FnOnce(E) -> TrackerError {
    let path = path.to_path_buf();
    move |error| TrackerError::Pins { what, path, source: io::Error::other(chain(&error)) }
}

/// The error with everything that caused it: aya's outer texts alone say little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
