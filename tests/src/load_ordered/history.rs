//! What the chains did and when, and whether a copy of the disks shows one instant of it; the argument is at the top of
//! the module.

use std::{
    fmt::Write,
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::{
    plan::Chains,
    record::{Found, Owner},
};

/// So many steps after the newest record that is seen may have been done: what they wrote may be discarded again.
const HIDDEN: u64 = 3;
/// The most slots that a message names.
const NAMED: usize = 12;

/// When a step was issued and when its writer knew that it had completed, in microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) issued: i64,
    pub(super) completed: i64,
}

/// What the chains did.
#[derive(Clone, Debug)]
pub struct History {
    chains: Chains,
    times: Vec<Vec<Times>>,
    /// Of each chain and each of its slots, the steps that went there.
    of_slot: Vec<Vec<Vec<u64>>>,
}

/// A moment of a chain: the first so many steps are there, and `torn` says whether a part of the next one is, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moment {
    steps: u64,
    torn: bool,
}

impl History {
    pub(super) fn new(chains: Chains, times: Vec<Vec<Times>>) -> History {
        let of = |(chain, times): (usize, &Vec<Times>)| {
            let mut slots = vec![Vec::new(); (chains.slots * chains.disks) as usize];
            for n in 1..=times.len() as u64 {
                slots[chains.step(chain as u64, n).slot as usize].push(n);
            }
            slots
        };
        let of_slot = times.iter().enumerate().map(of).collect();
        History { chains, times, of_slot }
    }

    /// Whether a step had been issued by then.
    #[must_use]
    pub fn began_before(&self, time: Timestamp) -> bool {
        let first =
            |times: &Vec<Times>| times.first().is_some_and(|step| step.issued <= time.as_microsecond());
        self.times.iter().any(first)
    }

    /// How many steps were done.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.times.iter().map(|times| times.len() as u64).sum()
    }

    /// Demands that the copies, one for each disk, show one instant, and that this is `t0`. Returns how many steps of
    /// each chain they hold.
    ///
    /// # Errors
    /// What is wrong with them, with the times of the steps that it is about.
    ///
    /// # Panics
    /// When a copy cannot be read.
    pub fn check(&self, copies: &[PathBuf], t0: Timestamp) -> Result<Vec<u64>, String> {
        let (mut moments, mut says) = (Vec::new(), Vec::new());
        for chain in 0..self.chains.chains {
            let slots = self.read(chain, copies)?;
            let possible = self.moments(chain, &slots);
            if possible.is_empty() {
                return Err(self.why_not(chain, &slots, t0));
            }
            moments.push(possible);
            says.push(slots);
        }
        for (chain, slots) in says.iter().enumerate() {
            slots.iter().try_for_each(|slot| self.causes(chain, slot, &moments, t0))?;
        }
        (0..).zip(&moments).map(|(chain, moments)| self.times(chain, moments, t0)).collect()
    }

    fn read(&self, chain: u64, copies: &[PathBuf]) -> Result<Vec<Found>, String> {
        let size = self.chains.record(chain);
        let mut buffer = vec![0; size as usize];
        let open = |path: &PathBuf| File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let files: Vec<_> = copies.iter().map(open).collect();
        let mut read = |slot| {
            let (disk, offset) = self.chains.place(chain, slot);
            let owner = Owner { seed: self.chains.seed, chain, disk, offset, size };
            files[disk as usize].read_exact_at(&mut buffer, offset).unwrap();
            owner.read(&buffer).map_err(|what| {
                format!("chain {chain}, disk {disk}, byte {offset}, {size} bytes long: {what}")
            })
        };
        (0..self.chains.slots * self.chains.disks).map(&mut read).collect()
    }

    /// The step whose record a slot holds after `steps` steps; 0 for zeros.
    fn holds(&self, chain: u64, slot: u64, steps: u64) -> u64 {
        let of_slot = &self.of_slot[chain as usize][slot as usize];
        match of_slot[..of_slot.partition_point(|&n| n <= steps)].last() {
            Some(&n) if !self.chains.step(chain, n).discard => n,
            _ => 0,
        }
    }

    /// All moments of a chain that look like these slots. Only a part of one step can be there without the rest of it.
    fn moments(&self, chain: u64, slots: &[Found]) -> Vec<Moment> {
        let newest = newest(slots);
        let last = self.times[chain as usize].len() as u64;
        if newest > last {
            return Vec::new();
        }
        let mut moments = Vec::new();
        for steps in newest.saturating_sub(1)..=(newest + HIDDEN).min(last) {
            let strange = self.strange(chain, slots, steps);
            match strange[..] {
                [] => moments.push(Moment { steps, torn: false }),
                [slot] if steps < last && self.chains.step(chain, steps + 1).slot == slot => {
                    let (old, new) = (self.holds(chain, slot, steps), self.holds(chain, slot, steps + 1));
                    if slots[slot as usize].steps.iter().all(|&n| n == old || n == new) {
                        moments.push(Moment { steps, torn: true });
                    }
                }
                _ => {}
            }
        }
        moments
    }

    /// The slots that do not hold what they would after `steps` steps.
    fn strange(&self, chain: u64, slots: &[Found], steps: u64) -> Vec<u64> {
        let is = |(slot, found): &(u64, &Found)| found.steps != [self.holds(chain, *slot, steps)];
        (0..).zip(slots).filter(is).map(|(slot, _)| slot).collect()
    }

    fn why_not(&self, chain: u64, slots: &[Found], t0: Timestamp) -> String {
        let newest = newest(slots);
        let mut why = format!(
            "chain {chain} shows no instant: its newest record is {newest} of {}; {}",
            self.times[chain as usize].len(),
            self.step_times(chain, newest, t0)
        );
        for slot in self.strange(chain, slots, newest).into_iter().take(NAMED) {
            let (disk, offset) = self.chains.place(chain, slot);
            let (found, due) = (&slots[slot as usize].steps, self.holds(chain, slot, newest));
            let went = &self.of_slot[chain as usize][slot as usize];
            let upto = went.partition_point(|&n| n <= newest + HIDDEN);
            let _ = write!(why, "\n  disk {disk}, byte {offset}: found {found:?}, due {due}; steps to it:");
            for &n in &went[upto.saturating_sub(4)..upto] {
                let _ = write!(why, "\n    {}", self.step_times(chain, n, t0));
            }
        }
        why
    }

    /// Demands what the record in a slot says had completed before it.
    fn causes(&self, chain: usize, slot: &Found, all: &[Vec<Moment>], t0: Timestamp) -> Result<(), String> {
        for ((cause, moments), &completed) in all.iter().enumerate().zip(&slot.completed) {
            let present = moments.iter().map(|moment| moment.steps).max().unwrap_or(0);
            if present < u64::from(completed) {
                return Err(format!(
                    "chain {chain}: {}; it says that step {completed} of chain {cause} had completed, and only {present} are there: {}",
                    self.step_times(chain as u64, slot.steps[0], t0),
                    self.step_times(cause as u64, u64::from(completed), t0)
                ));
            }
        }
        Ok(())
    }

    /// Demands that one of the moments can have been at `t0`.
    fn times(&self, chain: u64, moments: &[Moment], t0: Timestamp) -> Result<u64, String> {
        let (times, at) = (&self.times[chain as usize], t0.as_microsecond());
        let completed = times.partition_point(|step| step.completed < at) as u64;
        // Both were cut off to whole microseconds.
        let issued = times.partition_point(|step| step.issued <= at + 1) as u64;
        let can =
            |moment: &&Moment| completed <= moment.steps && moment.steps + u64::from(moment.torn) <= issued;
        match moments.iter().find(can) {
            Some(moment) => Ok(moment.steps),
            None => Err(format!(
                "chain {chain}: {completed} steps had completed before t0 and {issued} were issued; what is there: {moments:?}\n  {}\n  {}",
                self.step_times(chain, completed, t0),
                self.step_times(chain, completed + 1, t0)
            )),
        }
    }

    /// A step and its times, for people.
    fn step_times(&self, chain: u64, n: u64, t0: Timestamp) -> String {
        let times = n.checked_sub(1).and_then(|index| self.times[chain as usize].get(index as usize));
        let Some(times) = times else { return format!("step {n} of chain {chain} was never done") };
        let after = |time: i64| time - t0.as_microsecond();
        let step = self.chains.step(chain, n);
        format!(
            "step {n} of chain {chain} ({} disk {}, byte {}) was issued {} us and had completed {} us after t0",
            if step.discard { "discard," } else { "record," },
            step.disk,
            step.offset,
            after(times.issued),
            after(times.completed)
        )
    }

    /// Writes all times into a file, for whoever looks into a failure.
    ///
    /// # Panics
    /// When that fails.
    pub fn dump(&self, path: &Path) {
        let mut text = format!("{:?}\nchain step disk offset discard issued_us completed_us\n", self.chains);
        for (chain, times) in (0..).zip(&self.times) {
            for (n, Times { issued, completed }) in (1..).zip(times) {
                let step = self.chains.step(chain, n);
                let (disk, offset, discard) = (step.disk, step.offset, step.discard);
                let _ = writeln!(text, "{chain} {n} {disk} {offset} {discard} {issued} {completed}");
            }
        }
        std::fs::write(path, text).unwrap();
    }
}

fn newest(slots: &[Found]) -> u64 {
    slots.iter().flat_map(|slot| &slot.steps).copied().max().unwrap_or(0)
}
