//! Whom the agent trusts, and what it shows of itself, in each of its three kinds of connections:
//!
//! - to the service, once it is enrolled: the authorities that enrolment named and no other, TLS 1.3, a client certificate;
//! - to the service for the first time: the one authority with the fingerprint that the operator gave, or the system's;
//! - to stores: the system's authorities, the service's and those of the operator, TLS 1.2 or 1.3.
//!
//! Deliberately not here: connecting.

use std::{fmt, sync::Arc};

use ring::digest::{SHA256, digest};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring as provider, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

/// The SHA-256 of an authority's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 32]);

impl std::str::FromStr for Fingerprint {
    type Err = String;

    /// Hexadecimal digits in either case, with or without colons, as programs show them.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not a SHA-256 fingerprint: 64 hexadecimal digits, colons or not");
        let text = text.strip_prefix("sha256:").or_else(|| text.strip_prefix("SHA256:")).unwrap_or(text);
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
        if digits.len() != 64 {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |d: u8| char::from(d).to_digit(16).and_then(|d| u8::try_from(d).ok());
            *byte =
                digit(pair[0]).zip(digit(pair[1])).map(|(high, low)| high << 4 | low).ok_or_else(wrong)?;
        }
        Ok(Fingerprint(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// For connections without TLS: nobody is trusted.
pub(super) fn nobody() -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(crypto()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|err| err.to_string())?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn crypto() -> Arc<CryptoProvider> {
    Arc::new(provider::default_provider())
}

/// For an enrolled agent: `authorities` alone are trusted, and the certificate is shown. All in PEM.
pub(super) fn enrolled(authorities: &str, certificate: &str, key: &str) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    add(&mut roots, authorities)?;
    let chain = certificates(certificate)?;
    let key =
        PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|err| format!("the private key: {err}"))?;
    let builder = ClientConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|err| err.to_string())?;
    builder
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map(with_http)
        .map_err(|err| format!("the client certificate: {err}"))
}

/// For the first connection, with the authority of this fingerprint, or else with the system's and `more` (PEM).
pub(super) fn first(fingerprint: Option<Fingerprint>, more: Option<&str>) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|err| err.to_string())?;
    let builder = match fingerprint {
        Some(fingerprint) => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Pinned(fingerprint)))
        }
        None => builder.with_root_certificates(public(more)?),
    };
    Ok(with_http(builder.with_no_client_auth()))
}

/// For stores: the system's authorities, the service's and `more` (PEM).
pub(super) fn stores(authorities: &str, more: Option<&str>) -> Result<ClientConfig, String> {
    let mut roots = public(more)?;
    add(&mut roots, authorities)?;
    let builder = ClientConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|err| err.to_string())?;
    Ok(with_http(builder.with_root_certificates(roots).with_no_client_auth()))
}

fn with_http(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// The system's authorities, as far as there are any, and `more`.
fn public(more: Option<&str>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    more.map_or(Ok(()), |more| add(&mut roots, more))?;
    Ok(roots)
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err("there is no certificate in it (PEM is expected)".to_owned()),
        Err(err) => Err(format!("a certificate cannot be read: {err}")),
    }
}

/// Whether `pem` holds authorities.
pub(super) fn check_authorities(pem: &str) -> Result<(), String> {
    add(&mut RootCertStore::empty(), pem)
}

fn add(roots: &mut RootCertStore, pem: &str) -> Result<(), String> {
    certificates(pem)?
        .into_iter()
        .try_for_each(|certificate| roots.add(certificate))
        .map_err(|err| format!("an authority's certificate: {err}"))
}

/// Trusts exactly the authority with this fingerprint, which the peer has to send along, and checks chain, names and dates
/// against it as always.
#[derive(Debug)]
struct Pinned(Fingerprint);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let is_it = |certificate: &&CertificateDer<'_>| digest(&SHA256, certificate).as_ref() == self.0.0;
        let authority = intermediates.iter().find(is_it);
        let authority = authority.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), crypto())
            .build()
            .map_err(|err| Error::General(err.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    /// TLS 1.2 is not spoken with the service.
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not accepted".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &crypto().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    use super::*;

    struct Chain {
        authority: CertificateDer<'static>,
        leaf: CertificateDer<'static>,
    }

    fn chain(spoil: impl FnOnce(&mut CertificateParams)) -> Chain {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut params = CertificateParams::new(vec!["recovery.example".to_owned()]).unwrap();
        spoil(&mut params);
        let leaf = params.signed_by(&KeyPair::generate().unwrap(), &authority).unwrap();
        Chain { authority: authority.as_ref().der().clone(), leaf: leaf.der().clone() }
    }

    fn fingerprint(certificate: &CertificateDer<'_>) -> Fingerprint {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, certificate).as_ref());
        Fingerprint(bytes)
    }

    fn verify(pin: Fingerprint, chain: &Chain, sent: &[CertificateDer<'_>], name: &str) -> Result<(), Error> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        Pinned(pin).verify_server_cert(&chain.leaf, sent, &name, &[], UnixTime::now()).map(|_| ())
    }

    #[test]
    fn a_fingerprint_vouches_for_its_authority_alone() {
        let good = chain(|_| {});
        let other = chain(|_| {});
        let (pin, sent) = (fingerprint(&good.authority), [good.authority.clone()]);
        verify(pin, &good, &sent, "recovery.example").unwrap();
        assert!(verify(pin, &good, &sent, "another.example").is_err(), "wrong name");
        assert!(verify(pin, &good, &[], "recovery.example").is_err(), "the authority was not sent");
        assert!(
            verify(pin, &other, slice::from_ref(&other.authority), "recovery.example").is_err(),
            "other authority"
        );
        let both = [other.authority.clone(), good.authority.clone()];
        assert!(verify(pin, &other, &both, "recovery.example").is_err(), "the authority only travels along");
        let leaf = fingerprint(&good.leaf);
        assert!(verify(leaf, &good, &sent, "recovery.example").is_err(), "a leaf is no authority");
    }

    #[test]
    fn dates_count_under_a_fingerprint_as_well() {
        let expired = chain(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
        let pin = fingerprint(&expired.authority);
        let result = verify(pin, &expired, slice::from_ref(&expired.authority), "recovery.example");
        assert!(matches!(
            result,
            Err(Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. }
            ))
        ));
    }

    #[test]
    fn fingerprints_are_read_as_programs_show_them() {
        let hex = "ab".repeat(32);
        let colons = vec!["AB"; 32].join(":");
        let parsed: Fingerprint = hex.parse().unwrap();
        assert_eq!(colons.parse(), Ok(parsed));
        assert_eq!(format!("sha256:{hex}").parse(), Ok(parsed));
        assert_eq!(parsed.to_string(), hex);
        for bad in ["", "ab", &"g".repeat(64), &"ab".repeat(33), &"é".repeat(32)] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn authorities_that_are_none_are_refused() {
        for bad in ["", "no pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(stores(bad, None).is_err(), "{bad}");
        }
    }
}
