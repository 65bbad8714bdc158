//! Speaks to a running service, as its administrator.
//!
//! Only the authority in the credential is trusted, and no proxy or redirect is followed: the secret goes to the service or
//! nowhere. Deliberately not here: what is asked.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::Args;
use mobility_format::control::ErrorBody;
use mobility_recovery::service::Credential;
use reqwest::{Certificate, Method, blocking::Client, redirect::Policy, tls::Version};
use serde::Serialize;
use serde_json::Value;

use super::{
    exit::NotFound,
    print, print_json,
    table::{Align, render},
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which service, and how its answer is shown.
#[derive(Args)]
pub(super) struct Place {
    /// The administrator's credential, or the directory that it is in
    #[arg(long, value_name = "FILE", default_value = "/var/lib/recovery-service")]
    service: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// A service that can be asked.
pub(super) struct Service {
    client: Client,
    credential: Credential,
}

/// Nothing to say beside the address.
pub(super) const NOTHING: Option<&()> = None;

impl Place {
    /// The service that this credential is for.
    pub(super) fn of(service: PathBuf) -> Place {
        Place { service, json: false }
    }

    /// Says what came of it: the answer itself to a program, `words` to a person.
    pub(super) fn say(&self, answer: &Value, words: &str) -> Result<()> {
        if self.json { print_json(answer) } else { print(&format!("{words}\n")) }
    }

    /// Shows a list: the answer itself to a program, a row for each of `items` to a person.
    pub(super) fn show<const N: usize>(
        &self,
        answer: &Value,
        head: [(&str, Align); N],
        items: &str,
        row: impl Fn(&Value) -> [String; N],
    ) -> Result<()> {
        if self.json {
            return print_json(answer);
        }
        print(&render(head, &list(answer, items).iter().map(row).collect::<Vec<_>>()))
    }

    pub(super) fn connect(&self) -> Result<Service> {
        let credential = Credential::read(&self.service)?;
        rustls::crypto::ring::default_provider().install_default().ok();
        let authority = Certificate::from_pem(credential.authority.as_bytes())
            .context("the credential holds no certificate of an authority")?;
        let client = Client::builder()
            .tls_certs_only([authority])
            .tls_version_min(Version::TLS_1_3)
            .https_only(true)
            .no_proxy()
            .redirect(Policy::none())
            .timeout(PATIENCE)
            .build()?;
        Ok(Service { client, credential })
    }
}

impl Service {
    /// Asks, with a message where there is one.
    pub(super) fn ask(
        &self,
        method: Method,
        path: &[&str],
        message: Option<&impl Serialize>,
    ) -> Result<Value> {
        self.ask_for(method, path, &[], message)
    }

    /// As [`Service::ask`], with something said in the address.
    pub(super) fn ask_for(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        message: Option<&impl Serialize>,
    ) -> Result<Value> {
        let mut url = reqwest::Url::parse(&self.credential.address)
            .with_context(|| format!("'{}' is no address", self.credential.address))?;
        // Each part is escaped: a name with a slash in it names nothing else.
        if let Ok(mut parts) = url.path_segments_mut() {
            parts.clear().extend(["v1", "admin"]).extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.client.request(method, url).bearer_auth(&self.credential.secret);
        if let Some(message) = message {
            request = request.json(message);
        }
        let answer = request.send().with_context(|| format!("ask {}", self.credential.address))?;
        let status = answer.status();
        let body = answer.bytes()?;
        if status.is_success() {
            return serde_json::from_slice(&body).context("the answer cannot be understood");
        }
        let said = serde_json::from_slice::<ErrorBody>(&body)
            .map_or_else(|_| status.to_string(), |body| body.message);
        match status {
            reqwest::StatusCode::NOT_FOUND => Err(NotFound(said).into()),
            _ => anyhow::bail!("the service refuses: {said}"),
        }
    }

    /// All items of a list, page by page.
    pub(super) fn all(&self, path: &[&str], query: &[(&str, String)], items: &str) -> Result<Vec<Value>> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let mut query = query.to_vec();
            query.extend(after.map(|after| ("after", after)));
            let answer = self.ask_for(Method::GET, path, &query, NOTHING)?;
            found.extend_from_slice(list(&answer, items));
            match &answer["next"] {
                Value::Null => return Ok(found),
                next => after = Some(text(next)),
            }
        }
    }
}

/// A text of an answer, as it is shown in a table.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A list in an answer.
pub(super) fn list<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer[name].as_array().map_or(&[], Vec::as_slice)
}
