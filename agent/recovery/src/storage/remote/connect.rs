//! Makes the client of a store from its settings.
//!
//! Deliberately not here: sending anything.

use std::{sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, Certificate, ClientOptions, RetryConfig,
    aws::{AmazonS3Builder, S3ConditionalPut},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
};

use super::{AzureCredentials, Backend, RemoteAccount, RemoteLimits, RemoteSettings, S3Credentials};

pub(super) fn connect(settings: &RemoteSettings) -> object_store::Result<Backend> {
    // The process may have chosen one already, which is then as good.
    rustls::crypto::ring::default_provider().install_default().ok();
    let (options, retry) = (client(settings)?, retry(&settings.limits));
    match &settings.account {
        RemoteAccount::S3 { bucket, region, endpoint, virtual_hosted, credentials } => {
            let mut builder = match credentials {
                S3Credentials::Environment => AmazonS3Builder::from_env(),
                S3Credentials::Key { id, secret } => {
                    AmazonS3Builder::new().with_access_key_id(id).with_secret_access_key(secret.reveal())
                }
            };
            builder = builder
                .with_bucket_name(bucket)
                .with_virtual_hosted_style_request(*virtual_hosted)
                .with_conditional_put(S3ConditionalPut::ETagMatch)
                .with_client_options(options)
                .with_retry(retry);
            if let Some(region) = region {
                builder = builder.with_region(region);
            }
            if let Some(endpoint) = endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            Ok(Backend::S3(Arc::new(builder.build()?)))
        }
        RemoteAccount::Azure { account, container, endpoint, credentials } => {
            let mut builder = match credentials {
                AzureCredentials::Environment => MicrosoftAzureBuilder::from_env(),
                AzureCredentials::Key(key) => MicrosoftAzureBuilder::new().with_access_key(key.reveal()),
                AzureCredentials::Signature(signature) => {
                    MicrosoftAzureBuilder::new().with_config(AzureConfigKey::SasKey, signature.reveal())
                }
                AzureCredentials::Bearer(token) => {
                    MicrosoftAzureBuilder::new().with_bearer_token_authorization(token.reveal())
                }
            };
            builder = builder
                .with_account(account)
                .with_container_name(container)
                .with_client_options(options)
                .with_retry(retry);
            if let Some(endpoint) = endpoint {
                builder = builder.with_endpoint(endpoint.clone());
            }
            Ok(Backend::Azure(Arc::new(builder.build()?)))
        }
    }
}

fn client(settings: &RemoteSettings) -> object_store::Result<ClientOptions> {
    let mut options = ClientOptions::new()
        .with_allow_http(settings.allow_http)
        .with_connect_timeout(settings.limits.connect)
        .with_timeout(settings.limits.request);
    for certificate in Certificate::from_pem_bundle(settings.authorities.as_deref().unwrap_or_default())? {
        options = options.with_root_certificate(certificate);
    }
    Ok(options)
}

fn retry(limits: &RemoteLimits) -> RetryConfig {
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(10),
        base: 2.0,
    };
    RetryConfig { backoff, max_retries: limits.retries, retry_timeout: limits.give_up }
}
