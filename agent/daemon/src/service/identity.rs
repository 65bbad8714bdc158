//! Who this machine is for the recovery service: its keys, and what enrolment has given it.
//!
//! The keys are made here and never leave the machine. They are kept before they are first used: an enrolment whose answer
//! was lost is repeated with the same keys and gives the same machine. Deliberately not here: how the file is kept
//! (`state_dir`).

use std::path::Path;

use jiff::Timestamp;
use mobility_format::{MachineId, PublicKey, control::Enrolled, envelope::SigningKey};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::{
    proxy::ProxySettings,
    state_dir::{self, StateDir},
};
use crate::{exit::Failure, identity::random};

const FILE: &str = "identity";
/// Addresses that are kept and tried.
const MOST_ADDRESSES: usize = 16;

/// The keys of this machine, and who it is, once it has been told.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Keys {
    /// The private key of the client certificate (P-256, PKCS #8, PEM).
    tls_key: String,
    /// The private key that signs manifests (Ed25519).
    signing_secret: [u8; 32],
    /// What enrolment has given.
    pub(super) enrolment: Option<Enrolment>,
}

/// What enrolment has given.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Enrolment {
    /// Who the machine is.
    pub(super) machine: MachineId,
    /// The client certificate and what leads to its authority (PEM).
    pub(super) certificate: String,
    /// When it was received, and when it expires; both by the service's clock.
    pub(super) received: Timestamp,
    pub(super) expires: Timestamp,
    /// The authorities that the service's own certificate may come from (PEM).
    pub(super) authorities: String,
    /// Where the service can be reached.
    pub(super) addresses: Vec<String>,
    /// By which proxy it was reached.
    #[serde(default)]
    pub(super) proxy: ProxySettings,
    /// Authorities that stores' certificates may come from besides the system's (PEM).
    #[serde(default)]
    pub(super) more_authorities: Option<String>,
}

impl Keys {
    /// What is kept in the state directory.
    pub(super) fn load(state: &StateDir) -> Result<Option<Keys>, Failure> {
        state.read(FILE)
    }

    /// The same without the right to work there, beside an agent that may have it.
    pub(super) fn peek(dir: &Path) -> Result<Option<Keys>, Failure> {
        state_dir::peek(dir, FILE)
    }

    /// New keys.
    pub(super) fn generate() -> anyhow::Result<Keys> {
        let tls_key = KeyPair::generate()?.serialize_pem();
        Ok(Keys { tls_key, signing_secret: random()?, enrolment: None })
    }

    pub(super) fn store(&self, state: &StateDir) -> std::io::Result<()> {
        state.write(FILE, self)
    }

    pub(super) fn remove(state: &StateDir) -> std::io::Result<()> {
        state.remove(FILE)
    }

    pub(super) fn signing_key(&self) -> SigningKey {
        SigningKey::from_bytes(&self.signing_secret)
    }

    pub(super) fn public_key(&self) -> PublicKey {
        PublicKey(self.signing_key().verifying_key().to_bytes())
    }

    pub(super) fn tls_key(&self) -> &str {
        &self.tls_key
    }

    /// A certificate request (PKCS #10, PEM) for the key. It asks for no name: names are the service's to give.
    pub(super) fn certificate_request(&self) -> Result<String, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serialize_request(&KeyPair::from_pem(&self.tls_key)?)?.pem()
    }
}

impl Enrolment {
    /// From the service's answer, which came at `now` by its own clock. `asked` are the addresses that led there: they are
    /// tried after those that it names.
    pub(super) fn new(answer: Enrolled, asked: &[Url], now: Timestamp) -> Enrolment {
        Enrolment {
            machine: answer.machine,
            certificate: answer.certificate,
            received: now,
            expires: answer.expires,
            authorities: answer.authorities,
            addresses: merged(&answer.addresses, asked.iter().map(Url::to_string)),
            proxy: ProxySettings::default(),
            more_authorities: None,
        }
    }

    /// With the addresses that a renewal named before those known so far.
    pub(super) fn readdress(&mut self, named: &[String]) {
        self.addresses = merged(named, std::mem::take(&mut self.addresses));
    }
}

/// The addresses `named`, as far as they are any, and then the others, each once.
fn merged(named: &[String], others: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for address in named.iter().cloned().chain(others) {
        if let Ok(url) = address_of(&address)
            && !all.contains(&url.to_string())
        {
            all.push(url.to_string());
        }
    }
    all.truncate(MOST_ADDRESSES);
    all
}

/// The address of a service, as people and the service write it.
pub(super) fn address_of(text: &str) -> Result<Url, String> {
    let full = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let url = Url::parse(&full).map_err(|err| format!("'{text}' is not an address: {err}"))?;
    let plain = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    if url.scheme() != "https" || !plain || !url.username().is_empty() || url.password().is_some() {
        return Err(format!("'{text}' must be an address such as https://recovery.example.org:8443"));
    }
    match url.host_str() {
        Some(_) => Ok(url),
        None => Err(format!("'{text}' names no host")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_what_they_should_be() {
        for (text, url) in [
            ("https://a.example", "https://a.example/"),
            ("a.example:8443", "https://a.example:8443/"),
            ("[2001:db8::1]:8443", "https://[2001:db8::1]:8443/"),
        ] {
            assert_eq!(address_of(text).unwrap().as_str(), url);
        }
        for bad in ["http://a", "https://a/path", "https://u:p@a", "https://a?b", "ftp://a", "", "https://"] {
            assert!(address_of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_that_the_service_names_come_first_and_none_is_lost() {
        let named = ["https://b".to_owned(), "http://no".to_owned()];
        let asked = ["https://a/".to_owned(), "https://b/".to_owned()];
        assert_eq!(merged(&named, asked), ["https://b/", "https://a/"]);
        let many: Vec<_> = (0..40).map(|n| format!("https://h{n}")).collect();
        assert_eq!(merged(&many, []).len(), MOST_ADDRESSES);
    }

    #[test]
    fn keys_that_were_kept_are_the_same_keys() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let keys = Keys::generate().unwrap();
        keys.store(&state).unwrap();
        let again = Keys::load(&state).unwrap().unwrap();
        assert_eq!((again.public_key(), again.tls_key()), (keys.public_key(), keys.tls_key()));
        let request = again.certificate_request().unwrap();
        assert!(request.contains("CERTIFICATE REQUEST") && request.len() < 16 << 10);
    }
}
