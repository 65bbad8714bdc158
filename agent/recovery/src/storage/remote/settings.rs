//! Which object store, and how to get in.
//!
//! Deliberately not here: where these settings are written down.

use std::{fmt, time::Duration};

/// Something that must not get into a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text`.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// A place in an object store.
#[derive(Clone, Debug)]
pub struct RemoteSettings {
    /// Which store.
    pub account: RemoteAccount,
    /// What all keys start with, without slashes around it; may be empty.
    pub prefix: String,
    /// Certificates, in PEM, of authorities that are trusted beside the system's.
    pub authorities: Option<Vec<u8>>,
    /// Whether an endpoint without TLS is taken. Only for tests, and for a store on the same machine.
    pub allow_http: bool,
    /// How long to wait and how often to try.
    pub limits: RemoteLimits,
}

impl RemoteSettings {
    /// What people call it: the scheme, the container, the prefix.
    #[must_use]
    pub fn name(&self) -> String {
        let container = match &self.account {
            RemoteAccount::S3 { bucket, .. } => format!("s3://{bucket}"),
            RemoteAccount::Azure { account, container, .. } => format!("azure://{account}/{container}"),
        };
        if self.prefix.is_empty() { container } else { format!("{container}/{}", self.prefix) }
    }
}

/// A container of objects, and who we are there.
#[derive(Clone, Debug)]
pub enum RemoteAccount {
    /// S3, or a store that speaks its protocol.
    S3 {
        /// The bucket.
        bucket: String,
        /// The region; `us-east-1` where there is none.
        region: Option<String>,
        /// The address, where it is not Amazon's: without the bucket.
        endpoint: Option<String>,
        /// Whether the bucket is part of the host name instead of the path.
        virtual_hosted: bool,
        /// Who we are.
        credentials: S3Credentials,
    },
    /// Azure Blob Storage.
    Azure {
        /// The storage account.
        account: String,
        /// The container.
        container: String,
        /// The address, where it is not Azure's own: with the account, without the container.
        endpoint: Option<String>,
        /// Who we are.
        credentials: AzureCredentials,
    },
}

/// How to sign in to S3.
#[derive(Clone, Debug)]
pub enum S3Credentials {
    /// By a key.
    Key {
        /// Its name.
        id: String,
        /// The key.
        secret: Secret,
    },
    /// By what the environment offers: `AWS_*` variables, a web identity, the instance's role.
    Environment,
}

/// How to sign in to Azure.
#[derive(Clone, Debug)]
pub enum AzureCredentials {
    /// By the account's key, in Base64.
    Key(Secret),
    /// By a shared access signature of the container: what an address has behind its question mark.
    Signature(Secret),
    /// By a token that somebody else renews: for tests.
    Bearer(Secret),
    /// By what the environment offers: `AZURE_*` variables, a workload's or a managed identity.
    Environment,
}

/// Limits of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteLimits {
    /// How long connecting may take.
    pub connect: Duration,
    /// How long one try may take, the body included.
    pub request: Duration,
    /// How often a request is tried again after an answer that promises that it may succeed.
    pub retries: usize,
    /// When it is not tried again any more, since the first try.
    pub give_up: Duration,
}

impl Default for RemoteLimits {
    fn default() -> Self {
        RemoteLimits {
            connect: Duration::from_secs(5),
            request: Duration::from_secs(60),
            retries: 4,
            give_up: Duration::from_secs(120),
        }
    }
}
