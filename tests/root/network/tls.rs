//! Whether what went over a connection is TLS 1.3 and nothing else: by its records from the first to the last byte,
//! and by what both sides say in their hellos.
//!
//! The version in a record's head says nothing (RFC 8446, 5.1): what counts is the extension `supported_versions`.
//! Deliberately not here: what is inside, and whether certificates are right (`link`).

/// The version 1.3 as the extension has it.
const TLS13: u16 = 0x0304;
/// The extension `supported_versions`.
const SUPPORTED_VERSIONS: u16 = 43;

const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// One side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// Demands that `bytes`, all that one side sent, are of TLS 1.3 alone. The last record may be cut off.
pub(crate) fn demand_tls13(side: Side, bytes: &[u8]) -> Result<(), String> {
    let (mut rest, mut sealed, mut hellos) = (bytes, false, 0);
    while rest.len() >= 5 {
        let kind = rest[0];
        let length = usize::from(u16::from_be_bytes([rest[3], rest[4]]));
        if rest[1] != 3 {
            return Err(format!("no record of TLS: {:?}", &rest[..5]));
        }
        let body = &rest[5..rest.len().min(5 + length)];
        match kind {
            // One of a client that was asked for another hello comes after the one byte that means nothing any more.
            HANDSHAKE if !sealed && body.len() == length => {
                hellos += 1;
                demand_hello(side, body)?;
            }
            HANDSHAKE if !sealed => {}
            CHANGE_CIPHER_SPEC if body == [1] => {}
            APPLICATION_DATA if hellos > 0 => sealed = true,
            other => return Err(format!("a record of kind {other} in the open, after {hellos} hellos")),
        }
        rest = &rest[5 + body.len()..];
    }
    Ok(())
}

/// Bytes that are read from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or("a hello ends too soon")?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self, bytes: usize) -> Result<usize, String> {
        Ok(self.take(bytes)?.iter().fold(0, |number, &byte| number << 8 | usize::from(byte)))
    }

    /// What comes with its length in so many bytes before it.
    fn counted(&mut self, bytes: usize) -> Result<&'a [u8], String> {
        let length = self.number(bytes)?;
        self.take(length)
    }
}

/// Demands that a hello speaks of TLS 1.3 and of no other version.
fn demand_hello(side: Side, record: &[u8]) -> Result<(), String> {
    let mut message = Reader(record);
    let kind = message.number(1)?;
    if kind != if side == Side::Client { 1 } else { 2 } {
        return Err(format!("message {kind} of the handshake is in the open"));
    }
    let mut hello = Reader(message.counted(3)?);
    hello.take(2 + 32)?;
    hello.counted(1)?;
    match side {
        Side::Client => drop((hello.counted(2)?, hello.counted(1)?)),
        Side::Server => drop((hello.take(2)?, hello.take(1)?)),
    }
    let mut extensions = Reader(hello.counted(2).unwrap_or_default());
    while !extensions.0.is_empty() {
        let name = extensions.number(2)?;
        let mut body = Reader(extensions.counted(2)?);
        if name != usize::from(SUPPORTED_VERSIONS) {
            continue;
        }
        let versions = if side == Side::Client { body.counted(1)? } else { body.take(2)? };
        return match versions == TLS13.to_be_bytes() {
            true => Ok(()),
            false => Err(format!("the {side:?} says versions {versions:02x?}")),
        };
    }
    Err(format!("the {side:?} says no version: it is older than TLS 1.3"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{
        ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion,
        version::{TLS12, TLS13},
    };

    use super::*;

    fn hello(versions: &[&'static SupportedProtocolVersion]) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(config), "host.example".try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn only_a_hello_of_tls_1_3_alone_will_do() {
        let right = hello(&[&TLS13]);
        assert_eq!(demand_tls13(Side::Client, &right), Ok(()));
        for versions in [&[&TLS12][..], &[&TLS12, &TLS13]] {
            assert!(demand_tls13(Side::Client, &hello(versions)).is_err(), "{versions:?}");
        }
        let more = |record: &[u8]| demand_tls13(Side::Client, &[&right, record].concat());
        assert_eq!(more(&[20, 3, 3, 0, 1, 1, 23, 3, 3, 0, 2, 7, 7, 23, 3, 3, 9, 9, 1]), Ok(()));
        assert!(more(&[22, 3, 3, 0, 4, 11, 0, 0, 0]).is_err(), "a certificate in the open");
        assert!(more(&[21, 3, 3, 0, 2, 1, 0]).is_err(), "an alert in the open");
        assert!(more(b"GET / HTTP/1.1\r\n").is_err());
        assert!(demand_tls13(Side::Client, &[23, 3, 3, 0, 1, 1]).is_err(), "data before any hello");
    }
}
