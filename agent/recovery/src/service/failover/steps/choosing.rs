//! The step that chooses the point.
//!
//! Deliberately not here: what the words for points mean, and which other one to take (`point`).

use mobility_format::{Epoch, MachineId};

use super::{LOOK, Outcome};
use crate::{
    Catalog,
    service::failover::{
        Failover,
        point::{self, LATEST},
        provider::Failure,
        record::Chosen,
        run::{Gauge, Runner},
    },
    storage::Stores,
};

/// Chooses the point, and keeps it from going.
pub(super) async fn choose(runner: &Runner, failover: &mut Failover) -> Outcome {
    let (machine, wanted, asked) = (failover.machine, failover.wanted.clone(), failover.asked);
    let processed = match wanted == LATEST {
        true => {
            let service = runner.service.clone();
            let mut waiting = std::pin::pin!(point::process_cache(&service, machine, &runner.stop));
            loop {
                tokio::select! {
                    processed = &mut waiting => break format!("; {}", processed?),
                    () = tokio::time::sleep(LOOK) => runner.beat(failover, &Gauge::default()).await,
                }
            }
        }
        false => String::new(),
    };
    // Whatever thins points out may have been at it before it could know that this one is needed: then another one is chosen.
    for _ in 0..3 {
        let stores = runner.service.stores.clone();
        let (of, when) = (wanted.clone(), asked);
        let chosen = runner
            .aside(failover, Gauge::default(), move |_| Ok(point::choose(&stores, machine, &of, when)?))
            .await?;
        (failover.chosen, failover.holds_point) = (Some(chosen.clone()), true);
        runner.beat(failover, &Gauge::default()).await;
        let stores = runner.service.stores.clone();
        let epoch = chosen.epoch;
        let still = runner
            .aside(failover, Gauge::default(), move |_| Ok(still_there(&stores, machine, epoch)?))
            .await?;
        if still {
            return named(failover, &chosen, &processed);
        }
    }
    Err(Failure::new("the points that are chosen go again and again", "resume in a minute").into())
}

/// What there is to say of the point that was chosen. The newest of a machine that was stopped holds all of it.
fn named(failover: &mut Failover, chosen: &Chosen, processed: &str) -> Outcome {
    let (id, time, kind) = (&chosen.id, chosen.time, chosen.consistency.name());
    if failover.loses_nothing() {
        failover.chosen.iter_mut().for_each(|chosen| chosen.age_ms = 0);
        return Ok(format!("{id} of {time} ({kind}), with all that was written{processed}"));
    }
    if failover.source.last.is_some() && failover.wanted == LATEST {
        let problem = format!("the newest point is {id} of {time}, older than the machine's last one");
        let hint = "look at the service's log, and resume; `failover change-point` takes an older one";
        return Err(Failure::new(problem, hint).into());
    }
    let age = chosen.age_ms as f64 / 1e3;
    Ok(format!("{id} of {time} ({kind}), {age:.1} s before it was asked for{processed}"))
}

fn still_there(stores: &Stores, machine: MachineId, epoch: Epoch) -> Result<bool, Failure> {
    let catalog = Catalog::load_locked(stores, machine);
    let catalog = catalog.map_err(|err| Failure::new(err.to_string(), point::GONE))?;
    Ok(catalog.manifest(epoch).is_some())
}
