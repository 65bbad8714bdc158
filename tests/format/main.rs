//! The program's writer against a reader that was written from `docs/FORMAT.md` alone, in another language: what one
//! writes the other reads, and what is damaged both refuse.
//!
//! Deliberately not here: the format's own tests of damage and limits, which are beside its code.

// What a test cannot go on without fails it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod samples;
mod second_reader;
mod vault;

use mobility_format::{
    Digest, DiskId, Epoch, Generation, MachineId, SessionId,
    manifest::{Run, SignedManifest},
    segment::{ExtentDecoder, Kind, SegmentHeader, SegmentReader},
};
use mobility_tests::dice::Dice;
use second_reader::SecondReader;
use serde_json::{Value, json};
use vault::Vault;

fn header(seed: u64) -> SegmentHeader {
    SegmentHeader {
        machine: MachineId([1; 16]),
        disk: DiskId([2; 16]),
        generation: Generation(3),
        first_epoch: Epoch(u64::MAX - 1),
        last_epoch: Epoch(u64::MAX),
        session: SessionId(seed.to_le_bytes()),
        part: u32::MAX,
        previous: Digest::of(b"before"),
    }
}

/// What the program's own reader says about a segment, in the words of the second one.
fn as_first_reader_says(bytes: &[u8]) -> Value {
    let reader = SegmentReader::open(bytes).unwrap();
    let (mut decoder, mut stored) = (ExtentDecoder::new().unwrap(), Vec::new());
    let extents = reader.entries().map(|entry| {
        let entry = entry.unwrap();
        let kind = match entry.kind {
            Kind::Zero => "zero",
            Kind::Stored => "stored",
            Kind::Zstd => "zstd",
        };
        let content = (entry.kind != Kind::Zero).then(|| {
            let mut plain = vec![0; entry.range().bytes().0 as usize];
            reader.read_extent(&entry, &mut decoder, &mut stored, &mut plain).unwrap();
            Digest::of(&plain)
        });
        json!({ "start": entry.start, "count": entry.count, "kind": kind, "content": content })
    });
    let header = reader.header();
    json!({
        "machine": header.machine, "disk": header.disk, "generation": header.generation,
        "first_epoch": header.first_epoch, "last_epoch": header.last_epoch, "session": header.session,
        "part": header.part, "previous": header.previous, "digest": reader.digest(),
        "extents": extents.collect::<Vec<_>>(),
    })
}

#[test]
fn both_readers_see_the_same_in_a_segment() {
    let Some(second) = SecondReader::find() else { return };
    for seed in 0..12 {
        let (bytes, _) = samples::segment(&mut Dice::new(seed), header(seed));
        assert_eq!(second.segment(&bytes).unwrap(), as_first_reader_says(&bytes), "seed {seed}");
    }
}

#[test]
fn both_readers_refuse_a_damaged_segment() {
    let Some(second) = SecondReader::find() else { return };
    let mut dice = Dice::new(7);
    let (good, _) = samples::segment(&mut dice, header(7));
    for _ in 0..24 {
        let (mut bad, bit) = (good.clone(), dice.below(good.len() as u64 * 8) as usize);
        bad[bit / 8] ^= 1 << (bit % 8);
        let first = SegmentReader::open(&bad[..]).and_then(|reader| reader.check_payload());
        assert!(first.is_err(), "bit {bit}");
        assert!(second.segment(&bad).is_err(), "bit {bit}");
    }
    assert!(second.segment(&good[..good.len() - 1]).is_err());
}

#[test]
fn both_readers_see_the_same_in_manifests_and_runs() {
    let Some(second) = SecondReader::find() else { return };
    let vault = Vault::write(3);
    for (kind, bytes) in vault.envelopes() {
        let seen = second.envelope(&bytes).unwrap();
        assert_eq!(seen["kind"], kind);
        let body = match kind {
            "run" => serde_json::to_value(Run::parse(&bytes).unwrap()).unwrap(),
            _ => {
                let signed = SignedManifest::parse(&bytes).unwrap();
                assert_eq!(seen["key"], json!(signed.key));
                assert_eq!(seen["digest"], json!(signed.digest));
                serde_json::to_value(signed.manifest).unwrap()
            }
        };
        assert_eq!(seen["body"], body);
    }
}

#[test]
fn both_readers_refuse_a_damaged_or_forged_manifest() {
    let Some(second) = SecondReader::find() else { return };
    let (_, good) = Vault::write(4).envelopes().into_iter().find(|(kind, _)| *kind == "manifest").unwrap();
    let refused = |bytes: &[u8]| {
        assert!(SignedManifest::parse(bytes).is_err());
        second.envelope(bytes).unwrap_err()
    };
    let mut damaged = good.clone();
    damaged[100] ^= 1;
    assert!(refused(&damaged).contains("does not match its digest"));
    let end = damaged.len() - Digest::LEN;
    let digest = Digest::of(&damaged[..end]);
    damaged[end..].copy_from_slice(&digest.0);
    assert!(refused(&damaged).contains("forged"));
}

/// Proves P8 from the other side: everything a restore needs is in the vault and on the page.
#[test]
fn second_reader_restores_every_point_of_a_vault() {
    let Some(second) = SecondReader::find() else { return };
    for seed in 0..4 {
        let vault = Vault::write(seed);
        assert!(vault.points().len() > 4, "seed {seed}");
        for point in vault.points() {
            let restored =
                second.restore(vault.path(), vault.machine(), point.disk, point.epoch, vault.key());
            assert!(
                restored.unwrap() == point.image,
                "seed {seed}, epoch {}, disk {}",
                point.epoch,
                point.disk
            );
        }
    }
}

#[test]
fn second_reader_restores_nothing_that_another_key_signed() {
    let Some(second) = SecondReader::find() else { return };
    let (vault, other) = (Vault::write(5), mobility_format::PublicKey([9; 32]));
    let point = &vault.points()[0];
    let refused = second.restore(vault.path(), vault.machine(), point.disk, point.epoch, other).unwrap_err();
    assert!(refused.contains("not with the machine's"), "{refused}");
}
