//! The check must say of a right copy that it is right and of a wrong one what is wrong, or it proves nothing.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::PathBuf,
};

use jiff::Timestamp;

use super::{
    History,
    history::Times,
    plan::Chains,
    record::{Owner, SECTOR},
};

/// Two chains on two disks, whose steps take a microsecond each and take turns; copies are made by hand.
struct Bench {
    chains: Chains,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let records = vec![4096, 8192];
        let chains = Chains { seed: 7, chains: 2, disks: 2, records, slots: 6, discard_every: 5 };
        Bench { chains, dir: tempfile::tempdir().unwrap() }
    }

    fn images(&self) -> Vec<PathBuf> {
        (0..2).map(|disk| self.dir.path().join(format!("{disk}.img"))).collect()
    }

    /// Step `n` of chain `c` is issued at `20 n + 10 c` and has completed 5 later.
    fn history(&self, steps: u64) -> History {
        let of = |chain: i64| {
            let times = |n: u64| 20 * i64::try_from(n).unwrap() + 10 * chain;
            (1..=steps).map(|n| Times { issued: times(n), completed: times(n) + 5 }).collect()
        };
        History::new(self.chains.clone(), vec![of(0), of(1)])
    }

    /// Does a step: all of its sectors, or only those in `sectors`.
    fn write(&self, chain: u64, n: u64, completed: [u32; 2], sectors: std::ops::Range<usize>) {
        let (step, size) = (self.chains.step(chain, n), self.chains.record(chain));
        let owner = Owner { seed: 7, chain, disk: step.disk, offset: step.offset, size };
        let mut record = vec![0; size as usize];
        if !step.discard {
            owner.fill(&mut record, n, &completed);
        }
        let file = File::options().write(true).open(&self.images()[step.disk as usize]).unwrap();
        let sectors = sectors.start..sectors.end.min(record.len() / SECTOR);
        let at = (sectors.start * SECTOR) as u64;
        file.write_all_at(&record[sectors.start * SECTOR..sectors.end * SECTOR], step.offset + at).unwrap();
    }

    /// Makes the copies of the moment at which so many steps of each chain are there.
    fn copy(&self, steps: [u64; 2]) {
        for image in self.images() {
            let file = File::create(image).unwrap();
            file.set_len(self.chains.bytes()).unwrap();
        }
        for n in 1..=steps[0].max(steps[1]) {
            let before = n as u32 - 1;
            for chain in 0..2 {
                if n <= steps[chain as usize] {
                    self.write(chain, n, [before + chain as u32, before], 0..usize::MAX);
                }
            }
        }
    }

    fn check(&self, t0: i64) -> Result<Vec<u64>, String> {
        self.history(60).check(&self.images(), Timestamp::from_microsecond(t0).unwrap())
    }
}

#[test]
fn every_moment_is_right_at_its_time_and_wrong_at_another() {
    let bench = Bench::new();
    for n in 1..50 {
        bench.copy([n, n]);
        let at = 20 * i64::try_from(n).unwrap();
        assert_eq!(bench.check(at + 17), Ok(vec![n, n]), "{n}");
        bench.copy([n, n - 1]);
        assert_eq!(bench.check(at + 7), Ok(vec![n, n - 1]), "{n}");
        // Discards of what is zero anyway leave nothing to see, so some moments look like the one after.
        if n % 5 > 1 {
            let early = bench.check(at - 2).unwrap_err();
            assert!(early.contains("what is there"), "{early}");
            let late = bench.check(at + 37).unwrap_err();
            assert!(late.contains("what is there"), "{late}");
        }
    }
}

#[test]
fn what_lacks_a_cause_is_wrong_whatever_the_time() {
    let bench = Bench::new();
    // Step 18 of chain 1 says that step 18 of chain 0 had completed.
    bench.copy([17, 18]);
    let why = bench.check(18 * 20 + 12).unwrap_err();
    assert!(why.contains("says that step 18 of chain 0 had completed"), "{why}");
    // Within a chain a slot that was not brought up to date shows.
    bench.copy([30, 30]);
    let last = |n| bench.chains.step(0, n);
    let stale = (2..=29)
        .rev()
        .find(|&n| !last(n).discard && (n + 1..=30).all(|later| last(later).slot != last(n).slot));
    let step = last(stale.unwrap());
    let file = File::options().write(true).open(&bench.images()[step.disk as usize]).unwrap();
    file.write_all_at(&[0; 4096], step.offset).unwrap();
    let why = bench.check(30 * 20 + 17).unwrap_err();
    assert!(why.contains("chain 0 shows no instant"), "{why}");
}

#[test]
fn only_what_was_in_flight_may_be_torn() {
    let bench = Bench::new();
    for n in [16, 18, 21] {
        bench.copy([n, n - 1]);
        bench.write(1, n, [n as u32; 2], 2..9);
        let at = 20 * i64::try_from(n).unwrap();
        assert_eq!(bench.check(at + 12), Ok(vec![n, n - 1]), "in flight");
        assert!(bench.check(at + 8).unwrap_err().contains("what is there"), "before it was issued");
        assert!(bench.check(at + 16).unwrap_err().contains("what is there"), "after it had completed");
    }
    bench.copy([20, 20]);
    bench.write(1, 23, [22; 2], 2..9);
    assert!(bench.check(417).unwrap_err().contains("chain 1 shows no instant"));
}

#[test]
fn what_nobody_wrote_there_is_named() {
    let bench = Bench::new();
    bench.copy([20, 20]);
    let step = (1..=20).rev().map(|n| bench.chains.step(0, n)).find(|step| !step.discard).unwrap();
    let image = &bench.images()[step.disk as usize];
    let good = fs::read(image).unwrap();
    let mut bad = good.clone();
    bad[step.offset as usize + 700] ^= 1;
    fs::write(image, &bad).unwrap();
    assert!(bench.check(417).unwrap_err().contains("bytes that nobody wrote"));
    // A record in the wrong slot.
    let first = bench.chains.place(0, step.disk * bench.chains.slots).1;
    let (from, to) = (step.offset as usize, if step.offset == first { first + 4096 } else { first } as usize);
    let mut bad = good.clone();
    bad.copy_within(from..from + 4096, to);
    fs::write(image, &bad).unwrap();
    assert!(bench.check(417).unwrap_err().contains("a record of another place"));
}
