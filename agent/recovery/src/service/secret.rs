//! Random secrets, how they are kept and how they are compared.
//!
//! A secret that the service only has to recognise is stored as its SHA-256; 256 random bits need no slower hash. Nothing here
//! can be printed. Deliberately not here: certificates (`authority`).

use ring::{
    digest::{SHA256, digest},
    hmac,
    rand::{SecureRandom, SystemRandom},
};

/// The system gives no random numbers.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random numbers")]
pub(crate) struct NoRandomness;

/// `N` bytes that nobody can guess.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").ok();
        text
    })
}

/// The bytes that `text` stands for, where it is lower-case hexadecimal digits.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}

/// SHA-256, as text.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

/// A secret that is recognised and never shown again. Comparing takes the same time whatever is presented.
pub(crate) struct Recognised {
    key: hmac::Key,
    tag: hmac::Tag,
}

impl Recognised {
    pub(crate) fn new(secret: &str) -> Result<Recognised, NoRandomness> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()?);
        let tag = hmac::sign(&key, secret.as_bytes());
        Ok(Recognised { key, tag })
    }

    pub(crate) fn is(&self, presented: &str) -> bool {
        hmac::verify(&self.key, presented.as_bytes(), self.tag.as_ref()).is_ok()
    }
}

/// Signs texts that only this service has to recognise.
pub(crate) struct Sealer(hmac::Key);

impl Sealer {
    pub(crate) fn new(key: &[u8]) -> Sealer {
        Sealer(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    pub(crate) fn seal(&self, text: &str) -> String {
        hex(hmac::sign(&self.0, text.as_bytes()).as_ref())
    }

    pub(crate) fn is_sealed(&self, text: &str, seal: &str) -> bool {
        unhex(seal).is_some_and(|seal| hmac::verify(&self.0, text.as_bytes(), &seal).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_recognised_and_nothing_else_is() {
        let secret = Recognised::new("open sesame").unwrap();
        assert!(secret.is("open sesame"));
        for other in ["", "open", "open sesamE", "open sesame "] {
            assert!(!secret.is(other), "{other}");
        }
    }

    #[test]
    fn a_seal_is_good_for_its_text_and_its_key_alone() {
        let (sealer, other) = (Sealer::new(&[1; 32]), Sealer::new(&[2; 32]));
        let seal = sealer.seal("text");
        assert!(sealer.is_sealed("text", &seal));
        assert!(!sealer.is_sealed("texT", &seal) && !other.is_sealed("text", &seal));
        for bad in ["", "00", "zz", &seal[..62], &seal.to_uppercase(), &format!("{seal}00"), &seal[1..]] {
            assert!(!sealer.is_sealed("text", bad), "{bad}");
        }
    }

    #[test]
    fn hexadecimal_digits_are_read_back() {
        assert_eq!(unhex(&hex(&[0, 1, 0xaf, 0xff])), Some(vec![0, 1, 0xaf, 0xff]));
        for bad in ["a", "0g", "AA", "é"] {
            assert_eq!(unhex(bad), None, "{bad}");
        }
    }
}
