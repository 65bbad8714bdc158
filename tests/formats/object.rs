//! A restored disk as one object, sent in parts to a real S3 server and to Azurite: the same bytes as in a file, and nothing where it did
//! not come to its end.

use std::{
    fs,
    ops::ControlFlow,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use mobility_format::{BlockRange, Epoch};
use mobility_recovery::{Destination, Format, ObjectImage, Objects, Phase, RestoreError, StorageErrorKind};
use mobility_tests::{
    binary::program,
    object_stores::{self, ObjectStoreServer},
    requirement::Requirement,
    scratch::eventually,
    vault_maker::{Flavour, VaultMaker},
    watched_store::WatchedStore,
};

use crate::support::{image, restore, restore_watched, scratch};

const MIB: u64 = 1 << 20;
/// No whole number of blocks, windows or parts.
const SIZE: u64 = 41 * MIB + 512;
const KEY: &str = "disks/vda";
const PATIENCE: Duration = Duration::from_secs(60);

/// A store that an object is put into.
struct Store(WatchedStore);

impl Store {
    fn new(server: Result<ObjectStoreServer, String>) -> Option<Store> {
        Requirement::Stores.or_skip(server).map(|server| Store(WatchedStore::new(server, "some/where")))
    }

    fn to(&self, format: Format, replace: bool) -> Destination {
        let object = ObjectImage::new(&self.0.settings(), KEY).unwrap();
        Destination::Object { object, format, replace }
    }

    fn content(&self) -> Option<Vec<u8>> {
        self.0.content(KEY)
    }

    /// How much lies in the server's directory, seen or not.
    fn held(&self) -> u64 {
        fn below(dir: &Path) -> u64 {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            let length = |path: &Path| path.symlink_metadata().map_or(0, |meta| meta.len());
            entries
                .map(|entry| entry.path())
                .map(|path| if path.is_dir() { below(&path) } else { length(&path) })
                .sum()
        }
        below(self.0.server.dir())
    }
}

/// Zeros at the beginning, in the middle for more than a part, and at the end.
fn vault(dir: &Path) -> (VaultMaker, Epoch) {
    let mut maker = VaultMaker::new(&dir.join("vault"), 7611);
    maker.add_disk("/dev/vda", SIZE);
    maker.write(0, BlockRange::new(3, 1), Flavour::Text);
    maker.write(0, BlockRange::new(700, 2500), Flavour::Noise);
    (0..40).for_each(|number| maker.write(0, BlockRange::new(8000 + 7 * number, 1), Flavour::Text));
    maker.write(0, BlockRange::new(8400, 1200), Flavour::Noise);
    let epoch = maker.point();
    (maker, epoch)
}

fn expected(maker: &VaultMaker, epoch: Epoch, format: Format, dir: &Path) -> Vec<u8> {
    let path = dir.join(format!("expected.{}", format.extension()));
    restore(maker, 0, epoch, &image(&path, format)).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn the_object_is_what_the_file_is_and_is_not_replaced() {
    for server in [object_stores::s3(), object_stores::azurite()] {
        let Some(store) = Store::new(server) else { return };
        let dir = scratch();
        let (maker, epoch) = vault(dir.path());
        for (format, replace) in [(Format::Raw, false), (Format::Vhd, true)] {
            let restored = restore(&maker, 0, epoch, &store.to(format, replace)).unwrap();
            assert!(restored.verified && restored.path.ends_with(KEY), "{restored:?}");
            let content = store.content().unwrap();
            assert!(content == expected(&maker, epoch, format, dir.path()), "{format}");
            let refused = restore(&maker, 0, epoch, &store.to(Format::Raw, false));
            assert!(matches!(refused, Err(RestoreError::Exists(_))), "{refused:?}");
            assert!(store.content().unwrap() == content, "and is still there");
        }
        let refused = restore(&maker, 0, epoch, &store.to(Format::Qcow2, true)).unwrap_err();
        assert!(refused.to_string().contains("choose raw or vhd"), "{refused}");
    }
}

#[test]
fn an_object_that_changed_is_found_and_removed() {
    let Some(store) = Store::new(object_stores::s3()) else { return };
    let dir = scratch();
    let (maker, epoch) = vault(dir.path());
    for (at, found) in [(9 * MIB, "MiB 9"), (20 * MIB, "MiB 20")] {
        let mut done = false;
        let result = restore_watched(&maker, 0, epoch, &store.to(Format::Raw, false), |progress| {
            if progress.phase == Phase::Checking && !std::mem::replace(&mut done, true) {
                let mut bytes = store.content().expect("it is whole before it is read back");
                bytes[at as usize] ^= 0x11;
                store.0.remote.replace(KEY, &bytes).unwrap();
            }
            ControlFlow::Continue(())
        });
        match result {
            Err(RestoreError::Differs { differing, .. }) => assert_eq!(differing.to_string(), found),
            other => panic!("{other:?}"),
        }
        assert!(store.content().is_none());
    }
}

#[test]
fn cancelled_there_is_no_object_and_nothing_of_it() {
    let Some(store) = Store::new(object_stores::s3()) else { return };
    let dir = scratch();
    let (maker, epoch) = vault(dir.path());
    for phase in [Phase::Copying, Phase::Checking] {
        let mut asked = None;
        let result = restore_watched(&maker, 0, epoch, &store.to(Format::Raw, false), |at| {
            if at.phase != phase || at.done.0 < 38 * MIB {
                return ControlFlow::Continue(());
            }
            // What is on its way when it is cancelled goes by itself; what has arrived does not.
            eventually("three parts", PATIENCE, || (store.held() >= 24 * MIB).then_some(()));
            asked.get_or_insert_with(Instant::now);
            ControlFlow::Break(())
        });
        assert!(matches!(result, Err(RestoreError::Cancelled(_))), "{result:?}");
        let took = asked.unwrap().elapsed();
        assert!(took < Duration::from_secs(5), "{phase:?} took {took:?}");
        assert!(store.content().is_none(), "{phase:?}");
        eventually("no parts", PATIENCE, || (store.held() < MIB).then_some(()));
    }
    // What was there before is still there.
    store.0.remote.put_new(KEY, b"another one's").unwrap();
    let result = restore_watched(&maker, 0, epoch, &store.to(Format::Raw, true), |at| {
        if at.done.0 < 38 * MIB { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    assert!(matches!(result, Err(RestoreError::Cancelled(_))), "{result:?}");
    assert_eq!(store.content().unwrap(), b"another one's");
}

#[test]
fn a_store_that_is_not_there_is_told() {
    let Some(store) = Store::new(object_stores::s3()) else { return };
    let dir = scratch();
    let (maker, epoch) = vault(dir.path());
    let mut settings = store.0.settings();
    settings.limits.retries = 1;
    settings.limits.give_up = Duration::from_secs(2);
    let object = ObjectImage::new(&settings, KEY).unwrap();
    drop(store);
    let to = Destination::Object { object, format: Format::Raw, replace: true };
    match restore(&maker, 0, epoch, &to) {
        Err(RestoreError::Storage(err)) => assert_eq!(err.kind(), StorageErrorKind::Unavailable, "{err}"),
        other => panic!("{other:?}"),
    }
}

/// By the command line, with the store in a file.
#[test]
fn the_command_puts_an_object() {
    let Some(store) = Store::new(object_stores::s3()) else { return };
    let dir = scratch();
    let (maker, epoch) = vault(dir.path());
    let file = dir.path().join("store.toml");
    let table = store.0.server.table("target", "some/where", dir.path());
    fs::write(&file, table.split_once('\n').unwrap().1).unwrap();
    let run = |more: &[&str]| {
        let mut command = Command::new(program("recovery-service"));
        command.args(["restore", "--point", "latest", "--vault"]).arg(dir.path().join("vault"));
        let output = command.args(more).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    let file = file.to_str().unwrap();
    let (code, said) = run(&["--to-object", KEY]);
    assert!(code == Some(2) && said.contains("--store"), "{code:?}: {said}");
    let (code, said) = run(&["--to-object", "a//b", "--store", file]);
    assert!(code != Some(0) && said.contains("'a//b' is no key"), "{code:?}: {said}");
    let (code, said) = run(&["--to-object", KEY, "--store", file, "--format", "vhd"]);
    assert!(code == Some(0) && said.contains("read back and compared"), "{code:?}: {said}");
    assert!(store.content().unwrap() == expected(&maker, epoch, Format::Vhd, dir.path()));
    let (code, said) = run(&["--to-object", KEY, "--store", file]);
    assert!(code == Some(5) && said.contains("exists already"), "{code:?}: {said}");
}
