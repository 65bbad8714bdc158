//! The step that mends what was restored: what is looked at, and what is told of it.
//!
//! Deliberately not here: mending (`mend`).

use jiff::Timestamp;

use super::{
    Failover, Place,
    mend::{self, Card, Image, Mend, Report, Restored, Task, Unmended},
    provider::{Failure, Spec},
    run::{Gauge, Runner, Stop},
    steps::{self, Outcome, Problem},
};
use crate::{
    Destination,
    service::admin::targets,
    target::{AddressChoice, InterfaceSettings, PlaceKind, Settings},
};

/// Mends the disks, and notes what was changed and found.
pub(super) async fn run(runner: &Runner, failover: &mut Failover) -> Outcome {
    let place = steps::place(runner, failover)?;
    if place.mend == Mend::No {
        return Ok("not looked at: the place is set so".to_owned());
    }
    let spec = steps::spec(runner, failover).await?;
    let settings = targets::at_place(&runner.service, failover.machine, &failover.place).await?.effective;
    let done =
        runner.aside(failover, Gauge::default(), move |stop| at(&place, &spec, &settings, stop)).await?;
    let now = Timestamp::now();
    for change in &done.changes {
        let text = format!("{}: '{}' is now '{}'", change.file, change.was, change.now);
        failover.say(text, now);
    }
    for finding in &done.findings {
        failover.say(format!("found: {finding}"), now);
    }
    let place = steps::place(runner, failover)?;
    let words = words(&done, place.mend);
    (failover.changes, failover.findings) = (done.changes, done.findings);
    Ok(words)
}

/// What came of it, in a line.
fn words(report: &Report, mend: Mend) -> String {
    let done = if mend == Mend::Report { "would be changed" } else { "changed" };
    let system = if report.system.is_empty() { String::new() } else { format!("{}: ", report.system) };
    format!("{system}{} files {done}, {} findings", report.changes.len(), report.findings.len())
}

fn at(place: &Place, spec: &Spec, settings: &Settings, stop: &Stop) -> Result<Report, Problem> {
    let mut disks = Vec::new();
    for disk in &spec.disks {
        let Destination::Image { path, format, .. } = place.provider.image(spec, disk)? else {
            return Ok(Report::nothing("the disks are no files on this host, and were not looked at"));
        };
        let image = Image { path: path.display().to_string(), format };
        // As it was at the point, where that is a device's name.
        let told = settings.disks.iter().find(|told| told.id == disk.id && !mend::is_device(&disk.name));
        let name = told.map_or(&disk.name, |told| &told.name).clone();
        let serial = disk.serial.clone();
        disks.push((path, Restored { image, name, serial, is_root: disk.is_root }));
    }
    let Some(directory) = disks.first().and_then(|(path, _)| path.parent()).map(mend::directory) else {
        return Ok(Report::nothing("there are no disks"));
    };
    let task = Task {
        disks: disks.into_iter().map(|(_, restored)| restored).collect(),
        cards: place.provider.cards(spec).map(|there| cards(&settings.interfaces, &there)),
        is_virtio: matches!(place.settings.kind, PlaceKind::Qemu | PlaceKind::Libvirt),
        report_only: place.mend == Mend::Report,
        emulated: place.emulated,
        directory,
    };
    mend::mend(&task, &|| stop.is_set()).map_err(|unmended| match unmended {
        Unmended::Stopped => Problem::Stopped,
        Unmended::Failed(why) => {
            let hint =
                "resume to mend on; or set mend = \"no\" for the place, restart the service, and resume";
            Failure::new(format!("what is on the disks could not be changed: {why}"), hint).into()
        }
    })
}

/// The machine's cards, each with the one at the target that takes its place: the first, which has the default route, comes first.
fn cards(interfaces: &[InterfaceSettings], there: &[String]) -> Vec<Card> {
    let card = |(number, interface): (usize, &InterfaceSettings)| Card {
        name: interface.name.clone(),
        mac: interface.source_mac.clone(),
        there: there.get(number).cloned(),
        addresses: interface.source_addresses.iter().map(|address| address.address).collect(),
        wanted: match interface.address.value {
            Some(AddressChoice::Fixed(address)) => Some(address),
            _ => None,
        },
    };
    interfaces.iter().enumerate().map(card).collect()
}
