//! Which of the trackers found pinned may go on, and how one hands over to another without a gap.
//!
//! Pins lie in `<pin root>/<object>/<disk>`. A tracker that takes over is made in `<disk>-next` beside it and renamed when
//! it has everything; its state record says `complete` from the moment on that the old one may go. Deliberately not here:
//! two agents at a time; the daemon holds a lock.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use mobility_format::{BLOCK_SHIFT, BlockRange, BlockSet, DiskId};
use rustix::time::{ClockId, clock_gettime};

use super::{
    Continuity, PinnedTracker, StartReason, TrackedDisk,
    counters::Counters,
    error::TrackerError,
    pinned::{self, Bitmaps, Pinned, object_name},
    state::State,
};
use crate::boot;

/// Takes up what is pinned for `disk`, or starts anew.
pub(super) fn adopt_or_start(
    disk: &TrackedDisk,
    root: &Path,
    spin: u32,
) -> Result<(Pinned, State, Continuity), TrackerError> {
    let here = root.join(object_name()).join(disk.id.to_string());
    finish_interrupted(&here)?;
    let mut reason = StartReason::NoPins;
    let mut found = directories_of(root, disk.id)?;
    // One of this very object first: taking over is for the others.
    found.sort_by_key(|dir| *dir != here);
    for dir in found {
        match check(&dir, disk) {
            Ok((old, state)) if dir == here => return Ok((adopted(old), state, Continuity::Continued)),
            Ok((old, state)) => {
                let (new, state) = take_over_into(&here, &adopted(old), state, disk)?;
                return Ok((new, state, Continuity::Continued));
            }
            Err(why) => {
                reason = why;
                pinned::remove(&dir)?;
            }
        }
    }
    let mut pinned = Pinned::create(&here, disk, spin).inspect_err(|_| drop(pinned::remove(&here)))?;
    // Before it says that it is complete: whoever finds it after a kill must not take it for one that has seen all.
    pinned.bits.pending.insert(&BlockSet::of(BlockRange::whole_disk(disk.size)));
    let state = State { unsettled: Some(now_ms()), ..fresh_state(disk)? };
    pinned.set_state(&state)?;
    Ok((pinned, state, Continuity::Started(reason)))
}

/// Goes on for `disk`, whose size has changed, in the place of `old`.
pub(super) fn take_over(
    old: &Pinned,
    state: State,
    disk: &TrackedDisk,
) -> Result<(Pinned, State), TrackerError> {
    let here = old.dir().to_path_buf();
    take_over_into(&here, old, state, disk)
}

/// Makes a tracker that ends up pinned in `here` and has all that `old` has marked.
///
/// Both mark for a while, so no write falls between them. An event that was being handled when the new programs were
/// attached may mark the old bitmaps alone, and late: hence the second copy, after every such event has ended.
fn take_over_into(
    here: &Path,
    old: &Pinned,
    old_state: State,
    disk: &TrackedDisk,
) -> Result<(Pinned, State), TrackerError> {
    let next = next_to(here);
    pinned::remove(&next)?;
    let made = Pinned::create(&next, disk, 0).and_then(|mut new| {
        let state = inherit(old, old_state, disk)?;
        if disk.size != old_state.size {
            // From the old end on; a partial block there is another block now.
            let start = old_state.size.0 >> BLOCK_SHIFT;
            new.bits
                .dirty
                .insert(&BlockSet::of(BlockRange::new(start, disk.size.blocks().saturating_sub(start))));
        }
        copy(old, &new);
        new.set_state(&state)?;
        Ok((new, state))
    });
    let (mut new, state) = made.inspect_err(|_| drop(pinned::remove(&next)))?;
    pinned::detach(old.dir())?;
    wait_for_running_programs();
    copy(old, &new);
    pinned::remove(old.dir())?;
    new.rename(here)?;
    Ok((new, state))
}

/// The state for a tracker that inherits from `old`: its own counters start at zero, so what grew for the old one becomes
/// a note.
fn inherit(old: &Pinned, old_state: State, disk: &TrackedDisk) -> Result<State, TrackerError> {
    let (now, seen) = (old.counters()?, old_state.seen);
    Ok(State {
        issue_missed: old_state.issue_missed || now.issue_misses > seen.issue_misses,
        unranged: old_state.unranged || now.unranged > seen.unranged,
        unsettled: old_state.unsettled,
        ..fresh_state(disk)?
    })
}

fn copy(old: &Pinned, new: &Pinned) {
    old.bits.copy_to(&new.bits);
    // Only the old table knows the writes that were issued before the new programs were attached.
    let in_flight = old.flights.now();
    new.bits.touched.insert(&in_flight.blocks);
    if in_flight.everywhere {
        new.bits.touched.insert(&old.bits.touched.peek());
        new.bits.touched.insert(&old.bits.pending.peek());
    }
}

/// Returns when every tracepoint handler that was running has ended: they run with preemption off, and the global
/// `membarrier` waits for an RCU grace period (membarrier(2)). Where it is refused (full dynticks), time has to do.
#[allow(unsafe_code)]
fn wait_for_running_programs() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: membarrier(2) takes three integers and touches no memory of ours.
    let waited = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if waited != 0 {
        thread::sleep(Duration::from_millis(200));
    }
}

/// Ends a hand-over that a kill interrupted: forwards where the new tracker had everything, else backwards.
fn finish_interrupted(here: &Path) -> Result<(), TrackerError> {
    let next = next_to(here);
    if fs::symlink_metadata(&next).is_err() {
        return Ok(());
    }
    let state = pinned::read_state(&next).filter(|state| state.complete);
    let Some((state, mut new)) = state.and_then(|state| Some((state, Pinned::open(&next, state.size).ok()?)))
    else {
        return pinned::remove(&next);
    };
    for dir in directories_of(&parent(&parent(here)), state.disk)? {
        pinned::detach(&dir)?;
        wait_for_running_programs();
        let old = pinned::read_state(&dir).and_then(|old| Bitmaps::open(&dir, old.size).ok());
        if let Some(old) = old {
            old.rebuild_summaries();
            old.copy_to(&new.bits);
        }
        pinned::remove(&dir)?;
    }
    new.rename(here)
}

fn next_to(here: &Path) -> PathBuf {
    let mut name = here.as_os_str().to_owned();
    name.push("-next");
    name.into()
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(path).to_path_buf()
}

/// Takes the instance in `dir` if it is whole and of this disk, at this size, in this boot.
fn check(dir: &Path, disk: &TrackedDisk) -> Result<(Pinned, State), StartReason> {
    let state = pinned::read_state(dir).ok_or(StartReason::UnknownVersion)?;
    if !state.complete {
        return Err(StartReason::Damaged);
    }
    if boot_id().map_or(true, |boot| boot != state.boot) {
        return Err(StartReason::Rebooted);
    }
    if (state.disk, state.major, state.minor) != (disk.id, disk.major, disk.minor) {
        return Err(StartReason::IdentityChanged);
    }
    if disk.sequence.is_some_and(|now| state.sequence.is_some_and(|then| then != now)) {
        return Err(StartReason::Reattached);
    }
    if state.size != disk.size {
        return Err(StartReason::Resized { from: state.size, to: disk.size });
    }
    let pinned = Pinned::open(dir, state.size).map_err(|_| StartReason::Damaged)?;
    Ok((pinned, state))
}

fn adopted(pinned: Pinned) -> Pinned {
    pinned.bits.rebuild_summaries();
    pinned
}

fn fresh_state(disk: &TrackedDisk) -> Result<State, TrackerError> {
    Ok(State {
        complete: true,
        boot: boot_id()?,
        disk: disk.id,
        major: disk.major,
        minor: disk.minor,
        size: disk.size,
        sequence: disk.sequence,
        seen: Counters::default(),
        issue_missed: false,
        unranged: false,
        unsettled: None,
    })
}

/// Milliseconds since boot, and at least 1.
pub(super) fn now_ms() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let millis = time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000);
    u64::try_from(millis).unwrap_or(0).max(1)
}

fn boot_id() -> Result<[u8; 16], TrackerError> {
    let text = boot::boot_id().map_err(TrackerError::pins("read", boot::PATH))?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let id: Result<DiskId, _> = digits.parse();
    let id = id.map_err(|error| TrackerError::pins("read", boot::PATH)(io::Error::other(error)))?;
    Ok(id.0)
}

/// The directories under `root` that hold a tracker of `disk`, of whatever object.
fn directories_of(root: &Path, disk: DiskId) -> Result<Vec<PathBuf>, TrackerError> {
    let mut found = Vec::new();
    for object in subdirectories(root)? {
        let dir = object.join(disk.to_string());
        if fs::symlink_metadata(&dir).is_ok() {
            found.push(dir);
        }
    }
    Ok(found)
}

fn subdirectories(dir: &Path) -> Result<Vec<PathBuf>, TrackerError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(TrackerError::pins("list", dir))?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths.collect::<io::Result<Vec<_>>>().map_err(TrackerError::pins("list", dir))?;
    paths.retain(|path| path.is_dir());
    paths.sort();
    Ok(paths)
}

/// All trackers pinned under `pin_root`, of whatever disk and version.
///
/// # Errors
/// The directory cannot be read. That it does not exist is no error.
pub fn list_pinned(pin_root: &Path) -> Result<Vec<PinnedTracker>, TrackerError> {
    let mut found = Vec::new();
    for object in subdirectories(pin_root)? {
        let current = object.file_name().is_some_and(|name| *name == *object_name());
        for path in subdirectories(&object)? {
            let disk = pinned::read_state(&path).map(|state| state.disk);
            found.push(PinnedTracker { path, disk, current });
        }
    }
    Ok(found)
}

/// Ends all tracking under `pin_root` and removes its pins: what an uninstall does.
///
/// # Errors
/// A pin cannot be removed; those after it may then be left.
pub fn remove_all(pin_root: &Path) -> Result<(), TrackerError> {
    for tracker in list_pinned(pin_root)? {
        pinned::remove(&tracker.path)?;
    }
    for dir in subdirectories(pin_root)?.into_iter().chain([pin_root.to_path_buf()]) {
        match fs::remove_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(TrackerError::pins("remove the directory", dir)(error));
            }
            _ => {}
        }
    }
    Ok(())
}
