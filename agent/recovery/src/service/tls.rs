//! TLS of the service: version 1.3 alone, a certificate that can be renewed while it serves, and clients that may have one.
//!
//! A machine that was switched off for a week comes with a certificate that has expired. The handshake takes it, so that the
//! machine can be told what is wrong and can renew; every request looks at the time itself (`api::caller`), which also ends
//! connections' rights that are kept open for longer than a certificate is good. Deliberately not here: revocation, which is
//! the database's.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use jiff::Timestamp;
use mobility_format::MachineId;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime},
    server::{
        ClientHello, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};

use super::authority::{Authority, holder};

/// Who is at the other end of a connection, as its certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) machine: MachineId,
    pub(crate) expires: Timestamp,
}

impl Holder {
    /// Of the certificate that a verified client has shown first.
    pub(crate) fn of(certificates: Option<&[CertificateDer<'_>]>) -> Option<Holder> {
        let (machine, expires) = holder(certificates?.first()?)?;
        Some(Holder { machine, expires })
    }
}

/// The one cryptographic library of this program.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The service's own certificate, whichever is the newest.
#[derive(Debug)]
pub(crate) struct OwnCertificate(RwLock<Arc<CertifiedKey>>);

impl OwnCertificate {
    pub(crate) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'static>,
    ) -> Result<OwnCertificate, Error> {
        Ok(OwnCertificate(RwLock::new(certified(chain, key)?)))
    }

    /// What connections from now on are shown.
    pub(crate) fn renew(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'static>,
    ) -> Result<(), Error> {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = certified(chain, key)?;
        Ok(())
    }
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, Error> {
    let key = rustls::crypto::ring::sign::any_supported_type(key)?;
    Ok(Arc::new(CertifiedKey::new(chain, key)))
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// What the service's side of a connection goes by.
pub(crate) fn server_config(
    authority: &Authority,
    certificate: Arc<OwnCertificate>,
) -> Result<ServerConfig, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|err| Error::General(err.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(TakesExpired(verifier)))
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session would be one more thing to revoke.
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Verifies as the one inside does, but also takes what has merely expired.
#[derive(Debug)]
struct TakesExpired(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for TakesExpired {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.0.verify_client_cert(end_entity, intermediates, now) {
            Err(Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            )) => {
                let last =
                    holder(end_entity).and_then(|(_, expires)| u64::try_from(expires.as_second()).ok());
                let last = last.ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
                let then = UnixTime::since_unix_epoch(Duration::from_secs(last.saturating_sub(1)));
                self.0.verify_client_cert(end_entity, intermediates, then)
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
