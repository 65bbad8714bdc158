//! A restored disk as a page blob in Azurite: the same bytes as in a file, and nothing that looks like a disk where it did
//! not come to its end.

use std::{
    fs,
    ops::ControlFlow,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use mobility_format::{BlockRange, Epoch};
use mobility_recovery::{Destination, Format, Objects, PageBlob, Phase, RestoreError};
use mobility_tests::{
    binary::program,
    object_stores,
    requirement::Requirement,
    scratch::eventually,
    vault_maker::{Flavour, VaultMaker},
    watched_store::WatchedStore,
};
use reqwest::blocking::Client;

use crate::support::{image, restore, restore_watched, scratch};

const MIB: u64 = 1 << 20;
const LENGTH: u64 = 24 * MIB + 512;
const BLOB: &str = "disks/vda.vhd";

/// A container that a blob is put into.
struct Azure(WatchedStore);

impl Azure {
    fn start() -> Option<Azure> {
        let server = Requirement::Stores.or_skip(object_stores::azurite())?;
        Some(Azure(WatchedStore::new(server, "some/where")))
    }

    fn blob(&self) -> PageBlob {
        PageBlob::in_container(&self.0.settings(), BLOB).unwrap()
    }

    fn to(&self, replace: bool) -> Destination {
        Destination::PageBlob { blob: self.blob(), replace }
    }

    fn content(&self) -> Option<Vec<u8>> {
        self.0.content(BLOB)
    }

    /// Sends what another program would.
    fn send(&self, query: &str, headers: &[(&str, &str)], body: Vec<u8>) {
        let authority = reqwest::Certificate::from_pem(self.0.server.authorities().unwrap()).unwrap();
        let client = Client::builder().tls_certs_only([authority]).no_proxy().build().unwrap();
        let address = format!("{}{query}", self.blob().address().reveal());
        let length = body.len();
        let request = client.put(address).header("x-ms-version", "2023-11-03").body(body);
        let request = request.header("content-length", length);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let answer = request.send().unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().unwrap());
    }

    fn put_page(&self, at: u64, byte: u8) {
        let range = format!("bytes={at}-{}", at + 511);
        self.send("&comp=page", &[("x-ms-page-write", "update"), ("x-ms-range", &range)], vec![byte; 512]);
    }

    fn make(&self, length: u64) {
        let length = length.to_string();
        self.send("", &[("x-ms-blob-type", "PageBlob"), ("x-ms-blob-content-length", &length)], Vec::new());
    }
}

fn vault(dir: &Path) -> (VaultMaker, Epoch) {
    let mut maker = VaultMaker::new(&dir.join("vault"), 7601);
    maker.add_disk("/dev/vda", 23 * MIB + 512);
    maker.write(0, BlockRange::new(0, 300), Flavour::Noise);
    maker.write(0, BlockRange::new(2000, 1900), Flavour::Noise);
    // Single blocks, nearer to each other than is worth a request, and farther.
    (0..40).for_each(|number| maker.write(0, BlockRange::new(4000 + 7 * number, 1), Flavour::Text));
    (0..40).for_each(|number| maker.write(0, BlockRange::new(4400 + 30 * number, 1), Flavour::Text));
    maker.write(0, BlockRange::new(23 * 256, 1), Flavour::Noise);
    let epoch = maker.point();
    (maker, epoch)
}

/// What the same disk is as a file.
fn expected(maker: &VaultMaker, epoch: Epoch, dir: &Path) -> Vec<u8> {
    let path = dir.join("expected.vhd");
    restore(maker, 0, epoch, &image(&path, Format::Vhd)).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn the_blob_is_what_the_file_is_and_is_not_replaced() {
    let Some(azure) = Azure::start() else { return };
    let dir = scratch();
    let (maker, epoch) = vault(dir.path());
    let restored = restore(&maker, 0, epoch, &azure.to(false)).unwrap();
    assert!(restored.verified);
    assert!(restored.path.to_str().unwrap().ends_with(BLOB), "{}", restored.path.display());
    let content = azure.content().unwrap();
    assert!(content == expected(&maker, epoch, dir.path()) && content.len() as u64 == LENGTH);
    assert!(matches!(restore(&maker, 0, epoch, &azure.to(false)), Err(RestoreError::Exists(_))));
    assert!(azure.content().unwrap() == content, "and is still there");
}

/// As behind a managed disk that waits for its upload; also when the upload is made again, of another point.
#[test]
fn a_blob_of_the_right_size_is_filled_and_another_is_not() {
    let Some(azure) = Azure::start() else { return };
    let dir = scratch();
    let (maker, epoch) = vault(dir.path());
    azure.make(LENGTH + 512);
    let refused = restore(&maker, 0, epoch, &azure.to(true)).unwrap_err();
    assert!(matches!(refused, RestoreError::WrongSize { .. }), "{refused}");
    azure.make(LENGTH);
    [0, 5 * MIB, LENGTH - 512].iter().for_each(|at| azure.put_page(*at, 0x77));
    let address = azure.blob().address().reveal().to_owned();
    let blob = PageBlob::at(&address).unwrap().trusting(azure.0.server.authorities().unwrap());
    restore(&maker, 0, epoch, &Destination::PageBlob { blob, replace: true }).unwrap();
    assert!(azure.content().unwrap() == expected(&maker, epoch, dir.path()));
}

#[test]
fn a_page_that_changed_is_found_and_the_blob_removed() {
    let Some(azure) = Azure::start() else { return };
    let dir = scratch();
    let (maker, epoch) = vault(dir.path());
    for (at, found) in [(9 * MIB, "MiB 9"), (22 * MIB + 1024, "MiB 22"), (LENGTH - 512, "its footer")] {
        let mut done = false;
        let result = restore_watched(&maker, 0, epoch, &azure.to(false), |progress| {
            if progress.phase == Phase::Checking && !std::mem::replace(&mut done, true) {
                azure.put_page(at, 0x11);
            }
            ControlFlow::Continue(())
        });
        match result {
            Err(RestoreError::Differs { differing, .. }) => assert_eq!(differing.to_string(), found),
            other => panic!("{other:?}"),
        }
        assert!(azure.content().is_none());
    }
}

#[test]
fn cancelled_there_is_no_blob() {
    let Some(azure) = Azure::start() else { return };
    let dir = scratch();
    let (maker, epoch) = vault(dir.path());
    for phase in [Phase::Copying, Phase::Checking] {
        let mut asked = None;
        let result = restore_watched(&maker, 0, epoch, &azure.to(false), |at| {
            if at.phase != phase || at.done.0 < 10 * MIB {
                return ControlFlow::Continue(());
            }
            asked.get_or_insert_with(Instant::now);
            ControlFlow::Break(())
        });
        assert!(matches!(result, Err(RestoreError::Cancelled(_))), "{result:?}");
        let took = asked.unwrap().elapsed();
        assert!(took < Duration::from_secs(2), "{phase:?} took {took:?}");
        assert!(azure.content().is_none());
    }
}

/// The store stands still for a while in the middle; then it goes on, and so does the restore.
#[test]
fn a_store_that_stands_still_costs_time_only() {
    let Some(azure) = Azure::start() else { return };
    let dir = scratch();
    let (maker, epoch) = vault(dir.path());
    let mut settings = azure.0.settings();
    settings.limits.request = Duration::from_secs(1);
    let blob = PageBlob::in_container(&settings, BLOB).unwrap();
    std::thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let azure = &azure;
        scope.spawn(move || {
            let () = told.recv().unwrap();
            // Longer than a request may take.
            std::thread::sleep(Duration::from_millis(1500));
            azure.0.server.resume();
        });
        let mut paused = false;
        let to = Destination::PageBlob { blob, replace: false };
        let restored = restore_watched(&maker, 0, epoch, &to, |at| {
            if at.done.0 > 9 * MIB && !std::mem::replace(&mut paused, true) {
                azure.0.server.pause();
                tell.send(()).unwrap();
            }
            ControlFlow::Continue(())
        });
        restored.unwrap();
    });
    assert!(azure.content().unwrap() == expected(&maker, epoch, dir.path()));
}

/// And where it does not go on, cancelling still works, and what is left is no disk.
#[test]
fn cancelling_beside_a_store_that_stands_still() {
    let Some(azure) = Azure::start() else { return };
    let dir = scratch();
    let (maker, epoch) = vault(dir.path());
    let (mut paused, mut asked) = (None, None);
    let result = restore_watched(&maker, 0, epoch, &azure.to(false), |at| {
        if at.done.0 > 9 * MIB && paused.is_none() {
            azure.0.server.pause();
            paused = Some(Instant::now());
        }
        if paused.is_some_and(|since| since.elapsed() > Duration::from_secs(1)) {
            asked.get_or_insert_with(Instant::now);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    assert!(matches!(result, Err(RestoreError::Cancelled(_))), "{result:?}");
    let took = asked.unwrap().elapsed();
    assert!(took < Duration::from_secs(8), "took {took:?}");
    azure.0.server.resume();
    // What was on its way when it stood still may be done now, in any order.
    eventually("there is no footer", Duration::from_secs(60), || {
        let content = azure.content();
        content.is_none_or(|bytes| bytes[bytes.len() - 512..].iter().all(|byte| *byte == 0)).then_some(())
    });
}

/// By the command line, with an address in a file and the store's authority as the system's.
#[test]
fn the_command_fills_a_blob_by_its_address() {
    let Some(azure) = Azure::start() else { return };
    let dir = scratch();
    let (maker, epoch) = vault(dir.path());
    let (address, authority) = (dir.path().join("address"), dir.path().join("authority.pem"));
    fs::write(&address, format!("{}\n", azure.blob().address().reveal())).unwrap();
    fs::write(&authority, azure.0.server.authorities().unwrap()).unwrap();
    azure.make(LENGTH);
    let run = |more: &[&str]| {
        let mut command = Command::new(program("recovery-service"));
        command.args(["restore", "--point", "latest", "--vault"]).arg(dir.path().join("vault"));
        command.arg("--to-blob").arg(&address).args(more).env("SSL_CERT_FILE", &authority);
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    let (code, said) = run(&[]);
    assert!(code == Some(5) && said.contains("exists already"), "{code:?}: {said}");
    let (code, said) = run(&["--force"]);
    assert!(code == Some(0) && said.contains("read back and compared"), "{code:?}: {said}");
    assert!(!said.contains("sig="), "{said}");
    assert!(azure.content().unwrap() == expected(&maker, epoch, dir.path()));
}

#[test]
fn what_is_no_page_blob_is_refused() {
    let Some(azure) = Azure::start() else { return };
    let dir = scratch();
    let (maker, epoch) = vault(dir.path());
    azure.0.remote.put_new(BLOB, b"a block blob").unwrap();
    let refused = restore(&maker, 0, epoch, &azure.to(true)).unwrap_err();
    assert!(refused.to_string().contains("no page blob but BlockBlob"), "{refused}");
    assert_eq!(azure.content().unwrap(), b"a block blob");
    for bad in [
        "",
        "ftp://x/y?sig=1",
        "http://account.blob.core.windows.net/c/b?sig=1",
        "https://account.blob.core.windows.net/c/b?sv=1",
    ] {
        assert!(PageBlob::at(bad).is_err(), "{bad}");
    }
    let wrong = format!("{}x", azure.blob().address().reveal());
    let blob = PageBlob::at(&wrong).unwrap().trusting(azure.0.server.authorities().unwrap());
    let refused = restore(&maker, 0, epoch, &Destination::PageBlob { blob, replace: true }).unwrap_err();
    let said = format!("{refused} {refused:?}");
    assert!(said.contains("403") && !said.contains("sig="), "{said}");
}
