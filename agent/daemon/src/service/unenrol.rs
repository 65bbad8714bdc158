//! `mobility-agent unenroll`: tells the service that this machine leaves, ends tracking, forgets keys and identity. The
//! machine's points stay with the service.
//!
//! Deliberately not here: stopping a running agent. One that holds the state directory has to be stopped first.

use std::path::Path;

use anyhow::Context;
use mobility_capture::ebpf;
use mobility_format::control::ErrorCode;

use super::{
    ProxySettings,
    client::{Ask, Client},
    connection::POLICY,
    enrol,
    fault::ServiceFaultKind as Kind,
    grants,
    identity::{Enrolment, Keys},
    renew,
    state_dir::StateDir,
};
use crate::{cli::UnenrollArgs, exit::Failure};

pub(crate) fn run(args: &UnenrollArgs) -> anyhow::Result<()> {
    let shown = args.state_dir.display();
    let not_enrolled =
        || Failure::NotEnrolled(format!("this machine is not enrolled ({shown}): there is nothing to do"));
    if !args.state_dir.exists() {
        return Err(not_enrolled().into());
    }
    let state = StateDir::open(&args.state_dir)?;
    let keys = Keys::load(&state)?.ok_or_else(not_enrolled)?;
    if let Some(enrolment) = &keys.enrolment {
        if !args.force {
            tell(&keys, enrolment, args.proxy.as_deref())?;
        }
        let pins = Path::new(ebpf::DEFAULT_PIN_ROOT).join(enrolment.machine.to_string());
        if pins.exists() {
            ebpf::remove_all(&pins)
                .with_context(|| format!("tracking cannot be ended: {}", pins.display()))?;
        }
    }
    // The identity last: as long as it is there, this can be repeated.
    let mut files = grants::FILES.into_iter().chain([POLICY]);
    files.try_for_each(|file| state.remove(file))?;
    Keys::remove(&state).with_context(|| format!("the identity in {shown} cannot be removed"))?;
    println!("this machine is not enrolled any more; its recovery points stay with the service");
    Ok(())
}

/// Tells the service. That it does not know this machine any more is as good.
fn tell(keys: &Keys, enrolment: &Enrolment, proxy: Option<&str>) -> anyhow::Result<()> {
    let given = ProxySettings { url: proxy.map(str::to_owned), except: None };
    let ways =
        renew::ways(keys, enrolment, &given.or(&enrolment.proxy), enrolment.more_authorities.as_deref());
    let client = Client::start(ways.map_err(anyhow::Error::msg)?)?;
    match client.ask(&Ask::post_nothing("unenrol")) {
        Ok(_) => Ok(()),
        Err(fault) => match fault.kind {
            Kind::Revoked | Kind::Unauthenticated | Kind::Refused(ErrorCode::NotFound) => Ok(()),
            _ => Err(enrol::failure(fault, false)
                .context("the service was not told; --force forgets the identity all the same")),
        },
    }
}
