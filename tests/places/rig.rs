//! A place of each kind with a vault beside it, and what only somebody who knows the kind can see: what is left there, and what is in an
//! image.
//!
//! The machine is a boot sector: it says that it runs, and keeps its processor. Deliberately not here: what a place must do.

use std::{
    fs,
    ops::ControlFlow,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use mobility_format::{BlockRange, Digest, DiskId, Epoch, control::Inventory};
use mobility_recovery::{
    AzureCredentials, Catalog, Objects, Progress, RemoteAccount, RestoreError, Restored, restore_disk,
    service::{
        provider::{Disk, Provider, Seen, Spec, Target},
        providers,
    },
    target::{Direction, Known, Place, PlaceKind, TargetSettings},
};
use mobility_tests::{
    boot_sector,
    object_stores::{CONTAINER, ObjectStoreServer, azurite, s3},
    requirement::Requirement,
    scratch::{eventually, try_run},
    vault_maker::{Flavour, VaultMaker},
    watched_store::WatchedStore,
};
use ring::hmac;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::libvirtd::{self, Libvirtd};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
/// Both as Azure takes them; the second one is no whole number of windows.
pub(crate) const SIZES: [u64; 2] = [21 * MIB, 22 * MIB + 4096];
const NAMES: [&str; 2] = ["/dev/sda", "/dev/sdc"];

/// A kind of place, and the ways into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Images,
    Objects,
    Qemu,
    /// It needs root.
    Libvirt,
    AzureByKey,
    AzureBySignature,
}

impl Kind {
    /// Whether it makes machines itself, and looks how they are.
    pub(crate) fn runs_machines(self) -> bool {
        matches!(self, Kind::Qemu | Kind::Libvirt)
    }
}

/// A place, and a machine with two points.
pub(crate) struct World {
    pub(crate) kind: Kind,
    pub(crate) provider: Arc<dyn Provider>,
    pub(crate) maker: VaultMaker,
    pub(crate) epochs: [Epoch; 2],
    pub(crate) store: Option<WatchedStore>,
    pub(crate) libvirt: Option<Libvirtd>,
    pub(crate) dir: TempDir,
}

impl World {
    /// Nothing where the machine that the test runs on lacks what the kind needs.
    pub(crate) fn new(kind: Kind) -> Option<World> {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, mut libvirt) = (None, None);
        let table = match kind {
            Kind::Images => format!("kind = 'images'\ndirectory = '{}'\n", place(dir.path()).display()),
            Kind::Qemu => {
                Requirement::DiskTools.or_skip(qemu())?;
                format!(
                    "kind = 'qemu'\ndirectory = '{}'\nformat = 'qcow2'\nacceleration = 'tcg'\nmemory-mib = 64\nprocessors = 1\nbooted = 'RUNS'\n",
                    place(dir.path()).display()
                )
            }
            Kind::Objects => {
                let server = Requirement::Stores.or_skip(s3())?;
                let table = objects_table(&server, dir.path());
                store = Some(WatchedStore::new(server, "dr/disks"));
                table
            }
            Kind::Libvirt => {
                Requirement::DiskTools.or_skip(libvirtd::found())?;
                let daemon = Libvirtd::start(dir.path());
                let table = libvirt_table(&daemon, dir.path());
                libvirt = Some(daemon);
                table
            }
            Kind::AzureByKey | Kind::AzureBySignature => {
                let server = Requirement::Stores.or_skip(azurite())?;
                let table = azure_table(&server, kind, "rcwdl", dir.path());
                store = Some(WatchedStore::new(server, "dr/disks"));
                table
            }
        };
        let (maker, epochs) = vault(dir.path());
        Some(World { kind, provider: provider(dir.path(), &table), maker, epochs, store, libvirt, dir })
    }

    /// A machine as it is to be made for a failover of this id.
    pub(crate) fn spec(&self, failover: &str) -> Spec {
        self.spec_with(failover, &json!({}))
    }

    /// The same, where something was said of it.
    pub(crate) fn spec_with(&self, failover: &str, set: &Value) -> Spec {
        let disk = |model: usize| Disk {
            id: self.maker.disks[model].id,
            name: NAMES[model].to_owned(),
            size: mobility_format::ByteCount(SIZES[model]),
            serial: None,
            is_root: model == 0,
        };
        Spec {
            failover: failover.to_owned(),
            name: "web".to_owned(),
            isolated: true,
            uefi: false,
            memory: None,
            processors: None,
            disks: vec![disk(0), disk(1)],
            cards: Vec::new(),
            target: Some(target(set)),
        }
    }

    pub(crate) fn restore(
        &self,
        spec: &Spec,
        disk: usize,
        epoch: Epoch,
        progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Restored, RestoreError> {
        let to = self.provider.image(spec, &spec.disks[disk]).unwrap();
        let catalog = Catalog::load_locked(&self.maker.vault, self.maker.machine).unwrap();
        restore_disk(&catalog, epoch, spec.disks[disk].id, &to, true, progress)
    }

    /// Restores a disk, and demands that it is what the point says.
    #[track_caller]
    pub(crate) fn restored(&self, spec: &Spec, disk: usize, epoch: Epoch) {
        let restored = self.restore(spec, disk, epoch, |_| ControlFlow::Continue(())).unwrap();
        assert!(restored.verified);
        assert_eq!(restored.root, root_of(&self.held(disk, epoch)), "{restored:?}");
        self.is_there(spec, disk, epoch);
    }

    /// Demands that what is at the place is what the disk held, seen from outside.
    #[track_caller]
    pub(crate) fn is_there(&self, spec: &Spec, disk: usize, epoch: Epoch) {
        let content = self.content(spec, disk).expect("no image");
        assert!(content == self.held(disk, epoch), "{:?}: disk {disk} is not what it was", self.kind);
    }

    fn held(&self, disk: usize, epoch: Epoch) -> Vec<u8> {
        self.maker.committed[&epoch].disks[disk].1.clone()
    }

    /// What the image of a disk holds; nothing where there is none.
    pub(crate) fn content(&self, spec: &Spec, disk: usize) -> Option<Vec<u8>> {
        let id = spec.disks[disk].id;
        let file =
            |extension: &str| place(self.dir.path()).join(format!("{}/{id}.{extension}", spec.failover));
        match &self.store {
            Some(store) => {
                let key = format!("{}/{id}.vhd", spec.failover);
                let size = store.remote.size(&key).unwrap()?;
                let mut bytes = store.remote.read(&key, u64::MAX).unwrap();
                assert!(bytes.len() as u64 == size && bytes[bytes.len() - 512..].starts_with(b"conectix"));
                bytes.truncate(SIZES[disk] as usize);
                Some(bytes)
            }
            None if self.kind.runs_machines() => {
                let (from, to) = (file("qcow2"), self.dir.path().join("looked-at"));
                from.exists().then(|| {
                    let words = ["convert", "-U", "-O", "raw", from.to_str().unwrap(), to.to_str().unwrap()];
                    try_run("qemu-img", &words).unwrap();
                    fs::read(to).unwrap()
                })
            }
            None => fs::read(file("img")).ok(),
        }
    }

    /// The image of a disk is lost.
    pub(crate) fn lose(&self, spec: &Spec, disk: usize) {
        let id = spec.disks[disk].id;
        match &self.store {
            Some(store) => store.remote.remove(&[format!("{}/{id}.vhd", spec.failover)]).unwrap(),
            None => {
                let extension = if self.kind.runs_machines() { "qcow2" } else { "img" };
                let file = place(self.dir.path()).join(format!("{}/{id}.{extension}", spec.failover));
                fs::remove_file(file).unwrap();
            }
        }
    }

    /// Everything that is at the place.
    pub(crate) fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(place(self.dir.path())).into_iter().flatten();
        let mut left: Vec<String> =
            entries.map(|entry| entry.unwrap().path().display().to_string()).collect();
        if let Some(store) = &self.store {
            store.remote.list("", &mut |listed| left.push(listed.key)).unwrap();
        }
        if let Some(libvirt) = &self.libvirt {
            left.extend(libvirt.left());
        }
        left
    }

    /// How the machine is, once it is not on its way any more.
    pub(crate) fn look(&self, failover: &str) -> Seen {
        eventually("a machine that is up", PATIENCE, || match self.provider.look(failover).unwrap() {
            Seen::Running => None,
            seen => Some(seen),
        })
    }

    /// Demands that the machine is as it should be where it was started.
    #[track_caller]
    pub(crate) fn is_up(&self, failover: &str) {
        match (self.kind, self.look(failover)) {
            (Kind::Qemu | Kind::Libvirt, Seen::Up(sign)) => assert!(sign.contains("RUNS"), "{sign}"),
            (Kind::Images | Kind::Objects, Seen::ByHand(how)) => assert!(how.contains(failover), "{how}"),
            (_, Seen::ByHand(how)) => {
                let command = format!(
                    "cd {}/{failover} && az deployment group create",
                    place(self.dir.path()).display()
                );
                assert!(how.contains(&command), "{how}");
            }
            (kind, seen) => panic!("{kind:?}: {seen:?}"),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A test that fails leaves no machine behind.
        for entry in fs::read_dir(place(self.dir.path())).into_iter().flatten().flatten() {
            self.provider.stop(&entry.file_name().to_string_lossy()).ok();
        }
    }
}

/// The directory of the place.
pub(crate) fn place(dir: &Path) -> PathBuf {
    dir.join("place")
}

/// What a configuration with this table makes machines with.
pub(crate) fn provider(dir: &Path, table: &str) -> Arc<dyn Provider> {
    let config = dir.join("service.toml");
    fs::write(&config, format!("data = '{}'\n[failover.there]\n{table}", dir.join("data").display()))
        .unwrap();
    providers(&config).unwrap().remove("there").unwrap()
}

/// A table of a place in an object store.
pub(crate) fn objects_table(server: &ObjectStoreServer, dir: &Path) -> String {
    let table = server.table("target", "dr/disks", dir);
    let (_, table) = table.split_once('\n').unwrap();
    format!("kind = 'objects'\nformat = 'vhd'\n[failover.there.store]\n{table}")
}

/// A table of a place where libvirt runs machines.
pub(crate) fn libvirt_table(daemon: &Libvirtd, dir: &Path) -> String {
    format!(
        "kind = 'libvirt'\nuri = '{}'\ndirectory = '{}'\nformat = 'qcow2'\nacceleration = 'tcg'\nmemory-mib = 64\nprocessors = 1\nbooted = 'RUNS'\n",
        daemon.uri(),
        place(dir).display()
    )
}

/// A table of a place in Azure, whose signature allows this.
pub(crate) fn azure_table(server: &ObjectStoreServer, kind: Kind, rights: &str, dir: &Path) -> String {
    let RemoteAccount::Azure { account, endpoint, credentials: AzureCredentials::Key(key), .. } =
        server.settings("").account
    else {
        panic!("Azurite has a key")
    };
    let credentials = match kind {
        Kind::AzureBySignature => {
            format!("shared-access-signature = '?{}'\n", signature(&account, key.reveal(), rights))
        }
        _ => format!("account-key = '{}'\n", key.reveal()),
    };
    let (file, authorities) = (dir.join("credentials.toml"), dir.join("authorities.pem"));
    fs::write(&file, credentials).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&authorities, server.authorities().unwrap()).unwrap();
    format!(
        "kind = 'azure'\ndirectory = '{}'\naccount = '{account}'\ncontainer = '{CONTAINER}'\nendpoint = '{}'\nprefix = 'dr/disks'\ncredentials = '{}'\nauthorities = '{}'\nlocation = 'northeurope'\n",
        place(dir).display(),
        endpoint.unwrap(),
        file.display(),
        authorities.display(),
    )
}

/// A signature of the container, as an administrator of the account makes one.
fn signature(account: &str, key: &str, rights: &str) -> String {
    let (version, expiry) = ("2023-11-03", "2100-01-01T00:00:00Z");
    let resource = format!("/blob/{account}/{CONTAINER}");
    let text =
        [rights, "", expiry, &resource, "", "", "https", version, "c", "", "", "", "", "", "", ""].join("\n");
    let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(key).unwrap());
    let signature = STANDARD.encode(hmac::sign(&key, text.as_bytes()));
    let escaped = signature.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    format!("sv={version}&sp={rights}&se={}&spr=https&sr=c&sig={escaped}", expiry.replace(':', "%3A"))
}

fn qemu() -> Result<(), String> {
    let found = Command::new("qemu-system-x86_64").arg("--version").output();
    found.map(drop).map_err(|err| {
        format!("qemu-system-x86_64 does not run ({err}): packaging/install-disk-tools.sh installs it")
    })
}

/// A machine whose disks hold something else at each of two points.
fn vault(dir: &Path) -> (VaultMaker, [Epoch; 2]) {
    let mut maker = VaultMaker::new(&dir.join("vault"), 7602);
    NAMES.iter().zip(SIZES).for_each(|(name, size)| maker.add_disk(name, size));
    let mut held = vec![0; SIZES[0] as usize];
    boot_sector::put(&mut held);
    maker.fill(0, &held);
    maker.write(0, BlockRange::new(700, 300), Flavour::Noise);
    maker.write(1, BlockRange::new(0, 600), Flavour::Noise);
    let first = maker.point();
    maker.write(0, BlockRange::new(800, 40), Flavour::Text);
    maker.write(1, BlockRange::new(100, 200), Flavour::Zero);
    maker.write(1, BlockRange::new(SIZES[1] / 4096 - 1, 1), Flavour::Noise);
    let second = maker.point();
    (maker, [first, second])
}

/// What follows for a machine in Azure that told of two disks and an interface, and of which this was said.
fn target(set: &Value) -> Target {
    let disk = |name: &str, size: u64, mount: &str| {
        json!({
            "id": DiskId::derive(name), "name": name, "size": size, "mounts": [mount], "labels": [], "temporary": false,
        })
    };
    let inventory: Inventory = serde_json::from_value(json!({
        "name": "web.example", "system": "", "kernel": "", "architecture": "x86_64", "agent": "", "hardware": "hardware",
        "disks": [disk(NAMES[0], SIZES[0], "/"), disk(NAMES[1], SIZES[1], "/srv")],
        "shape": {
            "boot": "bios", "processors": 2, "memory": 4_u64 << 30,
            "interfaces": [{
                "name": "eth0", "mac": "00:0d:3a:00:00:01", "addresses": [{ "address": "10.1.0.7", "prefix": 24 }],
                "default_route": true,
            }],
        },
    }))
    .unwrap();
    let mut said = json!({ "resource_group": "dr", "size": "Standard_D2s_v5", "network": "dr/web" });
    said.as_object_mut().unwrap().extend(set.as_object().unwrap().clone());
    said.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    let set: TargetSettings = serde_json::from_value(said).unwrap();
    let places =
        [Place { location: Some("northeurope".to_owned()), ..Place::new("there", PlaceKind::Azure) }];
    let known = Known { inventory: &inventory, mappings: &[], places: &places, direction: Direction::Forth };
    let settings = set.effective(&known);
    let problems = set.problems(&known, &settings);
    Target { settings, problems }
}

/// The root as `docs/FORMAT.md` says it is made.
fn root_of(content: &[u8]) -> Digest {
    let mut bytes = b"MOBROOT1".to_vec();
    bytes.extend((content.len() as u64).to_le_bytes());
    content.chunks(1 << 20).for_each(|window| bytes.extend(Digest::of(window).0));
    Digest::of(&bytes)
}
