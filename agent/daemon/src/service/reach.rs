//! Whether the recovery service can be reached from here and can be trusted, and whether both clocks agree: for `check`.
//!
//! It asks for something that everybody may have, so it disturbs no session and no agent that runs. Deliberately not here: whether the
//! service would take what this machine has to send.

use std::path::{Path, PathBuf};

use jiff::SignedDuration;

use super::{
    Options,
    client::{self, Ask, Client, Ways},
    enrol,
    fault::{ServiceFault, ServiceFaultKind as Kind},
    identity::{Enrolment, Keys},
    read_authorities, renew, tls,
};
use crate::exit::Failure;

/// The way to try.
pub(crate) struct Way<'a> {
    /// Where the service is said to be; where the identity says, if nothing is said.
    pub(crate) addresses: &'a [String],
    /// The authority that it has to show.
    pub(crate) fingerprint: Option<tls::Fingerprint>,
    /// Where the identity is, if there is one.
    pub(crate) state_dir: &'a Path,
    /// By which proxy, and which authorities are trusted besides.
    pub(crate) options: &'a Options,
}

/// What came of it.
pub(crate) struct Reached {
    /// Where it was tried.
    pub(crate) addresses: Vec<String>,
    /// Whether the service answered, as itself.
    pub(crate) answer: Result<(), ServiceFault>,
    /// The service's clock minus this machine's; zero if it did not answer.
    pub(crate) ahead: SignedDuration,
}

/// Asks the service. Nothing if none is named and this machine is not enrolled.
pub(crate) fn reach(way: &Way<'_>) -> Result<Option<Reached>, Failure> {
    let keys = Keys::peek(way.state_dir)?;
    let enrolled = keys.as_ref().and_then(|keys| keys.enrolment.as_ref().map(|of| (keys, of)));
    let (ways, addresses) = match enrolled {
        _ if !way.addresses.is_empty() => (first(way)?, way.addresses.to_vec()),
        Some((keys, enrolment)) => (of_identity(way, keys, enrolment)?, enrolment.addresses.clone()),
        None => return Ok(None),
    };
    let client =
        Client::start(ways).map_err(|err| Failure::State(format!("no thread can be started: {err}")))?;
    let answer = match client.ask(&Ask::get("openapi.json")) {
        // A service that refuses to show it is a service all the same.
        Err(fault) if !is_of_the_way(fault.kind) => Ok(()),
        answer => answer.map(|_| ()),
    };
    Ok(Some(Reached { addresses, answer, ahead: client.ahead() }))
}

fn is_of_the_way(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Unreachable
            | Kind::Untrusted
            | Kind::Garbage
            | Kind::Busy
            | Kind::Unauthenticated
            | Kind::Local
    )
}

/// As `enroll` would go.
fn first(way: &Way<'_>) -> Result<Ways, Failure> {
    let addresses = enrol::addresses(way.addresses)?;
    let more = authorities(way.options.ca_file.as_ref())?;
    let tls = tls::first(way.fingerprint, more.as_deref()).map_err(Failure::Config)?;
    let http = client::http(tls, &way.options.proxy).map_err(Failure::Config)?;
    Ok(Ways::new(http, None, addresses))
}

/// As `run` would go.
fn of_identity(way: &Way<'_>, keys: &Keys, enrolment: &Enrolment) -> Result<Ways, Failure> {
    let more = authorities(way.options.ca_file.as_ref())?.or_else(|| enrolment.more_authorities.clone());
    let proxy = way.options.proxy.or(&enrolment.proxy);
    renew::ways(keys, enrolment, &proxy, more.as_deref()).map_err(Failure::Config)
}

fn authorities(file: Option<&PathBuf>) -> Result<Option<String>, Failure> {
    file.map(|path| read_authorities(path)).transpose()
}
