//! Keeps the client certificate fresh: asks for a new one after two thirds of its life, or when told to.
//!
//! What is due goes by the service's clock, for this machine's may be wrong. The old certificate stays good until it expires,
//! so an answer that was lost costs nothing. Deliberately not here: how connections are made with it (`client`).

use std::sync::atomic::Ordering;

use jiff::Timestamp;
use mobility_format::control::{CommandResult, RenewRequest, Renewed};
use reqwest::Url;

use super::{
    client::{self, Ask, Ways},
    connection::{Connection, lock},
    fault::{ServiceFault, ServiceFaultKind as Kind},
    identity::{self, Enrolment, Keys},
    proxy::ProxySettings,
    tls,
    waits::chance,
};

/// The connections that go with an identity.
pub(super) fn ways(
    keys: &Keys,
    enrolment: &Enrolment,
    proxy: &ProxySettings,
    more: Option<&str>,
) -> Result<Ways, String> {
    let addresses: Vec<Url> =
        enrolment.addresses.iter().filter_map(|text| identity::address_of(text).ok()).collect();
    if addresses.is_empty() {
        return Err("no address of the recovery service is known".to_owned());
    }
    let service = tls::enrolled(&enrolment.authorities, &enrolment.certificate, keys.tls_key())?;
    let stores = tls::stores(&enrolment.authorities, more)?;
    Ok(Ways::new(client::http(service, proxy)?, Some(client::http(stores, proxy)?), addresses))
}

/// When a certificate is to be renewed: after two thirds of its life, and by chance up to a twentieth of it sooner.
fn due(received: Timestamp, expires: Timestamp, chance: f64) -> Timestamp {
    let life = expires.duration_since(received);
    let wait = life.as_secs_f64().max(0.0) * (2.0 / 3.0 - chance / 20.0);
    let wait = jiff::SignedDuration::try_from_secs_f64(wait).unwrap_or(life);
    received.saturating_add(wait).unwrap_or(expires)
}

/// Renews the certificate if it is time.
pub(super) fn if_due(connection: &Connection) -> Result<bool, ServiceFault> {
    let told = connection.renew_now.load(Ordering::Relaxed);
    let (received, expires) = match &lock(&connection.keys).enrolment {
        Some(enrolment) => (enrolment.received, enrolment.expires),
        None => return Ok(false),
    };
    if !told && connection.client.now() < due(received, expires, chance()) {
        return Ok(false);
    }
    let result = renew(connection);
    let said = match &result {
        Ok(expires) => CommandResult::done(format!("the certificate is good until {expires}")),
        Err(fault) => {
            tracing::warn!("the certificate cannot be renewed: {fault}");
            CommandResult::refused(fault.to_string())
        }
    };
    // A try that failed is repeated, but whoever wanted it hears of the first.
    if let Some(id) = lock(&connection.renew_command).take() {
        connection.finished(id, said);
    }
    result.map(|_| {
        connection.renew_now.store(false, Ordering::Relaxed);
        false
    })
}

/// Asks for a new certificate and goes on with it. Returns until when it is good.
pub(super) fn renew(connection: &Connection) -> Result<Timestamp, ServiceFault> {
    let local = |what: String| ServiceFault::new(Kind::Local, what);
    let keys = lock(&connection.keys).clone();
    let csr = keys
        .certificate_request()
        .map_err(|err| local(format!("no certificate request can be made: {err}")))?;
    // Not through what draws conclusions: a certificate that is not accepted any more is why we are here.
    let answer: Renewed = connection.client.call(&Ask::post("renew", &RenewRequest { csr })?)?;
    let Some(mut enrolment) = keys.enrolment.clone() else {
        return Err(local("this machine is not enrolled".to_owned()));
    };
    let expires = answer.expires;
    enrolment.certificate = answer.certificate;
    enrolment.authorities = answer.authorities;
    enrolment.received = connection.client.now();
    enrolment.expires = expires;
    enrolment.readdress(&answer.addresses);
    let proxy = connection.options.proxy.or(&enrolment.proxy);
    let more = connection.more_authorities.as_deref();
    // What cannot be used does not replace what can.
    let ways = ways(&keys, &enrolment, &proxy, more).map_err(|err| {
        ServiceFault::new(Kind::Garbage, format!("the new certificate cannot be used: {err}"))
    })?;
    let mut renewed = keys;
    renewed.enrolment = Some(enrolment);
    renewed
        .store(&connection.state)
        .map_err(|err| local(format!("the new certificate cannot be kept: {err}")))?;
    *lock(&connection.keys) = renewed;
    connection.client.replace(ways);
    tracing::info!("the certificate was renewed and is good until {expires}");
    Ok(expires)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_after_two_thirds_of_its_life() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        assert_eq!(due(at(1000), at(1300), 0.0), at(1200));
        assert_eq!(due(at(1000), at(1300), 1.0), at(1185));
        assert_eq!(due(at(1000), at(1000), 0.5), at(1000));
        assert_eq!(due(at(1000), at(0), 0.5), at(1000), "a life that makes no sense is over");
    }
}
