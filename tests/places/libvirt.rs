//! Places of libvirt's kind: what every kind must do, and what only this one can meet with: networks that are missing, a daemon that
//! ends in the middle, administrators who do things to domains.
//!
//! Deliberately not here: what libvirt is told, which tests beside the code show.

use std::{fs, path::Path, time::Duration};

use mobility_recovery::service::provider::{Card, Seen, Spec};
use mobility_tests::{
    requirement::Requirement,
    scratch::{eventually, try_run},
};

use crate::{
    libvirtd::{Libvirtd, found},
    rig::{Kind, World, libvirt_table, place, provider},
    suite::{self, nothing_is_left},
};

/// How long a system may take to boot, by emulation and on a busy host.
const BOOT: Duration = Duration::from_secs(300);

fn with(work: impl Fn(&World)) {
    if let Some(world) = World::new(Kind::Libvirt) {
        work(&world);
    }
}

impl World {
    fn libvirt(&self) -> &Libvirtd {
        self.libvirt.as_ref().unwrap()
    }

    /// Everything up to a machine that is made.
    fn made(&self, spec: &Spec) {
        (0..2).for_each(|disk| self.restored(spec, disk, self.epochs[1]));
        self.provider.make(spec).unwrap();
    }

    fn removed(&self, spec: &Spec) {
        self.provider.stop(&spec.failover).unwrap();
        self.provider.remove(&spec.failover).unwrap();
    }
}

/// The domain that a failover has made.
fn domain(world: &World) -> String {
    let names = world.libvirt().virsh(&["list", "--all", "--name"]);
    assert_eq!(names.lines().count(), 1, "{names}");
    names
}

#[test]
fn root_libvirt_does_what_every_place_does() {
    with(|world| {
        suite::everything_can_be_asked_twice(world);
        suite::whatever_was_begun_is_removed(world);
        suite::two_at_once_know_nothing_of_each_other(world);
        suite::a_disk_that_was_cancelled_is_not_there(world);
        suite::no_machine_is_made_without_a_disk_that_was_written(world);
        fs::remove_dir(place(world.dir.path())).unwrap();
        suite::what_is_missing_is_named_with_what_to_do(world);
    });
}

#[test]
fn root_libvirt_that_does_not_answer_is_named_and_gone_on_with() {
    with(|world| {
        let spec = world.spec("00000000000000c0");
        let id = spec.failover.as_str();
        world.made(&spec);
        world.provider.start(id).unwrap();
        world.is_up(id);
        world.libvirt().end();
        let refused = [
            world.provider.check(&spec).map(drop),
            world.provider.make(&spec).map(drop),
            world.provider.start(id).map(drop),
            world.provider.look(id).map(drop),
            world.provider.stop(id).map(drop),
            world.provider.remove(id).map(drop),
        ];
        for failure in refused.map(Result::unwrap_err) {
            assert!(failure.problem.contains("libvirt-sock"), "{failure:?}");
            assert!(failure.hint.contains("libvirtd") && failure.hint.contains("resume"), "{failure:?}");
        }
        // It runs on, and its disks are there.
        (0..2).for_each(|disk| world.is_there(&spec, disk, world.epochs[1]));
        // What came to nothing before libvirt was told of it can be cancelled all the same.
        let other = world.spec("00000000000000c1");
        assert!(world.provider.check(&other).is_err());
        world.provider.stop(&other.failover).unwrap();
        world.provider.remove(&other.failover).unwrap();
        world.libvirt().go_on();
        world.is_up(id);
        world.removed(&spec);
        nothing_is_left(world, id);
    });
}

#[test]
fn root_libvirt_networks_are_as_it_was_said_or_named() {
    with(|world| {
        let libvirt = world.libvirt();
        let card = |name: &str, network: Option<&str>| Card {
            name: name.to_owned(),
            network: network.map(|network| network.parse().unwrap()),
        };
        let mut spec = world.spec("00000000000000c2");
        spec.isolated = false;
        spec.cards = vec![card("eth0", Some("dr/backend")), card("eth1", None)];
        let refused = |named: &str, hinted: &str| {
            let failure = world.provider.check(&spec).unwrap_err();
            assert!(failure.problem.contains(named) && failure.hint.contains(hinted), "{failure:?}");
        };
        libvirt.define_network("other", "");
        refused("no network 'default'", "it has: other.");
        libvirt.define_network("default", "");
        refused("'default' is not active", "net-start default");
        libvirt.virsh(&["net-start", "default"]);
        refused("no network 'dr'", "default, other");
        libvirt.define_network("dr", "");
        libvirt.virsh(&["net-start", "dr"]);
        refused("no group of ports 'backend'", "net-edit");
        ["net-destroy", "net-undefine"].iter().for_each(|what| drop(libvirt.virsh(&[what, "dr"])));
        libvirt.define_network("dr", "<portgroup name='backend'/>");
        libvirt.virsh(&["net-start", "dr"]);
        assert!(world.provider.check(&spec).unwrap().contains("on default, dr/backend"));

        world.made(&spec);
        world.provider.start(&spec.failover).unwrap();
        let cards = libvirt.virsh(&["domiflist", &domain(world)]);
        let cards: Vec<Vec<&str>> =
            cards.lines().map(|line| line.split_whitespace().skip(1).collect()).collect();
        let expected = [
            vec!["network", "dr", "virtio", "52:54:00:00:00:00"],
            vec!["network", "default", "virtio", "52:54:00:00:00:01"],
        ];
        assert_eq!(cards, expected);
        let told = world.provider.cards(&spec).unwrap();
        assert_eq!(told, ["52:54:00:00:00:00", "52:54:00:00:00:01"]);
        world.is_up(&spec.failover);
        world.removed(&spec);
        // Those of the administrator stay.
        assert_eq!(
            libvirt.virsh(&["net-list", "--name"]).split_whitespace().collect::<Vec<_>>(),
            ["default", "dr"]
        );
        for network in ["default", "dr"] {
            libvirt.virsh(&["net-destroy", network]);
        }
        for network in ["default", "dr", "other"] {
            libvirt.virsh(&["net-undefine", network]);
        }
        nothing_is_left(world, &spec.failover);
    });
}

#[test]
fn root_libvirt_domains_that_somebody_else_changes() {
    with(|world| {
        let libvirt = world.libvirt();
        let mut spec = world.spec("00000000000000c3");
        let id = spec.failover.clone();
        // It is not made yet.
        let failure = world.provider.start(&id).unwrap_err();
        assert!(failure.hint.contains("change-point"), "{failure:?}");
        world.made(&spec);
        assert_eq!(domain(world), format!("web-test-{id}"));
        // The machine has another name since the try before.
        spec.name = "</name>&'\"".to_owned();
        world.provider.make(&spec).unwrap();
        assert_eq!(domain(world), format!("name-test-{id}"));
        assert!(libvirt.virsh(&["desc", "--title", &domain(world)]).starts_with("</name>&'\" (test "));

        world.provider.start(&id).unwrap();
        world.is_up(&id);
        libvirt.virsh(&["destroy", &domain(world)]);
        assert_eq!(world.look(&id), Seen::Off);
        world.provider.start(&id).unwrap();
        world.is_up(&id);
        libvirt.virsh(&["suspend", &domain(world)]);
        world.provider.start(&id).unwrap();
        world.is_up(&id);
        // Gone from the list as soon as it is off.
        libvirt.virsh(&["undefine", &domain(world)]);
        world.is_up(&id);
        let network = libvirt.virsh(&["net-list", "--name"]);
        assert_eq!(network, format!("failover-{id}"));
        libvirt.virsh(&["net-undefine", &network]);
        world.removed(&spec);
        nothing_is_left(world, &id);
    });
}

#[test]
fn root_libvirt_starts_a_machine_with_the_host_where_that_is_said_and_never_a_test() {
    with(|world| {
        let table = libvirt_table(world.libvirt(), world.dir.path()) + "autostart = true\nnetwork = 'dr'\n";
        let provider = provider(world.dir.path(), &table);
        let mut spec = world.spec("00000000000000c4");
        for (isolated, expected) in [(true, ""), (false, "web-failover-00000000000000c4")] {
            spec.isolated = isolated;
            (0..2).for_each(|disk| world.restored(&spec, disk, world.epochs[1]));
            provider.make(&spec).unwrap();
            assert_eq!(world.libvirt().virsh(&["list", "--all", "--name", "--autostart"]), expected);
            let described = world.libvirt().virsh(&["dumpxml", &domain(world)]);
            assert_eq!(described.contains("<source network='dr'/>"), !isolated, "{described}");
            provider.remove(&spec.failover).unwrap();
        }
        // Firmware's variables are libvirt's, and go with the machine.
        (spec.isolated, spec.uefi) = (true, true);
        assert!(provider.check(&spec).is_ok());
        (0..2).for_each(|disk| world.restored(&spec, disk, world.epochs[1]));
        provider.make(&spec).unwrap();
        provider.start(&spec.failover).unwrap();
        assert!(world.libvirt().left().iter().any(|left| left.contains("nvram/")));
        provider.stop(&spec.failover).unwrap();
        provider.remove(&spec.failover).unwrap();
        nothing_is_left(world, &spec.failover);

        let kvm = table.replace("acceleration = 'tcg'", "acceleration = 'kvm'");
        let kvm = crate::rig::provider(world.dir.path(), &kvm);
        let failure = kvm.check(&world.spec("00000000000000c5")).unwrap_err();
        assert!(failure.hint.contains("acceleration = 'tcg'"), "{failure:?}");
    });
}

#[test]
fn root_libvirt_boots_a_system_and_keeps_it_from_everybody() {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/vm/base.img");
    let find = || match base.exists() {
        true => found(),
        false => Err("there is no virtual machine for tests (packaging/install-test-vm.sh)".to_owned()),
    };
    let Some(()) = Requirement::Vm.or_skip(find()) else { return };
    with(|world| {
        let libvirt = world.libvirt();
        let table = libvirt_table(libvirt, world.dir.path())
            .replace("memory-mib = 64", "memory-mib = 512")
            .replace("processors = 1", "processors = 2")
            .replace("booted = 'RUNS'\n", "")
            .replace("format = 'qcow2'\n", "");
        let provider = provider(world.dir.path(), &table);
        let mut spec = world.spec("00000000000000c6");
        spec.disks.truncate(1);
        spec.cards = ["eth0", "eth1"].map(|name| Card { name: name.to_owned(), network: None }).to_vec();
        provider.check(&spec).unwrap();
        let mobility_recovery::Destination::Image { path, .. } =
            provider.image(&spec, &spec.disks[0]).unwrap()
        else {
            panic!("no file")
        };
        try_run("cp", &["--sparse=always", base.to_str().unwrap(), path.to_str().unwrap()]).unwrap();
        provider.make(&spec).unwrap();
        provider.start(&spec.failover).unwrap();
        let seen = eventually("a system that is up", BOOT, || match provider.look(&spec.failover).unwrap() {
            Seen::Running => None,
            seen => Some(seen),
        });
        assert!(matches!(&seen, Seen::Up(sign) if sign.contains("guest login:")), "{seen:?}");
        // The host has no address where the copy is, and lets nothing through.
        let bridge = libvirt.virsh(&["net-info", "failover-00000000000000c6"]);
        let bridge = bridge.lines().find_map(|line| line.strip_prefix("Bridge:")).unwrap().trim().to_owned();
        assert_eq!(libvirt.within(&format!("ip -brief link show master {bridge} | wc -l")), "2");
        assert_eq!(libvirt.within(&format!("ip -brief address show dev {bridge} | awk '{{print $3}}'")), "");
        let rules = libvirt.within("iptables -S");
        assert!(rules.contains(&format!("-i {bridge} -j REJECT")), "{rules}");
        assert!(rules.contains(&format!("-o {bridge} -j REJECT")), "{rules}");
        provider.stop(&spec.failover).unwrap();
        provider.remove(&spec.failover).unwrap();
        nothing_is_left(world, &spec.failover);
    });
}
