//! The envelope around every small object: magic, version, a JSON body, a signature where there is one, a digest.
//!
//! ```text
//! magic (8) | version (2) | flags (2) | body length (4) | body | public key (32) and signature (64), if signed | digest (32)
//! ```
//!
//! The digest tells damage from forgery: a wrong digest is a broken disk, a wrong signature under a right digest is
//! somebody's work. Deliberately not here: what the bodies mean.

use ed25519_dalek::Signer;
pub use ed25519_dalek::SigningKey;
use serde::{Serialize, de::DeserializeOwned};

use crate::{Digest, PublicKey};

/// The longest body, in bytes: a manifest with a hundred thousand segments is half of it.
pub const MAX_BODY: usize = 64 << 20;

const PREFIX: usize = 16;
const KEY_AND_SIGNATURE: usize = 32 + 64;
const FLAG_SIGNED: u16 = 1;
/// Signed before the bytes, so that no signature made for another purpose can be taken for one of these.
const SIGNING_CONTEXT: &[u8] = b"mobility-agent 2026 envelope\0";

/// What kind of object an envelope holds, as its first eight bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Magic(pub [u8; 8]);

impl Magic {
    /// A manifest.
    pub const MANIFEST: Magic = Magic(*b"\x89MOBPNT\n");
    /// A merged run.
    pub const RUN: Magic = Magic(*b"\x89MOBRUN\n");
    /// A machine's record in a vault or in target storage.
    pub const MACHINE: Magic = Magic(*b"\x89MOBMCH\n");
    /// Local state of the agent.
    pub const STATE: Magic = Magic(*b"\x89MOBSTA\n");
}

/// What is wrong with an envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// It does not start as this kind of object does.
    #[error("not the expected kind of object: wrong magic at byte 0")]
    Magic,
    /// It was written by a later version.
    #[error("format version {found} is not known to this program (it knows up to {known}): upgrade it")]
    Version {
        /// The version in the object.
        found: u16,
        /// The highest this program knows.
        known: u16,
    },
    /// Its length is not what its prefix says.
    #[error("truncated or extended: {length} bytes, expected {expected}")]
    Length {
        /// Its length in bytes.
        length: u64,
        /// What its length should be.
        expected: u64,
    },
    /// Its bytes have changed since it was written.
    #[error("damaged: bytes 0..{end} do not match the digest that follows them")]
    Digest {
        /// The byte after the last covered.
        end: u64,
    },
    /// It has to be signed and is not.
    #[error("not signed")]
    Unsigned,
    /// The signature is not that of the key it names. Damage is excluded by the digest: somebody made this.
    #[error("forged: the signature does not fit the content, though the digest does")]
    Signature,
    /// The body breaks a rule of the format.
    #[error("malformed: {0}")]
    Malformed(String),
    /// The body would be longer than [`MAX_BODY`].
    #[error("the body of {0} bytes is longer than an object may be ({MAX_BODY} bytes)")]
    TooLarge(usize),
}

/// What an envelope held.
#[derive(Debug)]
pub struct Opened<T> {
    /// The body.
    pub body: T,
    /// The key that signed it, where it was signed; the signature holds.
    pub key: Option<PublicKey>,
    /// The digest of the object.
    pub digest: Digest,
}

/// Puts `body` in an envelope, signed where there is a `key`.
///
/// # Errors
/// [`EnvelopeError::TooLarge`], and [`EnvelopeError::Malformed`] for a body that JSON cannot express.
pub fn seal(
    magic: Magic,
    version: u16,
    body: &impl Serialize,
    key: Option<&SigningKey>,
) -> Result<Vec<u8>, EnvelopeError> {
    let body = serde_json::to_vec(body).map_err(|err| EnvelopeError::Malformed(err.to_string()))?;
    if body.len() > MAX_BODY {
        return Err(EnvelopeError::TooLarge(body.len()));
    }
    let mut out = Vec::with_capacity(PREFIX + body.len() + KEY_AND_SIGNATURE + Digest::LEN);
    out.extend_from_slice(&magic.0);
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&if key.is_some() { FLAG_SIGNED } else { 0 }.to_le_bytes());
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&body);
    if let Some(key) = key {
        out.extend_from_slice(key.verifying_key().as_bytes());
        let signature = key.sign(&signed_bytes(&out));
        out.extend_from_slice(&signature.to_bytes());
    }
    let digest = Digest::of(&out);
    out.extend_from_slice(&digest.0);
    Ok(out)
}

/// Takes a body out of its envelope. Nothing is allocated that is not already there, whatever the bytes say.
///
/// # Errors
/// What is wrong with it.
pub fn open<T: DeserializeOwned>(magic: Magic, known: u16, bytes: &[u8]) -> Result<Opened<T>, EnvelopeError> {
    let length = bytes.len() as u64;
    let prefix: &[u8; PREFIX] = bytes
        .first_chunk()
        .ok_or(EnvelopeError::Length { length, expected: (PREFIX + Digest::LEN) as u64 })?;
    if prefix[..8] != magic.0 {
        return Err(EnvelopeError::Magic);
    }
    let found = u16::from_le_bytes([prefix[8], prefix[9]]);
    if found == 0 || found > known {
        return Err(EnvelopeError::Version { found, known });
    }
    let flags = u16::from_le_bytes([prefix[10], prefix[11]]);
    let body_len = u32::from_le_bytes([prefix[12], prefix[13], prefix[14], prefix[15]]) as usize;
    let signature_len = if flags & FLAG_SIGNED == 0 { 0 } else { KEY_AND_SIGNATURE };
    let expected = PREFIX + body_len.min(MAX_BODY) + signature_len + Digest::LEN;
    if body_len > MAX_BODY || bytes.len() != expected {
        return Err(EnvelopeError::Length { length, expected: expected as u64 });
    }
    let (covered, digest) = bytes.split_at(bytes.len() - Digest::LEN);
    if Digest::of(covered).0 != digest {
        return Err(EnvelopeError::Digest { end: covered.len() as u64 });
    }
    if flags & !FLAG_SIGNED != 0 {
        return Err(EnvelopeError::Malformed("a reserved flag is set".to_owned()));
    }
    let (_, body) = covered.split_at(PREFIX);
    let (body, key_and_signature) = body.split_at(body_len);
    let key = match signature_len {
        0 => None,
        _ => Some(verify(&covered[..PREFIX + body_len + 32], key_and_signature)?),
    };
    let body = serde_json::from_slice(body).map_err(|err| EnvelopeError::Malformed(err.to_string()))?;
    Ok(Opened { body, key, digest: Digest::of(bytes) })
}

fn verify(covered: &[u8], key_and_signature: &[u8]) -> Result<PublicKey, EnvelopeError> {
    let (key, signature) = key_and_signature.split_first_chunk::<32>().ok_or(EnvelopeError::Signature)?;
    let signature = ed25519_dalek::Signature::from_slice(signature).map_err(|_| EnvelopeError::Signature)?;
    let verifying = ed25519_dalek::VerifyingKey::from_bytes(key).map_err(|_| EnvelopeError::Signature)?;
    verifying.verify_strict(&signed_bytes(covered), &signature).map_err(|_| EnvelopeError::Signature)?;
    Ok(PublicKey(*key))
}

fn signed_bytes(covered: &[u8]) -> Vec<u8> {
    [SIGNING_CONTEXT, &Digest::of(covered).0].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(signed: bool) -> Vec<u8> {
        let key = SigningKey::from_bytes(&[7; 32]);
        seal(Magic::STATE, 1, &"the body", signed.then_some(&key)).unwrap()
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        for signed in [false, true] {
            let good = sealed(signed);
            assert_eq!(open::<String>(Magic::STATE, 1, &good).unwrap().body, "the body");
            for at in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[at / 8] ^= 1 << (at % 8);
                assert!(open::<String>(Magic::STATE, 1, &bad).is_err(), "bit {at}");
            }
            for length in 0..good.len() {
                assert!(open::<String>(Magic::STATE, 1, &good[..length]).is_err(), "cut to {length}");
            }
        }
    }

    #[test]
    fn a_changed_body_under_a_recomputed_digest_is_called_forged() {
        let mut bytes = sealed(true);
        bytes[PREFIX + 1] ^= 1;
        let end = bytes.len() - Digest::LEN;
        let digest = Digest::of(&bytes[..end]);
        bytes[end..].copy_from_slice(&digest.0);
        assert_eq!(open::<String>(Magic::STATE, 1, &bytes).unwrap_err(), EnvelopeError::Signature);
    }
}
