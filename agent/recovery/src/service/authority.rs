//! The service's certificate authority: made once, it signs the service's own certificate and those of machines.
//!
//! Key and certificate lie in one file that only the service's user can read; it is written whole or not at all, and never
//! replaced. Of a certificate request only the key counts: every name in a certificate is this file's choice. Deliberately not
//! here: who may have a certificate, and who is revoked.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use mobility_format::MachineId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};

use super::{private_file, secret};

/// How long a machine's certificate is good for.
pub(crate) const MACHINE_LIFE: SignedDuration = SignedDuration::from_hours(24);
/// How long the service's own certificate is good for. A machine whose clock is wrong by days still takes it.
pub(crate) const SERVER_LIFE: SignedDuration = SignedDuration::from_hours(90 * 24);
const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(20 * 366 * 24);
/// How far in the past certificates begin: for machines whose clock is slow, and for machines' own from a time in which the
/// service's clock was fast.
const BEFORE: SignedDuration = SignedDuration::from_hours(30 * 24);
/// What a machine's name in its certificate starts with.
const MACHINE_URI: &str = "mobility://machine/";

/// The authority could not be opened, made or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file does not hold a key and its certificate.
    #[error(
        "{} is not an authority's key and certificate ({problem}): put it back from a copy; a new one would make every enrolled machine refuse this service",
        path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// There were machines, and now there is no authority.
    #[error(
        "{} is gone, and machines trust what was in it: put it back from a copy; to begin anew, and enrol every machine again, remove the database too",
        .0.display()
    )]
    Gone(PathBuf),
    /// A certificate could not be signed.
    #[error("no certificate could be made: {0}")]
    Signing(String),
}

/// A certificate request that cannot be granted.
#[derive(Debug, thiserror::Error)]
#[error("the certificate request is refused: {0}")]
pub(crate) struct BadRequest(String);

/// A certificate that was given to a machine.
pub(crate) struct Given {
    pub(crate) pem: String,
    pub(crate) expires: Timestamp,
}

/// A certificate request that was checked: whoever made it has the key.
pub(crate) struct Request {
    parsed: CertificateSigningRequestParams,
    /// SHA-256 of its public key.
    pub(crate) key: String,
}

/// The authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

impl Authority {
    /// Opens the authority in `path`, or makes it where there is none and `may_be_new`.
    pub(crate) fn open(path: &Path, may_be_new: bool) -> Result<Authority, AuthorityError> {
        let failed = |source| AuthorityError::File { path: path.to_owned(), source };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound && may_be_new => {
                private_file::create(path, make()?.as_bytes()).map_err(failed)?;
                std::fs::read_to_string(path).map_err(failed)?
            }
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
                return Err(AuthorityError::Gone(path.to_owned()));
            }
            Err(err) => return Err(failed(err)),
        };
        Authority::parse(&text).map_err(|problem| AuthorityError::Damaged { path: path.to_owned(), problem })
    }

    /// One that nobody keeps.
    pub(crate) fn throw_away() -> Result<Authority, AuthorityError> {
        Authority::parse(&make()?).map_err(signing)
    }

    fn parse(text: &str) -> Result<Authority, String> {
        let der = CertificateDer::from_pem_slice(text.as_bytes()).map_err(|err| err.to_string())?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|err| err.to_string())?;
        let key = KeyPair::try_from(&key).map_err(|err| err.to_string())?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|err| err.to_string())?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err("the certificate is another key's".to_owned());
        }
        let start = text.find("-----BEGIN CERTIFICATE-----").ok_or("it holds no certificate")?;
        let pem = text[start..].to_owned();
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|err| err.to_string())?;
        Ok(Authority { issuer, pem, der })
    }

    /// Its certificate, as PEM.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    pub(crate) fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// SHA-256 of its certificate: what an operator compares.
    pub(crate) fn fingerprint(&self) -> String {
        secret::sha256(&self.der)
    }

    /// A key and a certificate for the service itself, under `names`, with this authority's after it: a machine that comes for
    /// the first time compares that with its fingerprint.
    pub(crate) fn server(
        &self,
        names: &[String],
        now: Timestamp,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), AuthorityError> {
        let key = KeyPair::generate().map_err(signing)?;
        let mut params = blank("recovery-service", now - BEFORE, now + SERVER_LIFE)?;
        params.subject_alt_names = names.iter().filter_map(|name| san(name)).collect();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).map_err(signing)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok((vec![certificate.der().clone(), self.der.clone()], key.into()))
    }

    /// Checks that a request is one, is for a key of a kind that is good enough, and is signed with that key.
    pub(crate) fn check(pem: &str) -> Result<Request, BadRequest> {
        let parsed =
            CertificateSigningRequestParams::from_pem(pem).map_err(|err| BadRequest(err.to_string()))?;
        let algorithm = parsed.public_key.algorithm();
        if ![&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519].contains(&algorithm) {
            return Err(BadRequest("its key is neither of P-256 nor of Ed25519".to_owned()));
        }
        let key = secret::sha256(&parsed.public_key.subject_public_key_info());
        Ok(Request { parsed, key })
    }

    /// A certificate that says nothing but which machine its holder is.
    pub(crate) fn machine(
        &self,
        request: &Request,
        machine: MachineId,
        now: Timestamp,
    ) -> Result<Given, AuthorityError> {
        let expires = now + MACHINE_LIFE;
        let mut params = blank(&machine.to_string(), now - BEFORE, expires)?;
        let name = format!("{MACHINE_URI}{machine}").try_into().map_err(signing)?;
        params.subject_alt_names = vec![SanType::URI(name)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&request.parsed.public_key, &self.issuer).map_err(signing)?;
        Ok(Given { pem: format!("{}{}", certificate.pem(), self.pem), expires })
    }
}

/// The machine that a certificate of ours was given to, and when it expires.
pub(crate) fn holder(der: &[u8]) -> Option<(MachineId, Timestamp)> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    let [x509_parser::extensions::GeneralName::URI(uri)] = &names[..] else { return None };
    let machine = uri.strip_prefix(MACHINE_URI)?.parse().ok()?;
    let expires = Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?;
    Some((machine, expires))
}

fn make() -> Result<String, AuthorityError> {
    let key = KeyPair::generate().map_err(signing)?;
    let now = Timestamp::now();
    let mut params = blank("recovery-service authority", now - BEFORE, now + AUTHORITY_LIFE)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(signing)?;
    Ok(format!("{}{}", key.serialize_pem(), certificate.pem()))
}

fn blank(name: &str, from: Timestamp, until: Timestamp) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let mut serial = secret::random::<16>().map_err(signing)?;
    // Positive, as a serial number has to be.
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    let since_1970 = |time: Timestamp| Duration::from_secs(time.as_second().max(0).unsigned_abs());
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_1970(from);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_1970(until);
    Ok(params)
}

fn san(name: &str) -> Option<SanType> {
    match name.parse::<IpAddr>() {
        Ok(address) => Some(SanType::IpAddress(address)),
        Err(_) => name.try_into().ok().map(SanType::DnsName),
    }
}

fn signing(err: impl std::fmt::Display) -> AuthorityError {
    AuthorityError::Signing(err.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn request(params: &CertificateParams, key: &KeyPair) -> String {
        params.serialize_request(key).unwrap().pem().unwrap()
    }

    #[test]
    fn an_authority_is_made_once_and_kept_from_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("authority.pem");
        assert!(matches!(Authority::open(&path, false), Err(AuthorityError::Gone(_))));
        let made = Authority::open(&path, true).unwrap().fingerprint();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Authority::open(&path, true).unwrap().fingerprint(), made);
        assert_eq!(Authority::open(&path, false).unwrap().fingerprint(), made);
        let text = std::fs::read_to_string(&path).unwrap();
        for bad in ["", &text[..text.len() / 2], &text.replace("PRIVATE", "PUBLIC")] {
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(Authority::open(&path, true), Err(AuthorityError::Damaged { .. })));
        }
    }

    #[test]
    fn of_a_request_only_the_key_counts() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(&dir.path().join("authority.pem"), true).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["recovery.example".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let other = SanType::URI(format!("{MACHINE_URI}{}", MachineId([9; 16])).try_into().unwrap());
        params.subject_alt_names.push(other);
        let machine = MachineId([3; 16]);
        let checked = Authority::check(&request(&params, &key)).unwrap();
        let given = authority.machine(&checked, machine, Timestamp::now()).unwrap();
        let der = CertificateDer::from_pem_slice(given.pem.as_bytes()).unwrap();
        let expires = Timestamp::from_second(given.expires.as_second()).unwrap();
        assert_eq!(holder(&der), Some((machine, expires)));
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert!(!parsed.is_ca());
        assert_eq!(parsed.public_key().subject_public_key.data.as_ref(), key.public_key_raw());
    }

    #[test]
    fn weak_keys_and_forged_requests_are_refused() {
        let params = CertificateParams::default();
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            Authority::check(&request(&params, &key)).unwrap();
        }
        let strange = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        assert!(Authority::check(&request(&params, &strange)).is_err());
        let sound = request(&params, &KeyPair::generate().unwrap());
        let at = sound.len() - 60;
        let other = if &sound[at..=at] == "A" { "B" } else { "A" };
        let forged = format!("{}{other}{}", &sound[..at], &sound[at + 1..]);
        assert!(Authority::check(&forged).is_err());
        assert!(Authority::check("").is_err());
    }
}
