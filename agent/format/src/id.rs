//! Names of things: machines, disks, sessions, and the digests that pin content.
//!
//! Each has one text form, lower-case hexadecimal, used in object keys, logs and on the command line. Deliberately not
//! here: how a disk's identity is found on a machine (that is `mobility-capture`'s).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A text that is not the expected number of hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not {digits} lower-case hexadecimal digits")]
pub struct NotHex {
    /// The text, cut to 80 characters.
    pub text: String,
    /// How many digits there should be.
    pub digits: usize,
}

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn unhex<const N: usize>(text: &str) -> Result<[u8; N], NotHex> {
    let err = || NotHex { text: text.chars().take(80).collect(), digits: 2 * N };
    if text.len() != 2 * N || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(err());
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| err())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| err())?;
    }
    Ok(out)
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $bytes;
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                hex(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                hex(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = NotHex;
            fn from_str(text: &str) -> Result<Self, NotHex> {
                unhex(text).map($name)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

hex_id! {
    /// A protected machine. Given at enrolment (in debug mode: drawn at random when the vault first sees the machine).
    MachineId, 16
}

hex_id! {
    /// A disk, by what stays the same when device names change: derived from its serial number, WWN or, for an image
    /// file, its path.
    DiskId, 16
}

hex_id! {
    /// One run of the agent's process. It is part of every segment's key, so that an agent that was killed and started
    /// again can never collide with, or be mistaken for, what the earlier one had sent.
    SessionId, 8
}

hex_id! {
    /// A BLAKE3 digest of 256 bits.
    Digest, 32
}

hex_id! {
    /// An Ed25519 public key, which verifies the recovery points of a machine.
    PublicKey, 32
}

hex_id! {
    /// An Ed25519 signature (RFC 8032).
    Signature, 64
}

impl Digest {
    /// The digest of nothing: stands for "there is no predecessor".
    pub const NONE: Digest = Digest([0; 32]);

    /// The BLAKE3 digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(*blake3::hash(bytes).as_bytes())
    }
}

impl DiskId {
    /// The id of the disk that the machine knows by `identity`, a text such as `serial:…` or `file:/…`.
    #[must_use]
    pub fn derive(identity: &str) -> DiskId {
        let digest = blake3::derive_key("mobility-agent 2026 disk id", identity.as_bytes());
        let mut id = [0; DiskId::LEN];
        id.copy_from_slice(&digest[..DiskId::LEN]);
        DiskId(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_nothing_else_is_accepted() {
        let id = DiskId::derive("serial:S3Z8NB0K");
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "0", &"g".repeat(32), &id.to_string().to_uppercase(), &"0".repeat(33), "é"] {
            assert!(bad.parse::<DiskId>().is_err(), "{bad}");
        }
    }
}
