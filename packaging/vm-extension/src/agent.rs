//! The agent's commands that the handler calls: enrol, unenrol, status.
//!
//! The token goes through a pipe and through nothing else: not through a file, a command line or the environment. Deliberately not
//! here: when they are called.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    child::{self, Outcome},
    failure::{Cause, Failure},
    place::Place,
    settings::{Protected, Settings},
};

/// What `enroll` may take of the time there is; a service that is up answers at once.
const LONGEST_ENROL: Duration = Duration::from_secs(120);
const LONGEST_UNENROL: Duration = Duration::from_secs(60);
const LONGEST_STATUS: Duration = Duration::from_secs(10);
/// From one look at an agent that starts to the next.
const STEP: Duration = Duration::from_millis(300);

/// Whether a machine was enrolled just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Enrolled {
    Now,
    Before,
}

/// Whether the agent is installed.
pub(crate) fn is_installed(place: &Place) -> bool {
    place.path("/usr/bin/mobility-agent").exists()
}

/// Whether this machine has an identity, or keys for one.
pub(crate) fn has_keys(place: &Place) -> bool {
    place.state_dir().join("identity").exists()
}

/// Has the service take this machine into protection.
pub(crate) fn enrol(place: &Place, settings: &Settings, protected: &Protected) -> Result<Enrolled, Failure> {
    let token = protected.token.as_deref().ok_or_else(|| {
        Failure::settings(
            "the machine is not enrolled and there is no token: put 'token' into the protected settings; \
             `recovery-service token create` makes one",
        )
    })?;
    let mut command = place.agent("enroll");
    command.arg("--token-file=/dev/stdin");
    settings.services.iter().for_each(|service| {
        command.arg(format!("--service={service}"));
    });
    if let Some(fingerprint) = &settings.ca_fingerprint {
        command.arg(format!("--ca-fingerprint={fingerprint}"));
    }
    if let Some(proxy) = protected.proxy.as_ref().or(settings.proxy.as_ref()) {
        // It may hold a password, and everybody can see command lines.
        command.arg("--proxy-env=MOBILITY_PROXY").env("MOBILITY_PROXY", proxy);
    }
    let outcome = child::run(command, format!("{token}\n").as_bytes(), place.within(LONGEST_ENROL))?;
    let said = outcome.reason();
    let because = |cause| Err(Failure::new(cause, format!("the machine cannot be enrolled: {said}")));
    match outcome.code {
        Some(0) => Ok(Enrolled::Now),
        Some(14) => Ok(Enrolled::Before),
        Some(2 | 3 | 11 | 13) => because(Cause::Settings),
        Some(12) => because(Cause::Unreachable),
        _ if outcome.late => because(Cause::Unreachable),
        _ => because(Cause::Other),
    }
}

/// Has the service let the machine go, if it can be reached, and forgets the identity in any case. What went wrong.
pub(crate) fn unenrol(place: &Place) -> Option<String> {
    let call = |flags: &[&str]| {
        let mut command = place.agent("unenroll");
        command.args(flags);
        child::run(command, b"", place.within(LONGEST_UNENROL))
    };
    // 15: not enrolled, which is what is wanted.
    let fine = |outcome: &Outcome| matches!(outcome.code, Some(0 | 15));
    let told = match call(&[]) {
        Ok(outcome) if fine(&outcome) => return None,
        Ok(outcome) => outcome.reason(),
        Err(failure) => failure.message,
    };
    match call(&["--force"]) {
        Ok(outcome) if fine(&outcome) => {
            Some(format!("the service was not told that this machine leaves: {told}"))
        }
        Ok(outcome) => Some(format!("the identity is still there: {}", outcome.reason())),
        Err(failure) => Some(failure.message),
    }
}

/// What the running agent says of itself.
pub(crate) fn status(place: &Place) -> Result<Value, Failure> {
    let mut command = place.agent("status");
    command.arg("--json");
    let outcome = child::run(command, b"", place.within(LONGEST_STATUS))?;
    if !outcome.succeeded() {
        return Err(Failure::new(Cause::Other, format!("the agent does not run: {}", outcome.reason())));
    }
    serde_json::from_slice(&outcome.output)
        .map_err(|err| Failure::other("what the agent says of itself", err))
}

/// The same of an agent that was started just now.
pub(crate) fn status_soon(place: &Place, most: Duration) -> Result<Value, Failure> {
    let end = place.within(most);
    loop {
        let failure = match status(place) {
            Ok(status) => return Ok(status),
            Err(failure) => failure,
        };
        if Instant::now() + STEP > end {
            return Err(failure);
        }
        thread::sleep(STEP);
    }
}
