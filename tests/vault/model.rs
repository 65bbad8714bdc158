//! Whatever is written, zeroed, grown, shrunk, committed in parts or in checkpoints: every point restores to what the
//! disks held.

use mobility_format::{BLOCK_SIZE, BlockIndex, WINDOW_SIZE, manifest::Consistency};
use mobility_recovery::{Catalog, WindowContent, WindowReader};
use mobility_tests::vault_maker::VaultMaker;

use crate::support::{check_all_points, scratch};

const MIB: u64 = 1 << 20;

/// A random history of a machine with up to three disks.
pub(crate) fn history(maker: &mut VaultMaker, epochs: u64) {
    maker.add_disk("/dev/vda", 5 * MIB + 512);
    for epoch in 0..epochs {
        match maker.dice.below(8) {
            0 if maker.disks.len() < 3 => {
                let size = MIB * (1 + maker.dice.below(3)) + 4096 * maker.dice.below(3);
                maker.add_disk(&format!("/dev/disk{epoch}"), size);
            }
            1 => {
                let disk = maker.dice.below(maker.disks.len() as u64) as usize;
                let size = 512 * (1 + maker.dice.below(14 << 10));
                maker.resize(disk, size);
            }
            2 => maker.next_generation(),
            3 => maker.restart(),
            _ => {}
        }
        for disk in 0..maker.disks.len() {
            let writes = maker.dice.below(5);
            maker.write_at_random(disk, writes);
        }
        let commit = match maker.dice.below(6) {
            0 => None,
            1 => Some(Consistency::Fuzzy),
            _ => Some(Consistency::Crash),
        };
        maker.commit(commit);
    }
}

#[test]
fn every_point_restores_to_what_the_disks_held() {
    for seed in 0..12 {
        let dir = scratch();
        let mut maker = VaultMaker::new(dir.path(), seed);
        history(&mut maker, 24);
        let points = maker.committed.values().filter(|snapshot| snapshot.consistency.is_some()).count();
        assert_eq!(check_all_points(&maker), points, "seed {seed}");
    }
}

#[test]
fn windows_hold_the_same_in_order_and_out_of_order() {
    let dir = scratch();
    let mut maker = VaultMaker::new(dir.path(), 77);
    history(&mut maker, 20);
    maker.commit(None);
    let catalog = Catalog::load(&maker.vault, maker.machine).unwrap();
    for model in &maker.disks {
        let mut expected = model.content.clone();
        expected.resize(expected.len().next_multiple_of(WINDOW_SIZE), 0);
        let mut reader = WindowReader::at_head(&catalog, model.id).unwrap();
        let in_order: Vec<_> = reader.windows().unwrap().map(|window| window.unwrap()).collect();
        assert_eq!(in_order.len(), expected.len() / WINDOW_SIZE);
        for (window, content) in in_order.iter().rev() {
            let at = window.0 as usize * BLOCK_SIZE;
            let plain = &expected[at..at + WINDOW_SIZE];
            match content {
                WindowContent::Zero => assert!(plain.iter().all(|b| *b == 0), "window {window}"),
                WindowContent::Data(bytes) => assert!(bytes[..] == *plain, "window {window}"),
            }
            let inside = BlockIndex(window.0 + maker.dice.below(256));
            assert_eq!(reader.window(inside).unwrap(), *content, "window {window}");
            let digests = mobility_recovery::block_digests(content);
            let of_block = |block: &[u8]| mobility_format::BlockDigest::of(block);
            assert!(
                digests
                    .iter()
                    .zip(plain.chunks(BLOCK_SIZE))
                    .all(|(digest, block)| *digest == of_block(block))
            );
        }
    }
}
