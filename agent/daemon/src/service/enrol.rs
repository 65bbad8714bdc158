//! `mobility-agent enroll`: makes this machine's keys and has the recovery service take it into protection.
//!
//! May be repeated after any failure: the keys are kept before anything is sent, and the service gives the same key the same
//! machine. Deliberately not here: disks, which the service's policy chooses when the agent runs.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use mobility_format::control::{EnrolRequest, Enrolled, ErrorCode, Limited};
use reqwest::Url;

use super::{
    ProxySettings,
    client::{self, Ask, Client, Ways},
    fault::{ServiceFault, ServiceFaultKind as Kind},
    identity::{Enrolment, Keys, address_of},
    inventory, read_authorities, renew,
    state_dir::StateDir,
    tls,
};
use crate::{cli::EnrollArgs, exit::Failure};

/// The longest token.
const LONGEST_TOKEN: u64 = 256;

pub(crate) fn run(args: &EnrollArgs) -> anyhow::Result<()> {
    let addresses = addresses(&args.service)?;
    let token = token(args)?;
    let more = args.ca_file.as_deref().map(read_authorities).transpose()?;
    let proxy = ProxySettings { url: proxy(args)?, except: None };
    let first = tls::first(args.ca_fingerprint, more.as_deref()).map_err(Failure::Config)?;
    let http = client::http(first, &proxy).map_err(Failure::Config)?;
    let state = StateDir::open(&args.state_dir)?;
    let mut keys = keys(&state, &args.state_dir)?;
    let client = Client::start(Ways::new(http, None, addresses.clone()))?;
    let request = EnrolRequest {
        token,
        csr: keys.certificate_request()?,
        signing_key: keys.public_key(),
        inventory: inventory::collect(),
    };
    request.check()?;
    let trusts_system = args.ca_fingerprint.is_none();
    let ask = Ask::post("enrol", &request)?;
    let answer: Enrolled = client.call(&ask).map_err(|fault| failure(fault, trusts_system))?;
    let mut enrolment = Enrolment::new(answer, &addresses, client.now());
    enrolment.more_authorities = more;
    enrolment.proxy = proxy;
    renew::ways(&keys, &enrolment, &enrolment.proxy, enrolment.more_authorities.as_deref())
        .map_err(|err| Failure::Untrusted(format!("what the recovery service gave cannot be used: {err}")))?;
    let machine = enrolment.machine;
    keys.enrolment = Some(enrolment);
    keys.store(&state)
        .map_err(|err| Failure::State(format!("the identity cannot be kept: {err}; enrol again")))?;
    println!("enrolled as machine {machine}; `mobility-agent run` protects it");
    Ok(())
}

pub(super) fn addresses(given: &[String]) -> Result<Vec<Url>, Failure> {
    let addresses: Result<Vec<_>, _> = given.iter().map(|text| address_of(text)).collect();
    addresses.map_err(|err| Failure::Config(format!("--service: {err}")))
}

/// The token, from where others cannot read it: never from the command line.
fn token(args: &EnrollArgs) -> Result<String, Failure> {
    let (text, from) = match (&args.token_file, &args.token_env) {
        (Some(path), _) => (read_token(path)?, path.display().to_string()),
        (None, Some(name)) => {
            let text = std::env::var(name);
            (text.map_err(|_| Failure::Config(format!("the variable {name} is not set")))?, name.clone())
        }
        (None, None) => return Err(Failure::Config("a token is needed: add --token-file FILE".to_owned())),
    };
    let token = text.trim();
    if token.is_empty()
        || token.len() as u64 > LONGEST_TOKEN
        || token.contains(|c: char| !c.is_ascii_graphic())
    {
        return Err(Failure::Config(format!(
            "{from} holds no token: one line as `recovery-service token create` showed it"
        )));
    }
    Ok(token.to_owned())
}

/// The proxy, where one was given.
fn proxy(args: &EnrollArgs) -> Result<Option<String>, Failure> {
    let Some(name) = &args.proxy_env else { return Ok(args.proxy.clone()) };
    let text = std::env::var(name).map_err(|_| Failure::Config(format!("the variable {name} is not set")))?;
    Ok(Some(text))
}

fn read_token(path: &Path) -> Result<String, Failure> {
    let fail = |err: io::Error| Failure::Config(format!("{}: {err}", path.display()));
    let mut text = String::new();
    // It may be a pipe, whose length nobody knows.
    let file = File::open(path).map_err(fail)?;
    file.take(LONGEST_TOKEN + 3).read_to_string(&mut text).map_err(fail)?;
    Ok(text)
}

/// The keys of an earlier try, or new ones, kept from now on.
fn keys(state: &StateDir, dir: &Path) -> anyhow::Result<Keys> {
    let shown = dir.display();
    match Keys::load(state)? {
        Some(Keys { enrolment: Some(enrolment), .. }) => Err(Failure::AlreadyEnrolled(format!(
            "this machine is enrolled as {} ({shown}): run `mobility-agent unenroll` first to begin anew",
            enrolment.machine
        ))
        .into()),
        Some(keys) => Ok(keys),
        None => {
            let keys = Keys::generate()?;
            keys.store(state)
                .map_err(|err| Failure::State(format!("keys cannot be kept in {shown}: {err}")))?;
            Ok(keys)
        }
    }
}

/// What a script would decide by.
pub(super) fn failure(fault: ServiceFault, trusts_system: bool) -> anyhow::Error {
    let message = fault.message;
    match fault.kind {
        Kind::Refused(ErrorCode::TokenRefused) => {
            Failure::TokenRefused(format!("{message}; the token may be used up or expired: create another"))
                .into()
        }
        Kind::Untrusted => {
            let remedy = if trusts_system {
                "give the fingerprint of its authority (--ca-fingerprint), which the service shows when it starts"
            } else {
                "compare the fingerprint with what the service shows; if it is the same, somebody is in between"
            };
            Failure::Untrusted(format!("{message}; {remedy}")).into()
        }
        Kind::Unreachable | Kind::Busy | Kind::NotYet | Kind::Garbage => {
            Failure::Unreachable(format!("{message}; nothing is lost by trying again")).into()
        }
        _ => anyhow::Error::msg(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_line_that_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let read = |content: &str| {
            std::fs::write(&path, content).unwrap();
            token(&EnrollArgs { token_file: Some(path.clone()), ..EnrollArgs::default() })
        };
        assert_eq!(read("mob-abc_123\n").unwrap(), "mob-abc_123");
        for bad in ["", "\n", "a b", "a\nb", "é", &"x".repeat(300)] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        assert!(token(&EnrollArgs::default()).is_err());
    }

    #[test]
    fn a_failed_try_leaves_keys_for_the_next_and_an_identity_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let first = keys(&state, dir.path()).unwrap();
        let mut again = keys(&state, dir.path()).unwrap();
        assert_eq!(again.public_key(), first.public_key());
        let answer = Enrolled {
            machine: mobility_format::MachineId([1; 16]),
            certificate: String::new(),
            expires: jiff::Timestamp::UNIX_EPOCH,
            authorities: String::new(),
            addresses: Vec::new(),
        };
        again.enrolment = Some(Enrolment::new(answer, &[], jiff::Timestamp::UNIX_EPOCH));
        again.store(&state).unwrap();
        let refused = keys(&state, dir.path()).err().unwrap();
        assert!(matches!(refused.downcast_ref(), Some(Failure::AlreadyEnrolled(_))));
    }
}
