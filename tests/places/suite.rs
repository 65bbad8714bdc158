//! What every kind of place must do, whatever is there: each function has a place do it, and demands what has to come of it.
//!
//! An instance may be killed after anything that it did and before it noted that, so everything is asked twice, and removing is asked
//! after every beginning of a failover. Deliberately not here: at which places (`main`, `libvirt`).

use std::{fs, ops::ControlFlow};

use mobility_recovery::{
    RestoreError,
    service::provider::{Seen, Spec},
};

use crate::rig::{World, place};

/// Demands that nothing is at the place, and no machine.
#[track_caller]
pub(crate) fn nothing_is_left(world: &World, failover: &str) {
    assert_eq!(world.left(), Vec::<String>::new(), "{:?}", world.kind);
    assert_eq!(world.look(failover), Seen::Off, "{:?}", world.kind);
}

pub(crate) fn everything_can_be_asked_twice(world: &World) {
    let spec = world.spec("00000000000000aa");
    let id = spec.failover.as_str();
    let [first, second] = world.epochs;
    for _ in 0..2 {
        world.provider.check(&spec).unwrap();
    }
    for disk in 0..2 {
        // What is there may be of a try, and of another point.
        for epoch in [first, second, second] {
            world.restored(&spec, disk, epoch);
        }
    }
    for _ in 0..2 {
        world.provider.make(&spec).unwrap();
    }
    for _ in 0..2 {
        world.provider.start(id).unwrap();
        world.is_up(id);
    }
    for disk in 0..2 {
        world.is_there(&spec, disk, second);
    }
    for _ in 0..2 {
        world.provider.stop(id).unwrap();
        assert_ne!(world.kind.runs_machines(), matches!(world.look(id), Seen::ByHand(_)));
    }
    for _ in 0..2 {
        world.provider.remove(id).unwrap();
        nothing_is_left(world, id);
    }
    // And from the beginning, as after another point was chosen.
    world.restored(&spec, 0, first);
    world.restored(&spec, 1, first);
    world.provider.make(&spec).unwrap();
    world.provider.start(id).unwrap();
    world.is_up(id);
    world.provider.stop(id).unwrap();
    world.provider.remove(id).unwrap();
    nothing_is_left(world, id);
}

pub(crate) fn whatever_was_begun_is_removed(world: &World) {
    type Step = fn(&World, &Spec);
    let steps: [Step; 6] = [
        |world, spec| drop(world.provider.check(spec).unwrap()),
        |world, spec| world.restored(spec, 0, world.epochs[1]),
        |world, spec| world.restored(spec, 1, world.epochs[1]),
        |world, spec| drop(world.provider.make(spec).unwrap()),
        |world, spec| {
            world.provider.start(&spec.failover).unwrap();
            world.is_up(&spec.failover);
        },
        |world, spec| drop(world.provider.stop(&spec.failover).unwrap()),
    ];
    for done in 0..=steps.len() {
        let spec = world.spec(&format!("{done:016x}"));
        steps[..done].iter().for_each(|step| step(world, &spec));
        // As it is undone: a machine is switched off first.
        world.provider.stop(&spec.failover).unwrap();
        for _ in 0..2 {
            world.provider.remove(&spec.failover).unwrap();
            nothing_is_left(world, &spec.failover);
        }
    }
}

pub(crate) fn two_at_once_know_nothing_of_each_other(world: &World) {
    // One id is the beginning of the other one.
    let specs = ["00000000000000a", "00000000000000ab"].map(|id| world.spec(id));
    let [first, second] = &specs;
    specs.iter().for_each(|spec| drop(world.provider.check(spec).unwrap()));
    for disk in 0..2 {
        specs.iter().zip(world.epochs).for_each(|(spec, epoch)| world.restored(spec, disk, epoch));
    }
    specs.iter().for_each(|spec| drop(world.provider.make(spec).unwrap()));
    specs.iter().for_each(|spec| drop(world.provider.start(&spec.failover).unwrap()));
    specs.iter().for_each(|spec| world.is_up(&spec.failover));
    world.provider.stop(&first.failover).unwrap();
    world.provider.remove(&first.failover).unwrap();
    assert_eq!(world.look(&first.failover), Seen::Off);
    assert!((0..2).all(|disk| world.content(first, disk).is_none()));
    world.is_up(&second.failover);
    (0..2).for_each(|disk| world.is_there(second, disk, world.epochs[1]));
    world.provider.stop(&second.failover).unwrap();
    world.provider.remove(&second.failover).unwrap();
    nothing_is_left(world, &second.failover);
}

pub(crate) fn a_disk_that_was_cancelled_is_not_there(world: &World) {
    let spec = world.spec("00000000000000ac");
    for phase in [mobility_recovery::Phase::Copying, mobility_recovery::Phase::Checking] {
        let stopped = world.restore(&spec, 1, world.epochs[1], |at| {
            match at.phase == phase && at.done.0 > at.total.0 / 4 {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        assert!(matches!(stopped, Err(RestoreError::Cancelled(_))), "{:?}: {stopped:?}", world.kind);
        assert!(world.content(&spec, 1).is_none(), "{:?} {phase:?}", world.kind);
    }
    world.restored(&spec, 1, world.epochs[1]);
    world.provider.remove(&spec.failover).unwrap();
    nothing_is_left(world, &spec.failover);
}

pub(crate) fn no_machine_is_made_without_a_disk_that_was_written(world: &World) {
    let spec = world.spec("00000000000000af");
    (0..2).for_each(|disk| world.restored(&spec, disk, world.epochs[1]));
    world.lose(&spec, 1);
    for _ in 0..2 {
        let failure = world.provider.make(&spec).unwrap_err();
        let named = failure.problem.contains(&spec.disks[1].id.to_string());
        assert!(named && failure.hint.contains("change-point"), "{failure:?}");
    }
    world.restored(&spec, 1, world.epochs[1]);
    world.provider.make(&spec).unwrap();
    world.provider.remove(&spec.failover).unwrap();
    nothing_is_left(world, &spec.failover);
}

pub(crate) fn what_is_missing_is_named_with_what_to_do(world: &World) {
    let spec = world.spec("00000000000000ad");
    // Where its directory should be is something else.
    fs::write(place(world.dir.path()), "in the way").unwrap();
    let failure = world.provider.check(&spec).unwrap_err();
    let named = failure.problem.contains(place(world.dir.path()).to_str().unwrap());
    assert!(named && !failure.hint.is_empty(), "{failure:?}");
    fs::remove_file(place(world.dir.path())).unwrap();
    world.provider.check(&spec).unwrap();
    world.provider.remove(&spec.failover).unwrap();
    nothing_is_left(world, &spec.failover);
}
