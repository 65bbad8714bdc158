//! Opens the settings that the platform has encrypted for this machine.
//!
//! They are CMS (RFC 5652) for a certificate whose key the guest agent keeps; `openssl` opens them, which is wherever that agent
//! is, because it needs it itself. What comes out stays in memory. Deliberately not here: cryptography of our own.

use std::{path::Path, process::Command, time::Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    child,
    failure::{Cause, Failure},
    secrets::Secrets,
    settings::{Protected, Sealed},
};

/// Decrypts with what is in `certificates`.
pub(crate) fn open(
    sealed: &Sealed,
    certificates: Option<&Path>,
    secrets: &mut Secrets,
    end: Instant,
) -> Result<Protected, Failure> {
    let cannot =
        |why: String| Failure::settings(format!("the protected settings cannot be decrypted: {why}"));
    // The standard wants lines in such texts, and some tools keep to it.
    let packed: String = sealed.content.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let content = STANDARD.decode(packed).map_err(|err| cannot(format!("no base64: {err}")))?;
    let dir = certificates.ok_or_else(|| cannot("nobody knows where the certificates are".to_owned()))?;
    let [certificate, key] = ["crt", "prv"].map(|suffix| dir.join(format!("{}.{suffix}", sealed.thumbprint)));
    if !certificate.exists() || !key.exists() {
        return Err(cannot(format!(
            "{} does not hold the certificate that they are for, and its key",
            dir.display()
        )));
    }
    // Where only approved algorithms may be used the first works, on old systems the second.
    let mut first = None;
    for tool in ["cms", "smime"] {
        let mut command = Command::new("openssl");
        command
            .args([tool, "-decrypt", "-inform", "DER", "-recip"])
            .arg(&certificate)
            .arg("-inkey")
            .arg(&key);
        let outcome = child::run(command, &content, end)?;
        if outcome.succeeded() {
            return Protected::parse(&outcome.output, secrets);
        }
        if outcome.late {
            return Err(Failure::new(Cause::Other, format!("openssl {tool}: {}", outcome.reason())));
        }
        first.get_or_insert_with(|| outcome.reason());
    }
    Err(cannot(first.unwrap_or_default()))
}
