//! An image file is protected by scanning it, while a program writes to it.
//!
//! Deliberately not here: what a scan finds, which the capture crate tests.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use mobility_tests::{
    agent_process::Setup,
    load::scribble,
    load_ordered::{Chains, Ordered, Target},
    scratch::{MIB, Scratch, occupied},
    vault_maker::Dice,
};

pub(crate) fn image(scratch: &Scratch, size: u64) -> PathBuf {
    let path = scratch.path("disk.img");
    File::create(&path).unwrap().set_len(size).unwrap();
    path
}

#[test]
fn an_image_is_protected_while_it_is_written_and_grows() {
    let scratch = Scratch::new();
    let image = image(&scratch, 32 * MIB);
    let setup = Setup::new(&scratch, &[&image]).flags(&["--capture", "scan"]);
    let mut agent = setup.start();
    let status = agent.wait_until_protected();
    assert_eq!(status["disks"][0]["capture"], "scan");

    // Scans that agree are the proof of a point, so the writer leaves pauses.
    let chains = Chains::new(1, 1, 16 * MIB);
    let ordered = Ordered::start(&[Target::Buffered(image.clone())], &chains, Some(3));
    agent.wait_for_points(3);
    OpenOptions::new().write(true).open(&image).unwrap().set_len(48 * MIB).unwrap();
    agent.wait_for("the new size", |status| status["disks"][0]["size"] == 48 * MIB);
    let above = scribble(&image, 32 * MIB, 48 * MIB, 1, Duration::from_millis(2));
    agent.wait_for_points(2);
    assert!(above.stop() > 0);
    let written = ordered.stop();
    agent.wait_for_points(1);
    agent.terminate();
    setup.newest_point_equals(&scratch, &[&image]);

    let crash: Vec<_> = setup.points().into_iter().filter(|point| point.is_crash()).collect();
    assert!(crash.len() >= 2, "{}", setup.log_tail());
    for point in crash {
        let dir = scratch.path("restored");
        let copies = setup.restore(&point, &dir);
        written.check(&copies, point.time).unwrap_or_else(|e| panic!("{point:?}: {e}"));
        fs::remove_dir_all(dir).unwrap();
    }
}

#[test]
fn a_killed_agent_that_scans_loses_nothing() {
    let scratch = Scratch::new();
    let image = image(&scratch, 32 * MIB);
    let setup = Setup::new(&scratch, &[&image]);
    let writer = scribble(&image, 0, 32 * MIB, 2, Duration::from_millis(20));
    let mut dice = Dice::new(7);
    for _ in 0..6 {
        let mut agent = setup.start();
        agent.wait_for("a state", |_| true);
        thread::sleep(Duration::from_millis(dice.below(1500)));
        agent.kill();
    }
    assert!(writer.stop() > 0);
    setup.last_run();
    setup.newest_point_equals(&scratch, &[&image]);
}

#[test]
fn a_sparse_image_is_cheap() {
    let scratch = Scratch::new();
    let image = image(&scratch, 64 * 1024 * MIB);
    let file = OpenOptions::new().write(true).open(&image).unwrap();
    for at in [0, 9_000 * MIB, 65_000 * MIB] {
        file.write_all_at(&vec![0xa5; MIB as usize], at).unwrap();
    }
    let setup = Setup::new(&scratch, &[&image]);
    let begin = Instant::now();
    setup.last_run();
    let taken = begin.elapsed();
    assert!(occupied(&setup.vault) < 24 * MIB, "{} bytes in the vault", occupied(&setup.vault));
    let newest = setup.points().pop().unwrap();
    let restored = setup.restore(&newest, &scratch.path("restored")).remove(0);
    assert_eq!(fs::metadata(&restored).unwrap().len(), 64 * 1024 * MIB);
    assert!(occupied(&restored) <= 4 * MIB, "{} bytes restored", occupied(&restored));
    assert_eq!(read(&restored, 9_000 * MIB), vec![0xa5; 4096]);
    assert_eq!(read(&restored, 65_000 * MIB + MIB - 4096), vec![0xa5; 4096]);
    // Reading 64 GiB of nothing would take far longer on any machine.
    assert!(taken < Duration::from_secs(60), "{taken:?}");
}

fn read(path: &Path, at: u64) -> Vec<u8> {
    let mut block = vec![0; 4096];
    File::open(path).unwrap().read_exact_at(&mut block, at).unwrap();
    block
}

#[test]
fn an_image_that_vanishes_is_waited_for() {
    let scratch = Scratch::new();
    let image = image(&scratch, 8 * MIB);
    let setup = Setup::new(&scratch, &[&image]);
    let mut agent = setup.start();
    agent.wait_until_protected();
    let away = scratch.path("away.img");
    fs::rename(&image, &away).unwrap();
    let gone = agent.wait_for("the disk gone", |status| status["disks"][0]["state"] == "gone");
    let message = gone["disks"][0]["problem"].as_str().unwrap();
    assert!(message.contains("disk.img") && message.contains("attach it again"), "{message}");
    OpenOptions::new().write(true).open(&away).unwrap().write_all_at(&[9; 70_000], 3 * MIB).unwrap();
    fs::rename(&away, &image).unwrap();
    agent.wait_until_protected();
    agent.wait_for_points(1);
    agent.terminate();
    setup.newest_point_equals(&scratch, &[&image]);
}
