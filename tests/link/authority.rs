//! Certificate authorities, and servers' certificates that are right but for one thing.

use std::{net::IpAddr, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, IsCa, KeyPair,
    SanType,
};
use rustls::{
    ServerConfig, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    version::TLS13,
};

/// An authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// The SHA-256 of its certificate.
    pub(crate) fn fingerprint(&self) -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, self.0.as_ref().der());
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A server of it on the loopback addresses, after `spoil`.
    pub(crate) fn server(&self, spoil: impl FnOnce(&mut CertificateParams)) -> Arc<ServerConfig> {
        self.server_of(&[&TLS13], spoil)
    }

    /// The same with other versions of TLS.
    pub(crate) fn server_of(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        spoil: impl FnOnce(&mut CertificateParams),
    ) -> Arc<ServerConfig> {
        let mut params = CertificateParams::default();
        let loopback = ["127.0.0.1", "::1"].map(|ip| SanType::IpAddress(ip.parse::<IpAddr>().unwrap()));
        params.subject_alt_names = loopback.into();
        spoil(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let chain: Vec<CertificateDer<'static>> =
            vec![certificate.der().clone(), self.0.as_ref().der().clone()];
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .unwrap();
        Arc::new(config)
    }

    /// A certificate for the key of a request.
    pub(crate) fn sign(&self, request: &str) -> String {
        let request = CertificateSigningRequestParams::from_pem(request).unwrap();
        request.signed_by(&self.0).unwrap().pem()
    }
}
